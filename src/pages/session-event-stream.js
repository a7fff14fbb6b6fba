/*!
 * session-event-stream.js: one session of sidestream as a stream of events, for browsers.
 *
 *   const stream = new SessionEventStream('session-…');
 *   const off = stream.on('session-output', (event) => console.log(event.detail.content));
 *   stream.disconnect();
 *
 * Promises: every event reaches a listener once and in order, across lost connections, sleeping
 * phones and server restarts; a hole is told by a `gap` event, never silent; instances for one
 * session in one page share one connection (a browser opens six per host, for all its tabs);
 * a refusal that time will not cure ends the stream with a reason instead of retrying for ever.
 *
 * Does not know: what the events mean (but for `session-closed`), other tabs, how to send.
 *
 * Plain <script src> sets `SessionEventStream`; as a module use session-event-stream.mjs.
 * No dependencies. Types stand in session-event-stream.d.ts.
 */
(() => {
  'use strict';
  if (globalThis.SessionEventStream) return;

  /** The server's event names. An EventSource is told names one by one; `.on(name)` adds others. */
  const EVENT_NAMES = [
    'session-created', 'session-status', 'session-closed', 'session-output', 'message-block',
    'tool-started', 'tool-progress', 'tool-completed', 'todos-updated',
    'subagent-started', 'subagent-completed', 'operations-detected', 'agent-event',
    'prompt-queued', 'prompt-started', 'prompt-completed', 'prompt-failed', 'prompt-cancelled',
    'approval-required', 'approval-resolved', 'approval-withdrawn',
    'session-error', 'session-stalled', 'agent-retry', 'events-lost',
  ];
  /** Frames about the stream itself. They have no id of their own, so they are never repeats. */
  const CONTROL_NAMES = ['connected', 'replay-complete', 'heartbeat', 'server-busy', 'server-shutdown'];
  const WIRE_NAMES = [...EVENT_NAMES, ...CONTROL_NAMES];

  /** What a late joiner can be given, in characters: the server's own default for replay. */
  const BUFFER_SIZE_MAX = 256 * 1024;
  /** Ids remembered against repeats. A replay of 256 KiB holds fewer frames than this. */
  const SEEN_IDS_MAX = 4096;
  /** A server may ask us to wait; beyond this it is a mistake, not a wish. */
  const RETRY_AFTER_MAX_MS = 10 * 60 * 1000;
  /** A late timer is not yet a dead stream: slack on the heartbeat interval after a wake-up. */
  const WAKE_SLACK_MS = 5000;

  /** Answers that no retry will change. Everything else is tried again. */
  const FINAL_REASONS = { 401: 'unauthorized', 403: 'forbidden', 404: 'not-found', 410: 'gone' };

  const DEFAULTS = {
    baseUrl: undefined, heartbeatTimeout: 45000, reconnectDelay: 1000, maxReconnectDelay: 30000,
    connectTimeout: 15000, types: undefined, replay: undefined, lastEventId: undefined,
    heartbeat: undefined, share: true, token: undefined,
  };

  /** Where the server is: this file is served as BASE/js/session-event-stream.js. */
  const SCRIPT_BASE = globalThis.document?.currentScript?.src
    ? new URL('..', document.currentScript.src).href
    : undefined;

  class SessionStreamEvent extends CustomEvent {
    constructor(type, detail, lastEventId = '', rawData = undefined) {
      super(type, { detail });
      /** The same as `detail`, under the name a MessageEvent has. Shared between listeners. */
      this.data = detail;
      /** The id of the newest event told so far: the cursor to resume from. */
      this.lastEventId = lastEventId;
      /** The `data:` text as it came, or undefined for what this library itself tells. */
      this.rawData = rawData;
    }
  }

  // ---- Transports: bytes to frames. Both call frame(name, text, lastEventId) and end(status?).

  /** The browser's EventSource, less its own retries: we own those, to see and to pace them. */
  class EventSourceTransport {
    constructor(url, names, sink) {
      this.source = new EventSource(url);
      this.sink = sink;
      this.names = new Set();
      for (const name of names) this.listen(name);
      this.source.onerror = () => {
        const refused = this.source.readyState === EventSource.CLOSED;
        this.close();
        sink.end(refused);
      };
    }
    listen(name) {
      if (this.names.has(name)) return;
      this.names.add(name);
      this.source.addEventListener(name, (event) => {
        // The browser's own error events share the name space; only messages carry data.
        if (typeof event.data === 'string') this.sink.frame(name, event.data, event.lastEventId);
      });
    }
    close() {
      this.source.onerror = null;
      this.source.close();
    }
  }

  /** fetch, for streams with a token: an EventSource cannot send an Authorization header. */
  class FetchTransport {
    constructor(url, token, sink) {
      this.abort = new AbortController();
      this.sink = sink;
      this.run(url, token);
    }
    listen() {} // Sees every name anyway.
    close() {
      this.sink = null;
      this.abort.abort();
    }
    async run(url, token) {
      try {
        const response = await fetch(url, {
          headers: { Accept: 'text/event-stream', Authorization: `Bearer ${token}` },
          cache: 'no-store', signal: this.abort.signal,
        });
        const type = response.headers.get('Content-Type') ?? '';
        if (response.status !== 200 || !type.startsWith('text/event-stream')) {
          this.abort.abort();
          this.sink?.end(true);
          return;
        }
        const parser = new FrameParser((name, text, id) => this.sink?.frame(name, text, id));
        const reader = response.body.getReader();
        for (let part = await reader.read(); !part.done; part = await reader.read()) {
          parser.push(part.value);
        }
      } catch { /* Cut, refused or aborted: the end is all that matters. */ }
      this.sink?.end(false);
    }
  }

  /** The event stream grammar of the HTML standard (9.2.6), fed in pieces of any size. */
  class FrameParser {
    constructor(deliver) {
      this.deliver = deliver;
      this.decoder = new TextDecoder(); // Strips the one BOM that the grammar allows.
      this.rest = '';
      this.lastId = '';
      this.clear();
    }
    clear() {
      this.name = '';
      this.data = [];
    }
    push(bytes) {
      this.rest += this.decoder.decode(bytes, { stream: true });
      // A CR at the very end may be half of a CRLF: it waits for the next piece.
      const held = this.rest.endsWith('\r') ? 1 : 0;
      const lines = this.rest.slice(0, this.rest.length - held).split(/\r\n|\n|\r/);
      this.rest = lines.pop() + (held ? '\r' : '');
      for (const line of lines) this.line(line);
    }
    line(line) {
      if (line === '') {
        if (this.data.length > 0) this.deliver(this.name || 'message', this.data.join('\n'), this.lastId);
        this.clear();
        return;
      }
      const colon = line.indexOf(':');
      const field = colon < 0 ? line : line.slice(0, colon);
      let value = colon < 0 ? '' : line.slice(colon + 1);
      if (value.startsWith(' ')) value = value.slice(1);
      if (field === 'data') this.data.push(value);
      else if (field === 'event') this.name = value;
      else if (field === 'id' && !value.includes('\0')) this.lastId = value;
    }
  }

  // ---- The connection: one per session, base and URL options; any number of instances on it.

  /** Open connections by what they were opened for. Emptied by the last instance that leaves. */
  const shared = new Map();
  /** All connections not closed, for the page-wide wake-up events. */
  const live = new Set();

  class Connection {
    constructor(key, options) {
      this.key = key;
      this.options = options;
      this.instances = new Set(); // Joined: they get what arrives.
      this.waiting = new Set(); // Not yet: they join at the next `connected`.
      this.state = 'connecting';
      this.cursor = options.lastEventId ?? '';
      this.seen = new Set();
      this.buffer = [];
      this.bufferSize = 0;
      this.cut = false; // The buffer no longer reaches back to where this connection began.
      this.connected = null; // The detail of the last `connected`, kept true by track().
      this.origin = null; // What the server said where the buffer begins.
      this.replayed = false;
      this.extraNames = new Set();
      this.attempts = 0; // Failed tries since a connection that stayed open.
      this.notBefore = 0; // The server asked not to be called before (wall clock, ms).
      this.openedAt = 0;
      this.transport = null;
      this.retryTimer = 0;
      this.silenceTimer = 0;
      live.add(this);
      this.open();
    }

    // -- life

    open() {
      clearTimeout(this.retryTimer);
      this.retryTimer = 0;
      this.notBefore = 0;
      this.opened = false;
      const sink = {
        frame: (name, text, id) => this.transport?.sinkIs(sink) && this.frame(name, text, id),
        end: (refused) => this.transport?.sinkIs(sink) && this.ended(refused),
      };
      const url = this.url();
      const names = [...WIRE_NAMES, ...this.extraNames];
      const token = this.token();
      const inner = token ? new FetchTransport(url, token, sink) : new EventSourceTransport(url, names, sink);
      // A closed transport may still have a frame in flight; only the present one is heard.
      this.transport = {
        sinkIs: (other) => other === sink,
        listen: (name) => inner.listen(name),
        close: () => inner.close(),
      };
      this.heard();
      this.armSilence(this.options.connectTimeout);
    }

    token() {
      const { token } = this.options;
      return typeof token === 'function' ? token() : token;
    }

    url() {
      const { types, replay, heartbeat } = this.options;
      const query = new URLSearchParams();
      if (this.cursor) query.set('lastEventId', this.cursor);
      if (types) query.set('types', types);
      if (replay !== undefined) query.set('replay', replay);
      if (heartbeat !== undefined) query.set('heartbeat', heartbeat);
      const text = query.toString();
      return this.path('events') + (text ? `?${text}` : '');
    }

    path(leaf) {
      return `${this.options.baseUrl}/api/session/${encodeURIComponent(this.options.sessionId)}/${leaf}`;
    }

    drop() {
      clearTimeout(this.silenceTimer);
      this.silenceTimer = 0;
      this.transport?.close();
      this.transport = null;
    }

    /** The transport is gone. `refused`: the answer was no stream, so ask why before retrying. */
    async ended(refused) {
      this.drop();
      this.setState('reconnecting');
      if (!refused) return this.retry();
      const verdict = await this.askStatus();
      // While we asked, the last instance may have left, or a wake-up may have reconnected.
      if (this.state === 'closed' || this.transport) return undefined;
      if (verdict.reason) return this.close(verdict);
      return this.retry();
    }

    async askStatus() {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(), this.options.connectTimeout);
      try {
        const token = this.token();
        const response = await fetch(this.path('status'), {
          headers: token ? { Authorization: `Bearer ${token}` } : {},
          cache: 'no-store', signal: abort.signal,
        });
        const reason = FINAL_REASONS[response.status];
        if (!reason) {
          this.askToWait(Number(response.headers.get('Retry-After')) * 1000);
          return {};
        }
        const body = await response.json().catch(() => ({}));
        return { reason, status: response.status, error: body?.error, code: body?.code };
      } catch {
        return {};
      } finally {
        clearTimeout(timer);
      }
    }

    askToWait(delayMs) {
      if (!(delayMs > 0)) return;
      this.notBefore = Math.max(this.notBefore, Date.now() + Math.min(delayMs, RETRY_AFTER_MAX_MS));
    }

    /** The first try follows at once; each further one waits twice as long, half of it random. */
    retry() {
      if (this.state === 'closed') return;
      const { reconnectDelay, maxReconnectDelay } = this.options;
      // Only a connection that stayed open clears the count: one that dies at once must not spin.
      const stayed = this.opened && Date.now() - this.openedAt >= 10 * reconnectDelay;
      if (stayed) this.attempts = 0;
      this.opened = false;
      const full = Math.min(maxReconnectDelay, reconnectDelay * 2 ** (this.attempts - 1));
      const backoff = this.attempts === 0 ? 0 : full / 2 + (full / 2) * Math.random();
      const delay = Math.max(backoff, this.notBefore - Date.now());
      this.attempts += 1;
      this.schedule(delay);
    }

    schedule(delay) {
      clearTimeout(this.retryTimer);
      this.retryTimer = setTimeout(() => {
        this.retryTimer = 0;
        if (!this.offline()) this.open(); // Else `online` calls wake().
      }, delay);
      const delayMs = Math.round(delay);
      console.info(`[SessionEventStream] ${this.options.sessionId}: reconnecting in ${delayMs} ms, try ${this.attempts}`);
      this.tell('reconnect-scheduled', { delayMs, attempt: this.attempts });
    }

    /** Without a network there is nothing to try, except on this machine itself. */
    offline() {
      if (globalThis.navigator?.onLine !== false) return false;
      const host = new URL(this.options.baseUrl).hostname;
      return !/^(localhost|.*\.localhost|127(\.\d+){3}|\[::1\])$/.test(host);
    }

    /** The page came back (or the network did): look at once, do not wait for a slowed timer. */
    wake(restored) {
      if (this.state === 'closed') return;
      if (this.transport) {
        const promised = Number(this.connected?.heartbeatInterval) || 0; // Milliseconds.
        const allowed = promised >= 1000 ? promised + WAKE_SLACK_MS : this.options.heartbeatTimeout;
        const limit = this.opened
          ? Math.min(this.options.heartbeatTimeout, allowed)
          : this.options.connectTimeout;
        if (restored || this.silenceMs() >= limit) this.stale();
      } else if (this.state === 'reconnecting' && !this.offline()) {
        const wait = this.notBefore - Date.now();
        if (wait <= 0) this.open();
        else if (!this.retryTimer) this.schedule(wait);
      }
    }

    close(detail) {
      if (this.state === 'closed') return;
      this.drop();
      clearTimeout(this.retryTimer);
      live.delete(this);
      if (shared.get(this.key) === this) shared.delete(this.key);
      this.state = 'closed';
      const members = [...this.waiting, ...this.instances];
      this.waiting.clear();
      this.instances.clear();
      this.buffer = [];
      for (const member of members) member._closed(detail);
    }

    setState(state) {
      if (this.state === state || this.state === 'closed') return;
      this.state = state;
      for (const member of [...this.instances]) member._setState(state);
      for (const member of [...this.waiting]) if (state !== 'open') member._setState(state);
    }

    tell(name, detail) {
      for (const member of [...this.waiting, ...this.instances]) member._tell(name, detail);
    }

    // -- silence

    heard() {
      this.heardWall = Date.now();
      this.heardSteady = performance.now();
    }

    /** Wall time runs on while the machine sleeps, steady time survives a clock set back. */
    silenceMs() {
      return Math.max(Date.now() - this.heardWall, performance.now() - this.heardSteady);
    }

    /** One timer, not reset by every frame: when it fires it looks how long the silence really is. */
    armSilence(limit, wait = limit) {
      clearTimeout(this.silenceTimer);
      this.silenceTimer = setTimeout(() => {
        const left = limit - this.silenceMs();
        if (left > 0) this.armSilence(limit, left);
        else this.stale();
      }, wait);
    }

    stale() {
      this.tell('stale', { silenceMs: Math.round(this.silenceMs()) });
      if (this.state === 'closed') return; // A listener left.
      this.drop();
      this.setState('reconnecting');
      this.retry();
    }

    // -- frames

    frame(name, text, id) {
      this.heard();
      if (id) this.cursor = id;
      let detail = null;
      try {
        detail = JSON.parse(text);
      } catch { /* Not ours to repair: listeners still get rawData. */ }
      if (name === 'connected') return this.onConnected(detail ?? {}, text);
      if (name === 'server-busy' || name === 'server-shutdown') this.askToWait(detail?.retryAfterMs);
      if (CONTROL_NAMES.includes(name)) {
        if (name === 'replay-complete') this.replayed = true;
        return this.deliver({ name, detail, text, id: this.cursor });
      }
      return this.event({ name, detail, text, id });
    }

    onConnected(detail, text) {
      this.opened = true;
      this.openedAt = Date.now();
      this.armSilence(this.options.heartbeatTimeout);
      const gap = detail.resume === 'gap';
      const first = !this.origin;
      if (!first) console.info(`[SessionEventStream] ${this.options.sessionId}: reconnected, resume ${detail.resume}`);
      if (gap || first) {
        // From here on the server replays anew; what came before is not what a joiner would get.
        this.buffer = [];
        this.bufferSize = 0;
        this.cut = !first;
        this.origin = detail;
      }
      this.connected = { ...detail };
      this.replayed = false;
      this.deliver({ name: 'connected', detail, text, id: this.cursor });
      if (gap) for (const member of [...this.instances]) member._tell('gap', gapOf(detail));
      this.setState('open');
      for (const member of [...this.waiting]) this.join(member, first ? { detail, text } : undefined);
    }

    event(frame) {
      this.keep(frame);
      if (this.replayed) this.track(frame);
      if (frame.id && this.seen.has(frame.id)) return;
      if (frame.id) {
        this.seen.add(frame.id);
        if (this.seen.size > SEEN_IDS_MAX) this.seen.delete(this.seen.values().next().value);
      }
      this.deliver(frame);
      const closes = frame.name === 'session-closed'
        && (frame.detail?.sessionId ?? this.options.sessionId) === this.options.sessionId;
      if (closes) this.close({ reason: 'session-closed', status: null });
    }

    keep(frame) {
      if (!this.options.share) return;
      this.buffer.push(frame);
      this.bufferSize += frameSize(frame);
      let drop = 0;
      while (this.bufferSize > BUFFER_SIZE_MAX) this.bufferSize -= frameSize(this.buffer[drop++]);
      if (drop > 0) {
        this.buffer.splice(0, drop);
        this.cut = true;
      }
    }

    /** Keeps what a joiner is told in `connected` as true as its own would have been. */
    track({ name, detail }) {
      const told = this.connected;
      if (name === 'session-status' && detail?.status) told.status = detail.status;
      if (name.startsWith('prompt-')) delete told.queue; // Unknown beats wrong.
      if (name.startsWith('approval-') && Array.isArray(told.pendingApprovals)) {
        const others = told.pendingApprovals.filter((id) => id !== detail?.approvalId);
        told.pendingApprovals = name === 'approval-required' ? [...others, detail?.approvalId] : others;
      }
    }

    deliver(frame) {
      for (const member of [...this.instances]) member._frame(frame);
    }

    // -- instances

    /** Whether the buffer holds all that a connection of the newcomer's own would bring. */
    canJoin() {
      const { replay, lastEventId } = this.options;
      const wantsAll = Boolean(lastEventId) || replay === 'all';
      return !(this.cut && wantsAll);
    }

    add(member) {
      this.waiting.add(member);
      for (const name of member._names) this.listen(name);
      // In its own task, so that listeners added after `new` miss nothing.
      if (this.state === 'open') {
        setTimeout(() => this.state === 'open' && this.waiting.has(member) && this.join(member), 0);
      }
    }

    /** `connected`, the buffer, then live, in one step: nothing can arrive in between. */
    join(member, first = undefined) {
      this.waiting.delete(member);
      const detail = first?.detail ?? this.detailForJoiner();
      const backlog = this.options.replay === 'none' && !this.options.lastEventId ? [] : [...this.buffer];
      const id = backlog.length > 0 ? '' : this.cursor;
      member._frame({ name: 'connected', detail, text: first?.text ?? JSON.stringify(detail), id });
      if (detail.resume === 'gap') member._tell('gap', gapOf(detail));
      member._setState('open');
      for (const frame of backlog) member._frame(frame);
      if (this.replayed) {
        const count = { count: backlog.length, joined: true };
        member._frame({ name: 'replay-complete', detail: count, text: JSON.stringify(count), id: this.cursor });
      }
      if (member.state !== 'closed') this.instances.add(member); // A listener may have left.
    }

    /** The `connected` that a connection of the joiner's own would have been given now. */
    detailForJoiner() {
      const asked = Boolean(this.options.lastEventId); // Else the joiner has no cursor to lose.
      const detail = { ...this.connected, joined: true, latestId: this.cursor || null };
      detail.resume = asked ? this.origin.resume : 'fresh';
      detail.missed = asked ? this.origin.missed : undefined;
      // A filter hides what keeps these true: unknown beats wrong.
      if (this.options.types) for (const name of ['status', 'queue', 'pendingApprovals']) delete detail[name];
      return detail;
    }

    remove(member) {
      this.waiting.delete(member);
      this.instances.delete(member);
      if (this.instances.size + this.waiting.size === 0) this.close({ reason: 'disconnected', status: null });
    }

    listen(name) {
      if (WIRE_NAMES.includes(name) || LOCAL_NAMES.includes(name)) return;
      this.extraNames.add(name);
      this.transport?.listen(name);
    }
  }

  function gapOf({ missed = null, earliestId = null }) {
    return { missed, earliestId };
  }

  /** What a frame costs in the buffer: its text and its field names. */
  function frameSize({ name, text, id }) {
    return name.length + text.length + id.length + 24;
  }

  /** Told by this library, not by the server: they never collide with a name on the wire. */
  const LOCAL_NAMES = ['state', 'gap', 'stale', 'reconnect-scheduled', 'closed', '*'];

  // ---- The public class

  class SessionEventStream extends EventTarget {
    #connection;
    #any = new Set();

    /** Connects at once. See session-event-stream.d.ts for the options. */
    constructor(sessionId, options = {}) {
      super();
      if (typeof sessionId !== 'string' || sessionId === '') throw new TypeError('sessionId must be a non-empty string');
      this._names = new Set();
      this.sessionId = sessionId;
      this.state = 'connecting';
      this.lastEventId = options.lastEventId ?? '';
      /** Why the state is `closed`, else null. */
      this.reason = null;
      this.#connection = connectionFor(normalise(sessionId, options));
      this.#connection.add(this);
    }

    /** Calls `listener(event)` for every event of that name, `*` for every frame. Returns its undo. */
    on(name, listener) {
      if (name === '*') this.#any.add(listener);
      else this.addEventListener(name, listener);
      return () => this.off(name, listener);
    }

    off(name, listener) {
      if (name === '*') this.#any.delete(listener);
      else this.removeEventListener(name, listener);
    }

    addEventListener(name, listener, options) {
      super.addEventListener(name, listener, options);
      this._names.add(name);
      this.#connection?.listen(name);
    }

    /** Ends this instance. The connection closes with its last instance. Safe to repeat. */
    disconnect() {
      if (this.state === 'closed') return;
      const connection = this.#connection;
      this._closed({ reason: 'disconnected', status: null });
      connection.remove(this);
    }

    /** Of the connection that instances of this session share; for tests and the curious. */
    get sharedWith() {
      return this.state === 'closed' ? 0 : this.#connection.instances.size + this.#connection.waiting.size;
    }

    // -- called by the connection only

    _frame({ name, detail, text, id }) {
      if (this.state === 'closed') return;
      if (id) this.lastEventId = id;
      const event = new SessionStreamEvent(name, detail, this.lastEventId, text);
      this.dispatchEvent(event);
      for (const listener of [...this.#any]) {
        try {
          listener.call(this, event);
        } catch (error) {
          reportError(error); // One bad listener must not cost the others their event.
        }
      }
    }

    _tell(name, detail) {
      if (this.state !== 'closed') this.dispatchEvent(new SessionStreamEvent(name, detail, this.lastEventId));
    }

    _setState(state, reason = null) {
      if (this.state === state || this.state === 'closed') return;
      const previous = this.state;
      this.state = state;
      this.dispatchEvent(new SessionStreamEvent('state', { state, previous, reason }, this.lastEventId));
    }

    _closed(detail) {
      if (this.state === 'closed') return;
      this.reason = detail.reason;
      this._setState('closed', detail.reason);
      this.dispatchEvent(new SessionStreamEvent('closed', detail, this.lastEventId));
    }
  }

  /** Options for every instance of the page, below those given to one: pages set `token` here. */
  SessionEventStream.defaults = {};
  SessionEventStream.eventNames = Object.freeze([...EVENT_NAMES]);
  SessionEventStream.controlNames = Object.freeze([...CONTROL_NAMES]);

  function normalise(sessionId, given) {
    const defined = Object.fromEntries(Object.entries(given).filter(([, value]) => value !== undefined));
    const options = { ...DEFAULTS, ...SessionEventStream.defaults, ...defined, sessionId };
    const base = options.baseUrl ?? SCRIPT_BASE ?? globalThis.location?.origin;
    options.baseUrl = new URL(base, globalThis.location?.href).href.replace(/\/+$/, '');
    if (Array.isArray(options.types)) options.types = options.types.join(',');
    for (const name of ['heartbeatTimeout', 'reconnectDelay', 'maxReconnectDelay', 'connectTimeout']) {
      if (!(options[name] > 0)) throw new RangeError(`${name} must be a number of milliseconds above 0`);
    }
    return options;
  }

  /** Instances share if their URLs would be the same. Timings are those of whoever came first. */
  function connectionFor(options) {
    if (!options.share) return new Connection(null, options);
    const { baseUrl, sessionId, types, replay, lastEventId, heartbeat, token } = options;
    const secret = typeof token === 'function' ? token() : token;
    const key = JSON.stringify([baseUrl, sessionId, types, replay, lastEventId, heartbeat, secret]);
    const present = shared.get(key);
    if (present?.canJoin()) return present;
    const connection = new Connection(key, options);
    shared.set(key, connection);
    return connection;
  }

  // One set of page-wide listeners for all connections, so that none can leak.
  const wakeAll = (restored) => [...live].forEach((connection) => connection.wake(restored));
  globalThis.document?.addEventListener('visibilitychange', () => {
    if (document.visibilityState === 'visible') wakeAll(false);
  });
  globalThis.document?.addEventListener('resume', () => wakeAll(false));
  globalThis.addEventListener?.('online', () => wakeAll(false));
  // A page restored from the back/forward cache has sockets that only look alive.
  globalThis.addEventListener?.('pageshow', (event) => wakeAll(event.persisted));

  globalThis.SessionEventStream = SessionEventStream;
})();
