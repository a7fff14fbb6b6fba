//! A million subscribers on paper: what one of them costs in one core, without sockets.
//!
//! `make million` holds 1,000,000 and prints the figures; the test run holds fewer, so that what is
//! measured keeps working. Bytes are exact, and held to; times, of the processor and not of
//! the clock, are printed only, since they are the machine's. The counting allocator is the one
//! place with `unsafe`.
#![allow(unsafe_code)]

#[path = "support/small_world.rs"]
mod small_world;

use sidestream::core::epochs::Durability;
use small_world::{HEARTBEAT_MS, World, deltas};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicUsize, Ordering::Relaxed};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: every call goes to `System` unchanged; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc(layout) }
    }
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        LIVE.fetch_add(layout.size(), Relaxed);
        unsafe { System.alloc_zeroed(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        LIVE.fetch_add(size, Relaxed);
        LIVE.fetch_sub(layout.size(), Relaxed);
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The bytes that a server with so many live subscribers holds.
fn held(subscribers: u32) -> (World, usize) {
    let before = LIVE.load(Relaxed);
    let (mut world, keys) = World::steady(Durability::Memory, subscribers);
    deltas(&mut world, 3); // Everybody is live, and has nothing left of its beginning.
    drop(keys);
    let held = LIVE.load(Relaxed) - before;
    (world, held)
}

/// The time that this thread had a processor: others want it, too.
fn processor_ns() -> u64 {
    let told = std::fs::read_to_string("/proc/thread-self/schedstat").expect("/proc");
    told.split(' ').next().and_then(|ns| ns.parse().ok()).expect("a number")
}

#[test]
fn a_subscriber_costs_no_more_than_its_slot() {
    let text = std::env::var("SUBSCRIBERS").unwrap_or_else(|_| "20000".to_owned());
    let count: u32 = text.parse().expect("a number");
    let (_, few) = held(8);
    let (mut world, many) = held(count);
    // The world has an eighth more slots than subscribers, so that there is room for others.
    let per_slot = (many - few) as f64 / f64::from(World::slots_for(count) - World::slots_for(8));
    println!("{count} subscribers: {per_slot:.1} bytes each");

    // The time for one of at least so many sends to each.
    let each = |world: &mut World, least: u64, work: &dyn Fn(&mut World)| {
        let (start, sent) = (processor_ns(), world.sends);
        work(world);
        let (ns, sends) = ((processor_ns() - start) as f64, world.sends - sent);
        assert!(sends >= least * u64::from(count), "everybody was sent everything: {sends}");
        ns / sends as f64
    };
    let publish = each(&mut world, 10, &|world| deltas(world, 10));
    println!("publish: {publish:.1} ns per event and subscriber");
    world.rest(HEARTBEAT_MS * 2);
    let beat = each(&mut world, 3, &|world| world.rest(HEARTBEAT_MS * 4));
    println!("heartbeat: {beat:.1} ns per beat and subscriber");
    // What does not grow with the subscribers shows in the fraction.
    assert!(per_slot.round() <= 64.0, "{per_slot} bytes, 64 were agreed");
}
