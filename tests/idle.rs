//! The whole binary from outside: it starts, says so, sleeps while nothing happens, serves both
//! kinds of sockets, refuses what it cannot run with, and stops without leaving anything.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::time::{Duration, Instant};

use sidestream::shell::sys;

/// Longer than any machine needs, shorter than a human waits.
const PATIENCE: Duration = Duration::from_secs(30);

/// A directory of one test's own, removed at its end.
struct Scene(PathBuf);

impl Scene {
    fn new() -> Scene {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("sidestream-idle-{}-{count}", std::process::id());
        let path = fs::canonicalize(std::env::temp_dir()).unwrap().join(name);
        fs::create_dir_all(path.join("home")).unwrap();
        Scene(path)
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sidestream"));
        command.env_clear().env("PATH", "/usr/bin:/bin").env("HOME", self.0.join("home"));
        command.args(arguments).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn output(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.0.join("socket")
    }

    fn start(&self, arguments: &[&str]) -> Server {
        let mut child = self.command(arguments).spawn().unwrap();
        let (sender, lines) = channel();
        let out = BufReader::new(child.stdout.take().unwrap());
        std::thread::spawn(move || {
            out.lines().map_while(Result::ok).try_for_each(|l| sender.send(l))
        });
        Server { child, lines }
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

struct Server {
    child: Child,
    lines: Receiver<String>,
}

impl Server {
    /// The lines up to and with the one that says where it listens.
    fn banner(&self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let line = self.lines.recv_timeout(PATIENCE).expect("it ended, or says nothing");
            let listens = line.starts_with("listening on ");
            lines.push(line);
            if listens {
                return lines;
            }
        }
    }

    fn signal(&self, signal: i32) {
        sys::PidFd::open(self.child.id()).unwrap().signal(signal).unwrap();
    }

    fn exit_code(&mut self) -> Option<i32> {
        let start = Instant::now();
        loop {
            if let Some(status) = self.child.try_wait().unwrap() {
                return status.code();
            }
            assert!(start.elapsed() < PATIENCE, "it does not stop");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// How often any of its threads went to sleep.
    fn sleeps(&self) -> u64 {
        let threads = fs::read_dir(format!("/proc/{}/task", self.child.id())).unwrap();
        let sleeps = |thread: fs::DirEntry| -> u64 {
            let status = fs::read_to_string(thread.path().join("status")).unwrap();
            let line = status.lines().find_map(|l| l.strip_prefix("voluntary_ctxt_switches:"));
            line.unwrap().trim().parse().unwrap()
        };
        threads.map(|thread| sleeps(thread.unwrap())).sum()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if self.child.try_wait().is_ok_and(|status| status.is_none()) {
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// One request with `Connection: close`, and everything that comes back.
fn get(mut stream: impl Read + Write, path: &str) -> String {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    reply
}

fn unix(path: &Path) -> UnixStream {
    let stream = UnixStream::connect(path).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

#[test]
fn an_idle_server_makes_no_wake_ups() {
    let scene = Scene::new();
    let server = scene.start(&["--agent", "demo", "--listen", "127.0.0.1:0"]);
    server.banner();
    // It has gone to sleep when the count stands still.
    let mut before = server.sleeps();
    loop {
        std::thread::sleep(Duration::from_millis(50));
        let now = server.sleeps();
        if std::mem::replace(&mut before, now) == now {
            break;
        }
    }
    std::thread::sleep(Duration::from_secs(3));
    let wake_ups = server.sleeps() - before;
    assert!(wake_ups <= 2, "{wake_ups} wake-ups");
}

#[test]
fn it_serves_a_unix_socket_and_a_port_and_stops_without_a_trace() {
    let scene = Scene::new();
    let unix_address = format!("unix:{}", scene.socket().display());
    let mut server =
        scene.start(&["--agent=demo", "--listen", &unix_address, "--listen=127.0.0.1:0"]);
    let banner = server.banner();
    assert_eq!(banner.last(), Some(&format!("listening on {unix_address}")));
    assert!(banner.iter().any(|line| line.contains("DEMO AGENT: canned answers, runs nothing")));
    assert!(banner.iter().any(|line| line.starts_with("memory bound: ")));
    let line = server.lines.recv_timeout(PATIENCE).unwrap();
    let port = line.strip_prefix("listening on http://").expect(&line);

    let reply = get(unix(&scene.socket()), "/health");
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");
    let stream = TcpStream::connect(port).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let reply = get(stream, "/health");
    assert!(reply.starts_with("HTTP/1.1 200 "), "{reply}");

    server.signal(sys::SIGHUP); // Changes nothing.
    assert!(get(unix(&scene.socket()), "/health").starts_with("HTTP/1.1 200 "));
    server.signal(sys::SIGTERM);
    assert_eq!(server.exit_code(), Some(0));
    assert!(!scene.socket().exists());
    assert!(TcpStream::connect(port).is_err());
}

#[test]
fn a_predecessor_that_was_killed_is_no_obstacle() {
    let scene = Scene::new();
    let address = format!("unix:{}", scene.socket().display());
    for _ in 0..2 {
        let mut server = scene.start(&["--agent=demo", "--listen", &address]);
        server.banner();
        assert!(get(unix(&scene.socket()), "/health").starts_with("HTTP/1.1 200 "));
        server.child.kill().unwrap();
        server.child.wait().unwrap();
        assert!(scene.socket().exists());
    }
}

#[test]
fn what_it_cannot_run_with_is_refused_in_one_sentence() {
    let scene = Scene::new();
    let address = format!("unix:{}", scene.socket().display());
    let server = scene.start(&["--agent=demo", "--listen", &address]);
    server.banner();
    let other = scene.0.join("other").display().to_string();
    let number = format!("process {};", server.child.id());
    let cases: [(&[&str], &str); 5] = [
        (&["--agent=demo", "--listen=127.0.0.1:0"], &number),
        (&["--agent=demo", "--listen", &address, "--data-dir", &other], "another program does"),
        (&["--root=/none/of/this"], "/none/of/this"),
        (&["--data-dir=/proc/none"], "/proc/none"),
        (&["--ring-size=3"], "--ring-size"),
    ];
    for (arguments, part) in cases {
        let output = scene.output(arguments);
        let told = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(2), "{arguments:?}: {told}");
        assert!(told.contains(part) && told.lines().count() == 1, "{arguments:?}: {told}");
        assert!(output.stdout.is_empty());
    }
    // Looking is allowed beside a running server.
    let output = scene.output(&["--check-config", "--agent=demo"]);
    assert_eq!((output.status.code(), &output.stdout[..]), (Some(0), &b"ok\n"[..]));
}
