//! A conversation drawn from the documented events alone. It is the same conversation for a client
//! that was there, one that was cut and resumed, one that came late and one that read the history;
//! and whatever started has ended, once.

mod support;

use serde_json::{Value, json};
use support::{Event, Reader, Screen, Server, eventually, signal};

/// Draws what a reader has seen from `from` on.
#[track_caller]
fn draw(server: &Server, screen: &mut Screen, events: &[Event]) {
    for event in events.iter().filter(|event| event.is_logged()) {
        screen.draw(server, &event.name, &event.data);
    }
}

#[track_caller]
fn draw_list(server: &Server, screen: &mut Screen, events: &Value) {
    for event in events.as_array().expect("events") {
        screen.draw(server, event["event"].as_str().expect("a name"), &event["data"]);
    }
}

/// Waits until nothing is going on, and reads on to the last event.
#[track_caller]
fn settle(server: &Server, session: &str, reader: &mut Reader) {
    let mut last = String::new();
    eventually("quiet", || {
        let told = server.told(&format!("/api/session/{session}"));
        let before = std::mem::replace(&mut last, told["lastEventId"].as_str().unwrap().into());
        matches!(told["session"]["status"].as_str(), Some("idle" | "failed" | "suspended"))
            && told["session"]["queueLength"] == 0
            && before == last
    });
    if reader.last_id.as_deref() != Some(&*last) {
        reader.until("the last event", |event| event.id.as_deref() == Some(&*last));
    }
}

/// Two pictures, compared part by part, so that a failure can be read.
#[track_caller]
fn same(way: &str, screen: &Screen, live: &Screen) {
    let (ours, theirs) = (screen.picture(), live.picture());
    let (a, b) = (ours["items"].as_array().unwrap(), theirs["items"].as_array().unwrap());
    for (n, (one, other)) in a.iter().zip(b).enumerate() {
        assert_eq!(one, other, "{way}: item {n} of {}", b.len());
    }
    assert_eq!(a.len(), b.len(), "{way}: items");
    for part in ["todos", "cost", "status", "operations"] {
        assert_eq!(ours[part], theirs[part], "{way}: {part}");
    }
}

/// Draws the session in every way there is, and compares each with what the live client drew.
#[track_caller]
fn same_from_everywhere(server: &Server, session: &str, live: &Screen) {
    // Cut and resumed, at many places, in both views.
    let mut first = server.stream_with(session, "?replay=all", &[]);
    first.joined();
    let seen: Vec<Event> = first.seen.iter().filter(|event| event.is_logged()).cloned().collect();
    for cut in (0..seen.len()).step_by((seen.len() / 15).max(1)) {
        for view in ["", "?view=compact"] {
            let mut screen =
                if view.is_empty() { Screen::new(true) } else { Screen::compact(true) };
            draw(server, &mut screen, &seen[..=cut]);
            let cursor = seen[cut].id.as_deref().unwrap();
            let mut rest = server.stream_with(session, view, &[("Last-Event-ID", cursor)]);
            assert_eq!(rest.joined().data["resume"], "ok");
            draw(server, &mut screen, &rest.seen);
            same(&format!("resumed behind event {cut}, {view}"), &screen, live);
        }
    }
    // Fresh.
    for query in ["?replay=all", "?replay=all&view=compact"] {
        let mut screen = Screen::compact(true);
        let mut reader = server.stream_with(session, query, &[]);
        reader.joined();
        draw(server, &mut screen, &reader.seen);
        same(query, &screen, live);
    }
    // Fresh, with the newest screen only: the end of the picture.
    let mut screen = Screen::compact(true);
    let mut reader = server.stream_with(session, "?view=compact", &[]);
    reader.joined();
    draw(server, &mut screen, &reader.seen);
    let (ours, theirs) = (screen.picture(), live.picture());
    let (ours, theirs) = (ours["items"].as_array().unwrap(), theirs["items"].as_array().unwrap());
    assert!(!ours.is_empty() && theirs.ends_with(ours), "{ours:?} {theirs:?}");
    // From the history, page by page.
    for view in ["", "&view=compact"] {
        let mut pages = Vec::new();
        let mut before = String::new();
        loop {
            let path = format!("/api/session/{session}/history?limit=40{view}{before}");
            let page = server.told(&path);
            pages.push(page["events"].clone());
            let Some(id) = page["before"].as_str() else { break };
            before = format!("&before={id}");
        }
        let mut screen = Screen::compact(true);
        pages.iter().rev().for_each(|page| draw_list(server, &mut screen, page));
        same(&format!("history {view}"), &screen, live);
    }
    // By long polls.
    let mut screen = Screen::new(true);
    let mut cursor = "replay=all".to_owned();
    loop {
        let path = format!("/api/session/{session}/events/poll?wait=0&{cursor}");
        let page = server.told(&path);
        if page["events"].as_array().is_none_or(Vec::is_empty) {
            break;
        }
        draw_list(server, &mut screen, &page["events"]);
        cursor = format!("after={}", page["next"].as_str().unwrap());
    }
    same("polls", &screen, live);
}

