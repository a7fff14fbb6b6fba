//! Endpoints about events: streams, and single events.

use super::*;
use crate::core::api::request::whole_number;
use crate::core::connection::Flow;
use crate::core::tails::Place;
use crate::limits::{
    HEARTBEATS_MS, IMAGES_MAX, PAD_MAX, PAGE_SIZE_MAX, SESSIONS_NAMED_MAX, TAIL_PIECE_SIZE,
    WAIT_S_MAX,
};

/// The number by which an image of a prompt is kept: rising, as events are.
pub(super) fn image_key(seq: u64, number: u64) -> u64 {
    seq * IMAGES_MAX as u64 + number
}

/// The type of an image, by its first bytes: what it was said to be is a stranger's word.
fn image_type(bytes: &[u8]) -> &'static str {
    match bytes {
        [0x89, b'P', b'N', b'G', ..] => "image/png",
        [0xff, 0xd8, ..] => "image/jpeg",
        [b'G', b'I', b'F', ..] => "image/gif",
        [b'R', b'I', b'F', b'F', ..] => "image/webp",
        _ => "application/octet-stream",
    }
}

/// Where an event is, or what is large of it.
enum Held<'a> {
    /// In memory, with its media type.
    Bytes(&'a [u8], &'static str),
    /// In a journal.
    Journal(Source),
    /// In the log, and nothing of it is large.
    Frame(Vec<u8>),
}

/// The numbers of the sessions that a request is limited to, if it is, and ids that are none.
type Owners = (Option<Box<[u32]>>, Unknown);

impl Server {
    pub(super) fn session_events(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let asked = self.stream_request(request)?;
        let key = match self.by_id.find(&self.sessions, id) {
            Some(key) => key,
            // A closed session still serves a cursor that is older than its end.
            None => self
                .closed_ids
                .find(&self.sessions, id)
                .filter(|key| self.is_before_end(*key, asked.cursor.as_deref()))
                .ok_or_else(|| Problem::session_not_found(id))?,
        };
        if let Some(reason) = self.stream_refused(Some(key)) {
            return Ok(Reply::Busy(reason));
        }
        Ok(Reply::Stream(StreamRequest { session: Some(key), ..asked }))
    }

    /// Whether a cursor is one of ours and older than a closed session's last event.
    pub(super) fn is_before_end(&self, key: Key, cursor: Option<&[u8]>) -> bool {
        let id = cursor.and_then(crate::wire::sse::EventId::parse);
        let last = self.sessions.get(key).and_then(|session| session.feed.log.latest_seq());
        let visible = self.publisher.visible();
        let holds = |id| self.publisher.epochs.holds(id, visible);
        id.is_some_and(|id| holds(id) && Some(id.seq) < last)
    }

    pub(super) fn all_events(&mut self, request: &Request<'_>) -> Outcome {
        let mut asked = self.stream_request(request)?;
        if asked.cursor.is_none() && request.parameter("replay")?.is_none() {
            asked.replay = Replay::None;
        }
        (asked.owners, asked.unknown) = self.owners(request)?;
        if let Some(reason) = self.stream_refused(None) {
            return Ok(Reply::Busy(reason));
        }
        Ok(Reply::Stream(asked))
    }

    /// Reads what a stream's request asks for, its session aside.
    pub(super) fn stream_request(&self, request: &Request<'_>) -> Result<StreamRequest, Problem> {
        let invalid = |sentence: &str| Problem::bad("invalid_value", sentence);
        let header = request.head.last_event_id.map(|span| span.of(request.input).to_vec());
        let cursor = header.or(request.cursor("lastEventId")?);
        let replay = match request.parameter("replay")?.as_deref() {
            None => Replay::Newest,
            Some("none") => Replay::None,
            Some("all") => Replay::All,
            Some(_) => return Err(invalid("\"replay\" must be \"none\" or \"all\"")),
        };
        let mut filter = match request.parameter("types")? {
            None => Filter::ALL,
            Some(types) => Filter::parse(&types).map_err(|name| {
                let shown: String = name.chars().take(80).collect();
                invalid(&format!("\"types\" names \"{shown}\", which no event is called"))
            })?,
        };
        match request.parameter("view")?.as_deref() {
            None => {}
            Some("compact") => filter = filter.compact(),
            Some(_) => return Err(invalid("\"view\" must be \"compact\"")),
        }
        let heartbeat_ms = match request.parameter("heartbeat")? {
            None => self.limits.heartbeat_ms,
            Some(text) => whole_number(&text)
                .and_then(|seconds| seconds.checked_mul(1000))
                .filter(|ms| HEARTBEATS_MS.contains(ms))
                .ok_or_else(|| invalid("\"heartbeat\" must be a number of seconds from 5 to 60"))?,
        };
        let pad = match request.parameter("pad")? {
            None => 0,
            Some(text) => whole_number(&text)
                .map(|pad| pad as usize)
                .filter(|pad| *pad <= PAD_MAX)
                .ok_or_else(|| invalid("\"pad\" must be a number of bytes up to 65536"))?,
        };
        let (owners, unknown) = (None, Unknown::default());
        Ok(StreamRequest {
            session: None,
            owners,
            unknown,
            cursor,
            replay,
            filter,
            heartbeat_ms,
            pad,
        })
    }

