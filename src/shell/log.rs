//! Lines for machines, to stderr: `ts=… level=… area=… msg=… key=value…`, one write each.
//!
//! Promises: never blocks (when stderr would, the line is dropped and counted), never floods
//! (by kind, which is area and message), and lets no control character through to a terminal.
//! stderr stays blocking: its mode belongs to everyone who shares it.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use super::{clock, sys};
use crate::core::effect::{Level, LogLine};

/// Lines of one kind within one window.
const KIND_LINES_MAX: u32 = 10;
/// How long a window is.
const KIND_WINDOW_MS: u64 = 5_000;
/// Kinds kept apart; beyond them the longest silent one is forgotten. There are as many kinds
/// as places in the source that log, so this is ample.
const KINDS_MAX: usize = 128;
/// A line's bytes. A pipe with any room takes this much in one piece (PIPE_BUF).
const LINE_MAX: usize = 4096;

fn name(level: Level) -> &'static str {
    match level {
        Level::Error => "error",
        Level::Warn => "warn",
        Level::Info => "info",
        Level::Debug => "debug",
    }
}

/// One kind's window.
struct Kind {
    area: &'static str,
    message: &'static str,
    since_ms: u64,
    lines: u32,
    suppressed: u64,
}

/// The writer.
pub struct Log {
    level: Level,
    /// `None` when there was no descriptor left to reach stderr by: then all is dropped.
    out: Option<File>,
    kinds: Vec<Kind>,
    /// The line being made, and the value being escaped.
    line: String,
    value: String,
    /// Lines dropped since the last one that was written.
    unreported: u64,
    dropped: u64,
}

impl Log {
    /// A log to stderr of what matters at least as much as `level`.
    pub fn new(level: Level) -> Log {
        Log::with(level, io::stderr().as_fd().try_clone_to_owned().ok().map(File::from))
    }

    /// A log to another open file.
    pub fn to(level: Level, out: File) -> Log {
        Log::with(level, Some(out))
    }

    fn with(level: Level, out: Option<File>) -> Log {
        Log {
            level,
            out,
            kinds: Vec::with_capacity(KINDS_MAX),
            line: String::with_capacity(LINE_MAX),
            value: String::new(),
            unreported: 0,
            dropped: 0,
        }
    }

    /// Lines lost so far because stderr would have blocked, or failed.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Writes one line, or counts why not. `now_ms` is the monotonic clock. The keys are ours,
    /// the values anybody's. A line too long for [`LINE_MAX`] ends in an ellipsis.
    pub fn line(&mut self, now_ms: u64, line: &LogLine) {
        if line.level > self.level {
            return;
        }
        let Some(suppressed) = self.admit(now_ms, line.area, line.message) else { return };
        self.render(line, suppressed);
        self.write();
    }

    /// Whether this kind may have a line now, and how many it was denied since its last.
    fn admit(&mut self, now_ms: u64, area: &'static str, message: &'static str) -> Option<u64> {
        let known = self.kinds.iter().position(|kind| kind.area == area && kind.message == message);
        let index = known.unwrap_or_else(|| {
            let new = Kind { area, message, since_ms: now_ms, lines: 0, suppressed: 0 };
            if self.kinds.len() < KINDS_MAX {
                self.kinds.push(new);
                return self.kinds.len() - 1;
            }
            let oldest = (0..KINDS_MAX).min_by_key(|&index| self.kinds[index].since_ms);
            let oldest = oldest.unwrap_or(0);
            self.kinds[oldest] = new;
            oldest
        });
        let kind = &mut self.kinds[index];
        if now_ms.saturating_sub(kind.since_ms) >= KIND_WINDOW_MS {
            (kind.since_ms, kind.lines) = (now_ms, 0);
        }
        if kind.lines >= KIND_LINES_MAX {
            kind.suppressed += 1;
            return None;
        }
        kind.lines += 1;
        Some(std::mem::take(&mut kind.suppressed))
    }