/// A server with room for all that happens here, a session, and its live client.
fn world(flags: &[&str]) -> (Server, String, Reader) {
    let rings = ["--ring-size", "8MiB", "--all-ring-size", "16MiB", "--replay-bytes", "8MiB"];
    let server = Server::fake_options().flags(&rings).flags(flags).start();
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    (server, session, reader)
}

/// Runs scripts one after the other; answers every approval by what `decide` says.
#[track_caller]
fn run(server: &Server, session: &str, reader: &mut Reader, scripts: &[&str]) {
    for script in scripts {
        let prompt = server.prompt(session, script);
        reader.until(&format!("end of {script}"), |event| {
            if event.name == "approval-required" {
                let deny = event.data["input"].to_string().contains("rm ");
                let decision = if deny { "deny" } else { "allow" };
                server.decide(session, event, decision, json!({}));
            }
            event.text("promptId") == prompt
                && matches!(&*event.name, "prompt-completed" | "prompt-failed")
        });
    }
    settle(server, session, reader);
}

/// One turn of everything there is.
const EVERYTHING: [&str; 17] = [
    "say: plain words \u{1f600} caf\u{e9} \u{65e5}\u{672c} e\u{301} end",
    "think: first a thought ;; say: then words ;; think: another ;; say: and more",
    r#"say: before ;; tool Bash {"command":"make"} ;; say: after"#,
    r#"tool Read {"file_path":"/a"} ;; tool-fail Edit {"file_path":"/b","old_string":"x","new_string":"y"}"#,
    "tools 5 ;; say: all five",
    "progress ;; say: it took a while",
    "todos buy milk | drink milk | sleep",
    "tasks one | two | three",
    "subagent from below",
    "subagent-bg from far below",
    r#"approve Bash {"command":"touch made"}"#,
    r#"approve Bash {"command":"rm it"}"#,
    "approve3",
    "withdraw 0.2",
    "fallback the whole answer in its place",
    "say: <claude-write path=\"a.txt\">x</claude-write> <claude-command>ls</claude-command>",
    "fail the API said no",
];

#[test]
fn a_conversation_of_everything_is_drawn_the_same_from_everywhere() {
    let (server, session, mut reader) = world(&["--delta-hold", "0"]);
    run(&server, &session, &mut reader, &EVERYTHING);
    server.prompt(&session, "unprompted words of its own");
    reader.until("the end of its own turn", |event| {
        event.name == "prompt-completed" && event.data["promptId"].is_null()
    });
    run(&server, &session, &mut reader, &["line 3000000", "noise"]);
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    live.expect_all_ended();
    same_from_everywhere(&server, &session, &live);

    // And it is the conversation that was had.
    let blocks = live.items("block ");
    let has = |kind: &str, text: &str| {
        blocks.iter().any(|one| one["kind"] == kind && one["text"].as_str().unwrap().trim() == text)
    };
    assert!(has("text", "plain words \u{1f600} caf\u{e9} \u{65e5}\u{672c} e\u{301} end"));
    assert!(has("thinking", "first a thought") && has("thinking", "another"));
    assert!(has("text", "the whole answer in its place") && !has("text", "half an answer"));
    assert!(has("text", "from below") && has("text", "from far below"));
    let below = blocks.iter().find(|one| one["text"] == "from below").unwrap();
    assert!(below["parent"].is_string(), "a subagent's words say whose they are: {below}");
    let large = blocks.iter().find(|one| one["text"].as_str().unwrap().len() == 3_000_000);
    assert!(large.is_some(), "three megabytes are whole");
    let tools = live.items("tool ");
    let outcomes = |tool: &str| -> Vec<&str> {
        let of = tools.iter().filter(|one| one["tool"] == tool);
        of.map(|one| one["outcome"].as_str().unwrap()).collect()
    };
    assert_eq!((outcomes("Read"), outcomes("Edit")), (vec!["ok", "ok", "ok"], vec!["error"]));
    assert!(outcomes("Bash").contains(&"denied") || outcomes("Bash").contains(&"error"));
    let make = tools.iter().find(|one| one["input"]["command"] == "make").unwrap();
    assert_eq!(make["content"], "ran Bash", "{make}");
    let agents = live.items("subagent ");
    assert_eq!(agents.len(), 2);
    for (agent, (summary, background)) in
        agents.iter().zip([("from below", false), ("from far below", true)])
    {
        assert_eq!(agent["outcome"], "ok", "{agent}");
        assert_eq!(
            (&agent["summary"], &agent["background"]),
            (&json!(summary), &json!(background))
        );
    }
    let todos: Vec<(&str, &str)> = live
        .todos
        .as_array()
        .unwrap()
        .iter()
        .map(|todo| (todo["text"].as_str().unwrap(), todo["status"].as_str().unwrap()))
        .filter(|(text, _)| ["one", "two", "three"].contains(text))
        .collect();
    assert_eq!(todos, [("one", "completed"), ("two", "pending")], "{}", live.todos);
    assert!(live.total_cost > 0.018, "{}", live.total_cost);
    assert_eq!(live.items("own ").len(), 1, "one turn that nobody asked for");
}

