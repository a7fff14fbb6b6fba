// Checks of the client library against the real server: killed and restarted under it, its network
// cut, its tokens wrong, its sessions gone; and many tabs on one stream. The reference is always the
// server's own past: what a page was told must be exactly that, once and in order.
import assert from 'node:assert/strict';
import { isOpen, record, setVisibility } from './stream-recorder.mjs';
import { RealServer, Relay, bufferingProxy, tokens } from './stream-server.mjs';
import { until } from './until.mjs';

const FAST = { reconnectDelay: 50, maxReconnectDelay: 400 };
const STALE_MS = 4000; // Four heartbeats of the test's servers: enough on a busy machine.

/** `[name, check]` with a server of its own that is closed whatever happens. */
function check(binary, name, body, flags = []) {
  return [name, async (page, browser) => {
    const server = await RealServer.start(binary, flags);
    const others = [];
    try {
      await body({ server, page, browser, keep: (closes) => others.push(closes) && closes });
    } finally {
      for (const other of others.reverse()) await other.close();
      await server.close();
    }
  }];
}

/** Waits until the stream has had all that the server has, and compares. */
async function hasAll({ see }, name, server, id) {
  const all = await until(async () => {
    const ids = await server.ids(id);
    const told = await see(name, 'an answer', () => true);
    return told.ids.length >= ids.length && { ids, told };
  }, `${name} has all events`);
  assert.deepEqual(all.told.ids, all.ids);
  return all.told;
}

