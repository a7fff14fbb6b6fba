//! What survives the server: events, cursors, prompts, sessions; and what a bad disk does to it.

mod support;

use serde_json::{Value, json};
use std::time::{Duration, Instant};
use support::{
    Event, Next, Options, PATIENCE, Reader, Rig, eventually, fixture, http, ids_of, segments,
};

fn ends(event: &Event, prompt: &str) -> bool {
    let end = ["prompt-completed", "prompt-failed", "prompt-cancelled"];
    end.contains(&&*event.name) && event.text("promptId") == prompt
}

#[test]
fn a_clean_restart_loses_nothing_and_the_conversation_goes_on() {
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut before = rig.stream(&session, "", None);
    before.joined();
    let first = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
    before.until("the first end", |event| ends(event, &first));
    let cursor = before.last_id.clone().unwrap();
    rig.stop();
    before.until_end();
    let cursor_at_end = before.last_id.clone().unwrap();
    rig.again();
    let row = rig.get(&format!("/api/session/{session}")).expect(200).json()["session"].clone();
    assert_eq!(row["status"], "suspended", "{row}");
    assert_eq!(row["workingDir"], rig.options.scratch().join("root"), "{row}");
    assert_eq!(row["lastPrompt"], "one", "{row}");
    for cursor in [&cursor, &cursor_at_end] {
        let mut after = rig.stream(&session, "", Some(cursor));
        assert_eq!(after.joined().data["resume"], "ok", "{}", after.story());
        let all: Vec<String> = ids_of(&rig.journal(&session));
        let at = all.iter().position(|id| id == cursor).expect("the cursor is in the journal");
        eventually("the rest", || {
            after.next_within(Duration::from_millis(20));
            after.ids() == ids_of(&rig.journal(&session))[at + 1..]
        });
    }
    let mut after = rig.stream(&session, "?replay=all", None);
    after.joined();
    assert_eq!(after.ids(), ids_of(&rig.journal(&session)));
    let second = rig.prompt(&session, "two")["promptId"].as_str().unwrap().to_owned();
    after.until("the second end", |event| ends(event, &second));
    assert_eq!(after.output(&second, "stdout"), "got two\n");
    let page = rig.get(&format!("/api/session/{session}/history?limit=1000")).expect(200).json();
    let told: Vec<&str> =
        page["events"].as_array().unwrap().iter().map(|e| e["id"].as_str().unwrap()).collect();
    assert_eq!(told, ids_of(&rig.journal(&session))[..told.len()], "{page}");
    let poll = format!("/api/session/{session}/events/poll?after={cursor}");
    let page = rig.get(&poll).expect(200).json();
    let all = ids_of(&rig.journal(&session));
    let at = all.iter().position(|id| *id == cursor).unwrap();
    assert_eq!(page["events"][0]["id"], all[at + 1].as_str(), "{page}");
    assert_eq!(page["resume"], "ok");
}

#[test]
fn a_running_prompt_fails_and_a_queued_one_runs_when_the_server_was_killed() {
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let hang = rig.prompt(&session, "hang")["promptId"].as_str().unwrap().to_owned();
    let mut reader = rig.stream(&session, "", None);
    reader.until("the start", |event| event.name == "prompt-started");
    let path = format!("/api/session/{session}/prompt");
    let body = json!({"command": "later on", "promptId": "mine"});
    let answer = rig.post(&path, body.clone()).expect(202).json();
    let cursor = reader.last_id.clone();
    rig.kill();
    rig.again();
    let mut reader = rig.stream(&session, "", cursor.as_deref());
    let failed = reader.until("the failure", |event| ends(event, &hang));
    assert_eq!(failed.name, "prompt-failed");
    assert_eq!(failed.data["code"], "server_restarted");
    let end = reader.until("the end of the queued one", |event| ends(event, "mine"));
    assert_eq!(end.name, "prompt-completed", "{}", end.data);
    assert_eq!(reader.output("mine", "stdout"), "got later on\n");
    // The retry of a client that never saw its answer.
    let again = rig.post(&path, body).expect(202).json();
    assert_eq!(again["lastEventId"], answer["lastEventId"]);
    assert_eq!(again["promptId"], "mine");
    let other = rig.post(&path, json!({"command": "other", "promptId": "mine"}));
    assert_eq!(other.expect(409).json()["code"], "prompt_id_reused");
    rig.kill();
    rig.again();
    let mut all = rig.stream(&session, "?replay=all", None);
    all.joined();
    let starts = |id: &str| {
        let is_it = |e: &&Event| e.name == "prompt-started" && e.text("promptId") == id;
        all.seen.iter().filter(is_it).count()
    };
    assert_eq!((starts("mine"), starts(&hang)), (1, 1), "{}", all.story());
}

#[test]
fn what_a_dead_agent_asked_and_began_is_ended_at_the_restart() {
    support::need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let mut rig = Rig::start(&["--agent", &agent, "--ladder-eof", "300ms"]);
    let session = rig.create();
    let script = "think: hm ;; say: before ;; approve Bash {\"command\":\"ls\"}";
    rig.prompt(&session, script);
    let mut reader = rig.stream(&session, "?replay=all", None);
    let asked = reader.until_name("approval-required");
    rig.kill();
    rig.again();
    let mut reader = rig.stream(&session, "?replay=all", None);
    let withdrawn = reader.until_name("approval-withdrawn");
    assert_eq!(withdrawn.data["approvalId"], asked.data["approvalId"]);
    assert_eq!(withdrawn.data["reason"], "server_restarted");
    assert_eq!(reader.until_name("prompt-failed").data["code"], "server_restarted");
    let status = reader.until("suspended", |event| event.text("status") == "suspended");
    assert_eq!(status.name, "session-status");
    let prompt = rig.prompt(&session, "history")["promptId"].as_str().unwrap().to_owned();
    assert!(reader.answer(&prompt).contains("think: hm"), "the conversation goes on");
}

