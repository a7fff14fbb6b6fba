//! Figure 10: what a session costs that has no process: one that was never prompted, one that the
//! server found on disk when it started, and one whose agent was suspended after a turn: what it was
//! found with, and what the turn left.

use crate::http::{self, Connection};
use crate::results::Results;
use crate::servers::{self, Kind, Places};
use std::time::Instant;

/// The name of the figure.
pub const FIGURE: &str = "sessions";
/// Sessions that run a turn before the measurement begins: what is taken once is taken by them.
const BEFORE: usize = 40;
/// Turns that one session runs before that: they fill the log of all sessions, 4 MiB that are taken
/// as they are first written to, however many sessions there are.
const FILLING: usize = 2_500;

/// Measures so many sessions, of which so many run a turn.
pub fn measure(round: u32, places: &Places, sessions: u64, turns: usize, results: &mut Results) {
    if let Err(sentence) = ours(round, places, sessions, turns, results) {
        results.miss(format!("idle sessions: {sentence}"));
    }
}

fn ours(
    round: u32,
    places: &Places,
    sessions: u64,
    turns: usize,
    results: &mut Results,
) -> Result<(), String> {
    let more =
        [format!("--sessions-max={}", sessions + 10), "--session-creations-per-s=10000".into()];
    let more: Vec<&str> = more.iter().map(String::as_str).collect();
    let mut server = servers::sidestream(Kind::Sidestream, places, &more)?;
    let mut line = Connection::open(server.port)?;
    let work = server.folder.as_ref().ok_or("no folder")?.join("work");
    let body = serde_json::json!({ "workingDir": work }).to_string();
    let create = http::post_bytes("/api/sessions", &body);
    line.exchange(&create)?;
    let before = server.memory();
    let begin = Instant::now();
    let mut ids = Vec::new();
    for _ in 0..sessions {
        let answer: serde_json::Value =
            serde_json::from_slice(&line.exchange(&create)?).map_err(|error| error.to_string())?;
        ids.push(answer["sessionId"].as_str().ok_or("a session without an id")?.to_owned());
    }
    let seconds = begin.elapsed().as_secs_f64();
    let each = |bytes: u64, count: u64| bytes as f64 / count as f64;
    let mut add = |measure, value| {
        results.add(round, FIGURE, Kind::Sidestream.name(), sessions, measure, value);
    };
    add("created_per_s", sessions as f64 / seconds);
    add("never_prompted_bytes", each(server.memory().saturating_sub(before), sessions));
    // Started again on the same data: all of them come from the disk.
    let folder = server.folder.take().ok_or("no folder")?;
    drop((line, server));
    let empty = servers::sidestream(Kind::Sidestream, places, &more)?;
    let before = empty.memory();
    drop(empty);
    let begin = Instant::now();
    let server = servers::sidestream_in(Kind::Sidestream, places, folder, &more)?;
    add("restart_ms", begin.elapsed().as_secs_f64() * 1e3);
    let found = each(server.memory().saturating_sub(before), sessions);
    add("found_bytes", found);
    let mut line = Connection::open(server.port)?;
    let mut run = |ids: &mut dyn Iterator<Item = &String>| -> Result<(), String> {
        for id in ids {
            let target = format!("/api/session/{id}/prompt?wait=30");
            line.exchange(&http::post_bytes(&target, r#"{"command":"nothing"}"#))?;
        }
        Ok(())
    };
    let turns = turns.min(ids.len() - BEFORE);
    run(&mut std::iter::repeat_n(&ids[0], FILLING))?;
    run(&mut ids[1..BEFORE].iter())?;
    let before = server.memory();
    run(&mut ids[BEFORE..BEFORE + turns].iter())?;
    let more = each(server.memory().saturating_sub(before), turns as u64);
    add("suspended_bytes", found + more);
    Ok(())
}
