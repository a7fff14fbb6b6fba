// Markdown as it streams: a strict subset, built as DOM nodes, with no way to markup.
//
// Headings, paragraphs, lists, task lists, fences, quotes, tables, rules; emphasis, code, links. HTML
// is text, an image is a link to it, and only http, https and mailto are links. Each step takes time
// in proportion to the text it reads. A growing text is parsed again from its last block only, and
// of a very long one only a part is drawn until more is asked for.
import { copyButton, h, short } from './dom.js';
import { Pieces } from './pieces.js';

/** Quotes and lists inside each other, beyond which they are text. */
const DEPTH_MAX = 8;
/** Open delimiters at one time in a line of text. */
const DELIMITERS_MAX = 64;
/** A longer tail is drawn less often, so that drawing takes a bounded share of the time. */
const TAIL_PER_MS = 100;
/** Characters of a paragraph, beyond which it goes on in another: a block is drawn again as it grows. */
const PARAGRAPH_MAX = 16 * 1024;
/** How far before that a word may begin at which it is cut. */
const CUT_BACK = 200;
/** Characters that are drawn, and that are added each time more is asked for. */
const SHOWN_MAX = 256 * 1024;
/** Blocks beyond which a text lets the browser skip those out of sight. */
const LONG_BLOCKS = 150;

/** One growing text in one element. */
export class Markdown {
  constructor(root, changed = () => {}, shown = SHOWN_MAX) {
    this.root = root;
    this.changed = changed; // Told after each drawing.
    this.shownMax = shown;
    this.clear();
  }

  clear() {
    clearTimeout(this.timer);
    this.timer = 0;
    this.source = '';
    this.start = 0; // Where the part that may still change begins.
    this.tail = []; // Its nodes.
    this.open = null; // An open fence, to which text is only added.
    this.shown = this.shownMax; // So much of it may be drawn,
    this.drawn = -1; // and so much is.
    this.more = null; // The button for more.
    this.root.replaceChildren();
  }

  append(text) {
    this.source += text.replaceAll('\r', '');
    if (this.timer) return;
    const wait = Math.max(16, (Math.min(this.source.length, this.shown) - this.start) / TAIL_PER_MS);
    this.timer = setTimeout(() => this.draw(), this.open ? 16 : wait);
  }

  /** The whole text, as it is in truth. Keeps what is drawn if it is the same. */
  set(text) {
    const whole = text.replaceAll('\r', '');
    if (whole !== this.source) {
      this.clear();
      this.source = whole;
    }
    this.draw();
  }

  draw() {
    clearTimeout(this.timer);
    this.timer = 0;
    const end = this.end();
    if (end !== this.drawn) {
      this.drawn = end;
      const text = this.source.slice(0, end);
      if (!this.open?.grow(text)) this.redraw(text);
    }
    this.showRest();
    if (this.root.childElementCount > LONG_BLOCKS) this.root.classList.add('long');
    this.changed();
  }

  /** Where what may be drawn ends: in no character's middle. */
  end() {
    const { length } = this.source;
    if (length <= this.shown) return length;
    return (this.source.charCodeAt(this.shown - 1) & 0xfc00) === 0xd800 ? this.shown - 1 : this.shown;
  }

  showRest() {
    const rest = this.source.length - this.drawn;
    if (rest === 0) {
      this.more?.remove();
      this.more = null;
      return;
    }
    this.more ??= h('button', { type: 'button', class: 'small left-out', onclick: () => {
      this.shown += this.shownMax;
      this.draw();
    } });
    this.more.textContent = `Show more: ${short(rest)} characters follow`;
    if (this.root.lastChild !== this.more) this.root.append(this.more);
  }

  redraw(source) {
    const text = source.slice(this.start);
    const blocks = parse(text);
    for (const node of this.tail) node.remove();
    const nodes = blocks.map(build);
    for (const node of nodes) this.root.append(node);
    // What began in a finished line stays as it is, but for the last of it.
    const finished = text.lastIndexOf('\n') + 1;
    let last = blocks.length - 1;
    while (last > 0 && blocks[last].at >= finished && blocks[last].column === 0) last -= 1;
    this.tail = nodes.slice(Math.max(0, last));
    this.open = openFence(blocks.at(-1), source);
    if (last > 0) this.start += blocks[last].at;
  }
}

