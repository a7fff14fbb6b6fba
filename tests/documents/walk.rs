//! A walk through a page: its commands, one after the other, as somebody would type them.
//!
//! What stands for something of the reader's own (a port, a path, an id) is replaced by what this
//! walk has in its place. A replacement that nothing uses is an error, as is a command that fails.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::page::{Block, blocks, fits};
use crate::shell::{Shell, Told};
use crate::special::{How, special};
use crate::support::{PATIENCE, Scratch, need};

/// The programs that stand for others here, by the name that pages use.
const SIDESTREAM: &str = env!("CARGO_BIN_EXE_sidestream");

/// How far one has come through a page, and what one has at hand.
pub struct Walk {
    page: String,
    blocks: Vec<Block>,
    /// The next command: its block, and its place there.
    at: (usize, usize),
    /// What was printed since the block began.
    printed: String,
    /// Where the last command of this block that goes on prints to.
    going: Option<PathBuf>,
    /// What stands in the page, what it stands for, whether that was used.
    names: Vec<(String, String, bool)>,
    shell: Shell,
    /// `home`, `work` (where the shell stands), `bin` (first on its PATH), `host` (another machine's
    /// root directory), `notes`. Behind the shell: it goes after it.
    pub scratch: Scratch,
}

impl Walk {
    /// At a page's first command, with these variables beside PATH, HOME and LANG.
    #[track_caller]
    pub fn new(page: &str, scratch: Scratch, more: &[(&str, &str)]) -> Walk {
        need("bash");
        for name in ["home", "work", "bin", "host", "notes"] {
            scratch.directory(name);
        }
        let sidestream = scratch.path().join("bin/sidestream");
        if !sidestream.exists() {
            symlink(SIDESTREAM, sidestream).unwrap();
        }
        let path = std::env::var("PATH").expect("PATH is set");
        let mut variables = vec![
            ("PATH".to_owned(), format!("{}:{path}", scratch.join("bin"))),
            ("HOME".to_owned(), scratch.join("home")),
            ("LANG".to_owned(), "C.UTF-8".to_owned()),
        ];
        for (name, value) in more {
            variables.retain(|(known, _)| known != name);
            variables.push(((*name).to_owned(), (*value).to_owned()));
        }
        let notes = scratch.path().join("notes");
        let shell = Shell::new(&scratch.path().join("work"), &notes, &variables);
        let (page, blocks) = (page.to_owned(), blocks(page));
        let (names, printed) = (Vec::new(), String::new());
        Walk { page, blocks, at: (0, 0), printed, going: None, names, shell, scratch }
    }

    /// From here on, this stands for that.
    pub fn name(&mut self, written: &str, ours: &str) {
        self.names.push((written.to_owned(), ours.to_owned(), false));
    }

    /// Runs a command of the test's own, with the page's names replaced.
    #[track_caller]
    pub fn aside(&mut self, command: &str) -> String {
        let command = self.named(command).0;
        self.run(&command)
    }

