//! Queues by a key that does not change as time passes.

use std::collections::BTreeSet;

use super::{Policy, choose_idle};
use crate::{
    day::{
        Workload,
        world::{Room, place},
    },
    random::Random,
};

/// The share of its deadline, in percent, after which another site's readers may have a study.
const OVERFLOW_PERCENT: i64 = 25;
/// The share of pulls that pick cherries.
const CHERRY_PICKERS: f64 = 0.5;
/// The share of its deadline that a certain finding is worth as a credit.
const CREDIT: f64 = 0.9;

/// By what is ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Arrival,
    Class,
    Deadline,
    Flag,
    Credit,
    CherryPick,
}

/// Whose studies a reader may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reach {
    Everyone,
    OwnSite,
    OwnSiteFirst,
}

/// Less is sooner: a rank, a time, the study.
type Key = (i64, i64, u32);

pub(super) struct Ordered {
    order: Order,
    reach: Reach,
    /// By site (one where all are one), category and class.
    lines: Vec<BTreeSet<Key>>,
    /// Where each study waits, if it does.
    keys: Vec<Option<Key>>,
    /// What AI said, kept for studies that come back.
    said: Vec<Option<(f64, bool)>>,
    categories: usize,
    classes: usize,
    random: Random,
}

impl Ordered {
    pub fn new(workload: &Workload, order: Order, reach: Reach, seed: u64) -> Self {
        let (categories, classes) = (workload.scenario.categories.len(), workload.scenario.classes.len());
        let sites = if reach == Reach::Everyone { 1 } else { workload.scenario.sites.len() };
        Self {
            order,
            reach,
            lines: vec![BTreeSet::new(); sites * categories * classes],
            keys: vec![None; workload.studies.len()],
            said: vec![None; workload.studies.len()],
            categories,
            classes,
            random: Random::new(seed, "cherries"),
        }
    }

    fn line(&self, study: u32, room: &Room) -> usize {
        let study = &room.workload.studies[place(study)];
        let site = if self.reach == Reach::Everyone { 0 } else { usize::from(study.site) };
        (site * self.categories + usize::from(study.category)) * self.classes + usize::from(study.class)
    }

    fn key(&self, number: u32, room: &Room) -> Key {
        let scenario = &room.workload.scenario;
        let study = &room.workload.studies[place(number)];
        let class = &scenario.classes[usize::from(study.class)];
        // Twice the level, so that there is room for flagged studies between.
        let rank = 2 * i64::from(class.priority);
        match self.order {
            Order::Arrival => (0, study.arrived, number),
            Order::Class | Order::CherryPick => (rank, study.arrived, number),
            Order::Deadline => (0, study.arrived + class.deadline, number),
            Order::Flag => {
                let flagged =
                    self.said[place(number)].is_some_and(|(_, flagged)| flagged) && !class.immediate;
                let immediate = scenario.classes.iter().filter(|class| class.immediate);
                let before = 2 * i64::from(immediate.map(|class| class.priority).max().unwrap_or(0)) + 1;
                (if flagged { before } else { rank }, study.arrived, number)
            }
            Order::Credit => {
                let probability =
                    self.said[place(number)].map_or(class.critical, |(said, _)| said.max(class.critical));
                #[expect(
                    clippy::cast_possible_truncation,
                    clippy::cast_precision_loss,
                    reason = "a part of a deadline"
                )]
                let credit = (class.deadline as f64 * CREDIT * probability.sqrt()) as i64;
                (0, study.arrived + class.deadline - credit, number)
            }
        }
    }

    fn put(&mut self, study: u32, room: &Room) {
        let (line, key) = (self.line(study, room), self.key(study, room));
        self.lines[line].insert(key);
        self.keys[place(study)] = Some(key);
    }

    fn take(&mut self, study: u32, room: &Room) -> bool {
        let line = self.line(study, room);
        self.keys[place(study)].take().is_some_and(|key| self.lines[line].remove(&key))
    }

    /// The heads of the lines that `reader` may take from.
    fn heads(&self, reader: u32, now: i64, room: &Room) -> impl Iterator<Item = (bool, Key)> {
        let who = &room.workload.readers[place(reader)];
        let own = usize::from(who.site);
        self.lines.iter().enumerate().filter_map(move |(line, waiting)| {
            let key = *waiting.first()?;
            let class = line % self.classes;
            let category = line / self.classes % self.categories;
            if who.skills >> category & 1 == 0 {
                return None;
            }
            let local = line / self.classes / self.categories == own;
            let may = match self.reach {
                Reach::Everyone => true,
                Reach::OwnSite => local,
                Reach::OwnSiteFirst => {
                    let after = room.workload.scenario.classes[class].deadline * OVERFLOW_PERCENT / 100;
                    local || room.workload.studies[place(key.2)].arrived + after <= now
                }
            };
            let foreign = self.reach == Reach::OwnSiteFirst && !local;
            may.then_some((foreign, key))
        })
    }

    /// The study that is read quickest; of those, the one that came first. Immediate classes are not passed over.
    fn cherry(&self, reader: u32, now: i64, room: &Room) -> Option<u32> {
        let (scenario, studies) = (&room.workload.scenario, &room.workload.studies);
        let key = |study: u32| {
            let seen = &studies[place(study)];
            let immediate = scenario.classes[usize::from(seen.class)].immediate;
            (!immediate, if immediate { 0 } else { seen.expected }, seen.arrived, study)
        };
        self.heads(reader, now, room).map(|(_, head)| head.2).min_by_key(|study| key(*study))
    }
}

impl Policy for Ordered {
    fn add(&mut self, study: u32, now: i64, room: &Room) -> Option<u32> {
        let seen = &room.workload.studies[place(study)];
        let foreign_after = match self.reach {
            Reach::Everyone => i64::MIN,
            Reach::OwnSite => i64::MAX,
            Reach::OwnSiteFirst => self.wake(study, room).unwrap_or(i64::MAX),
        };
        let own = choose_idle(study, room, |reader| room.workload.readers[place(reader)].site == seen.site);
        let any = || if foreign_after <= now { choose_idle(study, room, |_| true) } else { None };
        let reader = if self.reach == Reach::Everyone { any() } else { own.or_else(any) };
        if reader.is_none() {
            self.put(study, room);
        }
        reader
    }

    fn answer(&mut self, study: u32, probability: f64, flagged: bool, _now: i64, room: &Room) {
        let waits = self.take(study, room);
        self.said[place(study)] = Some((probability, flagged));
        if waits {
            self.put(study, room);
        }
    }

    fn pull(&mut self, reader: u32, now: i64, room: &Room) -> Option<(u32, bool)> {
        let picks = self.order == Order::CherryPick && self.random.chance(CHERRY_PICKERS);
        let study =
            if picks { self.cherry(reader, now, room)? } else { self.heads(reader, now, room).min()?.1.2 };
        self.take(study, room);
        Some((study, false))
    }

    fn wake(&self, study: u32, room: &Room) -> Option<i64> {
        let seen = &room.workload.studies[place(study)];
        let deadline = room.workload.scenario.classes[usize::from(seen.class)].deadline;
        (self.reach == Reach::OwnSiteFirst).then(|| seen.arrived + deadline * OVERFLOW_PERCENT / 100)
    }
}
