//! Journals on disk: found at the start, then written and read by the disk thread.
//!
//! `DATA/epochs` has a line per server start, `DATA/sessions/<id>/` the segments of one session,
//! its snapshot and the fields that were too large for a frame. Files are ours alone, nothing else
//! is taken for one, and what is damaged is named and left as it is. What may be read, written or
//! removed is decided elsewhere.

use crate::limits::{HANDLES_MAX, PIECE_SIZE, TAIL_PIECE_SIZE};
use std::collections::{HashMap, VecDeque};
use std::fmt::Display;
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::core::effect::{
    AppendFailure, Batch, Fetched, Media, Page, Part, Read, ReadFailure, Source,
};
use crate::core::epochs::{Durability, Epochs, Start};
use crate::core::event::EventKind;
use crate::core::journal::{self, Frame, INDEX_STEP, Journal, Segment, SegmentId};
use crate::core::past;
use crate::core::publisher::Kind;
use crate::core::restore::{Beside, FORMAT, Found, Snapshot};
use crate::core::tails::EventPart;
use crate::shell::files::{self as fs, File, FileExt};
use crate::shell::private::{self, failed, make_directory};
use crate::wire::base64;
use crate::wire::document;
use crate::wire::sse::Epoch;

/// The format of the data directory that this version writes, and the newest one that it reads.
const DATA_FORMAT: u32 = 1;
/// One read of a journal that is merged with others.
const MERGE_READ_SIZE: usize = 16 * 1024;
/// One write. For a larger one the system takes larger pages of those that are free, and where a
/// hypervisor has taken those back, touching one costs ten times as much as the copy.
const WRITE_SIZE: usize = 32 * 1024;
/// How the directory of a session that is being removed ends.
const GONE: &str = ".gone";
const SNAPSHOT: &str = "session.json";
/// How the name of a file ends until it is whole.
const DRAFT: &str = "new";

/// What was found in a data directory, and what this start is.
#[derive(Debug)]
pub struct Opened {
    /// Every start, this one last.
    pub epochs: Epochs,
    /// The sessions.
    pub sessions: Vec<Found>,
    /// Sessions that cannot be read: why, with the file. They stay as they are.
    pub set_aside: Vec<String>,
    /// Events that are not what was written, with the file. They are told as lost, in their place.
    pub damaged: Vec<String>,
    /// The writer, if there is anything to be written.
    pub store: Option<Store>,
    /// The disk takes no writes, and this start begins so.
    pub failing: Option<Failing>,
}

/// What the disk did not take at a start that goes on without.
#[derive(Debug)]
pub struct Failing {
    /// The first thing that failed, with the file.
    pub sentence: String,
    /// The sessions whose newest segment may not be on the medium.
    pub session_ids: Vec<String>,
}

/// Why there is no start.
#[derive(Debug)]
pub struct Refusal {
    /// What is wrong, for a human.
    pub sentence: String,
    /// The system did not do what it was asked, and may another time. Else somebody has to change
    /// something first.
    pub may_pass: bool,
}

impl Refusal {
    /// Of a call that failed.
    pub fn of(sentence: String, error: &io::Error) -> Refusal {
        use ErrorKind::{
            FileTooLarge, OutOfMemory, QuotaExceeded, ReadOnlyFilesystem, ResourceBusy,
            StaleNetworkFileHandle, StorageFull, TimedOut,
        };
        let by_kind = matches!(
            error.kind(),
            FileTooLarge
                | OutOfMemory
                | QuotaExceeded
                | ReadOnlyFilesystem
                | ResourceBusy
                | StaleNetworkFileHandle
                | StorageFull
                | TimedOut
        );
        let by_number =
            matches!(error.raw_os_error(), Some(libc::EIO | libc::EMFILE | libc::ENFILE));
        Refusal { sentence, may_pass: by_kind || by_number }
    }
}

impl From<String> for Refusal {
    fn from(sentence: String) -> Refusal {
        Refusal { sentence, may_pass: false }
    }
}

impl Display for Refusal {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(&self.sentence)
    }
}

