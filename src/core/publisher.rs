//! Encodes events, once each, as the frames that go on the wire, and gives them their numbers.
//!
//! One server-wide counter numbers all events, so one cursor serves every stream. A frame is
//! appended to its session's log and to the log of all sessions, and stays invisible until
//! [`Publisher::show`]: that is the seam where a disk thread makes it durable first. Who reads,
//! and what a session is, it does not know.

use crate::base::arena::Key;
use crate::base::ring::{Mark, TooLarge};
use crate::base::seldom::{Blank, Seldom};
use crate::core::epochs::Epochs;
use crate::core::event::{EventKind, KINDS};
use crate::core::hooks::Aside;
use crate::core::large::LargeFields;
use crate::core::log::Log;
use crate::limits::{CONTENT_SIZE_MAX, PREVIEW_SIZE};
use crate::wire::json::{LargeValue, Largest, Object};
use crate::wire::sse::{self, EventId};
use std::sync::Arc;

/// What every event of a session says about where it belongs.
#[derive(Debug)]
pub struct Scope {
    /// The session's id. Shared, so that what goes to the disk names it without a copy.
    pub session_id: Arc<str>,
    /// The turn under way.
    pub turn: Option<Box<InTurn>>,
}

/// What the events of a turn say about where they belong.
#[derive(Debug)]
pub struct InTurn {
    /// The turn.
    pub turn_id: String,
    /// The prompt that it answers; a turn that nobody asked for has none.
    pub prompt_id: Option<String>,
}

impl Scope {
    fn write_turn(&self, object: &mut Object<'_>) {
        if let Some(turn) = &self.turn {
            object.string("turnId", &turn.turn_id);
            object.string_or_null("promptId", turn.prompt_id.as_deref());
        }
    }
}

/// A session's voice: its log, what its events say in common, and text that waits to be joined.
pub struct Feed {
    /// The session's slot, by which the publisher names logs with news.
    pub key: Key,
    /// The session's number in the log of all sessions: unlike a slot it is never used again.
    pub number: u32,
    /// The log.
    pub log: Log,
    /// What the events say in common.
    pub scope: Scope,
    /// When the session was last active, in milliseconds since 1970: the newest event that is
    /// [activity](EventKind::is_activity), or a human's change.
    pub active_at: u64,
    held: Seldom<Held>,
}

/// Deltas of one block that are being joined.
#[derive(Debug, Default)]
struct Held {
    text: String,
    kind: Option<Output>,
    message_id: String,
    block: u32,
    /// UTF-16 units of this block before `text`.
    offset: u64,
    /// When text of this session was last published.
    published_at: u64,
}

impl Blank for Held {
    const BLANK: &'static Held = &Held {
        text: String::new(),
        kind: None,
        message_id: String::new(),
        block: 0,
        offset: 0,
        published_at: 0,
    };

    fn is_blank(&self) -> bool {
        self.text.is_empty()
    }
}

/// The ring's tag of standard error: the filter's bit is that of `session-output`, but no block's
/// end ever supersedes it.
pub const STDERR_TAG: u8 = 31;

/// What a `session-output` event carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Output {
    /// The agent's words.
    Stdout,
    /// Its standard error.
    Stderr,
    /// Its thoughts.
    Thinking,
}

impl Output {
    /// The `type` on the wire.
    fn name(self) -> &'static str {
        match self {
            Output::Stdout => "stdout",
            Output::Stderr => "stderr",
            Output::Thinking => "thinking",
        }
    }
}

impl Feed {
    /// A feed for a new session.
    pub fn new(key: Key, number: u32, session_id: String, ring_size: usize) -> Feed {
        let scope = Scope { session_id: session_id.into(), turn: None };
        let (log, held) = (Log::new(ring_size), Seldom::default());
        Feed { key, number, log, scope, active_at: 0, held }
    }

