//! Listening sockets and the connections they give: TCP on loopback, and Unix.
//!
//! Promises: every connection is non-blocking, close-on-exec, bounded in what the kernel holds for
//! it, and given up when its peer is dead. A failed `accept` is sorted into what its caller does
//! next, and running out of descriptors never leaves a client waiting in the backlog for an edge
//! that does not come. A Unix socket's file goes with its listener, unless it is another's by then.
//! What connects, and whether it may, is not known here.

use std::fs::{self, File};
use std::io::{self, ErrorKind, IoSlice, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use mio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use mio::{Interest, Registry, Token};

use super::holders::{self, Program};
use super::peer::{self, Holder, Peers};
use super::sys;
use crate::arguments::Listen;
use crate::core::connection::Peer;
use crate::wire::reply;

/// What the kernel may hold unacknowledged for one client; it doubles this. Enough for a fast
/// stream over a long line, small enough for ten thousand clients that read nothing.
const SEND_BUFFER_SIZE: u32 = 64 * 1024;
/// What the kernel may hold unsent for one client: what is behind it stays in the log, where it
/// costs nothing, and a heartbeat does not queue behind a megabyte.
const UNSENT_SIZE_MAX: u32 = 16 * 1024;
/// A silent peer is probed after so long, so often, so many times: 30 s + 3 × 10 s.
const KEEPALIVE: (u32, u32, u32) = (30, 10, 3);
/// Sent bytes that nobody acknowledges for so long end the connection.
const USER_TIMEOUT_MS: u32 = 60_000;

/// A listening socket.
#[derive(Debug)]
pub enum Listener {
    /// On an address.
    Tcp(TcpListener),
    /// On a path. The file first: while the socket is open its inode is nobody else's.
    Unix(SocketFile, UnixListener),
}

/// The file of a Unix socket, removed with this.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    /// Device and inode: whose file it is now is asked again before it is removed. None: it was
    /// there before us, and stays.
    identity: Option<(u64, u64)>,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if self.identity.is_some() && identity(&self.path).ok() == self.identity {
            let _ = fs::remove_file(&self.path); // Gone already, or not ours to remove any more.
        }
    }
}

fn identity(path: &Path) -> io::Result<(u64, u64)> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Opens what the operator asked for. `shared`: users beside ours may connect to a Unix socket.
/// `is_default`: nobody asked for these addresses, so a machine without IPv6 is fine.
///
/// # Errors
/// A sentence that names the address.
pub fn bind(addresses: &[Listen], is_default: bool, shared: bool) -> Result<Vec<Listener>, String> {
    let mut listeners = Vec::with_capacity(addresses.len() + 1);
    for address in addresses {
        match address {
            Listen::Unix(path) => listeners.push(bind_unix(path, shared)?),
            Listen::Tcp(host, port) if host == "localhost" => {
                let first = bind_tcp(SocketAddr::new(Ipv4Addr::LOCALHOST.into(), *port))?;
                let port = first.local().map_or(*port, |local| local.port());
                listeners.push(first);
                listeners.extend(bind_second(SocketAddr::new(Ipv6Addr::LOCALHOST.into(), port))?);
            }
            Listen::Tcp(host, port) => {
                let ip: IpAddr =
                    host.parse().map_err(|_| format!("cannot listen on {host}: not an address"))?;
                let address = SocketAddr::new(ip, *port);
                if is_default && ip.is_ipv6() {
                    listeners.extend(bind_second(address)?);
                } else {
                    listeners.push(bind_tcp(address)?);
                }
            }
        }
    }
    Ok(listeners)
}

fn refused(
    address: impl std::fmt::Display,
    error: &io::Error,
    holder: impl FnOnce() -> Option<Program>,
) -> String {
    match error.kind() {
        ErrorKind::AddrInUse => {
            let holder =
                holder().map_or("perhaps another sidestream".to_owned(), |it| it.to_string());
            format!(
                "cannot listen on {address}: another program does, {holder}; \
                 end it, or choose another place with --listen"
            )
        }
        _ => format!("cannot listen on {address}: {error}"),
    }
}

