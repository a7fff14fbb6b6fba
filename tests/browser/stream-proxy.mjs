// What a browser sees of a server behind a proxy, which runs already:
//
//   node stream-proxy.mjs --url https://NAME:PORT --backend-port PORT --token TOKEN --binary PATH [--chromium PATH] -- FLAGS
//
// A plain EventSource and the library's stream outlive a killed server without loss, and twenty tabs
// have a stream each, which takes HTTP/2. NAME is mapped to this machine. Exits 1 if one fails.
import { chromium } from 'playwright-core';
import assert from 'node:assert/strict';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { isOpen, record } from './stream-recorder.mjs';
import { RealServer } from './stream-server.mjs';
import { until } from './until.mjs';

const TABS = 20;

const { values: flags, positionals } = parseArgs({ allowPositionals: true, options: {
  url: { type: 'string' }, 'backend-port': { type: 'string' }, token: { type: 'string' }, binary: { type: 'string' },
  chromium: { type: 'string', default: '/usr/bin/chromium' },
} });
const { url, token } = flags;

/** The browser's own EventSource. It can send no header, so the tests' browser adds one to all that
 *  this page asks for (the cookie of --read-cookie would end with the server that gave it). */
async function plainStream(browser, id) {
  const page = await browser.newPage();
  await page.setExtraHTTPHeaders({ Authorization: `Bearer ${token}` });
  await record(page, url, '/login');
  await page.evaluate((sessionId) => {
    const source = new EventSource(`/api/session/${sessionId}/events`);
    globalThis.plain = { source, ids: [], busy: 0 };
    for (const name of SessionEventStream.eventNames) source.addEventListener(name, (event) => globalThis.plain.ids.push(event.lastEventId));
    source.addEventListener('server-busy', () => { globalThis.plain.busy += 1; });
  }, id);
  return () => page.evaluate(() => ({ ids: plain.ids, busy: plain.busy, state: plain.source.readyState }));
}

async function survives(server, browser) {
  const page = await browser.newPage();
  const recorder = await record(page, url, '/login');
  const id = await server.session();
  const plain = await plainStream(browser, id);
  await recorder.open('s', id, { token, reconnectDelay: 100 });
  await recorder.see('s', 'open', isOpen);
  await until(async () => (await plain()).state === 1, 'the plain stream is open');
  for (let round = 1; round <= 2; round++) {
    await server.prompt(id, 'slow 10 20');
    await server.kill('SIGKILL');
    // The proxy answers for the server, in words that an EventSource survives.
    await until(async () => (await plain()).busy >= round, 'the plain stream is told that the server is away');
    await recorder.see('s', 'the library is told too', ({ names }) => names.filter((name) => name === 'server-busy').length >= round);
    await server.run();
    await server.turn(id, `say: after restart ${round}`);
  }
  const ids = await server.ids(id);
  const { ids: had } = await recorder.see('s', 'all events', (told) => told.ids.length >= ids.length);
  assert.deepEqual(had, ids);
  await until(async () => (await plain()).ids.length >= ids.length, 'the plain stream has all events');
  assert.deepEqual((await plain()).ids, ids);
}

async function manyTabs(server, browser) {
  const id = await server.session();
  const tabs = [];
  try {
    for (let i = 0; i < TABS; i++) {
      const page = await browser.newPage();
      tabs.push(await record(page, url, '/login'));
      await tabs[i].open('s', id, { token, share: false });
    }
    for (const tab of tabs) await tab.see('s', 'open', isOpen);
    assert.equal((await server.streams()).sessions[id], TABS);
    // None of them stands in the way of a request.
    const status = await tabs[0].page.evaluate(async (secret) => (await fetch('/api/sessions', { headers: { Authorization: `Bearer ${secret}` } })).status, token);
    assert.equal(status, 200);
    await server.turn(id, 'say: to all');
    const ids = await server.ids(id);
    for (const tab of tabs) {
      const { ids: had } = await tab.see('s', 'all events', (told) => told.ids.length >= ids.length);
      assert.deepEqual(had, ids);
    }
  } finally {
    for (const { page } of tabs) await page.close();
  }
}

const profile = await mkdtemp(join(tmpdir(), 'sidestream-proxy-'));
const browser = await chromium.launchPersistentContext(profile, {
  executablePath: flags.chromium, headless: true, ignoreHTTPSErrors: true,
  args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP *.example 127.0.0.1'],
});
const server = await RealServer.start(flags.binary, positionals, Number(flags['backend-port']));
server.token = token;
try {
  await survives(server, browser);
  for (const page of browser.pages().slice(1)) await page.close();
  await manyTabs(server, browser);
} finally {
  await browser.close();
  await server.close();
  await rm(profile, { recursive: true, force: true });
}
