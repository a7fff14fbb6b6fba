//! The house rules that a machine can hold: which floor may know what, where `unsafe` stands, how a
//! file opens. It reads the tree as text and fails with file and line.

use std::path::{Path, PathBuf};

/// What no file below the shell may mention: the ways to the machine, and randomness.
const MACHINE: [&str; 16] = [
    "mio::",
    "libc::",
    "std::net",
    "std::process",
    "std::fs",
    "std::env",
    "std::thread",
    "std::io::stdin",
    "std::os::",
    "Instant",
    "SystemTime",
    "RandomState",
    "HashMap",
    "HashSet",
    "getrandom",
    "crossbeam",
];

/// A source file: its path from the root of the repository, and its text.
struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Lines with their numbers, comments and tests taken away: a rule is about what is compiled
    /// into the server. The tests of a module stand at its end.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        // A `tests.rs` is nothing else, and its parent says `#[cfg(test)]`.
        let end = match self.name.ends_with("/tests.rs") {
            true => 0,
            false => self.text.find("#[cfg(test)]\nmod ").unwrap_or(self.text.len()),
        };
        self.text[..end]
            .lines()
            .enumerate()
            .map(|(at, line)| (at + 1, line.split_once("//").map_or(line, |(code, _)| code)))
    }
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn collect(folder: &Path, found: &mut Vec<Source>) {
    let mut entries: Vec<PathBuf> =
        std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let name = path.strip_prefix(root()).unwrap().to_str().unwrap().to_string();
        if path.is_dir() {
            if !name.ends_with("/target") && !name.ends_with("node_modules") && !name.contains("/.")
            {
                collect(&path, found);
            }
        } else if name.ends_with(".rs") {
            found.push(Source { text: std::fs::read_to_string(&path).unwrap(), name });
        }
    }
}

/// Every Rust file below these folders.
fn sources(folders: &[&str]) -> Vec<Source> {
    let mut found = Vec::new();
    for folder in folders {
        let path = root().join(folder);
        if path.exists() {
            collect(&path, &mut found);
        }
    }
    assert!(!found.is_empty(), "no source in {folders:?}");
    found
}

#[track_caller]
fn expect_none(what: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{what}:\n  {}", faults.join("\n  "));
}

/// Whether `line` has `word` as a word of its own at its start (`word` may go on at its end).
fn mentions(line: &str, word: &str) -> bool {
    line.match_indices(word).any(|(at, _)| {
        let before = line[..at].chars().next_back();
        !before.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn nothing_below_the_shell_knows_the_machine() {
    let mut faults = Vec::new();
    for source in sources(&["src/base", "src/wire", "src/core"]) {
        for (at, line) in source.code() {
            for word in MACHINE.iter().filter(|word| mentions(line, word)) {
                faults.push(format!("{}:{at}: {word}", source.name));
            }
        }
    }
    expect_none("bytes, ticks and facts come in as arguments", &faults);
}

#[test]
fn dependencies_go_strictly_downwards() {
    let above: [(&str, &[&str]); 3] = [
        ("src/base", &["wire", "core", "shell", "limits"]),
        ("src/wire", &["core", "shell"]),
        ("src/core", &["shell"]),
    ];
    let mut faults = Vec::new();
    for (folder, floors) in above {
        for source in sources(&[folder]) {
            for (at, line) in source.code() {
                for floor in floors {
                    let direct = [format!("crate::{floor}"), format!("super::super::{floor}")];
                    let grouped =
                        line.contains("use crate::{") && mentions(line, &format!("{floor}::"));
                    if grouped || direct.iter().any(|path| is_path(line, path)) {
                        faults.push(format!("{}:{at}: {}", source.name, line.trim()));
                    }
                }
            }
        }
    }
    expect_none("main → shell → core → wire → base", &faults);
}

/// Whether `line` names exactly this path (`crate::core`, not `crate::coreutils`).
fn is_path(line: &str, path: &str) -> bool {
    line.match_indices(path).any(|(at, _)| {
        let after = line[at + path.len()..].chars().next();
        !after.is_some_and(|c| c.is_alphanumeric() || c == '_')
    })
}

#[test]
fn unsafe_stands_in_one_file() {
    let mut faults = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        if [
            "src/shell/sys.rs",
            "tests/no_alloc.rs",
            "tests/journal_no_alloc.rs",
            "tests/million.rs",
            "tests/tidy.rs",
        ]
        .contains(&&*source.name)
        {
            continue; // A global allocator cannot be anything else.
        }
        for (at, line) in source.text.lines().enumerate() {
            let code = line.split_once("//").map_or(line, |(code, _)| code);
            let is_keyword =
                ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe_code)"]
                    .iter()
                    .any(|form| mentions(code, form));
            if is_keyword {
                faults.push(format!("{}:{}: {}", source.name, at + 1, line.trim()));
            }
        }
    }
    expect_none("`unsafe` belongs into src/shell/sys.rs", &faults);
}

#[test]
fn every_unsafe_block_says_why_it_is_sound() {
    let mut faults = Vec::new();
    for source in sources(&["src/shell"]) {
        let lines: Vec<&str> = source.text.lines().collect();
        for (at, line) in lines.iter().enumerate() {
            let code = line.split_once("//").map_or(*line, |(code, _)| code);
            if code.contains("unsafe {") {
                let above = &lines[at.saturating_sub(6)..at];
                if !above.iter().any(|line| line.contains("SAFETY")) {
                    faults.push(format!("{}:{}", source.name, at + 1));
                }
            }
        }
    }
    expect_none("a `// SAFETY:` comment stands above", &faults);
}

#[test]
fn every_file_opens_with_what_it_is() {
    let mut faults = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        let first = source.text.lines().next().unwrap_or("");
        let words = first.strip_prefix("//!").unwrap_or("").split_whitespace().count();
        if words < 3 {
            faults.push(format!("{}: {first:?}", source.name));
        }
    }
    expect_none("a file opens with `//!` and a sentence", &faults);
}