export function realChecks(binary) {
  const restart = (signal) => check(binary, `the real server ends by ${signal} and starts again: nothing twice, nothing missing`, async ({ server, page }) => {
    const recorder = await record(page, server.url);
    const id = await server.session();
    await recorder.open('s', id, { ...FAST, heartbeatTimeout: STALE_MS, pollAfter: Infinity });
    await recorder.see('s', 'open', isOpen);
    for (let round = 1; round <= 3; round++) {
      await server.prompt(id, 'slow 8 20'); // On its way when the end comes.
      await recorder.see('s', 'its words', ({ names }) => names.at(-1) === 'session-output' || names.filter((name) => name === 'prompt-completed').length >= round);
      await server.kill(signal);
      await recorder.see('s', 'the loss is noticed', ({ state }) => state === 'reconnecting');
      await server.run();
      await recorder.see('s', 'back', (told) => isOpen(told) && told.connected.length === round + 1);
      await server.turn(id, `say: after restart ${round}`);
    }
    const { connected, local, names } = await hasAll(recorder, 's', server, id);
    assert.deepEqual(connected.map(({ resume }) => resume), ['fresh', 'ok', 'ok', 'ok']);
    assert.deepEqual(local, []);
    assert.equal(names.includes('server-shutdown'), signal === 'SIGTERM');
  });

  return [
    restart('SIGKILL'),
    restart('SIGTERM'),

    check(binary, 'a network that dies without a word is noticed by the missing heartbeats, and resumed', async ({ server, page, keep }) => {
      const relay = keep(await Relay.to(server.port));
      const recorder = await record(page, relay.url);
      const id = await server.session();
      await recorder.open('s', id, { ...FAST, heartbeatTimeout: STALE_MS, connectTimeout: 2000, pollAfter: Infinity });
      await recorder.see('s', 'open', isOpen);
      relay.die();
      await server.turn(id, 'say: unheard at first');
      const { local, names } = await recorder.see('s', 'the silence is noticed', (told) => told.local.length > 0);
      assert.equal(local[0][0], 'stale');
      assert.ok(local[0][1].silenceMs >= STALE_MS, `after ${local[0][1].silenceMs} ms`);
      assert.ok(!names.includes('session-output'), 'the relay was not dead');
      relay.revive();
      await recorder.see('s', 'back', (told) => isOpen(told) && told.connected.length === 2);
      await hasAll(recorder, 's', server, id);
    }),

    check(binary, 'a network behind the page that comes back late: a visible page asks at once', async ({ server, page, keep }) => {
      const relay = keep(await Relay.to(server.port));
      const recorder = await record(page, relay.url);
      const id = await server.session();
      // Left alone it would notice in an hour. (A try may go to an idle socket that is as dead.)
      await recorder.open('s', id, { ...FAST, heartbeatTimeout: 3_600_000, connectTimeout: 2000, pollAfter: Infinity });
      await recorder.see('s', 'open', isOpen);
      await setVisibility(page, 'hidden');
      relay.die();
      relay.revive(); // For new connections only.
      await server.turn(id, 'say: while hidden');
      // The clock of a page that slept: two minutes have passed, four times what it may wait.
      await page.evaluate(() => {
        const real = Date.now;
        Date.now = () => real() + 120_000;
      });
      await setVisibility(page, 'visible');
      await recorder.see('s', 'back', (told) => isOpen(told) && told.connected.length === 2);
      await hasAll(recorder, 's', server, id);
    }),

    check(binary, 'an unknown session, a closed one, and options that the real server refuses end the stream', async ({ server, page }) => {
      const recorder = await record(page, server.url);
      const id = await server.session();
      await recorder.open('unknown', 'session-1-nowhere', FAST);
      await recorder.open('closing', id, FAST);
      await recorder.see('closing', 'open', isOpen);
      const unknown = await recorder.see('unknown', 'closed', ({ state }) => state === 'closed');
      assert.equal(unknown.reason, 'not-found');
      assert.deepEqual([unknown.local[0][1].status, unknown.local[0][1].code], [404, 'session_not_found']);
      await server.ask('DELETE', `/api/session/${id}`);
      const closed = await recorder.see('closing', 'closed', ({ state }) => state === 'closed');
      assert.deepEqual([closed.reason, closed.names.at(-1)], ['session-closed', 'session-closed']);
      const other = await server.session();
      await recorder.open('bad', other, { ...FAST, types: 'no-such-event' });
      const bad = await recorder.see('bad', 'closed', ({ state }) => state === 'closed');
      assert.deepEqual([bad.reason, bad.local.at(-1)[1].status], ['bad-request', 400]);
      await until(async () => (await server.streams()).totalConnections === 0, 'no stream is left');
    }),

    check(binary, 'a cursor that the real server does not know is told as a gap, and the past is told', async ({ server, page }) => {
      const recorder = await record(page, server.url);
      const id = await server.session();
      await server.turn(id, 'say: old');
      await recorder.open('s', id, { ...FAST, lastEventId: 'elsewhere-7' });
      const told = await recorder.see('s', 'caught up', ({ names }) => names.includes('replay-complete'));
      assert.deepEqual([told.local.length, told.local[0][0], told.local[0][1].missed], [1, 'gap', null]);
      await hasAll(recorder, 's', server, id);
    }),

    ['a token streams by fetch with Authorization and no query; a wrong one and none are refused', async (page) => {
      const access = await tokens(['laptop', 'phone']);
      const server = await RealServer.start(binary, access.flags);
      [server.token] = access.tokens;
      try {
        const asked = [];
        page.on('request', (request) => asked.push(request));
        const recorder = await record(page, server.url);
        const id = await server.session();
        await recorder.open('right', id, { ...FAST, token: access.tokens[1] });
        await recorder.open('wrong', id, { ...FAST, token: 'guess' });
        await recorder.open('none', id, FAST);
        await recorder.see('right', 'open', isOpen);
        assert.equal((await recorder.told('right')).transport, 'fetch');
        for (const name of ['wrong', 'none']) {
          const { reason, local } = await recorder.see(name, 'closed', ({ state }) => state === 'closed');
          assert.deepEqual([reason, local.at(-1)[1].status], ['unauthorized', 401], name);
        }
        await server.kill('SIGKILL');
        await server.run();
        await server.turn(id, 'say: grüße 👋');
        const { text } = await hasAll(recorder, 'right', server, id);
        assert.equal(text, 'grüße 👋');
        const headers = await Promise.all(asked.map((request) => request.allHeaders()));
        assert.ok(headers.some(({ authorization }) => authorization === `Bearer ${access.tokens[1]}`));
        assert.ok(headers.every(({ cookie }) => cookie === undefined), 'a cookie was sent');
        assert.ok(asked.every((request) => !request.url().includes(access.tokens[1])), 'the token stood in an address');
      } finally {
        await server.close();
        await access.close();
      }
    }],

    check(binary, 'behind a proxy that buffers streams it goes on by long poll, and says so', async ({ server, page, keep }) => {
      const proxy = keep(await bufferingProxy(server.port));
      const lines = [];
      page.on('console', (message) => lines.push(message.text()));
      const recorder = await record(page, proxy.url);
      const id = await server.session();
      await server.turn(id, 'say 20 words');
      await recorder.open('s', id, { ...FAST, connectTimeout: 1000 });
      const first = await recorder.see('s', 'open', isOpen);
      assert.equal(first.transport, 'poll');
      assert.deepEqual(first.local.filter(([name]) => name === 'transport'), [['transport', { transport: 'poll' }]]);
      assert.ok(lines.some((line) => line.includes('falling back to long poll')), lines.join(' | '));
      assert.deepEqual([first.connected[0].status, first.connected[0].pendingApprovals], ['idle', []]);
      for (let i = 0; i < 3; i++) await server.turn(id, `say: turn ${i}`);
      const { names } = await hasAll(recorder, 's', server, id);
      assert.equal(names.filter((name) => name === 'replay-complete').length, 1);
      await server.kill('SIGKILL'); // The poll is cut; the next stream hangs in the proxy; a poll again.
      await server.run();
      await server.turn(id, 'say: after the restart');
      await hasAll(recorder, 's', server, id);
      assert.equal((await recorder.see('s', 'open', isOpen)).transport, 'poll');
    }),

    check(binary, 'one stream over several sessions, and over all', async ({ server, page }) => {
      const recorder = await record(page, server.url);
      const [a, b, c] = [await server.session(), await server.session(), await server.session()];
      await recorder.open('two', [a, b], FAST);
      await recorder.open('all', '*', FAST);
      for (const name of ['two', 'all']) await recorder.see(name, 'open', isOpen);
      const before = [...await server.ids(a), ...await server.ids(b), ...await server.ids(c)];
      for (const id of [a, b, c]) await server.turn(id, 'say: hello');
      await server.kill('SIGKILL');
      await server.run();
      for (const id of [a, b, c]) await server.turn(id, 'say: again');
      const news = async (ids) => {
        const all = [];
        for (const id of ids) all.push(...await server.ids(id));
        return all.filter((id) => !before.includes(id)).sort(byNumber);
      };
      for (const [name, ids] of [['two', [a, b]], ['all', [a, b, c]]]) {
        const wanted = await news(ids);
        const { ids: had } = await recorder.see(name, 'all', (told) => told.ids.length >= wanted.length);
        assert.deepEqual(had, wanted, name);
      }
      const { sessions } = await server.streams();
      assert.deepEqual(sessions, { '*': 2 });
    }),

    ...tabChecks(binary),
  ];
}

