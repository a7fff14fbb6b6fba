// A small server that speaks sidestream's contract and misbehaves on request.
//
// It serves the real pages from src/pages and keeps sessions in memory, so that what a client
// must survive (streams cut, silent, refused, repeated, gone) can be brought about exactly when
// a test wants it. It knows nothing of agents: prompts are answered by a script of a few lines.
//
//   node mock-server.mjs [PORT]     serves the pages for looking at them
import { createServer } from 'node:http';
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';

const PAGES = new URL('../../src/pages/', import.meta.url);
const CSP = "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self'";
const TYPES = { html: 'text/html; charset=utf-8', js: 'text/javascript; charset=utf-8', mjs: 'text/javascript; charset=utf-8', css: 'text/css; charset=utf-8' };

/** One session: a log of frames, and the streams that are open on it. */
export class MockSession {
  constructor(id, workingDir) {
    Object.assign(this, { id, workingDir, seq: 0, epoch: 'mock', log: [], readers: new Set() });
    this.status = 'idle';
    this.approvals = new Map();
    this.promptId = null; // The turn that runs.
    this.queue = [];
    this.createdAt = Date.now();
    this.opened = []; // One entry per stream asked for: {at, cursor, url}.
    this.polled = []; // The same of long polls.
    this.handler = null; // (stream) => true if it answered: the misbehaviour of a test.
    this.statusCode = 200; // What GET …/status answers.
    this.timers = new Set();
  }

  publish(event, data = {}) {
    const id = `${this.epoch}-${++this.seq}`;
    const body = { _eventType: event, sessionId: this.id, timestamp: Date.now(), ...data };
    const frame = { id, event, data: body, text: `id: ${id}\nevent: ${event}\ndata: ${JSON.stringify(body)}\n\n` };
    this.log.push(frame);
    for (const reader of this.readers) reader.res.write(frame.text);
    return id;
  }

  setStatus(status) {
    const previous = this.status;
    this.status = status;
    this.publish('session-status', { status, previous });
  }

  /** Ends or resets every open stream; nothing else changes. */
  cut({ reset = false } = {}) {
    const open = [...this.readers];
    this.readers.clear();
    for (const reader of open) {
      if (reset) reader.res.socket?.resetAndDestroy();
      else reader.res.end();
    }
  }
}

/** A stream as a test's handler sees it. */
class Stream {
  constructor(mock, session, req, res, cursor, query) {
    Object.assign(this, { mock, session, req, res, cursor, query, number: session.opened.length });
  }
  head() {
    this.res.writeHead(200, {
      'Content-Type': 'text/event-stream; charset=utf-8', 'Cache-Control': 'no-cache, no-transform',
      'X-Accel-Buffering': 'no', Connection: 'close',
    });
    this.res.flushHeaders();
    return this;
  }
  send(event, data, id = undefined) {
    const idLine = id === undefined ? '' : `id: ${id}\n`;
    this.res.write(`${idLine}event: ${event}\ndata: ${JSON.stringify(data)}\n\n`);
    return this;
  }
  /** `connected`, the replay after the cursor, `replay-complete`, then live. */
  serve({ heartbeatMs = this.mock.heartbeatMs, resume = undefined } = {}) {
    const { session, cursor } = this;
    const index = session.log.findIndex((frame) => frame.id === cursor);
    const verdict = resume ?? (cursor === '' ? 'fresh' : index < 0 ? 'gap' : 'ok');
    const replay = verdict === 'ok' ? session.log.slice(index + 1)
      : this.query.get('replay') === 'none' ? [] : session.log;
    this.head().send('connected', {
      _eventType: 'connected', sessionId: session.id, timestamp: Date.now(),
      resume: verdict, missed: verdict === 'gap' ? null : 0,
      earliestId: session.log[0]?.id ?? null, latestId: session.log.at(-1)?.id ?? null,
      status: session.status, pendingApprovals: [...session.approvals.keys()], queue: 0,
      heartbeatInterval: heartbeatMs || 15000, agent: this.mock.agent,
    }, verdict === 'gap' ? `${session.epoch}-0` : undefined);
    for (const frame of replay) this.res.write(frame.text);
    this.send('replay-complete', { count: replay.length });
    session.readers.add(this);
    const beat = heartbeatMs ? setInterval(() => this.send('heartbeat', { timestamp: Date.now() }), heartbeatMs) : 0;
    this.mock.created += 1;
    this.res.on('close', () => {
      clearInterval(beat);
      session.readers.delete(this);
    });
    return true;
  }
}

