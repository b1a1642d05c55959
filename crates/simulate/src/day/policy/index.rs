//! The plain index: over everything that waits, with exact probabilities, without guards, locality or leases.

use super::{Policy, choose_idle};
use crate::day::{
    Workload,
    scenario::{HOUR, MINUTE},
    world::{Room, place},
};

/// Added to every age.
const HEAD_START: i64 = 5 * MINUTE;

pub(super) struct Index {
    /// What waits of each category: the study, when it arrived, and how fast its index grows with age.
    waiting: Vec<Vec<(u32, i64, f64)>>,
    said: Vec<Option<f64>>,
}

impl Index {
    pub fn new(workload: &Workload) -> Self {
        Self {
            waiting: vec![Vec::new(); workload.scenario.categories.len()],
            said: vec![None; workload.studies.len()],
        }
    }

    /// What each microsecond of age adds to the index: both terms are proportional to age.
    #[expect(clippy::cast_precision_loss, reason = "times of a few days")]
    fn slope(&self, study: u32, room: &Room) -> f64 {
        let seen = &room.workload.studies[place(study)];
        let class = &room.workload.scenario.classes[usize::from(seen.class)];
        let probability = self.said[place(study)].map_or(class.critical, |said| said.max(class.critical));
        let urgency = f64::from(class.weight) / class.deadline as f64;
        let critical = f64::from(class.kappa) * probability / HOUR as f64;
        (urgency + critical) / seen.expected as f64
    }
}

impl Policy for Index {
    fn add(&mut self, study: u32, _now: i64, room: &Room) -> Option<u32> {
        let reader = choose_idle(study, room, |_| true);
        if reader.is_none() {
            let seen = &room.workload.studies[place(study)];
            let entry = (study, seen.arrived, self.slope(study, room));
            self.waiting[usize::from(seen.category)].push(entry);
        }
        reader
    }

    fn answer(&mut self, study: u32, probability: f64, _flagged: bool, _now: i64, room: &Room) {
        self.said[place(study)] = Some(probability);
        let slope = self.slope(study, room);
        let category = usize::from(room.workload.studies[place(study)].category);
        if let Some(entry) = self.waiting[category].iter_mut().find(|entry| entry.0 == study) {
            entry.2 = slope;
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "times of a few days")]
    fn pull(&mut self, reader: u32, now: i64, room: &Room) -> Option<(u32, bool)> {
        let skills = room.workload.readers[place(reader)].skills;
        let mut best: Option<(f64, u32, usize, usize)> = None;
        for (category, waiting) in self.waiting.iter().enumerate().filter(|(c, _)| skills >> c & 1 == 1) {
            for (at, (study, arrived, slope)) in waiting.iter().enumerate() {
                let index = (now - arrived + HEAD_START) as f64 * slope;
                if best.is_none_or(|best| index > best.0 || (index >= best.0 && *study < best.1)) {
                    best = Some((index, *study, category, at));
                }
            }
        }
        let (_, study, category, at) = best?;
        self.waiting[category].swap_remove(at);
        Some((study, false))
    }
}
