//! What came of a run, by what is measured: waits and turnaround apart, breaches, criticals, fairness, what it cost.

use serde::Serialize;

use super::{
    scenario::{HOUR, MINUTE},
    workload::Workload,
    world::{Fate, History, place},
};
use crate::stats::{gini, mean, quantile};

/// What a truly critical study weighs more in the mean over all classes.
const CRITICAL_COST: f64 = 40.0;

/// Minutes, over the studies that arrived in the measured days.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Spread {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub median: f64,
    /// The 95th percentile.
    pub p95: f64,
    /// The longest.
    pub max: f64,
}

impl Spread {
    fn of(mut minutes: Vec<f64>) -> Self {
        minutes.sort_by(f64::total_cmp);
        let [median, p95, max] = [0.5, 0.95, 1.0].map(|share| quantile(&minutes, share));
        Self { mean: mean(&minutes), median, p95, max }
    }
}

/// One class.
#[derive(Clone, Debug, Serialize)]
pub struct ClassOutcome {
    /// Its name.
    pub class: String,
    /// Studies that arrived in the measured days.
    pub studies: usize,
    /// Of those, not signed at the end. Each counts as a breach, and with the wait it had by then.
    pub unread: usize,
    /// From complete to opened.
    pub wait: Spread,
    /// From complete to signed.
    pub turnaround: Spread,
    /// Percent signed after the deadline, or not at all.
    pub breach_percent: f64,
    /// The same without the studies whose reading alone took longer than the deadline.
    pub avoidable_breach_percent: f64,
}

/// One policy under one seed.
#[derive(Clone, Debug, Serialize)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Studies measured.
    pub studies: usize,
    /// Of those, not signed at the end.
    pub unread: usize,
    /// By class, in order of precedence.
    pub classes: Vec<ClassOutcome>,
    /// Waits of the truly critical studies, all of them.
    pub critical: Spread,
    /// The same without the immediate classes: those that AI has to find.
    pub critical_other: Spread,
    /// Of those, the ones that AI did not flag.
    pub critical_missed: Spread,
    /// Mean wait, each study weighed by its class's cost, and 40 more if it is truly critical.
    pub weighted_wait: f64,
    /// Inequality of relative value units per hour on shift.
    pub gini: f64,
    /// Percent read by a reader of the study's own site.
    pub local_percent: f64,
    /// Reads that were somebody's and became somebody else's before they were signed, per hundred studies.
    pub churn_percent: f64,
    /// Percent opened by whom they had been leased to ahead.
    pub prefetched_percent: f64,
    /// Percent of the later studies of a visit that its first reader had; 100 where there are none.
    pub same_reader_percent: f64,
    /// For the charts.
    #[serde(skip)]
    pub(crate) charts: Charts,
}

/// What the report draws.
#[derive(Clone, Debug, Default)]
pub(crate) struct Charts {
    /// By class, then hour of the measured days: mean wait in minutes and studies.
    pub hours: Vec<Vec<(f64, u32)>>,
    /// Studies that wait at the end of each hour of the measured days.
    pub waiting: Vec<u32>,
    /// Each reader's relative value units an hour, those of the center first.
    pub loads: Vec<(u8, f64)>,
}

/// One study as it came out, truth included: for a bound that no policy can beat.
#[derive(Clone, Copy, Debug)]
pub struct Observed {
    /// When it arrived, minutes.
    pub arrived_min: f64,
    /// What reading it takes a reader of even pace.
    pub reading_min: f64,
    /// When it was signed, if it was.
    pub signed_min: Option<f64>,
    /// Its category, by index.
    pub category: u8,
    /// The weight of its minutes: its class's cost, and 40 more if it is truly critical.
    pub weight: f64,
}

/// Every study of `workload` under a policy with the engine's parameters as they are tuned.
#[must_use]
pub fn observe(workload: &Workload, kind: super::Kind, seed: u64) -> Vec<Observed> {
    let mut policy = kind.make(workload, seed, &crate::params());
    let history = super::world::run(workload, policy.as_mut());
    let observed = |study: usize| Observed {
        arrived_min: minutes(workload.studies[study].arrived),
        reading_min: minutes(workload.truths[study].reading),
        signed_min: history.fates[study].signed.map(minutes),
        category: workload.studies[study].category,
        weight: weight(workload, study),
    };
    (0..workload.studies.len()).map(observed).collect()
}

