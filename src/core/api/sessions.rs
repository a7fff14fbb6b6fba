//! Endpoints about sessions: create, list, look at, change, delete.

use super::*;
use crate::limits::LIST_SIZE;

/// The time in which no more sessions are created than `--session-creations-per-s` says.
const CREATIONS_WINDOW_MS: u64 = 1_000;

impl Server {
    pub(super) fn create_session(&mut self, request: &Request<'_>) -> Outcome {
        let body = request.json()?;
        let asked = text(&body, "workingDir")?
            .ok_or_else(|| Problem::bad("working_dir_missing", "\"workingDir\" is missing"))?;
        if asked.contains('\0') {
            let sentence = "\"workingDir\" must not hold a NUL character";
            return Err(Problem::bad("invalid_value", sentence));
        }
        if !asked.starts_with('/') {
            let sentence = format!("\"workingDir\" must be an absolute path, not \"{asked}\"");
            return Err(Problem::bad("working_dir_not_absolute", sentence));
        }
        let agent = match name(&body, "agent")? {
            None => 0,
            Some(name) => self.agent_named(name)?,
        };
        let mode = self.mode(&body, agent)?;
        let model = self.model(&body, agent)?;
        let conversation = self.conversation(&body, agent)?;
        let new = NewSession {
            asked: asked.to_owned(),
            agent,
            model,
            mode,
            name: name(&body, "name")?.map(str::to_owned),
            conversation,
            fork: None,
        };
        self.room_for_session()?;
        let path = PathBuf::from(&new.asked);
        let errand = self.errand(request.connection, Purpose::Create(new));
        self.effects.push_back(Effect::Disk(DiskRequest::Directory { errand, path }));
        Ok(Reply::Later)
    }

    /// Remembers who waits for the disk thread, and what for.
    fn errand(&mut self, connection: Key, purpose: Purpose) -> u64 {
        let errand = self.next_errand;
        self.next_errand += 1;
        self.errands.push((errand, PendingDirectory { connection, purpose }));
        errand
    }

    /// Who waited for this answer of the disk thread, which comes in the order of the questions.
    fn take_errand(&mut self, errand: u64) -> Option<PendingDirectory> {
        let at = self.errands.iter().position(|(number, _)| *number == errand)?;
        Some(self.errands.remove(at).1)
    }

    /// The conversation to adopt, if one is named: a UUID that no session holds.
    fn conversation(&self, body: &Value, agent: usize) -> Result<Option<String>, Problem> {
        let Some(id) = text(body, "conversation")? else { return Ok(None) };
        let hyphen = |at: usize| matches!(at, 8 | 13 | 18 | 23);
        let fits = |(at, byte): (usize, u8)| match hyphen(at) {
            true => byte == b'-',
            false => byte.is_ascii_hexdigit(),
        };
        if id.len() != 36 || !id.bytes().enumerate().all(fits) {
            let sentence = "\"conversation\" must be a UUID, the id of a conversation";
            return Err(Problem::bad("invalid_conversation", sentence));
        }
        if self.config.agents[agent].dialect == Dialect::Lines {
            let sentence = "this agent holds no conversations";
            return Err(Problem::bad("no_conversations", sentence));
        }
        let id = id.to_ascii_lowercase();
        let waits = |pending: &PendingDirectory| match &pending.purpose {
            Purpose::Create(new) => new.conversation.as_ref() == Some(&id),
            Purpose::List(_) => false,
        };
        let held = self.by_id.keys().filter_map(|key| self.sessions.get(key));
        if held.into_iter().any(|session| *session.conversation.id == *id)
            || self.errands.iter().any(|(_, pending)| waits(pending))
        {
            let sentence = format!("the conversation {id} is held by another session");
            return Err(Problem::conflict("conversation_held", sentence));
        }
        Ok(Some(id))
    }

