// One session on the screen: its stream, and what each event changes.
//
// Everything shown comes from events; a reload shows the same. The conversation is timeline.js's,
// what waits for an answer approvals.js's, what is written composer.js's.
import { announce, find, h, icon, money, setBadge } from './dom.js';
import { Composer } from './composer.js';
import { Dock } from './approvals.js';
import { Pump } from './pump.js';
import { Timeline } from './timeline.js';
import { api, capabilities, scope, sessionPath, sessionUrl } from './server.js';
import { notify } from './notify.js';
import { nameText, visibleName } from './visible.js';
import { STATUS_WORDS, lacking } from './words.js';

/** So near to the end counts as at the end. */
const PINNED_PX = 80;
const PAGE_EVENTS = 200;
/** The past is loaded this far before it comes into sight. */
const AHEAD = '800px 0px 0px 0px';
const BUSY = ['running', 'starting', 'waiting'];

const LINKS = { connecting: 'connecting', open: 'live', reconnecting: 'reconnecting', closed: 'ended' };

export class SessionView {
  /** `shell`: {renamed(), gone(), title(text)}: what is around the session. */
  constructor(main, id, shell) {
    this.id = id;
    this.shell = shell;
    this.session = { sessionId: id };
    this.scope = 'full'; // What we may, as far as is known.
    this.status = '';
    this.changes = 0; // How often an event has told how the session is.
    this.ended = new Set(); // Prompts that wait no longer, against a list that is older.
    this.replaying = true;
    this.asked = new Map(); // Approvals told in a replay: shown once it is clear that they are open.
    this.pinned = true;
    this.top = 0;
    this.build(main);
    this.timeline = new Timeline(this.items, () => this.grown());
    this.dock = new Dock(this.dockNode, {
      sessionId: id,
      leave: () => this.composer.focus(),
      planOf: (toolUseId) => this.timeline.tools.get(toolUseId)?.started.input?.plan,
    });
    this.follow();
    this.describe();
    this.clock = setInterval(() => this.tick(), 1000);
    this.composer.focus();
  }

  build(main) {
    this.title = h('h1', { id: 'title' }, visibleName(this.id));
    this.place = h('p', { class: 'place' });
    this.link = h('span', { id: 'link', class: 'badge', role: 'status' });
    this.state = h('span', { id: 'state', class: 'badge', role: 'status' });
    this.banner = h('p', { id: 'banner', role: 'status', hidden: true });
    this.items = h('div', { id: 'items' });
    this.earlier = h('button', { type: 'button', id: 'earlier', class: 'small', hidden: true, onclick: () => this.loadPast() }, 'Earlier');
    this.working = h('p', { id: 'working', hidden: true }, h('span', { class: 'pulse', 'aria-hidden': 'true' }), h('span', { class: 'words' }));
    this.log = h('section', { id: 'log', tabindex: 0, 'aria-label': 'Conversation', onscroll: () => this.scrolled() }, this.earlier, this.items, this.working);
    this.toEnd = h('button', { type: 'button', id: 'to-end', hidden: true, 'aria-label': 'To the newest', onclick: () => this.pin() }, icon('down'));
    this.dockNode = h('section', { id: 'dock', 'aria-label': 'Waiting for you', hidden: true });
    this.tasks = h('details', { id: 'tasks', hidden: true });
    this.menu = h('button', { type: 'button', id: 'menu', class: 'icon-button', 'aria-label': 'Session settings', 'aria-haspopup': 'dialog', onclick: () => this.settings() }, icon('more'));
    const foot = h('div', { class: 'foot' });
    main.replaceChildren(
      h('header', { class: 'bar' },
        h('a', { class: 'icon-button back', href: `${this.shell.base}/`, 'data-route': '', 'aria-label': 'All sessions' }, icon('back')),
        h('div', { class: 'names' }, this.title, this.place), this.link, this.state,
        this.menu),
      this.banner,
      h('div', { class: 'scroller' }, this.log, this.toEnd), this.dockNode, this.tasks, foot);
    this.composer = new Composer(foot, { sessionId: this.id, sent: () => this.pin() });
    this.sizes = new ResizeObserver(() => this.grown());
    this.sizes.observe(this.log);
    this.past = new IntersectionObserver((entries) => entries.some((entry) => entry.isIntersecting) && this.loadPast(), { root: this.log, rootMargin: AHEAD });
    this.past.observe(this.earlier);
  }

