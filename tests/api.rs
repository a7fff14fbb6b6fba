//! The HTTP API, endpoint by endpoint: what each one answers, and what it says to input that does
//! not fit. A refusal has a status, a code and a sentence, and changes nothing.

mod support;

use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use support::{Connection, Response, Server, http};

/// A session as a client sees it. Its cursor is among that: an event anywhere would move it.
#[track_caller]
fn snapshot(server: &Server, session: &str) -> Value {
    server.told(&format!("/api/session/{session}"))
}

/// A refusal in the documented form: this status, this code, a sentence.
#[track_caller]
fn refusal(what: &str, response: Response, status: u16, code: &str) -> String {
    assert_eq!(response.status, status, "{what}: {response}");
    let (sentence, told) = response.expect_error(status);
    assert_eq!(told, code, "{what}: {sentence}");
    assert!(
        sentence.trim().contains(' ') && sentence.len() > 10,
        "{what}: no sentence: {sentence}"
    );
    sentence
}

/// One row of a table: method, path below the session, body, and the refusal it must meet.
type Refused<'a> = (&'a str, &'a str, Value, u16, &'a str);

/// Sends what must be refused, and looks whether the session is as it was.
#[track_caller]
fn refuses(server: &Server, session: &str, table: &[Refused<'_>]) {
    for (method, tail, body, status, code) in table {
        let what = format!("{method} {tail} {body}");
        let before = snapshot(server, session);
        let path = format!("/api/session/{session}{tail}");
        let answer = match body {
            Value::Null => server.send(method, &path),
            body => server.json(method, &path, &[], body),
        };
        refusal(&what, answer, *status, code);
        assert_eq!(snapshot(server, session), before, "{what}: nothing has changed");
    }
}

fn text<'a>(json: &'a Value, member: &str) -> &'a str {
    json[member].as_str().unwrap_or_else(|| panic!("no `{member}`: {json}"))
}

/// The ids of a list of events.
fn ids(events: &Value) -> Vec<String> {
    let list = events.as_array().unwrap_or_else(|| panic!("no list: {events}"));
    list.iter().map(|event| text(event, "id").to_owned()).collect()
}

/// The names of a list of events.
fn names(events: &Value) -> Vec<&str> {
    events.as_array().expect("a list").iter().map(|event| text(event, "event")).collect()
}

// Sessions.

#[test]
fn a_session_is_created_with_what_was_asked_for() {
    let server =
        Server::start(&["--agent", "first=demo", "--agent", "second=demo", "--delta-hold", "0"]);
    let asked = json!({"agent": "second", "model": "some-model", "mode": "plan", "name": "A name \u{1f600}"});
    let session = server.create_as(asked.clone());
    for (member, value) in asked.as_object().unwrap() {
        assert_eq!(&session[member], value, "{member}: {session}");
    }
    assert_eq!(server.create_as(json!({}))["agent"], "first", "the first is the default");
    let created = server.told(&format!("/api/session/{}/history", text(&session, "sessionId")));
    let created = &created["events"][0];
    assert_eq!(created["event"], "session-created");
    for member in ["agent", "model", "mode", "name"] {
        assert_eq!(created["data"][member], asked[member], "{member}: {created}");
    }
}

#[test]
fn a_session_that_cannot_be_created_is_refused_and_none_is_there() {
    let server = Server::demo(&[]);
    let root = server.root();
    std::fs::write(server.scratch.join("root/file"), "x").unwrap();
    for (body, status, code) in [
        (json!({}), 400, "working_dir_missing"),
        (json!({"workingDir": 7}), 400, "invalid_type"),
        (json!({"workingDir": "relative"}), 400, "working_dir_not_absolute"),
        (json!({"workingDir": "/a\u{0}b"}), 400, "invalid_value"),
        (json!({"workingDir": format!("{root}/absent")}), 400, "working_dir_not_found"),
        (json!({"workingDir": format!("{root}/file")}), 400, "working_dir_not_a_directory"),
        (json!({"workingDir": "/"}), 403, "working_dir_outside_roots"),
        (json!({"workingDir": root, "agent": "nobody"}), 400, "unknown_agent"),
        (json!({"workingDir": root, "agent": ["demo"]}), 400, "invalid_type"),
        (json!({"workingDir": root, "mode": "yolo"}), 400, "unknown_mode"),
        (json!({"workingDir": root, "mode": 1}), 400, "invalid_type"),
        (json!({"workingDir": root, "mode": "bypassPermissions"}), 403, "bypass_not_allowed"),
        (json!({"workingDir": root, "model": ""}), 400, "invalid_value"),
        (json!({"workingDir": root, "model": {}}), 400, "invalid_type"),
        (json!({"workingDir": root, "name": "a\nb"}), 400, "invalid_value"),
        (json!({"workingDir": root, "name": "x".repeat(201)}), 400, "invalid_value"),
        (json!([root]), 400, "invalid_body"),
    ] {
        let sentence = refusal(&body.to_string(), server.post("/api/sessions", body), status, code);
        if code == "unknown_agent" {
            assert!(sentence.contains("nobody") && sentence.contains("demo"), "{sentence}");
        }
    }
    let bad = http::request(server.address, "POST", "/api/sessions", &[], b"{\"workingDir\":");
    refusal("cut JSON", bad, 400, "invalid_json");
    let doubled = format!("{{\"workingDir\":\"/none\",\"workingDir\":\"{root}\"}}");
    let bad = http::request(server.address, "POST", "/api/sessions", &[], doubled.as_bytes());
    let sentence = refusal("which of both?", bad, 400, "invalid_body");
    assert!(sentence.contains("\"workingDir\""), "{sentence}");
    let form = [("Content-Type", "text/plain")];
    let bad = http::request(server.address, "POST", "/api/sessions", &form, b"{}");
    refusal("plain text", bad, 415, "not_json");
    assert_eq!(server.rows(), Vec::<Value>::new());
    assert_eq!(server.metrics()["eventBus"]["eventsEmitted"], 0);
}

#[test]
fn a_session_is_renamed_and_its_mode_and_model_are_changed() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let path = format!("/api/session/{session}");
    for (change, member) in [
        (json!({"name": "a new name"}), "name"),
        (json!({"mode": "acceptEdits"}), "mode"),
        (json!({"model": "another-model"}), "model"),
    ] {
        let answer = server.json("PATCH", &path, &[], &change).expect(200).json();
        assert_eq!(answer["session"][member], change[member], "{answer}");
        let told = reader.until_name("session-status");
        assert_eq!(told.data[member], change[member], "{}", told.data);
        assert_eq!(told.id.as_deref(), answer["lastEventId"].as_str(), "the cursor is behind it");
    }
    // What a change does not name stays, and what is unknown is ignored: nothing is told then.
    for nothing in [json!({"colour": "red"}), json!({})] {
        let before = snapshot(&server, &session);
        let answer = server.json("PATCH", &path, &[], &nothing).expect(200).json();
        let row = &answer["session"];
        assert_eq!((&row["name"], &row["mode"]), (&json!("a new name"), &json!("acceptEdits")));
        assert_eq!((&row["model"], &row["status"]), (&json!("another-model"), &json!("idle")));
        assert_eq!(snapshot(&server, &session), before, "{nothing}");
    }
    // A name can be taken away again.
    let answer = server.json("PATCH", &path, &[], &json!({"name": null})).expect(200).json();
    assert_eq!(answer["session"]["name"], Value::Null, "{answer}");
    let told = reader.until_name("session-status");
    assert_eq!((&told.data["name"], &told.data["reason"]), (&Value::Null, &json!("changed")));
    assert_eq!(told.data["model"], "another-model", "{}", told.data);
}

#[test]
fn an_agent_that_is_a_command_has_no_models_and_no_modes() {
    let server = Server::start(&["--agent", "lines:cat", "--agent", "demo"]);
    let agents = server.told("/api/agents");
    assert_eq!(agents["agents"][0]["modes"], json!([]), "{agents}");
    assert!(!agents["agents"][1]["modes"].as_array().unwrap().is_empty(), "{agents}");
    let session = server.create();
    for (change, code) in
        [(json!({"mode": "plan"}), "no_modes"), (json!({"model": "x"}), "no_models")]
    {
        let mut body = change.clone();
        body["workingDir"] = json!(server.root());
        refusal("a new one", server.post("/api/sessions", body.clone()), 400, code);
        refuses(&server, &session, &[("PATCH", "", change, 400, code)]);
        body["agent"] = json!("demo");
        server.post("/api/sessions", body).expect(201);
    }
}

