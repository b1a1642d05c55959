//! Runs the replications and sets the closed form beside them.

use std::thread;

use serde::Serialize;

use super::{
    BadArgument, Class, Discipline, Model, Question, QueueError,
    closed::{Closed, closed},
    engine,
    model::{Ranks, Replication, Tally},
};
use crate::{random::Random, stats::Estimate};

/// The most studies of all replications together that a precision may ask for: about a minute of one machine.
const BUDGET: u64 = 1_500_000_000;
/// A mean wait below this share of the reading time is reported as it comes out: to chase its relative error would
/// take longer than anybody waits for so little.
const NEGLIGIBLE: f64 = 1e-3;

/// The answer.
#[derive(Clone, Debug, Serialize)]
pub struct QueueResult {
    /// The discipline.
    pub discipline: &'static str,
    /// Servers.
    pub servers: u32,
    /// Offered load per server.
    pub load: f64,
    /// Independent replications.
    pub replications: u32,
    /// Studies counted in each replication: those asked for, or more where the precision needed them.
    pub studies_per_replication: u64,
    /// Studies read before counting begins in each replication.
    pub warm_up: u64,
    /// The seed.
    pub seed: u64,
    /// What the closed forms are, or why some are missing.
    pub closed_form: &'static str,
    /// Studies that the engine's own queue took in the same order as the simulator's.
    pub engine_checked: u64,
    /// Mean wait of each group of studies, minutes.
    pub groups: Vec<Group>,
}

/// One group of studies.
#[derive(Clone, Debug, Serialize)]
pub struct Group {
    /// `all` and the groups below it are of the studies that do not interrupt; `interrupting` stands alone.
    pub name: &'static str,
    /// Studies counted. Disease changes the flag and nothing else, so the diseased and the non-diseased are the flagged
    /// and the unflagged weighted by sensitivity and false-positive fraction, and have no count of their own.
    pub studies: Option<u64>,
    /// Mean wait in minutes; absent where no such study arrives.
    pub wait_min: Option<Estimate>,
    /// The closed form in minutes, where one exists.
    pub closed_form_min: Option<f64>,
    /// How far the simulated mean is from it, percent.
    pub difference_percent: Option<f64>,
}

/// Simulates `question`.
///
/// Every replication starts empty and is warmed up before it counts, so it stands for the steady state. Where
/// `precision` is above 0, all replications are continued until the standard error of every class's mean is that small.
///
/// # Errors
/// An argument that makes no queue, named; or the engine's queue chose otherwise than the simulator's own.
pub fn run(question: &Question) -> Result<QueueResult, QueueError> {
    let model = Model::new(question)?;
    let engine_checked = engine::check(&model, question)?;
    let warm_up = warm_up(&model)?;
    let mut replications: Vec<Replication<Ranks>> = (0..question.replications)
        .map(|n| {
            let random = Random::new(question.seed, &format!("replication {n}"));
            Replication::new(&model, Ranks::default(), random, warm_up)
        })
        .collect();
    let mut done = question.studies;
    advance(&mut replications, done);
    loop {
        let wanted = wanted(&model, question, &replications, done);
        if wanted <= done {
            break;
        }
        advance(&mut replications, wanted - done);
        done = wanted;
    }
    let tallies: Vec<Tally> = replications.iter().map(|replication| replication.tally).collect();
    Ok(QueueResult {
        discipline: question.discipline.name(),
        servers: question.servers,
        load: question.load,
        replications: question.replications,
        studies_per_replication: done,
        warm_up,
        seed: question.seed,
        closed_form: closed(&model).name,
        engine_checked,
        groups: groups(&model, question, &tallies),
    })
}

/// Studies until the start is forgotten: the slowest time constant of M/M/c is 1 / (1 - sqrt(load))^2 readings of one
/// server, at most 4 / (1 - load)^2 studies; five of them.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be small")]
fn warm_up(model: &Model) -> Result<u64, BadArgument> {
    let studies =
        20.0 / (1.0 - model.load).powi(2) + 200.0 * f64::from(u32::try_from(model.servers).unwrap_or(1000));
    if studies > 2e8 {
        let why = "so near to 1 the steady state is not reached in any time; the closed form is all there is";
        return Err(BadArgument { argument: "load", given: model.load.to_string(), why });
    }
    Ok(studies as u64)
}

/// Continues every replication, on all cores; each has its own draws, so the answer does not depend on them.
fn advance(replications: &mut [Replication<Ranks>], studies: u64) {
    let cores = thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let share = replications.len().div_ceil(cores);
    thread::scope(|scope| {
        for part in replications.chunks_mut(share) {
            scope.spawn(move || part.iter_mut().for_each(|replication| replication.run(studies, |_, _| ())));
        }
    });
}

