//! The truth that clients are compared with: every frame that ever became visible, what its log
//! still held at that time, and what was begun and not yet ended.
//!
//! It is told the frames of the log of all sessions at each commit, and knows nothing of streams.

use crate::eras::Era;
use crate::tally::Tally;
use serde_json::Value;
use sidestream::wire::sse::{self, EventId};
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt::Display;
use std::path::PathBuf;

/// One visible event.
pub struct Event {
    pub seq: u64,
    pub session: usize,
    pub name: String,
    pub frame: String,
    /// Text of a block that the compact view passes over once the block has ended.
    pub is_delta: bool,
    /// When it went: retention took it, its session was erased, or the disk lost it.
    pub gone_at: u64,
    /// It is not only gone but as if it had never been.
    pub lost: bool,
}

/// An event's place in a log: enough to say what a stream that begins there is owed.
#[derive(Clone, Copy)]
pub struct Entry {
    pub seq: u64,
    pub event: usize,
    length: usize,
    /// The newest number that the log had forgotten once this event stood in it.
    evicted: u64,
    /// Events of one commit have one number.
    batch: u64,
}

/// One log, as the ring that holds it would forget it.
#[derive(Default)]
pub struct List {
    pub entries: Vec<Entry>,
    kept: VecDeque<(u64, usize)>,
    kept_size: usize,
    evicted: u64,
    ring_size: usize,
    /// When events went that stood in a journal, and the newest number among them.
    pub evictions: Vec<(u64, u64)>,
    /// Up to here a journal may say that it holds nothing, without a reason that can be seen.
    pub doubtful: u64,
}

impl List {
    fn push(&mut self, seq: u64, event: usize, length: usize, batch: u64) {
        while self.kept.len() == self.ring_size / 256 || self.kept_size + length > self.ring_size {
            let (seq, length) = self.kept.pop_front().expect("a frame fits into an empty ring");
            self.kept_size -= length;
            self.evicted = seq;
        }
        self.kept.push_back((seq, length));
        self.kept_size += length;
        self.entries.push(Entry { seq, event, length, evicted: self.evicted, batch });
    }

    /// The newest number that the ring has surely forgotten by now.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Events up to `seq` went from the journal.
    pub fn evict(&mut self, step: u64, seq: u64) {
        self.evictions.push((step, seq));
    }

    /// The newest number that was gone from the journal before this step.
    pub fn gone_before(&self, step: u64) -> u64 {
        let before = self.evictions.iter().filter(|(at, _)| *at < step);
        before.map(|(_, seq)| *seq).max().unwrap_or(0)
    }

    /// The newest number that may be gone from the journal by now.
    pub fn gone_at_most(&self) -> u64 {
        self.evictions.iter().map(|(_, seq)| *seq).max().unwrap_or(0).max(self.doubtful)
    }

    /// The ring of a new start.
    pub fn empty_ring(&mut self) {
        self.kept.clear();
        self.kept_size = 0;
        self.evicted = self.entries.last().map_or(0, |entry| entry.seq);
    }

    fn index_after(&self, seq: u64) -> usize {
        self.entries.partition_point(|entry| entry.seq <= seq)
    }

    /// What the log had forgotten when `latest` was the newest visible event: at least, and at
    /// most, since what was published by then and not visible had made room for itself.
    pub fn evicted_at(&self, latest: u64) -> (u64, u64) {
        let at = self.index_after(latest);
        let least = at.checked_sub(1).map_or(0, |at| self.entries[at].evicted);
        let Some(next) = self.entries.get(at) else { return (least, least) };
        let batch = self.entries[at..].iter().take_while(|entry| entry.batch == next.batch);
        (least, batch.last().map_or(least, |entry| entry.evicted))
    }

    /// Behind which number a stream begins that is given the newest `size` bytes up to `latest`.
    pub fn newest(&self, size: usize, latest: u64, evicted: u64) -> u64 {
        let mut left = size;
        let mut at = self.index_after(latest);
        while at > 0 && self.entries[at - 1].length <= left && self.entries[at - 1].seq > evicted {
            left -= self.entries[at - 1].length;
            at -= 1;
        }
        at.checked_sub(1).map_or(0, |at| self.entries[at].seq)
    }
}