    /// Creates a session whose conversation begins as a copy of this one's.
    pub(super) fn fork(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let body = request.json()?;
        let mode = self.mode(&body, self.agent_of(key))?;
        let model = self.model(&body, self.agent_of(key))?;
        let new_name = name(&body, "name")?;
        let Some(session) = self.sessions.get(key) else {
            return Err(Problem::session_not_found(id));
        };
        if session.deleting {
            return Err(Problem::session_stopping());
        }
        if self.config.agents[session.agent].dialect == Dialect::Lines {
            let sentence = "this agent holds no conversations";
            return Err(Problem::conflict("no_conversations", sentence));
        }
        if session.turn.is_some() {
            let sentence = "a turn is under way; fork when it has ended";
            return Err(Problem::conflict("turn_running", sentence));
        }
        if !session.conversation.begun {
            let sentence = "the conversation has not begun; there is nothing to fork";
            return Err(Problem::conflict("conversation_not_begun", sentence));
        }
        let dir = session.working_dir.to_path_buf();
        // What its parent says from here on is not the copy's business.
        let fork = Fork {
            conversation: session.conversation.id.to_string(),
            entry: session.conversation.entry.clone(),
        };
        let new = NewSession {
            asked: dir.to_string_lossy().into_owned(),
            agent: session.agent,
            model: model.or(session.unusual.model.as_deref().map(str::to_owned)),
            mode: mode.or(session.mode().map(str::to_owned)),
            name: new_name.map(str::to_owned).or(session
                .unusual
                .name
                .as_deref()
                .map(str::to_owned)),
            conversation: None,
            fork: Some((id.to_owned(), fork)),
        };
        self.room_for_session()?;
        let (seq, id) = self.new_session(new, dir);
        let location = format!("{}/api/session/{id}", self.config.base_path);
        let fields = vec![("Location", location)];
        Ok(Reply::Json { status: Status::CREATED, after: Some(seq), fields })
    }

    /// Puts a session away, or takes it out again.
    pub(super) fn archive(&mut self, id: &str, archived: bool) -> Outcome {
        let key = self.session_key(id)?;
        let now = self.wall_ms;
        if self.sessions.get(key).is_some_and(|session| session.deleting) {
            return Err(Problem::session_stopping());
        }
        if let Some(session) = self.sessions.get_mut(key)
            && session.archived != archived
        {
            session.archived = archived;
            session.feed.active_at = now;
            if archived {
                self.stop_agent_of(key);
            }
            let reason = if archived { "archived" } else { "unarchived" };
            self.tell_status(key, Some(reason));
            self.after(key, None); // What waited goes on when the session is taken out again.
        }
        self.get_session(id)?;
        ok_after(self.publisher.seq())
    }

    /// Lists the directories in one, or the roots.
    pub(super) fn directories(&mut self, request: &Request<'_>) -> Outcome {
        let Some(path) = request.parameter("path")? else {
            self.say(|server, object| {
                object.bool("success", true);
                object.null("path");
                object.null("parent");
                object.array("directories", |array| {
                    for root in &server.config.roots {
                        array.object(|object| {
                            object.string("name", &root.to_string_lossy());
                            object.string("path", &root.to_string_lossy());
                        });
                    }
                });
            });
            return ok();
        };
        let errand = self.errand(request.connection, Purpose::List(path.clone().into_owned()));
        let path = PathBuf::from(&*path);
        self.effects.push_back(Effect::Disk(DiskRequest::List { errand, path }));
        Ok(Reply::Later)
    }

    /// The disk thread has listed a directory.
    pub(in crate::core) fn directories_listed(
        &mut self,
        errand: u64,
        result: Result<(PathBuf, Vec<String>), DirectoryProblem>,
    ) {
        let Some(pending) = self.take_errand(errand) else { return };
        let Purpose::List(asked) = pending.purpose else { return };
        self.resume_long_answer(pending.connection, |server, exchange| {
            let (path, names) = match result {
                Ok(listed) => listed,
                Err(problem) => {
                    let mut problem = directory_problem("path", &asked, &problem);
                    if problem.code == "working_dir_not_found" {
                        problem.status = Status::NOT_FOUND; // Here it is what was asked for.
                    }
                    server.write_problem(exchange, &problem);
                    return None;
                }
            };
            server.say(|server, object| {
                let is_root = server.config.roots.contains(&path);
                let parent = path.parent().filter(|_| !is_root);
                object.bool("success", true);
                object.string("path", &path.to_string_lossy());
                let parent = parent.map(|parent| parent.to_string_lossy());
                object.string_or_null("parent", parent.as_deref());
                let mut more = false;
                object.array("directories", |array| {
                    for name in &names {
                        more = array.size() > LIST_SIZE;
                        if more {
                            break;
                        }
                        array.object(|object| {
                            object.string("name", name);
                            object.string("path", &path.join(name).to_string_lossy());
                        });
                    }
                });
                object.bool("more", more);
            });
            server.write_json(exchange, Status::OK, &[]);
            None
        });
    }

