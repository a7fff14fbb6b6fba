//! An SSE reader that believes nothing: it has its own socket, and any byte that does not fit the
//! documented frame is a failed test (`id`, `event`, `data`, `retry` lines and comments only, LF
//! only, one line of JSON, ids ASCII and rising, an end only between frames).

use super::{Connection, PATIENCE, Response, http};
use serde_json::Value;
use std::io::{ErrorKind, Read};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

/// Frames that are told to one client and are not events of the log.
const NOT_EVENTS: [&str; 5] =
    ["connected", "replay-complete", "heartbeat", "server-busy", "server-shutdown"];

/// One frame.
#[derive(Debug, Clone)]
pub struct Event {
    /// Its `id:` line, if it had one.
    pub id: Option<String>,
    /// Its `event:` line.
    pub name: String,
    /// Its `retry:` line, in milliseconds.
    pub retry: Option<u64>,
    /// Its `data:` line.
    pub data: Value,
    /// The frame as it stood on the wire.
    pub bytes: Vec<u8>,
}

impl Event {
    /// A member of the data as text; "" where it is absent or no text.
    pub fn text(&self, member: &str) -> &str {
        self.data[member].as_str().unwrap_or("")
    }

    /// Whether this is an event of the log, with an id of its own.
    pub fn is_logged(&self) -> bool {
        !NOT_EVENTS.contains(&self.name.as_str())
    }
}

/// What [`Reader::next_within`] found.
#[derive(Debug)]
pub enum Next {
    /// A whole frame.
    Event(Event),
    /// The server ended the stream, at a frame boundary.
    End,
    /// The connection was reset, or ended within a frame.
    Cut,
    /// Nothing yet.
    Silence,
}

/// One stream.
pub struct Reader {
    stream: TcpStream,
    pending: Vec<u8>,
    ended: Option<bool>,
    /// The answer's head.
    pub head: Response,
    /// Every frame so far.
    pub seen: Vec<Event>,
    /// The cursor a browser would send.
    pub last_id: Option<String>,
}

impl Reader {
    /// Opens a stream, which must be answered with 200.
    #[track_caller]
    pub fn open(address: SocketAddr, path: &str, headers: &[(&str, &str)]) -> Reader {
        let mut all = vec![("Accept", "text/event-stream")];
        all.extend_from_slice(headers);
        let mut connection = Connection::open(address);
        connection.send(http::encode(address, "GET", path, &all, b""));
        let head = connection.head();
        if head.status != 200 {
            panic!("{path}: {head}{}", String::from_utf8_lossy(&connection.rest()));
        }
        let (stream, pending) = connection.into_parts();
        Reader { stream, pending, ended: None, head, seen: Vec::new(), last_id: None }
    }

    /// The next frame, within [`PATIENCE`]; an end or silence is a failure.
    #[track_caller]
    pub fn next(&mut self) -> Event {
        match self.next_within(PATIENCE) {
            Next::Event(event) => event,
            other => panic!("instead of a frame: {other:?}; seen: {}", self.story()),
        }
    }

    /// The next frame, the end, or silence for that long.
    #[track_caller]
    pub fn next_within(&mut self, patience: Duration) -> Next {
        let deadline = Instant::now() + patience;
        loop {
            if let Some(end) = memchr::memmem::find(&self.pending, b"\n\n") {
                let frame: Vec<u8> = self.pending.drain(..end + 2).collect();
                if let Some(event) = self.accept(frame) {
                    return Next::Event(event);
                }
                continue; // An opening comment.
            }
            if let Some(clean) = self.ended {
                return if clean && self.pending.is_empty() { Next::End } else { Next::Cut };
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Next::Silence;
            }
            self.fill(left);
        }
    }

    /// Reads on until an event fits, and returns it. Everything on the way is in `seen`.
    #[track_caller]
    pub fn until(&mut self, what: &str, mut fits: impl FnMut(&Event) -> bool) -> Event {
        let start = Instant::now();
        loop {
            match self.next_within(PATIENCE.saturating_sub(start.elapsed())) {
                Next::Event(event) if fits(&event) => return event,
                Next::Event(_) => {}
                other => panic!("no {what}: {other:?}; seen: {}", self.story()),
            }
        }
    }

    /// Reads on until a frame of this name.
    #[track_caller]
    pub fn until_name(&mut self, name: &str) -> Event {
        self.until(name, |event| event.name == name)
    }

    /// Reads `connected`, the replay and `replay-complete`; returns `connected`. Checks their order.
    #[track_caller]
    pub fn joined(&mut self) -> Event {
        let connected = self.next();
        assert_eq!(connected.name, "connected", "the first frame");
        let complete = self.until_name("replay-complete");
        let replayed = self.seen.iter().filter(|event| event.is_logged()).count();
        assert_eq!(complete.data["count"], replayed as u64, "replay-complete counts the replay");
        connected
    }

    /// Reads on to the end of this prompt's turn and returns the event that ends it.
    #[track_caller]
    pub fn turn_end(&mut self, prompt: &str) -> Event {
        if let Some(event) = self.seen.iter().find(|event| ends(event, prompt)) {
            return event.clone();
        }
        self.until(&format!("end of prompt {prompt}"), |event| ends(event, prompt))
    }

    /// Reads on until the turn ends, which must be well; returns its text.
    #[track_caller]
    pub fn answer(&mut self, prompt: &str) -> String {
        let end = self.turn_end(prompt);
        assert_eq!(end.name, "prompt-completed", "{}", end.data);
        assert_eq!(end.data["isError"], false, "{}", end.data);
        self.output(prompt, "stdout")
    }

