//! The churn: clients and sessions that come, misbehave and go, at a bounded pace.
//!
//! Every part runs in a thread of its own until it is told that it is over, and leaves whatever it
//! holds open. What happened is tallied, so that a soak in which nothing happens is noticed.

use super::support::{Chance, Server, eventually, http::encode, server::find_member};
use serde_json::{Value, json};
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::thread::{Scope, sleep};
use std::time::{Duration, Instant};

/// Sessions that stay for the whole time.
const STEADY: usize = 3;
/// Streams that read and resume.
const READERS: usize = 40;
/// Streams that never read.
const STALLED: usize = 8;

macro_rules! tally {
    ($($name:ident),* $(,)?) => {
        #[allow(non_upper_case_globals)]
        mod count {
            use super::AtomicU64;
            $(pub static $name: AtomicU64 = AtomicU64::new(0);)*
        }
        /// What happened, and how often.
        pub fn tally() -> Vec<(&'static str, u64)> {
            vec![$((stringify!($name), count::$name.load(Relaxed))),*]
        }
    };
}

tally!(
    connects,
    aborts_in_head,
    aborts_in_body,
    aborts_in_reply,
    requests,
    uploads,
    streams,
    resumed,
    gaps,
    frames,
    heartbeats,
    stalled,
    cut,
    polls,
    polls_with_news,
    pages_of_history,
    sessions_created,
    sessions_deleted,
    prompts,
    turns_ended,
    agents_that_failed,
    approvals,
);

fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Starts all of it.
pub fn spawn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    server: &'scope Server,
    over: &'scope AtomicBool,
) {
    let steady: Vec<String> = (0..STEADY).map(|_| server.create()).collect();
    let seeds = (1..).map(|n: u64| Chance(n.wrapping_mul(0x9e37_79b9_7f4a_7c15)));
    let parts: [fn(&Part); 8] =
        [churn, churn, read, stall, poll, look_back, make_sessions, make_sessions];
    for (part, chance) in parts.into_iter().zip(seeds) {
        let steady = steady.clone();
        let own = Part { server, over, steady, chance: chance.0 };
        scope.spawn(move || part(&own));
    }
    let own = Part { server, over, steady, chance: 77 };
    scope.spawn(move || talk(&own));
}

/// What a part of the load works with.
struct Part<'a> {
    server: &'a Server,
    over: &'a AtomicBool,
    steady: Vec<String>,
    chance: u64,
}

impl Part<'_> {
    fn goes_on(&self, pause_ms: u64) -> bool {
        sleep(Duration::from_millis(pause_ms));
        !self.over.load(Relaxed)
    }

    fn address(&self) -> SocketAddr {
        self.server.address
    }

    fn connect(&self) -> Option<TcpStream> {
        let stream = TcpStream::connect(self.address()).ok()?;
        stream.set_read_timeout(Some(Duration::from_secs(20))).ok()?;
        stream.set_write_timeout(Some(Duration::from_secs(20))).ok()?;
        add(&count::connects);
        Some(stream)
    }

    /// One request, and the status and body of its answer. A refusal is an answer as well.
    fn ask(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Vec<u8>)> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let mut stream = self.connect()?;
        let headers = [("Connection", "close")];
        let request = encode(self.address(), method, path, &headers, body.as_bytes());
        stream.write_all(&request).ok()?;
        let mut reply = Vec::new();
        stream.read_to_end(&mut reply).ok()?;
        add(&count::requests);
        let status = std::str::from_utf8(reply.get(9..12)?).ok()?.parse().ok()?;
        let at = memchr::memmem::find(&reply, b"\r\n\r\n")? + 4;
        Some((status, reply.split_off(at)))
    }

    fn ask_json(&self, method: &str, path: &str, body: &Value) -> Option<(u16, Value)> {
        let (status, body) = self.ask(method, path, body)?;
        Some((status, serde_json::from_slice(&body).ok()?))
    }
}

/// Connections that are aborted at every point.
fn churn(part: &Part) {
    let mut chance = Chance(part.chance);
    let session = &part.steady[0];
    let upload = json!({"command": "x".repeat(200_000), "promptId": 7}).to_string();
    let upload = encode(
        part.address(),
        "POST",
        &format!("/api/session/{session}/prompt"),
        &[],
        upload.as_bytes(),
    );
    let page = encode(part.address(), "GET", "/api/events.schema.json", &[], b"");
    while part.goes_on(8) {
        let Some(mut stream) = part.connect() else { continue };
        match chance.below(8) {
            0 => {
                let cut = 1 + chance.below(page.len() as u64 - 4) as usize;
                let _ = stream.write_all(&page[..cut]);
                add(&count::aborts_in_head);
            }
            1 => {
                let cut = 300 + chance.below(upload.len() as u64 - 400) as usize;
                let _ = stream.write_all(&upload[..cut]);
                add(&count::aborts_in_body);
            }
            2 => {
                let _ = stream.write_all(&page);
                let _ = stream.read(&mut [0; 10]); // The rest is lost with a reset.
                add(&count::aborts_in_reply);
            }
            3 => {
                let _ = stream.write_all(&upload); // A prompt id that is none: refused when whole.
                let _ = stream.read(&mut [0; 64]);
                add(&count::uploads);
            }
            4 => {
                let _ = stream.shutdown(Shutdown::Write);
                let _ = stream.read(&mut [0; 64]);
            }
            5 => {
                let two = [page.clone(), page.clone()].concat();
                let _ = stream.write_all(&two);
                let _ = stream.read(&mut [0; 4096]);
            }
            _ => drop(part.ask("GET", "/health", &Value::Null)),
        }
    }
}

