//! Server-Sent Events on the wire (WHATWG HTML, section 9.2): frames out, cursors in.
//!
//! A frame is `id:`, `event:`, one `data:` line and a blank line, LF only. Ids are
//! `<epoch>-<seq>`: twelve hexadecimal digits drawn at server start, and a decimal number. ASCII,
//! because browsers send other bytes back in different encodings; opaque to clients.

use crate::wire::json;
use std::fmt;

/// The random half of an id: one server start. 48 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Epoch(u64);

impl Epoch {
    /// The epoch with these low 48 bits.
    pub fn new(bits: u64) -> Epoch {
        Epoch(bits & 0xffff_ffff_ffff)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{:012x}", self.0)
    }
}

/// One event's id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EventId {
    /// Which server start issued it.
    pub epoch: Epoch,
    /// The server-wide number.
    pub seq: u64,
}

/// The longest id that is looked at: longer ones are malformed.
pub const ID_SIZE_MAX: usize = 64;

impl EventId {
    /// Reads exactly what [`EventId`] displays, and nothing else.
    pub fn parse(text: &[u8]) -> Option<EventId> {
        if text.len() > ID_SIZE_MAX {
            return None;
        }
        let (epoch, seq) = text.split_at_checked(12)?;
        let seq = seq.strip_prefix(b"-")?;
        let lower_hex = |byte: &u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        let leading_zero = seq.len() > 1 && seq[0] == b'0';
        if !epoch.iter().all(lower_hex) || !seq.iter().all(u8::is_ascii_digit) || leading_zero {
            return None;
        }
        let epoch = u64::from_str_radix(std::str::from_utf8(epoch).ok()?, 16).ok()?;
        let seq = std::str::from_utf8(seq).ok()?.parse().ok()?;
        Some(EventId { epoch: Epoch(epoch), seq })
    }
}

impl fmt::Display for EventId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}-{}", self.epoch, self.seq)
    }
}

/// Appends `id: …` LF.
pub fn id(out: &mut Vec<u8>, id: EventId) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    out.extend_from_slice(b"id: ");
    out.extend((0..12).rev().map(|at| HEX[(id.epoch.0 >> (4 * at) & 15) as usize]));
    out.push(b'-');
    json::number(out, id.seq);
    out.push(b'\n');
}

/// Appends `event: …` LF and `data: `; the data and [`end`] follow.
pub fn event(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(b"event: ");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b"\ndata: ");
}

/// Ends the data line and the frame.
pub fn end(out: &mut Vec<u8>) {
    out.extend_from_slice(b"\n\n");
}

/// Appends `retry: …` LF, the client's reconnection time.
pub fn retry(out: &mut Vec<u8>, retry_ms: u64) {
    out.extend_from_slice(b"retry: ");
    json::number(out, retry_ms);
    out.push(b'\n');
}

/// The parts of one frame as [`end`] left it: its id, its event name, its data.
pub fn parse_frame(frame: &[u8]) -> Option<(&str, &str, &str)> {
    let text = std::str::from_utf8(frame).ok()?.strip_suffix("\n\n")?;
    let (id, rest) = text.strip_prefix("id: ")?.split_once('\n')?;
    let (event, data) = rest.strip_prefix("event: ")?.split_once('\n')?;
    Some((id, event, data.strip_prefix("data: ")?)).filter(|(_, _, data)| !data.contains('\n'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_back_exactly_and_nothing_else_is_an_id() {
        let want = EventId { epoch: Epoch::new(0x00ab_cdef_0123), seq: 1 << 40 };
        assert_eq!(EventId::parse(want.to_string().as_bytes()), Some(want));
        let mut out = Vec::new();
        id(&mut out, want);
        assert_eq!(out, format!("id: {want}\n").as_bytes());
        for bad in [
            "",
            "-",
            "00abcdef0123",
            "00abcdef0123-",
            "00abcdef0123-01",
            "00ABCDEF0123-1",
            "00abcdef0123-+1",
            "00abcdef0123-1 ",
            "00abcdef0123--1",
            "0abcdef0123-1",
            "1-1",
            "00abcdef0123-99999999999999999999999",
            "00abcdef0123-18446744073709551616",
            "00abcdef01é3-1",
            "../../etc/passwd",
        ] {
            assert_eq!(EventId::parse(bad.as_bytes()), None, "{bad}");
        }
        assert!(EventId::parse(&[b'0'; 1000]).is_none());
    }

    #[test]
    fn a_frame_is_taken_apart_as_it_was_put_together() {
        let mut out = Vec::new();
        id(&mut out, EventId { epoch: Epoch::new(1), seq: 7 });
        event(&mut out, "session-output");
        out.extend_from_slice(b"{\"a\":1}");
        end(&mut out);
        let parts = ("000000000001-7", "session-output", "{\"a\":1}");
        assert_eq!(parse_frame(&out), Some(parts));
    }
}
