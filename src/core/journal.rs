//! Where a session's frames stand on disk: its segments, what is written, what retention took.
//!
//! A journal holds the very frames that the wire does, and its byte offsets are the positions of
//! the session's log, so a reader that the ring has outrun goes on at the same position. Nothing
//! here touches a file: the disk thread does, by the names that are made here.

use crate::base::seldom::{Blank, Seldom};
use crate::core::epochs::SEQ_MAX;
use crate::core::event::{EventKind, NAMES};
use crate::core::past;
use crate::wire::document::Document;
use crate::wire::json;
use crate::wire::sse::{self, EventId};
use std::collections::VecDeque;

/// Bytes after which a segment is closed and the next one begins.
pub const SEGMENT_SIZE: u64 = 4 << 20;
/// Bytes from one entry of an index to the next.
pub const INDEX_STEP: u64 = 16 << 10;
/// Entries of the index of one segment: taken with the segment, so that an event takes nothing.
pub const SEGMENT_INDEX_MAX: usize = (SEGMENT_SIZE / INDEX_STEP) as usize + 1;

/// Names one segment of a session: where it starts, and the number of its first frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct SegmentId {
    /// The position of its first byte.
    pub start: u64,
    /// The number of its first frame.
    pub first_seq: u64,
}

impl SegmentId {
    /// Its file's name.
    pub fn file_name(self) -> String {
        format!("{:016x}-{:016x}.log", self.start, self.first_seq)
    }

    /// Reads exactly what [`SegmentId::file_name`] writes.
    pub fn parse(name: &str) -> Option<SegmentId> {
        let (start, first_seq) = name.strip_suffix(".log")?.split_once('-')?;
        let hex = |text: &str| u64::from_str_radix(text, 16).ok();
        let id = SegmentId { start: hex(start)?, first_seq: hex(first_seq)? };
        (id.file_name() == name).then_some(id)
    }
}

/// One segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Segment {
    /// Its name.
    pub id: SegmentId,
    /// Where its last whole frame ends.
    pub end: u64,
    /// The number of its newest frame, as far as is known: never too low.
    pub last_seq: u64,
    /// Bytes of large fields that stand beside it.
    pub large_size: u64,
    /// Numbers of frames and where they start, one in every [`INDEX_STEP`] bytes.
    pub index: Vec<(u64, u64)>,
}

/// What was handed to the disk thread and is not answered yet.
#[derive(Debug)]
struct Handed {
    segment: Option<SegmentId>,
    end: u64,
    last_seq: u64,
    large_size: u64,
    index: Vec<(u64, u64)>,
    /// What lies between the newest frame written and the first one handed is lost.
    lost: Option<Lost>,
}

/// Frames that the journal will never hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The number after the last one that it holds.
    pub from: u64,
    /// The last one that is lost.
    pub to: u64,
}

/// How a piece of a journal is to be written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// The segment.
    pub segment: SegmentId,
    /// It is to be made.
    pub is_new: bool,
    /// The segment that ends with it.
    pub closes: Option<SegmentId>,
    /// Frames before it were lost.
    pub after_hole: bool,
    /// It begins with frames that stand in the segment before it, too, whose bytes are in doubt:
    /// until it is whole, those count.
    pub rewrites: bool,
}

/// What only a journal needs that is written to.
#[derive(Debug, Default)]
struct Writing {
    handed: Option<Handed>,
    /// Memory of the last [`Handed::index`], for the next one.
    spare: Vec<(u64, u64)>,
}

impl Blank for Writing {
    const BLANK: &'static Writing = &Writing { handed: None, spare: Vec::new() };

    fn is_blank(&self) -> bool {
        self.handed.is_none()
    }
}

/// A session's journal.
#[derive(Debug, Default)]
pub struct Journal {
    segments: VecDeque<Segment>,
    written: u64,
    last_seq: u64,
    evicted: u64,
    writing: Seldom<Writing>,
    /// The newest segment is not to be written to any more.
    abandoned: bool,
}

