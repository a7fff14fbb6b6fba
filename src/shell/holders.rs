//! Which program holds an address that we want, so that a refusal can name it.
//!
//! By `/proc` alone: the tables of listening sockets give the inode, and the processes that we may
//! look into give its holder. What cannot be seen is left out, never guessed.

use std::fmt;
use std::fs;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;

use super::{peer, process};
use crate::wire::visible;

/// Characters of a command that are shown.
const COMMAND_SHOWN: usize = 80;

/// A running program.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Its process.
    pub pid: u32,
    /// Its command line, fit for a terminal; empty if it cannot be seen.
    pub command: String,
}

impl fmt::Display for Program {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.command.is_empty() {
            true => write!(formatter, "process {}", self.pid),
            false => write!(formatter, "process {} (`{}`)", self.pid, self.command),
        }
    }
}

impl Program {
    /// The program of a process.
    pub fn of(pid: u32) -> Program {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let text = String::from_utf8_lossy(&line).replace('\0', " ");
        let text: String = text.trim_end().chars().take(COMMAND_SHOWN).collect();
        Program { pid, command: visible::lined(&text) }
    }
}

/// Who listens on a TCP address, or on all addresses of its port.
pub fn of_tcp(address: SocketAddr) -> Option<Program> {
    ["/proc/net/tcp", "/proc/net/tcp6"].iter().find_map(|table| {
        let table = fs::read_to_string(table).ok()?;
        let inode = listening(&table, address)?;
        process::holders(inode).next().map(Program::of)
    })
}

/// The socket that stands in the way of this address, in a table of the kernel's.
fn listening(table: &str, address: SocketAddr) -> Option<u32> {
    let any = |ip: IpAddr| ip.is_unspecified();
    let wanted = address.ip().to_canonical();
    table.lines().find_map(|line| {
        // Of a socket that listens the other end is nobody.
        let (own, other, owner) = peer::read_row(line)?;
        let ip = own.ip().to_canonical();
        let same = own.port() == address.port() && (ip == wanted || any(ip) || any(wanted));
        (same && other.port() == 0 && owner.inode != 0).then_some(owner.inode)
    })
}

/// Who listens on a Unix socket.
pub fn of_unix(path: &Path) -> Option<Program> {
    let table = fs::read_to_string("/proc/net/unix").ok()?;
    let inode = unix_listening(&table, path.to_str()?)?;
    process::holders(inode).next().map(Program::of)
}

/// `Num: RefCount Protocol Flags Type St Inode Path`; the flag is that of a socket that listens.
fn unix_listening(table: &str, path: &str) -> Option<u32> {
    table.lines().find_map(|line| {
        let mut words = line.split_ascii_whitespace();
        let flags = words.nth(3)?;
        let inode = words.nth(2)?.parse().ok()?;
        let named = line.ends_with(path) && words.next() == path.split_ascii_whitespace().next();
        (flags == "00010000" && named).then_some(inode)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_searched_for_the_port_and_an_address_that_overlaps() {
        let table = "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode\n\
            \x20  0: 0100007F:0BC2 00000000:0000 0A 00000000:00000000 00:00000000 00000000  1000        0 4711 1\n\
            \x20  1: 00000000:0050 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 4712 1\n\
            \x20  2: 0100007F:0BC3 0100007F:9999 01 00000000:00000000 00:00000000 00000000     0        0 4713 1\n";
        let found = |text: &str| listening(table, text.parse().unwrap());
        assert_eq!(found("127.0.0.1:3010"), Some(4711));
        assert_eq!(found("0.0.0.0:3010"), Some(4711));
        assert_eq!(found("127.0.0.2:3010"), None);
        assert_eq!(found("127.0.0.1:80"), Some(4712));
        assert_eq!(found("127.0.0.1:3011"), None, "a connection is no listener");
        let unix = "Num       RefCount Protocol Flags    Type St Inode Path\n\
            a: 00000002 00000000 00010000 0001 01 77 /run/a b\n\
            a: 00000003 00000000 00000000 0001 03 78 /run/c\n";
        assert_eq!(unix_listening(unix, "/run/a b"), Some(77));
        assert_eq!(unix_listening(unix, "/run/c"), None);
        assert_eq!(unix_listening(unix, "/run/a"), None);
    }

    #[test]
    fn a_program_is_named_so_that_it_can_be_found() {
        let own = Program::of(std::process::id());
        assert!(!own.command.is_empty() && own.to_string().contains("(`"), "{own}");
        assert_eq!(Program::of(u32::MAX).to_string(), format!("process {}", u32::MAX));
    }
}
