//! Text of strangers made fit for a terminal, and for whoever reads there.
//!
//! What comes out moves no cursor, changes no colour, title or clipboard, reverses no words and
//! hides none: every control character, every direction mark and every character without a shape
//! of its own stands there as its number. Everything else stays as it was. What the text means is
//! not known here.

/// Appends text that may have several lines: line ends and tabs stay what they are.
pub fn text(out: &mut String, text: &str) {
    let mut rest = text;
    // A carriage return right before a line end moves nothing.
    while let Some(at) = rest.find("\r\n") {
        escape(out, &rest[..at], true);
        out.push('\n');
        rest = &rest[at + 2..];
    }
    escape(out, rest, true);
}

/// Appends text that must stay on one line.
pub fn line(out: &mut String, text: &str) {
    escape(out, text, false);
}

/// [`line()`] as a string of its own.
pub fn lined(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    line(&mut out, text);
    out
}

/// Appends JSON on one line: still JSON, and still the same value.
pub fn json(out: &mut String, json: &str) {
    let mut before = None;
    for char in json.chars() {
        // Between tokens there is only white space, which `is_hidden` does not know.
        match is_hidden(char, before) {
            _ if char == '\n' || char == '\r' => out.push(' '),
            true => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    out.push_str("\\u");
                    hex(out, u32::from(*unit), 4);
                }
            }
            false => out.push(char),
        }
        before = Some(char);
    }
}

fn escape(out: &mut String, text: &str, lines: bool) {
    let mut before = None;
    for char in text.chars() {
        match char {
            '\n' | '\t' if lines => out.push(char),
            '\n' => out.push_str("\\n"),
            '\t' => out.push_str("\\t"),
            '\r' => out.push_str("\\r"),
            _ if !is_hidden(char, before) => out.push(char),
            '\0'..='\x7f' => {
                out.push_str("\\x");
                hex(out, char as u32, 2);
            }
            _ => {
                out.push_str("\\u{");
                hex(out, char as u32, 2);
                out.push('}');
            }
        }
        before = Some(char);
    }
}

fn hex(out: &mut String, number: u32, digits: u32) {
    let needed = (32 - number.leading_zeros()).div_ceil(4).max(digits);
    let digit = |at: u32| char::from_digit(number >> (4 * at) & 15, 16).unwrap_or('0');
    out.extend((0..needed).rev().map(digit));
}

/// Whether a character does something to the text around it instead of standing there.
/// `before`: the one in front of it.
fn is_hidden(char: char, before: Option<char>) -> bool {
    match char {
        // C0, DEL and C1: ECMA-48's controls, of which ESC and CSI are but two.
        '\0'..='\x1f' | '\x7f'..='\u{9f}' => true,
        // Turns the character before it into a picture: once, and only what has a shape.
        '\u{fe0f}' => before.is_none_or(|before| before == '\u{fe0f}' || is_shapeless(before)),
        _ => is_shapeless(char),
    }
}

