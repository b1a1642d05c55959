//! One analysis of one study revision by one service. Owner: ai-dispatch. No task ever holds back a case.

use super::{Illegal, Record};
use crate::{key::AiTaskKey, refs::Digest, time::Time};

/// The life of an analysis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AiTaskState {
    /// To be sent, not before this time.
    Pending {
        /// Back-off of the retry schedule.
        not_before: Time,
    },
    /// Claimed by a dispatcher that calls the service, until this time at the latest.
    Dispatched {
        /// When the claim lapses; the fetch token dies with it.
        until: Time,
    },
    /// Answered in time.
    Succeeded(AiAnswer),
    /// Answered after its deadline or after the report was signed: kept, shown, never ordering anything.
    Late(AiAnswer),
    /// The service declined: the study is not for it. Not counted against the vendor unless the reason is `other`.
    Rejected {
        /// The vendor's reason, as the contract names it.
        reason: String,
    },
    /// The last attempt failed.
    Failed(AiFailure),
    /// The deadline passed without an answer.
    TimedOut,
    /// Never sent.
    Skipped {
        /// Why.
        why: SkipReason,
    },
    /// A newer revision made it needless.
    Cancelled,
}

/// An answer, by reference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AiAnswer {
    /// Calibrated probability of a finding, in millionths.
    pub probability_ppm: u32,
    /// As the vendor names its model.
    pub model: String,
    /// As the vendor numbers it.
    pub model_version: String,
    /// The whole answer in blobs.
    pub result: Digest,
    /// When it arrived.
    pub at: Time,
}

/// The class of a failed call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AiFailure {
    /// The service could not be reached or broke off.
    Unavailable,
    /// It answered with something the contract does not allow: not a number, another study, too much.
    InvalidAnswer,
    /// It answered with an error.
    Error,
    /// It had as many analyses as it takes at once, to the end.
    Busy,
}

/// Why a task was never sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SkipReason {
    /// The registry has no such service.
    NotRegistered,
    /// The registry does not say that the service may receive original images.
    MayNotReceive,
    /// The service says it does not take this modality.
    NotForModality,
    /// The service says it does not take this body part.
    NotForBodyPart,
    /// The service says it does not take any transfer syntax in which images of the study are kept.
    NotForTransferSyntax,
    /// The service was not well from the first to the deadline.
    Unavailable,
}

impl SkipReason {
    /// The reason's name in events and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotRegistered => "not-registered",
            Self::MayNotReceive => "may-not-receive",
            Self::NotForModality => "not-for-modality",
            Self::NotForBodyPart => "not-for-body-part",
            Self::NotForTransferSyntax => "not-for-transfer-syntax",
            Self::Unavailable => "unavailable",
        }
    }
}

/// An analysis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AiTask {
    /// Where in its life it is.
    pub state: AiTaskState,
    /// When the plan asked for it.
    pub requested_at: Time,
    /// When its answer stops to matter.
    pub deadline_at: Time,
    /// Calls made.
    pub attempts: u32,
    /// Of these, failed; calls that were turned away for the time being, or whose dispatcher died, are none.
    pub failures: u32,
    /// The manifest analysed.
    pub manifest: Digest,
}

impl Record for AiTask {
    type Key = AiTaskKey;
}

/// What happens to an analysis.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AiTaskEvent {
    /// A dispatcher claims it before it calls.
    Claimed {
        /// When the claim lapses.
        until: Time,
    },
    /// The service answered.
    Answered {
        /// What.
        answer: AiAnswer,
        /// Whether every read of the case was signed by then.
        after_signature: bool,
    },
    /// The service declined.
    Declined {
        /// Its reason.
        reason: String,
    },
    /// The call failed.
    CallFailed {
        /// How.
        failure: AiFailure,
        /// When to try again; none after the last attempt.
        retry_at: Option<Time>,
    },
    /// The deadline passed.
    Expired,
    /// The claim's time passed and no dispatcher said anything: it is gone.
    Lapsed,
    /// Not to be sent.
    Skipped {
        /// Why.
        why: SkipReason,
    },
    /// A newer revision came.
    Superseded,
}

/// What has to follow a change of an analysis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AiTaskEffect {
    /// Call the service, with the attempt's number.
    Call {
        /// From 1.
        attempt: u32,
    },
    /// Tell the service that nobody waits any more.
    Cancel,
    /// The queue's order may change.
    Reorder,
}

impl AiTask {
    /// The task as the plan asks for it.
    #[must_use]
    pub const fn requested(manifest: Digest, now: Time, deadline_at: Time) -> Self {
        let state = AiTaskState::Pending { not_before: now };
        Self { state, requested_at: now, deadline_at, attempts: 0, failures: 0, manifest }
    }

    /// The probability that may order the queue: only of an answer that came in time.
    #[must_use]
    pub fn probability(&self) -> Option<f64> {
        match &self.state {
            AiTaskState::Succeeded(answer) => Some(f64::from(answer.probability_ppm) / 1e6),
            AiTaskState::Pending { .. }
            | AiTaskState::Dispatched { .. }
            | AiTaskState::Late(_)
            | AiTaskState::Rejected { .. }
            | AiTaskState::Failed(_)
            | AiTaskState::TimedOut
            | AiTaskState::Skipped { .. }
            | AiTaskState::Cancelled => None,
        }
    }

