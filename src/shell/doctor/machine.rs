//! The doctor's look at the machine: kernel, limits, memory, clock, addresses, and the CLI.

use crate::limits::{Limits, MIB, mebibytes};
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::{Finding, bad, good, warning};
use crate::arguments::Listen;
use crate::shell::holders::{self, Program};
use crate::shell::peer::Peers;
use crate::shell::{clock, process, sys};
use crate::wire::visible;

/// What an agent takes, for sums: the CLI as it was measured, idle.
const AGENT_SIZE: u64 = 200 * MIB as u64;
/// How long the CLI may take to say its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);
/// Before this no clock is right: 2025-01-01.
const CLOCK_MIN_MS: u64 = 1_735_689_600_000;

/// The kernel and what it lets us do.
pub fn kernel() -> Vec<Finding> {
    let release = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let release = release.trim();
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>().unwrap_or(0));
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    let mut found = vec![match version {
        (0, _) => warning("kernel", "/proc does not say which it is", "mount /proc"),
        version if version < (5, 4) => {
            bad("kernel", format!("Linux {release} is too old"), "5.4 or later is needed")
        }
        _ => good("kernel", format!("Linux {release}")),
    }];
    found.push(match process::proc_available() {
        true => good("/proc", "is there"),
        false => {
            let what = "is not there: what agents leave behind is not found, nor who connects";
            warning("/proc", what, "mount it, or leave the sandbox that hides it")
        }
    });
    found.push(match sys::PidFd::open(std::process::id()) {
        Ok(_) => good("pidfd", "works"),
        Err(error) => {
            let cure = "allow pidfd_open and pidfd_send_signal in the sandbox's filter";
            bad("pidfd", format!("does not work: {error}"), cure)
        }
    });
    found.push(match (sys::socket_diagnostics(), Peers::new().probe()) {
        (_, Err(error)) => {
            let what = format!("the kernel does not say who connects over TCP: {error}");
            bad("sock_diag", what, "listen on a Unix socket, or start with --token-file")
        }
        (Err(_), Ok(())) => {
            let what = "is refused; /proc/net/tcp says it too, at more cost";
            warning("sock_diag", what, "allow AF_NETLINK in the sandbox")
        }
        (Ok(_), Ok(())) => good("sock_diag", "says who connects"),
    });
    found
}

/// Descriptors: what we may have, after the start has asked for all of it.
pub fn descriptors(limits: &Limits, asked: u32) -> Finding {
    let (soft, hard) = sys::nofile().unwrap_or((0, 0));
    let fits = limits.connections_max;
    let text = format!("{hard} (soft {soft}), enough for {fits} clients");
    if fits >= asked {
        return good("open files", text);
    }
    match fits {
        0..1000 => {
            let cure = "raise the hard limit: LimitNOFILE= in the unit, or ulimit -Hn";
            warning("open files", text, cure)
        }
        _ => good("open files", text),
    }
}

/// Memory: what there is, and what the bound and the agents come to.
pub fn memory(bound: u64, agents_max: u32) -> Finding {
    let mib = |bytes: u64| bytes / MIB as u64;
    let agents = u64::from(agents_max) * AGENT_SIZE;
    let group = group_limit();
    let available = meminfo("MemAvailable:");
    let Some(there) = available.into_iter().chain(group).min() else {
        return warning("memory", "/proc/meminfo does not say what there is", "mount /proc");
    };
    let whose = if group == Some(there) { "this control group's limit" } else { "available" };
    let text = format!(
        "{} MiB {whose}; the server takes at most {} MiB, {agents_max} agents some {} MiB",
        mib(there),
        mebibytes(bound), // As the start tells it.
        mib(agents)
    );
    if bound > there {
        let cure = "lower --all-ring-size, --ring-size, --agents-max or --line-max";
        return bad("memory", text, cure);
    }
    if bound + agents > there {
        let cure = "lower --agents-max, shorten --suspend-after, or add memory";
        return warning("memory", text, cure);
    }
    good("memory", text)
}

