//! Many sessions on one connection: a hundred of them at work, and a reader of them all that is
//! cut at random and goes on by its cursor. What it has had in the end is everything, in order,
//! once, for each session and over all.

mod support;

use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use support::{Chance, Event, Next, Reader, Server, eventually};

/// Sessions at work.
const SESSIONS: usize = 100;
/// Prompts that each is sent.
const PROMPTS: usize = 3;

fn seq(event: &Event) -> u64 {
    let id = event.id.as_deref().expect("an id");
    id.rsplit_once('-').expect("EPOCH-SEQ").1.parse().expect("a number")
}

/// A server with rings large enough for all of it, and its sessions.
fn crowd(agent: &str, agents: &str) -> (Server, Vec<String>) {
    let server = Server::start(&[
        "--agent",
        agent,
        "--agents-max",
        agents,
        "--agents-starting-max",
        agents,
        "--session-creations-per-s",
        "1000",
        "--all-ring-size",
        "64MiB",
        "--delta-hold",
        "0",
    ]);
    let sessions = (0..SESSIONS).map(|_| server.create()).collect();
    (server, sessions)
}

/// Sends every session its prompts, from a few clients at a time.
fn load(server: &Server, sessions: &[String], script: &str) {
    std::thread::scope(|scope| {
        for part in sessions.chunks(SESSIONS.div_ceil(4)) {
            scope.spawn(move || {
                for n in 0..PROMPTS {
                    for session in part {
                        server.prompt(session, &script.replace("{n}", &n.to_string()));
                    }
                }
            });
        }
    });
}

/// Reads one stream after another until every prompt of every session has ended: each is cut after
/// a random number of frames, with more on their way, and the next begins at its cursor.
#[track_caller]
fn read_with_cuts(
    server: &Server,
    query: &str,
    cursor: &str,
    ends: usize,
    frames_max: u64,
) -> Vec<Event> {
    let mut chance = Chance(0x9e37_79b9_7f4a_7c15);
    let (mut had, mut cursor, mut ended, mut cuts) = (Vec::new(), cursor.to_owned(), 0, 0);
    while ended < ends {
        let headers = [("Last-Event-ID", &*cursor)];
        let mut reader = Reader::open(server.address, &format!("/api/events{query}"), &headers);
        let connected = reader.next();
        assert_eq!((&*connected.name, connected.text("resume")), ("connected", "ok"));
        let frames = 1 + chance.below(frames_max);
        for _ in 0..frames {
            match reader.next_within(Duration::from_secs(60)) {
                Next::Event(event) if event.is_logged() => {
                    ended += usize::from(event.name == "prompt-completed");
                    had.push(event);
                }
                Next::Event(_) => {}
                other => panic!("{other:?} after {} events, {ended} ends", had.len()),
            }
            if ended == ends {
                break;
            }
        }
        // What a browser would send: the last id that any frame carried.
        cursor = reader.last_id.clone().unwrap_or(cursor);
        cuts += 1;
    }
    assert!(cuts > 3, "{cuts} cuts");
    had
}

/// Everything, in order, once.
#[track_caller]
fn check(server: &Server, sessions: &[String], had: &[Event]) {
    let numbers: Vec<u64> = had.iter().map(seq).collect();
    for pair in numbers.windows(2) {
        assert!(pair[0] < pair[1], "{} came before {}", pair[0], pair[1]);
    }
    let mut by_session: BTreeMap<&str, Vec<&Event>> = BTreeMap::new();
    for event in had {
        by_session.entry(event.text("sessionId")).or_default().push(event);
    }
    let (first, last) = (numbers[0], *numbers.last().unwrap());
    for session in sessions {
        let own = by_session.remove(&**session).unwrap_or_default();
        // The session's own stream is the measure: the same frames, byte for byte.
        let mut reader = server.stream_with(session, "?replay=all", &[]);
        reader.joined();
        let there = reader.seen.iter().filter(|event| event.is_logged());
        let there: Vec<&Event> =
            there.filter(|event| (first..=last).contains(&seq(event))).collect();
        assert_eq!(own.len(), there.len(), "{session}");
        for (one, other) in own.iter().zip(there) {
            assert_eq!(one.bytes, other.bytes, "{session}");
        }
    }
    assert!(by_session.is_empty(), "{:?}", by_session.keys());
}

