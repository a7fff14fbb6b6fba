//! A server that is ended, killed and started again on the same directories, and subscribers who come
//! back with their last id whatever happens to it.

use super::reader::parse_frame;
use super::{Event, Options, PATIENCE, Reader, Response, eventually, http, signal};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// A command that prints what it is told, but for `hang`, and `count N`.
pub const ECHO: &str = "lines:read -r word rest; case $word in hang) exec sleep 1000;; \
    count) i=0; while [ $i -lt $rest ]; do echo line $i; i=$((i+1)); done;; \
    *) echo got $word $rest;; esac";

/// A server that can be ended and started again on the same directories.
pub struct Rig {
    /// How it is started.
    pub options: Options,
    child: Option<Child>,
    /// Where it listens: another port after each start.
    pub address: SocketAddr,
    /// What it wrote to standard error, of the starts that have ended.
    pub stderr: Arc<Mutex<String>>,
}

impl Rig {
    /// Starts one with these flags.
    #[track_caller]
    pub fn start(flags: &[&str]) -> Rig {
        Rig::start_with(Options::new().flags(flags))
    }

    /// The same with options of any kind.
    #[track_caller]
    pub fn start_with(options: Options) -> Rig {
        let address = "127.0.0.1:1".parse().unwrap();
        let mut rig = Rig { options, child: None, address, stderr: Arc::default() };
        rig.again();
        rig
    }

    /// With a command as its agent: [`ECHO`].
    pub fn lines(flags: &[&str]) -> Rig {
        let mut all = vec!["--agent", ECHO, "--ladder-eof", "300ms", "--ladder-term", "300ms"];
        all.extend_from_slice(flags);
        Rig::start(&all)
    }

    /// Starts it, on another port.
    #[track_caller]
    pub fn again(&mut self) {
        let mut child = self.options.command().spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap());
        let (kept, mut errors) = (self.stderr.clone(), child.stderr.take().unwrap());
        std::thread::spawn(move || {
            let mut text = String::new();
            let _ = errors.read_to_string(&mut text);
            kept.lock().unwrap().push_str(&text);
        });
        let mut line = String::new();
        self.address = loop {
            line.clear();
            if lines.read_line(&mut line).unwrap() == 0 {
                std::thread::sleep(Duration::from_millis(100));
                panic!("it did not start: {:?} {}", child.wait(), self.stderr.lock().unwrap());
            }
            if let Some(address) = line.trim().strip_prefix("listening on http://") {
                break address.parse().unwrap();
            }
        };
        self.child = Some(child);
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    /// SIGTERM, and a good end.
    #[track_caller]
    pub fn stop(&mut self) {
        signal(self.pid(), "TERM");
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status} {}", self.stderr.lock().unwrap());
    }

    /// SIGTERM: its exit code and its words.
    pub fn ended(&mut self) -> (Option<i32>, String) {
        signal(self.pid(), "TERM");
        let code = self.child.take().unwrap().wait().unwrap().code();
        let said = || self.stderr.lock().unwrap().clone();
        eventually("its last words", || !said().is_empty());
        (code, said())
    }

    /// GET.
    pub fn get(&self, path: &str) -> Response {
        http::request(self.address, "GET", path, &[], b"")
    }

    /// POST of JSON.
    pub fn post(&self, path: &str, body: Value) -> Response {
        http::request(self.address, "POST", path, &[], body.to_string().as_bytes())
    }

    /// A new session; its id.
    pub fn create(&self) -> String {
        let body = json!({"workingDir": self.options.scratch().join("root")});
        let json = self.post("/api/sessions", body).expect(201).json();
        json["sessionId"].as_str().unwrap().to_owned()
    }

    /// A prompt that must be taken; the answer.
    pub fn prompt(&self, session: &str, command: &str) -> Value {
        let path = format!("/api/session/{session}/prompt");
        self.post(&path, json!({"command": command})).expect(202).json()
    }

    /// A stream of one session.
    pub fn stream(&self, session: &str, query: &str, cursor: Option<&str>) -> Reader {
        let headers: Vec<(&str, &str)> =
            cursor.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        Reader::open(self.address, &format!("/api/session/{session}/events{query}"), &headers)
    }

    /// A path in the data directory.
    pub fn data(&self, name: &str) -> PathBuf {
        self.options.scratch().path().join("data").join(name)
    }

    /// The bytes of a session's segments, one after the other.
    pub fn journal(&self, session: &str) -> Vec<u8> {
        segments(&self.data("sessions").join(session))
            .iter()
            .flat_map(|path| std::fs::read(path).unwrap())
            .collect()
    }

    /// The size that its files may have from here on: a disk that is full, and has room again.
    pub fn limit_files(&self, size: &str) {
        let (pid, size) = (self.pid().to_string(), format!("--fsize={size}:"));
        let status = Command::new("prlimit").args(["--pid", &pid, &size]).status().unwrap();
        assert!(status.success());
    }

    /// A start that must fail: its exit code and its words.
    pub fn refused(&self) -> (Option<i32>, String) {
        let output = self.options.command().output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            signal(child.id(), "TERM");
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.stderr.lock().unwrap());
        }
    }
}

/// The files of a session's segments, oldest first.
pub fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    found.sort();
    found
}

/// The ids of the frames in a journal.
pub fn ids_of(journal: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(journal).unwrap();
    text.split_inclusive("\n\n")
        .map(|frame| parse_frame(frame.as_bytes().to_vec()).unwrap().id.unwrap())
        .collect()
}