#[test]
fn a_text_that_was_being_written_when_the_server_was_killed_is_ended_at_the_restart() {
    let mut rig = Rig::start(&["--agent", "demo", "--delta-hold", "0"]);
    let session = rig.create();
    let prompt = rig.prompt(&session, "slow 1000 20")["promptId"].as_str().unwrap().to_owned();
    let mut reader = rig.stream(&session, "?replay=all", None);
    let delta = reader.until_name("session-output");
    rig.kill();
    rig.again();
    let mut reader = rig.stream(&session, "?replay=all", None);
    let block = reader.until_name("message-block");
    assert_eq!(block.data["messageId"], delta.data["messageId"]);
    assert_eq!(block.data["aborted"], true);
    assert_eq!(block.data["text"], reader.output(&prompt, "stdout"), "all that was told");
    assert_eq!(reader.until_name("prompt-failed").data["code"], "server_restarted");
}

#[test]
fn a_compact_view_from_disk_passes_over_text_that_is_told_again() {
    let mut rig = Rig::start(&["--agent", "demo", "--delta-hold", "0"]);
    let session = rig.create();
    let first = rig.prompt(&session, "think: hm ;; say 30 words")["promptId"].clone();
    rig.stream(&session, "", None).turn_end(first.as_str().unwrap());
    rig.kill();
    rig.again();
    let path = format!("/api/session/{session}");
    let start = ids_of(&rig.journal(&session))[0].clone();
    for (page, compact) in [
        (format!("{path}/history?limit=1000"), false),
        (format!("{path}/history?limit=1000&view=compact"), true),
        (format!("{path}/events/poll?wait=0&after={start}"), false),
        (format!("{path}/events/poll?wait=0&after={start}&view=compact"), true),
        (format!("/api/events/poll?wait=0&after={start}&view=compact"), true),
    ] {
        let told = rig.get(&page).expect(200).json();
        let count = |name: &str| {
            let events = told["events"].as_array().unwrap().iter();
            events.filter(|event| event["event"] == name).count()
        };
        assert_eq!(count("session-output") == 0, compact, "{page}: {told}");
        assert_eq!(count("message-block"), 3, "{page}: {told}");
        assert_eq!(told["unknown"].is_array(), page.starts_with("/api/events"), "{page}: {told}");
    }
}

#[test]
fn fifty_readers_get_everything_from_the_disk_while_output_goes_on() {
    let flags = ["--ring-size", "64KiB", "--all-ring-size", "64KiB", "--delta-hold", "0ms"];
    let mut rig = Rig::lines(&flags);
    let session = rig.create();
    let prompt = rig.prompt(&session, "count 20000")["promptId"].as_str().unwrap().to_owned();
    let path = format!("/api/session/{session}/events?replay=all");
    let mut readers: Vec<Reader> = Vec::new();
    for n in 0..50 {
        let path = if n % 5 == 4 { "/api/events?replay=all" } else { &path };
        readers.push(Reader::open(rig.address, path, &[]));
        if n == 30 {
            readers[0].until("the end", |event| ends(event, &prompt));
        }
    }
    readers[0].turn_end(&prompt);
    eventually("the end on disk", || {
        String::from_utf8(rig.journal(&session)).unwrap().contains("prompt-completed")
    });
    let want = |reader: &mut Reader| {
        if reader.count("replay-complete") == 0 {
            reader.until_name("replay-complete");
        }
        reader.turn_end(&prompt);
        let told = reader.ids();
        let all = ids_of(&rig.journal(&session));
        assert!(all.len() > 20, "only {} events", all.len());
        assert_eq!(told, all[..told.len()]);
        let complete = reader.seen.iter().position(|event| event.name == "replay-complete");
        let complete = complete.expect("replay-complete");
        let replayed = reader.seen[..complete].iter().filter(|event| event.is_logged()).count();
        assert_eq!(reader.seen[complete].data["count"], replayed as u64);
        assert_eq!(reader.output(&prompt, "stdout").lines().count(), 20000);
    };
    readers.iter_mut().for_each(want);
    assert!(rig.journal(&session).len() > 3 * 65536, "larger than the ring");
    // Filters and cursors read the same journal.
    let ids = ids_of(&rig.journal(&session));
    rig.kill();
    rig.again();
    let mut some = rig.stream(&session, "?replay=all&types=-session-output", None);
    some.joined();
    assert!(some.seen.iter().all(|event| event.name != "session-output"));
    assert_eq!(some.count("prompt-completed"), 1);
    for at in [0, 1, ids.len() / 2, ids.len() - 2] {
        let mut rest = rig.stream(&session, "", Some(&ids[at]));
        let connected = rest.joined();
        assert_eq!(connected.data["resume"], "ok");
        assert_eq!(connected.data["earliestId"], ids[0].as_str());
        assert!(rest.ids().starts_with(&ids[at + 1..]), "from {at}");
        let mut rest =
            Reader::open(rig.address, "/api/events", &[("Last-Event-ID", ids[at].as_str())]);
        assert_eq!(rest.joined().data["resume"], "ok");
        assert!(rest.ids().starts_with(&ids[at + 1..]), "of all, from {at}");
    }
}

#[test]
fn a_full_disk_is_told_streaming_goes_on_and_the_journal_recovers() {
    support::need("prlimit");
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    rig.limit_files("100");
    let first = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&first);
    assert_eq!(reader.output(&first, "stdout"), "got one\n", "{}", reader.story());
    assert!(reader.seen.iter().any(|event| event.text("code") == "journal_failed"));
    let told = rig.get("/ready").expect(503).json();
    assert_eq!(told["code"], "journal_failed", "{told}");
    assert!(told["error"].as_str().unwrap().contains(&session), "{told}");
    rig.limit_files("unlimited");
    eventually("ready again", || rig.get("/ready").status == 200);
    let second = rig.prompt(&session, "two")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&second);
    rig.kill();
    rig.again();
    let mut again = rig.stream(&session, "?replay=all", None);
    again.joined();
    let told: Vec<String> = reader.ids();
    let kept = again.ids();
    let at = kept.iter().position(|id| *id == told[0]).expect("the first event is kept");
    assert_eq!(kept[at..at + told.len()], told, "what the ring still had was written later");
}

