//! What the server counts, and the JSON in which the seed's dashboards read it.
//!
//! Counting is an addition to a field of one struct; nothing is allocated for it. How the rest of
//! the world reads it is `api/scrape.rs`'s business.

pub mod histogram;
pub mod limit;
pub mod tally;

use crate::base::arena::Key;
use crate::core::event::{KINDS, NAMES};
use crate::wire::json::Object;
use histogram::Histogram;
use limit::LimitHits;
use tally::{BAD, REFUSALS, Tally};

/// Kinds of tokens that a model's usage tells apart: the label, and the member of the usage.
pub const TOKEN_KINDS: [(&str, &str); 4] = [
    ("input", "input_tokens"),
    ("output", "output_tokens"),
    ("cache_read", "cache_read_input_tokens"),
    ("cache_creation", "cache_creation_input_tokens"),
];

/// Counters since process start. Each only rises.
#[derive(Clone, Debug)]
pub struct Counters {
    /// Streams opened: from their 200 on.
    pub streams_opened: u64,
    /// Streams closed.
    pub streams_closed: u64,
    /// Client connections accepted.
    pub connections_accepted: u64,
    /// Client connections closed.
    pub connections_closed: u64,
    /// Client connections refused for want of a slot or a descriptor.
    pub connections_refused: u64,
    /// Requests understood.
    pub requests: u64,
    /// Requests that were none.
    pub requests_bad: u64,
    /// Requests that were not let in.
    pub requests_refused: u64,
    /// Requests that did not arrive in time, or too slowly.
    pub requests_late: u64,
    /// Times that a client's bytes were left in the kernel, as there was no room for them.
    pub requests_deferred: u64,
    /// Logins with a token that is none.
    pub logins_failed: u64,
    /// Changes that an agent tried to make.
    pub self_accesses: u64,
    /// Connections and requests of an address that has too many connections.
    pub addresses_limited: u64,
    /// Streams cut because they took nothing, or fell behind the log.
    pub readers_cut: u64,
    /// Streams that were told of a gap.
    pub gaps: u64,
    /// Agent processes started.
    pub agents_started: u64,
    /// Agent processes that ended.
    pub agents_ended: u64,
    /// Processes that agents left behind and that were killed.
    pub orphans_killed: u64,
    /// Answers that a limit made: 429 and 503.
    pub limited: u64,
    /// Runs of the operator's commands.
    pub hooks_started: u64,
    /// Those that did not end well, or in time.
    pub hooks_failed: u64,
    /// Those that were not run, for want of room.
    pub hooks_dropped: u64,
    /// The same by what was met, and what was held back or cut for a limit without an answer.
    pub limits: LimitHits,
    /// Requests that were not let in, by the code of their answer.
    pub refusals: Tally<{ REFUSALS.len() }>,
    /// Requests that were none, by the status of their answer.
    pub bad: Tally<{ BAD.len() }>,
    /// Answers by the class of their status, from 1xx on.
    pub answers: [u64; 5],
    /// Streams and polls by the verdict on their cursor: fresh, ok, gap.
    pub resumes: [u64; 3],
    /// Streams that began in the journals rather than in memory.
    pub replays_from_disk: u64,
    /// Tokens that models took and gave, by [`TOKEN_KINDS`].
    pub tokens: [u64; TOKEN_KINDS.len()],
    /// What turns cost, in US dollars.
    pub cost_usd: f64,
    /// CPU time of all agents there ever were, in seconds, as of the last look.
    pub agents_cpu_s: f64,
    /// Log lines that stderr did not take, and those that were too many of their kind.
    pub log_dropped: u64,
    /// See `log_dropped`.
    pub log_suppressed: u64,
    /// From a wake-up of the loop until it sleeps again.
    pub turns: Histogram,
    /// From when a deadline was due to when the loop came to it.
    pub lag: Histogram,
    /// From when a batch went to the disk thread until its answer.
    pub commits: Histogram,
}

impl Default for Counters {
    fn default() -> Counters {
        Counters {
            streams_opened: 0,
            streams_closed: 0,
            connections_accepted: 0,
            connections_closed: 0,
            connections_refused: 0,
            requests: 0,
            requests_bad: 0,
            requests_refused: 0,
            requests_late: 0,
            requests_deferred: 0,
            logins_failed: 0,
            self_accesses: 0,
            addresses_limited: 0,
            readers_cut: 0,
            gaps: 0,
            agents_started: 0,
            agents_ended: 0,
            orphans_killed: 0,
            limited: 0,
            hooks_started: 0,
            hooks_failed: 0,
            hooks_dropped: 0,
            limits: LimitHits::default(),
            refusals: Tally::new(&REFUSALS),
            bad: Tally::new(&BAD),
            answers: [0; 5],
            resumes: [0; 3],
            replays_from_disk: 0,
            tokens: [0; TOKEN_KINDS.len()],
            cost_usd: 0.0,
            agents_cpu_s: 0.0,
            log_dropped: 0,
            log_suppressed: 0,
            turns: Histogram::default(),
            lag: Histogram::default(),
            commits: Histogram::default(),
        }
    }
}

