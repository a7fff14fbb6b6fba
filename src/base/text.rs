//! Turns a byte stream into text piece by piece: a character cut by a read waits for its rest.

/// A fixed buffer of bytes that become text.
pub struct Text {
    buffer: Box<[u8]>,
    end: usize,
}

impl Text {
    /// A buffer for reads of at most `capacity` bytes; at least 8.
    pub fn new(capacity: usize) -> Text {
        assert!(capacity >= 8);
        Text { buffer: vec![0; capacity].into_boxed_slice(), end: 0 }
    }

    /// Where the next read goes. Never empty after [`Text::take`].
    pub fn space(&mut self) -> &mut [u8] {
        &mut self.buffer[self.end..]
    }

    /// Says that `count` bytes were read into [`Text::space`].
    pub fn filled(&mut self, count: usize) {
        self.end += count;
        assert!(self.end <= self.buffer.len());
    }

    /// Whether nothing is held.
    pub fn is_empty(&self) -> bool {
        self.end == 0
    }

    /// Appends what is held to `out`, invalid bytes as U+FFFD. The beginning of a character stays
    /// for the next time, unless this is the `last`.
    pub fn take(&mut self, out: &mut String, last: bool) {
        let held = &self.buffer[..self.end];
        let keep = if last { 0 } else { unfinished(held) };
        let cut = self.end - keep;
        for chunk in held[..cut].utf8_chunks() {
            out.push_str(chunk.valid());
            if !chunk.invalid().is_empty() {
                out.push(char::REPLACEMENT_CHARACTER);
            }
        }
        self.buffer.copy_within(cut..self.end, 0);
        self.end = keep;
    }
}

/// How many bytes at the end are the beginning of a character: at most three.
fn unfinished(bytes: &[u8]) -> usize {
    for length in 1..=bytes.len().min(3) {
        let lead = bytes[bytes.len() - length];
        let needs = match lead {
            0xc2..=0xdf => 2,
            0xe0..=0xef => 3,
            0xf0..=0xf4 => 4,
            0x80..=0xbf => continue,
            _ => return 0,
        };
        return if needs > length { length } else { 0 };
    }
    0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_character_is_whole_wherever_the_reads_cut_it() {
        let source = "a\u{e9}\u{20ac}\u{1F600}\u{1F468}\u{200d}\u{1F469}z".repeat(3);
        for chunk in 1..=9 {
            let (mut text, mut out) = (Text::new(16), String::new());
            for piece in source.as_bytes().chunks(chunk) {
                text.space()[..piece.len()].copy_from_slice(piece);
                text.filled(piece.len());
                text.take(&mut out, false);
                assert!(source.starts_with(&out), "chunk={chunk}");
            }
            text.take(&mut out, true);
            assert_eq!(out, source);
            assert!(text.is_empty());
        }
    }

    #[test]
    fn bytes_that_are_no_text_become_replacement_characters() {
        let (mut text, mut out) = (Text::new(16), String::new());
        text.space()[..5].copy_from_slice(b"a\xff\x80b\xe2");
        text.filled(5);
        text.take(&mut out, false);
        assert_eq!(out, "a\u{fffd}\u{fffd}b");
        text.take(&mut out, true);
        assert_eq!(out, "a\u{fffd}\u{fffd}b\u{fffd}");
    }
}
