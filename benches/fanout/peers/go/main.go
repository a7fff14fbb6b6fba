// Go's net/http with one channel per client and a hub that goes over them: lines of standard input
// are events.
package main

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"os"
	"sync"
)

// Events that may wait for one client: those of the largest burst that is measured, and some.
const queue = 1024

var (
	lock    sync.Mutex
	clients = map[chan []byte]struct{}{}
)

func events(writer http.ResponseWriter, request *http.Request) {
	flusher := writer.(http.Flusher)
	writer.Header().Set("Content-Type", "text/event-stream")
	writer.Header().Set("Cache-Control", "no-cache")
	flusher.Flush()
	frames := make(chan []byte, queue)
	lock.Lock()
	clients[frames] = struct{}{}
	lock.Unlock()
	defer func() {
		lock.Lock()
		delete(clients, frames)
		lock.Unlock()
	}()
	for {
		select {
		case frame := <-frames:
			if _, err := writer.Write(frame); err != nil {
				return
			}
			flusher.Flush()
		case <-request.Context().Done():
			return
		}
	}
}

func publish() {
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(make([]byte, 64*1024), 1024*1024)
	for id := 1; lines.Scan(); id++ {
		frame := []byte(fmt.Sprintf("id: %d\nevent: session-output\ndata: %s\n\n", id, lines.Bytes()))
		lock.Lock()
		for client := range clients {
			select {
			case client <- frame:
			default: // A client whose queue is full loses the event.
			}
		}
		lock.Unlock()
	}
	os.Exit(0)
}

func main() {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	fmt.Printf("listening on http://%s\n", listener.Addr())
	go publish()
	http.HandleFunc("/events", events)
	panic(http.Serve(listener, nil))
}
