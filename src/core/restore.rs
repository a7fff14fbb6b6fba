//! What a journal tells of its session after a restart, and how the session goes on from there.
//!
//! The journal is the truth: [`Snapshot::apply`] reads its frames, one after the other, on top of
//! a snapshot that was written when a segment began. What had started and not ended when the
//! server went away is ended here, once: nothing runs that a human does not see, and a prompt that
//! was running is never run again. Files are the shell's business.

use crate::base::arena::Key;
use crate::base::ring::Ring;
use crate::core::agents::TurnEnd;
use crate::core::approvals::{Approval, ApprovalKind, Approvals, Granted};
use crate::core::event::{self, EventKind};
use crate::core::holes;
use crate::core::journal::{Frame, Journal};
use crate::core::log::Log;
use crate::core::prompts::{Image, Prompt, Prompts};
use crate::core::publisher::{Feed, InTurn};
use crate::core::server::{AgentConfig, Dialect, Server};
use crate::core::session::{
    Conversation, Fork, Process, Session, Status, Subagent, TodoItem, Unusual,
};
use crate::core::turn::{Failure, OpenTool, OpenTurn, Turn};
use crate::limits::{BLOCK_SIZE_MAX, LAST_PROMPT_SIZE, PROMPT_IDS_KEPT};
use crate::wire::document;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use std::path::Path;

/// The format of snapshots that this version writes, and the newest one that it reads.
pub const FORMAT: u32 = 1;

/// A session as it stood at one number of its journal.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Snapshot {
    /// [`FORMAT`] of whoever wrote it.
    pub format: u32,
    /// The newest number that is in it.
    pub seq: u64,
    /// The position behind that frame.
    pub position: u64,
    /// The newest number that the journal no longer holds.
    pub evicted: u64,
    /// Its id.
    pub session_id: String,
    /// The human's name for it.
    pub name: Option<String>,
    /// Where its agent works.
    pub working_dir: String,
    /// Its agent's name.
    pub agent: String,
    /// The model that was asked for.
    pub model: Option<String>,
    /// The permission mode that was asked for.
    pub mode: Option<String>,
    /// When it was created, in milliseconds since 1970.
    pub created_at: u64,
    /// When it was last active, in milliseconds since 1970.
    pub active_at: u64,
    /// The beginning of the last prompt.
    pub last_prompt: Option<String>,
    /// The status that was last told.
    pub status: String,
    /// The agent's name for its conversation.
    pub conversation: String,
    /// That conversation can be resumed.
    pub resumable: bool,
    /// Its newest entry, as far as the last whole turn goes.
    pub entry: Option<String>,
    /// What it is to begin as a copy of.
    pub fork: Option<Fork>,
    /// The session that it is a copy of.
    pub forked_from: Option<String>,
    /// It is put away.
    pub archived: bool,
    /// Rules that were granted for it.
    pub granted: Granted,
    /// What it cost.
    pub total_cost_usd: f64,
    /// What the agent said that it cost.
    pub agent_cost_usd: f64,
    /// Tokens of the last turn: JSON.
    pub usage: Option<String>,
    /// Turns begun.
    pub turns: u64,
    /// Prompts that wait.
    pub queue: Vec<Waiting>,
    /// Prompt ids that were taken lately.
    pub recent: Vec<Recent>,
    /// The turn under way.
    pub turn: Option<Running>,
    /// Approvals that are open: their ids, and the tool calls they are about.
    pub approvals: Vec<(String, Option<String>)>,
    /// Subagents that have not ended: their ids, and the tool calls that started them.
    pub subagents: Vec<(String, Option<String>)>,
    /// Tool calls of subagents that outlived their turn.
    pub tools: Vec<String>,
    /// The agent's list of things to do: id, text, status.
    pub todos: Vec<(String, String, String)>,
}

/// A prompt that waits, or runs.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Waiting {
    id: String,
    command: String,
    images: Vec<(String, String)>,
    by: String,
    client_id: Option<String>,
}

/// The first answer to a prompt id.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Recent {
    id: String,
    command: String,
    cursor: u64,
    position: u32,
    /// The number of its last event, 0 before that.
    end: u64,
}