    /// Gives back what only a session with an agent needs: its ring, and what joins its text.
    pub fn rest(&mut self) {
        self.log.ring.release();
        self.held.rest();
        if let Some(journal) = &mut self.log.journal {
            journal.rest();
        }
    }

    /// When text that waits to be joined must be published at the latest.
    pub fn held_due(&self, hold_ms: u64) -> Option<u64> {
        (!self.held.text.is_empty()).then(|| self.held.published_at + hold_ms)
    }
}

/// A large field on its way to the disk.
#[derive(Debug)]
pub struct Beside {
    /// The session.
    pub session_id: Arc<str>,
    /// The event.
    pub seq: u64,
    /// What it is.
    pub kind: Kind,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

/// What stands beside a journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// The text of a JSON string.
    Text,
    /// JSON.
    Json,
    /// A prompt's images.
    Images,
}

impl Kind {
    /// All of them.
    pub const ALL: [Kind; 3] = [Kind::Text, Kind::Json, Kind::Images];

    /// How its file's name ends, behind the number of the event.
    pub fn extension(self) -> &'static str {
        match self {
            Kind::Text => "large.txt",
            Kind::Json => "large.json",
            Kind::Images => "images.json",
        }
    }
}

/// Where a delta belongs.
#[derive(Clone, Copy, Debug)]
pub struct Place<'a> {
    /// Words, thoughts or standard error.
    pub output: Output,
    /// The message.
    pub message_id: &'a str,
    /// The block within the message, from 0.
    pub block: u32,
}

/// The encoder and the counter.
pub struct Publisher {
    /// Every start of this server, the present one last.
    pub epochs: Epochs,
    /// The number of the newest event.
    seq: u64,
    /// The number up to which readers may read.
    visible: u64,
    /// Every session's frames in the order of their numbers.
    pub all: Log,
    /// Where a frame is encoded. Reused, so its capacity is that of the longest frame so far.
    frame: Vec<u8>,
    /// Sessions with frames that are not visible.
    dirty: Vec<Key>,
    /// Large fields that were cut from their frames, where there is no journal.
    pub large: LargeFields,
    /// Large fields that are to stand beside the journal, with the next batch.
    pub beside: Option<Vec<Beside>>,
    /// Memory of a large field that is gone, for the next one.
    pub spare: Vec<u8>,
    /// Images that came with prompts.
    pub images: LargeFields,
    /// Events published, by kind.
    pub published: [u64; KINDS],
    /// Events that commands are to be told of.
    pub aside: Aside,
    /// What is published ends what another start began: that is no activity.
    pub restores: bool,
    /// The frame is standard error's.
    is_stderr: bool,
    /// Text deltas are joined for so long.
    hold_ms: u64,
    now_ms: u64,
    wall_ms: u64,
}

impl Publisher {
    /// A publisher of the newest start. `journals`: large fields go beside one.
    pub fn new(
        epochs: Epochs,
        mut all: Log,
        large: LargeFields,
        journals: bool,
        hold_ms: u64,
    ) -> Self {
        let first_seq = epochs.present().first_seq;
        all.ring.evict_to(first_seq - 1);
        Publisher {
            epochs,
            beside: journals.then(Vec::new),
            seq: first_seq - 1,
            visible: first_seq - 1,
            all,
            frame: Vec::new(),
            spare: Vec::new(),
            dirty: Vec::new(),
            images: LargeFields::new(large.size_max() / 2, usize::MAX),
            large,
            published: [0; KINDS],
            aside: Aside::default(),
            restores: false,
            is_stderr: false,
            hold_ms,
            now_ms: 0,
            wall_ms: 0,
        }
    }

    /// The time that events are stamped with from here on.
    pub fn set_time(&mut self, now_ms: u64, wall_ms: u64) {
        (self.now_ms, self.wall_ms) = (now_ms, wall_ms);
    }

    /// The number of the newest event.
    pub fn seq(&self) -> u64 {
        self.seq
    }

    /// The number up to which readers may read.
    pub fn visible(&self) -> u64 {
        self.visible
    }

