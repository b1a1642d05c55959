//! Early binding: every study is some reader's from the moment it arrives.

use std::collections::BTreeSet;

use super::{Policy, choose_idle};
use crate::day::{
    Workload,
    world::{Hands, Room, place},
};

/// Less is sooner: the deadline, the study.
type Key = (i64, u32);

pub(super) struct Push {
    steals: bool,
    /// Each reader's own queue and its expected work.
    queues: Vec<BTreeSet<Key>>,
    work: Vec<i64>,
    /// What nobody on shift can read.
    unbound: BTreeSet<Key>,
}

impl Push {
    pub fn new(workload: &Workload, steals: bool) -> Self {
        let readers = workload.readers.len();
        Self {
            steals,
            queues: vec![BTreeSet::new(); readers],
            work: vec![0; readers],
            unbound: BTreeSet::new(),
        }
    }

    fn key(study: u32, room: &Room) -> Key {
        let seen = &room.workload.studies[place(study)];
        (seen.arrived + room.workload.scenario.classes[usize::from(seen.class)].deadline, study)
    }

    fn take(&mut self, reader: u32, key: Key, room: &Room) -> u32 {
        self.queues[place(reader)].remove(&key);
        self.work[place(reader)] -= room.workload.studies[place(key.1)].expected;
        key.1
    }

    /// The most urgent study that `reader` can read, of the colleague who has most work with such a one.
    fn steal(&mut self, reader: u32, room: &Room) -> Option<u32> {
        let mut busiest: Vec<u32> =
            (0..).take(self.queues.len()).filter(|r| !self.queues[place(*r)].is_empty()).collect();
        busiest.sort_by_key(|other| (-self.work[place(*other)], *other));
        let found = busiest.into_iter().find_map(|other| {
            let key = self.queues[place(other)].iter().find(|key| room.reads(reader, key.1))?;
            Some((other, *key))
        });
        found.map(|(other, key)| self.take(other, key, room))
    }
}

impl Policy for Push {
    fn add(&mut self, study: u32, _now: i64, room: &Room) -> Option<u32> {
        if let Some(reader) = choose_idle(study, room, |_| true) {
            return Some(reader);
        }
        let load = |reader: &u32| {
            // Nobody knows when an open reading ends: it counts as half of what it was expected to take.
            let open = match room.desks[place(*reader)].hands {
                Hands::Reading(study) => room.workload.studies[place(study)].expected / 2,
                Hands::Idle(_) | Hands::Away => 0,
            };
            (self.work[place(*reader)] + open, *reader)
        };
        let on_shift =
            (0..).take(room.desks.len()).filter(|r| room.desks[place(*r)].works() && room.reads(*r, study));
        let key = Self::key(study, room);
        match on_shift.min_by_key(load) {
            Some(reader) => {
                self.queues[place(reader)].insert(key);
                self.work[place(reader)] += room.workload.studies[place(study)].expected;
            }
            None => {
                self.unbound.insert(key);
            }
        }
        None
    }

    fn pull(&mut self, reader: u32, _now: i64, room: &Room) -> Option<(u32, bool)> {
        if let Some(key) = self.queues[place(reader)].first().copied() {
            return Some((self.take(reader, key, room), true));
        }
        let key = self.unbound.iter().find(|key| room.reads(reader, key.1)).copied();
        if let Some(key) = key {
            self.unbound.remove(&key);
            return Some((key.1, false));
        }
        let stolen = if self.steals { self.steal(reader, room) } else { None };
        stolen.map(|study| (study, false))
    }

    fn leave(&mut self, reader: u32, _now: i64, _room: &Room) -> Vec<u32> {
        self.work[place(reader)] = 0;
        std::mem::take(&mut self.queues[place(reader)]).into_iter().map(|key| key.1).collect()
    }
}