    /// Runs a command of the test's own as it stands.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> String {
        let told = self.shell.run(command);
        assert_eq!(told.status, 0, "{command}\n{}{}", told.out, told.err);
        told.out
    }

    /// Goes on up to the end of the first command that starts so; returns what it printed so far.
    #[track_caller]
    pub fn through(&mut self, start: &str) -> String {
        loop {
            let Some(command) = self.peek() else { panic!("{} has no `{start}`", self.page) };
            let found = command.starts_with(start);
            let printed = self.step(&command);
            if found {
                return printed;
            }
        }
    }

    /// Goes on to the end of the page, and looks back.
    #[track_caller]
    pub fn finish(mut self) {
        while let Some(command) = self.peek() {
            self.step(&command);
        }
        let stale: Vec<_> = self.names.iter().filter(|(_, _, used)| !used).collect();
        assert!(stale.is_empty(), "nothing on {} is called so: {stale:?}", self.page);
    }

    fn peek(&self) -> Option<String> {
        self.blocks.get(self.at.0).map(|block| block.commands[self.at.1].clone())
    }

    /// A text with all names replaced, and which were.
    pub fn named(&self, command: &str) -> (String, Vec<usize>) {
        let mut text = command.to_owned();
        let mut used = Vec::new();
        for (at, (written, ours, _)) in self.names.iter().enumerate() {
            if text.contains(written) {
                text = text.replace(written, ours);
                used.push(at);
            }
        }
        (text, used)
    }

    /// Runs the next command. The last one of a block is followed by a look at all it printed.
    #[track_caller]
    fn step(&mut self, written: &str) -> String {
        let (command, used) = self.named(written);
        for at in used {
            self.names[at].2 = true;
        }
        let (block, place) = self.at;
        let line = self.blocks[block].line;
        let is_last = place + 1 == self.blocks[block].commands.len();
        let printed = match special(&self.page, written) {
            None => {
                let Told { status, out, err } = self.shell.run(&command);
                assert_eq!(status, 0, "{}:{line}: {command}\n{out}{err}", self.page);
                out
            }
            Some(How::GoesOn(parts)) => {
                let file = self.shell.start(&command);
                let printed = || std::fs::read_to_string(&file).unwrap_or_default();
                let what = || format!("{}:{line}: {command}\nprints\n{parts:#?}", self.page);
                eventually_said(&what, &printed, |text| {
                    let mut rest = text;
                    parts.iter().all(|part| match rest.find(part) {
                        Some(at) => {
                            rest = &rest[at + part.len()..];
                            true
                        }
                        None => false,
                    })
                });
                let text = printed();
                self.going = Some(file);
                text
            }
            Some(How::Instead(_, look)) => look(self, &command),
        };
        self.printed.push_str(&printed);
        self.at = if is_last { (block + 1, 0) } else { (block, place + 1) };
        if is_last {
            self.compare(block);
            self.printed.clear();
            self.going = None;
        }
        printed
    }

    /// What a block printed is what the page shows. Of what goes on, the page shows some lines.
    #[track_caller]
    fn compare(&mut self, block: usize) {
        let block = &self.blocks[block];
        if block.shown.is_empty() {
            return;
        }
        let at = format!("{}:{}", self.page, block.line);
        let (shown, used) = self.named(&block.shown.join("\n"));
        for at in used {
            self.names[at].2 = true;
        }
        let shown: Vec<&str> = shown.lines().collect();
        if let Some(file) = &self.going {
            let printed = || std::fs::read_to_string(file).unwrap_or_default();
            let what = || format!("{at} shows\n{}", shown.join("\n"));
            return eventually_said(&what, &printed, |text| {
                let mut lines = text.lines();
                shown.iter().all(|shown| lines.any(|line| fits(line, shown)))
            });
        }
        let lines: Vec<&str> = self.printed.lines().collect();
        assert_eq!(lines.len(), shown.len(), "{at} printed:\n{}", self.printed);
        for (line, shown) in lines.iter().zip(shown) {
            assert!(fits(line, shown), "{at} printed:\n{line}\nnot:\n{shown}");
        }
    }

    /// A path below the walk's directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.scratch.path().join(name)
    }

    /// A path of the repository, linked to where the shell stands.
    pub fn bring(&self, name: &str) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        assert!(from.exists(), "{}", from.display());
        symlink(&from, self.path("work").join(name)).unwrap();
    }
}

/// Waits until what is printed is as it should be; else says what it was.
#[track_caller]
fn eventually_said(
    what: &dyn Fn() -> String,
    printed: &dyn Fn() -> String,
    good: impl Fn(&str) -> bool,
) {
    let start = std::time::Instant::now();
    while !good(&printed()) {
        let late = start.elapsed() > PATIENCE;
        assert!(!late, "{}\nbut it printed\n{}", what(), printed());
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
}
