//! Agent processes: how one starts, how it is seen to end, and how what it left behind is found.
//!
//! Promises: a spawn never forks our memory (posix_spawn of ourselves, see [`super::shim`]);
//! a child stays a zombie until its [`Child`] is dropped, so its number and its group cannot
//! become somebody else's while we may still signal them; nothing without our marker is ever
//! signalled; nobody waits for "any child". Spawn only from the main thread: the agent gets
//! SIGTERM when the thread that spawned it ends. When to stop what is the core's business.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use mio::unix::pipe::{Receiver, Sender};

use super::shim;
use super::sys;
pub use super::sys::{Exit, PidFd};

/// The variable that says whose descendant a process is: `<data dir id>/<session id>`.
pub const MARKER: &str = "SIDESTREAM_MARKER";
/// What stdout's pipe holds, in bytes, where the system allows it: fewer wake-ups for a chatty
/// agent. The other two keep the kernel's 64 KiB.
const STDOUT_PIPE_SIZE: u32 = 256 * 1024;
/// What is read of one process's environment. The kernel allows 6 MiB of arguments and
/// environment together.
const ENVIRON_MAX: u64 = 8 * 1024 * 1024;
/// Between two looks at a process that is within an exec, and how many there are at most: a second.
const EXEC_LOOK: Duration = Duration::from_millis(1);
const EXEC_LOOKS_MAX: u32 = 1000;

/// What to start, and in which surroundings.
#[derive(Debug)]
pub struct Spec<'a> {
    /// The program, resolved ([`find_program`]); absolute.
    pub program: &'a Path,
    /// Its arguments, without its name.
    pub arguments: &'a [String],
    /// Where it starts: canonical, inside one of `roots`.
    pub working_dir: &'a Path,
    /// The directories agents may work in, canonical.
    pub roots: &'a [PathBuf],
    /// The one they may not, whatever root it lies in, canonical: the data directory.
    pub closed: Option<&'a Path>,
    /// Its whole environment, but for the marker ([`environment`]).
    pub environment: &'a [(OsString, OsString)],
    /// The value of [`MARKER`]: `<data dir id>/<session id>`.
    pub marker: &'a str,
    /// The soft and hard limit on descriptors that we were started with.
    pub nofile: (u64, u64),
}

/// A running or ended agent process and our ends of its pipes, non-blocking and close-on-exec.
///
/// Exit and end of output are independent facts: a grandchild may hold the pipes open.
/// Dropping it reaps the process if it has ended; if not, [`reap_adopted`] does so later.
#[derive(Debug)]
pub struct Child {
    /// Its number, which is also its group's and its session's.
    pub pid: u32,
    /// Readable once the process has ended.
    pub exit: PidFd,
    /// Its stdin; taken and dropped, it reads the end.
    pub stdin: Option<Sender>,
    /// Its stdout.
    pub stdout: Option<Receiver>,
    /// Its stderr.
    pub stderr: Option<Receiver>,
}

/// The two signals of the kill ladder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GroupSignal {
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
}

/// Starts a program through the shim. `shim` is our own executable, as an absolute path;
/// `/proc/self/exe` stays right when the file on disk is replaced. That the program itself
/// could not be executed is told by the child: one line on stderr and exit 127.
///
/// # Errors
/// When out of processes, memory or descriptors, or if `shim` cannot be executed.
pub fn spawn(shim: &Path, spec: &Spec) -> io::Result<Child> {
    start(shim, spec, Stdio::piped())
}

/// As [`spawn`], for a program whose standard output nobody wants.
///
/// # Errors
/// Those of [`spawn`].
pub fn spawn_unheard(shim: &Path, spec: &Spec) -> io::Result<Child> {
    start(shim, spec, Stdio::null())
}

