//! Agents that misbehave, one by one: each is told as what it is, none is waited for for ever, and
//! the session takes the next prompt.

mod support;

use serde_json::{Value, json};
use std::time::Duration;
use support::{Event, Reader, Server, eventually, is_alive, pid_from};

/// A session of the scriptable agent and a reader of it.
fn session(server: &Server) -> (String, Reader) {
    session_with(server, "")
}

/// The same, with the agent started in these modes.
fn session_with(server: &Server, modes: &str) -> (String, Reader) {
    let directory = server
        .scratch
        .directory(&format!("root/{}", if modes.is_empty() { "plain" } else { modes }));
    if !modes.is_empty() {
        std::fs::write(format!("{directory}/fake-agent.mode"), modes).unwrap();
    }
    let session = server.create_in(&directory);
    let mut reader = server.stream(&session);
    reader.joined();
    (session, reader)
}

/// The last `session-error` so far.
#[track_caller]
fn last_error(reader: &Reader) -> Event {
    let found = reader.seen.iter().rev().find(|event| event.name == "session-error");
    found.unwrap_or_else(|| panic!("no session-error: {}", reader.story())).clone()
}

/// The turn of this prompt fails with this code, and a `session-error` with the same code is told.
#[track_caller]
fn expect_failure(reader: &mut Reader, prompt: &str, code: &str) -> Event {
    let end = reader.turn_end(prompt);
    assert_eq!(end.name, "prompt-failed", "{}", end.data);
    assert_eq!(end.text("code"), code, "{}", end.data);
    if !reader.seen.iter().any(|event| event.name == "session-error") {
        reader.until_name("session-error");
    }
    let error = last_error(reader);
    assert_eq!(error.text("code"), code, "{}", error.data);
    assert!(!error.text("error").is_empty(), "a sentence: {}", error.data);
    error
}

/// The session still works.
#[track_caller]
fn expect_works(server: &Server, session: &str, reader: &mut Reader) {
    let prompt = server.prompt(session, "say: alive and well");
    assert_eq!(reader.answer(&prompt).trim(), "alive and well");
}

#[test]
fn a_well_behaved_agent_streams_and_tells_its_whole_text() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: one two three");
    assert_eq!(reader.answer(&prompt), "one two three ");
    let end = reader.turn_end(&prompt);
    assert_eq!(end.text("result").trim(), "one two three", "{}", end.data);
    for member in ["durationMs", "costUsd", "totalCostUsd"] {
        assert!(end.data[member].is_number(), "{member}: {}", end.data);
    }
    expect_works(&server, &session, &mut reader);
    assert_eq!(server.agents().len(), 1, "one process serves all turns");
}

#[test]
fn an_agent_that_dies_is_told_with_its_status_and_its_last_words() {
    for (script, member, value) in [
        ("stderr the disk is on fire ;; die 3", "exitCode", json!(3)),
        ("stderr the disk is on fire ;; say: half ;; die mid-line", "exitCode", json!(1)),
        ("stderr the disk is on fire ;; die 0", "exitCode", json!(0)),
        ("stderr the disk is on fire ;; signal 9", "signal", json!(9)),
    ] {
        let server = Server::fake(&[]);
        let (session, mut reader) = session(&server);
        let prompt = server.prompt(&session, script);
        let error = expect_failure(&mut reader, &prompt, "agent_exited");
        let told = &error.data[member];
        // A signal may be told by number or by name.
        let by_name = member == "signal" && told.as_str().is_some_and(|name| name.contains("KILL"));
        assert!(*told == value || by_name, "{script}: {}", error.data);
        assert!(error.data["detail"].to_string().contains("the disk is on fire"), "{}", error.data);
        expect_works(&server, &session, &mut reader);
    }
}

