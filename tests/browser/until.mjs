// Waiting for a condition, never for a time.
const DEADLINE_MS = 30_000;
const LOOK_EVERY_MS = 10;

/** Resolves with the first true value of `condition`; fails with `what` if none comes. */
export async function until(condition, what) {
  const end = performance.now() + DEADLINE_MS;
  for (;;) {
    const value = await condition();
    if (value) return value;
    if (performance.now() > end) throw new Error(`waited in vain: ${what}`);
    await new Promise((done) => setTimeout(done, LOOK_EVERY_MS));
  }
}
