//! The loop: one thread that waits for everything, and does what the core says about it.
//!
//! One turn: poll, read the clock once, note readiness, deadlines, the ready list under budgets,
//! agents, commit, flush, close. Effects are drained after every input to the core. Readiness is
//! state here, cleared only by `WouldBlock`: the poller tells of an edge once. It sleeps as long
//! as nothing is due, so an idle server makes no wake-ups. What any byte means is not known here.

mod agents;
mod hooks;
mod leavers;

use crate::limits::{DISK_REQUESTS_MAX, SOCKET_SIZE};
use std::collections::VecDeque;
use std::io::{self, ErrorKind};
use std::time::Duration;

use mio::{Events, Poll, Token};

use self::agents::Agents;
pub use self::agents::{DEMO_FLAG, Surroundings};
use self::leavers::Leavers;
use super::clock::Clock;
use super::disk::{self, Disk};
use super::hooks::Hooks;
use super::journal::Store;
use super::log::Log;
use super::net::{Accepted, Listener, Reserve, Stream};
use super::notify::Notifier;
use super::peer::{Holder, Peers};
use super::signals::{Signal, Signals};
use crate::base::arena::Key;
use crate::core::connection::Output;
use crate::core::effect::{Asker, DiskReply, DiskRequest, Effect, Level, LogLine};
use crate::core::server::{End, KIND_CONNECTION, Server};

// Kinds of keys beside the core's.
const KIND_LISTENER: u8 = 0x10;
const KIND_WAKER: u8 = 0x11;
const KIND_SIGNALS: u8 = 0x12;
const KIND_HOOK: u8 = 0x13;

const _: () = assert!(usize::BITS == 64, "a key must fit a token");

/// Events taken from the kernel in one turn; what is left over comes in the next.
const EVENTS_PER_TURN: usize = 1024;
/// Clients accepted on one listener in one turn: those that are here come first.
const ACCEPTS_PER_TURN: usize = 16;
/// Clients read from, or written to, in one turn, so that deadlines and agents have their turn.
const CONNECTIONS_PER_TURN: usize = 2048;
/// Bytes read from one client in one turn: one full read.
const READ_BYTES: usize = 64 * 1024;
/// Bytes written to one client in one turn: more than its socket holds, so only a client that
/// takes them as fast as we give comes to it.
const WRITE_BYTES: usize = 256 * 1024;
/// Between two tries to accept, when there was no descriptor: the freed one makes no event.
const ACCEPT_AGAIN_MS: u64 = 500;
/// Between two log lines about that.
const ACCEPT_TOLD_MS: u64 = 5_000;
/// How long the end of the server waits for work on somebody else's files.
const CHORES_MS: u64 = 2_000;
/// What a disk that works has for its last writes where the drain was cut.
const LAST_WRITES_MS: u64 = 500;

/// What the loop is made of.
pub struct Parts {
    /// The core, born by `clock`.
    pub server: Server,
    /// The clock of its birth.
    pub clock: Clock,
    /// Where log lines go.
    pub log: Log,
    /// Where clients come from.
    pub listeners: Vec<Listener>,
    /// What agents are started with.
    pub agents: Surroundings,
    /// What the disk thread knows.
    pub disk: disk::Surroundings,
    /// The journals, if there are any.
    pub store: Option<Store>,
    /// The service manager, if there is one.
    pub notifier: Option<Notifier>,
    /// What the operator's commands are started with.
    pub hooks: super::hooks::Surroundings,
}

/// The loop.
pub struct Reactor {
    poll: Poll,
    events: Events,
    clock: Clock,
    /// The time of this turn, and its beginning more exactly.
    now_ms: u64,
    began_us: u64,
    /// When the batch that is under way went to the disk thread.
    append_began_us: Option<u64>,
    server: Server,
    log: Log,
    listeners: Vec<Listening>,
    reserve: Reserve,
    peers: Peers,
    /// When to try again, after there was no descriptor for a client.
    accept_again_at: Option<u64>,
    accept_told_at: Option<u64>,
    sockets: Sockets,
    /// Connections that ended in this turn: dropped at its end.
    closing: Vec<Stream>,
    leavers: Leavers,
    agents: Agents,
    signals: Signals,
    signals_ready: bool,
    notifier: Option<Notifier>,
    hooks: Hooks,
    /// Of those, the ones that ended.
    hooks_ended: Vec<Key>,
    stops: u32,
    disk: Disk,
    disk_ready: bool,
    /// Requests that the helper threads have no room for yet, oldest first: journals' and chores.
    disk_waiting: [VecDeque<DiskRequest>; 2],
    /// Some deadlines are still to be worked off.
    overdue: bool,
    scratch: Box<[u8]>,
}

