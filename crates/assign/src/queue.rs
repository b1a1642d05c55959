//! The queue of reads that wait.

use std::collections::BTreeMap;

use isocenter_domain::{Time, id::ReadId};

use crate::{
    Item, Params, ReaderProfile, Rejection,
    explain::{self, Explanation, Parked},
    filter,
};

/// The reads that wait.
#[derive(Debug, Default)]
pub struct Queue {
    params: Params,
    items: BTreeMap<ReadId, Item>,
}

impl Queue {
    /// An empty queue in the order of `params`.
    #[must_use]
    pub fn new(params: Params) -> Self {
        Self { params, items: BTreeMap::new() }
    }

    /// What it is ordered by.
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
        self.items.get(read)
    }

    /// Every item, by read id.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.values()
    }

    /// Adds `item`, or replaces the item of the same read, which is returned. Order of insertion does not matter.
    pub fn insert(&mut self, item: Item) -> Option<Item> {
        self.items.insert(item.read.clone(), item)
    }

    /// Takes `read` out.
    pub fn remove(&mut self, read: &ReadId) -> Option<Item> {
        self.items.remove(read)
    }

    /// The first read in order at `now` that `reader` may have. It stays in the queue.
    pub fn pick(&mut self, reader: &ReaderProfile, now: Time) -> Option<&Item> {
        filter::available(reader, now).ok()?;
        self.first(reader, now, |_| true)
    }

    /// The first read in order at `now` that may be leased ahead to `reader`, who has another open: of a class that
    /// may, and only for a reader with one open read and no offer, at work and not spared. It stays in the queue.
    pub fn next_up(&mut self, reader: &ReaderProfile, now: Time) -> Option<&Item> {
        crate::next_up::may_lease(reader, now).ok()?;
        self.first(reader, now, |item| item.urgency.next_up)
    }

    /// The place of `read` in the whole queue at `now`, from 1.
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
        let refused = |item: &Item| -> Option<BTreeMap<Rejection, usize>> {
            let mut refused = BTreeMap::new();
            for reader in readers {
                *refused.entry(filter::qualified(item, reader, now).err()?).or_insert(0) += 1;
            }
            Some(refused)
        };
        let parked =
            |item: &Item| Some(Parked { read: item.read.clone(), why: refused(item)?.into_iter().collect() });
        self.items().filter_map(parked).collect()
    }

    fn first(&self, reader: &ReaderProfile, now: Time, may: impl Fn(&Item) -> bool) -> Option<&Item> {
        self.items()
            .filter(|item| may(item) && filter::qualified(item, reader, now).is_ok())
            .min_by_key(|item| self.params.rank(item, Some(reader), now))
    }
}
