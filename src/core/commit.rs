//! The commit: what was published becomes durable, then visible.
//!
//! At the end of a turn everything new goes to the disk thread as one batch; while one is under
//! way, the next one gathers in the rings. `visible` is one number for the whole server and rises
//! with a batch's answer, so nobody is ever shown an event after one with a higher number. Where
//! nothing is to be durable, or the disk takes nothing, what is published is visible at once: then
//! the rings are all there is, and what they lose before the disk is back is told as a hole.

use crate::base::arena::Key;
use crate::base::ring::Found;
use crate::core::effect::{AppendFailure, Batch, DiskRequest, Effect, Level, Part};
use crate::core::epochs::Durability;
use crate::core::event::EventKind;
use crate::core::holes::Thing;
use crate::core::journal::Lost;
use crate::core::leftovers::Leftovers;
use crate::core::publisher::Beside;
use crate::core::server::Server;
use crate::limits::{BESIDE_MAX, RINGS_KEPT};

/// Between two tries to write, while the disk takes nothing.
const RETRY_MS: u64 = 1_000;

/// What the server knows of its journals.
#[derive(Debug)]
pub struct Keeper {
    /// What an event must have survived before anybody sees it.
    pub durability: Durability,
    /// The buffers of the next batch, unless one is under way.
    batch: Option<Box<Batch>>,
    /// When the batch that is under way was handed over.
    handed_at: u64,
    /// Why the disk takes nothing, while it does not.
    failure: Option<Failing>,
    /// The bytes of all journals.
    pub total: u64,
    /// Sessions that own a ring.
    ringed: Vec<Key>,
    /// Not everything that was shown is written, or told to be lost: a batch is still to say that
    /// all is well.
    heals: bool,
    /// The server ends, and a last try to write was begun.
    tries_last: bool,
    /// Bytes of large fields in the batch that is under way.
    flying: usize,
    /// Sessions that are gone and still on disk.
    pub leftovers: Leftovers,
    /// What of each session was open where its journal stopped, while the disk takes nothing.
    pub(super) open: Vec<(Key, Vec<Thing>)>,
    /// What of that has ended without a word that could be written.
    pub(super) unended: Vec<(Key, Vec<Thing>)>,
}

#[derive(Debug)]
struct Failing {
    sentence: String,
    retry_at: u64,
}

impl Keeper {
    /// Nothing is written yet.
    pub fn new(durability: Durability) -> Keeper {
        Keeper {
            durability,
            batch: Some(Box::default()),
            handed_at: 0,
            failure: None,
            total: 0,
            ringed: Vec::new(),
            heals: false,
            tries_last: false,
            flying: 0,
            leftovers: Leftovers::default(),
            open: Vec::new(),
            unended: Vec::new(),
        }
    }

    /// Whether there are journals at all.
    pub fn keeps(&self) -> bool {
        self.durability != Durability::Memory
    }

    /// Large fields that could not be written, unless they are on their way again.
    pub fn unwritten(&self) -> impl Iterator<Item = &Beside> {
        self.batch.iter().flat_map(|batch| &batch.beside)
    }

    /// Whether a batch is on its way.
    pub fn is_busy(&self) -> bool {
        self.batch.is_none()
    }

    /// For how long the disk has not answered what it was given, in milliseconds.
    pub fn busy_ms(&self, now_ms: u64) -> u64 {
        if self.is_busy() { now_ms.saturating_sub(self.handed_at) } else { 0 }
    }

    /// Why the disk takes nothing, while it does not.
    pub fn failure(&self) -> Option<&str> {
        self.failure.as_ref().map(|failing| &*failing.sentence)
    }

    /// Whether what was shown is written, or told to be lost.
    pub fn is_well(&self) -> bool {
        !self.heals
    }

    /// Whether the last try to write, at the end of the server, is over.
    pub fn has_tried_last(&self) -> bool {
        self.tries_last && !self.is_busy()
    }

    /// When to try again.
    pub fn retry_at(&self) -> u64 {
        match &self.failure {
            Some(failing) if self.batch.is_some() => failing.retry_at,
            _ => u64::MAX,
        }
    }
}

impl Server {
    /// Whether so many large fields are on their way to the disk that there is no memory for more.
    pub(super) fn awaits_disk(&self) -> bool {
        let size = self.publisher.beside_size() + self.keeper.flying;
        size > BESIDE_MAX && self.keeper.failure.is_none()
    }

