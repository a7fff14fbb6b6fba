//! The events of real sessions against the schema that the server itself publishes.

mod support;

use serde_json::Value;
use support::{Event, Server};

/// What is wrong with `value` by `schema`: the part of JSON Schema 2020-12 that ours uses.
fn faults(root: &Value, schema: &Value, value: &Value, at: &str, out: &mut Vec<String>) {
    if let Some(name) = schema["$ref"].as_str().and_then(|r| r.strip_prefix("#/$defs/")) {
        return faults(root, &root["$defs"][name], value, at, out);
    }
    let of_type = |kind: &str| match kind {
        "string" => value.is_string(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "boolean" => value.is_boolean(),
        "object" => value.is_object(),
        "array" => value.is_array(),
        "null" => value.is_null(),
        other => panic!("a type that the test does not know: {other}"),
    };
    let fits = match &schema["type"] {
        Value::Null => true,
        Value::String(kind) => of_type(kind),
        kinds => kinds.as_array().unwrap().iter().any(|kind| of_type(kind.as_str().unwrap())),
    };
    if !fits {
        out.push(format!("{at}: {value} is not of type {}", schema["type"]));
    }
    if !schema["const"].is_null() && schema["const"] != *value {
        out.push(format!("{at}: {value} is not {}", schema["const"]));
    }
    if let Some(words) = schema["enum"].as_array()
        && !words.contains(value)
    {
        out.push(format!("{at}: {value} is none of {words:?}"));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        if value.get(name.as_str().unwrap()).is_none() {
            out.push(format!("{at}: {name} is missing"));
        }
    }
    if let Some(object) = value.as_object() {
        for (name, member) in object {
            match schema["properties"].get(name) {
                Some(schema) => faults(root, schema, member, &format!("{at}.{name}"), out),
                None if schema["properties"].is_object() => {
                    out.push(format!("{at}.{name} is not described"));
                }
                None => {}
            }
        }
    }
    for (number, element) in value.as_array().into_iter().flatten().enumerate() {
        faults(root, &schema["items"], element, &format!("{at}[{number}]"), out);
    }
}

fn check(server: &Server, events: &[Event]) -> Vec<String> {
    let schema = server.get("/api/events.schema.json").expect(200).json();
    let mut out = Vec::new();
    for event in events.iter().filter(|event| event.is_logged()) {
        let one = &schema["$defs"][&event.name];
        assert!(one.is_object(), "{} is not described", event.name);
        faults(&schema, one, &event.data, &event.name, &mut out);
    }
    out
}

#[test]
fn every_event_of_a_session_is_as_the_schema_says() {
    let server = Server::demo(&[]);
    let session = server.create();
    let mut reader = server.stream(&session);
    for script in [
        "think: well ;; say: hello",
        "run tool: ls ;; say: done",
        "ask: Which? A | B",
        "plan: first this",
        "error 529",
        "big 600000",
    ] {
        let prompt = server.prompt(&session, script);
        loop {
            let event = reader.next();
            if event.name == "approval-required" {
                let decision = if script.starts_with("ask") { "deny" } else { "allow" };
                server.decide(&session, &event, decision, serde_json::json!({})).expect(200);
            }
            if event.data["promptId"] == prompt.as_str()
                && matches!(&*event.name, "prompt-completed" | "prompt-failed")
            {
                break;
            }
        }
    }
    let found = check(&server, &reader.seen);
    assert!(found.is_empty(), "{}", found.join("\n"));
    assert!(reader.seen.iter().any(|event| event.data["large"].is_object()));
}

#[test]
fn the_events_of_an_agent_that_misbehaves_are_as_the_schema_says() {
    for script in [
        "stderr oh ;; die 3",
        "say: half ;; die mid-line",
        "noise",
        "unknown-type ;; say: x",
        "retry",
        "approve3",
        "withdraw",
        "signal 9",
    ] {
        let server = Server::fake(&["--approvals-max", "2"]);
        let session = server.create();
        let mut reader = server.stream(&session);
        let prompt = server.prompt(&session, script);
        loop {
            let event = reader.next();
            let ends = ["prompt-completed", "prompt-failed"].contains(&&*event.name);
            if ends && event.data["promptId"] == prompt.as_str() {
                break;
            }
            if event.name == "approval-required" {
                // It may have been withdrawn in the meantime: that, too, is told by events.
                server.decide(&session, &event, "deny", serde_json::json!({}));
            }
        }
        let found = check(&server, &reader.seen);
        assert!(found.is_empty(), "{script}: {}", found.join("\n"));
    }
}
