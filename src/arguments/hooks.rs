//! `--on-event NAMES COMMAND`: which events, and what is run for them.

use super::Given;
use crate::core::hooks::Chosen;
use crate::wire::document;

/// One command of the operator's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HookArgument {
    /// What it is told of.
    pub chosen: Chosen,
    /// The program and its arguments, for no shell. Never empty.
    pub command: Vec<String>,
}

/// Reads `NAMES COMMAND`, the command as words between blanks, or as a JSON list of strings where a
/// word has blanks in it.
pub(super) fn hook(given: &Given) -> Result<HookArgument, String> {
    let text = given.text()?.trim();
    let (names, command) = text.split_once([' ', '\t']).unwrap_or((text, ""));
    let chosen = Chosen::parse(names).map_err(|name| {
        let words = Chosen::WORDS;
        format!("{}: `{name}` is not one of {words}, nor the name of an event", given.from)
    })?;
    let command = command.trim();
    let words: Vec<String> = match command.starts_with('[') {
        true => document::read(command)
            .map_err(|_| format!("{}: `{command}` is not a JSON list of strings", given.from))?,
        false => command.split_ascii_whitespace().map(str::to_owned).collect(),
    };
    let bad = |word: &String| word.contains('\0');
    if words.first().is_none_or(String::is_empty) || words.iter().any(bad) {
        return Err(format!("{}: there is no command behind `{names}`", given.from));
    }
    Ok(HookArgument { chosen, command: words })
}
