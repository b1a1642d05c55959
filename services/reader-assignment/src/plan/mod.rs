//! What is to be done about a case's reads: pure, and decided from the records alone.

pub(crate) mod item;
pub(crate) mod sign;

use std::collections::BTreeMap;

use isocenter_domain::{
    Time,
    id::{ReaderId, StudyUid},
    record::{
        case::{Case, CaseState},
        read::{Read, ReadKind, ReadState},
        study::Study,
    },
};

/// What one case and its reads are at one moment.
#[derive(Debug)]
pub(crate) struct Situation<'a> {
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
    /// Create the read.
    Create {
        /// Its number.
        n: u32,
        /// What kind of work.
        kind: ReadKind,
        /// Since when it waits.
        since: Time,
    },
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
    if let Some(create) = missing(situation, now) {
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

/// The read that should exist and does not.
fn missing(situation: &Situation<'_>, now: Time) -> Option<Action> {
    let Some(last) = situation.reads.keys().max() else {
        let since = situation.case.complete_at;
        return Some(Action::Create { n: 1, kind: ReadKind::Primary, since });
    };
    if situation.reads.values().any(|read| is_live(read)) {
        return None;
    }
    let unread = situation.studies.iter().any(|(uid, study)| study.revision > named(situation, uid));
    let kind = ReadKind::Discrepancy { of: last_signed(situation)? };
    unread.then_some(Action::Create { n: last + 1, kind, since: now })
}

/// Whether work on the read is still owed.
pub(crate) const fn is_live(read: &Read) -> bool {
    match read.state {
        ReadState::Waiting | ReadState::Offered { .. } | ReadState::Open { .. } => true,
        ReadState::Signed { .. } => false,
    }
}

/// The highest revision of a study that a signed read names; 0 where none does.
fn named(situation: &Situation<'_>, study: &StudyUid) -> u32 {
    let signed = situation.reads.values().filter_map(|read| match &read.state {
        ReadState::Signed { studies, .. } => Some(studies),
        ReadState::Waiting | ReadState::Offered { .. } | ReadState::Open { .. } => None,
    });
    signed.flatten().filter(|named| named.study == *study).map(|named| named.revision).max().unwrap_or(0)
}

fn last_signed(situation: &Situation<'_>) -> Option<u32> {
    let signed = situation.reads.iter().filter(|(_, read)| !is_live(read));
    signed.map(|(n, _)| *n).max()
}
