// With tokens: the way in, the way back, and what a token that only reads is shown.
import assert from 'node:assert/strict';
import { ends, press, send, state } from './page-site.mjs';

export function checks(site) {
  return [
    ['who has no token is led to the login, and back to where they were', async (page) => {
      const id = await site.create();
      await page.goto(`${site.url}/session/${id}`);
      await page.waitForURL(`${site.url}/login`);
      await page.fill('#token', 'sst_wrong');
      await page.click('#login button');
      await page.waitForFunction(() => document.querySelector('#state').textContent.length > 20);
      await page.fill('#token', site.token);
      await page.click('#login button');
      await page.waitForURL(`${site.url}/session/${id}`);
      await state(page, 'idle');
      const streams = [];
      page.on('request', (request) => request.url().includes('/events') && streams.push(request));
      await page.reload();
      await state(page, 'idle');
      assert.ok(streams.length > 0);
      for (const stream of streams) {
        assert.equal((await stream.allHeaders()).authorization, `Bearer ${site.token}`);
        assert.doesNotMatch(stream.url(), /sst_/);
      }
      await send(page, 'run tool: date');
      await press(page, '.allow');
      await ends(page, 1);
      await page.waitForSelector('.item.prompt .by:has-text("desk")');
      await page.click('#log-out');
      await page.waitForURL(`${site.url}/login`);
      assert.equal(await page.evaluate(() => localStorage.getItem('sidestream.token')), null);
    }],

    ['the link that a token comes with logs in and leaves no trace', async (page) => {
      await page.goto(`${site.url}/login#${site.token}`);
      await page.waitForURL(`${site.url}/`);
      await page.waitForSelector('#create-session:enabled');
      await page.goBack().catch(() => {});
      assert.doesNotMatch(page.url(), /sst_/);
    }],

    ['a link that is opened in a tab at the login logs in too, and is gone from the address at once', async (page) => {
      await page.goto(`${site.url}/login`);
      await page.waitForSelector('#token');
      let told;
      const asked = new Promise((resolve) => { told = resolve; });
      await page.route('**/api/login', async (route) => {
        told(await page.evaluate(() => location.href));
        await route.continue();
      });
      await page.evaluate((token) => { location.hash = token; }, site.token);
      assert.doesNotMatch(await asked, /sst_/, 'before the server has answered');
      await page.waitForURL(`${site.url}/`);
      await page.goBack().catch(() => {});
      assert.doesNotMatch(page.url(), /sst_/);
    }],

    ['a token that reads shows all and offers nothing that it may not do', async (page) => {
      const id = await site.create();
      await site.prompt(id, 'run tool: date');
      await page.goto(`${site.url}/login#${site.readToken}`);
      await page.waitForURL(`${site.url}/`);
      await page.waitForSelector('#create-session:disabled');
      await page.goto(`${site.url}/session/${id}`);
      await page.waitForSelector('.approval .error:has-text("does not let you answer")');
      await page.waitForSelector('#composer .error:has-text("read")');
      assert.ok(await page.isDisabled('#prompt'));
      assert.ok(await page.isDisabled('.approval .deny'));
      await page.waitForSelector('#composer .error:text-is("Your token lets you read, not send.")');
      await site.prompt(id, 'say: later');
      await page.waitForSelector('#queue li');
      assert.ok(await page.isHidden('#interrupt'));
      assert.equal(await page.locator('#queue button:visible').count(), 0);
      await page.click('#menu');
      assert.deepEqual(await page.$$eval('#settings :is(input, button)', (all) => all.map((one) => one.ariaLabel)), ['Close']);
      await page.goto(`${site.url}/test-sse.html?session=${id}`);
      await page.waitForSelector('#send-error:text-is("Your token lets you read, not send.")');
      assert.ok(await page.isDisabled('#interrupt'));
      await page.waitForSelector('.approval .error:has-text("does not let you answer")');
    }],

    ['a token that answers is told what it may, and answers', async (page) => {
      const id = await site.create();
      await site.prompt(id, 'run tool: date');
      await page.goto(`${site.url}/login#${site.answerToken}`);
      await page.waitForSelector('#create .error:text-is("Your token lets you read and answer approvals, not create.")');
      await page.goto(`${site.url}/session/${id}`);
      await page.waitForSelector('#composer .error:text-is("Your token lets you read and answer approvals, not send.")');
      assert.ok(await page.isHidden('#interrupt'));
      await press(page, '.allow');
      await ends(page, 1);
    }],
  ];
}
