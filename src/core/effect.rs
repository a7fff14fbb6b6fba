//! What crosses the border between the core and the shell, other than bytes: effects out, facts in.
//!
//! The core never waits for an effect. What became of it comes back as a fact, if anything does.

use crate::base::arena::Key;
use std::path::PathBuf;

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
    /// Close the listening sockets: the server drains.
    CloseListeners,
    /// Say whose process is at the other end of a connection: one of an agent's, or not.
    /// Answered by `Server::asker_known`.
    WhoIs(Key),
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
        ticket: u64,
        /// As the client wrote it.
        path: PathBuf,
    },
    /// List the directories in one.
    List {
        /// Comes back with the reply.
        ticket: u64,
        /// As the client wrote it.
        path: PathBuf,
    },
    /// Look for what a directory would make an agent run by itself.
    LookForTrust {
        /// The session that is to work there.
        session: Key,
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
    /// Kill what an ended agent left behind, wherever it moved to.
    Sweep {
        /// The ended agent.
        agent: Key,
        /// Its session, which the marker names.
        session_id: String,
    },
}

/// What the helper thread found.
#[derive(Debug)]
pub enum DiskReply {
    /// To [`DiskRequest::Directory`].
    Directory {
        /// That of the request.
        ticket: u64,
        /// The canonical path.
        result: Result<PathBuf, DirectoryProblem>,
    },
    /// To [`DiskRequest::List`].
    Listed {
        /// That of the request.
        ticket: u64,
        /// The canonical path and the names of the directories in it, sorted.
        result: Result<(PathBuf, Vec<String>), DirectoryProblem>,
    },
    /// To [`DiskRequest::LookForTrust`].
    Trust {
        /// That of the request.
        session: Key,
        /// What the directory would run, a line each.
        commands: Vec<String>,
        /// The hash of what it said.
        hash: String,
    },
    /// To [`DiskRequest::RememberTrust`]: the system's words, if it could not be kept.
    Remembered(Option<String>),
    /// To [`DiskRequest::Sweep`].
    Swept {
        /// That of the request.
        agent: Key,
        /// Processes that were killed in this pass.
        killed: u32,
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
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Somebody must act.
    Error,
    /// Somebody should look.
    Warn,
    /// Normal life.
    Info,
    /// For whoever hunts a bug.
    Debug,
}
