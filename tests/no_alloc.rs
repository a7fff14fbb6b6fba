//! After start-up the hot path takes no memory: not little, none.
//!
//! A server with one agent and many readers is brought to its steady state; then every
//! allocation is counted while events are published and sent to all of them, and while the
//! readers are sent heartbeats. What joining, leaving and asking cost is measured and printed. The
//! counting allocator is the one place with `unsafe`.
#![allow(unsafe_code)]

use sidestream::base::arena::{Arena, Key};
use sidestream::base::list::Links;
use sidestream::base::ring::{Mark, Ring};
use sidestream::base::wheel::Wheel;
use sidestream::core::access::Access;
use sidestream::core::connection::{Connection, Exchange, Output, Peer, Rare, Reader};
use sidestream::core::effect::{Asker, Batch, DiskReply, DiskRequest, Effect, Pipe, Program};
use sidestream::core::epochs::{Durability, Epochs, Start};
use sidestream::core::server::{AgentConfig, Birth, Config, Dialect, Server};
use sidestream::limits::Limits;
use sidestream::wire::sse::Epoch;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    // Of this thread alone: the test harness allocates in its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to `System` unchanged; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const READERS: u32 = 64;

/// A server, its one agent, and a clock.
struct Bench {
    server: Server,
    agent: Option<Key>,
    session: String,
    now_ms: u64,
    /// Bytes that went to clients.
    sent: u64,
    /// The last bytes that went to a client, if they are kept.
    reply: Option<Vec<u8>>,
    /// The batch that the disk has.
    batch: Option<Box<Batch>>,
}

impl Bench {
    fn new(durability: Durability) -> Bench {
        let limits = Limits {
            connections_max: 2 * READERS,
            heartbeat_ms: 5_000,
            ring_size: 256 * 1024,
            all_ring_size: 256 * 1024,
            ..Limits::default()
        };
        let config = Config {
            agents: vec![AgentConfig {
                name: "demo".to_owned(),
                dialect: Dialect::Demo,
                program: Ok(Program::Demo),
            }],
            commands: vec![String::new()],
            access: Access { own_uid: 1, ..Access::default() },
            version: "0",
            ..Config::default()
        };
        let epoch = Epoch::new(7);
        let boot_id = "-".to_owned();
        let start = Start { epoch, first_seq: 1, durability, boot_id, broken: false };
        let epochs = Epochs::first(start);
        let birth = Birth { seed: 1, epochs, now_ms: 1_000, wall_ms: 1_000_000 };
        let server = Server::new(limits, config, birth);
        let session = String::new();
        Bench { server, agent: None, session, now_ms: 1_000, sent: 0, reply: None, batch: None }
    }