impl Journal {
    /// A journal as it was found: its segments, oldest first, where its last whole frame ends and
    /// which number that has, and the number of the newest frame that is gone.
    pub fn found(
        mut segments: VecDeque<Segment>,
        end: u64,
        last_seq: u64,
        evicted: u64,
    ) -> Journal {
        for segment in &mut segments {
            let own = (segment.id.first_seq, segment.id.start);
            segment.index.retain(|entry| *entry != own); // It says no more than the segment does.
        }
        let mut journal =
            Journal { segments, written: end, last_seq, evicted, ..Journal::default() };
        journal.rest();
        journal
    }

    /// The oldest position that is left.
    pub fn base(&self) -> u64 {
        self.segments.front().map_or(self.written, |segment| segment.id.start)
    }

    /// Up to where it is written.
    pub fn written(&self) -> u64 {
        self.written
    }

    /// The number of the newest frame that is written.
    pub fn last_seq(&self) -> u64 {
        self.last_seq
    }

    /// The number of the newest frame that is gone: retention took it, or it was lost.
    pub fn evicted(&self) -> u64 {
        self.evicted
    }

    /// Counts everything up to `seq` as gone.
    pub fn evict_to(&mut self, seq: u64) {
        self.evicted = self.evicted.max(seq);
    }

    /// The number of the oldest frame that is left.
    pub fn oldest_seq(&self) -> Option<u64> {
        self.segments.front().map(|segment| segment.id.first_seq)
    }

    /// The bytes on disk, large fields among them.
    pub fn size(&self) -> u64 {
        let large: u64 = self.segments.iter().map(|segment| segment.large_size).sum();
        self.written - self.base() + large
    }

    /// The oldest segment, and how many there are.
    pub fn oldest(&self) -> Option<(SegmentId, usize)> {
        self.segments.front().map(|segment| (segment.id, self.segments.len()))
    }

    /// The newest segment.
    pub fn newest_segment(&self) -> Option<SegmentId> {
        self.segments.back().map(|segment| segment.id)
    }

    /// The segment that holds the byte at `position`, and where it ends.
    pub fn segment_at(&self, position: u64) -> Option<(SegmentId, u64)> {
        let index = self.segments.partition_point(|segment| segment.id.start <= position);
        let segment = self.segments.get(index.checked_sub(1)?)?;
        (position < segment.end).then_some((segment.id, segment.end))
    }

    /// Where the first segment behind `position` starts: the other side of a hole.
    pub fn next_start(&self, position: u64) -> Option<u64> {
        let index = self.segments.partition_point(|segment| segment.id.start <= position);
        self.segments.get(index).map(|segment| segment.id.start)
    }

    /// The segments from `position` on.
    pub fn segments_from(&self, position: u64) -> impl Iterator<Item = SegmentId> {
        let index = self.segments.partition_point(|segment| segment.id.start <= position);
        self.segments.range(index.saturating_sub(1)..).map(|segment| segment.id)
    }

    /// A frame's start at or before the first frame after number `seq`: scan from there.
    pub fn seek(&self, seq: u64) -> u64 {
        let index = self.segments.partition_point(|segment| segment.id.first_seq <= seq);
        let Some(segment) = self.segments.get(index.saturating_sub(1)) else {
            return self.written;
        };
        if seq >= segment.last_seq {
            return self.next_start(segment.id.start).unwrap_or(self.written);
        }
        let entry = segment.index.partition_point(|(known, _)| *known <= seq);
        match entry.checked_sub(1) {
            Some(entry) => segment.index[entry].1,
            None => segment.id.start,
        }
    }

    /// The start and the number of a frame, such that no more than `size` bytes follow before
    /// `end`, and few less: an entry of an index.
    pub fn newest(&self, size: u64, end: u64) -> Option<(u64, u64)> {
        let from = end.saturating_sub(size);
        self.segments
            .iter()
            .flat_map(|segment| {
                let own = (segment.id.first_seq, segment.id.start);
                std::iter::once(own).chain(segment.index.iter().copied())
            })
            .find(|(_, position)| *position >= from && *position < end)
            .map(|(seq, position)| (position, seq))
    }

