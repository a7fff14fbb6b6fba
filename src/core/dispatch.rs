//! Prompts at work: which runs when, how its turn begins, and how it ends, once, whatever happens.
//!
//! The queue is ours: an agent is given its next prompt only when it is idle.

use crate::base::arena::Key;
use crate::core::agents::TurnEnd;
use crate::core::approvals::Approval;
use crate::core::event::EventKind;
use crate::core::prompts::Prompt;
use crate::core::publisher::InTurn;
use crate::core::server::{Dialect, Server};
use crate::core::session::{Process, Session, Subagent};
use crate::core::turn::{Failure, Turn};
use crate::wire::claude;

impl Server {
    /// The session, if it has a prompt that could run now.
    fn with_next(&self, key: Key) -> Option<&Session> {
        let session = self.sessions.get(key).filter(|_| !self.is_draining())?;
        let open = !session.archived && !session.deleting && session.unusual.closed_at.is_none();
        let waits = session.turn.is_none() && !session.prompts.queue.is_empty();
        (open && waits).then_some(session)
    }

    /// Whether a session has a prompt to run, and no process for it.
    pub(super) fn lacks_agent(&self, key: Key) -> bool {
        self.with_next(key).is_some_and(|session| session.process.is_none())
    }

    /// Gives the session's next prompt to its agent, as far as that is possible now.
    pub(super) fn dispatch(&mut self, key: Key) {
        let Some(session) = self.with_next(key) else { return };
        match session.process.and_then(|agent| self.agents.get(agent)) {
            None if session.process.is_none() => self.want_agent(key),
            Some(agent) if agent.is_ready() => self.start_turn(key),
            // It is starting, or leaving: its next fact brings us here again.
            _ => {}
        }
    }

    /// Begins the turn of the next prompt.
    pub(super) fn start_turn(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(agent_key) = session.process else { return };
        let Some(mut prompt) = session.prompts.queue.pop_front() else { return };
        session.turns += 1;
        session.failed = false;
        let turn_id = format!("turn-{}", session.turns);
        let feed = &mut session.feed;
        self.publisher.flush(feed); // What was said before is not of this turn.
        let prompt_id = Some(prompt.id.clone());
        feed.scope.turn = Some(Box::new(InTurn { turn_id: turn_id.clone(), prompt_id }));
        let seq = self.publisher.publish(feed, EventKind::PromptStarted, |object| {
            object.string("by", &prompt.by);
            object.optional("clientId", prompt.client_id.as_deref());
        });
        let dialect = self.config.agents[session.agent].dialect;
        let size = prompt.size();
        if let Some(agent) = self.agents.get_mut(agent_key) {
            // It counts as waiting until the agent has taken it.
            agent.prompt_size += size;
            agent.stdin.reserve(size);
            agent.heard_at = self.now_ms;
            agent.stall_told = false;
            match dialect {
                Dialect::Claude | Dialect::Demo => {
                    let images: Vec<(&str, &str)> =
                        prompt.images.iter().map(|(kind, data)| (&**kind, &**data)).collect();
                    let user = |out: &mut Vec<u8>| {
                        claude::user(out, &prompt.command, &images, None);
                    };
                    agent.stdin.queue(seq, user);
                }
                Dialect::Lines => {
                    agent.stdin.queue(seq, |out| out.extend_from_slice(prompt.command.as_bytes()));
                    agent.stdin.end_after();
                }
            }
        }
        (prompt.command, prompt.images) = (String::new(), Vec::new()); // The agent has them.
        let now_ms = self.now_ms;
        let mut turn = Box::new(Turn::new(turn_id, Some(prompt), now_ms));
        turn.adopt(session.subagents.iter_mut().flat_map(|subagent| subagent.tools.drain(..)));
        session.turn = Some(turn);
        self.after(key, None);
    }

    /// Begins a turn that nobody asked for, if none is under way: the agent speaks by itself.
    pub(super) fn ensure_turn(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.turn.is_some() {
            return;
        }
        session.turns += 1;
        let turn_id = format!("turn-{}", session.turns);
        self.publisher.flush(&mut session.feed); // What was said before is not of this turn.
        let scope = InTurn { turn_id: turn_id.clone(), prompt_id: None };
        session.feed.scope.turn = Some(Box::new(scope));
        self.publisher.publish(&mut session.feed, EventKind::PromptStarted, |object| {
            object.string("origin", "agent");
        });
        let mut turn = Box::new(Turn::new(turn_id, None, self.now_ms));
        turn.adopt(session.subagents.iter_mut().flat_map(|subagent| subagent.tools.drain(..)));
        session.turn = Some(turn);
        self.update_status(key, None);
    }

