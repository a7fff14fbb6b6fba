//! Every bound of the server, and their sum in bytes.
//!
//! A container anywhere above `wire` takes its capacity from here, so this file is the whole
//! answer to "how much can it hold": [`Limits`] is what an option moves, the constants are what
//! none does. (What a parser of `wire` bounds by itself, such as a chunk's extensions, stands with
//! it.) [`Limits::fit`] lowers what the kernel would refuse; [`Limits::memory`] is the sum that is
//! printed at start-up.

use crate::base::ring::Ring;
use crate::base::wheel::Wheel;
use crate::core::agent::Agent;
use crate::core::connection::{Connection, Exchange, Rare};
use crate::core::epochs::Durability;
use crate::core::journal::{INDEX_STEP, SEGMENT_INDEX_MAX};
use crate::core::session::Session;
use crate::core::turn::TURN_SIZE;

/// One kibibyte, in bytes.
pub const KIB: usize = 1024;
/// One mebibyte, in bytes.
pub const MIB: usize = 1024 * KIB;

/// Bytes as bounds on memory are told: whole mebibytes, and never fewer than there may be.
pub fn mebibytes(bytes: u64) -> u64 {
    bytes.div_ceil(MIB as u64)
}

/// The heartbeat of streams where nobody asks for another, in milliseconds.
pub const HEARTBEAT_MS: u64 = 15_000;
/// What a client may ask for, in milliseconds.
pub const HEARTBEATS_MS: std::ops::RangeInclusive<u64> = 5_000..=60_000;
/// So many heartbeats that do not come are a stream that is dead.
pub const HEARTBEATS_MISSED: u64 = 3;

/// File descriptors kept free for everything that is not a client: listeners, the poller, the
/// wakers, standard streams, the disk thread's files, the reserve for EMFILE.
const FILES_RESERVED: u32 = 64;
/// What the shell keeps for one connection: its socket's slot, and its place on the ready list.
/// Held to by a check there.
pub const SOCKET_SIZE: usize = 40;
/// The longest reply but for large fields: it is written whole before it is counted. One event that
/// is longer than the page that it is on makes a longer one, see [`Limits::terms`].
pub const REPLY_SIZE: usize = MIB;
/// A list ends with the element that goes beyond this: it is then told that there are more.
pub const LIST_SIZE: usize = REPLY_SIZE / 4 * 3;
/// What of one prompt is shown in a list of those that wait, in bytes.
pub const PROMPT_SHOWN_MAX: usize = 4 * KIB;
/// What an agent says of its models, or of its commands; what is longer is not kept.
pub const FACT_SIZE_MAX: usize = 256 * KIB;
/// An approval of more bytes is shown in a list without its input, which has a place of its own.
pub const APPROVAL_SHOWN_MAX: usize = 32 * KIB;
/// What a session keeps beside its log and its prompts: names, approvals, the ids of prompts, rules.
const SESSION_SIZE: usize = 64 * KIB + GRANTED_SIZE_MAX + GRANTED_MAX * size_of::<Box<str>>();
/// Rules that may be granted for one session, and their JSON together, in bytes. Each becomes an
/// argument of the session's next agent.
pub const GRANTED_MAX: usize = 128;
/// See [`GRANTED_MAX`].
pub const GRANTED_SIZE_MAX: usize = 16 * KIB;
/// The longest argument that the kernel takes (`MAX_ARG_STRLEN`), its end included.
pub const ARGUMENT_SIZE_MAX: usize = 128 * KIB;
/// Exchanges and rare parts of readers that are kept for the next connection.
const POOL_SIZE: usize =
    POOL_MAX * (size_of::<Exchange>() + 3 * KEPT_BUFFER_SIZE + size_of::<Rare>() + KEPT_OWN_SIZE);
/// The loop's read buffer and its events; the disk thread's stack; the log's line; the program, and its
/// pages unpacked.
const FIXED_SIZE: usize = 8 * MIB;
/// Events on their way to the operator's commands: those that are not visible yet, and again those
/// whose command waits for its turn.
pub const HOOKS_SIZE_MAX: usize = MIB;
/// What is known of the tickets that were given out.
const TICKETS_SIZE: usize = 2 * MIB;

