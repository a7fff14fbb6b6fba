//! Writes metrics in the Prometheus text format, version 0.0.4: families of samples, each with
//! its HELP and TYPE once.
//!
//! It promises that label values are escaped, whatever they hold. Names and helps are ours and
//! trusted. What is counted it does not know.

use std::fmt::{Display, Write as _};

/// The media type of the format.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What a family is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// It only rises; its name ends in `_total`.
    Counter,
    /// It rises and falls.
    Gauge,
}

/// A page of metrics.
#[derive(Debug, Default)]
pub struct Metrics {
    text: String,
}

/// A family that is being written.
pub struct Family<'a> {
    text: &'a mut String,
    name: &'static str,
}

impl Metrics {
    /// Begins a family; its samples follow.
    pub fn family(&mut self, kind: Kind, name: &'static str, help: &str) -> Family<'_> {
        let word = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        debug_assert_eq!(name.ends_with("_total"), kind == Kind::Counter, "{name}");
        self.open(word, name, help)
    }

    fn open(&mut self, word: &str, name: &'static str, help: &str) -> Family<'_> {
        // Into a String: cannot fail.
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {word}");
        Family { text: &mut self.text, name }
    }

    /// A counter of one sample.
    pub fn counter(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Counter, name, help).sample(&[], value);
    }

    /// A gauge of one sample.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Display) {
        self.family(Kind::Gauge, name, help).sample(&[], value);
    }

    /// A histogram: upper bounds in rising order, each with how many are not above it; how many
    /// there are; their sum.
    pub fn histogram(
        &mut self,
        name: &'static str,
        help: &str,
        cumulated: impl Iterator<Item = (f64, u64)>,
        count: u64,
        sum: f64,
    ) {
        let text = self.open("histogram", name, help).text;
        for (bound, count) in cumulated {
            let _ = writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}");
        }
        let _ = writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}");
        let _ = writeln!(text, "{name}_sum {sum}\n{name}_count {count}");
    }

    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// One sample. Values are written without an exponent, and must be finite.
    pub fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(self.name);
        for (number, (name, text)) in labels.iter().enumerate() {
            self.text.push(if number == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            for char in text.chars() {
                match char {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    char => self.text.push(char),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}"); // Into a String: cannot fail.
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_is_families_with_help_and_type_and_label_values_are_escaped() {
        let mut metrics = Metrics::default();
        metrics.counter("a_total", "Things.", 3);
        let mut family = metrics.family(Kind::Gauge, "b", "Others.");
        family.sample(&[("x", "1"), ("y", "a\"b\\c\nd")], 0.5);
        family.sample(&[("x", "2"), ("y", "")], 1e-7);
        let cumulated = [(0.001, 1), (1.0, 2)];
        metrics.histogram("c_seconds", "Times.", cumulated.into_iter(), 4, 12.25);
        assert_eq!(
            metrics.into_text(),
            "# HELP a_total Things.\n# TYPE a_total counter\na_total 3\n\
             # HELP b Others.\n# TYPE b gauge\n\
             b{x=\"1\",y=\"a\\\"b\\\\c\\nd\"} 0.5\nb{x=\"2\",y=\"\"} 0.0000001\n\
             # HELP c_seconds Times.\n# TYPE c_seconds histogram\n\
             c_seconds_bucket{le=\"0.001\"} 1\nc_seconds_bucket{le=\"1\"} 2\n\
             c_seconds_bucket{le=\"+Inf\"} 4\nc_seconds_sum 12.25\nc_seconds_count 4\n"
        );
    }
}
