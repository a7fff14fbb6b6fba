//! The stream-json dialect of the Claude CLI, bytes to meaning and back.
//!
//! [`parse`] takes one whole line and borrows from it; the encoders append one line each. It
//! promises to take any bytes without panicking, never to depend on the order of keys, and to
//! hand back as [`Parsed::Other`] what it does not translate, so that a newer CLI loses nothing.
//! It keeps no state: which turn a line belongs to, and whether an answer is still wanted, is
//! not known here.

use std::borrow::Cow;
use std::fmt::Write as _;

use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;
use serde::de::{Deserializer, IgnoredAny, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::document::Document;
use super::quoted::Quoted;

/// What one line of the agent is.
#[derive(Debug)]
pub enum Parsed<'a> {
    /// A line with a meaning of ours.
    Message(Message<'a>),
    /// A valid JSON object that we do not translate: pass it through.
    Other,
    /// Not a JSON object in UTF-8: log noise.
    Noise,
}

/// The meaning of a line.
#[derive(Debug)]
#[expect(missing_docs, reason = "the fields carry the names of DESIGN.md, section 4")]
pub enum Message<'a> {
    /// The head of every turn; the conversation may have changed.
    Init {
        conversation_id: Cow<'a, str>,
        model: Option<Cow<'a, str>>,
        /// The permission mode.
        mode: Option<Cow<'a, str>>,
        version: Option<Cow<'a, str>>,
    },
    /// `requesting`, `compacting`, or none; perhaps with a new permission mode.
    Status { status: Option<Cow<'a, str>>, mode: Option<Cow<'a, str>> },
    /// A streamed message opens. Streams of subagents are [`Message::Ignored`], because their
    /// text comes whole: `parent_tool_use_id` is therefore none.
    MessageStart { message_id: Cow<'a, str>, parent_tool_use_id: Option<Cow<'a, str>> },
    /// A block of the streamed message opens.
    BlockStart { block: u32, kind: BlockKind },
    /// A piece of text of an open block.
    Delta { block: u32, kind: DeltaKind, text: Cow<'a, str>, message_id: Option<Cow<'a, str>> },
    /// A block is whole. The `assistant` line with its text has come before.
    BlockStop { block: u32 },
    /// The streamed message is whole.
    MessageStop,
    /// A known line that says nothing our own events do not say.
    Ignored,
    /// One or more whole blocks of a message: the truth where deltas differ.
    Assistant {
        message_id: Cow<'a, str>,
        parent_tool_use_id: Option<Cow<'a, str>>,
        agent_id: Option<Cow<'a, str>>,
        blocks: Vec<Block<'a>>,
        /// Cut short by an interrupt.
        aborted: bool,
        /// The API's kind of error, when the text tells of one.
        error: Option<Cow<'a, str>>,
        api_error_status: Option<u16>,
        /// Made by the CLI, not by a model.
        synthetic: bool,
        /// The agent's name for this entry of its conversation: a fork may end with it.
        entry: Option<Cow<'a, str>>,
    },
    /// Tool calls that ended.
    ToolResults {
        parent_tool_use_id: Option<Cow<'a, str>>,
        results: Vec<ToolResult<'a>>,
        /// The `tool_use_result`: an object per tool, or a string on errors.
        structured: Option<&'a RawValue>,
        /// See [`Message::Assistant`].
        entry: Option<Cow<'a, str>>,
    },
    /// Any other line in the user's name.
    UserText {
        parent_tool_use_id: Option<Cow<'a, str>>,
        text: Cow<'a, str>,
        /// Written by the CLI for the model, as a compaction's summary is.
        synthetic: bool,
        /// The output of a local command, such as `/context`.
        replay: bool,
        /// It says that the user interrupted.
        interrupted_notice: bool,
        /// See [`Message::Assistant`].
        entry: Option<Cow<'a, str>>,
    },
    /// The end of a turn.
    Result(TurnResult<'a>),
    /// The agent asks whether it may use a tool, and waits.
    Approval {
        request_id: Cow<'a, str>,
        tool: Cow<'a, str>,
        input: &'a RawValue,
        description: Option<Cow<'a, str>>,
        suggestions: Option<&'a RawValue>,
        tool_use_id: Option<Cow<'a, str>>,
        agent_id: Option<Cow<'a, str>>,
        blocked_path: Option<Cow<'a, str>>,
        decision_reason: Option<Cow<'a, str>>,
    },
    /// The agent no longer waits for this answer.
    ApprovalWithdrawn { request_id: Cow<'a, str> },
    /// The answer to a request of ours: its body, or the error's text.
    ControlResponse {
        request_id: Cow<'a, str>,
        outcome: Result<Option<&'a RawValue>, Cow<'a, str>>,
        error_code: Option<Cow<'a, str>>,
    },
    /// A request of theirs that we do not serve; the agent waits for an [`error_response`].
    ControlRequest { request_id: Cow<'a, str>, subtype: Cow<'a, str> },
    /// The API failed and is asked again after `delay_ms`.
    ApiRetry {
        attempt: u32,
        retries_max: u32,
        delay_ms: u64,
        status: Option<u16>,
        error: Option<Cow<'a, str>>,
    },
    /// A tool still runs.
    ToolProgress { tool_use_id: Cow<'a, str>, tool: Cow<'a, str>, elapsed_ms: u64 },
    /// A subagent or a long command became a task.
    TaskStarted {
        task_id: Cow<'a, str>,
        tool_use_id: Option<Cow<'a, str>>,
        description: Cow<'a, str>,
        background: bool,
        task_type: Option<Cow<'a, str>>,
    },
    /// What a task does now.
    TaskProgress {
        task_id: Cow<'a, str>,
        tool_use_id: Option<Cow<'a, str>>,
        description: Cow<'a, str>,
        last_tool: Option<Cow<'a, str>>,
    },
    /// A task ended.
    TaskNotification {
        task_id: Cow<'a, str>,
        tool_use_id: Option<Cow<'a, str>>,
        status: Cow<'a, str>,
        summary: Option<Cow<'a, str>>,
        usage: Option<&'a RawValue>,
    },
    /// How many background tasks run from now on.
    BackgroundTasks { count: u32 },
    /// `/clear`: the conversation goes on under a new id.
    ConversationReset { conversation_id: Cow<'a, str> },
    /// The CLI denied a tool by itself.
    PermissionDenied { tool_use_id: Cow<'a, str>, tool: Cow<'a, str>, message: Cow<'a, str> },
    /// The conversation was compacted.
    Compacted {
        trigger: Option<Cow<'a, str>>,
        tokens_before: Option<u64>,
        tokens_after: Option<u64>,
    },
    /// A remark of the CLI to the human.
    Informational { text: Cow<'a, str>, level: Option<Cow<'a, str>> },
}

/// What a streamed block holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum BlockKind {
    Text,
    Thinking,
    ToolUse,
    Other,
}

/// What a delta adds to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum DeltaKind {
    Text,
    Thinking,
}

/// One whole block of an assistant message.
#[derive(Debug)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Block<'a> {
    Text { text: Quoted<'a> },
    Thinking { text: Quoted<'a> },
    ToolUse { id: Cow<'a, str>, name: Cow<'a, str>, input: &'a RawValue },
    Other,
}

/// The end of one tool call.
#[derive(Debug)]
pub struct ToolResult<'a> {
    /// The call it answers.
    pub tool_use_id: Cow<'a, str>,
    /// The tool failed, or was not run.
    pub is_error: bool,
    /// A string, or a list of content blocks.
    pub content: Option<&'a RawValue>,
    /// Not run, because a human or a rule said no.
    pub denied: bool,
}

/// The end of a turn. A field of an unexpected type is taken as absent: a turn's end is never
/// lost over a detail.
#[derive(Debug, Default)]
pub struct TurnResult<'a> {
    /// `success` says nothing: read `is_error`.
    pub subtype: Cow<'a, str>,
    /// The turn failed, or was interrupted.
    pub is_error: bool,
    /// The last message, or the error's text.
    pub result: Option<Cow<'a, str>>,
    /// What went wrong, a sentence each.
    pub errors: Vec<Cow<'a, str>>,
    /// How long the turn took.
    pub duration_ms: u64,
    /// API rounds of this turn.
    pub num_turns: u32,
    /// Of the whole conversation so far, in US dollars.
    pub total_cost_usd: Option<f64>,
    /// Tokens of this turn.
    pub usage: Option<&'a RawValue>,
    /// `completed`, `aborted_streaming`, `aborted_tools`, `api_error`, `max_turns` …
    pub terminal_reason: Option<Cow<'a, str>>,
    /// The HTTP status of the API's refusal.
    pub api_error_status: Option<u16>,
    /// Why the turn began, when no prompt began it.
    pub origin: Option<&'a RawValue>,
    /// The conversation it belongs to.
    pub conversation_id: Option<Cow<'a, str>>,
    /// How many tool calls were denied.
    pub denials: u32,
}

impl TurnResult<'_> {
    /// Whether an interrupt ended it, which is no error. Versions before 2.1 give no reason.
    pub fn interrupted(&self) -> bool {
        self.terminal_reason.as_deref().is_some_and(|reason| reason.starts_with("aborted_"))
    }
}

/// A JSON string, borrowed where it holds no escapes. Half of a surrogate pair, which the CLI
/// writes when it cuts output at a number of UTF-16 units, becomes U+FFFD and not an error.
#[derive(Debug, PartialEq)]
struct Text<'a>(Cow<'a, str>);

impl<'a> Text<'a> {
    fn opened(text: Option<Text<'a>>) -> Option<Cow<'a, str>> {
        text.map(|text| text.0)
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Text<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Text<'a>, D::Error> {
        deserializer.deserialize_str(TextVisitor).map(Text)
    }
}

struct TextVisitor;

impl<'de> Visitor<'de> for TextVisitor {
    type Value = Cow<'de, str>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Borrowed(text))
    }

    fn visit_str<E>(self, text: &str) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text.to_owned()))
    }

    fn visit_string<E>(self, text: String) -> Result<Cow<'de, str>, E> {
        Ok(Cow::Owned(text))
    }
}