/// The body of a request for which nobody is asked for a token: a login, a tap on a ticket's button.
pub const OPEN_BODY_SIZE_MAX: usize = 4 * KIB;
/// Values in one body's JSON, however nested. Each takes some hundred bytes while the body is understood,
/// so that all of them stay below the largest body itself.
pub const BODY_VALUES_MAX: usize = 16 * 1024;

// What a request may say: part of the API, and told by `--help`.

/// The longest name, model or client id, in characters.
pub const NAME_LENGTH_MAX: usize = 200;
/// The longest prompt id.
pub const PROMPT_ID_SIZE_MAX: usize = 128;
/// The largest image, in bytes of base64: what the API takes.
pub const IMAGE_SIZE_MAX: usize = 5 * MIB;
/// Images of one prompt.
pub const IMAGES_MAX: usize = 20;
/// How many sessions a stream or a poll over several may name.
pub const SESSIONS_NAMED_MAX: usize = 1000;
/// The longest time a request may wait for something to happen, in seconds.
pub const WAIT_S_MAX: u64 = 60;
/// The longest opening comment a client may ask for.
pub const PAD_MAX: usize = 64 * KIB;
/// The longest token that is looked at, in bytes.
pub const TOKEN_SIZE_MAX: usize = 256;
/// The longest name of a token, in bytes.
pub const TOKEN_NAME_SIZE_MAX: usize = 64;
/// Entries of a token file: every request is compared with all of them.
pub const TOKENS_MAX: usize = 256;
/// The largest file of tokens or of cookies, in bytes: more than all the lines there may be. Of cookies that
/// is so because each start writes only those of tokens that still are.
pub const TOKEN_FILE_SIZE_MAX: u64 = 256 * KIB as u64;
/// Cookies of one name that are tried, of those that a request brings.
pub const COOKIES_TRIED_MAX: usize = 8;
/// Tickets kept: two for each of so many approvals. Beyond them the oldest are worth nothing.
pub const TICKETS_MAX: usize = 4096;

// What is kept of a session and of its agent.

/// How many prompt ids a session remembers.
pub const PROMPT_IDS_KEPT: usize = 256;
/// How many decisions are remembered, to tell late answers.
pub const DECISIONS_KEPT: usize = 256;
/// Tool calls that may be open at once; further ones are passed on as they come.
pub const TOOLS_MAX: usize = 256;
/// Text of an open block that is kept for the case that its agent dies, and of the last one.
pub const BLOCK_SIZE_MAX: usize = MIB;
/// A tool's structured result is told up to this size; its text always is.
pub const STRUCTURED_SIZE_MAX: usize = 64 * KIB;
/// Messages whose operations are collected at one time: the main one, and those of subagents.
pub const SPEAKERS_MAX: usize = 64;
/// Messages whose number of blocks is remembered: their blocks come one line each.
pub const MESSAGES_KEPT: usize = 16;
/// Entries of an agent's list of things to do that are kept and told.
pub const LIST_ITEMS_MAX: usize = 200;
/// Subagents that may be open in one session.
pub const SUBAGENTS_MAX: usize = 64;
/// How long a closed session still serves the end of its log, in milliseconds.
pub const CLOSED_KEPT_MS: u64 = 60_000;
/// Lines up to this length need no long-line buffer.
pub const LINE_SIZE: usize = 64 * KIB;
/// One read of standard error, or of an agent that speaks no lines.
pub const AGENT_READ_SIZE: usize = 16 * KIB;
/// The newest bytes of standard error that are kept, to say why an agent died.
pub const STDERR_TAIL_SIZE: usize = 4 * KIB;
/// A settings file of a directory that is larger, in bytes, is told as one that cannot be read.
pub const TRUST_FILE_SIZE_MAX: u64 = MIB as u64;
/// Commands of one directory that a question about trust lists; more are counted.
pub const TRUST_COMMANDS_MAX: usize = 100;

// What is kept of a client.

