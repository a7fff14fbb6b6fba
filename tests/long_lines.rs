//! The one buffer for long lines: who has it, who waits for it, and for how long.

#[path = "support/small_world.rs"]
mod small_world;

use sidestream::base::arena::Key;
use sidestream::core::agent::LONG_LINE_PATIENCE_MS;
use sidestream::core::effect::{Exit, Pipe};
use sidestream::core::epochs::Durability;
use sidestream::limits::LINE_SIZE;
use small_world::{World, post};

const HALF_MS: u64 = LONG_LINE_PATIENCE_MS / 2;

/// Two agents in the middle of their turns, and their sessions.
fn two() -> (World, [(Key, Pipe); 2], [String; 2]) {
    let mut world = World::new(Durability::Memory, 8);
    let sessions = [(); 2].map(|()| {
        world.begin_session();
        world.session.clone()
    });
    let agents = [(world.agents[0], Pipe::Stdout), (world.agents[1], Pipe::Stdout)];
    (world, agents, sessions)
}

/// An agent's line that brings this much text.
fn line(size: usize) -> Vec<u8> {
    let text = "#".repeat(size);
    let line = format!(
        "{{\"type\":\"stream_event\",\"api_message_id\":\"m\",\"event\":{{\"type\":\
         \"content_block_delta\",\"index\":0,\"delta\":{{\"type\":\"text_delta\",\"text\":\
         \"{text}\"}}}}}}\n"
    );
    line.into_bytes()
}

/// How much text a session has told, and whether that a line was dropped.
fn told(world: &mut World, session: &str) -> (usize, bool) {
    world.rest(500); // The last of it waits for what may follow.
    let client = world.connect();
    let path = format!("/api/session/{session}/history?limit=1000");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let reply = world.told(client, &request);
    world.server.connection_lost(client);
    (reply.matches('#').count(), reply.contains("line_too_long"))
}

#[test]
fn a_long_line_that_halts_is_dropped_and_the_buffer_goes_to_who_waits() {
    let (mut world, [one, other], sessions) = two();
    let long = line(2 * LINE_SIZE);
    let halted = long.len() - 100;
    assert_eq!(world.pour(one, &long[..halted]), halted);
    world.rest(HALF_MS);
    let taken = world.pour(other, &long);
    assert!(taken <= LINE_SIZE, "another one has the buffer");
    world.rest(HALF_MS - 1_000);
    assert_eq!(world.pour(other, &long[taken..]), 0, "it has it still");
    world.rest(2_000);
    world.server.check();
    let rest = &long[taken..];
    assert_eq!(world.pour(other, rest), rest.len(), "the first line was dropped");
    world.finish_turn();
    assert_eq!(told(&mut world, &sessions[1]), (2 * LINE_SIZE, false));
    // What is left of the first line comes late, and the next line is heard.
    world.pour(one, &long[halted..]);
    world.pour(one, &line(10));
    world.finish_turn();
    assert_eq!(told(&mut world, &sessions[0]), (10, true));
    world.server.check();
}

#[test]
fn a_long_line_that_goes_on_is_not_dropped_and_who_waits_too_long_for_it_is() {
    let (mut world, [one, other], sessions) = two();
    let long = line(2 * LINE_SIZE);
    let mut at = world.pour(one, &long[..LINE_SIZE + 100]);
    let waiting = world.pour(other, &long);
    for _ in 0..4 {
        world.rest(HALF_MS);
        at += world.pour(one, &long[at..at + 100]);
        world.server.check();
    }
    let rest = &long[waiting..];
    assert_eq!(world.pour(other, rest), rest.len(), "it is skipped to its end");
    assert_eq!(world.pour(one, &long[at..]), long.len() - at);
    world.finish_turn();
    assert_eq!(told(&mut world, &sessions[0]), (2 * LINE_SIZE, false));
    assert_eq!(told(&mut world, &sessions[1]), (0, true));
    world.server.check();
}

#[test]
fn the_text_of_a_long_line_is_told_before_another_long_line_is_read() {
    let (mut world, [one, other], sessions) = two();
    // More than may be hidden at once: the rest is told commit by commit.
    let (huge, long) = (line(6 * LINE_SIZE), line(2 * LINE_SIZE));
    assert_eq!(world.pour(one, &huge), huge.len());
    let taken = world.pour(other, &long);
    assert!(taken <= LINE_SIZE, "its text is still being told");
    world.server.check();
    world.rest(2_000);
    let rest = &long[taken..];
    assert_eq!(world.pour(other, rest), rest.len());
    world.finish_turn();
    assert_eq!(told(&mut world, &sessions[1]), (2 * LINE_SIZE, false));
    assert!(!told(&mut world, &sessions[0]).1, "nothing of it was dropped");
    world.server.check();
}

#[test]
fn an_agent_that_goes_gives_the_buffer_back() {
    let (mut world, [one, other], sessions) = two();
    let long = line(2 * LINE_SIZE);
    world.pour(one, &long[..LINE_SIZE + 100]);
    let taken = world.pour(other, &long);
    let client = world.connect();
    world.ask(client, &post(&format!("/api/session/{}/interrupt", sessions[0]), "{}"));
    for pipe in [Pipe::Stdout, Pipe::Stderr] {
        world.server.agent_pipe_ended(one.0, pipe);
    }
    world.server.agent_exited(one.0, Exit::Code(0));
    world.finish_turn();
    world.server.check();
    let rest = &long[taken..];
    assert_eq!(world.pour(other, rest), rest.len());
    world.finish_turn();
    assert_eq!(told(&mut world, &sessions[1]), (2 * LINE_SIZE, false));
}
