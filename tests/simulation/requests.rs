//! What clients ask for: requests of every kind, drawn with the world's dice.

use crate::client::{Ask, Expect, What};
use crate::model::Model;
use crate::random::Random;
use serde_json::{Value, json};
use sidestream::core::access::tokens::Scope;

/// Prompts that the demo agent answers, each in another way.
const COMMANDS: &[&str] = &[
    "say 5 words",
    "say: hello \u{e9}\u{1F600}",
    "slow 20 200",
    "slow 5 2000",
    "think: a long and winding thought ;; say: done",
    "run tool: make test",
    "run tool: a ;; run tool: b ;; say: c",
    "ask: Which color? Red | Blue",
    "plan: first this, then that",
    "big 20000",
    "big 150000",
    "big 300000",
    "deltas 300",
    "deltas 1500",
    "error 529",
    "error 401",
    "error 404",
    "ls -la",
    "/clear ;; say: fresh",
    "say: <claude-command>ls</claude-command> <claude-edit path=\"a.rs\">x</claude-edit>",
];

/// Filters by kind.
pub const TYPES: &[&str] = &[
    "session-output",
    "-session-output",
    "prompt-completed,prompt-failed,prompt-started",
    "session-status,-session-status",
    "-session-output,-message-block",
];

/// How requests are drawn.
pub struct Asker {
    pub number: u64,
    pub id_number: u64,
    /// This world asks for tokens.
    pub with_tokens: bool,
}

/// The token of this scope, in worlds that have some.
pub fn token(scope: Scope) -> String {
    format!("sst_{}", scope.as_str())
}

/// A request's parts before they are bytes.
pub struct Draft {
    pub method: &'static str,
    pub target: String,
    pub fields: String,
    pub body: Option<String>,
    pub what: What,
}

impl Draft {
    pub fn get(target: impl Into<String>, what: What) -> Draft {
        Draft { method: "GET", target: target.into(), fields: String::new(), body: None, what }
    }

    pub fn interrupt(id: &str) -> Draft {
        Draft::post(format!("/api/session/{id}/interrupt"), &json!({}), What::Plain)
    }

    pub fn unarchive(id: &str) -> Draft {
        Draft::post(format!("/api/session/{id}/unarchive"), &json!({}), What::Plain)
    }

    /// How far a token must reach for it, as the endpoint's documents say.
    fn needs(&self) -> Option<Scope> {
        let path = self.target.split('?').next().unwrap_or_default();
        match self.method {
            "GET" | "HEAD" => path.starts_with("/api/").then_some(Scope::Read),
            "POST" if path.contains("/approvals/") => Some(Scope::Answer),
            _ => Some(Scope::Full),
        }
    }

    pub fn delete(id: &str) -> Draft {
        let target = format!("/api/session/{id}");
        Draft { method: "DELETE", ..Draft::get(target, What::Delete) }
    }

    fn post(target: String, body: &Value, what: What) -> Draft {
        let body = Some(body.to_string());
        Draft { method: "POST", target, fields: String::new(), body, what }
    }
}

impl Asker {
    /// Makes a request of a draft: its bytes, and the answer that it is owed.
    pub fn write(&mut self, random: &mut Random, draft: Draft, last: bool) -> (Vec<u8>, Expect) {
        self.number += 1;
        let id = format!("r-{}", self.number);
        let mut text = format!(
            "{} {} HTTP/1.1\r\nHost: localhost:3010\r\nX-Request-Id: {id}\r\n{}",
            draft.method, draft.target, draft.fields
        );
        if last && random.chance(300) {
            text.push_str("Connection: close\r\n");
        }
        let needs = draft.needs();
        let mut refused = None;
        if self.with_tokens {
            let (given, field) = match random.below(40) {
                0 => (None, String::new()),
                1 => (None, "Authorization: Bearer sst_nobody\r\n".to_owned()),
                pick => {
                    let scope = match pick {
                        2 | 3 => Scope::Read,
                        4 | 5 => Scope::Answer,
                        _ => Scope::Full,
                    };
                    (Some(scope), format!("Authorization: Bearer {}\r\n", token(scope)))
                }
            };
            text.push_str(&field);
            if needs.is_some() && given < needs {
                refused = Some(if given.is_some() { 403 } else { 401 });
            }
        }
        let changes = !matches!(draft.method, "GET" | "HEAD");
        match &draft.body {
            None => text.push_str("\r\n"),
            Some(body) => {
                text.push_str("Content-Type: application/json\r\n");
                if random.chance(150) {
                    text.push_str("Expect: 100-continue\r\n");
                }
                if random.chance(300) {
                    text.push_str("Transfer-Encoding: chunked\r\n\r\n");
                    let mut rest = body.as_str();
                    while !rest.is_empty() {
                        let cut = rest.ceil_char_boundary(1 + random.index(rest.len()));
                        text.push_str(&format!("{cut:x}\r\n{}\r\n", &rest[..cut]));
                        rest = &rest[cut..];
                    }
                    text.push_str("0\r\n\r\n");
                } else {
                    text.push_str(&format!("Content-Length: {}\r\n\r\n{body}", body.len()));
                }
            }
        }
        let head = draft.method == "HEAD";
        let bytes = text.into_bytes();
        let end = bytes.len();
        (bytes, Expect { refused, changes, id, what: draft.what, head, end })
    }

