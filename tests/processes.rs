//! Real processes: what the shim promises the agent, and what is found when the agent has gone.
//!
//! Tests take turns, because children belong to the whole process; each ends by checking that
//! it left none.

use std::ffi::OsString;
use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use mio::{Events, Interest, Poll, Token};
use sidestream::shell::peer::{self, Peers};
use sidestream::shell::process::{self, Child, Exit, GroupSignal, Spec};
use sidestream::shell::{shim, sys};

const SIDESTREAM: &str = env!("CARGO_BIN_EXE_sidestream");
/// Longer than any machine needs, shorter than a human waits.
const PATIENCE: Duration = Duration::from_secs(30);

fn wait_for(what: &str, mut condition: impl FnMut() -> bool) {
    let start = Instant::now();
    while !condition() {
        assert!(start.elapsed() < PATIENCE, "waited in vain for {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// One test's turn: a directory, a marker of its own, and the surroundings of its agents.
struct Scene {
    directory: PathBuf,
    prefix: String,
    shim: PathBuf,
    working_dir: PathBuf,
    roots: Vec<PathBuf>,
    closed: Option<PathBuf>,
    environment: Vec<(OsString, OsString)>,
    nofile: (u64, u64),
    _turn: MutexGuard<'static, ()>,
}

impl Scene {
    fn new() -> Scene {
        static TURN: Mutex<()> = Mutex::new(());
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let turn = TURN.lock().unwrap_or_else(PoisonError::into_inner);
        sys::become_subreaper().unwrap();
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("sidestream-test-{}-{count}", std::process::id());
        let directory = fs::canonicalize(std::env::temp_dir()).unwrap().join(&prefix);
        fs::create_dir_all(&directory).unwrap();
        Scene {
            shim: SIDESTREAM.into(),
            working_dir: directory.clone(),
            roots: vec![directory.clone()],
            closed: None,
            environment: vec![("PATH".into(), std::env::var_os("PATH").unwrap())],
            nofile: sys::nofile().unwrap(),
            directory,
            prefix,
            _turn: turn,
        }
    }

    fn try_spawn(&self, session: &str, program: &Path, arguments: &[&str]) -> io::Result<Child> {
        let arguments: Vec<String> = arguments.iter().map(|text| text.to_string()).collect();
        let marker = format!("{}/{session}", self.prefix);
        let spec = Spec {
            program,
            arguments: &arguments,
            working_dir: &self.working_dir,
            roots: &self.roots,
            closed: self.closed.as_deref(),
            environment: &self.environment,
            marker: &marker,
            nofile: self.nofile,
        };
        process::spawn(&self.shim, &spec)
    }

    fn spawn(&self, session: &str, arguments: &[&str]) -> Child {
        let program =
            process::find_program(arguments[0], std::env::var_os("PATH").as_deref(), None);
        self.try_spawn(session, &program.expect(arguments[0]), &arguments[1..]).unwrap()
    }

    /// An executable script in the scene's directory.
    fn script(&self, name: &str, text: &str) -> PathBuf {
        let path = self.directory.join(name);
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        path
    }

    fn fifo(&self, name: &str) -> PathBuf {
        let path = self.directory.join(name);
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        path
    }

    fn sweep(&self, session: Option<&str>) -> u32 {
        process::sweep(&self.prefix, session, &|_| false).killed
    }

    fn alive(&self, session: Option<&str>) -> u32 {
        process::descendants_alive(&self.prefix, session, &|_| false)
    }
}

impl Drop for Scene {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.directory);
        if std::thread::panicking() {
            // Leave nothing behind for the next test to trip over.
            while !process::children().is_empty() {
                process::kill_adopted(&|_| false);
            }
            return;
        }
        wait_for("the last process to go", || {
            process::reap_adopted(&|_| false);
            process::children().is_empty()
        });
        assert_eq!(self.alive(None), 0, "a process is left");
    }
}

/// What an agent said and how it ended, seen as the reactor sees it: by readiness.
fn finish(mut child: Child) -> (Exit, String, String) {
    let mut poll = Poll::new().unwrap();
    let registry = poll.registry();
    registry.register(&mut child.exit, Token(0), Interest::READABLE).unwrap();
    let (mut stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
    registry.register(&mut stdout, Token(1), Interest::READABLE).unwrap();
    registry.register(&mut stderr, Token(2), Interest::READABLE).unwrap();
    let (mut out, mut err) = (Vec::new(), Vec::new());
    let (mut out_open, mut err_open, mut exit) = (true, true, None);
    let mut events = Events::with_capacity(8);
    while out_open || err_open || exit.is_none() {
        poll.poll(&mut events, Some(PATIENCE)).unwrap();
        assert!(!events.is_empty(), "{exit:?} {out_open} {err_open}");
        for event in &events {
            match event.token() {
                Token(0) => exit = child.try_wait().unwrap(),
                Token(1) => out_open = stdout.read_to_end(&mut out).is_err(),
                _ => err_open = stderr.read_to_end(&mut err).is_err(),
            }
        }
    }
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (exit.unwrap(), text(out), text(err))
}

/// Waits for the exit alone.
fn exit(child: &mut Child) -> Exit {
    let mut end = None;
    wait_for("the exit", || {
        end = child.try_wait().unwrap();
        end.is_some()
    });
    end.unwrap()
}

/// The next line of stdout.
fn line(child: &mut Child) -> String {
    let stdout = child.stdout.as_mut().unwrap();
    let (mut text, mut byte) = (Vec::new(), [0]);
    wait_for("a line", || {
        while stdout.read(&mut byte).is_ok_and(|count| count == 1) {
            if byte[0] == b'\n' {
                return true;
            }
            text.push(byte[0]);
        }
        false
    });
    String::from_utf8(text).unwrap()
}

fn is_there(pid: u32) -> bool {
    process::parent_of(pid).is_some()
}

// Life

#[test]
fn an_agent_reads_its_stdin_to_the_end_and_both_outputs_arrive() {
    let scene = Scene::new();
    let mut child = scene.spawn("s", &["sh", "-c", "cat; echo problem >&2; exit 3"]);
    child.stdin.as_mut().unwrap().write_all(b"prompt\n").unwrap();
    assert_eq!(line(&mut child), "prompt");
    assert_eq!(child.try_wait().unwrap(), None);
    child.stdin = None;
    assert_eq!(finish(child), (Exit::Code(3), String::new(), "problem\n".into()));
}

#[test]
fn exit_and_end_of_output_are_independent_facts() {
    let scene = Scene::new();
    let gate = scene.fifo("gate");
    let script = r#"{ read word < "$0"; echo "$word"; } & echo hi"#;
    let mut child = scene.spawn("s", &["sh", "-c", script, gate.to_str().unwrap()]);
    assert_eq!(exit(&mut child), Exit::Code(0));
    assert_eq!(line(&mut child), "hi");
    let mut byte = [0];
    let nothing_yet = child.stdout.as_mut().unwrap().read(&mut byte).unwrap_err();
    assert_eq!(nothing_yet.kind(), io::ErrorKind::WouldBlock, "the exit did not end the output");
    fs::write(&gate, "late\n").unwrap();
    assert_eq!(line(&mut child), "late");
    wait_for("the end of the output", || {
        child.stdout.as_mut().unwrap().read(&mut byte).is_ok_and(|count| count == 0)
    });
    // And the other way round: all outputs closed, and still running.
    let mut child = scene
        .spawn("s", &["sh", "-c", r#"exec >&- 2>&-; read word < "$0""#, gate.to_str().unwrap()]);
    wait_for("the end of the output", || {
        child.stdout.as_mut().unwrap().read(&mut byte).is_ok_and(|count| count == 0)
    });
    assert_eq!(child.try_wait().unwrap(), None);
    fs::write(&gate, "go\n").unwrap();
    assert_eq!(exit(&mut child), Exit::Code(0));
}

#[test]
fn an_ended_agent_keeps_its_number_until_it_is_dropped() {
    let scene = Scene::new();
    let mut child = scene.spawn("s", &["true"]);
    assert_eq!(exit(&mut child), Exit::Code(0));
    assert_eq!(process::reap_adopted(&|pid| pid == child.pid), 0);
    assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(0)), "it can be asked again");
    child.signal_group(GroupSignal::Kill).unwrap(); // Hits nobody, and cannot hit a stranger.
    let pid = child.pid;
    assert!(is_there(pid));
    drop(child);
    assert!(!is_there(pid));
}

#[test]
fn a_signal_reaches_the_group_even_before_the_shim_has_made_one() {
    let scene = Scene::new();
    for (signal, number) in
        [(GroupSignal::Terminate, sys::SIGTERM), (GroupSignal::Kill, sys::SIGKILL)]
    {
        for _ in 0..20 {
            let mut child = scene.spawn("s", &["sleep", "600"]);
            child.signal_group(signal).unwrap(); // At once: in the shim, or anywhere after.
            assert_eq!(exit(&mut child), Exit::Signal(number));
        }
    }
    let mut child = scene.spawn("s", &["sh", "-c", "sleep 600 & echo $!; wait"]);
    let grandchild: u32 = line(&mut child).parse().unwrap();
    child.signal_group(GroupSignal::Kill).unwrap();
    assert_eq!(exit(&mut child), Exit::Signal(sys::SIGKILL));
    wait_for("the grandchild to go", || {
        process::reap_adopted(&|pid| pid == child.pid);
        !is_there(grandchild)
    });
}

// What the shim hands over

#[test]
fn a_step_that_fails_is_one_line_and_127() {
    const ENTER: &str = "enter the working directory";
    let mut scene = Scene::new();
    let (inside, outside) = (scene.directory.join("in"), scene.directory.join("out"));
    let link = inside.join("link");
    let not_executable = inside.join("file\nwith two lines");
    fs::create_dir(&inside).unwrap();
    fs::create_dir(&outside).unwrap();
    symlink(&outside, &link).unwrap();
    fs::write(&not_executable, "").unwrap();
    scene.roots = vec![inside.clone()];
    let (ours, way_in) = (inside.join("ours"), inside.join("way-in"));
    let below = ours.join("below");
    fs::create_dir_all(&below).unwrap();
    symlink(&ours, &way_in).unwrap();
    scene.closed = Some(ours.clone());
    let (gone, truth) = (inside.join("gone"), PathBuf::from("/bin/true"));
    let denied = "Permission denied (os error 13)";
    let missing = "No such file or directory (os error 2)";
    let shown = inside.join("file\\nwith two lines");
    for (directory, program, step, path, why) in [
        (&inside, &gone, "execute", &gone, missing),
        (&inside, &not_executable, "execute", &shown, denied),
        (&gone, &truth, ENTER, &gone, missing),
        (&link, &truth, ENTER, &link, "it now leads elsewhere"),
        (&outside, &truth, ENTER, &outside, "it is outside the allowed roots"),
        (&way_in, &truth, ENTER, &way_in, "it now leads elsewhere"),
        (&ours, &truth, ENTER, &ours, "it lies in the server's data directory"),
        (&below, &truth, ENTER, &below, "it lies in the server's data directory"),
    ] {
        scene.working_dir = directory.clone();
        let child = scene.try_spawn("s", program, &[]).unwrap();
        let expected = format!("sidestream: cannot {step}: {}: {why}\n", path.display());
        assert_eq!(finish(child), (Exit::Code(shim::FAILED), String::new(), expected));
    }
    scene.shim = gone;
    assert_eq!(scene.try_spawn("s", &truth, &[]).unwrap_err().kind(), io::ErrorKind::NotFound);
}

#[test]
fn a_shim_whose_server_has_gone_ends_without_starting_anything() {
    let scene = Scene::new();
    let done = scene.directory.join("done");
    for arguments in [vec!["1", "64", "64", "/", "1", "/", "", "/usr/bin/touch"], vec!["1"], vec![]]
    {
        let shim = Command::new(SIDESTREAM).arg(shim::FLAG).args(arguments).arg(&done).output();
        let shim = shim.unwrap();
        assert_eq!(shim.status.code(), Some(shim::FAILED));
        let told = String::from_utf8(shim.stderr).unwrap();
        assert!(told.starts_with("sidestream: cannot ") && told.lines().count() == 1, "{told:?}");
    }
    assert!(!done.exists());
}

#[test]
fn the_agent_has_default_signals_whatever_the_server_ignores_or_blocks() {
    let mut scene = Scene::new();
    let block = ["env", "--block-signal=TERM,USR1", "true"];
    let blocks = Command::new(block[0]).args(&block[1..]).stderr(Stdio::null()).status();
    // Without coreutils ≥ 8.31 only the ignored half can be shown.
    let block = if blocks.is_ok_and(|status| status.success()) { &block[..2] } else { &[] };
    let text = format!(
        "#!/bin/sh\ntrap '' HUP INT TERM PIPE CHLD\nexec {} '{SIDESTREAM}' \"$@\"\n",
        block.join(" ")
    );
    scene.shim = scene.script("deaf", &text);
    let (exit, status, _) = finish(scene.spawn("s", &["cat", "/proc/self/status"]));
    assert_eq!(exit, Exit::Code(0));
    for set in ["SigBlk", "SigIgn", "SigCgt"] {
        assert!(status.contains(&format!("{set}:\t0000000000000000\n")), "{status}");
    }
}

#[test]
fn the_agent_leads_its_own_session_and_group_and_dies_before_the_server() {
    let scene = Scene::new();
    let (_, stat, _) =
        finish(scene.spawn("s", &["sh", "-c", "read stat < /proc/$$/stat; echo $$ $stat"]));
    let fields: Vec<&str> = stat.split_whitespace().collect();
    // pid, then: pid (sh) state parent group session terminal.
    assert_eq!((fields[5], fields[6], fields[7]), (fields[0], fields[0], "0"), "{stat}");
    let own: i32 = fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    let (_, score, _) = finish(scene.spawn("s", &["cat", "/proc/self/oom_score_adj"]));
    assert_eq!(score.trim().parse::<i32>().unwrap(), (own + 500).min(1000));
}

#[test]
fn no_descriptor_above_the_three_is_handed_over() {
    let mut scene = Scene::new();
    let text = format!("#!/bin/sh\nexec 3</dev/null 7>&2 9</\nexec '{SIDESTREAM}' \"$@\"\n");
    scene.shim = scene.script("leaky", &text);
    let (exit, list, _) = finish(scene.spawn("s", &["ls", "/proc/self/fd"]));
    assert_eq!(exit, Exit::Code(0));
    // 3 is the directory that ls itself has opened, the lowest that was free.
    assert_eq!(list.split_whitespace().collect::<Vec<_>>(), ["0", "1", "2", "3"]);
}

#[test]
fn the_original_file_limit_is_restored() {
    let mut scene = Scene::new();
    scene.nofile = (123, 456);
    let (_, limits, _) = finish(scene.spawn("s", &["cat", "/proc/self/limits"]));
    let row = limits.lines().find(|row| row.starts_with("Max open files")).unwrap();
    let numbers: Vec<&str> = row.split_whitespace().skip(3).take(2).collect();
    assert_eq!(numbers, ["123", "456"]);
}

#[test]
fn the_environment_is_exactly_what_was_given_and_the_marker() {
    let mut scene = Scene::new();
    scene.environment = vec![("PATH".into(), "/x".into()), ("LC_ALL".into(), "C\nforged=1".into())];
    let (_, printed, _) = finish(scene.spawn("s-1", &["cat", "/proc/self/environ"]));
    let mut variables: Vec<&str> = printed.split_terminator('\0').collect();
    variables.sort_unstable();
    let marker = format!("{}={}/s-1", process::MARKER, scene.prefix);
    assert_eq!(variables, ["LC_ALL=C\nforged=1", "PATH=/x", &marker]);
}

#[test]
fn the_agent_starts_in_its_directory_with_a_wide_stdout() {
    let scene = Scene::new();
    let child = scene.spawn("s", &["pwd"]);
    let (_, directory, _) = finish(child);
    assert_eq!(directory.trim_end(), scene.directory.to_str().unwrap());
    // More than the kernel's own 64 KiB goes in while nobody reads.
    let mut child =
        scene.spawn("s", &["sh", "-c", "head -c 200000 /dev/zero; echo written >&2; cat"]);
    let mut told = String::new();
    let stderr = child.stderr.as_mut().unwrap();
    wait_for("the writer to get it all in", || {
        let _ = stderr.read_to_string(&mut told);
        told == "written\n"
    });
    child.stdin = None;
    assert_eq!(finish(child).1.len(), 200_000);
}

// When the server dies

/// Not a test: the server that the next one kills. It starts an agent and waits for ever.
#[test]
#[ignore = "is run by the next one"]
fn a_server_to_be_killed() {
    if std::env::var_os("SIDESTREAM_TEST_SERVER").is_none() {
        return;
    }
    let scene = Scene::new();
    let mut child = scene.spawn("s", &["sh", "-c", "echo ready; exec sleep 600"]);
    line(&mut child);
    println!("\nagent {}", child.pid);
    let _ = io::stdin().read(&mut [0]);
}

#[test]
fn an_agent_does_not_outlive_a_killed_server() {
    let _scene = Scene::new();
    let mut server = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "a_server_to_be_killed", "--ignored", "--nocapture"])
        .env("SIDESTREAM_TEST_SERVER", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(server.stdout.take().unwrap()).lines().map(Result::unwrap);
    let agent = lines.filter_map(|line| line.strip_prefix("agent ")?.parse().ok()).next();
    let agent: u32 = agent.expect("the server's agent");
    assert_eq!(process::parent_of(agent), Some(server.id()));
    server.kill().unwrap();
    server.wait().unwrap();
    wait_for("the agent to end", || {
        process::reap_adopted(&|_| false);
        !is_there(agent)
    });
}

// What is left behind

/// Starts a descendant that leaves its group and session, and ends the agent.
fn escapee(scene: &Scene, session: &str) -> u32 {
    let script = "setsid sh -c 'echo $$; exec sleep 600' & cat";
    let mut child = scene.spawn(session, &["sh", "-c", script]);
    let escaped: u32 = line(&mut child).parse().unwrap();
    child.signal_group(GroupSignal::Kill).unwrap();
    assert_eq!(exit(&mut child), Exit::Signal(sys::SIGKILL));
    // Its shell's other children die with the group; what is left is the escapee alone.
    wait_for("the group to end", || scene.alive(Some(session)) == 1);
    assert!(is_there(escaped));
    escaped
}

#[test]
fn what_escapes_the_group_is_found_by_the_sweep_and_reaped() {
    let scene = Scene::new();
    let escaped = escapee(&scene, "s-1");
    assert_eq!(process::parent_of(escaped), Some(std::process::id()), "we adopted it");
    assert_eq!(scene.sweep(Some("s-1")), 1);
    wait_for("the escapee to go", || {
        process::reap_adopted(&|_| false);
        !is_there(escaped)
    });
    assert_eq!(scene.sweep(Some("s-1")), 0);
}

#[test]
fn a_sweep_takes_one_session_or_all_and_spares_whom_it_is_told_to() {
    let scene = Scene::new();
    let (one, ten) = (escapee(&scene, "s-1"), escapee(&scene, "s-10"));
    let mut agent = scene.spawn("s-2", &["sleep", "600"]);
    wait_for("the agent to be itself", || scene.alive(Some("s-2")) == 1);
    assert_eq!(scene.alive(None), 3);
    assert_eq!(scene.sweep(Some("s")), 0);
    assert_eq!(scene.sweep(Some("s-1")), 1);
    wait_for("one to end", || scene.alive(Some("s-1")) == 0);
    assert!(is_there(ten));
    let swept = process::sweep(&scene.prefix, None, &|pid| pid == agent.pid);
    assert_eq!((swept.found, swept.killed), (1, 1));
    wait_for("both to be reaped", || {
        process::reap_adopted(&|pid| pid == agent.pid);
        !is_there(one) && !is_there(ten)
    });
    assert_eq!(agent.try_wait().unwrap(), None);
    agent.signal_group(GroupSignal::Terminate).unwrap();
    assert_eq!(exit(&mut agent), Exit::Signal(sys::SIGTERM));
}

#[test]
fn a_process_in_the_middle_of_its_exec_is_not_passed_over() {
    // One that does nothing but become itself again: its environment always has the marker, or is
    // not there yet.
    let scene = Scene::new();
    let script = "exec sh -c \"$0\" \"$0\"";
    let mut agent = scene.spawn("s-1", &["sh", "-c", script, script]);
    wait_for("the agent to be itself", || scene.alive(Some("s-1")) == 1);
    let missed = (0..1500).filter(|_| scene.alive(Some("s-1")) != 1).count();
    agent.signal_group(GroupSignal::Kill).unwrap();
    assert_eq!(exit(&mut agent), Exit::Signal(sys::SIGKILL));
    assert_eq!(missed, 0, "of 1500 looks");
}

#[test]
fn a_process_without_our_marker_is_never_touched() {
    let scene = Scene::new();
    let sleeper = |marker: Option<String>| {
        let mut command = Command::new("sleep");
        command.arg("600").env_remove(process::MARKER);
        if let Some(marker) = marker {
            command.env(process::MARKER, marker);
        }
        command.spawn().unwrap()
    };
    let prefix = &scene.prefix;
    let mut strangers = vec![
        sleeper(None),
        sleeper(Some(String::new())),
        sleeper(Some(prefix.clone())),
        sleeper(Some(format!("{prefix}0/s-1"))),
        sleeper(Some(format!("other/{prefix}/s-1"))),
        Command::new("sleep").arg("600").env("OTHER", format!("{prefix}/s-1")).spawn().unwrap(),
    ];
    for session in [None, Some("s-1"), Some("")] {
        let swept = process::sweep(prefix, session, &|_| false);
        assert_eq!(swept, process::Swept::default(), "{session:?}");
    }
    process::reap_adopted(&|_| false); // Reaps the dead only.
    for stranger in &mut strangers {
        assert_eq!(stranger.try_wait().unwrap(), None);
        stranger.kill().unwrap();
        stranger.wait().unwrap();
    }
}

#[test]
fn at_the_end_even_an_orphan_without_a_marker_is_found() {
    let scene = Scene::new();
    let script = r#"env -i "$(command -v setsid)" "$(command -v sh)" -c 'echo $$; exec "$0" 600' "$(command -v sleep)" & cat"#;
    let mut child = scene.spawn("s", &["sh", "-c", script]);
    let escaped: u32 = line(&mut child).parse().unwrap();
    child.signal_group(GroupSignal::Kill).unwrap();
    exit(&mut child);
    let known = |pid| pid == child.pid;
    wait_for("the adoption", || process::children().contains(&escaped));
    wait_for("the group to end", || {
        process::reap_adopted(&known);
        process::children().len() == 2
    });
    assert_eq!(scene.sweep(None), 0, "it carries no marker");
    assert!(is_there(escaped));
    let swept = process::kill_adopted(&known);
    assert_eq!((swept.found, swept.killed), (1, 1));
    wait_for("the orphan to be reaped", || {
        process::reap_adopted(&known);
        !is_there(escaped)
    });
    assert_eq!(process::kill_adopted(&known), process::Swept::default());
    assert_eq!(child.try_wait().unwrap(), Some(Exit::Signal(sys::SIGKILL)));
}

#[test]
fn only_ended_orphans_are_reaped_and_no_owners_child() {
    let scene = Scene::new();
    let mut owned = scene.spawn("s", &["true"]);
    let gate = scene.fifo("gate");
    let script = r#"{ setsid sh -c 'echo $$; read word < "$0"' "$0" & }; cat"#;
    let mut child = scene.spawn("s", &["sh", "-c", script, gate.to_str().unwrap()]);
    let orphan: u32 = line(&mut child).parse().unwrap();
    child.stdin = None;
    exit(&mut child);
    exit(&mut owned);
    let known = |pid| pid == owned.pid || pid == child.pid;
    wait_for("the adoption", || process::parent_of(orphan) == Some(std::process::id()));
    assert_eq!(process::reap_adopted(&known), 0, "it lives");
    fs::write(&gate, "go\n").unwrap();
    wait_for("the orphan to be reaped", || process::reap_adopted(&known) == 1);
    assert!(!is_there(orphan));
    assert_eq!(owned.try_wait().unwrap(), Some(Exit::Code(0)));
    assert_eq!(child.try_wait().unwrap(), Some(Exit::Code(0)));
}

// Who is there

/// Registers a socket with an io_uring and closes its descriptor: prints its inode, or why not.
const REGISTERS: &str = r#"
import ctypes, os, socket, sys
libc = ctypes.CDLL(None, use_errno=True)
ring = libc.syscall(425, 4, ctypes.create_string_buffer(120))
if ring < 0:
    print("none", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit()
made = socket.socket()
number = (ctypes.c_int * 1)(made.fileno())
inode = os.fstat(made.fileno()).st_ino
if libc.syscall(427, ring, 2, number, 1) < 0:
    print("none", os.strerror(ctypes.get_errno()), flush=True)
    sys.exit()
made.close()
print(inode, flush=True)
sys.stdin.read()
"#;

#[test]
fn a_socket_that_only_an_io_uring_has_is_its_processs() {
    let scene = Scene::new();
    let mut child = scene.spawn("s", &["python3", "-c", REGISTERS]);
    let told = line(&mut child);
    match told.parse::<u32>() {
        Ok(inode) => {
            assert_eq!(process::holds_socket(child.pid, inode), Some(true));
            assert_eq!(process::holds_socket(child.pid, inode + 1_000_000), Some(false));
            assert_eq!(process::holds_socket(std::process::id(), inode), Some(false));
            assert!(process::holders(inode).any(|pid| pid == child.pid));
        }
        Err(_) => {
            let sentence = format!("needs an io_uring, and there is {told}");
            assert!(std::env::var_os("CI").is_none(), "this test {sentence}");
            eprintln!("NOT SHOWN: this test {sentence}");
        }
    }
    child.stdin = None;
    exit(&mut child);
}

#[test]
fn the_kernel_knows_who_is_at_the_other_end() {
    let _scene = Scene::new();
    let uid = sys::effective_uid();
    let (near, far) = UnixStream::pair().unwrap();
    for end in [near, far] {
        let told = peer::of_unix(&end).unwrap();
        assert_eq!((told.uid, told.pid), (uid, std::process::id()));
    }
    let mut peers = Peers::new();
    peers.probe().unwrap();
    for bind in ["127.0.0.1", "::1"] {
        let Ok(listener) = TcpListener::bind((bind, 0)) else {
            assert_eq!(bind, "::1", "not every machine has IPv6");
            continue;
        };
        let near = TcpStream::connect(listener.local_addr().unwrap()).unwrap();
        let (far, peer) = listener.accept().unwrap();
        assert!(peer::of_unix(&far).is_none());
        let owner = peers.of_tcp(far.local_addr().unwrap(), peer).unwrap();
        assert_eq!(owner.unwrap().uid, uid, "{bind}");
        drop(near);
        assert_eq!(peers.of_tcp(far.local_addr().unwrap(), peer).unwrap(), None, "{bind}");
    }
}
