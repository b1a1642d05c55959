//! The queue of reads that wait, and why each is where it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    sync::Arc,
};

use isocenter_domain::{
    Time,
    id::{PoolId, ReadId, ReaderId},
};

use crate::{
    Item, Lane, Needs, ReaderProfile, Rejection, filter,
    order::{self, Key},
};

/// The reads that wait, each in the bucket of its needs.
///
/// [`Queue::pick`] judges the reader once per bucket and looks at the bucket's head, so its cost grows with the
/// number of different needs, not with the number of reads. The lanes are those of the last `now` it was given.
#[derive(Debug)]
pub struct Queue {
    items: BTreeMap<ReadId, Entry>,
    buckets: BTreeMap<Arc<Needs>, BTreeSet<Key>>,
    /// Every read by the time it joins the front lane; those up to `now` have joined.
    front_at: BTreeMap<Time, BTreeSet<ReadId>>,
    now: Time,
}

#[derive(Debug)]
struct Entry {
    item: Item,
    needs: Arc<Needs>,
    /// Where it stands in its bucket.
    key: Key,
}

/// One number that decides a read's place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Term {
    /// Its name, e.g. `waited`.
    pub name: &'static str,
    /// Its value; negative where a time has passed.
    pub value: i64,
    /// The unit, as UCUM writes it: `us` is microseconds.
    pub unit: &'static str,
}

/// Whether one reader may have a read now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// The reader.
    pub reader: ReaderId,
    /// The read's most preferred pool that they belong to.
    pub pool: Option<PoolId>,
    /// Every filter that refuses; empty if they may.
    pub rejections: Vec<Rejection>,
}

/// Why a read is where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// Its place in the whole queue, from 1. A reader's own next read may stand further back.
    pub position: usize,
    /// How many reads wait.
    pub waiting: usize,
    /// The lane it waits in.
    pub lane: Lane,
    /// The numbers that decide its place.
    pub terms: Vec<Term>,
    /// Each reader asked about, in the order given.
    pub verdicts: Vec<Verdict>,
}

/// A read that no registered reader could ever have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The read.
    pub read: ReadId,
    /// The lasting filters that refuse, and how many readers each refuses first. Empty if no reader is registered.
    pub why: Vec<(Rejection, usize)>,
}

impl Default for Queue {
    fn default() -> Self {
        Self {
            items: BTreeMap::new(),
            buckets: BTreeMap::new(),
            front_at: BTreeMap::new(),
            now: Time(i64::MIN),
        }
    }
}

