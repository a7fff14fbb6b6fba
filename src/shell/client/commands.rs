//! The subcommands: what is asked of a server, and what of its answers is printed.
//!
//! Answers go to standard output, everything about how they were come by to standard error. Exit
//! 0: done. 1: the server said no, could not be reached, or the turn failed. A reader of ours that
//! goes away ends us without a word. How events look is `screen`'s business.

use std::io::{self, ErrorKind, IsTerminal, Read, Write};
use std::time::{Duration, Instant};

use serde_json::value::RawValue;
use serde_json::{Value, json};

use super::follow::{self, News, Start, Then};
use super::http::{Client, Failure, Request, escaped};
use super::screen::{self, Screen, Style};
use crate::arguments::client::{self as asked, Action, Answer, Past};
use crate::core::approvals::input_hash;
use crate::core::event::NAMES;
use crate::shell::clock;
use crate::wire::document;
use crate::wire::event_stream::Message;
use crate::wire::json;
use crate::wire::visible;

/// How long a prompt is tried again whose answer was lost on the way.
const RETRY_FOR: Duration = Duration::from_secs(60);
/// The fewest digits of a hash that say which input is meant.
const HASH_DIGITS_MIN: usize = 8;
/// A token file is read no further.
const TOKEN_FILE_MAX: u64 = 4096;

/// Why a command ends early.
enum Stop {
    /// With a sentence, and status 1.
    Failed(String),
    /// Nobody reads us any more.
    Unheard,
}

type Outcome = Result<u8, Stop>;

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Failed(failure.to_string())
    }
}

/// Runs one command; returns the exit status.
pub fn run(command: asked::Client) -> u8 {
    let asked::Client { server, token, token_from, json, heartbeat_ms, action } = command;
    let done = token_of(token, token_from).map_err(Stop::Failed).and_then(|token| {
        let colour = colour(io::stdout().is_terminal());
        let client = Client { server, token };
        Session { client, json, colour, heartbeat_ms }.act(action)
    });
    match done {
        Ok(status) => status,
        Err(Stop::Unheard) => 0,
        Err(Stop::Failed(sentence)) => {
            note("sidestream: ", &sentence);
            1
        }
    }
}

/// The token itself.
///
/// # Errors
/// A sentence that names the file.
pub fn token_of(
    token: Option<String>,
    from: Option<std::path::PathBuf>,
) -> Result<Option<String>, String> {
    let text = match (token, from) {
        (Some(token), _) => token,
        (None, None) => return Ok(None),
        (None, Some(path)) => {
            let mut text = String::new();
            let file = std::fs::File::open(&path);
            let read = file.and_then(|file| file.take(TOKEN_FILE_MAX).read_to_string(&mut text));
            read.map_err(|error| {
                format!("the token in {} cannot be read: {error}", path.display())
            })?;
            text
        }
    };
    let token = text.trim();
    if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
        return Err("the token is not one word of printable characters".into());
    }
    Ok(Some(token.to_owned()))
}

/// Whether colours are wanted (no-color.org).
fn colour(is_terminal: bool) -> bool {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    is_terminal && set("NO_COLOR").is_none() && set("TERM").is_none_or(|term| term != "dumb")
}

/// One line to standard error, fit for a terminal.
fn note(mark: &str, text: &str) {
    let line = format!("{mark}{}\n", visible::lined(text));
    let _ = io::stderr().write_all(line.as_bytes()); // Nobody listens, nobody to tell.
}

fn print(text: &str) -> Result<(), Stop> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).map_err(|error| match error.kind() {
        ErrorKind::BrokenPipe => Stop::Unheard,
        _ => Stop::Failed(format!("standard output cannot be written: {error}")),
    })
}

/// JSON on a line of its own; a terminal may be reading.
fn print_json(json: &str) -> Result<(), Stop> {
    let mut line = String::with_capacity(json.len() + 1);
    visible::json(&mut line, json);
    line.push('\n');
    print(&line)
}

/// One event on a line of its own.
fn print_event(message: &Message) -> Result<(), Stop> {
    let (id, event) = (json::text(&json!(message.last_id)), json::text(&json!(message.event)));
    print_json(&format!("{{\"id\":{id},\"event\":{event},\"data\":{}}}", message.data))
}

/// One run of one command.
struct Session {
    client: Client,
    json: bool,
    colour: bool,
    heartbeat_ms: u64,
}

