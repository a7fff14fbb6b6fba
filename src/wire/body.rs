//! Takes the framing off a request body, in pieces as they arrive.
//!
//! It promises that the decoded bytes and the verdict depend on the bytes alone, not on how they
//! were cut; that no more than `size_max` bytes are decoded; and that only the grammar of RFC
//! 9112 §7.1 passes: CR LF line ends, bare hexadecimal sizes, well-formed extensions and trailers,
//! which are bounded, checked and dropped. It does not know what the bytes mean.

use super::head::{BadRequest, Framing, is_token_byte};

/// Hexadecimal digits in a chunk size: as many as a `u64` has, leading zeros included.
const SIZE_DIGITS_MAX: u8 = 16;
/// Bytes of the extensions of one chunk. RFC 9112 §7.1.1 asks for a bound, and nobody sends any.
const EXTENSION_SIZE_MAX: u32 = 256;
/// Bytes of the extensions of all chunks of one body, so that a stranger cannot keep us reading
/// a body that never grows.
const EXTENSIONS_SIZE_MAX: u32 = 16 * 1024;
/// Bytes of the trailer section.
const TRAILERS_SIZE_MAX: u32 = 4 * 1024;

/// What one call of [`BodyDecoder::decode`] did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decoded {
    /// Bytes of the input that belong to this body and are done with.
    pub consumed: usize,
    /// Whether the body is whole. What follows `consumed` is the next request.
    pub done: bool,
}

/// The decoder of one body.
#[derive(Clone, Debug)]
pub struct BodyDecoder {
    state: State,
    /// Decoded bytes that may still come.
    room: u64,
    /// Bytes decoded so far.
    received: u64,
    /// Bytes of extensions in this chunk, and in all.
    extension: u32,
    extensions: u32,
    /// Bytes of trailers so far.
    trailers: u32,
}

/// Where in the framing the next byte stands.
#[derive(Clone, Copy, Debug)]
enum State {
    /// In a body of known length, with so much to come.
    Length(u64),
    /// In a chunk size.
    Size { size: u64, digits: u8 },
    /// In the extensions of a chunk of this size.
    Extension { size: u64, place: Extension },
    /// After the CR of a size line.
    SizeEnd { size: u64 },
    /// In a chunk's bytes, with so much to come.
    Data(u64),
    /// After a chunk's bytes.
    DataEnd,
    /// After their CR.
    DataLineFeed,
    /// In the trailer section.
    Trailer(Trailer),
    /// After the body.
    Done,
}

/// Where in `*( BWS ";" BWS name [ BWS "=" BWS ( token / quoted-string ) ] )` the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Extension {
    /// Whitespace before a semicolon.
    Gap,
    NameStart,
    Name,
    /// Whitespace after a name.
    NameEnd,
    ValueStart,
    Token,
    Quoted,
    /// After a backslash in a quoted string.
    Escape,
    QuotedEnd,
}

/// Where in the trailer section the next byte stands.
#[derive(Clone, Copy, Debug)]
enum Trailer {
    LineStart,
    Name,
    Value,
    /// After the CR of a trailer line.
    LineEnd,
    /// After the CR of the empty line.
    End,
}

impl BodyDecoder {
    /// Makes a decoder for a body of at most `size_max` decoded bytes. A length above that is
    /// refused at once.
    pub fn new(framing: Framing, size_max: u64) -> Result<BodyDecoder, BadRequest> {
        let state = match framing {
            Framing::None | Framing::Length(0) => State::Done,
            Framing::Length(length) if length > size_max => return Err(BadRequest::BodyTooLarge),
            Framing::Length(length) => State::Length(length),
            Framing::Chunked => State::Size { size: 0, digits: 0 },
        };
        let decoder = BodyDecoder {
            state,
            room: size_max,
            received: 0,
            extension: 0,
            extensions: 0,
            trailers: 0,
        };
        Ok(decoder)
    }

    /// Bytes decoded so far.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Lowers the bound of a body that is not whole yet: `size_max` decoded bytes, those that came
    /// among them.
    ///
    /// # Errors
    /// More than that has come, or is under way.
    pub fn limit(&mut self, size_max: u64) -> Result<(), BadRequest> {
        let room = size_max.checked_sub(self.received).ok_or(BadRequest::BodyTooLarge)?;
        let under_way = match self.state {
            State::Length(left) | State::Data(left) => left,
            State::Extension { size, .. } | State::SizeEnd { size } => size,
            _ => 0,
        };
        if under_way > room {
            return Err(BadRequest::BodyTooLarge);
        }
        self.room = self.room.min(room);
        Ok(())
    }

    /// Takes what it can of `input` and appends the decoded bytes to `out`. After a refusal the
    /// decoder is of no more use.
    pub fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<Decoded, BadRequest> {
        let mut at = 0;
        while at < input.len() {
            match self.state {
                State::Done => break,
                State::Length(left) => {
                    let count = self.take(&input[at..], left, out);
                    at += count;
                    let left = left - count as u64;
                    self.state = if left == 0 { State::Done } else { State::Length(left) };
                }
                State::Data(left) => {
                    let count = self.take(&input[at..], left, out);
                    at += count;
                    let left = left - count as u64;
                    self.state = if left == 0 { State::DataEnd } else { State::Data(left) };
                }
                state => {
                    self.state = self.step(state, input[at])?;
                    at += 1;
                }
            }
        }
        Ok(Decoded { consumed: at, done: matches!(self.state, State::Done) })
    }

