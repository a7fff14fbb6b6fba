//! What a hole in a journal leaves open: ends that were told to whoever listened, and not written.
//!
//! While the disk takes nothing the rings are all there is, and what they lose before it is back is
//! told as `events-lost`. Something that had started before the hole may have ended in it. Whoever
//! reads the journal later would wait for that end for ever, so it is ended once more, as unknown,
//! behind the word of the hole. What still goes on needs nothing: its end is still to come.

use crate::base::arena::Key;
use crate::base::ring::{Found, Ring};
use crate::core::event::EventKind;
use crate::core::journal::{self, Frame};
use crate::core::server::Server;
use crate::core::session::Session;
use crate::wire::document;
use crate::wire::json::Object;
use serde::Deserialize;
use serde_json::value::RawValue;

/// What kind of thing starts and ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum What {
    Block,
    Tool,
    Subagent,
    Approval,
    Prompt,
}

/// Something that has started.
#[derive(Clone, Debug)]
pub struct Thing {
    what: What,
    id: String,
    /// Of a message: which block.
    block: u32,
    /// Of a block: whether it holds thoughts.
    thinking: bool,
    /// Of a block: its text, as far as it is known.
    text: String,
    /// Of a subagent: the tool call that started it.
    tool_use_id: Option<String>,
}

impl Thing {
    fn new(what: What, id: &str) -> Thing {
        let (id, text) = (id.to_owned(), String::new());
        Thing { what, id, block: 0, thinking: false, text, tool_use_id: None }
    }

    fn is(&self, other: &Thing) -> bool {
        self.what == other.what && self.id == other.id && self.block == other.block
    }

    fn is_among(&self, things: &[Thing]) -> bool {
        things.iter().any(|thing| thing.is(self))
    }
}

/// The members of events that say what starts or ends.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    prompt_id: Option<String>,
    tool_use_id: Option<String>,
    agent_id: Option<String>,
    approval_id: Option<String>,
    message_id: Option<String>,
    #[serde(default)]
    block: u32,
    offset: Option<u64>,
    kind: Option<String>,
    #[serde(borrow)]
    text: Option<&'a RawValue>,
}

/// What starts with an event, or ends: `Ok` and `Err`.
fn told(frame: &Frame<'_>) -> Option<Result<Thing, Thing>> {
    let data: Data<'_> = document::read(frame.data).ok()?;
    let thing = |what, id: Option<String>| Some(Thing::new(what, &id?));
    let block = |data: &Data<'_>| {
        let mut thing = Thing::new(What::Block, data.message_id.as_ref()?);
        thing.block = data.block;
        thing.thinking = data.kind.as_deref() == Some("thinking");
        let text = data.text.and_then(|raw| document::read(raw.get()).ok());
        thing.text = text.unwrap_or_default();
        Some(thing)
    };
    match frame.name {
        "session-output" if data.offset == Some(0) => block(&data).map(Ok),
        "message-block" => block(&data).map(Err),
        "tool-started" => thing(What::Tool, data.tool_use_id).map(Ok),
        "tool-completed" => thing(What::Tool, data.tool_use_id).map(Err),
        "subagent-started" => thing(What::Subagent, data.agent_id).map(Ok),
        "subagent-completed" => {
            let mut ended = thing(What::Subagent, data.agent_id)?;
            ended.tool_use_id = data.tool_use_id;
            Some(Err(ended))
        }
        "approval-required" => thing(What::Approval, data.approval_id).map(Ok),
        "approval-resolved" | "approval-withdrawn" => {
            thing(What::Approval, data.approval_id).map(Err)
        }
        "prompt-queued" => thing(What::Prompt, data.prompt_id).map(Ok),
        "prompt-completed" | "prompt-failed" | "prompt-cancelled" => {
            thing(What::Prompt, data.prompt_id).map(Err)
        }
        _ => None,
    }
}

