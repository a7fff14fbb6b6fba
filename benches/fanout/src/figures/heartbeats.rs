//! Figure 9: what heartbeats alone cost, one every five seconds to each subscriber; beside a loop
//! that does nothing but send them.

use crate::http;
use crate::machine;
use crate::readers::Readers;
use crate::results::Results;
use crate::servers::{Kind, Places, Running};
use std::time::{Duration, Instant};

/// The name of the figure.
pub const FIGURE: &str = "heartbeats";
/// Between two heartbeats of one subscriber, in seconds: the least that a client may ask for.
const EVERY_S: u64 = 5;

/// Measures sidestream and the floor with so many subscribers, over so long.
pub fn measure(round: u32, places: &Places, scale: u64, time: Duration, results: &mut Results) {
    let every = (EVERY_S * 1000).to_string();
    let floor = || Running::start_floor(Kind::SendFloor, &["beat", &every]);
    let ours = |kind| {
        let mut server = Running::start(kind, places)?;
        let session = server.session.clone().unwrap_or_default();
        let target = format!("/api/session/{session}/events?replay=none&heartbeat={EVERY_S}");
        server.request = http::get(&target);
        Ok(server)
    };
    for server in [floor(), ours(Kind::Sidestream)] {
        if let Err(sentence) = server.and_then(|server| beat(round, &server, scale, time, results))
        {
            results.miss(format!("heartbeats: {sentence}"));
        }
    }
}

fn beat(
    round: u32,
    server: &Running,
    scale: u64,
    time: Duration,
    results: &mut Results,
) -> Result<(), String> {
    let mut readers = Readers::new().map_err(|error| error.to_string())?;
    readers.mark = b'{'; // A heartbeat is a flat object.
    // The first of them beat while the last connect: nobody is waited for in silence.
    readers.connect(server.port, &server.request, scale as usize, 0)?;
    let (count, cpu, sleeps) = (readers.delivered, server.cpu_ns(), machine::sleeps(server.pid));
    let start = Instant::now();
    while start.elapsed() < time {
        readers.pump(Duration::from_millis(100));
    }
    let seconds = start.elapsed().as_secs_f64();
    let beats = (readers.delivered - count) as f64;
    let expected = scale as f64 * seconds / EVERY_S as f64;
    if beats < expected / 2.0 {
        return Err(format!("{beats} came of about {expected:.0}"));
    }
    let cpu = (server.cpu_ns() - cpu) as f64;
    let sleeps = (machine::sleeps(server.pid) - sleeps) as f64;
    let mut add = |measure, value| {
        results.add(round, FIGURE, server.kind.name(), scale, measure, value);
    };
    add("cpu_ns_each", cpu / beats);
    add("cpu_share_percent", cpu / 1e9 / seconds * 100.0);
    add("beats_per_s", beats / seconds);
    add("wakeups_per_s", sleeps / seconds);
    Ok(())
}
