//! Finds bytes of a kind in blocks of 64: one bit for each, the first byte's bit the lowest.
//!
//! Texts are searched so, because what is looked for may stand every dozen bytes: a search that
//! begins anew behind each find would spend its time on beginning. Eight bytes are compared in a
//! word, which is as wide as it gets without `unsafe`.

/// Bytes that are looked at together.
pub const BLOCK: usize = 64;

/// The backslashes of a block.
#[inline(always)]
pub fn backslashes(block: &[u8; BLOCK]) -> u64 {
    bits(block, |lane| equal(lane, b'\\'))
}

/// Where a JSON string may end or be broken: quotes, backslashes, control bytes but DEL.
#[inline(always)]
pub fn string_marks(block: &[u8; BLOCK]) -> u64 {
    bits(block, string_mark)
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

/// What cannot stand in a string that we write: the same, and DEL, although JSON allows it.
#[inline(always)]
pub fn escaped_marks(block: &[u8; BLOCK]) -> u64 {
    bits(block, |lane| either(string_mark(lane), equal(lane, 127)))
}

#[inline(always)]
fn string_mark(lane: Lane) -> Lane {
    either(either(equal(lane, b'"'), equal(lane, b'\\')), below(lane, 32))
}

/// Eight bytes; of what is found, each has its highest bit set, and no other.
type Lane = u64;

/// A one in each byte, and the highest bit of each.
const ONES: u64 = u64::MAX / 255;
const HIGHEST: u64 = ONES << 7;

/// Where a byte is zero. Exact: no carry leaves a byte.
#[inline(always)]
fn zeros(lane: Lane) -> Lane {
    !(((lane & !HIGHEST) + !HIGHEST) | lane) & HIGHEST
}

#[inline(always)]
fn equal(lane: Lane, byte: u8) -> Lane {
    zeros(lane ^ (ONES * u64::from(byte)))
}

/// `limit` is a power of two.
#[inline(always)]
fn below(lane: Lane, limit: u8) -> Lane {
    zeros(lane & (ONES * u64::from(!(limit - 1))))
}

#[inline(always)]
fn either(one: Lane, other: Lane) -> Lane {
    one | other
}

#[inline(always)]
fn bits(block: &[u8; BLOCK], find: impl Fn(Lane) -> Lane) -> u64 {
    // Each highest bit is moved to the place of its byte's number, in the top byte.
    const GATHER: u64 = 0x0002_0408_1020_4081;
    let mut bits = 0;
    for (number, bytes) in block.as_chunks::<8>().0.iter().enumerate() {
        let found = find(u64::from_le_bytes(*bytes));
        bits |= (found.wrapping_mul(GATHER) >> 56) << (8 * number);
    }
    bits
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_byte_is_found_in_its_place_and_nothing_else() {
        let mut state = 1u64;
        for round in 0..4096 {
            let mut block = [0; BLOCK];
            for (number, byte) in block.iter_mut().enumerate() {
                state ^= state << 13;
                state ^= state >> 7;
                state ^= state << 17;
                // Every byte in every place, among bytes that are near what is looked for.
                let near = [b'"', b'\\', 31, 32, 126, 127, 128, 0xdc, 0xa2, 0, b'a', b'!'];
                *byte = match number == round % BLOCK {
                    true => (round / BLOCK * 4 + round % 4) as u8,
                    false => near[state as usize % near.len()],
                };
            }
            let expected = |test: &dyn Fn(u8) -> bool| {
                let places = block.iter().enumerate().filter(|(_, byte)| test(**byte));
                places.fold(0, |bits, (number, _)| bits | 1u64 << number)
            };
            let marked = |byte: u8| byte < 32 || byte == b'"' || byte == b'\\';
            assert_eq!(backslashes(&block), expected(&|byte| byte == b'\\'), "{block:?}");
            assert_eq!(string_marks(&block), expected(&marked), "{block:?}");
            let (first, _) = block.split_first_chunk().unwrap();
            let place = first.iter().position(|byte| marked(*byte));
            assert_eq!(first_string_mark(first), place, "{block:?}");
            let escaped = expected(&|byte| marked(byte) || byte == 127);
            assert_eq!(escaped_marks(&block), escaped, "{block:?}");
        }
    }
}
