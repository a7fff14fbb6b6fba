//! The API with the real Claude Code CLI behind it, against the fake Messages API on loopback:
//! what a front end is promised must hold for the agent that its users have.
//!
//! One server per test; few of them run at a time, since the CLI is large.

mod support;

use serde_json::{Value, json};
use std::path::Path;
use support::claude::Place;
use support::{Api, Event, Reader, Screen, Server, eventually};

/// All that one test has. The server goes first, then its API, then the place.
struct World {
    server: Server,
    api: Api,
    session: String,
    reader: Reader,
    _place: Place,
}

impl World {
    /// With one session, made as `body` says.
    #[track_caller]
    fn new(body: Value) -> World {
        World::with(&["--delta-hold", "0"], body)
    }

    #[track_caller]
    fn with(flags: &[&str], body: Value) -> World {
        let place = Place::take();
        let api = Api::start_with(&["--full"]);
        let server = api.serve(flags);
        let created = server.create_as(body);
        let session = created["sessionId"].as_str().unwrap().to_owned();
        let mut reader = server.stream(&session);
        reader.joined();
        World { server, api, session, reader, _place: place }
    }

    fn path(&self, tail: &str) -> String {
        format!("/api/session/{}{tail}", self.session)
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

    /// The next request for a human's word.
    #[track_caller]
    fn required(&mut self) -> Event {
        self.reader.until_name("approval-required")
    }

    #[track_caller]
    fn decide(&self, asked: &Event, decision: &str, more: Value) {
        self.server.decide(&self.session, asked, decision, more).expect(200);
    }

    /// What is known of the session.
    #[track_caller]
    fn told(&self) -> Value {
        self.server.told(&self.path(""))["session"].clone()
    }

    #[track_caller]
    fn patch(&self, change: Value) -> Value {
        self.server.json("PATCH", &self.path(""), &[], &change).expect(200).json()["session"]
            .clone()
    }

    fn file(&self, name: &str) -> String {
        self.server.scratch.join(&format!("root/{name}"))
    }

    fn has_file(&self, name: &str) -> bool {
        Path::new(&self.file(name)).exists()
    }

    /// Kills the CLI while it is idle, and waits until that is known.
    #[track_caller]
    fn kill_cli(&mut self) {
        let cli = self.server.agents()[0].0;
        support::signal(cli, "KILL");
        self.reader.until("its end", |event| {
            event.name == "session-status"
                && ["failed", "suspended"].contains(&event.text("status"))
        });
    }

    /// The bodies of the requests that the model has had, oldest first.
    fn requests(&self) -> Vec<Value> {
        let log = self.api.log();
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter(|line| line["kind"] == "body").map(|line| line["body"].clone()).collect()
    }

    /// The newest request whose last prompt is this script.
    #[track_caller]
    fn request_for(&self, script: &str) -> Value {
        let requests = self.requests();
        let found = requests.iter().rev().find(|body| {
            let messages = body["messages"].as_array();
            let last = messages.and_then(|list| list.iter().rev().find(|m| m["role"] == "user"));
            last.is_some_and(|message| message.to_string().contains(script))
        });
        found.unwrap_or_else(|| panic!("the model was never asked {script:?}")).clone()
    }

    /// Waits until the session is idle, and draws all of it.
    #[track_caller]
    fn drawn(&mut self) -> Screen {
        let mut last = String::new();
        eventually("quiet", || {
            let told = self.server.told(&self.path(""));
            let before = std::mem::replace(&mut last, told["lastEventId"].as_str().unwrap().into());
            told["session"]["status"] == "idle" && before == last
        });
        if self.reader.last_id.as_deref() != Some(&*last) {
            self.reader.until("the last event", |event| event.id.as_deref() == Some(&*last));
        }
        let mut live = Screen::new(true);
        for event in self.reader.seen.iter().filter(|event| event.is_logged()) {
            live.draw(&self.server, &event.name, &event.data);
        }
        // A client that comes now, and one that reads the history, draw the same.
        let mut fresh = self.server.stream_with(&self.session, "?replay=all&view=compact", &[]);
        fresh.joined();
        let mut late = Screen::compact(true);
        for event in fresh.seen.iter().filter(|event| event.is_logged()) {
            late.draw(&self.server, &event.name, &event.data);
        }
        assert_eq!(late.picture(), live.picture(), "the compact view");
        let page = self.server.told(&self.path("/history?limit=1000"));
        let mut past = Screen::new(true);
        for event in page["events"].as_array().unwrap() {
            past.draw(&self.server, event["event"].as_str().unwrap(), &event["data"]);
        }
        assert_eq!(past.picture(), live.picture(), "the history");
        live
    }
}

#[test]
fn a_question_is_answered_and_answers_that_fit_none_are_refused() {
    let mut world = World::new(json!({}));
    let prompt = world.prompt("ask: Which color? Red | Blue ;; say: noted");
    let asked = world.required();
    assert_eq!((asked.text("kind"), asked.text("tool")), ("question", "AskUserQuestion"));
    assert_eq!(asked.data["input"]["questions"][0]["question"], "Which color?", "{}", asked.data);
    for (more, code) in [
        (json!({}), "answers_required"),
        (json!({"answers": {"Which day?": "Blue"}}), "answers_do_not_fit"),
        (json!({"answers": {}}), "answers_do_not_fit"),
        (json!({"answers": {"Which color?": 7}}), "answers_do_not_fit"),
        (json!({"answers": "Blue"}), "answers_do_not_fit"),
    ] {
        let answer = world.server.decide(&world.session, &asked, "allow", more.clone());
        let (sentence, told) = answer.expect_error(400);
        assert_eq!(told, code, "{more}: {sentence}");
    }
    assert_eq!(world.told()["openApprovals"], 1, "nothing was decided");
    world.decide(&asked, "allow", json!({"answers": {"Which color?": "Blue"}}));
    assert!(world.reader.answer(&prompt).contains("noted"));
    let log = world.api.log();
    assert!(log.contains("Which color?") && log.contains("=\\\\\\\"Blue\\\\\\\""), "{log}");
    // Declined, the turn goes on.
    let prompt = world.prompt("ask: Which size? Big | Small ;; say: never mind");
    let asked = world.required();
    world.decide(&asked, "deny", json!({"message": "none of your business"}));
    assert!(world.reader.answer(&prompt).contains("never mind"));
    assert!(world.api.log().contains("none of your business"));
    world.drawn().expect_all_ended();
}

#[test]
fn a_plan_is_refused_with_words_and_then_approved() {
    let mut world = World::new(json!({"mode": "plan"}));
    let prompt = world.prompt("plan: burn it all down ;; say: back to the board");
    let asked = world.required();
    assert_eq!(asked.text("kind"), "plan", "{}", asked.data);
    // The plan itself stands in the tool call; the CLI asks about an empty input.
    let call = |event: &&Event| {
        event.name == "tool-started" && event.data["toolUseId"] == asked.data["toolUseId"]
    };
    let call = world.reader.seen.iter().find(call).expect("its tool call");
    assert!(call.data["input"].to_string().contains("burn it all down"), "{}", call.data);
    world.decide(&asked, "deny", json!({"message": "keep the house"}));
    assert!(world.reader.answer(&prompt).contains("back to the board"));
    assert!(world.api.log().contains("keep the house"));
    assert_eq!(world.told()["mode"], "plan");
    let prompt = world.prompt("plan: paint the house ;; say: painting");
    let asked = world.required();
    world.decide(&asked, "allow", json!({}));
    assert!(world.reader.answer(&prompt).contains("painting"));
    assert_ne!(world.told()["mode"], "plan", "an approved plan ends the mode");
    world.drawn().expect_all_ended();
}

#[test]
fn the_mode_is_switched_before_the_agent_while_it_is_idle_and_while_it_runs() {
    let mut world = World::new(json!({}));
    let write = |name: &str| format!("write: {} :: text ;; say: written", world.file(name));
    let (first, second, third) = (write("first"), write("second"), write("third"));
    // Before there is an agent.
    assert_eq!(world.patch(json!({"mode": "acceptEdits"}))["mode"], "acceptEdits");
    assert!(world.ask(&first).contains("written") && world.has_file("first"));
    assert_eq!(world.reader.count("approval-required"), 0);
    // While it is idle: back to asking.
    assert_eq!(world.patch(json!({"mode": "default"}))["mode"], "default");
    let prompt = world.prompt(&second);
    let asked = world.required();
    assert_eq!(asked.data["tool"], "Write", "{}", asked.data);
    assert!(!world.has_file("second"));
    world.decide(&asked, "allow", json!({}));
    assert!(world.reader.answer(&prompt).contains("written") && world.has_file("second"));
    // While a turn runs: its first tool asks, its second need not any more.
    let prompt = world.prompt(&format!("run tool: touch by-hand ;; {third}"));
    let asked = world.required();
    assert_eq!(world.patch(json!({"mode": "acceptEdits"}))["mode"], "acceptEdits");
    world.decide(&asked, "allow", json!({}));
    assert!(world.reader.answer(&prompt).contains("written") && world.has_file("third"));
    assert_eq!(world.reader.count("approval-required"), 2, "{}", world.reader.story());
    assert_eq!(world.told()["mode"], "acceptEdits");
    assert_eq!(world.reader.count("session-error"), 0, "{}", world.reader.story());
}

#[test]
fn the_model_is_switched_while_idle_and_before_the_next_start() {
    let mut world = World::new(json!({"model": "claude-model-one"}));
    world.ask("say: one");
    assert_eq!(world.request_for("say: one")["model"], "claude-model-one");
    assert_eq!(world.patch(json!({"model": "claude-model-two"}))["model"], "claude-model-two");
    world.ask("say: two");
    assert_eq!(world.request_for("say: two")["model"], "claude-model-two");
    // Kept for the agent that comes after this one.
    world.kill_cli();
    world.ask("say: three");
    assert_eq!(world.request_for("say: three")["model"], "claude-model-two");
    assert_eq!(world.server.told(&world.path("/context"))["model"], "claude-model-two");
}

#[test]
fn a_fork_knows_what_its_parent_knew_and_goes_its_own_way() {
    let mut world = World::new(json!({}));
    world.ask("say: the parent said this");
    let forked =
        world.server.post(&world.path("/fork"), json!({"name": "child"})).expect(201).json();
    let child = forked["sessionId"].as_str().unwrap().to_owned();
    // What is said from here on is not the child's business, though it has not begun.
    world.ask("say: too late for the child");
    let mut reader = world.server.stream(&child);
    reader.joined();
    let prompt = world.server.prompt(&child, "say: the child said that");
    assert!(reader.answer(&prompt).contains("the child said that"));
    let request = world.request_for("say: the child said that").to_string();
    assert!(request.contains("the parent said this"), "the child knows its parent's words");
    assert!(!request.contains("too late for the child"), "as they were when it was made");
    world.ask("say: the parent goes on");
    let request = world.request_for("say: the parent goes on").to_string();
    assert!(!request.contains("the child said that"), "the parent knows nothing of its child");
    let prompt = world.server.prompt(&child, "say: and the child too");
    reader.answer(&prompt);
    let request = world.request_for("say: and the child too").to_string();
    assert!(request.contains("the child said that") && !request.contains("the parent goes on"));
    let conversation = |session: &str| {
        let told = world.server.told(&format!("/api/session/{session}"));
        told["session"]["conversation"].as_str().unwrap().to_owned()
    };
    assert_ne!(conversation(&child), conversation(&world.session));
}

#[test]
fn a_fork_of_a_conversation_that_is_gone_fails_and_begins_no_other() {
    let mut world = World::new(json!({}));
    world.ask("say: the parent said this");
    let forked = world.server.post(&world.path("/fork"), json!({})).expect(201).json();
    let child = forked["sessionId"].as_str().unwrap().to_owned();
    let conversation = world.told()["conversation"].as_str().unwrap().to_owned();
    world.server.close(&world.session);
    let projects = world.server.scratch.join("home/.claude/projects");
    let mut removed = 0;
    for project in std::fs::read_dir(projects).unwrap() {
        let transcript = project.unwrap().path().join(format!("{conversation}.jsonl"));
        removed += usize::from(std::fs::remove_file(transcript).is_ok());
    }
    assert_eq!(removed, 1);
    let mut reader = world.server.stream(&child);
    for words in ["say: one", "say: two"] {
        let prompt = world.server.prompt(&child, words);
        let end = reader.turn_end(&prompt);
        assert_eq!(end.name, "prompt-failed", "{}", end.data);
        assert_eq!(end.data["code"], "conversation_not_found", "{}", end.data);
        assert!(end.text("error").contains("No conversation found"), "{}", end.data);
    }
    assert!(!world.api.log().contains("say: two"), "the model heard nothing");
}

#[test]
fn a_conversation_is_adopted_by_another_session() {
    let mut world = World::new(json!({}));
    world.ask("say: said in the first session");
    let conversation = world.told()["conversation"].clone();
    let body = json!({"workingDir": world.server.root(), "conversation": conversation});
    let (_, code) = world.server.post("/api/sessions", body.clone()).expect_error(409);
    assert_eq!(code, "conversation_held");
    world.server.close(&world.session);
    let adopted = world.server.post("/api/sessions", body).expect(201).json();
    let session = adopted["sessionId"].as_str().unwrap();
    let mut reader = world.server.stream(session);
    reader.joined();
    let prompt = world.server.prompt(session, "say: said in the second");
    reader.answer(&prompt);
    let request = world.request_for("say: said in the second").to_string();
    assert!(request.contains("said in the first session"), "{request}");
    let told = world.server.told(&format!("/api/session/{session}"));
    assert_eq!(told["session"]["conversation"], conversation);
}

#[test]
fn a_conversation_that_does_not_exist_is_not_adopted_and_none_is_begun() {
    let world = World::new(json!({}));
    let conversation = "6f3a9c21-0000-4000-8000-178100000107";
    let body = json!({"workingDir": world.server.root(), "conversation": conversation});
    let adopted = world.server.post("/api/sessions", body).expect(201).json();
    let session = adopted["sessionId"].as_str().unwrap();
    let mut reader = world.server.stream(session);
    reader.joined();
    for words in ["say: one", "say: two"] {
        let prompt = world.server.prompt(session, words);
        let end = reader.turn_end(&prompt);
        assert_eq!((&*end.name, end.text("code")), ("prompt-failed", "conversation_not_found"));
    }
    assert!(!world.api.log().contains("say: "), "the model heard nothing");
}

#[test]
fn an_image_reaches_the_model() {
    // One red pixel.
    const PIXEL: &str = "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mP8z8BQDwAEhQGAhKmMIQAAAABJRU5ErkJggg==";
    let mut world = World::new(json!({}));
    let body = json!({
        "command": "say: I see",
        "images": [{"mediaType": "image/png", "data": PIXEL}],
    });
    let answer = world.server.post(&world.path("/prompt"), body).expect(202).json();
    let said = world.reader.answer(answer["promptId"].as_str().unwrap());
    assert!(said.contains("I see"), "{said}: {}", world.request_for("say: I see"));
    let request = world.request_for("say: I see").to_string();
    assert!(request.contains("\"image\"") && request.contains("image/png"), "{request}");
    let queued = world.reader.seen.iter().find(|event| event.name == "prompt-queued").unwrap();
    let href = queued.data["images"][0]["href"].as_str().expect("an href");
    let image = world.server.get(href).expect(200);
    assert_eq!(image.header("content-type"), Some("image/png"));
    assert!(image.body.starts_with(b"\x89PNG"));
}

#[test]
fn a_cleared_conversation_is_another_one_in_the_same_session() {
    let mut world = World::new(json!({}));
    world.ask("say: before the clearing");
    let before = world.told()["conversation"].clone();
    world.ask("/clear");
    world.ask("say: after the clearing");
    let after = world.told()["conversation"].clone();
    assert_ne!(before, after, "the conversation's id has changed");
    let request = world.request_for("say: after the clearing").to_string();
    assert!(!request.contains("before the clearing"), "{request}");
    assert_eq!(world.told()["status"], "idle");
    // The new one is what a new process resumes.
    world.kill_cli();
    world.ask("say: in another process");
    let request = world.request_for("say: in another process").to_string();
    assert!(request.contains("after the clearing") && !request.contains("before the clearing"));
    assert_eq!(world.told()["conversation"], after);
}

#[test]
fn a_compacted_conversation_goes_on() {
    let mut world = World::new(json!({}));
    for n in 1..=3 {
        world.ask(&format!("say: number {n} of a long talk"));
    }
    let prompt = world.prompt("/compact");
    let end = world.reader.turn_end(&prompt);
    assert_eq!(
        (&*end.name, &end.data["isError"]),
        ("prompt-completed", &json!(false)),
        "{}",
        end.data
    );
    let told = |event: &Event| event.data["message"]["subtype"] == "compact_boundary";
    assert!(world.reader.seen.iter().any(told), "{}", world.reader.story());
    assert_eq!(world.ask("say: and on").trim(), "and on");
    world.drawn().expect_all_ended();
}

#[test]
fn a_background_command_that_ends_starts_a_turn_by_itself() {
    let mut world = World::new(json!({}));
    let waiter =
        "import os, time\nwhile not os.path.exists('go'): time.sleep(0.05)\nprint('went')\n";
    std::fs::write(world.file("waiter.py"), waiter).unwrap();
    let prompt = world.prompt("run bg: python3 waiter.py ;; say: it runs");
    let asked = world.required();
    world.decide(&asked, "allow", json!({}));
    assert!(world.reader.answer(&prompt).contains("it runs"));
    std::fs::write(world.file("go"), "").unwrap();
    let own = |event: &Event| event.data["promptId"].is_null() && event.data["turnId"].is_string();
    let started = world.reader.until("a turn of its own", |e| e.name == "prompt-started" && own(e));
    assert!(started.data["origin"].is_string(), "{}", started.data);
    let ended = world.reader.until("its end", |e| e.name == "prompt-completed" && own(e));
    assert_eq!(ended.data["turnId"], started.data["turnId"]);
    assert!(ended.data["origin"].is_string(), "{}", ended.data);
    assert_eq!(world.ask("say: and on").trim(), "and on");
    let screen = world.drawn();
    screen.expect_all_ended();
    assert_eq!(screen.items("own ").len(), 1);
}

#[test]
fn a_subagent_is_drawn_apart_from_what_called_it() {
    let mut world = World::new(json!({}));
    let prompt =
        world.prompt("agent: run tool: echo from-sub ;+ say: from below ;; say: from above");
    let answer = world.reader.answer(&prompt);
    assert!(answer.contains("from above") && !answer.contains("from below"), "{answer}");
    if world.reader.count("subagent-completed") == 0 {
        world.reader.until_name("subagent-completed");
    }
    let screen = world.drawn();
    screen.expect_all_ended();
    let agents = screen.items("subagent ");
    assert_eq!(agents.len(), 1, "{agents:?}");
    assert_eq!(agents[0]["outcome"], "ok", "{}", agents[0]);
    let parent = &agents[0]["toolUseId"];
    let tools = screen.items("tool ");
    let inner = tools.iter().find(|tool| tool["input"]["command"] == "echo from-sub");
    let inner = inner.unwrap_or_else(|| panic!("no tool of the subagent's: {tools:?}"));
    assert_eq!((&inner["parent"], &inner["outcome"]), (parent, &json!("ok")), "{inner}");
    let blocks = screen.items("block ");
    let below = blocks.iter().find(|block| block["text"].as_str().unwrap().trim() == "from below");
    assert_eq!(&below.expect("its words")["parent"], parent);
}

#[test]
fn a_stream_that_falls_back_leaves_one_answer() {
    let mut world = World::new(json!({}));
    for script in ["cut", "sse-error"] {
        let before = world.drawn().items("block ").len();
        let prompt = world.prompt(script);
        let end = world.reader.turn_end(&prompt);
        assert_eq!(end.name, "prompt-completed", "{}", end.data);
        let own = |event: &&Event| event.text("promptId") == prompt;
        let deltas: Vec<&Event> = world
            .reader
            .seen
            .iter()
            .filter(own)
            .filter(|event| event.name == "session-output")
            .collect();
        let blocks: Vec<&Event> =
            world.reader.seen.iter().filter(own).filter(|e| e.name == "message-block").collect();
        assert_eq!(blocks.len(), 1, "{script}: {}", world.reader.story());
        if !deltas.is_empty() {
            let replaces = blocks[0].data["replaces"].as_array();
            let replaces = replaces.unwrap_or_else(|| panic!("{script}: {}", blocks[0].data));
            assert_eq!(replaces[0], deltas[0].data["messageId"], "{script}");
        }
        let text = blocks[0].text("text").to_owned();
        assert_eq!(text.trim(), "word1 word2 word3 word4 word5", "{script}");
        let screen = world.drawn();
        screen.expect_all_ended();
        assert_eq!(screen.items("block ").len(), before + 1, "{script}: one answer is shown");
    }
}

/// A directory that makes the CLI run things by itself, and the files that show whether it did.
fn hooked(server: &Server, name: &str) -> String {
    let directory = server.scratch.directory(&format!("root/{name}"));
    server.scratch.directory(&format!("root/{name}/.claude"));
    let hook = |event: &str| {
        json!([{"hooks": [{"type": "command", "command":
        format!("touch {directory}/ran-{event}")}]}])
    };
    let settings = json!({
        "hooks": {"SessionStart": hook("SessionStart"), "UserPromptSubmit": hook("UserPromptSubmit"),
            "Stop": hook("Stop")},
        "env": {"FROM_THE_REPOSITORY": "1"},
    });
    std::fs::write(format!("{directory}/.claude/settings.json"), settings.to_string()).unwrap();
    let servers = json!({"mcpServers": {"evil": {"command": "/bin/sh",
        "args": ["-c", format!("touch {directory}/ran-mcp; cat > /dev/null")]}}});
    std::fs::write(format!("{directory}/.mcp.json"), servers.to_string()).unwrap();
    directory
}

/// The files that something of the repository's own has left.
fn ran(directory: &str) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap().flatten();
    let names = entries.map(|entry| entry.file_name().into_string().unwrap());
    let mut names: Vec<String> = names.filter(|name| name.starts_with("ran-")).collect();
    names.sort();
    names
}

