//! Many policies under the same seeds, and how much they differ.

use std::{collections::BTreeMap, ops::RangeInclusive, sync::Mutex, thread};

use isocenter_assign::Params;
use serde::Serialize;

use super::{Kind, Outcome, Scenario, Workload, replay::Log, world};
use crate::stats::Estimate;

/// What is to be compared.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The scenario.
    pub scenario: Scenario,
    /// Arrivals that are replayed instead of drawn.
    pub log: Option<Log>,
    /// The policies.
    pub policies: Vec<Kind>,
    /// One run of every policy for each.
    pub seeds: RangeInclusive<u64>,
    /// The engine's parameters.
    pub params: Params,
}

/// The figures of one policy.
#[derive(Clone, Debug, Serialize)]
pub struct PolicyResult {
    /// Its name.
    pub policy: &'static str,
    /// Each figure over the seeds.
    pub figures: BTreeMap<String, Estimate>,
    /// The difference to the baseline, seed by seed; absent for the baseline itself.
    pub difference: Option<BTreeMap<String, Difference>>,
    /// Each seed.
    pub runs: Vec<Outcome>,
}

/// A paired difference.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Difference {
    /// Mean difference to the baseline under the same seed.
    pub mean: f64,
    /// Half-width of its 95 % confidence interval; absent for a single seed.
    pub half_width: Option<f64>,
    /// The mean beside the baseline's mean; absent where that is 0.
    pub ratio: Option<f64>,
}

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct Comparison {
    /// The scenario's name.
    pub scenario: String,
    /// What it is.
    pub about: String,
    /// Seeds, first and last.
    pub seeds: [u64; 2],
    /// Days before measuring, measured, and after.
    pub days: [u32; 3],
    /// The policy that the others are compared with.
    pub baseline: &'static str,
    /// The weights that the engine orders by and that the weighted wait is made of.
    pub weights: BTreeMap<String, Weights>,
    /// By policy, in the order asked for.
    pub policies: Vec<PolicyResult>,
}

/// The weights of a class.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Weights {
    /// From complete to signed, minutes.
    pub deadline_min: i64,
    /// The engine's weight.
    pub weight: u32,
    /// The engine's weight of the probability of being critical.
    pub kappa: u32,
    /// The weight in the weighted wait.
    pub cost: f64,
}

/// Runs every policy under every seed, on all cores. Each study arrives, is as it is, and takes as long under all policies of
/// one seed, so that their differences are paired. `done` is told after each run.
pub fn run(plan: &Plan, done: &(dyn Fn() + Sync)) -> Comparison {
    let seeds: Vec<u64> = plan.seeds.clone().collect();
    let results: Mutex<BTreeMap<(usize, u64), Outcome>> = Mutex::new(BTreeMap::new());
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let next = Mutex::new(0_usize);
    thread::scope(|scope| {
        for _ in 0..cores.min(seeds.len()) {
            scope.spawn(|| {
                loop {
                    let taken = {
                        let mut next = next.lock().expect("no holder panics");
                        *next += 1;
                        *next - 1
                    };
                    let Some(seed) = seeds.get(taken) else { return };
                    let workload = match &plan.log {
                        Some(log) => log.workload(&plan.scenario, *seed),
                        None => Workload::draw(&plan.scenario, *seed),
                    };
                    for (place, kind) in plan.policies.iter().enumerate() {
                        let mut policy = kind.make(&workload, *seed, &plan.params);
                        let history = world::run(&workload, policy.as_mut());
                        let outcome = Outcome::of(&workload, *seed, &history);
                        results.lock().expect("no holder panics").insert((place, *seed), outcome);
                        done();
                    }
                }
            });
        }
    });
    let results = results.into_inner().expect("no holder panics");
    summary(plan, &seeds, results)
}

fn summary(plan: &Plan, seeds: &[u64], mut results: BTreeMap<(usize, u64), Outcome>) -> Comparison {
    let baseline = plan.policies.iter().position(|kind| *kind == Kind::PriorityFifo).unwrap_or(0);
    // By policy, figure, then seed.
    let mut values: Vec<BTreeMap<String, Vec<f64>>> = vec![BTreeMap::new(); plan.policies.len()];
    for ((place, _), outcome) in &results {
        for (name, value) in outcome.figures() {
            values[*place].entry(name).or_default().push(value);
        }
    }
    let estimates = |values: &BTreeMap<String, Vec<f64>>| {
        let of = |(name, values): (&String, &Vec<f64>)| Some((name.clone(), Estimate::of(values)?));
        values.iter().filter_map(of).collect()
    };
    let policies = plan.policies.iter().enumerate().map(|(place, kind)| PolicyResult {
        policy: kind.name(),
        figures: estimates(&values[place]),
        difference: (place != baseline).then(|| differences(&values[place], &values[baseline])),
        runs: seeds.iter().filter_map(|seed| results.remove(&(place, *seed))).collect(),
    });
    let weights = plan.scenario.classes.iter().map(|class| {
        let deadline_min = class.deadline / super::scenario::MINUTE;
        (
            class.name.clone(),
            Weights { deadline_min, weight: class.weight, kappa: class.kappa, cost: class.cost },
        )
    });
    Comparison {
        scenario: plan.scenario.name.clone(),
        about: plan.scenario.about.clone(),
        seeds: [*plan.seeds.start(), *plan.seeds.end()],
        days: plan.scenario.days,
        baseline: plan.policies[baseline].name(),
        weights: weights.collect(),
        policies: policies.collect(),
    }
}

fn differences(
    values: &BTreeMap<String, Vec<f64>>,
    baseline: &BTreeMap<String, Vec<f64>>,
) -> BTreeMap<String, Difference> {
    let of = |(name, values): (&String, &Vec<f64>)| {
        let other = baseline.get(name)?;
        let paired: Vec<f64> = values.iter().zip(other).map(|(a, b)| a - b).collect();
        let Estimate { mean, half_width } = Estimate::of(&paired)?;
        let (own, base) = (Estimate::of(values)?.mean, Estimate::of(other)?.mean);
        Some((name.clone(), Difference { mean, half_width, ratio: (base > 0.0).then(|| own / base) }))
    };
    values.iter().filter_map(of).collect()
}