/// What a prompt has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fate {
    pub started: bool,
    pub ended: bool,
}

/// An approval that waits for a human.
#[derive(Clone)]
pub struct Open {
    pub id: String,
    pub hash: String,
    pub questions: Vec<String>,
    pub rules: Value,
}

/// One session, as its events tell it.
#[derive(Default)]
pub struct Session {
    pub id: String,
    pub agent: String,
    pub list: List,
    pub status: String,
    pub prompts: BTreeMap<String, Fate>,
    pub approvals: Vec<Open>,
    pub resolved: Vec<String>,
    pub tools: Vec<String>,
    /// Tools and subagents that have ended.
    pub over: BTreeSet<String>,
    /// Events of it were lost: what ended among them is ended once more, for who reads the rest.
    pub has_hole: bool,
    pub subagents: Vec<String>,
    /// Blocks with text whose end was not told: message and number.
    pub blocks: Vec<(String, u64)>,
    pub turn: Option<String>,
    /// The newest event that ended a block.
    pub last_block: u64,
    pub closed: bool,
    /// Its agent was made to say things that no agent says, so only the frame is checked.
    pub odd: bool,
    /// Some frame lost its members, or the disk some frame in the middle.
    pub truncated: bool,
    /// It is put away.
    pub archived: bool,
    /// Its journal was erased.
    pub erased: bool,
    /// Prompts that have run: each once, whatever a disk has forgotten.
    pub ran: BTreeSet<String>,
    /// Turns that were begun for a prompt, and prompts that its agents were given.
    pub begun: u64,
    pub given: u64,
}

impl Session {
    pub fn queued(&self) -> impl Iterator<Item = &String> {
        self.prompts.iter().filter(|(_, fate)| !fate.started && !fate.ended).map(|(id, _)| id)
    }

    pub fn is_running(&self) -> bool {
        self.turn.is_some()
    }

    /// Nothing of it is left.
    pub fn end(&mut self) {
        self.closed = true;
        self.turn = None;
        self.status = "closed".to_owned();
        self.approvals.clear();
        self.tools.clear();
        self.subagents.clear();
        self.blocks.clear();
        self.prompts.values_mut().for_each(|fate| fate.ended = true);
    }
}

/// Everything that is known.
pub struct Model {
    pub events: Vec<Event>,
    pub sessions: Vec<Session>,
    pub all: List,
    pub by_id: BTreeMap<String, usize>,
    pub eras: Vec<Era>,
    /// How often a human was asked about this directory with this content.
    pub trust_asked: BTreeMap<(PathBuf, String), u32>,
    /// Up to where events went, by session: also those that were not visible then.
    pub dropped: BTreeMap<String, u64>,
    pub visible: u64,
    pub epoch: String,
    /// Events are written to journals.
    pub has_journals: bool,
    /// What was shown had to survive how the last start ended.
    pub is_covered: bool,
    /// How the last start ended leaves open what of it is on disk.
    pub is_doubtful: bool,
    /// Both as this start found them.
    pub born: (bool, bool),
    /// Up to here events may be lost, and nobody can know it: when the power failed, the disk did not
    /// even take word that it had taken nothing.
    pub untraced: u64,
    /// The disk was in trouble in this start.
    pub is_shaky: bool,
    /// Or in one before, that ended at this step: what it wrote to its clients they may read later.
    pub was_shaky_until: u64,
    pub step: u64,
    position: u64,
    pub batch: u64,
    ring_size: usize,
    pub tally: Tally,
    pub context: String,
}

