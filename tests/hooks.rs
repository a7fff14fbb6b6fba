//! Commands that are told of events, the links they are given, and the scripts that come with us:
//! the real binary, real processes, and a stand-in for each service.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use support::{Connection, Options, Response, Scratch, Server, eventually, need};

/// Writes an executable script.
fn script(scratch: &Scratch, name: &str, text: &str) -> String {
    let path = scratch.join(name);
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    path
}

/// A script that keeps each event as a file of its own in `DIR`, whole or not at all.
fn keeper(scratch: &Scratch) -> String {
    let directory = scratch.directory("told");
    let text = format!(
        "cat > \"{directory}/$$.part\"; env > \"{directory}/$$.env\"; echo \"$#:$*\" > \"{directory}/$$.args\"
mv \"{directory}/$$.part\" \"{directory}/$$.json\""
    );
    script(scratch, "keeper", &text)
}

/// The events that were kept so far.
fn told(scratch: &Scratch) -> Vec<Value> {
    let mut all: Vec<Value> = std::fs::read_dir(scratch.join("told"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "json"))
        .map(|path| serde_json::from_slice(&std::fs::read(path).unwrap()).expect("whole JSON"))
        .collect();
    all.sort_by_key(|event| event["timestamp"].as_u64());
    all
}

fn counted(server: &Server, name: &str) -> u64 {
    server.metrics()["server"][name].as_u64().unwrap_or_else(|| panic!("no {name}"))
}

#[test]
fn a_command_is_told_what_it_asked_for_without_a_shell_and_with_little_around_it() {
    let options = Options::new();
    let keeper = keeper(options.scratch());
    let hook = format!("{keeper} $HOME a;b");
    let server = options
        .env("SECRET_OF_OURS", "x")
        .flags(&["--agent", "demo", "--on-event", "turn-done,approval-waiting", &hook])
        .start();
    let session = server.create();
    let long = "word ".repeat(30_000);
    let long = long.trim();
    let prompts = [
        server.prompt(&session, "say: hello"),
        server.prompt(&session, "error 400"),
        server.prompt(&session, &format!("run tool: echo {long}")),
    ];
    eventually("three events", || told(&server.scratch).len() == 3);
    let events = told(&server.scratch);
    let names: Vec<&str> =
        events.iter().map(|event| event["_eventType"].as_str().unwrap()).collect();
    assert_eq!(names, ["prompt-completed", "prompt-failed", "approval-required"]);
    assert_eq!(events[0]["promptId"], json!(prompts[0]));
    assert_eq!(events[0]["result"], "hello");
    assert_eq!(events[2]["input"]["command"], format!("echo {long}"), "150 KB, whole");
    assert!(events.iter().all(|event| event["sessionId"] == *session && event["url"].is_null()));
    assert!(events[2]["allowUrl"].is_null(), "{}", events[2]);

    let directory = server.scratch.join("told");
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let text = std::fs::read_to_string(&path).unwrap();
        match path.extension().and_then(|end| end.to_str()) {
            Some("args") => assert_eq!(text, "2:$HOME a;b\n"),
            Some("env") => {
                for line in text.lines() {
                    let name = line.split('=').next().unwrap();
                    let known = [
                        "PATH",
                        "HOME",
                        "LANG",
                        "SIDESTREAM_MARKER",
                        "PWD",
                        "_",
                        "SHLVL",
                        "OLDPWD",
                    ];
                    assert!(known.contains(&name), "{line}");
                }
            }
            _ => {}
        }
    }
    assert_eq!((counted(&server, "hooksStarted"), counted(&server, "hooksFailed")), (3, 0));
}

