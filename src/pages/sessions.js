// The list of sessions beside the conversation: states, search, the archive; and the form for a new one.
import { ago, announce, find, h, icon, setBadge } from './dom.js';
import { api, capabilities, keepDraft, recall, remember, sessionUrl } from './server.js';
import { notify } from './notify.js';
import { baseName } from './session.js';
import { nameText, visibleName } from './visible.js';
import { MODE_WORDS, STATUS_WORDS, lacking } from './words.js';

/** How often it is asked for anew: as it stands alone, and beside a stream that tells of changes. */
const REFRESH_MS = 4000;
const REFRESH_STREAMED_MS = 20_000;
const SETTLE_MS = 150;
/** What changes a row. */
const EVENTS = ['session-created', 'session-status', 'session-closed', 'prompt-queued', 'approval-required', 'approval-resolved', 'approval-withdrawn'];
const SEARCH_MS = 250;
const ROWS_MAX = 200;

/** Keeps the list true while the page is in sight. */
export class SessionList {
  constructor({ current, listed = () => {} }) {
    this.current = current; // Gives the id of the open session.
    this.listed = listed;
    this.list = find('#sessions');
    this.rows = new Map(); // Id → {node, parts}: kept, so that focus and place stay.
    this.search = find('#search');
    this.archived = find('#archived');
    this.search.addEventListener('input', () => {
      clearTimeout(this.wait);
      this.wait = setTimeout(() => this.refresh(true), SEARCH_MS);
    });
    this.archived.addEventListener('change', () => this.refresh(true));
    document.addEventListener('visibilitychange', () => this.refresh());
    setInterval(() => this.refresh(), this.follow() ? REFRESH_STREAMED_MS : REFRESH_MS);
    this.refresh();
  }

  /** All sessions' events, where all tabs can share one stream: a browser opens six in all. */
  follow() {
    if (!globalThis.BroadcastChannel || !navigator.locks) return false;
    const stream = new SessionEventStream('*', { share: 'tabs', types: EVENTS, background: true });
    for (const name of EVENTS) stream.on(name, ({ detail }) => this.heard(name, detail));
    stream.on('connected', () => this.heard());
    return true;
  }

  heard(name = '', detail = {}) {
    if (name === 'approval-required' && detail.sessionId !== this.current()) {
      const known = this.rows.get(detail.sessionId)?.parts.name.textContent;
      notify(known ?? 'Another session', `Approval needed: ${detail.title}`, `approval-${detail.approvalId}`, sessionUrl(detail.sessionId));
    }
    if (name === 'session-closed') keepDraft(detail.sessionId, '');
    clearTimeout(this.settling);
    this.settling = setTimeout(() => this.refresh(), SETTLE_MS);
  }

  async refresh(told = false) {
    if (document.visibilityState !== 'visible') return;
    const query = new URLSearchParams({ limit: ROWS_MAX });
    if (this.search.value.trim()) query.set('q', this.search.value.trim());
    if (this.archived.checked) query.set('status', 'archived');
    const turn = this.turn = Symbol('refresh');
    try {
      const { sessions } = await api('GET', `/api/sessions?${query}`);
      if (this.turn !== turn) return; // A later one is on its way.
      this.show(sessions);
      this.listed(sessions);
      if (told) announce(`${sessions.length} sessions`);
    } catch (error) {
      if (this.turn === turn && error.status !== 401) find('#list-note').textContent = error.message;
    }
  }

  show(sessions) {
    const filtered = this.search.value.trim() || this.archived.checked;
    find('#list-note').textContent = sessions.length > 0 ? '' : filtered ? 'Nothing found.' : 'No sessions yet.';
    const ids = new Set(sessions.map(({ sessionId }) => sessionId));
    for (const [id, { node }] of this.rows) {
      if (ids.has(id)) continue;
      node.remove();
      this.rows.delete(id);
    }
    sessions.forEach((session, index) => {
      const row = this.rows.get(session.sessionId) ?? this.row(session);
      this.fill(row, session);
      if (this.list.children[index] !== row.node) this.list.insertBefore(row.node, this.list.children[index] ?? null);
    });
  }

  row({ sessionId }) {
    const parts = { name: h('strong'), badge: h('span', { class: 'badge' }), prompt: h('span', { class: 'last' }), when: h('small') };
    const link = h('a', { href: sessionUrl(sessionId), 'data-route': '' },
      h('span', { class: 'head' }, parts.name, parts.when), h('span', { class: 'tail' }, parts.prompt, parts.badge));
    const row = { node: h('li', {}, link), link, parts };
    this.rows.set(sessionId, row);
    return row;
  }

  fill({ link, parts }, session) {
    const { name, badge, prompt, when } = parts;
    set(name, session.name || baseName(session.workingDir));
    set(prompt, session.lastPrompt ?? 'No prompt yet');
    set(when, ago(session.lastActivityAt));
    const state = session.openApprovals > 0 ? 'waiting' : session.status;
    setBadge(badge, state, STATUS_WORDS[state] ?? state);
    badge.hidden = state === 'idle' || state === 'suspended';
    link.title = nameText(session.workingDir);
    if (session.sessionId === this.current()) link.setAttribute('aria-current', 'page');
    else link.removeAttribute('aria-current');
  }
}

