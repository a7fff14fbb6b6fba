// DOM nodes from plain calls. Text is only ever set as text: there is no way from here to markup.

/** `h('button', {class: 'x', onclick}, 'Text', node, [more])`: an element. Null children are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  // One by one: a list may be longer than a call takes arguments.
  for (const child of children.flat()) if (child !== null && child !== undefined && child !== false) element.append(child);
  return element;
}

export const find = (selector, within = document) => within.querySelector(selector);

/** Drawn by us on a grid of 24, as strokes. */
const ICONS = {
  back: 'M15 5l-7 7 7 7',
  plus: 'M12 5v14M5 12h14',
  more: 'M5 12h.01M12 12h.01M19 12h.01',
  send: 'M12 19V5M6 11l6-6 6 6',
  stop: 'M7 7h10v10H7z',
  clip: 'M8 12.5l6-6a3 3 0 0 1 4.3 4.2l-8 8a5 5 0 0 1-7-7l8-8',
  close: 'M6 6l12 12M18 6L6 18',
  check: 'M5 12.5l4.5 4.5L19 7.5',
  copy: 'M9 9h10v10H9zM5 15V5h10',
  down: 'M12 5v14M6 13l6 6 6-6',
  folder: 'M3 6.5h6l2 2.5h10v9.5H3z',
  bell: 'M6 16V11a6 6 0 0 1 12 0v5l1.5 2h-15zM10 20.5h4',
  read: 'M6 4h9l4 4v12H6zM14 4v5h5M9 13h6M9 16.5h6',
  edit: 'M5 19l1-4L16.5 4.5l3 3L9 18z',
  write: 'M6 4h9l4 4v12H6zM12 11v6M9 14h6',
  command: 'M5 7l5 5-5 5M12 18h7',
  search: 'M10.5 5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11zM15 15l4.5 4.5',
  web: 'M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16zM4.5 10h15M4.5 14h15M12 4c-3.5 4.5-3.5 11.5 0 16M12 4c3.5 4.5 3.5 11.5 0 16',
  agent: 'M12 4v3M7 7h10v9H7zM10 11v1M14 11v1M4.5 10v4M19.5 10v4M9 20h6',
  todo: 'M4 7l1.5 1.5L8 6M4 14l1.5 1.5L8 13M11 7.5h9M11 14.5h9',
  other: 'M12 8v4l3 2M12 4a8 8 0 1 0 0 16 8 8 0 0 0 0-16z',
};

/** A picture beside words that say the same; hidden from screen readers. */
export function icon(name) {
  const svg = document.createElementNS('http://www.w3.org/2000/svg', 'svg');
  svg.setAttribute('viewBox', '0 0 24 24');
  svg.setAttribute('class', 'icon');
  svg.setAttribute('aria-hidden', 'true');
  const path = document.createElementNS('http://www.w3.org/2000/svg', 'path');
  path.setAttribute('d', ICONS[name] ?? ICONS.other);
  svg.append(path);
  return svg;
}

/** A word with a colour: `state` is the word's key in the style sheet. */
export function setBadge(badge, state, word = state) {
  badge.textContent = word;
  badge.dataset.state = state;
}

/** Tells those who do not see the screen. */
export function announce(text, urgent = false) {
  const place = find(urgent ? '#announce-now' : '#announce');
  if (!place) return;
  // The same words twice are news only if the node changes.
  place.replaceChildren(document.createTextNode(text));
}

/** Copies text; gives whether it worked. Without a secure context there is only the old way. */
export async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = h('textarea', { class: 'unseen', readonly: true, 'aria-hidden': 'true' });
    area.value = text;
    document.body.append(area);
    area.select();
    const copied = document.execCommand('copy');
    area.remove();
    return copied;
  }
}

/** A button that copies what `text()` gives, and says so. */
export function copyButton(text, label = 'Copy') {
  const word = h('span', {}, label);
  return h('button', {
    type: 'button', class: 'small copy', onclick: async () => {
      word.textContent = await copy(text()) ? 'Copied' : 'Not copied';
      announce(word.textContent);
      setTimeout(() => { word.textContent = label; }, 1500);
    },
  }, icon('copy'), word);
}

/** `1.2 s`, `3 min 20 s`. */
export function duration(ms) {
  if (!(ms >= 0)) return '';
  if (ms < 1000) return `${Math.round(ms)} ms`;
  if (ms < 60_000) return `${(ms / 1000).toFixed(1)} s`;
  return `${Math.floor(ms / 60_000)} min ${Math.round(ms % 60_000 / 1000)} s`;
}

/** `12.3 k`: for tokens and bytes. */
export function short(count) {
  if (count < 1000) return String(count);
  if (count < 1e6) return `${(count / 1e3).toFixed(count < 1e4 ? 1 : 0)} k`;
  return `${(count / 1e6).toFixed(1)} M`;
}

export const money = (usd) => `$${usd < 0.995 ? usd.toFixed(4).replace(/0{1,2}$/, '') : usd.toFixed(2)}`;

/** `now`, `5 min`, `3 h`, `12 Mar`. */
export function ago(ms, now = Date.now()) {
  const minutes = Math.floor((now - ms) / 60_000);
  if (minutes < 1) return 'now';
  if (minutes < 60) return `${minutes} min`;
  if (minutes < 24 * 60) return `${Math.floor(minutes / 60)} h`;
  return new Date(ms).toLocaleDateString(undefined, { day: 'numeric', month: 'short' });
}

/** Text where it is text, pretty JSON where it is not; content blocks as their texts. */
export function plain(value) {
  if (typeof value === 'string') return value;
  if (Array.isArray(value) && value.every((part) => typeof part?.text === 'string')) {
    return value.map((part) => part.text).join('\n');
  }
  return value === undefined || value === null ? '' : JSON.stringify(value, null, 2);
}
