//! The door in a real Chromium: what `tests/browser/door.mjs` tries from other origins, from a
//! rebound name and at the login page must come to what it says.

mod support;

use std::process::{Command, Stdio};
use support::{Options, Server, need};

#[test]
fn no_page_of_another_origin_reaches_anything_and_the_login_page_keeps_its_promises() {
    need("node");
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    need(&chromium);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");
    assert!(
        std::path::Path::new(&format!("{folder}/node_modules")).exists(),
        "this test needs the packages of tests/browser: run scripts/setup-tests.sh"
    );
    let open = Server::demo(&[]);
    let session = open.create();
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let made = Command::new(env!("CARGO_BIN_EXE_sidestream"))
        .args(["token", "add", "me", "full", "--token-file", &file])
        .env_clear()
        .output()
        .unwrap();
    let token = String::from_utf8(made.stdout).unwrap().lines().next().unwrap().to_owned();
    // Switches stand in the environment: a flag here takes a value.
    let guarded = options
        .flags(&["--agent", "demo", "--token-file", &file])
        .env("SIDESTREAM_READ_COOKIE", "1")
        .start();
    let url = |server: &Server| format!("http://127.0.0.1:{}", server.address.port());
    let output = Command::new("node")
        .arg(format!("{folder}/door.mjs"))
        .args(["--open", &url(&open), "--guarded", &url(&guarded), "--session", &session])
        .args(["--token", &token, "--working-dir", &open.root(), "--chromium", &chromium])
        .env_clear()
        .env("PATH", std::env::var("PATH").expect("PATH is set"))
        .env("HOME", open.scratch.directory("browser"))
        .stdin(Stdio::null())
        .output()
        .expect("node runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{told}\n{errors}", output.status);
    // Whatever was refused was seen and counted, by the reason for it.
    let page = open.get("/metrics").expect(200).text();
    for code in ["foreign_origin", "foreign_site", "foreign_host"] {
        let line = format!("sidestream_requests_refused_total{{code=\"{code}\"}} ");
        let at = page.find(&line).unwrap_or_else(|| panic!("{code}: {page}")) + line.len();
        assert!(!page[at..].starts_with('0'), "{code} was never met");
    }
    assert_eq!(open.get("/api/sessions").json()["sessions"].as_array().unwrap().len(), 2);
    assert!(!guarded.stderr().contains(&token) && !open.stderr().contains(&token));
    open.await_streams(0);
}
