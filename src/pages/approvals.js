// What the agent asks a human: one card at a time, in a dock that stands outside of everything the
// agent can write to.
//
// A card shows our title and the exact input; the model's words come second and are marked as such.
// Nothing can be allowed before all of it was on the screen, nor in the moment in which a card
// appears, when a click was meant for something else.
import { announce, h, icon } from './dom.js';
import { api, getText, sessionPath } from './server.js';
import { inputNode } from './tools.js';
import { markdown } from './markdown.js';
import { exact, hidesSomething, visible } from './visible.js';

/** How long the buttons of a new card do nothing. */
const INERT_MS = 600;

const QUESTIONS = { tool: 'Allow this?', question: 'Question', plan: 'Shall the agent carry this plan out?', trust: 'Trust this directory?' };
const YES = { tool: 'Allow', question: 'Answer', plan: 'Approve', trust: 'Trust and start' };
const NO = { tool: 'Deny', question: 'Decline', plan: 'Keep planning', trust: 'Start without them' };

/** The open approvals of one session. */
export class Dock {
  /** `leave()` is told when the last card goes with the focus in it; `planOf(toolUseId)` gives the
   *  plan that a call brought, since the CLI asks about it with an empty input. */
  constructor(root, { sessionId, mayAnswer = true, leave = () => {}, planOf = () => undefined }) {
    this.root = root;
    this.options = { sessionId, mayAnswer, planOf };
    this.leave = leave;
    this.open = new Map(); // Approval id → its event.
    this.card = null;
    this.root.hidden = true;
  }

  get size() {
    return this.open.size;
  }

  async add(approval) {
    if (this.open.has(approval.approvalId)) return;
    this.open.set(approval.approvalId, approval);
    announce(`Approval needed: ${approval.title}`, true);
    if (approval.large) await this.complete(approval);
    this.show();
  }

  /** An input too large for its event, or for the list of what is open, has a place of its own. */
  async complete({ large, ...approval }) {
    this.show();
    const { approvalId } = approval;
    const text = await getText(sessionPath(this.options.sessionId, `/approvals/${encodeURIComponent(approvalId)}/input`)).catch(() => null);
    if (text === null || !this.open.has(approvalId)) return;
    if (large.field === 'suggestions') approval.suggestions = []; // More than could be granted.
    this.open.set(approvalId, { ...approval, input: JSON.parse(text) });
    if (this.card?.approval.approvalId === approvalId) this.drop();
  }

  /** What the token allows may be known later than what is open. */
  setMayAnswer(mayAnswer) {
    if (this.options.mayAnswer === mayAnswer) return;
    this.options.mayAnswer = mayAnswer;
    this.drop();
    this.show();
  }

  /** It was answered, here or elsewhere, or nobody asks any more. */
  settle(approvalId) {
    if (!this.open.delete(approvalId)) return;
    this.show();
  }

  clear() {
    this.open.clear();
    this.show();
  }

  drop() {
    this.card?.remove();
    this.card = null;
  }

  show() {
    const [first] = this.open.values();
    // A button that is switched off while it has the focus leaves it nowhere.
    const lost = document.activeElement === document.body && this.card?.hadFocus;
    const focused = lost || this.root.contains(document.activeElement);
    if (this.card && this.card.approval !== first) this.drop();
    if (first && !this.card) {
      this.card = new Card(first, this.options);
      this.root.replaceChildren(this.card.node);
    }
    this.root.hidden = !first;
    this.card?.count(this.open.size);
    if (focused && !this.root.contains(document.activeElement)) {
      if (this.card) this.card.heading.focus();
      else this.leave();
    }
  }
}

