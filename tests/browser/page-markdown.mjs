// The Markdown subset by itself: what it makes of what, piece by piece as at once, in any amount.
import assert from 'node:assert/strict';

/** Source → the elements it makes. `|` stands for a line break. */
const TABLE = [
  ['plain words', '<p>plain words</p>'],
  ['a|b||c', '<p>a\nb</p><p>c</p>'],
  ['# One #|## Two', '<h2>One</h2><h3>Two</h3>'],
  ['####### seven', '<p>####### seven</p>'],
  ['#none', '<p>#none</p>'],
  ['*a* **b** ***c*** _d_ __e__ ~~f~~', '<p><em>a</em> <strong>b</strong> <em><strong>c</strong></em> <em>d</em> <strong>e</strong> <del>f</del></p>'],
  ['**bold *and* more**', '<p><strong>bold <em>and</em> more</strong></p>'],
  ['snake_case_name and 2*3*4', '<p>snake_case_name and 2<em>3</em>4</p>'],
  ['a * b * c and ~one~', '<p>a * b * c and ~one~</p>'],
  ['**open and *open', '<p>**open and *open</p>'],
  ['`code *x*` ``a ` b``', '<p><code>code *x*</code> <code>a ` b</code></p>'],
  ['`open', '<p>`open</p>'],
  ['\\*not\\* \\`this\\` \\q', '<p>*not* `this` \\q</p>'],
  ['[a](https://x.example/y?z=1#w)', '<p><a href="https://x.example/y?z=1#w">a</a></p>'],
  ['[**a** b](<https://x.example/a b>)', '<p><span><strong>a</strong> b</span></p>'],
  ['[a](mailto:a@b.example)', '<p><a href="mailto:a@b.example">a</a></p>'],
  ['[a](javascript:alert(1))', '<p><span>a</span></p>'],
  ['[a](/relative) [b](src/main.rs)', '<p><span>a</span> <span>b</span></p>'],
  ['[not a link] [x](', '<p>[not a link] [x](</p>'],
  ['![alt](https://x.example/i.png)', '<p><a href="https://x.example/i.png">image: alt</a></p>'],
  ['see https://x.example/a_(b), ok.', '<p>see <a href="https://x.example/a_(b)">https://x.example/a_(b)</a>, ok.</p>'],
  ['<https://x.example/> <b>no</b>', '<p><a href="https://x.example/">https://x.example/</a> &lt;b&gt;no&lt;/b&gt;</p>'],
  ['[a [b](https://x.example)](https://y.example)', '<p><span>a <a href="https://x.example">b</a></span></p>'],
  ['- a|- b|  - c||  - d|- e', '<ul><li><p>a</p></li><li><p>b</p><ul><li><p>c</p></li><li><p>d</p></li></ul></li><li><p>e</p></li></ul>'],
  ['- a|- b', '<ul><li>a</li><li>b</li></ul>'],
  ['* a|+ b', '<ul><li>a</li></ul><ul><li>b</li></ul>'],
  ['2. a|3. b', '<ol start="2"><li>a</li><li>b</li></ol>'],
  ['1. a|   more|2. b', '<ol><li>a\nmore</li><li>b</li></ol>'],
  ['- a|lazy|- b', '<ul><li>a\nlazy</li><li>b</li></ul>'],
  ['- [ ] a|- [x] b', '<ul><li class="task"><input> a</li><li class="task"><input> b</li></ul>'],
  ['1. a|   - b|     - c', '<ol><li>a<ul><li>b<ul><li>c</li></ul></li></ul></li></ol>'],
  ['- a||  ```|  x|  ```', '<ul><li><p>a</p><figure>x</figure></li></ul>'],
  ['text|- item', '<p>text</p><ul><li>item</li></ul>'],
  ['in 1986.|2000. was', '<p>in 1986.\n2000. was</p>'],
  ['```js|a|  b|```|after', '<figure>js a\n  b</figure><p>after</p>'],
  ['~~~|```|~~~', '<figure>```</figure>'],
  ['```|open|', '<figure>open\n</figure>'],
  ['````|```|````', '<figure>```</figure>'],
  ['> a|> b|c||d', '<blockquote><p>a\nb\nc</p></blockquote><p>d</p>'],
  ['> - a|> > b', '<blockquote><ul><li>a</li></ul><blockquote><p>b</p></blockquote></blockquote>'],
  ['---|***|_ _ _', '<hr><hr><hr>'],
  ['a|---', '<p>a</p><hr>'],
  ['¦ a ¦ b ¦|¦--¦:-:¦|¦ 1 ¦ `x\\¦y` ¦|z', '<div><table><thead><tr><th>a</th><th class="center">b</th></tr></thead><tbody><tr><td>1</td><td class="center"><code>x|y</code></td></tr></tbody></table></div><p>z</p>'],
  ['a ¦ b|no rule', '<p>a | b\nno rule</p>'],
  ['one  |two', '<p>one  <br>two</p>'],
  ['日本語の**強調**です', '<p>日本語の<strong>強調</strong>です</p>'],
  ['<script>alert(1)</script>', '<p>&lt;script&gt;alert(1)&lt;/script&gt;</p>'],
  ['&lt;b&gt; &amp;', '<p>&amp;lt;b&amp;gt; &amp;amp;</p>'],
];