fn weight(workload: &Workload, study: usize) -> f64 {
    let class = &workload.scenario.classes[usize::from(workload.studies[study].class)];
    class.cost + if workload.truths[study].critical { CRITICAL_COST } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "times of a few weeks")]
fn minutes(time: i64) -> f64 {
    time as f64 / MINUTE as f64
}

#[expect(clippy::cast_precision_loss, reason = "far fewer studies than a double counts exactly")]
fn percent(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { 100.0 * part as f64 / whole as f64 }
}

/// One measured study, in minutes.
struct Seen {
    study: usize,
    wait: f64,
    turnaround: f64,
    late: bool,
    avoidable: bool,
    unread: bool,
}

impl Seen {
    fn of(workload: &Workload, study: usize, fate: &Fate) -> Self {
        let horizon = workload.scenario.horizon();
        let arrived = workload.studies[study].arrived;
        let deadline = workload.scenario.classes[usize::from(workload.studies[study].class)].deadline;
        let opened = fate.opened.unwrap_or(horizon);
        let signed = fate.signed.unwrap_or(horizon);
        let unread = fate.signed.is_none();
        let reading = if unread { workload.truths[study].reading } else { signed - opened };
        let late = unread || signed - arrived > deadline;
        Self {
            study,
            wait: minutes(opened - arrived),
            turnaround: minutes(signed - arrived),
            late,
            avoidable: late && reading <= deadline,
            unread,
        }
    }
}

impl Outcome {
    pub(crate) fn of(workload: &Workload, seed: u64, history: &History) -> Self {
        let (from, to) = workload.scenario.measured();
        let measured = |study: &usize| (from..to).contains(&workload.studies[*study].arrived);
        let all: Vec<Seen> = (0..workload.studies.len())
            .filter(measured)
            .map(|study| Seen::of(workload, study, &history.fates[study]))
            .collect();
        let class_of = |seen: &Seen| usize::from(workload.studies[seen.study].class);
        let classes = (0..workload.scenario.classes.len())
            .map(|class| class_outcome(workload, class, all.iter().filter(|seen| class_of(seen) == class)))
            .collect();
        let critical = |may: &dyn Fn(&Seen) -> bool| {
            let found = all.iter().filter(|seen| workload.truths[seen.study].critical && may(seen));
            Spread::of(found.map(|seen| seen.wait).collect())
        };
        let other = |seen: &Seen| !workload.scenario.classes[class_of(seen)].immediate;
        let flagged = |seen: &Seen| workload.truths[seen.study].answer.is_some_and(|answer| answer.flagged);
        let fate = |seen: &Seen| &history.fates[seen.study];
        let opened: Vec<&Seen> = all.iter().filter(|seen| fate(seen).opened.is_some()).collect();
        let share = |may: &dyn Fn(&Seen) -> bool| {
            percent(opened.iter().filter(|seen| may(seen)).count(), opened.len())
        };
        let given_back: usize = all.iter().map(|seen| place(fate(seen).returned)).sum();
        let recalled = usize::try_from(history.counts.recalled).unwrap_or(usize::MAX);
        let later: Vec<_> =
            opened.iter().filter(|seen| workload.studies[seen.study].visit.is_some()).collect();
        let same = later.iter().filter(|seen| {
            let first = workload.studies[seen.study].visit.map(|first| &history.fates[place(first)]);
            first.is_some_and(|first| first.opened.is_some() && first.reader == fate(seen).reader)
        });
        let same_reader_percent = if later.is_empty() { 100.0 } else { percent(same.count(), later.len()) };
        Self {
            seed,
            studies: all.len(),
            unread: all.iter().filter(|seen| seen.unread).count(),
            classes,
            critical: critical(&|_| true),
            critical_other: critical(&|seen| other(seen)),
            critical_missed: critical(&|seen| other(seen) && !flagged(seen)),
            weighted_wait: weighted(workload, &all),
            gini: gini(&rates(history).map(|(_, rate)| rate).collect::<Vec<_>>()),
            local_percent: share(&|seen| workload.is_local(place(fate(seen).reader), seen.study)),
            churn_percent: percent(recalled, workload.studies.len()) + percent(given_back, all.len()),
            prefetched_percent: share(&|seen| fate(seen).prefetched),
            same_reader_percent,
            charts: charts(workload, history, &all),
        }
    }

