// Drives the web client in a real Chromium, one suite against one server.
//
//   node page-run.mjs --suite NAME --base-url URL --working-dir DIR [--chromium PATH] [--token T]
//                     [--read-token T] [--answer-token T] [--binary PATH] [--only TEXT]
//
// Each check has a browser context of its own. A page that throws, breaks its own content policy, opens
// a dialog or asks another host for anything fails its check, whatever the check is about.
// Prints one line per check, `ok NAME` or `not ok NAME: why`; exits 1 if one failed.
import { chromium } from 'playwright-core';
import { parseArgs } from 'node:util';
import { Site } from './page-site.mjs';

const SUITES = {
  demo: ['page-frame', 'page-conversation', 'page-cards'],
  fake: ['page-agent', 'page-approvals', 'page-load'],
  lines: ['page-lines'],
  text: ['page-markdown', 'xss'],
  reach: ['page-access'],
  claude: ['page-claude'],
  base: ['page-base'],
  tokens: ['page-tokens'],
};
const DEADLINE_MS = 30_000;
const CHECK_MS = 180_000;

const { values: flags } = parseArgs({ options: {
  suite: { type: 'string' },
  'base-url': { type: 'string' },
  'working-dir': { type: 'string' },
  chromium: { type: 'string', default: process.env.CHROMIUM ?? '/usr/bin/chromium' },
  token: { type: 'string' },
  'read-token': { type: 'string' },
  'answer-token': { type: 'string' },
  binary: { type: 'string' },
  only: { type: 'string', default: '' },
} });

async function main() {
  const site = new Site({ url: flags['base-url'].replace(/\/$/, ''), workingDir: flags['working-dir'], token: flags.token, readToken: flags['read-token'], answerToken: flags['answer-token'], binary: flags.binary });
  const browser = await chromium.launch({
    executablePath: flags.chromium,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking', '--disable-component-update', '--disable-sync'],
  });
  let [passed, failed] = [0, 0];
  try {
    for (const file of SUITES[flags.suite]) {
      const { checks } = await import(`./${file}.mjs`);
      for (const [name, check, options] of checks(site)) {
        if (!name.includes(flags.only)) continue;
        const start = performance.now();
        const why = await run(browser, site, check, options);
        if (why) failed += 1;
        else passed += 1;
        const took = `${((performance.now() - start) / 1000).toFixed(1)} s`;
        console.log(why ? `not ok ${name} (${took}): ${why}` : `ok ${name} (${took})`);
      }
    }
  } finally {
    await browser.close();
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

async function run(browser, site, check, options = {}) {
  const complaints = [];
  const contexts = [];
  /** A context whose pages are watched. */
  const open = async (more = {}) => {
    const context = await browser.newContext({ viewport: { width: 1200, height: 800 }, ...options, ...more });
    contexts.push(context);
    context.setDefaultTimeout(DEADLINE_MS);
    context.on('page', (page) => {
      page.on('pageerror', (error) => complaints.push(`the page threw: ${error.message}`));
      page.on('console', (message) => {
        if (message.type() === 'error' && message.text().includes('Content Security Policy')) complaints.push(message.text());
      });
      page.on('dialog', (dialog) => {
        complaints.push(`a dialog: ${dialog.message()}`);
        dialog.dismiss();
      });
      page.on('request', (request) => {
        const { protocol, origin } = new URL(request.url());
        if (protocol !== 'blob:' && origin !== new URL(site.url).origin && !options.otherHosts) complaints.push(`a request to ${request.url().slice(0, 200)}`);
      });
    });
    return context;
  };
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error('the check took too long')), CHECK_MS); });
  try {
    const page = await (await open()).newPage();
    await Promise.race([check(page, { open, browser }), late]);
    return complaints[0] ?? null;
  } catch (error) {
    const where = /\((?:file:\/\/)?[^)]*\/((?:page-|xss)[^)/]+)\)/.exec(error.stack ?? '')?.[1] ?? '';
    return [`${error.message} ${where}`, ...complaints].join('; ').replaceAll(/\s+/g, ' ').slice(0, 900);
  } finally {
    clearTimeout(timer);
    for (const context of contexts) await context.close().catch(() => {});
  }
}

process.exitCode = await main();