    /// Says that the frames from `start` to `end` go to the disk now: their marks are given as
    /// numbers and starts. Frames before `start` that are not written are lost for good.
    pub fn hand(
        &mut self,
        (start, end): (u64, u64),
        marks: impl Iterator<Item = (u64, u64)>,
        large_size: u64,
    ) -> Option<Place> {
        let mut marks = marks.peekable();
        let first_seq = marks.peek()?.0;
        let hole = start > self.written;
        let lost = hole.then(|| Lost { from: self.last_seq + 1, to: first_seq - 1 });
        let newest = self.segments.back().map(|segment| segment.id);
        let full = newest.is_some_and(|newest| start - newest.start >= SEGMENT_SIZE);
        // Behind a tail that was cut there is nothing in the file up to here.
        let joins = self.segments.back().is_some_and(|newest| newest.end == start);
        let goes_on = newest.filter(|_| !full && !hole && joins && !self.abandoned);
        let segment = goes_on.unwrap_or(SegmentId { start, first_seq });
        // A segment's own start needs no entry.
        let newest_entry = self.segments.back().filter(|_| goes_on.is_some());
        let newest_entry = newest_entry.and_then(|segment| segment.index.last());
        let mut indexed = newest_entry.map_or(segment.start, |(_, position)| *position);
        let (mut index, mut last_seq) = (std::mem::take(&mut self.writing.spare), first_seq);
        for (seq, position) in marks {
            last_seq = seq;
            if position >= indexed + INDEX_STEP {
                index.push((seq, position));
                indexed = position;
            }
        }
        let is_new = goes_on.is_none();
        let segment_made = is_new.then_some(segment);
        self.writing.handed =
            Some(Handed { segment: segment_made, end, last_seq, large_size, index, lost });
        // An abandoned one could not be synced: a second try would only seem to succeed.
        let closes = newest.filter(|newest| is_new && *newest != segment && !self.abandoned);
        Some(Place { segment, is_new, closes, after_hole: hole, rewrites: self.abandoned })
    }

    /// The disk thread has written what it was handed. Returns what was lost before it.
    pub fn wrote(&mut self) -> Option<Lost> {
        let mut handed = self.writing.handed.take()?;
        if let Some(id) = handed.segment {
            self.abandoned = false;
            if self.segments.back().is_some_and(|last| last.id.start == id.start) {
                self.segments.pop_back(); // Abandoned before it held anything.
            }
            let segment = Segment { id, end: 0, last_seq: 0, large_size: 0, index: Vec::new() };
            self.segments.push_back(segment);
        }
        if let Some(segment) = self.segments.back_mut() {
            // All that a segment takes at once: then nothing is taken from batch to batch.
            segment.index.reserve_exact(SEGMENT_INDEX_MAX.saturating_sub(segment.index.len()));
            segment.index.extend_from_slice(&handed.index);
            segment.large_size += handed.large_size;
            (segment.last_seq, segment.end) = (handed.last_seq, handed.end);
        }
        (self.written, self.last_seq) = (handed.end, handed.last_seq);
        if let Some(lost) = handed.lost {
            self.evict_to(lost.to);
        }
        handed.index.clear();
        self.writing.spare = handed.index;
        handed.lost
    }

    /// Gives back the memory that only a journal needs that is written to.
    pub fn rest(&mut self) {
        self.writing.rest();
        self.segments.iter_mut().for_each(|segment| segment.index.shrink_to_fit());
        self.segments.shrink_to_fit();
    }

    /// The disk thread could not.
    pub fn failed(&mut self) {
        if let Some(handed) = self.writing.handed.take() {
            self.writing.spare = handed.index;
            self.writing.spare.clear();
        }
    }

    /// Gives up the newest segment: what it holds on disk is in doubt. It is left from where
    /// `rewritten` starts (its frames are still in memory and follow frame `before`), or from its
    /// own start if that is later. Returns the position from which on all is to be written again.
    pub fn abandon(&mut self, rewritten: u64, before: impl FnOnce(u64) -> u64) -> u64 {
        self.abandoned = true;
        let Some(newest) = self.segments.back_mut() else { return self.written };
        let from = rewritten.max(newest.id.start);
        if from < self.written {
            self.written = from;
            self.last_seq = before(from);
            newest.index.retain(|(_, position)| *position < from);
            (newest.end, newest.last_seq) = (from, self.last_seq);
            if from == newest.id.start {
                self.segments.pop_back();
            }
        }
        self.written
    }

