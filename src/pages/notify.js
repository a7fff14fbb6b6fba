// Notifications of the system, for what happens while nobody looks. Off until asked for.
import { recall, remember } from './server.js';

const able = () => 'Notification' in globalThis && Notification.permission !== 'denied';

export const wanted = () => able() && Notification.permission === 'granted' && recall('notify') === 'yes';

/** Asks the browser where it must be asked; gives whether notifications will come. */
export async function want(yes) {
  if (!yes || !able()) remember('notify', '');
  else if (await Notification.requestPermission() === 'granted') remember('notify', 'yes');
  return wanted();
}

export const possible = able;

/** Tells it, if the page is out of sight and it was asked for. */
export function notify(title, body, tag, url) {
  if (document.visibilityState === 'visible' || !wanted()) return;
  try {
    const shown = new Notification(title, { body, tag });
    shown.onclick = () => {
      window.focus();
      if (location.href !== url) location.assign(url);
      shown.close();
    };
  } catch { /* Some phones allow it to service workers only. */ }
}
