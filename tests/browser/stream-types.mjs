// The library's types hold, for a user's compiler: types.mts compiles, under both ways to find modules.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

const TSC = fileURLToPath(new URL('node_modules/typescript/bin/tsc', import.meta.url));
const USER = fileURLToPath(new URL('types.mts', import.meta.url));
const COMMON = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2022,dom'];
const WAYS = [['--module', 'nodenext', '--moduleResolution', 'nodenext'], ['--module', 'esnext', '--moduleResolution', 'bundler']];

function compile(way) {
  return new Promise((done) => {
    const compiler = spawn(process.execPath, [TSC, ...COMMON, ...way, USER], { stdio: ['ignore', 'pipe', 'inherit'] });
    let told = '';
    compiler.stdout.setEncoding('utf8').on('data', (text) => { told += text; });
    compiler.on('close', (code) => done(`${told}${code === 0 ? '' : `exit ${code}`}`));
  });
}

export function typeChecks() {
  return [['the types hold, for modules of Node and of bundlers', async () => {
    for (const way of WAYS) assert.equal(await compile(way), '', way.join(' '));
  }]];
}
