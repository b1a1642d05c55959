//! What a signature comes to, by the kind of read, who signs, and what the other reads of the case say: pure.

use std::collections::BTreeMap;

use isocenter_domain::record::{
    read::{Agreement, Assessment, Change, Conclusion, Pair, Read, ReadKind, ReadState, Score},
    registry::Grade,
    report::{ReportKind, StudyRevision},
};
use isocenter_wire::Malformed;

use crate::error::Error;

/// What the reader concludes beside the text, as the request has it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    pub change: Option<Change>,
    pub agreement: Option<Agreement>,
    pub assessment: Option<Assessment>,
    pub score: Option<Score>,
    /// Whether the findings say anything.
    pub has_findings: bool,
}

/// What becomes of a signature that is taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Concluded {
    /// What the report is to earlier ones.
    pub kind: ReportKind,
    /// The read whose report it replaces.
    pub replaces: Option<u32>,
    /// The read whose report it stands beside.
    pub about: Option<u32>,
    /// For the read.
    pub conclusion: Option<Conclusion>,
}

/// A read among those of its case.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Among<'a> {
    pub read: &'a Read,
    pub reads: &'a BTreeMap<u32, &'a Read>,
}

impl Among<'_> {
    /// Decides what a report that `grade` signs of `studies` is.
    pub fn sign(&self, said: &Said, grade: Grade, studies: &[StudyRevision]) -> Result<Concluded, Error> {
        if grade == Grade::Resident {
            if self.read.needs_attending() {
                return Err(Error::ATTENDING_ONLY);
            }
            said.only([])?;
            return Ok(Concluded::plain(ReportKind::Preliminary));
        }
        if self.read.preliminary.is_some() {
            said.only(["change"])?;
            let change = said
                .change
                .ok_or_else(|| absent("change", "is absent; a preliminary report is made final"))?;
            return Ok(Concluded {
                conclusion: Some(Conclusion::Final(change)),
                ..Concluded::plain(ReportKind::Final)
            });
        }
        match self.read.kind {
            ReadKind::Primary | ReadKind::Arbitration { .. } => {
                said.only([])?;
                Ok(Concluded::plain(ReportKind::Final))
            }
            ReadKind::Consultation => {
                said.only([])?;
                Ok(Concluded { about: Some(1), ..Concluded::plain(ReportKind::Final) })
            }
            ReadKind::Discrepancy { of, .. } => {
                said.only([])?;
                Ok(self.correction(of))
            }
            ReadKind::SecondOpinion { of } => self.opinion(said, of),
            ReadKind::Blinded { with } => {
                said.only(["assessment"])?;
                let assessment = said.assessment.clone();
                let assessment =
                    assessment.ok_or_else(|| absent("assessment", "is absent; this read is blinded"))?;
                Ok(self.blinded(with, Some(assessment), studies))
            }
            ReadKind::Review { of } => review(said, of),
        }
    }

    /// Decides what a notice that the images do not allow a report is.
    pub fn give_up(&self, grade: Grade, studies: &[StudyRevision]) -> Result<Concluded, Error> {
        if !self.read.kind.is_of_record() {
            return Err(Error::NOT_OF_RECORD);
        }
        if grade == Grade::Resident {
            return Err(Error::ATTENDING_ONLY);
        }
        Ok(match self.read.kind {
            ReadKind::Blinded { with } => self.blinded(with, None, studies),
            ReadKind::Discrepancy { of, .. } => {
                Concluded { replaces: Some(of), ..Concluded::plain(ReportKind::NonDiagnostic) }
            }
            ReadKind::Primary
            | ReadKind::Arbitration { .. }
            | ReadKind::SecondOpinion { .. }
            | ReadKind::Consultation
            | ReadKind::Review { .. } => Concluded::plain(ReportKind::NonDiagnostic),
        })
    }

    fn correction(&self, of: u32) -> Concluded {
        // Where nothing final has gone out there is nothing to correct.
        let was_final = self
            .reads
            .get(&of)
            .is_some_and(|first| matches!(first.state, ReadState::Signed { .. }) && first.released() > 0);
        let kind = if was_final { ReportKind::Correction } else { ReportKind::Final };
        Concluded { replaces: Some(of), ..Concluded::plain(kind) }
    }

    fn opinion(&self, said: &Said, of: u32) -> Result<Concluded, Error> {
        let first = self.reads.get(&of);
        // What is preliminary is made final by an attending, who sees this opinion; it is not corrected.
        let reported = first.is_some_and(|read| read.concluded().is_some());
        let conclusion = if reported {
            said.only(["agreement"])?;
            let why =
                "is absent; the report that this opinion is on is signed: open the read again to see it";
            Some(Conclusion::Opinion(said.agreement.ok_or_else(|| absent("agreement", why))?))
        } else {
            said.only([])?;
            None
        };
        Ok(Concluded { about: Some(of), conclusion, ..Concluded::plain(ReportKind::Final) })
    }

    fn blinded(&self, with: u32, assessment: Option<Assessment>, studies: &[StudyRevision]) -> Concluded {
        let other = self.reads.get(&with).and_then(|other| Some((other.concluded()?, &other.conclusion)));
        let pair = match other {
            None => Pair::First,
            Some(((.., seen), Some(Conclusion::Blinded { assessment: theirs, .. }))) => {
                // Of other images the same word is not the same answer.
                let agrees = *theirs == assessment && sorted(seen) == sorted(studies);
                if agrees { Pair::Agreed } else { Pair::Disagreed }
            }
            Some((_, Some(Conclusion::Final(_) | Conclusion::Opinion(_) | Conclusion::Review(_)) | None)) => {
                Pair::Disagreed
            }
        };
        let kind = match (pair, &assessment) {
            (Pair::First | Pair::Disagreed, _) => ReportKind::Withheld,
            (Pair::Agreed, Some(_)) => ReportKind::Final,
            (Pair::Agreed, None) => ReportKind::NonDiagnostic,
        };
        Concluded { conclusion: Some(Conclusion::Blinded { assessment, pair }), ..Concluded::plain(kind) }
    }
}

fn review(said: &Said, of: u32) -> Result<Concluded, Error> {
    said.only(["review_score"])?;
    let score = said.score.ok_or_else(|| absent("review_score", "is absent; this read is a peer review"))?;
    if score.needs_comment() && !said.has_findings {
        return Err(absent("findings", "are empty; a score from 2b on says why"));
    }
    let conclusion = Some(Conclusion::Review(score));
    Ok(Concluded { about: Some(of), conclusion, ..Concluded::plain(ReportKind::Withheld) })
}

fn sorted(studies: &[StudyRevision]) -> Vec<&StudyRevision> {
    let mut sorted: Vec<_> = studies.iter().collect();
    sorted.sort();
    sorted
}

fn absent(field: &'static str, why: &'static str) -> Error {
    Malformed::new(field, why).into()
}

impl Concluded {
    const fn plain(kind: ReportKind) -> Self {
        Self { kind, replaces: None, about: None, conclusion: None }
    }
}

impl Said {
    /// Refuses what this read does not ask for: a reader who says it takes the read for another.
    fn only<const N: usize>(&self, wanted: [&str; N]) -> Result<(), Error> {
        let said = [
            (self.change.is_some(), "change"),
            (self.agreement.is_some(), "agreement"),
            (self.assessment.is_some(), "assessment"),
            (self.score.is_some(), "review_score"),
        ];
        let stray = said.into_iter().find(|(is_said, field)| *is_said && !wanted.contains(field));
        match stray {
            Some((_, field)) => Err(Malformed::new(field, "is not asked for by this read").into()),
            None => Ok(()),
        }
    }
}
