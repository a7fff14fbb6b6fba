//! A real Chromium, driven by a script of `tests/browser`.

use super::{Scratch, need};
use std::path::Path;
use std::process::{Command, Stdio};

/// Runs `tests/browser/SCRIPT` with these arguments, the browser's path among them, in a clean
/// environment with a home of its own, and returns what it printed. It must end well.
#[track_caller]
pub fn run<S: AsRef<str>>(script: &str, arguments: &[S]) -> String {
    need("node");
    let chromium = std::env::var("CHROMIUM").unwrap_or_else(|_| "/usr/bin/chromium".into());
    need(&chromium);
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/browser");
    for package in ["playwright-core", "axe-core", "typescript"] {
        let there = Path::new(&format!("{folder}/node_modules/{package}")).exists();
        assert!(there, "{package} is missing: run scripts/setup-tests.sh");
    }
    let scratch = Scratch::new();
    let output = Command::new("node")
        .arg(format!("{folder}/{script}"))
        .args(["--chromium", &chromium])
        .args(arguments.iter().map(AsRef::as_ref))
        .env_clear()
        .env("PATH", std::env::var("PATH").expect("PATH is set"))
        .env("HOME", scratch.directory("home"))
        .stdin(Stdio::null())
        .output()
        .expect("node runs");
    let told = String::from_utf8_lossy(&output.stdout);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{script}: {}\n{told}\n{errors}", output.status);
    told.into_owned()
}