    fn render(&mut self, line: &LogLine, suppressed: u64) {
        self.line.clear();
        self.line.push_str("ts=");
        push_time(&mut self.line, clock::wall_ms());
        self.field("level", &name(line.level));
        self.field("area", &line.area);
        self.field("msg", &line.message);
        for (key, value) in &line.fields {
            self.field(key, value);
        }
        if suppressed > 0 {
            self.field("suppressed", &suppressed);
        }
        if self.unreported > 0 {
            self.field("dropped", &self.unreported.clone());
        }
        if self.line.len() >= LINE_MAX {
            const ELLIPSIS: char = '…';
            let end = self.line.floor_char_boundary(LINE_MAX - 1 - ELLIPSIS.len_utf8());
            self.line.truncate(end);
            self.line.push(ELLIPSIS);
        }
        self.line.push('\n');
    }

    fn field(&mut self, key: &str, value: &dyn Display) {
        if self.line.len() >= LINE_MAX {
            return; // It is cut already.
        }
        self.value.clear();
        let _ = write!(self.value, "{value}"); // Into a String: cannot fail but by its own will.
        self.line.push(' ');
        self.line.push_str(key);
        self.line.push('=');
        push_value(&mut self.line, &self.value);
        if self.value.capacity() > LINE_MAX {
            self.value = String::new(); // One huge value must not be held for ever.
        }
    }

    fn write(&mut self) {
        let written = match &mut self.out {
            Some(out) => sys::writable_now(&*out) && out.write(self.line.as_bytes()).is_ok(),
            None => false,
        };
        if written {
            self.unreported = 0;
        } else {
            self.unreported += 1;
            self.dropped += 1;
        }
        if self.line.capacity() > 4 * LINE_MAX {
            self.line = String::with_capacity(LINE_MAX);
        }
    }
}

/// Bare where that is unambiguous, else quoted, with everything escaped that is not printed as
/// itself: control characters, line ends, direction marks.
fn push_value(line: &mut String, value: &str) {
    let bare = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    if !value.is_empty() && value.bytes().all(bare) {
        line.push_str(value);
        return;
    }
    line.push('"');
    for char in value.chars().take(LINE_MAX) {
        match char {
            '"' => line.push_str("\\\""),
            '\\' => line.push_str("\\\\"),
            ' '..='~' => line.push(char),
            _ => line.extend(char.escape_debug()),
        }
    }
    line.push('"');
}

