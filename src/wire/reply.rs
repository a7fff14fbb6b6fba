//! Writes the head of a reply: status line, `Date`, framing and fields.
//!
//! It promises that what it writes is one well-formed head whatever the values hold (a CR, LF,
//! NUL or other control byte becomes a space), that its framing is honest (a body without a
//! length says `Connection: close`), and that nothing is allocated beyond the output buffer.
//! It does not know the time, the body or the routes.

use super::head::Version;

/// The interim answer to `Expect: 100-continue` (RFC 9110 §15.2.1), whole.
pub const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

/// The answer to a connection that there is no room for, whole. Without a date, which a server
/// without a clock may leave out (RFC 9110 §6.6.1): it is written before anything is looked at.
pub const NO_ROOM: &[u8] = b"HTTP/1.1 503 Service Unavailable\r\nRetry-After: 5\r\n\
    Content-Length: 0\r\nConnection: close\r\n\r\n";

/// Bytes of an IMF-fixdate (RFC 9110 §5.6.7).
pub const DATE_SIZE: usize = 29;

/// A status code.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Status(pub u16);

/// Names the codes that are in use, each once, with its reason phrase.
macro_rules! statuses {
    ($($code:literal $name:ident $reason:literal;)*) => {
        #[allow(missing_docs, reason = "the name and the reason phrase say it")]
        impl Status {
            $(pub const $name: Status = Status($code);)*

            /// The reason phrase of RFC 9110 §15 or RFC 6585, empty for a code not listed here.
            pub fn reason(self) -> &'static str {
                match self.0 { $($code => $reason,)* _ => "" }
            }
        }
    };
}

statuses! {
    200 OK "OK";
    201 CREATED "Created";
    202 ACCEPTED "Accepted";
    204 NO_CONTENT "No Content";
    301 MOVED_PERMANENTLY "Moved Permanently";
    302 FOUND "Found";
    303 SEE_OTHER "See Other";
    304 NOT_MODIFIED "Not Modified";
    307 TEMPORARY_REDIRECT "Temporary Redirect";
    308 PERMANENT_REDIRECT "Permanent Redirect";
    400 BAD_REQUEST "Bad Request";
    401 UNAUTHORIZED "Unauthorized";
    403 FORBIDDEN "Forbidden";
    404 NOT_FOUND "Not Found";
    405 METHOD_NOT_ALLOWED "Method Not Allowed";
    406 NOT_ACCEPTABLE "Not Acceptable";
    408 REQUEST_TIMEOUT "Request Timeout";
    409 CONFLICT "Conflict";
    410 GONE "Gone";
    411 LENGTH_REQUIRED "Length Required";
    412 PRECONDITION_FAILED "Precondition Failed";
    413 CONTENT_TOO_LARGE "Content Too Large";
    414 URI_TOO_LONG "URI Too Long";
    415 UNSUPPORTED_MEDIA_TYPE "Unsupported Media Type";
    417 EXPECTATION_FAILED "Expectation Failed";
    421 MISDIRECTED_REQUEST "Misdirected Request";
    422 UNPROCESSABLE_CONTENT "Unprocessable Content";
    426 UPGRADE_REQUIRED "Upgrade Required";
    428 PRECONDITION_REQUIRED "Precondition Required";
    429 TOO_MANY_REQUESTS "Too Many Requests";
    431 HEADER_FIELDS_TOO_LARGE "Request Header Fields Too Large";
    500 INTERNAL_SERVER_ERROR "Internal Server Error";
    501 NOT_IMPLEMENTED "Not Implemented";
    502 BAD_GATEWAY "Bad Gateway";
    503 SERVICE_UNAVAILABLE "Service Unavailable";
    504 GATEWAY_TIMEOUT "Gateway Timeout";
    505 VERSION_NOT_SUPPORTED "HTTP Version Not Supported";
    507 INSUFFICIENT_STORAGE "Insufficient Storage";
}

impl Status {
    /// Whether a reply of this status has no body and no `Content-Length`, ever: 1xx and 204
    /// (RFC 9110 §8.6).
    pub fn is_bare(self) -> bool {
        self.0 < 200 || self == Status::NO_CONTENT
    }
}

/// What a reply's head says. The body follows elsewhere.
#[derive(Clone, Copy, Debug)]
pub struct ReplyHead<'a> {
    /// The status.
    pub status: Status,
    /// The time now as [`http_date`] writes it; the caller formats it once a second.
    pub date: &'a str,
    /// `Content-Type`, where there is content.
    pub content_type: Option<&'a str>,
    /// The body's length in bytes; to a HEAD, what a GET would have. `None`: the body ends with
    /// the connection, or there is none by its status.
    pub content_length: Option<u64>,
    /// Whether the connection lives on after this reply. See [`ReplyHead::keeps_alive`].
    pub keep_alive: bool,
    /// The request's version: to 1.0, staying must be said.
    pub version: Version,
    /// Further fields, in this order. Not `Date`, `Connection`, `Content-Type` or framing.
    pub fields: &'a [(&'a str, &'a str)],
}

