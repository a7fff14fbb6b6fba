//! What a directory would make an agent run by itself: its hooks, helpers and MCP servers.
//!
//! The CLI runs them without asking when it is driven over pipes, so a human is asked first. What
//! was allowed is kept in one file, by directory and by the hash of what the directory said then.
//! What cannot be read whole, or not as JSON, has no such hash, and is never kept.

use crate::limits::{TRUST_COMMANDS_MAX, TRUST_FILE_SIZE_MAX};
use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs::{Metadata, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use super::private;
use super::sys;
use crate::core::effect::Brought;
use crate::wire::json;
use serde_json::Value;
use sha2::{Digest, Sha256};

/// The files of a directory that name commands (PROTOCOL.md, section 2; the CLI's settings).
const FILES: [&str; 3] = [".claude/settings.json", ".claude/settings.local.json", SERVERS];
/// The one of them that the CLI reads in every directory above as well.
const SERVERS: &str = ".mcp.json";
/// Settings that let the agent do nothing more than it does without them. Any other is shown,
/// those that are not known yet among them.
const HARMLESS: [&str; 12] = [
    "$schema",
    "alwaysThinkingEnabled",
    "attribution",
    "cleanupPeriodDays",
    "companyAnnouncements",
    "disableAllHooks",
    "includeCoAuthoredBy",
    "language",
    "model",
    "outputStyle",
    "respectGitignore",
    "spinnerTipsEnabled",
];
/// Permissions that only take away.
const STRICTER: [&str; 3] = ["ask", "deny", "disableBypassPermissionsMode"];

/// What stands in a directory, and a hash of everything that was read.
pub fn look(directory: &Path) -> Brought {
    let (mut commands, mut hasher, mut is_clear) = (Vec::new(), Sha256::new(), true);
    for (place, files) in places(directory) {
        for file in files {
            let path = place.join(file);
            let Some(found) = read(&path) else { continue };
            // Of another directory's file is told where it is.
            let elsewhere = path.to_string_lossy();
            let name = if place == directory { file } else { &*elsewhere };
            let value = match &found {
                Ok(bytes) => serde_json::from_slice(bytes).map_err(|_| "it is no JSON".to_owned()),
                Err(unread) => Err(unread.why.clone()),
            };
            match value {
                Ok(value) => list(&value, name, &mut commands),
                Err(why) => {
                    is_clear = false;
                    let line = format!("{name}: cannot be read, so it is asked each time: {why}");
                    commands.push(line);
                }
            }
            let (kind, content) = match &found {
                Ok(bytes) => ("whole", &**bytes),
                Err(unread) => ("unread", unread.mark.as_bytes()),
            };
            // Each part with its length: no file's content can be taken for the file behind it.
            for part in [path.as_os_str().as_encoded_bytes(), kind.as_bytes(), content] {
                hasher.update((part.len() as u64).to_le_bytes());
                hasher.update(part);
            }
        }
    }
    if commands.len() > TRUST_COMMANDS_MAX {
        let more = commands.len() - TRUST_COMMANDS_MAX;
        commands.truncate(TRUST_COMMANDS_MAX);
        commands.push(format!("and {more} more"));
    }
    let mut hash = String::with_capacity(64);
    for byte in hasher.finalize() {
        let _ = write!(hash, "{byte:02x}");
    }
    Brought { commands, hash, is_clear }
}

/// The directory itself and those above it, each with the files that the CLI reads there: all of them
/// in the root of the repository that it stands in, too.
fn places(directory: &Path) -> impl Iterator<Item = (&Path, &'static [&'static str])> {
    let root = directory.ancestors().skip(1).find(|ancestor| ancestor.join(".git").exists());
    directory.ancestors().map(move |place| {
        let has_all = place == directory || Some(place) == root;
        (place, if has_all { &FILES[..] } else { &[SERVERS] })
    })
}

/// Why a file that is there was not read.
struct Unread {
    why: String,
    /// What stands for its content: it changes with whatever is written to it, as far as the file
    /// system tells.
    mark: String,
}

