//! Requests that wait for something to happen: long polls, and prompts sent with `?wait=`.
//!
//! A waiting request holds its connection and a few words here, nothing else. It is answered when
//! what it waits for is visible, or when its time is up; its client may leave at any time. Many may
//! wait for one event: they are answered in the order in which they had something to be told, as far
//! as there is room for answers, and the rest stand in line and hold no answer until there is.

use crate::base::arena::Key;
use crate::base::ring::Mark;
use crate::core::connection::{Phase, Stage};
use crate::core::event::Filter;
use crate::core::log::Log;
use crate::core::metrics::Sample;
use crate::core::server::Server;
use crate::core::streams::Unknown;
use crate::limits::{KEPT_FROM_WAITS, PAGE_SIZE_MAX};
use crate::wire::json::Array;
use crate::wire::sse;
use std::collections::{BTreeMap, BTreeSet};

/// A request that waits.
#[derive(Debug)]
pub struct Wait {
    /// Who waits.
    pub connection: Key,
    /// When its time is up.
    pub due: u64,
    /// What for.
    pub what: Awaited,
}

/// What a request waits for.
#[derive(Debug)]
pub enum Awaited {
    /// Any event behind a cursor.
    Events(Cursor),
    /// What the kernel says of our processes.
    Sample,
    /// The end of a prompt.
    Prompt {
        /// Its session.
        session: Key,
        /// The prompt.
        prompt_id: String,
        /// The cursor of its first answer.
        cursor: u64,
        /// The position of its first answer.
        position: u32,
        /// The number of the event that ended it, once one has.
        end: Option<u64>,
    },
}

impl Awaited {
    /// The log whose news may be what it waits for.
    fn log(&self) -> Option<u32> {
        match self {
            Awaited::Events(cursor) => Some(log_number(cursor.session)),
            Awaited::Prompt { session, .. } => Some(log_number(Some(*session))),
            Awaited::Sample => None,
        }
    }

    /// The bytes that it takes beside its own size.
    fn heap_size(&self) -> usize {
        match self {
            Awaited::Events(cursor) => {
                let owners = cursor.owners.as_deref().map_or(0, size_of_val);
                owners + cursor.unknown.heap_size()
            }
            Awaited::Prompt { prompt_id, .. } => prompt_id.capacity(),
            Awaited::Sample => 0,
        }
    }
}

/// A place in a log, and what is wanted from there.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The session; none: all of them.
    pub session: Option<Key>,
    /// Behind this event. Moves over what is passed over while nothing wanted comes.
    pub after: u64,
    /// The verdict on the client's cursor.
    pub resume: &'static str,
    /// Which events.
    pub filter: Filter,
    /// Of which sessions, if not all.
    pub owners: Option<Box<[u32]>>,
    /// Ids that were asked for and that no session has.
    pub unknown: Unknown,
}

impl Cursor {
    fn wants(&self, mark: &Mark) -> bool {
        self.filter.takes(mark.tag, mark.superseded)
            && self.owners.as_deref().is_none_or(|owners| owners.contains(&mark.owner))
    }

    /// Looks at what is new to it, once, and passes over what is not wanted. Returns whether there
    /// is anything to be told: something wanted, or that the ring has lost what was not looked at.
    fn has_news(&mut self, log: &Log) -> bool {
        if log.ring.evicted() > self.after {
            return true;
        }
        let from = log.ring.after(self.after);
        for mark in log.ring.marks_from(from).take_while(|mark| mark.start < log.visible()) {
            if self.wants(mark) {
                return true;
            }
            self.after = mark.seq;
        }
        false
    }
}

/// The number of a log among those that requests wait at: its session's slot.
fn log_number(session: Option<Key>) -> u32 {
    session.map_or(u32::MAX, |key| key.index)
}

/// Who waits, found by who it is and by what for.
#[derive(Debug, Default)]
pub struct Waits {
    /// By the slot of the connection, which has one request under way.
    all: BTreeMap<u32, Entry>,
    /// Those who wait for news of a log, in the order in which they came: log, number, slot.
    listening: BTreeSet<(u32, u64, u32)>,
    /// Those who have something to be told, in the order in which they had it: number, slot.
    line: BTreeSet<(u64, u32)>,
    /// Logs that have news for somebody who listens.
    news: Vec<u32>,
    /// Given to the next one.
    number: u64,
    /// The bytes of all.
    size: usize,
}