/// A turn that had begun and not ended.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    id: String,
    prompt: Option<Waiting>,
    started_at: u64,
    #[serde(flatten)]
    open: OpenTurn,
}

/// What is beside a journal: a large field, by the number of its event.
pub trait Beside {
    /// The text that was cut from event `seq`.
    fn large(&self, seq: u64) -> Option<String>;
    /// The images of the prompt that event `seq` queued: JSON.
    fn images(&self, seq: u64) -> Option<String>;
}

/// The members of events that matter here.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Data<'a> {
    #[serde(default)]
    timestamp: u64,
    turn_id: Option<String>,
    prompt_id: Option<String>,
    message_id: Option<String>,
    block: Option<u32>,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    replaces: Option<Vec<String>>,
    tool_use_id: Option<String>,
    agent_id: Option<String>,
    approval_id: Option<String>,
    todos: Option<Vec<Todo>>,
    status: Option<String>,
    working_dir: Option<String>,
    agent: Option<String>,
    model: Option<String>,
    mode: Option<String>,
    name: Option<String>,
    conversation: Option<String>,
    resumable: Option<bool>,
    last_activity_at: Option<u64>,
    conversation_entry: Option<String>,
    fork: Option<Fork>,
    permissions: Option<Vec<serde_json::Value>>,
    reason: Option<String>,
    forked_from: Option<String>,
    #[serde(borrow)]
    position: Option<&'a RawValue>,
    by: Option<String>,
    client_id: Option<String>,
    command: Option<String>,
    #[serde(borrow)]
    images: Option<&'a RawValue>,
    total_cost_usd: Option<f64>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Todo {
    #[serde(default)]
    id: String,
    #[serde(default)]
    text: String,
    #[serde(default)]
    status: String,
}

impl Snapshot {
    /// Whether the session was being deleted: its end is all that is left to do.
    pub fn is_ending(&self) -> bool {
        matches!(&*self.status, "stopping" | "closed")
    }

    /// Goes on by one frame, in their order. A frame that is in the snapshot changes nothing.
    pub fn apply(&mut self, frame: &Frame<'_>, beside: &dyn Beside) {
        if frame.seq <= self.seq {
            return;
        }
        self.seq = frame.seq;
        // Text as it comes is most of a journal, and of no interest once its block has ended.
        let Ok(data) = document::read::<Data<'_>>(frame.data) else { return };
        // A status says for itself since when nothing has happened.
        match data.last_activity_at {
            Some(at) => self.active_at = at,
            None if event::is_activity(frame.name) => self.active_at = data.timestamp,
            None => {}
        }
        match frame.name {
            "session-created" | "session-status" => self.described(frame.name, data),
            "session-closed" => self.status = "closed".into(),
            "prompt-queued" => self.queued(frame.seq, data, beside),
            "prompt-started" => self.started(data),
            "prompt-completed" | "prompt-failed" | "prompt-cancelled" => {
                self.ended(frame.seq, data);
            }
            "session-output" => self.output(data),
            "message-block" => self.block(data),
            "tool-started" => {
                let tools = self.turn.as_mut().map_or(&mut self.tools, |turn| &mut turn.open.tools);
                tools.extend(data.tool_use_id);
            }
            "tool-completed" => {
                self.tools.retain(|id| Some(id) != data.tool_use_id.as_ref());
                if let Some(turn) = &mut self.turn {
                    turn.open.tools.retain(|id| Some(id) != data.tool_use_id.as_ref());
                }
            }
            "subagent-started" => {
                self.subagents.extend(data.agent_id.map(|id| (id, data.tool_use_id)));
            }
            "subagent-completed" => {
                self.subagents.retain(|(id, _)| Some(id) != data.agent_id.as_ref());
            }
            "approval-required" => {
                self.approvals.extend(data.approval_id.map(|id| (id, data.tool_use_id)));
            }
            "approval-resolved" | "approval-withdrawn" => {
                self.granted.restore(data.permissions.into_iter().flatten());
                self.approvals.retain(|(id, _)| Some(id) != data.approval_id.as_ref());
            }
            "todos-updated" => {
                let todos = data.todos.unwrap_or_default();
                self.todos =
                    todos.into_iter().map(|todo| (todo.id, todo.text, todo.status)).collect();
            }
            _ => {}
        }
    }

