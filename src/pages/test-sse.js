// The test page: one session's stream, frame by frame, with everything one does to it by hand.
//
// Shows what comes, as it comes; draws no conclusions from it. For the seed's steps 3 to 7.
import { Dock } from './approvals.js';
import { find, h, setBadge } from './dom.js';
import { api, newPromptId, recall, remember, scope, sessionPath, token } from './server.js';
import { lacking } from './words.js';

/** Rows kept: a page left open over night must not grow for ever. */
const FRAMES_MAX = 500;

const page = {
  main: null, // The stream whose frames are shown.
  extra: [], // The ten more.
  counts: new Map(), // Event name → {count, node}.
  sessionId: '',
  dock: null, // Its open approvals.
  mayAnswer: true,
};

function complain(where, error = null) {
  const place = find(where);
  place.textContent = error?.message ?? '';
  place.hidden = !error;
}

// ---- the shown stream

function connect(sessionId) {
  disconnectAll();
  page.sessionId = sessionId;
  find('#session-id').value = sessionId;
  history.replaceState(null, '', `?session=${encodeURIComponent(sessionId)}`);
  clearFrames();
  page.dock?.clear();
  page.dock = new Dock(find('#dock'), { sessionId, mayAnswer: page.mayAnswer });
  complain('#session-error');
  const stream = new SessionEventStream(sessionId);
  page.main = stream;
  stream.on('*', showFrame);
  stream.on('state', ({ detail }) => setBadge(find('#state'), detail.state));
  stream.on('connected', () => showAgent(sessionId));
  stream.on('replay-complete', () => reconcileApprovals(sessionId));
  stream.on('closed', ({ detail }) => showClosed(detail));
  stream.on('gap', ({ detail }) => addRow('gap', '', `Events are missing here: ${detail.missed ?? 'an unknown number'}.`, 'local'));
  stream.on('stale', ({ detail }) => addRow('stale', '', `Nothing heard for ${detail.silenceMs} ms.`, 'local'));
  stream.on('reconnect-scheduled', ({ detail }) => addRow('reconnect', '', `try ${detail.attempt} in ${detail.delayMs} ms`, 'local'));
  let live = false; // Those of a replay may be answered already.
  stream.on('connected', () => { live = false; });
  stream.on('replay-complete', () => { live = true; });
  stream.on('approval-required', ({ detail }) => live && page.dock.add(detail));
  for (const name of ['approval-resolved', 'approval-withdrawn']) stream.on(name, ({ detail }) => page.dock.settle(detail.approvalId));
  setBadge(find('#state'), stream.state);
}

function showClosed({ reason, error }) {
  setBadge(find('#state'), 'closed');
  addRow('closed', '', error ? `${reason}: ${error}` : reason, 'local');
  if (error) complain('#session-error', { message: error });
}

async function showAgent(sessionId) {
  const { session } = await api('GET', sessionPath(sessionId)).catch(() => ({}));
  if (sessionId === page.sessionId && session) find('#demo').hidden = session.dialect !== 'demo';
}

function showFrame(event) {
  const control = SessionEventStream.controlNames.includes(event.type);
  addRow(event.type, control ? '' : event.lastEventId, event.rawData, control ? 'control' : 'event');
  find('#last-id').textContent = event.lastEventId || 'none';
  count(event.type);
}

function addRow(name, id, data, kind) {
  const list = find('#frames');
  list.append(h('li', { class: kind, 'data-event': name, 'data-id': id || null },
    h('span', { class: 'name' }, name),
    h('span', { class: 'id' }, id),
    h('code', {}, data)));
  while (list.childElementCount > FRAMES_MAX) list.firstElementChild.remove();
  if (find('#follow').checked) list.scrollTop = list.scrollHeight;
}

function count(name) {
  let entry = page.counts.get(name);
  if (!entry) {
    entry = { count: 0, node: h('b', {}, '0') };
    page.counts.set(name, entry);
    find('#counts').append(h('li', { 'data-event': name }, `${name} `, entry.node));
  }
  entry.count += 1;
  entry.node.textContent = String(entry.count);
}

function clearFrames() {
  page.counts.clear();
  find('#counts').replaceChildren();
  find('#frames').replaceChildren();
}

