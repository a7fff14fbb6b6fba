// The library's types hold, for a user's compiler: types.mts compiles under both ways to find modules,
// and so does every example of docs/client.md.
import assert from 'node:assert/strict';
import { spawn } from 'node:child_process';
import { mkdtemp, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const here = (path) => fileURLToPath(new URL(path, import.meta.url));
const TSC = here('node_modules/typescript/bin/tsc');
const LIBRARY = here('../../src/pages/session-event-stream.mjs');
const COMMON = ['--noEmit', '--strict', '--target', 'es2022', '--lib', 'es2022,dom'];
const WAYS = [['--module', 'nodenext', '--moduleResolution', 'nodenext'], ['--module', 'esnext', '--moduleResolution', 'bundler']];

/** What the compiler has to say of these files: nothing, if all is well. */
function compile(way, files) {
  return new Promise((done) => {
    const compiler = spawn(process.execPath, [TSC, ...COMMON, ...way, ...files], { stdio: ['ignore', 'pipe', 'inherit'] });
    let told = '';
    compiler.stdout.setEncoding('utf8').on('data', (text) => { told += text; });
    compiler.on('close', (code) => done(`${told}${code === 0 ? '' : `exit ${code}`}`));
  });
}

export function typeChecks() {
  return [
    ['the types hold, for modules of Node and of bundlers', async () => {
      for (const way of WAYS) assert.equal(await compile(way, [here('types.mts')]), '', way.join(' '));
    }],

    ['the examples of docs/client.md compile', async () => {
      const page = await readFile(here('../../docs/client.md'), 'utf8');
      const examples = [...page.matchAll(/```js\n(.*?)```/gs)].map(([, text]) => text);
      assert.ok(examples.length >= 4, `${examples.length} examples`);
      const directory = await mkdtemp(join(tmpdir(), 'sst-types-'));
      try {
        const files = await Promise.all(examples.map(async (text, number) => {
          const file = join(directory, `example-${number}.mts`);
          // Those of a plain script see the class as the page does.
          await writeFile(file, `import type {} from '${LIBRARY}';\n${text.replaceAll('/js/session-event-stream.mjs', LIBRARY)}`);
          return file;
        }));
        assert.equal(await compile(WAYS[1], files), '');
      } finally {
        await rm(directory, { recursive: true });
      }
    }],
  ];
}