/// A head of no more bytes is a small one: for those that come whole there is room longest.
pub const SMALL_HEAD_SIZE: usize = 2 * KIB;
/// Sixteenths of the room for requests that only small heads that come whole may take, and answers.
pub const KEPT_FROM_GROWTH: usize = 1;
/// The same, and what goes on: answers to those who wait may not take it.
pub const KEPT_FROM_WAITS: usize = 4;
/// Where there are tokens: what small heads of those who have not shown one may not take while their
/// rest is missing,
pub const KEPT_FROM_STRANGERS_HEADS: usize = 6;
/// and whatever else is theirs.
pub const KEPT_FROM_STRANGERS: usize = 8;
/// Bytes of replies that may be pending before the next pipelined request is looked at.
pub const PENDING_REPLIES_SIZE: usize = 16 * KIB;
/// Buffers longer than this, in bytes, are given back to the allocator rather than kept for the next one.
pub const KEPT_BUFFER_SIZE: usize = 16 * KIB;
/// The same of what a stream says beside its frames.
pub const KEPT_OWN_SIZE: usize = 4 * KIB;
/// How long a client that was refused or cut may still send before we hang up on it, in milliseconds.
pub const LINGER_MS: u64 = 2_000;
/// How long a body's rate is watched before it is judged, in milliseconds.
pub const BODY_WINDOW_MS: u64 = 5_000;
/// What clients that are gone have had beside their slots, kept for the next ones.
pub const POOL_MAX: usize = 64;

// What is told at once.

/// How much of a session's last prompt is shown in lists, in bytes.
pub const LAST_PROMPT_SIZE: usize = 200;
/// The most bytes of events in one answer.
pub const PAGE_SIZE_MAX: usize = 256 * KIB;
/// The most text in one `session-output` event, in bytes. Half of it where a ring is small: text
/// of control characters grows sixfold when it is encoded.
pub const CONTENT_SIZE_MAX: usize = 64 * KIB;
/// Bytes of a large field that stay in its frame.
pub const PREVIEW_SIZE: usize = 1024;
/// The most bytes of past that a compact view opens with: a screen, also on a slow network.
pub const COMPACT_SIZE_MAX: u64 = 192 * KIB as u64;
/// How much of an id that no session has is shown, in characters.
pub const UNKNOWN_ID_LENGTH: usize = 80;
/// Bytes of such ids in one answer: `connected` comes in one small packet.
pub const UNKNOWN_IDS_SIZE_MAX: usize = 1024;
/// Open approvals that `connected` names, for the same reason. All of them are at `/approvals`.
pub const APPROVALS_SHOWN_MAX: usize = 32;

// What is on its way to the disk, or from it.

/// Bytes of a piece of a journal on its way to a reader. One frame that is longer comes whole.
pub const PIECE_SIZE: usize = 64 * KIB;
/// Such pieces that are read, or being sent, at one time: each is sent in the turn in which it comes.
pub const PIECES_MAX: usize = 16;
/// Bytes of a piece of a large field on its way to a client.
pub const TAIL_PIECE_SIZE: usize = 64 * KIB;
/// Such pieces that are looked for on disk, or being sent, at one time.
pub const TAIL_PIECES_MAX: usize = 16;
/// Rings of sessions without a process, which readers that are behind may still read.
pub const RINGS_KEPT: usize = 8;
/// Large fields on their way to the disk, in bytes, that make agents wait until they are there.
pub const BESIDE_MAX: usize = MIB;
/// Requests that the disk thread is handed before they wait in the loop.
pub const DISK_REQUESTS_MAX: usize = 64;
/// Segments that are kept open for writing: one per session that runs, and some.
pub const HANDLES_MAX: usize = 48;

// The operator's commands.

/// Events that wait to become visible, and to be told. Those above are not told.
pub const HOOKS_KNOWN_MAX: usize = 1024;
/// How long a command may run, in milliseconds.
pub const HOOK_RUN_MS: u64 = 10_000;
/// Commands that run at once.
pub const HOOKS_RUNNING_MAX: usize = 4;
/// Commands that wait for their turn, so that a burst of events is told.
pub const HOOKS_WAITING_MAX: usize = 64;

/// Descriptors of one agent: three pipes and a pidfd, and as many again while it is spawned.
const FILES_PER_AGENT: u32 = 8;