struct Listening {
    listener: Listener,
    /// Clients may be waiting.
    ready: bool,
}

impl Reactor {
    /// Takes everything into one poller. From here on signals are ours.
    ///
    /// # Errors
    /// When out of descriptors or threads.
    pub fn new(parts: Parts) -> io::Result<Reactor> {
        let poll = Poll::new()?;
        let mut signals = Signals::new()?;
        poll.registry().register(&mut signals, token(KIND_SIGNALS, 0), mio::Interest::READABLE)?;
        let waker = mio::Waker::new(poll.registry(), token(KIND_WAKER, 0))?;
        let disk = Disk::start(waker, DISK_REQUESTS_MAX, parts.disk, parts.store)?;
        let mut listeners = Vec::with_capacity(parts.listeners.len());
        for (index, mut listener) in parts.listeners.into_iter().enumerate() {
            listener.register(poll.registry(), token(KIND_LISTENER, index as u32))?;
            listeners.push(Listening { listener, ready: false });
        }
        let limits = &parts.server.limits;
        Ok(Reactor {
            events: Events::with_capacity(EVENTS_PER_TURN),
            now_ms: parts.server.now_ms,
            began_us: parts.clock.now_us(),
            append_began_us: None,
            sockets: Sockets::new(limits.connections_max),
            agents: Agents::new(limits.agents_max, parts.agents),
            scratch: vec![0; READ_BYTES].into_boxed_slice(),
            reserve: Reserve::new(),
            peers: Peers::new(),
            poll,
            clock: parts.clock,
            server: parts.server,
            log: parts.log,
            listeners,
            accept_again_at: None,
            accept_told_at: None,
            closing: Vec::new(),
            leavers: Leavers::default(),
            signals,
            signals_ready: false,
            notifier: parts.notifier,
            hooks: Hooks::new(parts.hooks, KIND_HOOK),
            hooks_ended: Vec::new(),
            stops: 0,
            disk,
            disk_ready: false,
            disk_waiting: Default::default(),
            overdue: false,
        })
    }

    /// Where it listens, as people write it.
    pub fn listening(&self) -> impl Iterator<Item = String> {
        self.listeners.iter().map(|listening| listening.listener.name())
    }

    /// Serves until told to stop.
    ///
    /// # Errors
    /// If the poller fails, which nothing can be done about.
    pub fn run(mut self) -> io::Result<End> {
        self.apply_effects(); // Those of the server's birth.
        self.tell_ready();
        loop {
            if let Some(notifier) = &mut self.notifier {
                notifier.beat(self.now_ms);
            }
            self.wait()?;
            self.overdue = !self.server.expire();
            self.apply_effects();
            self.work_signals();
            self.work_disk();
            self.work_listeners();
            self.work_connections();
            self.work_leavers();
            self.work_agents();
            self.work_hooks();
            self.server.commit();
            self.apply_effects();
            self.feed_agents();
            self.flush();
            self.closing.clear(); // Every key of theirs is stale by now.
            if let Some(end) = self.server.finished() {
                return Ok(self.end(end));
            }
            if self.stops > 2 {
                return Ok(self.end(End::Cut));
            }
        }
    }

    /// Sleeps until something happens or is due, and notes what.
    fn wait(&mut self) -> io::Result<()> {
        let timeout = self.timeout();
        let due = self.server.next_due();
        let turn_us = self.clock.now_us() - self.began_us;
        self.server.counters.turns.record(turn_us);
        match self.poll.poll(&mut self.events, timeout) {
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            result => result?,
        }
        self.began_us = self.clock.now_us(); // The turn's clock read; one more only measures it.
        self.now_ms = Clock::ms_of(self.began_us);
        if let Some(late_ms) = due.and_then(|due| self.now_ms.checked_sub(due)) {
            self.server.counters.lag.record(late_ms * 1000);
        }
        self.server.set_time(self.now_ms, self.clock.wall_ms());
        self.note_readiness();
        Ok(())
    }

