//! Who uses the server in this world: clients come, ask, read strictly, stall, vanish and return.
//!
//! Everything a client receives is judged here, against the model, as soon as it is read.

use crate::client::{
    Ask, Connection, Expect, Follower, Frame, Parsed, Reply, Stream, What, Whose, pour, read_frame,
    read_reply,
};
use crate::model::{Event, Model};
use crate::requests::{Draft, TYPES};
use crate::world::World;
use serde_json::Value;
use std::collections::VecDeque;
use std::fmt::Display;

impl World {
    // What people do.

    /// A turn's worth of life among the clients.
    pub fn live(&mut self) {
        let few = self.model.sessions.iter().filter(|session| !session.closed).count() < 2;
        if self.connections.len() < self.limits.connections_max as usize + 3 {
            if self.random.chance(self.faults.clients) {
                self.visit(few);
            }
            if self.random.chance(self.faults.clients / 2) {
                self.follow();
            }
        }
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            if self.random.chance(self.faults.reset) {
                self.hit("client-reset");
                self.reset(id);
                continue;
            }
            let (stall, poke) = (self.random.chance(self.faults.stall), self.random.chance(2));
            let connection = self.connections.get_mut(&id).expect("it is here");
            if stall {
                connection.stalled = !connection.stalled;
                if connection.stalled && connection.stream.is_some() {
                    self.model.tally.hit("reader-stalled");
                }
            }
            if poke && connection.stream.is_some() && !connection.poked {
                connection.poked = true;
                connection.script.push_back(b'x');
            }
        }
    }

    /// A client comes with a few requests.
    fn visit(&mut self, create: bool) {
        let count = 1 + self.random.index(5);
        let mut plan = VecDeque::new();
        for at in 0..count {
            let last = at + 1 == count;
            if last && self.random.chance(120) {
                plan.push_back(self.asker.bad(&mut self.random));
                break;
            }
            if last && !self.followers.is_empty() && self.random.chance(100) {
                // A stream behind other requests on one connection.
                let follower = self.random.index(self.followers.len());
                if self.followers[follower].connection.is_none() {
                    self.followers[follower].connection = Some(self.next_id());
                    plan.push_back(self.stream_request(follower));
                    break;
                }
            }
            let draft = match self.random.chance(100) {
                true => self.poll_request(),
                false => self.asker.draw(&mut self.random, &self.model, create && at == 0),
            };
            plan.push_back(self.asker.write(&mut self.random, draft, last));
        }
        let mut connection = Connection::new(0, plan);
        let drip = self.random.chance(self.faults.drip);
        connection.chunk = match (drip, self.random.below(3)) {
            (true, _) => 1,
            (false, 0) => 1 + self.random.index(200),
            (false, _) => usize::MAX,
        };
        if connection.plan.len() > 1 && self.random.chance(self.faults.pipeline) {
            self.hit("pipelined");
            while !connection.plan.is_empty() {
                connection.ask_next();
            }
        } else {
            connection.ask_next();
        }
        let streams = |expect: &Expect| matches!(expect.what, What::Stream(_));
        let has_stream = connection.expects.iter().any(streams)
            || connection.plan.iter().any(|(_, expect)| streams(expect));
        if !has_stream && self.random.chance(self.faults.half_close) {
            connection.ends_input = true;
            self.hit("client-half-closed");
        }
        connection.lingers = self.random.chance(200);
        if !self.processes.is_empty() && self.random.chance(self.faults.agents) {
            connection.whose = if self.random.chance(700) { Whose::Agent } else { Whose::Nobody };
        }
        self.equip(&mut connection);
        self.dial(connection);
    }

    fn equip(&mut self, connection: &mut Connection) {
        connection.capacity = match self.random.below(3) {
            0 => 1 + self.random.index(2_000),
            1 => 1 + self.random.index(64 * 1024),
            _ => 256 * 1024,
        };
        connection.pace = match self.random.below(3) {
            0 => 1 + self.random.index(1_000),
            _ => usize::MAX,
        };
    }

    /// Somebody begins to follow, or comes back to go on.
    fn follow(&mut self) {
        let away: Vec<usize> = (0..self.followers.len())
            .filter(|follower| self.followers[*follower].connection.is_none())
            .collect();
        let follower = if away.is_empty() || self.random.chance(300) {
            self.new_follower()
        } else {
            away[self.random.index(away.len())]
        };
        self.followers[follower].connection = Some(self.next_id());
        let request = self.stream_request(follower);
        let mut connection = Connection::new(0, VecDeque::from([request]));
        connection.ask_next();
        self.equip(&mut connection);
        self.dial(connection);
    }

    fn new_follower(&mut self) -> usize {
        let sessions = self.model.sessions.len();
        let one = sessions > 0 && self.random.chance(700);
        let session = one.then(|| self.random.index(sessions));
        let compact = self.random.chance(100);
        let mut follower = Follower { compact, ..Follower::new(session) };
        if !one && sessions > 0 && self.random.chance(400) {
            let count = 1 + self.random.index(2);
            follower.owners = Some((0..count).map(|_| self.random.index(sessions)).collect());
        }
        if self.random.chance(250) {
            follower.types = Some(TYPES[self.random.index(TYPES.len())]);
        }
        self.followers.push(follower);
        self.followers.len() - 1
    }

    fn stream_request(&mut self, at: usize) -> (Vec<u8>, Expect) {
        let follower = &self.followers[at];
        let mut path = match follower.session {
            Some(session) => format!("/api/session/{}/events", self.model.sessions[session].id),
            None => "/api/events".to_owned(),
        };
        let mut query = Vec::new();
        if let Some(owners) = &follower.owners {
            let ids: Vec<&str> =
                owners.iter().map(|owner| &*self.model.sessions[*owner].id).collect();
            query.push(format!("sessions={},session-0-none", ids.join(",")));
        }
        if let Some(types) = follower.types {
            query.push(format!("types={types}"));
        }
        if follower.compact {
            query.push("view=compact".to_owned());
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let mut cursor = follower.cursor.clone();
        match self.random.below(60) {
            0 => cursor = Some("nonsense".to_owned()),
            1 => cursor = Some(format!("000000000000-{}", self.model.visible)),
            2 => cursor = Some(format!("{}-{}", self.model.epoch, self.model.visible + 1_000_000)),
            3 => cursor = Some(format!("{}-1", self.model.epoch)),
            4 => cursor = None,
            _ => {}
        }
        let replay = match self.random.below(4) {
            0 => "none",
            1 => "all",
            _ => "",
        };
        let pad = if self.random.chance(50) { 1 + self.random.index(3000) } else { 0 };
        let issued = cursor.as_deref().is_some_and(|cursor| self.model.must_hold(cursor));
        let ask = Ask { follower: at, cursor, issued, replay, pad };
        let draft = self.asker.stream(&mut self.random, &self.model, ask, path);
        self.asker.write(&mut self.random, draft, true)
    }

    /// A long poll, on behalf of nobody in particular.
    fn poll_request(&mut self) -> Draft {
        let sessions = self.model.sessions.len();
        let session = (sessions > 0).then(|| self.random.index(sessions));
        let session = session.filter(|_| self.random.chance(700));
        let path = match session {
            Some(session) => {
                format!("/api/session/{}/events/poll", self.model.sessions[session].id)
            }
            None => "/api/events/poll".to_owned(),
        };
        let wait = self.random.below(4) * 5;
        let back = self.random.below(300);
        let seq = self.model.visible.saturating_sub(if back < 150 { 0 } else { back }).max(1);
        let after = format!("{}-{seq}", self.model.epoch);
        let types = match self.random.chance(200) {
            true => Some(TYPES[self.random.index(TYPES.len())]),
            false => None,
        };
        let query = types.map_or(String::new(), |types| format!("&types={types}"));
        let target = format!("{path}?after={after}&wait={wait}{query}");
        Draft::get(target, What::Poll { session, after: seq, types })
    }

    /// What a long poll was told: everything behind its cursor, in order, without a hole.
    fn polled(&mut self, expect: &Expect, body: &Value, context: &str) {
        let What::Poll { session, after, types } = expect.what else { return };
        let next = body["next"].as_str().and_then(|id| self.model.seq(id));
        let next = next.unwrap_or_else(|| panic!("{context}: no cursor: {body}"));
        let reader = Follower { types, ..Follower::new(session) };
        let wanted = |model: &Model, seq: u64| {
            model.next_wanted(session, seq, |event| {
                event.gone_at == u64::MAX && reader.wants(event.session, &event.name)
            })
        };
        let events = body["events"].as_array().unwrap_or_else(|| panic!("{context}: {body}"));
        let mut at = after;
        for (number, event) in events.iter().enumerate() {
            let seq = self.model.seq(event["id"].as_str().unwrap_or_default());
            let seq = seq.unwrap_or_else(|| panic!("{context}: {event}"));
            let known = self.model.event(seq).expect("it is visible");
            let gone = known.gone_at < u64::MAX && seq > at;
            let follows = gone || wanted(&self.model, at) == Some(seq);
            let gap = number == 0 && body["resume"] == "gap";
            assert!(follows || gap, "{context}: a hole before {seq} behind {at}");
            let frame = known.frame.trim_end();
            let data: Value = frame
                .split_once("\ndata: ")
                .and_then(|(_, data)| serde_json::from_str(data).ok())
                .unwrap_or_default();
            assert!(data == event["data"] && event["event"] == *known.name, "{context}: {event}");
            at = seq;
        }
        if events.is_empty() {
            let left_out = wanted(&self.model, at).is_some_and(|seq| seq <= next);
            let gap = body["resume"] == "gap";
            assert!(!left_out || gap, "{context}: {next} passes over events");
            self.hit("poll-empty");
        } else {
            // A piece of a journal may end with events that are not wanted.
            let left_out = wanted(&self.model, at).is_some_and(|seq| seq <= next);
            assert!(next == at || self.model.has_journals && !left_out, "{context}: {next} {at}");
            self.hit("poll-events");
        }
    }

    /// A page of the past: the events before some place, all of them, in order.
    fn paged(&mut self, expect: &Expect, body: &Value, context: &str) {
        let What::History { session, limit, types } = expect.what else { return };
        let reader = Follower { types, ..Follower::new(Some(session)) };
        let events = body["events"].as_array().unwrap_or_else(|| panic!("{context}: {body}"));
        assert!(events.len() <= limit.unwrap_or(100), "{context}: more than asked for");
        // What the ring lost while the disk took nothing is a hole, and told once the disk is back.
        let forgotten = self.model.sessions[session].list.evicted();
        let lost = |event: &Event| {
            event.gone_at < u64::MAX || self.model.is_shaky && event.seq <= forgotten
        };
        let mut at = None;
        for event in events {
            let seq = self.model.seq(event["id"].as_str().unwrap_or_default());
            let known = seq.and_then(|seq| self.model.event(seq));
            let known = known.unwrap_or_else(|| panic!("{context}: never visible: {event}"));
            assert_eq!(known.session, session, "{context}: {event}");
            assert!(reader.wants(session, &known.name), "{context}: not wanted: {event}");
            if let Some(at) = at {
                let next = self.model.next_wanted(Some(session), at, |event| {
                    !lost(event) && reader.wants(session, &event.name)
                });
                let gone = lost(known) && known.seq > at;
                assert!(gone || next == Some(known.seq), "{context}: a hole behind {at}");
            }
            at = Some(known.seq);
        }
        self.hit(if events.is_empty() { "history-empty" } else { "history-page" });
    }

    // What people read.

    /// Every client takes what it wants of what has arrived for it.
    pub fn read_replies(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let Some(mut connection) = self.connections.remove(&id) else { continue };
            if self.healed {
                connection.stalled = false;
                (connection.pace, connection.chunk) = (usize::MAX, usize::MAX);
                connection.capacity = connection.capacity.max(64 * 1024);
            }
            if !connection.stalled {
                let count = connection.kernel.len().min(connection.pace);
                if count < connection.kernel.len() && connection.stream.is_some() {
                    self.model.tally.hit("reader-slow");
                }
                pour(&mut connection.kernel, &mut connection.buffer, count);
                connection.writable |= connection.blocked && connection.room() > 0;
            }
            self.parse(&mut connection);
            let over = connection.output_ended && connection.kernel.is_empty();
            if over && !connection.stalled && !connection.done {
                self.ended(&mut connection);
            }
            let forgotten = connection.done && connection.key.is_none();
            if forgotten {
                if let Some(stream) = &connection.stream {
                    self.followers[stream.ask.follower].connection = None;
                }
            } else {
                self.connections.insert(id, connection);
            }
        }
    }

    fn parse(&mut self, connection: &mut Connection) {
        if connection.buffer.is_empty() {
            return;
        }
        let context = format!("{} connection {}", self.context(), connection.id);
        let mut buffer = std::mem::take(&mut connection.buffer);
        let mut at = 0;
        while at < buffer.len() {
            let before = at;
            at += match connection.stream.is_some() {
                true => self.parse_frame(connection, &buffer[at..], &context),
                false => self.parse_reply(connection, &buffer[at..], &context),
            };
            if at == before {
                break;
            }
        }
        buffer.drain(..at);
        connection.buffer = buffer;
    }

    /// The next frame of a stream. Returns its length; 0: it is not there yet.
    fn parse_frame(&mut self, connection: &mut Connection, bytes: &[u8], context: &str) -> usize {
        match read_frame(bytes) {
            Ok(None) => 0,
            Ok(Some(frame)) => {
                self.frame(connection, &frame, context);
                frame.text.len()
            }
            Err(error) => panic!("{context}: {error}"),
        }
    }

    /// The next answer. Returns its length; 0: it is not there yet.
    fn parse_reply(&mut self, connection: &mut Connection, bytes: &[u8], context: &str) -> usize {
        {
            let is_head = connection.expects.front().is_some_and(|expect| expect.head);
            let parsed = read_reply(bytes, is_head);
            let (parsed, length) = parsed.unwrap_or_else(|error| panic!("{context}: {error}"));
            match parsed {
                Parsed::More => return 0,
                Parsed::Interim => self.hit("expect-continue"),
                Parsed::Reply(reply) => {
                    let expect = self.take_expect(connection, &reply, context);
                    self.replied(connection, expect, &reply, context);
                    if connection.expects.is_empty() && !connection.closing {
                        connection.ask_next();
                    }
                    if connection.expects.is_empty() && connection.plan.is_empty() {
                        self.leave(connection);
                    }
                }
                Parsed::Stream(reply) => {
                    let expect = self.take_expect(connection, &reply, context);
                    assert_eq!(reply.status, 200, "{context}");
                    connection.closing = true;
                    match expect.what {
                        What::Stream(ask) => {
                            self.follow_closed(&ask);
                            connection.stream = Some(Stream {
                                ask,
                                connected: false,
                                replaying: true,
                                position: 0,
                                other: None,
                                count: 0,
                                is_loose: false,
                                unknown: Vec::new(),
                                over: false,
                                jumps_to: 0,
                                joined_at: connection.joined_at,
                            });
                        }
                        _ => assert!(expect.head, "{context}: a stream that nobody asked for"),
                    }
                }
            }
            length
        }
    }

    fn follow_closed(&mut self, ask: &Ask) {
        let session = self.followers[ask.follower].session;
        if session.is_some_and(|session| self.model.sessions[session].closed) {
            self.hit("stream-of-closed-session");
        }
    }

    /// A client that has all its answers goes, at once or after a while.
    fn leave(&mut self, connection: &mut Connection) {
        if !connection.lingers || self.healed {
            connection.ends_input = true;
        }
    }

    fn take_expect(&mut self, connection: &mut Connection, reply: &Reply, context: &str) -> Expect {
        let Some(expect) = connection.expects.pop_front() else {
            panic!("{context}: an answer to nothing: {}", reply.status);
        };
        let id = reply.field("x-request-id").unwrap_or_default();
        let ours = id == expect.id;
        let close = reply.field("connection") == Some("close");
        // Refused before its fields were known: the id is made up, and the connection ends.
        let unread = close && matches!(reply.status, 400 | 408 | 413 | 414 | 431 | 501 | 503 | 505);
        let bad = matches!(expect.what, What::Bad);
        assert!(ours || unread || bad, "{context}: {id:?} answers {expect:?} {}", reply.status);
        let stale = connection.answered.iter().any(|known| known == id);
        assert!(!id.is_empty() && !stale, "{context}: the id {id:?}, {}", reply.status);
        // Who is refused by the head alone is not asked for the rest.
        let early = close && reply.status >= 400;
        if reply.status != 408 && !bad && !early {
            assert!(expect.end <= connection.read, "{context}: answered before it was read");
        }
        connection.answered.push(id.to_owned());
        connection.closing |= close;
        expect
    }

    fn replied(
        &mut self,
        connection: &mut Connection,
        expect: Expect,
        reply: &Reply,
        context: &str,
    ) {
        let status = reply.status;
        let context = format!("{context} {} {:?} {status}", expect.id, expect.what);
        if status == 408 {
            assert!(expect.end > connection.late_at, "{context}: the request was whole");
            self.hit("client-slow-head");
            return;
        }
        let is_json = reply.field("content-type") == Some("application/json");
        let body = match (is_json && !expect.head).then(|| reply.json()) {
            Some(None) => panic!("{context}: no JSON: {:?}", String::from_utf8_lossy(&reply.body)),
            Some(Some(body)) => body,
            None => Value::Null,
        };
        if status >= 400 && is_json && !expect.head {
            assert_eq!(body["success"], false, "{context}: {body}");
            assert!(body["code"].is_string() && body["error"].is_string(), "{context}: {body}");
        }
        // A snapshot's cursor stands for what everybody can see.
        if let Some(cursor) = body["lastEventId"].as_str() {
            let seq = self.model.seq(cursor).unwrap_or_else(|| panic!("{context}: {body}"));
            assert!(seq <= self.model.visible, "{context}: ahead of what is visible");
        }
        match body["code"].as_str() {
            Some("sessions_max") => self.hit("sessions-max"),
            Some("queue_full") => self.hit("queue-full"),
            _ => {}
        }
        if let Some(refused) = expect.refused
            && !matches!(expect.what, What::Bad)
        {
            self.hit(if refused == 401 { "token-missing" } else { "scope-too-small" });
            let other = expect.changes && status >= 400 || matches!(status, 404 | 413 | 503);
            assert!(status == refused || other, "{context}: let in without the right");
            return;
        }
        // What a former start left behind is swept before this one listens.
        let some = connection.had_agents == Some(true);
        if connection.whose != Whose::Human && expect.changes && some {
            assert!(status >= 400, "{context}: an agent changed something");
            if body["code"] == "agent_self_access" {
                self.hit("agent-refused");
            }
            return;
        }
        // Whether a server that is gone had a reason is not known any more.
        if !connection.stale || !matches!(expect.what, What::Event { .. }) {
            self.judge(&expect, status, &body, &context);
        }
    }

    fn judge(&mut self, expect: &Expect, status: u16, body: &Value, context: &str) {
        let refusals: &[u16] = &[400, 403, 404, 409, 413, 429, 431, 503];
        match &expect.what {
            What::Create if status == 201 => {
                let id = body["sessionId"].as_str().unwrap_or_default();
                assert!(self.model.session(id).is_some(), "{context}: told before it was visible");
            }
            What::Prompt { session, repeat } if matches!(status, 200 | 202) => {
                let id = body["promptId"].as_str().unwrap_or_default();
                if body["event"].is_string() {
                    let ended = self.model.sessions[*session].prompts.get(id);
                    let unknown = self.model.sessions[*session].truncated;
                    let ended = ended.is_some_and(|fate| fate.ended);
                    assert!(ended || unknown, "{context}: {body}");
                    self.hit("prompt-waited");
                }
                let known = &self.model.sessions[*session];
                let is_queued = known.prompts.contains_key(id) || known.truncated;
                assert!(is_queued, "{context}: {id} was accepted and never queued");
                if *repeat {
                    self.hit("prompt-repeated");
                }
                self.hit("held-answer");
            }
            What::Approval { session, approval, allow } if status == 200 => {
                let known = &self.model.sessions[*session];
                let resolved = known.resolved.contains(approval) || known.truncated;
                assert!(resolved, "{context}: {body}");
                if !allow {
                    self.hit("approval-denied");
                }
            }
            What::Delete if status == 200 => {
                assert_eq!(body["status"], "stopping", "{context}");
            }
            What::Poll { .. } if status == 200 => self.polled(expect, body, context),
            What::History { .. } if status == 200 => self.paged(expect, body, context),
            What::History { .. } => {
                let excused = matches!(status, 404 | 503);
                assert!(excused, "{context}: no page: {body}");
            }
            What::Event { session, seq } => {
                let held = self.is_kept(*session, *seq);
                assert!(matches!(status, 200 | 404 | 503), "{context}: {body}");
                let there =
                    matches!(status, 200 | 503) || !held || body["code"] == "session_not_found";
                assert!(there, "{context}: it is gone without a reason: {body}");
                if status == 200 && body["id"].is_string() {
                    assert_eq!(self.model.seq(body["id"].as_str().unwrap_or("")), Some(*seq));
                    self.hit("event-read");
                }
            }
            What::Metrics if status == 200 => check_metrics(body, context),
            What::Plain if matches!(status, 200 | 204 | 304) => {}
            // No such path, which is nobody's business who has no token.
            What::Plain if status == 401 && self.asker.with_tokens => {}
            What::Bad => assert!(status >= 400, "{context}"),
            _ => assert!(refusals.contains(&status), "{context}: {body}"),
        }
    }

    /// Whether an event is there for whoever asks for it.
    fn is_kept(&self, session: usize, seq: u64) -> bool {
        let event = self.model.event(seq).expect("it was asked for");
        let is_kept = event.gone_at == u64::MAX && !self.model.sessions[session].closed;
        is_kept && self.model.has_journals && !self.model.is_shaky
    }

    // Streams.

    fn frame(&mut self, connection: &mut Connection, frame: &Frame, context: &str) {
        let Some(mut stream) = connection.stream.take() else { return };
        // What a server that is gone has said of a cursor is not to be judged by what is left now.
        stream.ask.issued &= !connection.stale;
        let ask = stream.ask.clone();
        let context: &dyn Display = &format_args!("{context} {ask:?} {frame:?}");
        assert!(!stream.over, "{context}: after the end");
        let session = self.followers[stream.ask.follower].session;
        let told = session.map_or("*", |session| &self.model.sessions[session].id);
        match &*frame.name {
            "" => assert!(!stream.connected && stream.ask.pad > 0, "{context}: a comment"),
            "server-busy" => {
                assert!(!stream.connected && frame.id.is_none() && frame.retry, "{context}");
                stream.over = true;
                self.hit("server-busy");
            }
            "connected" => {
                assert!(!stream.connected && frame.retry, "{context}: connected twice");
                assert_eq!(frame.data["sessionId"], told, "{context}");
                self.connected(&mut stream, frame, context);
            }
            "replay-complete" => {
                assert!(stream.connected && stream.replaying, "{context}");
                assert_eq!(frame.data["sessionId"], told, "{context}");
                // Counted before it is sent: what a compact view passes over since then, and what
                // is erased before its client takes it, is not sent.
                let compact = self.followers[stream.ask.follower].compact;
                let may_shrink = compact || stream.jumps_to > 0 && self.model.has_journals;
                let count = frame.data["count"].as_u64().unwrap_or(0);
                assert!(count == stream.count || may_shrink && count > stream.count, "{context}");
                stream.replaying = false;
                self.skip(&mut stream, frame, context);
                self.hit("replay-complete");
            }
            "heartbeat" => {
                assert!(stream.connected && !stream.replaying, "{context}");
                assert_eq!(frame.data["sessionId"], told, "{context}");
                self.skip(&mut stream, frame, context);
                self.hit("heartbeat");
            }
            "server-shutdown" => {
                assert!(stream.connected && frame.retry, "{context}");
                self.skip(&mut stream, frame, context);
                stream.over = true;
                self.hit("server-shutdown");
            }
            _ => self.event(&mut stream, frame, context),
        }
        if self.loud {
            let (number, name, id) = (connection.id, &frame.name, &frame.id);
            println!("{} {number} reads {name} {id:?} {}", self.context(), frame.data["resume"]);
        }
        if let Some(id) = &frame.id {
            self.followers[stream.ask.follower].cursor = Some(id.clone());
        }
        connection.stream = Some(stream);
    }

    /// The next event behind `seq` that the stream must not go without.
    fn next_wanted(&self, stream: &Stream, seq: u64) -> Option<u64> {
        let follower = &self.followers[stream.ask.follower];
        self.model.next_wanted(follower.session, seq, |event| {
            follower.wants(event.session, &event.name)
                && !stream.unknown.contains(&event.session)
                && !self.may_be_absent(stream, event)
        })
    }

    /// Whether a stream may go without an event, and may have it as well.
    fn may_be_absent(&self, stream: &Stream, event: &Event) -> bool {
        let follower = &self.followers[stream.ask.follower];
        // Where there are journals, a block has ended before that can be seen.
        let ended = self.model.is_superseded(event) || event.is_delta && self.model.has_journals;
        // What the ring lost while the disk took nothing is a hole, and told once the disk is back.
        let forgotten = self.model.sessions[event.session].list.evicted();
        let shaky = self.model.is_shaky || stream.joined_at < self.model.was_shaky_until;
        let hole = shaky && event.seq <= forgotten;
        // What goes while it reads what is left is no longer left.
        let hole = (hole || event.gone_at < u64::MAX) && event.seq <= stream.jumps_to;
        follower.compact && ended || event.gone_at <= stream.joined_at || hole
    }

    fn event(&mut self, stream: &mut Stream, frame: &Frame, context: &dyn Display) {
        let id = frame.id.as_deref().unwrap_or_default();
        let seq = self.model.seq(id).unwrap_or_else(|| panic!("{context}: a foreign id"));
        let known = self.model.event(seq).unwrap_or_else(|| panic!("{context}: never visible"));
        assert_eq!(known.frame, frame.text, "{context}: not what was published");
        assert!(stream.connected, "{context}: before connected");
        let follower = &self.followers[stream.ask.follower];
        let passes = self.may_be_absent(stream, known);
        assert!(follower.wants(known.session, &known.name), "{context}: not wanted");
        // One that could have been passed over may come, in its place.
        let follows = |at: u64| match self.next_wanted(stream, at) {
            Some(next) => next == seq || passes && at < seq && seq < next,
            None => passes && at < seq,
        };
        let (at, other) = (stream.position, stream.other);
        let fits = stream.is_loose || follows(at) || other.is_some_and(follows);
        assert!(fits, "{context}: a hole or a repeat behind {at} {other:?}");
        stream.is_loose = false;
        (stream.position, stream.other) = (seq, None);
        stream.count += u64::from(stream.replaying);
        self.model.tally.hit("frames-checked");
    }

    /// A frame that is no event: if it has an id, nothing that is wanted may lie before it.
    fn skip(&mut self, stream: &mut Stream, frame: &Frame, context: &dyn Display) {
        let Some(id) = &frame.id else { return };
        let seq = self.model.seq(id).unwrap_or_else(|| panic!("{context}: a foreign id"));
        let from = stream.other.map_or(stream.position, |other| other.max(stream.position));
        // A cursor may go back over what is not wanted.
        let back = self.next_wanted(stream, seq).is_some_and(|next| next <= stream.position);
        assert!(!back, "{context}: back behind {}", stream.position);
        let next = self.next_wanted(stream, from).filter(|_| !stream.is_loose);
        let left_out = || {
            let event = next.and_then(|next| self.model.event(next));
            let event = event.map(|event| (&event.name, event.session, event.gone_at));
            let follower = &self.followers[stream.ask.follower];
            format!(
                "{next:?} {event:?} was left out behind {from}: {:?} {:?} {:?} {} {}",
                follower.session,
                follower.owners,
                follower.types,
                follower.compact,
                stream.joined_at
            )
        };
        assert!(next.is_none_or(|next| next > seq), "{context}: {}", left_out());
        stream.position = stream.position.max(seq).max(from);
        stream.other = None;
    }

    fn connected(&mut self, stream: &mut Stream, frame: &Frame, context: &dyn Display) {
        stream.connected = true;
        let unknown = frame.data["unknown"].as_array().into_iter().flatten();
        stream.unknown =
            unknown.filter_map(|id| self.model.session(id.as_str().unwrap_or_default())).collect();
        let follower = &self.followers[stream.ask.follower];
        let list = self.model.list(follower.session);
        let id = |name: &str| frame.data[name].as_str().and_then(|id| self.model.seq(id));
        let latest = id("latestId").unwrap_or(0);
        let (least, most) = list.evicted_at(latest);
        let journals = self.model.has_journals;
        let cursor = stream.ask.cursor.as_deref().map(|text| self.model.seq(text));
        let text = stream.ask.cursor.as_deref().unwrap_or_default();
        let must_hold = stream.ask.issued && self.model.must_hold(text);
        let must_not = self.model.must_not_hold(text);
        let old = !text.starts_with(&self.model.epoch);
        let here = frame.id.as_deref().map(|id| self.model.seq(id).expect("an id of ours"));
        if frame.data["resume"] != "ok" {
            stream.jumps_to = self.model.visible;
        }
        match (frame.data["resume"].as_str(), cursor) {
            (Some("ok"), Some(Some(seq))) => {
                let gone = match &follower.owners {
                    None => list.gone_before(stream.joined_at),
                    Some(owners) => owners
                        .iter()
                        .filter(|owner| !stream.unknown.contains(owner))
                        .map(|owner| self.model.list(Some(*owner)))
                        .map(|list| list.gone_before(stream.joined_at))
                        .max()
                        .unwrap_or(0),
                };
                // What the journal has no more may still stand in the ring.
                let least = if journals { gone.min(least) } else { least };
                let known = seq >= least || least <= self.model.untraced;
                assert!(known, "{context}: ok, and {least} was forgotten");
                assert!(!must_not, "{context}: ok, and nothing is left of that start");
                assert_eq!(here, None, "{context}");
                stream.position = seq;
                self.hit(if old { "connected-ok-after-a-restart" } else { "connected-ok" });
            }
            (Some("gap"), Some(cursor)) => {
                let most = if journals { self.model.gone_at_most(follower.session) } else { most };
                let truthful = cursor.is_none_or(|seq| seq < most || !must_hold);
                let shaky = self.model.is_shaky;
                assert!(truthful, "{context}: no gap, only {most} was forgotten, {shaky}");
                let here = here.unwrap_or_else(|| panic!("{context}: a gap without an id"));
                // It begins no later than the newest bytes do, where it can have them.
                let newest = list.newest(self.limits.replay_size, latest, most);
                let next = self.model.next_wanted(follower.session, newest, |_| true);
                let all = next.is_none_or(|next| here < next || newest >= latest);
                // A compact one begins at a turn, and where a journal is read is its index's say.
                let all = all || follower.compact || journals;
                assert!(all && here <= self.model.visible, "{context}: beyond {newest}");
                stream.position = here;
                self.hit(if old { "connected-gap-after-a-restart" } else { "connected-gap" });
            }
            (Some("fresh"), None) => {
                let replay = match (stream.ask.replay, follower.session) {
                    ("", None) => "none",
                    (replay, _) => replay,
                };
                match replay {
                    "none" => {
                        let here = here.unwrap_or_else(|| panic!("{context}: no id"));
                        assert!(here >= latest && here <= self.model.visible, "{context}");
                        stream.position = here;
                    }
                    "all" if journals => stream.position = 0,
                    "all" => {
                        stream.position = least;
                        stream.other = Some(most.min(latest)).filter(|other| *other > least);
                    }
                    _ => {
                        stream.is_loose = follower.compact || journals;
                        let size = self.limits.replay_size;
                        stream.position = list.newest(size, latest, least);
                        let other = list.newest(size, latest, most);
                        stream.other = Some(other).filter(|other| *other > stream.position);
                    }
                }
                self.hit("connected-fresh");
            }
            (resume, cursor) => panic!("{context}: {resume:?} for {cursor:?}"),
        }
    }

    // Ends.

    /// The client has read the end of what the server sends.
    fn ended(&mut self, connection: &mut Connection) {
        let context =
            format!("{} connection {} {:?}", self.context(), connection.id, connection.cut);
        if let Some(stream) = connection.stream.take() {
            self.stream_ended(connection, &stream, &context);
            self.followers[stream.ask.follower].connection = None;
        } else if connection.cut.is_some_and(|cut| cut.crashed) {
            self.hit("cut-by-a-crash");
        } else if connection.accepted && !connection.closing {
            let owed = connection.expects.front().filter(|expect| expect.end <= connection.read);
            // What is large is sent in pieces: it may go away, or be unreadable, between two of them.
            let goes_away = owed.is_some_and(|owed| {
                matches!(owed.what, What::Event { session, seq } if !self.is_kept(session, seq))
                    && connection.buffer.starts_with(b"HTTP/1.1 200 OK\r\n")
            });
            if goes_away {
                self.hit("large-cut-short");
            }
            let stalled = connection.cut.is_some_and(|cut| cut.stalled);
            if let Some(owed) = owed
                && !stalled
                && !self.cut
                && !goes_away
            {
                match &owed.what {
                    // Lapped before its head was sent, or its client had left.
                    What::Stream(_) => {}
                    // Not looked at any more: the answer before it was the last one.
                    _ if self.server.is_draining() => {}
                    _ => panic!(
                        "{context}: was never answered: {owed:?} of {:?}, read {}, input ended {} \
                         {}, answered {:?}",
                        connection.expects,
                        connection.read,
                        connection.input_ended,
                        connection.input_end_told,
                        connection.answered
                    ),
                }
            }
            let text = String::from_utf8_lossy(&connection.buffer);
            let streams = connection.ask().is_some(); // Its session was forgotten.
            let whole = text.is_empty() || stalled || self.cut || streams || goes_away;
            assert!(whole, "{context}: cut short: {:?} {text:?}", connection.expects);
        }
        for (_, expect) in &connection.plan {
            self.forget(expect);
        }
        for expect in &connection.expects {
            self.forget(expect);
        }
        connection.plan.clear();
        connection.done = true;
        connection.ends_input = true;
    }

    fn forget(&mut self, expect: &Expect) {
        if let What::Stream(ask) = &expect.what {
            self.followers[ask.follower].connection = None;
        }
    }

    fn stream_ended(&mut self, connection: &Connection, stream: &Stream, context: &str) {
        let whole = connection.buffer.is_empty();
        if stream.over {
            assert!(whole, "{context}: bytes after the end");
            return;
        }
        let crashed = connection.cut.is_some_and(|cut| cut.crashed);
        if connection.poked || connection.input_ended || self.cut || crashed || connection.spoilt {
            return;
        }
        let follower = &self.followers[stream.ask.follower];
        let session = follower.session;
        let closed = session.is_some_and(|session| self.model.sessions[session].closed);
        // More sessions were closed at once than may be kept for their readers.
        let erased = session.is_some_and(|session| self.model.sessions[session].erased);
        let cut = connection.cut.unwrap_or_default();
        let next = self.next_wanted(stream, stream.position).filter(|_| !stream.is_loose);
        let from = stream.other.map_or(stream.position, |other| other.min(stream.position));
        if cut.stalled {
            self.hit("cut-by-stall");
        } else if closed && next.is_none() && (whole || !cut.in_flush) {
            // It has everything.
        } else if from <= cut.evicted || stream.is_loose || from < self.model.gone_at_most(session)
        {
            // What was not visible yet may have taken its place.
            self.hit("cut-by-lap");
        } else {
            // Forgotten, which is no matter of when it is written to.
            let forgotten = (closed || erased) && !cut.in_flush;
            let owners = &follower.owners;
            let how = format!("{closed} {next:?} {session:?} {owners:?}");
            assert!(forgotten, "{context}: closed without a reason at {from}: {how}");
        }
    }

    // The end of the world.

    /// A human for every open approval, and for agents that never end their turns.
    pub fn settle(&mut self) {
        for session in 0..self.model.sessions.len() {
            let known = &self.model.sessions[session];
            if known.archived && known.queued().count() > 0 && self.random.chance(100) {
                let draft = Draft::unarchive(&known.id);
                self.ask(draft);
                continue;
            }
            let known = &self.model.sessions[session];
            // An agent that says that it has work in the background is never suspended.
            let starves = self.model.sessions.iter().any(|one| one.queued().count() > 0);
            // Nor is one that waits for an answer to what is lost.
            let holds = known.odd && known.status == "idle" || known.truncated && !known.closed;
            if starves && holds && self.random.chance(2) {
                let draft = Draft::delete(&known.id);
                self.ask(draft);
                continue;
            }
            if known.is_running() && known.approvals.is_empty() && self.random.chance(3) {
                let draft = Draft::interrupt(&known.id);
                self.ask(draft);
                continue;
            }
            if known.closed || known.approvals.is_empty() || !self.random.chance(300) {
                continue;
            }
            let base = format!("/api/session/{}", known.id);
            let draft = self.asker.approval(&mut self.random, &self.model, session, base);
            self.ask(draft);
        }
    }

    pub fn ask(&mut self, draft: Draft) {
        // Readers may hold every slot there is: one of them makes room.
        if self.connections.len() >= self.limits.connections_max as usize {
            let oldest = *self.connections.keys().next().expect("there are some");
            self.reset(oldest);
        }
        let request = self.asker.write(&mut self.random, draft, true);
        let mut connection = Connection::new(0, VecDeque::from([request]));
        connection.ask_next();
        self.dial(connection);
    }

    /// Every stream that is open has everything.
    pub fn check_delivered(&self) {
        for connection in self.connections.values() {
            let Some(stream) = connection.stream.as_ref().filter(|stream| stream.connected) else {
                continue;
            };
            if connection.key.is_none() || stream.over {
                continue;
            }
            let next = self.next_wanted(stream, stream.position);
            let next = next.filter(|_| stream.other.is_none() && !stream.is_loose);
            let context = self.context();
            let follower = &self.followers[stream.ask.follower];
            let how = format!(
                "{:?} {:?} behind {}, blocked {}, {} in the kernel",
                follower.owners,
                follower.types,
                stream.position,
                connection.blocked,
                connection.kernel.len()
            );
            let ask = &stream.ask;
            assert_eq!(next, None, "{context}: {} lacks events: {ask:?} {how}", connection.id);
            assert!(!stream.replaying, "{context}: {} still replays", connection.id);
            assert!(connection.buffer.is_empty(), "{context}: {} in a frame", connection.id);
        }
    }
}

fn check_metrics(body: &Value, context: &str) {
    let number = |at: &str| {
        body.pointer(at).and_then(Value::as_u64).unwrap_or_else(|| panic!("{context}: {at}"))
    };
    let sum = |at: &str| {
        let members = body.pointer(at).and_then(Value::as_object);
        let members = members.unwrap_or_else(|| panic!("{context}: {at}"));
        (members.values().filter_map(Value::as_u64).sum::<u64>(), members.len() as u64)
    };
    let open = number("/sse/totalCreated") - number("/sse/totalClosed");
    assert_eq!(open, number("/sse/totalConnections"), "{context}: {body}");
    assert_eq!(open, number("/sse/activeHeartbeats"), "{context}: {body}");
    assert_eq!(sum("/sse/sessions"), (open, number("/sse/totalSessions")), "{context}: {body}");
    assert_eq!(sum("/eventBus/eventsByType").0, number("/eventBus/eventsEmitted"), "{context}");
    assert_eq!(sum("/eventBus/listenerCounts").0, number("/eventBus/activeListeners"), "{context}");
}
