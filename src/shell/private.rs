//! Files and directories of our own: whatever stands in the data directory is opened here.
//!
//! An agent runs as our user, so anything may have been put in the place of what is ours. A link is
//! not followed, a pipe is not waited for, and what is not what it should be is refused by what it
//! is. What it holds is not known here.

use std::fmt::Display;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::shell::files::{
    self as fs, DirBuilder, DirBuilderExt, File, MetadataExt, OpenOptions, OpenOptionsExt,
    Permissions, PermissionsExt,
};

/// How a file is opened to be changed, and made for us alone if it is to be made.
pub fn writing() -> OpenOptions {
    let mut options = OpenOptions::new();
    options.mode(0o600).read(true).write(true);
    options
}

/// Opens a file.
///
/// # Errors
/// The system's, and that it is no file: `it is a pipe, not a file`.
pub fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    // O_NONBLOCK: a pipe of that name would be waited for, and everybody with us.
    let opened = options.custom_flags(libc::O_NOFOLLOW | libc::O_NONBLOCK).open(path);
    expect(opened, path, libc::S_IFREG)
}

/// Opens a file that is to be read.
///
/// # Errors
/// As [`open`].
pub fn read(path: &Path) -> io::Result<File> {
    open(path, OpenOptions::new().read(true))
}

/// Opens a directory. One that is open to others is closed to them.
///
/// # Errors
/// The system's, and that it is no directory, or not ours.
pub fn directory(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    let options = options.read(true).custom_flags(libc::O_NOFOLLOW | libc::O_DIRECTORY);
    let directory = expect(options.open(path), path, libc::S_IFDIR)?;
    let metadata = directory.metadata()?;
    if metadata.uid() != fs::effective_uid() {
        return Err(refusal(format!("it belongs to uid {}", metadata.uid())));
    }
    if metadata.mode() & 0o077 != 0 {
        directory.set_permissions(Permissions::from_mode(0o700))?;
    }
    Ok(directory)
}

/// Makes a directory if it is not there, and opens it.
///
/// # Errors
/// As [`directory`].
pub fn make_directory(path: &Path) -> io::Result<File> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => Err(error),
        _ => directory(path),
    }
}

/// Names what cannot be used, and why.
pub fn failed(path: &Path, why: &dyn Display) -> String {
    format!("{} cannot be used: {why}", path.display())
}

/// What was opened, if it is of this kind; else what it is, as far as that can be said.
fn expect(opened: io::Result<File>, path: &Path, kind: u32) -> io::Result<File> {
    let found = match &opened {
        Ok(file) => file.metadata(),
        Err(_) => fs::symlink_metadata(path),
    };
    match found.map(|metadata| metadata.mode() & libc::S_IFMT) {
        Ok(found) if found != kind => {
            Err(refusal(format!("it is {}, not {}", name(found), name(kind))))
        }
        _ => opened,
    }
}

fn name(kind: u32) -> &'static str {
    match kind {
        libc::S_IFREG => "a file",
        libc::S_IFDIR => "a directory",
        libc::S_IFLNK => "a symbolic link",
        libc::S_IFIFO => "a pipe",
        libc::S_IFSOCK => "a socket",
        _ => "a device",
    }
}

fn refusal(sentence: String) -> io::Error {
    io::Error::new(ErrorKind::InvalidInput, sentence)
}
