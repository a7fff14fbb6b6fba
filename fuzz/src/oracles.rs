//! What must hold for any bytes from outside: one function per target, each panics where it does
//! not. The fuzzers call them, and so does `tests/fuzz.rs`, on stable, with seeds and regressions.
//!
//! The oracles are of three kinds: the whole input against every split of it, what was understood
//! written anew and read again, and a naive twin that knows the rules and nothing else.

#[path = "answers.rs"]
mod answers;
#[path = "reference.rs"]
mod reference;

use crate::shell::files::{self, Trouble};
use crate::shell::journal::{Store, open};
use crate::shell::serve;
use answers::Talk;
use reference::{chunked, stands, target_stands};
use serde_json::value::RawValue;
use sidestream::base::arena::Key;
use sidestream::base::lines::{Line, Lines};
use sidestream::core::access::Access;
use sidestream::core::access::tokens;
use sidestream::core::connection::{Output, Peer};
use sidestream::core::effect::{
    Asker, Brought, DiskReply, DiskRequest, Effect, Exit, Pipe, Program,
};
use sidestream::core::epochs::{Durability, Epochs, SEQ_MAX, Start};
use sidestream::core::journal::{self, SegmentId, recover};
use sidestream::core::restore::{Beside, Snapshot};
use sidestream::core::server::{AgentConfig, Birth, Config, Dialect, Server};
use sidestream::limits::{KIB, Limits, MIB};
use sidestream::wire::body::BodyDecoder;
use sidestream::wire::claude;
use sidestream::wire::document::Document;
use sidestream::wire::head::{self, BadRequest, Framing, Head, HeadLimits, Method, Version};
use sidestream::wire::sse::{self, EventId};
use sidestream::wire::target;
use std::path::Path;

/// Inputs longer than this are cut: all splits of one cost its square.
const SPLIT_SIZE_MAX: usize = 600;

// Heads.

const HEAD_LIMITS: HeadLimits = HeadLimits { size_max: 512, fields_max: 16 };

/// A head: the verdict does not depend on how it came, an accepted one written anew means the
/// same, and the naive twin agrees on what is served.
pub fn head(data: &[u8]) {
    let data = &data[..data.len().min(SPLIT_SIZE_MAX)];
    let whole = head::parse(data, &mut 0, &HEAD_LIMITS);
    for cut in 0..data.len() {
        assert_eq!(in_pieces(data, [cut].into_iter()), whole, "cut at {cut}");
    }
    assert_eq!(in_pieces(data, 0..data.len()), whole, "byte by byte");
    let twin = stands(data);
    match whole {
        Ok(None) => {}
        Ok(Some(head)) => {
            assert_eq!(twin, Some(true), "more than the twin");
            assert!(head.length <= data.len() && head.length <= HEAD_LIMITS.size_max);
            let again = encode(&head, data);
            let limits = HeadLimits { size_max: 4096, fields_max: 100 };
            let second = head::parse(&again, &mut 0, &limits).expect("it stands").expect("whole");
            assert_eq!(encode(&second, &again), again, "written anew it means something else");
            access(&head, data);
        }
        Err(bad) => {
            assert!((400..600).contains(&bad.status().0) && !bad.sentence().is_empty());
            // The twin knows nothing of these.
            let unknown = [
                BadRequest::FieldDoubled,
                BadRequest::Expectation,
                BadRequest::TooManyFields,
                BadRequest::HeadTooLarge,
                BadRequest::RequestLineTooLong,
            ];
            assert!(unknown.contains(&bad) || twin != Some(true), "less than the twin: {bad:?}");
        }
    }
}

