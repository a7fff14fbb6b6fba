//! One turn of an agent, told so that it can be drawn: text, thoughts, tool calls.
//!
//! Everything that starts ends once. What the agent leaves open when its turn ends, or when it
//! dies, is ended here: blocks as aborted, tool calls as aborted or unknown. How a turn begins
//! and what its end means for the queue, it does not know.

use crate::core::event::EventKind;
use crate::core::prompts::Prompt;
use crate::core::publisher::{Feed, Output, Place, Publisher, utf16_length};
use crate::limits::{BLOCK_SIZE_MAX, MESSAGES_KEPT, SPEAKERS_MAX, STRUCTURED_SIZE_MAX, TOOLS_MAX};
use crate::wire::claude::{self, Block, DeltaKind, ToolKind, ToolResult};
use crate::wire::json::Object;
use crate::wire::operations::{self, Operation};
use crate::wire::quoted::Quoted;
use serde_json::value::RawValue;

/// What a turn holds, in bytes: the block that is streamed and the last one, its tools, and what
/// they are to do where that is a list.
pub const TURN_SIZE: usize = 2 * BLOCK_SIZE_MAX + TOOLS_MAX * 1024 + STRUCTURED_SIZE_MAX;
/// Characters of a message that `operations-detected` shows.
const RESPONSE_SIZE: usize = 500;

/// A turn under way.
#[derive(Debug, Default)]
pub struct Turn {
    /// Our name for it.
    pub id: String,
    /// The prompt that it answers.
    pub prompt: Option<Prompt>,
    /// When it began, in milliseconds of the monotonic clock.
    pub started_at: u64,
    /// A human asked for its end.
    pub interrupted: bool,
    /// When it must have ended after that.
    pub interrupt_due: Option<u64>,
    /// Why it failed, where we know better than the agent.
    pub failure: Option<Failure>,
    /// The API's error, as the agent told it.
    pub api_error: Option<ApiError>,
    /// The last text of the main conversation, for an agent whose `result` brings none: as much of
    /// it as a turn keeps of a block, and whether it is still escaped.
    last_text: (String, bool),
    /// What was told of text that belongs to no message of the agent's.
    pub offsets: Offsets,
    streaming: Option<Streaming>,
    /// Where the deltas of a replaced message begin.
    replaced_seq: Option<u64>,
    /// How many blocks of which message were told.
    messages: Vec<(String, u32)>,
    tools: Vec<OpenTool>,
    /// Of the messages that may go on: one of the main conversation, one of each subagent.
    operations: Vec<Operations>,
}

/// UTF-16 units told of the two blocks of text that belongs to no message of the agent's: its output
/// and its errors.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Offsets([u64; 2]);

impl Offsets {
    /// Counts the next text of a block. Returns how much of the block came before it.
    pub fn count(&mut self, block: u32, text: &str) -> u64 {
        let offset = &mut self.0[usize::from(block > 0)];
        let before = *offset;
        *offset += utf16_length(text);
        before
    }
}

/// What of a turn has started and not ended, for a snapshot.
#[derive(Clone, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(default)]
pub struct OpenTurn {
    /// Blocks: their message, their number, whether they are thoughts, their text so far.
    pub blocks: Vec<(String, u32, bool, String)>,
    /// Tool calls.
    pub tools: Vec<String>,
}

/// Why a turn failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    /// The machine's word.
    pub code: &'static str,
    /// The human's.
    pub sentence: String,
}

/// The API's error, as the agent told it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ApiError {
    /// The HTTP status, if there was an answer at all.
    pub status: Option<u16>,
    /// The agent's word for it.
    pub error: String,
}

/// The message that is being streamed.
#[derive(Debug)]
struct Streaming {
    message_id: String,
    blocks: Vec<OpenBlock>,
    /// Its last line has come.
    stopped: bool,
}

/// A block whose deltas were told and whose end was not.
#[derive(Debug)]
struct OpenBlock {
    block: u32,
    output: Output,
    /// UTF-16 units told.
    offset: u64,
    text: String,
    /// No delta of it was published before this event.
    first_seq: u64,
}

