//! What was measured: samples by figure, server, scale and measure, one per round; their medians,
//! ratios within a round, and the JSON file that a later run is compared with.

use serde_json::{Map, Value, json};
use std::collections::BTreeMap;

/// Changes smaller than this are noise.
const NOISE: f64 = 0.10;

/// One kind of figure: what, of whom, at what scale.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    figure: &'static str,
    server: String,
    scale: u64,
    measure: &'static str,
}

/// All samples of a run.
#[derive(Default)]
pub struct Results {
    samples: BTreeMap<Key, Vec<(u32, f64)>>,
    /// What could not be measured, and why.
    pub missing: Vec<String>,
}

impl Results {
    /// Adds a sample of a round.
    pub fn add(
        &mut self,
        round: u32,
        figure: &'static str,
        server: &str,
        scale: u64,
        measure: &'static str,
        value: f64,
    ) {
        let key = Key { figure, server: server.to_owned(), scale, measure };
        self.samples.entry(key).or_default().push((round, value));
    }

    /// Notes that something could not be measured, once.
    pub fn miss(&mut self, sentence: String) {
        eprintln!("  missing: {sentence}");
        if !self.missing.contains(&sentence) {
            self.missing.push(sentence);
        }
    }

    fn of(
        &self,
        figure: &'static str,
        server: &str,
        scale: u64,
        measure: &'static str,
    ) -> Option<&Vec<(u32, f64)>> {
        self.samples.get(&Key { figure, server: server.to_owned(), scale, measure })
    }

    /// The median over the rounds.
    pub fn median(
        &self,
        figure: &'static str,
        server: &str,
        scale: u64,
        measure: &'static str,
    ) -> Option<f64> {
        let samples = self.of(figure, server, scale, measure)?;
        Some(median(samples.iter().map(|(_, value)| *value).collect()))
    }

    /// The median of the ratios to another server, each within one round.
    pub fn ratio(
        &self,
        figure: &'static str,
        (server, floor): (&str, &str),
        scale: u64,
        measure: &'static str,
    ) -> Option<f64> {
        let floor = self.of(figure, floor, scale, measure)?;
        let ratios: Vec<f64> = self
            .of(figure, server, scale, measure)?
            .iter()
            .filter_map(|(round, value)| {
                let (_, other) = floor.iter().find(|(of, _)| of == round)?;
                (*other > 0.0).then_some(value / other)
            })
            .collect();
        (!ratios.is_empty()).then(|| median(ratios))
    }

    /// The scales of a figure, rising.
    pub fn scales(&self, figure: &'static str) -> Vec<u64> {
        let mut scales: Vec<u64> =
            self.samples.keys().filter(|key| key.figure == figure).map(|key| key.scale).collect();
        scales.sort_unstable();
        scales.dedup();
        scales
    }

    /// Every median as `figure → server → scale → measure`.
    pub fn to_json(&self, about: &Value) -> Value {
        let mut figures = Map::new();
        for (key, samples) in &self.samples {
            let value = median(samples.iter().map(|(_, value)| *value).collect());
            let level = |map: &mut Map<String, Value>, name: &str| {
                map.entry(name.to_owned()).or_insert_with(|| json!({}));
            };
            level(&mut figures, key.figure);
            let servers = figures[key.figure].as_object_mut().expect("just made");
            level(servers, &key.server);
            let scales = servers[&key.server].as_object_mut().expect("just made");
            level(scales, &key.scale.to_string());
            let measures = scales[&key.scale.to_string()].as_object_mut().expect("just made");
            measures.insert(key.measure.to_owned(), json!(rounded(value)));
        }
        json!({ "about": about, "figures": figures })
    }

    /// What has changed since an earlier run, one line each, beyond what is noise.
    pub fn differences(&self, earlier: &Value) -> Vec<String> {
        let mut lines = Vec::new();
        for (key, samples) in &self.samples {
            let before = &earlier["figures"][key.figure][&key.server][key.scale.to_string()];
            let Some(before) = before[key.measure].as_f64().filter(|value| *value != 0.0) else {
                continue;
            };
            let now = median(samples.iter().map(|(_, value)| *value).collect());
            let change = now / before - 1.0;
            if change.abs() > NOISE {
                lines.push(format!(
                    "{:<14} {:<22} {:>6} {:<18} {} -> {} ({:+.0} %)",
                    key.figure,
                    key.server,
                    key.scale,
                    key.measure,
                    number(before),
                    number(now),
                    change * 100.0
                ));
            }
        }
        lines
    }
}

/// The median; the mean of the middle two where there is no middle one.
pub fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// Three digits are all that is meant.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let scale = 10f64.powi(3 - value.abs().log10().ceil() as i32);
    (value * scale).round() / scale
}

/// A number as people read it: three digits, thousands apart.
pub fn number(value: f64) -> String {
    let value = rounded(value);
    if value.abs() < 100.0 {
        let text = format!("{value:.2}");
        return match text.contains('.') {
            true => text.trim_end_matches('0').trim_end_matches('.').to_owned(),
            false => text,
        };
    }
    let digits = format!("{value:.0}");
    let mut out = String::new();
    for (at, digit) in digits.chars().enumerate() {
        if at > 0 && (digits.len() - at) % 3 == 0 {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_is_taken_within_its_round() {
        let mut results = Results::default();
        for (round, floor, value) in [(1, 10.0, 11.0), (2, 100.0, 120.0), (3, 20.0, 26.0)] {
            results.add(round, "f", "floor", 1, "m", floor);
            results.add(round, "f", "us", 1, "m", value);
        }
        assert_eq!(results.ratio("f", ("us", "floor"), 1, "m"), Some(1.2));
        assert_eq!(results.median("f", "us", 1, "m"), Some(26.0));
        assert_eq!(results.ratio("f", ("us", "nobody"), 1, "m"), None);
    }

    #[test]
    fn numbers_are_short_and_differences_are_beyond_noise() {
        assert_eq!(
            [0.0, 0.123456, 1.5, 99.0, 1234.0, 1_234_567.0].map(number),
            ["0", "0.12", "1.5", "99", "1 230", "1 230 000"]
        );
        let mut results = Results::default();
        results.add(1, "f", "us", 1, "m", 120.0);
        let earlier = results.to_json(&json!({}));
        assert!(results.differences(&earlier).is_empty());
        let mut later = Results::default();
        later.add(1, "f", "us", 1, "m", 150.0);
        assert_eq!(later.differences(&earlier).len(), 1);
    }
}