/// Opens a data directory that is locked, and begins a start in it. A disk that takes no more than
/// the line that says so is no reason not to: what it lacks is written when it takes writes again.
///
/// # Errors
/// A sentence that names the file; nothing was changed then.
pub fn open(dir: &Path, durability: Durability, epoch: Epoch) -> Result<Opened, Refusal> {
    let is_new = check_format(dir)?;
    let path = dir.join("epochs");
    let text = read_if_there(&path).map_err(|error| refused(&path, &error))?;
    let (mut epochs, whole) = Epochs::parse(&text).map_err(|line| {
        let path = path.display();
        format!(
            "{path} is damaged at line {line}; restore it from a backup, or remove it: then \
            no cursor of before is known any more"
        )
    })?;
    let boot_id = boot_id();
    let was_kept = epochs.last_mode().is_some_and(|mode| mode != Durability::Memory);
    let is_broken = was_kept && !fs::exists(dir.join("intact")).unwrap_or(false);
    if is_broken {
        epochs.break_last();
    }
    let mut found = Loaded::default();
    let mut unsettled = Unsettled::default();
    if durability != Durability::Memory {
        let doubtful = epochs.doubtful_from();
        let covered = epochs.last_survived(&boot_id);
        let sessions = dir.join("sessions");
        found = load(&sessions, covered)?;
        for one in &mut found.sessions {
            one.queue_in_doubt |= !epochs.journal_survived(one.journal.last_seq(), &boot_id);
        }
        // What was shown last is nowhere: of whom it was, only its journal could say.
        let spoke = |one: &&mut Found| one.journal.last_seq() >= doubtful;
        for one in found.sessions.iter_mut().filter(spoke) {
            one.torn |= is_broken;
            // What was written and not synced when the server was killed is about to be shown.
            if is_broken || durability == Durability::Sync {
                let segment = one.journal.newest_segment();
                let session_id = one.snapshot.session_id.clone();
                unsettled.segments.extend(segment.map(|segment| (session_id, segment)));
            }
        }
        unsettled.names = !unsettled.segments.is_empty();
    }
    let settled = unsettled.settle(&dir.join("sessions"), is_broken);
    let refuse = |error: io::Error| refused(&path, &error);
    let mut lines = String::new();
    if is_broken {
        lines += "broken\n";
    }
    for seq in &found.erased {
        epochs.erased = epochs.erased.max(*seq);
        lines += &format!("erased {seq}\n");
    }
    if durability != Durability::Memory {
        lines += &epochs.reach_last(found.newest_seq).unwrap_or_default();
    }
    let first_seq = epochs.next_seq(found.newest_seq);
    let start = Start::new(epoch, first_seq, durability, boot_id);
    lines += &Epochs::line(&start);
    if is_new {
        let format = dir.join("format");
        replace(&format, format!("{DATA_FORMAT}\n").as_bytes(), true)
            .map_err(|error| refused(&format, &error))?;
    }
    let options = &mut private::writing();
    let file = private::open(&path, options.append(true).create(true)).map_err(refuse)?;
    file.set_len(whole as u64).map_err(refuse)?; // A torn line never counted.
    (&file).write_all(lines.as_bytes()).map_err(refuse)?;
    file.sync_all().map_err(refuse)?;
    let epochs_end = (whole + lines.len()) as u64;
    let mut store =
        (durability != Durability::Memory).then(|| Store::new(dir, durability, epochs_end));
    let mut failing = None;
    if let Some(store) = &mut store {
        make_directory(&store.sessions).map_err(|error| refused(&store.sessions, &error))?;
        let intact = dir.join("intact");
        let begun = match settled.map(|()| open_anew(&intact)) {
            // Something else stands there: no disk's fault, and somebody has to look.
            Ok(Err(error)) if error.kind() == ErrorKind::InvalidInput => {
                return Err(refused(&intact, &error));
            }
            Ok(made) => made.map(drop).map_err(|error| failed(&intact, &error)),
            Err(sentence) => Err(sentence),
        };
        if let Err(sentence) = begun {
            // As after a write that failed: the next start is to know, if this one is killed.
            store.mark_broken().map_err(|error| refused(dir, &error))?;
            (store.is_marked, store.is_failing) = (true, true);
            let session_ids = unsettled.segments.iter().map(|(id, _)| id.clone()).collect();
            failing = Some(Failing { sentence, session_ids });
            store.unsettled = unsettled;
        }
    }
    sync_directory(dir).map_err(|error| refused(dir, &error))?;
    epochs.begin(start);
    let Loaded { sessions, set_aside, damaged, .. } = found;
    Ok(Opened { epochs, sessions, set_aside, damaged, store, failing })
}

fn refused(path: &Path, error: &io::Error) -> Refusal {
    Refusal::of(failed(path, error), error)
}

/// Whether the directory has no format yet.
fn check_format(dir: &Path) -> Result<bool, Refusal> {
    let path = dir.join("format");
    let text = read_if_there(&path).map_err(|error| refused(&path, &error))?;
    if text.is_empty() {
        return Ok(true);
    }
    let format = std::str::from_utf8(&text).ok().and_then(|text| text.trim_end().parse().ok());
    match format {
        Some(DATA_FORMAT) => Ok(false),
        Some(newer) if newer > DATA_FORMAT => {
            let sentence = format!(
                "{} says that a newer sidestream wrote this data directory (format {newer}, this \
                 one reads {DATA_FORMAT}); use that version, or choose another directory with \
                 --data-dir",
                path.display()
            );
            Err(sentence.into())
        }
        _ => Err(format!("{} is damaged: it holds no format number", path.display()).into()),
    }
}

fn read_if_there(path: &Path) -> io::Result<Vec<u8>> {
    match read_file(path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        result => result,
    }
}

/// The kernel's name for the time since it was started; `-` if it does not say.
fn boot_id() -> String {
    let text = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    let word = text.trim();
    let fit = !word.is_empty() && word.bytes().all(|byte| byte.is_ascii_graphic());
    if fit { word.to_owned() } else { "-".to_owned() }
}

/// Opens a file that is there, to change it.
fn open_to_write(path: &Path) -> io::Result<File> {
    private::open(path, &mut private::writing())
}

