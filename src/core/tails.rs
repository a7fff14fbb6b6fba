//! Bodies that are too large to be held: large fields of events, and inputs of approvals.
//!
//! They are sent in pieces. A piece is looked for when its client's socket takes bytes, in memory or
//! on disk, and given back when it does not: a client owns no bytes while it takes none, so that a
//! slow one holds up nobody. Of a body that goes away meanwhile the connection ends within it, which
//! its client knows by the length that it was told.

use crate::base::arena::Key;
use crate::core::connection::Phase;
use crate::core::effect::{DiskRequest, Effect, Source};
use crate::core::server::Server;
use crate::limits::TAIL_PIECES_MAX;
use std::collections::VecDeque;

/// What is large.
#[derive(Clone, Debug)]
pub enum Large {
    /// Of an event.
    Event(EventPart),
    /// The input of an approval that is open.
    Input {
        /// Its session.
        session: Key,
        /// Its id.
        approval: String,
    },
}

/// The large field of an event.
#[derive(Clone, Copy, Debug)]
pub struct EventPart {
    /// Its session.
    pub session: Key,
    /// Its number.
    pub seq: u64,
    /// The number of one of its images, if that is what is wanted.
    pub image: Option<u64>,
}

/// Where the next piece is.
pub enum Place {
    /// Here.
    Piece(Vec<u8>),
    /// In a journal.
    Journal(Source),
    /// Nowhere any more.
    Gone,
}

/// A body on its way.
#[derive(Debug)]
pub struct Tail {
    /// What it is.
    pub what: Large,
    /// All of its bytes.
    length: u64,
    /// Those that were sent.
    sent: u64,
    piece: Vec<u8>,
    /// What is sent of the piece.
    at: usize,
    /// It waits for a piece.
    waits: bool,
}

impl Tail {
    /// Nothing of it is sent. `piece`: its beginning, if that was found already.
    pub fn new(what: Large, length: u64, piece: Vec<u8>) -> Box<Tail> {
        Box::new(Tail { what, length, sent: 0, piece, at: 0, waits: false })
    }

    /// All of its bytes, sent or not.
    pub fn length(&self) -> u64 {
        self.length
    }

    /// What is to be sent now.
    pub fn ready(&self) -> &[u8] {
        &self.piece[self.at..]
    }

    /// Says that this many bytes of [`Tail::ready`] are sent.
    pub fn sent(&mut self, count: usize) {
        self.at += count;
        self.sent += count as u64;
        debug_assert!(self.at <= self.piece.len() && self.sent <= self.length);
    }

    /// Whether all of it is.
    pub fn is_over(&self) -> bool {
        self.sent == self.length
    }

    /// Whether it holds a piece.
    pub fn holds_piece(&self) -> bool {
        !self.piece.is_empty()
    }

    /// Gives its piece back, sent or not. Returns whether there was one.
    pub fn give_back(&mut self) -> bool {
        self.at = 0;
        !std::mem::take(&mut self.piece).is_empty()
    }
}

/// The pool of pieces, and who waits for one.
#[derive(Debug, Default)]
pub struct Tails {
    /// Pieces that are looked for, or being sent.
    used: usize,
    queue: VecDeque<Wanted>,
}

/// A piece that is waited for.
#[derive(Debug)]
enum Wanted {
    /// The first one, before anything is answered: what it is of.
    First(Key, Large),
    /// The next one.
    Next(Key),
}

impl Tails {
    /// Counts a piece that is there.
    pub fn take(&mut self) {
        self.used += 1;
    }

    /// Takes a piece back.
    pub fn release(&mut self) {
        self.used -= 1;
    }

    /// How many are in use.
    pub fn used(&self) -> usize {
        self.used
    }

    /// Whether somebody waits for one who could have it.
    pub fn has_work(&self) -> bool {
        self.used < TAIL_PIECES_MAX && !self.queue.is_empty()
    }
}

