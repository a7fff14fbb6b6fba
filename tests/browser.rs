//! The pages in a real Chromium: what `tests/browser/run.mjs` sees must hold.

mod support;

use std::process::{Command, Stdio};
use support::{Server, need};

#[test]
fn the_pages_and_the_client_library_work_in_a_real_browser() {
    need("node");
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    need(&chromium);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");
    assert!(
        std::path::Path::new(&format!("{folder}/node_modules")).exists(),
        "this test needs the packages of tests/browser: run scripts/setup-tests.sh"
    );
    let server = Server::demo(&[]);
    let output = Command::new("node")
        .arg(format!("{folder}/run.mjs"))
        .args(["--base-url", &format!("http://127.0.0.1:{}", server.address.port())])
        .args(["--working-dir", &server.root(), "--chromium", &chromium])
        .args(["--binary", env!("CARGO_BIN_EXE_sidestream")])
        .env_clear()
        .env("PATH", std::env::var("PATH").expect("PATH is set"))
        .env("HOME", server.scratch.directory("browser"))
        .stdin(Stdio::null())
        .output()
        .expect("node runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}\n{told}\n{errors}", output.status);
    server.await_streams(0);
}
