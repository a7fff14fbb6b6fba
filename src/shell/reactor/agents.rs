//! The reactor's agents: their processes, the four things the poller tells of each, and orphans.
//!
//! A process has one owner here, which alone reaps it; orphans that we adopted are reaped beside
//! it, on the same thread, so that none of the two can take the other's. Output is read whenever
//! the core has room for it, whether or not anybody listens. When an agent is to start or to go
//! is not known here.

use std::ffi::OsString;
use std::io::{ErrorKind, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use mio::{Interest, Registry, Token};

use super::Reactor;
use crate::base::arena::Key;
use crate::core::effect::{Exit, Level, Pipe, Program, Signal, Spawn};
use crate::core::server::KIND_AGENT;
use crate::shell::process::{self, Child, GroupSignal, Spec};

// An agent's key under other kinds: what of it the poller speaks of.
const FACE_STDIN: u8 = 0x31;
const FACE_STDOUT: u8 = 0x32;
const FACE_STDERR: u8 = 0x33;
const FACE_EXIT: u8 = 0x34;

/// The first argument that makes our executable the demo agent.
pub const DEMO_FLAG: &str = "--demo-agent";

/// Bytes read from one agent, or written to it, in one turn: one full pipe. A chatty agent fills
/// it again while others are served, and has the next turn, which follows without sleeping.
const AGENT_BYTES: usize = 256 * 1024;
/// While there are agents: between two looks for orphans of theirs that have ended.
const REAP_MS: u64 = 5_000;
/// The same, while what the last agent left behind is being killed.
const CLEAR_MS: u64 = 20;
/// Passes over all processes when the server ends, and the pause between two: whoever was killed
/// needs a moment to die, and hands us its children then.
const LAST_SWEEPS: u32 = 200;
const LAST_SWEEP_PAUSE: Duration = Duration::from_millis(5);

/// What every agent is started with.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// Our own executable, which is the shim and the demo agent.
    pub own_program: PathBuf,
    /// The directories agents may work in, canonical.
    pub roots: Arc<[PathBuf]>,
    /// The directory they may not work in, canonical.
    pub data_dir: PathBuf,
    /// Their environment, but for the marker.
    pub environment: Vec<(OsString, OsString)>,
    /// What their markers begin with.
    pub marker_prefix: String,
    /// The limits on descriptors that we were started with, soft and hard.
    pub nofile: (u64, u64),
}

/// One agent's process.
struct Process {
    key: Key,
    child: Child,
    /// What the poller said and no `WouldBlock` took back.
    stdin_ready: bool,
    stdout_ready: bool,
    stderr_ready: bool,
    exit_ready: bool,
}

/// The processes by the index of their keys.
pub(super) struct Agents {
    slots: Vec<Option<Process>>,
    /// Somebody was left with more to read or to write, and room for it.
    pub(super) hungry: bool,
    /// When orphans are next looked for.
    pub(super) reap_at: Option<u64>,
    surroundings: Surroundings,
    /// Children of ours that are no agents, and have an owner of their own.
    pub(super) spared: Vec<u32>,
    /// Children that we were started with, by whoever became us with exec(2): never an agent's.
    inherited: Vec<u32>,
    /// Anything was started, an agent or a command for events: there may be orphans.
    any: bool,
    /// An orphan may be somebody else's than an agent's, whether or not one lives: a command's for
    /// events, an inherited child's, or, for the first process of a container, anybody's in it.
    mixed: bool,
}

impl Agents {
    pub(super) fn new(agents_max: u32, surroundings: Surroundings) -> Agents {
        let slots = std::iter::repeat_with(|| None).take(agents_max as usize).collect();
        let inherited = process::children();
        Agents {
            slots,
            hungry: false,
            reap_at: None,
            surroundings,
            spared: Vec::new(),
            any: false,
            mixed: !inherited.is_empty() || std::process::id() == 1,
            inherited,
        }
    }

    fn get_mut(&mut self, key: Key) -> Option<&mut Process> {
        let process = self.slots.get_mut(key.index as usize)?.as_mut()?;
        (process.key == key).then_some(process)
    }