/// A tool call whose end was not told.
#[derive(Debug)]
pub struct OpenTool {
    tool_use_id: String,
    /// The tool call of the subagent that called it.
    parent: Option<String>,
    started_at: u64,
    tool: String,
    message_id: String,
    /// Only of the tools that keep a list: the list is known when they end.
    input: Option<String>,
}

impl OpenTool {
    /// One of which a journal tells.
    pub fn restored(tool_use_id: String, started_at: u64) -> OpenTool {
        let (tool, message_id) = (String::new(), String::new());
        OpenTool { tool_use_id, parent: None, started_at, tool, message_id, input: None }
    }

    /// The agent's name for it.
    pub fn id(&self) -> &str {
        &self.tool_use_id
    }
}

/// What one message sets out to do, collected until the message is whole.
#[derive(Debug, Default)]
struct Operations {
    message_id: String,
    /// The tool call of the subagent that speaks.
    parent: Option<String>,
    /// Members of a JSON array.
    list: Vec<u8>,
    response: String,
}

/// How a tool call ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Ok,
    Error,
    Denied,
    Aborted,
    Unknown,
}

impl Outcome {
    fn as_str(self) -> &'static str {
        match self {
            Outcome::Ok => "ok",
            Outcome::Error => "error",
            Outcome::Denied => "denied",
            Outcome::Aborted => "aborted",
            Outcome::Unknown => "unknown",
        }
    }
}

/// One whole message of the agent, as its line told it.
#[derive(Debug)]
pub struct Message<'a> {
    /// Its id.
    pub id: &'a str,
    /// The tool call of the subagent that speaks; none: the main conversation.
    pub parent: Option<&'a str>,
    /// Its blocks.
    pub blocks: Vec<Block<'a>>,
    /// It was cut short.
    pub aborted: bool,
}

/// A tool call that ended and may have changed the list of things to do.
#[derive(Debug)]
pub struct EndedTool {
    /// The tool.
    pub tool: String,
    /// Its input: JSON.
    pub input: String,
}

impl Turn {
    /// A turn that begins now, for a prompt or for nobody's.
    pub fn new(id: String, prompt: Option<Prompt>, now_ms: u64) -> Turn {
        Turn { id, prompt, started_at: now_ms, ..Turn::default() }
    }

    /// A turn of which a journal tells: only its end is still to come.
    pub fn restored(id: String, prompt: Option<Prompt>, started_at: u64, open: OpenTurn) -> Turn {
        let mut turn = Turn::new(id, prompt, started_at);
        let tool = |id| OpenTool::restored(id, started_at);
        turn.tools = open.tools.into_iter().map(tool).collect();
        for (message_id, block, thinking, text) in open.blocks {
            let output = if thinking { Output::Thinking } else { Output::Stdout };
            let open = OpenBlock { block, output, offset: 0, text, first_seq: 0 };
            match &mut turn.streaming {
                Some(streaming) if streaming.message_id == message_id => {
                    streaming.blocks.push(open)
                }
                slot => {
                    let (blocks, stopped) = (vec![open], true);
                    *slot = Some(Streaming { message_id, blocks, stopped });
                }
            }
        }
        turn
    }

    /// What has started and not ended.
    pub fn open(&self) -> OpenTurn {
        let blocks = self.streaming.iter().flat_map(|streaming| {
            let message_id = &streaming.message_id;
            streaming.blocks.iter().map(move |open| {
                let thinking = open.output == Output::Thinking;
                (message_id.clone(), open.block, thinking, open.text.clone())
            })
        });
        let tools = self.tools.iter().map(|open| open.tool_use_id.clone());
        OpenTurn { blocks: blocks.collect(), tools: tools.collect() }
    }

    /// A message begins to stream.
    pub fn message_started(&mut self, message_id: &str) {
        // Blocks of the last one that never ended may be replaced by this one's.
        if let Some(streaming) = &mut self.streaming
            && !streaming.blocks.is_empty()
        {
            return;
        }
        let (message_id, blocks) = (message_id.to_owned(), Vec::new());
        self.streaming = Some(Streaming { message_id, blocks, stopped: false });
    }

