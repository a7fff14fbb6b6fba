//! The web client in a real Chromium: each suite of `tests/browser/page-run.mjs` against a server
//! that suits it. The client library by itself, and the test page, are `browser.rs`'s.

mod support;

use std::sync::Mutex;
use support::{Options, Server, browser};

/// One browser at a time: they are heavy, and the checks of one suite run one after the other.
static BROWSER: Mutex<()> = Mutex::new(());

/// Runs a suite; what it prints is shown where it fails.
#[track_caller]
fn suite(name: &str, server: &Server, url: &str, more: &[&str]) {
    let _turn = BROWSER.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let root = server.root();
    let ours = ["--suite", name, "--base-url", url, "--working-dir", &root];
    let binary = ["--binary", env!("CARGO_BIN_EXE_sidestream")];
    let told = browser::run("page-run.mjs", &[&ours, &binary[..], more].concat());
    if more.is_empty() {
        server.await_streams(0); // With tokens the metrics want one too.
    }
    println!("{told}");
}

fn url(server: &Server) -> String {
    format!("http://127.0.0.1:{}", server.address.port())
}

#[test]
fn the_frame_the_conversation_and_the_cards_work_with_the_demo_agent() {
    // A short replay, so that the past has to be loaded.
    let server = Server::demo(&["--replay-bytes", "16KiB"]);
    suite("demo", &server, &url(&server), &[]);
}

#[test]
fn tools_approvals_and_many_events_work_with_a_scripted_agent() {
    let server = Server::fake(&[]);
    suite("fake", &server, &url(&server), &[]);
}

#[test]
fn plain_output_is_shown_in_any_amount() {
    let server = Server::start(&["--agent", r#"lines:eval "$(cat)""#]);
    suite("lines", &server, &url(&server), &[]);
}

#[test]
fn no_text_of_an_agent_becomes_anything_but_text() {
    let server = Server::fake(&[]);
    suite("text", &server, &url(&server), &[]);
}

#[test]
fn the_pages_can_be_used_by_keyboard_and_pass_an_accessibility_check() {
    let server = Server::fake(&[]);
    suite("reach", &server, &url(&server), &[]);
}

#[test]
fn a_whole_conversation_works_with_the_real_agent() {
    let api = support::claude::Api::start();
    let server = api.serve(&[]);
    suite("claude", &server, &url(&server), &[]);
}

#[test]
fn everything_works_below_a_base_path() {
    let server = Server::demo(&["--base-path", "/claude"]);
    suite("base", &server, &format!("{}/claude", url(&server)), &[]);
}

#[test]
fn the_pages_work_with_a_token_and_say_what_it_does_not_reach() {
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let [full, read, answer] = [("desk", "full"), ("eye", "read"), ("phone", "answer")]
        .map(|(name, scope)| support::add_token(&file, name, scope));
    let server = options.flags(&["--agent", "demo", "--token-file", &file]).start();
    let tokens = ["--token", &full, "--read-token", &read, "--answer-token", &answer];
    suite("tokens", &server, &url(&server), &tokens);
}
