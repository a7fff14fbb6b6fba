// A session's conversation as nodes, made from its events; newest at the end, oldest loaded on demand.
//
// Takes events in any amount, live or as pages of the past, and keeps a bounded part of them on the
// page: what is taken off at the top comes back from the history. Knows no stream and no requests.
import { duration, h, money, plain } from './dom.js';
import { Markdown } from './markdown.js';
import { Pieces } from './pieces.js';
import { ToolCard, largeNode, serverPicture, usageWords } from './tools.js';

/** Items on the page, beyond which the oldest go; fewer while their end is in sight. */
const ITEMS_MAX = 4000;
const ITEMS_PINNED_MAX = 800;
/** How many stay when some go. */
const ITEMS_KEPT = 400;
/** A longer prompt shows its beginning. */
const LONG_PROMPT = 1500;
const LONG_PROMPT_LINES = 14;

const ENDS = {
  agent: 'taken back by the agent', agent_exited: 'withdrawn: the agent ended', turn_ended: 'withdrawn: the turn ended',
  session_closed: 'withdrawn: the session was closed', prompt_cancelled: 'withdrawn: the prompt was cancelled',
  server_stopping: 'withdrawn: the server stopped', server_restarted: 'withdrawn: the server was restarted',
};

/** Event name → method. Others show nothing here. */
const SHOW = {
  'session-created': 'created',
  'prompt-queued': 'queued',
  'prompt-started': 'promptStarted',
  'prompt-completed': 'promptEnded',
  'prompt-failed': 'promptEnded',
  'prompt-cancelled': 'promptCancelled',
  'session-output': 'output',
  'message-block': 'block',
  'tool-started': 'toolStarted',
  'tool-progress': 'toolProgress',
  'tool-completed': 'toolCompleted',
  'subagent-started': 'subagentStarted',
  'subagent-completed': 'subagentCompleted',
  'approval-required': 'approvalRequired',
  'approval-resolved': 'approvalEnded',
  'approval-withdrawn': 'approvalEnded',
  'session-error': 'error',
  'session-stalled': 'stalled',
  'agent-retry': 'retry',
  'events-lost': 'lost',
  'agent-event': 'agentEvent',
};

export class Timeline {
  /** `changed()` is told when something grew. */
  constructor(root, changed) {
    this.root = root;
    this.changed = changed;
    this.clear();
  }

  clear() {
    this.root.replaceChildren();
    this.target = this.root;
    this.firstId = ''; // The oldest event shown: where the past begins.
    this.id = ''; // Of the event that is being shown.
    this.blocks = new Map(); // `message/block` → {node, text}.
    this.tools = new Map(); // Tool use id → ToolCard.
    this.prompts = new Map(); // Prompt id → {command, images, by, node, state}.
    this.approvals = new Map(); // Approval id → {title, end}.
    this.orphans = new Map(); // Tool use id → its end, told before its beginning.
    this.plain = new WeakMap(); // The node of plain output → {key, node, pieces}.
    this.trimmed = false;
  }

  show(name, detail, id) {
    const method = SHOW[name];
    if (!this.firstId && id) this.firstId = id;
    this.id = id;
    if (method && detail) this[method](detail);
  }

  /** A page of the past: [{id, event, data}], oldest first. It goes before everything else. */
  prepend(events) {
    const past = document.createDocumentFragment();
    this.target = past;
    const text = this.lineText;
    this.lineText = null;
    for (const { id, event, data } of events) this.show(event, data, id);
    this.lineText = text;
    this.target = this.root;
    this.joinPlain(past.lastElementChild, this.root.firstElementChild);
    this.root.prepend(past);
    if (events.length > 0) this.firstId = events[0].id;
  }

  /** Plain output that a page of the past ends in the middle of is one again. */
  joinPlain(first, second) {
    const [before, after] = [this.plain.get(first), this.plain.get(second)];
    const texts = before && before.key === after?.key ? after.pieces.texts() : null;
    if (!texts) return;
    for (const text of texts) before.pieces.append(text);
    if (this.lineText === after) this.lineText = before;
    second.remove();
  }

