// A page of another origin, in a real Chromium, against a real server; and the login page.
//
//   node door.mjs --open URL --guarded URL --session ID --token TOKEN --working-dir DIR [--chromium PATH]
//
// `--open` is a server without tokens, `--session` one of its sessions; `--guarded` is one with
// `--read-cookie`, which knows `--token`. The page of the other origin is served here, under three
// names: another port of this machine, a site of its own, and a name that has been rebound to us.
// Prints one line per check, `ok NAME` or `not ok NAME: why`; exits 1 if one failed.
import assert from 'node:assert/strict';
import { createServer } from 'node:http';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { until } from './until.mjs';

const CHECK_MS = 60_000;
const { values: flags } = parseArgs({ options: {
  open: { type: 'string' }, guarded: { type: 'string' }, session: { type: 'string' },
  token: { type: 'string' }, 'working-dir': { type: 'string' },
  chromium: { type: 'string', default: '/usr/bin/chromium' },
} });
const { open, guarded, session, token } = flags;
const workingDir = flags['working-dir'];
const port = new URL(open).port;

const rows = async () => (await (await fetch(`${open}/api/sessions`)).json()).sessions.length;
const server = async () => (await (await fetch(`${open}/api/debug/metrics`)).json()).server;
const streams = async () => (await (await fetch(`${open}/api/debug/metrics`)).json()).sse.totalCreated;

/** Everything that a page can try against another origin; runs in the page. */
async function attack({ target, session, workingDir }) {
  const body = JSON.stringify({ workingDir });
  const path = `${target}/api/sessions`;
  const tried = async (work) => {
    try { return await work(); } catch (error) { return `threw ${error.name}`; }
  };
  const reads = (url, init) => tried(async () => {
    const answer = await fetch(url, init);
    return answer.type === 'opaque' ? 'opaque' : `read ${answer.status}`;
  });
  const json = { method: 'POST', headers: { 'Content-Type': 'application/json' }, body };
  const submit = (enctype, method = 'POST') => new Promise((resolve) => {
    const frame = Object.assign(document.createElement('iframe'), { name: `frame-${Math.random()}` });
    document.body.append(frame);
    const form = Object.assign(document.createElement('form'), { method, enctype, action: path, target: frame.name });
    // The trick that makes a form's text JSON.
    form.append(Object.assign(document.createElement('input'), { name: body.slice(0, -1) + ',"x":"', value: '"}' }));
    document.body.append(form);
    frame.onload = () => resolve('loaded');
    setTimeout(() => resolve('silence'), 3000);
    form.submit();
  });
  const streamed = (url, init) => new Promise((resolve) => {
    const source = new EventSource(url, init);
    source.onopen = () => { source.close(); resolve('open'); };
    source.onerror = () => { source.close(); resolve('refused'); };
  });
  const loads = (element, url) => new Promise((resolve) => {
    element.onload = () => resolve('loaded');
    element.onerror = () => resolve('refused');
    element.src = url;
    document.body.append(element);
  });
  const framed = (url) => new Promise((resolve) => {
    const frame = document.createElement('iframe');
    frame.onload = () => resolve(tried(() => frame.contentDocument?.body ? 'read' : 'closed'));
    frame.src = url;
    document.body.append(frame);
    setTimeout(() => resolve('closed'), 5000);
  });
  return {
    get: await reads(path),
    getWithCookies: await reads(path, { credentials: 'include' }),
    events: await streamed(`${target}/api/session/${session}/events`),
    eventsWithCookies: await streamed(`${target}/api/events`, { withCredentials: true }),
    fetchedEvents: await reads(`${target}/api/session/${session}/events?replay=all`),
    post: await reads(path, json),
    blindPost: await reads(path, { method: 'POST', mode: 'no-cors', body }),
    blindText: await reads(path, { method: 'POST', mode: 'no-cors', headers: { 'Content-Type': 'text/plain' }, body }),
    blindBlob: await reads(path, { method: 'POST', mode: 'no-cors', body: new Blob([body], { type: 'text/plain;application/json' }) }),
    beacon: String(navigator.sendBeacon(path, new Blob([body], { type: 'text/plain' }))),
    prompt: await reads(`${target}/api/session/${session}/prompt`, { ...json, body: '{"command":"say no"}' }),
    remove: await reads(`${target}/api/session/${session}`, { method: 'DELETE' }),
    formText: await submit('text/plain'),
    formUrl: await submit('application/x-www-form-urlencoded'),
    formData: await submit('multipart/form-data'),
    script: await loads(document.createElement('script'), `${target}/js/app.js`),
    data: await loads(document.createElement('script'), path),
    image: await loads(document.createElement('img'), `${target}/favicon.svg`),
    frame: await framed(`${target}/session/${session}`),
    worker: await tried(() => { new Worker(`${target}/js/app.js`); return 'started'; }),
    socket: await new Promise((resolve) => {
      const socket = new WebSocket(`${target.replace('http', 'ws')}/claude/api/claude/chat`);
      socket.onopen = () => resolve('open');
      socket.onerror = () => resolve('refused');
    }),
  };
}

