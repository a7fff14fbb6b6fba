// Requests to the server: where it is, who we are, and errors in the server's own words.

/** Where the server is: this file is served as BASE/js/server.js. */
export const BASE = new URL('..', import.meta.url).href.replace(/\/$/, '');

const BASE_PATH = new URL(BASE).pathname.replace(/\/$/, '');

/** The id of the session that the address shows, undefined on the other pages. */
export function routedId() {
  const path = location.pathname;
  const own = path.startsWith(BASE_PATH) ? path.slice(BASE_PATH.length) : path;
  const id = /^\/session\/([^/]+)\/?$/.exec(own)?.[1];
  try {
    return id && decodeURIComponent(id);
  } catch {
    return id; // No encoding of anything: the server will know no such session.
  }
}

export function remember(name, value) {
  try {
    if (value === '' || value === null) localStorage.removeItem(`sidestream.${name}`);
    else localStorage.setItem(`sidestream.${name}`, value);
  } catch { /* Storage can be forbidden or full: a convenience only. */ }
}

export function recall(name) {
  try {
    return localStorage.getItem(`sidestream.${name}`) ?? '';
  } catch {
    return '';
  }
}

// ---- drafts: what was written for a session and not sent, by the path of its server and its id

const draftName = (id) => `draft.${BASE_PATH && `${BASE_PATH}/`}${id}`;

export const recallDraft = (id) => recall(draftName(id));

/** Keeps it; an empty one is none. */
export const keepDraft = (id, text) => remember(draftName(id), text);

/** The sessions that drafts are kept for. */
export function drafts() {
  const prefix = `sidestream.${draftName('')}`;
  try {
    const names = Object.keys(localStorage).filter((name) => name.startsWith(prefix));
    return names.map((name) => name.slice(prefix.length)).filter((id) => !id.includes('/'));
  } catch {
    return [];
  }
}

/** The token that the login page keeps, or null. */
export const token = () => recall('token') || null;

if (globalThis.SessionEventStream) globalThis.SessionEventStream.defaults.token = token;

function authorization() {
  const secret = token();
  return secret ? { Authorization: `Bearer ${secret}` } : {};
}

async function ask(path, options) {
  let response;
  try {
    response = await fetch(BASE + path, { cache: 'no-store', ...options, headers: { ...authorization(), ...options.headers } });
  } catch {
    throw new Error('The server does not answer. Is sidestream running?');
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => null);
  if (answer?.code === 'token_needed') logIn();
  const error = new Error(answer?.error ?? `The server answered ${response.status}.`);
  throw Object.assign(error, { status: response.status, code: answer?.code, answer });
}

/** To the login page, and back here afterwards. */
function logIn() {
  try {
    sessionStorage.setItem('sidestream.next', location.href);
  } catch { /* Then login leads home. */ }
  location.assign(`${BASE}/login`);
}

/** A JSON request. Its failure is an Error with the server's sentence, `status` and `code`. */
export async function api(method, path, body = undefined) {
  const headers = { Accept: 'application/json' };
  if (body !== undefined) headers['Content-Type'] = 'application/json';
  const response = await ask(path, { method, headers, body: body && JSON.stringify(body) });
  return (await response.json().catch(() => null)) ?? {};
}

/** A field that was too large for its event: the server's href leads to it. */
export const getText = async (href) => (await ask(local(href), { method: 'GET' })).text();
export const getBlob = async (href) => (await ask(local(href), { method: 'GET' })).blob();

/** Only our own paths are fetched, whatever an event says. */
function local(href) {
  if (!/^\/api\/session\/[^\\]*$/.test(href)) throw new Error('This is no address of this server.');
  return href;
}

export const sessionPath = (id, rest = '') => `/api/session/${encodeURIComponent(id)}${rest}`;
export const sessionUrl = (id) => `${BASE}/session/${encodeURIComponent(id)}`;

/** An id for one prompt: sent again after a failure, it runs once. */
export function newPromptId() {
  const bytes = crypto.getRandomValues(new Uint8Array(12));
  return `prompt-${[...bytes].map((byte) => byte.toString(16).padStart(2, '0')).join('')}`;
}

let known = null;

/** What the server can do and what we may: asked once. */
export function capabilities() {
  known ??= api('GET', '/api/capabilities').catch((error) => {
    known = null;
    throw error;
  });
  return known;
}

/** What we may: `read`, also `answer` approvals, or everything (`full`). */
export async function scope() {
  return (await capabilities().catch(() => null))?.access?.scope ?? 'full';
}
