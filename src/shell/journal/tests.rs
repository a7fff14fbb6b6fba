//! A server of the core on a disk of ours, in this thread, whose medium fails when it is told to.

use super::*;
use crate::base::arena::Key;
use crate::core::access::Access;
use crate::core::connection::{Output, Peer};
use crate::core::effect::{DiskReply, DiskRequest, Effect, Program};
use crate::core::server::{AgentConfig, Birth, Config, Dialect, End, Server};
use crate::limits::Limits;
use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;

thread_local! {
    static SYNC_FAILS: Cell<bool> = const { Cell::new(false) };
    static WRITE_FAILS: Cell<bool> = const { Cell::new(false) };
    static SYNCS: Cell<u32> = const { Cell::new(0) };
    static ERASE_FAILS: Cell<bool> = const { Cell::new(false) };
}

/// A medium that fails as a broken one does.
const FICKLE: Medium = Medium {
    write_at: |file, bytes, offset| match WRITE_FAILS.get() {
        // A disk that is full takes a part.
        true => {
            file.write_all_at(&bytes[..bytes.len() / 2], offset)?;
            Err(ErrorKind::StorageFull.into())
        }
        false => file.write_all_at(bytes, offset),
    },
    sync: |file| match SYNC_FAILS.get() {
        true => Err(io::Error::from_raw_os_error(libc::EIO)),
        false => {
            SYNCS.set(SYNCS.get() + 1);
            file.sync_data()
        }
    },
};

/// A directory of our own, removed at the end.
struct Scratch(PathBuf);