impl Model {
    pub fn new(ring_size: usize, all_ring_size: usize) -> Model {
        Model {
            events: Vec::new(),
            sessions: Vec::new(),
            all: List { ring_size: all_ring_size, ..List::default() },
            by_id: BTreeMap::new(),
            visible: 0,
            eras: Vec::new(),
            trust_asked: BTreeMap::new(),
            dropped: BTreeMap::new(),
            epoch: String::new(),
            has_journals: false,
            is_covered: true,
            is_doubtful: false,
            born: (true, false),
            untraced: 0,
            is_shaky: false,
            was_shaky_until: 0,
            step: 0,
            position: 0,
            batch: 0,
            ring_size,
            tally: Tally::default(),
            context: String::new(),
        }
    }

    /// A start has begun: its log of all sessions is empty.
    pub fn begin_anew(&mut self) {
        self.position = 0;
        if std::mem::take(&mut self.is_shaky) {
            self.was_shaky_until = self.step;
        }
    }

    pub fn session(&self, id: &str) -> Option<usize> {
        self.by_id.get(id).copied()
    }

    pub fn list(&self, session: Option<usize>) -> &List {
        session.map_or(&self.all, |session| &self.sessions[session].list)
    }

    /// The number of an id of ours, whether it was ever issued or not.
    pub fn seq(&self, id: &str) -> Option<u64> {
        let id = EventId::parse(id.as_bytes())?;
        let epoch = id.epoch.to_string();
        self.eras.iter().any(|era| era.epoch == epoch).then_some(id.seq)
    }

    /// Whether a compact view may pass over an event.
    pub fn is_superseded(&self, event: &Event) -> bool {
        event.is_delta && event.seq < self.sessions[event.session].last_block
    }

    /// The first event behind `seq` in a log that `wanted` takes.
    pub fn next_wanted(
        &self,
        session: Option<usize>,
        seq: u64,
        wanted: impl Fn(&Event) -> bool,
    ) -> Option<u64> {
        let list = self.list(session);
        let rest = &list.entries[list.index_after(seq)..];
        rest.iter().find(|entry| wanted(&self.events[entry.event])).map(|entry| entry.seq)
    }

    pub fn event(&self, seq: u64) -> Option<&Event> {
        let at = self.events.binary_search_by_key(&seq, |event| event.seq).ok()?;
        Some(&self.events[at])
    }

    /// From where the log of all sessions is to be read.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// A commit has made these frames visible.
    pub fn commit(&mut self, bytes: &[u8], position: u64, step: u64) {
        (self.position, self.step) = (position, step);
        self.batch += 1;
        let text = std::str::from_utf8(bytes).expect("frames are text");
        for frame in text.split_inclusive("\n\n") {
            self.take(frame);
        }
    }