    pub(super) fn agent_named(&self, name: &str) -> Result<usize, Problem> {
        let agents = &self.config.agents[..self.configured];
        agents.iter().position(|agent| agent.name == name).ok_or_else(|| {
            let names: Vec<&str> = agents.iter().map(|agent| &*agent.name).collect();
            let sentence = format!("there is no agent \"{name}\"; there is {}", names.join(", "));
            Problem::bad("unknown_agent", sentence)
        })
    }

    /// The configured agent of a session.
    fn agent_of(&self, key: Key) -> usize {
        self.sessions.get(key).map_or(0, |session| session.agent)
    }

    /// The model that a body names for a session of this agent.
    fn model(&self, body: &Value, agent: usize) -> Result<Option<String>, Problem> {
        let model = name(body, "model")?;
        if model.is_some() && self.config.agents[agent].dialect == Dialect::Lines {
            return Err(Problem::bad("no_models", "this agent is a command, and has no models"));
        }
        Ok(model.map(str::to_owned))
    }

    /// The permission mode that a body names for a session of this agent.
    fn mode(&self, body: &Value, agent: usize) -> Result<Option<String>, Problem> {
        let mode = text(body, "mode")?;
        if mode.is_some() && self.config.agents[agent].dialect == Dialect::Lines {
            return Err(Problem::bad("no_modes", "this agent is a command, and has no modes"));
        }
        match mode {
            None => Ok(None),
            Some(mode) if MODES.contains(&mode) => Ok(Some(mode.to_owned())),
            Some("bypassPermissions") if self.config.allow_bypass => {
                Ok(Some("bypassPermissions".to_owned()))
            }
            Some("bypassPermissions") => {
                let sentence = "the mode bypassPermissions needs --allow-bypass";
                Err(Problem::new(Status::FORBIDDEN, "bypass_not_allowed", sentence))
            }
            Some(mode) => {
                let sentence =
                    format!("\"mode\" must be one of {}, not \"{mode}\"", MODES.join(", "));
                Err(Problem::bad("unknown_mode", sentence))
            }
        }
    }

    /// Whether another session may be created now.
    pub(super) fn room_for_session(&mut self) -> Result<(), Problem> {
        if self.is_draining() {
            return Err(Problem::draining());
        }
        let creates = self.errands.iter().map(|(_, pending)| &pending.purpose);
        let creates = creates.filter(|purpose| matches!(purpose, Purpose::Create(_)));
        let leftovers = self.keeper.leftovers.count();
        if self.by_id.len() + creates.count() + leftovers >= self.limits.sessions_max as usize {
            let most = self.limits.sessions_max;
            let sentence = match leftovers {
                0 => format!("there are {most} sessions, --sessions-max"),
                _ => {
                    format!("there are {most} sessions, --sessions-max, {leftovers} to be removed")
                }
            };
            return Err(Problem::limited(Limit::Sessions, sentence));
        }
        // In any one second, and not in each that a clock begins.
        while self.creations.front().is_some_and(|at| at + CREATIONS_WINDOW_MS <= self.now_ms) {
            self.creations.pop_front();
        }
        if self.creations.len() >= self.limits.session_creations_per_s as usize {
            let sentence = "too many sessions are being created; try again in a second";
            return Err(Problem::limited(Limit::SessionCreations, sentence));
        }
        self.creations.push_back(self.now_ms);
        Ok(())
    }

