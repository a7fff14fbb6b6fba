//! Writes JSON straight into a byte buffer: no tree, no allocation beyond the buffer.
//!
//! What is written is one line of ASCII control-free UTF-8, so it may stand in an SSE `data:`
//! field as it is. The writer remembers the largest member it wrote, so that an event that turns
//! out too large can be cut without being built again.

use std::borrow::Cow;
use std::fmt::{self, Write as _};
use std::ops::Range;

/// Writes one JSON object. Members appear in the order of the calls; names are trusted ASCII.
pub struct Object<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
    /// The largest member so far: its name, and where its value stands in `out`.
    largest: (&'static str, Range<usize>),
}

/// Writes one JSON array.
pub struct Array<'a> {
    out: &'a mut Vec<u8>,
    empty: bool,
}

/// Appends an object to `out`; `members` writes what is in it.
pub fn object(out: &mut Vec<u8>, members: impl FnOnce(&mut Object<'_>)) {
    let mut object = Object::begin(out);
    members(&mut object);
    object.end();
}

impl<'a> Object<'a> {
    /// Opens an object; [`Object::end`] closes it.
    pub fn begin(out: &'a mut Vec<u8>) -> Object<'a> {
        out.push(b'{');
        Object { out, empty: true, largest: ("", 0..0) }
    }

    /// Closes the object. Returns the largest member: its name, and where its value stands.
    pub fn end(self) -> (&'static str, Range<usize>) {
        self.out.push(b'}');
        self.largest
    }

    fn member(&mut self, name: &'static str, value: impl FnOnce(&mut Vec<u8>)) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        self.out.push(b'"');
        self.out.extend_from_slice(name.as_bytes());
        self.out.extend_from_slice(b"\":");
        let start = self.out.len();
        value(self.out);
        let range = start..self.out.len();
        if range.len() > self.largest.1.len() {
            self.largest = (name, range);
        }
    }

    /// A string member.
    pub fn string(&mut self, name: &'static str, value: &str) {
        self.member(name, |out| string(out, value));
    }

    /// A string member, or null.
    pub fn string_or_null(&mut self, name: &'static str, value: Option<&str>) {
        match value {
            Some(value) => self.string(name, value),
            None => self.null(name),
        }
    }

    /// A string member that is left out if there is none.
    pub fn optional(&mut self, name: &'static str, value: Option<&str>) {
        if let Some(value) = value {
            self.string(name, value);
        }
    }

    /// A string member from anything that can be displayed.
    pub fn display(&mut self, name: &'static str, value: impl fmt::Display) {
        self.member(name, |out| display(out, value));
    }

    /// The same, or null.
    pub fn display_or_null(&mut self, name: &'static str, value: Option<impl fmt::Display>) {
        match value {
            Some(value) => self.display(name, value),
            None => self.null(name),
        }
    }

    /// A whole number.
    pub fn number(&mut self, name: &'static str, value: u64) {
        self.member(name, |out| number(out, value));
    }

    /// A whole number that may be negative.
    pub fn integer(&mut self, name: &'static str, value: i64) {
        self.member(name, |out| write_display(out, value));
    }

    /// A whole number, or null.
    pub fn number_or_null(&mut self, name: &'static str, value: Option<u64>) {
        match value {
            Some(value) => self.number(name, value),
            None => self.null(name),
        }
    }

    /// A number with a fraction; null if it is not finite.
    pub fn float(&mut self, name: &'static str, value: f64) {
        if value.is_finite() {
            self.member(name, |out| write_display(out, value));
        } else {
            self.null(name);
        }
    }

    /// True or false.
    pub fn bool(&mut self, name: &'static str, value: bool) {
        self.member(name, |out| out.extend_from_slice(if value { b"true" } else { b"false" }));
    }

    /// Null.
    pub fn null(&mut self, name: &'static str) {
        self.member(name, |out| out.extend_from_slice(b"null"));
    }

    /// A member that is JSON already. Line ends between its tokens are taken out.
    pub fn raw(&mut self, name: &'static str, value: &str) {
        self.member(name, |out| raw(out, value));
    }

    /// A member that is an object.
    pub fn object(&mut self, name: &'static str, members: impl FnOnce(&mut Object<'_>)) {
        self.member(name, |out| object(out, members));
    }

    /// A member that is an array.
    pub fn array(&mut self, name: &'static str, elements: impl FnOnce(&mut Array<'_>)) {
        self.member(name, |out| {
            out.push(b'[');
            let mut array = Array { out, empty: true };
            elements(&mut array);
            array.out.push(b']');
        });
    }

    /// A number member whose name is not known at compile time. For maps.
    pub fn entry(&mut self, name: &str, value: u64) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        string(self.out, name);
        self.out.push(b':');
        number(self.out, value);
    }
}

