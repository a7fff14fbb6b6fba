//! HTTP/1.1 as a client: one request on one connection, the answer whole or as it comes.
//!
//! Over TCP and Unix sockets by ourselves; over TLS by curl, which is asked for the raw bytes and
//! gets everything, the token too, on its standard input, where no `ps` shows it. What an answer
//! means is not known here, but for the form of an error.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::arguments::client::{Place, ServerUrl};
use crate::wire::body::BodyDecoder;
use crate::wire::head::Framing;
use crate::wire::json;

/// The longest head of an answer.
const HEAD_SIZE_MAX: usize = 64 * 1024;
/// The longest answer that is taken whole.
const BODY_SIZE_MAX: usize = 64 * 1024 * 1024;
/// How long one address of a host may take to answer a connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a whole answer may be silent.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(90);

/// Why there is no answer that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// Nobody could be asked: nothing was sent.
    Unreachable(String),
    /// The connection broke, or went silent, before there was a whole answer.
    Broken(String),
    /// The answer says no.
    Refused {
        /// The status.
        status: u16,
        /// The machine's word; empty if the answer was not one of ours.
        code: String,
        /// The human's.
        sentence: String,
    },
}

impl std::fmt::Display for Failure {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Failure::Unreachable(sentence) | Failure::Broken(sentence) => {
                formatter.write_str(sentence)
            }
            Failure::Refused { status, sentence, .. } => write!(formatter, "{sentence} ({status})"),
        }
    }
}

/// Where to ask, and as whom.
#[derive(Clone, Debug)]
pub struct Client {
    /// The server.
    pub server: ServerUrl,
    /// The token, if there is one.
    pub token: Option<String>,
}

/// What is asked.
#[derive(Clone, Copy, Debug, Default)]
pub struct Request<'a> {
    /// `GET`, `POST` …
    pub method: &'a str,
    /// Behind the base path.
    pub path: &'a str,
    /// More fields.
    pub fields: &'a [(&'a str, &'a str)],
    /// JSON.
    pub body: Option<&'a str>,
    /// How long to wait for the next byte; zero: for a whole answer's usual time.
    pub silence: Duration,
}

/// An answer's head; its body is to be read.
pub struct Answer {
    /// The status.
    pub status: u16,
    /// The version of HTTP, as its minor number.
    pub version: u8,
    /// Its fields, names in lower case.
    pub fields: Vec<(String, String)>,
    transport: Transport,
    decoder: Option<BodyDecoder>,
    /// What came behind the head.
    pending: Vec<u8>,
    /// The body is whole.
    done: bool,
}

impl Client {
    /// Asks for JSON and takes the whole answer.
    ///
    /// # Errors
    /// [`Failure`], also for a status above 299.
    pub fn json(&self, request: Request<'_>) -> Result<Value, Failure> {
        let (_, bytes) = self.whole(request)?;
        json::value(&bytes).map_err(|_| {
            Failure::Broken("the answer is not JSON: is this a sidestream?".to_owned())
        })
    }

    /// Takes a whole answer, and its head.
    ///
    /// # Errors
    /// [`Failure`], also for a status above 299.
    pub fn whole(&self, request: Request<'_>) -> Result<(Answer, Vec<u8>), Failure> {
        let mut answer = self.open(request)?;
        let bytes = answer.rest()?;
        match answer.status {
            200..=299 => Ok((answer, bytes)),
            _ => Err(refused(&answer, &bytes)),
        }
    }

    /// Sends a request and reads the head of its answer.
    ///
    /// # Errors
    /// [`Failure`], but none for the status.
    pub fn open(&self, request: Request<'_>) -> Result<Answer, Failure> {
        let silence = match request.silence {
            Duration::ZERO => ANSWER_TIMEOUT,
            silence => silence,
        };
        let mut transport = match &self.server.place {
            Place::Tls => self.by_curl(&request, silence)?,
            place => {
                let mut transport = connect(place, &self.server.authority)?;
                transport.set_silence(silence);
                let head = self.head(&request);
                let broken = |error: io::Error| Failure::Broken(said(&error));
                transport.write_all(head.as_bytes()).map_err(broken)?;
                transport
            }
        };
        let (head, pending) = read_head(&mut transport)?;
        Answer::new(&head, pending, request.method, transport)
    }

    fn head(&self, request: &Request<'_>) -> String {
        let ServerUrl { authority, base, .. } = &self.server;
        let (method, path) = (request.method, request.path);
        // Whoever names a host means that one and no other.
        let named = request.fields.iter().any(|(name, _)| *name == "Host");
        let mut head = format!("{method} {base}{path} HTTP/1.1\r\n");
        if !named {
            head += &format!("Host: {authority}\r\n");
        }
        head += "Connection: close\r\n";
        for line in self.fields(request) {
            head += &line;
            head += "\r\n";
        }
        if let Some(body) = request.body {
            head += &format!("Content-Length: {}\r\n\r\n{body}", body.len());
        } else {
            head += "\r\n";
        }
        head
    }

