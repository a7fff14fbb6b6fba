//! The server's starts as the model sees them: which cursors must hold, what must still be there,
//! and what is gone.

use crate::disk::Frames;
use crate::model::{Model, Session};
use sidestream::core::epochs::Durability;
use sidestream::wire::sse::{self, EventId};
use std::collections::BTreeMap;

/// One start of the server.
pub struct Era {
    pub epoch: String,
    first_seq: u64,
    /// The newest number that it showed.
    last: u64,
    mode: Durability,
    /// What it showed is on disk for sure.
    survived: bool,
}

impl Model {
    /// Whether a cursor was issued, by a start whose events had to survive: then it must hold.
    pub fn must_hold(&self, cursor: &str) -> bool {
        let Some(id) = EventId::parse(cursor.as_bytes()) else { return false };
        let epoch = id.epoch.to_string();
        let Some(at) = self.eras.iter().position(|era| era.epoch == epoch) else { return false };
        let era = &self.eras[at];
        let is_last = at + 1 == self.eras.len();
        let last = if is_last { self.visible } else { era.last };
        let survived = self.eras[at..self.eras.len() - 1].iter().all(|era| era.survived);
        (era.first_seq - 1..=last).contains(&id.seq) && survived
    }

    /// Whether a cursor is of a start of which nothing is left, or of none.
    pub fn must_not_hold(&self, cursor: &str) -> bool {
        let Some(id) = EventId::parse(cursor.as_bytes()) else { return true };
        let epoch = id.epoch.to_string();
        let Some(at) = self.eras.iter().position(|era| era.epoch == epoch) else { return true };
        let is_last = at + 1 == self.eras.len();
        !is_last && self.eras[at].mode == Durability::Memory
    }

    /// The newest number that may be gone of a log.
    pub fn gone_at_most(&self, session: Option<usize>) -> u64 {
        let list = self.list(session);
        if !self.has_journals {
            return list.evicted();
        }
        // What the ring forgot is gone too, where the disk did not take it.
        let rings = || self.sessions.iter().map(|session| session.list.evicted());
        let ring = match session {
            _ if !self.is_shaky => 0,
            Some(_) => list.evicted(),
            None => rings().max().unwrap_or(0).max(list.evicted()),
        };
        // What retention has taken, and a power loss brought back, is not counted on.
        let dropped = session.and_then(|session| self.dropped.get(&self.sessions[session].id));
        list.gone_at_most().max(ring).max(dropped.copied().unwrap_or(0))
    }

    /// The start that has ended left word that not everything was written.
    pub fn break_era(&mut self) {
        self.is_doubtful = true;
        if let Some(era) = self.eras.last_mut() {
            era.survived = false;
        }
    }

    /// What was shown of a session up to a number may be lost.
    pub fn doubt(&mut self, id: &str, until: u64) {
        let Some(session) = self.session(id) else { return };
        for list in [&mut self.sessions[session].list, &mut self.all] {
            list.doubtful = list.doubtful.max(until);
        }
    }

    /// Events of a session up to a number go from its journal.
    pub fn forget(&mut self, session: usize, until: u64, step: u64) {
        for entry in &self.sessions[session].list.entries {
            let event = &mut self.events[entry.event];
            if event.seq <= until {
                event.gone_at = event.gone_at.min(step);
            }
        }
        self.sessions[session].list.evict(step, until);
        self.all.evict(step, until);
    }

    /// Everything of a session goes, up to number `last`, which nobody may have seen yet.
    pub fn erase(&mut self, session: usize, last: u64, step: u64) {
        self.forget(session, last, step);
        self.sessions[session].erased = true;
    }

    /// A start is over, and whether what it showed had to survive that. `written` is the newest number
    /// that the journals took, `intact` what the data directory says of them, `failing` that it was
    /// shown while they took nothing.
    pub fn end_era(
        &mut self,
        mode: Durability,
        power_lost: bool,
        written: u64,
        (intact, failing): (bool, bool),
    ) {
        let covered = match mode {
            Durability::Memory => false,
            Durability::Write => !power_lost,
            Durability::Sync => true,
        };
        // What was shown while the disk took nothing is gone.
        self.is_covered = covered && self.visible <= written && !failing && intact;
        // A disk that failed and was not seen to be well again leaves the same doubt.
        self.is_doubtful = power_lost || !intact;
        if power_lost {
            let earlier = self.eras.iter_mut().filter(|era| era.mode == Durability::Write);
            earlier.for_each(|era| era.survived = false);
        }
        if let Some(era) = self.eras.last_mut() {
            let survived = self.is_covered && intact;
            (era.last, era.mode, era.survived) = (self.visible, mode, survived);
        }
    }

