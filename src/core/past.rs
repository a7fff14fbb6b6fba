//! Readers that the ring has outrun, or that began before it: they read journals, piece by piece.
//!
//! A piece is asked for when its reader's socket takes bytes, and given back when it does not: a
//! reader owns no bytes while it waits for its client, here as elsewhere. A reader of one session
//! moves through one position space and joins the ring at the same position. A reader of several
//! merges their journals by number, and joins the ring that holds all of them at the number where
//! it stands. Nothing is lost, repeated or reordered at either seam.

use crate::base::arena::{Arena, Key};
use crate::core::connection::{Across, Phase, Place, Reader, Whose};
use crate::core::effect::{DiskRequest, Effect, Level, Read, ReadFailure, Source};
use crate::core::event::{EventKind, NAMES};
use crate::core::journal::Journal;
use crate::core::names::Names;
use crate::core::server::Server;
use crate::core::session::Session;
use crate::core::streams::log_read;
use crate::limits::{PIECE_SIZE, PIECES_MAX};
use crate::wire::document;
use crate::wire::sse::{self, EventId};
use std::collections::VecDeque;

/// The pool of pieces, and who waits for one.
#[derive(Debug, Default)]
pub struct Pieces {
    free: Vec<Vec<u8>>,
    /// How many are in use.
    used: usize,
    queue: VecDeque<Key>,
}

impl Pieces {
    /// Takes a piece back.
    pub fn recycle(&mut self, bytes: Option<Vec<u8>>) {
        if let Some(mut bytes) = bytes {
            self.used -= 1;
            bytes.clear();
            bytes.shrink_to(PIECE_SIZE);
            self.free.push(bytes);
        }
    }
}

/// What a reader of journals knows.
#[derive(Debug, Default)]
pub struct Past {
    /// Frames up to this number were sent before this stream began.
    skip_to: u64,
    /// The number of the last frame that was sent or passed over: a cursor for its client.
    last: u64,
    /// Frames up to this number are counted already.
    counted: u64,
    /// Of several sessions: up to here `sources` lack nothing.
    built: u64,
    /// Of several sessions: how much of the first frame to come was sent,
    beyond: usize,
    /// and that frame's number.
    begun: u64,
    sources: Vec<Source>,
    /// It goes on behind a hole: it asked for what is left, not for what came after a cursor.
    jumps: bool,
    /// It waits for a piece.
    waits: bool,
    /// Of one session: it may stand within a frame, whose rest is to be read first.
    torn: bool,
    piece: Option<Piece>,
}

#[derive(Debug)]
struct Piece {
    bytes: Vec<u8>,
    /// The position of its first byte, where there is one session.
    start: u64,
    /// What is sent of it, or passed over.
    at: usize,
    /// Frames to be sent end here.
    run_end: usize,
    /// The first whole one of them starts here,
    run_start: usize,
    /// and follows this number.
    run_after: u64,
    /// It begins within a frame, whose rest was not looked for yet.
    within: bool,
    /// It begins within a frame.
    begins_torn: bool,
}

/// What a reader of journals can do now.
enum Step {
    /// Look again.
    Again,
    /// Send what there is, and wait for what is under way.
    Stay,
    /// Wait for news.
    Wait,
    /// Pass the end of the replay.
    Seam,
    /// End.
    Close,
}

impl Past {
    /// Reads on behind number `after`.
    pub fn behind(after: u64) -> Box<Past> {
        Box::new(Past { skip_to: after, last: after, ..Past::default() })
    }

    /// Reads what is left.
    pub fn everything() -> Box<Past> {
        Box::new(Past { jumps: true, ..Past::default() })
    }

    /// Reads on behind number `after`, and over holes: it asked for what is left.
    pub fn newest(after: u64) -> Box<Past> {
        Box::new(Past { skip_to: after, last: after, jumps: true, ..Past::default() })
    }

    /// Goes on for a reader that the ring has outrun; its replay is counted already. One of several
    /// sessions goes on where it stands; whether one of a single session stands within a frame, only
    /// the journal can tell.
    pub fn outrun(across: Option<&Across>) -> Box<Past> {
        let torn = across.is_none();
        let mut past = Past { counted: u64::MAX, torn, ..Past::default() };
        if let Some(across) = across {
            (past.last, past.begun) = (across.whole_seq, across.begun);
            past.beyond = across.beyond as usize;
        }
        Box::new(past)
    }

