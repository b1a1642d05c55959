//! What wakes the two reconcilers.

use std::collections::BTreeSet;

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{
    key::{self, AiTaskKey, PlanKey, StudyKey},
    record::{ai_task::AiTask, plan::Plan, study::Study},
};
use isocenter_reconcile::{Failed, KeySource};
use isocenter_store::table::{Mirror, Mirrors};

/// Studies that were decided on; woken by the study and by its plan.
pub(crate) struct StudySource {
    studies: Mirror<Study>,
    plans: Mirror<Plan>,
    tasks: Mirror<AiTask>,
}

impl StudySource {
    pub fn new(mirrors: &Mirrors) -> Self {
        Self { studies: mirrors.of(), plans: mirrors.of(), tasks: mirrors.of() }
    }
}

#[async_trait::async_trait]
impl KeySource for StudySource {
    type Key = StudyKey;

    async fn list(&self) -> Result<Vec<StudyKey>, Failed> {
        let plans = self.plans.all();
        let asked = plans.iter().filter(|plan| !plan.record.ai.is_empty()).map(|plan| of_plan(&plan.key));
        let tasks = self.tasks.all();
        let open = tasks.iter().filter(|task| !task.record.settled()).map(|task| {
            let AiTaskKey { tenant, study, .. } = &task.key;
            StudyKey { tenant: tenant.clone(), study: study.clone() }
        });
        let keys: BTreeSet<StudyKey> = asked.chain(open).collect();
        Ok(keys.into_iter().collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, StudyKey>, Failed> {
        tokio::join!(self.studies.synced(), self.plans.synced(), self.tasks.synced());
        let end = || stream::once(async { None });
        let studies = self.studies.changes().map(Some).chain(end());
        let plans = self.plans.changes().map(|plan| Some(of_plan(&plan))).chain(end());
        // The end of either is the end of both: what one has missed has to be listed.
        let both = stream::select(studies, plans).take_while(|key| std::future::ready(key.is_some()));
        Ok(both.filter_map(std::future::ready).boxed())
    }

    fn shard(&self, key: &StudyKey) -> u8 {
        key::shard_of(key)
    }
}

fn of_plan(key: &PlanKey) -> StudyKey {
    StudyKey { tenant: key.tenant.clone(), study: key.study.clone() }
}

/// Tasks that are not settled; woken by every change of a task.
pub(crate) struct TaskSource(Mirror<AiTask>);

impl TaskSource {
    pub fn new(mirrors: &Mirrors) -> Self {
        Self(mirrors.of())
    }
}

#[async_trait::async_trait]
impl KeySource for TaskSource {
    type Key = AiTaskKey;

    async fn list(&self) -> Result<Vec<AiTaskKey>, Failed> {
        let all = self.0.all();
        Ok(all.iter().filter(|task| !task.record.settled()).map(|task| task.key.clone()).collect())
    }

    async fn changes(&self) -> Result<BoxStream<'static, AiTaskKey>, Failed> {
        self.0.synced().await;
        Ok(self.0.changes())
    }

    fn shard(&self, key: &AiTaskKey) -> u8 {
        key::shard_of(key)
    }
}
