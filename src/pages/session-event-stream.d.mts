/** Types of session-event-stream.mjs: the class as a named and as the default export. */
import { SessionEventStream } from './session-event-stream.js';
export * from './session-event-stream.js';
export default SessionEventStream;