fn bind_tcp(address: SocketAddr) -> Result<Listener, String> {
    // With SO_REUSEADDR: a restart does not wait for the connections of the last one to fade.
    let listen = || {
        let listener = TcpListener::bind(address)?;
        set_options(&listener)?;
        Ok(listener)
    };
    let holder = || holders::of_tcp(address);
    listen().map(Listener::Tcp).map_err(|error| refused(address, &error, holder))
}

/// Binds the IPv6 twin of an address, or nothing where there is no IPv6.
fn bind_second(address: SocketAddr) -> Result<Option<Listener>, String> {
    match TcpListener::bind(address) {
        Ok(listener) => match set_options(&listener) {
            Ok(()) => Ok(Some(Listener::Tcp(listener))),
            Err(error) => Err(refused(address, &error, || None)),
        },
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            Err(refused(address, &error, || holders::of_tcp(address)))
        }
        Err(_) => Ok(None), // EAFNOSUPPORT, EADDRNOTAVAIL, or what a sandbox says instead.
    }
}

/// Set once on a listener: its connections inherit them (tcp(7)), which saves six calls for each.
fn set_options(listener: &TcpListener) -> io::Result<()> {
    let (idle_s, interval_s, count) = KEEPALIVE;
    sys::set_send_buffer(listener, SEND_BUFFER_SIZE)?;
    sys::set_unsent_max(listener, UNSENT_SIZE_MAX)?;
    sys::set_keepalive(listener, idle_s, interval_s, count)?;
    sys::set_user_timeout(listener, USER_TIMEOUT_MS)
}

fn bind_unix(path: &Path, shared: bool) -> Result<Listener, String> {
    let name = format!("unix:{}", path.display());
    if let Ok(file) = fs::symlink_metadata(path) {
        if !file.file_type().is_socket() {
            return Err(format!("cannot listen on {name}: something else has this name"));
        }
        // A socket that nobody accepts on is what a killed server left behind. Not one whose queue
        // is full: it is not waited for, nor taken away.
        match UnixStream::connect(path) {
            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {
                let _ = fs::remove_file(path); // If this fails, so does the bind, and says why.
            }
            Err(error) if error.kind() != ErrorKind::WouldBlock => {
                return Err(refused(&name, &error, || None));
            }
            Ok(_) | Err(_) => {
                let error = ErrorKind::AddrInUse.into();
                return Err(refused(&name, &error, || holders::of_unix(path)));
            }
        }
    }
    // Who connects is asked of the kernel, so the mode only keeps out who has no business here.
    let old = sys::umask(if shared { 0o111 } else { 0o177 });
    let bound = UnixListener::bind(path);
    sys::umask(old);
    let bound = bound.and_then(|listener| {
        let file = SocketFile { path: path.to_path_buf(), identity: Some(identity(path)?) };
        Ok(Listener::Unix(file, listener))
    });
    bound.map_err(|error| refused(&name, &error, || holders::of_unix(path)))
}

/// Takes over a listening socket that somebody else opened for us. Its options are ours now; its
/// file, if it has one, is not.
///
/// # Errors
/// A sentence that names the socket.
pub fn adopt(fd: OwnedFd, name: &str) -> Result<Listener, String> {
    let refused = |error: io::Error| format!("the socket `{name}` cannot be used: {error}");
    let tcp = std::net::TcpListener::from(fd);
    if tcp.local_addr().is_ok() {
        tcp.set_nonblocking(true).map_err(refused)?;
        let listener = TcpListener::from_std(tcp);
        set_options(&listener).map_err(refused)?;
        return Ok(Listener::Tcp(listener));
    }
    let unix = std::os::unix::net::UnixListener::from(OwnedFd::from(tcp));
    unix.set_nonblocking(true).map_err(refused)?;
    let address = unix.local_addr().map_err(refused)?;
    let path = address.as_pathname().map_or_else(|| PathBuf::from("@"), Path::to_path_buf);
    Ok(Listener::Unix(SocketFile { path, identity: None }, UnixListener::from_std(unix)))
}