    /// Does what the server asks for; there is not much in this world.
    fn apply(&mut self) {
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::Spawn(spawn) => {
                    self.agent = Some(spawn.agent);
                    self.server.agent_spawned(spawn.agent);
                }
                Effect::Disk(DiskRequest::Directory { ticket, path }) => {
                    self.server.disk_replied(DiskReply::Directory { ticket, result: Ok(path) });
                }
                Effect::Disk(DiskRequest::LookForTrust { session, .. }) => {
                    let (commands, hash) = (Vec::new(), String::new());
                    self.server.disk_replied(DiskReply::Trust { session, commands, hash });
                }
                Effect::Disk(DiskRequest::Append(batch)) => self.batch = Some(batch),
                Effect::WhoIs(key) => self.server.asker_known(key, Asker::Outside),
                _ => {}
            }
        }
    }

    /// The rest of a turn behind its inputs.
    fn finish_turn(&mut self) {
        self.apply();
        self.server.commit();
        self.apply();
        while let Some(batch) = self.batch.take() {
            self.server.disk_replied(DiskReply::Appended(batch, Ok(())));
            self.apply();
        }
        if let Some(agent) = self.agent {
            let count = self.server.agent_input(agent).len();
            self.server.agent_input_sent(agent, count);
        }
        while let Some(key) = self.server.next_pending() {
            loop {
                let parts = match self.server.output(key) {
                    Output::Nothing => break,
                    Output::Close => {
                        self.server.connection_lost(key);
                        break;
                    }
                    Output::Bytes(parts) => parts,
                };
                let count = parts.iter().map(|part| part.len()).sum();
                if let Some(reply) = &mut self.reply {
                    parts.iter().for_each(|part| reply.extend_from_slice(part));
                }
                self.sent += count as u64;
                self.server.sent(key, count);
                self.apply();
            }
        }
    }

    fn begin_turn(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.server.set_time(self.now_ms, 1_000_000 + self.now_ms);
        assert!(self.server.expire());
    }

    fn connect(&mut self) -> Key {
        self.server.accepted(Peer::Local { uid: 1 }).expect("there is room")
    }

    fn ask(&mut self, key: Key, request: &str) {
        self.server.received(key, request.as_bytes());
        self.finish_turn();
    }

    fn agent_says(&mut self, line: &str) {
        let agent = self.agent.expect("it was started");
        let space = self.server.agent_space(agent, Pipe::Stdout);
        space[..line.len()].copy_from_slice(line.as_bytes());
        self.server.agent_filled(agent, Pipe::Stdout, line.len());
    }

    fn join(&mut self) -> Key {
        let key = self.connect();
        let session = &self.session;
        let request = format!(
            "GET /api/session/{session}/events?replay=none HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        self.ask(key, &request);
        key
    }
}

fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A server whose agent is in the middle of a message, and whose readers have everything.
fn steady(durability: Durability) -> (Bench, Vec<Key>) {
    let mut bench = Bench::new(durability);
    let client = bench.connect();
    bench.reply = Some(Vec::new());
    bench.ask(client, &post("/api/sessions", "{\"workingDir\":\"/\"}"));
    let reply = String::from_utf8(bench.reply.take().unwrap_or_default()).unwrap();
    let (_, rest) = reply.split_once("\"sessionId\":\"").expect("a session");
    bench.session = rest.split_once('"').expect("its id").0.to_owned();
    let prompt = format!("/api/session/{}/prompt", bench.session);
    bench.ask(client, &post(&prompt, "{\"command\":\"go\"}"));
    bench.agent_says(
        "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\
         \"request_id\":\"initialize\",\"response\":{}}}\n",
    );
    bench.finish_turn();
    let readers = (0..READERS).map(|_| bench.join()).collect();
    (bench, readers)
}

fn allocations(of: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    of();
    ALLOCATIONS.with(Cell::get) - before
}

fn deltas(bench: &mut Bench, count: u64) {
    const LINE: &str = "{\"type\":\"stream_event\",\"api_message_id\":\"m1\",\"event\":{\"type\":\
        \"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\
        \"some words\"}}}\n";
    for _ in 0..count {
        bench.begin_turn(60);
        bench.agent_says(LINE);
        bench.finish_turn();
    }
}

/// Publishes to all readers until the rings have wrapped and every buffer has its size (an open block
/// keeps its text up to a bound, which its buffer reaches), then counts.
fn publish_in_steady_state(durability: Durability) -> u64 {
    let (mut bench, _readers) = steady(durability);
    deltas(&mut bench, 120_000);
    let sent = bench.sent;
    let taken = allocations(|| deltas(&mut bench, 2_000));
    let per_reader = (bench.sent - sent) / u64::from(READERS) / 2_000;
    assert!(per_reader > 150, "every reader is sent every event: {per_reader} bytes");
    bench.server.check();
    taken
}

#[test]
fn publishing_and_sending_to_many_readers_takes_no_memory() {
    let taken = publish_in_steady_state(Durability::Memory);
    assert_eq!(taken, 0, "in 2000 events to {READERS} readers");
}

#[test]
fn publishing_through_the_journals_batches_takes_no_memory() {
    let taken = publish_in_steady_state(Durability::Write);
    assert_eq!(taken, 0, "in 2000 events to {READERS} readers");
}