#[derive(Debug)]
struct Entry {
    wait: Wait,
    /// Its number where it listens, or in the line.
    number: u64,
    is_ready: bool,
}

/// What a wait takes here beside what it waits for. The maps' leaves may be half empty.
const WAIT_SIZE: usize = 2 * (size_of::<Entry>() + 2 * size_of::<(u32, u64, u32)>());

impl Waits {
    /// How many wait.
    pub fn count(&self) -> usize {
        self.all.len()
    }

    /// The bytes of all who wait. They are counted with the requests.
    pub fn size(&self) -> usize {
        self.size
    }

    /// When the time of this one is up, if it waits.
    pub fn due(&self, connection: Key) -> Option<u64> {
        Some(self.get(connection)?.wait.due)
    }

    /// Those who wait.
    pub fn connections(&self) -> impl Iterator<Item = Key> {
        self.all.values().map(|entry| entry.wait.connection)
    }

    fn get(&self, connection: Key) -> Option<&Entry> {
        self.all.get(&connection.index).filter(|entry| entry.wait.connection == connection)
    }

    fn size_of(wait: &Wait) -> usize {
        WAIT_SIZE + wait.what.heap_size()
    }

    fn insert(&mut self, wait: Wait, is_ready: bool) {
        let (slot, number) = (wait.connection.index, self.number);
        self.number += 1;
        self.size += Waits::size_of(&wait);
        match wait.what.log() {
            _ if is_ready => drop(self.line.insert((number, slot))),
            Some(log) => drop(self.listening.insert((log, number, slot))),
            None => {}
        }
        self.all.insert(slot, Entry { wait, number, is_ready });
    }

    fn remove(&mut self, connection: Key) -> Option<Wait> {
        self.get(connection)?;
        let Entry { wait, number, is_ready } = self.all.remove(&connection.index)?;
        self.size -= Waits::size_of(&wait);
        match wait.what.log() {
            _ if is_ready => drop(self.line.remove(&(number, connection.index))),
            Some(log) => drop(self.listening.remove(&(log, number, connection.index))),
            None => {}
        }
        Some(wait)
    }

    /// Moves one to the end of the line.
    fn ready(&mut self, slot: u32) {
        let Some(entry) = self.all.get_mut(&slot).filter(|entry| !entry.is_ready) else { return };
        if let Some(log) = entry.wait.what.log() {
            self.listening.remove(&(log, entry.number, slot));
        }
        (entry.number, entry.is_ready) = (self.number, true);
        self.line.insert((self.number, slot));
        self.number += 1;
    }

    /// The first in the line.
    fn first(&self) -> Option<Key> {
        let (_, slot) = self.line.first()?;
        self.all.get(slot).map(|entry| entry.wait.connection)
    }

    /// The slots of those who wait for news of a log, in their order.
    fn listening_at(&self, log: u32) -> impl Iterator<Item = u32> {
        self.listening.range((log, 0, 0)..=(log, u64::MAX, u32::MAX)).map(|(_, _, slot)| *slot)
    }

    /// A log has news.
    pub fn stir(&mut self, session: Option<Key>) {
        let log = log_number(session);
        if self.listening_at(log).next().is_some() && !self.news.contains(&log) {
            self.news.push(log);
        }
    }

    /// Moves those to the line to whom a log has something to tell.
    fn look(&mut self, number: u32, session: Option<Key>, log: &Log) {
        let mut found = Vec::new();
        for slot in self.listening.range((number, 0, 0)..=(number, u64::MAX, u32::MAX)) {
            let Some(entry) = self.all.get_mut(&slot.2) else { continue };
            let Awaited::Events(cursor) = &mut entry.wait.what else { continue };
            // Of one whose session is gone nothing stands in this log.
            if cursor.session == session && cursor.has_news(log) {
                found.push(slot.2);
            }
        }
        found.into_iter().for_each(|slot| self.ready(slot));
    }
}

