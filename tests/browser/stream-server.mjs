// The real server under the tests' hands: started, killed and restarted on the same port and data;
// and a relay in front of it that can play a bad network: cut, dead, or buffering streams.
import { spawn } from 'node:child_process';
import { createHash, randomBytes } from 'node:crypto';
import { createServer as createHttpServer, request } from 'node:http';
import { mkdir, mkdtemp, realpath, rm, writeFile } from 'node:fs/promises';
import { connect, createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import assert from 'node:assert/strict';
import { until } from './until.mjs';

export class RealServer {
  /** Port 0 is one that is free, which it then keeps. The agent is the demo. */
  static async start(binary, flags = [], port = 0) {
    const server = new RealServer();
    server.binary = binary;
    server.scratch = await realpath(await mkdtemp(join(tmpdir(), 'sst-stream-')));
    for (const name of ['home', 'root']) await mkdir(join(server.scratch, name));
    server.root = join(server.scratch, 'root');
    server.flags = flags;
    server.port = port;
    await server.run();
    return server;
  }

  async run() {
    const { scratch, root, port, flags } = this;
    this.child = spawn(this.binary, [
      'serve', '--listen', `127.0.0.1:${port}`, '--data-dir', join(scratch, 'data'), '--root', root,
      '--agent', 'demo', '--heartbeat', '1s', '--log-level', 'error', ...flags,
    ], { env: { PATH: process.env.PATH, HOME: join(scratch, 'home') }, stdio: ['ignore', 'pipe', 'inherit'] });
    this.ended = new Promise((done) => this.child.once('exit', (code, signal) => done({ code, signal })));
    let told = '';
    this.child.stdout.setEncoding('utf8').on('data', (text) => { told += text; });
    const listening = await until(() => /listening on http:\/\/127\.0\.0\.1:(\d+)/.exec(told), `the server listens: ${told}`);
    this.port = Number(listening[1]);
    this.url = `http://127.0.0.1:${this.port}`;
  }

  /** Ends the process and waits for its end. */
  async kill(signal) {
    this.child.kill(signal);
    return this.ended;
  }

  async close() {
    const { code } = this.child.exitCode === null && this.child.signalCode === null ? await this.kill('SIGTERM') : { code: 0 };
    await rm(this.scratch, { recursive: true, force: true });
    assert.equal(code, 0, 'the server ended badly');
  }

  // -- what a client asks

  async ask(method, path, body = undefined) {
    const headers = { ...(body && { 'Content-Type': 'application/json' }), ...(this.token && { Authorization: `Bearer ${this.token}` }) };
    const response = await fetch(this.url + path, { method, headers, body: body && JSON.stringify(body) });
    const answer = await response.json();
    assert.ok(response.ok, `${method} ${path}: ${response.status} ${answer.error}`);
    return answer;
  }
  async session() {
    return (await this.ask('POST', '/api/sessions', { workingDir: this.root })).sessionId;
  }
  prompt(id, command) {
    return this.ask('POST', `/api/session/${id}/prompt`, { command });
  }
  /** A prompt, and its end. */
  async turn(id, command) {
    const { promptId } = await this.prompt(id, command);
    await until(async () => (await this.events(id)).some(({ event, data }) => event === 'prompt-completed' && data.promptId === promptId), `the turn ends: ${command}`);
  }
  /** Every event of a session, as the server's pages of the past tell them. */
  async events(id) {
    const all = [];
    for (let before = ''; ;) {
      const page = await this.ask('GET', `/api/session/${id}/history?limit=1000${before && `&before=${before}`}`);
      all.unshift(...page.events);
      if (!page.more) return all;
      before = page.before;
    }
  }
  async ids(id) {
    return (await this.events(id)).map((event) => event.id);
  }
  async streams() {
    return (await this.ask('GET', '/api/debug/metrics')).sse;
  }
}

/** Flags that ask for tokens, and a token of each name. */
export async function tokens(names) {
  const directory = await mkdtemp(join(tmpdir(), 'sst-tokens-'));
  const file = join(directory, 'tokens');
  const made = names.map((name) => ({ name, token: randomBytes(32).toString('base64url') }));
  const lines = made.map(({ name, token }) => `${name} full sha256:${createHash('sha256').update(token).digest('hex')}\n`);
  await writeFile(file, lines.join(''), { mode: 0o600 });
  return { flags: ['--token-file', file], tokens: made.map(({ token }) => token), close: () => rm(directory, { recursive: true }) };
}

/** Bytes both ways, until told otherwise. */
export class Relay {
  static async to(port) {
    const relay = new Relay();
    relay.target = port;
    relay.sockets = new Set();
    relay.dead = false;
    relay.slow = null; // {path, delayMs}: answers to requests that fit are late.
    relay.server = createServer((near) => relay.join(near));
    await new Promise((done) => relay.server.listen(0, '127.0.0.1', done));
    relay.url = `http://127.0.0.1:${relay.server.address().port}`;
    return relay;
  }
  join(near) {
    const far = connect(this.target, '127.0.0.1');
    let delayMs = 0; // Of the answers, once what asked for them was to be slow.
    near.on('data', (bytes) => {
      if (this.slow?.path.test(bytes.toString('latin1'))) delayMs = this.slow.delayMs;
    });
    for (const [from, to] of [[near, far], [far, near]]) {
      this.sockets.add(from);
      const later = (act) => (from === far && delayMs > 0 ? setTimeout(act, delayMs) : act());
      from.on('data', (bytes) => later(() => !this.dead && !to.destroyed && to.write(bytes)));
      from.on('end', () => later(() => !this.dead && to.end()));
      from.on('error', () => to.destroy());
      from.on('close', () => {
        this.sockets.delete(from);
        later(() => !this.dead && to.destroy());
      });
    }
  }
  /** From now on nothing passes and nobody is told, as behind a tunnel's end. */
  die() {
    this.dead = true;
  }
  /** New connections pass again. Those from before stay dead. */
  revive() {
    for (const socket of this.sockets) socket.removeAllListeners('data');
    this.dead = false;
  }
  async close() {
    for (const socket of this.sockets) socket.destroy();
    await new Promise((done) => this.server.close(done));
  }
}

/** A proxy that passes a reply on when it is whole: event streams never are. */
export async function bufferingProxy(port) {
  const proxy = createHttpServer((req, res) => {
    const far = request({ port, host: '127.0.0.1', path: req.url, method: req.method, headers: req.headers }, (reply) => {
      const parts = [];
      reply.on('data', (part) => parts.push(part));
      reply.on('end', () => {
        res.writeHead(reply.statusCode, reply.headers);
        res.end(Buffer.concat(parts));
      });
    });
    far.on('error', () => res.destroy());
    res.on('close', () => far.destroy());
    req.pipe(far);
  });
  await new Promise((done) => proxy.listen(0, '127.0.0.1', done));
  return {
    url: `http://127.0.0.1:${proxy.address().port}`,
    close: async () => {
      proxy.closeAllConnections();
      await new Promise((done) => proxy.close(done));
    },
  };
}
