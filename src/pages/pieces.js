// Plain text of any length on the page: to add to it costs what is added, however long it is.
//
// It stands in pieces that are laid out one by one. Of a very long one the beginning and the end are
// shown; a button between them brings what was left out, part by part.
import { h, short } from './dom.js';

/** Characters from which a piece ends with its line; at twice as many it ends within one. */
const PIECE = 8192;
/** Pieces shown of the beginning and of the end: 128 Ki characters and more. */
const HEAD = 8;
const TAIL = 8;
/** Characters kept of what is left out. More, and the oldest of them are forgotten. */
const LEFT_OUT_MAX = 16 * 1024 * 1024;

export class Pieces {
  /** `whole`: nothing is left out, for a text whose length its owner bounds. */
  constructor(root, text = '', { whole = false } = {}) {
    this.root = root;
    this.head = whole ? Infinity : HEAD;
    this.set(text);
  }

  set(text) {
    this.room = this.head; // Pieces that may still come before the gap.
    this.last = null; // {text, size, ended}: the piece that grows.
    this.tail = []; // Pieces behind the gap, as nodes.
    this.left = []; // The texts of those in it.
    this.leftSize = 0;
    this.lost = 0; // Characters before those that are forgotten.
    this.button = null;
    this.root.replaceChildren();
    this.append(text);
  }

  append(text) {
    for (let at = 0; at < text.length;) {
      if (!this.last || this.last.ended) this.begin();
      const { size } = this.last;
      const part = text.slice(at, at + 2 * PIECE - size);
      const line = part.indexOf('\n', Math.max(0, PIECE - size - 1)) + 1;
      let end = line || part.length;
      this.last.ended = line > 0 || size + end === 2 * PIECE;
      // The two halves of one character stay together.
      if (this.last.ended && end > 0 && isHalf(part, end - 1)) end -= 1;
      this.last.text.appendData(part.slice(0, end));
      this.last.size += end;
      at += end;
    }
  }

  begin() {
    const text = new Text('');
    const node = h('span', { class: 'piece' }, text);
    this.last = { text, size: 0, ended: false };
    this.root.append(node);
    if (this.room > 0) {
      this.room -= 1;
      return;
    }
    this.tail.push(node);
    if (this.tail.length > TAIL) this.leaveOut(this.tail.shift());
  }

  leaveOut(node) {
    if (!this.button) {
      this.button = h('button', { type: 'button', class: 'small left-out', onclick: () => this.showMore() });
      node.before(this.button);
    }
    this.left.push(node.textContent);
    this.leftSize += node.textContent.length;
    node.remove();
    while (this.leftSize > LEFT_OUT_MAX) this.forget();
    this.label();
  }

  forget() {
    const { length } = this.left.shift();
    this.leftSize -= length;
    this.lost += length;
  }

  label() {
    this.button.textContent = `Show more: ${short(this.lost + this.leftSize)} characters are left out here`;
  }

  /** The next part of what is left out, behind what is shown of the beginning. */
  showMore() {
    if (this.lost > 0) this.button.before(h('span', { class: 'hint' }, `… ${short(this.lost)} characters are no longer on this page …\n`));
    this.lost = 0;
    for (const text of this.left.splice(0, HEAD)) {
      this.leftSize -= text.length;
      this.button.before(h('span', { class: 'piece' }, text));
    }
    if (this.left.length > 0) this.label();
    else {
      this.button.remove();
      this.button = null;
    }
  }

  /** All of it, text by text; null where some of it is forgotten. */
  texts() {
    if (this.lost > 0 || this.root.querySelector('.hint')) return null;
    const shown = [...this.root.querySelectorAll('.piece')].map((node) => node.textContent);
    return shown.toSpliced(shown.length - this.tail.length, 0, ...this.left);
  }
}

const isHalf = (text, at) => (text.charCodeAt(at) & 0xfc00) === 0xd800;
