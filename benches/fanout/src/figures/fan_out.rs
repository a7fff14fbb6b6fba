//! Figures 1 to 4: one server after the other, at rising numbers of subscribers. Single events,
//! bursts of a hundred, how long an event takes to the first, the median and the last of them, and
//! what an idle and a stalled subscriber cost.

use crate::machine;
use crate::readers::Readers;
use crate::results::{Results, median};
use crate::servers::{Kind, Places, Running};
use crate::wire::FRAME_SIZE;
use std::time::{Duration, Instant};

/// Events of one burst.
const BURST: u64 = 100;
/// Deliveries that a measurement of single events is made of, about.
const SINGLE_DELIVERIES: u64 = 150_000;
/// The same of bursts.
const BURST_DELIVERIES: u64 = 1_000_000;
/// The longest that one measurement may take.
const PATIENCE: Duration = Duration::from_secs(30);
/// One in so many subscribers is stalled, where that is measured,
const STALLED_OF: usize = 20;
/// while so many events of so many bytes are published.
const STALLED_EVENTS: (usize, usize) = (256, 16 * 1024);

/// Measures one server with so many subscribers, over a share of the full run's deliveries. What
/// cannot be measured is noted in the results.
pub fn measure(
    round: u32,
    kind: Kind,
    places: &Places,
    scale: u64,
    share: u64,
    results: &mut Results,
) {
    if let Err(sentence) = measure_at(round, kind, places, scale, share, results) {
        results.miss(format!("{} with {scale} subscribers: {sentence}", kind.name()));
    }
}

fn measure_at(
    round: u32,
    kind: Kind,
    places: &Places,
    scale: u64,
    share: u64,
    results: &mut Results,
) -> Result<(), String> {
    if kind == Kind::IdleFloor && scale == 1 {
        return Ok(()); // It says nothing, and more than one are needed to see what one costs.
    }
    let mut server = Running::start(kind, places)?;
    let mut readers = Readers::new().map_err(|error| error.to_string())?;
    // The first client opens what is opened once: a ring, a template, a just-in-time compiler.
    readers.connect(server.port, &server.request, 1, 0)?;
    if kind != Kind::IdleFloor {
        publish_and_wait(&mut server, &mut readers, 1, 1)?;
    }
    if scale == 1 {
        return single(round, &mut server, &mut readers, share, results);
    }
    let (own, kernel) = (server.memory(), machine::kernel_memory());
    let start = Instant::now();
    readers.connect(server.port, &server.request, scale as usize, 0)?;
    let connect_s = start.elapsed().as_secs_f64();
    let more = (scale - 1) as f64;
    let mut add = |figure, measure, value| {
        results.add(round, figure, kind.name(), scale, measure, value);
    };
    add("memory", "user_bytes", server.memory().saturating_sub(own) as f64 / more);
    // Both ends of each connection are here, and cost alike.
    let kernel = machine::kernel_memory().saturating_sub(kernel) as f64;
    add("memory", "kernel_bytes", kernel / more / 2.0);
    add("memory", "connects_per_s", more / connect_s);
    if kind == Kind::IdleFloor {
        return Ok(());
    }
    single(round, &mut server, &mut readers, share, results)?;
    bursts(round, &mut server, &mut readers, share, results)?;
    drop(readers);
    // The send floor has no memory: it waits for whoever stalls.
    if scale == 1000 && kind != Kind::SendFloor {
        stalled(round, kind, places, results)?;
    }
    Ok(())
}

/// Publishes events in one go and reads until all of their deliveries are there.
fn publish_and_wait(
    server: &mut Running,
    readers: &mut Readers,
    events: u64,
    clients: u64,
) -> Result<Instant, String> {
    let before = readers.delivered;
    let start = server.publish(events as usize, FRAME_SIZE).map_err(|error| error.to_string())?;
    match readers.await_deliveries(before, events * clients, PATIENCE) {
        true => Ok(start),
        false => {
            let (got, lost) = (readers.delivered - before, readers.lost);
            let wanted = events * clients;
            Err(format!("{got} of {wanted} deliveries came, {lost} clients were hung up on"))
        }
    }
}

