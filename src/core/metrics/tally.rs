//! Counts by word, where the words are a closed list: refusals by their code.

/// Why requests are not let in, as their answers' `code` says it. Whatever is not listed counts
/// under the last.
pub const REFUSALS: [&str; 13] = [
    "foreign_host",
    "foreign_origin",
    "foreign_site",
    "foreign_user",
    "unknown_user",
    "proxy_without_token",
    "token_needed",
    "token_unknown",
    "scope_too_small",
    "agent_self_access",
    "working_dir_outside_roots",
    "bypass_not_allowed",
    "other",
];

/// Statuses of what was no request. Whatever is not listed counts under the last.
pub const BAD: [&str; 11] =
    ["400", "405", "408", "411", "413", "414", "417", "431", "501", "505", "other"];

/// Counts by the words of a list.
#[derive(Clone, Copy, Debug)]
pub struct Tally<const N: usize> {
    words: &'static [&'static str; N],
    counts: [u64; N],
}

impl<const N: usize> Tally<N> {
    /// All zero.
    pub fn new(words: &'static [&'static str; N]) -> Tally<N> {
        Tally { words, counts: [0; N] }
    }

    /// Counts one.
    pub fn count(&mut self, word: &str) {
        let at = self.words.iter().position(|known| *known == word);
        self.counts[at.unwrap_or(N - 1)] += 1;
    }

    /// Each word with its count.
    pub fn iter(&self) -> impl Iterator<Item = (&'static str, u64)> {
        self.words.iter().copied().zip(self.counts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_counts_under_itself_and_a_strange_one_under_the_last() {
        let mut tally = Tally::new(&REFUSALS);
        for word in ["foreign_host", "foreign_host", "scope_too_small", "never heard of"] {
            tally.count(word);
        }
        let counted: Vec<(&str, u64)> = tally.iter().filter(|(_, count)| *count > 0).collect();
        assert_eq!(counted, [("foreign_host", 2), ("scope_too_small", 1), ("other", 1)]);
    }
}