/// The mean wait of each class in each replication that has read one, in readings.
fn means(tallies: &[Tally], classes: &[Class]) -> Vec<f64> {
    let mean = |tally: &Tally| {
        let count: u64 = classes.iter().map(|class| tally.count[class.index()]).sum();
        let waited: f64 = classes.iter().map(|class| tally.waited[class.index()]).sum();
        #[expect(clippy::cast_precision_loss, reason = "far fewer studies than a double counts exactly")]
        let mean = waited / super::model::TICKS / count as f64;
        (count > 0).then_some(mean)
    };
    tallies.iter().filter_map(mean).collect()
}

/// How many studies each replication should have read.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "bounded"
)]
fn wanted(model: &Model, question: &Question, replications: &[Replication<Ranks>], done: u64) -> u64 {
    let most = BUDGET / u64::from(question.replications);
    if question.precision <= 0.0 || replications.len() < 2 {
        return done;
    }
    let tallies: Vec<Tally> = replications.iter().map(|replication| replication.tally).collect();
    let mut factor = 1.0_f64;
    for class in Class::ALL.into_iter().filter(|class| model.rates[class.index()] > 0.0) {
        let values = means(&tallies, &[class]);
        let Some(Estimate { mean, half_width: Some(_) }) = Estimate::of(&values) else { continue };
        let n = values.len() as f64;
        let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f64>() / (n - 1.0) / n;
        if mean > NEGLIGIBLE {
            // The error of a few replications is itself uncertain: they are trusted less.
            let error = variance.sqrt() / mean * 100.0 * (1.0 + 1.0 / n.sqrt());
            factor = factor.max((error / question.precision).powi(2));
        } else if mean == 0.0 {
            factor = factor.max(4.0);
        }
    }
    // In steps, so that a first estimate far off does not cost a minute.
    ((done as f64 * factor.min(32.0)) as u64).clamp(done, most.max(done))
}

fn groups(model: &Model, question: &Question, tallies: &[Tally]) -> Vec<Group> {
    let Closed { waits: [interrupting, positive, negative], .. } = closed(model);
    let [_, up, down] = model.rates;
    let mix = |weight: f64| {
        let part = |weight: f64, wait: Option<f64>| {
            if weight > 0.0 { wait.map(|wait| weight * wait) } else { Some(0.0) }
        };
        part(weight, positive).zip(part(1.0 - weight, negative)).map(|(a, b)| a + b)
    };
    // One mean per replication in which every class with weight has been seen.
    let mixed = |weight: f64| -> Vec<f64> {
        let of = |tally: &Tally| {
            let class = |class, weight: f64| {
                if weight > 0.0 {
                    means(&[*tally], &[class]).first().map(|mean| weight * mean)
                } else {
                    Some(0.0)
                }
            };
            class(Class::Positive, weight).zip(class(Class::Negative, 1.0 - weight)).map(|(a, b)| a + b)
        };
        tallies.iter().filter_map(of).collect()
    };
    let count = |classes: &[Class]| {
        Some(tallies.iter().flat_map(|tally| classes.iter().map(|class| tally.count[class.index()])).sum())
    };
    let queued = [Class::Positive, Class::Negative];
    let mut rows = vec![
        ("all", count(&queued), means(tallies, &queued), mix(up / (up + down))),
        ("ai-positive", count(&queued[..1]), means(tallies, &queued[..1]), positive),
        ("ai-negative", count(&queued[1..]), means(tallies, &queued[1..]), negative),
        ("diseased", None, mixed(model.se), mix(model.se)),
        ("non-diseased", None, mixed(model.fpf), mix(model.fpf)),
    ];
    if model.rates[0] > 0.0 {
        let class = [Class::Interrupting];
        rows.push(("interrupting", count(&class), means(tallies, &class), interrupting));
    }
    let group = |(name, studies, values, closed): (_, _, Vec<f64>, Option<f64>)| {
        let minutes: Vec<f64> = values.iter().map(|mean| mean * question.service_min).collect();
        let (wait, closed) = (Estimate::of(&minutes), closed.map(|wait| wait * question.service_min));
        let difference = wait.zip(closed).filter(|(_, closed)| *closed > 0.0);
        Group {
            name,
            studies,
            wait_min: wait,
            closed_form_min: closed,
            difference_percent: difference.map(|(wait, closed)| (wait.mean / closed - 1.0) * 100.0),
        }
    };
    rows.into_iter().map(group).collect()
}

/// The disciplines by name.
impl std::str::FromStr for Discipline {
    type Err = BadArgument;

    fn from_str(text: &str) -> Result<Self, BadArgument> {
        let all = [Self::Fifo, Self::NonPreemptive, Self::Preemptive];
        all.into_iter().find(|discipline| discipline.name() == text).ok_or_else(|| BadArgument {
            argument: "discipline",
            given: text.to_owned(),
            why: "is none; give fifo, nonpreemptive or preemptive",
        })
    }
}
