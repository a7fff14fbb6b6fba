//! The approvals of one session: several may be open, each is answered exactly once.
//!
//! The first answer wins; a later one is told what was decided. An approval belongs to the exact
//! input that was shown: an answer may name that input's hash, and a wrong hash is refused.

use crate::base::seldom::Blank;
use crate::limits::{
    APPROVAL_SHOWN_MAX, ARGUMENT_SIZE_MAX, DECISIONS_KEPT, GRANTED_MAX, GRANTED_SIZE_MAX,
};
use crate::wire::json::{self, Object};
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use std::collections::VecDeque;
use std::fmt::Write as _;

/// What a human is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalKind {
    /// May this tool run?
    Tool,
    /// Questions with options.
    Question,
    /// Shall this plan be carried out?
    Plan,
    /// May this directory make the agent run things by itself?
    Trust {
        /// What is allowed is remembered: what was shown is all that the directory says.
        lasts: bool,
    },
}

impl ApprovalKind {
    /// What a tool's request asks of the human.
    pub fn of(tool: &str) -> ApprovalKind {
        match tool {
            "AskUserQuestion" => ApprovalKind::Question,
            "ExitPlanMode" => ApprovalKind::Plan,
            _ => ApprovalKind::Tool,
        }
    }

    /// Whether it is about a directory.
    pub fn is_trust(self) -> bool {
        matches!(self, ApprovalKind::Trust { .. })
    }

    /// The word on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            ApprovalKind::Tool => "tool",
            ApprovalKind::Question => "question",
            ApprovalKind::Plan => "plan",
            ApprovalKind::Trust { .. } => "trust",
        }
    }
}

/// A request of the agent that waits for a human.
#[derive(Debug)]
pub struct Approval {
    /// Our name for it.
    pub id: String,
    /// The agent's name for it.
    pub request_id: String,
    /// What is asked.
    pub kind: ApprovalKind,
    /// The tool that wants to run.
    pub tool: String,
    /// Our words for it.
    pub title: String,
    /// The input as it will run: JSON on one line.
    pub input: String,
    /// SHA-256 of `input`, in hexadecimal.
    pub input_hash: String,
    /// The model's words for it.
    pub description: Option<String>,
    /// Rules that the agent suggests: a JSON list.
    pub suggestions: Option<String>,
    /// The tool call it belongs to.
    pub tool_use_id: Option<String>,
    /// The subagent that asks.
    pub agent_id: Option<String>,
}

impl Approval {
    /// The bytes of it whose number the agent decides.
    pub fn size(&self) -> usize {
        let texts = [&self.description, &self.suggestions, &self.tool_use_id, &self.agent_id];
        let names = self.request_id.len() + self.tool.len();
        names + self.input.len() + texts.into_iter().flatten().map(String::len).sum::<usize>()
    }

    /// The same for a list: of one that is large without its input, whose place is told instead, with
    /// the beginning of a long description, and with no suggestions that could not be granted.
    pub fn write_listed(&self, object: &mut Object<'_>, session_id: &str) {
        if self.size() <= APPROVAL_SHOWN_MAX {
            return self.write(object);
        }
        object.string("approvalId", &self.id);
        object.string("kind", self.kind.as_str());
        object.string("tool", beginning(&self.tool));
        object.string("title", &self.title);
        object.object("large", |object| {
            object.string("field", "input");
            object.number("bytes", self.input.len() as u64);
            let (id, session) = (&self.id, session_id);
            object.display("href", format_args!("/api/session/{session}/approvals/{id}/input"));
            object.string("preview", beginning(&self.input));
        });
        object.string("inputHash", &self.input_hash);
        object.string_or_null("description", self.description.as_deref().map(beginning));
        let suggestions = self.suggestions.as_deref().filter(|all| all.len() <= GRANTED_SIZE_MAX);
        object.raw("suggestions", suggestions.unwrap_or("[]"));
        object.string_or_null("toolUseId", self.tool_use_id.as_deref().map(beginning));
        object.optional("agentId", self.agent_id.as_deref().map(beginning));
    }

