// Much of everything: the page stays bounded and answers, whatever an agent sends.
import assert from 'node:assert/strict';
import { ends, send } from './page-site.mjs';
import { until } from './until.mjs';

export function checks(site) {
  const items = (page) => page.evaluate(() => document.querySelector('#items').childElementCount);
  /** Records how long the page did not answer at the longest; told, not judged: machines differ. */
  const watchTasks = (page) => page.addInitScript(() => {
    globalThis.longest = 0;
    new PerformanceObserver((list) => {
      for (const entry of list.getEntries()) globalThis.longest = Math.max(globalThis.longest, entry.duration);
    }).observe({ type: 'longtask', buffered: true });
  });
  const tell = async (page, what) => {
    const [longest, nodes] = await page.evaluate(() => [Math.round(globalThis.longest), document.querySelectorAll('*').length]);
    console.log(`# ${what}: longest task ${longest} ms, ${nodes} elements`);
  };

  return [
    ['ten thousand events of tools leave a bounded page, and the past comes back', async (page) => {
      await watchTasks(page);
      const id = await site.create();
      await site.open(page, id);
      await send(page, `${'tools 200 ;; '.repeat(25)} say: the end`);
      await page.waitForSelector('.item.tool');
      await page.click('#prompt');
      await page.keyboard.type('typed meanwhile');
      assert.equal(await page.inputValue('#prompt'), 'typed meanwhile');
      await ends(page, 1);
      await until(async () => await items(page) <= 801, 'the oldest items go');
      await tell(page, '10,000 events of tools');
      const { eventBus } = await site.api('GET', '/api/debug/metrics');
      assert.ok(eventBus.eventsByType['tool-completed'] >= 5000);
      // Back to the beginning, page by page; then to the end again.
      const before = await items(page);
      await page.evaluate(() => { document.querySelector('#log').scrollTop = 0; });
      await until(async () => await items(page) > before, 'a page of the past comes');
      await page.click('#to-end');
      await until(async () => await items(page) <= 801, 'it is bounded again');
      await site.open(page, id);
      await ends(page, 1);
      assert.ok(await items(page) <= 801);
    }],

    ['ten thousand deltas of one text are drawn without losing one', async (page) => {
      await watchTasks(page);
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'flood 10000 12');
      await ends(page, 1);
      const text = await page.textContent('.said');
      assert.equal(text.trim().split('x').filter((part) => /^\d+ $/.test(part)).length, 10_000);
      await tell(page, '10,000 deltas');
    }],

    ['a long text of many blocks stays quick to draw', async (page) => {
      await watchTasks(page);
      const id = await site.create();
      await site.open(page, id);
      const text = Array.from({ length: 1500 }, (_, at) => (at % 50 === 0 ? `## Part ${at}` : `Paragraph ${at} with **bold** and \`code\`.`)).join('\n\n');
      await send(page, `text ${JSON.stringify(text)}`);
      await ends(page, 1);
      assert.equal(await page.locator('.said .md > *').count(), 1500);
      assert.ok(await page.evaluate(() => document.querySelector('.said .md').classList.contains('long')));
      await tell(page, '1,500 blocks');
    }],
  ];
}