  leave() {
    this.left = true;
    this.stream.disconnect();
    this.dock.clear();
    this.composer.keepDraft();
    clearInterval(this.clock);
    this.sizes.disconnect();
    this.past.disconnect();
    find('#settings')?.close();
  }

  // -- what it is

  async describe() {
    try {
      const around = Promise.all([api('GET', '/api/agents').catch(() => ({})), capabilities().catch(() => ({}))]);
      const session = await this.sessionNow(around);
      const [agents, abilities] = await around;
      if (this.left) return;
      const agent = agents.agents?.find((one) => one.name === session.agent);
      find('#demo').hidden = session.dialect !== 'demo';
      this.composer.setChoices({ modes: session.dialect === 'lines' ? [] : abilities.modes ?? [], models: agent?.models ?? [] });
      this.composer.clip.hidden = session.dialect === 'lines'; // It is told text and nothing else.
      this.scope = await scope();
      this.setSession(session);
      this.dock.setMayAnswer(this.scope !== 'read');
      if (this.scope !== 'full') this.composer.onlyLook(lacking(this.scope, 'send'));
    } catch (error) {
      if (error.status === 404) this.unknown();
      this.showBanner(error.message, 'error');
    }
  }

  /** Of what is not there nothing is offered. */
  unknown() {
    this.composer.sessionGone();
    this.dock.clear();
    this.menu.hidden = true;
    this.state.hidden = true;
    this.working.hidden = true;
  }

  gone() {
    this.composer.sessionGone();
    this.shell.gone();
  }

  /** Mode, model and cost as they are now. */
  async refresh() {
    const session = await this.sessionNow().catch(() => null);
    if (session && !this.left) this.setSession(session);
  }

  /** The session as it is now, once `beside` is there: an answer that an event has overtaken is asked for again. */
  async sessionNow(beside = null) {
    for (;;) {
      const { changes } = this;
      const [{ session }] = await Promise.all([api('GET', sessionPath(this.id)), beside]);
      if (this.left || changes === this.changes) return session;
    }
  }

  setSession(session) {
    Object.assign(this.session, session);
    const { name, workingDir, archived } = this.session;
    this.title.replaceChildren(visibleName(name || baseName(workingDir) || this.id));
    this.place.replaceChildren(visibleName(workingDir ?? ''));
    this.composer.showSettings(this.session);
    if (archived && !this.composer.closed) {
      this.composer.close('');
      this.showBanner('This session is archived. ', 'quiet', this.scope === 'full' && h('button', { type: 'button', class: 'small', onclick: () => this.change('POST', '/unarchive').then(() => this.shell.reopen()) }, 'Take it out'));
    }
    this.retitle();
  }

  retitle() {
    const sign = this.dock?.size > 0 ? '(!) ' : BUSY.includes(this.status) ? '… ' : '';
    this.shell.title(`${sign}${this.title.textContent}`);
  }

  showBanner(text, kind = '', more = null) {
    this.banner.className = kind;
    this.banner.replaceChildren(text, more || '');
    this.banner.hidden = !text;
  }

  // -- the stream

  follow() {
    const stream = new SessionEventStream(this.id, { view: 'compact', share: 'tabs', background: true });
    this.stream = stream;
    const pump = new Pump();
    const on = (name, act) => stream.on(name, (event) => pump.take(() => {
      if (!this.left && this.stream === stream) act(event.detail, event);
    }));
    on('*', (detail, event) => this.event(event.type, detail, event.lastEventId));
    on('connected', (detail) => this.connected(detail));
    on('replay-complete', () => this.replayed());
    on('gap', (detail) => this.startOver(detail));
    on('state', ({ state }) => this.showLink(state));
    on('transport', ({ transport }) => {
      this.polling = transport === 'poll';
      this.showLink(stream.state);
    });
    on('paused', ({ reason }) => this.showBanner(reason === 'offline' ? 'This device is offline. What happens meanwhile comes when it is back.' : '', 'warn'));
    on('reconnect-scheduled', ({ delayMs, attempt }) => this.scheduled(delayMs, attempt));
    on('closed', (detail) => this.closed(detail));
    this.showLink(stream.state);
  }

  connected(detail) {
    this.replaying = true;
    this.asked.clear();
    this.pending = detail.pendingApprovals ?? [];
    this.more = detail.openApprovals > this.pending.length; // It names the oldest, if there are many.
    this.queueLength = detail.queue;
    if (detail.status) this.setStatus(detail.status);
  }

