//! The soak: the real program under churn for a while, and nothing of it may grow.
//!
//! Clients come and go, abort, stall and resume; sessions are made and deleted, and their agents
//! misbehave. Each second everything that could leak is counted from outside. After the warm-up no
//! series may rise; after the load everything must be back at zero, and the program must end well.
//! `SOAK_SECONDS` makes it long, `SOAK_OUT` names a directory for the figures and their picture.

#[path = "../support/mod.rs"]
mod support;

mod load;
mod picture;
mod series;

use series::{SERIES, Samples};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};
use support::{Server, eventually};

/// The part of the time that is warm-up: the pools fill, the allocator finds its size.
const WARM_UP_SHARE: u32 = 5;

#[test]
fn a_server_under_churn_gains_nothing_and_ends_with_nothing() {
    let seconds = std::env::var("SOAK_SECONDS").map_or(25, |text| text.parse().expect("seconds"));
    let time = Duration::from_secs(seconds);
    support::allow_descriptors(2048);
    let server = start();
    let quiet = series::take(&server, Instant::now());
    let samples = soak(&server, time);
    let tally = load::tally();
    println!("{tally:#?}");
    if let Ok(directory) = std::env::var("SOAK_OUT") {
        write(Path::new(&directory), &samples, &tally);
    }
    println!("{}", samples.table(warm_up(time)));
    // A load that reaches nothing proves nothing.
    for (what, count) in &tally {
        assert!(*count > 0, "never happened: {what}");
    }
    // In a short time the allocator is still finding its size.
    let leniency = if time < Duration::from_secs(300) { 4.0 } else { 1.0 };
    let rising = samples.rising(warm_up(time), leniency);
    assert!(rising.is_empty(), "rising after the warm-up: {rising:#?}");
    expect_all_gone(server, &quiet);
}

fn warm_up(time: Duration) -> Duration {
    (time / WARM_UP_SHARE).max(Duration::from_secs(6)).min(Duration::from_secs(240))
}

/// A server that forgives little, so that much happens in a short time.
fn start() -> Server {
    let forks = "lines=lines:(sleep 300 &); (setsid sleep 300 >/dev/null 2>&1 &); cat; echo done";
    Server::fake_options()
        .flags(&["--agent", "demo=demo", "--agent", forks])
        .flags(&["--agents-max", "4", "--session-creations-per-s", "100"])
        .flags(&["--ring-size", "256KiB", "--all-ring-size", "1MiB", "--delta-hold", "10ms"])
        .flags(&["--journal-max", "8MiB", "--journal-total-max", "64MiB"])
        .flags(&["--write-stall", "2s", "--keep-alive", "2s", "--head-timeout", "20s"])
        .flags(&["--ladder-eof", "200ms", "--ladder-term", "200ms", "--interrupt-timeout", "500ms"])
        .flags(&["--start-timeout", "10s", "--suspend-after", "2s", "--stall-after", "2s"])
        .flags(&["--heartbeat", "1s", "--log-level", "error"])
        .start()
}

/// Runs the load, and counts once a second while it runs.
fn soak(server: &Server, time: Duration) -> Samples {
    let over = AtomicBool::new(false);
    let mut samples = Samples::default();
    std::thread::scope(|scope| {
        let end = Ending(&over);
        load::spawn(scope, server, &over);
        let start = Instant::now();
        let mut next = start;
        while start.elapsed() < time {
            samples.push(series::take(server, start));
            next += Duration::from_secs(1);
            std::thread::sleep(next.saturating_duration_since(Instant::now()));
        }
        drop(end);
    });
    samples
}

/// Ends the load also where a count fails, so that the failure is seen.
struct Ending<'a>(&'a AtomicBool);

impl Drop for Ending<'_> {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

/// After the load nothing of it is left: neither inside, nor in the kernel, nor as a process.
fn expect_all_gone(mut server: Server, quiet: &series::Sample) {
    load::delete_all(&server);
    server.await_streams(0);
    eventually("no agent is left", || server.agents().is_empty());
    let of = |name: &str| SERIES.iter().position(|series| series.name == name).expect("a series");
    for name in ["connections", "streams", "sessions", "agents", "children", "fds"] {
        eventually(&format!("{name} are as they were before the load"), || {
            let now = series::take(&server, Instant::now());
            now.values[of(name)] <= quiet.values[of(name)]
        });
    }
    for name in ["requestBytes", "bodyBytes", "promptBytes"] {
        // The request that asks is one of them, with the buffers that its exchange came with.
        eventually(&format!("{name} are given back"), || {
            let now = series::take(&server, Instant::now());
            now.values[of(name)] <= quiet.values[of(name)] + 65536.0
        });
    }
    let status = server.stop();
    assert_eq!(status.code(), Some(0), "{}", server.stderr());
}

fn write(directory: &Path, samples: &Samples, tally: &[(&str, u64)]) {
    std::fs::create_dir_all(directory).unwrap();
    std::fs::write(directory.join("soak.csv"), samples.csv()).unwrap();
    std::fs::write(directory.join("soak.svg"), picture::svg(samples)).unwrap();
    let counts: serde_json::Map<String, serde_json::Value> =
        tally.iter().map(|(name, count)| (name.to_string(), (*count).into())).collect();
    let json = serde_json::Value::Object(counts).to_string();
    std::fs::write(directory.join("soak.json"), json).unwrap();
}