/// A stream that is read without waiting.
struct Streaming {
    stream: TcpStream,
    path: String,
    pending: Vec<u8>,
    last_id: Option<String>,
}

impl Streaming {
    fn open(part: &Part, path: &str, last_id: Option<String>) -> Option<Streaming> {
        let mut stream = part.connect()?;
        let headers: Vec<(&str, &str)> =
            last_id.as_deref().map(|id| ("Last-Event-ID", id)).into_iter().collect();
        stream.write_all(&encode(part.address(), "GET", path, &headers, b"")).ok()?;
        stream.set_nonblocking(true).ok()?;
        add(&count::streams);
        Some(Streaming { stream, path: path.to_owned(), pending: Vec::new(), last_id })
    }

    /// Takes what is there. False: it is over.
    fn take(&mut self) -> bool {
        let mut buffer = [0; 65536];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(_) => return false,
            }
        }
        while let Some(end) = memchr::memmem::find(&self.pending, b"\n\n") {
            let frame: Vec<u8> = self.pending.drain(..end + 2).collect();
            self.accept(&String::from_utf8_lossy(&frame));
        }
        true
    }

    fn accept(&mut self, frame: &str) {
        add(&count::frames);
        if frame.contains("event: heartbeat") {
            add(&count::heartbeats);
        } else if frame.contains("\"resume\":\"ok\"") {
            add(&count::resumed);
        } else if frame.contains("\"resume\":\"gap\"") {
            add(&count::gaps);
        }
        let Some(id) = frame.lines().find_map(|line| line.strip_prefix("id: ")) else { return };
        let number = |id: &str| id.rsplit_once('-').and_then(|(_, seq)| seq.parse::<u64>().ok());
        let known = self.last_id.as_deref().and_then(number);
        let connected = frame.contains("event: connected");
        assert!(connected || number(id) >= known, "{} after {known:?}: {frame}", self.path);
        self.last_id = Some(id.to_owned());
    }
}

/// Streams that read everything, leave at random and come back with their cursor, sometimes one
/// that is too old.
fn read(part: &Part) {
    let mut chance = Chance(part.chance);
    let mut streams: Vec<Streaming> = Vec::new();
    while part.goes_on(20) {
        let mut at = 0;
        while at < streams.len() {
            let leaves = chance.below(150) == 0;
            if streams[at].take() && !leaves {
                at += 1;
                continue;
            }
            let Streaming { path, last_id, .. } = streams.swap_remove(at);
            let too_old = chance.below(12) == 0;
            let cursor = if too_old { Some("000000000001-1".to_owned()) } else { last_id };
            streams.extend(Streaming::open(part, &path, cursor));
        }
        if streams.len() < READERS {
            let path = match chance.below(6) {
                0 => "/api/events".to_owned(),
                1 => format!("/api/events?sessions={},{}", part.steady[0], part.steady[1]),
                2 => format!("/api/session/{}/events?view=compact", part.steady[0]),
                3 => format!("/api/session/{}/events?types=-session-output", part.steady[1]),
                4 => format!("/api/session/{}/events?replay=none", part.steady[2]),
                _ => format!("/api/session/{}/events?replay=all", chance.of(&part.steady)),
            };
            streams.extend(Streaming::open(part, &path, None));
        }
    }
}

/// Streams whose clients take nothing until they are cut.
fn stall(part: &Part) {
    let mut stalled: Vec<(TcpStream, Instant)> = Vec::new();
    while part.goes_on(200) {
        stalled.retain_mut(|(stream, since)| {
            if since.elapsed() < Duration::from_secs(5) {
                return true;
            }
            // It reads now, and comes to the end if it was cut.
            let mut rest = Vec::new();
            let _ = stream.set_read_timeout(Some(Duration::from_millis(200)));
            if stream.read_to_end(&mut rest).is_ok() {
                add(&count::cut);
            }
            false
        });
        if stalled.len() < STALLED
            && let Some(mut stream) = part.connect()
        {
            let request = encode(part.address(), "GET", "/api/events?replay=all", &[], b"");
            let _ = stream.write_all(&request);
            stalled.push((stream, Instant::now()));
            add(&count::stalled);
        }
    }
}

/// Long polls of one session and of all.
fn poll(part: &Part) {
    let mut chance = Chance(part.chance);
    let mut cursor = String::new();
    while part.goes_on(20) {
        let session = chance.of(&part.steady);
        let path = match chance.below(2) {
            0 => format!("/api/events/poll?after={cursor}&wait=1"),
            _ => format!("/api/session/{session}/events/poll?after={cursor}&wait=1"),
        };
        let Some((200, reply)) = part.ask_json("GET", &path, &Value::Null) else { continue };
        add(&count::polls);
        if reply["events"].as_array().is_some_and(|events| !events.is_empty()) {
            add(&count::polls_with_news);
        }
        cursor = reply["next"].as_str().unwrap_or_default().to_owned();
    }
}

