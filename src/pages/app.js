// The home page: the list of sessions, and one session as a conversation.
//
// Everything shown comes from events; a reload shows the same. Nodes only, never markup from text.
import { BASE, api, approvalCard, createSession, find, h, inputText, isDemo, largeNote, newPromptId, plain, recall, remember, sessionPath, setBadge } from './ui.js';

const LIST_REFRESH_MS = 10000;

const route = decodeURIComponent(location.pathname.slice(new URL(BASE).pathname.replace(/\/$/, '').length));
const sessionId = /^\/session\/([^/]+)\/?$/.exec(route)?.[1];
// ---- the list

function showHome() {
  document.body.classList.add('home');
  find('#title').textContent = 'Sessions';
  const complaint = h('p', { class: 'error', role: 'alert', hidden: true });
  const input = h('input', { id: 'working-dir', name: 'workingDir', required: true, placeholder: '/home/you/project', autocomplete: 'off', autocapitalize: 'off', spellcheck: 'false' });
  input.value = recall('workingDir');
  const create = async (event) => {
    event.preventDefault();
    try {
      const id = await createSession(input.value.trim());
      remember('workingDir', input.value.trim());
      location.href = sessionUrl(id);
    } catch (error) {
      complaint.textContent = error.message;
      complaint.hidden = false;
    }
  };
  const list = h('ul', { id: 'sessions', 'aria-label': 'Sessions' });
  find('#main').append(
    h('form', { class: 'panel', id: 'create', onsubmit: create },
      h('h2', {}, 'New session'),
      h('label', { for: 'working-dir' }, 'Working directory'),
      h('div', { class: 'row' }, input, h('button', { class: 'primary' }, 'Create')),
      complaint),
    list,
    h('p', { class: 'hint' }, h('a', { href: `${BASE}/test-sse.html` }, 'Test page'), ' · ', h('a', { href: `${BASE}/api/debug/metrics` }, 'Metrics')));
  const refresh = () => document.visibilityState === 'visible' && showList(list);
  document.addEventListener('visibilitychange', refresh);
  setInterval(refresh, LIST_REFRESH_MS);
  refresh();
}

const sessionUrl = (id) => `${BASE}/session/${encodeURIComponent(id)}`;

async function showList(list) {
  try {
    const answer = await api('GET', '/api/sessions');
    const rows = Array.isArray(answer) ? answer : answer.sessions ?? [];
    if (list.contains(document.activeElement) && list.childElementCount === rows.length) return; // Keep the focus.
    list.replaceChildren(...rows.map(sessionRow));
    if (rows.length === 0) list.append(h('li', { class: 'hint' }, 'No sessions yet.'));
  } catch (error) {
    list.replaceChildren(h('li', { class: 'error' }, error.message));
  }
}

function sessionRow(session) {
  const id = session.sessionId ?? session.id;
  const badge = h('span', { class: 'badge' });
  setBadge(badge, session.status ?? 'unknown');
  const when = session.lastActivityAt ? new Date(session.lastActivityAt).toLocaleString() : '';
  return h('li', {}, h('a', { class: 'panel session', href: sessionUrl(id) },
    h('span', { class: 'row spread' }, h('strong', {}, session.name || session.workingDir || id), badge),
    h('span', { class: 'prompt' }, session.lastPrompt ?? 'No prompt yet.'),
    h('small', {}, [session.name ? session.workingDir : null, when, session.openApprovals ? `${session.openApprovals} to approve` : null].filter(Boolean).join(' · '))));
}

// ---- one session

function showSession(id) {
  const view = {
    id,
    log: h('div', { id: 'log', role: 'log', 'aria-label': 'Conversation' }),
    blocks: new Map(), // `message/block` → its text node's parent.
    tools: new Map(), // Tool use id → card.
    prompts: new Map(), // Prompt id → bubble.
    approvals: new Map(), // Approval id → card.
    status: '',
  };
  document.body.classList.add('conversation');
  find('#title').textContent = id;
  find('#main').append(view.log, composer(view));
  pinToEnd(view.log);
  api('GET', sessionPath(id)).then((answer) => {
    const session = answer.session ?? answer;
    if (session.workingDir) find('#title').textContent = session.name || session.workingDir;
  }).catch(() => {}); // The stream tells what is wrong.
  follow(view, new SessionEventStream(id));
}