#[test]
fn what_the_ring_lost_while_the_disk_was_full_is_told_as_lost() {
    support::need("prlimit");
    let mut rig = Rig::lines(&["--ring-size", "64KiB", "--delta-hold", "0ms"]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    let early = reader.last_id.clone().unwrap();
    rig.limit_files("100");
    rig.prompt(&session, "count 20000");
    // Not by a reader: while the disk is full there is nothing behind the small ring, and one that
    // is slow on a busy machine is cut.
    let status = format!("/api/session/{session}/status");
    eventually("the turn is over", || rig.get(&status).json()["status"] == "suspended");
    rig.limit_files("unlimited");
    eventually("ready again", || rig.get("/ready").status == 200);
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    let lost = match reader.seen.iter().find(|event| event.name == "events-lost") {
        Some(event) => event.clone(),
        None => reader.until_name("events-lost"),
    };
    assert_eq!(lost.data["reason"], "journal_failed");
    eventually("ready again", || rig.get("/ready").status == 200);
    for restart in [false, true] {
        if restart {
            eventually("the word of it on disk", || {
                String::from_utf8_lossy(&rig.journal(&session)).contains("events-lost")
            });
            rig.kill();
            rig.again();
        }
        let mut stale = rig.stream(&session, "", Some(&early));
        assert_eq!(stale.joined().data["resume"], "gap", "restarted: {restart}");
        let mut last = rig.stream(&session, "", Some(lost.data["to"].as_str().unwrap()));
        assert_eq!(last.joined().data["resume"], "ok", "restarted: {restart}");
        let mut all = rig.stream(&session, "?replay=all", None);
        all.joined();
        assert_eq!(
            all.seen.iter().find(|event| event.is_logged()).unwrap().name,
            "session-created"
        );
        assert_eq!(all.count("events-lost"), 1, "{}", all.story());
    }
}

#[test]
fn retention_takes_the_oldest_segments_and_old_cursors_are_told() {
    let flags = ["--journal-max", "8MiB", "--ring-size", "64KiB", "--delta-hold", "0ms"];
    let mut rig = Rig::lines(&flags);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    let early = reader.last_id.clone().unwrap();
    // Each line is told in about eight times its size, unless the pipe joins them.
    let dir = rig.data("sessions").join(&session);
    let size = || segments(&dir).iter().map(|path| path.metadata().unwrap().len()).sum::<u64>();
    let first = segments(&dir)[0].clone();
    let start = Instant::now();
    while first.exists() {
        assert!(start.elapsed() < 4 * PATIENCE, "{} bytes after {:?}", size(), start.elapsed());
        let prompt = rig.prompt(&session, "count 60000")["promptId"].as_str().unwrap().to_owned();
        reader.turn_end(&prompt);
        assert!(size() <= 13 << 20, "{} bytes", size());
    }
    for restart in [false, true] {
        if restart {
            rig.stop();
            rig.again();
        }
        let mut stale = rig.stream(&session, "", Some(&early));
        assert_eq!(stale.joined().data["resume"], "gap", "restarted: {restart}");
        let mut all = rig.stream(&session, "?replay=all", None);
        let connected = all.joined();
        let ids = ids_of(&rig.journal(&session));
        assert_eq!(connected.data["earliestId"], ids[0].as_str());
        assert_eq!(all.ids()[..], ids[..all.ids().len()]);
    }
    let row = rig.get(&format!("/api/session/{session}")).expect(200).json()["session"].clone();
    assert_eq!(row["workingDir"], rig.options.scratch().join("root"), "from the snapshot: {row}");
}

#[test]
fn the_retry_of_a_prompt_that_has_ended_is_given_its_end_from_memory_and_from_disk() {
    let mut rig = Rig::lines(&["--ring-size", "64KiB", "--delta-hold", "0ms"]);
    let session = rig.create();
    let path = format!("/api/session/{session}/prompt?wait=30");
    let body = json!({"command": "one", "promptId": "mine"});
    let first = rig.post(&path, body.clone()).expect(200).json();
    assert_eq!(first["event"], "prompt-completed", "{first}");
    let again = |rig: &Rig, when: &str| {
        let told = rig.post(&path, body.clone()).expect(200).json();
        for member in ["event", "data", "promptId", "lastEventId"] {
            assert_eq!(told[member], first[member], "{when}, {member}: {told}");
        }
        // Who does not wait is given the first answer.
        let taken = rig.post(&path.replace("wait=30", "wait=0"), body.clone()).expect(202).json();
        assert_eq!(taken["position"], 0, "{when}: {taken}");
    };
    again(&rig, "from the ring");
    rig.post(&path, json!({"command": "count 20000"})).expect(200);
    assert!(rig.journal(&session).len() > 3 * 65536, "larger than the ring");
    again(&rig, "from the disk");
    for end in ["kill", "stop"] {
        match end {
            "kill" => rig.kill(),
            _ => rig.stop(),
        }
        rig.again();
        again(&rig, end);
    }
    let other = json!({"command": "two", "promptId": "mine"});
    assert_eq!(rig.post(&path, other).expect(409).json()["code"], "prompt_id_reused");
}

#[test]
fn the_ids_of_a_nodes_sessions_say_whose_they_are() {
    let mut rig = Rig::start(&["--agent", "demo", "--node", "n1"]);
    let session = rig.create();
    let form: Vec<&str> = session.split('-').collect();
    assert!(
        matches!(form[..], ["session", "n1", ms, random] if ms.len() == 13 && random.len() == 8)
    );
    rig.kill();
    rig.again();
    assert_eq!(
        rig.get(&format!("/api/session/{session}")).expect(200).json()["session"]["id"],
        session
    );
}

#[test]
fn a_session_in_which_nothing_happens_stays_where_it_is_in_the_list() {
    let mut rig = Rig::start(&["--agent", "demo", "--suspend-after", "300ms"]);
    let sessions: Vec<String> = (0..3).map(|_| rig.create()).collect();
    // The oldest was active last.
    for session in sessions.iter().rev() {
        let path = format!("/api/session/{session}/prompt?wait=30");
        rig.post(&path, json!({"command": "say: x"})).expect(200);
    }
    let rows = |rig: &Rig| {
        let rows = rig.get("/api/sessions").expect(200).json()["sessions"].clone();
        let row = |row: &serde_json::Value| {
            (row["sessionId"].as_str().unwrap().to_owned(), row["lastActivityAt"].clone())
        };
        rows.as_array().unwrap().iter().map(row).collect::<Vec<_>>()
    };
    let before = rows(&rig);
    assert_eq!(
        before.iter().map(|(id, _)| id).collect::<Vec<_>>(),
        sessions.iter().collect::<Vec<_>>()
    );
    let status = |rig: &Rig, id: &str| rig.get(&format!("/api/session/{id}/status")).json();
    let suspended = |rig: &Rig| {
        let mut sessions = sessions.iter();
        sessions.all(|id| status(rig, id)["status"] == "suspended")
    };
    eventually("all are suspended", || suspended(&rig));
    assert_eq!(rows(&rig), before, "a process that is stopped is no activity");
    for end in ["kill", "stop", "kill"] {
        match end {
            "kill" => rig.kill(),
            _ => rig.stop(),
        }
        rig.again();
        eventually("all are there", || suspended(&rig));
        assert_eq!(rows(&rig), before, "after {end}: a restart is none either");
    }
    // What a restart ends is ended by it, and not by anybody who is active.
    rig.prompt(&sessions[2], "slow 1000 20");
    let mut reader = rig.stream(&sessions[2], "", None);
    reader.until_name("session-output");
    rig.kill();
    rig.again();
    let ended = rows(&rig);
    assert_eq!(ended[0].0, sessions[2], "it was active last");
    assert_eq!(ended[1..], before[..2]);
    rig.kill();
    rig.again();
    assert_eq!(rows(&rig), ended, "and how it ended is not new with each start");
}

#[test]
fn large_fields_and_large_prompts_survive() {
    let mut rig = Rig::lines(&["--ring-size", "64KiB"]);
    let session = rig.create();
    rig.prompt(&session, "hang");
    let mut reader = rig.stream(&session, "", None);
    reader.until("the start", |event| event.name == "prompt-started");
    let command = format!("say {}", "x".repeat(100_000));
    let path = format!("/api/session/{session}/prompt");
    rig.post(&path, json!({"command": command, "promptId": "long"})).expect(202);
    let queued = reader.until("it", |event| event.text("promptId") == "long");
    let href = queued.data["large"]["href"].as_str().expect("a large field").to_owned();
    assert_eq!(rig.get(&href).expect(200).text(), command);
    rig.kill();
    rig.again();
    assert_eq!(rig.get(&href).expect(200).text(), command);
    let mut reader = rig.stream(&session, "?replay=all", None);
    reader.turn_end("long");
    let text = reader.output("long", "stdout");
    assert_eq!(text.len(), command.len() + 5, "it ran as it was sent");
}

#[test]
fn a_backup_made_under_a_running_server_does_not_know_the_cursors_that_came_after_it() {
    let mut rig = Rig::lines(&[]);
    let (session, deleted) = (rig.create(), rig.create());
    let turn = |rig: &Rig, command: &str| {
        let prompt = rig.prompt(&session, command)["promptId"].as_str().unwrap().to_owned();
        let mut reader = rig.stream(&session, "", None);
        reader.turn_end(&prompt);
        let status = format!("/api/session/{session}/status");
        eventually("its process is gone", || rig.get(&status).json()["status"] == "suspended");
        rig.get(&status).json()["lastEventId"].as_str().unwrap().to_owned()
    };
    turn(&rig, "one");
    // The newest number is that of a session that was deleted: it stands in no journal.
    let path = format!("/api/session/{deleted}");
    http::request(rig.address, "DELETE", &path, &[], b"").expect(200);
    let known = rig.get("/api/sessions").json()["lastEventId"].as_str().unwrap().to_owned();
    let scratch = rig.options.scratch().path();
    let (data, copy) = (scratch.join("data"), scratch.join("copy"));
    let copied = |from: &std::path::Path, to: &std::path::Path| {
        let _ = std::fs::remove_dir_all(to);
        let status = std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap();
        assert!(status.success());
    };
    copied(&data, &copy);
    let beyond = turn(&rig, "two");
    rig.kill();
    copied(&copy, &data);
    // As long as nothing new has happened, and after another start that knows it only by what is written.
    for start in 0..3 {
        rig.again();
        let page = rig.get(&format!("/api/events/poll?after={beyond}&wait=0")).expect(200).json();
        assert_eq!(page["resume"], "gap", "start {start}: {page}");
        let mut stale = rig.stream(&session, "", Some(&beyond));
        assert_eq!(stale.joined().data["resume"], "gap", "start {start}");
        let mut good = rig.stream(&session, "", Some(&known));
        assert_eq!(good.joined().data["resume"], "ok", "start {start}");
        turn(&rig, "three");
        rig.kill();
    }
}

#[test]
fn a_deleted_session_is_erased_and_stays_gone() {
    let mut rig = Rig::lines(&[]);
    let (kept, gone) = (rig.create(), rig.create());
    let before = rig.stream(&gone, "", None).joined().data["latestId"].clone();
    http::request(rig.address, "DELETE", &format!("/api/session/{gone}"), &[], b"").expect(200);
    rig.kill();
    rig.again();
    rig.get(&format!("/api/session/{gone}")).expect(404);
    rig.get(&format!("/api/session/{kept}")).expect(200);
    assert!(!rig.data("sessions").join(&gone).exists());
    let cursor = before.as_str().unwrap();
    let mut all = Reader::open(rig.address, "/api/events", &[("Last-Event-ID", cursor)]);
    assert_eq!(all.joined().data["resume"], "gap", "its end cannot be told any more");
}

#[test]
fn an_agent_that_is_not_configured_any_more_keeps_its_sessions() {
    let mut rig = Rig::lines(&["--agent", "other=lines:cat"]);
    let body = json!({"workingDir": rig.options.scratch().join("root"), "agent": "other"});
    let session = rig.post("/api/sessions", body).expect(201).json()["sessionId"].clone();
    let session = session.as_str().unwrap();
    rig.stop();
    let Rig { options, .. } = &mut rig;
    let without = std::mem::replace(options, Options::new());
    let data = without.scratch().join("data");
    let root = without.scratch().join("root");
    let stand_in = Options::new().flags(&["--agent", "demo", "--data-dir", &data, "--root", &root]);
    rig.options = stand_in;
    rig.again();
    let mut reader = rig.stream(session, "", None);
    let prompt = rig.prompt(session, "x")["promptId"].as_str().unwrap().to_owned();
    assert_eq!(reader.turn_end(&prompt).data["code"], "unknown_agent");
    let names = rig.get("/api/agents").expect(200).json();
    assert_eq!(names["agents"].as_array().unwrap().len(), 1, "{names}");
    drop(rig);
    drop(without);
}

#[test]
fn a_tail_that_never_reached_the_disk_is_cut_and_the_rest_is_kept() {
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&prompt);
    rig.kill();
    let whole = rig.journal(&session);
    let ids = ids_of(&whole);
    let file = segments(&rig.data("sessions").join(&session)).pop().unwrap();
    for (cut, zeros) in [(1, false), (2, true), (50, false), (120, true), (whole.len() - 3, true)] {
        let mut torn = whole.clone();
        torn.truncate(whole.len() - cut);
        if zeros {
            torn.resize(whole.len(), 0);
        }
        std::fs::write(&file, &torn).unwrap();
        let kept = memchr::memmem::rfind(&torn, b"\n\n").map_or(0, |at| at + 2);
        let kept = ids_of(&whole[..kept]).len();
        rig.again();
        let mut again = rig.stream(&session, "?replay=all", None);
        again.joined();
        assert_eq!(again.ids()[..kept], ids[..kept], "{cut} bytes cut");
        rig.kill();
    }
}

