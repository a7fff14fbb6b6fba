//! Server starts, the numbers they issued, and whether a cursor of one of them still holds.
//!
//! Each start has a random epoch and begins 2^40 numbers after the one before, so numbers rise
//! across restarts and no id is issued twice. A cursor is good only if what its epoch showed is
//! known to have survived how that epoch ended; what retention took is the journal's business.

use crate::wire::sse::{Epoch, EventId};
use std::fmt::Write as _;

/// Numbers from one start to the next.
pub const STEP: u64 = 1 << 40;
/// The newest number that is believed: behind it there is none for another start.
pub const SEQ_MAX: u64 = u64::MAX - 2 * STEP;

/// What an event must have survived before anybody sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Nothing: everything ends with the process.
    Memory,
    /// The process being killed.
    Write,
    /// Power loss.
    Sync,
}

impl Durability {
    /// The word of the command line and of the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Durability::Memory => "memory",
            Durability::Write => "write",
            Durability::Sync => "sync",
        }
    }

    fn parse(word: &str) -> Option<Durability> {
        let all = [Durability::Memory, Durability::Write, Durability::Sync];
        all.into_iter().find(|mode| mode.as_str() == word)
    }
}

/// One server start.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// Its half of the ids.
    pub epoch: Epoch,
    /// The number of its first event.
    pub first_seq: u64,
    /// What its events survived.
    pub durability: Durability,
    /// The kernel's boot that it lived in: a word. Another one means that power may have failed.
    pub boot_id: String,
    /// It ended while its journal took no writes: what it showed last is gone.
    pub broken: bool,
    /// It ended in order, and all that it and the starts before it wrote was on the medium by then.
    pub settled: bool,
    /// How far it got, as the start after it found: no number above this one is on disk, or of a
    /// session that was erased. Not known of one that has not ended, or kept nothing.
    pub reached: Option<u64>,
}

impl Start {
    /// A start that has not ended yet.
    pub fn new(epoch: Epoch, first_seq: u64, durability: Durability, boot_id: String) -> Start {
        let (broken, settled, reached) = (false, false, None);
        Start { epoch, first_seq, durability, boot_id, broken, settled, reached }
    }
}

/// Every start of this data directory, the present one last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Epochs {
    starts: Vec<Start>,
    /// The newest number of a session that was erased.
    pub erased: u64,
}

impl Epochs {
    /// The history of a server that has none.
    pub fn first(start: Start) -> Epochs {
        Epochs { starts: vec![start], erased: 0 }
    }

    /// Reads the file. Returns how much of it is whole lines, too: a torn last one never counted.
    ///
    /// # Errors
    /// The number of the line that is none of ours.
    pub fn parse(text: &[u8]) -> Result<(Epochs, usize), usize> {
        let whole = text.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        let mut epochs = Epochs::default();
        for (number, line) in text[..whole].split_inclusive(|byte| *byte == b'\n').enumerate() {
            let line = std::str::from_utf8(line).ok().and_then(|line| line.strip_suffix('\n'));
            line.and_then(|line| epochs.read(line)).ok_or(number + 1)?;
        }
        Ok((epochs, whole))
    }

    fn read(&mut self, line: &str) -> Option<()> {
        let words: Vec<&str> = line.split(' ').collect();
        match *words {
            ["start", epoch, first_seq, durability, boot_id] => {
                let first_seq: u64 = first_seq.parse().ok()?;
                let rises = self.starts.last().is_none_or(|last| last.first_seq < first_seq);
                if !rises || first_seq > SEQ_MAX {
                    return None;
                }
                let epoch = EventId::parse(format!("{epoch}-0").as_bytes())?.epoch;
                let durability = Durability::parse(durability)?;
                self.starts.push(Start::new(epoch, first_seq, durability, boot_id.to_owned()));
            }
            ["broken"] => self.starts.last_mut()?.broken = true,
            ["settled"] => self.starts.last_mut()?.settled = true,
            ["reached", seq] => self.starts.last_mut()?.reached = Some(seq.parse().ok()?),
            ["erased", seq] => self.erased = self.erased.max(seq.parse().ok()?),
            _ => return None,
        }
        Some(())
    }

    /// The line that tells of a start.
    pub fn line(start: &Start) -> String {
        let mut line = String::new();
        let (epoch, mode) = (start.epoch, start.durability.as_str());
        let _ = writeln!(line, "start {epoch} {} {mode} {}", start.first_seq, start.boot_id);
        line
    }

