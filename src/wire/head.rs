//! Reads the head of an HTTP/1.x request: request line and fields.
//!
//! It promises that whatever two parsers could read differently is refused: bare CR or LF,
//! folded lines, space before a colon, two lengths, a length beside a coding, two hosts. The
//! verdict depends on the bytes alone, never on how they were cut on their way here. Lines and
//! fields are left where they arrived and told as [`Span`]s. It does not know routes, what a
//! target means (`target`), how a body is coded (`body`), or who may ask.
//!
//! `httparse` reads the fields; the rules that it leaves to its callers stand here.

use super::reply::Status;
use super::target;

/// Room for fields on the stack: one above the most that [`HeadLimits::fields_max`] may allow.
const FIELDS_ROOM: usize = 101;
/// Room for those of most heads: a browser sends about fifteen.
const FIELDS_MOSTLY: usize = 24;

/// The methods that some path takes: what a request about the server as a whole, or about another
/// one, is told in `Allow` (RFC 9110 §10.2.1).
pub const ALLOW: &str = "GET, HEAD, POST, PATCH, DELETE, OPTIONS";

/// A range of bytes in the input that was given to [`parse`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u16,
    end: u16,
}

impl Span {
    /// The bytes, out of the same input (or a copy of it) that was parsed.
    pub fn of(self, input: &[u8]) -> &[u8] {
        &input[usize::from(self.start)..usize::from(self.end)]
    }

    /// The bytes as text, or `None` if they are not UTF-8: field values may hold any octet
    /// above 0x7f (RFC 9110 §5.5).
    pub fn text(self, input: &[u8]) -> Option<&str> {
        std::str::from_utf8(self.of(input)).ok()
    }

    /// The place of `part` within `input`, of which it must be a sub-slice below 64 KiB.
    fn within(input: &[u8], part: &[u8]) -> Span {
        let start = part.as_ptr() as usize - input.as_ptr() as usize;
        debug_assert!(start + part.len() <= input.len().min(usize::from(u16::MAX)));
        Span { start: start as u16, end: (start + part.len()) as u16 }
    }
}

/// The methods that are known (RFC 9110 §9, RFC 5789). A path takes some of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the methods")]
pub enum Method {
    Get,
    Head,
    Post,
    Put,
    Patch,
    Delete,
    Options,
    Trace,
    Query,
}

impl Method {
    /// The method as it stands on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Method::Get => "GET",
            Method::Head => "HEAD",
            Method::Post => "POST",
            Method::Put => "PUT",
            Method::Patch => "PATCH",
            Method::Delete => "DELETE",
            Method::Options => "OPTIONS",
            Method::Trace => "TRACE",
            Method::Query => "QUERY",
        }
    }

    /// Methods are case-sensitive (RFC 9110 §9.1): `get` is one that we do not know.
    fn from_token(token: &[u8]) -> Result<Method, BadRequest> {
        match token {
            b"GET" => Ok(Method::Get),
            b"HEAD" => Ok(Method::Head),
            b"POST" => Ok(Method::Post),
            b"PUT" => Ok(Method::Put),
            b"PATCH" => Ok(Method::Patch),
            b"DELETE" => Ok(Method::Delete),
            b"OPTIONS" => Ok(Method::Options),
            b"TRACE" => Ok(Method::Trace),
            b"QUERY" => Ok(Method::Query),
            // Its target is no resource of ours, and what follows it may be another protocol.
            b"CONNECT" => Err(BadRequest::MethodNotAllowed),
            _ => Err(BadRequest::MethodUnknown),
        }
    }
}

/// The request's protocol version. A higher minor version of 1 counts as 1.1 (RFC 9110 §2.5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "the names are the versions")]
pub enum Version {
    Http10,
    Http11,
}

/// How the end of the body is told (RFC 9112 §6.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Framing {
    /// There is no body.
    None,
    /// So many bytes. May be 0.
    Length(u64),
    /// The chunked coding.
    Chunked,
}

