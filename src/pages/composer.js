// Where prompts are written: the text and its draft, images, the queue, and the agent's mode and model.
import { announce, find, h, icon } from './dom.js';
import { picture } from './tools.js';
import { api, keepDraft, newPromptId, recallDraft, sessionPath } from './server.js';
import { MODE_WORDS } from './words.js';

/** What the server takes. */
const IMAGE_TYPES = ['image/png', 'image/jpeg', 'image/gif', 'image/webp'];
const IMAGE_BYTES_MAX = 3_900_000; // 5 MiB of base64.
const IMAGES_MAX = 20;
const DRAFT_MS = 300;

export class Composer {
  /** `session` is the server's description of it; `sent()` is told when a prompt was taken. */
  constructor(root, { sessionId, sent = () => {} }) {
    this.sessionId = sessionId;
    this.sent = sent;
    this.images = []; // {name, mediaType, data, node}
    this.queue = new Map(); // Prompt id → {node, cancel}.
    this.unsent = null; // {command, images, promptId}: the same after silence goes under the same id, and runs once.
    this.running = false;
    this.closed = false;
    this.mayOnlyLook = false; // Neither stop nor cancel.
    this.build(root);
    this.box.value = recallDraft(sessionId);
    this.fit();
    this.update();
  }

  build(root) {
    this.box = h('textarea', { id: 'prompt', rows: 1, placeholder: 'Ask, or say what to do', 'aria-label': 'Prompt', autocapitalize: 'sentences', enterkeyhint: 'send',
      oninput: () => this.changed(), onkeydown: (event) => this.key(event), onpaste: (event) => this.paste(event) });
    this.complaint = h('p', { class: 'error', role: 'alert', hidden: true });
    this.file = h('input', { type: 'file', accept: IMAGE_TYPES.join(','), multiple: true, class: 'unseen', tabindex: -1, 'aria-hidden': 'true', onchange: () => {
      this.attach(this.file.files);
      this.file.value = '';
    } });
    this.clip = h('button', { type: 'button', class: 'icon-button', 'aria-label': 'Attach images', title: 'Attach images', onclick: () => this.file.click() }, icon('clip'));
    this.mode = h('select', { id: 'mode', 'aria-label': 'Mode', title: 'Mode', hidden: true, onchange: () => this.patch({ mode: this.mode.value }) });
    this.model = h('select', { id: 'model', 'aria-label': 'Model', title: 'Model', hidden: true, onchange: () => this.model.value && this.patch({ model: this.model.value }) });
    this.stop = h('button', { type: 'button', id: 'interrupt', class: 'stop', disabled: true, onclick: () => this.interrupt() }, icon('stop'), h('span', {}, 'Stop'));
    this.now = h('button', { type: 'button', id: 'send-now', class: 'quiet', hidden: true, title: 'Interrupts the running turn', onclick: () => this.send('interrupt') }, 'Send now');
    this.button = h('button', { class: 'primary send', id: 'send' }, icon('send'), h('span', {}, 'Send'));
    this.shots = h('ul', { class: 'shots', 'aria-label': 'Attached images' });
    this.waiting = h('ol', { id: 'queue', 'aria-label': 'Waiting prompts' });
    this.form = h('form', { id: 'composer', onsubmit: (event) => {
      event.preventDefault();
      this.send('queue');
    } }, this.waiting, this.complaint,
    h('div', { class: 'field' }, this.shots, this.box,
      h('div', { class: 'row tools' }, this.clip, this.file, this.mode, this.model, h('span', { class: 'space' }), this.now, this.stop, this.button)));
    this.form.addEventListener('dragover', (event) => event.preventDefault());
    this.form.addEventListener('drop', (event) => {
      event.preventDefault();
      this.attach(event.dataTransfer?.files ?? []);
    });
    root.append(this.form);
  }

  focus() {
    if (!matchMedia('(pointer: coarse)').matches) this.box.focus();
  }

  // -- the text

