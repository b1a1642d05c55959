//! One record of any kind, from its key's text and its stored value.

use isocenter_domain::{
    id::{CaseId, StudyUid, TenantId},
    key::{self, AiTaskKey, CaseKey, DeliveryKey, PlanKey, ReadKey, RecordKey as _, ReportKey, StudyKey},
    record::{
        Record, RecordKind, ai_task::AiTask, case::Case, delivery::Delivery, plan::Plan, read::Read,
        report::Report, study::Study,
    },
};
use isocenter_wire::{
    error::Undecodable,
    record::{self as wire, Head, Stored as Storable},
};

/// A record, or what is left of it: the value is `None` where the record is gone.
#[derive(Debug)]
pub(crate) struct Kept<R: Record> {
    pub key: R::Key,
    pub value: Option<(Head, R)>,
}

/// A record of a kind that belongs to one study or case. Their change counters are never begun again, unlike those of
/// other kinds, which may be deleted and made anew.
#[derive(Debug)]
pub(crate) enum Item {
    Study(Kept<Study>),
    Plan(Kept<Plan>),
    Case(Kept<Case>),
    AiTask(Kept<AiTask>),
    Read(Kept<Read>),
    Report(Kept<Report>),
    Delivery(Kept<Delivery>),
    Other,
}

impl Item {
    /// Reads a record. An empty value is that of a record that is gone.
    pub fn read(text: &str, value: &[u8]) -> Result<Self, Undecodable> {
        Ok(match kind(text) {
            Some(RecordKind::Study) => Self::Study(kept(text, value)?),
            Some(RecordKind::Plan) => Self::Plan(kept(text, value)?),
            Some(RecordKind::Case) => Self::Case(kept(text, value)?),
            Some(RecordKind::AiTask) => Self::AiTask(kept(text, value)?),
            Some(RecordKind::Read) => Self::Read(kept(text, value)?),
            Some(RecordKind::Report) => Self::Report(kept(text, value)?),
            Some(RecordKind::Delivery) => Self::Delivery(kept(text, value)?),
            Some(
                RecordKind::Intake
                | RecordKind::Holding
                | RecordKind::Lane
                | RecordKind::Registry
                | RecordKind::Policy,
            ) => Self::Other,
            None => return Err(Undecodable::Damaged("its key is of no known kind".into())),
        })
    }
}

fn kept<R: Storable>(text: &str, value: &[u8]) -> Result<Kept<R>, Undecodable> {
    let key = key::parse(text).ok_or_else(|| Undecodable::Damaged("its key is not of its kind".into()))?;
    let value = if value.is_empty() { None } else { Some(wire::decode(value)?) };
    Ok(Kept { key, value })
}

/// The kind of the record under this key.
pub(crate) fn kind(text: &str) -> Option<RecordKind> {
    RecordKind::parse(text.split('/').next()?)
}

/// The shard of a record, which is that of its events.
pub(crate) fn shard_of(record: &str) -> u8 {
    let second = record.split('/').nth(1).filter(|second| second.len() == 2);
    second.and_then(|second| u8::from_str_radix(second, 16).ok()).unwrap_or(0)
}

/// Whom an event is about: its tenant, and the study or the case that its record belongs to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct About {
    pub tenant: String,
    pub study: Option<StudyUid>,
    pub case: Option<CaseId>,
}

impl About {
    /// What the key says.
    pub fn key(text: &str) -> Self {
        let of_study = |tenant: TenantId, study| Self { tenant: tenant.to_string(), study, case: None };
        let of_case = |tenant: &TenantId, case| Self { tenant: tenant.to_string(), study: None, case };
        let segment = |n| text.split('/').nth(n).unwrap_or_default().to_owned();
        let unparsed = Self { tenant: segment(2), ..Self::default() };
        match kind(text) {
            Some(RecordKind::Study) => {
                key::parse::<StudyKey>(text).map(|k| of_study(k.tenant, Some(k.study)))
            }
            Some(RecordKind::Plan) => key::parse::<PlanKey>(text).map(|k| of_study(k.tenant, Some(k.study))),
            Some(RecordKind::Intake) => {
                key::parse::<key::IntakeKey>(text).map(|k| of_study(k.tenant, Some(k.study)))
            }
            Some(RecordKind::AiTask) => {
                key::parse::<AiTaskKey>(text).map(|k| of_study(k.tenant, Some(k.study)))
            }
            Some(RecordKind::Case) => key::parse::<CaseKey>(text).map(|k| of_case(&k.tenant, Some(k.case))),
            Some(RecordKind::Read) => {
                key::parse::<ReadKey>(text).map(|k| of_case(&k.tenant, Some(k.read.case)))
            }
            Some(RecordKind::Report) => {
                key::parse::<ReportKey>(text).map(|k| of_case(&k.tenant, Some(k.read.case)))
            }
            Some(RecordKind::Delivery) => {
                key::parse::<DeliveryKey>(text).map(|k| of_case(k.tenant(), Some(k.report.read.case.clone())))
            }
            Some(RecordKind::Registry | RecordKind::Policy) => {
                Some(Self { tenant: segment(1), ..Self::default() })
            }
            Some(RecordKind::Holding | RecordKind::Lane) | None => None,
        }
        .unwrap_or(unparsed)
    }
}
