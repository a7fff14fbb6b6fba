//! The whole server as one state machine: connections, sessions, agents, and the turn of the loop.
//!
//! The shell tells it facts and bytes, one at a time, and drains the effects after each. Then, once
//! a turn, it commits: what was published becomes visible, readers with news move to the pending
//! list, and answers that waited for their event go. What endpoints exist is `api.rs`'s business,
//! what an agent's lines mean `dialect.rs`'s, and no system call is made anywhere.

use crate::base::arena::{Arena, Key};
use crate::base::list::{Links, List};
use crate::base::ring::Found;
use crate::base::wheel::Wheel;
use crate::core::access::Access;
use crate::core::access::tokens::Digest;
use crate::core::addresses::{AddressId, Addresses};
use crate::core::agent::{Agent, Life};
use crate::core::commit::Keeper;
use crate::core::connection::{
    Asking, Connection, Exchange, Flow, Output, Peer, Phase, Place, Rare, Stage, Step, whole_time,
};
use crate::core::effect::{Asker, DiskReply, Effect, Level, LogLine, Program, Source};
use crate::core::epochs::{Durability, Epochs};
use crate::core::hooks::Chosen;
use crate::core::large::LargeFields;
use crate::core::log::Log;
use crate::core::metrics::Counters;
use crate::core::metrics::limit::Limit;
use crate::core::past::Pieces;
use crate::core::publisher::Publisher;
use crate::core::random::Random;
use crate::core::session::Session;
use crate::core::streams::Beat;
use crate::core::tickets::Tickets;
use crate::core::waits::{Cursor, Wait};
use crate::limits::Limits;
use crate::wire::reply::{self, HttpDate};
use ::core::net::IpAddr;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::PathBuf;

/// [`Key::kind`] of a client connection.
pub const KIND_CONNECTION: u8 = 1;
/// [`Key::kind`] of a session.
pub const KIND_SESSION: u8 = 2;
/// [`Key::kind`] of an agent.
pub const KIND_AGENT: u8 = 3;

/// Deadlines worked off in one turn, so that a burst of them does not hold up the rest.
const DEADLINES_PER_TURN: usize = 4096;
/// How long a closed session still serves the end of its log.
const CLOSED_KEPT_MS: u64 = 60_000;
/// What a client that was refused or cut may still send before we hang up on it.
const LINGER_MS: u64 = 2_000;
/// How long a body's rate is watched before it is judged.
const BODY_WINDOW_MS: u64 = 5_000;
/// Exchanges, and the rare parts of readers, that are kept for the next connection.
pub const POOL_MAX: usize = 64;
/// Pages of journals that are read at one time.
pub const PAGES_READ_MAX: u32 = 16;
/// What one more request is expected to take, when it is judged whether there is room for it.
const REQUEST_SIZE: usize = size_of::<Exchange>() + 4096;

/// An agent that sessions may be created with.
#[derive(Clone, Debug)]
pub struct AgentConfig {
    /// The name by which clients choose it.
    pub name: String,
    /// How it speaks.
    pub dialect: Dialect,
    /// What to run, or why it cannot be run.
    pub program: Result<Program, String>,
}

/// How an agent speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Dialect {
    /// Claude Code's stream-json, one process for many turns.
    Claude,
    /// Any command: the prompt in, text out, one process a prompt.
    Lines,
    /// The built-in demonstration, which speaks as `Claude` does.
    Demo,
}

impl Dialect {
    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Dialect::Claude => "claude",
            Dialect::Lines => "lines",
            Dialect::Demo => "demo",
        }
    }
}

/// What the operator decided, beside the limits.
#[derive(Clone, Debug, Default)]
pub struct Config {
    /// The agents; the first is the default.
    pub agents: Vec<AgentConfig>,
    /// The command of each `lines` agent, by index.
    pub commands: Vec<String>,
    /// Who is let in.
    pub access: Access,
    /// A path under which everything stands as well.
    pub base_path: String,
    /// The mode `bypassPermissions` may be chosen.
    pub allow_bypass: bool,
    /// Rules that outlive a session may be granted.
    pub allow_persistent_rules: bool,
    /// Every line of an agent is told as it is.
    pub raw_events: bool,
    /// Directories that are trusted whatever they say, canonical.
    pub trusted_dirs: Vec<PathBuf>,
    /// Directories that were trusted as they were: with the hash of what they said.
    pub trusted: BTreeSet<(PathBuf, String)>,
    /// Where sessions may work, canonical.
    pub roots: Vec<PathBuf>,
    /// What each of the operator's commands is told of.
    pub hooks: Vec<Chosen>,
    /// Where people find us, with the base path, for the links that commands are told.
    pub public_place: Option<String>,
    /// Random, if commands are told links that answer.
    pub ticket_key: Option<Digest>,
    /// The least urgent lines that are worth making.
    pub log_level: Level,
    /// The program's version.
    pub version: &'static str,
}

/// What only the shell can know, told once.
#[derive(Clone, Debug)]
pub struct Birth {
    /// From the system's random numbers.
    pub seed: u64,
    /// Every start of this data directory; the last is this one.
    pub epochs: Epochs,
    /// Monotonic milliseconds.
    pub now_ms: u64,
    /// Milliseconds since 1970.
    pub wall_ms: u64,
}

/// Whether the server still takes work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drain {
    /// It does.
    Serving,
    /// It says that it is not ready, and serves until this time.
    Delayed(u64),
    /// It ends what it has, until this time at most.
    Draining(u64),
}

/// How the server ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Everything was brought to its end.
    Clean,
    /// The time was up before that.
    Cut,
}

/// An answer that waits for the disk thread.
#[derive(Debug)]
pub struct PendingDirectory {
    /// Who asked.
    pub connection: Key,
    /// What for.
    pub purpose: Purpose,
}

/// What a directory was asked about for.
#[derive(Debug)]
pub enum Purpose {
    /// A session is to be created there.
    Create(crate::core::api::NewSession),
    /// The directories in it are to be listed; this is how the client wrote it.
    List(String),
}