    /// Text arrives.
    pub fn delta(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        block: u32,
        kind: DeltaKind,
        (message_id, text): (Option<&str>, &str),
    ) {
        let output = match kind {
            DeltaKind::Text => Output::Stdout,
            DeltaKind::Thinking => Output::Thinking,
        };
        let streaming = match &mut self.streaming {
            Some(streaming) if message_id.is_none_or(|id| id == streaming.message_id) => streaming,
            slot => slot.insert(Streaming {
                message_id: message_id.unwrap_or("message").to_owned(),
                blocks: Vec::new(),
                stopped: false,
            }),
        };
        let at = match streaming.blocks.iter().position(|open| open.block == block) {
            Some(at) => at,
            None => {
                publisher.flush(feed);
                let first_seq = publisher.seq() + 1;
                let text = String::new();
                streaming.blocks.push(OpenBlock { block, output, offset: 0, text, first_seq });
                streaming.blocks.len() - 1
            }
        };
        let open = &mut streaming.blocks[at];
        let place = Place { output, message_id: &streaming.message_id, block };
        publisher.output(feed, place, open.offset, text);
        open.offset += utf16_length(text);
        if open.text.len() + text.len() <= BLOCK_SIZE_MAX {
            open.text.push_str(text);
        }
    }

    /// A message's blocks are whole. Returns how many tool calls could not be kept open.
    pub fn message(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        mut message: Message<'_>,
        now_ms: u64,
    ) -> usize {
        let blocks = std::mem::take(&mut message.blocks);
        let message = &message;
        self.collect_operations(publisher, feed, message);
        let replaces = self.replaced_by(message);
        let mut left_out = 0;
        for (at, block) in blocks.into_iter().enumerate() {
            let number = self.next_block(message.id);
            let replaces = replaces.as_deref().filter(|_| at == 0);
            match block {
                Block::Text { text } => {
                    self.note_text(message, &text);
                    self.text_block(publisher, feed, message, (number, "text", text), replaces);
                }
                Block::Thinking { text } => {
                    let block = (number, "thinking", text);
                    self.text_block(publisher, feed, message, block, replaces);
                }
                Block::ToolUse { id, name, input } if self.tools.len() < TOOLS_MAX => {
                    self.tool_started(publisher, feed, message, (&id, &name, input), now_ms);
                }
                Block::ToolUse { .. } => left_out += 1,
                Block::Other => {}
            }
        }
        left_out
    }

    /// The id of the streamed message whose open blocks this one replaces, after an API stream
    /// that fell back to a whole answer.
    fn replaced_by(&mut self, message: &Message<'_>) -> Option<String> {
        let streaming = self.streaming.as_mut()?;
        if message.parent.is_some()
            || streaming.message_id == message.id
            || streaming.blocks.is_empty()
        {
            return None;
        }
        self.replaced_seq = streaming.blocks.first().map(|open| open.first_seq);
        streaming.blocks.clear();
        Some(std::mem::replace(&mut streaming.message_id, message.id.to_owned()))
    }

    /// The number of a message's next block: they come in order, one or more a line.
    fn next_block(&mut self, message_id: &str) -> u32 {
        if let Some((_, count)) = self.messages.iter_mut().find(|(id, _)| id == message_id) {
            *count += 1;
            return *count - 1;
        }
        if self.messages.len() == MESSAGES_KEPT {
            self.messages.remove(0);
        }
        self.messages.push((message_id.to_owned(), 1));
        0
    }