#[test]
fn a_session_that_is_being_deleted_takes_no_changes() {
    // Its agent pays no heed to its end.
    let server = Server::fake(&["--ladder-term", "10s"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    server.prompt(&session, "ignore-term ;; say: x ;; silent");
    reader.until_name("session-output");
    server.send("DELETE", &format!("/api/session/{session}")).expect(200);
    refuses(
        &server,
        &session,
        &[
            ("POST", "/prompt", json!({"command": "ls"}), 409, "session_stopping"),
            ("POST", "/fork", json!({}), 409, "session_stopping"),
            ("POST", "/archive", json!({}), 409, "session_stopping"),
            ("POST", "/unarchive", json!({}), 409, "session_stopping"),
            ("PATCH", "", json!({"name": "late"}), 409, "session_stopping"),
        ],
    );
}

#[test]
fn a_page_of_the_list_goes_on_behind_a_session_that_is_not_in_it() {
    let server = Server::demo(&["--closed-sessions-max", "1"]);
    let created: Vec<String> = (0..6)
        .map(|number| {
            let name = if number % 2 == 0 { "even" } else { "odd" };
            let id = text(&server.create_as(json!({"name": name})), "sessionId").to_owned();
            // Each in a millisecond of its own: the order is that of their creation.
            let path = format!("/api/session/{id}/prompt?wait=30");
            server.post(&path, json!({"command": "say: x"})).expect(200);
            id
        })
        .collect();
    let page = |query: &str| -> Vec<String> {
        let json = server.told(&format!("/api/sessions?{query}"));
        let rows = json["sessions"].as_array().unwrap();
        rows.iter().map(|row| text(row, "sessionId").to_owned()).collect()
    };
    let even = [created[4].clone(), created[2].clone(), created[0].clone()];
    assert_eq!(page("q=even"), even);
    assert_eq!(page(&format!("q=even&before={}", created[3])), even[1..], "it is none of them");
    assert_eq!(page(&format!("q=even&before={}", created[0])), [""; 0]);
    server.post(&format!("/api/session/{}/archive", created[1]), json!({})).expect(200);
    let archived = page(&format!("before={}", created[1]));
    assert_eq!(archived[0], created[5], "putting it away was the newest that happened");
    server.close(&created[4]);
    assert_eq!(
        page(&format!("q=even&before={}", created[4])),
        even[1..],
        "it was deleted just now"
    );
    server.close(&created[5]);
    let gone = server.get(&format!("/api/sessions?before={}", created[4]));
    refusal("it is forgotten", gone, 404, "session_not_found");
}

#[test]
fn a_change_that_does_not_fit_changes_nothing() {
    let server = Server::demo(&[]);
    let session = server.create();
    refuses(
        &server,
        &session,
        &[
            ("PATCH", "", json!({"name": 7}), 400, "invalid_type"),
            ("PATCH", "", json!({"name": ""}), 400, "invalid_value"),
            ("PATCH", "", json!({"name": "tab\there"}), 400, "invalid_value"),
            ("PATCH", "", json!({"name": "good", "mode": "yolo"}), 400, "unknown_mode"),
            ("PATCH", "", json!({"name": "good", "mode": ["plan"]}), 400, "invalid_type"),
            ("PATCH", "", json!({"mode": "bypassPermissions"}), 403, "bypass_not_allowed"),
            ("PATCH", "", json!({"name": "good", "model": 4}), 400, "invalid_type"),
            ("PATCH", "", json!({"model": "x".repeat(201)}), 400, "invalid_value"),
            ("PATCH", "", json!("name"), 400, "invalid_body"),
            ("PUT", "", json!({"name": "good"}), 405, "method_not_allowed"),
        ],
    );
    let unknown = server.json("PATCH", "/api/session/session-1-x", &[], &json!({"name": "x"}));
    refusal("PATCH of nothing", unknown, 404, "session_not_found");
}

#[test]
fn every_endpoint_of_a_session_that_is_not_there_is_404() {
    let server = Server::demo(&[]);
    for (method, tail, body) in [
        ("GET", "", Value::Null),
        ("PATCH", "", json!({"name": "x"})),
        ("DELETE", "", Value::Null),
        ("GET", "/status", Value::Null),
        ("GET", "/context", Value::Null),
        ("GET", "/history", Value::Null),
        ("GET", "/events", Value::Null),
        ("GET", "/events/status", Value::Null),
        ("GET", "/events/poll?wait=0", Value::Null),
        ("GET", "/events/0-1", Value::Null),
        ("POST", "/prompt", json!({"command": "ls"})),
        ("POST", "/interrupt", json!({})),
        ("GET", "/queue", Value::Null),
        ("DELETE", "/queue/p", Value::Null),
        ("GET", "/approvals", Value::Null),
        ("POST", "/approvals/a", json!({"decision": "allow"})),
    ] {
        for id in ["session-1-deadbeef", "nonsense", "%C3%A9"] {
            let path = format!("/api/session/{id}{tail}");
            let answer = match &body {
                Value::Null => server.send(method, &path),
                body => server.json(method, &path, &[], body),
            };
            refusal(&format!("{method} {path}"), answer, 404, "session_not_found");
        }
    }
}

#[test]
fn the_list_is_read_in_pages_newest_activity_first() {
    let server = Server::demo(&["--session-creations-per-s", "100"]);
    let mut created: Vec<String> = (0..7)
        .map(|n| server.create_as(json!({"name": format!("number {n}")})))
        .map(|session| text(&session, "sessionId").to_owned())
        .collect();
    // The oldest one becomes the newest by its prompt.
    let revived = created.remove(0);
    let path = format!("/api/session/{revived}/prompt?wait=30");
    server.post(&path, json!({"command": "say: a needle in it"})).expect(200);
    created.push(revived.clone());
    created.reverse();
    for limit in [1, 2, 3, 6, 7, 100] {
        let mut walked: Vec<String> = Vec::new();
        let mut before = String::new();
        loop {
            let page = server.told(&format!("/api/sessions?limit={limit}{before}"));
            assert!(page["lastEventId"].is_string(), "{page}");
            let rows = page["sessions"].as_array().unwrap();
            assert!(rows.len() <= limit, "{page}");
            walked.extend(rows.iter().map(|row| text(row, "sessionId").to_owned()));
            if page["more"] == false {
                break;
            }
            before = format!("&before={}", walked.last().unwrap());
        }
        // Those created in one millisecond may stand in any order, but each stands once.
        assert_eq!(walked[0], revived, "limit {limit}");
        assert_eq!(walked.len(), 7, "limit {limit}: {walked:?}");
        assert_eq!(BTreeSet::from_iter(&walked), BTreeSet::from_iter(&created), "limit {limit}");
    }
}

#[test]
fn the_list_is_searched_and_its_rows_tell_what_a_human_wants_to_know() {
    let server = Server::demo(&[]);
    server.scratch.directory("root/special");
    let plain = server.create();
    let named = text(&server.create_as(json!({"name": "The Red One"})), "sessionId").to_owned();
    let placed = server.create_in(&server.scratch.join("root/special"));
    let prompt = server.post(
        &format!("/api/session/{plain}/prompt?wait=30"),
        json!({"command": "say: a Needle in it"}),
    );
    prompt.expect(200);
    let found = |query: &str| -> Vec<String> {
        let json = server.told(&format!("/api/sessions?{query}"));
        let rows = json["sessions"].as_array().unwrap();
        rows.iter().map(|row| text(row, "sessionId").to_owned()).collect()
    };
    assert_eq!(found("q=red+one"), std::slice::from_ref(&named), "by name, whatever the case");
    assert_eq!(found("q=needle%20IN"), std::slice::from_ref(&plain), "by the last prompt");
    assert_eq!(found("q=special"), std::slice::from_ref(&placed), "by the directory");
    assert_eq!(found(&format!("q={named}")), std::slice::from_ref(&named), "by the id");
    assert_eq!(found("q=nowhere"), [""; 0]);
    assert_eq!(found("q=").len(), 3);

    let mut reader = server.stream(&placed);
    let running = server.prompt(&placed, "run tool: touch x ;; say: done");
    let asked = reader.until_name("approval-required");
    server.prompt(&placed, "say: the one that waits");
    assert_eq!(found("status=waiting"), std::slice::from_ref(&placed));
    assert_eq!(found("status=idle").len(), 2);
    assert_eq!(found("status=idle&q=red"), [named]);
    let rows = server.rows();
    let row = rows.iter().find(|row| row["sessionId"] == *placed).unwrap();
    assert_eq!((&row["openApprovals"], &row["queueLength"]), (&json!(1), &json!(1)), "{row}");
    assert_eq!(row["lastPrompt"], "say: the one that waits");
    assert!(row["lastActivityAt"].as_u64() >= row["createdAt"].as_u64(), "{row}");
    let row = rows.iter().find(|row| row["sessionId"] == *plain).unwrap();
    assert!(row["totalCostUsd"].as_f64() > Some(0.0), "{row}");
    server.decide(&placed, &asked, "deny", json!({})).expect(200);
    reader.turn_end(&running);
}

#[test]
fn a_list_that_cannot_be_made_is_refused() {
    let server = Server::demo(&[]);
    server.create();
    for (query, status, code) in [
        ("limit=0", 400, "invalid_value"),
        ("limit=1001", 400, "invalid_value"),
        ("limit=-1", 400, "invalid_value"),
        ("limit=two", 400, "invalid_value"),
        ("before=session-1-nobody", 404, "session_not_found"),
        ("status=sleepy", 400, "invalid_value"),
    ] {
        refusal(query, server.get(&format!("/api/sessions?{query}")), status, code);
    }
}

#[test]
fn a_context_tells_directory_model_mode_usage_and_costs() {
    let server = Server::demo(&[]);
    let session = server.create();
    let path = format!("/api/session/{session}/context");
    let context = server.told(&path);
    assert_eq!(context["workingDir"], server.root(), "{context}");
    assert_eq!((&context["usage"], &context["turns"]), (&Value::Null, &json!(0)), "{context}");
    let prompt = format!("/api/session/{session}/prompt?wait=30");
    server.post(&prompt, json!({"command": "say 3 words"})).expect(200);
    let context = server.told(&path);
    assert!(context["usage"]["output_tokens"].as_u64() > Some(0), "{context}");
    assert!(context["model"].is_string() && context["turns"] == 1, "{context}");
    assert!(context["totalCostUsd"].as_f64() > Some(0.0), "{context}");
}

// Events: history, polls, single events, readers.

/// A server whose one session has had a few turns of all sorts, and every event of it.
fn with_past(server: &Server) -> (String, Vec<(String, String, Value)>) {
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    for script in ["say 5 words", "think: hm ;; say: yes", "ls -la", "error 404", "deltas 40"] {
        let prompt = server.prompt(&session, script);
        reader.turn_end(&prompt);
    }
    settle(server, &session, &mut reader);
    let events = reader.seen.iter().filter(|event| event.is_logged());
    let events = events
        .map(|event| (event.id.clone().unwrap(), event.name.clone(), event.data.clone()))
        .collect();
    (session, events)
}

/// Reads on until the session is idle and everything it said has arrived.
#[track_caller]
fn settle(server: &Server, session: &str, reader: &mut support::Reader) {
    support::eventually("idle", || server.status(session) == "idle");
    let last = text(&snapshot(server, session), "lastEventId").to_owned();
    if reader.last_id.as_ref() != Some(&last) {
        reader.until("the last event", |event| event.id.as_ref() == Some(&last));
    }
}

fn taken_apart(events: &Value) -> Vec<(String, String, Value)> {
    let list = events.as_array().unwrap_or_else(|| panic!("no events: {events}"));
    list.iter()
        .map(|event| {
            let (id, name) = (text(event, "id").to_owned(), text(event, "event").to_owned());
            (id, name, event["data"].clone())
        })
        .collect()
}

#[test]
fn history_walked_backwards_is_the_stream() {
    let server = Server::demo(&["--delta-hold", "0"]);
    let (session, events) = with_past(&server);
    for limit in [1, 7, 100, 1000] {
        let mut walked: Vec<Vec<(String, String, Value)>> = Vec::new();
        let mut before = String::new();
        loop {
            let path = format!("/api/session/{session}/history?limit={limit}{before}");
            let page = server.told(&path);
            let list = taken_apart(&page["events"]);
            assert!(list.len() <= limit && !list.is_empty(), "{path}: {page}");
            walked.push(list);
            match page["before"].as_str() {
                None => break assert_eq!(page["more"], false, "{page}"),
                Some(id) => {
                    assert_eq!(page["more"], true, "{page}");
                    before = format!("&before={id}");
                }
            }
        }
        walked.reverse();
        let walked = walked.concat();
        let mut stream = events.clone();
        // The stream began after the creation of the session, which its replay told.
        assert_eq!(stream.len(), walked.len(), "limit {limit}");
        for (ours, theirs) in stream.drain(..).zip(walked) {
            assert_eq!(ours, theirs, "limit {limit}");
        }
    }
}

#[test]
fn history_is_filtered_like_a_stream_and_gone_on_from() {
    let server = Server::demo(&["--delta-hold", "0"]);
    let (session, events) = with_past(&server);
    let path = format!("/api/session/{session}/history");
    let page = server.told(&format!("{path}?types=prompt-completed,prompt-failed&limit=2"));
    assert_eq!(names(&page["events"]), ["prompt-failed", "prompt-completed"], "{page}");
    assert_eq!(page["more"], true, "{page}");
    let page = server.told(&format!("{path}?view=compact&limit=1000"));
    let blocks = names(&page["events"]);
    assert!(blocks.contains(&"message-block") && !blocks.contains(&"session-output"), "{blocks:?}");
    // A stream from the snapshot's cursor tells only what came after.
    let cursor = text(&page, "lastEventId").to_owned();
    assert_eq!(cursor, events.last().unwrap().0);
    let mut reader = server.stream_with(&session, &format!("?lastEventId={cursor}"), &[]);
    assert_eq!(reader.joined().data["resume"], "ok");
    assert_eq!(reader.ids(), [""; 0]);
    refuses(
        &server,
        &session,
        &[
            ("GET", "/history?limit=0", Value::Null, 400, "invalid_value"),
            ("GET", "/history?limit=1001", Value::Null, 400, "invalid_value"),
            ("GET", "/history?before=yesterday", Value::Null, 400, "invalid_value"),
            ("GET", "/history?before=ffffffffffff-5", Value::Null, 404, "event_not_found"),
            ("GET", "/history?types=nonsense", Value::Null, 400, "invalid_value"),
            ("GET", "/history?view=wide", Value::Null, 400, "invalid_value"),
            ("POST", "/history", json!({}), 405, "method_not_allowed"),
        ],
    );
}

#[test]
fn a_poll_answers_at_once_if_there_is_anything() {
    let server = Server::demo(&["--delta-hold", "0"]);
    let (session, events) = with_past(&server);
    let start = Instant::now();
    let path = format!("/api/session/{session}/events/poll?wait=60&after={}", events[3].0);
    let page = server.told(&path);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(page["resume"], "ok", "{page}");
    assert_eq!(taken_apart(&page["events"]), events[4..]);
    assert_eq!(page["next"].as_str(), Some(events.last().unwrap().0.as_str()));
    // Without a cursor it begins with the newest of the past, as a stream does.
    let page = server.told(&format!("/api/session/{session}/events/poll?wait=60"));
    assert_eq!((&page["resume"], ids(&page["events"]).len()), (&json!("fresh"), events.len()));
}

#[test]
fn a_poll_waits_for_what_comes_and_no_longer() {
    let server = Server::demo(&[]);
    let (session, events) = with_past(&server);
    let cursor = &events.last().unwrap().0;
    let mut waiting = Connection::open(server.address);
    let path = format!("/api/session/{session}/events/poll?wait=60&after={cursor}");
    waiting.send(http::encode(server.address, "GET", &path, &[], b""));
    // A poll that comes later and does not wait shows that the first one has been read.
    let now = format!("/api/session/{session}/events/poll?wait=0&after={cursor}");
    let page = server.told(&now);
    assert_eq!((ids(&page["events"]).len(), &page["next"]), (0, &json!(cursor)));
    let start = Instant::now();
    let prompt = server.prompt(&session, "say: news");
    let page = waiting.response("GET").expect(200).json();
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
    assert_eq!(page["events"][0]["event"], "prompt-queued", "{page}");
    assert_eq!(page["events"][0]["data"]["promptId"], prompt);
}

#[test]
fn polls_one_after_the_other_lose_nothing_and_repeat_nothing() {
    let server = Server::demo(&["--delta-hold", "0"]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let mut polled: Vec<String> = Vec::new();
    // The first one runs into its time limit: an empty list, and a cursor to go on from.
    let cursor = text(&snapshot(&server, &session), "lastEventId").to_owned();
    let base = format!("/api/session/{session}/events/poll");
    let page = server.told(&format!("{base}?wait=1&after={cursor}"));
    assert_eq!((&page["events"], &page["resume"]), (&json!([]), &json!("ok")), "{page}");
    let mut next = text(&page, "next").to_owned();
    let prompts: Vec<String> =
        ["slow 20 20", "deltas 500", "say: end"].map(|s| server.prompt(&session, s)).into();
    loop {
        let page = server.told(&format!("{base}?wait=20&after={next}"));
        assert_eq!(page["resume"], "ok", "{page}");
        polled.extend(ids(&page["events"]));
        next = text(&page, "next").to_owned();
        let over = page["events"].as_array().unwrap().iter().any(|event| {
            event["event"] == "prompt-completed" && event["data"]["promptId"] == prompts[2]
        });
        if over {
            break;
        }
    }
    reader.turn_end(&prompts[2]);
    settle(&server, &session, &mut reader);
    let page = server.told(&format!("{base}?wait=0&after={next}"));
    polled.extend(ids(&page["events"]));
    let streamed = reader.ids();
    let from = streamed.iter().position(|id| *id == polled[0]).expect("the first polled event");
    assert_eq!(polled, streamed[from..]);
}

#[test]
fn a_filtered_poll_moves_its_cursor_over_what_it_passes_by() {
    let server = Server::demo(&["--delta-hold", "0"]);
    let (session, events) = with_past(&server);
    let base = format!("/api/session/{session}/events/poll");
    let page = server.told(&format!("{base}?wait=0&types=session-stalled&after={}", events[0].0));
    assert_eq!(page["events"], json!([]), "{page}");
    assert_eq!(text(&page, "next"), events.last().unwrap().0, "everything was passed over");
    let page = server.told(&format!("{base}?wait=9&types=-session-output&after={}", events[0].0));
    let wanted: Vec<&String> =
        events[1..].iter().filter(|event| event.1 != "session-output").map(|e| &e.0).collect();
    assert_eq!(ids(&page["events"]).iter().collect::<Vec<_>>(), wanted);
}

#[test]
fn a_poll_behind_what_is_kept_is_told_of_its_gap() {
    let flags = ["--durability", "memory", "--ring-size", "64KiB", "--delta-hold", "0"];
    let server = Server::demo(&flags);
    let session = server.create();
    let first = text(&snapshot(&server, &session), "lastEventId").to_owned();
    for _ in 0..3 {
        let path = format!("/api/session/{session}/prompt?wait=60");
        server.post(&path, json!({"command": "big 30000"})).expect(200);
    }
    let base = format!("/api/session/{session}/events/poll?wait=30");
    for cursor in [&*first, "nonsense", "ffffffffffff-9", "%C3%A9"] {
        let page = server.told(&format!("{base}&after={cursor}"));
        assert_eq!(page["resume"], "gap", "{cursor}: {page}");
        // It can be gone on from.
        let next = text(&page, "next").to_owned();
        let prompt = server.prompt(&session, "say: on");
        let page = server.told(&format!("{base}&after={next}"));
        assert_eq!(page["resume"], "ok", "{page}");
        let first = &page["events"][0]["data"];
        assert!(first["promptId"] == *prompt || !page["events"].as_array().unwrap().is_empty());
        let path = format!("/api/session/{session}/prompt?wait=60");
        server.post(&path, json!({"command": "say: done"})).expect(200);
    }
}

#[test]
fn a_poll_over_all_sessions_hears_them_all_or_those_it_names() {
    let server = Server::demo(&["--delta-hold", "0"]);
    let sessions = [server.create(), server.create(), server.create()];
    let cursor = text(&server.told("/api/sessions"), "lastEventId").to_owned();
    for session in &sessions {
        let path = format!("/api/session/{session}/prompt?wait=30");
        server.post(&path, json!({"command": "say 3 words"})).expect(200);
    }
    let page = server.told(&format!("/api/events/poll?wait=30&after={cursor}"));
    let heard = |page: &Value| -> BTreeSet<String> {
        let events = page["events"].as_array().unwrap();
        events.iter().map(|event| text(&event["data"], "sessionId").to_owned()).collect()
    };
    assert_eq!(heard(&page), BTreeSet::from(sessions.clone()), "{page}");
    let named = format!("{},{}", sessions[0], sessions[2]);
    let page =
        server.told(&format!("/api/events/poll?wait=30&after={cursor}&sessions={named},nobody"));
    assert_eq!(heard(&page), BTreeSet::from([sessions[0].clone(), sessions[2].clone()]));
    assert_eq!(page["unknown"], json!(["nobody"]), "{page}");
    // Without a cursor it is about what comes from now on.
    let page = server.told("/api/events/poll?wait=0");
    assert_eq!((&page["events"], &page["unknown"]), (&json!([]), &json!([])), "{page}");
    let next = text(&page, "next").to_owned();
    server.prompt(&sessions[1], "say: new");
    let page = server.told(&format!("/api/events/poll?wait=30&after={next}"));
    assert_eq!(page["events"][0]["event"], "prompt-queued", "{page}");
}

#[test]
fn a_poll_that_cannot_be_made_is_refused() {
    let server = Server::demo(&[]);
    let session = server.create();
    for path in [format!("/api/session/{session}/events/poll"), "/api/events/poll".into()] {
        for query in
            ["wait=61", "wait=-1", "wait=soon", "types=nothing", "view=wide", "replay=some"]
        {
            let path = format!("{path}?{query}");
            refusal(&path, server.get(&path), 400, "invalid_value");
        }
        refusal(&path, server.post(&path, json!({})), 405, "method_not_allowed");
    }
}

#[test]
fn a_single_event_is_had_by_its_id() {
    let server = Server::demo(&[]);
    let (session, events) = with_past(&server);
    let (other, _) = with_past(&server);
    for (id, name, data) in [&events[0], events.last().unwrap()] {
        let told = server.told(&format!("/api/session/{session}/events/{id}"));
        assert_eq!((&told["id"], &told["event"]), (&json!(id), &json!(name)));
        assert_eq!(&told["data"], data);
        let foreign = server.get(&format!("/api/session/{other}/events/{id}"));
        refusal("another session's", foreign, 404, "event_not_found");
    }
    let epoch = events[0].0.split_once('-').unwrap().0;
    for id in [&format!("{epoch}-0"), &format!("{epoch}-999999999999"), "ffffffffffff-1", "x", "-"]
    {
        let path = format!("/api/session/{session}/events/{id}");
        refusal(id, server.get(&path), 404, "event_not_found");
    }
}

#[test]
fn a_large_field_is_a_preview_in_its_event_and_whole_at_its_address() {
    let server = Server::demo(&["--ring-size", "64KiB"]);
    let (session, other) = (server.create(), server.create());
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "big 50000");
    reader.turn_end(&prompt);
    let large: Vec<&support::Event> =
        reader.seen.iter().filter(|event| event.data["large"].is_object()).collect();
    let block = large.iter().find(|event| event.name == "message-block").expect("a large block");
    let told = &block.data["large"];
    assert_eq!((&told["field"], &told["bytes"]), (&json!("text"), &json!(50000)), "{told}");
    assert!(block.data["text"].is_null(), "{}", block.data);
    let preview = text(told, "preview");
    assert_eq!(preview.len(), 1024);
    let href = text(told, "href");
    let whole = server.get(href).expect(200);
    assert_eq!(whole.header("content-type"), Some("text/plain; charset=utf-8"));
    let whole = whole.text();
    assert!(whole.len() == 50000 && whole.starts_with(preview));
    let head = server.send("HEAD", href).expect(200);
    assert_eq!(head.header("content-length"), Some("50000"));
    let foreign = href.replace(&session, &other);
    refusal("another session's", server.get(&foreign), 404, "event_not_found");
}

#[test]
fn who_takes_a_large_field_slowly_keeps_nobody_else_waiting() {
    const SIZE: usize = 12_000_000; // More than two sockets hold.
    for durability in ["memory", "write"] {
        let server = Server::fake(&["--durability", durability]);
        let session = server.create();
        let path = format!("/api/session/{session}/prompt?wait=60");
        server.post(&path, json!({"command": format!("line {SIZE}")})).expect(200);
        let mut reader = server.stream(&session);
        reader.until_name("prompt-completed");
        let blocks = reader.seen.iter().filter(|event| event.name == "message-block");
        let large = blocks.map(|block| &block.data["large"]).find(|large| large.is_object());
        let href = text(large.expect("a large block"), "href").to_owned();

        let ask = || {
            let mut connection = Connection::open(server.address);
            connection.send(http::encode(server.address, "GET", &href, &[], b""));
            connection
        };
        // More than two sockets hold: the rest is still to come when the others have all of it.
        let mut slow = ask();
        for mut other in [ask(), ask()] {
            let whole = other.response("GET");
            assert_eq!((whole.status, whole.body.len()), (200, SIZE), "{durability}");
        }
        let whole = slow.response("GET");
        assert_eq!((whole.status, whole.body.len()), (200, SIZE), "{durability}, slowly");
    }
}

#[test]
fn the_readers_of_a_session_are_told() {
    let server = Server::demo(&[]);
    let session = server.create();
    let path = format!("/api/session/{session}/events/status");
    assert_eq!(server.told(&path)["readers"], 0);
    let mut reader = server.stream(&session);
    reader.joined();
    let status = server.told(&path);
    assert_eq!(status["readers"], 1, "{status}");
    assert!(status["latestId"].is_string(), "{status}");
    let stats = server.told("/api/sse/stats");
    assert_eq!(stats["totalConnections"], 1, "{stats}");
    assert_eq!(stats["sessions"], json!({ session.clone(): 1 }), "{stats}");
    drop(reader);
    server.await_streams(0);
    assert_eq!(server.told(&path)["readers"], 0);
    let stats = server.told("/api/sse/stats");
    assert_eq!((&stats["totalCreated"], &stats["totalClosed"]), (&json!(1), &json!(1)));
}

// Prompts.

#[test]
fn a_prompt_may_be_waited_for() {
    let server = Server::demo(&[]);
    let session = server.create();
    let path = format!("/api/session/{session}/prompt");
    let ended = server.post(&format!("{path}?wait=60"), json!({"command": "say 3 words"}));
    let ended = ended.expect(200).json();
    assert_eq!((&ended["success"], &ended["event"]), (&json!(true), &json!("prompt-completed")));
    assert_eq!(text(&ended["data"], "result").trim(), "word1 word2 word3", "{ended}");
    assert_eq!(ended["data"]["promptId"], ended["promptId"], "{ended}");
    let failed = server.post(&format!("{path}?wait=60"), json!({"command": "error 404"}));
    let failed = failed.expect(200).json();
    assert_eq!(
        (&failed["event"], &failed["data"]["isError"]),
        (&json!("prompt-failed"), &json!(true))
    );
    // The time is up: the answer is that of no wait, and the turn goes on.
    let mut reader = server.stream(&session);
    reader.joined();
    let start = Instant::now();
    let taken = server.post(&format!("{path}?wait=1"), json!({"command": "slow 1000 50"}));
    let taken = taken.expect(202).json();
    assert!(start.elapsed() >= Duration::from_millis(900), "{:?}", start.elapsed());
    assert!(taken["lastEventId"].is_string() && taken["position"] == 0, "{taken}");
    assert_eq!(server.status(&session), "running");
    server.interrupt(&session);
    assert_eq!(reader.turn_end(text(&taken, "promptId")).data["interrupted"], true);
    // One that is cancelled while it is waited for is told as that.
    let running = server.prompt(&session, "slow 1000 50");
    let mut waiting = Connection::open(server.address);
    let body = json!({"command": "say: never", "promptId": "mine"}).to_string();
    let head = format!("{path}?wait=60");
    waiting.send(http::encode(server.address, "POST", &head, &[], body.as_bytes()));
    reader.until("its queued", |event| event.text("promptId") == "mine");
    server.send("DELETE", &format!("/api/session/{session}/queue/mine")).expect(200);
    let answer = waiting.response("POST").expect(200).json();
    assert_eq!(answer["event"], "prompt-cancelled", "{answer}");
    server.interrupt(&session);
    reader.turn_end(&running);
}

#[test]
fn the_same_prompt_id_and_command_is_one_prompt() {
    let server = Server::demo(&[]);
    let (session, other) = (server.create(), server.create());
    let mut reader = server.stream(&session);
    reader.joined();
    let path = format!("/api/session/{session}/prompt");
    let body = json!({"command": "say: once", "promptId": "retry-1"});
    let first = server.post(&path, body.clone()).expect(202).json();
    assert_eq!(first["promptId"], "retry-1");
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| {
                let again = server.post(&path, body.clone()).expect(202).json();
                for member in ["promptId", "position", "lastEventId"] {
                    assert_eq!(again[member], first[member], "{again}");
                }
            });
        }
    });
    reader.turn_end("retry-1");
    // After its end as well, and by the header as well as by the field.
    let key = [("Idempotency-Key", "retry-1")];
    let again = server.json("POST", &path, &key, &json!({"command": "say: once"}));
    assert_eq!(again.expect(202).json()["lastEventId"], first["lastEventId"]);
    let by_key = [("Idempotency-Key", "by-key")];
    for _ in 0..2 {
        let answer = server.json("POST", &path, &by_key, &json!({"command": "say: keyed"}));
        assert_eq!(answer.expect(202).json()["promptId"], "by-key");
    }
    reader.turn_end("by-key");
    settle(&server, &session, &mut reader);
    assert_eq!((reader.count("prompt-queued"), reader.count("prompt-started")), (2, 2));
    // Another command under it is a mistake of the client's.
    for headers in [&key[..], &[]] {
        let before = snapshot(&server, &session);
        let mut body = json!({"command": "say: other"});
        if headers.is_empty() {
            body["promptId"] = json!("retry-1");
        }
        let refused = server.json("POST", &path, headers, &body);
        refusal("another command", refused, 409, "prompt_id_reused");
        assert_eq!(snapshot(&server, &session), before);
    }
    // Another session has ids of its own.
    let path = format!("/api/session/{other}/prompt?wait=30");
    let theirs = json!({"command": "say: theirs", "promptId": "retry-1"});
    assert_eq!(server.post(&path, theirs).expect(200).json()["event"], "prompt-completed");
}