    /// Something that is no request, or one that must be refused.
    pub fn bad(&mut self, random: &mut Random) -> (Vec<u8>, Expect) {
        self.number += 1;
        let host = "Host: localhost\r\n";
        let bytes = match random.below(9) {
            0 => b"GARBAGE\r\n\r\n".to_vec(),
            1 => b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            2 => format!("GET / HTTP/1.1\r\n{host}X: {}\r\n\r\n", "x".repeat(9000)).into_bytes(),
            3 => format!("POST /api/sessions HTTP/1.1\r\n{host}Content-Length: 99999999\r\n\r\n")
                .into_bytes(),
            4 => format!(
                "POST /api/sessions HTTP/1.1\r\n{host}Content-Length: 3\r\n\
                 Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
            )
            .into_bytes(),
            5 => b"GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_vec(),
            6 => format!("GET / HTTP/1.1\n{host}\r\n").into_bytes(),
            7 => format!("BREW / HTTP/1.1\r\n{host}\r\n").into_bytes(),
            _ => format!(
                "POST /api/sessions HTTP/1.1\r\n{host}Transfer-Encoding: chunked\r\n\r\nzz\r\n"
            )
            .into_bytes(),
        };
        let end = bytes.len();
        let (id, what) = (String::new(), What::Bad);
        (bytes, Expect { refused: None, changes: false, id, what, head: false, end })
    }

    /// A request of any kind but a stream's.
    pub fn draw(&mut self, random: &mut Random, model: &Model, create: bool) -> Draft {
        if create || model.sessions.is_empty() {
            return self.create(random);
        }
        // Mostly sessions that live.
        let mut session = random.index(model.sessions.len());
        for _ in 0..3 {
            if model.sessions[session].closed {
                session = random.index(model.sessions.len());
            }
        }
        let id = model.sessions[session].id.clone();
        let spelled = random.pick(&["session", "sessions"]);
        let base = format!("/api/{spelled}/{id}");
        match random.below(100) {
            0..30 => self.prompt(random, session, base),
            30..48 => self.approval(random, model, session, base),
            48..52 => {
                let body = json!({"clearQueue": random.chance(300)});
                Draft::post(format!("{base}/interrupt"), &body, What::Plain)
            }
            52..55 => {
                let queued: Vec<&String> = model.sessions[session].queued().collect();
                let prompt = match queued.is_empty() {
                    true => "nothing".to_owned(),
                    false => queued[random.index(queued.len())].clone(),
                };
                let mut draft = Draft::get(format!("{base}/queue/{prompt}"), What::Plain);
                draft.method = "DELETE";
                draft
            }
            55..58 => {
                let what = What::Delete;
                Draft { method: "DELETE", ..Draft::get(base, what) }
            }
            58..61 => {
                let body = match random.below(3) {
                    0 => json!({"name": "a name"}),
                    1 => json!({"mode": random.pick(&["plan", "default", "acceptEdits"])}),
                    _ => json!({"model": "opus"}),
                };
                Draft { method: "PATCH", ..Draft::post(base, &body, What::Plain) }
            }
            61..66 => Draft::get("/api/debug/metrics", What::Metrics),
            66..70 => {
                let event = random.index(model.events.len().max(1));
                let Some(event) = model.events.get(event) else {
                    return Draft::get(format!("{base}/events/{}-1", model.epoch), What::Plain);
                };
                let (seq, session) = (event.seq, event.session);
                let id = event.frame["id: ".len()..].lines().next().unwrap_or_default();
                let base = format!("/api/session/{}", model.sessions[session].id);
                Draft::get(format!("{base}/events/{id}"), What::Event { session, seq })
            }
            70..72 => {
                let method = "HEAD";
                let target = random.pick(&["/api/events", "/health", "/"]);
                Draft { method, ..Draft::get(target, What::Plain) }
            }
            72..78 => self.create(random),
            78 => Draft::post(format!("{base}/fork"), &json!({}), What::Create),
            79 => {
                let away = !model.sessions[session].archived || random.chance(200);
                let word = if away { "archive" } else { "unarchive" };
                Draft::post(format!("{base}/{word}"), &json!({}), What::Plain)
            }
            80..84 => {
                let limit = random.chance(700).then(|| 1 + random.index(50));
                let types = random.chance(300).then(|| random.pick(TYPES));
                let mut query = limit.map_or("?limit=100".to_owned(), |n| format!("?limit={n}"));
                query.extend(types.map(|types| format!("&types={types}")));
                let shown = model.sessions[session].list.entries.len();
                if shown > 0 && random.chance(500) {
                    let list = &model.sessions[session].list;
                    let event = &model.events[list.entries[random.index(shown)].event];
                    let id = event.frame["id: ".len()..].lines().next().unwrap_or_default();
                    query.push_str(&format!("&before={id}"));
                }
                let what = What::History { session, limit, types };
                Draft::get(format!("{base}/history{query}"), what)
            }
            84..90 => {
                let rest = random.pick(&[
                    "",
                    "/status",
                    "/context",
                    "/events/status",
                    "/queue",
                    "/approvals",
                    "/nothing",
                ]);
                Draft::get(format!("{base}{rest}"), What::Plain)
            }
            _ => {
                let target = random.pick(&[
                    "/health",
                    "/ready",
                    "/api/sessions?limit=2&q=demo",
                    "/api/sessions",
                    "/api/agents",
                    "/api/capabilities",
                    "/api/sse/stats",
                    "/",
                    "/test-sse.html",
                    "/js/nothing",
                    "/api/session/session-0-none/status",
                ]);
                Draft::get(target, What::Plain)
            }
        }
    }

