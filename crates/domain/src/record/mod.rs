//! The live records: what each holds, and its life.
//!
//! A record is changed only by its owner role, through its own `transition`, and never holds pixels, report bodies or
//! patient identity: those are in blobs, and records name them by hash.

pub mod ai_task;
pub mod case;
pub mod delivery;
pub mod intake;
pub mod plan;
pub mod policy;
pub mod read;
pub mod registry;
pub mod report;
pub mod roster;
pub mod study;

use std::fmt;

use crate::{
    error::{Kind, Kinded},
    key::RecordKey,
};

/// An event that the record's state does not allow.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{record} in state {state} does not allow {event}: {why}")]
pub struct Illegal {
    /// The kind of record.
    pub record: &'static str,
    /// The state it is in.
    pub state: &'static str,
    /// The event that was tried.
    pub event: &'static str,
    /// What the caller can learn from it.
    pub why: &'static str,
}

impl Kinded for Illegal {
    fn kind(&self) -> Kind {
        Kind::FailedPrecondition
    }
}

/// The kinds of record, each with one owner role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RecordKind {
    /// Image facts of a study; ingestion.
    Study,
    /// What one node has received of a study; ingestion, that node only.
    Intake,
    /// What the policy decided for a study; routing.
    Plan,
    /// The unit of reading; routing.
    Case,
    /// One analysis by one service of one revision; ai-dispatch.
    AiTask,
    /// One piece of human work; reader-assignment.
    Read,
    /// One signed version, create-only; reader-assignment.
    Report,
    /// A reader's offered and open reads; reader-assignment.
    Holding,
    /// One report version on its way to one destination; report-delivery.
    Delivery,
    /// The one delivery in flight to a destination for an accession; report-delivery.
    Lane,
    /// A site, reader, pool, AI service or destination; routing.
    Registry,
    /// Which policy text is active; routing.
    Policy,
}

impl RecordKind {
    /// Every kind.
    pub const ALL: [Self; 12] = [
        Self::Study,
        Self::Intake,
        Self::Plan,
        Self::Case,
        Self::AiTask,
        Self::Read,
        Self::Report,
        Self::Holding,
        Self::Delivery,
        Self::Lane,
        Self::Registry,
        Self::Policy,
    ];

    /// Whether the change counters of this kind go on for ever, over close and reopen. The others begin anew when their
    /// owners delete a record and make it again: a node writes its intake of a closed study from 1.
    #[must_use]
    pub const fn counts_for_ever(self) -> bool {
        match self {
            Self::Study
            | Self::Plan
            | Self::Case
            | Self::AiTask
            | Self::Read
            | Self::Report
            | Self::Delivery => true,
            Self::Intake | Self::Holding | Self::Lane | Self::Registry | Self::Policy => false,
        }
    }

    /// The first component of the kind's keys.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Study => "study",
            Self::Intake => "intake",
            Self::Plan => "plan",
            Self::Case => "case",
            Self::AiTask => "ai",
            Self::Read => "read",
            Self::Report => "report",
            Self::Holding => "holding",
            Self::Delivery => "delivery",
            Self::Lane => "lane",
            Self::Registry => "registry",
            Self::Policy => "policy",
        }
    }

    /// The kind whose keys begin with `text`.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|k| k.as_str() == text)
    }
}

impl fmt::Display for RecordKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A record kept in the store under its key.
pub trait Record: Clone + PartialEq + fmt::Debug + Send + Sync + 'static {
    /// The key that says what the record is about.
    type Key: RecordKey;
}
