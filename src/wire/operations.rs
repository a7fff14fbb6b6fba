//! What an assistant message does or proposes: the `<claude-…>` tags in its text and its tool
//! calls, as the entries of `operations-detected` (DESIGN.md, section 4).
//!
//! It reads every byte of a text a fixed number of times, whatever the text; a tag that is not
//! well formed is text. It does not know whether an operation is ever carried out.

use std::borrow::Cow;

use memchr::{memchr, memchr_iter};
use serde_json::value::RawValue;

use super::claude::{self, ToolKind};

/// One entry of `operations-detected`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Operation<'a> {
    /// The `type`: `read`, `edit`, `write`, `command`, `search`, `dependency` or `preview`.
    pub kind: &'static str,
    /// The tool's name, or the tag's.
    pub tool: &'a str,
    /// What it is about.
    pub target: Target<'a>,
}

/// What an operation is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target<'a> {
    /// A file, or for a preview an address.
    Path(Cow<'a, str>),
    /// A shell command, or for a dependency its name.
    Command(Cow<'a, str>),
}

/// The tags: name and type.
const TAGS: [(&str, &str); 5] = [
    ("claude-write", "write"),
    ("claude-edit", "edit"),
    ("claude-command", "command"),
    ("claude-dependency", "dependency"),
    ("claude-preview", "preview"),
];

/// Finds the tags of a text, in order. What stands inside a tag's element is not searched, since
/// the content of a file may speak of tags. Linear in the text.
pub fn detect<'a>(text: &'a str, mut found: impl FnMut(Operation<'a>)) {
    // Where no closing tag follows once, none follows later: it is searched for only once.
    let mut closes = [true; TAGS.len()];
    let mut at = 0;
    while let Some(open) = memchr(b'<', &text.as_bytes()[at..]) {
        at += open + 1;
        let Some(number) = tag_at(&text[at..]) else { continue };
        let (name, kind) = TAGS[number];
        let attributes = &text[at + name.len()..];
        // A tag ends at its `>`; a `<` before it begins another. Either way the search goes on
        // from there, so no byte is read twice for want of an end.
        let end = attributes.bytes().position(|byte| matches!(byte, b'<' | b'>'));
        let end = end.unwrap_or(attributes.len());
        at += name.len() + end;
        if !text[at..].starts_with('>') {
            continue;
        }
        at += 1;
        let attributes = &attributes[..end];
        let content = if attributes.ends_with('/') || !closes[number] {
            None
        } else {
            let content = element(&text[at..], name);
            closes[number] = content.is_some();
            at += content.map_or(0, str::len);
            content
        };
        if let Some(target) = target(attributes, content, kind) {
            found(Operation { kind, tool: name, target });
        }
    }
}

/// Whether a text may hold tags, by a look at it that costs less than the text itself where it is
/// still escaped.
#[inline(never)] // Stays in this floor, which is compiled for speed.
pub fn may_be_in(held: &str) -> bool {
    find(held.as_bytes(), b"<claude-").is_some()
}

/// Which tag begins here, after its `<`.
fn tag_at(text: &str) -> Option<usize> {
    TAGS.iter().position(|(name, _)| {
        let rest = text.strip_prefix(name);
        rest.is_some_and(|rest| {
            rest.starts_with(|next: char| next.is_ascii_whitespace() || matches!(next, '>' | '/'))
        })
    })
}

/// The text up to the closing tag.
fn element<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    let mut closing = [0; 32];
    let closing = &mut closing[..name.len() + 3];
    closing[..2].copy_from_slice(b"</");
    closing[2..name.len() + 2].copy_from_slice(name.as_bytes());
    closing[name.len() + 2] = b'>';
    Some(&text[..find(text.as_bytes(), closing)?])
}

/// Where a tag begins. What a tag begins with is rare enough to be looked for by itself.
fn find(text: &[u8], tag: &[u8]) -> Option<usize> {
    memchr_iter(b'<', text).find(|at| text[*at..].starts_with(tag))
}

fn target<'a>(attributes: &'a str, content: Option<&'a str>, kind: &str) -> Option<Target<'a>> {
    let path = |value: &'a str| Target::Path(Cow::Borrowed(value));
    let command = |value: &'a str| Target::Command(Cow::Borrowed(value));
    if matches!(kind, "write" | "edit") {
        return attribute(attributes, "path").map(path);
    }
    let named = match kind {
        "preview" => ["path", "url"].iter().find_map(|name| attribute(attributes, name)).map(path),
        _ => ["command", "name", "package"]
            .iter()
            .find_map(|name| attribute(attributes, name))
            .map(command),
    };
    let content = content.map(str::trim).filter(|content| !content.is_empty());
    named.or_else(|| content.map(if kind == "preview" { path } else { command }))
}

/// The value of an attribute in quotes of either kind.
fn attribute<'a>(attributes: &'a str, wanted: &str) -> Option<&'a str> {
    let mut rest = attributes;
    loop {
        let (name, after) = rest.split_once('=')?;
        let value = after.trim_ascii_start();
        let quote = value.chars().next().filter(|quote| matches!(quote, '"' | '\''))?;
        let (value, after) = value[1..].split_once(quote)?;
        if name.split_ascii_whitespace().next_back() == Some(wanted) {
            return (!value.is_empty()).then_some(value);
        }
        rest = after;
    }
}

