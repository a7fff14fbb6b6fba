//! What is given to people, as `make dist` left it in `dist/`: static, whole, and at home in a
//! root directory that holds nothing else.

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;

use serde_json::{Value, json};
use support::{PATIENCE, Reader, Scratch, eventually, need, request, signal};

/// The binary of a platform.
fn binary(platform: &str) -> PathBuf {
    let name = format!("sidestream-{}-{platform}", env!("CARGO_PKG_VERSION"));
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("dist").join(name);
    assert!(path.exists(), "this test needs {}: run `make dist`", path.display());
    path
}

fn repository(name: &str) -> String {
    let path = format!("{}/{name}", env!("CARGO_MANIFEST_DIR"));
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// What an ELF file says of itself: its machine, and the kinds of its program headers.
fn elf(bytes: &[u8]) -> (u16, Vec<u32>) {
    let word = |at: usize, size: usize| {
        bytes[at..at + size].iter().rev().fold(0u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    assert_eq!(&bytes[..6], b"\x7fELF\x02\x01", "64 bits, little end first");
    let (table, size, count) = (word(32, 8), word(54, 2), word(56, 2));
    let kinds = (0..count).map(|n| word((table + n * size) as usize, 4) as u32).collect();
    (word(18, 2) as u16, kinds)
}

#[test]
fn the_binaries_are_static_and_small() {
    const INTERPRETER: u32 = 3;
    const LOADED: u32 = 1;
    for (platform, machine) in [("x86_64", 62), ("aarch64", 183)] {
        let bytes = fs::read(binary(platform)).unwrap();
        let (found, kinds) = elf(&bytes);
        assert_eq!(found, machine, "{platform}");
        // Larger without the source of the standard library, which `make dist` then says.
        assert!(bytes.len() <= 3 << 19, "{platform}: {} bytes", bytes.len());
        assert!(kinds.contains(&LOADED), "{platform}: {kinds:?}");
        assert!(!kinds.contains(&INTERPRETER), "{platform} asks for a dynamic linker");
    }
}

#[test]
fn the_checksums_and_the_list_of_parts_are_right() {
    need("sha256sum");
    let dist = binary("x86_64").parent().unwrap().to_owned();
    let mut check = Command::new("sha256sum");
    check.args(["--check", "--strict", "SHA256SUMS"]).current_dir(&dist);
    let output = check.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stdout).unwrap();
    assert_eq!(told.lines().count(), fs::read_dir(&dist).unwrap().count() - 1, "{told}");

    let name = format!("sidestream-{}.cdx.json", env!("CARGO_PKG_VERSION"));
    let parts: Value = serde_json::from_slice(&fs::read(dist.join(name)).unwrap()).unwrap();
    assert_eq!(parts["bomFormat"], "CycloneDX");
    assert_eq!(parts["metadata"]["component"]["version"], env!("CARGO_PKG_VERSION"));
    let names: Vec<&str> = parts["components"]
        .as_array()
        .unwrap()
        .iter()
        .map(|part| {
            assert_eq!(part["hashes"][0]["content"].as_str().map(str::len), Some(64), "{part}");
            assert!(part["licenses"][0]["expression"].is_string(), "{part}");
            part["name"].as_str().unwrap()
        })
        .collect();
    for linked in ["httparse", "mio", "serde_json", "slab", "libc"] {
        assert!(names.contains(&linked), "{linked} is linked in, and not in {names:?}");
    }
    for not_linked in ["syn", "serde_derive", "criterion"] {
        assert!(!names.contains(&not_linked), "{not_linked} is not linked in");
    }
}

/// A server that a test started by another way than the usual, ended with the test.
struct Started {
    child: Child,
    address: SocketAddr,
}

impl Started {
    #[track_caller]
    fn new(mut command: Command) -> Started {
        command.env_clear().env("PATH", std::env::var("PATH").expect("PATH is set"));
        command.stdin(Stdio::null()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"));
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let (told, listening) = mpsc::channel();
        std::thread::spawn(move || {
            for line in stdout.lines().map_while(Result::ok) {
                if let Some(address) = line.strip_prefix("listening on http://") {
                    let _ = told.send(address.to_owned());
                }
            }
        });
        let Ok(address) = listening.recv_timeout(PATIENCE) else {
            let _ = child.kill();
            panic!("{command:?} does not listen: {:?}", child.wait());
        };
        Started { child, address: address.parse().expect("an address") }
    }

    #[track_caller]
    fn stop(mut self) {
        signal(self.child.id(), "TERM");
        let mut status = None;
        eventually("the server ends", || {
            status = self.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{status:?}");
    }
}

impl Drop for Started {
    fn drop(&mut self) {
        let _ = self.child.kill(); // After `stop` there is nothing left to end.
        let _ = self.child.wait();
    }
}

/// The words of a Dockerfile's instruction in its JSON form.
fn instruction(file: &str, name: &str) -> Vec<String> {
    let text = repository(file).replace("\\\n", " ");
    let line = text.lines().rfind(|line| line.starts_with(name));
    let line = line.unwrap_or_else(|| panic!("{file} has no {name}"));
    serde_json::from_str(&line[name.len()..]).unwrap_or_else(|error| panic!("{line}: {error}"))
}

/// The image of `deploy/Dockerfile`, without Docker: a root that holds the one file and the
/// directories that the instructions make.
#[test]
fn an_empty_root_serves_the_demo() {
    need("chroot");
    let scratch = Scratch::new();
    fs::copy(binary(std::env::consts::ARCH), scratch.join("sidestream")).unwrap();
    scratch.directory("work");
    let mut command = Command::new("chroot");
    command.arg(scratch.path()).args(instruction("deploy/Dockerfile", "ENTRYPOINT"));
    command.args(instruction("deploy/Dockerfile", "CMD")).args(["--listen", "127.0.0.1:0"]);
    command.stderr(Stdio::null());
    let server = Started::new(command);
    let post = |path: &str, body: Value| {
        request(server.address, "POST", path, &[], body.to_string().as_bytes())
    };

    let session = post("/api/sessions", json!({"workingDir": "/work"})).expect(201).json();
    let path = format!("/api/session/{}", session["sessionId"].as_str().unwrap());
    let mut stream = Reader::open(server.address, &format!("{path}/events"), &[]);
    post(&format!("{path}/prompt"), json!({"command": "say: alone here"})).expect(202);
    let block = stream.until("the answer", |event| event.name == "message-block");
    assert_eq!(block.text("text"), "alone here");
    let end = stream.until("the turn's end", |event| event.name == "prompt-completed");
    assert_eq!(end.data["isError"], false, "{}", end.data);
    let page = request(server.address, "GET", "/", &[], b"").expect(200);
    assert!(String::from_utf8_lossy(&page.body).contains("<html"), "the page is in the binary");
    server.stop();
}

/// Under an emulator the kernel is not whole: `prctl` knows no subreaper, without which a server
/// rightly does not start. What does not need that is run: the command line, files, hashes and random
/// numbers, and a turn of the built-in agent with its pipes, its clock and all of its JSON.
#[test]
fn the_other_platform_runs_under_an_emulator() {
    if std::env::consts::ARCH != "x86_64" {
        return; // There the binary of this platform is the one that the other test runs.
    }
    need("qemu-aarch64-static");
    let scratch = Scratch::new();
    let run = |arguments: &[&str], input: &str| {
        let mut command = Command::new("qemu-aarch64-static");
        command.arg(binary("aarch64")).args(arguments).env_clear();
        command.env("PATH", std::env::var("PATH").expect("PATH is set"));
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
        let output = child.wait_with_output().unwrap();
        assert!(output.status.success(), "{arguments:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    assert!(run(&["--version"], "").contains(env!("CARGO_PKG_VERSION")));
    let (root, data) = (scratch.directory("root"), scratch.join("data"));
    let checked = ["--check-config", "--agent", "demo", "--root", &root, "--data-dir", &data];
    assert_eq!(run(&checked, ""), "ok\n");
    let file = scratch.join("tokens");
    let token = run(&["token", "add", "me", "read", "--token-file", &file], "");
    assert!(token.starts_with("sst_"), "{token}");
    assert!(fs::read_to_string(file).unwrap().contains("me read sha256:"));

    let prompt = json!({"type": "user", "message": {"role": "user", "content": "say: from afar"}});
    let told = run(&["--demo-agent"], &format!("{prompt}\n"));
    let end: Value = serde_json::from_str(told.lines().last().unwrap()).unwrap();
    assert_eq!((end["type"].as_str(), end["result"].as_str()), (Some("result"), Some("from afar")));
}

#[test]
fn the_image_with_the_agent_pins_what_the_tests_know() {
    let setup = repository("scripts/setup-tests.sh");
    let line = setup.lines().find(|line| line.starts_with("CLAUDE_VERSION=")).unwrap();
    let image = repository("deploy/Dockerfile.agent");
    assert!(image.contains(&format!("ARG {line}\n")), "{line}");
    let command = instruction("deploy/Dockerfile.agent", "CMD");
    let mut check = Command::new(env!("CARGO_BIN_EXE_sidestream"));
    let scratch = Scratch::new();
    fs::write(scratch.join("tokens"), "").unwrap();
    // The flags are those of this version: only the places are of the image.
    let places = [("/home/agent/tokens", "tokens"), ("/work", ""), ("/home/agent/.local", "state")];
    check.args(command[1..].iter().map(|word| {
        let place = places.iter().find(|(place, _)| word.starts_with(place));
        place.map_or(word.clone(), |(_, ours)| scratch.join(ours))
    }));
    let output = check.arg("--check-config").env_clear().env("PATH", "/usr/bin:/bin").output();
    let told = String::from_utf8_lossy(&output.as_ref().unwrap().stderr).into_owned();
    assert!(told.contains("tokens"), "an empty token file is refused, and nothing else: {told}");
    assert!(!told.contains("unknown"), "{told}");
}
