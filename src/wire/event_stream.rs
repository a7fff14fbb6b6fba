//! Server-Sent Events as a client reads them (WHATWG HTML, section 9.2.6), in pieces as they come.
//!
//! Promises: what is dispatched depends on the bytes alone, not on how they were cut; an event
//! without its blank line is never dispatched; and no more than [`EVENT_SIZE_MAX`] is held. Where
//! the bytes come from, and what to do when they end, is not known here.

/// The largest event, and the longest line, in bytes: far above what any ring of ours holds.
pub const EVENT_SIZE_MAX: usize = 64 * 1024 * 1024;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Message {
    /// Its name; `message` where none was given.
    pub event: String,
    /// Its data, the lines joined.
    pub data: String,
    /// Where its stream stands: the last id so far.
    pub last_id: String,
}

/// The stream sent more than is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooLarge;

/// The state between two pieces.
#[derive(Debug, Default)]
pub struct EventParser {
    line: Vec<u8>,
    /// The last byte was a CR: an LF now belongs to it.
    after_cr: bool,
    /// A byte order mark may only come first.
    begun: bool,
    event: String,
    data: String,
    last_id: String,
    id: String,
    retry_ms: Option<u64>,
}

impl EventParser {
    /// A parser of a stream that goes on where this id stands; empty for the beginning.
    pub fn new(last_id: &str) -> EventParser {
        let id = last_id.to_owned();
        EventParser { last_id: id.clone(), id, ..EventParser::default() }
    }

    /// The id to come back with: that of the last whole block.
    pub fn last_id(&self) -> &str {
        &self.last_id
    }

    /// How long the server wants to be left alone before a reconnect, in milliseconds.
    pub fn retry_ms(&self) -> Option<u64> {
        self.retry_ms
    }

    /// Takes a piece; appends the events that became whole.
    ///
    /// # Errors
    /// [`TooLarge`]: the parser is of no more use.
    pub fn feed(&mut self, bytes: &[u8], messages: &mut Vec<Message>) -> Result<(), TooLarge> {
        for &byte in bytes {
            match byte {
                b'\n' if std::mem::take(&mut self.after_cr) => {}
                b'\n' | b'\r' => {
                    self.after_cr = byte == b'\r';
                    self.take_line(messages)?;
                }
                _ => {
                    self.after_cr = false;
                    if self.line.len() >= EVENT_SIZE_MAX {
                        return Err(TooLarge);
                    }
                    self.line.push(byte);
                }
            }
        }
        Ok(())
    }

    fn take_line(&mut self, messages: &mut Vec<Message>) -> Result<(), TooLarge> {
        let line = std::mem::take(&mut self.line);
        let text = String::from_utf8_lossy(&line);
        let text = match std::mem::replace(&mut self.begun, true) {
            false => text.strip_prefix('\u{feff}').unwrap_or(&text),
            true => &text,
        };
        if text.is_empty() {
            self.dispatch(messages);
        } else {
            let (name, value) = text.split_once(':').unwrap_or((text, ""));
            self.field(name, value.strip_prefix(' ').unwrap_or(value))?;
        }
        self.line = line;
        self.line.clear();
        Ok(())
    }

    fn field(&mut self, name: &str, value: &str) -> Result<(), TooLarge> {
        match name {
            "event" => value.clone_into(&mut self.event),
            "data" => {
                if self.data.len() + value.len() >= EVENT_SIZE_MAX {
                    return Err(TooLarge);
                }
                self.data.push_str(value);
                self.data.push('\n');
            }
            "id" if !value.contains('\0') => value.clone_into(&mut self.id),
            "retry" if !value.is_empty() && value.bytes().all(|byte| byte.is_ascii_digit()) => {
                self.retry_ms = value.parse().ok();
            }
            _ => {} // A comment, or a field that nobody knows.
        }
        Ok(())
    }

    fn dispatch(&mut self, messages: &mut Vec<Message>) {
        self.id.clone_into(&mut self.last_id); // Even where there is no data.
        let mut data = std::mem::take(&mut self.data);
        let event = std::mem::take(&mut self.event);
        if data.pop().is_some() {
            let event = if event.is_empty() { "message".to_owned() } else { event };
            messages.push(Message { event, data, last_id: self.last_id.clone() });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(stream: &[u8], cut: usize) -> (Vec<(String, String, String)>, Option<u64>) {
        let mut parser = EventParser::new("");
        let mut messages = Vec::new();
        for piece in stream.chunks(cut) {
            parser.feed(piece, &mut messages).unwrap();
        }
        let told = messages.into_iter().map(|it| (it.event, it.data, it.last_id));
        (told.collect(), parser.retry_ms())
    }

    #[test]
    fn events_are_the_same_however_the_stream_is_cut() {
        let stream = "\u{feff}: hello\nretry: 1500\nid: e-1\nevent: a\ndata: {\"x\":\"ü\"}\n\n\
            data\r\ndata:two\rdata:  three\r\n\r\nevent: nothing\n\nid: e-2\n\n\
            retry: soon\nid: bad\0id\nunknown: x\ndata: last\n\ndata: never ended\n";
        let own = |a: &str, b: &str, c: &str| (a.to_owned(), b.to_owned(), c.to_owned());
        let want = vec![
            own("a", "{\"x\":\"ü\"}", "e-1"),
            own("message", "\ntwo\n three", "e-1"),
            own("message", "last", "e-2"),
        ];
        for cut in 1..stream.len() {
            assert_eq!(read(stream.as_bytes(), cut), (want.clone(), Some(1500)), "cut at {cut}");
        }
    }

    #[test]
    fn the_cursor_moves_with_whole_blocks_only() {
        let mut parser = EventParser::new("e-5");
        let mut messages = Vec::new();
        parser.feed(b"id: e-6\ndata: half", &mut messages).unwrap();
        assert_eq!((parser.last_id(), messages.len()), ("e-5", 0));
        parser.feed(b"\n\n", &mut messages).unwrap();
        assert_eq!((parser.last_id(), &*messages[0].data), ("e-6", "half"));
    }

    #[test]
    fn what_is_too_large_is_an_error_and_not_memory() {
        let mut parser = EventParser::new("");
        let mut messages = Vec::new();
        let piece = vec![b'x'; EVENT_SIZE_MAX];
        parser.feed(&piece, &mut messages).unwrap();
        assert_eq!(parser.feed(b"x", &mut messages), Err(TooLarge));
    }
}