/// A whole and unambiguous request head. Spans refer to the input that it was parsed from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The method.
    pub method: Method,
    /// The version.
    pub version: Version,
    /// The request target, for [`target::parse`]: one or more visible ASCII characters.
    pub target: Span,
    /// Bytes of the head, from the first of the input (a skipped empty line included) to the
    /// empty line that ends it, at most 65,535. The body begins there.
    pub length: usize,
    /// Where the body ends.
    pub framing: Framing,
    /// Whether the client wants the connection to go on (RFC 9112 §9.3).
    pub keep_alive: bool,
    /// Whether the client waits for [`super::reply::CONTINUE`] before it sends its body. Never
    /// true without a body or from HTTP/1.0 (RFC 9110 §10.1.1).
    pub expect_continue: bool,
    /// Whether a proxy has left its mark: `Forwarded`, `X-Forwarded-*`, `X-Real-IP` or `Via`.
    pub forwarded: bool,
    /// `X-Forwarded-For`; of several the last, which the nearest proxy wrote.
    pub forwarded_for: Option<Span>,
    /// `Host`, valid by [`target::split_authority`]. Always there from HTTP/1.1.
    pub host: Option<Span>,
    /// `Origin`.
    pub origin: Option<Span>,
    /// `Sec-Fetch-Site`.
    pub fetch_site: Option<Span>,
    /// `Sec-Fetch-Mode`.
    pub fetch_mode: Option<Span>,
    /// `Sec-Fetch-Dest`.
    pub fetch_dest: Option<Span>,
    /// `Authorization`.
    pub authorization: Option<Span>,
    /// `Content-Type`.
    pub content_type: Option<Span>,
    /// `Content-Encoding`.
    pub content_encoding: Option<Span>,
    /// `Last-Event-ID`, if not empty. May hold any octet above 0x7f.
    pub last_event_id: Option<Span>,
    /// `If-Match`; of several the first, at worst a refusal where another would have matched.
    pub if_match: Option<Span>,
    /// `If-None-Match`; of several the first, at worst a 200 where a 304 would have done.
    pub if_none_match: Option<Span>,
    /// `Accept-Encoding`; of several none, at worst a reply that is longer than it could be.
    pub accept_encoding: Option<Span>,
    /// `X-Request-Id`, if not empty; of several the first, which is the outermost proxy's.
    pub request_id: Option<Span>,
    /// `Idempotency-Key`.
    pub idempotency_key: Option<Span>,
    /// `Cookie`, of which a client sends one (RFC 6265 §5.4).
    pub cookie: Option<Span>,
    /// `Access-Control-Request-Method`.
    pub preflight_method: Option<Span>,
    /// `Access-Control-Request-Headers`.
    pub preflight_headers: Option<Span>,
}

/// Bounds of one head.
#[derive(Clone, Copy, Debug)]
pub struct HeadLimits {
    /// The most bytes of a head, its final empty line included. Above 65,535 counts as that.
    pub size_max: usize,
    /// The most fields, at most 100.
    pub fields_max: usize,
}

/// Looks for a whole head at the front of `input`. `Ok(None)`: not whole yet, read more.
///
/// `scanned` is 0 for a fresh head and kept by the caller between calls, with `input` only
/// growing: bytes before it are not searched for a line end again, so a head that drips in
/// costs its length, not its square. A refusal may come before the head is whole, and is then
/// the same one that the whole head would get.
#[inline(never)] // Stays in this floor, which is compiled for speed.
pub fn parse(
    input: &[u8],
    scanned: &mut usize,
    limits: &HeadLimits,
) -> Result<Option<Head>, BadRequest> {
    let size_max = limits.size_max.min(usize::from(u16::MAX));
    let window = &input[..input.len().min(size_max)];
    match scan(window, scanned)? {
        Some(length) => read(&window[..length], limits.fields_max).map(Some),
        None if input.len() < size_max => Ok(None),
        None => Err(too_large(window)),
    }
}

/// Searches on for the end of the head, line by line, and tells where the body begins. Whatever
/// can be refused by line ends and the request line is refused here, as early as it is seen; but
/// for the request line of a head that is whole: [`read`] looks at that one anyway.
fn scan(input: &[u8], scanned: &mut usize) -> Result<Option<usize>, BadRequest> {
    let mut first = None;
    let found = look_for_end(input, scanned, &mut first);
    if let (Ok(None) | Err(_), Some(line)) = (&found, first) {
        request_line(line)?;
    }
    found
}

