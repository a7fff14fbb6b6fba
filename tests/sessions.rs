//! Sessions over HTTP: made, listed, prompted, interrupted, ended; queues that keep their order and
//! run everything once.

mod support;

use serde_json::json;
use support::server::find_member;
use support::{Server, curl, eventually};

#[test]
fn a_session_is_created_listed_told_and_ended_in_both_spellings() {
    let server = Server::demo(&[]);
    let mut ids = Vec::new();
    for path in ["/api/sessions", "/api/session", "/claude/api/claude/sessions"] {
        let answer = server.post(path, json!({"workingDir": server.root()})).expect(201);
        let json = answer.json();
        assert_eq!(json["success"], true, "{json}");
        let id = json["sessionId"].as_str().expect("a sessionId").to_string();
        assert!(id.starts_with("session-") && id.split('-').count() >= 3, "{id}");
        let location = answer.header("location").unwrap_or_else(|| panic!("no Location: {answer}"));
        assert!(location.ends_with(&id), "{location}");
        assert!(json["session"].is_object(), "{json}");
        assert_eq!(find_member(&json["session"], "workingDir"), Some(&json!(server.root())));
        server.get(location).expect(200);
        ids.push(id);
    }
    let listed: Vec<String> = server
        .rows()
        .iter()
        .map(|row| find_member(row, "sessionId").and_then(|id| id.as_str()).unwrap().to_string())
        .collect();
    assert_eq!(listed.len(), 3);
    assert!(ids.iter().all(|id| listed.contains(id)), "{listed:?}");
    for id in &ids {
        for base in ["/api/session", "/api/sessions"] {
            let json = server.get(&format!("{base}/{id}")).expect(200).json();
            assert_eq!(find_member(&json, "sessionId"), Some(&json!(id)), "{json}");
            assert_eq!(find_member(&json, "status"), Some(&json!("idle")), "{json}");
            assert!(find_member(&json, "lastEventId").is_some(), "{json}");
            server.get(&format!("{base}/{id}/status")).expect(200);
        }
    }
    server.close(&ids[0]);
    let gone = format!("/api/sessions/{}", ids[0]);
    assert_eq!(server.send("DELETE", &gone).status, 404);
    assert_eq!(server.rows().len(), 2);
}

#[test]
fn a_session_takes_its_working_directory_by_its_canonical_name() {
    let server = Server::demo(&[]);
    let real = server.scratch.directory("root/real");
    std::os::unix::fs::symlink(&real, server.scratch.join("root/link")).unwrap();
    std::os::unix::fs::symlink(server.scratch.join("home"), server.scratch.join("root/out"))
        .unwrap();
    let odd = server.scratch.directory("root/sp ace \u{e9}\u{1f600}");
    for (asked, told) in [
        (server.scratch.join("root/link"), real.clone()),
        (format!("{real}/"), real.clone()),
        (format!("{real}/../real/."), real.clone()),
        (odd.clone(), odd),
    ] {
        let json = server.post("/api/sessions", json!({"workingDir": asked})).expect(201).json();
        assert_eq!(find_member(&json["session"], "workingDir"), Some(&json!(told)), "{json}");
    }
    let escape = json!({"workingDir": server.scratch.join("root/out")});
    server.post("/api/sessions", escape).expect_error(403);
}

#[test]
fn a_prompt_is_taken_at_once_and_its_cursor_shows_all_of_it() {
    let server = Server::demo(&[]);
    let session = server.create();
    for base in ["/api/session", "/api/sessions"] {
        let path = format!("{base}/{session}/prompt");
        let json = server.post(&path, json!({"command": "say 3 words"})).expect(202).json();
        for member in ["promptId", "status", "lastEventId"] {
            assert!(json[member].is_string(), "{member}: {json}");
        }
        assert!(json["position"].is_number(), "{json}");
        let cursor = json["lastEventId"].as_str().unwrap();
        let mut reader = server.stream_with(&session, "", &[("Last-Event-ID", cursor)]);
        let prompt = json["promptId"].as_str().unwrap();
        assert_eq!(reader.answer(prompt).trim(), "word1 word2 word3");
        let first = reader.seen.iter().find(|event| event.is_logged()).unwrap();
        assert_eq!(first.name, "prompt-queued", "the cursor stands before prompt-queued");
        assert_eq!(first.text("promptId"), prompt);
        assert_eq!(first.text("command"), "say 3 words");
    }
}