    /// Numbers, newest first, each with the size of a stretch of frames up to it that begins
    /// behind the next one: together the newest frames, in steps of about [`INDEX_STEP`].
    pub fn newest_steps(&self) -> impl Iterator<Item = (u64, u64)> {
        let marks = self.segments.iter().rev().flat_map(|segment| {
            let own = (segment.id.first_seq, segment.id.start);
            segment.index.iter().rev().copied().chain(std::iter::once(own))
        });
        let mut last = (self.last_seq, self.written);
        marks.map(move |(seq, position)| {
            let step = (last.0, last.1.saturating_sub(position));
            last = (seq.saturating_sub(1), position);
            step
        })
    }

    /// The lowest number that a frame at [`Journal::seek`] of `seq` or behind can have.
    pub fn least_from(&self, seq: u64) -> u64 {
        let index = self.segments.partition_point(|segment| segment.id.first_seq <= seq);
        match index.checked_sub(1).map(|at| &self.segments[at]) {
            Some(segment) if seq < segment.last_seq => 0,
            _ => self.segments.get(index).map_or(0, |next| next.id.first_seq),
        }
    }

    /// Forgets the oldest segment. Returns its name, and the number up to which large fields that
    /// stand beside it go with it.
    pub fn forget_oldest(&mut self) -> Option<(SegmentId, u64)> {
        let segment = self.segments.pop_front()?;
        let until = self.segments.front().map_or(segment.last_seq, |next| next.id.first_seq - 1);
        self.evict_to(segment.last_seq.min(until));
        Some((segment.id, until))
    }
}

/// One frame of a journal, taken apart.
#[derive(Clone, Copy, Debug)]
pub struct Frame<'a> {
    /// Its number.
    pub seq: u64,
    /// Its event.
    pub name: &'a str,
    /// Its data: JSON, where it has been looked at.
    pub data: &'a str,
    /// All of its bytes.
    pub bytes: &'a [u8],
    /// It has not been looked at, or is what was written. Else its name and its data may be anything.
    pub is_sound: bool,
}

/// The whole frame at the start of `bytes`, if there is one. Its data is not looked at.
pub fn first_frame(bytes: &[u8]) -> Option<Frame<'_>> {
    let end = memchr::memmem::find(bytes, b"\n\n")? + 2;
    let frame = &bytes[..end];
    let (id, name, data) = sse::parse_frame(frame)?;
    let id = EventId::parse(id.as_bytes())?;
    // A page that never reached the disk reads as zeros, and those are text.
    let whole = id.seq <= SEQ_MAX
        && data.starts_with('{')
        && data.ends_with('}')
        && memchr::memchr(0, frame).is_none();
    whole.then_some(Frame { seq: id.seq, name, data, bytes: frame, is_sound: true })
}

/// The same with a look at its data. One that is whole but for that is a frame, too: what was being
/// written when the machine stopped looks otherwise.
fn checked_frame(bytes: &[u8]) -> Option<Frame<'_>> {
    if let Some(frame) = first_frame(bytes) {
        let is_sound = Document::new(frame.data).is_json();
        return Some(Frame { is_sound, ..frame });
    }
    // No text, or in several lines: nothing but its head can be read.
    let (seq, _, length) = past::head(bytes)?;
    let bytes = &bytes[..length];
    let whole = seq <= SEQ_MAX
        && memchr::memmem::find(bytes, b"\ndata: {").is_some()
        && bytes.ends_with(b"}\n\n")
        && memchr::memchr(0, bytes).is_none();
    whole.then_some(Frame { seq, name: "", data: "", bytes, is_sound: false })
}

/// Looks at frames that were read from a disk, and puts in the place of each that is not what was
/// written the word that it is lost: of as many bytes, since positions are counted by them. Tells
/// their numbers. Returns false if there is one of which not even that can be said.
pub fn mend(frames: &mut [u8], session_id: &str, mut lost: impl FnMut(u64)) -> bool {
    let mut rest = frames;
    while !rest.is_empty() {
        let end = memchr::memmem::find(rest, b"\n\n").map_or(rest.len(), |at| at + 2);
        let (frame, others) = rest.split_at_mut(end);
        if !checked_frame(frame).is_some_and(|frame| frame.is_sound) {
            let Some((seq, word)) = word_of_loss(frame, session_id) else { return false };
            frame.copy_from_slice(&word);
            lost(seq);
        }
        rest = others;
    }
    true
}

