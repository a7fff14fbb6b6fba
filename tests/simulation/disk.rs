//! The disk thread of the fake world, the weather on its disk, and how the server dies and starts.
//!
//! The thread works as the real one does, one request after the other and appends first, with the
//! journal's own code; how long each takes is drawn. Between what it has done and what the server
//! was told of it lies time, in which the server may be killed or the power fail.

use crate::client::Cut;
use crate::shell;
use crate::shell::files::{self, Trouble};
use crate::shell::journal::{self, Store};
use crate::world::World;
use sidestream::core::effect::{
    Brought, DirectoryProblem, DiskReply, DiskRequest, Effect, ReadFailure,
};
use sidestream::core::epochs::Durability;
use sidestream::core::journal::SegmentId;
use sidestream::core::server::{Birth, Server};
use sidestream::wire::sse::{self, Epoch, EventId};
use std::collections::{BTreeMap, VecDeque};
use std::path::{Path, PathBuf};

/// Where the data directory is.
const DATA: &str = "/data";

/// The disk thread.
pub struct Thread {
    pub store: Option<Store>,
    urgent: VecDeque<DiskRequest>,
    other: VecDeque<DiskRequest>,
    /// What it has done, and when it says so.
    done: Option<(u64, DiskReply)>,
    /// The directory that it has looked at, and what it found.
    looked: Option<(PathBuf, Brought)>,
    /// The number up to which everything was written.
    pub written_seq: u64,
}

impl Thread {
    pub fn new() -> Thread {
        let (urgent, other) = Default::default();
        Thread { store: None, urgent, other, done: None, looked: None, written_seq: 0 }
    }

    pub fn push(&mut self, request: DiskRequest) {
        match request.is_urgent() {
            true => self.urgent.push_back(request),
            false => self.other.push_back(request),
        }
        let batches = self.urgent.iter().filter(|one| matches!(one, DiskRequest::Append(_)));
        assert!(batches.count() <= 1, "one batch is under way at most");
    }

    /// When it must be looked at.
    pub fn due(&self, now_ms: u64) -> Option<u64> {
        let waits = !self.urgent.is_empty() || !self.other.is_empty();
        self.done.as_ref().map(|(due, _)| *due).or(waits.then_some(now_ms))
    }

    pub fn len(&self) -> usize {
        self.urgent.len() + self.other.len() + usize::from(self.done.is_some())
    }
}

/// How a server ends that was not asked to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Death {
    Killed,
    PowerLost,
}

impl World {
    // The thread.

    /// Does what is due, and tells the server. Returns whether it was killed in the middle.
    pub fn work_disk(&mut self) -> bool {
        loop {
            if let Some((due, _)) = self.disk.done {
                if due > self.now_ms {
                    return false;
                }
                let Some((_, reply)) = self.disk.done.take() else { return false };
                self.inputs += 1;
                self.note_reply(&reply);
                if matches!(reply, DiskReply::Trust { .. }) {
                    self.may_start_in = self.disk.looked.take();
                }
                self.server.disk_replied(reply);
                self.apply();
                self.may_start_in = None; // From now on it may be another one.
                self.server.check();
            }
            let request = self.disk.urgent.pop_front().or_else(|| self.disk.other.pop_front());
            let Some(request) = request else { return false };
            let late = self.random.chance(self.faults.disk_late);
            let due = self.now_ms + if late { self.random.between(20, 4_000) } else { 0 };
            if late {
                self.hit("disk-late");
            }
            let dies = matches!(request, DiskRequest::Append(_) | DiskRequest::Drop { .. })
                && !self.healed
                && self.random.chance(self.faults.death);
            if dies {
                let fuse = self.random.below(6);
                files::disk(|disk| disk.trouble.fuse = Some(fuse));
            }
            let reply = self.serve(request);
            if files::is_dead() {
                self.hit("died-while-writing");
                return true;
            }
            files::disk(|disk| disk.trouble.fuse = None);
            self.disk.done = Some((due, reply));
        }
    }

