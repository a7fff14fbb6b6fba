//! What crosses the border between the core and the shell, other than bytes: effects out, facts in.
//!
//! The core never waits for an effect. What became of it comes back as a fact, if anything does.

use crate::base::arena::Key;
use crate::core::access::tokens::Tokens;
use crate::core::event::Filter;
use crate::core::journal::{Place, SegmentId};
use crate::core::metrics::Sample;
use crate::core::publisher::Beside;
use crate::core::tails::EventPart;
use std::path::PathBuf;
use std::sync::Arc;

/// Something that only the shell can do. Drained after every input.
#[derive(Debug)]
pub enum Effect {
    /// Start an agent's process; answered by `Server::agent_spawned` or `agent_spawn_failed`.
    Spawn(Box<Spawn>),
    /// Close the agent's standard input.
    CloseStdin(Key),
    /// Signal the agent's process group.
    Signal(Key, Signal),
    /// The agent is over: close what is left of its pipes and forget it.
    ReleaseAgent(Key),
    /// Work for the disk thread; answered by `Server::disk_replied`.
    Disk(DiskRequest),
    /// Close the connection; its key is stale already.
    Close(Key),
    /// Everything is sent: half-close the connection, and read on until its client does too.
    EndOutput(Key),
    /// There is room again for what this client sent: read on, if it has.
    Read(Key),
    /// Close the listening sockets: the server drains.
    CloseListeners,
    /// Say whose process is at the other end of a connection: one of an agent's, or not.
    /// Answered by `Server::asker_known`.
    WhoIs(Key),
    /// Run one of the operator's commands, by its number, with this JSON on its standard input.
    Hook {
        /// Which.
        hook: usize,
        /// An object.
        json: Vec<u8>,
    },
    /// Ask the kernel what our processes use, for this connection. Answered by
    /// [`DiskReply::Sampled`].
    Sample(Key),
    /// A line for the operator.
    Log(LogLine),
}

/// Whose process asks something of us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asker {
    /// None that an agent started, as far as the kernel tells.
    Outside,
    /// One inside the process tree of this agent, if it can be said of which.
    Agent(Option<Key>),
    /// Nobody holds the connection any more, so nobody can be told from an agent.
    Gone,
}

/// How an agent is started.
#[derive(Debug)]
pub struct Spawn {
    /// The agent's slot.
    pub agent: Key,
    /// What to run.
    pub program: Program,
    /// Its arguments, the program's name not among them.
    pub arguments: Vec<String>,
    /// Resolved again by the shim, which refuses if it changed or left the roots.
    pub working_dir: PathBuf,
    /// The session, for the marker by which descendants are found.
    pub session_id: String,
}

/// What an agent's process runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Program {
    /// The file at this path.
    Path(PathBuf),
    /// This program's own demo agent.
    Demo,
}

/// The two signals of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// By itself, with this status.
    Code(i32),
    /// By this signal.
    Signal(i32),
}

/// One of an agent's two output pipes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Work for the one helper thread, which may block.
#[derive(Debug)]
pub enum DiskRequest {
    /// Resolve a directory and check it against the roots.
    Directory {
        /// Comes back with the reply.
        errand: u64,
        /// As the client wrote it.
        path: PathBuf,
    },
    /// List the directories in one.
    List {
        /// Comes back with the reply.
        errand: u64,
        /// As the client wrote it.
        path: PathBuf,
    },
    /// Look for what a directory would make an agent run by itself.
    LookForTrust {
        /// Comes back with the reply.
        errand: u64,
        /// The directory, canonical.
        path: PathBuf,
    },
    /// Keep that a directory is trusted as it is; not answered.
    RememberTrust {
        /// The directory, canonical.
        path: PathBuf,
        /// The hash of what it said.
        hash: String,
    },
    /// Keep which read cookie a token has; not answered.
    RememberCookie {
        /// The line to keep.
        line: String,
    },
    /// Read the token file again.
    ReadTokens,
    /// Ask the kernel what we and these agents' processes use.
    Sample {
        /// Comes back with the reply.
        connection: Key,
        /// Agents and their processes.
        agents: Vec<(Key, u32)>,
    },
    /// Kill what an ended agent left behind, wherever it moved to.
    Sweep {
        /// The ended agent.
        agent: Key,
        /// Its session, which the marker names.
        session_id: String,
    },
    /// Write what was published since the last time. Goes before everything else that waits.
    Append(Box<Batch>),
    /// Read frames of journals.
    Read(Box<Read>),
    /// Read a large field that stands beside a journal.
    Large {
        /// Who asked.
        connection: Key,
        /// Of which event.
        part: EventPart,
        /// Where its frame is, should it have no large field.
        source: Box<Source>,
        /// A piece of it, from this byte on.
        from: u64,
    },
    /// Read a page of one journal, backwards.
    Page(Box<Page>),
    /// Remove the oldest segment of a journal.
    Drop {
        /// The session.
        session_id: String,
        /// The segment.
        segment: SegmentId,
        /// Large fields of events up to this number go with it.
        until: u64,
        /// To be written first: what of the session no segment will tell any more.
        snapshot: Option<Vec<u8>>,
    },
    /// Remove everything of a session.
    Erase {
        /// The session.
        session_id: String,
        /// The number of its newest event.
        last_seq: u64,
    },
}