/// Every line's kind, and all of a stream event: the one pass that the hot path needs.
#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    subtype: Option<Text<'a>>,
    #[serde(borrow)]
    event: Option<Event<'a>>,
    #[serde(borrow)]
    parent_tool_use_id: Option<Text<'a>>,
    #[serde(borrow)]
    api_message_id: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    index: Option<u32>,
    #[serde(borrow)]
    delta: Option<DeltaBody<'a>>,
    #[serde(borrow)]
    content_block: Option<Kind<'a>>,
    #[serde(borrow)]
    message: Option<Id<'a>>,
}

#[derive(Deserialize)]
struct DeltaBody<'a> {
    #[serde(borrow, rename = "type")]
    kind: Option<Text<'a>>,
    #[serde(borrow)]
    text: Option<Text<'a>>,
    #[serde(borrow)]
    thinking: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct Kind<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
}

/// What is read of a line whose members are not those of a stream event.
#[derive(Deserialize)]
struct Head<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    subtype: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct Id<'a> {
    #[serde(borrow)]
    id: Text<'a>,
}

/// Says what one line means. `line` is whole and has no newline; it may be any bytes.
#[inline(never)] // Inlined into the floor above, it would be compiled for size like that.
pub fn parse(line: &[u8]) -> Parsed<'_> {
    let Ok(text) = std::str::from_utf8(line) else { return Parsed::Noise };
    if !text.trim_ascii_start().starts_with('{') {
        return Parsed::Noise;
    }
    let mut line = Document::new(text);
    let message = match line.read::<Line>() {
        Some(event) if event.kind.0 == "stream_event" => stream_event(event),
        Some(Line { kind, subtype, .. }) => {
            whole_line(&mut line, &kind.0, &Text::opened(subtype).unwrap_or_default())
        }
        // Another kind of line may hold a member of a stream event's name and another type.
        None => match line.read::<Head>() {
            Some(Head { kind, subtype }) if kind.0 != "stream_event" => {
                whole_line(&mut line, &kind.0, &text_member(subtype).unwrap_or_default())
            }
            Some(_) => None,
            None if line.is_json() => None,
            None => return Parsed::Noise,
        },
    };
    message.map_or(Parsed::Other, Parsed::Message)
}

fn stream_event(line: Line<'_>) -> Option<Message<'_>> {
    if line.parent_tool_use_id.is_some() {
        return Some(Message::Ignored); // A subagent's: its text comes whole.
    }
    let event = line.event?;
    Some(match &*event.kind.0 {
        "content_block_delta" => {
            let (block, delta) = (event.index?, event.delta?);
            let message_id = Text::opened(line.api_message_id);
            let (kind, text) = match &*delta.kind?.0 {
                "text_delta" => (DeltaKind::Text, delta.text?.0),
                "thinking_delta" => (DeltaKind::Thinking, delta.thinking?.0),
                "input_json_delta" | "signature_delta" => return Some(Message::Ignored),
                _ => return None,
            };
            Message::Delta { block, kind, text, message_id }
        }
        "content_block_start" => {
            let kind = match &*event.content_block?.kind.0 {
                "text" => BlockKind::Text,
                "thinking" => BlockKind::Thinking,
                "tool_use" => BlockKind::ToolUse,
                _ => BlockKind::Other,
            };
            Message::BlockStart { block: event.index?, kind }
        }
        "content_block_stop" => Message::BlockStop { block: event.index? },
        "message_start" => {
            Message::MessageStart { message_id: event.message?.id.0, parent_tool_use_id: None }
        }
        "message_stop" => Message::MessageStop,
        "message_delta" | "ping" => Message::Ignored,
        _ => return None,
    })
}

/// Reads a line of a known kind as a whole. `None`: unknown kind, or a member is missing or of
/// another type than the kind should have.
fn whole_line<'a>(line: &mut Document<'a>, kind: &str, subtype: &str) -> Option<Message<'a>> {
    match kind {
        "assistant" => assistant(line),
        "user" => user_line(line),
        "result" => Some(Message::Result(turn_result(line)?)),
        "system" => system(line, subtype),
        "control_request" => control_request(line),
        "control_response" => control_response(line),
        "control_cancel_request" => {
            #[derive(Deserialize)]
            struct Cancel<'a> {
                #[serde(borrow)]
                request_id: Text<'a>,
            }
            let cancel: Cancel = line.read()?;
            Some(Message::ApprovalWithdrawn { request_id: cancel.request_id.0 })
        }
        "tool_progress" => tool_progress(line),
        "conversation_reset" => {
            #[derive(Deserialize)]
            struct Reset<'a> {
                #[serde(borrow)]
                new_conversation_id: Text<'a>,
            }
            let reset: Reset = line.read()?;
            Some(Message::ConversationReset { conversation_id: reset.new_conversation_id.0 })
        }
        "command_lifecycle" | "keep_alive" => Some(Message::Ignored),
        _ => None,
    }
}

fn read<'a, T: Deserialize<'a>>(text: &'a str) -> Option<T> {
    Document::new(text).read()
}

/// The same of a member, and absent if it has another type.
fn member<'a, T: Deserialize<'a>>(raw: Option<&'a RawValue>) -> Option<T> {
    read(raw?.get())
}

fn text_member<'a>(raw: Option<&'a RawValue>) -> Option<Cow<'a, str>> {
    member::<Text>(raw).map(|text| text.0)
}

/// Errors of a result that are read.
const ERRORS_MAX: usize = 16;

/// The first members of an array; the others are passed over, however many there are.
#[derive(Default)]
struct Firsts<'a>(Vec<&'a RawValue>);

impl<'de: 'a, 'a> Deserialize<'de> for Firsts<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Firsts<'a>, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Vec<&'de RawValue>;

            fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                formatter.write_str("an array")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Self::Value, A::Error> {
                let mut firsts = Vec::new();
                while firsts.len() < ERRORS_MAX {
                    match array.next_element()? {
                        Some(one) => firsts.push(one),
                        None => return Ok(firsts),
                    }
                }
                while array.next_element::<IgnoredAny>()?.is_some() {}
                Ok(firsts)
            }
        }
        deserializer.deserialize_seq(Reader).map(Firsts)
    }
}

fn assistant<'a>(line: &mut Document<'a>) -> Option<Message<'a>> {
    #[derive(Deserialize)]
    struct AssistantLine<'a> {
        #[serde(borrow)]
        message: Body<'a>,
        #[serde(borrow)]
        parent_tool_use_id: Option<Text<'a>>,
        #[serde(borrow)]
        agent_id: Option<Text<'a>>,
        aborted: Option<bool>,
        #[serde(borrow)]
        error: Option<Text<'a>>,
        api_error_status: Option<u16>,
        #[serde(borrow)]
        uuid: Option<Text<'a>>,
    }
    #[derive(Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        id: Text<'a>,
        #[serde(borrow)]
        model: Option<Text<'a>>,
        #[serde(borrow)]
        content: Vec<BlockBody<'a>>,
    }
    let line: AssistantLine = line.read()?;
    let synthetic = line.message.model.is_some_and(|model| model.0 == "<synthetic>");
    Some(Message::Assistant {
        message_id: line.message.id.0,
        parent_tool_use_id: Text::opened(line.parent_tool_use_id),
        agent_id: Text::opened(line.agent_id),
        blocks: line.message.content.into_iter().map(BlockBody::meaning).collect(),
        aborted: line.aborted.unwrap_or(false),
        error: Text::opened(line.error),
        api_error_status: line.api_error_status,
        synthetic,
        entry: Text::opened(line.uuid),
    })
}

/// A block of any kind, of an assistant's or a user's message.
#[derive(Deserialize)]
struct BlockBody<'a> {
    #[serde(borrow, rename = "type")]
    kind: Text<'a>,
    #[serde(borrow)]
    text: Option<Quoted<'a>>,
    #[serde(borrow)]
    thinking: Option<Quoted<'a>>,
    #[serde(borrow)]
    id: Option<Text<'a>>,
    #[serde(borrow)]
    name: Option<Text<'a>>,
    #[serde(borrow)]
    input: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_use_id: Option<Text<'a>>,
    #[serde(borrow)]
    content: Option<&'a RawValue>,
    is_error: Option<bool>,
}

impl<'a> BlockBody<'a> {
    fn meaning(self) -> Block<'a> {
        let block = match &*self.kind.0 {
            "text" => self.text.map(|text| Block::Text { text }),
            "thinking" => self.thinking.map(|text| Block::Thinking { text }),
            "tool_use" => match (self.id, self.name, self.input) {
                (Some(id), Some(name), Some(input)) => {
                    Some(Block::ToolUse { id: id.0, name: name.0, input })
                }
                _ => None,
            },
            _ => None,
        };
        block.unwrap_or(Block::Other)
    }
}

#[derive(Deserialize)]
struct UserLine<'a> {
    #[serde(borrow)]
    message: UserBody<'a>,
    #[serde(borrow)]
    parent_tool_use_id: Option<Text<'a>>,
    #[serde(borrow)]
    tool_use_result: Option<&'a RawValue>,
    #[serde(borrow)]
    tool_result_meta: Option<&'a RawValue>,
    #[serde(rename = "isReplay")]
    is_replay: Option<bool>,
    #[serde(rename = "isSynthetic")]
    is_synthetic: Option<bool>,
    #[serde(borrow)]
    uuid: Option<Text<'a>>,
}

#[derive(Deserialize)]
struct UserBody<'a> {
    #[serde(borrow)]
    content: Content<'a>,
}

/// What a user's message holds: text, or blocks.
enum Content<'a> {
    Text(Cow<'a, str>),
    Blocks(Vec<BlockBody<'a>>),
}

impl Default for Content<'_> {
    fn default() -> Self {
        Content::Blocks(Vec::new())
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Content<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Content<'a>, D::Error> {
        deserializer.deserialize_any(ContentVisitor)
    }
}

struct ContentVisitor;

impl<'de> Visitor<'de> for ContentVisitor {
    type Value = Content<'de>;

    fn expecting(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("a string or a list of blocks")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Content<'de>, E> {
        Ok(Content::Text(Cow::Borrowed(text)))
    }

    fn visit_str<E>(self, text: &str) -> Result<Content<'de>, E> {
        Ok(Content::Text(Cow::Owned(text.to_owned())))
    }

    fn visit_string<E>(self, text: String) -> Result<Content<'de>, E> {
        Ok(Content::Text(Cow::Owned(text)))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Content<'de>, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(list)).map(Content::Blocks)
    }
}

