//! Registered readers from and to the wire.

use isocenter_domain::{
    Time,
    record::{
        registry::{Conflicts, Grade, Licence, Reader, Sites, Skill},
        roster::{DateException, Hours, LocalTime, Roster, Shift, Span, Weekdays},
    },
};
use isocenter_policy::roster::Timetable;
use isocenter_wire::{timestamp, v1};
use tonic::Status;

use super::{
    entry::{ANY, code, ids, optional, texts, wrong},
    id,
};

/// Points of one shift that nobody reads: a slip of the keyboard.
const MOST_POINTS: f64 = 10_000.0;
/// The least that a capacity may be, and what it is counted in.
const POINT_STEP: f64 = 0.1;
/// Two full-time shares are nobody's.
const MOST_PERCENT: u32 = 200;

/// The reader of a request.
///
/// # Errors
/// `INVALID_ARGUMENT` that names the first field that is wrong.
pub(super) fn checked(r: v1::Reader) -> Result<Reader, Status> {
    let roster = r.roster.as_ref().map(roster).transpose()?;
    Ok(Reader {
        skills: skills(&r.skills)?,
        sites: match r.site_ids.as_slice() {
            [any] if any == ANY => Sites::All,
            sites => Sites::Some(ids(sites, "entry.reader.site_ids")?),
        },
        pools: ids(&r.pool_ids, "entry.reader.pool_ids")?,
        grade: match v1::ReaderGrade::try_from(r.grade) {
            Ok(v1::ReaderGrade::Unspecified | v1::ReaderGrade::Attending) => Grade::Attending,
            Ok(v1::ReaderGrade::Resident) => Grade::Resident,
            Err(_) => return wrong("entry.reader.grade", "is not a value this version knows"),
        },
        licences: licences(&r.licences)?,
        paediatric: r.paediatric,
        home: optional(&r.home_site_id, "entry.reader.home_site_id")?,
        roster,
        share: share(r.target_percent)?,
        capacity: capacity(r.capacity)?,
        conflicts: conflicts(&r)?,
    })
}

fn skills(skills: &[v1::Skill]) -> Result<Vec<Skill>, Status> {
    if skills.is_empty() {
        return wrong(
            "entry.reader.skills",
            "is empty; name at least one modality and body part, `*` for any",
        );
    }
    let skill = |(i, skill): (usize, &v1::Skill)| {
        code(&skill.modality, || format!("entry.reader.skills[{i}].modality"))?;
        code(&skill.body_part, || format!("entry.reader.skills[{i}].body_part"))?;
        Ok(Skill { modality: skill.modality.clone(), body_part: skill.body_part.clone() })
    };
    skills.iter().enumerate().map(skill).collect()
}

fn limit(count: usize, field: &str) -> Result<(), Status> {
    if count <= Reader::MAX_ENTRIES {
        return Ok(());
    }
    wrong(field, format!("has {count} entries; at most {} are kept", Reader::MAX_ENTRIES))
}

/// An expired licence is taken: it is the operator's account of what was, and counts as none.
fn licences(licences: &[v1::Licence]) -> Result<Vec<Licence>, Status> {
    limit(licences.len(), "entry.reader.licences")?;
    let mut kept: Vec<Licence> = Vec::with_capacity(licences.len());
    for (i, licence) in licences.iter().enumerate() {
        let field = format!("entry.reader.licences[{i}]");
        let jurisdiction = id(&licence.jurisdiction, &format!("{field}.jurisdiction"))?;
        if kept.iter().any(|other| other.jurisdiction == jurisdiction) {
            return wrong(format!("{field}.jurisdiction"), "is in the list already");
        }
        let until = licence.valid_until.as_ref().map(|t| isocenter_wire::time(t, "valid_until")).transpose();
        let until = until.or_else(|e| wrong(format!("{field}.valid_until"), e.why))?;
        if until.is_some_and(|until| until <= Time::ZERO) {
            return wrong(format!("{field}.valid_until"), "is not after 1970-01-01");
        }
        kept.push(Licence { jurisdiction, until });
    }
    Ok(kept)
}

fn share(percent: u32) -> Result<Option<u32>, Status> {
    match percent {
        0 => Ok(None),
        1..=MOST_PERCENT => Ok(Some(percent * 10)),
        _ => {
            wrong("entry.reader.target_percent", format!("is more than {MOST_PERCENT}; a full share is 100"))
        }
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "within the bounds that are checked"
)]
fn capacity(points: f64) -> Result<Option<u32>, Status> {
    if points == 0.0 {
        return Ok(None);
    }
    if (POINT_STEP..=MOST_POINTS).contains(&points) {
        return Ok(Some((points * 1_000.0).round() as u32));
    }
    wrong("entry.reader.capacity", format!("is not from {POINT_STEP} to {MOST_POINTS} points; 0 is no bound"))
}

fn conflicts(r: &v1::Reader) -> Result<Conflicts, Status> {
    let field = "entry.reader.conflict_patient_refs";
    limit(r.conflict_patient_refs.len(), field)?;
    limit(r.conflict_site_ids.len(), "entry.reader.conflict_site_ids")?;
    let patient = |(i, text): (usize, &String)| match text.parse() {
        Ok(patient) => Ok(patient),
        // What was given may be an identity: it is not repeated.
        Err(_) => wrong(
            format!("{field}[{i}]"),
            "is not a reference of 26 base32 characters; never give a name here",
        ),
    };
    Ok(Conflicts {
        patients: r.conflict_patient_refs.iter().enumerate().map(patient).collect::<Result<_, Status>>()?,
        sites: ids(&r.conflict_site_ids, "entry.reader.conflict_site_ids")?,
    })
}

