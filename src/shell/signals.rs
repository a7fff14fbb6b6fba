//! Signals as bytes in a pipe that the reactor polls.
//!
//! Not a signalfd: that needs blocked signals, and a blocked mask is inherited by children. A
//! repeated signal is delivered each time it was caught, since the second SIGTERM means more
//! than the first. SIGPIPE is ignored: a write to a dead peer is an error, not an end. What a
//! signal means is not known here.

use std::io::{self, Read};

use mio::unix::pipe::{self, Receiver};
use mio::{Interest, Registry, Token, event};

use super::sys;

/// What was caught.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGINT.
    Interrupt,
    /// SIGHUP.
    Hangup,
}

/// The catcher. One per process: a later one takes the signals from an earlier one.
#[derive(Debug)]
pub struct Signals {
    pipe: Receiver,
}

impl Signals {
    /// Catches from now on, for the life of the process.
    ///
    /// # Errors
    /// When out of descriptors.
    pub fn new() -> io::Result<Signals> {
        let (writer, pipe) = pipe::new()?; // Both ends non-blocking and close-on-exec.
        sys::ignore_signal(sys::SIGPIPE)?;
        sys::ignore_signal(sys::SIGXFSZ)?; // The write that fails tells it: a full disk.
        // Whoever started us may ignore it, and then the kernel reaps children behind our back.
        sys::default_signal(sys::SIGCHLD)?;
        sys::catch_signals(writer, &[sys::SIGTERM, sys::SIGINT, sys::SIGHUP])?;
        Ok(Signals { pipe })
    }

    /// What was caught since the last drain, in order. Reads until the pipe is empty.
    pub fn drain(&mut self) -> impl Iterator<Item = Signal> {
        std::iter::from_fn(|| {
            let mut number = [0];
            match self.pipe.read(&mut number) {
                Ok(1) => Some(i32::from(number[0])),
                _ => None, // WouldBlock. The writer is never closed, and nothing interrupts.
            }
        })
        .filter_map(|number| match number {
            sys::SIGTERM => Some(Signal::Terminate),
            sys::SIGINT => Some(Signal::Interrupt),
            sys::SIGHUP => Some(Signal::Hangup),
            _ => None,
        })
    }
}

impl event::Source for Signals {
    fn register(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        self.pipe.register(registry, token, how)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        self.pipe.reregister(registry, token, how)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        self.pipe.deregister(registry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn signals_arrive_in_the_poll_each_as_often_as_it_was_sent() {
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let mut signals = Signals::new().unwrap();
        poll.registry().register(&mut signals, Token(7), Interest::READABLE).unwrap();
        assert_eq!(signals.drain().next(), None);

        let own = sys::PidFd::open(std::process::id()).unwrap();
        let mut caught = Vec::new();
        for signal in [sys::SIGHUP, sys::SIGTERM, sys::SIGTERM, sys::SIGINT] {
            own.signal(signal).unwrap();
            let before = caught.len();
            while caught.len() == before {
                poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
                assert!(!events.is_empty(), "no event for signal {signal}");
                assert!(events.iter().all(|event| event.token() == Token(7)));
                caught.extend(signals.drain());
            }
        }
        use Signal::{Hangup, Interrupt, Terminate};
        assert_eq!(caught, [Hangup, Terminate, Terminate, Interrupt]);
    }
}