class Card {
  constructor(approval, { sessionId, mayAnswer, planOf }) {
    this.approval = approval;
    this.planOf = planOf;
    this.sessionId = sessionId;
    this.mayAnswer = mayAnswer;
    this.seen = []; // Parts of the box that were on the screen, as [from, to] of its height.
    this.busy = false;
    this.settled = false;
    const kind = QUESTIONS[approval.kind] ? approval.kind : 'tool';
    const title = kind === 'question' ? 'The agent asks you' : approval.title ?? `Use ${approval.tool}`;
    this.heading = h('h2', { tabindex: -1 }, visible(String(title)));
    this.waiting = h('span', { class: 'waiting' });
    this.box = h('div', { class: 'shown', tabindex: 0, role: 'region', 'aria-label': 'What will run' });
    this.box.append(...this.content(kind));
    this.more = h('button', { type: 'button', class: 'small more', onclick: () => this.scrollOn() }, icon('down'), 'Show the rest');
    this.complaint = h('p', { class: 'error', role: 'alert', hidden: true });
    this.yes = h('button', { type: 'submit', class: 'primary allow', disabled: true }, YES[kind]);
    this.no = h('button', { type: 'button', class: 'deny', disabled: true, onclick: () => this.send('deny') }, NO[kind]);
    // In sight wherever the card is scrolled to: what is behind it is not on the screen.
    this.foot = h('div', { class: 'answers' }, this.more, h('div', { class: 'row buttons' }, this.yes, this.no));
    this.node = h('form', { class: 'approval', 'data-approval': approval.approvalId, 'data-kind': kind, 'aria-label': 'Approval', onsubmit: (event) => {
      event.preventDefault();
      this.send('allow');
    } },
    h('p', { class: 'ask' }, QUESTIONS[kind], this.waiting),
    this.heading,
    this.box,
    this.words(),
    this.rules(kind),
    this.foot,
    this.reason,
    this.complaint);
    this.foot.lastChild.append(...[this.forSession, ...this.extras(kind)].filter(Boolean));
    if (!mayAnswer) this.complain('Your token does not let you answer.');
    this.watch = new ResizeObserver(() => this.look());
    this.watch.observe(this.box);
    this.rearm = () => document.visibilityState === 'visible' && this.arm();
    document.addEventListener('visibilitychange', this.rearm);
    this.scrolled = () => this.look();
    addEventListener('scroll', this.scrolled, { capture: true, passive: true }); // The box, or what it stands in.
    this.arm();
  }

  remove() {
    this.settled = true;
    this.watch.disconnect();
    clearTimeout(this.timer);
    document.removeEventListener('visibilitychange', this.rearm);
    removeEventListener('scroll', this.scrolled, { capture: true });
    this.node.remove();
  }

  count(open) {
    this.waiting.textContent = open > 1 ? `1 of ${open}` : '';
  }

  // -- when the buttons work

  arm() {
    this.armed = false;
    this.enable();
    clearTimeout(this.timer);
    this.timer = setTimeout(() => {
      this.armed = true;
      this.look();
      this.enable();
    }, INERT_MS);
  }

  /** All of it was on the screen. */
  get allSeen() {
    let to = 0;
    for (const part of this.seen.sort((a, b) => a[0] - b[0])) {
      if (part[0] > to + 0.001) return false;
      to = Math.max(to, part[1]);
    }
    return to > 0.995;
  }

  look() {
    if (!this.node.isConnected || document.visibilityState !== 'visible' || this.editors) return;
    const { scrollTop, scrollHeight } = this.box;
    const box = this.box.getBoundingClientRect();
    const dock = this.node.parentElement.getBoundingClientRect();
    const from = Math.max(box.top, dock.top, 0);
    const to = Math.min(box.bottom, dock.bottom, this.foot.getBoundingClientRect().top, innerHeight);
    if (to <= from) return;
    const before = this.allSeen;
    this.seen.push([(scrollTop + from - box.top) / scrollHeight, (scrollTop + to - box.top + 2) / scrollHeight]);
    if (this.seen.length > 64) this.join();
    if (!before && this.allSeen) this.arm(); // What was pressed to see it must not allow it.
    else this.enable();
  }

  /** Overlapping parts become one. */
  join() {
    const joined = [];
    for (const part of this.seen.sort((a, b) => a[0] - b[0])) {
      const last = joined.at(-1);
      if (last && part[0] <= last[1]) last[1] = Math.max(last[1], part[1]);
      else joined.push([...part]);
    }
    this.seen = joined;
  }