/// The number of a frame, and an `events-lost` of the same number and the same length. It says less
/// where there is little room. `None`: its number cannot be read, or there is too little.
fn word_of_loss(frame: &[u8], session_id: &str) -> Option<(u64, Vec<u8>)> {
    let id = frame.strip_prefix(b"id: ")?;
    let id = EventId::parse(&id[..memchr::memchr(b'\n', id)?])?;
    let name = NAMES[EventKind::EventsLost as usize];
    let digits = memchr::memmem::find(frame, b"\"timestamp\":").map(|at| &frame[at + 12..]);
    let digits = digits.unwrap_or_default().iter().take_while(|byte| byte.is_ascii_digit());
    let timestamp = digits.take(15).fold(0, |all, digit| 10 * all + u64::from(digit - b'0'));
    for whole in [true, false] {
        let mut word = Vec::with_capacity(frame.len());
        sse::id(&mut word, id);
        sse::event(&mut word, name);
        json::object(&mut word, |object| {
            object.string("_eventType", name);
            object.string("sessionId", session_id);
            object.number("timestamp", timestamp);
            for member in ["from", "to"] {
                match whole {
                    true => object.display(member, id),
                    false => object.null(member),
                }
            }
            object.string("reason", "damaged");
        });
        word.pop();
        // With the brace and the end.
        if let Some(blanks) = frame.len().checked_sub(word.len() + 3) {
            word.resize(word.len() + blanks, b' ');
            word.push(b'}');
            sse::end(&mut word);
            return Some((id.seq, word));
        }
    }
    None
}

