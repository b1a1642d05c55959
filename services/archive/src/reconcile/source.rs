//! Which studies to look at: all at first and now and then, and those about which something changed.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{
    id::{CaseId, TenantId},
    key::{self, CaseKey, RecordKey, StudyKey},
    record::{
        Record, ai_task::AiTask, case::Case, delivery::Delivery, intake::Intake, plan::Plan, read::Read,
        study::Study,
    },
};
use isocenter_reconcile::{Failed, KeySource};
use isocenter_store::table::{Mirror, Mirrors};
use isocenter_wire::record::Stored as Storable;

/// Every live study, for the closer.
pub(crate) struct Live(pub Mirrors);

#[async_trait::async_trait]
impl KeySource for Live {
    type Key = StudyKey;

    async fn list(&self) -> Result<Vec<StudyKey>, Failed> {
        Ok(self.0.of::<Study>().all().iter().map(|study| study.key.clone()).collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, StudyKey>, Failed> {
        let (studies, intakes, ai) = (self.0.of::<Study>(), self.0.of::<Intake>(), self.0.of::<AiTask>());
        let (plans, cases, reads) = (self.0.of::<Plan>(), self.0.of::<Case>(), self.0.of::<Read>());
        let deliveries = self.0.of::<Delivery>();
        tokio::join!(studies.synced(), intakes.synced(), ai.synced(), plans.synced(), cases.synced());
        tokio::join!(reads.synced(), deliveries.synced());
        let case_of = move |tenant: TenantId, case: CaseId| first_member(&cases, &tenant, &case);
        let (of_case, of_read, of_delivery) = (case_of.clone(), case_of.clone(), case_of);
        let changes = vec![
            wakes::<Study>(&self.0, Some),
            wakes::<Plan>(&self.0, |k| Some(StudyKey { tenant: k.tenant, study: k.study })),
            wakes::<Intake>(&self.0, |k| Some(StudyKey { tenant: k.tenant, study: k.study })),
            wakes::<AiTask>(&self.0, |k| Some(StudyKey { tenant: k.tenant, study: k.study })),
            wakes::<Case>(&self.0, move |k| of_case(k.tenant, k.case)),
            wakes::<Read>(&self.0, move |k| of_read(k.tenant, k.read.case)),
            wakes::<Delivery>(&self.0, move |k| of_delivery(k.report.tenant, k.report.read.case)),
        ];
        Ok(until_one_ends(changes))
    }

    fn shard(&self, key: &StudyKey) -> u8 {
        key::shard_of(key)
    }
}

/// Studies of which something was received and that are not live, for the reopener.
pub(crate) struct Received(pub Mirrors);

#[async_trait::async_trait]
impl KeySource for Received {
    type Key = StudyKey;

    async fn list(&self) -> Result<Vec<StudyKey>, Failed> {
        let (intakes, studies) = (self.0.of::<Intake>(), self.0.of::<Study>());
        let intakes = intakes.all();
        let received = intakes
            .iter()
            .map(|intake| StudyKey { tenant: intake.key.tenant.clone(), study: intake.key.study.clone() });
        let received: BTreeSet<StudyKey> = received.filter(|key| studies.get(key).is_none()).collect();
        Ok(received.into_iter().collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, StudyKey>, Failed> {
        let (intakes, studies) = (self.0.of::<Intake>(), self.0.of::<Study>());
        tokio::join!(intakes.synced(), studies.synced());
        // Not filtered by what the mirror says of the study: it may not have seen yet that the study was closed.
        let wakes = wakes::<Intake>(&self.0, |k| Some(StudyKey { tenant: k.tenant, study: k.study }));
        Ok(until_one_ends(vec![wakes]))
    }

    fn shard(&self, key: &StudyKey) -> u8 {
        key::shard_of(key)
    }
}

fn first_member(cases: &Mirror<Case>, tenant: &TenantId, case: &CaseId) -> Option<StudyKey> {
    let case = cases.get(&CaseKey { tenant: tenant.clone(), case: case.clone() })?;
    let study = case.record.members.first()?.clone();
    Some(StudyKey { tenant: tenant.clone(), study })
}

/// The studies that changes of one kind of record wake; at their end, `None`.
fn wakes<R: Storable>(
    mirrors: &Mirrors,
    study: impl Fn(<R as Record>::Key) -> Option<StudyKey> + Send + 'static,
) -> BoxStream<'static, Option<StudyKey>>
where
    R::Key: RecordKey,
{
    let woken = mirrors.of::<R>().changes().filter_map(move |key| std::future::ready(study(key)));
    woken.map(Some).chain(stream::once(async { None })).boxed()
}

/// All of them together, until one ends: what that one has missed has to be listed.
fn until_one_ends(changes: Vec<BoxStream<'static, Option<StudyKey>>>) -> BoxStream<'static, StudyKey> {
    let together = stream::select_all(changes).take_while(|key| std::future::ready(key.is_some()));
    together.filter_map(std::future::ready).boxed()
}