/// What the frames of a ring from `position` on say, in their order.
fn told_from(ring: &Ring, position: u64) -> Vec<Result<Thing, Thing>> {
    let Found::Bytes(part, wrapped) = ring.at(position.max(ring.base()), ring.head()) else {
        return Vec::new();
    };
    let bytes = [part, wrapped].concat();
    let mut list = Vec::new();
    journal::recover(&bytes, |_, frame| list.extend(told(&frame)));
    list
}

/// What of a session has started and not ended.
fn open_now(session: &Session) -> Vec<Thing> {
    let mut open = Vec::new();
    if let Some(turn) = &session.turn {
        let of_turn = turn.open();
        for (message_id, block, thinking, text) in of_turn.blocks {
            let thing = Thing::new(What::Block, &message_id);
            open.push(Thing { block, thinking, text, ..thing });
        }
        open.extend(of_turn.tools.iter().map(|id| Thing::new(What::Tool, id)));
        open.extend(turn.prompt.iter().map(|prompt| Thing::new(What::Prompt, &prompt.id)));
    }
    open.extend(session.prompts.queue.iter().map(|prompt| Thing::new(What::Prompt, &prompt.id)));
    for subagent in session.subagents.iter() {
        let thing = Thing::new(What::Subagent, &subagent.agent_id);
        open.push(Thing { tool_use_id: subagent.tool_use_id.clone(), ..thing });
        open.extend(subagent.tools.iter().map(|tool| Thing::new(What::Tool, tool.id())));
    }
    let approvals = session.approvals.open.iter();
    open.extend(approvals.map(|approval| Thing::new(What::Approval, &approval.id)));
    open
}

/// What was open before these events, of which `open` is what is open behind them.
fn open_before(mut open: Vec<Thing>, told: Vec<Result<Thing, Thing>>) -> Vec<Thing> {
    let mut started: Vec<Thing> = Vec::new();
    for one in told {
        match one {
            Ok(thing) => started.push(thing),
            Err(thing) if thing.is_among(&started) => {}
            Err(thing) => open.push(thing),
        }
    }
    open.retain(|thing| !thing.is_among(&started));
    open
}

impl Server {
    /// The disk takes nothing from here on: notes what was open where each journal stops.
    pub(super) fn note_open(&mut self) {
        let open = (0..self.sessions.capacity()).filter_map(|index| {
            let session = self.sessions.get(self.sessions.key_at(index)?)?;
            let log = &session.feed.log;
            let written = log.journal.as_ref()?.written();
            let open = open_before(open_now(session), told_from(&log.ring, written));
            (!open.is_empty()).then_some((session.key(), open))
        });
        self.keeper.open = open.collect();
    }

    /// Frames of this session are lost: finds what ended in them.
    pub(super) fn find_unended(&mut self, key: Key) {
        self.keeper.unended.retain(|(other, _)| *other != key);
        let Some(session) = self.sessions.get(key) else { return };
        let Some((_, open)) = self.keeper.open.iter().find(|(other, _)| *other == key) else {
            return;
        };
        let ring = &session.feed.log.ring;
        let told = told_from(ring, ring.base());
        let ended: Vec<Thing> = told.into_iter().filter_map(Result::err).collect();
        let now = open_now(session);
        let goes_on = |thing: &Thing| thing.is_among(&now) || thing.is_among(&ended);
        let unended: Vec<Thing> = open.iter().filter(|thing| !goes_on(thing)).cloned().collect();
        self.keeper.unended.push((key, unended));
    }

