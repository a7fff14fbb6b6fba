// Plain output, of an agent that speaks nothing else: shown as it is, in any amount.
//
// Amounts at which what takes more than linear time does not end before the check does.
import assert from 'node:assert/strict';
import { ends, send } from './page-site.mjs';

/** Characters beyond which a text is left out in the middle: the page holds not much more. */
const SHOWN_MAX = 300_000;

export function checks(site) {
  const opened = async (page) => {
    const id = await site.create();
    await site.open(page, id);
    return id;
  };
  /** What is shown of it, without the words of the button. */
  const shown = (page) => page.$$eval('.item.lines .piece', (all) => all.map((one) => one.textContent).join(''));
  const seq = (count) => Array.from({ length: count }, (_, at) => `${at + 1}\n`).join('');

  return [
    ['plain output is no Markdown, and each stream stands by itself', async (page) => {
      await opened(page);
      await send(page, "printf '# no heading\\n* no *list*\\n    indented\\n<b>\\n'; sleep 0.2; echo wrong >&2; sleep 0.2; echo more");
      await ends(page, 1);
      const items = await page.$$eval('.item.lines', (all) => all.map((one) => [one.dataset.kind, one.textContent]));
      assert.deepEqual(items, [['text', '# no heading\n* no *list*\n    indented\n<b>\n'], ['stderr', 'wrong\n'], ['text', 'more\n']]);
      assert.equal(await page.locator('.item.said').count(), 0);
    }],

    ['two megabytes of lines are shown in part, and the rest on demand', async (page) => {
      const id = await opened(page);
      await send(page, 'seq 1 300000');
      await ends(page, 1);
      const whole = seq(300_000);
      const look = async () => {
        const text = await shown(page);
        assert.ok(text.length < SHOWN_MAX, `${text.length} characters`);
        assert.ok(whole.endsWith(text.slice(-50_000)), 'the end is in sight');
        return text;
      };
      const text = await look();
      assert.ok(whole.startsWith(text.slice(0, 50_000)));
      await page.click('.left-out');
      assert.ok(whole.startsWith((await shown(page)).slice(0, 100_000)));
      for (let presses = 0; await page.locator('.left-out').count() > 0; presses++) {
        assert.ok(presses < 100, 'it has an end');
        await page.click('.left-out');
      }
      assert.equal(await shown(page), whole);
      await site.open(page, id);
      await ends(page, 1);
      await look();
    }],

    ['what came in the past joins what is shown', async (page) => {
      const id = await opened(page);
      await site.run(id, 'seq 1 150000');
      await site.open(page, id);
      await ends(page, 1);
      await page.waitForFunction(() => {
        document.querySelector('#log').scrollTop = 0;
        return document.querySelector('#earlier').hidden && document.querySelector('.item.prompt');
      });
      assert.equal(await page.locator('.item.lines').count(), 1);
      while (await page.locator('.left-out').count() > 0) await page.click('.left-out');
      assert.equal(await shown(page), seq(150_000));
    }],

    ['a line without an end is shown too', async (page) => {
      await opened(page);
      await send(page, "head -c 3000000 /dev/zero | tr '\\0' x; echo; echo end");
      await ends(page, 1);
      const text = await shown(page);
      assert.ok(text.length < SHOWN_MAX && text.endsWith('x\nend\n'));
      assert.ok(await page.evaluate(() => document.querySelector('#log').scrollWidth <= document.querySelector('#log').clientWidth));
    }],
  ];
}
