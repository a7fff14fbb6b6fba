//! What a strict client holds against the server: the answers that came on one connection, beside the
//! requests that went there. One well-formed answer to each request, in order, of the length that it
//! says; nothing behind the last one; a stream in whole frames whose numbers rise. It does not know
//! what the answers should say.

use sidestream::wire::body::BodyDecoder;
use sidestream::wire::head::{self, Framing, HeadLimits, Method};
use sidestream::wire::sse::EventId;

/// Both directions of one connection, so far.
#[derive(Debug, Default)]
pub struct Talk {
    pub asked: Vec<u8>,
    pub answered: Vec<u8>,
}

/// A request as a client knows it.
struct Request {
    method: Method,
    /// It was sent to its end.
    is_whole: bool,
    /// The client waits for leave to send its body.
    waits: bool,
}

/// The head of an answer.
struct Answer {
    status: u16,
    length: Option<usize>,
    closes: bool,
    is_stream: bool,
}

impl Talk {
    /// Whether everything that was answered stands. `ended`: the server has ended the connection,
    /// everything that it had to say being said.
    ///
    /// # Panics
    /// If it does not.
    pub fn judge(&self, ended: bool, limits: &HeadLimits, body_size_max: u64) {
        let requests = requests(&self.asked, limits, body_size_max);
        let (mut rest, mut count) = (&self.answered[..], 0);
        while !rest.is_empty() {
            let Some(end) = rest.windows(4).position(|four| four == b"\r\n\r\n") else {
                assert!(!ended, "the end cuts a head: {}", rest.escape_ascii());
                return;
            };
            let answer = read(&rest[..end]);
            rest = &rest[end + 4..];
            // One too many: what came was no request, or came too late.
            let request = requests.get(count);
            if answer.status == 100 {
                assert!(request.is_some_and(|request| request.waits), "nobody waits to go on");
                continue;
            }
            let is_refused = answer.status >= 400 && answer.closes;
            assert!(count <= requests.len(), "more answers than requests");
            assert!(
                request.is_some_and(|request| request.is_whole) || is_refused,
                "{} to what is no whole request, and the connection goes on",
                answer.status
            );
            count += 1;
            let method = request.map_or(Method::Get, |request| request.method);
            if answer.is_stream && method == Method::Get {
                assert!(
                    answer.closes && answer.length.is_none(),
                    "a stream ends with its connection"
                );
                return judge_frames(rest, ended);
            }
            let is_bare = method == Method::Head || matches!(answer.status, 204 | 304);
            let length = match answer.length {
                _ if is_bare => 0,
                Some(length) => length,
                None => panic!("{} without a length", answer.status),
            };
            if rest.len() < length {
                assert!(!ended, "the end cuts a body");
                return;
            }
            rest = &rest[length..];
            assert!(
                !answer.closes || rest.is_empty(),
                "more after the last: {}",
                rest.escape_ascii()
            );
        }
    }
}

/// The requests in what a client sent, up to the first that is none.
fn requests(mut input: &[u8], limits: &HeadLimits, body_size_max: u64) -> Vec<Request> {
    let mut requests = Vec::new();
    while let Ok(Some(head)) = head::parse(input, &mut 0, limits) {
        let (method, waits) = (head.method, head.expect_continue);
        input = &input[head.length..];
        let decoded = match head.framing {
            Framing::None => Ok((0, true)),
            framing => BodyDecoder::new(framing, body_size_max).and_then(|mut decoder| {
                decoder
                    .decode(input, &mut Vec::new())
                    .map(|decoded| (decoded.consumed, decoded.done))
            }),
        };
        let Ok((size, is_whole)) = decoded else {
            requests.push(Request { method, is_whole: false, waits });
            break;
        };
        requests.push(Request { method, is_whole, waits });
        if !is_whole {
            break;
        }
        input = &input[size..];
    }
    requests
}

/// Reads the head of an answer, by RFC 9112 §4 and §5 and nothing else.
fn read(head: &[u8]) -> Answer {
    let head = str::from_utf8(head).expect("a head of ours is ASCII");
    let mut lines = head.split("\r\n");
    let status =
        lines.next().and_then(|line| line.strip_prefix("HTTP/1.1 ")).expect("a status line");
    let (status, reason) = status.split_once(' ').expect("a status and its reason");
    assert!(status.len() == 3 && !reason.is_empty(), "{status:?} {reason:?}");
    let status = status.parse().expect("a status is a number");
    let mut answer = Answer { status, length: None, closes: false, is_stream: false };
    for line in lines {
        let (name, value) = line.split_once(": ").expect("a field");
        let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-';
        assert!(!name.is_empty() && name.chars().all(is_plain), "{line:?}");
        assert!(value.chars().all(|c| (' '..='~').contains(&c)), "{line:?}");
        match &*name.to_ascii_lowercase() {
            "content-length" => {
                let length = value.parse().expect("a length is a number");
                assert!(answer.length.replace(length).is_none(), "two lengths");
            }
            "transfer-encoding" => panic!("we never send one"),
            "connection" => answer.closes = value == "close",
            "content-type" => answer.is_stream = value.starts_with("text/event-stream"),
            _ => {}
        }
    }
    answer
}

/// Whole frames only, and ids that never fall.
fn judge_frames(stream: &[u8], ended: bool) {
    let text = str::from_utf8(stream)
        .unwrap_or_else(|error| str::from_utf8(&stream[..error.valid_up_to()]).unwrap_or_default());
    let mut blocks: Vec<&str> = text.split("\n\n").collect();
    let rest = blocks.pop().unwrap_or_default();
    assert!(
        !ended || (rest.is_empty() && text.len() == stream.len()),
        "the end cuts a frame: {rest}"
    );
    let mut last = 0;
    for block in blocks {
        for line in block.split('\n').filter(|line| !line.starts_with(':')) {
            let (field, value) = line.split_once(": ").expect("a field");
            match field {
                "id" => {
                    let id = EventId::parse(value.as_bytes()).expect("an id of ours");
                    assert!(id.seq >= last, "ids fall: {} after {last}", id.seq);
                    last = id.seq;
                }
                "event" => assert!(!value.is_empty()),
                "data" => {
                    serde_json::from_str::<&serde_json::value::RawValue>(value).expect("JSON");
                }
                "retry" => assert!(value.bytes().all(|byte| byte.is_ascii_digit())),
                other => panic!("a field {other:?}"),
            }
        }
    }
}