    /// The agent in whose tree a process is: by its parents, or, where it has lost them, by the
    /// marker that it was started with.
    pub(super) fn above(&self, pid: u32) -> Option<Key> {
        let agent = |pid| self.slots.iter().flatten().find(|process| process.child.pid == pid);
        let line = std::iter::successors(Some(pid), |&pid| process::parent_of(pid));
        let parent = line.take_while(|&pid| pid > 1).find_map(agent);
        let marked = || {
            let marker = process::marker_of(pid)?;
            let same = |process: &&Process| {
                process::marker_of(process.child.pid).is_some_and(|other| other == marker)
            };
            self.slots.iter().flatten().find(same)
        };
        parent.or_else(marked).map(|process| process.key)
    }

    /// The agents and their processes.
    pub(super) fn pids(&self) -> Vec<(Key, u32)> {
        self.slots.iter().flatten().map(|process| (process.key, process.child.pid)).collect()
    }

    fn keys(&self) -> Vec<Key> {
        self.slots.iter().flatten().map(|process| process.key).collect()
    }

    /// Notes what the poller said of one of an agent's faces.
    pub(super) fn note(&mut self, face: Key, readable: bool, writable: bool) {
        let Some(process) = self.get_mut(Key { kind: KIND_AGENT, ..face }) else { return };
        match face.kind {
            FACE_STDIN => process.stdin_ready |= writable,
            FACE_STDOUT => process.stdout_ready |= readable,
            FACE_STDERR => process.stderr_ready |= readable,
            FACE_EXIT => process.exit_ready |= readable,
            kind => debug_assert!(false, "a token of no kind we know: {kind}"),
        }
    }

    /// Ends an agent's input.
    pub(super) fn close_stdin(&mut self, key: Key, registry: &Registry) {
        let stdin = self.get_mut(key).and_then(|process| process.child.stdin.take());
        if let Some(mut stdin) = stdin {
            let _ = registry.deregister(&mut stdin); // Closed by the drop in any case.
        }
    }

    fn close_output(&mut self, key: Key, pipe: Pipe, registry: &Registry) {
        let Some(process) = self.get_mut(key) else { return };
        let receiver = match pipe {
            Pipe::Stdout => process.child.stdout.take(),
            Pipe::Stderr => process.child.stderr.take(),
        };
        if let Some(mut receiver) = receiver {
            let _ = registry.deregister(&mut receiver); // Closed by the drop in any case.
        }
    }

    /// Closes what is left of an agent, and reaps it.
    pub(super) fn release(&mut self, key: Key, registry: &Registry, now_ms: u64) {
        self.close_stdin(key, registry);
        self.close_output(key, Pipe::Stdout, registry);
        self.close_output(key, Pipe::Stderr, registry);
        let Some(process) = self.get_mut(key) else { return };
        let _ = registry.deregister(&mut process.child.exit); // May have been done at its exit.
        self.slots[key.index as usize] = None;
        if self.slots.iter().all(Option::is_none) {
            self.reap_at = self.work_orphans(now_ms);
        }
    }

    /// Reaps ended orphans of agents. Their own processes are spared: their owners do that.
    pub(super) fn reap(&mut self) {
        process::reap_adopted(&|pid| self.is_owned(pid));
        // Else its number would spare whoever has it next.
        self.inherited.retain(|&pid| process::parent_of(pid) == Some(std::process::id()));
    }

    /// Reaps orphans, and kills those whom no living agent can have left: while one lives, nobody
    /// can say whether an orphan without our marker is not its own. Returns when to look again.
    fn work_orphans(&mut self, now_ms: u64) -> Option<u64> {
        self.reap();
        if self.slots.iter().any(Option::is_some) {
            return Some(now_ms + REAP_MS);
        }
        let goes_on = !self.mixed && process::kill_adopted(&|pid| self.is_owned(pid)).killed > 0;
        goes_on.then_some(now_ms + CLEAR_MS)
    }

    /// Commands for events have been started.
    pub(super) fn hooks_started(&mut self) {
        (self.any, self.mixed) = (true, true);
    }

    /// Whether a child of ours is nobody's orphan.
    fn is_owned(&self, pid: u32) -> bool {
        let agent = |process: &Process| process.child.pid == pid;
        self.slots.iter().flatten().any(agent)
            || self.spared.contains(&pid)
            || self.inherited.contains(&pid)
    }

