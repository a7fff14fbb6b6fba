//! The way of an event to the disk takes no memory: not the batch, not its parts, not the file.
//!
//! A server with journals is brought to its steady state on a real directory; then every allocation
//! is counted while its agent speaks, each event is handed over, written and shown. The counting
//! allocator is the one place with `unsafe`.
#![allow(unsafe_code)]

use sidestream::base::arena::Key;
use sidestream::core::access::Access;
use sidestream::core::connection::{Output, Peer};
use sidestream::core::effect::{Asker, DiskReply, DiskRequest, Effect, Pipe, Program};
use sidestream::core::epochs::Durability;
use sidestream::core::server::{AgentConfig, Birth, Config, Dialect, Server};
use sidestream::limits::Limits;
use sidestream::shell::journal::{self, Store};
use sidestream::wire::sse::Epoch;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::{Path, PathBuf};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to `System` unchanged; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A directory of our own, removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

struct World {
    server: Server,
    store: Store,
    agent: Option<Key>,
    now_ms: u64,
    reply: Vec<u8>,
    batches: u64,
    _scratch: Scratch,
}

impl World {
    fn new(durability: Durability) -> World {
        let name = format!("sidestream-no-alloc-{}-{}", durability.as_str(), std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&scratch.0).unwrap();
        let opened = journal::open(&scratch.0, durability, Epoch::new(7)).unwrap();
        let size = 256 * 1024;
        let limits = Limits { ring_size: size, all_ring_size: size, ..Limits::default() };
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
        let birth = Birth { seed: 1, epochs, now_ms: 1_000, wall_ms: 1_000_000 };
        let server = Server::new(limits, config, birth);
        let (agent, reply, batches) = (None, Vec::with_capacity(1 << 16), 0);
        let store = opened.store.unwrap();
        World { server, store, agent, now_ms: 1_000, reply, batches, _scratch: scratch }
    }

    fn turn(&mut self) {
        loop {
            self.server.commit();
            let mut some = false;
            while let Some(effect) = self.server.next_effect() {
                some = true;
                match effect {
                    Effect::Disk(DiskRequest::Append(batch)) => {
                        self.batches += 1;
                        let result = self.store.append(&batch);
                        self.server.disk_replied(DiskReply::Appended(batch, result));
                    }
                    Effect::Disk(DiskRequest::Directory { ticket, .. }) => {
                        let result = Ok(Path::new("/").to_owned());
                        self.server.disk_replied(DiskReply::Directory { ticket, result });
                    }
                    Effect::Spawn(spawn) => {
                        self.agent = Some(spawn.agent);
                        self.server.agent_spawned(spawn.agent);
                    }
                    Effect::WhoIs(key) => self.server.asker_known(key, Asker::Outside),
                    _ => {}
                }
            }
            if let Some(agent) = self.agent {
                let count = self.server.agent_input(agent).len();
                self.server.agent_input_sent(agent, count);
            }
            while let Some(key) = self.server.next_pending() {
                while let Output::Bytes(parts) = self.server.output(key) {
                    let count = parts.iter().map(|part| part.len()).sum();
                    self.reply.clear();
                    parts.iter().for_each(|part| self.reply.extend_from_slice(part));
                    self.server.sent(key, count);
                    some = true;
                }
            }
            if !some {
                return;
            }
        }
    }

    fn post(&mut self, key: Key, path: &str, body: &str) -> String {
        let length = body.len();
        let request = format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
             Content-Length: {length}\r\n\r\n{body}"
        );
        self.server.received(key, request.as_bytes());
        self.turn();
        String::from_utf8(self.reply.clone()).unwrap()
    }

    fn agent_says(&mut self, line: &str) {
        let agent = self.agent.expect("it was started");
        let space = self.server.agent_space(agent, Pipe::Stdout);
        space[..line.len()].copy_from_slice(line.as_bytes());
        self.server.agent_filled(agent, Pipe::Stdout, line.len());
    }

    fn deltas(&mut self, count: u64) {
        const LINE: &str = "{\"type\":\"stream_event\",\"api_message_id\":\"m1\",\"event\":{\
            \"type\":\"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\
            \"text\":\"some words\"}}}\n";
        for _ in 0..count {
            self.now_ms += 60;
            self.server.set_time(self.now_ms, 1_000_000 + self.now_ms);
            while !self.server.expire() {}
            self.agent_says(LINE);
            self.turn();
        }
    }
}

#[test]
fn writing_an_event_takes_no_memory() {
    for durability in [Durability::Write, Durability::Sync] {
        let mut world = World::new(durability);
        let client = world.server.accepted(Peer::Local { uid: 1 }).unwrap();
        let reply = world.post(client, "/api/sessions", "{\"workingDir\":\"/\"}");
        let (_, rest) = reply.split_once("\"sessionId\":\"").expect("a session");
        let session = rest.split_once('"').expect("its id").0.to_owned();
        world.post(client, &format!("/api/session/{session}/prompt"), "{\"command\":\"go\"}");
        world.agent_says(
            "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\
             \"request_id\":\"initialize\",\"response\":{}}}\n",
        );
        world.turn();
        // The rings have wrapped. An open block keeps its text, whose buffer doubles: it has just
        // done so, and has room for what is to come.
        world.deltas(1_100);
        let (before, batches) = (ALLOCATIONS.with(Cell::get), world.batches);
        world.deltas(300);
        let taken = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(world.batches - batches, 300, "each event is a batch of its own");
        assert_eq!(taken, 0, "in 300 batches, {durability:?}");
    }
}
