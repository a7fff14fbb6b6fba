//! The load generator's clients: thousands of streams read by one thread, without blocking.
//!
//! A delivery is one [`FRAME_MARK`] in what a client reads, so nothing has to be parsed and it does
//! not matter how frames are cut. Clients come from many loopback addresses, so that ports never
//! run out, and leave by reset, so that they leave nothing behind.

use crate::wire::FRAME_MARK;
use rustix::event::{Timespec, epoll};
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType, sockopt};
use std::net::{Ipv4Addr, SocketAddrV4};
use std::os::fd::OwnedFd;
use std::time::{Duration, Instant};

/// Clients that connect before the first of them has its answer.
const AT_ONCE: usize = 128;
/// Addresses that clients come from: 127.0.0.2 and on.
const ADDRESSES: usize = 64;

/// Many streams of one server.
pub struct Readers {
    epoll: OwnedFd,
    sockets: Vec<OwnedFd>,
    buffer: Vec<u8>,
    events: Vec<epoll::Event>,
    /// Deliveries since the start.
    pub delivered: u64,
    /// Bytes since the start.
    pub bytes: u64,
    /// Sockets that had something to read, since the start: answers, while clients connect.
    reads: u64,
    /// Clients that the server has hung up on.
    pub lost: u64,
    /// What a delivery is counted by.
    pub mark: u8,
    /// Bytes are counted, and not looked at: reading costs next to nothing.
    pub discard: bool,
    /// When each delivery came, if that is wanted.
    pub arrivals: Option<Vec<Instant>>,
}