/// A command for an event is our descendant, and is kept from changing anything before there has been
/// any agent, too.
#[test]
fn a_command_may_read_and_change_nothing() {
    need("curl");
    let options = Options::new();
    let port = options.scratch().join("port");
    let answers = options.scratch().join("answers");
    let text = format!(
        "id=$(sed -n 's/.*\"sessionId\":\"\\([^\"]*\\)\".*/\\1/p')
until [ -s {port} ]; do sleep 0.05; done
url=$(cat {port})/api/session/$id
for method in GET DELETE; do
  curl -s -o /dev/null -w '%{{http_code}}\\n' -X $method $url >> {answers}.part
done
mv {answers}.part {answers}"
    );
    let hook = script(options.scratch(), "changer", &text);
    let server =
        options.flags(&["--agent", "demo", "--on-event", "session-created", &hook]).start();
    let session = server.create();
    std::fs::write(&port, format!("http://{}", server.address)).unwrap();
    let told = || std::fs::read_to_string(&answers).ok();
    eventually("it has asked", || told().is_some());
    assert_eq!(told().unwrap(), "200\n403\n");
    server.get(&format!("/api/session/{session}")).expect(200);
}

#[test]
fn a_failed_session_is_told_and_words_with_blanks_are_a_json_list() {
    let options = Options::new();
    let keeper = keeper(options.scratch());
    let hook = json!([keeper, "a b", ""]).to_string();
    let agent = "x=claude:/nowhere/claude";
    let lines = format!("session-failed {hook}\nsession-created {keeper}");
    let server = options.env("SIDESTREAM_ON_EVENT", &lines).flags(&["--agent", agent]).start();
    let session = server.create();
    server.prompt(&session, "hello");
    eventually("two events", || told(&server.scratch).len() == 2);
    let events = told(&server.scratch);
    assert_eq!(events[0]["_eventType"], "session-created");
    assert_eq!(events[1]["status"], "failed", "{}", events[1]);
    let failed = std::fs::read_dir(server.scratch.join("told"))
        .unwrap()
        .any(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap() == "2:a b \n");
    assert!(failed, "both words, one of them empty");
}

#[test]
fn commands_that_hang_are_four_at_most_hold_nothing_up_and_end_with_their_time() {
    let options = Options::new();
    let pids = options.scratch().directory("pids");
    let text = format!("setsid sleep 1000 & echo $$ > {pids}/$$; exec sleep 1000");
    let hook = script(options.scratch(), "hang", &text);
    let mut server = options.flags(&["--agent", "demo", "--on-event", "turn-done", &hook]).start();
    let session = server.create();
    let running = || std::fs::read_dir(&pids).unwrap().count();
    for number in 0..6 {
        server.prompt(&session, &format!("say: {number}"));
    }
    eventually("four run", || running() == 4);
    eventually("six turns are done", || {
        server.metrics()["eventBus"]["eventsByType"]["prompt-completed"] == 6
    });
    assert_eq!((running(), counted(&server, "hooksStarted")), (4, 4), "the others wait");
    // Their time is up, and the next ones have their turn.
    eventually("two more run", || running() == 6);
    eventually("four failed", || counted(&server, "hooksFailed") == 4);
    assert!(server.stderr().contains("did not end within 10 s"), "{}", server.stderr());
    // The end of the server is theirs, and that of what they put aside.
    assert!(server.stop().success());
}

#[test]
fn what_goes_wrong_is_counted_and_logged_fit_for_a_terminal() {
    let options = Options::new();
    let text = "cat > /dev/null; printf 'no such topic \\033[31m' >&2; exit 3";
    let bad = script(options.scratch(), "bad", text);
    let deaf = script(options.scratch(), "deaf", "exec <&-; exit 0");
    let shot = script(options.scratch(), "shot", "kill -TERM $$");
    let mut flags = vec!["--agent", "demo"];
    for hook in [&bad, &deaf, &shot] {
        flags.extend_from_slice(&["--on-event", "turn-done", hook]);
    }
    let server = options.flags(&flags).start();
    let session = server.create();
    server.prompt(&session, "say: x");
    eventually("two failed", || counted(&server, "hooksFailed") == 2);
    eventually("both are told", || server.stderr().matches("failed").count() >= 2);
    let log = server.stderr();
    assert!(log.contains("status 3") && log.contains("no such topic"), "{log}");
    assert!(log.contains("signal 15") && !log.contains('\x1b'), "{log}");
    assert_eq!(counted(&server, "hooksStarted"), 3);
}