    /// Ends the turn under way, and everything in it that is open.
    pub(super) fn end_turn(&mut self, key: Key, end: TurnEnd) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(mut turn) = session.turn.take() else { return };
        (self.long_line_buffer, self.publisher.spare) = (None, Vec::new());
        let subagents = &mut session.subagents;
        let works_on = |parent: &str| {
            let calls = |one: &Subagent| one.tool_use_id.as_deref() == Some(parent);
            subagents.iter().any(|one| one.background && calls(one))
        };
        let kept = turn.close(&mut self.publisher, &mut session.feed, self.now_ms, works_on);
        for tool in kept {
            let calls = |one: &&mut Subagent| one.tool_use_id.as_deref() == tool.parent();
            if let Some(subagent) = subagents.iter_mut().find(calls) {
                subagent.tools.push(tool);
            }
        }
        self.withdraw_approvals(key, "turn_ended", |approval| approval.agent_id.is_none());
        let Some(session) = self.sessions.get_mut(key) else { return };
        let kind = match end.failure {
            Some(_) => EventKind::PromptFailed,
            None => EventKind::PromptCompleted,
        };
        if let Some(cost) = end.cost_usd {
            session.total_cost_usd += cost;
        }
        session.usage = end.usage.map(String::into_boxed_str).or(session.usage.take());
        let (total, usage) = (session.total_cost_usd, session.usage.as_deref());
        let duration_ms = self.now_ms.saturating_sub(turn.started_at);
        let seq = self.publisher.publish(&mut session.feed, kind, |object| {
            if turn.prompt.is_none() {
                object.string("origin", "agent");
            }
            object.bool("isError", end.failure.is_some());
            object.bool("interrupted", end.interrupted);
            object.string_or_null("result", end.result.as_deref());
            object.number("durationMs", duration_ms);
            match end.cost_usd {
                Some(cost) => object.float("costUsd", cost),
                None => object.null("costUsd"),
            }
            object.float("totalCostUsd", total);
            object.raw("usage", usage.unwrap_or("null"));
            object.string_or_null("code", end.failure.as_ref().map(|failure| failure.code));
            object.optional("error", end.failure.as_ref().map(|failure| &*failure.sentence));
            object.optional("conversationEntry", session.conversation.entry.as_deref());
        });
        session.feed.scope.turn = None;
        session.idle_at = self.now_ms;
        if let Some(prompt) = &turn.prompt {
            self.prompt_ended(key, &prompt.id, seq);
        }
        self.after(key, None);
        self.may_be_spared();
    }

    /// Fails the prompt that waits first: what it needed could not be had.
    pub(super) fn fail_next_prompt(&mut self, key: Key, failure: &Failure) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(prompt) = session.prompts.queue.pop_front() else { return };
        self.queue_size -= prompt.size();
        let waited = self.now_ms.saturating_sub(prompt.queued_at);
        let feed = &mut session.feed;
        let seq = self.publisher.publish_apart(feed, EventKind::PromptFailed, |object| {
            object.string("promptId", &prompt.id);
            object.bool("isError", true);
            object.bool("interrupted", false);
            object.null("result");
            object.number("durationMs", waited);
            object.string("code", failure.code);
            object.string("error", &failure.sentence);
        });
        self.prompt_ended(key, &prompt.id, seq);
    }

    /// Takes a prompt off the queue for good.
    pub(super) fn cancel_prompt(&mut self, key: Key, prompt: &Prompt, by: &str, interrupted: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.queue_size -= prompt.size();
        let feed = &mut session.feed;
        let seq = self.publisher.publish_apart(feed, EventKind::PromptCancelled, |object| {
            object.string("promptId", &prompt.id);
            object.bool("isError", false);
            object.bool("interrupted", interrupted);
            object.string("by", by);
        });
        self.prompt_ended(key, &prompt.id, seq);
        self.forgo_trust(key);
    }

    /// Whether its directory is trusted need not be said any more if no prompt waits for that.
    fn forgo_trust(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let is_trust = |approval: &Approval| approval.kind.is_trust();
        if session.prompts.queue.is_empty() && session.approvals.open.iter().any(is_trust) {
            self.withdraw_approvals(key, "prompt_cancelled", is_trust);
        }
    }

    /// Ends the running turn, if there is one, or the prompt that an agent is being started for, or
    /// would be if the directory were trusted. Returns whether there was either.
    pub(super) fn interrupt(&mut self, key: Key, by: &str) -> bool {
        let awaits_trust = self.awaits_trust(key);
        let starting = self.sessions.get_mut(key).filter(|session| {
            let is_starting = session.process_state == Process::Starting;
            session.turn.is_none() && (is_starting || awaits_trust)
        });
        if let Some(prompt) = starting.and_then(|session| session.prompts.queue.pop_front()) {
            self.cancel_prompt(key, &prompt, by, true);
            return true;
        }
        self.interrupt_turn(key)
    }

    /// Ends the running turn, if there is one. Returns whether there was.
    pub(super) fn interrupt_turn(&mut self, key: Key) -> bool {
        let request_id = format!("interrupt-{:016x}", self.random.bits());
        let due = self.now_ms + self.limits.interrupt_timeout_ms;
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(turn) = &mut session.turn else { return false };
        if turn.interrupted {
            return true;
        }
        turn.interrupted = true;
        turn.interrupt_due = Some(due);
        let dialect = self.config.agents[session.agent].dialect;
        let Some(agent_key) = session.process else { return true };
        let Some(agent) = self.agents.get_mut(agent_key) else { return true };
        match dialect {
            Dialect::Claude | Dialect::Demo => {
                agent.stdin.queue(0, |out| claude::interrupt(out, &request_id));
                self.release_agents();
            }
            Dialect::Lines => {
                let effect = agent.terminate(agent_key, self.now_ms, &self.limits);
                self.effects.extend(effect);
                self.arm_agent(agent_key);
            }
        }
        self.arm_session_now(key);
        true
    }
}