impl Readers {
    /// Nobody yet.
    pub fn new() -> rustix::io::Result<Readers> {
        Ok(Readers {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            sockets: Vec::new(),
            buffer: vec![0; 256 * 1024],
            events: Vec::with_capacity(1024),
            delivered: 0,
            bytes: 0,
            reads: 0,
            lost: 0,
            mark: FRAME_MARK,
            discard: false,
            arrivals: None,
        })
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Connects until there are `count`, each sending `request` and waiting for its answer's first
    /// bytes. Of every `stalled_of` one never reads a byte (0: none).
    ///
    /// # Errors
    /// A sentence, when the server refuses or says nothing.
    pub fn connect(
        &mut self,
        port: u16,
        request: &[u8],
        count: usize,
        stalled_of: usize,
    ) -> Result<(), String> {
        let mut answers = 0;
        let start = self.reads;
        while self.sockets.len() < count {
            for _ in 0..AT_ONCE.min(count - self.sockets.len()) {
                let index = self.sockets.len();
                let stalled = stalled_of > 0 && index % stalled_of == 0;
                self.connect_one(port, request, stalled)?;
                answers += u64::from(!stalled);
            }
            let deadline = Instant::now() + Duration::from_secs(30);
            // At least one read each: some answer in several.
            while self.reads - start < answers {
                if Instant::now() > deadline {
                    return Err(format!("{} of {} clients were answered", self.reads, count));
                }
                self.pump(Duration::from_millis(100));
            }
        }
        self.settle();
        if self.lost > 0 {
            return Err(format!("{} of {count} clients were hung up on", self.lost));
        }
        Ok(())
    }

    /// Connects so many at once and waits for no answer.
    ///
    /// # Errors
    /// A sentence, when the server refuses.
    pub fn connect_unsettled(
        &mut self,
        port: u16,
        request: &[u8],
        count: usize,
    ) -> Result<(), String> {
        (0..count).try_for_each(|_| self.connect_one(port, request, false))
    }

    fn connect_one(&mut self, port: u16, request: &[u8], stalled: bool) -> Result<(), String> {
        let index = self.sockets.len();
        let told = |error: Errno| format!("client {index}: {error}");
        let socket = connect(port, index % ADDRESSES).map_err(told)?;
        rustix::net::send(&socket, request, SendFlags::NOSIGNAL).map_err(told)?;
        if !stalled {
            let interest = epoll::EventFlags::IN | epoll::EventFlags::ET;
            let data = epoll::EventData::new_u64(index as u64);
            epoll::add(&self.epoll, &socket, data, interest).map_err(told)?;
        }
        self.sockets.push(socket);
        Ok(())
    }

    /// Reads until nothing has come for a while.
    pub fn settle(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.pump(Duration::from_millis(150)) && Instant::now() < deadline {}
    }

    /// Reads what comes until there are so many deliveries more than `before`, or it takes too long.
    /// Returns whether they came.
    pub fn await_deliveries(&mut self, before: u64, wanted: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.delivered - before < wanted {
            if Instant::now() > deadline || self.lost > 0 {
                return false;
            }
            self.pump(Duration::from_millis(100));
        }
        true
    }

    /// Reads what comes until every client has had a delivery, or was hung up on.
    pub fn await_each(&mut self, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.delivered + self.lost < self.sockets.len() as u64 {
            if Instant::now() > deadline {
                return false;
            }
            self.pump(Duration::from_millis(100));
        }
        true
    }

    /// The same for so many bytes.
    pub fn await_bytes(&mut self, before: u64, wanted: u64, patience: Duration) -> bool {
        let deadline = Instant::now() + patience;
        while self.bytes - before < wanted {
            if Instant::now() > deadline || self.lost > 0 {
                return false;
            }
            self.pump(Duration::from_millis(100));
        }
        true
    }

    /// Waits for news and reads it. Returns whether there was any.
    pub fn pump(&mut self, timeout: Duration) -> bool {
        self.events.clear();
        let timeout = Timespec {
            tv_sec: timeout.as_secs() as i64,
            tv_nsec: i64::from(timeout.subsec_nanos()),
        };
        let room = rustix::buffer::spare_capacity(&mut self.events);
        if epoll::wait(&self.epoll, room, Some(&timeout)).is_err() {
            return true; // Interrupted: asked again.
        }
        let events = std::mem::take(&mut self.events);
        for event in &events {
            self.read(event.data.u64() as usize);
        }
        self.events = events;
        !self.events.is_empty()
    }

    fn read(&mut self, index: usize) {
        loop {
            let flags = if self.discard { RecvFlags::TRUNC } else { RecvFlags::empty() };
            let read = rustix::net::recv(&self.sockets[index], &mut *self.buffer, flags);
            let count = match read.map(|(_, count)| count) {
                Ok(0) => return self.lose(index),
                Ok(count) => count,
                Err(Errno::AGAIN) => return,
                Err(Errno::INTR) => continue,
                Err(_) => return self.lose(index),
            };
            self.reads += 1;
            self.bytes += count as u64;
            if self.discard {
                continue;
            }
            let deliveries = memchr::memchr_iter(self.mark, &self.buffer[..count]).count();
            self.delivered += deliveries as u64;
            if let Some(arrivals) = &mut self.arrivals {
                let now = Instant::now();
                arrivals.extend(std::iter::repeat_n(now, deliveries));
            }
            if count < self.buffer.len() {
                return; // What comes later makes an event of its own.
            }
        }
    }

    fn lose(&mut self, index: usize) {
        let _ = epoll::delete(&self.epoll, &self.sockets[index]); // It may have been lost before.
        self.lost += 1;
    }
}

impl Drop for Readers {
    fn drop(&mut self) {
        for socket in &self.sockets {
            // Without it there would be ten thousand connections in TIME_WAIT.
            let _ = sockopt::set_socket_linger(socket, Some(Duration::ZERO));
        }
    }
}

fn connect(port: u16, address: usize) -> rustix::io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, flags, None)?;
    rustix::net::bind(&socket, &SocketAddrV4::new(Ipv4Addr::new(127, 0, 0, 2 + address as u8), 0))?;
    rustix::net::connect(&socket, &SocketAddrV4::new(Ipv4Addr::LOCALHOST, port))?;
    fcntl_setfl(&socket, OFlags::NONBLOCK)?;
    Ok(socket)
}