impl Array<'_> {
    fn element(&mut self, value: impl FnOnce(&mut Vec<u8>)) {
        if !self.empty {
            self.out.push(b',');
        }
        self.empty = false;
        value(self.out);
    }

    /// A string element.
    pub fn string(&mut self, value: &str) {
        self.element(|out| string(out, value));
    }

    /// A string element from anything that can be displayed.
    pub fn display(&mut self, value: impl fmt::Display) {
        self.element(|out| display(out, value));
    }

    /// An element that is JSON already.
    pub fn raw(&mut self, value: &str) {
        self.element(|out| raw(out, value));
    }

    /// An object element.
    pub fn object(&mut self, members: impl FnOnce(&mut Object<'_>)) {
        self.element(|out| object(out, members));
    }
}

/// Appends a JSON string (RFC 8259, section 7), quotes included.
pub fn string(out: &mut Vec<u8>, value: &str) {
    out.push(b'"');
    escaped(out, value);
    out.push(b'"');
}

/// Bytes that are looked at, and copied, in one go. A copy of a known, small size is two
/// instructions; one of any size is a call that costs more than the few bytes between two escapes.
const BLOCK: usize = 16;

/// Appends the inside of a JSON string. U+2028 and U+2029 are fine in JSON and in SSE.
fn escaped(out: &mut Vec<u8>, value: &str) {
    let (blocks, rest) = value.as_bytes().as_chunks::<BLOCK>();
    out.reserve(value.len() + 2);
    for block in blocks {
        if block.iter().fold(false, |found, byte| found | needs_escape(*byte)) {
            block.iter().for_each(|byte| escaped_byte(out, *byte));
        } else {
            out.extend_from_slice(block);
        }
    }
    rest.iter().for_each(|byte| escaped_byte(out, *byte));
}

fn escaped_byte(out: &mut Vec<u8>, byte: u8) {
    if !NEEDS_ESCAPE[byte as usize] {
        return out.push(byte);
    }
    match byte {
        b'"' => out.extend_from_slice(b"\\\""),
        b'\\' => out.extend_from_slice(b"\\\\"),
        b'\n' => out.extend_from_slice(b"\\n"),
        b'\r' => out.extend_from_slice(b"\\r"),
        b'\t' => out.extend_from_slice(b"\\t"),
        _ => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.extend_from_slice(b"\\u00");
            out.extend([HEX[(byte >> 4) as usize], HEX[(byte & 15) as usize]]);
        }
    }
}

/// The text of a JSON string, given what stands between its quotes, which is valid JSON. Half of a
/// surrogate pair, which JSON can hold and text cannot, becomes U+FFFD.
pub fn unescaped(inside: &str) -> Cow<'_, str> {
    let bytes = inside.as_bytes();
    let Some(first) = memchr::memchr(b'\\', bytes) else { return Cow::Borrowed(inside) };
    let mut out = Vec::with_capacity(bytes.len());
    out.extend_from_slice(&bytes[..first]);
    let mut at = first;
    while at < bytes.len() {
        let block = bytes[at..].first_chunk::<BLOCK>();
        let plain =
            |block: &&[u8; BLOCK]| block.iter().fold(true, |all, byte| all & (*byte != b'\\'));
        if let Some(block) = block.filter(plain) {
            out.extend_from_slice(block);
            at += BLOCK;
            continue;
        }
        let end = bytes.len().min(at + BLOCK);
        while at < end {
            if bytes[at] == b'\\' {
                at += escape(&mut out, &bytes[at..]);
            } else {
                out.push(bytes[at]);
                at += 1;
            }
        }
    }
    // Whole characters in, whole characters out: nothing is lost here.
    Cow::Owned(String::from_utf8(out).unwrap_or_default())
}

/// Appends what the escape at the start of `bytes` stands for. Returns its length.
fn escape(out: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let plain = match bytes.get(1) {
        Some(b'n') => b'\n',
        Some(b't') => b'\t',
        Some(b'r') => b'\r',
        Some(b'b') => 8,
        Some(b'f') => 12,
        Some(b'u') => return unicode_escape(out, bytes),
        Some(byte) => *byte,
        None => return 1,
    };
    out.push(plain);
    2
}

fn unicode_escape(out: &mut Vec<u8>, bytes: &[u8]) -> usize {
    let unit = |from: usize| -> Option<u32> {
        let escape = bytes.get(from..from + 6).filter(|escape| escape.starts_with(b"\\u"))?;
        let digits = std::str::from_utf8(&escape[2..]).ok()?;
        u32::from_str_radix(digits, 16).ok()
    };
    let Some(first) = unit(0) else { return 2 };
    let second =
        unit(6).filter(|low| (0xd800..0xdc00).contains(&first) && (0xdc00..0xe000).contains(low));
    let (code, length) = match second {
        Some(low) => (0x10000 + ((first - 0xd800) << 10) + (low - 0xdc00), 12),
        None => (first, 6),
    };
    let character = char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER);
    out.extend_from_slice(character.encode_utf8(&mut [0; 4]).as_bytes());
    length
}

/// Whether a byte cannot stand as it is. Without a table, so that many are looked at in one go.
const fn needs_escape(byte: u8) -> bool {
    (byte < b' ') | (byte == b'"') | (byte == b'\\') | (byte == 127)
}

