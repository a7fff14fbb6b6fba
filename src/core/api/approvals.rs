//! Endpoints about approvals: what is open, and a human's answer.

use super::*;
use crate::core::approvals::ApprovalKind;
use crate::limits::{GRANTED_SIZE_MAX, LIST_SIZE};

impl Server {
    pub(super) fn approvals(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let after = request.parameter("after")?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            let open = &session.approvals.open;
            let from = behind(open.iter().map(|approval| &*approval.id), after.as_deref());
            let mut more = false;
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.array("approvals", |array| {
                for approval in &open[from..] {
                    more = array.size() > LIST_SIZE;
                    if more {
                        break;
                    }
                    array.object(|object| approval.write_listed(object, session.id()));
                }
            });
            object.bool("more", more);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    /// The input of an open approval, to the byte: what its hash is of.
    pub(super) fn approval_input(&mut self, id: &str, approval: &str) -> Outcome {
        let key = self.session_key(id)?;
        let Some(session) = self.sessions.get(key) else {
            return Err(Problem::session_not_found(id));
        };
        let Some(open) = session.approvals.find(approval) else {
            return Err(not_open(session, approval));
        };
        let what = Large::Input { session: key, approval: approval.to_owned() };
        Ok(Reply::Large(what, open.input.len() as u64, "application/json"))
    }

    pub(super) fn answer_approval(
        &mut self,
        request: &Request<'_>,
        id: &str,
        approval: &str,
    ) -> Outcome {
        let key = self.session_key(id)?;
        let body = request.json()?;
        let answer = answer(&body)?;
        let hash = text(&body, "inputHash")?;
        let decided = self.decide(key, approval, &answer, hash, &request.by)?;
        let decision = if answer.allow { "allow" } else { "deny" };
        self.say(|server, object| {
            object.bool("success", true);
            object.string("approvalId", &decided);
            object.string("decision", decision);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    /// Decides an approval, for exactly the input of this hash if one is named; returns its id.
    pub(super) fn decide(
        &mut self,
        key: Key,
        approval: &str,
        answer: &Answer,
        hash: Option<&str>,
        by: &str,
    ) -> Result<String, Problem> {
        let persistent = self.config.allow_persistent_rules;
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(Problem::session_not_found(""));
        };
        let Some(open) = session.approvals.find(approval) else {
            return Err(not_open(session, approval));
        };
        if hash.is_some_and(|hash| !hash.eq_ignore_ascii_case(&open.input_hash)) {
            let sentence = "the input is another one than the answer is about";
            return Err(Problem::conflict("input_hash_mismatch", sentence));
        }
        let (input, rules) = answer
            .settle(open, persistent)
            .map_err(|unfit| Problem::new(Status::BAD_REQUEST, unfit.code, unfit.sentence))?;
        if let Some(rules) = rules.as_ref().filter(|_| answer.allow) {
            // They are restored from their event, whole or not at all.
            let room = GRANTED_SIZE_MAX.min(self.publisher.large.frame_size_max() / 4);
            let taken = session.unusual.granted.take_in(rules, room);
            taken.map_err(|sentence| Problem::conflict("permissions_max", sentence))?;
        }
        let rules = rules.map(|rules| format!("[{}]", rules.join(",")));
        let decision = if answer.allow { "allow" } else { "deny" };
        let Some(decided) = session.approvals.decide(approval, decision, by) else {
            return Err(not_open(session, approval));
        };
        let message = answer.message.as_deref().unwrap_or("the user said no");
        let feed = &mut session.feed;
        let seq = self.publisher.publish(feed, EventKind::ApprovalResolved, |object| {
            object.string("approvalId", &decided.id);
            object.string("decision", decision);
            object.string("by", by);
            match answer.allow {
                true => object.raw("input", &input),
                false => object.string("message", message),
            }
            object.string_or_null("toolUseId", decided.tool_use_id.as_deref());
            // What was allowed from here on outlives us: the next agent is told of it, too.
            if let Some(rules) = rules.as_deref().filter(|_| answer.allow) {
                object.raw_uncut("permissions", rules);
            }
        });
        let now_ms = self.now_ms;
        if let ApprovalKind::Trust { lasts } = decided.kind {
            self.trust_answered(key, &decided.request_id, answer.allow, lasts);
        } else if let Some(agent) = session.process.and_then(|agent| self.agents.get_mut(agent)) {
            agent.heard_at = now_ms; // Its silence was ours.
            agent.stdin.queue(seq, |out| match answer.allow {
                true => claude::allow(out, &decided.request_id, &input, rules.as_deref()),
                false => claude::deny(out, &decided.request_id, message, answer.interrupt),
            });
        }
        self.update_status(key, None);
        self.may_be_spared();
        self.arm_session_now(key);
        Ok(decided.id)
    }
}

/// The answer to an approval, as its body tells it.
fn answer(body: &Value) -> Result<Answer, Problem> {
    let allow = match text(body, "decision")? {
        Some("allow") => true,
        Some("deny") => false,
        None => {
            let sentence = "\"decision\" is missing: \"allow\" or \"deny\"";
            return Err(Problem::bad("decision_missing", sentence));
        }
        Some(_) => {
            let sentence = "\"decision\" must be \"allow\" or \"deny\"";
            return Err(Problem::bad("invalid_value", sentence));
        }
    };
    let member = |name: &str| Some(&body[name]).filter(|value| !value.is_null()).cloned();
    Ok(Answer {
        allow,
        message: text(body, "message")?.map(str::to_owned),
        interrupt: flag(body, "interrupt")?,
        updated_input: member("updatedInput"),
        answers: member("answers"),
        updated_permissions: member("updatedPermissions"),
    })
}

/// Why an approval cannot be answered.
fn not_open(session: &Session, id: &str) -> Problem {
    match session.approvals.decided(id) {
        None => {
            let sentence = "there is no such approval in this session";
            Problem::new(Status::NOT_FOUND, "approval_not_found", sentence)
        }
        Some(decided) => {
            let (code, sentence) = match decided.decision {
                "withdrawn" => ("approval_withdrawn", "the agent no longer asks".to_owned()),
                decision => ("approval_decided", format!("it was answered before: {decision}")),
            };
            let mut problem = Problem::conflict(code, sentence);
            problem.detail = Some(("decision", format!("\"{}\"", decided.decision)));
            problem
        }
    }
}
