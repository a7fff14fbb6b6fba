//! The printed bound on memory against what is really taken: every container is filled as far as it
//! lets itself be, term by term, while the kernel refuses the program any more address space than
//! the bound and 16 MiB.

mod support;

use serde_json::json;
use sidestream::core::epochs::Durability;
use sidestream::limits::{Limits, MIB};
use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::Command;
use std::time::Duration;
use support::http::encode;
use support::{Reader, Server, eventually};

const SESSIONS: usize = 6;
const CONNECTIONS: usize = 8_000;

/// The bounds of the test: small, so that all of it can be filled.
fn limits() -> Limits {
    Limits {
        ring_size: MIB,
        all_ring_size: 4 * MIB,
        sessions_max: SESSIONS as u32,
        closed_sessions_max: 1,
        agents_max: SESSIONS as u32,
        agents_starting_max: SESSIONS as u32,
        connections_max: CONNECTIONS as u32,
        requests_size_max: 8 * MIB,
        body_size_max: 4 * MIB,
        bodies_size_max: 8 * MIB,
        queue_size_max: 8 * MIB,
        line_size_max: 8 * MIB,
        large_size_max: 8 * MIB,
        ..Limits::default()
    }
}

/// A server with these bounds, and the bound that it prints, in bytes.
fn start(durability: &str) -> (Server, usize) {
    let server = Server::fake_options()
        .flags(&["--ring-size", "1MiB", "--all-ring-size", "4MiB", "--durability", durability])
        .flags(&["--sessions-max", "6", "--closed-sessions-max", "1", "--connections-max", "8000"])
        .flags(&["--agents-max", "6", "--agents-starting-max", "6"])
        .flags(&["--requests-size-max", "8MiB", "--body-size-max", "4MiB"])
        .flags(&["--bodies-size-max", "8MiB", "--queue-size-max", "8MiB"])
        .flags(&["--line-max", "8MiB", "--large-size-max", "8MiB", "--suspend-after", "1h"])
        .flags(&["--head-timeout", "5m", "--body-timeout", "5m", "--body-rate-min", "0"])
        .flags(&["--write-stall", "5m", "--delta-hold", "0"])
        .start();
    let told = server.stdout() + &server.stderr();
    let (_, rest) = told.split_once("memory bound: ").expect("the bound is printed");
    let mib: usize = rest.split_once(" MiB").unwrap().0.parse().expect("a number");
    (server, mib * MIB)
}

/// What one term took, against what it may.
struct Audit<'a> {
    server: &'a Server,
    terms: Vec<(&'static str, u64)>,
    before: usize,
}

impl Audit<'_> {
    /// What was taken since the last time is no more than these terms say, and no less than a part
    /// of them that shows that they were filled; 0 where what was taken before is used again.
    #[track_caller]
    fn compare(&mut self, names: &[&str], least: f64) {
        let term = |name: &&str| self.terms.iter().find(|(known, _)| known == name).unwrap().1;
        let bound = names.iter().map(term).sum::<u64>() as f64;
        let now = self.server.memory("VmRSS");
        let taken = now.saturating_sub(self.before) as f64;
        println!("{names:?}: {:.1} of {:.1} MiB", taken / MIB as f64, bound / MIB as f64);
        assert!(taken <= bound + MIB as f64, "{names:?} take {taken} bytes, {bound} are told");
        assert!(taken >= bound * least, "{names:?} take {taken} of {bound} bytes: not filled");
        self.before = now;
    }
}

