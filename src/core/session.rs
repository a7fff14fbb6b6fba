//! One session: a directory, a conversation with an agent, and the log of what happened.
//!
//! Its status is derived, never stored: what is told is compared with what is, after every input.
//! How its agent is kept alive, and who may ask for what, it does not know.

use crate::base::arena::Key;
use crate::base::seldom::{Blank, Seldom};
use crate::core::approvals::{Approvals, Granted};
use crate::core::prompts::Prompts;
use crate::core::publisher::Feed;
use crate::core::turn::{OpenTool, Turn};
use std::path::Path;
use std::sync::Arc;

/// What a session is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// Nothing, and it never had an agent, or its agent waits for a prompt.
    Idle,
    /// Its agent is being started.
    Starting,
    /// A turn is under way.
    Running,
    /// A turn is under way and a human is asked.
    Waiting,
    /// It is being deleted.
    Stopping,
    /// It has no process; the next prompt starts one.
    Suspended,
    /// Its last agent failed; the next prompt starts another.
    Failed,
    /// It is over.
    Closed,
}

impl Status {
    /// Reads what [`Status::as_str`] writes; anything else is a session that has no process.
    pub fn parse(word: &str) -> Status {
        let all = [Status::Idle, Status::Starting, Status::Running, Status::Waiting];
        let all = all.into_iter().chain([Status::Stopping, Status::Failed, Status::Closed]);
        all.into_iter().find(|status| status.as_str() == word).unwrap_or(Status::Suspended)
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Status::Idle => "idle",
            Status::Starting => "starting",
            Status::Running => "running",
            Status::Waiting => "waiting",
            Status::Stopping => "stopping",
            Status::Suspended => "suspended",
            Status::Failed => "failed",
            Status::Closed => "closed",
        }
    }
}

/// What a session knows of its conversation, to go on with it in another process.
#[derive(Debug)]
pub struct Conversation {
    /// The agent's name for it: a UUID that we chose, until the agent says another.
    pub id: Box<str>,
    /// The agent's name for its newest entry, as far as the last whole turn goes.
    pub entry: Option<String>,
    /// It is to begin as a copy of another one.
    pub fork: Seldom<Option<Fork>>,
    /// A turn has begun in it, so that it can be resumed.
    pub begun: bool,
    /// The other of `--session-id` and `--resume` was tried after a refusal.
    pub retried: bool,
}

/// What a conversation begins as a copy of.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Fork {
    /// The other conversation.
    pub conversation: String,
    /// Its last entry when the copy was asked for: later ones are not copied. None: an agent that
    /// names none.
    pub entry: Option<String>,
}

/// How the process of a session is doing, as far as its status is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Process {
    /// There never was one.
    Never,
    /// It is being started.
    Starting,
    /// It takes prompts.
    Ready,
    /// It is leaving, or has left.
    Leaving,
    /// There is none any more.
    Gone,
}

/// A subagent that has not ended.
#[derive(Debug)]
pub struct Subagent {
    /// The agent's name for it.
    pub agent_id: String,
    /// The tool call that started it.
    pub tool_use_id: Option<String>,
    /// It outlives its turn.
    pub background: bool,
    /// Its open tool calls, while no turn is under way.
    pub tools: Vec<OpenTool>,
}

/// An entry of the agent's list of things to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TodoItem {
    /// Unique within the list.
    pub id: String,
    /// What is to be done.
    pub text: String,
    /// `pending`, `in_progress` or `completed`.
    pub status: String,
}

/// What most sessions have nothing of.
#[derive(Debug, Default)]
pub struct Unusual {
    /// The human's name for it.
    pub name: Option<String>,
    /// The model that was asked for.
    pub model: Option<Arc<str>>,
    /// The permission mode that was asked for.
    pub mode: Option<Arc<str>>,
    /// The session that it is a copy of.
    pub forked_from: Option<String>,
    /// Rules that were granted for this session, to be granted to its next agent too.
    pub granted: Granted,
    /// The agent's list of things to do.
    pub todos: Vec<TodoItem>,
    /// What a human last said of its directory and no file keeps: the hash of what it said then,
    /// and whether that was allowed.
    pub trust_answer: Option<(String, bool)>,
    /// When it was closed, in milliseconds of the monotonic clock.
    pub closed_at: Option<u64>,
    /// When it was last told that its agent tried to use us, on the same clock.
    pub self_access_told_at: Option<u64>,
}