fn start(shim: &Path, spec: &Spec, stdout: Stdio) -> io::Result<Child> {
    // No pre_exec, process_group or current_dir: with those std may fork instead.
    let mut child = Command::new(shim)
        .arg(shim::FLAG)
        .args(shim::arguments(spec))
        .env_clear()
        .envs(spec.environment.iter().map(|(name, value)| (name, value)))
        .env(MARKER, spec.marker)
        .stdin(Stdio::piped())
        .stdout(stdout)
        .stderr(Stdio::piped())
        .spawn()?;
    // Nobody else reaps, so the number is still the child's, even if it has ended by now.
    match (PidFd::open(child.id()), pipes(&mut child)) {
        (Ok(exit), Ok((stdin, stdout, stderr))) => {
            Ok(Child { pid: child.id(), exit, stdin, stdout, stderr })
        }
        (Err(error), _) | (_, Err(error)) => {
            let _ = child.kill();
            let _ = child.wait(); // At once: it is a shim, and SIGKILL does not wait.
            Err(error)
        }
    }
}

type Pipes = (Option<Sender>, Option<Receiver>, Option<Receiver>);

fn pipes(child: &mut std::process::Child) -> io::Result<Pipes> {
    let stdin = child.stdin.take().map(Sender::from);
    let stdout = child.stdout.take().map(Receiver::from);
    let stderr = child.stderr.take().map(Receiver::from);
    if let Some(stdout) = &stdout {
        let _ = sys::set_pipe_size(stdout, STDOUT_PIPE_SIZE); // Else as it was.
    }
    for receiver in [&stdout, &stderr].into_iter().flatten() {
        receiver.set_nonblocking(true)?;
    }
    if let Some(stdin) = &stdin {
        stdin.set_nonblocking(true)?;
    }
    Ok((stdin, stdout, stderr))
}

impl Child {
    /// How it ended, or `None` while it runs. May be asked again; it is not reaped by this.
    ///
    /// # Errors
    /// `ECHILD` if someone else has reaped it: it ended, nobody knows how.
    pub fn try_wait(&mut self) -> io::Result<Option<Exit>> {
        sys::peek_exit(self.pid)
    }

    /// Signals its group, which outlives it while a descendant that stayed in it lives. That
    /// nobody is left is fine.
    ///
    /// # Errors
    /// `EPERM` if what is left runs as another user.
    pub fn signal_group(&self, signal: GroupSignal) -> io::Result<()> {
        let signal = match signal {
            GroupSignal::Terminate => sys::SIGTERM,
            GroupSignal::Kill => sys::SIGKILL,
        };
        let gone = |error: &io::Error| error.raw_os_error() == Some(sys::ESRCH);
        match sys::kill_group(self.pid, signal) {
            // A shim that has not come to its setsid yet is in our group, not in its own.
            Err(error) if gone(&error) => match self.exit.signal(signal) {
                Err(error) if gone(&error) => Ok(()),
                result => result,
            },
            result => result,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = sys::reap(self.pid);
    }
}

// The environment

/// Variables an agent gets from ours.
const ALLOWED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "TZ",
    "TERM",
    "TMPDIR",
    "SSH_AUTH_SOCK",
    // Certificate authorities, as the usual tools name them.
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "GIT_SSL_CAINFO",
    // Settings of the claude CLI. Not CLAUDECODE, CLAUDE_PID or any other CLAUDE_CODE_*: those
    // are an outer client's, and tell the inner one lies.
    "CLAUDE_CONFIG_DIR",
    "CLAUDE_CODE_TMPDIR",
    "CLAUDE_CODE_MAX_RETRIES",
    "CLAUDE_CODE_STREAM_EVENT_HOLD_MS",
    "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC",
    "CLAUDE_CODE_USE_BEDROCK",
    "CLAUDE_CODE_USE_VERTEX",
    "CLAUDE_CODE_SKIP_BEDROCK_AUTH",
    "CLAUDE_CODE_SKIP_VERTEX_AUTH",
    "CLAUDE_CODE_OAUTH_TOKEN",
    "DISABLE_TELEMETRY",
    "DISABLE_AUTOUPDATER",
    "DISABLE_ERROR_REPORTING",
    "IS_SANDBOX",
];
/// The same, by their beginnings.
const ALLOWED_PREFIXES: &[&str] = &["LC_", "XDG_", "ANTHROPIC_"];
/// The same, in small or in capital letters.
const ALLOWED_PROXIES: &[&str] = &["http_proxy", "https_proxy", "no_proxy", "all_proxy"];