/// A file's bytes, all of them; none if it is not there.
fn read(path: &Path) -> Option<Result<Vec<u8>, Unread>> {
    // O_NONBLOCK: a pipe of that name would be waited for, and everybody with us.
    let opened = OpenOptions::new().read(true).custom_flags(sys::O_NONBLOCK).open(path);
    let file = match opened {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => return None,
        Err(error) => return Some(Err(unread(error.to_string(), path.metadata().ok()))),
    };
    let metadata = file.metadata().ok();
    if !metadata.as_ref().is_some_and(Metadata::is_file) {
        return Some(Err(unread("it is no file".to_owned(), metadata)));
    }
    let mut bytes = Vec::new();
    Some(match file.take(TRUST_FILE_SIZE_MAX + 1).read_to_end(&mut bytes) {
        Ok(size) if size as u64 <= TRUST_FILE_SIZE_MAX => Ok(bytes),
        Ok(_) => Err(unread("it is too large".to_owned(), metadata)),
        Err(error) => Err(unread(error.to_string(), metadata)),
    })
}

fn unread(why: String, metadata: Option<Metadata>) -> Unread {
    let mark = metadata.map_or_else(String::new, |file| {
        let (written, changed) =
            ((file.mtime(), file.mtime_nsec()), (file.ctime(), file.ctime_nsec()));
        format!("{:?}", (file.dev(), file.ino(), file.len(), written, changed))
    });
    Unread { why, mark }
}

/// Lists what a settings file would run, set or allow.
fn list(value: &Value, name: &str, commands: &mut Vec<String>) {
    let Value::Object(settings) = value else {
        return commands.push(format!("{name}: is no object"));
    };
    for (key, value) in settings {
        let before = commands.len();
        match (&**key, value) {
            (key, _) if HARMLESS.contains(&key) => continue,
            ("hooks", hooks) => hook_commands(hooks, name, "hook", commands),
            ("statusLine", value) => {
                let command = value.get("command").unwrap_or(value);
                commands.push(format!("{name}: statusLine: {}", shown(command)));
            }
            ("env", Value::Object(variables)) => {
                for (variable, text) in variables {
                    commands.push(format!("{name}: env {variable}={}", shown(text)));
                }
            }
            ("permissions", Value::Object(permissions)) => {
                let more = permissions.iter().filter(|(key, _)| !STRICTER.contains(&&***key));
                for (key, value) in more {
                    commands.push(format!("{name}: permissions {key}: {}", shown(value)));
                }
                continue;
            }
            ("mcpServers", Value::Object(servers)) => list_servers(servers, name, commands),
            _ => {}
        }
        let empty = value.as_object().is_some_and(serde_json::Map::is_empty)
            || value.as_array().is_some_and(Vec::is_empty);
        if commands.len() == before && !empty {
            commands.push(format!("{name}: {key}: {}", shown(value)));
        }
    }
}

fn list_servers(servers: &serde_json::Map<String, Value>, name: &str, commands: &mut Vec<String>) {
    for (server, what) in servers {
        let command = what.get("command").or_else(|| what.get("url")).unwrap_or(what);
        let arguments = what.get("args").map(|args| format!(" {args}")).unwrap_or_default();
        commands.push(format!("{name}: MCP server {server}: {}{arguments}", shown(command)));
    }
}

/// Every `command` below a `hooks` member, however deep.
fn hook_commands(value: &Value, name: &str, event: &str, commands: &mut Vec<String>) {
    match value {
        Value::Array(list) => {
            list.iter().for_each(|one| hook_commands(one, name, event, commands));
        }
        Value::Object(members) => {
            for (key, member) in members {
                match key.as_str() {
                    "command" | "prompt" | "url" => {
                        commands.push(format!("{name}: hook {event}: {}", shown(member)));
                    }
                    "hooks" | "matcher" | "type" => hook_commands(member, name, event, commands),
                    _ => hook_commands(member, name, key, commands),
                }
            }
        }
        _ => {}
    }
}

fn shown(value: &Value) -> String {
    value.as_str().map_or_else(|| json::text(value), str::to_owned)
}

/// What was allowed so far: directories and hashes. A missing file is none.
///
/// # Errors
/// When the file is there and cannot be read.
pub fn load(data_dir: &Path) -> io::Result<BTreeSet<(PathBuf, String)>> {
    let mut text = String::new();
    let opened = private::open(&data_dir.join("trust"), OpenOptions::new().read(true));
    match opened.and_then(|mut file| file.read_to_string(&mut text)) {
        Ok(_) => Ok(text
            .lines()
            .filter_map(|line| line.split_once(' '))
            .map(|(hash, directory)| (PathBuf::from(directory), hash.to_owned()))
            .collect()),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(BTreeSet::new()),
        Err(error) => Err(error),
    }
}

