//! What is counted of a server each second, and the judgement whether it rises.

use super::support::Server;
use std::fmt::Write as _;
use std::time::{Duration, Instant};

/// One thing that is counted.
pub struct Series {
    /// Its name.
    pub name: &'static str,
    /// Its unit.
    pub unit: &'static str,
    /// By how much it may differ by accident. None: of the whole machine, shown but not judged.
    pub slack: Option<f64>,
}

const fn series(name: &'static str, unit: &'static str, slack: f64) -> Series {
    Series { name, unit, slack: Some(slack) }
}

/// All of them, in the order of [`Sample::values`].
pub const SERIES: [Series; 14] = [
    series("rss", "KiB", 2048.0),
    series("mapped", "KiB", 16384.0),
    series("fds", "", 24.0),
    series("threads", "", 0.0),
    series("children", "", 8.0),
    series("connections", "", 24.0),
    series("streams", "", 16.0),
    series("sessions", "", 8.0),
    series("agents", "", 2.0),
    series("requestBytes", "B", 131072.0),
    series("bodyBytes", "B", 131072.0),
    series("promptBytes", "B", 65536.0),
    series("socketQueues", "B", 4194304.0),
    Series { name: "machineTcp", unit: "pages", slack: None },
];

/// One second.
pub struct Sample {
    /// Seconds since the beginning.
    pub at: f64,
    /// One value per series.
    pub values: [f64; SERIES.len()],
}

/// Counts everything once.
pub fn take(server: &Server, start: Instant) -> Sample {
    let process = |file: &str| {
        std::fs::read_to_string(format!("/proc/{}/{file}", server.pid())).unwrap_or_default()
    };
    let statm = process("statm");
    let pages = |at: usize| statm.split(' ').nth(at).and_then(|word| word.parse().ok());
    let kib = |at: usize| pages(at).map_or(0.0, |pages: f64| pages * 4.0);
    let status = process("status");
    let threads = status.lines().find_map(|line| line.strip_prefix("Threads:"));
    let metrics = server.metrics();
    let rows = server.get("/api/sessions?limit=1000").expect(200).json();
    let of = |object: &str, name: &str| {
        let number = metrics[object][name].as_f64();
        number.unwrap_or_else(|| panic!("no {object}.{name}: {metrics}"))
    };
    Sample {
        at: start.elapsed().as_secs_f64(),
        values: [
            kib(1),
            kib(0),
            server.descriptors() as f64,
            threads.map_or(0.0, |text| text.trim().parse().unwrap_or(0.0)),
            server.agents().len() as f64,
            of("server", "connections"),
            of("sse", "totalConnections"),
            rows["sessions"].as_array().map_or(0, Vec::len) as f64,
            of("server", "agents"),
            of("memory", "requestBytes"),
            of("memory", "bodyBytes"),
            of("memory", "promptBytes"),
            queued(server.address.port()),
            machine_tcp(),
        ],
    }
}

/// Bytes that the kernel holds in the queues of the server's sockets.
fn queued(port: u16) -> f64 {
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let ours = format!(":{port:04X}");
    let queues = table.lines().skip(1).filter_map(|line| {
        let mut words = line.split_ascii_whitespace();
        words.nth(1).filter(|local| local.ends_with(&ours))?;
        let (sent, received) = words.nth(2)?.split_once(':')?;
        let bytes = |hex| u64::from_str_radix(hex, 16).ok();
        Some(bytes(sent)? + bytes(received)?)
    });
    queues.sum::<u64>() as f64
}

/// Pages that the kernel holds for all TCP sockets of the machine.
fn machine_tcp() -> f64 {
    let table = std::fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = table.lines().find(|line| line.starts_with("TCP:")).unwrap_or_default();
    let pages = line.split_once(" mem ").and_then(|(_, pages)| pages.trim().parse().ok());
    pages.unwrap_or(0.0)
}

/// All seconds.
#[derive(Default)]
pub struct Samples(Vec<Sample>);

impl Samples {
    /// Adds one.
    pub fn push(&mut self, sample: Sample) {
        self.0.push(sample);
    }