/// Whoever is let in without a token names this machine and no other origin.
fn access(head: &Head, data: &[u8]) {
    let Ok(target) = target::parse(head.method, head.target.of(data)) else { return };
    let access = Access { own_uid: 1, ..Access::default() };
    let admitted = access.admit(head, data, &target, Peer::Local { uid: 1 }).is_ok();
    let host = head.host.map_or(&b""[..], |host| host.of(data)).to_ascii_lowercase();
    let authority = target.authority.map(|text| text.as_bytes().to_ascii_lowercase());
    let named = authority.unwrap_or(host);
    let local = [&b"localhost"[..], b"127.0.0.1", b"[::1]"].iter().any(|name| {
        named.strip_prefix(*name).is_some_and(|rest| rest.is_empty() || rest[0] == b':')
    });
    assert!(!admitted || local, "a foreign host was let in");
    assert!(!admitted || !head.forwarded, "a proxy was let in");
    for peer in [Peer::Unknown, Peer::Local { uid: 2 }] {
        assert!(access.admit(head, data, &target, peer).is_err(), "a stranger was let in");
    }
    if let Some(field) = head.authorization {
        let _ = tokens::bearer(field.of(data));
    }
    if let Some(field) = head.cookie {
        let _ = tokens::cookie_values(field.of(data), "sidestream-read-3010").count();
    }
}

fn in_pieces(data: &[u8], cuts: impl Iterator<Item = usize>) -> Result<Option<Head>, BadRequest> {
    let mut scanned = 0;
    for cut in cuts.chain([data.len()]) {
        let result = head::parse(&data[..cut], &mut scanned, &HEAD_LIMITS);
        if !matches!(result, Ok(None)) {
            return result;
        }
    }
    Ok(None)
}

/// Writes a head anew from what was understood of it.
fn encode(head: &Head, input: &[u8]) -> Vec<u8> {
    let minor = if head.version == Version::Http10 { "0" } else { "1" };
    let mut out = [head.method.as_str().as_bytes(), b" ", head.target.of(input)].concat();
    out.extend_from_slice(format!(" HTTP/1.{minor}\r\n").as_bytes());
    let mut field = |name: &str, value: Option<&[u8]>| {
        if let Some(value) = value {
            out.extend_from_slice(&[name.as_bytes(), b": ", value, b"\r\n"].concat());
        }
    };
    let of = |span: Option<head::Span>| span.map(|span| span.of(input));
    field("Host", of(head.host));
    field("Origin", of(head.origin));
    field("Authorization", of(head.authorization));
    field("Content-Type", of(head.content_type));
    field("Last-Event-ID", of(head.last_event_id));
    field("Cookie", of(head.cookie));
    field("Connection", Some(if head.keep_alive { b"keep-alive" } else { b"close" }));
    field("Expect", head.expect_continue.then_some(b"100-continue"));
    field("Via", head.forwarded.then_some(b"1.1 x"));
    match head.framing {
        Framing::None => {}
        Framing::Length(length) => field("Content-Length", Some(length.to_string().as_bytes())),
        Framing::Chunked => field("Transfer-Encoding", Some(b"chunked")),
    }
    out.extend_from_slice(b"\r\n");
    out
}

// Bodies.

const BODY_SIZE_MAX: u64 = 300;

/// A chunked body: every split gives the same verdict, bytes and end, within the bound; what was
/// decoded, coded anew in one chunk, decodes to itself.
pub fn body(data: &[u8]) {
    let data = &data[..data.len().min(SPLIT_SIZE_MAX)];
    let whole = decode(data, [].into_iter());
    for cut in 0..data.len() {
        assert_eq!(decode(data, [cut].into_iter()), whole, "cut at {cut}");
    }
    assert_eq!(decode(data, 0..data.len()), whole, "byte by byte");
    assert!(whole.1.len() as u64 <= BODY_SIZE_MAX);
    match (&whole.0, chunked(data)) {
        (Ok(Some(end)), twin) => assert_eq!(twin, Some((*end, whole.1.clone())), "not the twin"),
        // The twin knows nothing of these.
        (Err(BadRequest::BodyTooLarge | BadRequest::ChunkExtensionTooLong), _) => {}
        (other, twin) => assert_eq!(twin, None, "less than the twin: {other:?}"),
    }
    if let Ok(Some(_)) = whole.0
        && !whole.1.is_empty()
    {
        let head = format!("{:x}\r\n", whole.1.len());
        let again = [head.as_bytes(), &whole.1, b"\r\n0\r\n\r\n"].concat();
        assert_eq!(decode(&again, [].into_iter()), (Ok(Some(again.len())), whole.1));
    }
}

