//! Gives a study the tasks that its plan asks for, and ends those of older revisions.

use isocenter_domain::{
    key::{AiTaskKey, PlanKey, StudyKey},
    record::{
        ai_task::{AiTask, AiTaskEvent},
        plan::Plan,
        study::Study,
    },
};
use isocenter_reconcile::{Failed, Outcome, Reconciler};
use isocenter_store::{
    Range,
    kv::MAX_TXN_OPS,
    table::{Cause, Mirror, Mirrors, Stored, owner_range},
};

use super::{ACTOR, Core};
use crate::{Error, plan};

/// Tasks changed in one transaction: each is a record and its event. What is left is done in the next run.
const BATCH: usize = MAX_TXN_OPS / 2 - 2;

pub(crate) struct Studies {
    core: Core,
    studies: Mirror<Study>,
    plans: Mirror<Plan>,
    tasks: Mirror<AiTask>,
}

impl Studies {
    pub fn new(core: Core, mirrors: &Mirrors) -> Self {
        Self { core, studies: mirrors.of(), plans: mirrors.of(), tasks: mirrors.of() }
    }

    /// Whether nothing is due as far as the mirrors know. Each change of what this rests on wakes the study again.
    fn settled(&self, key: &StudyKey) -> bool {
        let Some(study) = self.studies.get(key) else { return true };
        let plan = self.plans.get(&plan_key(key));
        let tasks = self.tasks.of(&tasks_of(key));
        let tasks = tasks.iter().map(|task| (&task.key, &task.record));
        let now = self.core.tables.clock().now();
        plan::due(key, &study.record, plan.as_ref().map(|plan| &plan.record), tasks, now).is_empty()
    }

    /// Does a batch of what is due; answers whether there is more.
    async fn advance(&self, key: &StudyKey) -> Result<bool, Error> {
        let tables = &self.core.tables;
        let Some(study) = tables.load::<Study>(key).await? else { return Ok(false) };
        let plan = tables.load::<Plan>(&plan_key(key)).await?;
        let (tasks, _) = tables.list::<AiTask>(&tasks_of(key)).await?;
        let mut change = tables.change(Cause::role(ACTOR));
        let pairs = tasks.iter().map(|task| (&task.key, &task.record));
        let asked = plan.as_ref().map(|plan| &plan.record);
        let due = plan::due(key, &study.record, asked, pairs, change.now());
        if due.is_empty() {
            return Ok(false);
        }
        // A study or plan that is closed or decided again meanwhile does not get tasks of what it was.
        change.unchanged(&study);
        if let Some(plan) = &plan {
            change.unchanged(plan);
        }
        let mut room = BATCH;
        for (task_key, task) in due.create.iter().take(room) {
            change.create(task_key, task, "requested", &study.head.trace);
        }
        room = room.saturating_sub(due.create.len());
        let mut ended = Vec::new();
        let old: Vec<&Stored<AiTask>> = tasks.iter().filter(|t| due.supersede.contains(&t.key)).collect();
        for task in old.into_iter().take(room) {
            let event = AiTaskEvent::Superseded;
            let name = event.name();
            let (next, effects) = task.record.clone().transition(event, change.now())?;
            change.update(task, &next, name);
            ended.push((&task.key, next, effects));
        }
        change.commit().await?;
        for (task_key, next, effects) in ended {
            let service = self.core.registered(&task_key.tenant, &task_key.service).await?;
            self.core.follow(task_key, &next, &effects, service.as_ref());
        }
        Ok(due.create.len() + due.supersede.len() > BATCH)
    }
}

#[async_trait::async_trait]
impl Reconciler for Studies {
    type Key = StudyKey;

    async fn reconcile(&self, key: &StudyKey) -> Result<Outcome, Failed> {
        if self.settled(key) {
            return Ok(Outcome::Done);
        }
        let more = self.advance(key).await?;
        Ok(if more { Outcome::At(self.core.tables.clock().now()) } else { Outcome::Done })
    }
}

fn plan_key(key: &StudyKey) -> PlanKey {
    PlanKey { tenant: key.tenant.clone(), study: key.study.clone() }
}

fn tasks_of(key: &StudyKey) -> Range {
    owner_range::<AiTaskKey>(&key.tenant, key.study.as_str(), &[key.study.as_str()])
}