    fn described(&mut self, event: &str, data: Data<'_>) {
        if event == "session-created" {
            self.created_at = data.timestamp;
        }
        self.status = data.status.unwrap_or_default();
        match data.reason.as_deref() {
            Some("archived") => self.archived = true,
            Some("unarchived") => self.archived = false,
            _ => {}
        }
        self.forked_from = data.forked_from.or(self.forked_from.take());
        self.working_dir = data.working_dir.unwrap_or(std::mem::take(&mut self.working_dir));
        self.agent = data.agent.unwrap_or(std::mem::take(&mut self.agent));
        if let Some(conversation) = data.conversation
            && conversation != self.conversation
        {
            (self.conversation, self.entry) = (conversation, None);
        }
        self.resumable = data.resumable.unwrap_or(self.resumable);
        // What has begun is nobody's copy any more.
        self.fork = data.fork.or(self.fork.take()).filter(|_| !self.resumable);
        (self.model, self.mode, self.name) = (data.model, data.mode, data.name);
    }

    fn queued(&mut self, seq: u64, data: Data<'_>, beside: &dyn Beside) {
        let Some(id) = data.prompt_id else { return };
        let command = data.command.or_else(|| beside.large(seq)).unwrap_or_default();
        let images = data.images.and_then(|_| beside.images(seq));
        let images: Option<Vec<Image>> = images.and_then(|json| document::read(&json).ok());
        let images = images.unwrap_or_default();
        let position = data.position.and_then(|raw| raw.get().parse().ok()).unwrap_or(u32::MAX);
        self.last_prompt =
            Some(command[..command.floor_char_boundary(LAST_PROMPT_SIZE)].to_owned());
        if self.recent.len() == PROMPT_IDS_KEPT {
            self.recent.remove(0);
        }
        let digest = Prompts::digest(&command, &images);
        let (cursor, end) = (seq - 1, 0);
        self.recent.push(Recent { id: id.clone(), command: digest, cursor, position, end });
        let by = data.by.unwrap_or_default();
        let prompt = Waiting { id, command, images, by, client_id: data.client_id };
        self.queue.insert((position as usize).min(self.queue.len()), prompt);
    }

    fn started(&mut self, data: Data<'_>) {
        let Some(id) = data.turn_id else { return };
        let number = id.strip_prefix("turn-").and_then(|number| number.parse().ok());
        self.turns = number.unwrap_or(self.turns.saturating_add(1));
        let at = self.queue.iter().position(|prompt| Some(&prompt.id) == data.prompt_id.as_ref());
        let prompt = at.map(|at| self.queue.remove(at));
        let (started_at, open) = (data.timestamp, OpenTurn::default());
        self.turn = Some(Running { id, prompt, started_at, open });
    }

    fn ended(&mut self, seq: u64, data: Data<'_>) {
        let recent = self.recent.iter_mut().rev();
        if let Some(recent) =
            recent.into_iter().find(|one| Some(&one.id) == data.prompt_id.as_ref())
        {
            recent.end = seq;
        }
        if data.turn_id.is_some() {
            // Those of a background subagent go on; all others have ended by now.
            self.tools.extend(self.turn.take().into_iter().flat_map(|turn| turn.open.tools));
        } else {
            self.queue.retain(|prompt| Some(&prompt.id) != data.prompt_id.as_ref());
        }
        self.entry = data.conversation_entry.or(self.entry.take());
        if let Some(total) = data.total_cost_usd {
            (self.total_cost_usd, self.agent_cost_usd) = (total, total);
        }
        let usage = data.usage.map(RawValue::get).filter(|usage| *usage != "null");
        self.usage = usage.map(str::to_owned).or(self.usage.take());
    }

