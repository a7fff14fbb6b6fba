//! A server of the test's own: a free port, scratch directories, a clean environment; and at its end
//! a look around, since a server that leaves a process behind has failed whatever the test said.

use super::{
    Event, PATIENCE, Reader, Response, Scratch, eventually, fixture, http, processes_marked, signal,
};
use serde_json::{Value, json};
use sidestream::limits::KIB;
use std::io::{BufRead, BufReader, Read};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// How to start a server.
pub struct Options {
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    /// The size that its files may have.
    file_size: Option<String>,
    scratch: Scratch,
}

impl Options {
    /// Port 0, own data directory, own root; no agent chosen yet.
    pub fn new() -> Options {
        let scratch = Scratch::new();
        for name in ["home", "root", "tmp", "run"] {
            scratch.directory(name);
        }
        let flags = ["--listen", "127.0.0.1:0", "--data-dir", &scratch.join("data"), "--root"]
            .map(String::from)
            .into_iter()
            .chain([scratch.join("root")])
            .collect();
        let mut environment = vec![
            ("PATH".into(), std::env::var("PATH").expect("PATH is set")),
            ("LANG".into(), "C.UTF-8".into()),
        ];
        for (name, directory) in [
            ("HOME", "home"),
            ("TMPDIR", "tmp"),
            ("CLAUDE_CODE_TMPDIR", "tmp"),
            ("XDG_RUNTIME_DIR", "run"),
        ] {
            environment.push((name.into(), scratch.join(directory)));
        }
        Options { flags, environment, file_size: None, scratch }
    }

    /// Adds flags. One that may stand once takes the place of its like.
    pub fn flags(mut self, flags: &[&str]) -> Options {
        const REPEATABLE: [&str; 5] =
            ["--agent", "--agent-env", "--listen", "--on-event", "--root"];
        let mut flags = flags.iter();
        while let Some(flag) = flags.next() {
            let known = self.flags.iter().position(|one| one == flag);
            match known.filter(|_| flag.starts_with("--") && !REPEATABLE.contains(flag)) {
                Some(at) => {
                    let value = flags.next().expect("a flag that takes a value");
                    self.flags[at + 1] = value.to_string();
                }
                None => self.flags.push(flag.to_string()),
            }
        }
        self
    }

    /// Sets a variable of the server's environment; a second setting replaces the first.
    pub fn env(mut self, name: &str, value: &str) -> Options {
        self.environment.retain(|(known, _)| known != name);
        self.environment.push((name.into(), value.into()));
        self
    }

    /// Sets the size that its files may have, as on a disk that is full; none: any.
    pub fn limit_files(&mut self, size: Option<&str>) {
        self.file_size = size.map(str::to_owned);
    }

    /// Takes a variable away.
    pub fn without(mut self, name: &str) -> Options {
        self.environment.retain(|(known, _)| known != name);
        self
    }

    /// The directories it will have.
    pub fn scratch(&self) -> &Scratch {
        &self.scratch
    }

    /// The command as it would be started.
    pub fn command(&self) -> Command {
        // `make soak` names the release binary here.
        let binary = std::env::var_os("SIDESTREAM_TEST_BINARY");
        let binary = binary.unwrap_or_else(|| env!("CARGO_BIN_EXE_sidestream").into());
        let mut command = match &self.file_size {
            Some(size) => {
                let mut command = Command::new("prlimit");
                command.arg(format!("--fsize={size}:")).arg(binary);
                command
            }
            None => Command::new(binary),
        };
        command.arg("serve").args(&self.flags).env_clear().envs(self.environment.clone());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    /// Runs a command line that must not start; returns its exit code and standard error.
    #[track_caller]
    pub fn refused(self) -> (Option<i32>, String) {
        let mut child = self.command().spawn().unwrap();
        let status = wait(&mut child, PATIENCE).unwrap_or_else(|| {
            let _ = child.kill();
            panic!("the server started, or hangs");
        });
        let mut text = String::new();
        child.stderr.take().unwrap().read_to_string(&mut text).unwrap();
        (status.code(), text)
    }

    /// Starts it and waits until it says that it listens.
    #[track_caller]
    pub fn start(self) -> Server {
        let mut child = self.command().spawn().expect("the server's binary can be run");
        let stderr = capture(child.stderr.take().unwrap(), |_| {});
        let (told, listening) = mpsc::channel();
        let stdout = capture(child.stdout.take().unwrap(), move |line| {
            if let Some(at) = line.find("listening on http://127.0.0.1:") {
                let rest = &line[at + "listening on http://".len()..];
                let address: String =
                    rest.chars().take_while(|c| c.is_ascii_digit() || ".:".contains(*c)).collect();
                let _ = told.send(address);
            }
        });
        let Ok(address) = listening.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            let status = child.wait();
            panic!(
                "the server did not say `listening on http://127.0.0.1:PORT`: {status:?}\n{}{}",
                stdout.lock().unwrap(),
                stderr.lock().unwrap()
            );
        };
        let address = address.parse().expect("an address");
        Server { child: Some(child), address, scratch: self.scratch, stdout, stderr }
    }
}

