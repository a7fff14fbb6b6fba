/*!
 * session-event-stream.js: sessions of sidestream as streams of events, for browsers.
 *
 *   const stream = new SessionEventStream('session-…');
 *   const off = stream.on('session-output', (event) => console.log(event.detail.content));
 *   stream.disconnect();
 *
 * Promises: every event reaches a listener once and in order, across lost connections, sleeping
 * phones and server restarts; a hole is told by a `gap` event, never silent; instances for one
 * session in one page share one connection (a browser opens six per host, for all its tabs), and
 * with `share: 'tabs'` all tabs share one, whatever sessions they show; where streams do not get
 * through, long polls do; a refusal that time will not cure ends the stream with a reason.
 *
 * Does not know: what the events mean (but for `session-closed`), how to send.
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

  /** A line longer than this is no line of ours: the server's frames are far below. Characters. */
  const LINE_MAX = 64 * 1024 * 1024;
  /** Seconds that a long poll waits for news. */
  const POLL_WAIT_S = 25;
  /** After so long by long poll, a stream is tried again: the network may have changed. */
  const POLL_FOR_MS = 15 * 60 * 1000;
  /** A leading tab that does not answer a question in this time is dead or frozen. */
  const LEADER_ANSWER_MS = 2000;
  /** A page without streams gives up the lead after this: a reconnect must not cost it. */
  const LINGER_MS = 200;
  /** Characters kept for one stream while it is brought up to date. More: it starts over. */
  const QUEUE_SIZE_MAX = 8 * 1024 * 1024;

  /** Answers that no retry will change. Everything else is tried again. */
  const FINAL_REASONS = { 400: 'bad-request', 401: 'unauthorized', 403: 'forbidden', 404: 'not-found', 410: 'gone' };

  const DEFAULTS = {
    baseUrl: undefined, heartbeatTimeout: 45000, reconnectDelay: 1000, maxReconnectDelay: 30000,
    connectTimeout: 15000, types: undefined, view: undefined, replay: undefined, lastEventId: undefined,
    heartbeat: undefined, share: true, token: undefined, pollAfter: 3, background: false,
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

  /** What listeners to `*` are called by. */
  class AnyEvent extends Event {
    constructor(frame) {
      super('*');
      this.frame = frame;
    }
  }

  // ---- Transports: bytes to frames. Each calls frame(name, text, lastEventId), then end(refused,
  // verdict) once, and nothing after close().

  /** The browser's EventSource, less its own retries: we own those, to see and to pace them. */
  class EventSourceTransport {
    constructor(url, names, sink) {
      Object.assign(this, { name: 'eventsource', url, sink, wanted: names, names: new Set() });
    }
    start() {
      this.source = new EventSource(this.url);
      for (const name of this.wanted) this.listen(name);
      this.source.onerror = () => {
        const refused = this.source.readyState === EventSource.CLOSED;
        this.close();
        this.sink.end(refused);
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
      if (!this.source) return;
      this.source.onerror = null;
      this.source.close();
    }
  }

  /** fetch, for streams with a token: an EventSource cannot send an Authorization header. */
  class FetchTransport {
    constructor(url, token, sink) {
      Object.assign(this, { name: 'fetch', url, token, sink, abort: new AbortController() });
    }
    listen() {} // Sees every name anyway.
    close() {
      this.sink = null;
      this.abort.abort();
    }
    async start() {
      try {
        const response = await fetch(this.url, {
          headers: { Accept: 'text/event-stream', Authorization: `Bearer ${this.token}` },
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
      this.abort.abort(); // If it was us who gave up, the rest is not wanted.
      this.sink?.end(false);
    }
  }

  /** The event stream grammar of the HTML standard (9.2.6), fed in pieces of any size. */
  class FrameParser {
    constructor(deliver) {
      this.deliver = deliver;
      this.decoder = new TextDecoder(); // Strips the one BOM that the grammar allows.
      this.begun = []; // Pieces of a line whose end has not come: joined once, however many.
      this.begunSize = 0;
      this.afterCr = false; // The last line ended in CR: an LF now belongs to that end.
      this.lastId = '';
      this.clear();
    }
    clear() {
      this.name = '';
      this.data = [];
    }
    push(bytes) {
      let text = this.decoder.decode(bytes, { stream: true });
      if (text === '') return;
      if (this.afterCr && text.startsWith('\n')) text = text.slice(1);
      this.afterCr = text.endsWith('\r');
      const lines = text.split(/\r\n|\n|\r/);
      const rest = lines.pop();
      for (const line of lines) this.line(this.whole(line));
      if (rest === '') return;
      this.begun.push(rest);
      this.begunSize += rest.length;
      if (this.begunSize > LINE_MAX) throw new RangeError('a line too long to be one of ours');
    }
    whole(end) {
      if (this.begun.length === 0) return end;
      const line = this.begun.join('') + end;
      this.begun = [];
      this.begunSize = 0;
      return line;
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

  /** Long polls in the shape of a stream, for networks that break streams. */
  class PollTransport {
    constructor(connection, sink) {
      Object.assign(this, { name: 'poll', connection, sink, abort: new AbortController() });
    }
    listen() {} // Sees every name anyway.
    close() {
      this.sink = null;
      this.abort.abort();
    }
    async start() {
      let verdict;
      try {
        verdict = await this.run();
      } catch { /* Cut or aborted: the end is all that matters. */ }
      this.sink?.end(verdict !== undefined, verdict);
    }
    async get(url) {
      const headers = this.connection.authorization();
      return fetch(url, { headers, cache: 'no-store', signal: this.abort.signal });
    }
    async run() {
      const until = Date.now() + POLL_FOR_MS;
      let greeted = false;
      let caughtUp = false; // The replay ends with the first answer that has nothing new.
      let count = 0;
      while (this.sink && Date.now() < until) {
        const wait = caughtUp ? POLL_WAIT_S : 0;
        const response = await this.get(this.connection.url('events/poll', { wait }));
        if (response.status !== 200) return this.connection.verdictOf(response);
        const { events, next, resume } = await response.json();
        if (!greeted || resume === 'gap') {
          this.sink?.frame('connected', JSON.stringify(await this.greeting(resume)), resume === 'gap' ? next : '');
          greeted = true;
          caughtUp = false;
          count = 0;
        }
        for (const { id, event, data } of events) this.sink?.frame(event, JSON.stringify(data), id);
        count += events.length;
        if (events.length > 0) continue;
        // Over what a filter passed over, the cursor moves without an event.
        if (caughtUp) this.sink?.frame('heartbeat', '{}', next);
        else this.sink?.frame('replay-complete', JSON.stringify({ count }), next);
        caughtUp = true;
      }
      return undefined;
    }
    /** What a stream's `connected` says, as far as it can be asked for. */
    async greeting(resume) {
      const { many, sessionId } = this.connection.options;
      const told = { sessionId: many ? '*' : sessionId, resume, missed: resume === 'ok' ? 0 : null, poll: true, heartbeatInterval: POLL_WAIT_S * 1000 };
      if (many) return told;
      const [status, approvals] = await Promise.all(['status', 'approvals'].map(async (leaf) => {
        const response = await this.get(this.connection.path(leaf));
        return response.ok ? response.json() : {};
      }));
      return {
        ...told, status: status.status, queue: status.queueLength, agent: status.agent,
        pendingApprovals: approvals.approvals?.map(({ approvalId }) => approvalId),
      };
    }
  }

  // ---- The connection: one per URL and token; any number of instances on it.

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
      this.early = 0; // Connections in a row that died early with the server at fault or in reach.
      this.askedToWait = false; // The present connection ends because the server said so.
      this.kind = 'stream'; // Or `poll`: how the last connection came about.
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
      this.askedToWait = false;
      const sink = {
        frame: (name, text, id) => this.transport?.sinkIs(sink) && this.frame(name, text, id),
        heard: () => this.transport?.sinkIs(sink) && this.heard(),
        end: (refused, verdict) => this.transport?.sinkIs(sink) && this.ended(refused, verdict),
      };
      let inner;
      try {
        inner = this.newTransport(sink);
      } catch (error) {
        this.failed(error);
        return;
      }
      // A closed transport may still have a frame in flight; only the present one is heard.
      this.transport = {
        name: inner.name,
        sinkIs: (other) => other === sink,
        listen: (name) => inner.listen(name),
        wake: () => inner.wake?.(),
        close: () => inner.close(),
      };
      this.heard();
      this.armSilence(inner.waitsForOthers ? this.options.heartbeatTimeout : this.options.connectTimeout);
      try {
        inner.start(); // Only now: it may have frames at once.
      } catch (error) {
        this.failed(error);
      }
    }

    /** There is no trying without what the page's own `token` was asked for; the next time there may be. */
    failed(error) {
      this.log(`the token cannot be had: ${error}`);
      const { transport } = this;
      this.askedToWait = true; // No stream has died of it.
      // In its own task: whoever makes this connection is not told of its states yet.
      setTimeout(() => this.transport === transport && this.state !== 'closed' && this.ended(false));
    }

    newTransport(sink) {
      const { options } = this;
      if (this.early >= options.pollAfter) return new PollTransport(this, sink);
      if (options.share === 'tabs' && TabChannel.possible()) return new TabTransport(this, sink);
      return this.directTransport(sink);
    }

    directTransport(sink) {
      const token = this.token();
      if (token) return new FetchTransport(this.url(), token, sink);
      return new EventSourceTransport(this.url(), [...WIRE_NAMES, ...this.extraNames], sink);
    }

    token() {
      const { token } = this.options;
      return typeof token === 'function' ? token() : token;
    }

    authorization() {
      const token = this.token();
      return token ? { Authorization: `Bearer ${token}` } : {};
    }

    url(leaf = 'events', more = {}) {
      const { types, view, replay, heartbeat, sessions } = this.options;
      const query = new URLSearchParams();
      if (this.cursor) query.set('lastEventId', this.cursor);
      if (sessions) query.set('sessions', sessions);
      if (types) query.set('types', types);
      if (view) query.set('view', view);
      if (replay !== undefined) query.set('replay', replay);
      if (heartbeat !== undefined && leaf === 'events') query.set('heartbeat', heartbeat);
      for (const [name, value] of Object.entries(more)) query.set(name, value);
      const text = query.toString();
      return this.path(leaf) + (text ? `?${text}` : '');
    }

    path(leaf) {
      const { baseUrl, sessionId, many } = this.options;
      if (!many) return `${baseUrl}/api/session/${encodeURIComponent(sessionId)}/${leaf}`;
      // Of all sessions together there is no status: the list refuses whom the stream refuses.
      return leaf === 'status' ? `${baseUrl}/api/sessions?limit=1` : `${baseUrl}/api/${leaf}`;
    }

    drop() {
      clearTimeout(this.silenceTimer);
      this.silenceTimer = 0;
      this.transport?.close();
      this.transport = null;
    }

    /** The transport is gone. `refused`: the answer was no stream; `verdict`: and this is why. */
    async ended(refused, verdict = undefined) {
      const polled = this.transport?.name === 'poll';
      // Only a connection that stayed open clears the count: one that dies at once must not spin.
      const stayed = this.opened && Date.now() - this.openedAt >= 10 * this.options.reconnectDelay;
      this.drop();
      this.setState('reconnecting');
      if (stayed) this.attempts = 0;
      if (polled) this.early = this.options.pollAfter - 1; // One stream is tried, then polls again.
      else if (stayed) this.early = 0;
      else if (!this.askedToWait) this.early += 1;
      const suspicious = !polled && this.early >= this.options.pollAfter;
      if (refused || suspicious) {
        const told = verdict ?? await this.askStatus();
        // While we asked, the last instance may have left, or a wake-up may have reconnected.
        if (this.state === 'closed' || this.transport) return;
        if (told.reason) {
          this.close(told);
          return;
        }
        // Nobody there is not a network that breaks streams: a poll would fare no better.
        if (!told.reached) this.early = 0;
      }
      this.retry();
    }

    /** An EventSource hides the status of its refusal; the session's own answers the same. */
    async askStatus() {
      const abort = new AbortController();
      const timer = setTimeout(() => abort.abort(), this.options.connectTimeout);
      try {
        const headers = this.authorization();
        return await this.verdictOf(await fetch(this.path('status'), { headers, cache: 'no-store', signal: abort.signal }));
      } catch {
        return {};
      } finally {
        clearTimeout(timer);
      }
    }

    /** What an answer means: `reason` if it is final, `reached` if it is the server's own 200. */
    async verdictOf(response) {
      const reason = FINAL_REASONS[response.status];
      if (!reason) {
        this.askToWait(Number(response.headers.get('Retry-After')) * 1000);
        return { reached: response.ok };
      }
      const body = await response.json().catch(() => ({}));
      return { reason, status: response.status, error: body?.error, code: body?.code };
    }

    askToWait(delayMs) {
      if (!(delayMs > 0)) return;
      // A little later than asked: a proxy that tells everybody the same must not get all at once.
      const wait = Math.min(delayMs, RETRY_AFTER_MAX_MS) * (1 + Math.random() / 10);
      this.notBefore = Math.max(this.notBefore, Date.now() + wait);
    }

    /** The first try follows at once; each further one waits twice as long, half of it random. */
    retry() {
      if (this.state === 'closed') return;
      const { reconnectDelay, maxReconnectDelay } = this.options;
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
        const reason = this.pausedBy();
        if (reason) this.tell('paused', { reason }); // What ends the pause calls wake().
        else this.open();
      }, delay);
      const delayMs = Math.round(delay);
      this.log(`reconnecting in ${delayMs} ms, try ${this.attempts}`);
      this.tell('reconnect-scheduled', { delayMs, attempt: this.attempts });
    }

    /** Why no new connection is tried now: nobody looks, or there is no network. */
    pausedBy() {
      if (!this.options.background && globalThis.document?.visibilityState === 'hidden') return 'hidden';
      return this.offline() ? 'offline' : null;
    }

    log(text) {
      console.info(`[SessionEventStream] ${this.options.sessionId}: ${text}`);
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
        else this.transport.wake();
      } else if (this.state === 'reconnecting' && !this.pausedBy()) {
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
      if (this.state !== 'closed') this.ended(false); // Else a listener left.
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
      if (name === 'server-busy' || name === 'server-shutdown') {
        this.askedToWait = true;
        this.askToWait(detail?.retryAfterMs);
      }
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
      if (!first) this.log(`reconnected, resume ${detail.resume}`);
      const kind = this.transport.name === 'poll' ? 'poll' : 'stream';
      if (kind !== this.kind) {
        this.kind = kind;
        this.log(kind === 'poll' ? 'streams do not get through, falling back to long poll' : 'streaming again');
        this.tell('transport', { transport: kind });
      }
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
      const closes = frame.name === 'session-closed' && !this.options.many
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
      // A list that names not all of them cannot be kept: a joiner sees that, and asks.
      const whole = !(told.openApprovals > told.pendingApprovals?.length);
      if (name.startsWith('approval-') && Array.isArray(told.pendingApprovals) && whole) {
        const others = told.pendingApprovals.filter((id) => id !== detail?.approvalId);
        told.pendingApprovals = name === 'approval-required' ? [...others, detail?.approvalId] : others;
        told.openApprovals = told.pendingApprovals.length;
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
      if (this.options.types) for (const name of ['status', 'queue', 'pendingApprovals', 'openApprovals']) delete detail[name];
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
  const LOCAL_NAMES = ['state', 'gap', 'stale', 'reconnect-scheduled', 'paused', 'transport', 'closed', '*'];

  // ---- Many tabs, one stream
  //
  // One tab leads: it holds a Web Lock, which the browser gives to the next tab when that one goes,
  // crashes included. It alone keeps a stream open, /api/events, and tells every frame to the
  // others over a BroadcastChannel. A tab's own streams are brought up to date by a short stream of
  // their own, closed at its `replay-complete`; from then on they live on what the leader tells.
  // So nothing here keeps a history: whatever breaks (a leader that fell silent, a frame missed)
  // ends the tab's stream as a lost connection would, and it resumes by its own id.

  /** Open channels by name. One per page for each server and token. */
  const channels = new Map();

  class TabChannel {
    /** Locks need a secure context: https, or this machine. Elsewhere each page streams itself. */
    static possible() {
      return Boolean(globalThis.BroadcastChannel && globalThis.navigator?.locks);
    }

    static of(connection) {
      const { baseUrl, heartbeat } = connection.options;
      // Tabs that were let in differently see different things. Only a hash: names can be listed.
      const name = `sidestream ${baseUrl} ${heartbeat ?? ''} ${hash(connection.token() ?? '')}`;
      return channels.get(name) ?? new TabChannel(name, connection.options);
    }

    constructor(name, options) {
      Object.assign(this, { name, options });
      this.id = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}`;
      this.members = new Set(); // This page's streams.
      this.names = new Set(); // Events that some tab listens to beyond those this file knows.
      this.leader = null; // Whose word counts.
      this.up = false; // It streams.
      this.count = 0; // Its frames so far: a step of more than one is a hole.
      this.cursor = ''; // Of its stream: where the next leader goes on.
      this.upstream = null; // Ours, if we lead.
      this.answerTimer = 0;
      this.lingerTimer = 0;
      this.radio = new BroadcastChannel(name);
      this.radio.onmessage = (event) => this.hear(event.data);
      channels.set(name, this);
      this.stand({});
    }

    add(member) {
      clearTimeout(this.lingerTimer);
      this.members.add(member);
      if (this.upstream) {
        if (this.up) member.begin();
        return;
      }
      // What we believe may be old: the leader must answer, or it is a leader no more.
      this.radio.postMessage({ kind: 'hello', names: [...this.names] });
      clearTimeout(this.answerTimer);
      this.answerTimer = setTimeout(() => this.stand({ steal: true }), LEADER_ANSWER_MS);
      if (this.up) member.begin();
    }

    remove(member) {
      this.members.delete(member);
      if (this.members.size > 0) return;
      clearTimeout(this.lingerTimer);
      this.lingerTimer = setTimeout(() => this.members.size === 0 && this.close(), LINGER_MS);
    }

    listen(names) {
      const news = names.filter((name) => !this.names.has(name));
      if (news.length === 0) return;
      for (const name of news) this.names.add(name);
      if (this.upstream) news.forEach((name) => this.upstream.listen(name));
      else this.radio.postMessage({ kind: 'listen', names: news });
    }

    wake() {
      if (this.up) return;
      if (this.upstream) this.upstream.wake(false);
      else this.radio.postMessage({ kind: 'wake' });
    }

    close() {
      clearTimeout(this.answerTimer);
      clearTimeout(this.lingerTimer);
      this.candidacy?.abort();
      this.candidacy = null;
      this.resign();
      this.radio.close();
      if (channels.get(this.name) === this) channels.delete(this.name);
    }

    // -- the lead

    /** Stands for the lead: in line, or (`steal`) in place of a leader that does not answer. */
    stand({ steal = false }) {
      this.candidacy?.abort();
      const candidacy = new AbortController();
      this.candidacy = candidacy;
      const present = () => this.candidacy === candidacy;
      const lead = () => new Promise((release) => {
        if (!present()) {
          release();
          return;
        }
        this.release = release;
        this.lead();
      });
      navigator.locks.request(this.name, steal ? { steal } : { signal: candidacy.signal }, lead).catch(() => {
        if (!present()) return; // We withdrew.
        this.resign(); // Another tab took the lead from us.
        this.stand({});
      });
    }

    lead() {
      clearTimeout(this.answerTimer);
      this.leader = this.id;
      const { baseUrl, heartbeatTimeout, reconnectDelay, maxReconnectDelay, connectTimeout, heartbeat, token, pollAfter } = this.options;
      const upstream = new Connection(null, {
        baseUrl, heartbeatTimeout, reconnectDelay, maxReconnectDelay, connectTimeout, heartbeat, token, pollAfter,
        sessionId: '*', many: true, replay: 'none', lastEventId: this.cursor, share: false,
        background: true, // Other tabs may be seen while this one is not.
      });
      this.upstream = upstream;
      // What a stream's instance is to its connection, this channel is to the upstream.
      upstream.add({
        state: 'connecting',
        _names: this.names,
        _frame: (frame) => this.upstream === upstream && this.tellFrame(frame),
        _setState: (state) => this.upstream === upstream && state === 'reconnecting' && this.tell({ kind: 'down' }),
        _tell: () => {},
        _closed: () => {
          if (this.upstream !== upstream) return; // We resigned.
          this.tell({ kind: 'refused' });
          this.close();
        },
      });
    }

    resign() {
      const { upstream, release } = this;
      this.upstream = null;
      this.release = null;
      upstream?.close({ reason: 'disconnected', status: null });
      release?.();
    }

    tell(message) {
      message.leader = this.id;
      this.radio.postMessage(message);
      this.hear(message);
    }

    tellFrame({ name, detail, text, id }) {
      if (name === 'connected') {
        // After `ok` it goes on exactly behind that id; else nobody can tell what is missing.
        this.tell({ kind: 'up', behind: detail.resume === 'ok' ? id : '', cursor: id, count: 0 });
      } else if (name === 'heartbeat') {
        this.tell({ kind: 'beat' });
      } else if (name !== 'replay-complete' && name !== 'server-busy') {
        const control = CONTROL_NAMES.includes(name);
        this.tell({ kind: 'frame', count: this.count + 1, name, text, id: control ? '' : id, sessionId: control ? '*' : detail?.sessionId });
      }
    }

    // -- the others

    hear(message) {
      const { kind, leader } = message;
      if (kind === 'wake') {
        this.upstream?.wake(false);
        return;
      }
      if (kind === 'hello' || kind === 'listen') {
        this.listen(message.names);
        const { cursor, count } = this;
        if (kind === 'hello' && this.upstream) {
          this.radio.postMessage(this.up ? { kind: 'up', behind: cursor, cursor, count, leader: this.id } : { kind: 'down', leader: this.id });
        }
        return;
      }
      if (this.upstream && leader !== this.id) return; // The last words of a leader we replaced.
      clearTimeout(this.answerTimer);
      const same = this.leader === leader;
      this.leader = leader;
      if (kind === 'up') this.hearUp(message);
      else if (kind === 'down') this.break();
      else if (kind === 'refused') this.break(true);
      else if (this.up && same && kind === 'beat') this.members.forEach((member) => member.sink?.heard());
      else if (this.up && same && kind === 'frame' && message.count === this.count + 1) this.hearFrame(message);
      else this.break(); // A hole, or a leader that we did not see begin.
    }

    hearUp({ behind, cursor, count }) {
      if (this.up && (behind === '' || behind !== this.cursor)) this.break();
      Object.assign(this, { up: true, cursor, count });
      for (const member of [...this.members]) member.begin();
    }

    hearFrame(frame) {
      this.count = frame.count;
      if (frame.id) this.cursor = frame.id;
      for (const member of [...this.members]) member.take(frame);
    }

    /** Ends this page's streams. They come back, each with its own cursor. */
    break(refused = false) {
      this.up = false;
      for (const member of [...this.members]) {
        if (member.begun || refused) member.fail(refused);
        else member.sink?.heard(); // It waits for the leader's stream, which is being seen to.
      }
    }
  }

  /** A stream by way of the leading tab. */
  class TabTransport {
    constructor(connection, sink) {
      Object.assign(this, { name: 'tabs', waitsForOthers: true, connection, sink });
      this.begun = false;
      this.queue = []; // What the leader tells until we are up to date; then null.
      this.queueSize = 0;
      const { types, many, sessionId, sessions } = connection.options;
      const listed = types?.split(',').map((name) => name.trim()) ?? [];
      const wanted = listed.filter((name) => !name.startsWith('-'));
      const unwanted = listed.filter((name) => name.startsWith('-')).map((name) => name.slice(1));
      this.takesName = (name) => (wanted.length === 0 || wanted.includes(name)) && !unwanted.includes(name);
      const ids = sessions ? sessions.split(',') : [sessionId];
      this.takesSession = (id) => id === '*' || ids.includes(id) || (many && !sessions);
    }

    start() {
      this.channel = TabChannel.of(this.connection);
      this.channel.listen([...this.connection.extraNames]);
      this.channel.add(this);
    }

    listen(name) {
      this.channel.listen([name]);
      this.own?.listen(name);
    }

    /** Somebody looks at this page: a leader in the background need not wait for its next try. */
    wake() {
      this.channel.wake();
    }

    /** The leader streams: what we miss comes by a stream of our own, the rest from the leader. */
    begin() {
      if (this.begun) return;
      this.begun = true;
      try {
        this.own = this.connection.directTransport({
          frame: (name, text, id) => this.sink && this.ownFrame(name, text, id),
          heard: () => this.sink?.heard(),
          end: (refused, verdict) => this.fail(refused, verdict),
        });
      } catch (error) {
        this.connection.failed(error);
        return;
      }
      this.own.start();
    }

    ownFrame(name, text, id) {
      this.sink.frame(name, text, id);
      if (name !== 'replay-complete' || !this.sink) return;
      this.own.close();
      this.own = null;
      const { queue } = this;
      this.queue = null;
      for (const frame of queue) this.pass(frame);
    }

    take(frame) {
      this.sink?.heard(); // Also by what is another session's.
      if (!this.begun || !this.takesSession(frame.sessionId)) return;
      if (!this.queue) {
        this.pass(frame);
        return;
      }
      this.queue.push(frame);
      this.queueSize += frameSize(frame);
      if (this.queueSize > QUEUE_SIZE_MAX) this.fail(false);
    }

    pass({ name, text, id }) {
      const control = CONTROL_NAMES.includes(name);
      if (!control && (!this.takesName(name) || isUpTo(id, this.connection.cursor))) return;
      this.sink?.frame(name, text, id);
    }

    fail(refused, verdict = undefined) {
      const { sink } = this;
      this.close();
      sink?.end(refused, verdict);
    }

    close() {
      this.sink = null;
      this.own?.close();
      this.own = null;
      this.channel?.remove(this);
    }
  }

  /** Whether a reader at this cursor has had this event. Ids of one start of the server are
   *  numbered in order; of different starts nothing is said: the newer one resumed behind it. */
  function isUpTo(id, cursor) {
    const [, epoch, number] = /^(.*)-(\d+)$/.exec(id) ?? [];
    const [, cursorEpoch, cursorNumber] = /^(.*)-(\d+)$/.exec(cursor) ?? [];
    if (epoch === undefined || epoch !== cursorEpoch) return false;
    return number.length < cursorNumber.length || (number.length === cursorNumber.length && number <= cursorNumber);
  }

  /** FNV-1a, twice over: to tell tokens apart, not to hide them from scripts of our own origin. */
  function hash(text) {
    let [low, high] = [0x811c9dc5, 0x01000193];
    for (let i = 0; i < text.length; i++) {
      low = Math.imul(low ^ text.charCodeAt(i), 0x01000193);
      high = Math.imul(high ^ text.charCodeAt(i), 0x85ebca6b);
    }
    return (low >>> 0).toString(36) + (high >>> 0).toString(36);
  }

  // ---- The public class

  class SessionEventStream extends EventTarget {
    #connection;
    #any = new WeakMap(); // A listener to every frame → what is listened with in its place.

    /** Connects at once. See session-event-stream.d.ts for the options. */
    constructor(sessionId, options = {}) {
      super();
      const ids = Array.isArray(sessionId) ? sessionId : [sessionId];
      if (ids.length === 0 || !ids.every((id) => typeof id === 'string' && id !== '')) {
        throw new TypeError('sessionId must be a non-empty string, or an array of such');
      }
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
      this.addEventListener(name, listener);
      return () => this.off(name, listener);
    }

    off(name, listener) {
      this.removeEventListener(name, listener);
    }

    addEventListener(name, listener, options) {
      super.addEventListener(name, name === '*' ? this.#forAny(listener) : listener, options);
      if (name === '*') return;
      this._names.add(name);
      this.#connection?.listen(name);
    }

    removeEventListener(name, listener, options) {
      super.removeEventListener(name, name === '*' ? this.#forAny(listener) : listener, options);
    }

    /** An event has one name: listeners to `*` are told the frame's own inside of another. */
    #forAny(listener) {
      if (!listener) return listener;
      let teller = this.#any.get(listener);
      if (!teller) {
        teller = ({ frame }) => (typeof listener === 'function' ? listener.call(this, frame) : listener.handleEvent(frame));
        this.#any.set(listener, teller);
      }
      return teller;
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

    /** How events come now: `eventsource`, `fetch`, `tabs` (through another tab), `poll`, or null. */
    get transport() {
      return this.state === 'closed' ? null : this.#connection.transport?.name ?? null;
    }

    // -- called by the connection only

    _frame({ name, detail, text, id }) {
      if (this.state === 'closed') return;
      if (id) this.lastEventId = id;
      const event = new SessionStreamEvent(name, detail, this.lastEventId, text);
      this.dispatchEvent(event);
      this.dispatchEvent(new AnyEvent(event));
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
    options.many = sessionId === '*' || Array.isArray(sessionId);
    options.sessions = Array.isArray(sessionId) ? sessionId.join(',') : undefined;
    const base = options.baseUrl ?? SCRIPT_BASE ?? globalThis.location?.origin;
    options.baseUrl = new URL(base, globalThis.location?.href).href.replace(/\/+$/, '');
    if (Array.isArray(options.types)) options.types = options.types.join(',');
    for (const name of ['heartbeatTimeout', 'reconnectDelay', 'maxReconnectDelay', 'connectTimeout']) {
      if (!(options[name] > 0)) throw new RangeError(`${name} must be a number of milliseconds above 0`);
    }
    if (!(options.pollAfter >= 1)) throw new RangeError('pollAfter must be a number of failures from 1, or Infinity');
    return options;
  }

  /** Instances share if their URLs would be the same. Timings are those of whoever came first. */
  function connectionFor(options) {
    if (!options.share) return new Connection(null, options);
    const { baseUrl, sessionId, types, view, replay, lastEventId, heartbeat, token, share } = options;
    let secret = token;
    try {
      if (typeof token === 'function') secret = token();
    } catch {
      return new Connection(null, options); // It tries again by itself, and is shared with nobody.
    }
    const key = JSON.stringify([baseUrl, sessionId, types, view, replay, lastEventId, heartbeat, secret, share]);
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
  // Whoever comes back asks again; whoever leads must not take the lead into a page's sleep.
  globalThis.addEventListener?.('pagehide', () => [...channels.values()].forEach((channel) => channel.close()));
  // A page restored from the back/forward cache has sockets that only look alive.
  globalThis.addEventListener?.('pageshow', (event) => wakeAll(event.persisted));

  globalThis.SessionEventStream = SessionEventStream;
})();