#[test]
fn a_hooked_directory_runs_nothing_before_it_is_trusted_and_nothing_after_it_is_denied() {
    let world = World::new(json!({}));
    let (server, directory) = (&world.server, hooked(&world.server, "denied"));
    let session = server.create_in(&directory);
    let mut reader = server.stream(&session);
    reader.joined();
    let prompt = server.prompt(&session, "say: hello");
    let asked = reader.until_name("approval-required");
    assert_eq!(asked.text("kind"), "trust", "{}", asked.data);
    let input = asked.data["input"].to_string();
    for command in ["ran-SessionStart", "ran-UserPromptSubmit", "ran-mcp", "FROM_THE_REPOSITORY"] {
        assert!(input.contains(command), "{command} is not shown: {input}");
    }
    eventually("waiting", || server.status(&session) == "waiting");
    assert_eq!(ran(&directory), [""; 0], "nothing before");
    assert!(server.agents().is_empty(), "{:?}", server.agents());
    server.decide(&session, &asked, "deny", json!({})).expect(200);
    assert!(reader.answer(&prompt).contains("hello"), "the agent works without it");
    assert!(reader.story().contains("directory_not_trusted"), "{}", reader.story());
    let prompt = server.prompt(&session, "say: again");
    reader.answer(&prompt);
    server.close(&session);
    assert_eq!(ran(&directory), [""; 0], "nothing after");
}