fn user_line<'a>(line: &mut Document<'a>) -> Option<Message<'a>> {
    let mut line: UserLine = line.read()?;
    let blocks = match std::mem::take(&mut line.message.content) {
        Content::Text(text) => return Some(user_text(&line, text)),
        Content::Blocks(blocks) => blocks,
    };
    if blocks.iter().any(|block| block.kind.0 == "tool_result") {
        return tool_results(line, blocks);
    }
    let mut texts = blocks.into_iter().filter_map(|block| block.text.map(Quoted::into_text));
    let mut text = texts.next().unwrap_or_default();
    for more in texts {
        let text = text.to_mut();
        text.push('\n');
        text.push_str(&more);
    }
    Some(user_text(&line, text))
}

fn user_text<'a>(line: &UserLine<'a>, text: Cow<'a, str>) -> Message<'a> {
    let replay = line.is_replay.unwrap_or(false);
    if replay && !text.starts_with("<local-command-") {
        return Message::Ignored; // Our own prompt, come back.
    }
    Message::UserText {
        parent_tool_use_id: line.parent_tool_use_id.as_ref().map(|id| id.0.clone()),
        interrupted_notice: text.starts_with("[Request interrupted by user"),
        text,
        synthetic: line.is_synthetic.unwrap_or(false),
        replay,
        entry: line.uuid.as_ref().map(|id| id.0.clone()),
    }
}

fn tool_results<'a>(line: UserLine<'a>, blocks: Vec<BlockBody<'a>>) -> Option<Message<'a>> {
    #[derive(Deserialize)]
    struct Meta<'a> {
        #[serde(borrow)]
        id: Text<'a>,
        #[serde(borrow)]
        permission_decision: Option<Decision<'a>>,
    }
    #[derive(Deserialize)]
    struct Decision<'a> {
        #[serde(borrow)]
        decision: Text<'a>,
    }
    let meta: Vec<Meta> = member(line.tool_result_meta).unwrap_or_default();
    let denied = |id: &str| {
        let decisions = meta.iter().filter(|meta| meta.id.0 == id);
        let mut decisions = decisions.filter_map(|meta| meta.permission_decision.as_ref());
        decisions.any(|made| matches!(&*made.decision.0, "reject" | "deny"))
    };
    let blocks = blocks.into_iter().filter(|block| block.kind.0 == "tool_result");
    let results = blocks.map(|block| {
        let tool_use_id = block.tool_use_id?.0;
        let (is_error, denied) = (block.is_error.unwrap_or(false), denied(&tool_use_id));
        Some(ToolResult { tool_use_id, is_error, content: block.content, denied })
    });
    Some(Message::ToolResults {
        results: results.collect::<Option<Vec<_>>>()?,
        parent_tool_use_id: Text::opened(line.parent_tool_use_id),
        structured: line.tool_use_result,
        entry: Text::opened(line.uuid),
    })
}

fn turn_result<'a>(line: &mut Document<'a>) -> Option<TurnResult<'a>> {
    #[derive(Deserialize)]
    struct ResultLine<'a> {
        #[serde(borrow)]
        subtype: Option<&'a RawValue>,
        #[serde(borrow)]
        is_error: Option<&'a RawValue>,
        #[serde(borrow)]
        result: Option<&'a RawValue>,
        #[serde(borrow)]
        errors: Option<&'a RawValue>,
        #[serde(borrow)]
        duration_ms: Option<&'a RawValue>,
        #[serde(borrow)]
        num_turns: Option<&'a RawValue>,
        #[serde(borrow)]
        total_cost_usd: Option<&'a RawValue>,
        #[serde(borrow)]
        usage: Option<&'a RawValue>,
        #[serde(borrow)]
        terminal_reason: Option<&'a RawValue>,
        #[serde(borrow)]
        api_error_status: Option<&'a RawValue>,
        #[serde(borrow)]
        origin: Option<&'a RawValue>,
        #[serde(borrow)]
        session_id: Option<&'a RawValue>,
        #[serde(borrow)]
        permission_denials: Option<&'a RawValue>,
    }
    let line: ResultLine = line.read()?;
    let Firsts(errors) = member(line.errors).unwrap_or_default();
    let denials: Vec<IgnoredAny> = member(line.permission_denials).unwrap_or_default();
    Some(TurnResult {
        subtype: text_member(line.subtype).unwrap_or_default(),
        // A line that does not say is taken for a failure: failed turns must not look well.
        is_error: member(line.is_error).unwrap_or(true),
        result: text_member(line.result),
        errors: errors
            .into_iter()
            .map(|error| text_member(Some(error)).unwrap_or(Cow::Borrowed(error.get())))
            .collect(),
        duration_ms: whole(member(line.duration_ms).unwrap_or(0.0)),
        num_turns: member(line.num_turns).unwrap_or(0),
        total_cost_usd: member(line.total_cost_usd),
        usage: line.usage,
        terminal_reason: text_member(line.terminal_reason),
        api_error_status: member(line.api_error_status),
        origin: line.origin,
        conversation_id: text_member(line.session_id),
        denials: u32::try_from(denials.len()).unwrap_or(u32::MAX),
    })
}

/// A duration as JavaScript may write it, with a fraction, to whole units; negatives are 0.
fn whole(number: f64) -> u64 {
    number as u64
}

/// The members of all `system` lines that we read; a subtype has some of them.
#[derive(Deserialize)]
struct SystemLine<'a> {
    #[serde(borrow)]
    session_id: Option<Text<'a>>,
    #[serde(borrow)]
    task_id: Option<Text<'a>>,
    #[serde(borrow)]
    tool_use_id: Option<Text<'a>>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    #[serde(borrow)]
    status: Option<Text<'a>>,
    #[serde(borrow, rename = "permissionMode")]
    mode: Option<Text<'a>>,
    #[serde(borrow)]
    model: Option<Text<'a>>,
    #[serde(borrow)]
    claude_code_version: Option<Text<'a>>,
    is_backgrounded: Option<bool>,
    #[serde(borrow)]
    task_type: Option<Text<'a>>,
    #[serde(borrow)]
    last_tool_name: Option<Text<'a>>,
    #[serde(borrow)]
    summary: Option<Text<'a>>,
    #[serde(borrow)]
    usage: Option<&'a RawValue>,
}

fn system<'a>(line: &mut Document<'a>, subtype: &str) -> Option<Message<'a>> {
    match subtype {
        "thinking_tokens" | "ui_invalidate" => return Some(Message::Ignored),
        "init" | "status" | "task_started" | "task_progress" | "task_notification" => {}
        _ => return remark(line, subtype),
    }
    let line: SystemLine = line.read()?;
    let tool_use_id = Text::opened(line.tool_use_id);
    let description = Text::opened(line.description).unwrap_or_default();
    Some(match subtype {
        "init" => Message::Init {
            conversation_id: line.session_id?.0,
            model: Text::opened(line.model),
            mode: Text::opened(line.mode),
            version: Text::opened(line.claude_code_version),
        },
        "status" => {
            Message::Status { status: Text::opened(line.status), mode: Text::opened(line.mode) }
        }
        "task_started" => Message::TaskStarted {
            task_id: line.task_id?.0,
            tool_use_id,
            description,
            background: line.is_backgrounded.unwrap_or(false),
            task_type: Text::opened(line.task_type),
        },
        "task_progress" => Message::TaskProgress {
            task_id: line.task_id?.0,
            tool_use_id,
            description,
            last_tool: Text::opened(line.last_tool_name),
        },
        _ => Message::TaskNotification {
            task_id: line.task_id?.0,
            tool_use_id,
            status: line.status?.0,
            summary: Text::opened(line.summary),
            usage: line.usage,
        },
    })
}

/// The rarer `system` lines.
fn remark<'a>(line: &mut Document<'a>, subtype: &str) -> Option<Message<'a>> {
    Some(match subtype {
        "api_retry" => {
            #[derive(Deserialize)]
            struct Retry<'a> {
                attempt: u32,
                max_retries: u32,
                retry_delay_ms: f64,
                error_status: Option<u16>,
                #[serde(borrow)]
                error: Option<Text<'a>>,
            }
            let line: Retry = line.read()?;
            Message::ApiRetry {
                attempt: line.attempt,
                retries_max: line.max_retries,
                delay_ms: whole(line.retry_delay_ms),
                status: line.error_status,
                error: Text::opened(line.error),
            }
        }
        "background_tasks_changed" => {
            #[derive(Deserialize)]
            struct Tasks {
                tasks: Vec<IgnoredAny>,
            }
            let line: Tasks = line.read()?;
            Message::BackgroundTasks { count: u32::try_from(line.tasks.len()).ok()? }
        }
        "permission_denied" => {
            #[derive(Deserialize)]
            struct Denied<'a> {
                #[serde(borrow)]
                tool_use_id: Text<'a>,
                #[serde(borrow)]
                tool_name: Text<'a>,
                #[serde(borrow)]
                message: Option<Text<'a>>,
            }
            let line: Denied = line.read()?;
            Message::PermissionDenied {
                tool_use_id: line.tool_use_id.0,
                tool: line.tool_name.0,
                message: Text::opened(line.message).unwrap_or_default(),
            }
        }
        "compact_boundary" => compacted(line)?,
        "informational" => {
            #[derive(Deserialize)]
            struct Info<'a> {
                #[serde(borrow)]
                content: Text<'a>,
                #[serde(borrow)]
                level: Option<Text<'a>>,
            }
            let line: Info = line.read()?;
            Message::Informational { text: line.content.0, level: Text::opened(line.level) }
        }
        _ => return None,
    })
}

fn compacted<'a>(line: &mut Document<'a>) -> Option<Message<'a>> {
    #[derive(Deserialize)]
    struct Boundary<'a> {
        #[serde(borrow)]
        compact_metadata: Option<Metadata<'a>>,
    }
    #[derive(Deserialize)]
    struct Metadata<'a> {
        #[serde(borrow)]
        trigger: Option<Text<'a>>,
        pre_tokens: Option<u64>,
        post_tokens: Option<u64>,
    }
    let line: Boundary = line.read()?;
    Some(match line.compact_metadata {
        Some(told) => Message::Compacted {
            trigger: Text::opened(told.trigger),
            tokens_before: told.pre_tokens,
            tokens_after: told.post_tokens,
        },
        None => Message::Compacted { trigger: None, tokens_before: None, tokens_after: None },
    })
}

