//! Sandboxes that hide who connects. One of the two ways to ask is enough; without both, and without
//! a token, there is no start.

mod support;

use std::process::{Child, Command, Stdio};
use support::{Options, eventually, fixture, need, request, signal};

/// What the sandbox takes away.
#[derive(Clone, Copy, PartialEq)]
enum Hidden {
    Netlink,
    Tables,
    Both,
}

/// The command, in such a sandbox.
fn inside(hidden: Hidden, command: &Command) -> Command {
    need("unshare");
    need("python3");
    let mut steps = String::new();
    if hidden != Hidden::Netlink {
        // The shell becomes the server: this is the server's own /proc/net.
        steps.push_str("mount -t tmpfs none /proc/$$/net; ");
    }
    steps.push_str(match hidden {
        Hidden::Tables => "exec \"$@\"",
        Hidden::Netlink | Hidden::Both => "exec python3 \"$BLIND\" \"$@\"",
    });
    let mut sandboxed = Command::new("unshare");
    sandboxed.arg("--mount");
    if !support::users::is_root() {
        sandboxed.arg("--map-root-user");
    }
    sandboxed.args(["sh", "-ec", &steps, "sh"]).arg(command.get_program()).args(command.get_args());
    sandboxed.env_clear().env("BLIND", fixture("blind.py"));
    sandboxed.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    sandboxed.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    sandboxed
}

/// A server in a sandbox, ended with the test.
struct Sandboxed(Child, String);

impl Sandboxed {
    #[track_caller]
    fn start(hidden: Hidden, options: &Options) -> Sandboxed {
        use std::io::{BufRead, BufReader};
        let mut child = inside(hidden, &options.command()).spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let address = lines.by_ref().find_map(|line| {
            line.strip_prefix("listening on ").map(|it| it.trim_start_matches("http://").to_owned())
        });
        let Some(address) = address else {
            let output = child.wait_with_output().unwrap();
            panic!("it does not start: {}", String::from_utf8_lossy(&output.stderr));
        };
        std::thread::spawn(move || lines.for_each(drop));
        Sandboxed(child, address)
    }
}

impl Drop for Sandboxed {
    fn drop(&mut self) {
        signal(self.0.id(), "TERM");
        let _ = self.0.wait();
    }
}

#[test]
fn without_both_ways_to_ask_there_is_no_start() {
    let options = Options::new().flags(&["--agent", "demo"]);
    let output = inside(Hidden::Both, &options.command()).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{told}");
    assert!(told.contains("the kernel does not say who connects over TCP"), "{told}");
    assert!(told.contains("--token-file") && told.contains("--listen unix:"), "{told}");
    assert_eq!(String::from_utf8_lossy(&output.stdout), "", "it listens nowhere");

    // The doctor says it before.
    let mut doctor = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    doctor.args(["doctor", "--agent", "demo", "--listen", "127.0.0.1:0"]);
    doctor.env_clear().env("HOME", options.scratch().join("home"));
    doctor.env("PATH", std::env::var("PATH").unwrap());
    let output = inside(Hidden::Both, &doctor).output().unwrap();
    let told = String::from_utf8_lossy(&output.stdout);
    assert!(told.contains("BAD   sock_diag: the kernel does not say who connects"), "{told}");
    assert_eq!(output.status.code(), Some(1), "{told}");
}

#[test]
fn either_way_to_ask_is_enough() {
    for hidden in [Hidden::Netlink, Hidden::Tables] {
        let options = Options::new().flags(&["--agent", "demo"]);
        let server = Sandboxed::start(hidden, &options);
        let address = server.1.parse().expect("an address");
        request(address, "GET", "/api/sessions", &[], b"").expect(200);
    }
}

#[test]
fn with_a_token_or_a_unix_socket_nobody_has_to_be_asked() {
    let options = Options::new();
    let file = options.scratch().join("tokens");
    let token = support::add_token(&file, "me", "read");
    let options = options.flags(&["--agent", "demo", "--token-file", &file]);
    let server = Sandboxed::start(Hidden::Both, &options);
    let address = server.1.parse().expect("an address");
    request(address, "GET", "/api/sessions", &[], b"").expect(401);
    let bearer = format!("Bearer {token}");
    request(address, "GET", "/api/sessions", &[("Authorization", &bearer)], b"").expect(200);
    drop(server);

    let options = Options::new();
    let socket = options.scratch().join("socket");
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    command.args(["serve", "--agent", "demo", "--listen", &format!("unix:{socket}")]);
    command.args(["--data-dir", &options.scratch().join("data")]);
    command.args(["--root", &options.scratch().join("root")]);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap());
    let mut child = inside(Hidden::Both, &command).spawn().unwrap();
    let ask = ["--unix-socket", &socket, "http://localhost/api/sessions"];
    eventually("it answers", || support::curl(&ask).0.contains("\"success\":true"));
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
}
