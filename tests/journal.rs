//! What survives the server: events, cursors, prompts, sessions; and what a bad disk does to it.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicBool, AtomicU16, Ordering::SeqCst};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use support::reader::parse_frame;
use support::{Event, Next, Options, PATIENCE, Reader, Response, eventually, fixture, http};

/// A command that prints what it is told, but for `hang`, and `count N`.
const ECHO: &str = "lines:read -r word rest; case $word in hang) exec sleep 1000;; \
    count) i=0; while [ $i -lt $rest ]; do echo line $i; i=$((i+1)); done;; \
    *) echo got $word $rest;; esac";

/// A server that can be ended and started again on the same directories.
struct Rig {
    options: Options,
    child: Option<Child>,
    address: SocketAddr,
    stderr: Arc<Mutex<String>>,
}

impl Rig {
    #[track_caller]
    fn start(flags: &[&str]) -> Rig {
        let options = Options::new().flags(flags);
        let address = "127.0.0.1:1".parse().unwrap();
        let mut rig = Rig { options, child: None, address, stderr: Arc::default() };
        rig.again();
        rig
    }

    fn lines(flags: &[&str]) -> Rig {
        let mut all = vec!["--agent", ECHO, "--ladder-eof", "300ms", "--ladder-term", "300ms"];
        all.extend_from_slice(flags);
        Rig::start(&all)
    }

