//! Every `unsafe` of the crate: small typed wrappers over what std and mio lack.
//!
//! Each function is safe to call with any arguments its types allow, makes one system call
//! (or one documented fallback) and turns its failure into an [`io::Error`]. It knows no
//! policy: which error matters is its caller's business.
#![allow(unsafe_code)]

use std::ffi::{CString, c_int, c_void};
use std::io;
use std::os::fd::{AsFd, AsRawFd, FromRawFd, IntoRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::atomic::{AtomicI32, Ordering};

use mio::unix::SourceFd;
use mio::{Interest, Registry, Token, event};

/// The number of the signal that asks a process to end.
pub const SIGTERM: i32 = libc::SIGTERM;
/// The number of the signal that ends a process without asking.
pub const SIGKILL: i32 = libc::SIGKILL;
/// The number of the signal that a terminal's ^C sends.
pub const SIGINT: i32 = libc::SIGINT;
/// The number of the signal that by custom asks a server to read its files again.
pub const SIGHUP: i32 = libc::SIGHUP;
/// The number of the signal that a write to a closed pipe raises.
pub const SIGPIPE: i32 = libc::SIGPIPE;
/// A file would grow above RLIMIT_FSIZE.
pub const SIGXFSZ: i32 = libc::SIGXFSZ;
/// The number of the signal that a child's end raises.
pub const SIGCHLD: i32 = libc::SIGCHLD;

/// The errno of "no such process".
pub const ESRCH: i32 = libc::ESRCH;
/// The errno of "no such file", and of a socket that `NETLINK_SOCK_DIAG` does not find.
pub const ENOENT: i32 = libc::ENOENT;
/// The errno of an accept whose client is gone already.
pub const EPROTO: i32 = libc::EPROTO;

/// Of open(2): nobody is waited for.
pub const O_NONBLOCK: i32 = libc::O_NONBLOCK;

fn check(result: c_int) -> io::Result<c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn to_pid(pid: u32) -> io::Result<libc::pid_t> {
    match libc::pid_t::try_from(pid) {
        Ok(pid) if pid > 0 => Ok(pid),
        // 0 and negative numbers mean groups and "everyone" to the kernel.
        _ => Err(io::Error::from_raw_os_error(libc::ESRCH)),
    }
}

// Processes

/// One process, whatever becomes of its number: readable once it has ended.
#[derive(Debug)]
pub struct PidFd(OwnedFd);

impl PidFd {
    /// Opens the process that has this number now.
    ///
    /// # Errors
    /// `ESRCH` if there is none, `EMFILE`.
    pub fn open(pid: u32) -> io::Result<PidFd> {
        let pid = to_pid(pid)?;
        // SAFETY: takes two integers. Flags 0, since PIDFD_NONBLOCK is younger than 5.4 and
        // changes only waitid; close-on-exec is implied.
        let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
        let fd = check(fd as c_int)?;
        // SAFETY: the kernel has just made this descriptor for us.
        Ok(PidFd(unsafe { OwnedFd::from_raw_fd(fd) }))
    }

    /// Sends a signal to this very process, never to a successor of its number.
    ///
    /// # Errors
    /// `ESRCH` if it has been reaped, `EPERM` if it is another user's.
    pub fn signal(&self, signal: i32) -> io::Result<()> {
        let info = std::ptr::null::<libc::siginfo_t>();
        // SAFETY: a null siginfo asks for what kill(2) would send; flags are 0.
        let result = unsafe {
            libc::syscall(libc::SYS_pidfd_send_signal, self.0.as_raw_fd(), signal, info, 0)
        };
        check(result as c_int).map(drop)
    }
}

impl event::Source for PidFd {
    fn register(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).register(registry, token, how)
    }

    fn reregister(&mut self, registry: &Registry, token: Token, how: Interest) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).reregister(registry, token, how)
    }

    fn deregister(&mut self, registry: &Registry) -> io::Result<()> {
        SourceFd(&self.0.as_raw_fd()).deregister(registry)
    }
}