type Decoding = (Result<Option<usize>, BadRequest>, Vec<u8>);

fn decode(data: &[u8], cuts: impl Iterator<Item = usize>) -> Decoding {
    let mut decoder = BodyDecoder::new(Framing::Chunked, BODY_SIZE_MAX).expect("chunked");
    let (mut out, mut consumed) = (Vec::new(), 0);
    for cut in cuts.chain([data.len()]) {
        match decoder.decode(&data[consumed..cut], &mut out) {
            Err(bad) => return (Err(bad), out),
            Ok(decoded) => {
                consumed += decoded.consumed;
                if decoded.done {
                    return (Ok(Some(consumed)), out);
                }
                assert_eq!(consumed, cut, "what was given was not taken");
            }
        }
    }
    (Ok(None), out)
}

// Targets.

/// A target: one reading or none, the one that the naive twin serves, no segment that changes the
/// path's shape, and the same reading again once its segments are escaped anew.
pub fn target(data: &[u8]) {
    for method in [Method::Get, Method::Options] {
        let parsed = target::parse(method, data);
        assert_eq!(parsed.is_ok(), target_stands(method == Method::Options, data), "the twin");
        let Ok(target) = parsed else { continue };
        let Ok(segments) = target.segments().collect::<Result<Vec<_>, _>>() else { continue };
        for segment in &segments {
            assert!(!matches!(&**segment, "." | "..") && !segment.contains(['/', '\\', '\0']));
        }
        let _ = target.parameter("lastEventId").map(|value| value.map(|text| text.len()));
        if target.asterisk || target.path == "/" {
            continue;
        }
        let path: String = segments.iter().map(|segment| format!("/{}", escape(segment))).collect();
        let again = target::parse(method, path.as_bytes()).expect("what was read can be written");
        let second: Vec<_> = again.segments().map(|one| one.expect("again")).collect();
        assert_eq!(second, segments);
    }
    if let Some((host, _)) = target::split_authority(data) {
        assert!(!host.is_empty() && !host.contains(['/', '@', ' ', '?', '#']));
    }
}

fn escape(text: &str) -> String {
    text.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

// Event ids.

/// An id is read exactly as it is written, and a frame that is read back has its parts.
pub fn event_id(data: &[u8]) {
    if let Some(id) = EventId::parse(data) {
        assert_eq!(id.to_string().as_bytes(), data, "two spellings of one id");
    }
    if let Some((id, event, text)) = sse::parse_frame(data) {
        assert_eq!(format!("id: {id}\nevent: {event}\ndata: {text}\n\n").as_bytes(), data);
    }
}

// Lines.

/// The splitter: the first bytes say how large its buffers are and how it is fed; its lines are
/// those of a plain split, but for those that were too long.
pub fn lines(data: &[u8]) {
    let [size, lent, step, data @ ..] = data else { return };
    let (size, lent) = (1 + usize::from(*size), usize::from(*lent));
    let step = 1 + usize::from(*step);
    let mut lines = Lines::new(size);
    let mut told: Vec<Result<Vec<u8>, u64>> = Vec::new();
    let mut rest = data;
    loop {
        let space = lines.space();
        if space.is_empty() {
            if lent > size && !lines.has_lent() {
                lines.lend(Vec::new(), lent);
            } else {
                lines.skip();
            }
        } else {
            let count = space.len().min(step).min(rest.len());
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&rest[..count]);
            lines.filled(count);
            rest = &rest[count..];
        }
        while let Some(line) = lines.next_line() {
            told.push(match line {
                Line::Whole(line) => Ok(line.to_vec()),
                Line::Skipped(count) => Err(count),
            });
        }
        let _ = lines.take_back();
    }
    let mut naive: Vec<&[u8]> = data.split(|&byte| byte == b'\n').collect();
    naive.pop(); // The unfinished one.
    assert_eq!(told.len(), naive.len(), "lines");
    for (told, naive) in told.iter().zip(naive) {
        match told {
            Ok(line) => assert_eq!(line, naive),
            Err(count) => {
                assert_eq!(*count, naive.len() as u64, "bytes of a skipped line");
                assert!(naive.len() >= size, "a line that fits was skipped");
            }
        }
    }
}

