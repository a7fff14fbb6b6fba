//! Fake agents: the demo agent as a pure machine behind pipes of limited size, and everything
//! that a process can do wrong around it.

use crate::client::pour;
use crate::random::Random;
use crate::tally::Tally;
use sidestream::base::arena::Key;
use sidestream::core::demo::Demo;
use sidestream::core::effect::{Exit, Signal};
use std::collections::VecDeque;

/// Lines of a real agent, said at times when none would say them.
const FIXTURES: &[&str] = &[
    include_str!("../fixtures/claude/assistant.text.json"),
    include_str!("../fixtures/claude/assistant.thinking.json"),
    include_str!("../fixtures/claude/assistant.tool_use.json"),
    include_str!("../fixtures/claude/assistant.tool_use.sub.json"),
    include_str!("../fixtures/claude/control_cancel_request.json"),
    include_str!("../fixtures/claude/control_request.can_use_tool.Bash.json"),
    include_str!("../fixtures/claude/control_request.can_use_tool.AskUserQuestion.json"),
    include_str!("../fixtures/claude/control_request.hook_callback.Stop.json"),
    include_str!("../fixtures/claude/control_response.error.json"),
    include_str!("../fixtures/claude/result.success.json"),
    include_str!("../fixtures/claude/result.error_during_execution.is_error.json"),
    include_str!("../fixtures/claude/stream_event.message_start.json"),
    include_str!("../fixtures/claude/stream_event.content_block_delta.text_delta.json"),
    include_str!("../fixtures/claude/stream_event.message_stop.json"),
    include_str!("../fixtures/claude/system.api_retry.json"),
    include_str!("../fixtures/claude/system.background_tasks_changed.json"),
    include_str!("../fixtures/claude/system.compact_boundary.json"),
    include_str!("../fixtures/claude/system.init.json"),
    include_str!("../fixtures/claude/system.task_started.json"),
    include_str!("../fixtures/claude/system.task_notification.json"),
    include_str!("../fixtures/claude/tool_progress.json"),
    include_str!("../fixtures/claude/user.tool_result.json"),
    include_str!("../fixtures/claude/user.string.json"),
];

/// What a process does wrong. Drawn when it is started.
#[derive(Default)]
pub struct Quirks {
    /// It never reads its input.
    pub deaf: bool,
    /// Until then it is starting, and reads nothing.
    pub starts_at: Option<u64>,
    /// It dies once it has said this many bytes, wherever that is.
    pub dies_after: Option<usize>,
    /// It dies at this time, whatever it does then.
    pub dies_at: Option<u64>,
    /// The end of its input means nothing to it.
    pub ignores_eof: bool,
    /// SIGTERM means nothing to it.
    pub ignores_term: bool,
    /// Descendants that hold its pipes when it is gone.
    pub grandchildren: u32,
    /// It says what no agent says, in so many of a thousand steps.
    pub odd: u64,
    /// It halts in the middle of what it says, in so many of a thousand steps.
    pub halts: u64,
    /// It writes lines of about this many bytes, in so many of a thousand steps.
    pub long: Option<(usize, u64)>,
    /// It complains on standard error, in so many of a thousand steps.
    pub stderr: u64,
    /// It says this and goes, before it reads anything.
    pub refuses: Option<String>,
}

/// What speaks.
pub enum Speaker {
    Demo(Box<Demo>),
    /// A command: reads to the end of its input, says this, exits so.
    Command(Vec<u8>, i32),
}

/// One process and its pipes.
pub struct Process {
    pub key: Key,
    pub session_id: String,
    pub speaker: Speaker,
    pub quirks: Quirks,
    pub stdin: Vec<u8>,
    pub stdin_closed: bool,
    eof_seen: bool,
    pub stdout: VecDeque<u8>,
    pub stderr: VecDeque<u8>,
    /// Said, and not yet in the pipe.
    saying: VecDeque<u8>,
    /// It says no more of that.
    halted: bool,
    pipe_size: usize,
    said: usize,
    pub exit: Option<Exit>,
    pub exit_told: bool,
    /// The end of standard output, and of standard error.
    pub end_told: [bool; 2],
    pub grandchildren: u32,
    pub due: Option<u64>,
    /// The beginning of the line that is being written to its input.
    line: Vec<u8>,
}

