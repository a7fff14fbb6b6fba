// Two hundred texts that try to be more than text, in every place where an agent's text is shown.
//
// The runner fails a check for a dialog, a request to another host or a broken policy; here the
// nodes are looked at too: nothing but the elements and attributes that our own code makes.
import assert from 'node:assert/strict';
import { ends } from './page-site.mjs';

const RUN = 'globalThis.pwned=1';
const HOST = 'https://evil.example';

const MARKUP = [
  `<script>${RUN}</script>`, `<img src=x onerror=${RUN}>`, `<img src="${HOST}/a.png">`, `<svg onload=${RUN}>`, `<svg><script>${RUN}</script></svg>`, `<iframe src="javascript:${RUN}"></iframe>`,
  `<iframe srcdoc="<script>${RUN}</script>"></iframe>`, `<object data="javascript:${RUN}"></object>`, `<embed src="javascript:${RUN}">`, `<body onload=${RUN}>`, `<a href="javascript:${RUN}">x</a>`,
  `<math><mtext><script>${RUN}</script></mtext></math>`, `<details open ontoggle=${RUN}>`, `<input autofocus onfocus=${RUN}>`, `<video src="${HOST}/v" onerror=${RUN}></video>`, `<audio src=x onerror=${RUN}></audio>`,
  `<style>@import "${HOST}/s.css"</style>`, `<link rel=stylesheet href="${HOST}/s.css">`, `<meta http-equiv=refresh content="0;url=${HOST}">`, `<base href="${HOST}/">`, `<form action="${HOST}"><button>Allow</button></form>`,
  `<marquee onstart=${RUN}>`, `<template><script>${RUN}</script></template>`, `<noscript><p title="</noscript><img src=x onerror=${RUN}>">`, `"><script>${RUN}</script>`, `'-${RUN}-'`, `</p><script>${RUN}</script>`,
  `<scr<script>ipt>${RUN}</script>`, `<ScRiPt>${RUN}</ScRiPt>`, `<script/src="${HOST}/x.js"></script>`, `<img/src/onerror=${RUN}>`, `<a onclick=${RUN}>x</a>`, `<p style="background:url(${HOST}/b)">x</p>`,
  `<x onpointerenter=${RUN}>hover</x>`, `<button popovertarget=x onclick=${RUN}>x</button>`, `<dialog open id=settings onclose=${RUN}>`, `<select onchange=${RUN}><option></select>`, `<portal src="${HOST}">`, `<picture><source srcset="${HOST}/p"><img></picture>`,
  `<![CDATA[<script>${RUN}</script>]]>`, `<!--><script>${RUN}</script>-->`, `<?xml version="1.0"?><script>${RUN}</script>`, `&lt;script&gt;${RUN}&lt;/script&gt;`, `&#60;script&#62;${RUN}&#60;/script&#62;`, `\\u003cscript\\u003e${RUN}`,
  `\u2028<script>${RUN}</script>`, `<\u0000script>${RUN}</script>`, `\ufeff<script>${RUN}</script>`, `<img src=\`x\`onerror=${RUN}>`, `{{constructor.constructor('${RUN}')()}}`, `\${${RUN}}`,
];

const SCHEMES = [`javascript:${RUN}`, `JaVaScRiPt:${RUN}`, ` javascript:${RUN}`, `java\tscript:${RUN}`, `javascript&colon;${RUN}`, `javascript&#58;${RUN}`, `\u0001javascript:${RUN}`, `data:text/html,<script>${RUN}</script>`,
  `data:text/html;base64,PHNjcmlwdD4=`, `vbscript:${RUN}`, 'file:///etc/passwd', 'blob:https://evil.example/x', `//evil.example/x`, `\\\\evil.example\\x`, 'ftp://evil.example', 'intent://x#Intent;end', 'about:blank', 'view-source:https://evil.example', 'chrome://settings', `https:javascript:${RUN}`, 'HTTP://', 'http://', 'https://%', 'ws://evil.example'];
const FORMS = [(to) => `[click](${to})`, (to) => `![image](${to})`, (to) => `<${to}>`, (to) => `[click](<${to}>)`, (to) => `[![i](${to})](${to})`, (to) => `[click](${to} "title")`];

const MARKDOWN = [
  `![a](${HOST}/pixel.png)`, `![a](${HOST}/pixel.png "t")`, `[![a](${HOST}/p.png)](${HOST})`, `[x](${HOST}"onmouseover="${RUN})`, `[x](${HOST} "a\\" onmouseover=${RUN}")`, `[x]('onclick='${RUN})`,
  '```"><script>globalThis.pwned=1</script>\nx\n```', '```html onload=globalThis.pwned=1\n<script>globalThis.pwned=1</script>\n```', '`<script>globalThis.pwned=1</script>`', '| <img src=x onerror=globalThis.pwned=1> | b |\n|---|---|\n| <script>globalThis.pwned=1</script> | c |',
  '> <script>globalThis.pwned=1</script>', '- <img src=x onerror=globalThis.pwned=1>', '# <script>globalThis.pwned=1</script>', '**<svg onload=globalThis.pwned=1>**', '[<img src=x onerror=globalThis.pwned=1>](https://x.example)', '<https://x.example/"onmouseover="globalThis.pwned=1>',
  'https://x.example/"onmouseover="globalThis.pwned=1', '[x]: javascript:globalThis.pwned=1\n\n[x]', '[a](b)[c](javascript:globalThis.pwned=1)', '\\<script>globalThis.pwned=1</script>', '*<script>*globalThis.pwned=1*</script>*', '&#x3c;img src=x onerror=globalThis.pwned=1&#x3e;',
];

