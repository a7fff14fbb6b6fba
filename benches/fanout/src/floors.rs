//! The floors: what the kernel charges for a thing, and next to nothing beside it. Each is the
//! shortest loop that does the work, without anything that a server for people would need.

use crate::wire::{FRAME_MARK, frame};
use rustix::event::{PollFd, PollFlags, Timespec, epoll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrV4, SocketFlags, SocketType, sockopt};
use rustix::pipe::SpliceFlags;
use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Duration, Instant};

const LISTENER: u64 = u64::MAX;
const INPUT: u64 = u64::MAX - 1;
/// Answers every request, whatever it asks for.
const HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n";
/// How often the floor of heartbeats looks who is due.
const BEAT_TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
/// What the coalescing floor keeps of the past.
const LOG_SIZE: usize = 4 << 20;

/// Which floor.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Floor {
    /// One `send` per frame and client.
    Send,
    /// One `send` per client for all frames that are there.
    Coalesced,
    /// Accepts, and does nothing else.
    Idle,
    /// Splices its input to its one client.
    Relay,
    /// Reads its input and drops it.
    Sink,
    /// Sends each client a heartbeat every so often.
    Beat(Duration),
}

struct Client {
    socket: OwnedFd,
    /// The coalescing floor: up to where the log is sent.
    position: u64,
}

/// Serves as a floor until its input ends.
pub fn serve(floor: Floor) -> rustix::io::Result<()> {
    let mut server = Server::new(floor)?;
    if floor == Floor::Relay {
        return server.relay();
    }
    server.run()
}

struct Server {
    floor: Floor,
    epoll: OwnedFd,
    listener: OwnedFd,
    clients: Vec<Client>,
    /// The newest bytes; the first one's position is `log_start`.
    log: Vec<u8>,
    log_start: u64,
    number: u64,
}

impl Server {
    fn new(floor: Floor) -> rustix::io::Result<Server> {
        let (listener, port) = listen()?;
        let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
        epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
        let stdin = std::io::stdin();
        fcntl_setfl(stdin.as_fd(), OFlags::NONBLOCK)?;
        if floor != Floor::Relay {
            epoll::add(&epoll, &stdin, epoll::EventData::new_u64(INPUT), epoll::EventFlags::IN)?;
        }
        println!("listening on http://127.0.0.1:{port}");
        let (log, clients) = (Vec::with_capacity(2 * LOG_SIZE), Vec::new());
        Ok(Server { floor, epoll, listener, clients, log, log_start: 0, number: 0 })
    }

    fn run(&mut self) -> rustix::io::Result<()> {
        let mut events = Vec::with_capacity(1024);
        let mut input = vec![0; 256 * 1024];
        let mut partial = Vec::new();
        let mut beats = Beats::new(self.floor);
        loop {
            let timeout = beats.as_ref().map(|_| BEAT_TICK);
            events.clear();
            epoll::wait(
                &self.epoll,
                rustix::buffer::spare_capacity(&mut events),
                timeout.as_ref(),
            )?;
            for event in &events {
                match event.data.u64() {
                    LISTENER => self.accept()?,
                    INPUT => match rustix::io::read(std::io::stdin(), &mut *input) {
                        Ok(0) => return Ok(()),
                        Ok(_) if self.floor == Floor::Sink => {}
                        Ok(count) => self.input(&mut partial, &input[..count]),
                        Err(Errno::AGAIN | Errno::INTR) => {}
                        Err(error) => return Err(error),
                    },
                    index => self.client(index as usize),
                }
            }
            if let Some(beats) = &mut beats {
                beats.send(&self.clients);
            }
        }
    }

    fn accept(&mut self) -> rustix::io::Result<()> {
        let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
        let Ok(socket) = rustix::net::accept_with(&self.listener, flags) else { return Ok(()) };
        sockopt::set_tcp_nodelay(&socket, true)?;
        let data = epoll::EventData::new_u64(self.clients.len() as u64);
        let interest = epoll::EventFlags::IN | epoll::EventFlags::OUT | epoll::EventFlags::ET;
        epoll::add(&self.epoll, &socket, data, interest)?;
        self.clients.push(Client { socket, position: u64::MAX });
        Ok(())
    }

    /// A client has sent its request, has ended, or takes bytes again.
    fn client(&mut self, index: usize) {
        let mut request = [0; 1024];
        if let Ok(1..) = rustix::io::read(&self.clients[index].socket, &mut request) {
            let _ = rustix::net::send(&self.clients[index].socket, HEAD, SendFlags::NOSIGNAL);
            self.clients[index].position = self.log_end();
        } else if self.floor == Floor::Coalesced {
            self.catch_up(index);
        }
    }

    fn log_end(&self) -> u64 {
        self.log_start + self.log.len() as u64
    }

