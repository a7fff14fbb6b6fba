//! A fake disk: the twin of `src/shell/files.rs`, against which the journal's own code is compiled.
//!
//! It keeps apart what a process has written and what has reached the medium, for bytes and for
//! names alike, so that a power loss can take what was never synced: whole, in part, or as zeros.
//! It can be full, fail, and stop taking anything in the middle of an operation, as a killed
//! process does. One disk per thread, since file names are all that the journal knows of it.

use sidestream::core::random::Random;
use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

/// Bytes that reach the medium together.
const SECTOR: usize = 512;
const ROOT: u64 = 0;

thread_local! {
    static DISK: RefCell<Disk> = RefCell::new(Disk::new(0));
}

/// Changes of one directory that happen together: names, and what they lead to from then on.
type Change = Vec<(String, Option<u64>)>;

enum Inode {
    File {
        bytes: Vec<u8>,
        /// What a power loss leaves.
        durable: Vec<u8>,
        /// A sync failed: what it did not write is not written by the next one either.
        doubtful: Option<(usize, usize)>,
    },
    Directory {
        names: BTreeMap<String, u64>,
        durable: BTreeMap<String, u64>,
        /// What was not synced, in its order.
        changes: Vec<Change>,
    },
}

/// What is wrong with a disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Trouble {
    /// So many bytes more, then it is full.
    pub space: Option<usize>,
    /// So many of a thousand writing operations fail.
    pub fails: u64,
    /// So many of a thousand syncs fail.
    pub sync_fails: u64,
    /// So many of a thousand reading operations fail.
    pub read_fails: u64,
    /// So many writing operations more, then nothing happens any more: the process is dead.
    pub fuse: Option<u64>,
}

/// The disk of one world.
pub struct Disk {
    inodes: BTreeMap<u64, Inode>,
    next: u64,
    random: Random,
    pub trouble: Trouble,
    /// The fuse has burnt through.
    dead: bool,
    pub boot_id: String,
    /// Operations that failed.
    pub failures: u64,
    /// Files of which a power loss left other bytes than were written.
    pub torn: u64,
}

impl Disk {
    fn new(seed: u64) -> Disk {
        let mut disk = Disk {
            inodes: BTreeMap::new(),
            next: 1,
            random: Random::new(seed),
            trouble: Trouble::default(),
            dead: false,
            boot_id: "boot-1".to_owned(),
            failures: 0,
            torn: 0,
        };
        disk.inodes.insert(ROOT, empty_directory());
        disk
    }

    fn names(&self, inode: u64) -> Option<&BTreeMap<String, u64>> {
        match self.inodes.get(&inode)? {
            Inode::Directory { names, .. } => Some(names),
            Inode::File { .. } => None,
        }
    }

    fn metadata(&self, inode: u64) -> Metadata {
        match &self.inodes[&inode] {
            Inode::File { bytes, .. } => Metadata(Some(bytes.len() as u64)),
            Inode::Directory { .. } => Metadata(None),
        }
    }

    fn find(&self, path: &Path) -> io::Result<u64> {
        let mut at = ROOT;
        for part in parts(path) {
            let names = self.names(at).ok_or(ErrorKind::NotADirectory)?;
            at = *names.get(&part).ok_or(ErrorKind::NotFound)?;
        }
        Ok(at)
    }

    /// The directory of a path, and the name in it.
    fn parent(&self, path: &Path) -> io::Result<(u64, String)> {
        let mut parts = parts(path);
        let name = parts.pop().ok_or(ErrorKind::InvalidInput)?;
        let directory = self.find(&parts.iter().collect::<PathBuf>())?;
        Ok((directory, name))
    }

    fn change(&mut self, directory: u64, change: Change) {
        let Some(Inode::Directory { names, changes, .. }) = self.inodes.get_mut(&directory) else {
            return;
        };
        apply(names, &change);
        changes.push(change);
    }

    fn bytes(&mut self, inode: u64) -> io::Result<&mut Vec<u8>> {
        match self.inodes.get_mut(&inode) {
            Some(Inode::File { bytes, .. }) => Ok(bytes),
            _ => Err(ErrorKind::IsADirectory.into()),
        }
    }

    fn fail(&mut self, often: u64) -> io::Result<()> {
        if often > 0 && self.random.below(1000) < often {
            self.failures += 1;
            return Err(io::Error::other("input/output error"));
        }
        Ok(())
    }