export const VECTORS = [...MARKUP, ...MARKDOWN, ...SCHEMES.flatMap((to) => FORMS.map((form) => form(to)))].slice(0, 217);

/** In the page: what stands there that our own code does not make. */
function foreign() {
  const tags = new Set('ARTICLE A B BLOCKQUOTE BR BUTTON CANVAS CODE DD DEL DETAILS DIV DL DT EM FIELDSET FIGCAPTION FIGURE FORM H2 H3 H4 H5 H6 HR INPUT LABEL LEGEND LI OL P PATH PRE Q SMALL SPAN STRONG SUMMARY SVG TABLE TBODY TD TEXTAREA TH THEAD TR UL'.split(' '));
  const names = new Set('aria-current aria-disabled aria-expanded aria-hidden aria-label autocomplete checked class d data-approval data-decision data-id data-kind data-level data-outcome data-state data-status data-route data-tool dir disabled height hidden href name open placeholder rel role rows start tabindex target title type value viewBox width data-key'.split(' '));
  const found = [];
  if (globalThis.pwned) found.push('a script ran');
  for (const node of document.querySelectorAll('#items *, #dock *, #tasks *, #queue *, #sessions *, #title *')) {
    if (!tags.has(node.tagName.toUpperCase())) found.push(`<${node.tagName}>`);
    if (node.tagName === 'INPUT' && !['checkbox', 'radio'].includes(node.type) && !node.matches('.other')) found.push(node.outerHTML);
    if (node.tagName === 'FORM' && !node.matches('#dock > .approval')) found.push('a form');
    if (node.tagName === 'svg' && !node.matches('.icon')) found.push('a picture');
    for (const { name, value } of node.attributes) {
      if (!names.has(name)) found.push(`${node.tagName} ${name}=${value}`);
      if (name === 'href' && !/^(https?:\/\/|mailto:)/i.test(value)) found.push(`href ${value}`);
      if (name === 'href' && node.closest('.md') && !/noreferrer/.test(node.rel)) found.push(`no rel: ${value}`);
    }
  }
  return found;
}

export function checks(site) {
  const look = async (page) => assert.deepEqual(await page.evaluate(foreign), []);
  const json = (value) => JSON.stringify(value).replaceAll(';;', ';\\u003b');

  return [
    [`${VECTORS.length} texts of an agent stay text, live and after a reload`, async (page) => {
      assert.ok(VECTORS.length >= 200);
      assert.equal(new Set(VECTORS).size, VECTORS.length);
      const id = await site.create();
      await site.open(page, id);
      let turns = 0;
      for (let at = 0; at < VECTORS.length; at += 31) {
        await site.prompt(id, VECTORS.slice(at, at + 31).map((text) => `text ${json(`${text}\n\n`)}`).join(' ;; '));
        turns += 1;
        await ends(page, turns);
        await look(page);
      }
      const links = await page.$$eval('#items .md a', (all) => all.map((link) => link.getAttribute('href')));
      for (const link of links) assert.match(link, /^(https?:\/\/|mailto:)/i);
      await site.open(page, id);
      await ends(page, 1);
      await look(page);
      await page.hover('.md p');
    }],

    ['nor do inputs, results, titles, tasks, thoughts and errors', async (page) => {
      const id = await site.create();
      await site.open(page, id);
      const some = [...MARKUP.slice(0, 12), ...MARKDOWN.slice(0, 8)];
      await site.prompt(id, some.map((text) => [`tool Bash ${json({ command: text, [text]: text })}`, `tool Edit ${json({ file_path: text, old_string: text, new_string: `${text}!` })}`,
        `think: ${text.replaceAll(';;', '')}`].join(' ;; ')).join(' ;; '));
      await ends(page, 1);
      await page.$$eval('.tool, .thinking', (all) => all.forEach((one) => { one.open = true; }));
      await page.waitForSelector('.tool .shell');
      await look(page);
      await site.prompt(id, `todos ${some.slice(0, 8).map((text) => text.replaceAll('|', '')).join(' | ')} ;; subagent ${some[1]} ;; tool Agent ${json({ description: some[0], prompt: some[1] })} ;; fail ${some[0]}`);
      await ends(page, 2);
      await look(page);
      await site.prompt(id, some[1]);
      await ends(page, 3);
      await site.api('PATCH', `/api/session/${id}`, { name: some[1] });
      await page.waitForFunction((text) => document.querySelector('#title').textContent === text, some[1]);
      await look(page);
    }],

    ['nor does what a card shows', async (page) => {
      for (const text of [MARKUP[0], MARKUP[1], MARKDOWN[0]]) {
        const id = await site.create();
        const rule = { type: 'addRules', behavior: 'allow', destination: 'session', rules: [{ toolName: text, ruleContent: text }] };
        const questions = [{ question: text, header: text, options: [{ label: text, description: text }, { label: 'b' }], multiSelect: false }];
        await site.prompt(id, `request ${json({ tool_name: 'Bash', input: { command: text, [text]: text }, description: text, permission_suggestions: [rule] })} ;; request ${json({ tool_name: 'AskUserQuestion', input: { questions } })} ;; request ${json({ tool_name: 'ExitPlanMode', input: { plan: text } })}`);
        await site.open(page, id);
        for (const kind of ['tool', 'question', 'plan']) {
          await page.waitForSelector(`.approval[data-kind=${kind}]`);
          await look(page);
          await page.waitForSelector('.approval .deny:enabled');
          await page.click('.approval .buttons .deny');
        }
        await ends(page, 1);
        await look(page);
      }
    }],
  ];
}