    fn output(&mut self, data: Data<'_>) {
        let Some(turn) = &mut self.turn else { return };
        let (Some(message_id), Some(block)) = (data.message_id, data.block) else { return };
        // What an agent says that has no messages ends with its turn; its errors are no message.
        let is_block = message_id != turn.id && data.kind.as_deref() != Some("stderr");
        let text = data.content.and_then(|raw| document::read::<String>(raw.get()).ok());
        let (Some(text), true) = (text, is_block) else { return };
        let blocks = &mut turn.open.blocks;
        let at = blocks.iter().position(|open| open.0 == message_id && open.1 == block);
        let at = at.unwrap_or_else(|| {
            let thinking = data.kind.as_deref() == Some("thinking");
            blocks.push((message_id, block, thinking, String::new()));
            blocks.len() - 1
        });
        let kept = &mut blocks[at].3;
        if kept.len() + text.len() <= BLOCK_SIZE_MAX {
            kept.push_str(&text);
        }
    }

    fn block(&mut self, data: Data<'_>) {
        let Some(turn) = &mut self.turn else { return };
        let replaced = data.replaces.unwrap_or_default();
        turn.open.blocks.retain(|(message, block, _, _)| {
            let is_it = Some(message) == data.message_id.as_ref() && Some(*block) == data.block;
            !is_it && !replaced.contains(message)
        });
    }
}

/// A session as it was found on disk.
#[derive(Debug)]
pub struct Found {
    /// What its journal tells.
    pub snapshot: Snapshot,
    /// Where its frames are.
    pub journal: Journal,
    /// Frames that were shown may have been cut from its end.
    pub torn: bool,
    /// Frames that were shown may be missing, so what waits by its journal may have run.
    pub queue_in_doubt: bool,
}

impl Server {
    /// Takes in the sessions that were found, before anybody can connect.
    pub fn restore(&mut self, mut found: Vec<Found>) {
        found.sort_by_key(|found| found.snapshot.created_at);
        self.publisher.restores = true; // A restart is nothing that happens in a session.
        for one in found {
            if self.sessions.len() == self.sessions.capacity() as usize {
                let told = vec![("session", one.snapshot.session_id)];
                self.log(crate::core::effect::Level::Error, "journal", "no room for session", told);
                continue;
            }
            let (torn, queue_in_doubt) = (one.torn, one.queue_in_doubt);
            let (key, tools) = self.restore_session(one);
            if torn {
                self.tell_cut_tail(key);
            }
            if queue_in_doubt {
                self.give_up_queue(key);
            }
            self.settle(key, &tools);
        }
        self.publisher.restores = false;
    }

