// Below a base path every page, link, request and stream finds its way.
import assert from 'node:assert/strict';
import { ends, send, state } from './page-site.mjs';

export function checks(site) {
  const base = new URL(site.url).pathname;
  const inside = (page, wrong) => page.on('request', (request) => {
    if (!new URL(request.url()).pathname.startsWith(`${base}/`) && new URL(request.url()).pathname !== base) wrong.push(request.url());
  });

  return [
    ['a session is created, used, reloaded and left', async (page) => {
      const wrong = [];
      inside(page, wrong);
      await page.goto(site.url); // Without the slash.
      await page.waitForURL(`${site.url}/`);
      await page.fill('#working-dir', site.workingDir);
      await page.click('#create-session');
      await page.waitForURL(`${site.url}/session/session-*`);
      await state(page, 'idle');
      await send(page, 'say: hello');
      await ends(page, 1);
      await page.reload();
      await ends(page, 1);
      await page.click('#sidebar .brand');
      await page.waitForURL(`${site.url}/`);
      await page.click('#sessions a');
      await ends(page, 1);
      await page.click('#sidebar footer a');
      await page.waitForURL(`${site.url}/test-sse.html`);
      await page.fill('#working-dir', site.workingDir);
      await page.click('#create button.primary');
      await page.waitForSelector('#state[data-state=open]');
      await page.click('.brand');
      await page.waitForSelector('#create-session');
      await page.goto(`${site.url}/login`);
      await page.fill('#token', 'x');
      await page.click('#login button');
      await page.waitForURL(`${site.url}/`); // Without tokens there is nothing to log in to.
      assert.deepEqual(wrong, []);
    }],
  ];
}
