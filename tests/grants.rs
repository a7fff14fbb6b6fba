//! Rules that a human grants for a session: they go with its next agent and over a restart, and none
//! of them can keep that agent from starting.

mod support;

use serde_json::{Value, json};
use sidestream::limits::{GRANTED_MAX, GRANTED_SIZE_MAX};
use support::{Options, Server, eventually};

fn server() -> Options {
    Server::fake_options().flags(&["--suspend-after", "300ms"])
}

fn rule(content: &str) -> Value {
    json!({"type": "addRules", "behavior": "allow", "destination": "session",
        "rules": [{"toolName": "Bash", "ruleContent": content}]})
}

/// Lets the agent ask, with these suggestions; returns the approval, as the list has it.
#[track_caller]
fn asked(server: &Server, session: &str, suggestions: &Value) -> Value {
    let request = json!({"tool_name": "Bash", "input": {"command": "ls"},
        "permission_suggestions": suggestions});
    server.prompt(session, &format!("request {request}"));
    let mut open = Value::Null;
    eventually("it asks", || {
        let told = server.told(&format!("/api/session/{session}/approvals"));
        open = told["approvals"][0].clone();
        !open.is_null()
    });
    open
}

#[track_caller]
fn allow(server: &Server, session: &str, open: &Value, rules: Value) -> support::Response {
    let path = format!("/api/session/{session}/approvals/{}", open["approvalId"].as_str().unwrap());
    let mut body = json!({"decision": "allow", "inputHash": open["inputHash"]});
    if !rules.is_null() {
        body["updatedPermissions"] = rules;
    }
    server.post(&path, body)
}

/// The arguments of the session's next agent.
#[track_caller]
fn arguments(server: &Server, session: &str) -> String {
    eventually("its agent is gone", || server.status(session) == "suspended");
    let path = format!("/api/session/{session}/prompt?wait=60");
    let end = server.post(&path, json!({"command": "argv"})).expect(200).json();
    assert_eq!(end["event"], "prompt-completed", "{end}");
    end["data"]["result"].as_str().unwrap_or_else(|| panic!("no result: {end}")).to_owned()
}

#[test]
fn a_rule_that_is_no_argument_is_refused_and_the_approval_stays_open() {
    let server = server().start();
    let session = server.create();
    let long = rule(&format!("cat > x <<EOF {}", "y".repeat(140_000)));
    let open = asked(&server, &session, &json!([long]));
    for rules in [json!([long]), json!([rule("rm")])] {
        let (sentence, code) = match allow(&server, &session, &open, rules) {
            answer if answer.status == 400 => answer.expect_error(400),
            answer => answer.expect_error(409),
        };
        let expected = if sentence.contains("argument") {
            "permissions_max"
        } else {
            "permission_not_suggested"
        };
        assert_eq!(code, expected, "{sentence}");
    }
    allow(&server, &session, &open, Value::Null).expect(200);
    arguments(&server, &session);
}

#[test]
fn a_crowd_of_copies_is_one_rule_and_a_crowd_of_rules_meets_a_bound() {
    let server = server().start();
    let session = server.create();
    let open = asked(&server, &session, &json!([rule("ls")]));
    // More than a body may hold values, and as many as it may.
    let copies = |count| Value::Array(vec![rule("ls"); count]);
    let (_, code) = allow(&server, &session, &open, copies(40_000)).expect_error(400);
    assert_eq!(code, "too_many_values");
    allow(&server, &session, &open, copies(1_500)).expect(200);
    let told = arguments(&server, &session);
    assert_eq!(told.matches("--allowedTools=Bash(ls)").count(), 1, "{told}");
    let many: Vec<Value> = (0..GRANTED_MAX + 1).map(|number| rule(&number.to_string())).collect();
    let many = Value::Array(many);
    let open = asked(&server, &session, &many);
    let (sentence, code) = allow(&server, &session, &open, many.clone()).expect_error(409);
    assert_eq!(code, "permissions_max");
    assert!(sentence.contains(&GRANTED_SIZE_MAX.to_string()), "{sentence}");
    allow(&server, &session, &open, Value::Null).expect(200);
}

#[test]
fn what_was_granted_with_a_large_input_survives_a_restart_however_small_the_ring_is() {
    let mut first = server().flags(&["--ring-size", "64KiB", "--all-ring-size", "64KiB"]).start();
    let session = first.create();
    let long = rule(&"y".repeat(3_000));
    let open = asked(&first, &session, &json!([long]));
    let path = format!("/api/session/{session}/approvals/{}", open["approvalId"].as_str().unwrap());
    let body = json!({"decision": "allow", "updatedPermissions": [long],
        "updatedInput": {"command": "z".repeat(100_000)}});
    first.post(&path, body).expect(200);
    arguments(&first, &session);
    first.signal("KILL");
    first.wait(support::PATIENCE);
    let data = first.scratch.join("data");
    let root = first.scratch.join("root");
    let second = server().flags(&["--data-dir", &data, "--root", &root]).start();
    let told = arguments(&second, &session);
    assert!(told.contains(&"y".repeat(3_000)), "{told}");
}