/// A running server.
pub struct Server {
    child: Option<Child>,
    /// Where it listens.
    pub address: SocketAddr,
    /// Its directories: `home`, `root`, `data`, `tmp`, `run`.
    pub scratch: Scratch,
    stdout: Arc<Mutex<String>>,
    stderr: Arc<Mutex<String>>,
}

impl Server {
    /// With these flags added to the defaults; they name the agent.
    #[track_caller]
    pub fn start(flags: &[&str]) -> Server {
        Options::new().flags(flags).start()
    }

    /// With the built-in agent.
    #[track_caller]
    pub fn demo(flags: &[&str]) -> Server {
        Options::new().flags(&["--agent", "demo"]).flags(flags).start()
    }

    /// With the scriptable agent and a short ladder.
    #[track_caller]
    pub fn fake(flags: &[&str]) -> Server {
        Server::fake_options().flags(flags).start()
    }

    /// The options of [`Server::fake`].
    pub fn fake_options() -> Options {
        super::need("python3");
        let agent = format!("claude:{}", fixture("fake_agent.py"));
        let ladder = ["--ladder-eof", "500ms", "--ladder-term", "500ms"];
        Options::new().flags(&["--agent", &agent]).flags(&ladder)
    }

    /// Its pid.
    pub fn pid(&self) -> u32 {
        self.child.as_ref().expect("the server runs").id()
    }

    /// One of the sizes of its memory that `/proc/<pid>/status` tells, as `VmRSS`: in bytes.
    #[track_caller]
    pub fn memory(&self, name: &str) -> usize {
        let text = std::fs::read_to_string(format!("/proc/{}/status", self.pid())).unwrap();
        let value =
            |line: &str| Some(line.strip_prefix(name)?.strip_prefix(':')?.trim().to_owned());
        let value = text.lines().find_map(value).expect("a line of status");
        value.trim_end_matches(" kB").parse::<usize>().unwrap() * KIB
    }

    /// The directory that sessions run in.
    pub fn root(&self) -> String {
        self.scratch.join("root")
    }

    /// What it wrote to standard output so far.
    pub fn stdout(&self) -> String {
        self.stdout.lock().unwrap().clone()
    }

    /// What it wrote to standard error so far.
    pub fn stderr(&self) -> String {
        self.stderr.lock().unwrap().clone()
    }

    /// One request without a body.
    #[track_caller]
    pub fn send(&self, method: &str, path: &str) -> Response {
        http::request(self.address, method, path, &[], b"")
    }

    /// GET.
    #[track_caller]
    pub fn get(&self, path: &str) -> Response {
        self.send("GET", path)
    }

    /// POST of JSON.
    #[track_caller]
    pub fn post(&self, path: &str, body: Value) -> Response {
        http::request(self.address, "POST", path, &[], body.to_string().as_bytes())
    }

    /// A request with JSON and more headers.
    #[track_caller]
    pub fn json(
        &self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &Value,
    ) -> Response {
        http::request(self.address, method, path, headers, body.to_string().as_bytes())
    }

    /// A GET that must be answered with 200 and JSON.
    #[track_caller]
    pub fn told(&self, path: &str) -> Value {
        let json = self.get(path).expect(200).json();
        assert_eq!(json["success"], true, "{path}: {json}");
        json
    }

