//! What is to be done about analyses. Pure: the same records at the same time give the same decision.

use std::{collections::BTreeSet, time::Duration};

use isocenter_domain::{
    Time,
    document::{AiResult, Images, Instance, Series},
    id::SeriesUid,
    key::{AiTaskKey, StudyKey},
    record::{
        ai_task::{AiFailure, AiTask, AiTaskEvent, AiTaskState, SkipReason},
        plan::Plan,
        read::{Read, ReadState},
        registry::AiService,
        study::{Study, StudyState},
    },
};
use isocenter_runtime::retry::Schedule;

/// What a study's analyses need.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Tasks that the plan asks for and that are not there.
    pub create: Vec<(AiTaskKey, AiTask)>,
    /// Tasks of older revisions that nobody needs any more.
    pub supersede: Vec<AiTaskKey>,
}

impl Due {
    /// Whether all is as it should be.
    pub fn is_empty(&self) -> bool {
        self.create.is_empty() && self.supersede.is_empty()
    }
}

/// Compares what the plan asks for with the tasks there are. While new images arrive nothing changes: the analysis of the
/// last whole revision goes on until there is a newer one.
pub(crate) fn due<'a>(
    key: &StudyKey,
    study: &Study,
    plan: Option<&Plan>,
    tasks: impl Iterator<Item = (&'a AiTaskKey, &'a AiTask)>,
    now: Time,
) -> Due {
    let mut due = Due::default();
    let mut existing = BTreeSet::new();
    for (task_key, task) in tasks {
        if task_key.revision < study.revision && !task.settled() {
            due.supersede.push(task_key.clone());
        }
        existing.insert(task_key);
    }
    let current = plan.filter(|plan| plan.revision == study.revision && complete(study));
    let (Some(plan), Some(manifest)) = (current, study.manifest) else { return due };
    for request in &plan.ai {
        let task_key = AiTaskKey {
            tenant: key.tenant.clone(),
            study: key.study.clone(),
            service: request.service.clone(),
            revision: study.revision,
        };
        let twice = due.create.iter().any(|(key, _)| *key == task_key);
        if !twice && !existing.contains(&task_key) {
            due.create.push((task_key, AiTask::requested(manifest, now, now.plus(request.timeout))));
        }
    }
    due
}

fn complete(study: &Study) -> bool {
    match study.state {
        StudyState::Complete { .. } => true,
        StudyState::Receiving | StudyState::Closed => false,
    }
}

/// What is to be done about one task now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Decision {
    /// Nothing, for ever.
    Over,
    /// Nothing before this time.
    Wait(Time),
    /// Never to be sent.
    Skip(SkipReason),
    /// Its deadline has passed.
    Expire,
    /// The dispatcher that claimed it is gone.
    Lapse,
    /// The service is to be called.
    Call,
}

/// Decides about `task`. `service` is its registry entry; `ours` says that this process is calling the service: what it
/// hears counts also after its claim's time.
pub(crate) fn decide(task: &AiTask, service: Option<&AiService>, ours: bool, now: Time) -> Decision {
    match task.state {
        AiTaskState::Pending { .. } | AiTaskState::Dispatched { .. } if now >= task.deadline_at => {
            Decision::Expire
        }
        // Also where another dispatcher took our claim for lapsed: one call from here is enough.
        AiTaskState::Pending { .. } | AiTaskState::Dispatched { .. } if ours => {
            Decision::Wait(task.deadline_at)
        }
        AiTaskState::Pending { not_before } => match service {
            None => Decision::Skip(SkipReason::NotRegistered),
            Some(service) if !service.receives_original => Decision::Skip(SkipReason::MayNotReceive),
            Some(_) if now < not_before => Decision::Wait(not_before.min(task.deadline_at)),
            Some(_) => Decision::Call,
        },
        AiTaskState::Dispatched { until } if now >= until => Decision::Lapse,
        AiTaskState::Dispatched { until } => Decision::Wait(until.min(task.deadline_at)),
        AiTaskState::Succeeded(_)
        | AiTaskState::Late(_)
        | AiTaskState::Rejected { .. }
        | AiTaskState::Failed(_)
        | AiTaskState::TimedOut
        | AiTaskState::Skipped { .. }
        | AiTaskState::Cancelled => Decision::Over,
    }
}

/// What a service says of itself, as far as dispatch minds it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Modality (0008,0060) values it takes; empty: any.
    pub modalities: Vec<String>,
    /// Analyses it takes at once, from 1.
    pub max_concurrency: usize,
}

