//! Under a service manager: what it is told, what it hands over, and that the units say what the
//! manager understands. The manager is a socket of the test's own; the units are systemd's to judge.

mod support;

use std::io::{BufRead, BufReader};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::process::{Child, Command, Stdio};
use std::time::Duration;
use support::{Options, PATIENCE, Scratch, http, need, signal};

/// The manager's end.
struct Manager(UnixDatagram);

impl Manager {
    fn at(path: &str) -> Manager {
        Manager::with(UnixDatagram::bind(path).unwrap())
    }

    fn with(socket: UnixDatagram) -> Manager {
        socket.set_read_timeout(Some(PATIENCE)).unwrap();
        Manager(socket)
    }

    fn recv(&self) -> std::io::Result<String> {
        let mut bytes = [0; 4096];
        loop {
            match self.0.recv(&mut bytes) {
                // A wait with a time is not taken up again after a stop of the process (signal(7)).
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                result => {
                    let told = |count: usize| String::from_utf8(bytes[..count].to_vec()).unwrap();
                    return result.map(told);
                }
            }
        }
    }

    #[track_caller]
    fn next(&self) -> String {
        self.recv().expect("it tells something")
    }

    /// The next message that begins so.
    #[track_caller]
    fn until(&self, start: &str) -> String {
        loop {
            let message = self.next();
            if message.starts_with(start) {
                return message;
            }
        }
    }
}

#[test]
fn the_manager_is_told_of_the_start_a_reload_and_the_end() {
    let options = Options::new().flags(&["--agent", "demo"]);
    let path = options.scratch().join("notify");
    let manager = Manager::at(&path);
    let mut server = options.env("NOTIFY_SOCKET", &path).start();
    let ready = manager.next();
    let status = format!("STATUS=listening on http://{}", server.address);
    assert_eq!(ready, format!("READY=1\n{status}"));
    server.signal("HUP");
    let reloading = manager.next();
    let usec = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect(&reloading);
    let uptime = std::fs::read_to_string("/proc/uptime").unwrap();
    let uptime: f64 = uptime.split(' ').next().unwrap().parse().unwrap();
    let told = usec.parse::<f64>().expect(usec) / 1e6;
    assert!(told > 0.0 && told <= uptime + 1.0, "{told} at {uptime}");
    assert!(manager.next().starts_with("READY=1\n"));
    assert!(server.stop().success());
    assert!(manager.next().starts_with("STOPPING=1\n"));
}

#[test]
fn signs_of_life_come_in_half_the_time_and_are_all_that_wakes_an_idle_server() {
    let name = format!("sidestream-test-{}", std::process::id());
    let address = SocketAddr::from_abstract_name(&name).unwrap();
    let manager = Manager::with(UnixDatagram::bind_addr(&address).unwrap());
    let options = Options::new().flags(&["--agent", "demo"]);
    let options = options.env("NOTIFY_SOCKET", &format!("@{name}"));
    let server = options.env("WATCHDOG_USEC", "1000000").start();
    let sleeps = || {
        let path = format!("/proc/{}/task/{}/status", server.pid(), server.pid());
        let text = std::fs::read_to_string(path).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:"));
        line.unwrap().trim().parse::<u64>().unwrap()
    };
    for _ in 0..3 {
        manager.until("WATCHDOG=1"); // By now the start is done with.
    }
    let (start, before) = (std::time::Instant::now(), sleeps());
    let signs = 6;
    for _ in 0..signs {
        assert_eq!(manager.next(), "WATCHDOG=1");
    }
    let woken = sleeps() - before;
    assert!(woken <= signs + 2, "{woken} wake-ups for {signs} signs");
    assert!(start.elapsed() > Duration::from_millis(2000), "{:?}", start.elapsed());

    // What does not turn any more gives none.
    signal(server.pid(), "STOP");
    manager.0.set_read_timeout(Some(Duration::from_millis(1500))).unwrap();
    let mut after = 0;
    while manager.recv().is_ok() {
        after += 1; // What was on its way.
    }
    signal(server.pid(), "CONT");
    assert!(after <= 1, "{after} signs from a stopped process");
}

