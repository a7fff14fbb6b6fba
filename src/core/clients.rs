//! Client connections at work: from the first byte to the close, and what is sent to each.
//!
//! Whoever has something to send stands in one list, and nothing is written before the turn's flush. A
//! slot is freed in one place, [`Server::close`], which leaves nothing behind: no timer, no place in a
//! list, no count. What a request asks for is `api`'s business, what a stream is sent `streams.rs`'s.

use crate::base::arena::{Arena, Key};
use crate::base::list::{Links, List};
use crate::core::addresses::AddressId;
use crate::core::connection::{
    Connection, Exchange, Flow, Output, Peer, Phase, Place, Reader, Stage, Step,
};
use crate::core::effect::Effect;
use crate::core::log::Log;
use crate::core::metrics::limit::Limit;
use crate::core::server::{REQUEST_SIZE, Server};
use crate::limits::{
    BODY_WINDOW_MS, KEPT_FROM_GROWTH, KEPT_FROM_STRANGERS, KEPT_FROM_STRANGERS_HEADS, LINGER_MS,
    POOL_MAX, SMALL_HEAD_SIZE,
};
use crate::wire::reply::{self, Status};
use ::core::net::IpAddr;

impl Server {
    // Connections.

    /// A client has connected. `None`: there is no room, hang up.
    pub fn accepted(&mut self, peer: Peer) -> Option<Key> {
        let connection = Connection {
            phase: Phase::Idle {
                due: (self.now_ms + self.limits.head_timeout_ms) as u32,
                asked: false,
                peer,
            },
            address: AddressId::NONE,
            place: Place::Nowhere,
            flow: Flow::Open,
            token: 0,
        };
        let Ok(key) = self.connections.insert(connection) else {
            self.count_refused(Limit::Connections);
            return None;
        };
        self.counters.connections_accepted += 1;
        if let Peer::Remote { address } = peer
            && !self.config.access.trusted_proxies.contains(&address)
            && !self.count_address(key, Some(address))
        {
            self.count_refused(Limit::ConnectionsPerAddress);
            self.forget(key);
            return None;
        }
        self.arm_connection(key);
        Some(key)
    }

    /// A client had to be hung up on: the system has no descriptor for it.
    pub fn turned_away(&mut self) {
        self.count_refused(Limit::OpenFiles);
    }

    /// Counts a client that was hung up on before it could ask for anything.
    fn count_refused(&mut self, limit: Limit) {
        self.counters.connections_refused += 1;
        self.counters.limits.hit(limit);
    }

    /// Counts a connection under this address from now on. Returns whether there is room.
    pub(super) fn count_address(&mut self, key: Key, address: Option<IpAddr>) -> bool {
        let Some(connection) = self.connections.get_mut(key) else { return true };
        if self.addresses.get(connection.address) == address {
            return true;
        }
        let before = std::mem::take(&mut connection.address);
        self.addresses.leave(before);
        let Some(address) = address else { return true };
        let (id, count) = self.addresses.enter(address);
        connection.address = id;
        let fits = count <= self.limits.connections_per_address_max;
        self.counters.addresses_limited += u64::from(!fits);
        fits
    }

    /// How many bytes may be read from a client now. 0: leave them in the kernel; a client for
    /// whom there is no room is told by [`Effect::Read`] when there is.
    pub fn read_allowance(&mut self, key: Key) -> usize {
        let has_room = self.has_room_for(key);
        let Some(connection) = self.connections.get(key) else { return 0 };
        match &connection.phase {
            Phase::Idle { .. } if has_room => return self.limits.head_size_max + 1,
            Phase::Idle { .. } if self.has_room() => return SMALL_HEAD_SIZE,
            Phase::Idle { .. } => {}
            // One that has begun is always read from, so that its client's end is noticed; if it
            // needs room that there is not, it is refused.
            Phase::Http(exchange) => {
                let allowed = exchange.read_allowance(&self.limits);
                return if has_room { allowed } else { allowed.min(exchange.watch_allowance()) };
            }
            // Whatever a reader sends ends its stream: a little is enough to notice.
            Phase::Stream(_) => return 512,
            Phase::Taken => return 0,
        }
        // One with something to send is looked at again when that is sent.
        if connection.place == Place::Nowhere && connection.flow != Flow::Blocked {
            self.counters.requests_deferred += 1;
            self.counters.limits.hit(Limit::Requests);
            if let Some(connection) = self.connections.get_mut(key) {
                connection.place = Place::Starved;
            }
            self.starved.push_back(&mut self.links, key.index);
        }
        0
    }

