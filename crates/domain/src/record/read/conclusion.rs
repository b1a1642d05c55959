//! What a reader concludes beside the report's text, in a form that can be compared and counted.

use std::{fmt, str::FromStr};

/// What was concluded. Which of these a signature needs depends on the read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conclusion {
    /// Of an attending who makes a resident's report final: how far it changed.
    Final(Change),
    /// Of a second opinion: whether it agrees with the signed report.
    Opinion(Agreement),
    /// Of a blinded read.
    Blinded {
        /// The assessment; none: the images do not allow one.
        assessment: Option<Assessment>,
        /// How it stands to the other read.
        pair: Pair,
    },
    /// Of a peer review.
    Review(Score),
}

/// How far an attending changed a resident's report.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Not at all, or its wording.
    None,
    /// Without consequence for the patient's care.
    Minor,
    /// With consequence for the patient's care.
    Major,
}

/// Whether a second opinion agrees with the first report.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Agreement {
    /// It does.
    Agrees,
    /// It does not.
    Disagrees,
}

/// How one of two blinded reads stands to the other when it is signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pair {
    /// The other is not signed yet.
    First,
    /// Both say the same of the same images: the report of the one signed last is the final one.
    Agreed,
    /// They differ: a third reader decides.
    Disagreed,
}

/// A score of the RADPEER scale (2016): 1 concur; 2 an understandable miss, 3 one that should not happen, each (a)
/// unlikely or (b) likely to be clinically significant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Score {
    /// 1.
    Concur,
    /// 2a.
    UnderstandableInsignificant,
    /// 2b.
    UnderstandableSignificant,
    /// 3a.
    UnexpectedInsignificant,
    /// 3b.
    UnexpectedSignificant,
}

/// The assessment of a blinded read in the categories of the network's programme, e.g. `recall` or `BI-RADS-2`: what is
/// compared. 1 to 16 ASCII letters, digits and `-`; case does not count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Assessment(String);

/// A text that is no assessment.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not 1 to 16 letters, digits and hyphens")]
pub struct NotAssessment;

impl FromStr for Assessment {
    type Err = NotAssessment;

    fn from_str(text: &str) -> Result<Self, NotAssessment> {
        let ok =
            (1..=16).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if ok { Ok(Self(text.to_ascii_lowercase())) } else { Err(NotAssessment) }
    }
}

impl fmt::Display for Assessment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Change {
    /// The grade's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Minor => "minor",
            Self::Major => "major",
        }
    }
}

impl Agreement {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Agrees => "agrees",
            Self::Disagrees => "disagrees",
        }
    }
}

impl Pair {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::First => "first",
            Self::Agreed => "agreed",
            Self::Disagreed => "disagreed",
        }
    }
}

impl Score {
    /// Every score, from concurrence.
    pub const ALL: [Self; 5] = [
        Self::Concur,
        Self::UnderstandableInsignificant,
        Self::UnderstandableSignificant,
        Self::UnexpectedInsignificant,
        Self::UnexpectedSignificant,
    ];

    /// As the scale writes it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Concur => "1",
            Self::UnderstandableInsignificant => "2a",
            Self::UnderstandableSignificant => "2b",
            Self::UnexpectedInsignificant => "3a",
            Self::UnexpectedSignificant => "3b",
        }
    }

    /// Whether the reviewer has to say why, and a group looks at it: from 2b.
    #[must_use]
    pub fn needs_comment(self) -> bool {
        self >= Self::UnderstandableSignificant
    }

    /// Whether the patient's care may depend on it, so that the report has to be looked at again now.
    #[must_use]
    pub const fn is_significant(self) -> bool {
        match self {
            Self::UnderstandableSignificant | Self::UnexpectedSignificant => true,
            Self::Concur | Self::UnderstandableInsignificant | Self::UnexpectedInsignificant => false,
        }
    }
}

impl Conclusion {
    /// For events: free of what was seen of the patient.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Final(change) => change.name(),
            Self::Opinion(agreement) => agreement.name(),
            Self::Blinded { pair, .. } => pair.name(),
            Self::Review(score) => score.name(),
        }
    }
}
