//! `docs/migration.md` tells the truth: its commands run here as they stand, against a server of
//! the test's own, and print what the page says. `…` there stands for anything within a line.

mod support;

use std::process::{Command, Stdio};
use support::{Server, need};

const PAGE: &str = include_str!("../docs/migration.md");

/// The fenced blocks of this language, and what stands in the block of text behind each.
fn commands() -> Vec<(String, String)> {
    let mut blocks = Vec::new();
    for part in PAGE.split("```sh\n").skip(1) {
        let (script, rest) = part.split_once("```").expect("a block ends");
        let told = rest.trim_start().strip_prefix("```text\n").expect("what the commands print");
        blocks.push((script.to_owned(), told.split_once("```").unwrap().0.to_owned()));
    }
    blocks
}

/// Whether a line is the pattern's, whose `…` stand for anything.
fn fits(line: &str, pattern: &str) -> bool {
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = &parts[..] else { return line == pattern };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn patterns_fit_what_they_say_and_nothing_else() {
    for (line, pattern, want) in [
        ("abc", "abc", true),
        ("abcd", "abc", false),
        ("abcd", "abc…", true),
        ("a1c2e", "a…c…e", true),
        ("a1c2ee", "a…c…e", true),
        ("ab", "ab…b", false),
        ("a1d2e", "a…c…e", false),
        ("xabc", "abc", false),
    ] {
        assert_eq!(fits(line, pattern), want, "{line} {pattern}");
    }
}

#[test]
fn the_commands_of_the_migration_page_do_what_it_says() {
    need("curl");
    need("bash");
    let server = Server::demo(&[]);
    let place = server.scratch.directory("commands");
    let blocks = commands();
    assert!(blocks.len() >= 6, "the page has its commands: {}", blocks.len());
    const MARK: &str = "-- the next block --";
    let mut script = String::from("set -eu\n");
    for (block, _) in &blocks {
        script.push_str(block);
        script.push_str(&format!("echo '{MARK}'\n"));
    }
    assert!(script.contains("http://localhost:3010"));
    let script = script.replace("localhost:3010", &format!("localhost:{}", server.address.port()));
    let output = Command::new("timeout")
        .args(["60", "bash", "-c", &script])
        .current_dir(place)
        .env_clear()
        .env("PATH", std::env::var("PATH").expect("PATH is set"))
        .env("HOME", server.root())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{printed}\n{errors}", output.status);
    let told: Vec<&str> = printed.split(&format!("{MARK}\n")).collect();
    for ((block, wanted), told) in blocks.iter().zip(told) {
        let (lines, patterns): (Vec<&str>, Vec<&str>) =
            (told.lines().collect(), wanted.lines().collect());
        assert_eq!(lines.len(), patterns.len(), "{block}printed:\n{told}");
        for (line, pattern) in lines.iter().zip(patterns) {
            assert!(fits(line, pattern), "{block}printed:\n{line}\nnot:\n{pattern}");
        }
    }
}