/// Opens an empty file, made or emptied.
fn open_anew(path: &Path) -> io::Result<File> {
    private::open(path, private::writing().create(true).truncate(true))
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    private::read(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The length of a file, and a piece of it.
fn piece_of(path: &Path, from: u64) -> io::Result<(u64, Vec<u8>)> {
    let file = private::read(path)?;
    let length = fs::symlink_metadata(path)?.len();
    let mut bytes = vec![0; length.saturating_sub(from).min(TAIL_PIECE_SIZE as u64) as usize];
    let count = read_at(&file, &mut bytes, from)?;
    bytes.truncate(count);
    Ok((length, bytes))
}

fn sync_directory(path: &Path) -> io::Result<()> {
    private::directory(path)?.sync_all()
}

/// What a file is called until it is whole.
fn draft(path: &Path) -> PathBuf {
    path.with_added_extension(DRAFT)
}

/// Writes a file so that it is there whole or not at all.
fn replace(path: &Path, bytes: &[u8], sync: bool) -> io::Result<()> {
    let draft = draft(path);
    let mut file = open_anew(&draft)?;
    let written = file.write_all(bytes).and_then(|()| if sync { file.sync_all() } else { Ok(()) });
    if written.is_err() {
        let _ = fs::remove_file(&draft); // Where there is no room, it takes what is left of it.
    }
    written.and_then(|()| fs::rename(draft, path))
}

// Loading.

#[derive(Default)]
struct Loaded {
    sessions: Vec<Found>,
    set_aside: Vec<String>,
    damaged: Vec<String>,
    newest_seq: u64,
    /// The newest numbers of sessions whose removal was finished.
    erased: Vec<u64>,
}

/// Loads every session. `covered`: what was shown has survived the end of the last start.
fn load(sessions: &Path, covered: bool) -> Result<Loaded, Refusal> {
    let mut loaded = Loaded::default();
    let entries = match private::directory(sessions).and_then(|_| fs::read_dir(sessions)) {
        Ok(entries) => entries,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(loaded),
        Err(error) => return Err(refused(sessions, &error)),
    };
    for entry in entries {
        let entry = entry.map_err(|error| refused(sessions, &error))?;
        let path = entry.path();
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.ends_with(GONE) {
            let _ = fs::remove_dir_all(&path); // Tried again at the next start.
            continue;
        }
        if !name.starts_with("session-") {
            continue;
        }
        match load_session(&path, &name, covered, &mut loaded.damaged) {
            Ok(Some(found)) => {
                let seq = found.snapshot.seq.max(found.journal.last_seq());
                loaded.newest_seq = loaded.newest_seq.max(seq);
                if found.snapshot.is_ending() {
                    loaded.erased.push(seq);
                    let _ = remove_session(sessions, &name); // Tried again at the next start.
                } else {
                    loaded.sessions.push(found);
                }
            }
            Ok(None) => {
                let _ = fs::remove_dir_all(&path); // Nobody was ever told of it.
            }
            Err(sentence) => loaded.set_aside.push(sentence),
        }
    }
    Ok(loaded)
}

fn remove_session(sessions: &Path, id: &str) -> io::Result<()> {
    let gone = sessions.join(format!("{id}{GONE}"));
    match fs::rename(sessions.join(id), &gone) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        result => result?,
    }
    // Else a power loss may take the name back, and leave it without its segments.
    sync_directory(sessions)?;
    fs::remove_dir_all(gone)
}

/// Files beside a session's segments.
struct Files {
    dir: PathBuf,
    segments: Vec<SegmentId>,
    /// Numbers, sizes and names of large fields.
    beside: Vec<(u64, u64, PathBuf)>,
    /// What was never whole.
    drafts: Vec<PathBuf>,
}

impl Files {
    fn list(dir: &Path) -> io::Result<Files> {
        let (mut segments, mut beside, mut drafts) = (Vec::new(), Vec::new(), Vec::new());
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            segments.extend(SegmentId::parse(&name));
            if name.ends_with(DRAFT) {
                drafts.push(entry.path());
            }
            if let Some(seq) = beside_seq(&name) {
                beside.push((seq, entry.metadata()?.len(), entry.path()));
            }
        }
        segments.sort_unstable();
        Ok(Files { dir: dir.to_owned(), segments, beside, drafts })
    }

    /// After a power loss the name of a new segment may be there without what was in it. Then it
    /// was never made, and what the one before still holds of the same frames counts.
    fn forget_hollow(&mut self) -> io::Result<()> {
        while let [.., _, newest] = self.segments[..] {
            let path = self.dir.join(newest.file_name());
            if journal::first_frame(&read_file(&path)?).is_some() {
                break;
            }
            fs::remove_file(&path)?;
            self.segments.pop();
        }
        Ok(())
    }
}

fn beside_name(seq: u64, kind: Kind) -> String {
    format!("{seq:016x}.{}", kind.extension())
}

fn beside_seq(name: &str) -> Option<u64> {
    let (seq, extension) = name.split_at_checked(16)?;
    let extension = extension.strip_prefix('.')?;
    Kind::ALL.iter().find(|kind| kind.extension() == extension)?;
    u64::from_str_radix(seq, 16).ok()
}

impl Beside for Files {
    fn large(&self, seq: u64) -> Option<String> {
        let bytes = read_file(&self.dir.join(beside_name(seq, Kind::Text))).ok()?;
        String::from_utf8(bytes).ok()
    }

    fn images(&self, seq: u64) -> Option<String> {
        let bytes = read_file(&self.dir.join(beside_name(seq, Kind::Images))).ok()?;
        String::from_utf8(bytes).ok()
    }
}

/// Loads one session. `None`: it was never whole.
fn load_session(
    dir: &Path,
    id: &str,
    covered: bool,
    lost: &mut Vec<String>,
) -> Result<Option<Found>, String> {
    let damaged = |error: &dyn Display| failed(dir, error);
    private::directory(dir).map_err(|error| damaged(&error))?;
    let mut files = Files::list(dir).map_err(|error| damaged(&error))?;
    if !covered {
        files.forget_hollow().map_err(|error| damaged(&error))?;
    }
    let path = dir.join(SNAPSHOT);
    let text = read_if_there(&path).map_err(|error| failed(&path, &error))?;
    let snapshot = match text.is_empty() {
        true => None,
        false => {
            Some(document::read_bytes::<Snapshot>(&text).map_err(|error| failed(&path, &error)))
        }
    };
    let from_start = files.segments.first().is_some_and(|first| first.start == 0);
    let mut snapshot = match snapshot {
        Some(Ok(snapshot)) if snapshot.format > FORMAT => {
            return Err(failed(&path, &"a newer sidestream wrote it"));
        }
        Some(Ok(snapshot)) => snapshot,
        // A journal that has its beginning tells everything.
        Some(Err(_)) | None if from_start => Snapshot::default(),
        Some(Err(sentence)) => return Err(sentence),
        None if files.segments.is_empty() => return Ok(None),
        None => return Err(failed(&path, &"it is missing, and the journal's beginning, too")),
    };
    let (journal, torn, has_hole) = load_journal(&files, &mut snapshot, covered, lost)?;
    if snapshot.seq == 0 {
        return Ok(None);
    }
    if has_hole && snapshot.working_dir.is_empty() {
        return Err(damaged(&"the event that tells its directory is damaged"));
    }
    snapshot.session_id = id.to_owned();
    for path in &files.drafts {
        let _ = fs::remove_file(path); // Nothing counts that is in it.
    }
    for (seq, _, path) in &files.beside {
        if *seq > journal.last_seq() || Some(*seq) < journal.oldest_seq() {
            let _ = fs::remove_file(path); // Its frame was never written, or is gone.
        }
    }
    Ok(Some(Found { snapshot, journal, torn, queue_in_doubt: torn || has_hole }))
}