    /// The first number of the next start: above everything that was ever issued here, as far as
    /// this file and the newest number found in a journal tell.
    pub fn next_seq(&self, newest_found: u64) -> u64 {
        let next = self.starts.last().map_or(1, |last| last.first_seq + STEP);
        if newest_found < next { next } else { newest_found + STEP }
    }

    /// What the newest start's events survived.
    pub fn last_mode(&self) -> Option<Durability> {
        self.starts.last().map(|last| last.durability)
    }

    /// The newest start.
    pub fn last(&self) -> Option<&Start> {
        self.starts.last()
    }

    /// Adds a start.
    pub fn begin(&mut self, start: Start) {
        debug_assert!(self.starts.last().is_none_or(|last| last.first_seq < start.first_seq));
        self.starts.push(start);
    }

    /// Says that the newest start ended while its journal took no writes.
    pub fn break_last(&mut self) {
        if let Some(last) = self.starts.last_mut() {
            last.broken = true;
        }
    }

    /// Says how far the newest start got, if its numbers are on disk: `found` is the newest number of
    /// all that is left of it. Returns the line that tells so, unless there is one.
    ///
    /// A directory may be an older copy of itself. Then that start showed more than is left, to
    /// clients whose cursors must not pass for good.
    pub fn reach_last(&mut self, found: u64) -> Option<String> {
        let reached = found.max(self.erased);
        let last = self.starts.last_mut();
        let last = last.filter(|last| last.durability != Durability::Memory)?;
        let is_news = last.reached.replace(reached) != Some(reached);
        is_news.then(|| format!("reached {reached}\n"))
    }

    /// The first number of what may not be where its start left it: that of the newest start; or,
    /// where start after start ended while its journal took no writes, that of the first of those.
    pub fn doubtful_from(&self) -> u64 {
        let whole = self.starts.iter().rposition(|start| !start.broken);
        let first = whole.map_or(0, |at| (at + 1).min(self.starts.len() - 1));
        self.starts.get(first).map_or(0, |start| start.first_seq)
    }

    /// Whether what the newest start showed is on disk, if the next one lives in boot `boot_id`.
    pub fn last_survived(&self, boot_id: &str) -> bool {
        self.starts.last().is_none_or(|last| survived(last, boot_id))
    }

    /// The present start.
    ///
    /// # Panics
    /// If there is none: a server has one before it is made.
    pub fn present(&self) -> &Start {
        self.starts.last().expect("a server has a start")
    }

    /// The id of event `seq`. A cursor right before the first event of this start is of it, too.
    pub fn id(&self, seq: u64) -> EventId {
        let at =
            self.starts.partition_point(|start| start.first_seq <= seq.saturating_add(1)).max(1)
                - 1;
        let at = match self.starts.get(at) {
            Some(start)
                if start.first_seq == seq.saturating_add(1) && at + 1 < self.starts.len() =>
            {
                at.saturating_sub(1) // An old event, the last of its start.
            }
            _ => at,
        };
        EventId { epoch: self.starts[at].epoch, seq }
    }

    /// Whether a journal whose newest number is `seq` tells all that ever happened, if the next start lives in boot
    /// `boot_id`: nothing that was shown since then can be missing. A start that kept none changed nothing in it.
    pub fn journal_survived(&self, seq: u64, boot_id: &str) -> bool {
        let at = self.starts.partition_point(|start| start.first_seq <= seq).saturating_sub(1);
        let kept = self.starts[at..].iter().filter(|start| start.durability != Durability::Memory);
        let boots = kept.clone().skip(1).map(|start| &*start.boot_id).chain([boot_id]);
        kept.zip(boots).all(|(start, next)| survived(start, next))
    }

    /// Whether a cursor holds: its epoch is known, got as far as that number for all that is left of
    /// it, and what was shown since then has survived the end of every start up to the present one.
    /// A power loss takes what an earlier start of the same boot wrote, too.
    pub fn holds(&self, cursor: EventId, visible: u64) -> bool {
        let Some(at) = self.starts.iter().rposition(|start| start.epoch == cursor.epoch) else {
            return false;
        };
        let (start, next) = (&self.starts[at], self.starts.get(at + 1));
        // Before its first event a start has shown the number before that.
        let least = start.first_seq.saturating_sub(1);
        let newest = match next {
            None => visible,
            Some(next) => start.reached.unwrap_or(u64::MAX).clamp(least, next.first_seq - 1),
        };
        if !(least..=newest).contains(&cursor.seq) {
            return false;
        }
        self.starts[at..].windows(2).all(|pair| survived(&pair[0], &pair[1].boot_id))
    }
}

