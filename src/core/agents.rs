//! Agents at work: who gets a process, what becomes of prompts, and how processes end.
//!
//! The prompt queue is ours: an agent is given its next prompt only when it is idle. Every prompt
//! that started ends once, whatever happens to its agent. What the lines of an agent mean is
//! `dialect.rs`'s business.

use crate::base::arena::Key;
use crate::base::lines::Lines;
use crate::base::text::Text;
use crate::core::agent::{Agent, Life, Speech};
use crate::core::effect::{DiskRequest, Effect, Exit, Level, Spawn};
use crate::core::event::EventKind;
use crate::core::metrics::limit::Limit;
use crate::core::server::{Dialect, Server};
use crate::core::session::{Process, Session};
use crate::core::turn::Failure;
use crate::limits::{AGENT_READ_SIZE, LINE_SIZE};
use crate::wire::claude;
use crate::wire::json::Object;

/// How the end of a turn is told.
#[derive(Debug, Default)]
pub(super) struct TurnEnd {
    /// The turn failed, and why.
    pub failure: Option<Failure>,
    /// A human ended it.
    pub interrupted: bool,
    /// The last message.
    pub result: Option<String>,
    /// What this turn cost, in US dollars.
    pub cost_usd: Option<f64>,
    /// Tokens of this turn: JSON.
    pub usage: Option<String>,
}

impl Server {
    /// Wants a process for a session: spawns one, or waits for its turn.
    pub(super) fn want_agent(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        if let Err(sentence) = &self.config.agents[session.agent].program {
            let gone = session.agent >= self.configured;
            let code = if gone { "unknown_agent" } else { "agent_failed_to_start" };
            let failure = Failure { code, sentence: sentence.clone() };
            return self.start_failed(key, &failure, None);
        }
        if self.awaits_trust(key) {
            return; // What it waits for brings us here again.
        }
        let full = self.is_full();
        if !full && self.may_start() {
            return self.start_agent(key);
        }
        if full {
            self.suspend_least_recently_used();
        }
        if let Some(session) = self.sessions.get_mut(key)
            && !session.waits_for_agent
        {
            session.waits_for_agent = true;
            self.start_queue.push_back(key);
            match full {
                true => self.tell_full(),
                false => self.counters.limits.hit(Limit::AgentsStarting),
            }
        }
    }

    /// As many agents run as may: tells so each session that waits for one and does not know yet,
    /// since it may have begun to wait for another reason.
    fn tell_full(&mut self) {
        for at in 0..self.start_queue.len() {
            let key = self.start_queue[at];
            if let Some(session) = self.sessions.get_mut(key)
                && !session.told_full
                && !session.prompts.queue.is_empty()
            {
                session.told_full = true;
                self.counters.limits.hit(Limit::Agents);
                self.update_status(key, Some("agents_max"));
            }
        }
    }

    /// Whether there are as many agents as there may be: those that are about to be among them.
    fn is_full(&self) -> bool {
        self.agents.len() + self.looks.len() >= self.agents.capacity() as usize
    }

    /// Whether one more agent may be among those that start.
    fn may_start(&self) -> bool {
        let starting =
            self.count_agents(|agent| matches!(agent.life, Life::Spawning | Life::Starting));
        starting + self.looks.len() < self.limits.agents_starting_max as usize
    }

    fn count_agents(&self, which: impl Fn(&Agent) -> bool) -> usize {
        (0..self.agents.capacity())
            .filter_map(|index| self.agents.get(self.agents.key_at(index)?))
            .filter(|agent| which(agent))
            .count()
    }

    /// Lets sessions that wait for a process have one, oldest first.
    pub(super) fn serve_start_queue(&mut self) {
        for _ in 0..self.start_queue.len() {
            if self.is_full() || !self.may_start() {
                break;
            }
            let Some(key) = self.start_queue.pop_front() else { break };
            if let Some(session) = self.sessions.get_mut(key) {
                (session.waits_for_agent, session.told_full) = (false, false);
                self.dispatch(key);
            }
        }
        if !self.start_queue.is_empty() && self.is_full() {
            self.suspend_least_recently_used();
            self.tell_full();
        }
    }

