//! Events as text for a terminal: pure, so that it can be tested to the letter.
//!
//! Promises: nothing that an agent, a model or a file said reaches the terminal but through
//! [`visible`]; the only escape sequences are this file's own colours, and there are none unless
//! they were asked for; no block is printed twice, whether it came in pieces, as a whole, or both.

use std::collections::VecDeque;
use std::fmt::Write as _;

use serde_json::Value;

use crate::wire::json;
use crate::wire::visible;

/// Blocks under way whose printed length is remembered: one a session, and some.
const BLOCKS_MAX: usize = 256;

/// How a line is set off from the agent's words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    Plain,
    /// In the background: thoughts, states.
    Dim,
    /// To be seen: prompts, headings.
    Bold,
    /// Something is wrong.
    Red,
    /// Somebody must answer.
    Yellow,
}

/// What a terminal shows so far, as far as that matters for what comes next.
#[derive(Debug)]
pub struct Screen {
    colour: bool,
    /// Several sessions are shown: say whose it is.
    many: bool,
    session: String,
    /// The text so far does not end with a line end.
    in_line: bool,
    /// What is printed of blocks that have not ended: their name, and UTF-16 units.
    blocks: VecDeque<(String, u64)>,
}

impl Screen {
    /// A new one; `many`: for events of several sessions.
    pub fn new(colour: bool, many: bool) -> Screen {
        let blocks = VecDeque::new();
        Screen { colour, many, session: String::new(), in_line: false, blocks }
    }

    /// Appends what an event looks like, which may be nothing.
    pub fn event(&mut self, out: &mut String, name: &str, data: &Value) {
        let text = |member: &str| data[member].as_str().unwrap_or_default();
        let hidden = matches!(name, "heartbeat" | "connected" | "replay-complete");
        if self.many && !hidden {
            self.heading(out, text("sessionId"));
        }
        match name {
            "session-output" => self.output(out, data),
            "message-block" => self.block(out, data),
            "prompt-queued" => {
                self.line(out, Style::Bold, "> ", text("command"));
            }
            "prompt-completed" | "prompt-failed" | "prompt-cancelled" => {
                let (style, line) = ended(name, data);
                self.line(out, style, "-- ", &line);
            }
            "tool-started" => {
                let title = Some(text("title")).filter(|title| !title.is_empty());
                self.line(out, Style::Bold, "* ", title.unwrap_or(text("tool")));
            }
            "tool-completed" => {
                if let "error" | "denied" | "aborted" = text("outcome") {
                    let what = format!("{} {}", text("outcome"), first_line(&data["content"]));
                    self.line(out, Style::Red, "  ", what.trim_end());
                }
            }
            "approval-required" => {
                approval(self, out, data);
                let (session, id) = (text("sessionId"), text("approvalId"));
                let how = format!("sidestream approve {session} {id} allow|deny");
                self.line(out, Style::Yellow, "  ", &how);
            }
            "approval-resolved" => {
                let line = format!("{} by {}", text("decision"), text("by"));
                self.line(out, Style::Dim, "  ", &line);
            }
            "approval-withdrawn" => self.line(out, Style::Dim, "  ", "no longer asked"),
            "subagent-started" | "subagent-completed" => {
                let line = format!("{} {}", name.replace('-', " "), text("description"));
                self.line(out, Style::Dim, "-- ", line.trim_end());
            }
            "todos-updated" => self.todos(out, &data["todos"]),
            "session-error" | "events-lost" => {
                let sentence = Some(text("error")).filter(|error| !error.is_empty());
                self.line(out, Style::Red, "! ", sentence.unwrap_or("events were lost"));
            }
            "session-stalled" => {
                let silence = seconds(&data["silenceMs"]);
                self.line(out, Style::Yellow, "! ", &format!("silent for {silence}"));
            }
            "agent-retry" => {
                let attempt = json::text(&data["attempt"]);
                let line = format!("the agent tries again, attempt {attempt}");
                self.line(out, Style::Dim, "-- ", &line);
            }
            "session-created" | "session-closed" => {
                self.line(out, Style::Dim, "-- ", &name.replace('-', " "));
            }
            "session-status" if !matches!(text("status"), "running" | "idle" | "waiting") => {
                self.line(out, Style::Dim, "-- ", text("status"));
            }
            _ => {} // What tells nothing that the rest does not.
        }
    }

