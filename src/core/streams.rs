//! Streams: how a reader joins a log, what it is sent, and how it ends.
//!
//! A stream is its head and `connected`, the replay, `replay-complete`, then live: one position
//! moving through one log, so there is no seam where an event could be lost or come twice. A
//! reader that the log has outrun goes on from the journal (`past.rs`); where there is none it is
//! closed, and comes back with the last id it was given whole.

use crate::base::arena::{Arena, Key};
use crate::base::ring::{Found, Mark};
use crate::core::api::CORS_FIELDS_MAX;
use crate::core::connection::{Across, Exchange, Flow, Output, Phase, Place, Rare, Reader, Whose};
use crate::core::event::{EventKind, Filter};
use crate::core::log::Log;
use crate::core::metrics::limit::Limit;
use crate::core::past::{Past, PastState};
use crate::core::server::Server;
use crate::core::session::Session;
use crate::limits::{
    APPROVALS_SHOWN_MAX, COMPACT_SIZE_MAX, POOL_MAX, UNKNOWN_ID_LENGTH, UNKNOWN_IDS_SIZE_MAX,
};
use crate::wire::json;
use crate::wire::reply::{self, ReplyHead, Status};
use crate::wire::sse::{self, EventId};

/// What a stream's response head says beside the usual (WIRE.md, A2): nothing between us and the
/// client may change, keep or collect what we send.
pub const STREAM_FIELDS: &[(&str, &str)] = &[
    ("Cache-Control", "no-cache, no-transform"),
    ("X-Accel-Buffering", "no"),
    ("X-Content-Type-Options", "nosniff"),
    ("Cross-Origin-Resource-Policy", "same-origin"),
];
/// The media type of streams.
pub const STREAM_TYPE: &str = "text/event-stream; charset=utf-8";
/// The reconnection time that clients are told, before jitter.
const RETRY_MS: u64 = 2_000;
/// The same when the server is busy or goes away.
const RETRY_BUSY_MS: u64 = 5_000;

/// What a stream's request asks for.
#[derive(Debug)]
pub struct StreamRequest {
    /// The session; none: all of them, or those in `owners`.
    pub session: Option<Key>,
    /// The numbers of the sessions that a stream over all sessions is limited to.
    pub owners: Option<Box<[u32]>>,
    /// Ids of that list that no session has.
    pub unknown: Unknown,
    /// The cursor as it came in, if one did.
    pub cursor: Option<Vec<u8>>,
    /// How much of the past is wanted, where there is no cursor.
    pub replay: Replay,
    /// Which events are wanted.
    pub filter: Filter,
    /// Quiet time before a heartbeat.
    pub heartbeat_ms: u64,
    /// Bytes of an opening comment, for proxies that wait for some.
    pub pad: usize,
}

/// Ids that were asked for and that no session has.
#[derive(Clone, Debug, Default)]
pub struct Unknown {
    /// The first of them, as far as they fit into an answer.
    shown: Vec<String>,
    /// What those take there.
    size: usize,
    /// How many there are.
    count: u64,
}

impl Unknown {
    /// Takes in one more.
    pub fn add(&mut self, id: &str) {
        self.count += 1;
        let shown: String = id.chars().take(UNKNOWN_ID_LENGTH).collect();
        // What JSON escapes takes up to six bytes.
        let plain = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'\\';
        let size = shown.bytes().map(|byte| if plain(byte) { 1 } else { 6 }).sum::<usize>() + 3;
        if self.size + size <= UNKNOWN_IDS_SIZE_MAX {
            self.size += size;
            self.shown.push(shown);
        }
    }

    /// The bytes that they take beside their own size.
    pub fn heap_size(&self) -> usize {
        self.shown.iter().map(|id| size_of::<String>() + id.capacity()).sum()
    }

    /// Writes them, and how many there are.
    pub fn write(&self, object: &mut json::Object<'_>) {
        object.array("unknown", |array| self.shown.iter().for_each(|id| array.string(id)));
        object.number("unknownCount", self.count);
    }
}

/// How much of the past a stream without a cursor is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replay {
    /// The newest bytes, as many as the limit says.
    Newest,
    /// Nothing.
    None,
    /// Everything that is left.
    All,
}

/// What a reader's rare part is counted as, beside what it opens with.
const RARE_SIZE: usize = size_of::<Rare>() + size_of::<Across>() + size_of::<Past>() + SEAM_SIZE;
/// What `replay-complete`, `server-shutdown` and the rest of a heartbeat take.
const SEAM_SIZE: usize = 256;

/// The last heartbeat that was written: readers of one log that beat together share it.
#[derive(Default)]
pub struct Beat {
    whose: Option<Whose>,
    wall_ms: u64,
    seq: Option<u64>,
    text: Vec<u8>,
}