    /// Before something is read.
    fn reads(&mut self) -> io::Result<()> {
        self.fail(self.trouble.read_fails)
    }

    /// Before something is changed. Returns whether it still happens.
    fn writes(&mut self) -> io::Result<bool> {
        if let Some(fuse) = &mut self.trouble.fuse {
            self.dead |= *fuse == 0;
            *fuse = fuse.saturating_sub(1);
        }
        if self.dead {
            return Ok(false);
        }
        self.fail(self.trouble.fails)?;
        Ok(true)
    }

    /// How much of what is written is taken, and what is said of the rest.
    fn take(&mut self, count: usize) -> (usize, io::Result<()>) {
        let was_dead = self.dead;
        let part = self.random.below(count as u64 + 1) as usize;
        match self.writes() {
            Ok(true) => {}
            Ok(false) if was_dead => return (0, Ok(())),
            Ok(false) => return (part, Ok(())), // It dies within this very write.
            Err(error) => return (part, Err(error)),
        }
        match &mut self.trouble.space {
            Some(space) if *space < count => {
                let taken = std::mem::take(space);
                self.failures += 1;
                (taken, Err(ErrorKind::StorageFull.into()))
            }
            Some(space) => {
                *space -= count;
                (count, Ok(()))
            }
            None => (count, Ok(())),
        }
    }

    /// What a file has taken can be taken by others: it is about to be removed.
    fn free(&mut self, inode: u64) {
        if let (Some(Inode::File { bytes, .. }), Some(space)) =
            (self.inodes.get(&inode), &mut self.trouble.space)
        {
            *space += bytes.len();
        }
    }

    fn write(&mut self, inode: u64, at: usize, from: &[u8]) -> (usize, io::Result<()>) {
        let (count, result) = self.take(from.len());
        match self.bytes(inode) {
            Err(error) => return (0, Err(error)),
            Ok(bytes) => {
                if bytes.len() < at + count {
                    bytes.resize(at + count, 0);
                }
                bytes[at..at + count].copy_from_slice(&from[..count]);
            }
        }
        if count > 0 {
            self.settle(inode, at / SECTOR * SECTOR, (at + count).next_multiple_of(SECTOR));
        }
        (count, result)
    }

    /// These sectors are written or cut off: what was in doubt of them is so no longer.
    fn settle(&mut self, inode: u64, start: usize, end: usize) {
        if let Some(Inode::File { doubtful, .. }) = self.inodes.get_mut(&inode)
            && let Some((from, to)) = *doubtful
        {
            let left = if from < start { (from, to.min(start)) } else { (from.max(end), to) };
            *doubtful = Some(left).filter(|(from, to)| from < to);
        }
    }

    fn sync(&mut self, inode: u64) -> io::Result<()> {
        if !self.writes()? {
            return Ok(());
        }
        let failed = self.fail(self.trouble.sync_fails);
        match self.inodes.get_mut(&inode) {
            Some(Inode::File { bytes, durable, doubtful }) => {
                if failed.is_err() {
                    let from = doubtful.map_or(durable.len(), |(from, _)| from);
                    *doubtful = Some((from.min(bytes.len()), bytes.len()));
                    return failed;
                }
                durable.clone_from(bytes);
                if let Some((from, to)) = *doubtful {
                    let to = to.min(durable.len());
                    durable[from.min(to)..to].fill(0);
                }
            }
            Some(Inode::Directory { names, durable, changes }) => {
                failed?;
                durable.clone_from(names);
                changes.clear();
            }
            None => {}
        }
        Ok(())
    }

    /// The power fails: what was not synced is there in part.
    fn lose_power(&mut self) {
        let random = &mut self.random;
        for inode in self.inodes.values_mut() {
            match inode {
                Inode::Directory { names, durable, changes } => {
                    let count = random.below(changes.len() as u64 + 1) as usize;
                    changes.drain(..).take(count).for_each(|change| apply(durable, &change));
                    names.clone_from(durable);
                }
                Inode::File { bytes, durable, doubtful } => {
                    let longest = bytes.len().max(durable.len());
                    let least = bytes.len().min(durable.len());
                    let length = least + random.below((longest - least) as u64 + 1) as usize;
                    let mut left = durable.clone();
                    left.resize(length, 0);
                    for at in (0..length.min(bytes.len())).step_by(SECTOR) {
                        let end = (at + SECTOR).min(length).min(bytes.len());
                        let whole = durable.get(at..end) == Some(&bytes[at..end]);
                        let lost = doubtful.is_some_and(|(from, to)| at < to && from < end);
                        // What is on the medium stays; what is not may be.
                        if !whole && !lost && random.below(3) > 0 {
                            left[at..end].copy_from_slice(&bytes[at..end]);
                        }
                    }
                    self.torn += u64::from(*bytes != left);
                    bytes.clone_from(&left);
                    *durable = left;
                    *doubtful = None;
                }
            }
        }
    }
}

