//! Whether a signature is taken: pure.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_domain::{
    id::{ReaderId, StudyUid},
    record::{
        case::{Case, CaseState},
        read::{Read, ReadKind, ReadState},
        report::StudyRevision,
        study::{Study, StudyState},
    },
};
use isocenter_wire::Malformed;

use crate::error::Error;

/// What the reader signs.
#[derive(Clone, Debug)]
pub(crate) struct Signature {
    /// Who.
    pub reader: ReaderId,
    /// From OpenRead.
    pub token: String,
    /// What the reader saw.
    pub studies: Vec<StudyRevision>,
    /// Whether newer images shall not hinder.
    pub as_of: bool,
}

/// What becomes of a signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is taken.
    Take {
        /// Whether images exist that it does not name.
        newer_images: bool,
    },
    /// The token is not that of the present holder.
    Stale,
}

/// Judges a signature by the records as they are.
pub(crate) fn judge(
    signature: &Signature,
    read: &Read,
    case: &Case,
    studies: &BTreeMap<StudyUid, &Study>,
) -> Result<Verdict, Error> {
    match &read.state {
        ReadState::Signed { .. } | ReadState::NonDiagnostic { .. } => return Err(Error::SIGNED),
        ReadState::Cancelled { .. } => return Err(Error::CANCELLED),
        ReadState::Suspended { reader, token, .. }
            if *reader == signature.reader && *token == signature.token =>
        {
            return Err(Error::SUSPENDED);
        }
        ReadState::AwaitingFinal
            if read.preliminary.as_ref().is_some_and(|signed| signed.reader == signature.reader) =>
        {
            return Err(Error::SIGNED);
        }
        ReadState::Open { reader, token, .. } if *reader == signature.reader && *token == signature.token => {
        }
        ReadState::Waiting
        | ReadState::AwaitingFinal
        | ReadState::Offered { .. }
        | ReadState::Open { .. }
        | ReadState::Suspended { .. } => return Ok(Verdict::Stale),
    }
    if case.state != CaseState::Ready {
        return Err(Error::CLOSED);
    }
    let members: BTreeSet<_> = case.members.iter().collect();
    let named: BTreeSet<_> = signature.studies.iter().map(|s| &s.study).collect();
    if members != named || signature.studies.len() != named.len() {
        return Err(Malformed::new("studies", "are not exactly the studies of the read, each once").into());
    }
    let mut newer_images = false;
    for seen in &signature.studies {
        let Some(study) = studies.get(&seen.study) else { return Err(Error::CLOSED) };
        if seen.revision == 0 || seen.revision > study.revision {
            return Err(Malformed::new("studies.revision", "is not a revision of the study").into());
        }
        newer_images |= seen.revision < study.revision
            || match study.state {
                StudyState::Receiving => true,
                StudyState::Complete { .. } => false,
                StudyState::Closed => return Err(Error::CLOSED),
            };
    }
    // Two blinded reads of different images could not be compared.
    let as_of = signature.as_of && !matches!(read.kind, ReadKind::Blinded { .. });
    if newer_images && !as_of {
        return Err(Error::NEW_IMAGES);
    }
    Ok(Verdict::Take { newer_images })
}
