//! `sidestream doctor`: what could keep a server from running well, and what to do about each.
//!
//! It changes nothing and starts nothing that stays. A finding is a sentence, and where it is not
//! good news it ends with the cure. No secret is printed: of credentials it tells that they are there
//! and where. What only a start knows of its options, the caller looks at.

pub mod machine;
pub mod outside;

use std::fmt::Write as _;

use crate::wire::visible;

/// How a finding weighs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Weight {
    /// As it should be.
    Good,
    /// It works, and could be better.
    Warning,
    /// It does not work.
    Bad,
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// How it weighs.
    pub weight: Weight,
    /// What was looked at, in a word.
    pub about: &'static str,
    /// What was found: a sentence without a full stop.
    pub found: String,
    /// What to do; empty where there is nothing to do.
    pub cure: String,
}

/// As it should be.
pub fn good(about: &'static str, found: impl Into<String>) -> Finding {
    Finding { weight: Weight::Good, about, found: found.into(), cure: String::new() }
}

/// It works, and could be better.
pub fn warning(about: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { weight: Weight::Warning, about, found: found.into(), cure: cure.into() }
}

/// It does not work.
pub fn bad(about: &'static str, found: impl Into<String>, cure: impl Into<String>) -> Finding {
    Finding { weight: Weight::Bad, about, found: found.into(), cure: cure.into() }
}

/// Findings as text, a line each and one for each cure, and how many are bad.
pub fn report(findings: &[Finding]) -> (String, usize) {
    let mut text = String::new();
    for finding in findings {
        let mark = match finding.weight {
            Weight::Good => "ok  ",
            Weight::Warning => "warn",
            Weight::Bad => "BAD ",
        };
        let _ = writeln!(text, "{mark}  {}: {}", finding.about, visible::lined(&finding.found));
        if !finding.cure.is_empty() {
            let _ = writeln!(text, "      do: {}", visible::lined(&finding.cure));
        }
    }
    let count = |weight| findings.iter().filter(|finding| finding.weight == weight).count();
    let (bad, warnings) = (count(Weight::Bad), count(Weight::Warning));
    let _ = match (bad, warnings) {
        (0, 0) => writeln!(text, "\nEverything is as it should be."),
        _ => writeln!(text, "\n{bad} bad, {warnings} to look at."),
    };
    (text, bad)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_says_what_to_do_and_counts_what_is_bad() {
        let findings =
            [good("a", "fine"), warning("b", "so so\x1b", "do this"), bad("c", "no", "x")];
        let (text, bad) = report(&findings);
        assert_eq!(bad, 1);
        assert_eq!(
            text,
            "ok    a: fine\nwarn  b: so so\\x1b\n      do: do this\nBAD   c: no\n      do: x\n\n\
             1 bad, 1 to look at.\n"
        );
        assert!(report(&findings[..1]).0.contains("Everything"));
    }
}