    /// The fields that stand in every way of sending.
    fn fields(&self, request: &Request<'_>) -> Vec<String> {
        let version = env!("CARGO_PKG_VERSION");
        let mut lines = vec![format!("User-Agent: sidestream/{version}"), "Accept: */*".to_owned()];
        if let Some(token) = &self.token {
            lines.push(format!("Authorization: Bearer {token}"));
        }
        if request.body.is_some() {
            lines.push("Content-Type: application/json".to_owned());
        }
        lines.extend(request.fields.iter().map(|(name, value)| format!("{name}: {value}")));
        lines
    }

    fn by_curl(&self, request: &Request<'_>, silence: Duration) -> Result<Transport, Failure> {
        let mut config = String::new();
        let mut option = |name: &str, value: &str| {
            config.push_str(name);
            config.push_str(" = \"");
            for char in value.chars() {
                match char {
                    '"' | '\\' => config.extend(['\\', char]),
                    '\n' => config.push_str("\\n"),
                    '\r' => config.push_str("\\r"),
                    '\t' => config.push_str("\\t"),
                    _ => config.push(char),
                }
            }
            config.push_str("\"\n");
        };
        let ServerUrl { authority, base, .. } = &self.server;
        option("url", &format!("https://{authority}{base}{}", request.path));
        option("request", request.method);
        for line in self.fields(request) {
            option("header", &line);
        }
        if let Some(body) = request.body {
            option("data-raw", body);
        }
        let silence = silence.as_secs().max(1).to_string();
        let fixed = ["-q", "-sS", "-N", "-i", "--raw", "--http1.1", "--connect-timeout", "10"];
        let slow = ["--speed-limit", "1", "--speed-time", &silence, "-K", "-"];
        let mut child = Command::new("curl")
            .args(fixed)
            .args(slow)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| {
                let why = "https is spoken by curl, which cannot be started";
                Failure::Unreachable(format!("{why}: {}", said(&error)))
            })?;
        let written = child.stdin.take().map(|mut stdin| stdin.write_all(config.as_bytes()));
        match (written, child.stdout.take()) {
            (Some(Ok(())), Some(stdout)) => Ok(Transport::Curl(child, stdout)),
            _ => Err(Failure::Unreachable("curl does not listen".to_owned())),
        }
    }
}

fn connect(place: &Place, authority: &str) -> Result<Transport, Failure> {
    let unreachable = |error: &io::Error| {
        let hint = match error.kind() {
            ErrorKind::ConnectionRefused | ErrorKind::NotFound => {
                "; is a sidestream running there?"
            }
            _ => "",
        };
        let name = match place {
            Place::Unix(path) => format!("unix:{}", path.display()),
            _ => authority.to_owned(),
        };
        Failure::Unreachable(format!("{name} cannot be reached: {}{hint}", said(error)))
    };
    match place {
        Place::Unix(path) => {
            UnixStream::connect(path).map(Transport::Unix).map_err(|error| unreachable(&error))
        }
        Place::Tcp(host, port) => {
            let addresses =
                (&**host, *port).to_socket_addrs().map_err(|error| unreachable(&error))?;
            let mut last = io::Error::from(ErrorKind::AddrNotAvailable);
            for address in addresses {
                match TcpStream::connect_timeout(&address, CONNECT_TIMEOUT) {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true); // Fails only on what has ended.
                        return Ok(Transport::Tcp(stream));
                    }
                    Err(error) => last = error,
                }
            }
            Err(unreachable(&last))
        }
        Place::Tls => Err(Failure::Unreachable("TLS is curl's business".to_owned())),
    }
}

/// A system's error, in words.
fn said(error: &io::Error) -> String {
    match error.kind() {
        ErrorKind::WouldBlock | ErrorKind::TimedOut => "no answer in time".to_owned(),
        ErrorKind::ConnectionRefused => "connection refused".to_owned(),
        ErrorKind::NotFound => "there is nothing of that name".to_owned(),
        _ => error.to_string(),
    }
}

/// One of the ways to a server.
enum Transport {
    Tcp(TcpStream),
    Unix(UnixStream),
    Curl(Child, ChildStdout),
}

