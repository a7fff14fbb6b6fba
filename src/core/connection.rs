//! One client connection: HTTP exchanges, one after the other, until it becomes a stream.
//!
//! An idle or streaming connection owns no memory but its slot: what it needs while a request is
//! under way stands in an [`Exchange`], what a stream needs until it is live in a [`Rare`], and both
//! go back to a pool. Parsing happens here, meaning does not:
//! what a request asks for, and who may ask, it does not know.

use crate::base::arena::Key;
use crate::core::addresses::AddressId;
use crate::core::effect::Asker;
use crate::core::event::Filter;
use crate::core::past::Past;
use crate::core::tails::Tail;
use crate::limits::{
    KEPT_BUFFER_SIZE, KEPT_OWN_SIZE, Limits, PENDING_REPLIES_SIZE, SMALL_HEAD_SIZE,
};
use crate::wire::body::BodyDecoder;
use crate::wire::head::{self, BadRequest, Framing, Head, HeadLimits};
use crate::wire::reply;
use ::core::net::IpAddr;

/// Bytes of the next request that are read of a client that waits, where there is no room for more.
const WATCHED_SIZE: usize = 256;

/// A client connection's slot. Small, because there may be very many that only listen.
pub struct Connection {
    /// What it is doing.
    pub phase: Phase,
    /// The client's address, where connections are counted by it.
    pub address: AddressId,
    /// Which list its index is in.
    pub place: Place,
    /// Whether the kernel takes what there is for it.
    pub flow: Flow,
    /// The number of the token that its request, or its stream, came with; 0: of none.
    pub token: u16,
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

/// Whether the kernel takes a connection's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flow {
    /// It does, as far as is known.
    Open,
    /// It takes nothing until it says so.
    Blocked,
    /// It has said so, and has taken nothing since: being writable is no progress.
    Retried,
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
    /// The server's list of those whose bytes stay in the kernel until there is room for them.
    Starved,
}

/// What a connection is doing.
pub enum Phase {
    /// Nothing: it is before its first request, or between two. It owns no memory.
    Idle {
        /// When it is closed, if nothing comes: milliseconds, modulo 2^32, see [`whole_time`].
        due: u32,
        /// Whether it has had a request.
        asked: bool,
        /// Who the kernel says is at the other end.
        peer: Peer,
    },
    /// Requests and replies.
    Http(Box<Exchange>),
    /// A stream, until its end.
    Stream(Reader),
    /// Its exchange is being worked on, further up the call stack.
    Taken,
}

/// The time of which only the lower 32 bits were kept, which is no more than 24 days from now.
pub fn whole_time(now_ms: u64, low: u32) -> u64 {
    now_ms.saturating_add_signed(i64::from(low.wrapping_sub(now_ms as u32) as i32))
}

/// Whose log a reader reads: one session's, by its slot, or that of all. A session ends its readers
/// before its slot is freed, so the slot alone names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Whose(u32);

impl Whose {
    /// All sessions'.
    pub const ALL: Whose = Whose(u32::MAX);

    /// One session's, or that of all.
    pub fn new(session: Option<Key>) -> Whose {
        session.map_or(Whose::ALL, |key| Whose(key.index))
    }

    /// The session's slot; none: all sessions.
    pub fn session(self) -> Option<u32> {
        (self != Whose::ALL).then_some(self.0)
    }
}

/// A stream's reader: a position in a log, and a filter. Whatever most readers do without most of
/// the time stands in [`Rare`].
pub struct Reader {
    /// Up to where the log's bytes are sent.
    pub position: u64,
    /// What it has while it opens, catches up or ends; a reader that has everything has none.
    pub rare: Option<Box<Rare>>,
    /// Whose log it reads.
    pub whose: Whose,
    /// When something was last sent, or when it was blocked: milliseconds, modulo 2^32.
    sent_at: u32,
    /// Which frames it wants.
    pub filter: Filter,
    /// The quiet time after which it gets a heartbeat.
    pub heartbeat_ms: u16,
    /// Frames were passed over since the last id it was sent.
    pub passed_over: bool,
    /// It is to be sent a heartbeat, unless there is something better.
    pub beats: bool,
}

