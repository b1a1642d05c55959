//! Who, of those who are idle, is given a read that arrives.

use std::cmp::{Ordering, Reverse};

use isocenter_domain::Time;

use crate::{Item, ReaderProfile, Sites, filter};

/// A reader who waits for work.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Idle {
    /// The reader.
    pub reader: ReaderProfile,
    /// Since when.
    pub since: Time,
}

/// The idle reader who is given `item` at `now`: of those who may have it, the one who is local or preferred; then the
/// least flexible, who would find other work last; then the one furthest behind their share of load; then the one who
/// has been idle longest; then by id. `None` if nobody may.
pub fn choose_idle<'a>(item: &Item, idle: impl IntoIterator<Item = &'a Idle>, now: Time) -> Option<&'a Idle> {
    let mut best: Option<&Idle> = None;
    for waiting in idle {
        // The filters last: they cost most, and few are better than the best so far.
        if best.is_none_or(|best| prefer(item, waiting, best).is_lt())
            && filter::eligible(item, &waiting.reader, now).is_ok()
        {
            best = Some(waiting);
        }
    }
    best
}

/// Who of two is preferred for `item`: less is.
fn prefer(item: &Item, a: &Idle, b: &Idle) -> Ordering {
    let near = |idle: &Idle| {
        let local = idle.reader.home.as_ref() == Some(item.needs.site());
        let preferred = item.prefers.as_ref() == Some(&idle.reader.id);
        Reverse(u8::from(local) + u8::from(preferred))
    };
    let load = |idle: &Idle| idle.reader.load.share_done();
    near(a)
        .cmp(&near(b))
        .then_with(|| flexibility(&a.reader).cmp(&flexibility(&b.reader)))
        .then_with(|| load(a).cmp(&load(b)))
        .then_with(|| a.since.cmp(&b.since))
        .then_with(|| a.reader.id.cmp(&b.reader.id))
}

/// How much a reader can be given: more is more flexible. A skill in everything counts most, then in all of a
/// modality, then in a part; then the sites; then the pools.
#[must_use]
pub fn flexibility(reader: &ReaderProfile) -> (usize, usize, usize) {
    let breadth = |modality: &str, body_part: &str| match (modality, body_part) {
        ("*", "*") => 10_000,
        ("*", _) | (_, "*") => 100,
        (_, _) => 1,
    };
    let skills = reader.skills.iter().map(|skill| breadth(skill.modality(), skill.body_part())).sum();
    let sites = match &reader.sites {
        Sites::All => usize::MAX,
        Sites::Only(sites) => sites.len(),
    };
    (skills, sites, reader.pools.len())
}