    fn serve(&mut self, request: DiskRequest) -> DiskReply {
        match request {
            DiskRequest::Directory { errand, path } => {
                let bad = self.random.chance(self.faults.disk_bad);
                let result = if bad {
                    self.hit("directory-refused");
                    Err(match self.random.below(3) {
                        0 => DirectoryProblem::Missing,
                        1 => DirectoryProblem::OutsideRoots,
                        _ => DirectoryProblem::Unreadable("no".to_owned()),
                    })
                } else {
                    Ok(PathBuf::from("/real").join(path.strip_prefix("/").unwrap_or(&path)))
                };
                DiskReply::Directory { errand, result }
            }
            DiskRequest::List { errand, path } => {
                let result = match self.random.chance(self.faults.disk_bad) {
                    true => Err(DirectoryProblem::OutsideRoots),
                    false => Ok((path, vec!["a".to_owned(), "b".to_owned()])),
                };
                DiskReply::Listed { errand, result }
            }
            DiskRequest::LookForTrust { errand, path } => {
                let known =
                    self.directories.get(&path).copied().filter(|_| self.random.chance(700));
                let says = known.unwrap_or_else(|| self.random.index(7).saturating_sub(3));
                self.directories.insert(path.clone(), says);
                let commands = if says == 0 { Vec::new() } else { vec!["hook: true".to_owned()] };
                let brought = Brought { commands, hash: says.to_string(), is_clear: says < 3 };
                self.disk.looked = Some((path, brought.clone()));
                DiskReply::Trust { errand, brought }
            }
            DiskRequest::RememberTrust { path, hash } => {
                self.hit("trust-given");
                let asked = self.model.trust_asked.contains_key(&(path, hash));
                assert!(asked, "{}: nobody was asked for it", self.context());
                DiskReply::Remembered(None)
            }
            DiskRequest::RememberCookie { .. } => DiskReply::Remembered(None),
            DiskRequest::ReadTokens => DiskReply::Tokens(Err("there is no file".to_owned())),
            DiskRequest::Sample { connection, .. } => {
                DiskReply::Sampled(connection, Box::default())
            }
            DiskRequest::Sweep { agent, session_id } => {
                let mut killed = 0;
                let index = self.random.index(3);
                if let Some(process) = self.process(agent) {
                    assert_eq!(process.session_id, session_id);
                    assert!(process.exit.is_some(), "swept while it lives");
                    killed = process.grandchildren.min(1 + index as u32);
                    process.grandchildren -= killed;
                }
                self.model.tally.add("orphans-killed", u64::from(killed));
                DiskReply::Swept { agent, killed }
            }
            other => self.serve_journal(other),
        }
    }

    fn serve_journal(&mut self, request: DiskRequest) -> DiskReply {
        let context = self.context();
        let store = self.disk.store.as_mut();
        let store = store.unwrap_or_else(|| panic!("{context}: in memory, and {request:?}"));
        let reply = shell::serve(store, request);
        match &reply {
            DiskReply::Appended(batch, Ok(())) => self.disk.written_seq = batch.last_seq,
            DiskReply::Erased { result: Err(_), .. } => self.model.tally.hit("erase-failed"),
            _ => {}
        }
        reply
    }

    /// What the server is about to learn.
    fn note_reply(&mut self, reply: &DiskReply) {
        let context = self.context();
        match reply {
            DiskReply::Appended(_, Ok(())) if self.failing => {
                self.failing = false;
                self.hit("journal-recovered");
            }
            DiskReply::Appended(_, Ok(())) => {}
            DiskReply::Appended(_, Err(failure)) => {
                self.hit(if failure.in_doubt { "journal-in-doubt" } else { "journal-failed" });
                self.failing = true;
                self.model.is_shaky = true;
            }
            DiskReply::Read(read, result) => {
                self.hit(if read.merges { "piece-merged" } else { "piece-read" });
                let Some(key) = read.connection.filter(|_| result.is_err()) else { return };
                self.hit(match result {
                    Err(ReadFailure::Gone) => "piece-gone",
                    _ => "piece-unreadable",
                });
                let Some(id) = self.by_key.get(&key.to_bits()) else { return };
                let damaged = matches!(result, Err(ReadFailure::Damaged(_)));
                let connection = self.connections.get_mut(id).expect("it is open");
                connection.spoilt |= damaged;
                assert!(
                    !damaged || self.model.is_shaky,
                    "{context}: nothing is wrong with the disk: {result:?}"
                );
            }
            DiskReply::Page(..) => self.hit("page-read"),
            DiskReply::Large { result, .. } => {
                self.hit(match result {
                    Ok(_) => "large-read",
                    Err(ReadFailure::Gone) => "large-gone",
                    Err(ReadFailure::Damaged(_)) => "large-unreadable",
                });
            }
            _ => {}
        }
    }

