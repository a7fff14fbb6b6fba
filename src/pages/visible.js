// Exact text for people: nothing in it can hide, turn around or pretend to be something else.
//
// Controls, marks without width, changes of direction and spaces that are no spaces are spelled
// out. The style sheet's `.exact` shows what is left in the order in which it stands.
import { h } from './dom.js';

/** What a reader would not see, or would take for a plain space. Tab and newline are seen. */
const HIDDEN = new RegExp('['
  + '\\u0000-\\u0008\\u000b-\\u001f\\u007f-\\u00a0\\u00ad\\u034f\\u061c\\u115f\\u1160\\u1680\\u17b4\\u17b5\\u180b-\\u180f'
  + '\\u2000-\\u200f\\u2028-\\u202f\\u205f-\\u206f\\u2800\\u3000\\u3164\\ufe00-\\ufe0f\\ufeff\\uffa0\\ufff0-\\ufffb'
  + '\\u{1bca0}-\\u{1bca3}\\u{1d173}-\\u{1d17a}\\u{e0000}-\\u{e0fff}\\ud800-\\udfff]', 'gu');

/** What of it names may hold: other spaces, and what joins letters and emoji. */
const HARMLESS = /[\p{Zs}\u200c\u200d\ufe00-\ufe0f]/u;

export const hidesSomething = (text) => text.search(HIDDEN) >= 0;

/** Nodes for a text, with its hidden characters as `U+202E` in a frame. */
export function visible(text, { harmless = false } = {}) {
  const nodes = document.createDocumentFragment();
  let end = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (harmless && HARMLESS.test(match[0])) continue;
    if (match.index > end) nodes.append(text.slice(end, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, '0');
    nodes.append(h('span', { class: 'hidden-character' }, `U+${code}`));
    end = match.index + match[0].length;
  }
  nodes.append(text.slice(end));
  return nodes;
}

/** Nodes for a name, a title, a line of a list: nothing in it can turn round what stands around it. */
export const visibleName = (name) => visible(name, { harmless: true });

/** The same as a text, for places that hold no nodes. */
export const nameText = (name) => visibleName(name).textContent;

/** Beyond so many lines the numbers cost more than they tell. */
const NUMBERED_MAX = 5000;

/** A block of exact text, its lines numbered, so that a wrapped line is not taken for two. */
export function exact(text) {
  const lines = text.split('\n');
  if (lines.length > NUMBERED_MAX) return h('pre', { class: 'exact' }, visible(text));
  const numbered = lines.length > 1 ? ' numbered' : '';
  return h('pre', { class: `exact${numbered}` }, lines.map((line, index) =>
    h('span', { class: 'line' }, visible(line), index < lines.length - 1 ? '\n' : '')));
}
