//! One agent process: its buffers, its life from spawn to sweep, and the ladder that ends it.
//!
//! Exit and end of output are independent facts: a grandchild may hold the pipes long after its
//! parent is gone. What the agent says, and why it is stopped, it does not know.

use crate::base::arena::Key;
use crate::base::lines::Lines;
use crate::base::text::Text;
use crate::core::effect::{Effect, Exit, Pipe, Signal};
use crate::core::turn::Offsets;
use crate::limits::{AGENT_READ_SIZE, KIB, LINE_SIZE, Limits, STDERR_TAIL_SIZE};
use crate::wire::claude::DeltaKind;
use std::collections::VecDeque;

/// What stands around the words of a prompt on their way to an agent, with some escapes.
const FRAMING_SIZE: usize = 4 * KIB;
/// From an exit to the end of the pipes that somebody else still holds.
const EXIT_GRACE_MS: u64 = 2_000;
/// Between two sweeps after an exit, as long as the last one still found somebody.
const SWEEP_AGAIN_MS: u64 = 200;
/// Sweeps after one exit at most: what forks faster than it is killed is left to the operator.
const SWEEPS_MAX: u32 = 50;

/// How an agent speaks on its standard output.
pub enum Speech {
    /// One JSON object a line.
    Lines(Lines),
    /// Text as it comes.
    Text(Text),
}

/// Where an agent stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// The shell was asked for a process.
    Spawning,
    /// The process lives and has not yet said that it is ready.
    Starting,
    /// It takes prompts.
    Ready,
    /// It has been told to go, this way so far.
    Stopping(Rung),
    /// The process is gone; its pipes and descendants may not be.
    Exited,
}

/// The rungs of the ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rung {
    /// Its input has ended.
    Eof,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// An agent's slot.
pub struct Agent {
    /// The session it works for.
    pub session: Key,
    /// Where it stands.
    pub life: Life,
    /// Its standard output.
    pub stdout: Speech,
    /// Its standard error.
    pub stderr: Text,
    /// The newest of its standard error.
    pub tail: String,
    /// What it has not read yet.
    pub stdin: Stdin,
    /// How it ended.
    pub exit: Option<Exit>,
    /// When it ended.
    exited_at: u64,
    stdout_ended: bool,
    stderr_ended: bool,
    sweep: Sweep,
    /// When the next rung is due.
    rung_due: u64,
    /// When its start must have succeeded.
    pub start_due: u64,
    /// When it last said anything.
    pub heard_at: u64,
    /// The present silence was told.
    pub stall_told: bool,
    /// Since when it waits for the long-line buffer, or its long line makes no progress.
    pub long_since: u64,
    /// Stopped because nobody needs it now: no failure, whatever its exit status says.
    pub suspending: bool,
    /// Background tasks that would die with it.
    pub background: u32,
    /// It once took prompts: what ends it is no failure to start.
    pub was_ready: bool,
    /// What its end means for its turn was told.
    pub end_told: bool,
    /// A long text of which only a part was published: the rest follows commit by commit.
    pub emission: Option<Emission>,
    /// The bytes of prompts that it has been given and has not yet taken.
    pub prompt_size: usize,
    /// What it has said outside of turns, if anything.
    pub murmur: Option<Murmur>,
}

/// The message that text outside of turns belongs to: one for each process, since each speaks from
/// its own beginning.
#[derive(Debug)]
pub struct Murmur {
    /// Its id: no other one of the session has it.
    pub message_id: Box<str>,
    /// What was told of it.
    pub offsets: Offsets,
}

impl Murmur {
    /// Nothing is said yet. `seq`: the server's newest number, which no process of the session
    /// before this one can have begun to speak at.
    pub fn new(seq: u64) -> Murmur {
        let message_id = format!("agent-{seq}").into();
        Murmur { message_id, offsets: Offsets::default() }
    }
}

