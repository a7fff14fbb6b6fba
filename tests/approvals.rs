//! Approvals: each is answered once, by whoever is first, for exactly the input that was shown; and
//! none is left open behind a turn that has ended.

mod support;

use serde_json::{Value, json};
use support::{Event, Reader, Server, eventually, http};

fn session(server: &Server) -> (String, Reader) {
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    (session, reader)
}

/// What the scriptable agent says it was answered.
#[track_caller]
fn answer_told(text: &str, mark: &str) -> Value {
    let line = text.lines().find_map(|line| line.strip_prefix(mark));
    let line = line.unwrap_or_else(|| panic!("no `{mark}` in {text:?}"));
    serde_json::from_str(line).expect(line)
}

#[track_caller]
fn required(reader: &mut Reader) -> Event {
    reader.until_name("approval-required")
}

/// The approvals that are open now.
fn open(server: &Server, session: &str) -> Vec<Value> {
    let json = server.get(&format!("/api/session/{session}/approvals")).expect(200).json();
    json["approvals"].as_array().unwrap_or_else(|| panic!("no `approvals`: {json}")).clone()
}

#[test]
fn an_approval_shows_what_will_run_and_runs_what_was_shown() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"approve Bash {"command":"touch made"}"#);
    let asked = required(&mut reader);
    assert_eq!(asked.data["kind"], "tool", "{}", asked.data);
    assert_eq!(asked.data["tool"], "Bash", "{}", asked.data);
    assert_eq!(asked.data["input"], json!({"command": "touch made"}), "{}", asked.data);
    assert_eq!(asked.data["description"], "words of the model", "{}", asked.data);
    for member in ["approvalId", "title", "inputHash", "toolUseId"] {
        assert!(!asked.text(member).is_empty(), "{member}: {}", asked.data);
    }
    assert!(asked.text("title").contains("touch made"), "our words: {}", asked.data);
    eventually("waiting", || server.status(&session) == "waiting");
    assert_eq!(open(&server, &session).len(), 1);
    // A reader that comes now learns of it.
    let connected = server.stream(&session).joined();
    assert_eq!(connected.data["pendingApprovals"], json!([asked.text("approvalId")]));

    let answer = server.decide(&session, &asked, "allow", json!({})).expect(200).json();
    assert_eq!(answer["success"], true, "{answer}");
    let resolved = reader.until_name("approval-resolved");
    assert_eq!(resolved.text("approvalId"), asked.text("approvalId"));
    assert_eq!(resolved.text("decision"), "allow", "{}", resolved.data);
    let told = answer_told(&reader.answer(&prompt), "answer: ");
    assert_eq!(told["behavior"], "allow");
    assert_eq!(told["updatedInput"], json!({"command": "touch made"}));
    assert!(open(&server, &session).is_empty());
}

#[test]
fn a_denial_reaches_the_agent_with_its_reason() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"approve Bash {"command":"rm -r x"}"#);
    let asked = required(&mut reader);
    let more = json!({"message": "not today"});
    server.decide(&session, &asked, "deny", more).expect(200);
    let told = answer_told(&reader.answer(&prompt), "answer: ");
    assert_eq!((&told["behavior"], &told["message"]), (&json!("deny"), &json!("not today")));
    assert_eq!(reader.count("approval-resolved"), 1);
}

#[test]
fn an_approval_that_its_agent_forgets_ends_with_the_turn() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"ask Bash {"command":"ls"} ;; say: never mind"#);
    reader.turn_end(&prompt);
    let asked = reader.seen.iter().find(|event| event.name == "approval-required").unwrap();
    let withdrawn: Vec<&Event> =
        reader.seen.iter().filter(|event| event.name == "approval-withdrawn").collect();
    assert_eq!(withdrawn.len(), 1, "{}", reader.story());
    assert_eq!(withdrawn[0].text("approvalId"), asked.text("approvalId"));
    assert_eq!(withdrawn[0].text("reason"), "turn_ended");
    assert!(open(&server, &session).is_empty());
    let late = server.decide(&session, asked, "allow", json!({}));
    assert_eq!(late.status, 409, "{late}");
}

#[test]
fn a_denial_may_end_the_turn() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"approve Bash {"command":"rm -r x"}"#);
    let asked = required(&mut reader);
    let more = json!({"message": "stop it", "interrupt": true});
    server.decide(&session, &asked, "deny", more).expect(200);
    reader.turn_end(&prompt);
    let next = server.prompt(&session, "say: next");
    assert_eq!(reader.answer(&next).trim(), "next");
}

#[test]
fn a_changed_input_is_what_runs_and_what_is_told() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"approve Bash {"command":"touch a","description":"d"}"#);
    let asked = required(&mut reader);
    let changed = json!({"command": "touch b", "description": "d"});
    server.decide(&session, &asked, "allow", json!({"updatedInput": changed})).expect(200);
    let resolved = reader.until_name("approval-resolved");
    assert!(resolved.data.to_string().contains("touch b"), "the input that ran: {}", resolved.data);
    let told = answer_told(&reader.answer(&prompt), "answer: ");
    assert_eq!(told["updatedInput"], changed);
}

