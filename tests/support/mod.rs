//! What the black-box tests stand on: a server of their own, a raw HTTP client, a strict SSE reader,
//! scratch directories and a look at the processes that are left.
//!
//! Everything here uses sockets and pipes as a stranger would. It knows the documented contract and
//! nothing of the server's inside. No test waits a fixed time: it waits for a condition, with
//! [`PATIENCE`] as the bound, so that a slow machine is slow and not red.
#![allow(dead_code, unused_imports)] // Each test binary compiles all of this and uses a part.

pub mod browser;
pub mod claude;
pub mod http;
pub mod proxy;
pub mod reader;
pub mod rig;
pub mod screen;
pub mod server;
pub mod users;

pub use claude::Api;
pub use http::{Connection, Response, request};
pub use reader::{Event, Next, Reader};
pub use rig::{Rig, Subscriber, ids_of, segments};
pub use screen::Screen;
pub use server::{Options, Server};

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// The longest a test waits for anything that is due at once on a quiet machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// Waits until `done` says so. Panics with `what` after [`PATIENCE`].
#[track_caller]
pub fn eventually(what: &str, mut done: impl FnMut() -> bool) {
    let start = Instant::now();
    while !done() {
        assert!(start.elapsed() < PATIENCE, "not within {PATIENCE:?}: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// A directory of its own for one test, gone with the value.
///
/// Its path is also the mark by which processes are known: every agent inherits it in HOME.
pub struct Scratch(PathBuf);

impl Scratch {
    /// Makes a new, empty directory.
    pub fn new() -> Scratch {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let nanos = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos();
        // Short: the CLI puts Unix sockets below it, whose paths have 108 bytes.
        let count = COUNT.fetch_add(1, Relaxed);
        let name = format!("sst-{}-{:x}-{count}", std::process::id(), nanos & 0xf_ffff);
        let path = std::env::temp_dir().canonicalize().unwrap().join(name);
        std::fs::create_dir(&path).unwrap();
        Scratch(path)
    }

    /// The directory itself, canonical.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// What stands in the environment of every process that works here, and in no other's.
    pub fn mark(&self) -> String {
        format!("{}/", self.0.display())
    }

    /// A path below it, as text.
    pub fn join(&self, name: &str) -> String {
        self.0.join(name).to_str().unwrap().to_string()
    }

    /// Makes a directory below it and returns its path.
    pub fn directory(&self, name: &str) -> String {
        std::fs::create_dir_all(self.0.join(name)).unwrap();
        self.join(name)
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        // Best effort: a process that is still dying may write once more.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Every live process whose environment mentions `mark`: pid and command line.
pub fn processes_marked(mark: &str) -> Vec<(u32, String)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        let environment = std::fs::read(entry.path().join("environ")).unwrap_or_default();
        if memchr::memmem::find(&environment, mark.as_bytes()).is_some() && !is_zombie(pid) {
            let command = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            found.push((pid, String::from_utf8_lossy(&command).replace('\0', " ")));
        }
    }
    found
}

/// Whether this pid is a live process (a zombie is not).
pub fn is_alive(pid: u32) -> bool {
    Path::new(&format!("/proc/{pid}")).exists() && !is_zombie(pid)
}

fn is_zombie(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with(['Z', 'X']))
}

/// Waits for a file that another process writes a pid to.
#[track_caller]
pub fn pid_from(path: &str) -> u32 {
    let mut pid = None;
    eventually(&format!("a pid in {path}"), || {
        pid = std::fs::read_to_string(path).ok().and_then(|text| text.trim().parse().ok());
        pid.is_some()
    });
    pid.unwrap()
}

/// Sends a signal by name (`TERM`, `KILL`, `STOP`) to one process.
pub fn signal(pid: u32, name: &str) {
    let status = Command::new("sh").args(["-c", &format!("kill -{name} {pid}")]).status().unwrap();
    assert!(status.success(), "kill -{name} {pid}: {status}");
}

/// The text of a fixture's path: `tests/fixtures/NAME`, absolute.
pub fn fixture(name: &str) -> String {
    format!("{}/tests/fixtures/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Fails with the cure if a program that the tests need is not there. Nothing is skipped.
#[track_caller]
pub fn need(program: &str) {
    let found = Command::new("sh")
        .args(["-c", &format!("command -v '{program}'")])
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    assert!(found, "this test needs `{program}`: run scripts/setup-tests.sh");
}

/// Runs the real `curl` with a clean environment; returns its standard output and exit status.
#[track_caller]
pub fn curl(arguments: &[&str]) -> (String, Option<i32>) {
    need("curl");
    let output = Command::new("curl")
        .args(["-sS", "--max-time", "30"])
        .args(arguments)
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .output()
        .unwrap();
    (String::from_utf8(output.stdout).expect("curl printed UTF-8"), output.status.code())
}

/// Makes a token with our own command; returns it.
#[track_caller]
pub fn add_token(file: &str, name: &str, scope: &str) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["token", "add", name, scope, "--token-file", file])
        .env_clear()
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let token = text.lines().next().unwrap().to_owned();
    assert!(token.starts_with("sst_") && token.len() == 68, "{text}");
    assert!(text.contains(&format!("/login#{token}")), "{text}");
    token
}

/// Numbers that are not to be foreseen by what is tested, and the same in every run.
pub struct Chance(pub u64);

impl Chance {
    /// One below `bound`.
    pub fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    /// One of these.
    pub fn of<'a, T>(&mut self, all: &'a [T]) -> &'a T {
        &all[self.below(all.len() as u64) as usize]
    }
}

/// Lets this process hold `count` descriptors, for tests with a thousand sockets.
pub fn allow_descriptors(count: u64) {
    need("prlimit");
    let pid = std::process::id();
    let status = Command::new("prlimit")
        .args(["--pid", &pid.to_string(), &format!("--nofile={count}:")])
        .status()
        .unwrap();
    assert!(status.success(), "this test needs {count} file descriptors (ulimit -Hn)");
}
