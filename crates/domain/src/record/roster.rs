//! When a reader works: a weekly plan in the local time of one zone, and the single dates that differ from it.
//!
//! A roster is data of the registry. What it means in instants, daylight saving included, `isocenter-policy` resolves: this
//! crate knows no time zones.

use std::{fmt, str::FromStr};

use crate::{
    id::{InvalidId, TimeZoneId},
    time::Time,
};

/// A reader's working hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Roster {
    /// The zone in which every time of the roster is local.
    pub zone: TimeZoneId,
    /// The weekly plan, at most [`Roster::MAX_SHIFTS`].
    pub shifts: Vec<Shift>,
    /// Dates on which the weekly plan does not hold, at most [`Roster::MAX_EXCEPTIONS`].
    pub exceptions: Vec<DateException>,
}

impl Roster {
    /// The most shifts of a weekly plan.
    pub const MAX_SHIFTS: usize = 14;
    /// The most breaks of one shift.
    pub const MAX_BREAKS: usize = 4;
    /// The most dates that differ from the plan; past ones are for the operator to take out.
    pub const MAX_EXCEPTIONS: usize = 40;
}

/// A shift of the weekly plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shift {
    /// The days on which it begins.
    pub days: Weekdays,
    /// Its hours.
    pub hours: Hours,
}

/// A date that has hours of its own, whatever the weekly plan says of the shifts that begin on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DateException {
    /// The local date.
    pub date: Date,
    /// The shifts that begin on it; none: a day off.
    pub hours: Vec<Hours>,
}

/// From when to when, with breaks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hours {
    /// The span; one that ends no later than it starts goes on after midnight.
    pub span: Span,
    /// Breaks within it.
    pub breaks: Vec<Span>,
}

/// Two local times. An end that is not after the start is on the next day.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Span {
    /// When it begins.
    pub start: LocalTime,
    /// When it ends; 24:00 is the day's own midnight.
    pub end: LocalTime,
}

/// A time of day, in minutes since local midnight, 0 to 1440. Text: `HH:MM`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LocalTime(u16);

impl LocalTime {
    /// Minutes of a day.
    pub const DAY: u16 = 24 * 60;

    /// The time so many minutes after midnight.
    ///
    /// # Errors
    /// More minutes than a day has.
    pub fn of(minutes: u16) -> Result<Self, InvalidId> {
        if minutes <= Self::DAY { Ok(Self(minutes)) } else { Err(not_a_time("is after 24:00")) }
    }

    /// Minutes since midnight.
    #[must_use]
    pub const fn minutes(self) -> u16 {
        self.0
    }
}

const fn not_a_time(why: &'static str) -> InvalidId {
    InvalidId { what: "local time", why }
}

impl fmt::Display for LocalTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.0 / 60, self.0 % 60)
    }
}

impl FromStr for LocalTime {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let digits = |part: &str| part.len() == 2 && part.bytes().all(|b| b.is_ascii_digit());
        let Some((hours, minutes)) = text.split_once(':').filter(|(h, m)| digits(h) && digits(m)) else {
            return Err(not_a_time("is not HH:MM"));
        };
        let number = |part: &str| part.parse::<u16>().expect("two digits are a number");
        if number(minutes) > 59 {
            return Err(not_a_time("has more than 59 minutes"));
        }
        Self::of(number(hours) * 60 + number(minutes))
    }
}

/// A set of days of the week.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Weekdays(u8);

impl Weekdays {
    /// Monday to Sunday.
    pub const ALL: Self = Self(0x7f);

    /// The set whose bit 0 is Monday and bit 6 is Sunday.
    ///
    /// # Errors
    /// No day, or a bit that is no day.
    pub const fn from_bits(bits: u8) -> Result<Self, InvalidId> {
        let why = match bits {
            0 => "names no day",
            1..=0x7f => return Ok(Self(bits)),
            0x80.. => "names a day that no week has",
        };
        Err(InvalidId { what: "days of a shift", why })
    }

