//! The helper threads, for file work that may block: one for the journals, one for the rest.
//!
//! Requests and replies go through bounded channels, in order: one request, one reply. Frames to
//! be written go before everything else, since everybody waits for them. Neither side ever waits
//! for the other while the server runs: a full request channel is the caller's refusal to give, and
//! a thread holds back when replies are not taken. Each reply wakes the reactor. What the answers
//! mean is not known here.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread;

use crossbeam_channel::{Receiver, Sender, TryRecvError, TrySendError, bounded, select};

use super::journal::Store;
use super::{process, sample, sys, token_file, trust};
use crate::core::effect::{DirectoryProblem, DiskReply, DiskRequest, ReadFailure};

/// The thread's stack: its deepest work is JSON, whose reader bounds its own depth.
pub const STACK_SIZE: usize = 1024 * 1024;
/// What the thread needs to know beside the requests.
#[derive(Clone, Debug)]
pub struct Surroundings {
    /// The directories agents may work in, canonical ([`canonical_roots`]).
    pub roots: Arc<[PathBuf]>,
    /// Where our own state is, canonical: no agent works in there.
    pub data_dir: PathBuf,
    /// What the markers of our agents begin with: the data directory's id.
    pub marker_prefix: String,
    /// Where everybody's tokens stand, if anybody is asked for one.
    pub token_file: Option<PathBuf>,
}

/// The threads' handle, held by the reactor.
///
/// What is ours, the journals, has a thread to itself: everybody waits for it before he sees
/// anything. What is somebody else's, working directories and processes, has another: a network
/// file system that hangs holds up those who asked for it, and no commit.
#[derive(Debug)]
pub struct Disk {
    journal: Lane,
    chores: Lane,
}

impl Disk {
    /// Starts the threads. At most `capacity` requests wait for each, and as many replies.
    ///
    /// # Errors
    /// When out of threads.
    pub fn start(
        waker: mio::Waker,
        capacity: usize,
        surroundings: Surroundings,
        store: Option<Store>,
    ) -> io::Result<Disk> {
        let waker = Arc::new(waker);
        let around = surroundings.clone();
        let journal = Lane::start("disk", waker.clone(), capacity, around, store)?;
        let chores = Lane::start("chores", waker, capacity, surroundings, None)?;
        Ok(Disk { journal, chores })
    }

    /// Hands over a request.
    ///
    /// # Errors
    /// Gives it back when as many as fit are waiting; there is room after the next reply.
    pub fn try_send(&self, request: DiskRequest) -> Result<(), DiskRequest> {
        let lane = if request.is_chore() { &self.chores } else { &self.journal };
        lane.try_send(request)
    }

    /// The next reply, if there is one. After a wake take them until there is none: two replies
    /// may share a wake.
    pub fn try_recv(&self) -> Option<DiskReply> {
        let reply = self.journal.replies.try_recv();
        reply.or_else(|_| self.chores.replies.try_recv()).ok()
    }

    /// Lets the threads finish what they were given, and then end: each wakes the reactor once more
    /// when it has. Whoever waits for that must know for how long, since a file system may hang.
    pub fn close(&mut self) {
        (self.journal.requests, self.chores.requests) = (None, None);
    }

    /// Whether the threads have ended, that of the journals and that of the rest. Replies that
    /// nobody has taken are dropped.
    pub fn have_ended(&mut self) -> (bool, bool) {
        (self.journal.has_ended(), self.chores.has_ended())
    }
}

/// One thread, and the ways to it and back.
#[derive(Debug)]
struct Lane {
    /// `None` once the thread was told to end.
    requests: Option<Senders>,
    replies: Receiver<DiskReply>,
    /// Held for as long as anybody waits for the thread: it wakes us when it ends, and a wake is lost
    /// with the last holder of its descriptor.
    _waker: Arc<mio::Waker>,
}

/// The two ways in.
#[derive(Debug)]
struct Senders {
    urgent: Sender<DiskRequest>,
    other: Sender<DiskRequest>,
}

impl Lane {
    fn start(
        name: &str,
        waker: Arc<mio::Waker>,
        capacity: usize,
        surroundings: Surroundings,
        store: Option<Store>,
    ) -> io::Result<Lane> {
        let (urgent, first) = bounded(1); // The core has one batch under way at most.
        let (other, inbox) = bounded(capacity);
        let (outbox, replies) = bounded(capacity);
        let held = waker.clone();
        let mut worker = Worker { outbox, waker, surroundings, store };
        let work = move || {
            worker.run(&first, &inbox);
            let Worker { outbox, waker, store, .. } = worker;
            if let Some(store) = store {
                store.close();
            }
            drop(outbox); // By this it is known that nothing is left to do.
            let _ = waker.wake();
        };
        let requests = Senders { urgent, other };
        // Not joined: one that hangs ends with the process.
        let thread = thread::Builder::new().name(name.into()).stack_size(STACK_SIZE);
        thread.spawn(work)?;
        Ok(Lane { requests: Some(requests), replies, _waker: held })
    }

