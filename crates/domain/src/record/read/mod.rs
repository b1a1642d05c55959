//! A read: one piece of human work on a case. And a holding: what one reader has in hand. Owner: reader-assignment.

mod conclusion;
mod event;
mod holding;
mod kind;
mod transition;

pub use conclusion::{Agreement, Assessment, Change, Conclusion, NotAssessment, Pair, Score};
pub use event::{ReadEffect, ReadEvent};
pub use holding::Holding;
pub use kind::ReadKind;

use super::{Record, report::StudyRevision};
use crate::{id::ReaderId, key::ReadKey, refs::Digest, time::Time};

/// The life of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// In the queue.
    Waiting,
    /// Signed as preliminary by a resident; in the queue of the attendings, one of whom makes it final.
    AwaitingFinal,
    /// Offered to one reader; lapses by time or with the reader's presence.
    Offered {
        /// To whom.
        reader: ReaderId,
        /// Until when it must be opened.
        until: Time,
    },
    /// In one reader's hands, durably: nothing but the reader or a lead ends this.
    Open {
        /// Whose.
        reader: ReaderId,
        /// Proves to Sign and Return that the caller is the present holder.
        token: String,
        /// Since when.
        since: Time,
        /// The studies as they were when it was opened.
        studies: Vec<StudyRevision>,
    },
    /// Set aside by its reader, whose it stays, and whose hands are free for another.
    Suspended {
        /// Whose.
        reader: ReaderId,
        /// As of the open read; Return and Transfer prove themselves by it.
        token: String,
        /// Why.
        reason: SuspendReason,
        /// Since when.
        since: Time,
        /// After this it is listed as stuck.
        until: Time,
        /// The studies as they were when it was opened.
        studies: Vec<StudyRevision>,
    },
    /// Done; the report version is under its own key.
    Signed {
        /// By whom.
        reader: ReaderId,
        /// When.
        at: Time,
        /// The report version.
        version: u32,
        /// What the reader saw.
        studies: Vec<StudyRevision>,
    },
    /// Done: the images do not allow a report, and a notice that says so is under its own key.
    NonDiagnostic {
        /// Who says so.
        reader: ReaderId,
        /// When.
        at: Time,
        /// The version of the notice.
        version: u32,
        /// What the reader saw.
        studies: Vec<StudyRevision>,
        /// Why.
        reason: Insufficiency,
        /// Whether the examination is to be repeated.
        repeat: bool,
    },
    /// Not wanted any more. Only what was asked for beside the first read, or drawn as a sample, ends so.
    Cancelled {
        /// When.
        at: Time,
    },
}

/// Why a read is set aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SuspendReason {
    /// Prior images or reports are to be had first.
    AwaitingPriors,
    /// Something has to be known from the clinic or the patient.
    AwaitingInformation,
    /// A colleague is asked.
    AwaitingAdvice,
    /// Something more urgent.
    Interrupted,
}

/// Why images do not allow a report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Insufficiency {
    /// The patient moved.
    Motion,
    /// Too much noise, or wrongly exposed.
    Exposure,
    /// The region in question is not, or not wholly, in the images.
    Coverage,
    /// Metal and other artefacts.
    Artefact,
    /// Contrast medium is missing or came at the wrong time.
    Contrast,
    /// Images are missing.
    Incomplete,
    /// The images are not of what was asked, or not of this patient.
    WrongExamination,
}

/// A return to the queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Return {
    /// Who gave it back; not offered it again.
    pub reader: ReaderId,
    /// Why.
    pub reason: ReturnReason,
    /// When.
    pub at: Time,
}

/// Why a read left a reader's hands unread.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReturnReason {
    /// Outside the reader's competence.
    NotCompetent,
    /// The reader knows the patient or has another interest.
    Conflict,
    /// The images do not allow a report.
    ImagesInsufficient,
    /// The reader was called away.
    Interrupted,
    /// A lead took it back from a reader who is gone.
    Reassigned,
    /// It was handed to another reader.
    Transferred,
}

/// What a resident signed, until an attending makes it final.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preliminary {
    /// The resident.
    pub reader: ReaderId,
    /// When.
    pub at: Time,
    /// The report version.
    pub version: u32,
    /// What the resident saw.
    pub studies: Vec<StudyRevision>,
}

/// A read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// What kind of work.
    pub kind: ReadKind,
    /// Where in its life it is.
    pub state: ReadState,
    /// Since when it waits; a return keeps it.
    pub waiting_since: Time,
    /// Returns, the last [`Read::MAX_RETURNS`].
    pub returns: Vec<Return>,
    /// Bodies that were signed with a stale token, the last [`Read::MAX_DRAFTS`], for the next holder to see.
    pub drafts: Vec<Digest>,
    /// When it should be signed, where that is not the case's deadline.
    pub due: Option<Time>,
    /// The request that asked for it, for ever: the same request again gets this read. Empty where nobody asked.
    pub request_id: String,
    /// What was asked, a text in blobs.
    pub question: Option<Digest>,
    /// What a resident signed.
    pub preliminary: Option<Preliminary>,
    /// What was concluded beside the report's text.
    pub conclusion: Option<Conclusion>,
}

impl Record for Read {
    type Key = ReadKey;
}

impl Read {
    /// How many returns a read remembers.
    pub const MAX_RETURNS: usize = 8;
    /// How many drafts a read remembers.
    pub const MAX_DRAFTS: usize = 4;

