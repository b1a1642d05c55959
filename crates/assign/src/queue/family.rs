//! Reads that are the same to every reader but for age, probability and minutes.

use std::{collections::BTreeMap, sync::Arc};

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

/// Where a family stands at best: where the read stands that leads by index, until another may have overtaken it.
/// Families that are pulled from come to stand nearly alike, so that a looser bound would tell little.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    tier: u8,
    /// When the oldest joins the front lane, and its deadline.
    front_at: Time,
    deadline_at: Time,
    /// When the chords begin and end.
    from: Time,
    until: Time,
    /// The index of the read that leads, and the greatest of the others; without factor.
    leader: Chord,
    others: Chord,
}

/// What an index stays below between two moments: the cost of waiting rises evenly or ever faster (`Params::checked`),
/// so that the straight line from its first value to its last is above it. Before that it is below the first value.
#[derive(Clone, Copy, Debug, Default)]
struct Chord {
    first: f64,
    /// For each microsecond.
    rise: f64,
}

/// More than rounding can make of an index.
const SLACK: f64 = 1.000_000_1;

/// Chords last for this part of the age of the read that leads: the longer, the further above what they bound, so that
/// another seems to overtake sooner.
const VALIDITY: u32 = 4;

impl Family {
    pub fn new(kin: Kin) -> Self {
        Self { kin, lines: Vec::new() }
    }

    /// Adds an item of the family. Whether it is the first of its line now.
    pub fn insert(&mut self, item: Arc<Item>, params: &Params) -> bool {
        let level = Level::of(&item, params);
        let number = self.lines.binary_search_by_key(&level, |line| line.level).unwrap_or_else(|number| {
            self.lines.insert(number, Line { level, head: item.complete_at, items: BTreeMap::new() });
            number
        });
        let line = &mut self.lines[number];
        let heads = line.items.is_empty() || item.complete_at < line.head;
        line.head = line.head.min(item.complete_at);
        line.items.insert((item.complete_at, item.read.clone()), item);
        heads
    }

    /// Takes an item out. Whether it was the first of its line.
    pub fn remove(&mut self, item: &Item, params: &Params) -> bool {
        let level = Level::of(item, params);
        let Ok(number) = self.lines.binary_search_by_key(&level, |line| line.level) else { return false };
        let line = &mut self.lines[number];
        let headed = item.complete_at == line.head;
        line.items.remove(&(item.complete_at, item.read.clone()));
        match line.items.keys().next() {
            Some((head, _)) => line.head = *head,
            None => drop(self.lines.remove(number)),
        }
        headed
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
        let mut best: Option<(Stand, &Arc<Item>)> = None;
        for line in &self.lines {
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
        let urgency = &self.kin.urgency;
        let index = |line: &Line, at| params.index(urgency, line.level, line.head, 1.0, at).value;
        let oldest = self.lines.iter().map(|line| line.head).min().expect("a family that is kept has a read");
        let indices = self.lines.iter().map(|line| (index(line, now), line));
        let leads = indices.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, line)| line);
        let leads = leads.expect("a family that is kept has a line");
        let until = now.plus(now.since(leads.head).saturating_add(params.head_start) / VALIDITY);
        let mut bound = Bound {
            tier: params.tier(urgency),
            front_at: params.front_at(urgency, oldest).unwrap_or(Time(i64::MAX)),
            deadline_at: oldest.plus(urgency.target),
            from: now,
            until,
            leader: Chord::default(),
            others: Chord::default(),
        };
        let length = order::elapsed(now, until);
        for line in &self.lines {
            let ends = (index(line, now), index(line, until));
            let chord = if line.level == leads.level { &mut bound.leader } else { &mut bound.others };
            chord.rise_above(ends, length);
        }
        bound
    }
}

impl Chord {
    fn rise_above(&mut self, (first, last): (f64, f64), length: f64) {
        let last = last.max(self.at(length));
        self.first = first.max(self.first);
        self.rise = (last - self.first) / length.max(1.0);
    }

    fn at(&self, micros: f64) -> f64 {
        self.first + self.rise * micros
    }
}

impl Bound {
    /// Takes in what has joined the family at the head of its line.
    pub fn widen(&mut self, item: &Item, params: &Params) {
        let level = Level::of(item, params);
        let index = |at| params.index(&item.urgency, level, item.complete_at, 1.0, at).value;
        let front_at = params.front_at(&item.urgency, item.complete_at).unwrap_or(Time(i64::MAX));
        self.front_at = self.front_at.min(front_at);
        self.deadline_at = self.deadline_at.min(item.deadline_at());
        self.others.rise_above((index(self.from), index(self.until)), order::elapsed(self.from, self.until));
    }

    /// Where at best a read of the family stands for a reader of `factor`; `None` where it has to be drawn anew.
    pub fn at_best(&self, factor: f64, now: Time) -> Option<(u8, i64)> {
        if self.until < now {
            return None;
        }
        if self.front_at <= now {
            return Some((self.tier * 2, self.deadline_at.0));
        }
        let since = order::elapsed(self.from, now);
        let leader = self.leader.at(since);
        let place = order::descending(leader * SLACK * factor);
        (self.others.at(since) <= leader).then_some((self.tier * 2 + 1, place))
    }
}