fn empty_directory() -> Inode {
    Inode::Directory { names: BTreeMap::new(), durable: BTreeMap::new(), changes: Vec::new() }
}

fn apply(names: &mut BTreeMap<String, u64>, change: &Change) {
    for (name, inode) in change {
        match inode {
            Some(inode) => names.insert(name.clone(), *inode),
            None => names.remove(name),
        };
    }
}

fn parts(path: &Path) -> Vec<String> {
    let parts = path.components().filter_map(|part| match part {
        std::path::Component::Normal(name) => Some(name.to_string_lossy().into_owned()),
        _ => None,
    });
    parts.collect()
}

fn with<T>(work: impl FnOnce(&mut Disk) -> T) -> T {
    DISK.with(|disk| work(&mut disk.borrow_mut()))
}

// What the world does with its disk.

/// An empty disk with a data directory.
pub fn format(seed: u64) {
    DISK.with(|disk| *disk.borrow_mut() = Disk::new(seed));
    with(|disk| {
        let inode = disk.next;
        disk.next += 1;
        disk.inodes.insert(inode, empty_directory());
        disk.change(ROOT, vec![("data".to_owned(), Some(inode))]);
    });
    with(|disk| disk.sync(ROOT)).expect("nothing is wrong with it yet");
}

/// Looks at the disk, or changes what is wrong with it.
pub fn disk<T>(work: impl FnOnce(&mut Disk) -> T) -> T {
    with(work)
}

/// Whether the fuse has burnt through: the process is dead.
pub fn is_dead() -> bool {
    with(|disk| disk.dead)
}

/// The machine, or the process alone, is started again; nothing is wrong any more.
pub fn restart(power_lost: bool) {
    with(|disk| {
        (disk.trouble, disk.dead) = (Trouble::default(), false);
        if power_lost {
            disk.lose_power();
            let number: u64 = disk.boot_id["boot-".len()..].parse().expect("a number");
            disk.boot_id = format!("boot-{}", number + 1);
        }
    });
}

/// The bytes of a file; none if there is none.
pub fn peek(path: &Path) -> Option<Vec<u8>> {
    with(|disk| {
        let inode = disk.find(path).ok()?;
        disk.bytes(inode).ok().cloned()
    })
}

/// The names in a directory, in order.
pub fn names(path: &Path) -> Vec<String> {
    with(|disk| {
        let inode = disk.find(path).ok();
        let names = inode.and_then(|inode| disk.names(inode));
        names.map(|names| names.keys().cloned().collect()).unwrap_or_default()
    })
}

// What the journal does with it: names and meanings are the standard library's.

/// An open file.
pub struct File {
    inode: u64,
    at: Cell<usize>,
    appends: bool,
}

impl std::fmt::Debug for File {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "file {}", self.inode)
    }
}

impl File {
    pub fn metadata(&self) -> io::Result<Metadata> {
        Ok(with(|disk| disk.metadata(self.inode)))
    }

    pub fn set_permissions(&self, _: Permissions) -> io::Result<()> {
        unreachable!("everything here is ours alone")
    }

    pub fn sync_all(&self) -> io::Result<()> {
        with(|disk| disk.sync(self.inode))
    }

    pub fn sync_data(&self) -> io::Result<()> {
        self.sync_all()
    }

    pub fn set_len(&self, length: u64) -> io::Result<()> {
        with(|disk| {
            if disk.writes()? {
                disk.bytes(self.inode)?.resize(length as usize, 0);
                disk.settle(self.inode, length as usize, usize::MAX);
            }
            Ok(())
        })
    }
}

impl io::Read for File {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let count = FileExt::read_at(self, to, self.at.get() as u64)?;
        self.at.set(self.at.get() + count);
        Ok(count)
    }
}