    fn try_send(&self, request: DiskRequest) -> Result<(), DiskRequest> {
        let Some(requests) = &self.requests else { return Err(request) };
        let way = if request.is_urgent() { &requests.urgent } else { &requests.other };
        way.try_send(request).map_err(|error| match error {
            TrySendError::Full(request) | TrySendError::Disconnected(request) => request,
        })
    }

    fn has_ended(&self) -> bool {
        loop {
            match self.replies.try_recv() {
                Ok(_) => {}
                Err(TryRecvError::Empty) => return false,
                Err(TryRecvError::Disconnected) => return true,
            }
        }
    }
}

/// What a thread works with.
struct Worker {
    outbox: Sender<DiskReply>,
    waker: Arc<mio::Waker>,
    surroundings: Surroundings,
    store: Option<Store>,
}

impl Worker {
    /// Works until both ways in are closed and empty, or nobody takes replies any more.
    fn run(&mut self, first: &Receiver<DiskRequest>, inbox: &Receiver<DiskRequest>) {
        loop {
            let request = match first.try_recv() {
                Ok(request) => Ok(request),
                Err(_) => select! {
                    recv(first) -> request => request,
                    recv(inbox) -> request => request,
                },
            };
            let Ok(request) = request else { break };
            if !self.serve(request, first) {
                return;
            }
        }
        for request in first.iter().chain(inbox.iter()) {
            if !self.serve(request, first) {
                return;
            }
        }
    }

    /// Answers one request, and what is urgent before it is done with a long one. Returns whether
    /// anybody is left to tell.
    fn serve(&mut self, request: DiskRequest, first: &Receiver<DiskRequest>) -> bool {
        let reply = match request {
            DiskRequest::Page(mut page) => loop {
                let store = self.store.as_ref();
                match store.map_or(Err(ReadFailure::Gone), |store| store.page(&mut page)) {
                    Ok(true) => {}
                    result => break DiskReply::Page(page, result.map(|_| ())),
                }
                if let Ok(urgent) = first.try_recv()
                    && !self.serve(urgent, first)
                {
                    return false;
                }
            },
            request => self.answer(request),
        };
        if self.outbox.send(reply).is_err() {
            return false;
        }
        let _ = self.waker.wake(); // Fails only with the reactor's poll: then nobody listens.
        true
    }

    fn answer(&mut self, request: DiskRequest) -> DiskReply {
        match request {
            DiskRequest::Directory { errand, path } => {
                DiskReply::Directory { errand, result: directory(&path, &self.surroundings) }
            }
            DiskRequest::List { errand, path } => {
                let result = directory(&path, &self.surroundings).and_then(|path| {
                    let names = directories(&path, &self.surroundings)?;
                    Ok((path, names))
                });
                DiskReply::Listed { errand, result }
            }
            DiskRequest::LookForTrust { errand, path } => {
                DiskReply::Trust { errand, brought: trust::look(&path) }
            }
            DiskRequest::RememberTrust { path, hash } => {
                let kept = trust::remember(&self.surroundings.data_dir, &path, &hash);
                DiskReply::Remembered(kept.err().map(|error| error.to_string()))
            }
            DiskRequest::RememberCookie { line } => {
                let kept = token_file::remember_cookie(&self.surroundings.data_dir, &line);
                DiskReply::Remembered(kept.err().map(|error| error.to_string()))
            }
            DiskRequest::ReadTokens => DiskReply::Tokens(match &self.surroundings.token_file {
                Some(path) => token_file::reread(path),
                None => Err("there is no token file".into()),
            }),
            DiskRequest::Sample { connection, agents } => {
                DiskReply::Sampled(connection, Box::new(sample::take(&agents)))
            }
            // Nobody is spared: the session's next agent starts only after this.
            DiskRequest::Sweep { agent, session_id } => {
                let prefix = &self.surroundings.marker_prefix;
                let swept = process::sweep(prefix, Some(&session_id), &|_| false);
                DiskReply::Swept { agent, killed: swept.killed }
            }
            DiskRequest::Append(batch) => {
                let result = self.store.as_mut().map_or(Ok(()), |store| store.append(&batch));
                DiskReply::Appended(batch, result)
            }
            DiskRequest::Read(mut read) => {
                let store = self.store.as_ref();
                let result = store.map_or(Err(ReadFailure::Gone), |store| store.read(&mut read));
                DiskReply::Read(read, result)
            }
            DiskRequest::Page(page) => DiskReply::Page(page, Err(ReadFailure::Gone)),
            DiskRequest::Large { connection, part, source, from } => {
                let store = self.store.as_ref();
                let gone = Err(ReadFailure::Gone);
                let result = store.map_or(gone, |store| store.fetch(part, &source, from));
                DiskReply::Large { connection, part, result }
            }
            DiskRequest::Drop { session_id, segment, until, snapshot } => {
                let removed = self.store.as_mut().map_or(Ok(()), |store| {
                    store.drop_segment(&session_id, segment, until, snapshot.as_deref())
                });
                DiskReply::Dropped(removed)
            }
            DiskRequest::Erase { session_id, last_seq } => {
                let store = self.store.as_mut();
                let result = store.map_or(Ok(()), |store| store.erase(&session_id, last_seq));
                DiskReply::Erased { session_id, last_seq, result }
            }
        }
    }
}