/// The least descriptors for clients that make a server.
const CONNECTIONS_MIN: u32 = 16;

/// Bounds that a flag sets. Durations are milliseconds, sizes bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// The memory log of one session. A power of two.
    pub ring_size: usize,
    /// The memory log that many-session streams read. A power of two.
    pub all_ring_size: usize,
    /// A request's line and fields together.
    pub head_size_max: usize,
    /// Fields in one request head.
    pub head_fields_max: usize,
    /// From a request's first byte to the end of its head.
    pub head_timeout_ms: u64,
    /// One request body.
    pub body_size_max: usize,
    /// All request bodies that are held at one time.
    pub bodies_size_max: usize,
    /// Heads, replies, requests that wait and what streams open with, all that are held at one time.
    /// Beyond it clients wait in the kernel, and those who are due an answer in line.
    pub requests_size_max: usize,
    /// From the end of a head to the end of its body.
    pub body_timeout_ms: u64,
    /// Bytes a second that a body must bring, looked at every five seconds, and that a client must take
    /// of its replies once it lets them wait, looked at each `write_stall_ms`. 0: any.
    pub body_rate_min: usize,
    /// Requests on one connection whose replies its client has not taken: the next one waits.
    pub pipeline_max: u32,
    /// Requests that may wait for something to happen: long polls, prompts with `?wait=`. Their memory
    /// and that of their answers is among the requests'.
    pub waits_max: usize,
    /// Logins that may fail in any one minute; then all must wait.
    pub login_failures_max: u32,
    /// Tickets that may be asked for in any one minute and are none; whoever holds one is not kept out.
    pub ticket_misses_max: u32,
    /// Pages of journals that are read at one time.
    pub pages_read_max: u32,
    /// Between two requests on one connection.
    pub keep_alive_ms: u64,
    /// Client connections. Lowered by [`Limits::fit`] to what the descriptors allow.
    pub connections_max: u32,
    /// Client connections from one address that a trusted proxy reports.
    pub connections_per_address_max: u32,
    /// Streams of one session.
    pub readers_per_session_max: u32,
    /// Sessions that are not closed.
    pub sessions_max: u32,
    /// Those that the start has found. All of them are served, even if they are more than may be: then
    /// none is created until fewer are left.
    pub sessions_found: u32,
    /// Closed sessions whose end is still served to readers that come back for it.
    pub closed_sessions_max: u32,
    /// Session creations in any one second.
    pub session_creations_per_s: u32,
    /// Agent processes.
    pub agents_max: u32,
    /// Agent processes that have not yet said that they are ready.
    pub agents_starting_max: u32,
    /// Prompts waiting in one session.
    pub queue_max: usize,
    /// Bytes of prompts that wait in all sessions together, or that agents have not yet taken.
    pub queue_size_max: usize,
    /// Approvals open in one session.
    pub approvals_max: usize,
    /// Bytes of approvals open in all sessions together.
    pub approvals_size_max: usize,
    /// The longest line of an agent; longer ones are dropped to their newline and told.
    pub line_size_max: usize,
    /// All large fields that are kept beside their events.
    pub large_size_max: usize,
    /// One session's journal, in bytes: the oldest segments make room.
    pub journal_max: u64,
    /// All journals.
    pub journal_total_max: u64,
    /// Quiet time after which a stream gets a heartbeat.
    pub heartbeat_ms: u64,
    /// A reader whose socket takes nothing for so long is cut.
    pub write_stall_ms: u64,
    /// What a stream without a cursor is given of the past.
    pub replay_size: usize,
    /// Text deltas of one block are joined for so long. 0: as they come.
    pub delta_hold_ms: u64,
    /// From a spawn to the agent's word that it is ready.
    pub start_timeout_ms: u64,
    /// A running agent without a line for so long is told as stalled.
    pub stall_after_ms: u64,
    /// From an interrupt to the turn's end; then the agent is stopped.
    pub interrupt_timeout_ms: u64,
    /// An idle agent is stopped after so long; its conversation stays.
    pub suspend_after_ms: u64,
    /// From an agent's end of input to SIGTERM.
    pub ladder_eof_ms: u64,
    /// From SIGTERM to SIGKILL.
    pub ladder_term_ms: u64,
    /// From SIGTERM to the server, to the first refusal.
    pub drain_delay_ms: u64,
    /// From the first refusal to the exit, at most.
    pub drain_timeout_ms: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            ring_size: MIB,
            all_ring_size: 4 * MIB,
            head_size_max: 16 * KIB,
            head_fields_max: 100,
            head_timeout_ms: 10_000,
            body_size_max: 8 * MIB,
            bodies_size_max: 16 * MIB,
            requests_size_max: 16 * MIB,
            body_timeout_ms: 30_000,
            body_rate_min: KIB,
            pipeline_max: 64,
            waits_max: 1_024,
            login_failures_max: 10,
            ticket_misses_max: 10,
            pages_read_max: 16,
            keep_alive_ms: 60_000,
            connections_max: 100_000,
            connections_per_address_max: 256,
            readers_per_session_max: 10_000,
            sessions_max: 1_000,
            sessions_found: 0,
            closed_sessions_max: 16,
            session_creations_per_s: 10,
            agents_max: 8,
            agents_starting_max: 2,
            queue_max: 32,
            queue_size_max: 16 * MIB,
            approvals_max: 64,
            approvals_size_max: 8 * MIB,
            line_size_max: 32 * MIB,
            large_size_max: 32 * MIB,
            journal_max: 64 * MIB as u64,
            journal_total_max: 1024 * MIB as u64,
            heartbeat_ms: HEARTBEAT_MS,
            write_stall_ms: 30_000,
            replay_size: 256 * KIB,
            delta_hold_ms: 50,
            start_timeout_ms: 30_000,
            stall_after_ms: 300_000,
            interrupt_timeout_ms: 10_000,
            suspend_after_ms: 900_000,
            ladder_eof_ms: 5_000,
            ladder_term_ms: 5_000,
            drain_delay_ms: 0,
            drain_timeout_ms: 20_000,
        }
    }
}

