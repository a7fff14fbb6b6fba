//! A client on another machine that says that it will send no more, while its request waits: it may
//! have gone, which nothing would tell, so it is answered at once and holds no place for nobody. On
//! this machine the kernel tells, and it waits on: `tests/leavers.rs`.

#[path = "support/small_world.rs"]
mod small_world;

use serde_json::Value;
use sidestream::core::access::tokens::{self, Scope, Tokens};
use sidestream::core::connection::Peer;
use sidestream::core::epochs::Durability;
use small_world::World;

const TOKEN: &str = "sst_it_is_me";

/// A session in the middle of its turn, and a token for those who come from elsewhere.
fn world() -> World {
    let mut world = World::new(Durability::Memory, 8);
    world.begin_session();
    let line = tokens::line("me", Scope::Full, TOKEN).expect("a line");
    world.server.config.access.tokens = Tokens::parse(&line).expect("a token");
    world
}

/// What such a client is told in answer to this request, before and after it sends its last byte.
fn told(world: &mut World, head: &str, body: &str) -> (String, String) {
    let remote = Peer::Remote { address: "192.0.2.7".parse().expect("an address") };
    let key = world.server.accepted(remote).expect("there is room");
    let request = format!(
        "{head} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {TOKEN}\r\n\
         Content-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    );
    let before = world.told(key, &request);
    assert!(world.server.is_waiting(key) == before.is_empty());
    let after = world.told_by(|server| server.peer_ended(key));
    assert!(!world.server.is_waiting(key), "its place is free");
    (before, after)
}

fn body(answer: &str, status: &str) -> Value {
    let (head, body) = answer.split_once("\r\n\r\n").expect("a whole answer");
    assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{head}");
    serde_json::from_str(body).expect("JSON")
}

#[test]
fn a_long_poll_is_answered_with_no_events_and_the_cursor_to_go_on_from() {
    let mut world = world();
    let path = format!("/api/session/{}/events/poll", world.session);
    let (newest, _) = told(&mut world, &format!("GET {path}?wait=0"), "");
    let next = body(&newest, "200")["next"].as_str().expect("a cursor").to_owned();
    let (before, after) = told(&mut world, &format!("GET {path}?wait=60&after={next}"), "");
    assert_eq!(before, "", "it waits");
    let page = body(&after, "200");
    assert_eq!((&page["events"], &page["next"]), (&Value::Array(vec![]), &Value::from(next)));
}

#[test]
fn who_waits_for_the_end_of_a_prompt_is_told_that_it_is_accepted() {
    let mut world = world();
    let path = format!("POST /api/session/{}/prompt?wait=60", world.session);
    let (before, after) = told(&mut world, &path, "{\"command\":\"and then\"}");
    assert_eq!(before, "", "it waits");
    let accepted = body(&after, "202");
    assert!(accepted["promptId"].is_string() && accepted["success"] == true, "{accepted}");
}