/// Where a stream begins, and what it is told about that.
struct Join {
    resume: &'static str,
    position: u64,
    /// The cursor that the client should have from here on, where it has none that is right.
    id: Option<u64>,
    /// It begins in the journal.
    past: Option<Box<Past>>,
}

impl Join {
    /// In the ring, or where it ends.
    fn at(resume: &'static str, position: u64) -> Join {
        Join { resume, position, id: None, past: None }
    }
}

/// Why a stream is refused for now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Busy {
    /// The server goes away.
    Draining,
    /// A limit was met.
    Limit(Limit),
}

impl Busy {
    /// The `reason` on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Busy::Draining => "draining",
            Busy::Limit(limit) => limit.code(),
        }
    }
}

impl Server {
    /// What a reader needs that is not simply waiting, from the pool; counted like a request.
    fn new_rare(&mut self) -> Box<Rare> {
        let mut rare = self.rares.pop().unwrap_or_default();
        rare.counted = RARE_SIZE;
        self.requests_size += rare.counted;
        rare
    }

    /// The same for a reader that is there already, if it has none. False: there is no room.
    fn give_rare(&mut self, key: Key) -> bool {
        let connection = self.connections.get(key);
        let Some(Phase::Stream(reader)) = connection.map(|one| &one.phase) else { return false };
        if reader.rare.is_some() {
            return true;
        }
        if !self.has_room() {
            return false;
        }
        let rare = self.new_rare();
        if let Some(Phase::Stream(reader)) = self.connections.get_mut(key).map(|one| &mut one.phase)
        {
            reader.rare = Some(rare);
        }
        true
    }

    /// Back to the pool.
    pub(super) fn recycle_rare(&mut self, rare: Option<Box<Rare>>) {
        let Some(mut rare) = rare else { return };
        self.requests_size -= rare.counted;
        if self.rares.len() < POOL_MAX {
            rare.reset();
            self.rares.push(rare);
        }
    }

    /// The log that a stream reads.
    pub(super) fn log_of(&mut self, session: Option<Key>) -> Option<&mut Log> {
        match session {
            None => Some(&mut self.publisher.all),
            Some(key) => self.sessions.get_mut(key).map(|session| &mut session.feed.log),
        }
    }

    /// Whether another stream may be opened there: the reason if not.
    pub(super) fn stream_refused(&self, session: Option<Key>) -> Option<Busy> {
        if self.is_draining() {
            return Some(Busy::Draining);
        }
        let readers = match session {
            None => self.publisher.all.readers,
            Some(key) => self.sessions.get(key).map_or(0, |session| session.feed.log.readers),
        };
        let full = readers >= self.limits.readers_per_session_max;
        full.then_some(Busy::Limit(Limit::ReadersPerSession))
    }

    /// Writes a stream that tells its client to come back later, and ends.
    pub(super) fn busy_stream(&mut self, exchange: &mut Exchange, reason: &'static str) {
        let retry_ms = self.random.around(RETRY_BUSY_MS);
        self.write_stream_head(exchange);
        let wall_ms = self.wall_ms;
        let out = &mut exchange.out;
        sse::retry(out, retry_ms);
        sse::event(out, "server-busy");
        json::object(out, |object| {
            object.string("_eventType", "server-busy");
            object.null("sessionId");
            object.number("timestamp", wall_ms);
            object.number("retryAfterMs", retry_ms);
            object.string("reason", reason);
        });
        sse::end(out);
        exchange.close = true;
    }

    /// Appends the head of a stream's reply.
    pub(super) fn write_stream_head(&mut self, exchange: &mut Exchange) {
        self.count_answer(Status::OK);
        let version = exchange.head().version;
        let mut fields = [("", ""); 5 + CORS_FIELDS_MAX];
        fields[..4].copy_from_slice(STREAM_FIELDS);
        let request_id = std::mem::take(&mut exchange.request_id);
        fields[4] = ("X-Request-Id", &request_id);
        let cors = self.cors_fields(exchange.origin);
        fields[5..5 + cors.len()].copy_from_slice(cors.as_slice());
        let count = 5 + cors.len();
        let head = ReplyHead {
            status: Status::OK,
            date: self.date.1.as_str(),
            content_type: Some(STREAM_TYPE),
            content_length: None,
            keep_alive: false,
            version,
            fields: &fields[..count],
        };
        reply::write_head(&mut exchange.out, &head);
        exchange.request_id = request_id;
    }