/// What a page of events came to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paged {
    /// Events in it.
    pub count: usize,
    /// The first one's number.
    pub first: Option<u64>,
    /// The last one's number.
    pub last: Option<u64>,
}

/// Writes events of a log as elements `{id, event, data}`.
pub fn write_events(server: &Server, log: &Log, marks: &[Mark], array: &mut Array<'_>) -> Paged {
    let mut paged = Paged::default();
    for mark in marks {
        let parts = log.frame(mark);
        let joined;
        let frame = match parts {
            [part, []] => part,
            _ => {
                joined = parts.concat();
                &joined
            }
        };
        let Some((id, name, data)) = sse::parse_frame(frame) else { continue };
        debug_assert_eq!(id, server.publisher.id(mark.seq).to_string());
        array.object(|object| {
            object.string("id", id);
            object.string("event", name);
            object.raw("data", data);
        });
        paged.count += 1;
        paged.first = paged.first.or(Some(mark.seq));
        paged.last = Some(mark.seq);
    }
    paged
}

impl Server {
    /// The wanted visible frames behind a cursor, as many as fit one answer, oldest first.
    pub(super) fn page_after(&self, cursor: &Cursor) -> Vec<Mark> {
        let Some(log) = self.log_at(cursor.session) else { return Vec::new() };
        let mut size = 0;
        let mut marks: Vec<Mark> = Vec::new();
        let from = log.ring.after(cursor.after);
        for mark in log.ring.marks_from(from).take_while(|mark| mark.start < log.visible()) {
            if !cursor.wants(mark) {
                continue;
            }
            size += (log.ring.after(mark.seq) - mark.start) as usize;
            if size > PAGE_SIZE_MAX && !marks.is_empty() {
                break;
            }
            marks.push(*mark);
        }
        marks
    }

    /// The wanted visible frames before event `before`, as many as fit one answer, oldest first,
    /// and whether there are more before them.
    pub(super) fn page_before(
        &self,
        cursor: &Cursor,
        before: u64,
        limit: usize,
    ) -> (Vec<Mark>, bool) {
        let Some(log) = self.log_at(cursor.session) else { return (Vec::new(), false) };
        let end = log.ring.after(before.saturating_sub(1)).min(log.visible());
        let (mut size, mut more) = (0, false);
        let mut marks: Vec<Mark> = Vec::new();
        for mark in log.ring.marks_before(end).filter(|mark| cursor.wants(mark)) {
            size += (log.ring.after(mark.seq) - mark.start) as usize;
            if marks.len() == limit || size > PAGE_SIZE_MAX && !marks.is_empty() {
                more = true;
                break;
            }
            marks.push(*mark);
        }
        marks.reverse();
        (marks, more)
    }

    /// The log that a cursor is about.
    pub(super) fn log_at(&self, session: Option<Key>) -> Option<&Log> {
        match session {
            None => Some(&self.publisher.all),
            Some(key) => self.sessions.get(key).map(|session| &session.feed.log),
        }
    }

    /// Puts a request on the list of those that wait.
    pub(super) fn wait(&mut self, wait: Wait) {
        self.let_wait(wait, false);
    }

    /// The same for one that has something to be told already, and waits for its turn.
    pub(super) fn wait_in_line(&mut self, wait: Wait) {
        self.let_wait(wait, true);
    }

    fn let_wait(&mut self, wait: Wait, is_ready: bool) {
        let (connection, due) = (wait.connection, wait.due);
        self.requests_size -= self.waits.size();
        self.waits.insert(wait, is_ready);
        self.requests_size += self.waits.size();
        if let Some(Phase::Http(exchange)) =
            self.connections.get_mut(connection).map(|connection| &mut connection.phase)
        {
            exchange.due = due;
        }
        self.arm_connection(connection);
    }

    /// Takes a request off that list.
    pub(super) fn take_wait(&mut self, connection: Key) -> Option<Wait> {
        self.requests_size -= self.waits.size();
        let wait = self.waits.remove(connection);
        self.requests_size += self.waits.size();
        wait
    }

    /// The same if it waits for what the kernel says.
    pub(super) fn take_sample_wait(&mut self, connection: Key) -> Option<Wait> {
        let entry = self.waits.get(connection)?;
        matches!(entry.wait.what, Awaited::Sample).then(|| self.take_wait(connection)).flatten()
    }