/** By what stands behind the epoch. */
function byNumber(one, other) {
  const [a, b] = [one, other].map((id) => BigInt(id.split('-').at(-1)));
  return a < b ? -1 : Number(a > b);
}

const TABS = 20;
const SESSIONS = 4;
const SHARED = { ...FAST, share: 'tabs', heartbeatTimeout: STALE_MS };

/** Tabs with a shared stream each, spread over some sessions. */
async function openTabs(server, browser, count) {
  const ids = [];
  for (let i = 0; i < SESSIONS; i++) ids.push(await server.session());
  const tabs = [];
  for (let i = 0; i < count; i++) {
    const page = await browser.newPage();
    const tab = { page, id: ids[i % SESSIONS], leads: 0 };
    page.on('request', (request) => { // Only a leader asks for the stream over all.
      if (new URL(request.url()).pathname === '/api/events') tab.leads += 1;
    });
    Object.assign(tab, await record(page, server.url, '/login'));
    await tab.open('s', tab.id, SHARED);
    tabs.push(tab);
  }
  const close = async () => {
    for (const { page } of tabs) await page.close();
  };
  return { ids, tabs, close };
}

const oneStream = (server) => until(async () => {
  const { sessions } = await server.streams();
  return JSON.stringify(sessions) === '{"*":1}';
}, 'one stream for all tabs');