    /// The disk thread has looked at a directory.
    pub(in crate::core) fn directory_resolved(
        &mut self,
        errand: u64,
        result: Result<PathBuf, DirectoryProblem>,
    ) {
        let Some(pending) = self.take_errand(errand) else { return };
        if !self.has_connection(pending.connection) {
            return; // Nobody waits for it: nothing is created.
        }
        let Purpose::Create(new) = pending.purpose else { return };
        self.resume_answer(pending.connection, |server, exchange| match result {
            Ok(path) => {
                let (seq, id) = server.new_session(new, path);
                let fields =
                    [("Location", format!("{}/api/session/{id}", server.config.base_path))];
                server.write_json(exchange, Status::CREATED, &fields);
                Some(seq)
            }
            Err(problem) => {
                let problem = directory_problem("workingDir", &new.asked, &problem);
                server.write_problem(exchange, &problem);
                None
            }
        });
    }

    /// Creates a session; its description is in `self.json`.
    pub(super) fn new_session(&mut self, new: NewSession, working_dir: PathBuf) -> (u64, String) {
        while self.sessions.len() >= self.sessions.capacity() as usize
            && let Some(oldest) = self.closed.front().copied()
        {
            self.forget_session(oldest);
        }
        let node = &self.config.node;
        let hyphen = if node.is_empty() { "" } else { "-" };
        let bits = self.random.bits() as u32;
        let id = format!("session-{node}{hyphen}{}-{bits:08x}", self.wall_ms);
        let adopted = new.conversation.is_some();
        let (forked_from, fork) = new.fork.unzip();
        let conversation = Conversation {
            id: new.conversation.unwrap_or_else(|| self.random.uuid()).into(),
            entry: None,
            fork: fork.into(),
            begun: adopted,
            retried: false,
        };
        self.session_number += 1;
        // The key is known only once the slot is taken.
        let nowhere = Key { kind: 0, generation: 0, index: 0 };
        let mut feed = Feed::new(nowhere, self.session_number, id.clone(), self.limits.ring_size);
        feed.log.journal = self.keeper.keeps().then(Journal::default);
        let unusual = Unusual {
            name: new.name,
            model: new.model.map(|model| self.words.one(&model)),
            mode: new.mode.map(|mode| self.words.one(&mode)),
            forked_from,
            ..Unusual::default()
        };
        let session = Session {
            feed,
            unusual: unusual.into(),
            working_dir: self.dirs.one(&working_dir),
            agent: new.agent,
            model_in_use: None,
            mode_in_use: None,
            created_at: self.wall_ms,
            last_prompt: None,
            prompts: Prompts::default(),
            approvals: Seldom::default(),
            turn: None,
            turns: 0,
            process: None,
            process_state: Process::Never,
            conversation,
            told: SessionStatus::Idle,
            failed: false,
            deleting: false,
            total_cost_usd: 0.0,
            agent_cost_usd: 0.0,
            usage: None,
            subagents: Seldom::default(),
            waits_for_agent: false,
            told_full: false,
            archived: false,
            idle_at: self.now_ms,
        };
        let key = self.sessions.insert(session).expect("room was made for it");
        self.by_id.insert(&self.sessions, key);
        let session = self.sessions.get_mut(key).expect("just inserted");
        session.feed.key = key;
        let agent = &self.config.agents[session.agent];
        let dir = session.working_dir.to_string_lossy();
        let (mode, model) = (session.unusual.mode.as_deref(), session.unusual.model.as_deref());
        let (name, forked_from) =
            (session.unusual.name.as_deref(), session.unusual.forked_from.as_deref());
        let seq = self.publisher.publish(&mut session.feed, EventKind::SessionCreated, |object| {
            object.optional("forkedFrom", forked_from);
            object.string("status", SessionStatus::Idle.as_str());
            object.string("workingDir", &dir);
            object.string("agent", &agent.name);
            object.string_or_null("model", model);
            object.string_or_null("mode", mode);
            object.string_or_null("name", name);
            object.string("conversation", &session.conversation.id);
            if let Some(fork) = &*session.conversation.fork {
                object.object("fork", |object| {
                    object.string("conversation", &fork.conversation);
                    object.string_or_null("entry", fork.entry.as_deref());
                });
            }
        });
        self.log(Level::Info, "session", "created", vec![("session", id.clone())]);
        self.say(|server, object| {
            object.bool("success", true);
            object.string("sessionId", &id);
            object.object("session", |object| server.write_session(object, key));
            server.write_cursor(object);
        });
        (seq, id)
    }

