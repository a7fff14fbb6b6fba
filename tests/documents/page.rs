//! What a page tells its reader to type, and what it says comes of it.
//!
//! In Markdown that is every block fenced as `sh` or `console`; a block fenced as `text` right behind
//! it is what the commands print. Units and image recipes have theirs in the comment at their head,
//! proxies' configurations and hooks the options that the server is to be started with beside them.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// One block of commands.
pub struct Block {
    /// The number of its first line in the page.
    pub line: usize,
    /// Its commands, one by one, each as many lines as it takes.
    pub commands: Vec<String>,
    /// What it prints, line by line; `…` stands for anything.
    pub shown: Vec<String>,
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Every page that may tell somebody to type something, below the repository.
pub fn pages() -> Vec<String> {
    fn walk(directory: &Path, found: &mut Vec<PathBuf>) {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => walk(&path, found),
                false => found.push(path),
            }
        }
    }
    let mut found = Vec::new();
    walk(&repository().join("docs"), &mut found);
    walk(&repository().join("deploy"), &mut found);
    let is_page = |path: &PathBuf| {
        let ours = path.starts_with(repository().join("deploy"));
        let compiled = path.extension().is_some_and(|it| it == "pyc");
        ours && !compiled || path.extension().is_some_and(|it| it == "md")
    };
    found.retain(is_page);
    let name = |path: PathBuf| {
        path.strip_prefix(repository()).unwrap().to_str().expect("a name in UTF-8").to_owned()
    };
    let mut pages: Vec<String> = found.into_iter().map(name).collect();
    pages.extend(["README.md".to_owned(), "CONTRIBUTING.md".to_owned()]);
    pages.sort();
    pages
}

/// The text of a page.
pub fn text(page: &str) -> String {
    let path = repository().join(page);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The blocks of commands of a page, in their order.
pub fn blocks(page: &str) -> Vec<Block> {
    let text = text(page);
    match page.ends_with(".md") {
        true => fenced(&text),
        false => in_comments(page, &text),
    }
}

fn fenced(text: &str) -> Vec<Block> {
    let mut blocks: Vec<Block> = Vec::new();
    let mut lines = text.lines().enumerate();
    let mut just_ended = false;
    while let Some((number, line)) = lines.next() {
        let Some(language) = line.trim_start().strip_prefix("```") else {
            just_ended &= line.is_empty();
            continue;
        };
        let inside = lines.by_ref().map(|(_, line)| line);
        let body: Vec<&str> =
            inside.take_while(|line| !line.trim_start().starts_with("```")).collect();
        match language {
            "sh" | "console" | "bash" | "shell" => {
                let commands = commands(&body);
                blocks.push(Block { line: number + 1, commands, shown: Vec::new() });
                just_ended = true;
                continue;
            }
            "text" if just_ended => {
                let block = blocks.last_mut().expect("a block of commands");
                block.shown = body.iter().map(|line| (*line).to_owned()).collect();
            }
            // A block without a language might be one of commands that nobody would run.
            "" => panic!("the block at line {} does not say its language", number + 1),
            _ => {}
        }
        just_ended = false;
    }
    blocks
}

/// What stands in comments: a run of indented lines is a block.
fn in_comments(page: &str, text: &str) -> Vec<Block> {
    let (start, options_only) = match page.rsplit(['.', '/']).next().unwrap_or_default() {
        "py" => ("    ", true),
        "conf" | "Caddyfile" => ("#   ", true),
        _ => ("#   ", false),
    };
    let mut blocks = Vec::new();
    let mut body: Vec<String> = Vec::new();
    for (number, line) in text.lines().chain([""]).enumerate() {
        match line.strip_prefix(start) {
            Some(line) if line.starts_with("--") => body.push(format!("sidestream {line}")),
            Some(line) if !options_only => body.push(line.to_owned()),
            _ if body.is_empty() => {}
            _ => {
                let lines: Vec<&str> = body.iter().map(String::as_str).collect();
                let block = Block {
                    line: number + 1 - body.len(),
                    commands: commands(&lines),
                    shown: Vec::new(),
                };
                blocks.push(block);
                body.clear();
            }
        }
    }
    blocks
}

/// Lines as commands: one goes on until bash takes it as whole. Comments are none.
fn commands(lines: &[&str]) -> Vec<String> {
    let mut commands = Vec::new();
    let mut pending = String::new();
    for line in lines {
        let line = line.strip_prefix("$ ").unwrap_or(line);
        if pending.is_empty() && (line.trim().is_empty() || line.starts_with('#')) {
            continue;
        }
        pending.push_str(line);
        pending.push('\n');
        if !line.ends_with('\\') && is_whole(&pending) {
            commands.push(std::mem::take(&mut pending).trim_end().to_owned());
        }
    }
    assert!(pending.is_empty(), "this command has no end:\n{pending}");
    commands
}

fn is_whole(command: &str) -> bool {
    let mut bash = Command::new("bash");
    bash.args(["-n", "-c", command]).stdout(Stdio::null()).stderr(Stdio::null());
    bash.status().expect("bash runs").success()
}

/// Whether a line is the pattern's, whose `…` stand for anything.
pub fn fits(line: &str, pattern: &str) -> bool {
    let parts: Vec<&str> = pattern.split('…').collect();
    let [first, middle @ .., last] = &parts[..] else { return line == pattern };
    let Some(mut rest) = line.strip_prefix(first) else { return false };
    for part in middle {
        let Some(at) = rest.find(part) else { return false };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

#[test]
fn patterns_fit_what_they_say_and_nothing_else() {
    for (line, pattern, want) in [
        ("abc", "abc", true),
        ("abcd", "abc", false),
        ("abcd", "abc…", true),
        ("a1c2e", "a…c…e", true),
        ("a1c2ee", "a…c…e", true),
        ("ab", "ab…b", false),
        ("a1d2e", "a…c…e", false),
        ("xabc", "abc", false),
    ] {
        assert_eq!(fits(line, pattern), want, "{line} {pattern}");
    }
}

#[test]
fn a_command_is_as_long_as_it_is_and_what_it_prints_stands_right_behind() {
    let page = "a\n```sh\n# no\none \\\n  more\n\ntwo '\nx'  # yes\n```\n\n```text\nout\n```\n\
                ```sh\nthree\n```\nwords\n```text\nnot its own\n```\n```js\nfour\n```\n";
    let blocks = fenced(page);
    assert_eq!(blocks.len(), 2);
    assert_eq!(blocks[0].commands, ["one \\\n  more", "two '\nx'  # yes"]);
    assert_eq!((blocks[0].line, &*blocks[0].shown), (2, &["out".to_owned()][..]));
    assert_eq!((&*blocks[1].commands, blocks[1].shown.len()), (&["three".to_owned()][..], 0));
    let unit = "# A unit.\n#\n#   one\n#   two \\\n#     more\n#\n[Unit]\n";
    let blocks = in_comments("deploy/x.service", unit);
    assert_eq!(blocks[0].commands, ["one", "two \\\n  more"]);
    let proxy = "#   --flag 1\n#   location / {\nx\n#   --other\n";
    let commands: Vec<String> =
        in_comments("deploy/a.conf", proxy).into_iter().flat_map(|block| block.commands).collect();
    assert_eq!(commands, ["sidestream --flag 1", "sidestream --other"]);
}