    /// What the server asks of the disk, as far as it changes what there is to be read.
    pub fn note_request(&mut self, request: &DiskRequest) {
        match request {
            DiskRequest::Drop { session_id, segment, until, .. } => {
                self.hit("segment-dropped");
                self.drop_segment(session_id, *segment, *until);
            }
            DiskRequest::Erase { session_id, last_seq } => {
                self.hit("journal-erased");
                // Also what nobody has seen yet.
                let dropped = self.model.dropped.entry(session_id.clone()).or_default();
                *dropped = (*last_seq).max(*dropped);
                self.model.all.doubtful = self.model.all.doubtful.max(*last_seq);
                if let Some(session) = self.model.session(session_id) {
                    self.model.erase(session, *last_seq, self.step);
                }
            }
            _ => {}
        }
    }

    /// The events of this segment go.
    /// `most`: what comes behind that stands in the next one, too.
    fn drop_segment(&mut self, session_id: &str, segment: SegmentId, most: u64) {
        let frames = frames_of(&journal_dir(session_id), &[segment.file_name()]);
        if self.loud {
            let seqs: Vec<u64> = frames.iter().map(|(seq, _)| *seq).collect();
            println!("drop {session_id} {segment:?} {seqs:?}");
        }
        let until = frames.last().map_or(0, |(seq, _)| *seq).min(most);
        let dropped = self.model.dropped.entry(session_id.to_owned()).or_default();
        *dropped = until.max(*dropped);
        self.model.all.doubtful = self.model.all.doubtful.max(until);
        let Some(session) = self.model.session(session_id) else { return };
        self.model.forget(session, until, self.step);
    }

    // The weather.

    /// Now and then the disk goes bad, and gets well again.
    pub fn weather(&mut self) {
        if self.now_ms >= self.trouble_until || self.healed {
            if files::disk(|disk| std::mem::take(&mut disk.trouble)) != Trouble::default() {
                self.hit("disk-well");
            }
            self.trouble_until = u64::MAX;
        }
        if self.healed || !self.random.chance(self.faults.trouble) {
            return;
        }
        let random = &mut self.random;
        let (name, trouble) = match random.below(5) {
            0 => {
                let space = Some(random.index(20_000));
                ("disk-full", Trouble { space, ..Trouble::default() })
            }
            1 => ("disk-dead", Trouble { fails: 1000, ..Trouble::default() }),
            2 => {
                let fails = random.between(50, 500);
                ("disk-failing", Trouble { fails, ..Trouble::default() })
            }
            3 => {
                let sync_fails = random.between(100, 1000);
                ("disk-does-not-sync", Trouble { sync_fails, ..Trouble::default() })
            }
            _ => {
                let read_fails = random.between(50, 500);
                ("disk-does-not-read", Trouble { read_fails, ..Trouble::default() })
            }
        };
        self.trouble_until = self.now_ms + random.between(100, 15_000);
        self.model.is_shaky = true;
        files::disk(|disk| disk.trouble = trouble);
        self.hit(name);
    }

    // Death and birth.

