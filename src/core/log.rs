//! One event log: a ring of frames, how much of it is visible, and the readers waiting for more.
//!
//! Frames are appended first and become visible later, when they are durable; every reader stops
//! at the visible end. What the ring no longer holds may be on disk, at the same positions: the
//! log knows where, and reads no file. Readers that have everything stand in `waiting`, so that news reach all of
//! them by moving one list, and a reader that is busy elsewhere costs a publish nothing.

use crate::base::list::List;
use crate::base::ring::{Found, Mark, Ring, TooLarge};
use crate::core::journal::Journal;

/// A log. One per session, and one over all sessions.
pub struct Log {
    /// The frames.
    pub ring: Ring,
    /// Where frames are on disk. None: nowhere.
    pub journal: Option<Journal>,
    /// Up to which position readers may read.
    visible: u64,
    /// The number of the newest visible frame, 0 if there never was one.
    visible_seq: u64,
    /// Readers that have everything visible: connections' indices.
    pub waiting: List,
    /// Streams that read here.
    pub readers: u32,
    /// Those of them that receive `session-output`.
    pub listeners: u32,
    /// Whether it was noted that it has frames to be committed.
    pub dirty: bool,
}

impl Log {
    /// An empty log with a ring of `size` bytes.
    pub fn new(size: usize) -> Log {
        Log {
            ring: Ring::new(size),
            journal: None,
            visible: 0,
            visible_seq: 0,
            waiting: List::default(),
            readers: 0,
            listeners: 0,
            dirty: false,
        }
    }

    /// A log whose frames so far are all on disk.
    pub fn found(ring: Ring, journal: Journal) -> Log {
        let (visible, visible_seq) = (journal.written(), journal.last_seq());
        let (waiting, readers, listeners, dirty) = (List::default(), 0, 0, false);
        let journal = Some(journal);
        Log { ring, journal, visible, visible_seq, waiting, readers, listeners, dirty }
    }

    /// Appends a frame that nobody sees yet. Returns whether the log was clean before.
    ///
    /// # Errors
    /// [`TooLarge`] if the frame takes more than a quarter of the ring.
    pub fn append(
        &mut self,
        frame: &[u8],
        seq: u64,
        owner: u32,
        tag: u8,
    ) -> Result<bool, TooLarge> {
        self.ring.push(frame, seq, owner, tag)?;
        Ok(!std::mem::replace(&mut self.dirty, true))
    }

    /// The bytes of a frame of the ring: in two parts if it wraps there.
    pub fn frame(&self, mark: &Mark) -> [&[u8]; 2] {
        match self.ring.at(mark.start, self.ring.after(mark.seq)) {
            Found::Bytes(part, wrapped) => [part, wrapped],
            Found::CaughtUp | Found::Lapped => [&[], &[]],
        }
    }

    /// The position up to which readers may read.
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// Shows everything up to `seq`. Returns whether there is news.
    pub fn show(&mut self, seq: u64) -> bool {
        let visible = self.ring.after(seq);
        let news = visible > self.visible;
        if news {
            self.visible = visible;
            let last = self.ring.last_before(visible).map(|mark| mark.seq);
            self.visible_seq = last.unwrap_or(self.ring.evicted());
        }
        news
    }

    /// Bytes that are appended and not visible.
    pub fn hidden(&self) -> u64 {
        self.ring.head() - self.visible
    }

    /// The number of the newest visible frame that is left, if any is.
    pub fn latest_seq(&self) -> Option<u64> {
        (self.visible_seq > 0).then_some(self.visible_seq)
    }

    /// The number of the newest frame, visible or not.
    pub fn newest_seq(&self) -> u64 {
        let newest = self.ring.last_before(self.ring.head()).map(|mark| mark.seq);
        newest.unwrap_or(self.ring.evicted()).max(self.visible_seq)
    }

    /// The number of the oldest visible frame that is left, in memory or on disk.
    pub fn earliest_seq(&self) -> Option<u64> {
        let ring = self.ring.oldest().filter(|mark| mark.start < self.visible);
        let ring = ring.map(|mark| mark.seq);
        match &self.journal {
            Some(journal) if journal.base() < self.ring.base() => journal.oldest_seq().or(ring),
            _ => ring,
        }
    }

    /// The number of the newest frame that nobody can be given any more.
    pub fn evicted(&self) -> u64 {
        match &self.journal {
            Some(journal) if journal.written() >= self.ring.base() => journal.evicted(),
            _ => self.ring.evicted(), // Nothing bridges what the disk does not have.
        }
    }

    /// Whether the disk has everything that was ever appended.
    pub fn is_on_disk(&self) -> bool {
        self.journal.as_ref().is_some_and(|journal| journal.written() == self.ring.head())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_visible_before_it_is_shown() {
        let mut log = Log::new(1024);
        assert_eq!(log.append(b"one", 1, 0, 0), Ok(true));
        assert_eq!(log.append(b"two", 4, 0, 0), Ok(false));
        assert_eq!((log.visible(), log.hidden(), log.latest_seq()), (0, 6, None));
        assert!(log.show(3));
        assert_eq!((log.visible(), log.hidden(), log.latest_seq()), (3, 3, Some(1)));
        assert!(log.show(4));
        assert_eq!((log.visible(), log.earliest_seq(), log.latest_seq()), (6, Some(1), Some(4)));
        assert!(!log.show(9), "no news");
    }
}
