//! A renderer as a front end would write it, from the documented events alone. It believes little:
//! an offset that leaves a hole, an end without a beginning, a second end or a text that differs
//! from its deltas is a failed test.
//!
//! What it draws is the same whichever way the events came: as they happened, resumed in the
//! middle, in the compact view, or from the history.

use super::Server;
use serde_json::{Value, json};
use std::collections::BTreeMap;

/// One conversation, drawn so far.
#[derive(Default, Clone)]
pub struct Screen {
    /// Prompts, blocks, tools and subagents, in the order in which they first appeared.
    items: Vec<(String, Value)>,
    /// The list of things to do.
    pub todos: Value,
    /// The session's cost so far.
    pub total_cost: f64,
    /// The state of the session.
    pub status: String,
    /// How many events of each name were drawn.
    pub counts: BTreeMap<String, usize>,
    /// The turn under way.
    turn: Option<String>,
    /// Operations, by the turn they belong to: one entry per event.
    operations: Vec<Value>,
    /// Whether it saw the conversation from its beginning.
    whole: bool,
    /// Whether it sees the deltas of ended blocks: the compact view leaves them out.
    compact: bool,
    /// Blocks that another message took the place of.
    replaced: Vec<String>,
}

/// Names of events that stand for themselves, in a turn or not.
const APART: [&str; 6] = [
    "prompt-queued",
    "prompt-cancelled",
    "session-created",
    "session-status",
    "session-closed",
    "session-error",
];

fn units(text: &str) -> u64 {
    text.encode_utf16().count() as u64
}

impl Screen {
    /// Nothing drawn. `whole`: it will see the conversation from its beginning.
    pub fn new(whole: bool) -> Screen {
        Screen { whole, ..Screen::default() }
    }

    /// The same, for the compact view.
    pub fn compact(whole: bool) -> Screen {
        Screen { whole, compact: true, ..Screen::default() }
    }

    fn find(&mut self, key: &str) -> Option<&mut Value> {
        self.items.iter_mut().find(|item| item.0 == key).map(|item| &mut item.1)
    }

    #[track_caller]
    fn add(&mut self, key: String, item: Value) {
        assert!(self.find(&key).is_none(), "{key} begins twice");
        self.items.push((key, item));
    }

    /// Ends something that must be open. What began before we came appears now.
    #[track_caller]
    fn end(&mut self, key: &str, what: &Value) -> &mut Value {
        if self.find(key).is_none() {
            assert!(!self.whole, "{key} ends and never began: {what}");
            self.items.push((key.to_owned(), json!({})));
        }
        let item = self.find(key).expect("it is there");
        assert!(item["ended"].is_null(), "{key} ends twice: {item} and {what}");
        item["ended"] = json!(true);
        item
    }

    /// Draws one event. Large fields are fetched from where the event says they are.
    #[track_caller]
    pub fn draw(&mut self, server: &Server, name: &str, data: &Value) {
        *self.counts.entry(name.to_owned()).or_default() += 1;
        let mut data = data.clone();
        if let Some(large) = data.get("large").cloned() {
            let answer = server.get(large["href"].as_str().expect("an href")).expect(200);
            let is_text =
                answer.header("content-type").is_some_and(|t| t.starts_with("text/plain"));
            let field = large["field"].as_str().expect("a field");
            data[field] = match is_text {
                true => json!(answer.text()),
                false => answer.json(),
            };
        }
        if !APART.contains(&name) {
            self.check_turn(name, &data);
        }
        self.draw_whole(name, &data);
    }

    /// Every event inside a turn says which.
    #[track_caller]
    fn check_turn(&mut self, name: &str, data: &Value) {
        let turn = data["turnId"].as_str();
        if name == "prompt-started" {
            assert!(self.turn.is_none() || !self.whole, "a turn begins within a turn: {data}");
            self.turn = turn.map(str::to_owned);
        }
        if let Some(running) = &self.turn {
            assert_eq!(turn, Some(&**running), "{name} is of another turn: {data}");
            assert!(data.get("promptId").is_some(), "{name} says no prompt: {data}");
        }
    }