impl io::Write for &File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        with(|disk| {
            let at = match self.appends {
                true => disk.bytes(self.inode)?.len(),
                false => self.at.get(),
            };
            let (count, result) = disk.write(self.inode, at, from);
            result?;
            self.at.set(at + count);
            Ok(from.len()) // A dead process does not see that nothing happens.
        })
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl io::Write for File {
    fn write(&mut self, from: &[u8]) -> io::Result<usize> {
        io::Write::write(&mut &*self, from)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

pub trait FileExt {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize>;
    fn write_all_at(&self, from: &[u8], offset: u64) -> io::Result<()>;
}

impl FileExt for File {
    fn read_at(&self, to: &mut [u8], offset: u64) -> io::Result<usize> {
        with(|disk| {
            disk.reads()?;
            let bytes = disk.bytes(self.inode)?;
            let rest = bytes.get(offset as usize..).unwrap_or_default();
            let count = rest.len().min(to.len());
            to[..count].copy_from_slice(&rest[..count]);
            Ok(count)
        })
    }

    fn write_all_at(&self, from: &[u8], offset: u64) -> io::Result<()> {
        with(|disk| disk.write(self.inode, offset as usize, from).1)
    }
}

pub trait OpenOptionsExt {
    fn mode(&mut self, mode: u32) -> &mut Self;
    fn custom_flags(&mut self, flags: i32) -> &mut Self;
}

#[derive(Clone, Default)]
pub struct OpenOptions {
    writes: bool,
    appends: bool,
    creates: bool,
    truncates: bool,
}

impl OpenOptions {
    pub fn new() -> OpenOptions {
        OpenOptions::default()
    }

    pub fn read(&mut self, _: bool) -> &mut Self {
        self
    }

    pub fn write(&mut self, yes: bool) -> &mut Self {
        self.writes = yes;
        self
    }

    pub fn append(&mut self, yes: bool) -> &mut Self {
        self.appends = yes;
        self
    }

    pub fn create(&mut self, yes: bool) -> &mut Self {
        self.creates = yes;
        self
    }

    pub fn truncate(&mut self, yes: bool) -> &mut Self {
        self.truncates = yes;
        self
    }

    pub fn open(&self, path: impl AsRef<Path>) -> io::Result<File> {
        with(|disk| {
            if !self.writes && !self.appends {
                disk.reads()?;
            }
            let found = disk.find(path.as_ref());
            let inode = match found {
                Ok(inode) => inode,
                Err(error) if error.kind() == ErrorKind::NotFound && self.creates => {
                    let (directory, name) = disk.parent(path.as_ref())?;
                    let lives = disk.writes()?;
                    if disk.trouble.space == Some(0) {
                        disk.failures += 1;
                        return Err(ErrorKind::StorageFull.into());
                    }
                    let inode = disk.next;
                    disk.next += 1;
                    let (bytes, durable) = (Vec::new(), Vec::new());
                    disk.inodes.insert(inode, Inode::File { bytes, durable, doubtful: None });
                    if lives {
                        disk.change(directory, vec![(name, Some(inode))]);
                    }
                    inode
                }
                Err(error) => return Err(error),
            };
            if self.truncates && disk.writes()? {
                disk.bytes(inode)?.clear();
                disk.settle(inode, 0, usize::MAX);
            }
            Ok(File { inode, at: Cell::new(0), appends: self.appends })
        })
    }
}

impl OpenOptionsExt for OpenOptions {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }

    fn custom_flags(&mut self, _: i32) -> &mut Self {
        self
    }
}

pub trait DirBuilderExt {
    fn mode(&mut self, mode: u32) -> &mut Self;
}

pub struct DirBuilder;

impl DirBuilder {
    pub fn new() -> DirBuilder {
        DirBuilder
    }

    pub fn create(&self, path: impl AsRef<Path>) -> io::Result<()> {
        with(|disk| {
            let (directory, name) = disk.parent(path.as_ref())?;
            let names = disk.names(directory).ok_or(ErrorKind::NotADirectory)?;
            if names.contains_key(&name) {
                return Err(ErrorKind::AlreadyExists.into());
            }
            if disk.writes()? {
                let inode = disk.next;
                disk.next += 1;
                disk.inodes.insert(inode, empty_directory());
                disk.change(directory, vec![(name, Some(inode))]);
            }
            Ok(())
        })
    }
}

impl DirBuilderExt for DirBuilder {
    fn mode(&mut self, _: u32) -> &mut Self {
        self
    }
}

/// One name in a directory.
pub struct DirEntry(PathBuf);

impl DirEntry {
    pub fn path(&self) -> PathBuf {
        self.0.clone()
    }

    pub fn file_name(&self) -> OsString {
        self.0.file_name().unwrap_or_default().to_owned()
    }

    pub fn metadata(&self) -> io::Result<Metadata> {
        symlink_metadata(&self.0)
    }
}

/// What is known of a file without reading it: its size, if it is no directory.
pub struct Metadata(Option<u64>);

impl Metadata {
    pub fn is_dir(&self) -> bool {
        self.0.is_none()
    }

    pub fn len(&self) -> u64 {
        self.0.unwrap_or(0)
    }
}

pub trait MetadataExt {
    fn mode(&self) -> u32;
    fn uid(&self) -> u32;
}

impl MetadataExt for Metadata {
    fn mode(&self) -> u32 {
        if self.is_dir() { libc::S_IFDIR | 0o700 } else { libc::S_IFREG | 0o600 }
    }

    fn uid(&self) -> u32 {
        effective_uid()
    }
}

pub struct Permissions;

pub trait PermissionsExt {
    fn from_mode(mode: u32) -> Self;
}

impl PermissionsExt for Permissions {
    fn from_mode(_: u32) -> Permissions {
        Permissions
    }
}

pub fn effective_uid() -> u32 {
    1000
}

pub fn exists(path: impl AsRef<Path>) -> io::Result<bool> {
    Ok(with(|disk| disk.find(path.as_ref()).is_ok()))
}

pub fn read_dir(path: impl AsRef<Path>) -> io::Result<std::vec::IntoIter<io::Result<DirEntry>>> {
    with(|disk| {
        disk.reads()?;
        let inode = disk.find(path.as_ref())?;
        let names = disk.names(inode).ok_or(ErrorKind::NotADirectory)?;
        let entries = names.keys().map(|name| Ok(DirEntry(path.as_ref().join(name))));
        Ok(entries.collect::<Vec<_>>().into_iter())
    })
}

pub fn read_to_string(path: impl AsRef<Path>) -> io::Result<String> {
    with(|disk| {
        if path.as_ref() == Path::new("/proc/sys/kernel/random/boot_id") {
            return Ok(disk.boot_id.clone());
        }
        let inode = disk.find(path.as_ref())?;
        let bytes = disk.bytes(inode)?.clone();
        String::from_utf8(bytes).map_err(|_| ErrorKind::InvalidData.into())
    })
}

pub fn symlink_metadata(path: impl AsRef<Path>) -> io::Result<Metadata> {
    with(|disk| Ok(disk.metadata(disk.find(path.as_ref())?)))
}

/// Names can be taken away even where nothing can be written: where that fails as well, nothing
/// could ever tell the next start what the last one did not write.
pub fn remove_file(path: impl AsRef<Path>) -> io::Result<()> {
    with(|disk| {
        let inode = disk.find(path.as_ref())?;
        let (directory, name) = disk.parent(path.as_ref())?;
        let fails = std::mem::take(&mut disk.trouble.fails);
        let lives = disk.writes()?;
        disk.trouble.fails = fails;
        if lives {
            disk.free(inode);
            disk.change(directory, vec![(name, None)]);
        }
        Ok(())
    })
}

/// Its files go one by one, as they do where it is real.
pub fn remove_dir_all(path: impl AsRef<Path>) -> io::Result<()> {
    let entries = read_dir(path.as_ref())?;
    for entry in entries {
        let entry = entry?;
        match entry.metadata()?.is_dir() {
            true => remove_dir_all(entry.path())?,
            false => remove_file(entry.path())?,
        }
    }
    remove_file(path)
}

pub fn rename(from: impl AsRef<Path>, to: impl AsRef<Path>) -> io::Result<()> {
    with(|disk| {
        let inode = disk.find(from.as_ref())?;
        let (directory, old) = disk.parent(from.as_ref())?;
        let (target, new) = disk.parent(to.as_ref())?;
        assert_eq!(directory, target, "files are renamed where they are");
        if disk.writes()? {
            disk.change(directory, vec![(new, Some(inode)), (old, None)]);
        }
        Ok(())
    })
}
