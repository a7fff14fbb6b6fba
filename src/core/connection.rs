//! One client connection: HTTP exchanges, one after the other, until it becomes a stream.
//!
//! An idle or streaming connection owns no buffer: what it needs while a request is under way
//! stands in an [`Exchange`], which goes back to a pool. Parsing happens here, meaning does not:
//! what a request asks for, and who may ask, it does not know.

use crate::base::arena::Key;
use crate::core::effect::Asker;
use crate::core::event::Filter;
use crate::core::past::Past;
use crate::limits::Limits;
use crate::wire::body::BodyDecoder;
use crate::wire::head::{self, BadRequest, Framing, Head, HeadLimits};
use crate::wire::reply;
use ::core::net::IpAddr;

/// Bytes of replies that may be pending before the next pipelined request is looked at.
const PENDING_REPLIES_SIZE: usize = 16 * 1024;
/// Buffers longer than this are given back to the allocator rather than kept for the next one.
const KEPT_BUFFER_SIZE: usize = 32 * 1024;

/// A client connection's slot. Small, because there may be very many that only listen.
pub struct Connection {
    /// What it is doing.
    pub phase: Phase,
    /// Which list its index is in.
    pub place: Place,
    /// The kernel takes nothing until it says so.
    pub blocked: bool,
    /// Who the kernel says is at the other end.
    pub peer: Peer,
    /// When the kernel last took something, or when there was last nothing to take.
    pub progress_at: u64,
    /// The client's address, where connections are counted by it.
    pub address: Option<IpAddr>,
    /// The number of the token that its request, or its stream, came with; 0: of none.
    pub token: u32,
}

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Peer {
    /// A process of this user on this machine.
    Local {
        /// Its user id.
        uid: u32,
    },
    /// A process on another machine, at this address.
    Remote {
        /// Its address, or that of the last hop to it.
        address: IpAddr,
    },
    /// The kernel does not say.
    Unknown,
}

/// Which list a connection's index is in: lists share their links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// None: it is blocked, or has nothing to say and nothing to wait for.
    Nowhere,
    /// The server's list of those with something to send.
    Pending,
    /// Its log's list of those that have everything.
    Waiting,
    /// None: it waits for a piece of a journal.
    Reading,
}

/// What a connection is doing.
pub enum Phase {
    /// Requests and replies.
    Http(Box<Exchange>),
    /// A stream, until its end.
    Stream(Reader),
    /// Its exchange is being worked on, further up the call stack.
    Taken,
}

/// A stream's reader: a position in a log, and a filter. It owns bytes only while they are its own
/// business: its head, `connected`, a heartbeat.
pub struct Reader {
    /// The session whose log it reads; none: the log of all sessions.
    pub session: Option<Key>,
    /// Up to where the log's bytes are sent.
    pub position: u64,
    /// Where the replay ends; `u64::MAX` once that has been told.
    pub replay_end: u64,
    /// How many frames the replay has.
    pub replay_count: u32,
    /// The quiet time after which it gets a heartbeat.
    pub heartbeat_ms: u32,
    /// When something was last sent.
    pub sent_at: u64,
    /// Which frames it wants.
    pub filter: Filter,
    /// Frames were passed over since the last id it was sent.
    pub passed_over: bool,
    /// At `replay_end`, which is then a frame's end, the stream is shut.
    pub shutting: bool,
    /// Close it as soon as what it owns is sent.
    pub ending: bool,
    /// Of a stream over all sessions: where it stands by number.
    pub across: Option<Box<Across>>,
    /// It is older than the ring, and reads journals.
    pub past: Option<Box<Past>>,
    /// Bytes that go out before the log's.
    pub own: Option<Box<Own>>,
}

impl Reader {
    /// Of a stream over all sessions: the numbers of those it wants, if not all.
    pub fn owners(&self) -> Option<&[u32]> {
        self.across.as_ref()?.owners.as_deref()
    }
}

/// Where a reader of all sessions stands, in a way that outlives the ring.
#[derive(Clone, Debug, Default)]
pub struct Across {
    /// The numbers of the sessions that it wants, if not all.
    pub owners: Option<Box<[u32]>>,
    /// The number of the last frame that it was sent whole,
    pub whole_seq: u64,
    /// and how much it was sent of the one behind.
    pub beyond: u32,
    /// The number up to which its replay goes.
    pub replay_seq: u64,
}

/// Bytes that are one reader's alone.
#[derive(Default)]
pub struct Own {
    /// What is to be sent.
    pub bytes: Vec<u8>,
    /// How much of it is sent.
    pub sent: usize,
}

impl Own {
    /// What is left to send.
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }
}