#[test]
fn a_data_directory_that_cannot_be_used_is_named_and_nothing_is_changed() {
    let mut rig = Rig::lines(&[]);
    let (session, other) = (rig.create(), rig.create());
    let (code, told) = rig.refused();
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains("in use by another"), "{told}");
    rig.stop();
    let format = rig.data("format");
    let epochs = rig.data("epochs");
    for (path, text, says) in [
        (&format, "2\n", "newer sidestream"),
        (&format, "x\n", "damaged"),
        (&epochs, "start 1\n", "damaged at line 1"),
    ] {
        let good = std::fs::read(path).unwrap();
        let before = rig.journal(&session);
        std::fs::write(path, text).unwrap();
        let (code, told) = rig.refused();
        assert_eq!(code, Some(2), "{told}");
        assert!(told.contains(says) && told.contains(path.to_str().unwrap()), "{told}");
        assert_eq!(std::fs::read(path).unwrap(), text.as_bytes());
        assert_eq!(rig.journal(&session), before);
        std::fs::write(path, good).unwrap();
    }
    // One damaged session keeps no other from loading, and stays as it is.
    let dir = rig.data("sessions").join(&other);
    let segment = segments(&dir)[0].clone();
    std::fs::rename(&segment, dir.join("0000000000000100-0000000000000100.log")).unwrap();
    std::fs::write(dir.join("session.json"), "{").unwrap();
    rig.again();
    rig.get(&format!("/api/session/{session}")).expect(200);
    rig.get(&format!("/api/session/{other}")).expect(404);
    rig.stop();
    eventually("a word of the damaged one", || {
        let told = rig.stderr.lock().unwrap().clone();
        told.contains("left out") && told.contains(&other)
    });
    assert_eq!(std::fs::read(dir.join("session.json")).unwrap(), b"{");
}

