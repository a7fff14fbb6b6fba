//! How often each interesting state was reached: a simulation that never gets there proves nothing.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

/// What a run over many seeds must have seen.
pub const REQUIRED: &[&str] = &[
    "accept-refused",
    "agent-died-mid-output",
    "agent-eof",
    "agent-killed",
    "agent-long-line",
    "agent-line-dropped",
    "agent-output-waits",
    "agent-spawn-failed",
    "agent-start-timeout",
    "agent-terminated",
    "approval-denied",
    "approval-resolved",
    "approval-withdrawn",
    "approvals-max",
    "client-half-closed",
    "client-reset",
    "client-slow-head",
    "connected-fresh",
    "connected-gap",
    "connected-ok",
    "cut-by-lap",
    "cut-by-stall",
    "directory-refused",
    "disk-late",
    "drain-with-queue",
    "drain-with-streams",
    "drain-with-turns",
    "expect-continue",
    "frames-checked",
    "grandchild-held-pipe",
    "heartbeat",
    "held-answer",
    "interrupted",
    "large-field",
    "orphans-killed",
    "pipelined",
    "poll-empty",
    "poll-events",
    "prompt-cancelled",
    "prompt-completed",
    "prompt-failed",
    "prompt-repeated",
    "prompt-waited",
    "queue-full",
    "replay-complete",
    "resumed-conversation",
    "server-busy",
    "server-shutdown",
    "session-closed",
    "session-stalled",
    "sessions-max",
    "slots-full",
    "stale-key-poked",
    "start-queue-wait",
    "stop-twice",
    "stream-of-closed-session",
    "suspended",
    "unprompted-turn",
];

impl Tally {
    pub fn hit(&mut self, name: &'static str) {
        self.add(name, 1);
    }

    pub fn add(&mut self, name: &'static str, count: u64) {
        *self.0.entry(name).or_default() += count;
    }

    pub fn join(&mut self, other: &Tally) {
        for (name, count) in &other.0 {
            self.add(name, *count);
        }
    }

    pub fn print(&self) {
        for (name, count) in &self.0 {
            println!("{count:>9} {name}");
        }
    }

    /// The states that were never reached.
    pub fn missing(&self) -> Vec<&'static str> {
        REQUIRED.iter().filter(|name| !self.0.contains_key(**name)).copied().collect()
    }
}