    /// The sessions that a request over all of them is limited to, and the ids that are none.
    fn owners(&self, request: &Request<'_>) -> Result<Owners, Problem> {
        let list = request.parameter("sessions")?.unwrap_or_default();
        let ids = || list.split(',').filter(|id| !id.is_empty());
        if ids().next().is_none() {
            return Ok((None, Unknown::default())); // As with types: who names none means all.
        }
        if ids().nth(SESSIONS_NAMED_MAX).is_some() {
            let sentence = format!("\"sessions\" may name {SESSIONS_NAMED_MAX} sessions at most");
            return Err(Problem::bad("invalid_value", sentence));
        }
        let (mut owners, mut unknown) = (Vec::new(), Unknown::default());
        for id in ids() {
            // Also closed ones: somebody who comes back has not seen their ends.
            let key = self.by_id.find(&self.sessions, id);
            let key = key.or_else(|| self.closed_ids.find(&self.sessions, id));
            match key.and_then(|key| self.sessions.get(key)) {
                Some(session) => owners.push(session.feed.number),
                None => unknown.add(id),
            }
        }
        Ok((Some(owners.into_boxed_slice()), unknown))
    }

    /// Answers with what has happened behind a cursor, as soon as there is anything.
    pub(super) fn poll(&mut self, request: &Request<'_>, id: Option<&str>) -> Outcome {
        let session = id.map(|id| self.session_key(id)).transpose()?;
        let mut asked = self.stream_request(request)?;
        asked.session = session;
        asked.cursor = request.cursor("after")?.or(asked.cursor);
        if session.is_none() && asked.cursor.is_none() && asked.replay == Replay::Newest {
            asked.replay = Replay::None;
        }
        let wait_s = request.number("wait", 0..=WAIT_S_MAX)?.unwrap_or(POLL_WAIT_S);
        let (owners, unknown) = match session {
            None => self.owners(request)?,
            Some(_) => (None, Unknown::default()),
        };
        let (resume, after) = self.join_after(&asked);
        let filter = asked.filter;
        let mut cursor = Cursor { session, after, resume, filter, owners, unknown };
        let draining = self.is_draining();
        let evicted = self.log_at(session).map_or(0, |log| log.ring.evicted());
        if self.keeper.keeps() && cursor.after < evicted {
            let built = self.built_for(&cursor, evicted);
            if cursor.after < built {
                self.room_to_wait()?;
                if self.has_room_for_page() {
                    self.read_poll(request.connection, cursor, built);
                } else {
                    let due = self.now_ms + wait_s.max(POLL_WAIT_S) * 1000;
                    let what = Awaited::Events(cursor);
                    self.wait_in_line(Wait { connection: request.connection, due, what });
                }
                return Ok(Reply::Later);
            }
            // The disk has not taken what comes next, and the ring has lost it.
            (cursor.resume, cursor.after) = ("gap", evicted);
        }
        if wait_s == 0 || cursor.resume == "gap" || draining || !self.page_after(&cursor).is_empty()
        {
            self.say_page(&cursor);
            return ok();
        }
        self.room_to_wait()?;
        let due = self.now_ms + wait_s * 1000;
        let what = Awaited::Events(cursor);
        self.wait(Wait { connection: request.connection, due, what });
        Ok(Reply::Later)
    }

    /// Whether another request may wait.
    pub(super) fn room_to_wait(&self) -> Result<(), Problem> {
        let waits_max = self.limits.waits_max;
        if self.waits.count() < waits_max {
            return Ok(());
        }
        let sentence = format!("{waits_max} requests wait already, --waits-max");
        Err(Problem::limited(Limit::Waits, sentence))
    }