/** In the page: the elements of a node, without what is not the subset's own. */
const simplified = `(root) => {
  const write = (node) => {
    if (node.nodeType === 3) return node.data.replaceAll('&', '&amp;').replaceAll('<', '&lt;').replaceAll('>', '&gt;');
    const tag = node.tagName.toLowerCase();
    const inner = [...node.childNodes].map(write).join('');
    if (tag === 'figure') return '<figure>' + [node.querySelector('figcaption span').textContent, node.querySelector('code').textContent].filter(Boolean).join(' ') + '</figure>';
    const names = ['href', 'start', ...(['LI', 'TH', 'TD'].includes(node.tagName) ? ['class'] : [])];
    const attributes = names.filter((name) => node.hasAttribute(name)).map((name) => ' ' + name + '="' + node.getAttribute(name) + '"').join('');
    return ['br', 'hr', 'input'].includes(tag) ? '<' + tag + '>' : '<' + tag + attributes + '>' + inner + '</' + tag + '>';
  };
  return [...root.childNodes].map(write).join('');
}`;

export function checks(site) {
  const visit = (page) => page.goto(`${site.url}/`);
  return [
    ['the subset makes of each source what it says', async (page) => {
      await visit(page);
      const sources = TABLE.map(([source]) => source.replaceAll('|', '\n').replaceAll('¦', '|'));
      const results = [];
      for (const source of sources) results.push(await page.evaluate(`(async () => { const { markdown } = await import('${site.url}/js/markdown.js'); return (${simplified})(markdown(${JSON.stringify(source)})); })()`));
      const wrong = TABLE.map(([source, wanted], at) => [source, wanted, results[at]]).filter(([, wanted, got]) => wanted !== got);
      assert.deepEqual(wrong, []);
    }],

    ['a text in pieces is drawn as it is at once', async (page) => {
      await visit(page);
      const wrong = await page.evaluate(async (base) => {
        const { Markdown, markdown } = await import(`${base}/js/markdown.js`);
        let seed = 11;
        const random = (count) => {
          seed = (seed * 1103515245 + 12345) % 2147483648;
          return Math.floor(seed / 65536) % count;
        };
        const parts = ['word ', '*em*', '**', '`', '```\n', '```', '\n', '\n\n', '- item\n', '  - inner\n', '1. one\n', '2', '. two\n', '> quote\n', '| a | b |\n', '|---|---|\n',
          '# head\n', '---\n', '[link](https://x.example)', '~~~\n', '    ', '[', ']', '(', '~~', '\\', 'https://y.example/z ', '\r\n', 'é日本', '- [x] task\n', '=', '|'];
        for (let run = 0; run < 1500; run++) {
          const text = Array.from({ length: 1 + random(40) }, () => parts[random(parts.length)]).join('');
          const root = document.createElement('div');
          const growing = new Markdown(root);
          for (let at = 0; at < text.length;) {
            const size = 1 + random(9);
            growing.append(text.slice(at, at + size));
            if (random(3) > 0) growing.draw();
            at += size;
          }
          growing.set(text);
          root.normalize();
          const whole = markdown(text);
          whole.normalize();
          if (root.innerHTML !== whole.innerHTML) return [text, root.innerHTML, whole.innerHTML];
        }
        return null;
      }, site.url);
      assert.equal(wrong, null);
    }],

    ['no text is lost, whatever it is made of', async (page) => {
      await visit(page);
      const lost = await page.evaluate(async (base) => {
        const { markdown } = await import(`${base}/js/markdown.js`);
        let seed = 3;
        const random = (count) => {
          seed = (seed * 1103515245 + 12345) % 2147483648;
          return Math.floor(seed / 65536) % count;
        };
        for (let run = 0; run < 2000; run++) {
          const words = Array.from({ length: 30 }, (_, at) => `w${at}`);
          const text = words.map((word) => word + ['*', '_', '`', '[', ']', ' ', '\n', '\n\n', '> ', '- ', '~~', '\\', '|', '# ', '  '][random(15)]).join('');
          const shown = markdown(text).textContent;
          const missing = words.filter((word) => !shown.includes(word));
          if (missing.length > 0) return [text, missing];
        }
        return null;
      }, site.url);
      assert.equal(lost, null);
    }],

    ['a very long text in pieces is drawn as it is at once, wherever its paragraphs are cut', async (page) => {
      await visit(page);
      const wrong = await page.evaluate(async (base) => {
        const { Markdown, markdown } = await import(`${base}/js/markdown.js`);
        const texts = [
          'word - and # more 1. '.repeat(5000), 'x'.repeat(60_000), '😀'.repeat(20_000), `${'seven\n'.repeat(9000)}- item\n\n${'y'.repeat(40_000)}\n| a |\n|---|\n`,
          `| ${'wide '.repeat(8000)}|\n|---|\n| cell |\n`, `> ${'quoted '.repeat(9000)}\n- ${'item '.repeat(9000)}`, `\`\`\`\n${'let x = 1;\n'.repeat(9000)}${'z'.repeat(50_000)}\n\`\`\`\nend`,
        ];
        for (const text of texts) {
          const root = document.createElement('div');
          const growing = new Markdown(root);
          for (let at = 0; at < text.length; at += 3001) {
            growing.append(text.slice(at, at + 3001));
            growing.draw();
          }
          root.normalize();
          const whole = markdown(text);
          whole.normalize();
          if (root.innerHTML !== whole.innerHTML) return [text.slice(0, 40), root.innerHTML.length, whole.innerHTML.length];
          const count = (from) => from.replaceAll(/[\s>|-]/g, '').length;
          if (count(whole.textContent) < count(text) - 20) return [text.slice(0, 40), whole.textContent.length];
        }
        return null;
      }, site.url);
      assert.equal(wrong, null);
    }],

    ['of a very long text a part is drawn, and the next one on demand', async (page) => {
      await visit(page);
      const [first, second, last, whole] = await page.evaluate(async (base) => {
        const { Markdown, markdown } = await import(`${base}/js/markdown.js`);
        const root = document.createElement('div');
        const text = `# Head\n\n${'some words of it '.repeat(50_000)}`;
        const growing = new Markdown(root);
        for (let at = 0; at < text.length; at += 50_000) {
          growing.append(text.slice(at, at + 50_000));
          growing.draw();
        }
        const lengths = [root.textContent.length];
        root.querySelector('.left-out').click();
        lengths.push(root.textContent.length);
        while (root.querySelector('.left-out')) root.querySelector('.left-out').click();
        const all = markdown(text, Infinity);
        return [...lengths, root.innerHTML === all.innerHTML, all.textContent.length];
      }, site.url);
      assert.ok(whole > 800_000 && last);
      assert.ok(first < 300_000 && second > first + 200_000 && second < 600_000, `${first}, ${second}`);
    }],

    ['nothing makes it slow or deep', async (page) => {
      await visit(page);
      const hard = ['[', '![', '*a ', '**a', '_a_b', '`', '`a``b', '> ', '- ', '1. ', '  - a\n', '| a ', '\\', '<', '](', '[a](', '[a](b', '~~', '#', 'https://', '*a_b', '\n> - ', '```\n', '|-|\n', '[[a](https://x.example)'];
      for (const part of hard) {
        // 300,000 characters: what takes more than linear time does not end before the check does.
        const length = await page.evaluate(async ([base, text]) => {
          const { markdown } = await import(`${base}/js/markdown.js`);
          return markdown(text).textContent.length;
        }, [site.url, part.repeat(Math.ceil(300_000 / part.length))]);
        assert.ok(length >= 0);
      }
      for (const part of ['y\n', 'a  \n', '*a*\n']) {
        const count = await page.evaluate(async ([base, text]) => {
          const { inline } = await import(`${base}/js/markdown.js`);
          return inline(text).length;
        }, [site.url, part.repeat(600_000)]);
        assert.ok(count > 0);
      }
    }],
  ];
}
