//! Fields too large for a ring, cut from their frames and kept beside them, within a byte bound.
//!
//! The oldest make room. A field that is gone is told as gone; its frame, with the first KiB of
//! it, lives as long as any other frame.

use std::collections::VecDeque;

/// One field's bytes.
struct Field {
    seq: u64,
    bytes: Vec<u8>,
    /// Whether they are the text of a JSON string; otherwise they are JSON.
    is_text: bool,
}

/// The fields that are left, oldest first.
pub struct LargeFields {
    fields: VecDeque<Field>,
    size: usize,
    size_max: usize,
    frame_size_max: usize,
}

impl LargeFields {
    /// Keeps at most `size_max` bytes; a frame above `frame_size_max` is to be cut.
    pub fn new(size_max: usize, frame_size_max: usize) -> LargeFields {
        LargeFields { fields: VecDeque::new(), size: 0, size_max, frame_size_max }
    }

    /// The most bytes that are kept.
    pub fn size_max(&self) -> usize {
        self.size_max
    }

    /// The longest frame that needs no cut.
    pub fn frame_size_max(&self) -> usize {
        self.frame_size_max
    }

    /// Keeps a field of event `seq`, which is newer than all kept ones. Returns the memory of one
    /// that had to go.
    pub fn keep(&mut self, seq: u64, bytes: Vec<u8>, is_text: bool) -> Option<Vec<u8>> {
        self.size += bytes.capacity();
        self.fields.push_back(Field { seq, bytes, is_text });
        let mut made_room = None;
        while self.size > self.size_max
            && let Some(oldest) = self.fields.pop_front()
        {
            self.size -= oldest.bytes.capacity();
            made_room = Some(oldest.bytes);
        }
        made_room
    }

    /// The field of event `seq`: its bytes, and whether they are plain text rather than JSON.
    pub fn get(&self, seq: u64) -> Option<(&[u8], bool)> {
        let at = self.fields.binary_search_by_key(&seq, |field| field.seq).ok()?;
        Some((&self.fields[at].bytes, self.fields[at].is_text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_make_room() {
        let mut large = LargeFields::new(10, 1);
        large.keep(1, vec![1; 6], true);
        large.keep(2, vec![2; 4], false);
        assert_eq!(large.get(1), Some((&[1; 6][..], true)));
        let made_room = large.keep(9, vec![3; 5], true);
        assert_eq!(made_room, Some(vec![1; 6]));
        assert_eq!((large.get(1), large.get(2)), (None, Some((&[2; 4][..], false))));
        large.keep(10, vec![0; 11], true);
        assert_eq!((large.get(9), large.get(10)), (None, None), "too large to keep at all");
    }
}