    /// The id of event `seq`.
    pub fn id(&self, seq: u64) -> EventId {
        self.epochs.id(seq)
    }

    /// Whether event `seq` is of an earlier start.
    pub fn is_old(&self, seq: u64) -> bool {
        seq < self.epochs.present().first_seq
    }

    /// Appends an event inside the scope of its turn. Returns its number.
    pub fn publish(
        &mut self,
        feed: &mut Feed,
        kind: EventKind,
        members: impl FnOnce(&mut Object<'_>),
    ) -> u64 {
        self.flush(feed);
        self.encode(&feed.scope, kind, |object, scope| {
            scope.write_turn(object);
            members(object);
        });
        self.append(feed, kind)
    }

    /// Appends an event that says for itself which prompt it is about.
    pub fn publish_apart(
        &mut self,
        feed: &mut Feed,
        kind: EventKind,
        members: impl FnOnce(&mut Object<'_>),
    ) -> u64 {
        self.flush(feed);
        self.encode(&feed.scope, kind, |object, _| members(object));
        self.append(feed, kind)
    }

    /// Publishes text as it arrives, joined with what came before it within the hold time.
    ///
    /// `offset` counts the UTF-16 units of the block before this text.
    pub fn output(&mut self, feed: &mut Feed, place: Place<'_>, offset: u64, text: &str) {
        let held = &feed.held;
        let same = held.kind == Some(place.output)
            && held.block == place.block
            && held.message_id == place.message_id;
        if !same || held.text.len() + text.len() > self.content_size_max(feed) {
            self.flush(feed);
        }
        let held = &mut *feed.held;
        if held.text.is_empty() {
            held.kind = Some(place.output);
            held.block = place.block;
            held.offset = offset;
            held.message_id.clear();
            held.message_id.push_str(place.message_id);
        }
        held.text.push_str(text);
        let waited = self.now_ms.saturating_sub(held.published_at);
        if waited >= self.hold_ms || held.text.len() > self.content_size_max(feed) / 2 {
            self.flush(feed);
        }
    }

    /// The most text that one event of this feed carries, in bytes.
    pub fn content_size_max(&self, feed: &Feed) -> usize {
        CONTENT_SIZE_MAX.min(feed.log.ring.frame_size_max().saturating_sub(512) / 6)
    }

    /// Publishes the text that waits to be joined.
    pub fn flush(&mut self, feed: &mut Feed) {
        if feed.held.text.is_empty() {
            return;
        }
        let mut taken = std::mem::take(&mut feed.held);
        let held = &mut *taken;
        let size_max = self.content_size_max(feed);
        let mut rest = held.text.as_str();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.floor_char_boundary(size_max));
            self.encode(&feed.scope, EventKind::SessionOutput, |object, scope| {
                scope.write_turn(object);
                object.string("type", held.kind.unwrap_or(Output::Stdout).name());
                object.string("content", piece);
                object.string("messageId", &held.message_id);
                object.number("block", held.block.into());
                object.number("offset", held.offset);
            });
            self.is_stderr = held.kind == Some(Output::Stderr);
            self.append(feed, EventKind::SessionOutput);
            self.is_stderr = false;
            held.offset += utf16_length(piece);
            rest = after;
        }
        held.text.clear();
        held.published_at = self.now_ms;
        feed.held = taken;
    }

    /// Lets the compact view pass over a block's deltas from event `seq` on: the block has ended.
    /// 0 for one that began before this start of the server: from the oldest that is held.
    pub fn supersede(&mut self, feed: &mut Feed, seq: u64) {
        let owner = feed.number;
        let delta = |mark: &Mark| mark.tag == EventKind::SessionOutput as u8 && mark.owner == owner;
        for ring in [&mut feed.log.ring, &mut self.all.ring] {
            let from = ring.after(seq.saturating_sub(1));
            ring.supersede(from, delta);
        }
    }

