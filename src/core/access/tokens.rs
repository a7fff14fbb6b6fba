//! Tokens: who has been given one, how far it reaches, and whether a request brings it.
//!
//! Only SHA-256 hashes are kept, of tokens and of the cookies that are made from them. A token is
//! looked for among all of them, each compared in constant time, so that an answer's delay says
//! nothing. Where the files lie and who may write them is not known here.

use crate::limits::{TOKEN_NAME_SIZE_MAX, TOKEN_SIZE_MAX, TOKENS_MAX};
use sha2::{Digest as _, Sha256};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};

/// What a token begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "sst_";
/// What the read cookie's value is hashed with, beside the token: it is nothing else's hash.
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
    /// The hash of its read cookie, once a login has shown what that is.
    pub cookie: Option<Digest>,
    /// Its number while the server runs, from 1 on: the same after the file is read again.
    pub number: u16,
}

/// Everybody's tokens.
#[derive(Clone, Debug, Default)]
pub struct Tokens {
    entries: Vec<Token>,
    /// There is a file of them.
    wanted: bool,
    /// Numbers given so far.
    numbered: u16,
}

impl Tokens {
    /// Reads a token file: `NAME SCOPE sha256:HEX` a line, empty lines and `#` comments beside.
    ///
    /// # Errors
    /// The number of the first bad line, from 1, and what is wrong with it. Never its hash.
    pub fn parse(text: &str) -> Result<Tokens, (usize, String)> {
        let mut tokens = Tokens { wanted: true, ..Tokens::default() };
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            if holds_token(line) {
                let sentence = "a token stands here in clear text: whoever reads the file has it. \
                    Remove it, and make another";
                return Err((at + 1, sentence.into()));
            }
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let mut token = entry(line).map_err(|sentence| (at + 1, sentence))?;
            for other in &tokens.entries {
                if other.name == token.name {
                    return Err((at + 1, format!("the name `{}` came before", token.name)));
                }
                if other.digest == token.digest {
                    let sentence = format!("the token is the one of `{}`", other.name);
                    return Err((at + 1, sentence));
                }
            }
            tokens.numbered += 1;
            token.number = tokens.numbered;
            if tokens.entries.len() == TOKENS_MAX {
                return Err((at + 1, format!("there are more than {TOKENS_MAX} tokens")));
            }
            tokens.entries.push(token);
        }
        Ok(tokens)
    }

    /// Whether everybody is asked for one. So it is where the last one has been taken out of the file:
    /// then nobody is let in.
    pub fn are_wanted(&self) -> bool {
        self.wanted
    }

    /// Whether nobody has one.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether this name has one.
    pub fn has(&self, name: &str) -> bool {
        self.entries.iter().any(|token| token.name == name)
    }

    /// The entry at an index that [`Tokens::find`] told.
    pub fn get(&self, index: usize) -> Option<&Token> {
        self.entries.get(index)
    }

    /// Whether the token of this number is still one.
    pub fn has_number(&self, number: u16) -> bool {
        self.entries.iter().any(|token| token.number == number)
    }

    /// Takes the place of older ones: who stands in both keeps number and cookie.
    pub fn succeed(&mut self, older: &Tokens) {
        self.numbered = older.numbered;
        for token in &mut self.entries {
            match older.entries.iter().find(|other| other.digest == token.digest) {
                Some(other) => (token.number, token.cookie) = (other.number, other.cookie),
                None => {
                    // After very many changes they begin again, at those that nobody has: what
                    // was opened with a token that is gone was ended when it went.
                    loop {
                        self.numbered = self.numbered % u16::MAX + 1;
                        if !older.has_number(self.numbered) {
                            break;
                        }
                    }
                    token.number = self.numbered;
                }
            }
        }
    }

    /// Takes in which cookies logins have shown: lines of [`Tokens::show_cookie`]. What is not
    /// one, or of a token that is none any more, is passed over. Returns whether there was any
    /// such line.
    pub fn read_cookies(&mut self, text: &str) -> bool {
        let mut passed_over = false;
        for line in text.lines() {
            let (mut digest, mut cookie) = (Digest::default(), Digest::default());
            let whole = line.split_once(' ').is_some_and(|(token, hash)| {
                read_hex(token.as_bytes(), &mut digest) && read_hex(hash.as_bytes(), &mut cookie)
            });
            match self.entries.iter_mut().find(|token| whole && token.digest == digest) {
                Some(token) => token.cookie = Some(cookie),
                None => passed_over = true,
            }
        }
        passed_over
    }

    /// All lines that [`Tokens::read_cookies`] reads.
    pub fn cookie_lines(&self) -> String {
        self.entries.iter().filter_map(cookie_line).collect()
    }

    /// A login has brought this token, the one at `index`: its read cookie opens from now on.
    /// Returns the line by which the next start knows of it, if this one did not yet.
    pub fn show_cookie(&mut self, index: usize, token: &[u8]) -> Option<String> {
        let entry = self.entries.get_mut(index).filter(|entry| entry.cookie.is_none())?;
        entry.cookie = Some(digest_of(cookie(token).as_bytes()));
        cookie_line(entry)
    }

    /// The index of the entry that this token is, if any. Takes as long for every token.
    pub fn find(&self, token: &[u8]) -> Option<usize> {
        if token.is_empty() || token.len() > TOKEN_SIZE_MAX {
            return None;
        }
        let digest = digest_of(token);
        self.find_by(|entry| entry.digest.ct_eq(&digest))
    }

    /// The index of the entry whose read cookie this is.
    pub fn find_cookie(&self, value: &[u8]) -> Option<usize> {
        if value.len() > TOKEN_SIZE_MAX {
            return None;
        }
        let digest = digest_of(value);
        self.find_by(|entry| {
            let known = Choice::from(u8::from(entry.cookie.is_some()));
            known & entry.cookie.unwrap_or_default().ct_eq(&digest)
        })
    }

    fn find_by(&self, is_it: impl Fn(&Token) -> Choice) -> Option<usize> {
        let mut found = u32::MAX;
        for (index, entry) in self.entries.iter().enumerate() {
            found = u32::conditional_select(&found, &(index as u32), is_it(entry));
        }
        (found != u32::MAX).then_some(found as usize)
    }
}

