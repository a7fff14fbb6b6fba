//! The one helper thread, for file work that may block.
//!
//! Requests and replies go through two bounded channels, in order: one request, one reply.
//! Neither side ever waits for the other while the server runs: a full request channel is the
//! caller's refusal to give, and the thread holds back when replies are not taken. Each reply
//! wakes the reactor. What the answers mean is not known here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use super::sys;

/// What the thread can be asked.
#[derive(Debug)]
pub enum Request {
    /// Whether an agent may work in a directory.
    Directory {
        /// Given back in the reply.
        ticket: u64,
        /// As the client wrote it.
        path: PathBuf,
        /// The directories agents may work in, canonical ([`canonical_roots`]).
        roots: Arc<[PathBuf]>,
    },
}

/// What it answers.
#[derive(Debug, PartialEq, Eq)]
pub enum Reply {
    /// To [`Request::Directory`].
    Directory {
        /// The request's.
        ticket: u64,
        /// The canonical path, or why not.
        result: Result<PathBuf, DirectoryProblem>,
    },
}

/// Why an agent may not work in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryProblem {
    /// The path does not begin at `/`.
    NotAbsolute,
    /// Nothing is there.
    Missing,
    /// Something else is there, or on the way.
    NotADirectory,
    /// It is, with every link followed, in none of the roots.
    OutsideRoots,
    /// It cannot be reached or entered; the system's words.
    Unreadable(String),
}

/// The thread's handle, held by the reactor.
#[derive(Debug)]
pub struct Disk {
    /// `None` once the thread was told to end.
    requests: Option<Sender<Request>>,
    replies: Receiver<Reply>,
    thread: Option<JoinHandle<()>>,
}

impl Disk {
    /// Starts the thread. At most `capacity` requests wait, and as many replies.
    ///
    /// # Errors
    /// When out of threads.
    pub fn start(waker: mio::Waker, capacity: usize) -> io::Result<Disk> {
        let (requests, inbox) = bounded(capacity);
        let (outbox, replies) = bounded(capacity);
        let work = move || run(&inbox, &outbox, &waker);
        let thread = thread::Builder::new().name("disk".into()).spawn(work)?;
        Ok(Disk { requests: Some(requests), replies, thread: Some(thread) })
    }

    /// Hands over a request.
    ///
    /// # Errors
    /// Gives it back when as many as fit are waiting; there is room after the next reply.
    pub fn try_send(&self, request: Request) -> Result<(), Request> {
        let Some(requests) = &self.requests else { return Err(request) };
        requests.try_send(request).map_err(|error| match error {
            TrySendError::Full(request) | TrySendError::Disconnected(request) => request,
        })
    }

    /// The next reply, if there is one. After a wake take them until there is none: two replies
    /// may share a wake.
    pub fn try_recv(&self) -> Option<Reply> {
        self.replies.try_recv().ok()
    }

    /// Lets the thread finish what it was given, waits for its end and returns the replies that
    /// were not taken.
    pub fn stop(mut self) -> Vec<Reply> {
        self.finish()
    }

    fn finish(&mut self) -> Vec<Reply> {
        self.requests = None; // The thread's loop ends when it has emptied the channel.
        let replies = self.replies.iter().collect(); // Until the thread drops its end.
        if let Some(thread) = self.thread.take() {
            // A panic in it was told on stderr; the requests it took with it have no reply.
            let _ = thread.join();
        }
        replies
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.finish();
    }
}

fn run(inbox: &Receiver<Request>, outbox: &Sender<Reply>, waker: &mio::Waker) {
    for request in inbox {
        let reply = match request {
            Request::Directory { ticket, path, roots } => {
                Reply::Directory { ticket, result: directory(&path, &roots) }
            }
        };
        if outbox.send(reply).is_err() {
            return; // Nobody is left to tell.
        }
        let _ = waker.wake(); // Fails only with the reactor's poll, and then nobody listens.
    }
}

/// The roots with every link followed, so that they can be compared with what
/// [`Request::Directory`] finds.
///
/// # Errors
/// The first one that is not a directory we can reach, and why.
pub fn canonical_roots(roots: &[PathBuf]) -> Result<Vec<PathBuf>, (PathBuf, io::Error)> {
    let canonical = |root: &PathBuf| {
        let path = fs::canonicalize(root)?;
        if path.is_dir() { Ok(path) } else { Err(io::ErrorKind::NotADirectory.into()) }
    };
    roots.iter().map(|root| canonical(root).map_err(|error| (root.clone(), error))).collect()
}

