// The client's frame: which view the address asks for, and how one leads to the next.
import { find } from './dom.js';
import { CreateForm, SessionList } from './sessions.js';
import { SessionView } from './session.js';
import { BASE, api, capabilities, drafts, keepDraft, remember, routedId, sessionPath, sessionUrl, token } from './server.js';
import { possible, want, wanted } from './notify.js';

let view = null; // The open session's.

function show() {
  const id = routedId();
  if (view && view.id === id) return;
  view?.leave();
  view = null;
  document.body.className = id ? 'session' : location.hash === '#new' ? 'new' : 'home';
  find('#home').hidden = Boolean(id);
  find('#session').hidden = !id;
  find('#session').replaceChildren();
  if (id) view = new SessionView(find('#session'), id, shell);
  else {
    shell.title('Sessions');
    showDemo();
    if (location.hash === '#new') form.focus();
  }
  list.refresh();
}

/** Said loudly where no session says it: there is no other agent. */
async function showDemo() {
  const { agents = [] } = await capabilities().catch(() => ({}));
  if (!view) find('#demo').hidden = agents.length === 0 || agents.some(({ dialect }) => dialect !== 'demo');
}

function go(url) {
  history.pushState(null, '', url);
  show();
}

/** What a session may ask of what is around it. */
const shell = {
  base: BASE,
  title: (text) => { document.title = `${text} · sidestream`; },
  changed: () => list.refresh(),
  gone: () => go(`${BASE}/`),
  open: (id) => go(sessionUrl(id)),
  reopen: () => {
    view?.leave();
    view = null;
    show();
  },
};

// Addresses in the page are relative to where it was loaded, which the view's address is not.
for (const link of document.querySelectorAll('[href]:not([href^="#"])')) link.setAttribute('href', link.href);
find('.skip').addEventListener('click', (event) => {
  event.preventDefault();
  (find('#prompt') ?? find('#working-dir')).focus();
});

// Links within the page change the view, not the document.
document.addEventListener('click', (event) => {
  const link = event.target.closest?.('a[data-route]');
  if (!link || event.defaultPrevented || event.button !== 0 || event.metaKey || event.ctrlKey || event.shiftKey || event.altKey) return;
  event.preventDefault();
  if (link.href !== location.href) go(link.href);
  else if (location.hash === '#new') form.focus();
});
addEventListener('popstate', show);
addEventListener('pagehide', () => view?.composer.keepDraft());

/** Drafts of sessions that were deleted while no page of ours was open. */
async function forgetDrafts() {
  for (const id of drafts()) {
    await api('GET', sessionPath(id)).catch(({ code }) => code === 'session_not_found' && keepDraft(id, ''));
  }
}

// ---- the foot of the list

const bell = find('#notify');
const showBell = () => {
  bell.setAttribute('aria-pressed', String(wanted()));
  bell.title = wanted() ? 'Notifications are on' : 'Tell me when a turn ends or an approval waits';
};
bell.hidden = !possible();
bell.addEventListener('click', async () => {
  await want(!wanted());
  showBell();
});
showBell();

const logOut = find('#log-out');
logOut.hidden = !token();
logOut.addEventListener('click', async () => {
  remember('token', '');
  // The server takes its cookie back; a page cannot.
  await fetch(`${BASE}/api/login`, { method: 'DELETE', headers: { Accept: 'application/json' } }).catch(() => {});
  location.assign(`${BASE}/login`);
});

const form = new CreateForm(find('#create-place'), (id) => go(sessionUrl(id)));
const list = new SessionList({ current: routedId, listed: (sessions) => form.suggest(sessions) });
show();
forgetDrafts();
