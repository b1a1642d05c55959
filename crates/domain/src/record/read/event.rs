//! What happens to a read, and what has to follow.

use super::{Conclusion, Insufficiency, ReturnReason, SuspendReason};
use crate::{id::ReaderId, record::report::StudyRevision, refs::Digest, time::Time};

/// What happens to a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadEvent {
    /// The leader offers it.
    Offered {
        /// To whom.
        reader: ReaderId,
        /// Until when.
        until: Time,
    },
    /// The offer's time or the reader's presence ended.
    Lapsed,
    /// The reader takes it, or takes it up again with a new token.
    Opened {
        /// Who.
        reader: ReaderId,
        /// The new token.
        token: String,
        /// The studies as they are.
        studies: Vec<StudyRevision>,
    },
    /// A reader takes it out of the queue by its name.
    OpenedByName {
        /// Who.
        reader: ReaderId,
        /// The token.
        token: String,
        /// The studies as they are.
        studies: Vec<StudyRevision>,
    },
    /// The reader sets it aside.
    Suspended {
        /// Who.
        reader: ReaderId,
        /// The token.
        token: String,
        /// Why.
        reason: SuspendReason,
        /// Until when at most.
        until: Time,
    },
    /// It is handed to another reader, who takes it by opening it.
    Transferred {
        /// Its holder with the token; none: a lead does it.
        by: Option<(ReaderId, String)>,
        /// To whom.
        to: ReaderId,
        /// Until when it must be opened.
        until: Time,
    },
    /// The reader gives it back.
    Returned {
        /// Who.
        reader: ReaderId,
        /// The token, where it was open.
        token: Option<String>,
        /// Why.
        reason: ReturnReason,
    },
    /// A lead takes it back from its holder.
    Reassigned,
    /// A resident signs.
    SignedPreliminary {
        /// Who.
        reader: ReaderId,
        /// The token.
        token: String,
        /// What the reader saw.
        studies: Vec<StudyRevision>,
    },
    /// The reader signs.
    Signed {
        /// Who.
        reader: ReaderId,
        /// The token.
        token: String,
        /// The report version.
        version: u32,
        /// What the reader saw.
        studies: Vec<StudyRevision>,
        /// What is concluded beside the text.
        conclusion: Option<Conclusion>,
        /// Whether newer images exist that the reader chose not to wait for.
        newer_images: bool,
    },
    /// The reader says that the images do not allow a report.
    DeclaredNonDiagnostic {
        /// Who.
        reader: ReaderId,
        /// The token.
        token: String,
        /// The version of the notice.
        version: u32,
        /// What the reader saw.
        studies: Vec<StudyRevision>,
        /// Why.
        reason: Insufficiency,
        /// Whether the examination is to be repeated.
        repeat: bool,
        /// Of a blinded read, how it stands to the other.
        conclusion: Option<Conclusion>,
    },
    /// Nobody wants it any more.
    Cancelled,
    /// A body signed with a stale token is kept.
    DraftKept {
        /// The body in blobs.
        body: Digest,
    },
}

/// What has to commit together with a change of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadEffect {
    /// The reader's holding names this read as offered.
    HoldOffered(ReaderId),
    /// The reader's holding names this read as open.
    HoldOpen(ReaderId),
    /// The reader's holding names this read as set aside.
    HoldSuspended(ReaderId),
    /// The reader's holding no longer names this read.
    Release(ReaderId),
    /// The report version is created.
    CreateReport,
    /// A discrepancy read is created.
    CreateDiscrepancy {
        /// The read whose report may have to be corrected, where a reader disagrees with it; none: this read's own, since
        /// images exist that its report does not name.
        disagrees_with: Option<u32>,
    },
    /// An arbitration read is created: this read and the other of its pair differ.
    CreateArbitration,
}

impl ReadEffect {
    /// The reader whose holding the effect is on.
    #[must_use]
    pub const fn reader(&self) -> Option<&ReaderId> {
        match self {
            Self::HoldOffered(reader)
            | Self::HoldOpen(reader)
            | Self::HoldSuspended(reader)
            | Self::Release(reader) => Some(reader),
            Self::CreateReport | Self::CreateDiscrepancy { .. } | Self::CreateArbitration => None,
        }
    }
}

impl ReadEvent {
    /// The event's name in documents and the journal.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Offered { .. } => "offered",
            Self::Lapsed => "lapsed",
            Self::Opened { .. } => "opened",
            Self::OpenedByName { .. } => "opened-by-name",
            Self::Suspended { .. } => "suspended",
            Self::Transferred { .. } => "transferred",
            Self::Returned { .. } => "returned",
            Self::Reassigned => "reassigned",
            Self::SignedPreliminary { .. } => "signed-preliminary",
            Self::Signed { .. } => "signed",
            Self::DeclaredNonDiagnostic { .. } => "non-diagnostic",
            Self::Cancelled => "cancelled",
            Self::DraftKept { .. } => "draft-kept",
        }
    }
}