#[test]
fn memory_survives_nothing_and_says_so() {
    let mut rig = Rig::lines(&["--durability", "memory"]);
    let session = rig.create();
    let cursor = rig.stream(&session, "", None).joined().data["latestId"].clone();
    rig.stop();
    rig.again();
    rig.get(&format!("/api/session/{session}")).expect(404);
    let cursor = cursor.as_str().unwrap();
    let mut all = Reader::open(rig.address, "/api/events", &[("Last-Event-ID", cursor)]);
    assert_eq!(all.joined().data["resume"], "gap");
    assert!(!rig.data("sessions").exists());
}

#[test]
fn sync_does_all_of_it_too() {
    let mut rig = Rig::lines(&["--durability", "sync"]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "count 2000")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&prompt);
    let cursor = reader.last_id.clone().unwrap();
    rig.kill();
    rig.again();
    let mut again = rig.stream(&session, "", Some(&cursor));
    assert_eq!(again.joined().data["resume"], "ok");
    assert!(matches!(again.next_within(Duration::from_millis(1)), Next::Silence | Next::Event(_)));
}

#[test]
fn images_are_served_after_a_restart() {
    // One red pixel.
    const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let image = json!({"mediaType": "image/png", "data": PIXEL});
    let body = json!({"command": "look", "promptId": "p", "images": [image.clone(), image]});
    rig.post(&format!("/api/session/{session}/prompt"), body).expect(202);
    let queued = reader.until("it", |event| event.text("promptId") == "p");
    let href = queued.data["images"][1]["href"].as_str().expect("an href").to_owned();
    let before = rig.get(&href).expect(200);
    rig.kill();
    rig.again();
    let after = rig.get(&href).expect(200);
    assert_eq!(after.header("content-type"), Some("image/png"));
    assert!(after.body.starts_with(b"\x89PNG") && after.body == before.body);
    let base = href.strip_suffix("1").unwrap();
    rig.get(&format!("{base}2")).expect(404);
    let other = rig.create();
    rig.get(&href.replace(&session, &other)).expect(404);
}