#[test]
fn a_prompt_that_does_not_fit_is_refused() {
    let server = Server::demo(&[]);
    let session = server.create();
    let png = "iVBORw0KGgo=";
    let image = |kind: &str, data: &str| json!([{"mediaType": kind, "data": data}]);
    let with = |member: &str, value: Value| {
        let mut body = json!({"command": "ls"});
        body[member] = value;
        body
    };
    let mut table: Vec<Refused<'_>> = vec![
        ("POST", "/prompt", json!({}), 400, "command_missing"),
        ("POST", "/prompt", json!({"command": ""}), 400, "command_empty"),
        ("POST", "/prompt", json!({"command": ["ls"]}), 400, "invalid_type"),
        ("POST", "/prompt", json!(["ls"]), 400, "invalid_body"),
        ("GET", "/prompt", Value::Null, 405, "method_not_allowed"),
        ("POST", "/prompt?wait=61", with("clientId", json!("c")), 400, "invalid_value"),
        ("POST", "/prompt?wait=x", with("clientId", json!("c")), 400, "invalid_value"),
        ("POST", "/prompt", with("when", json!("later")), 400, "invalid_value"),
        ("POST", "/prompt", with("when", json!(true)), 400, "invalid_type"),
        ("POST", "/prompt", with("clientId", json!(7)), 400, "invalid_type"),
        ("POST", "/prompt", with("clientId", json!("")), 400, "invalid_value"),
        ("POST", "/prompt", with("promptId", json!("")), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!("a b")), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!("a/b")), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!("a\\b")), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!(".")), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!("..")), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!("\u{e9}")), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!("x".repeat(129))), 400, "invalid_prompt_id"),
        ("POST", "/prompt", with("promptId", json!(1)), 400, "invalid_type"),
        ("POST", "/prompt", with("images", json!("no list")), 400, "invalid_type"),
        ("POST", "/interrupt", json!({"clearQueue": "yes"}), 400, "invalid_type"),
        ("DELETE", "/queue/nobody", Value::Null, 404, "prompt_not_found"),
        ("POST", "/queue", json!({}), 405, "method_not_allowed"),
    ];
    for images in [
        image("image/tiff", png),
        image("text/html", png),
        image("", png),
        image("image/png", ""),
        image("image/png", "not base64!"),
        image("image/png", "iVBORw0KGgo"),
        image("image/png", "iVBO=w0KGgo="),
        json!([7]),
        json!([{"mediaType": "image/png"}]),
        json!([{"data": png}]),
    ] {
        table.push(("POST", "/prompt", with("images", images), 400, "invalid_image"));
    }
    refuses(&server, &session, &table);
    // A refusal names what it is about.
    let path = format!("/api/session/{session}/prompt");
    let key = [("Idempotency-Key", "a/b")];
    let refused = server.json("POST", &path, &key, &json!({"command": "ls"}));
    let sentence = refusal("the header", refused, 400, "invalid_prompt_id");
    assert!(sentence.starts_with("Idempotency-Key "), "{sentence}");
    let good = json!({"mediaType": "image/png", "data": png});
    for (bad, named) in [
        (json!(1), "\"images[1]\""),
        (json!({"mediaType": "image/tiff", "data": png}), "\"images[1].mediaType\""),
        (json!({"mediaType": "image/png", "data": 7}), "\"images[1].data\""),
    ] {
        let refused = server.post(&path, with("images", json!([good, bad])));
        let sentence = refusal(named, refused, 400, "invalid_image");
        assert!(sentence.starts_with(named), "{sentence}");
    }
    // Whatever is taken can be cancelled by its name.
    let running = server.prompt(&session, "slow 1000 50");
    for id in ["...", ".a", "a.", "~!@#$%^&*()", "a%2fb", "<>[]{}|`'"] {
        server.post(&path, with("promptId", json!(id))).expect(202);
        let segment: String = id.bytes().map(|byte| format!("%{byte:02x}")).collect();
        let cancelled = server.send("DELETE", &format!("/api/session/{session}/queue/{segment}"));
        assert_eq!(cancelled.expect(200).json()["promptId"], id);
    }
    server.interrupt(&session);
    server.stream_with(&session, "?replay=all", &[]).turn_end(&running);
}