fn tool_progress<'a>(line: &mut Document<'a>) -> Option<Message<'a>> {
    #[derive(Deserialize)]
    struct Progress<'a> {
        #[serde(borrow)]
        tool_use_id: Text<'a>,
        #[serde(borrow)]
        parent_tool_use_id: Option<Text<'a>>,
        #[serde(borrow)]
        tool_name: Option<Text<'a>>,
        elapsed_time_seconds: Option<f64>,
    }
    let line: Progress = line.read()?;
    // A heartbeat has an id of its own; the call that it speaks of stands as its parent.
    let tool_use_id = match line.parent_tool_use_id {
        Some(parent) if line.tool_use_id.0.contains("-heartbeat-") => parent.0,
        _ => line.tool_use_id.0,
    };
    Some(Message::ToolProgress {
        tool_use_id,
        tool: Text::opened(line.tool_name).unwrap_or_default(),
        elapsed_ms: whole(line.elapsed_time_seconds.unwrap_or(0.0) * 1000.0),
    })
}

/// A request of theirs. Whatever is wrong inside, one with an id is told, because the agent
/// waits for its answer.
fn control_request<'a>(line: &mut Document<'a>) -> Option<Message<'a>> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        request_id: Text<'a>,
        #[serde(borrow)]
        request: Option<&'a RawValue>,
    }
    #[derive(Deserialize)]
    struct Request<'a> {
        #[serde(borrow)]
        subtype: Text<'a>,
    }
    #[derive(Deserialize)]
    struct CanUseTool<'a> {
        #[serde(borrow)]
        tool_name: Text<'a>,
        #[serde(borrow)]
        input: &'a RawValue,
        #[serde(borrow)]
        description: Option<Text<'a>>,
        #[serde(borrow)]
        permission_suggestions: Option<&'a RawValue>,
        #[serde(borrow)]
        tool_use_id: Option<Text<'a>>,
        #[serde(borrow)]
        agent_id: Option<Text<'a>>,
        #[serde(borrow)]
        blocked_path: Option<Text<'a>>,
        #[serde(borrow)]
        decision_reason: Option<Text<'a>>,
    }
    let Envelope { request_id: Text(request_id), request } = line.read()?;
    let subtype = member::<Request>(request).map_or(Cow::Borrowed(""), |request| request.subtype.0);
    let asked = if subtype == "can_use_tool" { member::<CanUseTool>(request) } else { None };
    let Some(asked) = asked else { return Some(Message::ControlRequest { request_id, subtype }) };
    Some(Message::Approval {
        request_id,
        tool: asked.tool_name.0,
        input: asked.input,
        description: Text::opened(asked.description),
        suggestions: asked.permission_suggestions,
        tool_use_id: Text::opened(asked.tool_use_id),
        agent_id: Text::opened(asked.agent_id),
        blocked_path: Text::opened(asked.blocked_path),
        decision_reason: Text::opened(asked.decision_reason),
    })
}

fn control_response<'a>(line: &mut Document<'a>) -> Option<Message<'a>> {
    #[derive(Deserialize)]
    struct Envelope<'a> {
        #[serde(borrow)]
        response: Response<'a>,
    }
    #[derive(Deserialize)]
    struct Response<'a> {
        #[serde(borrow)]
        subtype: Text<'a>,
        #[serde(borrow)]
        request_id: Text<'a>,
        #[serde(borrow)]
        response: Option<&'a RawValue>,
        #[serde(borrow)]
        error: Option<&'a RawValue>,
        #[serde(borrow)]
        error_code: Option<&'a RawValue>,
    }
    let Envelope { response } = line.read()?;
    let outcome = match &*response.subtype.0 {
        "success" => Ok(response.response),
        _ => Err(match response.error {
            Some(raw) => text_member(Some(raw)).unwrap_or(Cow::Borrowed(raw.get())),
            None => Cow::Borrowed(""),
        }),
    };
    let error_code = text_member(response.error_code);
    Some(Message::ControlResponse { request_id: response.request_id.0, outcome, error_code })
}

/// What the answer to `initialize` tells of the agent.
#[derive(Debug)]
pub struct Initialize<'a> {
    /// The CLI's version.
    pub version: Option<Cow<'a, str>>,
    /// The permission mode it starts in.
    pub mode: Option<Cow<'a, str>>,
    /// A JSON list, passed on as it is.
    pub models: Option<&'a RawValue>,
    /// A JSON list, passed on as it is.
    pub commands: Option<&'a RawValue>,
    /// Whether it has credentials for its API; `None` when it does not say, as with clouds
    /// that bring their own.
    pub logged_in: Option<bool>,
}

/// Reads the body of the answer to [`initialize`]. A member of an unexpected type is taken as
/// absent; `None` only if the body is not an object.
pub fn initialize_reply(body: &RawValue) -> Option<Initialize<'_>> {
    #[derive(Deserialize)]
    struct Reply<'a> {
        #[serde(borrow)]
        claude_code_version: Option<&'a RawValue>,
        #[serde(borrow)]
        current_permission_mode: Option<&'a RawValue>,
        #[serde(borrow)]
        models: Option<&'a RawValue>,
        #[serde(borrow)]
        commands: Option<&'a RawValue>,
        #[serde(borrow)]
        account: Option<&'a RawValue>,
    }
    if !body.get().starts_with('{') {
        return None;
    }
    let reply: Reply = read(body.get())?;
    Some(Initialize {
        version: text_member(reply.claude_code_version),
        mode: text_member(reply.current_permission_mode),
        models: reply.models,
        commands: reply.commands,
        logged_in: logged_in(reply.account),
    })
}

fn logged_in(account: Option<&RawValue>) -> Option<bool> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Account<'a> {
        #[serde(borrow)]
        token_source: Option<Text<'a>>,
        #[serde(borrow)]
        api_key_source: Option<Text<'a>>,
        #[serde(borrow)]
        api_provider: Option<Text<'a>>,
        #[serde(borrow)]
        email: Option<Text<'a>>,
        #[serde(borrow)]
        subscription_type: Option<Text<'a>>,
    }
    let account: Account = member(account)?;
    let says = account.token_source.is_some() || account.api_key_source.is_some();
    let sources =
        [account.token_source, account.api_key_source, account.email, account.subscription_type];
    if sources.into_iter().flatten().any(|source| !matches!(&*source.0, "" | "none")) {
        return Some(true);
    }
    let first_party = account.api_provider.is_none_or(|provider| provider.0 == "firstParty");
    (says && first_party).then_some(false)
}

/// Appends a JSON string.
fn string(out: &mut Vec<u8>, text: &str) {
    // Writing to memory does not fail, and a string always has a JSON form.
    let written = serde_json::to_writer(out, text);
    debug_assert!(written.is_ok());
}

