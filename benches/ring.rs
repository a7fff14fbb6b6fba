//! What a frame costs in the ring: to push it, to find a reader's bytes, to turn a cursor into a
//! position, and to pass over what a filter leaves out.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidestream::base::ring::Ring;
use std::hint::black_box;

const FRAME: [u8; 352] = [b'x'; 352];

/// A ring that has wrapped, and the number of its newest frame.
fn wrapped() -> (Ring, u64) {
    let mut ring = Ring::new(1 << 20);
    for number in 1..=10_000 {
        ring.push(&FRAME, number, 0, (number % 4) as u8).expect("it fits");
    }
    (ring, 10_000)
}

fn rings(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ring");
    let (mut ring, mut number) = wrapped();
    group.throughput(Throughput::Bytes(FRAME.len() as u64));
    group.bench_function("push", |bencher| {
        bencher.iter(|| {
            number += 1;
            ring.push(black_box(&FRAME), number, 0, 0).is_ok()
        });
    });
    let (ring, newest) = wrapped();
    group.throughput(Throughput::Elements(1));
    let last = ring.after(newest - 1);
    group.bench_function("read the newest", |bencher| {
        bencher.iter(|| black_box(ring.at(black_box(last), ring.head())));
    });
    group.bench_function("cursor to position", |bencher| {
        bencher.iter(|| ring.after(black_box(newest - 1_000)));
    });
    let start = ring.after(newest - 100);
    group.bench_function("filter a hundred", |bencher| {
        bencher.iter(|| ring.run(black_box(start), ring.head(), |mark| mark.tag == 9));
    });
    group.finish();
}

criterion_group!(benches, rings);
criterion_main!(benches);