    /// The number of the last frame that its client knows of; 0: that is not known.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// What is to be sent.
    pub fn run(&self) -> &[u8] {
        self.piece.as_ref().map_or(&[], |piece| &piece.bytes[piece.at..piece.run_end])
    }

    /// Says that this many bytes of [`Past::run`] are sent.
    pub fn sent(&mut self, count: usize) {
        if let Some(piece) = &mut self.piece {
            piece.at += count;
            debug_assert!(piece.at <= piece.run_end);
        }
    }

    /// Gives its piece back.
    pub fn take_piece(&mut self) -> Option<Vec<u8>> {
        self.piece.take().map(|piece| piece.bytes)
    }

    /// Whether the last byte sent is not the last one of its frame.
    fn is_within(&self) -> bool {
        let unsent = self.piece.as_ref().is_some_and(|piece| piece.at < piece.run_end);
        unsent || self.torn || self.beyond > 0
    }
}

/// The number, the kind and the length of the frame at the start of `bytes`.
pub fn head(bytes: &[u8]) -> Option<(u64, u8, usize)> {
    let end = memchr::memmem::find(bytes, b"\n\n")? + 2;
    let rest = bytes[..end].strip_prefix(b"id: ")?;
    let (id, rest) = rest.split_at(memchr::memchr(b'\n', rest)?);
    let rest = rest.strip_prefix(b"\nevent: ")?;
    let name = &rest[..memchr::memchr(b'\n', rest)?];
    let kind = NAMES.iter().position(|known| known.as_bytes() == name)?;
    Some((EventId::parse(id)?.seq, kind as u8, end))
}

/// The block that a `session-output` belongs to.
#[derive(Debug, PartialEq, Eq)]
struct Delta<'a> {
    session_id: &'a str,
    message_id: &'a str,
    block: u32,
}

impl Delta<'_> {
    /// Reads what [`crate::core::publisher`] writes. `None`: text of no message, which nothing
    /// supersedes.
    fn of(frame: &[u8]) -> Option<Delta<'_>> {
        #[derive(serde::Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Data<'a> {
            session_id: &'a str,
            turn_id: Option<&'a str>,
            #[serde(rename = "type")]
            kind: &'a str,
            message_id: &'a str,
            block: u32,
        }
        let (_, _, data) = sse::parse_frame(frame)?;
        let data: Data<'_> = document::read(data).ok()?;
        let of_message = data.turn_id.is_some_and(|turn_id| turn_id != data.message_id);
        let Data { session_id, message_id, block, .. } = data;
        let delta = Delta { session_id, message_id, block };
        Some(delta).filter(|_| of_message && data.kind != "stderr")
    }
}

/// Whether a `session-output` brings text of a block that has ended, which a compact view passes over.
/// `is_open`: whether a session has not ended that block of that message.
pub fn is_superseded(frame: &[u8], is_open: impl FnOnce(&str, &str, u32) -> bool) -> bool {
    let delta = Delta::of(frame);
    delta.is_some_and(|delta| !is_open(delta.session_id, delta.message_id, delta.block))
}

/// The same, by the sessions as they are now.
pub(super) fn is_superseded_now(by_id: &Names, sessions: &Arena<Session>, frame: &[u8]) -> bool {
    is_superseded(frame, |session_id, message_id, block| {
        let session = by_id.find(sessions, session_id).and_then(|key| sessions.get(key));
        let turn = session.and_then(|session| session.turn.as_ref());
        turn.is_some_and(|turn| turn.has_open_block(message_id, block))
    })
}

/// How much is left of the frame within which `bytes` begin.
pub fn rest_of_frame(bytes: &[u8]) -> Option<usize> {
    // The last newline alone: the next one ends the next frame.
    if bytes == b"\n" || bytes.starts_with(b"\nid: ") {
        return Some(1);
    }
    memchr::memmem::find(bytes, b"\n\n").map(|end| end + 2)
}

/// What [`find_run`] found.
enum Run {
    /// Frames that are to be sent, or none in this piece.
    Frames,
    /// The replay ends before the next frame.
    Seam,
    /// The frame of which the client has a part is gone: nothing else may follow that part.
    Gone,
}