/// The same as a table: for one byte at a time.
static NEEDS_ESCAPE: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 128 {
        table[byte] = needs_escape(byte as u8);
        byte += 1;
    }
    table
};

/// Appends JSON text. A carriage return or newline can stand only between tokens, never in a
/// string, and would end an SSE field there: both become spaces.
fn raw(out: &mut Vec<u8>, value: &str) {
    let start = out.len();
    out.extend_from_slice(value.as_bytes());
    if memchr::memchr2(b'\r', b'\n', value.as_bytes()).is_some() {
        for byte in &mut out[start..] {
            if matches!(byte, b'\r' | b'\n') {
                *byte = b' ';
            }
        }
    }
}

/// Appends a whole number in decimal.
pub fn number(out: &mut Vec<u8>, mut value: u64) {
    let mut digits = [0; 20];
    let mut at = digits.len();
    loop {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
        if value == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

fn display(out: &mut Vec<u8>, value: impl fmt::Display) {
    struct Escaped<'a>(&'a mut Vec<u8>);
    impl fmt::Write for Escaped<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            escaped(self.0, text);
            Ok(())
        }
    }
    out.push(b'"');
    // Writing to a Vec cannot fail; a Display that does leaves its string short, not broken.
    let _ = write!(Escaped(out), "{value}");
    out.push(b'"');
}

/// Appends something whose display needs no escaping.
fn write_display(out: &mut Vec<u8>, value: impl fmt::Display) {
    struct Plain<'a>(&'a mut Vec<u8>);
    impl fmt::Write for Plain<'_> {
        fn write_str(&mut self, text: &str) -> fmt::Result {
            self.0.extend_from_slice(text.as_bytes());
            Ok(())
        }
    }
    let _ = write!(Plain(out), "{value}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_character_survives_the_trip_and_none_ends_a_line() {
        let all: String = (0..0x3000u32).filter_map(char::from_u32).chain(['\u{1F600}']).collect();
        let mut out = Vec::new();
        string(&mut out, &all);
        assert!(!out.iter().any(|byte| *byte < 32 || *byte == 127));
        assert_eq!(serde_json::from_slice::<String>(&out).unwrap(), all);
    }

    #[test]
    fn what_was_escaped_by_anybody_is_read_back() {
        let all: String = (0..0x3000u32).filter_map(char::from_u32).chain(['\u{1F600}']).collect();
        for start in 0..2 * BLOCK {
            let text: String = all.chars().skip(start).take(600).collect();
            let text = text.as_str();
            let mut out = Vec::new();
            string(&mut out, text);
            let ours = std::str::from_utf8(&out[1..out.len() - 1]).unwrap();
            assert_eq!(unescaped(ours), text);
        }
        for inside in [
            "",
            "plain",
            "\\\\",
            "a\\/b\\b\\f\\n\\r\\t\\\"",
            "\\u0041\\u00e9\\ud83d\\ude00!",
            "\\uD83D\\uDE00",
            "0123456789abcd\\ud83d\\ude00 over the end of a block",
            "0123456789abcde\\\\0123456789abcdef",
        ] {
            let whole: String = serde_json::from_str(&format!("\"{inside}\"")).unwrap();
            assert_eq!(unescaped(inside), whole, "{inside}");
        }
        assert_eq!(unescaped("a\\ud83db\\ude00\\ud83d\\u0041"), "a\u{fffd}b\u{fffd}\u{fffd}A");
        for cut in ["\\", "\\u", "\\u12", "x\\uzzzz", "\\ud83d\\u12"] {
            unescaped(cut); // Not JSON: any text will do.
        }
    }

    #[test]
    fn an_object_parses_back_to_its_members() {
        let mut out = Vec::new();
        object(&mut out, |object| {
            object.string("a", "x\n\"y\"");
            object.number("b", u64::MAX);
            object.float("c", 0.25);
            object.float("nan", f64::NAN);
            object.raw("d", "{\"k\":\r\n[1,2]}");
            object.array("e", |array| {
                array.object(|object| object.bool("t", true));
                array.string("s");
            });
            object.display("f", format_args!("{}\u{7}", 1));
            object.string_or_null("g", None);
            object.optional("h", None);
        });
        let value: serde_json::Value = serde_json::from_slice(&out).unwrap();
        let want = serde_json::json!({"a": "x\n\"y\"", "b": u64::MAX, "c": 0.25, "nan": null,
            "d": {"k": [1, 2]}, "e": [{"t": true}, "s"], "f": "1\u{7}", "g": null});
        assert_eq!(value, want);
        assert!(memchr::memchr2(b'\r', b'\n', &out).is_none());
    }

    #[test]
    fn the_largest_member_is_found_where_it_stands() {
        let mut out = b"before ".to_vec();
        let mut object = Object::begin(&mut out);
        object.string("small", "x");
        object.string("large", "a long one");
        object.number("n", 1);
        let (name, range) = object.end();
        assert_eq!((name, &out[range]), ("large", &b"\"a long one\""[..]));
    }
}
