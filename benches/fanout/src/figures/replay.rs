//! Figure 6: a journal of a hundred megabytes, read from its start by one late subscriber and by a
//! hundred at once; beside `sendfile` of a file of that size.

use crate::http;
use crate::readers::Readers;
use crate::results::Results;
use crate::servers::{Kind, Places, Running};
use crate::wire;
use std::fs;
use std::io::Write;
use std::time::{Duration, Instant};

/// The longest that one measurement may take.
const PATIENCE: Duration = Duration::from_secs(90);
/// The name of the figure.
pub const FIGURE: &str = "replay";
/// Late subscribers.
const SCALES: [u64; 2] = [1, 100];

/// Measures sidestream and the floor with a log of so many megabytes.
pub fn measure(round: u32, places: &Places, megabytes: usize, results: &mut Results) {
    if let Err(sentence) = ours(round, places, megabytes, results) {
        results.miss(format!("replay: {sentence}"));
    }
    if let Err(sentence) = floor(round, places, megabytes, results) {
        results.miss(format!("replay's floor: {sentence}"));
    }
}

fn ours(
    round: u32,
    places: &Places,
    megabytes: usize,
    results: &mut Results,
) -> Result<(), String> {
    let mut server = Running::start(Kind::Sidestream, places)?;
    let session = server.session.clone().unwrap_or_default();
    let end = format!("/api/session/{session}/events?replay=none&types=prompt-completed");
    let mut observer = Readers::new().map_err(|error| error.to_string())?;
    observer.connect(server.port, &http::get(&end), 1, 0)?;
    let line = wire::block_line(69_000);
    for _ in 0..megabytes * 1_000_000 / line.len() {
        server.pipe().write_all(&line).map_err(|error| error.to_string())?;
    }
    server.pipe().write_all(&wire::turn_ends()).map_err(|error| error.to_string())?;
    if !observer.await_deliveries(0, 1, PATIENCE) {
        return Err("the log was not written".into());
    }
    let all = http::get(&format!("/api/session/{session}/events?replay=all"));
    // How much it is, told by one who looks at what comes: the end of the turn is the last of it.
    let mut first = Readers::new().map_err(|error| error.to_string())?;
    first.connect_unsettled(server.port, &all, 1)?;
    if !first.await_deliveries(0, 1, PATIENCE) {
        return Err("one reader did not get all of it".into());
    }
    first.settle();
    let size = first.bytes;
    for clients in SCALES {
        late(round, &server, &all, clients, size, results)?;
    }
    Ok(())
}

fn floor(
    round: u32,
    places: &Places,
    megabytes: usize,
    results: &mut Results,
) -> Result<(), String> {
    let path = places.scratch.join("replay");
    let size = megabytes * 1_000_000;
    fs::write(&path, vec![b'x'; size]).map_err(|error| error.to_string())?;
    let server = Running::start_floor(Kind::IdleFloor, &["file", &path.to_string_lossy()])?;
    for clients in SCALES {
        late(round, &server, &http::get("/"), clients, size as u64, results)?;
    }
    let _ = fs::remove_file(&path); // Goes with the run's folder at the latest.
    Ok(())
}

fn late(
    round: u32,
    server: &Running,
    request: &[u8],
    clients: u64,
    size: u64,
    results: &mut Results,
) -> Result<(), String> {
    let mut readers = Readers::new().map_err(|error| error.to_string())?;
    readers.discard = true;
    let (cpu, start) = (server.cpu_ns(), Instant::now());
    readers.connect_unsettled(server.port, request, clients as usize)?;
    if !readers.await_bytes(0, size * clients, PATIENCE) {
        let (got, lost) = (readers.bytes, readers.lost);
        return Err(format!("{got} of {} bytes to {clients}, {lost} hung up on", size * clients));
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = (server.cpu_ns() - cpu) as f64;
    let name = if server.kind == Kind::Sidestream { "sidestream" } else { "floor: sendfile" };
    let bytes = (size * clients) as f64;
    results.add(round, FIGURE, name, clients, "mb_per_s", bytes / 1e6 / seconds);
    results.add(round, FIGURE, name, clients, "cpu_ns_per_byte", cpu / bytes);
    Ok(())
}