/// What became of an accept.
#[derive(Debug)]
pub enum Accepted {
    /// A connection, and who is at its other end.
    Connection(Stream, Peer),
    /// One that had ended by the time: there may be more.
    Gone,
    /// Nobody waits: there will be an event.
    Nobody,
    /// There is nothing to accept it with, and there will be no event when there is again.
    Failed(io::Error),
}

impl Listener {
    /// Takes the next connection.
    pub fn accept(&self, peers: &mut Peers) -> Accepted {
        let accepted = match self {
            Listener::Tcp(listener) => listener.accept().map(|(stream, address)| {
                // A stream is small writes, each of them news.
                let _ = stream.set_nodelay(true); // Fails only on a connection that is gone.
                let owner = stream.local_addr().and_then(|local| peers.of_tcp(local, address));
                let ip = address.ip().to_canonical();
                let peer = match owner {
                    Ok(Some(owner)) => Peer::Local { uid: owner.uid },
                    Ok(None) if !ip.is_loopback() => Peer::Remote { address: ip },
                    Ok(None) | Err(_) => Peer::Unknown,
                };
                (Stream::Tcp(stream), peer)
            }),
            Listener::Unix(_, listener) => listener.accept().map(|(stream, _)| {
                let _ = sys::set_send_buffer(&stream, SEND_BUFFER_SIZE); // Else the system's.
                let peer = peer::of_unix(&stream);
                let peer = peer.map_or(Peer::Unknown, |peer| Peer::Local { uid: peer.uid });
                (Stream::Unix(stream), peer)
            }),
        };
        match accepted {
            Ok((stream, peer)) => Accepted::Connection(stream, peer),
            Err(error) => sort(error),
        }
    }

    /// Takes a connection only to hang up on it.
    fn refuse(&self) {
        let _ = match self {
            Listener::Tcp(listener) => listener.accept().map(drop),
            Listener::Unix(_, listener) => listener.accept().map(drop),
        };
    }

    /// Its address, if it has one.
    pub fn local(&self) -> Option<SocketAddr> {
        match self {
            Listener::Tcp(listener) => listener.local_addr().ok(),
            Listener::Unix(..) => None,
        }
    }

    /// Where it listens, as people write it.
    pub fn name(&self) -> String {
        match (self, self.local()) {
            (Listener::Unix(file, _), _) => format!("unix:{}", file.path.display()),
            (Listener::Tcp(_), Some(address)) => format!("http://{address}"),
            (Listener::Tcp(_), None) => "http://?".into(),
        }
    }

    /// Has the poller tell of connections.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        match self {
            Listener::Tcp(listener) => registry.register(listener, token, Interest::READABLE),
            Listener::Unix(_, listener) => registry.register(listener, token, Interest::READABLE),
        }
    }

    /// Has the poller forget it.
    pub fn deregister(&mut self, registry: &Registry) {
        let _ = match self {
            Listener::Tcp(listener) => registry.deregister(listener),
            Listener::Unix(_, listener) => registry.deregister(listener),
        };
    }
}

fn sort(error: io::Error) -> Accepted {
    match error.kind() {
        ErrorKind::WouldBlock => Accepted::Nobody,
        // The client has given up, or a signal came: nothing is wrong with us.
        ErrorKind::ConnectionAborted | ErrorKind::Interrupted => Accepted::Gone,
        _ if error.raw_os_error() == Some(sys::EPROTO) => Accepted::Gone,
        _ => Accepted::Failed(error),
    }
}

/// A descriptor kept for the moment when there are no others.
#[derive(Debug)]
pub struct Reserve(Option<File>);

impl Reserve {
    /// Takes it.
    #[allow(clippy::new_without_default)] // A default that opens a file would be a surprise.
    pub fn new() -> Reserve {
        Reserve(File::open("/dev/null").ok())
    }