/// Appends JSON on one line. In valid JSON a raw newline is only ever space between tokens.
fn on_one_line(out: &mut Vec<u8>, json: &str) {
    out.extend(json.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
}

fn request(out: &mut Vec<u8>, request_id: &str, subtype: &str, member: Option<(&str, &str)>) {
    out.extend_from_slice(b"{\"type\":\"control_request\",\"request_id\":");
    string(out, request_id);
    out.extend_from_slice(b",\"request\":{\"subtype\":");
    string(out, subtype);
    if let Some((name, value)) = member {
        out.push(b',');
        string(out, name);
        out.push(b':');
        string(out, value);
    }
    out.extend_from_slice(b"}}\n");
}

/// Appends the request that shows the agent is ready; see [`initialize_reply`].
pub fn initialize(out: &mut Vec<u8>, request_id: &str) {
    request(out, request_id, "initialize", None);
}

/// Appends the request to end the running turn.
pub fn interrupt(out: &mut Vec<u8>, request_id: &str) {
    request(out, request_id, "interrupt", None);
}

/// Appends the request to change the permission mode.
pub fn set_mode(out: &mut Vec<u8>, request_id: &str, mode: &str) {
    request(out, request_id, "set_permission_mode", Some(("mode", mode)));
}

/// Appends the request to change the model.
pub fn set_model(out: &mut Vec<u8>, request_id: &str, model: &str) {
    request(out, request_id, "set_model", Some(("model", model)));
}

/// Appends a prompt. `images` are pairs of a media type and base64 data.
pub fn user(out: &mut Vec<u8>, text: &str, images: &[(&str, &str)], uuid: Option<&str>) {
    out.extend_from_slice(b"{\"type\":\"user\",\"message\":{\"role\":\"user\",\"content\":");
    if images.is_empty() {
        string(out, text);
    } else {
        out.push(b'[');
        for (media_type, data) in images {
            out.extend_from_slice(b"{\"type\":\"image\",\"source\":{\"type\":\"base64\",");
            out.extend_from_slice(b"\"media_type\":");
            string(out, media_type);
            out.extend_from_slice(b",\"data\":");
            string(out, data);
            out.extend_from_slice(b"}},");
        }
        out.extend_from_slice(b"{\"type\":\"text\",\"text\":");
        string(out, text);
        out.extend_from_slice(b"}]");
    }
    out.push(b'}');
    if let Some(uuid) = uuid {
        out.extend_from_slice(b",\"uuid\":");
        string(out, uuid);
    }
    out.extend_from_slice(b"}\n");
}

fn answer(out: &mut Vec<u8>, request_id: &str) {
    out.extend_from_slice(b"{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",");
    out.extend_from_slice(b"\"request_id\":");
    string(out, request_id);
    out.extend_from_slice(b",\"response\":");
}

/// Appends the leave to use a tool. Both values are JSON, any newlines in them are taken out;
/// the input is always sent, because older versions want it.
pub fn allow(out: &mut Vec<u8>, request_id: &str, updated_input_raw: &str, rules: Option<&str>) {
    answer(out, request_id);
    out.extend_from_slice(b"{\"behavior\":\"allow\",\"updatedInput\":");
    on_one_line(out, updated_input_raw);
    if let Some(rules) = rules {
        out.extend_from_slice(b",\"updatedPermissions\":");
        on_one_line(out, rules);
    }
    out.extend_from_slice(b"}}}\n");
}

/// Appends the refusal of a tool; `message` is what the model reads. With `interrupt` the turn
/// ends too.
pub fn deny(out: &mut Vec<u8>, request_id: &str, message: &str, interrupt: bool) {
    answer(out, request_id);
    out.extend_from_slice(b"{\"behavior\":\"deny\",\"message\":");
    string(out, message);
    if interrupt {
        out.extend_from_slice(b",\"interrupt\":true");
    }
    out.extend_from_slice(b"}}}\n");
}

/// Appends the answer to a request that we do not serve.
pub fn error_response(out: &mut Vec<u8>, request_id: &str, text: &str) {
    out.extend_from_slice(b"{\"type\":\"control_response\",\"response\":{\"subtype\":\"error\",");
    out.extend_from_slice(b"\"request_id\":");
    string(out, request_id);
    out.extend_from_slice(b",\"error\":");
    string(out, text);
    out.extend_from_slice(b"}}\n");
}

/// How an agent is started.
#[derive(Clone, Copy, Debug, Default)]
pub struct Start<'a> {
    /// The conversation to begin or to go on with: a UUID.
    pub conversation_id: &'a str,
    /// It exists: go on with it.
    pub resume: bool,
    /// Begin it as a copy of this one.
    pub fork_from: Option<&'a str>,
    /// The last entry of that one that is copied; none: all of them.
    pub fork_entry: Option<&'a str>,
    /// The permission mode.
    pub mode: Option<&'a str>,
    /// The model, by any name that the CLI knows.
    pub model: Option<&'a str>,
    /// The mode `bypassPermissions` may be chosen later.
    pub allow_bypass: bool,
    /// Rules granted before, such as `Bash(ls)`.
    pub allowed_tools: &'a [String],
    /// Directories granted before.
    pub directories: &'a [String],
    /// The directory is not trusted: read none of its settings, hooks and servers.
    pub no_local_settings: bool,
}

/// The arguments after the program's name. Values from outside stand behind `=`, so that none
/// can be read as a flag.
pub fn arguments(start: &Start<'_>) -> Vec<String> {
    let always = [
        "-p",
        "--input-format",
        "stream-json",
        "--output-format",
        "stream-json",
        "--verbose",
        "--include-partial-messages",
        "--permission-prompt-tool",
        "stdio",
        "--settings",
        // Else plan mode asks a classifier that only Anthropic's own API serves.
        "{\"useAutoModeDuringPlan\":false}",
    ];
    let mut arguments: Vec<String> = always.map(String::from).into();
    match (start.fork_from, start.resume) {
        (Some(from), _) => {
            arguments.push(format!("--resume={from}"));
            arguments.push("--fork-session".to_owned());
            let entry = start.fork_entry.map(|entry| format!("--resume-session-at={entry}"));
            arguments.extend(entry);
            arguments.push(format!("--session-id={}", start.conversation_id));
        }
        (None, true) => arguments.push(format!("--resume={}", start.conversation_id)),
        (None, false) => arguments.push(format!("--session-id={}", start.conversation_id)),
    }
    if let Some(mode) = start.mode {
        arguments.push(format!("--permission-mode={mode}"));
    }
    if let Some(model) = start.model {
        arguments.push(format!("--model={model}"));
    }
    if start.allow_bypass {
        arguments.push("--allow-dangerously-skip-permissions".to_owned());
    }
    let rules = start.allowed_tools.iter().map(|rule| format!("--allowedTools={rule}"));
    let directories = start.directories.iter().map(|path| format!("--add-dir={path}"));
    arguments.extend(rules.chain(directories));
    if start.no_local_settings {
        arguments.push("--setting-sources=user".to_owned());
        arguments.push("--strict-mcp-config".to_owned());
    }
    arguments
}

/// The two refusals to start that the other way of starting may cure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// `--session-id` named a conversation that exists: resume it.
    AlreadyInUse,
    /// `--resume` named a conversation that does not exist: begin it, unless it was to be forked.
    NotFound,
}

/// Finds a refusal in the agent's stderr, or in the errors of its one result.
pub fn refusal(text: &str) -> Option<Refusal> {
    text.lines().find_map(|line| {
        if line.contains("No conversation found with session ID") {
            return Some(Refusal::NotFound);
        }
        let (_, rest) = line.split_once("Session ID ")?;
        let (_, rest) = rest.split_once(' ')?;
        rest.starts_with("is already in use").then_some(Refusal::AlreadyInUse)
    })
}

/// What a tool does, for icons and filters.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub enum ToolKind {
    Read,
    Edit,
    Write,
    Command,
    Search,
    Web,
    Agent,
    Todo,
    Other,
}

impl ToolKind {
    /// The name in events (DESIGN.md, section 4).
    pub fn as_str(self) -> &'static str {
        match self {
            ToolKind::Read => "read",
            ToolKind::Edit => "edit",
            ToolKind::Write => "write",
            ToolKind::Command => "command",
            ToolKind::Search => "search",
            ToolKind::Web => "web",
            ToolKind::Agent => "agent",
            ToolKind::Todo => "todo",
            ToolKind::Other => "other",
        }
    }
}

/// The kind of a tool by its name.
pub fn tool_kind(tool: &str) -> ToolKind {
    match tool {
        "Read" | "NotebookRead" => ToolKind::Read,
        "Edit" | "MultiEdit" | "NotebookEdit" => ToolKind::Edit,
        "Write" => ToolKind::Write,
        "Bash" | "BashOutput" | "KillShell" | "KillBash" | "Monitor" => ToolKind::Command,
        "Grep" | "Glob" | "LS" => ToolKind::Search,
        "WebFetch" | "WebSearch" => ToolKind::Web,
        "Agent" | "Task" => ToolKind::Agent,
        "TodoWrite" | "TaskCreate" | "TaskUpdate" | "TaskList" | "TaskGet" => ToolKind::Todo,
        _ => ToolKind::Other,
    }
}

/// The most characters of a title.
pub const TITLE_CHARS_MAX: usize = 200;

/// The members of tool inputs that titles and operations speak of.
#[derive(Default, Deserialize)]
struct Input<'a> {
    #[serde(borrow)]
    command: Option<Text<'a>>,
    #[serde(borrow)]
    file_path: Option<Text<'a>>,
    #[serde(borrow)]
    notebook_path: Option<Text<'a>>,
    #[serde(borrow)]
    path: Option<Text<'a>>,
    #[serde(borrow)]
    pattern: Option<Text<'a>>,
    #[serde(borrow)]
    query: Option<Text<'a>>,
    #[serde(borrow)]
    url: Option<Text<'a>>,
    #[serde(borrow)]
    description: Option<Text<'a>>,
    run_in_background: Option<bool>,
    #[serde(borrow)]
    questions: Option<Vec<Question<'a>>>,
}

#[derive(Deserialize)]
struct Question<'a> {
    #[serde(borrow)]
    question: Text<'a>,
}

/// The file that a tool call names, if any.
pub fn input_path(input: &RawValue) -> Option<Cow<'_, str>> {
    let input: Input = read(input.get())?;
    Text::opened(input.file_path.or(input.notebook_path).or(input.path))
}

/// The command that a tool call names, if any.
pub fn input_command(input: &RawValue) -> Option<Cow<'_, str>> {
    let input: Input = read(input.get())?;
    Text::opened(input.command)
}

/// Appends one line that says what a tool call would do, in our words, at most
/// [`TITLE_CHARS_MAX`] characters. Characters that hide or reorder text are spelled out, so that
/// what a human approves reads as it will run. An input that is not as expected gives a general
/// title.
pub fn title(out: &mut String, tool: &str, input: &RawValue) {
    let input: Input = read(input.get()).unwrap_or_default();
    let file = input.file_path.as_ref().or(input.notebook_path.as_ref()).or(input.path.as_ref());
    let (act, object) = match (tool_kind(tool), tool) {
        (ToolKind::Command, "Bash" | "Monitor") => {
            let background = input.run_in_background == Some(true);
            let act = if background { "Run a command in the background" } else { "Run a command" };
            (act, input.command.as_ref())
        }
        (ToolKind::Read, _) => ("Read", file),
        (ToolKind::Edit, _) => ("Edit", file),
        (ToolKind::Write, _) => ("Write", file),
        (ToolKind::Search, "LS") => ("List", file),
        (ToolKind::Search, "Glob") => ("Find files", input.pattern.as_ref()),
        (ToolKind::Search, _) => ("Search", input.pattern.as_ref()),
        (ToolKind::Web, "WebFetch") => ("Fetch", input.url.as_ref()),
        (ToolKind::Web, _) => ("Search the web", input.query.as_ref()),
        (ToolKind::Agent, _) => ("Start a subagent", input.description.as_ref()),
        (ToolKind::Todo, _) => ("Keep the list of tasks", None),
        (_, "AskUserQuestion") => {
            let first = input.questions.as_deref().and_then(<[_]>::first);
            ("Ask you", first.map(|question| &question.question))
        }
        (_, "ExitPlanMode") => ("Present a plan", None),
        _ => ("Use", None),
    };
    let mut left = TITLE_CHARS_MAX - 1; // One for the sign of a cut.
    let mut whole = push_visible(out, act, &mut left);
    if act == "Use" {
        whole = push_visible(out, " ", &mut left) && push_visible(out, tool, &mut left);
    } else if let Some(object) = object {
        let path = matches!(act, "Read" | "Edit" | "Write" | "List" | "Fetch");
        whole = push_visible(out, if path { " " } else { ": " }, &mut left)
            && push_visible(out, &object.0, &mut left);
    }
    if !whole {
        out.push('…');
    }
}

/// Appends `text` with its invisible characters spelled out, up to `left` characters; says
/// whether all of it fitted.
fn push_visible(out: &mut String, text: &str, left: &mut usize) -> bool {
    for character in text.chars() {
        let start = out.len();
        if is_deceptive(character) {
            // Writing to memory does not fail.
            let _ = write!(out, "\\u{{{:04X}}}", u32::from(character));
        } else {
            out.push(character);
        }
        let chars = if is_deceptive(character) { out.len() - start } else { 1 };
        if chars > *left {
            out.truncate(start);
            return false;
        }
        *left -= chars;
    }
    true
}