/// Keeps that a directory is trusted as it is now, also if the power fails.
///
/// # Errors
/// When the file cannot be written, or the name fits no line; the permission then lasts as long as
/// the server.
pub fn remember(data_dir: &Path, directory: &Path, hash: &str) -> io::Result<()> {
    // An agent chooses names: one with a line end in it would be a second permission.
    let name = directory.to_str().filter(|name| !name.contains(char::is_control));
    let name = name.ok_or_else(|| io::Error::other("the directory's name fits no line"))?;
    let mut options = OpenOptions::new();
    let options = options.append(true).create(true).mode(0o600);
    let mut file = private::open(&data_dir.join("trust"), options)?;
    writeln!(file, "{hash} {name}")?;
    file.sync_data()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn what_is_no_file_is_told_and_not_waited_for() {
        let directory =
            std::env::temp_dir().join(format!("sidestream-pipe-{}", std::process::id()));
        fs::create_dir_all(directory.join(".claude/settings.json")).unwrap();
        let made = std::process::Command::new("mkfifo").arg(directory.join(".mcp.json")).status();
        assert!(made.unwrap().success());
        std::os::unix::fs::symlink("/dev/zero", directory.join(".claude/settings.local.json"))
            .unwrap();
        let Brought { commands, is_clear, .. } = look(&directory);
        assert_eq!((commands.len(), is_clear), (3, false), "{commands:?}");
        assert!(commands.iter().all(|line| line.contains("cannot be read")), "{commands:?}");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn no_file_stands_for_two() {
        let place = std::env::temp_dir().join(format!("sidestream-two-{}", std::process::id()));
        let _ = fs::remove_dir_all(&place);
        fs::create_dir_all(place.join(".claude")).unwrap();
        let files = [".claude/settings.json", ".claude/settings.local.json"];
        files.iter().for_each(|file| fs::write(place.join(file), "{}").unwrap());
        let two = look(&place).hash;
        // One, that says what was read of both, end to end.
        let second = place.join(files[1]);
        for (kept, gone) in [(0, 1), (1, 0)] {
            let text = format!("{{}}{}whole{{}}", second.display());
            fs::write(place.join(files[kept]), text).unwrap();
            let _ = fs::remove_file(place.join(files[gone]));
            assert_ne!(look(&place).hash, two);
        }
        fs::remove_dir_all(&place).unwrap();
    }

    #[test]
    fn servers_of_every_directory_above_are_told_and_settings_of_the_repository_alone() {
        let above = std::env::temp_dir().join(format!("sidestream-above-{}", std::process::id()));
        let _ = fs::remove_dir_all(&above);
        let deep = above.join("repository/in/deep");
        fs::create_dir_all(&deep).unwrap();
        assert!(look(&deep).commands.is_empty());
        let write = |place: &Path, name: &str, text: &str| {
            let path = place.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path.display().to_string()
        };
        let servers = r#"{"mcpServers": {"x": {"command": "touch"}}}"#;
        let settings = r#"{"apiKeyHelper": "helper.sh"}"#;
        let mut told = Vec::new();
        for place in [&deep, deep.parent().unwrap(), &above.join("repository"), &above] {
            let path = write(place, SERVERS, servers);
            told.push(if place == deep { SERVERS.to_owned() } else { path });
            write(place, ".claude/settings.json", settings);
            let commands = look(&deep).commands;
            assert!(told.iter().all(|path| commands.iter().any(|line| line.starts_with(path))));
            assert_eq!(commands.len(), told.len() + 1, "{commands:?}");
        }
        // The settings of a repository's root are the CLI's as well.
        fs::create_dir(above.join("repository/.git")).unwrap();
        assert_eq!(look(&deep).commands.len(), told.len() + 2);
        fs::remove_dir_all(&above).unwrap();
    }

    #[test]
    fn every_command_is_listed_and_any_change_changes_the_hash() {
        let directory =
            std::env::temp_dir().join(format!("sidestream-trust-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join(".claude")).unwrap();
        let empty = look(&directory);
        assert!(empty.commands.is_empty() && empty.is_clear);
        let settings = r#"{"hooks": {"PreToolUse": [{"matcher": "Bash", "hooks": [
            {"type": "command", "command": "touch /tmp/x"}]}]}, "statusLine": {"command": "sl"},
            "env": {"A": "b"}, "apiKeyHelper": "helper.sh"}"#;
        fs::write(directory.join(".claude/settings.json"), settings).unwrap();
        let mcp = r#"{"mcpServers": {"evil": {"command": "sh", "args": ["-c", "id"]}}}"#;
        fs::write(directory.join(".mcp.json"), mcp).unwrap();
        let Brought { commands, hash, is_clear } = look(&directory);
        let all = commands.join("\n");
        for part in
            ["PreToolUse: touch /tmp/x", "statusLine: sl", "env A=b", "helper.sh", "evil: sh"]
        {
            assert!(all.contains(part), "{part} in {all}");
        }
        assert!(is_clear && hash != empty.hash);
        fs::write(directory.join(".mcp.json"), mcp.replace("id", "ls")).unwrap();
        assert_ne!(look(&directory).hash, hash);
        let local = directory.join(".claude/settings.local.json");
        let before = commands.len();
        for (settings, listed) in [
            (r#"{"model": "m", "permissions": {"deny": ["Bash"], "ask": []}, "hooks": {}}"#, ""),
            (r#"{"permissions": {"allow": ["Bash"]}}"#, "permissions allow: [\"Bash\"]"),
            (r#"{"permissions": {"defaultMode": "acceptEdits"}}"#, "defaultMode: acceptEdits"),
            (r#"{"enabledPlugins": {"p@m": true}}"#, "enabledPlugins"),
            (r#"{"hooks": "what is this"}"#, "hooks: what is this"),
            (r#"["no", "object"]"#, "is no object"),
        ] {
            fs::write(&local, settings).unwrap();
            let commands = look(&directory).commands;
            assert_eq!(commands.len(), before + usize::from(!listed.is_empty()), "{settings}");
            assert!(commands.join("\n").contains(listed), "{settings}: {commands:?}");
        }
        fs::write(&local, "{").unwrap();
        let torn = look(&directory);
        assert!(torn.commands.join(" ").contains("it is no JSON") && !torn.is_clear);
        remember(&directory, Path::new("/a b"), &hash).unwrap();
        assert!(load(&directory).unwrap().contains(&(PathBuf::from("/a b"), hash)));
        assert!(remember(&directory, Path::new("/a\n0 /b"), "1").is_err());
        assert_eq!(load(&directory).unwrap().len(), 1, "no name is two permissions");
        fs::remove_dir_all(&directory).unwrap();
    }

    #[test]
    fn no_two_contents_have_one_hash() {
        let directory =
            std::env::temp_dir().join(format!("sidestream-hashes-{}", std::process::id()));
        let _ = fs::remove_dir_all(&directory);
        fs::create_dir_all(directory.join(".claude")).unwrap();
        let (settings, servers) =
            (directory.join(".claude/settings.json"), directory.join(".mcp.json"));
        let evil = r#"{"mcpServers": {"evil": {"command": "sh"}}}"#;
        let mut hashes = BTreeSet::new();
        let mut is_new = |what: &str| {
            let found = look(&directory);
            assert!(hashes.insert(found.hash), "{what}");
            found.is_clear
        };
        fs::write(&settings, "{}").unwrap();
        assert!(is_new("one file"));
        // What reads as one file and the next one is one file all the same.
        fs::write(&settings, format!("{{}}{}\0{evil}", servers.display())).unwrap();
        assert!(!is_new("a file that ends like another"));
        fs::write(&settings, "{}").unwrap();
        fs::write(&servers, evil).unwrap();
        assert!(is_new("two files"));
        fs::write(&servers, b"{\"a\": \"\xff\"}").unwrap();
        assert!(!is_new("no text"));
        fs::write(&servers, b"{\"a\": \"\xfe\"}").unwrap();
        assert!(!is_new("another that is no text"));
        // Too large to be read: any change is another one.
        for word in ["true", "evil"] {
            let large = format!("{{\"{word}\": 1}}{}", " ".repeat(TRUST_FILE_SIZE_MAX as usize));
            fs::write(&servers, large).unwrap();
            assert!(!is_new(word));
        }
        fs::remove_dir_all(&directory).unwrap();
    }
}
