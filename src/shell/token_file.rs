//! The token file, read at a start and at SIGHUP and appended to by `sidestream token add`, and
//! the file of the read cookies that logins have shown.
//!
//! Both are opened without following a link in their last name, and used only if nobody else may
//! write to them: whoever can add a line is let in. What the lines mean is `core::access`'s
//! business.

use crate::limits::TOKEN_FILE_SIZE_MAX;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::{private, sys};
use crate::core::access::tokens::{self, Scope, Tokens};

/// Reads everybody's tokens, of which there may be none any more.
///
/// # Errors
/// A sentence that names the file, and the line where one is bad.
pub fn reread(path: &Path) -> Result<Tokens, String> {
    let mut file = open(path, OpenOptions::new().read(true))?;
    parse(path, &mut file).map(|(tokens, _)| tokens)
}

/// Reads everybody's tokens for a start.
///
/// # Errors
/// As of [`reread`], and if there is none: nobody could use the server.
pub fn read(path: &Path) -> Result<Tokens, String> {
    let tokens = reread(path)?;
    if tokens.is_empty() {
        let path = path.display();
        return Err(format!(
            "the token file {path} has no token, so nobody could log in: make one with \
             `sidestream token add NAME SCOPE --token-file {path}`"
        ));
    }
    Ok(tokens)
}

/// Appends a token's hash, and makes the file if it is not there, for us alone.
///
/// # Errors
/// A sentence: what is wrong with the file or the name, or that the name is taken.
pub fn append(path: &Path, name: &str, scope: Scope, token: &str) -> Result<(), String> {
    let line = tokens::line(name, scope, token)?;
    let mut options = OpenOptions::new();
    let mut file = open(path, options.read(true).append(true).create(true).mode(0o600))?;
    // Two that are added at one time are added one after the other.
    file.lock().map_err(|error| refused(path, &error))?;
    let (tokens, text) = parse(path, &mut file)?;
    if tokens.has(name) {
        let path = path.display();
        return Err(format!("the token file {path} has a token of {name}: remove its line first"));
    }
    // A last line without its end would become one with ours.
    let gap = if text.is_empty() || text.ends_with('\n') { "" } else { "\n" };
    let written = file.write_all(format!("{gap}{line}").as_bytes()).and_then(|()| file.sync_all());
    written.map_err(|error| refused(path, &error))
}

/// Takes in which read cookies logins have shown before this start, and forgets those of tokens
/// that are gone.
///
/// # Errors
/// A sentence: what is wrong with the file.
pub fn read_cookies(data_dir: &Path, tokens: &mut Tokens) -> Result<(), String> {
    let path = cookies(data_dir);
    if fs::symlink_metadata(&path).is_err() {
        return Ok(()); // Nobody has logged in yet.
    }
    let mut file = open(&path, OpenOptions::new().read(true))?;
    if tokens.read_cookies(&text(&path, &mut file)?) {
        let draft = data_dir.join("cookies.new");
        let mut options = OpenOptions::new();
        let mut file = open(&draft, options.write(true).create(true).truncate(true).mode(0o600))?;
        let written = file.write_all(tokens.cookie_lines().as_bytes());
        let written = written.and_then(|()| file.sync_all());
        let replaced = written.and_then(|()| fs::rename(&draft, &path));
        replaced.map_err(|error| refused(&path, &error))?;
    }
    Ok(())
}

/// Keeps the line of a read cookie that a login has just shown.
///
/// # Errors
/// A sentence: what is wrong with the file.
pub fn remember_cookie(data_dir: &Path, line: &str) -> Result<(), String> {
    let path = cookies(data_dir);
    let mut options = OpenOptions::new();
    let mut file = open(&path, options.append(true).create(true).mode(0o600))?;
    file.write_all(line.as_bytes()).map_err(|error| refused(&path, &error))
}

fn cookies(data_dir: &Path) -> PathBuf {
    data_dir.join("cookies")
}

fn refused(path: &Path, why: &dyn std::fmt::Display) -> String {
    format!("the file {}", private::failed(path, why))
}