    /// The next event.
    pub fn take(&mut self, frame: &str) {
        let (id, name, data) = sse::parse_frame(frame.as_bytes())
            .unwrap_or_else(|| panic!("{}: no frame: {frame:?}", self.context));
        let context = self.context.clone();
        let seq = self.seq(id).unwrap_or_else(|| panic!("{context}: a foreign id: {id}"));
        assert!(seq > self.visible, "{context}: numbers must rise: {seq}");
        self.visible = seq;
        let data: Value =
            serde_json::from_str(data).unwrap_or_else(|error| panic!("{context}: {error}: {data}"));
        assert_eq!(data["_eventType"], name, "{context}");
        assert!(data["timestamp"].is_u64(), "{context}");
        let session_id = data["sessionId"].as_str().expect("an event has its session");
        let session = match self.by_id.get(session_id) {
            Some(session) => *session,
            None => {
                assert_eq!(name, "session-created", "{context}: the first event");
                let (id, agent) = (session_id.to_owned(), text(&data, "agent").to_owned());
                self.add_session(&id, &agent, false)
            }
        };
        let event = self.events.len();
        let length = frame.len();
        let is_delta = name == "session-output" && data["type"] != "stderr";
        let (name_owned, frame) = (name.to_owned(), frame.to_owned());
        let dropped = self.dropped.get(session_id).is_some_and(|until| seq <= *until);
        let gone_at = if dropped { self.step } else { u64::MAX };
        let lost = false;
        self.events.push(Event { seq, session, name: name_owned, frame, is_delta, gone_at, lost });
        self.all.push(seq, event, length, self.batch);
        let known = &mut self.sessions[session];
        assert!(!known.closed, "{context}: {name} after session-closed");
        known.list.push(seq, event, length, self.batch);
        if dropped {
            known.list.evict(self.step, seq);
            self.all.evict(self.step, seq);
        }
        if name == "message-block" {
            known.last_block = seq;
        }
        if data["large"].is_object() {
            self.tally.hit("large-field");
        }
        if data["truncated"] == true {
            known.truncated = true;
        }
        if data["forkedFrom"].is_string() && name == "session-created" {
            self.tally.hit("forked");
        }
        if name == "approval-required" && data["kind"] == "trust" {
            let input = |member| text(&data["input"], member).to_owned();
            *self.trust_asked.entry((input("directory").into(), input("hash"))).or_default() += 1;
        }
        let told = format_args!("{context} {seq} {name} {data}");
        match (name, data["promptId"].as_str()) {
            // Its id is forgotten, and it was sent again.
            ("prompt-queued", Some(id)) => known.ran.remove(id),
            ("prompt-started", Some(id)) => {
                let is_first = known.ran.insert(id.to_owned());
                let is_known = self.untraced == 0; // Else nothing could say that it ran.
                assert!(is_first || !is_known, "{told}: it runs once more");
                false
            }
            _ => false,
        };
        follow(known, name, &data, &mut self.tally, &told);
        // Its end is one whatever else of it is missing.
        known.closed |= name == "session-closed";
        if name == "events-lost" {
            self.lose(session, &data);
        }
    }

    /// Another session. `truncated`: what it began with is not known.
    pub fn add_session(&mut self, id: &str, agent: &str, truncated: bool) -> usize {
        let session = self.sessions.len();
        self.sessions.push(Session {
            id: id.to_owned(),
            list: List { ring_size: self.ring_size, ..List::default() },
            status: "idle".to_owned(),
            agent: agent.to_owned(),
            truncated,
            ..Session::default()
        });
        self.by_id.insert(id.to_owned(), session);
        session
    }

    /// The server says that it will never show these any more.
    fn lose(&mut self, session: usize, data: &Value) {
        self.tally.hit("events-lost");
        self.sessions[session].has_hole = true;
        let id = |name: &str| EventId::parse(text(data, name).as_bytes()).map(|id| id.seq);
        let (Some(from), Some(to)) = (id("from"), id("to")) else {
            panic!("{}: {data}", self.context);
        };
        let (born_covered, born_doubtful) = self.born;
        let is_shaky = self.is_shaky || !born_covered;
        // "After a disk failure or a cut tail" (DESIGN §5): one that a power loss has torn may hold
        // whole frames behind the tear, that were never shown, and nobody can tell that they were not.
        let is_cut = born_doubtful && data["reason"] == "tail_cut";
        assert!(is_shaky || is_cut, "{}: the disk took everything: {data}", self.context);
        for entry in &self.sessions[session].list.entries {
            let event = &mut self.events[entry.event];
            if (from..=to).contains(&event.seq) {
                assert!(is_shaky, "{}: what was shown was synced: {data}", self.context);
                event.gone_at = event.gone_at.min(self.step);
            }
        }
        let list = &mut self.sessions[session].list;
        list.doubtful = list.doubtful.max(to); // It outlives this start.
        list.evict(self.step, to);
        self.all.evict(self.step, to);
    }

    /// What must hold once every agent is gone.
    pub fn check_ended(&self, queued_may_stay: bool) {
        for session in self.sessions.iter().filter(|session| !session.truncated) {
            let context = format!("{} {}", self.context, session.id);
            assert_eq!(session.turn, None, "{context}: a turn was left open");
            assert!(session.approvals.is_empty(), "{context}: approvals were left open");
            assert!(session.subagents.is_empty(), "{context}: {:?}", session.subagents);
            assert!(session.tools.is_empty(), "{context}: {:?}", session.tools);
            assert!(session.blocks.is_empty() || session.odd, "{context}: {:?}", session.blocks);
            for (id, fate) in &session.prompts {
                let waits = !fate.started && queued_may_stay;
                assert!(fate.ended || waits, "{context}: {id} {fate:?}");
            }
        }
    }
}