    fn timeout(&self) -> Option<Duration> {
        let may_accept = self.accept_again_at.is_none();
        let busy = self.overdue
            || self.server.has_work()
            || !self.sockets.ready.is_empty()
            || self.agents.hungry
            || may_accept && self.listeners.iter().any(|listening| listening.ready);
        if busy {
            return Some(Duration::ZERO);
        }
        let sign_of_life = self.notifier.as_ref().and_then(Notifier::due);
        let dues = [
            self.server.next_due(),
            self.accept_again_at,
            self.agents.reap_at,
            sign_of_life,
            self.hooks.due(),
            self.leavers.look_at,
        ];
        let due = dues.into_iter().flatten().min()?;
        Some(Duration::from_millis(due.saturating_sub(self.now_ms)))
    }

    /// Turns events into state. Nothing runs yet, so no event of this batch can meet a newcomer
    /// in its slot, and keys that went stale before are told apart by their generation.
    fn note_readiness(&mut self) {
        for event in &self.events {
            let key = Key::from_bits(event.token().0 as u64);
            // A failed or half-closed one is told by the call that meets it.
            let readable = event.is_readable() || event.is_read_closed() || event.is_error();
            let writable = event.is_writable() || event.is_write_closed() || event.is_error();
            match key.kind {
                KIND_CONNECTION => {
                    if writable {
                        self.server.writable(key);
                    }
                    if readable && let Some(socket) = self.sockets.get_mut(key) {
                        socket.readable = true;
                        socket.ended |= event.is_read_closed() || event.is_error();
                        socket.gone |= event.is_write_closed(); // Both ways: nobody is there.
                        self.sockets.queue(key);
                    }
                }
                KIND_LISTENER => {
                    if let Some(listening) = self.listeners.get_mut(key.index as usize) {
                        listening.ready = true;
                    }
                }
                KIND_WAKER => self.disk_ready = true,
                KIND_SIGNALS => self.signals_ready = true,
                KIND_HOOK => self.hooks_ended.push(key),
                _ => self.agents.note(key, readable, writable),
            }
        }
    }

    /// Does what the core asked for, until it asks for nothing more.
    fn apply_effects(&mut self) {
        while let Some(effect) = self.server.next_effect() {
            match effect {
                Effect::Spawn(spawn) => self.spawn(&spawn),
                Effect::CloseStdin(key) => self.agents.close_stdin(key, self.poll.registry()),
                Effect::Signal(key, signal) => self.signal(key, signal),
                Effect::ReleaseAgent(key) => {
                    self.agents.release(key, self.poll.registry(), self.now_ms);
                }
                Effect::Disk(request) => {
                    if request.is_urgent() {
                        self.append_began_us = Some(self.clock.now_us());
                    }
                    self.want_disk(request);
                }
                Effect::Sample(connection) => {
                    (self.server.counters.log_dropped, self.server.counters.log_suppressed) =
                        (self.log.dropped(), self.log.suppressed());
                    let agents = self.agents.pids();
                    self.want_disk(DiskRequest::Sample { connection, agents });
                }
                Effect::Close(key) => {
                    if let Some(mut socket) = self.sockets.remove(key) {
                        socket.stream.deregister(self.poll.registry());
                        self.closing.push(socket.stream);
                    }
                }
                Effect::EndOutput(key) => {
                    if let Some(socket) = self.sockets.get_mut(key) {
                        socket.stream.end_output();
                        self.look_again(key);
                    }
                }
                Effect::Read(key) => self.look_again(key),
                Effect::CloseListeners => {
                    for mut listening in self.listeners.drain(..) {
                        listening.listener.deregister(self.poll.registry());
                    }
                    self.accept_again_at = None;
                }
                Effect::WhoIs(key) => {
                    let asker = self.asker(key);
                    self.server.asker_known(key, asker);
                }
                Effect::Hook { hook, json } => self.run_hook(hook, json),
                Effect::Log(line) => self.log.line(self.now_ms, &line),
            }
        }
    }