    /// Appends one line of ours, with a stranger's text in it. Further lines are set in as deep.
    pub fn line(&mut self, out: &mut String, style: Style, mark: &str, text: &str) {
        self.break_line(out);
        self.begin(out, style);
        let gap = " ".repeat(mark.len());
        for (at, line) in text.split('\n').enumerate() {
            if at > 0 {
                out.push('\n');
            }
            out.push_str(if at == 0 { mark } else { &gap });
            visible::line(out, line.strip_suffix('\r').unwrap_or(line));
        }
        self.end(out, style);
        out.push('\n');
    }

    /// Ends the line that is under way, if one is.
    pub fn break_line(&mut self, out: &mut String) {
        if std::mem::take(&mut self.in_line) {
            out.push('\n');
        }
    }

    fn heading(&mut self, out: &mut String, session: &str) {
        if session != self.session {
            session.clone_into(&mut self.session);
            self.line(out, Style::Bold, "== ", session);
        }
    }

    fn begin(&self, out: &mut String, style: Style) {
        if self.colour {
            out.push_str(match style {
                Style::Plain => "",
                Style::Dim => "\x1b[2m",
                Style::Bold => "\x1b[1m",
                Style::Red => "\x1b[31m",
                Style::Yellow => "\x1b[33m",
            });
        }
    }

    fn end(&self, out: &mut String, style: Style) {
        if self.colour && style != Style::Plain {
            out.push_str("\x1b[0m");
        }
    }

    /// Text as it arrives.
    fn output(&mut self, out: &mut String, data: &Value) {
        let content = data["content"].as_str().unwrap_or_default();
        let style = match data["type"].as_str() {
            Some("stderr") => Style::Red,
            Some("thinking") => Style::Dim,
            _ => Style::Plain,
        };
        let offset = data["offset"].as_u64().unwrap_or(0);
        if offset == 0 {
            self.break_line(out); // A block of its own begins.
        }
        self.words(out, style, content);
        let units = content.encode_utf16().count() as u64;
        self.note(block_name(data), offset + units);
    }

    /// A whole block: what of it has not been printed.
    fn block(&mut self, out: &mut String, data: &Value) {
        let text = data["text"].as_str().unwrap_or_default();
        let name = block_name(data);
        let known = self.blocks.iter().position(|(known, _)| *known == name);
        let printed = known.and_then(|at| self.blocks.remove(at)).map_or(0, |(_, units)| units);
        if data["role"] == "user" {
            return; // The prompt, which was shown as such.
        }
        let style = match data["kind"].as_str() {
            Some("thinking") => Style::Dim,
            _ if data["parentToolUseId"].is_string() => Style::Dim,
            _ => Style::Plain,
        };
        let rest = after_units(text, printed);
        if printed == 0 && !rest.is_empty() {
            self.break_line(out);
        }
        self.words(out, style, rest);
        self.break_line(out);
    }

    fn words(&mut self, out: &mut String, style: Style, words: &str) {
        if words.is_empty() {
            return;
        }
        self.begin(out, style);
        visible::text(out, words);
        self.end(out, style);
        self.in_line = !words.ends_with('\n');
    }

    fn note(&mut self, name: String, units: u64) {
        match self.blocks.iter_mut().find(|(known, _)| *known == name) {
            Some((_, printed)) => *printed = units,
            None => {
                if self.blocks.len() == BLOCKS_MAX {
                    self.blocks.pop_front();
                }
                self.blocks.push_back((name, units));
            }
        }
    }

    fn todos(&mut self, out: &mut String, todos: &Value) {
        for todo in todos.as_array().into_iter().flatten() {
            let mark = match todo["status"].as_str() {
                Some("completed") => "  [x] ",
                Some("in_progress") => "  [>] ",
                _ => "  [ ] ",
            };
            self.line(out, Style::Dim, mark, todo["text"].as_str().unwrap_or_default());
        }
    }
}