    /// Writes what there is to know of a session at a glance.
    pub(super) fn write_session(&self, object: &mut Object<'_>, key: Key) {
        let Some(session) = self.sessions.get(key) else { return };
        let agent = &self.config.agents[session.agent];
        object.string("sessionId", session.id());
        object.string("id", session.id());
        object.string_or_null("name", session.unusual.name.as_deref());
        object.string("status", session.status().as_str());
        object.string("workingDir", &session.working_dir.to_string_lossy());
        object.string("agent", &agent.name);
        object.string("dialect", agent.dialect.as_str());
        let model = session.unusual.model.as_deref().or(session.model_in_use.as_deref());
        object.string_or_null("model", model);
        let mode = session.mode();
        object.string_or_null("mode", mode);
        object.number("createdAt", session.created_at);
        object.number("lastActivityAt", session.feed.active_at);
        object.string_or_null("lastPrompt", session.last_prompt.as_deref());
        object.number("openApprovals", session.approvals.open.len() as u64);
        object.number("queueLength", session.prompts.queue.len() as u64);
        object.float("totalCostUsd", session.total_cost_usd);
        object.number("readers", session.feed.log.readers.into());
        object.string("conversation", &session.conversation.id);
        object.bool("archived", session.archived);
        object.string_or_null("forkedFrom", session.unusual.forked_from.as_deref());
    }