/// The same without the request line, which is told when it is seen for the first time.
fn look_for_end<'a>(
    input: &'a [u8],
    scanned: &mut usize,
    first_line: &mut Option<&'a [u8]>,
) -> Result<Option<usize>, BadRequest> {
    let start = start(input);
    match input.get(start) {
        None => return Ok(None),
        // Told at once, for those who speak something else (TLS, say) and send no line end.
        Some(&byte) if !is_token_byte(byte) && !matches!(byte, b'\r' | b'\n') => {
            return Err(BadRequest::RequestLine);
        }
        Some(_) => {}
    }
    let mut at = (*scanned).clamp(start, input.len());
    let mut first = memchr::memchr(b'\n', &input[start..at]).is_none();
    while let Some(found) = memchr::memchr2(b'\r', b'\n', &input[at..]) {
        let line_end = at + found;
        match (input[line_end], input.get(line_end + 1)) {
            (b'\r', Some(b'\n')) => {}
            (b'\r', None) => {
                *scanned = line_end;
                return Ok(None);
            }
            (b'\r', Some(_)) => return Err(BadRequest::BareCarriageReturn),
            _ => return Err(BadRequest::BareLineFeed),
        }
        at = line_end + 2;
        if first {
            *first_line = Some(&input[start..line_end]);
            first = false;
        } else if input[..line_end].ends_with(b"\r\n") {
            *scanned = at;
            return Ok(Some(at));
        }
    }
    *scanned = input.len();
    Ok(None)
}

/// Where the request line begins: after one empty line, which RFC 9112 §2.2 wants skipped, since
/// old clients send it after a body. A second one is refused as an empty request line.
fn start(input: &[u8]) -> usize {
    if input.starts_with(b"\r\n") { 2 } else { 0 }
}

/// Which part outgrew the limit (RFC 9112 §3, RFC 6585 §5).
fn too_large(window: &[u8]) -> BadRequest {
    let rest = &window[start(window)..];
    if memchr::memchr(b'\n', rest).is_some() {
        BadRequest::HeadTooLarge
    } else if rest.contains(&b' ') {
        BadRequest::RequestLineTooLong
    } else {
        BadRequest::MethodUnknown
    }
}

/// Takes `method SP request-target SP HTTP-version` apart (RFC 9112 §3), single spaces only.
fn request_line(line: &[u8]) -> Result<(Method, &[u8], Version), BadRequest> {
    let mut parts = line.splitn(3, |&byte| byte == b' ');
    let method = parts.next().unwrap_or_default();
    if method.is_empty() || !method.iter().all(|&byte| is_token_byte(byte)) {
        return Err(BadRequest::RequestLine);
    }
    let target = parts.next().ok_or(BadRequest::RequestLine)?;
    let version = parts.next().ok_or(BadRequest::SimpleRequest)?;
    if target.is_empty() {
        return Err(BadRequest::RequestLine);
    }
    // The version first: what a later protocol calls a method is its own affair.
    let version = match version {
        b"HTTP/1.0" => Version::Http10,
        [b'H', b'T', b'T', b'P', b'/', b'1', b'.', b'1'..=b'9'] => Version::Http11,
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', b'.', b'0'..=b'9'] => {
            return Err(BadRequest::Version);
        }
        _ => return Err(BadRequest::RequestLine),
    };
    if !target.iter().all(u8::is_ascii_graphic) {
        return Err(BadRequest::TargetByte);
    }
    Ok((Method::from_token(method)?, target, version))
}

