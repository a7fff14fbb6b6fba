//! Who is at the other end of a connection: the kernel's word for the user behind a socket.
//!
//! On a Unix socket it is told with the connection. On loopback TCP the peer's socket is looked
//! up by its two addresses: exactly, by `NETLINK_SOCK_DIAG`, or where that is refused in
//! `/proc/net/tcp` and `tcp6`. An answer is given only for a socket that some process still
//! holds: of an orphaned one the kernel says "root", which is nobody's word. Who may do what
//! is not known here.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::iter;
use std::net::{IpAddr, Ipv6Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::time::Duration;

use super::{process, sys};

/// Who connected to a Unix socket, as of then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerUid {
    /// Its user.
    pub uid: u32,
    /// Its process; 0 if that is in another PID namespace.
    pub pid: u32,
}

/// Who holds a TCP socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner {
    /// The user who opened it.
    pub uid: u32,
    /// Its inode: the number in the `socket:[…]` links of `/proc/PID/fd`. Never 0.
    pub inode: u32,
}

/// Where the process at the other end of a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Holder {
    /// Outside our process tree, or on another machine.
    Outside,
    /// Below us: an agent's. `None` if it hides, so that it cannot be said which.
    Inside(Option<u32>),
    /// No process holds that end any more.
    Gone,
}

/// Passes over our tree until two agree.
const PASSES_MAX: u32 = 4;
/// How long a process that ends is waited for, once; twice as long the next time, and so on.
const ENDING: Duration = Duration::from_micros(100);

/// Where the process stands that connected to a Unix socket.
pub fn holder_of_unix(socket: impl AsFd) -> Holder {
    if process::descendants().is_empty() {
        return Holder::Outside;
    }
    match of_unix(socket) {
        None => Holder::Gone,
        Some(PeerUid { pid: 0, .. }) => Holder::Outside, // Of a namespace that is not below ours.
        Some(PeerUid { pid, .. }) => match process::is_descendant(pid) {
            Some(true) => Holder::Inside(Some(pid)),
            Some(false) => Holder::Outside,
            None => Holder::Gone,
        },
    }
}

/// Where a process stands that has this socket open.
fn holder_of(inode: u32) -> Holder {
    let mut tree = process::descendants();
    for pass in 0..PASSES_MAX {
        let mut hidden = false;
        for &pid in &tree {
            match process::holds_socket(pid, inode) {
                Some(true) => return Holder::Inside(Some(pid)),
                Some(false) => {}
                None => hidden = true,
            }
        }
        let again = process::descendants();
        let same = again == tree;
        tree = again;
        if same && hidden {
            // One that ends is gone soon: then its end of the connection is, too.
            std::thread::sleep(ENDING * (pass + 1));
            continue;
        }
        if same {
            return Holder::Outside;
        }
    }
    // Something below us forks faster than we look, or keeps us from looking. So it must be shown
    // that somebody else has it.
    let mut others = process::holders(inode).filter(|pid| !tree.contains(pid));
    match others.find(|&pid| process::is_descendant(pid) == Some(false)) {
        Some(_) => Holder::Outside,
        None => Holder::Inside(None),
    }
}

/// Who is at the other end of a connected Unix socket, if the kernel knows.
pub fn of_unix(socket: impl AsFd) -> Option<PeerUid> {
    let (uid, pid) = sys::peer_credentials(socket).ok()?;
    Some(PeerUid { uid, pid })
}