#[test]
fn a_conversation_goes_on_after_its_agent_died() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    for text in ["say: first", "say: second"] {
        let prompt = server.prompt(&session, text);
        reader.answer(&prompt);
    }
    let prompt = server.prompt(&session, "die 1");
    expect_failure(&mut reader, &prompt, "agent_exited");
    let prompt = server.prompt(&session, "history");
    let history: Vec<String> = serde_json::from_str(&reader.answer(&prompt)).unwrap();
    assert_eq!(history, ["say: first", "say: second", "die 1", "history"], "it was resumed");
    let prompt = server.prompt(&session, "argv");
    let argv = reader.answer(&prompt);
    assert!(argv.contains("--resume=") && !argv.contains("--session-id="), "{argv}");
}

#[test]
fn prompts_that_wait_run_after_the_agent_died() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let dying = server.prompt(&session, "slow 5 100 ;; die 1");
    let waiting = server.prompt(&session, "say: I waited");
    assert_eq!(reader.turn_end(&dying).name, "prompt-failed");
    assert_eq!(reader.answer(&waiting).trim(), "I waited");
}

#[test]
fn an_agent_that_cannot_start_is_told_with_its_words() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session_with(&server, "bad-init");
    let prompt = server.prompt(&session, "say: hello");
    let error = expect_failure(&mut reader, &prompt, "agent_failed_to_start");
    assert!(error.data["detail"].to_string().contains("no such planet"), "{}", error.data);
    // Its cause removed, the session works.
    std::fs::remove_file(server.scratch.join("root/bad-init/fake-agent.mode")).unwrap();
    expect_works(&server, &session, &mut reader);
}

#[test]
fn a_command_that_is_not_there_is_told_by_name() {
    for command in ["/nowhere/claude", "/etc/passwd", "/etc"] {
        let server = Server::start(&["--agent", &format!("claude:{command}")]);
        let session = server.create();
        let mut reader = server.stream(&session);
        let prompt = server.prompt(&session, "hello");
        let error = expect_failure(&mut reader, &prompt, "agent_failed_to_start");
        assert!(error.data.to_string().contains(command), "{}", error.data);
        server.expect_nothing_left();
    }
}

#[test]
fn a_working_directory_that_vanished_is_told_by_name() {
    let server = Server::fake(&[]);
    let directory = server.scratch.directory("root/vanishing");
    let session = server.create_in(&directory);
    std::fs::remove_dir(&directory).unwrap();
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "say: hello");
    let error = expect_failure(&mut reader, &prompt, "agent_failed_to_start");
    assert!(error.data.to_string().contains("vanishing"), "{}", error.data);
}

#[test]
fn a_working_directory_that_became_a_link_out_of_the_root_is_not_entered() {
    let server = Server::fake(&[]);
    let directory = server.scratch.directory("root/moved");
    let session = server.create_in(&directory);
    std::fs::remove_dir(&directory).unwrap();
    std::os::unix::fs::symlink(server.scratch.join("home"), &directory).unwrap();
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "say: hello");
    expect_failure(&mut reader, &prompt, "agent_failed_to_start");
}

#[test]
fn an_agent_without_a_login_is_told_at_once_with_the_cure() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session_with(&server, "nologin");
    let prompt = server.prompt(&session, "say: hello");
    let error = expect_failure(&mut reader, &prompt, "agent_not_logged_in");
    let sentence = error.text("error");
    assert!(sentence.contains("login") || sentence.contains("ANTHROPIC_API_KEY"), "{sentence}");
}

#[test]
fn an_agent_that_never_becomes_ready_is_given_up() {
    let server = Server::fake(&["--start-timeout", "1s"]);
    let (session, mut reader) = session_with(&server, "never-init");
    let prompt = server.prompt(&session, "say: hello");
    expect_failure(&mut reader, &prompt, "agent_failed_to_start");
    server.expect_nothing_left();
}