/// Reads a head that [`scan`] has found whole.
fn read(input: &[u8], fields_max: usize) -> Result<Head, BadRequest> {
    let start = start(input);
    let line_end = memchr::memchr(b'\r', &input[start..]).map_or(input.len(), |at| start + at);
    let (method, target, version) = request_line(&input[start..line_end])?;
    let lines = &input[line_end + 2..];
    // Room is cleared first, and most heads are short.
    let (mut room, mut more_room);
    room = [httparse::EMPTY_HEADER; FIELDS_MOSTLY];
    let parsed = match httparse::parse_headers(lines, &mut room) {
        Err(httparse::Error::TooManyHeaders) => {
            more_room = [httparse::EMPTY_HEADER; FIELDS_ROOM];
            httparse::parse_headers(lines, &mut more_room)
        }
        parsed => parsed,
    };
    let fields = match parsed {
        Ok(httparse::Status::Complete((_, fields))) => fields,
        Err(httparse::Error::TooManyHeaders) => return Err(BadRequest::TooManyFields),
        // Partial cannot be: the input ends with its empty line.
        Ok(httparse::Status::Partial) | Err(_) => return Err(BadRequest::Field),
    };
    if fields.len() > fields_max {
        return Err(BadRequest::TooManyFields);
    }
    let mut found = Found::new(Head::bare(method, version, Span::within(input, target)));
    for field in fields {
        found.field(field.name, Span::within(input, field.value), field.value)?;
    }
    found.head.length = input.len();
    found.finish(input)
}

impl Head {
    /// Whether its request is to be carried out only where there is nothing: `If-None-Match: *` (RFC
    /// 9110 §13.1.2).
    pub fn is_if_none_exists(&self, input: &[u8]) -> bool {
        self.if_none_match.is_some_and(|tags| tags.of(input) == b"*")
    }

    /// A head without fields.
    fn bare(method: Method, version: Version, target: Span) -> Head {
        Head {
            method,
            version,
            target,
            length: 0,
            framing: Framing::None,
            keep_alive: false,
            expect_continue: false,
            forwarded: false,
            forwarded_for: None,
            host: None,
            origin: None,
            fetch_site: None,
            fetch_mode: None,
            fetch_dest: None,
            authorization: None,
            content_type: None,
            content_encoding: None,
            last_event_id: None,
            if_match: None,
            if_none_match: None,
            accept_encoding: None,
            request_id: None,
            idempotency_key: None,
            cookie: None,
            preflight_method: None,
            preflight_headers: None,
        }
    }
}

/// What the fields said so far.
struct Found {
    head: Head,
    length: Option<u64>,
    coding: Option<Span>,
    /// `Connection: close` was among the options.
    close: bool,
    /// `Connection: keep-alive` was among the options.
    stay: bool,
    expectation: Option<bool>,
    /// `Accept-Encoding` came again.
    encodings: bool,
}

impl Found {
    fn new(head: Head) -> Found {
        Found {
            head,
            length: None,
            coding: None,
            close: false,
            stay: false,
            expectation: None,
            encodings: false,
        }
    }

    /// Takes one field in.
    fn field(&mut self, name: &str, span: Span, value: &[u8]) -> Result<(), BadRequest> {
        let mut lower = [0; 32]; // Longer than every name that is looked for.
        let length = name.len().min(lower.len());
        for (to, byte) in lower.iter_mut().zip(name.bytes()) {
            *to = byte.to_ascii_lowercase();
        }
        let head = &mut self.head;
        match &lower[..length] {
            b"host" => once(&mut head.host, span)?,
            b"content-length" => {
                if self.length.replace(content_length(value)?).is_some() {
                    return Err(BadRequest::FieldDoubled);
                }
            }
            // Two lines are one list (RFC 9110 §5.3), and a list is never exactly `chunked`.
            b"transfer-encoding" => {
                if self.coding.replace(span).is_some() {
                    return Err(BadRequest::CodingInvalid);
                }
            }
            b"connection" => self.connection(value),
            b"expect" => {
                // A list, whose empty members count for nothing (RFC 9110 §5.6.1, §10.1.1).
                let members = value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
                for member in members.filter(|member| !member.is_empty()) {
                    let known = member.eq_ignore_ascii_case(b"100-continue");
                    self.expectation = Some(known && self.expectation.unwrap_or(true));
                }
            }
            b"origin" => once(&mut head.origin, span)?,
            b"sec-fetch-site" => once(&mut head.fetch_site, span)?,
            b"sec-fetch-mode" => once(&mut head.fetch_mode, span)?,
            b"sec-fetch-dest" => once(&mut head.fetch_dest, span)?,
            b"authorization" => once(&mut head.authorization, span)?,
            b"content-type" => once(&mut head.content_type, span)?,
            b"content-encoding" => once(&mut head.content_encoding, span)?,
            b"last-event-id" => once(&mut head.last_event_id, span)?,
            b"if-match" => first(&mut head.if_match, span),
            b"if-none-match" => first(&mut head.if_none_match, span),
            b"accept-encoding" => {
                self.encodings |= head.accept_encoding.replace(span).is_some();
            }
            b"x-request-id" => first(&mut head.request_id, span),
            b"idempotency-key" => once(&mut head.idempotency_key, span)?,
            b"cookie" => once(&mut head.cookie, span)?,
            b"access-control-request-method" => once(&mut head.preflight_method, span)?,
            b"access-control-request-headers" => once(&mut head.preflight_headers, span)?,
            b"x-forwarded-for" => {
                head.forwarded = true;
                head.forwarded_for = Some(span);
            }
            b"forwarded" | b"x-real-ip" | b"via" => head.forwarded = true,
            other => head.forwarded |= other.starts_with(b"x-forwarded"),
        }
        Ok(())
    }