    fn restore_session(&mut self, found: Found) -> (Key, Vec<OpenTool>) {
        let Found { snapshot, journal, .. } = found;
        let agent = self.agent_index(&snapshot.agent);
        self.session_number += 1;
        let nowhere = Key { kind: 0, generation: 0, index: 0 };
        let mut feed = Feed::new(nowhere, self.session_number, snapshot.session_id, 1024);
        self.keeper.total += journal.size();
        let ring = Ring::new_at(self.limits.ring_size, journal.written(), journal.last_seq());
        feed.log = Log::found(ring, journal);
        feed.active_at = snapshot.active_at;
        let now_ms = self.now_ms;
        let prompt = |waiting: Waiting| Prompt {
            id: waiting.id,
            command: waiting.command,
            images: waiting.images,
            by: waiting.by,
            client_id: waiting.client_id,
            queued_at: now_ms,
        };
        let mut prompts = Prompts::default();
        prompts.queue.extend(snapshot.queue.into_iter().map(prompt));
        for recent in &snapshot.recent {
            let answer = (recent.cursor, recent.end);
            prompts.remember_digest(&recent.id, &recent.command, answer, recent.position);
        }
        self.queue_size += prompts.size();
        let mut approvals = Approvals::default();
        approvals.open.extend(snapshot.approvals.into_iter().map(approval));
        let turn = snapshot.turn.map(|running| {
            let ran_ms = self.wall_ms.saturating_sub(running.started_at);
            let prompt_id = running.prompt.as_ref().map(|prompt| prompt.id.clone());
            feed.scope.turn = Some(Box::new(InTurn { turn_id: running.id.clone(), prompt_id }));
            let started_at = now_ms.saturating_sub(ran_ms);
            let asked = running.prompt.map(prompt);
            Box::new(Turn::restored(running.id, asked, started_at, running.open))
        });
        let never = snapshot.turns == 0 && snapshot.status == Status::Idle.as_str();
        let unusual = Unusual {
            name: snapshot.name,
            model: snapshot.model.map(|model| self.words.one(&model)),
            mode: snapshot.mode.map(|mode| self.words.one(&mode)),
            forked_from: snapshot.forked_from,
            granted: snapshot.granted,
            todos: snapshot.todos.into_iter().map(todo).collect(),
            ..Unusual::default()
        };
        let session = Session {
            feed,
            unusual: unusual.into(),
            working_dir: self.dirs.one(Path::new(&snapshot.working_dir)),
            agent,
            model_in_use: None,
            mode_in_use: None,
            created_at: snapshot.created_at,
            last_prompt: snapshot.last_prompt.map(String::into_boxed_str),
            prompts,
            approvals: approvals.into(),
            turn,
            turns: snapshot.turns,
            process: None,
            process_state: if never { Process::Never } else { Process::Gone },
            conversation: Conversation {
                id: snapshot.conversation.into(),
                begun: snapshot.resumable,
                entry: snapshot.entry,
                fork: snapshot.fork.into(),
                retried: false,
            },
            told: Status::parse(&snapshot.status),
            failed: snapshot.status == Status::Failed.as_str(),
            deleting: false,
            total_cost_usd: snapshot.total_cost_usd,
            agent_cost_usd: snapshot.agent_cost_usd,
            usage: snapshot.usage.map(String::into_boxed_str),
            subagents: snapshot.subagents.into_iter().map(subagent).collect::<Vec<_>>().into(),
            waits_for_agent: false,
            told_full: false,
            idle_at: now_ms,
            archived: snapshot.archived,
        };
        let tools = snapshot.tools.into_iter().map(|id| OpenTool::restored(id, now_ms));
        let tools: Vec<OpenTool> = tools.collect();
        let key = self.sessions.insert(session).expect("the caller saw to the room");
        if let Some(session) = self.sessions.get_mut(key) {
            session.feed.key = key;
            self.by_id.insert(&self.sessions, key);
        }
        (key, tools)
    }

    /// A prompt runs at most once. Of those that wait by a journal that is not complete it is not known whether they
    /// have run.
    fn give_up_queue(&mut self, key: Key) {
        let Some(session) = self.sessions.get_mut(key) else { return };
        let queue = std::mem::take(&mut session.prompts.queue);
        for prompt in queue.iter() {
            self.queue_size -= prompt.size();
            let feed = &mut session.feed;
            let seq = self.publisher.publish_apart(feed, EventKind::PromptFailed, |object| {
                let sentence = "it waited, and events that may have told that it ran were lost; \
                                it is not run again";
                holes::lost_prompt(object, &prompt.id, sentence);
            });
            session.prompts.ended(&prompt.id, seq);
        }
    }

    /// Ends what had started and not ended, tool calls that outlived their turn among it, and lets
    /// go on what waits.
    fn settle(&mut self, key: Key, tools: &[OpenTool]) {
        self.withdraw_approvals(key, "server_restarted", |_| true);
        if let Some(session) = self.sessions.get_mut(key) {
            let (feed, now_ms) = (&mut session.feed, self.now_ms);
            tools.iter().for_each(|tool| tool.lost(&mut self.publisher, feed, now_ms));
        }
        self.end_subagents(key);
        let sentence = "the server was restarted in the middle of the turn".to_owned();
        let failure = Some(Failure { code: "server_restarted", sentence });
        self.end_turn(key, TurnEnd { failure, ..TurnEnd::default() });
        if let Some(session) = self.sessions.get_mut(key)
            && session.conversation.id.is_empty()
        {
            session.conversation.id = self.random.uuid().into();
        }
        self.after(key, Some("server_restarted"));
    }