#[test]
fn a_bad_notify_socket_is_a_sentence() {
    let options = Options::new().flags(&["--agent", "demo"]).env("NOTIFY_SOCKET", "relative");
    let (status, text) = options.refused();
    assert_eq!(status, Some(2), "{text}");
    assert!(text.contains("NOTIFY_SOCKET: `relative`"), "{text}");
}

/// Opens sockets, says where, and becomes the server with them from descriptor 3 on.
const ACTIVATE: &str = r#"
import os, socket, sys
path, host, program = sys.argv[1], sys.argv[2], sys.argv[3:]
tcp = socket.socket(); tcp.bind((host, 0)); tcp.listen()
unix = socket.socket(socket.AF_UNIX); unix.bind(path); unix.listen()
print("port", tcp.getsockname()[1], flush=True)
a, b = os.dup(tcp.fileno()), os.dup(unix.fileno())
a, b = os.dup2(a, 20), os.dup2(b, 21)
os.dup2(a, 3); os.dup2(b, 4)
os.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS="2", LISTEN_FDNAMES="web:local")
os.execv(program[0], program)
"#;

/// The server as a manager with sockets of its own starts it.
fn activated(options: &Options, host: &str) -> (Child, u16, BufReader<std::process::ChildStdout>) {
    need("python3");
    let command = options.command();
    let mut child = Command::new("python3")
        .args(["-c", ACTIVATE, &options.scratch().join("given"), host])
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    lines.read_line(&mut line).unwrap();
    let port = line.trim().strip_prefix("port ").expect(&line).parse().unwrap();
    (child, port, lines)
}

#[test]
fn sockets_that_are_handed_over_are_served_and_stay_when_we_go() {
    // No --listen: it would be opened beside them.
    let scratch = Scratch::new();
    let options = Options::new();
    let mut command = Command::new("python3");
    need("python3");
    let path = scratch.join("given");
    command.args(["-c", ACTIVATE, &path, "127.0.0.1", env!("CARGO_BIN_EXE_sidestream"), "serve"]);
    command.args(["--agent", "demo", "--data-dir", &scratch.join("data"), "--root", "/"]);
    command.env_clear().env("PATH", std::env::var("PATH").unwrap());
    command.env("HOME", options.scratch().path()).stdin(Stdio::null());
    let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines().map(Result::unwrap);
    let port = lines.next().unwrap().strip_prefix("port ").unwrap().to_owned();
    let listening: Vec<String> =
        lines.by_ref().filter(|line| line.starts_with("listening on ")).take(2).collect();
    let want =
        [format!("listening on http://127.0.0.1:{port}"), format!("listening on unix:{path}")];
    assert_eq!(listening, want, "these, and not the default ones");
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    http::request(address, "GET", "/health", &[], b"").expect(200);
    let (body, _) = support::curl(&["--unix-socket", &path, "http://localhost/health"]);
    assert!(body.contains("\"ok\""), "{body}");
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
    let kept = std::fs::symlink_metadata(&path).expect("the manager's socket file stays");
    assert!(kept.file_type().is_socket());
}

#[test]
fn a_socket_off_loopback_needs_tokens_whoever_opened_it() {
    let options = Options::new().flags(&["--agent", "demo"]);
    let (child, _, _) = activated(&options, "0.0.0.0");
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("`web`") && text.contains("token add"), "{text}");
}

#[test]
fn sockets_come_beside_the_addresses_that_were_asked_for() {
    let options = Options::new().flags(&["--agent", "demo"]);
    let (mut child, port, lines) = activated(&options, "127.0.0.1");
    let mut lines = lines.lines().map(Result::unwrap);
    let listening: Vec<String> =
        lines.by_ref().filter(|line| line.starts_with("listening on ")).take(3).collect();
    assert_eq!(listening[0], format!("listening on http://127.0.0.1:{port}"));
    assert!(listening[2].starts_with("listening on http://127.0.0.1:"), "{listening:?}");
    signal(child.id(), "TERM");
    assert!(child.wait().unwrap().success());
}