/// Finds the next frames of a reader's piece that are to be sent. `None`: the piece is no frame.
///
/// `is_superseded`: whether the block whose text this frame brings has ended.
fn find_run(reader: &mut Reader, is_superseded: impl Fn(&[u8]) -> bool) -> Option<Run> {
    let rare = reader.rare.as_deref_mut()?;
    let past = rare.past.as_mut()?;
    let piece = past.piece.as_mut()?;
    let replays = rare.replay_end != u64::MAX;
    let replay_seq = rare.across.as_ref().map_or(u64::MAX, |across| across.replay_seq);
    let mut at = piece.at;
    piece.run_end = at;
    if std::mem::take(&mut piece.within) {
        at += rest_of_frame(&piece.bytes[at..])?;
        (piece.run_start, piece.run_end, piece.run_after) = (at, at, past.last);
        if rare.shutting {
            return Some(Run::Frames);
        }
    }
    while at < piece.bytes.len() {
        let (seq, kind, length) = head(&piece.bytes[at..])?;
        let has_run = piece.run_end > piece.at;
        // The frame that its client has a part of is finished first, whatever lies before it.
        if replays && seq > replay_seq && past.beyond == 0 {
            return Some(if has_run { Run::Frames } else { Run::Seam });
        }
        if reader.whose.session().is_none() && seq > past.built {
            // Other journals may lack what comes before it; from here on the ring has everything.
            if !has_run {
                (piece.at, piece.run_end) = (piece.bytes.len(), piece.bytes.len());
                past.last = past.last.max(past.built);
                past.sources.clear();
            }
            break;
        }
        if past.beyond > 0 && seq > past.begun {
            return Some(Run::Gone);
        }
        let is_begun = past.beyond > 0 && seq == past.begun;
        let is_delta = kind == EventKind::SessionOutput as u8 && !is_begun;
        let superseded =
            is_delta && reader.filter.is_compact() && is_superseded(&piece.bytes[at..at + length]);
        if seq <= past.skip_to || !reader.filter.takes(kind, superseded) {
            if has_run {
                break;
            }
            reader.passed_over |= seq > past.skip_to;
            past.last = past.last.max(seq);
            at += length;
            (piece.at, piece.run_end) = (at, at);
            continue;
        }
        if !has_run {
            (piece.run_start, piece.run_after) = (at, past.last);
            piece.at = at + std::mem::take(&mut past.beyond);
        }
        if replays && seq > past.counted {
            (rare.replay_count, past.counted) = (rare.replay_count + 1, seq);
        }
        past.last = seq;
        at += length;
        piece.run_end = at;
        if rare.shutting {
            break;
        }
    }
    Some(Run::Frames)
}

impl Server {
    /// Moves a reader of journals on. Returns whether it is over, `Some(false)`: to be looked at
    /// again, as it joined the ring or passed a seam.
    pub(super) fn settle_past(&mut self, key: Key) -> PastState {
        let step = self.step_past(key);
        match step {
            Step::Again => PastState::Again,
            Step::Stay => PastState::Stay,
            Step::Close => PastState::Over,
            Step::Seam => {
                self.pass_seam(key);
                PastState::Again
            }
            Step::Wait => {
                let Some(connection) = self.connections.get_mut(key) else {
                    return PastState::Over;
                };
                let Phase::Stream(reader) = &connection.phase else { return PastState::Over };
                if reader.has_own() || connection.place != Place::Nowhere {
                    return PastState::Stay;
                }
                let session = reader.whose.session();
                let closed = session.and_then(|session| self.sessions.at(session));
                // Over only once its last event can be seen.
                let over = |session: &Session| {
                    session.unusual.closed_at.is_some() && session.feed.log.hidden() == 0
                };
                if closed.is_some_and(over) {
                    return PastState::Over;
                }
                connection.place = Place::Waiting;
                let log = match session {
                    None => Some(&mut self.publisher.all),
                    Some(session) => self.sessions.at_mut(session).map(|s| &mut s.feed.log),
                };
                if let Some(log) = log {
                    log.waiting.push_back(&mut self.links, key.index);
                }
                PastState::Stay
            }
        }
    }

