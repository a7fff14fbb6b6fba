//! The real Claude Code CLI, pinned, against the fake API on loopback. What is promised for the
//! scriptable agent must hold for the one that users have.
//!
//! One server per test. The CLI takes 200 MB and half a second of CPU to start, so few of these
//! tests run at a time.

mod support;

use serde_json::json;
use std::path::Path;
use std::time::{Duration, Instant};
use support::claude::{Place, options_for};
use support::{Api, Event, PATIENCE, Reader, Server, eventually, is_alive};

/// All that one test has. The server goes first, then its API, then the place.
struct World {
    server: Server,
    api: Api,
    session: String,
    reader: Reader,
    _place: Place,
}

impl World {
    #[track_caller]
    fn new(flags: &[&str]) -> World {
        let place = Place::take();
        let api = Api::start();
        let server = api.serve(flags);
        let session = server.create();
        let mut reader = server.stream(&session);
        reader.joined();
        World { server, api, session, reader, _place: place }
    }

    #[track_caller]
    fn prompt(&self, script: &str) -> String {
        self.server.prompt(&self.session, script)
    }

    #[track_caller]
    fn ask(&mut self, script: &str) -> String {
        let prompt = self.prompt(script);
        self.reader.answer(&prompt)
    }

    #[track_caller]
    fn required(&mut self) -> Event {
        self.reader.until_name("approval-required")
    }

    #[track_caller]
    fn decide(&self, asked: &Event, decision: &str, more: serde_json::Value) {
        self.server.decide(&self.session, asked, decision, more).expect(200);
    }

    fn file(&self, name: &str) -> String {
        self.server.scratch.join(&format!("root/{name}"))
    }

    /// The pid of the CLI: the one process among ours whose command line has our flags.
    #[track_caller]
    fn cli(&self) -> u32 {
        let agents = self.server.agents();
        let found = agents.iter().find(|(_, command)| command.contains("--permission-prompt-tool"));
        found.unwrap_or_else(|| panic!("no CLI in {agents:?}")).0
    }
}

#[test]
fn twenty_words_arrive_as_they_are_said() {
    let mut world = World::new(&[]);
    let words: Vec<String> = (1..=20).map(|n| format!("word{n}")).collect();
    assert_eq!(world.ask("say 20 words").trim(), words.join(" "));
    assert_eq!(world.ask("say: a second turn").trim(), "a second turn");
    let end = world.reader.seen.iter().rev().find(|e| e.name == "prompt-completed").unwrap();
    assert_eq!(end.text("result").trim(), "a second turn", "{}", end.data);
    assert!(end.data["totalCostUsd"].as_f64() > Some(0.0), "{}", end.data);
    // Words come while the turn runs, not at its end.
    let prompt = world.prompt("slow 12 100");
    let first = world.reader.until_name("session-output");
    let start = Instant::now();
    world.reader.turn_end(&prompt);
    assert!(start.elapsed() > Duration::from_millis(300), "{:?} {}", start.elapsed(), first.data);
    assert_eq!(world.server.agents().len(), 1, "one process for all turns");
}

#[test]
fn the_seeds_ls_runs_and_its_output_is_told() {
    let mut world = World::new(&[]);
    std::fs::write(world.file("seen.txt"), "x").unwrap();
    let prompt = world.prompt("run tool: ls -la ;; say: listed");
    assert!(world.reader.answer(&prompt).contains("listed"));
    assert!(world.reader.story().contains("seen.txt"), "{}", world.reader.story());
}

#[test]
fn a_tool_that_is_allowed_runs_and_one_that_is_denied_does_not() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("run tool: touch allowed ;; say: ok");
    let asked = world.required();
    assert_eq!(asked.data["tool"], "Bash", "{}", asked.data);
    assert_eq!(asked.data["input"]["command"], "touch allowed", "{}", asked.data);
    assert!(!Path::new(&world.file("allowed")).exists(), "not before it is allowed");
    world.decide(&asked, "allow", json!({}));
    assert!(world.reader.answer(&prompt).contains("ok"));
    assert!(Path::new(&world.file("allowed")).exists());

    let prompt = world.prompt("run tool: touch denied ;; say: understood");
    let asked = world.required();
    world.decide(&asked, "deny", json!({"message": "the human said no"}));
    assert!(world.reader.answer(&prompt).contains("understood"));
    assert!(!Path::new(&world.file("denied")).exists());
    assert!(world.api.log().contains("the human said no"), "the model was told why");
}

#[test]
fn a_changed_input_is_the_one_that_runs() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("run tool: touch as-asked ;; say: ok");
    let asked = world.required();
    let mut input = asked.data["input"].clone();
    input["command"] = json!("touch as-changed");
    world.decide(&asked, "allow", json!({"updatedInput": input}));
    world.reader.answer(&prompt);
    assert!(Path::new(&world.file("as-changed")).exists());
    assert!(!Path::new(&world.file("as-asked")).exists());
}

