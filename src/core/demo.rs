//! The `demo` agent as a pure state machine: it speaks the dialect of [`crate::wire::claude`] from the
//! agent's side, as version 2.1.330 does, with canned answers, and runs nothing.
//!
//! Lines come in by [`Demo::line`], lines go out by [`Demo::poll`]; both take the time. The
//! output depends on the seed, the input and its times alone, and not on how often it is polled
//! (while a poll is not owed more than it gives at once), so a simulation can drive it as its
//! fake agent. It does not know pipes or clocks, and it keeps prompts that come during a turn
//! for turns of their own.

use std::collections::VecDeque;

use serde_json::{Value, json};

use crate::wire::json;

/// The version it claims.
pub const VERSION: &str = "2.1.330-demo";
/// The pause between two words, in ms: lively, and slow enough to watch.
const WORD_MS: u64 = 20;
/// How long an API request takes to its first byte, in ms.
const LATENCY_MS: u64 = 60;
/// How long an allowed tool takes, in ms.
const TOOL_MS: u64 = 250;
/// The pause before a failed API request is repeated, in ms.
const RETRY_MS: u64 = 300;
/// One poll gives at most about this much, and one line more.
const POLL_BYTES: usize = 64 * 1024;
/// The longest text a script may ask for, in bytes.
const TEXT_BYTES_MAX: usize = 16 * 1024 * 1024;
/// The longest pause a script may ask for, in ms.
const PAUSE_MS_MAX: u64 = 60_000;
/// Names of the working directory that a listing shows.
const NAMES_MAX: usize = 500;

const MODES: [&str; 6] = ["acceptEdits", "auto", "bypassPermissions", "default", "dontAsk", "plan"];

const HELP: &str = "This is the **demo agent** of sidestream: it speaks like Claude Code, with \
canned answers, and runs nothing.\n\nTry one of these prompts:\n\
- `ls -la`: the names in the working directory\n\
- `say 40 words`, `say: any text`, `slow 20 200` (20 words, 200 ms apart)\n\
- `think: a thought`: a block of thinking before the answer\n\
- `run tool: make test`: asks for your approval first\n\
- `ask: Which color? Red | Blue`: a question with answers to choose from\n\
- `plan: first this, then that`: a plan for you to approve\n\
- `big 100000`, `deltas 2000`: much text at once, or in many pieces\n\
- `error 529`: how a failure of the API looks\n\n\
Steps can be joined: `run tool: date ;; say: done`. To use the real thing, install Claude Code \
and start sidestream with `--agent claude`.\n";

/// The agent. See the module.
pub struct Demo {
    voice: Voice,
    names: Vec<String>,
    mode: String,
    model: String,
    /// Commands allowed for the rest of the conversation.
    rules: Vec<String>,
    bypass_allowed: bool,
    turn: Option<Turn>,
    queue: VecDeque<Prompt>,
    /// In billionths of a US dollar, of the whole conversation.
    cost_nanos: u64,
    last_failed: bool,
    broken: bool,
    input_ended: bool,
}

/// What makes lines: the ids, and the bytes not yet taken.
struct Voice {
    conversation_id: String,
    random: u64,
    out: Vec<u8>,
}

struct Prompt {
    text: String,
    uuid: Option<String>,
}

/// A turn, from its prompt to its result.
struct Turn {
    uuid: Option<String>,
    started_ms: u64,
    /// When the last act was due: the next is due its pause later.
    clock_ms: u64,
    /// What comes, each with the pause before it. Empty only while an answer is awaited.
    acts: VecDeque<(u64, Act)>,
    /// Steps of the script that are still to come, one API request each.
    steps: VecDeque<String>,
    /// The message that streams.
    message: Option<Streamed>,
    /// The tool call that asks, or runs.
    call: Option<Call>,
    /// The open request that asks for `call`.
    asking: Option<String>,
    /// What to say when a tool was the last step.
    after_tool: Option<String>,
    requests: u32,
    tokens: u64,
    /// The last text: the turn's result.
    text: String,
    denials: Vec<Value>,
}

/// One thing to do.
enum Act {
    Begin,
    /// Take the next step of the script, or end.
    Step,
    Request,
    Retry(u32, u16),
    MessageStart,
    BlockStart,
    Piece,
    BlockStop,
    MessageStop,
    Ask,
    /// The tool ends with this outcome.
    ToolEnd(Outcome),
    Fail(u16),
    End(End),
}

struct Streamed {
    id: String,
    blocks: VecDeque<Block>,
    index: u32,
    /// A block is open, and this much of it was told.
    open: Option<usize>,
    pause_ms: u64,
}

struct Block {
    kind: Kind,
    /// All of it; of a tool call, its input.
    text: String,
    cut: Cut,
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Text,
    Thinking,
    Tool,
}

/// Where a block's text is cut into deltas.
#[derive(Clone, Copy)]
enum Cut {
    Words,
    Every(usize),
    Never,
}

#[derive(Clone)]
struct Call {
    id: String,
    tool: &'static str,
    input: Value,
}

struct Outcome {
    is_error: bool,
    content: String,
    structured: Value,
}

/// How a turn ends.
struct End {
    subtype: &'static str,
    is_error: bool,
    reason: &'static str,
    status: Option<u16>,
}

impl End {
    const DONE: End =
        End { subtype: "success", is_error: false, reason: "completed", status: None };

    fn aborted(reason: &'static str) -> End {
        End { subtype: "error_during_execution", is_error: true, reason, status: None }
    }
}