/// Appends what waits for an answer: the words about it, and the input to the letter, with the
/// hash that an answer to exactly this must name.
pub fn approval(screen: &mut Screen, out: &mut String, approval: &Value) {
    let text = |member: &str| approval[member].as_str().unwrap_or_default();
    let title = Some(text("title")).filter(|title| !title.is_empty()).unwrap_or(text("tool"));
    screen.line(out, Style::Yellow, "? ", &format!("{} {}: {title}", text("kind"), text("tool")));
    if !text("description").is_empty() {
        screen.line(out, Style::Dim, "  the model says: ", text("description"));
    }
    input(screen, out, &approval["input"]);
    screen.line(out, Style::Plain, "  hash ", text("inputHash"));
}

/// The members of an input. Those of several lines get a bar in front of each, so that none can
/// look like ours.
fn input(screen: &mut Screen, out: &mut String, input: &Value) {
    for (name, value) in input.as_object().into_iter().flatten() {
        match value.as_str() {
            Some(text) if text.contains('\n') => {
                screen.line(out, Style::Plain, "  ", &format!("{name}:"));
                for line in text.split('\n') {
                    screen.line(out, Style::Plain, "    | ", line);
                }
            }
            Some(text) => screen.line(out, Style::Plain, "  ", &format!("{name}: {text}")),
            None => {
                screen.line(out, Style::Plain, "  ", &format!("{name}: {}", json::text(value)));
            }
        }
    }
}

/// How a turn ended, in one line.
fn ended(name: &str, data: &Value) -> (Style, String) {
    let mut line = match name {
        "prompt-completed" if data["interrupted"] == true => "interrupted".to_owned(),
        "prompt-completed" => "done".to_owned(),
        "prompt-cancelled" => "cancelled".to_owned(),
        _ => {
            let error = data["error"].as_str().or(data["code"].as_str()).unwrap_or("no reason");
            format!("failed: {error}")
        }
    };
    if data["durationMs"].is_u64() {
        let _ = write!(line, ", {}", seconds(&data["durationMs"]));
    }
    if let Some(cost) = data["costUsd"].as_f64().filter(|cost| *cost > 0.0) {
        let _ = write!(line, ", ${cost:.4}");
    }
    let style = if name == "prompt-failed" { Style::Red } else { Style::Dim };
    (style, line)
}

/// Milliseconds as seconds with one digit.
fn seconds(ms: &Value) -> String {
    let ms = ms.as_u64().unwrap_or(0);
    format!("{}.{} s", ms / 1000, ms % 1000 / 100)
}

fn first_line(content: &Value) -> String {
    let text = content.as_str().map_or_else(|| json::text(content), str::to_owned);
    text.lines().next().unwrap_or_default().chars().take(200).collect()
}

fn block_name(data: &Value) -> String {
    let text = |member: &str| data[member].as_str().unwrap_or_default();
    format!("{} {} {}", text("sessionId"), text("messageId"), json::text(&data["block"]))
}