    /// Another start: what its journals hold is compared with what was shown. Returns how many
    /// events are lost.
    pub fn begin(
        &mut self,
        epoch: String,
        first_seq: u64,
        (found, ending): (&BTreeMap<String, Frames>, &BTreeMap<String, u64>),
        step: u64,
    ) -> u64 {
        let context = self.context.clone();
        let (mut lost_count, mut hidden) = (0, Vec::new());
        for session in 0..self.sessions.len() {
            let known = &mut self.sessions[session];
            let id = known.id.clone();
            let Some(frames) = found.get(&id) else {
                let end = ending.get(&id).copied();
                let ends = known.closed || known.erased || known.status == "stopping";
                let ends = ends || end.is_some();
                assert!(ends || !self.is_covered, "{context}: {id} was lost");
                // It goes with all that was written of it, shown or not.
                known.list.doubtful = known.list.doubtful.max(end.unwrap_or(0));
                for entry in &known.list.entries {
                    let event = &mut self.events[entry.event];
                    event.gone_at = event.gone_at.min(step);
                }
                known.end();
                continue;
            };
            assert!(!known.closed || !self.is_covered, "{context}: {id} came back");
            let mut on_disk = frames.iter().peekable();
            let (mut lost, newest) = (0, frames.last().map_or(0, |(seq, _)| *seq));
            let mut is_cut = false;
            // What a hole took was told with it, or is told now that it was written.
            let in_holes = frames.iter().filter_map(|(_, frame)| lost_until(frame)).max();
            let told = known.list.doubtful.max(in_holes.unwrap_or(0));
            for entry in &known.list.entries {
                let event = &mut self.events[entry.event];
                match on_disk.next_if(|(seq, _)| *seq == event.seq) {
                    Some((_, frame)) => {
                        assert_eq!(*frame, event.frame, "{context}: not what was shown");
                        (event.gone_at, event.lost) = (u64::MAX, false);
                    }
                    // Retention was about to take it, and the rest of its segment is still there.
                    None if event.gone_at < u64::MAX => {
                        is_cut |= !self.is_covered && event.seq > newest;
                    }
                    None => {
                        let (seq, name) = (event.seq, &event.name);
                        let is_told = !self.is_covered || seq <= told;
                        assert!(is_told, "{context}: {id} lost {seq}, {name}");
                        (event.gone_at, event.lost) = (step, true);
                        lost += 1;
                    }
                }
            }
            lost_count += lost;
            for (seq, frame) in on_disk {
                assert!(*seq > self.visible, "{context}: {seq} was never shown");
                hidden.push((*seq, frame.clone()));
            }
            // Where retention was, the oldest frame that is left says how far it went.
            let oldest = frames.first().map_or(first_seq, |(seq, _)| *seq);
            if known.list.entries.first().is_some_and(|entry| entry.seq < oldest) {
                known.list.doubtful = known.list.doubtful.max(oldest - 1);
            }
            if !self.is_covered {
                known.list.doubtful = first_seq - 1;
            }
            if lost > 0 || is_cut || known.closed {
                // A snapshot may know of events that are lost.
                self.rebuild(session);
            }
        }
        // A session that was written and not shown: nobody was told of it, and it is there.
        for (id, frames) in found.iter().filter(|(id, _)| !self.by_id.contains_key(*id)) {
            let shown = frames.iter().find(|(seq, _)| *seq <= self.visible);
            assert_eq!(shown, None, "{context}: {id} is no session that was shown");
            hidden.extend_from_slice(frames);
        }
        hidden.sort();
        self.tally.add("written-and-never-shown", hidden.len() as u64);
        self.step = step;
        self.batch += 1;
        for (_, frame) in hidden {
            self.take(&frame);
        }
        for id in found.keys() {
            if self.session(id).is_none() {
                // Its snapshot is all that the power loss has left of it.
                assert!(!self.is_covered, "{context}: {id} was never created");
                self.add_session(id, "", true);
            }
        }
        self.born = (self.is_covered, self.is_doubtful);
        self.recount(step);
        let mode = Durability::Memory;
        self.eras.push(Era { epoch: epoch.clone(), first_seq, last: 0, mode, survived: true });
        (self.epoch, self.visible) = (epoch, first_seq - 1);
        self.begin_anew();
        lost_count
    }

    /// What is gone, anew, and empty rings.
    fn recount(&mut self, step: u64) {
        self.all.evictions.clear();
        for session in &mut self.sessions {
            let gone = session.list.entries.iter().filter_map(|entry| {
                let event = &self.events[entry.event];
                (event.gone_at < u64::MAX).then_some(event.seq)
            });
            let gone = gone.max().unwrap_or(0);
            session.list.evictions = vec![(step, gone)];
            self.all.evict(step, gone);
            self.all.doubtful = self.all.doubtful.max(session.list.doubtful);
            session.list.empty_ring();
        }
        self.all.empty_ring();
    }

    /// A session of which events are lost: what is left of them cannot be followed.
    fn rebuild(&mut self, session: usize) {
        let before = std::mem::take(&mut self.sessions[session]);
        self.sessions[session] = Session {
            id: before.id,
            agent: before.agent,
            odd: before.odd,
            resolved: before.resolved,
            ran: before.ran,
            truncated: true,
            has_hole: before.has_hole,
            list: before.list,
            status: "idle".to_owned(),
            ..Session::default()
        };
    }
}

/// Up to where an `events-lost` says that events are lost.
fn lost_until(frame: &str) -> Option<u64> {
    let (_, name, data) = sse::parse_frame(frame.as_bytes())?;
    let data: serde_json::Value = serde_json::from_str(data).ok()?;
    let to = data["to"].as_str().filter(|_| name == "events-lost")?;
    EventId::parse(to.as_bytes()).map(|id| id.seq)
}
