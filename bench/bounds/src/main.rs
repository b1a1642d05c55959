//! How far every policy is from what nobody can beat: a time-indexed linear program bounds the weighted time to the
//! signature from below, on fixed small instances, and each policy's own is set beside it.
//!
//! The program: x(j, g, t) minutes of study j by readers of the same skills g in the bin t, after its arrival; no study is read by two
//! at once; no group reads longer than it has readers; all of every study is read. A schedule's completion C(j) is at least its mean
//! busy date plus half its reading, and at least its arrival plus its reading. Every schedule, also one that knows
//! everything beforehand, satisfies all of it, so the optimum is a lower bound.

#![expect(clippy::print_stdout, reason = "a command whose table is its answer")]

use std::collections::BTreeMap;

use highs::{HighsModelStatus, RowProblem, Sense};
use isocenter_simulate::day::{Kind, Observed, Scenario, Workload, observe};

/// Minutes of a bin.
const BIN: f64 = 2.0;
/// Studies of an instance.
const STUDIES: usize = 200;
/// Ratios that are allowed: in the mean over the instances, and in each.
const BARS: (f64, f64) = (1.25, 1.35);
/// Ten readers of 6.2 minutes a study read 97 studies an hour.
const FULL: f64 = 97.0 * 24.0;

const POLICIES: [Kind; 7] = [
    Kind::Isocenter,
    Kind::IsocenterNoLease,
    Kind::Gcmu,
    Kind::PriorityFifo,
    Kind::AiBinary,
    Kind::PushLeastWork,
    Kind::Fifo,
];