impl Reader {
    /// A reader that was last sent something at `sent_at`.
    pub fn new(whose: Whose, filter: Filter, heartbeat_ms: u64, sent_at: u64) -> Reader {
        Reader {
            position: 0,
            rare: None,
            whose,
            sent_at: sent_at as u32,
            filter,
            heartbeat_ms: u16::try_from(heartbeat_ms).unwrap_or(u16::MAX),
            passed_over: false,
            beats: false,
        }
    }

    /// Notes that something was sent now.
    pub fn touch(&mut self, now_ms: u64) {
        self.sent_at = now_ms as u32;
    }

    /// For how long nothing was sent; a heartbeat comes long before the clock's 32 bits are over.
    pub fn quiet_ms(&self, now_ms: u64) -> u64 {
        u64::from((now_ms as u32).wrapping_sub(self.sent_at))
    }

    /// Where the replay ends, or the stream, if it is being shut; `u64::MAX`: that is told.
    pub fn replay_end(&self) -> u64 {
        self.rare.as_ref().map_or(u64::MAX, |rare| rare.replay_end)
    }

    /// Whether it reads journals.
    pub fn past(&self) -> Option<&Past> {
        self.rare.as_ref()?.past.as_deref()
    }

    /// The same, to be changed.
    pub fn past_mut(&mut self) -> Option<&mut Past> {
        self.rare.as_mut()?.past.as_deref_mut()
    }

    /// Of a stream over all sessions: where it stands by number.
    pub fn across_mut(&mut self) -> Option<&mut Across> {
        self.rare.as_mut()?.across.as_deref_mut()
    }

    /// Of a stream over all sessions: the numbers of those it wants, if not all.
    pub fn owners(&self) -> Option<&[u32]> {
        self.rare.as_ref()?.across.as_ref()?.owners.as_deref()
    }

    /// Its own bytes that are not sent.
    pub fn own(&self) -> &[u8] {
        self.rare.as_ref().map_or(&[], |rare| rare.own())
    }

    /// Whether it has anything to send that is not the log's.
    pub fn has_own(&self) -> bool {
        self.beats || !self.own().is_empty()
    }
}

/// What a reader has beside its position while it is not simply waiting for news.
#[derive(Debug)]
pub struct Rare {
    /// Where the replay ends; `u64::MAX` once that has been told.
    pub replay_end: u64,
    /// Of a stream over all sessions: where it stands by number.
    pub across: Option<Box<Across>>,
    /// It is older than the ring, and reads journals.
    pub past: Option<Box<Past>>,
    /// Bytes that go out before the log's: its head, `connected`, the rest of a heartbeat.
    pub bytes: Vec<u8>,
    /// How much of them is sent.
    pub sent: usize,
    /// How many frames the replay has.
    pub replay_count: u32,
    /// At `replay_end`, which is then a frame's end, the stream is shut.
    pub shutting: bool,
    /// Close it as soon as what it owns is sent.
    pub ending: bool,
    /// The bytes of it that are counted in the pool of requests.
    pub counted: usize,
}

impl Default for Rare {
    fn default() -> Rare {
        Rare {
            replay_end: u64::MAX,
            across: None,
            past: None,
            bytes: Vec::new(),
            sent: 0,
            replay_count: 0,
            shutting: false,
            ending: false,
            counted: 0,
        }
    }
}

impl Rare {
    /// Makes it fit for another reader. A long buffer is let go.
    pub fn reset(&mut self) {
        let mut bytes = std::mem::take(&mut self.bytes);
        bytes.clear();
        bytes.shrink_to(KEPT_OWN_SIZE);
        *self = Rare { bytes, ..Rare::default() };
    }

    /// What is left to send of its own bytes.
    pub fn own(&self) -> &[u8] {
        &self.bytes[self.sent..]
    }

    /// Whether a reader can do without it: it has everything, and nothing is to be said.
    pub fn is_spent(&self) -> bool {
        let plain = self.replay_end == u64::MAX && !self.shutting && !self.ending;
        plain && self.across.is_none() && self.past.is_none() && self.own().is_empty()
    }
}