    /// SIGKILL to every group.
    pub(super) fn kill_all(&self) {
        for process in self.slots.iter().flatten() {
            let _ = process.child.signal_group(GroupSignal::Kill); // EPERM: nothing more we can do.
        }
    }

    /// SIGKILL to everything that agents and commands for events left, until nothing of it is
    /// found: what has our marker, if `marked`, and the orphans that have none. Whose they are no
    /// longer matters. Returns how many cannot be ended.
    pub(super) fn sweep_all(&mut self, marked: bool) -> u32 {
        self.spared.clear(); // They have ended.
        if !self.any {
            return 0;
        }
        let prefix = self.surroundings.marker_prefix.clone();
        let mut left = 0;
        for _ in 0..LAST_SWEEPS {
            self.reap();
            let marked = match marked {
                true => process::sweep(&prefix, None, &|_| false),
                false => process::Swept::default(),
            };
            let adopted = process::kill_adopted(&|pid| self.inherited.contains(&pid));
            left = marked.found.max(adopted.found);
            if marked.killed + adopted.killed == 0 {
                break; // Nobody is left, or only whoever runs as another user.
            }
            std::thread::sleep(LAST_SWEEP_PAUSE);
        }
        left
    }
}

impl Reactor {
    /// Starts an agent's process.
    pub(super) fn spawn(&mut self, spawn: &Spawn) {
        let surroundings = &self.agents.surroundings;
        let demo = std::iter::once(DEMO_FLAG.to_owned());
        let with_flag: Vec<String>;
        let (program, arguments) = match &spawn.program {
            Program::Path(path) => (path, &spawn.arguments),
            Program::Demo => {
                with_flag = demo.chain(spawn.arguments.iter().cloned()).collect();
                (&surroundings.own_program, &with_flag)
            }
        };
        let marker = format!("{}/{}", surroundings.marker_prefix, spawn.session_id);
        let spec = Spec {
            program,
            arguments,
            working_dir: &spawn.working_dir,
            roots: &surroundings.roots,
            closed: Some(&surroundings.data_dir),
            environment: &surroundings.environment,
            marker: &marker,
            nofile: surroundings.nofile,
        };
        let started = process::spawn(&surroundings.own_program, &spec).and_then(|mut child| {
            match register(&mut child, spawn.agent, self.poll.registry()) {
                Ok(()) => Ok(child),
                Err(error) => {
                    let _ = child.signal_group(GroupSignal::Kill); // Reaped with the orphans.
                    Err(error)
                }
            }
        });
        match started {
            Ok(child) => {
                self.agents.slots[spawn.agent.index as usize] = Some(Process {
                    key: spawn.agent,
                    child,
                    stdin_ready: true, // A new pipe is empty.
                    stdout_ready: false,
                    stderr_ready: false,
                    exit_ready: false,
                });
                self.agents.any = true;
                self.agents.reap_at.get_or_insert(self.now_ms + REAP_MS);
                self.server.agent_spawned(spawn.agent);
            }
            Err(error) => {
                let sentence = format!("the agent's process could not be started: {error}");
                self.server.agent_spawn_failed(spawn.agent, sentence);
            }
        }
    }

    /// Signals an agent's group.
    pub(super) fn signal(&mut self, key: Key, signal: Signal) {
        let Some(process) = self.agents.get_mut(key) else { return };
        let signal = match signal {
            Signal::Terminate => GroupSignal::Terminate,
            Signal::Kill => GroupSignal::Kill,
        };
        if let Err(error) = process.child.signal_group(signal) {
            let fields = vec![("pid", process.child.pid.to_string()), ("error", error.to_string())];
            self.tell(Level::Warn, "agent", "cannot signal", fields);
        }
    }

    /// Reads what agents say, then sees who has ended: what was said before the end comes first.
    pub(super) fn work_agents(&mut self) {
        self.agents.hungry = false;
        if self.agents.reap_at.is_some_and(|at| self.now_ms >= at) {
            self.agents.reap_at = self.agents.work_orphans(self.now_ms);
        }
        for key in self.agents.keys() {
            self.read_agent(key, Pipe::Stdout);
            self.read_agent(key, Pipe::Stderr);
            self.see_exit(key);
        }
    }

