//! Fake clients: what one end of a connection holds, and strict readers of what comes back.

use memchr::memmem;
use serde_json::Value;
use sidestream::base::arena::Key;
use std::collections::VecDeque;

/// What a request was for, so that its answer can be judged.
#[derive(Clone, Debug)]
pub enum What {
    Create,
    Prompt {
        session: usize,
        repeat: bool,
    },
    Approval {
        session: usize,
        approval: String,
        allow: bool,
    },
    Delete,
    Metrics,
    Plain,
    /// A page of a session's past.
    History {
        session: usize,
        limit: Option<usize>,
        types: Option<&'static str>,
    },
    /// One event, or its large field.
    Event {
        session: usize,
        seq: u64,
    },
    Poll {
        session: Option<usize>,
        after: u64,
        types: Option<&'static str>,
    },
    /// Not a request, or one that is refused: the connection may end with the answer.
    Bad,
    Stream(Ask),
}

/// What a stream was asked for.
#[derive(Clone, Debug)]
pub struct Ask {
    pub follower: usize,
    pub cursor: Option<String>,
    /// The cursor was one of the server's when it was sent: not above what was visible then.
    pub issued: bool,
    pub replay: &'static str,
    pub pad: usize,
}

/// Who is at the far end of a connection.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Whose {
    #[default]
    Human,
    Agent,
    /// It has gone before that could be told.
    Nobody,
}

/// An answer that is owed.
#[derive(Clone, Debug)]
pub struct Expect {
    /// It lacks the right to that: no token, a wrong one, or one that does not reach so far.
    pub refused: Option<u16>,
    /// It would change something.
    pub changes: bool,
    pub id: String,
    pub what: What,
    pub head: bool,
    /// The length of the request; once sent, where it ends among the bytes of its connection.
    pub end: usize,
}

/// A stream as its reader sees it.
pub struct Stream {
    pub ask: Ask,
    pub connected: bool,
    pub replaying: bool,
    /// Everything wanted up to here was delivered.
    pub position: u64,
    /// Another place where the stream may begin, as long as nothing was delivered.
    pub other: Option<u64>,
    pub count: u64,
    /// Where it begins is known with its first event.
    pub is_loose: bool,
    /// Sessions that it asked for and that it was told are none.
    pub unknown: Vec<usize>,
    /// The server said that this is the end.
    pub over: bool,
    /// It was told of a gap, or asked for what is left: up to this number it goes on behind holes that
    /// are not told yet.
    pub jumps_to: u64,
    /// When it was begun: what was gone by then is not owed.
    pub joined_at: u64,
}

/// Somebody who reads events, over many connections.
pub struct Follower {
    pub session: Option<usize>,
    pub owners: Option<Vec<usize>>,
    pub types: Option<&'static str>,
    pub compact: bool,
    pub cursor: Option<String>,
    pub connection: Option<u64>,
}

impl Follower {
    /// Somebody who reads all of a log.
    pub fn new(session: Option<usize>) -> Follower {
        let (owners, types, cursor, connection) = (None, None, None, None);
        Follower { session, owners, types, compact: false, cursor, connection }
    }

    pub fn wants(&self, session: usize, name: &str) -> bool {
        if self.owners.as_ref().is_some_and(|owners| !owners.contains(&session)) {
            return false;
        }
        let Some(types) = self.types else { return true };
        let mut positive = types.split(',').filter(|name| !name.starts_with('-')).peekable();
        let taken = positive.peek().is_none() || positive.any(|wanted| wanted == name);
        taken && !types.split(',').any(|one| one.strip_prefix('-') == Some(name))
    }
}

/// Why the server closed a connection, as far as the kernel can see it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Cut {
    /// Its deadline for writing had passed.
    pub stalled: bool,
    /// When it was its turn to be written to.
    pub in_flush: bool,
    /// What its log had forgotten by then.
    pub evicted: u64,
    /// The server was gone.
    pub crashed: bool,
}