fn fill_everything(durability: &str, kind: Durability) {
    support::allow_descriptors(2 * CONNECTIONS as u64);
    let (server, bound) = start(durability);
    let sum = limits().memory(kind) as usize;
    assert_eq!(bound, sum.next_multiple_of(MIB), "what is printed is the sum");
    // The agents first: they are not to live under the limit.
    let sessions: Vec<String> = (0..SESSIONS).map(|_| server.create()).collect();
    for session in &sessions {
        let prompt = server.prompt(session, "say: here");
        server.stream(session).turn_end(&prompt);
    }
    let limit = bound + 16 * MIB;
    let pid = server.pid().to_string();
    let set = Command::new("prlimit").args(["--pid", &pid, &format!("--as={limit}")]).status();
    assert!(set.unwrap().success());
    let mut audit =
        Audit { server: &server, terms: limits().terms(kind), before: server.memory("VmRSS") };

    // Heads that do not end, until there is no room for more.
    let head = format!("GET /health HTTP/1.1\r\nHost: a\r\nX-Filler: {}", "x".repeat(15_000));
    let heads: Vec<TcpStream> = (0..900).map(|_| send(&server, head.as_bytes())).collect();
    // Whoever comes with a whole one is answered all the same, and not made to wait.
    server.get("/health").expect(200);
    let metrics = server.get("/metrics").expect(200).text();
    let met = "sidestream_limit_hits_total{limit=\"requests-size-max\"} ";
    let met = metrics.lines().find_map(|line| line.strip_prefix(met)).expect("it is told");
    assert_ne!(met, "0", "there was no room for all of them");
    audit.compare(&["requests"], 0.5);
    drop(heads);
    audit.before = server.memory("VmRSS"); // What is free again is there for what comes.

    // Logs: more events than a ring holds, in every session.
    for session in &sessions {
        run(&server, session, "flood 6000 200");
    }
    audit.compare(&["rings", "journal batch", "journal pieces", "agents"], 0.2);

    // Long lines, and the fields that they leave.
    for size in [7_000_000, 6_000_000, 3_000_000] {
        run(&server, &sessions[1], &format!("line {size}"));
    }
    audit.compare(&["large fields", "long line"], 0.0);

    // A line that does not end: it has the one buffer for long ones.
    let unended = server.prompt(&sessions[1], "unended 7900000");
    let told = std::path::Path::new(&server.root()).join("unended");
    eventually("the line is in its buffer", || told.exists());
    audit.compare(&["long line"], 0.0); // What earlier lines took may be used again.
    server.interrupt(&sessions[1]);
    server.stream(&sessions[1]).turn_end(&unended);
    audit.before = server.memory("VmRSS");

    // Approvals that nobody answers, until one is refused.
    for session in &sessions[1..] {
        server.prompt(session, "approves 4 600000");
    }
    eventually("an approval is refused", || {
        let text = server.get("/metrics").text();
        !text.contains("{limit=\"approvals-size-max\"} 0\n")
    });
    // Their events have no room for such input: it stands beside them as well, where other large
    // fields were. The refusal shows that it is full.
    audit.compare(&["approvals", "large fields", "long line"], 0.0);

    // Prompts, behind one that does not end.
    server.prompt(&sessions[0], "stubborn");
    let words = "x".repeat(MIB);
    let path = format!("/api/session/{}/prompt", sessions[0]);
    let mut taken = 0;
    while server.post(&path, json!({"command": words})).status == 202 {
        taken += 1;
        assert!(taken <= 8, "the queue has a bound");
    }
    // Its event has no room for such words: they stand beside it as well.
    audit.compare(&["prompts", "large fields"], 0.0); // The refusal shows that it is full.

    // Streams: some that are read by nobody.
    let streams: Vec<Reader> = (0..300).map(|_| server.stream(&sessions[2])).collect();
    // And everybody else who may come, and says nothing.
    let open = || server.metrics()["server"]["connections"].as_u64();
    let silent: Vec<TcpStream> =
        (0..CONNECTIONS - 600).map(|_| TcpStream::connect(server.address).unwrap()).collect();
    eventually("they are in", || open() > Some(silent.len() as u64));
    audit.compare(&["slots", "timers", "requests"], 0.0);
    drop(silent);

    // Bodies that do not end.
    let body = vec![b' '; 4 * MIB];
    let whole = encode(server.address, "POST", &path, &[], &body);
    let bodies: Vec<TcpStream> = (0..5).map(|_| send(&server, &whole[..3 * MIB])).collect();
    eventually("a body is refused", || {
        bodies.iter().any(|body| {
            body.set_nonblocking(true).unwrap();
            let mut first = [0; 12];
            matches!((&mut &*body).read(&mut first), Ok(12) if first.ends_with(b"503"))
        })
    });
    audit.compare(&["bodies", "requests"], 0.0); // So does this one.

    let most = server.memory("VmHWM");
    println!(
        "most resident {} MiB of {}, most mapped {} MiB",
        most / MIB,
        bound / MIB,
        server.memory("VmPeak") / MIB
    );
    assert!(most <= bound, "{most} bytes were resident, {bound} are printed");
    drop((streams, bodies));
    server.interrupt(&sessions[0]);
}

/// A prompt and the end of its turn. No stream tells of it, as a ring may outrun a slow reader.
#[track_caller]
fn run(server: &Server, session: &str, script: &str) {
    let path = format!("/api/session/{session}/prompt?wait=60");
    server.post(&path, json!({"command": script})).expect(200);
}

fn send(server: &Server, bytes: &[u8]) -> TcpStream {
    let mut stream = TcpStream::connect(server.address).unwrap();
    stream.set_write_timeout(Some(Duration::from_secs(2))).unwrap();
    // What the server does not take up stays in the sockets, or here.
    let _ = stream.write_all(bytes);
    stream
}

#[test]
fn with_everything_in_memory_the_server_lives_within_what_it_prints() {
    fill_everything("memory", Durability::Memory);
}

#[test]
fn with_journals_the_server_lives_within_what_it_prints() {
    fill_everything("write", Durability::Write);
}
