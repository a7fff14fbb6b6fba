//! The product's endpoints: what a request asks for, and what it is answered.
//!
//! The only module that knows them. A handler reads the request, changes the server, and returns
//! a [`Reply`]; a reply that reports a change leaves only when the change is durable. Framing,
//! buffers and deadlines are `connection.rs`'s business.

use crate::base::arena::Key;
use crate::core::access::Refusal;
use crate::core::approvals::Answer;
use crate::core::connection::{Exchange, Peer, Stage};
use crate::core::effect::{DirectoryProblem, DiskRequest, Effect};
use crate::core::event::{EventKind, Filter};
use crate::core::metrics::{self, StreamCount};
use crate::core::pages::{self, Page};
use crate::core::prompts::{Known, Prompt, Prompts};
use crate::core::publisher::Feed;
use crate::core::server::{Drain, PendingDirectory, Server};
use crate::core::session::{Conversation, Process, Session, Status as SessionStatus};
use crate::core::streams::{Replay, StreamRequest};
use crate::wire::claude;
use crate::wire::head::{self, BadRequest, Head, Method, Span};
use crate::wire::json::{self, Object};
use crate::wire::reply::{self, ReplyHead, Status};
use crate::wire::target::{self, Target};
use serde_json::Value;
use std::borrow::Cow;
use std::path::PathBuf;

/// Methods of most endpoints.
const GET: &[Method] = &[Method::Get, Method::Head];
const POST: &[Method] = &[Method::Post];
/// The permission modes that a session may be given.
const MODES: [&str; 5] = ["default", "acceptEdits", "plan", "dontAsk", "auto"];
/// The longest name, model or client id.
const NAME_SIZE_MAX: usize = 200;
/// The longest prompt id.
const PROMPT_ID_SIZE_MAX: usize = 128;
/// The shortest and the longest heartbeat a client may ask for.
const HEARTBEAT_MS: std::ops::RangeInclusive<u64> = 5_000..=60_000;
/// The longest opening comment a client may ask for.
const PAD_MAX: usize = 64 * 1024;
/// Seconds after which a client that met a limit may try again.
const RETRY_AFTER_S: &str = "1";
/// Who is said to have acted where no token names anybody.
const LOCAL: &str = "local";

/// A session that is being created.
#[derive(Debug)]
pub struct NewSession {
    /// The directory as the client wrote it.
    pub asked: String,
    /// The agent among the configured ones.
    pub agent: usize,
    /// The model, if one was named.
    pub model: Option<String>,
    /// The permission mode, if one was named.
    pub mode: Option<String>,
    /// The human's name for it.
    pub name: Option<String>,
}