#[test]
fn a_prompt_that_fails_at_once_is_answered_with_that() {
    let server = Server::start(&["--agent", "claude:/nonexistent/claude"]);
    let session = server.create();
    let path = format!("/api/session/{session}/prompt?wait=30");
    let body = json!({"command": "ls", "promptId": "mine"});
    for attempt in 0..2 {
        let start = Instant::now();
        let told = server.post(&path, body.clone()).expect(200).json();
        assert_eq!(told["event"], "prompt-failed", "{attempt}: {told}");
        assert_eq!(told["data"]["code"], "agent_failed_to_start", "{attempt}: {told}");
        assert!(start.elapsed() < Duration::from_secs(20), "{attempt}: it waits for nothing");
    }
    server.post(&path.replace("wait=30", "wait=0"), body).expect(202);
}

#[test]
fn a_retry_with_other_images_is_another_prompt() {
    let server = Server::fake(&[]);
    let session = server.create();
    let path = format!("/api/session/{session}/prompt?wait=30");
    let body = |images: Value| json!({"command": "say: x", "promptId": "mine", "images": images});
    let (png, gif) = (
        json!({"mediaType": "image/png", "data": "iVBORw0KGgo="}),
        json!({"mediaType": "image/gif", "data": "R0lGODlh"}),
    );
    server.post(&path, body(json!([png]))).expect(200);
    server.post(&path, body(json!([png]))).expect(200);
    for images in [json!([]), json!([gif]), json!([png, gif])] {
        let what = images.to_string();
        refusal(&what, server.post(&path, body(images)), 409, "prompt_id_reused");
    }
}