impl Server {
    /// Lets a request wait for what is to be looked for on disk, from the end of this turn on: its
    /// exchange is being worked on.
    pub(super) fn want_large(&mut self, connection: Key, what: Large) {
        self.tails.queue.push_back(Wanted::First(connection, what));
    }

    /// The body that a connection sends, where it can be changed.
    fn tail_mut(&mut self, key: Key) -> Option<&mut Tail> {
        match &mut self.connections.get_mut(key)?.phase {
            Phase::Http(exchange) => exchange.tail_mut(),
            _ => None,
        }
    }

    /// Sees to the next piece of a body whose connection has sent what it had.
    pub(super) fn want_piece_of_tail(&mut self, key: Key) {
        let Some(tail) = self.tail_mut(key) else { return };
        if tail.waits || tail.holds_piece() || tail.is_over() {
            return;
        }
        tail.waits = true;
        self.tails.queue.push_back(Wanted::Next(key));
        self.serve_tails();
    }

    /// Hands out pieces, as far as there are any.
    pub(super) fn serve_tails(&mut self) {
        while self.tails.used < TAIL_PIECES_MAX
            && let Some(wanted) = self.tails.queue.pop_front()
        {
            match wanted {
                Wanted::First(connection, what) => self.first_piece(connection, &what),
                Wanted::Next(connection) => self.next_piece(connection),
            }
        }
    }

    fn first_piece(&mut self, connection: Key, what: &Large) {
        if !self.is_waiting(connection) {
            return;
        }
        // It may have moved since it was asked for: from memory to the disk, or away.
        match (self.place_of(what, 0), what) {
            (Place::Journal(source), Large::Event(part)) => {
                self.ask_for_piece(connection, *part, source, 0);
            }
            _ => self.answer_large(connection, what),
        }
    }

    fn next_piece(&mut self, connection: Key) {
        let Some(tail) = self.tail_mut(connection) else { return };
        let (what, from) = (tail.what.clone(), tail.sent);
        match (self.place_of(&what, from), &what) {
            (Place::Piece(piece), _) if !piece.is_empty() => {
                self.tails.take();
                self.give_piece(connection, piece);
            }
            (Place::Journal(source), Large::Event(part)) => {
                self.ask_for_piece(connection, *part, source, from);
            }
            _ => self.close(connection),
        }
    }

    fn ask_for_piece(&mut self, connection: Key, part: EventPart, source: Source, from: u64) {
        self.tails.take();
        let source = Box::new(source);
        let request = DiskRequest::Large { connection, part, source, from };
        self.effects.push_back(Effect::Disk(request));
    }

    fn give_piece(&mut self, connection: Key, piece: Vec<u8>) {
        let Some(tail) = self.tail_mut(connection) else { return self.tails.release() };
        tail.waits = false;
        let is_fit = piece.len() as u64 <= tail.length - tail.sent && !piece.is_empty();
        (tail.piece, tail.at) = (piece, 0);
        if !is_fit {
            return self.close(connection); // It is not what it was.
        }
        self.push_pending(connection);
    }

    /// The next piece of a body has come from the disk, or there is none.
    pub(super) fn next_piece_read(&mut self, connection: Key, piece: Option<Vec<u8>>) {
        match piece {
            Some(piece) if !piece.is_empty() => self.give_piece(connection, piece),
            _ => {
                self.tails.release();
                if self.tail_mut(connection).is_some() {
                    self.close(connection);
                }
            }
        }
    }

    /// Whether a connection is in the middle of a large body.
    pub(super) fn has_tail(&self, key: Key) -> bool {
        matches!(self.connections.get(key).map(|one| &one.phase),
            Some(Phase::Http(exchange)) if exchange.is_large())
    }

    /// The client takes nothing now: its piece is given back, and looked for again.
    pub(super) fn give_back_tail(&mut self, key: Key) {
        if self.tail_mut(key).is_some_and(Tail::give_back) {
            self.tails.release();
        }
    }
}
