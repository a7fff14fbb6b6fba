//! Plots as SVG: lines over a logarithmic number of subscribers, and horizontal bars.

use crate::results::number;
use std::fmt::Write;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 420.0;
const LEFT: f64 = 80.0;
const RIGHT: f64 = 190.0;
const TOP: f64 = 50.0;
const BOTTOM: f64 = 55.0;
const COLOURS: [&str; 12] = [
    "#1f6feb", "#0b3d91", "#777777", "#aaaaaa", "#d1242f", "#e16f24", "#8250df", "#bf3989",
    "#1a7f37", "#9a6700", "#0a7ea4", "#57606a",
];

/// A line: its name, and points from left to right.
pub struct Series {
    pub name: String,
    pub points: Vec<(f64, f64)>,
}

/// Lines with both axes logarithmic.
pub fn lines(title: &str, across: &str, up: &str, series: &[Series]) -> String {
    let points =
        || series.iter().flat_map(|one| one.points.iter()).filter(|(x, y)| *x > 0.0 && *y > 0.0);
    let bounds = |values: Vec<f64>| {
        let low = values.iter().copied().fold(f64::MAX, f64::min);
        let high = values.iter().copied().fold(f64::MIN, f64::max);
        (low.log10().floor(), high.log10().ceil().max(low.log10().floor() + 1.0))
    };
    if points().next().is_none() {
        return open(title, HEIGHT) + "</svg>\n";
    }
    let (x0, x1) = bounds(points().map(|point| point.0).collect());
    let (y0, y1) = bounds(points().map(|point| point.1).collect());
    let x = |value: f64| LEFT + (value.log10() - x0) / (x1 - x0) * (WIDTH - LEFT - RIGHT);
    let y =
        |value: f64| HEIGHT - BOTTOM - (value.log10() - y0) / (y1 - y0) * (HEIGHT - TOP - BOTTOM);
    let mut out = open(title, HEIGHT);
    for (low, high, is_x) in [(x0, x1, true), (y0, y1, false)] {
        for power in low as i32..=high as i32 {
            let value = 10f64.powi(power);
            let (from, to, text, anchor) = match is_x {
                true => (
                    (x(value), TOP),
                    (x(value), HEIGHT - BOTTOM),
                    (x(value), HEIGHT - BOTTOM + 18.0),
                    "middle",
                ),
                false => (
                    (LEFT, y(value)),
                    (WIDTH - RIGHT, y(value)),
                    (LEFT - 8.0, y(value) + 4.0),
                    "end",
                ),
            };
            let _ = write!(
                out,
                "<line x1=\"{:.1}\" y1=\"{:.1}\" x2=\"{:.1}\" y2=\"{:.1}\" stroke=\"#dddddd\"/>\n\
                 <text x=\"{:.1}\" y=\"{:.1}\" text-anchor=\"{anchor}\">{}</text>\n",
                from.0,
                from.1,
                to.0,
                to.1,
                text.0,
                text.1,
                number(value)
            );
        }
    }
    let middle = (LEFT + WIDTH - RIGHT) / 2.0;
    let _ = writeln!(
        out,
        "<text x=\"{middle}\" y=\"{}\" text-anchor=\"middle\">{}</text>",
        HEIGHT - 14.0,
        escape(across)
    );
    let _ = writeln!(out, "<text x=\"{LEFT}\" y=\"{}\">{}</text>", TOP - 8.0, escape(up));
    for (at, one) in series.iter().enumerate() {
        let colour = COLOURS[at % COLOURS.len()];
        let dash = if one.name.starts_with("floor") { " stroke-dasharray=\"5 4\"" } else { "" };
        let path: Vec<String> =
            one.points.iter().map(|point| format!("{:.1},{:.1}", x(point.0), y(point.1))).collect();
        let _ = writeln!(
            out,
            "<polyline points=\"{}\" fill=\"none\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>",
            path.join(" ")
        );
        for (px, py) in &one.points {
            let _ = writeln!(
                out,
                "<circle cx=\"{:.1}\" cy=\"{:.1}\" r=\"3\" fill=\"{colour}\"/>",
                x(*px),
                y(*py)
            );
        }
        let height = TOP + 12.0 + 18.0 * at as f64;
        let left = WIDTH - RIGHT + 14.0;
        let _ = write!(
            out,
            "<line x1=\"{left}\" y1=\"{0}\" x2=\"{1}\" y2=\"{0}\" stroke=\"{colour}\" stroke-width=\"2\"{dash}/>\n\
             <text x=\"{2}\" y=\"{3}\">{4}</text>\n",
            height,
            left + 20.0,
            left + 26.0,
            height + 4.0,
            escape(&one.name)
        );
    }
    out + "</svg>\n"
}

/// Bars from the left, one below the other, on a logarithmic scale.
pub fn bars(title: &str, unit: &str, values: &[(String, f64)]) -> String {
    let values: Vec<&(String, f64)> = values.iter().filter(|(_, value)| *value > 0.0).collect();
    let height = TOP + 30.0 + 26.0 * values.len() as f64;
    let mut out = open(title, height);
    let low = values.iter().map(|(_, value)| *value).fold(f64::MAX, f64::min).log10().floor() - 0.3;
    let high =
        values.iter().map(|(_, value)| *value).fold(f64::MIN, f64::max).log10().max(low + 1.0);
    let (left, right) = (190.0, 110.0);
    for (at, (name, value)) in values.iter().enumerate() {
        let length = (value.log10() - low) / (high - low) * (WIDTH - left - right);
        let top = TOP + 26.0 * at as f64;
        let colour = if name.starts_with("sidestream") { COLOURS[0] } else { "#aaaaaa" };
        let _ = write!(
            out,
            "<text x=\"{0}\" y=\"{1:.1}\" text-anchor=\"end\">{2}</text>\n\
             <rect x=\"{left}\" y=\"{top:.1}\" width=\"{length:.1}\" height=\"18\" fill=\"{colour}\"/>\n\
             <text x=\"{3:.1}\" y=\"{1:.1}\">{4}</text>\n",
            left - 8.0,
            top + 13.0,
            escape(name),
            left + length + 6.0,
            number(*value)
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{left}\" y=\"{}\">{}, logarithmic</text>",
        height - 10.0,
        escape(unit)
    );
    out + "</svg>\n"
}

fn open(title: &str, height: f64) -> String {
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" \
         font-family=\"system-ui, sans-serif\" font-size=\"12\" fill=\"#24292f\">\n\
         <rect width=\"100%\" height=\"100%\" fill=\"white\"/>\n\
         <text x=\"20\" y=\"24\" font-size=\"15\">{}</text>\n",
        escape(title)
    )
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}