// The agent's dialect.

/// Lines of an agent: read without a panic, and what we write about them is JSON on one line.
pub fn claude(data: &[u8]) {
    for line in data.split(|&byte| byte == b'\n') {
        let _ = format!("{:?}", claude::parse(line));
        let Ok(text) = std::str::from_utf8(line) else { continue };
        let _ = claude::refusal(text);
        let mut out = Vec::new();
        claude::user(&mut out, text, &[("image/png", text)], Some(text));
        claude::deny(&mut out, text, text, true);
        claude::error_response(&mut out, text, text);
        claude::set_mode(&mut out, text, text);
        if let Ok(raw) = serde_json::from_str::<&RawValue>(text) {
            claude::allow(&mut out, "id", raw.get(), None);
            let mut title = String::new();
            claude::title(&mut title, "Bash", raw);
            assert!(!title.contains('\n'), "a title of one line");
            let _ = (claude::input_path(raw), claude::input_command(raw));
            let _ = claude::initialize_reply(raw);
        }
        let mut count = 0;
        for written in out.split(|&byte| byte == b'\n').filter(|line| !line.is_empty()) {
            // As it stands: a number of an agent may be one that no program holds.
            let value: &RawValue =
                serde_json::from_slice(written).expect("a line that we write is JSON");
            assert!(value.get().starts_with('{'));
            count += 1;
        }
        assert!((4..=5).contains(&count), "one line each: {count}");
    }
}

// Journals.

/// Nothing stands beside a journal here.
struct Nothing;

impl Beside for Nothing {
    fn large(&self, _: u64) -> Option<String> {
        None
    }

    fn images(&self, _: u64) -> Option<String> {
        None
    }
}

/// What a data directory may hold after anything: three files, cut by the first two bytes. They
/// are read without a panic; of a segment is kept what is whole, up to the first frame that is
/// not, and that is the very bytes that were written.
pub fn journal(data: &[u8]) {
    let [first, second, data @ ..] = data else { return };
    let (epochs, data) = data.split_at(data.len().min(4 * usize::from(*first)));
    let (snapshot, segment) = data.split_at(data.len().min(4 * usize::from(*second)));
    if let Ok((read, whole)) = Epochs::parse(epochs) {
        assert_eq!(Epochs::parse(&epochs[..whole]), Ok((read.clone(), whole)), "read again");
        let next = read.next_seq(0);
        assert!(next >= 1 && read.next_seq(next) > next, "numbers rise");
    }
    let mut snapshot: Snapshot = serde_json::from_slice(snapshot).unwrap_or_default();
    let (mut kept, mut last) = (Vec::new(), 0);
    let whole = recover(segment, |at, frame| {
        assert_eq!(at, kept.len(), "a frame after the other");
        assert!(frame.seq > last, "numbers rise");
        last = frame.seq;
        kept.extend_from_slice(frame.bytes);
        snapshot.apply(&frame, &Nothing);
        let naive = frame_naively(frame.bytes).is_some()
            && serde_json::from_str::<serde_json::Value>(frame.data).is_ok();
        assert!(frame.is_sound || !naive, "a sound frame is taken for a damaged one");
        assert!(!frame.is_sound || Document::new(frame.data).is_json(), "what is embedded is JSON");
    });
    let mut mended = kept.clone();
    if journal::mend(&mut mended, "session-1", |_| ()) {
        assert_eq!(mended.len(), kept.len(), "positions are kept");
        let mut count = 0;
        recover(&mended, |_, frame| count += usize::from(frame.is_sound));
        let frames = mended.windows(2).filter(|two| two == b"\n\n").count();
        assert_eq!(count, frames, "all that is shown is sound");
    }
    assert_eq!(kept, segment[..whole], "what is kept is what was written");
    let next = frame_naively(&segment[whole..]);
    assert!(next.is_none_or(|seq| seq <= last), "cut before a whole frame");
    assert_eq!(recover(&kept, |_, _| ()), whole, "read again");
    for cut in 0..whole.min(SPLIT_SIZE_MAX) {
        let shorter = recover(&segment[..cut], |_, _| ());
        assert!(shorter <= cut && kept[..shorter].ends_with(&b"\n\n"[..shorter.min(2)]));
    }
    let again = serde_json::to_vec(&snapshot).expect("a snapshot can be written");
    let read = serde_json::from_slice::<Snapshot>(&again).expect("and read again");
    assert_eq!(read.seq, snapshot.seq);
    for name in segment.split(|&byte| byte == b'/').filter_map(|name| str::from_utf8(name).ok()) {
        if let Some(id) = SegmentId::parse(name) {
            assert_eq!(id.file_name(), name, "two names of one segment");
        }
    }
}

