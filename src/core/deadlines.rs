//! Deadlines: one wheel for connections, sessions, agents and the server itself.
//!
//! Entries are lazy: one that fires too early looks again, and what moves with every byte is stored
//! and not re-armed. A burst of them is worked off over several turns.

use crate::base::arena::Key;
use crate::core::agent::Agent;
use crate::core::connection::{Exchange, Flow, Phase, Place, Stage, whole_time};
use crate::core::metrics::limit::Limit;
use crate::core::server::{DEADLINES_PER_TURN, Drain, Server};
use crate::limits::{BODY_WINDOW_MS, CLOSED_KEPT_MS, Limits};

impl Server {
    /// Begins a turn: goes on with what waited for the last commit, and works off what is due,
    /// oldest first. Returns whether all of it is done.
    pub fn expire(&mut self) -> bool {
        // Not in the commit: what that has shown is to reach its readers before it can be
        // overwritten.
        self.resume_agents();
        let mut fired = std::mem::take(&mut self.fired);
        let there = self.wheel.advance(self.now_ms, DEADLINES_PER_TURN, |index| fired.push(index));
        for index in fired.drain(..) {
            self.deadline(index);
        }
        self.fired = fired;
        there
    }

    fn session_base(&self) -> u32 {
        self.connections.capacity()
    }

    fn agent_base(&self) -> u32 {
        self.session_base() + self.sessions.capacity()
    }

    fn own_index(&self) -> u32 {
        self.agent_base() + self.agents.capacity()
    }

    fn deadline(&mut self, index: u32) {
        if index < self.session_base() {
            if let Some(key) = self.connections.key_at(index) {
                self.connection_due(key);
            }
        } else if index < self.agent_base() {
            if let Some(key) = self.sessions.key_at(index - self.session_base()) {
                self.session_due(key);
            }
        } else if index < self.own_index() {
            if let Some(key) = self.agents.key_at(index - self.agent_base()) {
                self.agent_due(key);
            }
        } else {
            self.own_due();
        }
    }

    /// For how long a client may take nothing. Less while the server drains: one that is gone does
    /// not use up the time of the others, and one that is not comes back with its last id.
    fn stall_ms(&self) -> u64 {
        let stall_ms = self.limits.write_stall_ms;
        if self.is_draining() { stall_ms.min(self.limits.drain_timeout_ms / 4) } else { stall_ms }
    }

    /// Arms the deadline that a connection's state asks for.
    pub(super) fn arm_connection(&mut self, key: Key) {
        let stall_ms = self.stall_ms();
        let Some(connection) = self.connections.get(key) else { return };
        let now_ms = self.now_ms;
        let stall = match (connection.flow, &connection.phase) {
            (Flow::Blocked, Phase::Http(exchange)) => {
                (exchange.blocked_at + stall_ms).min(exchange.pace_due(stall_ms))
            }
            _ => u64::MAX,
        };
        let due = match &connection.phase {
            Phase::Http(exchange) => match exchange.stage {
                // A long poll has a time; what waits for the disk thread has none.
                Stage::Waiting if exchange.due > self.now_ms => exchange.due.min(stall),
                Stage::Waiting | Stage::Held => stall,
                Stage::Head | Stage::Body | Stage::Lingering => exchange.due.min(stall),
                Stage::Ending => stall,
            },
            Phase::Idle { due, .. } => whole_time(now_ms, *due),
            Phase::Stream(reader) => {
                let (beat_ms, quiet_ms) = (u64::from(reader.heartbeat_ms), reader.quiet_ms(now_ms));
                match connection.flow {
                    Flow::Blocked => now_ms + beat_ms.min(stall_ms.saturating_sub(quiet_ms)),
                    Flow::Open | Flow::Retried => now_ms + beat_ms.saturating_sub(quiet_ms),
                }
            }
            Phase::Taken => return,
        };
        // Lazily: an entry that fires too early looks again, one that moved back is re-armed.
        match self.wheel.due(key.index) {
            Some(armed) if armed <= due => {}
            _ if due == u64::MAX => {}
            _ => self.wheel.arm(key.index, due),
        }
    }