#[test]
fn the_other_way_to_start_is_tried_once_on_the_clis_two_refusals() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let mode = server.scratch.join("root/plain/fake-agent.mode");
    let prompt = server.prompt(&session, "say: begun");
    reader.answer(&prompt);
    // The conversation is gone: `--resume` is refused, so a new one starts under the same id.
    std::fs::write(&mode, "refuse-resume").unwrap();
    let prompt = server.prompt(&session, "die 1");
    reader.turn_end(&prompt);
    let prompt = server.prompt(&session, "argv");
    assert!(reader.answer(&prompt).contains("--session-id="));
    // Both refused: told, not tried for ever.
    std::fs::write(&mode, "refuse-resume refuse-session-id").unwrap();
    let prompt = server.prompt(&session, "die 1");
    reader.turn_end(&prompt);
    let prompt = server.prompt(&session, "say: hello");
    let error = expect_failure(&mut reader, &prompt, "agent_failed_to_start");
    let detail = error.data.to_string();
    assert!(detail.contains("already in use") || detail.contains("No conversation"), "{detail}");
    std::fs::remove_file(&mode).unwrap();
    expect_works(&server, &session, &mut reader);
}

#[test]
fn an_agent_that_ignores_sigterm_is_killed() {
    let mut server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "ignore-term ;; say: try me");
    reader.answer(&prompt);
    let agent = server.agents()[0].0;
    server.close(&session);
    eventually("the agent is gone", || !is_alive(agent));
    // The same at the server's end, in the middle of a turn.
    let (deaf, mut reader) = session_with(&server, "unused");
    server.prompt(&deaf, "ignore-term ;; say: x ;; silent");
    reader.until_name("session-output");
    assert!(server.stop().success());
}

#[test]
fn a_grandchild_in_its_own_session_is_found_and_killed() {
    let server = Server::fake(&[]);
    for word in ["grandchild", "grandchild-pipe"] {
        let (session, mut reader) = session_with(&server, word);
        let path = server.scratch.join(&format!("{word}.pid"));
        let prompt = server.prompt(&session, &format!("{word} {path} ;; say: left one"));
        reader.answer(&prompt);
        let pid = pid_from(&path);
        assert!(is_alive(pid), "while the session lives, its processes do");
        server.close(&session);
        eventually("the grandchild is gone", || !is_alive(pid));
    }
}

#[test]
fn an_exit_is_seen_though_a_grandchild_holds_the_pipes_open() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let path = server.scratch.join("holder.pid");
    let prompt = server.prompt(&session, &format!("grandchild-pipe {path} ;; say: x ;; die 4"));
    let error = expect_failure(&mut reader, &prompt, "agent_exited");
    assert_eq!(error.data["exitCode"], 4, "{}", error.data);
    eventually("the grandchild is swept", || !is_alive(pid_from(&path)));
    expect_works(&server, &session, &mut reader);
}

#[test]
fn an_agent_that_closes_its_output_but_lives_is_ended() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: bye ;; close-stdout");
    let end = reader.turn_end(&prompt);
    assert_eq!(end.name, "prompt-failed", "{}", end.data);
    expect_works(&server, &session, &mut reader);
    eventually("only one agent is left", || server.agents().len() == 1);
}

#[test]
fn a_flood_arrives_whole_and_in_order() {
    let server = Server::fake(&["--ring-size", "16MiB"]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "flood 20000");
    let text = reader.answer(&prompt);
    let numbers: Vec<u32> = text.split(['x', ' ']).filter_map(|part| part.parse().ok()).collect();
    assert_eq!(numbers, (0..20_000).collect::<Vec<u32>>());
    assert!(reader.count("session-output") < 20_000, "deltas of one block are joined");
}

#[test]
fn offsets_and_blocks_let_a_client_place_every_delta() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: a \u{1f600} b ;; slow 20 20");
    reader.answer(&prompt);
    let mut length = 0;
    for event in reader.seen.iter().filter(|event| event.name == "session-output") {
        assert_eq!(event.data["offset"], length as u64, "{}", event.data);
        assert!(event.data["messageId"].is_string() && event.data["block"].is_number());
        length += event.text("content").encode_utf16().count();
    }
}