#[test]
fn the_first_answer_wins_and_any_later_one_is_told_the_decision() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"approve Bash {"command":"touch a"}"#);
    let asked = required(&mut reader);
    let statuses: Vec<u16> = std::thread::scope(|scope| {
        let asks: Vec<_> = (0..8)
            .map(|n| {
                let (server, session, asked) = (&server, &session, &asked);
                let decision = if n % 2 == 0 { "allow" } else { "deny" };
                scope.spawn(move || server.decide(session, asked, decision, json!({})).status)
            })
            .collect();
        asks.into_iter().map(|ask| ask.join().unwrap()).collect()
    });
    assert_eq!(statuses.iter().filter(|status| **status == 200).count(), 1, "{statuses:?}");
    assert_eq!(statuses.iter().filter(|status| **status == 409).count(), 7, "{statuses:?}");
    let told = answer_told(&reader.answer(&prompt), "answer: ");
    let decision = told["behavior"].as_str().unwrap();
    assert_eq!(reader.count("approval-resolved"), 1);
    let late = server.decide(&session, &asked, "allow", json!({}));
    assert!(late.text().contains(&format!("\"{decision}\"")), "the decision is told: {late}");
    late.expect_error(409);
}

#[test]
fn several_are_open_at_once_and_answered_in_any_order() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "approve3");
    let asked = [required(&mut reader), required(&mut reader), required(&mut reader)];
    assert_eq!(open(&server, &session).len(), 3);
    for (at, decision) in [(2, "deny"), (0, "allow"), (1, "deny")] {
        let more = json!({"message": format!("answer for {}", at + 1)});
        server.decide(&session, &asked[at], decision, more).expect(200);
    }
    let text = reader.answer(&prompt);
    assert_eq!(answer_told(&text, "answer 1: ")["behavior"], "allow");
    assert_eq!(answer_told(&text, "answer 1: ")["updatedInput"], json!({"command": "touch 1"}));
    assert_eq!(answer_told(&text, "answer 2: ")["message"], "answer for 2");
    assert_eq!(answer_told(&text, "answer 3: ")["message"], "answer for 3");
    let mut hashes: Vec<&str> = asked.iter().map(|event| event.text("inputHash")).collect();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), 3, "each input has its hash");
}

#[test]
fn a_withdrawn_approval_cannot_be_answered() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "withdraw ;; say: went on");
    let asked = required(&mut reader);
    let withdrawn = reader.until_name("approval-withdrawn");
    assert_eq!(withdrawn.text("approvalId"), asked.text("approvalId"));
    server.decide(&session, &asked, "allow", json!({})).expect_error(409);
    assert_eq!(reader.answer(&prompt).trim(), "went on");
    assert!(open(&server, &session).is_empty());
    assert_eq!(reader.count("approval-resolved"), 0);
}

#[test]
fn an_answer_that_does_not_fit_changes_nothing() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"approve Bash {"command":"touch a"}"#);
    let asked = required(&mut reader);
    let path = format!("/api/session/{session}/approvals/{}", asked.text("approvalId"));
    let hash = asked.text("inputHash");
    for (body, status) in [
        (json!({"decision": "allow", "inputHash": "other"}), 409),
        (json!({"decision": "perhaps", "inputHash": hash}), 400),
        (json!({"inputHash": hash}), 400),
        (json!({"decision": 1, "inputHash": hash}), 400),
        (json!({"decision": "allow", "inputHash": hash, "updatedInput": "text"}), 400),
        (json!({"decision": "deny", "inputHash": hash, "message": 5}), 400),
    ] {
        let answer = server.post(&path, body.clone());
        assert_eq!(answer.status, status, "{body}: {answer}");
        answer.expect_error(status);
    }
    let unknown = format!("/api/session/{session}/approvals/no-such");
    server.post(&unknown, json!({"decision": "allow", "inputHash": hash})).expect_error(404);
    assert_eq!(open(&server, &session).len(), 1, "still open");
    server.decide(&session, &asked, "allow", json!({})).expect(200);
    reader.answer(&prompt);
}

#[test]
fn an_approval_ends_with_its_turn_however_that_ends() {
    // An interrupt while it is open.
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "approve3");
    for _ in 0..3 {
        required(&mut reader);
    }
    server.interrupt(&session);
    let end = reader.turn_end(&prompt);
    assert_eq!(end.data["interrupted"], true, "{}", end.data);
    eventually("none is open", || open(&server, &session).is_empty());
    assert_eq!(reader.count("approval-withdrawn"), 3, "{}", reader.story());

    // The agent's death while it is open.
    let prompt = server.prompt(&session, r#"approve Bash {"command":"touch a"}"#);
    let asked = required(&mut reader);
    support::signal(server.agents()[0].0, "KILL");
    assert_eq!(reader.turn_end(&prompt).name, "prompt-failed");
    let withdrawn = |event: &Event| {
        event.name == "approval-withdrawn" && event.text("approvalId") == asked.text("approvalId")
    };
    if !reader.seen.iter().any(withdrawn) {
        reader.until("its withdrawal", withdrawn);
    }
    server.decide(&session, &asked, "allow", json!({})).expect_error(409);
}

