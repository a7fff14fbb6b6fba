//! The stream as a browser sees it: its head, its order, its cursors, its heartbeats, its filters.

mod support;

use std::io::Write;
use std::time::Duration;
use support::{Connection, Next, Reader, Server, http};

/// A server with one session that has run three turns, and a reader that saw all of it.
fn with_history(flags: &[&str]) -> (Server, String, Reader) {
    let server = Server::demo(flags);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    for text in ["say: one and one", "say: two", "say 30 words"] {
        let prompt = server.prompt(&session, text);
        reader.answer(&prompt);
    }
    drain_idle(&mut reader);
    (server, session, reader)
}

/// Reads on until the session is idle, after which nothing comes by itself.
fn drain_idle(reader: &mut Reader) {
    let is_idle =
        |event: &support::Event| event.name == "session-status" && event.text("status") == "idle";
    let last_status = reader.seen.iter().rev().find(|event| event.name == "session-status");
    if !last_status.is_some_and(is_idle) {
        reader.until("session-status idle", is_idle);
    }
}

#[test]
fn the_head_of_a_stream_is_exact() {
    let server = Server::demo(&[]);
    let session = server.create();
    for base in ["/api/session", "/api/sessions"] {
        let reader = Reader::open(server.address, &format!("{base}/{session}/events"), &[]);
        let head = &reader.head;
        for (name, value) in [
            ("content-type", "text/event-stream; charset=utf-8"),
            ("cache-control", "no-cache, no-transform"),
            ("x-accel-buffering", "no"),
            ("connection", "close"),
        ] {
            assert_eq!(head.header(name), Some(value), "{name}: {head}");
        }
        for absent in ["content-length", "transfer-encoding", "content-encoding"] {
            assert_eq!(head.header(absent), None, "{absent}: {head}");
        }
        assert!(head.header("date").is_some());
    }
}

#[test]
fn a_stream_says_connected_then_the_replay_then_replay_complete_then_lives() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut first = server.stream(&session);
    let connected = first.joined();
    assert_eq!(connected.data["resume"], "fresh", "{}", connected.data);
    assert_eq!(connected.data["status"], "idle", "{}", connected.data);
    assert_eq!(connected.data["pendingApprovals"], serde_json::json!([]), "{}", connected.data);
    assert_eq!(connected.data["queue"], 0, "{}", connected.data);
    assert!(connected.data["heartbeatInterval"].as_u64() > Some(0), "{}", connected.data);
    assert!(connected.data.get("agent").is_some(), "{}", connected.data);
    assert!(connected.retry.is_some_and(|ms| ms > 0), "connected carries `retry:`");
    assert!(connected.bytes.len() <= 2048, "connected is short");
    assert_eq!(first.count("session-created"), 1, "the replay has the session's beginning");

    let prompt = server.prompt(&session, "say 5 words");
    assert_eq!(first.answer(&prompt).trim(), "word1 word2 word3 word4 word5");
    let names: Vec<&str> = first
        .seen
        .iter()
        .filter(|event| event.text("promptId") == prompt)
        .map(|event| event.name.as_str())
        .filter(|name| name.starts_with("prompt-"))
        .collect();
    assert_eq!(names, ["prompt-queued", "prompt-started", "prompt-completed"]);

    drain_idle(&mut first);
    let mut second = server.stream(&session);
    second.joined();
    assert_eq!(second.ids(), first.ids(), "a later reader sees the same events");
    let bytes = |reader: &Reader| -> Vec<Vec<u8>> {
        reader.seen.iter().filter(|e| e.is_logged()).map(|event| event.bytes.clone()).collect()
    };
    assert_eq!(bytes(&second), bytes(&first), "and the same bytes");
}

#[test]
fn events_arrive_as_they_happen_not_at_the_end() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "slow 40 100");
    reader.until_name("session-output");
    let status = server.status(&session);
    assert_eq!(status, "running", "the first words are here while the turn runs");
    server.interrupt(&session);
    reader.turn_end(&prompt);
    assert!(!reader.output(&prompt, "stdout").contains("word40"), "it was cut short");
}

#[test]
fn a_cursor_continues_exactly_behind_it_wherever_it_stands() {
    let (server, session, reader) = with_history(&[]);
    let ids = reader.ids();
    assert!(ids.len() > 10, "{}", reader.story());
    for (at, id) in ids.iter().enumerate() {
        let by_header = [("Last-Event-ID", id.as_str())];
        let by_query = format!("?lastEventId={id}");
        let streams = [
            server.stream_with(&session, "", &by_header),
            server.stream_with(&session, &by_query, &[]),
            server.stream_with(&session, &by_query, &[("Last-Event-ID", "")]),
        ];
        for mut stream in streams {
            let connected = stream.joined();
            assert_eq!(connected.data["resume"], "ok", "{}", connected.data);
            assert_eq!(connected.id, None, "the client's cursor is right already");
            assert_eq!(stream.ids(), ids[at + 1..], "behind {id}");
        }
    }
    // The header wins: a browser repeats its first URL for ever.
    let (first, last) = (format!("?lastEventId={}", ids[0]), ids.last().unwrap());
    let mut stream = server.stream_with(&session, &first, &[("Last-Event-ID", last)]);
    stream.joined();
    assert_eq!(stream.ids(), Vec::<String>::new());
}

