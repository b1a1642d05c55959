//! Arrivals from a log, instead of drawn ones.
//!
//! One JSON object a line, in any order: `complete_at` (RFC 3339), `site`, `class`, `modality`, and, where known,
//! `body_part`, `probability` (what AI said), `critical` (what it turned out to be), `reading_min`. What is not known is drawn
//! as the scenario says.

use std::{collections::BTreeSet, fmt};

use isocenter_assign::{Needs, Prior, estimate::Exam};
use isocenter_domain::id::SiteId;
use serde::{Deserialize, Serialize};

use super::{
    Scenario, Workload,
    scenario::{DAY, HOUR, MINUTE},
    workload::Arrival,
};

/// The most lines of a log: a month of the largest network.
const MAX_LINES: usize = 2_000_000;
/// The most days of a log.
pub const MAX_DAYS: i64 = 60;
/// The longest reading time: what is open for longer was forgotten, not read.
pub const MAX_READING_MIN: f64 = 1440.0;
/// The most names of one kind that an error lists.
const MAX_NAMES: usize = 20;

/// A log that cannot be replayed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A line is wrong.
    #[error("line {line}: {problem}")]
    Line {
        /// The line, from 1.
        line: usize,
        /// What is wrong with it, with the field, and what to do.
        problem: String,
    },
    /// The scenario is not of the log's network.
    #[error(
        "the scenario `{scenario}` does not have what the log names: {missing}; add them to a scenario file, or have one \
         written from the log: isocenter simulate scenario --replay FILE"
    )]
    Missing {
        /// The scenario.
        scenario: String,
        /// Everything that it lacks.
        missing: Box<Missing>,
    },
}

/// What a log names and a scenario does not have.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Missing {
    /// Sites.
    pub sites: BTreeSet<String>,
    /// Classes.
    pub classes: BTreeSet<String>,
    /// Modalities that no category has.
    pub modalities: BTreeSet<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kinds = [
            ("sites", &self.sites),
            ("classes", &self.classes),
            ("categories of modality", &self.modalities),
        ];
        let mut between = "";
        for (kind, names) in kinds.iter().filter(|(_, names)| !names.is_empty()) {
            write!(f, "{between}{kind}")?;
            for (place, name) in names.iter().take(MAX_NAMES).enumerate() {
                write!(f, "{} `{name}`", if place == 0 { "" } else { "," })?;
            }
            match names.len() - names.len().min(MAX_NAMES) {
                0 => {}
                more => write!(f, " and {more} more")?,
            }
            between = "; ";
        }
        Ok(())
    }
}

/// Arrivals by time from the first midnight (UTC) of the log.
#[derive(Clone, Debug)]
pub struct Log {
    arrivals: Vec<Arrival>,
}

/// A line: what a log says of one study. Whoever writes a log writes these.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Line {
    /// RFC 3339, as [`rfc3339`] writes it.
    pub complete_at: String,
    /// Who sent it.
    pub site: String,
    /// Its class.
    pub class: String,
    /// DICOM modality.
    pub modality: String,
    /// DICOM body part; empty: unknown.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub body_part: String,
    /// What AI said, 0 to 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probability: Option<f64>,
    /// What it turned out to be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub critical: Option<bool>,
    /// Minutes that reading it took, at most [`MAX_READING_MIN`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reading_min: Option<f64>,
}

impl Line {
    /// The line as JSON, without a line feed.
    ///
    /// # Panics
    /// Never: texts and numbers have a JSON form.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers have a JSON form")
    }
}

/// Which of a study's modalities a log has: of those that are read, as the engine has it, the one that is expected to take
/// longest; `None` where there is none.
#[must_use]
pub fn read_as(modalities: &[String], body_part: &str) -> Option<String> {
    // The site is of no matter for what is read.
    let site = SiteId::new("any").expect("a name");
    let needs = Needs::new(modalities, body_part, site, Vec::new());
    let prior = Prior::default();
    let minutes = |modality: &&String| prior.work(&Exam::new(modality, body_part)).minutes;
    // Of equals the first by name.
    needs.modalities().iter().rev().max_by_key(minutes).cloned()
}