    /// All of them.
    pub fn all(&self) -> &[Sample] {
        &self.0
    }

    fn after(&self, warm_up: Duration, number: usize) -> Vec<f64> {
        let late = self.0.iter().filter(|sample| sample.at >= warm_up.as_secs_f64());
        late.map(|sample| sample.values[number]).collect()
    }

    /// The series that rise after the warm-up, by more than their slack times `leniency`, and from
    /// where to where.
    pub fn rising(&self, warm_up: Duration, leniency: f64) -> Vec<String> {
        let judged = SERIES.iter().enumerate().filter_map(|(number, series)| {
            let rise = rise(&self.after(warm_up, number), leniency * series.slack?)?;
            Some(format!("{}: {rise}", series.name))
        });
        judged.collect()
    }

    /// The figures, a line per series.
    pub fn table(&self, warm_up: Duration) -> String {
        let mut text = String::new();
        let names = ["first third", "last third", "least", "most"];
        let _ = writeln!(
            text,
            "{:>14} {:>12} {:>12} {:>12} {:>12}",
            "", names[0], names[1], names[2], names[3]
        );
        for (number, series) in SERIES.iter().enumerate() {
            let values = self.after(warm_up, number);
            let third = values.len() / 3;
            let least = values.iter().copied().fold(f64::MAX, f64::min);
            let most = values.iter().copied().fold(0.0, f64::max);
            let first = median(&values[..third]);
            let last = median(&values[values.len() - third..]);
            let name = format!("{} {}", series.name, series.unit);
            let _ = writeln!(text, "{name:>14} {first:>12} {last:>12} {least:>12} {most:>12}");
        }
        text
    }

    /// One line per second.
    pub fn csv(&self) -> String {
        let mut text = "seconds".to_owned();
        SERIES.iter().for_each(|series| text += &format!(",{}", series.name));
        for sample in &self.0 {
            let _ = write!(text, "\n{:.1}", sample.at);
            sample.values.iter().for_each(|value| text += &format!(",{value}"));
        }
        text + "\n"
    }
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Whether a series rises: its usual value in the last third is above that in the first by more
/// than accident explains. Single peaks, which a busy machine makes, count for nothing.
fn rise(values: &[f64], slack: f64) -> Option<String> {
    let third = values.len() / 3;
    assert!(third > 0, "too few samples for a judgement");
    let first = &values[..third];
    let (before, after) = (median(first), median(&values[values.len() - third..]));
    let spread = median(&first.iter().map(|value| (value - before).abs()).collect::<Vec<_>>());
    let allowed = slack.max(before * 0.05).max(3.0 * spread);
    (after - before > allowed).then(|| format!("{before} to {after}, {allowed} are allowed"))
}

#[test]
fn a_rise_is_told_from_noise_steps_and_peaks() {
    let noise = |n: u32| f64::from(n.wrapping_mul(2_654_435_761) >> 22); // 0 to 1023.
    let series = |of: &dyn Fn(u32) -> f64| (0..300).map(of).collect::<Vec<_>>();
    let flat = series(&|n| 10_000.0 + noise(n));
    assert_eq!(rise(&flat, 500.0), None);
    let saw = series(&|n| 10_000.0 + f64::from(n % 30) * 100.0);
    assert_eq!(rise(&saw, 500.0), None);
    let peaks = series(&|n| if n % 7 == 0 && n > 200 { 90_000.0 } else { 10_000.0 });
    assert_eq!(rise(&peaks, 500.0), None);
    let falls = series(&|n| 20_000.0 - f64::from(n) * 10.0);
    assert_eq!(rise(&falls, 500.0), None);
    let leak = series(&|n| 10_000.0 + noise(n) + f64::from(n) * 20.0);
    assert!(rise(&leak, 500.0).is_some());
    let step = series(&|n| if n > 150 { 12_000.0 } else { 10_000.0 });
    assert!(rise(&step, 500.0).is_some());
    let one_by_one = series(&|n| f64::from(n / 10));
    assert!(rise(&one_by_one, 8.0).is_some(), "thirty of something");
}
