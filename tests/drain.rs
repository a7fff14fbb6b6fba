//! Stopping: streams are told and ended between two frames, requests are answered, agents go down
//! the ladder, and the process ends with 0 and leaves nothing.

mod support;

use std::net::TcpStream;
use std::time::{Duration, Instant};
use support::{Connection, PATIENCE, Reader, Rig, Server, eventually, http};

#[test]
fn sigterm_tells_the_streams_ends_them_and_exits_with_zero() {
    for name in ["TERM", "INT"] {
        let mut server = Server::demo(&[]);
        let session = server.create();
        let mut readers: Vec<Reader> = (0..20).map(|_| server.stream(&session)).collect();
        for reader in &mut readers {
            reader.joined();
        }
        server.signal(name);
        for reader in &mut readers {
            let rest = reader.until_end();
            let farewell = rest.last().expect("a last frame");
            assert_eq!(farewell.name, "server-shutdown", "{}", reader.story());
            assert!(farewell.data["retryAfterMs"].as_u64() > Some(0), "{}", farewell.data);
            assert_eq!(farewell.id, None, "it is no event");
        }
        let status = server.wait(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(0), "{}", server.stderr());
        assert!(TcpStream::connect(server.address).is_err(), "nobody listens");
    }
}

#[test]
fn a_stop_in_the_middle_of_a_turn_ends_frames_whole_and_agents_all() {
    let mut server = Server::fake(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    server.prompt(&session, "slow 1000 20");
    reader.until_name("session-output");
    let start = Instant::now();
    server.signal("TERM");
    reader.until_end();
    assert_eq!(reader.count("server-shutdown"), 1, "{}", reader.story());
    let status = server.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    server.expect_nothing_left();
}

#[test]
fn a_stop_ends_deaf_agents_and_their_grandchildren_within_the_ladder() {
    let mut server = Server::fake(&["--ladder-eof", "300ms", "--ladder-term", "300ms"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    let path = server.scratch.join("pid");
    server.prompt(&session, &format!("ignore-term ;; grandchild {path} ;; say: x ;; silent"));
    reader.until_name("session-output");
    let grandchild = support::pid_from(&path);
    assert!(server.stop().success(), "{}", server.stderr());
    assert!(!support::is_alive(grandchild));
}

#[test]
fn a_commands_turn_that_the_stop_cut_short_is_told_as_that_however_the_command_ends() {
    // One that makes a good end of our signal, one that dies of it, one that ends badly.
    for end in ["trap 'exit 0' TERM;", "", "trap 'exit 3' TERM;"] {
        let agent = format!("lines:{end} echo begun; while :; do sleep 0.05; done");
        let mut rig = Rig::start(&["--agent", &agent]);
        let session = rig.create();
        rig.prompt(&session, "go");
        rig.stream(&session, "", None).until_name("session-output");
        rig.stop();
        let told = String::from_utf8(rig.journal(&session)).unwrap();
        let failed = told.lines().filter(|line| line.contains("\"_eventType\":\"prompt-failed\""));
        let codes = failed.map(|line| line.contains("\"code\":\"server_stopping\""));
        assert_eq!(codes.collect::<Vec<_>>(), [true], "{end}: {told}");
        assert!(!told.contains("session-error") && !told.contains("prompt-completed"), "{told}");
    }
}

#[test]
fn a_commands_turn_that_somebody_else_ended_is_no_failure_of_it() {
    for how in ["interrupt", "archive", "delete"] {
        let agent = "lines:trap 'exit 3' TERM; echo begun; while :; do sleep 0.05; done";
        let server = Server::start(&["--agent", agent]);
        let session = server.create();
        let mut reader = server.stream(&session);
        let prompt = server.prompt(&session, "go");
        reader.until_name("session-output");
        let path = format!("/api/session/{session}");
        match how {
            "delete" => server.send("DELETE", &path).expect(200),
            _ => server.post(&format!("{path}/{how}"), serde_json::json!({})).expect(200),
        };
        let end = reader.turn_end(&prompt);
        assert_eq!(end.name, "prompt-completed", "{how}: {}", end.data);
        assert_eq!(end.data["interrupted"], true, "{how}: {}", end.data);
        assert_eq!(reader.count("session-error"), 0, "{how}: {}", reader.story());
    }
}

#[test]
fn the_drain_deadline_cuts_and_says_so() {
    let mut server =
        Server::fake(&["--ladder-eof", "60s", "--ladder-term", "60s", "--drain-timeout", "1s"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    server.prompt(&session, "ignore-term ;; say: x ;; silent");
    reader.until_name("session-output");
    server.signal("TERM");
    let status = server.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", server.stderr());
    eventually("it says so", || server.stderr().contains("the drain was cut"));
    server.expect_nothing_left();
}

#[test]
fn a_second_signal_ends_it_at_once() {
    let mut server = Server::fake(&["--ladder-eof", "60s", "--ladder-term", "60s"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    server.prompt(&session, "ignore-term ;; say: x ;; silent");
    reader.until_name("session-output");
    server.signal("TERM");
    reader.until_end();
    let start = Instant::now();
    server.signal("TERM");
    server.wait(PATIENCE).expect("it ends");
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
    server.expect_nothing_left();
}

#[test]
fn the_drain_delay_is_business_as_usual_but_not_ready() {
    let mut server = Server::demo(&["--drain-delay", "3s"]);
    server.get("/ready").expect(200);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    server.signal("TERM");
    support::eventually("/ready says no", || server.get("/ready").status == 503);
    server.get("/health").expect(200);
    let prompt = server.prompt(&session, "say: still open");
    assert_eq!(reader.answer(&prompt).trim(), "still open");
    reader.until_end();
    assert_eq!(server.wait(PATIENCE).expect("it ends").code(), Some(0));
}

#[test]
fn connections_that_are_idle_or_half_way_do_not_hold_it_up() {
    let mut server = Server::demo(&[]);
    let mut idle = Connection::open(server.address);
    idle.send(http::encode(server.address, "GET", "/health", &[], b""));
    idle.response("GET").expect(200);
    let mut half = Connection::open(server.address);
    half.send("GET /health HTTP/1.1\r\nHo");
    let silent = Connection::open(server.address);
    let start = Instant::now();
    assert_eq!(server.stop().code(), Some(0));
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    idle.expect_end();
    drop((half, silent));
}

#[test]
fn clients_that_wait_are_answered_told_that_it_ends_and_do_not_hold_it_up() {
    let mut server = Server::fake(&["--drain-timeout", "10m"]);
    let session = server.create();
    let polls = ["/api/events/poll", &format!("/api/session/{session}/events/poll")].map(|path| {
        http::encode(
            server.address,
            "GET",
            &format!("{path}?wait=60&types=session-closed"),
            &[],
            b"",
        )
    });
    let path = format!("/api/session/{session}/prompt?wait=60");
    let kind = [("Content-Type", "application/json")];
    let body = br#"{"command":"slow 1000 20"}"#;
    let prompt = http::encode(server.address, "POST", &path, &kind, body);
    // As browsers and pools do, they keep their connections.
    let mut clients: Vec<Connection> = polls
        .iter()
        .chain([&prompt])
        .map(|request| {
            let mut client = Connection::open(server.address);
            client.send(request);
            client
        })
        .collect();
    eventually("all of them wait", || {
        let text = server.get("/metrics").expect(200).text();
        text.contains("\nsidestream_requests_waiting 3\n")
    });
    server.signal("TERM");
    for client in &mut clients {
        let answer = client.response("GET");
        assert!(matches!(answer.status, 200 | 202), "{answer}");
        assert_eq!(answer.header("connection"), Some("close"), "{answer}");
    }
    let status = server.wait(PATIENCE).expect("it ends, long before its time is up");
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
}

#[test]
fn a_reader_that_does_not_read_does_not_hold_it_up() {
    let mut server = Server::fake(&["--ring-size", "16MiB", "--drain-timeout", "5s"]);
    let session = server.create();
    let stalled = server.stream(&session);
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "flood 8000 1000");
    reader.turn_end(&prompt);
    let start = Instant::now();
    server.signal("TERM");
    server.wait(PATIENCE).expect("it ends");
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
    drop(stalled);
}

#[test]
fn a_cursor_of_another_start_of_the_server_is_told_as_a_gap() {
    let mut first = Server::demo(&[]);
    let session = first.create();
    let mut reader = first.stream(&session);
    reader.joined();
    let cursor = reader.ids().last().unwrap().clone();
    first.stop();
    let second = Server::demo(&[]);
    let other = second.create();
    let mut reader = second.stream_with(&other, "", &[("Last-Event-ID", &cursor)]);
    let connected = reader.joined();
    assert_eq!(connected.data["resume"], "gap", "{}", connected.data);
    assert!(!reader.ids().contains(&cursor), "no id is issued twice");
}

#[test]
fn a_reader_that_takes_nothing_is_cut_in_time_and_the_server_ends_with_zero() {
    // The others' time is 8 s; whoever takes nothing has a quarter of it, not its usual minute.
    let flags = ["--drain-timeout", "8s", "--write-stall", "1m", "--ring-size", "8MiB"];
    let mut server = Server::fake(&[&flags[..], &["--all-ring-size", "8MiB"]].concat());
    let session = server.create();
    let mut taker = server.stream(&session);
    taker.joined();
    let _stalled = server.stream(&session);
    server.prompt(&session, "flood 20000 300");
    taker.until_name("prompt-completed");
    server.signal("TERM");
    taker.until_end();
    let status = server.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
}

/// Leaves a process behind which is in no group of ours and has nothing of our environment. It
/// writes its number into the file that it is told.
const DAEMON: &str = r#"
    setsid env -i /bin/sh -c 'echo $$ >"$0"; exec sleep 600' "$file" >/dev/null 2>&1 </dev/null &
    while ! [ -s "$file" ]; do sleep 0.05; done; echo left"#;

/// A server whose agents start a daemon of their own and end, but for the one that is told to hold;
/// the number of that one's daemon, and its session.
fn server_with_a_daemon(flags: &[&str]) -> (Server, u32, String) {
    let agent = format!(
        "lines:trap '' TERM; read word; file=$PWD/daemon.$word; {DAEMON}
        while [ $word = hold ]; do sleep 0.1; done"
    );
    let server = Server::start(&[&["--agent", &*agent, "--ladder-eof", "300ms"], flags].concat());
    let session = server.create();
    let mut reader = server.stream(&session);
    server.prompt(&session, "hold\n");
    reader.until_name("session-output");
    let daemon = support::pid_from(&server.scratch.join("root/daemon.hold"));
    (server, daemon, session)
}

#[test]
fn what_no_longer_looks_like_an_agents_own_ends_with_the_server() {
    let in_order = ["--ladder-term", "300ms"];
    let cut = ["--ladder-term", "60s", "--drain-timeout", "1s"];
    for (flags, code) in [(&in_order[..], 0), (&cut[..], 1)] {
        let (mut server, daemon, _) = server_with_a_daemon(flags);
        let other = server.create();
        let mut reader = server.stream(&other);
        let prompt = server.prompt(&other, "go\n");
        assert_eq!(reader.turn_end(&prompt).name, "prompt-completed");
        let beside = support::pid_from(&server.scratch.join("root/daemon.go"));
        assert!(support::is_alive(beside), "while an agent lives, it may be that one's");
        server.signal("TERM");
        let status = server.wait(PATIENCE).expect("it ends");
        let left: Vec<u32> =
            [daemon, beside].into_iter().filter(|pid| support::is_alive(*pid)).collect();
        left.iter().for_each(|pid| support::signal(*pid, "KILL"));
        assert_eq!(left, [0; 0], "of {daemon} and {beside}\n{}", server.stderr());
        assert_eq!(status.code(), Some(code), "{}", server.stderr());
    }
}

#[test]
fn what_no_living_agent_can_have_left_is_ended_while_the_server_goes_on() {
    let (server, daemon, session) = server_with_a_daemon(&["--ladder-term", "300ms"]);
    assert!(support::is_alive(daemon));
    server.close(&session);
    support::eventually("the daemon's end", || !support::is_alive(daemon));
    server.get("/ready").expect(200);
}