    /// Hangs up on a client for whose request there was no room all the time, and says so.
    pub(super) fn turn_away(&mut self, key: Key) {
        self.unlink(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Idle { peer, .. } = connection.phase else { return };
        let mut exchange = self.exchanges.pop().unwrap_or_default();
        exchange.peer = peer;
        exchange.out.extend_from_slice(reply::NO_ROOM);
        (exchange.stage, exchange.close) = (Stage::Ending, true);
        connection.phase = Phase::Taken;
        self.counters.limits.hit(Limit::Requests);
        self.counters.limited += 1;
        self.count_answer(Status::SERVICE_UNAVAILABLE);
        self.put_exchange(key, exchange);
    }

    /// Whether one more request can be taken up.
    pub(super) fn has_room(&self) -> bool {
        self.has_room_beside(0)
    }

    /// Whether this client has not shown a token where there are any.
    fn is_stranger(&self, key: Key) -> bool {
        let shown = self.connections.get(key).is_some_and(|connection| connection.token != 0);
        self.config.access.tokens.are_wanted() && !shown
    }

    /// Whether there is room for more of this client than a small head that comes whole: with one its
    /// client shows its token, or asks whether the server is well, and for those there is room longest.
    /// Where there are tokens, half of it is for those who have shown one: however many strangers there
    /// are and however slowly they take their answers, those who are in are served.
    fn has_room_for(&self, key: Key) -> bool {
        let is_stranger = self.is_stranger(key);
        self.has_room_beside(if is_stranger { KEPT_FROM_STRANGERS } else { KEPT_FROM_GROWTH })
    }

    /// Whether there is room, if so many sixteenths of all are kept for others.
    pub(super) fn has_room_beside(&self, kept: usize) -> bool {
        self.room_beside(kept) >= REQUEST_SIZE
    }

    fn room_beside(&self, kept: usize) -> usize {
        let whole = self.limits.requests_size_max;
        (whole - whole / 16 * kept).saturating_sub(self.requests_size)
    }

    /// Comes back to clients for whom there was no room, as far as there is now.
    pub(super) fn feed_starved(&mut self) {
        for _ in 0..self.room_beside(0) / REQUEST_SIZE {
            let Some(index) = self.starved.pop_front(&mut self.links) else { return };
            if let Some(key) = self.connections.key_at(index)
                && let Some(connection) = self.connections.get_mut(key)
            {
                connection.place = Place::Nowhere;
                self.effects.push_back(Effect::Read(key));
            }
        }
    }

    /// A client sent bytes: no more than it was allowed.
    pub fn received(&mut self, key: Key, bytes: &[u8]) {
        let is_small = match self.connections.get(key).map(|connection| &connection.phase) {
            Some(Phase::Idle { .. }) => bytes.len() <= SMALL_HEAD_SIZE,
            Some(Phase::Http(exchange)) => exchange.has_small_head(bytes.len()),
            _ => false,
        };
        let has_room = self.has_room_for(key) || is_small && self.has_room();
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Phase::Idle { peer, .. } = connection.phase {
            let mut exchange = self.exchanges.pop().unwrap_or_default();
            exchange.peer = peer;
            connection.phase = Phase::Http(exchange);
        }
        let grows = matches!(&connection.phase, Phase::Http(exchange)
            if !exchange.input.is_empty() && matches!(exchange.stage, Stage::Head | Stage::Body));
        if grows && !has_room {
            return self.refuse_growth(key);
        }
        let Some(connection) = self.connections.get_mut(key) else { return };
        match &mut connection.phase {
            Phase::Http(exchange) => {
                if exchange.awaits_head() {
                    exchange.due = self.now_ms + self.limits.head_timeout_ms;
                }
                if exchange.stage == Stage::Lingering {
                    return;
                }
                exchange.received += bytes.len() as u64;
                exchange.input.extend_from_slice(bytes);
                self.advance_with(key, has_room);
                self.refuse_dawdler(key);
            }
            // A stream ends with its client's next byte.
            Phase::Stream(_) => self.close_reader(key),
            Phase::Idle { .. } | Phase::Taken => {
                debug_assert!(false, "bytes for a connection that is being worked on");
            }
        }
    }

    /// A head that has not come whole takes room, too: where there is none to wait for its rest, it is
    /// refused.
    fn refuse_dawdler(&mut self, key: Key) {
        let connection = self.connections.get(key).map(|connection| &connection.phase);
        let Some(Phase::Http(exchange)) = connection else { return };
        if exchange.awaits_rest() {
            let is_small = exchange.has_small_head(0);
            let waits = is_small && self.has_room_beside(KEPT_FROM_STRANGERS_HEADS);
            if !waits && !self.has_room_for(key) {
                self.refuse_growth(key);
            }
        }
    }

    /// A request that has begun needs room that there is not.
    fn refuse_growth(&mut self, key: Key) {
        let Some(mut exchange) = self.take_exchange(key) else { return };
        if exchange.has_body_apart() {
            // Nothing may stand before the rest of that body: it is the last there is.
            (exchange.stage, exchange.close) = (Stage::Ending, true);
        } else {
            self.refuse_request(&mut exchange);
        }
        exchange.input = Vec::new(); // That is room for others.
        self.put_exchange(key, exchange);
    }

    /// A client has sent its last byte. A request that is whole still gets its answer.
    pub fn peer_ended(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        // A stream, or one between two requests, ends with its client.
        let exchange = match &mut connection.phase {
            Phase::Http(exchange) => exchange,
            Phase::Stream(_) => {
                self.close_reader(key);
                let connection = self.connections.get_mut(key);
                if let Some(Phase::Http(exchange)) = connection.map(|it| &mut it.phase) {
                    exchange.ended = true;
                }
                return;
            }
            Phase::Idle { .. } | Phase::Taken => return self.close(key),
        };
        exchange.ended = true;
        // One on another machine may as well have gone, and nothing would ever say so: it is told
        // now what there is, and holds no place for nobody.
        if exchange.stage == Stage::Waiting && matches!(exchange.peer, Peer::Remote { .. }) {
            return self.wait_no_longer(key);
        }
        // Whole requests are worked on as they come in: what is left of the input is none.
        let over = match exchange.stage {
            Stage::Head | Stage::Body => !exchange.has_output(),
            Stage::Lingering => true,
            Stage::Waiting | Stage::Held | Stage::Ending => false,
        };
        if over {
            self.close(key);
        }
    }

    /// A client is gone.
    pub fn connection_lost(&mut self, key: Key) {
        self.close(key);
    }

    /// Works on a connection's input as far as it goes.
    pub(super) fn advance(&mut self, key: Key) {
        self.advance_with(key, false);
    }

    /// The same; for the first request that is whole there was room when its last bytes came. One
    /// behind it, whose answer there is no room for, is refused.
    fn advance_with(&mut self, key: Key, mut had_room: bool) {
        loop {
            let Some(mut exchange) = self.take_exchange(key) else { return };
            let step = exchange.step(&self.limits);
            self.count_exchange(&mut exchange);
            match step {
                Step::More => {
                    if exchange.is_newly_held_back(&self.limits) {
                        self.counters.limits.hit(Limit::Pipeline);
                    }
                    if exchange.is_newly_in_body() {
                        if self.refuse_early(key, &mut exchange) {
                            return self.put_exchange(key, exchange);
                        }
                        exchange.invite_body();
                    }
                    self.update_exchange_due(&mut exchange);
                    let over = self.bodies_size > self.limits.bodies_size_max
                        && exchange.stage == Stage::Body;
                    if over {
                        self.refuse_body(&mut exchange);
                    }
                    let gone = exchange.ended
                        && matches!(exchange.stage, Stage::Head | Stage::Body)
                        && !exchange.has_output();
                    self.put_exchange(key, exchange);
                    if gone {
                        self.close(key);
                    }
                    return;
                }
                Step::Bad(bad) => {
                    self.answer_bad(&mut exchange, bad);
                    exchange.close = true;
                    exchange.stage = Stage::Ending;
                    self.put_exchange(key, exchange);
                    return;
                }
                Step::Request if !std::mem::take(&mut had_room) && !self.has_room_for(key) => {
                    self.refuse_request(&mut exchange);
                    exchange.input = Vec::new(); // That is room for others.
                    self.put_exchange(key, exchange);
                    return;
                }
                Step::Request => {
                    self.counters.requests += 1;
                    if !self.answer(key, exchange) {
                        return;
                    }
                }
            }
        }
    }

    /// Takes a connection's exchange out, to work on it beside everything else.
    pub(super) fn take_exchange(&mut self, key: Key) -> Option<Box<Exchange>> {
        let connection = self.connections.get_mut(key)?;
        match std::mem::replace(&mut connection.phase, Phase::Taken) {
            Phase::Http(exchange) => Some(exchange),
            other => {
                connection.phase = other;
                None
            }
        }
    }

    /// Puts it back, and sees to its output and its deadline.
    pub(super) fn put_exchange(&mut self, key: Key, mut exchange: Box<Exchange>) {
        let Some(connection) = self.connections.get_mut(key) else {
            return self.recycle(exchange);
        };
        let has_output = exchange.has_output() && exchange.stage != Stage::Held;
        let is_last = exchange.stage == Stage::Ending || exchange.is_idle();
        let over = exchange.close && !exchange.has_output() && is_last;
        if exchange.is_idle() && !exchange.close && !exchange.ended {
            let (due, peer) = (exchange.due as u32, exchange.peer);
            connection.phase = Phase::Idle { due, asked: true, peer };
            self.recycle(exchange);
            return self.arm_connection(key);
        }
        self.count_exchange(&mut exchange);
        let Some(connection) = self.connections.get_mut(key) else { return };
        connection.phase = Phase::Http(exchange);
        if has_output {
            self.push_pending(key);
        }
        self.arm_connection(key);
        if over {
            self.end_exchange(key);
        }
    }

    /// Counts what an exchange takes now.
    fn count_exchange(&mut self, exchange: &mut Exchange) {
        let (before, now) = (exchange.counted, exchange.memory());
        exchange.counted = now;
        self.requests_size = self.requests_size + now.0 - before.0;
        self.bodies_size = self.bodies_size + now.1 - before.1;
    }

    /// Gives an exchange back to the pool.
    pub(super) fn recycle(&mut self, mut exchange: Box<Exchange>) {
        self.requests_size -= exchange.counted.0;
        self.bodies_size -= exchange.counted.1;
        if exchange.drop_tail() {
            self.tails.release();
        }
        if self.exchanges.len() < POOL_MAX {
            exchange.reset();
            self.exchanges.push(exchange);
        }
    }

    /// Forgets the request that was answered. What has come of the next one has its own time from now
    /// on: while it waited its client could do nothing about it.
    pub(super) fn next_request(&mut self, exchange: &mut Exchange) {
        exchange.next_request();
        let limits = &self.limits;
        let is_begun = !exchange.awaits_head();
        exchange.due =
            self.now_ms + if is_begun { limits.head_timeout_ms } else { limits.keep_alive_ms };
        if exchange.close {
            exchange.stage = Stage::Ending;
        }
    }

    fn update_exchange_due(&mut self, exchange: &mut Exchange) {
        let limits = &self.limits;
        match exchange.stage {
            Stage::Head if exchange.input.is_empty() => {
                exchange.due = self.now_ms + limits.keep_alive_ms;
            }
            Stage::Body => {
                // From the end of the head, once: bytes do not buy more time. Sooner, the rate
                // is looked at.
                if exchange.body_due.is_none() {
                    exchange.body_due = Some(self.now_ms + limits.body_timeout_ms);
                    exchange.received_before = exchange.received;
                    exchange.due = self.now_ms + BODY_WINDOW_MS.min(limits.body_timeout_ms);
                }
            }
            Stage::Head | Stage::Waiting | Stage::Held | Stage::Ending | Stage::Lingering => {}
        }
    }

    /// Everything is sent that will be: linger if the client may still be sending, else close.
    fn end_exchange(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let Phase::Http(exchange) = &mut connection.phase else { return };
        if exchange.ended {
            return self.close(key);
        }
        exchange.stage = Stage::Lingering;
        exchange.input.clear();
        exchange.due = self.now_ms + LINGER_MS;
        self.effects.push_back(Effect::EndOutput(key));
        self.arm_connection(key);
    }

    /// Closes a connection and frees its slot; its key is stale from here on.
    pub(super) fn close(&mut self, key: Key) {
        if self.forget(key) {
            self.effects.push_back(Effect::Close(key));
        }
    }

    /// Frees a connection's slot. Returns whether there was one.
    fn forget(&mut self, key: Key) -> bool {
        self.unlink(key);
        let Some(connection) = self.connections.remove(key) else { return false };
        self.wheel.cancel(key.index);
        self.counters.connections_closed += 1;
        self.addresses.leave(connection.address);
        match connection.phase {
            Phase::Http(exchange) => {
                if exchange.stage == Stage::Waiting {
                    self.forget_wait(key);
                }
                self.recycle(exchange);
            }
            Phase::Stream(reader) => self.forget_reader(reader),
            Phase::Idle { .. } | Phase::Taken => {}
        }
        true
    }

    /// Takes a reader out of its log's counts, and its memory back.
    fn forget_reader(&mut self, mut reader: Reader) {
        self.counters.streams_closed += 1;
        self.pieces.recycle(reader.past_mut().and_then(|past| past.take_piece()));
        self.recycle_rare(reader.rare.take());
        let log = match reader.whose.session() {
            None => Some(&mut self.publisher.all),
            Some(session) => self.sessions.at_mut(session).map(|s| &mut s.feed.log),
        };
        if let Some(log) = log {
            log.readers -= 1;
            log.listeners -= u32::from(reader.filter.listens());
        }
    }

    /// Ends a stream whose log or whose client goes away. What it has beside the log still goes:
    /// answers to the requests before it may be among that.
    pub(super) fn close_reader(&mut self, key: Key) {
        let reader = self.connections.get(key).map(|connection| &connection.phase);
        let own = match reader {
            Some(Phase::Stream(reader)) if !reader.own().is_empty() => reader.own().to_vec(),
            _ => return self.close(key),
        };
        self.unlink(key);
        let Some(connection) = self.connections.get_mut(key) else { return };
        if let Phase::Stream(reader) = std::mem::replace(&mut connection.phase, Phase::Taken) {
            self.forget_reader(reader);
        }
        let mut exchange = self.exchanges.pop().unwrap_or_default();
        (exchange.out, exchange.blocked_at) = (own, self.now_ms);
        (exchange.stage, exchange.close) = (Stage::Ending, true);
        self.put_exchange(key, exchange);
    }

    // Output.

    /// Takes a connection out of the list that it is in.
    pub(super) fn unlink(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        let place = std::mem::replace(&mut connection.place, Place::Nowhere);
        let session = match &connection.phase {
            Phase::Stream(reader) => reader.whose.session(),
            Phase::Idle { .. } | Phase::Http(_) | Phase::Taken => None,
        };
        match place {
            Place::Nowhere | Place::Reading => {}
            Place::Pending => self.pending.remove(&mut self.links, key.index),
            Place::Starved => self.starved.remove(&mut self.links, key.index),
            Place::Waiting => {
                let log = match session {
                    None => Some(&mut self.publisher.all),
                    Some(session) => self.sessions.at_mut(session).map(|s| &mut s.feed.log),
                };
                if let Some(log) = log {
                    log.waiting.remove(&mut self.links, key.index);
                }
            }
        }
    }

    /// Puts a connection on the list of those with something to send, unless it is blocked.
    pub(super) fn push_pending(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.flow == Flow::Blocked || connection.place == Place::Pending {
            return;
        }
        self.unlink(key);
        if let Some(connection) = self.connections.get_mut(key) {
            connection.place = Place::Pending;
            self.pending.push_back(&mut self.links, key.index);
        }
    }

    /// The next connection with something to send. It leaves the list; [`Server::output`],
    /// [`Server::sent`] and [`Server::blocked`] say how it goes on.
    pub fn next_pending(&mut self) -> Option<Key> {
        let index = self.pending.pop_front(&mut self.links)?;
        let key = self.connections.key_at(index).expect("a closed connection is in no list");
        if let Some(connection) = self.connections.get_mut(key) {
            connection.place = Place::Nowhere;
        }
        Some(key)
    }

    /// What to write to a client now.
    pub fn output(&mut self, key: Key) -> Output<'_> {
        match self.connections.get(key).map(|connection| &connection.phase) {
            None | Some(Phase::Idle { .. } | Phase::Taken) => Output::Nothing,
            Some(Phase::Http(exchange)) if exchange.stage == Stage::Held => Output::Nothing,
            Some(Phase::Http(exchange)) => {
                if exchange.wants_piece() {
                    self.want_piece_of_tail(key);
                }
                let exchange = self.connections.get(key).map(|connection| &connection.phase);
                if matches!(exchange, Some(Phase::Http(exchange)) if exchange.has_bytes()) {
                    return match self.connections.get(key).map(|connection| &connection.phase) {
                        Some(Phase::Http(exchange)) => Output::Bytes(exchange.output()),
                        _ => Output::Nothing,
                    };
                }
                Output::Nothing
            }
            Some(Phase::Stream(_)) => self.stream_output(key),
        }
    }