/** A text at once. `shown`: so many characters, and a button for more. */
export function markdown(text, shown = SHOWN_MAX) {
  const root = h('div', { class: 'md' });
  new Markdown(root, undefined, shown).set(text);
  return root;
}

// ---- blocks

const FENCE = /^( {0,3})(`{3,}(?=[^`]*$)|~{3,})[ \t]*([^\n]*)$/;
const HEADING = /^ {0,3}(#{1,6})(?:[ \t]+(.*?))?(?:[ \t]+#+)?[ \t]*$/;
const RULE = /^ {0,3}(?:(?:\*[ \t]*){3,}|(?:-[ \t]*){3,}|(?:_[ \t]*){3,})$/;
const ITEM = /^( *)([-*+]|\d{1,9}[.)])(?:([ \t]+)(.*))?$/;
const QUOTE = /^ {0,3}> ?/;
const TABLE_RULE = /^ {0,3}\|?[ \t]*:?-+:?[ \t]*(?:\|[ \t]*:?-+:?[ \t]*)*\|?[ \t]*$/;
const BLANK = /^[ \t]*$/;
const TASK = /^\[([ xX])\][ \t]+/;

/** Blocks with `at`, where each begins in the text. */
export function parse(text) {
  const lines = text.split('\n');
  const starts = [];
  let at = 0;
  for (const line of lines) {
    starts.push(at);
    at += line.length + 1;
  }
  const blocks = parseLines(lines, 0);
  for (const block of blocks) block.at = starts[block.line] + block.column;
  return blocks;
}

function parseLines(lines, depth) {
  const blocks = [];
  let at = 0;
  let column = 0; // Where in its line the rest of a cut paragraph begins.
  while (at < lines.length) {
    if (BLANK.test(lines[at])) {
      at += 1;
      column = 0;
      continue;
    }
    const [block, next, cut = 0] = take(lines, at, depth);
    blocks.push(Object.assign(block, { line: at, column }));
    column = cut + (next === at ? column : 0);
    if (cut > 0) lines[next] = lines[next].slice(cut);
    at = next;
  }
  return blocks;
}

/** The block that begins in line `at`, and the line behind it. */
function take(lines, at, depth) {
  const line = lines[at];
  const fence = FENCE.exec(line);
  if (fence) return takeFence(lines, at, fence);
  const heading = HEADING.exec(line);
  if (heading) return [{ type: 'heading', level: heading[1].length, text: heading[2] ?? '' }, at + 1];
  if (RULE.test(line)) return [{ type: 'rule' }, at + 1];
  if (depth < DEPTH_MAX && QUOTE.test(line)) return takeQuote(lines, at, depth);
  if (depth < DEPTH_MAX && ITEM.test(line)) return takeList(lines, at, depth);
  if (line.length <= PARAGRAPH_MAX && line.includes('|') && at + 1 < lines.length && TABLE_RULE.test(lines[at + 1])) {
    const columns = cells(lines[at + 1]);
    if (columns.length === cells(line).length) return takeTable(lines, at, columns);
  }
  return takeParagraph(lines, at, depth);
}

function takeFence(lines, at, [, indent, mark, info]) {
  const body = [];
  const bare = new RegExp(`^ {0,${indent.length}}`);
  for (let next = at + 1; next < lines.length; next++) {
    if (closes(lines[next], mark)) return [{ type: 'code', info, text: body.join('\n') }, next + 1];
    body.push(indent ? lines[next].replace(bare, '') : lines[next]);
  }
  return [{ type: 'code', info, text: body.join('\n'), mark, plain: !indent }, lines.length];
}

function closes(line, mark) {
  const end = line.trim();
  return end.length >= mark.length && line.length - line.trimStart().length < 4
    && end === mark[0].repeat(end.length);
}