impl Process {
    pub fn new(
        key: Key,
        session_id: String,
        speaker: Speaker,
        quirks: Quirks,
        pipe: usize,
    ) -> Self {
        Process {
            key,
            session_id,
            speaker,
            quirks,
            stdin: Vec::new(),
            stdin_closed: false,
            eof_seen: false,
            stdout: VecDeque::new(),
            stderr: VecDeque::new(),
            saying: VecDeque::new(),
            halted: false,
            pipe_size: pipe,
            said: 0,
            exit: None,
            exit_told: false,
            end_told: [false; 2],
            grandchildren: 0,
            due: None,
            line: Vec::new(),
        }
    }

    /// How many lines of its input begin so within these next bytes of it.
    pub fn prompts_in(&mut self, bytes: &[u8], start: &[u8]) -> u64 {
        let mut count = 0;
        for byte in bytes {
            if *byte == b'\n' {
                self.line.clear();
            } else if self.line.len() < start.len() {
                self.line.push(*byte);
                count += u64::from(self.line == start);
            }
        }
        count
    }

    /// How much its standard input takes.
    pub fn room(&self) -> usize {
        if self.exit.is_some() { 0 } else { self.pipe_size.saturating_sub(self.stdin.len()) }
    }

    /// When it does something by itself. One whose pipe is full does not.
    pub fn wakes_at(&self) -> u64 {
        if self.exit.is_some() {
            return u64::MAX;
        }
        let is_full = !self.saying.is_empty() && self.stdout.len() >= self.pipe_size;
        let is_stuck = is_full || self.halted;
        let due = self.due.filter(|_| !is_stuck);
        let times = [due, self.quirks.dies_at, self.quirks.starts_at];
        times.into_iter().flatten().min().unwrap_or(u64::MAX)
    }

    /// Whether nobody holds the writing ends of its pipes.
    pub fn has_hung_up(&self) -> bool {
        self.exit.is_some() && self.grandchildren == 0
    }

    /// Whether its output has something to read, or its end.
    pub fn has_news(&self) -> bool {
        let [out, err] = self.end_told;
        !self.stdout.is_empty()
            || !self.stderr.is_empty()
            || self.has_hung_up() && !(out && err)
            || self.exit.is_some() && !self.exit_told
    }

    fn die(&mut self, exit: Exit, tally: &mut Tally) {
        if self.exit.is_some() {
            return;
        }
        let is_within = self.stdout.back().is_some_and(|byte| *byte != b'\n');
        if is_within || !self.saying.is_empty() {
            tally.hit("agent-died-mid-output");
        } else if exit != Exit::Code(0) {
            tally.hit(match self.said {
                0 => "agent-died-before-output",
                _ => "agent-died-after-output",
            });
        }
        self.saying.clear();
        self.stdin.clear();
        self.exit = Some(exit);
        self.grandchildren = self.quirks.grandchildren;
        if self.grandchildren > 0 {
            tally.hit("grandchild-held-pipe");
        }
    }

    pub fn signal(&mut self, signal: Signal, now_ms: u64, tally: &mut Tally) {
        if self.exit.is_some() {
            return;
        }
        match signal {
            Signal::Terminate => {
                tally.hit("agent-terminated");
                if !self.quirks.ignores_term {
                    self.die(Exit::Signal(15), tally);
                }
            }
            Signal::Kill => {
                tally.hit("agent-killed");
                self.die(Exit::Signal(9), tally);
            }
        }
        self.due = Some(now_ms);
    }

    /// Lives on until `now_ms`.
    pub fn step(&mut self, now_ms: u64, random: &mut Random, tally: &mut Tally, healed: bool) {
        if self.exit.is_some() {
            return;
        }
        if let Some(text) = self.quirks.refuses.take() {
            self.stderr.extend(text.bytes());
            return self.die(Exit::Code(1), tally);
        }
        if self.quirks.dies_at.is_some_and(|at| now_ms >= at) {
            return self.die(Exit::Code(i32::from(random.chance(700))), tally);
        }
        let starts = self.quirks.starts_at.take_if(|at| healed || now_ms >= *at);
        if starts.is_some() {
            tally.hit("agent-slow-to-start");
        }
        let reads = !self.quirks.deaf && self.quirks.starts_at.is_none();
        if reads || healed {
            self.read(now_ms, tally);
        }
        if !self.saying.is_empty() && random.chance(self.quirks.halts) {
            tally.hit("agent-halts");
            self.halted = true;
        }
        self.halted &= !healed;
        self.misbehave(random, tally, healed);
        self.speak(now_ms);
        let room = self.pipe_size.saturating_sub(self.stdout.len());
        let room = if self.halted { 0 } else { room };
        let left = self.quirks.dies_after.map_or(usize::MAX, |limit| limit - self.said);
        let count = self.saying.len().min(room).min(left);
        pour(&mut self.saying, &mut self.stdout, count);
        self.said += count;
        if count == left {
            return self.die(Exit::Signal(11), tally);
        }
        let ended = match &self.speaker {
            Speaker::Demo(demo) => demo.exit_status(),
            Speaker::Command(text, status) => (self.eof_seen && text.is_empty()).then_some(*status),
        };
        if let Some(status) = ended
            && self.saying.is_empty()
        {
            self.die(Exit::Code(status), tally);
        }
    }