    /// The kernel took this many bytes of the last [`Server::output`].
    pub fn sent(&mut self, key: Key, count: usize) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if count > 0 {
            connection.flow = Flow::Open;
        }
        match &mut connection.phase {
            Phase::Idle { .. } | Phase::Taken => {}
            Phase::Stream(_) => self.stream_sent(key, count),
            Phase::Http(exchange) => {
                exchange.sent(count);
                if exchange.take_spent() {
                    self.tails.release();
                }
                if exchange.has_output() {
                    return;
                }
                match exchange.stage {
                    Stage::Ending => self.end_exchange(key),
                    // Pipelined requests wait until the client has taken the replies.
                    _ => self.advance(key),
                }
            }
        }
    }

    /// Nothing more goes out now, but there is more: come back to it after the others.
    pub fn requeue(&mut self, key: Key) {
        self.push_pending(key);
    }

    /// The kernel takes nothing now.
    pub fn blocked(&mut self, key: Key) {
        self.unlink(key);
        self.give_back_piece(key); // Others can use it; it is read again when there is room.
        self.give_back_tail(key);
        let now_ms = self.now_ms;
        let Some(connection) = self.connections.get_mut(key) else { return };
        if std::mem::replace(&mut connection.flow, Flow::Blocked) == Flow::Open {
            match &mut connection.phase {
                Phase::Stream(reader) => reader.touch(now_ms),
                Phase::Http(exchange) => {
                    exchange.blocked_at = now_ms;
                    exchange.watch_pace(now_ms);
                }
                Phase::Idle { .. } | Phase::Taken => {}
            }
        }
        self.arm_connection(key);
    }

    /// The kernel takes bytes again.
    pub fn writable(&mut self, key: Key) {
        let Some(connection) = self.connections.get_mut(key) else { return };
        if connection.flow == Flow::Blocked {
            connection.flow = Flow::Retried;
            self.push_pending(key);
        }
    }

    // Waiting for the commit.

    /// Moves everybody who waits at a log to the pending list.
    pub(super) fn wake(
        log: &mut Log,
        connections: &mut Arena<Connection>,
        links: &mut Links,
        pending: &mut List,
    ) {
        for index in log.waiting.iter(links) {
            if let Some(key) = connections.key_at(index)
                && let Some(connection) = connections.get_mut(key)
            {
                connection.place = Place::Pending;
            }
        }
        pending.append(links, &mut log.waiting);
    }

    /// Holds a complete answer back until event `seq` is visible. One about an older event than that of
    /// an answer before it waits as long as that one: all of them leave in one order.
    pub(super) fn hold(&mut self, seq: u64, key: Key) {
        let last = self.held.back().map_or(0, |(last, _)| *last);
        self.held.push_back((seq.max(last), key));
    }

    pub(super) fn release_held(&mut self) {
        let visible = self.publisher.visible();
        while let Some((seq, key)) = self.held.front().copied()
            && seq <= visible
        {
            self.held.pop_front();
            if let Some(mut exchange) = self.take_exchange(key) {
                self.next_request(&mut exchange);
                self.put_exchange(key, exchange);
                self.advance(key);
            }
        }
    }
}