/// What there is to write.
#[derive(Debug, PartialEq, Eq)]
pub enum Output<'a> {
    /// Nothing now.
    Nothing,
    /// These, in order; any prefix may be taken.
    Bytes([&'a [u8]; 3]),
    /// The connection is over: close it.
    Close,
}

/// Where an exchange stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// Before a request, or in its head.
    Head,
    /// In its body.
    Body,
    /// The request is understood; the answer waits for something.
    Waiting,
    /// The reply is complete; it waits for its event to be durable.
    Held,
    /// The last reply is under way, then the connection ends.
    Ending,
    /// Everything is sent; what the client still sends is dropped, so that a reset does not
    /// overtake the reply (RFC 9112, section 9.6).
    Lingering,
}

/// What an exchange found in its input.
pub enum Step {
    /// It needs more bytes, or must get rid of some first.
    More,
    /// A whole request: [`Exchange::head`] and `body` are its.
    Request,
    /// Not a request. The connection ends with the answer.
    Bad(BadRequest),
}

/// The buffers and the state of one connection's requests.
pub struct Exchange {
    /// Bytes of the request under way and of those behind it.
    pub input: Vec<u8>,
    /// How far the end of the head was looked for.
    scanned: usize,
    head: Option<Head>,
    decoder: Option<BodyDecoder>,
    /// The body, decoded.
    pub body: Vec<u8>,
    /// Replies not yet sent.
    pub out: Vec<u8>,
    sent: usize,
    /// The rest of a page that follows `out`.
    page: &'static [u8],
    /// Where it stands.
    pub stage: Stage,
    /// Close after the replies that are pending.
    pub close: bool,
    /// The client has sent its last byte.
    pub ended: bool,
    /// The request's id: the client's, or made up.
    pub request_id: String,
    /// When the stage's time is up.
    pub due: u64,
    /// When the body must be whole: fixed when it begins, so that a dripped one gains nothing.
    pub body_due: Option<u64>,
    /// Bytes received so far, and how many they were when the body's rate was last looked at.
    pub received: u64,
    /// See `received`.
    pub received_before: u64,
    /// Replies since the client last had taken all of them.
    replies: u32,
    /// It was counted that the next request waits until they are taken.
    held_back: bool,
    /// The allowed origin of the request under way: its page may read the answer.
    pub origin: Option<usize>,
    /// The request under way waits for the word on who asks, or has it.
    pub asker: Asking,
}

/// Whether it is known who asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asking {
    /// It was not asked for.
    Unknown,
    /// It was asked for.
    Asked,
    /// It is.
    Known(Asker),
}

impl Default for Exchange {
    fn default() -> Exchange {
        Exchange {
            input: Vec::new(),
            scanned: 0,
            head: None,
            decoder: None,
            body: Vec::new(),
            out: Vec::new(),
            sent: 0,
            page: &[],
            stage: Stage::Head,
            close: false,
            ended: false,
            request_id: String::new(),
            due: 0,
            body_due: None,
            received: 0,
            received_before: 0,
            replies: 0,
            held_back: false,
            origin: None,
            asker: Asking::Unknown,
        }
    }
}

impl Exchange {
    /// Makes it fit for another connection. Long buffers are let go.
    pub fn reset(&mut self) {
        let keep = |buffer: &mut Vec<u8>| {
            buffer.clear();
            buffer.shrink_to(KEPT_BUFFER_SIZE);
        };
        keep(&mut self.input);
        keep(&mut self.body);
        keep(&mut self.out);
        self.request_id.clear();
        *self = Exchange {
            input: std::mem::take(&mut self.input),
            body: std::mem::take(&mut self.body),
            out: std::mem::take(&mut self.out),
            request_id: std::mem::take(&mut self.request_id),
            ..Exchange::default()
        };
    }

    /// How many bytes may be read now. 0: the client must wait.
    pub fn read_allowance(&self, limits: &Limits) -> usize {
        match self.stage {
            // A request that is waiting for its answer still has to be watched for its client's
            // end, so a little is always read.
            Stage::Head | Stage::Waiting | Stage::Held => {
                (limits.head_size_max + 1).saturating_sub(self.input.len())
            }
            Stage::Body | Stage::Lingering => 64 * 1024,
            Stage::Ending => 0,
        }
    }