    /// Spends it on hanging up on one client, who otherwise would wait for nothing, and takes it
    /// again.
    pub fn hang_up(&mut self, listener: &Listener) {
        if self.0.take().is_some() {
            listener.refuse();
        }
        *self = Reserve::new();
    }
}

/// A client's connection.
#[derive(Debug)]
pub enum Stream {
    /// Over TCP.
    Tcp(TcpStream),
    /// Over a Unix socket.
    Unix(UnixStream),
}

impl Stream {
    /// Has the poller tell of everything that happens to it.
    ///
    /// # Errors
    /// Those of epoll_ctl(2).
    pub fn register(&mut self, registry: &Registry, token: Token) -> io::Result<()> {
        let interest = Interest::READABLE | Interest::WRITABLE;
        match self {
            Stream::Tcp(stream) => registry.register(stream, token, interest),
            Stream::Unix(stream) => registry.register(stream, token, interest),
        }
    }

    /// Has the poller forget it. Needed before a drop: the poller goes by the open file, of which
    /// a child that is being spawned may hold a copy for a moment.
    pub fn deregister(&mut self, registry: &Registry) {
        let _ = match self {
            Stream::Tcp(stream) => registry.deregister(stream),
            Stream::Unix(stream) => registry.deregister(stream),
        };
    }

