//! What the lines of an agent that speaks the `claude` dialect do to its session.
//!
//! A line is parsed once, told as the events that draw it, and forgotten. Lines that no event
//! tells are passed on as they are, so that a newer agent loses nothing. A long delta is told in
//! parts, a commit apart, so that no single line can outrun the log.

use crate::base::arena::Key;
use crate::base::lines::Line;
use crate::core::agent::{Emission, Speech};
use crate::core::agents::TurnEnd;
use crate::core::approvals::{self, Approval, ApprovalKind};
use crate::core::event::EventKind;
use crate::core::metrics::TOKEN_KINDS;
use crate::core::metrics::limit::Limit;
use crate::core::publisher::Output;
use crate::core::server::Server;
use crate::core::session::{Subagent, TodoItem};
use crate::core::turn::{self, ApiError, EndedTool, Failure, Turn};
use crate::limits::{FACT_SIZE_MAX, LIST_ITEMS_MAX, SUBAGENTS_MAX};
use crate::wire::claude::{self, DeltaKind, Message, Parsed, TodoChange, TurnResult};
use crate::wire::document;
use serde_json::value::RawValue;

/// Failed logins in a row after which a turn is ended: the agent itself would try for minutes.
const LOGIN_ATTEMPTS_MAX: u32 = 2;

/// The name of our question whether the agent still works; the turn's id follows.
const PROBE: &str = "probe-";

/// A request of the agent for a human's word, as its line told it.
struct ApprovalRequest<'a> {
    request_id: &'a str,
    tool: &'a str,
    input: &'a RawValue,
    description: Option<&'a str>,
    suggestions: Option<&'a RawValue>,
    tool_use_id: Option<&'a str>,
    agent_id: Option<&'a str>,
}

impl Server {
    /// Reads an agent's lines as far as the log can take what they say.
    pub(super) fn drain_lines(&mut self, agent_key: Key) {
        loop {
            if self.is_paused(agent_key) {
                if !self.paused.contains(&agent_key) {
                    self.paused.push(agent_key);
                }
                return;
            }
            if self.emit(agent_key) {
                continue;
            }
            // The splitter is taken out while one of its lines is worked on.
            let Some(agent) = self.agents.get_mut(agent_key) else { return };
            let Speech::Lines(lines) = &mut agent.stdout else { return };
            let mut lines = std::mem::replace(lines, crate::base::lines::Lines::empty());
            let more = match lines.next_line() {
                Some(Line::Whole(line)) => {
                    self.line(agent_key, line);
                    true
                }
                Some(Line::Skipped(bytes)) => {
                    self.line_too_long(agent_key, bytes);
                    true
                }
                None => false,
            };
            let buffer = lines.take_back();
            let given_back = buffer.is_some();
            self.long_line_buffer = self.long_line_buffer.take().or(buffer);
            let full = !more && lines.is_full();
            let too_long = full && lines.has_lent();
            if let Some(agent) = self.agents.get_mut(agent_key) {
                agent.stdout = Speech::Lines(lines);
            }
            if given_back {
                self.long_line_over(agent_key);
            }
            if too_long {
                self.skip_line(agent_key);
            } else if full {
                self.want_long_line(agent_key);
            }
            if !more {
                return;
            }
        }
    }

    /// Publishes the next part of a long delta. Returns whether there was one.
    fn emit(&mut self, agent_key: Key) -> bool {
        let Some(agent) = self.agents.get_mut(agent_key) else { return false };
        let key = agent.session;
        let Some(mut emission) = agent.emission.take() else { return false };
        let Some(session) = self.sessions.get_mut(key) else { return true };
        let size = self.publisher.content_size_max(&session.feed);
        let rest = &emission.text[emission.at..];
        let piece = &rest[..rest.floor_char_boundary(size)];
        if let Some(turn) = &mut session.turn {
            let text = (emission.message_id.as_deref(), piece);
            let (block, kind) = (emission.block, emission.kind);
            turn.delta(&mut self.publisher, &mut session.feed, block, kind, text);
            self.publisher.flush(&mut session.feed);
        }
        emission.at += piece.len();
        if emission.at < emission.text.len()
            && let Some(agent) = self.agents.get_mut(agent_key)
        {
            agent.emission = Some(emission);
        } else {
            // Only now is all of it gone that a long line was.
            self.long_line_over(agent_key);
        }
        true
    }

