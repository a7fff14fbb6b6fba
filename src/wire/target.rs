//! Takes a request target apart: path, query, authority.
//!
//! It promises that a path has one reading: every byte is one that RFC 3986 allows there, every
//! percent escape is whole and decoded exactly once, and no segment decodes to something that
//! would change the path's shape. It does not know which paths exist, or whether the authority
//! is ours.

use std::borrow::Cow;
use std::fmt::Write as _;
use std::iter;

use super::head::{BadRequest, Method};

/// A request target (RFC 9112 §3.2), still escaped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target<'a> {
    /// The path, from its first slash; `*` in the asterisk form.
    pub path: &'a str,
    /// The query without its question mark; empty if there is none.
    pub query: &'a str,
    /// The authority of the absolute form, valid by [`split_authority`]. It wins over `Host`
    /// (RFC 9112 §3.2.2).
    pub authority: Option<&'a str>,
    /// Whether it names an `https` resource, which is nobody's on a plain connection (RFC 9110 §7.4).
    pub is_https: bool,
    /// Whether the request is about the server as a whole (RFC 9112 §3.2.4); only with OPTIONS.
    pub asterisk: bool,
}

/// Parses the target of a request with this method, out of [`super::head::Head::target`].
pub fn parse(method: Method, raw: &[u8]) -> Result<Target<'_>, BadRequest> {
    let raw = std::str::from_utf8(raw).map_err(|_| BadRequest::TargetByte)?;
    let options = method == Method::Options;
    if raw == "*" && options {
        return Ok(Target {
            path: raw,
            query: "",
            authority: None,
            is_https: false,
            asterisk: true,
        });
    }
    if raw.starts_with('/') {
        let (path, query) = path_and_query(raw)?;
        return Ok(Target { path, query, authority: None, is_https: false, asterisk: false });
    }
    let (after_scheme, is_https) = absolute(raw).ok_or(BadRequest::TargetForm)?;
    let end = after_scheme.find(['/', '?', '#']).unwrap_or(after_scheme.len());
    let (authority, rest) = after_scheme.split_at(end);
    split_authority(authority.as_bytes()).ok_or(BadRequest::TargetAuthority)?;
    let (path, query) = path_and_query(rest)?;
    // RFC 9112 §3.2.4: what a last proxy would have turned into the asterisk form.
    let asterisk = options && rest.is_empty();
    let path = match (path, asterisk) {
        (_, true) => "*",
        ("", false) => "/",
        (path, false) => path,
    };
    Ok(Target { path, query, authority: Some(authority), is_https, asterisk })
}

/// What follows the scheme of an absolute-form target, if it is `http` or `https`, and whether it is
/// the latter.
fn absolute(raw: &str) -> Option<(&str, bool)> {
    let (scheme, rest) = raw.split_once("://")?;
    let is_https = scheme.eq_ignore_ascii_case("https");
    (is_https || scheme.eq_ignore_ascii_case("http")).then_some((rest, is_https))
}

/// Splits at the question mark and checks both parts, byte by byte.
fn path_and_query(raw: &str) -> Result<(&str, &str), BadRequest> {
    let (path, query) = raw.split_once('?').unwrap_or((raw, ""));
    check(path, is_path_byte)?;
    check(query, is_query_byte)?;
    Ok((path, query))
}

/// Checks that all bytes are allowed and every `%` has its two digits.
fn check(text: &str, allowed: impl Fn(u8) -> bool) -> Result<(), BadRequest> {
    let mut bytes = text.bytes();
    while let Some(byte) = bytes.next() {
        if byte == b'%' {
            let digits = (bytes.next(), bytes.next());
            let (Some(high), Some(low)) = digits else { return Err(BadRequest::TargetEscape) };
            if !high.is_ascii_hexdigit() || !low.is_ascii_hexdigit() {
                return Err(BadRequest::TargetEscape);
            }
        } else if !allowed(byte) {
            return Err(BadRequest::TargetByte);
        }
    }
    Ok(())
}