function tabChecks(binary) {
  return [
    check(binary, `${TABS} tabs share one stream; when the leading tab goes another leads, and nothing is lost`, async ({ server, browser, keep }) => {
      const { ids, tabs } = keep(await openTabs(server, browser, TABS));
      for (const tab of tabs) await tab.see('s', 'open', isOpen);
      await oneStream(server);
      for (const id of ids) await server.turn(id, 'say 5 words');
      for (const tab of tabs) await hasAll(tab, 's', server, tab.id);
      assert.equal(tabs.filter(({ leads }) => leads > 0).length, 1, 'one tab leads');
      // In quiet, nobody but the new leader notices.
      const first = tabs.findIndex(({ leads }) => leads > 0);
      await tabs[first].page.close();
      tabs.splice(first, 1);
      await until(() => tabs.some(({ leads }) => leads > 0), 'another tab leads');
      await oneStream(server);
      for (const id of ids) await server.turn(id, 'say: under the second');
      for (const tab of tabs) assert.equal((await hasAll(tab, 's', server, tab.id)).connected.length, 1);
      for (let round = 0; round < 2; round++) {
        const leading = tabs.findIndex(({ leads }) => leads > 0);
        const turns = ids.map((id) => server.turn(id, 'slow 20 20')); // On their way meanwhile.
        await tabs[leading].page.close();
        tabs.splice(leading, 1);
        await Promise.all(turns);
        for (const tab of tabs) await hasAll(tab, 's', server, tab.id);
        await until(() => tabs.some(({ leads }) => leads > 0), 'another tab leads');
      }
      await oneStream(server);
      for (const tab of tabs) assert.deepEqual((await tab.told('s')).local, []);
    }),

    check(binary, 'the leading tab falls silent: the others notice, one takes the lead from it, and it follows', async ({ server, browser, keep }) => {
      const { ids, tabs } = keep(await openTabs(server, browser, SESSIONS));
      for (const tab of tabs) await tab.see('s', 'open', isOpen);
      await oneStream(server);
      const old = tabs.find(({ leads }) => leads > 0);
      const others = tabs.filter((tab) => tab !== old);
      // As a frozen tab does: it keeps the lock, and neither tells nor answers anything.
      await old.page.evaluate(() => {
        globalThis.said = BroadcastChannel.prototype.postMessage;
        BroadcastChannel.prototype.postMessage = () => {};
      });
      for (const id of ids) await server.turn(id, 'say: while the leader stands still');
      for (const tab of others) await hasAll(tab, 's', server, tab.id);
      await until(() => others.some(({ leads }) => leads > 0), 'another tab leads');
      for (const tab of others) assert.ok((await tab.told('s')).local.every(([name]) => name === 'stale'));
      await old.page.evaluate(() => { BroadcastChannel.prototype.postMessage = globalThis.said; });
      await hasAll(old, 's', server, old.id);
      await oneStream(server);
      for (const id of ids) await server.turn(id, 'say: all together');
      for (const tab of tabs) await hasAll(tab, 's', server, tab.id);
    }),

    check(binary, 'tabs on one stream come back from a killed server, one of them first', async ({ server, browser, keep }) => {
      const { ids, tabs } = keep(await openTabs(server, browser, SESSIONS));
      for (const tab of tabs) await tab.see('s', 'open', isOpen);
      // Nobody looks at the leading tab: its own stream pauses, and it gives up the lead.
      const leader = tabs.find(({ leads }) => leads > 0);
      const others = tabs.filter((tab) => tab !== leader);
      await setVisibility(leader.page, 'hidden');
      await server.kill('SIGKILL');
      for (const tab of tabs) await tab.see('s', 'the loss is noticed', ({ state }) => state === 'reconnecting');
      await server.run();
      for (const id of ids) await server.turn(id, 'say: behind a hidden leader');
      for (const tab of others) await hasAll(tab, 's', server, tab.id);
      assert.ok((await leader.told('s')).local.some(([name]) => name === 'paused'));
      await setVisibility(leader.page, 'visible');
      await hasAll(leader, 's', server, leader.id);
      for (const signal of ['SIGKILL', 'SIGTERM']) {
        await server.kill(signal);
        for (const tab of tabs) await tab.see('s', 'the loss is noticed', ({ state }) => state === 'reconnecting');
        await server.run();
        for (const id of ids) await server.turn(id, `say: after ${signal}`);
        for (const tab of tabs) await hasAll(tab, 's', server, tab.id);
      }
      await oneStream(server);
    }),

    check(binary, 'a tab that joins a shared stream in the midst of a turn gets all of it once, however late the leader tells', async ({ server, browser, keep }) => {
      const { ids: [id], tabs } = keep(await openTabs(server, browser, 1));
      const [leader] = tabs;
      await leader.see('s', 'open', isOpen);
      const tell = async (delayMs) => leader.page.evaluate((ms) => {
        globalThis.said ??= BroadcastChannel.prototype.postMessage;
        BroadcastChannel.prototype.postMessage = ms === 0 ? globalThis.said : function later(message) {
          setTimeout(() => globalThis.said.call(this, structuredClone(message)), ms);
        };
      }, delayMs);
      for (const delayMs of [0, 400]) {
        await tell(delayMs);
        const page = await browser.newPage();
        const late = await record(page, server.url, '/login');
        keep({ close: () => page.close() });
        const turn = server.turn(id, 'slow 100 20');
        for (let i = 0; i < 6; i++) {
          // Each for other sessions, so that each has a connection of its own.
          await late.open(`s${i}`, [id, `nobody-${i}`], { ...SHARED, replay: 'all' });
          await late.see(`s${i}`, 'open', isOpen);
        }
        await turn;
        for (let i = 0; i < 6; i++) await hasAll(late, `s${i}`, server, id);
        // Whoever has all from a snapshot is told nothing of it again.
        const last = (await server.ids(id)).at(-1);
        await server.turn(id, 'say: quick');
        const now = (await server.ids(id)).at(-1);
        assert.notEqual(now, last);
        await late.open('snapshot', id, { ...SHARED, lastEventId: now });
        await late.see('snapshot', 'open', ({ names }) => names.includes('replay-complete'));
        await server.turn(id, 'say: the first it hears');
        const all = await server.ids(id);
        const wanted = all.slice(all.indexOf(now) + 1);
        const { ids: had } = await late.see('snapshot', 'the turn', (told) => told.ids.length >= wanted.length);
        assert.deepEqual(had, wanted);
      }
    }),

    check(binary, 'what the leader tells while a tab is still catching up is not lost', async ({ server, page, browser, keep }) => {
      const relay = keep(await Relay.to(server.port));
      const id = await server.session();
      const leader = await record(page, relay.url, '/login');
      await leader.open('s', id, SHARED);
      await leader.see('s', 'open', isOpen);
      await oneStream(server);
      // A tab's own short stream is late by half a second; the leader's is not.
      relay.slow = { path: /^GET \/api\/session\//, delayMs: 500 };
      const other = await browser.newPage();
      keep({ close: () => other.close() });
      const late = await record(other, relay.url, '/login');
      const turn = server.turn(id, 'slow 100 20');
      await late.open('s', id, { ...SHARED, replay: 'all' });
      await turn;
      await hasAll(late, 's', server, id);
      assert.deepEqual((await late.told('s')).connected.map(({ resume }) => resume), ['fresh']);
    }),

    check(binary, 'a tab that missed what the leader told notices: by the next frame, or by the next leader', async ({ server, browser, keep }) => {
      const id = await server.session();
      const pages = [];
      keep({ close: async () => { for (const one of pages) await one.close(); } });
      const tabs = [];
      for (let i = 0; i < 3; i++) { // They lead in this order.
        pages.push(await browser.newPage());
        tabs.push(await record(pages[i], server.url, '/login'));
        await pages[i].evaluate(() => {
          const { set, ...rest } = Object.getOwnPropertyDescriptor(BroadcastChannel.prototype, 'onmessage');
          const deafened = (listener) => (event) => globalThis.deaf || listener(event);
          Object.defineProperty(BroadcastChannel.prototype, 'onmessage', { ...rest, set(listener) { set.call(this, deafened(listener)); } });
        });
        await tabs[i].open('s', id, SHARED);
        await tabs[i].see('s', 'open', isOpen);
      }
      const last = tabs[2];
      const miss = async () => {
        await pages[2].evaluate(() => { globalThis.deaf = true; });
        await server.turn(id, 'say: not heard by the last');
        await hasAll(tabs[1], 's', server, id);
        await pages[2].evaluate(() => { globalThis.deaf = false; });
      };
      await miss();
      await server.turn(id, 'say: heard by all');
      await hasAll(last, 's', server, id);
      await miss();
      await pages[0].close();
      await hasAll(last, 's', server, id);
      await hasAll(tabs[1], 's', server, id);
      await oneStream(server);
    }),

    ['tabs with different tokens share nothing; a refused one ends, and the others do not', async (page, browser) => {
      const access = await tokens(['laptop', 'phone']);
      const server = await RealServer.start(binary, access.flags);
      [server.token] = access.tokens;
      const pages = [page, await browser.newPage(), await browser.newPage()];
      try {
        const id = await server.session();
        const recorders = [];
        for (const [i, token] of [...access.tokens, 'guess'].entries()) {
          recorders.push(await record(pages[i], server.url, '/login'));
          await recorders[i].open('s', id, { ...SHARED, token });
        }
        const { reason, local } = await recorders[2].see('s', 'closed', ({ state }) => state === 'closed');
        assert.equal(reason, 'unauthorized');
        assert.deepEqual(local.map(([name]) => name), ['closed'], 'told at once, not by its silence');
        await server.turn(id, 'say: for both');
        for (const recorder of recorders.slice(0, 2)) await hasAll(recorder, 's', server, id);
        await until(async () => JSON.stringify((await server.streams()).sessions) === '{"*":2}', 'a stream for each token');
      } finally {
        for (const one of pages.slice(1)) await one.close();
        await server.close();
        await access.close();
      }
    }],

    check(binary, 'a shared stream keeps to its types, its sessions and names that only it listens to', async ({ server, browser, keep }) => {
      const { ids, tabs } = keep(await openTabs(server, browser, 2));
      const [first, second] = tabs;
      for (const tab of tabs) await tab.see('s', 'open', isOpen);
      await second.open('some', ids[0], { ...SHARED, types: ['prompt-started', 'prompt-completed'] });
      await second.open('most', ids[0], { ...SHARED, types: '-session-output' });
      await second.open('all', '*', SHARED);
      for (const name of ['some', 'most', 'all']) await second.see(name, 'open', isOpen);
      await oneStream(server);
      for (const id of ids.slice(0, 2)) await server.turn(id, 'say: a word');
      await hasAll(first, 's', server, ids[0]);
      await hasAll(second, 's', server, ids[1]);
      const some = await second.see('some', 'the end', ({ names }) => names.includes('prompt-completed'));
      assert.deepEqual(some.names.filter((name) => name.startsWith('prompt-') || name.startsWith('session-')), ['prompt-started', 'prompt-completed']);
      const most = await second.see('most', 'the end', ({ names }) => names.includes('prompt-completed'));
      assert.ok(most.names.includes('message-block') && !most.names.includes('session-output'));
      const all = await second.see('all', 'both ends', ({ names }) => names.filter((name) => name === 'prompt-completed').length === 2);
      assert.ok(all.names.includes('session-output'));
    }),
  ];
}
