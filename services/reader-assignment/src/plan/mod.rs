//! What is to be done about a case's reads: pure, and decided from the records alone.

pub(crate) mod apart;
pub(crate) mod conclude;
pub(crate) mod item;
pub(crate) mod sign;

use std::{collections::BTreeMap, time::Duration};

use isocenter_domain::{
    Time,
    id::{CaseId, ReadId, ReaderId, StudyUid},
    record::{
        case::{Case, CaseState},
        read::{Read, ReadKind, ReadState},
        study::Study,
    },
    refs::Digest,
};

/// How long a peer has for a review: the patient does not wait for it.
const REVIEW_WITHIN: Duration = Duration::from_secs(7 * 24 * 3600);

/// What one case and its reads are at one moment.
#[derive(Debug)]
pub(crate) struct Situation<'a> {
    /// Which case.
    pub id: &'a CaseId,
    /// The case.
    pub case: &'a Case,
    /// Its reads, by number.
    pub reads: BTreeMap<u32, &'a Read>,
    /// Its member studies, those that exist.
    pub studies: BTreeMap<StudyUid, &'a Study>,
}

/// One thing to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// Create these reads, by number and together: of two blinded ones each names the other.
    Create(Vec<(u32, Read)>),
    /// Take an offer back.
    Lapse {
        /// The read's number.
        n: u32,
        /// Why, for the event.
        why: &'static str,
    },
}

/// What is to be done now, and when to look again although nothing changed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    /// In order.
    pub actions: Vec<Action>,
    /// The end of the earliest standing offer, or earlier where its reader's absence may count by then.
    pub look_again: Option<Time>,
}

/// Whether a reader's workstation gives signs of life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Presence {
    /// It does.
    Present,
    /// It does not, and that counts.
    Absent,
    /// It does not, and that may count from this time on: who decides does not lead, or not for long enough.
    Unproven(Time),
}

/// Decides. `presence` says of a reader whether the workstation gives signs of life.
pub(crate) fn plan(situation: &Situation<'_>, now: Time, presence: impl Fn(&ReaderId) -> Presence) -> Plan {
    let mut plan = Plan::default();
    if situation.case.state != CaseState::Ready {
        return plan;
    }
    if let Some(create) = missing(situation, now).or_else(|| review(situation, now)) {
        plan.actions.push(create);
    }
    for (n, read) in &situation.reads {
        // An open read never lapses: nothing but its reader or a lead ends it.
        let ReadState::Offered { reader, until } = &read.state else { continue };
        let again = match presence(reader) {
            _ if *until <= now => {
                plan.actions.push(Action::Lapse { n: *n, why: "the offer's time has passed" });
                continue;
            }
            Presence::Absent => {
                plan.actions.push(Action::Lapse { n: *n, why: "the reader is not present" });
                continue;
            }
            Presence::Present => *until,
            Presence::Unproven(from) => from.min(*until),
        };
        plan.look_again = Some(plan.look_again.map_or(again, |earlier| earlier.min(again)));
    }
    plan
}

/// The reads that should exist and do not.
fn missing(situation: &Situation<'_>, now: Time) -> Option<Action> {
    let Some(last) = situation.reads.keys().max() else {
        let first = |kind| Read::waiting(kind, situation.case.complete_at);
        return Some(Action::Create(if situation.case.reading.double {
            vec![(1, first(ReadKind::Blinded { with: 2 })), (2, first(ReadKind::Blinded { with: 1 }))]
        } else {
            vec![(1, first(ReadKind::Primary))]
        }));
    };
    let of_record = || situation.reads.iter().filter(|(_, read)| read.kind.is_of_record());
    if of_record().any(|(_, read)| read.is_live()) {
        return None;
    }
    let unread = situation.studies.iter().any(|(uid, study)| study.revision > named(situation, uid));
    let of = of_record().filter(|(_, read)| read.released() > 0).map(|(n, _)| *n).max()?;
    let read = Read::waiting(ReadKind::Discrepancy { of, with: None }, now);
    unread.then(|| Action::Create(vec![(last + 1, read)]))
}

/// The peer review that a signed first read is drawn for and does not have yet.
fn review(situation: &Situation<'_>, now: Time) -> Option<Action> {
    let last = situation.reads.keys().max()?;
    let reviewed = |n: u32| situation.reads.values().any(|read| read.kind == ReadKind::Review { of: n });
    let drawn =
        |n: u32| is_drawn(&ReadId { case: situation.id.clone(), n }, situation.case.reading.review_ppm);
    let (of, _) = situation.reads.iter().find(|(n, read)| {
        let signed = matches!(read.state, ReadState::Signed { .. });
        signed && read.kind == ReadKind::Primary && drawn(**n) && !reviewed(**n)
    })?;
    let read = Read::waiting(ReadKind::Review { of: *of }, now);
    Some(Action::Create(vec![(last + 1, Read { due: Some(now.plus(REVIEW_WITHIN)), ..read })]))
}

/// Whether a read is in a sample of `ppm` millionths: by a hash of its id, so that every replica draws the same, and
/// nobody can choose.
fn is_drawn(read: &ReadId, ppm: u32) -> bool {
    let Digest(hash) = Digest::of(format!("review {read}").as_bytes());
    let first = hash.iter().take(8).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
    first % 1_000_000 < u64::from(ppm)
}

/// The highest revision of a study that the report of a read of record names; 0 where none does.
fn named(situation: &Situation<'_>, study: &StudyUid) -> u32 {
    let of_record = situation.reads.values().filter(|read| read.kind.is_of_record());
    let seen = of_record.filter_map(|read| read.concluded()).flat_map(|(.., studies)| studies);
    seen.filter(|named| named.study == *study).map(|named| named.revision).max().unwrap_or(0)
}
