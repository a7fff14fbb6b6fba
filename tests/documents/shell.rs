//! A shell of a reader's: one bash, in which commands run one after the other as they stand.

use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{Receiver, channel};

use crate::support::PATIENCE;

/// A bash that waits for commands. What still runs when it goes is ended with it.
pub struct Shell {
    bash: Child,
    stdin: Option<ChildStdin>,
    answers: Receiver<String>,
    /// Where the output of each command goes.
    notes: PathBuf,
    count: u32,
}

/// What became of a command.
pub struct Told {
    pub status: i32,
    pub out: String,
    pub err: String,
}

impl Shell {
    /// In this directory, with these variables and no others.
    pub fn new(directory: &Path, notes: &Path, variables: &[(String, String)]) -> Shell {
        let mut bash = Command::new("bash")
            .args(["--norc", "--noprofile"])
            .current_dir(directory)
            .env_clear()
            .envs(variables.iter().cloned())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("bash runs");
        let (sender, answers) = channel();
        let lines = BufReader::new(bash.stdout.take().unwrap()).lines();
        std::thread::spawn(move || {
            lines.map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let stdin = bash.stdin.take();
        let mut shell = Shell { bash, stdin, answers, notes: notes.to_owned(), count: 0 };
        // Each command that goes on is a process group, to be ended as a whole.
        shell.write("set -m\n");
        shell
    }

    fn write(&mut self, text: &str) {
        self.stdin.as_mut().expect("it listens").write_all(text.as_bytes()).unwrap();
    }

    fn next_note(&mut self) -> PathBuf {
        self.count += 1;
        self.notes.join(format!("command-{}", self.count))
    }

    /// Runs a command to its end.
    #[track_caller]
    pub fn run(&mut self, command: &str) -> Told {
        let note = self.next_note();
        let (out, err) = (note.with_extension("out"), note.with_extension("err"));
        let files = format!("</dev/null >'{}' 2>'{}'", out.display(), err.display());
        self.write(&format!("{{ {command}\n}} {files}; echo \"$?\"\n"));
        let read = |path| String::from_utf8_lossy(&std::fs::read(path).unwrap()).into_owned();
        match self.answers.recv_timeout(2 * PATIENCE) {
            Ok(status) => {
                let status = status.parse().expect("a status");
                Told { status, out: read(&out), err: read(&err) }
            }
            Err(_) => panic!("this does not end:\n{command}\n{}{}", read(&out), read(&err)),
        }
    }

    /// Starts a command that goes on. Returns the file that all its output goes to.
    #[track_caller]
    pub fn start(&mut self, command: &str) -> PathBuf {
        let out = self.next_note().with_extension("all");
        self.write(&format!("{{ {command}\n}} </dev/null >'{}' 2>&1 &\necho $!\n", out.display()));
        self.answers.recv_timeout(PATIENCE).expect("it is started");
        out
    }
}

impl Drop for Shell {
    fn drop(&mut self) {
        let end = b"exec 2>/dev/null; for job in $(jobs -p); do kill -TERM -- -$job; done; wait\n";
        let mut stdin = self.stdin.take().expect("it listens");
        let _ = stdin.write_all(end); // It may have ended by itself.
        drop(stdin);
        let mut ended = false;
        let start = std::time::Instant::now();
        while !ended && start.elapsed() < PATIENCE {
            ended = matches!(self.bash.try_wait(), Ok(Some(_)));
            std::thread::sleep(std::time::Duration::from_millis(5));
        }
        if !ended {
            let _ = self.bash.kill();
            let _ = self.bash.wait();
            if !std::thread::panicking() {
                panic!("what was started does not end");
            }
        }
    }
}
