//! A read: one piece of human work on a case. And a holding: what one reader has in hand. Owner: reader-assignment.

use super::{Illegal, Record, report::StudyRevision};
use crate::{
    id::{ReadId, ReaderId},
    key::{HoldingKey, ReadKey},
    refs::Digest,
    time::Time,
};

/// What kind of work a read is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// The first read of a case.
    Primary,
    /// Images that no signed report names have come since.
    Discrepancy {
        /// The read whose report may have to be corrected, by number.
        of: u32,
    },
}

/// The life of a read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReadState {
    /// In the queue.
    Waiting,
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

/// Why a read came back to the queue.
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
}

impl Record for Read {
    type Key = ReadKey;
}

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
        /// Whether newer images exist that the reader chose not to wait for.
        newer_images: bool,
    },
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
    /// The reader's holding no longer names this read.
    Release(ReaderId),
    /// The report version is created.
    CreateReport,
    /// A discrepancy read is created: images exist that the report does not name.
    CreateDiscrepancy,
}

impl Read {
    /// How many returns a read remembers.
    pub const MAX_RETURNS: usize = 8;
    /// How many drafts a read remembers.
    pub const MAX_DRAFTS: usize = 4;

    /// The read as it enters the queue.
    #[must_use]
    pub const fn waiting(kind: ReadKind, now: Time) -> Self {
        Self { kind, state: ReadState::Waiting, waiting_since: now, returns: Vec::new(), drafts: Vec::new() }
    }

    /// Who holds the read, as an offer or open.
    #[must_use]
    pub const fn holder(&self) -> Option<&ReaderId> {
        match &self.state {
            ReadState::Offered { reader, .. } | ReadState::Open { reader, .. } => Some(reader),
            ReadState::Waiting | ReadState::Signed { .. } => None,
        }
    }

    /// The read after `event`.
    #[expect(clippy::too_many_lines, reason = "a table of states and events")]
    pub fn transition(mut self, event: ReadEvent, now: Time) -> Result<(Self, Vec<ReadEffect>), Illegal> {
        use ReadEffect as Do;
        use ReadState as S;
        let effects = match (self.state.clone(), event) {
            (S::Waiting, ReadEvent::Offered { reader, until }) => {
                self.state = S::Offered { reader: reader.clone(), until };
                vec![Do::HoldOffered(reader)]
            }
            (S::Offered { reader, .. }, ReadEvent::Lapsed) => {
                self.state = S::Waiting;
                vec![Do::Release(reader)]
            }
            (
                S::Offered { reader: holder, .. } | S::Open { reader: holder, .. },
                ReadEvent::Opened { reader, token, studies },
            ) if holder == reader => {
                self.state = S::Open { reader: reader.clone(), token, since: now, studies };
                vec![Do::HoldOpen(reader)]
            }
            (S::Offered { reader: holder, .. }, ReadEvent::Returned { reader, reason, .. })
                if holder == reader =>
            {
                self.remember(reader.clone(), reason, now);
                vec![Do::Release(reader)]
            }
            (
                S::Open { reader: holder, token: current, .. },
                ReadEvent::Returned { reader, token, reason },
            ) if holder == reader && token.as_ref() == Some(&current) => {
                self.remember(reader.clone(), reason, now);
                vec![Do::Release(reader)]
            }
            (S::Offered { reader, .. } | S::Open { reader, .. }, ReadEvent::Reassigned) => {
                self.remember(reader.clone(), ReturnReason::Reassigned, now);
                vec![Do::Release(reader)]
            }
            (
                S::Open { reader: holder, token: current, .. },
                ReadEvent::Signed { reader, token, version, studies, newer_images },
            ) if holder == reader && token == current => {
                self.state = S::Signed { reader: reader.clone(), at: now, version, studies };
                let mut effects = vec![Do::Release(reader), Do::CreateReport];
                if newer_images {
                    effects.push(Do::CreateDiscrepancy);
                }
                effects
            }
            (S::Waiting | S::Offered { .. } | S::Open { .. }, ReadEvent::DraftKept { body }) => {
                self.drafts.retain(|draft| *draft != body);
                self.drafts.push(body);
                let excess = self.drafts.len().saturating_sub(Self::MAX_DRAFTS);
                self.drafts.drain(..excess);
                Vec::new()
            }
            (
                state @ S::Waiting,
                event @ (ReadEvent::Lapsed
                | ReadEvent::Opened { .. }
                | ReadEvent::Returned { .. }
                | ReadEvent::Reassigned
                | ReadEvent::Signed { .. }),
            )
            | (
                state @ S::Offered { .. },
                event @ (ReadEvent::Offered { .. }
                | ReadEvent::Opened { .. }
                | ReadEvent::Returned { .. }
                | ReadEvent::Signed { .. }),
            )
            | (
                state @ S::Open { .. },
                event @ (ReadEvent::Offered { .. }
                | ReadEvent::Lapsed
                | ReadEvent::Opened { .. }
                | ReadEvent::Returned { .. }
                | ReadEvent::Signed { .. }),
            )
            | (
                state @ S::Signed { .. },
                event @ (ReadEvent::Offered { .. }
                | ReadEvent::Lapsed
                | ReadEvent::Opened { .. }
                | ReadEvent::Returned { .. }
                | ReadEvent::Reassigned
                | ReadEvent::Signed { .. }
                | ReadEvent::DraftKept { .. }),
            ) => return Err(illegal(&state, &event)),
        };
        Ok((self, effects))
    }

