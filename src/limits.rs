//! Every bound of the server, and their sum in bytes.
//!
//! A container anywhere in the tree takes its capacity from here, so this file is the whole
//! answer to "how much can it hold". [`Limits::fit`] lowers what the kernel would refuse;
//! [`Limits::memory`] is the sum that is printed at start-up.

/// One kibibyte, in bytes.
pub const KIB: usize = 1024;
/// One mebibyte, in bytes.
pub const MIB: usize = 1024 * KIB;

/// File descriptors kept free for everything that is not a client: listeners, the poller, the
/// wakers, standard streams, the disk thread's files, the reserve for EMFILE.
const FILES_RESERVED: u32 = 64;
/// Descriptors of one agent: three pipes and a pidfd, and as many again while it is spawned.
const FILES_PER_AGENT: u32 = 8;

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
    /// From the end of a head to the end of its body.
    pub body_timeout_ms: u64,
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
    /// Bytes of prompts waiting in all sessions together.
    pub queue_size_max: usize,
    /// Approvals open in one session.
    pub approvals_max: usize,
    /// The longest line of an agent; longer ones are dropped to their newline and told.
    pub line_size_max: usize,
    /// All large fields that are kept beside their events.
    pub large_size_max: usize,
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
            bodies_size_max: 32 * MIB,
            body_timeout_ms: 30_000,
            keep_alive_ms: 60_000,
            connections_max: 100_000,
            connections_per_address_max: 256,
            readers_per_session_max: 10_000,
            sessions_max: 1_000,
            closed_sessions_max: 16,
            session_creations_per_s: 10,
            agents_max: 8,
            agents_starting_max: 2,
            queue_max: 32,
            queue_size_max: 32 * MIB,
            approvals_max: 64,
            line_size_max: 32 * MIB,
            large_size_max: 32 * MIB,
            heartbeat_ms: 15_000,
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