/// Scans what of the journal must be known: the newest segment whole, and whatever the snapshot
/// does not tell yet. Says whether its end is torn, and whether it has a hole behind the snapshot.
fn load_journal(
    files: &Files,
    snapshot: &mut Snapshot,
    covered: bool,
    lost: &mut Vec<String>,
) -> Result<(Journal, bool, bool), String> {
    let mut segments = VecDeque::new();
    let mut evicted = snapshot.evicted;
    if let Some(first) = files.segments.first().filter(|first| first.start > 0) {
        evicted = evicted.max(first.first_seq - 1);
    }
    let (mut torn, mut missing, mut last_seq, mut end) = (false, false, snapshot.seq, 0);
    let count = files.segments.len();
    for (at, id) in files.segments.iter().copied().enumerate() {
        let path = files.dir.join(id.file_name());
        let next = files.segments.get(at + 1).copied();
        let length = fs::symlink_metadata(&path).map_err(|error| failed(&path, &error))?.len();
        let limit = next.map_or(u64::MAX, |next| next.start - id.start);
        let length = length.min(limit);
        // The one before the newest is indexed, too: replays begin a little before the end. One that
        // could not be synced was given up without that: a hole follows, and its end is in doubt.
        // After a power loss none is trusted.
        let has_hole = next.is_some_and(|next| id.start + length < next.start);
        let is_new = next.is_some_and(|next| next.start > snapshot.position);
        let scan = at + 2 >= count || !covered || has_hole || is_new;
        let mut segment =
            Segment { id, end: id.start + length, last_seq: 0, large_size: 0, index: Vec::new() };
        if scan {
            let bytes = read_file(&path).map_err(|error| failed(&path, &error))?;
            let bytes = &bytes[..(length as usize).min(bytes.len())];
            let whole = scan_segment(bytes, &mut segment, snapshot, files, |seq, is_news| {
                missing |= is_news;
                lost.push(damaged(&path, seq));
            });
            segment.end = id.start + whole as u64;
            last_seq = last_seq.max(segment.last_seq);
            if next.is_none() && whole < bytes.len() {
                torn = !covered || holds_frame(&bytes[whole..]);
                cut(&path, whole as u64)?;
            }
        }
        if let Some(next) = next {
            // Between numbers that nobody has, any will do.
            segment.last_seq = segment.last_seq.max(next.first_seq - 1);
            if segment.end < next.start {
                missing |= is_new;
                evicted = evicted.max(next.first_seq - 1);
            }
        }
        let until = next.map_or(u64::MAX, |next| next.first_seq);
        let beside = files.beside.iter().filter(|one| (id.first_seq..until).contains(&one.0));
        segment.large_size = beside.map(|one| one.1).sum();
        end = segment.end;
        if segment.end > id.start {
            segments.push_back(segment);
        } else {
            let _ = fs::remove_file(&path); // Nothing whole is in it.
        }
    }
    if end < snapshot.position {
        // The snapshot reached the medium and the frames before it did not.
        torn |= !covered && count > 0;
        evicted = evicted.max(snapshot.seq);
        end = snapshot.position;
    }
    if segments.is_empty() {
        evicted = evicted.max(snapshot.seq);
    }
    Ok((Journal::found(segments, end, last_seq, evicted), torn, missing))
}

/// Reads a segment's frames into its index and into the snapshot. Returns the whole bytes. Tells
/// which are not what was written, and whether the snapshot lacks them.
fn scan_segment(
    bytes: &[u8],
    segment: &mut Segment,
    snapshot: &mut Snapshot,
    files: &Files,
    mut lost: impl FnMut(u64, bool),
) -> usize {
    let mut indexed = None;
    journal::recover(bytes, |at, frame: Frame<'_>| {
        let position = segment.id.start + at as u64;
        if indexed.is_none_or(|known| position >= known + INDEX_STEP) {
            segment.index.push((frame.seq, position));
            indexed = Some(position);
        }
        segment.last_seq = frame.seq;
        if !frame.is_sound {
            lost(frame.seq, frame.seq > snapshot.seq);
        }
        snapshot.apply(&frame, files);
    })
}

/// What is said of an event that is not what was written.
fn damaged(path: &Path, seq: u64) -> String {
    format!("{} holds event {seq} otherwise than it was written", path.display())
}

/// Whether a whole frame stands anywhere in what is to be cut: then it is no torn tail.
fn holds_frame(bytes: &[u8]) -> bool {
    memchr::memmem::find_iter(bytes, b"\n\nid: ")
        .any(|at| journal::first_frame(&bytes[at + 2..]).is_some())
}

/// Whether an event says that so many bytes of its field stand beside it.
fn tells_size(frame: &[u8], size: u64) -> bool {
    let told = format!("\"bytes\":{size},\"href\":");
    memchr::memmem::find(frame, told.as_bytes()).is_some()
}

/// What an earlier start wrote and this one is about to show, and may not be on the medium.
#[derive(Debug, Default)]
struct Unsettled {
    /// Segments, the newest of their sessions.
    segments: Vec<(String, SegmentId)>,
    /// The names of their directories.
    names: bool,
}

impl Unsettled {
    /// Sees that all of it is on the medium; what is not is left for another try. `anew`: it is
    /// written once more, since where a sync has failed the kernel may hold bytes that never
    /// reached the medium and never will, and the next sync would succeed all the same.
    fn settle(&mut self, sessions: &Path, anew: bool) -> Result<(), String> {
        let mut first = Ok(());
        self.segments.retain(|(session_id, segment)| {
            let dir = sessions.join(session_id);
            let path = dir.join(segment.file_name());
            let on_medium = match anew {
                true => read_file(&path).and_then(|bytes| replace(&path, &bytes, true)),
                false => open_to_write(&path).and_then(|file| file.sync_all()),
            };
            match on_medium.and_then(|()| sync_directory(&dir)) {
                // Between two tries it may have been removed.
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    if first.is_ok() {
                        first = Err(failed(&path, &error));
                    }
                    true
                }
                _ => false,
            }
        });
        if first.is_ok() && self.names {
            first = sync_directory(sessions).map_err(|error| failed(sessions, &error));
            self.names = first.is_err();
        }
        first
    }
}

fn cut(path: &Path, length: u64) -> Result<(), String> {
    let cut = |path: &Path| {
        let file = open_to_write(path)?;
        file.set_len(length)?;
        file.sync_all() // Or the next power loss may mix what was cut with what comes next.
    };
    cut(path).map_err(|error| failed(path, &error))
}

// Writing and reading.

/// How segments reach the medium. Tests put one that fails in its place.
#[derive(Clone, Copy, Debug)]
struct Medium {
    write_at: fn(&File, &[u8], u64) -> io::Result<()>,
    sync: fn(&File) -> io::Result<()>,
}

const DISK: Medium = Medium { write_at, sync: File::sync_data };

