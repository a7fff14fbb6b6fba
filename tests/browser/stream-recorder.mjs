// Streams in a page, and what they were told: `open` makes one, `see` waits for what it has had.
import { until } from './until.mjs';

const CONTROL = ['connected', 'replay-complete', 'heartbeat', 'server-busy', 'server-shutdown'];

/** Opens `url` and puts a recorder beside the library there. The page need not know the library. */
export async function record(page, url, path = '/test-sse.html') {
  await page.goto(url + path);
  if (!await page.evaluate(() => 'SessionEventStream' in globalThis)) await page.addScriptTag({ url: `${url}/js/session-event-stream.js` });
  await page.evaluate((control) => {
    globalThis.streams = {};
    globalThis.open_ = (name, sessionId, options) => {
      const stream = new SessionEventStream(sessionId, options);
      const told = { ids: [], names: [], delays: [], local: [], connected: [], text: '' };
      globalThis.streams[name] = { stream, told };
      stream.on('*', (event) => {
        told.names.push(event.type);
        if (event.type === 'connected') told.connected.push(event.detail);
        if (event.type === 'session-output' && told.text !== null) told.text += event.detail.content;
        if (!control.includes(event.type)) told.ids.push(event.lastEventId);
      });
      stream.on('reconnect-scheduled', (event) => told.delays.push(event.detail.delayMs));
      for (const local of ['gap', 'stale', 'paused', 'transport', 'closed']) stream.on(local, (event) => told.local.push([local, event.detail]));
    };
  }, CONTROL);
  const open = (name, id, options = {}) => page.evaluate(([n, i, o]) => globalThis.open_(n, i, o), [name, id, options]);
  const told = (name) => page.evaluate((n) => {
    const { stream, told: all } = globalThis.streams[n];
    const { state, reason, lastEventId, sharedWith, transport } = stream;
    return { ...all, state, reason, lastEventId, sharedWith, transport };
  }, name);
  const see = (name, what, condition) => until(async () => {
    const all = await told(name);
    return condition(all) && all;
  }, what);
  const disconnect = (name) => page.evaluate((n) => globalThis.streams[n].stream.disconnect(), name);
  return { page, open, told, see, disconnect };
}

export const isOpen = ({ state }) => state === 'open';

/** Headless Chromium calls every page visible. Through the DevTools protocol (Runtime.evaluate in
 *  the page) its answers are replaced, and the event told, as a real change of tabs would. */
export async function setVisibility(page, state) {
  const devtools = await page.context().newCDPSession(page);
  await devtools.send('Runtime.evaluate', { expression: `
    Object.defineProperty(document, 'visibilityState', { configurable: true, get: () => '${state}' });
    Object.defineProperty(document, 'hidden', { configurable: true, get: () => ${state === 'hidden'} });
    document.dispatchEvent(new Event('visibilitychange', { bubbles: true }));` });
  await devtools.detach();
}