    /// A session has done with something: it may be its agent that can be spared now.
    pub(super) fn may_be_spared(&mut self) {
        if !self.start_queue.is_empty() {
            self.serve_start_queue();
        }
    }

    /// Stops the agent that has been idle longest, if one can be spared and none is leaving yet.
    fn suspend_least_recently_used(&mut self) {
        let leaving = self.count_agents(Agent::is_leaving);
        if leaving >= self.start_queue.len().max(1) {
            return;
        }
        let idle = (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .filter(|session| session.is_dispensable() && self.background_of(session) == 0)
            .min_by_key(|session| session.idle_at)
            .map(|session| session.key());
        if let Some(key) = idle {
            self.suspend(key);
        }
    }

    pub(super) fn background_of(&self, session: &Session) -> u32 {
        session.process.and_then(|agent| self.agents.get(agent)).map_or(0, |agent| agent.background)
    }

    /// Stops an idle agent; its conversation goes on with the next prompt.
    pub(super) fn suspend(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(agent_key) = session.process else { return };
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        agent.suspending = true;
        let effect = agent.stop(agent_key, self.now_ms, &self.limits);
        self.effects.extend(effect);
        session.process_state = Process::Leaving;
        self.arm_agent(agent_key);
        self.update_status(key, Some("idle"));
    }

    /// Starts a process for a session that has none. Distrusted: it reads nothing that its directory
    /// brings.
    pub(super) fn spawn(&mut self, key: Key, is_distrusted: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let config = &self.config.agents[session.agent];
        let Ok(program) = &config.program else { return };
        let stdout = match config.dialect {
            Dialect::Claude | Dialect::Demo => Speech::Lines(Lines::new(LINE_SIZE)),
            Dialect::Lines => Speech::Text(Text::new(AGENT_READ_SIZE)),
        };
        let arguments = match config.dialect {
            Dialect::Claude | Dialect::Demo => {
                let (allowed_tools, directories) = session.unusual.granted.arguments();
                let fork = session.conversation.fork.as_ref();
                claude::arguments(&claude::Start {
                    conversation_id: &session.conversation.id,
                    resume: session.conversation.begun,
                    fork_from: fork.map(|fork| &*fork.conversation),
                    fork_entry: fork.and_then(|fork| fork.entry.as_deref()),
                    mode: session.mode(),
                    model: session.unusual.model.as_deref(),
                    allow_bypass: self.config.allow_bypass,
                    allowed_tools: &allowed_tools,
                    directories: &directories,
                    no_local_settings: is_distrusted,
                })
            }
            Dialect::Lines => {
                vec!["-c".to_owned(), self.config.commands[session.agent].clone()]
            }
        };
        let agent = Agent::new(key, stdout, self.now_ms, &self.limits);
        let Ok(agent_key) = self.agents.insert(agent) else { return };
        self.sweeps[agent_key.index as usize] = 0;
        session.process = Some(agent_key);
        session.process_state = Process::Starting;
        self.counters.agents_started += 1;
        let spawn = Spawn {
            agent: agent_key,
            program: program.clone(),
            arguments,
            working_dir: session.working_dir.to_path_buf(),
            session_id: session.id().to_owned(),
        };
        self.effects.push_back(Effect::Spawn(Box::new(spawn)));
        self.arm_agent(agent_key);
        self.update_status(key, None);
    }

    /// The process runs.
    pub fn agent_spawned(&mut self, agent_key: Key) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        if agent.life != Life::Spawning {
            return;
        }
        let key = agent.session;
        let Some(session) = self.sessions.get_mut(key) else { return };
        match self.config.agents[session.agent].dialect {
            Dialect::Claude | Dialect::Demo => {
                agent.life = Life::Starting;
                agent.stdin.queue(0, |out| claude::initialize(out, "initialize"));
                self.release_agents();
                self.arm_agent(agent_key);
            }
            Dialect::Lines => {
                agent.life = Life::Ready;
                session.process_state = Process::Ready;
                self.arm_agent(agent_key);
                self.start_turn(key);
                self.serve_start_queue();
            }
        }
    }

