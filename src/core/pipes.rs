//! Bytes from and to agents: what is read, when reading pauses, and the one buffer for long lines.
//!
//! Reading pauses only while what was said is not durable, or while a long line waits for its buffer;
//! never for a reader. What the bytes mean is `dialect.rs`'s business.

use crate::base::arena::Key;
use crate::core::agent::{self, Murmur, Speech};
use crate::core::effect::{Effect, Pipe};
use crate::core::publisher::{Output, Place};
use crate::core::server::Server;

impl Server {
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

    /// Publishes text that belongs to no message of the agent's: it is of the turn under way, or of
    /// none.
    pub(super) fn publish_text(&mut self, agent_key: Key, output: Output, text: &str) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let key = agent.session;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if text.is_empty() {
            return;
        }
        let (message_id, offsets) = match &mut session.turn {
            Some(turn) => (&*turn.id, &mut turn.offsets),
            None => {
                let seq = self.publisher.seq();
                let murmur = agent.murmur.get_or_insert_with(|| Murmur::new(seq));
                (&*murmur.message_id, &mut murmur.offsets)
            }
        };
        let block = u32::from(output == Output::Stderr);
        let offset = offsets.count(block, text);
        let place = Place { output, message_id, block };
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
            // Mapped here, touched as lines grow, and given back to the system when a turn ends.
            let buffer = self.long_line_buffer.take();
            lines.lend(buffer.unwrap_or_else(|| Vec::with_capacity(size_max)), size_max);
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
    pub(super) fn long_line_due(&mut self, agent_key: Key) {
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