impl Session {
    fn act(&self, action: Action) -> Outcome {
        match action {
            Action::Sessions => self.sessions(),
            Action::New { directory, fields } => self.new_session(&directory, &fields),
            Action::Prompt { session, words, wait, interrupt } => {
                let words = match words {
                    Some(words) => words,
                    None => from_stdin()?,
                };
                self.prompt(&self.resolve(&session)?, &words, wait, interrupt)
            }
            Action::Tail { session, past, after, types } => {
                let session = session.map(|session| self.resolve(&session)).transpose()?;
                self.tail(session.as_deref(), past, after, types)
            }
            Action::Approvals { session } => self.approvals(session),
            Action::Answer(answer) => self.answer(&answer),
            Action::Interrupt { session, clear_queue } => {
                let path = format!("/api/session/{}/interrupt", escaped(&self.resolve(&session)?));
                let answer = self.post(&path, &json!({"clearQueue": clear_queue}))?;
                match self.json {
                    true => print_json(&json::text(&answer))?,
                    false if answer["interrupted"] == true => print("interrupted\n")?,
                    false => print("nothing was running\n")?,
                }
                Ok(0)
            }
        }
    }

    fn get(&self, path: &str) -> Result<Value, Failure> {
        self.client.json(Request { method: "GET", path, ..Request::default() })
    }

    fn post(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let body = json::text(body);
        let body = Some(&*body);
        self.client.json(Request { method: "POST", path, body, ..Request::default() })
    }

    fn rows(&self, query: &str) -> Result<Vec<Value>, Failure> {
        let mut list = self.get(&format!("/api/sessions?limit=1000{query}"))?;
        match list["sessions"].take() {
            Value::Array(rows) => Ok(rows),
            _ => Err(Failure::Broken("the answer has no sessions".into())),
        }
    }

    /// The id that is meant: as it is, a part that one session alone has, or `last`.
    fn resolve(&self, word: &str) -> Result<String, Stop> {
        if word.starts_with("session-") && word.matches('-').count() > 1 {
            return Ok(word.to_owned());
        }
        let ids: Vec<String> = self
            .rows("")?
            .iter()
            .filter_map(|row| row["sessionId"].as_str().map(str::to_owned))
            .filter(|id| word == "last" || id.contains(word))
            .collect();
        match &ids[..] {
            [] => Err(Stop::Failed(format!("there is no session `{word}`"))),
            [id] => Ok(id.clone()),
            [newest, ..] if word == "last" => Ok(newest.clone()),
            _ => Err(Stop::Failed(format!("`{word}` is in the ids of {} sessions", ids.len()))),
        }
    }

    fn sessions(&self) -> Outcome {
        let rows = self.rows("")?;
        if self.json {
            rows.iter().try_for_each(|row| print_json(&json::text(row)))?;
            return Ok(0);
        }
        let mut screen = Screen::new(self.colour, false);
        let mut out = String::new();
        let now_ms = clock::wall_ms();
        for row in &rows {
            let text = |name: &str| row[name].as_str().unwrap_or_default();
            let number = |name: &str| row[name].as_u64().unwrap_or(0);
            let style = match text("status") {
                "waiting" => Style::Yellow,
                "failed" => Style::Red,
                "running" | "starting" => Style::Bold,
                _ => Style::Plain,
            };
            let age = age(now_ms.saturating_sub(number("lastActivityAt")));
            let mut line = format!("{}  {:<9} {age:>4}", text("sessionId"), text("status"));
            for (count, what) in [("openApprovals", "to answer"), ("queueLength", "queued")] {
                if number(count) > 0 {
                    line += &format!("  {} {what}", number(count));
                }
            }
            let about = Some(text("name")).filter(|name| !name.is_empty());
            let about = about.unwrap_or(text("lastPrompt")).lines().next().unwrap_or_default();
            let about: String = about.chars().take(60).collect();
            line += &format!("  {}  {about}", text("workingDir"));
            screen.line(&mut out, style, "", line.trim_end());
        }
        if rows.is_empty() {
            note("", "no sessions; `sidestream new DIRECTORY` makes one");
        }
        print(&out)?;
        Ok(0)
    }

