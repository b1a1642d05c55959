//! What a roster means in instants.
//!
//! The zones are those of the IANA database that this program carries, so that every replica, whatever its host has
//! installed, resolves a roster alike. A local time that a change of the clocks skips is as much later as they are moved;
//! one that comes twice is the first of the two. So where one shift ends as another begins, they do so on such days too.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use isocenter_domain::{
    Time,
    id::TimeZoneId,
    record::roster::{Date, Hours, LocalTime, Roster, Span},
};
use jiff::{
    Timestamp, ToSpan as _,
    civil::{Date as Civil, DateTime},
    tz::{TimeZone, TimeZoneDatabase},
};

/// The database, parsed once.
static ZONES: LazyLock<TimeZoneDatabase> = LazyLock::new(TimeZoneDatabase::bundled);

const DAY: i32 = LocalTime::DAY as i32;
const WEEK: i32 = 7 * DAY;
/// How far ahead a duty is looked for. A reader without a shift in that time is looked at again after it.
const AHEAD_DAYS: i64 = 8;

/// What is wrong with a roster, and where.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct RosterError {
    /// The field, as the public contract spells it, from the roster on: `shifts[2].hours.end`.
    pub field: String,
    /// What is wrong with it and what to do.
    pub why: String,
}

fn wrong<T>(field: impl Into<String>, why: impl Into<String>) -> Result<T, RosterError> {
    Err(RosterError { field: field.into(), why: why.into() })
}

/// Whether the database has the zone.
#[must_use]
pub fn knows(zone: &TimeZoneId) -> bool {
    ZONES.get(zone.as_str()).is_ok()
}

/// Whether a reader works at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Duty {
    /// No.
    Off,
    /// Yes.
    On {
        /// Since when, shifts that follow one another without a gap being one.
        since: Time,
        /// Until when.
        until: Time,
    },
    /// In a shift's break.
    Break {
        /// When the shift began.
        since: Time,
        /// When the break ends.
        until: Time,
    },
}

/// A duty, and how long it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resolved {
    /// Whether the reader works.
    pub duty: Duty,
    /// When it was asked for.
    pub from: Time,
    /// Until when that does not change; at most some days ahead.
    pub until: Time,
}

/// A roster that was checked.
#[derive(Clone, Debug)]
pub struct Timetable {
    zone: TimeZone,
    roster: Roster,
    exceptions: BTreeMap<Date, Vec<Hours>>,
}

/// A stretch of time, and the breaks in it.
struct Stretch {
    start: Time,
    end: Time,
}

impl Timetable {
    /// Checks a roster.
    ///
    /// # Errors
    /// The first thing that is wrong: an unknown zone, a shift that does not last or overlaps another, a break outside its
    /// shift, a date that stands twice, more than the roster's limits.
    pub fn of(roster: &Roster) -> Result<Self, RosterError> {
        let Ok(zone) = ZONES.get(roster.zone.as_str()) else {
            return wrong("time_zone", "is not in the IANA time zone database; write it like Europe/Moscow");
        };
        limit(roster.shifts.len(), Roster::MAX_SHIFTS, "shifts")?;
        limit(roster.exceptions.len(), Roster::MAX_EXCEPTIONS, "exceptions")?;
        let mut week = Vec::new();
        for (n, shift) in roster.shifts.iter().enumerate() {
            let field = format!("shifts[{n}]");
            check(&shift.hours, &format!("{field}.hours"))?;
            for day in (0..7).filter(|day| shift.days.has(*day)) {
                let start = i32::from(day) * DAY + minutes(shift.hours.span.start);
                week.push((start, start + length(shift.hours.span), field.clone()));
            }
        }
        week.sort();
        if let Some((first, _, _)) = week.first().cloned() {
            // Sunday night's shift meets Monday's.
            week.push((first + WEEK, first + WEEK, week[0].2.clone()));
        }
        apart(&week)?;
        let mut exceptions = BTreeMap::new();
        for (n, exception) in roster.exceptions.iter().enumerate() {
            let field = format!("exceptions[{n}]");
            limit(exception.hours.len(), Roster::MAX_BREAKS, &format!("{field}.hours"))?;
            let mut day = Vec::new();
            for (k, hours) in exception.hours.iter().enumerate() {
                let field = format!("{field}.hours[{k}]");
                check(hours, &field)?;
                let start = minutes(hours.span.start);
                day.push((start, start + length(hours.span), field));
            }
            day.sort();
            apart(&day)?;
            if exceptions.insert(exception.date, exception.hours.clone()).is_some() {
                return wrong(format!("{field}.date"), format!("{} stands there twice", exception.date));
            }
        }
        Ok(Self { zone, roster: roster.clone(), exceptions })
    }

    /// The duty at `now`.
    #[must_use]
    pub fn at(&self, now: Time) -> Resolved {
        let horizon = now.plus(Duration::from_secs(86_400 * (AHEAD_DAYS.unsigned_abs() - 1)));
        let (shifts, breaks) = self.stretches(now, horizon);
        let later = |times: &[Stretch]| times.iter().map(|t| t.start).find(|start| *start > now);
        let Some(shift) = shifts.iter().find(|s| s.start <= now && now < s.end) else {
            return Resolved {
                duty: Duty::Off,
                from: now,
                until: later(&shifts).unwrap_or(horizon).min(horizon),
            };
        };
        let since = shift.start;
        if let Some(pause) = breaks.iter().find(|b| b.start <= now && now < b.end) {
            let until = pause.end.min(shift.end);
            return Resolved { duty: Duty::Break { since, until }, from: now, until };
        }
        let until = later(&breaks).unwrap_or(shift.end).min(shift.end);
        Resolved { duty: Duty::On { since, until: shift.end }, from: now, until }
    }

