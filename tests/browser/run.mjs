// Drives the pages and the client library in a real Chromium.
//
//   node run.mjs [--base-url http://127.0.0.1:PORT] [--working-dir DIR] [--binary PATH] [--chromium PATH] [--only TEXT]
//
// Three parts. The pages, against the server at --base-url (a sidestream started with `--agent
// demo`, whose --root holds --working-dir); without it, against the mock. The client's manners
// (backoff, silence, gaps, refusals, sharing), always against the mock, which can misbehave. With
// --binary, the same library against servers of that program, started and killed under it.
// Prints one line per check, `ok NAME` or `not ok NAME: why`; exits 1 if one failed.
import { chromium } from 'playwright-core';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { clientChecks } from './client.mjs';
import { pageChecks } from './pages.mjs';
import { realChecks } from './stream-real.mjs';
import { typeChecks } from './stream-types.mjs';
import { Mock } from './mock-server.mjs';

/** Generous: a check that needs it is failing, or the machine is very busy. */
const DEADLINE_MS = 30_000;
/** For a whole check, which may wait for several conditions. */
const CHECK_MS = 120_000;

const { values: flags } = parseArgs({ options: {
  'base-url': { type: 'string' },
  'working-dir': { type: 'string', default: process.cwd() },
  binary: { type: 'string' },
  chromium: { type: 'string', default: process.env.CHROMIUM ?? '/usr/bin/chromium' },
  only: { type: 'string', default: '' },
} });

async function main() {
  const profile = await mkdtemp(join(tmpdir(), 'sidestream-browser-'));
  const browser = await chromium.launchPersistentContext(profile, {
    executablePath: flags.chromium,
    headless: true,
    args: ['--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
      '--disable-component-update', '--disable-sync', '--host-resolver-rules=MAP sidestream.test 127.0.0.1'],
  });
  const standIn = flags['base-url'] ? null : await new Mock().listen();
  const server = { url: (flags['base-url'] ?? standIn.url).replace(/\/$/, ''), workingDir: flags['working-dir'] };
  let failed = 0;
  let passed = 0;
  try {
    const checks = [...pageChecks(server), ...clientChecks(), ...typeChecks(), ...(flags.binary ? realChecks(flags.binary) : [])].filter(([name]) => name.includes(flags.only));
    for (const [name, check] of checks) {
      const why = await run(browser, check);
      if (why) failed += 1;
      else passed += 1;
      console.log(why ? `not ok ${name}: ${why}` : `ok ${name}`);
    }
  } finally {
    await browser.close();
    await standIn?.close();
    await rm(profile, { recursive: true, force: true });
  }
  console.log(`${passed} passed, ${failed} failed`);
  return failed === 0 && passed > 0 ? 0 : 1;
}

/** Runs one check on a page of its own. Gives the reason of a failure, or null. */
async function run(browser, check) {
  const page = await browser.newPage();
  page.setDefaultTimeout(DEADLINE_MS);
  const complaints = [];
  page.on('pageerror', (error) => complaints.push(`the page threw: ${error.message}`));
  page.on('console', (message) => {
    if (message.type() === 'error' && message.text().includes('Content Security Policy')) complaints.push(message.text());
  });
  let timer;
  const late = new Promise((_, fail) => { timer = setTimeout(() => fail(new Error('the check took too long')), CHECK_MS); });
  try {
    await Promise.race([check(page, browser), late]);
    return complaints[0] ?? null;
  } catch (error) {
    return [error.message, ...complaints].join('; ').replaceAll(/\s+/g, ' ').slice(0, 600);
  } finally {
    clearTimeout(timer);
    await browser.setOffline(false);
    await page.close();
  }
}

process.exitCode = await main();