    fn text_block(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        message: &Message<'_>,
        (block, kind, text): (u32, &'static str, Quoted<'_>),
        replaces: Option<&str>,
    ) {
        let mut ended = self.replaced_seq.take().filter(|_| replaces.is_some());
        if let Some(streaming) = &mut self.streaming
            && streaming.message_id == message.id
            && let Some(at) = streaming.blocks.iter().position(|open| open.block == block)
        {
            ended = Some(streaming.blocks.remove(at).first_seq);
        }
        // What is held belongs to the block's deltas, and is superseded with them.
        publisher.flush(feed);
        if let Some(seq) = ended {
            publisher.supersede(feed, seq);
        }
        publisher.publish(feed, EventKind::MessageBlock, |object| {
            object.string("messageId", message.id);
            object.number("block", block.into());
            object.string("kind", kind);
            object.string("role", "assistant");
            object.quoted("text", text);
            object.optional("parentToolUseId", message.parent);
            if let Some(replaced) = replaces {
                object.array("replaces", |array| array.string(replaced));
            }
            if message.aborted {
                object.bool("aborted", true);
            }
        });
    }

    /// Keeps what `prompt-completed` and `operations-detected` will say of this text.
    fn note_text(&mut self, message: &Message<'_>, text: &Quoted<'_>) {
        if message.parent.is_none() {
            let beginning = text.beginning(BLOCK_SIZE_MAX);
            let (held, is_escaped) = beginning.held();
            self.last_text.0.clear();
            self.last_text.0.push_str(held);
            self.last_text.1 = is_escaped;
        }
        let Some(operations) = self.operations_of(message.id) else { return };
        let room = RESPONSE_SIZE.saturating_sub(operations.response.chars().count());
        // No character takes more than four bytes, escaped or not.
        let beginning = text.beginning(4 * (room + 1));
        operations.response.extend(beginning.text().chars().take(room));
        if operations::may_be_in(text.held().0) {
            let list = &mut operations.list;
            operations::detect(&text.text(), |operation| push_operation(list, &operation, None));
        }
    }

    /// The last text of the main conversation.
    pub fn last_text(&self) -> String {
        Quoted::of_held(&self.last_text.0, self.last_text.1).into_text().into_owned()
    }

    fn tool_started(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        message: &Message<'_>,
        (id, tool, input): (&str, &str, &RawValue),
        now_ms: u64,
    ) {
        if self.tools.iter().any(|open| open.tool_use_id == id) {
            return;
        }
        let kind = claude::tool_kind(tool);
        let mut title = String::new();
        claude::title(&mut title, tool, input);
        publisher.publish(feed, EventKind::ToolStarted, |object| {
            object.string("toolUseId", id);
            object.string("messageId", message.id);
            object.optional("parentToolUseId", message.parent);
            object.string("tool", tool);
            object.string("kind", kind.as_str());
            object.raw("input", input.get());
            object.string("title", &title);
        });
        let keeps_list = kind == ToolKind::Todo;
        self.tools.push(OpenTool {
            tool_use_id: id.to_owned(),
            parent: message.parent.map(str::to_owned),
            started_at: now_ms,
            tool: tool.to_owned(),
            message_id: message.id.to_owned(),
            input: keeps_list.then(|| input.get().to_owned()),
        });
        if let Some(operation) = operations::for_tool(kind, tool, input)
            && let Some(operations) = self.operations_of(message.id)
        {
            push_operation(&mut operations.list, &operation, Some(id));
        }
    }

    /// A tool still runs.
    pub fn tool_progress(
        &self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        tool_use_id: &str,
        elapsed_ms: u64,
    ) {
        if self.tools.iter().any(|open| open.tool_use_id == tool_use_id) {
            publisher.publish(feed, EventKind::ToolProgress, |object| {
                object.string("toolUseId", tool_use_id);
                object.number("elapsedMs", elapsed_ms);
            });
        }
    }