    /// Notes the two connection options that matter (RFC 9110 §7.6.1).
    fn connection(&mut self, value: &[u8]) {
        for option in value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii) {
            self.close |= option.eq_ignore_ascii_case(b"close");
            self.stay |= option.eq_ignore_ascii_case(b"keep-alive");
        }
    }

    /// Draws the conclusions that need all fields.
    fn finish(mut self, input: &[u8]) -> Result<Head, BadRequest> {
        let old = self.head.version == Version::Http10;
        match self.head.host.map(|host| host.of(input)) {
            Some(host) if target::split_authority(host).is_some() => {}
            Some(_) => return Err(BadRequest::HostInvalid),
            None if old => {}
            None => return Err(BadRequest::HostMissing),
        }
        self.head.framing = self.framing(input)?;
        let has_body = !matches!(self.head.framing, Framing::None | Framing::Length(0));
        self.head.expect_continue = match self.expectation {
            None => false,
            Some(_) if old => false,
            Some(true) => has_body,
            Some(false) => return Err(BadRequest::Expectation),
        };
        self.head.keep_alive = !self.close && (self.stay || !old);
        self.head.accept_encoding = self.head.accept_encoding.filter(|_| !self.encodings);
        // An empty cursor is how a client says that it has none (WHATWG HTML §9.2.4).
        self.head.last_event_id = self.head.last_event_id.filter(|id| !id.of(input).is_empty());
        self.head.request_id = self.head.request_id.filter(|id| !id.of(input).is_empty());
        Ok(self.head)
    }

    /// Where the body ends, if nothing speaks against it (RFC 9112 §6.1, §6.3).
    fn framing(&self, input: &[u8]) -> Result<Framing, BadRequest> {
        match (self.coding, self.length) {
            (None, None) => Ok(Framing::None),
            (None, Some(length)) => Ok(Framing::Length(length)),
            (Some(_), Some(_)) => Err(BadRequest::LengthWithCoding),
            (Some(_), None) if self.head.version == Version::Http10 => {
                Err(BadRequest::CodingFromHttp10)
            }
            (Some(coding), None) => transfer_coding(coding.of(input)),
        }
    }
}

/// Notes a field that may come once.
fn once(slot: &mut Option<Span>, span: Span) -> Result<(), BadRequest> {
    if slot.replace(span).is_some() { Err(BadRequest::FieldDoubled) } else { Ok(()) }
}

/// Notes a field of which the first counts.
fn first(slot: &mut Option<Span>, span: Span) {
    slot.get_or_insert(span);
}

/// Digits and nothing else (RFC 9110 §8.6). A list of equal lengths, which a recipient may take,
/// is refused; so is a number above `u64`, since nobody knows how the next parser wraps it.
fn content_length(value: &[u8]) -> Result<u64, BadRequest> {
    if value.is_empty() {
        return Err(BadRequest::LengthInvalid);
    }
    value.iter().try_fold(0u64, |sum, &byte| {
        let digit =
            if byte.is_ascii_digit() { u64::from(byte - b'0') } else { return bad_length() };
        sum.checked_mul(10).and_then(|sum| sum.checked_add(digit)).map_or_else(bad_length, Ok)
    })
}