    fn new_session(&self, directory: &str, fields: &[(&'static str, String)]) -> Outcome {
        let path = std::path::absolute(directory).unwrap_or_else(|_| directory.into());
        let mut body = json!({"workingDir": path.to_string_lossy()});
        for (name, value) in fields {
            body[*name] = json!(value);
        }
        let answer = self.post("/api/sessions", &body)?;
        match self.json {
            true => print_json(&json::text(&answer["session"]))?,
            false => {
                let id = answer["sessionId"].as_str().unwrap_or_default();
                print(&format!("{}\n", visible::lined(id)))?;
            }
        }
        Ok(0)
    }

    /// Sends a prompt under a name of our own: tried again, it runs once.
    fn prompt(&self, session: &str, words: &str, wait: bool, interrupt: bool) -> Outcome {
        let id = format!("cli-{:016x}", follow::random());
        let when = if interrupt { "interrupt" } else { "queue" };
        let body = json!({"command": words, "promptId": id, "when": when});
        let path = format!("/api/session/{}/prompt", escaped(session));
        let answer = self.insist(&path, &body)?;
        if !wait {
            match self.json {
                true => print_json(&json::text(&answer))?,
                false => print(&format!("{id}\n"))?,
            }
            return Ok(0);
        }
        let after = answer["lastEventId"].as_str().unwrap_or_default().to_owned();
        let path = format!("/api/session/{}/events", escaped(session));
        let start = Start { path, after, heartbeat_ms: self.heartbeat_ms, patient: true };
        let mut waiting = Waiting {
            id,
            json: self.json,
            screen: Screen::new(self.colour, false),
            notes: Screen::new(colour(io::stderr().is_terminal()), false),
            lost: false,
            end: None,
        };
        follow::follow(&self.client, start, &mut |news| match waiting.take(news) {
            Ok(then) => then,
            Err(stop) => {
                waiting.end = Some(Err(stop));
                Then::Stop
            }
        })?;
        waiting.end.unwrap_or(Ok(1))
    }

    /// Posts what may be posted twice, until there is an answer.
    fn insist(&self, path: &str, body: &Value) -> Result<Value, Failure> {
        let start = Instant::now();
        let mut sent = false;
        loop {
            let failure = match self.post(path, body) {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            let passing = match &failure {
                Failure::Broken(_) => true,
                Failure::Unreachable(_) => sent,
                Failure::Refused { code, .. } => code == "draining",
            };
            if !passing || start.elapsed() > RETRY_FOR {
                return Err(failure);
            }
            sent = true;
            note("-- ", "no answer, asking again");
            std::thread::sleep(Duration::from_secs(1));
        }
    }

    fn tail(
        &self,
        session: Option<&str>,
        past: Past,
        after: Option<String>,
        types: Option<String>,
    ) -> Outcome {
        let mut query: Vec<String> = Vec::new();
        match past {
            Past::Recent => {}
            Past::None => query.push("replay=none".into()),
            Past::All => query.push("replay=all".into()),
        }
        query.extend(types.map(|types| format!("types={}", escaped(&types))));
        let mut path = match session {
            Some(session) => format!("/api/session/{}/events", escaped(session)),
            None => "/api/events".to_owned(),
        };
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let (after, heartbeat_ms) = (after.unwrap_or_default(), self.heartbeat_ms);
        let start = Start { path, after, heartbeat_ms, patient: false };
        let mut screen = Screen::new(self.colour, session.is_none());
        let (mut stop, mut heard) = (None, false);
        let followed = follow::follow(&self.client, start, &mut |news| {
            let (message, data) = match news {
                News::Event(message, data) => (message, data),
                News::Notice(notice) => {
                    note("-- ", &notice);
                    return Then::Go;
                }
            };
            heard = true;
            let printed = if self.json {
                match NAMES.contains(&&*message.event) {
                    true => print_event(&message),
                    false => Ok(()),
                }
            } else {
                let mut out = String::new();
                screen.event(&mut out, &message.event, &data);
                if out.is_empty() { Ok(()) } else { print(&out) }
            };
            if let Err(unheard) = printed {
                stop = Some(unheard);
                return Then::Stop;
            }
            match session.is_some() && message.event == "session-closed" {
                true => Then::Stop,
                false => Then::Go,
            }
        });
        if let Some(stop) = stop {
            return Err(stop);
        }
        match followed {
            Err(Failure::Refused { status: 404, .. }) if heard => {
                note("-- ", "the session is closed");
                Ok(0)
            }
            followed => Ok(followed.map(|()| 0)?),
        }
    }

    fn approvals(&self, session: Option<String>) -> Outcome {
        let sessions = match session {
            Some(session) => vec![self.resolve(&session)?],
            None => {
                let id = |row: &Value| row["sessionId"].as_str().map(str::to_owned);
                self.rows("&status=waiting")?.iter().filter_map(id).collect()
            }
        };
        let mut screen = Screen::new(self.colour, false);
        let mut count = 0;
        for session in &sessions {
            for asked in self.open(session)? {
                count += 1;
                if self.json {
                    let id = json::text(&json!(session));
                    print_json(&format!("{{\"sessionId\":{id},\"approval\":{}}}", asked.raw))?;
                    continue;
                }
                let mut out = String::new();
                screen::approval(&mut screen, &mut out, &asked.value);
                let (id, hash) = (asked.text("approvalId"), asked.text("inputHash"));
                let how = format!("sidestream approve {session} {id} allow|deny --hash {hash}");
                screen.line(&mut out, Style::Dim, "  ", &how);
                print(&out)?;
            }
        }
        if count == 0 && !self.json {
            note("", "nothing waits for an answer");
        }
        Ok(0)
    }

    /// What a session asks, each with an input that is what its hash says.
    fn open(&self, session: &str) -> Result<Vec<Asked>, Stop> {
        let path = format!("/api/session/{}/approvals", escaped(session));
        let broken = || Stop::Failed("the list of approvals is not what it should be".into());
        let mut open: Vec<Asked> = Vec::new();
        loop {
            let after =
                open.last().map(|last| format!("?after={}", escaped(last.text("approvalId"))));
            let page = format!("{path}{}", after.unwrap_or_default());
            let bytes = self.bytes(&page)?;
            let list: List<'_> = document::read_bytes(&bytes).map_err(|_| broken())?;
            let before = open.len();
            for raw in &list.approvals {
                let asked = self.asked(&path, raw).map_err(|stop| stop.unwrap_or_else(broken))?;
                let is_new = |it: &Asked| it.text("approvalId") != asked.text("approvalId");
                if open.iter().all(is_new) {
                    open.push(asked);
                }
            }
            if !list.more || open.len() == before {
                return Ok(open);
            }
        }
    }

    /// One approval of the list; of one that is too large for it, with its input. `Err(None)`: it is
    /// not what it should be.
    fn asked(&self, path: &str, raw: &RawValue) -> Result<Asked, Option<Stop>> {
        let asked: Input<'_> = document::read(raw.get()).map_err(|_| None)?;
        let mut value: Value = serde_json::from_str(raw.get()).map_err(|_| None)?;
        let mut raw = raw.get().to_owned();
        let mut hash = asked.input.map(|input| input_hash(input.get()));
        if hash.is_none() {
            let id = value["approvalId"].as_str().unwrap_or_default();
            let bytes = self.bytes(&format!("{path}/{}/input", escaped(id))).map_err(Some)?;
            let input = std::str::from_utf8(&bytes).map_err(|_| None)?;
            hash = Some(input_hash(input));
            value["input"] = serde_json::from_str(input).map_err(|_| None)?;
            raw = json::text(&value);
        }
        if value["inputHash"].as_str() != hash.as_deref() {
            let sentence = "the hash of an approval is not that of its input: somebody \
                on the way changes answers";
            return Err(Some(Stop::Failed(sentence.into())));
        }
        Ok(Asked { raw, value })
    }

    fn bytes(&self, path: &str) -> Result<Vec<u8>, Stop> {
        let request = Request { method: "GET", path, ..Request::default() };
        Ok(self.client.whole(request)?.1)
    }

    fn answer(&self, answer: &Answer) -> Outcome {
        let session = self.resolve(&answer.session)?;
        let open = self.open(&session)?;
        let mut meant = open.iter().filter(|it| it.text("approvalId").contains(&answer.approval));
        let (asked, other) = (meant.next(), meant.next());
        let asked = match (asked, other) {
            (Some(asked), None) => asked,
            (None, _) => {
                let sentence = format!("no approval `{}` is open", answer.approval);
                return Err(Stop::Failed(sentence));
            }
            (Some(_), Some(_)) => {
                let sentence = format!("`{}` is in several approvals' ids", answer.approval);
                return Err(Stop::Failed(sentence));
            }
        };
        let hash = asked.text("inputHash");
        if let Some(given) = &answer.hash
            && (given.len() < HASH_DIGITS_MIN || !hash.starts_with(&given.to_ascii_lowercase()))
        {
            let sentence = format!("the input is another one than you saw: its hash is {hash}");
            return Err(Stop::Failed(sentence));
        }
        let mut body = json!({"inputHash": hash});
        body["decision"] = json!(if answer.allow { "allow" } else { "deny" });
        if let Some(message) = &answer.message {
            body["message"] = json!(message);
        }
        if !answer.answers.is_empty() {
            body["answers"] = answers(&asked.value, &answer.answers)?;
        }
        let id = asked.text("approvalId");
        let path = format!("/api/session/{}/approvals/{}", escaped(&session), escaped(id));
        let told = self.post(&path, &body)?;
        if self.json {
            print_json(&json::text(&told))?;
            return Ok(0);
        }
        let mut screen = Screen::new(self.colour, false);
        let mut out = String::new();
        screen::approval(&mut screen, &mut out, &asked.value);
        let decision = told["decision"].as_str().unwrap_or_default();
        screen.line(&mut out, Style::Bold, "  ", &format!("answered: {decision}"));
        print(&out)?;
        Ok(0)
    }
}

/// The answers by question, in the order of the questions.
fn answers(asked: &Value, answers: &[String]) -> Result<Value, Stop> {
    let questions: Vec<&str> = asked["input"]["questions"]
        .as_array()
        .map(|list| list.iter().filter_map(|one| one["question"].as_str()).collect())
        .unwrap_or_default();
    if questions.len() != answers.len() {
        let (has, given) = (questions.len(), answers.len());
        let sentence = format!("it asks {has} questions, and there are {given} --answer");
        return Err(Stop::Failed(sentence));
    }
    let pairs = questions.into_iter().zip(answers);
    Ok(pairs.map(|(question, answer)| (question.to_owned(), json!(answer))).collect())
}

/// The list of approvals, each to the letter.
#[derive(serde::Deserialize)]
struct List<'a> {
    #[serde(borrow)]
    approvals: Vec<&'a RawValue>,
    /// There are more behind these.
    #[serde(default)]
    more: bool,
}

#[derive(serde::Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    input: Option<&'a RawValue>,
}

/// One approval.
struct Asked {
    raw: String,
    value: Value,
}

impl Asked {
    fn text(&self, name: &str) -> &str {
        self.value[name].as_str().unwrap_or_default()
    }
}

/// A prompt whose end is waited for.
struct Waiting {
    id: String,
    json: bool,
    screen: Screen,
    notes: Screen,
    /// The server could not tell everything since the prompt, and it does not run any more.
    lost: bool,
    end: Option<Outcome>,
}

impl Waiting {
    fn take(&mut self, news: News) -> Result<Then, Stop> {
        let (message, data) = match news {
            News::Event(message, data) => (message, data),
            News::Notice(notice) => {
                note("-- ", &notice);
                return Ok(Then::Go);
            }
        };
        let name = &*message.event;
        match name {
            "connected" => {
                let rests =
                    matches!(data["status"].as_str(), Some("idle" | "suspended" | "failed"));
                self.lost = data["resume"] == "gap" && rests && data["queue"] == 0;
            }
            "replay-complete" if self.lost => {
                return Err(Stop::Failed(
                    "the prompt's end is among the events that are gone".into(),
                ));
            }
            "session-closed" => {
                return Err(Stop::Failed("the session was closed before the turn ended".into()));
            }
            _ => {}
        }
        if data["promptId"] != *self.id || !NAMES.contains(&name) {
            return Ok(Then::Go);
        }
        let ends = matches!(name, "prompt-completed" | "prompt-failed" | "prompt-cancelled");
        if self.json {
            print_event(&message)?;
        } else {
            self.show(name, &data)?;
        }
        if !ends {
            return Ok(Then::Go);
        }
        let well =
            name == "prompt-completed" && data["isError"] == false && data["interrupted"] == false;
        self.end = Some(Ok(u8::from(!well)));
        Ok(Then::Stop)
    }