#[test]
fn an_image_that_no_body_may_hold_is_413_and_nothing_is_queued() {
    let server = Server::demo(&["--body-size-max", "64KiB"]);
    let session = server.create();
    let before = snapshot(&server, &session);
    let data = "A".repeat(80_000);
    let body = json!({"command": "look", "images": [{"mediaType": "image/png", "data": data}]});
    let answer = server.post(&format!("/api/session/{session}/prompt"), body);
    refusal("a large image", answer, 413, "body_too_large");
    assert_eq!(snapshot(&server, &session), before);
}

#[test]
fn what_waits_is_listed_and_may_be_cancelled() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let running = server.prompt(&session, "slow 1000 50");
    reader.until_name("session-output");
    let path = format!("/api/session/{session}/queue");
    assert_eq!(server.told(&path)["queue"], json!([]), "what runs waits no longer");
    let waiting: Vec<String> =
        ["say: a", "say: b", "say: c"].map(|s| server.prompt(&session, s)).into();
    let listed = server.told(&path);
    let row = |n: usize| {
        let queue = listed["queue"].as_array().unwrap();
        (queue[n]["promptId"].clone(), queue[n]["position"].clone(), queue[n]["command"].clone())
    };
    for (n, command) in ["say: a", "say: b", "say: c"].into_iter().enumerate() {
        assert_eq!(row(n), (json!(waiting[n]), json!(n), json!(command)), "{listed}");
    }
    let cancel = |prompt: &str| server.send("DELETE", &format!("{path}/{prompt}"));
    let answer = cancel(&waiting[1]).expect(200).json();
    assert_eq!(answer["promptId"], waiting[1].as_str(), "{answer}");
    let told = reader.turn_end(&waiting[1]);
    assert_eq!(told.name, "prompt-cancelled", "{}", told.data);
    refusal("a second time", cancel(&waiting[1]), 404, "prompt_not_found");
    refusal("what runs", cancel(&running), 404, "prompt_not_found");
    assert_eq!(ids_of_queue(&server, &path), [waiting[0].clone(), waiting[2].clone()]);
    server.interrupt(&session);
    assert_eq!(reader.answer(&waiting[0]).trim(), "a");
    assert_eq!(reader.answer(&waiting[2]).trim(), "c");
    assert_eq!(reader.count("prompt-started"), 3, "the cancelled one never started");
}

