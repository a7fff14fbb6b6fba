// Approval cards with the demo agent: each kind, each answer, across reloads and two browsers.
import assert from 'node:assert/strict';
import { answerBody, ends, press, state } from './page-site.mjs';

export function checks(site) {
  const asked = async (page, command) => {
    const id = await site.create();
    await site.prompt(id, command);
    await site.open(page, id);
    await page.waitForSelector('.approval');
    return id;
  };

  return [
    ['a card survives a reload and is answered after it', async (page) => {
      await asked(page, 'run tool: date');
      await page.reload();
      assert.equal(await page.textContent('.approval h2'), 'Run a command: date');
      await press(page, '.allow');
      await page.waitForSelector('#dock', { state: 'hidden' });
      await ends(page, 1);
      await page.reload();
      await ends(page, 1);
      assert.equal(await page.locator('.approval').count(), 0);
    }],

    ['of two browsers the first answer wins, and the other sees it', async (page, { open }) => {
      const id = await asked(page, 'run tool: date');
      const other = await (await open()).newPage();
      await site.open(other, id);
      await other.waitForSelector('.approval .allow:enabled');
      await press(page, '.deny');
      await other.waitForSelector('#dock', { state: 'hidden' });
      await other.waitForSelector('.decision[data-decision=deny]:has-text("Run a command: date")');
      await ends(other, 1);
    }],

    ['an answer that comes too late is told so', async (page) => {
      const id = await asked(page, 'run tool: date');
      await page.waitForSelector('.approval .allow:enabled');
      // Somebody else answers between the click and the request.
      await page.route('**/approvals/*', async (route) => {
        const [approval] = await site.approvals(id);
        await page.context().setOffline(false);
        await site.post(`/api/session/${id}/approvals/${approval.approvalId}`, { decision: 'deny', inputHash: approval.inputHash });
        await route.continue();
      });
      const answered = page.waitForResponse((response) => response.url().includes('/approvals/'));
      await page.click('.approval .allow');
      assert.equal((await answered).status(), 409);
      await page.waitForSelector('.decision[data-decision=deny]');
      await page.waitForSelector('#dock', { state: 'hidden' });
    }],

    ['what is allowed for the session is not asked again', async (page) => {
      const id = await asked(page, 'run tool: make test');
      const sent = answerBody(page);
      await press(page, '.session');
      const { updatedPermissions } = await sent;
      assert.deepEqual(updatedPermissions, [{ type: 'addRules', rules: [{ toolName: 'Bash', ruleContent: 'make test' }], behavior: 'allow', destination: 'session' }]);
      await ends(page, 1);
      await site.run(id, 'run tool: make test');
      await ends(page, 2);
      assert.equal(await page.locator('.decision').count(), 1);
    }],

    ['a reason goes with a denial', async (page) => {
      await asked(page, 'run tool: rm -rf build');
      await page.waitForSelector('.approval .deny:enabled');
      await page.click('.approval button:has-text("with a reason")');
      await page.waitForFunction(() => document.activeElement?.matches('.why textarea'));
      await page.fill('.why textarea', 'Use make clean');
      const sent = answerBody(page);
      await page.click('.why .deny');
      assert.equal((await sent).message, 'Use make clean');
      await page.waitForSelector('.decision:has-text("Use make clean")');
      await page.click('.tool summary');
      assert.match(await page.textContent('.tool .result'), /Use make clean/);
    }],

    ['the input is edited, and that runs', async (page) => {
      await asked(page, 'run tool: rm -rf /');
      await page.waitForSelector('.approval .edit:enabled');
      await page.click('.approval .edit');
      await page.fill('.editor textarea', 'rm -rf ./build');
      const sent = answerBody(page);
      await press(page, '.allow:has-text("as edited")');
      assert.deepEqual((await sent).updatedInput, { command: 'rm -rf ./build', description: 'A command of the demo' });
      await ends(page, 1);
      await page.click('.tool summary');
      assert.match(await page.textContent('.tool .result'), /rm -rf \.\/build$/);
    }],

    ['a question is answered by choice and in one’s own words', async (page) => {
      const id = await asked(page, 'ask: Which colour? Red | Blue');
      await page.waitForSelector('.approval .allow:enabled');
      await page.click('.approval .allow');
      await page.waitForSelector('.approval .error:has-text("No answer yet")');
      await page.check('.approval input[value=Blue]');
      let sent = answerBody(page);
      await press(page, '.allow');
      assert.deepEqual((await sent).answers, { 'Which colour?': 'Blue' });
      await ends(page, 1);
      await site.prompt(id, 'ask: Which colour? Red | Blue');
      await page.waitForSelector('.approval .allow:enabled');
      await page.fill('.approval .other', 'Something greenish');
      sent = answerBody(page);
      await press(page, '.allow');
      assert.deepEqual((await sent).answers, { 'Which colour?': 'Something greenish' });
      await ends(page, 2);
      assert.match(await page.textContent('.said:last-of-type, .said >> nth=-1'), /greenish/);
    }],

    ['a plan is read, sent back and approved', async (page) => {
      const id = await asked(page, 'plan: # Steps\n\n1. first\n2. then');
      assert.equal(await page.textContent('.approval .shown li >> nth=1'), 'then');
      await page.waitForSelector('.approval .deny:enabled');
      await page.click('.approval button:has-text("Say what to change")');
      await page.fill('.why textarea', 'More detail');
      await page.click('.why .deny');
      await ends(page, 1);
      await site.prompt(id, 'plan: better');
      await press(page, '.allow');
      await page.waitForSelector('.said:has-text("The plan is approved")');
      await state(page, 'idle');
    }],

    ['the test page asks and answers too', async (page) => {
      const id = await site.create();
      await page.goto(`${site.url}/test-sse.html?session=${id}`);
      await page.waitForSelector('#state[data-state=open]');
      await page.fill('#command', 'run tool: date');
      await page.click('#send button.primary');
      await press(page, '.deny');
      await page.waitForSelector('#frames li[data-event="approval-resolved"]', { state: 'attached' });
      await page.waitForSelector('.approval', { state: 'detached' });
    }],
  ];
}
