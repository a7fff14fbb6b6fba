// The list, the form for a new session, the ways between the views; against the demo agent.
import assert from 'node:assert/strict';
import { mkdir } from 'node:fs/promises';
import { ends, send, state, widthFits } from './page-site.mjs';
import { until } from './until.mjs';

export function checks(site) {
  const { url, workingDir } = site;
  const row = (id) => `#sessions a[href$="/session/${id}"]`;

  return [
    ['a session is created in a directory that was picked', async (page) => {
      await mkdir(`${workingDir}/picked/deeper`, { recursive: true });
      await page.goto(`${url}/`);
      await page.waitForFunction(() => document.querySelector('#working-dir').value !== '');
      await page.click('#browse');
      await page.click('#directories button:text-is("picked")');
      await page.click('#directories button:text-is("deeper")');
      await page.waitForFunction((dir) => document.querySelector('#working-dir').value === dir, `${workingDir}/picked/deeper`);
      await page.click('#directories .up');
      await page.waitForFunction((dir) => document.querySelector('#working-dir').value === dir, `${workingDir}/picked`);
      await page.fill('#new-name', 'Picked by hand');
      await page.selectOption('#new-mode', 'plan');
      await page.click('#create-session');
      await page.waitForURL(/\/session\/session-/);
      await state(page, 'idle');
      const { session } = await site.api('GET', `/api/session/${page.url().split('/').pop()}`);
      assert.equal(session.workingDir, `${workingDir}/picked`);
      assert.deepEqual([session.name, session.mode], ['Picked by hand', 'plan']);
      assert.equal(await page.textContent('#title'), 'Picked by hand');
    }],

    ['a directory outside the roots is refused in words', async (page) => {
      await page.goto(`${url}/`);
      await page.fill('#working-dir', '/etc');
      await page.click('#create-session');
      await page.waitForSelector('#create .error:not([hidden])');
      assert.match(await page.textContent('#create .error'), /root/);
    }],

    ['the list shows states and follows them; search and archive find', async (page) => {
      const quiet = await site.create({ name: 'Quiet as a mouse' });
      const loud = await site.create({ name: 'Loud' });
      await page.goto(`${url}/`);
      await page.waitForSelector(row(quiet));
      await site.prompt(loud, 'run tool: date');
      await page.waitForSelector(`${row(loud)} .badge[data-state=waiting]`);
      await page.fill('#search', 'mouse');
      await page.waitForSelector(row(loud), { state: 'detached' });
      await page.waitForSelector(row(quiet));
      await site.post(`/api/session/${quiet}/archive`);
      await page.waitForSelector(row(quiet), { state: 'detached' });
      await page.check('#archived');
      await page.waitForSelector(row(quiet));
    }],

    ['views change without a load; back and forward lead through them', async (page) => {
      const [one, two] = [await site.create({ name: 'One' }), await site.create({ name: 'Two' })];
      let loads = 0;
      page.on('load', () => { loads += 1; });
      await page.goto(`${url}/`);
      await page.click(row(one));
      await page.waitForFunction(() => document.querySelector('#title')?.textContent === 'One');
      await page.click(row(two));
      await page.waitForFunction(() => document.querySelector('#title')?.textContent === 'Two');
      await page.waitForSelector(`${row(two)}[aria-current=page]`);
      assert.match(await page.title(), /^Two/);
      await page.goBack();
      await page.waitForFunction(() => document.querySelector('#title')?.textContent === 'One');
      await page.goBack();
      await page.waitForSelector('#create');
      await page.goForward();
      await page.waitForFunction(() => document.querySelector('#title')?.textContent === 'One');
      await page.click('#new');
      await page.waitForFunction(() => document.activeElement.id === 'working-dir');
      assert.equal(loads, 1);
      await until(async () => {
        const { sse } = await site.api('GET', '/api/debug/metrics');
        return !sse.sessions[one] && !sse.sessions[two];
      }, 'the streams of views that were left are closed');
    }],

    ['an unknown session is told, and nothing can be sent', async (page) => {
      await page.goto(`${url}/session/session-1-nowhere`);
      await page.waitForSelector('#banner.error:not([hidden])');
      await page.waitForSelector('#link[data-state=closed]');
      assert.ok(await page.isDisabled('#prompt'));
      const offered = await page.evaluate(() => [...document.querySelectorAll('#session :is(button, select, textarea, input), #state')].filter((node) => node.checkVisibility()).map((node) => node.id || node.className));
      assert.deepEqual(offered, []);
    }],

    ['an address that encodes nothing, or twice, names no session and breaks nothing', async (page) => {
      const asked = [];
      page.on('request', (request) => request.url().includes('/api/session/') && asked.push(new URL(request.url()).pathname));
      for (const [address, path] of [['%25zz', '%25zz'], ['%2525', '%2525'], ['a%252Fb', 'a%252Fb'], ['%E0%A4%A', '%25E0%25A4%25A']]) {
        asked.length = 0;
        // Where the server itself refuses the address, the page may still be led there.
        await page.goto(`${url}/`);
        await page.evaluate((to) => {
          history.pushState(null, '', to);
          dispatchEvent(new PopStateEvent('popstate'));
        }, `${new URL(url).pathname.replace(/\/$/, '')}/session/${address}`);
        await page.waitForSelector('#banner.error:not([hidden])');
        assert.ok(asked.includes(`/api/session/${path}`), `${address}: ${asked}`);
      }
    }],

    ['a name that is taken back is no name any more', async (page) => {
      const id = await site.create({ name: 'For a while' });
      await site.open(page, id);
      await page.waitForFunction(() => document.querySelector('#title').textContent === 'For a while');
      // Whether the server takes it is its own checks' to say.
      const sent = new Promise((resolve) => {
        page.route(`**/api/session/${id}`, (route) => {
          if (route.request().method() !== 'PATCH') return route.continue();
          resolve(route.request().postDataJSON());
          return route.fulfill({ json: { success: true } });
        });
      });
      await page.click('#menu');
      await page.fill('#session-name', '  ');
      await page.click('#settings button.primary');
      assert.deepEqual(await sent, { name: null });
      await page.waitForSelector('#settings', { state: 'detached' });
    }],

    ['no name turns round what stands around it', async (page) => {
      const name = 'safe \u202Egnp.exe 👩‍💻 a\u00A0b';
      const shown = 'safe U+202Egnp.exe 👩‍💻 a\u00A0b';
      const id = await site.create({ name });
      await site.run(id, 'say: \u202Edrawkcab');
      await site.open(page, id);
      await page.waitForFunction((text) => document.querySelector('#title').textContent === text, shown);
      await page.waitForFunction((text) => document.title.startsWith(text), shown);
      await page.waitForSelector(`${row(id)} .last:has-text("U+202Edrawkcab")`);
      assert.equal(await page.textContent(`${row(id)} strong`), shown);
      await page.click('#menu');
      assert.equal(await page.inputValue('#session-name'), name, 'what is edited is the name itself');
    }],

    ['a draft goes with its session', async (page) => {
      const kept = () => page.evaluate(() => Object.keys(localStorage).filter((name) => name.startsWith('sidestream.draft')).map((name) => name.replace(/^.*session-/, 'session-')).toSorted());
      const drafted = async () => {
        const id = await site.create();
        await site.open(page, id);
        await page.fill('#prompt', 'half a thought');
        await until(async () => (await kept()).includes(id), 'it is kept');
        return id;
      };
      const [here, there, away, stays] = [await drafted(), await drafted(), await drafted(), await drafted()].toSorted();
      await site.open(page, here);
      await page.waitForFunction(() => document.querySelector('#prompt').value === 'half a thought');
      await site.api('DELETE', `/api/session/${here}`);
      await page.waitForURL(`${url}/`);
      await site.open(page, stays);
      await page.waitForSelector(row(there));
      await site.api('DELETE', `/api/session/${there}`);
      await until(async () => !(await kept()).includes(there), 'another page’s session was deleted');
      await page.goto('about:blank');
      await site.api('DELETE', `/api/session/${away}`);
      await page.goto(`${url}/`);
      await until(async () => !(await kept()).includes(away), 'it was deleted while no page was open');
      assert.deepEqual(await kept(), [stays]);
    }, { otherHosts: true }],

    ['rename, fork, archive, take out again, delete', async (page) => {
      const id = await site.create();
      await site.run(id, 'say: hello');
      await site.open(page, id);
      await page.click('#menu');
      await page.fill('#session-name', 'A better name');
      await page.click('#settings button.primary');
      await page.waitForFunction(() => document.querySelector('#title').textContent === 'A better name');
      await page.click('#menu');
      await page.click('#fork');
      await page.waitForURL((address) => !address.href.includes(id));
      await page.waitForSelector('.item.note:has-text("Forked")');
      await page.goto(`${url}/session/${id}`);
      await state(page, 'idle');
      await page.click('#menu');
      await page.click('#archive');
      await page.waitForURL(`${url}/`);
      await page.goto(`${url}/session/${id}`);
      await page.waitForSelector('#banner:has-text("archived")');
      assert.ok(await page.isDisabled('#prompt'));
      await page.click('#banner button');
      await page.waitForSelector('#prompt:enabled');
      await send(page, 'say: back');
      await ends(page, 2);
      await page.click('#menu');
      await page.click('#settings .deny');
      await page.click('#settings .deny:has-text("for good")');
      await page.waitForURL(`${url}/`);
      await page.waitForSelector(row(id), { state: 'detached' });
    }],

    ['a session that is deleted elsewhere says so', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await site.api('DELETE', `/api/session/${id}`);
      await page.waitForURL(`${url}/`);
    }],

    ['the demo agent is announced on every page', async (page) => {
      const id = await site.create();
      for (const path of ['/', `/session/${id}`, `/test-sse.html?session=${id}`]) {
        await page.goto(url + path);
        await page.waitForSelector('#demo:not([hidden])');
      }
    }],

    ['every view fits 320 pixels, cards and wide text included', async (page) => {
      const id = await site.create({ name: 'A name that is rather long for a small telephone' });
      const wide = '`'.repeat(3) + `\n${'wide '.repeat(80)}\n` + '`'.repeat(3);
      const word = 'unbreakable'.repeat(30);
      await site.run(id, `say: ${word}\n\n${wide}\n\n| ${'column | '.repeat(12)}\n| ${'--- | '.repeat(12)}\n| ${'cell | '.repeat(12)}\n\nhttps://example.org/${word}`);
      await site.prompt(id, `run tool: echo ${word}`);
      await site.prompt(id, `say: ${word}`);
      await site.open(page, id);
      await page.waitForSelector('.approval');
      await page.waitForSelector('#queue li');
      assert.ok(await widthFits(page), 'the session');
      const seen = await page.evaluate(() => [...document.querySelectorAll('#composer, .approval .allow, #queue button, #menu')].map((node) => {
        const { left, right, bottom } = node.getBoundingClientRect();
        return [node.id || node.className, left >= 0 && right <= innerWidth && bottom <= innerHeight];
      }));
      assert.deepEqual(seen.filter(([, fits]) => !fits), []);
      await page.click('#menu');
      assert.ok(await widthFits(page), 'the dialog');
      for (const path of ['/', '/#new', '/login', `/test-sse.html?session=${id}`]) {
        await page.goto(url + path);
        await page.waitForSelector('.bar:visible');
        assert.ok(await widthFits(page), path);
      }
    }, { viewport: { width: 320, height: 640 } }],

    ['what is touched is large enough for a finger', async (page) => {
      const id = await site.create();
      await site.prompt(id, 'run tool: date');
      await site.open(page, id);
      await page.waitForSelector('.approval .allow');
      const small = await page.evaluate(() => [...document.querySelectorAll('#session button, #session a, #session select, #session summary')].filter((node) => node.checkVisibility()).map((node) => {
        const { width, height } = node.getBoundingClientRect();
        return [node.id || node.className || node.tagName, Math.round(width), Math.round(height)];
      }).filter(([name, , height]) => height < (/small/.test(name) ? 32 : 40)));
      assert.deepEqual(small, []);
    }, { viewport: { width: 390, height: 800 }, hasTouch: true, isMobile: true }],
  ];
}