/// What a tool call does. `None` for a call whose input names neither a file nor a command, and
/// for tools that touch neither.
pub fn for_tool<'a>(kind: ToolKind, tool: &'a str, input: &'a RawValue) -> Option<Operation<'a>> {
    let target = match kind {
        ToolKind::Command => Target::Command(claude::input_command(input)?),
        ToolKind::Read | ToolKind::Edit | ToolKind::Write | ToolKind::Search => {
            Target::Path(claude::input_path(input)?)
        }
        ToolKind::Web | ToolKind::Agent | ToolKind::Todo | ToolKind::Other => return None,
    };
    Some(Operation { kind: kind.as_str(), tool, target })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(text: &str) -> Vec<String> {
        let mut told = Vec::new();
        detect(text, |found| {
            let target = match found.target {
                Target::Path(path) => format!("path {path}"),
                Target::Command(command) => format!("command {command}"),
            };
            told.push(format!("{} {} {target}", found.kind, found.tool));
        });
        told
    }

    #[test]
    fn tags_are_found_in_order_and_broken_ones_are_text() {
        for (text, expected) in [
            ("", &[][..]),
            ("a < b > c <claude <claude- <claude-writer path=\"x\">", &[]),
            ("<claude-write path=\"/a b\">x</claude-write>", &["write claude-write path /a b"]),
            ("<claude-edit new lines='1' once path = '/é'/>", &["edit claude-edit path /é"]),
            ("<claude-write>", &[]),
            ("<claude-write path=\"\">", &[]),
            ("<claude-write path=/a>", &[]),
            ("<claude-write\npath=\"a\"\n>", &["write claude-write path a"]),
            (
                "<claude-command> ls -la > x </claude-command> <claude-command>b",
                &["command claude-command command ls -la > x"],
            ),
            ("<claude-command></claude-command>", &[]),
            (
                "<claude-dependency name=\"left-pad\" /><claude-dependency>x</claude-dependency>",
                &[
                    "dependency claude-dependency command left-pad",
                    "dependency claude-dependency command x",
                ],
            ),
            (
                "<claude-preview url=\"http://localhost:1/\"/>",
                &["preview claude-preview path http://localhost:1/"],
            ),
            (
                "<claude-write path=\"a\"><claude-edit path=\"b\"></claude-write>\
                 <claude-edit path=\"c\">",
                &["write claude-write path a", "edit claude-edit path c"],
            ),
            ("<claude-edit path=\"<claude-edit path=\"c\">", &["edit claude-edit path c"]),
            ("<claude-edit path=\"", &[]),
            ("<claude-edit", &[]),
        ] {
            assert_eq!(told(text), expected, "{text}");
        }
    }

    #[test]
    fn no_cut_of_a_text_panics() {
        let text = "é<claude-write path=\"ü\">日本<claude-command a='b'>x</claude-command>😀</claude-write>";
        for start in (0..text.len()).filter(|&at| text.is_char_boundary(at)) {
            for end in (start..=text.len()).filter(|&at| text.is_char_boundary(at)) {
                told(&text[start..end]);
            }
        }
    }

    #[test]
    fn a_text_of_unfinished_tags_takes_linear_time() {
        for tag in ["<claude-command>", "<claude-write path=\"", "<claude-preview a='", "<"] {
            // Quadratic work on this much would take hours.
            assert_eq!(told(&tag.repeat(4 << 20 >> tag.len().ilog2())), [""; 0], "{tag}");
        }
        let attributes = "a=\"b\" ".repeat(1 << 18);
        assert_eq!(told(&format!("<claude-preview {attributes}>")), [""; 0]);
    }

    #[test]
    fn tool_calls_tell_their_file_or_command() {
        for (tool, input, expected) in [
            ("Bash", r#"{"command":"ls"}"#, Some(("command", Target::Command("ls".into())))),
            ("Edit", r#"{"file_path":"/a"}"#, Some(("edit", Target::Path("/a".into())))),
            (
                "NotebookEdit",
                r#"{"notebook_path":"/n"}"#,
                Some(("edit", Target::Path("/n".into()))),
            ),
            ("Grep", r#"{"pattern":"x","path":"/p"}"#, Some(("search", Target::Path("/p".into())))),
            ("Grep", r#"{"pattern":"x"}"#, None),
            ("Write", r#"{"file_path":7}"#, None),
            ("WebFetch", r#"{"url":"https://a/"}"#, None),
            ("TodoWrite", "{}", None),
        ] {
            let raw: &RawValue = serde_json::from_str(input).unwrap();
            let found = for_tool(claude::tool_kind(tool), tool, raw);
            let expected = expected.map(|(kind, target)| Operation { kind, tool, target });
            assert_eq!(found, expected, "{tool} {input}");
        }
    }
}
