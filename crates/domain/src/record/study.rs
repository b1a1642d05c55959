//! A study: image facts only. Owner: ingestion; archive closes and reopens it.

use super::{Illegal, Record};
use crate::{
    id::{AeTitle, SiteId},
    key::StudyKey,
    refs::{Digest, Ref},
    time::Time,
};

/// The life of a study's images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StudyState {
    /// Instances are arriving, or have arrived since the last revision.
    Receiving,
    /// Revision [`Study::revision`] is whole, on this evidence.
    Complete {
        /// What says so.
        evidence: Evidence,
        /// What may be missing in spite of it.
        doubt: Option<Doubt>,
    },
    /// Read or without a read, delivered, journaled; the live records are gone, the head is in blobs.
    Closed,
}

/// What a revision's completeness rests on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evidence {
    /// No image and no open association for the site's quiet period.
    QuietPeriod,
    /// The bound on assembly passed.
    AssemblyBound,
    /// An operator ended the waiting; the event names who and why.
    Released,
}

/// Why a complete revision may lack images.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Doubt {
    /// The node that still had pending instances or an open association when the bound passed or the study was released.
    pub node: crate::id::NodeId,
    /// Instances it had acknowledged and not yet moved to blobs.
    pub pending: u32,
}

/// What the images say, without saying whose they are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Distinct Modality (0008,0060) values, sorted; at most 8 are kept.
    pub modalities: Vec<String>,
    /// Body Part Examined (0018,0015), upper case; the first that any series names; empty where none does.
    pub body_part: String,
    /// Procedure Code Sequence (0008,1032) code value; empty where absent.
    pub procedure_code: String,
    /// Requested Procedure Priority (0040,1003), first letter: S, A, R, …; empty where absent.
    pub order_priority: String,
    /// Instances with pixel data that a person looks at.
    pub images: u32,
    /// All instances.
    pub instances: u32,
    /// Distinct series.
    pub series: u32,
    /// Bytes of all Part 10 files.
    pub bytes: u64,
    /// The patient, by reference.
    pub patient: Option<Ref>,
    /// The accession, by reference.
    pub accession: Option<Ref>,
}

/// A study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Study {
    /// Who sent it.
    pub site: SiteId,
    /// The AE title that sent it first.
    pub calling_ae: AeTitle,
    /// Where in its life it is.
    pub state: StudyState,
    /// The last complete revision; 0 before the first.
    pub revision: u32,
    /// When the first instance of the current assembly arrived: the bound on assembly counts from here.
    pub first_received_at: Time,
    /// When revision 1 was complete: clinical deadlines count from here.
    pub complete_at: Option<Time>,
    /// The manifest of the last complete revision.
    pub manifest: Option<Digest>,
    /// What the images of the last complete revision say.
    pub facts: Facts,
}

impl Record for Study {
    type Key = StudyKey;
}

/// What happens to a study.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an event lives for one call")]
pub enum StudyEvent {
    /// An instance that no revision has was received.
    Received,
    /// The images of the next revision are whole, and its manifest is in blobs.
    Completed {
        /// What says so.
        evidence: Evidence,
        /// What may be missing.
        doubt: Option<Doubt>,
        /// The manifest.
        manifest: Digest,
        /// What the images say.
        facts: Facts,
    },
    /// Nothing new was found after all: every instance received is in the last revision.
    NothingNew,
    /// The archive wrote the head.
    Closed,
    /// A late image or an addendum: the archive restored the study from its head.
    Reopened,
}

/// What has to follow a change of the study.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StudyEffect {
    /// Look at the intake again after the quiet period.
    AwaitQuiet,
    /// The study's trace ends here; later work links to it.
    EndTrace,
}

impl Study {
    /// The study as its first instance makes it.
    #[must_use]
    pub fn receiving(site: SiteId, calling_ae: AeTitle, now: Time) -> Self {
        Self {
            site,
            calling_ae,
            state: StudyState::Receiving,
            revision: 0,
            first_received_at: now,
            complete_at: None,
            manifest: None,
            facts: Facts::default(),
        }
    }

    /// The study after `event`.
    pub fn transition(mut self, event: StudyEvent, now: Time) -> Result<(Self, Vec<StudyEffect>), Illegal> {
        match (self.state.clone(), event) {
            (StudyState::Receiving, StudyEvent::Received) => Ok((self, vec![StudyEffect::AwaitQuiet])),
            (StudyState::Complete { .. }, StudyEvent::Received) => {
                self.state = StudyState::Receiving;
                self.first_received_at = now;
                Ok((self, vec![StudyEffect::AwaitQuiet]))
            }
            (StudyState::Receiving, StudyEvent::Completed { evidence, doubt, manifest, facts }) => {
                self.state = StudyState::Complete { evidence, doubt };
                self.revision += 1;
                self.manifest = Some(manifest);
                self.facts = facts;
                let first = self.complete_at.is_none();
                self.complete_at = self.complete_at.or(Some(now));
                Ok((self, if first { vec![StudyEffect::EndTrace] } else { Vec::new() }))
            }
            (StudyState::Receiving, StudyEvent::NothingNew) if self.revision > 0 => {
                self.state = StudyState::Complete { evidence: Evidence::QuietPeriod, doubt: None };
                Ok((self, Vec::new()))
            }
            (StudyState::Complete { .. }, StudyEvent::Closed) => {
                self.state = StudyState::Closed;
                Ok((self, Vec::new()))
            }
            (StudyState::Closed, StudyEvent::Reopened) => {
                self.state = StudyState::Complete { evidence: Evidence::QuietPeriod, doubt: None };
                Ok((self, Vec::new()))
            }
            (
                StudyState::Receiving,
                event @ (StudyEvent::NothingNew | StudyEvent::Closed | StudyEvent::Reopened),
            ) => Err(self.illegal(&event, "the study has no complete revision yet")),
            (
                StudyState::Complete { .. },
                event @ (StudyEvent::Completed { .. } | StudyEvent::NothingNew | StudyEvent::Reopened),
            ) => Err(self.illegal(&event, "nothing was received since this revision")),
            (
                StudyState::Closed,
                event @ (StudyEvent::Received
                | StudyEvent::Completed { .. }
                | StudyEvent::NothingNew
                | StudyEvent::Closed),
            ) => Err(self.illegal(&event, "reopen the study first")),
        }
    }

    fn illegal(&self, event: &StudyEvent, why: &'static str) -> Illegal {
        Illegal { record: "study", state: self.state.name(), event: event.name(), why }
    }
}

impl StudyState {
    /// The state's name in documents, events and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Receiving => "receiving",
            Self::Complete { .. } => "complete",
            Self::Closed => "closed",
        }
    }
}

impl StudyEvent {
    /// The event's name in documents and the journal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Completed { .. } => "completed",
            Self::NothingNew => "nothing-new",
            Self::Closed => "closed",
            Self::Reopened => "reopened",
        }
    }
}