  /** The replay has told how things are; what it did not reach back to is asked for. */
  async replayed() {
    if (!this.replaying) return;
    this.replaying = false;
    const open = [...this.dock.open.keys()];
    if (this.more) {
      const answer = await api('GET', sessionPath(this.id, '/approvals')).catch(() => null);
      this.pending = answer ? answer.approvals.map(({ approvalId }) => approvalId) : [...this.pending, ...open, ...this.asked.keys()];
    }
    for (const id of open) if (!this.pending.includes(id)) this.dock.settle(id);
    for (const approval of this.asked.values()) if (this.pending.includes(approval.approvalId)) this.ask(approval);
    this.asked.clear();
    this.earlier.hidden = this.beginning === true;
    this.grown();
    this.retitle();
    if (this.pending.some((id) => !this.dock.open.has(id))) {
      for (let page = { more: true }, after = ''; page.more; after = `?after=${encodeURIComponent(page.approvals.at(-1)?.approvalId)}`) {
        page = await api('GET', sessionPath(this.id, `/approvals${after}`)).catch(() => ({ approvals: [] }));
        for (const approval of page.approvals) this.ask(approval);
      }
    }
    if (this.queueLength === undefined || this.queueLength !== this.composer.queue.size) {
      const answer = await api('GET', sessionPath(this.id, '/queue')).catch(() => null);
      if (answer) this.composer.setQueue(answer.queue.filter(({ promptId }) => !this.ended.has(promptId)));
    }
  }

  /** The server no longer knows our place: the newest part is loaded anew. */
  startOver({ missed }) {
    this.stream.disconnect();
    this.timeline.clear();
    this.dock.clear();
    this.beginning = false;
    this.timeline.note(`${missed ? `${missed} events were missed` : 'Events were missed'} while the connection was away: the newest part was loaded anew.`, 'warn');
    this.follow();
  }

  closed({ reason, error }) {
    if (reason === 'disconnected') return;
    if (['session-closed', 'not-found', 'gone'].includes(reason)) this.unknown();
    const words = { 'session-closed': 'This session was deleted.', 'not-found': 'There is no such session.', gone: 'This session is gone.', unauthorized: 'The server wants a token: log in.', forbidden: 'The server does not let you read this session.' };
    this.showBanner(error ?? words[reason] ?? `The stream has ended: ${reason}.`, 'error');
    this.composer.close('');
    this.dock.clear();
    this.setStatus('closed');
  }

  showLink(state) {
    if (state === 'open' && this.polling) setBadge(this.link, 'polling', 'live, by polling');
    else setBadge(this.link, state, LINKS[state] ?? state);
    if (state === 'open' && this.lost) {
      announce('Connected again');
      this.showBanner('');
      this.lost = 0;
    }
    if (state === 'reconnecting') this.lost ||= Date.now();
  }

  scheduled(delayMs, attempt) {
    if (attempt < 2) return; // The first try follows at once.
    this.nextTry = Date.now() + delayMs;
    if (attempt === 2) announce('The connection is lost. Trying again.', true);
    this.tick();
  }

  event(name, detail, id) {
    if (!detail) return;
    this.timeline.show(name, detail, id);
    switch (name) {
      case 'session-status': this.setSettings(detail); break;
      case 'prompt-queued': this.composer.queued(detail); break;
      case 'prompt-started': this.startTurn(detail); break;
      case 'prompt-completed': case 'prompt-failed': this.endTurn(detail); break;
      case 'prompt-cancelled': this.unqueue(detail.promptId); break;
      case 'approval-required': this.ask(detail); break;
      case 'approval-resolved': case 'approval-withdrawn': this.answered(detail); break;
      case 'todos-updated': this.showTasks(detail.todos ?? []); break;
      case 'session-closed': this.gone(); break;
      default:
    }
  }

  setSettings(detail) {
    const { status, mode, model, name, reason } = detail;
    this.changes += 1;
    this.setStatus(status);
    // A mode that was not chosen is null here, and what the agent changed itself is not told: a turn's end asks.
    const chosen = Object.entries(reason === 'changed' ? { mode, model } : {}).filter(([, value]) => value);
    this.setSession({ name, ...Object.fromEntries(chosen) });
    if (this.replaying) return; // Whether it is archived now is not told by the past.
    if (reason === 'archived') this.setSession({ archived: true });
    if (reason === 'unarchived' && this.session.archived) this.shell.reopen();
    this.shell.changed();
  }