/// A delta too long for one turn of the loop.
#[derive(Debug)]
pub struct Emission {
    /// The text.
    pub text: String,
    /// How much of it was published.
    pub at: usize,
    /// The block it belongs to.
    pub block: u32,
    /// Words or thoughts.
    pub kind: DeltaKind,
    /// Its message, if the agent said so.
    pub message_id: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sweep {
    /// To be asked for at this time.
    Due(u64),
    /// The disk thread is at it.
    Asked,
    /// Nobody is left.
    Done,
}

impl Agent {
    /// A slot for a process that is about to be spawned.
    pub fn new(session: Key, stdout: Speech, now_ms: u64, limits: &Limits) -> Agent {
        Agent {
            session,
            life: Life::Spawning,
            stdout,
            stderr: Text::new(AGENT_READ_SIZE),
            tail: String::new(),
            stdin: Stdin::default(),
            exit: None,
            exited_at: 0,
            stdout_ended: false,
            stderr_ended: false,
            sweep: Sweep::Due(0),
            rung_due: 0,
            start_due: now_ms + limits.start_timeout_ms,
            heard_at: now_ms,
            stall_told: false,
            long_since: 0,
            suspending: false,
            background: 0,
            was_ready: false,
            end_told: false,
            emission: None,
            prompt_size: 0,
            murmur: None,
        }
    }

    /// The bytes that one agent takes at most, beside the server's long-line buffer.
    pub const fn memory() -> usize {
        // Its lines, a text cut from one, the input of one kept between two prompts.
        3 * LINE_SIZE + AGENT_READ_SIZE + STDERR_TAIL_SIZE + FRAMING_SIZE + size_of::<Agent>()
    }

    /// Whether it has a process that could still act.
    pub fn is_alive(&self) -> bool {
        self.life != Life::Exited
    }

    /// Whether it takes prompts.
    pub fn is_ready(&self) -> bool {
        self.life == Life::Ready
    }

    /// Whether it is on its way out, or out.
    pub fn is_leaving(&self) -> bool {
        matches!(self.life, Life::Stopping(_) | Life::Exited)
    }

    /// Says that a pipe has ended.
    pub fn ended(&mut self, pipe: Pipe) {
        match pipe {
            Pipe::Stdout => self.stdout_ended = true,
            Pipe::Stderr => self.stderr_ended = true,
        }
    }

    /// Whether everything it will ever say was read, or is no longer waited for.
    pub fn is_silent(&self, now_ms: u64) -> bool {
        let given_up = self.exit.is_some() && now_ms >= self.exited_at + EXIT_GRACE_MS;
        self.stdout_ended && self.stderr_ended || given_up
    }

    /// Its last words could not be read: from now on they have their time.
    pub fn await_last_words(&mut self, now_ms: u64) {
        if self.life == Life::Exited && !(self.stdout_ended && self.stderr_ended) {
            self.exited_at = now_ms;
        }
    }

    /// Says that the process is gone.
    pub fn exited(&mut self, exit: Exit, now_ms: u64) {
        (self.exit, self.exited_at, self.life) = (Some(exit), now_ms, Life::Exited);
        self.sweep = Sweep::Due(now_ms);
    }

    /// Keeps the newest of standard error.
    pub fn remember(&mut self, text: &str) {
        self.tail.push_str(text);
        if self.tail.len() > STDERR_TAIL_SIZE {
            let from = self.tail.ceil_char_boundary(self.tail.len() - STDERR_TAIL_SIZE / 2);
            self.tail.drain(..from);
        }
    }

    /// Steps on the ladder, at the rung that fits where it stands. Does nothing on a second call.
    pub fn stop(&mut self, key: Key, now_ms: u64, limits: &Limits) -> Option<Effect> {
        match self.life {
            Life::Spawning | Life::Starting | Life::Ready => {
                self.life = Life::Stopping(Rung::Eof);
                self.rung_due = now_ms + limits.ladder_eof_ms;
                self.stdin.end();
                Some(Effect::CloseStdin(key))
            }
            Life::Stopping(_) | Life::Exited => None,
        }
    }

    /// Goes straight to the second rung: it was told in vain, or must not finish its turn.
    pub fn terminate(&mut self, key: Key, now_ms: u64, limits: &Limits) -> Option<Effect> {
        match self.life {
            Life::Exited | Life::Stopping(Rung::Terminate | Rung::Kill) => None,
            _ => {
                self.life = Life::Stopping(Rung::Terminate);
                self.rung_due = now_ms + limits.ladder_term_ms;
                self.stdin.end();
                Some(Effect::Signal(key, Signal::Terminate))
            }
        }
    }

