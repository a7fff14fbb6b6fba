//! The documents: tables and aims as Markdown between markers, whatever stands around them kept;
//! plots; and the JSON file that the next run is compared with.

use crate::figures::{heartbeats, replay, requests, sessions, start, throughput};
use crate::machine;
use crate::plot::{self, Series};
use crate::results::{Results, number};
use crate::servers::{FLAGS, Kind, PEERS, Places};
use serde_json::{Value, json};
use std::fmt::Write;
use std::fs;
use std::io;
use std::path::Path;

const BEGIN: &str = "<!-- begin: written by make bench -->";
const END: &str = "<!-- end: written by make bench -->";

/// Servers in the order of the tables.
const ORDER: [Kind; 4] =
    [Kind::SendFloor, Kind::CoalescedFloor, Kind::Sidestream, Kind::SidestreamMemory];

/// What a run was made of.
pub fn about(places: &Places, rounds: u32, load: f64, seconds: f64) -> Value {
    let rust = machine::version("rustc", &["--version"]);
    let git = machine::version(
        "git",
        &["-C", &places.home.to_string_lossy(), "rev-parse", "--short", "HEAD"],
    );
    let go = match places.home.join("target/go-venv/bin/go") {
        wheel if wheel.exists() => wheel,
        _ => "go".into(),
    };
    let go = machine::version(&go.to_string_lossy(), &["version"]);
    json!({
        "machine": machine::describe(),
        "date": machine::version("date", &["-u", "+%Y-%m-%d %H:%M"]),
        "commit": git,
        "rounds": rounds,
        "minutes": (seconds / 6.0).round() / 10.0,
        "load_before": load,
        "versions": {
            "rustc": rust,
            "node": machine::version("node", &["--version"]),
            "express": package(places, "express"),
            "better-sse": package(places, "better-sse"),
            "axum": locked(places, "axum"),
            "actix-web": locked(places, "actix-web"),
            "go": go,
            "nginx": machine::version("nginx", &["-v"]),
            "nchan": machine::version("dpkg-query", &["-W", "-f", "${Version}", "libnginx-mod-nchan"]),
        },
    })
}

fn package(places: &Places, name: &str) -> String {
    let path = places.home.join("peers/node/node_modules").join(name).join("package.json");
    let text = fs::read_to_string(path).unwrap_or_default();
    let value: Value = serde_json::from_str(&text).unwrap_or_default();
    value["version"].as_str().unwrap_or("not installed").to_owned()
}

fn locked(places: &Places, name: &str) -> String {
    let text = fs::read_to_string(places.home.join("Cargo.lock")).unwrap_or_default();
    let at = text.find(&format!("name = \"{name}\"\nversion = \""));
    let line = at.and_then(|at| text[at..].lines().nth(1));
    line.map_or("?", |line| line.trim_start_matches("version = ").trim_matches('"')).to_owned()
}

/// Writes everything into the folder `docs`.
pub fn write(docs: &Path, results: &Results, about: &Value) -> io::Result<()> {
    fs::create_dir_all(docs.join("plots"))?;
    let mut json = serde_json::to_string_pretty(&results.to_json(about))?;
    json.push('\n');
    fs::write(docs.join("benchmarks.json"), json)?;
    for (name, svg) in plots(results) {
        fs::write(docs.join("plots").join(name), svg)?;
    }
    let path = docs.join("benchmarks.md");
    let old =
        fs::read_to_string(&path).unwrap_or_else(|_| format!("# Benchmarks\n\n{BEGIN}\n{END}\n"));
    let before = old.split(BEGIN).next().unwrap_or("");
    let after = old.split_once(END).map_or("\n", |(_, after)| after);
    fs::write(path, format!("{before}{BEGIN}\n\n{}\n{END}{after}", markdown(results, about)))
}