    /// Ends the turn: what was published becomes visible, or is on its way to.
    pub fn commit(&mut self) {
        if !self.keeper.keeps() || self.keeper.failure.is_some() {
            self.show_everything();
        }
        if self.keeper.keeps() && self.keeper.failure.is_none() {
            self.hand_over();
        }
        if self.is_draining() && self.is_deserted() {
            self.try_last();
        }
        self.heal();
        self.tell_hooks();
        self.release_held();
        self.answer_polls();
        self.release_agents();
        self.feed_starved();
        self.serve_tails();
    }

    /// Shows what the rings hold: there is nothing to wait for.
    fn show_everything(&mut self) {
        if self.publisher.has_hidden() {
            let dirty = self.publisher.take_dirty();
            for key in &dirty {
                if let Some(session) = self.sessions.get_mut(*key) {
                    session.feed.log.dirty = false;
                }
            }
            self.show(self.publisher.seq(), dirty.iter().copied());
            self.publisher.recycle_dirty(dirty);
        }
    }

    /// Shows everything up to `seq`, all of it in these sessions.
    fn show(&mut self, seq: u64, keys: impl Iterator<Item = Key>) {
        self.publisher.show(seq);
        for key in keys {
            if let Some(session) = self.sessions.get_mut(key) {
                let log = &mut session.feed.log;
                log.show(seq);
                let (links, pending) = (&mut self.links, &mut self.pending);
                Self::wake(log, &mut self.connections, links, pending);
                self.waits.stir(Some(key));
            }
        }
        self.waits.stir(None);
        let (links, pending) = (&mut self.links, &mut self.pending);
        let all = &mut self.publisher.all;
        Self::wake(all, &mut self.connections, links, pending);
    }

    /// Hands everything that is not written to the disk thread, unless it has something already.
    fn hand_over(&mut self) {
        if !self.publisher.has_dirty() {
            return;
        }
        let Some(batch) = self.keeper.batch.take() else { return };
        let dirty = self.publisher.take_dirty();
        self.fill(batch, &dirty);
        self.publisher.recycle_dirty(dirty);
    }

    fn fill(&mut self, mut batch: Box<Batch>, dirty: &[Key]) {
        batch.begin();
        if let Some(beside) = &mut self.publisher.beside {
            batch.beside.append(beside);
        }
        // While the disk takes nothing, the newest must do.
        let mut size: usize = batch.beside.iter().map(|one| one.bytes.len()).sum();
        while size > self.limits.large_size_max && !batch.beside.is_empty() {
            size -= batch.beside.remove(0).bytes.len();
        }
        self.keeper.flying = size;
        self.keeper.handed_at = self.now_ms;
        batch.last_seq = self.publisher.seq();
        batch.sync = self.keeper.durability == Durability::Sync;
        for key in dirty {
            self.fill_part(&mut batch, *key);
        }
        // Of a hole the next batch tells; what was deleted and is still there would come back.
        batch.heals = self.can_heal() && !batch.parts.iter().any(|part| part.place.after_hole);
        self.effects.push_back(Effect::Disk(DiskRequest::Append(batch)));
    }

    /// Whether nothing but a batch that says so is missing for all to be well.
    fn can_heal(&self) -> bool {
        self.keeper.heals && self.keeper.failure.is_none() && self.keeper.leftovers.is_empty()
    }

    /// Somebody must say that all is well again: where no event follows, an empty batch does.
    fn heal(&mut self) {
        if self.can_heal()
            && !self.publisher.has_dirty()
            && let Some(batch) = self.keeper.batch.take()
        {
            self.fill(batch, &[]);
        }
    }

    /// Puts what is new of one session into a batch.
    fn fill_part(&mut self, batch: &mut Batch, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let session_id = session.feed.scope.session_id.clone();
        let stays_open = session.process.is_some();
        let log = &mut session.feed.log;
        log.dirty = false;
        let ring = &log.ring;
        let Some(journal) = &mut log.journal else { return };
        let (start, end) = (journal.written().max(ring.base()), ring.head());
        let marks = ring.marks_from(start).map(|mark| (mark.seq, mark.start));
        let beside = batch.beside.iter().filter(|one| one.session_id == session_id);
        let large_size = beside.map(|one| one.bytes.len() as u64).sum();
        let Some(place) = journal.hand((start, end), marks, large_size) else { return };
        let from = batch.bytes.len();
        if let Found::Bytes(part, wrapped) = ring.at(start, end) {
            batch.bytes.extend_from_slice(part);
            batch.bytes.extend_from_slice(wrapped);
        }
        if !self.keeper.ringed.contains(&key) {
            self.keeper.ringed.push(key);
        }
        if place.after_hole {
            self.find_unended(key); // Told once this is written.
        }
        let session = self.sessions.get(key).filter(|_| place.is_new);
        let snapshot = session.map(|session| self.snapshot(session));
        batch.parts.push(Part { key, session_id, place, start, from, stays_open, snapshot });
    }