    /// Goes to the last rung at once.
    pub fn kill(&mut self, key: Key) -> Option<Effect> {
        if matches!(self.life, Life::Exited | Life::Stopping(Rung::Kill)) {
            return None;
        }
        self.life = Life::Stopping(Rung::Kill);
        self.rung_due = u64::MAX;
        self.stdin.end();
        Some(Effect::Signal(key, Signal::Kill))
    }

    /// Takes the next rung if it is due.
    pub fn climb(&mut self, key: Key, now_ms: u64, limits: &Limits) -> Option<Effect> {
        match self.life {
            Life::Stopping(Rung::Eof) if now_ms >= self.rung_due => {
                self.terminate(key, now_ms, limits)
            }
            Life::Stopping(Rung::Terminate) if now_ms >= self.rung_due => self.kill(key),
            _ => None,
        }
    }

    /// Whether a sweep is due; it counts as asked for from here on.
    pub fn wants_sweep(&mut self, now_ms: u64) -> bool {
        let due = self.life == Life::Exited && matches!(self.sweep, Sweep::Due(at) if now_ms >= at);
        if due {
            self.sweep = Sweep::Asked;
        }
        due
    }

    /// Says what a sweep found. While it finds somebody there may be more.
    pub fn swept(&mut self, killed: u32, sweeps: &mut u32, now_ms: u64) {
        *sweeps += 1;
        self.sweep = if killed == 0 || *sweeps >= SWEEPS_MAX {
            Sweep::Done
        } else {
            Sweep::Due(now_ms + SWEEP_AGAIN_MS)
        };
    }

    /// Whether nothing of it is left.
    pub fn is_over(&self, now_ms: u64) -> bool {
        self.life == Life::Exited && self.sweep == Sweep::Done && self.is_silent(now_ms)
    }

    /// When it next needs to be looked at.
    pub fn due(&self) -> u64 {
        let life = match self.life {
            Life::Spawning | Life::Starting => self.start_due,
            Life::Ready => u64::MAX,
            Life::Stopping(_) => self.rung_due,
            Life::Exited => match self.sweep {
                Sweep::Due(at) => at,
                // Once its end is told, only the sweep is waited for, and that comes by itself.
                _ if self.end_told || self.stdout_ended && self.stderr_ended => u64::MAX,
                _ => self.exited_at + EXIT_GRACE_MS,
            },
        };
        life.min(if self.long_since > 0 { self.long_since + LONG_LINE_PATIENCE_MS } else { life })
    }
}

/// A long line that makes no progress for so long is dropped.
pub const LONG_LINE_PATIENCE_MS: u64 = 30_000;

/// What an agent has not read yet, each part held back until the event that it follows is durable.
#[derive(Default)]
pub struct Stdin {
    bytes: Vec<u8>,
    sent: usize,
    /// Bytes up to here may go.
    free: usize,
    /// Later parts: where each ends, and the event it waits for.
    gates: VecDeque<(usize, u64)>,
    ended: bool,
    /// The end of input follows the last byte.
    end_after: bool,
}

impl Stdin {
    /// Queues what `write` appends, to go out once event `seq` is durable.
    pub fn queue(&mut self, seq: u64, write: impl FnOnce(&mut Vec<u8>)) {
        if self.ended {
            return;
        }
        write(&mut self.bytes);
        self.gates.push_back((self.bytes.len(), seq));
    }

    /// Lets go what waited for events up to `visible`. Returns whether there is anything to send.
    pub fn release(&mut self, visible: u64) -> bool {
        while let Some((end, seq)) = self.gates.front().copied()
            && seq <= visible
        {
            self.free = end;
            self.gates.pop_front();
        }
        self.sent < self.free
    }

    /// Makes room for so many bytes and what is put around them, and no more than that.
    pub fn reserve(&mut self, size: usize) {
        self.bytes.reserve_exact(size + FRAMING_SIZE);
    }

    /// Whether the agent has taken everything.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// What may be sent now.
    pub fn output(&self) -> &[u8] {
        &self.bytes[self.sent..self.free]
    }