    /// A tool call ended. Returns it if it may have changed the list of things to do; `None` also
    /// if no such call is open.
    pub fn tool_ended(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        result: &ToolResult<'_>,
        structured: Option<&RawValue>,
        now_ms: u64,
    ) -> Option<EndedTool> {
        let id = &*result.tool_use_id;
        let at = self.tools.iter().position(|open| open.tool_use_id == id)?;
        let open = self.tools.remove(at);
        // A tool may end while its message still streams and calls another.
        let goes_on = self
            .streaming
            .as_ref()
            .is_some_and(|message| !message.stopped && message.message_id == open.message_id);
        if !goes_on {
            self.tell_operations(publisher, feed, |one| one.message_id == open.message_id);
        }
        let outcome = match (result.denied, result.is_error) {
            (true, _) => Outcome::Denied,
            (false, true) if self.interrupted => Outcome::Aborted,
            (false, true) => Outcome::Error,
            (false, false) => Outcome::Ok,
        };
        publisher.publish(feed, EventKind::ToolCompleted, |object| {
            object.string("toolUseId", id);
            object.string("outcome", outcome.as_str());
            object.raw("content", result.content.map_or("null", RawValue::get));
            let small = |raw: &&RawValue| raw.get().len() <= STRUCTURED_SIZE_MAX;
            if let Some(structured) = structured.filter(small) {
                object.raw("structured", structured.get());
            }
            object.number("durationMs", now_ms.saturating_sub(open.started_at));
        });
        Some(EndedTool { tool: open.tool, input: open.input? })
    }

    /// The message and the number of each block that has begun and not ended.
    pub fn open_blocks(&self) -> impl Iterator<Item = (&str, u32)> {
        let streaming = self.streaming.iter();
        streaming.flat_map(|one| one.blocks.iter().map(|open| (&*one.message_id, open.block)))
    }

    /// Whether this block has begun and not ended.
    pub fn has_open_block(&self, message_id: &str, block: u32) -> bool {
        self.streaming.as_ref().is_some_and(|streaming| {
            let is_it = |open: &OpenBlock| open.block == block;
            streaming.message_id == message_id && streaming.blocks.iter().any(is_it)
        })
    }

    /// The message that streams is whole: what it sets out to do is told.
    pub fn message_ended(&mut self, publisher: &mut Publisher, feed: &mut Feed) {
        if let Some(streaming) = &mut self.streaming {
            streaming.stopped = true;
        }
        self.tell_operations(publisher, feed, |one| one.parent.is_none());
    }

    /// Makes room for what a message sets out to do. The message before it, of the same speaker,
    /// is whole.
    fn collect_operations(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        message: &Message<'_>,
    ) {
        if self.operations_of(message.id).is_some() {
            return;
        }
        let parent = message.parent;
        self.tell_operations(publisher, feed, |one| one.parent.as_deref() == parent);
        if self.operations.len() == SPEAKERS_MAX {
            let oldest = self.operations[0].message_id.clone();
            self.tell_operations(publisher, feed, |one| one.message_id == oldest);
        }
        let (message_id, parent) = (message.id.to_owned(), parent.map(str::to_owned));
        self.operations.push(Operations { message_id, parent, ..Operations::default() });
    }

    fn operations_of(&mut self, message_id: &str) -> Option<&mut Operations> {
        self.operations.iter_mut().find(|one| one.message_id == message_id)
    }

    /// Tells what these messages set out to do, and forgets it.
    fn tell_operations(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        which: impl Fn(&Operations) -> bool,
    ) {
        while let Some(at) = self.operations.iter().position(&which) {
            let operations = self.operations.remove(at);
            if operations.list.is_empty() {
                continue;
            }
            let list = String::from_utf8(operations.list).unwrap_or_default();
            publisher.publish(feed, EventKind::OperationsDetected, |object: &mut Object<'_>| {
                object.raw("operations", &format!("[{list}]"));
                object.display("response", format_args!("{}...", operations.response));
            });
        }
    }

    /// Ends whatever is still open, save the tools of subagents that work on. Returns those.
    pub fn close(
        &mut self,
        publisher: &mut Publisher,
        feed: &mut Feed,
        now_ms: u64,
        works_on: impl Fn(&str) -> bool,
    ) -> Vec<OpenTool> {
        self.tell_operations(publisher, feed, |_| true);
        if let Some(streaming) = self.streaming.take() {
            for open in streaming.blocks {
                publisher.flush(feed);
                publisher.supersede(feed, open.first_seq);
                publisher.publish(feed, EventKind::MessageBlock, |object| {
                    object.string("messageId", &streaming.message_id);
                    object.number("block", open.block.into());
                    let thinking = open.output == Output::Thinking;
                    object.string("kind", if thinking { "thinking" } else { "text" });
                    object.string("role", "assistant");
                    object.string("text", &open.text);
                    object.bool("aborted", true);
                });
            }
        }
        let outcome = if self.interrupted { Outcome::Aborted } else { Outcome::Unknown };
        let tools = std::mem::take(&mut self.tools).into_iter();
        let (kept, ended): (Vec<OpenTool>, Vec<OpenTool>) =
            tools.partition(|open| open.parent.as_deref().is_some_and(&works_on));
        for open in ended {
            open.end(publisher, feed, now_ms, outcome);
        }
        kept
    }

    /// Goes on with tools of subagents that began in an earlier turn.
    pub fn adopt(&mut self, tools: impl IntoIterator<Item = OpenTool>) {
        self.tools.extend(tools);
    }

    /// Gives up the open tools of a subagent.
    pub fn release(&mut self, parent: &str) -> Vec<OpenTool> {
        self.tools.extract_if(.., |open| open.parent.as_deref() == Some(parent)).collect()
    }
}

