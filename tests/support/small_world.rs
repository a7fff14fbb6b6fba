//! The server's core with one session and one agent, or a few, in a world that does what it is asked
//! for at once and costs nothing itself: for tests that count what the core takes, and what it does
//! when.
#![allow(dead_code)] // Each test uses a part.

use sidestream::base::arena::Key;
use sidestream::core::access::Access;
use sidestream::core::connection::{Output, Peer};
use sidestream::core::effect::{
    Asker, Batch, Brought, DiskReply, DiskRequest, Effect, Pipe, Program,
};
use sidestream::core::epochs::{Durability, Epochs, Start};
use sidestream::core::server::{AgentConfig, Birth, Config, Dialect, Server};
use sidestream::limits::Limits;
use sidestream::shell::journal::Store;
use sidestream::wire::sse::Epoch;

/// Quiet time before a heartbeat.
pub const HEARTBEAT_MS: u64 = 5_000;

/// A server, its agents, and a clock.
pub struct World {
    /// The server.
    pub server: Server,
    /// Its agents, in the order of their starts.
    pub agents: Vec<Key>,
    /// Its session.
    pub session: String,
    /// What agents leave behind: as many are killed whenever somebody looks.
    pub left_behind: u32,
    now_ms: u64,
    /// Bytes that went to clients.
    pub sent: u64,
    /// How often any went to a client.
    pub sends: u64,
    /// The last bytes that went to a client, if they are kept.
    reply: Option<Vec<u8>>,
    /// The batch that the disk has.
    batch: Option<Box<Batch>>,
    /// How many it has had.
    pub batches: u64,
    /// The disk; none: it takes everything and keeps nothing.
    store: Option<Store>,
}

impl World {
    /// A server with nothing in it, and room for so many readers; its disk takes no time.
    pub fn new(durability: Durability, readers: u32) -> World {
        let epoch = Epoch::new(7);
        let boot_id = "-".to_owned();
        let start = Start::new(epoch, 1, durability, boot_id);
        World::with(Epochs::first(start), None, readers)
    }

