//! The fuzzers' oracles on stable: seeds from the tables and the agent's lines, each also damaged
//! at random, and whatever a fuzzer has ever found (`fuzz/regressions`).
//!
//! With `FUZZ_SEEDS=DIR` the seeds are written there, a folder per target, for the fuzzers.

#[path = "../fuzz/src/oracles.rs"]
mod oracles;
#[path = "simulation/shell.rs"]
mod shell;
#[path = "tables/http.rs"]
mod tables;

/// What the journal's code, compiled here on a fake disk, calls its own crate.
mod core {
    pub use sidestream::core::*;
}
mod limits {
    pub use sidestream::limits::*;
}
mod wire {
    pub use sidestream::wire::*;
}

use std::path::{Path, PathBuf};

type Oracle = fn(&[u8]);

const TARGETS: [(&str, Oracle); 9] = [
    ("head", oracles::head),
    ("body", oracles::body),
    ("target", oracles::target),
    ("lines", oracles::lines),
    ("event_id", oracles::event_id),
    ("claude", oracles::claude),
    ("journal", oracles::journal),
    ("server", oracles::server),
    ("durable", oracles::durable),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Everything a target begins with.
fn seeds(target: &str) -> Vec<Vec<u8>> {
    let mut seeds: Vec<Vec<u8>> = Vec::new();
    match target {
        "head" => {
            seeds.extend(tables::HEADS.iter().map(|(_, input, _)| input.to_vec()));
            seeds.extend(tables::FIELDS.iter().map(|(_, fields, _)| {
                [b"POST / HTTP/1.1\r\nHost: localhost\r\n", *fields, b"\r\n"].concat()
            }));
            seeds.extend(
                tables::HOSTS
                    .iter()
                    .map(|(_, host, _)| [b"GET / HTTP/1.1\r\nHost: ", *host, b"\r\n\r\n"].concat()),
            );
        }
        "body" => seeds.extend(tables::BODIES.iter().map(|(_, body, ..)| body.to_vec())),
        "target" => {
            seeds
                .extend(tables::TARGETS.iter().map(|(_, _, target, _)| target.as_bytes().to_vec()));
            seeds.extend(tables::HOSTS.iter().map(|(_, host, _)| host.to_vec()));
        }
        "lines" => {
            let text = b"one\n\na longer line than the buffer holds\ntwo\nunfinished";
            for sizes in [[3, 0, 0], [3, 100, 1], [255, 0, 255], [0, 0, 7], [7, 20, 63]] {
                seeds.push([&sizes[..], text].concat());
            }
        }
        "event_id" => {
            for text in ["0123456789ab-1", "0123456789ab-18446744073709551615", "", "x-1"] {
                seeds.push(text.into());
                seeds.push(format!("id: {text}\nevent: e\ndata: {{}}\n\n").into());
            }
        }
        "claude" => {
            let folder = std::fs::read_dir(root().join("tests/fixtures/claude")).unwrap();
            let files = folder.map(|entry| entry.unwrap().path()).filter(|path| path.is_file());
            seeds.extend(files.map(|path| std::fs::read(path).unwrap()));
            seeds
                .extend([&b"{}"[..], b"null", b"\xff", b"{\"type\":\"user\"}"].map(<[u8]>::to_vec));
        }
        "journal" => {
            let epochs = "start 00000000000a 1 memory b\nstart 00000000000b 99 write b\n\
                broken\nerased 120\nstart 00000000000c 18446744073709551615 sync b\n";
            let snapshot = "{\"seq\":3,\"turns\":18446744073709551615,\"status\":\"running\",\
                \"queue\":[{\"id\":\"p\",\"command\":\"c\"}]}";
            let frame = |seq: u64, name: &str, data: &str| {
                format!("id: 00000000000a-{seq}\nevent: {name}\ndata: {data}\n\n")
            };
            let mut segment = frame(1, "session-created", "{\"timestamp\":1,\"status\":\"idle\"}");
            for (seq, name, data) in [
                (4, "prompt-queued", "{\"promptId\":\"p\",\"position\":9,\"command\":\"x\"}"),
                (5, "prompt-started", "{\"turnId\":\"t\",\"promptId\":\"p\"}"),
                (
                    6,
                    "session-output",
                    "{\"type\":\"stdout\",\"content\":\"x\",\"messageId\":\"m\",\"block\":0}",
                ),
                (7, "tool-started", "{\"toolUseId\":\"u\"}"),
                (8, "approval-required", "{\"approvalId\":\"a\"}"),
                (9, "message-block", "{\"messageId\":\"m\",\"block\":0,\"replaces\":[\"m\"]}"),
                (10, "prompt-failed", "{\"turnId\":\"t\",\"totalCostUsd\":1e308}"),
                (u64::MAX, "session-closed", "{}"),
            ] {
                segment += &frame(seq, name, data);
            }
            for (epochs, snapshot) in [("", ""), (epochs, ""), ("", snapshot), (epochs, snapshot)] {
                let padded =
                    |text: &str| format!("{text:<width$}", width = text.len().next_multiple_of(4));
                let (epochs, snapshot) = (epochs.to_owned(), padded(snapshot));
                // Lines must stay lines: a short one fills up.
                let fill = epochs.len().next_multiple_of(4) - epochs.len();
                let epochs = epochs + &"x".repeat(fill);
                let sizes = [epochs.len() / 4, snapshot.len() / 4].map(|size| size as u8);
                seeds.push(
                    [&sizes[..], epochs.as_bytes(), snapshot.as_bytes(), segment.as_bytes()]
                        .concat(),
                );
            }
        }
        "server" => {
            // Connect, create, the disk answers, prompt, stream, the agent's lines, its exit.
            let story: &[u8] = &[
                0, 0, 2, 4, 10, 0, 2, 6, 10, 0, 0, 0, 2, 5, 7, 0, 7, 1, 7, 2, 7, 3, 7, 4, 3, 9, 7,
                5, 6, 17, 0, 0, 2, 12, 2, 7, 6, 12, 11, 1, 2, 6, 9, 1, 10, 0, 10, 0, 2, 0, 10, 0,
                2, 1, 2, 10, 10, 0, 4, 1,
            ];
            seeds.push(story.to_vec());
            seeds.push([&story[..8], b"\x01\x20GET /health HTTP/1.1\r\nHost: a\r\n\r\n"].concat());
            seeds.push([0, 7, 2, 0, 0, 0, 5, 0, 6, 17, 6, 17].to_vec());
        }
        "durable" => {
            // Connect, create, the disk answers, prompt, the agent's lines, stream, a kill or a
            // power loss, and a reader of what is left; with a disk that fails between.
            let story: &[u8] = &[
                0, 0, 2, 4, 10, 0, 2, 6, 10, 0, 7, 0, 7, 1, 10, 0, 7, 2, 7, 3, 10, 0, 2, 5, 10, 0,
            ];
            let end: &[u8] =
                &[12, 0, 0, 0, 2, 5, 10, 0, 10, 0, 2, 11, 10, 0, 2, 6, 10, 0, 10, 0, 2, 10, 10, 0];
            for mode in [0, 1] {
                seeds.push([&[mode], story, end].concat());
                seeds.push([&[mode], story, &[12, 1], &end[2..]].concat());
                for trouble in [1, 2, 3] {
                    let bad = [13, trouble, 7, 3, 10, 0, 7, 4, 10, 0, 13, 0, 7, 5, 10, 0];
                    seeds.push([&[mode], story, &bad, end].concat());
                }
            }
        }
        other => panic!("no seeds for {other}"),
    }
    seeds.sort();
    seeds.dedup();
    seeds
}

struct Random(sidestream::core::random::Random);

impl Random {
    fn below(&mut self, bound: usize) -> usize {
        self.0.below(bound as u64) as usize
    }
}

/// Overwrites, inserts, removes or doubles a few bytes, with a liking for the dangerous ones.
fn damage(random: &mut Random, input: &mut Vec<u8>) {
    const NASTY: &[u8] = b"\r\n\r\n \t:,;\0\x01\x02\x7f\x80\xff+-/%0159aA\"\\*?#@[]{}";
    for _ in 0..=random.below(3) {
        let at = random.below(input.len() + 1);
        let byte = NASTY[random.below(NASTY.len())];
        match random.below(4) {
            0 => input.insert(at, byte),
            1 if at < input.len() => input[at] = byte,
            2 if at < input.len() => drop(input.remove(at)),
            _ => {
                let end = (at + random.below(30)).min(input.len());
                let copy = input[at..end].to_vec();
                input.splice(at..at, copy);
            }
        }
    }
}

#[track_caller]
fn try_one(target: &str, oracle: Oracle, input: &[u8], whence: &str) {
    if let Err(panic) = std::panic::catch_unwind(|| oracle(input)) {
        eprintln!("{target}, {whence}: {}", input.escape_ascii());
        std::panic::resume_unwind(panic);
    }
}

#[test]
fn every_seed_whole_and_damaged_holds_what_its_oracle_promises() {
    for (target, oracle) in TARGETS {
        let seeds = seeds(target);
        for seed in &seeds {
            try_one(target, oracle, seed, "a seed");
        }
        let rounds = match target {
            "head" | "body" => 1_500, // All splits of each: these cost the most.
            _ => 4_000,
        };
        for number in 1..=rounds {
            let mut random = Random(sidestream::core::random::Random::new(number));
            let mut input = seeds[random.below(seeds.len())].clone();
            for _ in 0..=random.below(4) {
                damage(&mut random, &mut input);
            }
            try_one(target, oracle, &input, &format!("damaged, number={number}"));
        }
    }
}

#[test]
fn what_a_fuzzer_has_found_stays_repaired() {
    for (target, oracle) in TARGETS {
        let folder = root().join("fuzz/regressions").join(target);
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        let mut files: Vec<PathBuf> = entries.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for file in files {
            let input = std::fs::read(&file).unwrap();
            try_one(target, oracle, &input, &file.display().to_string());
        }
    }
}

#[test]
fn seeds_are_written_where_the_fuzzers_look() {
    let Some(folder) = std::env::var_os("FUZZ_SEEDS").map(PathBuf::from) else { return };
    for (target, _) in TARGETS {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds(target).iter().enumerate() {
            std::fs::write(folder.join(format!("seed-{number:03}")), seed).unwrap();
        }
    }
}

#[test]
fn every_target_has_its_fuzzer() {
    for (target, _) in TARGETS {
        let file = root().join(format!("fuzz/fuzz_targets/{target}.rs"));
        let text = std::fs::read_to_string(&file).unwrap_or_default();
        assert!(text.contains(&format!("sidestream_fuzz::{target}(data)")), "{file:?}");
    }
}
