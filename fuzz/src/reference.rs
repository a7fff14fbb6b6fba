//! The reference parser of request heads: naive, strict, and nothing of the server's but the rules of
//! a `Host`. The tables, the fuzzers and their twin on stable all compare with this one.

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
    let methods = ["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"];
    let minor = version.strip_prefix("HTTP/1.").filter(|minor| minor.len() == 1);
    let Some(minor) = minor.and_then(|minor| minor.parse::<u8>().ok()) else {
        return Some(false);
    };
    let token = |c: char| c.is_ascii_alphanumeric() || "!#$%&'*+-.^_`|~".contains(c);
    let visible = |c: char| c == '\t' || (c >= ' ' && c != '\x7f');
    let (mut hosts, mut lengths, mut codings) = (vec![], vec![], vec![]);
    for line in lines {
        let Some((name, value)) = line.split_once(':') else { return Some(false) };
        if name.is_empty() || !name.chars().all(token) || !value.chars().all(visible) {
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
