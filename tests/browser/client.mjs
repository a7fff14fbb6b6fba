// Checks of the client library's manners, against a server that misbehaves on request.
//
// Each check has a mock of its own. Timings are small by option; every wait is for a condition.
import assert from 'node:assert/strict';
import { Mock } from './mock-server.mjs';
import { isOpen, record, setVisibility } from './stream-recorder.mjs';
import { until } from './until.mjs';

/** A page of the mock's origin, where `open(name, session, options)` makes a recorded stream. */
async function prepare(page, mock, origin = mock.url) {
  const { open, ...recorder } = await record(page, origin);
  return { ...recorder, open: (name, session, options) => open(name, session.id, options) };
}

/** `[name, check]` with a mock that is closed whatever happens. */
function check(name, body) {
  return [name, async (page, browser) => {
    const mock = await new Mock().listen();
    try {
      await body({ mock, page, browser, ...await prepare(page, mock) });
    } finally {
      await mock.close();
    }
  }];
}

const idsOf = (session) => session.log.map((frame) => frame.id);
const FAST = { reconnectDelay: 20, maxReconnectDelay: 160 };
const NEVER_POLL = { ...FAST, pollAfter: Infinity };

export function clientChecks() {
  return [
    check('the first retry follows at once, later ones wait twice as long, half of it random', async ({ mock, open, see }) => {
      const [one, two] = [mock.session(), mock.session()];
      // An empty stream, not a reset: after a reset Chromium may ask once more by itself.
      for (const session of [one, two]) session.handler = (stream) => Boolean(stream.head().res.end());
      await open('one', one, NEVER_POLL);
      await open('two', two, NEVER_POLL);
      const first = (await see('one', 'nine tries', ({ delays }) => delays.length >= 9)).delays;
      const second = (await see('two', 'nine tries', ({ delays }) => delays.length >= 9)).delays;
      for (const delays of [first, second]) {
        assert.equal(delays[0], 0);
        for (let i = 1; i < 9; i++) {
          const full = Math.min(160, 20 * 2 ** (i - 1));
          assert.ok(delays[i] >= full / 2 - 1 && delays[i] <= full + 1, `try ${i}: ${delays[i]} of ${full}`);
        }
      }
      assert.notDeepEqual(first.slice(1, 9), second.slice(1, 9), 'no jitter');
      for (let i = 1; i < 8; i++) {
        const gap = one.opened[i].at - one.opened[i - 1].at;
        assert.ok(gap >= first[i - 1] - 2, `came back after ${gap}, said ${first[i - 1]}`);
      }
    }),

    check('the backoff clears after a connection that stayed open, not after one that died at once', async ({ mock, open, see }) => {
      const session = mock.session();
      mock.heartbeatMs = 20;
      session.handler = (stream) => {
        if (stream.number > 4) return false; // The first four say hello and die.
        stream.serve();
        stream.res.end();
        return true;
      };
      await open('s', session, NEVER_POLL);
      const { delays } = await see('s', 'it stays open', (told) => isOpen(told) && session.opened.length === 5 && told.names.slice(-15).every((name) => name === 'heartbeat'));
      assert.ok(delays[3] >= 20, `spun: ${delays}`);
      session.cut();
      const after = await see('s', 'it comes back', (told) => told.delays.length === 5);
      assert.equal(after.delays[4], 0);
    }),

    check('a token function that throws is asked again, whenever it is', async ({ mock, page }) => {
      const session = mock.session();
      const tell = (share) => page.evaluate(async ([base, id, share]) => {
        let asked = 0;
        const stream = new SessionEventStream(id, { baseUrl: base, share, reconnectDelay: 20, maxReconnectDelay: 80, token: () => {
          asked += 1;
          if ([1, 3, 4].includes(asked)) throw new Error('no storage now');
          return 'secret';
        } });
        globalThis.opened = 0;
        globalThis.stream = stream;
        stream.on('connected', () => { globalThis.opened += 1; });
        await new Promise((done) => { stream.on('connected', done); });
        return [asked, stream.transport];
      }, [mock.url, session.id, share]);
      for (const share of [false, true]) {
        const [asked] = await tell(share);
        assert.ok(asked >= 2, `asked ${asked} times`);
        session.cut();
        await page.waitForFunction(() => globalThis.opened === 2 && globalThis.stream.state === 'open');
        assert.deepEqual([session.polled.length, session.opened.at(-1).authorization], [0, 'Bearer secret']);
        await page.evaluate(() => globalThis.stream.disconnect());
      }
      const tabs = await page.evaluate(async ([base, id]) => {
        let asked = 0;
        const stream = new SessionEventStream(id, { baseUrl: base, share: 'tabs', reconnectDelay: 20, maxReconnectDelay: 80, token: () => {
          asked += 1;
          if (asked > 1 && asked < 8) throw new Error('no storage now');
          return 'secret';
        } });
        await new Promise((done) => { stream.on('reconnect-scheduled', ({ detail }) => detail.attempt === 3 && done()); });
        const states = [stream.state];
        stream.disconnect();
        return states;
      }, [mock.url, session.id]);
      assert.deepEqual(tabs, ['reconnecting']);
    }),

    check('addEventListener hears every frame by *, as on does, with its options', async ({ mock, page }) => {
      const session = mock.session();
      const told = await page.evaluate(async ([base, id]) => {
        const stream = new SessionEventStream(id, { baseUrl: base, share: false });
        const heard = { on: [], added: [], object: [], once: [], removed: [] };
        const add = (name) => (event) => heard[name].push(`${event.type} ${event.lastEventId}`);
        const [removed, added] = [add('removed'), add('added')];
        stream.on('*', add('on'));
        stream.addEventListener('*', added);
        stream.addEventListener('*', added); // Twice is once.
        stream.addEventListener('*', { handleEvent: add('object') });
        stream.addEventListener('*', add('once'), { once: true });
        stream.addEventListener('*', removed);
        stream.removeEventListener('*', removed);
        await new Promise((done) => { stream.on('replay-complete', () => setTimeout(done)); });
        stream.disconnect();
        return heard;
      }, [mock.url, session.id]);
      assert.ok(told.on.length >= 3, `${told.on}`);
      assert.deepEqual([told.added, told.object, told.once, told.removed], [told.on, told.on, told.on.slice(0, 1), []]);
    }),

    check('a stream without even heartbeats is noticed and resumed by id', async ({ mock, open, see }) => {
      const session = mock.session();
      mock.heartbeatMs = 0;
      await open('s', session, { ...FAST, heartbeatTimeout: 200 });
      const { local, ids } = await see('s', 'it reconnects', ({ connected }) => connected.length >= 2);
      assert.equal(local[0][0], 'stale');
      assert.equal(session.opened[1].cursor, idsOf(session).at(-1));
      assert.deepEqual(ids, idsOf(session));
      await until(() => session.readers.size === 1, 'the silent connection was closed');
    }),

    check('heartbeats keep an idle stream open', async ({ mock, open, see }) => {
      const session = mock.session();
      mock.heartbeatMs = 50;
      await open('s', session, { heartbeatTimeout: 1500 });
      await see('s', 'forty heartbeats', ({ names }) => names.filter((name) => name === 'heartbeat').length >= 40);
      assert.equal(session.opened.length, 1);
    }),

    check('a server that accepts and says nothing is given up', async ({ mock, open, see }) => {
      const session = mock.session();
      session.handler = (stream) => stream.number === 1 && Boolean(stream.head());
      await open('s', session, { ...FAST, connectTimeout: 200 });
      await see('s', 'the second try is served', isOpen);
      assert.equal(session.opened.length, 2);
    }),

    check('a cut stream resumes by id: nothing twice, nothing missing, in order', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('s', session, NEVER_POLL);
      await see('s', 'open', isOpen);
      for (let round = 1; round <= 6; round++) {
        session.publish('session-output', { type: 'stdout', content: `${round}a` });
        session.cut({ reset: round % 2 === 0 });
        session.publish('session-output', { type: 'stdout', content: `${round}b` });
        await see('s', `round ${round}`, ({ ids, connected }) => ids.length === session.log.length && connected.length === round + 1);
      }
      const { ids, connected, lastEventId } = await see('s', 'open', isOpen);
      assert.deepEqual(ids, idsOf(session));
      assert.deepEqual(connected.map(({ resume }) => resume), ['fresh', ...Array(6).fill('ok')]);
      assert.equal(lastEventId, idsOf(session).at(-1));
    }),

    check('a gap is told, and what came before it is not told twice', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('s', session, FAST);
      await see('s', 'open', isOpen);
      const before = idsOf(session);
      session.handler = (stream) => stream.serve({ resume: 'gap' }); // Replays the old events too.
      session.cut();
      session.publish('session-output', { type: 'stdout', content: 'after' });
      const { local, ids } = await see('s', 'the rest comes', (told) => told.ids.length === before.length + 1);
      assert.deepEqual(local, [['gap', { missed: null, earliestId: before[0] }]]);
      assert.deepEqual(ids, idsOf(session));
    }),

    check('an unknown cursor given by option tells a gap', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('s', session, { lastEventId: 'long-gone' });
      const { local, ids } = await see('s', 'open', (told) => isOpen(told) && told.names.includes('replay-complete'));
      assert.equal(local[0][0], 'gap');
      assert.deepEqual(ids, idsOf(session));
    }),

    check('a refusal for good ends the stream with its reason; another is retried', async ({ mock, open, see }) => {
      const cases = [[401, 'unauthorized'], [403, 'forbidden'], [404, 'not-found'], [410, 'gone']];
      for (const [status, reason] of cases) {
        const session = mock.session();
        session.statusCode = status;
        session.handler = ({ res }) => mock.refuse(res, status, 'Refused by the test.', 'refused') || true;
        await open(reason, session, FAST);
        const { local } = await see(reason, `closed by ${status}`, ({ state }) => state === 'closed');
        assert.deepEqual(local, [['closed', { reason, status, error: 'Refused by the test.', code: 'refused' }]]);
        assert.equal(session.opened.length, 1);
      }
      const session = mock.session();
      session.handler = ({ number, res }) => number <= 3 && (mock.json(res, 502, {}) || true);
      await open('s', session, NEVER_POLL);
      await see('s', 'open in the end', isOpen);
      assert.equal(session.opened.length, 4);
    }),

    check('a session that goes away ends the stream', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('s', session, FAST);
      await see('s', 'open', isOpen);
      mock.sessions.delete(session.id);
      session.cut();
      const { reason } = await see('s', 'closed', ({ state }) => state === 'closed');
      assert.equal(reason, 'not-found');
    }),

    check('session-closed ends the stream', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('s', session, FAST);
      await see('s', 'open', isOpen);
      session.publish('session-closed', { status: 'closed' });
      const { reason, names } = await see('s', 'closed', ({ state }) => state === 'closed');
      assert.equal(reason, 'session-closed');
      assert.equal(names.at(-1), 'session-closed');
      await until(() => session.readers.size === 0, 'its connection is closed');
    }),

    check('server-busy and server-shutdown are believed: not back before their time', async ({ mock, open, see }) => {
      const session = mock.session();
      session.handler = (stream) => {
        if (stream.number > 1) return false;
        stream.head().send('server-busy', { retryAfterMs: 700, reason: 'limit' });
        stream.res.end();
        return true;
      };
      await open('s', session, FAST);
      await see('s', 'open', isOpen);
      assert.equal(session.opened.length, 2);
      assert.ok(session.opened[1].at - session.opened[0].at >= 690, 'came back too early');
      const shutdown = performance.now();
      for (const reader of session.readers) reader.send('server-shutdown', { retryAfterMs: 500 });
      session.cut();
      await see('s', 'back again', ({ connected }) => connected.length === 2);
      assert.ok(session.opened[2].at - shutdown >= 490, 'came back too early');
    }),

    check('a late joiner sees everything once, on the same connection', async ({ mock, open, see, told }) => {
      const session = mock.session();
      for (let i = 0; i < 20; i++) session.publish('session-output', { type: 'stdout', content: `${i}` });
      await open('first', session, FAST);
      await see('first', 'open', ({ names }) => names.includes('replay-complete'));
      const live = setInterval(() => session.publish('session-output', { type: 'stdout', content: 'live' }), 1);
      session.timers.add(live);
      for (const name of ['a', 'b', 'c']) await open(name, session, FAST);
      for (const name of ['a', 'b', 'c']) await see(name, 'open', isOpen);
      session.cut(); // The joiners' connection is cut like anyone's.
      await see('a', 'reconnected', ({ connected }) => connected.length === 2);
      clearInterval(live);
      for (const name of ['first', 'a', 'b', 'c']) {
        const all = await see(name, 'all events', ({ ids }) => ids.length >= session.log.length);
        assert.deepEqual(all.ids, idsOf(session), name);
      }
      const joined = await told('a');
      assert.equal(session.opened.length, 2);
      assert.equal(joined.sharedWith, 4);
      assert.equal(joined.connected[0].joined, true);
      assert.equal(joined.connected[0].resume, 'fresh');
      assert.equal(joined.names[0], 'connected');
    }),

    check('who joins while the connection is down gets the same as the others', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('first', session, FAST);
      await see('first', 'open', isOpen);
      session.handler = ({ res }) => res.socket.destroy() || true;
      session.cut();
      await see('first', 'down', ({ delays }) => delays.length > 2);
      await open('late', session, FAST);
      session.publish('session-output', { type: 'stdout', content: 'meanwhile' });
      session.handler = null;
      for (const name of ['first', 'late']) {
        const { ids } = await see(name, 'all', (told) => isOpen(told) && told.ids.length === session.log.length);
        assert.deepEqual(ids, idsOf(session));
      }
    }),

    check('past the buffer a joiner gets the newest, and one that wants all its own connection', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('first', session);
      await open('all-first', session, { replay: 'all' });
      for (const name of ['first', 'all-first']) await see(name, 'open', isOpen);
      for (let i = 0; i < 50; i++) session.publish('session-output', { type: 'stdout', content: 'x'.repeat(10_000) });
      for (const name of ['first', 'all-first']) await see(name, 'all', ({ ids }) => ids.length === session.log.length);
      await open('newest', session);
      const newest = await see('newest', 'joined', isOpen);
      assert.ok(newest.ids.length >= 20 && newest.ids.length <= 26, `${newest.ids.length} events`);
      assert.deepEqual(newest.ids, idsOf(session).slice(-newest.ids.length));
      assert.equal(session.opened.length, 2);
      await open('all', session, { replay: 'all' });
      const all = await see('all', 'everything', ({ ids }) => ids.length === session.log.length);
      assert.deepEqual(all.ids, idsOf(session));
      assert.equal(session.opened.length, 3);
    }),

    check('what a joiner is told of the session is true now', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('first', session);
      await see('first', 'open', isOpen);
      session.setStatus('waiting');
      session.publish('approval-required', { approvalId: 'a1' });
      session.publish('approval-required', { approvalId: 'a2' });
      session.publish('approval-resolved', { approvalId: 'a1' });
      await see('first', 'all', ({ ids }) => ids.length === session.log.length);
      await open('late', session);
      const { connected } = await see('late', 'open', isOpen);
      assert.equal(connected[0].status, 'waiting');
      assert.deepEqual(connected[0].pendingApprovals, ['a2']);
      assert.equal(connected[0].latestId, idsOf(session).at(-1));
    }),

    check('the last one out closes the connection, and only the last', async ({ mock, open, see, disconnect }) => {
      const session = mock.session();
      for (const name of ['a', 'b']) await open(name, session);
      for (const name of ['a', 'b']) await see(name, 'open', isOpen);
      await disconnect('a');
      session.publish('session-output', { type: 'stdout', content: 'for b' });
      await see('b', 'b goes on', ({ ids }) => ids.length === session.log.length);
      assert.equal(session.readers.size, 1);
      await disconnect('b');
      await disconnect('b');
      await until(() => session.readers.size === 0, 'closed');
      await open('c', session);
      await see('c', 'a new one opens anew', isOpen);
      assert.equal(session.opened.length, 2);
    }),

    check('a page that comes back reconnects at once, not at the next timer', async ({ mock, page, open, see }) => {
      const session = mock.session();
      await open('s', session, { heartbeatTimeout: 3_600_000 });
      await see('s', 'open', isOpen);
      await page.evaluate(() => window.dispatchEvent(new PageTransitionEvent('pageshow', { persisted: true })));
      await see('s', 'after a restore', ({ connected }) => connected.length === 2);
      await page.evaluate(() => {
        const real = Date.now;
        Date.now = () => real() + 7_200_000; // Two hours of sleep.
        document.dispatchEvent(new Event('visibilitychange'));
      });
      const { ids } = await see('s', 'after a sleep', ({ connected }) => connected.length === 3);
      assert.deepEqual(ids, idsOf(session));
    }),

    check('nothing is tried without a network, and at once when it is back', async ({ mock, page, browser }) => {
      const { open, see, told } = await prepare(page, mock, `http://sidestream.test:${mock.port}`);
      const session = mock.session();
      await open('s', session, FAST);
      await see('s', 'open', isOpen);
      await browser.setOffline(true);
      await until(() => page.evaluate(() => !navigator.onLine), 'the page is offline');
      session.cut();
      await see('s', 'down', ({ state }) => state === 'reconnecting');
      // Ten times the first delay: a client that does not pause would have tried again and again.
      await page.evaluate(async () => {
        for (let i = 0; i < 20; i++) await new Promise((done) => setTimeout(done, 10));
      });
      assert.ok((await told('s')).delays.length <= 1, 'kept trying');
      await browser.setOffline(false);
      await see('s', 'open again', isOpen);
    }),

    check('a hidden page keeps its stream, does not look for a lost one, and looks at once when it is seen', async ({ mock, page, open, see }) => {
      const [one, two] = [mock.session(), mock.session()];
      await open('one', one, FAST);
      await open('two', two, { ...NEVER_POLL, background: true });
      for (const name of ['one', 'two']) await see(name, 'open', isOpen);
      await setVisibility(page, 'hidden');
      one.publish('session-output', { type: 'stdout', content: 'heard while hidden' });
      await see('one', 'it is heard', ({ ids }) => ids.length === one.log.length);
      for (const session of [one, two]) session.cut();
      const { local } = await see('one', 'it pauses', (told) => told.local.length > 0);
      assert.deepEqual(local, [['paused', { reason: 'hidden' }]]);
      // The other one, which is to go on in the background, shows that there was time to.
      for (let i = 2; i <= 6; i++) {
        await see('two', 'back in the background', (told) => isOpen(told) && told.connected.length === i);
        two.cut();
      }
      assert.equal(one.opened.length, 1, 'tried while hidden');
      one.publish('session-output', { type: 'stdout', content: 'missed' });
      await setVisibility(page, 'visible');
      const { ids } = await see('one', 'back when seen', (told) => isOpen(told) && told.ids.length === one.log.length);
      assert.deepEqual(ids, idsOf(one));
    }),

    check('streams that never speak, from a server that answers: long poll, told once, and back to streams later', async ({ mock, page, open, see }) => {
      const session = mock.session();
      for (let i = 0; i < 5; i++) session.publish('session-output', { type: 'stdout', content: `${i}` });
      session.handler = (stream) => Boolean(stream.head()); // As behind a proxy that buffers.
      await open('s', session, { ...FAST, connectTimeout: 150, types: 'session-output', view: 'compact', replay: 'all' });
      const first = await see('s', 'it polls', isOpen);
      assert.equal(first.transport, 'poll');
      assert.equal(session.opened.length, 3);
      const query = new URL(session.polled[0].url, mock.url).searchParams;
      assert.deepEqual(Object.fromEntries(query), { types: 'session-output', view: 'compact', replay: 'all', wait: '0' });
      await see('s', 'caught up', ({ names }) => names.includes('replay-complete'));
      for (let i = 0; i < 5; i++) {
        session.publish('session-output', { type: 'stdout', content: `live ${i}` });
        await see('s', 'it comes', ({ ids }) => ids.length === session.log.length);
      }
      session.handler = null;
      await page.evaluate(() => {
        const real = Date.now;
        Date.now = () => real() + 3_600_000; // Long enough to try a stream again.
      });
      session.publish('session-output', { type: 'stdout', content: 'the last by poll' });
      const { ids, local, transport } = await see('s', 'a stream again', (told) => isOpen(told) && told.transport === 'eventsource');
      assert.equal(transport, 'eventsource');
      assert.deepEqual(ids, idsOf(session));
      assert.deepEqual(local.filter(([name]) => name === 'transport').map(([, detail]) => detail.transport), ['poll', 'stream']);
    }),

    check('a server that is not there is no reason to poll', async ({ mock, page, open, see }) => {
      const session = mock.session();
      await open('s', session, FAST);
      await see('s', 'open', isOpen);
      const { port } = mock;
      const polls = [];
      page.on('request', (request) => {
        if (request.url().includes('/events/poll')) polls.push(request.url());
      });
      await mock.close();
      await see('s', 'many tries', ({ delays }) => delays.length >= 8);
      const again = await Object.assign(new Mock(), { sessions: mock.sessions }).listen(port);
      try {
        const { transport } = await see('s', 'back', isOpen);
        assert.equal(transport, 'eventsource');
        assert.deepEqual(polls, []);
      } finally {
        await page.close();
        await again.close();
        await mock.listen();
      }
    }),

    check('a gap by long poll is told too', async ({ mock, open, see }) => {
      const session = mock.session();
      session.handler = (stream) => Boolean(stream.head());
      await open('s', session, { ...FAST, connectTimeout: 100, lastEventId: 'long-gone' });
      const { local, ids } = await see('s', 'caught up', ({ names }) => names.includes('replay-complete'));
      assert.ok(local.some(([name]) => name === 'gap'));
      assert.deepEqual(ids, idsOf(session));
    }),

    check('a token is asked for at each try', async ({ mock, page, open, see }) => {
      const session = mock.session();
      session.handler = ({ number, res }) => number === 1 && (mock.json(res, 503, {}) || true);
      await page.evaluate(() => {
        let count = 0;
        SessionEventStream.defaults.token = () => `token-${count++}`;
      });
      await open('s', session, FAST);
      await see('s', 'open', isOpen);
      const [first, second] = session.opened.map(({ authorization }) => /^Bearer token-(\d+)$/.exec(authorization)[1]);
      assert.ok(Number(second) > Number(first), `${first}, then ${second}`);
    }),

    check('a frame of eight megabytes, cut within its characters, arrives whole by both ways', async ({ mock, page, open, see }) => {
      const session = mock.session();
      const content = 'aé日👋'.repeat(1_000_000); // 10 bytes each.
      let listens; // Sent only then: a busy machine adds the listener later than the frame is there.
      session.handler = (stream) => {
        stream.serve();
        const bytes = Buffer.from(`id: big-1\nevent: session-output\ndata: ${JSON.stringify({ content })}\n\nevent: heartbeat\ndata: {}\n\n`);
        new Promise((resolve) => { listens = resolve; }).then(async () => {
          for (let at = 0; at < bytes.length; at += 65_537) { // Prime: it cuts everywhere.
            if (!stream.res.write(bytes.subarray(at, at + 65_537))) await new Promise((done) => stream.res.once('drain', done));
          }
        });
        return true;
      };
      for (const [name, options] of [['source', {}], ['fetch', { token: 'any' }]]) {
        await open(name, session, { ...options, heartbeatTimeout: 60_000 });
        await page.evaluate((n) => {
          globalThis.streams[n].told.text = null; // The recorder's own copy is not wanted here.
          globalThis.streams[n].stream.on('session-output', (event) => { globalThis.streams[n].big = event.detail.content; });
        }, name);
        await until(() => listens, 'the stream is open');
        listens();
        listens = undefined;
        await see(name, 'all of it', ({ names }) => names.includes('heartbeat'));
        assert.ok(await page.evaluate(([n, length]) => {
          const { big } = globalThis.streams[n];
          return big.length === length && big === 'aé日👋'.repeat(length / 5);
        }, [name, content.length]), name);
      }
    }),

    check('eighty megabytes in forty thousand events pass through, and nothing is kept but what joiners need', async ({ mock, page, open, see }) => {
      mock.token = 'secret';
      const session = mock.session();
      await open('s', session, { token: 'secret', heartbeatTimeout: 60_000 });
      await see('s', 'open', isOpen);
      await page.evaluate(() => { globalThis.streams.s.told.text = null; });
      const devtools = await page.context().newCDPSession(page);
      const used = async () => {
        await devtools.send('HeapProfiler.collectGarbage');
        return (await devtools.send('Runtime.getHeapUsage')).usedSize;
      };
      const feed = async (megabytes) => {
        const content = 'x'.repeat(2048);
        for (let i = 0; i < megabytes * 512; i++) {
          session.publish('session-output', { type: 'stdout', content });
          session.log.length = 1; // The mock's own memory is not the question.
          if (i % 512 === 511) {
            const last = `mock-${session.seq}`;
            await see('s', 'it arrives', ({ lastEventId }) => lastEventId === last);
            await page.evaluate(() => { globalThis.streams.s.told.ids.length = globalThis.streams.s.told.names.length = 0; });
          }
        }
      };
      await feed(10);
      const before = await used();
      await feed(70);
      const grown = await used() - before;
      // A few thousand ids and 256 Ki characters are what may stay, and were there before.
      assert.ok(grown < 1024 * 1024, `grew by ${grown} bytes`);
    }),

    check('with a token it streams by fetch, and a wrong token ends it', async ({ mock, open, see }) => {
      mock.token = 'secret';
      const session = mock.session();
      await open('s', session, { ...FAST, token: 'secret' });
      await see('s', 'open', isOpen);
      session.publish('session-output', { type: 'stdout', content: 'one' });
      session.cut();
      session.publish('session-output', { type: 'stdout', content: 'two' });
      const { ids } = await see('s', 'all', (told) => isOpen(told) && told.ids.length === session.log.length);
      assert.deepEqual(ids, idsOf(session));
      assert.equal(session.opened[0].authorization, 'Bearer secret');
      await open('wrong', session, { ...FAST, token: 'guess' });
      const { reason } = await see('wrong', 'closed', ({ state }) => state === 'closed');
      assert.equal(reason, 'unauthorized');
    }),

    check('frames that arrive byte by byte, with any line end, are whole', async ({ mock, page, open, see }) => {
      mock.token = 'secret';
      const session = mock.session();
      session.handler = (stream) => {
        stream.head().res.socket.setNoDelay(true);
        const text = '\uFEFFevent: connected\r\ndata: {"resume":"fresh"}\r\n\r\n'
          + ': a comment\nid: x-1\nevent: session-output\ndata: {"content":\ndata: "\u{1F600} ä"}\n\n'
          + 'id:x-2\revent:session-output\rdata:{"content":"cr"}\r\revent: heartbeat\ndata: {}\n\n';
        const bytes = [...Buffer.from(text)];
        const timer = setInterval(() => {
          if (bytes.length > 0) stream.res.write(Buffer.from([bytes.shift()]));
          else clearInterval(timer);
        }, 1);
        session.timers.add(timer);
        return true;
      };
      await open('s', session, { token: 'secret' });
      await page.evaluate(() => {
        globalThis.content = [];
        globalThis.streams.s.stream.on('session-output', (event) => globalThis.content.push(event.detail.content));
      });
      const { ids } = await see('s', 'both', ({ names }) => names.includes('heartbeat'));
      assert.deepEqual(ids, ['x-1', 'x-2']);
      assert.deepEqual(await page.evaluate(() => globalThis.content), ['\u{1F600} ä', 'cr']);
    }),

    check('a name this version does not know reaches who asks for it; off and its undo end that', async ({ mock, page, open, see }) => {
      const session = mock.session();
      await open('s', session);
      await see('s', 'open', isOpen);
      await page.evaluate(() => {
        const { stream } = globalThis.streams.s;
        globalThis.heard = [];
        const undo = stream.on('brand-new', (event) => {
          globalThis.heard.push([event.detail.n, event.data.n, event.lastEventId, event.rawData.length > 0]);
          undo();
        });
        const never = () => globalThis.heard.push('never');
        stream.on('brand-new', never);
        stream.off('brand-new', never);
      });
      const id = session.publish('brand-new', { n: 1 });
      session.publish('brand-new', { n: 2 });
      session.publish('session-output', { type: 'stdout', content: 'last' });
      await see('s', 'the last', ({ lastEventId }) => lastEventId === idsOf(session).at(-1));
      assert.deepEqual(await page.evaluate(() => globalThis.heard), [[1, 1, id, true]]);
    }),

    check('options that shape the stream reach the server', async ({ mock, open, see }) => {
      const session = mock.session();
      await open('s', session, { types: ['session-output', 'session-status'], view: 'compact', replay: 'none', heartbeat: 5 });
      const { ids } = await see('s', 'open', isOpen);
      const query = new URL(session.opened[0].url, mock.url).searchParams;
      assert.deepEqual(Object.fromEntries(query), { types: 'session-output,session-status', view: 'compact', replay: 'none', heartbeat: '5' });
      assert.deepEqual(ids, []);
    }),

    check('a listener that throws costs the others nothing', async ({ mock, page, open, see }) => {
      const session = mock.session();
      await page.evaluate(() => addEventListener('error', (event) => {
        globalThis.reported = event.error.message;
        event.preventDefault(); // Else it is the page's own, and fails this check.
      }));
      await open('s', session);
      await page.evaluate(() => {
        const { stream } = globalThis.streams.s;
        const heard = [];
        globalThis.heard = heard;
        stream.on('*', (event) => {
          if (event.type === 'session-output') throw new Error('a listener of the test');
        });
        stream.on('*', (event) => heard.push(event.type));
      });
      await see('s', 'open', isOpen);
      session.publish('session-output', { type: 'stdout', content: 'x' });
      await until(() => page.evaluate(() => globalThis.heard.includes('session-output')), 'the second listener hears it');
      assert.equal(await page.evaluate(() => globalThis.reported), 'a listener of the test');
    }),

    check('the server is killed and restarted: the page comes back by itself and says so (step 6)', async ({ mock, page }) => {
      const session = mock.session();
      const lines = [];
      page.on('console', (message) => lines.push(message.text()));
      await page.goto(`${mock.url}/test-sse.html?session=${session.id}`);
      await page.waitForSelector('#state[data-state=open]');
      const { port } = mock;
      await mock.close();
      await page.waitForSelector('#state[data-state=reconnecting]');
      await page.waitForFunction(() => document.querySelectorAll('#frames [data-event=reconnect]').length >= 3);
      const again = await Object.assign(new Mock(), { sessions: mock.sessions }).listen(port);
      try {
        session.publish('session-output', { type: 'stdout', content: 'after the restart' });
        await page.waitForSelector('#state[data-state=open]');
        const ids = await page.$$eval('#frames li.event', (rows) => rows.map((row) => row.dataset.id));
        await until(async () => (await page.$$('#frames li.event')).length === session.log.length, 'all frames are shown');
        assert.deepEqual(ids.slice(0, session.log.length), idsOf(session).slice(0, ids.length));
        assert.ok(lines.some((line) => /reconnecting in \d+ ms/.test(line)) && lines.some((line) => line.includes('reconnected, resume ok')), lines.join(' | '));
      } finally {
        await again.close();
        await mock.listen(); // For the close that every check ends with.
      }
    }),
  ];
}