    pub(super) fn list_sessions(&mut self, request: &Request<'_>) -> Outcome {
        let limit = request.number("limit", 1..=1000)?.unwrap_or(100) as usize;
        let status = request.parameter("status")?;
        if let Some(status) = status.as_deref().filter(|status| !STATUSES.contains(status)) {
            let sentence =
                format!("\"status\" must be one of {}, not \"{status}\"", STATUSES.join(", "));
            return Err(Problem::bad("invalid_value", sentence));
        }
        let query = request.parameter("q")?.map(|text| text.to_lowercase());
        // By its place in the order, which it has also where it is none of those that are wanted, or
        // has just been deleted.
        let place = |session: &Session| (session.feed.active_at, session.feed.number);
        let behind = request.parameter("before")?.map(|id| {
            let open = self.by_id.find(&self.sessions, &id);
            let key = open.or_else(|| self.closed_ids.find(&self.sessions, &id));
            let session = key.and_then(|key| self.sessions.get(key));
            session.map(place).ok_or_else(|| Problem::session_not_found(&id))
        });
        let behind = behind.transpose()?;
        let mut rows: Vec<((u64, u32), Key)> = self
            .by_id
            .keys()
            .filter_map(|key| self.sessions.get(key))
            .filter(|session| match status.as_deref() {
                Some("archived") => session.archived,
                Some(status) => !session.archived && session.status().as_str() == status,
                None => !session.archived,
            })
            .filter(|session| query.as_deref().is_none_or(|query| matches_query(session, query)))
            .map(|session| (place(session), session.key()))
            .filter(|(place, _)| behind.is_none_or(|behind| *place < behind))
            .collect();
        rows.sort_unstable_by_key(|(place, _)| std::cmp::Reverse(*place));
        let mut more = rows.len() > limit;
        self.say(|server, object| {
            object.bool("success", true);
            object.array("sessions", |array| {
                for (_, key) in rows.iter().take(limit) {
                    if array.size() > LIST_SIZE {
                        more = true;
                        break;
                    }
                    array.object(|object| server.write_session(object, *key));
                }
            });
            object.bool("more", more);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    pub(super) fn get_session(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            object.bool("success", true);
            object.object("session", |object| server.write_session(object, key));
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    pub(super) fn session_status(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.string("status", session.status().as_str());
            let turn = session.turn.as_ref();
            object.string_or_null("turnId", turn.map(|turn| &*turn.id));
            let prompt = turn.and_then(|turn| turn.prompt.as_ref());
            object.string_or_null("promptId", prompt.map(|prompt| &*prompt.id));
            object.number("queueLength", session.prompts.queue.len() as u64);
            object.array("pendingApprovals", |array| {
                session.approvals.open.iter().for_each(|open| array.string(&open.id));
            });
            object.number("readers", session.feed.log.readers.into());
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    pub(super) fn session_context(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        self.say(|server, object| {
            let Some(session) = server.sessions.get(key) else { return };
            object.bool("success", true);
            object.string("sessionId", session.id());
            object.string("workingDir", &session.working_dir.to_string_lossy());
            let model = session.model_in_use.as_deref().or(session.unusual.model.as_deref());
            object.string_or_null("model", model);
            let mode = session.mode();
            object.string_or_null("mode", mode);
            object.raw("usage", session.usage.as_deref().unwrap_or("null"));
            object.float("totalCostUsd", session.total_cost_usd);
            object.number("turns", session.turns);
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }

    pub(super) fn patch_session(&mut self, request: &Request<'_>, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        let body = request.json()?;
        let new_name = name(&body, "name")?.map(str::to_owned);
        let mode = self.mode(&body, self.agent_of(key))?;
        let model = self.model(&body, self.agent_of(key))?;
        let names = body.get("name").is_some(); // Null takes the name away.
        let request_id = format!("patch-{:016x}", self.random.bits());
        let now = self.wall_ms;
        let Some(session) = self.sessions.get_mut(key) else {
            return Err(Problem::session_not_found(id));
        };
        if session.deleting {
            return Err(Problem::session_stopping());
        }
        if !names && mode.is_none() && model.is_none() {
            self.get_session(id)?;
            return ok_after(self.publisher.seq());
        }
        session.feed.active_at = now;
        if names {
            session.unusual.name = new_name;
        }
        if let Some(mode) = &mode {
            session.unusual.mode = Some(self.words.one(mode));
            session.mode_in_use = session.unusual.mode.clone();
        }
        if let Some(model) = &model {
            session.unusual.model = Some(self.words.one(model));
        }
        let agent = session.process;
        self.tell_status(key, Some("changed"));
        let seq = self.publisher.seq();
        // The agent hears of it once it is on record.
        let agent = agent.and_then(|agent| self.agents.get_mut(agent));
        if let Some(agent) = agent.filter(|agent| agent.was_ready && !agent.is_leaving()) {
            if let Some(mode) = &mode {
                agent.stdin.queue(seq, |out| claude::set_mode(out, &request_id, mode));
            }
            if let Some(model) = &model {
                agent.stdin.queue(seq, |out| claude::set_model(out, &request_id, model));
            }
        }
        self.release_agents();
        self.get_session(id)?;
        ok_after(seq)
    }

    pub(super) fn delete_session(&mut self, id: &str) -> Outcome {
        let key = self.session_key(id)?;
        if let Some(session) = self.sessions.get_mut(key)
            && !session.deleting
        {
            session.deleting = true;
            self.update_status(key, Some("deleted"));
            if !self.stop_agent_of(key) {
                self.close_session(key);
            }
        }
        let id = id.to_owned();
        self.say(|server, object| {
            object.bool("success", true);
            object.string("sessionId", &id);
            object.string("status", "stopping");
            server.write_cursor(object);
        });
        ok_after(self.publisher.seq())
    }
}

fn matches_query(session: &Session, query: &str) -> bool {
    let dir = session.working_dir.to_string_lossy().to_lowercase();
    let holds = |text: Option<&str>| text.is_some_and(|text| text.to_lowercase().contains(query));
    dir.contains(query)
        || session.id().contains(query)
        || holds(session.unusual.name.as_deref())
        || holds(session.last_prompt.as_deref())
}

/// Why the directory that member or parameter `name` asks for cannot be had.
fn directory_problem(name: &str, asked: &str, problem: &DirectoryProblem) -> Problem {
    let shown: String = asked.chars().take(300).collect();
    match problem {
        DirectoryProblem::NotAbsolute => Problem::bad(
            "working_dir_not_absolute",
            format!("\"{name}\" must be an absolute path, not \"{shown}\""),
        ),
        DirectoryProblem::Missing => Problem::bad(
            "working_dir_not_found",
            format!("the directory \"{shown}\" of \"{name}\" does not exist"),
        ),
        DirectoryProblem::NotADirectory => Problem::bad(
            "working_dir_not_a_directory",
            format!("\"{shown}\", the \"{name}\", is not a directory"),
        ),
        DirectoryProblem::OutsideRoots => Problem::new(
            Status::FORBIDDEN,
            "working_dir_outside_roots",
            format!(
                "the directory \"{shown}\" of \"{name}\" is in none of the roots; --root adds one"
            ),
        ),
        DirectoryProblem::Unreadable(error) => Problem::bad(
            "working_dir_unreadable",
            format!("the directory \"{shown}\" of \"{name}\" cannot be used: {error}"),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::core::epochs::{Durability, Epochs, Start};
    use crate::core::server::{AgentConfig, Birth, Config};
    use crate::limits::Limits;
    use crate::wire::sse::Epoch;

    fn server(limits: Limits) -> Server {
        let program = Err("it is never started".to_owned());
        let agent = AgentConfig { name: "a".to_owned(), dialect: Dialect::Claude, program };
        let config = Config { agents: vec![agent], ..Config::default() };
        let (epoch, durability, boot_id) = (Epoch::new(7), Durability::Memory, "-".to_owned());
        let start = Start::new(epoch, 1, durability, boot_id);
        let epochs = Epochs::first(start);
        let birth = Birth { seed: 1, epochs, now_ms: 1_000, wall_ms: 1_000_000 };
        Server::new(limits, config, birth)
    }

    #[test]
    fn no_more_sessions_are_created_in_any_second_than_may_be() {
        let limits = Limits { session_creations_per_s: 3, ..Limits::default() };
        let mut server = server(limits);
        let mut created = Vec::new();
        for now_ms in (1_900..6_000).step_by(70) {
            server.set_time(now_ms, now_ms);
            for _ in 0..2 {
                if server.room_for_session().is_ok() {
                    created.push(now_ms);
                }
            }
        }
        for from in &created {
            let second = *from..from + 1_000;
            let count = created.iter().filter(|at| second.contains(at)).count();
            assert!(count <= 3, "{count} in the second from {from}");
        }
        assert!(created.len() >= 12, "{}: as many as may be", created.len());
    }

    #[test]
    fn who_only_looks_at_directories_takes_no_sessions_place() {
        let mut server = server(Limits { sessions_max: 1, ..Limits::default() });
        let nobody = Key { kind: 0, generation: 0, index: 0 };
        for _ in 0..5 {
            server.errand(nobody, Purpose::List("/".to_owned()));
        }
        assert!(server.room_for_session().is_ok());
    }

    #[test]
    fn sessions_of_one_millisecond_are_found_by_their_ids_until_they_are_closed() {
        let mut server = server(Limits::default());
        let new = || NewSession {
            asked: "/".to_owned(),
            agent: 0,
            model: None,
            mode: None,
            name: None,
            conversation: None,
            fork: None,
        };
        let ids: Vec<String> =
            (0..100).map(|_| server.new_session(new(), PathBuf::from("/")).1).collect();
        assert!(!ids.is_sorted(), "their ids are in no order");
        let id_of = |server: &Server, key: Key| server.sessions.get(key).map(|s| s.id().to_owned());
        for id in &ids {
            let key = server.session_key(id).ok();
            assert_eq!(key.and_then(|key| id_of(&server, key)).as_ref(), Some(id));
        }
        for id in ids.iter().step_by(3) {
            let key = server.session_key(id).ok().expect("it was found");
            server.close_session(key);
            assert_eq!(
                server.closed_ids.find(&server.sessions, id),
                Some(key),
                "until it is forgotten"
            );
        }
        for (at, id) in ids.iter().enumerate() {
            assert_eq!(server.session_key(id).is_ok(), at % 3 != 0, "{id}");
        }
        let left: Vec<String> = server.by_id.keys().filter_map(|key| id_of(&server, key)).collect();
        assert!(left.is_sorted() && left.len() == ids.len() - ids.len().div_ceil(3));
        assert_eq!(server.closed_ids.len(), server.limits.closed_sessions_max as usize);
    }
}
