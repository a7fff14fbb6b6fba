// What a real agent's turn consists of, with the scripted one: tools, changes, tasks, subagents, trouble.
import assert from 'node:assert/strict';
import { mkdir, writeFile } from 'node:fs/promises';
import { ends, send } from './page-site.mjs';

export function checks(site) {
  const shown = async (page, script) => {
    const id = await site.create();
    await site.open(page, id);
    await send(page, script);
    return id;
  };

  return [
    ['an edit is shown as a diff, a written file as what is added', async (page) => {
      const input = { file_path: '/src/a.rs', old_string: 'one\ntwo\nthree\nfour', new_string: 'one\n2\nthree\nfour\nfive' };
      await shown(page, `tool Edit ${JSON.stringify(input)} ;; tool Write ${JSON.stringify({ file_path: '/b', content: 'new\nlines\n' })}`);
      await ends(page, 1);
      const lines = (at) => page.$$eval(`.tool >> nth=${at} >> .diff > div`, (rows) => rows.map((row) => `${row.className} ${row.lastElementChild.textContent}`));
      assert.deepEqual(await lines(0), ['kept one', 'removed two', 'added 2', 'kept three', 'kept four', 'added five']);
      assert.deepEqual(await lines(1), ['added new', 'added lines']);
    }],

    ['a diff agrees with its two texts, and long ones are folded', async (page) => {
      await page.goto(`${site.url}/`);
      const wrong = await page.evaluate(async (base) => {
        const { diff, diffLines } = await import(`${base}/js/diff.js`);
        let seed = 7;
        const random = (count) => {
          seed = (seed * 1103515245 + 12345) % 2147483648;
          return Math.floor(seed / 65536) % count;
        };
        const text = () => Array.from({ length: random(12) }, () => 'abcd'[random(4)]).join('\n');
        for (let run = 0; run < 2000; run++) {
          const [a, b] = [text(), text()];
          const rows = diffLines(a, b);
          const side = (sign) => rows.filter(([one]) => one === ' ' || one === sign).map(([, line]) => line).join('\n');
          if (side('-') !== a || side('+') !== b) return [a, b, rows];
        }
        const long = Array.from({ length: 300 }, (_, at) => `line ${at}`);
        const folded = diff(long.join('\n'), long.with(150, 'changed').join('\n'), { folded: true });
        return folded.children.length === 10 ? null : folded.textContent;
      }, site.url);
      assert.equal(wrong, null);
    }],

    ['tools tell how they ended; a failed one says why', async (page) => {
      await shown(page, 'tool Read {"file_path":"/x"} ;; tool-fail Bash {"command":"false"} ;; progress ;; tool-open Grep {"pattern":"p"}');
      await ends(page, 1);
      const states = await page.$$eval('.tool > summary .badge', (badges) => badges.map((badge) => badge.dataset.state));
      assert.deepEqual(states.slice(0, 2), ['ok', 'error']);
      assert.ok(['aborted', 'unknown'].includes(states.at(-1)), `nothing turns for ever: ${states}`);
      assert.ok(!states.includes('running'));
    }],

    ['an answer that a later event has overtaken does not undo it', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await page.waitForFunction(() => document.querySelector('#title').textContent.length > 0);
      // What is asked for at the turn's end is answered before the rename, and arrives after it.
      let late;
      const held = new Promise((resolve) => { late = resolve; });
      const answered = new Promise((resolve) => {
        page.route(`**/api/session/${id}`, async (route) => {
          const response = await route.fetch();
          resolve();
          await held;
          await route.fulfill({ response });
        }, { times: 1 });
      });
      await send(page, 'say: done');
      await answered;
      await site.api('PATCH', `/api/session/${id}`, { name: 'the new name' });
      const title = () => page.textContent('#title');
      await page.waitForFunction(() => document.querySelector('#title').textContent === 'the new name');
      const asked = page.waitForResponse((response) => response.url().endsWith(`/api/session/${id}`));
      late();
      await (await asked).finished();
      await page.evaluate(() => new Promise((resolve) => { requestAnimationFrame(() => setTimeout(resolve)); }));
      assert.equal(await title(), 'the new name');
    }],

    ['results out of order find their tools', async (page) => {
      await shown(page, 'tools 12');
      await ends(page, 1);
      assert.equal(await page.locator('.tool .badge[data-state=ok]').count(), 12);
    }],

    ['a prompt is stopped before its agent has started', async (page) => {
      const dir = `${site.workingDir}/never`;
      await mkdir(dir, { recursive: true });
      await writeFile(`${dir}/fake-agent.mode`, 'never-init');
      const id = await site.create({ workingDir: dir });
      await site.open(page, id);
      await send(page, 'say: never');
      await page.waitForSelector('#queue li');
      await page.click('#interrupt');
      await page.waitForSelector('#queue li', { state: 'detached' });
      await page.waitForSelector('.note:has-text("cancelled")');
      await site.api('DELETE', `/api/session/${id}`);
    }],

    ['the list of tasks stands beside the conversation', async (page) => {
      await shown(page, 'todos Read | Write | Test ;; slow 400 50');
      await page.waitForSelector('#tasks:has-text("Tasks 0 of 3")');
      assert.equal(await page.textContent('#tasks .now'), 'Read');
      await page.click('#tasks summary');
      assert.deepEqual(await page.$$eval('#tasks li', (rows) => rows.map((row) => row.dataset.status)), ['in_progress', 'pending', 'pending']);
      await page.click('#interrupt');
      await ends(page, 1);
    }],

    ['what a subagent does stands inside of its call', async (page) => {
      const id = await shown(page, 'subagent It found three places');
      await ends(page, 1);
      const check = async () => {
        await page.waitForSelector('.tool[data-kind=agent] .steps .tool');
        assert.ok(await page.isVisible('.tool[data-kind=agent] .steps .said:has-text("three places")'));
        assert.ok(await page.isVisible('.agent-note:has-text("done")'));
      };
      await check();
      await site.open(page, id);
      await check();
    }],

    ['an answer that fell back replaces what had come of it', async (page) => {
      await shown(page, 'fallback The whole answer');
      await ends(page, 1);
      assert.deepEqual(await page.$$eval('.said', (nodes) => nodes.map((node) => node.textContent.trim())), ['The whole answer']);
    }],

    ['trouble is told: retries, stderr, a dead agent', async (page) => {
      await shown(page, 'retry 1 ;; stderr something odd ;; say: still here');
      await ends(page, 1);
      await page.waitForSelector('.note.warn:has-text("529")');
      await send(page, 'die 3');
      await page.waitForSelector('.note.error');
      await page.waitForSelector('.end[data-outcome=failed]');
    }],

    ['a turn that nobody asked for is shown as such', async (page) => {
      await shown(page, 'say: done ;; unprompted By the way');
      await ends(page, 2);
      await page.waitForSelector('.note:has-text("by itself")');
      await page.waitForSelector('.said:has-text("By the way")');
    }],

    ['a long result is cut, and shown whole on demand', async (page) => {
      await shown(page, `tool Bash ${JSON.stringify({ command: 'x'.repeat(30_000) })}`);
      await ends(page, 1);
      await page.click('.tool summary');
      await page.waitForSelector('.tool .shell');
      assert.equal((await page.textContent('.tool .shell')).length, 30_000);
    }],

    ['a text too large for its event is loaded on demand', async (page) => {
      const id = await site.create();
      await site.run(id, 'line 600000');
      await page.goto(`${site.url}/session/${id}`);
      await ends(page, 1);
      const length = () => page.evaluate(() => document.querySelector('.said')?.textContent.length ?? 0);
      if (await length() < 600_000) {
        await page.click('.said button:has-text("Load all")');
        await page.waitForSelector('.said .left-out'); // A part of it, and the rest on demand.
        while (await page.locator('.said .left-out').count() > 0) await page.click('.said .left-out');
      }
      assert.ok(await length() >= 600_000);
    }],
  ];
}