#[test]
fn prompts_sent_while_busy_run_afterwards_in_order_and_once() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let first = server.prompt(&session, "slow 10 50");
    let others: Vec<String> =
        (1..=5).map(|n| server.prompt(&session, &format!("say: number {n}"))).collect();
    let last = others.last().unwrap();
    reader.turn_end(last);
    for (n, prompt) in others.iter().enumerate() {
        assert_eq!(reader.answer(prompt).trim(), format!("number {}", n + 1));
    }
    assert!(reader.answer(&first).contains("word10"));
    for name in ["prompt-queued", "prompt-started", "prompt-completed"] {
        let order: Vec<&str> = reader
            .seen
            .iter()
            .filter(|event| event.name == name)
            .map(|event| event.text("promptId"))
            .collect();
        let wanted: Vec<&str> =
            std::iter::once(&first).chain(&others).map(String::as_str).collect();
        assert_eq!(order, wanted, "{name}");
    }
    // A turn starts only when the one before it has ended.
    let mut running = 0;
    for event in &reader.seen {
        running += match event.name.as_str() {
            "prompt-started" => 1,
            "prompt-completed" => -1,
            _ => 0,
        };
        assert!((0..=1).contains(&running), "{}", reader.story());
    }
}

#[test]
fn a_full_queue_is_429_and_the_rest_still_runs() {
    let server = Server::demo(&["--queue-max", "2"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let first = server.prompt(&session, "slow 100 50");
    reader.until_name("prompt-started");
    let waiting = [server.prompt(&session, "say: a"), server.prompt(&session, "say: b")];
    let path = format!("/api/session/{session}/prompt");
    let answer = server.post(&path, json!({"command": "say: too many"}));
    answer.expect_error(429);
    server.interrupt(&session);
    reader.turn_end(&first);
    assert_eq!(reader.answer(&waiting[1]).trim(), "b");
    assert_eq!(reader.count("prompt-queued"), 3);
}

#[test]
fn an_interrupt_ends_the_turn_and_the_next_prompt_runs() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "slow 500 50");
    reader.until_name("session-output");
    server.interrupt(&session);
    let end = reader.turn_end(&prompt);
    assert_eq!(end.name, "prompt-completed", "{}", end.data);
    assert_eq!(end.data["interrupted"], true, "{}", end.data);
    assert_eq!(end.data["isError"], false, "{}", end.data);
    let next = server.prompt(&session, "say: after");
    assert_eq!(reader.answer(&next).trim(), "after");
}

#[test]
fn an_interrupt_of_an_idle_session_changes_nothing() {
    let server = Server::demo(&[]);
    let session = server.create();
    let answer = server.post(&format!("/api/session/{session}/interrupt"), json!({}));
    assert!(matches!(answer.status, 200 | 202 | 409), "{answer}");
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "say: fine");
    let end = reader.turn_end(&prompt);
    assert_ne!(end.data["interrupted"], true, "{}", end.data);
    assert_eq!(reader.output(&prompt, "stdout").trim(), "fine");
}

#[test]
fn an_interrupt_that_clears_the_queue_cancels_what_waits() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let first = server.prompt(&session, "slow 500 50");
    let waiting = [server.prompt(&session, "say: a"), server.prompt(&session, "say: b")];
    reader.until_name("session-output");
    let path = format!("/api/session/{session}/interrupt");
    server.post(&path, json!({"clearQueue": true}));
    reader.turn_end(&first);
    for prompt in &waiting {
        assert_eq!(reader.turn_end(prompt).name, "prompt-cancelled");
    }
    let next = server.prompt(&session, "say: next");
    assert_eq!(reader.answer(&next).trim(), "next");
    assert_eq!(reader.count("prompt-started"), 2, "{}", reader.story());
}

#[test]
fn the_status_follows_the_turn() {
    let server = Server::demo(&[]);
    let session = server.create();
    assert_eq!(server.status(&session), "idle");
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "slow 500 50");
    reader.until_name("session-output");
    assert_eq!(server.status(&session), "running");
    server.interrupt(&session);
    reader.turn_end(&prompt);
    eventually("idle again", || server.status(&session) == "idle");
    let told: Vec<&str> = reader
        .seen
        .iter()
        .filter(|event| event.name == "session-status")
        .map(|event| event.text("status"))
        .collect();
    assert!(told.contains(&"running"), "{told:?}");
    for pair in
        reader.seen.iter().filter(|e| e.name == "session-status").collect::<Vec<_>>().windows(2)
    {
        assert_eq!(pair[1].text("previous"), pair[0].text("status"), "{}", reader.story());
    }
}

