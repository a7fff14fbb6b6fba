//! Tokens: who has been given one, how far it reaches, and whether a request brings it.
//!
//! Only SHA-256 hashes are kept. A token is looked for among all of them, each compared in
//! constant time, so that an answer's delay says nothing. Where the file lies and who may write
//! it is not known here.

use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// The longest token that is looked at, in bytes.
pub const TOKEN_SIZE_MAX: usize = 256;
/// The longest name, in bytes.
pub const NAME_SIZE_MAX: usize = 64;
/// Entries of a token file: every request is compared with all of them.
pub const TOKENS_MAX: usize = 256;
/// What a token begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "sst_";
/// What the read cookie's value is hashed with, beside the key: it is nothing else's hash.
const COOKIE_DOMAIN: &[u8] = b"sidestream read cookie\0";

/// How far a token reaches. Each includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    /// Looking and listening.
    Read,
    /// Answering approvals as well.
    Answer,
    /// Everything.
    Full,
}

impl Scope {
    /// All of them, for sentences.
    pub const WORDS: &'static str = "read, answer or full";

    /// The word in the file and on the wire.
    pub fn as_str(self) -> &'static str {
        match self {
            Scope::Read => "read",
            Scope::Answer => "answer",
            Scope::Full => "full",
        }
    }

    /// The scope of this word.
    pub fn from_word(word: &str) -> Option<Scope> {
        [Scope::Read, Scope::Answer, Scope::Full].into_iter().find(|one| one.as_str() == word)
    }
}

/// A SHA-256 hash.
pub type Digest = [u8; 32];

/// One line of the token file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Whose it is: the `by` of what is done with it.
    pub name: String,
    /// How far it reaches.
    pub scope: Scope,
    /// The hash of the token's text.
    pub digest: Digest,
}

/// Everybody's tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    entries: Vec<Token>,
}

impl Tokens {
    /// Reads a token file: `NAME SCOPE sha256:HEX` a line, empty lines and `#` comments beside.
    ///
    /// # Errors
    /// The number of the first bad line, from 1, and what is wrong with it. Never its hash.
    pub fn parse(text: &str) -> Result<Tokens, (usize, String)> {
        let mut tokens = Tokens::default();
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let token = entry(line).map_err(|sentence| (at + 1, sentence))?;
            if tokens.entries.iter().any(|other| other.name == token.name) {
                return Err((at + 1, format!("the name `{}` came before", token.name)));
            }
            if tokens.entries.len() == TOKENS_MAX {
                return Err((at + 1, format!("there are more than {TOKENS_MAX} tokens")));
            }
            tokens.entries.push(token);
        }
        Ok(tokens)
    }

    /// Whether there are none, and nobody is asked for one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether this name has one.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|token| token.name == name)
    }

    /// The entry at a number that [`Tokens::find`] told.
    pub fn get(&self, number: usize) -> Option<&Token> {
        self.entries.get(number)
    }

    /// The number of the entry that this token is, if any. Takes as long for every token.
    pub fn find(&self, token: &[u8]) -> Option<usize> {
        if token.is_empty() || token.len() > TOKEN_SIZE_MAX {
            return None;
        }
        let digest = digest_of(token);
        self.find_by(|entry| entry.digest.ct_eq(&digest))
    }

    /// The number of the entry whose read cookie this is.
    pub fn find_cookie(&self, key: &Digest, value: &[u8]) -> Option<usize> {
        let mut given = Digest::default();
        if !read_hex(value, &mut given) {
            return None;
        }
        self.find_by(|entry| cookie_of(key, entry).ct_eq(&given))
    }

    fn find_by(&self, is_it: impl Fn(&Token) -> Choice) -> Option<usize> {
        let mut found = u32::MAX;
        for (number, entry) in self.entries.iter().enumerate() {
            found = u32::conditional_select(&found, &(number as u32), is_it(entry));
        }
        (found != u32::MAX).then_some(found as usize)
    }
}

/// The value of an entry's read cookie. It opens nothing but reading, and nothing at all once
/// the server has another key: it is no way back to the token.
pub fn cookie(key: &Digest, entry: &Token) -> String {
    hex(&cookie_of(key, entry))
}

