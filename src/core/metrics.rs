//! What the server counts, and the JSON in which the seed's dashboards read it.

use crate::core::event::{KINDS, NAMES};
use crate::wire::json::Object;

/// Counters since process start. Each only rises.
#[derive(Clone, Copy, Debug, Default)]
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
