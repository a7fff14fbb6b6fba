//! The whole server as one state machine: connections, sessions, agents, and the turn of the loop.
//!
//! The shell tells it facts and bytes, one at a time, and drains the effects after each. Then, once
//! a turn, it commits: what was published becomes visible, readers with news move to the pending
//! list, and answers that waited for their event go. What endpoints exist is `api.rs`'s business,
//! what an agent's lines mean `dialect.rs`'s, and no system call is made anywhere.

use crate::base::arena::{Arena, Key};
use crate::base::list::{Links, List};
use crate::base::wheel::Wheel;
use crate::core::access::Access;
use crate::core::access::tokens::Digest;
use crate::core::addresses::Addresses;
use crate::core::agent::Agent;
use crate::core::commit::Keeper;
use crate::core::connection::{Asking, Connection, Exchange, Phase, Rare, Stage};
use crate::core::effect::{Asker, DiskReply, Effect, Level, LogLine, Program};
use crate::core::epochs::{Durability, Epochs};
use crate::core::hooks::Chosen;
use crate::core::large::LargeFields;
use crate::core::log::Log;
use crate::core::metrics::Counters;
use crate::core::names::Names;
use crate::core::past::Pieces;
use crate::core::publisher::Publisher;
use crate::core::random::Random;
use crate::core::session::Session;
use crate::core::shared::Shared;
use crate::core::streams::Beat;
use crate::core::tails::Tails;
use crate::core::tickets::Tickets;
use crate::core::trust::Look;
use crate::core::waits::{Cursor, Waits};
use crate::limits::{Limits, POOL_MAX};
use crate::wire::json;
use crate::wire::reply::{self, HttpDate};
use std::collections::{BTreeSet, VecDeque};
use std::path::{Path, PathBuf};

/// [`Key::kind`] of a client connection.
pub const KIND_CONNECTION: u8 = 1;
/// [`Key::kind`] of a session.
pub const KIND_SESSION: u8 = 2;
/// [`Key::kind`] of an agent.
pub const KIND_AGENT: u8 = 3;

