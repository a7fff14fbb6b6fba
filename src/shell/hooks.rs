//! The operator's commands that are told of events: started, fed, watched, and ended.
//!
//! Promises: no shell takes part; each has its event whole on its standard input, a bare environment,
//! and [`HOOK_RUN_MS`] to end, then its group is killed; at most [`HOOKS_RUNNING_MAX`] run and [`HOOKS_WAITING_MAX`]
//! wait, and what is above is counted and not run; nothing here waits for one, and none outlives the
//! server. Which events are told is not known here.

use crate::limits::{HOOK_RUN_MS, HOOKS_RUNNING_MAX, HOOKS_SIZE_MAX, HOOKS_WAITING_MAX};
use std::collections::VecDeque;
use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;

use mio::{Interest, Registry, Token};

use super::process::{self, Child, Exit, GroupSignal, Spec};
use super::sys;
use crate::base::arena::Key;

/// What a pipe holds without being asked to hold more.
const PIPE_SIZE: usize = 64 * 1024;
/// What of a command's standard error the log tells.
const STDERR_SHOWN: usize = 300;
/// What its descendants are found by, beside the data directory's id.
const MARK: &str = "hook";

/// What commands are started with.
#[derive(Clone, Debug, Default)]
pub struct Surroundings {
    /// The programs, resolved, and their arguments.
    pub commands: Vec<(PathBuf, Vec<String>)>,
    /// Our own executable, which is the shim.
    pub own_program: PathBuf,
    /// Their environment, but for the marker.
    pub environment: Vec<(OsString, OsString)>,
    /// What their markers begin with.
    pub marker_prefix: String,
    /// The limits on descriptors that we were started with, soft and hard.
    pub nofile: (u64, u64),
}

/// What became of a command.
#[derive(Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It ended, with status 0.
    Good,
    /// It did not: why, and the last it said.
    Failed(String, String),
    /// It was not run.
    Dropped,
}

struct Running {
    generation: u32,
    hook: usize,
    child: Child,
    /// When its time is up; None: it was killed.
    due_at: Option<u64>,
}

/// All of them.
pub struct Hooks {
    surroundings: Surroundings,
    kind: u8,
    running: [Option<Running>; HOOKS_RUNNING_MAX],
    waiting: VecDeque<(usize, Vec<u8>)>,
    /// Their bytes.
    waiting_size: usize,
    generation: u32,
    /// Any ever ran: what they left may be looked for.
    any: bool,
}

impl Hooks {
    /// None runs yet. The poller speaks of them by keys of this kind.
    pub fn new(surroundings: Surroundings, kind: u8) -> Hooks {
        let running = [const { None }; HOOKS_RUNNING_MAX];
        let waiting = VecDeque::new();
        Hooks { surroundings, kind, running, waiting, waiting_size: 0, generation: 0, any: false }
    }

    /// Their processes.
    pub fn pids(&self) -> impl Iterator<Item = u32> {
        self.running.iter().flatten().map(|running| running.child.pid)
    }

    /// When the first one's time is up.
    pub fn due(&self) -> Option<u64> {
        self.running.iter().flatten().filter_map(|running| running.due_at).min()
    }

    /// The words of a command, for the log.
    pub fn name(&self, hook: usize) -> String {
        let program = self.surroundings.commands.get(hook).map(|(program, _)| program);
        program.map(|program| program.display().to_string()).unwrap_or_default()
    }

    /// Puts a command in line. Returns false if the line is full.
    pub fn add(&mut self, hook: usize, json: Vec<u8>) -> bool {
        let fits = self.waiting.len() < HOOKS_WAITING_MAX
            && self.waiting_size + json.len() <= HOOKS_SIZE_MAX;
        if fits {
            self.waiting_size += json.len();
            self.waiting.push_back((hook, json));
        }
        fits
    }

    /// Starts those for which there is room; tells how many, and what could not be started.
    pub fn start(&mut self, now_ms: u64, registry: &Registry) -> (u64, Vec<(usize, Outcome)>) {
        let (mut started, mut failures) = (0, Vec::new());
        while let Some(slot) = self.running.iter().position(Option::is_none) {
            let Some((hook, json)) = self.waiting.pop_front() else { break };
            self.waiting_size -= json.len();
            self.generation += 1;
            match self.spawn(hook, &json, slot, registry) {
                Ok(child) => {
                    self.any = true;
                    started += 1;
                    let (generation, due_at) = (self.generation, Some(now_ms + HOOK_RUN_MS));
                    self.running[slot] = Some(Running { generation, hook, child, due_at });
                }
                Err(sentence) => failures.push((hook, Outcome::Failed(sentence, String::new()))),
            }
        }
        (started, failures)
    }