/// A line that was read, with its instant.
pub(super) struct Read {
    pub at: i64,
    pub line: Line,
}

/// The lines of a log, each checked as far as it can be without a scenario.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Result<Read, LogError>> {
    let filled = text.lines().enumerate().filter(|(_, line)| !line.trim().is_empty());
    filled.enumerate().map(|(count, (number, line))| {
        let fail = |problem: String| LogError::Line { line: number + 1, problem };
        if count >= MAX_LINES {
            return Err(fail(format!("the log has more than {MAX_LINES} studies; replay fewer days")));
        }
        let line: Line = serde_json::from_str(line)
            .map_err(|error| fail(format!("{error}; docs/simulator.md shows the form")))?;
        let at = instant(&line.complete_at).ok_or_else(|| {
            fail(format!("`complete_at` is `{}`; write 2026-03-01T08:00:00Z", line.complete_at))
        })?;
        if line.probability.is_some_and(|p| !(0.0..=1.0).contains(&p)) {
            return Err(fail("`probability` must be from 0 to 1".to_owned()));
        }
        if line.reading_min.is_some_and(|minutes| !(0.0..=MAX_READING_MIN).contains(&minutes)) {
            return Err(fail(format!("`reading_min` must be from 0 to {MAX_READING_MIN}")));
        }
        Ok(Read { at, line })
    })
}

/// A log without a line.
pub(super) fn empty() -> LogError {
    LogError::Line { line: 1, problem: "the log has no study; give one JSON object a line".to_owned() }
}