impl Transport {
    fn set_silence(&mut self, silence: Duration) {
        let silence = Some(silence);
        let _ = match self {
            Transport::Tcp(stream) => {
                let _ = stream.set_write_timeout(silence);
                stream.set_read_timeout(silence)
            }
            Transport::Unix(stream) => {
                let _ = stream.set_write_timeout(silence);
                stream.set_read_timeout(silence)
            }
            Transport::Curl(..) => Ok(()), // By its arguments.
        }; // Fails only on a time of zero.
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Transport::Tcp(stream) => stream.write_all(bytes),
            Transport::Unix(stream) => stream.write_all(bytes),
            Transport::Curl(..) => Ok(()), // It has the request already.
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let result = match self {
                Transport::Tcp(stream) => stream.read(buffer),
                Transport::Unix(stream) => stream.read(buffer),
                Transport::Curl(_, stdout) => stdout.read(buffer),
            };
            match result {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                result => return result,
            }
        }
    }

    /// Why it ended, if that is an error.
    fn complaint(&mut self) -> Option<String> {
        let Transport::Curl(child, _) = self else { return None };
        let mut text = String::new();
        let stderr = child.stderr.take()?;
        let _ = stderr.take(4096).read_to_string(&mut text); // What there is of it.
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }
}

impl Drop for Transport {
    fn drop(&mut self) {
        if let Transport::Curl(child, _) = self {
            let _ = child.kill(); // It may have ended by itself.
            let _ = child.wait();
        }
    }
}

fn read_head(transport: &mut Transport) -> Result<(Vec<u8>, Vec<u8>), Failure> {
    let mut bytes = Vec::new();
    let mut buffer = [0; 8192];
    loop {
        let count = transport.read(&mut buffer).map_err(|error| Failure::Broken(said(&error)))?;
        if count == 0 {
            let complaint = transport.complaint();
            return Err(match complaint {
                Some(complaint) => Failure::Unreachable(complaint),
                None => Failure::Broken("the connection was closed without an answer".to_owned()),
            });
        }
        bytes.extend_from_slice(&buffer[..count]);
        while let Some(end) = memchr::memmem::find(&bytes, b"\r\n\r\n") {
            let rest = bytes.split_off(end + 4);
            // An interim answer is followed by the one that was asked for.
            let interim = bytes.get(9) == Some(&b'1');
            if !interim {
                return Ok((bytes, rest));
            }
            bytes = rest;
        }
        if bytes.len() > HEAD_SIZE_MAX {
            return Err(Failure::Broken("the answer's head has no end".to_owned()));
        }
    }
}

impl Answer {
    fn new(
        head: &[u8],
        pending: Vec<u8>,
        method: &str,
        transport: Transport,
    ) -> Result<Answer, Failure> {
        let broken = || Failure::Broken("the answer is not HTTP/1.1".to_owned());
        let mut fields = [httparse::EMPTY_HEADER; 100];
        let mut response = httparse::Response::new(&mut fields);
        response.parse(head).map_err(|_| broken())?;
        let status = response.code.ok_or_else(broken)?;
        let version = response.version.unwrap_or(0);
        let text = |value: &[u8]| String::from_utf8_lossy(value).into_owned();
        let fields: Vec<(String, String)> = response
            .headers
            .iter()
            .map(|field| (field.name.to_ascii_lowercase(), text(field.value)))
            .collect();
        let mut answer =
            Answer { status, version, fields, transport, decoder: None, pending, done: false };
        let coding = answer.field("transfer-encoding").map(str::to_ascii_lowercase);
        let length = answer.field("content-length").map(str::parse::<u64>);
        let framing = match (coding.as_deref(), length) {
            (Some("chunked"), _) => Some(Framing::Chunked),
            (Some(_), _) | (None, Some(Err(_))) => return Err(broken()),
            (None, Some(Ok(length))) => Some(Framing::Length(length)),
            (None, None) => None, // To the end of the connection.
        };
        if method == "HEAD" || matches!(status, 204 | 304) {
            answer.done = true;
        } else if let Some(framing) = framing {
            answer.decoder = Some(BodyDecoder::new(framing, u64::MAX).map_err(|_| broken())?);
            answer.done = framing == Framing::Length(0);
        }
        Ok(answer)
    }

    /// A field of the head.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }

    /// Appends what comes next of the body. Returns false once it has ended.
    ///
    /// # Errors
    /// [`Failure::Broken`] if it ended before it was whole, or went silent.
    pub fn read(&mut self, out: &mut Vec<u8>) -> Result<bool, Failure> {
        if self.done {
            return Ok(false);
        }
        let mut input = std::mem::take(&mut self.pending);
        if input.is_empty() {
            let mut buffer = [0; 16 * 1024];
            let count = self.transport.read(&mut buffer);
            let count = count.map_err(|error| Failure::Broken(said(&error)))?;
            input.extend_from_slice(&buffer[..count]);
        }
        if input.is_empty() {
            self.done = true;
            return match (&self.decoder, self.transport.complaint()) {
                (None, None) => Ok(false),
                (_, Some(complaint)) => Err(Failure::Broken(complaint)),
                (Some(_), None) => {
                    Err(Failure::Broken("the connection was cut in mid-answer".to_owned()))
                }
            };
        }
        match &mut self.decoder {
            None => out.append(&mut input),
            Some(decoder) => {
                let decoded = decoder.decode(&input, out);
                let bad = |_| Failure::Broken("the answer's framing is broken".to_owned());
                self.done = decoded.map_err(bad)?.done;
            }
        }
        Ok(true)
    }