    #[track_caller]
    fn draw_whole(&mut self, name: &str, data: &Value) {
        let text = |member: &str| data[member].as_str().unwrap_or_default().to_owned();
        match name {
            "session-output" => self.delta(data),
            "message-block" => self.block(data),
            "tool-started" => {
                for member in ["toolUseId", "messageId", "tool", "kind", "title"] {
                    assert!(!text(member).is_empty(), "no {member}: {data}");
                }
                self.add(
                    format!("tool {}", text("toolUseId")),
                    json!({"tool": data["tool"], "title": data["title"], "input": data["input"],
                        "parent": data["parentToolUseId"], "message": data["messageId"]}),
                );
            }
            "tool-progress" => {
                let key = format!("tool {}", text("toolUseId"));
                let ended = self.find(&key).map(|item| item["ended"].clone());
                assert!(ended.is_none() && !self.whole || ended == Some(Value::Null), "{data}");
            }
            "tool-completed" => {
                let known = ["ok", "error", "denied", "aborted", "unknown"];
                assert!(known.contains(&&*text("outcome")), "{data}");
                let item = self.end(&format!("tool {}", text("toolUseId")), data);
                item["outcome"] = data["outcome"].clone();
                item["content"] = data["content"].clone();
            }
            "todos-updated" => self.todos = data["todos"].clone(),
            "subagent-started" => self.add(
                format!("subagent {}", text("agentId")),
                json!({"description": data["description"], "toolUseId": data["toolUseId"],
                    "background": data["background"]}),
            ),
            "subagent-completed" => {
                let item = self.end(&format!("subagent {}", text("agentId")), data);
                item["outcome"] = data["outcome"].clone();
                item["summary"] = data["summary"].clone();
            }
            "operations-detected" => self.operations(data),
            "approval-required" => self.add(
                format!("approval {}", text("approvalId")),
                json!({"kind": data["kind"], "title": data["title"], "input": data["input"]}),
            ),
            "approval-resolved" | "approval-withdrawn" => {
                let item = self.end(&format!("approval {}", text("approvalId")), data);
                item["how"] = if name == "approval-resolved" {
                    data["decision"].clone()
                } else {
                    json!("withdrawn")
                };
            }
            "prompt-queued" => self
                .add(format!("prompt {}", text("promptId")), json!({"command": data["command"]})),
            "prompt-started" => {
                let key = self.turn_key(data);
                if self.find(&key).is_none() {
                    self.add(key, json!({"started": true}));
                } else if let Some(item) = self.find(&key) {
                    assert!(item["started"].is_null(), "{key} starts twice");
                    item["started"] = json!(true);
                }
            }
            "prompt-completed" | "prompt-failed" | "prompt-cancelled" => self.turn_end(name, data),
            "session-status" | "session-created" | "session-closed" => {
                self.status = text("status");
            }
            _ => {}
        }
    }

    fn turn_key(&self, data: &Value) -> String {
        match data["promptId"].as_str() {
            Some(prompt) => format!("prompt {prompt}"),
            None => format!("own {}", data["turnId"].as_str().unwrap_or_default()),
        }
    }

    #[track_caller]
    fn delta(&mut self, data: &Value) {
        let kind = match data["type"].as_str() {
            Some("stdout") => "text",
            Some("thinking") => "thinking",
            Some("stderr") => "stderr",
            other => panic!("a type {other:?}: {data}"),
        };
        let (message, block) = (data["messageId"].as_str().expect("messageId"), &data["block"]);
        let key = format!("block {message} {block}");
        let (content, offset) = (data["content"].as_str().unwrap(), data["offset"].as_u64());
        let offset = offset.unwrap_or_else(|| panic!("no offset: {data}"));
        assert!(content.len() <= 64 * 1024, "a delta of {} bytes", content.len());
        let whole = self.whole;
        let Some(item) = self.find(&key) else {
            assert!(offset == 0 || !whole, "{key} begins at {offset}: {data}");
            let partial = (offset > 0).then_some(offset);
            // What is no message of an agent's has no block to end it: it ends with its turn.
            let plain = kind == "stderr" || data["turnId"] == message;
            let item = json!({"kind": kind, "text": content, "from": partial,
                "turn": data["turnId"], "plain": plain});
            return self.items.push((key, item));
        };
        assert!(item["ended"].is_null(), "{key} goes on after its end: {data}");
        assert_eq!(item["kind"], kind, "{key} changes its kind: {data}");
        let text = item["text"].as_str().unwrap().to_owned();
        let from = item["from"].as_u64().unwrap_or(0);
        assert_eq!(from + units(&text), offset, "{key} has a hole, or a repeat: {data}");
        item["text"] = json!(text + content);
    }