    /// The same of this start, with a disk.
    pub fn with(epochs: Epochs, store: Option<Store>, readers: u32) -> World {
        let limits = Limits {
            connections_max: World::slots_for(readers),
            readers_per_session_max: readers + 8,
            heartbeat_ms: HEARTBEAT_MS,
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
        let birth = Birth { seed: 1, epochs, now_ms: 1_000, wall_ms: 1_000_000 };
        let server = Server::new(limits, config, birth);
        let session = String::new();
        World {
            server,
            agents: Vec::with_capacity(4),
            session,
            left_behind: 0,
            now_ms: 1_000,
            sent: 0,
            sends: 0,
            reply: None,
            batch: None,
            batches: 0,
            store,
        }
    }

    /// Does what the server asks for; there is not much in this world.
    fn apply(&mut self) {
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::Spawn(spawn) => {
                    self.agents.push(spawn.agent);
                    self.server.agent_spawned(spawn.agent);
                }
                Effect::Disk(DiskRequest::Directory { errand, path }) => {
                    self.server.disk_replied(DiskReply::Directory { errand, result: Ok(path) });
                }
                Effect::Disk(DiskRequest::LookForTrust { errand, .. }) => {
                    let brought = Brought::default();
                    self.server.disk_replied(DiskReply::Trust { errand, brought });
                }
                Effect::Disk(DiskRequest::Sweep { agent, .. }) => {
                    self.server.disk_replied(DiskReply::Swept { agent, killed: self.left_behind });
                }
                Effect::Disk(DiskRequest::Append(batch)) => self.batch = Some(batch),
                Effect::WhoIs(key) => self.server.asker_known(key, Asker::Outside),
                _ => {}
            }
        }
    }

    /// The rest of a turn behind its inputs.
    pub fn finish_turn(&mut self) {
        self.apply();
        self.server.commit();
        self.apply();
        while let Some(batch) = self.batch.take() {
            self.batches += 1;
            let result = self.store.as_mut().map_or(Ok(()), |store| store.append(&batch));
            self.server.disk_replied(DiskReply::Appended(batch, result));
            self.apply();
        }
        for agent in &self.agents {
            let count = self.server.agent_input(*agent).len();
            self.server.agent_input_sent(*agent, count);
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
                self.sends += 1;
                self.server.sent(key, count);
                self.apply();
            }
        }
    }

    /// The slots of a server for so many readers: some more, for those who ask.
    pub fn slots_for(readers: u32) -> u32 {
        readers + readers / 8 + 8
    }

    /// Lets time pass with nothing to be said.
    pub fn rest(&mut self, ms: u64) {
        for _ in 0..ms / 250 {
            self.begin_turn(250);
            self.finish_turn();
        }
    }

    /// Goes on in time, and works off what is due.
    pub fn begin_turn(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.server.set_time(self.now_ms, 1_000_000 + self.now_ms);
        // A burst of deadlines takes several turns.
        while !self.server.expire() {
            self.finish_turn();
        }
    }

    /// A client.
    pub fn connect(&mut self) -> Key {
        self.server.accepted(Peer::Local { uid: 1 }).expect("there is room")
    }

    /// A client's request, and a turn.
    pub fn ask(&mut self, key: Key, request: &str) {
        self.server.received(key, request.as_bytes());
        self.finish_turn();
    }

    /// A line of the agent that was started last.
    pub fn agent_says(&mut self, line: &str) {
        let agent = *self.agents.last().expect("it was started");
        let taken = self.pour((agent, Pipe::Stdout), line.as_bytes());
        assert_eq!(taken, line.len(), "there is room for it");
    }

    /// What an agent writes, as far as it is read now. Returns how much that is.
    pub fn pour(&mut self, (agent, pipe): (Key, Pipe), bytes: &[u8]) -> usize {
        let mut taken = 0;
        while taken < bytes.len() {
            let space = self.server.agent_space(agent, pipe);
            let count = space.len().min(bytes.len() - taken);
            if count == 0 {
                break;
            }
            space[..count].copy_from_slice(&bytes[taken..taken + count]);
            self.server.agent_filled(agent, pipe, count);
            taken += count;
        }
        taken
    }

    /// A reader of the session.
    pub fn join(&mut self) -> Key {
        let key = self.connect();
        let session = &self.session;
        let request = format!(
            "GET /api/session/{session}/events?replay=none HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        self.ask(key, &request);
        key
    }

    /// A client's request, a turn, and what anybody was sent in it.
    pub fn told(&mut self, key: Key, request: &str) -> String {
        self.told_by(|server| server.received(key, request.as_bytes()))
    }

    /// Anything that happens to the server, a turn, and what anybody was sent in it.
    pub fn told_by(&mut self, happens: impl FnOnce(&mut Server)) -> String {
        self.reply = Some(Vec::new());
        happens(&mut self.server);
        self.finish_turn();
        String::from_utf8(self.reply.take().unwrap_or_default()).expect("text")
    }

    /// Another session, whose agent is started for a prompt.
    pub fn start_session(&mut self) {
        let client = self.connect();
        let reply = self.told(client, &post("/api/sessions", "{\"workingDir\":\"/\"}"));
        let (_, rest) = reply.split_once("\"sessionId\":\"").expect("a session");
        self.session = rest.split_once('"').expect("its id").0.to_owned();
        let prompt = format!("/api/session/{}/prompt", self.session);
        self.ask(client, &post(&prompt, "{\"command\":\"go\"}"));
    }

    /// The agent that was started last says that it is ready.
    pub fn agent_ready(&mut self) {
        self.agent_says(
            "{\"type\":\"control_response\",\"response\":{\"subtype\":\"success\",\
         \"request_id\":\"initialize\",\"response\":{}}}\n",
        );
        self.finish_turn();
    }

    /// Another session in the middle of its first turn.
    pub fn begin_session(&mut self) {
        self.start_session();
        self.agent_ready();
    }

    /// A server whose agent is in the middle of a message, and whose readers have everything.
    pub fn steady(durability: Durability, readers: u32) -> (World, Vec<Key>) {
        let mut world = World::new(durability, readers);
        world.begin_session();
        let readers = (0..readers).map(|_| world.join()).collect();
        (world, readers)
    }
}

/// A request with a JSON body.
pub fn post(path: &str, body: &str) -> String {
    let length = body.len();
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {length}\r\n\r\n{body}"
    )
}

/// A delta, as the agent's line.
pub const DELTA: &str = "{\"type\":\"stream_event\",\"api_message_id\":\"m1\",\"event\":{\"type\":\
    \"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\
    \"some words\"}}}\n";

/// Publishes so many deltas of one block, each in a turn of its own.
pub fn deltas(world: &mut World, count: u64) {
    for _ in 0..count {
        world.begin_turn(60);
        world.agent_says(DELTA);
        world.finish_turn();
    }
}
