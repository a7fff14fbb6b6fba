//! The product's endpoints: what a request asks for, and what it is answered.
//!
//! The only module that knows them. A handler reads the request, changes the server, and returns
//! a [`Reply`]; a reply that reports a change leaves only when the change is durable. Framing,
//! buffers and deadlines are `connection.rs`'s business.

mod approvals;
mod events;
mod login;
mod problem;
mod prompts;
mod request;
mod route;
mod scrape;
mod server;
mod sessions;
mod tickets;
mod write;

use self::problem::Problem;
use self::request::Request;
use self::route::{Found, Route};
pub use self::route::{hidden_below, paths};
use crate::base::arena::Key;
use crate::base::seldom::Seldom;
use crate::core::access::tokens::Scope;
use crate::core::access::{self, Access, Refusal};
use crate::core::approvals::Answer;
use crate::core::connection::{Asking, Exchange, Peer, Stage};
use crate::core::effect::{
    Asker, DirectoryProblem, DiskRequest, Effect, Fetched, Level, Media, Page, PromptEnd, Read,
    ReadFailure, Source,
};
use crate::core::event::{EventKind, Filter};
use crate::core::journal::{self, Frame, Journal};
use crate::core::metrics::limit::Limit;
use crate::core::metrics::{self, StreamCount};
use crate::core::pages::{self, Page as Document};
use crate::core::past;
use crate::core::prompts::{Image, Known, Prompt, Prompts};
use crate::core::publisher::{Beside, Feed, Kind};
use crate::core::server::{Dialect, Drain, PendingDirectory, Purpose, Server};
use crate::core::session::{
    Conversation, Fork, Process, Session, Status as SessionStatus, Unusual,
};
use crate::core::streams::{Busy, Replay, StreamRequest, Unknown};
use crate::core::tails::{EventPart, Large, Tail};
use crate::core::turn::Failure;
use crate::core::waits::{self, Awaited, Cursor, Wait};
use crate::limits::NAME_LENGTH_MAX;
use crate::wire::base64;
use crate::wire::claude;
use crate::wire::head::{self, BadRequest, Framing, Head, Method, Span};
use crate::wire::json::{self, Object};
use crate::wire::reply::{self, ReplyHead, Status};
use crate::wire::target::{self, Target};
use crate::wire::visible;
use serde_json::Value;
use std::borrow::Cow;
use std::path::PathBuf;

/// The permission modes that a session may be given.
const MODES: [&str; 5] = ["default", "acceptEdits", "plan", "dontAsk", "auto"];
/// The states that a list of sessions can be limited to.
const STATUSES: [&str; 8] =
    ["idle", "starting", "running", "waiting", "stopping", "suspended", "failed", "archived"];
/// How long a long poll waits where it does not say.
const POLL_WAIT_S: u64 = 25;
/// Characters of a path that the log shows.
const PATH_SHOWN_MAX: usize = 200;
/// Seconds after which a client that met a limit may try again.
const RETRY_AFTER_S: &str = "1";
/// How many fields [`Server::cors_fields`] may tell.
pub(super) const CORS_FIELDS_MAX: usize = 3;
/// Fields of requests that another origin's page may set.
const CORS_REQUEST_FIELDS: &str =
    "authorization, content-type, last-event-id, idempotency-key, x-request-id";
/// How long a browser may keep the answer to a preflight, in seconds.
const CORS_MAX_AGE_S: &str = "600";

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
    /// The conversation that it goes on with.
    pub conversation: Option<String>,
    /// The session that it is a copy of, and what of its conversation.
    pub fork: Option<(String, Fork)>,
}

