//! A registered reader, with the working hours.

use isocenter_domain::record::{
    registry::{Conflicts, Grade, Licence, Reader, Sites, Skill},
    roster::{Date, DateException, Hours, LocalTime, Roster, Shift, Span, Weekdays},
};

use super::field;
use crate::{error::Malformed, stored};

/// A reader's stored form.
pub(super) fn stored(r: &Reader) -> stored::Reader {
    let (all_sites, sites) = match &r.sites {
        Sites::All => (true, Vec::new()),
        Sites::Some(sites) => (false, field::texts(sites)),
    };
    let skill = |s: &Skill| stored::Skill { modality: s.modality.clone(), body_part: s.body_part.clone() };
    let licence = |l: &Licence| stored::Licence {
        jurisdiction: l.jurisdiction.to_string(),
        until: l.until.unwrap_or_default().0,
    };
    stored::Reader {
        skills: r.skills.iter().map(skill).collect(),
        all_sites,
        sites,
        pools: field::texts(&r.pools),
        grade: match r.grade {
            Grade::Attending => 0,
            Grade::Resident => 1,
        },
        licences: r.licences.iter().map(licence).collect(),
        paediatric: r.paediatric,
        home: field::text(r.home.as_ref()),
        roster: r.roster.as_ref().map(roster),
        share: r.share.unwrap_or_default(),
        capacity: r.capacity.unwrap_or_default(),
        conflict_patients: r.conflicts.patients.iter().map(|patient| patient.0.to_vec()).collect(),
        conflict_sites: field::texts(&r.conflicts.sites),
    }
}

/// The reader of a stored form.
pub(super) fn read(r: stored::Reader) -> Result<Reader, Malformed> {
    let licence = |l: stored::Licence| {
        let jurisdiction = field::id(&l.jurisdiction, "reader.licences.jurisdiction")?;
        Ok(Licence { jurisdiction, until: field::maybe_time(l.until) })
    };
    let patients = r.conflict_patients.iter();
    let patients = patients.map(|patient| field::reference(patient, "reader.conflict_patients"));
    Ok(Reader {
        skills: r
            .skills
            .into_iter()
            .map(|s| Skill { modality: s.modality, body_part: s.body_part })
            .collect(),
        sites: match r.all_sites {
            true => Sites::All,
            false => Sites::Some(field::ids(&r.sites, "reader.sites")?),
        },
        pools: field::ids(&r.pools, "reader.pools")?,
        grade: match r.grade {
            0 => Grade::Attending,
            1 => Grade::Resident,
            other => return field::unknown("reader.grade", other),
        },
        licences: r.licences.into_iter().map(licence).collect::<Result<_, Malformed>>()?,
        paediatric: r.paediatric,
        home: field::optional(&r.home, "reader.home")?,
        roster: r.roster.map(from_roster).transpose()?,
        share: (r.share != 0).then_some(r.share),
        capacity: (r.capacity != 0).then_some(r.capacity),
        conflicts: Conflicts {
            patients: patients.collect::<Result<_, Malformed>>()?,
            sites: field::ids(&r.conflict_sites, "reader.conflict_sites")?,
        },
    })
}

fn roster(r: &Roster) -> stored::Roster {
    let shift = |s: &Shift| stored::Shift { days: s.days.bits().into(), hours: Some(hours(&s.hours)) };
    let exception = |e: &DateException| {
        let (year, month, day) = e.date.parts();
        let date = u32::from(year) * 10_000 + u32::from(month) * 100 + u32::from(day);
        stored::DateException { date, hours: e.hours.iter().map(hours).collect() }
    };
    stored::Roster {
        zone: r.zone.to_string(),
        shifts: r.shifts.iter().map(shift).collect(),
        exceptions: r.exceptions.iter().map(exception).collect(),
    }
}

fn hours(h: &Hours) -> stored::Hours {
    stored::Hours {
        start: h.span.start.minutes().into(),
        end: h.span.end.minutes().into(),
        breaks: h.breaks.iter().flat_map(|b| [b.start, b.end]).map(|t| t.minutes().into()).collect(),
    }
}

fn from_roster(r: stored::Roster) -> Result<Roster, Malformed> {
    let shift = |s: stored::Shift| {
        let field = "reader.roster.shifts.days";
        let days = u8::try_from(s.days).map_err(|_| Malformed::new(field, "is more than a week"))?;
        let absent = || Malformed::new("reader.roster.shifts.hours", "is absent");
        Ok(Shift {
            days: Weekdays::from_bits(days).map_err(Malformed::at(field))?,
            hours: from_hours(&s.hours.ok_or_else(absent)?)?,
        })
    };
    let exception = |e: stored::DateException| {
        let field = "reader.roster.exceptions.date";
        let small = |n: u32| u8::try_from(n).expect("what is left of a hundred is small");
        let year = u16::try_from(e.date / 10_000).map_err(|_| Malformed::new(field, "is no date"))?;
        let date = Date::of(year, small(e.date / 100 % 100), small(e.date % 100));
        Ok(DateException {
            date: date.map_err(Malformed::at(field))?,
            hours: e.hours.iter().map(from_hours).collect::<Result<_, Malformed>>()?,
        })
    };
    Ok(Roster {
        zone: field::id(&r.zone, "reader.roster.zone")?,
        shifts: r.shifts.into_iter().map(shift).collect::<Result<_, Malformed>>()?,
        exceptions: r.exceptions.into_iter().map(exception).collect::<Result<_, Malformed>>()?,
    })
}

fn from_hours(h: &stored::Hours) -> Result<Hours, Malformed> {
    let field = "reader.roster.hours";
    let span = |start: u32, end: u32| {
        let time = |minutes: u32| {
            let minutes = u16::try_from(minutes).map_err(|_| Malformed::new(field, "is after 24:00"))?;
            LocalTime::of(minutes).map_err(Malformed::at(field))
        };
        Ok(Span { start: time(start)?, end: time(end)? })
    };
    let pair = |pair: &[u32]| match pair {
        [start, end] => span(*start, *end),
        _ => Err(Malformed::new(field, "has a break without an end")),
    };
    Ok(Hours { span: span(h.start, h.end)?, breaks: h.breaks.chunks(2).map(pair).collect::<Result<_, _>>()? })
}