    /// Ends what ended in frames that are lost.
    pub(super) fn end_unended(&mut self, key: Key) {
        let Some(at) = self.keeper.unended.iter().position(|(other, _)| *other == key) else {
            return;
        };
        let (_, things) = self.keeper.unended.swap_remove(at);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.unusual.closed_at.is_some() {
            return; // Nothing comes after its end, which ended all of it.
        }
        for thing in things {
            let feed = &mut session.feed;
            let kind = match thing.what {
                What::Block => EventKind::MessageBlock,
                What::Tool => EventKind::ToolCompleted,
                What::Subagent => EventKind::SubagentCompleted,
                What::Approval => EventKind::ApprovalWithdrawn,
                What::Prompt => EventKind::PromptFailed,
            };
            let seq = self.publisher.publish_apart(feed, kind, |object| match thing.what {
                What::Block => {
                    object.string("messageId", &thing.id);
                    object.number("block", thing.block.into());
                    object.string("kind", if thing.thinking { "thinking" } else { "text" });
                    object.string("role", "assistant");
                    object.string("text", &thing.text);
                    object.bool("aborted", true);
                }
                What::Tool => {
                    object.string("toolUseId", &thing.id);
                    object.string("outcome", "unknown");
                    object.null("content");
                    object.number("durationMs", 0);
                }
                What::Subagent => {
                    object.string("agentId", &thing.id);
                    object.string_or_null("toolUseId", thing.tool_use_id.as_deref());
                    object.bool("background", false);
                    object.string("outcome", "aborted");
                    object.null("summary");
                    object.null("usage");
                }
                What::Approval => {
                    object.string("approvalId", &thing.id);
                    object.string("reason", "events_lost");
                }
                What::Prompt => {
                    let sentence = "it ended, and the events that told how were lost";
                    lost_prompt(object, &thing.id, sentence);
                }
            });
            if thing.what == What::Prompt {
                session.prompts.ended(&thing.id, seq);
            }
        }
    }
}

/// What a `prompt-failed` says of a prompt of which events were lost.
pub(super) fn lost_prompt(object: &mut Object<'_>, prompt_id: &str, sentence: &str) {
    object.string("promptId", prompt_id);
    object.bool("isError", true);
    object.bool("interrupted", false);
    object.null("result");
    object.number("durationMs", 0);
    object.string("code", "events_lost");
    object.string("error", sentence);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn thing(what: What, id: &str) -> Thing {
        Thing::new(what, id)
    }

    #[test]
    fn what_was_open_before_some_events_is_found_from_what_is_open_behind_them() {
        let open = vec![thing(What::Tool, "late"), thing(What::Prompt, "p")];
        let told = vec![
            Err(thing(What::Tool, "early")),
            Ok(thing(What::Tool, "short")),
            Err(thing(What::Tool, "short")),
            Ok(thing(What::Tool, "late")),
            Err(thing(What::Approval, "short")),
        ];
        let before = open_before(open, told);
        let ids: Vec<(What, &str)> = before.iter().map(|one| (one.what, &*one.id)).collect();
        let want = [(What::Prompt, "p"), (What::Tool, "early"), (What::Approval, "short")];
        assert_eq!(ids, want);
    }

    #[test]
    fn an_event_says_what_starts_with_it_or_ends() {
        let told = |name: &str, data: &str| {
            let text = format!("id: 00000000000a-7\nevent: {name}\ndata: {data}\n\n");
            told(&journal::first_frame(text.as_bytes()).unwrap())
        };
        let started = told("tool-started", r#"{"toolUseId":"t"}"#).unwrap().unwrap();
        assert!(started.is(&thing(What::Tool, "t")));
        let ended = told("message-block", r#"{"messageId":"m","block":2,"text":"a\n"}"#);
        let ended = ended.unwrap().unwrap_err();
        assert_eq!((&*ended.id, ended.block, &*ended.text), ("m", 2, "a\n"));
        let first = r#"{"messageId":"m","block":2,"offset":0,"type":"stdout"}"#;
        assert!(told("session-output", first).unwrap().unwrap().is(&ended));
        assert!(told("session-output", r#"{"messageId":"m","offset":9}"#).is_none());
        let end = told("prompt-completed", r#"{"promptId":"p"}"#).unwrap();
        assert!(end.unwrap_err().is(&thing(What::Prompt, "p")));
        assert!(told("prompt-completed", r#"{"promptId":null}"#).is_none());
        assert!(told("session-status", r#"{"status":"idle"}"#).is_none());
    }
}
