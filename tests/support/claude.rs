//! The real Claude Code CLI, pinned, against a fake API on loopback: no account, no network, no
//! costs. `scripts/setup-tests.sh` installs the CLI into `tests/.tools`, which git ignores, since
//! its licence does not let us keep it.

use super::{Options, Scratch, Server, eventually, fixture};
use std::process::{Child, Command, Stdio};
use std::sync::{Condvar, Mutex};

/// Tests of one program with a CLI at one time: it takes 200 MB and half a second of CPU to start.
const AT_ONCE: u32 = 2;

static RUNNING: (Mutex<u32>, Condvar) = (Mutex::new(0), Condvar::new());

/// A place among the tests that run at one time.
pub struct Place;

impl Place {
    /// Waits for one.
    pub fn take() -> Place {
        let mut running = RUNNING.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        while *running >= AT_ONCE {
            running = RUNNING.1.wait(running).unwrap_or_else(|poisoned| poisoned.into_inner());
        }
        *running += 1;
        Place
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        *RUNNING.0.lock().unwrap_or_else(|poisoned| poisoned.into_inner()) -= 1;
        RUNNING.1.notify_one();
    }
}

/// Variables that keep the CLI from anything but its API; the agents' allow list lets them pass
/// only when asked.
const QUIET: [&str; 3] = ["DISABLE_TELEMETRY", "DISABLE_AUTOUPDATER", "DISABLE_ERROR_REPORTING"];

/// Where the CLI is. Panics with the cure if it is not there.
#[track_caller]
pub fn command() -> String {
    let platform = if cfg!(target_arch = "aarch64") { "linux-arm64" } else { "linux-x64" };
    let path = format!(
        "{}/tests/.tools/node_modules/@anthropic-ai/claude-code-{platform}/claude",
        env!("CARGO_MANIFEST_DIR")
    );
    assert!(std::path::Path::new(&path).exists(), "no Claude CLI: run scripts/setup-tests.sh");
    path
}

/// A fake Messages API, whose answers the prompt's text chooses (see `fixtures/fake_api.py`).
pub struct Api {
    child: Child,
    scratch: Scratch,
    /// Its port on 127.0.0.1.
    pub port: u16,
}

impl Api {
    /// Starts it and waits for its port.
    #[track_caller]
    pub fn start() -> Api {
        Api::start_with(&[])
    }

    /// The same, with more arguments: `--full` logs whole requests.
    #[track_caller]
    pub fn start_with(more: &[&str]) -> Api {
        super::need("python3");
        let scratch = Scratch::new();
        let (port_file, log) = (scratch.join("port"), scratch.join("requests.jsonl"));
        let child = Command::new("python3")
            .args([&fixture("fake_api.py"), "--port", "0", "--port-file", &port_file])
            .args(["--log", &log])
            .args(more)
            .env_clear()
            .env("PATH", std::env::var("PATH").expect("PATH is set"))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("python3 runs");
        let mut api = Api { child, scratch, port: 0 };
        eventually("the fake API tells its port", || {
            api.port = std::fs::read_to_string(&port_file)
                .ok()
                .and_then(|text| text.trim().parse().ok())
                .unwrap_or(0);
            api.port != 0
        });
        api
    }

    /// The requests it has had: one JSON object a line.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.scratch.join("requests.jsonl")).unwrap_or_default()
    }

    /// A server whose agent is the CLI and whose CLI knows only this API.
    pub fn options(&self) -> Options {
        options_for(&format!("http://127.0.0.1:{}", self.port))
    }

    /// Starts that server.
    #[track_caller]
    pub fn serve(&self, flags: &[&str]) -> Server {
        self.options().flags(flags).start()
    }
}

impl Drop for Api {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a CLI needs in its environment to know only the API at this URL, and to speak with nobody
/// else.
pub fn variables(url: &str) -> Vec<(&'static str, &str)> {
    let mut variables = vec![
        ("ANTHROPIC_BASE_URL", url),
        ("ANTHROPIC_API_KEY", "fake-key-for-loopback"),
        ("CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC", "1"),
        ("CLAUDE_CODE_MAX_RETRIES", "2"),
    ];
    variables.extend(QUIET.map(|name| (name, "1")));
    variables
}

/// A server whose agent is the CLI, with its API at this URL.
#[track_caller]
pub fn options_for(url: &str) -> Options {
    let agent = format!("claude:{}", command());
    let mut options = Options::new().flags(&["--agent", &agent]);
    for (name, value) in variables(url) {
        options = options.env(name, value);
    }
    for name in QUIET {
        options = options.flags(&["--agent-env", name]);
    }
    options
}
