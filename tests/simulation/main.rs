//! The whole server in a fake world, many seeds: no socket, no clock, no process, no thread.
//!
//! Every seed draws its own world: limits, faults, clients, agents. After each step the server
//! checks itself and every byte that a client received is judged; at the end the world heals or is
//! told to stop in the middle, and everything must come to its end. `SIM_SEED=<n>` replays one
//! seed, `SIM_SEEDS=<n>` says how many there are.

mod agent;
mod client;
mod model;
mod people;
mod random;
mod requests;
mod tally;
mod world;

use sidestream::core::server::End;
use tally::Tally;
use world::World;

/// Seeds of a run by default: about 15 s in the dev profile.
const SEEDS: u64 = 150;
/// Turns in which people and faults have their way.
const STEPS: u64 = 500;
/// Turns after which a healed world must have come to rest.
const REST_STEPS_MAX: u64 = 20_000;
/// Turns in a row in which the server woke up and nothing came of it.
const IDLE_WAKES_MAX: u64 = 300;

/// Lives one world from its beginning to its end.
fn run(seed: u64) -> (u64, Tally) {
    let mut world = World::new(seed);
    for _ in 0..STEPS {
        world.live();
        world.turn();
    }
    let gently = world.random.chance(600);
    if gently {
        rest(&mut world);
        world.check_delivered();
    }
    stop(&mut world, gently);
    (world.hash, world.model.tally)
}

/// Without faults, and with a human who answers, every prompt comes to its end.
fn rest(world: &mut World) {
    world.healed = true;
    let deadline = world.step + REST_STEPS_MAX;
    let (mut quiet, mut visible) = (0, 0);
    while quiet < 50 {
        if world.step >= deadline {
            panic!("{}: it does not come to rest: {}", world.context(), world.describe());
        }
        world.settle();
        world.turn();
        let busy = world.model.sessions.iter().any(|session| {
            session.is_running() || session.queued().count() > 0 || !session.approvals.is_empty()
        });
        let busy = busy || world.connections.values().any(|one| one.blocked);
        let news = std::mem::replace(&mut visible, world.model.visible) != world.model.visible;
        quiet = if busy || news { 0 } else { quiet + 1 };
    }
}

/// The server is told to stop, and must be gone without a trace.
fn stop(world: &mut World, gently: bool) {
    let streams = world.connections.values().filter(|one| one.stream.is_some()).count();
    let running = world.model.sessions.iter().filter(|one| one.is_running()).count();
    let queued: usize = world.model.sessions.iter().map(|one| one.queued().count()).sum();
    world.model.tally.add("drain-with-streams", streams as u64);
    world.model.tally.add("drain-with-turns", running as u64);
    world.model.tally.add("drain-with-queue", queued as u64);
    world.server.stop();
    world.healed = true;
    let twice = !gently && world.random.chance(300);
    let deadline = world.step + REST_STEPS_MAX;
    let mut idle_wakes = 0;
    let end = loop {
        assert!(world.step < deadline, "{}: it does not stop", world.context());
        world.turn();
        if twice && !world.cut && world.random.chance(300) {
            world.model.tally.hit("stop-twice");
            world.cut = true;
            world.server.stop();
        }
        if let Some(end) = world.server.finished() {
            break end;
        }
        idle_wakes = if world.inputs > 0 { 0 } else { idle_wakes + u64::from(world.woken) };
        assert!(idle_wakes < IDLE_WAKES_MAX, "{}: it wakes for nothing", world.context());
    };
    if world.cut {
        return;
    }
    assert_eq!(end, End::Clean, "{}: {:?}", world.context(), world.server.population());
    let (connections, _, agents) = world.server.population();
    assert_eq!((connections, agents), (0, 0), "{}", world.context());
    world.model.check_ended(true);
    let (open, processes, _) = world.leftovers();
    assert_eq!((open, processes), (0, 0), "{}: left open", world.context());
    assert!(!world.listening, "{}: it still listens", world.context());
}

fn number(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name} must be a number, not {text:?}")))
}

#[test]
fn every_world_comes_to_its_end_and_nobody_was_told_anything_wrong() {
    if let Some(seed) = number("SIM_SEED") {
        let (hash, tally) = run(seed);
        tally.print();
        println!("seed={seed} hash={hash:016x}");
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let mut total = Tally::default();
    for seed in 0..seeds {
        let first = run(seed);
        if seed % 4 == 0 {
            assert!(first == run(seed), "seed={seed}: a second run differs");
        }
        total.join(&first.1);
    }
    total.print();
    if seeds >= SEEDS {
        assert!(total.missing().is_empty(), "never reached: {:?}", total.missing());
    }
}
