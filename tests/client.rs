//! The terminal's side, as somebody at a prompt uses it: the real binary against a real server.

mod support;

use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, channel};
use support::{Options, PATIENCE, Server, eventually, signal};

/// The binary with these words, and nothing of our environment.
fn command(url: &str, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.args(words).env_clear().env("SIDESTREAM_URL", url).env("TERM", "xterm");
    command.env("PATH", std::env::var("PATH").unwrap_or_default());
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn url(server: &Server) -> String {
    format!("http://{}", server.address)
}

/// Runs it to its end; returns status, standard output and standard error.
fn run(url: &str, words: &[&str]) -> (i32, String, String) {
    told(command(url, words).output().unwrap())
}

fn told(output: Output) -> (i32, String, String) {
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    (output.status.code().expect("an exit"), text(output.stdout), text(output.stderr))
}

/// The output of a run that must end well.
#[track_caller]
fn out(url: &str, words: &[&str]) -> String {
    let (status, out, err) = run(url, words);
    assert_eq!(status, 0, "{words:?}: {out}{err}");
    out
}

/// A command that goes on, and its lines as they come.
struct Running {
    child: Child,
    lines: Receiver<String>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        let mut child = command.spawn().unwrap();
        let (sender, lines) = channel();
        let (out, err) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let again = sender.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        std::thread::spawn(move || {
            BufReader::new(err).lines().map_while(Result::ok).try_for_each(|line| again.send(line))
        });
        Running { child, lines }
    }

    /// The next line that has this in it; those before it are returned too.
    #[track_caller]
    fn until(&self, part: &str) -> Vec<String> {
        let mut seen = Vec::new();
        loop {
            let Ok(line) = self.lines.recv_timeout(PATIENCE) else {
                panic!("no `{part}` in {seen:#?}");
            };
            seen.push(line);
            if seen.last().unwrap().contains(part) {
                return seen;
            }
        }
    }

    #[track_caller]
    fn status(mut self) -> i32 {
        let mut status = None;
        eventually("it ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        status.unwrap().code().expect("an exit")
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_session_is_made_asked_watched_and_listed_from_a_terminal() {
    let server = Server::demo(&[]);
    let url = url(&server);
    let root = server.root();
    let id = out(&url, &["new", &root, "--name", "mine"]).trim().to_owned();
    assert!(id.starts_with("session-"), "{id}");

    let tail = Running::start(command(&url, &["tail", &id]));
    let (status, answer, notes) = run(&url, &["prompt", "last", "--wait", "say: two", "words"]);
    assert_eq!((status, &*answer), (0, "two words\n"), "{notes}");
    assert!(notes.contains("-- done"), "{notes}");
    let seen = tail.until("-- done");
    assert!(seen.contains(&"> say: two words".to_owned()), "{seen:?}");
    assert!(seen.contains(&"two words".to_owned()), "{seen:?}");

    let list = out(&url, &["sessions"]);
    assert!(list.contains(&id) && list.contains("mine") && list.contains("idle"), "{list}");
    let row: Value = serde_json::from_str(&out(&url, &["sessions", "--json"])).unwrap();
    assert_eq!((&row["sessionId"], &row["name"]), (&json!(id), &json!("mine")));

    // A part of the id that one session alone has will do.
    let part = &id[id.len() - 6..];
    assert_eq!(out(&url, &["interrupt", part]), "nothing was running\n");
    let (status, _, notes) = run(&url, &["interrupt", "nobody"]);
    assert_eq!(status, 1);
    assert!(notes.contains("there is no session `nobody`"), "{notes}");
    server.close(&id);
    assert_eq!(tail.status(), 0, "it ends with its session");
}

#[test]
fn a_prompt_is_read_from_stdin_and_its_failure_is_the_exit_status() {
    let server = Server::demo(&[]);
    let url = url(&server);
    let id = server.create();
    let mut child =
        command(&url, &["prompt", &id, "--wait"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(b"say: from stdin\n").unwrap();
    let (status, answer, _) = told(child.wait_with_output().unwrap());
    assert_eq!((status, &*answer), (0, "from stdin\n"));

    let (status, _, notes) = run(&url, &["prompt", &id, "--wait", "error 400"]);
    assert_eq!(status, 1, "{notes}");
    assert!(notes.contains("-- failed"), "{notes}");

    let events = out(&url, &["prompt", &id, "--wait", "--json", "say: x"]);
    let events: Vec<Value> =
        events.lines().map(|line| serde_json::from_str(line).expect(line)).collect();
    assert_eq!(events[0]["event"], "prompt-queued", "{events:?}");
    assert_eq!(events.last().unwrap()["event"], "prompt-completed", "{events:?}");
    assert!(events.iter().all(|event| event["id"].is_string()), "{events:?}");

    let waiting = Running::start(command(&url, &["prompt", &id, "--wait", "slow 600 100"]));
    eventually("it runs", || server.status(&id) == "running");
    assert_eq!(out(&url, &["interrupt", &id]), "interrupted\n");
    waiting.until("-- interrupted");
    assert_eq!(waiting.status(), 1);
    assert_eq!(run(&url, &["prompt", &id]).0, 1, "no words at all");
}

#[test]
fn an_approval_is_shown_to_the_letter_and_answered_for_exactly_that() {
    let server = Server::fake(&[]);
    let url = url(&server);
    let id = server.create();
    assert_eq!(out(&url, &["approve"]), "");
    let asked = "{\"command\":\"printf 'a\\n\\u001b[31m\\u202e'\"}";
    let waiting = {
        let words = format!("approve Bash {asked}");
        Running::start(command(&url, &["prompt", &id, "--wait", &words]))
    };
    waiting.until("allow|deny");
    let list = out(&url, &["approve"]);
    assert!(list.contains("    | printf 'a\n    | \\x1b[31m\\u{202e}'\n"), "{list}");
    assert!(!list.contains(['\x1b', '\u{202e}']), "{list:?}");
    let line: Value = serde_json::from_str(&out(&url, &["approve", &id, "--json"])).unwrap();
    let approval = line["approval"]["approvalId"].as_str().unwrap();
    let hash = line["approval"]["inputHash"].as_str().unwrap();
    assert!(list.contains(&format!("approve {id} {approval} allow|deny --hash {hash}")), "{list}");

    let (status, _, notes) = run(&url, &["approve", &id, approval, "allow", "--hash", "00000000"]);
    assert_eq!(status, 1);
    assert!(notes.contains("another one than you saw"), "{notes}");
    let (status, _, notes) = run(&url, &["approve", &id, "approval-none", "allow"]);
    assert_eq!((status, notes.contains("no approval `approval-none` is open")), (1, true));
    let answered = out(&url, &["approve", &id, approval, "deny", "--hash", hash]);
    assert!(answered.contains("answered: deny") && answered.contains(hash), "{answered}");
    let (status, _, notes) = run(&url, &["approve", &id, approval, "allow"]);
    assert_eq!((status, notes.contains("is open")), (1, true), "{notes}");
    assert_eq!(waiting.status(), 0);
}

#[test]
fn questions_are_answered_in_their_order() {
    let server = Server::demo(&[]);
    let url = url(&server);
    let id = server.create();
    let waiting = Running::start(command(&url, &["prompt", &id, "--wait", "ask: Red? yes | no"]));
    waiting.until("allow|deny");
    let (status, _, notes) =
        run(&url, &["approve", &id, "approval", "allow", "--answer=a", "--answer=b"]);
    assert_eq!((status, notes.contains("1 questions")), (1, true), "{notes}");
    out(&url, &["approve", &id, "approval", "allow", "--answer", "yes"]);
    assert_eq!(waiting.status(), 0);
}

#[test]
fn a_unix_socket_and_a_token_do_as_well() {
    let options = Options::new();
    let (socket, file) = (options.scratch().join("socket"), options.scratch().join("tokens"));
    let token = support::add_token(&file, "me", "full");
    let listen = format!("unix:{socket}");
    let flags = ["--agent", "demo", "--listen", &listen, "--token-file", &file];
    let server = options.flags(&flags).start();
    let (status, _, notes) = run(&listen, &["sessions"]);
    assert_eq!((status, notes.contains("token add")), (1, true), "{notes}");

    let with = told(
        command(&listen, &["new", &server.root()])
            .env("SIDESTREAM_TOKEN", &token)
            .output()
            .unwrap(),
    );
    assert_eq!(with.0, 0, "{}", with.2);
    let kept = server.scratch.join("kept");
    std::fs::write(&kept, format!("{token}\n")).unwrap();
    let tcp = url(&server);
    assert!(out(&tcp, &["sessions", "--token-from", &kept]).contains(with.1.trim()));
    let (status, _, notes) = run(&tcp, &["sessions", "--token-from", "/nowhere"]);
    assert_eq!((status, notes.contains("/nowhere")), (1, true), "{notes}");
}

#[test]
fn a_tail_and_a_waiting_prompt_go_on_after_the_server_was_killed() {
    let options = Options::new();
    let listen = format!("unix:{}", options.scratch().join("socket"));
    let options = options.flags(&["--agent", "demo", "--listen", &listen]);
    let start = || {
        let mut child = options.command().spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        while !lines.next().expect("it starts").unwrap().starts_with("listening on unix:") {}
        // Nobody reads what else it says.
        std::thread::spawn(move || lines.for_each(drop));
        let mut errors = child.stderr.take().unwrap();
        std::thread::spawn(move || std::io::copy(&mut errors, &mut std::io::sink()));
        child
    };
    let mut server = start();
    let id = out(&listen, &["new", &options.scratch().join("root")]).trim().to_owned();
    let tail = Running::start(command(&listen, &["tail", &id]));
    let everything = Running::start(command(&listen, &["tail", "--json"]));
    out(&listen, &["prompt", &id, "--wait", "say: before"]);
    tail.until("before");
    everything.until("prompt-completed");
    let waiting = Running::start(command(&listen, &["prompt", &id, "--wait", "slow 1000 50"]));
    tail.until("> slow 1000 50");
    everything.until("prompt-started");

    server.kill().unwrap();
    server.wait().unwrap();
    let mut server = start();
    waiting.until("restart");
    assert_eq!(waiting.status(), 1, "the prompt failed with its server");
    tail.until("-- failed");
    out(&listen, &["prompt", &id, "--wait", "say: after"]);
    let seen = tail.until("after");
    assert!(!seen.iter().any(|line| line == "before"), "nothing twice: {seen:?}");
    let seen = everything.until("\"after\"");
    let failed =
        |line: &&String| line.contains("prompt-failed") && line.contains("server_restarted");
    assert_eq!(seen.iter().filter(failed).count(), 1, "{seen:?}");
    signal(server.id(), "TERM");
    assert!(server.wait().unwrap().success());
}

#[test]
fn a_cut_stream_is_gone_on_with_at_the_last_whole_event() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let tail = Running::start(command(&url, &["tail", "session-a-b", "--after", "e-1"]));
    let (mut asked, mut paths) = (Vec::new(), Vec::new());
    for answer in [
        // A chunked body that breaks in the middle of an event.
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n\
         59\r\nretry: 10\nevent: connected\ndata: {}\n\nid: e-2\nevent: session-error\ndata: {\"error\":\"x\"}\n\nid\r\n",
        // A proxy whose server is not there, which passes.
        "HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n",
        "HTTP/1.1 200 OK\r\n\r\nevent: connected\ndata: {\"resume\":\"gap\"}\n\n\
         id: e-3\nevent: session-error\ndata: {\"error\":\"evil \\u001b[2J\"}\n\n",
        // No way back from here.
        "HTTP/1.1 403 No\r\nContent-Length: 30\r\n\r\n{\"error\":\"not you\",\"code\":\"c\"}",
    ] {
        let mut accepted = None;
        eventually("it comes back", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (mut stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines();
        let head: Vec<String> =
            lines.by_ref().map(Result::unwrap).take_while(|line| !line.is_empty()).collect();
        let id = head.iter().find_map(|line| line.strip_prefix("Last-Event-ID: "));
        asked.push(id.unwrap_or_default().to_owned());
        paths.push(head[0].clone());
        stream.write_all(answer.as_bytes()).unwrap();
    }
    let seen = tail.until("not you").join("\n");
    assert_eq!(asked, ["e-1", "e-2", "e-2", "e-3"], "{seen}");
    assert!(paths.iter().all(|line| line.contains("/events?heartbeat=15 ")), "{paths:?}");
    for part in ["! x", "some events are gone", "! evil \\x1b[2J", "not you (403)"] {
        assert!(seen.contains(part), "`{part}` in {seen}");
    }
    assert_eq!(tail.status(), 1);
}

/// Three heartbeats that do not come are a break, whatever the connection looks like.
#[test]
fn a_stream_that_falls_silent_is_left_for_another() {
    const HEARTBEAT_S: u64 = 5;
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.set_nonblocking(true).unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let words = ["tail", "session-a-b", "--after", "e-1", "--heartbeat", "5s"];
    let tail = Running::start(command(&url, &words));
    // Asked for one by one, each with the line that it asks with.
    let next = || {
        let mut accepted = None;
        eventually("it asks", || {
            accepted = listener.accept().ok();
            accepted.is_some()
        });
        let (stream, _) = accepted.unwrap();
        stream.set_nonblocking(false).unwrap();
        let mut lines = BufReader::new(stream.try_clone().unwrap()).lines().map(Result::unwrap);
        let head: Vec<String> = lines.by_ref().take_while(|line| !line.is_empty()).collect();
        (stream, head.join("\n"))
    };
    let (mut silent, head) = next();
    assert!(head.starts_with("GET /api/session/session-a-b/events?heartbeat=5 "), "{head}");
    let answer = "HTTP/1.1 200 OK\r\n\r\nretry: 10\nevent: connected\ndata: {}\n\n\
                  id: e-2\nevent: session-error\ndata: {\"error\":\"the last word\"}\n\n";
    silent.write_all(answer.as_bytes()).unwrap();
    tail.until("the last word");
    let start = std::time::Instant::now();
    // The first connection stays open all the while.
    let (mut again, head) = next();
    let waited = start.elapsed().as_secs_f64();
    assert!(waited > 2.5 * HEARTBEAT_S as f64, "{waited} s are not three heartbeats");
    assert!(head.contains("\nLast-Event-ID: e-2"), "{head}");
    tail.until("the connection is lost, coming back");
    again.write_all(b"HTTP/1.1 403 No\r\nContent-Length: 0\r\n\r\n").unwrap();
    assert_eq!(tail.status(), 1);
    drop(silent);

    for bad in ["4s", "61s", "5500ms", "x"] {
        let (status, _, notes) = run(&url, &["tail", "--heartbeat", bad]);
        assert_eq!((status, notes.contains("5s to 60s")), (2, true), "{notes}");
    }
}

#[test]
fn a_server_that_is_not_there_is_a_sentence_at_once() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let url = format!("http://127.0.0.1:{port}");
    for words in [&["sessions"][..], &["tail"], &["prompt", "session-a-b", "--wait", "x"]] {
        let (status, out, notes) = run(&url, words);
        assert_eq!((status, &*out), (1, ""), "{words:?}");
        assert!(notes.contains("is a sidestream running there?"), "{notes}");
    }
    let (status, _, notes) = run("nonsense", &["sessions"]);
    assert_eq!((status, notes.contains("SIDESTREAM_URL: `nonsense`")), (2, true), "{notes}");
}

#[test]
fn colour_is_for_terminals_and_a_reader_that_leaves_ends_us_quietly() {
    support::need("script");
    let server = Server::demo(&[]);
    let url = url(&server);
    server.create();
    assert!(!out(&url, &["sessions"]).contains('\x1b'));
    let program = env!("CARGO_BIN_EXE_sidestream");
    let on_a_terminal = |variables: &[(&str, &str)]| {
        let id = server.create();
        server.close(&id);
        let line = format!("{program} prompt last --wait say: x");
        let mut command = Command::new("script");
        command.args(["-qec", &line, "/dev/null"]).env_clear().env("SIDESTREAM_URL", &url);
        command.env("PATH", std::env::var("PATH").unwrap()).env("TERM", "xterm");
        command.envs(variables.iter().copied()).stdin(Stdio::null());
        String::from_utf8(command.output().unwrap().stdout).unwrap()
    };
    assert!(on_a_terminal(&[]).contains("\x1b[2m-- done"));
    for plain in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let text = on_a_terminal(&[plain]);
        assert!(text.contains("-- done") && !text.contains('\x1b'), "{text:?}");
    }

    let mut tail = command(&url, &["tail"]).spawn().unwrap();
    drop(tail.stdout.take()); // As `head` does when it has enough.
    server.await_streams(1);
    server.create();
    let mut status = None;
    eventually("it ends", || {
        status = tail.try_wait().unwrap();
        status.is_some()
    });
    let mut notes = String::new();
    tail.stderr.take().unwrap().read_to_string(&mut notes).unwrap();
    assert_eq!((status.unwrap().code(), &*notes), (Some(0), ""));
}

#[test]
fn every_subcommand_has_its_help() {
    let help = out("http://127.0.0.1:1", &["--help"]);
    for word in ["sessions", "new", "prompt", "tail", "approve", "interrupt"] {
        let own = out("http://127.0.0.1:1", &[word, "--help"]);
        assert!(own.contains(&format!("sidestream {word}")), "{own}");
        assert!(help.contains(&own), "the whole help has it too");
    }
    let (status, _, notes) = run("http://127.0.0.1:1", &["tail", "--jsn"]);
    assert_eq!((status, notes.contains("did you mean --json?")), (2, true), "{notes}");
    let (status, _, notes) = run("http://127.0.0.1:1", &["tial"]);
    assert_eq!((status, notes.contains("did you mean tail?")), (2, true), "{notes}");
}
