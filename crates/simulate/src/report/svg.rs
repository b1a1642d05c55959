//! Charts as inline SVG.

use std::fmt::Write as _;

use super::escape;

/// One line over the hours of a day.
pub(super) struct Line<'a> {
    pub colour: &'static str,
    pub name: &'a str,
    pub values: Vec<Option<f64>>,
}

/// A vertical scale: where a value lies, 0 at the foot to 1 at the top, and what is written beside it.
pub(super) struct Scale {
    ticks: Vec<(f64, String)>,
    logarithmic: bool,
    most: f64,
}

impl Scale {
    /// Minutes, each step a multiple of the one below.
    pub fn minutes(most: f64) -> Self {
        let all = [
            (0.1, "6 s"),
            (1.0, "1 min"),
            (10.0, "10 min"),
            (60.0, "1 h"),
            (240.0, "4 h"),
            (1440.0, "1 d"),
            (7200.0, "5 d"),
        ];
        let ticks: Vec<_> = all.iter().map(|(value, name)| (*value, (*name).to_owned())).collect();
        let top = ticks.iter().map(|(value, _)| *value).find(|value| *value >= most).unwrap_or(most);
        let ticks = ticks.into_iter().filter(|(value, _)| *value <= top).collect();
        Self { ticks, logarithmic: true, most: top }
    }

    /// A count from 0.
    pub fn count(most: f64) -> Self {
        let magnitude = 10.0_f64.powf(most.log10().floor());
        let step = [0.25, 0.5, 1.0, 2.0, 5.0]
            .map(|part| part * magnitude)
            .into_iter()
            .find(|step| most / step <= 5.0);
        let step = step.unwrap_or(most / 4.0);
        let ticks: Vec<_> = (0..=5_u8)
            .map(|n| f64::from(n) * step)
            .take_while(|value| *value < most + step)
            .map(|value| (value, format!("{value:.0}")))
            .collect();
        let top = ticks.last().map_or(most, |(value, _)| *value);
        Self { ticks, logarithmic: false, most: top }
    }

    fn place(&self, value: f64) -> f64 {
        if !self.logarithmic {
            return value / self.most;
        }
        let foot = self.ticks.first().map_or(0.1, |(value, _)| *value);
        (value.max(foot) / foot).ln() / (self.most / foot).ln()
    }
}

const LEFT: f64 = 52.0;
const FOOT: f64 = 26.0;
const TOP: f64 = 10.0;
const RIGHT: f64 = 22.0;

/// Lines over the 24 hours of a day.
pub(super) fn hours(lines: &[Line], scale: &Scale, (width, height): (f64, f64)) -> String {
    let (wide, high) = (width - LEFT - RIGHT, height - TOP - FOOT);
    let y = |value: f64| TOP + high * (1.0 - scale.place(value).clamp(0.0, 1.0));
    let mut out = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\"><g class=\"grid\">");
    for (value, name) in &scale.ticks {
        let at = y(*value);
        let _infallible = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{name}</text>",
            LEFT + wide,
            LEFT - 8.0,
            at + 4.0
        );
    }
    for hour in (0..=24_u8).step_by(4) {
        let at = LEFT + wide * f64::from(hour) / 24.0;
        let _infallible = write!(
            out,
            "<text x=\"{at:.1}\" y=\"{:.1}\" text-anchor=\"middle\">{hour:02}:00</text>",
            height - 6.0
        );
    }
    out.push_str("</g>");
    for line in lines {
        let mut path = String::new();
        let mut pen = "M";
        let mut hour = 0.0;
        for value in &line.values {
            match value {
                Some(value) => {
                    let at = LEFT + wide * (hour + 0.5) / 24.0;
                    let _infallible = write!(path, "{pen}{at:.1} {:.1}", y(*value));
                    pen = "L";
                }
                None => pen = "M",
            }
            hour += 1.0;
        }
        let _infallible = write!(
            out,
            "<path d=\"{path}\" stroke=\"{}\" fill=\"none\"><title>{}</title></path>",
            line.colour,
            escape(line.name)
        );
    }
    out.push_str("</svg>");
    out
}

/// One bar for each reader.
pub(super) fn readers(loads: &[(u8, f64)], most: f64, (width, height): (f64, f64)) -> String {
    let scale = Scale::count(most);
    let (wide, high) = (width - LEFT - RIGHT, height - TOP - 12.0);
    let mut out = format!("<svg viewBox=\"0 0 {width} {height}\" role=\"img\"><g class=\"grid\">");
    for (value, name) in &scale.ticks {
        let at = TOP + high * (1.0 - scale.place(*value));
        let _infallible = write!(
            out,
            "<line x1=\"{LEFT}\" x2=\"{:.1}\" y1=\"{at:.1}\" y2=\"{at:.1}\"/><text x=\"{}\" y=\"{:.1}\" \
             text-anchor=\"end\">{name}</text>",
            LEFT + wide,
            LEFT - 8.0,
            at + 4.0
        );
    }
    out.push_str("</g>");
    #[expect(clippy::cast_precision_loss, reason = "at most 20,000 readers")]
    let step = wide / loads.len().max(1) as f64;
    let mut at = LEFT;
    for (site, rate) in loads {
        let tall = high * scale.place(*rate);
        let colour = if *site == 0 { "#475569" } else { "#38bdf8" };
        let _infallible = write!(
            out,
            "<rect x=\"{at:.2}\" y=\"{:.1}\" width=\"{:.2}\" height=\"{tall:.1}\" fill=\"{colour}\"/>",
            TOP + high - tall,
            (step * 0.86).max(0.4)
        );
        at += step;
    }
    out.push_str("</svg>");
    out
}

/// A horizontal bar: percent in all, of which avoidable.
pub(super) fn bar((all, avoidable): (f64, f64), most: f64, colour: &str, name: &str) -> String {
    let (all_wide, dark) = (100.0 * all / most, 100.0 * avoidable / most);
    format!(
        "<div class=\"row\" title=\"{name}: {all:.2} %, of which avoidable {avoidable:.2} %\"><div class=\"track\">\
         <i style=\"width:{all_wide:.2}%;background:{colour};opacity:.35\"></i>\
         <i style=\"width:{dark:.2}%;background:{colour}\"></i></div><span>{all:.2} %</span></div>"
    )
}

/// What the colours mean.
pub(super) fn legend<'a>(entries: impl Iterator<Item = (&'static str, &'a str)>) -> String {
    let entries = entries
        .map(|(colour, name)| format!("<li><i style=\"background:{colour}\"></i>{}</li>", escape(name)));
    format!("<ul class=\"legend\">{}</ul>", entries.collect::<String>())
}
