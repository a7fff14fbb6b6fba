//! Clients that go away while their request waits: their place is free again at once, and one that
//! has only said that it will send no more is not taken for one of them.

mod support;

use serde_json::{Value, json};
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::os::unix::net::UnixStream;
use std::process::{Child, Command, Stdio};
use support::{Options, Server, eventually, need};

/// A server with two places for those who wait, and a session there with nothing to be told.
fn crowded() -> (Server, String, String) {
    let options = Options::new();
    let socket = options.scratch().join("socket");
    let listen = format!("unix:{socket}");
    let flags = ["--agent", "demo", "--waits-max", "2", "--listen", &listen];
    let server = options.flags(&flags).start();
    let session = server.create();
    (server, session, socket)
}

/// The cursor behind which there is nothing.
fn newest(server: &Server, session: &str) -> String {
    let told = server.get(&format!("/api/session/{session}")).expect(200).json();
    told["lastEventId"].as_str().unwrap().to_owned()
}

/// What the next one that wants to wait is answered.
fn next(server: &Server, session: &str) -> u16 {
    let path = format!("/api/session/{session}/events/poll?wait=1&after=");
    server.get(&(path + &newest(server, session))).status
}

/// The place is taken, and then it is free: the next one that waits is let wait.
#[track_caller]
fn released(server: &Server, session: &str, leave: impl FnOnce()) {
    let waiting = |count: u32| {
        let text = server.get("/metrics").expect(200).text();
        text.contains(&format!("\nsidestream_requests_waiting {count}\n"))
    };
    eventually("one place is taken", || waiting(1));
    // The other one is for looking at the metrics until here.
    let mut other = TcpStream::connect(server.address).unwrap();
    ask(server, session, &mut other);
    eventually("both places are taken", || waiting(2));
    assert_eq!(next(server, session), 503);
    leave();
    // Long before the wait of a minute is over.
    eventually("the place is free", || next(server, session) == 200);
}

/// Asks for what comes after the newest event, which waits.
fn ask(server: &Server, session: &str, stream: &mut impl Write) {
    let path = format!("/api/session/{session}/events/poll?wait=60&after=");
    let path = path + &newest(server, session);
    let head = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    stream.write_all(head.as_bytes()).unwrap();
}

#[test]
fn a_closed_connection_frees_its_place() {
    let (server, session, _) = crowded();
    let mut stream = TcpStream::connect(server.address).unwrap();
    ask(&server, &session, &mut stream);
    released(&server, &session, || drop(stream));
}

#[test]
fn a_reset_connection_frees_its_place() {
    need("python3");
    let (server, session, _) = crowded();
    // std cannot set SO_LINGER: zero seconds make a close a reset.
    let code = "import socket, struct, sys
s = socket.create_connection(('127.0.0.1', int(sys.argv[1])))
s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack('ii', 1, 0))
s.sendall(sys.argv[2].encode())
sys.stdin.read()
s.close()";
    let mut head = Vec::new();
    ask(&server, &session, &mut head);
    let mut client: Child = Command::new("python3")
        .args(["-c", code, &server.address.port().to_string()])
        .arg(String::from_utf8(head).unwrap())
        .stdin(Stdio::piped())
        .spawn()
        .unwrap();
    released(&server, &session, || drop(client.stdin.take()));
    assert!(client.wait().unwrap().success());
}

#[test]
fn one_that_has_asked_for_more_than_is_read_frees_its_place() {
    let more = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n".repeat(1_000);
    let (server, session, _) = crowded();
    let mut stream = TcpStream::connect(server.address).unwrap();
    ask(&server, &session, &mut stream);
    stream.write_all(more.as_bytes()).unwrap();
    released(&server, &session, || drop(stream));
    let (server, session, socket) = crowded();
    let mut stream = UnixStream::connect(socket).unwrap();
    ask(&server, &session, &mut stream);
    stream.write_all(more.as_bytes()).unwrap();
    released(&server, &session, || drop(stream));
}

#[test]
fn a_closed_unix_socket_frees_its_place() {
    let (server, session, socket) = crowded();
    let mut stream = UnixStream::connect(socket).unwrap();
    ask(&server, &session, &mut stream);
    released(&server, &session, || drop(stream));
}

#[test]
fn one_that_sends_no_more_still_gets_its_answer_and_may_leave_later() {
    let (server, session, socket) = crowded();
    // Over TCP: it waits on, and is told.
    let mut stream = TcpStream::connect(server.address).unwrap();
    ask(&server, &session, &mut stream);
    stream.shutdown(Shutdown::Write).unwrap();
    // It is looked at every second, and not taken for gone while others wait for three.
    for _ in 0..3 {
        assert_eq!(next(&server, &session), 200);
    }
    server.prompt(&session, "say: hello");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200 "), "{answer}");
    let body: Value = serde_json::from_str(answer.split("\r\n\r\n").nth(1).unwrap()).unwrap();
    assert_eq!(body["events"][0]["event"], json!("prompt-queued"), "{body}");
    eventually("the turn is over", || server.status(&session) == "idle");

    // Over a Unix socket: likewise, and gone when it goes.
    let mut stream = UnixStream::connect(socket).unwrap();
    ask(&server, &session, &mut stream);
    stream.shutdown(Shutdown::Write).unwrap();
    released(&server, &session, || drop(stream));

    // Over TCP nothing is sent when it goes: it is seen at the next look.
    let mut stream = TcpStream::connect(server.address).unwrap();
    ask(&server, &session, &mut stream);
    stream.shutdown(Shutdown::Write).unwrap();
    released(&server, &session, || drop(stream));
}

/// A proxy hangs up on us when its client has hung up on it.
#[test]
fn a_client_that_leaves_a_proxy_frees_its_place() {
    use support::proxy::{Proxy, Whose};
    let (server, session, _) = crowded();
    let lines =
        "proxy_http_version 1.1; proxy_set_header Connection ''; proxy_set_header Host localhost;";
    let proxy = Proxy::before(server.address, Whose::Ours, lines);
    let mut stream = TcpStream::connect(proxy.address()).unwrap();
    ask(&server, &session, &mut stream);
    released(&server, &session, || drop(stream));
}