    fn step_past(&mut self, key: Key) -> Step {
        let Some(connection) = self.connections.get_mut(key) else { return Step::Close };
        let Phase::Stream(reader) = &mut connection.phase else { return Step::Close };
        let Some(rare) = &mut reader.rare else { return Step::Again };
        let shutting = rare.shutting;
        let Some(past) = &mut rare.past else { return Step::Again };
        if let Some(piece) = &past.piece {
            if piece.at < piece.run_end {
                return Step::Stay;
            }
            // The frame that its client has a part of is finished first.
            if shutting && !piece.within && past.beyond == 0 {
                let bytes = past.take_piece();
                self.pieces.recycle(bytes);
                self.serve_readers();
                return Step::Seam;
            }
            let is_superseded =
                |frame: &[u8]| is_superseded_now(&self.by_id, &self.sessions, frame);
            match find_run(reader, is_superseded) {
                Some(Run::Seam) => return Step::Seam,
                Some(Run::Frames) => {}
                Some(Run::Gone) => {
                    self.counters.readers_cut += 1; // It comes back from its last whole frame.
                    return Step::Close;
                }
                None => {
                    let told = vec![("reader", key.index.to_string())];
                    self.log(Level::Error, "journal", "a journal holds no frame", told);
                    return Step::Close;
                }
            }
            let Some(piece) = reader.past().and_then(|past| past.piece.as_ref()) else {
                return Step::Again;
            };
            if piece.at < piece.run_end {
                return Step::Stay;
            }
            if reader.whose.session().is_some() {
                reader.position = piece.start + piece.bytes.len() as u64;
            }
            let bytes = reader.past_mut().and_then(Past::take_piece);
            self.pieces.recycle(bytes);
            self.serve_readers();
            return Step::Again;
        }
        if past.waits {
            return Step::Stay;
        }
        if shutting && !past.is_within() {
            return Step::Seam;
        }
        match reader.whose.session() {
            Some(session) => self.step_session(key, session),
            None => self.step_merge(key),
        }
    }

    /// A reader of one session, without a piece.
    fn step_session(&mut self, key: Key, session: u32) -> Step {
        let Some(session) = self.sessions.at(session) else { return Step::Close };
        let log = &session.feed.log;
        let Some(connection) = self.connections.get_mut(key) else { return Step::Close };
        let Phase::Stream(reader) = &mut connection.phase else { return Step::Close };
        let replay_end = reader.replay_end();
        let Some(past) = reader.rare.as_mut().and_then(|rare| rare.past.as_mut()) else {
            return Step::Again;
        };
        if reader.position >= log.ring.base() {
            self.join_ring(key);
            return Step::Again;
        }
        let limit = log.visible().min(replay_end);
        if reader.position >= limit {
            return if replay_end == u64::MAX { Step::Wait } else { Step::Seam };
        }
        let Some(journal) = &log.journal else { return Step::Close };
        let Some((segment, end)) = journal.segment_at(reader.position) else {
            let hole = reader.position >= journal.base();
            let next = journal.next_start(reader.position);
            // A hole that comes later is news: the reader comes back and is told.
            let jumps = past.jumps && reader.replay_end() != u64::MAX;
            match next.filter(|next| hole && jumps && *next <= limit) {
                Some(next) => {
                    reader.position = next;
                    return Step::Again;
                }
                None => {
                    self.counters.readers_cut += 1;
                    return Step::Close;
                }
            }
        };
        let source = Source {
            session_id: session.id().to_owned(),
            segments: vec![(segment, end)],
            position: reader.position,
            end: end.min(limit),
            least_seq: 0,
        };
        past.sources.clear();
        past.sources.push(source);
        self.want_piece(key);
        Step::Stay
    }