impl Scratch {
    fn new(name: &str) -> Scratch {
        let name = format!("sidestream-journal-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_dir_all(&path); // Of a run that was killed.
        fs::create_dir_all(&path).unwrap();
        Scratch(path)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A server, its disk, a clock, one client who asks, and one who reads a stream.
struct World {
    server: Server,
    store: Store,
    client: Key,
    reader: Option<Key>,
    now_ms: u64,
    wall_ms: u64,
    reply: Vec<u8>,
    stream: Vec<u8>,
    /// How many bytes more its client takes.
    room: usize,
    /// The disk takes its time with what is to be written, and with what is to be read.
    slow_writes: bool,
    slow_reads: bool,
    waiting: Vec<DiskRequest>,
}

impl World {
    fn new(dir: &Path, durability: Durability, epoch: u64) -> World {
        World::with_ring(dir, durability, epoch, 1 << 18)
    }

    fn with_ring(dir: &Path, durability: Durability, epoch: u64, ring_size: usize) -> World {
        let opened = open(dir, durability, Epoch::new(epoch)).unwrap();
        let limits =
            Limits { ring_size, all_ring_size: ring_size, queue_max: 1000, ..Limits::default() };
        let agent = AgentConfig {
            name: "demo".to_owned(),
            dialect: Dialect::Demo,
            program: Ok(Program::Demo),
        };
        let config = Config {
            agents: vec![agent],
            commands: vec![String::new()],
            access: Access { own_uid: 1, ..Access::default() },
            version: "0",
            ..Config::default()
        };
        let epochs = opened.epochs;
        // Each start is later than the ones before.
        let wall_ms = epoch * 1_000_000;
        let birth = Birth { seed: 1, epochs, now_ms: 1_000, wall_ms };
        let mut server = Server::new(limits, config, birth);
        server.restore(opened.sessions);
        let mut store = opened.store.unwrap();
        store.medium = FICKLE;
        let client = server.accepted(Peer::Local { uid: 1 }).unwrap();
        World {
            server,
            store,
            client,
            reader: None,
            now_ms: 1_000,
            wall_ms,
            reply: Vec::new(),
            stream: Vec::new(),
            room: usize::MAX,
            slow_writes: false,
            slow_reads: false,
            waiting: Vec::new(),
        }
    }

    /// Does what the server asks for. No agent ever starts in this world.
    fn turn(&mut self) {
        loop {
            self.server.commit();
            let mut some = false;
            while let Some(effect) = self.server.next_effect() {
                some = true;
                match effect {
                    Effect::Disk(request) => {
                        let waits = match request {
                            DiskRequest::Append(_) => self.slow_writes,
                            DiskRequest::Read(_) | DiskRequest::Page(_) => self.slow_reads,
                            _ => false,
                        };
                        match waits {
                            true => self.waiting.push(request),
                            false => self.serve(request),
                        }
                    }
                    Effect::Sample(key) => {
                        self.server.disk_replied(DiskReply::Sampled(key, Box::default()));
                    }
                    Effect::WhoIs(key) => {
                        self.server.asker_known(key, crate::core::effect::Asker::Outside);
                    }
                    _ => {}
                }
            }
            while let Some(key) = self.server.next_pending() {
                some |= self.send(key);
            }
            if !some {
                return;
            }
        }
    }

    /// The disk does what it is asked for.
    fn serve(&mut self, request: DiskRequest) {
        let reply = match request {
            DiskRequest::Append(batch) => {
                let result = self.store.append(&batch);
                DiskReply::Appended(batch, result)
            }
            DiskRequest::Read(mut read) => {
                let result = self.store.read(&mut read);
                DiskReply::Read(read, result)
            }
            DiskRequest::Page(mut page) => {
                let result = loop {
                    match self.store.page(&mut page) {
                        Ok(true) => {}
                        Ok(false) => break Ok(()),
                        Err(failure) => break Err(failure),
                    }
                };
                DiskReply::Page(page, result)
            }
            DiskRequest::Directory { errand, path } => {
                DiskReply::Directory { errand, result: Ok(path) }
            }
            DiskRequest::Large { connection, part, source, from } => {
                DiskReply::Large { connection, part, result: self.store.fetch(part, &source, from) }
            }
            DiskRequest::Erase { session_id, last_seq } => {
                let result = match ERASE_FAILS.get() {
                    true => Err("it cannot be removed".to_owned()),
                    false => self.store.erase(&session_id, last_seq),
                };
                DiskReply::Erased { session_id, last_seq, result }
            }
            _ => return,
        };
        self.server.disk_replied(reply);
    }

    /// The disk does what it has taken its time with.
    fn catch_up(&mut self) {
        (self.slow_writes, self.slow_reads) = (false, false);
        for request in std::mem::take(&mut self.waiting) {
            self.serve(request);
        }
        self.turn();
    }

    /// Takes what the server has for a connection. Returns whether that was anything.
    fn send(&mut self, key: Key) -> bool {
        let mut some = false;
        loop {
            let parts = match self.server.output(key) {
                Output::Bytes(parts) => parts,
                Output::Close => {
                    self.reader.take_if(|reader| *reader == key);
                    self.server.connection_lost(key);
                    return true;
                }
                Output::Nothing => return some,
            };
            let mut bytes = parts.concat();
            if self.reader == Some(key) {
                bytes.truncate(self.room);
                self.room -= bytes.len();
                self.stream.extend_from_slice(&bytes);
            } else if key == self.client {
                self.reply.extend_from_slice(&bytes);
            }
            self.server.sent(key, bytes.len());
            some = true;
            if self.reader == Some(key) && self.room == 0 {
                self.server.blocked(key);
                return true;
            }
        }
    }

    fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.server.set_time(self.now_ms, self.wall_ms + self.now_ms);
        while !self.server.expire() {}
        self.turn();
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> String {
        let request = request(method, path, body);
        let mut rest = request.as_bytes();
        self.reply.clear();
        while !rest.is_empty() {
            let count = self.server.read_allowance(self.client).min(rest.len());
            assert!(count > 0, "nobody reads this: the connection waited for too long");
            self.server.received(self.client, &rest[..count]);
            rest = &rest[count..];
            self.turn();
        }
        String::from_utf8_lossy(&self.reply).into_owned()
    }

    fn create(&mut self) -> String {
        let reply = self.ask("POST", "/api/sessions", "{\"workingDir\":\"/\"}");
        let (_, rest) = reply.split_once("\"sessionId\":\"").unwrap_or_else(|| panic!("{reply}"));
        rest.split_once('"').unwrap().0.to_owned()
    }

    /// Somebody else's request, whose answer may be long in coming. It is not seen to yet.
    fn tell(&mut self, request: &str) -> Key {
        let key = self.server.accepted(Peer::Local { uid: 1 }).unwrap();
        self.server.received(key, request.as_bytes());
        key
    }

    /// Begins to read a session's events, or those of all.
    fn follow(&mut self, session: &str, query: &str) {
        let path = match session {
            "*" => format!("/api/events?{query}"),
            session => format!("/api/session/{session}/events?{query}"),
        };
        let request = request("GET", &path, "");
        self.reader = Some(self.tell(&request));
        self.turn();
    }

    /// The reader's client takes so many bytes more.
    fn let_in(&mut self, room: usize) {
        self.room = room;
        self.reader.into_iter().for_each(|key| self.server.writable(key));
        self.turn();
    }

    /// The stream so far: each frame's number, if it has one, and its name.
    fn frames(&self) -> Vec<(Option<u64>, String)> {
        let text = String::from_utf8_lossy(&self.stream);
        let (_, frames) = text.split_once("\r\n\r\n").expect("a stream");
        let line = |frame: &str, name: &str| {
            frame.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned))
        };
        let seq = |id: String| crate::wire::sse::EventId::parse(id.as_bytes()).unwrap().seq;
        let frames = frames.split_terminator("\n\n");
        let told = |frame: &str| Some((line(frame, "id: ").map(seq), line(frame, "event: ")?));
        frames.filter_map(told).collect()
    }

    /// Something that makes an event.
    fn rename(&mut self, session: &str, name: &str) -> String {
        let body = format!("{{\"name\":\"{name}\"}}");
        self.ask("PATCH", &format!("/api/session/{session}"), &body)
    }

    fn queue(&mut self, session: &str, size: usize) {
        let body = format!("{{\"command\":\"{}\"}}", "x".repeat(size));
        let reply = self.ask("POST", &format!("/api/session/{session}/prompt"), &body);
        assert!(reply.starts_with("HTTP/1.1 202"), "{}", &reply[..200.min(reply.len())]);
    }

    /// The id and the number of a session's newest event.
    fn newest(&mut self, session: &str) -> (String, u64) {
        let reply = self.ask("GET", &format!("/api/session/{session}/events/status"), "");
        let (_, rest) = reply.split_once("\"latestId\":\"").unwrap_or_else(|| panic!("{reply}"));
        let id = rest.split_once('"').unwrap().0.to_owned();
        let seq = crate::wire::sse::EventId::parse(id.as_bytes()).unwrap().seq;
        (id, seq)
    }

    /// Ends in order.
    fn stop(self) {
        self.store.close();
    }

    fn is_ready(&mut self) -> bool {
        self.ask("GET", "/ready", "").starts_with("HTTP/1.1 200")
    }
}

fn request(method: &str, path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// The numbers that a session's segments hold, read as the next start does.
fn kept(dir: &Path, session: &str) -> Vec<u64> {
    let loaded = load(&dir.join("sessions"), true).unwrap();
    let found = loaded.sessions.iter().find(|found| found.snapshot.session_id == session);
    let journal = &found.expect("the session").journal;
    let mut seqs = Vec::new();
    for id in journal.segments_from(journal.base()) {
        let (_, end) = journal.segment_at(id.start).expect("a segment that is not empty");
        let path = dir.join("sessions").join(session).join(id.file_name());
        let bytes = read_file(&path).unwrap();
        journal::recover(&bytes[..(end - id.start) as usize], |_, frame| seqs.push(frame.seq));
    }
    seqs
}

fn rising(seqs: &[u64], first: u64) -> bool {
    seqs.iter().copied().eq(first..first + seqs.len() as u64)
}

#[test]
fn after_a_failed_sync_what_the_ring_holds_is_written_again_elsewhere() {
    let scratch = Scratch::new("sync");
    let mut world = World::new(&scratch.0, Durability::Sync, 1);
    let session = world.create();
    for n in 0..20 {
        world.rename(&session, &format!("before {n}"));
    }
    let first = kept(&scratch.0, &session)[0];
    SYNC_FAILS.set(true);
    world.rename(&session, "shown all the same");
    assert!(!world.is_ready());
    for n in 0..20 {
        world.rename(&session, &format!("meanwhile {n}"));
    }
    world.pass(5_000);
    assert!(!world.is_ready(), "the second try failed, too");
    // A crash now finds everything that was synced before.
    let then = kept(&scratch.0, &session);
    assert!(then.len() >= 21 && rising(&then, first), "{then:?}");
    SYNC_FAILS.set(false);
    world.pass(5_000);
    assert!(world.is_ready());
    world.rename(&session, "after");
    let all = kept(&scratch.0, &session);
    assert!(rising(&all, first), "no hole, no repeat: {all:?}");
    assert_eq!(all.last(), Some(&world.newest(&session).1), "to the newest");
    let mut again = World::new(&scratch.0, Durability::Sync, 2);
    let told = again.ask("GET", &format!("/api/session/{session}"), "");
    assert!(told.contains("\"name\":\"after\""), "{told}");
}

#[test]
fn a_new_segment_that_a_power_loss_has_emptied_takes_nothing_from_the_one_before() {
    let scratch = Scratch::new("hollow");
    let mut world = World::new(&scratch.0, Durability::Sync, 1);
    let session = world.create();
    // The ring of another start begins behind what the first one wrote.
    let mut world = World::new(&scratch.0, Durability::Sync, 2);
    for n in 0..20 {
        world.rename(&session, &format!("before {n}"));
    }
    let before = kept(&scratch.0, &session);
    SYNC_FAILS.set(true);
    world.rename(&session, "shown all the same");
    SYNC_FAILS.set(false);
    world.pass(5_000);
    assert!(world.is_ready());
    drop(world);
    let dir = scratch.0.join("sessions").join(&session);
    let names = segment_names(&dir);
    let newest = fs::OpenOptions::new().write(true).open(dir.join(&names[1])).unwrap();
    newest.set_len(0).unwrap();
    let loaded = load(&scratch.0.join("sessions"), false).unwrap();
    assert_eq!(segment_names(&dir), names[..1]);
    let whole = fs::metadata(dir.join(&names[0])).unwrap().len();
    assert_eq!(loaded.sessions[0].journal.segment_at(0).unwrap().1, whole);
    assert!(kept(&scratch.0, &session).starts_with(&before));
}

#[test]
fn a_segment_that_cannot_be_synced_at_its_end_is_given_up_as_far_as_memory_reaches() {
    let scratch = Scratch::new("roll");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    let first = kept(&scratch.0, &session)[0];
    let dir = scratch.0.join("sessions").join(&session);
    while fs::metadata(dir.join(segment_names(&dir)[0].clone())).unwrap().len()
        < journal::SEGMENT_SIZE
    {
        world.queue(&session, 30_000);
    }
    assert_eq!(segment_names(&dir).len(), 1);
    SYNC_FAILS.set(true);
    world.queue(&session, 30_000); // The next segment begins, and this one is to be synced.
    assert!(!world.is_ready());
    SYNC_FAILS.set(false);
    let synced = SYNCS.get();
    world.pass(5_000);
    assert!(world.is_ready());
    let names = segment_names(&dir);
    let second = SegmentId::parse(&names[1]).unwrap();
    assert!(names.len() == 2 && second.start < journal::SEGMENT_SIZE, "{names:?}");
    assert!(fs::metadata(dir.join(&names[1])).unwrap().len() > 1 << 17, "all that the ring held");
    assert_eq!(SYNCS.get(), synced, "a second try would only seem to succeed");
    world.queue(&session, 1_000);
    let all = kept(&scratch.0, &session);
    assert!(rising(&all, first), "no hole, no repeat: {all:?}");
    assert_eq!(all.last(), Some(&world.newest(&session).1));
}

#[test]
fn half_a_write_is_no_write_and_is_made_good() {
    let scratch = Scratch::new("half");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    let first = kept(&scratch.0, &session)[0];
    WRITE_FAILS.set(true);
    world.rename(&session, "half");
    assert!(!world.is_ready() && !scratch.0.join("intact").exists());
    // What is in no file is served from memory.
    let newest = world.newest(&session).0;
    let path = format!("/api/session/{session}/events/{newest}");
    assert!(world.ask("GET", &path, "").contains("journal_failed"), "the newest event");
    world.queue(&session, 200_000);
    let queued = world.ask("GET", &format!("/api/session/{session}/history"), "");
    let (_, href) = queued.split_once("\"href\":\"").expect("a large field");
    let href = href.split_once('"').unwrap().0.to_owned();
    assert!(world.ask("GET", &href, "").ends_with(&"x".repeat(1000)));
    WRITE_FAILS.set(false);
    world.pass(5_000);
    assert!(world.is_ready() && scratch.0.join("intact").exists());
    let all = kept(&scratch.0, &session);
    assert!(rising(&all, first), "no hole, no repeat: {all:?}");
    assert!(world.ask("GET", &href, "").ends_with(&"x".repeat(1000)), "from disk now");
}

#[test]
fn who_speaks_while_a_batch_fails_is_heard_before_the_disk_is_well() {
    let scratch = Scratch::new("silence");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let other = world.create();
    // Whose batch it is may be told of the failure, or be gone with it.
    for (method, body) in [("PATCH", "{\"name\":\"on its way\"}"), ("DELETE", "")] {
        let one = world.create();
        world.slow_writes = true;
        world.tell(&request(method, &format!("/api/session/{one}"), body));
        world.turn();
        // Before that is answered, another session has something to say.
        let name = format!("while {method}");
        let body = format!("{{\"name\":\"{name}\"}}");
        world.tell(&request("PATCH", &format!("/api/session/{other}"), &body));
        WRITE_FAILS.set(true);
        world.catch_up();
        assert!(!world.is_ready());
        let told = world.ask("GET", &format!("/api/session/{other}/history"), "");
        world.rename(&other, "still heard");
        let still = world.ask("GET", &format!("/api/session/{other}/history"), "");
        WRITE_FAILS.set(false);
        assert!(told.contains(&format!("\"name\":\"{name}\"")), "{told}");
        assert!(still.contains("\"name\":\"still heard\""), "{still}");
        world.pass(5_000);
        assert!(world.is_ready());
    }
}

#[test]
fn the_end_of_a_session_is_seen_although_it_could_not_be_written() {
    let scratch = Scratch::new("end");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.follow(&session, "replay=all");
    WRITE_FAILS.set(true);
    world.ask("DELETE", &format!("/api/session/{session}"), "");
    let (is_ready, frames) = (world.is_ready(), world.frames());
    WRITE_FAILS.set(false);
    assert!(!is_ready);
    assert_eq!(frames.last().map(|(_, name)| &**name), Some("session-closed"), "{frames:?}");
    assert_eq!(world.reader, None, "nothing comes after it");
}

#[test]
fn the_end_of_a_replay_from_disk_is_no_cursor_for_what_came_meanwhile() {
    let scratch = Scratch::new("seam");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.rename(&session, "before");
    drop(world);
    let mut world = World::new(&scratch.0, Durability::Write, 2);
    world.slow_reads = true;
    world.follow(&session, "replay=all&types=-session-status");
    world.queue(&session, 10);
    let newest = world.newest(&session).1;
    world.catch_up();
    let frames = world.frames();
    let names: Vec<&str> = frames.iter().map(|(_, name)| &**name).collect();
    let expected = ["connected", "session-created", "replay-complete", "prompt-queued"];
    assert_eq!(names, expected);
    let (seam, queued) = (frames[2].0.expect("a cursor of this start"), frames[3].0.unwrap());
    assert!(seam < queued && queued < newest, "{seam} {queued} {newest}");
}

#[test]
fn who_reads_a_closed_session_from_disk_reads_it_to_its_end() {
    let scratch = Scratch::new("closed");
    let mut world = World::with_ring(&scratch.0, Durability::Write, 1, 1 << 16);
    let session = world.create();
    let rename = |number: usize| {
        let body = format!("{{\"name\":\"{number} {}\"}}", "x".repeat(190));
        request("PATCH", &format!("/api/session/{session}"), &body)
    };
    world.slow_writes = true;
    // A batch that is under way, and so much behind it that what is visible leaves the ring.
    for numbers in [0..40, 40..130] {
        for number in numbers {
            world.tell(&rename(number));
        }
        world.turn();
    }
    world.follow(&session, "replay=all");
    let names = |world: &World| world.frames().into_iter().map(|(_, name)| name).collect();
    let seen: Vec<String> = names(&world);
    assert_eq!(seen, ["connected", "session-created", "replay-complete"]);
    world.tell(&request("DELETE", &format!("/api/session/{session}"), ""));
    world.turn();
    assert!(world.reader.is_some(), "what it has not seen is on its way to the disk");
    world.catch_up();
    let seen: Vec<String> = names(&world);
    assert!(!seen.contains(&"events-lost".to_owned()), "{seen:?}");
    let renamed = seen.iter().filter(|name| *name == "session-status").count();
    assert_eq!((renamed, seen.last().map(|name| &**name)), (131, Some("session-closed")));
    assert!(world.stream.len() > (1 << 16) + 4096, "more than the ring holds");
    assert_eq!(world.reader, None);
}

#[test]
fn half_a_frame_before_a_hole_holds_up_no_reader_however_long_ago_that_was() {
    let scratch = Scratch::new("before-a-hole");
    let mut world = World::with_ring(&scratch.0, Durability::Write, 1, 1 << 16);
    let session = world.create();
    let dir = scratch.0.join("sessions").join(&session);
    let name = "x".repeat(190);
    for hole in 0..3 {
        WRITE_FAILS.set(true);
        for _ in 0..150 {
            world.rename(&session, &name); // More than the ring holds.
        }
        WRITE_FAILS.set(false);
        if hole == 0 {
            // A disk that takes half a frame may not take it back either.
            let path = dir.join(&segment_names(&dir)[0]);
            let file = fs::OpenOptions::new().append(true).open(path);
            file.unwrap().write_all(b"id: 000000000001-").unwrap();
        }
        world.pass(5_000);
        assert!(world.is_ready());
        world.rename(&session, "written");
    }
    assert!(segment_names(&dir).len() >= 4, "{:?}", segment_names(&dir));
    let newest = world.newest(&session).1;
    drop(world);
    let mut world = World::with_ring(&scratch.0, Durability::Write, 2, 1 << 16);
    world.follow(&session, "replay=all");
    let frames = world.frames();
    let seqs: Vec<u64> = frames[1..].iter().filter_map(|(seq, _)| *seq).collect();
    assert!(seqs.is_sorted() && seqs.contains(&newest), "{frames:?}");
    assert_eq!(frames.last().map(|(_, name)| &**name), Some("replay-complete"));
}

#[test]
fn what_is_put_away_stays_away_over_a_restart_and_so_does_what_was_taken_out_again() {
    let scratch = Scratch::new("archive");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    for (epoch, route, archived) in [(2, "archive", true), (3, "unarchive", false)] {
        world.ask("POST", &format!("/api/session/{session}/{route}"), "{}");
        world = World::new(&scratch.0, Durability::Write, epoch);
        let told = world.ask("GET", &format!("/api/session/{session}"), "");
        assert!(told.contains(&format!("\"archived\":{archived},")), "{told}");
    }
}

#[test]
fn a_restart_is_no_activity() {
    let scratch = Scratch::new("quiet");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.pass(50_000);
    world.queue(&session, 10); // Nobody will know whether it has begun: the next start ends it.
    let active = |world: &mut World| {
        let told = world.ask("GET", &format!("/api/session/{session}"), "");
        let (_, rest) = told.split_once("\"lastActivityAt\":").unwrap_or_else(|| panic!("{told}"));
        rest.split(',').next().unwrap().to_owned()
    };
    let before = active(&mut world);
    drop(world);
    reboot(&scratch.0);
    let mut world = World::new(&scratch.0, Durability::Write, 2);
    world.turn();
    let history = world.ask("GET", &format!("/api/session/{session}/history"), "");
    assert!(history.contains("prompt-failed"), "{history}");
    assert_eq!(active(&mut world), before);
}

#[test]
fn what_only_memory_holds_after_a_failed_sync_is_written_once_more_at_the_next_start() {
    use std::os::unix::fs::MetadataExt;
    let scratch = Scratch::new("doubt");
    let mut world = World::new(&scratch.0, Durability::Sync, 1);
    let session = world.create();
    world.rename(&session, "synced");
    SYNC_FAILS.set(true);
    world.rename(&session, "in doubt");
    SYNC_FAILS.set(false);
    drop(world);
    let dir = scratch.0.join("sessions").join(&session);
    let inode = || fs::metadata(dir.join(&segment_names(&dir)[0])).unwrap().ino();
    let (before, seqs) = (inode(), kept(&scratch.0, &session));
    World::new(&scratch.0, Durability::Sync, 2);
    assert_ne!(inode(), before, "the same bytes in another file");
    assert!(kept(&scratch.0, &session).starts_with(&seqs));
}

#[test]
fn what_could_not_be_removed_is_removed_when_that_is_possible() {
    let scratch = Scratch::new("leftovers");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    let dir = scratch.0.join("sessions").join(&session);
    ERASE_FAILS.set(true);
    world.ask("DELETE", &format!("/api/session/{session}"), "");
    world.pass(61_000);
    world.pass(5_000);
    assert!(dir.exists(), "it was tried, more than once");
    ERASE_FAILS.set(false);
    world.pass(5_000);
    assert!(!dir.exists());
}

#[test]
fn what_could_not_be_removed_counts_as_a_session() {
    let scratch = Scratch::new("counted");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let most = Limits::default().sessions_max;
    ERASE_FAILS.set(true);
    let mut deleted = Vec::new();
    loop {
        world.pass(1_000);
        let reply = world.ask("POST", "/api/sessions", "{\"workingDir\":\"/\"}");
        let Some((_, rest)) = reply.split_once("\"sessionId\":\"") else {
            assert!(reply.starts_with("HTTP/1.1 429"), "{reply}");
            assert!(reply.contains("to be removed"), "{reply}");
            break;
        };
        deleted.push(rest.split_once('"').unwrap().0.to_owned());
        let path = format!("/api/session/{}", deleted.last().unwrap());
        world.ask("DELETE", &path, "");
        assert!(deleted.len() <= 2 * most as usize, "there is no end to it");
    }
    assert!(deleted.len() >= most as usize, "{}", deleted.len());
    ERASE_FAILS.set(false);
    for _ in 0..deleted.len() + 70 {
        world.pass(1_000);
        assert!(world.is_ready());
    }
    let left = deleted.iter().filter(|id| scratch.0.join("sessions").join(id).exists()).count();
    assert_eq!(left, 0, "every one of them is removed in the end");
    world.create();
}

#[test]
fn what_stands_behind_the_last_line_among_the_starts_is_written_over() {
    // The disk was full in the middle of it, or took it and could not sync it.
    for tail in ["erased 10995116277", "erased 1099511627776\n"] {
        let scratch = Scratch::new("epochs");
        let mut world = World::new(&scratch.0, Durability::Write, 1);
        let session = world.create();
        let file = fs::OpenOptions::new().append(true).open(scratch.0.join("epochs"));
        file.unwrap().write_all(tail.as_bytes()).unwrap();
        world.store.erase(&session, 7).unwrap();
        drop(world);
        let again = open(&scratch.0, Durability::Write, Epoch::new(2)).unwrap();
        assert_eq!(again.epochs.erased, 7, "{tail:?}");
    }
}

#[test]
fn a_page_is_read_segment_by_segment() {
    let scratch = Scratch::new("page");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    let dir = scratch.0.join("sessions").join(&session);
    while segment_names(&dir).len() < 3 {
        world.queue(&session, 40_000);
    }
    let loaded = load(&scratch.0.join("sessions"), true).unwrap();
    let journal = &loaded.sessions[0].journal;
    let segments = journal.segments_from(0).filter_map(|id| journal.segment_at(id.start));
    let mut page = Page {
        connection: world.client,
        awaited: None,
        source: Source {
            session_id: session.clone(),
            segments: segments.collect(),
            position: 0,
            end: journal.written(),
            least_seq: 0,
        },
        before: u64::MAX,
        limit: 1000,
        size_max: usize::MAX,
        filter: crate::core::event::Filter::parse("session-created,session-status").unwrap(),
        open: Vec::new(),
        bytes: Vec::new(),
        more: false,
        found: 0,
        damage: None,
    };
    let mut steps = 0;
    while world.store.page(&mut page).unwrap() {
        steps += 1;
        assert!(steps < 9);
    }
    assert_eq!(steps, 3, "whoever writes waits for one of them at most");
    let mut names = Vec::new();
    let whole = journal::recover(&page.bytes, |_, frame| names.push(frame.name.to_owned()));
    assert_eq!((whole, names.len()), (page.bytes.len(), page.found));
    assert_eq!(names[0], "session-created", "{names:?}");
}

#[test]
fn what_a_power_loss_has_left_of_a_large_field_is_told_as_gone() {
    let scratch = Scratch::new("half-a-field");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.queue(&session, 200_000);
    let queued = world.ask("GET", &format!("/api/session/{session}/history"), "");
    let (_, href) = queued.split_once("\"href\":\"").expect("a large field");
    let href = href.split_once('"').unwrap().0.to_owned();
    assert!(world.ask("GET", &href, "").starts_with("HTTP/1.1 200"));
    let dir = scratch.0.join("sessions").join(&session);
    let files = fs::read_dir(&dir).unwrap().map(|file| file.unwrap().path());
    let large = files.into_iter().find(|path| path.to_string_lossy().ends_with(".large.txt"));
    let file = fs::OpenOptions::new().write(true).open(large.expect("its file")).unwrap();
    file.set_len(100_000).unwrap();
    let told = world.ask("GET", &href, "");
    assert!(told.starts_with("HTTP/1.1 404"), "half of it is none of it: {}", &told[..300]);
}

#[test]
fn a_disk_that_does_not_answer_is_told_as_not_ready() {
    let scratch = Scratch::new("silent");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.pass(20_000);
    assert!(world.is_ready(), "it was asked for nothing");
    world.slow_writes = true;
    let patch = request("PATCH", &format!("/api/session/{session}"), "{\"name\":\"late\"}");
    world.tell(&patch);
    world.turn();
    world.pass(9_000);
    assert!(world.is_ready());
    world.pass(1_000);
    let told = world.ask("GET", "/ready", "");
    assert!(told.starts_with("HTTP/1.1 503") && told.contains("for 10 s"), "{told}");
    world.catch_up();
    assert!(world.is_ready());
}

#[test]
fn no_more_pages_are_read_at_one_time_than_there_is_memory_for() {
    let scratch = Scratch::new("pages");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.stop();
    let mut world = World::new(&scratch.0, Durability::Write, 2);
    let history = format!("/api/session/{session}/history");
    world.slow_reads = true;
    for _ in 0..Limits::default().pages_read_max {
        world.tell(&request("GET", &history, ""));
    }
    world.turn();
    let refused = world.ask("GET", &history, "");
    assert!(refused.starts_with("HTTP/1.1 503"), "{refused}");
    assert!(refused.contains("\r\nRetry-After: 1\r\n"), "{refused}");
    assert!(refused.contains("\"code\":\"pages_read_max\""), "{refused}");
    world.catch_up();
    assert!(world.ask("GET", &history, "").starts_with("HTTP/1.1 200"));
    let metrics = world.ask("GET", "/metrics", "");
    let counted = "sidestream_limit_hits_total{limit=\"pages-read-max\"} 1";
    assert!(metrics.contains(counted), "{metrics}");
}

#[test]
fn history_is_whole_over_every_seam_whatever_a_page_takes() {
    // What the ring has lost is on disk; what the disk does not take at the moment is in the ring.
    for failing in [false, true] {
        let scratch = Scratch::new("history");
        let mut world = World::with_ring(&scratch.0, Durability::Write, 1, 1 << 13);
        let session = world.create();
        for number in 0..40 {
            world.rename(&session, &format!("name {number}"));
        }
        WRITE_FAILS.set(failing);
        for number in 0..4 {
            world.rename(&session, &format!("late {number}"));
        }
        let newest = world.newest(&session).1;
        for limit in 1..=newest as usize + 1 {
            let (mut walked, mut before) = (Vec::new(), String::new());
            loop {
                let path = format!("/api/session/{session}/history?limit={limit}{before}");
                let reply = world.ask("GET", &path, "");
                let (_, json) = reply.split_once("\r\n\r\n").expect("a body");
                let page: serde_json::Value = serde_json::from_str(json).expect(json);
                let ids = page["events"].as_array().unwrap().iter().map(|one| &one["id"]);
                let seq = |id: &serde_json::Value| {
                    crate::wire::sse::EventId::parse(id.as_str().unwrap().as_bytes()).unwrap().seq
                };
                let seqs: Vec<u64> = ids.map(seq).collect();
                let rest = newest as usize - walked.len();
                assert_eq!(seqs.len(), limit.min(rest), "limit {limit}: {page}");
                walked.splice(0..0, seqs);
                let more = walked[0] > 1;
                assert_eq!(page["more"], more, "limit {limit}, from {}", walked[0]);
                match page["before"].as_str() {
                    Some(id) if more => before = format!("&before={id}"),
                    end => break assert!(end.is_none() && !more),
                }
            }
            assert!(rising(&walked, 1), "limit {limit}, failing {failing}: {walked:?}");
        }
        WRITE_FAILS.set(false);
    }
}

/// The names of a session's segments, oldest first.
fn segment_names(dir: &Path) -> Vec<String> {
    let files = Files::list(dir).unwrap();
    let names: BTreeSet<String> = files.segments.iter().map(|id| id.file_name()).collect();
    names.into_iter().collect()
}

#[test]
fn what_the_disk_does_not_give_now_is_not_gone() {
    let scratch = Scratch::new("unread");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.queue(&session, 200_000);
    let dir = scratch.0.join("sessions").join(&session);
    let names = || fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path());
    let beside = |path: &PathBuf| beside_seq(path.file_name().unwrap().to_str().unwrap());
    let file = names().find(|path| beside(path).is_some()).expect("a large field's file");
    let (newest, _) = world.newest(&session);
    let (epoch, _) = newest.split_once('-').unwrap();
    let path = format!("/api/session/{session}/events/{epoch}-{}", beside(&file).unwrap());
    assert!(world.ask("GET", &path, "").contains("xxxx"));

    // A directory in its place can be opened, and not read.
    let aside = scratch.0.join("aside");
    fs::rename(&file, &aside).unwrap();
    fs::create_dir(&file).unwrap();
    let reply = world.ask("GET", &path, "");
    assert!(reply.starts_with("HTTP/1.1 503") && reply.contains("journal_failed"), "{reply}");
    fs::remove_dir(&file).unwrap();
    fs::rename(&aside, &file).unwrap();
    assert!(world.ask("GET", &path, "").contains("xxxx"));
}

#[test]
fn what_is_written_in_pieces_stands_there_whole() {
    let scratch = Scratch::new("pieces");
    let path = scratch.0.join("file");
    for size in [0, 1, WRITE_SIZE - 1, WRITE_SIZE, WRITE_SIZE + 1, 3 * WRITE_SIZE + 7] {
        let bytes: Vec<u8> = (0..size).map(|at| (at % 251) as u8).collect();
        let file = open_anew(&path).unwrap();
        file.write_all_at(b"before ", 0).unwrap();
        write_at(&file, &bytes, 7).unwrap();
        let found = fs::read(&path).unwrap();
        assert!(found[..7] == *b"before " && found[7..] == bytes, "{size}");
    }
}

/// Lets the next start live in another boot of the machine.
fn reboot(dir: &Path) {
    let path = dir.join("epochs");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace(&boot_id(), "another-boot")).unwrap();
}