#[test]
fn three_approvals_open_at_once_are_answered_out_of_order() {
    let mut world = World::new(&[]);
    // Commands that only read, outside the working directory: the CLI asks for all of them at once.
    let outside = world.server.scratch.directory("home/outside");
    for name in ["a", "b", "c"] {
        std::fs::write(format!("{outside}/{name}"), format!("content of {name}\n")).unwrap();
    }
    let prompt = world
        .prompt(&format!("runs: cat {outside}/a || cat {outside}/b || cat {outside}/c ;; say: ok"));
    let asked = [world.required(), world.required(), world.required()];
    let of = |name: &str| {
        let path = format!("{outside}/{name}");
        asked.iter().find(|event| event.data["input"].to_string().contains(&path)).unwrap()
    };
    world.decide(of("c"), "allow", json!({}));
    world.decide(of("a"), "deny", json!({"message": "not a"}));
    world.decide(of("b"), "allow", json!({}));
    assert!(world.reader.answer(&prompt).contains("ok"));
    let log = world.api.log();
    assert!(log.contains("content of b") && log.contains("content of c"), "{log}");
    assert!(log.contains("not a") && !log.contains("content of a"), "{log}");
}

#[test]
fn an_interrupt_in_mid_text_ends_the_turn_and_keeps_the_conversation() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("slow 200 100");
    world.reader.until_name("session-output");
    let cli = world.cli();
    world.server.interrupt(&world.session);
    let end = world.reader.turn_end(&prompt);
    assert_eq!(end.name, "prompt-completed", "{}", end.data);
    assert_eq!((&end.data["interrupted"], &end.data["isError"]), (&json!(true), &json!(false)));
    assert_eq!(world.ask("say: after").trim(), "after");
    assert_eq!(world.cli(), cli, "the same process");
}

#[test]
fn an_interrupt_in_mid_bash_ends_the_command() {
    let mut world = World::new(&[]);
    let pid_file = world.file("pid");
    let sleeper = "import os, time\nopen('pid', 'w').write(str(os.getpid()))\ntime.sleep(300)\n";
    std::fs::write(world.file("sleeper.py"), sleeper).unwrap();
    let prompt = world.prompt("run tool: python3 sleeper.py ;; say: never");
    let asked = world.required();
    world.decide(&asked, "allow", json!({}));
    let pid = support::pid_from(&pid_file);
    world.server.interrupt(&world.session);
    let end = world.reader.turn_end(&prompt);
    assert_eq!(end.data["interrupted"], true, "{}", end.data);
    eventually("the command is gone", || !is_alive(pid));
    assert_eq!(world.ask("say: after").trim(), "after");
}

#[test]
fn a_prompt_sent_in_mid_turn_runs_afterwards_and_once() {
    let mut world = World::new(&[]);
    let first = world.prompt("slow 20 50");
    world.reader.until_name("session-output");
    let second = world.prompt("say: the second");
    let third = world.prompt("say: the third");
    assert!(world.reader.answer(&first).contains("word20"));
    assert_eq!(world.reader.answer(&second).trim(), "the second");
    assert_eq!(world.reader.answer(&third).trim(), "the third");
    let requests = world.api.log();
    let count = |text: &str| {
        let mark = format!("\"prompt\": \"{text}\"");
        requests.lines().filter(|line| line.contains(&mark)).count()
    };
    assert_eq!((count("say: the second"), count("say: the third")), (1, 1), "{requests}");
}

#[test]
fn a_wrong_key_is_told_as_what_it_is() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("error 401");
    let end = world.reader.turn_end(&prompt);
    assert!(end.name == "prompt-failed" || end.data["isError"] == true, "{}", end.data);
    let story = world.reader.story();
    assert!(story.contains("401") || story.contains("authentication"), "{story}");
    assert_eq!(world.ask("say: usable").trim(), "usable");
}

#[test]
fn too_many_requests_are_waited_out_and_told() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("error 429 x1 ;; say: through");
    world.reader.answer(&prompt);
    let retry = world.reader.seen.iter().find(|event| event.name == "agent-retry");
    let retry = retry.unwrap_or_else(|| panic!("no agent-retry: {}", world.reader.story()));
    assert_eq!(retry.data["attempt"], 1, "{}", retry.data);
    assert!(retry.data["delayMs"].as_u64() > Some(0), "{}", retry.data);
}

#[test]
fn an_overloaded_api_is_told_as_an_error_not_as_success() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("error 529");
    let end = world.reader.turn_end(&prompt);
    assert!(end.name == "prompt-failed" || end.data["isError"] == true, "{}", end.data);
    assert!(end.data.to_string().contains("529"), "{}", end.data);
    assert!(world.reader.count("agent-retry") >= 1, "{}", world.reader.story());
    assert_eq!(world.ask("say: usable").trim(), "usable");
}

