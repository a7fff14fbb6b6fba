//! The series as an SVG: one small chart each, one under the other.

use super::series::{SERIES, Samples};
use std::fmt::Write as _;

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 62.0;
const GAP: f64 = 22.0;
const LEFT: f64 = 130.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 30.0;

/// Draws all of them.
pub fn svg(samples: &Samples) -> String {
    let end = samples.all().last().map_or(1.0, |sample| sample.at).max(1.0);
    let height = TOP + SERIES.len() as f64 * (HEIGHT + GAP) + 10.0;
    let width = LEFT + WIDTH + RIGHT;
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" \
         font-family=\"sans-serif\" font-size=\"12\" fill=\"#222\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"18\">sidestream under churn, {end:.0} seconds, one sample a second\
         </text>\n"
    );
    for (number, series) in SERIES.iter().enumerate() {
        let top = TOP + number as f64 * (HEIGHT + GAP);
        let bottom = top + HEIGHT;
        let values = || samples.all().iter().map(|sample| (sample.at, sample.values[number]));
        let most = values().map(|(_, value)| value).fold(1.0, f64::max);
        let _ = writeln!(
            svg,
            "<rect x=\"{LEFT}\" y=\"{top}\" width=\"{WIDTH}\" height=\"{HEIGHT}\" fill=\"#f6f6f4\"/>\
             <text x=\"{x}\" y=\"{middle}\" text-anchor=\"end\">{name}</text>\
             <text x=\"{x}\" y=\"{under}\" text-anchor=\"end\" fill=\"#777\">max {most} {unit}</text>",
            x = LEFT - 8.0,
            middle = top + HEIGHT / 2.0,
            under = top + HEIGHT / 2.0 + 16.0,
            name = series.name,
            unit = series.unit,
        );
        let points = values().map(|(at, value)| {
            format!("{:.1},{:.1}", LEFT + at / end * WIDTH, bottom - value / most * HEIGHT)
        });
        let points = points.collect::<Vec<_>>().join(" ");
        let _ = writeln!(
            svg,
            "<polyline points=\"{points}\" fill=\"none\" stroke=\"#2563a8\" stroke-width=\"1.2\"/>"
        );
    }
    svg + "</svg>\n"
}