/// What is written between the markers.
pub fn markdown(results: &Results, about: &Value) -> String {
    let mut out = String::new();
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let _ = writeln!(
        out,
        "Machine: {}. {} UTC, commit {}, {} rounds in {} minutes, load before: {}.\n",
        text(&about["machine"]),
        text(&about["date"]),
        text(&about["commit"]),
        about["rounds"],
        about["minutes"],
        about["load_before"]
    );
    if let Some(versions) = about["versions"].as_object() {
        let versions: Vec<String> =
            versions.iter().map(|(k, v)| format!("{k} {}", text(v))).collect();
        let _ = writeln!(out, "Versions: {}.\n", versions.join("; "));
    }
    let _ = writeln!(out, "sidestream's flags, beside paths: `{}`.\n", FLAGS.join(" "));
    aims(&mut out, results);
    fan_out(&mut out, results);
    others(&mut out, results);
    if !results.missing.is_empty() {
        out.push_str("### Missing from this run\n\n");
        for sentence in &results.missing {
            let line = sentence.lines().next().unwrap_or("");
            let _ = writeln!(out, "* {line}");
        }
    }
    out
}

/// An aim: what, the figure that came of it, and whether it is reached.
struct Aim {
    what: &'static str,
    wanted: String,
    got: Option<f64>,
    reached: fn(f64, f64) -> bool,
    limit: f64,
}

