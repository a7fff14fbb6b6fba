//! Tickets: a URL that answers one approval in one way, once, for whoever holds it.
//!
//! They go out with a notification, to a telephone that holds no token. A ticket is 256 bits that
//! nobody can guess, drawn from a key of this start; only its hash is kept, beside what it is for. It
//! is bound to one approval, to the input that was shown, and to one decision, and it is worth nothing
//! once that approval is answered, withdrawn, or the server has ended. Whether a request may be
//! served at all, and what a page about it looks like, is not known here.

use crate::limits::TICKETS_MAX;
use sha2::{Digest as _, Sha256};
use std::collections::VecDeque;
use std::fmt::Write as _;

use super::access::tokens::Digest;

/// The minute in which they are counted.
const MISSES_WINDOW_MS: u64 = 60_000;
/// What they are hashed with: no other hash of ours is one of theirs.
const DOMAIN: &[u8] = b"sidestream ticket\0";

/// What a ticket is for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ticket {
    /// The session.
    pub session_id: String,
    /// Its approval.
    pub approval_id: String,
    /// The hash of the input that was shown.
    pub input_hash: String,
    /// Allow, or deny.
    pub allow: bool,
}

/// Why there is no ticket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Miss {
    /// It is none, or not any more.
    Unknown,
    /// Too many were none of late; how long that lasts, in seconds.
    TooMany(u64),
}

/// All tickets.
#[derive(Default)]
pub struct Tickets {
    /// Random, of this start; without it no ticket is made.
    key: Option<Digest>,
    /// Tickets made.
    count: u64,
    /// In order of the hashes of their texts.
    entries: Vec<(Digest, Ticket)>,
    /// Oldest first.
    order: VecDeque<Digest>,
    /// When unknown ones came.
    misses: VecDeque<u64>,
}

impl Tickets {
    /// Tickets made from this key; none are made without one.
    pub fn new(key: Option<Digest>) -> Tickets {
        Tickets { key, ..Tickets::default() }
    }

    /// Makes a ticket; returns its text, which is kept nowhere.
    pub fn issue(&mut self, ticket: Ticket) -> Option<String> {
        let key = self.key?;
        self.count += 1;
        // Hashed twice, so that what is told can be extended to nothing.
        let mut inner = Sha256::new();
        inner.update(DOMAIN);
        inner.update(key);
        inner.update(self.count.to_le_bytes());
        let mut outer = Sha256::new();
        outer.update(key);
        outer.update(inner.finalize());
        let mut text = String::with_capacity(64);
        for byte in outer.finalize() {
            let _ = write!(text, "{byte:02x}");
        }
        if self.order.len() == TICKETS_MAX
            && let Some(oldest) = self.order.pop_front()
        {
            let _ = self.place_of(&oldest).map(|at| self.entries.remove(at));
        }
        let hash = hash(&text);
        self.order.push_back(hash);
        let (Ok(at) | Err(at)) = self.place_of(&hash);
        self.entries.insert(at, (hash, ticket));
        Some(text)
    }

    fn place_of(&self, hash: &Digest) -> Result<usize, usize> {
        self.entries.binary_search_by(|(known, _)| known.cmp(hash))
    }

    /// What a ticket is for. Found by its hash: how long that takes says nothing about any other.
    ///
    /// # Errors
    /// [`Miss`], [`Miss::TooMany`] beyond `misses_max` in a minute. Whoever holds a ticket is never
    /// kept out by those who guess.
    pub fn find(&mut self, text: &str, now_ms: u64, misses_max: usize) -> Result<Ticket, Miss> {
        if let Ok(at) = self.place_of(&hash(text)) {
            return Ok(self.entries[at].1.clone());
        }
        while self.misses.front().is_some_and(|at| at + MISSES_WINDOW_MS <= now_ms) {
            self.misses.pop_front();
        }
        if self.misses.len() >= misses_max {
            let oldest = self.misses.front().copied().unwrap_or(now_ms);
            return Err(Miss::TooMany((oldest + MISSES_WINDOW_MS - now_ms).div_ceil(1000)));
        }
        self.misses.push_back(now_ms);
        Err(Miss::Unknown)
    }
}

fn hash(text: &str) -> Digest {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(approval: &str, allow: bool) -> Ticket {
        let (session_id, input_hash) = ("session-1".into(), "hash".into());
        Ticket { session_id, approval_id: approval.into(), input_hash, allow }
    }

    #[test]
    fn a_ticket_is_found_by_its_text_alone_and_every_one_is_another() {
        let mut tickets = Tickets::new(Some([7; 32]));
        let yes = tickets.issue(ticket("a", true)).unwrap();
        let no = tickets.issue(ticket("a", false)).unwrap();
        assert_eq!((yes.len(), no.len()), (64, 64));
        assert_ne!(yes, no);
        assert_eq!(tickets.find(&yes, 0, 10), Ok(ticket("a", true)));
        assert_eq!(tickets.find(&no, 0, 10), Ok(ticket("a", false)));
        let other = Tickets::new(Some([8; 32])).issue(ticket("a", true)).unwrap();
        assert_eq!(tickets.find(&other, 0, 10), Err(Miss::Unknown));
        assert!(!tickets.entries.iter().any(|(kept, _)| yes.as_bytes().starts_with(kept)));
        assert_eq!(Tickets::new(None).issue(ticket("a", true)), None);
    }

    #[test]
    fn guesses_are_limited_and_keep_no_holder_out() {
        let mut tickets = Tickets::new(Some([7; 32]));
        let good = tickets.issue(ticket("a", true)).unwrap();
        for _ in 0..10 {
            assert_eq!(tickets.find("guess", 1000, 10), Err(Miss::Unknown));
        }
        assert_eq!(tickets.find("guess", 31_000, 10), Err(Miss::TooMany(30)));
        assert!(tickets.find(&good, 31_000, 10).is_ok());
        assert_eq!(tickets.find("guess", 61_000, 10), Err(Miss::Unknown));
    }

    #[test]
    fn the_oldest_make_room() {
        let mut tickets = Tickets::new(Some([7; 32]));
        let first = tickets.issue(ticket("first", true)).unwrap();
        let second = tickets.issue(ticket("second", true)).unwrap();
        for _ in 2..=TICKETS_MAX {
            tickets.issue(ticket("more", true)).unwrap();
        }
        assert!(tickets.find(&first, 0, 10).is_err() && tickets.find(&second, 0, 10).is_ok());
        assert_eq!(tickets.entries.len(), TICKETS_MAX);
    }
}