/// One connection: both ends and the kernel between them.
pub struct Connection {
    pub id: u64,
    /// Its key in the server, while it is open there.
    pub key: Option<Key>,
    /// It was accepted once.
    pub accepted: bool,
    // From the client to the server.
    pub script: VecDeque<u8>,
    pub plan: VecDeque<(Vec<u8>, Expect)>,
    pub chunk: usize,
    pub inbox: VecDeque<u8>,
    pub sent: usize,
    pub read: usize,
    /// How much of it the server had read when it said that it came too late.
    pub late_at: usize,
    pub ends_input: bool,
    pub input_ended: bool,
    pub input_end_told: bool,
    // What the reactor keeps.
    pub readable: bool,
    pub queued: bool,
    pub writable: bool,
    /// It was full when it was last written to.
    pub blocked: bool,
    /// When it last took something.
    pub progress_at: u64,
    // From the server to the client.
    pub kernel: VecDeque<u8>,
    pub capacity: usize,
    pub pace: usize,
    pub stalled: bool,
    pub output_ended: bool,
    pub cut: Option<Cut>,
    // The client's end.
    pub buffer: Vec<u8>,
    pub expects: VecDeque<Expect>,
    pub answered: Vec<String>,
    pub closing: bool,
    pub stream: Option<Stream>,
    pub poked: bool,
    pub lingers: bool,
    pub done: bool,
    pub whose: Whose,
    /// There were agents already when the server began to read from it.
    pub had_agents: Option<bool>,
    /// The first step in which it was sent something.
    pub joined_at: u64,
    /// It is of a start that is over.
    pub stale: bool,
    /// What it read of a journal could not be read.
    pub spoilt: bool,
}

impl Connection {
    pub fn new(id: u64, plan: VecDeque<(Vec<u8>, Expect)>) -> Connection {
        Connection {
            id,
            key: None,
            accepted: false,
            script: VecDeque::new(),
            plan,
            chunk: usize::MAX,
            inbox: VecDeque::new(),
            sent: 0,
            read: 0,
            late_at: 0,
            ends_input: false,
            input_ended: false,
            input_end_told: false,
            readable: false,
            queued: false,
            writable: false,
            blocked: false,
            progress_at: 0,
            kernel: VecDeque::new(),
            capacity: 64 * 1024,
            pace: usize::MAX,
            stalled: false,
            output_ended: false,
            cut: None,
            buffer: Vec::new(),
            expects: VecDeque::new(),
            answered: Vec::new(),
            closing: false,
            stream: None,
            poked: false,
            lingers: false,
            done: false,
            whose: Whose::Human,
            had_agents: None,
            joined_at: u64::MAX,
            stale: false,
            spoilt: false,
        }
    }

    /// Sends the next request of the plan.
    pub fn ask_next(&mut self) {
        let Some((bytes, mut expect)) = self.plan.pop_front() else { return };
        self.script.extend(bytes);
        expect.end = self.sent + self.script.len();
        self.expects.push_back(expect);
    }

    /// Moves some of what the client wants to send into the kernel. True: the server sees an edge.
    pub fn send(&mut self) -> bool {
        let count = self.script.len().min(self.chunk);
        pour(&mut self.script, &mut self.inbox, count);
        self.sent += count;
        let ends =
            self.ends_input && !self.input_ended && self.script.is_empty() && self.plan.is_empty();
        self.input_ended |= ends;
        count > 0 || ends
    }

    /// What its stream was asked for, if it is one or will be one.
    pub fn ask(&self) -> Option<&Ask> {
        let expected = self.expects.iter().find_map(|expect| match &expect.what {
            What::Stream(ask) => Some(ask),
            _ => None,
        });
        self.stream.as_ref().map(|stream| &stream.ask).or(expected)
    }

    pub fn room(&self) -> usize {
        self.capacity.saturating_sub(self.kernel.len())
    }
}

/// Moves that many bytes from the front of one queue to the end of something else.
pub fn pour(from: &mut VecDeque<u8>, to: &mut impl for<'a> Extend<&'a u8>, count: usize) {
    let (front, back) = from.as_slices();
    let first = count.min(front.len());
    to.extend(&front[..first]);
    to.extend(&back[..count - first]);
    from.drain(..count);
}