    /// Writes what a client needs to show it and to answer it.
    pub fn write(&self, object: &mut Object<'_>) {
        object.string("approvalId", &self.id);
        object.string("kind", self.kind.as_str());
        object.string("tool", &self.tool);
        object.string("title", &self.title);
        object.raw("input", &self.input);
        object.string("inputHash", &self.input_hash);
        object.string_or_null("description", self.description.as_deref());
        object.raw("suggestions", self.suggestions.as_deref().unwrap_or("[]"));
        object.string_or_null("toolUseId", self.tool_use_id.as_deref());
        object.optional("agentId", self.agent_id.as_deref());
    }
}

/// The first KiB of a text.
fn beginning(text: &str) -> &str {
    &text[..text.floor_char_boundary(1024)]
}

/// The hash by which an answer names the input it was given.
pub fn input_hash(input: &str) -> String {
    let mut hex = String::with_capacity(64);
    for byte in Sha256::digest(input.as_bytes()) {
        let _ = write!(hex, "{byte:02x}");
    }
    hex
}

/// How an approval ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The approval.
    pub id: String,
    /// `allow`, `deny` or `withdrawn`.
    pub decision: &'static str,
    /// Who decided.
    pub by: String,
}

/// A human's answer, as it came in.
#[derive(Debug, Default)]
pub struct Answer {
    /// Allow, or deny.
    pub allow: bool,
    /// Why not.
    pub message: Option<String>,
    /// Stop the turn as well.
    pub interrupt: bool,
    /// The input to run instead.
    pub updated_input: Option<Value>,
    /// Answers to questions, by question.
    pub answers: Option<Value>,
    /// Suggestions that are accepted with it.
    pub updated_permissions: Option<Value>,
}

/// An answer that does not fit its approval.
#[derive(Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The machine's word.
    pub code: &'static str,
    /// The human's.
    pub sentence: String,
}

fn unfit(code: &'static str, sentence: impl Into<String>) -> Unfit {
    Unfit { code, sentence: sentence.into() }
}

impl Answer {
    /// The input that will run, and the rules that go with it, each JSON on one line and once.
    ///
    /// # Errors
    /// [`Unfit`] if the answer does not fit what was asked; nothing is decided then.
    pub fn settle(
        &self,
        approval: &Approval,
        persistent: bool,
    ) -> Result<(String, Option<Vec<String>>), Unfit> {
        let asks_trust = approval.kind.is_trust();
        if asks_trust && (self.updated_input.is_some() || self.updated_permissions.is_some()) {
            return Err(unfit("invalid_input", "trust is given or denied as it is"));
        }
        let input = match (&self.updated_input, &self.answers) {
            (Some(Value::Object(input)), None) => json::text(&Value::Object(input.clone())),
            (Some(_), None) => {
                return Err(unfit("invalid_input", "\"updatedInput\" must be an object"));
            }
            (_, Some(answers)) => self.answered(approval, answers)?,
            (None, None) if approval.kind == ApprovalKind::Question && self.allow => {
                return Err(unfit("answers_required", "a question is allowed with \"answers\""));
            }
            (None, None) => approval.input.clone(),
        };
        let rules = match &self.updated_permissions {
            Some(rules) => Some(echoed(approval, rules, persistent)?),
            None => None,
        };
        Ok((input, rules))
    }

    /// The questions with their answers put in.
    fn answered(&self, approval: &Approval, answers: &Value) -> Result<String, Unfit> {
        let misfit = |sentence: &str| unfit("answers_do_not_fit", sentence);
        if approval.kind != ApprovalKind::Question {
            return Err(misfit("this approval asks no questions"));
        }
        let Value::Object(answers) = answers else {
            return Err(misfit("\"answers\" must be an object of answers by question"));
        };
        let mut input: Value = serde_json::from_str(&approval.input).unwrap_or_default();
        let questions: Vec<&str> = input["questions"]
            .as_array()
            .map(|list| list.iter().filter_map(|one| one["question"].as_str()).collect())
            .unwrap_or_default();
        if let Some(stray) = answers.keys().find(|key| !questions.contains(&key.as_str())) {
            return Err(misfit(&format!("there is no question \"{stray}\"")));
        }
        if let Some(open) = questions.iter().find(|question| !answers.contains_key(**question)) {
            return Err(misfit(&format!("the question \"{open}\" has no answer")));
        }
        let is_text = |value: &Value| match value {
            Value::String(_) => true,
            Value::Array(list) => list.iter().all(Value::is_string),
            _ => false,
        };
        if !answers.values().all(is_text) {
            return Err(misfit("an answer is a string, or a list of strings"));
        }
        let joined = answers.iter().map(|(question, answer)| {
            let text = match answer {
                Value::Array(list) => {
                    let texts: Vec<&str> = list.iter().filter_map(Value::as_str).collect();
                    Value::String(texts.join(", "))
                }
                text => text.clone(),
            };
            (question.clone(), text)
        });
        input["answers"] = Value::Object(joined.collect());
        Ok(json::text(&input))
    }
}