    /// Gives the right to a long line on, unless the text of the last one is still being told.
    fn long_line_over(&mut self, agent_key: Key) {
        let Some(agent) = self.agents.get_mut(agent_key) else { return };
        let lent = matches!(&agent.stdout, Speech::Lines(lines) if lines.has_lent());
        if agent.emission.is_some() {
            agent.long_since = 0;
        } else if !lent && self.long_line.front() == Some(&agent_key) {
            self.release_long_line(agent_key);
        }
    }

    fn line_too_long(&mut self, agent_key: Key, bytes: u64) {
        let Some(key) = self.agents.get(agent_key).map(|agent| agent.session) else { return };
        let limit = self.limits.line_size_max;
        self.counters.limits.hit(Limit::LineSize);
        let sentence = format!("a line of {bytes} bytes was dropped; --line-max is {limit}");
        self.session_error(key, &Failure { code: "line_too_long", sentence }, None);
        // It may have been the line that ends the turn: the agent is asked whether it still works.
        let turn = self.sessions.get(key).and_then(|session| session.turn.as_ref());
        if let Some(turn) = turn {
            let request_id = format!("{PROBE}{}", turn.id);
            self.tell_agent(agent_key, |out| claude::initialize(out, &request_id));
        }
    }

    /// The agent has answered whether it works. If it does not, the turn that was asked about ended
    /// in a dropped line, unless it has ended in the meantime.
    fn probed(&mut self, key: Key, turn_id: &str, body: Option<&RawValue>) {
        #[derive(serde::Deserialize)]
        struct State<'a> {
            session_state: Option<&'a str>,
        }
        let state = body.and_then(|body| document::read::<State<'_>>(body.get()).ok());
        let turn = self.sessions.get(key).and_then(|session| session.turn.as_ref());
        let same = turn.is_some_and(|turn| turn.id == turn_id);
        if same && state.is_some_and(|state| state.session_state == Some("idle")) {
            let sentence = "the line that ended the turn was too long".to_owned();
            let failure = Some(Failure { code: "line_too_long", sentence });
            self.end_turn(key, TurnEnd { failure, ..TurnEnd::default() });
        }
    }

    /// Works on one line.
    fn line(&mut self, agent_key: Key, line: &[u8]) {
        let Some(agent) = self.agents.get(agent_key) else { return };
        let key = agent.session;
        match claude::parse(line) {
            Parsed::Message(message) => {
                if self.config.raw_events {
                    self.agent_event(key, line);
                }
                self.message(agent_key, key, message, line);
            }
            Parsed::Other => self.agent_event(key, line),
            Parsed::Noise if line.trim_ascii().is_empty() => {}
            // Text where a line of the dialect was expected is told as what it is: output.
            Parsed::Noise => {
                let text = format!("{}\n", String::from_utf8_lossy(line));
                self.publish_text(agent_key, Output::Stderr, &text);
            }
        }
        self.arm_session_now(key);
    }

    /// Passes a line on as it is.
    fn agent_event(&mut self, key: Key, line: &[u8]) {
        let Ok(text) = std::str::from_utf8(line) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.publisher.publish(&mut session.feed, EventKind::AgentEvent, |object| {
            object.raw("message", text.trim_ascii());
        });
    }

    /// The turn under way; one begins if there is none.
    fn turn_of(&mut self, key: Key) -> Option<&mut Turn> {
        self.ensure_turn(key);
        self.sessions.get_mut(key)?.turn.as_deref_mut()
    }