export class Mock {
  constructor() {
    this.sessions = new Map();
    this.heartbeatMs = 15000;
    this.agent = 'demo';
    this.token = null;
    this.created = 0;
    this.posts = []; // {path, body} of every change asked for.
    this.server = createServer((req, res) => this.handle(req, res).catch((error) => {
      console.error(error);
      res.destroy();
    }));
  }

  async listen(port = 0) {
    await new Promise((done) => this.server.listen(port, '127.0.0.1', done));
    this.port = this.server.address().port;
    this.url = `http://127.0.0.1:${this.port}`;
    return this;
  }

  async close() {
    for (const session of this.sessions.values()) for (const timer of session.timers) clearInterval(timer);
    this.server.closeAllConnections();
    await new Promise((done) => this.server.close(done));
  }

  session(name = undefined, workingDir = '/home/demo/project') {
    const id = name ?? `session-${Date.now()}-${Math.random().toString(36).slice(2, 10)}`;
    const session = new MockSession(id, workingDir);
    this.sessions.set(id, session);
    session.publish('session-created', { workingDir, agent: this.agent, status: 'idle' });
    return session;
  }

  json(res, status, body) {
    res.writeHead(status, { 'Content-Type': 'application/json' });
    res.end(JSON.stringify(body));
  }

  refuse(res, status, error, code) {
    this.json(res, status, { success: false, error, code, requestId: 'mock' });
  }

  async handle(req, res) {
    const url = new URL(req.url, this.url);
    const parts = url.pathname.split('/').filter(Boolean);
    if (req.method === 'GET' && await this.page(parts, res)) return;
    if (this.token && req.headers.authorization !== `Bearer ${this.token}`) {
      this.refuse(res, 401, 'This needs a token.', 'unauthorized');
      return;
    }
    const body = req.method === 'POST' ? JSON.parse(await text(req) || '{}') : {};
    if (req.method === 'POST') this.posts.push({ path: url.pathname, body });
    if (url.pathname === '/api/debug/metrics') this.json(res, 200, this.metrics());
    else if (['/api/sessions', '/claude/api/claude/sessions'].includes(url.pathname)) this.list(req, res, body);
    else if (['session', 'sessions'].includes(parts[1])) this.one(req, res, url, parts, body);
    else this.refuse(res, 404, 'No such address.', 'not_found');
  }

  async page(parts, res) {
    const [first = '', second] = parts;
    const name = first === 'js' ? second
      : ['test-sse.html', 'style.css'].includes(first) ? first
        : ['', 'sessions', 'session'].includes(first) ? 'index.html' : null;
    if (!name || !/^[\w-]+\.[a-z]+$/.test(name)) return false;
    const content = await readFile(new URL(name, PAGES)).catch(() => null);
    if (!content) return false;
    res.writeHead(200, { 'Content-Type': TYPES[name.split('.').at(-1)], 'Content-Security-Policy': CSP, 'X-Content-Type-Options': 'nosniff' });
    res.end(content);
    return true;
  }

  metrics() {
    const open = [...this.sessions.values()].filter((s) => s.readers.size > 0);
    const total = open.reduce((sum, s) => sum + s.readers.size, 0);
    return {
      eventBus: { eventsEmitted: 0, eventsByType: {}, listenerCounts: Object.fromEntries(open.map((s) => [`session-output-${s.id}`, s.readers.size])), activeListeners: total },
      sse: { totalSessions: open.length, totalConnections: total, sessions: Object.fromEntries(open.map((s) => [s.id, s.readers.size])), totalCreated: this.created, totalClosed: this.created - total, activeHeartbeats: total },
      timestamp: Date.now(),
    };
  }

  snapshot(session) {
    return {
      sessionId: session.id, workingDir: session.workingDir, status: session.status, agent: this.agent, agentDialect: 'demo',
      name: session.name ?? null, lastActivityAt: session.createdAt, lastPrompt: session.lastPrompt ?? null,
      openApprovals: session.approvals.size, queueLength: 0, totalCostUsd: 0, lastEventId: session.log.at(-1)?.id,
    };
  }

