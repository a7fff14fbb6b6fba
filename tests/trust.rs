//! Trust in a directory: what a human allowed is what starts, whatever became of the directory
//! between the look, the answer and the start.

mod support;

use serde_json::{Value, json};
use support::{Event, Reader, Server};

const GOOD: &str = r#"{"mcpServers": {"good": {"command": "true"}}}"#;
const EVIL: &str = r#"{"mcpServers": {"evil": {"command": "sh"}}}"#;

/// A directory below the root, with this `.mcp.json` in it if there is to be one.
fn directory(server: &Server, name: &str, servers: &str) -> String {
    let directory = server.scratch.directory(&format!("root/{name}"));
    if !servers.is_empty() {
        std::fs::write(format!("{directory}/.mcp.json"), servers).unwrap();
    }
    directory
}

fn begin(server: &Server, directory: &str) -> (String, Reader) {
    let session = server.create_in(directory);
    let mut reader = server.stream(&session);
    reader.joined();
    (session, reader)
}

/// The question about a directory, which lists this command.
#[track_caller]
fn asked(reader: &mut Reader, command: &str) -> Event {
    let asked = reader.until_name("approval-required");
    assert_eq!(asked.text("kind"), "trust", "{}", asked.data);
    assert!(asked.data["input"]["commands"].to_string().contains(command), "{}", asked.data);
    asked
}

#[track_caller]
fn allow(server: &Server, session: &str, asked: &Event) {
    server.decide(session, asked, "allow", json!({})).expect(200);
}

#[test]
fn an_answer_about_one_content_starts_no_other() {
    let server = Server::fake(&[]);
    for decision in ["allow", "deny"] {
        let place = directory(&server, decision, GOOD);
        let (session, mut reader) = begin(&server, &place);
        let prompt = server.prompt(&session, "argv");
        let first = asked(&mut reader, "good");
        directory(&server, decision, EVIL);
        server.decide(&session, &first, decision, json!({})).expect(200);
        let second = asked(&mut reader, "evil");
        assert!(server.agents().is_empty(), "{:?}", server.agents());
        let late = server.decide(&session, &first, "allow", json!({}));
        assert_eq!(late.status, 409, "{late}");
        server.decide(&session, &second, decision, json!({})).expect(200);
        let reads_none = reader.answer(&prompt).contains("--strict-mcp-config");
        assert_eq!(reads_none, decision == "deny");
        server.close(&session);
    }
}

#[test]
fn whoever_waited_for_room_starts_in_the_directory_as_it_is_then() {
    let server = Server::fake(&["--agents-max", "1"]);
    let (first, mut busy) = begin(&server, &directory(&server, "busy", ""));
    server.prompt(&first, "say: x ;; stubborn");
    busy.until_name("session-output");
    let place = directory(&server, "waiting", "");
    let (second, mut reader) = begin(&server, &place);
    let prompt = server.prompt(&second, "say: done");
    reader.until("it waits", |event| event.text("reason") == "agents_max");
    directory(&server, "waiting", EVIL);
    server.close(&first);
    let question = asked(&mut reader, "evil");
    assert!(server.agents().is_empty(), "{:?}", server.agents());
    allow(&server, &second, &question);
    assert_eq!(reader.answer(&prompt).trim(), "done");
}

#[test]
fn a_question_takes_no_place_from_those_that_can_start() {
    let server = Server::fake(&["--agents-max", "1", "--agents-starting-max", "1"]);
    let (asks, mut reader) = begin(&server, &directory(&server, "asks", EVIL));
    let prompt = server.prompt(&asks, "say: allowed");
    let question = asked(&mut reader, "evil");
    let (goes, mut other) = begin(&server, &directory(&server, "goes", ""));
    let quick = server.prompt(&goes, "say: quick");
    assert_eq!(other.answer(&quick).trim(), "quick");
    allow(&server, &asks, &question);
    assert_eq!(reader.answer(&prompt).trim(), "allowed");
}

#[test]
fn what_was_allowed_is_not_asked_again_in_any_session() {
    let server = Server::fake(&[]);
    let place = directory(&server, "known", GOOD);
    for is_first in [true, false] {
        let (session, mut reader) = begin(&server, &place);
        let prompt = server.prompt(&session, "say: done");
        if is_first {
            let question = asked(&mut reader, "good");
            allow(&server, &session, &question);
        }
        assert_eq!(reader.answer(&prompt).trim(), "done");
        assert_eq!(reader.count("approval-required"), usize::from(is_first));
        server.close(&session);
    }
}

#[test]
fn what_cannot_be_read_whole_is_asked_about_each_time() {
    let server = Server::fake(&[]);
    let large = |text: &str| format!("{text}{}", " ".repeat(1 << 20));
    for (name, content) in [("large", large(GOOD)), ("torn", "{".to_owned())] {
        let place = directory(&server, name, &content);
        for _ in 0..2 {
            let (session, mut reader) = begin(&server, &place);
            let prompt = server.prompt(&session, "say: done");
            let question = asked(&mut reader, "cannot be read");
            allow(&server, &session, &question);
            assert_eq!(reader.answer(&prompt).trim(), "done", "an answer is good for one start");
            assert_eq!(reader.count("approval-required"), 1, "{}", reader.story());
            server.close(&session);
        }
    }
    // Nor is another one started for it.
    let place = directory(&server, "large", &large(GOOD));
    let (session, mut reader) = begin(&server, &place);
    server.prompt(&session, "say: done");
    let question = asked(&mut reader, "cannot be read");
    directory(&server, "large", &large(EVIL));
    allow(&server, &session, &question);
    let again = asked(&mut reader, "cannot be read");
    let hash = |event: &Event| event.data["input"]["hash"].clone();
    assert_ne!(hash(&question), hash(&again));
    let open: Value = server.told(&format!("/api/session/{session}/approvals"));
    assert_eq!(open["approvals"].as_array().map(Vec::len), Some(1), "{open}");
}