    fn message(&mut self, agent_key: Key, key: Key, message: Message<'_>, line: &[u8]) {
        match message {
            Message::Ignored | Message::BlockStart { .. } | Message::BlockStop { .. } => {}
            Message::Init { conversation_id, model, mode, .. } => {
                self.ensure_turn(key);
                let Some(session) = self.sessions.get_mut(key) else { return };
                session.model_in_use = model.map(|model| self.words.one(&model));
                session.conversation.begun = true;
                session.conversation.fork = None.into();
                self.conversation_changed(key, &conversation_id);
                self.mode_changed(key, mode.as_deref());
            }
            Message::Status { status, mode } => {
                self.mode_changed(key, mode.as_deref());
                if status.is_some_and(|status| status != "requesting") {
                    self.agent_event(key, line);
                }
            }
            Message::MessageStart { message_id, .. } => {
                if let Some(turn) = self.turn_of(key) {
                    turn.message_started(&message_id);
                }
            }
            Message::Delta { block, kind, text, message_id } => {
                self.delta(agent_key, key, block, kind, (message_id.as_deref(), &text));
            }
            Message::MessageStop => {
                if let Some(session) = self.sessions.get_mut(key)
                    && let Some(turn) = &mut session.turn
                {
                    turn.message_ended(&mut self.publisher, &mut session.feed);
                }
            }
            Message::Assistant {
                message_id,
                parent_tool_use_id,
                blocks,
                aborted,
                error,
                api_error_status,
                entry,
                ..
            } => {
                self.entry(key, parent_tool_use_id.as_deref(), entry.as_deref());
                let message = turn::Message {
                    id: &message_id,
                    parent: parent_tool_use_id.as_deref(),
                    blocks,
                    aborted,
                };
                let error = error
                    .map(|error| ApiError { status: api_error_status, error: error.into_owned() });
                self.assistant(key, message, error, line);
            }
            Message::ToolResults { results, structured, entry, parent_tool_use_id } => {
                self.entry(key, parent_tool_use_id.as_deref(), entry.as_deref());
                self.tool_results(key, &results, structured);
            }
            Message::UserText { interrupted_notice, entry, parent_tool_use_id, .. } => {
                self.entry(key, parent_tool_use_id.as_deref(), entry.as_deref());
                if !interrupted_notice {
                    self.agent_event(key, line);
                }
            }
            Message::Compacted { .. }
            | Message::Informational { .. }
            | Message::PermissionDenied { .. }
            | Message::TaskProgress { .. } => self.agent_event(key, line),
            Message::Result(result) => self.turn_result(agent_key, key, &result),
            Message::Approval {
                request_id,
                tool,
                input,
                description,
                suggestions,
                tool_use_id,
                agent_id,
                ..
            } => {
                let request = ApprovalRequest {
                    request_id: &request_id,
                    tool: &tool,
                    input,
                    description: description.as_deref(),
                    suggestions,
                    tool_use_id: tool_use_id.as_deref(),
                    agent_id: agent_id.as_deref(),
                };
                self.approval_requested(agent_key, key, &request);
            }
            Message::ApprovalWithdrawn { request_id } => {
                self.withdraw_approvals(key, "agent", |open| open.request_id == request_id);
            }
            Message::ControlResponse { request_id, outcome, .. } => {
                self.control_response(agent_key, key, &request_id, outcome);
            }
            Message::ControlRequest { request_id, subtype } => {
                let text = format!("sidestream does not serve \"{subtype}\"");
                self.tell_agent(agent_key, |out| claude::error_response(out, &request_id, &text));
            }
            Message::ApiRetry { attempt, delay_ms, status, error, .. } => {
                self.api_retry(key, attempt, delay_ms, status, error.as_deref());
            }
            Message::ToolProgress { tool_use_id, elapsed_ms, .. } => {
                if let Some(session) = self.sessions.get_mut(key)
                    && let Some(turn) = &session.turn
                {
                    let feed = &mut session.feed;
                    turn.tool_progress(&mut self.publisher, feed, &tool_use_id, elapsed_ms);
                }
            }
            Message::TaskStarted { task_id, tool_use_id, description, background, task_type } => {
                let is_subagent = task_type.is_none_or(|kind| kind.contains("agent"));
                if is_subagent {
                    self.subagent_started(key, &task_id, tool_use_id, &description, background);
                } else {
                    self.agent_event(key, line);
                }
            }
            Message::TaskNotification { task_id, status, summary, usage, .. } => {
                let outcome = if status == "completed" { "ok" } else { "error" };
                let usage = usage.map(RawValue::get);
                if !self.subagent_ended(key, &task_id, outcome, summary.as_deref(), usage) {
                    self.agent_event(key, line);
                }
            }
            Message::BackgroundTasks { count } => {
                if let Some(agent) = self.agents.get_mut(agent_key) {
                    agent.background = count;
                }
                self.agent_event(key, line);
                self.may_be_spared();
            }
            Message::ConversationReset { conversation_id } => {
                self.agent_event(key, line);
                self.conversation_changed(key, &conversation_id);
            }
        }
    }

