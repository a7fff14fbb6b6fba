//! The reference parsers of request heads, chunked bodies and targets: naive, strict, and nothing of
//! the server's but the rules of a `Host`. The tables, the fuzzers and their twin on stable all compare
//! with these.

use sidestream::wire::target;

/// The naive twin: whether a whole head is one that we serve, by splitting it into lines. It
/// knows nothing of limits, `Expect` or doubled fields other than those that frame.
pub fn stands(input: &[u8]) -> Option<bool> {
    let input = input.strip_prefix(b"\r\n").unwrap_or(input);
    let end = input.windows(4).position(|window| window == b"\r\n\r\n")?;
    let text: String = input[..end].iter().map(|&byte| char::from(byte)).collect();
    let mut lines = text.split("\r\n");
    let words: Vec<&str> = lines.next()?.split(' ').collect();
    let [method, target, version] = words[..] else { return Some(false) };
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "QUERY"];
    let minor = version.strip_prefix("HTTP/1.").filter(|minor| minor.len() == 1);
    let Some(minor) = minor.and_then(|minor| minor.parse::<u8>().ok()) else {
        return Some(false);
    };
    let (mut hosts, mut lengths, mut codings) = (vec![], vec![], vec![]);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Some(false) };
        if name.is_empty() || !name.chars().all(is_token) || !value.chars().all(is_visible) {
            return Some(false);
        }
        let value = value.trim_matches([' ', '\t']).to_ascii_lowercase();
        match &*name.to_ascii_lowercase() {
            "host" => hosts.push(value),
            "content-length" => lengths.push(value),
            "transfer-encoding" => codings.push(value),
            _ => {}
        }
    }
    let host = match &hosts[..] {
        [] => minor == 0,
        [host] => {
            let bytes: Vec<u8> = host.chars().map(|c| c as u8).collect();
            target::split_authority(&bytes).is_some()
        }
        _ => false,
    };
    let framing = match (&lengths[..], &codings[..]) {
        ([], []) => true,
        ([length], []) => {
            length.chars().all(|c| c.is_ascii_digit()) && length.parse::<u64>().is_ok()
        }
        ([], [coding]) => coding == "chunked" && minor > 0,
        _ => false,
    };
    let target = !target.is_empty() && target.chars().all(|c| c.is_ascii_graphic());
    Some(methods.contains(&method) && target && host && framing)
}

/// Whether a character may stand in a token (RFC 9110 §5.6.2).
fn is_token(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c)
}

/// Whether one may stand in a field's value or a quoted string (RFC 9110 §5.5, §5.6.4).
fn is_visible(c: char) -> bool {
    c == '\t' || (c >= ' ' && c != '\x7f')
}

/// The naive twin of the chunked coding: where a whole body ends and what it holds, or `None` for one
/// that is not whole or breaks RFC 9112 §7.1. It knows nothing of limits, but that a size has at most
/// sixteen digits.
pub fn chunked(input: &[u8]) -> Option<(usize, Vec<u8>)> {
    let (mut at, mut body) = (0, Vec::new());
    loop {
        let (line, size) = line(&input[at..])?;
        at += size;
        let size = chunk_size(&line)?;
        if size == 0 {
            break;
        }
        let end = at.checked_add(usize::try_from(size).ok()?)?;
        body.extend_from_slice(input.get(at..end)?);
        at = end + input[end..].starts_with(b"\r\n").then_some(2)?;
    }
    loop {
        let (trailer, size) = line(&input[at..])?;
        at += size;
        if trailer.is_empty() {
            return Some((at, body));
        }
        let (name, value) = trailer.split_once(':')?;
        let stands =
            !name.is_empty() && name.chars().all(is_token) && value.chars().all(is_visible);
        stands.then_some(())?;
    }
}

/// The bytes before the first CR LF, if none of them is a CR or an LF, as Latin-1; and how many they
/// are with it.
fn line(input: &[u8]) -> Option<(String, usize)> {
    let end = input.windows(2).position(|two| two == b"\r\n")?;
    let line = &input[..end];
    let stands = !line.contains(&b'\r') && !line.contains(&b'\n');
    stands.then(|| (line.iter().map(|&byte| char::from(byte)).collect(), end + 2))
}

/// A chunk's size, if the extensions behind it stand as well.
fn chunk_size(line: &str) -> Option<u64> {
    let digits = line.len() - line.trim_start_matches(|c: char| c.is_ascii_hexdigit()).len();
    let (size, mut rest) = line.split_at(digits);
    if digits > 16 {
        return None;
    }
    let size = u64::from_str_radix(size, 16).ok()?;
    let space = [' ', '\t'];
    while !rest.is_empty() {
        let extension = rest.trim_start_matches(space).strip_prefix(';')?;
        let extension = extension.trim_start_matches(space);
        let after_name = extension.trim_start_matches(is_token);
        (after_name.len() < extension.len()).then_some(())?;
        let Some(value) = after_name.trim_start_matches(space).strip_prefix('=') else {
            rest = after_name;
            continue;
        };
        let value = value.trim_start_matches(space);
        rest = match value.strip_prefix('"') {
            Some(quoted) => after_quoted(quoted)?,
            None => value.trim_start_matches(is_token),
        };
        (rest.len() < value.len()).then_some(())?;
    }
    Some(size)
}

/// What follows a quoted string (RFC 9110 §5.6.4), of which the first mark is gone.
fn after_quoted(text: &str) -> Option<&str> {
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Some(&text[at + 1..]),
            '\\' => is_visible(characters.next()?.1).then_some(())?,
            character => is_visible(character).then_some(())?,
        }
    }
    None
}

/// The naive twin of targets: whether one is in a form that we serve (RFC 9112 §3.2, RFC 3986).
pub fn target_stands(is_options: bool, target: &[u8]) -> bool {
    let Ok(target) = str::from_utf8(target) else { return false };
    let lower = target.to_ascii_lowercase();
    let scheme = ["http://", "https://"].into_iter().find(|scheme| lower.starts_with(scheme));
    let rest = match scheme {
        _ if is_options && target == "*" => return true,
        _ if target.starts_with('/') => target,
        None => return false,
        Some(scheme) => {
            let after = &target[scheme.len()..];
            let end = after.find(['/', '?', '#']).unwrap_or(after.len());
            if target::split_authority(&after.as_bytes()[..end]).is_none() {
                return false;
            }
            &after[end..]
        }
    };
    let mut parts = rest.splitn(2, '?');
    let path = parts.next().unwrap_or_default();
    let query = parts.next().unwrap_or_default();
    let in_path = |c: char| c.is_ascii_alphanumeric() || "-._~!$&'()*+,;=:@/".contains(c);
    let in_query = |c: char| ('!'..='~').contains(&c) && !"\"#<>%".contains(c);
    [(path, &in_path as &dyn Fn(char) -> bool), (query, &in_query)].into_iter().all(
        |(text, allowed)| {
            let mut pieces = text.split('%');
            let first = pieces.next().unwrap_or_default();
            let is_escape = |piece: &str| {
                let digits: Vec<char> = piece.chars().take(2).collect();
                digits.len() == 2 && digits.iter().all(char::is_ascii_hexdigit)
            };
            first.chars().all(allowed)
                && pieces.all(|piece| is_escape(piece) && piece[2..].chars().all(allowed))
        },
    )
}