#[test]
fn a_reader_that_is_cut_again_and_again_misses_nothing_and_sees_nothing_twice() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut whole = server.stream(&session);
    whole.joined();
    let prompt = server.prompt(&session, "slow 60 20");
    let (mut ids, mut cursor) = (Vec::new(), None::<String>);
    for round in 0.. {
        let headers: Vec<(&str, &str)> =
            cursor.iter().map(|id| ("Last-Event-ID", id.as_str())).collect();
        let mut stream = server.stream_with(&session, "", &headers);
        let mut ended = false;
        for _ in 0..4 + round % 3 {
            let event = stream.next();
            ended |= event.name == "prompt-completed";
        }
        ids.extend(stream.ids());
        cursor = stream.last_id.clone().or(cursor);
        if ended {
            break;
        }
    }
    whole.turn_end(&prompt);
    drain_idle(&mut whole);
    let all = whole.ids();
    assert_eq!(ids, all[..ids.len()], "the pieces make the whole");
}

#[test]
fn a_cursor_that_cannot_be_right_is_told_as_a_gap_never_passed_over() {
    let (server, session, reader) = with_history(&[]);
    let ids = reader.ids();
    let (epoch, seq) = ids.last().unwrap().rsplit_once('-').unwrap();
    let seq: u64 = seq.parse().unwrap();
    let wrong = [
        "garbage".to_string(),
        "-".to_string(),
        format!("{epoch}-"),
        format!("{epoch}-x"),
        format!("-{seq}"),
        seq.to_string(),
        format!("{epoch}-{}", seq + 1_000_000),
        format!("{epoch}-{}", u64::MAX),
        format!("{epoch}-99999999999999999999999999"),
        format!("q{epoch}-{seq}"),
        format!("foreign-{seq}"),
        "x".repeat(2000),
        "%F0%9F%98%80".to_string(),
    ];
    for cursor in &wrong {
        let mut stream = server.stream_with(&session, "", &[("Last-Event-ID", cursor)]);
        let connected = stream.joined();
        assert_eq!(connected.data["resume"], "gap", "{cursor:.60}: {}", connected.data);
        assert!(connected.data.get("missed").is_some(), "{}", connected.data);
        assert!(connected.id.is_some(), "connected moves the client's cursor after a gap");
        assert_eq!(stream.ids(), ids, "{cursor:.60}: the newest of the log follows");
    }
    // Bytes that are not ASCII are no reason for a 400: browsers send what they were given.
    let mut connection = Connection::open(server.address);
    let path = format!("/api/session/{session}/events");
    connection.send(format!("GET {path} HTTP/1.1\r\nHost: {}\r\n", server.address));
    connection.send(b"Last-Event-ID: caf\xc3\xa9\r\n\r\n");
    assert_eq!(connection.head().status, 200);
}

#[test]
fn the_first_cursor_after_a_gap_is_good() {
    let (server, session, reader) = with_history(&[]);
    let mut stream = server.stream_with(&session, "?replay=none", &[("Last-Event-ID", "lost")]);
    let connected = stream.joined();
    assert_eq!(connected.data["resume"], "gap");
    let cursor = stream.last_id.clone().expect("a cursor");
    let mut again = server.stream_with(&session, "", &[("Last-Event-ID", &cursor)]);
    assert_eq!(again.joined().data["resume"], "ok", "{cursor}");
    assert!(again.ids().len() < reader.ids().len());
}

#[test]
fn replay_none_is_live_only_and_replay_all_starts_at_the_beginning() {
    let (server, session, reader) = with_history(&[]);
    let mut live = server.stream_with(&session, "?replay=none", &[]);
    let connected = live.joined();
    assert_eq!(live.ids(), Vec::<String>::new());
    assert!(connected.id.is_some(), "connected says where this stream goes on");
    let mut all = server.stream_with(&session, "?replay=all", &[]);
    all.joined();
    assert_eq!(all.ids(), reader.ids());
    // With a cursor the parameter does not count: a browser repeats its URL when it reconnects.
    let ids = reader.ids();
    let mut resumed = server.stream_with(&session, "?replay=none", &[("Last-Event-ID", &ids[2])]);
    assert_eq!(resumed.joined().data["resume"], "ok");
    assert_eq!(resumed.ids(), ids[3..]);

    let prompt = server.prompt(&session, "say: live");
    assert_eq!(live.answer(&prompt).trim(), "live");
    assert_eq!(live.seen.iter().filter(|event| event.is_logged()).count(), live.ids().len());
}