    /// Whether a client's request waits for something to happen.
    pub fn is_waiting(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(|connection| {
            matches!(&connection.phase, Phase::Http(exchange) if exchange.stage == Stage::Waiting)
        })
    }

    /// A waiting request's client is gone: its place is free.
    pub(super) fn forget_wait(&mut self, connection: Key) {
        self.take_wait(connection);
    }

    /// After a commit: answers the polls that have something to be told, and others in the line.
    pub(super) fn answer_polls(&mut self) {
        let mut news = std::mem::take(&mut self.waits.news);
        for number in news.drain(..) {
            match self.sessions.at(number) {
                Some(session) => {
                    self.waits.look(number, Some(session.key()), &session.feed.log);
                }
                None if number == u32::MAX => self.waits.look(number, None, &self.publisher.all),
                None => {}
            }
        }
        self.waits.news = news;
        self.serve_line();
    }

    /// Answers those in the line, as far as there is room.
    fn serve_line(&mut self) {
        while self.has_turn_for_wait()
            && let Some(connection) = self.waits.first()
            && let Some(wait) = self.take_wait(connection)
        {
            self.tell_wait(wait);
        }
    }

    /// Whether the first in the line can be answered now. A part of the room for requests is left
    /// to those who come: many who take their answers slowly hold up nobody else.
    pub(super) fn has_turn_for_wait(&self) -> bool {
        !self.waits.line.is_empty()
            && self.has_room_beside(KEPT_FROM_WAITS)
            && self.has_room_for_page()
    }

    /// Whether the journals can be asked for another page: there will be room for what comes.
    pub(super) fn has_room_for_page(&self) -> bool {
        let coming = (self.pages.len() + 1) * PAGE_SIZE_MAX;
        self.pages.is_empty()
            || self.pages.len() < self.limits.pages_read_max as usize
                && self.requests_size + coming <= self.limits.requests_size_max
    }

    /// Answers a request for which there is room with what there is.
    fn tell_wait(&mut self, wait: Wait) {
        let connection = wait.connection;
        match wait.what {
            Awaited::Events(cursor) => self.answer_poll(connection, cursor),
            Awaited::Sample => self.answer_scrape(connection, &Sample::default()),
            Awaited::Prompt { session, prompt_id, cursor, position, end } => {
                let prompt = (session, &*prompt_id);
                match end {
                    Some(seq) => {
                        self.answer_prompt_end(connection, prompt, (cursor, position), seq)
                    }
                    None => self.answer_prompt_wait(connection, prompt, cursor, position),
                }
            }
        }
    }

    /// A waiting request's time is up: it is answered with what there is. One for whose answer
    /// there is no room is told so, and has lost nothing: its cursor is where it was.
    pub(super) fn wait_is_over(&mut self, connection: Key) {
        let Some(entry) = self.waits.get(connection) else { return };
        let is_short = match entry.wait.what {
            Awaited::Events(_) => !entry.is_ready,
            Awaited::Prompt { end, .. } => end.is_none(),
            Awaited::Sample => false,
        };
        let Some(wait) = self.take_wait(connection) else { return };
        if is_short || self.has_room() && self.has_room_for_page() {
            return self.tell_wait(wait);
        }
        match wait.what {
            // What its prompt's end says is in the log, behind the cursor of this answer.
            Awaited::Prompt { session, prompt_id, cursor, position, .. } => {
                self.answer_prompt_wait(connection, (session, &prompt_id), cursor, position);
            }
            Awaited::Events(_) | Awaited::Sample => self.answer_no_room(connection),
        }
    }

    /// Answers a client that waits for news with what there is now. One that waits for the answer to a
    /// question of ours goes on waiting: that comes soon.
    pub(super) fn wait_no_longer(&mut self, connection: Key) {
        let awaits_news = |entry: &Entry| !matches!(entry.wait.what, Awaited::Sample);
        if self.waits.get(connection).is_some_and(awaits_news) {
            self.wait_is_over(connection);
        }
    }

    /// The server goes away: those who wait are answered now.
    pub(super) fn end_waits(&mut self) {
        let over: Vec<Key> = self.waits.connections().collect();
        for connection in over {
            self.wait_is_over(connection);
        }
    }