    /// The server starts: on what the disk has.
    pub fn start(&mut self) {
        let epoch = Epoch::new(self.random.bits());
        let ending = ending();
        // The disk that was full may be full still, often but for the line that there was a start.
        if !self.healed && self.faults.trouble > 0 && self.random.chance(200) {
            let space = Some(self.random.index(4_000));
            files::disk(|disk| disk.trouble = Trouble { space, ..Trouble::default() });
            self.trouble_until = self.now_ms + self.random.between(100, 15_000);
            self.model.is_shaky = true;
        }
        let opened = journal::open(Path::new(DATA), self.durability, epoch);
        let context = self.context();
        let opened = opened.unwrap_or_else(|refusal| {
            assert!(refusal.may_pass, "{context}: {refusal}");
            self.hit("start-refused-by-the-disk");
            files::disk(|disk| disk.trouble = Trouble::default());
            let again = journal::open(Path::new(DATA), self.durability, epoch);
            again.unwrap_or_else(|refusal| panic!("{context}: {refusal}"))
        });
        let epochs = opened.epochs;
        let first_seq = epochs.present().first_seq;
        let birth =
            Birth { seed: self.random.bits(), epochs, now_ms: self.now_ms, wall_ms: self.wall_ms };
        self.disk = Thread::new();
        self.disk.store = opened.store;
        self.disk.written_seq = first_seq - 1;
        self.failing = false;
        let found = opened.sessions.iter().map(|one| one.snapshot.session_id.clone());
        let found: BTreeMap<String, Frames> =
            found.map(|id| (id.clone(), frames(&journal_dir(&id)))).collect();
        let lost_data =
            self.model.begin(epoch.to_string(), first_seq, (&found, &ending), self.step);
        let mut set_aside = opened.set_aside.iter();
        let known = set_aside.all(|told| self.set_aside.contains(told));
        assert!(known || !self.model.is_covered, "{context}: {:?}", opened.set_aside);
        self.set_aside = opened.set_aside;
        self.model.tally.add("events-lost-at-a-crash", lost_data);
        self.model.tally.add("sessions-restored", found.len() as u64);
        for one in opened.sessions.iter().filter(|one| one.torn) {
            // That is told as soon as it can be written, and the verdict on cursors knows it at once.
            self.model.doubt(&one.snapshot.session_id, first_seq - 1);
        }
        self.server = Server::new(self.limits.clone(), self.config.clone(), birth);
        self.server.restore(opened.sessions);
        if let Some(failing) = opened.failing {
            self.hit("started-on-a-full-disk");
            self.failing = true;
            self.model.is_shaky = true; // What was known of the era before is told apart.
            self.server.begin_failing(failing.sentence, &failing.session_ids);
        }
        self.listening = true;
        self.apply();
        self.server.check();
    }

    /// What is on the disk, for whoever hunts a bug.
    fn tell_disk(&self) {
        println!(
            "{} visible {} written {}, intact {}, settled {}",
            self.context(),
            self.model.visible,
            self.disk.written_seq,
            is_intact(),
            is_settled()
        );
        let sessions = Path::new(DATA).join("sessions");
        for id in files::names(&sessions) {
            for name in files::names(&sessions.join(&id)) {
                let frames = frames_of(&sessions.join(&id), std::slice::from_ref(&name));
                let size = files::peek(&sessions.join(&id).join(&name)).map(|bytes| bytes.len());
                let ends = (frames.first().map(|one| one.0), frames.last().map(|one| one.0));
                println!("    {id} {name} {size:?} {} frames, {ends:?}", frames.len());
            }
        }
    }

    /// The server dies, and is started again.
    pub fn crash(&mut self, death: Death) {
        self.hit(match death {
            Death::Killed => "server-killed",
            Death::PowerLost => "power-lost",
        });
        if self.failing {
            self.hit("killed-while-failing");
        }
        if self.loud {
            self.tell_disk();
        }
        self.end_era(death == Death::PowerLost);
        self.leave_everything();
        let power_lost = death == Death::PowerLost;
        files::restart(power_lost);
        if power_lost && !is_intact() {
            self.model.break_era(); // That all was well again was not on the medium yet.
        }
        if power_lost
            && !self.model.is_covered
            && self.durability == Durability::Sync
            && is_intact()
        {
            self.hit("lost-without-a-trace");
            self.model.untraced = self.model.visible;
        }
        let torn = files::disk(|disk| std::mem::take(&mut disk.torn));
        self.model.tally.add("files-torn-at-a-crash", torn);
        self.start();
    }

    fn end_era(&mut self, power_lost: bool) {
        let how = (is_intact(), self.failing);
        self.model.end_era(self.durability, power_lost, self.disk.written_seq, how);
    }

    /// What the kernel does with what a process had open.
    fn leave_everything(&mut self) {
        for connection in self.connections.values_mut() {
            connection.stale |= connection.accepted;
        }
        // What was lost on disk must not come out of the kernel either.
        if !self.model.is_covered {
            for connection in self.connections.values_mut() {
                connection.kernel.clear();
                connection.cut.iter_mut().for_each(|cut| cut.crashed = true);
            }
        }
        let keys: Vec<u64> = self.by_key.keys().copied().collect();
        for bits in keys {
            let Some(id) = self.by_key.remove(&bits) else { continue };
            let lost = self.random.chance(500);
            let connection = self.connections.get_mut(&id).expect("it is open");
            connection.key = None;
            connection.cut = Some(Cut { crashed: true, ..Cut::default() });
            connection.output_ended = true;
            connection.blocked = false;
            if lost {
                connection.kernel.clear();
            }
        }
        self.ready.clear();
        self.stale.clear();
        self.processes.clear();
        self.disk.store = None;
        // The effects of a dead server are nobody's.
        while self.server.next_effect().is_some() {}
    }