/// Sends a signal to every process of a group.
///
/// # Errors
/// `ESRCH` if the group is empty, `EPERM` if no member may be signalled.
///
/// # Panics
/// On groups 0 and 1: `kill(-1)` would be a signal to every process of the user.
pub fn kill_group(group: u32, signal: i32) -> io::Result<()> {
    assert!(group > 1, "group {group} is nobody's child");
    let group = to_pid(group)?;
    // SAFETY: takes two integers; -group is below -1 by the assertion.
    check(unsafe { libc::kill(-group, signal) }).map(drop)
}

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// It returned this status, 0–255.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

fn wait(pid: u32, options: c_int) -> io::Result<Option<Exit>> {
    let pid = to_pid(pid)?;
    // SAFETY: siginfo_t is plain integers, for which zero is a value.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    let options = libc::WEXITED | libc::WNOHANG | options;
    // SAFETY: `info` outlives the call; P_PID with a positive number means one process.
    check(unsafe { libc::waitid(libc::P_PID, pid as libc::id_t, &mut info, options) })?;
    // SAFETY: waitid has filled in the SIGCHLD members, or left all of them zero.
    let (ended, status) = unsafe { (info.si_pid(), info.si_status()) };
    Ok(match info.si_code {
        _ if ended == 0 => None,
        libc::CLD_EXITED => Some(Exit::Code(status)),
        _ => Some(Exit::Signal(status)), // CLD_KILLED, CLD_DUMPED: all that WEXITED reports.
    })
}

/// How a child of ours ended, or `None` while it runs. It stays a zombie, so its number stays
/// its own.
///
/// # Errors
/// `ECHILD` if it is not our child, or no longer.
pub fn peek_exit(pid: u32) -> io::Result<Option<Exit>> {
    wait(pid, libc::WNOWAIT)
}

/// As [`peek_exit`], and lets the child's number go.
///
/// # Errors
/// `ECHILD` if it is not our child, or no longer.
pub fn reap(pid: u32) -> io::Result<Option<Exit>> {
    wait(pid, 0)
}

fn prctl(option: c_int, value: libc::c_ulong) -> io::Result<()> {
    const NONE: libc::c_ulong = 0;
    // SAFETY: the three options used here take one integer.
    check(unsafe { libc::prctl(option, value, NONE, NONE, NONE) }).map(drop)
}

/// Asks for this signal when the thread that started us ends. Kept over exec.
///
/// # Errors
/// `EINVAL` for what is not a signal.
pub fn set_parent_death_signal(signal: i32) -> io::Result<()> {
    prctl(libc::PR_SET_PDEATHSIG, signal as libc::c_ulong)
}

/// Makes orphaned descendants our children instead of init's.
///
/// # Errors
/// None that Linux ≥ 3.4 would return.
pub fn become_subreaper() -> io::Result<()> {
    prctl(libc::PR_SET_CHILD_SUBREAPER, 1)
}

/// Keeps our memory from others of our user: no core file, no ptrace, no `/proc/PID/mem`.
///
/// # Errors
/// None that Linux would return.
pub fn forbid_dumps() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0)
}

/// Makes us the leader of a new session and a new process group, without a terminal.
///
/// # Errors
/// `EPERM` if we lead a group already.
pub fn new_session() -> io::Result<()> {
    // SAFETY: takes nothing.
    check(unsafe { libc::setsid() }).map(drop)
}

/// The number of our parent, now.
pub fn parent() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::getppid() as u32 }
}

/// The user whose rights we have.
pub fn effective_uid() -> u32 {
    // SAFETY: takes nothing, cannot fail.
    unsafe { libc::geteuid() }
}

/// Sets the mode bits that files we make do not get; returns the old ones. Children inherit
/// it, and an agent makes files for its user: prefer modes given to each file.
pub fn umask(mask: u32) -> u32 {
    // SAFETY: takes an integer, cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) as u32 }
}

