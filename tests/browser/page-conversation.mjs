// A conversation with the demo agent: what is written, streamed, queued, interrupted and kept.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import { Site, ends, press, send, state } from './page-site.mjs';
import { until } from './until.mjs';

const MARKDOWN = `# First

Some *emphasis*, **strong**, \`code\` and a [link](https://example.org/a?b=1).

- one
  - two
    - three
- [x] done

3. third
4. fourth

\`\`\`rust
fn main() {}
\`\`\`

> quoted

| a | b |
|---|--:|
| 1 | 2 |

---

last`;

/** A PNG of one red pixel. */
const PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==';

/** Another, of a blue one. */
const OTHER_PIXEL = 'iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNkYPj/HwADAgH/p9ue1QAAAABJRU5ErkJggg==';

export function checks(site) {
  return [
    ['a prompt is answered in streamed Markdown, and a reload shows the same', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, `say: ${MARKDOWN}`);
      await ends(page, 1);
      const text = '.item.said .md';
      for (const [selector, words] of [['h2[data-level="1"]', 'First'], ['em', 'emphasis'], ['strong', 'strong'], ['ul ul ul li', 'three'], ['li.task', 'done'],
        ['ol[start="3"] li', 'third'], ['blockquote p', 'quoted'], ['th', 'a'], ['td.right', '2']]) {
        assert.equal((await page.textContent(`${text} ${selector}`)).trim(), words, selector);
      }
      assert.equal(await page.locator(`${text} hr`).count(), 1);
      const link = page.locator(`${text} a`);
      assert.equal(await link.getAttribute('href'), 'https://example.org/a?b=1');
      assert.match(await link.getAttribute('rel'), /noopener noreferrer/);
      assert.equal(await page.textContent(`${text} figure pre code`), 'fn main() {}');
      const drawn = await page.innerHTML(text);
      await page.reload();
      await ends(page, 1);
      assert.equal(await page.innerHTML(text), drawn);
      assert.match(await page.textContent('.item.end'), /Done.*\$0\.00.*tokens in.*out/);
    }],

    ['what is drawn stays as it is while more comes', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, `say: The first paragraph.\n\n- a list\n\n${'word '.repeat(60)}\n\nThe end.`);
      await page.waitForSelector('.md p + ul + p');
      await page.evaluate(() => { document.querySelector('.md p').marked = true; });
      await ends(page, 1);
      assert.ok(await page.evaluate(() => document.querySelector('.md p').marked === true && document.querySelectorAll('.md > *').length === 4));
    }],

    ['a block of code is copied by its button', async (page, { open }) => {
      const context = await open({ permissions: ['clipboard-read', 'clipboard-write'] });
      const other = await context.newPage();
      const id = await site.create();
      await site.run(id, 'say: ```\nlet x = 1;\nlet y = 2;\n```');
      await site.open(other, id);
      await other.click('figure .copy');
      await other.waitForSelector('figure .copy:has-text("Copied")');
      assert.equal(await other.evaluate(() => navigator.clipboard.readText()), 'let x = 1;\nlet y = 2;');
    }],

    ['thinking is folded', async (page) => {
      const id = await site.create();
      await site.run(id, 'think: deep thoughts about it');
      await site.open(page, id);
      const words = page.locator('.thinking .words');
      assert.equal(await words.isVisible(), false);
      await page.click('.thinking summary');
      assert.equal(await words.textContent(), 'deep thoughts about it');
      assert.ok(await words.isVisible());
    }],

    ['a tool call shows its input and its result', async (page) => {
      const id = await site.create();
      await site.prompt(id, 'run tool: date +%s');
      await site.open(page, id);
      await page.waitForSelector('.tool .badge[data-state=waiting]');
      await press(page, '.allow');
      await page.waitForSelector('.tool .badge[data-state=ok]');
      await page.click('.tool summary');
      assert.equal(await page.textContent('.tool .shell'), 'date +%s');
      assert.match(await page.textContent('.tool .result'), /would have run/);
      await page.waitForSelector('.decision[data-decision=allow]:has-text("Run a command: date +%s")');
    }],

    ['a turn is interrupted', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'slow 600 100');
      await page.waitForSelector('.said');
      await page.click('#interrupt');
      await page.waitForSelector('.end[data-outcome=interrupted]');
      await state(page, 'idle');
      assert.ok(await page.isHidden('#interrupt'));
    }],

    ['prompts wait in a queue, and one is cancelled', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'slow 600 50');
      await page.waitForSelector('.said');
      assert.equal((await page.textContent('#send')).trim(), 'Queue');
      await send(page, 'say: never');
      await send(page, 'say: afterwards');
      await page.waitForFunction(() => document.querySelectorAll('#queue li').length === 2);
      await page.reload();
      await page.waitForFunction(() => document.querySelectorAll('#queue li').length === 2);
      await page.click('#queue li:has-text("never") button');
      await page.waitForFunction(() => document.querySelectorAll('#queue li').length === 1);
      await page.click('#interrupt');
      await ends(page, 2);
      assert.deepEqual(await page.$$eval('.item.prompt .words', (nodes) => nodes.map((node) => node.textContent)), ['slow 600 50', 'say: afterwards']);
      await page.waitForSelector('.note:has-text("cancelled")');
    }],

    ['a prompt sent now interrupts and goes first', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'slow 600 50');
      await page.waitForSelector('.said');
      await page.fill('#prompt', 'say: at once');
      await page.click('#send-now');
      await ends(page, 2);
      assert.equal(await page.locator('.end[data-outcome=interrupted]').count(), 1);
      assert.match(await page.textContent('.said:last-of-type'), /at once/);
    }],

    ['drafts are kept, each with its session', async (page) => {
      const [one, two] = [await site.create(), await site.create()];
      await site.open(page, one);
      await page.fill('#prompt', 'half a thought');
      await site.open(page, two);
      assert.equal(await page.inputValue('#prompt'), '');
      await site.open(page, one);
      assert.equal(await page.inputValue('#prompt'), 'half a thought');
      await page.fill('#prompt', 'say: whole');
      await page.click('#send');
      await ends(page, 1);
      await page.reload();
      await state(page, 'idle');
      assert.equal(await page.inputValue('#prompt'), '');
    }],

    ['images are attached, pasted, shown and sent', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await page.setInputFiles('#composer input[type=file]', { name: 'pixel.png', mimeType: 'image/png', buffer: Buffer.from(PIXEL, 'base64') });
      await page.waitForSelector('.shots li:nth-child(1) canvas');
      await page.evaluate((data) => {
        const bytes = Uint8Array.from(atob(data), (one) => one.charCodeAt(0));
        const transfer = new DataTransfer();
        transfer.items.add(new File([bytes], 'pasted.png', { type: 'image/png' }));
        document.querySelector('#prompt').dispatchEvent(new ClipboardEvent('paste', { clipboardData: transfer, bubbles: true, cancelable: true }));
      }, PIXEL);
      await page.waitForSelector('.shots li:nth-child(2) canvas');
      const posted = page.waitForRequest((request) => request.url().endsWith('/prompt'));
      await send(page, 'say: seen');
      const { images } = (await posted).postDataJSON();
      assert.deepEqual(images, [{ mediaType: 'image/png', data: PIXEL }, { mediaType: 'image/png', data: PIXEL }]);
      await ends(page, 1);
      await page.waitForFunction(() => {
        const shown = [...document.querySelectorAll('.item.prompt canvas')];
        return shown.length === 2 && shown.every((canvas) => canvas.getContext('2d').getImageData(0, 0, 1, 1).data[0] > 200);
      });
      assert.equal(await page.locator('.shots li').count(), 0);
      await page.setInputFiles('#composer input[type=file]', { name: 'x.svg', mimeType: 'image/svg+xml', buffer: Buffer.from('<svg/>') });
      await page.waitForSelector('#composer .error:not([hidden])');
    }],

    ['what could not be sent goes again under its id, and what differs under another', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      const bodies = [];
      let cut = true;
      await page.route(`**/api/session/${id}/prompt`, (route) => {
        bodies.push(route.request().postDataJSON());
        return cut ? route.abort() : route.continue();
      });
      const attach = (data) => page.setInputFiles('#composer input[type=file]', { name: 'pixel.png', mimeType: 'image/png', buffer: Buffer.from(data, 'base64') });
      const press = async () => {
        const before = bodies.length;
        await page.click('#send');
        await until(() => bodies.length > before, 'it is sent');
        if (cut) await page.waitForSelector('#composer .error:not([hidden])');
      };
      await attach(PIXEL);
      await page.waitForSelector('.shots li');
      await press();
      await press();
      await page.click('.shots button');
      await attach(OTHER_PIXEL);
      await page.waitForSelector('.shots li');
      await press();
      await page.fill('#prompt', 'say: with words');
      await press();
      cut = false;
      await press();
      await ends(page, 1);
      const [first, again, other, worded, last] = bodies;
      assert.equal(first.command, 'See the image.');
      assert.deepEqual(again, first, 'the same image again');
      assert.deepEqual(other.images, [{ mediaType: 'image/png', data: OTHER_PIXEL }]);
      assert.notEqual(other.promptId, first.promptId);
      assert.notEqual(worded.promptId, other.promptId);
      assert.deepEqual(last, worded);
      assert.equal(await page.locator('.item.prompt').count(), 1);
    }],

    ['a very long answer is shown in part, and the rest on demand', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'big 3000000');
      await ends(page, 1);
      const length = () => page.evaluate(() => document.querySelector('.said').textContent.length);
      const first = await length();
      assert.ok(first > 200_000 && first < 300_000, `${first} characters`);
      await page.click('.said .left-out');
      assert.ok(await length() > first + 200_000);
      await site.open(page, id);
      await ends(page, 1);
    }],

    ['mode and model are changed, and others see it', async (page, { open }) => {
      const id = await site.create();
      await site.run(id, 'say: hello');
      await site.open(page, id);
      const other = await (await open()).newPage();
      await site.open(other, id);
      await page.selectOption('#mode', 'plan');
      await other.waitForFunction(() => document.querySelector('#mode').value === 'plan');
      assert.equal((await site.api('GET', `/api/session/${id}`)).session.mode, 'plan');
      assert.equal(await page.inputValue('#model'), 'demo');
    }],

    ['the past is loaded backwards and stays in place', async (page) => {
      const id = await site.create();
      // More than the server's --replay-bytes: the replay holds the end only.
      for (let turn = 0; turn < 3; turn++) await site.prompt(id, Array.from({ length: 25 }, (_, step) => `say: ${turn}.${step}`).join(' ;; '));
      await site.run(id, 'say: the end');
      let pages = 0;
      page.on('request', (request) => { pages += request.url().includes('/history?') ? 1 : 0; });
      await site.open(page, id);
      await ends(page, 1);
      await until(async () => {
        await page.evaluate(() => { document.querySelector('#log').scrollTop = 0; });
        return await page.isHidden('#earlier');
      }, 'the beginning is reached');
      assert.ok(pages > 0, 'there was no past to load');
      const prompts = await page.$$eval('.item.prompt .words', (nodes) => nodes.map((node) => node.textContent.slice(0, 8)));
      assert.deepEqual(prompts, ['say: 0.0', 'say: 1.0', 'say: 2.0', 'say: the']);
      const said = await page.$$eval('.item.said', (nodes) => nodes.map((node) => node.textContent.trim()));
      assert.deepEqual(said, [...Array.from({ length: 75 }, (_, at) => `${Math.floor(at / 25)}.${at % 25}`), 'the end']);
    }],

    ['a turn that fails is told as failed', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'error 529');
      await page.waitForSelector('.end[data-outcome=failed]');
      await page.waitForSelector('.note.error');
      await page.waitForSelector('.note.warn:has-text("try")');
      assert.equal(await page.locator('.end[data-outcome=done]').count(), 0);
    }],

    ['who looks away is notified of an approval and of a turn’s end', async (page) => {
      // Headless Chromium is always visible and shows no notifications: both are put in its place.
      await page.addInitScript(() => {
        globalThis.away = false;
        Object.defineProperty(document, 'visibilityState', { get: () => (globalThis.away ? 'hidden' : 'visible') });
        globalThis.told = [];
        globalThis.Notification = class {
          static permission = 'granted';
          static requestPermission = async () => 'granted';
          constructor(title, { body }) { globalThis.told.push(body); }
        };
      });
      const id = await site.create();
      await site.open(page, id);
      await page.click('#notify');
      await page.waitForSelector('#notify[aria-pressed=true]');
      await send(page, 'say: seen');
      await ends(page, 1);
      assert.deepEqual(await page.evaluate(() => globalThis.told), [], 'not while it is in sight');
      await page.evaluate(() => { globalThis.away = true; });
      await send(page, 'run tool: date');
      await page.waitForFunction(() => globalThis.told.some((body) => body.includes('Approval needed')));
      assert.match(await page.title(), /^\(!\)/);
      await page.evaluate(() => {
        globalThis.away = false;
        document.dispatchEvent(new Event('visibilitychange'));
      });
      await press(page, '.deny');
      await page.evaluate(() => { globalThis.away = true; });
      await page.waitForFunction(() => globalThis.told.some((body) => body.includes('answered')));
    }],

    ['the connection’s state is shown while the server is away, and nothing is missed', async (page) => {
      const home = await mkdtemp(join(tmpdir(), 'sidestream-page-'));
      const server = new Restartable(site.binary, home);
      try {
        await server.start();
        const there = new Site({ url: server.url, workingDir: home });
        const id = await there.create();
        await there.run(id, 'say: before');
        await there.open(page, id);
        await server.kill();
        await page.waitForSelector('#link[data-state=reconnecting]');
        await page.waitForSelector('#banner.warn:has-text("No connection")');
        await page.fill('#prompt', 'say: lost?');
        await page.click('#send');
        await page.waitForSelector('#composer .error:not([hidden])');
        assert.equal(await page.inputValue('#prompt'), 'say: lost?');
        await server.start();
        await there.run(id, 'say: meanwhile');
        await page.waitForSelector('#link[data-state=open]');
        await page.waitForSelector('.said:has-text("meanwhile")');
        await page.waitForSelector('#banner', { state: 'hidden' });
        await page.click('#send');
        await page.waitForSelector('.said:has-text("lost?")');
        const said = await page.$$eval('.item.said', (nodes) => nodes.map((node) => node.textContent.trim()));
        assert.deepEqual(said, ['before', 'meanwhile', 'lost?']);
      } finally {
        await page.close();
        await server.stop();
        await rm(home, { recursive: true, force: true });
      }
    }, { otherHosts: true }],

    ['what the server has no more is told as missing, and the newest is loaded anew', async (page) => {
      const home = await mkdtemp(join(tmpdir(), 'sidestream-page-'));
      const server = new Restartable(site.binary, home, ['--journal-max', '8MiB']);
      try {
        await server.start();
        const there = new Site({ url: server.url, workingDir: home });
        const id = await there.create();
        await there.run(id, 'say: long ago');
        await there.open(page, id);
        await page.waitForSelector('.said:has-text("long ago")');
        await page.context().setOffline(true);
        await server.kill();
        await page.waitForSelector('#link[data-state=reconnecting]');
        await server.start();
        await there.run(id, 'big 9500000');
        await there.run(id, 'say: just now');
        await page.context().setOffline(false);
        await page.waitForSelector('.said:has-text("just now")');
        await page.waitForSelector('.note.warn:has-text("missed")');
        assert.equal(await page.locator('.said:has-text("long ago")').count(), 0, 'the old part is not shown as if nothing were between');
        await send(page, 'say: and on');
        await page.waitForSelector('.said:has-text("and on")');
      } finally {
        await page.close();
        await server.stop();
        await rm(home, { recursive: true, force: true });
      }
    }, { otherHosts: true }],
  ];
}

/** A server of the check's own, which can be killed and started again at the same address. */
class Restartable {
  constructor(binary, home, flags = []) {
    Object.assign(this, { binary, home, flags });
    this.listen = '127.0.0.1:0';
  }

  async start() {
    const args = ['serve', '--agent', 'demo', '--listen', this.listen, '--data-dir', `${this.home}/data`, '--root', this.home, ...this.flags];
    this.child = spawn(this.binary, args, { env: { PATH: process.env.PATH, HOME: this.home }, stdio: ['ignore', 'pipe', 'ignore'] });
    this.ended = new Promise((done) => { this.child.once('exit', done); });
    for await (const line of createInterface({ input: this.child.stdout })) {
      const found = /listening on http:\/\/(127\.0\.0\.1:\d+)/.exec(line);
      if (!found) continue;
      this.listen = found[1];
      this.url = `http://${found[1]}`;
      return;
    }
    throw new Error('the server did not start');
  }

  async kill() {
    this.child.kill('SIGKILL');
    await this.ended;
  }

  async stop() {
    this.child.kill('SIGTERM');
    await this.ended;
  }
}