#[test]
fn after_a_reboot_a_cursor_holds_and_a_queue_goes_on_only_if_the_end_was_in_order() {
    for in_order in [true, false] {
        let scratch = Scratch::new("reboot");
        let mut world = World::new(&scratch.0, Durability::Write, 1);
        let session = world.create();
        world.queue(&session, 10);
        let (cursor, _) = world.newest(&session);
        match in_order {
            true => world.stop(),
            false => drop(world),
        }
        reboot(&scratch.0);

        let mut world = World::new(&scratch.0, Durability::Write, 2);
        world.turn();
        let queue = world.ask("GET", &format!("/api/session/{session}/queue"), "");
        let waits = queue.contains("\"promptId\":\"prompt-");
        assert_eq!(waits, in_order, "{queue}");
        let poll = format!("/api/session/{session}/events/poll?after={cursor}&wait=0");
        let told = world.ask("GET", &poll, "");
        assert_eq!(told.contains("\"resume\":\"ok\""), in_order, "{told}");
        let dir = scratch.0.join("sessions").join(&session);
        let all = fs::read_to_string(dir.join(&segment_names(&dir)[0])).unwrap();
        let failed = all.contains("prompt-failed") && all.contains("\"code\":\"events_lost\"");
        assert_eq!(failed, !in_order, "it may have run, and is told to be over: {all}");
    }
}

