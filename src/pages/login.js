// The login page: takes a token from the fragment or the form, asks the server, keeps it, goes on;
// and forgets it again.
//
// A fragment is sent to no server and reaches no log; it is taken out of the address and the
// history before anything else happens.

const BASE = new URL('..', import.meta.url).href.replace(/\/$/, '');
const form = document.querySelector('#login');
const field = document.querySelector('#token');
const state = document.querySelector('#state');
const logout = document.querySelector('#logout');

async function logIn(token) {
  state.textContent = 'Asking the server …';
  let response;
  try {
    response = await fetch(`${BASE}/api/login`, {
      method: 'POST',
      headers: { 'Content-Type': 'application/json', Accept: 'application/json' },
      body: JSON.stringify({ token }),
    });
  } catch {
    state.textContent = 'The server does not answer. Is sidestream running?';
    return;
  }
  const answer = response.status === 204 ? null : await response.json().catch(() => null);
  if (!response.ok && answer?.code !== 'tokens_off') {
    state.textContent = answer?.error ?? `The server answered ${response.status}.`;
    field.focus();
    return;
  }
  if (response.ok) {
    try {
      localStorage.setItem('sidestream.token', token);
    } catch {
      state.textContent = 'This browser does not let pages keep anything, so the token is lost on every page.';
      return;
    }
  }
  location.replace(next());
}

/** Back to where a token was asked for, if that was one of our own pages. */
function next() {
  try {
    const address = sessionStorage.getItem('sidestream.next');
    sessionStorage.removeItem('sidestream.next');
    if (address?.startsWith(`${BASE}/`)) return address;
  } catch { /* Then home. */ }
  return `${BASE}/`;
}

/** Forgets the token, and has the server take away the cookie, which no page can. */
async function logOut() {
  try {
    localStorage.removeItem('sidestream.token');
  } catch {
    // What cannot be kept was not kept.
  }
  try {
    const response = await fetch(`${BASE}/api/login`, { method: 'DELETE', headers: { Accept: 'application/json' } });
    if (!response.ok) throw new Error(`The server answered ${response.status}.`);
    state.textContent = 'Logged out of this browser.';
    logout.hidden = true;
  } catch (error) {
    state.textContent = `The token is forgotten, but the server did not take the cookie back: ${error.message}`;
  }
}

function keepsToken() {
  try {
    return localStorage.getItem('sidestream.token') !== null;
  } catch {
    return false;
  }
}

logout.addEventListener('click', logOut);
form.addEventListener('submit', (event) => {
  event.preventDefault();
  logIn(field.value.trim());
});

/** Logs in with the fragment's token, if there is one; gives whether there is. */
function takeFragment() {
  const token = location.hash.slice(1);
  if (!token) return false;
  history.replaceState(null, '', location.pathname);
  logIn(token);
  return true;
}

// A link that is opened where the login stands already loads no page.
addEventListener('hashchange', takeFragment);
if (!takeFragment()) {
  logout.hidden = !keepsToken();
  field.focus();
}