  /** Takes old items off where there are too many. Gives whether it did. */
  trim(pinned) {
    const count = this.root.childElementCount;
    if (count <= (pinned ? ITEMS_PINNED_MAX : ITEMS_MAX)) return false;
    const keep = pinned ? ITEMS_KEPT : ITEMS_MAX - ITEMS_KEPT;
    const range = document.createRange();
    range.setStartBefore(this.root.firstElementChild);
    range.setEndBefore(this.root.children[count - keep]);
    range.deleteContents();
    this.firstId = this.root.firstElementChild.dataset.id ?? this.firstId;
    for (const map of [this.blocks, this.tools]) {
      for (const [key, { node }] of map) if (!node.isConnected) map.delete(key);
    }
    for (const prompt of this.prompts.values()) if (prompt.node && !prompt.node.isConnected) prompt.node = null;
    this.trimmed = true;
    return true;
  }

  add(node, detail = {}) {
    if (this.id) node.dataset.id = this.id;
    const parent = detail.parentToolUseId && this.tools.get(detail.parentToolUseId);
    if (parent) parent.place(node);
    else this.target.append(node);
    this.changed();
    return node;
  }

  note(text, kind = '', more = null) {
    if (text) this.add(h('div', { class: `item note ${kind}` }, h('p', {}, text), more));
  }

  // -- prompts

  created({ workingDir, forkedFrom }) {
    this.note(forkedFrom ? `Forked from another session, in ${workingDir}` : `Session created in ${workingDir}`, 'quiet');
  }

  promptOf(promptId) {
    let prompt = this.prompts.get(promptId);
    if (!prompt) this.prompts.set(promptId, prompt = { command: null, images: [], by: '', node: null });
    return prompt;
  }

  /** Remembered now, shown when it starts: before that it waits in the queue. */
  queued(detail) {
    const prompt = this.promptOf(detail.promptId);
    Object.assign(prompt, { command: plain(detail.command), images: detail.images ?? [], by: detail.by, large: detail.large });
    if (prompt.node) this.fillPrompt(prompt);
  }

  promptStarted({ promptId, origin }) {
    this.lineText = null;
    if (!promptId) return this.note(`The agent went on by itself${origin ? ` (${origin})` : ''}`, 'quiet');
    return this.showPrompt(this.promptOf(promptId));
  }

  showPrompt(prompt) {
    if (prompt.node) return;
    prompt.node = h('article', { class: 'item prompt', 'aria-label': 'Prompt' });
    this.fillPrompt(prompt);
    this.add(prompt.node);
  }

  fillPrompt({ node, command, images, by, large }) {
    const text = command ?? '(a prompt from before what is shown here)';
    const words = h('div', { class: 'words' }, text.slice(0, 2 * LONG_PROMPT));
    node.replaceChildren(words);
    if (text.length > LONG_PROMPT || text.split('\n').length > LONG_PROMPT_LINES) {
      words.classList.add('folded');
      const unfold = h('button', { type: 'button', class: 'small', onclick: () => {
        new Pieces(words, text);
        words.classList.remove('folded');
        unfold.remove();
      } }, 'Show all of it');
      node.append(unfold);
    }
    if (large) node.append(largeNode({ large }, (text) => h('div', { class: 'words' }, text)));
    for (const [index, { href }] of images.entries()) node.append(serverPicture(href, `image ${index + 1} of the prompt`));
    if (by && by !== 'local') node.append(h('span', { class: 'by' }, by));
  }

  promptEnded(detail) {
    const { promptId, interrupted, isError, error, code, result, durationMs, costUsd, usage } = detail;
    if (promptId) {
      const prompt = this.promptOf(promptId);
      if (isError && !prompt.node && prompt.command !== null) this.showPrompt(prompt);
    }
    this.settle();
    if (isError) {
      const words = error ?? plain(result);
      this.note(`The turn failed: ${words || 'no reason was given'}`, 'error', code ? h('small', {}, code) : null);
    }
    const facts = [duration(durationMs)];
    if (costUsd > 0) facts.push(money(costUsd));
    facts.push(...usageWords(usage));
    const word = interrupted ? 'Interrupted' : isError ? 'Failed' : 'Done';
    this.add(h('div', { class: 'item end', 'data-outcome': word.toLowerCase() }, h('b', {}, word), h('span', {}, facts.filter(Boolean).join(' · '))));
  }