/// Whether a rule is a suggestion as it was made, or narrowed to the session: the CLI suggests its
/// rules for commands for the directory's own settings, and a human may grant less than that.
fn is_suggested(rule: &Value, suggestion: &Value) -> bool {
    if rule == suggestion {
        return true;
    }
    let mut narrowed = suggestion.clone();
    let for_good = narrowed.get("destination").is_some_and(|one| one != "session");
    if for_good {
        narrowed["destination"] = "session".into();
    }
    for_good && *rule == narrowed
}

/// Checks that every rule is one of the suggestions, for this session only, and not a free pass.
fn echoed(approval: &Approval, rules: &Value, persistent: bool) -> Result<Vec<String>, Unfit> {
    let Value::Array(list) = rules else {
        return Err(unfit("invalid_permissions", "\"updatedPermissions\" must be a list"));
    };
    let suggestions: Vec<Value> = approval
        .suggestions
        .as_deref()
        .and_then(|text| serde_json::from_str(text).ok())
        .unwrap_or_default();
    let mut texts: Vec<String> = Vec::new();
    for (at, rule) in list.iter().enumerate() {
        // One after the other, a copy is no other rule; compared as text, it costs no walk.
        let text = json::text(rule);
        if texts.contains(&text) {
            continue;
        }
        if texts.len() >= 2 * suggestions.len().min(GRANTED_MAX) {
            let sentence = format!("rule {} is not among the suggestions, or one too many", at + 1);
            return Err(unfit("permission_not_suggested", sentence));
        }
        if !suggestions.iter().any(|suggestion| is_suggested(rule, suggestion)) {
            return Err(unfit("permission_not_suggested", "a rule is not among the suggestions"));
        }
        if rule["destination"] != "session" && !persistent {
            let sentence = "a rule would outlive the session; --allow-persistent-rules permits it";
            return Err(unfit("permission_not_session", sentence));
        }
        if rule["mode"] == "bypassPermissions" || is_free_pass(rule) {
            let sentence = "a rule without content would allow everything the tool can do";
            return Err(unfit("permission_too_wide", sentence));
        }
        texts.push(text);
    }
    Ok(texts)
}

/// Rules that were granted for a session: JSON on one line each, none of them twice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Granted(Vec<Box<str>>);

impl Granted {
    /// None.
    pub const NONE: Granted = Granted(Vec::new());

    /// Each of them, in the order in which they were granted.
    pub fn iter(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|rule| &**rule)
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Gives back memory that it does not use.
    pub fn shrink(&mut self) {
        self.0.shrink_to_fit();
    }

    /// Takes in those that are new, all of them or none. `room`: the most bytes that one answer's
    /// event has for rules.
    ///
    /// # Errors
    /// A sentence that names the bound which they would break.
    pub fn take_in(&mut self, rules: &[String], room: usize) -> Result<(), String> {
        let size_of = |rules: &[String]| rules.iter().map(String::len).sum::<usize>();
        if let Some(rule) = rules.iter().find(|rule| !fits_arguments(rule)) {
            return Err(format!(
                "a rule of {} bytes cannot be told to the next agent: an argument holds no NUL and \
                 fewer than {ARGUMENT_SIZE_MAX} bytes; allow it without the rule",
                rule.len()
            ));
        }
        if size_of(rules) > room {
            return Err(format!(
                "rules of one answer may be {room} bytes long together, these are {}; allow it \
                 without them",
                size_of(rules)
            ));
        }
        let is_new = |rule: &&String| !self.0.iter().any(|known| **known == ***rule);
        let new: Vec<&String> = rules.iter().filter(is_new).collect();
        let held: usize = self.iter().map(str::len).sum();
        let size = held + new.iter().map(|rule| rule.len()).sum::<usize>();
        if self.0.len() + new.len() > GRANTED_MAX || size > GRANTED_SIZE_MAX {
            return Err(format!(
                "a session holds {GRANTED_MAX} rules of {GRANTED_SIZE_MAX} bytes together; this one \
                 has {} of {held} bytes: allow it without the rule",
                self.0.len()
            ));
        }
        self.0.extend(new.into_iter().map(|rule| rule.as_str().into()));
        Ok(())
    }