#[test]
fn heartbeats_take_no_memory() {
    let (mut bench, _readers) = steady(Durability::Memory);
    let beat = |bench: &mut Bench| {
        for _ in 0..100 {
            bench.begin_turn(1_000);
            bench.finish_turn();
        }
    };
    beat(&mut bench);
    let sent = bench.sent;
    let taken = allocations(|| beat(&mut bench));
    assert!(bench.sent - sent > 19 * 50 * u64::from(READERS), "every reader had its heartbeats");
    assert_eq!(taken, 0, "in 100 s of {READERS} readers");
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
const METRICS: &str = "GET /api/debug/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn joining_leaving_and_asking_take_no_memory() {
    for durability in [Durability::Memory, Durability::Write] {
        let (mut bench, mut readers) = steady(durability);
        let session = &bench.session;
        let request = format!(
            "GET /api/session/{session}/events?replay=none HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        // Joined, left, asked whether it is well, asked for the figures.
        let mut cost = [0; 4];
        for round in 0..400 {
            bench.begin_turn(10);
            let leaver = readers.remove(0);
            let left = allocations(|| {
                bench.server.connection_lost(leaver);
                bench.finish_turn();
            });
            let joined = allocations(|| {
                let key = bench.connect();
                bench.ask(key, &request);
                readers.push(key);
            });
            let client = bench.connect();
            let [asked, figures] =
                [HEALTH, METRICS].map(|request| allocations(|| bench.ask(client, request)));
            bench.server.connection_lost(client);
            bench.finish_turn();
            if round >= 200 {
                for (sum, count) in cost.iter_mut().zip([joined, left, asked, figures]) {
                    *sum += count;
                }
            }
        }
        // The figures are put together for the answer: a list of logs, and a name for each.
        let figures = cost[3] as f64 / 200.0;
        println!("allocations a GET /api/debug/metrics: {figures}");
        assert!(figures <= 3.0, "{figures}");
        assert_eq!(cost[..3], [0; 3], "in 200 rounds with {durability:?}");
        bench.server.check();
    }
}

#[test]
fn a_prompt_takes_a_bounded_number_of_pieces_of_memory() {
    // A prompt is kept, remembered, told and written to its agent: that is memory, but not much.
    let (mut bench, _readers) = steady(Durability::Write);
    let client = bench.connect();
    let prompt = format!("/api/session/{}/prompt", bench.session);
    let asked = post(&prompt, "{\"command\":\"go\"}");
    let cost = (0..20).map(|_| allocations(|| bench.ask(client, &asked))).max();
    println!("allocations a prompt: {cost:?}");
    assert!(cost.is_some_and(|cost| cost <= 20), "{cost:?}");
}

#[test]
fn slots_have_the_sizes_that_were_agreed() {
    // A growth here is memory times a hundred thousand: raise a number only on purpose.
    let sizes = [
        ("a connection", size_of::<Connection>(), 40),
        ("a reader", size_of::<Reader>(), 32),
        ("what it rarely has", size_of::<Rare>(), 80),
        ("an exchange", size_of::<Exchange>(), 512),
        ("a mark", size_of::<Mark>(), 24),
        ("a key", size_of::<Key>(), 12),
        ("a wheel's entry", Wheel::memory(1_001) - Wheel::memory(1), 12_000),
        ("a ring beside its bytes", Ring::memory(1 << 20) - (1 << 20), 98_304),
    ];
    for (what, size, most) in sizes {
        println!("{what}: {size} bytes");
        assert!(size <= most, "{what} takes {size} bytes, {most} were agreed");
    }
    let before = ALLOCATIONS.with(Cell::get);
    drop((Arena::<u64>::new(0, 1000), Links::new(1000), Wheel::new(1000)));
    assert!(ALLOCATIONS.with(Cell::get) - before <= 6, "arenas, lists and timers are taken whole");
}
