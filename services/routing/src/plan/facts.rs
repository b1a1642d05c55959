//! What a condition may ask about a study, from what its images say.

use std::collections::BTreeSet;

use isocenter_domain::{
    Time,
    document::Images,
    record::study::{self, Study},
};
use isocenter_policy::Facts;
use jiff::{Timestamp, civil::Date, tz::TimeZone};

/// The facts of a revision of `study`: `said` is what the study's record holds of that revision, `images` its manifest.
/// Without a manifest the description, the institution, the SOP classes and the age count as absent. Station Name and
/// what only an order says (patient class) always do: neither is in manifests.
#[must_use]
pub fn facts(
    study: &Study,
    said: &study::Facts,
    images: Option<&Images>,
    revision: u32,
    doubt: bool,
) -> Facts {
    let mut facts = Facts {
        modalities: said.modalities.clone(),
        body_part: said.body_part.clone(),
        calling_ae: study.calling_ae.to_string(),
        image_count: said.images,
        instance_count: said.instances,
        series_count: said.series,
        order_priority: said.order_priority.clone(),
        procedure_code: said.procedure_code.clone(),
        revision,
        doubt,
        ..Facts::of(study.site.clone())
    };
    if let Some(images) = images {
        let classes: BTreeSet<String> = images.instances().map(|(_, _, i)| i.sop_class.to_string()).collect();
        facts.sop_classes = classes.into_iter().collect();
        facts.study_description = images.description.clone();
        facts.institution = images.institution.clone();
        let at = study.complete_at.unwrap_or(study.first_received_at);
        facts.patient_age_years = age_years(images.patient.birth_date.reveal(), at);
    }
    facts
}

/// Whole years from a DICOM DA (PS3.5 §6.2: `YYYYMMDD`) to `at`, by the calendar of UTC; `None` for what is no such date,
/// or one after `at`.
fn age_years(birth: &str, at: Time) -> Option<u32> {
    let birth = birth.trim();
    if birth.len() != 8 || !birth.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let birth =
        Date::new(birth[..4].parse().ok()?, birth[4..6].parse().ok()?, birth[6..].parse().ok()?).ok()?;
    let today = Timestamp::from_microsecond(at.0).ok()?.to_zoned(TimeZone::UTC).date();
    let before_birthday = (today.month(), today.day()) < (birth.month(), birth.day());
    u32::try_from(i32::from(today.year()) - i32::from(birth.year()) - i32::from(before_birthday)).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// 2026-11-22T12:00:00Z.
    const NOW: Time = Time(1_795_348_800_000_000);

    #[test]
    fn age_counts_whole_years_and_what_is_no_birth_date_is_unknown() {
        for (birth, age) in [
            ("19861122", Some(40)),
            ("19861123", Some(39)),
            ("20261122", Some(0)),
            ("20261123", None),
            ("20040229", Some(22)),
            (" 20101123 ", Some(15)),
            ("", None),
            ("1986", None),
            ("19861322", None),
            ("1986.1.2", None),
            ("１９８６", None),
        ] {
            assert_eq!(age_years(birth, NOW), age, "{birth}");
        }
    }
}