    fn remember(&mut self, reader: ReaderId, reason: ReturnReason, at: Time) {
        self.state = ReadState::Waiting;
        self.returns.push(Return { reader, reason, at });
        let excess = self.returns.len().saturating_sub(Self::MAX_RETURNS);
        self.returns.drain(..excess);
    }
}

/// What one reader has in hand. Every transaction that offers, opens, returns or signs compares and puts it, which is why
/// a reader can never have two open reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The standing offer; a reader who has a read open may have one besides.
    pub offered: Option<ReadId>,
    /// The open read.
    pub open: Option<ReadId>,
}

impl Record for Holding {
    type Key = HoldingKey;
}

impl Holding {
    /// The holding after one effect of a change of `read`.
    pub fn apply(mut self, read: &ReadId, effect: &ReadEffect) -> Result<Self, Illegal> {
        let illegal = |state, event, why| Illegal { record: "holding", state, event, why };
        match effect {
            ReadEffect::HoldOffered(_) => {
                if self.offered.as_ref().is_some_and(|offered| offered != read) {
                    return Err(illegal("occupied", "offered", "the reader has another offer"));
                }
                self.offered = Some(read.clone());
            }
            ReadEffect::HoldOpen(_) => {
                if self.open.as_ref().is_some_and(|open| open != read) {
                    return Err(illegal("occupied", "opened", "the reader has another read open"));
                }
                self.offered = self.offered.filter(|offered| offered != read);
                self.open = Some(read.clone());
            }
            ReadEffect::Release(_) => {
                self.offered = self.offered.filter(|offered| offered != read);
                self.open = self.open.filter(|open| open != read);
            }
            ReadEffect::CreateReport | ReadEffect::CreateDiscrepancy => {}
        }
        Ok(self)
    }
}

/// The refusal of `event` in `state`, saying what the caller can learn from it. Every pair that no arm of
/// [`Read::transition`] takes ends here; `docs/states.md` lists them all.
fn illegal(state: &ReadState, event: &ReadEvent) -> Illegal {
    let why = match state {
        ReadState::Waiting => "nobody holds the read",
        ReadState::Offered { .. } => "the read is offered, to another reader or not yet opened",
        ReadState::Open { .. } => "the caller is not its present holder, or the token is stale",
        ReadState::Signed { .. } => "the read is signed",
    };
    Illegal { record: "read", state: state.name(), event: event.name(), why }
}

impl ReadState {
    /// The state's name in documents, events and metrics.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Offered { .. } => "offered",
            Self::Open { .. } => "open",
            Self::Signed { .. } => "signed",
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
            Self::Returned { .. } => "returned",
            Self::Reassigned => "reassigned",
            Self::Signed { .. } => "signed",
            Self::DraftKept { .. } => "draft-kept",
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
        }
    }
}
