//! How often each interesting state was reached: a simulation that never gets there proves nothing.

use std::collections::BTreeMap;

/// Counts by name.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Tally(BTreeMap<&'static str, u64>);

/// What a run over many seeds must have seen.
pub const REQUIRED: &[&str] = &[
    "accept-refused",
    "agent-died-after-output",
    "agent-died-before-output",
    "agent-died-mid-output",
    "agent-eof",
    "agent-halts",
    "agent-killed",
    "agent-line-dropped",
    "agent-long-line",
    "agent-never-reads",
    "agent-output-waits",
    "agent-refused",
    "agent-slow-to-start",
    "agent-spawn-failed",
    "agent-start-timeout",
    "agent-terminated",
    "approval-denied",
    "approval-resolved",
    "approval-withdrawn",
    "approvals-max",
    "archived",
    "client-half-closed",
    "client-reset",
    "client-slow-head",
    "clock-set-back",
    "clock-set-forward",
    "connected-fresh",
    "connected-gap",
    "connected-gap-after-a-restart",
    "connected-ok",
    "connected-ok-after-a-restart",
    "cut-by-a-crash",
    "cut-by-lap",
    "cut-by-stall",
    "died-while-writing",
    "directory-refused",
    "disk-dead",
    "disk-does-not-read",
    "disk-does-not-sync",
    "disk-failing",
    "disk-full",
    "disk-late",
    "drain-with-queue",
    "drain-with-streams",
    "drain-with-turns",
    "erase-failed",
    "event-read",
    "events-lost",
    "events-lost-at-a-crash",
    "expect-continue",
    "files-torn-at-a-crash",
    "forked",
    "frames-checked",
    "grandchild-held-pipe",
    "heartbeat",
    "held-answer",
    "history-page",
    "interrupted",
    "journal-erased",
    "journal-failed",
    "journal-recovered",
    "large-field",
    "large-read",
    "orphans-killed",
    "out-of-descriptors",
    "page-read",
    "piece-merged",
    "piece-read",
    "pipelined",
    "poll-empty",
    "poll-events",
    "power-lost",
    "prompt-in-doubt",
    "rebooted-when-settled",
    "prompt-cancelled",
    "prompt-completed",
    "prompt-failed",
    "prompt-repeated",
    "prompt-waited",
    "queue-full",
    "read-of-one-byte",
    "reader-slow",
    "reader-stalled",
    "replay-complete",
    "resumed-conversation",
    "scope-too-small",
    "segment-dropped",
    "server-busy",
    "server-killed",
    "server-restarted",
    "server-shutdown",
    "session-closed",
    "session-stalled",
    "sessions-max",
    "sessions-restored",
    "slots-full",
    "stale-key-poked",
    "start-queue-wait",
    "start-refused-by-the-disk",
    "started-on-a-full-disk",
    "started-without-its-directory",
    "stop-twice",
    "stream-of-closed-session",
    "suspended",
    "time-leapt",
    "token-missing",
    "trust-given",
    "trust-once",
    "unarchived",
    "unprompted-turn",
    "write-of-one-byte",
    "written-and-never-shown",
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
        let reached = |name: &&str| self.0.get(name).is_some_and(|count| *count > 0);
        REQUIRED.iter().copied().filter(|name| !reached(name)).collect()
    }
}
