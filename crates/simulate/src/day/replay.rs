//! Arrivals from a log, instead of drawn ones.
//!
//! One JSON object a line, in any order: `complete_at` (RFC 3339, UTC), `site`, `class`, `modality`, and, where known,
//! `body_part`, `probability` (what AI said), `critical` (what it turned out to be), `reading_min`. What is not known is drawn
//! as the scenario says.

use serde::Deserialize;

use super::{
    Scenario, Workload,
    scenario::{DAY, HOUR, MINUTE},
    workload::Arrival,
};

/// The most lines of a log: a month of the largest network.
const MAX_LINES: usize = 2_000_000;

/// A log that cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {problem}")]
pub struct LogError {
    /// The line, from 1.
    pub line: usize,
    /// What is wrong with it, with the field, and what to do.
    pub problem: String,
}

/// Arrivals by time from the first midnight (UTC) of the log.
#[derive(Clone, Debug)]
pub struct Log {
    arrivals: Vec<Arrival>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    complete_at: String,
    site: String,
    class: String,
    modality: String,
    #[serde(default)]
    body_part: String,
    probability: Option<f64>,
    critical: Option<bool>,
    reading_min: Option<f64>,
}

impl Log {
    /// Reads a log for `scenario`, whose days become those of the log, all of them measured, and one to finish.
    ///
    /// # Errors
    /// The first line that is wrong.
    pub fn parse(text: &str, scenario: &mut Scenario) -> Result<Self, LogError> {
        let mut arrivals = Vec::new();
        for (number, line) in text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty()) {
            let fail = |problem: String| LogError { line: number + 1, problem };
            if arrivals.len() >= MAX_LINES {
                return Err(fail(format!("the log has more than {MAX_LINES} studies; replay fewer days")));
            }
            let line: Line = serde_json::from_str(line)
                .map_err(|error| fail(format!("{error}; docs/simulator.md shows the form")))?;
            arrivals.push(arrival(&line, scenario).map_err(fail)?);
        }
        let Some(first) = arrivals.iter().map(|arrival| arrival.at.div_euclid(DAY)).min() else {
            return Err(LogError {
                line: 1,
                problem: "the log has no study; give one JSON object a line".to_owned(),
            });
        };
        for arrival in &mut arrivals {
            arrival.at -= first * DAY;
        }
        arrivals.sort_by_key(|arrival| arrival.at);
        let last = arrivals.last().map_or(0, |arrival| arrival.at / DAY);
        let days = u32::try_from(last + 1).ok().filter(|days| *days <= 60).ok_or_else(|| LogError {
            line: 1,
            problem: format!("the log spans {} days; replay at most 60", last + 1),
        })?;
        scenario.days = [0, days, 1];
        scenario.name = format!("{}-replayed", scenario.name);
        Ok(Self { arrivals })
    }

    /// How many studies.
    #[must_use]
    pub fn studies(&self) -> usize {
        self.arrivals.len()
    }

    pub(crate) fn workload(&self, scenario: &Scenario, seed: u64) -> Workload {
        Workload::of(scenario, seed, &self.arrivals)
    }
}

fn arrival(line: &Line, scenario: &Scenario) -> Result<Arrival, String> {
    let at = instant(&line.complete_at)
        .ok_or_else(|| format!("`complete_at` is `{}`; write 2026-03-01T08:00:00Z", line.complete_at))?;
    let index = |place: usize| u8::try_from(place).expect("at most 32 entries");
    let site = scenario.sites.iter().position(|site| site.name == line.site);
    let site = site.ok_or_else(|| {
        format!("`site` is `{}`, which the scenario does not have; add it there", line.site)
    })?;
    let class = scenario.classes.iter().position(|class| class.name == line.class);
    let class = class.ok_or_else(|| {
        format!("`class` is `{}`, which the scenario does not have; add it there", line.class)
    })?;
    let categories = &scenario.categories;
    let exact = categories.iter().position(|c| c.modality == line.modality && c.body_part == line.body_part);
    let category =
        exact.or_else(|| categories.iter().position(|c| c.modality == line.modality)).ok_or_else(|| {
            format!("`modality` is `{}`, which no category of the scenario has; add one there", line.modality)
        })?;
    if line.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
        return Err("`probability` must be from 0 to 1".to_owned());
    }
    if line.reading_min.is_some_and(|minutes| !(0.0..=1440.0).contains(&minutes)) {
        return Err("`reading_min` must be from 0 to 1440".to_owned());
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "at most a day")]
    let reading = line.reading_min.map(|minutes| ((minutes * MINUTE as f64) as i64).max(1));
    Ok(Arrival {
        at,
        site: index(site),
        class: Some(index(class)),
        category: Some(index(category)),
        critical: line.critical,
        probability: line.probability,
        reading,
    })
}