    /// The task after `event`.
    #[expect(clippy::too_many_lines, reason = "a table of states and events")]
    pub fn transition(mut self, event: AiTaskEvent, now: Time) -> Result<(Self, Vec<AiTaskEffect>), Illegal> {
        use AiTaskState as S;
        let effects = match (self.state.clone(), event) {
            (S::Pending { .. }, AiTaskEvent::Claimed { until }) => {
                self.attempts += 1;
                self.state = S::Dispatched { until };
                vec![AiTaskEffect::Call { attempt: self.attempts }]
            }
            (
                S::Dispatched { .. } | S::Pending { .. } | S::TimedOut,
                AiTaskEvent::Answered { answer, after_signature },
            ) => {
                let late = after_signature || now > self.deadline_at || self.state == S::TimedOut;
                self.state = if late { S::Late(answer) } else { S::Succeeded(answer) };
                if late { Vec::new() } else { vec![AiTaskEffect::Reorder] }
            }
            (S::Dispatched { .. }, AiTaskEvent::Declined { reason }) => {
                self.state = S::Rejected { reason };
                Vec::new()
            }
            (S::Dispatched { .. }, AiTaskEvent::CallFailed { failure, retry_at }) => {
                self.failures += u32::from(failure != AiFailure::Busy);
                self.state = match retry_at {
                    Some(at) if at < self.deadline_at => S::Pending { not_before: at },
                    Some(_) | None => S::Failed(failure),
                };
                Vec::new()
            }
            (S::Pending { .. }, AiTaskEvent::Expired) => {
                self.state = S::TimedOut;
                Vec::new()
            }
            (S::Dispatched { .. }, AiTaskEvent::Expired) => {
                self.state = S::TimedOut;
                vec![AiTaskEffect::Cancel]
            }
            (S::Dispatched { .. }, AiTaskEvent::Lapsed) => {
                self.state = S::Pending { not_before: now };
                Vec::new()
            }
            (S::Pending { .. }, AiTaskEvent::Skipped { why }) => {
                self.state = S::Skipped { why };
                Vec::new()
            }
            (S::Pending { .. }, AiTaskEvent::Superseded) => {
                self.state = S::Cancelled;
                Vec::new()
            }
            (S::Dispatched { .. }, AiTaskEvent::Superseded) => {
                self.state = S::Cancelled;
                vec![AiTaskEffect::Cancel]
            }
            (
                state @ (S::Pending { .. } | S::TimedOut),
                event @ (AiTaskEvent::Declined { .. } | AiTaskEvent::CallFailed { .. } | AiTaskEvent::Lapsed),
            )
            | (
                state @ (S::Dispatched { .. } | S::TimedOut),
                event @ (AiTaskEvent::Claimed { .. } | AiTaskEvent::Skipped { .. }),
            )
            | (state @ S::TimedOut, event @ (AiTaskEvent::Expired | AiTaskEvent::Superseded))
            | (
                state @ (S::Succeeded(_)
                | S::Late(_)
                | S::Rejected { .. }
                | S::Failed(_)
                | S::Skipped { .. }
                | S::Cancelled),
                event @ (AiTaskEvent::Claimed { .. }
                | AiTaskEvent::Answered { .. }
                | AiTaskEvent::Declined { .. }
                | AiTaskEvent::CallFailed { .. }
                | AiTaskEvent::Expired
                | AiTaskEvent::Lapsed
                | AiTaskEvent::Skipped { .. }
                | AiTaskEvent::Superseded),
            ) => return Err(Self::illegal(&state, &event)),
        };
        Ok((self, effects))
    }

    /// Whether nothing more is expected of the task.
    #[must_use]
    pub const fn settled(&self) -> bool {
        match self.state {
            AiTaskState::Pending { .. } | AiTaskState::Dispatched { .. } => false,
            AiTaskState::Succeeded(_)
            | AiTaskState::Late(_)
            | AiTaskState::Rejected { .. }
            | AiTaskState::Failed(_)
            | AiTaskState::TimedOut
            | AiTaskState::Skipped { .. }
            | AiTaskState::Cancelled => true,
        }
    }

    fn illegal(state: &AiTaskState, event: &AiTaskEvent) -> Illegal {
        let why = match state {
            AiTaskState::Pending { .. } => "nobody has claimed it",
            AiTaskState::Dispatched { .. } => "it is being analysed",
            AiTaskState::TimedOut => "only a late answer is still taken",
            AiTaskState::Succeeded(_)
            | AiTaskState::Late(_)
            | AiTaskState::Rejected { .. }
            | AiTaskState::Failed(_)
            | AiTaskState::Skipped { .. }
            | AiTaskState::Cancelled => "it is over",
        };
        Illegal { record: "ai-task", state: state.name(), event: event.name(), why }
    }
}

impl AiTaskState {
    /// The state's name in documents, events and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending { .. } => "pending",
            Self::Dispatched { .. } => "dispatched",
            Self::Succeeded(_) => "succeeded",
            Self::Late(_) => "late",
            Self::Rejected { .. } => "rejected",
            Self::Failed(_) => "failed",
            Self::TimedOut => "timed-out",
            Self::Skipped { .. } => "skipped",
            Self::Cancelled => "cancelled",
        }
    }
}

impl AiTaskEvent {
    /// The event's name in documents and the journal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "claimed",
            Self::Answered { .. } => "answered",
            Self::Declined { .. } => "declined",
            Self::CallFailed { .. } => "call-failed",
            Self::Expired => "expired",
            Self::Lapsed => "lapsed",
            Self::Skipped { .. } => "skipped",
            Self::Superseded => "superseded",
        }
    }
}

impl AiFailure {
    /// The class's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unavailable => "unavailable",
            Self::InvalidAnswer => "invalid-answer",
            Self::Error => "error",
            Self::Busy => "busy",
        }
    }
}
