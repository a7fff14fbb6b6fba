//! What an agent may put in the place of our own files: a pipe, a link, another directory. It runs as
//! our user, so it can; nobody waits for it, nothing is read or written by way of it, and it is
//! named.

mod support;

use std::io::{BufRead, BufReader};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use support::{Options, Rig, eventually};

fn make_pipe(path: &Path) {
    let _ = std::fs::remove_file(path);
    assert!(Command::new("mkfifo").arg(path).status().unwrap().success());
}

/// A server that has ended, with a session that has a large field, and where that is.
fn rested() -> (Rig, PathBuf, String, String) {
    let mut rig = Rig::start(&["--agent", "demo", "--ring-size", "64KiB"]);
    let session = rig.create();
    let mut reader = rig.stream(&session, "", None);
    let prompt = rig.prompt(&session, "big 200000")["promptId"].as_str().unwrap().to_owned();
    reader.turn_end(&prompt);
    let told = reader.seen.iter().find(|event| event.data["large"].is_object());
    let href = told.expect("a large one").data["large"]["href"].as_str().unwrap().to_owned();
    rig.stop();
    let data = rig.options.scratch().path().join("data");
    (rig, data, session, href)
}

fn large_file(directory: &Path) -> PathBuf {
    let mut paths = std::fs::read_dir(directory).unwrap().flatten().map(|entry| entry.path());
    paths.find(|path| path.to_string_lossy().ends_with(".large.txt")).expect("a large field")
}

/// All that lies below a directory, with its sizes and times.
fn picture(directory: &Path) -> String {
    let output = Command::new("ls").arg("-lAR").arg(directory).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn a_pipe_in_a_files_place_ends_the_start_by_its_name() {
    for name in ["lock", "id", "format", "epochs", "intact", "trust"] {
        let options = Options::new().flags(&["--agent", "demo"]);
        let data = options.scratch().directory("data");
        std::fs::set_permissions(&data, PermissionsExt::from_mode(0o700)).unwrap();
        make_pipe(&Path::new(&data).join(name));
        let (code, told) = options.refused();
        assert_eq!(code, Some(2), "{name}: {told}");
        let sentence = format!("{data}/{name} cannot be used: it is a pipe, not a file");
        assert!(told.contains(&sentence), "{told}");
    }
}

#[test]
fn a_pipe_in_a_large_fields_place_is_an_answer_and_holds_up_nobody() {
    let (mut rig, data, session, href) = rested();
    make_pipe(&large_file(&data.join("sessions").join(&session)));
    rig.again();
    rig.get(&href).expect_error(503);
    rig.create();
    rig.stop();
    let told = || rig.stderr.lock().unwrap().contains("it is a pipe, not a file");
    eventually("it is named", told);
}

#[test]
fn a_session_with_a_pipe_in_it_is_left_out_and_the_others_load() {
    for name in ["session.json", "segment"] {
        let (mut rig, data, session, _) = rested();
        let directory = data.join("sessions").join(&session);
        let mut names = std::fs::read_dir(&directory).unwrap().flatten().map(|one| one.path());
        let segment = names.find(|path| path.extension().is_some_and(|end| end == "log")).unwrap();
        let path = if name == "segment" { segment } else { directory.join(name) };
        make_pipe(&path);
        rig.again();
        rig.get(&format!("/api/session/{session}")).expect(404);
        rig.create();
        rig.stop();
        let sentence = format!("{} cannot be used: it is a pipe, not a file", path.display());
        for told in ["a session is left out", &sentence] {
            eventually(told, || rig.stderr.lock().unwrap().contains(told));
        }
    }
}

#[test]
fn a_link_in_a_directorys_place_leads_nowhere() {
    let (mut rig, data, session, _) = rested();
    let (sessions, elsewhere) = (data.join("sessions"), data.with_file_name("elsewhere"));
    // One session is left out, and what the link leads to is left alone.
    std::fs::create_dir(&elsewhere).unwrap();
    std::fs::rename(sessions.join(&session), elsewhere.join(&session)).unwrap();
    symlink(elsewhere.join(&session), sessions.join(&session)).unwrap();
    let before = picture(&elsewhere);
    rig.again();
    rig.get(&format!("/api/session/{session}")).expect(404);
    rig.stop();
    assert_eq!(picture(&elsewhere), before);
    let told = || rig.stderr.lock().unwrap().contains("it is a symbolic link, not a directory");
    eventually("it is named", told);
    // Without the directory of all of them there is no start.
    std::fs::remove_file(sessions.join(&session)).unwrap();
    std::fs::remove_dir(&sessions).unwrap();
    std::fs::set_permissions(&elsewhere, PermissionsExt::from_mode(0o755)).unwrap();
    symlink(&elsewhere, &sessions).unwrap();
    let before = picture(&elsewhere);
    let (code, told) = rig.refused();
    assert_eq!(code, Some(2), "{told}");
    let sentence =
        format!("{} cannot be used: it is a symbolic link, not a directory", sessions.display());
    assert!(told.contains(&sentence), "{told}");
    assert_eq!(picture(&elsewhere), before);
}

#[test]
fn a_link_that_takes_a_directorys_place_while_the_server_runs_is_not_written_by() {
    let (mut rig, data, session, _) = rested();
    rig.again();
    let sessions = data.join("sessions");
    let elsewhere = data.with_file_name("elsewhere");
    std::fs::rename(sessions.join(&session), &elsewhere).unwrap();
    symlink(&elsewhere, sessions.join(&session)).unwrap();
    let before = picture(&elsewhere);
    let path = format!("/api/session/{session}/prompt");
    let _ = rig.post(&path, serde_json::json!({"command": "big 200000"}));
    eventually("it is told", || rig.get("/ready").status == 503);
    assert_eq!(picture(&elsewhere), before);
    rig.kill();
}

#[test]
fn a_directory_that_is_open_to_others_is_closed() {
    let (mut rig, data, session, _) = rested();
    let directories = [data.join("sessions"), data.join("sessions").join(&session)];
    for directory in &directories {
        std::fs::set_permissions(directory, PermissionsExt::from_mode(0o777)).unwrap();
    }
    rig.again();
    rig.get(&format!("/api/session/{session}")).expect(200);
    for directory in &directories {
        let mode = std::fs::metadata(directory).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode, 0o700, "{}", directory.display());
    }
    rig.stop();
}

#[test]
fn a_socket_whose_queue_is_full_is_in_use_and_not_waited_for() {
    support::need("python3");
    let options = Options::new();
    let path = options.scratch().join("run/socket");
    let script = "import socket, sys\n\
        at = socket.socket(socket.AF_UNIX); at.bind(sys.argv[1]); at.listen(0)\n\
        held = []\n\
        try:\n    while True:\n        \
        one = socket.socket(socket.AF_UNIX); one.setblocking(False)\n        \
        held.append(one); one.connect(sys.argv[1])\n\
        except BlockingIOError:\n    print('full', flush=True); sys.stdin.read()\n";
    let mut squatter = Command::new("python3")
        .args(["-c", script, &path])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(squatter.stdout.take().unwrap()).read_line(&mut line).unwrap();
    assert_eq!(line, "full\n");
    let listen = format!("unix:{path}");
    let (code, told) = options.flags(&["--agent", "demo", "--listen", &listen]).refused();
    drop(squatter.stdin.take());
    squatter.wait().unwrap();
    assert_eq!(code, Some(2), "{told}");
    assert!(told.contains(&path) && told.contains("another program does"), "{told}");
}