    fn spawn(
        &self,
        hook: usize,
        json: &[u8],
        slot: usize,
        registry: &Registry,
    ) -> Result<Child, String> {
        let surroundings = &self.surroundings;
        let (program, arguments) = surroundings.commands.get(hook).ok_or("there is none")?;
        let root = [PathBuf::from("/")];
        let spec = Spec {
            program,
            arguments,
            working_dir: &root[0],
            roots: &root,
            closed: None,
            environment: &surroundings.environment,
            marker: &format!("{}/{MARK}", surroundings.marker_prefix),
            nofile: surroundings.nofile,
        };
        let started = process::spawn_unheard(&surroundings.own_program, &spec);
        let mut child = started.map_err(|error| format!("it cannot be started: {error}"))?;
        let key = Key { kind: self.kind, generation: self.generation, index: slot as u32 };
        let registered =
            registry.register(&mut child.exit, Token(key.to_bits() as usize), Interest::READABLE);
        let fed = registered.and_then(|()| feed(&mut child, json));
        match fed {
            Ok(()) => Ok(child),
            Err(error) => {
                let _ = registry.deregister(&mut child.exit);
                end(child);
                Err(format!("it cannot be told: {error}"))
            }
        }
    }

    /// One of them has ended, as the poller says: tells which, and how.
    pub fn ended(&mut self, key: Key, registry: &Registry) -> Option<(usize, Outcome)> {
        let slot = self.running.get_mut(key.index as usize)?;
        let running = slot.as_mut().filter(|running| running.generation == key.generation)?;
        let exit = match running.child.try_wait() {
            Ok(None) => return None,
            Ok(Some(exit)) => Some(exit),
            Err(_) => None, // Somebody else has reaped it.
        };
        let mut running = slot.take()?;
        let _ = registry.deregister(&mut running.child.exit);
        // What it left in its group is not waited for either.
        let _ = running.child.signal_group(GroupSignal::Kill);
        let said = last_words(&mut running.child);
        let outcome = match exit {
            Some(Exit::Code(0)) => Outcome::Good,
            _ if running.due_at.is_none() => {
                Outcome::Failed(format!("it did not end within {} s", HOOK_RUN_MS / 1000), said)
            }
            Some(Exit::Code(code)) => Outcome::Failed(format!("it ended with status {code}"), said),
            Some(Exit::Signal(signal)) => {
                Outcome::Failed(format!("signal {signal} ended it"), said)
            }
            None => Outcome::Failed("nobody knows how it ended".into(), said),
        };
        Some((running.hook, outcome))
    }

    /// Whether this one runs.
    pub fn runs(&self, key: Key) -> bool {
        let slot = self.running.get(key.index as usize).and_then(Option::as_ref);
        slot.is_some_and(|running| running.generation == key.generation)
    }

    /// Kills those whose time is up.
    pub fn expire(&mut self, now_ms: u64) {
        for running in self.running.iter_mut().flatten() {
            if running.due_at.is_some_and(|due_at| now_ms >= due_at) {
                running.due_at = None;
                let _ = running.child.signal_group(GroupSignal::Kill); // Its end is told.
            }
        }
    }

    /// Kills all of them, and what they started.
    pub fn end(&mut self) {
        self.waiting.clear();
        for slot in &mut self.running {
            if let Some(running) = slot.take() {
                end(running.child);
            }
        }
        if std::mem::take(&mut self.any) {
            process::sweep(&self.surroundings.marker_prefix, Some(MARK), &|_| false);
        }
    }
}

/// Writes the whole event into the pipe, which has room for it, and closes it.
fn feed(child: &mut Child, json: &[u8]) -> std::io::Result<()> {
    let Some(mut stdin) = child.stdin.take() else { return Ok(()) };
    if json.len() >= PIPE_SIZE {
        sys::set_pipe_size(&stdin, u32::try_from(json.len()).unwrap_or(u32::MAX))?;
    }
    match stdin.write(json) {
        Ok(count) if count == json.len() => Ok(()),
        Ok(_) => Err(ErrorKind::WriteZero.into()),
        // It has closed its input already: it did not want to know.
        Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(()),
        Err(error) => Err(error),
    }
}

/// The beginning of what it wrote to standard error.
fn last_words(child: &mut Child) -> String {
    let mut bytes = [0; STDERR_SHOWN];
    let count = child.stderr.as_mut().map_or(0, |stderr| stderr.read(&mut bytes).unwrap_or(0));
    String::from_utf8_lossy(&bytes[..count]).trim().to_owned()
}

/// Kills a command and its group, and reaps it.
fn end(mut child: Child) {
    let _ = child.signal_group(GroupSignal::Kill);
    // SIGKILL is not long in coming, and there is nothing else to wait by.
    for _ in 0..200 {
        if !matches!(child.try_wait(), Ok(None)) {
            return;
        }
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}
