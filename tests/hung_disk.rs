//! A file system that hangs, as a network's does: what needs it waits, and nothing else does.
//!
//! It is a pipe in a file's place. Whoever opens that waits for somebody at the other end, in the
//! kernel and without a way out, until the test comes and opens it.

mod support;

use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use support::{Connection, Server, eventually, http};

/// Puts a pipe where this file is. Returns what was in the file.
fn hang(path: &Path) -> Vec<u8> {
    let content = std::fs::read(path).unwrap();
    std::fs::remove_file(path).unwrap();
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
    content
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

fn large_file(directory: &Path) -> Option<PathBuf> {
    let paths = std::fs::read_dir(directory).ok()?.flatten().map(|entry| entry.path());
    paths.into_iter().find(|path| path.to_string_lossy().ends_with(".large.txt"))
}

#[test]
fn health_metrics_and_heartbeats_go_on_while_the_journals_hang() {
    let server = Server::demo(&["--ring-size", "64KiB"]);
    let session = server.create();
    let mut reader = server.stream_with(&session, "?heartbeat=5", &[]);
    reader.joined();
    let prompt = server.prompt(&session, "big 200000");
    reader.turn_end(&prompt);
    let told =
        reader.seen.iter().find(|event| event.data["large"].is_object()).expect("a large one");
    let href = told.data["large"]["href"].as_str().unwrap().to_owned();
    let directory = server.scratch.path().join("data/sessions").join(&session);
    let file = large_file(&directory).expect("its side file");
    assert!(of_processes(&server));
    let content = hang(&file);

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

    // It comes back.
    std::fs::OpenOptions::new().write(true).open(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    std::fs::write(&file, content).unwrap();
    assert!(hung.response("GET").status >= 200, "one way or the other");
    let told: Value = queued.response("POST").expect(202).json();
    let end = reader.turn_end(told["promptId"].as_str().unwrap());
    assert_eq!(end.data["result"], "later", "{}", end.data);
    server.get(&href).expect(200);
    assert!(of_processes(&server));
}
