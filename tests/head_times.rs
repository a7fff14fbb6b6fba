//! How long a client may take with a head that it has begun behind another request: as long as with any
//! other, from when its turn comes. An empty line behind a body begins none.

#[path = "support/small_world.rs"]
mod small_world;

use sidestream::base::arena::Key;
use sidestream::core::epochs::Durability;
use sidestream::limits::Limits;
use small_world::World;

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// A request that is answered in so many seconds, since nothing happens.
fn poll(wait_s: u64) -> String {
    format!("GET /api/events/poll?wait={wait_s} HTTP/1.1\r\nHost: localhost\r\n\r\n")
}

/// What anybody is told while so much time passes.
fn passing(world: &mut World, ms: u64) -> String {
    let mut told = String::new();
    for _ in 0..ms / 250 {
        world.begin_turn(250);
        told += &world.told_by(|_| {});
    }
    told
}

/// The times of this world's server: for a head, and between two requests.
fn times() -> (u64, u64) {
    let limits = Limits::default();
    (limits.head_timeout_ms, limits.keep_alive_ms)
}

fn open(world: &World, key: Key) -> bool {
    world.server.has_connection(key)
}

#[test]
fn a_head_begun_behind_a_request_that_waits_has_its_own_time() {
    let (head_ms, _) = times();
    for wait_s in [1, 12] {
        let mut world = World::new(Durability::Memory, 1);
        let client = world.connect();
        let (begun, rest) = HEALTH.split_at(9);
        assert_eq!(world.told(client, &(poll(wait_s) + begun)), "");
        let told = passing(&mut world, wait_s * 1000 + 500);
        assert!(told.starts_with("HTTP/1.1 200") && !told.contains("408"), "{told}");
        let late = passing(&mut world, head_ms - 1_000);
        assert_eq!(late, "", "its time is not over");
        assert!(world.told(client, rest).starts_with("HTTP/1.1 200"));
    }
}

#[test]
fn and_no_more_than_that() {
    let (head_ms, keep_ms) = times();
    let mut world = World::new(Durability::Memory, 1);
    let client = world.connect();
    world.told(client, &(poll(1) + &HEALTH[..9]));
    assert!(passing(&mut world, 1_250).starts_with("HTTP/1.1 200"));
    let told = passing(&mut world, head_ms + 500);
    assert!(told.starts_with("HTTP/1.1 408"), "{told}");
    // Nor where the answer comes sooner than the wait would have been over.
    let client = world.connect();
    world.told(client, &(poll(40) + &HEALTH[..9]));
    passing(&mut world, 1_000);
    world.start_session();
    let told = passing(&mut world, head_ms + 500);
    assert!(told.contains("HTTP/1.1 408"), "{told}");
    assert!(head_ms + 2_000 < 40_000 && head_ms < keep_ms);
}

#[test]
fn who_always_has_begun_the_next_one_is_served_on() {
    let (head_ms, _) = times();
    let mut world = World::new(Durability::Memory, 1);
    let client = world.connect();
    let (begun, rest) = HEALTH.split_at(9);
    assert_eq!(world.told(client, begun), "");
    for _ in 0..2 * head_ms / 500 {
        passing(&mut world, 500);
        let told = world.told(client, &format!("{rest}{begun}"));
        assert!(told.starts_with("HTTP/1.1 200") && !told.contains("408"), "{told}");
    }
}

#[test]
fn an_empty_line_behind_a_request_begins_none() {
    let (head_ms, keep_ms) = times();
    for line in ["\r\n", "\r"] {
        for first in [HEALTH.to_owned(), poll(1)] {
            let mut world = World::new(Durability::Memory, 1);
            let client = world.connect();
            let told = world.told(client, &(first + line)) + &passing(&mut world, 1_250);
            assert!(told.starts_with("HTTP/1.1 200") && !told.contains("408"), "{told}");
            assert_eq!(passing(&mut world, head_ms + 2_000), "");
            let rest = if line == "\r" { "\n" } else { "" };
            // Now one begins, and has the time of one.
            assert_eq!(world.told(client, &format!("{rest}{}", &HEALTH[..9])), "");
            let told = passing(&mut world, head_ms + 500);
            assert!(told.starts_with("HTTP/1.1 408"), "{told}");
        }
    }
    let mut world = World::new(Durability::Memory, 1);
    let client = world.connect();
    world.told(client, &format!("{HEALTH}\r\n"));
    assert_eq!(passing(&mut world, keep_ms - 1_000), "");
    assert!(open(&world, client));
    assert_eq!(passing(&mut world, 2_000), "", "as if it had said nothing");
    assert!(!open(&world, client));
}