#[test]
fn an_end_is_not_in_order_while_the_disk_takes_nothing() {
    let settled = |dir: &Path| fs::read_to_string(dir.join("epochs")).unwrap().contains("settled");
    for heals in [false, true] {
        let scratch = Scratch::new("unsettled");
        let mut world = World::new(&scratch.0, Durability::Write, 1);
        let session = world.create();
        WRITE_FAILS.set(true);
        world.rename(&session, "not written");
        WRITE_FAILS.set(false);
        if heals {
            world.pass(5_000);
            assert!(world.is_ready());
        }
        world.stop();
        assert_eq!(settled(&scratch.0), heals);
    }
    let scratch = Scratch::new("unsynced");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    world.create();
    SYNC_FAILS.set(true);
    world.stop();
    SYNC_FAILS.set(false);
    assert!(!settled(&scratch.0));
}

#[test]
fn who_is_sent_away_in_the_middle_of_the_past_is_told_no_further_than_it_has_come() {
    let scratch = Scratch::new("sent-away");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.rename(&session, "passed over");
    world.queue(&session, 500);
    world.queue(&session, 500);
    world.stop();
    // What has come when so many bytes had room: the wanted ones, and the newest number that was told.
    let come = |room| {
        let mut world = World::new(&scratch.0, Durability::Write, 2);
        world.room = 1; // The past is at hand before the answer's head has gone.
        world.follow(&session, "replay=all&types=prompt-queued");
        world.let_in(room);
        let left = world.room;
        world.server.stop();
        world.let_in(usize::MAX);
        let frames = world.frames();
        assert_eq!(frames.last().expect("its end").1, "server-shutdown", "{room} bytes");
        let queued = frames.iter().filter(|(_, name)| name == "prompt-queued");
        let queued: Vec<u64> = queued.filter_map(|(seq, _)| *seq).collect();
        (left, queued, frames.iter().filter_map(|(seq, _)| *seq).max())
    };
    let (left, all, _) = come(100_000);
    assert_eq!(all.len(), 2);
    for room in (1..100_000 - left).step_by(5) {
        let (_, queued, told) = come(room);
        let missed = all.iter().find(|seq| Some(**seq) <= told && !queued.contains(seq));
        assert_eq!(missed, None, "after {room} bytes it was told {told:?}");
    }
}