/// How many calls of the service may be under way. A service that does not describe itself is held to the registry alone.
pub(crate) fn limit(service: &AiService, description: Option<&Description>) -> usize {
    let registered = usize::try_from(service.max_concurrency).unwrap_or(usize::MAX).max(1);
    description.map_or(registered, |d| d.max_concurrency.min(registered))
}

/// Whether the service takes any of these images.
pub(crate) fn takes(description: Option<&Description>, images: &Images) -> bool {
    let Some(wanted) = description.map(|d| &d.modalities).filter(|wanted| !wanted.is_empty()) else {
        return true;
    };
    images.series.values().any(|series| wanted.contains(&series.modality))
}

/// When a claim made now lapses.
pub(crate) fn until(task: &AiTask, claim: Duration, now: Time) -> Time {
    now.plus(claim).min(task.deadline_at)
}

/// What came of a call.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Heard {
    /// An answer that keeps the contract.
    Result(AiResult),
    /// The service declines, for this reason as the contract names it.
    Declined(&'static str),
    /// The call failed.
    Failed {
        /// How.
        failure: AiFailure,
        /// Whether the same call may succeed later.
        again: bool,
    },
    /// The deadline passed.
    Nothing,
}

impl Heard {
    /// Its name in metrics.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Result(_) => "answered",
            Self::Declined(_) => "declined",
            Self::Failed { failure, .. } => failure.name(),
            Self::Nothing => "timed-out",
        }
    }
}

/// Whether what attempt number `attempt` heard still says something about `task`. An answer says it whoever has claimed
/// the task since; that a call failed says nothing about somebody else's.
pub(crate) fn counts(task: &AiTask, attempt: u32, heard: &Heard) -> bool {
    match (&task.state, heard) {
        (AiTaskState::Dispatched { .. }, Heard::Result(_) | Heard::Nothing)
        | (AiTaskState::Pending { .. } | AiTaskState::TimedOut, Heard::Result(_)) => true,
        (AiTaskState::Dispatched { .. }, Heard::Declined(_) | Heard::Failed { .. }) => {
            task.attempts == attempt
        }
        (AiTaskState::Pending { .. } | AiTaskState::TimedOut, _)
        | (
            AiTaskState::Succeeded(_)
            | AiTaskState::Late(_)
            | AiTaskState::Rejected { .. }
            | AiTaskState::Failed(_)
            | AiTaskState::Skipped { .. }
            | AiTaskState::Cancelled,
            _,
        ) => false,
    }
}

/// The event of what was heard at `at`; `None` of a result, whose event also names where the result is kept. A bad answer
/// is final: the same service would give the same one again.
pub(crate) fn event(
    task: &AiTask,
    heard: &Heard,
    schedule: &Schedule,
    max_attempts: u32,
    at: Time,
) -> Option<AiTaskEvent> {
    match heard {
        Heard::Result(_) => None,
        Heard::Nothing => Some(AiTaskEvent::Expired),
        Heard::Declined(reason) => Some(AiTaskEvent::Declined { reason: (*reason).to_owned() }),
        Heard::Failed { failure, again } => {
            let more = *again && task.attempts < max_attempts;
            let retry_at = more.then(|| schedule.next(task.attempts, at));
            Some(AiTaskEvent::CallFailed { failure: *failure, retry_at })
        }
    }
}

/// Whether everything that a person reads of the case is signed. A case without a read is one whose read comes yet.
pub(crate) fn signed<'a>(reads: impl ExactSizeIterator<Item = &'a Read>) -> bool {
    let some = reads.len() > 0;
    some && reads.into_iter().all(|read| match read.state {
        ReadState::Signed { .. } => true,
        ReadState::Waiting | ReadState::Offered { .. } | ReadState::Open { .. } => false,
    })
}

/// The series and their instances as services get them: by number, and by UID where the numbers are equal.
pub(crate) fn ordered(images: &Images) -> Vec<(&SeriesUid, &Series, Vec<&Instance>)> {
    let mut all: Vec<_> = images
        .series
        .iter()
        .map(|(uid, series)| {
            let mut instances: Vec<_> = series.instances.values().collect();
            instances.sort_by_key(|i| (i.number, &i.instance));
            (uid, series, instances)
        })
        .collect();
    all.sort_by_key(|(uid, series, _)| (series.number, *uid));
    all
}

#[cfg(test)]
mod tests;
