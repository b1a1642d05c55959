//! Rosters in instants: changes of the clocks in several zones, and rosters that cannot be.

use std::time::Duration;

use isocenter_domain::{
    Time,
    record::roster::{DateException, Hours, Roster, Shift, Span, Weekdays},
};
use isocenter_policy::roster::{Duty, Timetable};
use jiff::Timestamp;
use proptest::prelude::*;

const MONDAY: u8 = 1;
const SATURDAY: u8 = 1 << 5;
const SUNDAY: u8 = 1 << 6;
const WORKDAYS: u8 = 0b1_1111;

fn at(text: &str) -> Time {
    Time(text.parse::<Timestamp>().unwrap().as_microsecond())
}

fn span(text: &str) -> Span {
    let (start, end) = text.split_once('-').unwrap();
    Span { start: start.parse().unwrap(), end: end.parse().unwrap() }
}

fn hours(text: &str, breaks: &[&str]) -> Hours {
    Hours { span: span(text), breaks: breaks.iter().map(|text| span(text)).collect() }
}

fn shift(days: u8, text: &str) -> Shift {
    Shift { days: Weekdays::from_bits(days).unwrap(), hours: hours(text, &[]) }
}

fn roster(zone: &str, shifts: Vec<Shift>) -> Roster {
    Roster { zone: zone.parse().unwrap(), shifts, exceptions: Vec::new() }
}

fn table(roster: &Roster) -> Timetable {
    Timetable::of(roster).unwrap()
}

fn error(roster: &Roster) -> String {
    Timetable::of(roster).unwrap_err().to_string()
}

const fn hour(n: u64) -> Duration {
    Duration::from_secs(n * 3_600)
}

#[test]
fn a_shift_over_a_change_of_the_clocks_is_as_long_as_it_is() {
    let half = Duration::from_secs(1_800);
    for (zone, days, text, start, end, lasts) in [
        ("Europe/Berlin", SATURDAY, "22:00-06:00", "2026-03-28T21:00:00Z", "2026-03-29T04:00:00Z", hour(7)),
        ("Europe/Berlin", SATURDAY, "22:00-06:00", "2026-10-24T20:00:00Z", "2026-10-25T05:00:00Z", hour(9)),
        // It begins at a time that the change skips.
        (
            "America/New_York",
            SUNDAY,
            "02:30-10:00",
            "2026-03-08T07:30:00Z",
            "2026-03-08T14:00:00Z",
            hour(6) + half,
        ),
        // It begins at a time that comes twice.
        (
            "America/New_York",
            SUNDAY,
            "01:30-09:00",
            "2026-11-01T05:30:00Z",
            "2026-11-01T14:00:00Z",
            hour(8) + half,
        ),
        (
            "Australia/Lord_Howe",
            SATURDAY,
            "20:00-04:00",
            "2026-10-03T09:30:00Z",
            "2026-10-03T17:00:00Z",
            hour(7) + half,
        ),
        (
            "Asia/Vladivostok",
            SATURDAY,
            "20:00-08:00",
            "2026-03-28T10:00:00Z",
            "2026-03-28T22:00:00Z",
            hour(12),
        ),
        (
            "Pacific/Kiritimati",
            SATURDAY,
            "00:00-24:00",
            "2026-03-27T10:00:00Z",
            "2026-03-28T10:00:00Z",
            hour(24),
        ),
    ] {
        let table = table(&roster(zone, vec![shift(days, text)]));
        let (since, until) = (at(start), at(end));
        let second = Duration::from_secs(1);
        assert_eq!(table.at(since.minus(second)).duty, Duty::Off, "{zone} {start}");
        assert_eq!(table.at(since.minus(second)).until, since, "{zone} {start}");
        assert_eq!(table.at(since).duty, Duty::On { since, until }, "{zone} {start}");
        assert_eq!(table.at(until.minus(second)).until, until);
        assert_eq!(table.at(until).duty, Duty::Off, "{zone} {start}");
        assert_eq!(table.works(since.minus(hour(24)), until.plus(hour(24))), lasts, "{zone} {start}");
    }
}

#[test]
fn shifts_that_meet_are_one_and_breaks_are_told() {
    let mut day = shift(WORKDAYS, "08:00-16:00");
    day.hours.breaks = vec![span("12:00-12:45")];
    let mut night = shift(WORKDAYS, "16:00-00:30");
    night.hours.breaks = vec![span("23:50-00:10")];
    let table = table(&roster("Europe/Moscow", vec![night, day]));
    let (since, until) = (at("2026-11-23T05:00:00Z"), at("2026-11-23T21:30:00Z"));
    let resolved = table.at(at("2026-11-23T08:00:00Z"));
    assert_eq!((resolved.duty, resolved.until), (Duty::On { since, until }, at("2026-11-23T09:00:00Z")));
    let pause = Duty::Break { since, until: at("2026-11-23T09:45:00Z") };
    assert_eq!(table.at(at("2026-11-23T09:00:00Z")).duty, pause);
    assert_eq!(table.at(at("2026-11-23T09:45:00Z")).duty, Duty::On { since, until });
    let pause = Duty::Break { since, until: at("2026-11-23T21:10:00Z") };
    assert_eq!(table.at(at("2026-11-23T21:00:00Z")).duty, pause);
    assert_eq!(
        table.works(since, until),
        hour(16) + Duration::from_secs(1_800) - Duration::from_secs(65 * 60)
    );
}

