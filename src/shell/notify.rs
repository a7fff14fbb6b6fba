//! What a service manager is told, and what it hands over: `sd_notify` and socket activation.
//!
//! The protocol is one datagram per message to the socket that `NOTIFY_SOCKET` names, and open
//! sockets from descriptor 3 on (sd_notify(3), sd_listen_fds(3)); there is no library in it. A
//! message that cannot be sent is lost: nothing waits for a manager. Without one, all of this is
//! silent.

use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::OwnedFd;
use std::os::linux::net::SocketAddrExt;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};

use super::sys;

/// The first descriptor that is handed over.
const LISTEN_FDS_START: i32 = 3;
/// More than anybody hands over.
const LISTEN_FDS_MAX: i32 = 64;

/// The way to the service manager.
#[derive(Debug)]
pub struct Notifier {
    socket: UnixDatagram,
    address: SocketAddr,
    /// Between two signs of life, in milliseconds: half of what the manager waits for.
    interval_ms: Option<u64>,
    due_at: u64,
}

impl Notifier {
    /// Reads what a manager set for us; `None`: there is none.
    ///
    /// # Errors
    /// A sentence: the socket's name cannot be one.
    pub fn new(variables: impl Fn(&str) -> Option<OsString>) -> Result<Option<Notifier>, String> {
        let Some(name) = variables("NOTIFY_SOCKET").filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let refused = |error: io::Error| {
            format!("NOTIFY_SOCKET: `{}` cannot be used: {error}", name.to_string_lossy())
        };
        let address = address(&name).map_err(refused)?;
        let socket = UnixDatagram::unbound().map_err(refused)?;
        socket.set_nonblocking(true).map_err(refused)?;
        let number = |name: &str| variables(name)?.to_str()?.parse::<u64>().ok();
        let own = variables("WATCHDOG_PID").is_none()
            || number("WATCHDOG_PID") == Some(u64::from(std::process::id()));
        let interval_ms = number("WATCHDOG_USEC").filter(|usec| own && *usec > 0);
        let interval_ms = interval_ms.map(|usec| (usec / 2000).max(1));
        Ok(Some(Notifier { socket, address, interval_ms, due_at: 0 }))
    }

    /// We serve; `status` is for people.
    pub fn ready(&self, status: &str) {
        self.send(&format!("READY=1\nSTATUS={}", status.replace('\n', " ")));
    }

    /// We read something again; [`Notifier::ready`] follows.
    pub fn reloading(&self) {
        // Until the manager sees a later one with READY=1, it waits.
        self.send(&format!("RELOADING=1\nMONOTONIC_USEC={}", sys::monotonic_us()));
    }

    /// We are about to end.
    pub fn stopping(&self) {
        self.send("STOPPING=1\nSTATUS=stopping: streams are told, agents end");
    }

    /// When the next sign of life is due, if any are wanted.
    pub fn due(&self) -> Option<u64> {
        self.interval_ms.map(|_| self.due_at)
    }

    /// Gives a sign of life if one is due. Called by the loop and nothing else: when that hangs,
    /// the signs stop.
    pub fn beat(&mut self, now_ms: u64) {
        let Some(interval_ms) = self.interval_ms.filter(|_| now_ms >= self.due_at) else { return };
        self.due_at = now_ms + interval_ms;
        self.send("WATCHDOG=1");
    }

    fn send(&self, message: &str) {
        let _ = self.socket.send_to_addr(message.as_bytes(), &self.address); // Lost: see above.
    }
}

/// A path, or behind an `@` a name without a file.
fn address(name: &OsStr) -> io::Result<SocketAddr> {
    match name.as_bytes() {
        [b'@', rest @ ..] => SocketAddr::from_abstract_name(rest),
        [b'/', ..] => SocketAddr::from_pathname(name),
        _ => Err(io::Error::new(io::ErrorKind::InvalidInput, "neither a path nor an @name")),
    }
}

/// The sockets that were handed over to us, and their names. Asked once: they are ours then.
///
/// # Errors
/// A sentence: one of them is none.
pub fn inherited(
    variables: impl Fn(&str) -> Option<OsString>,
) -> Result<Vec<(OwnedFd, String)>, String> {
    let number = |name: &str| variables(name)?.to_str()?.parse::<i32>().ok();
    if number("LISTEN_PID") != i32::try_from(std::process::id()).ok() {
        return Ok(Vec::new()); // For a process that started us.
    }
    let count = number("LISTEN_FDS").unwrap_or(0).clamp(0, LISTEN_FDS_MAX);
    let names = variables("LISTEN_FDNAMES").unwrap_or_default();
    let names = names.to_string_lossy();
    let mut names = names.split(':').map(str::to_owned);
    (LISTEN_FDS_START..LISTEN_FDS_START + count)
        .map(|number| {
            let fd = sys::inherited_listener(number).map_err(|error| {
                format!("LISTEN_FDS: descriptor {number} is no listening stream socket: {error}")
            })?;
            Ok((fd, names.next().unwrap_or_default()))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn notifier(socket: &str, usec: &str, pid: Option<u32>) -> Result<Option<Notifier>, String> {
        Notifier::new(|name| match name {
            "NOTIFY_SOCKET" => Some(socket.into()),
            "WATCHDOG_USEC" => Some(usec.into()),
            "WATCHDOG_PID" => pid.map(|pid| pid.to_string().into()),
            _ => None,
        })
    }

    #[test]
    fn messages_reach_a_name_without_a_file_and_signs_of_life_come_in_half_the_time() {
        let name = format!("@sidestream-notify-{}", std::process::id());
        let there = SocketAddr::from_abstract_name(&name[1..]).unwrap();
        let there = UnixDatagram::bind_addr(&there).unwrap();
        let mut notifier = notifier(&name, "30000000", None).unwrap().unwrap();
        let next = || {
            let mut bytes = [0; 512];
            let count = there.recv(&mut bytes).unwrap();
            String::from_utf8(bytes[..count].to_vec()).unwrap()
        };
        notifier.ready("a\nb");
        assert_eq!(next(), "READY=1\nSTATUS=a b");
        notifier.reloading();
        let told = next();
        let usec = told.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").unwrap();
        assert!(usec.parse::<u64>().unwrap() > 0);
        notifier.beat(7);
        assert_eq!((next(), notifier.due()), ("WATCHDOG=1".into(), Some(15_007)));
        notifier.beat(15_006);
        notifier.stopping();
        assert!(next().starts_with("STOPPING=1\n"), "no sign before it is due");
    }

    #[test]
    fn another_processs_watchdog_and_a_bad_name_are_not_ours() {
        let other = notifier("@x", "1000", Some(1)).unwrap().unwrap();
        assert_eq!(other.due(), None);
        assert_eq!(notifier("@x", "0", None).unwrap().unwrap().due(), None);
        let own = notifier("@x", "1", Some(std::process::id())).unwrap().unwrap();
        assert_eq!(own.interval_ms, Some(1));
        assert!(notifier("x", "", None).unwrap_err().contains("NOTIFY_SOCKET: `x`"));
        assert!(notifier("", "", None).unwrap().is_none());
    }

    #[test]
    fn sockets_for_another_process_are_left_alone_and_what_is_none_is_refused() {
        let asked = |pid: u32, count: &'static str| {
            inherited(move |name| match name {
                "LISTEN_PID" => Some(pid.to_string().into()),
                "LISTEN_FDS" => Some(count.into()),
                _ => None,
            })
        };
        assert!(asked(1, "1").unwrap().is_empty());
        assert!(asked(std::process::id(), "0").unwrap().is_empty());
    }
}
