//! Many readers, slow readers, dead readers: everyone gets everything once and in order, or is told
//! so by the end of the connection; and nobody waits for anybody.

mod support;

use serde_json::json;
use std::io::Read;
use std::net::Shutdown;
use std::time::Duration;
use support::{Next, Reader, Server, allow_descriptors, eventually};

#[test]
fn a_thousand_readers_get_every_event_once_and_in_order() {
    const READERS: usize = 1000;
    allow_descriptors(4096);
    let server = Server::demo(&[]);
    let session = server.create();
    let mut readers: Vec<Reader> = (0..READERS).map(|_| server.stream(&session)).collect();
    server.await_streams(READERS as u64);
    let metrics = server.metrics();
    assert_eq!(metrics["sse"]["sessions"], json!({&session: READERS}));

    let prompts =
        ["slow 30 10", "say 200 words", "deltas 300"].map(|text| server.prompt(&session, text));
    let last = &prompts[2];
    let ids: Vec<Vec<String>> = std::thread::scope(|scope| {
        let workers: Vec<_> = readers
            .chunks_mut(READERS / 4)
            .map(|chunk| {
                scope.spawn(move || {
                    let mut ids = Vec::new();
                    for reader in chunk {
                        reader.turn_end(last);
                        ids.push(reader.ids());
                    }
                    ids
                })
            })
            .collect();
        workers.into_iter().flat_map(|worker| worker.join().unwrap()).collect()
    });
    assert_eq!(ids.len(), READERS);
    assert!(ids[0].len() > 20, "{} events", ids[0].len());
    for (n, other) in ids.iter().enumerate() {
        assert_eq!(*other, ids[0], "reader {n} saw what reader 0 saw");
    }
    for prompt in &prompts {
        let text = readers[0].output(prompt, "stdout");
        assert_eq!(readers[READERS - 1].output(prompt, "stdout"), text);
    }
    assert_eq!(readers[0].output(last, "stdout"), "x ".repeat(300));
    drop(readers);
    server.await_streams(0);
}

#[test]
fn a_reader_that_never_reads_is_cut_and_the_others_are_unaffected() {
    let server = Server::fake(&["--ring-size", "32MiB", "--write-stall", "2s"]);
    let session = server.create();
    let mut stalled = server.stream(&session);
    let mut healthy = server.stream(&session);
    healthy.joined();
    server.await_streams(2);
    let descriptors = server.descriptors();
    // Twelve megabytes: more than any socket buffer here, less than the ring.
    let prompt = server.prompt(&session, "flood 12000 1000");
    let text = healthy.answer(&prompt);
    assert_eq!(text.len(), 12_000_000);
    assert!(text.starts_with("0 x") && text.contains("11999 xxx"));
    server.await_streams(1);
    let metrics = server.metrics();
    assert_eq!(metrics["sse"]["sessions"], json!({&session: 1}), "{metrics}");
    assert!(server.descriptors() > 0 && server.descriptors() <= descriptors + 8);
    // What the cut reader finds when it wakes is whole frames, then the end of the connection. The
    // last frame may be cut short; its cursor then brings it everything that it missed.
    let cut = loop {
        match stalled.next_within(support::PATIENCE) {
            Next::Event(_) => {}
            other => break other,
        }
    };
    assert!(matches!(cut, Next::End | Next::Cut), "{cut:?}");
    let cursor = stalled.last_id.clone().expect("it has a cursor");
    let mut resumed = server.stream_with(&session, "", &[("Last-Event-ID", &cursor)]);
    assert_eq!(resumed.joined().data["resume"], "ok");
    let ids = [stalled.ids(), resumed.ids()].concat();
    let healthy_ids = healthy.ids();
    assert_eq!(ids[..healthy_ids.len()], healthy_ids[..], "together they are the whole");
}

#[test]
fn a_reader_that_falls_behind_the_ring_is_closed_and_told_of_the_gap() {
    // With a journal it goes on from there: journal.rs.
    let flags = ["--durability", "memory", "--ring-size", "256KiB", "--write-stall", "60s"];
    let server = Server::fake(&flags);
    let session = server.create();
    let mut lapped = server.stream(&session);
    server.await_streams(1);
    let prompt = server.prompt(&session, "flood 8000 1000");
    server.await_streams(0);
    let mut watcher = server.stream(&session);
    watcher.turn_end(&prompt);
    loop {
        match lapped.next_within(support::PATIENCE) {
            Next::Event(_) => {}
            Next::End | Next::Cut => break,
            Next::Silence => panic!("it was not closed"),
        }
    }
    let cursor = lapped.last_id.clone().expect("it has a cursor");
    let mut again = server.stream_with(&session, "", &[("Last-Event-ID", &cursor)]);
    assert_eq!(again.joined().data["resume"], "gap", "what was evicted is told");
}

#[test]
fn dead_readers_vanish_from_the_metrics() {
    let server = Server::demo(&[]);
    let session = server.create();
    // A half-close: EventSource has no such thing, so the client is gone.
    let mut half = server.stream(&session);
    half.joined();
    server.await_streams(1);
    half.socket().shutdown(Shutdown::Write).unwrap();
    server.await_streams(0);
    let mut rest = Vec::new();
    let _ = half.socket().read_to_end(&mut rest);

    // A reset: dropping a socket with unread bytes sends one.
    let reset = server.stream(&session);
    server.await_streams(1);
    let prompt = server.prompt(&session, "say 50 words");
    server.stream(&session).turn_end(&prompt);
    drop(reset);
    server.await_streams(0);

    // A hundred at once.
    let many: Vec<Reader> = (0..100).map(|_| server.stream(&session)).collect();
    server.await_streams(100);
    drop(many);
    server.await_streams(0);
}

#[test]
fn a_slow_reader_does_not_delay_requests() {
    let server = Server::fake(&["--ring-size", "16MiB"]);
    let session = server.create();
    let _stalled: Vec<Reader> = (0..20).map(|_| server.stream(&session)).collect();
    let prompt = server.prompt(&session, "flood 5000 1000");
    let mut slowest = Duration::ZERO;
    eventually("the flood is over", || {
        let start = std::time::Instant::now();
        server.get("/health").expect(200);
        slowest = slowest.max(start.elapsed());
        server.status(&session) == "idle"
    });
    assert!(slowest < Duration::from_secs(2), "a request waited for {slowest:?}");
    let mut reader = server.stream(&session);
    assert_eq!(reader.turn_end(&prompt).name, "prompt-completed");
}

#[test]
fn memory_does_not_grow_with_readers_that_come_and_go() {
    let server = Server::demo(&[]);
    let session = server.create();
    let prompt = server.prompt(&session, "say 500 words");
    server.stream(&session).turn_end(&prompt);
    let resident = || -> u64 {
        let text = std::fs::read_to_string(format!("/proc/{}/statm", server.pid())).unwrap();
        text.split(' ').nth(1).unwrap().parse::<u64>().unwrap() * 4
    };
    let round = |count: usize| {
        for _ in 0..count {
            let mut reader = server.stream(&session);
            reader.joined();
        }
        server.await_streams(0);
    };
    round(100);
    let before = resident();
    round(600);
    let after = resident();
    assert!(after < before + 2048, "{before} KiB before, {after} KiB after 600 more readers");
}