/// The controls that Unicode adds: direction (UAX #9), line ends of its own, and what is drawn as
/// nothing (the property Default_Ignorable_Code_Point).
fn is_shapeless(char: char) -> bool {
    matches!(char,
        '\0'..='\x1f' | '\x7f'..='\u{9f}' | '\u{ad}' | '\u{34f}' | '\u{61c}'
        | '\u{115f}'..='\u{1160}' | '\u{17b4}'..='\u{17b5}' | '\u{180b}'..='\u{180f}'
        | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}'
        | '\u{3164}' | '\u{fe00}'..='\u{fe0e}' | '\u{feff}' | '\u{ffa0}'
        | '\u{fff0}'..='\u{fffb}' | '\u{1bca0}'..='\u{1bca3}' | '\u{1d173}'..='\u{1d17a}'
        | '\u{e0000}'..='\u{e0fff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texted(input: &str) -> String {
        let mut out = String::new();
        text(&mut out, input);
        out
    }

    #[test]
    fn what_would_act_on_a_terminal_is_shown_as_its_number() {
        for (input, want) in [
            ("plain, tab\tand\nlines", "plain, tab\tand\nlines"),
            ("a\r\nb\rc\r", "a\nb\\rc\\r"),
            ("\x1b[31mred\x1b[0m", "\\x1b[31mred\\x1b[0m"),
            ("\x1b]0;title\x07\x08\x7f\0", "\\x1b]0;title\\x07\\x08\\x7f\\x00"),
            ("\x1b]52;c;AAAA\x1b\\", "\\x1b]52;c;AAAA\\x1b\\"),
            ("csi \u{9b}31m", "csi \\u{9b}31m"),
            ("if (a\u{202e}\u{2066}b", "if (a\\u{202e}\\u{2066}b"),
            ("pay\u{200b}pal\u{feff}", "pay\\u{200b}pal\\u{feff}"),
            ("tag\u{e0041}", "tag\\u{e0041}"),
            ("soft\u{ad}hyphen\u{2028}", "soft\\u{ad}hyphen\\u{2028}"),
            ("grüße 你好 שלום 🙂 e\u{301}", "grüße 你好 שלום 🙂 e\u{301}"),
            ("❤\u{fe0f} 1\u{fe0f}\u{20e3}", "❤\u{fe0f} 1\u{fe0f}\u{20e3}"),
            ("❤\u{fe0f}\u{fe0f}", "❤\u{fe0f}\\u{fe0f}"),
            ("\u{fe0f}", "\\u{fe0f}"),
        ] {
            assert_eq!(texted(input), want);
        }
        assert_eq!(lined("a\nb\tc\r\nd\u{85}"), "a\\nb\\tc\\r\\nd\\u{85}");
    }

    #[test]
    fn every_character_is_either_itself_or_its_number_in_plain_ascii() {
        for char in '\0'..=char::MAX {
            let shown = lined(char.encode_utf8(&mut [0; 4]));
            if shown.starts_with(char) {
                assert!(!char.is_control(), "{char:?}");
                assert_eq!(shown.chars().count(), 1);
                continue;
            }
            assert!(shown.bytes().all(|byte| byte.is_ascii_graphic()), "{char:?}: {shown}");
            let number = shown.trim_start_matches("\\u{").trim_start_matches("\\x");
            let number = u32::from_str_radix(number.trim_end_matches('}'), 16);
            let known = matches!(char, '\n' | '\t' | '\r') && shown.len() == 2;
            assert!(known || number == Ok(char as u32), "{char:?}: {shown}");
        }
    }

    #[test]
    fn random_text_never_lets_one_through_and_json_keeps_its_value() {
        // Drawn from the dangerous ends of Unicode, with a generator of the test's own.
        let mut state = 7u64;
        let mut next = |limit: usize| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as usize % limit
        };
        let pool: Vec<char> = ('\0'..='\u{ff}')
            .chain('\u{2000}'..='\u{2070}')
            .chain('\u{fe00}'..='\u{fe10}')
            .chain(['\u{feff}', '\u{e0001}', '🙂', '\u{61c}', '\u{d7ff}', '\u{10ffff}'])
            .collect();
        for _ in 0..20_000 {
            let input: String = (0..next(12)).map(|_| pool[next(pool.len())]).collect();
            let (several, one) = (texted(&input), lined(&input));
            let acts = |char: char| char.is_control() || is_shapeless(char);
            assert!(!one.contains(acts), "{input:?}: {one:?}");
            assert!(!several.replace(['\n', '\t'], "").contains(acts), "{input:?}: {several:?}");

            let raw = serde_json::to_string(&input).unwrap();
            let mut shown = String::new();
            json(&mut shown, &raw);
            assert!(!shown.contains(acts), "{raw}: {shown:?}");
            assert_eq!(serde_json::from_str::<String>(&shown).unwrap(), input);
        }
        let mut shown = String::new();
        json(&mut shown, "{\n\"a\": \"\u{9b}\u{e0041}\"}");
        assert_eq!(shown, "{ \"a\": \"\\u009b\\udb40\\udc41\"}");
    }
}
