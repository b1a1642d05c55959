//! Hard filters: who may have a read at all. They are never weighed against urgency.

use std::fmt;

use isocenter_domain::{Time, id::PoolId};

use crate::{
    Duty, Exclusion, Item, Needs, ReaderProfile, Sites,
    item::{Competence, Place},
};

/// Why a reader may not have a read. The order of the variants is the order in which they are asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rejection {
    /// Their workstation is not connected.
    NotPresent,
    /// They take no new reads now.
    NotAccepting,
    /// They hold an offered or an open read; suspended ones do not count.
    AlreadyHolds,
    /// Their shift is over or has not begun.
    OffShift,
    /// They are on a break.
    OnBreak,
    /// They have done as much as one shift may hold.
    HardStop,
    /// They are past the soft bound of their shift: no read is leased ahead to them.
    Spared,
    /// They belong to none of the read's pools.
    Pool,
    /// They are not authorised for the site the study came from.
    SiteAuthorization,
    /// They have an interest in the site the study came from.
    SiteConflict,
    /// They have no licence for the case's jurisdiction.
    Licence,
    /// Their licence for the case's jurisdiction has expired.
    LicenceExpired,
    /// No skill of theirs covers some modality of the study with its body part.
    Skill,
    /// The patient is a child, and they do not read children.
    Paediatric,
    /// The read needs a final signature, and theirs is preliminary.
    Grade,
    /// They must not have this read, for the reason named.
    Excluded(Exclusion),
}

impl Rejection {
    /// Whether it passes by itself, as readers come, go and finish; the others need a change of registry or policy.
    #[must_use]
    pub const fn is_momentary(self) -> bool {
        match self {
            Self::NotPresent
            | Self::NotAccepting
            | Self::AlreadyHolds
            | Self::OffShift
            | Self::OnBreak
            | Self::HardStop
            | Self::Spared => true,
            Self::Pool
            | Self::SiteAuthorization
            | Self::SiteConflict
            | Self::Licence
            | Self::LicenceExpired
            | Self::Skill
            | Self::Paediatric
            | Self::Grade
            | Self::Excluded(_) => false,
        }
    }

    /// Its name in answers.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::NotPresent => "not-present",
            Self::NotAccepting => "not-accepting",
            Self::AlreadyHolds => "already-holds",
            Self::OffShift => "off-shift",
            Self::OnBreak => "on-break",
            Self::HardStop => "hard-stop",
            Self::Spared => "spared",
            Self::Pool => "pool",
            Self::SiteAuthorization => "site-authorization",
            Self::SiteConflict => "site-conflict",
            Self::Licence => "licence",
            Self::LicenceExpired => "licence-expired",
            Self::Skill => "skill",
            Self::Paediatric => "paediatric",
            Self::Grade => "grade",
            Self::Excluded(why) => why.name(),
        }
    }
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotPresent => "not present",
            Self::NotAccepting => "not accepting reads",
            Self::AlreadyHolds => "already holds a read",
            Self::OffShift => "off shift",
            Self::OnBreak => "on a break",
            Self::HardStop => "has done what one shift may hold",
            Self::Spared => "is spared for the rest of the shift",
            Self::Pool => "in none of its pools",
            Self::SiteAuthorization => "not authorised for its site",
            Self::SiteConflict => "declared a conflict of interest with its site",
            Self::Licence => "not licensed in its jurisdiction",
            Self::LicenceExpired => "licence for its jurisdiction expired",
            Self::Skill => "lacks the skill",
            Self::Paediatric => "does not read children",
            Self::Grade => "may not sign it finally",
            Self::Excluded(why) => return why.fmt(f),
        })
    }
}

/// Whether `reader` may be offered `item` at `now`: every filter.
///
/// # Errors
/// The first filter, in the order of [`Rejection`], that refuses.
pub fn eligible(item: &Item, reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    available(reader, now)?;
    qualified(item, reader, now)
}

/// Whether `reader` may open `item` at `now`: every filter but presence and what they hold, because their own offer
/// must not refuse it. Asked again when a read is opened: shift or licence may have ended since the offer.
///
/// # Errors
/// The first of these filters that refuses.
pub fn openable(item: &Item, reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    at_work(reader, now)?;
    qualified(item, reader, now)
}

/// Whether `reader` could ever have `item`, leaving presence, duty, load and what they hold aside.
///
/// # Errors
/// The first lasting filter, in the order of [`Rejection`], that refuses.
pub fn qualified(item: &Item, reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    suitable(&item.needs, reader, now)?;
    excluded(item, reader)
}