/// The agent's environment: of `variables` (ours) those on the allow list of DESIGN §3 and
/// those the operator names in `extra`, in their order. Never the marker: [`spawn`] sets it.
pub fn environment(
    variables: impl Iterator<Item = (OsString, OsString)>,
    extra: &[String],
) -> Vec<(OsString, OsString)> {
    let allowed = |name: &str| {
        ALLOWED.contains(&name)
            || ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
            || ALLOWED_PROXIES.iter().any(|proxy| {
                name == *proxy
                    || name.bytes().eq(proxy.bytes().map(|byte| byte.to_ascii_uppercase()))
            })
            || extra.iter().any(|extra| extra == name)
    };
    variables
        .filter(|(name, _)| name.to_str().is_some_and(|name| name != MARKER && allowed(name)))
        .collect()
}

/// Finds a program by name as a login shell would: on the PATH, then where `claude` and its
/// like are installed without being on the PATH of a service. A name with a slash is a path.
pub fn find_program(name: &str, path: Option<&OsStr>, home: Option<&Path>) -> Option<PathBuf> {
    let executable = |file: &PathBuf| file.is_file() && sys::may_execute(file);
    if name.contains('/') {
        return std::path::absolute(name).ok().filter(executable);
    }
    if name.is_empty() {
        return None;
    }
    let on_path = path.into_iter().flat_map(std::env::split_paths);
    let at_home = home.into_iter().flat_map(|home| {
        let fixed = [home.join(".local/bin"), home.join(".claude/local")];
        fixed.into_iter().chain(node_versions(home))
    });
    // A relative entry of the PATH would find another file in another directory.
    let directories = on_path.filter(|directory| directory.is_absolute()).chain(at_home);
    directories.map(|directory| directory.join(name)).find(executable)
}

/// The `bin` directories of nvm's node versions, newest first.
fn node_versions(home: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(home.join(".nvm/versions/node")) else { return Vec::new() };
    let version = |path: &PathBuf| -> Vec<u64> {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let numbers = name.trim_start_matches('v').split('.');
        numbers.map(|number| number.parse().unwrap_or(0)).collect()
    };
    let mut versions: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
    versions.sort_by_key(|path| std::cmp::Reverse(version(path)));
    versions.into_iter().map(|path| path.join("bin")).collect()
}

// What agents leave behind

/// What a sweep saw.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Live processes with the marker, spared ones not counted.
    pub found: u32,
    /// Those of them that SIGKILL was sent to.
    pub killed: u32,
}

/// Whether `/proc` is there to sweep by.
pub fn proc_available() -> bool {
    fs::metadata("/proc/self/stat").is_ok()
}

/// One pass over all processes of our user: SIGKILL for those marked `<prefix>/<session>`, or
/// `<prefix>/` and anything without a session. Never for ourselves, nor for those that `spare`
/// names by their number. One that forks while we look can be missed: repeat until nothing is
/// found. For a session whose agent has ended; while it lives its background tasks are its own.
pub fn sweep(prefix: &str, session: Option<&str>, spare: &dyn Fn(u32) -> bool) -> Swept {
    let mut swept = Swept::default();
    for_each_marked(prefix, session, spare, |pid, process| {
        swept.found += 1;
        if process.signal(sys::SIGKILL).is_ok() {
            swept.killed += 1;
        }
        // Adopted, and dead already? Else reap_adopted has it later. Not ours: ECHILD.
        let _ = sys::reap(pid);
    });
    swept
}

/// SIGKILL for every live child of ours that `known` does not name: orphans that we adopted,
/// whatever they did to their environment. For when no agent lives: while one does, nobody can say
/// whose session such a one belongs to. The dying hand us their own children: repeat until
/// nothing is found.
pub fn kill_adopted(known: &dyn Fn(u32) -> bool) -> Swept {
    let mut swept = Swept::default();
    for pid in children().into_iter().filter(|&pid| !known(pid)) {
        let Ok(process) = PidFd::open(pid) else { continue };
        // The number may have changed hands since the list was read; and a zombie is no prey.
        if parent_of(pid) != Some(std::process::id()) || matches!(sys::reap(pid), Ok(Some(_))) {
            continue;
        }
        swept.found += 1;
        if process.signal(sys::SIGKILL).is_ok() {
            swept.killed += 1;
        }
    }
    swept
}