    #[track_caller]
    fn block(&mut self, data: &Value) {
        let message = data["messageId"].as_str().expect("messageId");
        for replaced in data["replaces"].as_array().map(Vec::as_slice).unwrap_or_default() {
            let prefix = format!("block {} ", replaced.as_str().unwrap());
            self.items.retain(|(key, _)| !key.starts_with(&prefix));
            self.replaced.push(replaced.as_str().unwrap().to_owned());
        }
        assert!(!self.replaced.iter().any(|replaced| replaced == message), "replaced: {data}");
        let key = format!("block {message} {}", data["block"]);
        let aborted = data["aborted"] == true;
        let compact = self.compact;
        if let Some(item) = self.find(&key) {
            assert!(item["ended"].is_null(), "{key} ends twice: {data}");
            assert_eq!(item["kind"], data["kind"], "{data}");
            let (told, text) = (item["text"].as_str().unwrap(), data["text"].as_str().unwrap());
            let fits = match item["from"].is_null() {
                true if compact => text.starts_with(told),
                true => told == text,
                false => text.ends_with(told),
            };
            assert!(fits, "the deltas said {told:?}, the block says {text:?}");
        } else {
            self.items.push((key.clone(), json!({})));
        }
        let item = json!({"kind": data["kind"], "text": data["text"], "ended": true,
            "parent": data["parentToolUseId"], "aborted": aborted, "turn": data["turnId"]});
        *self.find(&key).expect("it is there") = item;
    }

    /// Operations name tool calls that began, and each call but once.
    #[track_caller]
    fn operations(&mut self, data: &Value) {
        let list = data["operations"].as_array().expect("operations");
        assert!(!list.is_empty(), "{data}");
        let response = data["response"].as_str().expect("a response");
        let length = response.chars().count();
        assert!(response.ends_with("...") && length <= 503, "{length} characters");
        let mut message: Option<Value> = None;
        for one in list {
            assert!(one["type"].is_string() && one["tool"].is_string(), "{one}");
            assert!(one["path"].is_string() != one["command"].is_string(), "{one}");
            let Some(id) = one["toolUseId"].as_str() else { continue };
            let told = |told: &Value| told["operations"].to_string().contains(&format!("\"{id}\""));
            assert!(!self.operations.iter().any(told), "{id} is told twice");
            let tool = self.find(&format!("tool {id}")).map(|item| item["message"].clone());
            let Some(tool) = tool else {
                assert!(!self.whole, "{id} never began: {data}");
                continue;
            };
            assert!(message.is_none() || message == Some(tool.clone()), "of two messages: {data}");
            message = Some(tool);
        }
        if let Some(message) = &message {
            let before = self.operations.iter().any(|one| &one["message"] == message);
            assert!(!before, "a second event for message {message}");
        }
        self.operations.push(json!({"operations": list, "message": message, "response": response}));
    }

    #[track_caller]
    fn turn_end(&mut self, name: &str, data: &Value) {
        let key = self.turn_key(data);
        let started = self.find(&key).map(|item| item["started"] == true);
        let item = self.end(&key, data);
        item["how"] = json!(name);
        for member in ["isError", "interrupted", "result", "costUsd", "code", "usage"] {
            item[member] = data[member].clone();
        }
        if name == "prompt-cancelled" || started == Some(false) {
            return;
        }
        self.turn = None;
        self.total_cost = data["totalCostUsd"].as_f64().unwrap_or(self.total_cost);
        let turn = data["turnId"].clone();
        // What the turn began, it has ended; only a background subagent works on.
        let working: Vec<&Value> = self
            .items
            .iter()
            .filter(|(key, item)| key.starts_with("subagent ") && item["ended"].is_null())
            .filter(|(_, item)| item["background"] == true)
            .map(|(_, item)| &item["toolUseId"])
            .collect();
        for (key, item) in &self.items {
            let open = item["ended"].is_null() && !working.contains(&&item["parent"]);
            let own = key.starts_with("tool ")
                || key.starts_with("approval ") && item["kind"] != "trust"
                || key.starts_with("block ") && item["turn"] == turn && item["plain"] != true;
            assert!(!(open && own), "{key} is open behind its turn: {item}");
        }
    }

    /// What it shows, in order. Events told before the first common one are not compared.
    pub fn picture(&self) -> Value {
        let items: Vec<&Value> = self.items.iter().map(|item| &item.1).collect();
        json!({"items": items, "todos": self.todos, "cost": self.total_cost, "status": self.status,
            "operations": self.operations})
    }

    /// The items whose key begins so: `prompt `, `block `, `tool `, `subagent `, `approval `.
    pub fn items(&self, kind: &str) -> Vec<&Value> {
        let fits = |(key, _): &&(String, Value)| key.starts_with(kind);
        self.items.iter().filter(fits).map(|item| &item.1).collect()
    }

    /// The operations told so far, one entry per event.
    pub fn operations_told(&self) -> &[Value] {
        &self.operations
    }

    /// Panics if anything that began has not ended.
    #[track_caller]
    pub fn expect_all_ended(&self) {
        for (key, item) in &self.items {
            assert!(!item["ended"].is_null() || item["plain"] == true, "{key} is open: {item}");
        }
    }
}