#[test]
fn what_cannot_be_run_or_told_is_refused_at_the_start() {
    for (flags, part) in [
        (&["--on-event", "turn-dome", "true"][..], "`turn-dome` is not one of turn-done"),
        (&["--on-event", "turn-done", ""], "no command"),
        (&["--on-event", "turn-done", "[1]"], "JSON list"),
        (&["--on-event", "turn-done", "/nowhere/x"], "/nowhere/x is not an executable file"),
        (&["--on-event", "turn-done"], "needs NAMES and COMMAND"),
        (&["--on-event-tickets"], "needs --public-url"),
    ] {
        // Not by `flags`, which takes a second value for the first.
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
        let output = command
            .arg("--check-config")
            .args(flags)
            .env_clear()
            .env("HOME", "/")
            .output()
            .unwrap();
        let text = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{flags:?}: {text}");
        assert!(text.contains(part) && text.lines().count() == 1, "{flags:?}: {text}");
    }
}

/// A server that gives tickets out, as it stands behind a proxy.
struct Published {
    server: Server,
    token: String,
}

/// The host it is published under.
const HOST: &str = "claude.example";

/// A request that names this host.
fn named(
    server: &Server,
    host: &str,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Response {
    let mut text = format!("{method} {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n");
    for (name, value) in headers {
        text += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() {
        text += &format!("Content-Type: application/json\r\nContent-Length: {}\r\n", body.len());
    }
    let mut connection = Connection::open(server.address);
    connection.send(format!("{text}\r\n{body}").into_bytes());
    connection.response(method)
}

impl Published {
    #[track_caller]
    fn start(agent: &[&str]) -> Published {
        let options = Options::new();
        let (keeper, file) = (keeper(options.scratch()), options.scratch().join("tokens"));
        let token = support::add_token(&file, "me", "full");
        let mut flags = vec!["--token-file", &*file, "--public-url", "https://claude.example/base"];
        flags.extend_from_slice(&[
            "--on-event-tickets=1",
            "--on-event",
            "approval-waiting",
            &keeper,
        ]);
        let server = options.flags(agent).flags(&flags).start();
        Published { server, token }
    }

    fn send(&self, method: &str, path: &str, body: &Value) -> Response {
        let bearer = format!("Bearer {}", self.token);
        let body = if body.is_null() { String::new() } else { body.to_string() };
        named(&self.server, HOST, method, path, &[("Authorization", &bearer)], &body)
    }

    #[track_caller]
    fn create(&self) -> String {
        let body = json!({"workingDir": self.server.root()});
        let json = self.send("POST", "/api/sessions", &body).expect(201).json();
        json["sessionId"].as_str().unwrap().to_owned()
    }

    fn prompt(&self, session: &str, command: &str) {
        let path = format!("/api/session/{session}/prompt");
        self.send("POST", &path, &json!({"command": command})).expect(202);
    }

    fn open(&self, session: &str) -> usize {
        let path = format!("/api/session/{session}/approvals");
        self.send("GET", &path, &Value::Null).expect(200).json()["approvals"]
            .as_array()
            .unwrap()
            .len()
    }

    /// The event of the approval that is told next, of so many.
    #[track_caller]
    fn told(&self, count: usize) -> Value {
        eventually("the command is told", || told(&self.server.scratch).len() == count);
        told(&self.server.scratch).pop().unwrap()
    }

    /// As a telephone: through the proxy, without a token.
    fn tap(&self, method: &str, url: &str, more: &[(&str, &str)]) -> Response {
        let path = url.strip_prefix("https://claude.example").expect(url);
        let mut headers = vec![("X-Forwarded-For", "203.0.113.9")];
        headers.extend_from_slice(more);
        named(&self.server, HOST, method, path, &headers, "")
    }
}

#[test]
fn a_ticket_shows_its_approval_answers_it_once_and_is_nothing_afterwards() {
    let it = Published::start(&["--agent", "demo"]);
    let session = it.create();
    it.prompt(&session, "run tool: echo '<b>bold</b>'");
    let event = it.told(1);
    let url = |name: &str| event[name].as_str().unwrap_or_else(|| panic!("{event}")).to_owned();
    assert_eq!(url("url"), format!("https://claude.example/base/session/{session}"));
    let (allow, deny) = (url("allowUrl"), url("denyUrl"));
    assert_ne!(allow, deny);
    let secret = allow.split("?t=").nth(1).unwrap();
    assert_eq!(secret.len(), 64, "256 bits: {allow}");

    // Looking answers nothing, however often, by whatever makes previews.
    for method in ["GET", "HEAD", "GET"] {
        let page = it.tap(method, &allow, &[]).expect(200);
        for (name, value) in [
            ("cache-control", "no-store"),
            ("referrer-policy", "same-origin"),
            ("x-content-type-options", "nosniff"),
        ] {
            assert_eq!(page.header(name), Some(value), "{page}");
        }
        let policy = page.header("content-security-policy").unwrap();
        assert!(policy.contains("default-src 'none'") && policy.contains("form-action 'self'"));
        if method == "GET" {
            let text = page.text();
            assert!(text.contains("<button>Allow</button>"), "{text}");
            assert!(text.contains("&lt;b&gt;bold") && !text.contains("<b>"), "{text}");
            assert!(!text.contains(secret), "{text}");
        }
    }
    assert!(it.tap("GET", &deny, &[]).expect(200).text().contains("<button>Deny</button>"));
    assert_eq!(it.open(&session), 1);

    // What no ticket opens: another host, another site's page, anything else.
    let path = allow.strip_prefix("https://claude.example").unwrap();
    let strange = named(&it.server, "evil.example", "POST", path, &[], "");
    assert_eq!(strange.status, 421);
    let page = [("Origin", "https://evil.example"), ("Sec-Fetch-Site", "cross-site")];
    assert_eq!(it.tap("POST", &allow, &page).status, 403);
    assert_eq!(it.tap("GET", "https://claude.example/base/api/sessions", &[]).status, 401);
    assert_eq!(it.tap("DELETE", &allow, &[]).status, 405);
    assert_eq!(it.open(&session), 1);

    let own = [("Origin", "https://claude.example"), ("Sec-Fetch-Site", "same-origin")];
    let answered = it.tap("POST", &allow, &own).expect(200).text();
    assert!(answered.contains("This was allowed."), "{answered}");
    assert_eq!(it.open(&session), 0);
    for (method, url) in [("POST", &allow), ("POST", &deny), ("GET", &allow)] {
        let over = it.tap(method, url, &[]).expect(410).text();
        assert!(over.contains("this was allowed"), "{over}");
    }
    let path = format!("/api/session/{session}/history?limit=100");
    let history = it.send("GET", &path, &Value::Null).expect(200).json();
    let events = history["events"].as_array().unwrap();
    let resolved: Vec<&Value> =
        events.iter().filter(|one| one["event"] == "approval-resolved").collect();
    assert_eq!(resolved.len(), 1, "{history}");
    assert_eq!(resolved[0]["data"]["by"], "ticket");
    assert!(!it.server.stderr().contains(secret) && !it.server.stdout().contains(secret));
}

#[test]
fn a_ticket_dies_with_its_approval_and_guesses_are_limited() {
    let it = Published::start(&["--agent", "demo"]);
    let session = it.create();
    it.prompt(&session, "run tool: true");
    let deny = it.told(1)["denyUrl"].as_str().unwrap().to_owned();
    let path = format!("/api/session/{session}/interrupt");
    it.send("POST", &path, &json!({})).expect(200);
    eventually("it is withdrawn", || it.open(&session) == 0);
    let over = it.tap("POST", &deny, &[]).expect(410).text();
    assert!(over.contains("no longer asks"), "{over}");

    it.prompt(&session, "run tool: true");
    let deny = it.told(2)["denyUrl"].as_str().unwrap().to_owned();
    let guess = format!("https://claude.example/base/ticket?t={}", "0".repeat(64));
    for _ in 0..10 {
        assert_eq!(it.tap("POST", &guess, &[]).expect_error(404).1, "ticket_unknown");
    }
    let limited = it.tap("POST", &guess, &[]);
    assert!(limited.header("retry-after").is_some(), "{limited}");
    assert_eq!(limited.expect_error(429).1, "ticket_misses_max");
    // Who holds one is not kept out by that.
    assert!(it.tap("POST", &deny, &[]).expect(200).text().contains("denied"));

    // A question wants words, so there is nothing to tap.
    it.prompt(&session, "ask: Red? yes | no");
    let event = it.told(3);
    assert!(event["url"].is_string() && event["allowUrl"].is_null(), "{event}");
    assert!(it.send("DELETE", &format!("/api/session/{session}"), &Value::Null).status < 300);
    eventually("it is gone", || it.tap("POST", &deny, &[]).status == 410);
}

#[test]
fn an_agent_that_finds_a_ticket_cannot_use_it_here() {
    need("curl");
    let curl = "sh=lines:read -r url; curl -sS -X POST -H 'Host: claude.example' \"$url\"";
    let it = Published::start(&["--agent", "demo", "--agent", curl]);
    let session = it.create();
    it.prompt(&session, "run tool: true");
    let allow = it.told(1)["allowUrl"].as_str().unwrap().to_owned();
    let local = format!("http://{}", it.server.address);
    let url = allow.replace("https://claude.example/base", &local);
    let body = json!({"workingDir": it.server.root(), "agent": "sh"});
    let json = it.send("POST", "/api/sessions", &body).expect(201).json();
    let other = json["sessionId"].as_str().unwrap();
    let path = format!("/api/session/{other}/prompt?wait=30");
    it.send("POST", &path, &json!({"command": url})).expect(200);
    let path = format!("/api/session/{other}/history?limit=100");
    let said = it.send("GET", &path, &Value::Null).expect(200).text();
    assert!(said.contains("agent_self_access"), "{said}");
    assert_eq!(it.open(&session), 1);
    assert_eq!(it.tap("POST", &allow, &[]).status, 200);
}

/// A service: takes one request, returns its line and fields, and its JSON.
fn service(answer: &'static str) -> (String, std::thread::JoinHandle<(Vec<String>, Value)>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let asked = std::thread::spawn(move || {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream);
        let mut head = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line).unwrap();
            if line.trim().is_empty() {
                break;
            }
            head.push(line.trim().to_owned());
        }
        let length = head.iter().find_map(|line| {
            line.to_ascii_lowercase().strip_prefix("content-length: ").map(str::to_owned)
        });
        let mut body = vec![0; length.unwrap().parse().unwrap()];
        reader.read_exact(&mut body).unwrap();
        reader.into_inner().write_all(answer.as_bytes()).unwrap();
        (head, serde_json::from_slice(&body).unwrap())
    });
    (url, asked)
}

