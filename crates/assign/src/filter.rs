//! Hard filters: who may have a read at all. They are never weighed against urgency.

use std::fmt;

use isocenter_domain::id::PoolId;

use crate::{Item, Needs, ReaderProfile, Sites};

/// Why a reader may not have a read. The order of the variants is the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// Their workstation is not connected.
    NotPresent,
    /// They take no new reads now.
    NotAccepting,
    /// They hold an offered or an open read; suspended ones do not count.
    AlreadyHolds,
    /// They belong to none of the read's pools.
    Pool,
    /// They are not authorised for the site the study came from.
    SiteAuthorization,
    /// No skill of theirs covers some modality of the study with its body part.
    Skill,
    /// They returned or declined this read, or read the case before.
    Excluded,
}

impl Rejection {
    /// Whether it passes by itself, as readers come, go and finish; the others need a change of registry or policy.
    #[must_use]
    pub const fn is_momentary(self) -> bool {
        match self {
            Self::NotPresent | Self::NotAccepting | Self::AlreadyHolds => true,
            Self::Pool | Self::SiteAuthorization | Self::Skill | Self::Excluded => false,
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPresent => "not present",
            Self::NotAccepting => "not accepting reads",
            Self::AlreadyHolds => "already holds a read",
            Self::Pool => "in none of its pools",
            Self::SiteAuthorization => "not authorised for its site",
            Self::Skill => "lacks the skill",
            Self::Excluded => "returned, declined or read it before",
        })
    }
}

/// Whether `reader` may be offered `item` now: every filter.
///
/// # Errors
/// The first filter, in the order of [`Rejection`], that refuses.
pub fn eligible(item: &Item, reader: &ReaderProfile) -> Result<(), Rejection> {
    available(reader)?;
    qualified(item, reader)
}

/// Whether `reader` could ever have `item`, leaving presence and what they hold aside. Asked again when a read is
/// opened: its own offer must not refuse it.
///
/// # Errors
/// The first lasting filter, in the order of [`Rejection`], that refuses.
pub fn qualified(item: &Item, reader: &ReaderProfile) -> Result<(), Rejection> {
    suitable(&item.needs, reader)?;
    if item.excluded.contains(&reader.id) { Err(Rejection::Excluded) } else { Ok(()) }
}

/// Every filter that refuses, in the order of [`Rejection`]; empty if `reader` is eligible.
#[must_use]
pub fn rejections(item: &Item, reader: &ReaderProfile) -> Vec<Rejection> {
    let needs = &item.needs;
    let asked = [
        (reader.present, Rejection::NotPresent),
        (reader.accepting, Rejection::NotAccepting),
        (free(reader), Rejection::AlreadyHolds),
        (pool(needs, reader).is_some(), Rejection::Pool),
        (site(needs, reader), Rejection::SiteAuthorization),
        (skill(needs, reader), Rejection::Skill),
        (!item.excluded.contains(&reader.id), Rejection::Excluded),
    ];
    asked.into_iter().filter(|(passes, _)| !passes).map(|(_, rejection)| rejection).collect()
}

/// The first pool, in the read's order of preference, that makes `reader` one of its readers.
#[must_use]
pub fn pool<'a>(needs: &'a Needs, reader: &ReaderProfile) -> Option<&'a PoolId> {
    needs.pools().iter().find(|pool| reader.pools.contains(*pool))
}

/// The filters that look at the reader alone.
pub(crate) fn available(reader: &ReaderProfile) -> Result<(), Rejection> {
    if !reader.present {
        Err(Rejection::NotPresent)
    } else if !reader.accepting {
        Err(Rejection::NotAccepting)
    } else if !free(reader) {
        Err(Rejection::AlreadyHolds)
    } else {
        Ok(())
    }
}

/// The filters that are the same for every read of the same needs.
pub(crate) fn suitable(needs: &Needs, reader: &ReaderProfile) -> Result<(), Rejection> {
    if pool(needs, reader).is_none() {
        Err(Rejection::Pool)
    } else if !site(needs, reader) {
        Err(Rejection::SiteAuthorization)
    } else if !skill(needs, reader) {
        Err(Rejection::Skill)
    } else {
        Ok(())
    }
}

const fn free(reader: &ReaderProfile) -> bool {
    reader.holding.offered == 0 && reader.holding.open == 0
}

fn site(needs: &Needs, reader: &ReaderProfile) -> bool {
    match &reader.sites {
        Sites::All => true,
        Sites::Only(sites) => sites.contains(needs.site()),
    }
}

fn skill(needs: &Needs, reader: &ReaderProfile) -> bool {
    let covered = |modality: &str| reader.skills.iter().any(|s| s.covers(modality, needs.body_part()));
    if needs.modalities().is_empty() { covered("") } else { needs.modalities().iter().all(|m| covered(m)) }
}
