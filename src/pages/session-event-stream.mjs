// The module face of session-event-stream.js: loads it for its effect and names the class.
import './session-event-stream.js';

export const SessionEventStream = globalThis.SessionEventStream;
export default SessionEventStream;

// A module has no document.currentScript to find the server by: this file's own address tells it.
SessionEventStream.defaults.baseUrl ??= new URL('..', import.meta.url).href;