/** What is open is asked of the list, whatever the replay told. */
async function reconcileApprovals(sessionId) {
  const answer = await api('GET', sessionPath(sessionId, '/approvals')).catch(() => null);
  if (sessionId !== page.sessionId) return;
  for (const approval of answer?.approvals ?? []) page.dock.add(approval);
}

// ---- load and metrics

function openTen() {
  if (!page.sessionId) {
    complain('#session-error', { message: 'Connect to a session first.' });
    return;
  }
  for (let i = 0; i < 10; i++) {
    const stream = new SessionEventStream(page.sessionId, { share: find('#share').checked });
    const state = h('span', { class: 'badge' });
    const events = h('b', {}, '0');
    let seen = 0;
    setBadge(state, stream.state);
    stream.on('state', ({ detail }) => setBadge(state, detail.state));
    stream.on('*', (event) => {
      if (!SessionEventStream.controlNames.includes(event.type)) events.textContent = String(++seen);
    });
    page.extra.push(stream);
    find('#streams').append(h('li', {}, state, ' ', events, ' events'));
  }
  showMetrics();
}

function disconnectAll() {
  for (const stream of [page.main, ...page.extra]) stream?.disconnect();
  page.main = null;
  page.extra = [];
  find('#streams').replaceChildren();
}

async function showMetrics() {
  const place = find('#metrics');
  place.hidden = false;
  place.textContent = await api('GET', '/api/debug/metrics').then((m) => JSON.stringify(m, null, 2), (error) => error.message);
}

// ---- the buttons

find('#create').addEventListener('submit', async (event) => {
  event.preventDefault();
  const workingDir = find('#working-dir').value.trim();
  try {
    const { sessionId } = await api('POST', '/claude/api/claude/sessions', { workingDir });
    remember('workingDir', workingDir);
    connect(sessionId);
  } catch (error) {
    complain('#session-error', error);
  }
});

find('#connect').addEventListener('click', () => {
  const sessionId = find('#session-id').value.trim();
  if (sessionId) connect(sessionId);
  else find('#session-id').focus();
});

find('#session-id').addEventListener('keydown', (event) => {
  if (event.key !== 'Enter') return;
  event.preventDefault(); // Enter here means this id, not a new session.
  find('#connect').click();
});

/** What was sent last: the same text after a failure goes under the same id, and runs once. */
let unsent = null;

find('#send').addEventListener('submit', async (event) => {
  event.preventDefault();
  const command = find('#command').value;
  if (unsent?.command !== command) unsent = { command, promptId: newPromptId() };
  try {
    if (!page.sessionId) throw new Error('Connect to a session first.');
    await api('POST', sessionPath(page.sessionId, '/prompt'), unsent);
    unsent = null;
    complain('#send-error');
  } catch (error) {
    if (error.status) unsent = null; // An answer: it did not run. Only silence leaves a doubt.
    complain('#send-error', error);
  }
});

find('#interrupt').addEventListener('click', async () => {
  try {
    if (!page.sessionId) throw new Error('Connect to a session first.');
    await api('POST', sessionPath(page.sessionId, '/interrupt'), {});
    complain('#send-error');
  } catch (error) {
    complain('#send-error', error);
  }
});

find('#ten').addEventListener('click', openTen);
find('#disconnect').addEventListener('click', disconnectAll);
find('#refresh').addEventListener('click', showMetrics);
find('#clear').addEventListener('click', clearFrames);

/** What the token does not let us do is not offered. */
async function followScope() {
  const has = token() ? await scope() : 'full'; // Without one nothing is asked: that would lead to the login.
  if (has === 'full') return;
  for (const button of document.querySelectorAll('#create .primary, #send .primary, #interrupt')) button.disabled = true;
  complain('#session-error', { message: lacking(has, 'create') });
  complain('#send-error', { message: lacking(has, 'send') });
  page.mayAnswer = has !== 'read';
  page.dock?.setMayAnswer(page.mayAnswer);
}

followScope();
find('#working-dir').value = recall('workingDir');
const asked = new URLSearchParams(location.search).get('session');
if (asked) connect(asked);