    /// The read as it enters the queue.
    #[must_use]
    pub const fn waiting(kind: ReadKind, now: Time) -> Self {
        Self {
            kind,
            state: ReadState::Waiting,
            waiting_since: now,
            returns: Vec::new(),
            drafts: Vec::new(),
            due: None,
            request_id: String::new(),
            question: None,
            preliminary: None,
            conclusion: None,
        }
    }

    /// Whose the read is: offered, open or set aside.
    #[must_use]
    pub const fn holder(&self) -> Option<&ReaderId> {
        match &self.state {
            ReadState::Offered { reader, .. }
            | ReadState::Open { reader, .. }
            | ReadState::Suspended { reader, .. } => Some(reader),
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Signed { .. }
            | ReadState::NonDiagnostic { .. }
            | ReadState::Cancelled { .. } => None,
        }
    }

    /// Whether the read is known to have left this reader's hands so.
    #[must_use]
    pub fn left(&self, reader: &ReaderId, reason: ReturnReason) -> bool {
        self.returns.iter().any(|back| back.reader == *reader && back.reason == reason)
    }

    /// The token of an open or suspended read.
    #[must_use]
    pub const fn token(&self) -> Option<&String> {
        match &self.state {
            ReadState::Open { token, .. } | ReadState::Suspended { token, .. } => Some(token),
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Offered { .. }
            | ReadState::Signed { .. }
            | ReadState::NonDiagnostic { .. }
            | ReadState::Cancelled { .. } => None,
        }
    }

    /// Whether it is in the queue: it may be offered.
    #[must_use]
    pub const fn is_queued(&self) -> bool {
        match self.state {
            ReadState::Waiting | ReadState::AwaitingFinal => true,
            ReadState::Offered { .. }
            | ReadState::Open { .. }
            | ReadState::Suspended { .. }
            | ReadState::Signed { .. }
            | ReadState::NonDiagnostic { .. }
            | ReadState::Cancelled { .. } => false,
        }
    }

    /// Whether work on it is still owed.
    #[must_use]
    pub const fn is_live(&self) -> bool {
        match self.state {
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Offered { .. }
            | ReadState::Open { .. }
            | ReadState::Suspended { .. } => true,
            ReadState::Signed { .. } | ReadState::NonDiagnostic { .. } | ReadState::Cancelled { .. } => false,
        }
    }

    /// Who ended it, when, with which report version, having seen what; `None` while it lives, and where it was
    /// cancelled.
    #[must_use]
    pub const fn concluded(&self) -> Option<(&ReaderId, Time, u32, &Vec<StudyRevision>)> {
        match &self.state {
            ReadState::Signed { reader, at, version, studies }
            | ReadState::NonDiagnostic { reader, at, version, studies, .. } => {
                Some((reader, *at, *version, studies))
            }
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Offered { .. }
            | ReadState::Open { .. }
            | ReadState::Suspended { .. }
            | ReadState::Cancelled { .. } => None,
        }
    }

    /// Whether only an attending may have it: what is not a first read, and what a resident has signed already.
    #[must_use]
    pub const fn needs_attending(&self) -> bool {
        self.preliminary.is_some() || !matches!(self.kind, ReadKind::Primary)
    }

    /// The number of the report version that the next signature makes.
    #[must_use]
    pub fn next_version(&self) -> u32 {
        self.preliminary.as_ref().map_or(1, |signed| signed.version + 1)
    }

    /// How many of its report versions leave the house. Of two blinded reads none does before they agree or a third
    /// reader has decided; what a reviewer writes never does.
    #[must_use]
    pub fn released(&self) -> usize {
        let last = self.concluded().is_some() && self.kind.is_released(self.conclusion.as_ref());
        usize::from(self.preliminary.is_some()) + usize::from(last)
    }

    /// When it should be signed; `deadline` is its case's.
    #[must_use]
    pub fn due_at(&self, deadline: std::time::Duration) -> Time {
        self.due.unwrap_or_else(|| self.waiting_since.plus(deadline))
    }
}

impl ReadState {
    /// The state's name in documents, events and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::AwaitingFinal => "awaiting-final",
            Self::Offered { .. } => "offered",
            Self::Open { .. } => "open",
            Self::Suspended { .. } => "suspended",
            Self::Signed { .. } => "signed",
            Self::NonDiagnostic { .. } => "non-diagnostic",
            Self::Cancelled { .. } => "cancelled",
        }
    }
}

impl SuspendReason {
    /// The reason's name in events.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::AwaitingPriors => "awaiting-priors",
            Self::AwaitingInformation => "awaiting-information",
            Self::AwaitingAdvice => "awaiting-advice",
            Self::Interrupted => "interrupted",
        }
    }
}

impl Insufficiency {
    /// The reason's name in events, metrics and notices.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Motion => "motion",
            Self::Exposure => "exposure",
            Self::Coverage => "coverage",
            Self::Artefact => "artefact",
            Self::Contrast => "contrast",
            Self::Incomplete => "incomplete",
            Self::WrongExamination => "wrong-examination",
        }
    }
}

impl ReturnReason {
    /// The reason's name in events and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotCompetent => "not-competent",
            Self::Conflict => "conflict",
            Self::ImagesInsufficient => "images-insufficient",
            Self::Interrupted => "interrupted",
            Self::Reassigned => "reassigned",
            Self::Transferred => "transferred",
        }
    }
}
