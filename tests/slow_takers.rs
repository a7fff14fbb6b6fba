//! Clients that take a little of a reply now and then: each makes progress and holds the reply's
//! memory, so that one which is slower than a body may come is cut.

#[path = "support/small_world.rs"]
mod small_world;

use sidestream::base::arena::Key;
use sidestream::core::connection::Output;
use sidestream::core::effect::Effect;
use sidestream::core::epochs::Durability;
use small_world::World;

/// Between two times that the client takes something.
const STEP_MS: u64 = 250;

/// Takes up to `count` bytes of what there is for a client, as its kernel does. Returns how many.
fn take(world: &mut World, key: Key, count: usize) -> usize {
    world.server.writable(key);
    while let Some(pending) = world.server.next_pending() {
        assert_eq!(pending, key, "there is nobody else");
    }
    let Output::Bytes(parts) = world.server.output(key) else { return 0 };
    let size = parts.iter().map(|part| part.len()).sum::<usize>().min(count);
    world.server.sent(key, size);
    world.server.blocked(key);
    size
}

/// What becomes of a client that takes so much of a page at each step: it has all of it, or is cut
/// after so long.
fn outcome(count: usize) -> Result<usize, u64> {
    let mut world = World::new(Durability::Memory, 8);
    let key = world.connect();
    world.server.received(key, b"GET /openapi.yaml HTTP/1.1\r\nHost: localhost\r\n\r\n");
    let (mut taken, mut waited_ms) = (0, 0);
    loop {
        let size = take(&mut world, key, count);
        taken += size;
        if size < count {
            return Ok(taken);
        }
        world.begin_turn(STEP_MS);
        waited_ms += STEP_MS;
        while let Some(effect) = world.server.next_effect() {
            if matches!(effect, Effect::Close(closed) if closed == key) {
                return Err(waited_ms);
            }
        }
    }
}

#[test]
fn one_that_is_slower_than_a_body_may_be_is_cut_and_one_that_is_not_gets_all() {
    let world = World::new(Durability::Memory, 8);
    let limits = &world.server.limits;
    let (stall_ms, rate) = (limits.write_stall_ms, limits.body_rate_min);
    let least = rate * STEP_MS as usize / 1000;
    let cut_after = outcome(least / 2).expect_err("it is cut");
    assert!((stall_ms..stall_ms + 1_000).contains(&cut_after), "{cut_after} ms");
    assert!(outcome(least * 2).expect("it gets all") > 50_000);
}