#[test]
fn types_choose_or_exclude_events_and_the_cursor_stays_right() {
    let (server, session, reader) = with_history(&[]);
    let of = |fits: &dyn Fn(&str) -> bool| -> Vec<String> {
        let events = reader.seen.iter().filter(|event| event.is_logged() && fits(&event.name));
        events.filter_map(|event| event.id.clone()).collect()
    };
    let only = |name: &str| name == "session-output" || name == "prompt-completed";
    let mut some = server.stream_with(&session, "?types=session-output,prompt-completed", &[]);
    some.joined();
    assert_eq!(some.ids(), of(&only));
    let mut others = server.stream_with(&session, "?types=-session-output", &[]);
    others.joined();
    assert_eq!(others.ids(), of(&|name| name != "session-output"));
    assert_eq!(others.count("session-output"), 0);

    // Where the filter has passed over the newest frames, replay-complete moves the cursor there.
    let mut none = server.stream_with(&session, "?types=session-stalled", &[]);
    none.joined();
    assert_eq!(none.ids(), Vec::<String>::new());
    let cursor = none.last_id.clone().expect("replay-complete carries an id");
    let mut again = server.stream_with(&session, "", &[("Last-Event-ID", &cursor)]);
    assert_eq!(again.joined().data["resume"], "ok");
    assert_eq!(again.ids(), Vec::<String>::new(), "nothing twice");

    let prompt = server.prompt(&session, "say: filtered");
    some.turn_end(&prompt);
    assert!(some.seen.iter().all(|event| !event.is_logged() || only(&event.name)));
}