  list(req, res, body) {
    if (req.method === 'GET') {
      const sessions = [...this.sessions.values()].reverse().map((s) => this.snapshot(s));
      this.json(res, 200, { success: true, sessions });
    } else if (typeof body.workingDir !== 'string' || !body.workingDir.startsWith('/')) {
      this.refuse(res, 400, 'workingDir must be an absolute path.', 'bad_working_dir');
    } else {
      const session = this.session(undefined, body.workingDir);
      this.json(res, 201, { success: true, sessionId: session.id, session: this.snapshot(session) });
    }
  }

  one(req, res, url, parts, body) {
    const [, , id, leaf, last] = parts;
    const session = this.sessions.get(id);
    if (!session) this.refuse(res, 404, 'There is no such session.', 'session_not_found');
    else if (leaf === 'events' && last === 'poll') this.poll(session, req, res, url);
    else if (leaf === 'events') this.events(session, req, res, url);
    else if (leaf === 'status' && session.statusCode !== 200) this.refuse(res, session.statusCode, 'Refused by the test.', 'refused');
    else if (leaf === 'status' || leaf === undefined) this.json(res, 200, { success: true, session: this.snapshot(session), ...this.snapshot(session) });
    else if (leaf === 'prompt') this.prompt(session, res, body.command ?? '');
    else if (leaf === 'approvals' && last) this.answer(session, res, last, body);
    else if (leaf === 'approvals') this.json(res, 200, { success: true, approvals: [...session.approvals.values()] });
    else if (leaf === 'interrupt') this.interrupt(session, res);
    else this.refuse(res, 404, 'No such address.', 'not_found');
  }

  events(session, req, res, url) {
    const cursor = req.headers['last-event-id'] || url.searchParams.get('lastEventId') || '';
    session.opened.push({ at: performance.now(), cursor, url: req.url, authorization: req.headers.authorization });
    const stream = new Stream(this, session, req, res, cursor, url.searchParams);
    if (!session.handler?.(stream)) stream.serve();
  }

  /** What follows the cursor, as soon as there is any; nothing when the wait is over. */
  async poll(session, req, res, url) {
    const cursor = url.searchParams.get('after') || url.searchParams.get('lastEventId') || '';
    session.polled.push({ at: performance.now(), cursor, url: req.url });
    const end = Date.now() + 1000 * Number(url.searchParams.get('wait') ?? 25);
    const index = session.log.findIndex((frame) => frame.id === cursor);
    const resume = cursor === '' ? 'fresh' : index < 0 ? 'gap' : 'ok';
    while (session.log.length === index + 1 && Date.now() < end && !res.destroyed) await new Promise((done) => setTimeout(done, 10));
    const events = session.log.slice(index + 1).map(({ id, event, data }) => ({ id, event, data }));
    this.json(res, 200, { success: true, events, next: session.log.at(-1)?.id ?? `${session.epoch}-0`, resume });
  }

  // -- an agent of a few lines: `say N words`, `slow N MS`, `think: TEXT`, `run tool: CMD`,
  // `ask: Q? A | B`, else the prompt itself

  prompt(session, res, command) {
    const promptId = `prompt-${session.seq}`;
    const lastEventId = session.log.at(-1)?.id;
    session.lastPrompt = command;
    session.publish('prompt-queued', { promptId, position: 0, command, by: 'you' });
    this.json(res, 202, { success: true, sessionId: session.id, promptId, status: 'queued', position: 0, lastEventId });
    session.queue.push({ promptId, command });
    if (!session.promptId) this.next(session);
  }

  next(session) {
    const { promptId, command } = session.queue.shift() ?? {};
    session.promptId = promptId ?? null;
    if (!promptId) {
      session.setStatus('idle');
      return;
    }
    session.setStatus('running');
    session.publish('prompt-started', { promptId });
    this.run(session, promptId, command.split(';;').map((step) => step.trim()));
  }