  /** To the first part that was not shown yet. */
  scrollOn() {
    this.reveal(this.box);
    this.join();
    this.box.scrollTop = Math.max(0, (this.seen[0]?.[0] > 0.001 ? 0 : this.seen[0]?.[1] ?? 0) * this.box.scrollHeight - 24);
    this.look();
  }

  enable() {
    const free = this.armed && !this.busy && !this.settled && this.mayAnswer;
    const whole = !this.approval.large;
    this.more.hidden = this.allSeen;
    this.yes.disabled = !(free && this.allSeen && whole);
    this.yes.title = this.allSeen ? '' : 'Locked until all of it was shown';
    for (const button of this.cautious ?? []) button.disabled = this.yes.disabled;
    this.no.disabled = !free;
    if (this.forSession) this.forSession.disabled = this.yes.disabled || this.chosen().length === 0;
  }

  // -- what is shown

  content(kind) {
    const { input, large } = this.approval;
    if (large) return [h('p', { class: 'hint' }, 'Loading all of it …'), exact(large.preview ?? '')];
    if (kind === 'question') return this.questions(input);
    if (kind === 'plan') return this.plan(input);
    if (kind === 'trust') return trustNodes(input);
    const { description, ...rest } = input ?? {};
    return [hiddenNote(rest), exactInput(this.approval.tool, rest)].filter(Boolean);
  }

  plan(input) {
    const { plan = this.planOf(this.approval.toolUseId), ...rest } = input ?? {};
    if (typeof plan !== 'string') return [h('p', { class: 'hint' }, 'The agent sent no text with its plan: what it wrote stands in the conversation.'), exactInput('', input ?? {})];
    return [markdown(plan, Infinity), ...(Object.keys(rest).length > 0 ? [exactInput('', rest)] : [])];
  }

  questions(input) {
    const asked = Array.isArray(input?.questions) ? input.questions : [];
    this.fields = asked.map((question, index) => new QuestionField(question, `${this.approval.approvalId}-${index}`));
    return this.fields.map((field) => field.node);
  }

  /** The model's words, marked as what they are. */
  words() {
    const { description, input, agentId } = this.approval;
    const said = [...new Set([description, input?.description])].filter((text) => typeof text === 'string' && text);
    if (said.length === 0 && !agentId) return null;
    return h('div', { class: 'claims', tabindex: 0, role: 'region', 'aria-label': 'The agent’s own words' },
      h('span', { class: 'label' }, agentId ? 'A subagent says' : 'The agent says'),
      ...said.map((text) => h('q', {}, visible(text))));
  }

  /** What may be allowed for the rest of the session; nothing that outlives it. */
  rules(kind) {
    const rules = kind === 'tool' ? (this.approval.suggestions ?? []).filter(fits).map((rule) => ({ ...rule, destination: 'session' })) : [];
    if (rules.length === 0) return null;
    const alone = rules.every((rule) => rule.type === 'setMode');
    const boxes = rules.map((rule) => h('input', { type: 'checkbox', checked: rule.type !== 'setMode' || alone, onchange: () => this.enable() }));
    this.chosen = () => rules.filter((_, index) => boxes[index].checked);
    this.forSession = h('button', { type: 'button', class: 'session', disabled: true, onclick: () => this.send('allow', this.chosen()) }, 'Allow for the session');
    return h('fieldset', { class: 'rules' }, h('legend', {}, '“For the session” also allows'),
      ...rules.map((rule, index) => h('label', { class: 'option' }, boxes[index], h('span', {}, ...ruleWords(rule)))));
  }

  extras(kind) {
    if (kind === 'question' || kind === 'trust') return [];
    const why = h('button', { type: 'button', class: 'quiet', 'aria-expanded': 'false', onclick: () => this.askWhy(why) }, kind === 'plan' ? 'Say what to change' : 'Deny with a reason');
    if (kind === 'plan') return [why];
    const edit = h('button', { type: 'button', class: 'quiet edit', disabled: true, onclick: () => this.edit(edit) }, 'Edit');
    this.cautious = [edit];
    return [why, edit];
  }