/// Whether we may execute this file, or enter this directory.
pub fn may_execute(path: &Path) -> bool {
    let Ok(path) = CString::new(path.as_os_str().as_bytes()) else { return false };
    // SAFETY: a NUL-terminated string that outlives the call. AT_EACCESS: the effective user,
    // who is the one that will exec.
    unsafe { libc::faccessat(libc::AT_FDCWD, path.as_ptr(), libc::X_OK, libc::AT_EACCESS) == 0 }
}

/// The limit on open descriptors: soft, hard.
///
/// # Errors
/// None that Linux would return.
pub fn nofile() -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) })?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// Ticks a second, in which `/proc` tells CPU time.
pub fn clock_ticks() -> u64 {
    // SAFETY: No memory is passed.
    let ticks = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    u64::try_from(ticks).unwrap_or(0).max(1)
}

/// Bytes of a page of memory.
pub fn page_size() -> u64 {
    // SAFETY: No memory is passed.
    let size = unsafe { libc::sysconf(libc::_SC_PAGESIZE) };
    u64::try_from(size).unwrap_or(0)
}

/// Sets the limit on open descriptors: soft, hard.
///
/// # Errors
/// `EPERM` for a hard limit above the present one, `EINVAL` for soft above hard.
pub fn set_nofile(soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: `limit` outlives the call.
    check(unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) }).map(drop)
}

/// Marks every descriptor from `first` on to be closed by the next exec. They stay open until
/// then, so no owner of one is betrayed.
///
/// # Errors
/// Those of the fallback, without `/proc`: of reading the limit.
pub fn close_on_exec_from(first: RawFd) -> io::Result<()> {
    let (from, to) = (first as libc::c_uint, libc::c_uint::MAX);
    // SAFETY: takes three integers, and closes nothing.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, from, to, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(());
    }
    // Before 5.9 there is no such call, before 5.11 no such flag, and a sandbox may refuse it.
    close_on_exec_one_by_one(first)
}

fn close_on_exec_one_by_one(first: RawFd) -> io::Result<()> {
    let mark = |fd: RawFd| {
        // SAFETY: takes integers; a number that is not open fails with EBADF, which is fine.
        unsafe { libc::fcntl(fd, libc::F_SETFD, libc::FD_CLOEXEC) };
    };
    if let Ok(entries) = std::fs::read_dir("/proc/self/fd") {
        let fds = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        fds.filter(|&fd: &RawFd| fd >= first).for_each(mark);
        return Ok(());
    }
    // A descriptor may lie above a limit that was lowered after it was opened: look a little
    // further than the limit, but not at a billion numbers.
    let (soft, _) = nofile()?;
    (first..soft.clamp(1 << 12, 1 << 20) as RawFd).for_each(mark);
    Ok(())
}

// Signals

/// Where [`note_signal`] writes. Never closed once set, so a handler that runs late, or on
/// another thread, cannot write into somebody else's file.
static SIGNAL_PIPE: AtomicI32 = AtomicI32::new(-1);

extern "C" fn note_signal(signal: c_int) {
    let fd = SIGNAL_PIPE.load(Ordering::Relaxed);
    let byte = signal as u8;
    // SAFETY: write(2) is async-signal-safe and `byte` outlives it. A full pipe loses the byte,
    // and then there are thousands before it. errno is put back for whom we interrupted.
    unsafe {
        let errno = libc::__errno_location();
        let kept = *errno;
        libc::write(fd, (&raw const byte).cast::<c_void>(), 1);
        *errno = kept;
    }
}

