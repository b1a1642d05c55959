//! One queue before equal servers, the model of the FDA's QuCAD (Queueing Systems 108:579, 2024): Poisson arrivals,
//! exponential reading, and an AI whose flag makes the two classes. It has closed forms, so that it judges the
//! simulator, and the engine's own queue judges it.
//!
//! A **wait** is the time in the system less the own reading time; time spent interrupted counts as waiting.

mod chain;
mod closed;
mod engine;
mod model;
mod run;

use std::fmt;

pub use run::{Group, QueueResult, run};

/// How the next study is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Discipline {
    /// In order of arrival, whatever the AI says. Interrupting studies interrupt.
    Fifo,
    /// AI-positive studies before AI-negative ones, interrupting ones before both; what is being read is finished.
    NonPreemptive,
    /// The same order, and a higher class interrupts a lower one, which is resumed later where it was left.
    Preemptive,
}

impl Discipline {
    /// The name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Fifo => "fifo",
            Self::NonPreemptive => "nonpreemptive",
            Self::Preemptive => "preemptive",
        }
    }
}

/// What is asked, as given; [`Model::new`] checks it.
#[derive(Clone, Debug)]
pub struct Question {
    /// How many servers (readers).
    pub servers: u32,
    /// Offered load per server, interrupting studies included: above 0, below 1.
    pub load: f64,
    /// Share of diseased among the studies that do not interrupt.
    pub prevalence: f64,
    /// Sensitivity of the AI: the share of the diseased that it flags.
    pub se: f64,
    /// False-positive fraction: the share of the non-diseased that it flags.
    pub fpf: f64,
    /// Mean reading time, minutes.
    pub service_min: f64,
    /// The discipline.
    pub discipline: Discipline,
    /// Share of all arrivals that interrupt.
    pub interrupt_share: f64,
    /// Mean reading time of those, minutes.
    pub interrupt_min: f64,
    /// Independent replications.
    pub replications: u32,
    /// Studies per replication, at least; more are simulated where `precision` needs them.
    pub studies: u64,
    /// The relative standard error to be reached for every class, percent; 0 simulates just `studies`.
    pub precision: f64,
    /// What everything is drawn from.
    pub seed: u64,
}

/// An argument that makes no queue.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{argument} {given}: {why}")]
pub struct BadArgument {
    /// The flag.
    pub argument: &'static str,
    /// What was given.
    pub given: String,
    /// What is wrong with it and what to give instead.
    pub why: &'static str,
}

/// A run that cannot be trusted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueueError {
    /// An argument is wrong.
    #[error(transparent)]
    Argument(#[from] BadArgument),
    /// The engine's queue and the simulator's own chose differently: one of the two is wrong.
    #[error(
        "the engine's queue and the simulator's own took different studies at study {0} of the check; \
         report this with the command"
    )]
    EngineDiffers(usize),
}

/// The classes of the model, in order of precedence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    Interrupting,
    Positive,
    Negative,
}

impl Class {
    pub(crate) const ALL: [Self; 3] = [Self::Interrupting, Self::Positive, Self::Negative];

    pub(crate) const fn index(self) -> usize {
        match self {
            Self::Interrupting => 0,
            Self::Positive => 1,
            Self::Negative => 2,
        }
    }
}

/// A question that makes sense, with what follows from it. Time is in units of the mean reading time.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub servers: usize,
    pub load: f64,
    pub discipline: Discipline,
    /// Arrivals per unit of time, by class.
    pub rates: [f64; 3],
    /// Mean reading time, by class.
    pub services: [f64; 3],
    /// Share of the diseased, and of the others, that are flagged.
    pub se: f64,
    pub fpf: f64,
}

impl Model {
    /// Checks a question.
    pub(crate) fn new(q: &Question) -> Result<Self, BadArgument> {
        q.check()?;
        let positive = q.prevalence.mul_add(q.se, (1.0 - q.prevalence) * q.fpf);
        let shares = [
            q.interrupt_share,
            (1.0 - q.interrupt_share) * positive,
            (1.0 - q.interrupt_share) * (1.0 - positive),
        ];
        let services = [q.interrupt_min / q.service_min, 1.0, 1.0];
        let mean: f64 = shares.iter().zip(services).map(|(share, service)| share * service).sum();
        let total = q.load * f64::from(q.servers) / mean;
        Ok(Self {
            servers: usize::try_from(q.servers).expect("checked to be small"),
            load: q.load,
            discipline: q.discipline,
            rates: shares.map(|share| share * total),
            services,
            se: q.se,
            fpf: q.fpf,
        })
    }

    /// The place of a class in the line: less goes first.
    pub(crate) const fn rank(&self, class: Class) -> usize {
        match (self.discipline, class) {
            (_, Class::Interrupting) => 0,
            (_, Class::Positive) | (Discipline::Fifo, Class::Negative) => 1,
            (Discipline::NonPreemptive | Discipline::Preemptive, Class::Negative) => 2,
        }
    }

    /// Whether a study may interrupt another of a later rank.
    pub(crate) const fn preempts(&self) -> bool {
        match self.discipline {
            // Interrupting studies are the only ones of another rank.
            Discipline::Fifo | Discipline::Preemptive => true,
            Discipline::NonPreemptive => false,
        }
    }
}

impl Question {
    fn check(&self) -> Result<(), BadArgument> {
        let number = |argument, value: f64, fine: bool, why| {
            if fine { Ok(()) } else { Err(BadArgument { argument, given: value.to_string(), why }) }
        };
        let share = |argument, value: f64| {
            number(argument, value, (0.0..=1.0).contains(&value), "is no share; give a number from 0 to 1")
        };
        let count = |argument, value: u64, from: u64, to: u64, why| {
            if (from..=to).contains(&value) {
                Ok(())
            } else {
                Err(BadArgument { argument, given: value.to_string(), why })
            }
        };
        count("servers", self.servers.into(), 1, 1000, "give 1 to 1000 servers")?;
        number(
            "load",
            self.load,
            self.load > 0.0 && self.load < 1.0,
            "the load per server must be above 0 and below 1: at 1 and beyond waits grow without end",
        )?;
        share("prevalence", self.prevalence)?;
        share("se", self.se)?;
        share("fpf", self.fpf)?;
        let minutes = 1e-6..=1e6;
        let why = "give minutes from 0.000001 to 1000000";
        number("service-min", self.service_min, minutes.contains(&self.service_min), why)?;
        share("interrupt-share", self.interrupt_share)?;
        number("interrupt-min", self.interrupt_min, minutes.contains(&self.interrupt_min), why)?;
        let ratio = self.interrupt_min / self.service_min;
        let why = "must be between a thousandth and a thousand times --service-min";
        number("interrupt-min", self.interrupt_min, (1e-3..=1e3).contains(&ratio), why)?;
        count("replications", self.replications.into(), 1, 10_000, "give 1 to 10000 replications")?;
        count("studies", self.studies, 100, 100_000_000, "give 100 to 100000000 studies a replication")?;
        let why = "give 0 (no target) or 0.05 to 50 percent";
        number(
            "precision",
            self.precision,
            self.precision == 0.0 || (0.05..=50.0).contains(&self.precision),
            why,
        )
    }
}

impl fmt::Display for Discipline {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests;