#[test]
fn one_approval_above_the_bound_is_denied_by_us_and_told() {
    let server = Server::fake(&["--approvals-max", "2"]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, "approve3");
    let asked = [required(&mut reader), required(&mut reader)];
    let third =
        |event: &Event| event.name == "session-error" && event.text("code") == "approvals_max";
    if !reader.seen.iter().any(third) {
        reader.until("the third is denied", third);
    }
    assert_eq!(open(&server, &session).len(), 2);
    for one in &asked {
        server.decide(&session, one, "allow", json!({})).expect(200);
    }
    let text = reader.answer(&prompt);
    assert_eq!(answer_told(&text, "answer 1: ")["behavior"], "allow");
    assert_eq!(answer_told(&text, "answer 3: ")["behavior"], "deny");
}

#[test]
fn the_demo_asks_too_and_runs_nothing() {
    let server = Server::demo(&[]);
    let (session, mut reader) = session(&server);
    let path = server.scratch.join("root/made-by-demo");
    let prompt = server.prompt(&session, &format!("run tool: touch {path} ;; say: done"));
    let asked = required(&mut reader);
    assert_eq!(asked.data["tool"], "Bash", "{}", asked.data);
    server.decide(&session, &asked, "allow", json!({})).expect(200);
    assert!(reader.answer(&prompt).contains("done"));
    assert!(!std::path::Path::new(&path).exists(), "the demo runs nothing");
}

#[test]
fn a_rule_may_outlive_its_session_only_where_the_operator_allows_that() {
    let rule = json!({"type": "addRules", "behavior": "allow", "destination": "localSettings",
        "rules": [{"toolName": "Bash", "ruleContent": "ls"}]});
    let request = json!({"tool_name": "Bash", "input": {"command": "ls"},
        "permission_suggestions": [rule]});
    let grant = json!({"updatedPermissions": [rule]});
    for (flags, granted) in [(&[][..], false), (&["--allow-persistent-rules"][..], true)] {
        let server = Server::fake(flags);
        let (session, mut reader) = session(&server);
        let prompt = server.prompt(&session, &format!("request {request}"));
        let asked = required(&mut reader);
        let answer = server.decide(&session, &asked, "allow", grant.clone());
        if !granted {
            let (sentence, code) = answer.expect_error(400);
            assert_eq!(code, "permission_not_session", "{sentence}");
            assert!(sentence.contains("--allow-persistent-rules"), "{sentence}");
            server.decide(&session, &asked, "allow", json!({})).expect(200);
        } else {
            answer.expect(200);
            let resolved = reader.until_name("approval-resolved");
            assert_eq!(resolved.data["permissions"], json!([rule]), "{}", resolved.data);
        }
        reader.turn_end(&prompt);
    }
}

#[test]
fn a_decision_that_is_none_is_told_apart_from_one_that_is_missing() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let prompt = server.prompt(&session, r#"approve Bash {"command":"ls"}"#);
    let asked = required(&mut reader);
    let path = format!("/api/session/{session}/approvals/{}", asked.text("approvalId"));
    for (body, code) in [
        (r#"{"decision":"maybe"}"#, "invalid_value"),
        (r#"{}"#, "decision_missing"),
        (r#"{"decision":true}"#, "invalid_type"),
        // Which of both is meant?
        (r#"{"decision":"deny","decision":"allow"}"#, "invalid_body"),
    ] {
        let answer = http::request(server.address, "POST", &path, &[], body.as_bytes());
        let (sentence, told) = answer.expect_error(400);
        assert_eq!(told, code, "{body}: {sentence}");
        assert!(sentence.contains("\"decision\""), "{body}: {sentence}");
    }
    assert_eq!(open(&server, &session).len(), 1, "nothing is decided");
    server.decide(&session, &asked, "deny", json!({})).expect(200);
    reader.turn_end(&prompt);
}

#[test]
fn half_a_surrogate_pair_reaches_nobody_and_what_is_shown_is_what_runs() {
    let server = Server::fake(&[]);
    let (session, mut reader) = session(&server);
    let broken = r#"{"command":"a \ud800 b \ude00\ud83d\ude00"}"#;
    let mended = json!({"command": "a \u{fffd} b \u{fffd}\u{1f600}"});
    let prompt = server.prompt(&session, &format!("tool Bash {broken} ;; approve Bash {broken}"));
    let asked = required(&mut reader);
    assert_eq!(asked.data["input"], mended);
    let started = reader.seen.iter().find(|event| event.name == "tool-started").expect("a tool");
    assert_eq!(started.data["input"], mended);
    server.decide(&session, &asked, "allow", json!({})).expect(200);
    let told = answer_told(&reader.answer(&prompt), "answer: ");
    assert_eq!(told["updatedInput"], mended);
}