impl DiskRequest {
    /// Whether it goes before everything else: somebody waits for it before he sees anything.
    /// What is trusted goes before the event that says so, since its answer waits for that one.
    pub fn is_urgent(&self) -> bool {
        matches!(self, DiskRequest::Append(_) | DiskRequest::RememberTrust { .. })
    }

    /// Whether it is about somebody else's files or processes, which may take any time.
    pub fn is_chore(&self) -> bool {
        matches!(
            self,
            DiskRequest::Directory { .. }
                | DiskRequest::List { .. }
                | DiskRequest::LookForTrust { .. }
                | DiskRequest::Sweep { .. }
        )
    }
}

/// What a directory brings that an agent would run by itself.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Brought {
    /// What that is, a line each. None: it brings nothing.
    pub commands: Vec<String>,
    /// The hash of all that it says.
    pub hash: String,
    /// All of it was read and understood: the hash stands for it, and may be remembered.
    pub is_clear: bool,
}

/// Frames of one turn of the loop, of all sessions, on their way to the disk. The buffers change
/// hands: they come back with the reply.
#[derive(Debug, Default)]
pub struct Batch {
    /// The frames, a session's after each other.
    pub bytes: Vec<u8>,
    /// What of it is whose.
    pub parts: Vec<Part>,
    /// Large fields of these frames: written before them.
    pub beside: Vec<Beside>,
    /// The number of the newest event that is durable once this is.
    pub last_seq: u64,
    /// It must reach the medium before the reply.
    pub sync: bool,
    /// Once it is written, the journals hold everything again that was shown.
    pub heals: bool,
}

impl Batch {
    /// Forgets what it held, and keeps the memory.
    pub fn begin(&mut self) {
        self.bytes.clear();
        self.parts.clear();
    }
}

/// One session's part of a [`Batch`].
#[derive(Debug)]
pub struct Part {
    /// The session's slot.
    pub key: Key,
    /// The session.
    pub session_id: Arc<str>,
    /// Where it goes.
    pub place: Place,
    /// The position of its first byte.
    pub start: u64,
    /// Where its bytes begin in the batch; they end with the next part's.
    pub from: usize,
    /// More is to be expected soon: the file may stay open.
    pub stays_open: bool,
    /// To be written once the segment has begun.
    pub snapshot: Option<Vec<u8>>,
}

/// A piece of a replay: the next frames of some journals, in the order of their numbers.
#[derive(Debug, Default)]
pub struct Read {
    /// The reader.
    pub connection: Option<Key>,
    /// Frames of several journals are merged by number; else there is one source.
    pub merges: bool,
    /// The journals; what is left of them comes back.
    pub sources: Vec<Source>,
    /// Frames up to this number are passed over.
    pub after: u64,
    /// The piece: whole frames, but for the first if the position stands within one.
    pub bytes: Vec<u8>,
    /// The position of its first byte, where there is one source.
    pub start: u64,
    /// It begins within a frame.
    pub within: bool,
    /// What of it is not what was written, for the log.
    pub damage: Option<String>,
}

/// The end of a prompt that somebody asked for once more.
#[derive(Debug)]
pub struct PromptEnd {
    /// Its session.
    pub session: Key,
    /// The prompt.
    pub prompt_id: String,
    /// The number of its last event.
    pub seq: u64,
    /// The cursor of its first answer.
    pub cursor: u64,
    /// The position of its first answer.
    pub position: u32,
}

/// A page of a journal's past.
#[derive(Debug)]
pub struct Page {
    /// Who asked.
    pub connection: Key,
    /// Who asked for the end of a prompt: that is the one frame that is wanted.
    pub awaited: Option<Box<PromptEnd>>,
    /// The journal, all of it or what is wanted of it.
    pub source: Source,
    /// Frames before this number,
    pub before: u64,
    /// at most so many,
    pub limit: usize,
    /// and no more bytes than this, unless one frame alone has more,
    pub size_max: usize,
    /// of these kinds.
    pub filter: Filter,
    /// The message and the number of each block whose text is still coming: a compact view tells it.
    pub open: Vec<(String, u32)>,
    /// The frames, oldest first: at the beginning, those that memory holds.
    pub bytes: Vec<u8>,
    /// There are more before them.
    pub more: bool,
    /// How many frames there are.
    pub found: usize,
    /// What of it is not what was written, for the log.
    pub damage: Option<String>,
}