/// What a request is answered.
enum Reply {
    /// What `Server::health` holds.
    Health,
    /// What `Server::json` holds, once event `after` is durable.
    Json { status: Status, after: Option<u64>, fields: Vec<(&'static str, String)> },
    /// A body that is sent in pieces, its length and its type.
    Large(Large, u64, &'static str),
    /// A page.
    Page(&'static Document),
    /// A page of the moment, once event `after` is durable.
    Html { status: Status, after: Option<u64>, body: String },
    /// No content: the fields say it all.
    Empty(Vec<(&'static str, String)>),
    /// The answer comes later.
    Later,
    /// The answer comes once it is known who asks.
    Asks,
    /// The connection becomes a stream.
    Stream(StreamRequest),
    /// A stream that is refused for now.
    Busy(Busy),
}

type Outcome = Result<Reply, Problem>;

impl<'a> Judged<'a> {
    fn route(&self) -> Option<&Route<'a>> {
        match self {
            Judged::Routed(route) => Some(route),
            Judged::Answered(_) => None,
        }
    }
}

/// What a request's head alone comes to.
enum Judged<'a> {
    /// It needs no handler.
    Answered(Reply),
    /// What it asks for, by whom may.
    Routed(Route<'a>),
}

/// What the log says of a request: nothing that could be a secret.
fn request_fields(exchange: &Exchange) -> Vec<(&'static str, String)> {
    let mut fields = vec![("request", exchange.request_id.clone())];
    if let Some(head) = exchange.has_head() {
        fields.push(("method", head.method.as_str().to_owned()));
        if let Some(target) = exchange.input.get(..head.length).and_then(|it| head.target.text(it))
        {
            let path = target.split(['?', '#']).next().unwrap_or_default();
            fields.push(("path", path.chars().take(PATH_SHOWN_MAX).collect()));
        }
    }
    fields
}

/// Fields for a page of another origin.
pub(super) struct CorsFields<'a> {
    fields: [(&'static str, &'a str); CORS_FIELDS_MAX],
    count: usize,
}

impl<'a> CorsFields<'a> {
    pub(super) fn as_slice(&self) -> &[(&'static str, &'a str)] {
        &self.fields[..self.count]
    }

    pub(super) fn len(&self) -> usize {
        self.count
    }
}

/// The most fields that one answer has, beside those that all have.
const FIELDS_MAX: usize = 8;
/// The most segments of a path that is one of ours, those of the base path among them.
const SEGMENTS_MAX: usize = 32;

/// The segments of a path that is none of ours.
const FOREIGN: [&str; 2] = ["", ""];

/// The segments of a decoded path. What is deeper than there is room for is nothing of ours.
fn segments<'a, 'b>(path: &'a str, room: &'b mut [&'a str; SEGMENTS_MAX]) -> &'b [&'a str] {
    if path.is_empty() {
        return &[];
    }
    let mut count = 0;
    for segment in path.split('/') {
        match room.get_mut(count) {
            Some(place) => *place = segment,
            None => return &FOREIGN,
        }
        count += 1;
    }
    &room[..count]
}

/// Puts some fields behind each other.
fn gather<'a, 'b>(
    all: &'b mut [(&'a str, &'a str)],
    parts: &[&[(&'a str, &'a str)]],
) -> &'b [(&'a str, &'a str)] {
    let mut count = 0;
    for part in parts {
        all[count..count + part.len()].copy_from_slice(part);
        count += part.len();
    }
    &all[..count]
}

/// Whether a method may change something.
fn changes(method: Method) -> bool {
    !matches!(method, Method::Get | Method::Head)
}

/// Whether a browser asks on behalf of a page before it sends the page's own request.
fn is_preflight(head: &Head) -> bool {
    head.method == Method::Options && head.preflight_method.is_some()
}

/// What a page of an allowed origin may send. It carries no token, so it says nothing of paths.
fn preflight() -> Reply {
    Reply::Empty(vec![
        ("Access-Control-Allow-Methods", "GET, HEAD, POST, PATCH, DELETE".to_owned()),
        ("Access-Control-Allow-Headers", CORS_REQUEST_FIELDS.to_owned()),
        ("Access-Control-Max-Age", CORS_MAX_AGE_S.to_owned()),
    ])
}

fn ok() -> Outcome {
    Ok(Reply::Json { status: Status::OK, after: None, fields: Vec::new() })
}

fn ok_after(seq: u64) -> Outcome {
    Ok(Reply::Json { status: Status::OK, after: Some(seq), fields: Vec::new() })
}

/// Where in a list one goes on behind this element; from its start if it is not there, or not named.
fn behind<'a>(mut ids: impl Iterator<Item = &'a str>, after: Option<&str>) -> usize {
    after.and_then(|after| ids.position(|id| id == after)).map_or(0, |at| at + 1)
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
        let length = text.chars().count();
        length == 0 || length > NAME_LENGTH_MAX || text.chars().any(char::is_control)
    };
    if value.is_some_and(unfit) {
        let sentence = format!(
            "\"{name}\" must be 1 to {NAME_LENGTH_MAX} characters long, none of them a control \
             character"
        );
        return Err(Problem::bad("invalid_value", sentence));
    }
    Ok(value)
}

impl Server {
    /// Answers a whole request. Returns whether the connection can go on to the next one.
    pub(super) fn answer(&mut self, key: Key, mut exchange: Box<Exchange>) -> bool {
        let head = *exchange.head();
        self.note_request(&mut exchange);
        exchange.close |= !head.keep_alive || self.is_draining();
        let outcome = self.with_request(key, &mut exchange, Server::handle);
        let etag = head.if_none_match.and_then(|span| span.text(&exchange.input));
        let etag = etag.map(str::to_owned);
        let seq = match outcome {
            Ok(reply @ (Reply::Later | Reply::Asks)) => {
                // It was out of its slot when its handler said for how long it may wait.
                if let Some(due) = self.waits.due(key) {
                    exchange.due = due;
                }
                if matches!(reply, Reply::Asks) {
                    exchange.asker = Asking::Asked;
                    self.effects.push_back(Effect::WhoIs(key));
                } else {
                    exchange.release_body(); // Others may need that room while it waits.
                }
                exchange.stage = Stage::Waiting;
                self.put_exchange(key, exchange);
                return false;
            }
            Ok(Reply::Stream(request)) if head.method != Method::Head => {
                if exchange.input.len() > head.length {
                    // A stream ends with the client's next byte, and that is here already. What the
                    // requests before it were answered still goes.
                    (exchange.stage, exchange.close) = (Stage::Ending, true);
                    self.put_exchange(key, exchange);
                    return false;
                }
                self.open_stream(key, exchange, request);
                return false;
            }
            Ok(Reply::Busy(reason)) if head.method != Method::Head => {
                self.counters.limited += 1;
                if let Busy::Limit(limit) = reason {
                    self.counters.limits.hit(limit);
                }
                self.busy_stream(&mut exchange, reason.as_str());
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
            Ok(Reply::Health) => {
                let health = std::mem::take(&mut self.health);
                self.write_json_of(&mut exchange, Status::OK, &[], &health);
                self.health = health;
                None
            }
            Ok(Reply::Large(what, length, content_type)) => {
                self.write_large(&mut exchange, content_type, Tail::new(what, length, Vec::new()));
                None
            }
            Ok(Reply::Page(page)) => {
                self.write_page(&mut exchange, page, etag.as_deref());
                None
            }
            Ok(Reply::Html { status, after, body }) => {
                let (html, body) = ("text/html; charset=utf-8", body.as_bytes());
                self.write_reply(&mut exchange, status, Some(html), &tickets::FIELDS, body);
                after
            }
            Ok(Reply::Empty(fields)) => {
                let fields: Vec<(&str, &str)> =
                    fields.iter().map(|(name, value)| (*name, &**value)).collect();
                self.write_reply(&mut exchange, Status::NO_CONTENT, None, &fields, &[]);
                None
            }
            Err(problem) => {
                self.log_problem(&exchange, &problem);
                self.write_problem(&mut exchange, &problem);
                None
            }
        };
        self.finish_answer(key, exchange, seq)
    }

    /// Takes a request apart for `work`.
    fn with_request<T>(
        &mut self,
        key: Key,
        exchange: &mut Exchange,
        work: impl FnOnce(&mut Server, &mut Request<'_>) -> Result<T, Problem>,
    ) -> Result<T, Problem> {
        let head = *exchange.head();
        let input = std::mem::take(&mut exchange.input);
        let body = std::mem::take(&mut exchange.body);
        let result = match target::parse(head.method, head.target.of(&input)) {
            Ok(target) => {
                let mut request = Request {
                    connection: key,
                    head,
                    input: &input,
                    body: &body,
                    target,
                    peer: exchange.peer,
                    by: Cow::Borrowed(access::LOCAL),
                    scope: Scope::Full,
                    asker: exchange.asker,
                };
                work(self, &mut request)
            }
            Err(bad) => Err(bad.into()),
        };
        (exchange.input, exchange.body) = (input, body);
        result
    }

    /// Whether the rest of a request's body is worth waiting for. Whoever will be refused for
    /// what his head says is refused now: strangers hold no room that others need.
    pub(super) fn refuse_early(&mut self, key: Key, exchange: &mut Exchange) -> bool {
        let judged = self.with_request(key, exchange, |server, request| {
            let path = request.target.decoded_path()?;
            let method = request.head.method;
            let judged = server.judge(request, segments(&path, &mut [""; SEGMENTS_MAX]))?;
            Ok(judged.route().and_then(|route| route.body_size_max(method)))
        });
        let problem = match judged {
            Ok(None) => return false,
            Ok(Some(size_max)) => match exchange.limit_body(size_max) {
                Ok(()) => return false,
                Err(_) => Problem::open_body_too_large(),
            },
            Err(problem) => problem,
        };
        self.note_request(exchange);
        exchange.close = true;
        exchange.stage = Stage::Ending;
        self.log_problem(exchange, &problem);
        self.write_problem(exchange, &problem);
        true
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
    fn name_request(&mut self, exchange: &mut Exchange, head: Option<&Head>, input: &[u8]) {
        let theirs = head.and_then(|head| head.request_id).and_then(|span| span.text(input));
        let theirs = theirs.filter(|id| {
            let harmless = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
            (1..=64).contains(&id.len()) && id.bytes().all(harmless)
        });
        exchange.request_id.clear();
        match theirs {
            Some(id) => exchange.request_id.push_str(id),
            None => reply::hex(&mut exchange.request_id, self.random.bits()),
        }
    }

    /// Notes what every answer to a request carries of it, whole or not: its id, which is not the last
    /// one's, and the allowed origin whose page may read the answer.
    fn note_request(&mut self, exchange: &mut Exchange) {
        let head = exchange.has_head().copied();
        let input = std::mem::take(&mut exchange.input);
        let access = &self.config.access;
        exchange.origin = head.and_then(|head| access.allowed_origin(&head, &input));
        self.name_request(exchange, head.as_ref(), &input);
        exchange.input = input;
    }

    // Routing.

    fn handle(&mut self, request: &mut Request<'_>) -> Outcome {
        let path = request.target.decoded_path()?;
        let mut room = [""; SEGMENTS_MAX];
        let route = match self.judge(request, segments(&path, &mut room))? {
            Judged::Answered(reply) => return Ok(reply),
            Judged::Routed(route) => route,
        };
        if changes(request.head.method) && !self.asker_may(request)? {
            return Ok(Reply::Asks);
        }
        self.dispatch_route(request, route)
    }

    /// Holds a request's head to everything that stands before its handler: the walls, the token,
    /// the path, the method.
    fn judge<'a>(
        &mut self,
        request: &mut Request<'_>,
        path: &[&'a str],
    ) -> Result<Judged<'a>, Problem> {
        let access = &self.config.access;
        let (head, input) = (&request.head, request.input);
        let admitted = access.admit(head, input, &request.target, request.peer);
        if request.target.asterisk {
            admitted?;
            let allow = vec![("Allow", head::ALLOW.to_owned())];
            return Ok(Judged::Answered(Reply::Empty(allow)));
        }
        let found = self.find(path);
        admitted?;
        if is_preflight(head) && access.allowed_origin(head, input).is_some() {
            return Ok(Judged::Answered(preflight()));
        }
        let method = request.head.method;
        let scope = match &found {
            Some(found) => found.route.scope(method),
            // That there is nothing is not told to strangers either.
            None => Some(Scope::Read),
        };
        if let Some(scope) = scope {
            let caller = access.caller(head, input, &request.target)?;
            Access::reach(caller, scope)?;
            request.scope = caller.scope;
            if let Some(connection) = self.connections.get_mut(request.connection) {
                connection.token = caller.token;
            }
            if caller.by != access::LOCAL {
                request.by = Cow::Owned(caller.by.to_owned());
            }
        }
        let Some(Found { route, methods }) = found else {
            let sentence = "there is nothing at this path; /openapi.yaml lists what there is";
            return Err(Problem::new(Status::NOT_FOUND, "not_found", sentence));
        };
        if let Some(limited) = self.address_limited(request, &route) {
            return limited.map(Judged::Answered);
        }
        let allow = || {
            let names: Vec<&str> = methods.iter().map(|method| method.as_str()).collect();
            format!("{}, OPTIONS", names.join(", "))
        };
        if method == Method::Options {
            let mut fields = vec![("Allow", allow())];
            if methods.contains(&Method::Patch) {
                fields.push((request::ACCEPT_PATCH.0, request::ACCEPT_PATCH.1.to_owned()));
            }
            return Ok(Judged::Answered(Reply::Empty(fields)));
        }
        if !methods.contains(&method) {
            let sentence = format!("this path takes {}", allow());
            let mut problem =
                Problem::new(Status::METHOD_NOT_ALLOWED, "method_not_allowed", sentence);
            problem.fields.push(("Allow", allow()));
            return Err(problem);
        }
        let length = match request.head.framing {
            Framing::Length(length) => length,
            Framing::None | Framing::Chunked => request.body.len() as u64,
        };
        if route.body_size_max(method).is_some_and(|size_max| length > size_max as u64) {
            return Err(Problem::open_body_too_large());
        }
        // A ticket's form is sent as browsers send forms.
        if changes(method) && !matches!(route, Route::Ticket) {
            request.check_media_type()?;
        }
        self.precondition(request, &route)?;
        Ok(Judged::Routed(route))
    }

    /// Holds a request to what its client wants to be true of the resource (RFC 9110 §13): what has no
    /// entity tag matches none, and it exists. Whether a page is still the same is `write_page`'s.
    fn precondition(&self, request: &Request<'_>, route: &Route<'_>) -> Result<(), Problem> {
        let (head, method) = (&request.head, request.head.method);
        let of = |span: Option<Span>| span.map(|span| span.of(request.input));
        let is_gone = route.session().is_some_and(|id| self.session_key(id).is_err());
        let unmatched = of(head.if_match).is_some_and(|tags| match route {
            Route::Page(page) => tags != b"*" && !page.is_among(tags),
            _ => tags != b"*",
        });
        let exists = changes(method) && head.is_if_none_exists(request.input);
        if is_gone || !(unmatched || exists) {
            return Ok(()); // That there is nothing comes first (§13.2.1).
        }
        let sentence =
            "an If-Match or If-None-Match of this request is not so, and nothing was done";
        Err(Problem::new(Status::PRECONDITION_FAILED, "precondition_failed", sentence))
    }

    /// What a path names. It is matched whole first, then without the base path.
    fn find<'a>(&self, path: &[&'a str]) -> Option<Found<'a>> {
        if let Some(found) = Route::find(path) {
            return Some(found);
        }
        let base: Vec<&str> = self.config.base_path.split('/').filter(|s| !s.is_empty()).collect();
        if base.is_empty() || !path.starts_with(&base) {
            return None;
        }
        match &path[base.len()..] {
            [] => Some(Found::BASE),
            rest => Route::find(rest),
        }
    }

    /// The home page is one step below the base path.
    fn below_base(&self, query: &str) -> Problem {
        let mark = if query.is_empty() { "" } else { "?" };
        let mut location = format!("{}/{mark}", self.config.base_path);
        target::push_query(&mut location, query);
        let sentence = format!("the home page is at {location}");
        let mut problem = Problem::new(Status::PERMANENT_REDIRECT, "moved", sentence);
        problem.fields.push(("Location", location));
        problem
    }

    /// The answer to a client whose address has too many connections, if it has.
    fn address_limited(&mut self, request: &Request<'_>, route: &Route<'_>) -> Option<Outcome> {
        let access = &self.config.access;
        let address = access.reported_address(&request.head, request.input, request.peer)?;
        if self.count_address(request.connection, Some(address)) {
            return None;
        }
        self.count_address(request.connection, None);
        if route.is_stream() {
            return Some(Ok(Reply::Busy(Busy::Limit(Limit::ConnectionsPerAddress))));
        }
        let sentence = "this address has too many connections, --connections-per-address-max";
        Some(Err(Problem::limited(Limit::ConnectionsPerAddress, sentence)))
    }

    fn dispatch_route(&mut self, request: &Request<'_>, route: Route<'_>) -> Outcome {
        match (route, request.head.method) {
            (Route::Sessions, Method::Post) => self.create_session(request),
            (Route::Sessions, _) => self.list_sessions(request),
            (Route::Session(id), Method::Delete) => self.delete_session(id),
            (Route::Session(id), Method::Patch) => self.patch_session(request, id),
            (Route::Session(id), _) => self.get_session(id),
            (Route::Fork(id), _) => self.fork(request, id),
            (Route::Archive(id, archived), _) => self.archive(id, archived),
            (Route::Directories, _) => self.directories(request),
            (Route::Status(id), _) => self.session_status(id),
            (Route::Context(id), _) => self.session_context(id),
            (Route::Events(id), _) => self.session_events(request, id),
            (Route::EventsStatus(id), _) => self.events_status(id),
            (Route::Poll(id), _) => self.poll(request, Some(id)),
            (Route::AllPoll, _) => self.poll(request, None),
            (Route::History(id), _) => self.history(request, id),
            (Route::Event(id, event), _) => self.event(request, id, event),
            (Route::Prompt(id), _) => self.prompt(request, id),
            (Route::Interrupt(id), _) => self.interrupt_session(request, id),
            (Route::Queue(id), _) => self.queue(request, id),
            (Route::Queued(id, prompt), _) => self.cancel_queued(request, id, prompt),
            (Route::Approvals(id), _) => self.approvals(request, id),
            (Route::ApprovalInput(id, approval), _) => self.approval_input(id, approval),
            (Route::Approval(id, approval), _) => self.answer_approval(request, id, approval),
            (Route::AllEvents, _) => self.all_events(request),
            (Route::Metrics, _) => self.metrics(),
            (Route::Scrape, _) => self.scrape(request.connection),
            (Route::Stats, _) => self.stats(),
            (Route::Capabilities, _) => self.capabilities(request),
            (Route::Agents, _) => self.agents_list(),
            (Route::Health, _) => self.health(),
            (Route::Ready, _) => self.ready(),
            (Route::Login, Method::Delete) => self.log_out(request),
            (Route::Login, _) => self.log_in(request),
            (Route::Ticket, _) => self.answer_by_ticket(request),
            (Route::OldWebSocket, _) => Err(self.old_websocket()),
            (Route::Base, _) => Err(self.below_base(request.target.query)),
            (Route::Page(page), _) => Ok(Reply::Page(page)),
        }
    }

    /// The session of this id, if it is not closed.
    fn session_key(&self, id: &str) -> Result<Key, Problem> {
        self.by_id.find(&self.sessions, id).ok_or_else(|| Problem::session_not_found(id))
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
}