    /// Starts it, on another port.
    #[track_caller]
    fn again(&mut self) {
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

    fn pid(&self) -> u32 {
        self.child.as_ref().unwrap().id()
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[track_caller]
    fn stop(&mut self) {
        support::signal(self.pid(), "TERM");
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status} {}", self.stderr.lock().unwrap());
    }

    fn get(&self, path: &str) -> Response {
        http::request(self.address, "GET", path, &[], b"")
    }

    fn post(&self, path: &str, body: Value) -> Response {
        http::request(self.address, "POST", path, &[], body.to_string().as_bytes())
    }

    fn create(&self) -> String {
        let body = json!({"workingDir": self.options.scratch().join("root")});
        let json = self.post("/api/sessions", body).expect(201).json();
        json["sessionId"].as_str().unwrap().to_owned()
    }

    fn prompt(&self, session: &str, command: &str) -> Value {
        let path = format!("/api/session/{session}/prompt");
        self.post(&path, json!({"command": command})).expect(202).json()
    }

    fn stream(&self, session: &str, query: &str, cursor: Option<&str>) -> Reader {
        let headers: Vec<(&str, &str)> =
            cursor.map(|id| ("Last-Event-ID", id)).into_iter().collect();
        Reader::open(self.address, &format!("/api/session/{session}/events{query}"), &headers)
    }

    fn data(&self, name: &str) -> PathBuf {
        self.options.scratch().path().join("data").join(name)
    }

    /// The bytes of a session's segments, one after the other.
    fn journal(&self, session: &str) -> Vec<u8> {
        segments(&self.data("sessions").join(session))
            .iter()
            .flat_map(|path| std::fs::read(path).unwrap())
            .collect()
    }

    /// The size that its files may have from here on: a disk that is full, and has room again.
    fn limit_files(&self, size: &str) {
        let (pid, size) = (self.pid().to_string(), format!("--fsize={size}:"));
        let status = Command::new("prlimit").args(["--pid", &pid, &size]).status().unwrap();
        assert!(status.success());
    }

    /// A start that must fail: its exit code and its words.
    fn refused(&self) -> (Option<i32>, String) {
        let output = self.options.command().output().unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            support::signal(child.id(), "TERM");
            let _ = child.wait();
        }
        if std::thread::panicking() {
            eprintln!("--- the server's log:\n{}", self.stderr.lock().unwrap());
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
        .collect();
    found.sort();
    found
}

/// The ids of the frames in a journal.
fn ids_of(journal: &[u8]) -> Vec<String> {
    let text = std::str::from_utf8(journal).unwrap();
    text.split_inclusive("\n\n")
        .map(|frame| parse_frame(frame.as_bytes().to_vec()).unwrap().id.unwrap())
        .collect()
}

fn ends(event: &Event, prompt: &str) -> bool {
    let end = ["prompt-completed", "prompt-failed", "prompt-cancelled"];
    end.contains(&&*event.name) && event.text("promptId") == prompt
}

#[test]
fn a_clean_restart_loses_nothing_and_the_conversation_goes_on() {
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut before = rig.stream(&session, "", None);
    before.joined();
    let first = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
    before.until("the first end", |event| ends(event, &first));
    let cursor = before.last_id.clone().unwrap();
    rig.stop();
    before.until_end();
    let cursor_at_end = before.last_id.clone().unwrap();
    rig.again();
    let row = rig.get(&format!("/api/session/{session}")).expect(200).json()["session"].clone();
    assert_eq!(row["status"], "suspended", "{row}");
    assert_eq!(row["workingDir"], rig.options.scratch().join("root"), "{row}");
    assert_eq!(row["lastPrompt"], "one", "{row}");
    for cursor in [&cursor, &cursor_at_end] {
        let mut after = rig.stream(&session, "", Some(cursor));
        assert_eq!(after.joined().data["resume"], "ok", "{}", after.story());
        let all: Vec<String> = ids_of(&rig.journal(&session));
        let at = all.iter().position(|id| id == cursor).expect("the cursor is in the journal");
        eventually("the rest", || {
            after.next_within(Duration::from_millis(20));
            after.ids() == ids_of(&rig.journal(&session))[at + 1..]
        });
    }
    let mut after = rig.stream(&session, "?replay=all", None);
    after.joined();
    assert_eq!(after.ids(), ids_of(&rig.journal(&session)));
    let second = rig.prompt(&session, "two")["promptId"].as_str().unwrap().to_owned();
    after.until("the second end", |event| ends(event, &second));
    assert_eq!(after.output(&second, "stdout"), "got two\n");
    let page = rig.get(&format!("/api/session/{session}/history?limit=1000")).expect(200).json();
    let told: Vec<&str> =
        page["events"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(told, ids_of(&rig.journal(&session))[..told.len()], "{page}");
    let poll = format!("/api/session/{session}/events/poll?after={cursor}");
    let page = rig.get(&poll).expect(200).json();
    let all = ids_of(&rig.journal(&session));
    let at = all.iter().position(|id| *id == cursor).unwrap();
    assert_eq!(page["events"][0]["id"], all[at + 1].as_str(), "{page}");
    assert_eq!(page["resume"], "ok");
}

#[test]
fn a_running_prompt_fails_and_a_queued_one_runs_when_the_server_was_killed() {
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let hang = rig.prompt(&session, "hang")["promptId"].as_str().unwrap().to_owned();
    let mut reader = rig.stream(&session, "", None);
    reader.until("the start", |event| event.name == "prompt-started");
    let path = format!("/api/session/{session}/prompt");
    let body = json!({"command": "later on", "promptId": "mine"});
    let answer = rig.post(&path, body.clone()).expect(202).json();
    let cursor = reader.last_id.clone();
    rig.kill();
    rig.again();
    let mut reader = rig.stream(&session, "", cursor.as_deref());
    let failed = reader.until("the failure", |event| ends(event, &hang));
    assert_eq!(failed.name, "prompt-failed");
    assert_eq!(failed.data["code"], "server_restarted");
    let end = reader.until("the end of the queued one", |event| ends(event, "mine"));
    assert_eq!(end.name, "prompt-completed", "{}", end.data);
    assert_eq!(reader.output("mine", "stdout"), "got later on\n");
    // The retry of a client that never saw its answer.
    let again = rig.post(&path, body).expect(202).json();
    assert_eq!(again["lastEventId"], answer["lastEventId"]);
    assert_eq!(again["promptId"], "mine");
    let other = rig.post(&path, json!({"command": "other", "promptId": "mine"}));
    assert_eq!(other.expect(409).json()["code"], "prompt_id_reused");
    rig.kill();
    rig.again();
    let mut all = rig.stream(&session, "?replay=all", None);
    all.joined();
    let starts = |id: &str| {
        let is_it = |e: &&Event| e.name == "prompt-started" && e.text("promptId") == id;
        all.seen.iter().filter(is_it).count()
    };
    assert_eq!((starts("mine"), starts(&hang)), (1, 1), "{}", all.story());
}

#[test]
fn what_a_dead_agent_asked_and_began_is_ended_at_the_restart() {
    support::need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let mut rig = Rig::start(&["--agent", &agent, "--ladder-eof", "300ms"]);
    let session = rig.create();
    let script = "think: hm ;; say: before ;; approve Bash {\"command\":\"ls\"}";
    rig.prompt(&session, script);
    let mut reader = rig.stream(&session, "?replay=all", None);
    let asked = reader.until_name("approval-required");
    rig.kill();
    rig.again();
    let mut reader = rig.stream(&session, "?replay=all", None);
    let withdrawn = reader.until_name("approval-withdrawn");
    assert_eq!(withdrawn.data["approvalId"], asked.data["approvalId"]);
    assert_eq!(withdrawn.data["reason"], "server_restarted");
    assert_eq!(reader.until_name("prompt-failed").data["code"], "server_restarted");
    let status = reader.until("suspended", |event| event.text("status") == "suspended");
    assert_eq!(status.name, "session-status");
    let prompt = rig.prompt(&session, "history")["promptId"].as_str().unwrap().to_owned();
    assert!(reader.answer(&prompt).contains("think: hm"), "the conversation goes on");
}

#[test]
fn a_text_that_was_being_written_when_the_server_was_killed_is_ended_at_the_restart() {
    let mut rig = Rig::start(&["--agent", "demo", "--delta-hold", "0"]);
    let session = rig.create();
    let prompt = rig.prompt(&session, "slow 1000 20")["promptId"].as_str().unwrap().to_owned();
    let mut reader = rig.stream(&session, "?replay=all", None);
    let delta = reader.until_name("session-output");
    rig.kill();
    rig.again();
    let mut reader = rig.stream(&session, "?replay=all", None);
    let block = reader.until_name("message-block");
    assert_eq!(block.data["messageId"], delta.data["messageId"]);
    assert_eq!(block.data["aborted"], true);
    assert_eq!(block.data["text"], reader.output(&prompt, "stdout"), "all that was told");
    assert_eq!(reader.until_name("prompt-failed").data["code"], "server_restarted");
}

/// Frames in the order in which they came: their ids, their bytes.
type Frames = Vec<(String, Vec<u8>)>;

/// One subscriber that always comes back with its last id, whatever happens to the server.
struct Subscriber {
    frames: Arc<Mutex<Frames>>,
    thread: std::thread::JoinHandle<u32>,
}

impl Subscriber {
    fn start(path: String, port: Arc<AtomicU16>, over: Arc<AtomicBool>, slow: bool) -> Subscriber {
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

#[test]
fn a_hundred_kills_at_random_moments_lose_nothing_and_repeat_nothing() {
    let kills = 100;
    // A small ring, so that those who come back are mostly behind it.
    let ring = ["--ring-size", "64KiB", "--all-ring-size", "64KiB", "--delta-hold", "1ms"];
    let mut rig = Rig::lines(&ring);
    let sessions = [rig.create(), rig.create()];
    let port = Arc::new(AtomicU16::new(rig.address.port()));
    let over = Arc::new(AtomicBool::new(false));
    let paths: Vec<String> = sessions
        .iter()
        .map(|id| format!("/api/session/{id}/events?replay=all"))
        .chain(["/api/events?replay=all".to_owned()])
        .collect();
    let subscribers: Vec<(usize, Subscriber)> = (0..6)
        .map(|n| {
            let path = paths[n % 3].clone();
            (n % 3, Subscriber::start(path, port.clone(), over.clone(), n >= 3))
        })
        .collect();
    let start = Instant::now();
    let mut seed = std::process::id();
    for round in 0..kills {
        for session in &sessions {
            let id = format!("round-{round}");
            let body = json!({"command": "count 300", "promptId": id});
            rig.post(&format!("/api/session/{session}/prompt"), body).expect(202);
        }
        seed = seed.wrapping_mul(1_103_515_245).wrapping_add(12345);
        std::thread::sleep(Duration::from_micros(u64::from(seed >> 16) % 80_000));
        rig.kill();
        rig.again();
        port.store(rig.address.port(), SeqCst);
        assert!(start.elapsed() < 6 * PATIENCE, "{round} rounds took {:?}", start.elapsed());
    }
    // What is queued runs out, then everybody has everything.
    let mut all: Vec<Vec<String>> = Vec::new();
    eventually("an end of all turns", || {
        let rows = rig.get("/api/sessions").expect(200).json();
        let rows = rows["sessions"].as_array().unwrap().clone();
        rows.iter().all(|row| {
            row["queueLength"] == 0
                && ["idle", "suspended"].contains(&row["status"].as_str().unwrap())
        })
    });
    for session in &sessions {
        all.push(ids_of(&rig.journal(session)));
    }
    let mut both: Vec<String> = all.concat();
    both.sort_by_key(|id| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap());
    all.push(both);
    eventually("everybody to have everything", || {
        subscribers.iter().all(|(n, one)| {
            let last = one.frames.lock().unwrap().last().map(|frame| frame.0.clone());
            last.as_ref() == all[*n].last()
        })
    });
    over.store(true, SeqCst);
    let mut resumed = 0;
    for (n, one) in subscribers {
        resumed += one.thread.join().expect("a subscriber met no surprise");
        let told: Vec<String> =
            one.frames.lock().unwrap().iter().map(|frame| frame.0.clone()).collect();
        let first = told.iter().zip(&all[n]).position(|(told, want)| told != want);
        assert_eq!(first, None, "{} of {}", told.len(), all[n].len());
        assert_eq!(told.len(), all[n].len());
        let bytes: Vec<u8> =
            one.frames.lock().unwrap().iter().flat_map(|frame| frame.1.clone()).collect();
        if n < 2 {
            assert!(bytes == rig.journal(&sessions[n]), "the wire and the journal hold one thing");
        }
    }
    assert!(resumed > 3 * kills, "only {resumed} streams were gone on with");
    assert!(all[2].len() > 1000, "only {} events", all[2].len());
}

#[test]
fn fifty_readers_get_everything_from_the_disk_while_output_goes_on() {
    let flags = ["--ring-size", "64KiB", "--all-ring-size", "64KiB", "--delta-hold", "0ms"];
    let mut rig = Rig::lines(&flags);
    let session = rig.create();
    let prompt = rig.prompt(&session, "count 20000")["promptId"].as_str().unwrap().to_owned();
    let path = format!("/api/session/{session}/events?replay=all");
    let mut readers: Vec<Reader> = Vec::new();
    for n in 0..50 {
        let path = if n % 5 == 4 { "/api/events?replay=all" } else { &path };
        readers.push(Reader::open(rig.address, path, &[]));
        if n == 30 {
            readers[0].until("the end", |event| ends(event, &prompt));
        }
    }
    readers[0].turn_end(&prompt);
    eventually("the end on disk", || {
        String::from_utf8(rig.journal(&session)).unwrap().contains("prompt-completed")
    });
    let want = |reader: &mut Reader| {
        if reader.count("replay-complete") == 0 {
            reader.until_name("replay-complete");
        }
        reader.turn_end(&prompt);
        let told = reader.ids();
        let all = ids_of(&rig.journal(&session));
        assert!(all.len() > 20, "only {} events", all.len());
        assert_eq!(told, all[..told.len()]);
        let complete = reader.seen.iter().position(|event| event.name == "replay-complete");
        let complete = complete.expect("replay-complete");
        let replayed = reader.seen[..complete].iter().filter(|event| event.is_logged()).count();
        assert_eq!(reader.seen[complete].data["count"], replayed as u64);
        assert_eq!(reader.output(&prompt, "stdout").lines().count(), 20000);
    };
    readers.iter_mut().for_each(want);
    assert!(rig.journal(&session).len() > 3 * 65536, "larger than the ring");
    // Filters and cursors read the same journal.
    let ids = ids_of(&rig.journal(&session));
    rig.kill();
    rig.again();
    let mut some = rig.stream(&session, "?replay=all&types=-session-output", None);
    some.joined();
    assert!(some.seen.iter().all(|event| event.name != "session-output"));
    assert_eq!(some.count("prompt-completed"), 1);
    for at in [0, 1, ids.len() / 2, ids.len() - 2] {
        let mut rest = rig.stream(&session, "", Some(&ids[at]));
        let connected = rest.joined();
        assert_eq!(connected.data["resume"], "ok");
        assert_eq!(connected.data["earliestId"], ids[0].as_str());
        assert!(rest.ids().starts_with(&ids[at + 1..]), "from {at}");
        let mut rest =
            Reader::open(rig.address, "/api/events", &[("Last-Event-ID", ids[at].as_str())]);
        assert_eq!(rest.joined().data["resume"], "ok");
        assert!(rest.ids().starts_with(&ids[at + 1..]), "of all, from {at}");
    }
}

#[test]
fn a_full_disk_is_told_streaming_goes_on_and_the_journal_recovers() {
    support::need("prlimit");
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    rig.limit_files("100");
    let first = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&first);
    assert_eq!(reader.output(&first, "stdout"), "got one\n", "{}", reader.story());
    assert!(reader.seen.iter().any(|event| event.text("code") == "journal_failed"));
    let told = rig.get("/ready").expect(503).json();
    assert_eq!(told["code"], "journal_failed", "{told}");
    assert!(told["error"].as_str().unwrap().contains(&session), "{told}");
    rig.limit_files("unlimited");
    eventually("ready again", || rig.get("/ready").status == 200);
    let second = rig.prompt(&session, "two")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&second);
    rig.kill();
    rig.again();
    let mut again = rig.stream(&session, "?replay=all", None);
    again.joined();
    let told: Vec<String> = reader.ids();
    let kept = again.ids();
    let at = kept.iter().position(|id| *id == told[0]).expect("the first event is kept");
    assert_eq!(kept[at..at + told.len()], told, "what the ring still had was written later");
}

#[test]
fn what_the_ring_lost_while_the_disk_was_full_is_told_as_lost() {
    support::need("prlimit");
    let mut rig = Rig::lines(&["--ring-size", "64KiB", "--delta-hold", "0ms"]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    let early = reader.last_id.clone().unwrap();
    rig.limit_files("100");
    rig.prompt(&session, "count 20000");
    // Not by a reader: while the disk is full there is nothing behind the small ring, and one that
    // is slow on a busy machine is cut.
    let status = format!("/api/session/{session}/status");
    eventually("the turn is over", || rig.get(&status).json()["status"] == "suspended");
    rig.limit_files("unlimited");
    eventually("ready again", || rig.get("/ready").status == 200);
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    let lost = match reader.seen.iter().find(|event| event.name == "events-lost") {
        Some(event) => event.clone(),
        None => reader.until_name("events-lost"),
    };
    assert_eq!(lost.data["reason"], "journal_failed");
    eventually("ready again", || rig.get("/ready").status == 200);
    for restart in [false, true] {
        if restart {
            eventually("the word of it on disk", || {
                String::from_utf8_lossy(&rig.journal(&session)).contains("events-lost")
            });
            rig.kill();
            rig.again();
        }
        let mut stale = rig.stream(&session, "", Some(&early));
        assert_eq!(stale.joined().data["resume"], "gap", "restarted: {restart}");
        let mut last = rig.stream(&session, "", Some(lost.data["to"].as_str().unwrap()));
        assert_eq!(last.joined().data["resume"], "ok", "restarted: {restart}");
        let mut all = rig.stream(&session, "?replay=all", None);
        all.joined();
        assert_eq!(
            all.seen.iter().find(|event| event.is_logged()).unwrap().name,
            "session-created"
        );
        assert_eq!(all.count("events-lost"), 1, "{}", all.story());
    }
}

#[test]
fn retention_takes_the_oldest_segments_and_old_cursors_are_told() {
    let flags = ["--journal-max", "8MiB", "--ring-size", "64KiB", "--delta-hold", "0ms"];
    let mut rig = Rig::lines(&flags);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    let early = reader.last_id.clone().unwrap();
    // Each line is told in about eight times its size, unless the pipe joins them.
    let dir = rig.data("sessions").join(&session);
    let size = || segments(&dir).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    let first = segments(&dir)[0].clone();
    let start = Instant::now();
    while first.exists() {
        assert!(start.elapsed() < 4 * PATIENCE, "{} bytes after {:?}", size(), start.elapsed());
        let prompt = rig.prompt(&session, "count 60000")["promptId"].as_str().unwrap().to_owned();
        reader.turn_end(&prompt);
        assert!(size() <= 13 << 20, "{} bytes", size());
    }
    for restart in [false, true] {
        if restart {
            rig.stop();
            rig.again();
        }
        let mut stale = rig.stream(&session, "", Some(&early));
        assert_eq!(stale.joined().data["resume"], "gap", "restarted: {restart}");
        let mut all = rig.stream(&session, "?replay=all", None);
        let connected = all.joined();
        let ids = ids_of(&rig.journal(&session));
        assert_eq!(connected.data["earliestId"], ids[0].as_str());
        assert_eq!(all.ids()[..], ids[..all.ids().len()]);
    }
    let row = rig.get(&format!("/api/session/{session}")).expect(200).json()["session"].clone();
    assert_eq!(row["workingDir"], rig.options.scratch().join("root"), "from the snapshot: {row}");
}

#[test]
fn large_fields_and_large_prompts_survive() {
    let mut rig = Rig::lines(&["--ring-size", "64KiB"]);
    let session = rig.create();
    rig.prompt(&session, "hang");
    let mut reader = rig.stream(&session, "", None);
    reader.until("the start", |event| event.name == "prompt-started");
    let command = format!("say {}", "x".repeat(100_000));
    let path = format!("/api/session/{session}/prompt");
    rig.post(&path, json!({"command": command, "promptId": "long"})).expect(202);
    let queued = reader.until("it", |event| event.text("promptId") == "long");
    let href = queued.data["large"]["href"].as_str().expect("a large field").to_owned();
    assert_eq!(rig.get(&href).expect(200).text(), command);
    rig.kill();
    rig.again();
    assert_eq!(rig.get(&href).expect(200).text(), command);
    let mut reader = rig.stream(&session, "?replay=all", None);
    reader.turn_end("long");
    let text = reader.output("long", "stdout");
    assert_eq!(text.len(), command.len() + 5, "it ran as it was sent");
}

#[test]
fn a_deleted_session_is_erased_and_stays_gone() {
    let mut rig = Rig::lines(&[]);
    let (kept, gone) = (rig.create(), rig.create());
    let before = rig.stream(&gone, "", None).joined().data["latestId"].clone();
    http::request(rig.address, "DELETE", &format!("/api/session/{gone}"), &[], b"").expect(200);
    rig.kill();
    rig.again();
    rig.get(&format!("/api/session/{gone}")).expect(404);
    rig.get(&format!("/api/session/{kept}")).expect(200);
    assert!(!rig.data("sessions").join(&gone).exists());
    let cursor = before.as_str().unwrap();
    let mut all = Reader::open(rig.address, "/api/events", &[("Last-Event-ID", cursor)]);
    assert_eq!(all.joined().data["resume"], "gap", "its end cannot be told any more");
}

#[test]
fn an_agent_that_is_not_configured_any_more_keeps_its_sessions() {
    let mut rig = Rig::lines(&["--agent", "other=lines:cat"]);
    let body = json!({"workingDir": rig.options.scratch().join("root"), "agent": "other"});
    let session = rig.post("/api/sessions", body).expect(201).json()["sessionId"].clone();
    let session = session.as_str().unwrap();
    rig.stop();
    let Rig { options, .. } = &mut rig;
    let without = std::mem::replace(options, Options::new());
    let data = without.scratch().join("data");
    let root = without.scratch().join("root");
    let stand_in = Options::new().flags(&["--agent", "demo", "--data-dir", &data, "--root", &root]);
    rig.options = stand_in;
    rig.again();
    let mut reader = rig.stream(session, "", None);
    let prompt = rig.prompt(session, "x")["promptId"].as_str().unwrap().to_owned();
    assert_eq!(reader.turn_end(&prompt).data["code"], "unknown_agent");
    let names = rig.get("/api/agents").expect(200).json();
    assert_eq!(names["agents"].as_array().unwrap().len(), 1, "{names}");
    drop(rig);
    drop(without);
}

#[test]
fn a_tail_that_never_reached_the_disk_is_cut_and_the_rest_is_kept() {
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&prompt);
    rig.kill();
    let whole = rig.journal(&session);
    let ids = ids_of(&whole);
    let file = segments(&rig.data("sessions").join(&session)).pop().unwrap();
    for (cut, zeros) in [(1, false), (2, true), (50, false), (120, true), (whole.len() - 3, true)] {
        let mut torn = whole.clone();
        torn.truncate(whole.len() - cut);
        if zeros {
            torn.resize(whole.len(), 0);
        }
        std::fs::write(&file, &torn).unwrap();
        let kept = memchr::memmem::rfind(&torn, b"\n\n").map_or(0, |at| at + 2);
        let kept = ids_of(&whole[..kept]).len();
        rig.again();
        let mut again = rig.stream(&session, "?replay=all", None);
        again.joined();
        assert_eq!(again.ids()[..kept], ids[..kept], "{cut} bytes cut");
        rig.kill();
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_and_nothing_is_changed() {
    let mut rig = Rig::lines(&[]);
    let (session, other) = (rig.create(), rig.create());
    let (code, told) = rig.refused();
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("in use by another"), "{told}");
    rig.stop();
    let format = rig.data("format");
    let epochs = rig.data("epochs");
    for (path, text, says) in [
        (&format, "2\n", "newer sidestream"),
        (&format, "x\n", "damaged"),
        (&epochs, "start 1\n", "damaged at line 1"),
    ] {
        let good = std::fs::read(path).unwrap();
        let before = rig.journal(&session);
        std::fs::write(path, text).unwrap();
        let (code, told) = rig.refused();
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(says) && told.contains(path.to_str().unwrap()), "{told}");
        assert_eq!(std::fs::read(path).unwrap(), text.as_bytes());
        assert_eq!(rig.journal(&session), before);
        std::fs::write(path, good).unwrap();
    }
    // One damaged session keeps no other from loading, and stays as it is.
    let dir = rig.data("sessions").join(&other);
    let segment = segments(&dir)[0].clone();
    std::fs::rename(&segment, dir.join("0000000000000100-0000000000000100.log")).unwrap();
    std::fs::write(dir.join("session.json"), "{").unwrap();
    rig.again();
    rig.get(&format!("/api/session/{session}")).expect(200);
    rig.get(&format!("/api/session/{other}")).expect(404);
    rig.stop();
    eventually("a word of the damaged one", || {
        let told = rig.stderr.lock().unwrap().clone();
        told.contains("left out") && told.contains(&other)
    });
    assert_eq!(std::fs::read(dir.join("session.json")).unwrap(), b"{");
}

#[test]
fn memory_survives_nothing_and_says_so() {
    let mut rig = Rig::lines(&["--durability", "memory"]);
    let session = rig.create();
    let cursor = rig.stream(&session, "", None).joined().data["latestId"].clone();
    rig.stop();
    rig.again();
    rig.get(&format!("/api/session/{session}")).expect(404);
    let cursor = cursor.as_str().unwrap();
    let mut all = Reader::open(rig.address, "/api/events", &[("Last-Event-ID", cursor)]);
    assert_eq!(all.joined().data["resume"], "gap");
    assert!(!rig.data("sessions").exists());
}

#[test]
fn sync_does_all_of_it_too() {
    let mut rig = Rig::lines(&["--durability", "sync"]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "count 2000")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&prompt);
    let cursor = reader.last_id.clone().unwrap();
    rig.kill();
    rig.again();
    let mut again = rig.stream(&session, "", Some(&cursor));
    assert_eq!(again.joined().data["resume"], "ok");
    assert!(matches!(again.next_within(Duration::from_millis(1)), Next::Silence | Next::Event(_)));
}
