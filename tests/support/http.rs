//! A raw HTTP/1.1 client on a std socket: what goes out is what the test wrote, what comes back is
//! read as the RFC says and not a byte more, so that pipelined answers stay apart.

use super::PATIENCE;
use serde_json::Value;
use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};

/// One answer.
#[derive(Debug, Clone)]
pub struct Response {
    /// The status code.
    pub status: u16,
    /// Names in lower case, in the order of the wire.
    pub headers: Vec<(String, String)>,
    /// The body; empty for HEAD.
    pub body: Vec<u8>,
}

impl Response {
    /// The value of a header that stands once. Panics if it stands twice.
    #[track_caller]
    pub fn header(&self, name: &str) -> Option<&str> {
        let mut all = self.headers.iter().filter(|(n, _)| n == name).map(|(_, value)| value);
        let first = all.next();
        assert!(all.next().is_none(), "header {name} stands twice: {:?}", self.headers);
        first.map(String::as_str)
    }

    /// The body as text.
    #[track_caller]
    pub fn text(&self) -> String {
        String::from_utf8(self.body.clone()).expect("the body is UTF-8")
    }

    /// The body as JSON; checks the content type too.
    #[track_caller]
    pub fn json(&self) -> Value {
        let content_type = self.header("content-type").unwrap_or("(none)");
        assert!(
            content_type.starts_with("application/json"),
            "content type {content_type}: {self}"
        );
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self}"))
    }

    /// This answer, if it has the status; else a panic that shows all of it.
    #[track_caller]
    pub fn expect(self, status: u16) -> Response {
        assert_eq!(self.status, status, "{self}");
        self
    }

    /// An error in the documented form, with this status: returns its `error` and `code`.
    #[track_caller]
    pub fn expect_error(self, status: u16) -> (String, String) {
        let json = self.expect(status).json();
        assert_eq!(json["success"], false, "{json}");
        for member in ["error", "code", "requestId"] {
            assert!(json[member].as_str().is_some_and(|s| !s.is_empty()), "no `{member}`: {json}");
        }
        (json["error"].as_str().unwrap().into(), json["code"].as_str().unwrap().into())
    }
}

impl std::fmt::Display for Response {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        writeln!(f, "status {}", self.status)?;
        for (name, value) in &self.headers {
            writeln!(f, "{name}: {value}")?;
        }
        write!(f, "\n{}", String::from_utf8_lossy(&self.body))
    }
}

/// One TCP connection and the bytes read from it that no answer has claimed yet.
pub struct Connection {
    stream: TcpStream,
    pending: Vec<u8>,
}

impl Connection {
    /// Connects.
    #[track_caller]
    pub fn open(address: SocketAddr) -> Connection {
        let stream =
            TcpStream::connect(address).unwrap_or_else(|e| panic!("connect {address}: {e}"));
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.set_write_timeout(Some(PATIENCE)).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection { stream, pending: Vec::new() }
    }