/// Frames in the order in which they came: their ids, their bytes.
pub type Frames = Vec<(String, Vec<u8>)>;

/// One subscriber that always comes back with its last id, whatever happens to the server.
pub struct Subscriber {
    /// What it was sent.
    pub frames: Arc<Mutex<Frames>>,
    /// Ends with the number of streams that it went on with.
    pub thread: std::thread::JoinHandle<u32>,
}

impl Subscriber {
    /// Starts it: the port is that of the server at the time, `slow` takes little at once.
    pub fn start(
        path: String,
        port: Arc<AtomicU16>,
        over: Arc<AtomicBool>,
        slow: bool,
    ) -> Subscriber {
        let frames = Arc::new(Mutex::new(Vec::new()));
        let ours = frames.clone();
        let thread = std::thread::spawn(move || {
            let (mut cursor, mut resumed) = (None::<String>, 0);
            while !over.load(SeqCst) {
                let address = SocketAddr::from(([127, 0, 0, 1], port.load(SeqCst)));
                let Some(stream) = open(address, &path, cursor.as_deref()) else {
                    std::thread::sleep(Duration::from_millis(3));
                    continue;
                };
                resumed += u32::from(cursor.is_some());
                listen(stream, &mut cursor, &ours, &over, slow);
            }
            resumed
        });
        Subscriber { frames, thread }
    }
}

fn open(address: SocketAddr, path: &str, cursor: Option<&str>) -> Option<std::net::TcpStream> {
    use std::io::Write;
    let mut stream =
        std::net::TcpStream::connect_timeout(&address, Duration::from_millis(500)).ok()?;
    let last = cursor.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
    let head = format!("GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n{last}\r\n");
    stream.write_all(head.as_bytes()).ok()?;
    stream.set_read_timeout(Some(Duration::from_millis(50))).ok()?;
    Some(stream)
}

/// Reads until the stream ends, takes every whole frame, and checks the verdict on the cursor.
fn listen(
    mut stream: std::net::TcpStream,
    cursor: &mut Option<String>,
    frames: &Mutex<Frames>,
    over: &AtomicBool,
    slow: bool,
) {
    let had_cursor = cursor.clone();
    let (mut pending, mut head_done) = (Vec::new(), false);
    let mut buffer = vec![0; if slow { 700 } else { 65536 }];
    while !over.load(SeqCst) {
        match stream.read(&mut buffer) {
            Ok(0) => return,
            Ok(count) => pending.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(_) => return,
        }
        if !head_done {
            let Some(end) = memchr::memmem::find(&pending, b"\r\n\r\n") else { continue };
            let head = String::from_utf8(pending.drain(..end + 4).collect()).unwrap();
            assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
            head_done = true;
        }
        while let Some(end) = memchr::memmem::find(&pending, b"\n\n") {
            let bytes: Vec<u8> = pending.drain(..end + 2).collect();
            let Some(event) = parse_frame(bytes) else { continue };
            if event.name == "connected" && had_cursor.is_some() {
                assert_eq!(event.data["resume"], "ok", "{had_cursor:?} {}", event.data);
            }
            if event.name == "server-busy" {
                return;
            }
            if let Some(id) = &event.id {
                *cursor = Some(id.clone());
            }
            if event.is_logged() {
                frames.lock().unwrap().push((event.id.unwrap(), event.bytes));
            }
        }
    }
}

/// Checks that everything in a journal that has started has ended, and once. `again`: what ended in
/// a hole is ended a second time for whoever heard the first.
#[track_caller]
pub fn check_ends(events: &[Event], again: bool) {
    use std::collections::BTreeMap;
    let mut open: BTreeMap<(&str, String), i32> = BTreeMap::new();
    for event in events.iter().filter(|event| event.is_logged()) {
        let id = |member: &str| event.data[member].to_string();
        let block = || format!("{}/{}", id("messageId"), id("block"));
        let mut note = |what, id: String, starts: bool| {
            let count = open.entry((what, id)).or_default();
            *count += if starts { 1 } else { -1 };
            let fits = if starts { *count == 1 } else { *count == 0 || again };
            assert!(fits, "{count} after {} {}", event.name, event.data);
        };
        match &*event.name {
            "tool-started" => note("tool", id("toolUseId"), true),
            "tool-completed" => note("tool", id("toolUseId"), false),
            "subagent-started" => note("subagent", id("agentId"), true),
            "subagent-completed" => note("subagent", id("agentId"), false),
            "approval-required" => note("approval", id("approvalId"), true),
            "approval-resolved" | "approval-withdrawn" => {
                note("approval", id("approvalId"), false);
            }
            "prompt-queued" => note("prompt", id("promptId"), true),
            "prompt-completed" | "prompt-failed" | "prompt-cancelled"
                if !event.data["promptId"].is_null() =>
            {
                note("prompt", id("promptId"), false);
            }
            "session-output"
                if event.data["type"] != "stderr"
                    && event.data["messageId"] != event.data["turnId"] =>
            {
                open.insert(("block", block()), 1);
            }
            "message-block" => {
                // A whole answer that came after a broken stream ends the deltas of that one.
                for old in event.data["replaces"].as_array().into_iter().flatten() {
                    let old = format!("{old}/");
                    open.retain(|(what, id), _| *what != "block" || !id.starts_with(&old));
                }
                open.insert(("block", block()), 0);
            }
            _ => {}
        }
    }
    let left: Vec<_> = open.iter().filter(|(_, count)| **count > 0).collect();
    assert!(left.is_empty(), "never ended: {left:?}");
}
