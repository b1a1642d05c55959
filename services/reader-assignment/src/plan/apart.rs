//! Which reads of a case must have different readers, and so who may not have one: pure.

use std::collections::BTreeMap;

use isocenter_domain::{
    id::ReaderId,
    record::read::{Read, ReadKind, ReturnReason},
};

/// Why a reader may not have a read that he would otherwise be offered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Barred {
    /// He gave it back, or it was taken from him.
    Returned,
    /// He handed it on.
    Transferred,
    /// He has or had the read that this one judges, or that judges this one.
    FirstReader,
    /// He has or had the other of two blinded reads.
    Blinded,
}

impl Barred {
    /// The reason in answers.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Returned => "returned",
            Self::Transferred => "transferred",
            Self::FirstReader => "first-reader",
            Self::Blinded => "blinded",
        }
    }
}

/// Who may not have read `n`, and why. `reads` are those of its case.
pub(crate) fn barred(n: u32, reads: &BTreeMap<u32, &Read>) -> BTreeMap<ReaderId, Barred> {
    let Some(read) = reads.get(&n) else { return BTreeMap::new() };
    let mut barred: BTreeMap<ReaderId, Barred> = BTreeMap::new();
    for back in &read.returns {
        let why = match back.reason {
            ReturnReason::Transferred => Barred::Transferred,
            ReturnReason::NotCompetent
            | ReturnReason::Conflict
            | ReturnReason::ImagesInsufficient
            | ReturnReason::Interrupted
            | ReturnReason::Reassigned => Barred::Returned,
        };
        barred.insert(back.reader.clone(), why);
    }
    // Nobody makes his own report final.
    barred.extend(read.preliminary.iter().map(|signed| (signed.reader.clone(), Barred::FirstReader)));
    for (m, other) in reads {
        if let Some(why) = apart((n, read), (*m, other)) {
            barred.extend(readers(other).map(|reader| (reader.clone(), why)));
            // Who had the other of the pair in hand and gave it away can still ask what became of it.
            if why == Barred::Blinded {
                barred.extend(other.returns.iter().map(|back| (back.reader.clone(), why)));
            }
        }
    }
    barred
}

/// Why two reads of a case must have different readers; `None`: they need not.
pub(crate) fn apart((n, read): (u32, &Read), (m, other): (u32, &Read)) -> Option<Barred> {
    if n == m {
        return None;
    }
    if read.kind == (ReadKind::Blinded { with: m }) {
        // Once both are signed there is nothing to be hidden any more.
        return (read.is_live() || other.is_live()).then_some(Barred::Blinded);
    }
    let judges = |kind: ReadKind, judged: u32| match kind {
        // Newer images: the first reader is as good as any other, and knows the case.
        ReadKind::Discrepancy { with: None, .. } => false,
        ReadKind::Discrepancy { with: Some(_), .. }
        | ReadKind::Arbitration { .. }
        | ReadKind::SecondOpinion { .. }
        | ReadKind::Review { .. }
        | ReadKind::Primary
        | ReadKind::Blinded { .. }
        | ReadKind::Consultation => kind.about().contains(&Some(judged)),
    };
    let same_question = match (read.kind, other.kind) {
        (ReadKind::SecondOpinion { of }, ReadKind::SecondOpinion { of: theirs }) => of == theirs,
        _ => false,
    };
    (judges(read.kind, m) || judges(other.kind, n) || same_question).then_some(Barred::FirstReader)
}

/// Everybody whose work a read is or was.
fn readers(read: &Read) -> impl Iterator<Item = &ReaderId> {
    let preliminary = read.preliminary.iter().map(|signed| &signed.reader);
    let concluded = read.concluded().map(|(reader, ..)| reader);
    preliminary.chain(concluded).chain(read.holder())
}