/// How many live processes carry the marker, as [`sweep`] would find them.
pub fn descendants_alive(prefix: &str, session: Option<&str>, spare: &dyn Fn(u32) -> bool) -> u32 {
    let mut alive = 0;
    for_each_marked(prefix, session, spare, |_, _| alive += 1);
    alive
}

fn for_each_marked(
    prefix: &str,
    session: Option<&str>,
    spare: &dyn Fn(u32) -> bool,
    mut visit: impl FnMut(u32, &PidFd),
) {
    let (own, uid) = (std::process::id(), sys::effective_uid());
    for pid in processes() {
        let ours = || fs::metadata(format!("/proc/{pid}")).is_ok_and(|meta| meta.uid() == uid);
        if pid == own || spare(pid) || !ours() {
            continue;
        }
        // First the process, then its marker: if the number changes hands in between, the
        // marker is the successor's, but the signal goes to nobody.
        let Ok(process) = PidFd::open(pid) else { continue };
        if settled_marker_of(pid).is_some_and(|marker| matches(&marker, prefix, session)) {
            visit(pid, &process);
        }
    }
}

/// The marker of a process. One in the middle of an exec shows no environment for a moment: the old
/// one is gone and the new one is not there yet. It is waited for, or a sweep would pass over it.
fn settled_marker_of(pid: u32) -> Option<Vec<u8>> {
    for _ in 0..EXEC_LOOKS_MAX {
        // Asked first: an exec that ends between the two questions is seen to be one.
        let has_none = has_no_environment(pid);
        match look_at(pid) {
            Environment::Marked(marker) => return Some(marker),
            Environment::Unmarked => return None,
            Environment::Empty if has_none => return None,
            Environment::Empty => std::thread::sleep(EXEC_LOOK),
        }
    }
    None
}

/// Whether a process is over, or of the kernel, or was started with an environment of nothing; and
/// not merely about to become another program, which has no place for one yet.
fn has_no_environment(pid: u32) -> bool {
    const KERNEL_THREAD: u64 = 0x0020_0000; // PF_KTHREAD, include/linux/sched.h: it never has one.
    Stat::of(Path::new(&format!("/proc/{pid}"))).is_none_or(|stat| {
        let (start, end) = (stat.number(ENV_START), stat.number(ENV_END));
        stat.is_over() || stat.flags() & KERNEL_THREAD != 0 || (start == end && start != Some(0))
    })
}

fn matches(marker: &[u8], prefix: &str, session: Option<&str>) -> bool {
    let rest = marker.strip_prefix(prefix.as_bytes()).and_then(|rest| rest.strip_prefix(b"/"));
    rest.is_some_and(|rest| session.is_none_or(|session| rest == session.as_bytes()))
}

/// The marker in a process's environment as it was at its exec. A zombie has none.
pub fn marker_of(pid: u32) -> Option<Vec<u8>> {
    match look_at(pid) {
        Environment::Marked(marker) => Some(marker),
        Environment::Empty | Environment::Unmarked => None,
    }
}

/// What the environment of a process says of whose it is.
enum Environment {
    Marked(Vec<u8>),
    /// Nothing of ours; or we may not look, or there is no such process.
    Unmarked,
    /// There is not one byte of it.
    Empty,
}

fn look_at(pid: u32) -> Environment {
    let Ok(file) = File::open(format!("/proc/{pid}/environ")) else { return Environment::Unmarked };
    let mut environ = BufReader::new(file.take(ENVIRON_MAX));
    let mut variable = Vec::new();
    let mut found = Environment::Empty;
    while environ.read_until(0, &mut variable).is_ok_and(|count| count > 0) {
        let text = variable.strip_suffix(&[0]).unwrap_or(&variable);
        let value = text.strip_prefix(MARKER.as_bytes()).and_then(|rest| rest.strip_prefix(b"="));
        if let Some(value) = value {
            return Environment::Marked(value.to_vec());
        }
        variable.clear();
        found = Environment::Unmarked;
    }
    found
}