#[test]
fn deleting_a_session_ends_its_turn_its_streams_and_its_agent() {
    let server = Server::fake(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let running = server.prompt(&session, "slow 1000 50");
    let waiting = server.prompt(&session, "say: never");
    reader.until_name("session-output");
    let cursor = reader.last_id.clone().unwrap();
    assert_eq!(server.agents().len(), 1, "{:?}", server.agents());
    let json = server.send("DELETE", &format!("/api/session/{session}")).expect(200).json();
    assert_eq!(find_member(&json, "status"), Some(&json!("stopping")), "{json}");
    let again = server.send("DELETE", &format!("/api/session/{session}"));
    assert!(matches!(again.status, 200 | 404), "a repeat: {again}");

    let rest = reader.until_end();
    assert_eq!(rest.last().unwrap().name, "session-closed", "{}", reader.story());
    for prompt in [&running, &waiting] {
        let ends = reader.seen.iter().filter(|event| {
            event.text("promptId") == prompt
                && ["prompt-completed", "prompt-failed", "prompt-cancelled"]
                    .contains(&event.name.as_str())
        });
        assert_eq!(ends.count(), 1, "everything that starts ends once: {}", reader.story());
    }
    server.expect_nothing_left();
    assert_eq!(server.rows().len(), 0);
    for (method, tail) in [("GET", ""), ("GET", "/status"), ("POST", "/interrupt")] {
        assert_eq!(server.send(method, &format!("/api/session/{session}{tail}")).status, 404);
    }
    // Who was away when it closed is still served the rest, then the end.
    let mut late = server.stream_with(&session, "", &[("Last-Event-ID", &cursor)]);
    let told = late.until_end();
    assert!(told.iter().any(|event| event.name == "session-closed"), "{}", late.story());
    // Who has seen the end, and who comes without a cursor, gets 404.
    server.get(&format!("/api/session/{session}/events")).expect_error(404);
    server.await_streams(0);
}

#[test]
fn the_number_of_sessions_has_a_bound() {
    let server = Server::demo(&["--sessions-max", "2"]);
    let first = server.create();
    server.create();
    let body = json!({"workingDir": server.root()});
    let (error, _) = server.post("/api/sessions", body.clone()).expect_error(429);
    assert!(error.contains("sessions"), "{error}");
    server.close(&first);
    server.post("/api/sessions", body).expect(201);
}

#[test]
fn two_sessions_run_at_the_same_time() {
    let server = Server::demo(&[]);
    let (one, two) = (server.create(), server.create());
    let (mut first, mut second) = (server.stream(&one), server.stream(&two));
    let slow = server.prompt(&one, "slow 500 50");
    first.until_name("session-output");
    let quick = server.prompt(&two, "say: quick");
    assert_eq!(second.answer(&quick).trim(), "quick");
    assert_eq!(server.status(&one), "running");
    server.interrupt(&one);
    first.turn_end(&slow);
}

#[test]
fn the_demo_answers_the_seeds_command_with_the_names_in_the_directory() {
    let server = Server::demo(&[]);
    for name in ["alpha.txt", "beta.rs"] {
        std::fs::write(server.scratch.join(&format!("root/{name}")), "x").unwrap();
    }
    let session = server.create();
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "ls -la");
    let answer = reader.answer(&prompt);
    assert!(answer.contains("alpha.txt") && answer.contains("beta.rs"), "{answer}");
    // Its one process is the server's own program, which runs nothing of anybody else's.
    for (pid, _) in server.agents() {
        let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap();
        assert_eq!(program, std::path::Path::new(env!("CARGO_BIN_EXE_sidestream")));
    }
}

#[test]
fn the_demo_understands_its_scripts() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "deltas 100");
    assert_eq!(reader.answer(&prompt), "x ".repeat(100));
    let prompt = server.prompt(&session, "big 20000");
    assert_eq!(reader.answer(&prompt).len(), 20_000);
    let prompt = server.prompt(&session, "think: deep thoughts ;; say: done");
    assert!(reader.answer(&prompt).contains("done"));
    assert_eq!(reader.output(&prompt, "thinking").trim(), "deep thoughts");
    let prompt = server.prompt(&session, "error 529");
    let end = reader.turn_end(&prompt);
    assert!(end.name == "prompt-failed" || end.data["isError"] == true, "{}", end.data);
}

