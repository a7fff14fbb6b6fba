//! What is on disk of sessions that are gone: removed, and tried again until it is.
//!
//! What was deleted must not come back with the next start. Mostly its journal says that it ended, and a
//! start finishes what was begun; but where the disk took nothing, that was never written.

use crate::core::effect::{DiskRequest, Effect, Level};
use crate::core::server::Server;
use std::collections::VecDeque;

/// Between two tries, while the disk removes nothing.
const RETRY_MS: u64 = 1_000;

/// Sessions that are gone and could not be removed.
#[derive(Debug, Default)]
pub struct Leftovers {
    /// Their ids, and the numbers of their newest events.
    sessions: VecDeque<(String, u64)>,
    /// When to try the next one.
    retry_at: Option<u64>,
    /// Removals that the disk thread has not answered.
    under_way: u32,
}

impl Leftovers {
    /// When the next one is to be tried again.
    pub fn due(&self) -> u64 {
        self.retry_at.unwrap_or(u64::MAX)
    }

    /// How many could not be removed.
    pub fn count(&self) -> usize {
        self.sessions.len()
    }

    /// Whether nothing is left.
    pub fn is_empty(&self) -> bool {
        self.sessions.is_empty() && !self.is_busy()
    }

    /// Whether something is being removed.
    pub fn is_busy(&self) -> bool {
        self.under_way > 0
    }
}

impl Server {
    /// Removes what is on disk of a session that is gone, `size` bytes.
    pub(super) fn erase(&mut self, session_id: String, size: u64, last_seq: u64) {
        self.keeper.total = self.keeper.total.saturating_sub(size);
        self.publisher.epochs.erased = self.publisher.epochs.erased.max(last_seq);
        self.ask_to_erase(session_id, last_seq);
    }

    fn ask_to_erase(&mut self, session_id: String, last_seq: u64) {
        self.keeper.leftovers.under_way += 1;
        self.effects.push_back(Effect::Disk(DiskRequest::Erase { session_id, last_seq }));
    }

    /// The disk thread has tried to. There are no more of these than there can be sessions: they count as
    /// such when one is to be created.
    pub(super) fn erased(&mut self, session_id: String, last_seq: u64, result: Result<(), String>) {
        let leftovers = &mut self.keeper.leftovers;
        leftovers.under_way -= 1;
        match result {
            Ok(()) => leftovers.retry_at = leftovers.retry_at.map(|at| at.min(self.now_ms)),
            Err(error) => {
                leftovers.sessions.push_back((session_id, last_seq));
                leftovers.retry_at = Some(self.now_ms + RETRY_MS);
                self.log(Level::Warn, "journal", "cannot remove", vec![("error", error)]);
            }
        }
        self.arm_own();
    }

    /// Tries one of them again, if it is time.
    pub(super) fn erase_leftovers(&mut self) {
        if self.now_ms < self.keeper.leftovers.due() {
            return;
        }
        let leftovers = &mut self.keeper.leftovers;
        let next = leftovers.sessions.pop_front();
        leftovers.retry_at = (!leftovers.sessions.is_empty()).then_some(self.now_ms + RETRY_MS);
        if let Some((session_id, last_seq)) = next {
            self.ask_to_erase(session_id, last_seq);
        }
    }

    /// The server goes away: what is left is tried once more.
    pub(super) fn hurry_leftovers(&mut self) {
        let leftovers = &mut self.keeper.leftovers;
        leftovers.retry_at = leftovers.retry_at.map(|_| self.now_ms);
        self.erase_leftovers();
    }
}