#[test]
fn a_quiet_stream_gets_named_heartbeats_that_are_no_events() {
    let server = Server::demo(&["--heartbeat", "1s"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let logged = reader.ids();
    for _ in 0..3 {
        assert_eq!(reader.next().name, "heartbeat");
    }
    let beat = reader.seen.last().unwrap();
    assert_eq!(beat.id, None, "a heartbeat has no id where the cursor is right");
    assert_eq!(reader.ids(), logged);
    assert_eq!(server.metrics()["eventBus"]["eventsByType"].get("heartbeat"), None);
}

#[test]
fn a_heartbeat_moves_the_cursor_over_what_a_filter_hid() {
    let server = Server::demo(&["--heartbeat", "1s"]);
    let session = server.create();
    let mut all = server.stream(&session);
    let mut filtered = server.stream_with(&session, "?types=session-stalled", &[]);
    all.joined();
    filtered.joined();
    let before = filtered.last_id.clone();
    let prompt = server.prompt(&session, "say: hidden");
    all.answer(&prompt);
    let beat = filtered.until("heartbeat with an id", |e| e.name == "heartbeat" && e.id.is_some());
    assert_ne!(beat.id, before);
    let newest = all.ids();
    let cursor = beat.id.unwrap();
    let mut again = server.stream_with(&session, "", &[("Last-Event-ID", &cursor)]);
    assert_eq!(again.joined().data["resume"], "ok");
    assert!(again.ids().len() < newest.len(), "nothing is told again");
}

#[test]
fn a_client_chooses_its_heartbeat_within_bounds() {
    let server = Server::demo(&["--heartbeat", "60s"]);
    let session = server.create();
    let mut often = server.stream_with(&session, "?heartbeat=5", &[]);
    let mut seldom = server.stream(&session);
    let fast = often.joined().data["heartbeatInterval"].as_u64().unwrap();
    let slow = seldom.joined().data["heartbeatInterval"].as_u64().unwrap();
    assert!(fast < slow, "{fast} {slow}");
    assert_eq!(often.next().name, "heartbeat");
    assert!(matches!(seldom.next_within(Duration::from_millis(100)), Next::Silence));
}

#[test]
fn an_unknown_session_is_404_before_any_byte_of_a_stream() {
    let server = Server::demo(&[]);
    for path in ["/api/session/session-1-none/events", "/api/sessions/session-1-none/events"] {
        let answer = server.get(path);
        assert_eq!(answer.header("x-accel-buffering"), None);
        let (_, code) = answer.expect_error(404);
        assert_eq!(code, "session_not_found");
    }
    assert_eq!(server.metrics()["sse"]["totalCreated"], 0);
}

#[test]
fn head_on_a_stream_is_the_head_only_and_counts_nowhere() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut connection = Connection::open(server.address);
    let path = format!("/api/session/{session}/events");
    connection.send(http::encode(server.address, "HEAD", &path, &[], b""));
    let head = connection.response("HEAD").expect(200);
    assert_eq!(head.header("content-type"), Some("text/event-stream; charset=utf-8"));
    connection.half_close();
    assert_eq!(String::from_utf8(connection.rest()).unwrap(), "");
    let metrics = server.metrics();
    assert_eq!(metrics["sse"]["totalCreated"], 0, "{metrics}");
}

#[test]
fn any_byte_after_a_stream_request_ends_the_stream() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    server.await_streams(1);
    reader.socket().write_all(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").unwrap();
    server.await_streams(0);
    assert!(matches!(reader.next_within(support::PATIENCE), Next::End | Next::Cut));
}

#[test]
fn a_stream_that_is_refused_for_now_says_busy_and_when_to_come_back() {
    let server = Server::demo(&["--readers-per-session-max", "2"]);
    let session = server.create();
    let (mut one, mut two) = (server.stream(&session), server.stream(&session));
    one.joined();
    two.joined();
    let mut third = server.stream(&session);
    let busy = third.next();
    assert_eq!(busy.name, "server-busy", "200, so that a browser comes back");
    assert!(busy.data["retryAfterMs"].as_u64() > Some(0), "{}", busy.data);
    assert!(!busy.text("reason").is_empty(), "{}", busy.data);
    assert!(busy.retry.is_some());
    third.until_end();
    assert_eq!(server.metrics()["sse"]["totalCreated"], 2, "it counts nowhere");
    drop(one);
    server.await_streams(1);
    server.stream(&session).joined();
    // Others are not affected.
    let prompt = server.prompt(&session, "say: still here");
    assert_eq!(two.answer(&prompt).trim(), "still here");
}

#[test]
fn several_sessions_do_not_see_each_other() {
    let server = Server::demo(&[]);
    let sessions: Vec<String> = (0..4).map(|_| server.create()).collect();
    let mut readers: Vec<Reader> = sessions.iter().map(|id| server.stream(id)).collect();
    for reader in &mut readers {
        reader.joined();
    }
    let prompts: Vec<String> = sessions
        .iter()
        .enumerate()
        .map(|(n, session)| server.prompt(session, &format!("say: only {n}")))
        .collect();
    for (n, reader) in readers.iter_mut().enumerate() {
        assert_eq!(reader.answer(&prompts[n]).trim(), format!("only {n}"));
        for event in reader.seen.iter().filter(|event| event.is_logged()) {
            assert_eq!(event.text("sessionId"), sessions[n], "{}", event.data);
        }
    }
}

#[test]
fn text_keeps_every_character() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let text =
        "caf\u{e9} \u{1f600} \u{65e5}\u{672c} \"quoted\" back\\slash tab\u{2028}line <b>&amp;</b>";
    let prompt = server.prompt(&session, &format!("say: {text}"));
    let words = |text: &str| text.split_whitespace().map(String::from).collect::<Vec<_>>();
    assert_eq!(words(&reader.answer(&prompt)), words(text));
    let queued = reader.seen.iter().find(|event| event.name == "prompt-queued").unwrap();
    assert_eq!(queued.text("command"), format!("say: {text}"));
}

#[test]
fn the_reader_of_these_tests_refuses_what_is_not_a_frame() {
    use support::reader::parse_frame;
    let good = "id: a-1\nevent: x\nretry: 5\ndata: {\"a\":1}\n\n";
    let event = parse_frame(good.into()).expect("a frame");
    assert_eq!((event.id.as_deref(), &*event.name, event.retry), (Some("a-1"), "x", Some(5)));
    assert!(parse_frame(b": a comment\n\n".to_vec()).is_none());
    for bad in [
        &b"id: a-1\r\nevent: x\r\ndata: {}\n\n"[..],
        b"event: x\n\n",
        b"data: {}\n\n",
        b"event: x\ndata: {}\ndata: {}\n\n",
        b"event: x\ndata: {\n\n",
        b"event: x\ndata:{}\n\n",
        b"id: \xc3\xa9\nevent: x\ndata: {}\n\n",
        b"id: a b\nevent: x\ndata: {}\n\n",
        b"event: x\ndata: {}\nnews: 1\n\n",
        b"event: \xff\ndata: {}\n\n",
        b"\xef\xbb\xbfevent: x\ndata: {}\n\n",
        b"event: x\nretry: soon\ndata: {}\n\n",
    ] {
        let caught = std::panic::catch_unwind(|| parse_frame(bad.to_vec()));
        assert!(caught.is_err(), "{:?}", String::from_utf8_lossy(bad));
    }
}