#[test]
fn a_silent_agent_is_told_as_stalled_once_and_an_interrupt_ends_it() {
    let server = Server::fake(&["--stall-after", "1s", "--interrupt-timeout", "1s"]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "silent");
    let stalled = reader.until_name("session-stalled");
    assert!(stalled.data["silenceMs"].as_u64() >= Some(900), "{}", stalled.data);
    let quiet = Duration::from_millis(2500);
    while let support::Next::Event(event) = reader.next_within(quiet) {
        assert_ne!(event.name, "session-stalled", "once per silence");
    }
    assert_eq!(server.status(&session), "running", "told, not ended");
    server.interrupt(&session);
    let end = reader.turn_end(&prompt);
    assert_eq!(end.data["interrupted"], true, "no result in time: the ladder. {}", end.data);
    expect_works(&server, &session, &mut reader);
}

#[test]
fn an_interrupt_that_the_agent_obeys_keeps_the_agent() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: working ;; stubborn");
    reader.until_name("session-output");
    let agent = server.agents()[0].0;
    server.interrupt(&session);
    let end = reader.turn_end(&prompt);
    assert_eq!(end.name, "prompt-completed", "{}", end.data);
    assert_eq!((&end.data["interrupted"], &end.data["isError"]), (&json!(true), &json!(false)));
    expect_works(&server, &session, &mut reader);
    assert_eq!(server.agents()[0].0, agent, "the same process");
}

#[test]
fn noise_between_the_lines_does_no_harm() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "noise ;; say: before ;; noise ;; say: after ;; noise");
    assert_eq!(reader.answer(&prompt), "before after ");
    expect_works(&server, &session, &mut reader);
}

#[test]
fn a_line_of_an_unknown_type_passes_through() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "unknown-type ;; say: x");
    reader.answer(&prompt);
    let told = reader.seen.iter().any(|event| {
        event.name == "agent-event" && event.data["message"].to_string().contains("weather_report")
    });
    assert!(told, "{}", reader.story());
}

#[test]
fn a_character_cut_by_a_write_arrives_whole() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "utf8-split");
    assert_eq!(reader.answer(&prompt), "caf\u{e9} \u{1f600} \u{65e5}\u{672c}");
}

#[test]
fn a_long_line_arrives_in_events_of_bounded_size() {
    let server = Server::fake(&["--ring-size", "16MiB"]);
    let (session, mut reader) = session(&server);
    for size in [65_000, 70_000, 1_000_000, 3_000_000] {
        let prompt = server.prompt(&session, &format!("line {size}"));
        let text = reader.answer(&prompt);
        assert_eq!(text.len(), size);
        assert!(text.starts_with("0123456789abcdef") && !text.contains(' '));
    }
    for event in reader.seen.iter().filter(|event| event.name == "session-output") {
        assert!(event.text("content").len() <= 65_536, "{} bytes", event.text("content").len());
    }
}

#[test]
fn an_event_above_a_quarter_of_the_ring_keeps_its_place_and_a_preview() {
    let server = Server::fake(&["--ring-size", "256KiB"]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "line 150000");
    let end = reader.turn_end(&prompt);
    assert_eq!(end.name, "prompt-completed");
    let large: Vec<&Value> =
        reader.seen.iter().map(|event| &event.data["large"]).filter(|l| l.is_object()).collect();
    assert!(!large.is_empty(), "{}", reader.story());
    for one in large {
        assert!(one["bytes"].as_u64() >= Some(150_000), "{one}");
        assert!(one["field"].is_string() && one["href"].is_string(), "{one}");
        assert!(
            one["preview"].as_str().is_some_and(|text| text.starts_with("0123456789")),
            "{one}"
        );
    }
}

