//! A read as the queue sees it, a reader as the queue sees one, and the order of the worklist.

use std::{collections::BTreeMap, sync::LazyLock, time::Duration};

use isocenter_assign::{
    Exclusion, Item, Needs, Ppm, ReaderProfile, Rejection, Sites, Skill, Urgency, estimate::Prior,
};
use isocenter_domain::{
    Time,
    id::{ReadId, ReaderId},
    record::{
        case::Case,
        read::{Read, ReadKind},
        registry::{Grade, Reader, Sites as Registered},
    },
};

use super::apart::Barred;

/// What is assumed of every exam; made once, since each look at the list makes an item of each read.
static PRIOR: LazyLock<Prior> = LazyLock::new(Prior::default);

/// The item of a read, as far as read and case say. `p` is the highest probability that the AI services gave for the
/// studies as they are; what is no probability orders as no answer does.
///
/// A primary read's age is its case's; a discrepancy read's begins when the newer images were found unread, or it would
/// be overdue the moment it is made.
pub(crate) fn item(id: &ReadId, read: &Read, case: &Case, p: Option<f64>) -> Item {
    let complete_at = read.waiting_since;
    Item {
        read: id.clone(),
        class: case.class.clone(),
        urgency: weighs(read, case),
        complete_at,
        waiting_since: read.returns.last().map_or(complete_at, |back| back.at),
        probability: p.and_then(|p| Ppm::of(p).ok()),
        work: PRIOR.otherwise,
        needs: needs(case).by_an_attending(read.needs_attending()),
        excluded: read.returns.iter().map(|back| (back.reader.clone(), Exclusion::Returned)).collect(),
        prefers: None,
    }
}

/// Whom a read excludes, as the engine names the reasons.
pub(crate) fn exclusions(barred: BTreeMap<ReaderId, Barred>) -> impl Iterator<Item = (ReaderId, Exclusion)> {
    barred.into_iter().map(|(reader, why)| {
        let why = match why {
            Barred::Returned | Barred::Transferred => Exclusion::Returned,
            Barred::FirstReader => Exclusion::FirstReader,
            Barred::Blinded => Exclusion::Blinded,
        };
        (reader, why)
    })
}

/// What a case asks of a reader.
pub(crate) fn needs(case: &Case) -> Needs {
    Needs::new(&case.modalities, &case.body_part, case.site.clone(), case.pools.clone())
        .under(case.jurisdiction.clone())
        .of_a_child(case.paediatric)
}

/// What the class means for the order.
pub(crate) fn urgency(case: &Case) -> Urgency {
    let of_class = &case.urgency;
    Urgency {
        target: case.deadline,
        weight: of_class.weight,
        critical: of_class.critical,
        prior: Ppm::from_parts(of_class.prior_ppm).unwrap_or(Ppm::ONE),
        next_up: of_class.next_up,
        may_outwait: of_class.next_up,
    }
}

/// What a read weighs. What stands beside the case's own report is not as urgent as the case: a review of an emergency is no
/// emergency, and what somebody asks for goes by when he wants it.
pub(crate) fn weighs(read: &Read, case: &Case) -> Urgency {
    let target = due_at(read, case).since(read.waiting_since);
    let beside = |weight, target| Urgency {
        target,
        weight,
        critical: 0,
        prior: Ppm::from_parts(0).unwrap_or(Ppm::ONE),
        next_up: true,
        // It waits for whatever somebody else waits for, however long.
        may_outwait: false,
    };
    match read.kind {
        ReadKind::Primary
        | ReadKind::Blinded { .. }
        | ReadKind::Arbitration { .. }
        | ReadKind::Discrepancy { .. } => Urgency { target, ..urgency(case) },
        ReadKind::SecondOpinion { .. } | ReadKind::Consultation => beside(ASKED, target.max(SOONEST)),
        ReadKind::Review { .. } => beside(REVIEW, target),
    }
}

/// What an opinion or a consultation weighs: as a class whose deadline is four hours.
const ASKED: u32 = 60;
/// Whoever asks for an answer sooner is not answered before who waits for a first report.
const SOONEST: Duration = Duration::from_secs(30 * 60);
/// What a review weighs: it waits for whatever somebody else waits for.
const REVIEW: u32 = 1;

/// When a read should be signed.
pub(crate) fn due_at(read: &Read, case: &Case) -> Time {
    read.due_at(case.deadline)
}

/// A registered reader's profile as far as the entry says: absent, with empty hands, and without the roster.
pub(crate) fn profile(id: &ReaderId, reader: &Reader) -> ReaderProfile {
    ReaderProfile {
        skills: reader.skills.iter().map(|skill| Skill::new(&skill.modality, &skill.body_part)).collect(),
        sites: match &reader.sites {
            Registered::All => Sites::All,
            Registered::Some(sites) => Sites::Only(sites.iter().cloned().collect()),
        },
        pools: reader.pools.iter().cloned().collect(),
        conflicts: reader.conflicts.sites.iter().cloned().collect(),
        home: reader.home.clone(),
        licences: reader.licences.iter().map(|l| (l.jurisdiction.clone(), l.until)).collect(),
        paediatric: reader.paediatric,
        attending: match reader.grade {
            Grade::Attending => true,
            Grade::Resident => false,
        },
        ..ReaderProfile::new(id.clone())
    }
}

/// A filter's name in answers.
pub(crate) const fn rejection_name(rejection: Rejection) -> &'static str {
    rejection.name()
}

/// The one filter that is told of several: a lasting one before a momentary one, which would hide it.
pub(crate) fn telling(rejections: &[Rejection]) -> Option<Rejection> {
    rejections.iter().find(|r| !r.is_momentary()).or_else(|| rejections.first()).copied()
}