/// Whether a character is a control, has no width, or changes the direction of its neighbours.
fn is_deceptive(character: char) -> bool {
    character.is_control()
        || matches!(character,
            '\u{ad}' | '\u{34f}' | '\u{61c}' | '\u{115f}' | '\u{1160}' | '\u{17b4}' | '\u{17b5}'
            | '\u{180b}'..='\u{180f}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{3164}' | '\u{fe00}'..='\u{fe0f}' | '\u{feff}'
            | '\u{ffa0}' | '\u{fff9}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}' | '\u{e0000}'..='\u{e0fff}')
}

/// One entry of the agent's list of tasks.
#[derive(Clone, Debug, PartialEq)]
pub struct Todo<'a> {
    /// Unique within the list.
    pub id: Cow<'a, str>,
    /// What is to be done.
    pub text: Cow<'a, str>,
    /// `pending`, `in_progress` or `completed`.
    pub status: Cow<'a, str>,
}

/// What a tool call does to the list.
#[derive(Debug, PartialEq)]
pub enum TodoChange<'a> {
    /// This is the list now.
    Replace(Vec<Todo<'a>>),
    /// A pending entry comes to the end. Without an id it takes the next number: the CLI counts
    /// from 1.
    Create {
        /// The id that the result gave it.
        id: Option<Cow<'a, str>>,
        /// What is to be done.
        text: Cow<'a, str>,
    },
    /// An entry changes in what is told.
    Update {
        /// Which.
        id: Cow<'a, str>,
        /// Its new text.
        text: Option<Cow<'a, str>>,
        /// Its new status; `deleted` takes it off the list.
        status: Option<Cow<'a, str>>,
    },
}

/// Reads what a call of one of the list tools does, from its input and, where the call has
/// ended, its structured result. `None` for other tools, and for a call that changes nothing.
pub fn todos<'a>(
    tool: &str,
    input: &'a RawValue,
    structured: Option<&'a RawValue>,
) -> Option<TodoChange<'a>> {
    match tool {
        "TodoWrite" => todo_list(input),
        "TaskCreate" => {
            #[derive(Deserialize)]
            struct Create<'a> {
                #[serde(borrow)]
                subject: Text<'a>,
            }
            #[derive(Deserialize)]
            struct Created<'a> {
                #[serde(borrow)]
                task: Id<'a>,
            }
            let input: Create = read(input.get())?;
            let id = member::<Created>(structured).map(|created| created.task.id.0);
            Some(TodoChange::Create { id, text: input.subject.0 })
        }
        "TaskUpdate" => {
            #[derive(Deserialize)]
            struct Update<'a> {
                #[serde(borrow, rename = "taskId")]
                id: Text<'a>,
                #[serde(borrow)]
                subject: Option<Text<'a>>,
                #[serde(borrow)]
                status: Option<Text<'a>>,
            }
            let update: Update = read(input.get())?;
            let (text, status) = (Text::opened(update.subject), Text::opened(update.status));
            if text.is_none() && status.is_none() {
                return None;
            }
            Some(TodoChange::Update { id: update.id.0, text, status })
        }
        _ => None,
    }
}

