//! Everything the store knows of one study, from the mirrors.

use isocenter_domain::{
    key::{CaseKey, DeliveryKey, PlanKey, ReadKey, StudyKey},
    record::{case::Case, delivery::Delivery, plan::Plan, read::Read, study::Study},
    stage::Records,
};

use super::{Mirrors, owner_range};

/// The records of a study and its case, as the mirrors have them: perhaps a moment old, and each of its own moment.
#[must_use]
pub fn gather(mirrors: &Mirrors, key: &StudyKey) -> Records {
    let study = mirrors.of::<Study>().get(key).map(|s| s.record.clone());
    let plan_key = PlanKey { tenant: key.tenant.clone(), study: key.study.clone() };
    let plan = mirrors.of::<Plan>().get(&plan_key).map(|p| p.record.clone());
    let Some(case_id) = plan.as_ref().and_then(Plan::case).cloned() else {
        return Records { study, plan, ..Records::default() };
    };
    let case = mirrors.of::<Case>().get(&CaseKey { tenant: key.tenant.clone(), case: case_id.clone() });
    let id = case_id.as_str();
    let reads = mirrors.of::<Read>().of(&owner_range::<ReadKey>(&key.tenant, id, &[id]));
    let deliveries = mirrors.of::<Delivery>().of(&owner_range::<DeliveryKey>(&key.tenant, id, &[id]));
    Records {
        study,
        plan,
        case: case.as_ref().map(|c| c.record.state),
        reads: reads.iter().map(|r| r.record.clone()).collect(),
        destinations: case.map_or(0, |c| c.record.destinations.len()),
        deliveries: deliveries.iter().map(|d| d.record.clone()).collect(),
    }
}