/// What an agent said of itself when it was last started.
#[derive(Clone, Debug, Default)]
pub struct AgentFacts {
    /// Its version.
    pub version: Option<String>,
    /// Its models: JSON.
    pub models: Option<String>,
    /// Its commands: JSON.
    pub commands: Option<String>,
    /// Whether it has credentials.
    pub logged_in: Option<bool>,
}

/// The server.
pub struct Server {
    /// The bounds.
    pub limits: Limits,
    /// The operator's decisions.
    pub config: Config,
    /// The time of this turn, monotonic.
    pub now_ms: u64,
    /// The time of this turn, since 1970.
    pub wall_ms: u64,
    /// The same at the start.
    pub(super) started_wall_ms: u64,
    pub(super) random: Random,
    pub(super) publisher: Publisher,
    pub(super) keeper: Keeper,
    pub(super) pieces: Pieces,
    /// Requests that wait for a page of a journal.
    pub(super) pages: Vec<(Key, Cursor)>,
    pub(super) connections: Arena<Connection>,
    pub(super) links: Links,
    /// Connections with something to send.
    pub(super) pending: List,
    pub(super) sessions: Arena<Session>,
    pub(super) by_id: BTreeMap<String, Key>,
    pub(super) agents: Arena<Agent>,
    /// Sweeps done per agent slot since its exit.
    pub(super) sweeps: Vec<u32>,
    pub(super) facts: Vec<AgentFacts>,
    pub(super) wheel: Wheel,
    fired: Vec<u32>,
    pub(super) effects: VecDeque<Effect>,
    #[expect(clippy::vec_box, reason = "a box is handed to a connection as it is")]
    exchanges: Vec<Box<Exchange>>,
    #[expect(clippy::vec_box, reason = "a box is handed to a reader as it is")]
    pub(super) rares: Vec<Box<Rare>>,
    /// Bytes of requests' heads and of replies, and of what streams open with.
    pub(super) requests_size: usize,
    /// Connections whose bytes stay in the kernel until there is room for them, oldest first.
    starved: List,
    pub(super) beat: Beat,
    /// Answers that wait for their event, in its order.
    held: VecDeque<(u64, Key)>,
    pub(super) tickets: BTreeMap<u64, PendingDirectory>,
    /// Links that answer approvals.
    pub(super) answer_tickets: Tickets,
    pub(super) next_ticket: u64,
    /// The agent that has the long-line buffer, and those that wait for it.
    pub(super) long_line: VecDeque<Key>,
    /// Sessions that wait for a process, oldest first.
    pub(super) start_queue: VecDeque<Key>,
    /// Agents whose output waits for the next commit.
    pub(super) paused: Vec<Key>,
    /// The second in which sessions were last created, and how many.
    pub(super) creations: (u64, u32),
    /// Connections by the address they are counted under.
    addresses: Addresses,
    /// When logins failed, the last of them.
    pub(super) login_failures: VecDeque<u64>,
    pub(super) bodies_size: usize,
    pub(super) queue_size: usize,
    pub(super) drain: Drain,
    /// What is counted.
    pub counters: Counters,
    pub(super) date: (u64, HttpDate),
    /// Closed sessions whose logs are still served, oldest first.
    pub(super) closed: VecDeque<Key>,
    /// Their ids.
    pub(super) closed_ids: BTreeMap<String, Key>,
    /// How many agents the operator configured; those behind are named by old sessions only.
    pub(super) configured: usize,
    /// Who is being sent a large field, or about to be; who waits for that: the event, and where it is.
    pub(super) large_to: Option<Key>,
    pub(super) large_queue: VecDeque<(Key, u64, Source, Option<usize>)>,
    /// Pages of journals that the disk thread was asked for.
    pub(super) pages_read: u32,
    /// Requests that wait for something to happen.
    pub(super) waits: Vec<Wait>,
    /// Sessions created so far.
    pub(super) session_number: u32,
    /// Where answers are written before their length is known.
    pub(super) json: Vec<u8>,
}

impl Server {
    /// A server with nobody connected and no session.
    pub fn new(limits: Limits, config: Config, birth: Birth) -> Server {
        let frame_size_max = limits.ring_size.min(limits.all_ring_size) / 4;
        let large = LargeFields::new(limits.large_size_max, frame_size_max);
        let all = Log::new(limits.all_ring_size);
        let hold_ms = limits.delta_hold_ms;
        let sessions_max = limits.sessions_max + limits.closed_sessions_max;
        let indices = limits.connections_max + sessions_max + limits.agents_max + 1;
        let durability = birth.epochs.present().durability;
        let journals = durability != Durability::Memory;
        let mut server = Server {
            keeper: Keeper::new(durability),
            pieces: Pieces::default(),
            pages: Vec::new(),
            configured: config.agents.len(),
            random: Random::new(birth.seed),
            publisher: Publisher::new(birth.epochs, all, large, journals, hold_ms),
            connections: Arena::new(KIND_CONNECTION, limits.connections_max),
            links: Links::new(limits.connections_max),
            pending: List::default(),
            sessions: Arena::new(KIND_SESSION, sessions_max),
            by_id: BTreeMap::new(),
            agents: Arena::new(KIND_AGENT, limits.agents_max),
            sweeps: vec![0; limits.agents_max as usize],
            facts: vec![AgentFacts::default(); config.agents.len()],
            wheel: Wheel::new(indices),
            fired: Vec::with_capacity(DEADLINES_PER_TURN),
            effects: VecDeque::new(),
            exchanges: Vec::with_capacity(POOL_MAX),
            rares: Vec::with_capacity(POOL_MAX),
            requests_size: 0,
            starved: List::default(),
            beat: Beat::default(),
            held: VecDeque::new(),
            tickets: BTreeMap::new(),
            answer_tickets: Tickets::new(config.ticket_key),
            next_ticket: 1,
            long_line: VecDeque::new(),
            start_queue: VecDeque::new(),
            paused: Vec::new(),
            creations: (0, 0),
            addresses: Addresses::default(),
            login_failures: VecDeque::new(),
            bodies_size: 0,
            queue_size: 0,
            drain: Drain::Serving,
            counters: Counters::default(),
            date: (u64::MAX, reply::http_date(0)),
            closed: VecDeque::new(),
            closed_ids: BTreeMap::new(),
            large_to: None,
            large_queue: VecDeque::new(),
            pages_read: 0,
            waits: Vec::new(),
            session_number: 0,
            json: Vec::new(),
            now_ms: 0,
            wall_ms: 0,
            started_wall_ms: birth.wall_ms,
            limits,
            config,
        };
        server.set_time(birth.now_ms, birth.wall_ms);
        let masks = server.config.hooks.iter().map(|hook| hook.mask());
        server.publisher.aside.mask = masks.fold(0, |all, mask| all | mask);
        server
    }

