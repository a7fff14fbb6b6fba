//! Clients that have sent their last byte while they wait for an answer.
//!
//! One that has closed its socket for sending only still gets its answer (RFC 9112, section 9.6). One
//! that has gone would keep its place until the wait ends, for nobody. On the wire the two look
//! alike. The kernel tells them apart for a Unix socket, and for a client on this machine, which a
//! proxy is too: no process holds the other end any more. Of a client elsewhere nobody can tell, and
//! the server answers it at once.

use super::Reactor;
use crate::base::arena::Key;
use std::collections::BTreeSet;

/// Between two looks: the end is told a moment before the other socket is let go, and one that was
/// closed for sending may be closed altogether later.
const LOOK_MS: u64 = 1_000;

/// Those who may have left. No more than wait for answers.
#[derive(Debug, Default)]
pub struct Leavers {
    keys: BTreeSet<u64>,
    /// When to look at them again.
    pub look_at: Option<u64>,
}

impl Reactor {
    /// A client has sent its last byte.
    pub(super) fn peer_ended(&mut self, key: Key) {
        if !self.server.is_waiting(key) || self.watch_leaver(key) {
            self.server.peer_ended(key);
        }
        self.apply_effects();
    }

    /// A client that waits for an answer sends no more: it is let go if it has left, else looked at
    /// again. Returns whether it is there.
    pub(super) fn watch_leaver(&mut self, key: Key) -> bool {
        if self.leavers.keys.contains(&key.to_bits()) {
            return true;
        }
        let left = self.has_left(key);
        if left {
            self.server.connection_lost(key);
            self.apply_effects();
        } else {
            self.leavers.keys.insert(key.to_bits());
            self.leavers.look_at.get_or_insert(self.now_ms + LOOK_MS);
        }
        !left
    }

    /// Looks again at those who may have left.
    pub(super) fn work_leavers(&mut self) {
        if self.leavers.look_at.is_none_or(|at| at > self.now_ms) {
            return;
        }
        let mut keys = std::mem::take(&mut self.leavers.keys);
        keys.retain(|bits| {
            let key = Key::from_bits(*bits);
            let waits = self.server.is_waiting(key);
            let left = waits && self.has_left(key);
            if left {
                self.server.connection_lost(key);
                self.apply_effects();
            }
            waits && !left
        });
        self.leavers.look_at = (!keys.is_empty()).then_some(self.now_ms + LOOK_MS);
        self.leavers.keys = keys;
    }

    fn has_left(&mut self, key: Key) -> bool {
        let Some(socket) = self.sockets.get_mut(key) else { return true };
        socket.gone || socket.stream.is_abandoned(&mut self.peers)
    }
}