fn cookie_of(key: &Digest, entry: &Token) -> Digest {
    let mut hash = Sha256::new();
    hash.update(COOKIE_DOMAIN);
    hash.update(key);
    hash.update(entry.digest);
    hash.finalize().into()
}

/// A new token's text, out of 32 bytes that nobody can guess.
pub fn text(secret: &[u8; 32]) -> String {
    format!("{PREFIX}{}", hex(secret))
}

/// The line that stands for a token in the file.
///
/// # Errors
/// A sentence, if the name cannot stand there.
pub fn line(name: &str, scope: Scope, token: &str) -> Result<String, String> {
    check_name(name)?;
    Ok(format!("{name} {} sha256:{}\n", scope.as_str(), hex(&digest_of(token.as_bytes()))))
}

/// The token of an `Authorization` field, if it is `Bearer` and one token68 (RFC 6750 §2.1).
pub fn bearer(field: &[u8]) -> Option<&[u8]> {
    let (scheme, rest) = field.split_at_checked(6)?;
    let token = rest.strip_prefix(b" ")?.trim_ascii_start();
    let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    let good = scheme.eq_ignore_ascii_case(b"bearer") && !token.is_empty();
    (good && token.iter().all(fit)).then_some(token)
}

/// The value of one cookie out of a `Cookie` field; of several of that name the first.
pub fn cookie_value<'a>(field: &'a [u8], name: &str) -> Option<&'a [u8]> {
    field.split(|&byte| byte == b';').find_map(|pair| {
        let rest = pair.trim_ascii().strip_prefix(name.as_bytes())?;
        rest.strip_prefix(b"=")
    })
}

fn entry(line: &str) -> Result<Token, String> {
    let words: Vec<&str> = line.split_ascii_whitespace().collect();
    let [name, scope, hash] = words[..] else {
        return Err("a line is NAME SCOPE sha256:HEX".into());
    };
    check_name(name)?;
    let scope = Scope::from_word(scope)
        .ok_or_else(|| format!("the scope of `{name}` is not {}", Scope::WORDS))?;
    let mut digest = Digest::default();
    match hash.strip_prefix("sha256:") {
        Some(hex) if read_hex(hex.as_bytes(), &mut digest) => {}
        _ => return Err(format!("the hash of `{name}` is not sha256: and 64 hexadecimal digits")),
    }
    Ok(Token { name: name.into(), scope, digest })
}

fn check_name(name: &str) -> Result<(), String> {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let good = (1..=NAME_SIZE_MAX).contains(&name.len()) && name.bytes().all(fit);
    if !good {
        let expected = "a name: up to 64 letters, digits, dots, `_`, `-` and `@`";
        // Not the word itself: it may be a token in the wrong place.
        return Err(format!("the first word is not {expected}"));
    }
    if name == "local" {
        return Err("the name `local` is for those who need no token".into());
    }
    Ok(())
}

