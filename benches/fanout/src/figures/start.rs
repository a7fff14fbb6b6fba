//! Figure 8: from the start of the program to its first accepted connection and its first answer;
//! its size on disk, and what it holds before anybody comes.

use crate::http;
use crate::machine;
use crate::results::{Results, median};
use crate::servers::{self, Kind, Places};
use std::fs;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// The name of the figure.
pub const FIGURE: &str = "start";

/// Measures so many starts, each on an empty data directory, and what a started one holds.
pub fn measure(round: u32, places: &Places, starts: usize, results: &mut Results) {
    for kind in [Kind::Sidestream, Kind::SidestreamMemory] {
        if let Err(sentence) = ours(round, kind, places, starts, results) {
            results.miss(format!("{}'s start: {sentence}", kind.name()));
        }
    }
    if let Ok(file) = fs::metadata(&places.sidestream) {
        results.add(round, FIGURE, Kind::Sidestream.name(), 1, "binary_bytes", file.len() as f64);
    }
}

fn ours(
    round: u32,
    kind: Kind,
    places: &Places,
    starts: usize,
    results: &mut Results,
) -> Result<(), String> {
    let (mut accepted, mut answered) = (Vec::new(), Vec::new());
    for number in 0..starts {
        let folder = places.scratch.join(format!("start-{number}"));
        fs::create_dir_all(folder.join("work")).map_err(|error| error.to_string())?;
        // A port that was free a moment ago: who waits for it must know it before.
        let port = TcpListener::bind(("127.0.0.1", 0)).and_then(|listener| listener.local_addr());
        let port = port.map_err(|error| error.to_string())?.port();
        let address = format!("127.0.0.1:{port}");
        let command = servers::sidestream_command(kind, places, &folder, &address);
        let (accept, answer) = start(command, port)?;
        accepted.push(accept);
        answered.push(answer);
        let _ = fs::remove_dir_all(&folder); // Goes with the run's folder at the latest.
    }
    let server = servers::sidestream(kind, places, &[])?;
    std::thread::sleep(Duration::from_millis(200));
    let sleeps = machine::sleeps(server.pid);
    std::thread::sleep(Duration::from_secs(1));
    let sleeps = machine::sleeps(server.pid) - sleeps;
    let mut add = |measure, value| results.add(round, FIGURE, kind.name(), 1, measure, value);
    add("first_accept_ms", median(accepted));
    add("first_answer_ms", median(answered));
    add("idle_rss_bytes", machine::resident(server.pid) as f64);
    add("idle_private_bytes", server.memory() as f64);
    add("idle_wakeups_per_s", sleeps as f64);
    Ok(())
}

/// Starts it and tries until it accepts, and answers. In milliseconds from before its `exec`.
fn start(mut command: Command, port: u16) -> Result<(f64, f64), String> {
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let begin = Instant::now();
    let child = servers::on_server_core(|| command.spawn());
    let mut child = child.map_err(|error| error.to_string())?;
    let result = first_answer(begin, port);
    let _ = Command::new("kill").args(["-TERM", &child.id().to_string()]).output();
    let _ = child.wait();
    result
}

fn first_answer(begin: Instant, port: u16) -> Result<(f64, f64), String> {
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) if begin.elapsed() > Duration::from_secs(20) => {
                return Err(error.to_string());
            }
            Err(_) => {}
        }
    };
    let accepted = begin.elapsed();
    stream.write_all(&http::get("/health")).map_err(|error| error.to_string())?;
    stream.read_exact(&mut [0; 12]).map_err(|error| error.to_string())?;
    let ms = |time: Duration| time.as_secs_f64() * 1e3;
    Ok((ms(accepted), ms(begin.elapsed())))
}