    /// The same of what was found on disk, as far as there is room.
    pub fn restore(&mut self, rules: impl IntoIterator<Item = Value>) {
        for rule in rules {
            let _ = self.take_in(&[json::text(&rule)], GRANTED_SIZE_MAX);
        }
    }

    /// As the next agent's arguments say them: tools, and directories.
    pub fn arguments(&self) -> (Vec<String>, Vec<String>) {
        let (tools, directories): (Vec<_>, Vec<_>) = self.iter().map(arguments).unzip();
        (tools.concat(), directories.concat())
    }
}

/// What a rule, as JSON, lets an agent do without being asked: tools, and directories.
fn arguments(rule: &str) -> (Vec<String>, Vec<String>) {
    let (mut tools, mut directories) = (Vec::new(), Vec::new());
    let rule: Value = serde_json::from_str(rule).unwrap_or_default();
    let list = |name: &str| rule[name].as_array().map(Vec::as_slice).unwrap_or_default();
    if rule["type"] == "addRules" && rule["behavior"] == "allow" {
        for one in list("rules") {
            let Some(tool) = one["toolName"].as_str() else { continue };
            match one["ruleContent"].as_str() {
                Some(content) => tools.push(format!("{tool}({content})")),
                None => tools.push(tool.to_owned()),
            }
        }
    }
    if rule["type"] == "addDirectories" {
        let paths = list("directories").iter().filter_map(|path| path.as_str());
        directories.extend(paths.map(str::to_owned));
    }
    (tools, directories)
}

/// Whether what a rule says can be arguments, each with a flag before it.
fn fits_arguments(rule: &str) -> bool {
    let fits = |text: &String| text.len() + 64 < ARGUMENT_SIZE_MAX && !text.contains('\0');
    let (tools, directories) = arguments(rule);
    tools.iter().chain(&directories).all(fits)
}

impl serde::Serialize for Granted {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.iter().map(|rule| serde_json::from_str::<Value>(rule).ok()))
    }
}

impl<'de> serde::Deserialize<'de> for Granted {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Granted, D::Error> {
        let mut granted = Granted::default();
        granted.restore(Vec::<Value>::deserialize(deserializer)?);
        Ok(granted)
    }
}

/// Whether a rule allows a powerful tool whatever its input is.
fn is_free_pass(rule: &Value) -> bool {
    let rules = rule["rules"].as_array().map(Vec::as_slice).unwrap_or_default();
    rules.iter().any(|rule| {
        let tool = rule["toolName"].as_str().unwrap_or_default();
        let powerful = matches!(tool, "Bash" | "Write" | "Edit" | "WebFetch");
        powerful && rule["ruleContent"].as_str().unwrap_or_default().is_empty()
    })
}

/// Those that are open, and how the latest ended.
#[derive(Debug, Default)]
pub struct Approvals {
    /// Waiting for a human, oldest first.
    pub open: Vec<Approval>,
    decided: VecDeque<Decided>,
}

impl Blank for Approvals {
    const BLANK: &'static Approvals = &Approvals { open: Vec::new(), decided: VecDeque::new() };

    fn is_blank(&self) -> bool {
        self.open.is_empty() && self.decided.is_empty()
    }

    fn shrink(&mut self) {
        self.open.shrink_to_fit();
        self.decided.shrink_to_fit();
    }
}

impl Approvals {
    /// The open one of this name.
    pub fn find(&self, id: &str) -> Option<&Approval> {
        self.open.iter().find(|approval| approval.id == id)
    }

    /// How one ended, if that is still known.
    pub fn decided(&self, id: &str) -> Option<&Decided> {
        self.decided.iter().find(|decided| decided.id == id)
    }

    /// Ends an open one.
    pub fn decide(&mut self, id: &str, decision: &'static str, by: &str) -> Option<Approval> {
        let at = self.open.iter().position(|approval| approval.id == id)?;
        if self.decided.len() == DECISIONS_KEPT {
            self.decided.pop_front();
        }
        let (id, by) = (id.to_owned(), by.to_owned());
        self.decided.push_back(Decided { id, decision, by });
        Some(self.open.remove(at))
    }
}

