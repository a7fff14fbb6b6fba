//! The `demo` agent as a process: pipes, a clock and the names in the working directory around
//! [`crate::core::demo`], which alone decides what is said.
//!
//! It is started in the place of the Claude CLI and behaves like it at its edges: flags it does
//! not know are ignored, the end of stdin lets the running turn end, signals have their default
//! effect. It runs nothing and writes nothing but stdout.

use std::io::{self, BufRead, BufReader, Read, Write};
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use crate::core::demo::Demo;

/// Names of the working directory that are read at most.
const NAMES_MAX: usize = 10_000;
/// Lines that wait between the two threads at most; the pipe holds what comes after.
const LINES_MAX: usize = 16;

/// Runs the agent on stdin and stdout with this process's arguments, and gives its exit status.
pub fn main() -> i32 {
    let arguments = std::env::args_os().skip(1);
    let arguments: Vec<_> = arguments.map(|arg| arg.to_string_lossy().into_owned()).collect();
    let mut seed = [0; 8];
    if getrandom::fill(&mut seed).is_err() {
        // Ids need only differ between the processes of one conversation.
        seed = u64::from(std::process::id()).to_ne_bytes();
    }
    let demo = start(&arguments, names(), u64::from_ne_bytes(seed));
    run(demo, io::stdin(), io::stdout().lock())
}

/// Makes the agent that the arguments ask for.
fn start(arguments: &[String], names: Vec<String>, seed: u64) -> Demo {
    let value = |flag: &str| {
        let mut values = arguments.iter().filter_map(|argument| argument.strip_prefix(flag));
        values.next_back()?.strip_prefix('=')
    };
    // A fork names both: the conversation it comes from, and its own.
    let conversation_id = value("--session-id").or(value("--resume")).unwrap_or("demo");
    let mut demo = Demo::new(conversation_id, names, seed);
    if arguments.iter().any(|argument| argument == "--allow-dangerously-skip-permissions") {
        demo.allow_bypass();
    }
    // What was allowed before its last process was stopped.
    for argument in arguments {
        let rule = argument.strip_prefix("--allowedTools=Bash(");
        if let Some(command) = rule.and_then(|rule| rule.strip_suffix(')')) {
            demo.allow_command(command);
        }
    }
    if let Some(mode) = value("--permission-mode") {
        demo.set_mode(mode);
    }
    if let Some(model) = value("--model") {
        demo.set_model(model);
    }
    demo
}

/// The names in the working directory; none if it cannot be read.
fn names() -> Vec<String> {
    let entries = std::fs::read_dir(".").into_iter().flatten().flatten();
    let names = entries.map(|entry| entry.file_name().to_string_lossy().into_owned());
    names.take(NAMES_MAX).collect()
}

fn run(mut demo: Demo, input: impl Read + Send + 'static, mut output: impl Write) -> i32 {
    let lines = read_lines(input);
    let start = Instant::now();
    let now_ms = || u64::try_from(start.elapsed().as_millis()).unwrap_or(u64::MAX);
    let (mut out, mut input_open) = (Vec::new(), true);
    loop {
        let due_ms = demo.poll(now_ms(), &mut out);
        if output.write_all(&out).and_then(|()| output.flush()).is_err() {
            return 1; // Nobody hears us any more.
        }
        out.clear();
        if let Some(status) = demo.exit_status() {
            if status != 0 && input_open {
                eprintln!("Error parsing streaming input line");
            }
            return status;
        }
        let pause = due_ms.map(|due_ms| Duration::from_millis(due_ms.saturating_sub(now_ms())));
        let line = match pause {
            Some(pause) if !input_open => {
                thread::sleep(pause);
                continue;
            }
            Some(pause) => lines.recv_timeout(pause),
            None => lines.recv().map_err(|_| RecvTimeoutError::Disconnected),
        };
        match line {
            Ok(line) => demo.line(now_ms(), &line),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => {
                input_open = false;
                demo.input_ended(now_ms());
            }
        }
    }
}

/// Reads lines in a thread of its own, since std waits for one thing at a time. It ends with the
/// input, or with the process.
fn read_lines(input: impl Read + Send + 'static) -> Receiver<Vec<u8>> {
    let (sender, receiver) = sync_channel(LINES_MAX);
    thread::spawn(move || {
        let mut input = BufReader::new(input);
        let mut line = Vec::new();
        while input.read_until(b'\n', &mut line).is_ok_and(|count| count > 0) {
            // What stands after the last newline at the end of input was cut off.
            if line.pop() != Some(b'\n') || sender.send(std::mem::take(&mut line)).is_err() {
                return;
            }
        }
    });
    receiver
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::wire::claude;

    fn talk(arguments: &[&str], input: Vec<u8>) -> (i32, String) {
        let arguments: Vec<_> = arguments.iter().map(|&argument| argument.to_owned()).collect();
        let demo = start(&arguments, vec!["a.txt".to_owned()], 1);
        let mut output = Vec::new();
        let status = run(demo, Cursor::new(input), &mut output);
        (status, String::from_utf8(output).unwrap())
    }

    #[test]
    fn the_end_of_input_waits_for_the_turn_and_tells_how_it_ended() {
        for (prompt, status, told) in [("ls", 0, "a.txt"), ("error 404", 1, "API Error: 404")] {
            let mut input = Vec::new();
            claude::initialize(&mut input, "init");
            claude::user(&mut input, prompt, &[], None);
            let (ended, output) = talk(&["--session-id=the-id"], input);
            assert_eq!(ended, status, "{output}");
            assert!(output.contains(told) && output.contains("\"type\":\"result\""), "{output}");
            assert!(output.contains("\"session_id\":\"the-id\""));
        }
    }

    #[test]
    fn nothing_to_do_is_a_good_end_and_noise_is_a_bad_one() {
        assert_eq!(talk(&[], Vec::new()), (0, String::new()));
        assert_eq!(talk(&[], b"{\"type\":\"user\",\"mess".to_vec()), (0, String::new()));
        assert_eq!(talk(&[], b"what?\n".to_vec()), (1, String::new()));
    }

    #[test]
    fn a_command_that_was_allowed_before_is_not_asked_for() {
        let allowed = ["Read".to_owned(), "Bash(touch (x))".to_owned()];
        let options = claude::Start { allowed_tools: &allowed, ..claude::Start::default() };
        let arguments = claude::arguments(&options);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        for (command, asks) in [("touch (x)", false), ("touch y", true)] {
            let mut input = Vec::new();
            claude::user(&mut input, &format!("run tool: {command}"), &[], None);
            let (_, output) = talk(&arguments, input);
            assert_eq!(output.contains("can_use_tool"), asks, "{command}: {output}");
        }
    }

    #[test]
    fn the_arguments_of_the_cli_are_understood() {
        let options = claude::Start {
            conversation_id: "new",
            fork_from: Some("old"),
            mode: Some("plan"),
            model: Some("opus"),
            ..claude::Start::default()
        };
        let arguments = claude::arguments(&options);
        let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
        let mut input = Vec::new();
        claude::user(&mut input, "say: x", &[], None);
        let (_, output) = talk(&arguments, input);
        for told in ["\"session_id\":\"new\"", "\"permissionMode\":\"plan\"", "\"model\":\"opus\""]
        {
            assert!(output.contains(told), "{output}");
        }
    }
}
