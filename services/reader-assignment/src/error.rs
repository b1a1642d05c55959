//! What can go wrong, and what a caller is told.

use std::time::Duration;

use isocenter_assign::Rejection;
use isocenter_domain::{Kind, Kinded, record::Illegal};
use isocenter_runtime::status::Answer;
use isocenter_store::table::TableError;
use isocenter_wire::{Malformed, error::Undecodable};
use tonic::Status;

use crate::plan::item::rejection_name;

/// Why a call or a run came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record could not be had or changed.
    #[error("the records are not to be had now")]
    Table(#[from] TableError),
    /// A report's body could not be kept.
    #[error("the report's text cannot be kept now")]
    Blobs(#[from] isocenter_blobs::Error),
    /// The read is not in a state that allows this.
    #[error("{0}")]
    Illegal(Illegal),
    /// A field of the request is wrong.
    #[error(transparent)]
    Malformed(#[from] Malformed),
    /// There is no such thing.
    #[error("there is no such {0}")]
    NotFound(&'static str),
    /// A text that was kept cannot be understood.
    #[error("a text that was kept cannot be understood")]
    Undecodable(#[from] Undecodable),
    /// The caller's position does not allow this; callers branch on `reason`.
    #[error("{why}")]
    Refused {
        /// Upper snake case.
        reason: &'static str,
        /// For people.
        why: &'static str,
    },
    /// A hard filter stands against it.
    #[error("the reader may not read this: {}", told(*.0))]
    Rejected(Rejection),
    /// The open token is not the present one.
    #[error("the open token is stale; {}", if *.kept { "the text is kept as a draft of the read" } else { "the text is not kept, because this reader never held the read" })]
    Stale {
        /// Whether the body is kept as a draft.
        kept: bool,
    },
    /// As many offers are being committed as may be at a time.
    #[error("too many offers are being made at this moment")]
    Busy,
    /// Another call of the same reader is being answered.
    #[error("another request of this reader is being answered")]
    InHand,
    /// Nobody leads, or the leader cannot be reached: no offer can be made now.
    #[error("no process makes offers at this moment")]
    NoLeader,
}

impl From<Illegal> for Error {
    fn from(illegal: Illegal) -> Self {
        Self::Illegal(illegal)
    }
}

impl From<isocenter_store::Error> for Error {
    fn from(e: isocenter_store::Error) -> Self {
        Self::Table(e.into())
    }
}

impl Error {
    /// Newer images than the reader saw.
    pub(crate) const NEW_IMAGES: Self = Self::Refused {
        reason: "NEW_IMAGES",
        why: "newer images of a study of this read have come; open the read again, or sign as of what was seen",
    };
    /// The reader holds an open read.
    pub(crate) const READ_OPEN: Self = Self::Refused {
        reason: "READ_OPEN",
        why: "the reader has a read open; sign, return or set it aside first",
    };
    /// What was leased ahead went back to the queue for something that goes before it.
    pub(crate) const OUTRANKED: Self = Self::Refused {
        reason: "OUTRANKED",
        why: "something that goes before it came since it was leased ahead; ask for the next read",
    };
    /// The reader's workstation gives no sign of life.
    pub(crate) const NOT_PRESENT: Self = Self::Refused {
        reason: "NOT_PRESENT",
        why: "the reader is not present; open a presence stream first",
    };
    /// The registry does not know the reader.
    pub(crate) const NOT_REGISTERED: Self =
        Self::Refused { reason: "NOT_REGISTERED", why: "the registry has no such reader" };
    /// The read is over.
    pub(crate) const SIGNED: Self = Self::Refused { reason: "SIGNED", why: "the read is signed" };
    /// Nobody wants the read any more.
    pub(crate) const CANCELLED: Self =
        Self::Refused { reason: "CANCELLED", why: "the read is cancelled; nobody wants it any more" };
    /// The read is set aside.
    pub(crate) const SUSPENDED: Self =
        Self::Refused { reason: "SUSPENDED", why: "the read is set aside; open it again first" };
    /// The reader has set aside as many reads as he may.
    pub(crate) const TOO_MANY_SUSPENDED: Self = Self::Refused {
        reason: "TOO_MANY_SUSPENDED",
        why: "the reader has set aside 8 reads already; take one of them up first",
    };
    /// The reader to whom a read is handed has an offer already.
    pub(crate) const OFFERED_ANOTHER: Self = Self::Refused {
        reason: "OFFERED_ANOTHER",
        why: "the reader to whom it is handed has another offer; he opens or returns that one first",
    };
    /// The reader is a resident.
    pub(crate) const ATTENDING_ONLY: Self = Self::Refused {
        reason: "ATTENDING_ONLY",
        why: "only an attending does this; the reader is a resident",
    };
    /// The read is one of two that are hidden from each other.
    pub(crate) const BLINDED: Self = Self::Refused {
        reason: "BLINDED",
        why: "the read is one of two blinded ones; ask once they have come to a report, on the read whose report it is",
    };
    /// The read stands beside the case's own report.
    pub(crate) const NOT_OF_RECORD: Self = Self::Refused {
        reason: "NOT_OF_RECORD",
        why: "the read stands beside the case's own report; return it instead, or name the case's own read",
    };
    /// The read is the case's own.
    pub(crate) const OF_RECORD: Self = Self::Refused {
        reason: "OF_RECORD",
        why: "the read is the case's own and cannot be cancelled; a study that must not be read is held at ingestion",
    };
    /// As many reads of the case are under way as may be.
    pub(crate) const TOO_MANY_ASKED: Self = Self::Refused {
        reason: "TOO_MANY_ASKED",
        why: "16 reads of this case are under way; wait for one of them, or have one cancelled",
    };
    /// Another request bears this id.
    pub(crate) const OTHER_REQUEST: Self = Self::Refused {
        reason: "OTHER_REQUEST",
        why: "this request id asked for something else on this case; take a new one",
    };
    /// Somebody else holds the read, or nobody does.
    pub(crate) const NOT_HELD: Self = Self::Refused {
        reason: "NOT_HELD",
        why: "the read is neither offered to this reader nor open with him",
    };
    /// Somebody holds what was to be handed out of the queue.
    pub(crate) const HELD: Self = Self::Refused {
        reason: "HELD",
        why: "somebody holds the read; name the reader from whom it is taken",
    };
    /// The case is closed or one of its studies is.
    pub(crate) const CLOSED: Self =
        Self::Refused { reason: "CLOSED", why: "the case is closed; reopen it first" };

    /// Whether the same decision may come out otherwise after reading again: somebody else was first, or it is not
    /// known whether this was done.
    pub(crate) fn is_worth_rereading(&self) -> bool {
        match self {
            Self::Table(TableError::Conflict) => true,
            Self::Table(TableError::Store(e)) => e.is_ambiguous(),
            Self::Table(TableError::Undecodable { .. })
            | Self::Blobs(_)
            | Self::Illegal(_)
            | Self::Malformed(_)
            | Self::NotFound(_)
            | Self::Undecodable(_)
            | Self::Refused { .. }
            | Self::Rejected(_)
            | Self::Stale { .. }
            | Self::Busy
            | Self::InHand
            | Self::NoLeader => false,
        }
    }

    /// What the caller is told.
    pub(crate) fn status(&self) -> Status {
        let answer = Answer::of(self);
        match self {
            Self::Malformed(e) => Answer::invalid(e.field, e.why.clone()).status(),
            Self::Refused { reason, .. } => answer.reason(*reason).status(),
            Self::Rejected(rejection) => answer.reason(reason(*rejection)).status(),
            Self::Stale { .. } => answer.reason("STALE_TOKEN").status(),
            Self::Busy | Self::InHand => answer.retry_after(Duration::from_millis(100)).status(),
            Self::Table(_)
            | Self::Blobs(_)
            | Self::Illegal(_)
            | Self::NotFound(_)
            | Self::Undecodable(_)
            | Self::NoLeader => answer.status(),
        }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Table(e) => e.kind(),
            Self::Blobs(e) => e.kind(),
            Self::Illegal(e) => e.kind(),
            Self::Malformed(e) => e.kind(),
            Self::Undecodable(e) => e.kind(),
            Self::NotFound(_) => Kind::NotFound,
            Self::Refused { .. } | Self::Rejected(_) => Kind::FailedPrecondition,
            Self::Stale { .. } | Self::InHand => Kind::Conflict,
            Self::Busy => Kind::Exhausted,
            Self::NoLeader => Kind::Unavailable,
        }
    }
}

/// A filter as the caller branches on it. Why single readers are excluded is not told to them: it would say who has, or had,
/// the read that is to stay hidden.
fn reason(rejection: Rejection) -> String {
    match rejection {
        Rejection::Excluded(_) => "EXCLUDED".to_owned(),
        other => rejection_name(other).to_uppercase().replace('-', "_"),
    }
}

/// A filter for people, likewise.
fn told(rejection: Rejection) -> String {
    match rejection {
        Rejection::Excluded(_) => "had or has to do with it, or returned it".to_owned(),
        other => other.to_string(),
    }
}