    /// As [`Weekdays::from_bits`] takes it.
    #[must_use]
    pub const fn bits(self) -> u8 {
        self.0
    }

    /// Whether the set has a day; 0 is Monday, 6 is Sunday.
    #[must_use]
    pub const fn has(self, day: u8) -> bool {
        day < 7 && self.0 & (1 << day) != 0
    }
}

/// A date of the Gregorian calendar. Text: `YYYY-MM-DD`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Date {
    year: u16,
    month: u8,
    day: u8,
}

impl Date {
    /// The date.
    ///
    /// # Errors
    /// There is no such date, or it is not in the years 1970 to 9998.
    pub fn of(year: u16, month: u8, day: u8) -> Result<Self, InvalidId> {
        let leap = year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
        let days = match month {
            1 | 3 | 5 | 7 | 8 | 10 | 12 => 31,
            4 | 6 | 9 | 11 => 30,
            2 if leap => 29,
            2 => 28,
            0 | 13.. => 0,
        };
        if (1970..=9998).contains(&year) && (1..=days).contains(&day) {
            Ok(Self { year, month, day })
        } else {
            Err(InvalidId { what: "date", why: "does not exist" })
        }
    }

    /// When the date is over, by the calendar of UTC.
    #[must_use]
    pub fn ends(self) -> Time {
        // Years counted from March end with the leap day.
        let (year, month) = (i64::from(self.year), i64::from(self.month));
        let (year, month) = if month < 3 { (year - 1, month + 9) } else { (year, month - 3) };
        let days =
            365 * year + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + i64::from(self.day);
        /// 1970-01-01, counted so.
        const EPOCH: i64 = 719_469;
        Time((days + 1 - EPOCH) * 86_400_000_000)
    }

    /// Year, month and day.
    #[must_use]
    pub const fn parts(self) -> (u16, u8, u8) {
        (self.year, self.month, self.day)
    }
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }
}

impl FromStr for Date {
    type Err = InvalidId;
    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let shape = InvalidId { what: "date", why: "is not YYYY-MM-DD" };
        let plain = |part: &str, len| part.len() == len && part.bytes().all(|b| b.is_ascii_digit());
        let parts: Vec<&str> = text.split('-').collect();
        match parts.as_slice() {
            [y, m, d] if plain(y, 4) && plain(m, 2) && plain(d, 2) => {
                let expected = "digits are a number";
                Self::of(y.parse().expect(expected), m.parse().expect(expected), d.parse().expect(expected))
            }
            _ => Err(shape),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_and_dates_that_do_not_exist_are_refused() {
        assert_eq!("24:00".parse::<LocalTime>().unwrap().minutes(), 1440);
        assert_eq!("07:05".parse::<LocalTime>().unwrap().to_string(), "07:05");
        for text in ["25:00", "24:01", "7:05", "07:60", "0705", "", "+7:00", "-1:00"] {
            assert!(text.parse::<LocalTime>().is_err(), "{text}");
        }
        assert_eq!("2028-02-29".parse::<Date>().unwrap().to_string(), "2028-02-29");
        for text in
            ["2027-02-29", "2026-13-01", "2026-00-01", "2026-04-31", "26-01-01", "2026-1-1", "+026-01-01"]
        {
            assert!(text.parse::<Date>().is_err(), "{text}");
        }
        for (date, days) in
            [("1970-01-01", 1), ("1970-03-01", 60), ("2000-02-29", 11_017), ("2026-11-22", 20_780)]
        {
            assert_eq!(date.parse::<Date>().unwrap().ends(), Time(days * 86_400_000_000), "{date}");
        }
        assert!(Weekdays::from_bits(0).is_err() && Weekdays::from_bits(0x80).is_err());
        assert!(Weekdays::from_bits(0b100_0001).unwrap().has(6));
    }
}
