// What session-event-stream.d.ts promises, as a user would write it. Only compiled (`tsc --noEmit`),
// by stream-types.mjs: a line here that does not compile, or an error expected that does, is a failed check.
import Default, { SessionEventStream } from '../../src/pages/session-event-stream.mjs';
import type { ClosedReason, SessionEventStreamOptions, StreamState, Transport } from '../../src/pages/session-event-stream.mjs';

const options: SessionEventStreamOptions = {
  baseUrl: 'https://host.example/claude', heartbeatTimeout: 45_000, reconnectDelay: 1000, maxReconnectDelay: 30_000,
  connectTimeout: 15_000, types: ['session-output', '-heartbeat'], view: 'compact', replay: 'all', lastEventId: 'e-1',
  heartbeat: 5, share: 'tabs', token: () => null, pollAfter: Infinity, background: true,
};
const stream = new SessionEventStream('session-1', options);
const target: EventTarget = stream;
const state: StreamState = stream.state;
const reason: ClosedReason | null = stream.reason;
const cursor: string = stream.lastEventId;
const transport: Transport | null = stream.transport;
const undo: () => void = stream.on('session-output', (event) => {
  const id: string = event.lastEventId;
  const content: unknown = event.detail.content;
  console.log(id, content, event.rawData?.length);
});
stream.on('gap', ({ detail }) => console.log(detail.missed ?? 'unknown', detail.earliestId));
stream.on('state', ({ detail }) => console.log(detail.previous, detail.state, detail.reason));
stream.on('connected', ({ detail }) => console.log(detail.resume, detail.pendingApprovals?.length));
stream.on('paused', ({ detail }) => console.log(detail.reason === 'hidden'));
stream.on('transport', ({ detail }) => console.log(detail.transport === 'poll'));
stream.on('closed', ({ detail }) => console.log(detail.status, detail.code));
stream.on('*', (event) => console.log(event.type));
stream.addEventListener('*', (event) => console.log(event.rawData), { once: true });
stream.addEventListener('*', { handleEvent: (event: Event) => console.log(event.type) });
stream.removeEventListener('*', null);
undo();
stream.disconnect();
new Default(['session-1', 'session-2'], { token: 'secret', share: false }).disconnect();
new globalThis.SessionEventStream('*').disconnect();
SessionEventStream.defaults.token = 'secret';
console.log(target, state, reason, cursor, transport, SessionEventStream.eventNames.length);

// @ts-expect-error The state is the library's to change.
stream.state = 'open';
// @ts-expect-error There is no such view.
new SessionEventStream('session-1', { view: 'short' });
// @ts-expect-error A session is needed.
new SessionEventStream();
// @ts-expect-error A misspelt option.
new SessionEventStream('session-1', { heartBeatTimeout: 1 });
