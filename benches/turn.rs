//! One turn of the loop in a world without a kernel: a delta in, a frame to each reader out; a
//! request in, its answer out; heartbeats.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/support/small_world.rs"]
mod small_world;

use sidestream::core::epochs::Durability;
use small_world::{World, deltas};

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    for readers in [1, 100, 10_000] {
        let (mut world, _) = World::steady(Durability::Memory, readers);
        group.throughput(Throughput::Elements(readers.into()));
        group.bench_function(format!("a delta to {readers}"), |bencher| {
            bencher.iter(|| deltas(&mut world, 1));
        });
    }
    group.throughput(Throughput::Elements(1));
    let (mut world, _) = World::steady(Durability::Memory, 1);
    let client = world.connect();
    group.bench_function("GET /health", |bencher| {
        bencher.iter(|| {
            world.begin_turn(1);
            world.ask(client, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        });
    });
    let (mut world, _) = World::steady(Durability::Memory, 5_000);
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("a thousand heartbeats", |bencher| {
        bencher.iter(|| {
            world.begin_turn(1_000);
            world.finish_turn();
        });
    });
    group.finish();
}

criterion_group!(benches, turns);
criterion_main!(benches);