/// Where a reader of all sessions stands, in a way that outlives the ring.
#[derive(Clone, Debug, Default)]
pub struct Across {
    /// The numbers of the sessions that it wants, if not all.
    pub owners: Option<Box<[u32]>>,
    /// The number of the last frame that it was sent whole,
    pub whole_seq: u64,
    /// and how much it was sent of the one behind,
    pub beyond: u32,
    /// whose number this is: a frame that is gone must not be ended by another's bytes.
    pub begun: u64,
    /// The number up to which its replay goes.
    pub replay_seq: u64,
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
    /// The body of the last of them, where it is too large to be held: it is sent in pieces.
    tail: Option<Box<Tail>>,
    /// What is left to send of a page that the binary carries: the body of the last reply, too.
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
    /// Who the kernel says is at the other end.
    pub peer: Peer,
    /// When the kernel first took nothing, of late.
    pub blocked_at: u64,
    /// Since when the client has been watched for how fast it takes its replies, and what it has taken
    /// since; none while it takes them at once.
    pace: Option<(u64, u64)>,
    /// What is counted of it in the server's pools: of heads and replies, and of bodies.
    pub counted: (usize, usize),
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
            tail: None,
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
            peer: Peer::Unknown,
            blocked_at: 0,
            pace: None,
            counted: (0, 0),
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

    /// The same where there is no room for what is not looked at yet: of a client that waits for its
    /// answer so little is read that its end is noticed.
    pub fn watch_allowance(&self) -> usize {
        let length = self.head.map_or(0, |head| head.length);
        match self.stage {
            Stage::Waiting | Stage::Held => {
                (length + WATCHED_SIZE).saturating_sub(self.input.len())
            }
            _ => usize::MAX,
        }
    }

    /// The request waits, and what it says was understood: what it has said it with is not kept.
    pub fn release_body(&mut self) {
        self.body = Vec::new();
        self.input.shrink_to_fit();
    }

    /// Whether what has come of a head is of a small one, so many bytes more included.
    pub fn has_small_head(&self, more: usize) -> bool {
        self.stage == Stage::Head && self.input.len() + more <= SMALL_HEAD_SIZE
    }

    /// Whether a part of a head has come, and nothing but the rest of it is missing.
    pub fn awaits_rest(&self) -> bool {
        self.stage == Stage::Head && !self.awaits_head() && !self.has_output()
    }

    /// The bytes that it takes: of heads and replies, itself among them, and of its body.
    pub fn memory(&self) -> (usize, usize) {
        let buffers = self.input.capacity() + self.out.capacity() + self.request_id.capacity();
        (size_of::<Exchange>() + buffers, self.body.capacity())
    }

    /// Whether nothing is under way: between two requests.
    pub fn is_idle(&self) -> bool {
        self.stage == Stage::Head && self.input.is_empty() && !self.has_output()
    }

    /// Whether nothing has come of a next request. An empty line behind a body is nothing of one (RFC
    /// 9112 §2.2).
    pub fn awaits_head(&self) -> bool {
        self.stage == Stage::Head && matches!(&self.input[..], b"" | b"\r" | b"\r\n")
    }

    /// Whether anything is to be sent.
    pub fn has_output(&self) -> bool {
        self.sent < self.out.len() || self.has_body_apart()
    }

    /// Whether any of that is here.
    pub fn has_bytes(&self) -> bool {
        self.output().iter().any(|part| !part.is_empty())
    }

    /// What is to be sent.
    pub fn output(&self) -> [&[u8]; 3] {
        [&self.out[self.sent..], self.tail.as_ref().map_or(&[], |tail| tail.ready()), self.page]
    }

    /// Says that this many bytes of the last [`Exchange::output`] are sent.
    pub fn sent(&mut self, count: usize) {
        let own = count.min(self.out.len() - self.sent);
        self.sent += own;
        let mut apart = count - own;
        if let Some((_, taken)) = &mut self.pace {
            *taken += count as u64;
        }
        let page = apart.min(self.page.len());
        self.page = &self.page[page..];
        apart -= page;
        if let Some(tail) = &mut self.tail {
            tail.sent(apart);
        }
        if !self.has_output() {
            self.replies = 0;
            self.held_back = false;
            self.pace = None;
        }
        if self.sent == self.out.len() {
            self.out.clear();
            self.out.shrink_to(KEPT_BUFFER_SIZE);
            self.sent = 0;
        }
    }

    /// Lets a large body follow what is pending. Nothing is appended to `out` before it is sent.
    pub fn set_tail(&mut self, body: Box<Tail>) {
        self.tail = Some(body);
    }

    /// Lets a page follow what is pending, likewise: it is sent from where it stands.
    pub fn set_page(&mut self, body: &'static [u8]) {
        self.page = body;
    }

