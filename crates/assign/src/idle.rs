//! Who, of those who are idle, is given a read that arrives.

use std::cmp::Reverse;

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
    let key = |waiting: &'a Idle| {
        let reader = &waiting.reader;
        let local = reader.home.as_ref() == Some(item.needs.site());
        let preferred = item.prefers.as_ref() == Some(&reader.id);
        let near = u8::from(local) + u8::from(preferred);
        (Reverse(near), flexibility(reader), reader.load.share_done(), waiting.since, &reader.id)
    };
    idle.into_iter()
        .filter(|waiting| filter::eligible(item, &waiting.reader, now).is_ok())
        .min_by(|a, b| key(a).cmp(&key(b)))
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