    /// Queues something for an agent that no event has to precede.
    fn tell_agent(&mut self, agent_key: Key, write: impl FnOnce(&mut Vec<u8>)) {
        if let Some(agent) = self.agents.get_mut(agent_key) {
            agent.stdin.queue(0, write);
        }
        self.release_agents();
    }

    /// The agent says which mode it is in. A change is told, so that the next agent, also that of
    /// the next server, is in it too.
    fn mode_changed(&mut self, key: Key, mode: Option<&str>) {
        let (Some(session), Some(mode)) = (self.sessions.get_mut(key), mode) else { return };
        let is_news = session.mode().unwrap_or("default") != mode;
        if session.mode_in_use.as_deref() != Some(mode) {
            session.mode_in_use = Some(self.words.one(mode));
        }
        if is_news {
            self.tell_status(key, Some("changed"));
        }
    }

    /// The agent says in which conversation it is. The next agent goes on with that one.
    fn conversation_changed(&mut self, key: Key, id: &str) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        if *session.conversation.id != *id {
            session.conversation.id = id.into();
            session.conversation.entry = None;
            self.tell_status(key, Some("changed"));
        }
    }

    /// Notes the newest entry of the main conversation.
    fn entry(&mut self, key: Key, parent: Option<&str>, entry: Option<&str>) {
        if let (Some(session), Some(entry), None) = (self.sessions.get_mut(key), entry, parent) {
            let known = session.conversation.entry.get_or_insert_default();
            known.clear();
            known.push_str(entry);
        }
    }

    fn delta(
        &mut self,
        agent_key: Key,
        key: Key,
        block: u32,
        kind: DeltaKind,
        (message_id, text): (Option<&str>, &str),
    ) {
        self.ensure_turn(key);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(turn) = &mut session.turn else { return };
        if text.len() <= self.publisher.content_size_max(&session.feed) {
            let text = (message_id, text);
            return turn.delta(&mut self.publisher, &mut session.feed, block, kind, text);
        }
        self.publisher.flush(&mut session.feed);
        if let Some(agent) = self.agents.get_mut(agent_key) {
            let message_id = message_id.map(str::to_owned);
            let text = text.to_owned();
            agent.emission = Some(Emission { text, at: 0, block, kind, message_id });
        }
    }

    fn assistant(
        &mut self,
        key: Key,
        message: turn::Message<'_>,
        error: Option<ApiError>,
        line: &[u8],
    ) {
        self.ensure_turn(key);
        let now_ms = self.now_ms;
        let Some(session) = self.sessions.get_mut(key) else { return };
        let Some(turn) = &mut session.turn else { return };
        if message.parent.is_none() && error.is_some() {
            turn.api_error = error;
        }
        let left_out = turn.message(&mut self.publisher, &mut session.feed, message, now_ms);
        if left_out > 0 {
            self.agent_event(key, line);
        }
    }

    fn tool_results(
        &mut self,
        key: Key,
        results: &[claude::ToolResult<'_>],
        structured: Option<&RawValue>,
    ) {
        let now_ms = self.now_ms;
        for result in results {
            self.resume_tool(key, &result.tool_use_id);
            let Some(session) = self.sessions.get_mut(key) else { return };
            let Some(turn) = &mut session.turn else { return };
            let feed = &mut session.feed;
            // A structured result belongs to the one call that the line is about.
            let structured = structured.filter(|_| results.len() == 1);
            let ended = turn.tool_ended(&mut self.publisher, feed, result, structured, now_ms);
            let foreground = session.subagents.iter().find(|subagent| {
                !subagent.background
                    && subagent.tool_use_id.as_deref() == Some(&*result.tool_use_id)
            });
            let subagent = foreground.map(|subagent| subagent.agent_id.clone());
            if let Some(ended) = ended
                && !result.is_error
            {
                self.todos_changed(key, &ended, structured);
            }
            if let Some(agent_id) = subagent {
                let outcome = if result.is_error { "error" } else { "ok" };
                self.subagent_ended(key, &agent_id, outcome, None, None);
            }
        }
    }

    /// A tool of a subagent may end when no turn is under way: then the agent works by itself.
    fn resume_tool(&mut self, key: Key, tool_use_id: &str) {
        let open = |subagent: &Subagent| subagent.tools.iter().any(|tool| tool.is(tool_use_id));
        if self.sessions.get(key).is_some_and(|session| session.subagents.iter().any(open)) {
            self.ensure_turn(key);
        }
    }

    /// Keeps the agent's list of things to do, and tells the whole of it when it changes.
    fn todos_changed(&mut self, key: Key, ended: &EndedTool, structured: Option<&RawValue>) {
        let Ok(input) = document::read::<&RawValue>(&ended.input) else { return };
        let Some(change) = claude::todos(&ended.tool, input, structured) else { return };
        let Some(session) = self.sessions.get_mut(key) else { return };
        let todos = &mut session.unusual.todos;
        match change {
            TodoChange::Replace(list) => {
                let items = list.into_iter().take(LIST_ITEMS_MAX).map(|todo| TodoItem {
                    id: todo.id.into_owned(),
                    text: todo.text.into_owned(),
                    status: todo.status.into_owned(),
                });
                *todos = items.collect();
            }
            TodoChange::Create { id, text } if todos.len() < LIST_ITEMS_MAX => {
                let next = todos.iter().filter_map(|todo| todo.id.parse::<u64>().ok()).max();
                let id = id.map_or_else(|| (next.unwrap_or(0) + 1).to_string(), |id| id.into());
                let (text, status) = (text.into_owned(), "pending".to_owned());
                // A list that was begun anew counts from one again.
                match todos.iter_mut().find(|todo| todo.id == id) {
                    Some(todo) => *todo = TodoItem { id, text, status },
                    None => todos.push(TodoItem { id, text, status }),
                }
            }
            TodoChange::Create { .. } => return,
            TodoChange::Update { id, status, .. } if status.as_deref() == Some("deleted") => {
                todos.retain(|todo| todo.id != id);
            }
            TodoChange::Update { id, text, status } => {
                let Some(todo) = todos.iter_mut().find(|todo| todo.id == id) else { return };
                todo.text = text.map_or_else(|| todo.text.clone(), |text| text.into());
                todo.status = status.map_or_else(|| todo.status.clone(), |status| status.into());
            }
        }
        let (todos, feed) = (&session.unusual.todos, &mut session.feed);
        self.publisher.publish(feed, EventKind::TodosUpdated, |object| {
            object.array("todos", |array| {
                for todo in todos {
                    array.object(|object| {
                        object.string("id", &todo.id);
                        object.string("text", &todo.text);
                        object.string("status", &todo.status);
                    });
                }
            });
        });
    }

    fn subagent_started(
        &mut self,
        key: Key,
        agent_id: &str,
        tool_use_id: Option<std::borrow::Cow<'_, str>>,
        description: &str,
        background: bool,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let known = session.subagents.iter().any(|subagent| subagent.agent_id == agent_id);
        if known || session.subagents.len() == SUBAGENTS_MAX {
            return;
        }
        self.publisher.publish(&mut session.feed, EventKind::SubagentStarted, |object| {
            object.string("agentId", agent_id);
            object.string_or_null("toolUseId", tool_use_id.as_deref());
            object.string("description", description);
            object.bool("background", background);
        });
        session.subagents.push(Subagent {
            agent_id: agent_id.to_owned(),
            tool_use_id: tool_use_id.map(|id| id.into_owned()),
            background,
            tools: Vec::new(),
        });
    }

    /// A subagent ended. Returns whether it was open.
    fn subagent_ended(
        &mut self,
        key: Key,
        agent_id: &str,
        outcome: &str,
        summary: Option<&str>,
        usage: Option<&str>,
    ) -> bool {
        let Some(session) = self.sessions.get_mut(key) else { return false };
        let open = &mut session.subagents;
        let Some(at) = open.iter().position(|subagent| subagent.agent_id == agent_id) else {
            return false;
        };
        let subagent = open.remove(at);
        let mut tools = subagent.tools;
        if let (Some(turn), Some(parent)) = (&mut session.turn, &subagent.tool_use_id) {
            tools.extend(turn.release(parent));
        }
        for tool in tools {
            tool.lost(&mut self.publisher, &mut session.feed, self.now_ms);
        }
        self.publisher.publish(&mut session.feed, EventKind::SubagentCompleted, |object| {
            object.string("agentId", &subagent.agent_id);
            object.string_or_null("toolUseId", subagent.tool_use_id.as_deref());
            object.bool("background", subagent.background);
            object.string("outcome", outcome);
            object.string_or_null("summary", summary);
            object.raw("usage", usage.unwrap_or("null"));
        });
        true
    }

    /// Ends every subagent: the process that ran them is gone.
    pub(super) fn end_subagents(&mut self, key: Key) {
        while let Some(agent_id) = self
            .sessions
            .get(key)
            .and_then(|session| session.subagents.first())
            .map(|subagent| subagent.agent_id.clone())
        {
            self.subagent_ended(key, &agent_id, "aborted", None, None);
        }
    }

    /// Counts what a turn's result says of its model's tokens.
    fn count_tokens(&mut self, usage: Option<&RawValue>) {
        let Some(usage) = usage else { return };
        let Ok(usage) = serde_json::from_str::<serde_json::Value>(usage.get()) else { return };
        for ((_, member), count) in TOKEN_KINDS.iter().zip(&mut self.counters.tokens) {
            *count += usage[member].as_u64().unwrap_or_default();
        }
    }

    /// The agent says that a turn is over.
    fn turn_result(&mut self, agent_key: Key, key: Key, result: &TurnResult<'_>) {
        self.count_tokens(result.usage);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let cost = result.total_cost_usd.map(|total| (total - session.agent_cost_usd).max(0.0));
        session.agent_cost_usd = result.total_cost_usd.unwrap_or(session.agent_cost_usd);
        self.counters.cost_usd += cost.filter(|cost| cost.is_finite()).unwrap_or_default();
        if session.turn.is_none() {
            return; // A refusal at the start: its exit tells it.
        }
        // A turn of the agent's own, that ran before it came to our prompt: ours goes on.
        let asked = session.turn.as_ref().is_some_and(|turn| turn.prompt.is_some());
        let own = result.origin.is_some_and(|origin| origin.get().contains("task-notification"));
        if asked && own {
            session.total_cost_usd += cost.unwrap_or_default();
            return;
        }
        let Some(turn) = &session.turn else { return };
        let stopped = turn.interrupted && turn.failure.is_none();
        let interrupted = stopped && (result.interrupted() || result.is_error)
            || turn.failure.is_none() && result.interrupted();
        let failure = match (&turn.failure, result.is_error && !interrupted) {
            (Some(failure), _) => Some(failure.clone()),
            (None, true) => Some(failure_of(turn, result)),
            (None, false) => None,
        };
        let text = result.result.as_deref().filter(|text| !text.is_empty());
        let text = text.map_or_else(|| turn.last_text(), str::to_owned);
        if let Some(agent) = self.agents.get_mut(agent_key) {
            agent.heard_at = self.now_ms;
        }
        let end = TurnEnd {
            failure,
            interrupted,
            result: Some(text),
            cost_usd: cost,
            usage: result.usage.map(|usage| usage.get().to_owned()),
        };
        self.end_turn(key, end);
    }

    fn api_retry(
        &mut self,
        key: Key,
        attempt: u32,
        delay_ms: u64,
        status: Option<u16>,
        error: Option<&str>,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        self.publisher.publish(&mut session.feed, EventKind::AgentRetry, |object| {
            object.number("attempt", attempt.into());
            object.number("delayMs", delay_ms);
            object.number_or_null("status", status.map(u64::from));
            object.string_or_null("error", error);
        });
        let login = status == Some(401) || error == Some("authentication_failed");
        let Some(turn) = &mut session.turn else { return };
        if login && attempt >= LOGIN_ATTEMPTS_MAX && turn.failure.is_none() {
            let sentence = "the API does not accept the agent's credentials; \
                log in with `claude` in a terminal, or set ANTHROPIC_API_KEY to a valid key";
            let failure = Failure { code: "authentication_failed", sentence: sentence.to_owned() };
            turn.failure = Some(failure.clone());
            self.session_error(key, &failure, None);
            self.interrupt_turn(key);
        }
    }

    fn control_response(
        &mut self,
        agent_key: Key,
        key: Key,
        request_id: &str,
        outcome: Result<Option<&RawValue>, std::borrow::Cow<'_, str>>,
    ) {
        match outcome {
            Ok(body) if request_id == "initialize" => self.initialized(agent_key, key, body),
            Err(error) if request_id == "initialize" => {
                // Older agents do not know it: they are ready all the same.
                let _ = error;
                self.agent_ready(agent_key);
            }
            Ok(body) if request_id.starts_with(PROBE) => {
                self.probed(key, &request_id[PROBE.len()..], body);
            }
            Ok(_) => {}
            Err(_) if request_id.starts_with(PROBE) => {}
            Err(error) => {
                let sentence = format!("the agent refused a request: {error}");
                self.session_error(key, &Failure { code: "agent_refused", sentence }, None);
            }
        }
    }

    /// The agent's answer to `initialize`: it is ready, unless it has nobody to speak for.
    fn initialized(&mut self, agent_key: Key, key: Key, body: Option<&RawValue>) {
        let facts = body.and_then(claude::initialize_reply);
        let Some(session) = self.sessions.get_mut(key) else { return };
        let mut logged_in = None;
        if let Some(facts) = facts {
            logged_in = facts.logged_in;
            let known = &mut self.facts[session.agent];
            known.version = facts.version.map(|version| version.into_owned());
            let fit = |fact: Option<&RawValue>| {
                fact.filter(|fact| fact.get().len() <= FACT_SIZE_MAX).map(approvals::one_line)
            };
            known.models = fit(facts.models);
            known.commands = fit(facts.commands);
            known.logged_in = logged_in;
            if let Some(mode) = facts.mode {
                session.mode_in_use = Some(self.words.one(&mode));
            }
        }
        if logged_in == Some(false) {
            let sentence = "the agent is not logged in; run `claude` in a terminal and log in, \
                or set ANTHROPIC_API_KEY before sidestream starts";
            let failure = Failure { code: "agent_not_logged_in", sentence: sentence.to_owned() };
            self.refuse_start(agent_key, key, &failure);
        } else {
            self.agent_ready(agent_key);
        }
    }

    // Approvals.

    fn approval_requested(&mut self, agent_key: Key, key: Key, request: &ApprovalRequest<'_>) {
        let id = format!("approval-{:016x}", self.random.bits());
        let approvals_max = self.limits.approvals_max;
        let texts = [request.description, request.tool_use_id, request.agent_id];
        let size = request.input.get().len()
            + request.suggestions.map_or(0, |all| all.get().len())
            + request.request_id.len()
            + request.tool.len()
            + texts.into_iter().flatten().map(str::len).sum::<usize>();
        let large = self.approvals_size() + size > self.limits.approvals_size_max;
        let Some(session) = self.sessions.get_mut(key) else { return };
        if large || session.approvals.open.len() >= approvals_max {
            let request_id = request.request_id;
            let text = "too many approvals are open";
            self.tell_agent(agent_key, |out| claude::deny(out, request_id, text, false));
            let why = match large {
                true => "all open ones together are too large, --approvals-size-max".to_owned(),
                false => format!("{approvals_max} are open, --approvals-max"),
            };
            let sentence = format!("an approval for {} was denied: {why}", request.tool);
            self.counters.limited += 1;
            let limit = if large { Limit::ApprovalsSize } else { Limit::Approvals };
            self.counters.limits.hit(limit);
            return self.session_error(key, &Failure { code: "approvals_max", sentence }, None);
        }
        let mut title = String::new();
        claude::title(&mut title, request.tool, request.input);
        let input = approvals::one_line(request.input);
        let approval = Approval {
            id,
            request_id: request.request_id.to_owned(),
            kind: ApprovalKind::of(request.tool),
            tool: request.tool.to_owned(),
            title,
            input_hash: approvals::input_hash(&input),
            input,
            description: request.description.map(str::to_owned),
            suggestions: request.suggestions.map(approvals::one_line),
            tool_use_id: request.tool_use_id.map(str::to_owned),
            agent_id: request.agent_id.map(str::to_owned),
        };
        self.publisher.publish(&mut session.feed, EventKind::ApprovalRequired, |object| {
            approval.write(object);
        });
        session.approvals.open.push(approval);
        self.update_status(key, None);
        self.arm_session_now(key);
    }

    /// The bytes of all approvals that are open.
    pub(super) fn approvals_size(&self) -> usize {
        (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.at(index))
            .flat_map(|session| session.approvals.open.iter().map(Approval::size))
            .sum()
    }

    /// Withdraws open approvals: nobody waits for their answers any more.
    pub(super) fn withdraw_approvals(
        &mut self,
        key: Key,
        reason: &str,
        which: impl Fn(&Approval) -> bool,
    ) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let chosen = session.approvals.open.iter().filter(|approval| which(approval));
        let ids: Vec<String> = chosen.map(|approval| approval.id.clone()).collect();
        for id in &ids {
            if session.approvals.decide(id, "withdrawn", reason).is_some() {
                self.publisher.publish(&mut session.feed, EventKind::ApprovalWithdrawn, |object| {
                    object.string("approvalId", id);
                    object.string("reason", reason);
                });
            }
        }
        if !ids.is_empty() {
            // The silence of the agent counts from here, not from before the question.
            let agent = session.process.and_then(|agent| self.agents.get_mut(agent));
            if let Some(agent) = agent {
                agent.heard_at = self.now_ms;
            }
            self.update_status(key, None);
            self.may_be_spared();
        }
    }
}