    /// The agent of that name; one that cannot be started if nobody configured it.
    fn agent_index(&mut self, name: &str) -> usize {
        if let Some(at) = self.config.agents.iter().position(|agent| agent.name == name) {
            return at;
        }
        let sentence =
            format!("the agent \"{name}\" is not configured any more; add it with --agent");
        let program = Err(sentence);
        let dialect = Dialect::Claude;
        self.config.agents.push(AgentConfig { name: name.to_owned(), dialect, program });
        self.config.commands.push(String::new());
        self.facts.push(Default::default());
        self.config.agents.len() - 1
    }

    /// A session as a snapshot: JSON. It holds what every event published so far has told.
    pub(super) fn snapshot(&self, session: &Session) -> Vec<u8> {
        let waiting = |prompt: &Prompt| Waiting {
            id: prompt.id.clone(),
            command: prompt.command.clone(),
            images: prompt.images.clone(),
            by: prompt.by.clone(),
            client_id: prompt.client_id.clone(),
        };
        let wall = |ms: u64| self.wall_ms.saturating_sub(self.now_ms.saturating_sub(ms));
        let turn = session.turn.as_ref().map(|turn| Running {
            id: turn.id.clone(),
            prompt: turn.prompt.as_ref().map(waiting),
            started_at: wall(turn.started_at),
            open: turn.open(),
        });
        let recent = session.prompts.recent().map(|(id, command, taken)| Recent {
            id: id.to_owned(),
            command,
            cursor: taken.cursor,
            position: taken.position,
            end: taken.end,
        });
        let approvals = session.approvals.open.iter();
        let subagents = session.subagents.iter();
        let todos = session.unusual.todos.iter();
        let snapshot = Snapshot {
            format: FORMAT,
            seq: session.feed.log.newest_seq(),
            position: session.feed.log.ring.head(),
            evicted: session.feed.log.journal.as_ref().map_or(0, Journal::evicted),
            session_id: session.id().to_owned(),
            name: session.unusual.name.as_deref().map(str::to_owned),
            working_dir: session.working_dir.to_string_lossy().into_owned(),
            agent: self.config.agents[session.agent].name.clone(),
            model: session.unusual.model.as_deref().map(str::to_owned),
            mode: session.mode().map(str::to_owned),
            created_at: session.created_at,
            active_at: session.feed.active_at,
            last_prompt: session.last_prompt.as_deref().map(str::to_owned),
            status: session.told.as_str().to_owned(),
            conversation: session.conversation.id.to_string(),
            resumable: session.conversation.begun,
            entry: session.conversation.entry.clone(),
            fork: Option::clone(&session.conversation.fork),
            forked_from: session.unusual.forked_from.as_deref().map(str::to_owned),
            archived: session.archived,
            granted: session.unusual.granted.clone(),
            total_cost_usd: session.total_cost_usd,
            agent_cost_usd: session.agent_cost_usd,
            usage: session.usage.as_deref().map(str::to_owned),
            turns: session.turns,
            queue: session.prompts.queue.iter().map(waiting).collect(),
            recent: recent.collect(),
            turn,
            approvals: approvals.map(|one| (one.id.clone(), one.tool_use_id.clone())).collect(),
            subagents: subagents
                .map(|one| (one.agent_id.clone(), one.tool_use_id.clone()))
                .collect(),
            tools: session
                .subagents
                .iter()
                .flat_map(|one| one.tools.iter().map(|tool| tool.id().to_owned()))
                .collect(),
            todos: todos
                .map(|todo| (todo.id.clone(), todo.text.clone(), todo.status.clone()))
                .collect(),
        };
        serde_json::to_vec(&snapshot).unwrap_or_default()
    }
}

/// An approval of which only the end is still to be told.
fn approval((id, tool_use_id): (String, Option<String>)) -> Approval {
    Approval {
        id,
        request_id: String::new(),
        kind: ApprovalKind::Tool,
        tool: String::new(),
        title: String::new(),
        input: String::new(),
        input_hash: String::new(),
        description: None,
        suggestions: None,
        tool_use_id,
        agent_id: None,
    }
}

fn subagent((agent_id, tool_use_id): (String, Option<String>)) -> Subagent {
    Subagent { agent_id, tool_use_id, background: false, tools: Vec::new() }
}

fn todo((id, text, status): (String, String, String)) -> TodoItem {
    TodoItem { id, text, status }
}
