//! What is to be done about analyses. Pure: the same records at the same time give the same decision.

pub(crate) mod breaker;

use std::{collections::BTreeSet, time::Duration};

use isocenter_domain::{
    Time,
    document::{AiResult, Images, Instance, Series},
    id::SeriesUid,
    key::{AiTaskKey, StudyKey},
    record::{
        ai_task::{AiFailure, AiTask, AiTaskEvent, AiTaskState, SkipReason},
        plan::Plan,
        read::Read,
        registry::AiService,
        study::{Study, StudyState},
    },
};
use isocenter_runtime::retry::Schedule;

use self::breaker::{Standing, Verdict};

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

/// How a task ends whose deadline has come: its event, and why, for the journal. `standing` is that of its service here,
/// `serving` whether the service says that it serves.
pub(crate) fn expired(task: &AiTask, standing: Standing, serving: bool) -> (AiTaskEvent, &'static str) {
    let called = task.attempts > 0;
    let well = serving && standing == Standing::Ready;
    match &task.state {
        AiTaskState::Pending { .. } if !called && !well => {
            let why = if serving {
                "the service failed too often and was left alone"
            } else {
                "the service did not serve"
            };
            (AiTaskEvent::Skipped { why: SkipReason::Unavailable }, why)
        }
        AiTaskState::Pending { .. } if !called => (AiTaskEvent::Expired, "its turn did not come in time"),
        AiTaskState::Pending { .. } => (AiTaskEvent::Expired, "no further call was made in time"),
        AiTaskState::Dispatched { .. }
        | AiTaskState::Succeeded(_)
        | AiTaskState::Late(_)
        | AiTaskState::Rejected { .. }
        | AiTaskState::Failed(_)
        | AiTaskState::TimedOut
        | AiTaskState::Skipped { .. }
        | AiTaskState::Cancelled => (AiTaskEvent::Expired, "the service did not answer in time"),
    }
}

/// What a service says of itself, as far as dispatch minds it. A list that is empty takes anything.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    /// Modality (0008,0060) values it takes.
    pub modalities: Vec<String>,
    /// Body Part Examined (0018,0015) values it takes.
    pub body_parts: Vec<String>,
    /// Transfer Syntax UIDs it takes.
    pub transfer_syntaxes: Vec<String>,
    /// Analyses it takes at once, from 1.
    pub max_concurrency: usize,
    /// The model that it says it is.
    pub model: Model,
}

/// A model and its version, as a vendor names them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Model {
    /// Its name.
    pub id: String,
    /// Its version.
    pub version: String,
}

impl Description {
    /// Whether an answer of `model` is one of the model described. What is left open is not held against an answer.
    pub fn announces(&self, model: &Model) -> bool {
        let same = |said: &str, answered: &str| said.is_empty() || said == answered;
        same(&self.model.id, &model.id) && same(&self.model.version, &model.version)
    }
}

/// How many calls of the service may be under way from this process, of which `replicas` work side by side. A service that
/// does not describe itself is held to the registry alone. Where there are more replicas than it takes calls, each still
/// makes one: the service says that it is busy, and is asked again.
pub(crate) fn limit(service: &AiService, description: Option<&Description>, replicas: usize) -> usize {
    let registered = usize::try_from(service.max_concurrency).unwrap_or(usize::MAX).max(1);
    let all = description.map_or(registered, |d| d.max_concurrency.min(registered));
    (all / replicas.max(1)).max(1)
}

/// Why the service takes none of these images, if it does not. An absent body part is not held against an image.
pub(crate) fn refuses(description: Option<&Description>, images: &Images) -> Option<SkipReason> {
    let description = description?;
    let any = |list: &[String], value: &str| list.is_empty() || list.iter().any(|own| own == value);
    let modality = |s: &&Series| any(&description.modalities, &s.modality);
    let part = |s: &&Series| s.body_part.is_empty() || any(&description.body_parts, &s.body_part);
    let syntax = |i: &Instance| any(&description.transfer_syntaxes, i.transfer_syntax.as_str());
    let mut of_modality = images.series.values().filter(modality).peekable();
    if of_modality.peek().is_none() {
        return Some(SkipReason::NotForModality);
    }
    let mut of_part = of_modality.filter(part).peekable();
    if of_part.peek().is_none() {
        return Some(SkipReason::NotForBodyPart);
    }
    let taken = of_part.any(|series| series.instances.values().any(syntax));
    (!taken).then_some(SkipReason::NotForTransferSyntax)
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

    /// What it says of the service, to which the task could give `whole` and whose call took `took`.
    ///
    /// A service that was called when little time was left, because many tasks waited for it, is not ill for not having
    /// answered: it would be left alone for being asked too much.
    pub fn verdict(&self, took: Duration, whole: Duration) -> Verdict {
        match self {
            Self::Result(_) => Verdict::Well,
            Self::Declined(reason) if *reason == OTHER => Verdict::Ill,
            Self::Declined(_) => Verdict::Well,
            Self::Failed { failure: AiFailure::Busy, .. } => Verdict::Nothing,
            Self::Failed {
                failure: AiFailure::Unavailable | AiFailure::InvalidAnswer | AiFailure::Error,
                ..
            } => Verdict::Ill,
            Self::Nothing if took.saturating_mul(2) >= whole => Verdict::Ill,
            Self::Nothing => Verdict::Nothing,
        }
    }
}

/// The reason for declining that counts against a service.
pub(crate) const OTHER: &str = "other";

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
            // Turning a call away costs nobody anything: it is made again for as long as its answer would matter.
            let busy = *failure == AiFailure::Busy;
            let more = *again && (busy || task.failures + 1 < max_attempts);
            let retry_at = more.then(|| schedule.next(task.attempts, at));
            Some(AiTaskEvent::CallFailed { failure: *failure, retry_at })
        }
    }
}

/// Whether every read that makes the case's own report is done: an answer matters no more to a review of it. A case without a
/// read is one whose read comes yet.
pub(crate) fn signed<'a>(reads: impl Iterator<Item = &'a Read>) -> bool {
    let mut of_record = reads.filter(|read| read.kind.is_of_record()).peekable();
    of_record.peek().is_some() && of_record.all(|read| !read.is_live())
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