impl Limits {
    /// Whether the bounds can hold together. The command line sees to that for what it reads; this
    /// is the same promise for whoever makes them otherwise.
    ///
    /// # Errors
    /// A sentence that names the bounds.
    pub fn check(&self) -> Result<(), String> {
        let is_ring = |size: usize| size.is_power_of_two() && size >= 64 * KIB;
        let indices = [self.connections_max, self.sessions_max, self.closed_sessions_max];
        let indices = indices.into_iter().chain([self.sessions_found]);
        let indices = indices.chain([self.agents_max, 1]).map(u64::from).sum::<u64>();
        let rules = [
            (is_ring(self.ring_size), "--ring-size must be a power of two of at least 64KiB"),
            (is_ring(self.all_ring_size), "--all-ring-size must be a power of two, 64KiB or more"),
            (self.ring_size <= self.all_ring_size, "--ring-size is above --all-ring-size"),
            (self.connections_max > 0, "--connections-max must be at least 1"),
            (self.sessions_max > 0, "--sessions-max must be at least 1"),
            (self.agents_max > 0, "--agents-max must be at least 1"),
            (self.agents_starting_max > 0, "--agents-starting-max must be at least 1"),
            (self.line_size_max >= LINE_SIZE, "--line-max must be at least 64KiB"),
            (self.body_size_max <= self.bodies_size_max, "--body-size-max is above all bodies'"),
            (self.body_size_max <= self.queue_size_max, "--body-size-max is above all prompts'"),
            (indices < u64::from(u32::MAX), "there are more connections and sessions than numbers"),
        ];
        match rules.into_iter().find(|(holds, _)| !holds) {
            None => Ok(()),
            Some((_, sentence)) => Err(sentence.into()),
        }
    }

