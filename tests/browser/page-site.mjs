// The server under test as the checks see it, and what several of them do on its pages.
import assert from 'node:assert/strict';
import { until } from './until.mjs';

export class Site {
  constructor(options) {
    Object.assign(this, options);
  }

  async api(method, path, body) {
    const headers = body === undefined ? {} : { 'Content-Type': 'application/json' };
    if (this.token) headers.Authorization = `Bearer ${this.token}`;
    const response = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
    const answer = await response.json();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${answer.error}`);
    return answer;
  }

  post(path, body = {}) {
    return this.api('POST', path, body);
  }

  async create(more = {}) {
    return (await this.post('/api/sessions', { workingDir: this.workingDir, ...more })).sessionId;
  }

  prompt(id, command, more = {}) {
    return this.post(`/api/session/${id}/prompt`, { command, ...more });
  }

  /** Sends a prompt and waits for its end, however long it takes. */
  async run(id, command) {
    const { promptId } = await this.prompt(id, command);
    await until(async () => {
      const status = await this.api('GET', `/api/session/${id}/status`);
      const { queue } = await this.api('GET', `/api/session/${id}/queue`);
      return status.promptId !== promptId && queue.every((one) => one.promptId !== promptId);
    }, `the end of ${command.slice(0, 40)}`);
  }

  approvals(id) {
    return this.api('GET', `/api/session/${id}/approvals`).then(({ approvals }) => approvals);
  }

  /** Opens a session's page and waits until its replay is drawn. */
  async open(page, id) {
    await page.goto(`${this.url}/session/${id}`);
    await page.waitForSelector('#link[data-state=open]');
    await page.waitForFunction(() => document.querySelector('#state').dataset.state);
  }
}

export const state = (page, name) => page.waitForSelector(`#state[data-state=${name}]`);

export async function send(page, text) {
  await page.fill('#prompt', text);
  await page.click('#send');
}

/** Waits until so many turns have ended on the page. */
export const ends = (page, count) => page.waitForFunction((wanted) => document.querySelectorAll('.item.end').length >= wanted, count);

/** Clicks a button of the card once it works. */
export async function press(page, selector) {
  await page.waitForSelector(`.approval ${selector}:enabled`);
  await page.click(`.approval ${selector}`);
}

/** The body of the next answer to an approval that the page sends. */
export const answerBody = (page) => page.waitForRequest((request) => request.method() === 'POST' && /\/approvals\/[^/]+$/.test(request.url())).then((request) => request.postDataJSON());

export const widthFits = (page) => page.evaluate(() => document.documentElement.scrollWidth <= innerWidth && document.body.scrollWidth <= innerWidth);