function takeQuote(lines, at, depth) {
  const inner = [];
  let next = at;
  for (; next < lines.length; next++) {
    if (QUOTE.test(lines[next])) inner.push(lines[next].replace(QUOTE, ''));
    else if (BLANK.test(lines[next]) || BLANK.test(inner.at(-1)) || begins(lines[next], depth)) break;
    else inner.push(lines[next]); // A lazy line goes on with the paragraph.
  }
  return [{ type: 'quote', blocks: parseLines(inner, depth + 1) }, next];
}

function takeList(lines, at, depth) {
  const [, indent, marker] = ITEM.exec(lines[at]);
  const ordered = marker.length > 1;
  const own = indent.length;
  const sign = marker.at(-1);
  const items = [];
  let loose = false;
  let next = at;
  while (next < lines.length) {
    const item = ITEM.exec(lines[next]);
    if (!item || item[1].length >= own + 2 || item[1].length + 1 < own || item[2].at(-1) !== sign || (item[2].length > 1) !== ordered || RULE.test(lines[next])) break;
    const inset = own + 2;
    const inner = [item[4] ?? ''];
    next += 1;
    for (; next < lines.length; next++) {
      const line = lines[next];
      if (BLANK.test(line)) {
        // A blank line belongs here if what follows is indented, or is the next item.
        let after = next + 1;
        while (after < lines.length && BLANK.test(lines[after])) after += 1;
        if (after === lines.length || indentOf(lines[after]) < inset) break;
        inner.push('');
        loose = true;
      } else if (indentOf(line) >= inset) {
        inner.push(line.slice(Math.min(indentOf(line), own + item[2].length + 1)));
      } else if (!BLANK.test(inner.at(-1)) && !begins(line, depth) && inner.at(-1) !== undefined) {
        inner.push(line); // Lazy.
      } else {
        break;
      }
    }
    const task = TASK.exec(inner[0]);
    if (task) inner[0] = inner[0].slice(task[0].length);
    items.push({ done: task ? task[1] !== ' ' : null, blocks: parseLines(inner, depth + 1) });
    let after = next;
    while (after < lines.length && BLANK.test(lines[after])) after += 1;
    if (after > next && after < lines.length && ITEM.test(lines[after])) {
      const following = ITEM.exec(lines[after]);
      if (following[2].at(-1) === sign && !RULE.test(lines[after]) && following[1].length < own + 2) {
        loose = true;
        next = after;
      }
    }
  }
  return [{ type: 'list', ordered, first: ordered ? Number.parseInt(marker, 10) : 1, loose, items }, next];
}

const indentOf = (line) => line.length - line.trimStart().length;

/** Whether a line begins a block that ends a paragraph. */
function begins(line, depth) {
  return FENCE.test(line) || HEADING.test(line) || RULE.test(line)
    || (depth < DEPTH_MAX && (QUOTE.test(line) || ITEM.test(line)));
}

function takeTable(lines, at, columns) {
  const sides = columns.map((cell) => (cell.endsWith(':') ? (cell.startsWith(':') ? 'center' : 'right') : ''));
  const rows = [];
  let next = at + 2;
  for (; next < lines.length && lines[next].includes('|') && !BLANK.test(lines[next]); next++) {
    rows.push(cells(lines[next]).slice(0, columns.length));
  }
  return [{ type: 'table', head: cells(lines[at]), sides, rows }, next];
}

/** A row's cells: split at bars that are neither escaped nor in code. */
function cells(line) {
  const found = [];
  let cell = '';
  let code = 0;
  const row = line.trim().replace(/^\|/, '').replace(/(?<!\\)\|$/, '');
  for (let at = 0; at < row.length; at++) {
    if (row[at] === '\\' && row[at + 1] === '|') cell += row[++at];
    else if (row[at] === '|' && !code) {
      found.push(cell.trim());
      cell = '';
    } else {
      if (row[at] === '`') code = 1 - code;
      cell += row[at];
    }
  }
  return [...found, cell.trim()];
}