fn set_action(signal: c_int, handler: libc::sighandler_t) -> io::Result<()> {
    // SAFETY: sigaction is plain integers, for which zero is a value: no flags, empty mask.
    let mut action: libc::sigaction = unsafe { std::mem::zeroed() };
    action.sa_sigaction = handler;
    action.sa_flags = libc::SA_RESTART;
    // SAFETY: `action` outlives the call; the handler is SIG_DFL, SIG_IGN or `note_signal`,
    // which takes what a handler without SA_SIGINFO is given.
    check(unsafe { libc::sigaction(signal, &action, std::ptr::null_mut()) }).map(drop)
}

/// From now on each of these signals is one byte, its number, written to `pipe`, which must be
/// non-blocking and stays open for the life of the process.
///
/// # Errors
/// `EINVAL` for a signal that cannot be caught.
pub fn catch_signals(pipe: impl IntoRawFd, signals: &[i32]) -> io::Result<()> {
    SIGNAL_PIPE.store(pipe.into_raw_fd(), Ordering::Relaxed);
    let handler = note_signal as extern "C" fn(c_int);
    signals.iter().try_for_each(|&signal| set_action(signal, handler as libc::sighandler_t))
}

/// Ignores a signal: [`SIGPIPE`], say. Exec keeps that, so the shim undoes it.
///
/// # Errors
/// `EINVAL` for a signal that cannot be ignored.
pub fn ignore_signal(signal: i32) -> io::Result<()> {
    set_action(signal, libc::SIG_IGN)
}

/// Gives one signal its default meaning.
///
/// # Errors
/// `EINVAL` for a signal that has no other.
pub fn default_signal(signal: i32) -> io::Result<()> {
    set_action(signal, libc::SIG_DFL)
}

/// Gives every signal its default meaning and unblocks all. Only for a process that is about
/// to exec: it takes libc's own signals from it too.
///
/// # Errors
/// None that Linux would return.
pub fn default_signals() -> io::Result<()> {
    // What the kernel calls sigaction on both architectures: handler, flags, restorer, mask;
    // all zero means default. Asked of the kernel itself, since libc keeps two signals from
    // sight, and glibc's posix_spawn leaves just these ignored in the child.
    let default = [0u64; 4];
    let nothing = std::ptr::null_mut::<c_void>();
    for signal in 1..=64 {
        // SAFETY: `default` outlives the call and is as long as the kernel reads; a sigset is
        // 8 bytes. KILL and STOP refuse, and need nothing.
        unsafe { libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), nothing, 8usize) };
    }
    // SAFETY: sigset_t is plain integers; sigemptyset makes it a set, and it outlives the call.
    check(unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &none, std::ptr::null_mut())
    })
    .map(drop)
}

// Descriptors

/// Whether a write would not block now. False also for one that would fail.
pub fn writable_now(fd: impl AsFd) -> bool {
    let mut poll = libc::pollfd { fd: fd.as_fd().as_raw_fd(), events: libc::POLLOUT, revents: 0 };
    // SAFETY: one pollfd that outlives the call, which does not wait.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready == 1 && poll.revents & (libc::POLLOUT | libc::POLLERR) == libc::POLLOUT
}

/// Asks for a pipe of this many bytes.
///
/// # Errors
/// `EPERM` above the system's or the user's limit, `EBUSY` for less than it holds.
pub fn set_pipe_size(fd: impl AsFd, size: u32) -> io::Result<()> {
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(fd.as_fd().as_raw_fd(), libc::F_SETPIPE_SZ, size as c_int) })
        .map(drop)
}

fn set_option(fd: impl AsFd, level: c_int, name: c_int, value: u32) -> io::Result<()> {
    let value = c_int::try_from(value).unwrap_or(c_int::MAX);
    let size = size_of::<c_int>() as libc::socklen_t;
    let at = (&raw const value).cast::<c_void>();
    // SAFETY: `value` outlives the call and is as long as `size` says.
    check(unsafe { libc::setsockopt(fd.as_fd().as_raw_fd(), level, name, at, size) }).map(drop)
}