    /// A reader of several sessions, without a piece.
    fn step_merge(&mut self, key: Key) -> Step {
        let visible_seq = self.publisher.visible();
        let all = &self.publisher.all;
        let Some(connection) = self.connections.get_mut(key) else { return Step::Close };
        let Phase::Stream(reader) = &mut connection.phase else { return Step::Close };
        let Some(rare) = &mut reader.rare else { return Step::Again };
        let replays = rare.replay_end != u64::MAX;
        let Some(past) = &mut rare.past else { return Step::Again };
        if past.last >= all.ring.evicted() {
            reader.position = all.ring.after(past.last);
            let whole_seq = past.last;
            if let Some(across) = &mut rare.across {
                (across.whole_seq, across.beyond) = (whole_seq, 0);
            }
            self.join_ring(key);
            return Step::Again;
        }
        if !past.sources.is_empty() {
            self.want_piece(key);
            return Step::Stay;
        }
        if past.last >= visible_seq && past.beyond == 0 {
            return if replays { Step::Seam } else { Step::Wait };
        }
        // From there on the ring has everything; before, journals do, unless the disk takes nothing.
        let (after, built) = (past.last, visible_seq.min(all.ring.evicted()));
        let jumps = past.jumps && reader.replay_end() != u64::MAX;
        let built = self.written_up_to(self.owners_of(key), built);
        if built <= after || !jumps && after < self.evicted_of(self.owners_of(key)) {
            self.counters.readers_cut += 1; // It comes back, and is told of the hole.
            return Step::Close;
        }
        let sources = self.sources_of(self.owners_of(key), after);
        let Some(connection) = self.connections.get_mut(key) else { return Step::Close };
        let Phase::Stream(reader) = &mut connection.phase else { return Step::Close };
        let Some(past) = reader.past_mut() else { return Step::Again };
        past.built = built;
        if sources.is_empty() {
            past.last = built;
        }
        past.sources = sources;
        Step::Again
    }

    /// The sessions that a reader of several is limited to, if it is.
    fn owners_of(&self, key: Key) -> Option<&[u32]> {
        match self.connections.get(key).map(|connection| &connection.phase) {
            Some(Phase::Stream(reader)) => reader.owners(),
            _ => None,
        }
    }

    /// The number, at most `limit`, up to which the journals of some sessions, or of all, lack
    /// nothing.
    pub(super) fn written_up_to(&self, owners: Option<&[u32]>, limit: u64) -> u64 {
        self.sessions_of(owners)
            .filter_map(|session| {
                let log = &session.feed.log;
                let journal = log.journal.as_ref().filter(|_| !log.is_on_disk())?;
                // What the ring lost before it was written lies right behind what is written.
                let written = journal.written();
                let next = log.ring.marks_from(written).next().filter(|m| m.start == written);
                Some(next.map_or(journal.last_seq(), |mark| mark.seq - 1))
            })
            .fold(limit, u64::min)
    }

    /// The number behind which the newest frames of some sessions, or of all, take about `size`
    /// bytes on disk, and not more.
    pub(super) fn newest_of(&self, owners: Option<&[u32]>, size: u64) -> u64 {
        let mut steps: Vec<(u64, u64)> = Vec::new();
        for session in self.sessions_of(owners) {
            let mut left = size;
            for (seq, step) in session.feed.log.journal.iter().flat_map(Journal::newest_steps) {
                steps.push((seq, step));
                match left.checked_sub(step) {
                    Some(less) => left = less,
                    None => break,
                }
            }
        }
        steps.sort_unstable_by_key(|(seq, _)| std::cmp::Reverse(*seq));
        let mut left = size;
        let too_old = steps.into_iter().find(|(_, step)| match left.checked_sub(*step) {
            Some(less) => {
                left = less;
                false
            }
            None => true,
        });
        too_old.map_or(0, |(seq, _)| seq)
    }

    /// Some sessions, or all.
    fn sessions_of(&self, owners: Option<&[u32]>) -> impl Iterator<Item = &Session> {
        (0..self.sessions.capacity())
            .filter_map(|index| self.sessions.get(self.sessions.key_at(index)?))
            .filter(move |session| owners.is_none_or(|all| all.contains(&session.feed.number)))
    }

    /// What the journals of some sessions, or of all, hold behind number `after`.
    pub(super) fn sources_of(&self, owners: Option<&[u32]>, after: u64) -> Vec<Source> {
        self.sessions_of(owners)
            .filter_map(|session| {
                let log = &session.feed.log;
                let journal = log.journal.as_ref().filter(|journal| journal.last_seq() > after)?;
                let position = journal.seek(after).max(journal.base());
                let segments = journal.segments_from(position);
                let segments = segments.filter_map(|id| journal.segment_at(id.start)).collect();
                Some(Source {
                    session_id: session.id().to_owned(),
                    segments,
                    position,
                    end: log.visible().min(journal.written()),
                    least_seq: journal.least_from(after),
                })
            })
            .collect()
    }