    /// The agent has said that it takes prompts.
    pub(super) fn agent_ready(&mut self, agent_key: Key) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        if agent.life != Life::Starting {
            return;
        }
        (agent.life, agent.was_ready) = (Life::Ready, true);
        let key = agent.session;
        self.arm_agent(agent_key);
        if let Some(session) = self.sessions.get_mut(key) {
            session.conversation.retried = false;
            session.process_state = Process::Ready;
            session.idle_at = self.now_ms;
        }
        self.after(key, None);
        self.serve_start_queue();
    }

    /// The process could not be made.
    pub fn agent_spawn_failed(&mut self, agent_key: Key, error: String) {
        let Some(agent) = self.agents.remove(agent_key) else { return };
        self.queue_size -= agent.prompt_size;
        self.counters.agents_ended += 1;
        self.wheel_cancel_agent(agent_key);
        let key = agent.session;
        if let Some(session) = self.sessions.get_mut(key) {
            session.process = None;
            session.process_state = Process::Gone;
        }
        let sentence = format!("the agent's process could not be made: {error}");
        let failure = Failure { code: "agent_failed_to_start", sentence };
        self.start_failed(key, &failure, None);
        self.serve_start_queue();
    }

    /// An agent is alive, and cannot do what it is for: it is stopped, and its prompt fails.
    pub(super) fn refuse_start(&mut self, agent_key: Key, key: Key, failure: &Failure) {
        if let Some(agent) = self.agents.get_mut(agent_key) {
            agent.suspending = true; // Its end is told here.
            let effect = agent.stop(agent_key, self.now_ms, &self.limits);
            self.effects.extend(effect);
            self.arm_agent(agent_key);
        }
        if let Some(session) = self.sessions.get_mut(key) {
            session.process_state = Process::Leaving;
        }
        self.start_failed(key, failure, None);
        self.serve_start_queue();
    }

    /// An agent could not be started: its prompt fails, and the session says why.
    pub(super) fn start_failed(
        &mut self,
        key: Key,
        failure: &Failure,
        agent: Option<(&str, Option<Exit>)>,
    ) {
        self.session_error(key, failure, agent);
        self.fail_next_prompt(key, failure);
        if let Some(session) = self.sessions.get_mut(key) {
            session.failed = true;
        }
        self.after(key, Some(failure.code));
    }

    /// Publishes a `session-error`.
    pub(super) fn session_error(
        &mut self,
        key: Key,
        failure: &Failure,
        agent: Option<(&str, Option<Exit>)>,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let write = |object: &mut Object<'_>| {
            object.string("error", &failure.sentence);
            object.string("code", failure.code);
            let (detail, exit) = agent.unwrap_or_default();
            object.string("detail", last_lines(detail));
            match exit {
                Some(Exit::Code(code)) => object.integer("exitCode", code.into()),
                Some(Exit::Signal(signal)) => object.number("signal", signal.unsigned_abs().into()),
                None => {}
            }
        };
        self.publisher.publish(&mut session.feed, EventKind::SessionError, write);
        let session_id = session.id().to_owned();
        let code = failure.code.to_owned();
        let fields = vec![("session", session_id), ("code", code)];
        self.log(Level::Warn, "session", "a session met an error", fields);
    }

    // Ends.

    /// The process is gone.
    pub fn agent_exited(&mut self, agent_key: Key, exit: Exit) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        agent.exited(exit, self.now_ms);
        agent.stdin.end();
        let key = agent.session;
        if let Some(session) = self.sessions.get_mut(key) {
            session.process_state = Process::Leaving;
        }
        self.check_agent(agent_key);
        if !self.start_queue.is_empty() {
            self.serve_start_queue(); // It may have been one of those that are starting.
        }
    }

    /// A sweep for what an agent left behind is done.
    pub(super) fn agent_swept(&mut self, agent_key: Key, killed: u32) {
        self.counters.orphans_killed += u64::from(killed);
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        agent.swept(killed, &mut self.sweeps[agent_key.index as usize], now_ms);
        self.check_agent(agent_key);
    }

    /// An agent's deadline has come.
    pub(super) fn agent_due(&mut self, agent_key: Key) {
        let (now_ms, limits) = (self.now_ms, &self.limits);
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let starting = matches!(agent.life, Life::Spawning | Life::Starting);
        if starting && now_ms >= agent.start_due {
            let key = agent.session;
            let seconds = limits.start_timeout_ms / 1000;
            let sentence = format!("the agent did not say within {seconds} s that it is ready");
            let failure = Failure { code: "agent_failed_to_start", sentence };
            let effect = agent.terminate(agent_key, now_ms, limits);
            let tail = agent.tail.clone();
            agent.suspending = true; // Its end is told already.
            self.effects.extend(effect);
            if let Some(session) = self.sessions.get_mut(key) {
                session.process_state = Process::Leaving;
            }
            self.start_failed(key, &failure, Some((&tail, None)));
            self.serve_start_queue(); // It is no longer one of those that are starting.
        } else {
            let effect = agent.climb(agent_key, now_ms, limits);
            self.effects.extend(effect);
        }
        self.long_line_due(agent_key); // After a sleep of the machine both can be due.
        self.check_agent(agent_key);
    }

    /// Sees what an agent's state asks for: a sweep, the end of its turn, its end.
    pub(super) fn check_agent(&mut self, agent_key: Key) {
        let (now_ms, is_paused) = (self.now_ms, self.is_paused(agent_key));
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        if agent.life == Life::Exited {
            if is_paused && !agent.end_told {
                agent.await_last_words(now_ms);
            }
            if agent.is_silent(now_ms) && !self.has_undrained(agent_key) {
                self.agent_silent(agent_key);
            }
            let Some(agent) = self.agents.get_mut(agent_key) else { return };
            let key = agent.session;
            if agent.wants_sweep(now_ms)
                && let Some(session) = self.sessions.get(key)
            {
                let session_id = session.id().to_owned();
                let request = DiskRequest::Sweep { agent: agent_key, session_id };
                self.effects.push_back(Effect::Disk(request));
            }
            let over = self.agents.get(agent_key).is_some_and(|agent| agent.is_over(now_ms));
            if over && !self.has_undrained(agent_key) {
                return self.agent_over(agent_key);
            }
        }
        let late = self.agents.get(agent_key).is_some_and(|agent| agent.due() <= now_ms);
        if late && self.has_undrained(agent_key) {
            return; // Nothing can be done before the disk has answered, and that brings us back.
        }
        self.arm_agent(agent_key);
    }

    /// Whether whole lines of an agent still wait to be read by us.
    fn has_undrained(&self, agent_key: Key) -> bool {
        self.paused.contains(&agent_key)
    }

    /// An agent has exited and said its last word: its turn ends, if it left one.
    fn agent_silent(&mut self, agent_key: Key) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let (key, exit) = (agent.session, agent.exit);
        // Whoever it has left behind may have said something since then, and begun a turn with it.
        let begun = self.sessions.get(key).is_some_and(|session| session.turn.is_some());
        if std::mem::replace(&mut agent.end_told, true) && !begun {
            return;
        }
        let (tail, was_ready) = (agent.tail.clone(), agent.was_ready);
        let suspending = agent.suspending;
        self.withdraw_approvals(key, "agent_exited", |_| true);
        self.end_subagents(key);
        let draining = self.is_draining();
        let Some(session) = self.sessions.get_mut(key) else { return };
        let dialect = self.config.agents[session.agent].dialect;
        let described = describe(exit);
        let interrupted = session.turn.as_ref().is_some_and(|turn| turn.interrupted);
        if session.deleting {
            let interrupted = true;
            return self.end_turn(key, TurnEnd { interrupted, ..TurnEnd::default() });
        }
        // One that was gone before it was told to says for itself how it ended.
        if draining && suspending && !interrupted {
            let sentence = "the server was stopped in the middle of the turn".to_owned();
            let failure = Some(Failure { code: "server_stopping", sentence });
            return self.end_turn(key, TurnEnd { failure, ..TurnEnd::default() });
        }
        if dialect == Dialect::Lines {
            let failed = exit != Some(Exit::Code(0));
            let failure = (failed && !interrupted).then(|| Failure {
                code: "agent_exited",
                sentence: format!("the command {described}"),
            });
            if let Some(failure) = &failure {
                self.session_error(key, failure, Some((&tail, exit)));
            }
            return self.end_turn(key, TurnEnd { failure, interrupted, ..TurnEnd::default() });
        }
        if let Some(turn) = &session.turn {
            let interrupted = turn.interrupted && turn.failure.is_none();
            let failure = turn.failure.clone().or_else(|| {
                (!interrupted).then(|| Failure {
                    code: "agent_exited",
                    sentence: format!("the agent {described} in the middle of a turn"),
                })
            });
            if let Some(failure) = &failure {
                self.session_error(key, failure, Some((&tail, exit)));
                if let Some(session) = self.sessions.get_mut(key) {
                    session.failed = true;
                }
            }
            return self.end_turn(key, TurnEnd { failure, interrupted, ..TurnEnd::default() });
        }
        if suspending {
            return;
        }
        if !was_ready {
            return self.start_ended(key, &tail, exit);
        }
        if exit != Some(Exit::Code(0)) {
            let sentence = format!("the agent {described} while it was idle");
            let failure = Failure { code: "agent_exited", sentence };
            self.session_error(key, &failure, Some((&tail, exit)));
            if let Some(session) = self.sessions.get_mut(key) {
                session.failed = true;
            }
            self.update_status(key, None);
        }
    }

    /// An agent exited before it was ready.
    fn start_ended(&mut self, key: Key, tail: &str, exit: Option<Exit>) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let line = last_lines(tail).lines().last().unwrap_or_default().trim().to_owned();
        let reason = if line.is_empty() { format!("it {}", describe(exit)) } else { line };
        // On exactly the CLI's two refusals the other of --session-id and --resume is tried, once.
        let refusal = claude::refusal(tail);
        let conversation = &mut session.conversation;
        // What was to be copied, or was adopted and never yet gone on with, is not ours to begin.
        let is_anothers = conversation.fork.is_some() || conversation.begun && session.turns == 0;
        let failure = match refusal {
            Some(claude::Refusal::NotFound) if is_anothers => {
                let sentence = format!(
                    "the agent knows no such conversation in this directory, and no other one \
                     was begun: {reason}"
                );
                Failure { code: "conversation_not_found", sentence }
            }
            // A copy that is there was made by an agent of ours that had no time to say so.
            Some(refusal) if !conversation.retried => {
                conversation.retried = true;
                conversation.begun = refusal == claude::Refusal::AlreadyInUse;
                conversation.fork = None.into();
                return;
            }
            _ => {
                let sentence = format!("the agent failed to start: {reason}");
                Failure { code: "agent_failed_to_start", sentence }
            }
        };
        self.start_failed(key, &failure, Some((tail, exit)));
    }

    /// Nothing of an agent is left: its slot is free, and its session can have another.
    fn agent_over(&mut self, agent_key: Key) {
        self.agent_silent(agent_key);
        self.release_long_line(agent_key);
        let Some(agent) = self.agents.remove(agent_key) else { return };
        self.queue_size -= agent.prompt_size;
        self.counters.agents_ended += 1;
        self.wheel_cancel_agent(agent_key);
        self.effects.push_back(Effect::ReleaseAgent(agent_key));
        let key = agent.session;
        if let Some(session) = self.sessions.get_mut(key) {
            session.process = None;
            session.process_state = Process::Gone;
            if session.deleting {
                self.close_session(key);
            } else {
                self.after(key, None);
            }
        }
        self.serve_start_queue();
    }

    fn wheel_cancel_agent(&mut self, agent_key: Key) {
        // The slot is free already, so that nothing is due in it.
        self.arm_agent(agent_key);
    }

    /// Tells every agent to go, for the end of the server.
    pub(super) fn stop_agents(&mut self) {
        for index in 0..self.agents.capacity() {
            let Some(agent_key) = self.agents.key_at(index) else { continue };
            let (now_ms, limits) = (self.now_ms, &self.limits);
            let Some(agent) = self.agents.get_mut(agent_key) else { continue };
            agent.suspending |= agent.is_alive();
            let session = self.sessions.get(agent.session);
            // A turn under way would run on to its end after its input has closed.
            let busy = session.is_some_and(|session| session.turn.is_some());
            let effect = match busy {
                true => agent.terminate(agent_key, now_ms, limits),
                false => agent.stop(agent_key, now_ms, limits),
            };
            self.effects.extend(effect);
            self.arm_agent(agent_key);
        }
    }

    /// Ends every agent at once.
    pub(super) fn kill_agents(&mut self) {
        for index in 0..self.agents.capacity() {
            let Some(agent_key) = self.agents.key_at(index) else { continue };
            let Some(agent) = self.agents.get_mut(agent_key) else { continue };
            agent.suspending |= agent.is_alive();
            let effect = agent.kill(agent_key);
            self.effects.extend(effect);
            self.arm_agent(agent_key);
        }
    }

    /// Stops a session's agent: with its input, or at once if a turn is under way. Returns whether
    /// there is a process to wait for.
    pub(super) fn stop_agent_of(&mut self, key: Key) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let Some(agent_key) = session.process else { return false };
        let busy = session.turn.is_some();
        if let Some(turn) = &mut session.turn {
            turn.interrupted = true;
        }
        let (now_ms, limits) = (self.now_ms, &self.limits);
        let Some(agent) = self.agents.get_mut(agent_key) else { return false };
        agent.suspending = true;
        let effect = match busy {
            true => agent.terminate(agent_key, now_ms, limits),
            false => agent.stop(agent_key, now_ms, limits),
        };
        self.effects.extend(effect);
        self.arm_agent(agent_key);
        self.serve_start_queue(); // It may have been one of those that are starting.
        true
    }
}

/// How a process ended, in words that follow "the agent".
fn describe(exit: Option<Exit>) -> String {
    match exit {
        Some(Exit::Code(0)) => "exited".to_owned(),
        Some(Exit::Code(code)) => format!("exited with status {code}"),
        Some(Exit::Signal(signal)) => format!("was killed by signal {signal}"),
        None => "went away".to_owned(),
    }
}

/// The last lines of a text, at most about one KiB.
fn last_lines(text: &str) -> &str {
    let text = text.trim_end();
    let from = text.ceil_char_boundary(text.len().saturating_sub(1024));
    match (from, text[from..].find('\n')) {
        (0, _) => text,
        (_, Some(newline)) => &text[from + newline + 1..],
        (_, None) => &text[from..],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_whole_and_few() {
        assert_eq!(last_lines("a\nb\n"), "a\nb");
        let long = format!("{}\nlast\u{e9}\n", "x".repeat(2000));
        assert_eq!(last_lines(&long), "last\u{e9}");
        assert_eq!(describe(Some(Exit::Signal(9))), "was killed by signal 9");
    }
}