  changed() {
    this.fit();
    this.update();
    clearTimeout(this.draftTimer);
    this.draftTimer = setTimeout(() => this.keepDraft(), DRAFT_MS);
  }

  keepDraft() {
    clearTimeout(this.draftTimer);
    if (!this.gone) keepDraft(this.sessionId, this.box.value);
  }

  /** As high as its text, up to what the style sheet allows. */
  fit() {
    this.box.rows = Math.min(12, Math.max(1, this.box.value.split('\n').length));
    while (this.box.rows < 12 && this.box.scrollHeight > this.box.clientHeight + 4) this.box.rows += 1;
  }

  key(event) {
    // Enter sends where there is a keyboard; on a phone it is a new line. Never inside an IME.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return;
    if (matchMedia('(pointer: coarse)').matches && !event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    this.send('queue');
  }

  /** What can be done now. */
  update() {
    const empty = !this.box.value.trim() && this.images.length === 0;
    this.button.disabled = empty || this.closed;
    this.now.hidden = !this.running || empty || this.closed;
    find('span', this.button).textContent = this.running ? 'Queue' : 'Send';
    this.stop.hidden = !this.running || this.mayOnlyLook;
    this.stop.disabled = this.stop.hidden;
    this.box.disabled = this.closed;
    this.clip.disabled = this.closed;
  }

  /** Whether there is something to stop: a turn, or a prompt that waits for its agent. */
  setRunning(running) {
    if (this.running === running) return;
    const focused = document.activeElement === this.stop;
    this.running = running;
    this.update();
    if (focused && !running) this.box.focus();
  }

  /** Nothing can be sent any more, and why. */
  close(why) {
    this.closed = true;
    this.box.placeholder = '';
    this.complain(why);
    this.update();
    this.mode.disabled = true;
    this.model.disabled = true;
  }

  /** Who looks on sends nothing and stops nothing. */
  onlyLook(why) {
    this.mayOnlyLook = true;
    for (const { cancel } of this.queue.values()) cancel.hidden = true;
    this.close(why);
  }

  /** There is no such session, or no more: what was written for it goes with it. */
  sessionGone() {
    this.gone = true;
    clearTimeout(this.draftTimer);
    keepDraft(this.sessionId, '');
    this.close('');
    this.form.hidden = true;
  }

  complain(text) {
    this.complaint.textContent = text ?? '';
    this.complaint.hidden = !text;
  }

  async attempt(act) {
    try {
      const answer = await act();
      this.complain('');
      return answer;
    } catch (error) {
      this.complain(error.message);
      return null;
    }
  }

  async send(when) {
    const command = this.box.value;
    if ((!command.trim() && this.images.length === 0) || this.closed) return;
    const images = this.images.map(({ mediaType, data }) => ({ mediaType, data }));
    if (!isSame(this.unsent, command, images)) this.unsent = { command, images, promptId: newPromptId() };
    const body = { command: command.trim() ? command : 'See the image.', promptId: this.unsent.promptId, when };
    if (images.length > 0) body.images = images;
    const sent = await this.attempt(() => api('POST', sessionPath(this.sessionId, '/prompt'), body).catch((error) => {
      if (error.status) this.unsent = null; // An answer: it did not run. Only silence leaves a doubt.
      throw error;
    }));
    if (!sent) return;
    this.unsent = null;
    if (this.box.value === command) {
      this.box.value = '';
      this.images = [];
      this.shots.replaceChildren();
    }
    this.changed();
    this.keepDraft();
    this.sent();
  }

  interrupt() {
    announce('Stopping');
    return this.attempt(() => api('POST', sessionPath(this.sessionId, '/interrupt'), {}));
  }

  // -- images

  paste(event) {
    const files = [...event.clipboardData?.files ?? []].filter((file) => IMAGE_TYPES.includes(file.type));
    if (files.length === 0) return;
    event.preventDefault();
    this.attach(files);
  }

  async attach(files) {
    for (const file of files) {
      if (!IMAGE_TYPES.includes(file.type)) this.complain(`${file.name} is no image of a kind that the agent takes.`);
      else if (file.size > IMAGE_BYTES_MAX) this.complain(`${file.name} is too large: an image may have 3.9 MB.`);
      else if (this.images.length >= IMAGES_MAX) this.complain(`A prompt takes ${IMAGES_MAX} images.`);
      else this.addImage(file, await base64(file));
    }
  }

  addImage(file, data) {
    const name = file.name || 'image';
    const image = { mediaType: file.type, data };
    image.node = h('li', {}, picture(file, name), h('button', { type: 'button', class: 'icon-button', 'aria-label': `Remove ${name}`, onclick: () => {
      this.images = this.images.filter((other) => other !== image);
      image.node.remove();
      this.update();
    } }, icon('close')));
    this.images.push(image);
    this.shots.append(image.node);
    this.update();
  }

  // -- the queue

  queued({ promptId, command, by }) {
    if (this.queue.has(promptId)) return;
    const text = String(command ?? '');
    const cancel = h('button', { type: 'button', hidden: this.mayOnlyLook, class: 'icon-button', 'aria-label': `Cancel: ${text.slice(0, 60)}`, title: 'Cancel', onclick: () => {
      cancel.disabled = true;
      this.cancel(promptId).finally(() => { cancel.disabled = false; });
    } }, icon('close'));
    const node = h('li', {}, h('span', { class: 'label' }, 'Waiting'), h('span', { class: 'words' }, text), by && by !== 'local' ? h('span', { class: 'by' }, by) : null, cancel);
    this.queue.set(promptId, { node, cancel });
    this.waiting.append(node);
  }

  cancel(promptId) {
    return this.attempt(() => api('DELETE', sessionPath(this.sessionId, `/queue/${encodeURIComponent(promptId)}`)));
  }

  unqueued(promptId) {
    const entry = this.queue.get(promptId);
    if (!entry) return;
    if (entry.node.contains(document.activeElement)) this.box.focus();
    entry.node.remove();
    this.queue.delete(promptId);
  }

  /** The server's own list, after a replay that may not reach back to it. */
  setQueue(prompts) {
    const ids = new Set(prompts.map(({ promptId }) => promptId));
    for (const id of [...this.queue.keys()]) if (!ids.has(id)) this.unqueued(id);
    for (const prompt of prompts) this.queued(prompt);
  }

  // -- mode and model

  /** What there is to choose from. */
  setChoices({ modes = [], models = [] }) {
    this.modes = modes;
    this.models = models;
  }

  showSettings({ mode, model }) {
    this.mode.hidden = !this.modes?.length;
    fill(this.mode, this.modes ?? [], mode ?? 'default', (name) => MODE_WORDS[name] ?? name);
    const models = (this.models ?? []).map((one) => [one.value ?? one.name ?? String(one), one.displayName ?? one.value ?? String(one)]);
    const names = new Map(models);
    if (model && !names.has(model)) names.set(model, model.replace(/^claude-/, ''));
    fill(this.model, [...names.keys()], model ?? '', (value) => names.get(value) ?? value);
    this.model.hidden = names.size === 0;
    if (!model) this.model.prepend(h('option', { value: '', selected: true }, 'model'));
  }

  patch(change) {
    return this.attempt(() => api('PATCH', sessionPath(this.sessionId), change));
  }
}

/** Whether that is what could not be sent the last time: to the last byte of its images. */
const isSame = (unsent, command, images) => unsent?.command === command && unsent.images.length === images.length
  && images.every(({ mediaType, data }, at) => unsent.images[at].mediaType === mediaType && unsent.images[at].data === data);

function fill(select, values, chosen, name) {
  const all = values.includes(chosen) || !chosen ? values : [...values, chosen];
  select.replaceChildren(...all.map((value) => h('option', { value, selected: value === chosen }, name(value))));
}

function base64(file) {
  return new Promise((done, fail) => {
    const reader = new FileReader();
    reader.onload = () => done(reader.result.slice(reader.result.indexOf(',') + 1));
    reader.onerror = () => fail(reader.error);
    reader.readAsDataURL(file);
  });
}