/// Pages of the past, lists, one event, the figures.
fn look_back(part: &Part) {
    let mut chance = Chance(part.chance);
    while part.goes_on(30) {
        let session = chance.of(&part.steady);
        let mut path = format!("/api/session/{session}/history?limit=50");
        for _ in 0..3 {
            let Some((200, page)) = part.ask_json("GET", &path, &Value::Null) else { break };
            add(&count::pages_of_history);
            let Some(first) = page["events"][0]["id"].as_str() else { break };
            drop(part.ask("GET", &format!("/api/session/{session}/events/{first}"), &Value::Null));
            path = format!("/api/session/{session}/history?limit=50&before={first}");
        }
        for path in ["/api/sessions?limit=20", "/api/sse/stats", "/api/agents", "/ready"] {
            drop(part.ask("GET", path, &Value::Null));
        }
    }
}

/// The sessions that stay: enough of noise to outrun whoever is slow.
fn talk(part: &Part) {
    let mut chance = Chance(part.chance);
    let scripts = [
        "flood 400 200",
        "say: some words",
        "line 60000",
        "overlong 300000",
        "think: of it",
        "tools 5",
    ];
    while part.goes_on(150) {
        let session = chance.of(&part.steady);
        let script: &&str = chance.of(&scripts);
        run(part, session, script);
    }
}

/// Sessions that are made, used and deleted, whatever their agents are up to.
fn make_sessions(part: &Part) {
    let mut chance = Chance(part.chance);
    let pids = part.server.scratch.join("tmp/pid");
    let fake = [
        "say: hello".to_owned(),
        "die 3".to_owned(),
        "die mid-line".to_owned(),
        "signal 9".to_owned(),
        "silent".to_owned(),
        "stubborn".to_owned(),
        "flood 300 100".to_owned(),
        "ignore-term;;silent".to_owned(),
        "noise;;stderr complaint".to_owned(),
        "tool-open Bash {}".to_owned(),
        "approve Bash {\"command\":\"ls\"}".to_owned(),
        "close-stdout".to_owned(),
        format!("grandchild {pids}"),
        format!("grandchild-pipe {pids};;die 1"),
    ];
    while part.goes_on(100) {
        let agent = *chance.of(&["fake", "fake", "demo", "lines"]);
        let mut body = json!({"workingDir": part.server.root()});
        if agent != "fake" {
            body["agent"] = agent.into();
        }
        let Some((201, reply)) = part.ask_json("POST", "/api/sessions", &body) else { continue };
        let Some(session) = reply["sessionId"].as_str() else { continue };
        add(&count::sessions_created);
        for _ in 0..1 + chance.below(2) {
            let script = match agent {
                "fake" => chance.of(&fake),
                "demo" => "say 30 words;;run tool: ls",
                _ => "words for a command",
            };
            run(part, session, script);
        }
        if chance.below(4) == 0 {
            drop(part.ask("POST", &format!("/api/session/{session}/archive"), &Value::Null));
        }
        drop(part.ask("DELETE", &format!("/api/session/{session}"), &Value::Null));
        add(&count::sessions_deleted);
    }
}

/// One prompt and its end, or an interrupt: answers what is asked on the way.
fn run(part: &Part, session: &str, script: &str) {
    let path = format!("/api/session/{session}/prompt?wait=1");
    let reply = part.ask_json("POST", &path, &json!({"command": script}));
    let Some((status @ (200 | 202), mut reply)) = reply else { return };
    add(&count::prompts);
    if status == 202 {
        let approvals = format!("/api/session/{session}/approvals");
        if let Some((200, open)) = part.ask_json("GET", &approvals, &Value::Null)
            && let Some(one) = open["approvals"].get(0)
        {
            let path = format!("{approvals}/{}", one["approvalId"].as_str().unwrap_or_default());
            let answer = json!({"decision": "allow", "inputHash": one["inputHash"]});
            drop(part.ask("POST", &path, &answer));
            add(&count::approvals);
        }
        let interrupt = format!("/api/session/{session}/interrupt");
        drop(part.ask("POST", &interrupt, &json!({"clearQueue": true})));
        reply = Value::Null;
    }
    if find_member(&reply, "isError").is_some() {
        add(&count::turns_ended);
    }
    if find_member(&reply, "code").is_some_and(|code| code.is_string()) {
        add(&count::agents_that_failed);
    }
}

/// Deletes every session that is left.
pub fn delete_all(server: &Server) {
    for row in server.rows() {
        let id = row["sessionId"].as_str().or(row["id"].as_str()).expect("a row has an id");
        // One that was being deleted when the list was made may be gone by now.
        let answer = server.send("DELETE", &format!("/api/session/{id}"));
        assert!(matches!(answer.status, 200 | 404), "{answer}");
    }
    eventually("sessions that were deleted are gone", || server.rows().is_empty());
}