    /// Lowers the connections to what this many descriptors allow, beside agents and reserve.
    ///
    /// # Errors
    /// A sentence with the cure, if too few are left to serve anybody.
    pub fn fit(&mut self, nofile_soft: u64) -> Result<(), String> {
        let taken = u64::from(FILES_RESERVED) + self.agents_files();
        let left = nofile_soft.saturating_sub(taken);
        if left < u64::from(CONNECTIONS_MIN.min(self.connections_max)) {
            return Err(format!(
                "{nofile_soft} open files are too few for {} agents, which take {taken}: \
                 raise the limit (ulimit -n, LimitNOFILE=) or lower --agents-max",
                self.agents_max
            ));
        }
        self.connections_max = self.connections_max.min(u32::try_from(left).unwrap_or(u32::MAX));
        Ok(())
    }

    /// Sessions that there is room for, those that are closed and still served among them.
    pub fn sessions_room(&self) -> u32 {
        self.sessions_max.max(self.sessions_found) + self.closed_sessions_max
    }

    fn agents_files(&self) -> u64 {
        u64::from(self.agents_max) * u64::from(FILES_PER_AGENT)
    }

    /// The most that the server ever holds, in bytes: the sum of [`Limits::terms`]. What the kernel
    /// holds for sockets and pipes is beside it.
    pub fn memory(&self, durability: Durability) -> u64 {
        self.terms(durability).iter().map(|(_, bytes)| bytes).sum()
    }