    /// The answer's words to standard output, everything else to standard error.
    fn show(&mut self, name: &str, data: &Value) -> Result<(), Stop> {
        let answer = match name {
            "session-output" => data["type"] == "stdout",
            "message-block" => data["kind"] == "text" && !data["parentToolUseId"].is_string(),
            _ => false,
        };
        let mut out = String::new();
        if answer {
            self.screen.event(&mut out, name, data);
            return print(&out);
        }
        if name == "prompt-queued" {
            return Ok(());
        }
        self.screen.break_line(&mut out); // What comes on the same terminal begins a line.
        print(&out)?;
        out.clear();
        self.notes.event(&mut out, name, data);
        self.notes.break_line(&mut out);
        let _ = io::stderr().write_all(out.as_bytes()); // Nobody listens, nobody to tell.
        Ok(())
    }
}

fn from_stdin() -> Result<String, Stop> {
    let mut text = String::new();
    let failed = |error: io::Error| Stop::Failed(format!("the prompt cannot be read: {error}"));
    io::stdin().lock().read_to_string(&mut text).map_err(failed)?;
    let text = text.trim_end_matches(['\n', '\r']);
    match text.is_empty() {
        true => Err(Stop::Failed("there is no prompt on standard input".into())),
        false => Ok(text.to_owned()),
    }
}

/// A time as one number and its unit.
fn age(ms: u64) -> String {
    let s = ms / 1000;
    match s {
        0..=119 => format!("{s}s"),
        120..=7199 => format!("{}m", s / 60),
        7200..=172_799 => format!("{}h", s / 3600),
        _ => format!("{}d", s / 86_400),
    }
}
