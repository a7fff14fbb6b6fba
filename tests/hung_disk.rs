//! A file system that hangs, as a network's does: what needs it waits, and nothing else does, nor
//! for longer than the end of the server may take.
//!
//! It is a library that is loaded into the server (`fixtures/hang.c`): whoever opens a file of a
//! certain name waits, without a way out, until the test says otherwise.

mod support;

use serde_json::{Value, json};
use std::process::Command;
use std::time::{Duration, Instant};
use support::{Connection, Options, PATIENCE, Reader, Server, eventually, fixture, http, need};

/// Where files whose names end like this hang: as long as the file `hangs` is in the scratch
/// directory.
fn hanging(options: Options, at: &str) -> Options {
    need("cc");
    let library = options.scratch().join("hang.so");
    let flags = ["-shared", "-fPIC", "-O1", "-o", &library, &fixture("hang.c")];
    assert!(Command::new("cc").args(flags).status().unwrap().success());
    let mark = options.scratch().join("hangs");
    options.env("LD_PRELOAD", &library).env("HANG_AT", at).env("HANG_WHILE", &mark)
}

fn hang(server: &Server) {
    std::fs::write(server.scratch.join("hangs"), "").unwrap();
}

fn come_back(server: &Server) {
    std::fs::remove_file(server.scratch.join("hangs")).unwrap();
}

/// A server, a session in it, its stream, and where its large field is to be had.
fn with_large_field(flags: &[&str]) -> (Server, String, Reader, String) {
    let options = Options::new().flags(&["--agent", "demo", "--ring-size", "64KiB"]).flags(flags);
    let server = hanging(options, ".large.txt").start();
    let session = server.create();
    let mut reader = server.stream_with(&session, "?heartbeat=5", &[]);
    reader.joined();
    let prompt = server.prompt(&session, "big 200000");
    reader.turn_end(&prompt);
    let told =
        reader.seen.iter().find(|event| event.data["large"].is_object()).expect("a large one");
    let href = told.data["large"]["href"].as_str().unwrap().to_owned();
    (server, session, reader, href)
}

/// Whoever looks after the server is answered. What the same thread asks the kernel for is left out.
#[track_caller]
fn expect_alive(server: &Server) {
    assert_eq!(server.get("/health").expect(200).json()["status"], "ok");
    server.metrics();
    assert!(!of_processes(server));
}

/// Whether the metrics have what the kernel says of our processes.
#[track_caller]
fn of_processes(server: &Server) -> bool {
    let text = server.get("/metrics").expect(200).text();
    assert!(text.contains("\nsidestream_connections "), "{text}");
    text.contains("\nprocess_resident_memory_bytes ")
}

#[test]
fn health_metrics_and_heartbeats_go_on_while_the_journals_hang() {
    let (server, session, mut reader, href) = with_large_field(&[]);
    assert!(of_processes(&server));
    hang(&server);

    // This hangs the thread of the journals, and with it whatever has to be written down.
    let (mut hung, mut queued) =
        (Connection::open(server.address), Connection::open(server.address));
    hung.send(http::encode(server.address, "GET", &href, &[], b""));
    let path = format!("/api/session/{session}/prompt");
    let body = json!({"command": "say: later"}).to_string();
    let json = [("Content-Type", "application/json")];
    eventually("it hangs", || !of_processes(&server));
    expect_alive(&server);
    server.rows();
    server.get(&format!("/api/session/{session}/status")).expect(200);
    queued.send(http::encode(server.address, "POST", &path, &json, body.as_bytes()));
    expect_alive(&server);
    reader.until_name("heartbeat");
    reader.until_name("heartbeat");
    let none = queued.word_within(Duration::from_millis(1));
    assert_eq!(none, None, "what is not written down is not told");

    come_back(&server);
    hung.response("GET").expect(200);
    let told: Value = queued.response("POST").expect(202).json();
    let end = reader.turn_end(told["promptId"].as_str().unwrap());
    assert_eq!(end.data["result"], "later", "{}", end.data);
    server.get(&href).expect(200);
    assert!(of_processes(&server));
}

/// Hangs the thread of the journals, with nobody left who waits for it.
fn hang_for_nobody(server: &Server, href: &str) {
    hang(server);
    let mut hung = Connection::open(server.address);
    hung.send(http::encode(server.address, "GET", href, &[], b""));
    eventually("it hangs", || !of_processes(server));
}

#[test]
fn the_end_waits_for_journals_that_hang_as_long_as_the_drain_may_take_and_says_so() {
    let (mut server, _, reader, href) = with_large_field(&["--drain-timeout", "3s"]);
    hang_for_nobody(&server, &href);
    drop(reader);
    let start = Instant::now();
    server.signal("TERM");
    let status = server.wait(PATIENCE).expect("it ends");
    assert_eq!(status.code(), Some(1), "{}", server.stderr());
    assert!(start.elapsed() < Duration::from_secs(15), "{:?}", start.elapsed());
    eventually("it says so", || server.stderr().contains("the drain was cut"));
    assert!(server.stderr().contains("is not done"), "{}", server.stderr());
    server.expect_nothing_left();
}

#[test]
fn a_second_signal_ends_the_wait_for_journals_that_hang() {
    // With an agent its last events wait as well; without one nothing is left but the disk.
    for suspended in [false, true] {
        let flags = ["--drain-timeout", "10m", "--suspend-after", "100ms"];
        let (mut server, session, reader, href) =
            with_large_field(if suspended { &flags } else { &flags[..2] });
        eventually("it is as it should be", || {
            (server.status(&session) == "suspended") == suspended
        });
        hang_for_nobody(&server, &href);
        drop(reader);
        server.signal("TERM");
        assert!(server.wait(Duration::from_secs(1)).is_none(), "it waits: {}", server.stderr());
        server.signal("TERM");
        let status = server.wait(PATIENCE).expect("it ends");
        assert_eq!(status.code(), Some(1), "{}", server.stderr());
        server.expect_nothing_left();
    }
}

#[test]
fn a_directory_that_hangs_takes_no_place_for_ever_from_those_that_start() {
    need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let flags = ["--agent", &agent, "--agent", "quick=lines:cat", "--start-timeout", "2s"];
    let options = Options::new().flags(&flags).flags(&["--agents-starting-max", "1"]);
    let server = hanging(options, ".mcp.json").start();
    let (slow, quick) = (server.create(), server.create_as(json!({"agent": "quick"})));
    let quick = quick["id"].as_str().expect("an id").to_owned();
    let (mut told, mut other) = (server.stream(&slow), server.stream(&quick));
    hang(&server);
    let lost = server.prompt(&slow, "say: never");
    let prompt = server.prompt(&quick, "it goes on");
    other.turn_end(&prompt);
    let end = told.turn_end(&lost);
    assert_eq!(end.text("code"), "agent_failed_to_start", "{}", end.data);
    assert!(end.text("error").contains("could not be looked at"), "{}", end.data);
    // What comes too late starts nothing that nobody waits for; the next prompt looks anew.
    come_back(&server);
    let prompt = server.prompt(&slow, "say: now");
    assert_eq!(told.answer(&prompt).trim(), "now");
}
