//! A read as the queue sees it, a reader as the queue sees one, and the order of the worklist.

use std::time::Duration;

use isocenter_assign::{
    Exclusion, Item, Needs, Params, Ppm, ReaderProfile, Rejection, Sites, Skill, Urgency, Work,
};
use isocenter_domain::{
    Time,
    id::{ReadId, ReaderId},
    record::{
        case::Case,
        read::Read,
        registry::{Reader, Sites as Registered},
    },
};

/// The item of a read. `p` is the highest probability that the AI services gave for the studies as they are.
///
/// A primary read's age is its case's; a discrepancy read's begins when the newer images were found unread, or it would
/// be overdue the moment it is made.
pub(crate) fn item(id: &ReadId, read: &Read, case: &Case, p: Option<f64>) -> Item {
    let complete_at = read.waiting_since;
    Item {
        read: id.clone(),
        class: case.class.clone(),
        urgency: urgency(case),
        complete_at,
        waiting_since: read.returns.last().map_or(complete_at, |back| back.at),
        // What is no probability orders as no answer does.
        probability: p.and_then(|p| Ppm::of(p).ok()),
        work: Work { minutes: USUAL_READING, points: 1_000 },
        needs: Needs::new(&case.modalities, &case.body_part, case.site.clone(), case.pools.clone()),
        excluded: read.returns.iter().map(|back| (back.reader.clone(), Exclusion::Returned)).collect(),
        prefers: None,
    }
}

/// How long reading takes where nothing more is known.
const USUAL_READING: Duration = Duration::from_secs(6 * 60);

/// What the class means for the order, by its deadline.
fn urgency(case: &Case) -> Urgency {
    let hours = |n: u64| Duration::from_secs(n * 3600);
    let (weight, prior, next_up) = if case.deadline <= hours(1) {
        (90, 200_000, false)
    } else if case.deadline <= hours(8) {
        (18, 60_000, true)
    } else {
        (2, 15_000, true)
    };
    let prior = Ppm::from_parts(prior).expect("a share of a million");
    let critical = if case.ai_credit.is_zero() { 0 } else { 40 };
    Urgency { target: case.deadline, weight, critical, prior, next_up }
}

/// When a read should be signed.
pub(crate) fn due_at(read: &Read, case: &Case) -> Time {
    read.waiting_since.plus(case.deadline)
}

/// A registered reader's profile, absent and with empty hands.
pub(crate) fn profile(id: &ReaderId, reader: &Reader) -> ReaderProfile {
    ReaderProfile {
        skills: reader.skills.iter().map(|skill| Skill::new(&skill.modality, &skill.body_part)).collect(),
        sites: match &reader.sites {
            Registered::All => Sites::All,
            Registered::Some(sites) => Sites::Only(sites.iter().cloned().collect()),
        },
        pools: reader.pools.iter().cloned().collect(),
        ..ReaderProfile::new(id.clone())
    }
}

/// What orders the reads that wait.
pub(crate) fn order(item: &Item, now: Time) -> (u8, i64, i64) {
    Params::default().rank(item, None, now).numbers()
}

/// A filter's name in answers.
pub(crate) const fn rejection_name(rejection: Rejection) -> &'static str {
    rejection.name()
}

/// The one filter that is told of several: a lasting one before a momentary one, which would hide it.
pub(crate) fn telling(rejections: &[Rejection]) -> Option<Rejection> {
    rejections.iter().find(|r| !r.is_momentary()).or_else(|| rejections.first()).copied()
}
