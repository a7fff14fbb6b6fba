//! Finds bytes of a kind in blocks of 64: one bit for each, the first byte's bit the lowest.
//!
//! Texts are searched so, because what is looked for may stand every dozen bytes: a search that
//! begins anew behind each find would spend its time on beginning. Sixteen bytes are compared at
//! once.

use wide::u8x16;

/// Bytes that are looked at together.
pub const BLOCK: usize = 64;

/// The backslashes of a block.
#[inline(always)]
pub fn backslashes(block: &[u8; BLOCK]) -> u64 {
    bits(block, |lane| equal(lane, b'\\'))
}

/// Where a JSON string may end or be broken, and what we would not write as it is: quotes,
/// backslashes, control bytes, DEL.
#[inline(always)]
pub fn string_marks(block: &[u8; BLOCK]) -> u64 {
    bits(block, |lane| equal(lane, b'"') | equal(lane, b'\\') | controls(lane))
}

/// Whether a block within a JSON string neither ends nor breaks it, nor holds an escape but the
/// four that texts are full of. `before` is the block that begins one byte earlier.
#[inline(always)]
pub fn is_plain(before: &[u8; BLOCK], block: &[u8; BLOCK]) -> bool {
    let nothing = u8x16::splat(0);
    let mut found = nothing;
    for (before, lane) in lanes(before).zip(lanes(block)) {
        let quotes = equal(lane, b'"');
        let letters = quotes | equal(lane, b'n') | equal(lane, b't') | equal(lane, b'r');
        let no_letters = letters.cmp_eq(nothing);
        found |= equal(before, b'\\').blend(no_letters, quotes | controls(lane));
    }
    found.none()
}

/// The place of the first of those marks among eight bytes.
#[inline(always)]
pub fn first_string_mark(bytes: &[u8; 8]) -> Option<usize> {
    let word = u64::from_le_bytes(*bytes);
    // Cheaper than what is exact: above its first find each of these may be wrong.
    let zero = |word: u64| word.wrapping_sub(ONES) & !word;
    let quote = zero(word ^ (ONES * u64::from(b'"')));
    let backslash = zero(word ^ (ONES * u64::from(b'\\')));
    let control = word.wrapping_sub(ONES * 32) & !word;
    let marks = (quote | backslash | control) & HIGHEST;
    // A branch, not a length: so the processor can go ahead where there is none.
    (marks != 0).then(|| marks.trailing_zeros() as usize / 8)
}

/// A one in each byte, and the highest bit of each.
const ONES: u64 = u64::MAX / 255;
const HIGHEST: u64 = ONES << 7;

/// The bytes of a block, by sixteen.
#[inline(always)]
fn lanes(block: &[u8; BLOCK]) -> impl Iterator<Item = u8x16> {
    block.as_chunks::<16>().0.iter().map(|bytes| u8x16::new(*bytes))
}

#[inline(always)]
fn equal(lane: u8x16, byte: u8) -> u8x16 {
    lane.cmp_eq(u8x16::splat(byte))
}

/// What cannot stand in a string that we write, beside quotes and backslashes: DEL, too, although
/// JSON allows it.
#[inline(always)]
fn controls(lane: u8x16) -> u8x16 {
    lane.min(u8x16::splat(31)).cmp_eq(lane) | equal(lane, 127)
}

#[inline(always)]
fn bits(block: &[u8; BLOCK], find: impl Fn(u8x16) -> u8x16) -> u64 {
    let mut bits = 0;
    for (number, lane) in lanes(block).enumerate() {
        bits |= u64::from(find(lane).move_mask() as u16) << (16 * number);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_in_its_place_and_nothing_else() {
        let (mut state, mut plains) = (1u64, 0);
        for round in 0..4096 {
            let mut block = [0; BLOCK];
            for (number, byte) in block.iter_mut().enumerate() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Every byte in every place, among bytes that are near what is looked for.
                let near = match round % 2 == 0 {
                    true => [b'"', b'\\', 31, 32, 126, 127, 128, 0xdc, 0xa2, 0, b'a', b'!'],
                    false => [b'n', b'r', b't', b'o', b'!', b'#', b'[', b']', 32, 126, 128, 0xdc],
                };
                *byte = match number == round % BLOCK {
                    true => (round / BLOCK * 4 + round % 4) as u8,
                    false => near[state as usize % near.len()],
                };
            }
            let expected = |test: &dyn Fn(u8) -> bool| {
                let places = block.iter().enumerate().filter(|(_, byte)| test(**byte));
                places.fold(0, |bits, (number, _)| bits | 1u64 << number)
            };
            let control = |byte: u8| byte < 32 || byte == 127;
            let marked = |byte: u8| control(byte) || byte == b'"' || byte == b'\\';
            assert_eq!(backslashes(&block), expected(&|byte| byte == b'\\'), "{block:?}");
            assert_eq!(string_marks(&block), expected(&marked), "{block:?}");
            let (first, _) = block.split_first_chunk().unwrap();
            let place = first.iter().position(|byte| marked(*byte) && *byte != 127);
            assert_eq!(first_string_mark(first), place, "{block:?}");
            let mut before = block;
            before.rotate_right(1);
            before[0] = if round % 3 == 0 { b'\\' } else { b'a' };
            let plain = |(byte, before): (&u8, &u8)| match before {
                b'\\' => b"n\"tr".contains(byte),
                _ => !control(*byte) && *byte != b'"',
            };
            let all = block.iter().zip(&before).all(plain);
            assert_eq!(is_plain(&before, &block), all, "{block:?}");
            plains += u32::from(all);
        }
        assert!(plains > 500, "{plains}: hardly any block was plain");
    }
}