    /// The disk thread has answered a batch.
    pub(super) fn appended(&mut self, mut batch: Box<Batch>, result: Result<(), AppendFailure>) {
        self.keeper.flying = 0;
        let parts = std::mem::take(&mut batch.parts);
        let last_seq = batch.last_seq;
        match result {
            Ok(()) => {
                self.reuse(&mut batch.beside);
                batch.bytes.shrink_to(self.limits.ring_size);
                let healed = std::mem::take(&mut batch.heals);
                self.written(&parts);
                self.show(last_seq, parts.iter().map(|part| part.key));
                batch.parts = parts;
                batch.begin(); // Its memory serves the next one.
                self.keeper.batch = Some(batch);
                if self.keeper.failure.take().is_some() {
                    self.recovered();
                } else if healed {
                    self.keeper.heals = false;
                    self.keeper.open.clear();
                }
                self.retain();
                self.release_rings();
            }
            Err(failure) => {
                self.keeper.batch = Some(batch);
                let keys: Vec<Key> = parts.iter().map(|part| part.key).collect();
                self.append_failed(&keys, failure);
            }
        }
        self.release_held();
        self.answer_polls();
        self.release_agents();
        self.arm_own();
    }

    /// Large fields are on disk: as long as an agent is at long lines, the memory of one serves
    /// the next.
    fn reuse(&mut self, beside: &mut Vec<Beside>) {
        let is_wanted = self.long_line_buffer.is_some() || !self.long_line.is_empty();
        if let Some(one) = beside.pop()
            && is_wanted
        {
            self.publisher.spare = one.bytes;
        }
        beside.clear();
    }

    /// Notes what is on disk now, and tells what never will be.
    fn written(&mut self, parts: &[Part]) {
        for key in parts.iter().map(|part| part.key) {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let Some(journal) = &mut session.feed.log.journal else { continue };
            let before = journal.size();
            let lost = journal.wrote();
            self.keeper.total += journal.size().saturating_sub(before);
            if let Some(lost) = lost {
                self.tell_lost(key, lost, "journal_failed");
                self.end_unended(key);
            }
        }
    }

    fn tell_lost(&mut self, key: Key, lost: Lost, reason: &str) {
        let (from, to) = (self.publisher.id(lost.from), self.publisher.id(lost.to));
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.unusual.closed_at.is_some() {
            return; // Nothing comes after its end; the verdict on cursors says it.
        }
        self.publisher.publish_apart(&mut session.feed, EventKind::EventsLost, |object| {
            object.display("from", from);
            object.display("to", to);
            object.string("reason", reason);
        });
    }

    /// The end of a session's journal was cut after a power loss: what it held nobody knows.
    pub(super) fn tell_cut_tail(&mut self, key: Key) {
        let to = self.publisher.epochs.present().first_seq - 1;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let log = &mut session.feed.log;
        let Some(journal) = &mut log.journal else { return };
        let from = journal.last_seq() + 1;
        journal.evict_to(to);
        log.ring.evict_to(to);
        self.tell_lost(key, Lost { from, to }, "tail_cut");
    }

    /// The start found a disk that takes no writes, and these sessions in doubt for it.
    pub fn begin_failing(&mut self, sentence: String, session_ids: &[String]) {
        let keys = session_ids.iter().filter_map(|id| self.by_id.find(&self.sessions, id));
        let keys: Vec<Key> = keys.collect();
        self.append_failed(&keys, AppendFailure { sentence, in_doubt: false });
        self.arm_own();
    }

    fn append_failed(&mut self, keys: &[Key], failure: AppendFailure) {
        let keys = || keys.iter().copied();
        let is_news = self.keeper.failure.is_none();
        if is_news {
            self.note_open();
        }
        for key in keys() {
            let Some(session) = self.sessions.get_mut(key) else { continue };
            let log = &mut session.feed.log;
            let Some(journal) = &mut log.journal else { continue };
            journal.failed();
            if failure.in_doubt {
                let before = journal.size();
                let ring = &log.ring;
                let last = |from| ring.last_before(from).map_or(ring.evicted(), |mark| mark.seq);
                journal.abandon(ring.base(), last);
                self.keeper.total = (self.keeper.total + journal.size()).saturating_sub(before);
            }
        }
        let retry_at = self.now_ms + RETRY_MS;
        let sentence = failure.sentence;
        self.keeper.failure = Some(Failing { sentence: sentence.clone(), retry_at });
        self.keeper.heals = true;
        self.show_everything(); // Also what came while the batch was under way.
        self.show(self.publisher.seq(), keys());
        if is_news {
            let told = vec![("error", sentence.clone())];
            self.log(Level::Error, "journal", "the journal cannot be written", told);
            let error = format!("the journal cannot be written, streaming goes on: {sentence}");
            for key in keys() {
                let Some(session) = self.sessions.get_mut(key) else { continue };
                if session.unusual.closed_at.is_some() {
                    continue; // Nothing comes after its end.
                }
                self.publisher.publish_apart(
                    &mut session.feed,
                    EventKind::SessionError,
                    |object| {
                        object.string("error", &error);
                        object.string("code", "journal_failed");
                    },
                );
            }
        }
        self.show_everything();
    }