/** Event name → what it shows. Names not here show nothing. */
const SHOW = {
  'prompt-queued': showPrompt,
  'prompt-started': (view, { promptId }) => view.prompts.get(promptId)?.removeAttribute('data-note'),
  'prompt-cancelled': (view, { promptId }) => view.prompts.get(promptId)?.setAttribute('data-note', 'cancelled'),
  'prompt-completed': showEnd,
  'prompt-failed': (view, detail) => note(view, `The prompt failed: ${detail.error ?? detail.result ?? detail.code ?? 'no reason given'}`, 'error'),
  'session-output': showDelta,
  'message-block': showBlock,
  'tool-started': showTool,
  'tool-completed': endTool,
  'approval-required': showApproval,
  'approval-resolved': (view, detail) => endApproval(view, detail, detail.decision === 'allow' ? 'Allowed' : 'Denied'),
  'approval-withdrawn': (view, detail) => endApproval(view, detail, 'Withdrawn'),
  'session-status': (view, { status }) => setStatus(view, status),
  'session-error': (view, { error, detail }) => note(view, [error, plain(detail)].filter(Boolean).join('\n'), 'error'),
  'session-stalled': (view, { silenceMs }) => note(view, `The agent has been silent for ${Math.round(silenceMs / 1000)} s.`, 'warn'),
  'agent-retry': (view, { attempt, error }) => note(view, `The agent tries again (${attempt})${error ? `: ${plain(error)}` : ''}.`, 'warn'),
  'events-lost': (view) => note(view, 'Some events were lost here.', 'warn'),
};

function follow(view, stream) {
  for (const [name, show] of Object.entries(SHOW)) {
    stream.on(name, ({ detail }) => {
      if (detail) show(view, detail);
    });
  }
  stream.on('connected', async ({ detail }) => {
    if (detail.status) view.status = detail.status;
    view.pending = detail.pendingApprovals ?? [];
    find('#demo').hidden = !(await isDemo(view.id, detail.agent));
  });
  stream.on('replay-complete', () => reconcileApprovals(view));
  stream.on('gap', ({ detail }) => note(view, `Events are missing here${detail.missed ? ` (${detail.missed})` : ''}.`, 'warn'));
  stream.on('state', ({ detail }) => showState(view, detail.state));
  stream.on('closed', ({ detail }) => note(view, detail.error ?? `The stream has ended: ${detail.reason}.`, 'warn'));
  showState(view, stream.state);
}

function setStatus(view, status) {
  view.status = status;
  showState(view, 'open');
}

/** One badge: the session's status, or the stream's state where that is what matters. */
function showState(view, state) {
  const badge = find('#state');
  badge.hidden = false;
  setBadge(badge, state === 'open' ? view.status || 'open' : state);
  find('#interrupt').disabled = !['running', 'starting', 'waiting'].includes(view.status);
}

/** Keeps the end of the log in sight while it was in sight, whatever grows or shrinks. */
function pinToEnd(log) {
  let pinned = true;
  const toEnd = () => {
    if (pinned) log.scrollTop = log.scrollHeight;
  };
  log.addEventListener('scroll', () => {
    pinned = log.scrollHeight - log.scrollTop - log.clientHeight < 60;
  });
  new ResizeObserver(toEnd).observe(log); // A keyboard, a banner, a turned phone.
  new MutationObserver(toEnd).observe(log, { childList: true, subtree: true, characterData: true });
}

function note(view, text, kind) {
  if (text) view.log.append(h('p', { class: `note ${kind}` }, text));
}

function showPrompt(view, { promptId, command, by }) {
  const bubble = h('div', { class: 'prompt', 'data-note': 'queued', title: by ? `by ${by}` : null }, plain(command));
  view.prompts.set(promptId, bubble);
  view.log.append(bubble);
}

function showEnd(view, detail) {
  if (detail.interrupted) return note(view, 'Interrupted.', 'warn');
  if (detail.isError) return note(view, `Ended with an error: ${plain(detail.result) || detail.code || ''}`, 'error');
  const facts = [`${((detail.durationMs ?? 0) / 1000).toFixed(1)} s`];
  if (detail.costUsd > 0) facts.push(`$${detail.costUsd.toFixed(4)}`);
  return note(view, facts.join(' · '), 'done');
}

// A block's text grows by deltas until its message-block, which is the truth, replaces it.

function blockOf(view, { messageId, block, parentToolUseId }, kind) {
  const key = `${messageId}/${block}`;
  const present = view.blocks.get(key);
  if (present) return present;
  const text = h('div', { class: `text ${kind}` });
  const sub = parentToolUseId ? ' sub' : '';
  view.log.append(kind === 'thinking'
    ? h('details', { class: `thinking${sub}` }, h('summary', {}, 'Thinking'), text)
    : h('div', { class: `said${sub}` }, text));
  if (messageId) view.blocks.set(key, text);
  return text;
}

