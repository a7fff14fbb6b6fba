//! The bytes on both sides: an agent's lines and the frames that they become, and what is counted
//! in a stream.

/// Stands once in every event whose delivery is counted, and in nothing else that is sent.
pub const FRAME_MARK: u8 = b'~';
/// How long the frame of a small event is, whoever sends it.
pub const FRAME_SIZE: usize = 352;

/// Appends the frame that everybody but sidestream makes of an event.
pub fn frame(out: &mut Vec<u8>, number: u64, data: &[u8]) {
    out.extend_from_slice(b"id: ");
    out.extend_from_slice(number.to_string().as_bytes());
    out.extend_from_slice(b"\nevent: session-output\ndata: ");
    out.extend_from_slice(data);
    out.extend_from_slice(b"\n\n");
}

/// Text of this many bytes that ends in the mark.
fn text(size: usize) -> String {
    let words = "the quick brown fox jumps over the lazy dog and on ";
    let mut text: String = words.chars().cycle().take(size - 1).collect();
    text.push(char::from(FRAME_MARK));
    text
}

/// The data of a peer's event such that its frame has about this size.
pub fn data_line(frame_size: usize) -> Vec<u8> {
    let head = "{\"_eventType\":\"session-output\",\"sessionId\":\"session-1700000000000-\
        0123456789ab\",\"timestamp\":1700000000000,\"type\":\"stdout\",\"content\":\"";
    let around = "id: 100\nevent: session-output\ndata: \n\n".len() + head.len() + 2;
    format!("{head}{}\"}}\n", text(frame_size.saturating_sub(around).max(1))).into_bytes()
}

/// A line of the `claude` dialect whose frame here has about this size.
pub fn delta_line(frame_size: usize) -> Vec<u8> {
    // What a frame says beside the text: measured, and noted beside each figure.
    const AROUND: usize = 286;
    delta_of(&text(frame_size.saturating_sub(AROUND).max(1)))
}

/// The line of one delta with this text.
pub fn delta_of(text: &str) -> Vec<u8> {
    format!(
        "{{\"type\":\"stream_event\",\"event\":{{\"type\":\"content_block_delta\",\"index\":0,\
         \"delta\":{{\"type\":\"text_delta\",\"text\":\"{text}\"}}}},\"session_id\":\"{CONVERSATION}\",\
         \"parent_tool_use_id\":null,\"uuid\":\"6b1f0a52-6f0c-4c3b-9d5e-2f6f0c4c3b9d\",\
         \"api_message_id\":\"{MESSAGE}\"}}\n"
    )
    .into_bytes()
}

/// A whole block of text of about this many bytes, in one line, with words and escapes in it.
pub fn block_line(size: usize) -> Vec<u8> {
    let piece = "fn main() {\\n    println!(\\\"the quick brown fox\\\");\\n}\\n // jumps over it \u{e9}\\n";
    let mut text = String::with_capacity(size);
    while text.len() + piece.len() < size {
        text.push_str(piece);
    }
    format!(
        "{{\"type\":\"assistant\",\"message\":{{\"id\":\"{MESSAGE}\",\"type\":\"message\",\"role\":\
         \"assistant\",\"model\":\"claude-load-1\",\"content\":[{{\"type\":\"text\",\"text\":\"{text}\"}}],\
         \"stop_reason\":null,\"usage\":{{\"input_tokens\":10,\"output_tokens\":1}}}},\
         \"session_id\":\"{CONVERSATION}\",\"parent_tool_use_id\":null,\
         \"uuid\":\"6b1f0a52-6f0c-4c3b-9d5e-2f6f0c4c3b9d\"}}\n"
    )
    .into_bytes()
}

/// The lines that open a turn, up to the first delta.
pub fn turn_begins() -> Vec<u8> {
    format!(
        "{{\"type\":\"system\",\"subtype\":\"init\",\"cwd\":\"/\",\"session_id\":\"{CONVERSATION}\",\
         \"model\":\"claude-load-1\",\"permissionMode\":\"default\",\"tools\":[]}}\n\
         {{\"type\":\"stream_event\",\"event\":{{\"type\":\"message_start\",\"message\":{{\"id\":\
         \"{MESSAGE}\",\"type\":\"message\",\"role\":\"assistant\",\"model\":\"claude-load-1\",\
         \"content\":[],\"usage\":{{\"input_tokens\":1,\"output_tokens\":1}}}}}},\"session_id\":\
         \"{CONVERSATION}\",\"parent_tool_use_id\":null}}\n\
         {{\"type\":\"stream_event\",\"event\":{{\"type\":\"content_block_start\",\"index\":0,\
         \"content_block\":{{\"type\":\"text\",\"text\":\"\"}}}},\"session_id\":\"{CONVERSATION}\",\
         \"parent_tool_use_id\":null,\"api_message_id\":\"{MESSAGE}\"}}\n"
    )
    .into_bytes()
}

/// The line that ends a turn. Its text carries the mark.
pub fn turn_ends() -> Vec<u8> {
    format!(
        "{{\"type\":\"result\",\"subtype\":\"success\",\"is_error\":false,\"duration_ms\":1,\
         \"duration_api_ms\":1,\"num_turns\":1,\"result\":\"{}\",\"session_id\":\"{CONVERSATION}\",\
         \"total_cost_usd\":0,\"usage\":{{\"input_tokens\":1,\"output_tokens\":1}}}}\n",
        char::from(FRAME_MARK)
    )
    .into_bytes()
}

/// The answer to a control request.
pub fn control_answer(request_id: &str, body: &str) -> Vec<u8> {
    format!(
        "{{\"type\":\"control_response\",\"response\":{{\"subtype\":\"success\",\
         \"request_id\":\"{request_id}\",\"response\":{body}}}}}\n"
    )
    .into_bytes()
}

const MESSAGE: &str = "msg_load_1";
const CONVERSATION: &str = "00000000-0000-4000-8000-000000000000";
