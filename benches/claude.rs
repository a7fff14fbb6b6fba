//! An agent's line to the frames that it becomes: a delta, and a whole block of code.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidestream::wire::claude;
use std::hint::black_box;

#[path = "../tests/support/small_world.rs"]
mod small_world;

use sidestream::core::epochs::Durability;
use small_world::{DELTA, World};

/// A whole message of about this many bytes, as code is: an escape every dozen characters.
fn block(size: usize) -> String {
    let piece = "fn main() {\\n    println!(\\\"the quick brown fox\\\");\\n}\\n";
    format!(
        "{{\"type\":\"assistant\",\"message\":{{\"id\":\"m1\",\"type\":\"message\",\"role\":\
         \"assistant\",\"model\":\"x\",\"content\":[{{\"type\":\"text\",\"text\":\"{}\"}}]}},\
         \"parent_tool_use_id\":null,\"session_id\":\"s\"}}\n",
        piece.repeat(size / piece.len())
    )
}

fn lines(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("claude");
    for (name, line) in [("delta", DELTA.to_owned()), ("block", block(48_000))] {
        group.throughput(Throughput::Bytes(line.len() as u64));
        group.bench_function(format!("{name}: parse"), |bencher| {
            let line = line.trim_end().as_bytes();
            bencher.iter(|| matches!(claude::parse(black_box(line)), claude::Parsed::Message(_)));
        });
        let (mut world, _) = World::steady(Durability::Memory, 0);
        group.bench_function(format!("{name}: line to frames"), |bencher| {
            bencher.iter(|| {
                world.begin_turn(60);
                world.agent_says(&line);
                world.finish_turn();
            });
        });
    }
    group.finish();
}

criterion_group!(benches, lines);
criterion_main!(benches);
