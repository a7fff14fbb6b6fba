//! Trust in a directory: a human is asked before its own hooks and MCP commands can run.
//!
//! A directory is looked at right before each agent that is started in it: once there is a place to
//! start in, and with nothing between the look and the start, however long a human took to answer
//! or others took to make room. What was allowed is remembered by directory and content; what was
//! denied starts the agent without anything that the directory says, for as long as it says the
//! same. An answer is about what was shown: of anything else it is asked again.

use crate::base::arena::Key;
use crate::core::approvals::{self, Approval, ApprovalKind};
use crate::core::effect::{Brought, DiskRequest, Effect};
use crate::core::event::EventKind;
use crate::core::server::{Dialect, Server};
use crate::core::turn::Failure;
use crate::wire::json;

/// A look at a directory, for a session that keeps its place among the agents that start meanwhile.
#[derive(Debug)]
pub(super) struct Look {
    errand: u64,
    session: Key,
    /// From then on nobody waits for it: a file system may hang.
    pub due: u64,
}

impl Server {
    /// Starts a session's agent, for which there is a place: now, or once its directory was looked
    /// at.
    pub(super) fn start_agent(&mut self, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let path = &session.working_dir;
        let asks = self.config.agents[session.agent].dialect == Dialect::Claude
            && !self.config.trusted_dirs.iter().any(|dir| path.starts_with(dir));
        if !asks {
            return self.spawn(key, false);
        }
        let (errand, path) = (self.next_errand, path.to_path_buf());
        self.next_errand += 1;
        let due = self.now_ms + self.limits.start_timeout_ms;
        self.looks.push_back(Look { errand, session: key, due });
        self.effects.push_back(Effect::Disk(DiskRequest::LookForTrust { errand, path }));
        self.arm_own();
    }

    /// Whether a session's next agent waits for a look at its directory, or for a human's word.
    pub(super) fn awaits_trust(&self, key: Key) -> bool {
        let is_asked = |approval: &Approval| approval.kind.is_trust();
        let session = self.sessions.get(key);
        self.looks.iter().any(|look| look.session == key)
            || session.is_some_and(|session| session.approvals.open.iter().any(is_asked))
    }

    /// The disk thread has looked at a directory. Its session starts there, or gives its place back.
    pub(super) fn trust_looked_at(&mut self, errand: u64, brought: &Brought) {
        let place = self.looks.iter().position(|look| look.errand == errand);
        let Some(look) = place.and_then(|at| self.looks.remove(at)) else { return };
        let key = look.session;
        if self.lacks_agent(key) {
            match self.verdict(key, brought) {
                Some(is_trusted) => self.spawn(key, !is_trusted),
                None => self.ask_for_trust(key, brought),
            }
        }
        self.serve_start_queue();
        self.arm_own();
    }

    /// Looks that take too long are given up, and their places with them.
    pub(super) fn give_up_looks(&mut self) {
        while self.looks.front().is_some_and(|look| self.now_ms >= look.due) {
            let Some(look) = self.looks.pop_front() else { return };
            if self.lacks_agent(look.session) {
                let seconds = self.limits.start_timeout_ms / 1000;
                let sentence = format!("its directory could not be looked at within {seconds} s");
                let failure = Failure { code: "agent_failed_to_start", sentence };
                self.start_failed(look.session, &failure, None);
            }
            self.serve_start_queue();
        }
    }

    /// Whether a directory is trusted as it is; none if nobody has said so.
    fn verdict(&mut self, key: Key, brought: &Brought) -> Option<bool> {
        let session = self.sessions.get_mut(key)?;
        let known = (session.working_dir.to_path_buf(), brought.hash.clone());
        if brought.commands.is_empty() || brought.is_clear && self.config.trusted.contains(&known) {
            return Some(true);
        }
        let (hash, is_trusted) = session.unusual.trust_answer.as_ref()?;
        let is_trusted = (*hash == brought.hash).then_some(*is_trusted)?;
        if is_trusted {
            session.unusual.trust_answer = None; // What cannot be remembered is good for one start.
        }
        Some(is_trusted)
    }

    fn ask_for_trust(&mut self, key: Key, brought: &Brought) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Brought { commands, hash, is_clear } = brought;
        let dir = session.working_dir.to_string_lossy();
        let mut input = Vec::new();
        json::object(&mut input, |object| {
            object.string("directory", &dir);
            object.array("commands", |array| commands.iter().for_each(|line| array.string(line)));
            object.string("hash", hash);
        });
        let input = String::from_utf8(input).unwrap_or_default();
        let approval = Approval {
            id: format!("approval-{:016x}", self.random.bits()),
            request_id: hash.clone(),
            kind: ApprovalKind::Trust { lasts: *is_clear },
            tool: "trust".to_owned(),
            title: format!("Trust {dir}: it runs {} commands of its own", commands.len()),
            input_hash: approvals::input_hash(&input),
            input,
            description: None,
            suggestions: None,
            tool_use_id: None,
            agent_id: None,
        };
        self.publisher.publish(&mut session.feed, EventKind::ApprovalRequired, |object| {
            approval.write(object);
        });
        session.approvals.open.push(approval);
        self.update_status(key, Some("trust"));
    }

    /// The server goes away: nobody is asked any more whether a directory is trusted.
    pub(super) fn withdraw_trust(&mut self) {
        for index in 0..self.sessions.capacity() {
            let Some(key) = self.sessions.key_at(index) else { continue };
            let is_trust = |approval: &Approval| approval.kind.is_trust();
            self.withdraw_approvals(key, "server_stopping", is_trust);
        }
    }

    /// A human has answered about what was shown, whose hash is the approval's request id. The
    /// directory is looked at again before that counts.
    pub(super) fn trust_answered(&mut self, key: Key, hash: &str, allow: bool, lasts: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        session.unusual.trust_answer = Some((hash.to_owned(), allow));
        if allow && lasts {
            session.unusual.trust_answer = None;
            let path = session.working_dir.to_path_buf();
            self.config.trusted.insert((path.clone(), hash.to_owned()));
            let request = DiskRequest::RememberTrust { path, hash: hash.to_owned() };
            self.effects.push_back(Effect::Disk(request));
        }
        if !allow {
            let sentence = "the directory is not trusted: the agent starts without its settings, \
                hooks, MCP servers and CLAUDE.md";
            let failure = Failure { code: "directory_not_trusted", sentence: sentence.to_owned() };
            self.session_error(key, &failure, None);
        }
        self.after(key, None);
    }
}