fn bad_length() -> Result<u64, BadRequest> {
    Err(BadRequest::LengthInvalid)
}

/// `chunked`, once and alone. A list with `chunked` that breaks the rules is malformed (RFC 9112
/// §6.3); anything else is a coding that we do not know (§6.1).
fn transfer_coding(value: &[u8]) -> Result<Framing, BadRequest> {
    if value.eq_ignore_ascii_case(b"chunked") {
        return Ok(Framing::Chunked);
    }
    let is_chunked = |coding: &[u8]| coding.eq_ignore_ascii_case(b"chunked");
    let codings = || value.split(|&byte| byte == b',').map(<[u8]>::trim_ascii);
    let chunked = codings().filter(|coding| is_chunked(coding)).count();
    let malformed = codings().any(<[u8]>::is_empty)
        || chunked > 1
        || (chunked == 1 && !codings().next_back().is_some_and(is_chunked));
    Err(if malformed { BadRequest::CodingInvalid } else { BadRequest::CodingUnknown })
}

/// Whether what is not yet, or not at all, a head begins as that of a `HEAD`, whose answer has no
/// body whatever it says (RFC 9110 §9.3.2).
pub fn begins_with_head(input: &[u8]) -> bool {
    input[start(input)..].starts_with(b"HEAD ")
}

/// Whether `byte` may stand in a token (RFC 9110 §5.6.2).
pub(crate) fn is_token_byte(byte: u8) -> bool {
    let marks =
        matches!(byte, b'!' | b'#'..=b'\'' | b'*' | b'+' | b'-' | b'.' | b'^'..=b'`' | b'|' | b'~');
    byte.is_ascii_alphanumeric() || marks
}

/// Why a request was refused before anybody looked at what it asks for. All of these are the
/// client's doing. After those that [`parse`] and the body's decoder tell, the connection closes: the
/// request's end is in doubt. A target at fault leaves it as it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs, reason = "each is described by its sentence below")]
pub enum BadRequest {
    RequestLine,
    SimpleRequest,
    BareLineFeed,
    BareCarriageReturn,
    Field,
    FieldDoubled,
    RequestLineTooLong,
    HeadTooLarge,
    TooManyFields,
    Version,
    MethodUnknown,
    MethodNotAllowed,
    HostMissing,
    HostInvalid,
    LengthInvalid,
    LengthWithCoding,
    CodingInvalid,
    CodingUnknown,
    CodingFromHttp10,
    Expectation,
    BodyTooLarge,
    ChunkSize,
    ChunkExtension,
    ChunkExtensionTooLong,
    ChunkEnd,
    Trailer,
    TrailersTooLarge,
    TargetByte,
    TargetForm,
    TargetAuthority,
    TargetEscape,
    TargetSegment,
    Parameter,
    ParameterDoubled,
}

impl BadRequest {
    /// The status that the RFC names. A 405 must carry [`ALLOW`].
    pub fn status(self) -> Status {
        self.row().0
    }

