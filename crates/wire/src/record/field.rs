//! Single fields, each with an error that names it.

use std::time::Duration;

use isocenter_domain::{
    Time,
    id::{Id, IdKind, InvalidId},
    record::report::StudyRevision,
    refs::{Digest, Ref},
};

use crate::{error::Malformed, stored};

/// An identifier.
pub(crate) fn id<K: IdKind>(text: &str, field: &'static str) -> Result<Id<K>, Malformed> {
    Id::new(text).map_err(Malformed::at(field))
}

/// Identifiers.
pub(crate) fn ids<K: IdKind>(texts: &[String], field: &'static str) -> Result<Vec<Id<K>>, Malformed> {
    texts.iter().map(|text| id(text, field)).collect()
}

/// Anything that reads itself from text.
pub(crate) fn parsed<T: std::str::FromStr<Err = InvalidId>>(
    text: &str,
    field: &'static str,
) -> Result<T, Malformed> {
    text.parse().map_err(Malformed::at(field))
}

/// Anything that reads itself from text, or nothing where the text is empty.
pub(crate) fn optional<T: std::str::FromStr<Err = InvalidId>>(
    text: &str,
    field: &'static str,
) -> Result<Option<T>, Malformed> {
    if text.is_empty() { Ok(None) } else { parsed(text, field).map(Some) }
}

/// SHA-256.
pub(crate) fn digest(bytes: &[u8], field: &'static str) -> Result<Digest, Malformed> {
    bytes.try_into().map(Digest).map_err(|_| Malformed::new(field, "is not 32 bytes"))
}

/// SHA-256, or nothing where empty.
pub(crate) fn maybe_digest(bytes: &[u8], field: &'static str) -> Result<Option<Digest>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { digest(bytes, field).map(Some) }
}

/// A keyed reference.
pub(crate) fn reference(bytes: &[u8], field: &'static str) -> Result<Ref, Malformed> {
    bytes.try_into().map(Ref).map_err(|_| Malformed::new(field, "is not 16 bytes"))
}

/// A keyed reference, or nothing where empty.
pub(crate) fn maybe_reference(bytes: &[u8], field: &'static str) -> Result<Option<Ref>, Malformed> {
    if bytes.is_empty() { Ok(None) } else { reference(bytes, field).map(Some) }
}

/// The bytes of an optional reference.
pub(crate) fn reference_bytes(reference: Option<Ref>) -> Vec<u8> {
    reference.map(|r| r.0.to_vec()).unwrap_or_default()
}

/// The bytes of an optional digest.
pub(crate) fn digest_bytes(digest: Option<Digest>) -> Vec<u8> {
    digest.map(|d| d.0.to_vec()).unwrap_or_default()
}

/// A duration in microseconds, saturating.
pub(crate) fn micros(d: Duration) -> i64 {
    i64::try_from(d.as_micros()).unwrap_or(i64::MAX)
}

/// Microseconds as a duration.
pub(crate) fn from_micros(micros: i64, field: &'static str) -> Result<Duration, Malformed> {
    u64::try_from(micros).map(Duration::from_micros).map_err(|_| Malformed::new(field, "is negative"))
}

/// A share in parts per million.
pub(crate) fn ppm(value: u32, field: &'static str) -> Result<u32, Malformed> {
    if value <= 1_000_000 { Ok(value) } else { Err(Malformed::new(field, "is more than a million")) }
}

/// A time, or nothing where zero.
pub(crate) fn maybe_time(micros: i64) -> Option<Time> {
    (micros != 0).then_some(Time(micros))
}

/// A number that stands for one of few things.
pub(crate) fn unknown<T>(field: &'static str, number: u32) -> Result<T, Malformed> {
    Err(Malformed::new(field, format!("{number} is not known")))
}

/// Text of something optional.
pub(crate) fn text<T: ToString>(value: Option<&T>) -> String {
    value.map(ToString::to_string).unwrap_or_default()
}

/// Texts.
pub(crate) fn texts<T: ToString>(values: &[T]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

/// Study revisions, stored.
pub(crate) fn revisions(studies: &[StudyRevision]) -> Vec<stored::StudyRevision> {
    studies
        .iter()
        .map(|s| stored::StudyRevision { study: s.study.to_string(), revision: s.revision })
        .collect()
}

/// Study revisions, read.
pub(crate) fn from_revisions(
    studies: Vec<stored::StudyRevision>,
    field: &'static str,
) -> Result<Vec<StudyRevision>, Malformed> {
    studies
        .into_iter()
        .map(|s| Ok(StudyRevision { study: id(&s.study, field)?, revision: s.revision }))
        .collect()
}