/** What each of them must come to, from an origin that is not ours. */
function checkAttack(told, where) {
  for (const [name, word] of Object.entries(told)) {
    assert.ok(!/^(read|open$|started$)/.test(word), `${where}: ${name} got through: ${word}`);
  }
  for (const name of ['events', 'eventsWithCookies', 'script', 'data', 'image', 'socket']) {
    assert.equal(told[name], 'refused', `${where}: ${name}`);
  }
}

function checks(foreignPort) {
  const attackFrom = async (page, origin, target) => {
    const before = [await rows(), await streams()];
    await page.goto(`${origin}/`);
    const told = await page.evaluate(attack, { target, session, workingDir });
    checkAttack(told, origin);
    const refused = (await server()).requestsRefused;
    await until(async () => (await server()).requestsRefused >= refused, 'the beacon has come');
    assert.deepEqual([await rows(), await streams()], before, `${origin}: something was created`);
    return told;
  };
  return [
    ['another port of this machine is another origin, and gets nothing', async (page) => {
      await attackFrom(page, `http://127.0.0.1:${foreignPort}`, open);
      await attackFrom(page, `http://localhost:${foreignPort}`, open);
      // The other name of this machine, on our own port: a cookie would not tell the two apart.
      await attackFrom(page, `http://127.0.0.1:${foreignPort}`, `http://localhost:${port}`);
    }],

    ['a site of its own gets nothing', async (page) => {
      await attackFrom(page, `http://evil.example:${foreignPort}`, open);
    }],

    ['a name rebound to us is not us: pages, API and streams say so', async (page) => {
      const rebound = `http://rebound.example:${port}`;
      const answer = await page.goto(`${rebound}/`);
      assert.equal(answer.status(), 421);
      // The page is the error; what it runs is of the very origin that it asks.
      const told = await page.evaluate(attack, { target: rebound, session, workingDir });
      for (const name of ['get', 'post', 'prompt', 'remove', 'fetchedEvents', 'blindPost', 'blindText']) {
        assert.equal(told[name], 'read 421', name);
      }
      for (const name of ['events', 'eventsWithCookies', 'script', 'image', 'socket']) assert.equal(told[name], 'refused', name);
      const before = await rows();
      for (const host of [`http://localhost.:${port}`, `http://127.1:${port}`, `http://2130706433:${port}`]) {
        const answer = await page.goto(`${host}/api/sessions`).catch(() => null);
        // Chromium itself writes the last two as 127.0.0.1, which is us.
        if (answer && new URL(answer.url()).hostname !== '127.0.0.1') assert.equal(answer.status(), 421, host);
      }
      assert.equal(await rows(), before);
    }],

    ['a link from another site opens a page, and nothing else', async (page) => {
      await page.goto(`http://evil.example:${foreignPort}/`);
      const [answer] = await Promise.all([
        page.waitForNavigation(),
        page.evaluate((url) => { location.href = url; }, `${open}/session/${session}`),
      ]);
      assert.equal(answer.status(), 200);
      await page.goto(`http://evil.example:${foreignPort}/`);
      const before = await rows();
      const [posted] = await Promise.all([
        page.waitForNavigation(),
        page.evaluate((url) => {
          const form = Object.assign(document.createElement('form'), { method: 'POST', action: url, enctype: 'text/plain' });
          document.body.append(form);
          form.submit();
        }, `${open}/api/sessions`),
      ]);
      assert.equal(posted.status(), 403);
      assert.equal(await rows(), before);
    }],

    ['our own page may do all of that', async (page) => {
      await page.goto(`${open}/test-sse.html`);
      const told = await page.evaluate(async ({ session, workingDir }) => {
        const created = await fetch('/api/sessions', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: JSON.stringify({ workingDir }) });
        const opened = await new Promise((resolve) => {
          const source = new EventSource(`/api/session/${session}/events`);
          source.onopen = () => { source.close(); resolve('open'); };
          source.onerror = () => resolve('refused');
        });
        return [created.status, opened];
      }, { session, workingDir });
      assert.deepEqual(told, [201, 'open']);
    }],

    ['without a token every page leads to the login', async (page) => {
      await page.goto(`${guarded}/`);
      await page.waitForURL(`${guarded}/login`);
    }],

    ['a wrong token is told and not kept', async (page) => {
      await page.goto(`${guarded}/login`);
      await page.fill('#token', 'sst_wrong');
      await page.click('#login button');
      await page.waitForFunction(() => /none of the tokens/.test(document.querySelector('#state').textContent));
      assert.equal(await page.evaluate(() => localStorage.getItem('sidestream.token')), null);
    }],

    ['a token in the fragment is taken, kept, and leaves no trace in address or history', async (page, context) => {
      const asked = [];
      page.on('request', (request) => asked.push(request.url()));
      await page.goto(`${guarded}/login#${token}`);
      await page.waitForURL(`${guarded}/`);
      assert.equal(await page.evaluate(() => localStorage.getItem('sidestream.token')), token);
      assert.ok(asked.every((url) => !url.includes(token) || url.includes(`#${token}`)), 'a URL that is sent holds the token');
      await page.goBack().catch(() => {});
      assert.ok(!page.url().includes(token), `the history holds the token: ${page.url()}`);
      const cookie = (await context.cookies(guarded)).find(({ name }) => name.startsWith('sidestream-read-'));
      assert.ok(cookie?.httpOnly && cookie.sameSite === 'Strict' && !token.includes(cookie.value));
      // With the cookie alone a plain EventSource reads; nothing changes by it.
      await page.goto(`${guarded}/login`);
      const told = await page.evaluate(async () => {
        const opened = await new Promise((resolve) => {
          const source = new EventSource('/api/events');
          source.onopen = () => { source.close(); resolve('open'); };
          source.onerror = () => resolve('refused');
        });
        const post = await fetch('/api/sessions', { method: 'POST', headers: { 'Content-Type': 'application/json' }, body: '{}' });
        return [opened, post.status, document.cookie];
      });
      assert.deepEqual(told, ['open', 403, '']);
    }],

    ['who logs out has neither token nor cookie', async (page, context) => {
      await page.goto(`${guarded}/login#${token}`);
      await page.waitForURL(`${guarded}/`);
      await page.goto(`${guarded}/login`);
      await page.click('#logout');
      await page.waitForSelector('#logout', { state: 'hidden' });
      assert.equal(await page.evaluate(() => localStorage.getItem('sidestream.token')), null);
      assert.deepEqual((await context.cookies(guarded)).filter(({ name }) => name.startsWith('sidestream')), []);
      await page.goto(`${guarded}/`);
      await page.waitForURL(`${guarded}/login`);
    }],
  ];
}