impl ReplyHead<'_> {
    /// Whether the connection can take another request: asked for, and the reply's end can be
    /// told without closing (RFC 9112 §6.3, the last rule).
    pub fn keeps_alive(&self) -> bool {
        let self_delimited = self.content_length.is_some()
            || self.status.is_bare()
            || self.status == Status::NOT_MODIFIED;
        self.keep_alive && self_delimited
    }
}

/// Appends the head to `out`, to its empty line.
pub fn write_head(out: &mut Vec<u8>, head: &ReplyHead<'_>) {
    out.extend_from_slice(b"HTTP/1.1 ");
    decimal(out, u64::from(head.status.0));
    out.push(b' ');
    out.extend_from_slice(head.status.reason().as_bytes());
    out.extend_from_slice(b"\r\n");
    field(out, "Date", head.date);
    if let Some(content_type) = head.content_type {
        field(out, "Content-Type", content_type);
    }
    if let Some(length) = head.content_length.filter(|_| !head.status.is_bare()) {
        out.extend_from_slice(b"Content-Length: ");
        decimal(out, length);
        out.extend_from_slice(b"\r\n");
    }
    match (head.keeps_alive(), head.version) {
        (false, _) => field(out, "Connection", "close"),
        (true, Version::Http10) => field(out, "Connection", "keep-alive"),
        (true, Version::Http11) => {}
    }
    for (name, value) in head.fields {
        field(out, name, value);
    }
    out.extend_from_slice(b"\r\n");
}

/// Appends the head that most answers have: 200, JSON, no store, nothing beside what all have, on a
/// connection that stays. The same bytes as [`write_head`] makes of that, in few and short copies.
#[inline(never)] // Stays in this floor, which is compiled for speed.
pub fn write_usual_head(out: &mut Vec<u8>, date: &HttpDate, content_length: u64, request_id: &str) {
    out.reserve(256 + request_id.len());
    out.extend_from_slice(b"HTTP/1.1 200 OK\r\nDate: ");
    out.extend_from_slice(&date.0);
    out.extend_from_slice(b"\r\nContent-Type: application/json\r\nContent-Length: ");
    decimal(out, content_length);
    out.extend_from_slice(
        b"\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff\r\n\
          Cross-Origin-Resource-Policy: same-origin\r\nX-Request-Id: ",
    );
    value(out, request_id);
    out.extend_from_slice(b"\r\n");
}

/// Appends a number in sixteen hexadecimal digits: an id for a request that came without one.
#[inline(never)] // Stays in this floor, which is compiled for speed.
pub fn hex(out: &mut String, number: u64) {
    let digits: [u8; 16] =
        std::array::from_fn(|at| b"0123456789abcdef"[(number >> (60 - 4 * at) & 15) as usize]);
    out.push_str(std::str::from_utf8(&digits).unwrap_or_default()); // Always ASCII.
}

/// Appends one field. Names are ours, so a bad one is a bug; values may be anybody's.
fn field(out: &mut Vec<u8>, name: &str, value_text: &str) {
    debug_assert!(!name.is_empty() && name.bytes().all(super::head::is_token_byte), "{name:?}");
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
    value(out, value_text);
}

/// Appends a field's value and the end of its line.
fn value(out: &mut Vec<u8>, value: &str) {
    // RFC 9110 §5.5: a control byte in a value is replaced by a space before it goes out.
    let clean = |byte: u8| if (byte < 0x20 && byte != b'\t') || byte == 0x7f { b' ' } else { byte };
    out.extend(value.bytes().map(clean));
    out.extend_from_slice(b"\r\n");
}

/// Appends `number` in decimal digits, one by one: so few are not worth a copy of unknown length.
fn decimal(out: &mut Vec<u8>, number: u64) {
    let mut unit = 1;
    while number / unit >= 10 {
        unit *= 10;
    }
    while unit > 0 {
        out.push(b'0' + (number / unit % 10) as u8);
        unit /= 10;
    }
}

/// An IMF-fixdate in place, without an allocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HttpDate([u8; DATE_SIZE]);

impl HttpDate {
    /// The date as text.
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).unwrap_or_default() // Always ASCII.
    }
}

/// Formats `wall_ms`, milliseconds since 1970, as an IMF-fixdate (RFC 9110 §5.6.7). Times after
/// the year 9999 are clamped to its end: the format has four digits.
pub fn http_date(wall_ms: u64) -> HttpDate {
    const DAYS: &[u8; 21] = b"ThuFriSatSunMonTueWed"; // 1970-01-01 was a Thursday.
    const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";
    const LAST_S: u64 = 253_402_300_799;
    let seconds = (wall_ms / 1000).min(LAST_S);
    let (days, second) = (seconds / 86_400, seconds % 86_400);
    let (year, month, day) = civil(days);
    let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
    let weekday = (days % 7) as usize * 3;
    text[..3].copy_from_slice(&DAYS[weekday..weekday + 3]);
    two_digits(&mut text, 5, day);
    let name = (month as usize - 1) * 3;
    text[8..11].copy_from_slice(&MONTHS[name..name + 3]);
    two_digits(&mut text, 12, year / 100);
    two_digits(&mut text, 14, year % 100);
    two_digits(&mut text, 17, second / 3600);
    two_digits(&mut text, 20, second / 60 % 60);
    two_digits(&mut text, 23, second % 60);
    HttpDate(text)
}