#[test]
fn an_old_cursor_of_many_sessions_gets_the_newest_of_their_journals() {
    let flags = ["--replay-bytes", "64KiB", "--delta-hold", "0ms"];
    let mut rig = Rig::lines(&flags);
    let sessions = [rig.create(), rig.create(), rig.create()];
    for round in 0..6 {
        for session in &sessions {
            let id = format!("{session}-{round}");
            let body = json!({"command": "count 2000", "promptId": id});
            rig.post(&format!("/api/session/{session}/prompt?wait=30"), body).expect(200);
        }
    }
    rig.stop();
    rig.again();
    let number = |id: &String| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    for chosen in [&sessions[..], &sessions[..1], &sessions[1..]] {
        let mut all: Vec<String> =
            chosen.iter().flat_map(|session| ids_of(&rig.journal(session))).collect();
        all.sort_by_key(number);
        let path = format!("/api/events?sessions={}", chosen.join(","));
        let mut reader = Reader::open(rig.address, &path, &[("Last-Event-ID", "nonsense-1")]);
        let connected = reader.joined();
        assert_eq!(connected.data["resume"], "gap");
        let told = reader.ids();
        assert!(all.ends_with(&told), "the newest, in order: {} of {}", told.len(), all.len());
        let events = reader.seen.iter().filter(|event| event.is_logged());
        let size: usize = events.map(|event| event.bytes.len()).sum();
        assert!((24 << 10..=64 << 10).contains(&size), "{size} bytes");
        let before = &all[all.len() - told.len() - 1];
        let id = connected.id.expect("where this stream goes on");
        assert!(number(&id) >= number(before) && number(&id) < number(&told[0]), "{id}");
    }
}

#[test]
fn a_compact_view_passes_over_deltas_on_disk_and_goes_on_where_the_ring_is_short() {
    support::need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let mut rig = Rig::start(&["--agent", &agent, "--delta-hold", "0ms", "--ladder-eof", "300ms"]);
    let session = rig.create();
    let path = format!("/api/session/{session}/prompt?wait=30");
    let command = "flood 200 40 ;; stderr kept";
    rig.post(&path, json!({"command": command, "promptId": "p"})).expect(200);
    rig.stop();
    rig.again();
    for all in ["", "&replay=all"] {
        let mut whole = rig.stream(&session, &format!("?x=1{all}"), None);
        whole.joined();
        let mut compact = rig.stream(&session, &format!("?view=compact{all}"), None);
        compact.joined();
        let deltas = |reader: &Reader| {
            let is_delta = |e: &&Event| e.name == "session-output" && e.text("type") == "stdout";
            reader.seen.iter().filter(is_delta).count()
        };
        assert!(deltas(&whole) > 100, "{all} {}", whole.story());
        assert_eq!(deltas(&compact), 0, "{all} {}", compact.story());
        let rest = |reader: &Reader| {
            let is_delta = |e: &&Event| e.name == "session-output" && e.text("type") == "stdout";
            let rest = reader.seen.iter().filter(|e| e.is_logged() && !is_delta(e));
            rest.filter_map(|event| event.id.clone()).collect::<Vec<String>>()
        };
        assert_eq!(rest(&compact), rest(&whole), "{all}: everything else is the same");
        assert!(compact.count("message-block") > 0, "{}", compact.story());
    }
}

#[test]
fn deltas_of_a_block_that_goes_on_are_no_past_for_a_compact_view() {
    support::need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let flags = ["--ring-size", "64KiB", "--delta-hold", "0ms", "--ladder-eof", "300ms"];
    let rig = Rig::start(&[&["--agent", &agent][..], &flags].concat());
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let command = "think: a block that ends ;; flood 1000 100 ;; silent";
    let prompt = rig.prompt(&session, command)["promptId"].as_str().unwrap().to_owned();
    reader.until("the last delta", |event| event.text("content").contains("999 "));
    let mut compact = rig.stream(&session, "?view=compact&replay=all", None);
    compact.joined();
    let text = compact.output(&prompt, "stdout");
    assert!(text.starts_with("0 xx") && text.contains("999 "), "{} bytes", text.len());
    assert_eq!(compact.output(&prompt, "thinking"), "");
    assert_eq!(compact.count("message-block"), 1, "{}", compact.story());
}

