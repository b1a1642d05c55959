//! Reads that are the same to every reader but for age, probability and minutes.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    sync::Arc,
    time::Duration,
};

use isocenter_domain::{
    Time,
    id::{ReadId, ReaderId},
};

use crate::{Item, Lane, Params, Urgency, order, order::Level};

/// What makes a family; competence, place and pools by number.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Kin {
    pub competence: u32,
    pub place: u32,
    pub pools: u32,
    pub urgency: Urgency,
    pub heavy: bool,
    pub prefers: Option<ReaderId>,
}

/// The reads of a family, in one line for each level: in a line only the age differs, so that its head is its first.
#[derive(Debug)]
pub(super) struct Family {
    pub kin: Kin,
    lines: BTreeMap<Level, BTreeMap<(Time, ReadId), Arc<Item>>>,
}

/// How soon a read comes: less is sooner. Compared in this order, and then by read id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stand {
    pub group: u8,
    pub place: i64,
    pub complete_at: Time,
}

/// A bound on what a family holds, all that the scan over families looks at.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub competence: u32,
    pub place: u32,
    pub pools: u32,
    /// Whether some reader makes more of it than its kin alone tells.
    pub prefers: bool,
    pub heavy: bool,
    pub next_up: bool,
    tier: u8,
    /// When the oldest was complete.
    oldest: Time,
    /// When the oldest joins the front lane, and its deadline.
    front_at: Time,
    deadline_at: Time,
    /// By how much the greatest index rises with each microsecond of age, and by how much more past the knee.
    rise: f64,
    more: f64,
    knee: f64,
}

/// More than rounding can make of an index.
const SLACK: f64 = 1.000_001;

impl Family {
    pub fn new(kin: Kin) -> Self {
        Self { kin, lines: BTreeMap::new() }
    }

    pub fn insert(&mut self, item: Arc<Item>, params: &Params) {
        let line = self.lines.entry(Level::of(&item, params)).or_default();
        line.insert((item.complete_at, item.read.clone()), item);
    }

    pub fn remove(&mut self, item: &Item, params: &Params) {
        let Entry::Occupied(mut line) = self.lines.entry(Level::of(item, params)) else { return };
        line.get_mut().remove(&(item.complete_at, item.read.clone()));
        if line.get().is_empty() {
            line.remove();
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.lines.values().flat_map(BTreeMap::values)
    }

    /// The first of those who do not exclude `reader`, with where it stands; looks at the head of each line, and
    /// further only past those that exclude.
    pub fn first(
        &self,
        reader: &ReaderId,
        factor: f64,
        params: &Params,
        now: Time,
    ) -> Option<(Stand, &Arc<Item>)> {
        let heads = self.lines.iter().filter_map(|(level, line)| {
            let item = line.values().find(|item| !item.excluded.contains_key(reader))?;
            Some((self.stand(*level, item.complete_at, factor, params, now), item))
        });
        heads.min_by(|(a, one), (b, other)| a.cmp(b).then_with(|| one.read.cmp(&other.read)))
    }

    fn stand(&self, level: Level, complete_at: Time, factor: f64, params: &Params, now: Time) -> Stand {
        let urgency = &self.kin.urgency;
        let (lane, place) = match params.lane(urgency, complete_at, now) {
            Lane::Front => (0, complete_at.plus(urgency.target).0),
            Lane::Regular => {
                (1, order::descending(params.index(urgency, level, complete_at, factor, now).value))
            }
        };
        Stand { group: params.tier(urgency) * 2 + lane, place, complete_at }
    }

    /// The bound of a family that is not empty.
    pub fn bound(&self, params: &Params) -> Bound {
        let kin = &self.kin;
        let oldest = self.lines.values().filter_map(|line| line.keys().next()).map(|(at, _)| *at).min();
        let oldest = oldest.expect("a family that is kept has a read");
        let probability = self.lines.keys().map(|level| level.probability).max().unwrap_or(0);
        let micros = self.lines.keys().map(|level| level.micros).min().unwrap_or(1);
        let slope = params.slope(&kin.urgency, Level { probability, micros });
        Bound {
            competence: kin.competence,
            place: kin.place,
            pools: kin.pools,
            prefers: kin.prefers.is_some(),
            heavy: kin.heavy,
            next_up: kin.urgency.next_up,
            tier: params.tier(&kin.urgency),
            oldest,
            front_at: params.front_at(&kin.urgency, oldest).unwrap_or(Time(i64::MAX)),
            deadline_at: oldest.plus(kin.urgency.target),
            rise: slope.rise,
            more: slope.more,
            knee: slope.knee,
        }
    }
}

impl Bound {
    /// Where at best a read of the family stands for a reader of `factor`.
    pub fn at_best(&self, factor: f64, head_start: Duration, now: Time) -> (u8, i64) {
        if self.front_at <= now {
            return (self.tier * 2, self.deadline_at.0);
        }
        let age = order::micros(now.since(self.oldest).saturating_add(head_start));
        let index = (self.rise * age + self.more * (age - self.knee).max(0.0)) * factor * SLACK;
        (self.tier * 2 + 1, order::descending(index))
    }
}