const TAKEN: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}";

/// Runs one of our scripts with this settings file; returns its status and standard error.
fn run_script(name: &str, settings: &str, event: &Value) -> (Option<i32>, String) {
    need("python3");
    let path = format!("{}/deploy/hooks/{name}", env!("CARGO_MANIFEST_DIR"));
    assert!(Path::new(&path).exists(), "{path}");
    let mut child = Command::new(&path)
        .arg(settings)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap())
        .env("PYTHONDONTWRITEBYTECODE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(event.to_string().as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

fn settings(scratch: &Scratch, text: &str) -> String {
    let path = scratch.join("settings");
    std::fs::write(&path, text).unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
    path
}

fn asked() -> Value {
    json!({"_eventType": "approval-required", "tool": "Bash", "title": "Run \u{202e}it",
        "input": {"command": "ls *_x_*"}, "url": "https://c.example/session/s",
        "allowUrl": "https://c.example/ticket?t=a", "denyUrl": "https://c.example/ticket?t=d"})
}

#[test]
fn ntfy_gets_buttons_that_post() {
    let scratch = Scratch::new();
    let (url, service) = service(TAKEN);
    let text = format!("# mine\nurl = {url}\ntopic = t-opic\ntoken = tk_x\n");
    assert_eq!(
        run_script("ntfy.py", &settings(&scratch, &text), &asked()),
        (Some(0), String::new())
    );
    let (head, body) = service.join().unwrap();
    assert_eq!(head[0], "POST / HTTP/1.1");
    assert!(head.contains(&"Authorization: Bearer tk_x".to_owned()), "{head:?}");
    assert_eq!(
        (&body["topic"], &body["click"]),
        (&json!("t-opic"), &json!("https://c.example/session/s"))
    );
    let action = json!({"action": "http", "label": "Allow", "method": "POST", "clear": true,
        "url": "https://c.example/ticket?t=a"});
    assert_eq!(body["actions"][0], action);
    assert_eq!(body["actions"].as_array().unwrap().len(), 2);
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("ls *_x_*") && !message.contains('\u{202e}'), "{message:?}");
}