    /// It came to its end as it was told to, and is started again.
    pub fn come_back(&mut self) {
        self.hit("server-restarted");
        // What was handed over before the end is done, and the journals are closed.
        while let Some(request) =
            self.disk.urgent.pop_front().or_else(|| self.disk.other.pop_front())
        {
            self.serve(request);
        }
        while let Some(effect) = self.server.next_effect() {
            if let Effect::Disk(request) = effect {
                self.note_request(&request);
                self.serve(request);
            }
        }
        if let Some(store) = self.disk.store.take() {
            store.close();
        }
        if self.loud {
            self.tell_disk();
        }
        self.healed = false;
        // The machine is started anew in between, or not.
        let power_lost = self.random.chance(300);
        let is_settled = is_settled();
        if power_lost {
            self.hit(if is_settled { "rebooted-when-settled" } else { "rebooted-unsettled" });
        }
        self.end_era(power_lost && !is_settled);
        self.leave_everything();
        files::restart(power_lost);
        self.start();
    }
}

/// Whether the data directory says that everything that was written is on the medium.
fn is_settled() -> bool {
    files::peek(&Path::new(DATA).join("epochs")).is_some_and(|text| text.ends_with(b"settled\n"))
}

/// Whether the data directory says that everything that was shown was written.
fn is_intact() -> bool {
    files::peek(&Path::new(DATA).join("intact")).is_some()
}

/// The whole frames of a journal, with their numbers.
pub type Frames = Vec<(u64, String)>;

fn journal_dir(id: &str) -> PathBuf {
    Path::new(DATA).join("sessions").join(id)
}

/// Reads what a session's segments hold, by rules of its own.
fn frames(dir: &Path) -> Frames {
    let mut names = files::names(dir);
    names.retain(|name| name.ends_with(".log"));
    frames_of(dir, &names)
}

fn frames_of(dir: &Path, names: &[String]) -> Frames {
    let mut frames = Frames::new();
    for (at, name) in names.iter().enumerate() {
        let mut bytes = files::peek(&dir.join(name)).unwrap_or_default();
        let start = |name: &str| u64::from_str_radix(&name[..16], 16).expect("a segment's name");
        if let Some(next) = names.get(at + 1) {
            bytes.truncate((start(next) - start(name)) as usize);
        }
        let mut rest = &bytes[..];
        while let Some(end) = memchr::memmem::find(rest, b"\n\n") {
            let frame = &rest[..end + 2];
            let Some((id, ..)) = sse::parse_frame(frame) else { break };
            let Some(id) = EventId::parse(id.as_bytes()) else { break };
            let Ok(text) = std::str::from_utf8(frame) else { break };
            if text.contains('\0') || frames.last().is_some_and(|(seq, _)| *seq >= id.seq) {
                break;
            }
            frames.push((id.seq, text.to_owned()));
            rest = &rest[end + 2..];
        }
    }
    frames
}

/// Sessions that were being deleted, as far as their journals say, and their newest numbers.
fn ending() -> BTreeMap<String, u64> {
    let sessions = Path::new(DATA).join("sessions");
    let newest_of_ending = |id: String| {
        let frames = frames(&sessions.join(&id));
        let told = frames.iter().rev().find_map(|(_, frame)| {
            let (_, name, data) = sse::parse_frame(frame.as_bytes())?;
            matches!(name, "session-status" | "session-closed" | "session-created").then_some(data)
        });
        let ends = told.is_some_and(|data| {
            let status = ["\"status\":\"stopping\"", "\"status\":\"closed\""];
            status.iter().any(|status| data.contains(status))
        });
        let newest = frames.last().map_or(0, |(seq, _)| *seq);
        ends.then_some((id, newest))
    };
    files::names(&sessions).into_iter().filter_map(newest_of_ending).collect()
}

/// What a world promises its readers.
pub fn draw_durability(random: &mut crate::random::Random) -> Durability {
    match random.below(4) {
        0 => Durability::Memory,
        1 => Durability::Sync,
        _ => Durability::Write,
    }
}