/// `SOCK_DIAG_BY_FAMILY` of sock_diag(7): the type of the question and of the answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` of netlink(7): the type of an answer that is an errno.
const ERROR: u16 = 2;
/// `NLM_F_REQUEST` of netlink(7).
const REQUEST: u16 = 1;
const AF_INET: u8 = 2;
const AF_INET6: u8 = 10;
const IPPROTO_TCP: u8 = 6;
/// Sizes of `struct nlmsghdr`, `inet_diag_sockid`, `inet_diag_req_v2` and `inet_diag_msg`.
const HEADER: usize = 16;
const SOCKET_ID: usize = 48;
const QUESTION: usize = HEADER + 8 + SOCKET_ID;
const ANSWER: usize = HEADER + 4 + SOCKET_ID + 20;
/// Of a socket's id, what names it: two ports and two addresses.
const ENDPOINTS: usize = 36;
/// The loopback device is the first one of every network namespace (`LOOPBACK_IFINDEX`).
const LOOPBACK: u32 = 1;

/// Looks up the owners of loopback connections, by one socket that stays open.
#[derive(Debug)]
pub struct Peers {
    netlink: Option<File>,
    sequence: u32,
}

impl Peers {
    /// Opens what there is; a lookup says whether it works.
    #[allow(clippy::new_without_default)] // A default that opens a socket would be a surprise.
    pub fn new() -> Peers {
        Peers { netlink: sys::socket_diagnostics().ok().map(File::from), sequence: 0 }
    }

    /// Tries a connection of our own, so that the server can refuse to start where nobody can
    /// say who connects.
    ///
    /// # Errors
    /// If neither way of looking up works, or it gives a wrong answer.
    pub fn probe(&mut self) -> io::Result<()> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let near = TcpStream::connect(listener.local_addr()?)?;
        let (far, peer) = listener.accept()?;
        let owner = self.of_tcp(far.local_addr()?, peer)?;
        drop(near); // Held until here: a closed socket has no owner.
        match owner {
            Some(owner) if owner.uid == sys::effective_uid() => Ok(()),
            _ => Err(io::Error::other("the kernel does not know our own connection")),
        }
    }

    /// Who holds the socket at the other end of a connection that we accepted on this machine:
    /// `local` is our end, `peer` the other. `None` if no process here holds it (any more).
    ///
    /// # Errors
    /// If neither way of looking up works.
    pub fn of_tcp(&mut self, local: SocketAddr, peer: SocketAddr) -> io::Result<Option<Owner>> {
        let scope = if let SocketAddr::V6(v6) = peer { v6.scope_id() } else { 0 };
        let (local, given, peer) = (unmapped(local), peer, unmapped(peer));
        if local.is_ipv4() != peer.is_ipv4() {
            return Ok(None); // No connection has such ends.
        }
        // A socket that is bound to a device (SO_BINDTODEVICE, or by a link-local address) is found
        // only by who names that device: between two ends here it is the loopback's, or the scope.
        // Nearly all are bound to none, and found at once.
        let devices = [LOOPBACK, scope].into_iter().filter(|device| *device > 0);
        for device in iter::once(0).chain(devices) {
            match self.ask(local, peer, device) {
                Ok(None) if device == 0 && !is_ours(given) => return Ok(None),
                Ok(None) => {}
                Ok(found) => return Ok(found),
                Err(_) => return in_tables(local, peer),
            }
        }
        Ok(None)
    }

    /// Where the process stands at the other end of a TCP connection.
    pub fn holder_of_tcp(&mut self, local: SocketAddr, peer: SocketAddr) -> Holder {
        if process::descendants().is_empty() {
            return Holder::Outside; // Nobody to tell it from, and the most frequent case.
        }
        match self.of_tcp(local, peer) {
            Ok(Some(owner)) => match holder_of(owner.inode) {
                // One below us that ended while we looked was not found either: only a socket
                // that is still held is held by somebody else.
                Holder::Outside if self.of_tcp(local, peer).ok().flatten() != Some(owner) => {
                    Holder::Gone
                }
                holder => holder,
            },
            Ok(None) | Err(_) => Holder::Gone,
        }
    }

    fn ask(
        &mut self,
        local: SocketAddr,
        peer: SocketAddr,
        device: u32,
    ) -> io::Result<Option<Owner>> {
        self.sequence = self.sequence.wrapping_add(1);
        let netlink = self.netlink.as_mut().ok_or(io::ErrorKind::Unsupported)?;
        let question = question(self.sequence, local, peer, device);
        if netlink.write(&question)? != QUESTION {
            return Err(io::ErrorKind::WriteZero.into());
        }
        // The kernel answers within the write. A longer answer than we want is cut by the read.
        // What is left of an earlier failure has an earlier number, and is passed over.
        let mut answer = [0; 512];
        loop {
            let size = netlink.read(&mut answer)?;
            if let Some(result) = read_answer(&answer[..size], &question) {
                return result;
            }
        }
    }
}

