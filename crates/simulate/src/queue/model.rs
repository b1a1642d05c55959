//! The queue as an event loop. All times are whole ticks: a hundred million to the mean reading time.

use std::collections::VecDeque;

use super::{Class, Model};
use crate::random::Random;

/// Ticks of one mean reading time. Ticks pass for microseconds where the engine's queue takes part.
pub(crate) const TICKS: f64 = 1e8;

/// A study that is read or waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Job {
    /// Its number, in order of arrival.
    pub number: u64,
    pub class: Class,
    pub rank: usize,
    pub arrived: i64,
    /// Reading time, whole and left.
    pub service: i64,
    pub left: i64,
}

/// A waiting line.
pub(crate) trait Line {
    /// A study begins to wait, for the first time or again after an interruption.
    fn push(&mut self, job: Job);
    /// Takes the next study out.
    fn pop(&mut self, now: i64) -> Option<Job>;
}

/// The simulator's own line: by rank, then by arrival.
#[derive(Debug, Default)]
pub(crate) struct Ranks([VecDeque<Job>; 3]);

impl Line for Ranks {
    fn push(&mut self, job: Job) {
        let line = &mut self.0[job.rank];
        // Only one that was interrupted arrived before others of its rank who wait.
        let place = line.iter().take_while(|other| other.number < job.number).count();
        if line.back().is_none_or(|last| last.number < job.number) {
            line.push_back(job);
        } else {
            line.insert(place, job);
        }
    }

    fn pop(&mut self, _now: i64) -> Option<Job> {
        self.0.iter_mut().find_map(VecDeque::pop_front)
    }
}

/// What has been read, by class.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Tally {
    pub count: [u64; 3],
    /// Ticks waited.
    pub waited: [f64; 3],
}

/// One replication: it can be continued at any time.
#[derive(Debug)]
pub(crate) struct Replication<L> {
    rank: [usize; 3],
    preempts: bool,
    total: f64,
    below: [f64; 2],
    services: [f64; 3],
    servers: Vec<(i64, Job)>,
    capacity: usize,
    line: L,
    random: Random,
    next: Job,
    /// The end of the reading that ends first, and its place.
    first: (i64, usize),
    /// Studies still to be read before counting begins.
    warm_up: u64,
    pub tally: Tally,
}

impl<L: Line> Replication<L> {
    pub(crate) fn new(model: &Model, line: L, random: Random, warm_up: u64) -> Self {
        let total: f64 = model.rates.iter().sum();
        let below = [model.rates[0] / total, (model.rates[0] + model.rates[1]) / total];
        let services = model.services.map(|service| service * TICKS);
        let rank = Class::ALL.map(|class| model.rank(class));
        let mut this = Self {
            rank,
            preempts: model.preempts(),
            total: TICKS / total,
            below,
            services,
            servers: Vec::with_capacity(model.servers),
            capacity: model.servers,
            line,
            random,
            next: Job { number: 0, class: Class::Negative, rank: 0, arrived: 0, service: 0, left: 0 },
            first: (i64::MAX, 0),
            warm_up,
            tally: Tally::default(),
        };
        this.next = this.draw(0, 0);
        this
    }

    /// Reads `studies` more. `seen` gets each with its wait, in order of completion.
    pub(crate) fn run(&mut self, studies: u64, mut seen: impl FnMut(&Job, i64)) {
        let mut left = studies;
        while left > 0 {
            if self.first.0 <= self.next.arrived {
                let now = self.first.0;
                let (_, job) = self.servers.swap_remove(self.first.1);
                let waited = now - job.arrived - job.service;
                seen(&job, waited);
                if self.warm_up > 0 {
                    self.warm_up -= 1;
                } else {
                    self.count(&job, waited);
                    left -= 1;
                }
                if let Some(next) = self.line.pop(now) {
                    self.servers.push((now + next.left, next));
                }
                self.find_first();
            } else {
                let job = self.next;
                self.next = self.draw(job.number + 1, job.arrived);
                self.arrive(job);
            }
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a wait far below 2^53 ticks")]
    fn count(&mut self, job: &Job, waited: i64) {
        self.tally.count[job.class.index()] += 1;
        self.tally.waited[job.class.index()] += waited as f64;
    }

    fn arrive(&mut self, job: Job) {
        if self.servers.len() < self.capacity {
            self.start(job);
            return;
        }
        if self.preempts {
            // Of the lowest rank that is being read, the latest arrival gives way.
            let last =
                self.servers.iter().enumerate().max_by_key(|(_, (_, other))| (other.rank, other.number));
            if let Some((place, (end, other))) = last
                && other.rank > job.rank
            {
                let resumed = Job { left: end - job.arrived, ..*other };
                self.servers.swap_remove(place);
                self.line.push(resumed);
                self.start(job);
                self.find_first();
                return;
            }
        }
        self.line.push(job);
    }

    fn start(&mut self, job: Job) {
        let end = job.arrived + job.left;
        if end < self.first.0 {
            self.first = (end, self.servers.len());
        }
        self.servers.push((end, job));
    }

    fn find_first(&mut self) {
        let mut first = (i64::MAX, 0);
        for (place, (end, _)) in self.servers.iter().enumerate() {
            if *end < first.0 {
                first = (*end, place);
            }
        }
        self.first = first;
    }

    #[expect(clippy::cast_possible_truncation, reason = "gaps and readings are far below 2^53 ticks")]
    fn draw(&mut self, number: u64, after: i64) -> Job {
        let arrived = after + (self.random.exponential() * self.total) as i64;
        let draw = self.random.unit();
        let class = if draw < self.below[0] {
            Class::Interrupting
        } else if draw < self.below[1] {
            Class::Positive
        } else {
            Class::Negative
        };
        let service = (self.random.exponential() * self.services[class.index()]) as i64;
        Job { number, class, rank: self.rank[class.index()], arrived, service, left: service }
    }
}
