//! Which events commands of the operator's are told, and with what.
//!
//! An event is told once it is visible to everybody else: a command that comes back to look finds it.
//! What it is told is the event's data, and beside it where a human can look and answer. What is run,
//! and how it ends, is not known here.

use crate::core::approvals::ApprovalKind;
use crate::core::effect::Effect;
use crate::core::event::{EventKind, NAMES};
use crate::core::server::Server;
use crate::core::tickets::Ticket;
use crate::limits::{HOOKS_KNOWN_MAX, HOOKS_SIZE_MAX};
use crate::wire::json;
use serde_json::Value;

/// The events that one command is told.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    /// A bit per kind.
    kinds: u32,
    /// A session's status, but only that it failed.
    failed: bool,
}

impl Chosen {
    /// The names that are not those of events on the wire, for sentences.
    pub const WORDS: &'static str = "turn-done, approval-waiting, session-failed";

    /// Reads names separated by commas: those above, or those of events.
    ///
    /// # Errors
    /// The name that is none.
    pub fn parse(names: &str) -> Result<Chosen, &str> {
        let mut chosen = Chosen::default();
        for name in names.split(',') {
            match name {
                "turn-done" => {
                    chosen.add(EventKind::PromptCompleted);
                    chosen.add(EventKind::PromptFailed);
                }
                "approval-waiting" => chosen.add(EventKind::ApprovalRequired),
                "session-failed" => chosen.failed = true,
                _ => {
                    let kind = NAMES.iter().position(|known| *known == name).ok_or(name)?;
                    chosen.kinds |= 1 << kind;
                }
            }
        }
        Ok(chosen)
    }

    fn add(&mut self, kind: EventKind) {
        self.kinds |= 1 << kind as u32;
    }

    /// The kinds that have to be looked at: a bit each.
    pub fn mask(self) -> u32 {
        self.kinds | if self.failed { 1 << EventKind::SessionStatus as u32 } else { 0 }
    }

    fn wants(self, kind: EventKind, failed: bool) -> bool {
        let status = kind == EventKind::SessionStatus && self.failed && failed;
        self.kinds & 1 << kind as u32 != 0 || status
    }
}

/// An event that is to be told.
#[derive(Debug)]
pub struct Told {
    /// Its number.
    pub seq: u64,
    /// What it is about.
    pub kind: EventKind,
    /// Its data: a JSON object.
    pub json: String,
}

/// What the publisher sets aside for commands.
#[derive(Debug, Default)]
pub struct Aside {
    /// The kinds, a bit each.
    pub mask: u32,
    /// In the order of their numbers.
    told: std::collections::VecDeque<Told>,
    /// Their bytes.
    size: usize,
    /// Events for which there was no room.
    pub dropped: u64,
}

impl Aside {
    /// Sets an event aside, if it is of a kind that anybody wants.
    pub fn keep(&mut self, seq: u64, kind: EventKind, data: &str) {
        if self.told.len() == HOOKS_KNOWN_MAX || self.size + data.len() > HOOKS_SIZE_MAX {
            self.dropped += 1;
            return;
        }
        self.size += data.len();
        self.told.push_back(Told { seq, kind, json: data.to_owned() });
    }

    fn next(&mut self, visible: u64) -> Option<Told> {
        let told = self.told.pop_front_if(|told| told.seq <= visible)?;
        self.size -= told.json.len();
        Some(told)
    }
}

impl Server {
    /// Has commands told of what has become visible.
    pub(super) fn tell_hooks(&mut self) {
        let visible = self.publisher.visible();
        while let Some(told) = self.publisher.aside.next(visible) {
            self.tell_hook(&told);
        }
        self.counters.hooks_dropped += std::mem::take(&mut self.publisher.aside.dropped);
    }

    fn tell_hook(&mut self, told: &Told) {
        let data: Value = serde_json::from_str(&told.json).unwrap_or_default();
        let failed = data["status"] == "failed" && data["previous"] != "failed";
        let wanted: Vec<usize> = self
            .config
            .hooks
            .iter()
            .enumerate()
            .filter(|(_, chosen)| chosen.wants(told.kind, failed))
            .map(|(number, _)| number)
            .collect();
        if wanted.is_empty() {
            return;
        }
        let json = self.hook_json(told, &data);
        for hook in wanted {
            self.effects.push_back(Effect::Hook { hook, json: json.clone() });
        }
    }

    /// The event's data, with links where people find us.
    fn hook_json(&mut self, told: &Told, data: &Value) -> Vec<u8> {
        let mut out = told.json.clone().into_bytes();
        let Some(public) = &self.config.public_place else { return out };
        let public = public.clone();
        let session = data["sessionId"].as_str().unwrap_or_default();
        let mut member = |name: &str, value: &str| {
            out.pop(); // The closing brace.
            out.extend_from_slice(format!(",\"{name}\":").as_bytes());
            json::string(&mut out, value);
            out.push(b'}');
        };
        member("url", &format!("{public}/session/{session}"));
        // A question wants an answer with words, a plan and a directory more than a glance.
        let is_tool = data["kind"] == ApprovalKind::Tool.as_str();
        if told.kind == EventKind::ApprovalRequired && is_tool {
            let text = |name: &str| data[name].as_str().unwrap_or_default().to_owned();
            for (name, allow) in [("allowUrl", true), ("denyUrl", false)] {
                let ticket = Ticket {
                    session_id: session.to_owned(),
                    approval_id: text("approvalId"),
                    input_hash: text("inputHash"),
                    allow,
                };
                if let Some(text) = self.tickets.issue(ticket) {
                    member(name, &format!("{public}/ticket?t={text}"));
                }
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn events_are_chosen_by_the_names_for_people_or_by_their_own() {
        let wants = |names: &str, kind, failed| Chosen::parse(names).unwrap().wants(kind, failed);
        use EventKind::*;
        assert!(wants("turn-done", PromptCompleted, false));
        assert!(wants("turn-done", PromptFailed, false));
        assert!(!wants("turn-done", PromptCancelled, false));
        assert!(wants("approval-waiting,turn-done", ApprovalRequired, false));
        assert!(wants("session-failed", SessionStatus, true));
        assert!(!wants("session-failed", SessionStatus, false));
        assert!(wants("session-status", SessionStatus, false));
        assert_eq!(Chosen::parse("turn-done,nonsense"), Err("nonsense"));
        assert_eq!(Chosen::parse(""), Err(""));
        assert_eq!(Chosen::parse("session-failed").unwrap().mask(), 1 << SessionStatus as u32);
    }

    #[test]
    fn what_is_not_visible_waits_and_what_has_no_room_is_counted() {
        let mut aside = Aside::default();
        for seq in 1..=HOOKS_KNOWN_MAX as u64 + 2 {
            aside.keep(seq, EventKind::PromptFailed, "{}");
        }
        assert_eq!(aside.dropped, 2);
        assert!(aside.next(0).is_none());
        assert_eq!(aside.next(1).map(|told| told.seq), Some(1));
        assert!(aside.next(1).is_none());

        let mut aside = Aside::default();
        let large = "x".repeat(HOOKS_SIZE_MAX / 2);
        for seq in 1..=3 {
            aside.keep(seq, EventKind::PromptFailed, &large);
        }
        assert_eq!((aside.dropped, aside.size), (1, HOOKS_SIZE_MAX));
        assert_eq!(aside.next(9).map(|told| told.seq), Some(1));
        aside.keep(4, EventKind::PromptFailed, &large);
        assert_eq!(aside.dropped, 1);
    }
}