/// Reaps the ended orphans that became our children because we are their subreaper; children
/// that `known` names have an owner who reaps them. Returns how many it reaped.
pub fn reap_adopted(known: &dyn Fn(u32) -> bool) -> u32 {
    let adopted = children().into_iter().filter(|&pid| !known(pid));
    adopted.filter(|&pid| matches!(sys::reap(pid), Ok(Some(_)))).count() as u32
}

/// Our children, ended ones included. Empty without `/proc`.
pub fn children() -> Vec<u32> {
    children_by_thread("self").unwrap_or_else(|_| {
        // The kernel was built without CONFIG_PROC_CHILDREN.
        let own = std::process::id();
        processes().filter(|&pid| parent_of(pid) == Some(own)).collect()
    })
}

/// Every live process below us: agents, what they started, and orphans of theirs that we
/// adopted as their subreaper. One that forks while we look can be missed.
pub fn descendants() -> BTreeSet<u32> {
    let mut next = children();
    let mut found = BTreeSet::new();
    let mut parents: Option<Vec<(u32, u32)>> = None;
    while let Some(pid) = next.pop() {
        if !found.insert(pid) {
            continue;
        }
        match children_by_thread(&pid.to_string()) {
            Ok(children) => next.extend(children),
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_children_files() => {}
            Err(error) if error.raw_os_error() == Some(sys::ESRCH) => {} // It has ended.
            Err(_) => {
                let parents = parents.get_or_insert_with(|| {
                    processes().filter_map(|pid| Some((pid, parent_of(pid)?))).collect()
                });
                next.extend(parents.iter().filter(|(_, of)| *of == pid).map(|(child, _)| *child));
            }
        }
    }
    found
}

/// Whether the kernel was built with CONFIG_PROC_CHILDREN.
fn has_children_files() -> bool {
    Path::new("/proc/thread-self/children").exists()
}

/// Whether a process is below us; `None` if it, or one between, has ended meanwhile.
pub fn is_descendant(pid: u32) -> Option<bool> {
    let own = std::process::id();
    let mut at = pid;
    while at > 1 {
        at = parent_of(at)?;
        if at == own {
            return Some(true);
        }
    }
    Some(false)
}

/// Whether one of a process's threads has this socket open, which goes by its inode, or has given
/// it to an io_uring that it has open. `None` if we may not look, or if it ends just now: its table
/// of descriptors goes a moment before what was in it does.
pub fn holds_socket(pid: u32, inode: u32) -> Option<bool> {
    let wanted = format!("socket:[{inode}]");
    let gone = |error: &io::Error| {
        error.kind() == io::ErrorKind::NotFound || error.raw_os_error() == Some(sys::ESRCH)
    };
    let mut ends = false;
    // A thread may have descriptors of its own (unshare(2), CLONE_FILES).
    let threads = match fs::read_dir(format!("/proc/{pid}/task")) {
        Ok(threads) => threads,
        Err(error) => return gone(&error).then_some(false),
    };
    for thread in threads.flatten() {
        let files = match fs::read_dir(thread.path().join("fd")) {
            Ok(files) => files,
            Err(error) if gone(&error) => continue,
            Err(_) => return None,
        };
        for file in files.flatten() {
            let Ok(link) = fs::read_link(file.path()) else { continue };
            if link.as_os_str() == &*wanted {
                return Some(true);
            }
            if link.as_os_str() == IO_URING {
                let info = thread.path().join("fdinfo").join(file.file_name());
                match is_named_in(&info, &wanted) {
                    Ok(true) => return Some(true),
                    Ok(false) => {}
                    Err(error) if gone(&error) => {}
                    Err(_) => return None,
                }
            }
        }
        ends |= is_ending(&thread.path());
    }
    if ends { None } else { Some(false) }
}

/// What the link of an io_uring's descriptor says.
const IO_URING: &str = "anon_inode:[io_uring]";
/// What is read of what an io_uring says of itself: tens of thousands of files.
const URING_INFO_MAX: u64 = 1024 * 1024;