    /// Says that the agent took this many bytes. Returns whether its input is to be closed now.
    pub fn sent(&mut self, count: usize) -> bool {
        self.sent += count;
        debug_assert!(self.sent <= self.free);
        if self.sent == self.bytes.len() {
            self.bytes.clear();
            self.bytes.shrink_to(LINE_SIZE);
            (self.sent, self.free) = (0, 0);
            return std::mem::take(&mut self.end_after);
        }
        false
    }

    /// Nothing more will be queued, and what is queued is dropped.
    pub fn end(&mut self) {
        *self = Stdin { ended: true, ..Stdin::default() };
    }

    /// Nothing more will be queued; what is queued still goes, then the input closes.
    pub fn end_after(&mut self) {
        (self.ended, self.end_after) = (true, true);
    }

    /// Bytes that wait.
    pub fn size(&self) -> usize {
        self.bytes.len() - self.sent
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: Key = Key { kind: 3, generation: 0, index: 0 };

    fn agent() -> (Agent, Limits) {
        let limits = Limits::default();
        let stdout = Speech::Lines(Lines::new(64));
        (Agent::new(KEY, stdout, 1_000, &limits), limits)
    }

    #[test]
    fn the_ladder_goes_up_one_rung_at_a_time_and_only_up() {
        let (mut agent, limits) = agent();
        agent.life = Life::Ready;
        assert!(matches!(agent.stop(KEY, 0, &limits), Some(Effect::CloseStdin(key)) if key == KEY));
        assert!(agent.stop(KEY, 1, &limits).is_none());
        assert_eq!(agent.due(), 5_000);
        assert!(agent.climb(KEY, 4_999, &limits).is_none());
        let term = agent.climb(KEY, 5_000, &limits);
        assert!(matches!(term, Some(Effect::Signal(key, Signal::Terminate)) if key == KEY));
        assert!(agent.climb(KEY, 9_999, &limits).is_none());
        assert!(matches!(
            agent.climb(KEY, 10_000, &limits),
            Some(Effect::Signal(key, Signal::Kill)) if key == KEY
        ));
        assert!(agent.climb(KEY, u64::MAX, &limits).is_none());
        agent.exited(Exit::Signal(9), 10_100);
        assert!(agent.kill(KEY).is_none() && agent.terminate(KEY, 0, &limits).is_none());
    }

    #[test]
    fn it_is_over_when_it_has_exited_and_fallen_silent_and_nobody_is_left() {
        let (mut agent, _) = agent();
        agent.exited(Exit::Code(0), 100);
        let mut sweeps = 0;
        assert!(agent.wants_sweep(100) && !agent.wants_sweep(101));
        agent.swept(2, &mut sweeps, 150);
        assert!(!agent.wants_sweep(349) && agent.wants_sweep(350));
        agent.swept(0, &mut sweeps, 360);
        agent.ended(Pipe::Stdout);
        assert!(!agent.is_over(2_099), "standard error is still held by somebody");
        assert_eq!(agent.due(), 2_100);
        assert!(agent.is_over(2_100));
        agent.ended(Pipe::Stderr);
        assert!(agent.is_over(400));
    }

    #[test]
    fn input_waits_for_its_event_and_keeps_its_order() {
        let mut stdin = Stdin::default();
        stdin.queue(5, |out| out.extend_from_slice(b"one"));
        stdin.queue(7, |out| out.extend_from_slice(b"two"));
        assert!(!stdin.release(4) && stdin.output().is_empty());
        assert!(stdin.release(6));
        assert_eq!(stdin.output(), b"one");
        assert!(!stdin.sent(2));
        stdin.release(7);
        assert_eq!(stdin.output(), b"etwo");
        stdin.end_after();
        stdin.queue(8, |out| out.extend_from_slice(b"late"));
        assert!(stdin.sent(4), "closed behind the last byte");
        assert_eq!(stdin.size(), 0);
    }

    #[test]
    fn the_tail_of_standard_error_is_bounded_and_cut_at_characters() {
        let (mut agent, _) = agent();
        for _ in 0..3_000 {
            agent.remember("\u{e9}\u{e9}x");
        }
        assert!(agent.tail.len() <= STDERR_TAIL_SIZE && agent.tail.ends_with('x'));
    }
}
