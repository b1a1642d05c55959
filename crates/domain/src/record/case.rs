//! A case: the unit of reading, 1 to 16 studies of one patient. Owner: routing; archive closes it.

use std::time::Duration;

use super::{Illegal, Record};
use crate::{
    id::{ClassId, DestinationId, PoolId, SiteId, StudyUid},
    key::CaseKey,
    refs::Ref,
    time::Time,
};

/// The life of a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseState {
    /// Readable: from the moment its studies are complete, before any AI.
    Ready,
    /// Read, delivered and journaled.
    Closed,
}

/// A case.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Case {
    /// Where in its life it is.
    pub state: CaseState,
    /// Member studies, at least one, at most [`Case::MAX_MEMBERS`].
    pub members: Vec<StudyUid>,
    /// Who sent the first member.
    pub site: SiteId,
    /// The clinical class the policy gave.
    pub class: ClassId,
    /// When the last member's revision 1 was complete: deadlines count from here.
    pub complete_at: Time,
    /// Complete to signed.
    pub deadline: Duration,
    /// How far an AI probability of 1 may move the case forward.
    pub ai_credit: Duration,
    /// An open read older than this is listed as stuck.
    pub orphan_after: Duration,
    /// Whose readers may read it, in order of preference.
    pub pools: Vec<PoolId>,
    /// Where its reports go.
    pub destinations: Vec<DestinationId>,
    /// The members' modalities, sorted.
    pub modalities: Vec<String>,
    /// The members' body part; empty where unknown.
    pub body_part: String,
    /// The patient, by reference.
    pub patient: Option<Ref>,
    /// The accession, by reference; the first member's own reference where it has none. Reports of equal accession are
    /// delivered one after another.
    pub accession: Ref,
    /// How it is read.
    pub reading: Reading,
}

/// How a case is read beyond one first read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Two blinded first reads, and a third reader's arbitration where they disagree.
    pub double: bool,
    /// The share of signed first reads that a peer reviews, in millionths.
    pub review_ppm: u32,
}

impl Record for Case {
    type Key = CaseKey;
}

/// What happens to a case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseEvent {
    /// The archive wrote the heads of its members.
    Closed,
    /// A member was reopened.
    Reopened,
    /// A member was decided again after a late image; class and pools may have changed, the age has not.
    Replanned,
}

impl Case {
    /// The most studies one case may have.
    pub const MAX_MEMBERS: usize = 16;

    /// When the case should be signed.
    #[must_use]
    pub fn due_at(&self) -> Time {
        self.complete_at.plus(self.deadline)
    }

    /// The case after `event`. Nothing has to follow: readers see a ready case by itself.
    pub fn transition(mut self, event: CaseEvent, _now: Time) -> Result<(Self, Vec<CaseEffect>), Illegal> {
        match (self.state, event) {
            (CaseState::Ready, CaseEvent::Closed) => self.state = CaseState::Closed,
            (CaseState::Closed, CaseEvent::Reopened) => self.state = CaseState::Ready,
            (CaseState::Ready, CaseEvent::Replanned) => {}
            (CaseState::Ready, CaseEvent::Reopened) => return Err(self.illegal(event, "the case is open")),
            (CaseState::Closed, CaseEvent::Closed | CaseEvent::Replanned) => {
                return Err(self.illegal(event, "reopen the case first"));
            }
        }
        Ok((self, Vec::new()))
    }

    fn illegal(&self, event: CaseEvent, why: &'static str) -> Illegal {
        Illegal { record: "case", state: self.state.name(), event: event.name(), why }
    }
}

/// A case's changes need nothing to follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CaseEffect {}

impl CaseState {
    /// The state's name in documents, events and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Closed => "closed",
        }
    }
}

impl CaseEvent {
    /// The event's name in documents and the journal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Reopened => "reopened",
            Self::Replanned => "replanned",
        }
    }
}
