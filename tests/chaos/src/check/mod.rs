//! The checks: each walks what a run has left behind and names what must never be. Pure, so that each is tested on histories
//! in which one thing is wrong.

mod answers;
mod delivering;
mod images;
mod journal;
mod lives;
mod reading;
#[cfg(test)]
mod tests;

use std::fmt;

use crate::evidence::Evidence;

/// What must always hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Invariant {
    /// Every acknowledged instance is kept byte for byte and named by its study's manifest.
    Kept,
    /// Every study that anything was acknowledged of ends in exactly one state, and once.
    OneEnd,
    /// Each record's changes follow one another without a gap, each with its event, along its states' table.
    Lives,
    /// Only a leader offers, and an epoch that is over writes nothing.
    Fenced,
    /// A read is in one pair of hands, and what a reader holds agrees with it.
    OneReader,
    /// The records tell the same as the store did, once, in each record's order.
    Records,
    /// Every report version is accepted by its receiver, once, under one message id.
    OneMessage,
    /// What peers were told is true.
    Answers,
    /// Every process sees the same.
    Views,
    /// The store delivers every revision, once, in order.
    Revisions,
    /// What is closed leaves nothing behind.
    Closed,
    /// `isocenter reconcile` finds no difference.
    Reconciled,
    /// No process ends unless it is told to.
    Alive,
}

impl fmt::Display for Invariant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The state of a record that has states; `None` for one that has none, or cannot be understood.
#[must_use]
pub fn state(key: &str, value: &bytes::Bytes) -> Option<&'static str> {
    lives::state(key, value)
}

/// Something that must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// What it violates.
    pub invariant: Invariant,
    /// What was found, with keys and revisions.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.invariant, self.what)
    }
}

/// Collects what one check finds.
pub(crate) struct Findings {
    invariant: Invariant,
    found: Vec<Violation>,
}

impl Findings {
    fn of(invariant: Invariant) -> Self {
        Self { invariant, found: Vec::new() }
    }

    fn add(&mut self, what: impl Into<String>) {
        self.found.push(Violation { invariant: self.invariant, what: what.into() });
    }

    fn check(&mut self, holds: bool, what: impl FnOnce() -> String) {
        if !holds {
            self.add(what());
        }
    }
}

/// Every violation.
#[must_use]
pub fn all(evidence: &Evidence) -> Vec<Violation> {
    let walks = [
        images::kept(evidence),
        images::one_end(evidence),
        lives::lives(&evidence.history),
        lives::fenced(&evidence.history),
        lives::closed(&evidence.history),
        reading::one_reader(&evidence.history),
        journal::records(evidence),
        delivering::one_message(evidence),
        answers::answers(evidence),
        plain(Invariant::Revisions, &evidence.history.faults),
        plain(Invariant::Reconciled, &evidence.differences),
        plain(Invariant::Alive, &evidence.deaths),
        views(evidence),
    ];
    walks.into_iter().flatten().collect()
}

fn plain(invariant: Invariant, faults: &[String]) -> Vec<Violation> {
    faults.iter().map(|what| Violation { invariant, what: what.clone() }).collect()
}

/// Whether all processes tell the same.
fn views(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::Views);
    // `studies of ingestion-0`: what is asked, then who was.
    for (one, view) in &evidence.views {
        let asked = one.split(' ').next();
        for (other, seen) in evidence.views.iter().filter(|(other, _)| other.split(' ').next() == asked) {
            let differs = view.iter().find(|(id, state)| seen.get(*id) != Some(state));
            if let Some((id, state)) = differs {
                findings.add(format!("{id} is {state} in {one}, and {:?} in {other}", seen.get(id)));
            }
        }
    }
    findings.found
}
