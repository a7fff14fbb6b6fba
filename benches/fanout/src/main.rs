//! Measures sidestream as a whole process, beside what the kernel charges and what its peers take.
//!
//! `fanout run` goes through all figures and writes the documents; `--quick` goes through the ones
//! that tell whether something broke, and writes none. The servers take turns within each round, so
//! that a minute in which the machine is busy falls on all of them.

mod figures;
mod floors;
mod http;
mod machine;
mod plot;
mod readers;
mod report;
mod results;
mod servers;
#[allow(dead_code, reason = "the agent uses the rest")]
mod wire;

use figures::{fan_out, heartbeats, replay, requests, sessions, start, throughput};
use results::Results;
use servers::{Kind, PEERS, Places};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

/// The floors and ourselves, in the order in which they take turns.
const FLOORS_AND_OURS: [Kind; 5] = [
    Kind::IdleFloor,
    Kind::SendFloor,
    Kind::Sidestream,
    Kind::CoalescedFloor,
    Kind::SidestreamMemory,
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let result = match words.as_slice() {
        ["floor", "file", path] => floors::serve_file(path).map_err(|error| error.to_string()),
        ["floor", name, rest @ ..] => match servers::floor_named(name, rest.first().copied()) {
            Some(floor) => floors::serve(floor).map_err(|error| error.to_string()),
            None => Err(format!("there is no floor `{name}`")),
        },
        ["run", options @ ..] => run(options),
        // For profiles: one figure, of agents' output one kind.
        _ => Err("fanout run [--quick] [--only FIGURE] [--rounds N] [--most SUBSCRIBERS] [--output KIND] [--sidestream PATH]".into()),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(sentence) => {
            eprintln!("fanout: {sentence}");
            ExitCode::FAILURE
        }
    }
}

/// After so long nothing new is begun: what is there by then is written.
const TIME_MAX: Duration = Duration::from_secs(36 * 60);

/// How much is measured: the whole, or what tells in three minutes whether something broke.
struct Plan {
    rounds: u32,
    scales: Vec<u64>,
    peer_scales: Vec<u64>,
    /// Fan-out is measured over a share of the full run's deliveries,
    fan_out_share: u64,
    /// agents' output over a share of its bytes.
    output_share: usize,
    replay_mb: usize,
    request_time: Duration,
    starts: usize,
    beating: (u64, Duration),
    sessions: (u64, usize),
    /// Of agents' output only what is called so.
    output: String,
}

impl Plan {
    fn full() -> Plan {
        Plan {
            rounds: 3,
            scales: vec![1, 100, 1_000, 10_000, 18_000],
            peer_scales: vec![1_000, 10_000],
            fan_out_share: 1,
            output_share: 1,
            replay_mb: 100,
            request_time: Duration::from_secs(2),
            starts: 20,
            beating: (18_000, Duration::from_secs(10)),
            sessions: (10_000, 1_000),
            output: String::new(),
        }
    }

    fn quick() -> Plan {
        Plan {
            rounds: 1,
            scales: vec![1, 100, 1_000],
            peer_scales: Vec::new(),
            fan_out_share: 4,
            output_share: 4,
            replay_mb: 16,
            request_time: Duration::from_millis(500),
            starts: 3,
            beating: (1_000, Duration::from_secs(6)),
            sessions: (1_000, 80),
            output: String::new(),
        }
    }
}

fn run(options: &[&str]) -> Result<(), String> {
    let value = |name: &str| {
        let at = options.iter().position(|word| *word == name)?;
        options.get(at + 1).copied()
    };
    let quick = options.contains(&"--quick");
    let mut plan = if quick { Plan::quick() } else { Plan::full() };
    if let Some(rounds) = value("--rounds") {
        plan.rounds = rounds.parse().map_err(|_| "--rounds needs a number".to_owned())?;
    }
    if value("--only") == Some("peers") && plan.peer_scales.is_empty() {
        plan.peer_scales.push(1_000);
    }
    if let Some(most) = value("--most") {
        let most = most.parse().map_err(|_| "--most needs a number".to_owned())?;
        plan.scales.retain(|scale| *scale <= most);
    }
    plan.output = value("--output").unwrap_or("").to_owned();
    let only = value("--only");
    let places = Places::find(value("--sidestream").map(PathBuf::from));
    let places = places.map_err(|error| error.to_string())?;
    machine::pin(machine::LOAD_CORE);
    throughput::probe(&places)?;
    let (load, start) = (machine::load(), Instant::now());
    let mut results = Results::default();
    let mut rounds = 0;
    let mut longest = Duration::ZERO;
    // A round that would not come to its end would tell of some servers and not of others.
    while rounds < plan.rounds && (rounds == 0 || start.elapsed() + longest < TIME_MAX) {
        rounds += 1;
        let begin = Instant::now();
        measure(rounds, &plan, &places, only, start, &mut results);
        longest = longest.max(begin.elapsed());
    }
    let about = report::about(&places, rounds, load, start.elapsed().as_secs_f64());
    println!("{}", report::markdown(&results, &about));
    let docs = places.home.join("../../docs");
    compare(&docs, &results);
    if quick || only.is_some() {
        return Ok(()); // The documents tell of whole runs.
    }
    report::write(&docs, &results, &about).map_err(|error| format!("docs: {error}"))
}

/// One round: every figure, each of them with all of its servers in turn, so that a moment in which
/// the machine is busy falls on all of them.
fn measure(
    round: u32,
    plan: &Plan,
    places: &Places,
    only: Option<&str>,
    start: Instant,
    results: &mut Results,
) {
    let wanted = |name: &str| {
        let wanted = only.is_none_or(|only| only == name);
        if wanted && start.elapsed() > TIME_MAX {
            eprintln!("round {round}: no time is left for {name}");
            return false;
        }
        if wanted {
            eprintln!("round {round}, {:>4.0} s: {name}", start.elapsed().as_secs_f64());
        }
        wanted
    };
    if wanted("fan-out") {
        fan_out::measure(round, Kind::RelayFloor, places, 1, plan.fan_out_share, results);
        for scale in &plan.scales {
            for kind in FLOORS_AND_OURS {
                fan_out::measure(round, kind, places, *scale, plan.fan_out_share, results);
            }
        }
    }
    if wanted("peers") {
        for scale in &plan.peer_scales {
            for kind in PEERS {
                fan_out::measure(round, kind, places, *scale, plan.fan_out_share, results);
            }
        }
    }
    if wanted("throughput") {
        throughput::measure(round, places, plan.output_share, &plan.output, results);
    }
    if wanted("replay") {
        replay::measure(round, places, plan.replay_mb, results);
    }
    if wanted("requests") {
        requests::measure(round, places, plan.request_time, results);
    }
    if wanted("start") {
        start::measure(round, places, plan.starts, results);
    }
    if wanted("heartbeats") {
        let (scale, time) = plan.beating;
        heartbeats::measure(round, places, scale, time, results);
    }
    if wanted("sessions") {
        let (sessions, turns) = plan.sessions;
        sessions::measure(round, places, sessions, turns, results);
    }
}

/// Tells what has changed since the run that the documents tell of.
fn compare(docs: &Path, results: &Results) {
    let Ok(text) = std::fs::read_to_string(docs.join("benchmarks.json")) else { return };
    let Ok(earlier) = serde_json::from_str(&text) else { return };
    let differences = results.differences(&earlier);
    println!("Since the run in docs/benchmarks.json, beyond 10 %: {}", differences.len());
    for line in differences {
        println!("  {line}");
    }
}