    /// Whether a large body is on its way.
    pub fn is_large(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| !tail.is_over())
    }

    /// That body.
    pub fn tail_mut(&mut self) -> Option<&mut Tail> {
        self.tail.as_deref_mut()
    }

    /// Whether it has sent what it had, and a large body goes on.
    pub fn wants_piece(&self) -> bool {
        self.sent == self.out.len() && self.is_large() && self.output()[1].is_empty()
    }

    /// Gives back a piece that is sent, and forgets a large body that is. Returns whether there was
    /// a piece.
    pub fn take_spent(&mut self) -> bool {
        let Some(tail) = &mut self.tail else { return false };
        let spent = tail.ready().is_empty() && tail.give_back();
        if tail.is_over() {
            self.tail = None;
        }
        spent
    }

    /// Whether it holds a piece of a large body.
    pub fn holds_piece(&self) -> bool {
        self.tail.as_ref().is_some_and(|tail| tail.holds_piece())
    }

    /// Forgets a large body. Returns whether it held a piece.
    pub fn drop_tail(&mut self) -> bool {
        self.tail.take().is_some_and(|tail| tail.holds_piece())
    }

    /// Whether the last reply's body follows from elsewhere: nothing may be appended before it.
    pub fn has_body_apart(&self) -> bool {
        self.is_large() || !self.page.is_empty()
    }

    /// The kernel takes nothing: from now on the client is watched, if it was not and there is anything
    /// for it.
    pub fn watch_pace(&mut self, now_ms: u64) {
        if self.has_output() {
            self.pace.get_or_insert((now_ms, 0));
        }
    }

    /// When it is to be looked at how much the client has taken in `window_ms`.
    pub fn pace_due(&self, window_ms: u64) -> u64 {
        self.pace.map_or(u64::MAX, |(since, _)| since + window_ms)
    }

    /// Whether the client has taken less than `least` bytes in a window that is over. If it has taken
    /// enough, another one begins.
    pub fn is_too_slow(&mut self, now_ms: u64, window_ms: u64, least: u64) -> bool {
        match self.pace {
            Some((since, taken)) if now_ms >= since + window_ms => {
                self.pace = Some((now_ms, 0));
                taken < least
            }
            _ => false,
        }
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
            Stage::Body => self.step_body(limits),
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
        if full || self.has_body_apart() {
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
        self.head = Some(head);
        if framing == Framing::None {
            return Step::Request;
        }
        match BodyDecoder::new(framing, limits.body_size_max as u64) {
            Ok(decoder) => self.decoder = Some(decoder),
            Err(bad) => return Step::Bad(bad),
        }
        self.stage = Stage::Body;
        self.step_body(limits)
    }

    /// Once for each request whose body is not whole yet: whether it was not asked before.
    pub fn is_newly_in_body(&self) -> bool {
        self.stage == Stage::Body && self.body_due.is_none()
    }

    /// Lowers the bound of the body that is on its way.
    ///
    /// # Errors
    /// It is beyond that already.
    pub fn limit_body(&mut self, size_max: usize) -> Result<(), BadRequest> {
        self.decoder.as_mut().map_or(Ok(()), |decoder| decoder.limit(size_max as u64))
    }

    /// Tells a client that waits for it to send its body (RFC 9110 §10.1.1).
    pub fn invite_body(&mut self) {
        let waits = self.head.filter(|head| {
            head.expect_continue && self.input.len() == head.length && self.body.is_empty()
        });
        if waits.is_some() {
            self.out.extend_from_slice(reply::CONTINUE);
        }
    }

    fn step_body(&mut self, limits: &Limits) -> Step {
        let (Some(decoder), Some(head)) = (&mut self.decoder, &self.head) else {
            return Step::More;
        };
        // Grown by hand, so that a body never takes more than one may have.
        let coming = self.body.len() + (self.input.len() - head.length);
        if coming > self.body.capacity() {
            let target = coming.max(2 * self.body.capacity()).min(limits.body_size_max);
            self.body.reserve_exact(target.saturating_sub(self.body.len()));
        }
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

// A subscriber is a slot here, its generation, a wheel entry and two links: the promise of a small
// one is kept by the compiler.
const _: () = assert!(size_of::<Connection>() <= 40);

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