    /// Turns a connection into a stream. Everything it is owed before the log goes into its own
    /// bytes: replies to earlier pipelined requests, the head, `connected`.
    pub(super) fn open_stream(
        &mut self,
        key: Key,
        mut exchange: Box<Exchange>,
        request: StreamRequest,
    ) {
        if self.log_of(request.session).is_none() {
            self.recycle(exchange);
            return self.close(key);
        }
        self.write_stream_head(&mut exchange);
        let join = self.join(&request);
        let verdict = match join.resume {
            "fresh" => 0,
            "ok" => 1,
            _ => 2,
        };
        self.counters.resumes[verdict] += 1;
        self.counters.gaps += u64::from(verdict == 2);
        self.counters.replays_from_disk += u64::from(join.past.is_some());
        // Jittered, so that the readers of a server that restarts do not all come back at once.
        let retry_ms = self.random.around(RETRY_MS);
        self.write_connected(&mut exchange.out, &request, &join, retry_ms);
        let mut rare = self.new_rare();
        rare.bytes.extend_from_slice(exchange.output()[0]);
        rare.counted += rare.bytes.capacity();
        self.requests_size += rare.bytes.capacity();
        rare.past = join.past;
        rare.across = request.session.is_none().then(|| {
            let owners = request.owners;
            let replay_seq = self.publisher.visible();
            Box::new(Across { owners, replay_seq, ..Across::default() })
        });
        // Of one whose client takes nothing it is the time since when.
        let flow = self.connections.get(key).map(|connection| connection.flow);
        let head_start = match flow {
            Some(Flow::Open) => head_start(key.index, request.heartbeat_ms / 4),
            _ => 0,
        };
        let sent_at = self.now_ms.saturating_sub(head_start);
        let Some(log) = self.log_of(request.session) else { return };
        log.readers += 1;
        log.listeners += u32::from(request.filter.listens());
        rare.replay_end = log.visible();
        let whose = Whose::new(request.session);
        let mut reader = Reader::new(whose, request.filter, request.heartbeat_ms, sent_at);
        reader.position = join.position;
        let counts = rare.past.is_none();
        reader.rare = Some(rare);
        if counts {
            let (ring, end) = (&log.ring, log.visible());
            let wanted = |mark: &&Mark| wants(&reader, mark);
            let marks = ring.marks_from(join.position).take_while(|mark| mark.start < end);
            let count = marks.filter(wanted).count() as u32;
            if let Some(rare) = &mut reader.rare {
                rare.replay_count = count;
            }
            note_whole(&mut reader, log);
        }
        self.counters.streams_opened += 1;
        self.recycle(exchange);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.phase = Phase::Stream(reader);
        }
        self.push_pending(key);
        self.arm_connection(key);
    }

    /// Where a stream begins: the verdict on its cursor.
    fn join(&mut self, request: &StreamRequest) -> Join {
        let visible_seq = self.publisher.visible();
        let held = request.cursor.as_deref().and_then(EventId::parse);
        let held = held.filter(|id| self.publisher.epochs.holds(*id, visible_seq));
        let cursor = request.cursor.as_ref().map(|_| held.map(|id| id.seq));
        match request.session {
            Some(session) => self.join_session(request, session, cursor),
            None => self.join_all(request, cursor),
        }
    }

    /// The same for one session. The cursor: none, none that holds, or its number.
    fn join_session(
        &self,
        request: &StreamRequest,
        session: Key,
        cursor: Option<Option<u64>>,
    ) -> Join {
        let visible_seq = self.publisher.visible();
        let Some(session) = self.sessions.get(session) else { return Join::at("fresh", 0) };
        let log = &session.feed.log;
        let (end, replay_size) = (log.visible(), self.limits.replay_size as u64);
        if let Some(Some(seq)) = cursor {
            if seq >= log.ring.evicted() {
                return Join::at("ok", log.ring.after(seq).min(end));
            }
            if let Some(journal) = log.journal.as_ref().filter(|_| seq >= log.evicted()) {
                let position = journal.seek(seq).max(journal.base());
                let past = Some(Past::behind(seq));
                return Join { past, ..Join::at("ok", position) };
            }
        }
        let position = match request.filter.is_compact() {
            true => newest_turns(log, request.filter, replay_size.min(COMPACT_SIZE_MAX)),
            false => log.ring.newest(replay_size, end),
        };
        let first = log.ring.mark_at(position).filter(|_| position < end);
        let mut newest = Join::at("fresh", position);
        newest.id = Some(first.map_or(visible_seq, |mark| mark.seq - 1));
        // The ring may hold less than is wanted: then the rest is on disk.
        if let Some(journal) = &log.journal
            && position == log.ring.base()
            && let Some((position, seq)) = journal.newest(replay_size, end)
            && position < newest.position
        {
            newest.position = position;
            newest.id = Some(seq - 1);
            newest.past = Some(Past::newest(seq - 1));
        }
        match (cursor, request.replay) {
            (Some(_), _) => Join { resume: "gap", ..newest },
            (None, Replay::Newest) => Join { id: None, ..newest },
            (None, Replay::None) => Join { id: Some(visible_seq), ..Join::at("fresh", end) },
            (None, Replay::All) => match &log.journal {
                Some(journal) if journal.base() < log.ring.base() => {
                    let past = Some(Past::everything());
                    Join { past, ..Join::at("fresh", journal.base()) }
                }
                _ => Join::at("fresh", log.ring.base().min(end)),
            },
        }
    }

    /// The same for several sessions.
    fn join_all(&self, request: &StreamRequest, cursor: Option<Option<u64>>) -> Join {
        let visible_seq = self.publisher.visible();
        let log = &self.publisher.all;
        let (end, replay_size) = (log.visible(), self.limits.replay_size as u64);
        if let Some(Some(seq)) = cursor {
            if seq >= log.ring.evicted() {
                return Join::at("ok", log.ring.after(seq).min(end));
            }
            if self.keeper.keeps() && seq >= self.evicted_of(request.owners.as_deref()) {
                let past = Some(Past::behind(seq));
                return Join { past, ..Join::at("ok", 0) };
            }
        }
        let newest = match request.filter.is_compact() {
            true => newest_turns(log, request.filter, replay_size.min(COMPACT_SIZE_MAX)),
            false => log.ring.newest(replay_size, end),
        };
        let first = log.ring.mark_at(newest).filter(|_| newest < end);
        let mut after = first.map_or(visible_seq, |mark| mark.seq - 1);
        let mut newest = Join::at("gap", newest);
        // The ring may hold less than is wanted: then the rest is on disk. Of a few sessions it
        // may hold little, however large it is.
        let owners = request.owners.as_deref();
        if self.keeper.keeps() && (newest.position == log.ring.base() || owners.is_some()) {
            let older = self.newest_of(owners, replay_size);
            if older < after && older < log.ring.evicted() {
                after = older;
                newest.past = Some(Past::newest(older));
            }
        }
        newest.id = Some(after);
        match (cursor, request.replay) {
            (Some(_), _) => newest,
            (None, Replay::Newest) => Join { resume: "fresh", id: None, ..newest },
            (None, Replay::None) => Join { id: Some(visible_seq), ..Join::at("fresh", end) },
            (None, Replay::All) if self.keeper.keeps() => {
                let past = Some(Past::everything());
                Join { past, ..Join::at("fresh", 0) }
            }
            // What is not visible may have taken the place of all that was.
            (None, Replay::All) => Join::at("fresh", log.ring.base().min(end)),
        }
    }

    /// The newest number that is gone of any of these sessions.
    pub(super) fn evicted_of(&self, owners: Option<&[u32]>) -> u64 {
        let asked = |number: u32| owners.is_none_or(|owners| owners.contains(&number));
        let sessions = (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .filter(|session| asked(session.feed.number));
        let evicted = sessions.map(|session| session.feed.log.evicted()).max().unwrap_or(0);
        if owners.is_some() { evicted } else { evicted.max(self.publisher.epochs.erased) }
    }

    /// The verdict on a cursor, and the number behind which its client goes on.
    pub(super) fn join_after(&mut self, request: &StreamRequest) -> (&'static str, u64) {
        let join = self.join(request);
        let visible = self.publisher.visible();
        if let Some(past) = &join.past {
            return (join.resume, past.last());
        }
        let Some(log) = self.log_of(request.session) else { return (join.resume, visible) };
        let next = log.ring.mark_at(join.position).filter(|mark| mark.start < log.visible());
        (join.resume, next.map_or(visible, |mark| mark.seq - 1))
    }

    fn write_connected(
        &self,
        out: &mut Vec<u8>,
        request: &StreamRequest,
        join: &Join,
        retry_ms: u64,
    ) {
        if request.pad > 0 {
            out.push(b':');
            out.resize(out.len() + request.pad, b' ');
            out.extend_from_slice(b"\n\n");
        }
        sse::retry(out, retry_ms);
        if let Some(seq) = join.id {
            sse::id(out, self.publisher.id(seq));
        }
        sse::event(out, "connected");
        let session = request.session.and_then(|key| self.sessions.get(key));
        let log = session.map_or(&self.publisher.all, |session| &session.feed.log);
        let id = |seq: Option<u64>| seq.map(|seq| self.publisher.id(seq));
        json::object(out, |object| {
            object.string("_eventType", "connected");
            object.string("sessionId", session.map_or("*", |session| session.id()));
            object.number("timestamp", self.wall_ms);
            object.string("resume", join.resume);
            let missed = if join.resume == "ok" { Some(0) } else { self.missed(request, join) };
            object.number_or_null("missed", missed);
            let (earliest, latest) = match session {
                Some(_) => (log.earliest_seq(), log.latest_seq()),
                None => self.all_span(),
            };
            object.display_or_null("earliestId", id(earliest));
            object.display_or_null("latestId", id(latest));
            object.number("heartbeatInterval", request.heartbeat_ms);
            if let Some(session) = session {
                let agent = &self.config.agents[session.agent];
                object.string("status", session.status().as_str());
                object.array("pendingApprovals", |array| {
                    for approval in session.approvals.open.iter().take(APPROVALS_SHOWN_MAX) {
                        array.string(&approval.id);
                    }
                });
                object.number("openApprovals", session.approvals.open.len() as u64);
                object.number("queue", session.prompts.queue.len() as u64);
                object.string("agent", &agent.name);
                object.string("dialect", agent.dialect.as_str());
            } else {
                request.unknown.write(object);
            }
        });
        sse::end(out);
    }

    /// How many events lie in a gap, where that can be counted: numbers have no holes over all
    /// sessions, within one start.
    fn missed(&self, request: &StreamRequest, join: &Join) -> Option<u64> {
        let is_all = request.session.is_none() && request.owners.is_none();
        let cursor = EventId::parse(request.cursor.as_deref()?)?;
        let epochs = &self.publisher.epochs;
        let is_ours = epochs.holds(cursor, self.publisher.visible());
        let counts = is_all && request.filter.is_all() && is_ours;
        let next = join.id.filter(|id| counts && epochs.id(*id).epoch == cursor.epoch)?;
        next.checked_sub(cursor.seq)
    }

    /// The oldest and the newest number that a reader of all sessions can be given.
    fn all_span(&self) -> (Option<u64>, Option<u64>) {
        let all = &self.publisher.all;
        if !self.keeper.keeps() {
            return (all.earliest_seq(), all.latest_seq());
        }
        let logs = || {
            (0..self.sessions.capacity())
                .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
                .map(|session| &session.feed.log)
        };
        let earliest = logs().filter_map(Log::earliest_seq).min();
        (earliest, logs().filter_map(Log::latest_seq).max())
    }

    /// What to write to a stream now.
    pub(super) fn stream_output(&mut self, key: Key) -> Output<'_> {
        let Some(end) = self.settle_stream(key) else {
            return self.last_output(key);
        };
        if let Some(Phase::Stream(reader)) = self.connections.get(key).map(|one| &one.phase)
            && reader.beats
        {
            let (whose, passed_over) = (reader.whose, reader.passed_over);
            return Output::Bytes([self.heartbeat(whose, passed_over), &[], &[]]);
        }
        let Some(connection) = self.connections.get(key) else { return Output::Nothing };
        let Phase::Stream(reader) = &connection.phase else { return Output::Nothing };
        let own = reader.own();
        if let Some(past) = reader.past() {
            return match past.run() {
                run if run.is_empty() && own.is_empty() => Output::Nothing,
                run => Output::Bytes([own, run, &[]]),
            };
        }
        let log = log_read(reader.whose, &self.publisher.all, &self.sessions);
        let ending = reader.rare.as_ref().is_some_and(|rare| rare.ending);
        let found = match log {
            Some(log) if !ending => log.ring.at(reader.position, end),
            _ => Found::CaughtUp,
        };
        match found {
            Found::Bytes(part, wrapped) => Output::Bytes([own, part, wrapped]),
            Found::CaughtUp if !own.is_empty() => Output::Bytes([own, &[], &[]]),
            Found::CaughtUp => Output::Nothing,
            Found::Lapped => Output::Close,
        }
    }

    /// What to write to a stream that is over. Replies to earlier requests may be among its own bytes:
    /// they still go.
    fn last_output(&mut self, key: Key) -> Output<'_> {
        let Some(connection) = self.connections.get_mut(key) else { return Output::Close };
        let Phase::Stream(reader) = &mut connection.phase else { return Output::Close };
        let Some(rare) = reader.rare.as_mut().filter(|rare| !rare.own().is_empty()) else {
            return Output::Close;
        };
        rare.ending = true;
        let past = rare.past.take();
        self.pieces.recycle(past.and_then(|mut past| past.take_piece()));
        Output::Bytes([rare.own(), &[], &[]])
    }

    /// Moves a reader over what it does not want and past the seams of its stream. Returns up to
    /// where it may be sent bytes; `None`: the stream is over. A reader with nothing to be sent is
    /// put on its log's waiting list.
    fn settle_stream(&mut self, key: Key) -> Option<u64> {
        loop {
            let connection = self.connections.get_mut(key)?;
            let Phase::Stream(reader) = &mut connection.phase else { return None };
            if let Some(rare) = &mut reader.rare {
                if rare.ending {
                    reader.beats = false;
                    return (!rare.own().is_empty()).then_some(reader.position);
                }
                if let Some(past) = &rare.past {
                    reader.beats &= past.run().is_empty() && rare.own().is_empty();
                    match self.settle_past(key) {
                        PastState::Again => continue,
                        PastState::Over => return None,
                        PastState::Stay => {
                            self.await_piece(key);
                            return Some(0);
                        }
                    }
                }
            }
            let (log, closed) = match reader.whose.session() {
                None => (&mut self.publisher.all, false),
                Some(session) => {
                    let session = self.sessions.at_mut(session)?;
                    // Over only once its last event can be seen.
                    let closed =
                        session.unusual.closed_at.is_some() && session.feed.log.hidden() == 0;
                    (&mut session.feed.log, closed)
                }
            };
            let replay_end = reader.replay_end();
            let limit = log.visible().min(replay_end);
            if reader.position < log.ring.base() && reader.position < limit {
                reader.beats = false;
                if !self.keeper.keeps() {
                    self.counters.readers_cut += 1;
                    return None;
                }
                if !self.give_rare(key) {
                    self.counters.readers_cut += 1; // It comes back for the rest.
                    return None;
                }
                self.outrun(key);
                continue;
            }
            if !reader.filter.is_all() || reader.owners().is_some() {
                let (start, end) = log.ring.run(reader.position, limit, |mark| wants(reader, mark));
                reader.passed_over |= start != reader.position;
                reader.position = start;
                if start < end {
                    reader.beats = false; // The news are a better sign of life.
                    return Some(end);
                }
            } else if reader.position < limit {
                reader.beats = false;
                return Some(limit);
            }
            if reader.position >= replay_end {
                self.pass_seam(key);
                continue;
            }
            if reader.has_own() {
                return Some(limit);
            }
            if closed {
                return None;
            }
            if connection.place == Place::Nowhere {
                connection.place = Place::Waiting;
                log.waiting.push_back(&mut self.links, key.index);
            }
            if reader.rare.as_ref().is_some_and(|rare| rare.is_spent()) {
                let rare = reader.rare.take();
                self.recycle_rare(rare);
            }
            return Some(limit);
        }
    }

    /// The ring does not hold any more what a reader needs next: it goes on from the journal.
    fn outrun(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        let Some(rare) = &mut reader.rare else { return };
        rare.past = Some(Past::outrun(rare.across.as_deref()));
    }

    /// A reader of journals has nothing to send: whoever brings its piece comes back to it.
    fn await_piece(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &connection.phase else { return };
        let idle = !reader.has_own() && connection.place == Place::Nowhere;
        if idle && reader.past().is_some_and(|past| past.run().is_empty()) {
            connection.place = Place::Reading;
        }
    }

    /// The replay is over, or a stream that is being shut has finished its frame.
    pub(super) fn pass_seam(&mut self, key: Key) {
        let wall_ms = self.wall_ms;
        let retry_ms = self.random.around(RETRY_BUSY_MS);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        // A seam is only where there is an end to come to, and that is rare.
        let Some(rare) = &mut reader.rare else { return };
        reader.beats = false;
        let log = log_read(reader.whose, &self.publisher.all, &self.sessions);
        let last = match &rare.past {
            // One that was outrun and has read nothing since does not know.
            Some(past) => Some(past.last()).filter(|seq| *seq > 0),
            None => log.and_then(|log| {
                let mark = log.ring.last_before(rare.replay_end).map(|mark| mark.seq);
                // Nothing of the replay is left in the ring: it ended where the ring begins.
                mark.or(Some(log.ring.evicted()).filter(|seq| *seq > 0))
            }),
        };
        let first_seq = self.publisher.epochs.present().first_seq;
        let session = reader.whose.session().and_then(|session| self.sessions.at(session));
        let session_id = session.map_or("*", |session| session.id());
        let shutting = rare.shutting;
        let out = &mut rare.bytes;
        // A cursor of an earlier start may hold no longer after the next one: this one will.
        // Who is shut in the middle of the past has not passed what is old.
        let over = rare.past.is_none() || !rare.shutting;
        if let Some(last) = last
            && (reader.passed_over || over && self.publisher.is_old(last))
        {
            let last = if over { last.max(first_seq - 1) } else { last };
            sse::id(out, self.publisher.id(last));
            reader.passed_over = false;
        }
        let name = if shutting { "server-shutdown" } else { "replay-complete" };
        if shutting {
            sse::retry(out, retry_ms);
        }
        sse::event(out, name);
        json::object(out, |object| {
            object.string("_eventType", name);
            object.string("sessionId", session_id);
            object.number("timestamp", wall_ms);
            if shutting {
                object.number("retryAfterMs", retry_ms);
            } else {
                object.number("count", rare.replay_count.into());
            }
        });
        sse::end(out);
        rare.ending = shutting;
        rare.replay_end = u64::MAX;
    }

    /// The kernel took this many bytes of a stream's last output.
    pub(super) fn stream_sent(&mut self, key: Key, count: usize) {
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        reader.touch(now_ms);
        if std::mem::take(&mut reader.beats) {
            reader.passed_over = false;
            let rest = self.beat.text.len() - count;
            return if rest > 0 {
                self.keep_rest_of_beat(key, rest)
            };
        }
        let mut left = count;
        if let Some(rare) = &mut reader.rare {
            let taken = left.min(rare.own().len());
            rare.sent += taken;
            left -= taken;
            if rare.own().is_empty() {
                rare.bytes.clear();
                rare.sent = 0;
            }
        }
        if left > 0 {
            reader.passed_over = false;
            match reader.past_mut() {
                Some(past) => past.sent(left),
                None => {
                    reader.position += left as u64;
                    note_whole(reader, &self.publisher.all);
                }
            }
        }
    }

    /// The kernel took the beginning of a heartbeat: the rest is the reader's own now.
    fn keep_rest_of_beat(&mut self, key: Key, rest: usize) {
        if !self.give_rare(key) {
            self.counters.readers_cut += 1;
            return self.close(key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        let Some(rare) = &mut reader.rare else { return };
        let text = &self.beat.text;
        rare.bytes.extend_from_slice(&text[text.len() - rest..]);
    }

    /// A stream was quiet for its heartbeat's time, or it seemed so when the deadline was set.
    pub(super) fn heartbeat_due(&mut self, key: Key) {
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        if reader.quiet_ms(now_ms) < u64::from(reader.heartbeat_ms) {
            return;
        }
        if connection.flow != Flow::Blocked {
            reader.touch(now_ms); // Of a blocked one the time is since when it is.
        }
        // Only a reader that has everything stands at a frame's end, and only it is quiet because
        // there is nothing to say. For the others the stall deadline judges.
        if connection.place != Place::Waiting {
            let position = reader.position;
            let log = log_read(reader.whose, &self.publisher.all, &self.sessions);
            if !self.keeper.keeps() && log.is_some_and(|log| position < log.ring.base()) {
                // The log has outrun it while its client took nothing, and nothing else holds it.
                self.counters.readers_cut += 1;
                self.close_reader(key);
            }
            return;
        }
        // It is written when it is sent, so that it costs a reader no memory: see `heartbeat`.
        reader.beats = true;
        self.push_pending(key);
    }

    /// The heartbeat of a log's readers at this time; with the newest number where frames were
    /// passed over since the reader's last one.
    fn heartbeat(&mut self, whose: Whose, passed_over: bool) -> &[u8] {
        let seq = passed_over.then(|| self.publisher.visible());
        let beat = (Some(whose), self.wall_ms, seq);
        if (self.beat.whose, self.beat.wall_ms, self.beat.seq) != beat {
            (self.beat.whose, self.beat.wall_ms, self.beat.seq) = beat;
            let out = &mut self.beat.text;
            out.clear();
            if let Some(seq) = seq {
                sse::id(out, self.publisher.id(seq));
            }
            sse::event(out, "heartbeat");
            let session = whose.session().and_then(|session| self.sessions.at(session));
            json::object(out, |object| {
                object.string("_eventType", "heartbeat");
                object.string("sessionId", session.map_or("*", |session| session.id()));
                object.number("timestamp", self.wall_ms);
            });
            sse::end(out);
        }
        &self.beat.text
    }

    /// Shuts a stream at the next frame boundary: the server goes away.
    pub(super) fn shut_stream(&mut self, key: Key) {
        if !self.give_rare(key) {
            return self.close(key); // It is told nothing, and comes back all the same.
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        let Some(rare) = &mut reader.rare else { return };
        if rare.shutting {
            return;
        }
        let log = log_read(reader.whose, &self.publisher.all, &self.sessions);
        // What is visible is on its way already and still goes; what comes later does not.
        let Some(log) = log else { return };
        rare.shutting = true;
        rare.replay_end = log.visible().max(reader.position);
        self.push_pending(key);
    }

    /// Wakes the streams of a session that has been closed: they end when they have everything.
    pub(super) fn wake_streams(&mut self, session: Key) {
        let Some(session) = self.sessions.get(session) else { return };
        let waiting: Vec<u32> = session.feed.log.waiting.iter(&self.links).collect();
        for index in waiting {
            if let Some(key) = self.connections.key_at(index) {
                self.push_pending(key);
            }
        }
    }

    /// The readers of the log of all sessions.
    pub(super) fn all_readers(&self) -> impl Iterator<Item = &Reader> {
        (0..self.connections.capacity()).filter_map(|index| {
            let key = self.connections.key_at(index)?;
            match &self.connections.get(key)?.phase {
                Phase::Stream(reader) if reader.whose == Whose::ALL => Some(reader),
                _ => None,
            }
        })
    }

    /// Closes the streams of a session whose log goes away.
    pub(super) fn close_streams(&mut self, session: Key) {
        for index in 0..self.connections.capacity() {
            let Some(key) = self.connections.key_at(index) else { continue };
            let reads = match self.connections.get(key).map(|connection| &connection.phase) {
                Some(Phase::Stream(reader)) => reader.whose == Whose::new(Some(session)),
                _ => false,
            };
            if reads {
                self.close_reader(key);
            }
        }
    }
}

/// How much earlier than others a reader's first heartbeat comes, up to `most`: those who came
/// together are not to beat together for ever. Neighbours in the arena do, because what is fetched
/// from memory for one of them is then at hand for the next.
fn head_start(index: u32, most: u64) -> u64 {
    const NEIGHBOURS: u32 = 64;
    // Multiples of the golden section lie evenly, however many there are.
    const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
    let place = u64::from(index / NEIGHBOURS).wrapping_mul(GOLDEN) >> 32;
    (place * (most + 1)) >> 32
}

/// The log that a reader reads, if it is there still. By its fields, so that the reader itself may be
/// changed meanwhile.
pub(super) fn log_read<'a>(
    whose: Whose,
    all: &'a Log,
    sessions: &'a Arena<Session>,
) -> Option<&'a Log> {
    match whose.session() {
        None => Some(all),
        Some(session) => sessions.at(session).map(|session| &session.feed.log),
    }
}