/// Keeps the C library from taking address space that is not used: it would reserve 64 MiB for each
/// further thread, and, after a few large buffers, keep their like for ever. With it the process is as
/// large as what it holds. To be called before there is a second thread.
pub fn bound_allocator() {
    #[cfg(target_env = "gnu")]
    {
        /// Buffers from here on are mapped, and given back to the system with their last byte.
        const MAPPED_SIZE: c_int = 256 * 1024;
        // SAFETY: mallopt(3) only sets numbers; a refusal changes nothing.
        unsafe {
            libc::mallopt(libc::M_ARENA_MAX, 1);
            libc::mallopt(libc::M_MMAP_THRESHOLD, MAPPED_SIZE);
        }
    }
}

/// Bounds what the kernel holds for a socket to send; it doubles the number for its own needs.
///
/// # Errors
/// Those of setsockopt(2), as for the options below.
pub fn set_send_buffer(fd: impl AsFd, bytes: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, bytes)
}

/// Bounds what is held but not yet on the wire: above it the socket is not writable.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_unsent_max(fd: impl AsFd, bytes: u32) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT, bytes)
}

/// How long sent bytes may stay unacknowledged before the connection is given up.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_user_timeout(fd: impl AsFd, timeout_ms: u32) -> io::Result<()> {
    set_option(fd, libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, timeout_ms)
}

/// Probes a silent peer after `idle_s` seconds, each `interval_s` seconds, `count` times.
///
/// # Errors
/// Those of setsockopt(2).
pub fn set_keepalive(fd: impl AsFd, idle_s: u32, interval_s: u32, count: u32) -> io::Result<()> {
    set_option(&fd, libc::SOL_SOCKET, libc::SO_KEEPALIVE, 1)?;
    set_option(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPIDLE, idle_s)?;
    set_option(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPINTVL, interval_s)?;
    set_option(&fd, libc::IPPROTO_TCP, libc::TCP_KEEPCNT, count)
}

/// Who connected to a Unix socket, at the time it did: user and process.
///
/// # Errors
/// Those of getsockopt(2); `ENODATA` if the kernel does not know.
pub fn peer_credentials(fd: impl AsFd) -> io::Result<(u32, u32)> {
    let mut peer = libc::ucred { pid: 0, uid: libc::uid_t::MAX, gid: libc::gid_t::MAX };
    let mut size = size_of::<libc::ucred>() as libc::socklen_t;
    let (fd, at) = (fd.as_fd().as_raw_fd(), (&raw mut peer).cast::<c_void>());
    // SAFETY: `peer` and `size` outlive the call, and `size` is the size of `peer`.
    check(unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, at, &mut size) })?;
    if peer.uid == libc::uid_t::MAX {
        return Err(io::Error::from_raw_os_error(libc::ENODATA)); // Not a connected Unix socket.
    }
    Ok((peer.uid, peer.pid as u32))
}

/// A non-blocking socket that answers questions about sockets (sock_diag(7)).
///
/// # Errors
/// Where a sandbox or the kernel's configuration refuses it.
pub fn socket_diagnostics() -> io::Result<OwnedFd> {
    let kind = libc::SOCK_RAW | libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: takes integers.
    let fd = check(unsafe { libc::socket(libc::AF_NETLINK, kind, libc::NETLINK_SOCK_DIAG) })?;
    // SAFETY: the kernel has just made this descriptor for us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A listening stream socket that we were started with, ours from now on and no child's.
///
/// # Errors
/// `EBADF`, `ENOTSOCK`; `EINVAL` for a socket that is not one. What it is stays as it was then.
pub fn inherited_listener(number: RawFd) -> io::Result<OwnedFd> {
    let ask = |name: c_int| {
        let mut value: c_int = 0;
        let mut size = size_of::<c_int>() as libc::socklen_t;
        let at = (&raw mut value).cast::<c_void>();
        // SAFETY: `value` and `size` outlive the call, and `size` is the size of `value`. Any
        // number may be asked about.
        check(unsafe { libc::getsockopt(number, libc::SOL_SOCKET, name, at, &mut size) })
            .map(|_| value)
    };
    if ask(libc::SO_ACCEPTCONN)? != 1 || ask(libc::SO_TYPE)? != libc::SOCK_STREAM {
        return Err(io::Error::from_raw_os_error(libc::EINVAL));
    }
    // SAFETY: takes integers.
    check(unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) })?;
    // SAFETY: open, as the calls above have shown, and by the protocol of sd_listen_fds(3), whose
    // caller asks once, nobody else's in this process.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// What may still be written to the file system of this path, in bytes, by whoever is not root.