#[test]
fn what_a_session_was_allowed_and_where_it_stands_survive_a_crash_at_once() {
    support::need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let mut rig = Rig::start(&["--agent", &agent, "--ladder-eof", "300ms"]);
    let session = rig.create();
    let path = format!("/api/session/{session}");
    let mut reader = rig.stream(&session, "", None);
    rig.prompt(&session, "approve-rule Bash git status");
    let asked = reader.until_name("approval-required");
    let answer = json!({
        "decision": "allow",
        "inputHash": asked.data["inputHash"],
        "updatedPermissions": asked.data["suggestions"],
    });
    rig.post(&format!("{path}/approvals/{}", asked.text("approvalId")), answer).expect(200);
    rig.kill();
    rig.again();
    let arguments = |rig: &Rig, session: &str| {
        let mut reader = rig.stream(session, "", None);
        let prompt = rig.prompt(session, "argv")["promptId"].as_str().unwrap().to_owned();
        reader.answer(&prompt)
    };
    let told = arguments(&rig, &session);
    assert!(told.contains("--allowedTools=Bash(git status)"), "{told}");
    let body = json!({"name": "n", "model": "m", "mode": "plan"});
    http::request(rig.address, "PATCH", &path, &[], body.to_string().as_bytes()).expect(200);
    rig.kill();
    rig.again();
    let told = arguments(&rig, &session);
    for argument in ["--allowedTools=Bash(git status)", "--permission-mode=plan", "--model=m"] {
        assert!(told.contains(argument), "{argument}: {told}");
    }
    // A copy that has not begun is still one, and one that has begun is none any more.
    let row = rig.get(&path).expect(200).json()["session"].clone();
    let parent = row["conversation"].as_str().unwrap().to_owned();
    let fork = rig.post(&format!("{path}/fork"), json!({})).expect(201).json();
    let child = fork["sessionId"].as_str().unwrap().to_owned();
    rig.kill();
    rig.again();
    let row = rig.get(&format!("/api/session/{child}")).expect(200).json()["session"].clone();
    assert_eq!(row["forkedFrom"], session.as_str(), "{row}");
    assert_eq!((&row["name"], &row["mode"]), (&json!("n"), &json!("plan")), "{row}");
    let told = arguments(&rig, &child);
    for argument in [&format!("--resume={parent}"), "--fork-session", "--resume-session-at="] {
        assert!(told.contains(argument), "{argument}: {told}");
    }
    rig.kill();
    rig.again();
    let told = arguments(&rig, &child);
    let own = format!("--resume={}", row["conversation"].as_str().unwrap());
    assert!(told.contains(&own) && !told.contains("--fork-session"), "{own}: {told}");
}

#[test]
fn what_ended_while_events_were_lost_is_ended_in_the_journal_too() {
    support::need("python3");
    support::need("prlimit");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let flags = ["--ring-size", "64KiB", "--delta-hold", "0ms", "--ladder-eof", "300ms"];
    let mut rig = Rig::start(&[&["--agent", &agent][..], &flags].concat());
    let session = rig.create();
    let path = format!("/api/session/{session}");
    let mut reader = rig.stream(&session, "", None);
    let command = "approve Bash {\"command\":\"ls\"} ;; flood 2000 100";
    rig.prompt(&session, command);
    let asked = reader.until_name("approval-required");
    rig.limit_files("100");
    let answer = json!({"decision": "allow", "inputHash": asked.data["inputHash"]});
    rig.post(&format!("{path}/approvals/{}", asked.text("approvalId")), answer).expect(200);
    eventually("the turn is over", || {
        rig.get(&format!("{path}/status")).json()["status"] == "idle"
    });
    rig.limit_files("unlimited");
    eventually("ready again", || rig.get("/ready").status == 200);
    eventually("the word of it on disk", || {
        String::from_utf8_lossy(&rig.journal(&session)).contains("events-lost")
    });
    for restart in [false, true] {
        if restart {
            rig.stop();
            rig.again();
        }
        let mut all = rig.stream(&session, "?replay=all", None);
        all.joined();
        support::rig::check_ends(&all.seen, true);
        assert_eq!(all.count("events-lost"), 1, "{}", all.story());
        assert_eq!(all.count("tool-completed"), 1, "{}", all.story());
    }
}

#[test]
fn a_server_that_died_while_its_disk_was_full_says_what_that_cost() {
    support::need("prlimit");
    let mut rig = Rig::lines(&[]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    reader.joined();
    let kept = reader.last_id.clone().unwrap();
    rig.limit_files("100");
    let first = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&first);
    let lost = reader.last_id.clone().unwrap();
    rig.kill();
    rig.again();
    for cursor in [&kept, &lost] {
        let mut again = rig.stream(&session, "", Some(cursor));
        assert_eq!(again.joined().data["resume"], "gap", "{cursor}");
    }
    let mut all = rig.stream(&session, "?replay=all", None);
    all.joined();
    let told = all.seen.iter().find(|event| event.name == "events-lost");
    let told = told.unwrap_or_else(|| panic!("{}", all.story()));
    assert_eq!(told.data["reason"], "tail_cut");
    let number = |id: &str| id.rsplit_once('-').unwrap().1.parse::<u64>().unwrap();
    let span = number(told.text("from"))..=number(told.text("to"));
    assert!(span.contains(&number(&lost)), "{}", told.data);
}

#[test]
fn a_server_that_is_killed_starts_while_its_disk_is_still_full_and_recovers_by_itself() {
    support::need("prlimit");
    let mut rig = Rig::lines(&[]);
    let (session, other) = (rig.create(), rig.create());
    let mut reader = rig.stream(&session, "", None);
    let turn = |rig: &Rig, reader: &mut Reader, command: &str| {
        let prompt = rig.prompt(&session, command)["promptId"].as_str().unwrap().to_owned();
        reader.turn_end(&prompt);
    };
    turn(&rig, &mut reader, "count 1000");
    rig.limit_files("100");
    turn(&rig, &mut reader, "one");
    rig.kill();
    let whole = rig.journal(&session);
    assert!(whole.len() > 10_000, "more than there will be room for: {}", whole.len());
    // The line of the start does not fit either: somebody may try again later.
    rig.options.limit_files(Some("10"));
    let (code, told) = rig.refused();
    assert_eq!(code, Some(1), "{told}");
    assert!(told.contains("cannot be used: File too large"), "{told}");
    for _ in 0..2 {
        rig.options.limit_files(Some("10000"));
        rig.again();
        let told = rig.get("/ready").expect(503).json();
        assert_eq!(told["code"], "journal_failed", "{told}");
        assert!(told["error"].as_str().unwrap().contains(&session), "{told}");
        rig.get(&format!("/api/session/{other}")).expect(200);
        let mut reader = rig.stream(&session, "", None);
        turn(&rig, &mut reader, "two");
        assert!(reader.seen.iter().any(|event| event.text("code") == "journal_failed"));
        assert_eq!(rig.journal(&session), whole, "nothing was written in its place");
        rig.kill(); // The next start must doubt all the same.
    }
    rig.again();
    rig.get("/ready").expect(503);
    rig.limit_files("unlimited");
    eventually("ready again", || rig.get("/ready").status == 200);
    let mut reader = rig.stream(&session, "", None);
    turn(&rig, &mut reader, "three");
    rig.options.limit_files(None);
    rig.kill();
    rig.again();
    rig.get("/ready").expect(200);
    let told = rig.journal(&session);
    assert!(told.starts_with(&whole));
    let told = String::from_utf8(told).unwrap();
    assert!(told.contains("tail_cut") && told.contains("got three"), "{told}");
    let mut again = rig.stream(&session, "", reader.last_id.as_deref());
    assert_eq!(again.joined().data["resume"], "ok");
}