/// Notes where a reader of all sessions stands in a way that outlives the ring.
fn note_whole(reader: &mut Reader, all: &Log) {
    let position = reader.position;
    let Some(across) = reader.across_mut() else { return };
    let before = all.ring.last_before(position);
    let is_boundary = all.ring.is_boundary(position);
    let (whole_seq, begun, beyond) = match before {
        None => (all.ring.evicted(), 0, 0),
        Some(mark) if is_boundary => (mark.seq, 0, 0),
        Some(mark) => {
            let whole = all.ring.last_before(mark.start).map_or(all.ring.evicted(), |m| m.seq);
            (whole, mark.seq, position - mark.start)
        }
    };
    (across.whole_seq, across.begun, across.beyond) = (whole_seq, begun, beyond as u32);
}

/// Where the newest turns begin whose wanted frames take no more than `size` bytes: a compact view
/// starts at a whole turn. One turn longer than that is cut at a frame.
fn newest_turns(log: &Log, filter: Filter, size: u64) -> u64 {
    let (mut left, mut begin, mut turn) = (size, log.visible(), None);
    let mut end = log.visible();
    for mark in log.ring.marks_before(log.visible()) {
        if filter.takes(mark.tag, mark.superseded) {
            let length = end - mark.start;
            if length > left {
                break;
            }
            left -= length;
        }
        (end, begin) = (mark.start, mark.start);
        if mark.tag == EventKind::PromptQueued as u8 {
            turn = Some(begin);
        }
    }
    match begin == log.ring.base() {
        true => begin,
        false => turn.unwrap_or(begin),
    }
}

/// Whether a reader wants a frame.
pub(super) fn wants(reader: &Reader, mark: &Mark) -> bool {
    reader.filter.takes(mark.tag, mark.superseded)
        && reader.owners().is_none_or(|owners| owners.contains(&mark.owner))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_heartbeats_come_in_groups_of_neighbours_that_lie_evenly() {
        const MOST: u64 = 3_750;
        const GROUPS: u32 = 1_000;
        let starts = |index: u32| head_start(index, MOST);
        for first in (0..GROUPS).map(|group| group * 64) {
            let apart = (first..first + 64).find(|index| starts(*index) != starts(first));
            assert_eq!(apart, None, "neighbours beat together");
        }
        let mut groups: Vec<u64> = (0..GROUPS).map(|group| starts(group * 64)).collect();
        groups.sort_unstable();
        let widest = groups.windows(2).map(|pair| pair[1] - pair[0]).max().unwrap();
        assert!(groups[0] <= widest && groups[999] <= MOST && groups[999] + widest > MOST);
        assert!(widest <= 3 * MOST / u64::from(GROUPS), "{widest} ms without a beat");
        assert_eq!(head_start(u32::MAX, 0), 0);
    }
}
