//! What must hold between any two inputs, for tests and the simulation.
//!
//! Every count is counted again, every list walked, every reader asked why it waits. It costs time
//! in proportion to everything there is, so a server at work never calls it.

use crate::base::lines::Lines;
use crate::base::ring::Found;
use crate::base::wheel::STEP_MS;
use crate::core::agent::{Agent, LONG_LINE_PATIENCE_MS, Life, Speech};
use crate::core::connection::{Flow, Phase, Place};
use crate::core::server::Server;
use crate::limits::{LINE_SIZE, TAIL_PIECES_MAX};

impl Server {
    /// The visible frames of all sessions from `position` on, and the position behind them; `None`
    /// if the log has outrun it. For the simulation, whose truth they are.
    pub fn visible_frames(&self, position: u64) -> Option<(Vec<u8>, u64)> {
        let log = &self.publisher.all;
        let end = log.visible();
        match log.ring.at(position, end) {
            Found::Bytes(part, wrapped) => Some(([part, wrapped].concat(), end)),
            Found::CaughtUp => Some((Vec::new(), end)),
            Found::Lapped => None,
        }
    }

    /// Checks what must hold between any two inputs. For tests and the simulation.
    pub fn check(&self) {
        let mut waiting = vec![0u32; self.sessions.capacity() as usize];
        let mut starved = 0;
        let (mut pending, mut waiting_all, mut readers_all, mut streams) = (0, 0, 0, 0);
        let mut readers = vec![0u32; self.sessions.capacity() as usize];
        for index in 0..self.connections.capacity() {
            let Some(key) = self.connections.key_at(index) else { continue };
            let connection = self.connections.get(key).expect("just seen");
            assert!(!matches!(connection.phase, Phase::Taken), "an exchange was not put back");
            pending += u32::from(connection.place == Place::Pending);
            starved += u32::from(connection.place == Place::Starved);
            assert!(!(connection.flow == Flow::Blocked && connection.place != Place::Nowhere));
            let Phase::Stream(reader) = &connection.phase else {
                assert_ne!(connection.place, Place::Waiting);
                continue;
            };
            streams += 1;
            let is_waiting = u32::from(connection.place == Place::Waiting);
            let log = match reader.whose.session() {
                None => {
                    readers_all += 1;
                    waiting_all += is_waiting;
                    &self.publisher.all
                }
                Some(session) => {
                    readers[session as usize] += 1;
                    waiting[session as usize] += is_waiting;
                    &self.sessions.at(session).expect("a reader's session exists").feed.log
                }
            };
            assert!(reader.position <= log.visible(), "a reader is ahead of what is visible");
            let is_blocked = connection.flow == Flow::Blocked;
            let idle = connection.place == Place::Nowhere && !is_blocked;
            assert!(!idle, "a reader that nobody will come back to");
        }
        assert_eq!(pending, self.pending.len());
        let waits = self.waits.connections().all(|connection| self.has_connection(connection));
        assert!(waits, "a place among those who wait is kept for a client that is gone");
        assert_eq!(starved, self.starved.len());
        assert_eq!(waiting_all, self.publisher.all.waiting.len());
        assert_eq!(readers_all, self.publisher.all.readers);
        for index in 0..self.sessions.capacity() {
            let Some(key) = self.sessions.key_at(index) else { continue };
            let session = self.sessions.get(key).expect("just seen");
            assert_eq!(session.feed.log.waiting.len(), waiting[index as usize]);
            assert_eq!(session.feed.log.readers, readers[index as usize]);
            assert!(session.prompts.queue.len() <= self.limits.queue_max);
            assert!(session.approvals.open.len() <= self.limits.approvals_max);
            if let Some(agent) = session.process {
                assert_eq!(self.agents.get(agent).map(|agent| agent.session), Some(key));
            }
        }
        let (mut requests_size, mut bodies_size) = (self.waits.size(), 0);
        let mut pieces = 0;
        let connection_is_blocked = |index| {
            self.connections.at(index).is_some_and(|connection| connection.flow == Flow::Blocked)
        };
        for index in 0..self.connections.capacity() {
            match self.connections.at(index).map(|connection| &connection.phase) {
                Some(Phase::Http(exchange)) => {
                    requests_size += exchange.counted.0;
                    bodies_size += exchange.counted.1;
                    pieces += usize::from(exchange.holds_piece());
                    let held = exchange.holds_piece() && connection_is_blocked(index);
                    assert!(!held, "a client that takes nothing holds a piece");
                    assert!(exchange.counted.0 >= exchange.memory().0, "uncounted buffers");
                }
                Some(Phase::Stream(reader)) => {
                    requests_size += reader.rare.as_ref().map_or(0, |rare| rare.counted);
                }
                Some(Phase::Idle { .. } | Phase::Taken) | None => {}
            }
        }
        // The others are on their way from the disk.
        assert!(pieces <= self.tails.used() && self.tails.used() <= TAIL_PIECES_MAX, "pieces");
        assert_eq!(requests_size, self.requests_size, "bytes of requests");
        assert_eq!(bodies_size, self.bodies_size, "bytes of request bodies");
        self.check_start_queue();
        self.check_long_line();
        let counters = &self.counters;
        assert_eq!(counters.streams_opened - counters.streams_closed, streams);
        let connections = counters.connections_accepted - counters.connections_closed;
        assert_eq!(connections, self.connections.len() as u64);
        let queued: usize = (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .map(|session| session.prompts.size())
            .chain(
                (0..self.agents.capacity()).filter_map(|at| Some(self.agents.at(at)?.prompt_size)),
            )
            .sum();
        assert_eq!(queued, self.queue_size, "bytes of waiting prompts");
    }

    /// One agent at a time has the long-line buffer, for a line or for what it is still to tell of
    /// one, and none that waits in it or for it has done so for longer than it may.
    fn check_long_line(&self) {
        let mut waiting = self.long_line.iter();
        let first = waiting.next().map(|key| self.agents.get(*key).expect("it lives"));
        let has_lent = first.and_then(lines).is_some_and(Lines::has_lent);
        let emits = first.is_some_and(|agent| agent.emission.is_some());
        assert!(first.is_none() || has_lent || emits, "the long-line buffer is held for nothing");
        let agents = (0..self.agents.capacity()).filter_map(|index| self.agents.at(index));
        let (mut lent, mut full) = (0, 0);
        for agent in agents {
            let has_lent = lines(agent).is_some_and(Lines::has_lent);
            let is_full = !has_lent && lines(agent).is_some_and(Lines::is_full);
            let emits = agent.emission.as_ref().is_some_and(|one| one.text.len() > LINE_SIZE);
            lent += u32::from(has_lent || emits);
            full += usize::from(is_full);
            let since = agent.long_since;
            assert!(since > 0 || !has_lent && !is_full, "a long line without a deadline");
            let patient = since == 0 || self.now_ms <= since + LONG_LINE_PATIENCE_MS + STEP_MS;
            assert!(patient, "a long line makes no progress, and is not dropped");
        }
        assert!(lent <= u32::from(first.is_some()), "{lent} agents have a long line");
        assert!(full <= waiting.len(), "a full line waits for nothing");
    }

    /// Nobody waits for a process while one is to be had, or could be spared.
    fn check_start_queue(&self) {
        let places = self.agents.len() + self.looks.len();
        assert!(places <= self.agents.capacity() as usize, "a place was given away twice");
        let waiting = self.start_queue.iter().filter_map(|key| self.sessions.get(*key));
        if self.is_draining()
            || !waiting
                .into_iter()
                .any(|s| !s.archived && !s.deleting && s.unusual.closed_at.is_none())
        {
            return;
        }
        let agents = (0..self.agents.capacity())
            .filter_map(|index| self.agents.get(self.agents.key_at(index)?));
        let (mut starting, mut leaving) = (0, 0);
        for agent in agents {
            starting += u32::from(matches!(agent.life, Life::Spawning | Life::Starting));
            leaving += u32::from(agent.is_leaving());
        }
        let looks = self.looks.len();
        starting += looks as u32;
        let full = self.agents.len() + looks >= self.agents.capacity() as usize;
        assert!(full || starting >= self.limits.agents_starting_max, "a process is to be had");
        let spare = (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .any(|session| session.is_dispensable() && self.background_of(session) == 0);
        assert!(!(full && spare && leaving == 0), "an idle agent keeps a session waiting");
    }
}

/// What splits an agent's lines, if it speaks any.
fn lines(agent: &Agent) -> Option<&Lines> {
    match &agent.stdout {
        Speech::Lines(lines) => Some(lines),
        Speech::Text(_) => None,
    }
}
