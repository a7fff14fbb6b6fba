//! Figure 5: how fast an agent's output becomes visible. Small deltas, lines of 69 KB and of 10 MB,
//! with no, one and a hundred subscribers. The end of the turn tells when all of it is visible.

use crate::http;
use crate::readers::Readers;
use crate::results::Results;
use crate::servers::{self, Kind, Places, Running};
use crate::wire;
use rustix::fs::{OFlags, fcntl_setfl};
use rustix::io::Errno;
use std::time::{Duration, Instant};

/// The longest that one measurement may take.
const PATIENCE: Duration = Duration::from_secs(60);

/// What an agent says: the figure's name, its lines, and how many of them.
struct Output {
    figure: &'static str,
    line: Vec<u8>,
    count: usize,
}

fn outputs(share: usize) -> [Output; 3] {
    let deltas =
        wire::delta_of("twelve words, more or less, as a model's tokens come by the dozen");
    let (lines, large) = (wire::block_line(69_000), wire::block_line(10_000_000));
    [
        Output { figure: "through: deltas", line: deltas, count: 40_000 / share },
        Output { figure: "through: 69 KB", line: lines, count: 600 / share },
        Output { figure: "through: 10 MB", line: large, count: 16 / share },
    ]
}

/// Measures sidestream, and the floors under it: all kinds of output whose names hold `which`.
pub fn measure(round: u32, places: &Places, share: usize, which: &str, results: &mut Results) {
    for output in outputs(share).into_iter().filter(|output| output.figure.contains(which)) {
        let floors = [(0, "sink", Kind::IdleFloor), (1, "relay", Kind::RelayFloor)];
        for (clients, name, kind) in floors {
            if let Err(sentence) = floor(round, (clients, name, kind), &output, results) {
                results.miss(format!("{} of the {name} floor: {sentence}", output.figure));
            }
        }
        for kind in [Kind::Sidestream, Kind::SidestreamMemory] {
            for clients in [0, 1, 100] {
                if let Err(sentence) = ours(round, kind, places, clients, &output, results) {
                    let name = kind.name();
                    results.miss(format!("{} of {name} to {clients}: {sentence}", output.figure));
                }
            }
        }
    }
}

fn floor(
    round: u32,
    (clients, name, kind): (u64, &str, Kind),
    output: &Output,
    results: &mut Results,
) -> Result<(), String> {
    let mut server = Running::start_floor(kind, &[name])?;
    let mut readers = Readers::new().map_err(|error| error.to_string())?;
    readers.connect(server.port, &server.request, clients as usize, 0)?;
    let before = readers.bytes;
    let (start, cpu) = (Instant::now(), server.cpu_ns());
    write(&mut server, output, &[], &mut [&mut readers])?;
    let size = (output.line.len() * output.count) as u64;
    if clients > 0 && !readers.await_bytes(before, size, PATIENCE) {
        return Err("not all of it came".into());
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = server.cpu_ns() - cpu;
    let name = format!("floor: {name}");
    results.add(round, output.figure, &name, clients, "mb_per_s", size as f64 / 1e6 / seconds);
    results.add(round, output.figure, &name, clients, "cpu_ns_per_byte", cpu as f64 / size as f64);
    Ok(())
}

fn ours(
    round: u32,
    kind: Kind,
    places: &Places,
    clients: u64,
    output: &Output,
    results: &mut Results,
) -> Result<(), String> {
    let mut server = Running::start(kind, places)?;
    let session = server.session.clone().unwrap_or_default();
    // One more, who only learns of the end, and costs nothing before.
    let end = format!("/api/session/{session}/events?replay=none&types=prompt-completed");
    let mut observer = Readers::new().map_err(|error| error.to_string())?;
    observer.connect(server.port, &http::get(&end), 1, 0)?;
    let mut readers = Readers::new().map_err(|error| error.to_string())?;
    readers.connect(server.port, &server.request, clients as usize, 0)?;
    let (start, cpu) = (Instant::now(), server.cpu_ns());
    write(&mut server, output, &wire::turn_ends(), &mut [&mut readers, &mut observer])?;
    let deadline = start + PATIENCE;
    while observer.delivered == 0 {
        if Instant::now() > deadline {
            return Err("the turn's end did not come".into());
        }
        readers.pump(Duration::ZERO);
        observer.pump(Duration::from_millis(1));
    }
    let seconds = start.elapsed().as_secs_f64();
    let cpu = server.cpu_ns() - cpu;
    let size = (output.line.len() * output.count) as f64;
    let mut add = |measure, value| {
        results.add(round, output.figure, kind.name(), clients, measure, value);
    };
    add("mb_per_s", size / 1e6 / seconds);
    add("lines_per_s", output.count as f64 / seconds);
    add("cpu_ns_per_byte", cpu as f64 / size);
    if clients > 0 {
        // In memory mode whoever is outrun by the ring is hung up on, and may come back.
        if !readers.await_each(PATIENCE) {
            return Err("not all have all of it".into());
        }
        add("all_have_it_mb_per_s", size / 1e6 / start.elapsed().as_secs_f64());
        add("outrun", readers.lost as f64);
    }
    Ok(())
}

/// Writes an agent's output and, behind it, `end`, as fast as it is taken, while all read.
fn write(
    server: &mut Running,
    output: &Output,
    end: &[u8],
    all: &mut [&mut Readers],
) -> Result<(), String> {
    let pipe = server.pipe();
    fcntl_setfl(&*pipe, OFlags::NONBLOCK).map_err(|error| error.to_string())?;
    // Lines are put together as an agent's buffered output is.
    let together = (64 * 1024 / output.line.len()).max(1);
    let block = output.line.repeat(together);
    let deadline = Instant::now() + PATIENCE;
    let mut left = output.count;
    while left > 0 {
        let lines = left.min(together);
        send(pipe, &block[..lines * output.line.len()], all, deadline)?;
        left -= lines;
    }
    send(pipe, end, all, deadline)?;
    fcntl_setfl(&*pipe, OFlags::empty()).map_err(|error| error.to_string())
}

fn send(
    pipe: &std::fs::File,
    mut bytes: &[u8],
    all: &mut [&mut Readers],
    deadline: Instant,
) -> Result<(), String> {
    while !bytes.is_empty() {
        match rustix::io::write(pipe, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::AGAIN) if Instant::now() > deadline => return Err("it is not taken".into()),
            Err(Errno::AGAIN) => {
                let mut news = false;
                for readers in &mut *all {
                    news |= readers.len() > 0 && readers.pump(Duration::ZERO);
                }
                if !news {
                    wait_for_room(pipe);
                }
            }
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(())
}

/// Sleeps until the pipe takes bytes, or a moment, so that readers are not forgotten.
fn wait_for_room(pipe: &std::fs::File) {
    let mut fds = [rustix::event::PollFd::new(pipe, rustix::event::PollFlags::OUT)];
    let moment = rustix::event::Timespec { tv_sec: 0, tv_nsec: 1_000_000 };
    let _ = rustix::event::poll(&mut fds, Some(&moment)); // Tried again in any case.
}

/// The name of a figure by its line, for tables.
pub const FIGURES: [&str; 3] = ["through: deltas", "through: 69 KB", "through: 10 MB"];

/// Starts sidestream only to see that it does: so a wrong path is told before anything is measured.
pub fn probe(places: &Places) -> Result<(), String> {
    servers::sidestream(Kind::SidestreamMemory, places, &[]).map(drop)
}