/// unreserved / sub-delims (RFC 3986 §2), which a host name may hold too.
fn is_name_byte(byte: u8) -> bool {
    let marks = matches!(byte, b'!' | b'$' | b'&'..=b'.' | b';' | b'=' | b'_' | b'~');
    byte.is_ascii_alphanumeric() || marks
}

/// pchar (RFC 3986 §3.3) and the slash.
fn is_path_byte(byte: u8) -> bool {
    is_name_byte(byte) || matches!(byte, b':' | b'@' | b'/')
}

/// What RFC 3986 §3.4 allows, and what browsers leave unescaped in a query (WHATWG URL, the query
/// percent-encode set): a parameter's value has no structure that these could change.
fn is_query_byte(byte: u8) -> bool {
    byte.is_ascii_graphic() && !matches!(byte, b'"' | b'#' | b'<' | b'>')
}

impl<'a> Target<'a> {
    /// The decoded segments of the path. `/` has none; `/a/` has `a` and an empty one.
    pub fn segments(&self) -> impl Iterator<Item = Result<Cow<'a, str>, BadRequest>> + use<'a> {
        let rest = self.path.strip_prefix('/').filter(|rest| !rest.is_empty());
        rest.into_iter().flat_map(|rest| rest.split('/')).map(segment)
    }

    /// The decoded path without its first slash: what [`Target::segments`] tells, which hold no
    /// slash, with one between them. Empty if there are none.
    ///
    /// # Errors
    /// As there.
    #[inline(never)] // Stays in this floor, which is compiled for speed.
    pub fn decoded_path(&self) -> Result<Cow<'a, str>, BadRequest> {
        let mut is_plain = true;
        for segment in self.segments() {
            is_plain &= matches!(segment?, Cow::Borrowed(_));
        }
        if is_plain {
            return Ok(Cow::Borrowed(self.path.strip_prefix('/').unwrap_or_default()));
        }
        let segments: Result<Vec<_>, _> = self.segments().collect();
        Ok(Cow::Owned(segments?.join("/")))
    }

    /// The decoded value of one query parameter, empty if it has no `=`. A plus is a space, as
    /// forms write it. Two of one name are refused: which counts is where parsers disagree.
    pub fn parameter(&self, name: &str) -> Result<Option<Cow<'a, str>>, BadRequest> {
        let mut found = None;
        for pair in self.query.split('&').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            if parameter_text(key)? == name && found.replace(parameter_text(value)?).is_some() {
                return Err(BadRequest::ParameterDoubled);
            }
        }
        Ok(found)
    }
}

/// Decodes one path segment.
/// Adds a query as it may stand in a URI (RFC 3986 §3.4): what browsers leave as it is and may not
/// stand there is escaped.
pub fn push_query(uri: &mut String, query: &str) {
    for byte in query.bytes() {
        if is_path_byte(byte) || matches!(byte, b'?' | b'%') {
            uri.push(byte.into());
        } else {
            let _ = write!(uri, "%{byte:02X}");
        }
    }
}

fn segment(raw: &str) -> Result<Cow<'_, str>, BadRequest> {
    let text = decode(raw, false).ok_or(BadRequest::TargetSegment)?;
    let shape = |character: char| character.is_control() || matches!(character, '/' | '\\');
    // Dots are refused, not resolved: no client of ours sends them, and a proxy in front of us
    // may have judged another path than the one that they lead to.
    if matches!(&*text, "." | "..") || text.contains(shape) {
        return Err(BadRequest::TargetSegment);
    }
    Ok(text)
}

/// Decodes one name or value of a query.
fn parameter_text(raw: &str) -> Result<Cow<'_, str>, BadRequest> {
    let text = decode(raw, true).ok_or(BadRequest::Parameter)?;
    if text.contains(char::is_control) { Err(BadRequest::Parameter) } else { Ok(text) }
}

