//! The little HTTP that a measurement needs: requests as bytes, and one exchange at a time.

use serde_json::Value;
use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// The bytes of a request without a body.
pub fn get(target: &str) -> Vec<u8> {
    format!("GET {target} HTTP/1.1\r\nHost: localhost\r\nAccept: text/event-stream\r\n\r\n").into()
}

/// The bytes of a request with a JSON body, on a connection that goes on.
pub fn post_bytes(target: &str, body: &str) -> Vec<u8> {
    format!(
        "POST {target} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
    .into()
}

/// Posts JSON and returns the JSON of the answer.
///
/// # Errors
/// A sentence with the answer, if it is none of success.
pub fn post(port: u16, target: &str, body: &str) -> Result<Value, String> {
    let answer = Connection::open(port)?.exchange(&post_bytes(target, body))?;
    serde_json::from_slice(&answer).map_err(|error| format!("POST {target}: {error}"))
}

/// A connection with one exchange after the other.
pub struct Connection(TcpStream);

impl Connection {
    /// Connects.
    ///
    /// # Errors
    /// The system's, as a sentence.
    pub fn open(port: u16) -> Result<Connection, String> {
        let told = |error: std::io::Error| error.to_string();
        let stream = TcpStream::connect(("127.0.0.1", port)).map_err(told)?;
        stream.set_nodelay(true).map_err(told)?;
        stream.set_read_timeout(Some(Duration::from_secs(60))).map_err(told)?;
        Ok(Connection(stream))
    }

    /// Sends a request and returns its answer's body.
    ///
    /// # Errors
    /// A sentence with the answer, if it is none of success.
    pub fn exchange(&mut self, request: &[u8]) -> Result<Vec<u8>, String> {
        let told = |error: std::io::Error| error.to_string();
        self.0.write_all(request).map_err(told)?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        loop {
            if is_whole(&answer)? {
                let end = memchr::memmem::find(&answer, b"\r\n\r\n").map_or(0, |at| at + 4);
                return Ok(answer.split_off(end));
            }
            match self.0.read(&mut chunk).map_err(told)? {
                0 => return Err("hung up".into()),
                count => answer.extend_from_slice(&chunk[..count]),
            }
        }
    }
}

/// Whether an answer is whole.
///
/// # Errors
/// The answer, if it is none of success: that would measure something else.
pub fn is_whole(answer: &[u8]) -> Result<bool, String> {
    let Some(end) = memchr::memmem::find(answer, b"\r\n\r\n") else { return Ok(false) };
    if !answer.starts_with(b"HTTP/1.1 2") {
        return Err(String::from_utf8_lossy(answer).into_owned());
    }
    let length = length(&answer[..end + 2]).ok_or("an answer without a length")?;
    Ok(answer.len() >= end + 4 + length)
}

/// What a head says of its body's length.
fn length(head: &[u8]) -> Option<usize> {
    let text = std::str::from_utf8(head).ok()?;
    let line =
        text.lines().find(|line| line.to_ascii_lowercase().starts_with("content-length:"))?;
    line.split_once(':')?.1.trim().parse().ok()
}