    fn read(&mut self, now_ms: u64, tally: &mut Tally) {
        let mut at = 0;
        while let Some(end) = self.stdin[at..].iter().position(|byte| *byte == b'\n') {
            if let Speaker::Demo(demo) = &mut self.speaker {
                demo.line(now_ms, &self.stdin[at..at + end]);
            }
            at += end + 1;
        }
        self.stdin.drain(..at);
        if matches!(self.speaker, Speaker::Command(..)) {
            self.stdin.clear();
        } else if self.stdin.len() >= self.pipe_size {
            self.pipe_size = self.stdin.len() * 2; // A reader that reads has room.
        }
        if self.stdin_closed && !self.eof_seen && !self.quirks.ignores_eof {
            self.eof_seen = true;
            tally.hit("agent-eof");
            if let Speaker::Demo(demo) = &mut self.speaker {
                demo.input_ended(now_ms);
            }
        }
    }

    fn speak(&mut self, now_ms: u64) {
        if self.saying.len() > 64 * 1024 {
            return;
        }
        match &mut self.speaker {
            Speaker::Demo(demo) => {
                let mut out = Vec::new();
                self.due = demo.poll(now_ms, &mut out);
                self.saying.extend(out);
            }
            Speaker::Command(text, _) if self.eof_seen => self.saying.extend(text.drain(..)),
            Speaker::Command(..) => {}
        }
    }

    fn misbehave(&mut self, random: &mut Random, tally: &mut Tally, healed: bool) {
        if !healed && random.chance(self.quirks.stderr) {
            let count = if random.chance(50) { 3000 } else { 1 + random.index(3) };
            for number in 0..count {
                self.stderr.extend(format!("warning {number} \u{e9}\u{1F600}\u{1}\n").bytes());
            }
            if random.chance(200) {
                self.stderr.extend([0xff, 0xe2, 0x82]);
            }
        }
        if healed || matches!(self.speaker, Speaker::Command(..)) {
            return;
        }
        if random.chance(self.quirks.odd) {
            let line = FIXTURES[random.index(FIXTURES.len())].replace(['\n', '\r'], " ");
            match random.below(8) {
                0 => self.saying.extend(b"this is no JSON\n\n"),
                1 => self.saying.extend([b'{', 0xff, 0xfe, b'\n']),
                2 => self.saying.extend(line[..line.floor_char_boundary(line.len() / 2)].bytes()),
                _ => self.saying.extend(line.bytes()),
            }
            self.saying.push_back(b'\n');
        }
        if let Some((size, often)) = self.quirks.long
            && random.chance(often)
        {
            tally.hit("agent-long-line");
            let text = "\\u0001y\\n".repeat(size / 9);
            let line = match random.below(3) {
                0 => format!("{{\"type\":\"unknown\",\"text\":\"{text}\"}}\n"),
                1 => format!(
                    "{{\"type\":\"assistant\",\"message\":{{\"id\":\"m{}\",\"role\":\"assistant\",\
                     \"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}]}}}}\n",
                    random.below(1000)
                ),
                _ => format!(
                    "{{\"type\":\"stream_event\",\"api_message_id\":\"m\",\"event\":{{\"type\":\
                     \"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\
                     \"text\":\"{text}\"}}}}}}\n"
                ),
            };
            self.saying.extend(line.bytes());
        }
    }

    /// Whether what it says can be followed event by event.
    pub fn is_odd(&self) -> bool {
        self.quirks.odd > 0 || self.quirks.long.is_some()
    }
}