#[test]
fn a_hundred_sessions_on_one_stream_that_is_cut_at_random_lose_and_repeat_nothing() {
    let (server, sessions) = crowd("lines:cat; for i in 1 2 3 4 5; do echo $i; done", "8");
    let cursor = server.told("/api/sessions")["lastEventId"].as_str().unwrap().to_owned();
    let had = std::thread::scope(|scope| {
        scope.spawn(|| load(&server, &sessions, "hello {n}"));
        read_with_cuts(&server, "", &cursor, SESSIONS * PROMPTS, 800)
    });
    check(&server, &sessions, &had);
    let started = had.iter().filter(|event| event.name == "prompt-started").count();
    assert_eq!(started, SESSIONS * PROMPTS, "each ran once");
    // A client that was there the whole time has had the same.
    let headers = [("Last-Event-ID", &*cursor)];
    let mut whole = Reader::open(server.address, "/api/events", &headers);
    whole.joined();
    let same = whole.seen.iter().filter(|event| event.is_logged()).zip(&had);
    assert!(same.clone().count() == had.len());
    same.for_each(|(one, other)| assert_eq!(one.bytes, other.bytes));
    drop(whole);
    // And so has one that polls.
    let (mut polled, mut after) = (Vec::new(), cursor);
    loop {
        let page = server.told(&format!("/api/events/poll?wait=0&after={after}"));
        assert_eq!(page["resume"], "ok");
        let events = page["events"].as_array().unwrap();
        if events.is_empty() {
            break;
        }
        polled.extend(events.iter().map(|event| event["id"].as_str().unwrap().to_owned()));
        after = page["next"].as_str().unwrap().to_owned();
    }
    let ids: Vec<&str> = had.iter().map(|event| event.id.as_deref().unwrap()).collect();
    assert_eq!(polled[..ids.len()], ids[..]);
}

#[test]
fn sessions_with_an_agent_each_share_few_agents_and_one_stream() {
    let (server, sessions) = crowd("demo", "4");
    let cursor = server.told("/api/sessions")["lastEventId"].as_str().unwrap().to_owned();
    // Every tenth one is at work, more than there are agents: they take turns.
    let busy: Vec<String> = sessions.iter().step_by(10).cloned().collect();
    let had = std::thread::scope(|scope| {
        scope.spawn(|| load(&server, &busy, "deltas 100"));
        read_with_cuts(&server, "", &cursor, busy.len() * PROMPTS, 800)
    });
    check(&server, &sessions, &had);
    assert!(server.agents().len() <= 4, "{:?}", server.agents());
}

#[test]
fn a_filtered_stream_is_cut_and_resumed_as_well() {
    let (server, sessions) = crowd("lines:cat", "8");
    let cursor = server.told("/api/sessions")["lastEventId"].as_str().unwrap().to_owned();
    let chosen: Vec<String> = sessions.iter().step_by(7).cloned().collect();
    let query = format!("?sessions={}", chosen.join(","));
    let had = std::thread::scope(|scope| {
        scope.spawn(|| load(&server, &sessions, "hello {n}"));
        read_with_cuts(&server, &query, &cursor, chosen.len() * PROMPTS, 60)
    });
    check(&server, &chosen, &had);
}

#[test]
fn a_stream_of_some_sessions_hears_those_and_names_the_unknown() {
    let server = Server::demo(&["--delta-hold", "0"]);
    let sessions = [server.create(), server.create(), server.create()];
    let query = format!("/api/events?sessions={},nobody,{},session-1-x", sessions[0], sessions[2]);
    let mut reader = Reader::open(server.address, &query, &[]);
    let connected = reader.joined();
    assert_eq!(connected.data["unknown"], json!(["nobody", "session-1-x"]), "{}", connected.data);
    assert_eq!(reader.ids(), [""; 0], "live only without a cursor");
    let mut all = Reader::open(server.address, "/api/events", &[]);
    all.joined();
    let metrics = server.metrics();
    assert_eq!(metrics["sse"]["sessions"]["*"], 2, "{metrics}");
    assert_eq!(metrics["eventBus"]["activeListeners"], 5, "{metrics}");
    let prompts: Vec<String> = sessions.iter().map(|s| server.prompt(s, "say 2 words")).collect();
    for prompt in &prompts {
        all.turn_end(prompt);
    }
    reader.turn_end(&prompts[0]);
    reader.turn_end(&prompts[2]);
    let heard: BTreeSet<&str> =
        reader.seen.iter().filter(|e| e.is_logged()).map(|e| e.text("sessionId")).collect();
    assert_eq!(heard, BTreeSet::from([&*sessions[0], &*sessions[2]]));
    // Sessions created later are heard by the stream over all, and not by the one over some.
    let late = server.create();
    let created = all.until_name("session-created");
    assert_eq!(created.text("sessionId"), late);
    // One that closes is told as closed; the stream goes on.
    server.close(&sessions[0]);
    all.until("its end", |event| event.name == "session-closed");
    reader.until("its end", |event| event.name == "session-closed");
    let prompt = server.prompt(&sessions[2], "say: still here");
    reader.turn_end(&prompt);
    // None of those asked for is there: an honest, silent stream.
    let mut none = Reader::open(server.address, "/api/events?sessions=nobody", &[]);
    assert_eq!(none.joined().data["unknown"], json!(["nobody"]));
    drop((none, reader, all));
    eventually("all closed", || server.metrics()["sse"]["totalConnections"] == 0);
}