#[test]
fn who_is_sent_away_within_a_frame_that_the_ring_has_forgotten_gets_it_whole() {
    let scratch = Scratch::new("torn");
    let mut world = World::with_ring(&scratch.0, Durability::Write, 1, 1 << 16);
    let session = world.create();
    world.stop();
    let come = |whose: &str, room| {
        let mut world = World::with_ring(&scratch.0, Durability::Write, 2, 1 << 16);
        world.room = room;
        world.follow(whose, "replay=none");
        for count in 0..300 {
            world.rename(&session, &format!("number {count}")); // More than the ring holds.
        }
        let is_torn = !world.stream.ends_with(b"\n\n");
        world.server.stop();
        world.let_in(usize::MAX);
        let text = String::from_utf8_lossy(&world.stream).into_owned();
        let (_, frames) = text.split_once("\r\n\r\n").expect("a stream");
        let frames: Vec<&str> = frames.split_terminator("\n\n").collect();
        for frame in &frames {
            let data = frame.lines().filter_map(|line| line.strip_prefix("data: "));
            let data: Vec<&str> = data.collect();
            let is_whole = data.len() == 1 && serde_json::from_str::<Data>(data[0]).is_ok();
            assert!(is_whole, "{whose}, after {room} bytes: {frame}");
        }
        assert!(frames.last().expect("its end").contains("server-shutdown"), "after {room} bytes");
        is_torn
    };
    for whose in ["*", &session] {
        let torn = (600..3_000).step_by(97).filter(|room| come(whose, *room)).count();
        assert!(torn > 10, "{torn} of them within a frame");
    }
}

