// Work in slices, in order: however much comes at once, the page answers in between.

/** How long a slice may take before the page gets its turn. */
const SLICE_MS = 12;

export class Pump {
  constructor() {
    this.jobs = [];
    this.next = 0; // The first job that is not done.
    this.end = 0; // Of this slice; 0 between slices.
  }

  /** Does it now, or behind what waits already. */
  take(job) {
    this.jobs.push(job);
    if (this.waiting) return;
    if (this.end === 0) {
      this.end = performance.now() + SLICE_MS;
      setTimeout(() => { this.end = 0; });
    }
    this.work();
  }

  work() {
    // Nobody waits for a hidden page, and its timers are slow.
    const hidden = document.visibilityState === 'hidden';
    while (this.next < this.jobs.length && (hidden || performance.now() < this.end)) {
      try {
        this.jobs[this.next++]();
      } catch (error) {
        reportError(error); // The next one is none the worse for it.
      }
    }
    this.waiting = this.next < this.jobs.length;
    if (!this.waiting) {
      this.jobs = [];
      this.next = 0;
      return;
    }
    setTimeout(() => {
      this.end = performance.now() + SLICE_MS;
      this.work();
      if (!this.waiting) this.end = 0;
    });
  }
}