impl Blank for Unusual {
    const BLANK: &'static Unusual = &Unusual {
        name: None,
        model: None,
        mode: None,
        forked_from: None,
        granted: Granted::NONE,
        todos: Vec::new(),
        trust_answer: None,
        closed_at: None,
        self_access_told_at: None,
    };

    fn is_blank(&self) -> bool {
        let texts = [&self.name, &self.forked_from];
        let times = [self.closed_at, self.self_access_told_at];
        let asked = [&self.model, &self.mode];
        let lists = self.granted.is_empty() && self.todos.is_empty();
        lists
            && asked.iter().all(|word| word.is_none())
            && texts.iter().all(|text| text.is_none())
            && self.trust_answer.is_none()
            && times == [None; 2]
    }

    fn shrink(&mut self) {
        self.granted.shrink();
        self.todos.shrink_to_fit();
    }
}

/// A session's slot. Thousands rest: what most of them have nothing of takes a word, and what they
/// say alike is shared.
pub struct Session {
    /// Its log and what its events have in common, its key and its id among it.
    pub feed: Feed,
    /// Where its agent works: canonical.
    pub working_dir: Arc<Path>,
    /// Its agent among the configured ones.
    pub agent: usize,
    /// The model that its agent said it uses.
    pub model_in_use: Option<Arc<str>>,
    /// The mode that its agent said it is in.
    pub mode_in_use: Option<Arc<str>>,
    /// When it was created, in milliseconds since 1970.
    pub created_at: u64,
    /// The beginning of the last prompt.
    pub last_prompt: Option<Box<str>>,
    /// Prompts that wait.
    pub prompts: Prompts,
    /// Approvals that are open.
    pub approvals: Seldom<Approvals>,
    /// The turn under way. Apart, since most sessions have none.
    pub turn: Option<Box<Turn>>,
    /// Turns begun so far.
    pub turns: u64,
    /// Its agent's process.
    pub process: Option<Key>,
    /// How that process is doing.
    pub process_state: Process,
    /// What it would resume.
    pub conversation: Conversation,
    /// The status that was last told.
    pub told: Status,
    /// Its last agent failed.
    pub failed: bool,
    /// It is being deleted.
    pub deleting: bool,
    /// What the conversation cost, in US dollars.
    pub total_cost_usd: f64,
    /// What the agent said that its conversation cost: it counts on, we take differences.
    pub agent_cost_usd: f64,
    /// Tokens of the last turn: JSON.
    pub usage: Option<Box<str>>,
    /// Subagents that have not ended.
    pub subagents: Seldom<Vec<Subagent>>,
    /// It waits for a process to become free.
    pub waits_for_agent: bool,
    /// It was told that it waits because as many run as may.
    pub told_full: bool,
    /// It is put away: no agent, and not in lists.
    pub archived: bool,
    /// When its agent last became idle, in milliseconds of the monotonic clock.
    pub idle_at: u64,
    /// What most sessions have nothing of.
    pub unusual: Seldom<Unusual>,
}

impl Session {
    /// Its own key.
    pub fn key(&self) -> Key {
        self.feed.key
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.feed.scope.session_id
    }

    /// What it is doing.
    pub fn status(&self) -> Status {
        if self.unusual.closed_at.is_some() {
            return Status::Closed;
        }
        if self.deleting {
            return Status::Stopping;
        }
        if !self.approvals.open.is_empty() {
            return Status::Waiting;
        }
        if self.turn.is_some() {
            return Status::Running;
        }
        match self.process_state {
            Process::Starting => Status::Starting,
            Process::Ready => Status::Idle,
            _ if self.failed => Status::Failed,
            Process::Never => Status::Idle,
            Process::Leaving | Process::Gone => Status::Suspended,
        }
    }

    /// Gives back the memory that only a session with an agent needs. Its log must be on disk.
    pub fn rest(&mut self) {
        self.feed.rest();
        self.prompts.rest();
        self.approvals.rest();
        self.subagents.rest();
        self.unusual.rest();
        self.conversation.fork.rest();
        if let Some(entry) = &mut self.conversation.entry {
            entry.shrink_to_fit();
        }
    }

    /// The permission mode of its agent, or of the next one.
    pub fn mode(&self) -> Option<&str> {
        self.mode_in_use.as_deref().or(self.unusual.mode.as_deref())
    }

    /// Whether this prompt waits or runs.
    pub fn has_prompt(&self, id: &str) -> bool {
        let running = self.turn.as_ref().and_then(|turn| turn.prompt.as_ref());
        self.prompts.queue.iter().chain(running).any(|prompt| prompt.id == id)
    }

    /// Whether its agent could be stopped now without a loss.
    pub fn is_dispensable(&self) -> bool {
        self.turn.is_none()
            && self.prompts.queue.is_empty()
            && self.approvals.open.is_empty()
            && self.process_state == Process::Ready
    }
}
