//! How long a request's head takes to read: a browser's, and the least that curl sends.
#![allow(missing_docs, reason = "criterion's macros make functions without any")]

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use sidestream::wire::head::{self, HeadLimits};
use std::hint::black_box;

const SMALL: &[u8] = b"GET /health HTTP/1.1\r\nHost: localhost:3010\r\nAccept: */*\r\n\r\n";
const BROWSER: &[u8] = b"GET /api/session/session-1700000000000-0123456789ab/events HTTP/1.1\r\n\
    Host: localhost:3010\r\nConnection: keep-alive\r\nsec-ch-ua-platform: \"Linux\"\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) \
    Chrome/140.0.0.0 Safari/537.36\r\nAccept: text/event-stream\r\nCache-Control: no-cache\r\n\
    Sec-Fetch-Site: same-origin\r\nSec-Fetch-Mode: cors\r\nSec-Fetch-Dest: empty\r\n\
    Referer: http://localhost:3010/\r\nAccept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-US,en;q=0.9\r\nLast-Event-ID: 0123456789ab-1099511627776\r\n\r\n";

fn heads(criterion: &mut Criterion) {
    let limits = HeadLimits { size_max: 16 * 1024, fields_max: 100 };
    let mut group = criterion.benchmark_group("head");
    for (name, bytes) in [("small", SMALL), ("browser", BROWSER)] {
        assert!(matches!(head::parse(bytes, &mut 0, &limits), Ok(Some(_))), "{name}");
        group.throughput(Throughput::Bytes(bytes.len() as u64));
        group.bench_function(name, |bencher| {
            bencher.iter(|| head::parse(black_box(bytes), &mut 0, &limits).is_ok());
        });
    }
    group.finish();
}

criterion_group!(benches, heads);
criterion_main!(benches);