/// The number of the whole frame at the start of these bytes, by the rules and nothing else.
fn frame_naively(bytes: &[u8]) -> Option<u64> {
    let end = bytes.windows(2).position(|two| two == b"\n\n")?;
    let text = str::from_utf8(&bytes[..end]).ok()?;
    let lines: Vec<&str> = text.split('\n').collect();
    let [id, event, data] = lines[..] else { return None };
    let id = EventId::parse(id.strip_prefix("id: ")?.as_bytes())?;
    event.strip_prefix("event: ")?;
    let data = data.strip_prefix("data: ")?;
    let whole =
        id.seq <= SEQ_MAX && data.starts_with('{') && data.ends_with('}') && !text.contains('\0');
    whole.then_some(id.seq)
}

// The whole server.

/// Bytes as the acts of clients, agents and time on the whole server. What it keeps must add up
/// after every one of them, and what it answers must stand before a strict client.
pub fn server(data: &[u8]) {
    play(Durability::Memory, data);
}

/// The same with journals on a disk that fails, and with kills and power losses: what was written
/// is always found again by the next start.
pub fn durable(data: &[u8]) {
    let [first, data @ ..] = data else { return };
    files::format(1);
    play(if first % 2 == 0 { Durability::Write } else { Durability::Sync }, data);
}

fn play(durability: Durability, data: &[u8]) {
    let mut play = Play::new(durability);
    let mut data = data;
    for _ in 0..400 {
        let [act, number, rest @ ..] = data else { break };
        data = rest;
        play.act(*act, *number, &mut data);
        play.turn();
    }
    play.server.stop();
    play.turn();
    play.judge(None, false);
}

/// What requests the fuzzer need not find by itself.
const REQUESTS: [(&str, &str, &str); 16] = [
    ("POST", "/api/session/ID/fork", ""),
    ("POST", "/api/session/ID/archive", ""),
    ("POST", "/api/session/ID/unarchive", ""),
    ("GET", "/api/directories?path=/w", ""),
    ("POST", "/api/sessions", "{\"workingDir\":\"/w\"}"),
    ("GET", "/api/session/ID/events", ""),
    ("POST", "/api/session/ID/prompt", "{\"command\":\"x\"}"),
    ("POST", "/api/session/ID/prompt?wait=1", "{\"command\":\"y\",\"promptId\":\"p\"}"),
    ("POST", "/api/session/ID/interrupt", "{\"clearQueue\":true}"),
    ("GET", "/api/session/ID/approvals", ""),
    ("DELETE", "/api/session/ID", ""),
    ("GET", "/api/events?replay=all", ""),
    ("GET", "/api/session/ID/events/poll?wait=1", ""),
    ("GET", "/api/debug/metrics", ""),
    ("PATCH", "/api/session/ID", "{\"name\":\"n\",\"mode\":\"plan\"}"),
    ("POST", "/api/login", "{\"token\":\"sst_me\"}"),
];

