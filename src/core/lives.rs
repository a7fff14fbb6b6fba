//! Sessions from one state to the next: what is told of them, their deadlines, and their end.
//!
//! A status is derived and compared after every input; here is where a difference is told.

use crate::base::arena::Key;
use crate::core::agents::TurnEnd;
use crate::core::effect::Level;
use crate::core::event::EventKind;
use crate::core::server::Server;
use crate::core::session::Status;

impl Server {
    /// What every change of a session is followed by: its status told, its next prompt begun.
    pub(super) fn after(&mut self, key: Key, reason: Option<&str>) {
        self.dispatch(key);
        self.update_status(key, reason);
        self.arm_session_now(key);
    }

    /// Tells a session's status if it has changed.
    pub(super) fn update_status(&mut self, key: Key, reason: Option<&str>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (status, previous) = (session.status(), session.told);
        let waits = reason == Some("agents_max");
        if status == previous && !waits || status == Status::Closed {
            return;
        }
        self.tell_status(key, reason);
    }

    /// Tells a session's status, changed or not.
    pub(super) fn tell_status(&mut self, key: Key, reason: Option<&str>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let (status, previous) = (session.status(), session.told);
        session.told = status;
        let agent = &self.config.agents[session.agent];
        let mode = session.mode_in_use.as_deref().or(session.unusual.mode.as_deref());
        let model = session.unusual.model.as_deref();
        let name = session.unusual.name.as_deref();
        let dir = session.working_dir.to_string_lossy();
        let active_at = session.feed.active_at;
        self.publisher.publish(&mut session.feed, EventKind::SessionStatus, |object| {
            object.string("status", status.as_str());
            object.string("previous", previous.as_str());
            object.string_or_null("reason", reason);
            object.string("workingDir", &dir);
            object.string("agent", &agent.name);
            object.string_or_null("model", model);
            object.string_or_null("mode", mode);
            object.string_or_null("name", name);
            object.string("conversation", &session.conversation.id);
            object.bool("resumable", session.conversation.begun);
            object.number("lastActivityAt", active_at);
        });
    }

    /// Arms a session's deadline for the nearest thing that it waits for.
    pub(super) fn arm_session_now(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let mut due = session.feed.held_due(self.limits.delta_hold_ms).unwrap_or(u64::MAX);
        if let Some(turn) = &session.turn {
            due = due.min(turn.interrupt_due.unwrap_or(u64::MAX));
            let agent = session.process.and_then(|agent| self.agents.get(agent));
            if let Some(agent) = agent.filter(|agent| !agent.stall_told)
                && session.approvals.open.is_empty()
            {
                due = due.min(agent.heard_at + self.limits.stall_after_ms);
            }
        } else if session.is_dispensable() {
            due = due.min(session.idle_at + self.limits.suspend_after_ms);
        }
        self.arm_session(key, due);
    }

    /// A session's deadline has come.
    pub(super) fn session_due(&mut self, key: Key) {
        let (now_ms, hold_ms) = (self.now_ms, self.limits.delta_hold_ms);
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.feed.held_due(hold_ms).is_some_and(|due| now_ms >= due) {
            self.publisher.flush(&mut session.feed);
        }
        let idle_ms = now_ms.saturating_sub(session.idle_at);
        let dispensable = session.is_dispensable() && idle_ms >= self.limits.suspend_after_ms;
        let overdue = session
            .turn
            .as_ref()
            .and_then(|turn| turn.interrupt_due)
            .is_some_and(|at| now_ms >= at);
        let running = session.turn.is_some() && session.approvals.open.is_empty();
        let process = session.process;
        if overdue {
            self.interrupt_overdue(key);
        } else if running && let Some(agent_key) = process {
            self.check_stall(key, agent_key);
        } else if dispensable
            && self.sessions.get(key).is_some_and(|session| self.background_of(session) == 0)
        {
            self.suspend(key);
        } else if dispensable && let Some(session) = self.sessions.get_mut(key) {
            session.idle_at = now_ms; // Its background task counts as life.
        }
        self.arm_session_now(key);
    }

    /// An interrupted turn did not end: its agent is stopped, the next prompt resumes.
    fn interrupt_overdue(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if let Some(turn) = &mut session.turn {
            turn.interrupt_due = None;
        }
        let Some(agent_key) = session.process else { return };
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let effect = agent.terminate(agent_key, self.now_ms, &self.limits);
        self.effects.extend(effect);
        self.arm_agent(agent_key);
        self.may_be_spared(); // Its turn may have begun before it said that it is ready.
    }

    /// Tells once that a running agent has gone silent.
    fn check_stall(&mut self, key: Key, agent_key: Key) {
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let silence_ms = now_ms.saturating_sub(agent.heard_at);
        if agent.stall_told || silence_ms < self.limits.stall_after_ms {
            return;
        }
        agent.stall_told = true;
        if let Some(session) = self.sessions.get_mut(key) {
            self.publisher.publish(&mut session.feed, EventKind::SessionStalled, |object| {
                object.number("silenceMs", silence_ms);
            });
        }
    }

    /// Closes a session whose processes are gone. Its log is still served for a while.
    pub(super) fn close_session(&mut self, key: Key) -> Option<u64> {
        let session = self.sessions.get_mut(key)?;
        if session.unusual.closed_at.is_some() {
            return None;
        }
        while let Some(prompt) = self.sessions.get_mut(key)?.prompts.queue.pop_front() {
            self.cancel_prompt(key, &prompt, "delete", false);
        }
        self.end_turn(key, TurnEnd { interrupted: true, ..TurnEnd::default() });
        self.withdraw_approvals(key, "session_closed", |_| true);
        self.end_subagents(key);
        let session = self.sessions.get_mut(key)?;
        let previous = session.told;
        session.told = Status::Closed;
        let seq = self.publisher.publish(&mut session.feed, EventKind::SessionClosed, |object| {
            object.string("status", Status::Closed.as_str());
            object.string("previous", previous.as_str());
            object.string("reason", "deleted");
        });
        session.unusual.closed_at = Some(self.now_ms);
        let id = session.id().to_owned();
        self.log(Level::Info, "session", "closed", vec![("session", id)]);
        self.by_id.remove(&self.sessions, key);
        self.arm_session(key, u64::MAX);
        self.closed.push_back(key);
        self.closed_ids.insert(&self.sessions, key);
        while self.closed.len() > self.limits.closed_sessions_max as usize {
            let oldest = self.closed[0];
            self.forget_session(oldest);
        }
        self.wake_streams(key);
        self.arm_own();
        Some(seq)
    }

    /// Forgets a closed session and its log.
    pub(super) fn forget_session(&mut self, key: Key) {
        self.close_streams(key);
        self.closed.retain(|closed| *closed != key);
        self.closed_ids.remove(&self.sessions, key);
        if let Some(session) = self.sessions.remove(key)
            && let Some(journal) = &session.feed.log.journal
        {
            let (id, last_seq) = (session.id().to_owned(), session.feed.log.newest_seq());
            self.erase(id, journal.size(), last_seq);
        }
    }
}