fn deployed(name: &str) -> String {
    let path = format!("{}/deploy/{name}", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The value of the one line that sets this.
#[track_caller]
fn setting(unit: &str, name: &str) -> String {
    let mut values = unit.lines().filter_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    let value = values.next().unwrap_or_else(|| panic!("no {name}"));
    assert_eq!(values.next(), None, "{name} twice");
    value.to_owned()
}

#[test]
fn the_units_are_what_systemd_understands_and_leave_little_open() {
    need("systemd-analyze");
    // The user is made at the installation; here another stands in.
    let scratch = Scratch::new();
    let service = deployed("sidestream.service")
        .replace("/usr/local/bin/sidestream", env!("CARGO_BIN_EXE_sidestream"))
        .replace("User=sidestream", "User=daemon")
        .replace("Group=sidestream", "Group=daemon");
    let socket =
        deployed("sidestream.socket").replace("SocketUser=sidestream", "SocketUser=daemon");
    let (service_path, socket_path) =
        (scratch.join("sidestream.service"), scratch.join("sidestream.socket"));
    std::fs::write(&service_path, &service).unwrap();
    std::fs::write(&socket_path, socket).unwrap();
    let analyze = |arguments: &[&str]| {
        let output = Command::new("systemd-analyze").args(arguments).output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&text).into_owned())
    };
    let (good, text) = analyze(&["verify", "--man=no", &service_path, &socket_path]);
    assert!(good && text.trim().is_empty(), "{text}");
    // 0 is a unit that can do nothing, 100 one without a sandbox.
    let (good, text) = analyze(&["security", "--offline=true", "--threshold=35", &service_path]);
    assert!(good, "{text}");
    assert!(!text.contains("Unknown"), "{text}");
}

#[test]
fn the_units_memory_is_what_the_server_and_its_agents_may_take() {
    need("prlimit");
    let unit = deployed("sidestream.service");
    let options = Options::new().flags(&["--agent", "demo"]);
    let command = options.command();
    let files = setting(&unit, "LimitNOFILE");
    let mut server = Command::new("prlimit")
        .arg(format!("--nofile={files}:{files}"))
        .arg(command.get_program())
        .args(command.get_args())
        .env_clear()
        .envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))))
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let mut bounds = lines.filter_map(|line| Some(line.strip_prefix("memory bound: ")?.to_owned()));
    let bound = bounds.next().unwrap();
    let bound: u64 = bound.split(' ').next().unwrap().parse().unwrap();
    let rest = std::thread::spawn(move || bounds.count());
    signal(server.id(), "TERM");
    assert!(server.wait().unwrap().success());
    rest.join().unwrap();
    let mib = |text: String| -> u64 {
        let (number, unit) = text.split_at(text.len() - 1);
        assert_eq!(unit, "M");
        number.parse::<u64>().unwrap()
    };
    let high = mib(setting(&unit, "MemoryHigh"));
    let agents = 8 * 400;
    assert!(high >= bound + agents, "{bound} MiB, {agents} MiB, MemoryHigh {high} MiB");
    let told = unit.split("below ").nth(1).and_then(|rest| rest.split(' ').next()).unwrap();
    let told: u64 = told.parse().unwrap();
    assert!(told > bound && told < bound + bound / 4, "it says {told} MiB, the banner {bound}");
    assert!(mib(setting(&unit, "MemoryMax")) > high);
    // A stop that the manager cuts short would be no stop in order.
    assert!(setting(&unit, "TimeoutStopSec").parse::<u64>().unwrap() > 20 + 10);
    assert_eq!(setting(&unit, "Type"), "notify");
}
