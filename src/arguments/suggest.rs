//! "Did you mean": the known word that is nearest to one that is not known.

/// The nearest of these words, if one is near enough that it was probably meant.
pub(super) fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let allowed = if word.len() < 5 { 1 } else { 2 + word.len() / 8 };
    known
        .map(|candidate| (distance(word, candidate), candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Letters to insert, to remove, to change or to swap with their neighbour.
fn distance(a: &str, b: &str) -> usize {
    let (a, b) = (a.as_bytes(), b.as_bytes());
    // Three rows of the usual table: the one before the last is for swaps.
    let mut older: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, &left) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, &right) in b.iter().enumerate() {
            let change = last[j] + usize::from(left != right);
            let mut best = change.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && left == b[j - 1] && a[i - 1] == right {
                best = best.min(older[j - 1] + 1);
            }
            row.push(best);
        }
        older = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_is_understood_and_another_word_is_not() {
        let known =
            ["listen", "queue-max", "heartbeat", "root", "agents-max", "agents-starting-max"];
        let meant = |word: &str| nearest(word, known.into_iter());
        for (word, want) in [
            ("lisen", Some("listen")),
            ("queue_max", Some("queue-max")),
            ("haertbeat", Some("heartbeat")),
            ("heart-beat", Some("heartbeat")),
            ("roots", Some("root")),
            ("agent-max", Some("agents-max")),
            ("port", None),
            ("verbose", None),
            ("", None),
        ] {
            assert_eq!(meant(word), want, "{word}");
        }
    }

    #[test]
    fn distances_count_slips() {
        for (a, b, want) in
            [("", "abc", 3), ("abc", "abc", 0), ("acb", "abc", 1), ("abd", "xbc", 2)]
        {
            assert_eq!(distance(a, b), want, "{a} {b}");
            assert_eq!(distance(b, a), want, "{b} {a}");
        }
    }
}