/// Lines of agents that it need not find either.
const LINES: [&str; 6] = [
    r#"{"type":"control_response","response":{"subtype":"success","request_id":"init","response":{}}}"#,
    r#"{"type":"system","subtype":"init","session_id":"s","model":"m","permissionMode":"default"}"#,
    r#"{"type":"stream_event","event":{"type":"message_start","message":{"id":"m1"}}}"#,
    r#"{"type":"stream_event","event":{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"hi"}}}"#,
    r#"{"type":"control_request","request_id":"r1","request":{"subtype":"can_use_tool","tool_name":"Bash","input":{"command":"ls"},"tool_use_id":"t1"}}"#,
    r#"{"type":"result","subtype":"success","is_error":false,"result":"hi","session_id":"s"}"#,
];

struct Play {
    server: Server,
    now_ms: u64,
    /// The open ones, and what was said on each.
    connections: Vec<(Key, Talk)>,
    agents: Vec<Key>,
    disk: Vec<DiskRequest>,
    durability: Durability,
    /// The journals, if it has any.
    store: Option<Store>,
    /// Ids that answers named.
    session: String,
    asker: u8,
}

/// A server, on what the fake disk has.
fn start(durability: Durability, now_ms: u64) -> (Server, Option<Store>) {
    let limits = Limits {
        ring_size: 64 * KIB,
        all_ring_size: 64 * KIB,
        connections_max: 8,
        sessions_max: 4,
        agents_max: 2,
        queue_max: 3,
        pipeline_max: 2,
        line_size_max: MIB,
        large_size_max: MIB,
        ..Limits::default()
    };
    let agent = |name: &str, dialect| AgentConfig {
        name: name.to_owned(),
        dialect,
        program: Ok(Program::Demo),
    };
    let config = Config {
        agents: vec![agent("claude", Dialect::Claude), agent("lines", Dialect::Lines)],
        commands: vec![String::new(), "cat".to_owned()],
        access: Access { own_uid: 1, ..Access::default() },
        base_path: "/base".to_owned(),
        roots: vec!["/w".into()],
        version: "0",
        ..Config::default()
    };
    let (epochs, store, sessions) = match durability {
        Durability::Memory => {
            let (epoch, boot_id) = (sse::Epoch::new(1), "-".to_owned());
            let start = Start::new(epoch, 1, durability, boot_id);
            (Epochs::first(start), None, Vec::new())
        }
        Durability::Write | Durability::Sync => {
            let opened = open(Path::new("/data"), durability, sse::Epoch::new(now_ms));
            let opened = opened.expect("what it left can be opened");
            (opened.epochs, opened.store, opened.sessions)
        }
    };
    let birth = Birth { seed: 1, epochs, now_ms, wall_ms: 1_700_000_000_000 + now_ms };
    let mut server = Server::new(limits, config, birth);
    server.restore(sessions);
    server.check();
    (server, store)
}

impl Play {
    fn new(durability: Durability) -> Play {
        let (server, store) = start(durability, 1000);
        let session = "none".to_owned();
        let (connections, agents, disk) = (Vec::new(), Vec::new(), Vec::new());
        Play {
            server,
            now_ms: 1000,
            connections,
            agents,
            disk,
            durability,
            store,
            session,
            asker: 0,
        }
    }

    /// The process or the machine dies, and the server is started again on what its disk has.
    fn die(&mut self, power_lost: bool) {
        self.judge(None, false);
        files::restart(power_lost);
        while self.server.next_effect().is_some() {}
        (self.connections, self.agents, self.disk) = Default::default();
        self.store = None;
        (self.server, self.store) = start(self.durability, self.now_ms);
        self.apply();
    }