#[test]
fn a_date_of_its_own_replaces_the_plan() {
    let mut plan = roster("Asia/Tokyo", vec![shift(WORKDAYS, "09:00-17:00")]);
    plan.exceptions = vec![
        DateException { date: "2026-11-23".parse().unwrap(), hours: Vec::new() },
        DateException { date: "2026-11-28".parse().unwrap(), hours: vec![hours("22:00-02:00", &[])] },
    ];
    let table = table(&plan);
    let off = table.at(at("2026-11-23T03:00:00Z"));
    assert_eq!((off.duty, off.until), (Duty::Off, at("2026-11-24T00:00:00Z")));
    assert!(matches!(table.at(at("2026-11-28T16:59:59Z")).duty, Duty::On { .. }), "a Saturday night");
    assert_eq!(table.at(at("2026-11-28T17:00:00Z")).duty, Duty::Off);
}

#[test]
fn a_reader_without_shifts_is_off_and_looked_at_again() {
    let table = table(&roster("UTC", Vec::new()));
    let now = at("2026-11-23T03:00:00Z");
    let resolved = table.at(now);
    assert_eq!(resolved.duty, Duty::Off);
    assert!(resolved.until > now);
    assert_eq!(table.at(Time(i64::MAX)).duty, Duty::Off, "and no time is too far");
    assert_eq!(table.at(Time(i64::MIN)).duty, Duty::Off);
}

#[test]
fn impossible_rosters_are_refused_by_field() {
    let plan = |shifts| roster("Europe/Moscow", shifts);
    let with_break = |text: &str, breaks: &[&str]| {
        let days = Weekdays::from_bits(MONDAY).unwrap();
        plan(vec![Shift { days, hours: hours(text, breaks) }])
    };
    for (roster, wanted) in [
        (roster("Europe/Moskva", Vec::new()), "time_zone is not in the IANA time zone database"),
        (plan(vec![shift(MONDAY, "08:00-08:00")]), "shifts[0].hours.end is the start, 08:00"),
        (plan(vec![shift(MONDAY, "24:00-08:00")]), "shifts[0].hours.start is 24:00"),
        (
            plan(vec![shift(MONDAY, "08:00-16:00"), shift(MONDAY | 2, "15:59-20:00")]),
            "shifts[1] overlaps shifts[0]",
        ),
        (
            plan(vec![shift(SUNDAY, "20:00-08:00"), shift(MONDAY, "07:00-15:00")]),
            "shifts[1] overlaps shifts[0]",
        ),
        (plan(vec![shift(MONDAY, "08:00-09:00"); 15]), "shifts has 15 entries; at most 14 are kept"),
        (
            with_break("08:00-16:00", &["15:30-16:30"]),
            "shifts[0].hours.breaks[0] 15:30-16:30 is not within its shift",
        ),
        (
            with_break("08:00-16:00", &["07:30-08:30"]),
            "shifts[0].hours.breaks[0] 07:30-08:30 is not within its shift",
        ),
        (
            with_break("20:00-08:00", &["01:00-02:00", "01:30-03:00"]),
            "shifts[0].hours.breaks[1] overlaps the break",
        ),
        (with_break("20:00-08:00", &["01:00-01:00"]), "shifts[0].hours.breaks[0].end is the start"),
    ] {
        let found = error(&roster);
        assert!(found.starts_with(wanted), "{found}\n not {wanted}");
    }
    let mut twice = plan(Vec::new());
    let off = DateException { date: "2026-12-31".parse().unwrap(), hours: Vec::new() };
    twice.exceptions = vec![off.clone(), off];
    assert_eq!(error(&twice), "exceptions[1].date 2026-12-31 stands there twice");
    let both = vec![hours("08:00-16:00", &[]), hours("12:00-13:00", &[])];
    twice.exceptions = vec![DateException { date: "2026-12-31".parse().unwrap(), hours: both }];
    assert!(error(&twice).starts_with("exceptions[0].hours[1] overlaps exceptions[0].hours[0]"));
}

proptest! {
    /// What is told of now holds until the moment it is said to, and no duty lasts no time.
    #[test]
    fn a_duty_holds_until_it_is_said_to(
        zone in prop::sample::select(vec!["Europe/Berlin", "America/Sao_Paulo", "Australia/Lord_Howe", "Asia/Tehran", "UTC"]),
        days in 1_u8..0x80, start in 0_u16..1_440, length in 1_u16..1_440, pause in 0_u16..1_440,
        now in 1_770_000_000_i64..1_830_000_000, later in 0.0_f64..1.0,
    ) {
        let time = |minutes: u16| isocenter_domain::record::roster::LocalTime::of(minutes % 1_440).unwrap();
        let span = Span { start: time(start), end: time(start + length) };
        let middle = Span { start: time(start + pause % length), end: time(start + pause % length + 1) };
        let breaks = if pause % 3 == 0 { vec![middle] } else { Vec::new() };
        let plan = roster(zone, vec![Shift { days: Weekdays::from_bits(days).unwrap(), hours: Hours { span, breaks } }]);
        let table = table(&plan);
        let now = Time(now * 1_000_000);
        let first = table.at(now);
        prop_assert!(first.until > now);
        #[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, reason = "any moment between will do")]
        let between = Time(now.0 + ((first.until.0 - now.0 - 1) as f64 * later) as i64);
        prop_assert_eq!(table.at(between).duty, first.duty);
        let works = table.works(now, first.until);
        let expected = if matches!(first.duty, Duty::On { .. }) { first.until.since(now) } else { Duration::ZERO };
        prop_assert_eq!(works, expected);
    }
}
