//! What the next hours bring: predicted waits of each class and pool, and the skill that would shorten them.
//!
//! Work is treated as a fluid: in each step the readers on duty take it up, the more urgent class first, the scarcer
//! competence before the others, the least flexible reader before the rest. What such a model cannot see is queueing by
//! chance within a step: its waits are those that come of too few readers, which is what a roster can change.

mod fluid;

use std::{collections::BTreeMap, time::Duration};

use isocenter_domain::{
    Time,
    id::{ClassId, PoolId},
};

use crate::{Item, Needs, ReaderProfile, Skill, Urgency};
use fluid::Fluid;

/// Work of one class with the same needs: what waits and what will come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Demand {
    /// The class.
    pub class: ClassId,
    /// What it means.
    pub urgency: Urgency,
    /// What it asks of a reader. It is counted for the first of its pools.
    pub needs: Needs,
    /// The work that waits now, in time at even pace.
    pub waiting: Duration,
    /// Its mean age.
    pub age: Duration,
    /// The work that comes in each step, in time at even pace; what is missing at the end is nothing.
    pub arriving: Vec<Duration>,
}

/// A reader in the next hours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Supply {
    /// The reader. Presence, duty and hands as of now do not matter.
    pub reader: ReaderProfile,
    /// The time on duty in each step; what is missing at the end is none.
    pub on_duty: Vec<Duration>,
}

/// The steps that are looked ahead.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Horizon {
    /// Where the first step begins.
    pub from: Time,
    /// How long a step is.
    pub step: Duration,
    /// How many there are.
    pub steps: usize,
}

/// The predicted wait of what comes in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forecast {
    /// The class.
    pub class: ClassId,
    /// The pool.
    pub pool: PoolId,
    /// When the step begins.
    pub at: Time,
    /// How long the last of it waits until it has been taken up, in whole steps; none: beyond the horizon.
    pub wait: Option<Duration>,
}

/// Work that will be late.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The class.
    pub class: ClassId,
    /// The pool.
    pub pool: PoolId,
    /// When what will be late first comes in; what waits already counts as the first step's.
    pub from: Time,
    /// The work that will be late, in time at even pace.
    pub late: Duration,
    /// The one skill that would help most.
    pub relief: Option<Relief>,
}

/// What one more reader would change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Relief {
    /// The skill of one more reader, of even pace, in the same pool and on duty throughout.
    pub skill: Skill,
    /// How much less of the work of this class and pool would be late.
    pub saves: Duration,
}

/// What is predicted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Outlook {
    /// For each class and pool that has work, each step in order.
    pub forecasts: Vec<Forecast>,
    /// Where a deadline will be missed, by class and pool.
    pub shortages: Vec<Shortage>,
}

/// How many competences are tried for each shortage: those with most late work.
const TRIED: usize = 8;

/// The work that waits among `items` at `now`, with nothing that comes.
#[must_use]
pub fn waiting<'a>(items: impl IntoIterator<Item = &'a Item>, now: Time) -> Vec<Demand> {
    let mut demands: BTreeMap<(ClassId, Urgency, Needs), (Demand, u128)> = BTreeMap::new();
    for item in items {
        let key = (item.class.clone(), item.urgency, item.needs.clone());
        let (demand, aged) = demands.entry(key).or_insert_with(|| {
            let none = Duration::ZERO;
            let (class, needs) = (item.class.clone(), item.needs.clone());
            (
                Demand {
                    class,
                    urgency: item.urgency,
                    needs,
                    waiting: none,
                    age: none,
                    arriving: Vec::new(),
                },
                0,
            )
        });
        demand.waiting = demand.waiting.saturating_add(item.work.minutes);
        let age = now.since(item.complete_at).as_micros();
        *aged = aged.saturating_add(item.work.minutes.as_micros().saturating_mul(age));
    }
    let aged = |(demand, aged): (Demand, u128)| {
        let mean = aged / demand.waiting.as_micros().max(1);
        Demand { age: Duration::from_micros(u64::try_from(mean).unwrap_or(u64::MAX)), ..demand }
    };
    demands.into_values().map(aged).collect()
}

/// Looks ahead. Demands without a pool are nobody's and left out.
#[must_use]
pub fn outlook(demands: &[Demand], supply: &[Supply], horizon: &Horizon) -> Outlook {
    let fluid = Fluid::new(demands, supply, horizon);
    let served = fluid.serve(None);
    let mut outlook = Outlook::default();
    for ((class, pool), streams) in fluid.by_class_and_pool() {
        for step in 0..horizon.steps {
            let waits = streams.iter().map(|stream| served.wait(*stream, step));
            // The last of it: nothing is later than what is not done within the horizon.
            let wait = waits.reduce(|a, b| a.zip(b).map(|(a, b)| a.max(b))).flatten();
            outlook.forecasts.push(Forecast {
                class: class.clone(),
                pool: pool.clone(),
                at: start(horizon, step),
                wait: wait.map(|steps| horizon.step.saturating_mul(steps)),
            });
        }
        let late = |served: &fluid::Served| streams.iter().map(|stream| served.late(*stream)).sum::<u64>();
        let Some(from) = streams.iter().filter_map(|stream| served.first_late(*stream)).min() else {
            continue;
        };
        outlook.shortages.push(Shortage {
            from: start(horizon, from),
            late: Duration::from_micros(late(&served)),
            relief: relief(&fluid, &served, &pool, &streams, late),
            class,
            pool,
        });
    }
    outlook
}

/// The skill of which one more reader makes the least work late; none where it would change nothing.
fn relief(
    fluid: &Fluid,
    served: &fluid::Served,
    pool: &PoolId,
    streams: &[usize],
    late: impl Fn(&fluid::Served) -> u64,
) -> Option<Relief> {
    let before = late(served);
    let mut by_skill: BTreeMap<Skill, u64> = BTreeMap::new();
    for stream in streams {
        *by_skill.entry(fluid.skill(*stream)).or_insert(0) += served.late(*stream);
    }
    let mut tried: Vec<_> = by_skill.into_iter().filter(|(_, late)| *late > 0).collect();
    tried.sort_by(|(a, late_a), (b, late_b)| late_b.cmp(late_a).then_with(|| a.cmp(b)));
    tried.truncate(TRIED);
    let saves = |skill: Skill| {
        let after = late(&fluid.serve(Some((&skill, pool))));
        (before.saturating_sub(after), skill)
    };
    let best =
        tried.into_iter().map(|(skill, _)| saves(skill)).max_by(|a, b| a.0.cmp(&b.0).then(b.1.cmp(&a.1)));
    best.filter(|(saved, _)| *saved > 0)
        .map(|(saved, skill)| Relief { skill, saves: Duration::from_micros(saved) })
}

fn start(horizon: &Horizon, step: usize) -> Time {
    horizon.from.plus(horizon.step.saturating_mul(u32::try_from(step).unwrap_or(u32::MAX)))
}