    /// Tries to write what is not written, while the disk took nothing.
    pub(super) fn retry_append(&mut self) {
        if self.now_ms < self.keeper.retry_at() {
            return;
        }
        let Some(batch) = self.keeper.batch.take() else { return };
        let keys = self.unwritten();
        self.fill(batch, &keys);
    }

    /// The server ends as soon as everything is written: what the disk has not taken is tried once
    /// more, at once.
    fn try_last(&mut self) {
        let now_ms = self.now_ms;
        if !self.keeper.tries_last
            && !self.keeper.is_busy()
            && let Some(failing) = &mut self.keeper.failure
        {
            failing.retry_at = now_ms;
            self.keeper.tries_last = true;
            self.retry_append();
        }
    }

    fn unwritten(&self) -> Vec<Key> {
        (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.key_at(index))
            .filter(|key| self.sessions.get(*key).is_some_and(|s| !s.feed.log.is_on_disk()))
            .collect()
    }

    /// The disk takes writes again: what came while the last batch was under way follows.
    fn recovered(&mut self) {
        self.log(Level::Info, "journal", "the journal can be written again", Vec::new());
        for key in self.unwritten() {
            if let Some(session) = self.sessions.get_mut(key) {
                self.publisher.note_dirty(&mut session.feed);
            }
        }
    }

    /// Removes the oldest segments of journals that are too large, each or together.
    fn retain(&mut self) {
        for at in 0..self.keeper.ringed.len() {
            let key = self.keeper.ringed[at];
            while self.sessions.get(key).is_some_and(|session| {
                let journal = session.feed.log.journal.as_ref();
                journal.is_some_and(|journal| {
                    let several = journal.oldest().is_some_and(|(_, count)| count > 1);
                    several && journal.size() > self.limits.journal_max
                })
            }) {
                self.drop_oldest(key);
            }
        }
        while self.keeper.total > self.limits.journal_total_max
            && let Some(key) = self.oldest_journal()
        {
            self.drop_oldest(key);
        }
    }

    /// The session with the oldest segment that can go.
    fn oldest_journal(&self) -> Option<Key> {
        (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .filter_map(|session| {
                let log = &session.feed.log;
                let (segment, count) = log.journal.as_ref()?.oldest()?;
                let can_go = count > 1 || session.process.is_none() && log.is_on_disk();
                can_go.then_some((segment.first_seq, session.key()))
            })
            .min_by_key(|(first_seq, _)| *first_seq)
            .map(|(_, key)| key)
    }

    fn drop_oldest(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let session_id = session.id().to_owned();
        let Some(journal) = &mut session.feed.log.journal else { return };
        let before = journal.size();
        let Some((segment, until)) = journal.forget_oldest() else { return };
        self.keeper.total = self.keeper.total.saturating_sub(before - journal.size());
        let is_last = journal.oldest().is_none();
        let session = self.sessions.get(key).filter(|_| is_last);
        let snapshot = session.map(|session| self.snapshot(session));
        let request = DiskRequest::Drop { session_id, segment, until, snapshot };
        self.effects.push_back(Effect::Disk(request));
    }

    /// Gives back the rings of sessions that are quiet: what was in them is on disk.
    pub(super) fn release_rings(&mut self) {
        let mut spare =
            self.keeper.ringed.len().saturating_sub(self.limits.agents_max as usize + RINGS_KEPT);
        let mut ringed = std::mem::take(&mut self.keeper.ringed);
        ringed.retain(|key| {
            let Some(session) = self.sessions.get_mut(*key) else { return false };
            let busy = session.process.is_some() || session.turn.is_some();
            let log = &mut session.feed.log;
            if busy || !log.is_on_disk() || log.hidden() > 0 {
                return true;
            }
            // Whoever reads there goes on from the disk: only many rings are worth that.
            if spare == 0 {
                return true;
            }
            spare -= 1;
            session.rest();
            false
        });
        self.keeper.ringed = ringed;
    }
}