/// Why the agent says that a turn failed.
fn failure_of(turn: &Turn, result: &TurnResult<'_>) -> Failure {
    let text = result.result.as_deref().filter(|text| !text.is_empty());
    let text = text.or_else(|| result.errors.first().map(|error| &**error));
    let sentence = text.map_or_else(|| turn.last_text(), str::to_owned);
    let status = result.api_error_status.or(turn.api_error.as_ref().and_then(|api| api.status));
    let word = turn.api_error.as_ref().map_or("", |api| &api.error);
    let code = match (status, word, &*result.subtype) {
        (Some(401 | 403), ..) | (_, "authentication_failed", _) => "authentication_failed",
        (Some(429), ..) | (_, "rate_limit", _) => "rate_limit",
        (Some(529), ..) => "overloaded",
        (Some(500..), ..) => "server_error",
        (Some(404), ..) | (_, "model_not_found", _) => "model_not_found",
        (Some(_), ..) => "invalid_request",
        (None, word, _) if !word.is_empty() => {
            let refused = sentence.contains("ECONNREFUSED") || sentence.contains("onnection");
            if refused { "connection_failed" } else { "api_error" }
        }
        (None, _, "error_max_turns") => "max_turns",
        (None, ..) => "agent_error",
    };
    Failure { code, sentence }
}