    /// Writes a page of events behind a cursor into `self.json`.
    fn say_page(&mut self, cursor: &Cursor) {
        let marks = self.page_after(cursor);
        self.say(|server, object| {
            let mut last = None;
            object.bool("success", true);
            object.array("events", |array| {
                if let Some(log) = server.log_at(cursor.session) {
                    last = waits::write_events(server, log, &marks, array).last;
                }
            });
            // Without an event the cursor still moves: over what the filter passed over.
            let next = last.unwrap_or_else(|| server.publisher.visible().max(cursor.after));
            server.say_page_end(object, cursor, next);
        });
    }

    /// What follows a page's events, from memory or disk alike.
    fn say_page_end(&self, object: &mut Object<'_>, cursor: &Cursor, next: u64) {
        object.display("next", self.publisher.id(next));
        object.string("resume", cursor.resume);
        if cursor.session.is_none() {
            cursor.unknown.write(object);
        }
    }

    /// The number of the one session that a cursor is about, if it is about one.
    fn only_owner(&self, cursor: &Cursor) -> Option<[u32; 1]> {
        let session = cursor.session.and_then(|key| self.sessions.get(key))?;
        Some([session.feed.number])
    }

    /// The number, at most `limit`, up to which journals lack nothing of what a cursor is about.
    fn built_for(&self, cursor: &Cursor, limit: u64) -> u64 {
        let own = self.only_owner(cursor);
        self.written_up_to(own.as_ref().map(|own| &own[..]).or(cursor.owners.as_deref()), limit)
    }

    /// Asks for a page that is older than the ring: of what comes up to number `built`.
    fn read_poll(&mut self, connection: Key, cursor: Cursor, built: u64) {
        let own = self.only_owner(&cursor);
        let owners = own.as_ref().map(|own| &own[..]).or(cursor.owners.as_deref());
        let read = Read {
            connection: Some(connection),
            merges: true,
            sources: self.sources_of(owners, cursor.after),
            after: cursor.after,
            ..Read::default()
        };
        self.pages.push((connection, cursor, built));
        self.effects.push_back(Effect::Disk(DiskRequest::Read(Box::new(read))));
    }

    /// Answers a poll with what journals hold up to number `built`.
    pub(in crate::core) fn poll_read(
        &mut self,
        connection: Key,
        cursor: &Cursor,
        built: u64,
        bytes: &[u8],
    ) {
        self.resume_long_answer(connection, |server, exchange| {
            server.say(|server, object| {
                let mut next = built;
                object.bool("success", true);
                object.array("events", |array| {
                    for frame in frames(bytes).take_while(|frame| frame.seq <= built) {
                        next = frame.seq;
                        let superseded = || {
                            let (by_id, sessions) = (&server.by_id, &server.sessions);
                            past::is_superseded_now(by_id, sessions, frame.bytes)
                        };
                        if cursor.filter.takes_name(frame.name, superseded) {
                            write_event(array, &frame, &server.publisher.id(frame.seq));
                        }
                    }
                });
                server.say_page_end(object, cursor, next);
            });
            server.write_json(exchange, Status::OK, &[]);
            None
        });
    }

    /// Asks the disk thread for a page of the past.
    pub(super) fn read_page(&mut self, page: Page) -> Outcome {
        self.lookup_refused()?;
        self.pages_read += 1;
        self.effects.push_back(Effect::Disk(DiskRequest::Page(Box::new(page))));
        Ok(Reply::Later)
    }

    /// Answers a request for a page of the past with what a journal holds.
    pub(in crate::core) fn page_read(&mut self, mut page: Page, result: Result<(), ReadFailure>) {
        self.pages_read -= 1;
        self.tell_damage(page.damage.take());
        if let Some(awaited) = page.awaited.take() {
            return self.prompt_end_read(page.connection, &awaited, &page.bytes, result);
        }
        let visible = self.publisher.visible();
        self.resume_long_answer(page.connection, |server, exchange| {
            if let Err(failure) = result {
                let problem = server.not_read(failure);
                server.write_problem(exchange, &problem);
                return None;
            }
            server.say(|server, object| {
                object.bool("success", true);
                object.string("sessionId", &page.source.session_id);
                object.array("events", |array| {
                    for frame in frames(&page.bytes) {
                        write_event(array, &frame, &server.publisher.id(frame.seq));
                    }
                });
                let first = frames(&page.bytes).next().filter(|_| page.more);
                let first = first.map(|frame| server.publisher.id(frame.seq).to_string());
                object.string_or_null("before", first.as_deref());
                object.bool("more", page.more);
                object.display("lastEventId", server.publisher.id(visible));
            });
            server.write_json(exchange, Status::OK, &[]);
            None
        });
    }