fn write_at(file: &File, mut bytes: &[u8], mut offset: u64) -> io::Result<()> {
    while !bytes.is_empty() {
        // To where a page ends, of whatever size: the next piece has its own.
        let room = WRITE_SIZE - offset as usize % WRITE_SIZE;
        let (piece, rest) = bytes.split_at(room.min(bytes.len()));
        file.write_all_at(piece, offset)?;
        (bytes, offset) = (rest, offset + piece.len() as u64);
    }
    Ok(())
}

/// The journals, as the disk thread has them.
#[derive(Debug)]
pub struct Store {
    dir: PathBuf,
    sessions: PathBuf,
    medium: Medium,
    /// Where the next line of `DATA/epochs` goes: what stands behind was never whole.
    epochs_end: u64,
    /// Everything is to survive power loss.
    syncs: bool,
    /// Segments that are open for writing.
    handles: HashMap<Arc<str>, (SegmentId, File)>,
    /// The next start will know that not everything that was shown was written.
    is_marked: bool,
    /// The newest batch was not written, or what was lost before it is not made good yet.
    is_failing: bool,
    /// What could not be brought to the medium at the start: it comes before anything new.
    unsettled: Unsettled,
}

impl Store {
    fn new(dir: &Path, durability: Durability, epochs_end: u64) -> Store {
        let (dir, sessions) = (dir.to_owned(), dir.join("sessions"));
        let (medium, syncs) = (DISK, durability == Durability::Sync);
        Store {
            dir,
            sessions,
            medium,
            epochs_end,
            syncs,
            handles: HashMap::new(),
            is_marked: false,
            is_failing: false,
            unsettled: Unsettled::default(),
        }
    }

    fn path(&self, session_id: &str, segment: SegmentId) -> PathBuf {
        self.sessions.join(session_id).join(segment.file_name())
    }

    /// Writes a batch: all of it, or a failure. What of it was written does no harm.
    ///
    /// # Errors
    /// With the file, and whether what was written before is in doubt.
    pub fn append(&mut self, batch: &Batch) -> Result<(), AppendFailure> {
        let result = self.try_append(batch);
        self.is_failing |= result.is_err();
        if result.is_err() && !self.is_marked {
            self.is_marked = self.mark_broken().is_ok(); // Else the next failure tries again.
        }
        if result.is_ok() && batch.heals {
            let intact = self.dir.join("intact");
            let options = &mut private::writing();
            let made = private::open(&intact, options.create(true).truncate(false));
            made.map_err(|error| failure(&intact, &error))?;
            (self.is_marked, self.is_failing) = (false, false);
        }
        result
    }

    /// Takes away the file whose absence outlives us where no byte can be written.
    fn mark_broken(&self) -> io::Result<()> {
        match fs::remove_file(self.dir.join("intact")) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        if self.syncs { sync_directory(&self.dir) } else { Ok(()) }
    }

    fn try_append(&mut self, batch: &Batch) -> Result<(), AppendFailure> {
        // Anew, since a sync of it may have failed.
        let settled = self.unsettled.settle(&self.sessions, true);
        settled.map_err(|sentence| AppendFailure { sentence, in_doubt: false })?;
        for one in &batch.beside {
            let path = self.sessions.join(&*one.session_id);
            make_directory(&path).map_err(|error| failure(&path, &error))?;
            let path = path.join(beside_name(one.seq, one.kind));
            let file = open_anew(&path).map_err(|error| failure(&path, &error))?;
            write_at(&file, &one.bytes, 0).map_err(|error| failure(&path, &error))?;
            if batch.sync {
                file.sync_data().map_err(|error| failure(&path, &error))?;
            }
        }
        for (at, part) in batch.parts.iter().enumerate() {
            let end = batch.parts.get(at + 1).map_or(batch.bytes.len(), |next| next.from);
            self.write_part(part, &batch.bytes[part.from..end])?;
        }
        if batch.sync {
            self.sync_parts(batch)?;
        }
        for part in &batch.parts {
            if let Some(snapshot) = &part.snapshot {
                self.write_snapshot(&part.session_id, snapshot)?;
            }
            if !part.stays_open {
                // Opened again and synced when its segment ends.
                self.handles.remove(&part.session_id);
            }
        }
        Ok(())
    }

    /// Writes one session's frames where they belong. Takes no memory, unless a file is opened.
    fn write_part(&mut self, part: &Part, bytes: &[u8]) -> Result<(), AppendFailure> {
        let segment = part.place.segment;
        if part.place.is_new {
            self.begin_segment(part)?;
        }
        let known = self.handles.get(&*part.session_id).is_some_and(|(id, _)| *id == segment);
        if !known {
            if self.handles.len() >= HANDLES_MAX {
                self.handles.clear(); // What is closed here is synced when its segment ends.
            }
            let path = self.path(&part.session_id, segment);
            let dir = self.sessions.join(&*part.session_id);
            private::directory(&dir).map_err(|error| failure(&dir, &error))?;
            let file = open_to_write(&path).map_err(|error| failure(&path, &error))?;
            self.handles.insert(part.session_id.clone(), (segment, file));
        }
        let Some((_, file)) = self.handles.get(&*part.session_id) else { return Ok(()) };
        let offset = part.start - segment.start;
        let path = || self.path(&part.session_id, segment);
        (self.medium.write_at)(file, bytes, offset).map_err(|error| {
            let _ = file.set_len(offset); // Half a frame is no use; recovery would cut it, too.
            failure(&path(), &error)
        })?;
        if part.place.rewrites {
            // From here on these bytes count, and no longer those that are in doubt.
            let path = path();
            if self.syncs {
                (self.medium.sync)(file).map_err(|error| in_doubt(&path, &error))?;
            }
            fs::rename(draft(&path), &path).map_err(|error| failure(&path, &error))?;
        }
        Ok(())
    }