    /// Everything that the server may hold, by name, in bytes.
    pub fn terms(&self, durability: Durability) -> Vec<(&'static str, u64)> {
        let count = |number: u32| number as usize;
        let (agents, connections) = (count(self.agents_max), count(self.connections_max));
        let sessions = count(self.sessions_room());
        let keeps = durability != Durability::Memory;
        // With journals only sessions that run own a ring, some more, and those whose frames are on
        // their way to the disk; without, each.
        let rings = if keeps { sessions.min(2 * agents + RINGS_KEPT) } else { sessions };
        let piece = PIECE_SIZE.max(self.ring_size / 4);
        let journals = self.journal_total_max.min(sessions as u64 * self.journal_max);
        let entries = (journals / INDEX_STEP) as usize + sessions * SEGMENT_INDEX_MAX;
        let reply = REPLY_SIZE.max(self.ring_size.min(self.all_ring_size) / 4 + PAGE_SIZE_MAX);
        // A key's generation and the two links of the lists that it may be in.
        let links = 3 * size_of::<u32>();
        let timers = (connections + sessions + agents + 1) as u32;
        let terms = [
            // Each ring with its marks, and the one of all sessions.
            ("rings", rings * Ring::memory(self.ring_size) + Ring::memory(self.all_ring_size)),
            // What a session knows of itself, most of it the ids of its prompts.
            ("sessions", sessions * (size_of::<Session>() + SESSION_SIZE)),
            // Where a journal's frames are: one entry for so many bytes of it.
            ("journal index", usize::from(keeps) * entries * size_of::<(u64, u64)>()),
            // The frames on their way to the disk: the new ones of sessions that run.
            ("journal batch", usize::from(keeps) * agents * self.ring_size),
            // Frames on their way from the disk to readers, and to those who ask for a page.
            ("journal pieces", usize::from(keeps) * PIECES_MAX * piece),
            ("journal pages", usize::from(keeps) * count(self.pages_read_max) * 2 * PAGE_SIZE_MAX),
            // Slots of connections and streams, live or not, and everybody's deadline.
            ("slots", connections * (size_of::<Connection>() + links + SOCKET_SIZE)),
            ("timers", Wheel::memory(timers)),
            // Heads, replies, and what streams have beside their slot, all together; and the one
            // that fills them up.
            ("requests", self.requests_size_max + self.head_size_max + reply),
            // Bodies, all together, the growth of the one that fills them up, and the copy of the
            // one that is being understood.
            ("bodies", self.bodies_size_max + self.body_size_max / 2 + self.body_size_max),
            // Prompts that wait, or that agents have not yet taken.
            ("prompts", self.queue_size_max),
            // Approvals that are open.
            ("approvals", self.approvals_size_max),
            // Fields too large for a log: those that are kept, or on their way to the disk, images
            // that are, pieces that are being sent, and those among which one image is looked for.
            (
                "large fields",
                self.large_size_max
                    + self.large_size_max / 2
                    + TAIL_PIECES_MAX * TAIL_PIECE_SIZE
                    + 3 * self.body_size_max,
            ),
            // An agent's lines and texts under way, and what its turn has open.
            ("agents", agents * (Agent::memory() + TURN_SIZE)),
            // The one buffer for a long line, and what is made of that line.
            ("long line", 2 * self.line_size_max),
            // What the operator's commands are told of, and what is known of tickets.
            ("hooks", 2 * HOOKS_SIZE_MAX + TICKETS_SIZE),
            // Buffers that nobody uses at the moment.
            ("pools", POOL_SIZE),
            // What there is one of.
            ("program", FIXED_SIZE),
        ];
        terms.map(|(name, bytes)| (name, bytes as u64)).to_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_are_lowered_to_what_the_descriptors_allow_and_never_raised() {
        let agents = 8 * FILES_PER_AGENT;
        for (nofile, wanted, left) in [
            (1024, 100_000, 1024 - FILES_RESERVED - agents),
            (1 << 20, 100_000, 100_000),
            (u64::MAX, 100, 100),
            (u64::from(FILES_RESERVED + agents) + 16, 1_000, 16),
            (u64::from(FILES_RESERVED + agents) + 1, 1, 1),
        ] {
            let mut limits = Limits { connections_max: wanted, agents_max: 8, ..Limits::default() };
            limits.fit(nofile).unwrap();
            assert_eq!(limits.connections_max, left, "{nofile} {wanted}");
        }
    }

    #[test]
    fn too_few_descriptors_are_refused_with_the_cure() {
        let mut limits = Limits { agents_max: 1000, ..Limits::default() };
        let sentence = limits.fit(1024).unwrap_err();
        assert!(sentence.contains("1024") && sentence.contains("--agents-max"), "{sentence}");
        assert!(Limits::default().fit(0).is_err());
    }

    #[test]
    fn bounds_that_contradict_each_other_are_refused_by_name() {
        assert_eq!(Limits::default().check(), Ok(()));
        type Change = fn(&mut Limits);
        let changes: [(Change, &str); 7] = [
            (|limits| limits.ring_size = MIB + 1, "--ring-size"),
            (|limits| limits.ring_size = 32 * KIB, "--ring-size"),
            (|limits| limits.all_ring_size = 3 * MIB, "--all-ring-size"),
            (|limits| limits.all_ring_size = MIB / 2, "--all-ring-size"),
            (|limits| limits.connections_max = u32::MAX, "connections"),
            (|limits| limits.bodies_size_max = MIB, "--body-size-max"),
            (|limits| limits.agents_max = 0, "--agents-max"),
        ];
        for (change, name) in changes {
            let mut limits = Limits::default();
            change(&mut limits);
            let sentence = limits.check().unwrap_err();
            assert!(sentence.contains(name), "{sentence}");
        }
    }

    #[test]
    fn the_bound_grows_with_everything_that_is_counted_in_it() {
        let base = Limits::default().memory(Durability::Memory);
        type Change = fn(&mut Limits);
        let changes: [(Change, u64); 12] = [
            (|limits| limits.sessions_max += 1, MIB as u64),
            (|limits| limits.sessions_found = limits.sessions_max + 1, MIB as u64),
            (|limits| limits.closed_sessions_max += 1, MIB as u64),
            (|limits| limits.all_ring_size *= 2, 4 * MIB as u64),
            (|limits| limits.connections_max += 1, 92),
            (|limits| limits.requests_size_max += MIB, MIB as u64),
            (|limits| limits.bodies_size_max += MIB, MIB as u64),
            (|limits| limits.queue_size_max += MIB, MIB as u64),
            (|limits| limits.approvals_size_max += MIB, MIB as u64),
            (|limits| limits.large_size_max += MIB, MIB as u64),
            (|limits| limits.agents_max += 1, LINE_SIZE as u64),
            (|limits| limits.line_size_max += MIB, 2 * MIB as u64),
        ];
        for (number, (change, least)) in changes.into_iter().enumerate() {
            let mut limits = Limits::default();
            change(&mut limits);
            assert!(limits.memory(Durability::Memory) >= base + least, "change {number}");
        }
    }
}