/// Whether what a start showed is on disk, if the next one lives in boot `boot_id`.
fn survived(start: &Start, boot_id: &str) -> bool {
    match start.durability {
        Durability::Memory => false,
        Durability::Write => {
            let same_boot = start.boot_id == boot_id && boot_id != "-";
            !start.broken && (same_boot || start.settled)
        }
        Durability::Sync => !start.broken,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn epochs() -> Epochs {
        let text = "start 00000000000a 1 memory boot1\nstart 00000000000b 100 write boot1\n\
            start 00000000000c 200 write boot1\nstart 00000000000d 300 sync boot2\n\
            start 00000000000e 400 write boot3\nbroken\nerased 350\n\
            start 00000000000f 500 write boot3\n";
        Epochs::parse(text.as_bytes()).unwrap().0
    }

    #[test]
    fn of_starts_that_ended_broken_one_after_the_other_all_are_in_doubt() {
        let mut text = String::new();
        assert_eq!(Epochs::default().doubtful_from(), 0);
        for (line, first) in [
            ("start 00000000000a 1 sync boot1\nbroken\n", 1),
            ("start 00000000000b 100 write boot1\n", 100),
            ("start 00000000000c 200 write boot1\nbroken\n", 200),
            ("start 00000000000d 300 sync boot2\nbroken\n", 200),
            ("start 00000000000e 400 write boot3\n", 400),
        ] {
            text += line;
            assert_eq!(Epochs::parse(text.as_bytes()).unwrap().0.doubtful_from(), first, "{text}");
        }
    }

    #[test]
    fn a_cursor_holds_only_if_what_was_shown_since_then_survived() {
        let epochs = epochs();
        // What the starts were by the time of the one with this epoch, and the verdict then.
        for (present, epoch, seq, holds, why) in [
            (0xb, 0xa, 5, false, "memory survives nothing"),
            (0xc, 0xb, 99, true, "right before its first event"),
            (0xc, 0xb, 98, false, "never issued by it"),
            (0xc, 0xb, 150, true, "write, and the same boot after it"),
            (0xc, 0xb, 199, true, "its last possible number"),
            (0xc, 0xb, 200, false, "the next epoch's number"),
            (0xd, 0xb, 150, false, "the power failed later, and it had not synced either"),
            (0xd, 0xc, 250, false, "write, and another boot after it"),
            (0xe, 0xd, 350, true, "sync survives another boot"),
            (0xf, 0xd, 350, false, "what came after it was shown, and lost"),
            (0xf, 0xe, 450, false, "its journal took no writes at its end"),
            (0xf, 0xf, 499, true, "the present one, before its first event"),
            (0xf, 0xf, 520, true, "the present one"),
            (0xf, 0xf, 521, false, "above what is visible"),
            (0xf, 0x9, 150, false, "an epoch that is not known"),
        ] {
            let mut then = epochs.clone();
            then.starts.truncate(present as usize - 0xa + 1);
            let cursor = EventId { epoch: Epoch::new(epoch), seq };
            assert_eq!(then.holds(cursor, 520), holds, "{epoch:x}-{seq}: {why}");
        }
        assert_eq!(epochs.erased, 350);
        assert!(epochs.last_survived("boot3") && !epochs.last_survived("boot4"));
        let mut settled = epochs.clone();
        settled.starts[5].settled = true;
        assert!(settled.last_survived("boot4"), "all of it was on the medium before the boot");
        let memory = Start { durability: Durability::Memory, ..settled.present().clone() };
        settled.begin(Start { first_seq: 600, settled: false, ..memory });
        assert!(!settled.last_survived("boot4") && settled.journal_survived(550, "boot4"));
        assert!(
            !settled.journal_survived(450, "boot4"),
            "that start was broken, and no later one wrote to it"
        );
        settled.starts[5].settled = false;
        assert!(!settled.journal_survived(550, "boot4") && settled.journal_survived(550, "boot3"));
        let mut unknown = epochs.clone();
        unknown.starts[5].boot_id = "-".into();
        assert!(!unknown.last_survived("-"), "two unknown boots are not the same one");
    }

    #[test]
    fn a_cursor_above_what_is_left_of_its_start_does_not_hold() {
        let mut epochs = epochs();
        assert_eq!(epochs.reach_last(520), Some("reached 520\n".to_owned()));
        assert_eq!(epochs.reach_last(520), None, "it is told already");
        let line = Epochs::line(&Start { first_seq: 600, ..epochs.present().clone() });
        let told = "start 00000000000f 500 write boot3\n";
        let text = format!("{told}reached 520\n{line}reached 560\n");
        let read = Epochs::parse(text.as_bytes()).unwrap().0;
        assert_eq!(
            read.starts.iter().map(|one| one.reached).collect::<Vec<_>>(),
            [Some(520), Some(560)]
        );
        epochs.begin(Start {
            first_seq: 600,
            epoch: Epoch::new(16),
            ..Start::clone(epochs.present())
        });
        epochs.starts[6].reached = None;
        let holds = |epochs: &Epochs, epoch, seq| {
            epochs.holds(EventId { epoch: Epoch::new(epoch), seq }, 640)
        };
        for (seq, expected) in [(498, false), (499, true), (520, true), (521, false), (599, false)]
        {
            assert_eq!(holds(&epochs, 0xf, seq), expected, "{seq}");
        }
        assert!(holds(&epochs, 16, 599) && holds(&epochs, 16, 640) && !holds(&epochs, 16, 641));
        // A start that never said anything, and an older version that did not say how far it got.
        assert_eq!(epochs.reach_last(520), Some("reached 520\n".to_owned()));
        epochs.begin(Start {
            first_seq: 700,
            epoch: Epoch::new(17),
            ..Start::clone(epochs.present())
        });
        assert!(holds(&epochs, 16, 599) && !holds(&epochs, 16, 600));
        epochs.starts[5].reached = None;
        assert!(holds(&epochs, 0xf, 599), "it is not known");
        let mut memory =
            Epochs::first(Start::new(Epoch::new(1), 1, Durability::Memory, "-".into()));
        assert_eq!(memory.reach_last(7), None, "nothing of it is left, and nobody says so");
        // A session that is gone showed what no journal holds any more.
        let mut erased = Epochs::parse(text.as_bytes()).unwrap().0;
        erased.erased = 570;
        assert_eq!(erased.reach_last(560), Some("reached 570\n".to_owned()));
    }

    #[test]
    fn an_id_says_which_start_issued_it() {
        let epochs = epochs();
        for (seq, epoch) in
            [(1, 0xa), (99, 0xa), (100, 0xb), (399, 0xd), (400, 0xe), (499, 0xf), (9999, 0xf)]
        {
            assert_eq!(epochs.id(seq).epoch, Epoch::new(epoch), "{seq}");
        }
        let first = Start { first_seq: 1, ..epochs.present().clone() };
        assert_eq!(Epochs::first(first).id(0).epoch, Epoch::new(0xf));
    }

    #[test]
    fn numbers_rise_from_start_to_start_also_when_the_file_is_older_than_the_journals() {
        let epochs = epochs();
        assert_eq!(epochs.next_seq(0), 500 + STEP);
        assert_eq!(epochs.next_seq(500 + STEP - 1), 500 + STEP);
        assert_eq!(epochs.next_seq(500 + STEP), 500 + 2 * STEP);
        assert_eq!(Epochs::default().next_seq(0), 1);
    }

    #[test]
    fn a_torn_last_line_never_counted_and_any_other_is_damage() {
        let start = epochs().present().clone();
        let line = Epochs::line(&start);
        let (read, whole) = Epochs::parse(format!("{line}start 0000").as_bytes()).unwrap();
        assert_eq!((read, whole), (Epochs::first(start), line.len()));
        for damaged in [
            "x\n",
            "start 1 2 3 4\n",
            "broken\n",
            "reached 1\n",
            "start 00000000000a 1 write\n",
            "\n",
        ] {
            assert_eq!(Epochs::parse(damaged.as_bytes()), Err(1), "{damaged:?}");
        }
        assert_eq!(Epochs::parse(format!("{line}{line}").as_bytes()), Err(2), "it does not rise");
    }
}
