// What both pages need: DOM nodes from plain calls, requests with errors in words, approvals.
//
// Text from a session is only ever set as text, never as markup. Knows nothing of streams.

/** Where the server is: this file is served as BASE/js/ui.js. */
export const BASE = new URL('..', import.meta.url).href.replace(/\/$/, '');

/** The token kept by the login page, if there is one. */
export function token() {
  try {
    return localStorage.getItem('sidestream.token');
  } catch {
    return null; // Storage can be forbidden; then there is no token.
  }
}

globalThis.SessionEventStream.defaults.token = token;

export function remember(name, value) {
  try {
    localStorage.setItem(`sidestream.${name}`, value);
  } catch { /* A convenience only. */ }
}

export function recall(name) {
  try {
    return localStorage.getItem(`sidestream.${name}`) ?? '';
  } catch {
    return '';
  }
}

/** `h('button', {class: 'x', onclick}, 'Text', node)`: an element. Null children are left out. */
export function h(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith('on')) element.addEventListener(name.slice(2), value);
    else element.setAttribute(name, value === true ? '' : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const find = (selector) => document.querySelector(selector);

/** A request whose failure is an Error with the server's own sentence. */
export async function api(method, path, body = undefined) {
  const headers = { Accept: 'application/json' };
  const secret = token();
  if (secret) headers.Authorization = `Bearer ${secret}`;
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  let response;
  try {
    response = await fetch(BASE + path, { method, headers, body: body && JSON.stringify(body) });
  } catch {
    throw new Error('The server does not answer. Is sidestream running?');
  }
  const answer = await response.json().catch(() => null);
  if (!response.ok) {
    if (answer?.code === 'token_needed') location.assign(`${BASE}/login`);
    const error = new Error(answer?.error ?? `The server answered ${response.status}.`);
    throw Object.assign(error, { status: response.status, code: answer?.code, answer });
  }
  return answer ?? {};
}

export const sessionPath = (id, rest = '') => `/api/session/${encodeURIComponent(id)}${rest}`;

/** An id for one prompt: sent again after a failure, it runs once. */
export function newPromptId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `prompt-${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

export async function createSession(workingDir) {
  const answer = await api('POST', '/claude/api/claude/sessions', { workingDir });
  return answer.sessionId;
}

/** Whether a session's agent is the built-in demo. Dialect where the server tells it, else name. */
export async function isDemo(sessionId, agentName) {
  const session = await api('GET', sessionPath(sessionId)).catch(() => ({}));
  const dialect = session.session?.agentDialect ?? session.agentDialect;
  if (dialect) return dialect === 'demo';
  const capabilities = await api('GET', '/api/capabilities').catch(() => ({}));
  const agents = Array.isArray(capabilities.agents) ? capabilities.agents : [];
  const known = agents.find((agent) => agent?.name === agentName)?.dialect;
  return known ? known === 'demo' : agentName === 'demo';
}

export function setBadge(badge, state) {
  badge.textContent = state;
  badge.dataset.state = state;
}

/** Pretty where it is JSON, as it is where it is text. */
export function plain(value) {
  if (typeof value === 'string') return value;
  if (Array.isArray(value) && value.every((part) => typeof part?.text === 'string')) {
    return value.map((part) => part.text).join('\n');
  }
  return value === undefined || value === null ? '' : JSON.stringify(value, null, 2);
}

/** What a tool will do, in its own words: the command or the whole input. */
export function inputText(input) {
  const keys = Object.keys(input ?? {}).filter((key) => key !== 'description');
  if (keys.length === 1 && typeof input[keys[0]] === 'string') return input[keys[0]];
  return plain(input);
}

/** A link to the rest of a field too large for its frame, or null. */
export function largeNote(detail) {
  if (!detail?.large) return null;
  const { field, bytes, href, preview } = detail.large;
  return h('div', { class: 'large' },
    h('pre', {}, preview ?? ''),
    h('a', { href: BASE + href, target: '_blank', rel: 'noopener' }, `all of ${field}, ${bytes} bytes`));
}

/** One open approval, to be answered. `answered(error?)` is told how the request went. */
export function approvalCard(sessionId, approval, answered = () => {}) {
  const complaint = h('p', { class: 'error', role: 'alert', hidden: true });
  const questions = approval.kind === 'question' ? questionFields(approval) : null;
  const buttons = [];
  const send = async (decision) => {
    const body = { decision, inputHash: approval.inputHash };
    if (questions && decision === 'allow') body.answers = questions.answers();
    for (const button of buttons) button.disabled = true;
    try {
      await api('POST', sessionPath(sessionId, `/approvals/${encodeURIComponent(approval.approvalId)}`), body);
      answered();
    } catch (error) {
      complaint.textContent = error.message;
      complaint.hidden = false;
      for (const button of buttons) button.disabled = error.status === 409; // Settled elsewhere.
      answered(error);
    }
  };
  buttons.push(
    h('button', { type: 'submit', class: 'primary allow' }, questions ? 'Answer' : 'Allow'),
    h('button', { type: 'button', class: 'deny', onclick: () => send('deny') }, questions ? 'Decline' : 'Deny'),
  );
  const submit = (event) => {
    event.preventDefault();
    send('allow');
  };
  return h('form', { class: 'approval', 'data-approval': approval.approvalId, onsubmit: submit },
    h('h3', {}, approval.title ?? `${approval.tool ?? approval.kind} asks for permission`),
    approval.description ? h('p', { class: 'said' }, `The agent says: “${approval.description}”`) : null,
    questions?.node ?? h('pre', {}, inputText(approval.input)),
    largeNote(approval),
    h('div', { class: 'row' }, ...buttons),
    complaint);
}

function questionFields(approval) {
  const asked = Array.isArray(approval.input?.questions) ? approval.input.questions : [];
  const fields = asked.map((question, index) => {
    const type = question.multiSelect ? 'checkbox' : 'radio';
    const name = `${approval.approvalId}-${index}`;
    const options = (question.options ?? []).map((option) => h('label', { class: 'option' },
      h('input', { type, name, value: option.label, required: type === 'radio' }),
      h('span', {}, option.label, option.description ? h('small', {}, option.description) : null)));
    return h('fieldset', {}, h('legend', {}, question.question ?? ''), ...options);
  });
  const answers = () => Object.fromEntries(asked.map((question, index) => {
    const chosen = [...fields[index].querySelectorAll('input:checked')].map((input) => input.value);
    return [question.question, chosen.join(', ')];
  }));
  return { node: h('div', {}, ...fields), answers };
}