fn open(path: &Path, options: &mut OpenOptions) -> Result<File, String> {
    check_directory(path)?;
    let file = private::open(path, options).map_err(|error| refused(path, &error))?;
    let metadata = file.metadata().map_err(|error| refused(path, &error))?;
    if metadata.mode() & 0o022 != 0 {
        return Err(refused(path, &"others may write to it; chmod 600 it"));
    }
    let uid = metadata.uid();
    if uid != sys::effective_uid() && uid != 0 {
        return Err(refused(path, &format!("it belongs to uid {uid}")));
    }
    Ok(file)
}

/// Whoever may write to the directory can put another file in its place; where the sticky bit is
/// set, only of his own.
fn check_directory(path: &Path) -> Result<(), String> {
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    let parent = parent.unwrap_or(Path::new("."));
    let Ok(metadata) = fs::metadata(parent) else { return Ok(()) }; // The open says why.
    if metadata.mode() & 0o022 != 0 && metadata.mode() & 0o1000 == 0 {
        let why = format!("others may write to its directory {}; chmod go-w it", parent.display());
        return Err(refused(path, &why));
    }
    Ok(())
}

/// All of a file.
fn text(path: &Path, file: &mut File) -> Result<String, String> {
    let mut text = String::new();
    let read: io::Result<usize> = file.take(TOKEN_FILE_SIZE_MAX + 1).read_to_string(&mut text);
    read.map_err(|error| refused(path, &error))?;
    if text.len() as u64 > TOKEN_FILE_SIZE_MAX {
        return Err(refused(path, &"it is too long"));
    }
    Ok(text)
}

fn parse(path: &Path, file: &mut File) -> Result<(Tokens, String), String> {
    let text = text(path, file)?;
    match Tokens::parse(&text) {
        Ok(tokens) => Ok((tokens, text)),
        Err((line, why)) => Err(format!("the token file {}, line {line}: {why}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};
    use std::path::PathBuf;

    fn scratch(name: &str) -> PathBuf {
        let name = format!("sidestream-tokens-{name}-{}", std::process::id());
        let path = std::env::temp_dir().join(name);
        let _ = fs::remove_file(&path);
        path
    }

    #[test]
    fn what_is_added_is_found_again_in_a_file_that_is_ours_alone() {
        let path = scratch("add");
        append(&path, "me", Scope::Full, "sst_a").unwrap();
        append(&path, "eye", Scope::Read, "sst_b").unwrap();
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o600);
        let text = fs::read_to_string(&path).unwrap();
        assert!(!text.contains("sst_"), "only hashes are kept: {text}");
        let tokens = read(&path).unwrap();
        assert_eq!(tokens.find(b"sst_a"), Some(0));
        assert_eq!(tokens.find(b"sst_b"), Some(1));
        let sentence = append(&path, "me", Scope::Read, "sst_c").unwrap_err();
        assert!(sentence.contains("has a token of me"), "{sentence}");
        // A line whose end somebody took away stays a line.
        fs::write(&path, text.trim_end()).unwrap();
        append(&path, "third", Scope::Answer, "sst_d").unwrap();
        assert_eq!(read(&path).unwrap().find(b"sst_d"), Some(2));
        fs::remove_file(path).unwrap();
    }

    #[test]
    fn a_file_that_others_could_have_written_is_refused_by_name() {
        let path = scratch("bad");
        let refused = |part: &str| {
            for sentence in [
                read(&path).map(drop).unwrap_err(),
                append(&path, "a", Scope::Read, "t").unwrap_err(),
            ] {
                assert!(sentence.contains(part), "{sentence}");
                assert!(sentence.contains(path.to_str().unwrap()), "{sentence}");
            }
        };
        fs::write(&path, "a read sha256:xyz\n").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        refused("line 1");
        fs::set_permissions(&path, PermissionsExt::from_mode(0o620)).unwrap();
        refused("chmod 600");
        fs::remove_file(&path).unwrap();
        symlink("/dev/null", &path).unwrap();
        refused("symbolic link");
        fs::remove_file(&path).unwrap();
        fs::create_dir(&path).unwrap();
        assert!(read(&path).unwrap_err().contains("a directory, not a file"));
        fs::remove_dir(&path).unwrap();
        assert!(read(&path).unwrap_err().contains("No such file"));
        fs::write(&path, "# nobody\n").unwrap();
        fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).unwrap();
        assert!(read(&path).unwrap_err().contains("token add"));
        fs::remove_file(path).unwrap();
    }
}