  get reason() {
    this.why = h('textarea', { rows: 2, 'aria-label': 'Reason', placeholder: 'Tell the agent why, or what to do instead' });
    this.stop = h('input', { type: 'checkbox' });
    this.whyPanel = h('div', { class: 'why', hidden: true }, this.why, h('div', { class: 'row' },
      h('label', { class: 'option' }, this.stop, h('span', {}, 'and stop the turn')),
      h('button', { type: 'button', class: 'deny', onclick: () => this.send('deny') }, 'Deny')));
    return this.whyPanel;
  }

  askWhy(button) {
    this.whyPanel.hidden = !this.whyPanel.hidden;
    button.setAttribute('aria-expanded', String(!this.whyPanel.hidden));
    if (this.whyPanel.hidden) return;
    this.why.focus();
    this.reveal(this.whyPanel);
  }

  /** The input as fields: texts as they are, the rest as JSON. */
  edit(button) {
    button.remove();
    this.editors = Object.entries(this.approval.input ?? {}).filter(([name]) => name !== 'description').map(([name, value]) => {
      const text = typeof value === 'string' ? value : JSON.stringify(value, null, 2);
      const field = h('textarea', { rows: Math.min(12, text.split('\n').length + 1), spellcheck: 'false', autocapitalize: 'off', 'aria-label': name });
      field.value = text;
      return { name, field, isText: typeof value === 'string' };
    });
    this.box.replaceChildren(...this.editors.map(({ name, field }) => h('label', { class: 'editor' }, h('span', { class: 'name' }, name), field)));
    this.seen = [[0, 1]];
    this.yes.textContent = 'Allow as edited';
    this.forSession?.remove();
    this.editors[0]?.field.focus();
  }

  // -- the answer

  edited() {
    const input = { ...this.approval.input };
    for (const { name, field, isText } of this.editors) {
      try {
        input[name] = isText ? field.value : JSON.parse(field.value);
      } catch {
        throw new Error(`“${name}” is not JSON.`);
      }
    }
    return input;
  }

  complain(text) {
    this.complaint.textContent = text;
    this.complaint.hidden = !text;
    if (text) this.reveal(this.complaint);
  }

  /** Brings a part of the card into sight: from behind the answers too, but not out at the top. */
  reveal(part) {
    part.scrollIntoView({ block: 'nearest' });
    for (const place of [this.node.parentElement, document.scrollingElement]) {
      const { top, bottom } = part.getBoundingClientRect();
      const above = Math.max(0, this.node.parentElement?.getBoundingClientRect().top ?? 0);
      if (place) place.scrollTop += Math.max(0, Math.min(bottom - this.foot.getBoundingClientRect().top, top - above));
    }
  }

  async send(decision, rules = []) {
    if (!this.armed || this.busy || (decision === 'allow' && this.yes.disabled)) return;
    const body = { decision, inputHash: this.approval.inputHash };
    try {
      if (decision === 'allow' && this.fields) body.answers = Object.fromEntries(this.fields.map((field) => field.answer()));
      if (decision === 'allow' && this.editors) body.updatedInput = this.edited();
      if (rules.length > 0) body.updatedPermissions = rules;
      if (decision === 'deny' && this.why.value.trim()) body.message = this.why.value.trim();
      if (decision === 'deny' && this.stop.checked) body.interrupt = true;
      this.complain('');
      this.hadFocus = this.node.contains(document.activeElement);
      this.busy = true;
      this.enable();
      await api('POST', sessionPath(this.sessionId, `/approvals/${encodeURIComponent(this.approval.approvalId)}`), body);
    } catch (error) {
      this.complain(error.message);
      this.busy = error.status === 409 || error.status === 404; // Settled elsewhere: its event takes the card away.
      this.enable();
    }
  }
}

/** A suggestion that the server takes: narrowed to the session, and no free pass. */
function fits(rule) {
  if (!rule || typeof rule !== 'object' || rule.mode === 'bypassPermissions') return false;
  const powerful = ['Bash', 'Write', 'Edit', 'WebFetch'];
  return !(rule.rules ?? []).some((one) => powerful.includes(one.toolName) && !one.ruleContent);
}

