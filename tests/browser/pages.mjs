// Checks of the test page, which is the seed's steps 3 to 7, against a server with the demo agent.
import assert from 'node:assert/strict';
import { get } from 'node:http';
import { until } from './until.mjs';

/** The seed's step 7, in its own words, in three entries as one types them. */
const STEP_7_OPEN = (id) => `const connections = [];
for (let i = 0; i < 10; i++) {
const sessionId = '${id}'; // Use a real session ID
const stream = new SessionEventStream(sessionId);
connections.push(stream);
}`;
const STEP_7_METRICS = "// Check metrics\nfetch('/api/debug/metrics').then(r => r.json()).then(console.log);";
const STEP_7_CLEANUP = '// Cleanup\nconnections.forEach(s => s.disconnect());';

export function pageChecks(server) {
  const { url, workingDir } = server;
  const metrics = async () => (await fetch(`${url}/api/debug/metrics`)).json();
  const streamsOf = async (id) => (await metrics()).sse.sessions[id] ?? 0;

  async function post(path, body) {
    const response = await fetch(url + path, { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify(body) });
    const answer = await response.json();
    assert.ok(response.ok, `${path}: ${response.status} ${answer.error}`);
    return answer;
  }
  const newSession = async () => (await post('/claude/api/claude/sessions', { workingDir })).sessionId;
  const prompt = (id, command) => post(`/api/session/${id}/prompt`, { command });

  /** What any plain client of the stream sees: [{id, event, data}], growing. */
  function reference(id) {
    const frames = [];
    let rest = '';
    const request = get(`${url}/api/session/${id}/events`, { headers: { Accept: 'text/event-stream' } }, (response) => {
      response.setEncoding('utf8');
      response.on('data', (piece) => {
        const blocks = (rest + piece).split('\n\n');
        rest = blocks.pop();
        for (const block of blocks) frames.push(parse(block));
      });
    });
    request.on('error', () => {}); // Closing it is an error to node.
    const events = () => frames.filter((frame) => frame.event && !CONTROL.includes(frame.event));
    return { frames, events, close: () => request.destroy() };
  }

  const openTest = (page, id) => page.goto(`${url}/test-sse.html${id ? `?session=${id}` : ''}`);
  const frameRow = (page, name) => page.waitForSelector(`#frames li[data-event="${name}"]`, { state: 'attached' });

  return [
    ['the test page creates a session, sends a command and shows every frame (steps 3 and 4)', async (page) => {
      await openTest(page);
      await page.fill('#working-dir', workingDir);
      await page.click('#create button.primary');
      await page.waitForSelector('#state[data-state=open]');
      const id = await page.inputValue('#session-id');
      const plain = reference(id);
      await page.fill('#command', 'ls -la');
      await page.click('#send button.primary');
      await frameRow(page, 'prompt-completed');
      await until(() => plain.events().some((frame) => frame.event === 'prompt-completed'), 'the plain client sees the end');
      const wanted = plain.events().map((frame) => frame.id);
      await until(async () => (await shownIds(page)).length >= wanted.length, 'the page shows as many frames');
      plain.close();
      assert.deepEqual((await shownIds(page)).slice(0, wanted.length), wanted);
      assert.ok(plain.events().some((frame) => frame.event === 'session-output'), 'no session-output came');
    }],

    ['the test page says loudly that the agent is the demo', async (page) => {
      await openTest(page, await newSession());
      await page.waitForSelector('#demo:not([hidden])');
    }],

    ['the test page tells an unknown session and stops', async (page) => {
      await openTest(page, 'session-1-nowhere');
      await page.waitForSelector('#state[data-state=closed]');
      await page.waitForSelector('#session-error:not([hidden])');
    }],

    ['the metrics have the members of the seed (step 5)', async (page) => {
      const id = await newSession();
      await openTest(page, id);
      await page.waitForSelector('#state[data-state=open]');
      await page.click('#refresh');
      await page.waitForSelector('#metrics:not([hidden])');
      await until(async () => (await page.textContent('#metrics')).startsWith('{'), 'metrics are shown');
      const { eventBus, sse, timestamp } = JSON.parse(await page.textContent('#metrics'));
      for (const name of ['eventsEmitted', 'activeListeners']) assert.equal(typeof eventBus[name], 'number', name);
      for (const name of ['eventsByType', 'listenerCounts']) assert.equal(typeof eventBus[name], 'object', name);
      for (const name of ['totalSessions', 'totalConnections', 'totalCreated', 'totalClosed', 'activeHeartbeats']) assert.equal(typeof sse[name], 'number', name);
      assert.equal(typeof timestamp, 'number');
      assert.equal(sse.sessions[id], 1);
      assert.equal(sse.totalCreated - sse.totalClosed, sse.totalConnections);
    }],

    ['ten streams typed in the console see every event once and in order, on one connection (step 7)', async (page) => {
      const id = await newSession();
      await prompt(id, 'say 20 words'); // Some of it is replayed, the rest is live.
      const plain = reference(id);
      await openTest(page);
      const type = await console_(page);
      await type(`${STEP_7_OPEN(id)}\n${RECORD}`);
      await page.waitForFunction(() => globalThis.seen.every((ids) => ids.length > 0));
      await prompt(id, 'say 30 words');
      const ends = () => plain.events().filter((frame) => frame.event === 'prompt-completed').length;
      await until(() => ends() === 2, 'both turns end');
      const wanted = plain.events().map((frame) => frame.id);
      await page.waitForFunction((last) => globalThis.seen.every((ids) => ids.includes(last)), wanted.at(-1));
      for (const [index, ids] of (await page.evaluate(() => globalThis.seen)).entries()) {
        assert.deepEqual(ids.slice(0, wanted.length), wanted, `stream ${index}`);
      }
      plain.close();
      await until(async () => await streamsOf(id) === 1, 'the ten count as one stream');
      const logged = page.waitForEvent('console', (message) => message.type() === 'log');
      await type(STEP_7_METRICS); // While all are open: it must not hang behind them.
      const shown = await (await logged).args()[0].jsonValue();
      assert.equal(shown.sse.sessions[id], 1);
      await type(STEP_7_CLEANUP);
      await until(async () => await streamsOf(id) === 0, 'no stream is left');
      assert.deepEqual(await page.evaluate('connections.map((s) => s.state)'), Array(10).fill('closed'));
    }],

    ['the buttons open ten streams and disconnect them all', async (page) => {
      const id = await newSession();
      await openTest(page, id);
      await page.waitForSelector('#state[data-state=open]');
      await page.click('#ten');
      await page.waitForFunction(() => document.querySelectorAll('#streams [data-state=open]').length === 10);
      assert.equal(await streamsOf(id), 1);
      await page.click('#disconnect');
      await until(async () => await streamsOf(id) === 0, 'no stream is left');
      await page.waitForSelector('#state[data-state=closed]');
    }],

    ['the class is also a module', async (page) => {
      await openTest(page);
      assert.ok(await page.evaluate(async () => {
        const module = await import('/js/session-event-stream.mjs');
        return module.SessionEventStream === globalThis.SessionEventStream && module.default === module.SessionEventStream;
      }));
    }],
  ];
}

const CONTROL = ['connected', 'replay-complete', 'heartbeat', 'server-busy', 'server-shutdown'];

/** Typed behind the loop of step 7: the ids that each of the ten is told. */
const RECORD = `globalThis.seen = connections.map((stream) => {
  const ids = [];
  stream.on('*', (event) => SessionEventStream.controlNames.includes(event.type) || ids.push(event.lastEventId));
  return ids;
});`;

/** The developer tools' console: top-level const stays, as it does for who types it. */
async function console_(page) {
  const tools = await page.context().newCDPSession(page);
  return async (expression) => {
    const { exceptionDetails } = await tools.send('Runtime.evaluate', { expression, replMode: true });
    assert.equal(exceptionDetails, undefined, exceptionDetails?.exception?.description);
  };
}

const shownIds = (page) => page.$$eval('#frames li.event', (rows) => rows.map((row) => row.dataset.id));

function parse(block) {
  const frame = { id: '', event: '', data: '' };
  for (const line of block.split('\n')) {
    const [, name, value] = /^(\w+): ?(.*)$/.exec(line) ?? [];
    if (name in frame) frame[name] = value;
  }
  return frame;
}