#[test]
fn telegram_gets_buttons_that_open_the_page() {
    let scratch = Scratch::new();
    let (url, service) = service(TAKEN);
    let text = format!("api = {url}\ntoken = 1:A\nchat = 42\n");
    assert_eq!(
        run_script("telegram.py", &settings(&scratch, &text), &asked()),
        (Some(0), String::new())
    );
    let (head, body) = service.join().unwrap();
    assert_eq!(head[0], "POST /bot1:A/sendMessage HTTP/1.1");
    assert_eq!(body["chat_id"], "42");
    assert!(body["parse_mode"].is_null(), "text is text");
    let buttons = &body["reply_markup"]["inline_keyboard"][0];
    let want = json!([{"text": "Allow", "url": "https://c.example/ticket?t=a"},
        {"text": "Deny", "url": "https://c.example/ticket?t=d"},
        {"text": "Open", "url": "https://c.example/session/s"}]);
    assert_eq!(*buttons, want);
}

#[test]
fn gotify_gets_links_and_a_turns_words() {
    let scratch = Scratch::new();
    let (url, first) = service(TAKEN);
    let path = settings(&scratch, &format!("url = {url}/\ntoken = app\n"));
    assert_eq!(run_script("gotify.py", &path, &asked()), (Some(0), String::new()));
    let (head, body) = first.join().unwrap();
    assert_eq!(head[0], "POST /message HTTP/1.1");
    let key = head.iter().any(|line| line.eq_ignore_ascii_case("X-Gotify-Key: app"));
    assert!(key, "{head:?}");
    let message = body["message"].as_str().unwrap();
    assert!(message.contains("Deny: https://c.example/ticket?t=d"), "{message}");
    let click = &body["extras"]["client::notification"]["click"]["url"];
    assert_eq!(*click, "https://c.example/session/s");

    let (url, second) = service(TAKEN);
    let path = settings(&scratch, &format!("url = {url}\ntoken = app\n"));
    let done =
        json!({"_eventType": "prompt-completed", "result": "all done", "interrupted": false});
    assert_eq!(run_script("gotify.py", &path, &done).0, Some(0));
    let (_, body) = second.join().unwrap();
    assert_eq!(
        (&body["title"], &body["message"]),
        (&json!("The turn is done"), &json!("all done"))
    );
}