    fn tell(
        &mut self,
        level: Level,
        area: &'static str,
        message: &'static str,
        fields: Vec<(&'static str, String)>,
    ) {
        self.log.line(self.now_ms, &LogLine { level, area, message, fields });
    }

    /// Tells the service manager that we serve, and where.
    fn tell_ready(&self) {
        if let Some(notifier) = &self.notifier {
            let names: Vec<String> = self.listening().collect();
            notifier.ready(&format!("listening on {}", names.join(", ")));
        }
    }

    // Signals and the disk thread.

    fn work_signals(&mut self) {
        if !std::mem::take(&mut self.signals_ready) {
            return;
        }
        let caught: Vec<Signal> = self.signals.drain().collect();
        for signal in caught {
            match signal {
                Signal::Terminate | Signal::Interrupt => {
                    self.stops += 1;
                    if let Some(notifier) = &self.notifier {
                        notifier.stopping();
                    }
                    self.tell(Level::Info, "server", "stopping", Vec::new());
                    self.server.stop();
                    self.apply_effects();
                }
                Signal::Hangup => {
                    if let Some(notifier) = &self.notifier {
                        notifier.reloading(); // `tell_ready` follows the disk thread's answer.
                    }
                    let goes_on = self.server.reload();
                    self.apply_effects();
                    if !goes_on {
                        self.tell_ready();
                    }
                }
            }
        }
    }

    fn work_disk(&mut self) {
        if !std::mem::take(&mut self.disk_ready) {
            return;
        }
        while let Some(reply) = self.disk.try_recv() {
            if matches!(reply, DiskReply::Appended(..))
                && let Some(began_us) = self.append_began_us.take()
            {
                let took_us = self.clock.now_us() - began_us;
                self.server.counters.commits.record(took_us);
            }
            if matches!(reply, DiskReply::Swept { .. }) {
                self.agents.reap(); // What was killed in other groups became our children.
            }
            let reloaded = matches!(reply, DiskReply::Tokens(_));
            self.server.disk_replied(reply);
            self.apply_effects();
            if reloaded {
                self.tell_ready(); // The reload is over, whatever came of it.
            }
        }
        self.ask_disk(); // There is room behind each reply, and each reply comes with a wake.
    }

    /// Hands over a request, or lets it wait behind the others for its thread.
    fn want_disk(&mut self, request: DiskRequest) {
        let waiting = &mut self.disk_waiting[usize::from(request.is_chore())];
        match request.is_urgent() {
            true => waiting.push_front(request),
            false => waiting.push_back(request),
        }
        self.ask_disk();
    }

    /// Hands over what waits, as far as there is room. What waits for one thread keeps its order,
    /// and holds up nothing that is for the other.
    fn ask_disk(&mut self) {
        for waiting in &mut self.disk_waiting {
            while let Some(request) = waiting.pop_front() {
                if let Err(request) = self.disk.try_send(request) {
                    waiting.push_front(request);
                    break;
                }
            }
        }
    }

    // Clients.

    /// Whose process is at the other end of a connection.
    fn asker(&mut self, key: Key) -> Asker {
        let Some(socket) = self.sockets.get_mut(key) else { return Asker::Gone };
        match socket.stream.holder(&mut self.peers) {
            Holder::Outside => Asker::Outside,
            Holder::Inside(pid) => Asker::Agent(pid.and_then(|pid| self.agents.above(pid))),
            Holder::Gone => Asker::Gone,
        }
    }

    fn work_listeners(&mut self) {
        if self.accept_again_at.is_some_and(|at| self.now_ms < at) {
            return;
        }
        self.accept_again_at = None;
        for index in 0..self.listeners.len() {
            for _ in 0..ACCEPTS_PER_TURN {
                // An effect may have closed them all.
                let Some(listening) = self.listeners.get_mut(index) else { return };
                if !listening.ready {
                    break;
                }
                match listening.listener.accept(&mut self.peers) {
                    Accepted::Connection(stream, peer) => {
                        match self.server.accepted(peer) {
                            Some(key) => self.admit(key, stream),
                            None => stream.turn_away(),
                        }
                        self.apply_effects();
                    }
                    Accepted::Gone => {}
                    Accepted::Nobody => listening.ready = false,
                    // Readiness kept: whoever waits now makes no second event.
                    Accepted::Failed(error) => {
                        self.reserve.hang_up(&listening.listener);
                        self.server.turned_away();
                        return self.accept_failed(&error);
                    }
                }
            }
        }
    }

    fn accept_failed(&mut self, error: &io::Error) {
        self.accept_again_at = Some(self.now_ms + ACCEPT_AGAIN_MS);
        if self.accept_told_at.is_none_or(|at| self.now_ms >= at + ACCEPT_TOLD_MS) {
            self.accept_told_at = Some(self.now_ms);
            let fields = vec![("error", error.to_string())];
            self.tell(Level::Warn, "net", "cannot accept connections", fields);
        }
    }

    fn admit(&mut self, key: Key, mut stream: Stream) {
        let registered = stream.register(self.poll.registry(), Token(key.to_bits() as usize));
        self.sockets.insert(key, stream);
        if let Err(error) = registered {
            self.tell(Level::Warn, "net", "cannot poll", vec![("error", error.to_string())]);
            self.server.connection_lost(key);
        }
    }

    fn work_connections(&mut self) {
        for _ in 0..self.sockets.ready.len().min(CONNECTIONS_PER_TURN) {
            if let Some(key) = self.sockets.ready.pop_front() {
                self.read(key);
            }
        }
    }

    /// Reads from a client, as much as a turn allows.
    fn read(&mut self, key: Key) {
        let Some(socket) = self.sockets.get_mut(key) else { return };
        socket.queued = false;
        let mut left = READ_BYTES;
        while left > 0 {
            let allowed = self.server.read_allowance(key).min(left);
            // Looked up again each time: what was read may have ended it.
            let Some(socket) = self.sockets.get_mut(key) else { return };
            if allowed == 0 {
                let ended = socket.ended;
                if ended && self.server.is_waiting(key) {
                    self.watch_leaver(key); // Behind what it has sent and is not read yet.
                }
                return; // Readiness kept: `look_again` comes back to it.
            }
            match socket.stream.read(&mut self.scratch[..allowed]) {
                Ok(0) => {
                    socket.readable = false;
                    return self.peer_ended(key);
                }
                Ok(count) => {
                    left -= count;
                    // Less than there was room for is all there is (epoll(7), question 9), and what
                    // comes later makes an edge. Only an end that was told already makes none.
                    let drained = count < allowed && !socket.ended;
                    socket.readable = !drained;
                    self.server.received(key, &self.scratch[..count]);
                    self.apply_effects();
                    if drained {
                        return;
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    socket.readable = false;
                    return;
                }
                Err(_) => {
                    socket.readable = false;
                    self.server.connection_lost(key);
                    return self.apply_effects();
                }
            }
        }
        self.sockets.queue(key); // Readiness kept: budget spent, not WouldBlock.
    }

    /// Comes back to a client that was not allowed to send, if it is now.
    fn look_again(&mut self, key: Key) {
        let waits = self.sockets.get_mut(key).is_some_and(|socket| socket.readable);
        if waits && self.server.read_allowance(key) > 0 {
            self.sockets.queue(key);
        }
    }

    /// Writes to whoever there is something for; the rest has the next turn.
    fn flush(&mut self) {
        for _ in 0..CONNECTIONS_PER_TURN {
            let Some(key) = self.server.next_pending() else { return };
            self.write(key);
            self.apply_effects();
            self.look_again(key);
        }
    }

    /// Writes to a client, as much as a turn allows.
    fn write(&mut self, key: Key) {
        let mut left = WRITE_BYTES;
        loop {
            let Some(socket) = self.sockets.get_mut(key) else { return };
            let result = match self.server.output(key) {
                Output::Nothing => return,
                Output::Close => return self.server.connection_lost(key),
                Output::Bytes(_) if left == 0 => return self.server.requeue(key),
                Output::Bytes(parts) => socket.stream.write(parts),
            };
            match result {
                Ok(count) => {
                    left = left.saturating_sub(count);
                    self.server.sent(key, count);
                    self.apply_effects();
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return self.server.blocked(key);
                }
                Err(_) => return self.server.connection_lost(key),
            }
        }
    }

    // The end.

    /// Leaves nothing behind: no process, no file, and no thread that does not hang.
    fn end(mut self, end: End) -> End {
        self.listeners.clear();
        if end == End::Cut {
            self.agents.kill_all();
        }
        self.hooks.end();
        let end = self.end_disk(end);
        // After an end in order each session was swept when its agent ended.
        let left = self.agents.sweep_all(end == End::Cut);
        if left > 0 {
            let fields = vec![("processes", left.to_string())];
            let (level, message) = (Level::Warn, "what agents left behind cannot be ended");
            self.log.line(self.now_ms, &LogLine { level, area: "agent", message, fields });
        }
        end
    }

    /// Waits until what was asked of the disk threads is done: for as long as the drain may take,
    /// and until another signal. Nobody is left to be told of it.
    fn end_disk(&mut self, end: End) -> End {
        let now_ms = self.clock.now_ms();
        let last_ms = now_ms + LAST_WRITES_MS;
        let end_at = match end {
            End::Clean | End::Unwritten => self.server.drain_due().unwrap_or(last_ms),
            End::Cut => last_ms,
        };
        let chores_end_at = end_at.min(now_ms + CHORES_MS);
        self.disk.close();
        loop {
            let now_ms = self.clock.now_ms();
            let (journals, chores) = self.disk.have_ended();
            if journals && (chores || now_ms >= chores_end_at) {
                return end;
            }
            let is_stop = |signal| matches!(signal, Signal::Terminate | Signal::Interrupt);
            if now_ms >= end_at || self.signals.drain().any(is_stop) {
                let message = "what the journals' disk was asked for is not done, and left";
                self.tell(Level::Error, "journal", message, Vec::new());
                return End::Cut;
            }
            let next_ms = if journals { chores_end_at } else { end_at };
            let timeout = Duration::from_millis(next_ms - now_ms);
            // A wake, a signal, or something that is no matter any more: one look each.
            let _ = self.poll.poll(&mut self.events, Some(timeout));
        }
    }
}

fn token(kind: u8, index: u32) -> Token {
    Token(Key { kind, generation: 0, index }.to_bits() as usize)
}

/// One client's socket. A slot of a table, because there may be very many that only listen.
struct Socket {
    key: Key,
    stream: Stream,
    /// There may be bytes.
    readable: bool,
    /// The poller has told of its end, or of an error: it is read until that is met.
    ended: bool,
    /// The poller has told that nothing can be sent there any more either.
    gone: bool,
    /// It is on the ready list.
    queued: bool,
}

// Debug builds of mio keep a mark of the poller in each socket.
const SOCKET_FITS: bool = size_of::<Option<Socket>>() + size_of::<Key>() <= SOCKET_SIZE;
const _: () = assert!(SOCKET_FITS || cfg!(debug_assertions));

/// The sockets by the index of their keys, and the list of those to be read from.
struct Sockets {
    /// Grows to the most that were ever open at once; never reallocated.
    slots: Vec<Option<Socket>>,
    ready: VecDeque<Key>,
}

impl Sockets {
    fn new(connections_max: u32) -> Sockets {
        let capacity = connections_max as usize;
        Sockets { slots: Vec::with_capacity(capacity), ready: VecDeque::new() }
    }

    fn insert(&mut self, key: Key, stream: Stream) {
        let index = key.index as usize;
        if index >= self.slots.len() {
            self.slots.resize_with(index + 1, || None);
        }
        debug_assert!(self.slots[index].is_none(), "the core closes before it reuses");
        self.slots[index] =
            Some(Socket { key, stream, readable: false, ended: false, gone: false, queued: false });
    }

    /// The socket, unless the connection that the key was made for is gone.
    fn get_mut(&mut self, key: Key) -> Option<&mut Socket> {
        let socket = self.slots.get_mut(key.index as usize)?.as_mut()?;
        (socket.key == key).then_some(socket)
    }

    fn remove(&mut self, key: Key) -> Option<Socket> {
        self.get_mut(key)?;
        self.slots[key.index as usize].take()
    }

    /// Puts it on the ready list, once.
    fn queue(&mut self, key: Key) {
        if let Some(socket) = self.get_mut(key)
            && !std::mem::replace(&mut socket.queued, true)
        {
            self.ready.push_back(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stream() -> Stream {
        Stream::Unix(mio::net::UnixStream::pair().unwrap().0)
    }

    #[test]
    fn a_stale_key_misses_the_newcomers_socket() {
        let old = Key { kind: KIND_CONNECTION, generation: 1, index: 2 };
        let new = Key { generation: 2, ..old };
        let mut sockets = Sockets::new(4);
        sockets.insert(old, stream());
        sockets.queue(old);
        sockets.queue(old);
        assert_eq!(sockets.ready, [old]);
        assert!(sockets.remove(old).is_some());
        sockets.insert(new, stream());
        assert!(sockets.get_mut(old).is_none() && sockets.remove(old).is_none());
        sockets.queue(old);
        sockets.queue(new);
        assert_eq!(sockets.ready, [old, new], "a stale entry hides nobody");
    }
}