fn roster(r: &v1::Roster) -> Result<Roster, Status> {
    let at = "entry.reader.roster";
    let shift = |(i, shift): (usize, &v1::Shift)| {
        let field = format!("{at}.shifts[{i}]");
        let mut bits = 0;
        for day in &shift.days {
            match v1::Weekday::try_from(*day) {
                Ok(v1::Weekday::Unspecified) | Err(_) => {
                    return wrong(format!("{field}.days"), "names no day of the week");
                }
                Ok(_) => bits |= 1 << (day - 1),
            }
        }
        let days = Weekdays::from_bits(bits).or_else(|e| wrong(format!("{field}.days"), e.why))?;
        let field = format!("{field}.hours");
        match &shift.hours {
            Some(hours) => Ok(Shift { days, hours: self::hours(hours, &field)? }),
            None => wrong(field, "is absent; give a start and an end"),
        }
    };
    let exception = |(i, exception): (usize, &v1::RosterException)| {
        let field = format!("{at}.exceptions[{i}]");
        let date = exception
            .date
            .parse()
            .or_else(|e: isocenter_domain::id::InvalidId| wrong(format!("{field}.date"), e.why))?;
        let hours =
            exception.hours.iter().enumerate().map(|(k, h)| self::hours(h, &format!("{field}.hours[{k}]")));
        Ok(DateException { date, hours: hours.collect::<Result<_, Status>>()? })
    };
    let roster = Roster {
        zone: id(&r.time_zone, &format!("{at}.time_zone"))?,
        shifts: r.shifts.iter().enumerate().map(shift).collect::<Result<_, Status>>()?,
        exceptions: r.exceptions.iter().enumerate().map(exception).collect::<Result<_, Status>>()?,
    };
    match Timetable::of(&roster) {
        Ok(_) => Ok(roster),
        Err(e) => wrong(format!("{at}.{}", e.field), e.why),
    }
}

fn hours(h: &v1::Hours, field: &str) -> Result<Hours, Status> {
    let pause =
        |(i, pause): (usize, &v1::Break)| span(&pause.start, &pause.end, &format!("{field}.breaks[{i}]"));
    let breaks = h.breaks.iter().enumerate().map(pause).collect::<Result<_, Status>>()?;
    Ok(Hours { span: span(&h.start, &h.end, field)?, breaks })
}

fn span(start: &str, end: &str, field: &str) -> Result<Span, Status> {
    let time = |text: &str, part: &str| match text.parse::<LocalTime>() {
        Ok(time) => Ok(time),
        Err(e) => wrong(format!("{field}.{part}"), format!("{}; write it like 08:30", e.why)),
    };
    Ok(Span { start: time(start, "start")?, end: time(end, "end")? })
}

/// A reader as callers see one.
pub(super) fn shown(name: String, r: Reader) -> v1::Reader {
    v1::Reader {
        reader_id: name,
        skills: r
            .skills
            .into_iter()
            .map(|s| v1::Skill { modality: s.modality, body_part: s.body_part })
            .collect(),
        site_ids: match r.sites {
            Sites::All => vec![ANY.to_owned()],
            Sites::Some(sites) => texts(&sites),
        },
        pool_ids: texts(&r.pools),
        grade: match r.grade {
            Grade::Resident => v1::ReaderGrade::Resident,
            Grade::Attending => v1::ReaderGrade::Attending,
        }
        .into(),
        licences: r.licences.into_iter().map(shown_licence).collect(),
        paediatric: r.paediatric,
        home_site_id: r.home.map(|home| home.to_string()).unwrap_or_default(),
        roster: r.roster.as_ref().map(shown_roster),
        target_percent: r.share.unwrap_or_default() / 10,
        capacity: r.capacity.map(f64::from).unwrap_or_default() / 1_000.0,
        conflict_patient_refs: r.conflicts.patients.iter().map(ToString::to_string).collect(),
        conflict_site_ids: texts(&r.conflicts.sites),
    }
}

fn shown_licence(l: Licence) -> v1::Licence {
    v1::Licence { jurisdiction: l.jurisdiction.to_string(), valid_until: l.until.map(timestamp) }
}

fn shown_roster(r: &Roster) -> v1::Roster {
    let days = |days: Weekdays| (0..7).filter(|day| days.has(*day)).map(|day| i32::from(day) + 1).collect();
    let hours = |h: &Hours| v1::Hours {
        start: h.span.start.to_string(),
        end: h.span.end.to_string(),
        breaks: h
            .breaks
            .iter()
            .map(|pause| v1::Break { start: pause.start.to_string(), end: pause.end.to_string() })
            .collect(),
    };
    let exception = |e: &DateException| v1::RosterException {
        date: e.date.to_string(),
        hours: e.hours.iter().map(hours).collect(),
    };
    v1::Roster {
        time_zone: r.zone.to_string(),
        shifts: r
            .shifts
            .iter()
            .map(|shift| v1::Shift { days: days(shift.days), hours: Some(hours(&shift.hours)) })
            .collect(),
        exceptions: r.exceptions.iter().map(exception).collect(),
    }
}
