//! A stream that goes on by itself: over restarts of the server, broken networks and proxies that
//! cut what is quiet.
//!
//! Promises: events are told once and in order; after every break it comes back with the id where
//! it stood, and says so if the server could not go on from there; silence beyond three heartbeats
//! counts as a break. It gives up only where coming back is of no use: the server refuses.

use crate::limits::HEARTBEATS_MISSED;
use std::time::Duration;

use serde_json::Value;

use super::http::{self, Client, Failure, Request};
use crate::wire::event_stream::{EventParser, Message};

/// The first wait before a reconnect, and the longest.
const WAIT_MS: std::ops::Range<u64> = 500..15_000;
/// The longest wait that a server may ask for.
const ASKED_MAX_MS: u64 = 60_000;

/// What is told.
#[derive(Debug)]
pub enum News {
    /// An event of the log, or one about the stream.
    Event(Message, Value),
    /// Something about the connection that a human may want to know.
    Notice(String),
}

/// What the listener wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Then {
    /// More.
    Go,
    /// No more.
    Stop,
}

/// Where a stream begins.
#[derive(Clone, Debug)]
pub struct Start {
    /// The path behind the base, and its query if it has one.
    pub path: String,
    /// The id to go on from; empty: as the path says.
    pub after: String,
    /// The heartbeat that is asked for, in milliseconds, one of [`HEARTBEATS_MS`]; silence of
    /// [`HEARTBEATS_MISSED`] of them is a break.
    ///
    /// [`HEARTBEATS_MS`]: crate::limits::HEARTBEATS_MS
    pub heartbeat_ms: u64,
    /// The first connection may fail like the later ones: the server was there a moment ago.
    pub patient: bool,
}

/// Follows a stream until the listener has enough, or it has ended for good.
///
/// # Errors
/// What the server refuses, or the first connect's failure.
pub fn follow(
    client: &Client,
    start: Start,
    tell: &mut dyn FnMut(News) -> Then,
) -> Result<(), Failure> {
    let mut cursor = start.after;
    let mut backoff = Backoff::new();
    let mut was_there = start.patient;
    let mark = if start.path.contains('?') { '&' } else { '?' };
    let path = format!("{}{mark}heartbeat={}", start.path, start.heartbeat_ms / 1000);
    let silence = Duration::from_millis(HEARTBEATS_MISSED * start.heartbeat_ms);
    loop {
        let mut stream =
            Stream { cursor: &mut cursor, backoff: &mut backoff, silence, open: false };
        let failure = match stream.run(client, &path, tell) {
            Ok(End::Enough) => return Ok(()),
            Ok(End::Ended) => None,
            Err(failure @ Failure::Refused { status, .. }) if !is_passing(status) => {
                return Err(failure);
            }
            Err(failure) => Some(failure),
        };
        let open = stream.open;
        if let Some(failure) = failure.filter(|_| !was_there && !open) {
            return Err(failure);
        }
        let again = was_there && !open;
        was_there = true;
        let wait = backoff.next();
        if !again && tell(News::Notice("the connection is lost, coming back".into())) == Then::Stop
        {
            return Ok(());
        }
        std::thread::sleep(wait);
    }
}

/// Whether this status may be another one soon: a proxy whose server restarts, a limit.
fn is_passing(status: u16) -> bool {
    matches!(status, 408 | 425 | 429 | 500..=599)
}

enum End {
    Enough,
    Ended,
}

struct Stream<'a> {
    cursor: &'a mut String,
    backoff: &'a mut Backoff,
    /// How long it may be silent.
    silence: Duration,
    /// It has said that it is one of ours.
    open: bool,
}