/// The text behind so many UTF-16 units.
fn after_units(text: &str, units: u64) -> &str {
    let mut seen = 0;
    for (at, char) in text.char_indices() {
        if seen >= units {
            return &text[at..];
        }
        seen += char.len_utf16() as u64;
    }
    ""
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn shown(screen: &mut Screen, events: &[(&str, Value)]) -> String {
        let mut out = String::new();
        for (name, data) in events {
            screen.event(&mut out, name, data);
        }
        out
    }

    fn delta(message: &str, offset: u64, content: &str) -> (&'static str, Value) {
        let data = json!({"sessionId": "s", "type": "stdout", "content": content,
            "messageId": message, "block": 0, "offset": offset});
        ("session-output", data)
    }

    fn block(message: &str, text: &str) -> (&'static str, Value) {
        let data = json!({"sessionId": "s", "messageId": message, "block": 0, "kind": "text",
            "role": "assistant", "text": text});
        ("message-block", data)
    }

    #[test]
    fn a_block_is_printed_once_in_pieces_or_as_a_whole() {
        let mut screen = Screen::new(false, false);
        let pieces = [delta("m", 0, "grüß 🙂"), delta("m", 7, " dich"), block("m", "grüß 🙂 dich")];
        assert_eq!(shown(&mut screen, &pieces), "grüß 🙂 dich\n");
        assert_eq!(shown(&mut screen, &[block("n", "whole")]), "whole\n");
        // The stream broke off, and the block tells the rest.
        let pieces = [delta("o", 0, "🙂 ha"), block("o", "🙂 half more")];
        assert_eq!(shown(&mut screen, &pieces), "🙂 half more\n");
        assert!(screen.blocks.is_empty());
    }

    #[test]
    fn a_turn_reads_as_a_turn() {
        let mut screen = Screen::new(false, false);
        let turn = [
            ("connected", json!({"sessionId": "s"})),
            ("prompt-queued", json!({"command": "two\nlines"})),
            ("session-status", json!({"status": "running"})),
            delta("m", 0, "let me look"),
            ("tool-started", json!({"tool": "Bash", "title": "ls -la"})),
            ("tool-completed", json!({"outcome": "ok", "content": "x"})),
            ("tool-completed", json!({"outcome": "error", "content": "no\nsuch"})),
            ("todos-updated", json!({"todos": [{"text": "a", "status": "completed"}]})),
            ("prompt-completed", json!({"durationMs": 1234, "costUsd": 0.0125})),
            ("prompt-failed", json!({"durationMs": 10, "code": "x"})),
            ("prompt-cancelled", json!({})),
            ("unknown-event", json!({"text": "x"})),
        ];
        assert_eq!(
            shown(&mut screen, &turn),
            "> two\n  lines\nlet me look\n* ls -la\n  error no\n  [x] a\n\
             -- done, 1.2 s, $0.0125\n-- failed: x, 0.0 s\n-- cancelled\n"
        );
    }

    #[test]
    fn several_sessions_are_told_apart() {
        let mut screen = Screen::new(false, true);
        let of = |session: &str, status: &str| {
            ("session-status", json!({"sessionId": session, "status": status}))
        };
        let events = [of("a", "failed"), of("a", "suspended"), of("b", "failed")];
        assert_eq!(shown(&mut screen, &events), "== a\n-- failed\n-- suspended\n== b\n-- failed\n");
    }

    #[test]
    fn no_text_of_a_stranger_reaches_the_terminal_raw() {
        let evil = "\x1b]0;x\x07\u{202e}\u{9b}2J";
        let texts = [
            "command",
            "content",
            "text",
            "title",
            "tool",
            "error",
            "code",
            "by",
            "kind",
            "decision",
            "description",
            "status",
            "sessionId",
            "approvalId",
            "inputHash",
            "outcome",
        ];
        let mut data = json!({"input": {evil: evil, "b": [evil], "c": format!("{evil}\n{evil}")},
            "type": "stdout", "messageId": evil, "offset": 0, "attempt": evil,
            "todos": [{"text": evil}], "outcome": "error", "block": 0, "silenceMs": evil});
        for name in texts {
            data[name] = json!(evil);
        }
        for name in crate::core::event::NAMES {
            for outcome in ["error", evil] {
                data["outcome"] = json!(outcome);
                let mut screen = Screen::new(false, true);
                let out = shown(&mut screen, &[(name, data.clone())]);
                let acts = |char: char| char.is_control() && char != '\n' || char == '\u{202e}';
                assert!(!out.contains(acts), "{name}: {out:?}");
            }
        }
        // With colours there are our own, and each ends in its line.
        let out = shown(&mut Screen::new(true, false), &[("session-error", json!({"error": "x"}))]);
        assert_eq!(out, "\x1b[31m! x\x1b[0m\n");
    }

    #[test]
    fn an_approval_shows_its_input_to_the_letter_and_nothing_can_pose_as_ours() {
        let mut out = String::new();
        let asked = json!({"kind": "tool", "tool": "Bash", "title": "Run it", "inputHash": "abc",
            "description": "harmless", "input": {"command": "ls\n  hash 000\x1b[2K", "n": 1}});
        approval(&mut Screen::new(false, false), &mut out, &asked);
        assert_eq!(
            out,
            "? tool Bash: Run it\n  the model says: harmless\n  command:\n    | ls\n    \
             |   hash 000\\x1b[2K\n  n: 1\n  hash abc\n"
        );
    }
}