    /// A new session as the body asks; returns its description.
    #[track_caller]
    pub fn create_as(&self, more: Value) -> Value {
        let mut body = json!({"workingDir": self.root()});
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        self.post("/api/sessions", body).expect(201).json()["session"].clone()
    }

    /// A new session in the root; returns its id.
    #[track_caller]
    pub fn create(&self) -> String {
        self.create_in(&self.root())
    }

    /// A new session in this directory; returns its id.
    #[track_caller]
    pub fn create_in(&self, directory: &str) -> String {
        let json = self.post("/api/sessions", json!({"workingDir": directory})).expect(201).json();
        json["sessionId"].as_str().expect("a sessionId").to_string()
    }

    /// Sends a prompt that must be taken; returns its id.
    #[track_caller]
    pub fn prompt(&self, session: &str, command: &str) -> String {
        let path = format!("/api/session/{session}/prompt");
        let json = self.post(&path, json!({"command": command})).expect(202).json();
        assert_eq!(json["success"], true, "{json}");
        assert_eq!(json["sessionId"], session, "{json}");
        json["promptId"].as_str().expect("a promptId").to_string()
    }

    /// The state of a session.
    #[track_caller]
    pub fn status(&self, session: &str) -> String {
        let json = self.get(&format!("/api/session/{session}/status")).expect(200).json();
        find_member(&json, "status").and_then(Value::as_str).expect("a status").to_string()
    }

    /// The rows of the list of sessions.
    #[track_caller]
    pub fn rows(&self) -> Vec<Value> {
        let json = self.get("/api/sessions").expect(200).json();
        json["sessions"].as_array().unwrap_or_else(|| panic!("no `sessions`: {json}")).clone()
    }

    /// Interrupts the running turn.
    #[track_caller]
    pub fn interrupt(&self, session: &str) {
        let answer = self.post(&format!("/api/session/{session}/interrupt"), json!({}));
        assert!(matches!(answer.status, 200 | 202), "{answer}");
    }

    /// Answers an approval as its event asks; `more` adds to the body.
    #[track_caller]
    pub fn decide(&self, session: &str, required: &Event, decision: &str, more: Value) -> Response {
        let mut body = json!({"decision": decision, "inputHash": required.data["inputHash"]});
        for (name, value) in more.as_object().expect("an object") {
            body[name] = value.clone();
        }
        let approval = required.text("approvalId");
        assert!(!approval.is_empty(), "{}", required.data);
        self.post(&format!("/api/session/{session}/approvals/{approval}"), body)
    }

    /// A stream of one session, from the newest of the log.
    #[track_caller]
    pub fn stream(&self, session: &str) -> Reader {
        self.stream_with(session, "", &[])
    }

    /// A stream with a query (`?…`) and more headers.
    #[track_caller]
    pub fn stream_with(&self, session: &str, query: &str, headers: &[(&str, &str)]) -> Reader {
        Reader::open(self.address, &format!("/api/session/{session}/events{query}"), headers)
    }

    /// Ends a session and waits until its processes are gone.
    #[track_caller]
    pub fn close(&self, session: &str) {
        let path = format!("/api/session/{session}");
        self.send("DELETE", &path).expect(200);
        eventually("the session is gone", || self.get(&path).status == 404);
    }

    /// The metrics, after a check of every promise that holds always.
    #[track_caller]
    pub fn metrics(&self) -> Value {
        let metrics = self.get("/api/debug/metrics").expect(200).json();
        check_metrics(&metrics);
        metrics
    }

    /// Waits until exactly so many streams are open.
    #[track_caller]
    pub fn await_streams(&self, count: u64) {
        eventually(&format!("{count} streams are open"), || {
            self.metrics()["sse"]["totalConnections"] == count
        });
    }

    /// Descendants of the server that live, and whatever else carries its mark.
    pub fn agents(&self) -> Vec<(u32, String)> {
        let own = self.child.as_ref().map(Child::id);
        let mut found = processes_marked(&self.scratch.mark());
        found.retain(|(pid, _)| Some(*pid) != own);
        found
    }

    /// How many descriptors the server holds.
    pub fn descriptors(&self) -> usize {
        std::fs::read_dir(format!("/proc/{}/fd", self.pid())).unwrap().count()
    }

    /// Sends it a signal by name.
    pub fn signal(&self, name: &str) {
        signal(self.pid(), name);
    }