/// The value of a token's read cookie. Made from the token, which only a login brings, so that it
/// outlives a restart and nothing that is kept here opens anything; it is no way back to the token.
pub fn cookie(token: &[u8]) -> String {
    let mut hash = Sha256::new();
    hash.update(COOKIE_DOMAIN);
    hash.update(token);
    hex(&hash.finalize())
}

fn cookie_line(entry: &Token) -> Option<String> {
    entry.cookie.map(|cookie| format!("{} {}\n", hex(&entry.digest), hex(&cookie)))
}

/// Whether a token's own text stands in a line.
fn holds_token(line: &str) -> bool {
    let digits = |rest: &str| rest.bytes().take_while(u8::is_ascii_hexdigit).count();
    line.match_indices(PREFIX).any(|(at, _)| digits(&line[at + PREFIX.len()..]) >= 32)
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

/// Whether the scheme of an `Authorization` field is `Bearer` (RFC 9110 §11.1).
pub fn is_bearer(field: &[u8]) -> bool {
    let scheme = field.split(|byte| matches!(byte, b' ' | b'\t')).next();
    scheme.is_some_and(|scheme| scheme.eq_ignore_ascii_case(b"bearer"))
}

/// The token of an `Authorization` field, if it is `Bearer` and one token68 (RFC 6750 §2.1), behind
/// spaces (RFC 9110 §11.4).
pub fn bearer(field: &[u8]) -> Option<&[u8]> {
    let mut token = field.get(b"Bearer".len()..).filter(|_| is_bearer(field))?;
    while let Some(rest) = token.strip_prefix(b" ") {
        token = rest;
    }
    let fit = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~+/=".contains(byte);
    (!token.is_empty() && token.iter().all(fit)).then_some(token)
}

/// The values of one cookie out of a `Cookie` field: a page at another port of this host may have set
/// one of the same name, and nothing says in which order they come (RFC 6265 §4.2.2).
pub fn cookie_values<'a>(field: &'a [u8], name: &str) -> impl Iterator<Item = &'a [u8]> {
    field.split(|&byte| byte == b';').filter_map(move |pair| {
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
    Ok(Token { name: name.into(), scope, digest, cookie: None, number: 0 })
}

fn check_name(name: &str) -> Result<(), String> {
    let fit = |byte: u8| byte.is_ascii_alphanumeric() || b"._@-".contains(&byte);
    let good = (1..=TOKEN_NAME_SIZE_MAX).contains(&name.len()) && name.bytes().all(fit);
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
            ("Bearer \tabc", None),
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
    fn a_read_cookie_opens_once_its_login_has_shown_it_and_after_a_restart() {
        let mut tokens = file();
        let value = cookie(b"sst_2");
        assert_eq!(tokens.find_cookie(value.as_bytes()), None, "nobody has logged in");
        let line = tokens.show_cookie(1, b"sst_2").unwrap();
        assert_eq!(tokens.show_cookie(1, b"sst_2"), None, "that is known");
        assert!(!line.contains(&value) && !line.contains("sst_2"), "hashes only: {line}");
        assert_eq!(tokens.find_cookie(value.as_bytes()), Some(1));
        assert_eq!(tokens.find(value.as_bytes()), None, "it is no token");
        for bad in ["", "00", &value[1..], &format!("{value}0"), &value.to_uppercase()] {
            assert_eq!(tokens.find_cookie(bad.as_bytes()), None, "{bad}");
        }
        let mut again = file();
        assert!(!again.read_cookies(&line));
        assert_eq!(again.find_cookie(value.as_bytes()), Some(1));
        assert_eq!(again.cookie_lines(), line);
        // Of a token that is gone nothing opens, whatever the file says.
        let mut fewer = Tokens::parse(&self::line("me", Scope::Full, "sst_3").unwrap()).unwrap();
        assert!(fewer.read_cookies(&line));
        assert_eq!((fewer.find_cookie(value.as_bytes()), &*fewer.cookie_lines()), (None, ""));
        assert!(again.read_cookies("torn"));
    }

    #[test]
    fn a_cookie_is_found_by_its_name_among_others() {
        let field = b"a=b; sidestream-read-1=xyz ;c=d";
        assert!(cookie_values(field, "sidestream-read-1").eq([&b"xyz"[..]]));
        assert!(cookie_values(field, "sidestream-read").next().is_none());
    }

    #[test]
    fn who_stands_in_the_file_again_keeps_number_and_cookie_and_no_number_comes_twice() {
        let mut old = file();
        old.show_cookie(1, b"sst_2");
        let numbers = |tokens: &Tokens| -> Vec<u16> {
            tokens.entries.iter().map(|token| token.number).collect()
        };
        assert_eq!(numbers(&old), [1, 2, 3]);
        let text = line("new", Scope::Full, "sst_4").unwrap()
            + &line("renamed", Scope::Read, "sst_2").unwrap();
        let mut new = Tokens::parse(&text).unwrap();
        new.succeed(&old);
        assert_eq!(numbers(&new), [4, 2]);
        assert_eq!(new.entries[1].cookie, old.entries[1].cookie);
        assert!(new.has_number(2) && !new.has_number(1) && !new.has_number(3));
        let mut newest = file();
        newest.succeed(&new);
        assert_eq!(numbers(&newest), [5, 2, 6], "eye's old number is not eye's any more");
    }

    #[test]
    fn a_token_in_clear_text_is_refused_wherever_it_stands_and_one_token_has_one_name() {
        let hash = format!("sha256:{}", "ab".repeat(32));
        let token = text(&[7; 32]);
        for line in [format!("# {token}"), format!("a read {token}"), token.clone()] {
            let (number, sentence) = Tokens::parse(&format!("b read {hash}\n{line}")).unwrap_err();
            assert!(number == 2 && sentence.contains("clear text"), "{sentence}");
            assert!(!sentence.contains(&token), "it is not told again");
        }
        let (_, sentence) = Tokens::parse(&format!("a read {hash}\nb full {hash}")).unwrap_err();
        assert!(sentence.contains("the one of `a`"), "{sentence}");
    }
}
