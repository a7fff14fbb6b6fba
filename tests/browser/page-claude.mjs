// A whole conversation with the real CLI and a fake API.
import assert from 'node:assert/strict';
import { ends, press, send, state } from './page-site.mjs';

export function checks(site) {
  return [
    ['words, a tool, a question, a plan, an edit, an interrupt; then all of it again after a reload', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'say 30 words');
      await ends(page, 1);
      assert.match(await page.textContent('.said'), /word1 .*word30/s);

      await send(page, 'run tool: touch made.txt ;; say: It is made.');
      await page.waitForSelector('.approval h2:has-text("Run a command: touch made.txt")');
      await press(page, '.allow');
      await page.waitForSelector('.said:has-text("It is made.")');
      await ends(page, 2);
      await page.waitForSelector('.tool[data-kind=command] .badge[data-state=ok]');

      await send(page, 'run tool: touch other.txt ;; say: Not made.');
      await page.waitForSelector('.approval .deny:enabled');
      await page.click('.approval button:has-text("with a reason")');
      await page.fill('.why textarea', 'Not today');
      await page.click('.why .deny');
      await page.waitForSelector('.tool .badge[data-state=denied], .tool .badge[data-state=error]');
      await ends(page, 3);

      await send(page, 'ask: Which colour? Red | Blue ;; say: Noted.');
      await page.waitForSelector('.approval[data-kind=question]');
      await page.check('.approval input[value=Blue]');
      await press(page, '.allow');
      await page.waitForSelector('.said:has-text("Noted.")');
      await ends(page, 4);

      await send(page, `write: ${site.workingDir}/page.txt :: first line`);
      await page.waitForSelector('.approval .diff .added:has-text("first line")');
      await press(page, '.allow');
      await ends(page, 5);
      await page.waitForSelector('.tool[data-kind=write] .diff .added');

      await page.selectOption('#mode', 'plan');
      await send(page, 'plan: # My plan ;; say: Planned.');
      // The CLI asks about an empty input: the plan is the tool call's.
      await page.waitForSelector('.approval[data-kind=plan] .md h2:has-text("My plan")');
      await press(page, '.allow');
      await ends(page, 6);
      await page.waitForFunction(() => document.querySelector('#mode').value !== 'plan');

      await send(page, 'slow 400 100');
      await page.waitForSelector('.said:has-text("word2")');
      await page.click('#interrupt');
      await page.waitForSelector('.end[data-outcome=interrupted]');
      await state(page, 'idle');

      const text = () => page.$$eval('.item.prompt .words, .item.said, .item.tool > summary .title, .decision', (nodes) => nodes.map((node) => node.textContent.trim()));
      const live = await text();
      assert.ok(live.length >= 20, JSON.stringify(live));
      await page.reload();
      await ends(page, 7);
      assert.deepEqual(await text(), live);
    }],

    ['a rule that the CLI suggests for good is allowed for the session only, and asked no more', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'run tool: python3 -c 5 ;; say: once');
      await page.waitForSelector('.approval .rules');
      assert.match(await page.textContent('.rules'), /Bash python3 -c 5/);
      await press(page, '.session');
      await ends(page, 1);
      await send(page, 'run tool: python3 -c 5 ;; say: twice');
      await ends(page, 2);
      assert.equal(await page.locator('.decision').count(), 1);
      await page.waitForSelector('.said:has-text("twice")');
    }],

    ['tasks and a subagent of the real CLI', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'todo: read | write | test ;; say: Listed.');
      await page.waitForSelector('.said:has-text("Listed.")');
      await ends(page, 1);
      await send(page, 'agent: say: I am below ;; say: It is back.');
      await page.waitForSelector('.tool[data-kind=agent]');
      await page.waitForSelector('.said:has-text("It is back.")');
      await ends(page, 2);
      await page.waitForSelector('.tool[data-kind=agent] .badge[data-state=ok]');
    }],
  ];
}
