//! What is asked of the kernel: processor time and memory of a process, what the kernel itself
//! holds for sockets, which core a thread runs on, and what machine this is.

use rustix::thread::{CpuSet, sched_setaffinity};
use std::fs;
use std::path::Path;
use std::process::Command;

/// The core that what is measured runs on.
pub const SERVER_CORE: usize = 0;
/// The core of the load generator, and of agents.
pub const LOAD_CORE: usize = 1;

/// Pins this thread, and what it starts from here on, to one core. Where there is but one, or it
/// is not allowed, the figures are noisier, and still figures.
pub fn pin(core: usize) {
    let mut set = CpuSet::new();
    set.set(core);
    let _ = sched_setaffinity(None, &set);
}

/// Nanoseconds of processor time that all threads of a process have had.
pub fn cpu_ns(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_thread = |path: &Path| -> Option<u64> {
        fs::read_to_string(path.join("schedstat")).ok()?.split(' ').next()?.parse().ok()
    };
    threads.flatten().filter_map(|thread| of_thread(&thread.path())).sum()
}

/// The processes that a process has started.
pub fn children(pid: u32) -> Vec<u32> {
    let text = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().filter_map(|word| word.parse().ok()).collect()
}

/// A member of a file of `name: number` lines.
fn member(path: &str, name: &str) -> u64 {
    let text = fs::read_to_string(path).unwrap_or_default();
    let line =
        text.lines().find(|line| line.strip_prefix(name).is_some_and(|l| l.starts_with(':')));
    line.and_then(|line| line.split_whitespace().nth(1)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// What a process alone holds in memory, in bytes: files of the system and shared libraries are
/// not in it, its own data, heap and stacks are.
pub fn private_memory(pid: u32) -> u64 {
    let path = format!("/proc/{pid}/smaps_rollup");
    1024 * (member(&path, "Private_Clean") + member(&path, "Private_Dirty"))
}

/// What a process holds in memory, in bytes, shared parts and all.
pub fn resident(pid: u32) -> u64 {
    1024 * member(&format!("/proc/{pid}/status"), "VmRSS")
}

/// How often a process has gone to sleep.
pub fn sleeps(pid: u32) -> u64 {
    let Ok(threads) = fs::read_dir(format!("/proc/{pid}/task")) else { return 0 };
    let of_thread =
        |path: &Path| member(&path.join("status").to_string_lossy(), "voluntary_ctxt_switches");
    threads.flatten().map(|thread| of_thread(&thread.path())).sum()
}

/// What the kernel holds for everything, in bytes: its slabs, and the pages in sockets' queues.
pub fn kernel_memory() -> u64 {
    1024 * member("/proc/meminfo", "Slab") + 4096 * socket_pages()
}

/// Pages in the queues of TCP sockets.
fn socket_pages() -> u64 {
    let text = fs::read_to_string("/proc/net/sockstat").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("TCP:")).unwrap_or("");
    let words: Vec<&str> = line.split_whitespace().collect();
    let at = words.iter().position(|word| *word == "mem");
    at.and_then(|at| words.get(at + 1)).and_then(|n| n.parse().ok()).unwrap_or(0)
}

/// The first line that a command prints, or that it is not there.
pub fn version(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else {
        return "not installed".into();
    };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    text.lines().next().unwrap_or("").trim().to_owned()
}

/// The machine in one line.
pub fn describe() -> String {
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let cores = cpu.lines().filter(|line| line.starts_with("processor")).count();
    let memory = member("/proc/meminfo", "MemTotal") / 1024 / 1024;
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{model}, {cores} cores, {memory} GiB, Linux {}", kernel.trim())
}

/// How many processes wanted a core in the last minute, on average: a busy machine makes noise.
pub fn load() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|word| word.parse().ok()).unwrap_or(0.0)
}