async function main() {
  const evil = createServer((request, response) => {
    response.writeHead(200, { 'Content-Type': 'text/html' });
    response.end('<!doctype html><title>evil</title><body>');
  });
  await new Promise((done) => { evil.listen(0, '0.0.0.0', done); });
  const profile = await mkdtemp(join(tmpdir(), 'sidestream-door-'));
  const context = await chromium.launchPersistentContext(profile, {
    executablePath: flags.chromium,
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync',
      // Chromium's own walls between networks are off: what holds here must be ours.
      '--disable-features=LocalNetworkAccessChecks,PrivateNetworkAccessSendPreflights,BlockInsecurePrivateNetworkRequests',
      '--host-resolver-rules=MAP *.example 127.0.0.1,MAP localhost. 127.0.0.1'],
  });
  let failed = 0;
  try {
    for (const [name, check] of checks(evil.address().port)) {
      const page = await context.newPage();
      let timer;
      const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error('the check took too long')), CHECK_MS); });
      try {
        await Promise.race([check(page, context), late]);
        console.log(`ok ${name}`);
      } catch (error) {
        failed += 1;
        console.log(`not ok ${name}: ${error.stack.replaceAll(/\s+/g, ' ').slice(0, 700)}`);
      } finally {
        clearTimeout(timer);
        await page.close();
      }
    }
  } finally {
    await context.close();
    evil.closeAllConnections();
    evil.close();
    await rm(profile, { recursive: true, force: true });
  }
  return failed ? 1 : 0;
}

process.exitCode = await main();
