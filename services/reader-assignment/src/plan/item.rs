//! A read as the queue sees it, a reader as the queue sees one, and the order of the worklist.

use isocenter_assign::{FRONT_LANE_PERCENT, Item, Needs, ReaderProfile, Rejection, Sites, Skill};
use isocenter_domain::{
    Time,
    id::{ReadId, ReaderId},
    record::{
        case::Case,
        read::Read,
        registry::{Reader, Sites as Registered},
    },
};
use isocenter_policy::virtual_due;

/// The item of a read. `p` is the highest probability that the AI services gave for the studies as they are.
///
/// A primary read's age is its case's; a discrepancy read's begins when the newer images were found unread, or it would
/// be overdue the moment it is made.
pub(crate) fn item(id: &ReadId, read: &Read, case: &Case, p: Option<f64>) -> Item {
    let complete_at = read.waiting_since;
    Item {
        read: id.clone(),
        class: case.class.clone(),
        complete_at,
        virtual_due: virtual_due(complete_at, due_at(read, case).since(complete_at), case.ai_credit, p),
        deadline_at: due_at(read, case),
        waiting_since: read.returns.last().map_or(complete_at, |back| back.at),
        needs: Needs::new(&case.modalities, &case.body_part, case.site.clone(), case.pools.clone()),
        excluded: read.returns.iter().map(|back| back.reader.clone()).collect(),
    }
}

/// When a read should be signed.
pub(crate) fn due_at(read: &Read, case: &Case) -> Time {
    read.due_at(case.deadline)
}

/// A registered reader's profile, absent and with empty hands.
pub(crate) fn profile(id: &ReaderId, reader: &Reader) -> ReaderProfile {
    ReaderProfile {
        id: id.clone(),
        skills: reader.skills.iter().map(|skill| Skill::new(&skill.modality, &skill.body_part)).collect(),
        sites: match &reader.sites {
            Registered::All => Sites::All,
            Registered::Some(sites) => Sites::Only(sites.iter().cloned().collect()),
        },
        pools: reader.pools.iter().cloned().collect(),
        present: false,
        accepting: false,
        holding: isocenter_assign::Holding::default(),
    }
}

/// What orders the reads that wait: the lane, then the virtual deadline in the regular one, then the age.
pub(crate) fn order(item: &Item, now: Time) -> (u8, i64, i64) {
    let span = i128::from(item.deadline_at.0) - i128::from(item.complete_at.0);
    let front_at = i128::from(item.complete_at.0) + span * i128::from(FRONT_LANE_PERCENT) / 100;
    if front_at <= i128::from(now.0) {
        (0, 0, item.complete_at.0)
    } else {
        (1, item.virtual_due.0, item.complete_at.0)
    }
}

/// A filter's name in answers.
pub(crate) const fn rejection_name(rejection: Rejection) -> &'static str {
    match rejection {
        Rejection::NotPresent => "not-present",
        Rejection::NotAccepting => "not-accepting",
        Rejection::AlreadyHolds => "already-holds",
        Rejection::Pool => "pool",
        Rejection::SiteAuthorization => "site-authorization",
        Rejection::Skill => "skill",
        Rejection::Excluded => "excluded",
    }
}

/// The one filter that is told of several: a lasting one before a momentary one, which would hide it.
pub(crate) fn telling(rejections: &[Rejection]) -> Option<Rejection> {
    rejections.iter().find(|r| !r.is_momentary()).or_else(|| rejections.first()).copied()
}
