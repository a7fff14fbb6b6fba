//! The fake world around the server: kernel, clock, processes, clients, and the turn of the loop,
//! as the reactor does it. Readiness is told once, as an edge; what the server then fails to come
//! back to stays undone and is found at the end. The disk, and how the server dies on it, is
//! `disk.rs`'s.

use crate::agent::{Process, Quirks, Speaker};
use crate::client::{self, Connection, Cut, Follower};
use crate::disk::{self, Death, Thread};
use crate::model::Model;
use crate::random::Random;
use crate::requests::{self, Asker};
use crate::shell::files;
use memchr::memmem;
use sidestream::base::arena::Key;
use sidestream::core::access::Access;
use sidestream::core::access::tokens::{self, Scope, Tokens};
use sidestream::core::connection::{Output, Peer};
use sidestream::core::demo::Demo;
use sidestream::core::effect::{
    Asker as Whose, Brought, DiskReply, DiskRequest, Effect, Pipe, Program, Spawn,
};
use sidestream::core::epochs::{Durability, Epochs, Start};
use sidestream::core::server::{AgentConfig, Birth, Config, Dialect, Server};
use sidestream::limits::{KIB, Limits};
use sidestream::wire::sse::{self, Epoch};
use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;

/// What the reactor reads from one agent in one turn.
const AGENT_BYTES: usize = 256 * KIB;

/// How badly this world behaves: each in so many of a thousand cases.
pub struct Faults {
    pub reset: u64,
    pub half_close: u64,
    pub stall: u64,
    pub drip: u64,
    pub small_write: u64,
    pub pipeline: u64,
    pub spawn: u64,
    pub quirk: u64,
    pub disk_late: u64,
    pub disk_bad: u64,
    /// The disk goes bad for a while.
    pub trouble: u64,
    /// The server dies while it writes, and at any other time.
    pub death: u64,
    pub crash: u64,
    pub power: u64,
    /// A connection that an agent opened.
    pub agents: u64,
    pub leap: u64,
    pub clients: u64,
}