    fn input(&mut self, partial: &mut Vec<u8>, bytes: &[u8]) {
        partial.extend_from_slice(bytes);
        let mut start = 0;
        while let Some(length) = memchr::memchr(b'\n', &partial[start..]) {
            self.number += 1;
            let before = self.log.len();
            frame(&mut self.log, self.number, &partial[start..start + length]);
            start += length + 1;
            if self.floor == Floor::Send {
                for client in &self.clients {
                    send_all(&client.socket, &self.log[before..]);
                }
                self.log.clear();
            }
        }
        partial.drain(..start);
        if self.floor == Floor::Coalesced {
            for index in 0..self.clients.len() {
                self.catch_up(index);
            }
            if self.log.len() > LOG_SIZE {
                let gone = self.log.len() - LOG_SIZE;
                self.log.drain(..gone);
                self.log_start += gone as u64;
            }
        }
    }

    fn catch_up(&mut self, index: usize) {
        let end = self.log_end();
        let client = &mut self.clients[index];
        if client.position == u64::MAX || client.position == end {
            return;
        }
        let from = client.position.saturating_sub(self.log_start) as usize;
        if let Ok(count) = rustix::net::send(&client.socket, &self.log[from..], SendFlags::NOSIGNAL)
        {
            client.position = self.log_start + (from + count) as u64;
        }
    }

    fn relay(&mut self) -> rustix::io::Result<()> {
        let mut events = Vec::with_capacity(1);
        epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        let socket = rustix::net::accept(&self.listener)?;
        sockopt::set_tcp_nodelay(&socket, true)?;
        let mut request = [0; 1024];
        rustix::io::read(&socket, &mut request)?;
        send_all(&socket, HEAD);
        let stdin = std::io::stdin();
        fcntl_setfl(stdin.as_fd(), OFlags::empty())?;
        // A splice that waits for the socket would keep the pipe locked against its writer.
        fcntl_setfl(&socket, OFlags::NONBLOCK)?;
        loop {
            match rustix::pipe::splice(&stdin, None, &socket, None, 1 << 20, SpliceFlags::MOVE) {
                Ok(0) => return Ok(()),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    let mut fds = [PollFd::new(&socket, PollFlags::OUT)];
                    rustix::event::poll(&mut fds, None)?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

/// Sends everything, and waits for room if it must.
fn send_all(socket: &OwnedFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        match rustix::net::send(socket, bytes, SendFlags::NOSIGNAL) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) => std::thread::yield_now(),
            Err(_) => return,
        }
    }
}

/// Heartbeats, spread evenly over the clients.
struct Beats {
    every: Duration,
    start: Instant,
    sent: u64,
    frame: Vec<u8>,
}

impl Beats {
    fn new(floor: Floor) -> Option<Beats> {
        let Floor::Beat(every) = floor else { return None };
        let data = format!(
            "{{\"_eventType\":\"heartbeat\",\"sessionId\":\"session-1700000000000-\
            0123456789ab\",\"timestamp\":1700000000000}}{}",
            char::from(FRAME_MARK)
        );
        let frame = format!("event: heartbeat\ndata: {data}\n\n").into_bytes();
        Some(Beats { every, start: Instant::now(), sent: 0, frame })
    }

    fn send(&mut self, clients: &[Client]) {
        let rounds = self.start.elapsed().as_secs_f64() / self.every.as_secs_f64();
        let due = (rounds * clients.len() as f64) as u64;
        // Those that came late are not owed the past.
        self.sent = self.sent.max(due.saturating_sub(clients.len() as u64));
        while self.sent < due {
            send_all(&clients[self.sent as usize % clients.len()].socket, &self.frame);
            self.sent += 1;
        }
    }
}

/// Sends a file to whoever connects, many at a time.
pub fn serve_file(path: &str) -> rustix::io::Result<()> {
    let (listener, port) = listen()?;
    println!("listening on http://127.0.0.1:{port}");
    let file =
        File::open(path).map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
    let size = file.metadata().map_or(0, |metadata| metadata.len());
    let epoll = epoll::create(epoll::CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, &listener, epoll::EventData::new_u64(LISTENER), epoll::EventFlags::IN)?;
    let stdin = std::io::stdin();
    epoll::add(&epoll, &stdin, epoll::EventData::new_u64(INPUT), epoll::EventFlags::IN)?;
    let mut clients: Vec<(OwnedFd, u64)> = Vec::new();
    let mut events = Vec::with_capacity(1024);
    loop {
        events.clear();
        epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None)?;
        for event in &events {
            match event.data.u64() {
                INPUT => return Ok(()),
                LISTENER => {
                    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
                    let Ok(socket) = rustix::net::accept_with(&listener, flags) else { continue };
                    let data = epoll::EventData::new_u64(clients.len() as u64);
                    let interest = epoll::EventFlags::OUT | epoll::EventFlags::ET;
                    send_all(&socket, HEAD);
                    epoll::add(&epoll, &socket, data, interest)?;
                    clients.push((socket, 0));
                }
                index => {
                    let (socket, at) = &mut clients[index as usize];
                    while *at < size
                        && rustix::fs::sendfile(&socket, &file, Some(at), 256 * 1024).is_ok()
                    {
                    }
                }
            }
        }
    }
}

fn listen() -> rustix::io::Result<(OwnedFd, u16)> {
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let listener = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&listener, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, 0))?;
    rustix::net::listen(&listener, 4096)?;
    let address = rustix::net::getsockname(&listener)?;
    let port = SocketAddrV4::try_from(address).map_or(0, |address| address.port());
    Ok((listener, port))
}
