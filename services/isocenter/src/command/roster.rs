//! What is said of a reader beside skills, sites and pools: grade, licences, working hours, share.

use anyhow::Result;
use clap::{Args, ValueEnum};
use isocenter_domain::record::roster::Date;
use isocenter_wire::v1::{Break, Hours, Licence, Reader, ReaderGrade, Roster, RosterException, Shift};

use crate::output::Usage;

/// The days as they are written, Monday first.
const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];

/// The options of a reader that say who they are and when they work.
#[derive(Args, Debug)]
pub(super) struct Person {
    /// Whether the reader's signature is final.
    #[arg(long, default_value = "attending")]
    grade: Grade,
    /// A licence: JURISDICTION, or JURISDICTION:YYYY-MM-DD, the last day (UTC) on which it holds. May be repeated.
    #[arg(long, value_name = "JURISDICTION[:DATE]")]
    licence: Vec<String>,
    /// The reader may read children.
    #[arg(long)]
    paediatric: bool,
    /// The site whose studies the reader is preferred for.
    #[arg(long, value_name = "SITE", default_value = "")]
    home: String,
    /// The zone in which shifts are local, e.g. Asia/Vladivostok. Without shifts the reader works whenever connected.
    #[arg(long, value_name = "ZONE")]
    time_zone: Option<String>,
    /// A weekly shift with its breaks: DAYS@FROM-TO[/FROM-TO]..., e.g. mon-fri@08:00-16:00/12:00-12:45. May be repeated.
    #[arg(long, value_name = "SHIFT", requires = "time_zone")]
    shift: Vec<String>,
    /// A date with hours of its own: DATE=off or DATE=FROM-TO[/FROM-TO]..., e.g. 2026-12-31=08:00-12:00. May be repeated.
    #[arg(long, value_name = "DATE=HOURS", requires = "time_zone")]
    date: Vec<String>,
    /// The share of work beside a full-time colleague's, in percent.
    #[arg(long, value_name = "PERCENT", default_value_t = 100)]
    target: u32,
    /// Points (relative value units) after which the reader gets nothing more in one shift; 0: no such bound.
    #[arg(long, value_name = "POINTS", default_value_t = 0.0)]
    capacity: f64,
    /// A patient whom the reader must not read, by reference as records have it. May be repeated.
    #[arg(long, value_name = "REFERENCE")]
    conflict_patient: Vec<String>,
    /// A site whose studies the reader must not read. May be repeated.
    #[arg(long, value_name = "SITE")]
    conflict_site: Vec<String>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Grade {
    /// In training: signs preliminary reports.
    Resident,
    /// Signs final reports.
    Attending,
}

impl Person {
    /// The reader with what these options say.
    pub fn fill(self, reader: Reader) -> Result<Reader> {
        let grade = match self.grade {
            Grade::Resident => ReaderGrade::Resident,
            Grade::Attending => ReaderGrade::Attending,
        };
        let roster = match self.time_zone {
            None => None,
            Some(time_zone) => Some(Roster {
                time_zone,
                shifts: self.shift.iter().map(|text| shift(text)).collect::<Result<_>>()?,
                exceptions: self.date.iter().map(|text| exception(text)).collect::<Result<_>>()?,
            }),
        };
        Ok(Reader {
            grade: grade.into(),
            licences: self.licence.iter().map(|text| licence(text)).collect::<Result<_>>()?,
            paediatric: self.paediatric,
            home_site_id: self.home,
            roster,
            target_percent: self.target,
            capacity: self.capacity,
            conflict_patient_refs: self.conflict_patient,
            conflict_site_ids: self.conflict_site,
            ..reader
        })
    }
}

fn usage<T>(option: &str, text: &str, form: &str) -> Result<T> {
    Err(Usage(format!("--{option} {text}: write {form}")).into())
}

fn licence(text: &str) -> Result<Licence> {
    let (jurisdiction, last) = match text.split_once(':') {
        None => (text, None),
        Some((jurisdiction, date)) => match date.parse::<Date>() {
            Ok(date) => (jurisdiction, Some(date)),
            Err(e) => return usage("licence", text, &format!("JURISDICTION:YYYY-MM-DD; the {e}")),
        },
    };
    let valid_until = last.map(|date| isocenter_wire::timestamp(date.ends()));
    Ok(Licence { jurisdiction: jurisdiction.to_owned(), valid_until })
}

fn shift(text: &str) -> Result<Shift> {
    let form = "DAYS@FROM-TO[/FROM-TO]..., e.g. mon-fri@08:00-16:00/12:00-12:45";
    let Some((days, hours)) = text.split_once('@') else { return usage("shift", text, form) };
    let (Some(days), Some(hours)) = (self::days(days), self::hours(hours)) else {
        return usage("shift", text, form);
    };
    Ok(Shift { days, hours: Some(hours) })
}

fn exception(text: &str) -> Result<RosterException> {
    let form = "DATE=off or DATE=FROM-TO[/FROM-TO]..., e.g. 2026-12-31=08:00-12:00";
    let Some((date, rest)) = text.split_once('=') else { return usage("date", text, form) };
    let hours = match rest {
        "off" => Vec::new(),
        rest => match self::hours(rest) {
            Some(hours) => vec![hours],
            None => return usage("date", text, form),
        },
    };
    Ok(RosterException { date: date.to_owned(), hours })
}

/// `mon,wed-fri` as the numbers of the contract; none where it is no such list.
fn days(text: &str) -> Option<Vec<i32>> {
    let day = |name: &str| DAYS.iter().position(|known| name.eq_ignore_ascii_case(known));
    let mut days = Vec::new();
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last) = (day(first)?, day(last)?);
        // From Friday to Monday goes over Sunday.
        let count = (last + DAYS.len() - first) % DAYS.len() + 1;
        days.extend((first..first + count).map(|n| n % DAYS.len() + 1));
    }
    days.sort_unstable();
    days.dedup();
    days.into_iter().map(|day| i32::try_from(day).ok()).collect()
}