/// The world of one seed.
pub struct World {
    pub random: Random,
    pub server: Server,
    pub model: Model,
    pub faults: Faults,
    pub limits: Limits,
    pub now_ms: u64,
    pub wall_ms: u64,
    pub step: u64,
    seed: u64,
    pub connections: BTreeMap<u64, Connection>,
    pub by_key: BTreeMap<u64, u64>,
    next_connection: u64,
    pub ready: VecDeque<Key>,
    pub listening: bool,
    refusing_until: u64,
    /// Out of descriptors until then: who connects is hung up on.
    starving_until: u64,
    pub processes: BTreeMap<u64, Process>,
    pub disk: Thread,
    pub durability: Durability,
    pub config: Config,
    /// What directories say, as numbers.
    pub directories: BTreeMap<PathBuf, usize>,
    /// The directory that was looked at just now, and what it says.
    pub may_start_in: Option<(PathBuf, Brought)>,
    /// The disk took nothing when it was last asked to.
    pub failing: bool,
    /// Sessions that could not be loaded, as the last start told it.
    pub set_aside: Vec<String>,
    /// When it gets well.
    pub trouble_until: u64,
    /// The newest number that was shown while it took nothing.
    shown_unwritten: u64,
    pub followers: Vec<Follower>,
    pub asker: Asker,
    pub stale: Vec<Key>,
    /// Faults are over: everything is to come to its end.
    pub healed: bool,
    /// A second signal came: nothing is owed any more.
    pub cut: bool,
    /// Everything that left the server, as one number.
    pub hash: u64,
    /// The server asked for this turn.
    pub woken: bool,
    /// Inputs told to the server in this turn, deadlines not among them.
    pub inputs: u64,
    /// It tells what happens.
    pub loud: bool,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let limits = draw_limits(&mut random);
        let faults = draw_faults(&mut random);
        let (now_ms, wall_ms) = (random.below(1 << 30), 1_700_000_000_000 + random.below(1 << 40));
        let durability = disk::draw_durability(&mut random);
        files::format(random.bits());
        let with_tokens = random.chance(400);
        let agent =
            |name: &str, dialect, program| AgentConfig { name: name.to_owned(), dialect, program };
        let config = Config {
            agents: vec![
                agent("demo", Dialect::Demo, Ok(Program::Demo)),
                agent("other", Dialect::Claude, Ok(Program::Path("/bin/other".into()))),
                agent("lines", Dialect::Lines, Ok(Program::Path("/bin/sh".into()))),
                agent("broken", Dialect::Claude, Err("it is not installed".to_owned())),
            ],
            commands: vec![String::new(), String::new(), "cat".to_owned(), String::new()],
            access: Access {
                own_uid: 1000,
                tokens: if with_tokens { tokens() } else { Tokens::default() },
                ..Access::default()
            },
            allow_bypass: random.chance(300),
            raw_events: random.chance(100),
            version: "0",
            ..Config::default()
        };
        // Takes the place of a server until there is one.
        let (epoch, boot_id) = (Epoch::new(1), "-".to_owned());
        let start = Start::new(epoch, 1, durability, boot_id);
        let birth = Birth { seed: 0, epochs: Epochs::first(start), now_ms, wall_ms };
        let mut world = World {
            server: Server::new(limits.clone(), config.clone(), birth),
            model: Model::new(limits.ring_size, limits.all_ring_size),
            faults,
            limits,
            now_ms,
            wall_ms,
            step: 0,
            seed,
            connections: BTreeMap::new(),
            by_key: BTreeMap::new(),
            next_connection: 0,
            ready: VecDeque::new(),
            listening: true,
            refusing_until: 0,
            starving_until: 0,
            processes: BTreeMap::new(),
            disk: Thread::new(),
            durability,
            config,
            directories: BTreeMap::new(),
            may_start_in: None,
            failing: false,
            set_aside: Vec::new(),
            trouble_until: u64::MAX,
            shown_unwritten: 0,
            followers: Vec::new(),
            asker: Asker { number: 0, id_number: 0, with_tokens },
            stale: Vec::new(),
            healed: false,
            cut: false,
            hash: 0xcbf2_9ce4_8422_2325,
            woken: false,
            inputs: 0,
            loud: false,
            random,
        };
        world.model.has_journals = durability != Durability::Memory;
        world.start();
        world
    }

    pub fn context(&self) -> String {
        format!("seed={} step={}", self.seed, self.step)
    }

    pub fn hit(&mut self, name: &'static str) {
        if self.loud {
            println!("{} now={} {name}", self.context(), self.now_ms);
        }
        self.model.tally.hit(name);
    }

    fn mix(&mut self, bytes: &[u8]) {
        let mut take = |word: u64| {
            self.hash = (self.hash ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29);
        };
        let (words, rest) = bytes.as_chunks::<8>();
        words.iter().for_each(|word| take(u64::from_le_bytes(*word)));
        rest.iter().for_each(|byte| take(u64::from(*byte)));
        take(bytes.len() as u64);
    }

    /// Takes a connection in: it waits to be accepted.
    pub fn dial(&mut self, mut connection: Connection) -> u64 {
        self.next_connection += 1;
        let id = self.next_connection;
        connection.id = id;
        if self.loud
            && let Some(ask) = connection.ask()
        {
            let follower = &self.followers[ask.follower];
            let (session, owners) = (follower.session, &follower.owners);
            let how = (follower.types, follower.compact);
            println!("{} {id} asks for {session:?} {owners:?} {how:?} {ask:?}", self.context());
        }
        self.connections.insert(id, connection);
        id
    }

    pub fn next_id(&self) -> u64 {
        self.next_connection + 1
    }

    // The turn.

    /// One turn of the loop, behind what clients and processes did meanwhile.
    pub fn turn(&mut self) {
        self.step += 1;
        self.inputs = 0;
        self.model.context = self.context();
        self.pass_time();
        let due = self.server.next_due().is_some_and(|due| due <= self.now_ms);
        self.woken = due || self.server.has_work();
        self.server.set_time(self.now_ms, self.wall_ms);
        self.move_clients();
        while !self.server.expire() {
            self.apply();
        }
        self.apply();
        self.poke();
        if self.work_disk() {
            let death = if self.random.chance(500) { Death::Killed } else { Death::PowerLost };
            return self.crash(death);
        }
        if self.random.chance(500) {
            self.work_agents();
            self.accept();
            self.read_clients();
        } else {
            self.accept();
            self.read_clients();
            self.work_agents();
        }
        self.server.check();
        self.server.commit();
        self.apply();
        self.look();
        self.feed_agents();
        self.flush();
        self.server.check();
        self.read_replies();
    }

    fn pass_time(&mut self) {
        let next = self.next_due();
        let ahead = next.map_or(50, |at| at.saturating_sub(self.now_ms));
        let by = if self.healed {
            ahead.clamp(1, 1000)
        } else {
            let leap = self.faults.leap;
            match self.random.below(1000) {
                0..600 => self.random.between(0, 12),
                600..850 => self.random.between(10, 120),
                850..960 => ahead.min(5_000),
                960..980 => self.random.between(500, 5_000),
                _ if self.random.chance(leap) => self.random.between(5_000, 40_000),
                _ => 1,
            }
        };
        if by > 5_000 {
            self.model.tally.hit("time-leapt");
        }
        self.now_ms += by;
        let step = self.random.below(300);
        if step < 2 {
            self.model.tally.hit(if step == 0 { "clock-set-back" } else { "clock-set-forward" });
        }
        self.wall_ms = match step {
            0 => self.wall_ms.saturating_sub(self.random.below(3_600_000)),
            1 => self.wall_ms + self.random.below(3_600_000),
            _ => self.wall_ms + by,
        };
    }

    /// When something is next due anywhere.
    pub fn next_due(&self) -> Option<u64> {
        let processes = self.processes.values().map(Process::wakes_at);
        // Whoever was not read from in the last turn waits for something else.
        let has_news = self.inputs > 0 && self.processes.values().any(Process::has_news);
        let busy = self.server.has_work() || has_news || !self.ready.is_empty();
        let disk = self.disk.due(self.now_ms);
        let dues = [self.server.next_due(), disk, busy.then_some(self.now_ms)];
        dues.into_iter().flatten().chain(processes).min().filter(|due| *due != u64::MAX)
    }

    /// What the commit has shown.
    fn look(&mut self) {
        let position = self.model.position();
        let (bytes, end) = self.server.visible_frames(position).unwrap_or_else(|| {
            panic!("{}: one turn outran the log of all sessions", self.context())
        });
        if self.loud && !bytes.is_empty() {
            self.tell_frames(&bytes);
        }
        self.mix(&bytes);
        self.model.commit(&bytes, end, self.step);
        if self.failing {
            self.shown_unwritten = self.model.visible;
        }
        let least = self.disk.written_seq.max(self.shown_unwritten);
        let durable = !self.model.has_journals || self.model.visible <= least;
        assert!(durable, "{}: visible before it was written: {least}", self.context());
    }

    /// What has become visible, for whoever hunts a bug.
    fn tell_frames(&self, bytes: &[u8]) {
        for frame in String::from_utf8_lossy(bytes).split_inclusive("\n\n") {
            let Some((id, name, data)) = sse::parse_frame(frame.as_bytes()) else { continue };
            let length = data.floor_char_boundary(200);
            println!("{} shows {id} {name} {}", self.context(), &data[..length]);
        }
    }

    /// Now and then the server is killed, or the power fails.
    pub fn fate(&mut self) {
        if self.random.chance(self.faults.crash) && self.random.chance(100) {
            self.crash(Death::Killed);
        } else if self.random.chance(self.faults.power) && self.random.chance(100) {
            self.crash(Death::PowerLost);
        }
    }

    /// Does what the server asks for, until it asks for nothing more.
    pub fn apply(&mut self) {
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::Spawn(spawn) => self.spawn(&spawn),
                Effect::CloseStdin(key) => {
                    if let Some(process) = self.process(key) {
                        process.stdin_closed = true;
                    }
                }
                Effect::Signal(key, signal) => {
                    let now_ms = self.now_ms;
                    if let Some(process) = self.processes.get_mut(&key.to_bits()) {
                        process.signal(signal, now_ms, &mut self.model.tally);
                    }
                }
                Effect::ReleaseAgent(key) => {
                    let process = self.processes.remove(&key.to_bits());
                    let context = self.context();
                    let process = process.unwrap_or_else(|| panic!("{context}: released twice"));
                    assert!(process.exit.is_some(), "{context}: released while it lives");
                    assert_eq!(process.grandchildren, 0, "{context}: released with orphans");
                    self.stale.push(key);
                }
                Effect::Disk(request) => {
                    self.note_request(&request);
                    self.disk.push(request);
                }
                Effect::Close(key) => self.closed(key, false),
                Effect::EndOutput(key) => {
                    if let Some(id) = self.by_key.get(&key.to_bits()).copied() {
                        let connection = self.connections.get_mut(&id).expect("it is open");
                        assert!(!connection.output_ended);
                        connection.output_ended = true;
                        self.look_again(key);
                    }
                }
                Effect::CloseListeners => {
                    assert!(self.listening, "{}: closed twice", self.context());
                    self.listening = false;
                }
                Effect::Read(key) => self.look_again(key),
                Effect::WhoIs(key) => {
                    let whose = self.whose(key);
                    self.server.asker_known(key, whose);
                }
                Effect::Sample(connection) => {
                    let sample = DiskRequest::Sample { connection, agents: Vec::new() };
                    self.disk.push(sample);
                }
                Effect::Hook { .. } | Effect::Log(_) => {}
            }
        }
    }

    /// Whose process is at the other end of a connection.
    fn whose(&mut self, key: Key) -> Whose {
        let Some(id) = self.by_key.get(&key.to_bits()) else { return Whose::Gone };
        match self.connections[id].whose {
            client::Whose::Human => Whose::Outside,
            client::Whose::Agent => {
                let agents: Vec<Key> = self.processes.values().map(|one| one.key).collect();
                let some = !agents.is_empty() && self.random.chance(700);
                Whose::Agent(some.then(|| agents[self.random.index(agents.len())]))
            }
            client::Whose::Nobody => Whose::Gone,
        }
    }

    pub fn process(&mut self, key: Key) -> Option<&mut Process> {
        self.processes.get_mut(&key.to_bits())
    }

    // Sockets.

    /// The server's end of a connection is closed.
    fn closed(&mut self, key: Key, in_flush: bool) {
        let Some(id) = self.by_key.remove(&key.to_bits()) else {
            return; // Closed by a flush, which knows why.
        };
        self.stale.push(key);
        if self.loud {
            let one = &self.connections[&id];
            let how = (one.blocked, one.progress_at, one.kernel.len(), one.script.len());
            println!("{} now={} {how:?}", self.context(), self.now_ms);
            println!(
                "{} hung up on {id}, in flush: {in_flush} {:?}, draining {}",
                self.context(),
                key,
                self.server.is_draining()
            );
        }
        let connection = self.connections.get_mut(&id).expect("it is open");
        let due = connection.progress_at + self.limits.write_stall_ms;
        let session = connection.ask().map(|ask| ask.follower);
        let session = session.and_then(|at| self.followers[at].session);
        let evicted = self.model.gone_at_most(session);
        let stalled = connection.blocked && self.now_ms >= due;
        connection.key = None;
        connection.cut = Some(Cut { stalled, in_flush, evicted, crashed: false });
        connection.output_ended = true;
    }

    fn accept(&mut self) {
        if self.now_ms < self.refusing_until && !self.healed {
            return;
        }
        if !self.healed && self.random.chance(10) {
            self.refusing_until = self.now_ms + self.random.between(10, 2_000);
            self.hit("accept-refused");
        }
        if !self.healed && self.random.chance(5) {
            self.starving_until = self.now_ms + self.random.between(10, 2_000);
            self.hit("out-of-descriptors");
        }
        let starving = self.now_ms < self.starving_until && !self.healed;
        let waiting: Vec<u64> = self
            .connections
            .values()
            .filter(|connection| !connection.accepted && connection.cut.is_none())
            .map(|connection| connection.id)
            .collect();
        for id in waiting {
            if !self.listening || starving {
                let connection = self.connections.get_mut(&id).expect("it waits");
                (connection.cut, connection.output_ended) = (Some(Cut::default()), true);
                continue;
            }
            let peer = Peer::Local { uid: 1000 };
            self.inputs += 1;
            let key = self.server.accepted(peer);
            let connection = self.connections.get_mut(&id).expect("it waits");
            match key {
                Some(key) => {
                    (connection.accepted, connection.key) = (true, Some(key));
                    connection.readable = true;
                    self.by_key.insert(key.to_bits(), id);
                    self.queue(key);
                }
                None => {
                    (connection.cut, connection.output_ended) = (Some(Cut::default()), true);
                    self.hit("slots-full");
                }
            }
            self.apply();
        }
    }

    fn queue(&mut self, key: Key) {
        let Some(id) = self.by_key.get(&key.to_bits()) else { return };
        let connection = self.connections.get_mut(id).expect("it is open");
        if !std::mem::replace(&mut connection.queued, true) {
            self.ready.push_back(key);
        }
    }

    fn look_again(&mut self, key: Key) {
        let Some(id) = self.by_key.get(&key.to_bits()) else { return };
        if self.connections[id].readable && self.server.read_allowance(key) > 0 {
            self.queue(key);
        }
    }

    fn read_clients(&mut self) {
        for _ in 0..self.ready.len() {
            if let Some(key) = self.ready.pop_front() {
                self.read(key);
            }
        }
    }

    fn read(&mut self, key: Key) {
        let mut left = 64 * KIB;
        if let Some(id) = self.by_key.get(&key.to_bits()) {
            self.connections.get_mut(id).expect("it is open").queued = false;
        }
        while left > 0 {
            let allowed = self.server.read_allowance(key).min(left);
            let Some(id) = self.by_key.get(&key.to_bits()) else { return };
            let connection = self.connections.get_mut(id).expect("it is open");
            if allowed == 0 {
                return;
            }
            let one = self.random.chance(self.faults.small_write / 4);
            let count = connection.inbox.len().min(if one { 1 } else { allowed });
            if count == 0 {
                connection.readable = false;
                if connection.input_ended && !connection.input_end_told {
                    connection.input_end_told = true;
                    self.inputs += 1;
                    self.server.peer_ended(key);
                    self.apply();
                }
                return;
            }
            if count == 1 && !connection.inbox.is_empty() {
                self.model.tally.hit("read-of-one-byte");
            }
            let bytes: Vec<u8> = connection.inbox.drain(..count).collect();
            connection.read += count;
            let has_agents = self.server.counters.agents_started > 0;
            connection.had_agents.get_or_insert(has_agents);
            left -= count;
            self.inputs += 1;
            self.server.received(key, &bytes);
            self.apply();
            self.server.check();
        }
        self.queue(key);
    }

    fn flush(&mut self) {
        for _ in 0..2048 {
            let Some(key) = self.server.next_pending() else { return };
            self.write(key);
            self.apply();
            self.server.check();
            self.look_again(key);
        }
    }

    fn write(&mut self, key: Key) {
        let mut left = self.random.between(1, 256 * KIB as u64) as usize;
        loop {
            let Some(id) = self.by_key.get(&key.to_bits()).copied() else {
                panic!("{}: output for a connection that is closed", self.context());
            };
            let small = self.random.chance(self.faults.small_write);
            let most = if self.random.chance(300) { 1 } else { 50 };
            let some = if small { 1 + self.random.index(most) } else { usize::MAX };
            let connection = self.connections.get_mut(&id).expect("it is open");
            let room = connection.room().min(some);
            let parts: Vec<u8> = match self.server.output(key) {
                Output::Nothing => return,
                Output::Close => {
                    self.closed(key, true);
                    self.inputs += 1;
                    return self.server.connection_lost(key);
                }
                Output::Bytes(_) if left == 0 => return self.server.requeue(key),
                Output::Bytes(parts) => {
                    let mut taken = Vec::new();
                    for part in parts {
                        taken.extend_from_slice(&part[..part.len().min(room - taken.len())]);
                    }
                    taken
                }
            };
            assert!(!connection.output_ended, "output after the end of output");
            if parts.is_empty() {
                assert_eq!(room, 0, "there was nothing to write");
                connection.blocked = true;
                return self.server.blocked(key);
            }
            if parts.len() == 1 {
                self.model.tally.hit("write-of-one-byte");
            }
            connection.kernel.extend(&parts);
            connection.progress_at = self.now_ms;
            if memmem::find(&parts, b"HTTP/1.1 408 ").is_some() {
                connection.late_at = connection.read;
            }
            connection.joined_at = connection.joined_at.min(self.step);
            left = left.saturating_sub(parts.len());
            self.mix(&id.to_le_bytes());
            self.mix(&parts);
            self.inputs += 1;
            self.server.sent(key, parts.len());
            self.apply();
            if !self.by_key.contains_key(&key.to_bits()) {
                return;
            }
        }
    }

    /// Tells the server of room in sockets that were full, and of bytes that came.
    fn move_clients(&mut self) {
        let ids: Vec<u64> = self.connections.keys().copied().collect();
        for id in ids {
            let connection = self.connections.get_mut(&id).expect("it is here");
            let edge = connection.send();
            let Some(key) = connection.key else { continue };
            connection.readable |= edge;
            let writable = std::mem::take(&mut connection.writable);
            if writable {
                connection.blocked = false;
            }
            if edge {
                self.queue(key);
            }
            if writable || self.random.chance(3) {
                self.inputs += u64::from(writable);
                self.server.writable(key);
            }
        }
    }

    /// The far end resets a connection, at whatever point it is.
    pub fn reset(&mut self, id: u64) {
        let Some(connection) = self.connections.get_mut(&id) else { return };
        connection.done = true;
        if let Some(stream) = &connection.stream {
            self.followers[stream.ask.follower].connection = None;
        }
        if let Some(key) = connection.key.take() {
            self.by_key.remove(&key.to_bits());
            self.stale.push(key);
            self.server.connection_lost(key);
            self.apply();
        }
        self.connections.remove(&id);
    }

    /// Events and completions that come too late must not hit a slot's newcomer.
    fn poke(&mut self) {
        if self.stale.is_empty() || !self.random.chance(100) {
            return;
        }
        self.hit("stale-key-poked");
        let from = self.stale.len().saturating_sub(12);
        let key = self.stale[from + self.random.index(self.stale.len() - from)];
        if self.by_key.contains_key(&key.to_bits()) || self.processes.contains_key(&key.to_bits()) {
            panic!("{}: a key came twice", self.context());
        }
        if key.kind == sidestream::core::server::KIND_CONNECTION {
            assert_eq!(self.server.read_allowance(key), 0);
            assert_eq!(self.server.output(key), Output::Nothing);
            assert!(!self.server.has_connection(key));
            self.server.received(key, b"x");
            self.server.peer_ended(key);
            self.server.writable(key);
            self.server.blocked(key);
            self.server.requeue(key);
            self.server.sent(key, 1);
            self.server.connection_lost(key);
        } else {
            assert!(self.server.agent_space(key, Pipe::Stdout).is_empty());
            assert!(self.server.agent_input(key).is_empty());
            self.server.agent_filled(key, Pipe::Stdout, 1);
            self.server.agent_pipe_ended(key, Pipe::Stdout);
            self.server.agent_exited(key, sidestream::core::effect::Exit::Code(0));
            self.server.agent_spawned(key);
            self.server.agent_spawn_failed(key, String::new());
            self.server.disk_replied(DiskReply::Swept { agent: key, killed: 1 });
        }
        self.apply();
        self.server.check();
    }

    // Agents.

    /// What an agent would read in its directory was looked at just now, and a human was asked.
    fn check_trust(&mut self, spawn: &Spawn) {
        let context = self.context();
        let (path, brought) =
            self.may_start_in.take().unwrap_or_else(|| panic!("{context}: nobody has looked"));
        assert_eq!(path, spawn.working_dir, "{context}: another one was looked at");
        if brought.commands.is_empty() {
            return;
        }
        if spawn.arguments.iter().any(|one| one == "--strict-mcp-config") {
            return self.hit("started-without-its-directory");
        }
        let asked = self.model.trust_asked.get_mut(&(path, brought.hash));
        let asked = asked.filter(|count| **count > 0);
        let asked = asked.unwrap_or_else(|| panic!("{context}: nobody was asked"));
        if !brought.is_clear {
            *asked -= 1;
            self.hit("trust-once");
        }
    }

    fn spawn(&mut self, spawn: &Spawn) {
        if spawn.program == Program::Path("/bin/other".into()) {
            self.check_trust(spawn);
        }
        let value = |flag: &str| {
            let mut found = spawn.arguments.iter().filter_map(|one| one.strip_prefix(flag));
            found.next_back()
        };
        let resumed = value("--resume=");
        if resumed.is_some() {
            self.hit("resumed-conversation");
        }
        if self.random.chance(self.faults.spawn) && !self.healed {
            self.hit("agent-spawn-failed");
            self.inputs += 1;
            return self.server.agent_spawn_failed(spawn.agent, "no processes left".to_owned());
        }
        let conversation = value("--session-id=").or(resumed).unwrap_or("none").to_owned();
        let is_command = spawn.arguments.first().is_some_and(|one| one == "-c");
        let speaker = if is_command {
            let mut text = "some \u{e9} output\n".repeat(self.random.index(2000)).into_bytes();
            if self.random.chance(300) {
                text.extend([0xff, 0xc3]);
            }
            Speaker::Command(text, i32::from(self.random.chance(300)))
        } else {
            let names = vec!["a.txt".to_owned(), ".hidden".to_owned()];
            let mut demo = Demo::new(&conversation, names, self.random.bits());
            if let Some(mode) = value("--permission-mode=") {
                demo.set_mode(mode);
            }
            if let Some(model) = value("--model=") {
                demo.set_model(model);
            }
            Speaker::Demo(Box::new(demo))
        };
        let quirks = self.draw_quirks(is_command);
        let most = if quirks.deaf && self.random.chance(500) { 200 } else { 128 * KIB };
        let pipe = 1 + self.random.index(most);
        let session_id = spawn.session_id.clone();
        let process = Process::new(spawn.agent, session_id, speaker, quirks, pipe);
        if process.is_odd() {
            let session = self.model.session(&spawn.session_id).expect("it is known");
            self.model.sessions[session].odd = true;
        }
        assert!(self.processes.len() < self.limits.agents_max as usize, "too many processes");
        self.processes.insert(spawn.agent.to_bits(), process);
        self.inputs += 1;
        self.server.agent_spawned(spawn.agent);
    }

    fn draw_quirks(&mut self, is_command: bool) -> Quirks {
        let (random, often) = (&mut self.random, self.faults.quirk);
        let mut quirks = Quirks::default();
        let line_max = self.limits.line_size_max;
        if self.healed {
            return quirks;
        }
        quirks.deaf = random.chance(often / 6);
        if random.chance(often / 3) {
            quirks.starts_at = Some(self.now_ms + random.below(2_000));
        }
        if random.chance(often / 3) {
            let most = if random.chance(500) { 3_000 } else { 60_000 };
            quirks.dies_after = Some(1 + random.index(most));
        }
        if random.chance(often / 6) {
            quirks.dies_at = Some(self.now_ms + random.below(20_000));
        }
        quirks.ignores_eof = random.chance(often / 3);
        quirks.ignores_term = random.chance(often / 3);
        if random.chance(often / 3) {
            quirks.grandchildren = 1 + random.index(4) as u32;
        }
        if random.chance(often / 3) {
            quirks.odd = random.between(1, 100);
        }
        if random.chance(often / 3) {
            let most = if random.chance(300) { 2 * line_max } else { 128 * KIB };
            quirks.long = Some((1 + random.index(most), random.between(1, 20)));
        }
        if random.chance(often / 6) {
            // Mostly within a line that needs the long-line buffer.
            quirks.halts = random.between(1, 300);
            quirks.long = Some((line_max / 2 + random.index(line_max / 2), random.between(1, 50)));
        }
        if random.chance(often / 3) {
            quirks.stderr = random.between(1, 200);
        }
        if !is_command && random.chance(often / 6) {
            let refusals = [
                "Error: Session ID 0 is already in use.\n",
                "No conversation found with session ID: 0\n",
                "boom\n",
            ];
            quirks.refuses = Some(refusals[random.index(3)].to_owned());
        }
        quirks
    }

    fn work_agents(&mut self) {
        let keys: Vec<u64> = self.processes.keys().copied().collect();
        for bits in keys {
            let (now_ms, healed) = (self.now_ms, self.healed);
            let Some(process) = self.processes.get_mut(&bits) else { continue };
            process.step(now_ms, &mut self.random, &mut self.model.tally, healed);
            let key = process.key;
            // In which order the kernel tells of them nobody knows.
            let mut pipes = [Pipe::Stdout, Pipe::Stderr];
            if self.random.chance(500) {
                pipes.reverse();
            }
            pipes.into_iter().for_each(|pipe| self.read_agent(key, pipe));
            self.see_exit(key);
        }
    }

    fn read_agent(&mut self, key: Key, pipe: Pipe) {
        let mut left = AGENT_BYTES;
        loop {
            let Some(process) = self.processes.get_mut(&key.to_bits()) else { return };
            let which = usize::from(pipe == Pipe::Stderr);
            let hung_up = process.has_hung_up();
            let buffer = match pipe {
                Pipe::Stdout => &mut process.stdout,
                Pipe::Stderr => &mut process.stderr,
            };
            if process.end_told[which] || left == 0 {
                return;
            }
            let space = self.server.agent_space(key, pipe);
            if space.is_empty() {
                if !buffer.is_empty() {
                    self.model.tally.hit("agent-output-waits");
                }
                return;
            }
            if buffer.is_empty() {
                if hung_up {
                    process.end_told[which] = true;
                    self.inputs += 1;
                    self.server.agent_pipe_ended(key, pipe);
                    self.apply();
                }
                return;
            }
            let count = buffer.len().min(space.len()).min(left);
            std::io::Read::read_exact(buffer, &mut space[..count]).expect("it has so many");
            left -= count;
            self.inputs += 1;
            self.server.agent_filled(key, pipe, count);
            self.apply();
            self.server.check();
        }
    }

    fn see_exit(&mut self, key: Key) {
        let late = self.random.chance(200);
        let Some(process) = self.process(key) else { return };
        let Some(exit) = process.exit.filter(|_| !process.exit_told && !late) else { return };
        process.exit_told = true;
        self.inputs += 1;
        self.server.agent_exited(key, exit);
        self.apply();
        self.server.check();
    }

    fn feed_agents(&mut self) {
        let keys: Vec<Key> = self.processes.values().map(|process| process.key).collect();
        for key in keys {
            while let Some(process) = self.processes.get_mut(&key.to_bits()) {
                let input = self.server.agent_input(key);
                let count = input.len().min(process.room());
                if count == 0 || process.stdin_closed {
                    let full = !input.is_empty() && process.quirks.deaf && process.exit.is_none();
                    if full && process.room() == 0 {
                        self.model.tally.hit("agent-never-reads");
                    }
                    break;
                }
                let bytes = input[..count].to_vec();
                process.stdin.extend(&bytes);
                self.note_given(key, &bytes);
                self.mix(&bytes);
                self.inputs += 1;
                self.server.agent_input_sent(key, count);
                self.apply();
            }
        }
    }

    /// An agent is given no prompt before everybody can see that it is.
    fn note_given(&mut self, key: Key, bytes: &[u8]) {
        const PROMPT: &[u8] = b"{\"type\":\"user\",";
        let context = self.context();
        let Some(process) = self.process(key) else { return };
        let starts = process.prompts_in(bytes, PROMPT);
        let id = process.session_id.clone();
        let Some(session) = self.model.session(&id) else { return };
        let known = &mut self.model.sessions[session];
        known.given += starts;
        let fits = known.given <= known.begun || known.truncated;
        assert!(fits, "{context}: {id} was given a prompt too early");
    }

    /// What keeps it busy.
    pub fn describe(&self) -> String {
        let sessions = self.model.sessions.iter().filter(|session| !session.closed);
        let sessions: Vec<_> = sessions
            .map(|one| (&one.status, one.is_running(), one.queued().count(), one.approvals.len()))
            .collect();
        let processes = self.processes.values();
        let processes: Vec<_> = processes
            .map(|one| (one.due, one.exit, one.stdin_closed, one.stdin.len(), one.has_news()))
            .collect();
        let connections: Vec<_> = self
            .connections
            .values()
            .map(|one| {
                (one.id, one.blocked, one.stream.is_some(), one.kernel.len(), one.expects.len())
            })
            .collect();
        let due = self.server.next_due();
        let pending = self.server.has_pending();
        let disk = (self.disk.len(), self.disk.due(self.now_ms), self.failing);
        let names: Vec<&str> = self.processes.values().map(|one| &*one.session_id).collect();
        format!(
            "now {} due {due:?} work {} pending {pending} inputs {} disk {disk:?}\n{sessions:?}\n{names:?}\n{processes:?}\n{connections:?}",
            self.now_ms,
            self.server.has_work(),
            self.inputs
        )
    }

    /// What the world still holds for the server.
    pub fn leftovers(&self) -> (usize, usize, usize) {
        (self.by_key.len(), self.processes.len(), self.disk.len())
    }
}