    fn connection_due(&mut self, key: Key) {
        let (now_ms, stall_ms) = (self.now_ms, self.stall_ms());
        let Some(connection) = self.connections.get_mut(key) else { return };
        let stalled_ms = match &connection.phase {
            _ if connection.flow != Flow::Blocked => 0,
            Phase::Stream(reader) => reader.quiet_ms(now_ms),
            Phase::Http(exchange) => now_ms - exchange.blocked_at,
            Phase::Idle { .. } | Phase::Taken => 0,
        };
        if connection.flow == Flow::Blocked && stalled_ms >= stall_ms {
            self.counters.limits.hit(Limit::WriteStall);
            if matches!(connection.phase, Phase::Stream(_)) {
                self.counters.readers_cut += 1;
            }
            return self.close(key);
        }
        // One that takes a little now and then keeps its replies, and their memory, as long.
        let least = self.limits.body_rate_min as u64 * stall_ms / 1000;
        if let Phase::Http(exchange) = &mut connection.phase
            && exchange.is_too_slow(now_ms, stall_ms, least)
        {
            self.counters.limits.hit(Limit::BodyRate);
            return self.close(key);
        }
        if let Phase::Http(exchange) = &mut connection.phase
            && now_ms >= exchange.due
            && exchange.stage == Stage::Body
            && Self::goes_on(exchange, now_ms, &self.limits)
        {
            return self.arm_connection(key);
        }
        match &mut connection.phase {
            Phase::Stream(_) => self.heartbeat_due(key),
            Phase::Idle { due, asked, .. } if now_ms >= whole_time(now_ms, *due) => {
                if connection.place == Place::Starved {
                    return self.turn_away(key);
                }
                let limit = if *asked { Limit::KeepAlive } else { Limit::HeadTime };
                self.counters.limits.hit(limit);
                return self.close(key);
            }
            Phase::Http(exchange) if now_ms >= exchange.due => match exchange.stage {
                Stage::Waiting => self.wait_is_over(key),
                Stage::Held | Stage::Ending => {}
                Stage::Lingering => return self.close(key),
                // A slow client still takes its reply: the stall deadline judges that.
                _ if exchange.has_output() => exchange.due = now_ms + self.limits.keep_alive_ms,
                Stage::Head if exchange.awaits_head() => {
                    self.counters.limits.hit(Limit::KeepAlive);
                    return self.close(key);
                }
                Stage::Head | Stage::Body => return self.answer_timeout(key),
            },
            Phase::Idle { .. } | Phase::Http(_) | Phase::Taken => {}
        }
        self.arm_connection(key);
    }

    /// Whether a body that is not whole may take longer: there is time, and it comes in fast
    /// enough.
    fn goes_on(exchange: &mut Exchange, now_ms: u64, limits: &Limits) -> bool {
        let Some(body_due) = exchange.body_due else { return false };
        let needed = limits.body_rate_min as u64 * BODY_WINDOW_MS / 1000;
        if now_ms >= body_due || exchange.received - exchange.received_before < needed {
            return false;
        }
        exchange.received_before = exchange.received;
        exchange.due = body_due.min(now_ms + BODY_WINDOW_MS);
        true
    }

    /// A request did not arrive in time.
    fn answer_timeout(&mut self, key: Key) {
        let Some(mut exchange) = self.take_exchange(key) else { return };
        self.counters.requests_late += 1;
        self.answer_late(&mut exchange);
        exchange.close = true;
        exchange.stage = Stage::Ending;
        self.put_exchange(key, exchange);
    }

    /// Arms a session's deadline.
    pub(super) fn arm_session(&mut self, key: Key, due: u64) {
        let index = self.session_base() + key.index;
        if due == u64::MAX {
            self.wheel.cancel(index);
        } else if self.wheel.due(index).is_none_or(|armed| armed > due) {
            self.wheel.arm(index, due);
        }
    }

    /// Arms an agent's deadline.
    pub(super) fn arm_agent(&mut self, key: Key) {
        let due = self.agents.get(key).map_or(u64::MAX, Agent::due);
        let index = self.agent_base() + key.index;
        if due == u64::MAX {
            self.wheel.cancel(index);
        } else {
            self.wheel.arm(index, due);
        }
    }

    /// Arms the server's own deadline.
    pub(super) fn arm_own(&mut self) {
        let closed = self.closed.front().and_then(|key| self.sessions.get(*key));
        let closed = closed.and_then(|session| session.unusual.closed_at);
        let mut due = closed.map_or(u64::MAX, |at| at + CLOSED_KEPT_MS);
        if let Drain::Delayed(at) | Drain::Draining(at) = self.drain {
            due = due.min(at);
        }
        due = due.min(self.keeper.retry_at()).min(self.keeper.leftovers.due());
        due = due.min(self.looks.front().map_or(u64::MAX, |look| look.due));
        let index = self.own_index();
        if due == u64::MAX {
            self.wheel.cancel(index);
        } else {
            self.wheel.arm(index, due);
        }
    }

    fn own_due(&mut self) {
        self.retry_append();
        self.erase_leftovers();
        self.give_up_looks();
        while let Some(key) = self.closed.front().copied() {
            let kept = self.sessions.get(key).and_then(|session| session.unusual.closed_at);
            if kept.is_some_and(|at| self.now_ms < at + CLOSED_KEPT_MS) {
                break;
            }
            self.forget_session(key);
        }
        if let Drain::Delayed(at) = self.drain
            && self.now_ms >= at
        {
            self.begin_drain();
        }
        if let Drain::Draining(at) = self.drain
            && self.now_ms >= at
        {
            // The shell sees `finished`; nothing else is left to wait for.
            return;
        }
        self.arm_own();
    }
}