fn hours(text: &str) -> Option<Hours> {
    let mut spans = text.split('/').map(|span| span.split_once('-'));
    let (start, end) = spans.next()??;
    let pause = |span: Option<(&str, &str)>| {
        let (start, end) = span?;
        Some(Break { start: start.to_owned(), end: end.to_owned() })
    };
    Some(Hours {
        start: start.to_owned(),
        end: end.to_owned(),
        breaks: spans.map(pause).collect::<Option<_>>()?,
    })
}

/// A roster in one line, for the list of readers.
pub(super) fn short(roster: &Roster) -> String {
    let shift = |shift: &Shift| {
        let days = shift.days.iter().filter_map(|day| DAYS.get(usize::try_from(day - 1).ok()?));
        let hours = shift.hours.as_ref().map(|h| format!("{}-{}", h.start, h.end)).unwrap_or_default();
        format!("{}@{hours}", days.copied().collect::<Vec<_>>().join(","))
    };
    let shifts: Vec<String> = roster.shifts.iter().map(shift).collect();
    format!("{} {}", shifts.join(" "), roster.time_zone).trim().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shifts_are_read_as_they_are_written() {
        let night = shift("fri-mon,wed@20:00-08:00/00:30-01:15").unwrap();
        assert_eq!(night.days, [1, 3, 5, 6, 7]);
        let hours = night.hours.clone().unwrap();
        assert_eq!((hours.start.as_str(), hours.end.as_str(), hours.breaks.len()), ("20:00", "08:00", 1));
        let roster = Roster { time_zone: "UTC".into(), shifts: vec![night], exceptions: Vec::new() };
        assert_eq!(short(&roster), "mon,wed,fri,sat,sun@20:00-08:00 UTC");
        for wrong in ["mon-fri", "mo@08:00-16:00", "mon@08:00", "@08:00-16:00", "mon@08:00-16:00/12"] {
            assert!(shift(wrong).is_err(), "{wrong}");
        }
        assert!(exception("2026-12-31=off").unwrap().hours.is_empty());
        assert!(exception("2026-12-31").is_err());
    }

    #[test]
    fn a_licence_holds_through_its_last_day() {
        let last = licence("ru-mow:1970-01-31").unwrap();
        assert_eq!(last.valid_until.unwrap().seconds, 31 * 86_400);
        assert_eq!(licence("kz").unwrap().valid_until, None);
        assert!(licence("ru:2026-02-29").is_err());
    }
}
