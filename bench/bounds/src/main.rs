//! How far every policy is from what nobody can beat: a time-indexed linear program bounds the weighted time to the
//! signature from below, on fixed small instances, and each policy's own is set beside it.
//!
//! The program: x(j, g, t) minutes of study j by readers of the same skills g in the bin t, after its arrival; no study is read by two
//! at once; no group reads longer than it has readers; all of every study is read. A schedule's completion C(j) is at least its mean
//! busy date plus half its reading, and at least its arrival plus its reading. Every schedule, also one that knows
//! everything beforehand, satisfies all of it, so the optimum is a lower bound.

#![expect(clippy::print_stdout, reason = "a command whose table is its answer")]

use std::collections::BTreeMap;

use clarabel::{
    algebra::CscMatrix,
    solver::{DefaultSettings, DefaultSolver, IPSolver as _, SolverStatus, SupportedConeT},
};
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

/// A linear program in the form `minimise cost x, equal rows = , other rows <=`.
#[derive(Default)]
struct Program {
    cost: Vec<f64>,
    /// Row, column, coefficient.
    equal: (Vec<(usize, usize, f64)>, Vec<f64>),
    most: (Vec<(usize, usize, f64)>, Vec<f64>),
}

impl Program {
    fn column(&mut self, cost: f64) -> usize {
        self.cost.push(cost);
        self.cost.len() - 1
    }

    fn equal(&mut self, row: &[(usize, f64)], value: f64) {
        let number = self.equal.1.len();
        self.equal.0.extend(row.iter().map(|(column, factor)| (number, *column, *factor)));
        self.equal.1.push(value);
    }

    fn most(&mut self, row: &[(usize, f64)], value: f64) {
        let number = self.most.1.len();
        self.most.0.extend(row.iter().map(|(column, factor)| (number, *column, *factor)));
        self.most.1.push(value);
    }

    /// The optimum, from below: the value of the dual.
    fn solve(self) -> f64 {
        let (columns, equals) = (self.cost.len(), self.equal.1.len());
        let rows = equals + self.most.1.len();
        let shifted = self.most.0.into_iter().map(|(row, column, factor)| (row + equals, column, factor));
        let all: Vec<(usize, usize, f64)> = self.equal.0.into_iter().chain(shifted).collect();
        let matrix = CscMatrix::new_from_triplets(
            rows,
            columns,
            all.iter().map(|cell| cell.0).collect(),
            all.iter().map(|cell| cell.1).collect(),
            all.iter().map(|cell| cell.2).collect(),
        );
        let values: Vec<f64> = self.equal.1.into_iter().chain(self.most.1).collect();
        let cones = [SupportedConeT::ZeroConeT(equals), SupportedConeT::NonnegativeConeT(rows - equals)];
        let settings = DefaultSettings { verbose: false, ..DefaultSettings::default() };
        let none = CscMatrix::zeros((columns, columns));
        let mut solver = DefaultSolver::new(&none, &self.cost, &matrix, &values, &cones, settings)
            .expect("rows and columns are counted above");
        solver.solve();
        assert_eq!(solver.solution.status, SolverStatus::Solved, "the program has a solution");
        solver.solution.obj_val_dual
    }
}

/// The optimum of the program, arrivals subtracted.
fn bound(studies: &[Study], groups: &BTreeMap<u32, f64>) -> f64 {
    let total: f64 = studies.iter().map(|s| s.reading).sum();
    let last = studies.iter().map(|s| s.arrived).fold(0.0, f64::max);
    // Five readers who are busy throughout would be done by then; no optimum needs longer.
    let end = last.max(total / 5.0) + studies.iter().map(|s| s.reading).fold(0.0, f64::max) + 10.0 * BIN;
    let bins = (end / BIN).ceil() as usize;
    let mut program = Program::default();
    let mut capacity: BTreeMap<(u32, usize), Vec<(usize, f64)>> = BTreeMap::new();
    for study in studies {
        // Minutes from the earliest possible signature to the signature.
        let late = program.column(study.weight);
        program.most(&[(late, -1.0)], 0.0);
        let earliest = study.arrived + study.reading;
        let mut whole = Vec::new();
        // earliest + late >= sum x(t) mid(t) / reading + reading / 2 - slack
        let mut busy = vec![(late, -1.0)];
        for bin in (study.arrived / BIN).floor() as usize..bins {
            let from = (bin as f64 * BIN).max(study.arrived);
            let to = (bin + 1) as f64 * BIN;
            let mut together = Vec::new();
            for (skills, _) in groups.iter().filter(|(skills, _)| **skills >> study.category & 1 == 1) {
                let x = program.column(0.0);
                program.most(&[(x, -1.0)], 0.0);
                capacity.entry((*skills, bin)).or_default().push((x, 1.0));
                together.push((x, 1.0));
                whole.push((x, 1.0));
                busy.push((x, (from + to) / 2.0 / study.reading));
            }
            program.most(&together, to - from);
        }
        program.equal(&whole, study.reading);
        // A reading fills its bins but for the first and the last, so the bins' middles miss its mean busy date by at most this.
        let slack = if study.reading < BIN { BIN / 2.0 } else { BIN * BIN / (8.0 * study.reading) };
        program.most(&busy, earliest - study.reading / 2.0 + slack);
    }
    for ((skills, _), row) in &capacity {
        program.most(row, groups[skills] * BIN);
    }
    let readings: f64 = studies.iter().map(|s| s.weight * s.reading).sum();
    program.solve() + readings
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