#[test]
fn a_lines_agent_gets_the_prompt_on_its_input_and_ends_its_turn_by_its_exit() {
    let script = "echo started; cat; echo to-stderr >&2; exit 0";
    let server = Server::start(&["--agent", &format!("lines:{script}")]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    for text in ["hello lines", "a second process"] {
        let prompt = server.prompt(&session, text);
        let answer = reader.answer(&prompt);
        assert!(answer.starts_with("started\n"), "{answer:?}");
        assert!(answer.contains(text), "{answer:?}");
        assert!(reader.output(&prompt, "stderr").contains("to-stderr"), "{}", reader.story());
    }
    assert_eq!(server.agents(), Vec::new(), "one process per prompt");
}

#[test]
fn a_lines_agent_that_fails_is_told_as_failed() {
    let script = "read word; echo out; echo trouble >&2; exit $word";
    let server = Server::start(&["--agent", &format!("lines:{script}")]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    for code in [1, 7, 127] {
        let prompt = server.prompt(&session, &code.to_string());
        let end = reader.turn_end(&prompt);
        assert!(end.name == "prompt-failed" || end.data["isError"] == true, "{}", end.data);
        assert!(reader.output(&prompt, "stdout").contains("out"));
        assert!(reader.output(&prompt, "stderr").contains("trouble"));
    }
    let prompt = server.prompt(&session, "0");
    reader.answer(&prompt);
}

#[test]
fn a_lines_agent_runs_in_the_working_directory_and_can_be_interrupted() {
    let server = Server::start(&[
        "--agent",
        "lines:pwd; exec sleep 300",
        "--ladder-eof",
        "300ms",
        "--ladder-term",
        "300ms",
        "--interrupt-timeout",
        "1s",
    ]);
    let directory = server.scratch.directory("root/inner");
    let session = server.create_in(&directory);
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "go");
    let output = reader.until_name("session-output");
    assert_eq!(output.text("content").trim(), directory);
    server.interrupt(&session);
    let end = reader.turn_end(&prompt);
    assert_eq!(end.data["interrupted"], true, "{}", end.data);
    server.expect_nothing_left();
}

#[test]
fn bytes_that_are_not_text_do_not_break_a_stream() {
    // 200 bytes of every kind, a line without an end, and a character cut by the exit.
    let script = r"printf '\377\376\200ok\000\001\r\033[1m\n'; printf 'caf\303\251\n'; printf 'cut \342\202'";
    let server = Server::start(&["--agent", &format!("lines:{script}")]);
    let session = server.create();
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "go");
    let answer = reader.answer(&prompt);
    assert!(answer.contains("ok") && answer.contains("caf\u{e9}"), "{answer:?}");
    assert!(answer.contains("cut "), "{answer:?}");
}

#[test]
fn several_agents_have_names_and_the_first_is_the_default() {
    let server = Server::start(&[
        "--agent",
        "echo=lines:cat",
        "--agent",
        "shout=lines:tr a-z A-Z",
        "--agent",
        "demo",
    ]);
    for (agent, wanted) in [(None, "hello"), (Some("shout"), "HELLO"), (Some("echo"), "hello")] {
        let mut body = json!({"workingDir": server.root()});
        if let Some(agent) = agent {
            body["agent"] = json!(agent);
        }
        let json = server.post("/api/sessions", body).expect(201).json();
        let session = json["sessionId"].as_str().unwrap();
        let mut reader = server.stream(session);
        let prompt = server.prompt(session, "hello");
        assert_eq!(reader.answer(&prompt).trim(), wanted);
    }
    let all = server.get("/api/agents");
    if all.status == 200 {
        let text = all.text();
        assert!(["echo", "shout", "demo"].iter().all(|name| text.contains(name)), "{text}");
    }
}

#[test]
fn a_prompt_of_the_largest_size_arrives_whole() {
    let server = Server::start(&["--agent", "lines:wc -c"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    let size = 3_000_000;
    let prompt = server.prompt(&session, &"y".repeat(size));
    let count: usize = reader.answer(&prompt).trim().parse().expect("a count");
    assert!((size..=size + 1).contains(&count), "{count} (a newline may follow the prompt)");
}

#[test]
fn the_seeds_prompt_line_is_answered_as_json() {
    let server = Server::demo(&[]);
    let session = server.create();
    let url = format!("http://localhost:{}/api/session/{session}/prompt", server.address.port());
    let kind = "Content-Type: application/json";
    let (answer, code) = curl(&["-X", "POST", &url, "-H", kind, "-d", r#"{"command":"ls -la"}"#]);
    assert_eq!(code, Some(0));
    let json: serde_json::Value = serde_json::from_str(&answer).expect(&answer);
    assert_eq!((&json["success"], &json["sessionId"]), (&json!(true), &json!(session)), "{json}");
}