    /// The machine's word for it: snake_case, stable.
    pub fn code(self) -> &'static str {
        self.row().1
    }

    /// The human's: a sentence without a full stop.
    pub fn sentence(self) -> &'static str {
        self.row().2
    }

    /// Status, code and sentence.
    fn row(self) -> (Status, &'static str, &'static str) {
        use BadRequest as Bad;
        let bad = Status::BAD_REQUEST;
        match self {
            Bad::RequestLine => {
                (bad, "bad_request_line", "The request line is not `METHOD target HTTP/1.1`")
            }
            Bad::SimpleRequest => (bad, "http_0_9", "HTTP/0.9 requests are not served"),
            Bad::BareLineFeed => (bad, "bare_line_feed", "A line ends in LF without CR"),
            Bad::BareCarriageReturn => (bad, "bare_carriage_return", "A CR stands without its LF"),
            Bad::Field => (bad, "bad_header", "A header line is malformed or folded"),
            Bad::FieldDoubled => {
                (bad, "doubled_header", "A header that may come once came more than once")
            }
            Bad::RequestLineTooLong => {
                (Status::URI_TOO_LONG, "target_too_long", "The request target is too long")
            }
            Bad::HeadTooLarge => {
                (Status::HEADER_FIELDS_TOO_LARGE, "headers_too_large", "The headers are too large")
            }
            Bad::TooManyFields => {
                (Status::HEADER_FIELDS_TOO_LARGE, "too_many_headers", "There are too many headers")
            }
            Bad::Version => {
                (Status::VERSION_NOT_SUPPORTED, "bad_version", "Only HTTP/1.1 and 1.0 are served")
            }
            Bad::MethodUnknown => {
                (Status::NOT_IMPLEMENTED, "unknown_method", "The method is not known here")
            }
            Bad::MethodNotAllowed => {
                (Status::METHOD_NOT_ALLOWED, "method_not_allowed", "The method is not allowed here")
            }
            Bad::HostMissing => (bad, "host_missing", "The Host header is missing"),
            Bad::HostInvalid => (bad, "bad_host", "The Host header is not a host and port"),
            Bad::LengthInvalid => {
                (bad, "bad_content_length", "Content-Length is not one decimal number")
            }
            Bad::LengthWithCoding => {
                (bad, "length_with_coding", "Content-Length and Transfer-Encoding came together")
            }
            Bad::CodingInvalid => {
                (bad, "bad_transfer_encoding", "Transfer-Encoding is not `chunked`, once and alone")
            }
            Bad::CodingUnknown => (
                Status::NOT_IMPLEMENTED,
                "unknown_transfer_encoding",
                "The only transfer coding known here is `chunked`",
            ),
            Bad::CodingFromHttp10 => {
                (bad, "transfer_encoding_in_1_0", "Transfer-Encoding came with HTTP/1.0")
            }
            Bad::Expectation => (
                Status::EXPECTATION_FAILED,
                "unknown_expectation",
                "The only expectation known here is `100-continue`",
            ),
            Bad::BodyTooLarge => {
                (Status::CONTENT_TOO_LARGE, "body_too_large", "The request body is too large")
            }
            Bad::ChunkSize => (bad, "bad_chunk_size", "A chunk size is not a hexadecimal number"),
            Bad::ChunkExtension => (bad, "bad_chunk_extension", "A chunk extension is malformed"),
            Bad::ChunkExtensionTooLong => {
                (bad, "chunk_extension_too_long", "The chunk extensions are too long")
            }
            Bad::ChunkEnd => (bad, "bad_chunk_end", "A chunk is not followed by CR LF"),
            Bad::Trailer => (bad, "bad_trailer", "A trailer line is malformed or folded"),
            Bad::TrailersTooLarge => (
                Status::HEADER_FIELDS_TOO_LARGE,
                "trailers_too_large",
                "The trailers are too large",
            ),
            Bad::TargetByte => {
                (bad, "bad_target_byte", "The request target holds a byte that must be escaped")
            }
            Bad::TargetForm => {
                (bad, "bad_target_form", "The request target is no path and no http URL")
            }
            Bad::TargetAuthority => {
                (bad, "bad_target_authority", "The request target names no valid host and port")
            }
            Bad::TargetEscape => {
                (bad, "bad_target_escape", "The request target holds a broken percent escape")
            }
            Bad::TargetSegment => (
                bad,
                "bad_target_segment",
                "A path segment decodes to dots, a slash, a control character or no UTF-8",
            ),
            Bad::Parameter => (
                bad,
                "bad_parameter",
                "A query parameter decodes to control characters or no UTF-8",
            ),
            Bad::ParameterDoubled => {
                (bad, "doubled_parameter", "A query parameter came more than once")
            }
        }
    }
}

impl std::fmt::Display for BadRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.sentence())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_has_the_bytes_of_rfc_9110_and_no_others() {
        let marks = b"!#$%&'*+-.^_`|~";
        let wanted = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
        assert!((0..=255).all(|byte| is_token_byte(byte) == wanted(byte)));
    }
}
