//! Lines for machines, to stderr: `ts=… level=… area=… msg=… key=value…`, or the same as a JSON
//! object, one write each.
//!
//! Promises: never blocks (when stderr would, the line is dropped and counted), never floods
//! (by kind, which is area and message), is ASCII but for names of ours, so that no control
//! character gets through to a terminal, and is whole: what is too long is cut within a value.
//! stderr stays blocking: its mode belongs to everyone who shares it.

use std::fmt::{Display, Write as _};
use std::fs::File;
use std::io::{self, Write as _};
use std::os::fd::AsFd;

use super::{clock, sys};
use crate::arguments::LogFormat;
use crate::core::effect::{Level, LogLine};

/// Lines of one kind within one window.
const KIND_LINES_MAX: u32 = 10;
/// How long a window is.
const KIND_WINDOW_MS: u64 = 5_000;
/// Kinds kept apart; beyond them the longest silent one is forgotten. There are as many kinds
/// as places in the source that log, so this is ample.
const KINDS_MAX: usize = 128;
/// What is kept free in a line for the counts at its end.
const COUNTS_SIZE: usize = 128;
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
    format: LogFormat,
    /// `None` when there was no descriptor left to reach stderr by: then all is dropped.
    out: Option<File>,
    kinds: Vec<Kind>,
    /// The line being made, and the value being escaped.
    line: String,
    value: String,
    /// Lines dropped since the last one that was written.
    unreported: u64,
    dropped: u64,
    suppressed: u64,
}

impl Log {
    /// A log to stderr of what matters at least as much as `level`.
    pub fn new(level: Level, format: LogFormat) -> Log {
        Log::with(level, format, io::stderr().as_fd().try_clone_to_owned().ok().map(File::from))
    }

    /// A log to another open file.
    pub fn to(level: Level, format: LogFormat, out: File) -> Log {
        Log::with(level, format, Some(out))
    }

    fn with(level: Level, format: LogFormat, out: Option<File>) -> Log {
        Log {
            level,
            format,
            out,
            kinds: Vec::with_capacity(KINDS_MAX),
            line: String::with_capacity(LINE_MAX),
            value: String::new(),
            unreported: 0,
            dropped: 0,
            suppressed: 0,
        }
    }

    /// Lines lost so far because stderr would have blocked, or failed.
    pub fn dropped(&self) -> u64 {
        self.dropped
    }

    /// Lines that were too many of their kind so far.
    pub fn suppressed(&self) -> u64 {
        self.suppressed
    }