/// Deadlines worked off in one turn, so that a burst of them does not hold up the rest.
pub(super) const DEADLINES_PER_TURN: usize = 4096;
/// What one more request is expected to take, when it is judged whether there is room for it.
pub(super) const REQUEST_SIZE: usize = size_of::<Exchange>() + 4096;

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
    /// This node's name in the ids of its sessions; empty: none.
    pub node: String,
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
    /// All ended, and the journal took no writes to the last: not everything that was shown is in it.
    Unwritten,
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
    pub(super) pages: Vec<(Key, Cursor, u64)>,
    pub(super) connections: Arena<Connection>,
    pub(super) links: Links,
    /// Connections with something to send.
    pub(super) pending: List,
    pub(super) sessions: Arena<Session>,
    /// Where sessions work.
    pub(super) dirs: Shared<Path>,
    /// Their models and modes.
    pub(super) words: Shared<str>,
    pub(super) by_id: Names,
    pub(super) agents: Arena<Agent>,
    /// Sweeps done per agent slot since its exit.
    pub(super) sweeps: Vec<u32>,
    pub(super) facts: Vec<AgentFacts>,
    pub(super) wheel: Wheel,
    pub(super) fired: Vec<u32>,
    pub(super) effects: VecDeque<Effect>,
    #[expect(clippy::vec_box, reason = "a box is handed to a connection as it is")]
    pub(super) exchanges: Vec<Box<Exchange>>,
    #[expect(clippy::vec_box, reason = "a box is handed to a reader as it is")]
    pub(super) rares: Vec<Box<Rare>>,
    /// Bytes of requests' heads and of replies, and of what streams open with.
    pub(super) requests_size: usize,
    /// Connections whose bytes stay in the kernel until there is room for them, oldest first.
    pub(super) starved: List,
    pub(super) beat: Beat,
    /// Answers that wait for their event, in its order.
    pub(super) held: VecDeque<(u64, Key)>,
    /// What the disk thread was asked about directories, by number, and who waits for its answer.
    pub(super) errands: Vec<(u64, PendingDirectory)>,
    /// The number of its next question.
    pub(super) next_errand: u64,
    /// Links that answer approvals.
    pub(super) tickets: Tickets,
    /// The agent that has the long-line buffer, and those that wait for it.
    pub(super) long_line: VecDeque<Key>,
    /// The buffer itself, between two long lines of one turn.
    pub(super) long_line_buffer: Option<Vec<u8>>,
    /// Sessions that wait for a process, oldest first.
    pub(super) start_queue: VecDeque<Key>,
    /// Directories that are looked at for sessions that are about to start, oldest first: each has a
    /// place among the agents that start.
    pub(super) looks: VecDeque<Look>,
    /// Agents whose output waits for the next commit.
    pub(super) paused: Vec<Key>,
    /// When sessions were created, those of the last second.
    pub(super) creations: VecDeque<u64>,
    /// Connections by the address they are counted under.
    pub(super) addresses: Addresses,
    /// When logins failed, the last of them.
    pub(super) login_failures: VecDeque<u64>,
    pub(super) bodies_size: usize,
    pub(super) queue_size: usize,
    pub(super) drain: Drain,
    /// What is counted.
    pub counters: Counters,
    pub(super) date: (u64, HttpDate),
    /// What `/health` says: it is asked most, and always says the same.
    pub(super) health: Vec<u8>,
    /// Closed sessions whose logs are still served, oldest first.
    pub(super) closed: VecDeque<Key>,
    /// Their ids.
    pub(super) closed_ids: Names,
    /// How many agents the operator configured; those behind are named by old sessions only.
    pub(super) configured: usize,
    /// Bodies that are sent in pieces.
    pub(super) tails: Tails,
    /// Pages of journals that the disk thread was asked for.
    pub(super) pages_read: u32,
    /// Requests that wait for something to happen.
    pub(super) waits: Waits,
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
        let sessions_max = limits.sessions_room();
        let indices = limits.connections_max + sessions_max + limits.agents_max + 1;
        let durability = birth.epochs.present().durability;
        let journals = durability != Durability::Memory;
        let mut health = Vec::new();
        json::object(&mut health, |object| {
            object.string("status", "ok");
            object.string("version", config.version);
        });
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
            dirs: Shared::default(),
            words: Shared::default(),
            by_id: Names::default(),
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
            errands: Vec::new(),
            tickets: Tickets::new(config.ticket_key),
            next_errand: 1,
            long_line: VecDeque::new(),
            long_line_buffer: None,
            start_queue: VecDeque::new(),
            looks: VecDeque::new(),
            paused: Vec::new(),
            creations: VecDeque::new(),
            addresses: Addresses::default(),
            login_failures: VecDeque::new(),
            bodies_size: 0,
            queue_size: 0,
            drain: Drain::Serving,
            counters: Counters::default(),
            date: (u64::MAX, reply::http_date(0)),
            health,
            closed: VecDeque::new(),
            closed_ids: Names::default(),
            tails: Tails::default(),
            pages_read: 0,
            waits: Waits::default(),
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
            || self.has_turn_for_wait()
            || !self.starved.is_empty() && self.has_room()
            || self.tails.has_work()
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

    // Facts of the disk thread.

    /// The disk thread has answered.
    pub fn disk_replied(&mut self, reply: DiskReply) {
        match reply {
            DiskReply::Directory { errand, result } => self.directory_resolved(errand, result),
            DiskReply::Listed { errand, result } => self.directories_listed(errand, result),
            DiskReply::Trust { errand, brought } => self.trust_looked_at(errand, &brought),
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
            DiskReply::Large { connection, part, result } => {
                self.large_read(connection, part, result);
            }
            DiskReply::Erased { session_id, last_seq, result } => {
                self.erased(session_id, last_seq, result);
            }
            DiskReply::Dropped(Ok(())) => {}
            DiskReply::Dropped(Err(error)) => {
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
        exchange.close |= self.is_draining(); // It waited, and is told so now.
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

    /// The same for an answer that may be long: if there is no room for it any more, the client is
    /// told so instead, and can ask again.
    pub(super) fn resume_long_answer(
        &mut self,
        key: Key,
        write: impl FnOnce(&mut Self, &mut Exchange) -> Option<u64>,
    ) {
        match self.has_room() {
            true => self.resume_answer(key, write),
            false => self.answer_no_room(key),
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

    pub(super) fn begin_drain(&mut self) {
        self.drain = Drain::Draining(self.now_ms + self.limits.drain_timeout_ms);
        self.effects.push_back(Effect::CloseListeners);
        self.end_waits();
        self.withdraw_trust();
        self.stop_agents();
        self.hurry_leftovers();
        for index in 0..self.connections.capacity() {
            let Some(key) = self.connections.key_at(index) else { continue };
            match self.connections.get_mut(key).map(|connection| &mut connection.phase) {
                Some(Phase::Stream(_)) => self.shut_stream(key),
                Some(Phase::Idle { .. }) => self.close(key),
                Some(Phase::Http(exchange)) if exchange.is_idle() => self.close(key),
                Some(Phase::Http(exchange)) => exchange.close = true,
                Some(Phase::Taken) | None => {}
            }
            self.arm_connection(key); // Who takes nothing has less time from now on.
        }
        self.arm_own();
    }

    /// Whether the server ends what it has, and takes nothing new.
    pub fn is_draining(&self) -> bool {
        matches!(self.drain, Drain::Draining(_))
    }

    /// When the drain is cut, if there is one.
    pub fn drain_due(&self) -> Option<u64> {
        if let Drain::Draining(at) = self.drain { Some(at) } else { None }
    }

    /// Whether everything has come to its end, or the time for that is up.
    pub fn finished(&self) -> Option<End> {
        let Drain::Draining(at) = self.drain else { return None };
        let is_written = !self.publisher.has_hidden() && !self.keeper.leftovers.is_busy();
        if self.is_deserted() && is_written {
            match self.keeper.failure() {
                None if self.keeper.is_well() => return Some(End::Clean),
                Some(_) if self.keeper.has_tried_last() => return Some(End::Unwritten),
                _ => {}
            }
        }
        (self.now_ms >= at).then_some(End::Cut)
    }

    /// Whether nothing is left that could say or hear anything.
    pub(super) fn is_deserted(&self) -> bool {
        self.agents.is_empty() && self.connections.is_empty()
    }

    /// Whether this connection still exists.
    pub fn has_connection(&self, key: Key) -> bool {
        self.connections.get(key).is_some()
    }

    /// How many client connections, sessions that are not closed, and agents there are.
    pub fn population(&self) -> (usize, usize, usize) {
        (self.connections.len(), self.by_id.len(), self.agents.len())
    }
}