    /// The text of this prompt's `session-output` events of one type, joined.
    pub fn output(&self, prompt: &str, kind: &str) -> String {
        self.seen
            .iter()
            .filter(|event| event.name == "session-output" && event.text("promptId") == prompt)
            .filter(|event| event.text("type") == kind)
            .map(|event| event.text("content"))
            .collect()
    }

    /// Reads to the end, which must stand between two frames; returns the frames on the way.
    #[track_caller]
    pub fn until_end(&mut self) -> Vec<Event> {
        let start = self.seen.len();
        loop {
            match self.next_within(PATIENCE) {
                Next::Event(_) => {}
                Next::End => return self.seen[start..].to_vec(),
                other => panic!("no clean end: {other:?}; seen: {}", self.story()),
            }
        }
    }

    /// How often each name was seen so far.
    pub fn count(&self, name: &str) -> usize {
        self.seen.iter().filter(|event| event.name == name).count()
    }

    /// The ids of the logged events so far.
    pub fn ids(&self) -> Vec<String> {
        self.seen.iter().filter(|e| e.is_logged()).filter_map(|event| event.id.clone()).collect()
    }

    /// The socket, for tests that misuse it.
    pub fn socket(&self) -> &TcpStream {
        &self.stream
    }

    /// A short telling of all frames, for messages.
    pub fn story(&self) -> String {
        let mut lines: Vec<String> = Vec::new();
        for event in self.seen.iter().rev().take(40).rev() {
            let text = event.data.to_string();
            let short: String = text.chars().take(300).collect();
            lines.push(format!("{} {} {short}", event.id.as_deref().unwrap_or("-"), event.name));
        }
        format!("\n  {}\n", lines.join("\n  "))
    }

    fn fill(&mut self, patience: Duration) {
        // Zero would mean "for ever" to the socket.
        self.stream.set_read_timeout(Some(patience.max(Duration::from_millis(1)))).unwrap();
        let mut buffer = [0; 65536];
        match self.stream.read(&mut buffer) {
            Ok(0) => self.ended = Some(true),
            Ok(count) => self.pending.extend_from_slice(&buffer[..count]),
            Err(error) => match error.kind() {
                ErrorKind::WouldBlock | ErrorKind::TimedOut | ErrorKind::Interrupted => {}
                _ => self.ended = Some(false),
            },
        }
    }

    #[track_caller]
    fn accept(&mut self, frame: Vec<u8>) -> Option<Event> {
        let event = parse_frame(frame)?;
        if event.is_logged() {
            check_logged(&event, self.seen.iter().rev().find(|event| event.is_logged()));
        }
        if let Some(id) = &event.id {
            self.last_id = Some(id.clone());
        }
        self.seen.push(event.clone());
        Some(event)
    }
}

fn ends(event: &Event, prompt: &str) -> bool {
    matches!(event.name.as_str(), "prompt-completed" | "prompt-failed" | "prompt-cancelled")
        && event.text("promptId") == prompt
}

/// Parses one frame, blank line included; None for a comment. Panics on anything malformed.
#[track_caller]
pub fn parse_frame(bytes: Vec<u8>) -> Option<Event> {
    let text = String::from_utf8(bytes.clone())
        .unwrap_or_else(|_| panic!("not UTF-8: {:?}", String::from_utf8_lossy(&bytes)));
    assert!(!text.contains('\r'), "a CR in {text:?}");
    assert!(!text.contains('\u{feff}'), "a BOM in {text:?}");
    let body = text.strip_suffix("\n\n").expect("a frame ends with a blank line");
    let fields: Vec<&str> = body.split('\n').filter(|line| !line.starts_with(':')).collect();
    if fields.is_empty() {
        return None;
    }
    let (mut id, mut name, mut retry, mut data) = (None, None, None, None);
    for line in fields {
        let (field, value) =
            line.split_once(": ").unwrap_or_else(|| panic!("line {line:?} in {text:?}"));
        let slot = match field {
            "id" => &mut id,
            "event" => &mut name,
            "retry" => &mut retry,
            "data" => &mut data,
            _ => panic!("unknown field in {text:?}"),
        };
        assert!(slot.replace(value.to_string()).is_none(), "{field} stands twice in {text:?}");
    }
    if let Some(id) = &id {
        let good = |c: char| c.is_ascii_alphanumeric() || c == '.' || c == '-';
        assert!(!id.is_empty() && id.len() <= 64 && id.chars().all(good), "id {id:?}");
    }
    let data = data.unwrap_or_else(|| panic!("no data in {text:?}"));
    Some(Event {
        id,
        name: name.unwrap_or_else(|| panic!("no event name in {text:?}")),
        retry: retry.map(|text| text.parse().expect("retry is a number")),
        data: serde_json::from_str(&data).unwrap_or_else(|error| panic!("{error} in {data:?}")),
        bytes,
    })
}

/// The promises of every logged event: an id that rises, and the three common members.
#[track_caller]
fn check_logged(event: &Event, before: Option<&Event>) {
    let id = event.id.as_deref().unwrap_or_else(|| panic!("{} has no id", event.name));
    assert_eq!(event.data["_eventType"], event.name.as_str(), "{}", event.data);
    assert!(event.data["sessionId"].is_string(), "no sessionId: {}", event.data);
    let timestamp = event.data["timestamp"].as_u64().expect("timestamp is a number");
    assert!(timestamp > 1_600_000_000_000, "timestamp is milliseconds since 1970: {timestamp}");
    let Some(before) = before.and_then(|event| event.id.as_deref()) else { return };
    let split = |id: &str| {
        let (epoch, seq) = id.rsplit_once('-').expect("an id is EPOCH-SEQ");
        (epoch.to_string(), seq.parse::<u64>().expect("seq is a number"))
    };
    let ((epoch, seq), (epoch_before, seq_before)) = (split(id), split(before));
    assert!(epoch != epoch_before || seq > seq_before, "{id} came after {before}");
}