fn aims(out: &mut String, results: &Results) {
    const WRITE: &str = "sidestream";
    const MEMORY: &str = "sidestream, memory";
    let at_most: fn(f64, f64) -> bool = |got, limit| got <= limit;
    let at_least: fn(f64, f64) -> bool = |got, limit| got >= limit;
    let largest = |figure| results.scales(figure).last().copied().unwrap_or(0);
    let single = largest("single");
    let burst = largest("burst");
    let peer_scale = if results.scales("burst").contains(&10_000) { 10_000 } else { 1_000 };
    let of = |name: &str| results.median("burst", name, peer_scale, "deliveries_per_s");
    let best = [Kind::Axum, Kind::Actix].iter().filter_map(|kind| of(kind.name())).reduce(f64::max);
    let growth = |name: &str| {
        let at = |scale| results.median("single", name, scale, "cpu_ns_per_frame");
        Some(at(single)? / at(100)?)
    };
    let median = |figure, name: &str, scale, measure| results.median(figure, name, scale, measure);
    let ratio = |figure, pair, scale, measure| results.ratio(figure, pair, scale, measure);
    let beats = largest(heartbeats::FIGURE);
    let sessions_scale = largest(sessions::FIGURE);
    let aim = |what, got, limit: f64, reached: fn(f64, f64) -> bool, unit: &str| {
        let sign = if reached(0.0, 1.0) { "≤" } else { "≥" };
        Aim { what, wanted: format!("{sign} {}{unit}", number(limit)), got, reached, limit }
    };
    let health = median(requests::FIGURE, "/health", 1, "cpu_ns_per_request")
        .zip(median(requests::FIGURE, "nginx, constant", 1, "cpu_ns_per_request"))
        .map(|(ours, theirs)| ours / theirs);
    let all = [
        aim(
            "single events, CPU per frame, to the send floor (memory)",
            ratio("single", (MEMORY, "floor: send"), single, "cpu_ns_per_frame"),
            1.10,
            at_most,
            "",
        ),
        aim(
            "single events, CPU per frame, to the send floor (write)",
            ratio("single", (WRITE, "floor: send"), single, "cpu_ns_per_frame"),
            1.10,
            at_most,
            "",
        ),
        aim(
            "bursts, deliveries/s, to the coalesced floor (memory)",
            ratio("burst", (MEMORY, "floor: coalesced"), burst, "deliveries_per_s"),
            0.85,
            at_least,
            "",
        ),
        aim(
            "bursts, deliveries/s, to the coalesced floor (write)",
            ratio("burst", (WRITE, "floor: coalesced"), burst, "deliveries_per_s"),
            0.85,
            at_least,
            "",
        ),
        aim(
            "bursts, to the best Rust peer",
            of(WRITE).zip(best).map(|(a, b)| a / b),
            5.0,
            at_least,
            "",
        ),
        aim(
            "bursts, to nchan",
            of(WRITE).zip(of(Kind::Nchan.name())).map(|(a, b)| a / b),
            20.0,
            at_least,
            "",
        ),
        aim(
            "user memory per idle subscriber, bytes",
            median("memory", WRITE, largest("memory"), "user_bytes"),
            200.0,
            at_most,
            "",
        ),
        aim(
            "agent's write to subscriber, to the relay floor (memory)",
            ratio("latency", (MEMORY, "floor: relay"), 1, "median_us"),
            1.5,
            at_most,
            "",
        ),
        aim(
            "agent's write to subscriber, to the relay floor (write)",
            ratio("latency", (WRITE, "floor: relay"), 1, "median_us"),
            2.5,
            at_most,
            "",
        ),
        aim(
            "lines of 10 MB, MB/s (write)",
            median("through: 10 MB", WRITE, 0, "mb_per_s"),
            500.0,
            at_least,
            "",
        ),
        aim(
            "lines of 69 KB, MB/s (write)",
            median("through: 69 KB", WRITE, 0, "mb_per_s"),
            500.0,
            at_least,
            "",
        ),
        aim("`/health`, CPU per request, to nginx's constant", health, 1.0, at_most, ""),
        aim(
            "growth of CPU per frame from 100 to the most subscribers, to the floor's own",
            growth(MEMORY).zip(growth("floor: send")).map(|(a, b)| a / b),
            1.1,
            at_most,
            "",
        ),
        aim(
            "idle RSS, MB",
            median(start::FIGURE, WRITE, 1, "idle_rss_bytes").map(|b| b / 1e6),
            3.0,
            at_most,
            "",
        ),
        aim(
            "binary, MB",
            median(start::FIGURE, WRITE, 1, "binary_bytes").map(|b| b / 1e6),
            1.5,
            at_most,
            "",
        ),
        aim(
            "first accept after exec, ms",
            median(start::FIGURE, WRITE, 1, "first_accept_ms"),
            5.0,
            at_most,
            "",
        ),
        aim(
            "heartbeats, CPU each, to the send floor",
            ratio(heartbeats::FIGURE, (WRITE, "floor: send"), beats, "cpu_ns_each"),
            1.15,
            at_most,
            "",
        ),
        aim(
            "wake-ups per second of an idle server",
            median(start::FIGURE, WRITE, 1, "idle_wakeups_per_s"),
            0.0,
            at_most,
            "",
        ),
        aim(
            "a suspended session, bytes",
            median(sessions::FIGURE, WRITE, sessions_scale, "suspended_bytes"),
            1024.0,
            at_most,
            "",
        ),
    ];
    out.push_str("### Aims\n\n| aim | wanted | measured | |\n|---|---|---|---|\n");
    for aim in all {
        let verdict = match aim.got {
            None => "not measured",
            Some(got) if (aim.reached)(got, aim.limit) => "reached",
            Some(_) => "**missed**",
        };
        let got = aim.got.map_or("–".to_owned(), number);
        let _ = writeln!(out, "| {} | {} | {got} | {verdict} |", aim.what, aim.wanted);
    }
    out.push('\n');
}

