//! Everything about a unit, from the store itself.

use isocenter_domain::{
    key::{
        AiTaskKey, CaseKey, DeliveryKey, IntakeKey, PlanKey, ReadKey, RecordKey, ReportKey, StudyKey, text,
    },
    record::{
        ai_task::AiTask, case::Case, delivery::Delivery, intake::Intake, plan::Plan, read::Read,
        report::Report, study::Study,
    },
};
use isocenter_store::{
    Page, Range, Revision,
    table::{Stored, Tables, owner_range},
};

use super::drain::JOURNALED;
use crate::{
    Error,
    group::Group,
    item::shard_of,
    plan::{Member, Unit},
};

/// A unit, and what a change that rests on it compares besides its records: that nothing was added.
#[derive(Debug)]
pub(crate) struct Loaded {
    pub unit: Unit,
    pub ranges: Vec<(Range, Revision)>,
}

/// Loads the unit that `key` belongs to; `None` where it is not whole: a study without a plan, a plan without its case, a
/// member that is gone, or a case that does not have the study.
pub(crate) async fn unit(tables: &Tables, key: &StudyKey) -> Result<Option<Loaded>, Error> {
    let plan_key = PlanKey { tenant: key.tenant.clone(), study: key.study.clone() };
    let Some(plan) = tables.load::<Plan>(&plan_key).await? else { return Ok(None) };
    let mut ranges = Vec::new();
    let Some(case) = plan.record.case().cloned() else {
        let Some(alone) = member(tables, key.clone(), &mut ranges).await? else { return Ok(None) };
        let (reads, reports, deliveries) = (Vec::new(), Vec::new(), Vec::new());
        let unit = Unit { studies: vec![alone], case: None, reads, reports, deliveries };
        return Ok(Some(Loaded { unit, ranges }));
    };
    let case = CaseKey { tenant: key.tenant.clone(), case };
    let Some(case) = tables.load::<Case>(&case).await? else { return Ok(None) };
    if !case.record.members.contains(&key.study) {
        return Ok(None);
    }
    let mut studies = Vec::new();
    for study in &case.record.members {
        let key = StudyKey { tenant: key.tenant.clone(), study: study.clone() };
        let Some(member) = member(tables, key, &mut ranges).await? else { return Ok(None) };
        if member.plan.record.case() != Some(&case.key.case) {
            return Ok(None);
        }
        studies.push(member);
    }
    let (tenant, id) = (&key.tenant, case.key.case.as_str());
    let range = owner_range::<ReadKey>(tenant, id, &[id]);
    let reads = list::<Read>(tables, range, &mut ranges).await?;
    let range = owner_range::<ReportKey>(tenant, id, &[id]);
    let reports = list::<Report>(tables, range, &mut ranges).await?;
    let range = owner_range::<DeliveryKey>(tenant, id, &[id]);
    let deliveries = list::<Delivery>(tables, range, &mut ranges).await?;
    let unit = Unit { studies, case: Some(case), reads, reports, deliveries };
    Ok(Some(Loaded { unit, ranges }))
}

async fn member(
    tables: &Tables,
    key: StudyKey,
    ranges: &mut Vec<(Range, Revision)>,
) -> Result<Option<Member>, Error> {
    let plan = PlanKey { tenant: key.tenant.clone(), study: key.study.clone() };
    let (Some(study), Some(plan)) = (tables.load::<Study>(&key).await?, tables.load::<Plan>(&plan).await?)
    else {
        return Ok(None);
    };
    let (tenant, id) = (&key.tenant, key.study.as_str());
    let intakes = list::<Intake>(tables, owner_range::<IntakeKey>(tenant, id, &[id]), ranges).await?;
    let ai = list::<AiTask>(tables, owner_range::<AiTaskKey>(tenant, id, &[id]), ranges).await?;
    Ok(Some(Member { study, plan, intakes, ai }))
}

async fn list<R: isocenter_wire::record::Stored>(
    tables: &Tables,
    range: Range,
    ranges: &mut Vec<(Range, Revision)>,
) -> Result<Vec<Stored<R>>, Error> {
    let (records, revision) = tables.list::<R>(&range).await?;
    ranges.push((range, revision));
    Ok(records)
}

/// Whether an event of one of the unit's records still waits to be journaled. Asked after the unit was loaded: a record
/// that has not changed since has no newer event either.
pub(crate) async fn outbox_holds(tables: &Tables, unit: &Unit) -> Result<bool, Error> {
    let mut keys = Vec::new();
    for member in &unit.studies {
        keys.push(text(&member.study.key));
        keys.push(text(&member.plan.key));
        texts(&mut keys, &member.intakes);
        texts(&mut keys, &member.ai);
    }
    keys.extend(unit.case.iter().map(|case| text(&case.key)));
    texts(&mut keys, &unit.reads);
    texts(&mut keys, &unit.reports);
    texts(&mut keys, &unit.deliveries);
    for key in keys {
        if waits(tables, &key).await? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Whether an event of this record waits to be journaled.
pub(crate) async fn waits(tables: &Tables, record: &str) -> Result<bool, Error> {
    let range = Range::prefix(format!("outbox/{:02x}/{record}/", shard_of(record)))?;
    let page = tables.kv().list(&range, Page { limit: 1, ..Page::default() }).await?;
    Ok(!page.items.is_empty())
}

/// Whether some journal object of this record's group of shards waits to be applied to the records.
pub(crate) async fn unapplied(tables: &Tables, record: &str) -> Result<bool, Error> {
    let range = Range::prefix(format!("{JOURNALED}{:02x}/", Group::of(record).shard()))?;
    let page = tables.kv().list(&range, Page { limit: 1, ..Page::default() }).await?;
    Ok(!page.items.is_empty())
}

fn texts<R: isocenter_domain::record::Record>(keys: &mut Vec<String>, records: &[Stored<R>])
where
    R::Key: RecordKey,
{
    keys.extend(records.iter().map(|stored| text(&stored.key)));
}