function takeParagraph(lines, at, depth) {
  const first = lines[at];
  if (first.length > PARAGRAPH_MAX) {
    const cut = cutBefore(first, PARAGRAPH_MAX);
    return [{ type: 'paragraph', text: first.slice(0, cut).trimStart(), goesOn: true }, at, cut];
  }
  let next = at + 1;
  let size = first.length;
  const ends = (line) => BLANK.test(line) || (begins(line, depth) && !odd(line));
  while (next < lines.length && size + lines[next].length < PARAGRAPH_MAX && !ends(lines[next])) size += lines[next++].length + 1;
  const text = lines.slice(at, next).map((line) => line.trimStart()).join('\n');
  return [{ type: 'paragraph', text: text.trimEnd() }, next];
}

/** Where a long line is cut: before a word, where one begins not far before `end`. */
function cutBefore(line, end) {
  for (let at = end; at > 1 && at > end - CUT_BACK; at--) {
    if (line[at - 1] === ' ' && /\p{L}/u.test(line[at] ?? '')) return at;
  }
  return (line.charCodeAt(end - 1) & 0xfc00) === 0xd800 ? end + 1 : end;
}

/** A number other than 1 that happens to begin a line is no list. */
function odd(line) {
  const item = ITEM.exec(line);
  return Boolean(item && item[2].length > 1 && Number.parseInt(item[2], 10) !== 1);
}

// ---- nodes

function build(block) {
  switch (block.type) {
    // The page's own heading is the first: those of a text begin below it.
    case 'heading': return h(`h${Math.min(6, block.level + 1)}`, { 'data-level': block.level }, inline(block.text));
    case 'rule': return h('hr');
    case 'code': return buildCode(block);
    case 'quote': return h('blockquote', {}, block.blocks.map(build));
    case 'list': return buildList(block);
    case 'table': return buildTable(block);
    default: return h('p', { class: block.goesOn ? 'goes-on' : null }, inline(block.text));
  }
}