#[test]
fn a_list_of_sessions_is_taken_whole_or_refused() {
    let server = Server::demo(&[]);
    let session = server.create();
    let list = |count: usize| vec!["none"; count].join(",");
    for path in ["/api/events", "/api/events/poll"] {
        let ask = |count: usize| server.get(&format!("{path}?wait=0&sessions={}", list(count)));
        let (sentence, code) = ask(1001).expect_error(400);
        assert_eq!(code, "invalid_value", "{path}");
        assert!(sentence.contains("1000"), "{path}: {sentence}");
    }
    // Who names none means all, as with types.
    for query in ["?sessions=", "?sessions=,", "?sessions=&types="] {
        let mut reader = Reader::open(server.address, &format!("/api/events{query}"), &[]);
        reader.joined();
        let path = format!("/api/session/{session}");
        server.json("PATCH", &path, &[], &serde_json::json!({"name": query})).expect(200);
        assert_eq!(reader.until_name("session-status").data["name"], query);
    }
}

#[test]
fn what_a_stream_opens_with_is_small_whatever_was_asked_for() {
    let server = Server::fake(&["--approvals-max", "100"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    server.prompt(&session, "approves 64 10");
    support::eventually("all are open", || {
        let open = server.told(&format!("/api/session/{session}/approvals"));
        open["approvals"].as_array().unwrap().len() == 64
    });
    let connected = server.stream(&session).joined();
    assert!(connected.bytes.len() <= 2048, "{} bytes: {}", connected.bytes.len(), connected.data);
    assert_eq!(connected.data["openApprovals"], 64, "{}", connected.data);
    assert_eq!(connected.data["pendingApprovals"].as_array().unwrap().len(), 32);
    server.interrupt(&session);
    reader.until_name("prompt-completed");
    let long = "%C3%A9".repeat(90);
    let ids = [&*long; 20].join(",");
    let plain: Vec<String> = (0..100).map(|number| format!("session-1-{number:08}")).collect();
    for ids in [ids, plain.join(",")] {
        let count = ids.split(',').count();
        let path = format!("/api/events?sessions={ids}");
        let connected = Reader::open(server.address, &path, &[]).joined();
        assert!(connected.bytes.len() <= 2048, "{} bytes", connected.bytes.len());
        assert_eq!(connected.data["unknownCount"], count, "{}", connected.data);
        assert!(!connected.data["unknown"].as_array().unwrap().is_empty());
    }
}

#[test]
fn a_cursor_that_cannot_be_read_is_a_gap_and_never_the_end_of_a_stream() {
    let server = Server::demo(&[]);
    let session = server.create();
    for cursor in ["%00", "%ff", "%0a", "x", "%C3%A9", "-", "0-0", "%20"] {
        for path in [format!("/api/session/{session}/events"), "/api/events".to_owned()] {
            let path = format!("{path}?lastEventId={cursor}");
            let connected = Reader::open(server.address, &path, &[]).joined();
            assert_eq!(connected.data["resume"], "gap", "{path}");
        }
        let poll = format!("/api/session/{session}/events/poll?wait=0&after={cursor}");
        assert_eq!(server.told(&poll)["resume"], "gap", "{poll}");
    }
    let twice = server.get(&format!("/api/session/{session}/events?lastEventId=1&lastEventId=2"));
    assert_eq!(twice.status, 400, "{twice}");
}

#[test]
fn what_a_gap_has_taken_is_counted_where_numbers_have_no_holes() {
    let flags = ["--durability", "memory", "--all-ring-size", "64KiB", "--ring-size", "64KiB"];
    let server = Server::demo(&flags);
    let session = server.create();
    let first = server.told(&format!("/api/session/{session}"));
    let cursor = first["lastEventId"].as_str().unwrap().to_owned();
    let path = format!("/api/session/{session}");
    for number in 0..400 {
        let change = serde_json::json!({"name": format!("name {number}")});
        server.json("PATCH", &path, &[], &change).expect(200);
    }
    let seq = |id: &str| id.split_once('-').unwrap().1.parse::<u64>().unwrap();
    let header = [("Last-Event-ID", &*cursor)];
    let mut all = Reader::open(server.address, "/api/events", &header);
    let connected = all.joined();
    assert_eq!(connected.data["resume"], "gap", "{}", connected.data);
    let oldest = all.ids()[0].clone();
    assert_eq!(connected.data["missed"], seq(&oldest) - seq(&cursor) - 1, "{}", connected.data);
    for path in [format!("/api/session/{session}/events"), "/api/events?types=-agent-event".into()]
    {
        let connected = Reader::open(server.address, &path, &header).joined();
        assert_eq!(connected.data["resume"], "gap", "{path}: {}", connected.data);
        assert_eq!(connected.data["missed"], serde_json::Value::Null, "{path}");
    }
}