    /// Encodes an event into `self.frame`, its large field cut if it needs to be.
    fn encode(
        &mut self,
        scope: &Scope,
        kind: EventKind,
        members: impl FnOnce(&mut Object<'_>, &Scope),
    ) {
        self.seq += 1;
        self.frame.clear();
        let epoch = self.epochs.present().epoch;
        sse::id(&mut self.frame, EventId { epoch, seq: self.seq });
        sse::event(&mut self.frame, kind.name());
        // Both rings take the same frame; a session's is never the larger one.
        let size_max = self.all.ring.frame_size_max().min(self.large.frame_size_max());
        let mut object = Object::begin_within(&mut self.frame, size_max, &mut self.spare);
        object.string("_eventType", kind.name());
        object.string("sessionId", &scope.session_id);
        object.number("timestamp", self.wall_ms);
        members(&mut object, scope);
        let largest = object.end();
        sse::end(&mut self.frame);
        if self.frame.len() > size_max || largest.taken_out.is_some() {
            self.cut(scope, largest);
        }
    }

    /// Moves the largest member out of the frame and leaves word of where it is.
    fn cut(&mut self, scope: &Scope, largest: Largest) {
        let Largest { name, value, taken_out } = largest;
        let written = || std::str::from_utf8(&self.frame[value.clone()]).unwrap_or("null");
        let LargeValue { bytes, is_text } =
            taken_out.unwrap_or_else(|| LargeValue::of(written(), Vec::new()));
        let tail = self.frame.split_off(value.end);
        self.frame.truncate(value.start - name.len() - 3);
        self.frame.extend_from_slice(b"\"large\":");
        let id = self.id(self.seq);
        let mut object = Object::begin(&mut self.frame);
        object.string("field", name);
        object.number("bytes", bytes.len() as u64);
        object.display("href", format_args!("/api/session/{}/events/{id}", scope.session_id));
        object.string("preview", beginning(&bytes, PREVIEW_SIZE));
        object.end();
        self.frame.extend_from_slice(&tail);
        self.keep(scope, if is_text { Kind::Text } else { Kind::Json }, bytes);
        // A frame of that size must not keep its memory for all the small ones to come.
        self.frame.shrink_to(self.large.frame_size_max());
    }

    /// Keeps a large field of the event that is being encoded.
    fn keep(&mut self, scope: &Scope, kind: Kind, bytes: Vec<u8>) {
        match &mut self.beside {
            None => {
                if let Some(gone) = self.large.keep(self.seq, bytes, kind == Kind::Text) {
                    self.spare = gone;
                }
            }
            Some(beside) => {
                let session_id = scope.session_id.clone();
                beside.push(Beside { session_id, seq: self.seq, kind, bytes });
                // Only a disk that takes nothing lets it come to that: the newest must do.
                while beside.iter().map(|one| one.bytes.len()).sum::<usize>()
                    > self.large.size_max()
                {
                    beside.remove(0);
                }
            }
        }
    }

    /// The bytes of large fields that wait to be handed to the disk thread.
    pub fn beside_size(&self) -> usize {
        self.beside.iter().flatten().map(|one| one.bytes.len()).sum()
    }

    /// Keeps the images of the prompt that the newest event queued: they must outlive us, too.
    pub fn keep_images(&mut self, feed: &Feed, images: &[(String, String)]) {
        if self.beside.is_some() && !images.is_empty() {
            let json = serde_json::to_vec(images).unwrap_or_default();
            self.keep(&feed.scope, Kind::Images, json);
        }
    }

    /// Appends the encoded frame to both logs.
    fn append(&mut self, feed: &mut Feed, kind: EventKind) -> u64 {
        if let Err(TooLarge) = self.append_frame(feed, kind) {
            // Several large members at once: the event is told without them, never dropped.
            self.encode_without_members(&feed.scope, kind);
            let fits = self.append_frame(feed, kind);
            assert_eq!(fits, Ok(()), "a frame without members fits into any ring");
        }
        if kind.is_activity() && !self.restores {
            feed.active_at = self.wall_ms;
        }
        self.published[kind as usize] += 1;
        if self.aside.mask & 1 << kind as u32 != 0
            && let Some((_, _, data)) = sse::parse_frame(&self.frame)
        {
            self.aside.keep(self.seq, kind, data);
        }
        self.seq
    }

    fn append_frame(&mut self, feed: &mut Feed, kind: EventKind) -> Result<(), TooLarge> {
        let tag = if self.is_stderr { STDERR_TAG } else { kind as u8 };
        if feed.log.append(&self.frame, self.seq, feed.number, tag)? {
            self.dirty.push(feed.key);
        }
        self.all.append(&self.frame, self.seq, feed.number, tag).map(|_| ())
    }

    fn encode_without_members(&mut self, scope: &Scope, kind: EventKind) {
        self.seq -= 1;
        self.encode(scope, kind, |object, _| object.bool("truncated", true));
    }

    /// Shows everything up to `seq`. The sessions with news are the caller's to show.
    pub fn show(&mut self, seq: u64) {
        self.visible = self.visible.max(seq);
        self.all.show(self.visible);
    }

    /// The sessions to which something was appended since this was last asked.
    pub fn take_dirty(&mut self) -> Vec<Key> {
        std::mem::take(&mut self.dirty)
    }

    /// Takes the list back, for its memory.
    pub fn recycle_dirty(&mut self, mut list: Vec<Key>) {
        if self.dirty.is_empty() {
            list.clear();
            self.dirty = list;
        }
    }

    /// Whether anything was appended since then.
    pub fn has_dirty(&self) -> bool {
        !self.dirty.is_empty()
    }

    /// Notes that a session has something to be committed.
    pub fn note_dirty(&mut self, feed: &mut Feed) {
        if !std::mem::replace(&mut feed.log.dirty, true) {
            self.dirty.push(feed.key);
        }
    }

    /// The frame of the event that was published last.
    pub fn last_frame(&self) -> &[u8] {
        &self.frame
    }

    /// Whether anything is published and not visible.
    pub fn has_hidden(&self) -> bool {
        self.visible != self.seq
    }
}

/// The whole characters among the first `size` bytes of a text.
fn beginning(text: &[u8], size: usize) -> &str {
    let bytes = &text[..text.len().min(size)];
    bytes.utf8_chunks().next().map_or("", |chunk| chunk.valid())
}

/// How many UTF-16 units a text has: what offsets count, because browsers do.
pub fn utf16_length(text: &str) -> u64 {
    if text.is_ascii() {
        return text.len() as u64;
    }
    text.chars().map(|character| character.len_utf16() as u64).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ring::Found;
    use crate::core::epochs::{Durability, Start};
    use crate::wire::sse::Epoch;

    fn world(hold_ms: u64) -> (Publisher, Feed) {
        let (epoch, boot_id) = (Epoch::new(0xabc), String::new());
        let durability = Durability::Memory;
        let start = Start::new(epoch, 100, durability, boot_id);
        let large = LargeFields::new(1 << 20, 1 << 10);
        let publisher =
            Publisher::new(Epochs::first(start), Log::new(1 << 16), large, false, hold_ms);
        let key = Key { kind: 1, generation: 0, index: 0 };
        (publisher, Feed::new(key, 1, "session-1-a".into(), 1 << 14))
    }

    /// The data of every frame in a log, parsed.
    fn events(log: &Log) -> Vec<serde_json::Value> {
        let Found::Bytes(a, b) = log.ring.at(log.ring.base(), log.ring.head()) else {
            return Vec::new();
        };
        let text = String::from_utf8([a, b].concat()).unwrap();
        text.split_inclusive("\n\n")
            .map(|frame| {
                let (_, _, data) = sse::parse_frame(frame.as_bytes()).expect("a whole frame");
                serde_json::from_str(data).unwrap()
            })
            .collect()
    }

    #[test]
    fn a_frame_is_encoded_once_and_stands_in_both_logs() {
        let (mut publisher, mut feed) = world(0);
        publisher.set_time(5, 1_700_000_000_000);
        let seq = publisher.publish(&mut feed, EventKind::SessionStatus, |object| {
            object.string("status", "idle");
        });
        let frame = "id: 000000000abc-100\nevent: session-status\ndata: {\"_eventType\":\
            \"session-status\",\"sessionId\":\"session-1-a\",\"timestamp\":1700000000000,\
            \"status\":\"idle\"}\n\n";
        assert_eq!(seq, 100);
        for log in [&feed.log, &publisher.all] {
            assert_eq!(log.ring.at(0, log.ring.head()), Found::Bytes(frame.as_bytes(), b""));
            assert_eq!(log.visible(), 0);
        }
        assert_eq!(publisher.take_dirty(), [feed.key]);
        publisher.show(100);
        assert_eq!((publisher.visible(), publisher.all.visible()), (100, frame.len() as u64));
    }

    #[test]
    fn deltas_of_one_block_are_joined_and_never_cross_another_event() {
        let (mut publisher, mut feed) = world(50);
        publisher.set_time(1000, 0);
        let place = Place { output: Output::Stdout, message_id: "m", block: 0 };
        publisher.output(&mut feed, place, 0, "a");
        publisher.output(&mut feed, place, 1, "\u{1F600}");
        publisher.output(&mut feed, place, 3, "c");
        assert_eq!(feed.held_due(50), Some(1050));
        publisher.publish(&mut feed, EventKind::SessionStatus, |_| ());
        publisher.output(&mut feed, Place { block: 1, ..place }, 0, "d");
        publisher.output(&mut feed, Place { block: 2, ..place }, 0, "e");
        publisher.flush(&mut feed);
        let told: Vec<_> = events(&feed.log)
            .iter()
            .map(|event| (event["content"].as_str().map(str::to_owned), event["offset"].as_u64()))
            .collect();
        let text = |text: &str, offset| (Some(text.to_owned()), Some(offset));
        assert_eq!(
            told,
            [text("a", 0), text("\u{1F600}c", 1), (None, None), text("d", 0), text("e", 0)],
            "the first delta goes at once, later ones together"
        );
    }

    #[test]
    fn a_large_field_leaves_its_frame_and_is_kept_beside_it() {
        let (mut publisher, mut feed) = world(0);
        let text = "\u{e9}\n".repeat(2000);
        let seq = publisher.publish(&mut feed, EventKind::MessageBlock, |object| {
            object.string("messageId", "m");
            object.string("text", &text);
            object.bool("aborted", false);
        });
        let event = &events(&feed.log)[0];
        assert_eq!(event["large"]["field"], "text");
        assert_eq!(event["large"]["bytes"], text.len());
        assert_eq!(event["large"]["href"], "/api/session/session-1-a/events/000000000abc-100");
        assert!(text.starts_with(event["large"]["preview"].as_str().unwrap()));
        assert_eq!((&event["messageId"], &event["aborted"]), (&"m".into(), &false.into()));
        assert_eq!(publisher.large.get(seq), Some((text.as_bytes(), true)));
    }

    #[test]
    fn long_output_is_cut_at_characters_into_events_with_rising_offsets() {
        let (mut publisher, mut feed) = world(0);
        let text = "\u{1F600}".repeat(600);
        let place = Place { output: Output::Thinking, message_id: "m", block: 3 };
        publisher.output(&mut feed, place, 10, &text);
        let events = events(&feed.log);
        assert!(events.len() > 2);
        let mut offset = 10;
        let mut joined = String::new();
        for event in &events {
            assert_eq!(
                (event["type"].as_str(), event["block"].as_u64()),
                (Some("thinking"), Some(3))
            );
            assert_eq!(event["offset"].as_u64(), Some(offset));
            let content = event["content"].as_str().unwrap();
            offset += content.encode_utf16().count() as u64;
            joined.push_str(content);
        }
        assert_eq!(joined, text);
    }
}