/// Whether `reader` may go on with a read of these needs, which they have begun, and sign it: authorised for the site, without an interest in
/// it, and licensed at `now`. What they are competent in was asked when they opened it, and images may have come since; a pool that
/// was open to overflow may have closed.
///
/// # Errors
/// The first of these filters that refuses.
pub fn continuable(needs: &Needs, reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    placed(&needs.place, reader, now)
}

/// Every filter that refuses at `now`, in the order of [`Rejection`]; empty if `reader` is eligible.
#[must_use]
pub fn rejections(item: &Item, reader: &ReaderProfile, now: Time) -> Vec<Rejection> {
    let needs = &item.needs;
    let mut asked = vec![
        check(reader.present, Rejection::NotPresent),
        check(reader.accepting, Rejection::NotAccepting),
        check(free(reader), Rejection::AlreadyHolds),
        duty(reader, now),
        check(!reader.is_done(), Rejection::HardStop),
        pools(needs.pools(), reader),
        site(&needs.place, reader),
        licence(&needs.place, reader, now),
    ];
    asked.extend(competences(&needs.competence, reader));
    asked.push(excluded(item, reader));
    let mut refused: Vec<_> = asked.into_iter().filter_map(Result::err).collect();
    refused.sort_unstable();
    refused
}

/// The first pool, in the read's order of preference, that makes `reader` one of its readers.
#[must_use]
pub fn pool<'a>(needs: &'a Needs, reader: &ReaderProfile) -> Option<&'a PoolId> {
    needs.pools().iter().find(|pool| reader.pools.contains(*pool))
}

/// The filters that look at the reader alone.
pub(crate) fn available(reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    check(reader.present, Rejection::NotPresent)?;
    check(reader.accepting, Rejection::NotAccepting)?;
    check(free(reader), Rejection::AlreadyHolds)?;
    at_work(reader, now)
}

/// Duty and load.
pub(crate) fn at_work(reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    duty(reader, now)?;
    check(!reader.is_done(), Rejection::HardStop)
}

/// The filters that are the same for every read of the same needs.
pub(crate) fn suitable(needs: &Needs, reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    pools(needs.pools(), reader)?;
    placed(&needs.place, reader, now)?;
    competent(&needs.competence, reader)
}

/// Site and jurisdiction.
pub(crate) fn placed(place: &Place, reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    site(place, reader)?;
    licence(place, reader, now)
}

/// Skill, children and grade.
pub(crate) fn competent(competence: &Competence, reader: &ReaderProfile) -> Result<(), Rejection> {
    competences(competence, reader).into_iter().collect()
}

pub(crate) fn pools(pools: &[PoolId], reader: &ReaderProfile) -> Result<(), Rejection> {
    check(pools.iter().any(|pool| reader.pools.contains(pool)), Rejection::Pool)
}

fn competences(needs: &Competence, reader: &ReaderProfile) -> [Result<(), Rejection>; 3] {
    let covered = |modality: &str| reader.skills.iter().any(|s| s.covers(modality, &needs.body_part));
    let skilled =
        if needs.modalities.is_empty() { covered("") } else { needs.modalities.iter().all(|m| covered(m)) };
    [
        check(skilled, Rejection::Skill),
        check(reader.paediatric || !needs.paediatric, Rejection::Paediatric),
        check(reader.attending || !needs.attending, Rejection::Grade),
    ]
}

fn duty(reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    match reader.duty {
        Duty::Off => Err(Rejection::OffShift),
        Duty::On { since, until } => check(since <= now && now < until, Rejection::OffShift),
        Duty::Break { until } => check(until <= now, Rejection::OnBreak),
    }
}

fn site(place: &Place, reader: &ReaderProfile) -> Result<(), Rejection> {
    let authorised = match &reader.sites {
        Sites::All => true,
        Sites::Only(sites) => sites.contains(&place.site),
    };
    check(authorised, Rejection::SiteAuthorization)?;
    check(!reader.conflicts.contains(&place.site), Rejection::SiteConflict)
}

fn licence(place: &Place, reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    let Some(jurisdiction) = &place.jurisdiction else { return Ok(()) };
    match reader.licences.get(jurisdiction) {
        None => Err(Rejection::Licence),
        Some(until) => check(until.is_none_or(|until| now < until), Rejection::LicenceExpired),
    }
}

fn excluded(item: &Item, reader: &ReaderProfile) -> Result<(), Rejection> {
    item.excluded.get(&reader.id).map_or(Ok(()), |why| Err(Rejection::Excluded(*why)))
}

const fn free(reader: &ReaderProfile) -> bool {
    reader.holding.offered == 0 && reader.holding.open == 0
}

const fn check(passes: bool, rejection: Rejection) -> Result<(), Rejection> {
    if passes { Ok(()) } else { Err(rejection) }
}
