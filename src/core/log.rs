//! One event log: a ring of frames, how much of it is visible, and the readers waiting for more.
//!
//! Frames are appended first and become visible later, when they are durable; every reader stops
//! at the visible end. Readers that have everything stand in `waiting`, so that news reach all of
//! them by moving one list, and a reader that is busy elsewhere costs a publish nothing.

use crate::base::list::List;
use crate::base::ring::{Ring, TooLarge};

/// A log. One per session, and one over all sessions.
pub struct Log {
    /// The frames.
    pub ring: Ring,
    /// Up to which position readers may read.
    visible: u64,
    /// Readers that have everything visible: connections' indices.
    pub waiting: List,
    /// Streams that read here.
    pub readers: u32,
    /// Those of them that receive `session-output`.
    pub listeners: u32,
    /// Whether it has frames that are not visible yet.
    pub dirty: bool,
}

impl Log {
    /// An empty log with a ring of `size` bytes.
    pub fn new(size: usize) -> Log {
        Log {
            ring: Ring::new(size),
            visible: 0,
            waiting: List::default(),
            readers: 0,
            listeners: 0,
            dirty: false,
        }
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

    /// The position up to which readers may read.
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// Shows everything up to `seq`. Returns whether there is news.
    pub fn show(&mut self, seq: u64) -> bool {
        let visible = self.ring.after(seq);
        let news = visible > self.visible;
        self.visible = visible.max(self.visible);
        self.dirty = self.visible < self.ring.head();
        news
    }

    /// Bytes that are appended and not visible.
    pub fn hidden(&self) -> u64 {
        self.ring.head() - self.visible
    }

    /// The number of the newest visible frame that is left, if any is.
    pub fn latest_seq(&self) -> Option<u64> {
        self.ring.last_before(self.visible).map(|mark| mark.seq)
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
        assert!(log.dirty);
        assert!(log.show(4));
        assert_eq!((log.visible(), log.dirty, log.latest_seq()), (6, false, Some(4)));
        assert!(!log.show(9), "no news");
    }
}