    fn act(&mut self, act: u8, number: u8, data: &mut &[u8]) {
        let nth = |count: usize| usize::from(number).checked_rem(count);
        let connection = nth(self.connections.len()).map(|at| self.connections[at].0);
        match act % 14 {
            0 => {
                let uid = u32::from(number % 8 != 7);
                let accepted = self.server.accepted(Peer::Local { uid });
                self.connections.extend(accepted.map(|key| (key, Talk::default())));
            }
            1 => {
                let count = usize::from(number).min(data.len());
                let (bytes, rest) = data.split_at(count);
                *data = rest;
                if let Some(&(key, _)) = self.connections.last() {
                    self.send(key, bytes);
                }
            }
            2 | 3 => {
                let (method, path, body) = REQUESTS[usize::from(number) % REQUESTS.len()];
                let path = path.replace("ID", &self.session);
                let request = format!(
                    "{method} {path} HTTP/1.1\r\nHost: localhost\r\n\
                     Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
                    body.len()
                );
                if let Some(key) = connection {
                    self.send(key, request.as_bytes());
                }
            }
            4 => connection.into_iter().for_each(|key| self.server.peer_ended(key)),
            5 => connection.into_iter().for_each(|key| self.server.connection_lost(key)),
            6 => {
                self.now_ms += 1 << (number % 18);
                self.server.set_time(self.now_ms, 1_700_000_000_000 + self.now_ms);
            }
            7 | 8 => {
                let line = match number % 8 {
                    at @ 0..6 => LINES[usize::from(at)].as_bytes(),
                    _ => {
                        let (line, rest) = data.split_at(data.len().min(usize::from(number)));
                        *data = rest;
                        line
                    }
                };
                if let Some(key) = self.agents.last().copied() {
                    self.say(key, &[line, b"\n"].concat());
                }
            }
            9 => {
                if let Some(key) = nth(self.agents.len()).map(|at| self.agents[at]) {
                    self.server.agent_pipe_ended(key, Pipe::Stdout);
                    self.server.agent_pipe_ended(key, Pipe::Stderr);
                    self.server.agent_exited(key, Exit::Code(i32::from(number)));
                    self.agents.retain(|agent| *agent != key);
                }
            }
            10 => self.answer_disk(),
            12 if self.store.is_some() => self.die(number % 2 == 1),
            13 => files::disk(|disk| {
                disk.trouble = match number % 4 {
                    0 => Trouble::default(),
                    1 => Trouble { space: Some(usize::from(number)), ..Trouble::default() },
                    2 => Trouble { fails: 500, ..Trouble::default() },
                    _ => Trouble { sync_fails: 500, read_fails: 500, ..Trouble::default() },
                };
            }),
            _ => self.asker = number,
        }
    }

    fn send(&mut self, key: Key, bytes: &[u8]) {
        let mut rest = bytes;
        while !rest.is_empty() {
            let count = self.server.read_allowance(key).min(rest.len());
            if count == 0 {
                return; // It would wait in the kernel; here it is lost.
            }
            if let Some(talk) = self.talk(key) {
                talk.asked.extend_from_slice(&rest[..count]);
            }
            self.server.received(key, &rest[..count]);
            rest = &rest[count..];
            self.apply();
        }
    }

    fn talk(&mut self, key: Key) -> Option<&mut Talk> {
        self.connections.iter_mut().find(|(other, _)| *other == key).map(|(_, talk)| talk)
    }

    /// Looks at what was answered on a connection, or on all of them.
    fn judge(&self, which: Option<Key>, ended: bool) {
        let limits = &self.server.limits;
        let heads =
            HeadLimits { size_max: limits.head_size_max, fields_max: limits.head_fields_max };
        for (key, talk) in &self.connections {
            if which.is_none_or(|which| which == *key) {
                talk.judge(ended, &heads, limits.body_size_max as u64);
            }
        }
    }