/// Whether a file of `/proc/PID/fdinfo` names this socket: an io_uring's names the files that were
/// registered with it (`UserFiles`), and those need no descriptor of their own.
fn is_named_in(info: &Path, socket: &str) -> io::Result<bool> {
    let mut text = Vec::new();
    let length = File::open(info)?.take(URING_INFO_MAX).read_to_end(&mut text)?;
    let is_named = memchr::memmem::find(&text, socket.as_bytes()).is_some();
    if !is_named && length as u64 == URING_INFO_MAX {
        return Err(io::ErrorKind::FileTooLarge.into()); // It may be named behind that.
    }
    Ok(is_named)
}

/// Whether a thread is on its way out, and not yet a zombie, whose descriptors are all closed.
fn is_ending(thread: &Path) -> bool {
    const EXITING: u64 = 4; // PF_EXITING, include/linux/sched.h
    Stat::of(thread).is_some_and(|stat| !stat.is_over() && stat.flags() & EXITING != 0)
}

/// The processes beside ours that have this socket open, of those that we may look into.
pub fn holders(inode: u32) -> impl Iterator<Item = u32> {
    let own = std::process::id();
    processes().filter(move |&pid| pid != own && holds_socket(pid, inode) == Some(true))
}

fn children_by_thread(pid: &str) -> io::Result<Vec<u32>> {
    let mut children = Vec::new();
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        match fs::read_to_string(thread?.path().join("children")) {
            Ok(list) => children.extend(list.split_ascii_whitespace().flat_map(str::parse::<u32>)),
            Err(error) if error.raw_os_error() == Some(sys::ESRCH) => {} // The thread has ended.
            Err(error) if error.kind() == io::ErrorKind::NotFound && has_children_files() => {}
            Err(error) => return Err(error),
        }
    }
    Ok(children)
}

/// The parent of a process, while it is there.
pub fn parent_of(pid: u32) -> Option<u32> {
    let stat = Stat::of(Path::new(&format!("/proc/{pid}")))?;
    stat.number(PARENT).and_then(|parent| parent.try_into().ok())
}

/// Fields of `stat`, by their numbers in proc(5).
const STATE: usize = 3;
const PARENT: usize = 4;
const FLAGS: usize = 9;
const ENV_START: usize = 50;
const ENV_END: usize = 51;

/// What `/proc` says of a process or a thread: `stat`, from its state on.
struct Stat(String);

impl Stat {
    /// Of the process or the thread whose directory in `/proc` this is.
    fn of(directory: &Path) -> Option<Stat> {
        let stat = fs::read(directory.join("stat")).ok()?;
        // pid (name) state parent …, and the name may hold spaces and parentheses.
        let name_end = memchr::memrchr(b')', &stat)?;
        String::from_utf8(stat[name_end + 1..].to_vec()).ok().map(Stat)
    }

    fn field(&self, number: usize) -> Option<&str> {
        self.0.split_ascii_whitespace().nth(number - STATE)
    }

    fn number(&self, number: usize) -> Option<u64> {
        self.field(number)?.parse().ok()
    }

    /// A zombie, or dead.
    fn is_over(&self) -> bool {
        self.field(STATE).is_none_or(|state| matches!(state, "Z" | "X"))
    }

    /// Its flags (include/linux/sched.h); none if they cannot be read.
    fn flags(&self) -> u64 {
        self.number(FLAGS).unwrap_or(0)
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_environment_is_the_allow_list_and_what_the_operator_adds() {
        let kept = [
            "PATH",
            "LC_ALL",
            "XDG_RUNTIME_DIR",
            "HTTPS_PROXY",
            "no_proxy",
            "NODE_EXTRA_CA_CERTS",
            "ANTHROPIC_API_KEY",
            "CLAUDE_CONFIG_DIR",
            "CLAUDE_CODE_MAX_RETRIES",
            "DISABLE_TELEMETRY",
            "MY_OWN",
        ];
        let dropped = [
            "CLAUDECODE",
            "CLAUDE_PID",
            "CLAUDE_CODE_SESSION_ID",
            "CLAUDE_CODE_MESSAGING_TOKEN",
            "CLAUDE_CODE_ENTRYPOINT",
            "SIDESTREAM_TOKEN_FILE",
            "LD_PRELOAD",
            "NODE_OPTIONS",
            "AWS_SECRET_ACCESS_KEY",
            "Http_Proxy",
            "LC",
            "path",
            "MY_OWNER",
            MARKER,
        ];
        let all = kept.iter().chain(&dropped).map(|name| (name.into(), "1".into()));
        let extra = ["MY_OWN".to_string(), MARKER.to_string()];
        let names: Vec<OsString> =
            environment(all, &extra).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, kept);
    }

