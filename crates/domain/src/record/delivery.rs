//! One report version on its way to one destination, and the lane that keeps order. Owner: report-delivery.

use super::{Illegal, Record, report::ReportKind};
use crate::{
    key::{DeliveryKey, LaneKey},
    refs::Ref,
    time::Time,
};

/// The life of a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryState {
    /// To be sent, when those before it on its lane are accepted.
    Pending,
    /// Claimed and on its way.
    Sent {
        /// When the claim lapses.
        until: Time,
    },
    /// Not accepted yet; to be sent again under the same message id.
    Retrying {
        /// When.
        next: Time,
        /// What went wrong, without patient identity.
        error: String,
    },
    /// The receiver's application has it.
    ApplicationAccepted {
        /// When.
        at: Time,
    },
    /// The receiver says that somebody there has seen it.
    Viewed {
        /// When the receiver's application had it.
        accepted: Time,
        /// When it was said.
        at: Time,
        /// Who has seen it, by the receiver's own id for that person.
        by: String,
    },
    /// It need not be sent any more: a later version of the same report says everything that it says.
    Superseded {
        /// Since when.
        at: Time,
    },
    /// Nothing but a person helps: the receiver refused it, or the schedule is over. It holds its lane, so that nothing
    /// later overtakes it.
    DeadLetter {
        /// Why, without patient identity.
        reason: String,
        /// Since when.
        at: Time,
    },
}

/// A delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// Where in its life it is.
    pub state: DeliveryState,
    /// MSH-10: the same on every attempt and after every restore.
    pub message_id: String,
    /// What the report is to earlier ones.
    pub kind: ReportKind,
    /// The lane.
    pub accession: Ref,
    /// When the report was signed: the order on the lane.
    pub signed_at: Time,
    /// Attempts made since the delivery was made or last replayed.
    pub attempts: u32,
    /// When it was made or last replayed: the dead-letter bound counts from here.
    pub since: Time,
}

impl Record for Delivery {
    type Key = DeliveryKey;
}

/// What happens to a delivery.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeliveryEvent {
    /// A sender claims it, together with the lane.
    Claimed {
        /// When the claim lapses.
        until: Time,
    },
    /// The receiver's application accepted it, in answer to an attempt.
    Accepted,
    /// The receiver says by itself that its application has it. That holds whatever the sender knows: after a claim
    /// has lapsed, and of a dead letter as well.
    Acknowledged,
    /// The receiver says that somebody there has seen it.
    Viewed {
        /// Who, by the receiver's own id for that person.
        by: String,
    },
    /// It was not accepted, and may be later.
    NotAccepted {
        /// When to try again.
        retry_at: Time,
        /// What went wrong, without patient identity.
        error: String,
    },
    /// It was refused, or the schedule is over.
    Refused {
        /// Why, without patient identity.
        reason: String,
    },
    /// The claim's time passed and no sender said anything.
    Lapsed,
    /// The final report follows a preliminary one that has not left yet.
    Superseded,
    /// A person wants it sent again, under the same message id.
    Replayed,
}

/// What has to follow a change of a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryEffect {
    /// The lane names this delivery as in flight, in the same transaction; then send it.
    OccupyLaneAndSend,
    /// The lane is free again, in the same transaction.
    FreeLane,
}

impl Delivery {
    /// Whether nothing more is expected.
    #[must_use]
    pub const fn settled(&self) -> bool {
        match self.state {
            DeliveryState::ApplicationAccepted { .. }
            | DeliveryState::Viewed { .. }
            | DeliveryState::Superseded { .. } => true,
            DeliveryState::Pending
            | DeliveryState::Sent { .. }
            | DeliveryState::Retrying { .. }
            | DeliveryState::DeadLetter { .. } => false,
        }
    }

    /// Whether a sender may claim it.
    const fn waiting(&self) -> bool {
        match self.state {
            DeliveryState::Pending | DeliveryState::Retrying { .. } => true,
            DeliveryState::Sent { .. }
            | DeliveryState::ApplicationAccepted { .. }
            | DeliveryState::Viewed { .. }
            | DeliveryState::Superseded { .. }
            | DeliveryState::DeadLetter { .. } => false,
        }
    }

