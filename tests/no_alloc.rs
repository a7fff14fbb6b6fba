//! After start-up the hot path takes no memory: not little, none.
//!
//! A server with one agent and many readers is brought to its steady state; then every
//! allocation is counted while events are published and sent to all of them, and while the
//! readers are sent heartbeats. What joining, leaving and asking cost is measured and printed. The
//! counting allocator is the one place with `unsafe`.
#![allow(unsafe_code)]

use sidestream::base::arena::{Arena, Key};
use sidestream::base::list::Links;
use sidestream::base::ring::{Mark, Ring};
use sidestream::base::wheel::Wheel;
use sidestream::core::connection::{Connection, Exchange, Own, Reader};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use steady::{Bench, READERS, deltas};

#[path = "support/steady.rs"]
mod steady;

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

fn allocations(of: impl FnOnce()) -> u64 {
    let before = ALLOCATIONS.with(Cell::get);
    of();
    ALLOCATIONS.with(Cell::get) - before
}

#[test]
fn publishing_and_sending_to_many_readers_takes_no_memory() {
    let (mut bench, _readers) = steady::steady(READERS);
    // The rings have wrapped and every buffer has its size; an open block keeps its text up to a
    // bound, which its buffer reaches.
    deltas(&mut bench, 120_000);
    let sent = bench.sent;
    let taken = allocations(|| deltas(&mut bench, 2_000));
    let per_reader = (bench.sent - sent) / u64::from(READERS) / 2_000;
    assert!(per_reader > 150, "every reader is sent every event: {per_reader} bytes");
    assert_eq!(taken, 0, "in 2000 events to {READERS} readers");
    bench.server.check();
}

#[test]
fn heartbeats_take_no_memory() {
    let (mut bench, _readers) = steady::steady(READERS);
    let beat = |bench: &mut Bench| {
        for _ in 0..100 {
            bench.begin_turn(1_000);
            bench.finish_turn();
        }
    };
    beat(&mut bench);
    let sent = bench.sent;
    let taken = allocations(|| beat(&mut bench));
    assert!(bench.sent - sent > 19 * 50 * u64::from(READERS), "every reader had its heartbeats");
    assert_eq!(taken, 0, "in 100 s of {READERS} readers");
}

#[test]
fn joining_leaving_and_asking_cost_what_is_printed() {
    let (mut bench, mut readers) = steady::steady(READERS);
    let mut cost = [0; 3];
    for round in 0..400 {
        bench.begin_turn(10);
        let leaver = readers.remove(0);
        let left = allocations(|| {
            bench.server.connection_lost(leaver);
            bench.finish_turn();
        });
        let session = &bench.session;
        let request = format!(
            "GET /api/session/{session}/events?replay=none HTTP/1.1\r\nHost: localhost\r\n\r\n"
        );
        let joined = allocations(|| {
            let key = bench.connect();
            bench.ask(key, &request);
            readers.push(key);
        });
        let client = bench.connect();
        bench.ask(client, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        let asked = allocations(|| {
            bench.ask(client, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        });
        bench.server.connection_lost(client);
        if round >= 200 {
            cost = [cost[0] + joined, cost[1] + left, cost[2] + asked];
        }
    }
    println!("allocations a join: {}", cost[0] as f64 / 200.0);
    println!("allocations a leave: {}", cost[1] as f64 / 200.0);
    println!("allocations a GET /health: {}", cost[2] as f64 / 200.0);
    bench.server.check();
}

#[test]
fn slots_have_the_sizes_that_were_agreed() {
    // A growth here is memory times a hundred thousand: raise a number only on purpose.
    let sizes = [
        ("a connection", size_of::<Connection>(), 144),
        ("a reader", size_of::<Reader>(), 112),
        ("bytes of its own", size_of::<Own>(), 32),
        ("an exchange", size_of::<Exchange>(), 480),
        ("a mark", size_of::<Mark>(), 24),
        ("a key", size_of::<Key>(), 12),
        ("a wheel's entry", Wheel::memory(1_001) - Wheel::memory(1), 16_000),
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