fn digest_of(bytes: &[u8]) -> Digest {
    Sha256::digest(bytes).into()
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// Fills `into` from exactly as many pairs of digits.
fn read_hex(text: &[u8], into: &mut Digest) -> bool {
    let digit = |byte: u8| (byte as char).to_digit(16);
    text.len() == 2 * into.len()
        && text.chunks_exact(2).zip(into).all(|(pair, byte)| {
            let value = digit(pair[0]).zip(digit(pair[1])).map(|(high, low)| 16 * high + low);
            *byte = value.unwrap_or_default() as u8;
            value.is_some()
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file() -> Tokens {
        let mut text = "# ours\n\n".to_owned();
        for (name, scope, token) in [
            ("eye", Scope::Read, "sst_1"),
            ("phone", Scope::Answer, "sst_2"),
            ("me", Scope::Full, "sst_3"),
        ] {
            text += &line(name, scope, token).unwrap();
        }
        Tokens::parse(&text).unwrap()
    }

    #[test]
    fn a_token_is_found_by_its_text_alone() {
        let tokens = file();
        for (token, want) in [("sst_1", 0), ("sst_2", 1), ("sst_3", 2)] {
            assert_eq!(tokens.find(token.as_bytes()), Some(want));
        }
        let long = "a".repeat(TOKEN_SIZE_MAX + 1);
        for token in ["", "sst_", "sst_4", "sst_1 ", "SST_1", "eye", &long] {
            assert_eq!(tokens.find(token.as_bytes()), None, "{token}");
        }
        assert_eq!(tokens.get(2).unwrap().name, "me");
        let shown = format!("{:?}", tokens.get(0));
        assert!(!shown.contains("sst_1"), "only hashes are kept: {shown}");
    }

    #[test]
    fn the_hash_is_the_one_that_sha256sum_prints() {
        let line = line("a", Scope::Read, "abc").unwrap();
        let want = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(line, format!("a read sha256:{want}\n"));
    }

    #[test]
    fn a_bad_line_is_named_by_its_number_and_its_fault() {
        let hash = format!("sha256:{}", "ab".repeat(32));
        for (text, number, fault) in [
            (format!("a read {hash}\nb {hash}"), 2, "NAME SCOPE"),
            (format!("a read {hash} more"), 1, "NAME SCOPE"),
            (format!("\n# x\na write {hash}"), 3, "scope"),
            (format!("a Read {hash}"), 1, "scope"),
            (format!("a read {}", "ab".repeat(32)), 1, "hash"),
            (format!("a read {}", &hash[..70]), 1, "hash"),
            (format!("a read {hash}0"), 1, "hash"),
            (format!("a read sha256:{}", "zz".repeat(32)), 1, "hash"),
            (format!("a read sha256:+{}", "1".repeat(63)), 1, "hash"),
            (format!("a/b read {hash}"), 1, "name"),
            (format!("{} read {hash}", "a".repeat(65)), 1, "name"),
            (format!("local full {hash}"), 1, "local"),
            (format!("a read {hash}\na full {hash}"), 2, "came before"),
        ] {
            let (line, sentence) = Tokens::parse(&text).expect_err(&text);
            assert_eq!(line, number, "{text}");
            assert!(sentence.contains(fault), "{sentence}");
            assert!(!sentence.contains("abab"), "a hash in a message: {sentence}");
        }
        assert!(Tokens::parse("").unwrap().is_empty());
        assert!(Tokens::parse(&format!("a read {hash}\r\n")).unwrap().has("a"));
    }

    #[test]
    fn a_bearer_is_one_word_behind_its_scheme() {
        for (field, want) in [
            ("Bearer abc", Some("abc")),
            ("bearer abc", Some("abc")),
            ("BEARER   a-._~+/=", Some("a-._~+/=")),
            ("Bearer", None),
            ("Bearer ", None),
            ("Bearer\tabc", None),
            ("Bearerabc", None),
            ("Bearer a b", None),
            ("Bearer a,b", None),
            ("Basic abc", None),
            ("", None),
            ("Bearer ä", None),
        ] {
            let told = bearer(field.as_bytes());
            assert_eq!(told, want.map(str::as_bytes), "{field}");
        }
    }

    #[test]
    fn a_read_cookie_opens_under_its_own_key_only() {
        let tokens = file();
        let (key, other) = ([1; 32], [2; 32]);
        let value = cookie(&key, tokens.get(1).unwrap());
        assert_eq!(tokens.find_cookie(&key, value.as_bytes()), Some(1));
        assert_eq!(tokens.find_cookie(&other, value.as_bytes()), None);
        assert_eq!(tokens.find(value.as_bytes()), None, "it is no token");
        for bad in ["", "00", &value[1..], &format!("{value}0")] {
            assert_eq!(tokens.find_cookie(&key, bad.as_bytes()), None, "{bad}");
        }
        let field = format!("a=b; sidestream-read-1={value} ;c=d");
        let found = cookie_value(field.as_bytes(), "sidestream-read-1");
        assert_eq!(found, Some(value.as_bytes()));
        assert_eq!(cookie_value(field.as_bytes(), "sidestream-read"), None);
    }
}