    /// The delivery after `event`.
    pub fn transition(
        mut self,
        event: DeliveryEvent,
        now: Time,
    ) -> Result<(Self, Vec<DeliveryEffect>), Illegal> {
        use DeliveryState as S;
        let (settled, waiting) = (self.settled(), self.waiting());
        let sent = matches!(self.state, S::Sent { .. });
        let dead = matches!(self.state, S::DeadLetter { .. });
        let (name, mut effects) = (event.name(), Vec::new());
        if sent {
            effects.push(DeliveryEffect::FreeLane);
        }
        let after = match event {
            DeliveryEvent::Claimed { until } => {
                self.attempts += 1;
                effects.push(DeliveryEffect::OccupyLaneAndSend);
                waiting.then_some(S::Sent { until })
            }
            DeliveryEvent::Accepted => sent.then_some(S::ApplicationAccepted { at: now }),
            DeliveryEvent::Superseded => {
                let preliminary = self.kind == ReportKind::Preliminary;
                (preliminary && (waiting || dead)).then_some(S::Superseded { at: now })
            }
            DeliveryEvent::Acknowledged => (!settled).then_some(S::ApplicationAccepted { at: now }),
            DeliveryEvent::Viewed { by } => match self.state {
                S::ApplicationAccepted { at } => Some(S::Viewed { accepted: at, at: now, by }),
                S::Pending
                | S::Sent { .. }
                | S::Retrying { .. }
                | S::Viewed { .. }
                | S::Superseded { .. }
                | S::DeadLetter { .. } => None,
            },
            DeliveryEvent::NotAccepted { retry_at, error } => {
                sent.then_some(S::Retrying { next: retry_at, error })
            }
            DeliveryEvent::Refused { reason } => {
                (sent || waiting).then_some(S::DeadLetter { reason, at: now })
            }
            DeliveryEvent::Lapsed => {
                let error = "the sender went away during the attempt".to_owned();
                sent.then_some(S::Retrying { next: now, error })
            }
            DeliveryEvent::Replayed => {
                (self.attempts, self.since) = (0, now);
                dead.then_some(S::Pending)
            }
        };
        match after {
            Some(after) => {
                self.state = after;
                Ok((self, effects))
            }
            None => Err(Self::illegal(&self.state, name)),
        }
    }

    fn illegal(state: &DeliveryState, event: &'static str) -> Illegal {
        let why = match state {
            DeliveryState::Pending | DeliveryState::Retrying { .. } => "nobody is sending it",
            DeliveryState::Sent { .. } => "it is on its way",
            DeliveryState::ApplicationAccepted { .. } | DeliveryState::Viewed { .. } => "it was accepted",
            DeliveryState::Superseded { .. } => "a later version has taken its place",
            DeliveryState::DeadLetter { .. } => "replay it first",
        };
        Illegal { record: "delivery", state: state.name(), event, why }
    }
}

/// The one delivery in flight to a destination for an accession. Claiming is compare-and-swap on this and the delivery, so
/// that a correction never leaves before the report it corrects is settled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lane {
    /// What is in flight.
    pub in_flight: Option<DeliveryKey>,
}

impl Record for Lane {
    type Key = LaneKey;
}

impl DeliveryState {
    /// The state's name in documents, events and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Sent { .. } => "sent",
            Self::Retrying { .. } => "retrying",
            Self::ApplicationAccepted { .. } => "application-accepted",
            Self::Viewed { .. } => "viewed",
            Self::Superseded { .. } => "superseded",
            Self::DeadLetter { .. } => "dead-letter",
        }
    }
}

impl DeliveryEvent {
    /// The event's name in documents and the journal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Claimed { .. } => "claimed",
            Self::Accepted => "accepted",
            Self::Acknowledged => "acknowledged",
            Self::Viewed { .. } => "viewed",
            Self::NotAccepted { .. } => "not-accepted",
            Self::Refused { .. } => "refused",
            Self::Lapsed => "lapsed",
            Self::Superseded => "superseded",
            Self::Replayed => "replayed",
        }
    }
}