    /// Appends up to `left` bytes of `input` and tells how many.
    fn take(&mut self, input: &[u8], left: u64, out: &mut Vec<u8>) -> usize {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(input.len());
        out.extend_from_slice(&input[..count]);
        self.room -= count as u64;
        self.received += count as u64;
        count
    }

    /// Takes one byte of framing.
    fn step(&mut self, state: State, byte: u8) -> Result<State, BadRequest> {
        match state {
            State::Size { size, digits } => self.size(size, digits, byte),
            State::Extension { size, place } => self.extension(size, place, byte),
            State::SizeEnd { size } => match (byte, size) {
                (b'\n', 0) => Ok(State::Trailer(Trailer::LineStart)),
                (b'\n', _) => Ok(State::Data(size)),
                _ => Err(BadRequest::ChunkSize),
            },
            State::DataEnd if byte == b'\r' => Ok(State::DataLineFeed),
            State::DataLineFeed if byte == b'\n' => Ok(State::Size { size: 0, digits: 0 }),
            State::DataEnd | State::DataLineFeed => Err(BadRequest::ChunkEnd),
            State::Trailer(place) => self.trailer(place, byte),
            State::Length(_) | State::Data(_) | State::Done => Ok(state), // Not framing.
        }
    }

    /// One byte of a chunk size, or the first after it.
    fn size(&mut self, size: u64, digits: u8, byte: u8) -> Result<State, BadRequest> {
        if let Some(digit) = char::from(byte).to_digit(16) {
            if digits == SIZE_DIGITS_MAX {
                return Err(BadRequest::ChunkSize);
            }
            return Ok(State::Size { size: size << 4 | u64::from(digit), digits: digits + 1 });
        }
        if digits == 0 || !matches!(byte, b'\r' | b';' | b' ' | b'\t') {
            return Err(BadRequest::ChunkSize);
        }
        if size > self.room {
            return Err(BadRequest::BodyTooLarge);
        }
        self.extension = 0;
        if byte == b'\r' {
            return Ok(State::SizeEnd { size });
        }
        self.extension(size, Extension::Gap, byte)
    }

    /// One byte of the extensions, or the CR after them.
    fn extension(&mut self, size: u64, place: Extension, byte: u8) -> Result<State, BadRequest> {
        use Extension as At;
        let place = match (place, byte) {
            (At::Name | At::Token | At::QuotedEnd, b'\r') => return Ok(State::SizeEnd { size }),
            (At::Gap | At::Name | At::NameEnd | At::Token | At::QuotedEnd, b';') => At::NameStart,
            (At::Name | At::NameEnd, b'=') => At::ValueStart,
            (At::Gap | At::Token | At::QuotedEnd, b' ' | b'\t') => At::Gap,
            (At::NameStart | At::ValueStart, b' ' | b'\t') => place,
            (At::Name | At::NameEnd, b' ' | b'\t') => At::NameEnd,
            (At::NameStart | At::Name, _) if is_token_byte(byte) => At::Name,
            (At::ValueStart | At::Token, _) if is_token_byte(byte) => At::Token,
            (At::ValueStart, b'"') => At::Quoted,
            (At::Quoted, b'"') => At::QuotedEnd,
            (At::Quoted, b'\\') => At::Escape,
            (At::Quoted | At::Escape, _) if is_value_byte(byte) => At::Quoted,
            _ => return Err(BadRequest::ChunkExtension),
        };
        self.extension += 1;
        self.extensions += 1;
        if self.extension > EXTENSION_SIZE_MAX || self.extensions > EXTENSIONS_SIZE_MAX {
            return Err(BadRequest::ChunkExtensionTooLong);
        }
        Ok(State::Extension { size, place })
    }

    /// One byte of the trailer section (RFC 9112 §7.1.2). The fields are dropped, as §6.5 allows.
    fn trailer(&mut self, place: Trailer, byte: u8) -> Result<State, BadRequest> {
        use Trailer as At;
        let place = match (place, byte) {
            (At::LineStart, b'\r') => At::End,
            (At::End, b'\n') => return Ok(State::Done),
            (At::LineStart | At::Name, _) if is_token_byte(byte) => At::Name,
            (At::Name, b':') => At::Value,
            (At::Value, b'\r') => At::LineEnd,
            (At::Value, _) if is_value_byte(byte) => At::Value,
            (At::LineEnd, b'\n') => At::LineStart,
            _ => return Err(BadRequest::Trailer),
        };
        self.trailers += 1;
        if self.trailers > TRAILERS_SIZE_MAX {
            return Err(BadRequest::TrailersTooLarge);
        }
        Ok(State::Trailer(place))
    }
}

/// Whether `byte` may stand in a field value or a quoted string: a tab, a space, a visible
/// character or obs-text (RFC 9110 §5.5).
fn is_value_byte(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}
