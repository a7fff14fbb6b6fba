//! The whole server in a fake world, many seeds: no socket, no clock, no process, no file.
//!
//! Every seed draws its own world: limits, faults, clients, agents, disk. After each step the
//! server checks itself and every byte that a client received is judged; now and then it is killed,
//! or the power fails, and what its journals hold is compared with what it had shown. At the end
//! the world heals or is told to stop in the middle, and everything must come to its end.
//! `SIM_SEED=<n>` replays one seed and tells what happens, `SIM_SEEDS=<n>` says how many there are,
//! and `SIM_FROM=<n>` which is the first.

mod agent;
mod client;
mod disk;
mod eras;
mod erased;
mod model;
mod people;
mod random;
mod requests;
mod shell;
mod tally;
mod world;

/// What the journal's code, compiled here, calls its own crate.
mod core {
    pub use sidestream::core::*;
}
mod limits {
    pub use sidestream::limits::*;
}
mod wire {
    pub use sidestream::wire::*;
}

use sidestream::core::server::End;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Mutex, PoisonError};
use tally::Tally;
use world::World;

/// Seeds of a run by default: about a minute of one processor in the dev profile.
const SEEDS: u64 = 2_000;
/// Every so many seeds, one is lived through twice.
const AGAIN: u64 = 8;
/// Seeds that may fail before the rest is given up.
const FAILURES_MAX: usize = 8;
/// Turns in which people and faults have their way.
const STEPS: u64 = 500;
/// Turns after which a healed world must have come to rest.
const REST_STEPS_MAX: u64 = 20_000;
/// Turns in a row in which the server woke up and nothing came of it.
const IDLE_WAKES_MAX: u64 = 300;

/// Lives one world from its beginning to its end.
fn run(seed: u64, loud: bool) -> (u64, Tally) {
    let mut world = World::new(seed);
    world.loud = loud;
    let lives = if world.random.chance(300) { 2 } else { 1 };
    for life in 1..=lives {
        for _ in 0..STEPS / lives {
            world.weather();
            world.live();
            world.turn();
            world.fate();
        }
        let gently = world.random.chance(600);
        if gently {
            rest(&mut world);
            world.check_delivered();
        }
        stop(&mut world, gently);
        if world.cut {
            break;
        }
        if life < lives {
            world.come_back();
        }
    }
    (world.hash, std::mem::take(&mut world.model.tally))
}

/// Without faults, and with a human who answers, every prompt comes to its end.
fn rest(world: &mut World) {
    world.healed = true;
    world.weather();
    let deadline = world.step + REST_STEPS_MAX;
    let (mut quiet, mut visible) = (0, 0);
    while quiet < 50 {
        if world.step >= deadline {
            panic!("{}: it does not come to rest: {}", world.context(), world.describe());
        }
        world.settle();
        world.turn();
        let busy = world.model.sessions.iter().any(|session| {
            let waits = session.queued().count() > 0 || !session.approvals.is_empty();
            !session.truncated && (session.is_running() || waits)
        });
        let busy = busy || world.connections.values().any(|one| one.blocked);
        let busy = busy || world.disk.len() > 0;
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
    world.weather();
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
        let (context, how) = (world.context(), || world.describe());
        assert!(idle_wakes < IDLE_WAKES_MAX, "{context}: it wakes for nothing: {}", how());
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

/// Seeds that are lived through on every processor, until some have failed.
fn run_all(from: u64, seeds: u64) -> (Tally, Vec<u64>) {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let (next, total) = (AtomicU64::new(from), Mutex::new((Tally::default(), Vec::new())));
    let work = || {
        loop {
            let seed = next.fetch_add(1, Relaxed);
            let lived =
                (seed < from + seeds).then(|| std::panic::catch_unwind(|| live_and_again(seed)));
            let mut total = total.lock().unwrap_or_else(PoisonError::into_inner);
            match lived {
                None => return,
                Some(Ok(tally)) => total.0.join(&tally),
                Some(Err(_)) => {
                    eprintln!("seed={seed} has failed: see above");
                    total.1.push(seed);
                }
            }
            if total.1.len() >= FAILURES_MAX {
                return;
            }
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    total.into_inner().unwrap_or_else(PoisonError::into_inner)
}

/// One seed, some of them twice: a second run must be identical.
fn live_and_again(seed: u64) -> Tally {
    let first = run(seed, false);
    if seed.is_multiple_of(AGAIN) {
        assert!(first == run(seed, false), "seed={seed}: a second run differs");
    }
    first.1
}

#[test]
fn every_world_comes_to_its_end_and_nobody_was_told_anything_wrong() {
    if let Some(seed) = number("SIM_SEED") {
        let (hash, tally) = run(seed, true);
        tally.print();
        println!("seed={seed} hash={hash:016x}");
        return;
    }
    let seeds = number("SIM_SEEDS").unwrap_or(SEEDS);
    let (total, failed) = run_all(number("SIM_FROM").unwrap_or(0), seeds);
    total.print();
    assert!(failed.is_empty(), "failed: {failed:?}; SIM_SEED=<n> replays one");
    if seeds >= SEEDS {
        assert!(total.missing().is_empty(), "never reached: {:?}", total.missing());
    }
}