    /// Why there is no answer from a journal. What the disk does not give now is not gone.
    pub(super) fn not_read(&mut self, failure: ReadFailure) -> Problem {
        let ReadFailure::Damaged(error) = failure else { return event_gone() };
        self.log(Level::Error, "journal", "cannot be read", vec![("error", error)]);
        Problem::unavailable("journal_failed", "the journal cannot be read at the moment")
    }

    /// Refuses to look into a journal while as many pages are on their way as there is memory for.
    fn lookup_refused(&self) -> Result<(), Problem> {
        let most = self.limits.pages_read_max;
        if self.pages_read < most {
            return Ok(());
        }
        let sentence = format!("{most} pages of the past are being read, --pages-read-max");
        Err(Problem::limited(Limit::PagesRead, sentence))
    }

    /// Answers a long poll. What the ring has lost while it stood in line is read from the journals;
    /// where that is nowhere any more, it is told.
    pub(in crate::core) fn answer_poll(&mut self, connection: Key, mut cursor: Cursor) {
        let evicted = self.log_at(cursor.session).map_or(0, |log| log.ring.evicted());
        if cursor.after < evicted {
            let built = if self.keeper.keeps() { self.built_for(&cursor, evicted) } else { 0 };
            if cursor.after < built {
                return self.read_poll(connection, cursor, built);
            }
            (cursor.resume, cursor.after) = ("gap", evicted);
        }
        if self.log_at(cursor.session).is_none() {
            cursor.resume = "gap"; // Its session is gone, and its last events with it.
        }
        self.resume_answer(connection, |server, exchange| {
            server.say_page(&cursor);
            server.write_json(exchange, Status::OK, &[]);
            None
        });
    }

    /// A page of a session's past, before an event.
    pub(super) fn history(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let asked = self.stream_request(request)?;
        let limit = request.number("limit", 1..=1000)?.unwrap_or(100) as usize;
        let visible = self.publisher.visible();
        let before = match request.parameter("before")? {
            None => visible + 1,
            Some(text) => {
                let id = crate::wire::sse::EventId::parse(text.as_bytes()).ok_or_else(|| {
                    Problem::bad("invalid_value", "\"before\" must be the id of an event")
                })?;
                let is_ours = self.publisher.id(id.seq) == id;
                is_ours.then_some(id.seq).ok_or_else(event_gone)?
            }
        };
        let (session, filter) = (Some(key), asked.filter);
        let (owners, unknown) = (None, Unknown::default());
        let cursor = Cursor { session, after: 0, resume: "ok", filter, owners, unknown };
        let (marks, more) = self.page_before(&cursor, before, limit);
        // Where the ring begins, the page goes on in the journal. If it is full already, that says
        // whether there is more.
        if let Some(session) = self.sessions.get(key).filter(|_| !more)
            && let log = &session.feed.log
            && let Some(journal) = &log.journal
            && journal.base() < log.ring.base().min(journal.written())
        {
            let segments = journal.segments_from(journal.base());
            let source = Source {
                session_id: session.id().to_owned(),
                segments: segments.filter_map(|id| journal.segment_at(id.start)).collect(),
                position: journal.base(),
                end: log.visible().min(journal.written()),
                least_seq: 0,
            };
            let blocks = session.turn.iter().flat_map(|turn| turn.open_blocks());
            let page = Page {
                connection: request.connection,
                awaited: None,
                source,
                before: log.ring.oldest().map_or(before, |oldest| oldest.seq.min(before)),
                limit,
                size_max: PAGE_SIZE_MAX,
                filter,
                open: blocks.map(|(message_id, block)| (message_id.to_owned(), block)).collect(),
                bytes: marks.iter().flat_map(|mark| log.frame(mark)).flatten().copied().collect(),
                more: false,
                found: marks.len(),
                damage: None,
            };
            return self.read_page(page);
        }
        self.say(|server, object| {
            let mut paged = waits::Paged::default();
            object.bool("success", true);
            object.string("sessionId", id);
            object.array("events", |array| {
                if let Some(log) = server.log_at(cursor.session) {
                    paged = waits::write_events(server, log, &marks, array);
                }
            });
            let first = paged.first.filter(|_| more).map(|seq| server.publisher.id(seq));
            object.string_or_null("before", first.map(|id| id.to_string()).as_deref());
            object.bool("more", more);
            object.display("lastEventId", server.publisher.id(visible));
        });
        ok()
    }

