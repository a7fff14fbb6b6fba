//! What an agent says on its standard error outside of any turn belongs to none, also where it was
//! still being joined when a turn began; and what is said after an agent's end begins no turn that lasts.

#[path = "support/small_world.rs"]
mod small_world;

use serde_json::Value;
use sidestream::core::effect::{Exit, Pipe};
use sidestream::core::epochs::Durability;
use small_world::{World, post};

const RESULT: &str = include_str!("fixtures/claude/result.success.json");
const ASSISTANT: &str = include_str!("fixtures/claude/assistant.text.json");

/// Two lines so soon after each other that the second one waits for more.
fn murmur(world: &mut World) {
    let agent = *world.agents.last().expect("it was started");
    for (by_ms, text) in [(1_000, "one\n"), (8, "two\n")] {
        world.begin_turn(by_ms);
        assert_eq!(world.pour((agent, Pipe::Stderr), text.as_bytes()), text.len());
        world.finish_turn();
    }
}

/// The session's events so far.
fn history(world: &mut World) -> Vec<Value> {
    let client = world.connect();
    let path = format!("/api/session/{}/history", world.session);
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let reply = world.told(client, &request);
    let (_, body) = reply.split_once("\r\n\r\n").expect("a whole answer");
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["events"].as_array().expect("events").clone()
}

/// Their names, their turns, and their text.
fn events(world: &mut World) -> Vec<(String, Option<String>, Option<String>)> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let told = |one: &Value| {
        let (name, data) = (text(&one["event"]).expect("a name"), &one["data"]);
        (name, text(&data["turnId"]), text(&data["content"]))
    };
    history(world).iter().map(told).collect()
}

/// Checks that both lines came before the newest turn, and are of no turn.
fn check_murmur(world: &mut World) {
    let events = events(world);
    let begun = events.iter().rposition(|(name, ..)| name == "prompt-started").expect("a turn");
    let is_output = |(name, ..): &&(String, _, _)| name == "session-output";
    let before: Vec<_> = events[..begun].iter().filter(is_output).rev().take(2).collect();
    let murmured = |one: &(String, Option<String>, Option<String>), text: &str| {
        one.1.is_none() && one.2.as_deref() == Some(text)
    };
    let fits = before.len() == 2 && murmured(before[1], "one\n") && murmured(before[0], "two\n");
    assert!(fits, "{events:?}");
}

#[test]
fn what_an_agent_murmurs_while_it_starts_is_not_of_the_turn_that_waits_for_it() {
    let mut world = World::new(Durability::Memory, 8);
    world.start_session();
    murmur(&mut world);
    world.agent_ready();
    check_murmur(&mut world);
}

#[test]
fn what_an_agent_murmurs_between_turns_is_not_of_the_one_that_it_begins_itself() {
    let mut world = World::new(Durability::Memory, 8);
    world.begin_session();
    for line in [RESULT, ASSISTANT] {
        if line == ASSISTANT {
            murmur(&mut world);
        }
        world.agent_says(&one_line(line));
        world.finish_turn();
    }
    check_murmur(&mut world);
}

/// The agent that was started last ends before it is ready, and with it the prompt that it was
/// started for.
fn end_agent(world: &mut World) {
    let agent = *world.agents.last().expect("it was started");
    for pipe in [Pipe::Stdout, Pipe::Stderr] {
        world.server.agent_pipe_ended(agent, pipe);
    }
    world.server.agent_exited(agent, Exit::Code(1));
    world.finish_turn();
}

/// The data of what was told as output.
fn outputs(world: &mut World) -> Vec<Value> {
    let all = history(world);
    let is_output = |one: &&Value| one["event"] == "session-output";
    all.iter().filter(is_output).map(|one| one["data"].clone()).collect()
}

#[test]
fn each_text_of_a_murmur_says_how_much_came_before_it() {
    let mut world = World::new(Durability::Memory, 8);
    world.start_session();
    for start in 0..2 {
        if start > 0 {
            let (client, path) =
                (world.connect(), format!("/api/session/{}/prompt", world.session));
            world.ask(client, &post(&path, "{\"command\":\"again\"}"));
        }
        murmur(&mut world);
        world.begin_turn(1_000);
        world.agent_says("no line of the dialect: \u{1f600}\n");
        world.finish_turn();
        murmur(&mut world);
        end_agent(&mut world);
    }
    // Each process speaks from its own beginning.
    let mut said: Vec<(String, String)> = Vec::new();
    for data in outputs(&mut world) {
        let id = data["messageId"].as_str().unwrap();
        if said.last().is_none_or(|(last, _)| last != id) {
            said.push((id.to_owned(), String::new()));
        }
        let (_, text) = said.last_mut().unwrap();
        assert_eq!(data["offset"], text.encode_utf16().count(), "{data}");
        text.push_str(data["content"].as_str().unwrap());
    }
    let texts: Vec<&str> = said.iter().map(|(_, text)| &**text).collect();
    assert_eq!(texts, ["one\ntwo\nno line of the dialect: \u{1f600}\none\ntwo\n"; 2]);
}

fn one_line(json: &str) -> String {
    let value: Value = serde_json::from_str(json).expect("JSON");
    format!("{value}\n")
}

/// What an agent has left behind holds its pipes, and may say something of its own after its end was
/// told: a turn begins with it, and nobody is there to end it but us.
#[test]
fn a_turn_that_is_begun_by_what_an_agent_left_behind_has_an_end() {
    let mut world = World::new(Durability::Memory, 1);
    world.begin_session();
    let agent = *world.agents.last().expect("it was started");
    world.agent_says(&one_line(RESULT));
    world.finish_turn();
    world.left_behind = 1;
    world.server.agent_exited(agent, Exit::Code(0));
    world.finish_turn();
    world.rest(3_000);
    world.agent_says(&one_line(ASSISTANT));
    world.finish_turn();
    let begun = |events: &[(String, Option<String>, Option<String>)]| {
        let of = |name: &str| events.iter().filter(|(told, ..)| told == name).count();
        let ends = ["prompt-completed", "prompt-failed"].map(of);
        (of("prompt-started"), ends.iter().sum::<usize>())
    };
    assert_eq!(begun(&events(&mut world)), (2, 1), "it has begun one: {:?}", events(&mut world));
    world.left_behind = 0;
    world.rest(1_000);
    assert_eq!(begun(&events(&mut world)), (2, 2), "and it has ended: {:?}", events(&mut world));
}
