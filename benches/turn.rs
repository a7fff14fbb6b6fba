//! One turn of the loop in a world without a kernel: a delta in, a frame to each reader out; a
//! request in, its answer out; heartbeats.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};

#[path = "../tests/support/steady.rs"]
mod steady;

fn turns(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("turn");
    for readers in [1, 100, 10_000] {
        let (mut bench, _) = steady::steady(readers);
        group.throughput(Throughput::Elements(readers.into()));
        group.bench_function(format!("a delta to {readers}"), |bencher| {
            bencher.iter(|| steady::deltas(&mut bench, 1));
        });
    }
    group.throughput(Throughput::Elements(1));
    let (mut bench, _) = steady::steady(1);
    let client = bench.connect();
    group.bench_function("GET /health", |bencher| {
        bencher.iter(|| {
            bench.begin_turn(1);
            bench.ask(client, "GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n");
        });
    });
    let (mut bench, _) = steady::steady(5_000);
    group.throughput(Throughput::Elements(1_000));
    group.bench_function("a thousand heartbeats", |bencher| {
        bencher.iter(|| {
            bench.begin_turn(1_000);
            bench.finish_turn();
        });
    });
    group.finish();
}

criterion_group!(benches, turns);
criterion_main!(benches);
