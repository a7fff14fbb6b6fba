//! Trust in a directory: a human is asked before its own hooks and MCP commands can run.
//!
//! A directory is looked at before each agent that is started in it, because it may have changed.
//! What was allowed is remembered by directory and content; what was denied starts the agent
//! without anything that the directory says, for as long as it says the same.

use crate::base::arena::Key;
use crate::core::approvals::{self, Approval, ApprovalKind};
use crate::core::effect::{DiskRequest, Effect};
use crate::core::event::EventKind;
use crate::core::server::{Dialect, Server};
use crate::core::session::Trust;
use crate::core::turn::Failure;
use crate::wire::json;

impl Server {
    /// Whether a session's agent may be started now. If not, it will be: after the disk thread has
    /// looked, or a human has answered.
    pub(super) fn may_start(&mut self, key: Key) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        if self.config.agents[session.agent].dialect != Dialect::Claude {
            return true;
        }
        match session.trust {
            Trust::Given | Trust::Denied => true,
            Trust::Asked => false,
            Trust::Unknown => {
                let path = session.working_dir.to_path_buf();
                if self.config.trusted_dirs.iter().any(|dir| path.starts_with(dir)) {
                    session.trust = Trust::Given;
                    return true;
                }
                session.trust = Trust::Asked;
                let request = DiskRequest::LookForTrust { session: key, path };
                self.effects.push_back(Effect::Disk(request));
                false
            }
        }
    }

    /// The disk thread has looked at a session's directory.
    pub(super) fn trust_looked_at(&mut self, key: Key, commands: Vec<String>, hash: String) {
        if self.is_draining() {
            return; // No agent will be started, so nobody is asked.
        }
        let Some(session) = self.sessions.get_mut(key) else { return };
        if session.trust != Trust::Asked || session.unusual.closed_at.is_some() || session.deleting
        {
            return;
        }
        if session.prompts.queue.is_empty() {
            session.trust = Trust::Unknown;
            return; // What waited for it was cancelled.
        }
        let dir = session.working_dir.to_path_buf();
        let known = self.config.trusted.contains(&(dir.clone(), hash.clone()));
        if commands.is_empty() || known {
            session.trust = Trust::Given;
            return self.after(key, None);
        }
        if session.unusual.distrusted.as_deref() == Some(&hash) {
            session.trust = Trust::Denied;
            return self.after(key, None);
        }
        let dir = dir.to_string_lossy();
        let mut input = Vec::new();
        json::object(&mut input, |object| {
            object.string("directory", &dir);
            object.array("commands", |array| commands.iter().for_each(|line| array.string(line)));
            object.string("hash", &hash);
        });
        let input = String::from_utf8(input).unwrap_or_default();
        let approval = Approval {
            id: format!("approval-{:016x}", self.random.bits()),
            request_id: hash,
            kind: ApprovalKind::Trust,
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
            self.withdraw_approvals(key, "server_stopping", |approval| {
                approval.kind == ApprovalKind::Trust
            });
        }
    }

    /// A human has answered. The approval's request id is the hash of what was shown.
    pub(super) fn trust_answered(&mut self, key: Key, hash: &str, allow: bool) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if allow {
            session.trust = Trust::Given;
            let path = session.working_dir.to_path_buf();
            self.config.trusted.insert((path.clone(), hash.to_owned()));
            let request = DiskRequest::RememberTrust { path, hash: hash.to_owned() };
            self.effects.push_back(Effect::Disk(request));
        } else {
            session.trust = Trust::Denied;
            session.unusual.distrusted = Some(hash.to_owned());
            let sentence = "the directory is not trusted: the agent starts without its settings, \
                hooks, MCP servers and CLAUDE.md";
            let failure = Failure { code: "directory_not_trusted", sentence: sentence.to_owned() };
            self.session_error(key, &failure, None);
        }
        self.after(key, None);
    }
}