fn meminfo(name: &str) -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.split_ascii_whitespace().next()?.parse::<u64>().ok()?.checked_mul(1024)
}

/// The lowest `memory.max` of our control group and those above it (cgroup v2).
fn group_limit() -> Option<u64> {
    let text = fs::read_to_string("/proc/self/cgroup").ok()?;
    let path = text.lines().find_map(|line| line.strip_prefix("0::/"))?;
    let group = Path::new("/sys/fs/cgroup").join(path);
    let limits = group
        .ancestors()
        .filter_map(|group| fs::read_to_string(group.join("memory.max")).ok()?.trim().parse().ok());
    limits.min()
}

/// The disk below the data directory.
pub fn disk(data_dir: &Path, journal_total_max: u64) -> Finding {
    let gib = |bytes: u64| format!("{:.1} GiB", bytes as f64 / (1024.0 * MIB as f64));
    match sys::free_space(data_dir) {
        Ok(free) if free < journal_total_max => {
            let what = format!("{} free, journals may take {}", gib(free), gib(journal_total_max));
            warning("disk", what, "lower --journal-total-max, or make room")
        }
        Ok(free) => good("disk", format!("{} free below the data directory", gib(free))),
        Err(error) => warning("disk", format!("free space is not known: {error}"), "look at it"),
    }
}

/// The wall clock: right enough for timestamps and TLS.
pub fn wall_clock(data_dir: &Path) -> Finding {
    let now_ms = clock::wall_ms();
    if now_ms < CLOCK_MIN_MS {
        return bad("clock", "stands before 2025", "set it: timedatectl set-ntp true");
    }
    let modified = fs::metadata(data_dir.join("epochs")).and_then(|file| file.modified());
    let ahead = modified.ok().and_then(|at| at.duration_since(std::time::UNIX_EPOCH).ok());
    match ahead {
        Some(at) if at.as_millis() as u64 > now_ms + 60_000 => {
            let what = "stands before the last start of this server";
            warning("clock", what, "set it: timedatectl set-ntp true")
        }
        _ => good("clock", "is plausible"),
    }
}

/// An address to listen on: free, or who has it. Tried, and let go again.
pub fn address(listen: &Listen) -> Finding {
    let cure = "end it, or choose another place with --listen";
    let taken = |name: String, holder: Option<Program>| {
        let holder = holder.map_or("a program that we may not see".to_owned(), |it| it.to_string());
        bad("address", format!("{name} is taken by {holder}"), cure)
    };
    match listen {
        Listen::Unix(path) => {
            let name = format!("unix:{}", path.display());
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return taken(name, holders::of_unix(path));
            }
            match path.parent().filter(|parent| !parent.is_dir()) {
                Some(parent) => {
                    let what = format!("{name}: there is no directory {}", parent.display());
                    bad("address", what, "make it")
                }
                None => good("address", format!("{name} is free")),
            }
        }
        Listen::Tcp(host, port) => {
            let ip = match &**host {
                "localhost" => IpAddr::from(Ipv4Addr::LOCALHOST),
                host => host.parse().unwrap_or(IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            };
            let address = SocketAddr::new(ip, *port);
            match TcpListener::bind(address) {
                Ok(_) => good("address", format!("{address} is free")),
                Err(error) if error.kind() == std::io::ErrorKind::AddrInUse => {
                    taken(address.to_string(), holders::of_tcp(address))
                }
                Err(error) if ip.is_ipv6() => {
                    let cure = "none, if nobody here uses IPv6";
                    warning("address", format!("{address} cannot be used: {error}"), cure)
                }
                Err(error) => {
                    let cure = "ports below 1024 are root's; choose another with --listen";
                    bad("address", format!("{address} cannot be used: {error}"), cure)
                }
            }
        }
    }
}

/// The CLI: that it runs, its version, and whether it has credentials. Those are not read.
pub fn claude(program: &Path, environment: &[(OsString, OsString)]) -> Vec<Finding> {
    let name = program.display();
    let version = match version(program, environment) {
        Ok(version) => good("claude", format!("{name} is {version}")),
        Err(why) => {
            let cure = "install it again: npm install -g @anthropic-ai/claude-code";
            bad("claude", format!("{name} {why}"), cure)
        }
    };
    vec![version, login(environment)]
}