    /// Makes a segment's file, and sees that the one before it is on the medium.
    fn begin_segment(&mut self, part: &Part) -> Result<(), AppendFailure> {
        let dir = self.sessions.join(&*part.session_id);
        let refuse = |error: io::Error| failure(&dir, &error);
        make_directory(&dir).map_err(refuse)?;
        let handle = self.handles.remove(&*part.session_id);
        if let Some(closes) = part.place.closes {
            let path = dir.join(closes.file_name());
            let file = match handle {
                Some((id, file)) if id == closes => Ok(file),
                _ => open_to_write(&path),
            };
            let file = file.map_err(|error| failure(&path, &error))?;
            (self.medium.sync)(&file).map_err(|error| in_doubt(&path, &error))?;
        }
        // Of a try to write that failed, before the place was another one.
        let files = Files::list(&dir).map_err(refuse)?;
        let segment = part.place.segment;
        for later in files.segments.iter().filter(|one| one.start > segment.start) {
            let path = dir.join(later.file_name());
            fs::remove_file(&path).map_err(|error| failure(&path, &error))?;
        }
        let path = dir.join(segment.file_name());
        let path = if part.place.rewrites { draft(&path) } else { path };
        let file = open_anew(&path).map_err(|error| failure(&path, &error))?;
        self.handles.insert(part.session_id.clone(), (segment, file));
        Ok(())
    }

    /// Group commit: everything that the batch touched reaches the medium.
    fn sync_parts(&self, batch: &Batch) -> Result<(), AppendFailure> {
        for part in &batch.parts {
            // All files are known: that of a part may have been closed to make room for another's.
            let segment = part.place.segment;
            let known = self.handles.get(&*part.session_id).filter(|(id, _)| *id == segment);
            let path = || self.path(&part.session_id, segment);
            let synced = match known {
                Some((_, file)) => (self.medium.sync)(file),
                None => open_to_write(&path()).and_then(|file| (self.medium.sync)(&file)),
            };
            synced.map_err(|error| in_doubt(&path(), &error))?;
            if part.place.is_new {
                let dir = self.sessions.join(&*part.session_id);
                sync_directory(&dir).map_err(|error| in_doubt(&dir, &error))?;
                sync_directory(&self.sessions).map_err(|error| in_doubt(&self.sessions, &error))?;
            }
        }
        let mut synced: Vec<&str> = Vec::new();
        for one in &batch.beside {
            if !synced.contains(&&*one.session_id) {
                let path = self.sessions.join(&*one.session_id);
                sync_directory(&path).map_err(|error| failure(&path, &error))?;
                synced.push(&one.session_id);
            }
        }
        Ok(())
    }

    /// Puts a snapshot in the place of the last one. Its bytes are synced before it gets its name,
    /// since an empty one would be worse than an old one; its name is where all is.
    fn write_snapshot(&self, session_id: &str, bytes: &[u8]) -> Result<(), AppendFailure> {
        let dir = self.sessions.join(session_id);
        let path = dir.join(SNAPSHOT);
        replace(&path, bytes, true).map_err(|error| failure(&path, &error))?;
        if self.syncs {
            sync_directory(&dir).map_err(|error| failure(&dir, &error))?;
        }
        Ok(())
    }

    /// Reads the next piece of a replay.
    ///
    /// # Errors
    /// If it is gone, or no journal.
    pub fn read(&self, read: &mut Read) -> Result<(), ReadFailure> {
        read.bytes.clear();
        if read.merges {
            return self.merge(read);
        }
        let Some(source) = read.sources.first() else { return Ok(()) };
        let (mut bytes, within) = self.piece(source)?;
        let whole = if within { past::rest_of_frame(&bytes).unwrap_or(bytes.len()) } else { 0 };
        read.damage = self.mend(&mut bytes[whole..], source)?;
        (read.start, read.within, read.bytes) = (source.position, within, bytes);
        Ok(())
    }

    /// Puts the word that it is lost in the place of each frame that is not what was written.
    /// Returns what is to be said of the last one.
    fn mend(&self, frames: &mut [u8], source: &Source) -> Result<Option<String>, ReadFailure> {
        let path = || self.sessions.join(&source.session_id);
        let mut last = None;
        match journal::mend(frames, &source.session_id, |seq| last = Some(seq)) {
            true => Ok(last.map(|seq| damaged(&path(), seq))),
            false => {
                let error = "it holds something that is no frame";
                Err(ReadFailure::Damaged(failed(&path(), &error)))
            }
        }
    }

    /// Whole frames from a position on, and whether it stands within one.
    fn piece(&self, source: &Source) -> Result<(Vec<u8>, bool), ReadFailure> {
        let Some((segment, _)) = source.segments.first().copied() else {
            return Err(ReadFailure::Gone);
        };
        let path = self.path(&source.session_id, segment);
        let file = private::read(&path).map_err(|error| unreadable(&path, &error))?;
        let offset = source.position - segment.start;
        let length = (source.end - source.position) as usize;
        // The two bytes before tell whether a frame ends there; behind a segment's first none does.
        let lead = offset.min(2) as usize;
        let mut size = PIECE_SIZE.min(length);
        loop {
            let mut bytes = vec![0; lead + size];
            let read = read_at(&file, &mut bytes, offset - lead as u64);
            bytes.truncate(read.map_err(|error| unreadable(&path, &error))?);
            if bytes.len() <= lead {
                return Err(ReadFailure::Gone);
            }
            let within = lead > 0 && &bytes[..lead] != b"\n\n";
            let end = memchr::memmem::rfind(&bytes, b"\n\n").map_or(0, |at| at + 2);
            if end > lead {
                bytes.truncate(end);
                bytes.drain(..lead);
                return Ok((bytes, within));
            }
            if bytes.len() < lead + size || size == length {
                let error = "it ends within a frame";
                return Err(ReadFailure::Damaged(failed(&path, &error)));
            }
            size = (2 * size).min(length);
        }
    }

    /// The next frames of several journals, by number.
    fn merge(&self, read: &mut Read) -> Result<(), ReadFailure> {
        let sources = std::mem::take(&mut read.sources);
        let mut cursors: Vec<Cursor> = sources.into_iter().map(Cursor::new).collect();
        loop {
            let least = cursors.iter().enumerate().min_by_key(|(_, cursor)| cursor.least_seq());
            let Some((at, _)) = least else { break };
            let cursor = &mut cursors[at];
            if !cursor.load(self, read.after)? {
                cursors.swap_remove(at);
                continue;
            }
            let frame = cursor.frame();
            let others = cursors.iter().enumerate().filter(|(other, _)| *other != at);
            let is_first = others.map(|(_, other)| other.least_seq()).all(|seq| seq >= frame.0);
            if !is_first {
                continue; // Now that its number is known, another one comes first.
            }
            let cursor = &mut cursors[at];
            let length = cursor.frame().1;
            if !read.bytes.is_empty() && read.bytes.len() + length > PIECE_SIZE {
                break;
            }
            let from = read.bytes.len();
            read.bytes.extend_from_slice(cursor.take());
            let damage = self.mend(&mut read.bytes[from..], &cursor.source)?;
            read.damage = damage.or(read.damage.take());
        }
        read.sources = cursors.into_iter().map(Cursor::into_source).collect();
        Ok(())
    }