fn scenario(load: f64) -> Scenario {
    let text = format!(
        "schema: 1\nname: bound\nabout: Ten readers\nstudies_per_day: {}\ndays: {{warm_up: 0, measured: 1, drain: 0}}\n\
         hourly: [1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1]\nnight: {{from: \"00:00\", to: \"00:00\"}}\n\
         reading: {{pace_sigma: 0}}\nai: {{delay: 0s}}\n\
         readers: {{count: 10, hours: 16h, shifts: [{{start: \"00:00\", share: 100}}]}}\n\
         categories:\n\
         - {{name: radiography, modality: DX, share: 69, minutes: 3, readers: 100}}\n\
         - {{name: body-ct, modality: CT, body_part: ABDOMEN, share: 19, minutes: 14, readers: 70}}\n\
         - {{name: neuro, modality: MR, body_part: BRAIN, share: 12, minutes: 14, readers: 50}}\n\
         classes:\n\
         - {{name: STAT, deadline: 60m, day: 5, night: 5, critical: 20, priority: 1, immediate: true, weight: 180, kappa: 20, cost: 30}}\n\
         - {{name: URGENT, deadline: 4h, day: 17, night: 17, critical: 6, priority: 2, weight: 60, kappa: 20, cost: 6}}\n\
         - {{name: ROUTINE, deadline: 24h, day: 78, night: 78, critical: 1.5, priority: 3, weight: 2, kappa: 20, cost: 1}}\n",
        load * FULL
    );
    Scenario::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

/// One study of an instance, in minutes.
struct Study {
    arrived: f64,
    reading: f64,
    weight: f64,
    category: u8,
}

fn studies(seen: &[Observed]) -> Vec<Study> {
    seen.iter()
        .map(|s| Study { arrived: s.arrived_min, reading: s.reading_min, weight: s.weight, category: s.category })
        .collect()
}

/// The weighted minutes from arrival to signature, summed.
fn cost(seen: &[Observed]) -> f64 {
    seen.iter().map(|s| s.weight * (s.signed_min.expect("a day is enough") - s.arrived_min)).sum()
}

/// The optimum of the program.
fn bound(studies: &[Study], groups: &BTreeMap<u32, f64>) -> f64 {
    let total: f64 = studies.iter().map(|s| s.reading).sum();
    let last = studies.iter().map(|s| s.arrived).fold(0.0, f64::max);
    // After the last arrival, one reader alone would be done by then; far more than is ever used.
    let end = last + total / 5.0 + studies.iter().map(|s| s.reading).fold(0.0, f64::max) + 10.0 * BIN;
    let bins = (end / BIN).ceil() as usize;
    let mut problem = RowProblem::default();
    let mut capacity: BTreeMap<(u32, usize), Vec<(highs::Col, f64)>> = BTreeMap::new();
    for study in studies {
        let finish = problem.add_column(study.weight, (study.arrived + study.reading)..);
        let mut whole = Vec::new();
        // finish - sum x(t) mid(t) / reading >= reading / 2 - slack
        let mut busy = vec![(finish, 1.0)];
        for bin in (study.arrived / BIN).floor() as usize..bins {
            let from = (bin as f64 * BIN).max(study.arrived);
            let to = (bin + 1) as f64 * BIN;
            let mut together = Vec::new();
            for (skills, _) in groups.iter().filter(|(skills, _)| **skills >> study.category & 1 == 1) {
                let x = problem.add_column(0.0, 0.0..);
                capacity.entry((*skills, bin)).or_default().push((x, 1.0));
                together.push((x, 1.0));
                whole.push((x, 1.0));
                busy.push((x, -(from + to) / 2.0 / study.reading));
            }
            problem.add_row(..=(to - from), &together);
        }
        problem.add_row(study.reading..=study.reading, &whole);
        // A reading fills its bins but for the first and the last, so the bins' middles miss its mean busy date by at most this.
        let slack = if study.reading < BIN { BIN / 2.0 } else { BIN * BIN / (8.0 * study.reading) };
        problem.add_row((study.reading / 2.0 - slack).., &busy);
    }
    for ((skills, _), row) in &capacity {
        problem.add_row(..=(groups[skills] * BIN), row);
    }
    let mut model = problem.optimise(Sense::Minimise);
    model.make_quiet();
    model.set_option("solver", "ipm");
    let solved = model.solve();
    assert_eq!(solved.status(), HighsModelStatus::Optimal, "the program has a solution");
    let arrivals: f64 = studies.iter().map(|s| s.weight * s.arrived).sum();
    solved.objective_value() - arrivals
}

fn main() {
    let instances = [0.8, 0.9, 1.0, 1.1].iter().flat_map(|load| (1..=3).map(|seed| (*load, seed)));
    let mut ratios: Vec<Vec<f64>> = vec![Vec::new(); POLICIES.len()];
    print!("{:<14}", "load, seed");
    POLICIES.iter().for_each(|kind| print!("{:>20}", kind.name()));
    println!();
    for (load, seed) in instances {
        let workload = Workload::draw(&scenario(load), seed).first(STUDIES);
        let mut groups: BTreeMap<u32, f64> = BTreeMap::new();
        workload.readers.iter().for_each(|reader| *groups.entry(reader.skills).or_default() += 1.0);
        let seen: Vec<Vec<Observed>> = POLICIES.iter().map(|kind| observe(&workload, *kind, seed)).collect();
        let bound = bound(&studies(&seen[0]), &groups);
        print!("{:<14}", format!("{load:.1}, {seed}"));
        for (place, seen) in seen.iter().enumerate() {
            let ratio = cost(seen) / bound;
            ratios[place].push(ratio);
            print!("{ratio:>20.3}");
        }
        println!();
    }
    let mut missed = false;
    for (name, of) in [
        ("mean", (|all| all.iter().sum::<f64>() / all.len() as f64) as fn(&[f64]) -> f64),
        ("worst", |all| all.iter().copied().fold(0.0, f64::max)),
    ] {
        print!("{name:<14}");
        ratios.iter().for_each(|all| print!("{:>20.3}", of(all)));
        println!();
        let bar = if name == "mean" { BARS.0 } else { BARS.1 };
        missed |= of(&ratios[0]) > bar;
    }
    println!("the bars for isocenter: {} in the mean, {} in each", BARS.0, BARS.1);
    if missed {
        std::process::exit(1);
    }
}