  promptCancelled({ promptId, by }) {
    const prompt = this.promptOf(promptId);
    const words = prompt.command ? `: ${prompt.command.slice(0, 80)}` : '';
    this.note(`A waiting prompt was cancelled${by && by !== 'local' ? ` by ${by}` : ''}${words}`, 'quiet');
  }

  /** The turn is over: nothing of it goes on growing. */
  settle() {
    this.lineText = null;
    for (const { markdown } of this.blocks.values()) markdown?.draw();
  }

  // -- what is said

  output(detail) {
    const { messageId, turnId = 'agent', type, content, offset } = detail;
    const kind = type === 'thinking' ? 'thinking' : type === 'stderr' ? 'stderr' : 'text';
    // Plain output belongs to no message of the agent's: its turn's id stands there.
    if (kind === 'stderr' || !messageId || messageId === turnId) return this.lines(kind, content, messageId);
    const entry = this.entry(detail, kind);
    if (offset > 0 && entry.length === 0) {
      entry.partial = true; // Its beginning is in the past.
      entry.append('… ');
    }
    entry.length = offset + content.length;
    entry.append(content);
    return this.changed();
  }

  /** Plain output: of an agent of lines, or what came on stderr. */
  lines(kind, content, messageId) {
    const end = this.target.lastElementChild;
    const key = `${messageId}/${kind}`;
    if (end !== this.lineText?.node || this.lineText.key !== key) {
      const node = h('pre', { class: `item lines ${kind}`, 'data-kind': kind });
      this.lineText = { key, node: this.add(node), pieces: new Pieces(node) };
      this.plain.set(node, this.lineText);
    }
    this.lineText.pieces.append(content);
    this.changed();
  }

  entry(detail, kind) {
    const key = `${detail.messageId}/${detail.block}`;
    const present = this.blocks.get(key);
    if (present) return present;
    const sub = detail.parentToolUseId ? ' sub' : '';
    const entry = kind === 'thinking' ? this.thinking(sub) : this.said(sub);
    this.blocks.set(key, entry);
    this.add(entry.node, detail);
    return entry;
  }

  said(sub) {
    const text = h('div', { class: 'md' });
    const markdown = new Markdown(text, this.changed);
    const node = h('article', { class: `item said${sub}`, 'aria-label': 'Answer' }, text);
    return { node, markdown, text, length: 0, append: (more) => markdown.append(more), set: (all) => markdown.set(all) };
  }

  thinking(sub) {
    const text = h('div', { class: 'words' });
    const hint = h('span', { class: 'hint' });
    const node = h('details', { class: `item thinking${sub}` }, h('summary', {}, 'Thinking ', hint), text);
    const pieces = new Pieces(text);
    const count = (all) => { hint.textContent = `${all.split(/\s+/).filter(Boolean).length} words`; };
    node.addEventListener('toggle', () => count((pieces.texts() ?? []).join('')));
    return {
      node, text, length: 0,
      append: (more) => pieces.append(more),
      set: (all) => {
        pieces.set(all);
        count(all);
      },
    };
  }

  block(detail) {
    for (const old of detail.replaces ?? []) {
      for (const [key, entry] of this.blocks) {
        if (!key.startsWith(`${old}/`)) continue;
        entry.node.remove();
        this.blocks.delete(key);
      }
    }
    if (detail.role === 'user' && !detail.parentToolUseId) return;
    const known = this.blocks.has(`${detail.messageId}/${detail.block}`);
    if (!known && !detail.text && !detail.large) return; // An empty block is no news.
    const entry = this.entry(detail, detail.kind === 'thinking' ? 'thinking' : 'text');
    if (detail.large) this.largeBlock(entry, detail);
    else entry.set(detail.text ?? '');
    if (detail.aborted) entry.node.append(h('p', { class: 'cut' }, 'cut off'));
    this.changed();
  }