/// What is to be read of one journal.
#[derive(Debug)]
pub struct Source {
    /// The session.
    pub session_id: String,
    /// Its segments from `position` on, and where each ends.
    pub segments: Vec<(SegmentId, u64)>,
    /// From where to read.
    pub position: u64,
    /// Up to where.
    pub end: u64,
    /// No frame from `position` on has a lower number.
    pub least_seq: u64,
}

/// A piece of one event's large field, or its frame.
#[derive(Debug)]
pub enum Fetched {
    /// The piece.
    Piece {
        /// What the field is.
        media: Media,
        /// The bytes of all of it.
        length: u64,
        /// Those of this piece.
        bytes: Vec<u8>,
    },
    /// The frame: it has no large field.
    Frame(Vec<u8>),
}

/// What a large field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Media {
    /// The text of a JSON string.
    Text,
    /// JSON.
    Json,
    /// An image, as its client sent it.
    Image,
}

/// Why a batch was not written.
#[derive(Debug)]
pub struct AppendFailure {
    /// The system's words, with the file.
    pub sentence: String,
    /// The medium may not hold what was written before either.
    pub in_doubt: bool,
}

/// Why there is no piece.
#[derive(Debug)]
pub enum ReadFailure {
    /// The journal does not hold it any more.
    Gone,
    /// It cannot be read, or is not what was written.
    Damaged(String),
}

/// What the helper thread found.
#[derive(Debug)]
pub enum DiskReply {
    /// To [`DiskRequest::Directory`].
    Directory {
        /// That of the request.
        errand: u64,
        /// The canonical path.
        result: Result<PathBuf, DirectoryProblem>,
    },
    /// To [`DiskRequest::List`].
    Listed {
        /// That of the request.
        errand: u64,
        /// The canonical path and the names of the directories in it, sorted.
        result: Result<(PathBuf, Vec<String>), DirectoryProblem>,
    },
    /// To [`DiskRequest::LookForTrust`].
    Trust {
        /// That of the request.
        errand: u64,
        /// What the directory says.
        brought: Brought,
    },
    /// To [`DiskRequest::RememberTrust`] and [`DiskRequest::RememberCookie`]: the system's words,
    /// if it could not be kept.
    Remembered(Option<String>),
    /// To [`DiskRequest::ReadTokens`]: who has a token now, or a sentence that says why that
    /// cannot be said.
    Tokens(Result<Tokens, String>),
    /// To [`DiskRequest::Sweep`].
    Swept {
        /// That of the request.
        agent: Key,
        /// Processes that were killed in this pass.
        killed: u32,
    },
    /// To [`DiskRequest::Sample`].
    Sampled(Key, Box<Sample>),
    /// To [`DiskRequest::Append`].
    Appended(Box<Batch>, Result<(), AppendFailure>),
    /// To [`DiskRequest::Read`].
    Read(Box<Read>, Result<(), ReadFailure>),
    /// To [`DiskRequest::Page`].
    Page(Box<Page>, Result<(), ReadFailure>),
    /// To [`DiskRequest::Large`].
    Large {
        /// Who asked.
        connection: Key,
        /// For what.
        part: EventPart,
        /// What there is.
        result: Result<Fetched, ReadFailure>,
    },
    /// To [`DiskRequest::Drop`]: what went wrong, if anything did.
    Dropped(Result<(), String>),
    /// To [`DiskRequest::Erase`].
    Erased {
        /// The session.
        session_id: String,
        /// The number of its newest event.
        last_seq: u64,
        /// What went wrong, if anything did.
        result: Result<(), String>,
    },
}

/// Why a directory cannot be a session's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryProblem {
    /// It does not start with `/`.
    NotAbsolute,
    /// There is nothing of that name.
    Missing,
    /// It is a file.
    NotADirectory,
    /// It is in none of the roots, symbolic links and `..` resolved.
    OutsideRoots,
    /// The system's words.
    Unreadable(String),
}

/// A line for the operator's log. Rate-limited by `message`.
#[derive(Debug)]
pub struct LogLine {
    /// How bad it is.
    pub level: Level,
    /// Which part of the server speaks.
    pub area: &'static str,
    /// What happened; also the kind by which lines are limited.
    pub message: &'static str,
    /// Names and values.
    pub fields: Vec<(&'static str, String)>,
}

/// How bad a log line is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Somebody must act.
    Error,
    /// Somebody should look.
    Warn,
    /// Normal life.
    #[default]
    Info,
    /// For whoever hunts a bug.
    Debug,
}
