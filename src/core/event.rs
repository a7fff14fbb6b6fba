//! The events that a log holds: their names, and the filter by which a stream chooses among them.

use crate::core::publisher::STDERR_TAG;

/// What an event is about. The discriminant is the ring's tag and the filter's bit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
#[allow(missing_docs)] // The names are the documentation: `docs/api.md` has one row each.
pub enum EventKind {
    SessionOutput,
    MessageBlock,
    ToolStarted,
    ToolProgress,
    ToolCompleted,
    TodosUpdated,
    SubagentStarted,
    SubagentCompleted,
    OperationsDetected,
    AgentEvent,
    SessionCreated,
    SessionStatus,
    SessionClosed,
    PromptQueued,
    PromptStarted,
    PromptCompleted,
    PromptFailed,
    PromptCancelled,
    ApprovalRequired,
    ApprovalResolved,
    ApprovalWithdrawn,
    SessionError,
    SessionStalled,
    AgentRetry,
    EventsLost,
}

/// How many kinds there are.
pub const KINDS: usize = 25;

/// The names on the wire, by discriminant.
pub const NAMES: [&str; KINDS] = [
    "session-output",
    "message-block",
    "tool-started",
    "tool-progress",
    "tool-completed",
    "todos-updated",
    "subagent-started",
    "subagent-completed",
    "operations-detected",
    "agent-event",
    "session-created",
    "session-status",
    "session-closed",
    "prompt-queued",
    "prompt-started",
    "prompt-completed",
    "prompt-failed",
    "prompt-cancelled",
    "approval-required",
    "approval-resolved",
    "approval-withdrawn",
    "session-error",
    "session-stalled",
    "agent-retry",
    "events-lost",
];

impl EventKind {
    /// All names, by discriminant.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMES.into_iter()
    }

    /// The name on the wire.
    pub fn name(self) -> &'static str {
        NAMES[self as usize]
    }

    /// Whether it tells that somebody, or an agent, is at work.
    pub fn is_activity(self) -> bool {
        !IDLE.contains(&self)
    }
}

/// What happens also while nobody is at work: a process is started or stopped for a session, an
/// approval is withdrawn when the server goes.
const IDLE: [EventKind; 7] = [
    EventKind::AgentEvent,
    EventKind::SessionStatus,
    EventKind::SessionClosed,
    EventKind::ApprovalWithdrawn,
    EventKind::SessionError,
    EventKind::SessionStalled,
    EventKind::EventsLost,
];

/// Whether an event of this name is [activity](EventKind::is_activity).
pub fn is_activity(name: &str) -> bool {
    !IDLE.iter().any(|kind| kind.name() == name)
}

/// Which events a stream wants: a bit per kind, and whether superseded deltas are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Filter(u32);

/// The bit that passes over superseded deltas; the kinds' are below it.
const COMPACT: u32 = 1 << 31;
const _: () = assert!(KINDS < 31);

impl Filter {
    /// Everything.
    pub const ALL: Filter = Filter(!COMPACT);

    /// Reads `types=a,b` (only these) or `types=-a,-b` (all but these; mixed: these, less those).
    ///
    /// # Errors
    /// The name that no event has.
    pub fn parse(types: &str) -> Result<Filter, &str> {
        let (mut wanted, mut unwanted) = (0, 0);
        for name in types.split(',').filter(|name| !name.is_empty()) {
            let (name, set) = match name.strip_prefix('-') {
                Some(name) => (name, &mut unwanted),
                None => (name, &mut wanted),
            };
            let kind = NAMES.iter().position(|known| *known == name).ok_or(name)?;
            *set |= 1 << kind;
        }
        let kinds = if wanted == 0 { Filter::ALL.0 } else { wanted };
        Ok(Filter(kinds & !unwanted))
    }

    /// The same, passing over the deltas of blocks that have ended.
    pub fn compact(self) -> Filter {
        Filter(self.0 | COMPACT)
    }

    /// Whether it passes over superseded deltas.
    pub fn is_compact(self) -> bool {
        self.0 & COMPACT != 0
    }

    /// Whether it takes every frame.
    pub fn is_all(self) -> bool {
        self == Filter::ALL
    }

    /// Whether it takes `session-output`.
    pub fn listens(self) -> bool {
        self.0 >> EventKind::SessionOutput as u8 & 1 == 1
    }

    /// Whether it takes an event of this name. `is_superseded` is asked only of text in a compact view.
    pub fn takes_name(self, name: &str, is_superseded: impl FnOnce() -> bool) -> bool {
        let kind = NAMES.iter().position(|known| *known == name);
        let is_text = kind == Some(EventKind::SessionOutput as usize);
        let superseded = is_text && self.is_compact() && is_superseded();
        kind.is_some_and(|kind| self.takes(kind as u8, superseded))
    }

    /// Whether it takes this frame.
    pub fn takes(self, tag: u8, superseded: bool) -> bool {
        let bit = if tag == STDERR_TAG { EventKind::SessionOutput as u8 } else { tag };
        self.0 >> bit & 1 == 1 && !(superseded && self.is_compact())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_filter_takes_what_its_text_says() {
        let takes = |types, kind: EventKind| Filter::parse(types).unwrap().takes(kind as u8, false);
        for (types, kind, want) in [
            ("session-output", EventKind::SessionOutput, true),
            ("session-output", EventKind::SessionError, false),
            ("-session-output", EventKind::SessionOutput, false),
            ("-session-output", EventKind::EventsLost, true),
            ("session-output,events-lost", EventKind::EventsLost, true),
            ("session-output,session-error,-session-error", EventKind::SessionError, false),
            ("", EventKind::SessionError, true),
        ] {
            assert_eq!(takes(types, kind), want, "{types} {kind:?}");
        }
        assert_eq!(Filter::parse("session-output,nonsense"), Err("nonsense"));
        assert!(Filter::ALL.takes(0, true) && !Filter::ALL.compact().takes(0, true));
        assert_eq!(EventKind::EventsLost as usize, KINDS - 1);
        assert_eq!(EventKind::EventsLost.name(), "events-lost");
        assert!(is_activity("prompt-queued") && EventKind::PromptQueued.is_activity());
        assert!(!is_activity("session-status") && !EventKind::SessionStatus.is_activity());
    }
}
