//! The queue of reads that wait.

mod family;
mod first_come;
mod scan;

use std::{collections::BTreeMap, sync::Arc};

use isocenter_domain::{
    Time,
    id::{PoolId, ReadId, ReaderId},
};

use crate::{
    Item, Params, ReaderProfile, Rejection,
    explain::{self, Explanation, Parked},
    filter,
    interned::Interned,
    item::{Competence, Place},
    next_up,
};
use family::{Bound, Family, Kin, Tag};
use first_come::FirstCome;

use scan::Sight;

/// The reads that wait.
///
/// They are kept in families: reads that are the same to every reader but for age, probability and minutes. A reader is
/// judged once for each different competence, place and list of pools; a pull then compares a bound of each family and
/// looks into those few whose bound says that they may hold the first read. A bound outlasts arrivals and time; it is
/// drawn anew once what leads a family has left it or may be overtaken. The cost of a pull grows with the number of
/// families, not with the number of reads, and its answer is that of a scan of every read.
#[derive(Debug, Default)]
pub struct Queue {
    params: Params,
    items: BTreeMap<ReadId, (Arc<Item>, Kin)>,
    competences: Interned<Competence>,
    places: Interned<Place>,
    pools: Interned<Vec<PoolId>>,
    /// Where in the three vectors a family is.
    numbers: BTreeMap<Kin, usize>,
    families: Vec<Family>,
    tags: Vec<Tag>,
    /// None: not known.
    bounds: Vec<Option<Bound>>,
    /// What each reader who has pulled is fit for.
    sights: BTreeMap<ReaderId, Option<Sight>>,
    /// What order of arrival would make of the same.
    first_come: FirstCome,
    /// The minute in which that was last looked at.
    looked: Option<i64>,
}

const MINUTE_MICROS: i64 = 60_000_000;