fn ids_of_queue(server: &Server, path: &str) -> Vec<String> {
    let listed = server.told(path);
    let queue = listed["queue"].as_array().unwrap();
    queue.iter().map(|row| text(row, "promptId").to_owned()).collect()
}

#[test]
fn a_prompt_that_interrupts_runs_next() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let running = server.prompt(&session, "slow 1000 50");
    reader.until_name("session-output");
    let waiting = server.prompt(&session, "say: patient");
    let path = format!("/api/session/{session}/prompt");
    let body = json!({"command": "say: urgent", "when": "interrupt", "clientId": "the-phone"});
    let urgent = server.post(&path, body).expect(202).json();
    assert_eq!(urgent["position"], 0, "{urgent}");
    let urgent = text(&urgent, "promptId").to_owned();
    let end = reader.turn_end(&running);
    assert_eq!((&end.data["interrupted"], &end.data["isError"]), (&json!(true), &json!(false)));
    assert_eq!(reader.answer(&urgent).trim(), "urgent");
    assert_eq!(reader.answer(&waiting).trim(), "patient");
    let started: Vec<&str> = reader
        .seen
        .iter()
        .filter(|event| event.name == "prompt-started")
        .map(|event| event.text("promptId"))
        .collect();
    assert_eq!(started, [&running, &urgent, &waiting]);
    let queued = reader.seen.iter().find(|event| event.text("promptId") == urgent).unwrap();
    assert_eq!(queued.text("clientId"), "the-phone", "{}", queued.data);
    // In an idle session it is a prompt like any other.
    settle(&server, &session, &mut reader);
    let body = json!({"command": "say: idle", "when": "interrupt"});
    let path = format!("{path}?wait=30");
    assert_eq!(server.post(&path, body).expect(200).json()["event"], "prompt-completed");
}