#[test]
fn an_event_whose_bytes_have_changed_on_disk_is_told_as_lost_in_its_place_by_every_way() {
    let mut rig = Rig::lines(&["--delta-hold", "0ms"]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "count 20")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&prompt);
    rig.stop();
    let path = segments(&rig.data("sessions").join(&session)).pop().unwrap();
    let whole = std::fs::read(&path).unwrap();
    let ids = ids_of(&whole);
    let hit = whole.windows(14).position(|bytes| bytes == b"\"type\":\"stdout").unwrap();
    let at = ids_of(&whole[..memchr::memmem::rfind(&whole[..hit], b"\n\n").unwrap() + 2]).len();
    // Before the start, which reads it; and while the server runs.
    for (running, bad) in [(false, b'#'), (true, b'\n'), (true, 0xff), (true, 0)] {
        let mut damaged = whole.clone();
        damaged[hit] = bad;
        if running {
            rig.again();
        }
        std::fs::write(&path, &damaged).unwrap();
        if !running {
            rig.again();
        }
        let mut all = rig.stream(&session, "?replay=all", None);
        all.joined();
        let base = format!("/api/session/{session}");
        let history = rig.get(&format!("{base}/history?limit=1000")).expect(200).json();
        let poll = rig.get(&format!("{base}/events/poll?after={}&wait=0", ids[0])).expect(200);
        let many = rig.get(&format!("/api/events/poll?after={}&wait=0", ids[0])).expect(200);
        let events = all.seen.iter().filter(|event| event.id.is_some());
        let streamed: Vec<(String, Value)> =
            events.map(|event| (event.name.clone(), event.data.clone())).collect();
        let listed = |json: &Value| -> Vec<(String, Value)> {
            let events = json["events"].as_array().unwrap().iter();
            events.map(|one| (one["event"].as_str().unwrap().into(), one["data"].clone())).collect()
        };
        let id = Value::from(ids[at].clone());
        for (told, place) in [
            (&streamed, at),
            (&listed(&history), at),
            (&listed(&poll.json()), at - 1),
            (&listed(&many.json()), at - 1),
        ] {
            let lost: Vec<usize> =
                (0..told.len()).filter(|place| told[*place].0 == "events-lost").collect();
            assert_eq!(lost, [place], "{bad} {told:?}");
            let (_, data) = &told[place];
            assert_eq!((data.get("from"), data.get("to")), (Some(&id), Some(&id)));
            assert_eq!(data["reason"], "damaged");
        }
        let one = rig.get(&format!("{base}/events/{}", ids[at])).expect(200).json();
        assert_eq!(one["event"], "events-lost", "{one}");
        assert_eq!(std::fs::read(&path).unwrap()[..whole.len()], damaged, "it is left as it is");
        let prompt = rig.prompt(&session, "more")["promptId"].as_str().unwrap().to_owned();
        all.turn_end(&prompt);
        rig.stop();
        eventually("a word in the log", || {
            let told = std::mem::take(&mut *rig.stderr.lock().unwrap());
            told.contains("otherwise than it was written") && told.contains(&session)
        });
        std::fs::write(&path, &whole).unwrap();
    }
}

#[test]
fn a_stop_while_the_disk_is_full_says_that_something_is_lost_and_one_with_room_again_loses_nothing()
{
    support::need("prlimit");
    for has_room in [false, true] {
        let mut rig = Rig::lines(&[]);
        let session = rig.create();
        let mut reader = rig.stream(&session, "", None);
        reader.joined();
        rig.limit_files("100");
        let prompt = rig.prompt(&session, "one")["promptId"].as_str().unwrap().to_owned();
        reader.turn_end(&prompt);
        assert_eq!(rig.get("/ready").status, 503);
        if has_room {
            rig.limit_files("unlimited");
        }
        let (code, said) = rig.ended();
        let kept = String::from_utf8(rig.journal(&session)).unwrap();
        assert_eq!(kept.contains("got one"), has_room, "{said}");
        assert_eq!(code, Some(i32::from(!has_room)), "{said}");
        let sentence = "sidestream: the journal could not be written to the end";
        assert_eq!(said.contains(sentence), !has_room, "{said}");
    }
}

#[test]
fn trust_is_kept_before_its_answer() {
    support::need("python3");
    let agent = format!("claude:{}", fixture("fake_agent.py"));
    let mut rig = Rig::start(&["--agent", &agent, "--ladder-eof", "300ms"]);
    let servers = "{\"mcpServers\": {\"x\": {\"command\": \"true\"}}}";
    std::fs::write(rig.options.scratch().join("root/.mcp.json"), servers).unwrap();
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    rig.prompt(&session, "say: one");
    let asked = reader.until_name("approval-required");
    assert_eq!(asked.data["kind"], "trust", "{}", asked.data);
    let path = format!("/api/session/{session}/approvals/{}", asked.text("approvalId"));
    rig.post(&path, json!({"decision": "allow", "inputHash": asked.data["inputHash"]})).expect(200);
    rig.kill();
    rig.again();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "say: two")["promptId"].as_str().unwrap().to_owned();
    assert!(reader.answer(&prompt).contains("two"), "it is not asked for again");
}