function buildCode(block) {
  const language = /^[\w+#.-]{1,20}/.exec(block.info)?.[0] ?? '';
  const code = h('code');
  block.pieces = new Pieces(code, block.text, { whole: true });
  return h('figure', { class: 'code' },
    h('figcaption', {}, h('span', {}, language), copyButton(() => code.textContent)),
    h('pre', { tabindex: 0, 'aria-label': language ? `Code: ${language}` : 'Code', role: 'group' }, code));
}

function buildList({ ordered, first, loose, items }) {
  const list = h(ordered ? 'ol' : 'ul', { start: ordered && first !== 1 ? first : null });
  for (const { done, blocks } of items) {
    const item = h('li', { class: done === null ? null : 'task' });
    if (done !== null) item.append(h('input', { type: 'checkbox', disabled: true, checked: done, 'aria-label': done ? 'done' : 'not done' }), ' ');
    for (const block of blocks) {
      if (block.type === 'paragraph' && !loose) for (const node of inline(block.text)) item.append(node);
      else item.append(build(block));
    }
    list.append(item);
  }
  return list;
}

function buildTable({ head, sides, rows }) {
  const row = (tag, texts) => h('tr', {}, sides.map((side, at) => h(tag, { class: side || null }, inline(texts[at] ?? ''))));
  return h('div', { class: 'table', tabindex: 0, role: 'group', 'aria-label': 'Table' },
    h('table', {}, h('thead', {}, row('th', head)), h('tbody', {}, rows.map((texts) => row('td', texts)))));
}

/** A fence that is still open takes more text without being parsed again. */
function openFence(block, source) {
  if (block?.type !== 'code' || !block.mark || !block.plain) return null;
  const start = source.length - block.text.length;
  if (source[start - 1] !== '\n') return null; // Its first line is still growing.
  let drawn = source.length;
  return {
    grow(now) {
      const line = Math.max(start, now.lastIndexOf('\n', drawn - 1) + 1);
      if (/^ {0,3}[`~]/m.test(now.slice(line))) return false; // This may close it.
      block.pieces.append(now.slice(drawn));
      drawn = now.length;
      return true;
    },
  };
}

// ---- inline

const SPECIAL = /[\\`*_~[\]!<\n]|https?:\/\//g;
const ESCAPABLE = /[!-/:-@[-`{-~]/;
const TARGET = /\([ \t\n]{0,9}(<[^<>\n]{0,2000}>|[^\s()<]{0,2000}(?:\([^\s()]{0,500}\)[^\s()]{0,500}){0,5})(?:[ \t\n]{1,9}(?:"[^"]{0,300}"|'[^']{0,300}'))?[ \t\n]{0,9}\)/y;
const AUTOLINK = /<((?:https?:\/\/|mailto:)[^\s<>]{1,2000})>/y;
const BARE = /https?:\/\/[^\s<>"'`|\\^{}[\]]{1,2000}/y;
const SAFE = /^(?:https?:\/\/|mailto:)[^\s]+$/i;

/** The nodes of a text without blocks. */
export function inline(text) {
  const line = new Inline(text);
  return line.run();
}

/** A run of delimiters, or the paragraph itself, and what stands behind it so far. */
const frame = (sign, count = 0) => ({ sign, count, children: [] });

class Inline {
  constructor(text) {
    this.text = text;
    this.frames = [frame('')];
    this.noCode = new Map(); // Length of a run of backticks → from where on there is none.
  }

  get top() {
    return this.frames.at(-1);
  }

  put(node) {
    const { children } = this.top;
    if (typeof node === 'string' && typeof children.at(-1) === 'string') children.push(children.pop() + node);
    else children.push(node);
  }

  run() {
    const { text } = this;
    let at = 0;
    while (at < text.length) {
      SPECIAL.lastIndex = at;
      const found = SPECIAL.exec(text);
      if (!found) break;
      if (found.index > at) this.put(text.slice(at, found.index));
      at = this.special(found.index);
    }
    if (at < text.length) this.put(text.slice(at));
    while (this.frames.length > 1) this.giveUp();
    return this.top.children;
  }

  /** Reads what begins at `at`; gives where it ends. */
  special(at) {
    const { text } = this;
    switch (text[at]) {
      case '\\': return this.escape(at);
      case '`': return this.code(at);
      case '*': case '_': case '~': return this.delimiters(at);
      case '[': return this.bracket(at, '[');
      case '!': return text[at + 1] === '[' ? this.bracket(at, '![') : this.plain(at);
      case ']': return this.closeBracket(at);
      case '<': return this.link(AUTOLINK, at, 1) ?? this.plain(at);
      case '\n': return this.lineEnd(at);
      default: return this.bareLink(at);
    }
  }

  plain(at) {
    this.put(this.text[at]);
    return at + 1;
  }

  escape(at) {
    const next = this.text[at + 1];
    if (next === '\n') {
      this.put(h('br'));
      return at + 2;
    }
    if (next === undefined || !ESCAPABLE.test(next)) return this.plain(at);
    this.put(next);
    return at + 2;
  }

  lineEnd(at) {
    // Looked up in the text: what is put together so far would be written out anew for each line.
    const hard = this.text[at - 1] === ' ' && this.text[at - 2] === ' ';
    this.put(hard ? h('br') : '\n');
    return at + 1;
  }

  code(at) {
    const { text } = this;
    let length = 1;
    while (text[at + length] === '`') length += 1;
    const start = at + length;
    if (!(this.noCode.get(length) <= start)) {
      const run = new RegExp(`(?<!\`)\`{${length}}(?!\`)`, 'g');
      run.lastIndex = start;
      const end = run.exec(text);
      if (end) {
        let code = text.slice(start, end.index).replaceAll('\n', ' ');
        if (code.startsWith(' ') && code.endsWith(' ') && code.trim()) code = code.slice(1, -1);
        this.put(h('code', {}, code));
        return end.index + length;
      }
      this.noCode.set(length, start);
    }
    this.put('`'.repeat(length));
    return start;
  }

  delimiters(at) {
    const { text } = this;
    const sign = text[at];
    let count = 1;
    while (text[at + count] === sign) count += 1;
    const end = at + count;
    const before = at === 0 ? ' ' : text[at - 1];
    const after = text[end] ?? ' ';
    const [spaceBefore, spaceAfter] = [/\s/.test(before), /\s/.test(after)];
    const [signBefore, signAfter] = [/[\p{P}\p{S}]/u.test(before), /[\p{P}\p{S}]/u.test(after)];
    let opens = !spaceAfter && (!signAfter || spaceBefore || signBefore);
    let closes = !spaceBefore && (!signBefore || spaceAfter || signAfter);
    if (sign === '_') [opens, closes] = [opens && (!closes || signBefore), closes && (!opens || signAfter)];
    if (sign === '~' && count !== 2) [opens, closes] = [false, false];
    let left = closes ? this.close(sign, count) : count;
    if (left > 0 && opens && this.frames.length < DELIMITERS_MAX) {
      this.frames.push(frame(sign, left));
      left = 0;
    }
    if (left > 0) this.put(sign.repeat(left));
    return end;
  }

  /** Closes as much of a run as has something to close; gives what is left. */
  close(sign, count) {
    let left = count;
    while (left > 0) {
      let at = this.frames.length - 1;
      while (at > 0 && this.frames[at].sign !== sign && !this.frames[at].sign.endsWith('[')) at -= 1;
      if (at <= 0 || this.frames[at].sign !== sign || (sign === '~' && left < 2)) return left;
      while (this.frames.length - 1 > at) this.giveUp();
      const opened = this.frames.pop();
      const used = Math.min(left, opened.count, 2);
      const node = h(sign === '~' ? 'del' : used === 2 ? 'strong' : 'em', {}, opened.children);
      left -= used;
      opened.count -= used;
      opened.children = [node];
      if (opened.count > 0) this.frames.push(opened);
      else this.put(node);
    }
    return 0;
  }

  /** What was opened and not closed is text. */
  giveUp() {
    const { sign, count, children } = this.frames.pop();
    this.put(count ? sign.repeat(count) : sign);
    for (const child of children) this.put(child);
  }

  bracket(at, sign) {
    if (this.frames.length >= DELIMITERS_MAX) return this.plain(at);
    this.frames.push(frame(sign));
    return at + sign.length;
  }

  closeBracket(at) {
    let open = this.frames.length - 1;
    while (open > 0 && !this.frames[open].sign.endsWith('[')) open -= 1;
    if (open <= 0) return this.plain(at);
    while (this.frames.length - 1 > open) this.giveUp();
    TARGET.lastIndex = at + 1;
    const target = TARGET.exec(this.text);
    if (!target) {
      this.giveUp();
      return this.plain(at);
    }
    const { sign, children } = this.frames.pop();
    const inner = sign === '![' ? ['image: ', ...children] : children;
    const href = target[1].replace(/^<|>$/g, '');
    this.put(anchor(href, inner) ?? h('span', { class: 'no-link', title: href }, inner));
    return TARGET.lastIndex;
  }

  link(pattern, at, group) {
    pattern.lastIndex = at;
    const found = pattern.exec(this.text);
    if (!found) return null;
    this.put(anchor(found[group], [found[group].replace(/^mailto:/, '')]));
    return pattern.lastIndex;
  }

  bareLink(at) {
    BARE.lastIndex = at;
    const found = BARE.exec(this.text);
    if (!found) return this.plain(at);
    let url = found[0].replace(/[.,:;!?*_~]+$/, '');
    while (url.endsWith(')') && url.split('(').length < url.split(')').length) url = url.slice(0, -1);
    const node = anchor(url, [url]);
    this.put(node ?? url);
    return at + url.length;
  }
}

/** A link that leads where it says and tells nobody where from; null if it is not a safe one. */
function anchor(href, children) {
  if (!SAFE.test(href) || !URL.canParse(href)) return null;
  for (const child of children) {
    // No link in a link: what is inside is words.
    if (child instanceof Element && (child.matches('a') || child.querySelector('a'))) return h('span', { class: 'no-link', title: href }, children);
  }
  return h('a', { href, title: href, target: '_blank', rel: 'noopener noreferrer nofollow' }, children);
}