impl OpenTool {
    /// Whether it is the call of this id.
    pub fn is(&self, tool_use_id: &str) -> bool {
        self.tool_use_id == tool_use_id
    }

    /// The tool call of the subagent that called it.
    pub fn parent(&self) -> Option<&str> {
        self.parent.as_deref()
    }

    /// Tells that it ended with its subagent, whatever came of it.
    pub fn lost(&self, publisher: &mut Publisher, feed: &mut Feed, now_ms: u64) {
        self.end(publisher, feed, now_ms, Outcome::Unknown);
    }

    fn end(&self, publisher: &mut Publisher, feed: &mut Feed, now_ms: u64, outcome: Outcome) {
        publisher.publish(feed, EventKind::ToolCompleted, |object| {
            object.string("toolUseId", &self.tool_use_id);
            object.string("outcome", outcome.as_str());
            object.null("content");
            object.number("durationMs", now_ms.saturating_sub(self.started_at));
        });
    }
}

/// Appends one operation to the members of a JSON array.
fn push_operation(list: &mut Vec<u8>, operation: &Operation<'_>, tool_use_id: Option<&str>) {
    // A message of nothing but tags must not outgrow its frame.
    const LIST_SIZE_MAX: usize = 32 * 1024;
    if list.len() > LIST_SIZE_MAX {
        return;
    }
    if !list.is_empty() {
        list.push(b',');
    }
    crate::wire::json::object(list, |object| {
        object.string("type", operation.kind);
        object.string("tool", operation.tool);
        match &operation.target {
            operations::Target::Path(path) => object.string("path", path),
            operations::Target::Command(command) => object.string("command", command),
        }
        object.string_or_null("toolUseId", tool_use_id);
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_the_last_text_is_kept_what_the_bound_counts() {
        let mut turn = Turn::default();
        let message = Message { id: "m", parent: None, blocks: Vec::new(), aborted: false };
        let note = |turn: &mut Turn, parent: Option<&str>, text: &str| {
            let text = Quoted::Text(text.into());
            turn.note_text(&Message { id: "m", parent, blocks: Vec::new(), aborted: false }, &text);
        };
        note(&mut turn, None, &"\u{20ac}".repeat(BLOCK_SIZE_MAX));
        assert_eq!(turn.last_text().len(), BLOCK_SIZE_MAX / 3 * 3);
        note(&mut turn, None, "short");
        assert_eq!(turn.last_text(), "short");
        note(&mut turn, Some("t"), "a subagent's");
        assert_eq!(turn.last_text(), "short");
        let escaped = "x\\n".repeat(BLOCK_SIZE_MAX / 3 + 1);
        turn.note_text(&message, &Quoted::Escaped(&escaped));
        assert_eq!(turn.last_text.0.len(), BLOCK_SIZE_MAX - BLOCK_SIZE_MAX % 3 + 1);
        assert!(turn.last_text().starts_with("x\nx\nx"));
    }
}