// The server.

#[test]
fn the_server_says_what_it_can_do() {
    let server =
        Server::start(&["--agent", "one=demo", "--agent", "two=lines:cat", "--queue-max", "9"]);
    let told = server.told("/api/capabilities");
    assert!(text(&told, "version").contains('.'), "{told}");
    assert_eq!(told["limits"]["queue"], 9, "{told}");
    for (member, entry) in [("dialects", "claude"), ("dialects", "lines"), ("transports", "sse")] {
        let list = told[member].as_array().unwrap_or_else(|| panic!("{member}: {told}"));
        assert!(list.contains(&json!(entry)), "{member}: {told}");
    }
    let list = told["transports"].as_array().unwrap();
    assert!(list.contains(&json!("poll")), "long polls are a transport too: {told}");
    let agents = server.told("/api/agents");
    let rows = agents["agents"].as_array().unwrap();
    let named: Vec<&str> = rows.iter().map(|row| text(row, "name")).collect();
    assert_eq!(named, ["one", "two"], "{agents}");
    for row in rows {
        for member in ["dialect", "version", "commands", "models", "modes", "loggedIn"] {
            assert!(row.get(member).is_some(), "{member}: {row}");
        }
    }
    // What the agent itself tells is known once it has run.
    let session = server.create();
    let path = format!("/api/session/{session}/prompt?wait=30");
    server.post(&path, json!({"command": "say: hello"})).expect(200);
    let row = server.told("/api/agents")["agents"][0].clone();
    assert!(row["version"].is_string() && row["models"].is_array(), "{row}");
}

#[test]
fn a_base_path_is_answered_below_and_beside() {
    let server = Server::demo(&["--base-path", "/claude"]);
    let root = server.root();
    for path in [
        "/api/sessions",
        "/claude/api/sessions",
        // The seed's own path begins with the base path by chance: it is matched whole first.
        "/claude/api/claude/sessions",
        "/claude/claude/api/claude/sessions",
    ] {
        let answer = server.post(path, json!({"workingDir": root})).expect(201);
        let location = answer.header("location").expect("a Location").to_owned();
        assert!(location.starts_with("/claude/api/session/"), "{path}: {location}");
        server.get(&location).expect(200);
    }
    for path in ["/claude/api/sessions", "/claude/health", "/claude/test-sse.html", "/claude/"] {
        server.get(path).expect(200);
    }
    // The pages' links are relative: without the slash they would lead beside the base path.
    let moved = server.get("/claude").expect(308);
    assert_eq!(moved.header("location"), Some("/claude/"));
    for path in ["/claude/nothing", "/other/api/sessions", "/claudeapi/sessions", "/api/claude"] {
        refusal(path, server.get(path), 404, "not_found");
    }
    let session = server.create();
    let mut reader = support::Reader::open(
        server.address,
        &format!("/claude/api/session/{session}/events"),
        &[],
    );
    reader.joined();
}

#[test]
fn the_old_websocket_is_gone_and_says_where_to_go() {
    let server = Server::demo(&[]);
    let upgrade = [
        ("Upgrade", "websocket"),
        ("Connection", "Upgrade"),
        ("Sec-WebSocket-Version", "13"),
        ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ=="),
    ];
    for (method, headers) in [("GET", &upgrade[..]), ("GET", &[])] {
        let mut connection = Connection::open(server.address);
        let path = "/claude/api/claude/chat";
        connection.send(http::encode(server.address, method, path, headers, b""));
        let answer = connection.response(method);
        let link = answer.header("link").unwrap_or_else(|| panic!("no Link: {answer}")).to_owned();
        assert!(link.contains("/api/session/") && link.contains("/events>"), "{link}");
        refusal(method, answer, 410, "websocket_gone");
    }
}

// Conversations: archived, forked, adopted. Directories, images.

#[test]
fn an_archived_session_leaves_the_list_keeps_its_past_and_comes_back() {
    let server = Server::fake(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "say: kept");
    reader.answer(&prompt);
    assert_eq!(server.agents().len(), 1);
    let path = format!("/api/session/{session}");
    for _ in 0..2 {
        let told = server.post(&format!("{path}/archive"), json!({})).expect(200).json();
        assert_eq!(told["session"]["archived"], true, "{told}");
    }
    server.expect_nothing_left();
    assert_eq!(server.rows(), Vec::<Value>::new());
    let listed = server.told("/api/sessions?status=archived");
    assert_eq!(listed["sessions"][0]["sessionId"], session.as_str(), "{listed}");
    let past = server.told(&format!("{path}/history?types=prompt-completed"));
    assert_eq!(text(&past["events"][0]["data"], "result").trim(), "kept");
    support::eventually("suspended", || server.status(&session) == "suspended");
    refuses(
        &server,
        &session,
        &[("POST", "/prompt", json!({"command": "say: x"}), 409, "session_archived")],
    );
    let told = server.post(&format!("{path}/unarchive"), json!({})).expect(200).json();
    assert_eq!(told["session"]["archived"], false, "{told}");
    assert_eq!(server.rows().len(), 1);
    let prompt = server.prompt(&session, "history");
    assert!(reader.answer(&prompt).contains("say: kept"), "the conversation goes on");
    let told: Vec<&str> = reader.seen.iter().map(|event| event.text("reason")).collect();
    let count = |reason: &str| told.iter().filter(|one| **one == reason).count();
    assert_eq!((count("archived"), count("unarchived")), (1, 1), "{}", reader.story());
    for tail in ["archive", "unarchive"] {
        let answer = server.post(&format!("/api/session/nobody/{tail}"), json!({}));
        refusal(tail, answer, 404, "session_not_found");
        refusal(tail, server.get(&format!("{path}/{tail}")), 405, "method_not_allowed");
    }
}

#[test]
fn archiving_ends_what_runs_and_what_waits() {
    let server = Server::fake(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let running = server.prompt(&session, "slow 1000 50");
    let waiting = server.prompt(&session, "say: waits");
    reader.until_name("session-output");
    server.post(&format!("/api/session/{session}/archive"), json!({})).expect(200);
    reader.turn_end(&running);
    server.expect_nothing_left();
    // What waited is over too, or waits until the session is taken out again; it never runs before.
    server.post(&format!("/api/session/{session}/unarchive"), json!({})).expect(200);
    let prompt = server.prompt(&session, "say: after");
    assert_eq!(reader.answer(&prompt).trim(), "after");
    let ends = reader.seen.iter().filter(|event| {
        event.text("promptId") == waiting
            && matches!(&*event.name, "prompt-completed" | "prompt-cancelled" | "prompt-failed")
    });
    assert_eq!(ends.count(), 1, "{}", reader.story());
}

#[test]
fn a_fork_is_a_session_of_its_own_from_the_same_conversation() {
    let server = Server::demo(&[]);
    let parent =
        text(&server.create_as(json!({"name": "parent", "mode": "plan"})), "sessionId").to_owned();
    let path = format!("/api/session/{parent}");
    let fork = format!("{path}/fork");
    let early = server.post(&fork, json!({}));
    refusal("nothing to fork", early, 409, "conversation_not_begun");
    let prompt = json!({"command": "say: begun"});
    server.post(&format!("{path}/prompt?wait=30"), prompt).expect(200);
    let answer = server.post(&fork, json!({})).expect(201);
    let location = answer.header("location").expect("a Location").to_owned();
    let told = answer.json();
    let session = &told["session"];
    assert!(location.ends_with(text(session, "sessionId")), "{location}: {told}");
    assert_eq!(session["forkedFrom"], parent.as_str(), "{told}");
    assert_eq!((&session["name"], &session["mode"]), (&json!("parent"), &json!("plan")), "{told}");
    assert_ne!(session["sessionId"], parent.as_str());
    assert_ne!(session["conversation"], snapshot(&server, &parent)["session"]["conversation"]);
    let past = server.told(&format!("{location}/history"));
    assert_eq!(past["events"][0]["event"], "session-created", "{past}");
    assert_eq!(past["events"][0]["data"]["forkedFrom"], parent.as_str(), "{past}");
    let renamed = server.post(&fork, json!({"name": "child", "mode": "default"})).expect(201);
    assert_eq!(renamed.json()["session"]["name"], "child");
    assert_eq!(server.rows().len(), 3);
    refuses(
        &server,
        &parent,
        &[
            ("POST", "/fork", json!({"mode": "yolo"}), 400, "unknown_mode"),
            ("POST", "/fork", json!({"name": 1}), 400, "invalid_type"),
            ("GET", "/fork", Value::Null, 405, "method_not_allowed"),
        ],
    );
    refusal("of nothing", server.post("/api/session/no/fork", json!({})), 404, "session_not_found");
    // Both run on, each on its own.
    for session in [&path, &location] {
        let answer =
            server.post(&format!("{session}/prompt?wait=30"), json!({"command": "say: on"}));
        assert_eq!(answer.expect(200).json()["event"], "prompt-completed");
    }
}

#[test]
fn a_fork_while_a_turn_runs_is_refused() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "run tool: touch x ;; say: ok");
    let asked = reader.until_name("approval-required");
    support::eventually("waiting", || server.status(&session) == "waiting");
    refuses(&server, &session, &[("POST", "/fork", json!({}), 409, "turn_running")]);
    assert_eq!(server.rows().len(), 1);
    server.decide(&session, &asked, "deny", json!({})).expect(200);
    reader.turn_end(&prompt);
    server.post(&format!("/api/session/{session}/fork"), json!({})).expect(201);
}