    pub(super) fn events_status(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            let log = &session.feed.log;
            let event_id = |seq: Option<u64>| seq.map(|seq| server.publisher.id(seq).to_string());
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.number("readers", log.readers.into());
            object.string_or_null("earliestId", event_id(log.earliest_seq()).as_deref());
            object.string_or_null("latestId", event_id(log.latest_seq()).as_deref());
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    /// One event, or the large field that was cut from it.
    pub(super) fn event(&mut self, request: &Request<'_>, id: &str, event: &str) -> Outcome {
        let session = self.session_key(id)?;
        let id = crate::wire::sse::EventId::parse(event.as_bytes()).ok_or_else(event_gone)?;
        let image = request.number("image", 0..=IMAGES_MAX as u64 - 1)?;
        if self.publisher.epochs.id(id.seq) != id || id.seq == 0 {
            return Err(event_gone());
        }
        let part = EventPart { session, seq: id.seq, image };
        let what = Large::Event(part);
        match self.find_event(part)? {
            Held::Frame(frame) => {
                self.say_event(&frame)?;
                ok()
            }
            Held::Bytes(bytes, kind) => Ok(Reply::Large(what, bytes.len() as u64, kind)),
            Held::Journal(_) => {
                self.want_large(request.connection, what);
                Ok(Reply::Later)
            }
        }
    }

    /// Where an event is, or its large field.
    fn find_event(&self, part: EventPart) -> Result<Held<'_>, Problem> {
        let EventPart { session, seq, image } = part;
        let session = self.sessions.get(session).ok_or_else(event_gone)?;
        let log = &session.feed.log;
        if Some(seq) > log.latest_seq() {
            return Err(event_gone());
        }
        let start = log.ring.after(seq - 1);
        // Only an event of this very session: large fields of others are not to be had here.
        let in_ring = log.ring.mark_at(start).is_some_and(|mark| mark.seq == seq);
        if let Some(number) = image.filter(|_| in_ring)
            && let Some((bytes, _)) = self.publisher.images.get(image_key(seq, number))
        {
            return Ok(Held::Bytes(bytes, image_type(bytes)));
        }
        // While the disk takes nothing, the newest is only in memory.
        if let Some(journal) = &log.journal
            && !(in_ring && seq > journal.last_seq())
        {
            let position = journal.seek(seq - 1);
            let segment = journal.segment_at(position).ok_or_else(event_gone)?;
            let session_id = session.id().to_owned();
            let (end, least_seq) = (segment.1, 0);
            let segments = vec![segment];
            return Ok(Held::Journal(Source { session_id, segments, position, end, least_seq }));
        }
        if !in_ring || image.is_some() {
            return Err(event_gone());
        }
        if let Some((bytes, is_text)) = self.large_field(seq) {
            return Ok(Held::Bytes(bytes, content_type(is_text)));
        }
        match log.ring.at(start, log.ring.after(seq)) {
            crate::base::ring::Found::Bytes(a, b) => Ok(Held::Frame([a, b].concat())),
            _ => Err(event_gone()),
        }
    }

    /// The large field of an event that is on no disk.
    fn large_field(&self, seq: u64) -> Option<(&[u8], bool)> {
        let is_field = |kind: &Kind| matches!(kind, Kind::Text | Kind::Json);
        let next = self.publisher.beside.iter().flatten();
        let mut waiting = next.chain(self.keeper.unwritten());
        let waiting = waiting.find(|one: &&Beside| one.seq == seq && is_field(&one.kind));
        let waiting = waiting.map(|one| (&*one.bytes, one.kind == Kind::Text));
        waiting.or_else(|| self.publisher.large.get(seq))
    }

    /// Writes one event, as its frame tells it.
    fn say_event(&mut self, frame: &[u8]) -> Result<(), Problem> {
        let (id, name, data) = crate::wire::sse::parse_frame(frame).ok_or_else(event_gone)?;
        self.say(|_, object| {
            object.bool("success", true);
            object.string("id", id);
            object.string("event", name);
            object.raw("data", data);
        });
        Ok(())
    }

