//! Who is let in to change something: logins, and agents that are kept from their own approvals.

use super::*;

/// The time in which failed logins are counted.
const LOGIN_WINDOW_MS: u64 = 60_000;
/// Between two events about one session's agent that tries to use us.
const SELF_ACCESS_TOLD_MS: u64 = 10_000;

impl Server {
    /// Says whether a token is one of ours; a page asks before it keeps it.
    pub(super) fn log_in(&mut self, request: &Request<'_>) -> Outcome {
        let access = &self.config.access;
        if access.tokens.is_empty() {
            let sentence = "this server asks for no token: there is nothing to log in to";
            return Err(Problem::conflict("tokens_off", sentence));
        }
        let since = (self.now_ms + 1).saturating_sub(LOGIN_WINDOW_MS);
        while self.login_failures.front().is_some_and(|at| *at < since) {
            self.login_failures.pop_front();
        }
        if self.login_failures.len() >= self.limits.login_failures_max as usize {
            let oldest = self.login_failures.front().copied().unwrap_or(since);
            let wait_s = (oldest + LOGIN_WINDOW_MS - self.now_ms).div_ceil(1000);
            let sentence = "too many logins have failed; try again in a minute";
            let status = Status::TOO_MANY_REQUESTS;
            let mut problem = Problem::new(status, "login_failures_max", sentence);
            problem.fields.push(("Retry-After", wait_s.to_string()));
            return Err(problem);
        }
        let body = request.json()?;
        let token = text(&body, "token")?
            .ok_or_else(|| Problem::bad("token_missing", "\"token\" is missing"))?;
        let Some(entry) = access.token(token.as_bytes()) else {
            self.login_failures.push_back(self.now_ms);
            self.counters.logins_failed += 1;
            let sentence = "this is none of the tokens that this server knows";
            let mut problem = Problem::new(Status::UNAUTHORIZED, "token_unknown", sentence);
            let challenge = "Bearer realm=\"sidestream\"".to_owned();
            problem.fields.push(("WWW-Authenticate", challenge));
            return Err(problem);
        };
        let mut fields = vec![("Cache-Control", "no-store".to_owned())];
        let cookie = access.set_cookie(entry, &request.head, request.input, &request.target);
        fields.extend(cookie.map(|cookie| ("Set-Cookie", cookie)));
        Ok(Reply::Empty(fields))
    }

    /// Whether it is known who asks for a change, and that it is no agent.
    ///
    /// Only a process of this machine can be an agent's, and only once there has been one: what
    /// it left behind may outlive it.
    pub(super) fn asker_may(&mut self, request: &Request<'_>) -> Result<bool, Problem> {
        let local = matches!(request.peer, Peer::Local { .. });
        let none = self.counters.agents_started == 0;
        if !local || none || self.config.access.allow_agent_access {
            return Ok(true);
        }
        let asker = match request.asker {
            Asking::Unknown | Asking::Asked => return Ok(false),
            Asking::Known(Asker::Outside) => return Ok(true),
            Asking::Known(asker) => asker,
        };
        self.counters.self_accesses += 1;
        let (method, path) = (request.head.method.as_str(), request.target.path);
        let session = match asker {
            Asker::Agent(agent) => {
                agent.and_then(|agent| self.agents.get(agent)).map(|agent| agent.session)
            }
            Asker::Outside | Asker::Gone => None,
        };
        let fields = vec![("method", method.to_owned()), ("path", path.to_owned())];
        self.log(Level::Warn, "access", "an agent tried to use its own server", fields);
        if let Some(session) = session {
            self.tell_self_access(session, method, path);
        }
        let sentence = match asker {
            Asker::Gone => {
                "whoever asked has gone before it could be told from an agent; wait for the answer"
            }
            Asker::Agent(_) | Asker::Outside => {
                "a process that an agent has started may read here but change nothing; \
                 start with --allow-agent-access to let it"
            }
        };
        Err(Problem::new(Status::FORBIDDEN, "agent_self_access", sentence))
    }

    /// Tells the humans who watch a session what its agent tried.
    fn tell_self_access(&mut self, key: Key, method: &str, path: &str) {
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let told = &mut session.self_access_told_at;
        if told.is_some_and(|at| now_ms < at + SELF_ACCESS_TOLD_MS) {
            return; // It tries again and again: once is enough for the log.
        }
        *told = Some(now_ms);
        let sentence =
            format!("this session's agent tried {method} {path} on this server and was refused");
        let failure = Failure { code: "agent_self_access", sentence };
        self.session_error(key, &failure, None);
    }
}