#[test]
fn a_line_above_the_bound_is_dropped_and_told_and_the_turn_goes_on() {
    let server = Server::fake(&["--line-max", "1MiB"]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: before ;; overlong 2000000 ;; say: after");
    assert_eq!(reader.answer(&prompt), "before after ");
    assert_eq!(last_error(&reader).text("code"), "line_too_long");
    expect_works(&server, &session, &mut reader);
}

#[test]
fn an_agent_that_never_reads_holds_nobody_up() {
    let server = Server::fake(&["--interrupt-timeout", "1s"]);
    let (session, mut reader) = session_with(&server, "never-read");
    // More than a pipe holds.
    let prompt = server.prompt(&session, &"z".repeat(1_000_000));
    for _ in 0..20 {
        server.get("/health").expect(200);
    }
    let (other, mut others) = session_with(&server, "unused");
    expect_works(&server, &other, &mut others);
    server.interrupt(&session);
    let end = reader.turn_end(&prompt);
    assert!(end.data["interrupted"] == true || end.name == "prompt-failed", "{}", end.data);
    server.close(&session);
}

#[test]
fn a_failed_turn_is_not_told_as_success() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "fail API Error: 500 the sky fell");
    let end = reader.turn_end(&prompt);
    assert!(end.name == "prompt-failed" || end.data["isError"] == true, "{}", end.data);
    assert!(end.data.to_string().contains("the sky fell"), "{}", end.data);
    expect_works(&server, &session, &mut reader);
}

#[test]
fn retries_of_the_api_are_told() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "retry 2 ;; say: recovered");
    reader.answer(&prompt);
    let retries: Vec<&Event> =
        reader.seen.iter().filter(|event| event.name == "agent-retry").collect();
    assert_eq!(retries.len(), 2, "{}", reader.story());
    assert_eq!(
        (&retries[1].data["attempt"], &retries[1].data["delayMs"]),
        (&json!(2), &json!(100))
    );
}

#[test]
fn thinking_is_told_apart_from_words() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "think: hm, let me see ;; say: done");
    assert_eq!(reader.answer(&prompt), "done ");
    assert_eq!(reader.output(&prompt, "thinking"), "hm, let me see");
}

#[test]
fn a_turn_that_nobody_asked_for_is_told_as_such() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "unprompted by myself ;; say: asked");
    assert_eq!(reader.answer(&prompt), "asked ");
    let end = reader.until("end of an unprompted turn", |event| {
        event.name == "prompt-completed" && event.data["promptId"].is_null()
    });
    assert!(end.data.get("origin").is_some(), "{}", end.data);
    let text: String = reader
        .seen
        .iter()
        .filter(|event| event.name == "session-output" && event.data["promptId"].is_null())
        .map(|event| event.text("content"))
        .collect();
    assert_eq!(text, "by myself");
    expect_works(&server, &session, &mut reader);
}

#[test]
fn an_agent_inherits_only_what_the_list_allows() {
    let options = Server::fake_options()
        .env("SECRET_OF_THE_HOST", "x")
        .env("LD_PRELOAD_NOT", "x")
        .env("CLAUDECODE", "1")
        .env("CLAUDE_CODE_SESSION_ID", "outer")
        .env("SIDESTREAM_HEARTBEAT", "15s")
        .env("LC_ALL", "C.UTF-8")
        .env("HTTPS_PROXY", "http://127.0.0.1:9")
        .env("ANTHROPIC_MODEL", "some-model")
        .env("ADDED_BY_FLAG", "x")
        .flags(&["--agent-env", "ADDED_BY_FLAG"]);
    let server = options.start();
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "env");
    let names: Vec<String> = serde_json::from_str(&reader.answer(&prompt)).unwrap();
    for wanted in [
        "PATH",
        "HOME",
        "LANG",
        "LC_ALL",
        "TMPDIR",
        "HTTPS_PROXY",
        "ANTHROPIC_MODEL",
        "ADDED_BY_FLAG",
    ] {
        assert!(names.iter().any(|name| name == wanted), "no {wanted}: {names:?}");
    }
    for foreign in [
        "SECRET_OF_THE_HOST",
        "LD_PRELOAD_NOT",
        "CLAUDECODE",
        "CLAUDE_CODE_SESSION_ID",
        "SIDESTREAM_HEARTBEAT",
    ] {
        assert!(!names.iter().any(|name| name == foreign), "{foreign}: {names:?}");
    }
}