#[test]
fn a_refused_connection_is_told() {
    let _place = Place::take();
    // A port that was free a moment ago: nobody listens there.
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let server = options_for(&format!("http://127.0.0.1:{port}")).start();
    let session = server.create();
    let mut reader = server.stream(&session);
    let prompt = server.prompt(&session, "say: hello");
    let end = reader.turn_end(&prompt);
    assert!(end.name == "prompt-failed" || end.data["isError"] == true, "{}", end.data);
    let text = end.data.to_string().to_lowercase();
    assert!(text.contains("refused") || text.contains("connect"), "{}", end.data);
}

#[test]
fn no_login_is_told_at_once() {
    let _place = Place::take();
    let api = Api::start();
    let server = api.options().without("ANTHROPIC_API_KEY").start();
    let session = server.create();
    let mut reader = server.stream(&session);
    let start = Instant::now();
    let prompt = server.prompt(&session, "say: hello");
    let end = reader.turn_end(&prompt);
    assert_eq!(end.name, "prompt-failed", "{}", end.data);
    assert_eq!(end.text("code"), "agent_not_logged_in", "{}", end.data);
    assert!(start.elapsed() < Duration::from_secs(20), "{:?}", start.elapsed());
}

#[test]
fn ten_megabytes_arrive_whole() {
    let mut world = World::new(&["--ring-size", "32MiB"]);
    let size = 10_000_000;
    let text = world.ask(&format!("big {size}"));
    assert_eq!(text.len(), size);
    let mut expected = "0123456789abcdef".repeat(size / 16 + 1);
    expected.truncate(size);
    assert!(text == expected, "the bytes are as they were sent");
    assert_eq!(world.ask("say: and on").trim(), "and on");
}

#[test]
fn two_thousand_deltas_arrive_in_order() {
    let mut world = World::new(&[]);
    assert_eq!(world.ask("deltas 2000"), "x ".repeat(2000));
}

#[test]
fn characters_of_many_bytes_arrive_whole() {
    let mut world = World::new(&[]);
    let text = world.ask("utf8 400");
    assert!(!text.contains('\u{fffd}'), "no replacement characters");
    for part in ["\u{1F600}", "\u{65e5}\u{672c}\u{8a9e}", "e\u{301}", "\u{df}", "\u{2028}", "\"\\"]
    {
        assert_eq!(text.matches(part).count(), 50, "{part:?}");
    }
}

#[test]
fn a_killed_cli_is_told_and_the_next_prompt_resumes_the_conversation() {
    let mut world = World::new(&[]);
    world.ask("say: remember this");
    let prompt = world.prompt("slow 200 100");
    world.reader.until_name("session-output");
    let cli = world.cli();
    support::signal(cli, "KILL");
    let end = world.reader.turn_end(&prompt);
    assert_eq!(end.name, "prompt-failed", "{}", end.data);
    assert_eq!(end.text("code"), "agent_exited", "{}", end.data);
    if world.reader.count("session-error") == 0 {
        world.reader.until_name("session-error");
    }
    assert_eq!(world.ask("say: resumed").trim(), "resumed");
    assert_ne!(world.cli(), cli);
    // The API saw the whole conversation again: more messages than this one prompt has.
    let log = world.api.log();
    let last =
        log.lines().rev().find(|line| line.contains("\"prompt\": \"say: resumed\"")).unwrap();
    let last: serde_json::Value = serde_json::from_str(last).unwrap();
    let assistants =
        last["roles"].as_array().unwrap().iter().filter(|role| **role == "assistant").count();
    assert!(assistants >= 1, "{last}");
}

#[test]
fn a_stop_in_mid_turn_leaves_no_process() {
    let mut world = World::new(&[]);
    world.prompt("slow 200 100");
    world.reader.until_name("session-output");
    let start = Instant::now();
    assert!(world.server.stop().success());
    assert!(start.elapsed() < PATIENCE);
}

#[test]
fn a_command_that_escaped_dies_with_its_session() {
    let mut world = World::new(&[]);
    let pid_file = world.file("pid");
    let escape = "import os, time\nif os.fork() == 0:\n    os.setsid()\n    \
                  open('pid', 'w').write(str(os.getpid()))\n    \
                  [os.close(n) for n in (0, 1, 2)]\n    time.sleep(300)\n";
    std::fs::write(world.file("escape.py"), escape).unwrap();
    let prompt = world.prompt("run tool: python3 escape.py ;; say: left");
    let asked = world.required();
    world.decide(&asked, "allow", json!({}));
    let pid = support::pid_from(&pid_file);
    world.reader.turn_end(&prompt);
    world.server.close(&world.session);
    eventually("the escaped command is gone", || !is_alive(pid));
}

#[test]
fn thinking_is_told_apart_from_words() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("think: a quiet thought");
    assert_eq!(world.reader.answer(&prompt).trim(), "Thought.");
    assert_eq!(world.reader.output(&prompt, "thinking").trim(), "a quiet thought");
}

#[test]
fn a_subagents_words_are_not_taken_for_the_answer() {
    let mut world = World::new(&[]);
    let prompt = world.prompt("agent: say: from below ;; say: from above");
    let text = world.reader.answer(&prompt);
    assert!(text.contains("from above") && !text.contains("from below"), "{text}");
}
