//! Agents at work: who gets a process, what becomes of prompts, and how processes end.
//!
//! The prompt queue is ours: an agent is given its next prompt only when it is idle. Every prompt
//! that started ends once, whatever happens to its agent. What the lines of an agent mean is
//! `dialect.rs`'s business.

use crate::base::arena::Key;
use crate::base::lines::Lines;
use crate::base::text::Text;
use crate::core::agent::{self, Agent, LINE_SIZE, Life, Speech, TEXT_SIZE};
use crate::core::effect::{DiskRequest, Effect, Exit, Level, Pipe, Spawn};
use crate::core::event::EventKind;
use crate::core::metrics::limit::Limit;
use crate::core::prompts::Prompt;
use crate::core::publisher::{Output, Place};
use crate::core::server::{Dialect, Server};
use crate::core::session::{Process, Session, Status, Subagent, Trust};
use crate::core::turn::{Failure, Turn};
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
    // Prompts.

    /// Gives the session's next prompt to its agent, as far as that is possible now.
    pub(super) fn dispatch(&mut self, key: Key) {
        if self.is_draining() {
            return;
        }
        let Some(session) = self.sessions.get(key) else { return };
        let open = !session.archived && !session.deleting && session.closed_at.is_none();
        if !open || session.turn.is_some() || session.prompts.queue.is_empty() {
            return;
        }
        match session.process.and_then(|agent| self.agents.get(agent)) {
            None if session.process.is_none() => self.want_agent(key),
            Some(agent) if agent.is_ready() => self.start_turn(key),
            // It is starting, or leaving: its next fact brings us here again.
            _ => {}
        }
    }

    /// Begins the turn of the next prompt.
    fn start_turn(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(agent_key) = session.process else { return };
        let Some(mut prompt) = session.prompts.queue.pop_front() else { return };
        session.turns += 1;
        session.failed = false;
        let turn_id = format!("turn-{}", session.turns);
        let feed = &mut session.feed;
        self.publisher.flush(feed); // What was said before is not of this turn.
        feed.scope.turn_id = Some(turn_id.clone());
        feed.scope.prompt_id = Some(prompt.id.clone());
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
        session.feed.scope.turn_id = Some(turn_id.clone());
        session.feed.scope.prompt_id = None;
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
        session.usage = end.usage.or(session.usage.take());
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
        session.feed.scope.turn_id = None;
        session.feed.scope.prompt_id = None;
        session.idle_at = self.now_ms;
        if let Some(prompt) = &turn.prompt {
            self.prompt_ended(key, &prompt.id, seq);
        }
        self.after(key, None);
        if !self.start_queue.is_empty() {
            self.serve_start_queue(); // It may be this session's agent that can be spared now.
        }
    }

    /// Fails the prompt that waits first: what it needed could not be had.
    fn fail_next_prompt(&mut self, key: Key, failure: &Failure) {
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
    }

    /// Ends the running turn, if there is one, or the prompt that an agent is being started for.
    /// Returns whether there was either.
    pub(super) fn interrupt(&mut self, key: Key, by: &str) -> bool {
        let starting = self
            .sessions
            .get_mut(key)
            .filter(|session| session.turn.is_none() && session.process_state == Process::Starting);
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

    // Processes.

    /// Wants a process for a session: spawns one, or waits for its turn.
    fn want_agent(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        if let Err(sentence) = &self.config.agents[session.agent].program {
            let gone = session.agent >= self.configured;
            let code = if gone { "unknown_agent" } else { "agent_failed_to_start" };
            let failure = Failure { code, sentence: sentence.clone() };
            return self.start_failed(key, &failure, None);
        }
        if !self.may_start(key) {
            return;
        }
        let starting =
            self.count_agents(|agent| matches!(agent.life, Life::Spawning | Life::Starting));
        let full = self.agents.len() >= self.agents.capacity() as usize;
        if !full && starting < self.limits.agents_starting_max as usize {
            return self.spawn(key);
        }
        if full {
            self.suspend_least_recently_used();
        }
        if let Some(session) = self.sessions.get_mut(key)
            && !session.waits_for_agent
        {
            session.waits_for_agent = true;
            self.start_queue.push_back(key);
            let limit = if full { Limit::Agents } else { Limit::AgentsStarting };
            self.counters.limits.hit(limit);
            if full {
                self.update_status(key, Some("agents_max"));
            }
        }
    }

    fn count_agents(&self, which: impl Fn(&Agent) -> bool) -> usize {
        (0..self.agents.capacity())
            .filter_map(|index| self.agents.get(self.agents.key_at(index)?))
            .filter(|agent| which(agent))
            .count()
    }

    /// Lets sessions that wait for a process have one, oldest first.
    fn serve_start_queue(&mut self) {
        for _ in 0..self.start_queue.len() {
            let starting =
                self.count_agents(|agent| matches!(agent.life, Life::Spawning | Life::Starting));
            let full = self.agents.len() >= self.agents.capacity() as usize;
            if full || starting >= self.limits.agents_starting_max as usize {
                break;
            }
            let Some(key) = self.start_queue.pop_front() else { break };
            if let Some(session) = self.sessions.get_mut(key) {
                session.waits_for_agent = false;
                self.dispatch(key);
            }
        }
        if !self.start_queue.is_empty() && self.agents.len() >= self.agents.capacity() as usize {
            self.suspend_least_recently_used();
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
            .map(|session| session.key);
        if let Some(key) = idle {
            self.suspend(key);
        }
    }

    pub(super) fn background_of(&self, session: &Session) -> u32 {
        session.process.and_then(|agent| self.agents.get(agent)).map_or(0, |agent| agent.background)
    }

    /// Stops an idle agent; its conversation goes on with the next prompt.
    fn suspend(&mut self, key: Key) {
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

    /// Starts a process for a session that has none.
    fn spawn(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let config = &self.config.agents[session.agent];
        let Ok(program) = &config.program else { return };
        let stdout = match config.dialect {
            Dialect::Claude | Dialect::Demo => Speech::Lines(Lines::new(LINE_SIZE)),
            Dialect::Lines => Speech::Text(Text::new(TEXT_SIZE)),
        };
        let arguments = match config.dialect {
            Dialect::Claude | Dialect::Demo => {
                let (allowed_tools, directories) = granted(&session.granted);
                let fork = session.conversation.fork.as_ref();
                claude::arguments(&claude::Start {
                    conversation_id: &session.conversation.id,
                    resume: session.conversation.begun,
                    fork_from: fork.map(|fork| &*fork.conversation),
                    fork_entry: fork.and_then(|fork| fork.entry.as_deref()),
                    mode: session.mode(),
                    model: session.model.as_deref(),
                    allow_bypass: self.config.allow_bypass,
                    allowed_tools: &allowed_tools,
                    directories: &directories,
                    no_local_settings: session.trust == Trust::Denied,
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
            working_dir: session.working_dir.clone(),
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
    fn start_failed(&mut self, key: Key, failure: &Failure, agent: Option<(&str, Option<Exit>)>) {
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

    // Bytes of agents.

    /// Where the next read of a pipe goes. Empty: the agent must wait.
    pub fn agent_space(&mut self, agent_key: Key, pipe: Pipe) -> &mut [u8] {
        if self.is_paused(agent_key) {
            return &mut [];
        }
        match self.agents.get_mut(agent_key) {
            None => &mut [],
            Some(agent) => match (pipe, &mut agent.stdout) {
                (Pipe::Stderr, _) => agent.stderr.space(),
                (Pipe::Stdout, Speech::Lines(lines)) => lines.space(),
                (Pipe::Stdout, Speech::Text(text)) => text.space(),
            },
        }
    }

    /// Whether an agent's output has to wait for the next commit.
    pub(super) fn is_paused(&self, agent_key: Key) -> bool {
        let session = self.agents.get(agent_key).map(|agent| agent.session);
        let session = session.and_then(|key| self.sessions.get(key));
        self.awaits_disk()
            || session.is_some_and(|session| {
                session.feed.log.hidden() > session.feed.log.ring.size() as u64 / 2
            })
    }

    /// That many bytes of a pipe were read.
    pub fn agent_filled(&mut self, agent_key: Key, pipe: Pipe, count: usize) {
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        agent.heard_at = now_ms;
        if agent.stall_told {
            agent.stall_told = false;
        }
        match (pipe, &mut agent.stdout) {
            (Pipe::Stderr, _) => {
                agent.stderr.filled(count);
                self.drain_stderr(agent_key, false);
            }
            (Pipe::Stdout, Speech::Lines(lines)) => {
                lines.filled(count);
                agent.long_since = if lines.has_lent() { now_ms } else { agent.long_since };
                self.drain_lines(agent_key);
            }
            (Pipe::Stdout, Speech::Text(text)) => {
                text.filled(count);
                self.drain_text(agent_key, false);
            }
        }
    }

    /// A pipe has ended.
    pub fn agent_pipe_ended(&mut self, agent_key: Key, pipe: Pipe) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        agent.ended(pipe);
        match (pipe, &agent.stdout) {
            (Pipe::Stderr, _) => self.drain_stderr(agent_key, true),
            (Pipe::Stdout, Speech::Lines(_)) => self.drain_lines(agent_key),
            (Pipe::Stdout, Speech::Text(_)) => self.drain_text(agent_key, true),
        }
        if pipe == Pipe::Stdout {
            self.end_the_mute(agent_key);
        }
        self.check_agent(agent_key);
    }

    /// An agent of many turns that has closed its output and lives on can never end a turn: it is
    /// stopped.
    fn end_the_mute(&mut self, agent_key: Key) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        if matches!(agent.stdout, Speech::Lines(_)) && !agent.is_leaving() {
            let effect = agent.stop(agent_key, self.now_ms, &self.limits);
            self.effects.extend(effect);
        }
        if !self.start_queue.is_empty() {
            self.serve_start_queue(); // It may have been one of those that are starting.
        }
    }

    /// Publishes text of an agent that speaks no lines.
    fn drain_text(&mut self, agent_key: Key, last: bool) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let Speech::Text(buffer) = &mut agent.stdout else { return };
        let mut text = String::new();
        buffer.take(&mut text, last);
        self.publish_text(agent_key, Output::Stdout, &text);
    }

    /// Publishes standard error, and keeps the newest of it.
    fn drain_stderr(&mut self, agent_key: Key, last: bool) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let mut text = String::new();
        agent.stderr.take(&mut text, last);
        agent.remember(&text);
        self.publish_text(agent_key, Output::Stderr, &text);
    }

    fn publish_text(&mut self, agent_key: Key, output: Output, text: &str) {
        let Some(agent) = self.agents.get(agent_key) else { return };
        let key = agent.session;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if text.is_empty() {
            return;
        }
        let message_id = session.turn.as_ref().map_or("agent", |turn| &turn.id).to_owned();
        let block = u32::from(output == Output::Stderr);
        let offset = match &mut session.turn {
            Some(turn) => turn.text_offset(block, text),
            None => 0,
        };
        let place = Place { output, message_id: &message_id, block };
        self.publisher.output(&mut session.feed, place, offset, text);
        self.arm_session_now(key);
    }

    /// What an agent may be told now.
    pub fn agent_input(&self, agent_key: Key) -> &[u8] {
        self.agents.get(agent_key).map_or(&[], |agent| agent.stdin.output())
    }

    /// The agent took this many bytes of [`Server::agent_input`].
    pub fn agent_input_sent(&mut self, agent_key: Key, count: usize) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        if agent.stdin.sent(count) {
            self.effects.push_back(Effect::CloseStdin(agent_key));
        }
        if agent.stdin.is_empty() {
            self.queue_size -= std::mem::take(&mut agent.prompt_size);
        }
    }

    /// Lets go what agents are to be told and what waited for its event, and goes on with output
    /// that had to wait.
    pub(super) fn release_agents(&mut self) {
        let visible = self.publisher.visible();
        for index in 0..self.agents.capacity() {
            let Some(key) = self.agents.key_at(index) else { continue };
            if let Some(agent) = self.agents.get_mut(key) {
                agent.stdin.release(visible);
            }
        }
    }

    /// Goes on with the output of agents that had to wait for the last commit.
    pub(super) fn resume_agents(&mut self) {
        for agent_key in std::mem::take(&mut self.paused) {
            self.drain_lines(agent_key);
            self.check_agent(agent_key);
        }
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
            self.long_line_due(agent_key);
        }
        self.check_agent(agent_key);
    }

    /// Sees what an agent's state asks for: a sweep, the end of its turn, its end.
    pub(super) fn check_agent(&mut self, agent_key: Key) {
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        if agent.life == Life::Exited {
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
        if std::mem::replace(&mut agent.end_told, true) {
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
        if dialect == Dialect::Lines {
            let failed = exit != Some(Exit::Code(0));
            let interrupted = session.turn.as_ref().is_some_and(|turn| turn.interrupted);
            let failure = (failed && !interrupted).then(|| Failure {
                code: "agent_exited",
                sentence: format!("the command {described}"),
            });
            if let Some(failure) = &failure {
                self.session_error(key, failure, Some((&tail, exit)));
            }
            return self.end_turn(key, TurnEnd { failure, interrupted, ..TurnEnd::default() });
        }
        if session.deleting {
            let interrupted = true;
            return self.end_turn(key, TurnEnd { interrupted, ..TurnEnd::default() });
        }
        if draining {
            let sentence = "the server was stopped in the middle of the turn".to_owned();
            let failure = Some(Failure { code: "server_stopping", sentence });
            return self.end_turn(key, TurnEnd { failure, ..TurnEnd::default() });
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
        // On exactly the CLI's two refusals the other of --session-id and --resume is tried, once.
        let refusal = claude::refusal(tail).filter(|_| !session.conversation.retried);
        let forks = session.conversation.fork.is_some();
        match refusal {
            // A copy of nothing would be a new conversation that nobody asked for: it is told.
            Some(claude::Refusal::NotFound) if forks => {}
            // A copy that is there was made by an agent of ours that had no time to say so.
            Some(refusal) => {
                session.conversation.retried = true;
                session.conversation.begun = refusal == claude::Refusal::AlreadyInUse;
                session.conversation.fork = None;
                return;
            }
            None => {}
        }
        let line = last_lines(tail).lines().last().unwrap_or_default().trim().to_owned();
        let reason = if line.is_empty() { format!("it {}", describe(exit)) } else { line };
        let sentence = format!("the agent failed to start: {reason}");
        let failure = Failure { code: "agent_failed_to_start", sentence };
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
            session.trust = Trust::Unknown;
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
            agent.suspending = true;
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
            let effect = self.agents.get_mut(agent_key).and_then(|agent| agent.kill(agent_key));
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

    // Sessions.

    /// What every change of a session is followed by: its status told, its next prompt begun.
    pub(super) fn after(&mut self, key: Key, reason: Option<&str>) {
        self.dispatch(key);
        self.update_status(key, reason);
        self.arm_session_now(key);
    }

    /// Tells a session's status if it has changed.
    pub(super) fn update_status(&mut self, key: Key, reason: Option<&str>) {
        let wall_ms = self.wall_ms;
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.active_at = wall_ms;
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
        let mode = session.mode_in_use.as_deref().or(session.mode.as_deref());
        let model = session.model.as_deref();
        let name = session.name.as_deref();
        let dir = session.working_dir.to_string_lossy();
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
        if session.closed_at.is_some() {
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
        session.closed_at = Some(self.now_ms);
        let id = session.id().to_owned();
        self.log(Level::Info, "session", "closed", vec![("session", id.clone())]);
        self.by_id.remove(&id);
        self.arm_session(key, u64::MAX);
        self.closed.push_back(key);
        self.closed_ids.insert(id, key);
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
        if let Some(session) = self.sessions.remove(key) {
            self.closed_ids.remove(session.id());
            if let Some(journal) = &session.feed.log.journal {
                let (id, last_seq) = (session.id().to_owned(), session.feed.log.newest_seq());
                self.erase(id, journal.size(), last_seq);
            }
        }
    }

    // The long-line buffer.

    /// A line of an agent fills its buffer: it gets the long one, or waits for it.
    pub(super) fn want_long_line(&mut self, agent_key: Key) {
        if !self.long_line.contains(&agent_key) {
            self.long_line.push_back(agent_key);
        }
        if self.long_line.front() == Some(&agent_key) {
            self.lend_long_line();
        } else if let Some(agent) = self.agents.get_mut(agent_key) {
            agent.long_since = agent.long_since.max(self.now_ms.max(1));
        }
        self.arm_agent(agent_key);
    }

    /// Gives the long-line buffer to whoever is first.
    fn lend_long_line(&mut self) {
        let Some(agent_key) = self.long_line.front().copied() else { return };
        let size_max = self.limits.line_size_max;
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(agent_key) else {
            self.long_line.pop_front();
            return self.lend_long_line();
        };
        if let Speech::Lines(lines) = &mut agent.stdout
            && lines.is_full()
            && !lines.has_lent()
        {
            // Mapped here, touched as the line grows, and given back to the system with it.
            lines.lend(Vec::with_capacity(size_max), size_max);
            agent.long_since = now_ms.max(1);
            self.arm_agent(agent_key);
        }
    }

    /// The long-line buffer is free again.
    pub(super) fn release_long_line(&mut self, agent_key: Key) {
        if let Some(agent) = self.agents.get_mut(agent_key) {
            agent.long_since = 0;
        }
        let was_first = self.long_line.front() == Some(&agent_key);
        self.long_line.retain(|waiting| *waiting != agent_key);
        if was_first {
            self.lend_long_line();
        }
    }

    /// Drops a line that waited too long for the buffer, or in it.
    fn long_line_due(&mut self, agent_key: Key) {
        let now_ms = self.now_ms;
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let since = agent.long_since;
        if since == 0 || now_ms < since + agent::LONG_LINE_PATIENCE_MS {
            return;
        }
        self.skip_line(agent_key);
    }

    /// Drops the line under way to its newline.
    pub(super) fn skip_line(&mut self, agent_key: Key) {
        if let Some(agent) = self.agents.get_mut(agent_key)
            && let Speech::Lines(lines) = &mut agent.stdout
        {
            lines.skip();
            drop(lines.take_back());
        }
        self.release_long_line(agent_key);
    }
}

/// Rules that were granted, as the next agent's arguments say them: tools, and directories.
fn granted(rules: &[serde_json::Value]) -> (Vec<String>, Vec<String>) {
    let (mut tools, mut directories) = (Vec::new(), Vec::new());
    for rule in rules {
        let list = |name: &str| rule[name].as_array().map(Vec::as_slice).unwrap_or_default();
        if rule["type"] == "addRules" && rule["behavior"] == "allow" {
            for one in list("rules") {
                let Some(tool) = one["toolName"].as_str() else { continue };
                match one["ruleContent"].as_str() {
                    Some(content) => tools.push(format!("{tool}({content})")),
                    None => tools.push(tool.to_owned()),
                }
            }
        }
        if rule["type"] == "addDirectories" {
            directories
                .extend(list("directories").iter().filter_map(|d| d.as_str()).map(str::to_owned));
        }
    }
    (tools, directories)
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