/// Microseconds since 1970 of an instant of RFC 3339 in UTC, as `2026-03-01T08:00:00Z` or with a fraction.
fn instant(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(|part| part.parse::<i64>().ok());
    let (year, month, day) = (date.next()??, date.next()??, date.next()??);
    let (clock, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut clock = clock.splitn(3, ':').map(|part| part.parse::<i64>().ok());
    let (hour, minute, second) = (clock.next()??, clock.next()??, clock.next()??);
    let fine = (1970..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..=60).contains(&second)
        && fraction.bytes().all(|b| b.is_ascii_digit());
    if !fine {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    // Days since 1970 in the proleptic Gregorian calendar, the year beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    Some(days * DAY + hour * HOUR + minute * MINUTE + second * MINUTE / 60 + micros)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_are_read() {
        assert_eq!(instant("1970-01-01T00:00:00Z"), Some(0));
        assert_eq!(instant("2026-11-22T17:15:00.5Z"), Some(1_795_367_700_500_000));
        assert_eq!(instant("2024-02-29T00:00:00Z"), Some(1_709_164_800_000_000));
        for bad in
            ["2026-11-22", "2026-13-01T00:00:00Z", "2026-11-22T17:15:00+03:00", "x", "2026-11-22T25:00:00Z"]
        {
            assert_eq!(instant(bad), None, "{bad}");
        }
    }

    #[test]
    fn a_log_takes_the_place_of_the_arrivals() {
        let mut scenario = Scenario::shipped("base").expect("shipped");
        let text = r#"{"complete_at":"2026-03-02T23:00:00Z","site":"north","class":"STAT","modality":"CT","body_part":"HEART","reading_min":7}
{"complete_at":"2026-03-01T08:00:00Z","site":"center","class":"ROUTINE","modality":"DX","probability":0.4,"critical":true}"#;
        let log = Log::parse(text, &mut scenario).expect("valid");
        assert_eq!((log.studies(), scenario.days), (2, [0, 2, 1]));
        let workload = log.workload(&scenario, 1);
        let (first, second) = (&workload.studies[0], &workload.studies[1]);
        assert_eq!((first.arrived, second.arrived), (8 * HOUR, DAY + 23 * HOUR));
        assert!(workload.truths[0].critical && workload.truths[1].reading == 7 * MINUTE);
        assert_eq!(workload.truths[0].answer.map(|answer| answer.probability), Some(0.4));
    }

    #[test]
    fn a_wrong_line_is_named() {
        let line = |site: &str, more: &str| {
            format!(
                r#"{{"complete_at":"2026-03-01T08:00:00Z","site":"{site}","class":"STAT","modality":"CT"{more}}}"#
            )
        };
        let cases = [
            (line("nowhere", ""), "site"),
            (line("north", r#","probability":1.5"#), "probability"),
            (line("north", r#","reading_min":-1"#), "reading_min"),
            (line("north", r#","colour":1"#), "colour"),
            ("{".to_owned(), "docs/simulator.md"),
        ];
        for (line, word) in cases {
            let text = format!("\n{line}\n");
            let error =
                Log::parse(&text, &mut Scenario::shipped("base").expect("shipped")).expect_err("wrong");
            assert!(error.line == 2 && error.problem.contains(word), "{error}");
        }
        assert!(Log::parse("", &mut Scenario::shipped("base").expect("shipped")).is_err());
    }
}
