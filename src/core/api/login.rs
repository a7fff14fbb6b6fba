//! Who is let in to change something: logins, and agents that are kept from their own approvals.

use super::*;
use crate::core::access::tokens::Tokens;
use crate::core::connection::Phase;

/// The time in which failed logins are counted.
const LOGIN_WINDOW_MS: u64 = 60_000;
/// Between two events about one session's agent that tries to use us.
const SELF_ACCESS_TOLD_MS: u64 = 10_000;

impl Server {
    /// Says whether a token is one of ours; a page asks before it keeps it.
    pub(super) fn log_in(&mut self, request: &Request<'_>) -> Outcome {
        let access = &self.config.access;
        if !access.tokens.are_wanted() {
            let sentence = "this server asks for no token: there is nothing to log in to";
            return Err(Problem::conflict("tokens_off", sentence));
        }
        let body = request.json()?;
        let token = text(&body, "token")?
            .ok_or_else(|| Problem::bad("token_missing", "\"token\" is missing"))?;
        let Some(index) = access.tokens.find(token.as_bytes()) else {
            return Err(self.login_failed());
        };
        let reply = self.cookie_reply(request, Some(token));
        let access = &mut self.config.access;
        if access.read_cookie
            && let Some(line) = access.tokens.show_cookie(index, token.as_bytes())
        {
            self.effects.push_back(Effect::Disk(DiskRequest::RememberCookie { line }));
        }
        Ok(reply)
    }

    /// What a token that is none is answered. Too many are not even told that: whoever has a real one is
    /// not kept out by those who guess.
    fn login_failed(&mut self) -> Problem {
        let since = (self.now_ms + 1).saturating_sub(LOGIN_WINDOW_MS);
        while self.login_failures.front().is_some_and(|at| *at < since) {
            self.login_failures.pop_front();
        }
        if self.login_failures.len() >= self.limits.login_failures_max as usize {
            let oldest = self.login_failures.front().copied().unwrap_or(since);
            let wait_s = (oldest + LOGIN_WINDOW_MS - self.now_ms).div_ceil(1000);
            let sentence = "too many logins have failed; try again in a minute";
            return Problem::limited_for(Limit::LoginFailures, wait_s, sentence);
        }
        self.login_failures.push_back(self.now_ms);
        self.counters.logins_failed += 1;
        let sentence = "this is none of the tokens that this server knows";
        let mut problem = Problem::new(Status::UNAUTHORIZED, "token_unknown", sentence);
        problem.fields.push(("WWW-Authenticate", access::CHALLENGE.to_owned()));
        problem
    }

    /// Takes a browser's cookie away, which its pages cannot. Whoever asks, it is only his own.
    pub(super) fn log_out(&self, request: &Request<'_>) -> Outcome {
        Ok(self.cookie_reply(request, None))
    }

    fn cookie_reply(&self, request: &Request<'_>, token: Option<&str>) -> Reply {
        let token = token.map(str::as_bytes);
        let (head, input) = (&request.head, request.input);
        let cookie = self.config.access.set_cookie(token, head, input, &request.target);
        let mut fields = vec![("Cache-Control", "no-store".to_owned())];
        fields.extend(cookie.map(|cookie| ("Set-Cookie", cookie)));
        Reply::Empty(fields)
    }

    /// SIGHUP: what can be read again without a restart, is.
    ///
    /// Returns whether it is read: the disk thread's answer ends it then, and else it has ended.
    pub fn reload(&mut self) -> bool {
        if !self.config.access.tokens.are_wanted() {
            let told = vec![("cure", "restart to read the options again".to_owned())];
            self.log(Level::Info, "access", "there is no token file to read again", told);
            return false;
        }
        self.effects.push_back(Effect::Disk(DiskRequest::ReadTokens));
        true
    }

    /// The token file has been read again. A bad one changes nothing. Who lost his token loses
    /// his streams and waiting requests with it, at once: not even the rest of a frame is his.
    pub(in crate::core) fn tokens_read(&mut self, result: Result<Tokens, String>) {
        let mut tokens = match result {
            Ok(tokens) => tokens,
            Err(error) => {
                let told = vec![("error", error)];
                return self.log(Level::Error, "access", "the tokens stay as they were", told);
            }
        };
        tokens.succeed(&self.config.access.tokens);
        if tokens.is_empty() {
            let told = vec![("cure", "`sidestream token add`, then SIGHUP".to_owned())];
            self.log(Level::Error, "access", "no token is left, and nobody is let in", told);
        }
        self.config.access.tokens = tokens;
        let mut ended = 0;
        for index in 0..self.connections.capacity() {
            let Some(key) = self.connections.key_at(index) else { continue };
            let Some(connection) = self.connections.get(key) else { continue };
            if self.config.access.tokens.has_number(connection.token) || connection.token == 0 {
                continue;
            }
            let waits = match &connection.phase {
                Phase::Stream(_) => true,
                Phase::Http(exchange) => exchange.stage == Stage::Waiting,
                Phase::Idle { .. } | Phase::Taken => false,
            };
            if waits {
                self.close(key);
                ended += 1;
            }
        }
        let told = vec![("ended", ended.to_string())];
        self.log(Level::Info, "access", "the tokens were read again", told);
    }

    /// Whether it is known who asks for a change, and that it is no agent.
    ///
    /// Only a process of this machine can be one that we started, and only once there has been one, an
    /// agent or a command for an event: what it left behind may outlive it.
    pub(super) fn asker_may(&mut self, request: &Request<'_>) -> Result<bool, Problem> {
        // One of whom the kernel says nothing may be of this machine.
        let elsewhere = matches!(request.peer, Peer::Remote { .. });
        let none = self.counters.agents_started == 0 && self.counters.hooks_started == 0;
        if elsewhere || none || self.config.access.allow_agent_access {
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
        let told = &mut session.unusual.self_access_told_at;
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