  setStatus(status) {
    this.status = status;
    setBadge(this.state, status, STATUS_WORDS[status] ?? status);
    this.composer.setRunning(BUSY.includes(status));
    this.tick();
    this.retitle();
  }

  unqueue(promptId) {
    if (!promptId) return;
    this.ended.add(promptId);
    this.composer.unqueued(promptId);
  }

  startTurn({ promptId, timestamp }) {
    this.unqueue(promptId);
    this.turnAt = timestamp;
  }

  endTurn({ promptId, isError, interrupted, result, error, totalCostUsd }) {
    this.unqueue(promptId);
    if (totalCostUsd > 0) this.session.totalCostUsd = totalCostUsd;
    if (this.replaying) return;
    const words = isError ? `The turn failed. ${error ?? ''}` : interrupted ? 'The turn was interrupted.' : `The agent has answered. ${String(result ?? '').slice(0, 300)}`;
    announce(words);
    this.refresh();
    notify(this.title.textContent, words, `turn-${this.id}`, sessionUrl(this.id));
    this.shell.changed();
  }

  // -- approvals

  ask(approval) {
    if (this.replaying) {
      this.asked.set(approval.approvalId, approval);
      return;
    }
    this.dock.add(approval);
    notify(this.title.textContent, `Approval needed: ${approval.title}`, `approval-${approval.approvalId}`, sessionUrl(this.id));
    this.retitle();
    this.shell.changed();
  }

  answered({ approvalId, by, decision }) {
    this.asked.delete(approvalId);
    if (!this.dock.open.has(approvalId)) return;
    this.dock.settle(approvalId);
    announce(decision ? `${decision === 'allow' ? 'Allowed' : 'Denied'} by ${by}` : 'The agent no longer asks');
    this.retitle();
  }

  // -- tasks, and the sign of work

  showTasks(todos) {
    const done = todos.filter(({ status }) => status === 'completed').length;
    const now = todos.find(({ status }) => status === 'in_progress');
    this.tasks.hidden = todos.length === 0 || (done === todos.length && !BUSY.includes(this.status));
    this.tasks.replaceChildren(
      h('summary', {}, icon('todo'), h('b', {}, `Tasks ${done} of ${todos.length}`), h('span', { class: 'now' }, now ? now.text : '')),
      h('ol', {}, ...todos.map(({ text, status }) => h('li', { 'data-status': status }, h('span', { class: 'unseen' }, `${TASK_WORDS[status] ?? status}: `), text))));
  }

  tick() {
    if (this.left) return;
    const busy = this.status === 'running' || this.status === 'starting';
    this.working.hidden = !busy;
    if (busy) {
      const seconds = Math.max(0, Math.floor((Date.now() - (this.turnAt ?? Date.now())) / 1000));
      find('.words', this.working).textContent = this.status === 'starting' ? 'The agent starts' : `Working${seconds >= 2 ? ` · ${clock(seconds)}` : ''}`;
    }
    if (this.lost && this.stream.state === 'reconnecting') {
      const wait = Math.ceil(((this.nextTry ?? 0) - Date.now()) / 1000);
      this.showBanner(`No connection for ${clock(Math.round((Date.now() - this.lost) / 1000))}. ${wait > 0 ? `Next try in ${wait} s.` : 'Trying …'} Nothing is lost: what happens meanwhile comes then.`, 'warn');
    }
  }

  // -- scrolling

  /** Something grew: keeps the end in sight while it was, once per frame. */
  grown() {
    if (this.frame) return;
    this.frame = requestAnimationFrame(() => {
      this.frame = 0;
      if (this.left) return;
      if (!this.replaying && this.timeline.trim(this.pinned)) {
        this.beginning = false;
        this.earlier.hidden = false;
      }
      if (this.pinned) this.log.scrollTop = this.log.scrollHeight;
      this.top = this.log.scrollTop;
      this.toEnd.hidden = this.pinned;
    });
  }

  /** Only who scrolls up leaves the end: more may have come since the event was made. */
  scrolled() {
    const { scrollTop, scrollHeight, clientHeight } = this.log;
    if (scrollHeight - scrollTop - clientHeight < PINNED_PX) this.pinned = true;
    else if (scrollTop < this.top - 1) this.pinned = false;
    this.top = scrollTop;
    this.toEnd.hidden = this.pinned;
  }

  pin() {
    this.pinned = true;
    this.grown();
  }

