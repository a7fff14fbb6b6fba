// Tool calls as they are shown: a line that says what is done, and below it what went in and came out.
//
// Titles come from the server, never from the model. Bodies are built when they are first opened.
import { duration, h, icon, money, plain, setBadge, short } from './dom.js';
import { diff } from './diff.js';
import { markdown } from './markdown.js';
import { Pieces } from './pieces.js';
import { getBlob, getText } from './server.js';
import { visible } from './visible.js';

/** A result is shown up to here; the rest on demand. */
const SHOWN_MAX = 20_000;
/** Steps of one subagent that stay on the page. */
const STEPS_MAX = 200;
/** A change of so many lines is shown without a click. */
const OPEN_LINES_MAX = 60;

const WORDS = { running: 'running', ok: 'done', error: 'failed', denied: 'denied', aborted: 'aborted', unknown: 'no result' };

/** One tool call: `started` makes it, `end` and the others tell how it goes on. */
export class ToolCard {
  constructor(started) {
    this.started = started;
    this.completed = null;
    this.badge = h('span', { class: 'badge', 'data-state': 'running' }, WORDS.running);
    this.time = h('span', { class: 'time' });
    this.body = h('div', { class: 'body' });
    this.steps = null;
    this.node = h('details', { class: `item tool${started.parentToolUseId ? ' sub' : ''}`, 'data-kind': started.kind ?? 'other', 'data-tool': started.toolUseId },
      h('summary', {}, icon(started.kind ?? 'other'), h('span', { class: 'title' }, started.title ?? started.tool), this.time, this.badge), this.body);
    this.node.addEventListener('toggle', () => this.node.open && this.fill());
    if (showsItself(started)) this.open();
  }

  open() {
    this.node.open = true;
    this.fill();
  }

  fill() {
    if (this.filled) return;
    this.filled = true;
    this.body.append(inputNode(this.started.kind, this.started.input ?? {}, { title: this.started.title }), largeNode(this.started) ?? '');
    if (this.completed) this.showResult();
  }

  progress(elapsedMs) {
    if (!this.completed) this.time.textContent = duration(elapsedMs);
  }

  /** Whether it waits for a human. */
  asks(waits) {
    if (this.completed) return;
    setBadge(this.badge, waits ? 'waiting' : 'running', waits ? 'asks' : WORDS.running);
    if (waits) this.node.open = false; // The dock shows it.
    else if (showsItself(this.started)) this.open();
  }

  end(completed) {
    this.completed = completed;
    const outcome = WORDS[completed.outcome] ? completed.outcome : 'unknown';
    setBadge(this.badge, outcome, WORDS[outcome]);
    this.time.textContent = completed.durationMs >= 100 ? duration(completed.durationMs) : '';
    if (this.filled) this.showResult();
  }

  /** Its end was missed, or will never come. */
  settle() {
    if (!this.completed) setBadge(this.badge, 'unknown', WORDS.unknown);
  }

  showResult() {
    const { completed } = this;
    // That a change was made is told by its outcome.
    if (completed.outcome === 'ok' && ['edit', 'write'].includes(this.started.kind)) return;
    const result = resultNode(completed, this.started.kind);
    const rest = largeNode(completed);
    if (result || rest) this.body.append(h('div', { class: 'label' }, completed.outcome === 'error' ? 'Error' : 'Result'), result ?? '', rest ?? '');
  }

  /** Where what a subagent does is shown. */
  place(node) {
    if (!this.steps) {
      this.steps = h('div', { class: 'steps' });
      this.body.before(this.steps);
      this.node.open = true;
      this.fill();
    }
    this.steps.append(node);
    if (this.steps.childElementCount > STEPS_MAX) this.steps.firstElementChild.remove();
  }

  subagentStarted({ background, description }) {
    this.agentNote = h('p', { class: 'agent-note' }, background ? 'Subagent in the background' : 'Subagent', description ? `: ${description}` : '');
    this.body.before(this.agentNote);
  }

  subagentCompleted({ outcome, summary, usage }) {
    const facts = usageWords(usage);
    const words = { ok: 'The subagent is done', aborted: 'The subagent was stopped', error: 'The subagent failed' }[outcome] ?? 'The subagent ended';
    this.body.before(h('p', { class: 'agent-note', 'data-outcome': outcome }, [words, ...facts].join(' · ')));
    if (summary && this.started.kind !== 'agent') this.body.before(markdown(summary));
  }
}

/** Small changes are what one wants to see at once. */
function showsItself({ kind, input }) {
  if (kind !== 'edit' && kind !== 'write') return false;
  const texts = [input?.old_string, input?.new_string, input?.content].filter((text) => typeof text === 'string');
  return texts.length > 0 && texts.reduce((lines, text) => lines + text.split('\n').length, 0) <= OPEN_LINES_MAX;
}