#[test]
fn a_trusted_directory_runs_its_hooks_and_is_asked_about_again_when_they_change() {
    let world = World::new(json!({}));
    let (server, directory) = (&world.server, hooked(&world.server, "allowed"));
    let ask = |allow: bool| -> Vec<String> {
        let session = server.create_in(&directory);
        let mut reader = server.stream(&session);
        reader.joined();
        let prompt = server.prompt(&session, "say: hello");
        if allow {
            let asked = reader.until_name("approval-required");
            assert_eq!(asked.text("kind"), "trust", "{}", asked.data);
            server.decide(&session, &asked, "allow", json!({})).expect(200);
        }
        assert!(reader.answer(&prompt).contains("hello"));
        assert_eq!(reader.count("approval-required"), usize::from(allow), "{}", reader.story());
        server.close(&session);
        ran(&directory)
    };
    assert!(ask(true).contains(&"ran-UserPromptSubmit".to_owned()));
    ask(false);
    let path = format!("{directory}/.claude/settings.json");
    let settings = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, settings.replace("ran-Stop", "ran-other")).unwrap();
    let left = ask(true);
    assert!(left.contains(&"ran-other".to_owned()), "{left:?}");
}

#[test]
fn a_directory_that_allows_itself_tools_gets_none_without_a_human() {
    let world = World::new(json!({}));
    let server = &world.server;
    for (name, settings) in [
        ("rules", json!({"permissions": {"allow": ["Bash(touch:*)", "Bash"]}})),
        ("edits", json!({"permissions": {"defaultMode": "acceptEdits"}})),
        ("bypass", json!({"permissions": {"defaultMode": "bypassPermissions"}})),
    ] {
        let directory = server.scratch.directory(&format!("root/{name}"));
        server.scratch.directory(&format!("root/{name}/.claude"));
        std::fs::write(format!("{directory}/.claude/settings.json"), settings.to_string()).unwrap();
        let session = server.create_in(&directory);
        let mut reader = server.stream(&session);
        reader.joined();
        let prompt = server.prompt(&session, "run tool: touch unasked ;; say: done");
        let asked = reader.until_name("approval-required");
        assert_eq!(asked.text("kind"), "trust", "{name}: {}", asked.data);
        assert!(asked.data["input"].to_string().contains("permissions"), "{}", asked.data);
        server.decide(&session, &asked, "deny", json!({})).expect(200);
        // Without the directory's word the tool asks.
        let asked = reader.until_name("approval-required");
        assert_eq!(asked.text("kind"), "tool", "{name}: {}", asked.data);
        server.decide(&session, &asked, "deny", json!({})).expect(200);
        reader.turn_end(&prompt);
        assert!(!Path::new(&format!("{directory}/unasked")).exists(), "{name}: {}", reader.story());
    }
}