///
/// # Errors
/// Those of statvfs(3).
pub fn free_space(path: &Path) -> io::Result<u64> {
    let path = CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: statvfs is plain integers, for which zero is a value.
    let mut told: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: `path` is NUL-terminated, and both outlive the call.
    check(unsafe { libc::statvfs(path.as_ptr(), &mut told) })?;
    #[allow(clippy::unnecessary_cast, reason = "its types differ between the two C libraries")]
    Ok((told.f_bavail as u64).saturating_mul(told.f_frsize as u64))
}

/// The kernel's monotonic clock in microseconds: the same for every process until a reboot.
pub fn monotonic_us() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: `time` outlives the call, which cannot fail for this clock.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &mut time) };
    time.tv_sec as u64 * 1_000_000 + time.tv_nsec as u64 / 1000
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixStream;

    #[test]
    fn only_a_listening_socket_is_taken_over() {
        let (end, _other) = UnixStream::pair().unwrap();
        assert_eq!(inherited_listener(end.as_raw_fd()).unwrap_err().raw_os_error(), Some(22));
        assert!(inherited_listener(1 << 20).is_err());
        let file = std::fs::File::open("/dev/null").unwrap();
        assert!(inherited_listener(file.as_raw_fd()).is_err());
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let taken = inherited_listener(listener.into_raw_fd()).unwrap();
        let taken = std::net::TcpListener::from(taken);
        assert_eq!(taken.local_addr().unwrap(), address);
    }

    #[test]
    #[should_panic(expected = "nobody's child")]
    fn a_signal_to_everyone_cannot_be_asked_for() {
        let _ = kill_group(1, 0);
    }

    #[test]
    fn numbers_that_are_no_process_are_refused_before_the_kernel_reads_them_as_a_group() {
        for pid in [0, u32::MAX, 1 << 31] {
            assert_eq!(PidFd::open(pid).unwrap_err().raw_os_error(), Some(ESRCH), "{pid}");
            assert_eq!(reap(pid).unwrap_err().raw_os_error(), Some(ESRCH), "{pid}");
        }
    }

    #[test]
    fn descriptors_are_marked_one_by_one_where_the_kernel_cannot() {
        let (end, _other) = UnixStream::pair().unwrap();
        let fd = end.as_raw_fd();
        let flags = || {
            // SAFETY: takes integers.
            unsafe { libc::fcntl(fd, libc::F_GETFD) }
        };
        // SAFETY: takes integers. Undone below, before any other test could leak it for long.
        unsafe { libc::fcntl(fd, libc::F_SETFD, 0) };
        close_on_exec_one_by_one(fd + 1).unwrap();
        assert_eq!(flags(), 0);
        close_on_exec_one_by_one(fd).unwrap();
        assert_eq!(flags(), libc::FD_CLOEXEC);
    }

    #[test]
    fn a_full_pipe_is_not_writable_and_a_closed_one_neither() {
        use std::io::Write;
        let (mut end, other) = UnixStream::pair().unwrap();
        assert!(writable_now(&end));
        end.set_nonblocking(true).unwrap();
        while end.write(&[0; 4096]).is_ok() {}
        assert!(!writable_now(&end));
        let (reader, writer) = std::io::pipe().unwrap();
        assert!(writable_now(&writer));
        drop(reader);
        assert!(!writable_now(&writer));
        drop(other);
    }
}
