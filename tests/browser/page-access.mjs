// Without a mouse, without eyes, without motion: keyboard, names, landmarks, and axe's rules.
import assert from 'node:assert/strict';
import { createRequire } from 'node:module';
import { ends, press, send, state } from './page-site.mjs';

const AXE = createRequire(import.meta.url).resolve('axe-core/axe.min.js');
const RICH = 'say: Let me see ;; think: hm ;; tool Read {"file_path":"/a"} ;; tool Edit {"file_path":"/a","old_string":"a","new_string":"b"} ;; tool-fail Bash {"command":"x"} ;; todos A | B ;; subagent Something ;; retry 1 ;; text "# Head\\n\\n- a\\n\\n| a | b |\\n|---|---|\\n| 1 | 2 |\\n\\n```js\\nlet x;\\n```\\n\\n> q\\n\\n[link](https://x.example)"';

export function checks(site) {
  /** Serious findings of axe, as `rule: selector`. */
  const findings = async (page) => {
    // Our policy lets no script in but our own: the rules come in through the debugger.
    await page.evaluate(await (await import('node:fs/promises')).readFile(AXE, 'utf8'));
    return page.evaluate(async () => {
      const { violations } = await globalThis.axe.run(document, { resultTypes: ['violations'] });
      return violations.filter(({ impact }) => ['serious', 'critical', 'moderate'].includes(impact))
        .flatMap(({ id, nodes }) => nodes.slice(0, 3).map(({ target, failureSummary }) => `${id}: ${target.join(' ')} ${failureSummary.slice(0, 160)}`));
    });
  };
  const focused = (page) => page.evaluate(() => document.activeElement?.id || document.activeElement?.className || document.activeElement?.tagName);
  /** Presses Tab (or with Shift) until the focus is where it is wanted. */
  const tabTo = async (page, selector, key = 'Tab') => {
    for (let presses = 0; presses < 80; presses++) {
      if (await page.evaluate((wanted) => document.activeElement?.matches(wanted), selector)) return;
      await page.keyboard.press(key);
    }
    assert.fail(`${selector} is not reached by ${key}; the focus is on ${await focused(page)}`);
  };

  const all = async (page) => {
    const id = await site.create({ name: 'Rich' });
    await site.run(id, RICH);
    await site.prompt(id, 'request {"tool_name":"Bash","input":{"command":"make"},"permission_suggestions":[{"type":"setMode","mode":"acceptEdits","destination":"session"}]}');
    await site.prompt(id, 'say: later');
    await site.open(page, id);
    await press(page, '.allow');
    await ends(page, 3);
    const places = {
      session: async () => page.waitForSelector('#log'),
      card: async () => {
        const other = await site.create();
        await site.prompt(other, 'request {"tool_name":"Bash","input":{"command":"make\\nall"},"permission_suggestions":[{"type":"setMode","mode":"acceptEdits","destination":"session"}]}');
        await site.prompt(other, 'say: later');
        await site.open(page, other);
        await page.waitForSelector('.approval .allow:enabled');
        await page.waitForSelector('#queue li');
      },
      question: async () => {
        const other = await site.create();
        await site.prompt(other, 'request {"tool_name":"AskUserQuestion","input":{"questions":[{"question":"Which?","options":[{"label":"A","description":"a"},{"label":"B"}]}]}}');
        await site.open(page, other);
        await page.waitForSelector('.approval .allow:enabled');
      },
      settings: async () => page.click('#menu'),
      home: async () => {
        await page.goto(`${site.url}/#new`);
        await page.click('#browse');
        await page.waitForSelector('#directories button');
      },
      list: async () => {
        await page.goto(`${site.url}/`);
        await page.waitForSelector('#sessions a');
      },
      'the test page': async () => {
        await page.goto(`${site.url}/test-sse.html?session=${id}`);
        await page.waitForSelector('#state[data-state=open]');
        await page.click('#ten');
      },
      login: async () => page.goto(`${site.url}/login`),
    };
    for (const [place, go] of Object.entries(places)) {
      await go();
      assert.deepEqual(await findings(page), [], place);
    }
  };

  return [
    ['axe finds nothing serious on any page, in the light', all],
    ['axe finds nothing serious on any page, in the dark', all, { colorScheme: 'dark' }],
    ['axe finds nothing serious on a phone', all, { viewport: { width: 360, height: 740 } }],

    ['a whole conversation is led by keyboard alone', async (page) => {
      await page.goto(`${site.url}/`);
      await tabTo(page, '#working-dir');
      await page.keyboard.press('Control+A');
      await page.keyboard.type(site.workingDir);
      await page.keyboard.press('Enter');
      await page.waitForURL(/\/session\//);
      await state(page, 'idle');
      await page.waitForFunction(() => document.activeElement?.id === 'prompt');
      await page.keyboard.type('approve Bash {"command":"make"}');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.approval .allow:enabled');
      assert.equal(await focused(page), 'prompt', 'a card takes no focus: a key meant for the prompt must not answer it');
      await tabTo(page, '.approval .allow', 'Shift+Tab');
      await page.keyboard.press('Enter');
      await ends(page, 1);
      await page.waitForFunction(() => document.activeElement?.id === 'prompt');
      await page.keyboard.type('slow 600 50');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.said:has-text("word2")');
      await tabTo(page, '#interrupt');
      await page.keyboard.press('Enter');
      await page.waitForSelector('.end[data-outcome=interrupted]');
      await page.waitForFunction(() => document.activeElement?.id === 'prompt');
      await tabTo(page, '#menu', 'Shift+Tab');
      await page.keyboard.press('Enter');
      await page.waitForSelector('#settings');
      assert.ok(await page.evaluate(() => document.querySelector('#settings').contains(document.activeElement)));
      await page.keyboard.press('Escape');
      await page.waitForSelector('#settings', { state: 'detached' });
      assert.equal(await focused(page), 'menu');
    }],

    ['shift and enter make a new line, and an input method’s enter sends nothing', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await page.focus('#prompt');
      await page.keyboard.type('one');
      await page.keyboard.press('Shift+Enter');
      await page.keyboard.type('two');
      assert.equal(await page.inputValue('#prompt'), 'one\ntwo');
      await page.evaluate(() => document.querySelector('#prompt').dispatchEvent(new KeyboardEvent('keydown', { key: 'Enter', isComposing: true, bubbles: true, cancelable: true })));
      assert.equal(await page.inputValue('#prompt'), 'one\ntwo');
    }],

    ['landmarks are there, and what happens is announced', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      for (const [role, name] of [['navigation', 'Sessions'], ['main', undefined], ['region', 'Conversation']]) {
        assert.equal(await page.getByRole(role, { name }).count() > 0, true, role);
      }
      await send(page, 'say: Forty-two.');
      await page.waitForFunction(() => document.querySelector('#announce').textContent.includes('Forty-two'));
      await send(page, 'approve Bash {"command":"make"}');
      await page.waitForFunction(() => document.querySelector('#announce-now').textContent.includes('Approval needed: Run a command: make'));
      await press(page, '.deny');
      await ends(page, 2);
      await page.keyboard.press('Tab');
      await page.focus('.skip');
      await page.keyboard.press('Enter');
      assert.equal(await focused(page), 'prompt');
    }],

    ['who wants no motion sees none', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      await send(page, 'slow 600 50');
      await page.waitForSelector('#working:visible .pulse');
      assert.equal(await page.evaluate(() => getComputedStyle(document.querySelector('.pulse')).animationName), 'none');
      await page.waitForSelector('.said');
      await page.click('#interrupt');
      await ends(page, 1);
    }, { reducedMotion: 'reduce' }],
  ];
}