    #[test]
    fn a_marker_matches_its_own_session_and_data_directory_only() {
        for (marker, session, expected) in [
            ("d/s-1", None, true),
            ("d/s-1", Some("s-1"), true),
            ("d/s-10", Some("s-1"), false),
            ("d/s-1", Some("s-10"), false),
            ("d", None, false),
            ("dd/s-1", None, false),
            ("x/d/s-1", None, false),
            ("", None, false),
        ] {
            assert_eq!(matches(marker.as_bytes(), "d", session), expected, "{marker} {session:?}");
        }
    }

    #[test]
    fn a_program_is_found_on_the_path_and_then_at_home() {
        let name = format!("sidestream-find-{}", std::process::id());
        let home = std::env::temp_dir().join(name);
        let file = |path: &str, mode| {
            let path = home.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            path
        };
        file("path-1/claude", 0o644); // There, but no program.
        file("path-2/claude/of", 0o755); // A directory.
        let path = std::env::join_paths([home.join("path-1"), home.join("path-2"), ".".into()]);
        let path = path.unwrap();
        let find = || find_program("claude", Some(&path), Some(&home));
        assert_eq!(find(), None);
        // Each place hides the ones before it in this list.
        for place in [
            ".nvm/versions/node/v9.1.0/bin/claude",
            ".nvm/versions/node/v22.9.0/bin/claude",
            ".nvm/versions/node/v22.10.0/bin/claude",
            ".claude/local/claude",
            ".local/bin/claude",
            "path-3/claude",
        ] {
            let made = file(place, 0o755);
            let path = std::env::join_paths([home.join("path-1"), home.join("path-3")]).unwrap();
            let found = find_program("claude", Some(&path), Some(&home));
            assert_eq!(found.as_ref(), Some(&made));
            assert_eq!(find_program(made.to_str().unwrap(), None, None), Some(made));
        }
        assert_eq!(find_program("", Some(&path), Some(&home)), None);
        assert_eq!(find_program("claude", None, None), None);
        assert_eq!(find_program("/none/claude", None, None), None);
        fs::remove_dir_all(&home).unwrap();
    }

    #[test]
    fn only_what_has_begun_to_end_and_not_ended_is_ending() {
        let mut child = Command::new("sleep").arg("60").spawn().unwrap();
        let thread = |pid: u32| PathBuf::from(format!("/proc/{pid}/task/{pid}"));
        assert!(!is_ending(&thread(std::process::id())));
        assert!(!is_ending(&thread(child.id())));
        assert_eq!(holds_socket(child.id(), 1), Some(false));
        child.kill().unwrap();
        // A zombie, until it is waited for: by then it has no descriptors, and is seen to.
        while !fs::read_to_string(thread(child.id()).join("stat")).unwrap().contains(") Z ") {}
        assert!(!is_ending(&thread(child.id())));
        assert_eq!(holds_socket(child.id(), 1), Some(false));
        child.wait().unwrap();
        assert!(!is_ending(&thread(child.id())));
        let torn = std::env::temp_dir().join(format!("sidestream-ending-{}", std::process::id()));
        fs::create_dir_all(&torn).unwrap();
        for (stat, want) in [
            ("7 (a b) R 1 7 7 0 -1 4194308 0", true),
            ("7 (a) R ) R 1 7 7 0 -1 4194304 0", false),
            ("7 (a) Z 1 7 7 0 -1 4194308 0", false),
            ("7 (a", false),
            ("", false),
        ] {
            fs::write(torn.join("stat"), stat).unwrap();
            assert_eq!(is_ending(&torn), want, "{stat}");
        }
        fs::remove_dir_all(&torn).unwrap();
    }

    #[test]
    fn a_process_name_cannot_forge_its_parent() {
        assert!(proc_available());
        let own = std::process::id();
        assert_eq!(parent_of(own), Some(sys::parent()));
        assert_eq!(parent_of(u32::MAX), None);
    }
}