fn text<'a>(data: &'a Value, name: &str) -> &'a str {
    data[name].as_str().unwrap_or_default()
}

/// Follows one event: everything that starts ends, once, and nothing ends that did not start.
fn follow(
    session: &mut Session,
    name: &str,
    data: &Value,
    tally: &mut Tally,
    context: &dyn Display,
) {
    if session.truncated {
        return; // What is missing in one frame can no longer be followed in the others.
    }
    if let Some(turn) = data["turnId"].as_str() {
        let inside = session.turn.as_deref() == Some(turn) || name == "prompt-started";
        assert!(inside, "{context}: not in turn {:?}", session.turn);
    }
    match name {
        "prompt-queued" => {
            let id = text(data, "promptId").to_owned();
            let before = session.prompts.insert(id, Fate::default());
            assert_eq!(before, None, "{context}: queued twice");
        }
        "prompt-started" => {
            assert_eq!(session.turn, None, "{context}: a turn within a turn");
            session.turn = Some(text(data, "turnId").to_owned());
            match data["promptId"].as_str() {
                Some(id) => {
                    let fate = session.prompts.get_mut(id).expect("it was queued");
                    assert_eq!(*fate, Fate::default(), "{context}");
                    assert!(!session.archived, "{context}: it is put away");
                    fate.started = true;
                    session.begun += 1;
                }
                None => {
                    assert_eq!(data["origin"], "agent", "{context}");
                    tally.hit("unprompted-turn");
                }
            }
        }
        "prompt-completed" | "prompt-failed" | "prompt-cancelled" => {
            tally.hit(match name {
                "prompt-completed" => "prompt-completed",
                "prompt-failed" => "prompt-failed",
                _ => "prompt-cancelled",
            });
            if data["interrupted"] == true {
                tally.hit("interrupted");
            }
            if data["code"] == "events_lost" {
                // How it ended was told and lost, or never told: this ends it in any case.
                let id = text(data, "promptId").to_owned();
                session.prompts.entry(id).or_default().ended = true;
                let waited = text(data, "error").starts_with("it waited");
                return tally.hit(if waited { "prompt-in-doubt" } else { "prompt-end-lost" });
            }
            let ends_turn = data["turnId"].is_string();
            if ends_turn {
                session.turn = None;
                let foreground = session.tools.iter().chain(session.blocks.iter().map(|b| &b.0));
                assert!(session.odd || foreground.count() == 0, "{context}: left open in its turn");
            }
            if let Some(id) = data["promptId"].as_str() {
                let fate = session.prompts.get_mut(id).expect("it was queued");
                assert_eq!((fate.ended, fate.started), (false, ends_turn), "{context}");
                fate.ended = true;
            } else {
                assert!(ends_turn, "{context}");
            }
        }
        "session-output" if text(data, "type") != "stderr" && session.turn.is_some() => {
            let block = (text(data, "messageId").to_owned(), data["block"].as_u64().unwrap_or(0));
            if session.agent != "lines" && !session.blocks.contains(&block) {
                session.blocks.push(block);
            }
        }
        "message-block" => {
            let block = (text(data, "messageId").to_owned(), data["block"].as_u64().unwrap_or(0));
            session.blocks.retain(|open| *open != block);
            for replaced in data["replaces"].as_array().into_iter().flatten() {
                session.blocks.retain(|open| open.0 != replaced.as_str().unwrap_or_default());
            }
        }
        "tool-started" => open(&mut session.tools, text(data, "toolUseId"), context),
        "tool-progress" => {
            assert!(session.tools.contains(&text(data, "toolUseId").to_owned()), "{context}");
        }
        "tool-completed" => {
            let (id, as_unknown) = (text(data, "toolUseId"), data["outcome"] == "unknown");
            end(session, |session| &mut session.tools, id, as_unknown, context);
        }
        "subagent-started" => open(&mut session.subagents, text(data, "agentId"), context),
        "subagent-completed" => {
            let (id, as_unknown) = (text(data, "agentId"), data["outcome"] == "aborted");
            end(session, |session| &mut session.subagents, id, as_unknown, context);
        }
        "approval-required" => {
            let questions = data["input"]["questions"].as_array().into_iter().flatten();
            session.approvals.push(Open {
                id: text(data, "approvalId").to_owned(),
                hash: text(data, "inputHash").to_owned(),
                questions: questions.map(|one| text(one, "question").to_owned()).collect(),
                rules: data["suggestions"].clone(),
            });
        }
        "approval-resolved" | "approval-withdrawn" => {
            tally.hit(match name {
                "approval-resolved" => "approval-resolved",
                _ => "approval-withdrawn",
            });
            let id = text(data, "approvalId");
            if is_told_again(session, id, data["reason"] == "events_lost") {
                return;
            }
            session.over.insert(id.to_owned());
            let at = session.approvals.iter().position(|open| open.id == id);
            session.approvals.remove(at.unwrap_or_else(|| panic!("{context}: was not open")));
            session.resolved.push(id.to_owned());
        }
        "session-status" => {
            let status = text(data, "status");
            assert_eq!(text(data, "previous"), session.status, "{context}");
            if status == "suspended" {
                tally.hit("suspended");
            }
            if data["reason"] == "agents_max" {
                tally.hit("start-queue-wait");
            }
            match data["reason"].as_str() {
                Some("archived") => {
                    session.archived = true;
                    tally.hit("archived");
                }
                Some("unarchived") => {
                    session.archived = false;
                    tally.hit("unarchived");
                }
                _ => {}
            }
            session.status = status.to_owned();
        }
        "session-closed" => {
            assert_eq!(text(data, "previous"), session.status, "{context}");
            assert!(session.turn.is_none() && session.approvals.is_empty(), "{context}");
            assert!(session.tools.is_empty() && session.subagents.is_empty(), "{context}");
            assert!(session.prompts.values().all(|fate| fate.ended), "{context}");
            tally.hit("session-closed");
        }
        "session-error" => match text(data, "code") {
            "line_too_long" => tally.hit("agent-line-dropped"),
            "agent_failed_to_start" if text(data, "error").contains("did not say within") => {
                tally.hit("agent-start-timeout");
            }
            "agent_failed_to_start" if text(data, "error").contains("could not be looked at") => {
                tally.hit("look-given-up");
            }
            "approvals_max" => tally.hit("approvals-max"),
            "agent_self_access" => tally.hit("agent-self-access"),
            "directory_not_trusted" => tally.hit("trust-denied"),
            "server_restarted" => {}
            _ => {}
        },
        "session-stalled" => tally.hit("session-stalled"),
        _ => {}
    }
}

/// Whether this end is one that was told before, and lost: behind a hole it comes once more.
fn is_told_again(session: &Session, id: &str, as_unknown: bool) -> bool {
    as_unknown && session.has_hole && session.over.contains(id)
}

#[track_caller]
fn open(list: &mut Vec<String>, id: &str, context: &dyn Display) {
    assert!(!list.iter().any(|known| known == id), "{context}: started twice");
    list.push(id.to_owned());
}

/// A tool or a subagent ends that was open, or whose end was lost.
#[track_caller]
fn end(
    session: &mut Session,
    list: fn(&mut Session) -> &mut Vec<String>,
    id: &str,
    as_unknown: bool,
    context: &dyn Display,
) {
    match list(session).iter().position(|known| known == id) {
        Some(at) => drop(list(session).remove(at)),
        None => assert!(is_told_again(session, id, as_unknown), "{context}: ended without a start"),
    }
    session.over.insert(id.to_owned());
}