/// Any JSON object.
type Data = serde_json::Map<String, serde_json::Value>;

#[test]
fn an_end_waits_until_what_was_lost_is_told() {
    let scratch = Scratch::new("untold");
    let mut world = World::with_ring(&scratch.0, Durability::Write, 1, 1 << 16);
    let session = world.create();
    WRITE_FAILS.set(true);
    world.rename(&session, "not written");
    WRITE_FAILS.set(false);
    world.slow_writes = true;
    world.pass(5_000); // Another try is under way, and its answer late.
    for count in 0..300 {
        world.rename(&session, &format!("number {count}")); // More than the ring holds.
    }
    world.server.stop();
    world.turn();
    world.server.connection_lost(world.client);
    let events_lost = |world: &mut World| {
        let requests = std::mem::take(&mut world.waiting);
        assert_eq!(requests.len(), 1, "one batch at a time");
        requests.into_iter().for_each(|request| world.serve(request));
        world.turn();
        let names = segment_names(&scratch.0.join("sessions").join(&session));
        let read = |name| fs::read_to_string(scratch.0.join("sessions").join(&session).join(name));
        names.iter().any(|name| read(name).unwrap().contains("event: events-lost"))
    };
    // The disk has taken what was handed over, then what comes behind the hole, then its word.
    for (tells, end) in [(false, None), (false, None), (true, Some(End::Clean))] {
        assert_eq!(events_lost(&mut world), tells);
        assert_eq!(world.server.finished(), end);
        assert_eq!(scratch.0.join("intact").exists(), tells);
    }
}