fn version(program: &Path, environment: &[(OsString, OsString)]) -> Result<String, String> {
    let mut child = Command::new(program)
        .arg("--version")
        .env_clear()
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(|error| format!("cannot be started: {error}"))?;
    let start = Instant::now();
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if start.elapsed() < VERSION_TIMEOUT => {
                std::thread::sleep(Duration::from_millis(10));
            }
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("does not say its version in time".into());
            }
        }
    };
    let mut bytes = Vec::new();
    if let Some(stdout) = child.stdout.take() {
        use std::io::Read;
        let _ = stdout.take(200).read_to_end(&mut bytes); // What there is of it.
    }
    let text = String::from_utf8_lossy(&bytes);
    let line = visible::lined(text.lines().next().unwrap_or_default());
    match status.success() && !line.is_empty() {
        true => Ok(line),
        false => Err(format!("--version ends with {status}")),
    }
}

fn login(environment: &[(OsString, OsString)]) -> Finding {
    const NAMES: [&str; 5] = [
        "ANTHROPIC_API_KEY",
        "ANTHROPIC_AUTH_TOKEN",
        "CLAUDE_CODE_OAUTH_TOKEN",
        "CLAUDE_CODE_USE_BEDROCK",
        "CLAUDE_CODE_USE_VERTEX",
    ];
    let value = |wanted: &str| {
        let found = environment.iter().find(|(name, _)| name == wanted);
        found.map(|(_, value)| value).filter(|value| !value.is_empty())
    };
    if let Some(name) = NAMES.into_iter().find(|name| value(name).is_some()) {
        return good("login", format!("{name} is set, and agents are given it"));
    }
    let home = || value("HOME").map(|home| Path::new(home).join(".claude"));
    let directory =
        value("CLAUDE_CONFIG_DIR").map(|dir| Path::new(dir).to_path_buf()).or_else(home);
    let file = directory.map(|directory| directory.join(".credentials.json"));
    match file.filter(|file| fs::metadata(file).is_ok_and(|file| file.len() > 0)) {
        Some(file) => good("login", format!("{} is there", file.display())),
        None => {
            let what = "no credentials are set, and none lie in ~/.claude";
            let cure =
                "run `claude` in a terminal as this user and log in, or set ANTHROPIC_API_KEY";
            warning("login", what, cure)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Weight;
    use super::*;

    #[test]
    fn the_bound_is_told_as_the_start_tells_it() {
        let found = memory(370 * MIB as u64 + 1, 8).found;
        assert!(found.contains(" 371 MiB"), "{found}");
    }

    #[test]
    fn a_secret_is_told_by_its_name_alone() {
        let environment = [("ANTHROPIC_API_KEY".into(), "sk-secret".into())];
        let found = login(&environment);
        assert_eq!(found.weight, Weight::Good);
        assert!(found.found.contains("ANTHROPIC_API_KEY") && !found.found.contains("secret"));
        let none = login(&[("HOME".into(), "/nowhere".into())]);
        assert!(none.weight == Weight::Warning && none.cure.contains("log in"), "{none:?}");
    }

    #[test]
    fn memory_is_weighed_against_the_bound_and_the_agents() {
        assert_eq!(memory(1, 0).weight, Weight::Good);
        assert_eq!(memory(1, 1_000_000).weight, Weight::Warning);
        assert_eq!(memory(1 << 60, 1).weight, Weight::Bad);
    }

    #[test]
    fn a_taken_address_is_told_and_a_free_one_is_let_go_again() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let listen = Listen::Tcp("127.0.0.1".into(), port);
        assert_eq!(address(&listen).weight, Weight::Bad);
        drop(listener);
        assert_eq!(address(&listen).weight, Weight::Good);
        assert_eq!(address(&listen).weight, Weight::Good);
        let nowhere = Listen::Unix("/nowhere/at/all".into());
        assert!(address(&nowhere).found.contains("no directory"));
    }
}