impl Log {
    /// Reads a log for `scenario`, whose days become those of the log, all of them measured, and one to finish.
    ///
    /// # Errors
    /// The first line that is wrong; else everything that the scenario lacks, and then it is as it was.
    pub fn parse(text: &str, scenario: &mut Scenario) -> Result<Self, LogError> {
        let mut arrivals = Vec::new();
        let mut missing = Missing::default();
        for read in lines(text) {
            arrivals.extend(arrival(&read?, scenario, &mut missing));
        }
        if missing != Missing::default() {
            return Err(LogError::Missing { scenario: scenario.name.clone(), missing: Box::new(missing) });
        }
        let first = arrivals.iter().map(|arrival| arrival.at.div_euclid(DAY)).min().ok_or_else(empty)?;
        for arrival in &mut arrivals {
            arrival.at -= first * DAY;
        }
        arrivals.sort_by_key(|arrival| arrival.at);
        let last = arrivals.last().map_or(0, |arrival| arrival.at / DAY);
        let days = u32::try_from(last + 1).ok().filter(|days| i64::from(*days) <= MAX_DAYS);
        let days = days.ok_or_else(|| LogError::Line {
            line: 1,
            problem: format!("the log spans {} days; replay at most {MAX_DAYS}", last + 1),
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

/// The arrival of a line; `None` where the scenario lacks something of it.
fn arrival(read: &Read, scenario: &Scenario, missing: &mut Missing) -> Option<Arrival> {
    let Read { line, at } = read;
    let index = |place: usize| u8::try_from(place).expect("at most 255 entries");
    let site = scenario.sites.iter().position(|site| site.name == line.site);
    let class = scenario.classes.iter().position(|class| class.name == line.class);
    let category = category(line, scenario);
    let mut lacks = |names: fn(&mut Missing) -> &mut BTreeSet<String>, found: Option<usize>, name: &str| {
        if found.is_none() && !names(missing).contains(name) {
            names(missing).insert(name.to_owned());
        }
    };
    lacks(|missing| &mut missing.sites, site, &line.site);
    lacks(|missing| &mut missing.classes, class, &line.class);
    lacks(|missing| &mut missing.modalities, category, &line.modality);
    #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "at most a day")]
    let reading = line.reading_min.map(|minutes| ((minutes * MINUTE as f64) as i64).max(1));
    Some(Arrival {
        at: *at,
        site: index(site?),
        class: Some(index(class?)),
        category: Some(index(category?)),
        critical: line.critical,
        probability: line.probability,
        reading,
    })
}

/// The category of the line's modality and body part; else the modality's category of no body part, else its first.
fn category(line: &Line, scenario: &Scenario) -> Option<usize> {
    let of = |body_part: &str| {
        let same = |c: &super::scenario::Category| c.modality == line.modality && c.body_part == body_part;
        scenario.categories.iter().position(same)
    };
    let any = || scenario.categories.iter().position(|c| c.modality == line.modality);
    of(&line.body_part).or_else(|| of("")).or_else(any)
}

/// Microseconds since 1970 of an instant of RFC 3339, as `2026-03-01T08:00:00Z`, `2026-03-01T11:00:00+03:00`, or with a
/// fraction; `None` where it is none: a date that there is not, or a time that no clock shows. Leap seconds are none.
#[must_use]
pub fn instant(text: &str) -> Option<i64> {
    let (local, ahead) = zone(text)?;
    let (whole, fraction) = local.split_once('.').unwrap_or((local, "0"));
    let number = |from: usize, to: usize| whole.get(from..to)?.parse::<i64>().ok();
    let (year, month, day) = (number(0, 4)?, number(5, 7)?, number(8, 10)?);
    let (hour, minute, second) = (number(11, 13)?, number(14, 16)?, number(17, 19)?);
    if year < 1970 || fraction.is_empty() || !digits(fraction) {
        return None;
    }
    let micros: i64 = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
    // Days since 1970 in the proleptic Gregorian calendar, the year beginning in March.
    let (y, m) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = 365 * y + y / 4 - y / 100 + y / 400 + (153 * m + 2) / 5 + day - 1 - 719_468;
    let at = days * DAY + hour * HOUR + minute * MINUTE + second * MINUTE / 60;
    // The 30th of February is another day's name, and so is whatever else is not written as RFC 3339 has it.
    (rfc3339(at).strip_suffix('Z') == Some(whole)).then_some(at + micros - ahead)
}

fn digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_digit())
}

/// The local time of an instant, and how far its clock is before UTC.
fn zone(text: &str) -> Option<(&str, i64)> {
    if let Some(local) = text.strip_suffix('Z') {
        return Some((local, 0));
    }
    let (local, offset) = text.split_at_checked(text.len().checked_sub(6)?)?;
    let (hour, minute) = offset.get(1..)?.split_once(':').filter(|(hour, _)| hour.len() == 2)?;
    if !digits(hour) || !digits(minute) {
        return None;
    }
    let (hour, minute): (u8, u8) = (hour.parse().ok()?, minute.parse().ok()?);
    let ahead = i64::from(hour) * HOUR + i64::from(minute) * MINUTE;
    match offset.as_bytes().first()? {
        b'+' if hour < 24 && minute < 60 => Some((local, ahead)),
        b'-' if hour < 24 && minute < 60 => Some((local, -ahead)),
        _ => None,
    }
}

/// An instant, microseconds since 1970, in RFC 3339 in UTC to the second below; the inverse of [`instant`] otherwise.
#[must_use]
pub fn rfc3339(at: i64) -> String {
    let (days, second) = (at.div_euclid(DAY), at.rem_euclid(DAY) / (MINUTE / 60));
    // The proleptic Gregorian calendar in years that begin in March, and eras of 400 years.
    let (era, day) = ((days + 719_468).div_euclid(146_097), (days + 719_468).rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (year, month) = (era * 400 + year + month / 10, if month < 10 { month + 3 } else { month - 9 });
    let (hour, minute) = (second / 3600, second / 60 % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{:02}Z", second % 60)
}

#[cfg(test)]
#[path = "replay_tests.rs"]
mod tests;
