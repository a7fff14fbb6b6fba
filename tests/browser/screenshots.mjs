// Makes the pictures of docs/screenshots: each page, on a desktop and a phone, light and dark.
//
//   node screenshots.mjs --binary target/debug/sidestream --out docs/screenshots [--chromium PATH]
//
// Starts a server of its own, with the scripted agent, and furnishes it.
import { spawn } from 'node:child_process';
import { mkdir, mkdtemp, rm, stat } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { parseArgs } from 'node:util';
import { chromium } from 'playwright-core';
import { Site, ends } from './page-site.mjs';

/** A picture of the documentation is no larger than this. */
const BYTES_MAX = 150_000;
const SCREENS = {
  desktop: { viewport: { width: 1120, height: 720 } },
  phone: { viewport: { width: 390, height: 780 }, hasTouch: true, isMobile: true },
};

const { values: flags } = parseArgs({ options: {
  binary: { type: 'string' }, out: { type: 'string' },
  chromium: { type: 'string', default: process.env.CHROMIUM ?? '/usr/bin/chromium' },
} });

const ANSWER = `I found the cause. The retry loop in \`client.rs\` never resets its **attempt counter**, so after the first outage every later one waits the full 30 seconds.

## What I changed

1. The counter is cleared once a connection has *stayed* open
2. A test holds it: it kills the server twice
   - the first time after one second
   - the second time at once

\`\`\`rust
if self.opened_at.elapsed() >= STEADY {
    self.attempts = 0;
}
\`\`\`

| run | before | after |
|:----|-------:|------:|
| first outage | 1.0 s | 1.0 s |
| second outage | 30.0 s | 1.0 s |

> The jitter is as it was.`;
const EDIT = { file_path: 'src/client.rs', old_string: 'fn connected(&mut self) {\n    self.state = State::Open;\n    self.attempts += 1;\n}', new_string: 'fn connected(&mut self) {\n    self.state = State::Open;\n    self.opened_at = Instant::now();\n}' };
const HIDDEN = { tool_name: 'Bash', input: { command: 'cargo test --workspace && \u202Egit push\u202C origin main' }, description: 'Run the tests and publish the fix', permission_suggestions: [{ type: 'addRules', behavior: 'allow', destination: 'localSettings', rules: [{ toolName: 'Bash', ruleContent: 'cargo test --workspace' }] }] };

async function serve(home, agent) {
  const child = spawn(flags.binary, ['serve', '--agent', agent, '--listen', '127.0.0.1:0', '--data-dir', `${home}/data`, '--root', `${home}/projects`],
    { env: { PATH: process.env.PATH, HOME: home, LANG: 'C.UTF-8' }, stdio: ['ignore', 'pipe', 'ignore'] });
  const ended = new Promise((done) => { child.once('exit', done); });
  for await (const line of createInterface({ input: child.stdout })) {
    const found = /listening on (http:\/\/127\.0\.0\.1:\d+)/.exec(line);
    if (found) {
      return { url: found[1], stop: async () => {
        child.kill('SIGTERM');
        await ended;
      } };
    }
  }
  throw new Error('the server did not start');
}

/** Sessions as after some days of work. */
async function furnish(site, root) {
  for (const name of ['reconnect', 'website', 'notes']) await mkdir(join(root, name), { recursive: true });
  const old = await site.create({ workingDir: join(root, 'notes'), name: 'Reading list' });
  await site.run(old, 'say: Sorted by year.');
  const site2 = await site.create({ workingDir: join(root, 'website') });
  await site.prompt(site2, 'slow 100000 200');
  const failed = await site.create({ workingDir: join(root, 'website'), name: 'Nightly build' });
  await site.run(failed, 'die 3');
  const main = await site.create({ workingDir: join(root, 'reconnect'), name: 'Slow reconnects' });
  await site.run(main, `think: The backoff grows and nothing takes it back ;; tool Grep {"pattern":"attempts","path":"src"} ;; tool Edit ${JSON.stringify(EDIT)} ;; todos Find the cause | Fix it | Write a test ;; text ${JSON.stringify(ANSWER)}`);
  const asks = await site.create({ workingDir: join(root, 'reconnect'), name: 'Publish the fix' });
  await site.prompt(asks, `say: The tests come first, then the push. ;; request ${JSON.stringify(HIDDEN)}`);
  const question = await site.create({ workingDir: join(root, 'website'), name: 'A new front page' });
  await site.prompt(question, 'request {"tool_name":"AskUserQuestion","input":{"questions":[{"question":"Which layout shall the front page have?","header":"Layout","options":[{"label":"One column","description":"Calm, and the same on a phone"},{"label":"Two columns","description":"News beside the text"}],"multiSelect":false}]}}');
  return { main, asks, question, old };
}

async function main() {
  const home = await mkdtemp(join(tmpdir(), 'sidestream-shots-'));
  await mkdir(join(home, 'projects'));
  const out = resolve(flags.out);
  await mkdir(out, { recursive: true });
  const server = await serve(home, `claude:${resolve(import.meta.dirname, '../fixtures/fake_agent.py')}`);
  const browser = await chromium.launch({ executablePath: flags.chromium, args: ['--no-sandbox', '--disable-gpu'] });
  try {
    const site = new Site({ url: server.url, workingDir: join(home, 'projects') });
    const made = await furnish(site, site.workingDir);
    for (const [screen, options] of Object.entries(SCREENS)) {
      for (const colorScheme of ['light', 'dark']) {
        const context = await browser.newContext({ ...options, colorScheme, reducedMotion: 'reduce' });
        const page = await context.newPage();
        const shoot = async (name, part = 1) => {
          const path = join(out, `${name}-${screen}-${colorScheme}.png`);
          await page.evaluate(() => document.fonts.ready);
          const { width, height } = options.viewport;
          await page.screenshot({ path, clip: { x: 0, y: 0, width, height: Math.round(height * part) } });
          const { size } = await stat(path);
          if (size > BYTES_MAX) throw new Error(`${path} has ${size} bytes`);
        };
        await page.goto(`${site.url}/`);
        await page.waitForFunction(() => document.querySelectorAll('#sessions li').length >= 6);
        await shoot('sessions');
        await page.goto(`${site.url}/#new`);
        await page.waitForFunction(() => document.querySelector('#working-dir').value !== '');
        await page.click('#browse');
        await page.waitForSelector('#directories button >> nth=3');
        await shoot('new');
        await site.open(page, made.main);
        await ends(page, 1);
        await page.evaluate(() => { document.querySelector('#log').scrollTop = document.querySelector('.tool[data-kind=edit]').offsetTop - 120; });
        await page.waitForSelector('#to-end:visible');
        await shoot('conversation');
        await site.open(page, made.asks);
        await page.waitForSelector('.approval .allow:enabled');
        await shoot('approval');
        await site.open(page, made.question);
        await page.waitForSelector('.approval .allow:enabled');
        await page.check('.approval input[value="One column"]');
        await shoot('question');
        await page.goto(`${site.url}/test-sse.html?session=${made.old}`);
        await page.waitForSelector('#frames li[data-event="replay-complete"]');
        await page.click('#ten');
        await page.waitForFunction(() => document.querySelectorAll('#streams [data-state=open]').length === 10);
        await shoot('test-page', 0.75); // Full of small print: all of it is a large file.
        await page.goto(`${site.url}/login`);
        await page.waitForSelector('#token');
        await shoot('login');
        await context.close();
      }
    }
  } finally {
    await browser.close();
    await server.stop();
    await rm(home, { recursive: true, force: true });
  }
}

await main();