/// One reply, taken apart.
pub struct Reply {
    pub status: u16,
    pub fields: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Reply {
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    pub fn json(&self) -> Option<Value> {
        serde_json::from_slice(&self.body).ok()
    }
}

/// What a buffer begins with.
pub enum Parsed {
    More,
    Interim,
    Reply(Reply),
    /// The head of a stream; what follows are frames.
    Stream(Reply),
}

/// Reads a reply at the front of a buffer, as strictly as it can be read, and says how long it is.
pub fn read_reply(buffer: &[u8], is_head: bool) -> Result<(Parsed, usize), String> {
    let Some(end) = memmem::find(buffer, b"\r\n\r\n") else {
        return Ok((Parsed::More, 0));
    };
    let head = std::str::from_utf8(&buffer[..end]).map_err(|error| error.to_string())?;
    let mut lines = head.split("\r\n");
    let first = lines.next().unwrap_or_default();
    let rest = first
        .strip_prefix("HTTP/1.1 ")
        .or(first.strip_prefix("HTTP/1.0 "))
        .ok_or_else(|| format!("no status line: {first:?}"))?;
    let status: u16 = rest.get(..3).and_then(|s| s.parse().ok()).ok_or("no status")?;
    if status == 100 {
        return Ok((Parsed::Interim, end + 4));
    }
    let mut fields = Vec::new();
    for line in lines {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("no field: {line:?}"))?;
        if name.bytes().any(|byte| !byte.is_ascii_alphanumeric() && byte != b'-') {
            return Err(format!("no field name: {line:?}"));
        }
        if value.contains(['\r', '\n']) || value != value.trim() {
            return Err(format!("no field value: {line:?}"));
        }
        let name = name.to_ascii_lowercase();
        if fields.iter().any(|(known, _)| *known == name) {
            return Err(format!("twice: {line:?}"));
        }
        fields.push((name, value.to_owned()));
    }
    let reply = Reply { status, fields, body: Vec::new() };
    if reply.field("date").is_none() {
        return Err("no Date".to_owned());
    }
    let is_stream = reply.field("content-type").is_some_and(|t| t.starts_with("text/event-stream"));
    if is_stream {
        if reply.field("content-length").is_some() || reply.field("connection") != Some("close") {
            return Err("a stream has no length and closes".to_owned());
        }
        return Ok((Parsed::Stream(reply), end + 4));
    }
    let length = match reply.field("content-length") {
        Some(text) => text.parse().map_err(|_| "no length".to_owned())?,
        None if matches!(status, 204 | 304) => 0,
        None => return Err(format!("no length: {head}")),
    };
    let length: usize = if is_head || matches!(status, 204 | 304) { 0 } else { length };
    if buffer.len() < end + 4 + length {
        return Ok((Parsed::More, 0));
    }
    let body = buffer[end + 4..end + 4 + length].to_vec();
    Ok((Parsed::Reply(Reply { body, ..reply }), end + 4 + length))
}

/// One frame of a stream, taken apart.
#[derive(Debug)]
pub struct Frame {
    /// All of it, as it came.
    pub text: String,
    pub retry: bool,
    pub id: Option<String>,
    pub name: String,
    /// Of an event that everybody gets the same: nothing, the whole frame is compared.
    pub data: Value,
}

/// The frames that a stream has of its own.
pub const OWN: &[&str] =
    &["connected", "replay-complete", "heartbeat", "server-busy", "server-shutdown"];

/// Reads the next whole frame of a buffer: it is as long as its text. `None`: there is none yet.
pub fn read_frame(buffer: &[u8]) -> Result<Option<Frame>, String> {
    let Some(end) = memmem::find(buffer, b"\n\n") else { return Ok(None) };
    let text = std::str::from_utf8(&buffer[..end + 2])
        .map_err(|_| "a frame that is no text".to_owned())?
        .to_owned();
    if let Some(comment) = text.strip_prefix(':') {
        return match comment.trim_end_matches(' ') == "\n\n" || comment.trim() == "" {
            true => Ok(Some(Frame {
                text,
                retry: false,
                id: None,
                name: String::new(),
                data: Value::Null,
            })),
            false => Err(format!("a comment that says something: {text:?}")),
        };
    }
    let (mut retry, mut id, mut event, mut data) = (false, None, "", Value::Null);
    let mut stage = 0;
    for line in text[..text.len() - 2].split('\n') {
        let (name, value) = line.split_once(": ").ok_or_else(|| format!("no line: {text:?}"))?;
        // An id and a time in any order, then the event, then its data; each once.
        let order = match name {
            "retry" if !retry && stage == 0 => 0,
            "id" if id.is_none() && stage == 0 => 0,
            "event" if stage == 0 => 1,
            "data" if stage == 1 => 2,
            _ => usize::MAX,
        };
        if order == usize::MAX || value.contains('\r') {
            return Err(format!("lines out of order: {text:?}"));
        }
        stage = order;
        match name {
            "retry" => {
                value.parse::<u64>().map_err(|_| format!("no time: {text:?}"))?;
                retry = true;
            }
            "id" => id = Some(value.to_owned()),
            "event" => event = value,
            _ if OWN.contains(&event) => {
                data =
                    serde_json::from_str(value).map_err(|error| format!("{error} in {text:?}"))?;
            }
            _ => {}
        }
    }
    if event.is_empty() || OWN.contains(&event) && data["_eventType"] != event {
        return Err(format!("no event: {text:?}"));
    }
    let name = event.to_owned();
    Ok(Some(Frame { text, retry, id, name, data }))
}