#[test]
fn an_agent_is_started_as_the_protocol_asks() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "argv");
    let argv: Vec<String> = serde_json::from_str(&reader.answer(&prompt)).unwrap();
    let line = argv.join(" ");
    for wanted in [
        "-p",
        "--input-format stream-json",
        "--output-format stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool stdio",
        "--session-id=",
    ] {
        let spaced = line.replace("--input-format=", "--input-format ");
        let spaced = spaced.replace("--output-format=", "--output-format ");
        let spaced = spaced.replace("--permission-prompt-tool=", "--permission-prompt-tool ");
        assert!(spaced.contains(wanted), "no {wanted}: {line}");
    }
}

#[test]
fn an_agent_is_a_process_of_its_own_with_no_descriptor_of_ours() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: here");
    reader.answer(&prompt);
    let agent = server.agents()[0].0;
    let descriptors = std::fs::read_dir(format!("/proc/{agent}/fd")).unwrap().count();
    assert!(descriptors <= 4, "{descriptors} descriptors");
    let stat = std::fs::read_to_string(format!("/proc/{agent}/stat")).unwrap();
    let fields: Vec<&str> = stat.rsplit(')').next().unwrap().split_whitespace().collect();
    assert_eq!((fields[2], fields[3]), (&*agent.to_string(), &*agent.to_string()), "setsid");
    let status = std::fs::read_to_string(format!("/proc/{agent}/status")).unwrap();
    let mask = status.lines().find(|line| line.starts_with("SigBlk:")).unwrap();
    assert!(mask.ends_with("0000000000000000"), "{mask}");
}

#[test]
fn agents_above_the_bound_wait_their_turn_or_replace_an_idle_one() {
    let server = Server::fake(&["--agents-max", "1"]);
    let (one, mut first) = session(&server);
    let (two, mut second) = session_with(&server, "unused");
    let busy = server.prompt(&one, "say: busy ;; stubborn");
    first.until_name("session-output");
    let waiting = server.prompt(&two, "say: my turn");
    second.until_name("prompt-queued");
    assert_eq!(server.agents().len(), 1);
    server.interrupt(&one);
    first.turn_end(&busy);
    // The idle one is stopped for the one that has work.
    assert_eq!(second.answer(&waiting).trim(), "my turn");
    eventually("one agent", || server.agents().len() == 1);
    expect_works(&server, &one, &mut first);
}

#[test]
fn an_idle_agent_is_suspended_and_the_next_prompt_wakes_it() {
    let server = Server::fake(&["--suspend-after", "1s"]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: once");
    reader.answer(&prompt);
    eventually("the agent is stopped", || server.agents().is_empty());
    eventually("and told", || server.status(&session) == "suspended");
    let prompt = server.prompt(&session, "history");
    assert!(reader.answer(&prompt).contains("say: once"), "the conversation goes on");
    assert_eq!(reader.count("session-error"), 0, "{}", reader.story());
}

#[test]
fn a_killed_server_leaves_no_agent() {
    let mut server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "say: hello");
    reader.answer(&prompt);
    server.signal("KILL");
    assert!(server.wait(support::PATIENCE).is_some());
    server.expect_nothing_left();
}

#[test]
fn sessions_leave_no_descriptor_behind() {
    let server = Server::fake(&[]);
    let run = || {
        let (session, mut reader) = session(&server);
        expect_works(&server, &session, &mut reader);
        drop(reader);
        server.close(&session);
        server.await_streams(0);
    };
    run();
    let before = server.descriptors();
    for _ in 0..5 {
        run();
    }
    server.expect_nothing_left();
    eventually("all descriptors are given back", || server.descriptors() <= before);
}