/// JSON from an agent's line, on one line and as text that everybody can read: what stands in an
/// event, goes into a hash and will run.
pub fn one_line(raw: &RawValue) -> String {
    let mut line = raw.get().replace(['\r', '\n'], " ").into_bytes();
    json::mend_halves(&mut line);
    String::from_utf8(line).unwrap_or_default() // It puts ASCII in the place of ASCII.
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn approval(tool: &str, input: Value, suggestions: Value) -> Approval {
        let input = input.to_string();
        Approval {
            id: "approval-1".into(),
            request_id: "r".into(),
            kind: ApprovalKind::of(tool),
            tool: tool.into(),
            title: String::new(),
            input_hash: input_hash(&input),
            input,
            description: None,
            suggestions: Some(suggestions.to_string()),
            tool_use_id: None,
            agent_id: None,
        }
    }

    #[test]
    fn the_first_answer_wins_and_later_ones_learn_of_it() {
        let mut approvals = Approvals::default();
        approvals.open.push(approval("Bash", json!({"command": "ls"}), json!([])));
        assert!(approvals.decide("approval-1", "deny", "ann").is_some());
        assert!(approvals.decide("approval-1", "allow", "bob").is_none());
        assert_eq!(approvals.decided("approval-1").unwrap().by, "ann");
    }

    #[test]
    fn an_answer_ends_the_approval_that_it_names_and_no_other() {
        let mut approvals = Approvals::default();
        for number in 1..=4 {
            let asked = approval("Bash", json!({"command": "ls"}), json!([]));
            approvals.open.push(Approval { id: format!("approval-{number}"), ..asked });
        }
        let open = |approvals: &Approvals| -> Vec<String> {
            approvals.open.iter().map(|one| one.id.clone()).collect()
        };
        let mut decide = |id: &str| {
            let decided = approvals.decide(id, "allow", "ann").map(|one| one.id);
            (decided, open(&approvals))
        };
        let left = |ids: &[&str]| ids.iter().map(|id| (*id).to_owned()).collect::<Vec<_>>();
        assert_eq!(
            decide("approval-1"),
            (Some("approval-1".to_owned()), left(&["approval-2", "approval-3", "approval-4"])),
            "oldest first"
        );
        assert_eq!(
            decide("approval-3"),
            (Some("approval-3".to_owned()), left(&["approval-2", "approval-4"]))
        );
        assert_eq!(decide("approval-3"), (None, left(&["approval-2", "approval-4"])));
    }

    #[test]
    fn questions_take_exactly_their_answers() {
        let ask = json!({"questions": [{"question": "Which?", "options": []}]});
        let asked = approval("AskUserQuestion", ask, json!([]));
        let settle = |answers: Value| {
            Answer { allow: true, answers: Some(answers), ..Answer::default() }
                .settle(&asked, false)
        };
        let (input, _) = settle(json!({"Which?": "Blue"})).unwrap();
        let input: Value = serde_json::from_str(&input).unwrap();
        assert_eq!(input["answers"], json!({"Which?": "Blue"}));
        assert_eq!(input["questions"][0]["question"], "Which?");
        let (input, _) = settle(json!({"Which?": ["a", "b"]})).unwrap();
        assert!(input.contains("\"a, b\""));
        for bad in [json!({}), json!({"Who?": "x"}), json!({"Which?": 1}), json!("Blue")] {
            assert_eq!(settle(bad).unwrap_err().code, "answers_do_not_fit");
        }
        let bare = Answer { allow: true, ..Answer::default() };
        assert_eq!(bare.settle(&asked, false).unwrap_err().code, "answers_required");
    }

    #[test]
    fn only_suggested_session_rules_of_limited_reach_are_taken() {
        let rule = |content: &str, to: &str| {
            json!({"type": "addRules", "behavior": "allow", "destination": to,
                "rules": [{"toolName": "Bash", "ruleContent": content}]})
        };
        let suggestions = json!([rule("ls", "session"), rule("ls", "localSettings"), rule("", "session"),
            {"type": "setMode", "mode": "bypassPermissions", "destination": "session"},
            rule("pwd", "localSettings")]);
        let asked = approval("Bash", json!({"command": "ls"}), suggestions.clone());
        let settle = |rule: &Value, persistent| {
            let updated_permissions = Some(json!([rule]));
            Answer { allow: true, updated_permissions, ..Answer::default() }
                .settle(&asked, persistent)
                .map_err(|unfit| unfit.code)
        };
        assert!(settle(&suggestions[0], false).is_ok());
        assert_eq!(settle(&suggestions[1], false), Err("permission_not_session"));
        assert!(settle(&suggestions[1], true).is_ok());
        assert_eq!(settle(&suggestions[2], false), Err("permission_too_wide"));
        assert_eq!(settle(&suggestions[3], false), Err("permission_too_wide"));
        assert_eq!(settle(&rule("rm", "session"), false), Err("permission_not_suggested"));
        assert_eq!(settle(&rule("pwd", "userSettings"), true), Err("permission_not_suggested"));
        assert!(settle(&rule("pwd", "session"), false).is_ok(), "narrowed to the session");
    }

    #[test]
    fn a_rule_is_granted_once_and_no_more_than_there_is_room_for() {
        let rule = |content: &str| {
            json!({"type": "addRules", "behavior": "allow", "destination": "session",
                "rules": [{"toolName": "Bash", "ruleContent": content}]})
        };
        let asked = approval("Bash", json!({"command": "ls"}), json!([rule("ls"), rule("pwd")]));
        let settle = |rules: Vec<Value>| {
            let updated_permissions = Some(Value::Array(rules));
            Answer { allow: true, updated_permissions, ..Answer::default() }.settle(&asked, false)
        };
        let (_, rules) = settle(vec![rule("ls"); 70_000]).unwrap();
        assert_eq!(rules.as_ref().map(Vec::len), Some(1), "copies are one rule");
        let mut granted = Granted::default();
        for _ in 0..3 {
            granted.take_in(rules.as_deref().unwrap(), GRANTED_SIZE_MAX).unwrap();
        }
        assert_eq!(granted.arguments(), (vec!["Bash(ls)".to_owned()], vec![]));
        let text = |content: &str| vec![json::text(&rule(content))];
        for (unfit, word) in [
            ("y".repeat(140_000), "argument"),
            ("a\0b".to_owned(), "argument"),
            ("y".repeat(GRANTED_SIZE_MAX), "bytes long together"),
        ] {
            let sentence = granted.take_in(&text(&unfit), GRANTED_SIZE_MAX).unwrap_err();
            assert!(sentence.contains(word), "{sentence}");
        }
        let long = granted.take_in(&text(&"y".repeat(900)), 1000);
        assert!(long.unwrap_err().contains("1000 bytes"), "its event has no more room");
        let mut taken = 1;
        let sentence = loop {
            let content = format!("{taken}");
            match granted.take_in(&text(&content), GRANTED_SIZE_MAX) {
                Ok(()) => taken += 1,
                Err(sentence) => break sentence,
            }
        };
        assert!(taken <= GRANTED_MAX && sentence.contains(&GRANTED_MAX.to_string()), "{sentence}");
        assert_eq!(granted.iter().count(), taken, "one that is refused is not half taken");
        let size: usize = granted.iter().map(str::len).sum();
        assert!(size <= GRANTED_SIZE_MAX);
        // What is on disk from before there was a bound.
        let json = serde_json::to_string(&vec![rule("ls"); 500]).unwrap();
        let found: Granted = serde_json::from_str(&json).unwrap();
        assert_eq!(found.iter().count(), 1);
        let again: Granted =
            serde_json::from_str(&serde_json::to_string(&granted).unwrap()).unwrap();
        assert_eq!(again, granted);
    }

    #[test]
    fn a_changed_input_runs_instead_and_must_be_an_object() {
        let asked = approval("Bash", json!({"command": "ls"}), json!([]));
        let changed = |value| {
            Answer { allow: true, updated_input: Some(value), ..Answer::default() }
                .settle(&asked, false)
                .map(|(input, _)| input)
        };
        assert_eq!(changed(json!({"command": "pwd"})).unwrap(), "{\"command\":\"pwd\"}");
        assert_eq!(changed(json!("pwd")).unwrap_err().code, "invalid_input");
        let plain = Answer { allow: true, ..Answer::default() };
        assert_eq!(plain.settle(&asked, false).unwrap().0, asked.input);
    }
}
