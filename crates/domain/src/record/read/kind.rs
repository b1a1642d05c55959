//! What kinds of work there are.

use super::{Conclusion, Pair};

/// What kind of work a read is. Numbers are those of other reads of the same case.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadKind {
    /// The first read of a case.
    Primary,
    /// One of two first reads by different readers, each hidden from the other until both are signed.
    Blinded {
        /// The other one.
        with: u32,
    },
    /// The decision of a third reader, who sees both of two blinded reads that disagree.
    Arbitration {
        /// The first.
        of: u32,
        /// The second.
        with: u32,
    },
    /// A report may have to be corrected.
    Discrepancy {
        /// The read whose report it is.
        of: u32,
        /// The read whose reader disagrees; none: images that no signed report names have come since.
        with: Option<u32>,
    },
    /// Another reader's opinion, asked for. Its report stands beside the first and never replaces it.
    SecondOpinion {
        /// The read that it is an opinion on.
        of: u32,
    },
    /// An answer to a clinician's question about the case.
    Consultation,
    /// A peer's review of a signed report, drawn as a sample.
    Review {
        /// The read whose report is reviewed.
        of: u32,
    },
}

impl ReadKind {
    /// The kind's name in events, metrics and records.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Primary => "primary",
            Self::Blinded { .. } => "blinded",
            Self::Arbitration { .. } => "arbitration",
            Self::Discrepancy { .. } => "discrepancy",
            Self::SecondOpinion { .. } => "second-opinion",
            Self::Consultation => "consultation",
            Self::Review { .. } => "review",
        }
    }

    /// Whether it is a first read, whose signature the deadline of the case's class asks for.
    #[must_use]
    pub const fn is_first(self) -> bool {
        match self {
            Self::Primary | Self::Blinded { .. } => true,
            Self::Arbitration { .. }
            | Self::Discrepancy { .. }
            | Self::SecondOpinion { .. }
            | Self::Consultation
            | Self::Review { .. } => false,
        }
    }

    /// Whether the patient waits for it; quality work alone is not clinical.
    #[must_use]
    pub const fn is_clinical(self) -> bool {
        match self {
            Self::Primary
            | Self::Blinded { .. }
            | Self::Arbitration { .. }
            | Self::Discrepancy { .. }
            | Self::SecondOpinion { .. }
            | Self::Consultation => true,
            Self::Review { .. } => false,
        }
    }

    /// Whether its report is the case's own. Its reader may say that the images do not allow one. The rest stands beside
    /// it, and can be cancelled, since nothing that the patient is owed depends on it.
    #[must_use]
    pub const fn is_of_record(self) -> bool {
        match self {
            Self::Primary | Self::Blinded { .. } | Self::Arbitration { .. } | Self::Discrepancy { .. } => {
                true
            }
            Self::SecondOpinion { .. } | Self::Consultation | Self::Review { .. } => false,
        }
    }

    /// The earlier reads that it is about, whose readers do not judge themselves and whose reports its reader sees.
    #[must_use]
    pub const fn about(self) -> [Option<u32>; 2] {
        match self {
            Self::Arbitration { of, with } => [Some(of), Some(with)],
            Self::Discrepancy { of, with } => [Some(of), with],
            Self::SecondOpinion { of } | Self::Review { of } => [Some(of), None],
            Self::Primary | Self::Blinded { .. } | Self::Consultation => [None, None],
        }
    }

    /// Whether the report of a read that concluded so leaves the house.
    pub(super) const fn is_released(self, conclusion: Option<&Conclusion>) -> bool {
        match self {
            Self::Blinded { .. } => {
                matches!(conclusion, Some(Conclusion::Blinded { pair: Pair::Agreed, .. }))
            }
            Self::Review { .. } => false,
            Self::Primary
            | Self::Arbitration { .. }
            | Self::Discrepancy { .. }
            | Self::SecondOpinion { .. }
            | Self::Consultation => true,
        }
    }
}