const MODE_WORDS = {
  acceptEdits: 'editing files without asking (mode acceptEdits)', plan: 'planning only (mode plan)',
  default: 'nothing without asking (mode default)', dontAsk: 'only what is allowed already (mode dontAsk)', auto: 'what the agent thinks is safe (mode auto)',
};

function ruleWords(rule) {
  const code = (text) => h('code', { class: 'exact' }, visible(String(text)));
  if (rule.type === 'addRules' && rule.behavior === 'allow') {
    return (rule.rules ?? []).flatMap(({ toolName, ruleContent }) => [`${toolName} `, code(ruleContent ?? 'whatever its input is')]);
  }
  if (rule.type === 'addDirectories') return ['files in ', ...(rule.directories ?? []).map(code)];
  if (rule.type === 'setMode') return [MODE_WORDS[rule.mode] ?? `mode ${rule.mode}`];
  return [code(JSON.stringify(rule))];
}

/** By tool: a command alone, a change as a diff, anything else member by member. Never folded. */
function exactInput(tool, input) {
  const names = Object.keys(input);
  if (names.length === 0) return h('p', { class: 'hint' }, 'No input.');
  if (/^(Edit|MultiEdit|Write|NotebookEdit)$/.test(tool)) return inputNode(tool === 'Write' ? 'write' : 'edit', input, { folded: false });
  if (names.length === 1 && typeof input[names[0]] === 'string') return exact(input[names[0]]);
  return h('dl', { class: 'members' }, ...Object.entries(input).flatMap(([name, value]) => [
    h('dt', {}, visible(name)), h('dd', {}, exact(typeof value === 'string' ? value : JSON.stringify(value, null, 2)))]));
}

function hiddenNote(input) {
  if (!textsIn(input).some(hidesSomething)) return null;
  return h('p', { class: 'warn-note' }, 'This holds characters that do not show, or that change the order of others. They are spelled out: ', h('span', { class: 'hidden-character' }, 'U+…'));
}

/** All texts in a value, names of members too. */
function textsIn(value) {
  if (typeof value === 'string') return [value];
  if (!value || typeof value !== 'object') return [];
  return Object.entries(value).flatMap(([name, inner]) => [name, ...textsIn(inner)]);
}

function trustNodes(input) {
  const commands = Array.isArray(input?.commands) ? input.commands : [];
  return [
    h('p', {}, 'The agent would run these by itself, before anything is asked. They stand in the directory’s own files.'),
    exact(String(input?.directory ?? '')),
    h('ul', { class: 'commands' }, ...commands.map((command) => h('li', {}, exact(String(command))))),
    h('p', { class: 'hint' }, '“Start without them” leaves out the directory’s settings, hooks, MCP servers and CLAUDE.md.')];
}

class QuestionField {
  constructor(question, name) {
    this.question = question;
    const type = question.multiSelect ? 'checkbox' : 'radio';
    this.other = h('input', { class: 'other', 'aria-label': 'Another answer', placeholder: 'Another answer', autocomplete: 'off', oninput: () => { this.free.checked = this.other.value !== ''; } });
    this.free = h('input', { type, name, value: '', 'aria-label': 'Another answer' });
    this.options = (question.options ?? []).map((option) => ({ label: String(option.label), input: h('input', { type, name, value: option.label }), option }));
    this.node = h('fieldset', { class: 'question' }, h('legend', {}, visible(String(question.question ?? ''))),
      ...this.options.map(({ input, option }) => h('label', { class: 'option' }, input,
        h('span', {}, visible(String(option.label)), option.description ? h('small', {}, visible(String(option.description))) : null))),
      h('div', { class: 'option' }, this.free, this.other));
  }

  answer() {
    const chosen = this.options.filter(({ input }) => input.checked).map(({ label }) => label);
    if (this.free.checked && this.other.value.trim()) chosen.push(this.other.value.trim());
    if (chosen.length === 0) throw new Error(`No answer yet: ${this.question.question}`);
    return [this.question.question, this.question.multiSelect ? chosen : chosen.join(', ')];
  }
}