    /// The ring has what a reader needs next.
    fn join_ring(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        let log = log_read(reader.whose, &self.publisher.all, &self.sessions);
        let past = reader.rare.as_mut().and_then(|rare| rare.past.take());
        let (Some(log), Some(past)) = (log, past) else { return };
        let replay_end = reader.replay_end();
        let wanted = |mark: &&crate::base::ring::Mark| super::streams::wants(reader, mark);
        let left = log.ring.marks_from(reader.position);
        let left = left.take_while(|mark| mark.start < replay_end);
        let left = left.filter(|mark| mark.seq > past.counted).filter(wanted).count();
        let begun = log.ring.marks_from(reader.position).find(|mark| mark.seq == past.begun);
        let begun = begun.copied();
        if let Some(rare) = reader.rare.as_mut().filter(|rare| rare.replay_end != u64::MAX) {
            rare.replay_count += left as u32;
        }
        if past.beyond == 0 {
            return;
        }
        let Some(begun) = begun else {
            self.counters.readers_cut += 1;
            return self.close(key);
        };
        reader.position = begun.start + past.beyond as u64;
        if let Some(across) = reader.across_mut() {
            (across.begun, across.beyond) = (begun.seq, past.beyond as u32);
        }
    }

    /// Asks for the next piece, or waits until there is one to be had.
    fn want_piece(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        let Some(past) = reader.past_mut() else { return };
        past.waits = true;
        self.pieces.queue.push_back(key);
        self.serve_readers();
    }

    /// Hands out pieces, as far as there are any.
    fn serve_readers(&mut self) {
        while self.pieces.used < PIECES_MAX
            && let Some(key) = self.pieces.queue.pop_front()
        {
            let Some(connection) = self.connections.get_mut(key) else { continue };
            let Phase::Stream(reader) = &mut connection.phase else { continue };
            let (merges, start) = (reader.whose == Whose::ALL, reader.position);
            let Some(past) = reader.past_mut() else { continue };
            let read = Read {
                connection: Some(key),
                merges,
                sources: std::mem::take(&mut past.sources),
                after: if merges { past.last } else { past.skip_to },
                bytes: self.pieces.free.pop().unwrap_or_default(),
                start,
                within: false,
                damage: None,
            };
            self.pieces.used += 1;
            self.effects.push_back(Effect::Disk(DiskRequest::Read(Box::new(read))));
        }
    }

    /// A piece has come.
    pub(super) fn piece_read(&mut self, read: Read, result: Result<(), ReadFailure>) {
        let Read { connection: key, merges, sources, bytes, start, within, damage, .. } = read;
        self.tell_damage(damage);
        if let Some(key) = key
            && let Some(at) = self.pages.iter().position(|(asked, ..)| *asked == key)
        {
            let (_, mut cursor, built) = self.pages.swap_remove(at);
            if result.is_err() {
                cursor.resume = "gap";
            }
            return self.poll_read(key, &cursor, built, &bytes);
        }
        let reader = key.and_then(|key| self.connections.get_mut(key)).and_then(|connection| {
            match &mut connection.phase {
                Phase::Stream(reader) if reader.past().is_some() => Some(reader),
                _ => None,
            }
        });
        let (Some(key), Some(reader)) = (key, reader) else {
            self.pieces.recycle(Some(bytes));
            return self.serve_readers();
        };
        let Some(past) = reader.rare.as_mut().and_then(|rare| rare.past.as_mut()) else { return };
        past.waits = false;
        past.torn = false; // The piece knows.
        if let Err(failure) = result {
            self.pieces.recycle(Some(bytes));
            self.serve_readers();
            if let ReadFailure::Damaged(error) = failure {
                self.log(Level::Error, "journal", "cannot be read", vec![("error", error)]);
            }
            self.counters.readers_cut += 1;
            return self.close_reader(key);
        }
        if bytes.is_empty() {
            // Nothing was left behind `after`.
            match merges {
                true => past.last = past.last.max(past.built),
                false => reader.position = start,
            }
            self.pieces.recycle(Some(bytes));
            self.serve_readers();
        } else {
            if merges {
                past.sources = sources;
            }
            let (at, run_start, run_end, run_after) = (0, 0, 0, past.last);
            let begins_torn = within;
            past.piece = Some(Piece {
                bytes,
                start,
                at,
                run_end,
                run_start,
                run_after,
                within,
                begins_torn,
            });
        }
        if let Some(connection) = self.connections.get_mut(key)
            && connection.place == Place::Reading
        {
            connection.place = Place::Nowhere;
        }
        self.push_pending(key);
    }

