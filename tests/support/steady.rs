//! A server in its steady state, without a kernel: one agent in the middle of a message, and readers
//! that have everything. The world of the allocation test and of the micro-benchmarks.
#![allow(dead_code, reason = "each user takes what it needs")]

use sidestream::base::arena::Key;
use sidestream::core::access::Access;
use sidestream::core::connection::{Output, Peer};
use sidestream::core::effect::{Asker, DiskReply, DiskRequest, Effect, Pipe, Program};
use sidestream::core::epochs::{Durability, Epochs, Start};
use sidestream::core::server::{AgentConfig, Birth, Config, Dialect, Server};
use sidestream::limits::Limits;
use sidestream::wire::sse::Epoch;

/// As many as the allocation test has.
pub const READERS: u32 = 64;
/// What an agent says most of the time.
pub const DELTA: &str = "{\"type\":\"stream_event\",\"api_message_id\":\"m1\",\"event\":{\"type\":\
    \"content_block_delta\",\"index\":0,\"delta\":{\"type\":\"text_delta\",\"text\":\
    \"some words\"}}}\n";

/// A server, its one agent, and a clock.
pub struct Bench {
    pub server: Server,
    agent: Option<Key>,
    pub session: String,
    now_ms: u64,
    /// Bytes that went to clients.
    pub sent: u64,
    /// The last bytes that went to a client, if they are kept.
    reply: Option<Vec<u8>>,
}

impl Bench {
    fn new(readers: u32) -> Bench {
        let limits = Limits {
            connections_max: 2 * readers + 8,
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
        let (durability, boot_id) = (Durability::Memory, "-".to_owned());
        let start = Start { epoch, first_seq: 1, durability, boot_id, broken: false };
        let epochs = Epochs::first(start);
        let birth = Birth { seed: 1, epochs, now_ms: 1_000, wall_ms: 1_000_000 };
        let server = Server::new(limits, config, birth);
        let session = String::new();
        Bench { server, agent: None, session, now_ms: 1_000, sent: 0, reply: None }
    }

    /// Does what the server asks for; there is not much in this world.
    pub fn apply(&mut self) {
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

    /// Time passes, and the next turn begins.
    pub fn begin_turn(&mut self, by_ms: u64) {
        self.now_ms += by_ms;
        self.server.set_time(self.now_ms, 1_000_000 + self.now_ms);
        assert!(self.server.expire());
    }

    /// A client connects,
    pub fn connect(&mut self) -> Key {
        self.server.accepted(Peer::Local { uid: 1 }).expect("there is room")
    }

    /// sends a request,
    pub fn ask(&mut self, key: Key, request: &str) {
        self.server.received(key, request.as_bytes());
        self.finish_turn();
    }

    /// The agent writes this, in one go.
    pub fn agent_says(&mut self, line: &str) {
        let agent = self.agent.expect("it was started");
        let space = self.server.agent_space(agent, Pipe::Stdout);
        space[..line.len()].copy_from_slice(line.as_bytes());
        self.server.agent_filled(agent, Pipe::Stdout, line.len());
    }

    /// or opens a stream.
    pub fn join(&mut self) -> Key {
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
pub fn steady(readers: u32) -> (Bench, Vec<Key>) {
    let mut bench = Bench::new(readers);
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
    let readers = (0..readers).map(|_| bench.join()).collect();
    (bench, readers)
}

/// So many of those, each in a turn of its own.
pub fn deltas(bench: &mut Bench, count: u64) {
    for _ in 0..count {
        bench.begin_turn(60);
        bench.agent_says(DELTA);
        bench.finish_turn();
    }
}