/// Walks the frames of a segment as it was found on disk, and returns where the last whole one
/// ends: what follows was being written when the machine stopped. Numbers rise, or it ends.
pub fn recover(bytes: &[u8], mut each: impl FnMut(usize, Frame<'_>)) -> usize {
    let (mut at, mut last) = (0, 0);
    while let Some(frame) = checked_frame(&bytes[at..])
        && frame.seq > last
    {
        last = frame.seq;
        each(at, frame);
        at += frame.bytes.len();
    }
    at
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(seq: u64, text: &str) -> String {
        format!(
            "id: 00000000000a-{seq}\nevent: session-output\ndata: {{\"content\":\"{text}\"}}\n\n"
        )
    }

    #[test]
    fn a_tail_cut_or_zeroed_at_any_byte_leaves_every_frame_that_is_whole() {
        let frames: Vec<String> =
            [(3, "a"), (7, "b\u{e9}"), (8, ""), (20, "{}")].map(|(seq, s)| frame(seq, s)).into();
        let whole = frames.concat().into_bytes();
        let ends: Vec<usize> = frames
            .iter()
            .scan(0, |end, frame| {
                *end += frame.len();
                Some(*end)
            })
            .collect();
        for cut in 0..=whole.len() {
            let want = ends.iter().rev().find(|end| **end <= cut).copied().unwrap_or(0);
            let mut seqs = Vec::new();
            let kept = recover(&whole[..cut], |_, frame| seqs.push(frame.seq));
            assert_eq!(kept, want, "cut at {cut}");
            assert_eq!(seqs.len(), ends.iter().filter(|end| **end <= cut).count());
            let mut zeroed = whole.clone();
            zeroed[cut..].fill(0);
            assert_eq!(recover(&zeroed, |_, _| ()), want, "zeros from {cut}");
            for hole in [1, 7] {
                let mut holed = whole.clone();
                let end = (cut + hole).min(whole.len());
                holed[cut..end].fill(0);
                let kept = recover(&holed, |_, _| ());
                let before = ends.iter().rev().find(|end| **end <= cut).copied().unwrap_or(0);
                let want = if cut == whole.len() { whole.len() } else { before };
                assert_eq!(kept, want, "zeros at {cut}");
            }
        }
        let fallen = [frame(5, "x"), frame(5, "y")].concat();
        assert_eq!(recover(fallen.as_bytes(), |_, _| ()), fallen.len() / 2, "numbers must rise");
    }

    const SESSION: &str = "session-1781000000000-5f3a9c21";

    /// A frame as they come, and which of its bytes belong to its data.
    fn told(seq: u64, text: &str) -> (Vec<u8>, std::ops::Range<usize>) {
        let frame = format!(
            "id: 00000000000a-{seq}\nevent: session-output\ndata: {{\"_eventType\":\"session-output\",\
             \"sessionId\":\"{SESSION}\",\"timestamp\":1781000001074,\"turnId\":\"turn-12\",\
             \"promptId\":\"prompt-71c0c26a3f9b5e11\",\"type\":\"stdout\",\"content\":\"{text}\",\
             \"messageId\":\"msg_01Xk\",\"block\":0,\"offset\":0}}\n\n"
        );
        let data = frame.find("{").unwrap()..frame.len() - 2;
        (frame.into_bytes(), data)
    }

    #[test]
    fn a_byte_that_has_changed_costs_its_own_event_alone_and_that_is_told_in_its_place() {
        let (first, data) = told(3, "b\u{e9}\u{1f600}\\u00e9");
        let frames = [first.clone(), told(1 << 41, "next").0].concat();
        let (mut mended, mut unnoticed) = (0, 0);
        for at in data.clone() {
            for bit in 0..8 {
                let mut damaged = frames.clone();
                damaged[at] ^= 1 << bit;
                let mut seqs = Vec::new();
                let whole = recover(&damaged, |_, frame| seqs.push((frame.seq, frame.is_sound)));
                // What looks as if it had not been written to its end is cut, as after a power loss.
                let ends = [data.start, data.end - 1].contains(&at) || damaged[at] == 0;
                if ends {
                    assert_eq!((whole, seqs.len()), (0, 0), "{at} {bit}");
                } else {
                    let ids: Vec<u64> = seqs.iter().map(|(seq, _)| *seq).collect();
                    assert_eq!((whole, &*ids), (frames.len(), &[3, 1 << 41][..]), "{at} {bit}");
                    assert!(seqs[1].1, "the other one is what it was");
                }
                let json = str::from_utf8(&damaged[data.clone()]).is_ok_and(|text| {
                    !text.contains('\n') && serde_json::from_str::<serde_json::Value>(text).is_ok()
                });
                let mut lost = Vec::new();
                assert!(mend(&mut damaged, SESSION, |seq| lost.push(seq)), "{at} {bit}");
                assert_eq!(damaged.len(), frames.len());
                assert_eq!(damaged[first.len()..], frames[first.len()..]);
                match json {
                    true => assert_eq!(lost, [0; 0], "{at} {bit}"),
                    false => assert_eq!(lost, [3], "{at} {bit}"),
                }
                assert!(ends || json == seqs[0].1, "{at} {bit}");
                let frame = first_frame(&damaged).unwrap();
                let value: serde_json::Value = serde_json::from_str(frame.data).unwrap();
                if json {
                    unnoticed += 1; // Another letter: no rule of JSON is broken.
                    continue;
                }
                mended += 1;
                assert_eq!((frame.seq, frame.name), (3, "events-lost"));
                assert_eq!(
                    (&value["from"], &value["to"]),
                    (&value["to"], &"00000000000a-3".into())
                );
                let told = [&value["_eventType"], &value["sessionId"], &value["reason"]];
                assert_eq!(told, ["events-lost", SESSION, "damaged"]);
            }
        }
        assert!(mended > 500 && unnoticed > 100, "{mended} {unnoticed}");
    }

    #[test]
    fn where_there_is_no_room_for_the_whole_word_the_short_one_stands_and_without_a_number_none() {
        let short = "id: 00000000000a-7\nevent: approval-withdrawn\ndata: {\"_eventType\":\
                     \"approval-withdrawn\",\"sessionId\":\"session-1\",\"timestamp\":17810,\
                     \"approvalId\":\"approval-5f3a9c2171c0c266\",\"x\":!}\n\n";
        let mut frames = short.as_bytes().to_vec();
        assert!(mend(&mut frames, "session-1", |seq| assert_eq!(seq, 7)));
        let frame = first_frame(&frames).unwrap();
        let value: serde_json::Value = serde_json::from_str(frame.data).unwrap();
        let want = serde_json::json!({"_eventType": "events-lost", "sessionId": "session-1",
            "timestamp": 17810, "from": null, "to": null, "reason": "damaged"});
        assert_eq!((frame.name, value), ("events-lost", want));
        for bad in ["id: 00000000000a-7\nevent: x\ndata: {!}\n\n", "\n\n", "id: x\n\n", "no end"] {
            let mut frames = bad.as_bytes().to_vec();
            assert!(!mend(&mut frames, SESSION, |_| panic!("{bad}")), "{bad}");
            assert_eq!(frames, bad.as_bytes());
        }
        assert!(mend(&mut [], SESSION, |_| ()));
    }

    /// Frames of 100 bytes, one number each, from `from` on.
    fn marks(from: u64, count: u64) -> impl Iterator<Item = (u64, u64)> {
        (from..from + count).map(|n| (n + 1, n * 100))
    }

    fn filled(count: u64) -> Journal {
        let mut journal = Journal::default();
        let mut at = 0;
        while at < count {
            let next = (at + 1000).min(count);
            let place = journal.hand((at * 100, next * 100), marks(at, next - at), 0).unwrap();
            assert_eq!(place.is_new, at * 100 % (SEGMENT_SIZE / 100_000 * 100_000 + 100_000) == 0);
            assert_eq!(journal.wrote(), None);
            at = next;
        }
        journal
    }

    #[test]
    fn a_number_leads_to_a_frame_before_it_and_not_far_before() {
        let journal = filled(100_000);
        assert_eq!(
            (journal.base(), journal.written(), journal.last_seq()),
            (0, 10_000_000, 100_000)
        );
        for seq in [0, 1, 2, 163, 164, 165, 41_999, 42_000, 42_001, 99_999, 100_000] {
            let position = journal.seek(seq);
            assert_eq!(position % 100, 0);
            assert!(position <= seq * 100, "{seq} is at {position}");
            assert!(seq * 100 - position <= INDEX_STEP + 100, "{seq} is at {position}");
        }
        let (position, seq) = journal.newest(200_000, 10_000_000).unwrap();
        assert_eq!(position, (seq - 1) * 100);
        assert!((9_800_000..9_800_000 + 2 * INDEX_STEP).contains(&position), "{position}");
        assert_eq!(journal.newest(u64::MAX, 10_000_000), Some((0, 1)));
        let (segment, end) = journal.segment_at(4_200_000 - 1).unwrap();
        assert_eq!((segment.start, end), (0, 4_200_000));
        assert_eq!(journal.segment_at(4_200_000).unwrap().0.first_seq, 42_001);
        assert_eq!(journal.segment_at(10_000_000), None);
        assert_eq!(journal.segments_from(4_300_000).count(), 2);
    }

    #[test]
    fn retention_takes_the_oldest_segment_and_remembers_its_newest_number() {
        let mut journal = filled(100_000);
        let (id, until) = journal.forget_oldest().unwrap();
        assert_eq!((id.start, until), (0, 42_000));
        assert_eq!((journal.base(), journal.evicted()), (4_200_000, 42_000));
        assert_eq!((journal.oldest_seq(), journal.size()), (Some(42_001), 5_800_000));
        journal.forget_oldest();
        journal.forget_oldest();
        assert_eq!((journal.base(), journal.evicted(), journal.size()), (10_000_000, 100_000, 0));
        let place = journal.hand((10_000_000, 10_000_100), [(100_001, 10_000_000)].into_iter(), 5);
        assert!(place.unwrap().is_new && place.unwrap().closes.is_none());
        assert_eq!((journal.wrote(), journal.size()), (None, 105));
    }

    #[test]
    fn a_journal_that_rests_holds_no_room_and_goes_on_where_it_was() {
        let room = |journal: &Journal| {
            let indexes = journal.segments.iter().map(|segment| &segment.index);
            indexes.map(|it| it.capacity() - it.len()).sum::<usize>()
                + journal.writing.spare.capacity()
        };
        let mut journal = filled(10);
        assert!(room(&journal) >= SEGMENT_INDEX_MAX - 10, "all is taken at once");
        journal.rest();
        assert_eq!(room(&journal), 0);
        journal.hand((1000, 1100), marks(10, 1), 0).unwrap();
        assert_eq!(journal.wrote(), None);
        assert_eq!((journal.last_seq(), journal.seek(11), journal.size()), (11, 1100, 1100));
    }

    #[test]
    fn a_failure_changes_nothing_and_what_the_ring_lost_meanwhile_is_a_hole() {
        let mut journal = filled(10);
        journal.hand((1000, 1100), marks(10, 1), 0).unwrap();
        journal.failed();
        assert_eq!((journal.written(), journal.last_seq()), (1000, 10));
        let place = journal.hand((1000, 1200), marks(10, 2), 0).unwrap();
        assert!(!place.is_new, "the same segment, the same place");
        journal.failed();
        // The ring holds frames from position 600 on: those are written again, elsewhere.
        assert_eq!(journal.abandon(600, |from| from / 100), 600);
        assert_eq!((journal.written(), journal.last_seq()), (600, 6));
        let place = journal.hand((600, 1200), marks(6, 6), 0).unwrap();
        let second = SegmentId { start: 600, first_seq: 7 };
        assert_eq!((place.is_new, place.segment, place.closes), (true, second, None));
        assert!(place.rewrites);
        assert_eq!(journal.wrote(), None);
        assert_eq!(journal.segment_at(599).unwrap().1, 600, "the doubtful tail is not read");
        assert_eq!((journal.written(), journal.last_seq(), journal.size()), (1200, 12, 1200));
        let place = journal.hand((1500, 1600), marks(15, 1), 0).unwrap();
        assert!(place.is_new);
        assert_eq!(journal.wrote(), Some(Lost { from: 13, to: 15 }));
        assert_eq!((journal.evicted(), journal.written()), (15, 1600));
        assert_eq!((journal.segment_at(1199).unwrap().1, journal.segment_at(1200)), (1200, None));
        assert_eq!((journal.next_start(1200), journal.next_start(1500)), (Some(1500), None));
        // All of the newest segment is in memory: nothing of it is left.
        assert_eq!(journal.abandon(1400, |_| 15), 1500);
        assert_eq!(journal.segment_at(1500), None);
        let place = journal.hand((1500, 1600), marks(15, 1), 0).unwrap();
        assert!(place.is_new && !place.after_hole && place.closes.is_none());
        assert_eq!((journal.wrote(), journal.segment_at(1500).unwrap().1), (None, 1600));
    }

    #[test]
    fn behind_a_tail_that_was_cut_another_segment_begins() {
        let id = SegmentId { start: 0, first_seq: 1 };
        let (index, large_size) = (vec![(1, 0)], 0);
        let cut = Segment { id, end: 300, last_seq: 3, large_size, index };
        let mut journal = Journal::found(VecDeque::from([cut]), 1000, 10, 10);
        let place = journal.hand((1000, 1100), marks(10, 1), 0).unwrap();
        assert_eq!((place.is_new, place.segment.start, place.closes), (true, 1000, Some(id)));
        assert_eq!((journal.wrote(), journal.segment_at(300)), (None, None));
        assert_eq!(journal.segment_at(1000).unwrap().1, 1100);
    }

    #[test]
    fn the_newest_frames_are_counted_in_steps_from_the_end() {
        let journal = filled(100_000);
        let (mut size, mut count) = (0, 0);
        for (seq, step) in journal.newest_steps() {
            assert_eq!(seq * 100, 10_000_000 - size, "{size} bytes follow number {seq}");
            assert!(step <= INDEX_STEP + 100, "{step}");
            (size, count) = (size + step, count + 1);
        }
        assert!(size == 10_000_000 && count > 500, "{size} in {count} steps");
        assert_eq!(Journal::default().newest_steps().count(), 0);
        assert_eq!([journal.least_from(0), journal.least_from(42_000)], [1, 42_001]);
        assert_eq!(journal.least_from(41_000), 0, "an older segment has it");
        assert_eq!(journal.least_from(100_000), 0, "nothing follows");
    }

    #[test]
    fn a_segments_name_is_read_back_exactly() {
        let id = SegmentId { start: 0x1234, first_seq: 1 << 40 };
        assert_eq!(SegmentId::parse(&id.file_name()), Some(id));
        for bad in ["", "x.log", "1-1.log", "0000000000001234-0000010000000000.log.new"] {
            assert_eq!(SegmentId::parse(bad), None, "{bad}");
        }
    }
}