#[test]
fn whoever_waits_first_for_a_start_and_then_for_an_end_is_told_so() {
    let server = Server::fake(&["--agents-max", "2", "--agents-starting-max", "1"]);
    let mut waiting: Vec<(String, Reader)> = (0..4).map(|_| session(&server)).collect();
    let prompts: Vec<String> =
        waiting.iter().map(|(session, _)| server.prompt(session, "slow 80 50")).collect();
    for (_, reader) in &mut waiting[2..] {
        let told = reader.until("a word of it", |event| event.data["reason"] == "agents_max");
        assert_eq!((&*told.name, told.text("status")), ("session-status", "idle"), "{}", told.data);
    }
    for ((_, reader), prompt) in waiting.iter_mut().zip(&prompts) {
        reader.turn_end(prompt);
        let said = reader.seen.iter().filter(|event| event.data["reason"] == "agents_max").count();
        assert!(said <= 1, "once: {}", reader.story());
    }
}

#[test]
fn an_adopted_conversation_that_does_not_exist_fails_its_prompts_and_begins_no_other() {
    let server = Server::fake(&[]);
    let directory = server.scratch.directory("root/adopts");
    let mode = format!("{directory}/fake-agent.mode");
    std::fs::write(&mode, "refuse-resume").unwrap();
    let conversation = "6f3a9c21-0000-4000-8000-178100000107";
    let body = json!({"workingDir": directory, "conversation": conversation});
    let created = server.post("/api/sessions", body).expect(201).json();
    let session = created["sessionId"].as_str().unwrap().to_owned();
    let mut reader = server.stream(&session);
    reader.joined();
    for words in ["say: one", "say: two"] {
        let prompt = server.prompt(&session, words);
        let error = expect_failure(&mut reader, &prompt, "conversation_not_found");
        assert!(error.text("error").contains("No conversation found"), "{}", error.data);
    }
    assert_eq!(reader.count("prompt-started"), 0, "{}", reader.story());
    // Once it is there, it is gone on with.
    std::fs::remove_file(&mode).unwrap();
    let prompt = server.prompt(&session, "argv");
    let argv = reader.answer(&prompt);
    assert!(argv.contains(&format!("--resume={conversation}")), "{argv}");
}

#[test]
fn a_prompt_that_waits_for_trust_is_cancelled_by_an_interrupt_and_the_question_withdrawn() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let servers = "{\"mcpServers\": {\"x\": {\"command\": \"true\"}}}";
    std::fs::write(server.scratch.join("root/plain/.mcp.json"), servers).unwrap();
    let path = format!("/api/session/{session}");
    for by_interrupt in [true, false] {
        let first = server.prompt(&session, "say: one");
        let asked = reader.until_name("approval-required");
        assert_eq!(asked.text("kind"), "trust", "{}", asked.data);
        let second = server.prompt(&session, "say: two");
        for (prompt, left) in [(&first, 1), (&second, 0)] {
            match by_interrupt {
                true => {
                    let answer = server.post(&format!("{path}/interrupt"), json!({})).expect(200);
                    assert_eq!(answer.json()["interrupted"], true, "{answer}");
                }
                false => {
                    server.send("DELETE", &format!("{path}/queue/{prompt}")).expect(200);
                }
            }
            let end = reader.turn_end(prompt);
            assert_eq!(end.name, "prompt-cancelled", "{}", end.data);
            assert_eq!(end.data["interrupted"], by_interrupt, "{}", end.data);
            let open = server.told(&format!("{path}/approvals"))["approvals"].clone();
            assert_eq!(open.as_array().unwrap().len(), left, "{open}");
        }
        let withdrawn = reader.until_name("approval-withdrawn");
        assert_eq!(withdrawn.data["approvalId"], asked.data["approvalId"]);
        assert_eq!(withdrawn.text("reason"), "prompt_cancelled");
        let late = server.decide(&session, &asked, "allow", json!({}));
        assert_eq!(late.expect_error(409).1, "approval_withdrawn");
    }
    // The next prompt asks anew, and an answer lets it go.
    let prompt = server.prompt(&session, "say: alive and well");
    let asked = reader.until_name("approval-required");
    server.decide(&session, &asked, "allow", json!({})).expect(200);
    assert_eq!(reader.answer(&prompt).trim(), "alive and well");
}
