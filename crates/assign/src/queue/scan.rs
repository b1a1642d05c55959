//! A pull: the first read that one reader may have.

use isocenter_domain::{Time, id::ReadId};

use super::{
    Queue,
    family::{Bound, Kin, Stand},
};
use crate::{Item, ReaderProfile, filter};

/// What a pull writes down on its way.
#[derive(Debug, Default)]
pub(super) struct Scan {
    sight: Sight,
    /// Where the reads of a family stand at best, and the family.
    hopes: Vec<((u8, i64), usize)>,
    spared: bool,
}

/// Which competences, places and lists of pools, by number, one reader is fit for.
#[derive(Debug, Default)]
pub(super) struct Sight {
    competences: Vec<bool>,
    places: Vec<bool>,
    pools: Vec<bool>,
    /// Which places are the reader's home.
    home: Vec<bool>,
}

impl Sight {
    pub fn sees(&self, kin: &Kin) -> bool {
        self.allows(kin.competence, kin.place, kin.pools)
    }

    fn allows(&self, competence: u32, place: u32, pools: u32) -> bool {
        self.competences[competence as usize] && self.places[place as usize] && self.pools[pools as usize]
    }
}

impl Queue {
    pub(super) fn sight(&self, reader: &ReaderProfile, now: Time) -> Sight {
        let mut sight = Sight::default();
        self.see(&mut sight, reader, now);
        sight
    }

    fn see(&self, sight: &mut Sight, reader: &ReaderProfile, now: Time) {
        self.competences.ask(&mut sight.competences, |c| filter::competent(c, reader).is_ok());
        self.places.ask(&mut sight.places, |place| filter::placed(place, reader, now).is_ok());
        self.places.ask(&mut sight.home, |place| reader.home.as_ref() == Some(&place.site));
        self.pools.ask(&mut sight.pools, |pools| filter::pools(pools, reader).is_ok());
    }

    /// The first of the reads for which `reader` is fit, in families that `may` be.
    pub(super) fn first(
        &mut self,
        reader: &ReaderProfile,
        now: Time,
        may: impl Fn(&Bound) -> bool,
    ) -> Option<&Item> {
        let mut scan = std::mem::take(&mut self.scan);
        self.see(&mut scan.sight, reader, now);
        self.hope(&mut scan, reader, now, may);
        let found = self.best(&scan, reader, now);
        self.scan = scan;
        self.get(&found?)
    }

    /// Where each family that the reader may have stands at best.
    fn hope(&self, scan: &mut Scan, reader: &ReaderProfile, now: Time, may: impl Fn(&Bound) -> bool) {
        let Scan { sight, hopes, spared } = scan;
        *spared = reader.is_spared();
        hopes.clear();
        for (number, bound) in self.bounds.iter().enumerate() {
            if !sight.allows(bound.competence, bound.place, bound.pools) || !may(bound) {
                continue;
            }
            let local = sight.home[bound.place as usize];
            let factor = self.params.product(local, bound.prefers, bound.heavy && *spared);
            hopes.push((bound.at_best(factor, self.params.head_start, now), number));
        }
    }

    /// The first read of the families hoped for. The most promising one is looked into first, which rules most of the
    /// others out.
    fn best(&self, scan: &Scan, reader: &ReaderProfile, now: Time) -> Option<ReadId> {
        let most = scan.hopes.iter().min()?;
        let mut best: Option<(Stand, &Item)> = None;
        for (hope, number) in std::iter::once(most).chain(&scan.hopes) {
            if best.as_ref().is_some_and(|(stand, _)| (stand.group, stand.place) < *hope) {
                continue;
            }
            let family = &self.families[*number];
            let kin = &family.kin;
            let preferred = kin.prefers.as_ref() == Some(&reader.id);
            let factor =
                self.params.product(scan.sight.home[kin.place as usize], preferred, kin.heavy && scan.spared);
            let Some((stand, item)) = family.first(&reader.id, factor, &self.params, now) else { continue };
            if best.is_none_or(|(before, other)| (stand, &item.read) < (before, &other.read)) {
                best = Some((stand, item));
            }
        }
        best.map(|(_, item)| item.read.clone())
    }
}