    /// Waits for its end; None if that does not come in time.
    pub fn wait(&mut self, patience: Duration) -> Option<ExitStatus> {
        let status = wait(self.child.as_mut()?, patience)?;
        self.child = None;
        Some(status)
    }

    /// SIGTERM; returns how it ended. Nothing may be left of it.
    #[track_caller]
    pub fn stop(&mut self) -> ExitStatus {
        self.signal("TERM");
        let Some(status) = self.wait(PATIENCE) else {
            panic!("the server does not stop; its log:\n{}", self.stderr());
        };
        self.expect_nothing_left();
        status
    }

    /// Waits until no process of this server is left.
    #[track_caller]
    pub fn expect_nothing_left(&self) {
        let start = Instant::now();
        while !self.agents().is_empty() {
            if start.elapsed() > PATIENCE {
                panic!("left behind: {:?}\nlog:\n{}", self.agents(), self.stderr());
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let failing = std::thread::panicking();
        if self.child.is_some() {
            if failing {
                self.end_anyhow();
            } else {
                let status = self.stop();
                assert!(status.success(), "the server ended with {status}\n{}", self.stderr());
            }
        }
        if failing {
            eprintln!("--- the server's output:\n{}{}", self.stdout(), self.stderr());
        }
    }
}

impl Server {
    /// Ends the server and its agents without a word, for a test that has failed already.
    fn end_anyhow(&mut self) {
        self.signal("TERM");
        if self.wait(Duration::from_secs(10)).is_none()
            && let Some(mut child) = self.child.take()
        {
            let _ = child.kill();
            let _ = child.wait();
        }
        for (pid, command) in self.agents() {
            eprintln!("left behind: {pid} {command}");
            let _ = Command::new("sh").args(["-c", &format!("kill -KILL {pid}")]).status();
        }
    }
}

/// Every promise about `/api/debug/metrics` that holds at any moment.
#[track_caller]
pub fn check_metrics(metrics: &Value) {
    let number = |value: &Value| value.as_u64().unwrap_or_else(|| panic!("{value} in {metrics}"));
    let sum = |map: &Value| -> u64 {
        map.as_object().unwrap_or_else(|| panic!("{map} in {metrics}")).values().map(number).sum()
    };
    let (bus, sse) = (&metrics["eventBus"], &metrics["sse"]);
    assert_eq!(number(&bus["eventsEmitted"]), sum(&bus["eventsByType"]), "{metrics}");
    assert_eq!(number(&bus["activeListeners"]), sum(&bus["listenerCounts"]), "{metrics}");
    let open = number(&sse["totalConnections"]);
    assert_eq!(number(&sse["totalCreated"]) - number(&sse["totalClosed"]), open, "{metrics}");
    assert_eq!(number(&sse["activeHeartbeats"]), open, "{metrics}");
    assert_eq!(sum(&sse["sessions"]), open, "{metrics}");
    let keys = sse["sessions"].as_object().unwrap().len() as u64;
    assert_eq!(number(&sse["totalSessions"]), keys, "{metrics}");
    assert!(number(&metrics["timestamp"]) > 1_600_000_000_000, "{metrics}");
}

/// The first member of this name, at the top or one level down (`session.status`).
pub fn find_member<'a>(json: &'a Value, name: &str) -> Option<&'a Value> {
    json.get(name).or_else(|| json.as_object()?.values().find_map(|inner| inner.get(name)))
}

fn wait(child: &mut Child, patience: Duration) -> Option<ExitStatus> {
    let start = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return Some(status);
        }
        if start.elapsed() > patience {
            return None;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Keeps all that comes from a pipe, and shows each line to `look`.
fn capture(
    pipe: impl Read + Send + 'static,
    mut look: impl FnMut(&str) + Send + 'static,
) -> Arc<Mutex<String>> {
    let kept = Arc::new(Mutex::new(String::new()));
    let ours = kept.clone();
    std::thread::spawn(move || {
        let mut lines = BufReader::new(pipe);
        let mut line = Vec::new();
        while lines.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            let text = String::from_utf8_lossy(&line);
            look(&text);
            ours.lock().unwrap().push_str(&text);
            line.clear();
        }
    });
    kept
}