  /** The event holds the beginning only; all of its deltas are better than that. */
  largeBlock(entry, { large }) {
    if (entry.length > 0 && !entry.partial) return entry.markdown?.draw();
    const show = (text) => {
      entry.set(text);
      return entry.text;
    };
    return entry.node.append(largeNode({ large }, show));
  }

  // -- tools

  toolStarted(detail) {
    if (this.tools.has(detail.toolUseId)) return;
    const card = new ToolCard(detail);
    this.tools.set(detail.toolUseId, card);
    this.add(card.node, detail);
    for (const end of this.orphans.get(detail.toolUseId) ?? []) end(card);
    this.orphans.delete(detail.toolUseId);
  }

  /** Does it now, or when a page of the past brings the tool. */
  withTool(toolUseId, act) {
    const card = this.tools.get(toolUseId);
    if (card) act(card);
    else if (toolUseId) this.orphans.set(toolUseId, [...this.orphans.get(toolUseId) ?? [], act]);
    this.changed();
  }

  toolProgress({ toolUseId, elapsedMs }) {
    this.tools.get(toolUseId)?.progress(elapsedMs);
  }

  toolCompleted(detail) {
    this.withTool(detail.toolUseId, (card) => card.end(detail));
  }

  subagentStarted(detail) {
    if (detail.toolUseId) this.withTool(detail.toolUseId, (card) => card.subagentStarted(detail));
    else this.note(`A subagent began: ${detail.description}`, 'quiet');
  }

  subagentCompleted(detail) {
    if (detail.toolUseId) this.withTool(detail.toolUseId, (card) => card.subagentCompleted(detail));
    else this.note(`A subagent ended${detail.summary ? `: ${detail.summary}` : ''}`, 'quiet');
  }

  // -- approvals: the dock asks; here stands what was asked and how it ended

  approvalRequired({ approvalId, title, toolUseId }) {
    this.tools.get(toolUseId)?.asks(true);
    const known = this.approvals.get(approvalId);
    if (known?.node) known.node.append(` ${title}`);
    else this.approvals.set(approvalId, { title });
  }

  approvalEnded({ approvalId, decision, by, reason, message, toolUseId }) {
    this.tools.get(toolUseId)?.asks(false);
    const title = this.approvals.get(approvalId)?.title;
    const who = by && by !== 'local' ? ` by ${by}` : '';
    const word = decision === 'allow' ? `Allowed${who}:` : decision === 'deny' ? `Denied${who}:` : `Approval ${ENDS[reason] ?? 'withdrawn'}:`;
    const text = h('p', {}, h('b', {}, word), title ? ` ${title}` : '');
    this.approvals.set(approvalId, { title, node: text });
    const said = decision === 'deny' && message && message !== 'the user said no' ? h('p', {}, `“${message}”`) : null;
    this.add(h('div', { class: 'item note decision', 'data-decision': decision ?? 'withdrawn', 'data-approval': approvalId }, text, said));
  }

  // -- what went wrong

  error({ error, detail, code }) {
    this.note(error, 'error', detail ? h('details', {}, h('summary', {}, code ?? 'Details'), h('pre', {}, plain(detail))) : null);
  }

  stalled({ silenceMs }) {
    this.note(`The agent has said nothing for ${duration(silenceMs)}. It may hang; Stop ends its turn.`, 'warn');
  }

  retry({ attempt, delayMs, error, status }) {
    const why = [error, status].filter(Boolean).join(' ');
    this.note(`The agent's API failed${why ? ` (${why})` : ''}; try ${attempt + 1} follows${delayMs > 0 ? ` in ${duration(delayMs)}` : ''}.`, 'warn');
  }

  lost() {
    this.note('Some events were lost here.', 'warn');
  }

  agentEvent({ message }) {
    if (message?.subtype === 'compact_boundary') this.note('The conversation was compacted here.', 'quiet');
  }
}