    /// For how long the reader works between `from` and `until`, breaks left out.
    #[must_use]
    pub fn works(&self, from: Time, until: Time) -> Duration {
        let (shifts, breaks) = self.stretches(from, until);
        let within = |s: &Stretch| s.end.min(until).since(s.start.max(from));
        let sum = |times: &[Stretch]| times.iter().map(within).sum::<Duration>();
        sum(&shifts).saturating_sub(sum(&breaks))
    }

    /// Shifts and breaks that may touch `from..until`, in order, those that meet as one.
    fn stretches(&self, from: Time, until: Time) -> (Vec<Stretch>, Vec<Stretch>) {
        let (mut shifts, mut breaks) = (Vec::new(), Vec::new());
        let (Some(first), Some(last)) = (self.date(from), self.date(until)) else { return (shifts, breaks) };
        // A shift begins two days before it ends at the most, by the local calendar.
        let mut date = first.saturating_sub(2.days());
        let last = last.saturating_add(1.day());
        while date <= last {
            for hours in self.of_date(date) {
                let start = hours.span.start;
                let add = |to: &mut Vec<Stretch>, span: Span| {
                    let begins = minutes(start) + after(start, span.start);
                    let ends = begins + length(span);
                    if let (Some(start), Some(end)) = (self.instant(date, begins), self.instant(date, ends)) {
                        to.push(Stretch { start, end });
                    }
                };
                add(&mut shifts, hours.span);
                hours.breaks.iter().for_each(|pause| add(&mut breaks, *pause));
            }
            let next = date.saturating_add(1.day());
            if next == date {
                break;
            }
            date = next;
        }
        (merged(shifts), merged(breaks))
    }

    fn of_date(&self, date: Civil) -> Vec<&Hours> {
        let known = u16::try_from(date.year()).ok();
        let key = known
            .and_then(|year| Date::of(year, date.month().unsigned_abs(), date.day().unsigned_abs()).ok());
        if let Some(hours) = key.and_then(|date| self.exceptions.get(&date)) {
            return hours.iter().collect();
        }
        let day = date.weekday().to_monday_zero_offset().unsigned_abs();
        self.roster.shifts.iter().filter(|shift| shift.days.has(day)).map(|shift| &shift.hours).collect()
    }

    fn date(&self, at: Time) -> Option<Civil> {
        Some(self.zone.to_datetime(Timestamp::from_microsecond(at.0).ok()?).date())
    }

    /// The instant so many minutes after a date's midnight, by the wall clock.
    fn instant(&self, date: Civil, minutes: i32) -> Option<Time> {
        let date = date.saturating_add((minutes / DAY).days());
        let (hour, minute) = (minutes % DAY / 60, minutes % 60);
        let local: DateTime = date.at(i8::try_from(hour).ok()?, i8::try_from(minute).ok()?, 0, 0);
        Some(Time(self.zone.to_timestamp(local).ok()?.as_microsecond()))
    }
}

fn limit(count: usize, most: usize, field: &str) -> Result<(), RosterError> {
    if count <= most { Ok(()) } else { wrong(field, format!("has {count} entries; at most {most} are kept")) }
}

const fn minutes(time: LocalTime) -> i32 {
    time.minutes() as i32
}

/// How long after `start` the clock shows `time`.
const fn after(start: LocalTime, time: LocalTime) -> i32 {
    (minutes(time) - minutes(start)).rem_euclid(DAY)
}

/// How long a span lasts on a day without a change of the clocks.
const fn length(span: Span) -> i32 {
    if span.start.minutes() == 0 && span.end.minutes() == LocalTime::DAY {
        return DAY;
    }
    after(span.start, span.end)
}

/// Checks that hours last and that their breaks are within, in order.
fn check(hours: &Hours, field: &str) -> Result<(), RosterError> {
    lasts(hours.span, field)?;
    limit(hours.breaks.len(), Roster::MAX_BREAKS, &format!("{field}.breaks"))?;
    let whole = length(hours.span);
    let mut free = 0;
    for (n, pause) in hours.breaks.iter().enumerate() {
        let field = format!("{field}.breaks[{n}]");
        lasts(*pause, &field)?;
        let start = after(hours.span.start, pause.start);
        let end = start + length(*pause);
        if end > whole {
            return wrong(field, format!("{}-{} is not within its shift", pause.start, pause.end));
        }
        if start < free {
            return wrong(field, "overlaps the break before it; write breaks in order");
        }
        free = end;
    }
    Ok(())
}

fn lasts(span: Span, field: &str) -> Result<(), RosterError> {
    if span.start.minutes() == LocalTime::DAY {
        return wrong(format!("{field}.start"), "is 24:00; write 00:00 of the next day");
    }
    if length(span) == 0 {
        return wrong(
            format!("{field}.end"),
            format!("is the start, {}; write 00:00 to 24:00 for a whole day", span.start),
        );
    }
    Ok(())
}

/// Checks that spans, sorted, do not overlap.
fn apart(sorted: &[(i32, i32, String)]) -> Result<(), RosterError> {
    for (before, next) in sorted.iter().zip(sorted.iter().skip(1)) {
        if next.0 < before.1 {
            return wrong(next.2.clone(), format!("overlaps {}; end one before the other begins", before.2));
        }
    }
    Ok(())
}

/// In order, with those that meet or overlap as one.
fn merged(mut times: Vec<Stretch>) -> Vec<Stretch> {
    times.retain(|t| t.start < t.end);
    times.sort_by_key(|t| (t.start, t.end));
    let mut merged: Vec<Stretch> = Vec::with_capacity(times.len());
    for next in times {
        match merged.last_mut() {
            Some(last) if next.start <= last.end => last.end = last.end.max(next.end),
            Some(_) | None => merged.push(next),
        }
    }
    merged
}
