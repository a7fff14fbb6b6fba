// A line diff: small, exact, and never slow.
import { h } from './dom.js';
import { visible } from './visible.js';

/** Cells of the table beyond which everything counts as changed. */
const CELLS_MAX = 1_000_000;
/** Lines of context that a folded diff keeps around a change. */
const CONTEXT = 3;

/** Rows `[sign, line]`: ' ' kept, '-' taken out, '+' put in. */
export function diffLines(before, after) {
  // A newline that ends both, or a whole new text, is the end of a line and not one more.
  const ended = after.endsWith('\n') && (before === '' || before.endsWith('\n'));
  const a = splitLines(ended ? before.replace(/\n$/, '') : before);
  const b = splitLines(ended ? after.slice(0, -1) : after);
  let head = 0;
  while (head < a.length && head < b.length && a[head] === b[head]) head += 1;
  let tail = 0;
  while (tail < a.length - head && tail < b.length - head && a.at(-1 - tail) === b.at(-1 - tail)) tail += 1;
  const kept = (lines) => lines.map((line) => [' ', line]);
  const changed = middle(a.slice(head, a.length - tail), b.slice(head, b.length - tail));
  return [kept(a.slice(0, head)), changed, kept(a.slice(a.length - tail))].flat();
}

const splitLines = (text) => (text === '' ? [] : text.split('\n'));

/** The longest common subsequence, by the table. */
function middle(a, b) {
  const width = b.length + 1;
  if (a.length * b.length > CELLS_MAX) return [...a.map((line) => ['-', line]), ...b.map((line) => ['+', line])];
  const table = new Uint32Array((a.length + 1) * width);
  for (let i = a.length - 1; i >= 0; i--) {
    for (let j = b.length - 1; j >= 0; j--) {
      table[i * width + j] = a[i] === b[j]
        ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const rows = [];
  let [i, j] = [0, 0];
  while (i < a.length || j < b.length) {
    if (i < a.length && j < b.length && a[i] === b[j]) {
      rows.push([' ', a[i++]]);
      j += 1;
    } else if (j === b.length || (i < a.length && table[(i + 1) * width + j] >= table[i * width + j + 1])) {
      rows.push(['-', a[i++]]);
    } else {
      rows.push(['+', b[j++]]);
    }
  }
  return rows;
}

const KINDS = { '+': 'added', '-': 'removed', ' ': 'kept', '…': 'skipped' };

/** The diff as nodes. `folded` leaves out what is far from any change, and says how much. */
export function diff(before, after, { folded = false } = {}) {
  const rows = folded ? fold(diffLines(before, after)) : diffLines(before, after);
  return h('div', { class: 'diff exact', role: 'group', 'aria-label': 'Changes' }, rows.map(([sign, line]) =>
    h('div', { class: KINDS[sign] }, h('span', { class: 'sign' }, `${sign} `), h('span', {}, visible(line)), '\n')));
}

function fold(rows) {
  const near = rows.map(() => false);
  rows.forEach(([sign], at) => {
    if (sign !== ' ') near.fill(true, Math.max(0, at - CONTEXT), at + CONTEXT + 1);
  });
  const shown = [];
  for (let at = 0; at < rows.length; at++) {
    if (near[at]) {
      shown.push(rows[at]);
      continue;
    }
    let end = at;
    while (end < rows.length && !near[end]) end += 1;
    shown.push(['…', `${end - at} unchanged`]);
    at = end - 1;
  }
  return shown;
}
