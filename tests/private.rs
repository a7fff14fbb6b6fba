//! What stands in the place of a file or directory of ours, on a real disk.

use sidestream::shell::private::{directory, make_directory, open, read, writing};
use std::fs::{self, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

fn scratch(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("sidestream-{name}-{}", std::process::id()));
    let _ = fs::remove_dir_all(&path);
    fs::create_dir(&path).unwrap();
    path
}

#[test]
fn what_is_no_file_is_refused_by_what_it_is_and_not_waited_for() {
    let dir = scratch("private");
    let at = |name: &str| dir.join(name);
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    symlink("/dev/null", at("link")).unwrap();
    symlink("nowhere", at("dangling")).unwrap();
    fs::create_dir(at("directory")).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(at("socket")).unwrap();
    for (name, what) in [
        ("pipe", "a pipe"),
        ("link", "a symbolic link"),
        ("dangling", "a symbolic link"),
        ("directory", "a directory"),
        ("socket", "a socket"),
    ] {
        let mut options = OpenOptions::new();
        for opened in [
            read(&at(name)),
            open(&at(name), &mut writing()),
            open(&at(name), writing().create(true).truncate(true)),
            open(&at(name), options.append(true).create(true)),
        ] {
            let sentence = opened.unwrap_err().to_string();
            assert_eq!(sentence, format!("it is {what}, not a file"), "{name}");
        }
    }
    assert_eq!(read(Path::new("/dev/null")).unwrap_err().to_string(), "it is a device, not a file");
    assert_eq!(read(&at("none")).unwrap_err().kind(), ErrorKind::NotFound);
    open(&at("file"), writing().create(true)).unwrap();
    assert_eq!(fs::metadata(at("file")).unwrap().mode() & 0o777, 0o600);
    fs::remove_dir_all(dir).unwrap();
}

#[test]
fn a_directory_is_ours_and_closed_to_others_or_refused() {
    let dir = scratch("private-directory");
    let at = |name: &str| dir.join(name);
    let mode = |name: &str| fs::metadata(at(name)).unwrap().mode() & 0o777;
    make_directory(&at("made")).unwrap();
    assert_eq!(mode("made"), 0o700);
    fs::set_permissions(at("made"), fs::Permissions::from_mode(0o755)).unwrap();
    make_directory(&at("made")).unwrap();
    assert_eq!(mode("made"), 0o700);
    symlink(at("made"), at("link")).unwrap();
    fs::set_permissions(at("made"), fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(at("file"), "").unwrap();
    assert!(Command::new("mkfifo").arg(at("pipe")).status().unwrap().success());
    for (name, what) in [("link", "a symbolic link"), ("file", "a file"), ("pipe", "a pipe")] {
        for opened in [directory(&at(name)), make_directory(&at(name))] {
            let sentence = opened.unwrap_err().to_string();
            assert_eq!(sentence, format!("it is {what}, not a directory"), "{name}");
        }
    }
    assert_eq!(mode("made"), 0o755, "what a link leads to is left alone");
    if fs::metadata(&dir).unwrap().uid() == 0 {
        std::os::unix::fs::chown(at("made"), Some(65534), None).unwrap();
        let sentence = directory(&at("made")).unwrap_err().to_string();
        assert_eq!(sentence, "it belongs to uid 65534");
    }
    assert_eq!(directory(&at("none")).unwrap_err().kind(), ErrorKind::NotFound);
    fs::remove_dir_all(dir).unwrap();
}