fn todo_list(input: &RawValue) -> Option<TodoChange<'_>> {
    #[derive(Deserialize)]
    struct List<'a> {
        #[serde(borrow)]
        todos: Vec<Entry<'a>>,
    }
    #[derive(Deserialize)]
    struct Entry<'a> {
        #[serde(borrow)]
        id: Option<Text<'a>>,
        #[serde(borrow)]
        content: Text<'a>,
        #[serde(borrow)]
        status: Text<'a>,
    }
    let list: List = read(input.get())?;
    let numbered = list.todos.into_iter().zip(1u32..);
    let todos = numbered.map(|(entry, number)| Todo {
        id: Text::opened(entry.id).unwrap_or_else(|| Cow::Owned(number.to_string())),
        text: entry.content.0,
        status: entry.status.0,
    });
    Some(TodoChange::Replace(todos.collect()))
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn of_very_many_errors_the_first_ones_are_read() {
        for count in [0, 1, ERRORS_MAX, ERRORS_MAX + 1, 100_000] {
            let errors = vec!["\"e\""; count].join(",");
            let line = format!("{{\"type\":\"result\",\"errors\":[{errors}],\"is_error\":true}}");
            let Parsed::Message(Message::Result(end)) = parse(line.as_bytes()) else {
                panic!("{count}: it is a result");
            };
            assert_eq!(end.errors.len(), count.min(ERRORS_MAX));
        }
        let line = br#"{"type":"result","errors":"none","is_error":true}"#;
        let Parsed::Message(Message::Result(end)) = parse(line) else { panic!("it is a result") };
        assert!(end.errors.is_empty());
    }

    /// Every example line, by its file's name.
    fn fixtures() -> Vec<(String, String)> {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/claude");
        let mut fixtures = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap().to_owned();
            let mut line = Vec::new();
            minify(&mut line, &std::fs::read_to_string(&path).unwrap());
            fixtures.push((name, String::from_utf8(line).unwrap()));
        }
        fixtures.sort();
        assert!(fixtures.len() > 50);
        fixtures
    }

    fn minify(out: &mut Vec<u8>, pretty: &str) {
        let (mut quoted, mut escaped) = (false, false);
        for byte in pretty.bytes() {
            if quoted || !byte.is_ascii_whitespace() {
                out.push(byte);
            }
            quoted ^= byte == b'"' && !escaped;
            escaped = quoted && byte == b'\\' && !escaped;
        }
    }

    /// The same JSON with the members of every object from last to first.
    fn reversed(out: &mut String, value: &Value) {
        match value {
            Value::Object(members) => {
                out.push('{');
                for (number, (name, value)) in members.iter().rev().enumerate() {
                    out.push_str(if number > 0 { "," } else { "" });
                    out.push_str(&Value::from(name.as_str()).to_string());
                    out.push(':');
                    reversed(out, value);
                }
                out.push('}');
            }
            Value::Array(elements) => {
                out.push('[');
                for (number, value) in elements.iter().enumerate() {
                    out.push_str(if number > 0 { "," } else { "" });
                    reversed(out, value);
                }
                out.push(']');
            }
            value => out.push_str(&value.to_string()),
        }
    }

    fn is(text: &Option<Cow<'_, str>>, expected: &str) -> bool {
        text.as_deref() == Some(expected)
    }

    fn raw(json: &str) -> &RawValue {
        serde_json::from_str(json).unwrap()
    }

    fn message(line: &str) -> Message<'_> {
        match parse(line.as_bytes()) {
            Parsed::Message(message) => message,
            other => panic!("{other:?}: {line}"),
        }
    }

    #[rustfmt::skip] // A table.
    fn means_what_it_should(name: &str, parsed: &Parsed<'_>) -> bool {
        use Message as M;
        let Parsed::Message(message) = parsed else { return name == "system.task_updated.json" };
        match (name.strip_suffix(".json").unwrap(), message) {
            ("assistant.text.aborted", M::Assistant { message_id, aborted: true, blocks, error: None, .. }) =>
                message_id == "msg_fake_2" && matches!(&blocks[..], [Block::Text { text }] if text.text() == "word1 word2 word3 word4 "),
            ("assistant.text.error", M::Assistant { synthetic: true, api_error_status: Some(529), error, blocks, .. }) =>
                is(error, "server_error") && matches!(&blocks[..], [Block::Text { text }] if text.text().contains('—')),
            ("assistant.text", M::Assistant { aborted: false, synthetic: false, parent_tool_use_id: None, .. }) => true,
            ("assistant.text.sub", M::Assistant { parent_tool_use_id, agent_id, .. }) =>
                is(parent_tool_use_id, "toolu_fake_36") && is(agent_id, "a65a9e19470d05ca6"),
            ("assistant.thinking", M::Assistant { blocks, .. }) =>
                matches!(&blocks[..], [Block::Thinking { text }] if text.text() == "let me think about it "),
            ("assistant.tool_use", M::Assistant { blocks, .. }) => matches!(&blocks[..],
                [Block::ToolUse { id, name, input }] if id == "toolu_fake_3" && name == "AskUserQuestion" && input.get().contains("Which color?")),
            ("assistant.tool_use.sub", M::Assistant { blocks, parent_tool_use_id: Some(_), .. }) =>
                matches!(&blocks[..], [Block::ToolUse { name, .. }] if name == "Bash"),
            ("command_lifecycle.cancelled" | "command_lifecycle.completed" | "command_lifecycle.queued"
            | "command_lifecycle.started" | "stream_event.ping" | "stream_event.message_delta" | "system.ui_invalidate"
            | "stream_event.content_block_delta.input_json_delta" | "system.thinking_tokens"
            | "stream_event.content_block_delta.signature_delta", M::Ignored) => true,
            ("control_cancel_request", M::ApprovalWithdrawn { request_id }) => request_id == "8201b9b2-ee35-4c6c-a1cd-14b0e01f3fac",
            ("control_request.can_use_tool.AskUserQuestion", M::Approval { tool, input, suggestions: None, .. }) =>
                tool == "AskUserQuestion" && input.get().contains("Green"),
            ("control_request.can_use_tool.Bash", M::Approval { request_id, tool, input, description, suggestions: Some(_), tool_use_id, agent_id: None, decision_reason, .. }) =>
                request_id == "bd92241c-5bc2-46f7-acea-9848b5bd42cd" && tool == "Bash" && input.get().contains("sleep 0.3")
                && is(description, "run in background") && is(tool_use_id, "toolu_fake_50") && decision_reason.is_some(),
            ("control_request.can_use_tool.ExitPlanMode", M::Approval { tool, input, .. }) => tool == "ExitPlanMode" && input.get() == "{}",
            ("control_request.can_use_tool.Write", M::Approval { suggestions: Some(raw), .. }) => raw.get().contains("acceptEdits"),
            ("control_request.hook_callback.PreToolUse" | "control_request.hook_callback.Stop"
            | "control_request.hook_callback.UserPromptSubmit", M::ControlRequest { request_id, subtype }) =>
                subtype == "hook_callback" && request_id.len() == 36,
            ("control_response.error", M::ControlResponse { request_id, outcome: Err(text), error_code }) =>
                request_id == "m2" && text.starts_with("Cannot set") && is(error_code, "bypass_not_launched"),
            ("control_response.success", M::ControlResponse { request_id, outcome: Ok(Some(body)), .. }) => {
                let told = initialize_reply(body).unwrap();
                request_id == "init1" && is(&told.version, "2.1.330") && is(&told.mode, "default")
                && told.models.unwrap().get().starts_with("[{") && told.commands.is_some() && told.logged_in == Some(true)
            }
            ("result.success", M::Result(end)) => !end.is_error && end.duration_ms == 192 && end.num_turns == 2 && end.usage.is_some()
                && end.total_cost_usd == Some(0.00102) && is(&end.result, "thanks ") && is(&end.terminal_reason, "completed")
                && is(&end.conversation_id, "b40eefd8-38f6-448f-b07d-dd2b9a4f1b09") && end.subtype == "success" && end.denials == 0,
            ("result.success.is_error", M::Result(end)) => end.is_error && end.api_error_status == Some(529) && end.subtype == "success",
            ("result.error_during_execution.is_error", M::Result(end)) => end.is_error && end.interrupted() && end.errors.len() == 1,
            ("result.error_max_turns.is_error", M::Result(end)) => end.errors == ["Reached maximum number of turns (1)"] && !end.interrupted(),
            ("stream_event.content_block_delta.text_delta", M::Delta { block: 0, kind: DeltaKind::Text, text: Cow::Borrowed("Calling a tool."), message_id }) =>
                is(message_id, "msg_fake_2"),
            ("stream_event.content_block_delta.thinking_delta", M::Delta { kind: DeltaKind::Thinking, text, .. }) => text == "let ",
            ("stream_event.content_block_start", M::BlockStart { block: 0, kind: BlockKind::Text }) => true,
            ("stream_event.content_block_stop", M::BlockStop { block: 0 }) => true,
            ("stream_event.message_start", M::MessageStart { message_id, parent_tool_use_id: None }) => message_id == "msg_fake_2",
            ("stream_event.message_stop", M::MessageStop) => true,
            ("system.api_retry", M::ApiRetry { attempt: 1, retries_max: 10, delay_ms: 551, status: Some(529), error }) => is(error, "overloaded"),
            ("system.background_tasks_changed", M::BackgroundTasks { count: 1 }) => true,
            ("system.compact_boundary", M::Compacted { trigger, tokens_before: Some(197), tokens_after: Some(2858) }) => is(trigger, "manual"),
            ("system.informational", M::Informational { text, level }) => text.starts_with("Auto mode") && is(level, "warning"),
            ("system.init", M::Init { conversation_id, model, mode, version }) => conversation_id == "b40eefd8-38f6-448f-b07d-dd2b9a4f1b09"
                && is(model, "claude-opus-5-5") && is(mode, "default") && is(version, "2.1.330"),
            ("system.permission_denied", M::PermissionDenied { tool_use_id, tool, message }) =>
                tool_use_id == "toolu_fake_13" && tool == "Bash" && message.starts_with("Auto mode"),
            ("system.status.None", M::Status { status: None, mode }) => is(mode, "plan"),
            ("system.status.compacting", M::Status { status, mode: None }) => is(status, "compacting"),
            ("system.status.requesting", M::Status { status, .. }) => is(status, "requesting"),
            ("system.task_notification", M::TaskNotification { task_id, tool_use_id, status, summary, usage: Some(_) }) =>
                task_id == "a65a9e19470d05ca6" && is(tool_use_id, "toolu_fake_36") && status == "completed" && is(summary, "sub done "),
            ("system.task_progress", M::TaskProgress { description, last_tool, .. }) => description == "Running run a command" && is(last_tool, "Bash"),
            ("system.task_started", M::TaskStarted { description, background: true, task_type, .. }) =>
                description == "a subtask" && is(task_type, "local_agent"),
            ("tool_progress", M::ToolProgress { tool_use_id, tool, elapsed_ms: 30_000 }) => tool_use_id == "toolu_fake_3" && tool == "Bash",
            ("user.string", M::UserText { text, synthetic: true, replay: false, .. }) => text.starts_with("This session is being continued"),
            ("user.string.replay", M::UserText { replay: true, synthetic: false, .. }) => true,
            ("user.text", M::UserText { interrupted_notice: true, parent_tool_use_id: None, .. }) => true,
            ("user.text.sub", M::UserText { parent_tool_use_id, interrupted_notice: false, .. }) => is(parent_tool_use_id, "toolu_fake_59"),
            ("user.tool_result", M::ToolResults { results, structured: Some(structured), parent_tool_use_id: None, entry: Some(_) }) =>
                results[0].tool_use_id == "toolu_fake_3" && !results[0].is_error && !results[0].denied
                && results[0].content.unwrap().get().starts_with("\"Your questions") && structured.get().contains("answers"),
            ("user.tool_result.sub", M::ToolResults { results, structured: None, parent_tool_use_id: Some(_), .. }) =>
                results.len() == 1 && results[0].content.unwrap().get() == "\"from-sub\"",
            _ => false,
        }
    }

    #[test]
    fn every_example_line_means_what_it_should_in_any_order_of_keys() {
        for (name, line) in fixtures() {
            let parsed = parse(line.as_bytes());
            assert!(means_what_it_should(&name, &parsed), "{name}: {parsed:?}");
            let mut backwards = String::new();
            reversed(&mut backwards, &serde_json::from_str(&line).unwrap());
            let parsed = parse(backwards.as_bytes());
            assert!(means_what_it_should(&name, &parsed), "reversed {name}: {parsed:?}");
        }
    }

    #[test]
    fn no_prefix_and_no_mutation_of_a_line_panics() {
        let mut state = 0x9e37_79b9_7f4a_7c15u64;
        let mut random = move |below: usize| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            (state % below as u64) as usize
        };
        let spare = b"\"\\{}[]:,0123456789.eE+-nulltruefalse\x00\n\xff\xc3\xf0 \t";
        for (name, line) in fixtures() {
            for end in 0..line.len() {
                assert!(matches!(parse(&line.as_bytes()[..end]), Parsed::Noise), "{name} {end}");
            }
            for _ in 0..2_000 {
                let mut mutant = line.clone().into_bytes();
                for _ in 0..=random(4) {
                    let at = random(mutant.len());
                    match random(3) {
                        0 => mutant[at] = spare[random(spare.len())],
                        1 => drop(mutant.drain(at..(at + 1 + random(8)).min(mutant.len()))),
                        _ => mutant.insert(at, spare[random(spare.len())]),
                    }
                    if mutant.is_empty() {
                        mutant.push(b'{');
                    }
                }
                let valid = serde_json::from_slice::<Value>(&mutant).is_ok_and(|v| v.is_object());
                let noise = matches!(parse(&mutant), Parsed::Noise);
                assert!(!(valid && noise), "{}", String::from_utf8_lossy(&mutant));
            }
        }
    }

    #[test]
    fn any_member_of_any_other_type_keeps_the_line() {
        for (name, line) in fixtures() {
            let value: Value = serde_json::from_str(&line).unwrap();
            for member in value.as_object().unwrap().keys() {
                for odd in [Value::Null, 7.into(), "odd".into(), Value::Array(vec![]), true.into()]
                {
                    let mut value = value.clone();
                    value[member] = odd.clone();
                    let line = value.to_string();
                    let parsed = parse(line.as_bytes());
                    assert!(!matches!(parsed, Parsed::Noise), "{name} {member} {odd}");
                    // The end of a turn and a question must not be lost over a detail.
                    if name.starts_with("result") && member != "type" {
                        assert!(matches!(parsed, Parsed::Message(Message::Result(_))), "{line}");
                    }
                    if name.starts_with("control_request") && member == "request" {
                        let told =
                            matches!(parsed, Parsed::Message(Message::ControlRequest { .. }));
                        assert!(told, "{line}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_is_not_ours_is_other_and_what_is_not_an_object_is_noise() {
        for (line, expected) in [
            ("", "Noise"),
            (" ", "Noise"),
            ("42", "Noise"),
            ("[\"stream_event\",null,{\"type\":\"ping\"},null,null]", "Noise"),
            ("{\"type\":\"result\"", "Noise"),
            ("{\"type\":\"result\"} x", "Noise"),
            ("{\"type\":\"keep_alive\",\"a\":\"raw\u{1}control\"}", "Noise"),
            ("{}", "Other"),
            ("{\"type\":5}", "Other"),
            ("{\"type\":\"rate_limit_event\"}", "Other"),
            ("{\"type\":\"a\",\"type\":\"b\"}", "Other"),
            ("{\"type\":\"stream_event\"}", "Other"),
            ("{\"type\":\"stream_event\",\"event\":\"ui.render\"}", "Other"),
            ("{\"type\":\"assistant\",\"message\":\"text\"}", "Other"),
            ("{\"type\":\"system\",\"subtype\":\"hook_started\"}", "Other"),
            ("  {\"type\":\"keep_alive\"}\r", "Message(Ignored)"),
        ] {
            assert_eq!(format!("{:?}", parse(line.as_bytes())), expected, "{line}");
        }
        assert!(matches!(parse(b"{\"type\":\"keep_alive\",\"a\":\"\xff\"}"), Parsed::Noise));
    }

    #[test]
    fn half_a_surrogate_pair_costs_one_character_and_not_the_line() {
        let line = r#"{"type":"stream_event","event":{"type":"content_block_delta","index":2,
            "delta":{"type":"text_delta","text":"cut \ud83d"}},"api_message_id":"m"}"#;
        let line = line.replace('\n', "");
        let Message::Delta { block: 2, text, .. } = message(&line) else { panic!() };
        assert!(text.starts_with("cut \u{fffd}"), "{text}");
        assert!(text.chars().skip(4).all(|character| character == '\u{fffd}'));
    }

    #[test]
    fn a_line_of_ten_megabytes_is_read_and_borrowed() {
        let text = "0123456789abcdef".repeat(640 * 1024);
        let line = format!(
            "{{\"event\":{{\"delta\":{{\"text\":\"{text}\",\"type\":\"text_delta\"}},\"index\":0,\
             \"type\":\"content_block_delta\"}},\"type\":\"stream_event\"}}"
        );
        let Message::Delta { text: Cow::Borrowed(told), .. } = message(&line) else { panic!() };
        assert_eq!(told.len(), text.len());
        let deep = format!("{{\"type\":\"x\",\"a\":{}{}}}", "[".repeat(200), "]".repeat(200));
        assert!(matches!(parse(deep.as_bytes()), Parsed::Other));
    }

    #[test]
    fn a_denied_tool_is_told_by_its_meta_and_by_its_id() {
        let line = r#"{"type":"user","message":{"content":[{"type":"tool_result","tool_use_id":"a",
            "is_error":true,"content":"no"},{"type":"tool_result","tool_use_id":"b"}]},
            "tool_result_meta":[{"id":"a","permission_decision":{"decision":"reject"}},
            {"id":"b","permission_decision":{"decision":"accept"}}]}"#;
        let Message::ToolResults { results, .. } = message(line) else { panic!() };
        let told: Vec<_> = results.iter().map(|result| (result.is_error, result.denied)).collect();
        assert_eq!(told, [(true, true), (false, false)]);
    }

    #[test]
    fn our_own_prompt_come_back_and_the_streams_of_subagents_are_ignored() {
        for line in [
            r#"{"type":"user","message":{"content":"say 5 words"},"isReplay":true}"#,
            r#"{"type":"stream_event","event":{"type":"message_stop"},"parent_tool_use_id":"t"}"#,
        ] {
            assert!(matches!(message(line), Message::Ignored), "{line}");
        }
    }

    #[test]
    fn logged_in_is_what_the_account_says() {
        for (account, expected) in [
            (r#"{"tokenSource":"none","apiProvider":"firstParty"}"#, Some(false)),
            (r#"{"tokenSource":"none","apiKeySource":"none"}"#, Some(false)),
            (r#"{"tokenSource":"none","apiKeySource":"ANTHROPIC_API_KEY"}"#, Some(true)),
            (r#"{"tokenSource":"claude.ai","email":"a@b.c"}"#, Some(true)),
            (r#"{"email":"a@b.c","subscriptionType":"max"}"#, Some(true)),
            (r#"{"tokenSource":"none","apiProvider":"bedrock"}"#, None),
            ("{}", None),
            ("5", None),
        ] {
            let body = format!("{{\"account\":{account}}}");
            assert_eq!(initialize_reply(raw(&body)).unwrap().logged_in, expected, "{account}");
        }
        assert_eq!(initialize_reply(raw("{}")).unwrap().logged_in, None);
        assert!(initialize_reply(raw("[]")).is_none());
    }

    #[test]
    fn what_we_write_is_one_line_of_json_that_says_it() {
        let nasty = "a\"b\\c\nd\r\u{1}\u{2028}é😀";
        let image = [("image/png", "aGk=")];
        type Case<'a> = (&'a str, &'a dyn Fn(&mut Vec<u8>), &'a str, &'a str);
        let cases: [Case<'_>; 10] = [
            ("initialize", &|out| initialize(out, nasty), "/request_id", nasty),
            ("interrupt", &|out| interrupt(out, "r"), "/request/subtype", "interrupt"),
            ("mode", &|out| set_mode(out, "r", nasty), "/request/mode", nasty),
            ("model", &|out| set_model(out, "r", nasty), "/request/model", nasty),
            ("user", &|out| user(out, nasty, &[], Some("u")), "/message/content", nasty),
            ("image", &|out| user(out, nasty, &image, None), "/message/content/1/text", nasty),
            (
                "allow",
                &|out| allow(out, "r", "{\n \"a\":\r\n \"x\\n\"}", Some("[\n\"rule\"]")),
                "/response/response/updatedInput/a",
                "x\n",
            ),
            ("deny", &|out| deny(out, "r", nasty, false), "/response/response/message", nasty),
            ("deny!", &|out| deny(out, "r", "", true), "/response/response/behavior", "deny"),
            ("error", &|out| error_response(out, "r", nasty), "/response/error", nasty),
        ];
        for (name, write, pointer, expected) in cases {
            let mut out = b"before\n".to_vec();
            write(&mut out);
            let line = out.strip_prefix(b"before\n").unwrap();
            let line = line.strip_suffix(b"\n").unwrap();
            assert!(!line.contains(&b'\n') && !line.contains(&b'\r'), "{name}");
            let value: Value = serde_json::from_slice(line).unwrap();
            assert_eq!(value.pointer(pointer).unwrap(), expected, "{name}: {value}");
        }
        let mut out = Vec::new();
        allow(&mut out, "r", "{}", Some("[1]"));
        user(&mut out, "", &image, Some("u"));
        let text = String::from_utf8(out).unwrap();
        assert!(text.contains("\"updatedPermissions\":[1]") && text.contains("\"uuid\":\"u\""));
        assert!(text.contains("\"media_type\":\"image/png\",\"data\":\"aGk=\""));
    }

    #[test]
    fn the_command_line_keeps_values_behind_their_flags() {
        let new = Start { conversation_id: "--x", ..Start::default() };
        let new = arguments(&new).join(" ");
        assert!(new.starts_with("-p --input-format stream-json --output-format stream-json"));
        assert!(
            new.contains("--verbose --include-partial-messages --permission-prompt-tool stdio")
        );
        assert!(new.ends_with("--session-id=--x"), "{new}");
        let mut start = Start { conversation_id: "c", resume: true, ..Start::default() };
        start.allow_bypass = true;
        start.no_local_settings = true;
        (start.mode, start.model) = (Some("plan"), Some("opus"));
        let resumed = arguments(&start).join(" ");
        assert!(resumed.ends_with(
            "--resume=c --permission-mode=plan --model=opus \
             --allow-dangerously-skip-permissions --setting-sources=user --strict-mcp-config"
        ));
        start.fork_from = Some("old");
        let forked = arguments(&start).join(" ");
        assert!(forked.contains("--resume=old --fork-session --session-id=c"), "{forked}");
        start.fork_entry = Some("e");
        let forked = arguments(&start).join(" ");
        assert!(forked.contains("--fork-session --resume-session-at=e --session-id=c"), "{forked}");
    }

    #[test]
    fn exactly_two_refusals_are_known() {
        let id = "1ad72875-9f3d-4b98-9ecc-e8349dc3e302";
        for (text, expected) in [
            (
                format!("warn\nError: Session ID {id} is already in use.\n"),
                Some(Refusal::AlreadyInUse),
            ),
            (format!("No conversation found with session ID: {id}"), Some(Refusal::NotFound)),
            ("Error: Invalid session ID. Must be a valid UUID.".to_owned(), None),
            ("Session ID".to_owned(), None),
            ("the port is already in use".to_owned(), None),
        ] {
            assert_eq!(refusal(&text), expected, "{text}");
        }
    }

    #[test]
    fn titles_are_ours_short_and_show_what_hides() {
        for (tool, input, expected) in [
            ("Bash", r#"{"command":"ls -la","description":"x"}"#, "Run a command: ls -la"),
            (
                "Bash",
                r#"{"command":"x","run_in_background":true}"#,
                "Run a command in the background: x",
            ),
            ("Bash", r#"{"command":5}"#, "Run a command"),
            (
                "Bash",
                r#"{"command":"a\nb\u202ec\u200b"}"#,
                r"Run a command: a\u{000A}b\u{202E}c\u{200B}",
            ),
            ("Edit", r#"{"file_path":"/a b"}"#, "Edit /a b"),
            ("NotebookEdit", r#"{"notebook_path":"/n"}"#, "Edit /n"),
            ("Grep", r#"{"pattern":"x","path":"/p"}"#, "Search: x"),
            ("WebFetch", r#"{"url":"https://a.b/"}"#, "Fetch https://a.b/"),
            ("Task", r#"{"description":"a subtask"}"#, "Start a subagent: a subtask"),
            ("AskUserQuestion", r#"{"questions":[{"question":"Why?"}]}"#, "Ask you: Why?"),
            ("AskUserQuestion", "{}", "Ask you"),
            ("mcp__a__b", "{}", "Use mcp__a__b"),
            ("Weird\u{202e}", "[]", r"Use Weird\u{202E}"),
        ] {
            let mut told = String::new();
            title(&mut told, tool, raw(input));
            assert_eq!(told, expected, "{tool} {input}");
        }
        for filler in ["é", "\\u0007", "x"] {
            let input = format!("{{\"command\":\"{}\"}}", filler.repeat(5_000));
            let mut told = String::new();
            title(&mut told, "Bash", raw(&input));
            assert!(told.ends_with('…') && !told.contains('\u{7}'));
            assert!((190..=TITLE_CHARS_MAX).contains(&told.chars().count()), "{told}");
        }
    }

    #[test]
    fn the_list_of_tasks_is_read_from_every_tool_that_keeps_it() {
        let written = raw(r#"{"todos":[{"content":"a","status":"pending","activeForm":"A"},
            {"content":"b","status":"completed","id":"x"}]}"#);
        let Some(TodoChange::Replace(list)) = todos("TodoWrite", written, None) else { panic!() };
        assert_eq!((&*list[0].id, &*list[0].text, &*list[0].status), ("1", "a", "pending"));
        assert_eq!((&*list[1].id, &*list[1].status), ("x", "completed"));
        let created = raw(r#"{"subject":"do it","description":"d"}"#);
        let done = raw(r#"{"task":{"id":"3","subject":"do it"}}"#);
        assert_eq!(
            todos("TaskCreate", created, Some(done)),
            Some(TodoChange::Create { id: Some("3".into()), text: "do it".into() })
        );
        assert_eq!(
            todos("TaskCreate", created, Some(raw("\"Error\""))),
            Some(TodoChange::Create { id: None, text: "do it".into() })
        );
        let updated = raw(r#"{"taskId":"3","status":"completed"}"#);
        assert_eq!(
            todos("TaskUpdate", updated, None),
            Some(TodoChange::Update {
                id: "3".into(),
                text: None,
                status: Some("completed".into())
            })
        );
        assert_eq!(todos("TaskUpdate", raw(r#"{"taskId":"3"}"#), None), None);
        assert_eq!(todos("Bash", raw("{}"), None), None);
        assert_eq!(todos("TodoWrite", raw("7"), None), None);
    }
}