impl Queue {
    /// An empty queue in the order of `params`.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self { params, ..Self::default() }
    }

    /// What it is ordered by now.
    #[must_use]
    pub const fn params(&self) -> &Params {
        &self.params
    }

    /// How many reads wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// The item of `read`, if it waits.
    #[must_use]
    pub fn get(&self, read: &ReadId) -> Option<&Item> {
        self.items.get(read).map(|(item, _)| &**item)
    }

    /// Every item, by read id.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.values().map(|(item, _)| &**item)
    }

    /// Adds `item`, or replaces the item of the same read, which is returned. Order of insertion does not matter.
    pub fn insert(&mut self, mut item: Item) -> Option<Item> {
        let before = self.take(&item.read);
        let kin = Kin {
            competence: self.competences.take(&mut item.needs.competence),
            place: self.places.take(&mut item.needs.place),
            pools: self.pools.take(&mut item.needs.pools),
            urgency: item.urgency,
            heavy: self.params.is_heavy(&item),
            prefers: item.prefers.clone(),
        };
        // What is replaced keeps its turn, unless it became of another kind.
        let was = before.as_ref().filter(|before| before.urgency.may_outwait);
        let same = |before: &&Item| {
            (&before.needs.competence, &before.needs.pools) == (&item.needs.competence, &item.needs.pools)
        };
        if !item.urgency.may_outwait || was.filter(same).is_none() {
            was.into_iter().for_each(|before| self.first_come.leave(&before.needs));
            if item.urgency.may_outwait {
                self.first_come.join(&item.needs, item.waiting_since);
            }
        }
        let item = Arc::new(item);
        match self.numbers.get(&kin) {
            Some(number) => {
                let heads = self.families[*number].insert(Arc::clone(&item), &self.params);
                if let Some(bound) = self.bounds[*number].as_mut().filter(|_| heads) {
                    bound.widen(&item, &self.params);
                }
            }
            None => {
                let mut family = Family::new(kin.clone());
                family.insert(Arc::clone(&item), &self.params);
                self.numbers.insert(kin.clone(), self.families.len());
                self.tags.push(Tag::of(&kin));
                self.bounds.push(None);
                self.families.push(family);
            }
        }
        self.items.insert(item.read.clone(), (item, kin));
        before
    }

    /// Takes `read` out: it is not to be read any more.
    pub fn remove(&mut self, read: &ReadId) -> Option<Item> {
        let item = self.take(read)?;
        if item.urgency.may_outwait {
            self.first_come.leave(&item.needs);
        }
        self.forget_when_empty();
        Some(item)
    }

    /// Takes `read` out: `reader` has it now.
    pub fn hand(&mut self, read: &ReadId, reader: &ReaderProfile) -> Option<Item> {
        let item = self.take(read)?;
        if item.urgency.may_outwait {
            self.first_come.hand(
                |pools| filter::pools(pools, reader).is_ok(),
                |competence| filter::competent(competence, reader).is_ok(),
            );
        }
        self.forget_when_empty();
        Some(item)
    }

    fn forget_when_empty(&mut self) {
        if self.items.is_empty() {
            self.first_come.clear();
        }
    }

    fn take(&mut self, read: &ReadId) -> Option<Item> {
        let (item, kin) = self.items.remove(read)?;
        let number = *self.numbers.get(&kin).expect("an item that is kept has a family");
        let family = &mut self.families[number];
        let headed = family.remove(&item, &self.params);
        if family.is_empty() {
            self.drop_family(number);
        } else if headed {
            self.bounds[number] = None;
        }
        self.competences.release(kin.competence);
        self.places.release(kin.place);
        self.pools.release(kin.pools);
        Some(Arc::unwrap_or_clone(item))
    }

    fn drop_family(&mut self, number: usize) {
        let gone = self.families.swap_remove(number);
        self.bounds.swap_remove(number);
        self.tags.swap_remove(number);
        self.numbers.remove(&gone.kin);
        if let Some(moved) = self.families.get(number) {
            self.numbers.insert(moved.kin.clone(), number);
        }
    }

    /// The first read in order at `now` that `reader` may have. It stays in the queue.
    pub fn pick(&mut self, reader: &ReaderProfile, now: Time) -> Option<&Item> {
        filter::available(reader, now).ok()?;
        self.keep_up(now);
        self.first(reader, now, |_| true)
    }

    /// The first read in order at `now` that may be leased ahead to `reader`: of a class that may be, whatever waits of
    /// immediate classes, and only where [`next_up::may_lease`] allows it. `None` while that read is in the front lane:
    /// it is for the next who is free, and what was leased from behind it would be given back for it
    /// ([`next_up::outranked`]). It stays in the queue.
    pub fn next_up(&mut self, reader: &ReaderProfile, now: Time) -> Option<&Item> {
        next_up::may_lease(reader, now).ok()?;
        self.keep_up(now);
        let read = self.first(reader, now, |tag| tag.next_up)?.read.clone();
        self.get(&read).filter(|item| next_up::may_wait(&self.params, item, now))
    }

    /// Looks at how long order of arrival would let reads wait and keeps [`Params::front_after`] by that; pulls do it
    /// themselves. Once in a minute: then the order is the same to every pull of that minute, and bounds are kept.
    pub fn keep_up(&mut self, now: Time) {
        let Some(patience) = self.params.patience else { return };
        let minute = Some(now.0.div_euclid(MINUTE_MICROS));
        if self.looked == minute {
            return;
        }
        self.looked = minute;
        let longest = self.first_come.longest(now).saturating_mul(patience.percent) / 100;
        let front_after = longest.max(patience.least);
        // A wait that grows with the clock would have all bounds drawn anew each minute; a thirty-second part matters to nobody.
        if self.params.front_after.is_none_or(|known| front_after.abs_diff(known) > known / 32) {
            self.params.front_after = Some(front_after);
            self.bounds.fill(None);
        }
    }

    /// The place of `read` in the whole queue at `now`, from 1. Looks at every read.
    #[must_use]
    pub fn position(&self, read: &ReadId, now: Time) -> Option<usize> {
        let own = self.params.rank(self.get(read)?, None, now);
        Some(1 + self.items().filter(|item| self.params.rank(item, None, now) < own).count())
    }

    /// Why `read` is where it is at `now`, and which of `readers` may have it.
    #[must_use]
    pub fn explain(&self, read: &ReadId, now: Time, readers: &[ReaderProfile]) -> Option<Explanation> {
        let item = self.get(read)?;
        Some(Explanation {
            position: self.position(read, now)?,
            waiting: self.len(),
            lane: self.params.lane(&item.urgency, item.complete_at, now),
            terms: explain::terms(item, &self.params, now),
            verdicts: readers.iter().map(|r| explain::verdict(item, r, &self.params, now)).collect(),
        })
    }

    /// The reads that none of `readers`, all that are registered, could have whoever is present, as of `now`; by read
    /// id.
    #[must_use]
    pub fn parked(&self, readers: &[ReaderProfile], now: Time) -> Vec<Parked> {
        let sights: Vec<_> = readers.iter().map(|reader| (reader, self.sight(reader, now))).collect();
        let mut parked = Vec::new();
        for family in &self.families {
            let suits = |(_, sight): &&(_, Sight)| sight.sees(&family.kin);
            for item in family.items() {
                let excluded = |reader: &ReaderProfile| item.excluded.contains_key(&reader.id);
                if sights.iter().filter(suits).all(|(reader, _)| excluded(reader)) {
                    parked.push(Parked { read: item.read.clone(), why: why(item, readers, now) });
                }
            }
        }
        parked.sort_by(|a, b| a.read.cmp(&b.read));
        parked
    }
}

/// What refuses `item` to each of `readers` first, counted.
fn why(item: &Item, readers: &[ReaderProfile], now: Time) -> Vec<(Rejection, usize)> {
    let mut refused = BTreeMap::new();
    for rejection in readers.iter().filter_map(|reader| filter::qualified(item, reader, now).err()) {
        *refused.entry(rejection).or_insert(0) += 1;
    }
    refused.into_iter().collect()
}