    fn say(&mut self, key: Key, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let space = self.server.agent_space(key, Pipe::Stdout);
            let count = space.len().min(bytes.len());
            if count == 0 {
                return;
            }
            space[..count].copy_from_slice(&bytes[..count]);
            self.server.agent_filled(key, Pipe::Stdout, count);
            bytes = &bytes[count..];
            self.apply();
        }
    }

    fn answer_disk(&mut self) {
        for request in std::mem::take(&mut self.disk) {
            self.server.disk_replied(match request {
                DiskRequest::Directory { errand, path } => {
                    DiskReply::Directory { errand, result: Ok(path) }
                }
                DiskRequest::List { errand, path } => {
                    DiskReply::Listed { errand, result: Ok((path, vec!["a".to_owned()])) }
                }
                DiskRequest::LookForTrust { errand, .. } => {
                    let commands = match self.asker % 2 {
                        0 => Vec::new(),
                        _ => vec!["hook: rm".to_owned()],
                    };
                    let is_clear = !self.asker.is_multiple_of(3);
                    let brought = Brought { commands, hash: "h".to_owned(), is_clear };
                    DiskReply::Trust { errand, brought }
                }
                DiskRequest::RememberTrust { .. } | DiskRequest::RememberCookie { .. } => {
                    DiskReply::Remembered(None)
                }
                DiskRequest::ReadTokens => DiskReply::Tokens(Err("there is no file".to_owned())),
                DiskRequest::Sample { connection, .. } => {
                    DiskReply::Sampled(connection, Box::default())
                }
                DiskRequest::Sweep { agent, .. } => DiskReply::Swept { agent, killed: 0 },
                other => match &mut self.store {
                    Some(store) => serve(store, other),
                    None => panic!("in memory nothing is written: {other:?}"),
                },
            });
            self.apply();
        }
    }

    fn apply(&mut self) {
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::Spawn(spawn) => {
                    self.agents.push(spawn.agent);
                    self.server.agent_spawned(spawn.agent);
                }
                Effect::Disk(request) => self.disk.push(request),
                Effect::Close(key) => {
                    self.judge(Some(key), false);
                    self.connections.retain(|(other, _)| *other != key);
                }
                Effect::ReleaseAgent(key) => self.agents.retain(|other| *other != key),
                Effect::WhoIs(key) => {
                    let agent = self.agents.last().copied();
                    let askers = [Asker::Outside, Asker::Agent(agent), Asker::Gone];
                    self.server.asker_known(key, askers[usize::from(self.asker) % 3]);
                }
                Effect::Sample(connection) => {
                    self.disk.push(DiskRequest::Sample { connection, agents: Vec::new() });
                }
                Effect::CloseStdin(_)
                | Effect::Signal(..)
                | Effect::EndOutput(_)
                | Effect::Read(_)
                | Effect::CloseListeners
                | Effect::Hook { .. }
                | Effect::Log(_) => {}
            }
        }
    }

    /// One turn of the loop.
    fn turn(&mut self) {
        while !self.server.expire() {}
        self.apply();
        self.server.commit();
        self.apply();
        for key in self.agents.clone() {
            let count = self.server.agent_input(key).len();
            if count > 0 {
                self.server.agent_input_sent(key, count);
            }
        }
        self.apply();
        for _ in 0..256 {
            let Some(key) = self.server.next_pending() else { break };
            self.write(key);
            self.apply();
        }
        self.server.check();
    }

    fn write(&mut self, key: Key) {
        loop {
            let bytes = match self.server.output(key) {
                Output::Nothing => return,
                Output::Close => {
                    self.judge(Some(key), true);
                    return self.server.connection_lost(key);
                }
                Output::Bytes(parts) => parts.concat(),
            };
            assert!(!bytes.is_empty(), "nothing to write, and said otherwise");
            if let Some(at) = find(&bytes, b"\"sessionId\":\"session-") {
                let id = &bytes[at + 13..];
                let end = id.iter().position(|&byte| byte == b'"').unwrap_or(id.len());
                self.session = String::from_utf8_lossy(&id[..end]).into_owned();
            }
            if let Some(talk) = self.talk(key) {
                talk.answered.extend_from_slice(&bytes);
            }
            self.server.sent(key, bytes.len());
            self.apply();
        }
    }
}

fn find(bytes: &[u8], needle: &[u8]) -> Option<usize> {
    bytes.windows(needle.len()).position(|window| window == needle)
}