    /// What a journal holds is not what was written: whoever reads it is told so in its place.
    pub(super) fn tell_damage(&mut self, damage: Option<String>) {
        if let Some(error) = damage {
            self.log(Level::Error, "journal", "an event is damaged", vec![("error", error)]);
        }
    }

    /// The client takes nothing now: its piece is given back, and read again from where it stands.
    pub(super) fn give_back_piece(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Stream(reader) = &mut connection.phase else { return };
        let Some(past) = reader.rare.as_mut().and_then(|rare| rare.past.as_mut()) else { return };
        let Some(piece) = past.piece.take() else { return };
        // Of what was to be sent a part is: the frame that it stopped in, and the last one before.
        let (mut start, mut whole) = (piece.run_start, piece.run_after);
        while start < piece.at
            && let Some((seq, _, length)) = head(&piece.bytes[start..])
            && start + length <= piece.at
        {
            (start, whole) = (start + length, seq);
        }
        if piece.at >= piece.run_end {
            (start, whole) = (piece.at, past.last);
        }
        let begun = head(&piece.bytes[start..]).map_or(0, |(seq, _, _)| seq);
        if reader.whose == Whose::ALL {
            // Where it stands is a number, and so many bytes of the frame behind it.
            (past.beyond, past.begun, past.last) = (piece.at - start, begun, whole);
            past.sources.clear();
        } else {
            // What was begun is finished first: then its client has it.
            past.last = if start < piece.at { begun } else { whole };
            reader.position = piece.start + piece.at as u64;
            past.torn = match piece.at {
                0 => piece.begins_torn,
                at => !piece.bytes[..at].ends_with(b"\n\n"),
            };
        }
        self.pieces.recycle(Some(piece.bytes));
        self.serve_readers();
    }
}

/// What became of a reader of journals.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PastState {
    /// It is to be looked at again.
    Again,
    /// It has something to send, or waits.
    Stay,
    /// It is over.
    Over,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_finished_from_each_of_its_bytes() {
        let text = "id: 00000000000a-17\nevent: tool-started\ndata: {}\n\n";
        for rest in ["", "id: 00000000000a-18\nevent: session-output\ndata: {}\n\n"] {
            let bytes = [text, rest].concat().into_bytes();
            for at in 1..text.len() {
                assert_eq!(rest_of_frame(&bytes[at..]), Some(text.len() - at), "from {at}");
            }
        }
    }

    #[test]
    fn a_delta_names_its_block_unless_it_is_of_none() {
        let frame = |kind: &str, message: &str| {
            format!(
                "id: 00000000000a-17\nevent: session-output\ndata: {{\"sessionId\":\"s\",\
                 \"turnId\":\"turn-1\",\"type\":\"{kind}\",\"content\":\"\\n\\\"\",\
                 \"messageId\":\"{message}\",\"block\":3,\"offset\":0}}\n\n"
            )
        };
        let delta = Delta { session_id: "s", message_id: "m", block: 3 };
        assert_eq!(Delta::of(frame("stdout", "m").as_bytes()), Some(delta));
        assert_eq!(Delta::of(frame("stderr", "m").as_bytes()), None, "no block's end ends it");
        assert_eq!(Delta::of(frame("stdout", "turn-1").as_bytes()), None, "it has no messages");
        let superseded = |message: &str, open: &[(&str, u32)]| {
            is_superseded(frame("stdout", message).as_bytes(), |session_id, message_id, block| {
                session_id == "s" && open.contains(&(message_id, block))
            })
        };
        assert!(superseded("m", &[]) && superseded("m", &[("m", 2), ("n", 3)]));
        assert!(!superseded("m", &[("m", 3)]), "its end has not come yet");
        assert!(!superseded("turn-1", &[]), "its text is told nowhere else");
    }

    #[test]
    fn a_frames_head_is_read_without_its_data() {
        let frame = b"id: 00000000000a-17\nevent: tool-started\ndata: {}\n\nid: rest";
        assert_eq!(head(frame), Some((17, 2, frame.len() - 8)));
        for bad in ["id: 00000000000a-17\nevent: tool-started\ndata: {}\n", "x\n\n", "\n\n", ""] {
            assert_eq!(head(bad.as_bytes()), None, "{bad:?}");
        }
    }
}