    /// Goes on with a page of one journal, backwards, by one segment: whoever writes need not wait
    /// for all of them. Returns whether there may be more to do.
    ///
    /// # Errors
    /// If a segment cannot be read.
    pub fn page(&self, page: &mut Page) -> Result<bool, ReadFailure> {
        let Some((segment, end)) = page.source.segments.pop() else { return Ok(false) };
        if segment.first_seq >= page.before {
            return Ok(true);
        }
        let path = self.path(&page.source.session_id, segment);
        let file = private::read(&path).map_err(|error| unreadable(&path, &error))?;
        let end = end.min(page.source.end);
        let mut bytes = vec![0; end.saturating_sub(segment.start) as usize];
        let count = read_at(&file, &mut bytes, 0);
        bytes.truncate(count.map_err(|error| unreadable(&path, &error))?);
        let mut wanted = Vec::new();
        let mut at = 0;
        while let Some((seq, kind, length)) = past::head(&bytes[at..])
            && seq < page.before
        {
            // Text of a block that has ended is told once more by its end, on disk as in memory.
            let superseded = kind == EventKind::SessionOutput as u8
                && page.filter.is_compact()
                && past::is_superseded(&bytes[at..at + length], |_, message_id, block| {
                    page.open.iter().any(|open| open.0 == message_id && open.1 == block)
                });
            if page.filter.takes(kind, superseded) {
                wanted.push(at..at + length);
            }
            at += length;
        }
        let mut size = page.bytes.len();
        let first = wanted.iter().rposition(|range| {
            size += range.len();
            page.more = page.found == page.limit || size > page.size_max && page.found > 0;
            page.found += usize::from(!page.more);
            page.more
        });
        let taken = wanted.drain(first.map_or(0, |at| at + 1)..);
        let mut found: Vec<u8> = taken.flat_map(|range| &bytes[range]).copied().collect();
        let damage = self.mend(&mut found, &page.source)?;
        page.damage = damage.or(page.damage.take());
        found.append(&mut page.bytes);
        page.bytes = found;
        Ok(!page.more)
    }

    /// One event's large field, or its frame; or one of the images that came with it.
    pub fn fetch(
        &self,
        part: EventPart,
        source: &Source,
        from: u64,
    ) -> Result<Fetched, ReadFailure> {
        let EventPart { seq, image, .. } = part;
        let dir = self.sessions.join(&source.session_id);
        // Only an event of this very session: the frame is looked for first.
        let mut cursor = Cursor::new(Source {
            session_id: source.session_id.clone(),
            segments: source.segments.clone(),
            ..*source
        });
        let found = cursor.load(self, seq - 1)? && cursor.frame().0 == seq;
        if !found {
            return Err(ReadFailure::Gone);
        }
        if let Some(number) = image {
            let path = dir.join(beside_name(seq, Kind::Images));
            let json = read_file(&path).map_err(|error| unreadable(&path, &error))?;
            let images: Vec<(String, String)> = document::read_bytes(&json).unwrap_or_default();
            let image = images.get(number as usize).and_then(|(_, text)| base64::decode(text));
            let image = image.ok_or(ReadFailure::Gone)?;
            let piece = image.get(from as usize..).ok_or(ReadFailure::Gone)?;
            let bytes = piece[..piece.len().min(TAIL_PIECE_SIZE)].to_vec();
            return Ok(Fetched::Piece { media: Media::Image, length: image.len() as u64, bytes });
        }
        for (kind, media) in [(Kind::Text, Media::Text), (Kind::Json, Media::Json)] {
            let path = dir.join(beside_name(seq, kind));
            match piece_of(&path, from).map_err(|error| unreadable(&path, &error)) {
                Err(ReadFailure::Gone) => {} // It has no such field.
                Err(failure) => return Err(failure),
                // What a power loss has left of it is not what was told.
                Ok((length, _)) if !tells_size(cursor.peek(), length) => {
                    return Err(ReadFailure::Gone);
                }
                Ok((length, bytes)) => return Ok(Fetched::Piece { media, length, bytes }),
            }
        }
        if from > 0 {
            return Err(ReadFailure::Gone);
        }
        let mut frame = cursor.take().to_vec();
        self.mend(&mut frame, source)?;
        Ok(Fetched::Frame(frame))
    }

    /// Removes a segment and what stands beside it, numbers up to `until`.
    ///
    /// # Errors
    /// With the file.
    pub fn drop_segment(
        &mut self,
        session_id: &str,
        segment: SegmentId,
        until: u64,
        snapshot: Option<&[u8]>,
    ) -> Result<(), String> {
        if let Some(snapshot) = snapshot {
            self.write_snapshot(session_id, snapshot).map_err(|failure| failure.sentence)?;
        }
        if self.handles.get(session_id).is_some_and(|(id, _)| *id == segment) {
            self.handles.remove(session_id);
        }
        let path = self.path(session_id, segment);
        fs::remove_file(&path).map_err(|error| failed(&path, &error))?;
        let dir = self.sessions.join(session_id);
        let files = Files::list(&dir).map_err(|error| failed(&dir, &error))?;
        for (_, _, path) in files.beside.iter().filter(|(seq, _, _)| *seq <= until) {
            fs::remove_file(path).map_err(|error| failed(path, &error))?;
        }
        Ok(())
    }

    /// Removes everything of a session, and notes up to which number cursors miss it.
    ///
    /// # Errors
    /// With the file.
    pub fn erase(&mut self, session_id: &str, last_seq: u64) -> Result<(), String> {
        self.handles.remove(session_id);
        self.note(&format!("erased {last_seq}\n"))?; // A journal that is gone without a word is a hole.
        let path = self.sessions.join(session_id);
        remove_session(&self.sessions, session_id).map_err(|error| failed(&path, &error))
    }