impl Queue {
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
        self.items.get(read).map(|entry| &entry.item)
    }

    /// Every item, by read id.
    pub fn items(&self) -> impl Iterator<Item = &Item> {
        self.items.values().map(|entry| &entry.item)
    }

    /// Adds `item`, or replaces the item of the same read, which is returned. Order of insertion does not matter.
    pub fn insert(&mut self, item: Item) -> Option<Item> {
        let before = self.remove(&item.read);
        // One allocation for all reads of the same needs.
        let needs = match self.buckets.get_key_value(&item.needs) {
            Some((needs, _)) => Arc::clone(needs),
            None => Arc::new(item.needs.clone()),
        };
        let key = Key::of(&item, self.now);
        self.buckets.entry(Arc::clone(&needs)).or_default().insert(key.clone());
        self.front_at.entry(order::front_at(&item)).or_default().insert(item.read.clone());
        self.items.insert(item.read.clone(), Entry { item, needs, key });
        before
    }

    /// Takes `read` out.
    pub fn remove(&mut self, read: &ReadId) -> Option<Item> {
        let entry = self.items.remove(read)?;
        let front_at = order::front_at(&entry.item);
        if let Some(together) = self.front_at.get_mut(&front_at) {
            together.remove(read);
            if together.is_empty() {
                self.front_at.remove(&front_at);
            }
        }
        if let Some(bucket) = self.buckets.get_mut(&entry.needs) {
            bucket.remove(&entry.key);
            if bucket.is_empty() {
                self.buckets.remove(&entry.needs);
            }
        }
        Some(entry.item)
    }

    /// The first read in order at `now` that `reader` may have. It stays in the queue.
    pub fn pick(&mut self, reader: &ReaderProfile, now: Time) -> Option<&Item> {
        self.advance(now);
        filter::available(reader).ok()?;
        let first = self
            .buckets
            .iter()
            .filter(|(needs, _)| filter::suitable(needs, reader).is_ok())
            .filter_map(|(_, bucket)| bucket.iter().find(|key| !self.excludes(&key.read, &reader.id)))
            .min()?;
        self.get(&first.read)
    }

    /// The place of `read` in the whole queue at `now`, from 1.
    #[must_use]
    pub fn position(&self, read: &ReadId, now: Time) -> Option<usize> {
        let own = Key::of(self.get(read)?, now);
        Some(1 + self.items().filter(|item| Key::of(item, now) < own).count())
    }

    /// Why `read` is where it is at `now`, and which of `readers` may have it.
    #[must_use]
    pub fn explain(&self, read: &ReadId, now: Time, readers: &[ReaderProfile]) -> Option<Explanation> {
        let item = self.get(read)?;
        let term = |name, from: Time, to: Time| Term { name, value: to.0.saturating_sub(from.0), unit: "us" };
        let verdicts = readers.iter().map(|reader| Verdict {
            reader: reader.id.clone(),
            pool: filter::pool(&item.needs, reader).cloned(),
            rejections: filter::rejections(item, reader),
        });
        Some(Explanation {
            position: self.position(read, now)?,
            waiting: self.len(),
            lane: order::lane(item, now),
            terms: vec![
                term("age", item.complete_at, now),
                term("waited", item.waiting_since, now),
                term("to_front_lane", now, order::front_at(item)),
                term("to_deadline", now, item.deadline_at),
                term("to_virtual_due", now, item.virtual_due),
                term("ai_credit_used", item.virtual_due, item.deadline_at),
            ],
            verdicts: verdicts.collect(),
        })
    }

    /// The reads that none of `readers`, all that are registered, could ever have, whoever is present; by read id.
    #[must_use]
    pub fn parked(&self, readers: &[ReaderProfile]) -> Vec<Parked> {
        let mut parked = Vec::new();
        for (needs, bucket) in &self.buckets {
            // What refuses is the same for every read of a bucket, but for who gave the read back.
            let (mut suited, mut refused) = (Vec::new(), BTreeMap::new());
            for reader in readers {
                match filter::suitable(needs, reader) {
                    Ok(()) => suited.push(&reader.id),
                    Err(rejection) => *refused.entry(rejection).or_insert(0) += 1,
                }
            }
            for key in bucket {
                if suited.iter().all(|reader| self.excludes(&key.read, reader)) {
                    let mut why = refused.clone();
                    if !suited.is_empty() {
                        why.insert(Rejection::Excluded, suited.len());
                    }
                    parked.push(Parked { read: key.read.clone(), why: why.into_iter().collect() });
                }
            }
        }
        parked.sort_by(|a, b| a.read.cmp(&b.read));
        parked
    }

    fn excludes(&self, read: &ReadId, reader: &ReaderId) -> bool {
        self.get(read).is_some_and(|item| item.excluded.contains(reader))
    }

    /// Moves reads between the lanes as of `now`. A clock that is set back moves them back: the order depends on
    /// `now` alone, never on what was asked before.
    fn advance(&mut self, now: Time) {
        let (early, late) = (self.now.min(now), self.now.max(now));
        self.now = now;
        let moved: Vec<ReadId> = self
            .front_at
            .range((Bound::Excluded(early), Bound::Included(late)))
            .flat_map(|(_, together)| together.iter().cloned())
            .collect();
        for read in moved {
            let Some(entry) = self.items.get_mut(&read) else { continue };
            let key = Key::of(&entry.item, now);
            if let Some(bucket) = self.buckets.get_mut(&entry.needs) {
                bucket.remove(&entry.key);
                bucket.insert(key.clone());
            }
            entry.key = key;
        }
    }
}