/// One event at a time, each when all have the one before.
fn single(
    round: u32,
    server: &mut Running,
    readers: &mut Readers,
    share: u64,
    results: &mut Results,
) -> Result<(), String> {
    let clients = readers.len() as u64;
    let events = (SINGLE_DELIVERIES / share / clients).clamp(5, 1000);
    for _ in 0..3 {
        publish_and_wait(server, readers, 1, clients)?; // Warm.
    }
    let (mut first, mut middle, mut last) = (Vec::new(), Vec::new(), Vec::new());
    let (cpu, bytes, begin) = (server.cpu_ns(), readers.bytes, Instant::now());
    for _ in 0..events {
        readers.arrivals = Some(Vec::with_capacity(clients as usize));
        let start = publish_and_wait(server, readers, 1, clients)?;
        let arrivals = readers.arrivals.take().unwrap_or_default();
        let us = |at: Instant| (at - start).as_secs_f64() * 1e6;
        first.extend(arrivals.first().copied().map(us));
        middle.extend(arrivals.get(arrivals.len() / 2).copied().map(us));
        last.extend(arrivals.last().copied().map(us));
    }
    let seconds = begin.elapsed().as_secs_f64();
    let deliveries = (events * clients) as f64;
    let cpu = (server.cpu_ns() - cpu) as f64;
    let mut add = |figure, measure, value| {
        results.add(round, figure, server.kind.name(), clients, measure, value);
    };
    add("single", "deliveries_per_s", deliveries / seconds);
    add("single", "cpu_ns_per_frame", cpu / deliveries);
    add("single", "bytes_per_frame", (readers.bytes - bytes) as f64 / deliveries);
    add("latency", "first_us", median(first));
    add("latency", "median_us", median(middle));
    add("latency", "last_us", median(last));
    Ok(())
}

/// A hundred events at a time.
fn bursts(
    round: u32,
    server: &mut Running,
    readers: &mut Readers,
    share: u64,
    results: &mut Results,
) -> Result<(), String> {
    let clients = readers.len() as u64;
    let mut count = (BURST_DELIVERIES / share / clients / BURST).clamp(1, 100);
    if server.kind.is_sidestream() || server.kind == Kind::CoalescedFloor {
        count = count.max(3); // Fast enough for more of them.
    }
    // The first one shows how long they take, so that nobody makes the whole run late.
    let start = publish_and_wait(server, readers, BURST, clients)?;
    let affordable = (6.0 / start.elapsed().as_secs_f64().max(1e-6)) as u64;
    let count = count.min(affordable.max(1));
    let (cpu, begin) = (server.cpu_ns(), Instant::now());
    for _ in 0..count {
        publish_and_wait(server, readers, BURST, clients)?;
    }
    let seconds = begin.elapsed().as_secs_f64();
    let deliveries = (count * BURST * clients) as f64;
    let cpu = (server.cpu_ns() - cpu) as f64;
    let mut add = |measure, value| {
        results.add(round, "burst", server.kind.name(), clients, measure, value);
    };
    add("deliveries_per_s", deliveries / seconds);
    add("cpu_ns_per_frame", cpu / deliveries);
    Ok(())
}

/// What one in twenty stalled subscribers makes the server hold.
fn stalled(round: u32, kind: Kind, places: &Places, results: &mut Results) -> Result<(), String> {
    let mut server = Running::start(kind, places)?;
    let mut readers = Readers::new().map_err(|error| error.to_string())?;
    readers.connect(server.port, &server.request, 1000, STALLED_OF)?;
    let (events, size) = STALLED_EVENTS;
    let reading = (readers.len() - readers.len() / STALLED_OF) as u64;
    let (own, kernel) = (server.memory(), machine::kernel_memory());
    for _ in 0..events / 8 {
        let before = readers.delivered;
        server.publish(8, size).map_err(|error| error.to_string())?;
        if !readers.await_deliveries(before, 8 * reading, PATIENCE) {
            let got = readers.delivered - before;
            return Err(format!("one in twenty stalled: {got} of {} came", 8 * reading));
        }
    }
    let mut add = |measure, value| {
        results.add(round, "stalled", kind.name(), 1000, measure, value);
    };
    add("user_bytes_each", server.memory().saturating_sub(own) as f64 / 50.0);
    let kernel = machine::kernel_memory().saturating_sub(kernel) as f64;
    add("kernel_bytes_each", kernel / 50.0);
    Ok(())
}