    /// Every figure by name.
    #[must_use]
    pub fn figures(&self) -> Vec<(String, f64)> {
        fn spread(of: &str, spread: &Spread) -> [(String, f64); 4] {
            let Spread { mean, median, p95, max } = *spread;
            [("mean", mean), ("median", median), ("p95", p95), ("max", max)]
                .map(|(name, value)| (format!("{of}.{name}"), value))
        }
        let mut figures = vec![("weighted-wait".to_owned(), self.weighted_wait)];
        for class in &self.classes {
            figures.extend(spread(&format!("{}.wait", class.class), &class.wait));
            figures.extend(spread(&format!("{}.turnaround", class.class), &class.turnaround));
            figures.push((format!("{}.breach-percent", class.class), class.breach_percent));
            figures
                .push((format!("{}.avoidable-breach-percent", class.class), class.avoidable_breach_percent));
        }
        figures.extend(spread("critical.wait", &self.critical));
        figures.extend(spread("critical-other.wait", &self.critical_other));
        figures.extend(spread("critical-missed.wait", &self.critical_missed));
        let rest = [
            ("unread-percent", percent(self.unread, self.studies)),
            ("gini", self.gini),
            ("local-percent", self.local_percent),
            ("churn-percent", self.churn_percent),
            ("prefetched-percent", self.prefetched_percent),
            ("same-reader-percent", self.same_reader_percent),
        ];
        figures.extend(rest.map(|(name, value)| (name.to_owned(), value)));
        figures
    }
}

fn class_outcome<'a>(workload: &Workload, class: usize, all: impl Iterator<Item = &'a Seen>) -> ClassOutcome {
    let all: Vec<&Seen> = all.collect();
    ClassOutcome {
        class: workload.scenario.classes[class].name.clone(),
        studies: all.len(),
        unread: all.iter().filter(|seen| seen.unread).count(),
        wait: Spread::of(all.iter().map(|seen| seen.wait).collect()),
        turnaround: Spread::of(all.iter().map(|seen| seen.turnaround).collect()),
        breach_percent: percent(all.iter().filter(|seen| seen.late).count(), all.len()),
        avoidable_breach_percent: percent(all.iter().filter(|seen| seen.avoidable).count(), all.len()),
    }
}

fn weighted(workload: &Workload, all: &[Seen]) -> f64 {
    let (mut sum, mut weights) = (0.0, 0.0);
    for seen in all {
        let weight = weight(workload, seen.study);
        sum += weight * seen.wait;
        weights += weight;
    }
    if weights > 0.0 { sum / weights } else { 0.0 }
}

/// Relative value units an hour of every reader who was on shift for at least an hour.
fn rates(history: &History) -> impl Iterator<Item = (usize, f64)> {
    history.on_shift.iter().zip(&history.points).enumerate().filter(|(_, (time, _))| **time >= HOUR).map(
        |(reader, (time, points))| {
            #[expect(clippy::cast_precision_loss, reason = "points of a few days")]
            let units = *points as f64 / 1000.0;
            (reader, units / (minutes(*time) / 60.0))
        },
    )
}

fn charts(workload: &Workload, history: &History, all: &[Seen]) -> Charts {
    let (from, to) = workload.scenario.measured();
    let hours = usize::try_from((to - from) / HOUR).expect("a few days");
    let hour = |at: i64| usize::try_from((at - from).max(0) / HOUR).expect("a few days").min(hours - 1);
    let mut table = vec![vec![(0.0, 0); hours]; workload.scenario.classes.len()];
    for seen in all {
        let study = &workload.studies[seen.study];
        let cell = &mut table[usize::from(study.class)][hour(study.arrived)];
        *cell = (cell.0 + seen.wait, cell.1 + 1);
    }
    for cell in table.iter_mut().flatten().filter(|cell| cell.1 > 0) {
        cell.0 /= f64::from(cell.1);
    }
    // Of every study: in the queue at the end of an hour if it came before and was opened after.
    let mut waiting = vec![0_u32; hours];
    for (study, fate) in workload.studies.iter().zip(&history.fates) {
        let opened = fate.opened.unwrap_or(i64::MAX);
        for (number, count) in waiting.iter_mut().enumerate() {
            let end = from + (i64::try_from(number).expect("a few days") + 1) * HOUR;
            *count += u32::from(study.arrived < end && opened >= end);
        }
    }
    let mut loads: Vec<(u8, f64)> =
        rates(history).map(|(reader, rate)| (workload.readers[reader].site, rate)).collect();
    loads.sort_by(|a, b| a.0.min(1).cmp(&b.0.min(1)).then(b.1.total_cmp(&a.1)));
    Charts { hours: table, waiting, loads }
}
