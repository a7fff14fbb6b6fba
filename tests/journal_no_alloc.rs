//! The way of an event to the disk takes no memory: not the batch, not its parts, not the file.
//!
//! A server with journals is brought to its steady state on a real directory; then every allocation
//! is counted while its agent speaks, each event is handed over, written and shown. The counting
//! allocator is the one place with `unsafe`.
#![allow(unsafe_code)]

#[path = "support/small_world.rs"]
mod small_world;

use sidestream::core::epochs::Durability;
use sidestream::shell::journal;
use sidestream::wire::sse::Epoch;
use small_world::{World, deltas};
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::path::PathBuf;

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to `System` unchanged; the counter does not allocate.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.alloc(layout) }
    }
    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// A directory of our own, removed at the end.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

#[test]
fn writing_an_event_takes_no_memory() {
    for durability in [Durability::Write, Durability::Sync] {
        let name = format!("sidestream-no-alloc-{}-{}", durability.as_str(), std::process::id());
        let scratch = Scratch(std::env::temp_dir().join(name));
        std::fs::create_dir_all(&scratch.0).unwrap();
        let opened = journal::open(&scratch.0, durability, Epoch::new(7)).unwrap();
        assert!(opened.store.is_some(), "it is written");
        let mut world = World::with(opened.epochs, opened.store, 0);
        world.begin_session();
        // The rings have wrapped. An open block keeps its text, whose buffer doubles: it has just
        // done so, and has room for what is to come.
        deltas(&mut world, 1_100);
        let (before, batches) = (ALLOCATIONS.with(Cell::get), world.batches);
        deltas(&mut world, 300);
        let taken = ALLOCATIONS.with(Cell::get) - before;
        assert_eq!(world.batches - batches, 300, "each event is a batch of its own");
        assert_eq!(taken, 0, "in 300 batches, {durability:?}");
    }
}