/// What a request names.
enum Route<'a> {
    Sessions,
    Session(&'a str),
    Status(&'a str),
    Context(&'a str),
    Events(&'a str),
    EventsStatus(&'a str),
    Event(&'a str, &'a str),
    Prompt(&'a str),
    Interrupt(&'a str),
    Queue(&'a str),
    Queued(&'a str, &'a str),
    Approvals(&'a str),
    Approval(&'a str, &'a str),
    AllEvents,
    Metrics,
    Stats,
    Capabilities,
    Agents,
    Health,
    Ready,
    OldWebSocket,
    Page(&'static Page),
}

impl<'a> Route<'a> {
    fn find(segments: &[&'a str], path: &str) -> Option<Route<'a>> {
        Some(match *segments {
            ["claude", "api", "claude", "sessions"] | ["api", "sessions" | "session"] => {
                Route::Sessions
            }
            ["claude", "api", "claude", "chat"] => Route::OldWebSocket,
            ["api", "sessions" | "session", id, ref rest @ ..] => match *rest {
                [] => Route::Session(id),
                ["status"] => Route::Status(id),
                ["context"] => Route::Context(id),
                ["events"] => Route::Events(id),
                ["events", "status"] => Route::EventsStatus(id),
                ["events", event] => Route::Event(id, event),
                ["prompt"] => Route::Prompt(id),
                ["interrupt"] => Route::Interrupt(id),
                ["queue"] => Route::Queue(id),
                ["queue", prompt] => Route::Queued(id, prompt),
                ["approvals"] => Route::Approvals(id),
                ["approvals", approval] => Route::Approval(id, approval),
                _ => return None,
            },
            ["api", "events"] => Route::AllEvents,
            ["api", "debug", "metrics"] => Route::Metrics,
            ["api", "sse", "stats"] => Route::Stats,
            ["api", "capabilities"] => Route::Capabilities,
            ["api", "agents"] => Route::Agents,
            ["health"] => Route::Health,
            ["ready"] => Route::Ready,
            _ => Route::Page(pages::find(path)?),
        })
    }

    fn methods(&self) -> &'static [Method] {
        match self {
            Route::Sessions => &[Method::Get, Method::Head, Method::Post],
            Route::Session(_) => &[Method::Get, Method::Head, Method::Patch, Method::Delete],
            Route::Prompt(_) | Route::Interrupt(_) | Route::Approval(..) => POST,
            Route::Queued(..) => &[Method::Delete],
            Route::OldWebSocket => &[
                Method::Get,
                Method::Head,
                Method::Post,
                Method::Put,
                Method::Patch,
                Method::Delete,
            ],
            _ => GET,
        }
    }
}

/// A request, taken apart.
struct Request<'a> {
    connection: Key,
    head: Head,
    input: &'a [u8],
    body: &'a [u8],
    target: Target<'a>,
    peer: Peer,
}

impl<'a> Request<'a> {
    fn text(&self, span: Option<Span>) -> Option<&'a str> {
        span.and_then(|span| span.text(self.input))
    }

    fn parameter(&self, name: &str) -> Result<Option<Cow<'a, str>>, Problem> {
        self.target.parameter(name).map_err(Problem::from)
    }

    /// The body as a JSON object. An empty body is an empty object.
    fn json(&self) -> Result<Value, Problem> {
        if self.body.is_empty() && self.head.content_type.is_none() {
            return Ok(Value::Object(serde_json::Map::new()));
        }
        let media_type = self.text(self.head.content_type).unwrap_or_default();
        let essence = media_type.split(';').next().unwrap_or_default().trim();
        if !essence.eq_ignore_ascii_case("application/json") {
            let sentence = "the body must be sent as Content-Type: application/json";
            return Err(Problem::new(Status::UNSUPPORTED_MEDIA_TYPE, "not_json", sentence));
        }
        match serde_json::from_slice(self.body) {
            Ok(Value::Object(object)) => Ok(Value::Object(object)),
            Ok(_) => Err(Problem::bad("invalid_body", "the body must be a JSON object")),
            Err(error) => {
                let sentence = format!("the body is not JSON: {error}");
                Err(Problem::bad("invalid_json", sentence))
            }
        }
    }
}

/// An answer that says what is wrong.
struct Problem {
    status: Status,
    code: Cow<'static, str>,
    sentence: String,
    fields: Vec<(&'static str, String)>,
    /// A member that says more, and its JSON.
    detail: Option<(&'static str, String)>,
}

impl Problem {
    fn new(
        status: Status,
        code: impl Into<Cow<'static, str>>,
        sentence: impl Into<String>,
    ) -> Problem {
        let (code, sentence) = (code.into(), sentence.into());
        Problem { status, code, sentence, fields: Vec::new(), detail: None }
    }

    fn bad(code: &'static str, sentence: impl Into<String>) -> Problem {
        Problem::new(Status::BAD_REQUEST, code, sentence)
    }

    fn conflict(code: &'static str, sentence: impl Into<String>) -> Problem {
        Problem::new(Status::CONFLICT, code, sentence)
    }

    fn limited(status: Status, code: &'static str, sentence: impl Into<String>) -> Problem {
        let mut problem = Problem::new(status, code, sentence);
        problem.fields.push(("Retry-After", RETRY_AFTER_S.to_owned()));
        problem
    }

    fn session_not_found(id: &str) -> Problem {
        let shown: String = id.chars().take(80).collect();
        let sentence = format!("there is no session \"{shown}\"");
        Problem::new(Status::NOT_FOUND, "session_not_found", sentence)
    }
}

impl From<BadRequest> for Problem {
    fn from(bad: BadRequest) -> Problem {
        let mut problem = Problem::new(bad.status(), bad.code(), bad.sentence());
        if bad.status() == Status::METHOD_NOT_ALLOWED {
            problem.fields.push(("Allow", head::ALLOW.to_owned()));
        }
        problem
    }
}

impl From<Refusal> for Problem {
    fn from(refusal: Refusal) -> Problem {
        let mut problem = Problem::new(refusal.status, refusal.code, refusal.sentence);
        if refusal.status == Status::UNAUTHORIZED {
            problem.fields.push(("WWW-Authenticate", "Bearer realm=\"sidestream\"".to_owned()));
        }
        problem
    }
}

/// What a request is answered.
enum Reply {
    /// What `Server::json` holds, once event `after` is durable.
    Json { status: Status, after: Option<u64>, fields: Vec<(&'static str, String)> },
    /// A large field of an event: its bytes and their type.
    Bytes(Vec<u8>, &'static str),
    /// A page.
    Page(&'static Page),
    /// No content; `Allow` says what there is.
    Options(String),
    /// The answer comes later.
    Later,
    /// The connection becomes a stream.
    Stream(StreamRequest),
    /// A stream that is refused for now.
    Busy(&'static str),
}

type Outcome = Result<Reply, Problem>;

fn ok() -> Outcome {
    Ok(Reply::Json { status: Status::OK, after: None, fields: Vec::new() })
}

fn ok_after(seq: u64) -> Outcome {
    Ok(Reply::Json { status: Status::OK, after: Some(seq), fields: Vec::new() })
}

/// A string member of a body: absent and null are the same.
fn text<'a>(body: &'a Value, name: &str) -> Result<Option<&'a str>, Problem> {
    match &body[name] {
        Value::Null => Ok(None),
        Value::String(text) => Ok(Some(text)),
        _ => Err(Problem::bad("invalid_type", format!("\"{name}\" must be a string"))),
    }
}

/// A true-or-false member of a body, false if it is absent.
fn flag(body: &Value, name: &str) -> Result<bool, Problem> {
    match &body[name] {
        Value::Null => Ok(false),
        Value::Bool(value) => Ok(*value),
        _ => Err(Problem::bad("invalid_type", format!("\"{name}\" must be true or false"))),
    }
}

/// A short text that will stand in events and arguments.
fn name<'a>(body: &'a Value, name: &str) -> Result<Option<&'a str>, Problem> {
    let value = text(body, name)?;
    let unfit = |text: &str| {
        text.is_empty() || text.len() > NAME_SIZE_MAX || text.chars().any(char::is_control)
    };
    if value.is_some_and(unfit) {
        let sentence = format!(
            "\"{name}\" must be 1 to {NAME_SIZE_MAX} bytes long, without control characters"
        );
        return Err(Problem::bad("invalid_value", sentence));
    }
    Ok(value)
}

impl Server {
    /// Answers a whole request. Returns whether the connection can go on to the next one.
    pub(super) fn answer(&mut self, key: Key, mut exchange: Box<Exchange>) -> bool {
        let head = *exchange.head();
        let peer = self.connections.get(key).map_or(Peer::Unknown, |connection| connection.peer);
        let input = std::mem::take(&mut exchange.input);
        let body = std::mem::take(&mut exchange.body);
        self.name_request(&mut exchange, &head, &input);
        exchange.close |= !head.keep_alive || self.is_draining();
        let outcome = match target::parse(head.method, head.target.of(&input)) {
            Ok(target) => {
                let connection = key;
                let request =
                    Request { connection, head, input: &input, body: &body, target, peer };
                self.handle(&request)
            }
            Err(bad) => Err(bad.into()),
        };
        let etag = head.if_none_match.and_then(|span| span.text(&input)).map(str::to_owned);
        (exchange.input, exchange.body) = (input, body);
        let seq = match outcome {
            Ok(Reply::Later) => {
                exchange.stage = Stage::Waiting;
                self.put_exchange(key, exchange);
                return false;
            }
            Ok(Reply::Stream(request)) if head.method != Method::Head => {
                if exchange.input.len() > head.length {
                    // A stream ends with the client's next byte, and that is here already.
                    self.put_exchange(key, exchange);
                    self.close(key);
                    return false;
                }
                self.open_stream(key, exchange, request);
                return false;
            }
            Ok(Reply::Busy(reason)) if head.method != Method::Head => {
                self.counters.limited += 1;
                self.busy_stream(&mut exchange, reason);
                None
            }
            Ok(Reply::Stream(_) | Reply::Busy(_)) => {
                self.write_stream_head(&mut exchange);
                exchange.close = true;
                None
            }
            Ok(Reply::Json { status, after, fields }) => {
                self.write_json(&mut exchange, status, &fields);
                after
            }
            Ok(Reply::Bytes(bytes, content_type)) => {
                let fields = [("Cache-Control", "private, max-age=31536000, immutable")];
                self.write_reply(&mut exchange, Status::OK, Some(content_type), &fields, &bytes);
                None
            }
            Ok(Reply::Page(page)) => {
                self.write_page(&mut exchange, page, etag.as_deref());
                None
            }
            Ok(Reply::Options(allow)) => {
                let fields = [("Allow", &*allow)];
                self.write_reply(&mut exchange, Status::NO_CONTENT, None, &fields, &[]);
                None
            }
            Err(problem) => {
                self.write_problem(&mut exchange, &problem);
                None
            }
        };
        self.finish_answer(key, exchange, seq)
    }

    /// Sends an answer, or holds it back until its event is durable.
    fn finish_answer(&mut self, key: Key, mut exchange: Box<Exchange>, seq: Option<u64>) -> bool {
        if let Some(seq) = seq
            && seq > self.publisher.visible()
        {
            exchange.stage = Stage::Held;
            self.hold(seq, key);
            self.put_exchange(key, exchange);
            return false;
        }
        self.next_request(&mut exchange);
        self.put_exchange(key, exchange);
        true
    }

    /// The request's id: the client's if it is harmless, else one of ours.
    fn name_request(&mut self, exchange: &mut Exchange, head: &Head, input: &[u8]) {
        let theirs = head.request_id.and_then(|span| span.text(input)).filter(|id| {
            let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=64).contains(&id.len()) && id.bytes().all(harmless)
        });
        exchange.request_id.clear();
        match theirs {
            Some(id) => exchange.request_id.push_str(id),
            None => {
                use std::fmt::Write as _;
                let _ = write!(exchange.request_id, "{:016x}", self.random.bits());
            }
        }
    }

    // Writing.

    fn write_reply(
        &mut self,
        exchange: &mut Exchange,
        status: Status,
        content_type: Option<&str>,
        fields: &[(&str, &str)],
        body: &[u8],
    ) {
        let request_id = std::mem::take(&mut exchange.request_id);
        let (version, is_head) = match exchange.has_head() {
            Some(head) => (head.version, head.method == Method::Head),
            None => (head::Version::Http11, false),
        };
        let mut all = Vec::with_capacity(fields.len() + 3);
        all.extend_from_slice(fields);
        all.push(("X-Content-Type-Options", "nosniff"));
        all.push(("Cross-Origin-Resource-Policy", "same-origin"));
        all.push(("X-Request-Id", &request_id));
        let head = ReplyHead {
            status,
            date: self.date.1.as_str(),
            content_type,
            content_length: (status != Status::NOT_MODIFIED).then_some(body.len() as u64),
            keep_alive: !exchange.close,
            version,
            fields: &all,
        };
        reply::write_head(&mut exchange.out, &head);
        if !is_head {
            exchange.out.extend_from_slice(body);
        }
        exchange.request_id = request_id;
    }

    fn write_json(
        &mut self,
        exchange: &mut Exchange,
        status: Status,
        fields: &[(&'static str, String)],
    ) {
        let json = std::mem::take(&mut self.json);
        let mut all: Vec<(&str, &str)> =
            fields.iter().map(|(name, value)| (*name, &**value)).collect();
        all.push(("Cache-Control", "no-store"));
        self.write_reply(exchange, status, Some("application/json"), &all, &json);
        self.json = json;
        self.json.clear();
        self.json.shrink_to(64 * 1024);
    }

    fn write_problem(&mut self, exchange: &mut Exchange, problem: &Problem) {
        match problem.status {
            Status::TOO_MANY_REQUESTS | Status::SERVICE_UNAVAILABLE => self.counters.limited += 1,
            Status::UNAUTHORIZED | Status::FORBIDDEN | Status::MISDIRECTED_REQUEST => {
                self.counters.requests_refused += 1;
            }
            _ => {}
        }
        self.json.clear();
        let request_id = &exchange.request_id;
        json::object(&mut self.json, |object| {
            object.bool("success", false);
            object.string("error", &problem.sentence);
            object.string("code", &problem.code);
            if let Some((name, json)) = &problem.detail {
                object.raw(name, json);
            }
            object.string("requestId", request_id);
        });
        self.write_json(exchange, problem.status, &problem.fields);
    }

    fn write_page(&mut self, exchange: &mut Exchange, page: &'static Page, etag: Option<&str>) {
        let tag = format!("\"{:016x}\"", page.etag);
        let csp = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; \
            img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
        let mut fields = vec![("Cache-Control", "no-cache"), ("ETag", &*tag)];
        let matches = |etag: &str| {
            etag == "*" || etag.split(',').any(|one| one.trim().trim_start_matches("W/") == tag)
        };
        if etag.is_some_and(matches) {
            return self.write_reply(exchange, Status::NOT_MODIFIED, None, &fields, &[]);
        }
        fields.push(("Content-Security-Policy", csp));
        fields.push(("Referrer-Policy", "no-referrer"));
        self.write_reply(exchange, Status::OK, Some(page.content_type), &fields, page.bytes);
    }

    /// Answers what was no request.
    pub(super) fn answer_bad(&mut self, exchange: &mut Exchange, bad: BadRequest) {
        exchange.close = true;
        self.write_problem(exchange, &bad.into());
    }

    /// Answers a request that did not come in time.
    pub(super) fn answer_late(&mut self, exchange: &mut Exchange) {
        exchange.close = true;
        let sentence = "the request did not arrive in time";
        let problem = Problem::new(Status::REQUEST_TIMEOUT, "request_timeout", sentence);
        self.write_problem(exchange, &problem);
    }

    /// Answers a body for which there is no room now.
    pub(super) fn refuse_body(&mut self, exchange: &mut Exchange) {
        exchange.close = true;
        exchange.stage = Stage::Ending;
        let sentence = "too many request bodies are on their way; try again soon";
        let problem = Problem::limited(Status::SERVICE_UNAVAILABLE, "bodies_max", sentence);
        self.write_problem(exchange, &problem);
    }

    // Routing.

    fn handle(&mut self, request: &Request<'_>) -> Outcome {
        let admitted =
            self.config.access.admit(&request.head, request.input, &request.target, request.peer);
        if request.target.asterisk {
            admitted?;
            return Ok(Reply::Options(head::ALLOW.to_owned()));
        }
        let segments: Vec<Cow<'_, str>> = request.target.segments().collect::<Result<_, _>>()?;
        let mut path: Vec<&str> = segments.iter().map(|segment| &**segment).collect();
        // A target is matched whole first, then without the base path.
        let base: Vec<&str> = self.config.base_path.split('/').filter(|s| !s.is_empty()).collect();
        let mut route = Route::find(&path, request.target.path);
        if route.is_none() && !base.is_empty() && path.starts_with(&base) {
            path.drain(..base.len());
            let rest = &request.target.path[self.config.base_path.len()..];
            route = Route::find(&path, if rest.is_empty() { "/" } else { rest });
        }
        admitted?;
        let Some(route) = route else {
            let sentence = "there is nothing at this path; docs/api.md lists what there is";
            return Err(Problem::new(Status::NOT_FOUND, "not_found", sentence));
        };
        let methods = route.methods();
        let allow = || {
            let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
            format!("{}, OPTIONS", names.join(", "))
        };
        if request.head.method == Method::Options {
            return Ok(Reply::Options(allow()));
        }
        if !methods.contains(&request.head.method) {
            let sentence = format!("this path takes {}", allow());
            let mut problem =
                Problem::new(Status::METHOD_NOT_ALLOWED, "method_not_allowed", sentence);
            problem.fields.push(("Allow", allow()));
            return Err(problem);
        }
        self.dispatch_route(request, route)
    }

    fn dispatch_route(&mut self, request: &Request<'_>, route: Route<'_>) -> Outcome {
        match (route, request.head.method) {
            (Route::Sessions, Method::Post) => self.create_session(request),
            (Route::Sessions, _) => self.list_sessions(request),
            (Route::Session(id), Method::Delete) => self.delete_session(id),
            (Route::Session(id), Method::Patch) => self.patch_session(request, id),
            (Route::Session(id), _) => self.get_session(id),
            (Route::Status(id), _) => self.session_status(id),
            (Route::Context(id), _) => self.session_context(id),
            (Route::Events(id), _) => self.session_events(request, id),
            (Route::EventsStatus(id), _) => self.events_status(id),
            (Route::Event(id, event), _) => self.event(id, event),
            (Route::Prompt(id), _) => self.prompt(request, id),
            (Route::Interrupt(id), _) => self.interrupt_session(request, id),
            (Route::Queue(id), _) => self.queue(id),
            (Route::Queued(id, prompt), _) => self.cancel_queued(id, prompt),
            (Route::Approvals(id), _) => self.approvals(id),
            (Route::Approval(id, approval), _) => self.answer_approval(request, id, approval),
            (Route::AllEvents, _) => self.all_events(request),
            (Route::Metrics, _) => self.metrics(),
            (Route::Stats, _) => self.stats(),
            (Route::Capabilities, _) => self.capabilities(),
            (Route::Agents, _) => self.agents_list(),
            (Route::Health, _) => self.health(),
            (Route::Ready, _) => self.ready(),
            (Route::OldWebSocket, _) => Err(self.old_websocket()),
            (Route::Page(page), _) => Ok(Reply::Page(page)),
        }
    }

    /// The session of this id, if it is not closed.
    fn session_key(&self, id: &str) -> Result<Key, Problem> {
        self.by_id.get(id).copied().ok_or_else(|| Problem::session_not_found(id))
    }

    /// Writes the answer's object into `self.json`.
    fn say(&mut self, members: impl FnOnce(&Server, &mut Object<'_>)) {
        let mut json = std::mem::take(&mut self.json);
        json.clear();
        json::object(&mut json, |object| members(self, object));
        self.json = json;
    }

    /// The cursor behind everything that has happened, by which a snapshot is gone on from.
    fn write_cursor(&self, object: &mut Object<'_>) {
        object.display("lastEventId", self.publisher.id(self.publisher.seq()));
    }

    // Sessions.

    fn create_session(&mut self, request: &Request<'_>) -> Outcome {
        let body = request.json()?;
        let asked = text(&body, "workingDir")?
            .ok_or_else(|| Problem::bad("working_dir_missing", "\"workingDir\" is missing"))?;
        if asked.contains('\0') || !asked.starts_with('/') {
            let sentence = format!("\"workingDir\" must be an absolute path, not \"{asked}\"");
            return Err(Problem::bad("working_dir_not_absolute", sentence));
        }
        let agent = match name(&body, "agent")? {
            None => 0,
            Some(name) => self.agent_named(name)?,
        };
        let mode = self.mode(&body)?;
        let new = NewSession {
            asked: asked.to_owned(),
            agent,
            model: name(&body, "model")?.map(str::to_owned),
            mode,
            name: name(&body, "name")?.map(str::to_owned),
        };
        self.room_for_session()?;
        let ticket = self.next_ticket;
        self.next_ticket += 1;
        let path = PathBuf::from(&new.asked);
        let pending = PendingDirectory { connection: request.connection, request: new };
        self.tickets.insert(ticket, pending);
        self.effects.push_back(Effect::Disk(DiskRequest::Directory { ticket, path }));
        Ok(Reply::Later)
    }

    fn agent_named(&self, name: &str) -> Result<usize, Problem> {
        self.config.agents.iter().position(|agent| agent.name == name).ok_or_else(|| {
            let names: Vec<&str> = self.config.agents.iter().map(|agent| &*agent.name).collect();
            let sentence = format!("there is no agent \"{name}\"; there is {}", names.join(", "));
            Problem::bad("unknown_agent", sentence)
        })
    }

    fn mode(&self, body: &Value) -> Result<Option<String>, Problem> {
        let mode = text(body, "mode")?;
        match mode {
            None => Ok(None),
            Some(mode) if MODES.contains(&mode) => Ok(Some(mode.to_owned())),
            Some("bypassPermissions") if self.config.allow_bypass => {
                Ok(Some("bypassPermissions".to_owned()))
            }
            Some("bypassPermissions") => {
                let sentence = "the mode bypassPermissions needs --allow-bypass";
                Err(Problem::new(Status::FORBIDDEN, "bypass_not_allowed", sentence))
            }
            Some(mode) => {
                let sentence =
                    format!("\"mode\" must be one of {}, not \"{mode}\"", MODES.join(", "));
                Err(Problem::bad("unknown_mode", sentence))
            }
        }
    }

    /// Whether another session may be created now.
    fn room_for_session(&mut self) -> Result<(), Problem> {
        if self.is_draining() {
            let sentence = "the server is shutting down";
            return Err(Problem::limited(Status::SERVICE_UNAVAILABLE, "draining", sentence));
        }
        let coming = self.by_id.len() + self.tickets.len();
        if coming >= self.limits.sessions_max as usize {
            let sentence =
                format!("there are {} sessions, --sessions-max", self.limits.sessions_max);
            return Err(Problem::limited(Status::TOO_MANY_REQUESTS, "sessions_max", sentence));
        }
        let second = self.now_ms / 1000;
        if self.creations.0 != second {
            self.creations = (second, 0);
        }
        if self.creations.1 >= self.limits.session_creations_per_s {
            let sentence = "too many sessions are being created; try again in a second";
            let code = "session_creations_max";
            return Err(Problem::limited(Status::TOO_MANY_REQUESTS, code, sentence));
        }
        self.creations.1 += 1;
        Ok(())
    }

    /// The disk thread has looked at a directory.
    pub(super) fn directory_resolved(
        &mut self,
        ticket: u64,
        result: Result<PathBuf, DirectoryProblem>,
    ) {
        let Some(pending) = self.tickets.remove(&ticket) else { return };
        if !self.has_connection(pending.connection) {
            return; // Nobody waits for it: nothing is created.
        }
        let new = pending.request;
        self.resume_answer(pending.connection, |server, exchange| match result {
            Ok(path) => {
                let (seq, id) = server.new_session(new, path);
                let fields =
                    [("Location", format!("{}/api/session/{id}", server.config.base_path))];
                server.write_json(exchange, Status::CREATED, &fields);
                Some(seq)
            }
            Err(problem) => {
                server.write_problem(exchange, &directory_problem(&new.asked, &problem));
                None
            }
        });
    }

    /// Creates a session; its description is in `self.json`.
    fn new_session(&mut self, new: NewSession, working_dir: PathBuf) -> (u64, String) {
        while self.sessions.len() >= self.sessions.capacity() as usize
            && let Some(oldest) = self.closed.front().copied()
        {
            self.forget_session(oldest);
        }
        let id = format!("session-{}-{:08x}", self.wall_ms, self.random.bits() as u32);
        let conversation = Conversation { id: self.random.uuid(), begun: false, retried: false };
        self.session_number += 1;
        // The key is known only once the slot is taken.
        let nowhere = Key { kind: 0, generation: 0, index: 0 };
        let feed = Feed::new(nowhere, self.session_number, id.clone(), self.limits.ring_size);
        let session = Session {
            key: nowhere,
            feed,
            name: new.name,
            working_dir,
            agent: new.agent,
            model: new.model,
            mode: new.mode,
            model_in_use: None,
            mode_in_use: None,
            created_at: self.wall_ms,
            active_at: self.wall_ms,
            last_prompt: None,
            prompts: Prompts::default(),
            approvals: crate::core::approvals::Approvals::default(),
            turn: None,
            turns: 0,
            process: None,
            process_state: Process::Never,
            conversation,
            told: SessionStatus::Idle,
            failed: false,
            deleting: false,
            closed_at: None,
            total_cost_usd: 0.0,
            agent_cost_usd: 0.0,
            usage: None,
            subagents: Vec::new(),
            todos: Vec::new(),
            waits_for_agent: false,
            idle_at: self.now_ms,
        };
        let key = self.sessions.insert(session).expect("room was made for it");
        self.by_id.insert(id.clone(), key);
        let session = self.sessions.get_mut(key).expect("just inserted");
        (session.key, session.feed.key) = (key, key);
        let agent = &self.config.agents[session.agent];
        let dir = session.working_dir.to_string_lossy();
        let (mode, model) = (session.mode.as_deref(), session.model.as_deref());
        let name = session.name.as_deref();
        let seq = self.publisher.publish(&mut session.feed, EventKind::SessionCreated, |object| {
            object.string("status", SessionStatus::Idle.as_str());
            object.string("workingDir", &dir);
            object.string("agent", &agent.name);
            object.string_or_null("model", model);
            object.string_or_null("mode", mode);
            object.string_or_null("name", name);
        });
        self.say(|server, object| {
            object.bool("success", true);
            object.string("sessionId", &id);
            object.object("session", |object| server.write_session(object, key));
            server.write_cursor(object);
        });
        (seq, id)
    }

    /// Writes what there is to know of a session at a glance.
    fn write_session(&self, object: &mut Object<'_>, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let agent = &self.config.agents[session.agent];
        object.string("sessionId", session.id());
        object.string("id", session.id());
        object.string_or_null("name", session.name.as_deref());
        object.string("status", session.status().as_str());
        object.string("workingDir", &session.working_dir.to_string_lossy());
        object.string("agent", &agent.name);
        object.string("dialect", agent.dialect.as_str());
        let model = session.model.as_deref().or(session.model_in_use.as_deref());
        object.string_or_null("model", model);
        let mode = session.mode_in_use.as_deref().or(session.mode.as_deref());
        object.string_or_null("mode", mode);
        object.number("createdAt", session.created_at);
        object.number("lastActivityAt", session.active_at);
        object.string_or_null("lastPrompt", session.last_prompt.as_deref());
        object.number("openApprovals", session.approvals.open.len() as u64);
        object.number("queueLength", session.prompts.queue.len() as u64);
        object.float("totalCostUsd", session.total_cost_usd);
        object.number("readers", session.feed.log.readers.into());
        object.string("conversation", &session.conversation.id);
    }

    fn list_sessions(&mut self, request: &Request<'_>) -> Outcome {
        let limit = match request.parameter("limit")? {
            None => 100,
            Some(text) => {
                text.parse().ok().filter(|limit| (1..=1000).contains(limit)).ok_or_else(|| {
                    Problem::bad("invalid_value", "\"limit\" must be a number from 1 to 1000")
                })?
            }
        };
        let status = request.parameter("status")?;
        let query = request.parameter("q")?.map(|text| text.to_lowercase());
        let before = request.parameter("before")?;
        let mut rows: Vec<(u64, u32, Key)> = self
            .by_id
            .values()
            .filter_map(|key| self.sessions.get(*key))
            .filter(|session| status.as_deref().is_none_or(|s| session.status().as_str() == s))
            .filter(|session| query.as_deref().is_none_or(|query| matches_query(session, query)))
            .map(|session| (session.active_at, session.feed.number, session.key))
            .collect();
        rows.sort_unstable_by_key(|row| std::cmp::Reverse((row.0, row.1)));
        if let Some(before) = before {
            let key = self.session_key(&before)?;
            let at = rows.iter().position(|row| row.2 == key).map_or(0, |at| at + 1);
            rows.drain(..at);
        }
        let more = rows.len() > limit;
        self.say(|server, object| {
            object.bool("success", true);
            object.array("sessions", |array| {
                for (_, _, key) in rows.iter().take(limit) {
                    array.object(|object| server.write_session(object, *key));
                }
            });
            object.bool("more", more);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    fn get_session(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            object.bool("success", true);
            object.object("session", |object| server.write_session(object, key));
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    fn session_status(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.string("status", session.status().as_str());
            let turn = session.turn.as_ref();
            object.string_or_null("turnId", turn.map(|turn| &*turn.id));
            let prompt = turn.and_then(|turn| turn.prompt.as_ref());
            object.string_or_null("promptId", prompt.map(|prompt| &*prompt.id));
            object.number("queueLength", session.prompts.queue.len() as u64);
            object.array("pendingApprovals", |array| {
                session.approvals.open.iter().for_each(|open| array.string(&open.id));
            });
            object.number("readers", session.feed.log.readers.into());
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    fn session_context(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.string("workingDir", &session.working_dir.to_string_lossy());
            let model = session.model_in_use.as_deref().or(session.model.as_deref());
            object.string_or_null("model", model);
            let mode = session.mode_in_use.as_deref().or(session.mode.as_deref());
            object.string_or_null("mode", mode);
            object.raw("usage", session.usage.as_deref().unwrap_or("null"));
            object.float("totalCostUsd", session.total_cost_usd);
            object.number("turns", session.turns);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    fn patch_session(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let body = request.json()?;
        let new_name = name(&body, "name")?.map(str::to_owned);
        let mode = self.mode(&body)?;
        let model = name(&body, "model")?.map(str::to_owned);
        let request_id = format!("patch-{:016x}", self.random.bits());
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(Problem::session_not_found(id));
        };
        session.name = new_name.or(session.name.take());
        let agent = session.process.and_then(|agent| self.agents.get_mut(agent));
        if let Some(agent) = agent.filter(|agent| agent.was_ready && !agent.is_leaving()) {
            if let Some(mode) = &mode {
                agent.stdin.queue(0, |out| claude::set_mode(out, &request_id, mode));
            }
            if let Some(model) = &model {
                agent.stdin.queue(0, |out| claude::set_model(out, &request_id, model));
            }
        }
        if mode.is_some() {
            session.mode_in_use = mode.clone();
        }
        session.mode = mode.or(session.mode.take());
        session.model = model.or(session.model.take());
        let (status, agent) = (session.status(), &self.config.agents[session.agent].name);
        let dir = session.working_dir.to_string_lossy();
        let (mode, model) = (session.mode.as_deref(), session.model.as_deref());
        let name = session.name.as_deref();
        let seq = self.publisher.publish(&mut session.feed, EventKind::SessionStatus, |object| {
            object.string("status", status.as_str());
            object.string("previous", status.as_str());
            object.string("reason", "changed");
            object.string("workingDir", &dir);
            object.string("agent", agent);
            object.string_or_null("model", model);
            object.string_or_null("mode", mode);
            object.string_or_null("name", name);
        });
        self.release_agents();
        self.get_session(id)?;
        ok_after(seq)
    }

    fn delete_session(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        if let Some(session) = self.sessions.get_mut(key)
            && !session.deleting
        {
            session.deleting = true;
            self.update_status(key, Some("deleted"));
            if !self.stop_agent_of(key) {
                self.close_session(key);
            }
        }
        let id = id.to_owned();
        self.say(|server, object| {
            object.bool("success", true);
            object.string("sessionId", &id);
            object.string("status", "stopping");
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    // Streams.

    fn session_events(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let asked = self.stream_request(request)?;
        let key = match self.by_id.get(id).copied() {
            Some(key) => key,
            // A closed session still serves a cursor that is older than its end.
            None => self
                .closed_ids
                .get(id)
                .copied()
                .filter(|key| self.is_before_end(*key, asked.cursor.as_deref()))
                .ok_or_else(|| Problem::session_not_found(id))?,
        };
        if let Some(reason) = self.stream_refused(Some(key)) {
            return Ok(Reply::Busy(reason));
        }
        Ok(Reply::Stream(StreamRequest { session: Some(key), ..asked }))
    }

    /// Whether a cursor is one of ours and older than a closed session's last event.
    fn is_before_end(&self, key: Key, cursor: Option<&[u8]>) -> bool {
        let id = cursor.and_then(crate::wire::sse::EventId::parse);
        let last = self.sessions.get(key).and_then(|session| session.feed.log.latest_seq());
        id.is_some_and(|id| id.epoch == self.publisher.epoch() && Some(id.seq) < last)
    }

    fn all_events(&mut self, request: &Request<'_>) -> Outcome {
        let mut asked = self.stream_request(request)?;
        if asked.cursor.is_none() && request.parameter("replay")?.is_none() {
            asked.replay = Replay::None;
        }
        if let Some(list) = request.parameter("sessions")? {
            let mut owners = Vec::new();
            for id in list.split(',').filter(|id| !id.is_empty()).take(1000) {
                match self.by_id.get(id).and_then(|key| self.sessions.get(*key)) {
                    Some(session) => owners.push(session.feed.number),
                    None => asked.unknown.push(id.chars().take(80).collect()),
                }
            }
            asked.unknown.truncate(16);
            asked.owners = Some(owners.into_boxed_slice());
        }
        if let Some(reason) = self.stream_refused(None) {
            return Ok(Reply::Busy(reason));
        }
        Ok(Reply::Stream(asked))
    }

    /// Reads what a stream's request asks for, its session aside.
    fn stream_request(&self, request: &Request<'_>) -> Result<StreamRequest, Problem> {
        let invalid = |sentence: &str| Problem::bad("invalid_value", sentence);
        let header = request.head.last_event_id.map(|span| span.of(request.input).to_vec());
        let parameter = request.parameter("lastEventId")?.filter(|id| !id.is_empty());
        let cursor = header.or_else(|| parameter.map(|id| id.as_bytes().to_vec()));
        let replay = match request.parameter("replay")?.as_deref() {
            None => Replay::Newest,
            Some("none") => Replay::None,
            Some("all") => Replay::All,
            Some(_) => return Err(invalid("\"replay\" must be \"none\" or \"all\"")),
        };
        let mut filter = match request.parameter("types")? {
            None => Filter::ALL,
            Some(types) => Filter::parse(&types).map_err(|name| {
                let shown: String = name.chars().take(80).collect();
                invalid(&format!("\"types\" names \"{shown}\", which no event is called"))
            })?,
        };
        match request.parameter("view")?.as_deref() {
            None => {}
            Some("compact") => filter = filter.compact(),
            Some(_) => return Err(invalid("\"view\" must be \"compact\"")),
        }
        let heartbeat_ms = match request.parameter("heartbeat")? {
            None => self.limits.heartbeat_ms,
            Some(text) => text
                .parse::<u64>()
                .ok()
                .and_then(|seconds| seconds.checked_mul(1000))
                .filter(|ms| HEARTBEAT_MS.contains(ms))
                .ok_or_else(|| invalid("\"heartbeat\" must be a number of seconds from 5 to 60"))?,
        };
        let pad = match request.parameter("pad")? {
            None => 0,
            Some(text) => text
                .parse()
                .ok()
                .filter(|pad| *pad <= PAD_MAX)
                .ok_or_else(|| invalid("\"pad\" must be a number of bytes up to 65536"))?,
        };
        let (owners, unknown) = (None, Vec::new());
        Ok(StreamRequest {
            session: None,
            owners,
            unknown,
            cursor,
            replay,
            filter,
            heartbeat_ms,
            pad,
        })
    }

    fn events_status(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            let log = &session.feed.log;
            let event_id = |seq: Option<u64>| seq.map(|seq| server.publisher.id(seq).to_string());
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.number("readers", log.readers.into());
            let oldest = log.ring.oldest().map(|mark| mark.seq);
            object.string_or_null("earliestId", event_id(oldest).as_deref());
            object.string_or_null("latestId", event_id(log.latest_seq()).as_deref());
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    /// One event, or the large field that was cut from it.
    fn event(&mut self, id: &str, event: &str) -> Outcome {
        let key = self.session_key(id)?;
        let gone = || {
            let sentence = "there is no such event in this session, or it is no longer kept";
            Problem::new(Status::NOT_FOUND, "event_not_found", sentence)
        };
        let event = crate::wire::sse::EventId::parse(event.as_bytes()).ok_or_else(gone)?;
        let visible = self.publisher.visible();
        let session = self.sessions.get(key).ok_or_else(gone)?;
        let ring = &session.feed.log.ring;
        if event.epoch != self.publisher.epoch() || event.seq > visible || event.seq == 0 {
            return Err(gone());
        }
        let start = ring.after(event.seq - 1);
        // Only an event of this very session: large fields of others are not to be had here.
        ring.mark_at(start).filter(|mark| mark.seq == event.seq).ok_or_else(gone)?;
        if let Some((bytes, is_text)) = self.publisher.large.get(event.seq) {
            let content_type = match is_text {
                true => "text/plain; charset=utf-8",
                false => "application/json",
            };
            return Ok(Reply::Bytes(bytes.to_vec(), content_type));
        }
        let end = ring.after(event.seq);
        let crate::base::ring::Found::Bytes(a, b) = ring.at(start, end) else {
            return Err(gone());
        };
        let frame = [a, b].concat();
        let (_, name, data) = crate::wire::sse::parse_frame(&frame).ok_or_else(gone)?;
        self.say(|_, object| {
            object.bool("success", true);
            object.display("id", event);
            object.string("event", name);
            object.raw("data", data);
        });
        ok()
    }

    // Prompts.

    fn prompt(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let body = request.json()?;
        let command = text(&body, "command")?
            .ok_or_else(|| Problem::bad("command_missing", "\"command\" is missing"))?;
        if command.is_empty() {
            return Err(Problem::bad("command_empty", "\"command\" must not be empty"));
        }
        let interrupts = match text(&body, "when")? {
            None | Some("queue") => false,
            Some("interrupt") => true,
            Some(_) => {
                let sentence = "\"when\" must be \"queue\" or \"interrupt\"";
                return Err(Problem::bad("invalid_value", sentence));
            }
        };
        let images = images(&body)?;
        let client_id = name(&body, "clientId")?.map(str::to_owned);
        let prompt_id = prompt_id(request, &body)?;
        let Some(session) = self.sessions.get(key) else {
            return Err(Problem::session_not_found(id));
        };
        if session.deleting {
            return Err(Problem::conflict("session_stopping", "the session is being deleted"));
        }
        if let Some(prompt_id) = &prompt_id {
            match session.prompts.known(prompt_id, command) {
                Known::New => {}
                Known::Same(taken) => {
                    let (cursor, position) = (taken.cursor, taken.position);
                    self.say_prompt(key, prompt_id, cursor, position);
                    return accepted(self.publisher.seq());
                }
                Known::Other => {
                    let sentence =
                        format!("the prompt id \"{prompt_id}\" was used for another command");
                    return Err(Problem::conflict("prompt_id_reused", sentence));
                }
            }
        }
        let images_size: usize = images.iter().map(|(_, data)| data.len()).sum();
        self.room_for_prompt(key, command.len() + images_size)?;
        let prompt = Prompt {
            id: prompt_id.unwrap_or_else(|| format!("prompt-{:016x}", self.random.bits())),
            command: command.to_owned(),
            images,
            by: LOCAL.to_owned(),
            client_id,
            queued_at: self.now_ms,
        };
        let seq = self.queue_prompt(key, prompt, interrupts);
        accepted(seq)
    }

    fn room_for_prompt(&mut self, key: Key, size: usize) -> Result<(), Problem> {
        if self.drain != Drain::Serving && !matches!(self.drain, Drain::Delayed(_)) {
            let sentence = "the server is shutting down";
            return Err(Problem::limited(Status::SERVICE_UNAVAILABLE, "draining", sentence));
        }
        let Some(session) = self.sessions.get(key) else { return Ok(()) };
        if session.prompts.queue.len() >= self.limits.queue_max {
            let sentence = format!("{} prompts wait already, --queue-max", self.limits.queue_max);
            return Err(Problem::limited(Status::TOO_MANY_REQUESTS, "queue_full", sentence));
        }
        if self.queue_size + size > self.limits.queue_size_max {
            let sentence = "the waiting prompts of all sessions are too large together";
            return Err(Problem::limited(Status::TOO_MANY_REQUESTS, "queue_size_max", sentence));
        }
        Ok(())
    }

    /// Queues a prompt and sets it going if it can. Its answer is in `self.json`. Returns the
    /// number of its `prompt-queued`.
    fn queue_prompt(&mut self, key: Key, prompt: Prompt, interrupts: bool) -> u64 {
        let cursor = self.publisher.seq();
        let Some(session) = self.sessions.get_mut(key) else { return cursor };
        // Held text belongs before the prompt, so the cursor stands behind it.
        self.publisher.flush(&mut session.feed);
        let cursor = self.publisher.seq().max(cursor);
        let position = session.prompts.queue.len() as u32;
        let shown = prompt.command.floor_char_boundary(NAME_SIZE_MAX);
        session.last_prompt = Some(prompt.command[..shown].to_owned());
        session.prompts.remember(&prompt.id, &prompt.command, cursor, position);
        let feed = &mut session.feed;
        let seq = self.publisher.publish_apart(feed, EventKind::PromptQueued, |object| {
            object.string("promptId", &prompt.id);
            object.number("position", position.into());
            object.string("by", &prompt.by);
            object.optional("clientId", prompt.client_id.as_deref());
            object.string("command", &prompt.command);
            if !prompt.images.is_empty() {
                object.number("images", prompt.images.len() as u64);
            }
        });
        self.queue_size += prompt.size();
        let id = prompt.id.clone();
        match interrupts {
            true => session.prompts.queue.push_front(prompt),
            false => session.prompts.queue.push_back(prompt),
        }
        if interrupts {
            self.interrupt(key);
        }
        self.after(key, None);
        self.say_prompt(key, &id, cursor, position);
        seq
    }

    fn say_prompt(&mut self, key: Key, prompt_id: &str, cursor: u64, position: u32) {
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.string("promptId", prompt_id);
            object.string("status", session.status().as_str());
            object.number("position", position.into());
            object.display("lastEventId", server.publisher.id(cursor));
        });
    }

    fn interrupt_session(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let clear = flag(&request.json()?, "clearQueue")?;
        let mut cancelled = Vec::new();
        while clear
            && let Some(session) = self.sessions.get_mut(key)
            && let Some(prompt) = session.prompts.queue.pop_front()
        {
            self.cancel_prompt(key, &prompt, LOCAL);
            cancelled.push(prompt.id);
        }
        let interrupted = self.interrupt(key);
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.bool("interrupted", interrupted);
            object.array("cancelled", |array| cancelled.iter().for_each(|id| array.string(id)));
            object.string("status", session.status().as_str());
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    fn queue(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.array("queue", |array| {
                for (position, prompt) in session.prompts.queue.iter().enumerate() {
                    array.object(|object| {
                        object.string("promptId", &prompt.id);
                        object.number("position", position as u64);
                        object.string("command", &prompt.command);
                        object.string("by", &prompt.by);
                        object.optional("clientId", prompt.client_id.as_deref());
                    });
                }
            });
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    fn cancel_queued(&mut self, id: &str, prompt_id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let prompt = self.sessions.get_mut(key).and_then(|s| s.prompts.take(prompt_id));
        let Some(prompt) = prompt else {
            let sentence = format!("no prompt \"{prompt_id}\" waits in this session");
            return Err(Problem::new(Status::NOT_FOUND, "prompt_not_found", sentence));
        };
        self.cancel_prompt(key, &prompt, LOCAL);
        self.say(|server, object| {
            object.bool("success", true);
            object.string("promptId", &prompt.id);
            object.string("status", "cancelled");
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    // Approvals.

    fn approvals(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.array("approvals", |array| {
                for approval in &session.approvals.open {
                    array.object(|object| approval.write(object));
                }
            });
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    fn answer_approval(&mut self, request: &Request<'_>, id: &str, approval: &str) -> Outcome {
        let key = self.session_key(id)?;
        let body = request.json()?;
        let answer = answer(&body)?;
        let hash = text(&body, "inputHash")?;
        let persistent = self.config.allow_persistent_rules;
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(Problem::session_not_found(id));
        };
        let Some(open) = session.approvals.find(approval) else {
            return Err(not_open(session, approval));
        };
        if hash.is_some_and(|hash| !hash.eq_ignore_ascii_case(&open.input_hash)) {
            let sentence = "the input is another one than the answer is about";
            return Err(Problem::conflict("input_hash_mismatch", sentence));
        }
        let (input, rules) = answer
            .settle(open, persistent)
            .map_err(|unfit| Problem::new(Status::BAD_REQUEST, unfit.code, unfit.sentence))?;
        let decision = if answer.allow { "allow" } else { "deny" };
        let Some(decided) = session.approvals.decide(approval, decision, LOCAL) else {
            return Err(not_open(session, approval));
        };
        let message = answer.message.as_deref().unwrap_or("the user said no");
        let feed = &mut session.feed;
        let seq = self.publisher.publish(feed, EventKind::ApprovalResolved, |object| {
            object.string("approvalId", &decided.id);
            object.string("decision", decision);
            object.string("by", LOCAL);
            match answer.allow {
                true => object.raw("input", &input),
                false => object.string("message", message),
            }
            object.string_or_null("toolUseId", decided.tool_use_id.as_deref());
        });
        let now_ms = self.now_ms;
        if let Some(agent) = session.process.and_then(|agent| self.agents.get_mut(agent)) {
            agent.heard_at = now_ms; // Its silence was ours.
            agent.stdin.queue(seq, |out| match answer.allow {
                true => claude::allow(out, &decided.request_id, &input, rules.as_deref()),
                false => claude::deny(out, &decided.request_id, message, answer.interrupt),
            });
        }
        self.update_status(key, None);
        self.arm_session_now(key);
        self.say(|server, object| {
            object.bool("success", true);
            object.string("approvalId", &decided.id);
            object.string("decision", decision);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    // The server.

    /// One row per log that has streams, and per session that a stream over all of them hears.
    fn stream_counts(&self) -> Vec<StreamCount<'_>> {
        let all = u64::from(self.publisher.all.readers);
        let mut counts = Vec::new();
        for (id, key) in self.by_id.iter().chain(&self.closed_ids) {
            let Some(session) = self.sessions.get(*key) else { continue };
            let streams = u64::from(session.feed.log.readers);
            let heard = if session.closed_at.is_none() { self.heard_by_all(session) } else { 0 };
            if streams + heard > 0 {
                counts.push(StreamCount { key: id, streams, listeners: streams + heard });
            }
        }
        if all > 0 {
            counts.push(StreamCount { key: "*", streams: all, listeners: 0 });
        }
        counts
    }

    /// How many streams over all sessions receive this one's events.
    fn heard_by_all(&self, session: &Session) -> u64 {
        if self.publisher.all.readers == 0 {
            return 0;
        }
        self.all_readers()
            .filter(|reader| {
                let owners = reader.owners.as_deref();
                owners.is_none_or(|owners| owners.contains(&session.feed.number))
            })
            .count() as u64
    }

    fn metrics(&mut self) -> Outcome {
        self.say(|server, object| {
            let counts = server.stream_counts();
            let published = &server.publisher.published;
            metrics::write(object, published, &counts, &server.counters, server.wall_ms);
        });
        ok()
    }

    fn stats(&mut self) -> Outcome {
        self.say(|server, object| {
            let counts = server.stream_counts();
            let streams: u64 = counts.iter().map(|count| count.streams).sum();
            object.bool("success", true);
            object.number("totalConnections", streams);
            object.object("sessions", |sessions| {
                for count in counts.iter().filter(|count| count.streams > 0) {
                    sessions.entry(count.key, count.streams);
                }
            });
            object.number("totalCreated", server.counters.streams_opened);
            object.number("totalClosed", server.counters.streams_closed);
            object.number("activeHeartbeats", streams);
            object.number("timestamp", server.wall_ms);
        });
        ok()
    }

    fn capabilities(&mut self) -> Outcome {
        self.say(|server, object| {
            let limits = &server.limits;
            object.bool("success", true);
            object.string("name", "sidestream");
            object.string("version", server.config.version);
            object.array("transports", |array| array.string("sse"));
            object.array("dialects", |array| {
                ["claude", "lines", "demo"].iter().for_each(|dialect| array.string(dialect));
            });
            object.array("modes", |array| {
                MODES.iter().for_each(|mode| array.string(mode));
                if server.config.allow_bypass {
                    array.string("bypassPermissions");
                }
            });
            object.string("durability", "memory");
            object.object("limits", |object| {
                object.number("bodyBytes", limits.body_size_max as u64);
                object.number("headBytes", limits.head_size_max as u64);
                object.number("sessions", limits.sessions_max.into());
                object.number("agents", limits.agents_max.into());
                object.number("queue", limits.queue_max as u64);
                object.number("approvals", limits.approvals_max as u64);
                object.number("readersPerSession", limits.readers_per_session_max.into());
                object.number("connections", limits.connections_max.into());
                object.number("ringBytes", limits.ring_size as u64);
                object.number("replayBytes", limits.replay_size as u64);
                object.number("heartbeatMs", limits.heartbeat_ms);
            });
            object.array("agents", |array| {
                for agent in &server.config.agents {
                    array.object(|object| {
                        object.string("name", &agent.name);
                        object.string("dialect", agent.dialect.as_str());
                    });
                }
            });
        });
        ok()
    }

    fn agents_list(&mut self) -> Outcome {
        self.say(|server, object| {
            object.bool("success", true);
            object.array("agents", |array| {
                for (agent, facts) in server.config.agents.iter().zip(&server.facts) {
                    array.object(|object| {
                        object.string("name", &agent.name);
                        object.string("dialect", agent.dialect.as_str());
                        let problem = agent.program.as_ref().err();
                        object.bool("available", problem.is_none());
                        object.optional("problem", problem.map(|problem| &**problem));
                        object.string_or_null("version", facts.version.as_deref());
                        object.raw("commands", facts.commands.as_deref().unwrap_or("null"));
                        object.raw("models", facts.models.as_deref().unwrap_or("null"));
                        object.array("modes", |array| {
                            MODES.iter().for_each(|mode| array.string(mode));
                        });
                        match facts.logged_in {
                            Some(logged_in) => object.bool("loggedIn", logged_in),
                            None => object.null("loggedIn"),
                        }
                    });
                }
            });
        });
        ok()
    }

    fn health(&mut self) -> Outcome {
        self.say(|server, object| {
            object.string("status", "ok");
            object.string("version", server.config.version);
        });
        ok()
    }

    fn ready(&mut self) -> Outcome {
        if self.is_draining() {
            let sentence = "the server is shutting down";
            return Err(Problem::limited(Status::SERVICE_UNAVAILABLE, "draining", sentence));
        }
        self.say(|_, object| object.string("status", "ready"));
        ok()
    }

    fn old_websocket(&self) -> Problem {
        let sentence = "the WebSocket is gone; stream a session's events over SSE instead";
        let mut problem = Problem::new(Status::GONE, "websocket_gone", sentence);
        let link = format!(
            "<{}/api/session/{{id}}/events>; rel=\"successor-version\"",
            self.config.base_path
        );
        problem.fields.push(("Link", link));
        problem
    }
}

fn accepted(seq: u64) -> Outcome {
    Ok(Reply::Json { status: Status::ACCEPTED, after: Some(seq), fields: Vec::new() })
}

fn matches_query(session: &Session, query: &str) -> bool {
    let dir = session.working_dir.to_string_lossy().to_lowercase();
    let holds = |text: Option<&str>| text.is_some_and(|text| text.to_lowercase().contains(query));
    dir.contains(query)
        || session.id().contains(query)
        || holds(session.name.as_deref())
        || holds(session.last_prompt.as_deref())
}

fn directory_problem(asked: &str, problem: &DirectoryProblem) -> Problem {
    let shown: String = asked.chars().take(300).collect();
    match problem {
        DirectoryProblem::NotAbsolute => Problem::bad(
            "working_dir_not_absolute",
            format!("\"workingDir\" must be an absolute path, not \"{shown}\""),
        ),
        DirectoryProblem::Missing => Problem::bad(
            "working_dir_not_found",
            format!("the working directory \"{shown}\" does not exist"),
        ),
        DirectoryProblem::NotADirectory => Problem::bad(
            "working_dir_not_a_directory",
            format!("the working directory \"{shown}\" is not a directory"),
        ),
        DirectoryProblem::OutsideRoots => Problem::new(
            Status::FORBIDDEN,
            "working_dir_outside_roots",
            format!("the working directory \"{shown}\" is in none of the roots; --root adds one"),
        ),
        DirectoryProblem::Unreadable(error) => Problem::bad(
            "working_dir_unreadable",
            format!("the working directory \"{shown}\" cannot be used: {error}"),
        ),
    }
}

/// The answer to an approval, as its body tells it.
fn answer(body: &Value) -> Result<Answer, Problem> {
    let allow = match text(body, "decision")? {
        Some("allow") => true,
        Some("deny") => false,
        Some(_) | None => {
            let sentence = "\"decision\" must be \"allow\" or \"deny\"";
            return Err(Problem::bad("decision_missing", sentence));
        }
    };
    let member = |name: &str| Some(&body[name]).filter(|value| !value.is_null()).cloned();
    Ok(Answer {
        allow,
        message: text(body, "message")?.map(str::to_owned),
        interrupt: flag(body, "interrupt")?,
        updated_input: member("updatedInput"),
        answers: member("answers"),
        updated_permissions: member("updatedPermissions"),
    })
}

/// Why an approval cannot be answered.
fn not_open(session: &Session, id: &str) -> Problem {
    match session.approvals.decided(id) {
        None => {
            let sentence = "there is no such approval in this session";
            Problem::new(Status::NOT_FOUND, "approval_not_found", sentence)
        }
        Some(decided) => {
            let (code, sentence) = match decided.decision {
                "withdrawn" => ("approval_withdrawn", "the agent no longer asks".to_owned()),
                decision => ("approval_decided", format!("it was answered before: {decision}")),
            };
            let mut problem = Problem::conflict(code, sentence);
            problem.detail = Some(("decision", format!("\"{}\"", decided.decision)));
            problem
        }
    }
}

/// The client's id for a prompt: the field wins over the header.
fn prompt_id(request: &Request<'_>, body: &Value) -> Result<Option<String>, Problem> {
    let header = request.text(request.head.idempotency_key);
    let id = text(body, "promptId")?.or(header);
    let unfit = |id: &str| {
        let fit = |byte: u8| byte.is_ascii_graphic() && byte != b'"' && byte != b'/';
        id.is_empty() || id.len() > PROMPT_ID_SIZE_MAX || !id.bytes().all(fit)
    };
    if id.is_some_and(unfit) {
        let sentence = format!(
            "\"promptId\" must be 1 to {PROMPT_ID_SIZE_MAX} visible ASCII characters \
             other than quote and slash"
        );
        return Err(Problem::bad("invalid_prompt_id", sentence));
    }
    Ok(id.map(str::to_owned))
}

/// Images that go with a prompt.
fn images(body: &Value) -> Result<Vec<(String, String)>, Problem> {
    let list = match &body["images"] {
        Value::Null => return Ok(Vec::new()),
        Value::Array(list) => list,
        _ => return Err(Problem::bad("invalid_type", "\"images\" must be a list")),
    };
    let types = ["image/png", "image/jpeg", "image/gif", "image/webp"];
    list.iter()
        .map(|image| {
            let kind = text(image, "mediaType")?.unwrap_or_default();
            let data = text(image, "data")?.unwrap_or_default();
            if !types.contains(&kind) {
                let sentence =
                    format!("an image's \"mediaType\" must be one of {}", types.join(", "));
                return Err(Problem::bad("invalid_image", sentence));
            }
            let base64 = |byte: u8| byte.is_ascii_alphanumeric() || b"+/=".contains(&byte);
            if data.is_empty() || !data.bytes().all(base64) {
                return Err(Problem::bad("invalid_image", "an image's \"data\" must be base64"));
            }
            Ok((kind.to_owned(), data.to_owned()))
        })
        .collect()
}