/// The tokens of a world that has some: the word is the name twice.
fn tokens() -> Tokens {
    let lines: String = [Scope::Read, Scope::Answer, Scope::Full]
        .into_iter()
        .filter_map(|scope| tokens::line(scope.as_str(), scope, &requests::token(scope)).ok())
        .collect();
    Tokens::parse(&lines).expect("they are well-formed")
}

fn draw_limits(random: &mut Random) -> Limits {
    let ring_size = (64 * KIB) << random.below(2);
    Limits {
        ring_size,
        all_ring_size: ring_size << random.between(4, 5),
        head_size_max: random.between(1024, 4096) as usize,
        head_fields_max: 20,
        head_timeout_ms: random.between(1_000, 5_000),
        body_size_max: 64 * KIB,
        bodies_size_max: random.between(64, 128) as usize * KIB,
        body_timeout_ms: random.between(2_000, 8_000),
        keep_alive_ms: random.between(2_000, 20_000),
        connections_max: random.between(6, 40) as u32,
        readers_per_session_max: random.between(2, 8) as u32,
        sessions_max: random.between(2, 5) as u32,
        closed_sessions_max: random.between(1, 3) as u32,
        session_creations_per_s: random.between(2, 10) as u32,
        agents_max: random.between(1, 4) as u32,
        agents_starting_max: random.between(1, 2) as u32,
        queue_max: random.between(1, 4) as usize,
        queue_size_max: 64 * KIB,
        approvals_max: random.between(1, 2) as usize,
        line_size_max: random.between(64, 400) as usize * KIB,
        large_size_max: random.between(64, 512) as usize * KIB,
        journal_max: random.between(256, 2048) * KIB as u64,
        journal_total_max: random.between(256, 2048) * KIB as u64,
        heartbeat_ms: random.between(5_000, 15_000),
        write_stall_ms: random.between(2_000, 10_000),
        // Clients here may be as slow as they like: `tests/slow_takers.rs` is about those that are too slow.
        body_rate_min: 0,
        replay_size: random.between(4, 64) as usize * KIB,
        delta_hold_ms: random.below(2) * 50,
        start_timeout_ms: random.between(2_000, 6_000),
        stall_after_ms: random.between(3_000, 20_000),
        interrupt_timeout_ms: random.between(1_000, 4_000),
        suspend_after_ms: random.between(5_000, 60_000),
        ladder_eof_ms: random.between(200, 2_000),
        ladder_term_ms: random.between(200, 2_000),
        drain_delay_ms: random.below(2) * random.below(3_000),
        drain_timeout_ms: 90_000,
        ..Limits::default()
    }
}

fn draw_faults(random: &mut Random) -> Faults {
    // Each world has its own vices, and some have none of a kind.
    let mortal = random.chance(600);
    let mut draw = |most: u64| if random.chance(250) { 0 } else { random.below(most + 1) };
    Faults {
        reset: draw(15),
        half_close: draw(300),
        stall: draw(60),
        drip: draw(200),
        small_write: draw(500),
        pipeline: draw(500),
        spawn: draw(200),
        quirk: draw(900),
        disk_late: draw(300),
        disk_bad: draw(200),
        trouble: draw(12),
        death: if mortal { draw(15) } else { 0 },
        crash: if mortal { draw(60) } else { 0 },
        power: if mortal { draw(40) } else { 0 },
        agents: draw(120),
        leap: draw(700),
        clients: 50 + draw(250),
    }
}