#[test]
fn the_demos_questions_and_plans_are_drawn_the_same_from_everywhere() {
    let server = Server::demo(&["--ring-size", "4MiB"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "ask: Which color? Red | Blue ;; say: a fine color");
    let asked = reader.until_name("approval-required");
    assert_eq!(asked.data["kind"], "question");
    let answers = json!({"answers": {"Which color?": "Blue"}});
    server.decide(&session, &asked, "allow", answers).expect(200);
    reader.turn_end(&prompt);
    let prompt = server.prompt(&session, "plan: first this, then that ;; say: on it");
    let asked = reader.until_name("approval-required");
    assert_eq!(asked.data["kind"], "plan");
    server.decide(&session, &asked, "allow", json!({})).expect(200);
    reader.turn_end(&prompt);
    run(
        &server,
        &session,
        &mut reader,
        &["run tool: touch x ;; say: ok", "think: hm", "deltas 300"],
    );
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    live.expect_all_ended();
    assert_eq!(live.items("approval ").len(), 3);
    same_from_everywhere(&server, &session, &live);
}

#[test]
fn a_client_without_a_cursor_joins_in_the_middle_of_a_block_and_ends_with_the_same() {
    let (server, session, mut reader) = world(&["--replay-bytes", "2KiB", "--delta-hold", "0"]);
    let prompt = server.prompt(&session, "slow 60 10");
    reader.until("some output", |event| event.data["offset"].as_u64() > Some(100));
    let mut late = server.stream(&session);
    late.joined();
    assert!(late.seen.iter().any(|event| event.data["offset"].as_u64() > Some(0)));
    for reader in [&mut reader, &mut late] {
        reader.turn_end(&prompt);
    }
    let mut screen = Screen::new(false);
    draw(&server, &mut screen, &late.seen);
    let text = &screen.items("block ")[0]["text"];
    assert!(text.as_str().unwrap().starts_with("word1 word2 "), "{text}: the block is the truth");
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    assert_eq!(live.items("block ")[0]["text"], *text);
}

#[test]
fn offsets_count_utf16_units_without_a_hole_however_the_deltas_are_joined() {
    let emoji = "\u{1f600}\u{1f469}\u{200d}\u{1f467}".repeat(40);
    for hold in ["0", "50ms", "1s"] {
        let (server, session, mut reader) = world(&["--delta-hold", hold]);
        let long = format!("say: {emoji} and {emoji}");
        let scripts = [&*long, "flood 3000 40", "slow 30 5", "line 300000", "utf8-split"];
        run(&server, &session, &mut reader, &scripts);
        let mut live = Screen::new(true);
        draw(&server, &mut live, &reader.seen);
        live.expect_all_ended();
        let blocks = live.items("block ");
        assert_eq!(blocks.len(), scripts.len());
        assert_eq!(blocks[0]["text"].as_str().unwrap().trim_end(), &long[5..]);
        let deltas = live.counts["session-output"];
        match hold {
            "0" => assert!(deltas > 3000, "{deltas}"),
            _ => assert!(deltas < 1000, "joined: {deltas}"),
        }
        same_from_everywhere(&server, &session, &live);
    }
}

#[test]
fn what_a_human_interrupts_is_ended_for_everyone() {
    let (server, session, mut reader) = world(&[]);
    for (script, sign) in [
        ("think: hm ;; slow 1000 20", "stdout"),
        ("say: first ;; tool-open Bash {\"command\":\"make\"} ;; stubborn", "tool-started"),
        ("approve3", "approval-required"),
        ("subagent from below ;; slow 1000 20", "stdout"),
    ] {
        let prompt = server.prompt(&session, script);
        reader.until(sign, |event| {
            let is_sign = event.name == sign || event.text("type") == sign;
            is_sign && event.text("promptId") == prompt
        });
        server.interrupt(&session);
        let end = reader.turn_end(&prompt);
        assert_eq!(end.data["interrupted"], true, "{script}: {}", end.data);
    }
    settle(&server, &session, &mut reader);
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    live.expect_all_ended();
    let aborted = live.items("block ").iter().filter(|block| block["aborted"] == true).count();
    assert_eq!(aborted, 2, "the words that were cut short");
    let make = live.items("tool ").into_iter().find(|one| one["input"]["command"] == "make");
    assert_eq!(make.unwrap()["outcome"], "aborted");
    same_from_everywhere(&server, &session, &live);
}

#[test]
fn what_dies_with_its_agent_is_ended_for_everyone() {
    let (server, session, mut reader) = world(&["--delta-hold", "0"]);
    for script in [
        "think: hm ;; say: half a sentence ;; die 3",
        "say: first ;; tool-open Bash {\"command\":\"make\"} ;; tool-open Read {\"file_path\":\"/a\"} ;; die 1",
        "subagent-open from below ;; die mid-line",
        "tools 2 ;; signal 9",
    ] {
        let prompt = server.prompt(&session, script);
        assert_eq!(reader.turn_end(&prompt).name, "prompt-failed", "{script}");
    }
    // Killed from outside, with approvals open.
    let prompt = server.prompt(&session, "say: words ;; approve3");
    reader.until_name("approval-required");
    reader.until_name("approval-required");
    let agents = server.agents();
    assert_eq!(agents.len(), 1, "{agents:?}");
    signal(agents[0].0, "KILL");
    assert_eq!(reader.turn_end(&prompt).name, "prompt-failed");
    settle(&server, &session, &mut reader);
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    live.expect_all_ended();
    let outcomes: Vec<&Value> =
        live.items("tool ").iter().map(|tool| &tool["outcome"]).filter(|o| **o != "ok").collect();
    assert!(outcomes.len() >= 3 && outcomes.iter().all(|o| **o == "unknown"), "{outcomes:?}");
    assert_eq!(live.items("subagent ")[0]["outcome"], "aborted");
    same_from_everywhere(&server, &session, &live);
}

#[test]
fn what_is_open_when_a_session_is_deleted_is_ended_before_its_stream() {
    for script in [
        "think: hm ;; slow 1000 20",
        "tool-open Bash {\"command\":\"make\"} ;; slow 1000 20",
        "subagent-open from below ;; slow 1000 20",
        "approve3",
    ] {
        let (server, session, mut reader) = world(&["--delta-hold", "0"]);
        server.prompt(&session, script);
        server.prompt(&session, "say: waits");
        match script {
            "approve3" => reader.until_name("approval-required"),
            _ => reader.until("words", |event| event.text("type") == "stdout"),
        };
        server.send("DELETE", &format!("/api/session/{session}")).expect(200);
        reader.until_end();
        let mut live = Screen::new(true);
        draw(&server, &mut live, &reader.seen);
        live.expect_all_ended();
        assert_eq!(live.status, "closed", "{script}");
        assert_eq!(live.items("prompt ").len(), 2);
    }
}

#[test]
fn a_message_tells_its_operations_once() {
    let (server, session, mut reader) = world(&[]);
    let long = "x".repeat(700);
    let tagged = format!("say: {long} <claude-command>ls</claude-command>");
    let scripts = [
        ("say: nothing to do", 0),
        ("tools 4", 1),
        (r#"tool Bash {"command":"a"} ;; say: text between ;; tool Read {"file_path":"/b"}"#, 2),
        (&*tagged, 1),
        ("say: <claude-write path=\"a\">x</claude-write> ;; tools 2", 1),
        // A subagent's message comes between the two tools of the message that called it.
        ("subagent from below", 2),
        ("think: <claude-command>ls</claude-command>", 0),
        ("say: broken <claude-command>ls", 0),
        ("slow 5 5 ;; tools 1 ;; fallback whole <claude-command>ls</claude-command>", 2),
    ];
    for (script, events) in scripts {
        let before = reader.count("operations-detected");
        run(&server, &session, &mut reader, &[script]);
        let after = reader.count("operations-detected");
        let story = reader.story();
        assert_eq!(after - before, events, "{script}{story}");
    }
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    let told = live.operations_told();
    let with =
        told.iter().find(|one| one["response"].as_str().unwrap().starts_with("xxx")).unwrap();
    assert_eq!(with["response"], format!("{}...", "x".repeat(500)));
    assert_eq!(with["operations"][0]["command"], "ls", "{with}");
    assert_eq!(told[0]["operations"].as_array().unwrap().len(), 4, "{}", told[0]);
}

#[test]
fn the_output_of_a_plain_command_is_drawn_the_same_from_everywhere() {
    let script = "read x; echo out \u{e9} $x; echo err >&2; sleep 0.1; echo more; exit 0";
    let server = Server::start(&["--agent", &format!("lines:{script}"), "--delta-hold", "0"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    run(&server, &session, &mut reader, &["one", "two"]);
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    let blocks = live.items("block ");
    let text = |kind: &str| -> Vec<&str> {
        let of = blocks.iter().filter(|one| one["kind"] == kind);
        of.map(|one| one["text"].as_str().unwrap()).collect()
    };
    assert_eq!(text("text"), ["out \u{e9} one\nmore\n", "out \u{e9} two\nmore\n"]);
    assert_eq!(text("stderr"), ["err\n", "err\n"]);
    same_from_everywhere(&server, &session, &live);
}

#[test]
fn three_hundred_turns_open_with_their_newest_screen_in_one_small_request() {
    let (server, session, mut reader) = world(&["--replay-bytes", "256KiB"]);
    for n in 1..=300 {
        let words = format!("turn {n} ").repeat(60);
        let script = format!(
            r#"think: about {words} ;; tool Bash {{"command":"make {n}"}} ;; say: {words} ;; say: end {n}"#
        );
        let path = format!("/api/session/{session}/prompt?wait=60");
        server.post(&path, json!({"command": script})).expect(200);
    }
    settle(&server, &session, &mut reader);
    let mut live = Screen::new(true);
    draw(&server, &mut live, &reader.seen);
    let all: usize = reader.seen.iter().map(|event| event.bytes.len()).sum();
    assert!(all > 1 << 20, "more than a megabyte happened: {all}");

    let mut fresh = server.stream_with(&session, "?view=compact", &[]);
    fresh.joined();
    let bytes: usize = fresh.seen.iter().map(|event| event.bytes.len()).sum();
    assert!(bytes <= 200 * 1024, "{bytes} bytes");
    let first = fresh.seen.iter().find(|event| event.is_logged()).unwrap();
    assert_eq!(first.name, "prompt-queued", "it begins with a whole turn: {}", first.data);
    assert_eq!(fresh.count("session-output"), 0, "no delta of a block that has ended");
    // It is the end of what the live client drew, and enough for a screen.
    let mut screen = Screen::compact(true);
    draw(&server, &mut screen, &fresh.seen);
    let (ours, theirs) = (screen.picture(), live.picture());
    let (ours, theirs) = (ours["items"].as_array().unwrap(), theirs["items"].as_array().unwrap());
    assert!(ours.len() >= 40, "{} items", ours.len());
    assert_eq!(ours[..], theirs[theirs.len() - ours.len()..]);
    assert_eq!((screen.total_cost, &screen.status), (live.total_cost, &live.status));
    // The rest is had from the history, back to the beginning.
    let first = first.id.as_deref().unwrap();
    let mut pages = Vec::new();
    let mut before = first.to_owned();
    loop {
        let path =
            format!("/api/session/{session}/history?view=compact&limit=1000&before={before}");
        let answer = server.get(&path).expect(200);
        assert!(answer.body.len() <= 300 * 1024, "a page of {} bytes", answer.body.len());
        let page = answer.json();
        pages.push(page["events"].clone());
        let Some(id) = page["before"].as_str() else { break };
        before = id.to_owned();
    }
    let mut screen = Screen::compact(true);
    pages.iter().rev().for_each(|page| draw_list(&server, &mut screen, page));
    draw(&server, &mut screen, &fresh.seen);
    same("the history and the screen", &screen, &live);
    // And in one request by the history alone.
    let page = server.get(&format!("/api/session/{session}/history?view=compact&limit=200"));
    let page = page.expect(200);
    assert!(page.body.len() <= 200 * 1024, "{} bytes", page.body.len());
}