#[test]
fn a_script_fails_with_a_sentence_and_without_its_secret() {
    let scratch = Scratch::new();
    for name in ["ntfy.py", "telegram.py", "gotify.py"] {
        let (url, service) = service(
            "HTTP/1.1 403 No\r\nContent-Length: 7\r\nConnection: close\r\n\r\nno \u{1b}[1m",
        );
        let text = format!("url = {url}\napi = {url}\ntoken = secret\nchat = 1\ntopic = t\n");
        let path = settings(&scratch, &text);
        let (status, said) = run_script(name, &path, &asked());
        assert_eq!(status, Some(1), "{said}");
        assert!(said.contains("answered 403") && !said.contains("secret"), "{said}");
        assert!(!said.contains('\x1b') && said.lines().count() == 1, "{said:?}");
        drop(service.join().unwrap());

        // A redirect takes the secret nowhere.
        let (url, service) = self::service(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
        );
        let path = settings(
            &scratch,
            &text
                .replace(text.lines().next().unwrap(), &format!("url = {url}"))
                .replace("api = ", &format!("api = {url}\nold = ")),
        );
        assert!(run_script(name, &path, &asked()).1.contains("answered 302"));
        drop(service.join().unwrap());

        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        assert!(run_script(name, &path, &asked()).1.contains("chmod 600"));
        assert!(run_script(name, "/nowhere", &asked()).1.contains("/nowhere"));
        let path = settings(&scratch, "# empty\n");
        assert!(run_script(name, &path, &asked()).1.contains("does not say"));
    }
}