    /// The rest of the body.
    ///
    /// # Errors
    /// As of [`Answer::read`].
    pub fn rest(&mut self) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        while self.read(&mut bytes)? {
            if bytes.len() > BODY_SIZE_MAX {
                return Err(Failure::Broken("the answer is too long".to_owned()));
            }
        }
        Ok(bytes)
    }
}

/// What an answer with a bad status says.
pub fn refused(answer: &Answer, body: &[u8]) -> Failure {
    let json: Value = json::value(body).unwrap_or_default();
    let text = |name: &str| json[name].as_str().map(str::to_owned);
    let status = answer.status;
    let sentence = text("error").unwrap_or_else(|| match answer.field("server") {
        Some(server) => format!("{server} answered, not a sidestream"),
        None => "the answer is not one of a sidestream".to_owned(),
    });
    Failure::Refused { status, code: text("code").unwrap_or_default(), sentence }
}

/// A segment of a path, or a value of a query, as RFC 3986 wants it.
pub fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => out.push_str(&format!("%{byte:02X}")),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::TcpListener;

    /// A server that says this, in pieces, to whoever asks first, and what it was asked.
    fn serve(pieces: &'static [&'static str]) -> (Client, std::thread::JoinHandle<String>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let server = ServerUrl::parse(&format!("http://{address}/base")).unwrap();
        let asked = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut asked = Vec::new();
            let mut buffer = [0; 4096];
            while memchr::memmem::find(&asked, b"\r\n\r\n").is_none() {
                let count = stream.read(&mut buffer).unwrap();
                asked.extend_from_slice(&buffer[..count]);
            }
            for piece in pieces {
                stream.write_all(piece.as_bytes()).unwrap();
                stream.flush().unwrap();
            }
            String::from_utf8(asked).unwrap()
        });
        (Client { server, token: Some("sst_x".into()) }, asked)
    }

    fn get(client: &Client) -> Result<(Answer, Vec<u8>), Failure> {
        client.whole(Request { method: "GET", path: "/x", ..Request::default() })
    }

    #[test]
    fn a_request_says_what_it_must_and_every_framing_is_read() {
        for pieces in [
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"][..],
            &[
                "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nContent-",
                "Length: 5\r\n\r\nhel",
                "lo",
            ],
            &[
                "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n",
                "3\r\nllo\r\n0\r\n\r\n",
            ],
            &["HTTP/1.0 200 OK\r\n\r\nhe", "llo"],
        ] {
            let (client, asked) = serve(pieces);
            let (answer, body) = get(&client).unwrap();
            assert_eq!((answer.status, &*body), (200, &b"hello"[..]), "{pieces:?}");
            let asked = asked.join().unwrap();
            assert!(asked.starts_with("GET /base/x HTTP/1.1\r\nHost: 127.0.0.1:"), "{asked}");
            assert!(asked.contains("\r\nAuthorization: Bearer sst_x\r\n"), "{asked}");
        }
    }

    #[test]
    fn an_answer_that_is_cut_or_says_no_is_a_failure_with_a_sentence() {
        let failed = |pieces| get(&serve(pieces).0).map(|_| ()).unwrap_err();
        for pieces in [
            &["HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel"][..],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n"],
            &["HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\n"],
            &["HTTP/1.1 200"],
            &[""],
            &["SSH-2.0-x\r\n\r\n"],
        ] {
            assert!(matches!(failed(pieces), Failure::Broken(_)), "{pieces:?}");
        }
        let said =
            failed(&["HTTP/1.1 404 No\r\n\r\n{\"error\":\"a sentence\",\"code\":\"a_code\"}"]);
        let (code, sentence) = ("a_code".to_owned(), "a sentence".to_owned());
        assert_eq!(said, Failure::Refused { status: 404, code, sentence });
        let said = failed(&["HTTP/1.1 502 Bad\r\nServer: nginx\r\n\r\n<html>"]);
        assert_eq!(said.to_string(), "nginx answered, not a sidestream (502)");
        let server = ServerUrl::parse("unix:/nowhere/socket").unwrap();
        let said = get(&Client { server, token: None }).map(|_| ()).unwrap_err();
        assert!(
            matches!(&said, Failure::Unreachable(it) if it.contains("running there")),
            "{said}"
        );
    }

    #[test]
    fn what_stands_in_a_path_is_escaped() {
        assert_eq!(escaped("session-1_a.b~"), "session-1_a.b~");
        assert_eq!(escaped("a/b?c=ü %"), "a%2Fb%3Fc%3D%C3%BC%20%25");
    }
}