    /// Writes one line, or counts why not. `now_ms` is the monotonic clock. The keys are ours,
    /// the values anybody's. What does not fit [`LINE_MAX`] ends in an ellipsis; fields behind it
    /// are left out, but for the counts.
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
            self.suppressed += 1;
            return None;
        }
        kind.lines += 1;
        Some(std::mem::take(&mut kind.suppressed))
    }

    fn render(&mut self, line: &LogLine, suppressed: u64) {
        self.line.clear();
        if self.format == LogFormat::Json {
            self.line.push('{');
        }
        let mut time = String::with_capacity(32);
        push_time(&mut time, clock::wall_ms());
        self.field("ts", &time, LINE_MAX);
        self.field("level", &name(line.level), LINE_MAX);
        self.field("area", &line.area, LINE_MAX);
        self.field("msg", &line.message, LINE_MAX);
        for (key, value) in &line.fields {
            self.field(key, value, LINE_MAX - COUNTS_SIZE);
        }
        if suppressed > 0 {
            self.field("suppressed", &suppressed, LINE_MAX);
        }
        if self.unreported > 0 {
            self.field("dropped", &self.unreported.clone(), LINE_MAX);
        }
        if self.format == LogFormat::Json {
            self.line.push('}');
        }
        self.line.push('\n');
    }

    /// Appends a field, so that the line stays below `size_max`: with the value cut, or not at
    /// all if not even its key fits.
    fn field(&mut self, key: &str, value: &dyn Display, size_max: usize) {
        // The key, what stands around it, an ellipsis, and a cut escape's length.
        let room = size_max.saturating_sub(self.line.len() + key.len() + 24);
        if room == 0 {
            return;
        }
        self.value.clear();
        let _ = write!(self.value, "{value}"); // Into a String: cannot fail but by its own will.
        match self.format {
            LogFormat::Logfmt => {
                if !self.line.is_empty() {
                    self.line.push(' ');
                }
                self.line.push_str(key);
                self.line.push('=');
                push_value(&mut self.line, &self.value, room);
            }
            LogFormat::Json => {
                if !self.line.ends_with('{') {
                    self.line.push(',');
                }
                let _ = write!(self.line, "\"{key}\":");
                push_json(&mut self.line, &self.value, room);
            }
        }
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

/// Appends characters as `push` writes them, at most `room` bytes and then an ellipsis.
fn push_within(line: &mut String, value: &str, room: usize, push: fn(&mut String, char)) {
    let end = line.len() + room;
    for char in value.chars() {
        if line.len() >= end {
            return line.push_str("...");
        }
        push(line, char);
    }
}

/// Bare where that is unambiguous, else quoted, with everything escaped that is not printed as
/// itself: control characters, line ends, direction marks.
fn push_value(line: &mut String, value: &str, room: usize) {
    let bare = |byte: u8| byte.is_ascii_graphic() && !matches!(byte, b'"' | b'=' | b'\\');
    if !value.is_empty() && value.bytes().all(bare) {
        return push_within(line, value, room, String::push);
    }
    line.push('"');
    push_within(line, value, room, |line, char| match char {
        '"' => line.push_str("\\\""),
        '\\' => line.push_str("\\\\"),
        ' '..='~' => line.push(char),
        _ => line.extend(char.escape_debug()),
    });
    line.push('"');
}

/// A JSON string in ASCII.
fn push_json(line: &mut String, value: &str, room: usize) {
    line.push('"');
    push_within(line, value, room, |line, char| match char {
        '"' => line.push_str("\\\""),
        '\\' => line.push_str("\\\\"),
        ' '..='~' => line.push(char),
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                let _ = write!(line, "\\u{unit:04x}"); // Into a String: cannot fail.
            }
        }
    });
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
        piped_as(LogFormat::Logfmt, level)
    }

    fn piped_as(format: LogFormat, level: Level) -> (Log, PipeReader) {
        let (reader, writer) = io::pipe().unwrap();
        (Log::to(level, format, File::from(std::os::fd::OwnedFd::from(writer))), reader)
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
            push_value(&mut line, value, LINE_MAX);
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
            tell(
                &mut log,
                1,
                Level::Info,
                &"aaaa"[..pad],
                "long",
                &[("b", &1), ("value", &long), ("c", &1)],
            );
            let lines = written(log, reader);
            assert_eq!(lines.len(), 1);
            assert!(lines[0].ends_with("é...\""), "{}", lines[0]);
            assert!(lines[0].contains(" b=1 "), "{}", lines[0]);
            assert!(lines[0].len() < LINE_MAX);
        }
    }

    #[test]
    fn as_json_a_line_is_one_object_in_ascii_whatever_the_values_hold_and_however_long() {
        let all: String = (0..=0x2fff).filter_map(char::from_u32).chain(['\u{1f600}']).collect();
        for (value, cut) in
            [("a \"b\" \\ c\nd\u{7}\u{9b}é\u{1f600}", false), (&all, true), ("", false)]
        {
            let (mut log, mut reader) = piped_as(LogFormat::Json, Level::Info);
            tell(&mut log, 1, Level::Warn, "a", "b", &[("value", &value), ("count", &7)]);
            drop(log);
            let mut text = String::new();
            reader.read_to_string(&mut text).unwrap();
            assert!(text.is_ascii() && text.len() < LINE_MAX, "{}", text.len());
            let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
            assert_eq!(
                (&line["level"], &line["area"], &line["msg"]),
                (&"warn".into(), &"a".into(), &"b".into())
            );
            assert!(line["ts"].as_str().is_some_and(|ts| ts.ends_with('Z')));
            let told = line["value"].as_str().unwrap();
            match cut {
                false => assert_eq!((told, &line["count"]), (value, &"7".into())),
                true => {
                    assert!(told.ends_with("...") && value.starts_with(&told[..told.len() - 3]))
                }
            }
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