/// A table of one measure: servers down, scales across, and the ratio to a floor in brackets.
fn table(
    out: &mut String,
    results: &Results,
    title: &str,
    (figure, measure): (&'static str, &'static str),
    servers: &[&str],
    floor: Option<&str>,
) {
    let scales: Vec<u64> = results
        .scales(figure)
        .into_iter()
        .filter(|scale| {
            servers.iter().any(|s| results.median(figure, s, *scale, measure).is_some())
        })
        .collect();
    let _ = write!(out, "**{title}**\n\n| |");
    for scale in &scales {
        let _ = write!(out, " {} |", number_exact(*scale));
    }
    let _ = writeln!(out, "\n|---|{}", "---|".repeat(scales.len()));
    for server in servers {
        if scales.iter().all(|scale| results.median(figure, server, *scale, measure).is_none()) {
            continue;
        }
        let _ = write!(out, "| {server} |");
        for scale in &scales {
            let value = results.median(figure, server, *scale, measure).map(number);
            let ratio = floor.filter(|floor| floor != server);
            let ratio =
                ratio.and_then(|floor| results.ratio(figure, (server, floor), *scale, measure));
            let ratio = ratio.map_or(String::new(), |ratio| format!(" ({ratio:.2})"));
            let _ = write!(out, " {}{ratio} |", value.unwrap_or("–".into()));
        }
        out.push('\n');
    }
    out.push('\n');
}

/// A whole number, thousands apart.
fn number_exact(value: u64) -> String {
    if value < 1000 { value.to_string() } else { format!("{} {:03}", value / 1000, value % 1000) }
}

fn everybody() -> Vec<&'static str> {
    ORDER.iter().chain(&PEERS).map(|kind| kind.name()).collect()
}

fn fan_out(out: &mut String, results: &Results) {
    let all = everybody();
    out.push_str(
        "### 1. Single events\n\nOne event at a time, the next when every subscriber has it. \
        Columns: subscribers. In brackets: to the send floor, within the same round.\n\n",
    );
    table(
        out,
        results,
        "server CPU per delivered frame, ns",
        ("single", "cpu_ns_per_frame"),
        &all,
        Some("floor: send"),
    );
    table(
        out,
        results,
        "deliveries per second",
        ("single", "deliveries_per_s"),
        &all,
        Some("floor: send"),
    );
    table(out, results, "bytes of a frame", ("single", "bytes_per_frame"), &all, None);
    out.push_str("![CPU per frame](plots/single-cpu.svg)\n\n");
    out.push_str("### 2. Bursts of a hundred\n\nIn brackets: to the coalesced floor.\n\n");
    table(
        out,
        results,
        "deliveries per second",
        ("burst", "deliveries_per_s"),
        &all,
        Some("floor: coalesced"),
    );
    table(
        out,
        results,
        "server CPU per delivered frame, ns",
        ("burst", "cpu_ns_per_frame"),
        &all,
        Some("floor: coalesced"),
    );
    out.push_str("![Bursts](plots/burst.svg)\n\n");
    out.push_str(
        "### 3. From the agent's write to the subscriber\n\nMicroseconds from the write into \
        the agent's pipe. With one subscriber in brackets: to the relay floor.\n\n",
    );
    let with_relay: Vec<&str> = ["floor: relay"].into_iter().chain(all.iter().copied()).collect();
    table(
        out,
        results,
        "the median subscriber, µs",
        ("latency", "median_us"),
        &with_relay,
        Some("floor: relay"),
    );
    table(out, results, "the first, µs", ("latency", "first_us"), &with_relay, None);
    table(out, results, "the last, µs", ("latency", "last_us"), &with_relay, None);
    out.push_str("![Latency](plots/latency.svg)\n\n");
    out.push_str("### 4. Memory per subscriber\n\nUser memory is what the process alone holds, more \
        than with one subscriber. Kernel memory is slabs and socket queues of the whole system, half \
        of it the clients'. Stalled: one in twenty of 1,000 subscribers reads nothing while 4 MB are \
        published, and the sum is told per stalled one.\n\n");
    let with_idle: Vec<&str> = ["floor: idle"].into_iter().chain(all.iter().copied()).collect();
    table(
        out,
        results,
        "user bytes per idle subscriber",
        ("memory", "user_bytes"),
        &with_idle,
        None,
    );
    table(
        out,
        results,
        "kernel bytes per idle subscriber",
        ("memory", "kernel_bytes"),
        &with_idle,
        Some("floor: idle"),
    );
    table(
        out,
        results,
        "connects per second",
        ("memory", "connects_per_s"),
        &with_idle,
        Some("floor: idle"),
    );
    table(
        out,
        results,
        "user bytes per stalled subscriber",
        ("stalled", "user_bytes_each"),
        &all,
        None,
    );
    table(
        out,
        results,
        "kernel bytes per stalled subscriber",
        ("stalled", "kernel_bytes_each"),
        &all,
        None,
    );
    out.push_str("![Memory](plots/memory.svg)\n\n");
}

