//! Reads that are the same to every reader but for age, probability and minutes.

use std::{collections::BTreeMap, sync::Arc};

use isocenter_domain::{
    Time,
    id::{ReadId, ReaderId},
};

use crate::{
    Item, Lane, Params, Urgency, order,
    order::{Level, Slope},
};

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

/// The reads of a family, in one line for each level, by level.
#[derive(Debug)]
pub(super) struct Family {
    pub kin: Kin,
    lines: Vec<Line>,
}

/// Reads that differ in age alone, so that the first of them is the first in order.
#[derive(Debug)]
struct Line {
    level: Level,
    /// When the first was complete: kept beside, because a look at a line has to be cheap.
    head: Time,
    items: BTreeMap<(Time, ReadId), Arc<Item>>,
}

/// How soon a read comes: less is sooner. Compared in this order, and then by read id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Stand {
    pub group: u8,
    pub place: i64,
    pub complete_at: Time,
}

/// What tells whether a family is for a reader: small, because a scan looks at every one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Tag {
    pub competence: u32,
    pub place: u32,
    pub pools: u32,
    /// Whether some reader makes more of it than its kin alone tells.
    pub prefers: bool,
    pub heavy: bool,
    pub next_up: bool,
}

impl Tag {
    pub fn of(kin: &Kin) -> Self {
        Self {
            competence: kin.competence,
            place: kin.place,
            pools: kin.pools,
            prefers: kin.prefers.is_some(),
            heavy: kin.heavy,
            next_up: kin.urgency.next_up,
        }
    }
}

/// A bound on what a family holds.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    tier: u8,
    /// When the oldest joins the front lane, and its deadline.
    front_at: Time,
    deadline_at: Time,
    /// Until when the bound holds: indices never fall with time.
    until: Time,
    /// The read that leads by index: its index is known at any time.
    leader: Time,
    slope: Slope,
    /// The greatest index of the others at `until`, without factor.
    second: f64,
}

/// More than rounding can make of an index.
const SLACK: f64 = 1.000_000_1;

/// A bound holds for this part of the age of the read that leads: the longer, the less it tells of the others.
const VALIDITY: u32 = 128;

impl Family {
    pub fn new(kin: Kin) -> Self {
        Self { kin, lines: Vec::new() }
    }

    pub fn insert(&mut self, item: Arc<Item>, params: &Params) {
        let level = Level::of(&item, params);
        let number = self.lines.binary_search_by_key(&level, |line| line.level).unwrap_or_else(|number| {
            self.lines.insert(number, Line { level, head: item.complete_at, items: BTreeMap::new() });
            number
        });
        let line = &mut self.lines[number];
        line.head = line.head.min(item.complete_at);
        line.items.insert((item.complete_at, item.read.clone()), item);
    }

    pub fn remove(&mut self, item: &Item, params: &Params) {
        let level = Level::of(item, params);
        let Ok(number) = self.lines.binary_search_by_key(&level, |line| line.level) else { return };
        let line = &mut self.lines[number];
        line.items.remove(&(item.complete_at, item.read.clone()));
        match line.items.keys().next() {
            Some((head, _)) => line.head = *head,
            None => drop(self.lines.remove(number)),
        }
    }

    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    pub fn items(&self) -> impl Iterator<Item = &Arc<Item>> {
        self.lines.iter().flat_map(|line| line.items.values())
    }

    /// The first of those who do not exclude `reader`, with where it stands. Looks at where the head of each line
    /// stands, and into those lines alone that may hold the first.
    pub fn first(
        &self,
        reader: &ReaderId,
        factor: f64,
        params: &Params,
        now: Time,
    ) -> Option<(Stand, &Arc<Item>)> {
        let stand = |line: &Line, at| self.stand(line.level, at, factor, params, now);
        let most = self.lines.iter().min_by_key(|line| stand(line, line.head))?;
        let mut best: Option<(Stand, &Arc<Item>)> = None;
        for line in std::iter::once(most).chain(&self.lines) {
            if best.is_some_and(|(before, _)| before < stand(line, line.head)) {
                continue;
            }
            let Some(item) = line.items.values().find(|item| !item.excluded.contains_key(reader)) else {
                continue;
            };
            let found = (stand(line, item.complete_at), item);
            if best.is_none_or(|(before, other)| (found.0, &item.read) < (before, &other.read)) {
                best = Some(found);
            }
        }
        best
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

    /// A bound of a family that is not empty, from `now` on for a while.
    pub fn bound(&self, params: &Params, now: Time) -> Bound {
        let kin = &self.kin;
        let oldest = self.lines.iter().map(|line| line.head).min().expect("a family that is kept has a read");
        let index = |line: &Line, at| params.index(&kin.urgency, line.level, line.head, 1.0, at).value;
        let indices = self.lines.iter().map(|line| (index(line, now), line));
        let leads = indices.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, line)| line);
        let leads = leads.expect("a family that is kept has a line");
        let until = now.plus(now.since(leads.head).saturating_add(params.head_start) / VALIDITY);
        let others = self.lines.iter().filter(|line| line.level != leads.level);
        Bound {
            leader: leads.head,
            slope: params.slope(&kin.urgency, leads.level),
            second: others.map(|line| index(line, until)).fold(0.0, f64::max),
            until,
            front_at: params.front_at(&kin.urgency, oldest).unwrap_or(Time(i64::MAX)),
            deadline_at: oldest.plus(kin.urgency.target),
            ..Bound::unknown(kin, params)
        }
    }
}

impl Bound {
    /// Of a family that has changed: holds for no time.
    pub fn unknown(kin: &Kin, params: &Params) -> Self {
        Self {
            tier: params.tier(&kin.urgency),
            front_at: Time(i64::MAX),
            deadline_at: Time(i64::MAX),
            until: Time(i64::MIN),
            leader: Time::ZERO,
            slope: Slope::default(),
            second: 0.0,
        }
    }

    pub fn holds(&self, now: Time) -> bool {
        now <= self.until && self.until > Time(i64::MIN)
    }

    /// Where at best a read of the family stands for a reader of `factor`; sound while the bound holds.
    pub fn at_best(&self, factor: f64, params: &Params, now: Time) -> (u8, i64) {
        if self.front_at <= now {
            return (self.tier * 2, self.deadline_at.0);
        }
        let leader = self.slope.at(params.age(self.leader, now)) * SLACK;
        (self.tier * 2 + 1, order::descending(leader.max(self.second) * factor))
    }
}
