//! After start-up the hot path takes no memory: not little, none.
//!
//! A server with one agent and many readers is brought to its steady state; then every
//! allocation is counted while events are published and sent to all of them, through the journal's
//! batches as well, while readers join, leave and are sent heartbeats, and while somebody asks. The
//! counting allocator is the one place with `unsafe`.
#![allow(unsafe_code)]

#[path = "support/small_world.rs"]
mod small_world;

use sidestream::base::arena::{Arena, Key};
use sidestream::base::list::Links;
use sidestream::base::ring::{Mark, Ring};
use sidestream::base::wheel::Wheel;
use sidestream::core::connection::{Connection, Exchange, Rare, Reader};
use sidestream::core::epochs::Durability;
use sidestream::core::journal::Journal;
use sidestream::core::prompts::Taken;
use sidestream::core::publisher::Feed;
use sidestream::core::session::Session;
use small_world::{World, deltas, post};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

thread_local! {
    // Of this thread alone: the test harness allocates in its own.
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

fn count() {
    ALLOCATIONS.with(|count| count.set(count.get() + 1));
}

// SAFETY: every call goes to `System` unchanged; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count();
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count();
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const READERS: u32 = 64;

fn steady(durability: Durability) -> (World, Vec<Key>) {
    World::steady(durability, READERS)
}

fn allocations(of: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    of();
    ALLOCATIONS.with(Cell::get) - before
}

/// Publishes to all readers until the rings have wrapped and every buffer has its size (an open block
/// keeps its text up to a bound, which its buffer reaches), then counts.
fn publish_in_steady_state(durability: Durability) -> u64 {
    let (mut world, _readers) = steady(durability);
    deltas(&mut world, 120_000);
    let sent = world.sent;
    let taken = allocations(|| deltas(&mut world, 2_000));
    let per_reader = (world.sent - sent) / u64::from(READERS) / 2_000;
    assert!(per_reader > 150, "every reader is sent every event: {per_reader} bytes");
    world.server.check();
    taken
}

#[test]
fn publishing_and_sending_to_many_readers_takes_no_memory() {
    let taken = publish_in_steady_state(Durability::Memory);
    assert_eq!(taken, 0, "in 2000 events to {READERS} readers");
}

#[test]
fn publishing_through_the_journals_batches_takes_no_memory() {
    let taken = publish_in_steady_state(Durability::Write);
    assert_eq!(taken, 0, "in 2000 events to {READERS} readers");
}

#[test]
fn heartbeats_take_no_memory() {
    let (mut world, _readers) = steady(Durability::Memory);
    let beat = |world: &mut World| {
        for _ in 0..100 {
            world.begin_turn(1_000);
            world.finish_turn();
        }
    };
    beat(&mut world);
    let sent = world.sent;
    let taken = allocations(|| beat(&mut world));
    assert!(world.sent - sent > 19 * 50 * u64::from(READERS), "every reader had its heartbeats");
    assert_eq!(taken, 0, "in 100 s of {READERS} readers");
}

const HEALTH: &str = "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n";
const METRICS: &str = "GET /api/debug/metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";

#[test]
fn joining_leaving_and_asking_take_no_memory() {
    for durability in [Durability::Memory, Durability::Write] {
        let (mut world, mut readers) = steady(durability);
        let session = &world.session;
        let request = format!(
            "GET /api/session/{session}/events?replay=none HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        // Joined, left, asked whether it is well, asked for the figures.
        let mut cost = [0; 4];
        for round in 0..400 {
            world.begin_turn(10);
            let leaver = readers.remove(0);
            let left = allocations(|| {
                world.server.connection_lost(leaver);
                world.finish_turn();
            });
            let joined = allocations(|| {
                let key = world.connect();
                world.ask(key, &request);
                readers.push(key);
            });
            let client = world.connect();
            let [asked, figures] =
                [HEALTH, METRICS].map(|request| allocations(|| world.ask(client, request)));
            world.server.connection_lost(client);
            world.finish_turn();
            if round >= 200 {
                for (sum, count) in cost.iter_mut().zip([joined, left, asked, figures]) {
                    *sum += count;
                }
            }
        }
        // The figures are put together for the answer: a list of logs, and a name for each.
        let figures = cost[3] as f64 / 200.0;
        println!("allocations a GET /api/debug/metrics: {figures}");
        assert!(figures <= 3.0, "{figures}");
        assert_eq!(cost[..3], [0; 3], "in 200 rounds with {durability:?}");
        world.server.check();
    }
}

#[test]
fn a_prompt_takes_a_bounded_number_of_pieces_of_memory() {
    // A prompt is kept, remembered, told and written to its agent: that is memory, but not much.
    let (mut world, _readers) = steady(Durability::Write);
    let client = world.connect();
    let prompt = format!("/api/session/{}/prompt", world.session);
    let asked = post(&prompt, "{\"command\":\"go\"}");
    let cost = (0..20).map(|_| allocations(|| world.ask(client, &asked))).max();
    println!("allocations a prompt: {cost:?}");
    assert!(cost.is_some_and(|cost| cost <= 20), "{cost:?}");
}

#[test]
fn slots_have_the_sizes_that_were_agreed() {
    // A growth here is memory times a hundred thousand: raise a number only on purpose.
    let sizes = [
        ("a connection", size_of::<Connection>(), 40),
        ("a reader", size_of::<Reader>(), 32),
        ("what it rarely has", size_of::<Rare>(), 80),
        ("an exchange", size_of::<Exchange>(), 512),
        ("a session", size_of::<Session>(), 472),
        ("its feed", size_of::<Feed>(), 200),
        ("its journal", size_of::<Journal>(), 72),
        ("a prompt remembered", size_of::<Taken>(), 64),
        ("a mark", size_of::<Mark>(), 24),
        ("a key", size_of::<Key>(), 12),
        ("a wheel's entry", Wheel::memory(1_001) - Wheel::memory(1), 12_000),
        ("a ring beside its bytes", Ring::memory(1 << 20) - (1 << 20), 98_304),
    ];
    for (what, size, most) in sizes {
        println!("{what}: {size} bytes");
        assert!(size <= most, "{what} takes {size} bytes, {most} were agreed");
    }
    let before = ALLOCATIONS.with(Cell::get);
    drop((Arena::<u64>::new(0, 1000), Links::new(1000), Wheel::new(1000)));
    assert!(ALLOCATIONS.with(Cell::get) - before <= 6, "arenas, lists and timers are taken whole");
}