fn others(out: &mut String, results: &Results) {
    let names = ["floor: sink", "floor: relay", "sidestream", "sidestream, memory"];
    out.push_str(
        "### 5. Agent to stream\n\nColumns: subscribers. Until the end of the turn is visible. \
        The floors read the pipe and drop it, or splice it to one socket.\n\n",
    );
    for figure in throughput::FIGURES {
        let _ = writeln!(out, "#### {figure}\n");
        table(out, results, "MB/s", (figure, "mb_per_s"), &names, None);
        table(out, results, "lines per second", (figure, "lines_per_s"), &names, None);
        table(out, results, "server CPU per byte, ns", (figure, "cpu_ns_per_byte"), &names, None);
        table(
            out,
            results,
            "MB/s until every subscriber has it",
            (figure, "all_have_it_mb_per_s"),
            &names,
            None,
        );
        table(
            out,
            results,
            "subscribers outrun by the ring and hung up on",
            (figure, "outrun"),
            &names,
            None,
        );
    }
    out.push_str("### 6. Replay\n\nA journal of 100 MB, whole, to late subscribers. Columns: how many at once.\n\n");
    let names = ["floor: sendfile", "sidestream"];
    table(
        out,
        results,
        "MB/s, all together",
        (replay::FIGURE, "mb_per_s"),
        &names,
        Some("floor: sendfile"),
    );
    table(
        out,
        results,
        "server CPU per byte, ns",
        (replay::FIGURE, "cpu_ns_per_byte"),
        &names,
        Some("floor: sendfile"),
    );
    out.push_str("### 7. Requests\n\nOn 64 connections that stay, one request under way on each; prompts \
        on 8, each answered at the end of its turn.\n\n| | requests/s | CPU per request, ns |\n|---|---|---|\n");
    for name in ["nginx, constant", "/health", "/api/debug/metrics", "prompt, to its end"] {
        let get =
            |measure| results.median(requests::FIGURE, name, 1, measure).map_or("–".into(), number);
        let _ =
            writeln!(out, "| {name} | {} | {} |", get("requests_per_s"), get("cpu_ns_per_request"));
    }
    out.push_str("\n### 8. Start\n\n| | write | memory |\n|---|---|---|\n");
    for (measure, what) in [
        ("first_accept_ms", "first accepted connection, ms after exec"),
        ("first_answer_ms", "first answer of `/health`, ms after exec"),
        ("idle_rss_bytes", "idle RSS, bytes"),
        ("idle_private_bytes", "of that its own, bytes"),
        ("idle_wakeups_per_s", "wake-ups per second, idle"),
        ("binary_bytes", "binary, bytes"),
    ] {
        let get = |name| results.median(start::FIGURE, name, 1, measure).map_or("–".into(), number);
        let _ = writeln!(out, "| {what} | {} | {} |", get("sidestream"), get("sidestream, memory"));
    }
    out.push_str(
        "\n### 9. Heartbeats\n\nOne every five seconds to each subscriber, and nothing else.\n\n",
    );
    let names = ["floor: send", "sidestream"];
    table(
        out,
        results,
        "CPU per heartbeat, ns",
        (heartbeats::FIGURE, "cpu_ns_each"),
        &names,
        Some("floor: send"),
    );
    table(
        out,
        results,
        "CPU, % of a core",
        (heartbeats::FIGURE, "cpu_share_percent"),
        &names,
        None,
    );
    table(out, results, "wake-ups per second", (heartbeats::FIGURE, "wakeups_per_s"), &names, None);
    out.push_str(
        "### 10. Idle sessions\n\nColumns: sessions. Found: by a server that starts on their data. \
        Suspended: after one turn each, their agents gone. The log of all sessions, \
        whose memory is declared, is full before their turns begin.\n\n",
    );
    for (measure, what) in [
        ("never_prompted_bytes", "bytes of a session never prompted"),
        ("found_bytes", "bytes of a session found at the start"),
        ("suspended_bytes", "bytes of a suspended session, all told"),
        ("created_per_s", "created per second"),
        ("restart_ms", "start with all of them, ms"),
    ] {
        table(out, results, what, (sessions::FIGURE, measure), &["sidestream"], None);
    }
}

