//! What people call a study's stage. Computed from the records, never stored.

use crate::record::{
    case::CaseState,
    delivery::{Delivery, DeliveryState},
    plan::{Plan, Reading},
    read::{Read, ReadState},
    study::{Study, StudyState},
};

/// Everything the store knows of one study and its case.
#[derive(Clone, Debug, Default)]
pub struct Records {
    /// The study.
    pub study: Option<Study>,
    /// Its plan.
    pub plan: Option<Plan>,
    /// The state of its case.
    pub case: Option<CaseState>,
    /// The case's reads.
    pub reads: Vec<Read>,
    /// How many destinations each signed report goes to, by the case.
    pub destinations: usize,
    /// The deliveries of the case's reports.
    pub deliveries: Vec<Delivery>,
}

/// A study's stage, in the order in which studies pass them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stage {
    /// Instances are arriving.
    Receiving,
    /// Complete, not yet decided on.
    Complete,
    /// Decided on, its case not yet in the queue.
    Routed,
    /// In the queue.
    WaitingForReader,
    /// In a reader's hands.
    Reading,
    /// Every read signed, a delivery still under way.
    Reported,
    /// A delivery was refused: a person has to act.
    Undeliverable,
    /// Every report accepted by every destination.
    Delivered,
    /// The policy found nothing to read.
    NothingToRead,
    /// Closed.
    Closed,
}

impl Stage {
    /// Every stage, in order.
    pub const ALL: [Self; 10] = [
        Self::Receiving,
        Self::Complete,
        Self::Routed,
        Self::WaitingForReader,
        Self::Reading,
        Self::Reported,
        Self::Undeliverable,
        Self::Delivered,
        Self::NothingToRead,
        Self::Closed,
    ];

    /// The stage's name on screens and in metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Complete => "complete",
            Self::Routed => "routed",
            Self::WaitingForReader => "waiting-for-reader",
            Self::Reading => "reading",
            Self::Reported => "reported",
            Self::Undeliverable => "undeliverable",
            Self::Delivered => "delivered",
            Self::NothingToRead => "nothing-to-read",
            Self::Closed => "closed",
        }
    }

    /// Whether nothing more is owed to the study.
    #[must_use]
    pub const fn terminal(self) -> bool {
        match self {
            Self::Delivered | Self::NothingToRead | Self::Closed => true,
            Self::Receiving
            | Self::Complete
            | Self::Routed
            | Self::WaitingForReader
            | Self::Reading
            | Self::Reported
            | Self::Undeliverable => false,
        }
    }
}

/// The stage these records amount to; `None` where there is no study.
#[must_use]
pub fn stage(records: &Records) -> Option<Stage> {
    let study = records.study.as_ref()?;
    Some(match &study.state {
        StudyState::Receiving => Stage::Receiving,
        StudyState::Closed => Stage::Closed,
        StudyState::Complete { .. } => match &records.plan {
            Some(plan) if plan.revision == study.revision => planned(records, plan),
            Some(_) | None => Stage::Complete,
        },
    })
}

fn planned(records: &Records, plan: &Plan) -> Stage {
    if matches!(plan.reading, Reading::None { .. }) {
        return Stage::NothingToRead;
    }
    if records.case == Some(CaseState::Closed) {
        return Stage::Closed;
    }
    // What a peer's review concludes is nothing that the patient waits for.
    let reads: Vec<&Read> = records.reads.iter().filter(|read| read.kind.is_clinical()).collect();
    if reads.is_empty() {
        return Stage::Routed;
    }
    if reads.iter().any(|read| read.is_live() && !read.is_queued() && !is_offered(read)) {
        return Stage::Reading;
    }
    if reads.iter().any(|read| read.is_live()) {
        return Stage::WaitingForReader;
    }
    if records.deliveries.iter().any(|d| matches!(d.state, DeliveryState::DeadLetter { .. })) {
        return Stage::Undeliverable;
    }
    let accepted = records.deliveries.iter().filter(|d| d.settled()).count();
    let released: usize = reads.iter().map(|read| read.released()).sum();
    if accepted == released * records.destinations { Stage::Delivered } else { Stage::Reported }
}

fn is_offered(read: &Read) -> bool {
    matches!(read.state, ReadState::Offered { .. })
}
