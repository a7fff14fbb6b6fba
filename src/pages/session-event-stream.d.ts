/** Types of session-event-stream.js (and .mjs). */

export type StreamState = 'connecting' | 'open' | 'reconnecting' | 'closed';

/** How events arrive: `tabs` is by way of another tab, `poll` the fall-back for broken networks. */
export type Transport = 'eventsource' | 'fetch' | 'tabs' | 'poll';

/** Why a stream is `closed`. Treat an unknown one as final. */
export type ClosedReason =
  | 'disconnected' // by disconnect()
  | 'session-closed' // the session ended
  | 'bad-request' // 400: an option that the server does not take
  | 'unauthorized' // 401
  | 'forbidden' // 403
  | 'not-found' // 404
  | 'gone'; // 410

export interface SessionEventStreamOptions {
  /** Where sidestream is, with its base path. Default: where this script came from. */
  baseUrl?: string;
  /** No frame at all, heartbeats included, for so long: reconnect. Milliseconds, default 45000. */
  heartbeatTimeout?: number;
  /** First waiting time between tries; doubles, half of it random. Milliseconds, default 1000.
   *  The first retry follows at once. The count clears after ten times this long connected. */
  reconnectDelay?: number;
  /** Longest waiting time between tries. Milliseconds, default 30000. */
  maxReconnectDelay?: number;
  /** From opening to `connected`. Milliseconds, default 15000. */
  connectTimeout?: number;
  /** Only these event names (`-name`: all but). Sent as `?types=`. */
  types?: string | string[];
  /** `compact`: leave out the pieces of texts that have ended, which `message-block` tells whole. */
  view?: 'compact';
  /** Without a cursor: `none` live only, `all` from the start; else the newest 256 KiB. */
  replay?: 'none' | 'all';
  /** Resume after this event. */
  lastEventId?: string;
  /** Seconds between heartbeats, 5 to 60. Sent as `?heartbeat=`. */
  heartbeat?: number;
  /** Share one connection with instances whose URL would be the same. Default true. The timings
   *  above are then those of the instance that came first. `tabs`: share one stream over all
   *  sessions with every tab of this origin that does the same; needs a secure context (https or
   *  this machine), and is as `true` without one. */
  share?: boolean | 'tabs';
  /** Bearer token, or a function that gives one: streams by fetch instead of EventSource. Where the
   *  function throws, that try has failed, and the next one asks it again. */
  token?: string | (() => string | undefined | null);
  /** So many streams in a row that died early though the server answers: go on by long poll, and
   *  tell `transport`. Default 3; Infinity: never. */
  pollAfter?: number;
  /** Reconnect in a hidden page too, for pages that notify. Default false: a stream that is lost
   *  while nobody looks is opened again when somebody does. */
  background?: boolean;
}

/** Common to every event's JSON. */
export interface SessionEventData {
  _eventType?: string;
  sessionId?: string;
  /** Milliseconds since 1970. */
  timestamp?: number;
  turnId?: string | null;
  promptId?: string | null;
  [field: string]: unknown;
}

export interface ConnectedData extends SessionEventData {
  resume: 'fresh' | 'ok' | 'gap';
  missed?: number | null;
  earliestId?: string | null;
  latestId?: string | null;
  status?: string;
  /** The oldest of those that are open, 32 at most. */
  pendingApprovals?: string[];
  /** How many are open. */
  openApprovals?: number;
  queue?: number;
  heartbeatInterval?: number;
  agent?: string;
  /** True by long poll. */
  poll?: boolean;
  /** True when this instance joined a connection that was open already. What follows up to
   *  `replay-complete` comes from its buffer (the newest 256 Ki characters), which is what a
   *  connection of its own would have replayed. `queue` is left out where it is not known. */
  joined?: boolean;
}

export declare class SessionStreamEvent<T = SessionEventData> extends CustomEvent<T> {
  /** The parsed JSON, as `detail`; null if it was none. Shared between listeners: do not alter. */
  readonly data: T;
  /** The newest id told so far: the cursor to resume from. */
  readonly lastEventId: string;
  /** The `data:` text as it came; undefined for events this library makes. */
  readonly rawData: string | undefined;
}

/** Events this library makes itself. They do not go to `*`. */
export interface LocalEvents {
  state: { state: StreamState; previous: StreamState; reason: ClosedReason | null };
  /** Events are missing before the next one. `missed` is null where it cannot be counted. */
  gap: { missed: number | null; earliestId: string | null };
  /** Nothing was heard for too long; a reconnect follows. */
  stale: { silenceMs: number };
  'reconnect-scheduled': { delayMs: number; attempt: number };
  /** It was time for a try, and there will be none before the page is seen or the network back. */
  paused: { reason: 'hidden' | 'offline' };
  /** From streams to long polls, or back. */
  transport: { transport: 'stream' | 'poll' };
  /** For good. `error` and `code` are the server's, where it gave a reason. */
  closed: { reason: ClosedReason; status: number | null; error?: string; code?: string };
}

export declare class SessionEventStream extends EventTarget {
  /** Options for all instances of the page, below those given to one. */
  static defaults: SessionEventStreamOptions;
  static readonly eventNames: readonly string[];
  static readonly controlNames: readonly string[];

  /** Connects at once. An array of ids, or `'*'` for all: the stream over many sessions, which
   *  without a cursor or `replay` begins now. */
  constructor(sessionId: string | string[], options?: SessionEventStreamOptions);

  readonly sessionId: string | string[];
  readonly state: StreamState;
  readonly reason: ClosedReason | null;
  readonly lastEventId: string;
  /** Instances of this page on this instance's connection, itself included; 0 when closed. */
  readonly sharedWith: number;
  /** How events arrive now; null between connections and when closed. */
  readonly transport: Transport | null;

  on<K extends keyof LocalEvents>(name: K, listener: (event: SessionStreamEvent<LocalEvents[K]>) => void): () => void;
  on(name: 'connected', listener: (event: SessionStreamEvent<ConnectedData>) => void): () => void;
  /** `*`: every frame the server sends, its own five included (see `controlNames`). With an
   *  EventSource, names that neither this file nor a listener knows are not seen. */
  on(name: string, listener: (event: SessionStreamEvent) => void): () => void;
  off(name: string, listener: (event: SessionStreamEvent<any>) => void): void;
  /** As `on`, `*` included, with an EventTarget's own options. */
  addEventListener(name: string, listener: ((event: SessionStreamEvent<any>) => void) | EventListenerObject | null, options?: boolean | AddEventListenerOptions): void;
  removeEventListener(name: string, listener: ((event: SessionStreamEvent<any>) => void) | EventListenerObject | null, options?: boolean | EventListenerOptions): void;
  /** Ends this instance; the connection closes with its last one. Safe to repeat. */
  disconnect(): void;
}

export default SessionEventStream;

/** For code that takes the class from the page, after a plain script tag. */
type SessionEventStreamClass = typeof SessionEventStream;

declare global {
  var SessionEventStream: SessionEventStreamClass;
}