fn directory(path: &Path, roots: &[PathBuf]) -> Result<PathBuf, DirectoryProblem> {
    if !path.is_absolute() {
        return Err(DirectoryProblem::NotAbsolute);
    }
    let canonical = fs::canonicalize(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => DirectoryProblem::Missing,
        io::ErrorKind::NotADirectory => DirectoryProblem::NotADirectory,
        _ => DirectoryProblem::Unreadable(error.to_string()),
    })?;
    // By components, after every link: neither `..` nor `/home/user-2` gets out of `/home/user`.
    if !roots.iter().any(|root| canonical.starts_with(root)) {
        return Err(DirectoryProblem::OutsideRoots);
    }
    if !canonical.is_dir() {
        return Err(DirectoryProblem::NotADirectory);
    }
    if !sys::may_execute(&canonical) {
        let error = io::Error::from(io::ErrorKind::PermissionDenied);
        return Err(DirectoryProblem::Unreadable(error.to_string()));
    }
    Ok(canonical)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;
    use std::time::Duration;

    /// A directory of our own, removed at the end.
    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Scratch {
            let name = format!("sidestream-disk-{name}-{}", std::process::id());
            let path = fs::canonicalize(std::env::temp_dir()).unwrap().join(name);
            fs::create_dir_all(&path).unwrap();
            Scratch(path)
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn a_directory_is_judged_by_where_it_really_is() {
        use DirectoryProblem::{Missing, NotADirectory, NotAbsolute, OutsideRoots};
        let scratch = Scratch::new("judged");
        let at = |path: &str| scratch.0.join(path);
        for path in ["root/in/deep", "root-2", "elsewhere"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("root/file"), "").unwrap();
        symlink(at("elsewhere"), at("root/out")).unwrap();
        symlink(at("root/in"), at("way-in")).unwrap();
        symlink(at("root"), at("root-link")).unwrap();
        symlink("loop", at("root/loop")).unwrap();
        let roots = canonical_roots(&[at("root-link")]).unwrap();
        assert_eq!(roots, [at("root")]);
        for (path, expected) in [
            ("root", Ok("root")),
            ("root/in/deep", Ok("root/in/deep")),
            ("root/in/deep/../", Ok("root/in")),
            ("way-in/deep", Ok("root/in/deep")),
            ("root/in/..//./in", Ok("root/in")),
            ("root/..", Err(OutsideRoots)),
            ("root/../elsewhere", Err(OutsideRoots)),
            ("root-2", Err(OutsideRoots)),
            ("root/out", Err(OutsideRoots)),
            ("root/none", Err(Missing)),
            ("root/file", Err(NotADirectory)),
            ("root/file/under", Err(NotADirectory)),
        ] {
            assert_eq!(directory(&at(path), &roots), expected.map(at), "{path}");
        }
        assert_eq!(directory(Path::new("root"), &roots), Err(NotAbsolute));
        assert_eq!(directory(Path::new(""), &roots), Err(NotAbsolute));
        for path in ["root/loop", "root/\0"] {
            let told = directory(&at(path), &roots);
            assert!(matches!(told, Err(DirectoryProblem::Unreadable(_))), "{path:?} {told:?}");
        }
        assert_eq!(directory(&at("root"), &[]), Err(OutsideRoots));
        assert_eq!(canonical_roots(&[at("gone")]).unwrap_err().0, at("gone"));
        assert_eq!(canonical_roots(&[at("root/file")]).unwrap_err().0, at("root/file"));
    }

    #[test]
    fn replies_come_in_order_with_a_wake_and_a_full_channel_gives_the_request_back() {
        const WAKE: mio::Token = mio::Token(3);
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let disk = Disk::start(mio::Waker::new(poll.registry(), WAKE).unwrap(), 2).unwrap();
        let roots: Arc<[PathBuf]> = Arc::from([PathBuf::from("/")]);
        let ask = |ticket| Request::Directory { ticket, path: "/".into(), roots: roots.clone() };
        // Untaken replies fill up, then the thread's hand, then the requests.
        let mut sent = 0;
        let refused = loop {
            match disk.try_send(ask(sent)) {
                Ok(()) => sent += 1,
                // The thread may be about to take one: full is full only when nothing moves.
                Err(request) if disk.replies.is_full() && sent >= 5 => break request,
                Err(_) => thread::yield_now(),
            }
        };
        let Request::Directory { ticket, .. } = refused;
        assert_eq!((ticket, sent), (5, 5));
        let mut told = Vec::new();
        while told.len() < 4 {
            poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(events.iter().all(|event| event.token() == WAKE));
            assert!(!events.is_empty(), "no wake after {told:?}");
            while let Some(Reply::Directory { ticket, result }) = disk.try_recv() {
                assert_eq!(result, Ok("/".into()));
                told.push(ticket);
            }
        }
        told.extend(disk.stop().into_iter().map(|Reply::Directory { ticket, .. }| ticket));
        assert_eq!(told, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_stop_finishes_what_was_asked_even_if_no_reply_was_taken() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let disk = Disk::start(waker, 1).unwrap();
        let roots: Arc<[PathBuf]> = Arc::from([]);
        let ask = Request::Directory { ticket: 9, path: "x".into(), roots };
        disk.try_send(ask).unwrap();
        let result = Err(DirectoryProblem::NotAbsolute);
        assert_eq!(disk.stop(), [Reply::Directory { ticket: 9, result }]);
    }
}