    /// Whether nothing is under way: between two requests.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Head && self.input.is_empty() && !self.has_output()
    }

    /// Whether anything is to be sent.
    pub fn has_output(&self) -> bool {
        self.sent < self.out.len() || !self.page.is_empty()
    }

    /// What is to be sent.
    pub fn output(&self) -> [&[u8]; 3] {
        [&self.out[self.sent..], self.page, &[]]
    }

    /// Says that this many bytes of the last [`Exchange::output`] are sent.
    pub fn sent(&mut self, count: usize) {
        let own = count.min(self.out.len() - self.sent);
        self.sent += own;
        self.page = &self.page[count - own..];
        if !self.has_output() {
            self.replies = 0;
            self.held_back = false;
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.out.shrink_to(KEPT_BUFFER_SIZE);
            self.sent = 0;
        }
    }

    /// Queues a page behind what is pending: by reference if it can stand last, else as a copy.
    pub fn push_page(&mut self, page: &'static [u8]) {
        debug_assert!(self.page.is_empty(), "requests wait while a page is pending");
        self.page = page;
    }

    /// The head of the request under way.
    ///
    /// # Panics
    /// If there is none: callers are behind a [`Step::Request`].
    pub fn head(&self) -> &Head {
        self.head.as_ref().expect("a request is under way")
    }

    /// The head of the request under way, if it got that far.
    pub fn has_head(&self) -> Option<&Head> {
        self.head.as_ref()
    }

    /// Looks for the next whole request.
    pub fn step(&mut self, limits: &Limits) -> Step {
        match self.stage {
            Stage::Head => self.step_head(limits),
            Stage::Body => self.step_body(),
            Stage::Waiting | Stage::Held | Stage::Ending => Step::More,
            Stage::Lingering => {
                self.input.clear();
                Step::More
            }
        }
    }

    /// Whether, for the first time since the client last had taken everything, a request waits
    /// because it has not taken the replies to so many before it.
    pub fn is_newly_held_back(&mut self, limits: &Limits) -> bool {
        let waits = self.stage == Stage::Head && !self.input.is_empty();
        let held_back = waits && self.replies >= limits.pipeline_max;
        held_back && !std::mem::replace(&mut self.held_back, true)
    }

    fn step_head(&mut self, limits: &Limits) -> Step {
        if self.input.is_empty() {
            return Step::More;
        }
        // One after the other, and not faster than the client takes the replies.
        let pending = self.out.len() - self.sent;
        let full = pending > PENDING_REPLIES_SIZE || self.replies >= limits.pipeline_max;
        if !self.page.is_empty() || full {
            return Step::More;
        }
        let head_limits =
            HeadLimits { size_max: limits.head_size_max, fields_max: limits.head_fields_max };
        let head = match head::parse(&self.input, &mut self.scanned, &head_limits) {
            Ok(Some(head)) => head,
            Ok(None) => return Step::More,
            Err(bad) => return Step::Bad(bad),
        };
        let framing = head.framing;
        let expects = head.expect_continue && self.input.len() == head.length;
        self.head = Some(head);
        if framing == Framing::None {
            return Step::Request;
        }
        match BodyDecoder::new(framing, limits.body_size_max as u64) {
            Ok(decoder) => self.decoder = Some(decoder),
            Err(bad) => return Step::Bad(bad),
        }
        if expects {
            self.out.extend_from_slice(reply::CONTINUE);
        }
        self.stage = Stage::Body;
        self.step_body()
    }

    fn step_body(&mut self) -> Step {
        let (Some(decoder), Some(head)) = (&mut self.decoder, &self.head) else {
            return Step::More;
        };
        match decoder.decode(&self.input[head.length..], &mut self.body) {
            Err(bad) => Step::Bad(bad),
            Ok(decoded) => {
                self.input.drain(head.length..head.length + decoded.consumed);
                if decoded.done { Step::Request } else { Step::More }
            }
        }
    }

    /// Forgets the request that was answered and turns to what is behind it.
    pub fn next_request(&mut self) {
        if let Some(head) = self.head.take() {
            self.input.drain(..head.length);
        }
        self.decoder = None;
        self.body_due = None;
        self.origin = None;
        self.asker = Asking::Unknown;
        self.replies += 1;
        self.body.clear();
        self.body.shrink_to(KEPT_BUFFER_SIZE);
        self.scanned = 0;
        self.stage = Stage::Head;
    }
}

// A subscriber is a slot here, a wheel entry and two links: the promise of a small one is kept
// by the compiler.
const _: () = assert!(size_of::<Connection>() <= 144);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_pipelined_request_waits_until_the_client_has_taken_the_replies() {
        let limits = Limits { pipeline_max: 2, ..Limits::default() };
        let input = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".repeat(5);
        let mut exchange = Exchange { input, ..Exchange::default() };
        let mut answered = 0;
        for round in 1..=3 {
            while let Step::Request = exchange.step(&limits) {
                exchange.out.extend_from_slice(b"reply");
                exchange.next_request();
                answered += 1;
            }
            assert_eq!(answered, 5.min(2 * round), "round {round}");
            exchange.sent(3); // Some of it is not all of it.
            assert!(matches!(exchange.step(&limits), Step::More));
            exchange.sent(exchange.out.len() - 3);
        }
    }
}
