//! A signed report version: create-only, immutable. Owner: reader-assignment. The body is in blobs.

use super::Record;
use crate::{
    id::{ReaderId, StudyUid},
    key::ReportKey,
    refs::Digest,
    time::Time,
};

/// What a version is to those before it (HL7 table 0123 in brackets).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReportKind {
    /// A resident's report, until an attending makes it final [P].
    Preliminary,
    /// A final report [F]. The final report after a preliminary one is F as well, however far it changed: C corrects what
    /// was final before.
    Final,
    /// A final report after newer images or a discrepancy; it replaces an earlier one [C].
    Correction,
    /// A notice that the images do not allow a report [X].
    NonDiagnostic,
    /// It never leaves the house: of a blinded read that another one's report decides, or of a peer review.
    Withheld,
}

/// A study as the reader saw it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StudyRevision {
    /// The study.
    pub study: StudyUid,
    /// The revision.
    pub revision: u32,
}

/// A signed report version.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// What it is to earlier versions.
    pub kind: ReportKind,
    /// The body in blobs.
    pub body: Digest,
    /// Who signed.
    pub author: ReaderId,
    /// When.
    pub signed_at: Time,
    /// The studies as the author saw them.
    pub studies: Vec<StudyRevision>,
    /// The read whose report it replaces, by number; a correction has one.
    pub replaces: Option<u32>,
    /// The read whose report it stands beside, by number; a second opinion has one.
    pub about: Option<u32>,
    /// The request that signed it, for ever: the same request again gets this version.
    pub request_id: String,
}

impl Record for Report {
    type Key = ReportKey;
}

impl ReportKind {
    /// The kind's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Preliminary => "preliminary",
            Self::Final => "final",
            Self::Correction => "correction",
            Self::NonDiagnostic => "non-diagnostic",
            Self::Withheld => "withheld",
        }
    }

    /// Whether it goes to the case's destinations.
    #[must_use]
    pub const fn is_released(self) -> bool {
        match self {
            Self::Preliminary | Self::Final | Self::Correction | Self::NonDiagnostic => true,
            Self::Withheld => false,
        }
    }
}