fn plots(results: &Results) -> Vec<(&'static str, String)> {
    let series = |figure: &'static str, measure: &'static str, names: &[&str]| -> Vec<Series> {
        let points = |name: &str| -> Vec<(f64, f64)> {
            let scales = results.scales(figure).into_iter();
            scales
                .filter_map(|s| Some((s as f64, results.median(figure, name, s, measure)?)))
                .collect()
        };
        let series = names.iter().map(|name| Series { name: (*name).into(), points: points(name) });
        series.filter(|one| !one.points.is_empty()).collect()
    };
    let all = everybody();
    let memory: Vec<(String, f64)> = ["floor: idle"]
        .iter()
        .chain(&all)
        .filter_map(|name| {
            Some(((*name).to_owned(), results.median("memory", name, 10_000, "user_bytes")?))
        })
        .collect();
    vec![
        (
            "single-cpu.svg",
            plot::lines(
                "Single events: server CPU per delivered frame",
                "subscribers",
                "ns",
                &series("single", "cpu_ns_per_frame", &all),
            ),
        ),
        (
            "burst.svg",
            plot::lines(
                "Bursts of a hundred events",
                "subscribers",
                "deliveries per second",
                &series("burst", "deliveries_per_s", &all),
            ),
        ),
        (
            "latency.svg",
            plot::lines(
                "From the agent's write to the median subscriber",
                "subscribers",
                "µs",
                &series("latency", "median_us", &[&["floor: relay"], &all[..]].concat()),
            ),
        ),
        (
            "memory.svg",
            plot::bars("User memory per idle subscriber, 10,000 of them", "bytes", &memory),
        ),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_people_wrote_around_the_tables_is_kept_and_old_tables_are_not() {
        let docs = std::env::temp_dir().join(format!("fanout-report-{}", std::process::id()));
        fs::create_dir_all(&docs).unwrap();
        let page = docs.join("benchmarks.md");
        fs::write(&page, format!("# Ours\n{BEGIN}\nstale tables\n{END}\nthe log\n")).unwrap();
        let mut results = Results::default();
        for (scale, value) in [(100, 4_000.0), (1_000, 5_000.0)] {
            results.add(1, "single", "sidestream", scale, "cpu_ns_per_frame", value);
            results.add(1, "single", "floor: send", scale, "cpu_ns_per_frame", 4_000.0);
        }
        for _ in 0..2 {
            write(&docs, &results, &json!({ "machine": "a machine" })).unwrap();
            let text = fs::read_to_string(&page).unwrap();
            assert!(text.starts_with("# Ours\n") && text.ends_with("\nthe log\n"), "{text}");
            assert!(text.contains("| sidestream | 4 000 (1.00) | 5 000 (1.25) |"), "{text}");
            assert!(!text.contains("stale") && text.matches(BEGIN).count() == 1, "{text}");
        }
        let json: Value =
            serde_json::from_slice(&fs::read(docs.join("benchmarks.json")).unwrap()).unwrap();
        assert!(results.differences(&json).is_empty());
        let svg = fs::read_to_string(docs.join("plots/single-cpu.svg")).unwrap();
        assert!(svg.starts_with("<svg") && svg.ends_with("</svg>\n") && svg.contains("polyline"));
        fs::remove_dir_all(&docs).unwrap();
    }
}