    /// The one clock read of a turn.
    pub fn set_time(&mut self, now_ms: u64, wall_ms: u64) {
        debug_assert!(now_ms >= self.now_ms, "the monotonic clock went back");
        (self.now_ms, self.wall_ms) = (now_ms, wall_ms);
        self.publisher.set_time(now_ms, wall_ms);
        let second = wall_ms / 1000;
        if self.date.0 != second {
            self.date = (second, reply::http_date(wall_ms));
        }
    }

    /// The next effect. Drain them all after every input.
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When the shell must come back at the latest, if nothing happens before.
    pub fn next_due(&self) -> Option<u64> {
        self.wheel.next_due()
    }

    /// Whether there is work that waits for nothing but the next turn.
    pub fn has_work(&self) -> bool {
        // While a batch is under way, its answer is what everything else waits for.
        let commits = !self.paused.is_empty() || self.publisher.has_dirty();
        self.has_pending()
            || commits && !self.keeper.is_busy()
            || !self.starved.is_empty() && self.has_room()
            || !self.large_queue.is_empty() && self.large_is_free()
    }

    /// Whether connections have something to send.
    pub fn has_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub(super) fn log(
        &mut self,
        level: Level,
        area: &'static str,
        message: &'static str,
        fields: Vec<(&'static str, String)>,
    ) {
        self.effects.push_back(Effect::Log(LogLine { level, area, message, fields }));
    }

    // Connections.

    /// A client has connected. `None`: there is no room, hang up.
    pub fn accepted(&mut self, peer: Peer) -> Option<Key> {
        let connection = Connection {
            phase: Phase::Idle { due: (self.now_ms + self.limits.head_timeout_ms) as u32, peer },
            address: AddressId::NONE,
            place: Place::Nowhere,
            flow: Flow::Open,
            token: 0,
        };
        let Ok(key) = self.connections.insert(connection) else {
            self.counters.connections_refused += 1;
            self.counters.limits.hit(Limit::Connections);
            return None;
        };
        self.counters.connections_accepted += 1;
        if let Peer::Remote { address } = peer
            && !self.config.access.trusted_proxies.contains(&address)
            && !self.count_address(key, Some(address))
        {
            self.counters.connections_refused += 1;
            self.counters.limits.hit(Limit::ConnectionsPerAddress);
            self.forget(key);
            return None;
        }
        self.arm_connection(key);
        Some(key)
    }

    /// A client had to be hung up on: the system has no descriptor for it.
    pub fn turned_away(&mut self) {
        self.counters.connections_refused += 1;
        self.counters.limits.hit(Limit::OpenFiles);
    }

    /// Counts a connection under this address from now on. Returns whether there is room.
    pub(super) fn count_address(&mut self, key: Key, address: Option<IpAddr>) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return true };
        if self.addresses.get(connection.address) == address {
            return true;
        }
        let before = std::mem::take(&mut connection.address);
        self.addresses.leave(before);
        let Some(address) = address else { return true };
        let (id, count) = self.addresses.enter(address);
        connection.address = id;
        let fits = count <= self.limits.connections_per_address_max;
        self.counters.addresses_limited += u64::from(!fits);
        fits
    }

    /// How many bytes may be read from a client now. 0: leave them in the kernel; a client for
    /// whom there is no room is told by [`Effect::Read`] when there is.
    pub fn read_allowance(&mut self, key: Key) -> usize {
        let has_room = self.has_room();
        let Some(connection) = self.connections.get(key) else { return 0 };
        let (allowed, takes_room) = match &connection.phase {
            Phase::Idle { .. } => (self.limits.head_size_max + 1, true),
            // One that has begun is always read from, so that its client's end is noticed; if it
            // needs room that there is not, it is refused.
            Phase::Http(exchange) => (exchange.read_allowance(&self.limits), false),
            // Whatever a reader sends ends its stream: a little is enough to notice.
            Phase::Stream(_) => (512, false),
            Phase::Taken => (0, false),
        };
        if !takes_room || has_room || allowed == 0 {
            return allowed;
        }
        // One with something to send is looked at again when that is sent.
        if connection.place == Place::Nowhere && connection.flow != Flow::Blocked {
            self.counters.requests_deferred += 1;
            self.counters.limits.hit(Limit::Requests);
            if let Some(connection) = self.connections.get_mut(key) {
                connection.place = Place::Starved;
            }
            self.starved.push_back(&mut self.links, key.index);
        }
        0
    }

    /// Whether one more request can be taken up.
    pub(super) fn has_room(&self) -> bool {
        self.requests_size + REQUEST_SIZE <= self.limits.requests_size_max
    }

    /// Comes back to clients for whom there was no room, as far as there is now.
    pub(super) fn feed_starved(&mut self) {
        let room = self.limits.requests_size_max.saturating_sub(self.requests_size);
        for _ in 0..room / REQUEST_SIZE {
            let Some(index) = self.starved.pop_front(&mut self.links) else { return };
            if let Some(key) = self.connections.key_at(index)
                && let Some(connection) = self.connections.get_mut(key)
            {
                connection.place = Place::Nowhere;
                self.effects.push_back(Effect::Read(key));
            }
        }
    }

    /// A client sent bytes: no more than it was allowed.
    pub fn received(&mut self, key: Key, bytes: &[u8]) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Phase::Idle { peer, .. } = connection.phase {
            let mut exchange = self.exchanges.pop().unwrap_or_default();
            exchange.peer = peer;
            connection.phase = Phase::Http(exchange);
        }
        let grows = matches!(&connection.phase, Phase::Http(exchange)
            if !exchange.input.is_empty() && matches!(exchange.stage, Stage::Head | Stage::Body));
        if grows && !self.has_room() {
            return self.refuse_growth(key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        match &mut connection.phase {
            Phase::Http(exchange) => {
                if exchange.is_idle() {
                    exchange.due = self.now_ms + self.limits.head_timeout_ms;
                }
                if exchange.stage == Stage::Lingering {
                    return;
                }
                exchange.received += bytes.len() as u64;
                exchange.input.extend_from_slice(bytes);
                self.advance(key);
            }
            Phase::Stream(_) => self.close(key),
            Phase::Idle { .. } | Phase::Taken => {
                debug_assert!(false, "bytes for a connection that is being worked on");
            }
        }
    }

    /// A request that has begun needs room that there is not.
    fn refuse_growth(&mut self, key: Key) {
        let Some(mut exchange) = self.take_exchange(key) else { return };
        self.refuse_request(&mut exchange);
        exchange.input = Vec::new(); // That is room for others.
        self.put_exchange(key, exchange);
    }

    /// A client has sent its last byte. A request that is whole still gets its answer.
    pub fn peer_ended(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        // A stream, or one between two requests, ends with its client.
        let Phase::Http(exchange) = &mut connection.phase else { return self.close(key) };
        exchange.ended = true;
        // Whole requests are worked on as they come in: what is left of the input is none.
        let over = match exchange.stage {
            Stage::Head | Stage::Body => !exchange.has_output(),
            Stage::Lingering => true,
            Stage::Waiting | Stage::Held | Stage::Ending => false,
        };
        if over {
            self.close(key);
        }
    }

    /// A client is gone.
    pub fn connection_lost(&mut self, key: Key) {
        self.close(key);
    }

    /// Works on a connection's input as far as it goes.
    pub(super) fn advance(&mut self, key: Key) {
        loop {
            let Some(mut exchange) = self.take_exchange(key) else { return };
            let step = exchange.step(&self.limits);
            self.count_exchange(&mut exchange);
            match step {
                Step::More => {
                    if exchange.is_newly_held_back(&self.limits) {
                        self.counters.limits.hit(Limit::Pipeline);
                    }
                    if exchange.is_newly_in_body() {
                        if self.refuse_early(key, &mut exchange) {
                            return self.put_exchange(key, exchange);
                        }
                        exchange.invite_body();
                    }
                    self.update_exchange_due(&mut exchange);
                    let over = self.bodies_size > self.limits.bodies_size_max
                        && exchange.stage == Stage::Body;
                    if over {
                        self.refuse_body(&mut exchange);
                    }
                    let gone = exchange.ended
                        && matches!(exchange.stage, Stage::Head | Stage::Body)
                        && !exchange.has_output();
                    self.put_exchange(key, exchange);
                    if gone {
                        self.close(key);
                    }
                    return;
                }
                Step::Bad(bad) => {
                    self.answer_bad(&mut exchange, bad);
                    exchange.close = true;
                    exchange.stage = Stage::Ending;
                    self.put_exchange(key, exchange);
                    return;
                }
                Step::Request => {
                    self.counters.requests += 1;
                    if !self.answer(key, exchange) {
                        return;
                    }
                }
            }
        }
    }

    /// Takes a connection's exchange out, to work on it beside everything else.
    pub(super) fn take_exchange(&mut self, key: Key) -> Option<Box<Exchange>> {
        let connection = self.connections.get_mut(key)?;
        match std::mem::replace(&mut connection.phase, Phase::Taken) {
            Phase::Http(exchange) => Some(exchange),
            other => {
                connection.phase = other;
                None
            }
        }
    }

    /// Puts it back, and sees to its output and its deadline.
    pub(super) fn put_exchange(&mut self, key: Key, mut exchange: Box<Exchange>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return self.recycle(exchange);
        };
        let has_output = exchange.has_output() && exchange.stage != Stage::Held;
        let over = exchange.close && !exchange.has_output() && exchange.stage == Stage::Ending;
        if exchange.is_idle() && !exchange.close && !exchange.ended {
            connection.phase = Phase::Idle { due: exchange.due as u32, peer: exchange.peer };
            self.recycle(exchange);
            return self.arm_connection(key);
        }
        self.count_exchange(&mut exchange);
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.phase = Phase::Http(exchange);
        if has_output {
            self.push_pending(key);
        }
        self.arm_connection(key);
        if over {
            self.end_exchange(key);
        }
    }

    /// Counts what an exchange takes now.
    fn count_exchange(&mut self, exchange: &mut Exchange) {
        let (before, now) = (exchange.counted, exchange.memory());
        exchange.counted = now;
        self.requests_size = self.requests_size + now.0 - before.0;
        self.bodies_size = self.bodies_size + now.1 - before.1;
    }

    /// Gives an exchange back to the pool.
    pub(super) fn recycle(&mut self, mut exchange: Box<Exchange>) {
        self.requests_size -= exchange.counted.0;
        self.bodies_size -= exchange.counted.1;
        if self.exchanges.len() < POOL_MAX {
            exchange.reset();
            self.exchanges.push(exchange);
        }
    }

    /// Forgets the request that was answered.
    pub(super) fn next_request(&mut self, exchange: &mut Exchange) {
        exchange.next_request();
        if exchange.close {
            exchange.stage = Stage::Ending;
        }
    }

    fn update_exchange_due(&mut self, exchange: &mut Exchange) {
        let limits = &self.limits;
        match exchange.stage {
            Stage::Head if exchange.input.is_empty() => {
                exchange.due = self.now_ms + limits.keep_alive_ms;
            }
            Stage::Body => {
                // From the end of the head, once: bytes do not buy more time. Sooner, the rate
                // is looked at.
                if exchange.body_due.is_none() {
                    exchange.body_due = Some(self.now_ms + limits.body_timeout_ms);
                    exchange.received_before = exchange.received;
                    exchange.due = self.now_ms + BODY_WINDOW_MS.min(limits.body_timeout_ms);
                }
            }
            Stage::Head | Stage::Waiting | Stage::Held | Stage::Ending | Stage::Lingering => {}
        }
    }

    /// Everything is sent that will be: linger if the client may still be sending, else close.
    fn end_exchange(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Http(exchange) = &mut connection.phase else { return };
        if exchange.ended {
            return self.close(key);
        }
        exchange.stage = Stage::Lingering;
        exchange.input.clear();
        exchange.due = self.now_ms + LINGER_MS;
        self.effects.push_back(Effect::EndOutput(key));
        self.arm_connection(key);
    }

    /// Closes a connection and frees its slot; its key is stale from here on.
    pub(super) fn close(&mut self, key: Key) {
        if self.forget(key) {
            self.effects.push_back(Effect::Close(key));
        }
    }

    /// Frees a connection's slot. Returns whether there was one.
    fn forget(&mut self, key: Key) -> bool {
        self.unlink(key);
        let Some(connection) = self.connections.remove(key) else { return false };
        self.wheel.cancel(key.index);
        self.counters.connections_closed += 1;
        self.addresses.leave(connection.address);
        match connection.phase {
            Phase::Http(exchange) => self.recycle(exchange),
            Phase::Stream(mut reader) => {
                self.counters.streams_closed += 1;
                self.pieces.recycle(reader.past_mut().and_then(|past| past.take_piece()));
                self.recycle_rare(reader.rare.take());
                let log = match reader.whose.session() {
                    None => Some(&mut self.publisher.all),
                    Some(session) => self.sessions.at_mut(session).map(|s| &mut s.feed.log),
                };
                if let Some(log) = log {
                    log.readers -= 1;
                    log.listeners -= u32::from(reader.filter.listens());
                }
            }
            Phase::Idle { .. } | Phase::Taken => {}
        }
        true
    }

    // Output.

    /// Takes a connection out of the list that it is in.
    pub(super) fn unlink(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let place = std::mem::replace(&mut connection.place, Place::Nowhere);
        let session = match &connection.phase {
            Phase::Stream(reader) => reader.whose.session(),
            Phase::Idle { .. } | Phase::Http(_) | Phase::Taken => None,
        };
        match place {
            Place::Nowhere | Place::Reading => {}
            Place::Pending => self.pending.remove(&mut self.links, key.index),
            Place::Starved => self.starved.remove(&mut self.links, key.index),
            Place::Waiting => {
                let log = match session {
                    None => Some(&mut self.publisher.all),
                    Some(session) => self.sessions.at_mut(session).map(|s| &mut s.feed.log),
                };
                if let Some(log) = log {
                    log.waiting.remove(&mut self.links, key.index);
                }
            }
        }
    }

    /// Puts a connection on the list of those with something to send, unless it is blocked.
    pub(super) fn push_pending(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.flow == Flow::Blocked || connection.place == Place::Pending {
            return;
        }
        self.unlink(key);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.place = Place::Pending;
            self.pending.push_back(&mut self.links, key.index);
        }
    }

    /// The next connection with something to send. It leaves the list; [`Server::output`],
    /// [`Server::sent`] and [`Server::blocked`] say how it goes on.
    pub fn next_pending(&mut self) -> Option<Key> {
        let index = self.pending.pop_front(&mut self.links)?;
        let key = self.connections.key_at(index).expect("a closed connection is in no list");
        if let Some(connection) = self.connections.get_mut(key) {
            connection.place = Place::Nowhere;
        }
        Some(key)
    }

    /// What to write to a client now.
    pub fn output(&mut self, key: Key) -> Output<'_> {
        match self.connections.get(key).map(|connection| &connection.phase) {
            None | Some(Phase::Idle { .. } | Phase::Taken) => Output::Nothing,
            Some(Phase::Http(exchange)) if exchange.stage == Stage::Held => Output::Nothing,
            Some(Phase::Http(exchange)) => {
                if exchange.has_output() {
                    return match self.connections.get(key).map(|connection| &connection.phase) {
                        Some(Phase::Http(exchange)) => Output::Bytes(exchange.output()),
                        _ => Output::Nothing,
                    };
                }
                Output::Nothing
            }
            Some(Phase::Stream(_)) => self.stream_output(key),
        }
    }

    /// The kernel took this many bytes of the last [`Server::output`].
    pub fn sent(&mut self, key: Key, count: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if count > 0 {
            connection.flow = Flow::Open;
        }
        match &mut connection.phase {
            Phase::Idle { .. } | Phase::Taken => {}
            Phase::Stream(_) => self.stream_sent(key, count),
            Phase::Http(exchange) => {
                exchange.sent(count);
                if exchange.has_output() {
                    return;
                }
                match exchange.stage {
                    Stage::Ending => self.end_exchange(key),
                    // Pipelined requests wait until the client has taken the replies.
                    _ => self.advance(key),
                }
            }
        }
    }

    /// Nothing more goes out now, but there is more: come back to it after the others.
    pub fn requeue(&mut self, key: Key) {
        self.push_pending(key);
    }

    /// The kernel takes nothing now.
    pub fn blocked(&mut self, key: Key) {
        self.unlink(key);
        self.give_back_piece(key); // Others can use it; it is read again when there is room.
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(key) else { return };
        if std::mem::replace(&mut connection.flow, Flow::Blocked) == Flow::Open {
            match &mut connection.phase {
                Phase::Stream(reader) => reader.touch(now_ms),
                Phase::Http(exchange) => exchange.blocked_at = now_ms,
                Phase::Idle { .. } | Phase::Taken => {}
            }
        }
        self.arm_connection(key);
    }

    /// The kernel takes bytes again.
    pub fn writable(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.flow == Flow::Blocked {
            connection.flow = Flow::Retried;
            self.push_pending(key);
        }
    }

    // Waiting for the commit.

    /// Moves everybody who waits at a log to the pending list.
    pub(super) fn wake(
        log: &mut Log,
        connections: &mut Arena<Connection>,
        links: &mut Links,
        pending: &mut List,
    ) {
        for index in log.waiting.iter(links) {
            if let Some(key) = connections.key_at(index)
                && let Some(connection) = connections.get_mut(key)
            {
                connection.place = Place::Pending;
            }
        }
        pending.append(links, &mut log.waiting);
    }

    /// Holds a complete answer back until event `seq` is visible.
    pub(super) fn hold(&mut self, seq: u64, key: Key) {
        debug_assert!(self.held.back().is_none_or(|(last, _)| *last <= seq));
        self.held.push_back((seq, key));
    }

    pub(super) fn release_held(&mut self) {
        let visible = self.publisher.visible();
        while let Some((seq, key)) = self.held.front().copied()
            && seq <= visible
        {
            self.held.pop_front();
            if let Some(mut exchange) = self.take_exchange(key) {
                self.next_request(&mut exchange);
                self.put_exchange(key, exchange);
                self.advance(key);
            }
        }
    }

    // Deadlines.

    /// Begins a turn: goes on with what waited for the last commit, and works off what is due,
    /// oldest first. Returns whether all of it is done.
    pub fn expire(&mut self) -> bool {
        // Not in the commit: what that has shown is to reach its readers before it can be
        // overwritten.
        self.resume_agents();
        let mut fired = std::mem::take(&mut self.fired);
        let there = self.wheel.advance(self.now_ms, DEADLINES_PER_TURN, |index| fired.push(index));
        for index in fired.drain(..) {
            self.deadline(index);
        }
        self.fired = fired;
        there
    }

    fn session_base(&self) -> u32 {
        self.connections.capacity()
    }

    fn agent_base(&self) -> u32 {
        self.session_base() + self.sessions.capacity()
    }

    fn own_index(&self) -> u32 {
        self.agent_base() + self.agents.capacity()
    }

    fn deadline(&mut self, index: u32) {
        if index < self.session_base() {
            if let Some(key) = self.connections.key_at(index) {
                self.connection_due(key);
            }
        } else if index < self.agent_base() {
            if let Some(key) = self.sessions.key_at(index - self.session_base()) {
                self.session_due(key);
            }
        } else if index < self.own_index() {
            if let Some(key) = self.agents.key_at(index - self.agent_base()) {
                self.agent_due(key);
            }
        } else {
            self.own_due();
        }
    }

    /// Arms the deadline that a connection's state asks for.
    pub(super) fn arm_connection(&mut self, key: Key) {
        let Some(connection) = self.connections.get(key) else { return };
        let (now_ms, limits) = (self.now_ms, &self.limits);
        let stall = match (connection.flow, &connection.phase) {
            (Flow::Blocked, Phase::Http(exchange)) => exchange.blocked_at + limits.write_stall_ms,
            _ => u64::MAX,
        };
        let due = match &connection.phase {
            Phase::Http(exchange) => match exchange.stage {
                // A long poll has a time; what waits for the disk thread has none.
                Stage::Waiting if exchange.due > self.now_ms => exchange.due.min(stall),
                Stage::Waiting | Stage::Held => stall,
                Stage::Head | Stage::Body | Stage::Lingering => exchange.due.min(stall),
                Stage::Ending => stall,
            },
            Phase::Idle { due, .. } => whole_time(now_ms, *due),
            Phase::Stream(reader) => {
                let (beat_ms, quiet_ms) = (u64::from(reader.heartbeat_ms), reader.quiet_ms(now_ms));
                match connection.flow {
                    Flow::Blocked => {
                        now_ms + beat_ms.min(limits.write_stall_ms.saturating_sub(quiet_ms))
                    }
                    Flow::Open | Flow::Retried => now_ms + beat_ms.saturating_sub(quiet_ms),
                }
            }
            Phase::Taken => return,
        };
        // Lazily: an entry that fires too early looks again, one that moved back is re-armed.
        match self.wheel.due(key.index) {
            Some(armed) if armed <= due => {}
            _ if due == u64::MAX => {}
            _ => self.wheel.arm(key.index, due),
        }
    }

    fn connection_due(&mut self, key: Key) {
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(key) else { return };
        let stalled_ms = match &connection.phase {
            _ if connection.flow != Flow::Blocked => 0,
            Phase::Stream(reader) => reader.quiet_ms(now_ms),
            Phase::Http(exchange) => now_ms - exchange.blocked_at,
            Phase::Idle { .. } | Phase::Taken => 0,
        };
        if connection.flow == Flow::Blocked && stalled_ms >= self.limits.write_stall_ms {
            self.counters.limits.hit(Limit::WriteStall);
            if matches!(connection.phase, Phase::Stream(_)) {
                self.counters.readers_cut += 1;
            }
            return self.close(key);
        }
        if let Phase::Http(exchange) = &mut connection.phase
            && now_ms >= exchange.due
            && exchange.stage == Stage::Body
            && Self::goes_on(exchange, now_ms, &self.limits)
        {
            return self.arm_connection(key);
        }
        match &mut connection.phase {
            Phase::Stream(_) => self.heartbeat_due(key),
            Phase::Idle { due, .. } if now_ms >= whole_time(now_ms, *due) => {
                self.counters.limits.hit(Limit::KeepAlive);
                return self.close(key);
            }
            Phase::Http(exchange) if now_ms >= exchange.due => match exchange.stage {
                Stage::Waiting => self.wait_is_over(key),
                Stage::Held | Stage::Ending => {}
                Stage::Lingering => return self.close(key),
                // A slow client still takes its reply: the stall deadline judges that.
                _ if exchange.has_output() => exchange.due = now_ms + self.limits.keep_alive_ms,
                Stage::Head if exchange.input.is_empty() => {
                    self.counters.limits.hit(Limit::KeepAlive);
                    return self.close(key);
                }
                Stage::Head | Stage::Body => return self.answer_timeout(key),
            },
            Phase::Idle { .. } | Phase::Http(_) | Phase::Taken => {}
        }
        self.arm_connection(key);
    }

    /// Whether a body that is not whole may take longer: there is time, and it comes in fast
    /// enough.
    fn goes_on(exchange: &mut Exchange, now_ms: u64, limits: &Limits) -> bool {
        let Some(body_due) = exchange.body_due else { return false };
        let needed = limits.body_rate_min as u64 * BODY_WINDOW_MS / 1000;
        if now_ms >= body_due || exchange.received - exchange.received_before < needed {
            return false;
        }
        exchange.received_before = exchange.received;
        exchange.due = body_due.min(now_ms + BODY_WINDOW_MS);
        true
    }

    /// A request did not arrive in time.
    fn answer_timeout(&mut self, key: Key) {
        let Some(mut exchange) = self.take_exchange(key) else { return };
        self.counters.requests_late += 1;
        self.answer_late(&mut exchange);
        exchange.close = true;
        exchange.stage = Stage::Ending;
        self.put_exchange(key, exchange);
    }

    /// Arms a session's deadline.
    pub(super) fn arm_session(&mut self, key: Key, due: u64) {
        let index = self.session_base() + key.index;
        if due == u64::MAX {
            self.wheel.cancel(index);
        } else if self.wheel.due(index).is_none_or(|armed| armed > due) {
            self.wheel.arm(index, due);
        }
    }

    /// Arms an agent's deadline.
    pub(super) fn arm_agent(&mut self, key: Key) {
        let due = self.agents.get(key).map_or(u64::MAX, Agent::due);
        let index = self.agent_base() + key.index;
        if due == u64::MAX {
            self.wheel.cancel(index);
        } else {
            self.wheel.arm(index, due);
        }
    }

    /// Arms the server's own deadline.
    pub(super) fn arm_own(&mut self) {
        let closed = self.closed.front().and_then(|key| self.sessions.get(*key));
        let closed = closed.and_then(|session| session.closed_at);
        let mut due = closed.map_or(u64::MAX, |at| at + CLOSED_KEPT_MS);
        if let Drain::Delayed(at) | Drain::Draining(at) = self.drain {
            due = due.min(at);
        }
        due = due.min(self.keeper.retry_at());
        let index = self.own_index();
        if due == u64::MAX {
            self.wheel.cancel(index);
        } else {
            self.wheel.arm(index, due);
        }
    }

    fn own_due(&mut self) {
        self.retry_append();
        while let Some(key) = self.closed.front().copied() {
            let kept = self.sessions.get(key).and_then(|session| session.closed_at);
            if kept.is_some_and(|at| self.now_ms < at + CLOSED_KEPT_MS) {
                break;
            }
            self.forget_session(key);
        }
        if let Drain::Delayed(at) = self.drain
            && self.now_ms >= at
        {
            self.begin_drain();
        }
        if let Drain::Draining(at) = self.drain
            && self.now_ms >= at
        {
            // The shell sees `finished`; nothing else is left to wait for.
            return;
        }
        self.arm_own();
    }

    // Facts of the disk thread.

    /// The disk thread has answered.
    pub fn disk_replied(&mut self, reply: DiskReply) {
        match reply {
            DiskReply::Directory { ticket, result } => self.directory_resolved(ticket, result),
            DiskReply::Listed { ticket, result } => self.directories_listed(ticket, result),
            DiskReply::Trust { session, commands, hash } => {
                self.trust_looked_at(session, commands, hash);
            }
            DiskReply::Remembered(None) => {}
            DiskReply::Remembered(Some(error)) => {
                let fields = vec![("error", error)];
                self.log(Level::Warn, "disk", "the next start will not know of this", fields);
            }
            DiskReply::Tokens(result) => self.tokens_read(result),
            DiskReply::Sampled(connection, sample) => self.sampled(connection, &sample),
            DiskReply::Swept { agent, killed } => self.agent_swept(agent, killed),
            DiskReply::Appended(batch, result) => self.appended(batch, result),
            DiskReply::Read(read, result) => self.piece_read(*read, result),
            DiskReply::Page(page, result) => self.page_read(*page, result),
            DiskReply::Large { connection, result } => self.large_read(connection, result),
            DiskReply::Removed(Ok(())) => {}
            DiskReply::Removed(Err(error)) => {
                let told = vec![("error", error)];
                self.log(Level::Warn, "journal", "cannot remove", told);
            }
        }
    }

    /// The answer to a request that waited has been written: send it, then go on.
    pub(super) fn resume_answer(
        &mut self,
        key: Key,
        write: impl FnOnce(&mut Self, &mut Exchange) -> Option<u64>,
    ) {
        let Some(mut exchange) = self.take_exchange(key) else { return };
        if exchange.stage != Stage::Waiting {
            return self.put_exchange(key, exchange);
        }
        match write(self, &mut exchange) {
            Some(seq) if seq > self.publisher.visible() => {
                exchange.stage = Stage::Held;
                self.hold(seq, key);
                self.put_exchange(key, exchange);
            }
            _ => {
                self.next_request(&mut exchange);
                self.put_exchange(key, exchange);
                self.advance(key);
            }
        }
    }

    /// The kernel has said who is behind a connection, as [`Effect::WhoIs`] asked.
    pub fn asker_known(&mut self, key: Key, asker: Asker) {
        let Some(mut exchange) = self.take_exchange(key) else { return };
        if exchange.stage != Stage::Waiting || exchange.asker != Asking::Asked {
            return self.put_exchange(key, exchange);
        }
        exchange.asker = Asking::Known(asker);
        if self.answer(key, exchange) {
            self.advance(key);
        }
    }

    // The end.

    /// SIGTERM or SIGINT. The first begins to drain, the second ends everything now.
    pub fn stop(&mut self) {
        match self.drain {
            Drain::Serving if self.limits.drain_delay_ms > 0 => {
                self.drain = Drain::Delayed(self.now_ms + self.limits.drain_delay_ms);
                self.arm_own();
            }
            Drain::Serving => self.begin_drain(),
            Drain::Delayed(_) | Drain::Draining(_) => {
                self.drain = Drain::Draining(self.now_ms);
                self.kill_agents();
            }
        }
    }

    fn begin_drain(&mut self) {
        self.drain = Drain::Draining(self.now_ms + self.limits.drain_timeout_ms);
        self.effects.push_back(Effect::CloseListeners);
        self.end_waits(|_| true);
        self.withdraw_trust();
        self.stop_agents();
        for index in 0..self.connections.capacity() {
            let Some(key) = self.connections.key_at(index) else { continue };
            match self.connections.get_mut(key).map(|connection| &mut connection.phase) {
                Some(Phase::Stream(_)) => self.shut_stream(key),
                Some(Phase::Idle { .. }) => self.close(key),
                Some(Phase::Http(exchange)) if exchange.is_idle() => self.close(key),
                Some(Phase::Http(exchange)) => exchange.close = true,
                Some(Phase::Taken) | None => {}
            }
        }
        self.arm_own();
    }

    /// Whether the server ends what it has, and takes nothing new.
    pub fn is_draining(&self) -> bool {
        matches!(self.drain, Drain::Draining(_))
    }

    /// Whether everything has come to its end, or the time for that is up.
    pub fn finished(&self) -> Option<End> {
        let Drain::Draining(at) = self.drain else { return None };
        if self.agents.is_empty() && self.connections.is_empty() && !self.publisher.has_hidden() {
            return Some(End::Clean);
        }
        (self.now_ms >= at).then_some(End::Cut)
    }

    /// Whether this connection still exists.
    pub fn has_connection(&self, key: Key) -> bool {
        self.connections.get(key).is_some()
    }

    /// How many client connections, sessions that are not closed, and agents there are.
    pub fn population(&self) -> (usize, usize, usize) {
        (self.connections.len(), self.by_id.len(), self.agents.len())
    }

    /// The visible frames of all sessions from `position` on, and the position behind them; `None`
    /// if the log has outrun it. For the simulation, whose truth they are.
    pub fn visible_frames(&self, position: u64) -> Option<(Vec<u8>, u64)> {
        let log = &self.publisher.all;
        let end = log.visible();
        match log.ring.at(position, end) {
            Found::Bytes(part, wrapped) => Some(([part, wrapped].concat(), end)),
            Found::CaughtUp => Some((Vec::new(), end)),
            Found::Lapped => None,
        }
    }

    /// Checks what must hold between any two inputs. For tests and the simulation.
    pub fn check(&self) {
        let mut waiting = vec![0u32; self.sessions.capacity() as usize];
        let mut starved = 0;
        let (mut pending, mut waiting_all, mut readers_all, mut streams) = (0, 0, 0, 0);
        let mut readers = vec![0u32; self.sessions.capacity() as usize];
        for index in 0..self.connections.capacity() {
            let Some(key) = self.connections.key_at(index) else { continue };
            let connection = self.connections.get(key).expect("just seen");
            assert!(!matches!(connection.phase, Phase::Taken), "an exchange was not put back");
            pending += u32::from(connection.place == Place::Pending);
            starved += u32::from(connection.place == Place::Starved);
            assert!(!(connection.flow == Flow::Blocked && connection.place != Place::Nowhere));
            let Phase::Stream(reader) = &connection.phase else {
                assert_ne!(connection.place, Place::Waiting);
                continue;
            };
            streams += 1;
            let is_waiting = u32::from(connection.place == Place::Waiting);
            let log = match reader.whose.session() {
                None => {
                    readers_all += 1;
                    waiting_all += is_waiting;
                    &self.publisher.all
                }
                Some(session) => {
                    readers[session as usize] += 1;
                    waiting[session as usize] += is_waiting;
                    &self.sessions.at(session).expect("a reader's session exists").feed.log
                }
            };
            assert!(reader.position <= log.visible(), "a reader is ahead of what is visible");
            let is_blocked = connection.flow == Flow::Blocked;
            let idle = connection.place == Place::Nowhere && !is_blocked;
            assert!(!idle, "a reader that nobody will come back to");
        }
        assert_eq!(pending, self.pending.len());
        assert_eq!(starved, self.starved.len());
        assert_eq!(waiting_all, self.publisher.all.waiting.len());
        assert_eq!(readers_all, self.publisher.all.readers);
        for index in 0..self.sessions.capacity() {
            let Some(key) = self.sessions.key_at(index) else { continue };
            let session = self.sessions.get(key).expect("just seen");
            assert_eq!(session.feed.log.waiting.len(), waiting[index as usize]);
            assert_eq!(session.feed.log.readers, readers[index as usize]);
            assert!(session.prompts.queue.len() <= self.limits.queue_max);
            assert!(session.approvals.open.len() <= self.limits.approvals_max);
            if let Some(agent) = session.process {
                assert_eq!(self.agents.get(agent).map(|agent| agent.session), Some(key));
            }
        }
        let (mut requests_size, mut bodies_size) = (0, 0);
        for index in 0..self.connections.capacity() {
            match self.connections.at(index).map(|connection| &connection.phase) {
                Some(Phase::Http(exchange)) => {
                    requests_size += exchange.counted.0;
                    bodies_size += exchange.counted.1;
                    assert!(exchange.counted.0 >= exchange.memory().0, "uncounted buffers");
                }
                Some(Phase::Stream(reader)) => {
                    requests_size += reader.rare.as_ref().map_or(0, |rare| rare.counted);
                }
                Some(Phase::Idle { .. } | Phase::Taken) | None => {}
            }
        }
        assert_eq!(requests_size, self.requests_size, "bytes of requests");
        assert_eq!(bodies_size, self.bodies_size, "bytes of request bodies");
        self.check_start_queue();
        let counters = &self.counters;
        assert_eq!(counters.streams_opened - counters.streams_closed, streams);
        let connections = counters.connections_accepted - counters.connections_closed;
        assert_eq!(connections, self.connections.len() as u64);
        let queued: usize = (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .map(|session| session.prompts.size())
            .chain(
                (0..self.agents.capacity()).filter_map(|at| Some(self.agents.at(at)?.prompt_size)),
            )
            .sum();
        assert_eq!(queued, self.queue_size, "bytes of waiting prompts");
    }

    /// Nobody waits for a process while one is to be had, or could be spared.
    fn check_start_queue(&self) {
        let waiting = self.start_queue.iter().filter_map(|key| self.sessions.get(*key));
        if self.is_draining()
            || !waiting.into_iter().any(|s| !s.archived && !s.deleting && s.closed_at.is_none())
        {
            return;
        }
        let agents = (0..self.agents.capacity())
            .filter_map(|index| self.agents.get(self.agents.key_at(index)?));
        let (mut starting, mut leaving) = (0, 0);
        for agent in agents {
            starting += u32::from(matches!(agent.life, Life::Spawning | Life::Starting));
            leaving += u32::from(agent.is_leaving());
        }
        let full = self.agents.len() >= self.agents.capacity() as usize;
        assert!(full || starting >= self.limits.agents_starting_max, "a process is to be had");
        let spare = (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .any(|session| session.is_dispensable() && self.background_of(session) == 0);
        assert!(!(full && spare && leaving == 0), "an idle agent keeps a session waiting");
    }
}
