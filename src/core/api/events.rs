//! Endpoints about events: streams, and single events.

use super::*;

impl Server {
    pub(super) fn session_events(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let asked = self.stream_request(request)?;
        let key = match self.by_id.get(id).copied() {
            Some(key) => key,
            // A closed session still serves a cursor that is older than its end.
            None => self
                .closed_ids
                .get(id)
                .copied()
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
        if let Some(list) = request.parameter("sessions")? {
            let mut owners = Vec::new();
            for id in list.split(',').filter(|id| !id.is_empty()).take(1000) {
                match self.by_id.get(id).and_then(|key| self.sessions.get(*key)) {
                    Some(session) => owners.push(session.feed.number),
                    None => asked.unknown.push(id.chars().take(80).collect()),
                }
            }
            asked.unknown.truncate(16);
            asked.owners = Some(owners.into_boxed_slice());
        }
        if let Some(reason) = self.stream_refused(None) {
            return Ok(Reply::Busy(reason));
        }
        Ok(Reply::Stream(asked))
    }

    /// Reads what a stream's request asks for, its session aside.
    pub(super) fn stream_request(&self, request: &Request<'_>) -> Result<StreamRequest, Problem> {
        let invalid = |sentence: &str| Problem::bad("invalid_value", sentence);
        let header = request.head.last_event_id.map(|span| span.of(request.input).to_vec());
        let parameter = request.parameter("lastEventId")?.filter(|id| !id.is_empty());
        let cursor = header.or_else(|| parameter.map(|id| id.as_bytes().to_vec()));
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
            Some(text) => text
                .parse::<u64>()
                .ok()
                .and_then(|seconds| seconds.checked_mul(1000))
                .filter(|ms| HEARTBEAT_MS.contains(ms))
                .ok_or_else(|| invalid("\"heartbeat\" must be a number of seconds from 5 to 60"))?,
        };
        let pad = match request.parameter("pad")? {
            None => 0,
            Some(text) => text
                .parse()
                .ok()
                .filter(|pad| *pad <= PAD_MAX)
                .ok_or_else(|| invalid("\"pad\" must be a number of bytes up to 65536"))?,
        };
        let (owners, unknown) = (None, Vec::new());
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
        let key = self.session_key(id)?;
        let id = crate::wire::sse::EventId::parse(event.as_bytes()).ok_or_else(event_gone)?;
        let session = self.sessions.get(key).ok_or_else(event_gone)?;
        let log = &session.feed.log;
        let is_ours = self.publisher.epochs.id(id.seq) == id && id.seq > 0;
        if !is_ours || Some(id.seq) > log.latest_seq() {
            return Err(event_gone());
        }
        let start = log.ring.after(id.seq - 1);
        // Only an event of this very session: large fields of others are not to be had here.
        let in_ring = log.ring.mark_at(start).is_some_and(|mark| mark.seq == id.seq);
        if let Some(journal) = &log.journal {
            let position = journal.seek(id.seq - 1);
            let segment = journal.segment_at(position).ok_or_else(event_gone)?;
            if id.seq <= journal.evicted() || !in_ring && id.seq > journal.last_seq() {
                return Err(event_gone());
            }
            let session_id = session.id().to_owned();
            let (end, least_seq) = (segment.1, 0);
            let segments = vec![segment];
            let source = Source { session_id, segments, position, end, least_seq };
            let (connection, seq) = (request.connection, id.seq);
            let request = DiskRequest::Large { connection, seq, source };
            self.effects.push_back(Effect::Disk(request));
            return Ok(Reply::Later);
        }
        if !in_ring {
            return Err(event_gone());
        }
        if let Some((bytes, is_text)) = self.publisher.large.get(id.seq) {
            return Ok(Reply::Bytes(bytes.to_vec(), content_type(is_text)));
        }
        let crate::base::ring::Found::Bytes(a, b) = log.ring.at(start, log.ring.after(id.seq))
        else {
            return Err(event_gone());
        };
        self.say_event(&[a, b].concat())?;
        ok()
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

    /// The disk thread has looked for an event.
    pub(in crate::core) fn large_read(&mut self, connection: Key, result: Option<Fetched>) {
        self.resume_answer(connection, |server, exchange| {
            let cached = [("Cache-Control", "private, max-age=31536000, immutable")];
            let (bytes, kind) = match result {
                Some(Fetched::Text(bytes)) => (bytes, content_type(true)),
                Some(Fetched::Json(bytes)) => (bytes, content_type(false)),
                Some(Fetched::Frame(frame)) => {
                    match server.say_event(&frame) {
                        Ok(()) => server.write_json(exchange, Status::OK, &[]),
                        Err(problem) => server.write_problem(exchange, &problem),
                    }
                    return None;
                }
                None => {
                    server.write_problem(exchange, &event_gone());
                    return None;
                }
            };
            server.write_reply(exchange, Status::OK, Some(kind), &cached, &bytes);
            None
        });
    }
}

fn event_gone() -> Problem {
    let sentence = "there is no such event in this session, or it is no longer kept";
    Problem::new(Status::NOT_FOUND, "event_not_found", sentence)
}

fn content_type(is_text: bool) -> &'static str {
    if is_text { "text/plain; charset=utf-8" } else { "application/json" }
}