  /** The page before what is shown. What is in sight stays where it is. */
  async loadPast() {
    if (this.loading || this.beginning || this.replaying || !this.timeline.firstId) return;
    this.loading = true;
    this.earlier.textContent = 'Loading …';
    try {
      const path = `/history?before=${encodeURIComponent(this.timeline.firstId)}&limit=${PAGE_EVENTS}&view=compact`;
      const page = await api('GET', sessionPath(this.id, path));
      if (this.left) return;
      const height = this.log.scrollHeight;
      const top = this.log.scrollTop;
      this.log.classList.add('still');
      this.timeline.prepend(page.events);
      this.log.scrollTop = top + this.log.scrollHeight - height;
      requestAnimationFrame(() => this.log.classList.remove('still'));
      this.beginning = !page.more;
      this.earlier.hidden = this.beginning;
      this.earlier.textContent = 'Earlier';
    } catch (error) {
      this.earlier.textContent = `Earlier: ${error.message}`;
    } finally {
      this.loading = false;
    }
    // Still in sight: the observer tells only changes.
    if (!this.beginning && !this.left) {
      this.past.unobserve(this.earlier);
      this.past.observe(this.earlier);
    }
  }

  // -- settings

  async change(method, leaf, body = {}) {
    const answer = await api(method, sessionPath(this.id, leaf), body);
    this.shell.changed();
    return answer;
  }

  settings() {
    const { session } = this;
    const { archived } = session;
    const complaint = h('p', { class: 'error', role: 'alert', hidden: true });
    const attempt = async (act) => {
      try {
        await act();
        dialog.close();
      } catch (error) {
        complaint.textContent = error.message;
        complaint.hidden = false;
      }
    };
    const mayChange = this.scope === 'full';
    const name = h('input', { id: 'session-name', value: session.name ?? '', maxlength: 200, autocomplete: 'off', placeholder: nameText(baseName(session.workingDir)) });
    const remove = h('button', { type: 'button', class: 'deny', onclick: () => {
      if (remove.dataset.sure) attempt(() => this.change('DELETE', '').then(() => this.gone()));
      else {
        remove.dataset.sure = 'yes';
        remove.textContent = 'Delete for good?';
      }
    } }, 'Delete');
    const facts = [['Name', mayChange ? null : session.name], ['Directory', session.workingDir], ['Agent', session.agent], ['Model', session.model], ['Mode', session.mode],
      ['Cost', session.totalCostUsd > 0 ? money(session.totalCostUsd) : null], ['Conversation', session.conversation], ['Session', this.id]].filter(([, value]) => value);
    const dialog = h('dialog', { id: 'settings', 'aria-label': 'Session settings', onclose: () => dialog.remove() },
      h('form', { method: 'dialog', onsubmit: (event) => {
        event.preventDefault();
        // Without a name it is called after its directory.
        const now = name.value.trim() || null;
        if (!mayChange || now === (session.name ?? null)) dialog.close();
        else attempt(() => this.change('PATCH', '', { name: now }));
      } },
      h('div', { class: 'row spread' }, h('h2', {}, 'Session'), h('button', { type: 'button', class: 'icon-button', 'aria-label': 'Close', onclick: () => dialog.close() }, icon('close'))),
      mayChange && h('label', { for: 'session-name' }, 'Name'), mayChange && h('div', { class: 'row' }, name, h('button', { class: 'primary' }, 'Rename')),
      h('dl', { class: 'facts' }, ...facts.flatMap(([term, value]) => [h('dt', {}, term), h('dd', {}, visibleName(String(value)))])),
      mayChange && h('div', { class: 'row' },
        session.dialect !== 'lines' && h('button', { type: 'button', id: 'fork', onclick: () => attempt(async () => this.shell.open((await this.change('POST', '/fork')).sessionId)) }, 'Fork'),
        h('button', { type: 'button', id: 'archive', onclick: () => attempt(() => this.change('POST', archived ? '/unarchive' : '/archive').then(() => (archived ? this.shell.reopen() : this.shell.gone()))) }, archived ? 'Take out of the archive' : 'Archive'),
        remove), complaint));
    document.body.append(dialog);
    dialog.showModal();
  }
}

const TASK_WORDS = { completed: 'done', in_progress: 'now', pending: 'to do' };

export const baseName = (path) => String(path ?? '').replace(/\/+$/, '').split('/').pop() || path || '';

const clock = (seconds) => (seconds < 60 ? `${seconds} s` : `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, '0')}`);