    /// Where the next piece of something large is, from byte `from` on.
    pub(in crate::core) fn place_of(&self, what: &Large, from: u64) -> Place {
        let held = match what {
            Large::Event(part) => self.find_event(*part),
            Large::Input { session, approval } => self
                .sessions
                .get(*session)
                .and_then(|session| session.approvals.find(approval))
                .map(|open| Held::Bytes(open.input.as_bytes(), content_type(false)))
                .ok_or_else(event_gone),
        };
        match held {
            Ok(Held::Journal(source)) => Place::Journal(source),
            Ok(Held::Bytes(bytes, _)) => match bytes.get(from as usize..) {
                Some(rest) => Place::Piece(rest[..rest.len().min(TAIL_PIECE_SIZE)].to_vec()),
                None => Place::Gone,
            },
            Ok(Held::Frame(_)) | Err(_) => Place::Gone,
        }
    }

    /// Answers a request for an event with what is in memory by now, or that it is gone.
    pub(in crate::core) fn answer_large(&mut self, connection: Key, what: &Large) {
        let Large::Event(part) = *what else { return };
        let found = self.find_event(part).map(|held| match held {
            Held::Bytes(bytes, kind) => (Some((bytes.len() as u64, kind)), None),
            Held::Frame(frame) => (None, Some(frame)),
            Held::Journal(_) => (None, None), // The caller saw to that.
        });
        let what = what.clone();
        self.resume_long_answer(connection, |server, exchange| {
            let said = match found {
                Ok((Some((length, kind)), _)) => {
                    server.write_large(exchange, kind, Tail::new(what, length, Vec::new()));
                    return None;
                }
                Ok((_, frame)) => server.say_event(&frame.unwrap_or_default()),
                Err(problem) => Err(problem),
            };
            server.write_said(exchange, said);
            None
        });
    }

    /// Writes an event that was said as an answer, or why there is none.
    fn write_said(&mut self, exchange: &mut Exchange, said: Result<(), Problem>) {
        match said {
            Ok(()) => self.write_json(exchange, Status::OK, &[]),
            Err(problem) => self.write_problem(exchange, &problem),
        }
    }

    /// The disk thread has looked for an event, or for the next piece of it.
    pub(in crate::core) fn large_read(
        &mut self,
        connection: Key,
        part: EventPart,
        result: Result<Fetched, ReadFailure>,
    ) {
        if self.has_tail(connection) {
            let piece = match result {
                Ok(Fetched::Piece { bytes, .. }) => Some(bytes),
                Ok(Fetched::Frame(_)) | Err(_) => None,
            };
            return self.next_piece_read(connection, piece);
        }
        self.tails.release();
        self.resume_long_answer(connection, |server, exchange| {
            let said = match result {
                Ok(Fetched::Piece { media, length, bytes }) => {
                    let kind = match media {
                        Media::Image => image_type(&bytes),
                        media => content_type(media == Media::Text),
                    };
                    let tail = Tail::new(Large::Event(part), length, bytes);
                    if tail.holds_piece() {
                        server.tails.take();
                    }
                    server.write_large(exchange, kind, tail);
                    return None;
                }
                Ok(Fetched::Frame(frame)) => server.say_event(&frame),
                Err(failure) => Err(server.not_read(failure)),
            };
            server.write_said(exchange, said);
            None
        });
        // An earlier reply may be in its way.
        if self.connections.get(connection).is_some_and(|one| one.flow == Flow::Blocked) {
            self.give_back_tail(connection);
        }
    }
}

/// The frames of a page.
pub(super) fn frames(bytes: &[u8]) -> impl Iterator<Item = Frame<'_>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let frame = journal::first_frame(rest)?;
        rest = &rest[frame.bytes.len()..];
        Some(frame)
    })
}

fn write_event(array: &mut json::Array<'_>, frame: &Frame<'_>, id: &crate::wire::sse::EventId) {
    array.object(|object| {
        object.display("id", id);
        object.string("event", frame.name);
        object.raw("data", frame.data);
    });
}

fn event_gone() -> Problem {
    let sentence = "there is no such event in this session, or it is no longer kept";
    Problem::new(Status::NOT_FOUND, "event_not_found", sentence)
}

fn content_type(is_text: bool) -> &'static str {
    if is_text { "text/plain; charset=utf-8" } else { "application/json" }
}