function showDelta(view, detail) {
  const kind = detail.type === 'stdout' ? 'text' : detail.type;
  if (detail.messageId) blockOf(view, detail, kind).append(plain(detail.content));
  else plainOutput(view, kind).append(plain(detail.content)); // An agent of plain lines: no blocks.
}

function plainOutput(view, kind) {
  const last = view.log.lastElementChild;
  if (last?.classList.contains('lines') && last.classList.contains(kind)) return last;
  const next = h('div', { class: `text lines ${kind}` });
  view.log.append(next);
  return next;
}

function showBlock(view, detail) {
  for (const old of detail.replaces ?? []) {
    for (const [key, text] of view.blocks) {
      if (!key.startsWith(`${old}/`)) continue;
      text.parentElement.remove();
      view.blocks.delete(key);
    }
  }
  if (detail.role === 'user' && !detail.parentToolUseId) return;
  const text = blockOf(view, detail, detail.kind === 'thinking' ? 'thinking' : 'text');
  text.replaceChildren(plain(detail.text), ...[largeNote(detail)].filter(Boolean));
  text.classList.toggle('aborted', Boolean(detail.aborted));
}

function showTool(view, detail) {
  const state = h('span', { class: 'badge' });
  setBadge(state, 'running');
  const result = h('pre', { hidden: true });
  const card = h('details', { class: `tool${detail.parentToolUseId ? ' sub' : ''}`, 'data-kind': detail.kind ?? 'other' },
    h('summary', {}, h('span', { class: 'name' }, detail.title ?? detail.tool), state),
    h('pre', {}, inputText(detail.input)), largeNote(detail), result);
  view.tools.set(detail.toolUseId, { state, result });
  view.log.append(card);
}

function endTool(view, detail) {
  const tool = view.tools.get(detail.toolUseId);
  if (!tool) return;
  setBadge(tool.state, detail.outcome ?? 'unknown');
  const text = plain(detail.content);
  tool.result.textContent = text;
  tool.result.hidden = text === '';
  const rest = largeNote(detail);
  if (rest) tool.result.after(rest);
}

function showApproval(view, approval) {
  if (view.approvals.has(approval.approvalId)) return;
  const card = approvalCard(view.id, approval);
  view.approvals.set(approval.approvalId, card);
  view.log.append(card);
}

function endApproval(view, { approvalId, by }, word) {
  const card = view.approvals.get(approvalId);
  if (!card?.isConnected) return;
  const title = card.querySelector('h3').textContent;
  card.replaceWith(h('p', { class: 'note' }, `${word}${by ? ` by ${by}` : ''}: ${title}`));
}

/** The replay may not reach back to an approval that is still open. */
async function reconcileApprovals(view) {
  if (!view.pending?.some((id) => !view.approvals.has(id))) return;
  const answer = await api('GET', sessionPath(view.id, '/approvals')).catch(() => null);
  for (const approval of answer?.approvals ?? []) showApproval(view, approval);
}

function composer(view) {
  const complaint = h('p', { class: 'error', role: 'alert', hidden: true });
  const box = h('textarea', { id: 'prompt', rows: '2', required: true, placeholder: 'Ask, or tell what to do', 'aria-label': 'Prompt' });
  const attempt = async (act) => {
    try {
      await act();
      complaint.hidden = true;
    } catch (error) {
      complaint.textContent = error.message;
      complaint.hidden = false;
    }
  };
  let unsent = null; // The same text after silence goes under the same id, and runs once.
  const send = (event) => {
    event.preventDefault();
    const command = box.value;
    if (!command.trim()) return;
    if (unsent?.command !== command) unsent = { command, promptId: newPromptId() };
    attempt(async () => {
      await api('POST', sessionPath(view.id, '/prompt'), unsent).catch((error) => {
        if (error.status) unsent = null;
        throw error;
      });
      unsent = null;
      if (box.value === command) box.value = '';
      view.log.scrollTop = view.log.scrollHeight;
    });
  };
  box.addEventListener('keydown', (event) => {
    // Enter sends where there is a keyboard; on a phone it is a new line. Never inside an IME.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    if (matchMedia('(pointer: coarse)').matches && !event.ctrlKey && !event.metaKey) return;
    send(event);
  });
  const interrupt = () => attempt(() => api('POST', sessionPath(view.id, '/interrupt'), {}));
  return h('form', { id: 'composer', onsubmit: send }, complaint, box,
    h('div', { class: 'row' }, h('button', { class: 'primary' }, 'Send'),
      h('button', { type: 'button', id: 'interrupt', disabled: true, onclick: interrupt }, 'Interrupt')));
}

find('#home').href = `${BASE}/`;
if (sessionId) showSession(sessionId);
else showHome();