    /// A prompt has ended with the event that was just published: whoever waits for it is told, in
    /// his turn.
    pub(super) fn prompt_ended(&mut self, session: Key, prompt_id: &str, seq: u64) {
        if let Some(session) = self.sessions.get_mut(session) {
            session.prompts.ended(prompt_id, seq);
        }
        let mut found = Vec::new();
        for slot in self.waits.listening_at(session.index) {
            let what = self.waits.all.get(&slot).map(|entry| &entry.wait.what);
            if let Some(Awaited::Prompt { session: key, prompt_id: id, .. }) = what
                && *key == session
                && id == prompt_id
            {
                found.push(slot);
            }
        }
        for slot in found {
            if let Some(entry) = self.waits.all.get_mut(&slot)
                && let Awaited::Prompt { end, .. } = &mut entry.wait.what
            {
                *end = Some(seq);
                self.waits.ready(slot);
            }
        }
        self.serve_line();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wait(slot: u32, what: Awaited) -> Wait {
        Wait { connection: Key { kind: 1, generation: 0, index: slot }, due: 0, what }
    }

    fn poll(session: Key, after: u64, types: &str) -> Awaited {
        let filter = Filter::parse(types).unwrap();
        let (session, owners, unknown) = (Some(session), None, Unknown::default());
        Awaited::Events(Cursor { session, after, resume: "ok", filter, owners, unknown })
    }

    #[test]
    fn what_is_not_wanted_is_looked_at_once_and_who_has_news_stands_in_line_in_their_order() {
        let session = Key { kind: 2, generation: 3, index: 0 };
        let (mut waits, mut log) = (Waits::default(), Log::new(1 << 16));
        waits.insert(wait(7, poll(session, 0, "session-closed")), false);
        waits.insert(wait(5, poll(session, 0, "session-output")), false);
        waits.insert(wait(6, poll(session, 0, "")), false);
        let elsewhere = Key { index: 1, ..session };
        waits.insert(wait(4, poll(elsewhere, 0, "")), false);
        let closed = crate::core::event::EventKind::SessionClosed as u8;
        let output = crate::core::event::EventKind::SessionOutput as u8;
        for seq in 1..=50 {
            log.append(b"frame", seq, 1, output).unwrap();
        }
        log.show(40);
        waits.stir(Some(session));
        waits.stir(None);
        assert_eq!(waits.news, [0], "where nobody listens there is no news");
        waits.look(0, Some(session), &log);
        let line = |waits: &Waits| waits.line.iter().map(|(_, slot)| *slot).collect::<Vec<_>>();
        assert_eq!(line(&waits), [5, 6]);
        let after = |waits: &Waits, slot| match &waits.all[&slot].wait.what {
            Awaited::Events(cursor) => cursor.after,
            _ => 0,
        };
        assert_eq!(after(&waits, 7), 40, "from here on it is looked at, and not from 0");
        assert_eq!((after(&waits, 5), after(&waits, 4)), (0, 0));
        log.append(b"frame", 51, 1, closed).unwrap();
        log.show(51);
        waits.look(0, Some(session), &log);
        assert_eq!((line(&waits), after(&waits, 7)), (vec![5, 6, 7], 50));
        for slot in 4..=7 {
            let connection = Key { kind: 1, generation: 0, index: slot };
            assert!(waits.remove(Key { generation: 1, ..connection }).is_none(), "a newcomer");
            assert!(waits.remove(connection).is_some());
        }
        assert_eq!((waits.count(), waits.size()), (0, 0));
        assert!(waits.listening.is_empty() && waits.line.is_empty());
    }

    #[test]
    fn one_that_the_ring_has_outrun_is_told() {
        let session = Key { kind: 2, generation: 0, index: 0 };
        let (mut waits, mut log) = (Waits::default(), Log::new(1024));
        waits.insert(wait(1, poll(session, 1, "session-closed")), false);
        for seq in 1..=100 {
            log.append(&[b'x'; 200], seq, 1, 0).unwrap();
        }
        log.show(100);
        waits.look(0, Some(session), &log);
        assert_eq!(waits.line.len(), 1);
    }
}