    fn read_agent(&mut self, key: Key, pipe: Pipe) {
        let mut left = AGENT_BYTES;
        while left > 0 {
            let Some(process) = self.agents.get_mut(key) else { return };
            let (receiver, ready) = match pipe {
                Pipe::Stdout => (&mut process.child.stdout, &mut process.stdout_ready),
                Pipe::Stderr => (&mut process.child.stderr, &mut process.stderr_ready),
            };
            let Some(receiver) = receiver else { return };
            if !*ready {
                return;
            }
            let space = self.server.agent_space(key, pipe);
            let size = space.len().min(left);
            if size == 0 {
                return; // Readiness kept: `feed_agents` looks whether there is room again.
            }
            match receiver.read(&mut space[..size]) {
                Ok(count) if count > 0 => {
                    left -= count;
                    self.server.agent_filled(key, pipe, count);
                    self.apply_effects();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    *ready = false;
                    return;
                }
                // Nobody holds the other end any more; what else could fail is no better.
                Ok(_) | Err(_) => {
                    self.agents.close_output(key, pipe, self.poll.registry());
                    self.server.agent_pipe_ended(key, pipe);
                    return self.apply_effects();
                }
            }
        }
        // Readiness kept: budget spent, not WouldBlock. `feed_agents` sees it.
    }

    fn see_exit(&mut self, key: Key) {
        let Some(process) = self.agents.get_mut(key) else { return };
        if !process.exit_ready {
            return;
        }
        let exit = match process.child.try_wait() {
            Ok(None) => return, // Readiness kept: asked again in the next turn.
            Ok(Some(process::Exit::Code(code))) => Exit::Code(code),
            Ok(Some(process::Exit::Signal(signal))) => Exit::Signal(signal),
            Err(_) => Exit::Code(-1), // Somebody else has reaped it: it ended, nobody knows how.
        };
        process.exit_ready = false;
        let _ = self.poll.registry().deregister(&mut process.child.exit); // It says no more.
        self.server.agent_exited(key, exit);
        self.apply_effects();
    }

    /// After a commit: writes what agents may be told now, and sees who can be read again.
    pub(super) fn feed_agents(&mut self) {
        for key in self.agents.keys() {
            self.write_agent(key);
            let Some(process) = self.agents.get_mut(key) else { continue };
            let child = &process.child;
            let stdout = process.stdout_ready && child.stdout.is_some();
            let stderr = process.stderr_ready && child.stderr.is_some();
            // One that was paused makes no event when it no longer is.
            self.agents.hungry |= stdout && !self.server.agent_space(key, Pipe::Stdout).is_empty()
                || stderr && !self.server.agent_space(key, Pipe::Stderr).is_empty();
        }
    }

    fn write_agent(&mut self, key: Key) {
        let mut left = AGENT_BYTES;
        loop {
            let Some(process) = self.agents.get_mut(key) else { return };
            let Some(stdin) = process.child.stdin.as_mut().filter(|_| process.stdin_ready) else {
                return;
            };
            let input = self.server.agent_input(key);
            if input.is_empty() {
                return;
            }
            if left == 0 {
                self.agents.hungry = true; // Readiness kept: budget spent, not WouldBlock.
                return;
            }
            match stdin.write(input) {
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.server.agent_input_sent(key, count);
                    self.apply_effects();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    process.stdin_ready = false;
                    return;
                }
                // EPIPE: it reads no more. How it ends is told by its exit.
                Err(_) => return self.agents.close_stdin(key, self.poll.registry()),
            }
        }
    }
}

fn register(child: &mut Child, key: Key, registry: &Registry) -> std::io::Result<()> {
    let token = |kind| Token(Key { kind, ..key }.to_bits() as usize);
    if let Some(stdin) = &mut child.stdin {
        registry.register(stdin, token(FACE_STDIN), Interest::WRITABLE)?;
    }
    if let Some(stdout) = &mut child.stdout {
        registry.register(stdout, token(FACE_STDOUT), Interest::READABLE)?;
    }
    if let Some(stderr) = &mut child.stderr {
        registry.register(stderr, token(FACE_STDERR), Interest::READABLE)?;
    }
    registry.register(&mut child.exit, token(FACE_EXIT), Interest::READABLE)
}