    /// Adds a line to `DATA/epochs`.
    fn note(&mut self, line: &str) -> Result<(), String> {
        let path = self.dir.join("epochs");
        let file = open_to_write(&path).map_err(|error| failed(&path, &error))?;
        file.set_len(self.epochs_end)
            .and_then(|()| file.write_all_at(line.as_bytes(), self.epochs_end))
            .and_then(|()| file.sync_data())
            .map_err(|error| failed(&path, &error))?;
        self.epochs_end += line.len() as u64;
        Ok(())
    }

    /// The end: what is written reaches the medium. The next start is told so, and has nothing to
    /// doubt if the machine was started anew in between.
    pub fn close(mut self) {
        let settled = self.settle_all();
        if settled.is_ok() && !self.is_failing {
            let _ = self.note("settled\n"); // Nobody is left to tell; the next start doubts.
        }
    }

    /// Syncs every file of every session: what an earlier start of this boot wrote, too, and
    /// nobody has synced since.
    fn settle_all(&mut self) -> io::Result<()> {
        for (_, file) in std::mem::take(&mut self.handles).into_values() {
            (self.medium.sync)(&file)?; // An error of it may be told to this descriptor alone.
        }
        for session in fs::read_dir(&self.sessions)? {
            let dir = session?.path();
            if !fs::symlink_metadata(&dir)?.is_dir() {
                continue; // None of ours.
            }
            let files = Files::list(&dir)?;
            let segments = files.segments.iter().map(|id| dir.join(id.file_name()));
            let beside = files.beside.into_iter().map(|(_, _, path)| path);
            for path in segments.chain(beside).chain([dir.join(SNAPSHOT)]) {
                match private::read(&path) {
                    Err(error) if error.kind() == ErrorKind::NotFound => {}
                    file => (self.medium.sync)(&file?)?,
                }
            }
            sync_directory(&dir)?;
        }
        sync_directory(&self.sessions)?;
        sync_directory(&self.dir) // That all is well again may be news of this start.
    }
}

fn failure(path: &Path, error: &dyn Display) -> AppendFailure {
    AppendFailure { sentence: failed(path, error), in_doubt: false }
}

fn in_doubt(path: &Path, error: &dyn Display) -> AppendFailure {
    AppendFailure { in_doubt: true, ..failure(path, error) }
}

fn unreadable(path: &Path, error: &io::Error) -> ReadFailure {
    match error.kind() {
        ErrorKind::NotFound => ReadFailure::Gone,
        _ => ReadFailure::Damaged(failed(path, error)),
    }
}

/// Reads until the buffer is full or the file ends.
fn read_at(file: &File, bytes: &mut [u8], offset: u64) -> io::Result<usize> {
    let mut done = 0;
    while done < bytes.len() {
        match file.read_at(&mut bytes[done..], offset + done as u64) {
            Ok(0) => break,
            Ok(count) => done += count,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(done)
}

/// One journal's place in a merge.
struct Cursor {
    source: Source,
    bytes: Vec<u8>,
    at: usize,
    /// Number and length of the frame at `at`, once it is known.
    frame: Option<(u64, usize)>,
}

impl Cursor {
    fn new(source: Source) -> Cursor {
        Cursor { source, bytes: Vec::new(), at: 0, frame: None }
    }

    fn least_seq(&self) -> u64 {
        self.source.least_seq
    }

    fn frame(&self) -> (u64, usize) {
        self.frame.unwrap_or_default()
    }

    /// The bytes of that frame.
    fn peek(&self) -> &[u8] {
        let (_, length) = self.frame();
        &self.bytes[self.at..self.at + length]
    }

    fn take(&mut self) -> &[u8] {
        let (seq, length) = self.frame.take().unwrap_or_default();
        let start = self.at;
        self.at += length;
        self.source.position += length as u64;
        self.source.least_seq = seq + 1;
        &self.bytes[start..start + length]
    }

    /// Finds the next frame behind number `after`. Returns whether there is one.
    fn load(&mut self, store: &Store, after: u64) -> Result<bool, ReadFailure> {
        while self.frame.is_none() {
            if self.source.position >= self.source.end {
                return Ok(false);
            }
            let Some((seq, length)) = self.head() else {
                self.fill(store)?;
                continue;
            };
            if seq <= after {
                self.at += length;
                self.source.position += length as u64;
                continue;
            }
            self.frame = Some((seq, length));
            self.source.least_seq = seq;
        }
        Ok(true)
    }

    /// Number and length of the frame at the start of what is read.
    fn head(&self) -> Option<(u64, usize)> {
        let rest = &self.bytes[self.at..];
        let end = memchr::memmem::find(rest, b"\n\n")? + 2;
        let id = rest.strip_prefix(b"id: ")?;
        let id = &id[..memchr::memchr(b'\n', id)?];
        Some((crate::wire::sse::EventId::parse(id)?.seq, end))
    }

    /// Reads more of the segment in which the position stands.
    fn fill(&mut self, store: &Store) -> Result<(), ReadFailure> {
        let position = self.source.position;
        while self.source.segments.first().is_some_and(|(_, end)| position >= *end) {
            self.source.segments.remove(0);
        }
        let Some((segment, end)) = self.source.segments.first().copied() else {
            return Err(ReadFailure::Gone);
        };
        if position < segment.start {
            // The other side of a hole. Whoever must not pass it was told so before.
            self.source.position = segment.start;
            (self.at, self.bytes) = (0, Vec::new());
            return Ok(());
        }
        let path = store.path(&self.source.session_id, segment);
        let kept = self.bytes.len() - self.at;
        let size = (kept + MERGE_READ_SIZE).max(2 * kept);
        let size = size.min((end.min(self.source.end) - position) as usize);
        if size <= kept {
            let error = "it holds no frame where one should be";
            return Err(ReadFailure::Damaged(failed(&path, &error)));
        }
        let file = private::read(&path).map_err(|error| unreadable(&path, &error))?;
        let mut bytes = vec![0; size];
        let count = read_at(&file, &mut bytes, position - segment.start);
        bytes.truncate(count.map_err(|error| unreadable(&path, &error))?);
        if bytes.len() <= kept {
            return Err(ReadFailure::Gone);
        }
        (self.bytes, self.at) = (bytes, 0);
        Ok(())
    }

    fn into_source(self) -> Source {
        self.source
    }
}

#[cfg(test)]
mod tests;