impl Stream<'_> {
    fn run(
        &mut self,
        client: &Client,
        path: &str,
        tell: &mut dyn FnMut(News) -> Then,
    ) -> Result<End, Failure> {
        let cursor = self.cursor.clone();
        let fields = [("Last-Event-ID", &*cursor), ("Accept", "text/event-stream")];
        let fields = if cursor.is_empty() { &fields[1..] } else { &fields[..] };
        let silence = self.silence;
        let mut answer =
            client.open(Request { method: "GET", path, fields, body: None, silence })?;
        if answer.status != 200 {
            let body = answer.rest()?;
            return Err(http::refused(&answer, &body));
        }
        let mut parser = EventParser::new(&cursor);
        let (mut bytes, mut messages) = (Vec::new(), Vec::new());
        while answer.read(&mut bytes)? {
            let too_large = |_| Failure::Broken("an event is too large".to_owned());
            parser.feed(&bytes, &mut messages).map_err(too_large)?;
            bytes.clear();
            self.backoff.retry_ms = parser.retry_ms();
            for message in messages.drain(..) {
                if self.take(message, tell) == Then::Stop {
                    return Ok(End::Enough);
                }
            }
            parser.last_id().clone_into(self.cursor);
        }
        Ok(End::Ended)
    }

    fn take(&mut self, message: Message, tell: &mut dyn FnMut(News) -> Then) -> Then {
        message.last_id.clone_into(self.cursor);
        let data: Value = serde_json::from_str(&message.data).unwrap_or_default();
        match &*message.event {
            "connected" => {
                self.open = true;
                self.backoff.reset();
                let gap = data["resume"] == "gap";
                let notice = "some events are gone: the server could not go on from where we were";
                if gap && tell(News::Notice(notice.into())) == Then::Stop {
                    return Then::Stop;
                }
            }
            "server-busy" | "server-shutdown" => {
                let asked = data["retryAfterMs"].as_u64();
                self.backoff.asked_ms = asked.map(|ms| ms.min(ASKED_MAX_MS));
            }
            _ => {}
        }
        tell(News::Event(message, data))
    }
}

/// How long to wait before the next try.
struct Backoff {
    tries: u32,
    /// What the stream's `retry:` said.
    retry_ms: Option<u64>,
    /// What the server asked for as it ended the stream.
    asked_ms: Option<u64>,
    /// For the jitter; a server's clients must not all come back at once.
    random: u64,
}

impl Backoff {
    fn new() -> Backoff {
        let random = random();
        Backoff { tries: 0, retry_ms: None, asked_ms: None, random }
    }

    fn reset(&mut self) {
        self.tries = 0;
    }

    fn next(&mut self) -> Duration {
        let doubled = WAIT_MS.start << self.tries.min(5);
        let first = self.retry_ms.filter(|_| self.tries == 0);
        self.tries += 1;
        self.random = self.random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        if let Some(asked_ms) = self.asked_ms.take() {
            return Duration::from_millis(asked_ms); // With the server's own jitter in it.
        }
        let base = first.unwrap_or(doubled).min(WAIT_MS.end);
        let jitter = (self.random >> 33) % (base / 2 + 1);
        Duration::from_millis(base - base / 4 + jitter)
    }
}

/// Random enough to keep clients apart, and prompts.
pub fn random() -> u64 {
    let mut bytes = [0; 8];
    // Without the system's numbers clients come back together, and a prompt's name may clash.
    let _ = getrandom::fill(&mut bytes);
    u64::from_ne_bytes(bytes) ^ u64::from(std::process::id())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_a_bound_and_the_servers_wish_comes_first() {
        let mut backoff = Backoff::new();
        let bounds = |base: u64| base - base / 4..=base - base / 4 + base / 2;
        for base in [500, 1000, 2000, 4000, 8000, 15_000, 15_000, 15_000] {
            let wait = backoff.next().as_millis() as u64;
            assert!(bounds(base).contains(&wait), "{wait} for {base}");
        }
        backoff.asked_ms = Some(1234);
        assert_eq!(backoff.next().as_millis(), 1234);
        backoff.reset();
        backoff.retry_ms = Some(3000);
        assert!(bounds(3000).contains(&(backoff.next().as_millis() as u64)));
        assert!(bounds(1000).contains(&(backoff.next().as_millis() as u64)));
    }
}