/// Writes a number below 100 at `at`.
fn two_digits(text: &mut [u8; DATE_SIZE], at: usize, number: u64) {
    text[at] = b'0' + (number / 10 % 10) as u8;
    text[at + 1] = b'0' + (number % 10) as u8;
}

/// Year, month (1 to 12) and day (1 to 31) of the day `days` after 1970-01-01, in the Gregorian
/// calendar. Years are counted from March, so that the leap day is the last of its year.
fn civil(days: u64) -> (u64, u64, u64) {
    const DAYS_PER_ERA: u64 = 146_097; // 400 years.
    let days = days + 719_468; // From 0000-03-01.
    let (era, day) = (days / DAYS_PER_ERA, days % DAYS_PER_ERA);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153; // 0 is March.
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

/// Whether a client that sent this `Accept-Encoding` takes gzip, and does not like it less than the
/// plain text (RFC 9110 §12.5.3). One that sent none would by the letter; but people who send none
/// look at what they get.
pub fn takes_gzip(accept_encoding: &str) -> bool {
    let (mut gzip, mut identity, mut any) = (None, None, None);
    for one in accept_encoding.split(',') {
        let (coding, weight) = one.split_once(';').unwrap_or((one, ""));
        let weight = weight.trim().trim_start_matches(['q', 'Q']).trim_start();
        let weight = weight.strip_prefix('=').map_or(1000, |weight| thousandths(weight.trim()));
        let coding = coding.trim();
        // RFC 9110 §8.4.1.3: the old name means the same.
        if coding.eq_ignore_ascii_case("gzip") || coding.eq_ignore_ascii_case("x-gzip") {
            gzip = Some(weight);
        } else if coding.eq_ignore_ascii_case("identity") {
            identity = Some(weight);
        } else if coding == "*" {
            any = Some(weight);
        }
    }
    let gzip = gzip.or(any).unwrap_or_default();
    gzip > 0 && identity.is_none_or(|identity| gzip >= identity)
}

/// A weight in thousandths (RFC 9110 §12.4.2); what is none counts as nothing.
fn thousandths(weight: &str) -> u32 {
    let (whole, decimals) = weight.split_once('.').unwrap_or((weight, ""));
    let digits = decimals.bytes().chain(*b"000").take(3);
    match whole {
        "1" => 1000,
        "0" => digits.fold(0, |sum, byte| 10 * sum + u32::from(byte.wrapping_sub(b'0').min(9))),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_head_is_the_one_that_is_written_field_by_field() {
        let date = http_date(1_795_719_109_442);
        for (length, request_id) in [
            (0, "a"),
            (9, ""),
            (10, "b-2"),
            (33, "e988568fb6435889"),
            (1_234_567, "x\r\ny"),
            (u64::MAX, "z"),
        ] {
            let fields = [
                ("Cache-Control", "no-store"),
                ("X-Content-Type-Options", "nosniff"),
                ("Cross-Origin-Resource-Policy", "same-origin"),
                ("X-Request-Id", request_id),
            ];
            let head = ReplyHead {
                status: Status::OK,
                date: date.as_str(),
                content_type: Some("application/json"),
                content_length: Some(length),
                keep_alive: true,
                version: Version::Http11,
                fields: &fields,
            };
            let (mut whole, mut usual) = (Vec::new(), Vec::new());
            write_head(&mut whole, &head);
            write_usual_head(&mut usual, &date, length, request_id);
            let (whole, usual) =
                (String::from_utf8(whole).unwrap(), String::from_utf8(usual).unwrap());
            assert_eq!(usual, whole);
            assert!(whole.contains(&format!("\r\nContent-Length: {length}\r\n")), "{whole}");
        }
    }

    #[test]
    fn a_number_has_sixteen_hexadecimal_digits() {
        for number in [0, 9, 0xabc, u64::MAX, 0xe988_568f_b643_5889] {
            let mut text = "x".to_owned();
            hex(&mut text, number);
            assert_eq!(text, format!("x{number:016x}"));
        }
    }

    #[test]
    fn gzip_is_for_those_who_say_that_they_take_it() {
        for (field, taken) in [
            ("gzip", true),
            ("GZIP", true),
            ("gzip, deflate, br, zstd", true),
            ("br;q=1.0, gzip;q=0.8, *;q=0.1", true),
            ("gzip ; q=0.001", true),
            ("*", true),
            ("br, *;q=0.5", true),
            ("", false),
            ("identity", false),
            ("br", false),
            ("gzip;q=0", false),
            ("gzip;q=0.000, *", false),
            ("*;q=0", false),
            ("x-gzipped", false),
            ("x-gzip", true),
            ("identity;q=1, gzip;q=0.5", false),
            ("identity;q=0.5, gzip;q=1.0", true),
            ("identity, gzip", true),
            ("gzip;q=nonsense", false),
        ] {
            assert_eq!(takes_gzip(field), taken, "{field:?}");
        }
    }
}
