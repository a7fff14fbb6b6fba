//! `/api/debug/metrics`: the seed's members exactly, and the sums that hold at any moment
//! ([`support::server::check_metrics`] checks those in every look).

mod support;

use serde_json::{Value, json};
use support::{Reader, Server, eventually};

fn members(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

#[test]
fn the_seeds_members_stand_there_with_their_types() {
    let server = Server::demo(&[]);
    let metrics = server.metrics();
    for (part, names) in [
        ("eventBus", &["eventsEmitted", "eventsByType", "listenerCounts", "activeListeners"][..]),
        (
            "sse",
            &[
                "totalSessions",
                "totalConnections",
                "sessions",
                "totalCreated",
                "totalClosed",
                "activeHeartbeats",
            ],
        ),
    ] {
        for name in names {
            assert!(members(&metrics[part]).contains(name), "{part}.{name}: {metrics}");
        }
    }
    assert_eq!(metrics["sse"]["sessions"], json!({}));
    assert_eq!(metrics["eventBus"]["listenerCounts"], json!({}));
    assert_eq!(metrics["eventBus"]["eventsEmitted"], 0);
}

#[test]
fn streams_are_counted_by_session_from_their_head_to_their_close() {
    let server = Server::demo(&[]);
    let (one, two) = (server.create(), server.create());
    let readers: Vec<Reader> =
        [&one, &one, &two].into_iter().map(|session| server.stream(session)).collect();
    let metrics = server.metrics();
    assert_eq!(metrics["sse"]["sessions"], json!({&one: 2, &two: 1}), "{metrics}");
    assert_eq!(metrics["sse"]["totalSessions"], 2);
    assert_eq!(metrics["sse"]["totalCreated"], 3);
    assert_eq!(
        metrics["eventBus"]["listenerCounts"],
        json!({format!("session-output-{one}"): 2, format!("session-output-{two}"): 1})
    );
    drop(readers);
    server.await_streams(0);
    let metrics = server.metrics();
    assert_eq!(metrics["sse"]["totalClosed"], 3, "{metrics}");
    assert_eq!(metrics["sse"]["sessions"], json!({}), "{metrics}");
}

#[test]
fn events_are_counted_by_type_and_only_those_with_ids() {
    let server = Server::demo(&["--heartbeat", "1s"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "say 10 words");
    reader.answer(&prompt);
    reader.until_name("heartbeat");
    // The heartbeat came after a second of quiet: nothing is on its way.
    let by_type = server.metrics()["eventBus"]["eventsByType"].clone();
    for name in members(&by_type) {
        assert_eq!(by_type[name], reader.count(name) as u64, "{name}: {by_type}");
    }
    let seen = reader.seen.iter().filter(|event| event.is_logged()).count() as u64;
    assert_eq!(server.metrics()["eventBus"]["eventsEmitted"], seen);
}

#[test]
fn a_filtered_stream_listens_only_to_what_it_receives() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut all = server.stream(&session);
    let mut without = server.stream_with(&session, "?types=-session-output", &[]);
    all.joined();
    without.joined();
    let metrics = server.metrics();
    let counts = &metrics["eventBus"]["listenerCounts"];
    assert_eq!(counts[format!("session-output-{session}")], 1, "{metrics}");
    assert_eq!(metrics["sse"]["totalConnections"], 2, "{metrics}");
}

#[test]
fn the_sums_hold_while_readers_come_and_go() {
    let server = Server::demo(&[]);
    let session = server.create();
    let prompt = server.prompt(&session, "slow 200 10");
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..25 {
                    let mut reader = server.stream(&session);
                    reader.joined();
                }
            });
        }
        for _ in 0..50 {
            server.metrics();
        }
    });
    server.interrupt(&session);
    server.stream(&session).turn_end(&prompt);
    eventually("all streams are closed", || {
        let metrics = server.metrics();
        metrics["sse"]["totalClosed"] == metrics["sse"]["totalCreated"]
    });
    assert_eq!(server.metrics()["sse"]["totalCreated"].as_u64().map(|n| n > 100), Some(true));
}