    /// Reads what is there.
    ///
    /// # Errors
    /// Those of read(2).
    pub fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Stream::Tcp(stream) => stream.read(buffer),
            Stream::Unix(stream) => stream.read(buffer),
        }
    }

    /// Writes a prefix of these parts, in order.
    ///
    /// # Errors
    /// Those of writev(2).
    pub fn write(&mut self, parts: [&[u8]; 3]) -> io::Result<usize> {
        // Nearly always there is one, and one goes by send(2), which costs less than a list.
        let mut filled = parts.iter().filter(|part| !part.is_empty());
        if let (Some(part), None) = (filled.next(), filled.next()) {
            return match self {
                Stream::Tcp(stream) => stream.write(part),
                Stream::Unix(stream) => stream.write(part),
            };
        }
        let parts = parts.map(IoSlice::new);
        match self {
            Stream::Tcp(stream) => stream.write_vectored(&parts),
            Stream::Unix(stream) => stream.write_vectored(&parts),
        }
    }

    /// Whether no process holds the other end any more, as far as the kernel knows: of a client on
    /// another machine it does not. A Unix socket's end is told by the poller.
    pub fn is_abandoned(&self, peers: &mut Peers) -> bool {
        let Stream::Tcp(stream) = self else { return false };
        match (stream.local_addr(), stream.peer_addr()) {
            (Ok(local), Ok(peer)) if peer.ip().to_canonical().is_loopback() => {
                matches!(peers.of_tcp(local, peer), Ok(None))
            }
            _ => false,
        }
    }

    /// Where the process at the other end stands.
    pub fn holder(&self, peers: &mut Peers) -> Holder {
        match self {
            Stream::Unix(stream) => peer::holder_of_unix(stream),
            Stream::Tcp(stream) => match (stream.local_addr(), stream.peer_addr()) {
                (Ok(local), Ok(peer)) => peers.holder_of_tcp(local, peer),
                _ => Holder::Gone,
            },
        }
    }

    /// Says that there is no room, as far as that goes without waiting, and hangs up.
    pub fn turn_away(mut self) {
        let _ = self.write([reply::NO_ROOM, b"", b""]); // Nobody to tell if it fails.
        self.end_output();
        // What it has sent already would make the close a reset, which overtakes the reply.
        let mut rest = [0; 4096];
        let _ = self.read(&mut rest);
    }

    /// Tells the client that nothing more will come.
    pub fn end_output(&mut self) {
        let _ = match self {
            Stream::Tcp(stream) => stream.shutdown(Shutdown::Write),
            Stream::Unix(stream) => stream.shutdown(Shutdown::Write),
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener as StdUnixListener;

    fn scratch(name: &str) -> PathBuf {
        std::env::temp_dir().join(format!("sidestream-net-{name}-{}", std::process::id()))
    }

    fn unix(path: &Path) -> Result<Listener, String> {
        bind(&[Listen::Unix(path.into())], false, false).map(|mut listeners| listeners.remove(0))
    }

    fn accept(listener: &Listener) -> (Stream, Peer) {
        let mut peers = Peers::new();
        let start = std::time::Instant::now();
        loop {
            match listener.accept(&mut peers) {
                Accepted::Connection(stream, peer) => return (stream, peer),
                Accepted::Nobody | Accepted::Gone => std::thread::yield_now(),
                Accepted::Failed(error) => panic!("{error}"),
            }
            assert!(start.elapsed().as_secs() < 20, "nobody came");
        }
    }

    #[test]
    fn a_connection_is_known_by_its_user_on_both_families() {
        let ours = Peer::Local { uid: sys::effective_uid() };
        let path = scratch("peer");
        let listener = unix(&path).unwrap();
        let _client = std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(accept(&listener).1, ours);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);

        let listener = bind(&[Listen::Tcp("127.0.0.1".into(), 0)], false, false).unwrap().remove(0);
        let _client = std::net::TcpStream::connect(listener.local().unwrap()).unwrap();
        let (stream, peer) = accept(&listener);
        assert_eq!(peer, ours);
        let Stream::Tcp(stream) = stream else { panic!("not TCP") };
        assert!(stream.nodelay().unwrap());
    }

    #[test]
    fn a_taken_port_is_refused_by_name() {
        let first = bind(&[Listen::Tcp("127.0.0.1".into(), 0)], false, false).unwrap();
        let address = first[0].local().unwrap();
        for is_default in [false, true] {
            let again = Listen::Tcp("127.0.0.1".into(), address.port());
            let sentence = bind(&[again], is_default, false).unwrap_err();
            assert!(sentence.contains(&address.to_string()), "{sentence}");
            assert!(sentence.contains("--listen"), "{sentence}");
        }
    }

    #[test]
    fn localhost_is_one_port_on_every_family_there_is() {
        let listeners = bind(&[Listen::Tcp("localhost".into(), 0)], false, false).unwrap();
        let port = listeners[0].local().unwrap().port();
        assert!(listeners[0].name().starts_with("http://127.0.0.1:"));
        assert!(listeners.iter().all(|listener| listener.local().unwrap().port() == port));
    }

    #[test]
    fn a_socket_file_is_taken_over_from_the_dead_only_and_goes_with_its_listener() {
        let path = scratch("file");
        drop(StdUnixListener::bind(&path).unwrap()); // std leaves the file, as a kill would.
        assert!(path.exists());
        let first = unix(&path).unwrap();
        let sentence = unix(&path).unwrap_err();
        assert!(sentence.contains("another program does"), "{sentence}");
        drop(first);
        assert!(!path.exists());

        let first = unix(&path).unwrap();
        fs::remove_file(&path).unwrap();
        fs::write(&path, "another's").unwrap();
        drop(first);
        assert_eq!(fs::read(&path).unwrap(), b"another's");
        assert!(unix(&path).unwrap_err().contains("something else has this name"));
        fs::remove_file(&path).unwrap();
    }

    #[test]
    fn what_is_wrong_with_a_client_is_not_what_is_wrong_with_us() {
        let sorted = |number| sort(io::Error::from_raw_os_error(number));
        assert!(matches!(sorted(sys::EPROTO), Accepted::Gone));
        assert!(matches!(sort(ErrorKind::ConnectionAborted.into()), Accepted::Gone));
        assert!(matches!(sort(ErrorKind::Interrupted.into()), Accepted::Gone));
        assert!(matches!(sort(ErrorKind::WouldBlock.into()), Accepted::Nobody));
        assert!(matches!(sort(ErrorKind::OutOfMemory.into()), Accepted::Failed(_)));
    }
}