    fn create(&mut self, random: &mut Random) -> Draft {
        let agent = random.pick(&["demo", "demo", "demo", "other", "lines", "broken", "nobody"]);
        let mut body = json!({"workingDir": "/home/demo"});
        if random.chance(800) {
            body["agent"] = json!(agent);
        }
        if random.chance(200) {
            body["mode"] = json!(random.pick(&["plan", "bypassPermissions", "acceptEdits"]));
        }
        if random.chance(100) {
            body["workingDir"] = json!("relative");
        }
        let target = random.pick(&["/api/sessions", "/claude/api/claude/sessions"]);
        Draft::post(target.to_owned(), &body, What::Create)
    }

    fn prompt(&mut self, random: &mut Random, session: usize, base: String) -> Draft {
        let mut body = json!({"command": random.pick(COMMANDS)});
        let mut repeat = false;
        if random.chance(300) {
            repeat = self.id_number > 0 && random.chance(400);
            let number = match repeat {
                true => random.below(self.id_number),
                false => self.id_number,
            };
            self.id_number += u64::from(!repeat);
            body["promptId"] = json!(format!("p{number}"));
            // The command follows from the id, so that a repeat is one.
            body["command"] = json!(COMMANDS[number as usize % COMMANDS.len()]);
        }
        if random.chance(100) {
            body["when"] = json!("interrupt");
        }
        if random.chance(30) {
            body["command"] = json!("x".repeat(random.index(40_000)));
        }
        let wait = random.pick(&["", "", "", "?wait=5", "?wait=60"]);
        Draft::post(format!("{base}/prompt{wait}"), &body, What::Prompt { session, repeat })
    }

    /// A human's answer: to an open approval if there is one.
    pub fn approval(
        &mut self,
        random: &mut Random,
        model: &Model,
        session: usize,
        base: String,
    ) -> Draft {
        let known = &model.sessions[session];
        if known.approvals.is_empty() || random.chance(50) {
            let id = known.resolved.last().map_or("approval-none", |id| id);
            let body = json!({"decision": "allow"});
            return Draft::post(format!("{base}/approvals/{id}"), &body, What::Plain);
        }
        let open = &known.approvals[random.index(known.approvals.len())];
        let allow = random.chance(700);
        let mut body = json!({"decision": if allow { "allow" } else { "deny" }});
        if random.chance(900) {
            body["inputHash"] = json!(open.hash);
        } else if random.chance(300) {
            body["inputHash"] = json!("0000");
        }
        if !open.questions.is_empty() {
            let answers = open.questions.iter().map(|one| (one.clone(), json!("Red")));
            body["answers"] = Value::Object(answers.collect());
        }
        if !allow && random.chance(300) {
            body["interrupt"] = json!(true);
        }
        if allow && random.chance(200) {
            body["updatedPermissions"] = open.rules.clone();
        }
        let what = What::Approval { session, approval: open.id.clone(), allow };
        Draft::post(format!("{base}/approvals/{}", open.id), &body, what)
    }

    /// A stream's request.
    pub fn stream(&mut self, random: &mut Random, model: &Model, ask: Ask, path: String) -> Draft {
        let mut query = Vec::new();
        let mut fields = String::new();
        match ask.replay {
            "" => {}
            replay => query.push(format!("replay={replay}")),
        }
        if let Some(cursor) = &ask.cursor {
            match random.chance(500) {
                true => fields = format!("Last-Event-ID: {cursor}\r\n"),
                false => query.push(format!("lastEventId={cursor}")),
            }
        }
        if random.chance(300) {
            query.push("heartbeat=5".to_owned());
        }
        if ask.pad > 0 {
            query.push(format!("pad={}", ask.pad));
        }
        let joint = if path.contains('?') { '&' } else { '?' };
        let target = match query.is_empty() {
            true => path,
            false => format!("{path}{joint}{}", query.join("&")),
        };
        let _ = model;
        Draft { fields, ..Draft::get(target, What::Stream(ask)) }
    }
}