#[test]
fn a_conversation_is_adopted_once() {
    let server = Server::fake(&["--agent", "plain=lines:cat"]);
    let id = "4cb2c95e-3b1f-4f5e-8d57-0c3ef1d1a001";
    // What the agent itself remembers of that conversation.
    let memory = server.scratch.join(&format!("home/fake-agent-{id}.json"));
    std::fs::write(memory, r#"["said long ago"]"#).unwrap();
    let session = server.create_as(json!({"conversation": id}));
    assert_eq!(session["conversation"], id, "{session}");
    let session = text(&session, "sessionId").to_owned();
    let body =
        |conversation: Value| json!({"workingDir": server.root(), "conversation": conversation});
    let taken = server.post("/api/sessions", body(json!(id)));
    refusal("held", taken, 409, "conversation_held");
    let upper = server.post("/api/sessions", body(json!(id.to_uppercase())));
    refusal("held, in capitals", upper, 409, "conversation_held");
    for odd in
        ["", "x", "../../etc/passwd", "4cb2c95e-3b1f-4f5e-8d57-0c3ef1d1a00", &format!("{id}0")]
    {
        let answer = server.post("/api/sessions", body(json!(odd)));
        refusal(odd, answer, 400, "invalid_conversation");
    }
    refusal("a number", server.post("/api/sessions", body(json!(4))), 400, "invalid_type");
    let mut plain = body(json!("4cb2c95e-3b1f-4f5e-8d57-0c3ef1d1a002"));
    plain["agent"] = json!("plain");
    refusal("lines", server.post("/api/sessions", plain), 400, "no_conversations");
    assert_eq!(server.rows().len(), 1);
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "history");
    assert!(reader.answer(&prompt).contains("said long ago"), "{}", reader.story());
    // The conversation of any session is held, not only of one that adopted.
    let other = server.create_as(json!({}));
    let taken = server.post("/api/sessions", body(other["conversation"].clone()));
    refusal("another's", taken, 409, "conversation_held");
    // Who lets it go lets another have it.
    server.close(&session);
    server.post("/api/sessions", body(json!(id))).expect(201);
}

#[test]
fn directories_are_listed_inside_the_roots_only() {
    let server = Server::demo(&[]);
    let root = server.root();
    for name in ["b-dir/inner", "a-dir", "sp ace \u{e9}"] {
        server.scratch.directory(&format!("root/{name}"));
    }
    std::fs::write(server.scratch.join("root/file"), "x").unwrap();
    for (place, link) in [("home", "out"), ("root/a-dir", "in")] {
        let link = server.scratch.join(&format!("root/{link}"));
        std::os::unix::fs::symlink(server.scratch.join(place), link).unwrap();
    }
    let list = |path: &str| {
        let path: String = path
            .bytes()
            .map(|byte| match byte {
                b'/' | b'-' | b'.' | b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' => {
                    char::from(byte).to_string()
                }
                _ => format!("%{byte:02X}"),
            })
            .collect();
        server.get(&format!("/api/directories?path={path}"))
    };
    let named = |json: &Value| -> Vec<String> {
        let rows = json["directories"].as_array().unwrap_or_else(|| panic!("{json}"));
        rows.iter().map(|row| text(row, "name").to_owned()).collect()
    };
    let roots = server.told("/api/directories");
    assert_eq!(roots["directories"][0]["path"], root.as_str(), "{roots}");
    let told = list(&root).expect(200).json();
    assert_eq!((&told["path"], &told["parent"]), (&json!(root), &Value::Null), "{told}");
    let names = named(&told);
    for name in ["a-dir", "b-dir", "sp ace \u{e9}"] {
        assert!(names.contains(&name.to_owned()), "{name}: {names:?}");
    }
    assert!(!names.contains(&"file".to_owned()), "files are none: {names:?}");
    assert!(!names.contains(&"out".to_owned()), "nor what leads out of the roots: {names:?}");
    assert!(names.contains(&"in".to_owned()), "what leads to within is: {names:?}");
    let told = list(&format!("{root}/b-dir")).expect(200).json();
    assert_eq!((named(&told), &told["parent"]), (vec!["inner".to_owned()], &json!(root)), "{told}");
    assert_eq!(told["directories"][0]["path"], format!("{root}/b-dir/inner"));
    for (path, status, code) in [
        ("/", 403, "working_dir_outside_roots"),
        (&*format!("{root}/.."), 403, "working_dir_outside_roots"),
        (&format!("{root}/out"), 403, "working_dir_outside_roots"),
        (&format!("{root}x"), 403, "working_dir_outside_roots"),
        (&format!("{root}/absent"), 404, "working_dir_not_found"),
        (&format!("{root}/file"), 400, "working_dir_not_a_directory"),
        ("relative", 400, "working_dir_not_absolute"),
    ] {
        let sentence = refusal(path, list(path), status, code);
        assert!(sentence.contains("\"path\"") && !sentence.contains("working"), "{sentence}");
    }
    refusal("POST", server.post("/api/directories", json!({})), 405, "method_not_allowed");
}

#[test]
fn images_go_in_as_bytes_and_come_out_as_addresses() {
    let server = Server::fake(&[]);
    let (session, other) = (server.create(), server.create());
    let mut reader = server.stream(&session);
    reader.joined();
    // The signature of a PNG and "GIF89a": enough of an image to be told apart.
    let images = json!([
        {"mediaType": "image/png", "data": "iVBORw0KGgo="},
        {"mediaType": "image/gif", "data": "R0lGODlh"},
    ]);
    let body = json!({"command": "say: seen", "images": images});
    let answer = server.post(&format!("/api/session/{session}/prompt"), body).expect(202).json();
    let queued = reader.until_name("prompt-queued");
    let told = queued.data["images"].as_array().unwrap_or_else(|| panic!("{}", queued.data));
    assert_eq!(told.len(), 2, "{}", queued.data);
    assert!(!queued.data.to_string().contains("iVBORw0KGgo"), "{}", queued.data);
    let expected: [(&str, &[u8]); 2] =
        [("image/png", b"\x89PNG\r\n\x1a\n"), ("image/gif", b"GIF89a")];
    for (one, (kind, bytes)) in told.iter().zip(expected) {
        assert_eq!(
            (&one["mediaType"], &one["bytes"]),
            (&json!(kind), &json!(bytes.len())),
            "{one}"
        );
        let href = text(one, "href");
        let image = server.get(href).expect(200);
        assert_eq!(image.header("content-type"), Some(kind), "{image}");
        assert_eq!(image.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(image.body, bytes, "{href}");
        let foreign = href.replace(&session, &other);
        refusal(&foreign, server.get(&foreign), 404, "event_not_found");
    }
    let beyond = text(&told[1], "href").replace("image=1", "image=2");
    refusal(&beyond, server.get(&beyond), 404, "event_not_found");
    assert_eq!(reader.answer(text(&answer, "promptId")).trim(), "seen");
}