/** What goes in, by kind. All of it: what has no form of its own stands as it is. */
export function inputNode(kind, input, { folded = true, title = '' } = {}) {
  const rest = { ...input };
  const parts = [];
  const take = (name) => {
    const value = rest[name];
    if (typeof value !== 'string') return undefined;
    delete rest[name];
    return value;
  };
  if (kind === 'command') {
    const command = take('command');
    if (command !== undefined) parts.push(h('pre', { class: 'shell' }, visible(command)));
  }
  if (kind === 'edit' || kind === 'write') {
    const path = take('file_path') ?? take('notebook_path');
    if (path && !title.endsWith(path)) parts.push(h('p', { class: 'path' }, visible(path)));
    if (Array.isArray(rest.edits) && rest.edits.every((one) => typeof one?.old_string === 'string' && typeof one.new_string === 'string' && Object.keys(one).length === 2)) {
      parts.push(...rest.edits.map((one) => diff(one.old_string, one.new_string, { folded })));
      delete rest.edits;
    }
    if (typeof rest.old_string === 'string' && typeof rest.new_string === 'string') parts.push(diff(take('old_string'), take('new_string'), { folded }));
    const content = take('content') ?? take('new_source');
    if (content !== undefined) parts.push(diff('', content, { folded }));
  }
  const prose = kind === 'agent' ? take('prompt') : kind === 'other' ? take('plan') : undefined;
  if (prose) parts.push(markdown(prose));
  for (const [name, value] of Object.entries(rest)) parts.push(member(name, value));
  return h('div', { class: 'input' }, ...parts);
}

/** One member: its name, and its value in one line where it is short. */
function member(name, value) {
  const text = plain(value);
  const block = text.length > 80 || text.includes('\n');
  return h('div', { class: block ? 'member block' : 'member' }, h('span', { class: 'name' }, name), h(block ? 'pre' : 'code', {}, visible(text)));
}

function resultNode({ content, outcome }, kind) {
  const blocks = Array.isArray(content) ? content : [content];
  const nodes = blocks.map((block) => {
    if (block?.type === 'image' && block.source?.type === 'base64') return picture(fromBase64(block.source), 'image of the result');
    const text = plain(typeof block?.text === 'string' ? block.text : block);
    if (text === '') return null;
    return kind === 'agent' && outcome === 'ok' ? markdown(text) : cutText(text);
  }).filter(Boolean);
  return nodes.length > 0 ? h('div', { class: 'result' }, ...nodes) : null;
}

function cutText(text) {
  if (text.length <= SHOWN_MAX) return h('pre', { class: 'output' }, text);
  const pre = h('pre', { class: 'output' }, text.slice(0, SHOWN_MAX));
  const more = h('button', { type: 'button', class: 'small', onclick: () => {
    new Pieces(pre, text);
    more.remove();
  } }, `Show all ${short(text.length)} characters`);
  return h('div', {}, pre, more);
}

/** What stands for a field too large for its event: its beginning, and a button for all of it. */
export function largeNode(detail, show = (text) => new Pieces(h('pre', { class: 'output' }), text).root) {
  if (!detail?.large) return null;
  const { field, bytes, href, preview } = detail.large;
  const node = h('div', { class: 'large' }, show(preview ?? ''));
  const more = h('button', { type: 'button', class: 'small', onclick: async () => {
    more.disabled = true;
    try {
      node.replaceChildren(show(await getText(href)));
    } catch (error) {
      more.disabled = false;
      more.textContent = error.message;
    }
  } }, `Load all of ${field}, ${short(bytes)}B`);
  node.append(more);
  return node;
}

/** `1.2 k in · 340 out`. */
export function usageWords(usage) {
  if (!usage) return [];
  const read = (usage.input_tokens ?? 0) + (usage.cache_read_input_tokens ?? 0) + (usage.cache_creation_input_tokens ?? 0);
  const total = usage.total_tokens;
  const words = [];
  if (read > 0) words.push(`${short(read)} tokens in`);
  if (usage.output_tokens > 0) words.push(`${short(usage.output_tokens)} out`);
  if (words.length === 0 && total > 0) words.push(`${short(total)} tokens`);
  if (usage.costUsd > 0) words.push(money(usage.costUsd));
  return words;
}

// ---- pictures: drawn by us from bytes that we fetched, so that no page address ever loads one

const PICTURE_MAX = 480;

function fromBase64({ data, media_type: type }) {
  const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
  return Promise.resolve(new Blob([bytes], { type }));
}

/** A picture of the server's own: an image that came with a prompt. */
export const serverPicture = (href, label) => picture(getBlob(href), label);

/** A canvas with what the blob shows, or a note in its place. */
export function picture(blob, label) {
  const canvas = h('canvas', { role: 'img', 'aria-label': label, class: 'picture', width: 1, height: 1 });
  Promise.resolve(blob).then(createImageBitmap).then((image) => {
    const scale = Math.min(1, PICTURE_MAX / Math.max(image.width, image.height));
    canvas.width = Math.max(1, Math.round(image.width * scale));
    canvas.height = Math.max(1, Math.round(image.height * scale));
    canvas.getContext('2d').drawImage(image, 0, 0, canvas.width, canvas.height);
    image.close();
  }).catch(() => canvas.replaceWith(h('span', { class: 'note' }, `(${label}: it cannot be shown)`)));
  return canvas;
}