#[test]
fn all_is_not_well_before_what_was_deleted_meanwhile_is_removed() {
    let scratch = Scratch::new("comes-back");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let (deleted, other) = (world.create(), world.create());
    WRITE_FAILS.set(true);
    ERASE_FAILS.set(true);
    world.rename(&other, "not written");
    world.ask("DELETE", &format!("/api/session/{deleted}"), "");
    world.pass(31_000);
    assert!(!world.is_ready());
    world.pass(31_000); // It is forgotten, and nobody will ever write how it ended.
    WRITE_FAILS.set(false);
    world.pass(5_000);
    let is_there = || scratch.0.join("sessions").join(&deleted).exists();
    world.rename(&other, "written");
    assert!(world.is_ready() && is_there());
    assert!(!scratch.0.join("intact").exists(), "a start would bring it back");
    ERASE_FAILS.set(false);
    world.pass(5_000);
    assert!(!is_there() && scratch.0.join("intact").exists());
}

#[test]
fn a_frame_is_read_on_from_each_of_its_bytes() {
    let scratch = Scratch::new("bytes");
    let mut world = World::new(&scratch.0, Durability::Write, 1);
    let session = world.create();
    world.rename(&session, "the last frame");
    let loaded = load(&scratch.0.join("sessions"), true).unwrap();
    let journal = &loaded.sessions[0].journal;
    let (segment, end) = journal.segment_at(0).unwrap();
    let whole = read_file(&world.store.path(&session, segment)).unwrap();
    let segments = vec![(segment, end)];
    for position in 0..end {
        let source = Source {
            session_id: session.clone(),
            segments: segments.clone(),
            position,
            end,
            least_seq: 0,
        };
        let (bytes, within) = world.store.piece(&source).unwrap();
        let at = position as usize;
        assert_eq!(bytes, whole[at..], "from {position}");
        let is_start = at == 0 || whole[..at].ends_with(b"\n\n");
        assert_eq!(within, !is_start, "from {position}");
    }
}

#[test]
fn answers_before_a_stream_that_the_disk_does_not_give_still_go() {
    let scratch = Scratch::new("before");
    let session = World::new(&scratch.0, Durability::Write, 1).create();
    let mut world = World::new(&scratch.0, Durability::Write, 2);
    world.turn();
    let stream = format!("/api/session/{session}/events");
    let both = request("GET", "/health", "") + &request("GET", &stream, "");
    world.server.received(world.client, both.as_bytes());
    world.server.commit();
    assert!(matches!(world.server.output(world.client), Output::Bytes(_)), "not taken yet");
    let mut unread = 0;
    while let Some(effect) = world.server.next_effect() {
        if let Effect::Disk(DiskRequest::Read(read)) = effect {
            let failure = ReadFailure::Damaged("it is not what it was".into());
            world.server.disk_replied(DiskReply::Read(read, Err(failure)));
            unread += 1;
        }
    }
    assert_eq!(unread, 1);
    world.turn();
    let told = String::from_utf8_lossy(&world.reply);
    assert_eq!(told.matches("HTTP/1.1 200").count(), 2, "{told}");
}
