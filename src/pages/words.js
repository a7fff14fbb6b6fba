// What the server's own names are called on the pages.

/** Of a session's states. */
export const STATUS_WORDS = {
  idle: 'ready', suspended: 'ready', running: 'working', waiting: 'waits for you', starting: 'starting',
  stopping: 'stopping', failed: 'failed', closed: 'closed', archived: 'archived',
};

/** Of the modes that say what an agent may do unasked. */
export const MODE_WORDS = {
  default: 'ask first', acceptEdits: 'accept edits', plan: 'plan only', dontAsk: 'deny, don’t ask',
  auto: 'auto', bypassPermissions: 'bypass: allow everything',
};

/** What a token of less than the full scope is for. */
const SCOPE_WORDS = { read: 'read', answer: 'read and answer approvals' };

/** Why something is not offered: `lacking('answer', 'send')`. */
export const lacking = (scope, what) => `Your token lets you ${SCOPE_WORDS[scope] ?? 'do less'}, not ${what}.`;