/// RFC 3339 in UTC, with milliseconds.
fn push_time(line: &mut String, wall_ms: u64) {
    let (seconds, ms) = (wall_ms / 1000, wall_ms % 1000);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    // Years start in March here, so that the leap day is a year's last; 400 years are an era.
    let days = days + 719_468; // From 0000-03-01 to 1970-01-01.
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + carry;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let _ =
        write!(line, "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ms:03}Z");
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{PipeReader, Read};

    fn piped(level: Level) -> (Log, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Log::to(level, File::from(std::os::fd::OwnedFd::from(writer))), reader)
    }

    fn tell(
        log: &mut Log,
        now_ms: u64,
        level: Level,
        area: &'static str,
        message: &'static str,
        fields: &[(&'static str, &dyn Display)],
    ) {
        let fields = fields.iter().map(|(key, value)| (*key, value.to_string())).collect();
        log.line(now_ms, &LogLine { level, area, message, fields });
    }

    fn written(log: Log, mut reader: PipeReader) -> Vec<String> {
        drop(log);
        let mut text = String::new();
        reader.read_to_string(&mut text).unwrap();
        text.lines().map(|line| line.split_once(' ').unwrap().1.to_string()).collect()
    }

    #[test]
    fn a_line_is_keys_and_values_and_levels_below_are_silent() {
        let (mut log, reader) = piped(Level::Info);
        tell(
            &mut log,
            1,
            Level::Warn,
            "http",
            "refused",
            &[("peer", &"127.0.0.1:9"), ("count", &3)],
        );
        tell(&mut log, 1, Level::Debug, "http", "refused", &[]);
        let line = "level=warn area=http msg=refused peer=127.0.0.1:9 count=3";
        assert_eq!(written(log, reader), [line]);
    }

    #[test]
    fn no_control_character_reaches_a_terminal() {
        for (value, expected) in [
            ("plain/path-1.2", "plain/path-1.2"),
            ("", r#""""#),
            ("two words", r#""two words""#),
            ("a=b", r#""a=b""#),
            ("\"\\", r#""\"\\""#),
            ("line\nts=forged", r#""line\nts=forged""#),
            ("\u{1b}[2J\u{7}\u{7f}\u{9b}", r#""\u{1b}[2J\u{7}\u{7f}\u{9b}""#),
            ("\u{202e}evil", r#""\u{202e}evil""#),
            ("größe", "\"größe\""),
        ] {
            let mut line = String::new();
            push_value(&mut line, value);
            assert_eq!(line, expected);
        }
    }

    #[test]
    fn a_kind_that_floods_is_cut_and_says_so_while_others_pass() {
        let (mut log, reader) = piped(Level::Info);
        for _ in 0..KIND_LINES_MAX + 7 {
            tell(&mut log, 1, Level::Info, "a", "flood", &[]);
        }
        tell(&mut log, 1, Level::Info, "a", "other", &[]);
        tell(&mut log, 1 + KIND_WINDOW_MS, Level::Info, "a", "flood", &[]);
        tell(&mut log, 1 + KIND_WINDOW_MS, Level::Info, "a", "flood", &[]);
        let lines = written(log, reader);
        assert_eq!(lines.len() as u32, KIND_LINES_MAX + 3);
        assert_eq!(lines[KIND_LINES_MAX as usize], "level=info area=a msg=other");
        assert_eq!(lines[KIND_LINES_MAX as usize + 1], "level=info area=a msg=flood suppressed=7");
        assert_eq!(lines[KIND_LINES_MAX as usize + 2], "level=info area=a msg=flood");
    }

    #[test]
    fn a_full_stderr_drops_lines_instead_of_blocking_and_counts_them() {
        let (mut log, mut reader) = piped(Level::Info);
        let long = "x".repeat(2 * LINE_MAX);
        let mut now = 0;
        while log.dropped() < 5 {
            now += KIND_WINDOW_MS;
            tell(&mut log, now, Level::Info, "a", "long", &[("value", &long)]);
        }
        let mut page = [0; 64 * 1024];
        assert!(reader.read(&mut page).unwrap() >= LINE_MAX);
        tell(&mut log, now, Level::Info, "a", "short", &[]);
        assert_eq!(log.dropped(), 5);
        let lines = written(log, reader);
        assert_eq!(lines.last().unwrap(), "level=info area=a msg=short dropped=5");
    }

    #[test]
    fn a_line_too_long_is_cut_at_a_character_and_still_one_line() {
        for pad in 0..4 {
            let (mut log, reader) = piped(Level::Info);
            let long = "é".repeat(LINE_MAX);
            tell(&mut log, 1, Level::Info, &"aaaa"[..pad], "long", &[("value", &long), ("b", &1)]);
            let lines = written(log, reader);
            assert_eq!(lines.len(), 1);
            assert!(lines[0].ends_with("é…"), "{}", lines[0]);
            assert!(lines[0].len() < LINE_MAX);
        }
    }

    #[test]
    fn time_is_told_as_people_write_it() {
        for (ms, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399_999, "2000-02-28T23:59:59.999Z"),
            (951_782_400_000, "2000-02-29T00:00:00.000Z"),
            (1_709_251_199_000, "2024-02-29T23:59:59.000Z"),
            (1_709_251_200_000, "2024-03-01T00:00:00.000Z"),
            (1_735_689_599_001, "2024-12-31T23:59:59.001Z"),
            (4_107_542_400_000, "2100-03-01T00:00:00.000Z"),
        ] {
            let mut line = String::new();
            push_time(&mut line, ms);
            assert_eq!(line, expected);
        }
    }
}
