//! What deadlines cost at eighteen thousand of them: to arm one, to ask for the next, and to fire.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidestream::base::wheel::Wheel;
use std::hint::black_box;

const ENTRIES: u32 = 18_000;

fn wheels(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("wheel");
    let mut wheel = Wheel::new(ENTRIES);
    let mut now = 0;
    for index in 0..ENTRIES {
        wheel.arm(index, 1 + u64::from(index) % 15_000);
    }
    group.throughput(Throughput::Elements(1));
    group.bench_function("arm", |bencher| {
        let mut index = 0;
        bencher.iter(|| {
            index = (index + 7) % ENTRIES;
            wheel.arm(index, black_box(1 + u64::from(index) % 15_000));
        });
    });
    group.bench_function("next due", |bencher| bencher.iter(|| black_box(wheel.next_due())));
    // A heartbeat's life: fire, and arm again.
    let mut fired = Vec::new();
    group.bench_function("a millisecond of heartbeats", |bencher| {
        bencher.iter(|| {
            now += 1;
            wheel.advance(now, ENTRIES as usize, |index| fired.push(index));
            for index in fired.drain(..) {
                wheel.arm(index, now + 15_000);
            }
        });
    });
    group.finish();
}

criterion_group!(benches, wheels);
criterion_main!(benches);