/// Undoes percent escapes, once; `None` if the result is not UTF-8 or an escape is broken.
fn decode(raw: &str, plus_is_space: bool) -> Option<Cow<'_, str>> {
    let plain = |byte: &u8| *byte != b'%' && !(plus_is_space && *byte == b'+');
    if raw.as_bytes().iter().all(plain) {
        return Some(Cow::Borrowed(raw));
    }
    let mut bytes = raw.bytes();
    let next = || match bytes.next()? {
        b'%' => Some(hex(bytes.next()).zip(hex(bytes.next())).map(|(high, low)| high << 4 | low)),
        b'+' if plus_is_space => Some(Some(b' ')),
        byte => Some(Some(byte)),
    };
    let decoded: Option<Vec<u8>> = iter::from_fn(next).collect();
    String::from_utf8(decoded?).ok().map(Cow::Owned)
}

fn hex(digit: Option<u8>) -> Option<u8> {
    char::from(digit?).to_digit(16).map(|digit| digit as u8)
}

/// Splits `uri-host [ ":" port ]` (RFC 9110 §4.1, RFC 3986 §3.2.2) into host, brackets kept, and
/// port. `None` if it is anything else: empty, with user information, a bad address, a port above
/// 65,535. An empty port counts as none.
pub fn split_authority(authority: &[u8]) -> Option<(&str, Option<u16>)> {
    let authority = std::str::from_utf8(authority).ok()?;
    let host = host_name(authority);
    let port = &authority[host.len()..];
    let port = match port.strip_prefix(':') {
        Some("") => None,
        Some(digits) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
            Some(digits.parse().ok()?)
        }
        Some(_) => return None,
        None if port.is_empty() => None,
        None => return None,
    };
    let valid = match host.strip_prefix('[') {
        Some(literal) => literal.strip_suffix(']').is_some_and(is_ip_literal),
        // A comma may stand in a name by the letter; two hosts that somebody has joined have one.
        None => !host.is_empty() && check(host, |byte| is_name_byte(byte) && byte != b',').is_ok(),
    };
    valid.then_some((host, port))
}

/// The host of an authority, without its port and with the brackets of an IPv6 address. Case is
/// kept, though hosts have none.
pub fn host_name(authority: &str) -> &str {
    let end = match authority.strip_prefix('[') {
        Some(_) => authority.find(']').map(|at| at + 1),
        None => authority.find(':'),
    };
    &authority[..end.unwrap_or(authority.len())]
}

/// What may stand in brackets: an IPv6 address without a zone, or IPvFuture (RFC 3986 §3.2.2).
fn is_ip_literal(literal: &str) -> bool {
    let Some(future) = literal.strip_prefix(['v', 'V']) else {
        return literal.parse::<::core::net::Ipv6Addr>().is_ok();
    };
    let Some((version, address)) = future.split_once('.') else { return false };
    let is_address_byte = |byte| is_name_byte(byte) || byte == b':';
    !version.is_empty()
        && version.bytes().all(|byte| byte.is_ascii_hexdigit())
        && !address.is_empty()
        && address.bytes().all(is_address_byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_in_a_uri_has_only_what_may_stand_there() {
        let mut uri = "/cl/?".to_owned();
        push_query(&mut uri, "a=%41&b={|}^`\"<>\\[]?/@");
        assert_eq!(uri, "/cl/?a=%41&b=%7B%7C%7D%5E%60%22%3C%3E%5C%5B%5D?/@");
    }

    #[test]
    fn a_name_has_the_unreserved_bytes_and_the_delimiters_of_rfc_3986() {
        let marks = b"-._~!$&'()*+,;=";
        let wanted = |byte: u8| byte.is_ascii_alphanumeric() || marks.contains(&byte);
        assert!((0..=255).all(|byte| is_name_byte(byte) == wanted(byte)));
    }
}