#[test]
fn nothing_is_left_for_later() {
    // Put together here, so that this file does not find itself.
    let words = ["TO", "FIX", "XX", "db", "todo", "unimplemented"];
    let ends = ["DO", "ME", "X", "g!(", "!(", "!("];
    let mut faults = Vec::new();
    for source in sources(&["src", "tests", "benches"]) {
        for (at, line) in source.text.lines().enumerate() {
            for (word, end) in words.iter().zip(ends) {
                if mentions(line, &format!("{word}{end}")) {
                    faults.push(format!("{}:{}: {}", source.name, at + 1, line.trim()));
                }
            }
        }
    }
    expect_none("no notes to self, no debug output", &faults);
}

#[test]
fn nothing_outside_tests_unwraps() {
    let mut faults = Vec::new();
    for source in sources(&["src"]) {
        for (at, line) in source.code() {
            if line.contains(".unwrap()") {
                faults.push(format!("{}:{at}: {}", source.name, line.trim()));
            }
        }
    }
    expect_none("`expect` with the reason, or an error", &faults);
}

/// The fields of `pub struct Limits`.
fn limit_fields() -> Vec<String> {
    let text = std::fs::read_to_string(root().join("src/limits.rs")).expect("src/limits.rs");
    let start = text.find("pub struct Limits").expect("the struct Limits");
    let body = &text[start..start + text[start..].find("\n}").expect("its end")];
    body.lines()
        .filter_map(|line| line.trim().strip_prefix("pub "))
        .filter_map(|line| line.split_once(':'))
        .map(|(name, _)| name.trim().to_string())
        .collect()
}

#[test]
fn every_limit_is_set_by_an_argument() {
    let fields = limit_fields();
    assert!(fields.len() > 20, "{fields:?}");
    // Arguments are read by main and whatever lies beside it at the top of the tree.
    let top: String = std::fs::read_dir(root().join("src"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.extension().is_some_and(|end| end == "rs"))
        .filter(|path| !path.ends_with("limits.rs"))
        .map(|path| std::fs::read_to_string(path).unwrap())
        .collect();
    let shell: String = sources(&["src/shell"]).iter().map(|source| source.text.as_str()).collect();
    let faults: Vec<String> =
        fields.into_iter().filter(|name| !mentions(&(top.clone() + &shell), name)).collect();
    expect_none("a limit that no flag sets", &faults);
}

#[test]
fn every_limit_is_told_by_help() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .arg("--help")
        .env_clear()
        .output()
        .expect("the binary runs");
    assert!(output.status.success(), "{}", output.status);
    let help = String::from_utf8(output.stdout).expect("UTF-8");
    let mut faults = Vec::new();
    // What a data directory has is no bound that anybody sets.
    for field in limit_fields().into_iter().filter(|field| field != "sessions_found") {
        // `ring_size` is `--ring-size`, `heartbeat_ms` is `--heartbeat`, `line_size_max` may be
        // `--line-max`: a flag leaves out the unit and what its value says by itself.
        let name = field.trim_end_matches("_ms").replace('_', "-");
        let names =
            [name.clone(), name.replace("-size-max", "-max"), name.replace("-size", "-bytes")];
        if !names.iter().any(|name| {
            help.contains(&format!("--{name} ")) || help.contains(&format!("--{name}\n"))
        }) {
            faults.push(format!("{field} (--{name})"));
        }
    }
    expect_none("a limit that --help does not tell", &faults);
    for flag in ["--listen", "--data-dir", "--agent", "--root", "--agent-env"] {
        assert!(help.contains(flag), "{flag} is not in --help:\n{help}");
    }
}

#[test]
fn no_file_names_the_machine_it_was_written_on() {
    let mut faults = Vec::new();
    // Put together here, so that this file does not find itself.
    let foreign = [["/wo", "rk/"].concat(), ["/tmp", "/h/"].concat(), ["/ro", "ot/"].concat()];
    for source in sources(&["src", "tests", "benches"]) {
        for (at, line) in source.text.lines().enumerate() {
            for path in foreign.iter().filter(|path| line.contains(*path)) {
                faults.push(format!("{}:{}: {path}", source.name, at + 1));
            }
        }
    }
    expect_none("paths of one machine", &faults);
}

#[test]
fn every_planted_bug_still_finds_its_line() {
    let root = std::path::Path::new(env!("CARGO_MANIFEST_DIR"));
    let script = root.join("tests/mutants.sh");
    let output = std::process::Command::new(script).arg("--check").output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && told == "without their line: none\n", "{told}");
}