/// Whether an address is one of this machine's: then a socket can have it.
pub fn is_ours(address: SocketAddr) -> bool {
    let mut own = address;
    own.set_port(0);
    address.ip().to_canonical().is_loopback() || UdpSocket::bind(own).is_ok()
}

/// A v4 address that is written as v6 names the same sockets as when it is not.
fn unmapped(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// The words of an address as the kernel's `__be32[4]` has them.
fn words(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => {
            let mut words = [0; 16];
            words[..4].copy_from_slice(&v4.octets());
            words
        }
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// A `nlmsghdr` and an `inet_diag_req_v2` for the one socket whose own end is `peer`, bound to this
/// device or to none.
fn question(sequence: u32, local: SocketAddr, peer: SocketAddr, device: u32) -> [u8; QUESTION] {
    let mut bytes = [0; QUESTION];
    bytes[0..4].copy_from_slice(&(QUESTION as u32).to_ne_bytes());
    bytes[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
    bytes[6..8].copy_from_slice(&REQUEST.to_ne_bytes());
    bytes[8..12].copy_from_slice(&sequence.to_ne_bytes());
    bytes[16] = if peer.is_ipv4() { AF_INET } else { AF_INET6 };
    bytes[17] = IPPROTO_TCP;
    bytes[20..24].copy_from_slice(&u32::MAX.to_ne_bytes()); // Any state.
    let id = &mut bytes[24..];
    id[0..2].copy_from_slice(&peer.port().to_be_bytes());
    id[2..4].copy_from_slice(&local.port().to_be_bytes());
    id[4..20].copy_from_slice(&words(peer.ip()));
    id[20..36].copy_from_slice(&words(local.ip()));
    id[36..40].copy_from_slice(&device.to_ne_bytes());
    id[40..48].fill(0xff); // INET_DIAG_NOCOOKIE.
    bytes
}

/// What an answer says to this question; `None` if it answers another.
fn read_answer(answer: &[u8], question: &[u8; QUESTION]) -> Option<io::Result<Option<Owner>>> {
    let word = |at: usize| -> u32 {
        answer
            .get(at..at + 4)
            .map_or(0, |bytes| u32::from_ne_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    };
    if answer.len() < HEADER + 4 || answer[8..12] != question[8..12] {
        return None;
    }
    let kind = u16::from_ne_bytes([answer[4], answer[5]]);
    if kind == ERROR {
        let errno = (word(HEADER) as i32).wrapping_neg();
        return Some(match errno {
            sys::ENOENT => Ok(None),
            errno => Err(io::Error::from_raw_os_error(errno)),
        });
    }
    if kind != BY_FAMILY || answer.len() < ANSWER {
        return Some(Err(io::ErrorKind::InvalidData.into()));
    }
    // Without the connection the kernel looks for a listener on the peer's port: not the one
    // we mean. A v6 socket answers for its v4 connection in v6, so compare what both say.
    let (asked, told) = (&question[24..24 + ENDPOINTS], &answer[20..20 + ENDPOINTS]);
    let same = asked == told || asked[..4] == told[..4] && answer[16] != question[16];
    let owner = Owner { uid: word(HEADER + 4 + SOCKET_ID + 12), inode: word(ANSWER - 4) };
    Some(Ok((same && owner.inode != 0).then_some(owner)))
}

// The tables

fn in_tables(local: SocketAddr, peer: SocketAddr) -> io::Result<Option<Owner>> {
    // A v6 socket may hold a v4 connection; it stands in the v6 table then.
    let mapped = |address: SocketAddr| match address.ip() {
        IpAddr::V4(v4) => SocketAddr::new(v4.to_ipv6_mapped().into(), address.port()),
        IpAddr::V6(_) => address,
    };
    let v6 = |file: io::Result<File>| match file {
        Ok(file) => in_table(BufReader::new(file), mapped(local), mapped(peer)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None), // No IPv6 here.
        Err(error) => Err(error),
    };
    if peer.is_ipv4() {
        let table = BufReader::new(File::open("/proc/net/tcp")?);
        if let Some(owner) = in_table(table, local, peer)? {
            return Ok(Some(owner));
        }
    }
    v6(File::open("/proc/net/tcp6"))
}

fn in_table(
    mut table: impl BufRead,
    local: SocketAddr,
    peer: SocketAddr,
) -> io::Result<Option<Owner>> {
    let mut line = String::new();
    while table.read_line(&mut line)? > 0 {
        if let Some((from, to, owner)) = read_row(&line)
            && (from, to) == (peer, local)
            && owner.inode != 0
        {
            return Ok(Some(owner));
        }
        line.clear();
    }
    Ok(None)
}

/// A row: `sl: local remote state tx:rx tr:when retransmits uid timeout inode …`.
pub(super) fn read_row(line: &str) -> Option<(SocketAddr, SocketAddr, Owner)> {
    let mut words = line.split_ascii_whitespace().skip(1);
    let from = read_address(words.next()?)?;
    let to = read_address(words.next()?)?;
    let uid = words.nth(4)?.parse().ok()?;
    let inode = words.nth(1)?.parse().ok()?;
    Some((from, to, Owner { uid, inode }))
}

/// `ADDRESS:PORT` in hexadecimal: the address as 32-bit words of this machine, the port as a
/// number.
fn read_address(text: &str) -> Option<SocketAddr> {
    let (address, port) = text.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| -> Option<[u8; 4]> {
        let digits = address.get(index * 8..index * 8 + 8)?;
        Some(u32::from_str_radix(digits, 16).ok()?.to_ne_bytes())
    };
    let address: IpAddr = match address.len() {
        8 => word(0)?.into(),
        32 => {
            let mut octets = [0; 16];
            for index in 0..4 {
                octets[index * 4..index * 4 + 4].copy_from_slice(&word(index)?);
            }
            Ipv6Addr::from(octets).into()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A connection as (the peer's socket, ours, our address, the peer's address).
    fn connection(bind: &str, to: &str) -> (TcpStream, TcpStream, SocketAddr, SocketAddr) {
        let listener = TcpListener::bind((bind, 0)).unwrap();
        let near = TcpStream::connect((to, listener.local_addr().unwrap().port())).unwrap();
        let (far, peer) = listener.accept().unwrap();
        let local = far.local_addr().unwrap();
        (near, far, local, peer)
    }

    #[test]
    fn both_ways_agree_on_every_kind_of_loopback_address() {
        let mut peers = Peers::new();
        for (bind, to) in [
            ("127.0.0.1", "127.0.0.1"),
            ("::1", "::1"),
            ("::", "127.0.0.1"),
            ("::", "::ffff:127.0.0.1"),
            ("127.0.0.1", "::ffff:127.0.0.1"),
        ] {
            if bind.contains(':') && TcpListener::bind(("::1", 0)).is_err() {
                eprintln!("not shown for {bind}: there is no IPv6 here");
                continue;
            }
            let (near, _far, local, peer) = connection(bind, to);
            let (plain_local, plain_peer) = (unmapped(local), unmapped(peer));
            let told = peers.ask(plain_local, plain_peer, 0).unwrap().expect(to);
            let listed = in_tables(plain_local, plain_peer).unwrap().expect(to);
            assert_eq!(told, listed, "{bind} {to}");
            assert_eq!(told.uid, sys::effective_uid());
            assert_eq!(peers.of_tcp(local, peer).unwrap(), Some(told));
            use std::os::fd::AsRawFd;
            let link = std::fs::read_link(format!("/proc/self/fd/{}", near.as_raw_fd())).unwrap();
            assert_eq!(link.to_str().unwrap(), format!("socket:[{}]", told.inode), "{bind} {to}");
        }
    }

    #[test]
    fn a_socket_that_nobody_holds_any_more_has_no_owner() {
        let mut peers = Peers::new();
        let (near, _far, local, peer) = connection("127.0.0.1", "127.0.0.1");
        drop(near); // The kernel keeps it for a while, and calls it root's.
        assert_eq!(peers.ask(local, peer, 0).unwrap(), None);
        assert_eq!(in_tables(local, peer).unwrap(), None);
    }

    #[test]
    fn a_half_closed_socket_still_has_its_owner() {
        let mut peers = Peers::new();
        let (near, _far, local, peer) = connection("127.0.0.1", "127.0.0.1");
        near.shutdown(std::net::Shutdown::Write).unwrap();
        assert_eq!(peers.ask(local, peer, 0).unwrap().unwrap().uid, sys::effective_uid());
    }

    #[test]
    fn a_listener_on_the_peers_port_is_not_the_peer() {
        let mut peers = Peers::new();
        let listener = TcpListener::bind(("127.0.0.1", 0)).unwrap();
        let (here, there) = (listener.local_addr().unwrap(), "127.0.0.1:1".parse().unwrap());
        assert_eq!(peers.ask(there, here, 0).unwrap(), None);
        assert_eq!(in_tables(there, here).unwrap(), None);
    }

    #[test]
    fn without_netlink_the_tables_answer() {
        let mut peers = Peers { netlink: None, sequence: 0 };
        peers.probe().unwrap();
        Peers::new().probe().unwrap();
    }

    #[test]
    fn an_answer_to_an_earlier_question_is_passed_over_and_a_torn_one_is_an_error() {
        let address = "127.0.0.1:9".parse().unwrap();
        let asked = question(7, address, address, 0);
        let mut answer = vec![0; ANSWER];
        answer[4..6].copy_from_slice(&BY_FAMILY.to_ne_bytes());
        answer[8..12].copy_from_slice(&6u32.to_ne_bytes());
        assert!(read_answer(&answer, &asked).is_none());
        answer[8..12].copy_from_slice(&7u32.to_ne_bytes());
        for length in 0..ANSWER {
            let told = read_answer(&answer[..length], &asked);
            assert!(matches!(told, None | Some(Err(_))), "{length}");
        }
    }

    #[test]
    fn rows_of_the_tables_are_read_and_nonsense_is_not() {
        if cfg!(target_endian = "little") {
            let row = "   1: 0100007F:0BC2 0100007F:D431 01 00000000:00000000 00:00000000 \
                       00000000  1000        0 54321 1 0000000000000000 20 4 30 10 -1";
            let (from, to, owner) = read_row(row).unwrap();
            assert_eq!(from, "127.0.0.1:3010".parse().unwrap());
            assert_eq!(to, "127.0.0.1:54321".parse().unwrap());
            assert_eq!(owner, Owner { uid: 1000, inode: 54321 });
            let address = read_address("0000000000000000FFFF00000100007F:0050").unwrap();
            assert_eq!(address, "[::ffff:127.0.0.1]:80".parse().unwrap());
        }
        for text in ["", ":", "0100007F", "0100007F:", "0100007é:0050", "0100:1", "zz:1"] {
            assert_eq!(read_address(text), None, "{text}");
        }
        assert!(read_row("  sl  local_address rem_address st tx_queue rx_queue").is_none());
    }
}