impl Voice {
    fn number(&mut self) -> u64 {
        // splitmix64: any seed will do, 0 too.
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.random;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn uuid(&mut self) -> String {
        let (high, low) = (self.number(), self.number());
        format!(
            "{:08x}-{:04x}-4{:03x}-{:04x}-{:012x}",
            high >> 32,
            high >> 16 & 0xffff,
            high & 0xfff,
            low >> 48 & 0x3fff | 0x8000,
            low & 0xffff_ffff_ffff
        )
    }

    fn id(&mut self, kind: &str) -> String {
        format!("{kind}_demo_{:016x}", self.number())
    }

    fn bare(&mut self, line: &Value) {
        // Writing to memory does not fail, and a `Value` always has a JSON form.
        let written = serde_json::to_writer(&mut self.out, line);
        debug_assert!(written.is_ok());
        self.out.push(b'\n');
    }

    /// A line of a turn: with its conversation and an id of its own.
    fn tell(&mut self, mut line: Value) {
        line["session_id"] = self.conversation_id.as_str().into();
        line["uuid"] = self.uuid().into();
        self.bare(&line);
    }

    fn stream(&mut self, message_id: &str, event: Value) {
        self.tell(json!({"type": "stream_event", "event": event, "parent_tool_use_id": null,
            "api_message_id": message_id}));
    }

    fn assistant(&mut self, message_id: &str, model: &str, content: Value, aborted: bool) {
        let mut line = json!({"type": "assistant", "parent_tool_use_id": null, "message": {
            "id": message_id, "type": "message", "role": "assistant", "model": model,
            "content": [content], "stop_reason": null, "usage": usage(0)}});
        if aborted {
            line["aborted"] = true.into();
        }
        self.tell(line);
    }

    fn user(&mut self, content: Value) {
        let message = json!({"role": "user", "content": content});
        self.tell(json!({"type": "user", "message": message, "parent_tool_use_id": null}));
    }

    fn lifecycle(&mut self, uuid: &Option<String>, state: &str) {
        if let Some(uuid) = uuid {
            self.tell(json!({"type": "command_lifecycle", "command_uuid": uuid, "state": state}));
        }
    }

    fn success(&mut self, request_id: &str, response: Value) {
        self.bare(&json!({"type": "control_response", "response": {"subtype": "success",
            "request_id": request_id, "response": response}}));
    }

    fn failure(&mut self, request_id: &str, error: &str, code: &str) {
        self.bare(&json!({"type": "control_response", "response": {"subtype": "error",
            "request_id": request_id, "error": error, "error_code": code}}));
    }
}

fn usage(output_tokens: u64) -> Value {
    json!({"input_tokens": 100, "output_tokens": output_tokens,
        "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0})
}

impl Demo {
    /// Makes an agent of this conversation. `names` are what stands in its working directory.
    pub fn new(conversation_id: &str, mut names: Vec<String>, seed: u64) -> Demo {
        names.sort();
        let voice =
            Voice { conversation_id: conversation_id.to_owned(), random: seed, out: Vec::new() };
        Demo {
            voice,
            names,
            mode: "default".to_owned(),
            model: "demo".to_owned(),
            rules: Vec::new(),
            bypass_allowed: false,
            turn: None,
            queue: VecDeque::new(),
            cost_nanos: 0,
            last_failed: false,
            broken: false,
            input_ended: false,
        }
    }

    /// Starts in this permission mode, as `--permission-mode` says; an unknown one is ignored.
    pub fn set_mode(&mut self, mode: &str) {
        if MODES.contains(&mode) {
            mode.clone_into(&mut self.mode);
        }
    }

    /// Starts with this model, as `--model` says.
    pub fn set_model(&mut self, model: &str) {
        model.clone_into(&mut self.model);
    }

    /// Lets this command run without being asked for.
    pub fn allow_command(&mut self, command: &str) {
        self.rules.push(command.to_owned());
    }

    /// Lets the mode `bypassPermissions` be chosen later.
    pub fn allow_bypass(&mut self) {
        self.bypass_allowed = true;
    }

    /// Takes one line of stdin, without its newline. What is not JSON breaks the agent, as it
    /// does the CLI; what it does not know it ignores.
    pub fn line(&mut self, now_ms: u64, line: &[u8]) {
        if self.broken || line.trim_ascii().is_empty() {
            return;
        }
        let Ok(line) = json::value(line) else {
            self.broken = true;
            return;
        };
        self.advance(now_ms); // What was due before this line came is said before it is read.
        let request_id = line["request_id"].as_str().unwrap_or_default();
        match line["type"].as_str() {
            Some("user") => self.prompt(now_ms, &line),
            Some("control_request") => self.request(now_ms, request_id, &line["request"]),
            Some("control_response") => self.answer(now_ms, &line["response"]),
            _ => {}
        }
    }

    /// Appends the lines that are due, at most about 64 KiB and one line, and says when the next
    /// is due: now or earlier if there is more already, `None` if it waits for input.
    pub fn poll(&mut self, now_ms: u64, out: &mut Vec<u8>) -> Option<u64> {
        self.advance(now_ms);
        out.append(&mut self.voice.out);
        let turn = self.turn.as_ref()?;
        turn.acts.front().map(|(pause_ms, _)| turn.clock_ms.saturating_add(*pause_ms))
    }

    /// Does what is due, until enough is said for one poll.
    fn advance(&mut self, now_ms: u64) {
        while self.voice.out.len() < POLL_BYTES {
            let Some(turn) = &mut self.turn else { break };
            let Some((pause_ms, _)) = turn.acts.front() else { break };
            if turn.clock_ms.saturating_add(*pause_ms) > now_ms {
                break;
            }
            let Some((pause_ms, act)) = turn.acts.pop_front() else { break };
            turn.clock_ms = turn.clock_ms.saturating_add(pause_ms);
            self.perform(act);
        }
    }

    /// Stdin came to its end. What runs goes on to its end; what asks will get no answer.
    pub fn input_ended(&mut self, now_ms: u64) {
        self.advance(now_ms);
        self.input_ended = true;
        self.leave_unanswered(now_ms);
    }

    /// Denies what asks, since no answer can come any more.
    fn leave_unanswered(&mut self, now_ms: u64) {
        let asking = self.turn.as_mut().and_then(|turn| turn.asking.take());
        if asking.is_some() {
            let text = "Tool permission stream closed before response received";
            self.deny(now_ms, text.to_owned());
        }
    }

    /// The exit status, once nothing is left to do: stdin has ended and no turn runs, or a line
    /// was not JSON.
    pub fn exit_status(&self) -> Option<i32> {
        match (self.broken, self.input_ended && self.turn.is_none()) {
            (true, _) => Some(1),
            (false, true) => Some(i32::from(self.last_failed)),
            (false, false) => None,
        }
    }

    fn prompt(&mut self, now_ms: u64, line: &Value) {
        let text = match &line["message"]["content"] {
            Value::String(text) => text.clone(),
            Value::Array(blocks) => {
                let texts: Vec<_> = blocks.iter().filter_map(|b| b["text"].as_str()).collect();
                texts.join("\n")
            }
            _ => return,
        };
        let prompt = Prompt { text, uuid: line["uuid"].as_str().map(str::to_owned) };
        self.voice.lifecycle(&prompt.uuid, "queued");
        self.queue.push_back(prompt);
        if self.turn.is_none() {
            self.next_turn(now_ms);
        }
    }

    fn next_turn(&mut self, now_ms: u64) {
        let Some(Prompt { text, uuid }) = self.queue.pop_front() else { return };
        self.turn = Some(Turn {
            uuid,
            started_ms: now_ms,
            clock_ms: now_ms,
            acts: VecDeque::from([(0, Act::Begin)]),
            steps: text.split(";;").map(|step| step.trim().to_owned()).collect(),
            message: None,
            call: None,
            asking: None,
            after_tool: None,
            requests: 0,
            tokens: 0,
            text: String::new(),
            denials: Vec::new(),
        });
    }

    fn request(&mut self, now_ms: u64, request_id: &str, request: &Value) {
        match request["subtype"].as_str().unwrap_or_default() {
            "initialize" => {
                let body = json!({"commands": [], "agents": [], "output_style": "default",
                    "models": [{"value": "demo", "displayName": "Demo",
                        "description": "Canned answers; runs nothing"}],
                    "account": {"tokenSource": "none", "apiKeySource": "demo"},
                    "claude_code_version": VERSION, "current_permission_mode": self.mode,
                    "session_state": if self.turn.is_some() { "running" } else { "idle" }});
                self.voice.success(request_id, body);
            }
            "interrupt" => self.interrupt(now_ms, request_id, request),
            "set_permission_mode" => {
                let mode = request["mode"].as_str().unwrap_or_default();
                let error = "Cannot set permission mode to";
                if mode == "bypassPermissions" && !self.bypass_allowed {
                    let error = format!(
                        "{error} bypassPermissions because the session was not launched with \
                         --dangerously-skip-permissions"
                    );
                    self.voice.failure(request_id, &error, "bypass_not_launched");
                } else if MODES.contains(&mode) {
                    self.voice.success(request_id, json!({"mode": mode}));
                    self.change_mode(mode);
                } else {
                    self.voice.failure(request_id, &format!("{error} {mode}"), "invalid_mode");
                }
            }
            "set_model" => {
                let model = request["model"].as_str().unwrap_or("demo");
                model.clone_into(&mut self.model);
                self.voice.success(request_id, json!({}));
                let text =
                    format!("<local-command-stdout>Set model to {model}</local-command-stdout>");
                let message = json!({"role": "user", "content": text});
                self.voice.tell(json!({"type": "user", "message": message, "isReplay": true,
                    "parent_tool_use_id": null}));
            }
            other => {
                let error = format!("Unsupported control request subtype: {other}");
                self.voice.failure(request_id, &error, "unsupported_request");
            }
        }
    }

    fn change_mode(&mut self, mode: &str) {
        mode.clone_into(&mut self.mode);
        self.voice.tell(json!({"type": "system", "subtype": "status", "status": null,
            "permissionMode": mode}));
    }

    /// The order of the lines is the CLI's: the open question is withdrawn, the request is
    /// answered, what streams is cut short, the turn ends.
    fn interrupt(&mut self, now_ms: u64, request_id: &str, request: &Value) {
        let asking = self.turn.as_mut().and_then(|turn| turn.asking.take());
        if let Some(asking) = asking {
            self.voice.bare(&json!({"type": "control_cancel_request", "request_id": asking}));
        }
        let uuids: Vec<_> = self.queue.iter().filter_map(|prompt| prompt.uuid.clone()).collect();
        if request["cancel_queued"] == true {
            self.queue.clear();
            self.voice.success(request_id, json!({"still_queued": [], "cancelled": &uuids}));
            for uuid in uuids {
                self.voice.lifecycle(&Some(uuid), "cancelled");
            }
        } else {
            self.voice.success(request_id, json!({"still_queued": uuids}));
        }
        let Some(turn) = &mut self.turn else { return };
        turn.clock_ms = now_ms.max(turn.clock_ms);
        turn.acts.clear();
        let (message, call) = (turn.message.take(), turn.call.take());
        // A call whose message still streams has not begun, so it has no result either.
        let during_tool = message.is_none() && call.is_some();
        if let Some(message) = message {
            self.cut_short(message);
        } else if let Some(call) = call {
            let text = "The user doesn't want to proceed with this tool use.";
            self.voice.user(json!([{"type": "tool_result", "tool_use_id": call.id,
                "is_error": true, "content": text}]));
        }
        let (text, reason) = match during_tool {
            true => ("[Request interrupted by user for tool use]", "aborted_tools"),
            false => ("[Request interrupted by user]", "aborted_streaming"),
        };
        self.voice.user(json!([{"type": "text", "text": text}]));
        self.end(End::aborted(reason));
    }

    /// Ends a streamed message in the middle.
    fn cut_short(&mut self, message: Streamed) {
        let block = message.blocks.front();
        if let (Some(told), Some(block)) = (message.open, block) {
            let content = match block.kind {
                Kind::Text => Some(json!({"type": "text", "text": &block.text[..told]})),
                Kind::Thinking => {
                    Some(json!({"type": "thinking", "thinking": &block.text[..told]}))
                }
                Kind::Tool => None,
            };
            if let Some(content) = content.filter(|_| told > 0) {
                self.voice.assistant(&message.id, &self.model, content, true);
            }
            let stop = json!({"type": "content_block_stop", "index": message.index});
            self.voice.stream(&message.id, stop);
        }
        self.voice.stream(&message.id, json!({"type": "message_stop"}));
    }

    /// An answer to `can_use_tool`. One that comes too late is ignored.
    fn answer(&mut self, now_ms: u64, response: &Value) {
        let Some(turn) = &mut self.turn else { return };
        if turn.asking.is_none() || turn.asking.as_deref() != response["request_id"].as_str() {
            return;
        }
        turn.asking = None;
        let decision = &response["response"];
        let message = decision["message"].as_str().or(response["error"].as_str());
        let message = message.unwrap_or("The answer was not understood").to_owned();
        if decision["behavior"] == "allow" {
            self.allow(now_ms, decision);
        } else if decision["interrupt"] == true {
            self.deny(now_ms, message);
            let Some(turn) = &mut self.turn else { return };
            turn.acts.truncate(1); // The tool's end, and then no next step.
            turn.acts.push_back((0, Act::End(End::aborted("aborted_tools"))));
        } else {
            self.deny(now_ms, message);
        }
    }

    fn allow(&mut self, now_ms: u64, decision: &Value) {
        for update in decision["updatedPermissions"].as_array().into_iter().flatten() {
            match update["type"].as_str() {
                Some("setMode") => {
                    let mode = update["mode"].as_str().unwrap_or_default();
                    if MODES.contains(&mode) && (mode != "bypassPermissions" || self.bypass_allowed)
                    {
                        self.change_mode(mode);
                    }
                }
                Some("addRules") => {
                    let rules = update["rules"].as_array().into_iter().flatten();
                    let contents = rules.filter_map(|rule| rule["ruleContent"].as_str());
                    self.rules.extend(contents.map(str::to_owned));
                }
                _ => {}
            }
        }
        let Some(turn) = &mut self.turn else { return };
        turn.clock_ms = now_ms.max(turn.clock_ms);
        if let (Some(call), true) = (&mut turn.call, decision["updatedInput"].is_object()) {
            call.input = decision["updatedInput"].clone();
        }
        self.run_tool();
    }

    fn deny(&mut self, now_ms: u64, message: String) {
        let Some(turn) = &mut self.turn else { return };
        let Some(call) = &turn.call else { return };
        turn.clock_ms = now_ms.max(turn.clock_ms);
        turn.denials.push(json!({"tool_name": call.tool, "tool_use_id": call.id,
            "tool_input": call.input}));
        turn.after_tool = Some("All right, I leave it.".to_owned());
        let structured = format!("Error: {message}").into();
        let outcome = Outcome { is_error: true, content: message, structured };
        turn.acts.push_back((0, Act::ToolEnd(outcome)));
        turn.acts.push_back((0, Act::Step));
    }

    /// The tool may run: its end is made up here, and told a little later.
    fn run_tool(&mut self) {
        let Some(Turn { call: Some(call), .. }) = &self.turn else { return };
        let mut after = "Done.".to_owned();
        let (content, structured) = match call.tool {
            "AskUserQuestion" => {
                let answers = answers_of(&call.input);
                after = format!("Thank you. You answered: {answers}.");
                let text = format!(
                    "Your questions have been answered: {answers}. You can now \
                    continue with these answers in mind."
                );
                (text, call.input.clone())
            }
            "ExitPlanMode" => {
                after = "The plan is approved. The demo agent stops here: it runs nothing.".into();
                ("User has approved your plan. You can now start.".into(), call.input.clone())
            }
            _ => {
                let command = call.input["command"].as_str().unwrap_or_default();
                let text = format!("The demo agent runs nothing. This would have run:\n{command}");
                let structured = json!({"stdout": text, "stderr": "", "interrupted": false,
                    "isImage": false});
                (text, structured)
            }
        };
        let plan_done = call.tool == "ExitPlanMode" && self.mode == "plan";
        if let Some(turn) = &mut self.turn {
            turn.after_tool = Some(after);
            let outcome = Outcome { is_error: false, content, structured };
            turn.acts.push_back((TOOL_MS, Act::ToolEnd(outcome)));
            turn.acts.push_back((0, Act::Step));
        }
        if plan_done {
            self.change_mode("default");
        }
    }

    fn perform(&mut self, act: Act) {
        match act {
            Act::Begin => self.begin(),
            Act::Step => self.step(),
            Act::Request => self
                .voice
                .tell(json!({"type": "system", "subtype": "status", "status": "requesting"})),
            Act::Retry(attempt, code) => self.voice.tell(json!({"type": "system",
                "subtype": "api_retry", "attempt": attempt, "max_retries": 2,
                "retry_delay_ms": RETRY_MS, "error_status": code,
                "error": if code == 529 { "overloaded" } else { error_name(code) }})),
            Act::MessageStart => self.message_start(),
            Act::BlockStart => self.block_start(),
            Act::Piece => self.piece(),
            Act::BlockStop => self.block_stop(),
            Act::MessageStop => self.message_stop(),
            Act::Ask => self.ask(),
            Act::ToolEnd(outcome) => self.tool_end(outcome),
            Act::Fail(code) => self.fail(code),
            Act::End(end) => self.end(end),
        }
    }

    fn begin(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        self.voice.lifecycle(&turn.uuid, "started");
        if turn.steps.front().is_some_and(|step| step == "/clear") {
            turn.steps.pop_front();
            let fresh = self.voice.uuid();
            self.voice.bare(&json!({"type": "conversation_reset", "new_conversation_id": fresh}));
            self.voice.conversation_id = fresh;
        }
        turn.acts.push_back((0, Act::Step));
        self.voice.tell(json!({"type": "system", "subtype": "init", "model": self.model,
            "permissionMode": self.mode, "claude_code_version": VERSION, "apiKeySource": "demo",
            "tools": ["Bash", "AskUserQuestion", "ExitPlanMode"], "mcp_servers": [],
            "slash_commands": ["clear"], "output_style": "default"}));
    }

    /// Plans the next API request.
    fn step(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        let after_tool = turn.after_tool.take();
        let plan = match (turn.steps.pop_front(), after_tool) {
            (Some(step), _) => script(&step, &self.names),
            (None, Some(text)) => Plan::text(text),
            (None, None) => {
                turn.acts.push_back((0, Act::End(End::DONE)));
                return;
            }
        };
        turn.requests += 1;
        turn.acts.push_back((0, Act::Request));
        if let Some(code) = plan.error {
            if matches!(code, 401 | 429 | 500..) {
                turn.acts.push_back((LATENCY_MS, Act::Retry(1, code)));
                turn.acts.push_back((RETRY_MS, Act::Retry(2, code)));
            }
            turn.acts.push_back((RETRY_MS, Act::Fail(code)));
            return;
        }
        let mut blocks = VecDeque::from(plan.blocks);
        if let Some((tool, input)) = plan.call {
            let text = json::text(&input);
            blocks.push_back(Block { kind: Kind::Tool, text, cut: Cut::Every(32) });
            turn.call = Some(Call { id: self.voice.id("toolu"), tool, input });
        }
        let id = self.voice.id("msg");
        turn.message = Some(Streamed { id, blocks, index: 0, open: None, pause_ms: plan.pause_ms });
        turn.acts.push_back((LATENCY_MS, Act::MessageStart));
    }

    fn message_start(&mut self) {
        let Some(Turn { message: Some(message), acts, .. }) = &mut self.turn else { return };
        let body = json!({"id": message.id, "type": "message", "role": "assistant",
            "model": self.model, "content": [], "stop_reason": null, "usage": usage(1)});
        self.voice.stream(&message.id, json!({"type": "message_start", "message": body}));
        acts.push_back((0, Act::BlockStart));
    }

    fn block_start(&mut self) {
        let Some(Turn { message: Some(message), acts, call, .. }) = &mut self.turn else { return };
        let Some(block) = message.blocks.front() else { return };
        let body = match (block.kind, call) {
            (Kind::Text, _) => json!({"type": "text", "text": ""}),
            (Kind::Thinking, _) => json!({"type": "thinking", "thinking": "", "signature": ""}),
            (Kind::Tool, Some(call)) => {
                json!({"type": "tool_use", "id": call.id, "name": call.tool, "input": {}})
            }
            (Kind::Tool, None) => return,
        };
        message.open = Some(0);
        self.voice.stream(
            &message.id,
            json!({"type": "content_block_start", "index": message.index, "content_block": body}),
        );
        acts.push_back((0, Act::Piece));
    }

    fn piece(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        let Some(message) = &mut turn.message else { return };
        let Some(block) = message.blocks.front() else { return };
        let told = message.open.unwrap_or(0);
        let end = told + block.cut.piece(&block.text[told..]);
        if end > told {
            let text = &block.text[told..end];
            let delta = match block.kind {
                Kind::Text => json!({"type": "text_delta", "text": text}),
                Kind::Thinking => json!({"type": "thinking_delta", "thinking": text}),
                Kind::Tool => json!({"type": "input_json_delta", "partial_json": text}),
            };
            self.voice.stream(
                &message.id,
                json!({"type": "content_block_delta", "index": message.index, "delta": delta}),
            );
            turn.tokens += 1;
        }
        message.open = Some(end);
        let pause_ms = if block.kind == Kind::Tool { 0 } else { message.pause_ms };
        let next = if end < block.text.len() { Act::Piece } else { Act::BlockStop };
        turn.acts.push_back((pause_ms, next));
    }

    fn block_stop(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        let Some(message) = &mut turn.message else { return };
        let Some(block) = message.blocks.pop_front() else { return };
        let content = match (block.kind, &turn.call) {
            (Kind::Thinking, _) => {
                json!({"type": "thinking", "thinking": block.text, "signature": "ZGVtbw=="})
            }
            (Kind::Tool, Some(call)) => {
                json!({"type": "tool_use", "id": call.id, "name": call.tool, "input": call.input})
            }
            _ => {
                turn.text.clone_from(&block.text);
                json!({"type": "text", "text": block.text})
            }
        };
        self.voice.assistant(&message.id, &self.model, content, false);
        self.voice
            .stream(&message.id, json!({"type": "content_block_stop", "index": message.index}));
        message.open = None;
        message.index += 1;
        let more = !message.blocks.is_empty();
        turn.acts.push_back((0, if more { Act::BlockStart } else { Act::MessageStop }));
    }

    fn message_stop(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        let Some(message) = turn.message.take() else { return };
        let (reason, next) = match turn.call {
            Some(_) => ("tool_use", Act::Ask),
            None => ("end_turn", Act::Step),
        };
        self.voice.stream(
            &message.id,
            json!({"type": "message_delta",
            "delta": {"stop_reason": reason, "stop_sequence": null}, "usage": usage(turn.tokens)}),
        );
        self.voice.stream(&message.id, json!({"type": "message_stop"}));
        turn.acts.push_back((0, next));
    }

    fn ask(&mut self) {
        let Some(turn) = &mut self.turn else { return };
        let Some(call) = &turn.call else { return };
        let interactive = call.tool != "Bash";
        let command = call.input["command"].as_str().unwrap_or_default();
        let ruled =
            self.mode == "bypassPermissions" || self.rules.iter().any(|rule| rule == command);
        if !interactive && ruled {
            return self.run_tool();
        }
        if !interactive && self.mode == "dontAsk" {
            let message = "Permission to use Bash has been denied: nobody may be asked.";
            self.voice.tell(json!({"type": "system", "subtype": "permission_denied",
                "tool_name": call.tool, "tool_use_id": call.id, "message": message}));
            let now_ms = turn.clock_ms;
            return self.deny(now_ms, message.to_owned());
        }
        let mut request = json!({"subtype": "can_use_tool", "tool_name": call.tool,
            "display_name": call.tool, "input": call.input, "tool_use_id": call.id});
        if interactive {
            request["requires_user_interaction"] = true.into();
        } else {
            request["description"] = call.input["description"].clone();
            request["permission_suggestions"] = json!([
                {"type": "addRules", "rules": [{"toolName": "Bash", "ruleContent": command}],
                    "behavior": "allow", "destination": "session"},
                {"type": "setMode", "mode": "acceptEdits", "destination": "session"}]);
        }
        let id = self.voice.uuid();
        self.voice.bare(&json!({"type": "control_request", "request_id": id, "request": request}));
        turn.asking = Some(id);
        if self.input_ended {
            let now_ms = turn.clock_ms;
            self.leave_unanswered(now_ms);
        }
    }

    fn tool_end(&mut self, outcome: Outcome) {
        let Some(call) = self.turn.as_mut().and_then(|turn| turn.call.take()) else { return };
        let decision = if outcome.is_error { "reject" } else { "accept" };
        let content = json!([{"type": "tool_result", "tool_use_id": call.id,
            "content": outcome.content, "is_error": outcome.is_error}]);
        self.voice.tell(json!({"type": "user", "parent_tool_use_id": null,
            "message": {"role": "user", "content": content},
            "tool_use_result": outcome.structured, "tool_result_meta": [{"id": call.id,
                "permission_decision": {"decision": decision, "source": "user_temporary"}}]}));
    }

    /// The API refused, as the CLI tells it: a message of its own, and a turn that failed.
    fn fail(&mut self, code: u16) {
        let Some(turn) = &mut self.turn else { return };
        turn.text = format!("API Error: {code} (made up by the demo agent)");
        let id = self.voice.uuid();
        self.voice.tell(json!({"type": "assistant", "parent_tool_use_id": null,
            "message": {"id": id, "type": "message", "role": "assistant", "model": "<synthetic>",
                "content": [{"type": "text", "text": turn.text}], "usage": usage(0)},
            "error": error_name(code), "is_api_error_message": true, "api_error_status": code}));
        self.end(End { is_error: true, reason: "api_error", status: Some(code), ..End::DONE });
    }

    /// The result, and the next prompt of the queue.
    fn end(&mut self, end: End) {
        let Some(turn) = self.turn.take() else { return };
        self.last_failed = end.is_error;
        self.cost_nanos += 500_000 * u64::from(turn.requests) + 25_000 * turn.tokens;
        let mut line = json!({"type": "result", "subtype": end.subtype,
            "is_error": end.is_error, "duration_ms": turn.clock_ms - turn.started_ms,
            "num_turns": turn.requests, "total_cost_usd": self.cost_nanos as f64 / 1e9,
            "usage": {"input_tokens": 100 * turn.requests, "output_tokens": turn.tokens,
                "cache_creation_input_tokens": 0, "cache_read_input_tokens": 0},
            "permission_denials": turn.denials, "terminal_reason": end.reason,
            "api_error_status": end.status, "queued_turn_count": self.queue.len(),
            "user_message_uuids": turn.uuid.iter().collect::<Vec<_>>()});
        if end.subtype == "success" {
            line["result"] = turn.text.into();
        } else {
            line["errors"] = json!([format!("[demo] {}", end.reason)]);
        }
        self.voice.tell(line);
        self.voice.lifecycle(&turn.uuid, "completed");
        self.next_turn(turn.clock_ms);
    }
}

/// What one API request answers.
struct Plan {
    blocks: Vec<Block>,
    call: Option<(&'static str, Value)>,
    pause_ms: u64,
    error: Option<u16>,
}

impl Plan {
    fn text(text: String) -> Plan {
        let blocks = vec![Block { kind: Kind::Text, text, cut: Cut::Words }];
        Plan { blocks, call: None, pause_ms: WORD_MS, error: None }
    }

    /// A text whose pieces follow each other at once.
    fn rush(text: String, cut: Cut) -> Plan {
        let blocks = vec![Block { kind: Kind::Text, text, cut }];
        Plan { blocks, call: None, pause_ms: 0, error: None }
    }

    fn call(text: &str, tool: &'static str, input: Value) -> Plan {
        Plan { call: Some((tool, input)), ..Plan::text(text.to_owned()) }
    }
}

impl Cut {
    /// How many bytes of a text the next delta takes.
    fn piece(self, text: &str) -> usize {
        match self {
            Cut::Never => text.len(),
            Cut::Every(bytes) => {
                let ends = text.char_indices().map(|(at, character)| at + character.len_utf8());
                ends.take_while(|&end| end <= bytes.max(4)).last().unwrap_or(0)
            }
            Cut::Words => {
                let word = text.find(|next: char| !next.is_whitespace()).unwrap_or(text.len());
                let end = text[word..].find(char::is_whitespace).map_or(text.len(), |at| word + at);
                let rest = &text[end..];
                end + rest.find(|next: char| !next.is_whitespace()).unwrap_or(rest.len())
            }
        }
    }
}

/// Says what a step of a script answers. A step that is no script is answered with help.
fn script(step: &str, names: &[String]) -> Plan {
    let lower = step.to_ascii_lowercase();
    let mut words = lower.split_ascii_whitespace();
    let first = words.next().unwrap_or_default();
    let mut number = || words.next().and_then(|word| word.parse::<u64>().ok());
    match first {
        "" => return Plan::text("Done.".to_owned()),
        "say" => {
            if let Some(count) = number() {
                return Plan::text(counted_words(count));
            }
        }
        "slow" => {
            let text = counted_words(number().unwrap_or(20));
            let pause_ms = number().unwrap_or(200).min(PAUSE_MS_MAX);
            return Plan { pause_ms, ..Plan::text(text) };
        }
        "big" => {
            if let Some(bytes) = number() {
                let bytes = usize::try_from(bytes).unwrap_or(usize::MAX).min(TEXT_BYTES_MAX);
                let mut text = "0123456789abcdef".repeat(bytes / 16 + 1);
                text.truncate(bytes);
                return Plan::rush(text, Cut::Never);
            }
        }
        "deltas" => {
            if let Some(count) = number() {
                let count = usize::try_from(count).unwrap_or(usize::MAX).min(TEXT_BYTES_MAX / 2);
                return Plan::rush("x ".repeat(count), Cut::Words);
            }
        }
        "error" => {
            if let Some(code) = number().and_then(|code| u16::try_from(code).ok()) {
                return Plan { error: Some(code.clamp(400, 599)), ..Plan::text(String::new()) };
            }
        }
        "ls" if lower.split_ascii_whitespace().skip(1).all(|flag| flag.starts_with('-')) => {
            return Plan::text(listing(names, lower.contains('a')));
        }
        _ => {}
    }
    for (prefix, plan) in SCRIPTS {
        if lower.starts_with(prefix) {
            return plan(step[prefix.len()..].trim());
        }
    }
    let said: String = step.chars().take(200).collect();
    Plan::text(format!("You said: {said}\n\n{HELP}"))
}

type Script = fn(&str) -> Plan;

/// The steps that take the rest of their text.
const SCRIPTS: [(&str, Script); 5] = [
    ("say:", |text| Plan::text(text.to_owned())),
    ("think:", |text| {
        let mut plan = Plan::text("Thought.".to_owned());
        let thought = Block { kind: Kind::Thinking, text: text.to_owned(), cut: Cut::Words };
        plan.blocks.insert(0, thought);
        plan
    }),
    ("run tool:", |command| {
        let input = json!({"command": command, "description": "A command of the demo"});
        Plan::call("I would like to run a command.", "Bash", input)
    }),
    ("ask:", |text| {
        let (question, options) = text.split_once('?').unwrap_or((text, ""));
        let options = options.split('|').map(str::trim).filter(|option| !option.is_empty());
        let options: Vec<_> = options
            .map(|option| json!({"label": option, "description": format!("choose {option}")}))
            .collect();
        let question = format!("{}?", question.trim());
        let questions = json!([{"question": question, "header": "Choice", "options": options,
            "multiSelect": false}]);
        Plan::call("I have a question.", "AskUserQuestion", json!({"questions": questions}))
    }),
    ("plan:", |plan| Plan::call("Here is my plan.", "ExitPlanMode", json!({"plan": plan}))),
];

fn counted_words(count: u64) -> String {
    let mut text = String::new();
    for number in 1..=count {
        if text.len() + 32 > TEXT_BYTES_MAX {
            break;
        }
        text.push_str("word");
        text.push_str(&number.to_string());
        text.push(' ');
    }
    text
}

fn listing(names: &[String], hidden: bool) -> String {
    let shown = || names.iter().filter(|name| hidden || !name.starts_with('.'));
    let mut text = String::new();
    for name in shown().take(NAMES_MAX) {
        text.push_str(name);
        text.push('\n');
    }
    match shown().count() {
        0 => text.push_str("The working directory is empty.\n"),
        count if count > NAMES_MAX => {
            text.push_str(&format!("… and {} more\n", count - NAMES_MAX));
        }
        _ => {}
    }
    text
}

/// The answers in the input that came back, as the CLI words them.
fn answers_of(input: &Value) -> String {
    let answers = input["answers"].as_object().into_iter().flatten();
    let answers = answers.map(|(question, answer)| match answer.as_str() {
        Some(answer) => format!("\"{question}\"=\"{answer}\""),
        None => format!("\"{question}\"={}", json::text(answer)),
    });
    answers.collect::<Vec<_>>().join(", ")
}

/// What the CLI calls an HTTP status of the API.
fn error_name(code: u16) -> &'static str {
    match code {
        401 | 403 => "authentication_failed",
        404 => "model_not_found",
        429 => "rate_limit",
        500.. => "server_error",
        _ => "unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::claude::{self, Message, Parsed};

    const ID: &str = "1ad72875-9f3d-4b98-9ecc-e8349dc3e302";

    /// A demo with everything it said.
    struct Talk {
        demo: Demo,
        now_ms: u64,
        said: Vec<String>,
    }

    impl Talk {
        fn new() -> Talk {
            let names = ["b.txt", ".git", "a dir"].map(String::from).into();
            Talk { demo: Demo::new(ID, names, 7), now_ms: 0, said: Vec::new() }
        }

        fn take(&mut self) -> Option<u64> {
            let mut out = Vec::new();
            let next = self.demo.poll(self.now_ms, &mut out);
            let text = String::from_utf8(out).unwrap();
            self.said.extend(text.lines().map(str::to_owned));
            next
        }

        fn write(&mut self, encode: impl FnOnce(&mut Vec<u8>)) {
            let mut line = Vec::new();
            encode(&mut line);
            self.demo.line(self.now_ms, line.strip_suffix(b"\n").unwrap());
        }

        /// Goes from due to due until it waits for input, and gives what it said.
        fn rest(&mut self) -> Vec<String> {
            while let Some(due_ms) = self.take() {
                self.now_ms = self.now_ms.max(due_ms);
            }
            for line in &self.said {
                let parsed = claude::parse(line.as_bytes());
                assert!(matches!(parsed, Parsed::Message(_)), "not understood: {line}");
            }
            std::mem::take(&mut self.said)
        }

        fn prompt(&mut self, text: &str) -> Vec<String> {
            self.write(|out| claude::user(out, text, &[], Some("u1")));
            self.rest()
        }
    }

    fn messages(lines: &[String]) -> Vec<Message<'_>> {
        let parsed = lines.iter().map(|line| match claude::parse(line.as_bytes()) {
            Parsed::Message(message) => message,
            other => panic!("{other:?}: {line}"),
        });
        parsed.collect()
    }

    /// The turn's texts: by the deltas, by the `assistant` lines; and its result.
    fn heard(lines: &[String]) -> (String, String, (String, bool, String, u32)) {
        let (mut deltas, mut whole, mut result) = (String::new(), String::new(), None);
        for message in messages(lines) {
            match message {
                Message::Delta { text, .. } => deltas.push_str(&text),
                Message::Assistant { blocks, .. } => {
                    for block in blocks {
                        match block {
                            claude::Block::Text { text } | claude::Block::Thinking { text } => {
                                whole.push_str(&text.text());
                            }
                            _ => {}
                        }
                    }
                }
                Message::Result(end) => {
                    assert!(result.is_none(), "two results");
                    let reason = end.terminal_reason.unwrap_or_default().into_owned();
                    let text = end.result.unwrap_or_default().into_owned();
                    result = Some((text, end.is_error, reason, end.denials));
                }
                _ => {}
            }
        }
        (deltas, whole, result.expect("a turn ends"))
    }

    fn approval(lines: &[String]) -> (String, String) {
        let asked = messages(lines).into_iter().find_map(|message| match message {
            Message::Approval { request_id, input, .. } => {
                Some((request_id.into_owned(), input.get().to_owned()))
            }
            _ => None,
        });
        asked.expect("it asks")
    }

    #[test]
    fn each_script_says_what_it_should() {
        for (prompt, result) in [
            ("say 3 words", "word1 word2 word3 "),
            ("SAY 2 WORDS", "word1 word2 "),
            ("say: a  b\u{e9}\n😀", "a  bé\n😀"),
            ("say:", ""),
            ("say 0 words", ""),
            ("slow 2 1", "word1 word2 "),
            ("think: so so", "Thought."),
            ("big 20", "0123456789abcdef0123"),
            ("deltas 3", "x x x "),
            ("ls -la", ".git\na dir\nb.txt\n"),
            ("ls", "a dir\nb.txt\n"),
            ("say: one ;; say: two", "two"),
        ] {
            let (deltas, whole, end) = heard(&Talk::new().prompt(prompt));
            assert_eq!(end, (result.to_owned(), false, "completed".to_owned(), 0), "{prompt}");
            assert_eq!(deltas, whole, "{prompt}");
        }
        for prompt in ["hello", "", "ls docs", "error", "big", "deltas x", "run", ";;"] {
            let (_, _, end) = heard(&Talk::new().prompt(prompt));
            assert!(
                !end.1 && (end.0.contains("demo agent") || end.0 == "Done."),
                "{prompt}: {end:?}"
            );
        }
    }

    #[test]
    fn a_turn_has_the_lines_of_the_cli_in_its_order() {
        let lines = Talk::new().prompt("say: hi you");
        let kinds: Vec<_> = lines
            .iter()
            .map(|line| {
                let value: Value = serde_json::from_str(line).unwrap();
                let parts = ["/type", "/subtype", "/state", "/event/type"];
                let parts = parts.iter().filter_map(|at| value.pointer(at)?.as_str());
                parts.collect::<Vec<_>>().join(" ")
            })
            .collect();
        assert_eq!(
            kinds,
            [
                "command_lifecycle queued",
                "command_lifecycle started",
                "system init",
                "system status",
                "stream_event message_start",
                "stream_event content_block_start",
                "stream_event content_block_delta",
                "stream_event content_block_delta",
                "assistant",
                "stream_event content_block_stop",
                "stream_event message_delta",
                "stream_event message_stop",
                "result success",
                "command_lifecycle completed",
            ]
        );
    }

    #[test]
    fn an_allowed_tool_says_what_it_would_have_run_and_a_rule_is_kept() {
        let mut talk = Talk::new();
        let (id, input) = approval(&talk.prompt("run tool: rm -rf / ;; say: ok"));
        assert!(input.contains("rm -rf /"));
        talk.write(|out| claude::allow(out, "stranger", "{}", None));
        assert!(talk.rest().is_empty(), "an answer to no question is ignored");
        let rules = r#"[{"type":"addRules","rules":[{"toolName":"Bash","ruleContent":"date"}]}]"#;
        talk.write(|out| claude::allow(out, &id, r#"{"command":"date"}"#, Some(rules)));
        let lines = talk.rest();
        let results = lines.iter().find(|line| line.contains("tool_result")).unwrap();
        assert!(results.contains("would have run:\\ndate"), "{results}");
        assert_eq!(heard(&lines).2.0, "ok");
        let again = talk.prompt("run tool: date");
        assert!(heard(&again).2.0.contains("Done"), "a rule allows it without asking");
    }

    #[test]
    fn a_denied_tool_is_an_error_and_the_turn_goes_on_unless_told_to_stop() {
        for (stop, reason) in [(false, "completed"), (true, "aborted_tools")] {
            let mut talk = Talk::new();
            let (id, _) = approval(&talk.prompt("run tool: x"));
            talk.write(|out| claude::deny(out, &id, "not today", stop));
            let lines = talk.rest();
            let told = messages(&lines).into_iter().find_map(|message| match message {
                Message::ToolResults { results, .. } => {
                    Some((results[0].is_error, results[0].denied))
                }
                _ => None,
            });
            assert_eq!(told, Some((true, true)));
            assert!(lines.iter().any(|line| line.contains("not today")));
            let (_, is_error, told, denials) = heard(&lines).2;
            assert_eq!((is_error, &*told, denials), (stop, reason, 1));
        }
    }

    #[test]
    fn questions_and_plans_ask_and_hear_the_answer() {
        let mut talk = Talk::new();
        let (id, input) = approval(&talk.prompt("ask: Which color? Red | Blue"));
        let mut input: Value = serde_json::from_str(&input).unwrap();
        assert_eq!(input["questions"][0]["question"], "Which color?");
        assert_eq!(input["questions"][0]["options"][1]["label"], "Blue");
        input["answers"] = json!({"Which color?": "Blue"});
        talk.write(|out| claude::allow(out, &id, &input.to_string(), None));
        assert!(heard(&talk.rest()).2.0.contains("\"Which color?\"=\"Blue\""));

        talk.write(|out| claude::set_mode(out, "m", "plan"));
        let (id, input) = approval(&talk.prompt("plan: first this"));
        assert!(input.contains("first this"));
        talk.write(|out| claude::allow(out, &id, &input, None));
        let lines = talk.rest();
        assert!(messages(&lines).iter().any(
            |message| matches!(message, Message::Status { mode: Some(mode), .. } if mode == "default")
        ));
    }

    #[test]
    fn an_error_of_the_api_is_told_as_the_cli_tells_it() {
        for (prompt, retries, name) in [
            ("error 401", 2, "authentication_failed"),
            ("error 404", 0, "model_not_found"),
            ("error 529", 2, "server_error"),
            ("error 7", 0, "unknown"),
        ] {
            let mut talk = Talk::new();
            let lines = talk.prompt(prompt);
            let (mut retried, mut told) = (0, None);
            for message in messages(&lines) {
                match message {
                    Message::ApiRetry { .. } => retried += 1,
                    Message::Assistant { error, synthetic: true, .. } => told = error,
                    _ => {}
                }
            }
            assert_eq!((retried, told.as_deref()), (retries, Some(name)), "{prompt}");
            let (_, is_error, reason, _) = heard(&lines).2;
            assert!(is_error && reason == "api_error");
            talk.demo.input_ended(talk.now_ms);
            assert_eq!(talk.demo.exit_status(), Some(1));
        }
    }

    #[test]
    fn an_interrupt_at_any_moment_ends_the_turn_once_and_the_next_prompt_runs() {
        let prompt = "say 4 words ;; run tool: x ;; error 529";
        for at_ms in (0..1_500).step_by(10) {
            let mut talk = Talk::new();
            talk.write(|out| claude::user(out, prompt, &[], None));
            talk.take();
            talk.now_ms = at_ms;
            while talk.take().is_some_and(|due_ms| due_ms <= at_ms) {}
            if let Some((id, _)) = talk
                .said
                .iter()
                .any(|line| line.contains("can_use_tool"))
                .then(|| approval(&talk.said))
                && at_ms % 20 == 0
            {
                talk.write(|out| claude::allow(out, &id, "{}", None));
            }
            let asks = talk.demo.turn.as_ref().is_some_and(|turn| turn.asking.is_some());
            let tool =
                talk.demo.turn.as_ref().is_some_and(|t| t.call.is_some() && t.message.is_none());
            let before = talk.said.len();
            talk.write(|out| claude::interrupt(out, "i"));
            talk.take();
            assert_eq!(talk.said[before..].iter().any(|l| l.contains("control_cancel")), asks);
            if asks {
                let cancel = talk.said.iter().position(|line| line.contains("control_cancel"));
                let receipt = talk.said.iter().position(|line| line.contains("still_queued"));
                assert!(cancel < receipt, "the question is withdrawn first");
            }
            let (deltas, whole, (_, is_error, reason, _)) = heard(&talk.rest());
            assert!(is_error);
            assert_eq!(reason, if tool { "aborted_tools" } else { "aborted_streaming" }, "{at_ms}");
            assert!(deltas.starts_with(&whole) || whole == deltas, "{deltas:?} {whole:?}");
            assert_eq!(heard(&talk.prompt("say: on")).2.0, "on");
        }
        let mut talk = Talk::new();
        talk.write(|out| claude::interrupt(out, "i"));
        assert_eq!(talk.rest().len(), 1, "idle: a receipt and no result");
    }

    #[test]
    fn prompts_during_a_turn_wait_and_can_be_cancelled() {
        let mut talk = Talk::new();
        for number in ["1", "2", "3"] {
            talk.write(|out| claude::user(out, &format!("say: {number}"), &[], Some(number)));
        }
        let lines = talk.rest();
        let results = lines.iter().filter(|line| line.contains("\"type\":\"result\"")).count();
        assert_eq!(results, 3);
        for number in ["1", "2"] {
            talk.write(|out| claude::user(out, "say: x", &[], Some(number)));
        }
        talk.demo.line(
            talk.now_ms,
            br#"{"type":"control_request","request_id":"i","request":{"subtype":"interrupt","cancel_queued":true}}"#,
        );
        let lines = talk.rest();
        assert!(lines.iter().any(|line| line.contains("\"cancelled\":[\"2\"]")), "{lines:#?}");
        assert_eq!(heard(&lines).2.2, "aborted_streaming");
    }

    #[test]
    fn requests_are_answered() {
        let mut talk = Talk::new();
        talk.write(|out| claude::initialize(out, "init"));
        let lines = talk.rest();
        let [Message::ControlResponse { request_id, outcome: Ok(Some(body)), .. }] =
            &messages(&lines)[..]
        else {
            panic!("{lines:?}")
        };
        assert_eq!(request_id, "init");
        let told = claude::initialize_reply(body).unwrap();
        assert_eq!((told.version.as_deref(), told.logged_in), (Some(VERSION), Some(true)));
        for (mode, fine) in [("acceptEdits", true), ("bypassPermissions", false), ("odd", false)] {
            talk.write(|out| claude::set_mode(out, "m", mode));
            assert_eq!(talk.rest().len(), 1 + usize::from(fine), "{mode}");
        }
        talk.demo.allow_bypass();
        talk.write(|out| claude::set_mode(out, "m", "bypassPermissions"));
        assert_eq!(talk.rest().len(), 2);
        assert!(heard(&talk.prompt("run tool: x")).2.0.contains("Done"), "unasked");
        talk.write(|out| claude::set_mode(out, "m", "dontAsk"));
        assert_eq!(heard(&talk.rest_of("run tool: x")).2.3, 1, "denied unasked");
        talk.write(|out| claude::set_model(out, "m", "opus"));
        let lines = talk.rest_of("say: x");
        assert!(messages(&lines).iter().any(
            |message| matches!(message, Message::Init { model: Some(model), .. } if model == "opus")
        ));
    }

    impl Talk {
        /// As `prompt`, without what was said before it.
        fn rest_of(&mut self, text: &str) -> Vec<String> {
            self.rest();
            self.prompt(text)
        }
    }

    #[test]
    fn clear_goes_on_under_a_new_id_and_costs_add_up() {
        let mut talk = Talk::new();
        let mut costs = Vec::new();
        for prompt in ["say: x", "/clear", "say: x"] {
            let lines = talk.prompt(prompt);
            for message in messages(&lines) {
                if let Message::Result(end) = message {
                    assert_eq!(end.conversation_id.as_deref() == Some(ID), costs.is_empty());
                    costs.push(end.total_cost_usd.unwrap());
                }
            }
        }
        assert!(costs[0] > 0.0 && costs[1] == costs[0] && costs[2] > costs[1], "{costs:?}");
    }

    #[test]
    fn the_end_of_input_lets_the_turn_end_and_leaves_questions_unanswered() {
        for wait_ms in [0, 5_000] {
            let mut talk = Talk::new();
            talk.write(|out| claude::user(out, "run tool: x ;; say: end", &[], None));
            talk.now_ms = wait_ms;
            assert_eq!(talk.demo.exit_status(), None);
            talk.demo.input_ended(talk.now_ms);
            let lines = talk.rest();
            assert!(lines.iter().any(|line| line.contains("stream closed before response")));
            assert_eq!(heard(&lines).2.0, "end");
            assert_eq!(talk.demo.exit_status(), Some(0));
        }
    }

    #[test]
    fn what_it_says_does_not_depend_on_how_often_it_is_asked() {
        let talk = |step_ms: u64| {
            let mut talk = Talk::new();
            talk.write(|out| claude::user(out, "say 30 words ;; slow 3 100", &[], None));
            while talk.now_ms < 420 {
                talk.now_ms += step_ms;
                talk.take();
            }
            talk.now_ms = 420;
            talk.write(|out| claude::interrupt(out, "i"));
            talk.rest()
        };
        let often = talk(1);
        assert_eq!(often, talk(7));
        assert_eq!(often, talk(420));
    }

    #[test]
    fn much_output_comes_in_bounded_pieces() {
        let mut talk = Talk::new();
        talk.write(|out| claude::user(out, "deltas 3000", &[], None));
        talk.now_ms = 10_000;
        let (mut polls, mut out) = (0, Vec::new());
        while talk.demo.poll(talk.now_ms, &mut out).is_some() {
            assert!(out.len() < POLL_BYTES + 16 * 1024);
            out.clear();
            polls += 1;
        }
        assert!(polls > 5, "{polls}");
        let (deltas, whole, _) = heard(&Talk::new().prompt("big 10000000"));
        assert_eq!((deltas.len(), whole.len()), (10_000_000, 10_000_000));
    }

    #[test]
    fn no_line_panics_and_what_is_not_json_breaks_it() {
        let lines: [&[u8]; 8] = [
            b"{\"type\":\"user\",\"message\":{\"content\":\"run tool: x ;; ask: y\"},\"uuid\":\"u\"}",
            b"{\"type\":\"user\",\"message\":{\"content\":[{\"type\":\"text\",\"text\":\"error 401\"}]}}",
            b"{\"type\":\"control_request\",\"request_id\":\"r\",\"request\":{\"subtype\":\"interrupt\"}}",
            b"{\"type\":\"control_request\",\"request_id\":7,\"request\":{\"subtype\":\"set_model\"}}",
            b"{\"type\":\"control_response\",\"response\":{\"request_id\":\"r\",\"response\":{}}}",
            b"{\"type\":\"keep_alive\"}",
            b"[1]",
            b"  ",
        ];
        let mut state = 9u64;
        let mut random = move |below: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % below
        };
        for _ in 0..300 {
            let mut talk = Talk::new();
            for _ in 0..20 {
                let mut line = lines[random(lines.len())].to_vec();
                if random(4) == 0 && !line.is_empty() {
                    let at = random(line.len());
                    line[at] = b"\"{}[]x0"[random(7)];
                }
                talk.demo.line(talk.now_ms, &line);
                talk.now_ms += random(200) as u64;
                talk.take();
            }
            talk.demo.input_ended(talk.now_ms);
            talk.rest();
            assert!(talk.demo.exit_status().is_some());
        }
        let mut talk = Talk::new();
        talk.demo.line(u64::MAX, b"{\"type\":\"user\",\"message\":{\"content\":\"say 2 words\"}}");
        talk.now_ms = u64::MAX;
        talk.rest();
        assert_eq!(talk.demo.exit_status(), None);
        talk.demo.line(u64::MAX, b"what?");
        assert_eq!(talk.demo.exit_status(), Some(1));
    }
}