/// The roots with every link followed, so that they can be compared with what
/// [`DiskRequest::Directory`] finds.
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

/// The names of the directories in a directory, hidden ones left out, sorted, at most 1,000.
fn directories(path: &Path, surroundings: &Surroundings) -> Result<Vec<String>, DirectoryProblem> {
    let unreadable = |error: io::Error| DirectoryProblem::Unreadable(error.to_string());
    // A link may lead anywhere, and the data directory may lie here.
    let is_open = |entry: &fs::DirEntry| {
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        match is_link {
            true => directory(&entry.path(), surroundings).is_ok(),
            false => entry.path().is_dir() && entry.path() != surroundings.data_dir,
        }
    };
    let mut names: Vec<String> = fs::read_dir(path)
        .map_err(unreadable)?
        .filter_map(Result::ok)
        .filter(is_open)
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| !name.starts_with('.'))
        .collect();
    names.sort_unstable();
    names.truncate(1000);
    Ok(names)
}

fn directory(path: &Path, surroundings: &Surroundings) -> Result<PathBuf, DirectoryProblem> {
    if !path.is_absolute() {
        return Err(DirectoryProblem::NotAbsolute);
    }
    // By components, after every link: neither `..` nor `/home/user-2` gets out of `/home/user`.
    let is_inside = |canonical: &Path| {
        let inside = |root: &PathBuf| canonical.starts_with(root);
        surroundings.roots.iter().any(inside) && !inside(&surroundings.data_dir)
    };
    let canonical = fs::canonicalize(path).map_err(|error| {
        // What there is outside is nobody's business, nor what there is not: it goes by the nearest
        // directory above that there is.
        let above = path.ancestors().skip(1).find_map(|above| fs::canonicalize(above).ok());
        match error.kind() {
            _ if !above.is_some_and(|above| is_inside(&above)) => DirectoryProblem::OutsideRoots,
            io::ErrorKind::NotFound => DirectoryProblem::Missing,
            io::ErrorKind::NotADirectory => DirectoryProblem::NotADirectory,
            _ => DirectoryProblem::Unreadable(error.to_string()),
        }
    })?;
    if !is_inside(&canonical) {
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
    use crate::base::arena::Key;
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

    fn surroundings(roots: &[PathBuf], data_dir: &Path) -> Surroundings {
        let marker_prefix = "nobody".to_owned();
        Surroundings {
            roots: Arc::from(roots),
            data_dir: data_dir.into(),
            marker_prefix,
            token_file: None,
        }
    }

    #[test]
    fn a_directory_is_judged_by_where_it_really_is() {
        use DirectoryProblem::{Missing, NotADirectory, NotAbsolute, OutsideRoots};
        let scratch = Scratch::new("judged");
        let at = |path: &str| scratch.0.join(path);
        for path in ["root/in/deep", "root/state/in", "root-2", "elsewhere"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::write(at("root/file"), "").unwrap();
        symlink(at("elsewhere"), at("root/out")).unwrap();
        symlink(at("root/in"), at("way-in")).unwrap();
        symlink(at("root"), at("root-link")).unwrap();
        symlink("loop", at("root/loop")).unwrap();
        let roots = canonical_roots(&[at("root-link")]).unwrap();
        assert_eq!(roots, [at("root")]);
        let around = surroundings(&roots, &at("root/state"));
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
            ("root/state", Err(OutsideRoots)),
            ("root/state/in", Err(OutsideRoots)),
            ("root/none", Err(Missing)),
            ("root/file", Err(NotADirectory)),
            ("root/file/under", Err(NotADirectory)),
            ("root/none/../../elsewhere", Err(Missing)),
            ("root/out/none", Err(OutsideRoots)),
            ("root/state/none", Err(OutsideRoots)),
            ("elsewhere/none", Err(OutsideRoots)),
            ("none/at/all", Err(OutsideRoots)),
        ] {
            assert_eq!(directory(&at(path), &around), expected.map(at), "{path}");
        }
        assert_eq!(directory(Path::new("root"), &around), Err(NotAbsolute));
        assert_eq!(directory(Path::new(""), &around), Err(NotAbsolute));
        for path in ["root/loop", "root/\0"] {
            let told = directory(&at(path), &around);
            assert!(matches!(told, Err(DirectoryProblem::Unreadable(_))), "{path:?} {told:?}");
        }
        let nowhere = surroundings(&[], &at("root/state"));
        assert_eq!(directory(&at("root"), &nowhere), Err(OutsideRoots));
        assert_eq!(canonical_roots(&[at("gone")]).unwrap_err().0, at("gone"));
        assert_eq!(canonical_roots(&[at("root/file")]).unwrap_err().0, at("root/file"));
    }

    /// What the threads still answer until they end, which is waited for.
    fn rest(mut disk: Disk) -> Vec<DiskReply> {
        disk.close();
        let replies = disk.journal.replies.iter().chain(disk.chores.replies.iter()).collect();
        assert_eq!(disk.have_ended(), (true, true));
        replies
    }

    fn ticket_of(reply: DiskReply) -> u64 {
        match reply {
            DiskReply::Directory { errand, result } => {
                assert_eq!(result, Ok("/".into()));
                errand
            }
            other => panic!("nobody asked for {other:?}"),
        }
    }

    #[test]
    fn replies_come_in_order_with_a_wake_and_a_full_channel_gives_the_request_back() {
        const WAKE: mio::Token = mio::Token(3);
        let mut poll = mio::Poll::new().unwrap();
        let mut events = mio::Events::with_capacity(4);
        let waker = mio::Waker::new(poll.registry(), WAKE).unwrap();
        let disk =
            Disk::start(waker, 2, surroundings(&["/".into()], Path::new("/-")), None).unwrap();
        let ask = |errand| DiskRequest::Directory { errand, path: "/".into() };
        // Untaken replies fill up, then the thread's hand, then the requests.
        let mut sent = 0;
        let refused = loop {
            match disk.try_send(ask(sent)) {
                Ok(()) => sent += 1,
                // The thread may be about to take one: full is full only when nothing moves.
                Err(request) if disk.chores.replies.is_full() && sent >= 5 => break request,
                Err(_) => thread::yield_now(),
            }
        };
        assert!(matches!(refused, DiskRequest::Directory { errand: 5, .. }) && sent == 5);
        let mut told = Vec::new();
        while told.len() < 4 {
            poll.poll(&mut events, Some(Duration::from_secs(20))).unwrap();
            assert!(events.iter().all(|event| event.token() == WAKE));
            assert!(!events.is_empty(), "no wake after {told:?}");
            told.extend(std::iter::from_fn(|| disk.try_recv()).map(ticket_of));
        }
        told.extend(rest(disk).into_iter().map(ticket_of));
        assert_eq!(told, [0, 1, 2, 3, 4]);
    }

    #[test]
    fn a_stop_finishes_what_was_asked_even_if_no_reply_was_taken() {
        let poll = mio::Poll::new().unwrap();
        let waker = mio::Waker::new(poll.registry(), mio::Token(0)).unwrap();
        let disk = Disk::start(waker, 2, surroundings(&[], Path::new("/-")), None).unwrap();
        let agent = Key { kind: 3, generation: 5, index: 1 };
        disk.try_send(DiskRequest::Directory { errand: 9, path: "x".into() }).unwrap();
        disk.try_send(DiskRequest::Sweep { agent, session_id: "none".into() }).unwrap();
        let replies = rest(disk);
        assert!(matches!(
            replies[..],
            [
                DiskReply::Directory { errand: 9, result: Err(DirectoryProblem::NotAbsolute) },
                DiskReply::Swept { killed: 0, agent: told },
            ] if told == agent
        ));
    }
}
