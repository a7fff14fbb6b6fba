//! Requests that wait for something to happen: long polls, and prompts sent with `?wait=`.
//!
//! A waiting request holds its connection and a few words here, nothing else. It is answered when
//! what it waits for is visible, or when its time is up; its client may leave at any time.

use crate::base::arena::Key;
use crate::base::ring::Mark;
use crate::core::connection::{Phase, Stage};
use crate::core::event::Filter;
use crate::core::log::Log;
use crate::core::metrics::Sample;
use crate::core::server::Server;
use crate::core::streams::Unknown;
use crate::wire::json::Array;
use crate::wire::sse;

/// The most bytes of events in one answer.
pub const PAGE_SIZE_MAX: usize = 256 * 1024;

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
    },
}

/// A place in a log, and what is wanted from there.
#[derive(Clone, Debug)]
pub struct Cursor {
    /// The session; none: all of them.
    pub session: Option<Key>,
    /// Behind this event.
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
        let (connection, due) = (wait.connection, wait.due);
        self.waits.push(wait);
        if let Some(Phase::Http(exchange)) =
            self.connections.get_mut(connection).map(|connection| &mut connection.phase)
        {
            exchange.due = due;
        }
        self.arm_connection(connection);
    }

    /// Whether a client's request waits for something to happen.
    pub fn is_waiting(&self, key: Key) -> bool {
        self.connections.get(key).is_some_and(|connection| {
            matches!(&connection.phase, Phase::Http(exchange) if exchange.stage == Stage::Waiting)
        })
    }

    /// A waiting request's client is gone: its place is free.
    pub(super) fn forget_wait(&mut self, connection: Key) {
        self.waits.retain(|wait| wait.connection != connection);
    }

    /// After a commit: answers the polls that have something to be told.
    pub(super) fn answer_polls(&mut self) {
        let mut at = 0;
        while at < self.waits.len() {
            let has_news = match &self.waits[at].what {
                Awaited::Events(cursor) => !self.page_after(cursor).is_empty(),
                Awaited::Prompt { .. } | Awaited::Sample => false,
            };
            if !has_news {
                at += 1;
                continue;
            }
            let wait = self.waits.swap_remove(at);
            if let Awaited::Events(cursor) = wait.what {
                self.answer_poll(wait.connection, &cursor);
            }
        }
    }

    /// A waiting request's time is up: it is answered with what there is.
    pub(super) fn wait_is_over(&mut self, connection: Key) {
        let Some(at) = self.waits.iter().position(|wait| wait.connection == connection) else {
            return;
        };
        match self.waits.swap_remove(at).what {
            Awaited::Events(cursor) => self.answer_poll(connection, &cursor),
            Awaited::Sample => self.answer_scrape(connection, &Sample::default()),
            Awaited::Prompt { session, prompt_id, cursor, position } => {
                self.answer_prompt_wait(connection, (session, &prompt_id), cursor, position);
            }
        }
    }

    /// Answers a client that waits for news with what there is now. One that waits for the answer to a
    /// question of ours goes on waiting: that comes soon.
    pub(super) fn wait_no_longer(&mut self, connection: Key) {
        let awaits_news = |wait: &Wait| match wait.what {
            Awaited::Events(_) | Awaited::Prompt { .. } => wait.connection == connection,
            Awaited::Sample => false,
        };
        if self.waits.iter().any(awaits_news) {
            self.wait_is_over(connection);
        }
    }

    /// The server goes away, or a session does: those who wait there are answered now.
    pub(super) fn end_waits(&mut self, which: impl Fn(&Awaited) -> bool) {
        let over: Vec<Key> = self
            .waits
            .iter()
            .filter(|wait| which(&wait.what))
            .map(|wait| wait.connection)
            .collect();
        for connection in over {
            self.wait_is_over(connection);
        }
    }

    /// A prompt has ended with the event that was just published: whoever waits for it is told.
    pub(super) fn prompt_ended(&mut self, session: Key, prompt_id: &str, seq: u64) {
        if let Some(session) = self.sessions.get_mut(session) {
            session.prompts.ended(prompt_id, seq);
        }
        let waits = |wait: &Wait| {
            matches!(&wait.what, Awaited::Prompt { session: s, prompt_id: id, .. }
                if *s == session && id == prompt_id)
        };
        while let Some(at) = self.waits.iter().position(waits) {
            let wait = self.waits.swap_remove(at);
            self.answer_prompt_end(wait.connection, session, prompt_id, seq);
        }
    }
}