    /// Sends these bytes, all of them.
    #[track_caller]
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).expect("the server takes our bytes");
    }

    /// Ends our direction only.
    pub fn half_close(&self) {
        self.stream.shutdown(Shutdown::Write).unwrap();
    }

    /// Reads the next answer, which must be a final one. `method` is that of its request.
    #[track_caller]
    pub fn response(&mut self, method: &str) -> Response {
        let mut response = self.head();
        if method == "HEAD" || matches!(response.status, 100..=199 | 204 | 304) {
            return response;
        }
        assert!(response.header("transfer-encoding").is_none(), "unexpected coding: {response}");
        match response.header("content-length").map(|text| text.parse::<usize>().unwrap()) {
            Some(length) => {
                while self.pending.len() < length {
                    assert!(self.fill(), "the connection ended within a body: {response}");
                }
                response.body = self.pending.drain(..length).collect();
            }
            None => {
                while self.fill() {}
                response.body = std::mem::take(&mut self.pending);
            }
        }
        response
    }

    /// Reads one head, interim answers included.
    #[track_caller]
    pub fn head(&mut self) -> Response {
        let end = loop {
            if let Some(at) = memchr::memmem::find(&self.pending, b"\r\n\r\n") {
                break at;
            }
            assert!(
                self.fill(),
                "the connection ended before a whole head: {:?}",
                String::from_utf8_lossy(&self.pending)
            );
        };
        let head: Vec<u8> = self.pending.drain(..end + 4).collect();
        parse_head(std::str::from_utf8(&head[..end]).expect("an ASCII head"))
    }

    /// Whether the server ends the connection now, with nothing more to say.
    #[track_caller]
    pub fn expect_end(&mut self) {
        if self.fill() || !self.pending.is_empty() {
            panic!("more bytes: {:?}", String::from_utf8_lossy(&self.pending));
        }
    }

    /// What the server says within this time, as far as it comes in one piece; None for silence.
    pub fn word_within(&mut self, patience: std::time::Duration) -> Option<String> {
        self.stream.set_read_timeout(Some(patience)).unwrap();
        let mut buffer = [0; 4096];
        let count = self.stream.read(&mut buffer).unwrap_or(0);
        self.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        (count > 0).then(|| String::from_utf8_lossy(&buffer[..count]).into_owned())
    }

    /// Reads to the end of the connection.
    pub fn rest(&mut self) -> Vec<u8> {
        while self.fill() {}
        std::mem::take(&mut self.pending)
    }

    /// Gives up the socket and what was read ahead from it.
    pub fn into_parts(self) -> (TcpStream, Vec<u8>) {
        (self.stream, self.pending)
    }

    /// Reads once more; false at the end of the stream or after a reset.
    #[track_caller]
    fn fill(&mut self) -> bool {
        let mut buffer = [0; 65536];
        loop {
            match self.stream.read(&mut buffer) {
                Ok(0) => return false,
                Ok(count) => {
                    self.pending.extend_from_slice(&buffer[..count]);
                    return true;
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return false,
                Err(error) => panic!(
                    "reading an answer: {error}; so far {:?}",
                    String::from_utf8_lossy(&self.pending)
                ),
            }
        }
    }
}

fn parse_head(text: &str) -> Response {
    let mut lines = text.split("\r\n");
    let status_line = lines.next().unwrap();
    assert!(status_line.starts_with("HTTP/1.1 "), "status line {status_line:?}");
    let status = status_line.get(9..12).and_then(|code| code.parse().ok()).expect("a status code");
    let headers = lines
        .map(|line| {
            assert!(!line.contains(['\r', '\n']), "a bare CR or LF in {line:?}");
            let (name, value) = line.split_once(':').unwrap_or_else(|| panic!("header {line:?}"));
            (name.to_ascii_lowercase(), value.trim().to_string())
        })
        .collect();
    Response { status, headers, body: Vec::new() }
}

/// The bytes of a request. `Host` is right and the connection stays open; `headers` add to that.
/// A body brings its `Content-Length`, and JSON as its type unless `headers` name one.
pub fn encode(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Vec<u8> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {address}\r\n");
    for (name, value) in headers {
        head += &format!("{name}: {value}\r\n");
    }
    if !body.is_empty() || matches!(method, "POST" | "PUT" | "PATCH") {
        head += &format!("Content-Length: {}\r\n", body.len());
        if !headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("content-type")) {
            head += "Content-Type: application/json\r\n";
        }
    }
    let mut bytes = (head + "\r\n").into_bytes();
    bytes.extend_from_slice(body);
    bytes
}

/// One request on a connection of its own.
#[track_caller]
pub fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Response {
    let mut all = headers.to_vec();
    all.push(("Connection", "close"));
    let mut connection = Connection::open(address);
    connection.send(encode(address, method, path, &all, body));
    connection.response(method)
}