/// What the kernel says about processes at one moment.
#[derive(Debug, Default)]
pub struct Sample {
    /// About ours; none where the kernel does not say.
    pub own: Option<OwnUse>,
    /// About agents with all they started; the last about what lost its parents.
    pub agents: Vec<AgentUse>,
    /// CPU time of all agents there ever were, in seconds.
    pub agents_cpu_s: f64,
}

/// What our own process uses.
#[derive(Clone, Copy, Debug)]
pub struct OwnUse {
    /// CPU time, in seconds.
    pub cpu_s: f64,
    /// Resident memory, in bytes.
    pub resident_size: u64,
    /// Address space, in bytes.
    pub virtual_size: u64,
    /// Descriptors.
    pub open_files: u64,
    /// The limit on them.
    pub open_files_max: u64,
}

/// What an agent uses, with all that it started.
#[derive(Clone, Copy, Debug)]
pub struct AgentUse {
    /// Which; none: what it started has lost its parents.
    pub agent: Option<Key>,
    /// Processes.
    pub processes: u64,
    /// Resident memory, in bytes; what is shared counts for each.
    pub resident_size: u64,
}

impl AgentUse {
    /// Nothing yet.
    pub fn new(agent: Option<Key>) -> AgentUse {
        AgentUse { agent, processes: 0, resident_size: 0 }
    }
}

/// One log's streams, as the seed's metrics tell them.
#[derive(Debug)]
pub struct StreamCount<'a> {
    /// The session's id, or `*`.
    pub key: &'a str,
    /// Streams under that key.
    pub streams: u64,
    /// Streams that receive that session's events, those of the log of all sessions included.
    pub listeners: u64,
}

/// Writes the seed's members, names and types exactly; more stands beside them.
pub fn write(
    object: &mut Object<'_>,
    published: &[u64; KINDS],
    counts: &[StreamCount<'_>],
    counters: &Counters,
    wall_ms: u64,
) {
    let listeners: u64 = counts.iter().map(|count| count.listeners).sum();
    let streams: u64 = counts.iter().map(|count| count.streams).sum();
    object.object("eventBus", |bus| {
        bus.number("eventsEmitted", published.iter().sum());
        bus.object("eventsByType", |types| {
            for (name, count) in NAMES.iter().zip(published).filter(|(_, count)| **count > 0) {
                types.entry(name, *count);
            }
        });
        bus.object("listenerCounts", |listeners| {
            for count in counts.iter().filter(|count| count.listeners > 0) {
                listeners.entry(&format!("session-output-{}", count.key), count.listeners);
            }
        });
        bus.number("activeListeners", listeners);
    });
    object.object("sse", |sse| {
        let keys = || counts.iter().filter(|count| count.streams > 0);
        sse.number("totalSessions", keys().count() as u64);
        sse.number("totalConnections", streams);
        sse.object("sessions", |sessions| {
            for count in keys() {
                sessions.entry(count.key, count.streams);
            }
        });
        sse.number("totalCreated", counters.streams_opened);
        sse.number("totalClosed", counters.streams_closed);
        sse.number("activeHeartbeats", streams);
    });
    object.number("timestamp", wall_ms);
    object.object("server", |server| {
        server.number("connections", counters.connections_accepted - counters.connections_closed);
        server.number("connectionsAccepted", counters.connections_accepted);
        server.number("connectionsRefused", counters.connections_refused);
        server.number("requests", counters.requests);
        server.number("requestsBad", counters.requests_bad);
        server.number("requestsRefused", counters.requests_refused);
        server.number("requestsLate", counters.requests_late);
        server.number("requestsDeferred", counters.requests_deferred);
        server.number("loginsFailed", counters.logins_failed);
        server.number("selfAccesses", counters.self_accesses);
        server.number("addressesLimited", counters.addresses_limited);
        server.number("readersCut", counters.readers_cut);
        server.number("gaps", counters.gaps);
        server.number("agents", counters.agents_started - counters.agents_ended);
        server.number("agentsStarted", counters.agents_started);
        server.number("orphansKilled", counters.orphans_killed);
        server.number("limited", counters.limited);
        server.number("hooksStarted", counters.hooks_started);
        server.number("hooksFailed", counters.hooks_failed);
        server.number("hooksDropped", counters.hooks_dropped);
    });
}