const set = (node, text) => {
  const nodes = visibleName(text);
  if (node.textContent !== nodes.textContent) node.replaceChildren(nodes);
};

/** The form for a new session, with the directories there are. */
export class CreateForm {
  /** `created(id)` is told the new session. */
  constructor(root, created) {
    this.created = created;
    this.complaint = h('p', { class: 'error', role: 'alert', hidden: true });
    this.input = h('input', { id: 'working-dir', name: 'workingDir', required: true, placeholder: '/home/you/project', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false', list: 'recent' });
    this.input.value = recall('workingDir');
    this.recent = h('datalist', { id: 'recent' });
    this.browse = h('button', { type: 'button', id: 'browse', 'aria-expanded': 'false', 'aria-controls': 'directories', onclick: () => this.toggle() }, icon('folder'), 'Browse');
    this.picker = h('div', { id: 'directories', hidden: true });
    this.agent = h('select', { id: 'agent' });
    this.agentField = h('div', { class: 'field-group', hidden: true }, h('label', { for: 'agent' }, 'Agent'), this.agent);
    this.mode = h('select', { id: 'new-mode' });
    this.name = h('input', { id: 'new-name', maxlength: 200, autocomplete: 'off', placeholder: 'optional' });
    root.replaceChildren(h('form', { id: 'create', class: 'panel', onsubmit: (event) => this.create(event) },
      h('h2', {}, 'New session'),
      h('p', { class: 'hint' }, 'A session is a directory, a conversation and a log of everything that happened.'),
      h('label', { for: 'working-dir' }, 'Working directory'),
      h('div', { class: 'row joined' }, this.input, this.browse), this.recent, this.picker,
      h('div', { class: 'fields' },
        this.agentField,
        h('div', { class: 'field-group' }, h('label', { for: 'new-mode' }, 'Permissions'), this.mode),
        h('div', { class: 'field-group' }, h('label', { for: 'new-name' }, 'Name'), this.name)),
      h('button', { class: 'primary', id: 'create-session' }, 'Create session'), this.complaint));
    this.load();
  }

  focus() {
    this.input.focus();
  }

  async load() {
    const { agents = [], modes = [], access } = await capabilities().catch(() => ({}));
    this.agent.replaceChildren(...agents.map(({ name, dialect }) => h('option', { value: name }, dialect === name ? name : `${name} (${dialect})`)));
    this.agentField.hidden = agents.length < 2;
    this.mode.replaceChildren(h('option', { value: '' }, 'as the agent is set'), ...modes.map((mode) => h('option', { value: mode }, MODE_WORDS[mode] ?? mode)));
    if (access && access.scope !== 'full') {
      find('#create-session').disabled = true;
      this.complain(lacking(access.scope, 'create'));
    }
    if (!this.input.value) {
      const roots = (await api('GET', '/api/directories').catch(() => ({}))).directories ?? [];
      if (!this.input.value) this.input.value = roots[0]?.path ?? '';
    }
  }

  /** Directories of the sessions there are. */
  suggest(sessions) {
    const known = [...new Set(sessions.map(({ workingDir }) => workingDir))].slice(0, 12);
    this.recent.replaceChildren(...known.map((value) => h('option', { value })));
  }

  complain(text) {
    this.complaint.textContent = text;
    this.complaint.hidden = !text;
  }

  async create(event) {
    event.preventDefault();
    const workingDir = this.input.value.trim();
    const body = { workingDir };
    if (!this.agentField.hidden) body.agent = this.agent.value;
    if (this.mode.value) body.mode = this.mode.value;
    if (this.name.value.trim()) body.name = this.name.value.trim();
    try {
      const { sessionId } = await api('POST', '/api/sessions', body);
      remember('workingDir', workingDir);
      this.complain('');
      this.created(sessionId);
    } catch (error) {
      this.complain(error.message);
    }
  }

  // -- the directory picker

  toggle() {
    const open = this.picker.hidden;
    this.picker.hidden = !open;
    this.browse.setAttribute('aria-expanded', String(open));
    if (open) this.list(this.input.value.trim() || null, true);
  }

  /** Shows what is in a directory; in the roots where there is none. */
  async list(path, lenient = false) {
    let answer;
    try {
      answer = await api('GET', `/api/directories${path ? `?path=${encodeURIComponent(path)}` : ''}`);
    } catch (error) {
      if (lenient) return this.list(null);
      return this.complain(error.message);
    }
    this.complain('');
    if (answer.path) this.input.value = answer.path;
    const inside = this.picker.contains(document.activeElement);
    const row = (name, target, kind) => h('li', {}, h('button', { type: 'button', class: kind, onclick: () => this.list(target) }, icon(kind === 'up' ? 'back' : 'folder'), visibleName(name)));
    const up = answer.path ? [row(answer.parent ? 'Up' : 'All roots', answer.parent, 'up')] : [];
    const rows = answer.directories.map(({ name, path: target }) => row(name, target, ''));
    this.picker.replaceChildren(
      h('p', { class: 'hint', role: 'status' }, answer.path ? `${answer.directories.length} directories in ${answer.path}` : 'Where sessions may be'),
      h('ul', { 'aria-label': 'Directories' }, ...up, ...rows));
    if (inside) find('button', this.picker)?.focus();
    return undefined;
  }
}
