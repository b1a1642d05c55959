//! A pull: the first read that one reader may have.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_domain::{
    Time,
    id::{JurisdictionId, PoolId, ReadId, SiteId},
};

use super::{
    Queue,
    family::{Kin, Stand, Tag},
};
use crate::{Item, ReaderProfile, Sites, Skill, filter, interned::Answers};

/// What one reader is fit for, as far as it is the same for all reads of a family.
#[derive(Debug)]
pub(super) struct Sight {
    /// Whom it is of: presence, duty, load and hands do not matter to it.
    fit: Fit,
    /// From when, included, to when, excluded, the same licences hold.
    licensed: (Time, Time),
    competences: Answers,
    places: Answers,
    /// Which places are the reader's home.
    homes: Answers,
    pools: Answers,
}

/// The part of a profile that a sight is of.
#[derive(Debug, PartialEq)]
struct Fit {
    skills: BTreeSet<Skill>,
    sites: Sites,
    conflicts: BTreeSet<SiteId>,
    home: Option<SiteId>,
    licences: BTreeMap<JurisdictionId, Option<Time>>,
    pools: BTreeSet<PoolId>,
    paediatric: bool,
    attending: bool,
}

impl Fit {
    fn of(reader: &ReaderProfile) -> Self {
        Self {
            skills: reader.skills.clone(),
            sites: reader.sites.clone(),
            conflicts: reader.conflicts.clone(),
            home: reader.home.clone(),
            licences: reader.licences.clone(),
            pools: reader.pools.clone(),
            paediatric: reader.paediatric,
            attending: reader.attending,
        }
    }

    fn is_of(&self, reader: &ReaderProfile) -> bool {
        let Self { skills, sites, conflicts, home, licences, pools, paediatric, attending } = self;
        (*paediatric, *attending) == (reader.paediatric, reader.attending)
            && *home == reader.home
            && *pools == reader.pools
            && *skills == reader.skills
            && *conflicts == reader.conflicts
            && *licences == reader.licences
            && *sites == reader.sites
    }
}

impl Sight {
    fn new(reader: &ReaderProfile, now: Time) -> Self {
        let ends = || reader.licences.values().flatten().copied();
        let from = ends().filter(|end| *end <= now).max().unwrap_or(Time(i64::MIN));
        let to = ends().filter(|end| *end > now).min().unwrap_or(Time(i64::MAX));
        Self {
            fit: Fit::of(reader),
            licensed: (from, to),
            competences: Answers::default(),
            places: Answers::default(),
            homes: Answers::default(),
            pools: Answers::default(),
        }
    }

    fn is_of(&self, reader: &ReaderProfile, now: Time) -> bool {
        (self.licensed.0..self.licensed.1).contains(&now) && self.fit.is_of(reader)
    }

    pub fn sees(&self, kin: &Kin) -> bool {
        self.allows(kin.competence, kin.place, kin.pools)
    }

    fn allows(&self, competence: u32, place: u32, pools: u32) -> bool {
        // Without branches: which of them says no cannot be foretold.
        self.competences.of(competence) & self.places.of(place) & self.pools.of(pools)
    }
}

impl Queue {
    /// Asks what has come since the sight was of use.
    pub(super) fn look(&self, sight: &mut Sight, reader: &ReaderProfile, now: Time) {
        self.competences.ask(&mut sight.competences, |c| filter::competent(c, reader).is_ok());
        self.places.ask(&mut sight.places, |place| filter::placed(place, reader, now).is_ok());
        self.places.ask(&mut sight.homes, |place| reader.home.as_ref() == Some(&place.site));
        self.pools.ask(&mut sight.pools, |pools| filter::pools(pools, reader).is_ok());
    }

    pub(super) fn sight(&self, reader: &ReaderProfile, now: Time) -> Sight {
        let mut sight = Sight::new(reader, now);
        self.look(&mut sight, reader, now);
        sight
    }

    /// The first of the reads for which `reader` is fit, in families that `may` be.
    pub(super) fn first(
        &mut self,
        reader: &ReaderProfile,
        now: Time,
        may: impl Fn(&Tag) -> bool,
    ) -> Option<&Item> {
        // Out of its place while this looks at the rest of the queue.
        let known = self.sights.get_mut(&reader.id).and_then(Option::take);
        let mut sight = match known.filter(|sight| sight.is_of(reader, now)) {
            Some(sight) => sight,
            None => Sight::new(reader, now),
        };
        self.look(&mut sight, reader, now);
        let found = self.best(&sight, reader, now, may);
        match self.sights.get_mut(&reader.id) {
            Some(place) => *place = Some(sight),
            None => drop(self.sights.insert(reader.id.clone(), Some(sight))),
        }
        self.get(&found?)
    }

    /// The first read of the families that the reader may have: of each, where it stands at best rules it out, or it is
    /// looked into.
    fn best(
        &mut self,
        sight: &Sight,
        reader: &ReaderProfile,
        now: Time,
        may: impl Fn(&Tag) -> bool,
    ) -> Option<ReadId> {
        let spared = reader.is_spared();
        let mut best: Option<(Stand, &Item)> = None;
        for ((tag, bound), family) in self.tags.iter().zip(&mut self.bounds).zip(&self.families) {
            if !sight.allows(tag.competence, tag.place, tag.pools) || !may(tag) {
                continue;
            }
            let factor =
                |preferred| self.params.product(sight.homes.of(tag.place), preferred, tag.heavy && spared);
            // Of what prefers somebody it is taken to be this reader, until it is looked into.
            let most = factor(tag.prefers);
            let known = bound.as_ref().and_then(|bound| bound.at_best(most, now));
            let hope = known.unwrap_or_else(|| {
                let drawn = bound.insert(family.bound(&self.params, now));
                drawn.at_best(most, now).expect("a bound tells of the moment it was drawn at")
            });
            if best.is_some_and(|(stand, _)| (stand.group, stand.place) < hope) {
                continue;
            }
            let own = factor(family.kin.prefers.as_ref() == Some(&reader.id));
            let Some((stand, item)) = family.first(&reader.id, own, &self.params, now) else { continue };
            if best.is_none_or(|(before, other)| (stand, &item.read) < (before, &other.read)) {
                best = Some((stand, item));
            }
        }
        best.map(|(_, item)| item.read.clone())
    }
}