  run(session, promptId, steps) {
    const [step, ...rest] = steps;
    const next = () => this.run(session, promptId, rest);
    if (session.promptId !== promptId) return;
    if (step === undefined) {
      session.publish('prompt-completed', { promptId, isError: false, interrupted: false, result: '', durationMs: 1234, costUsd: 0 });
      this.next(session);
      return;
    }
    const words = /^say (\d+) words$/.exec(step);
    const tool = /^run tool: (.*)$/.exec(step);
    const thought = /^think: (.*)$/.exec(step);
    const slow = /^slow (\d+) (\d+)$/.exec(step);
    const ask = /^ask: (.*\?) (.*)$/.exec(step);
    if (tool) this.tool(session, promptId, { tool: 'Bash', title: `Run ${tool[1]}`, input: { command: tool[1], description: 'Runs what you asked for' } }, next);
    else if (ask) this.tool(session, promptId, { kind: 'question', tool: 'AskUserQuestion', title: 'The agent asks', input: { questions: [{ question: ask[1], header: 'Q', multiSelect: false, options: ask[2].split('|').map((label) => ({ label: label.trim(), description: 'One way to go' })) }] } }, next);
    else if (thought) this.speak(session, promptId, thought[1].split(' '), 'thinking', next);
    else if (slow) this.speak(session, promptId, Array(Number(slow[1])).fill('slow'), 'text', next, Number(slow[2]));
    else if (words) this.speak(session, promptId, Array.from({ length: Number(words[1]) }, (_, i) => `word${i + 1}`), 'text', next);
    else this.speak(session, promptId, step.replace(/^say: /, '').split(' '), 'text', next);
  }

  speak(session, promptId, words, kind, next, paceMs = 5) {
    const messageId = `msg-${session.seq}`;
    const type = kind === 'thinking' ? 'thinking' : 'stdout';
    let offset = 0;
    const timer = setInterval(() => {
      const content = words.length > 1 ? `${words[0]} ` : words[0];
      session.publish('session-output', { promptId, type, content, messageId, block: 0, offset });
      spoken.push(content);
      offset += content.length;
      words = words.slice(1);
      if (words.length > 0 && session.promptId === promptId) return;
      clearInterval(timer);
      session.timers.delete(timer);
      session.publish('message-block', { promptId, messageId, block: 0, kind, role: 'assistant', text: spoken.join('') });
      next();
    }, paceMs);
    const spoken = [];
    session.timers.add(timer);
  }

  tool(session, promptId, asked, next) {
    const toolUseId = `tool-${session.seq}`;
    const approvalId = `approval-${session.seq}`;
    const { tool, title, input } = asked;
    session.publish('tool-started', { promptId, toolUseId, tool, kind: tool === 'Bash' ? 'command' : 'other', title, input });
    const approval = { approvalId, kind: 'tool', inputHash: `hash-${approvalId}`, description: input.description, suggestions: [], toolUseId, ...asked };
    session.approvals.set(approvalId, { ...approval, settle: (decision) => {
      session.approvals.delete(approvalId);
      session.publish('approval-resolved', { promptId, approvalId, decision, by: 'you', input });
      session.setStatus('running');
      const outcome = decision === 'allow' ? 'ok' : 'denied';
      session.publish('tool-completed', { promptId, toolUseId, outcome, content: outcome === 'ok' ? 'Cargo.toml\nREADME.md\nsrc\n' : '', durationMs: 12 });
      next();
    } });
    session.setStatus('waiting');
    session.publish('approval-required', { promptId, ...approval });
  }

  answer(session, res, approvalId, body) {
    const approval = session.approvals.get(approvalId);
    if (!approval) this.refuse(res, 409, 'This approval was answered already.', 'approval_resolved');
    else if (body.inputHash !== approval.inputHash) this.refuse(res, 409, 'The input has changed.', 'approval_changed');
    else {
      this.json(res, 200, { success: true, decision: body.decision });
      approval.settle(body.decision);
    }
  }

  interrupt(session, res) {
    this.json(res, 200, { success: true });
    const { promptId } = session;
    if (!promptId) return;
    session.promptId = null;
    for (const approvalId of session.approvals.keys()) session.publish('approval-withdrawn', { approvalId, reason: 'interrupted' });
    session.approvals.clear();
    session.publish('prompt-completed', { promptId, isError: false, interrupted: true });
    this.next(session);
  }
}

async function text(req) {
  let whole = '';
  for await (const part of req) whole += part;
  return whole;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const mock = await new Mock().listen(Number(process.argv[2] ?? 0));
  console.log(`listening on ${mock.url}`);
}
