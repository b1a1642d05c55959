//! Why a read is where it is.

use isocenter_domain::{
    Time,
    id::{PoolId, ReadId, ReaderId},
};

use crate::{Item, Lane, Params, ReaderProfile, Rejection, filter};

/// One number that decides a read's place.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Term {
    /// Its name, e.g. `age`.
    pub name: &'static str,
    /// Its value; negative where a time has passed.
    pub value: f64,
    /// The unit, as UCUM writes it: `us` is microseconds, `1` a pure number.
    pub unit: &'static str,
}

/// Whether one reader may have a read now.
#[derive(Clone, Debug, PartialEq)]
pub struct Verdict {
    /// The reader.
    pub reader: ReaderId,
    /// The read's most preferred pool that they belong to.
    pub pool: Option<PoolId>,
    /// Every filter that refuses; empty if they may.
    pub rejections: Vec<Rejection>,
    /// What they make of its index: locality, preference, fatigue; 1: nothing.
    pub factor: f64,
    /// Their load this shift beside their share, in thousandths; 1000 is as asked.
    pub share_done: u64,
}

/// Why a read is where it is.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// Its place in the whole queue, from 1. A reader's own next read may stand further back.
    pub position: usize,
    /// How many reads wait.
    pub waiting: usize,
    /// The lane it waits in.
    pub lane: Lane,
    /// The numbers that decide its place.
    pub terms: Vec<Term>,
    /// Each reader asked about, in the order given.
    pub verdicts: Vec<Verdict>,
}

/// A read that no registered reader could ever have.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parked {
    /// The read.
    pub read: ReadId,
    /// The lasting filters that refuse, and how many readers each refuses first. Empty if no reader is registered.
    pub why: Vec<(Rejection, usize)>,
}

/// The numbers that decide the place of `item` at `now`.
pub(crate) fn terms(item: &Item, params: &Params, now: Time) -> Vec<Term> {
    let index = params.index_of(item, None, now);
    let mut terms = vec![
        span("age", item.complete_at, now),
        span("waited", item.waiting_since, now),
        span("to_deadline", now, item.deadline_at()),
    ];
    if let Some(front_at) = params.front_at(&item.urgency, item.complete_at) {
        terms.push(span("to_front_lane", now, front_at));
    }
    terms.extend([
        Term { name: "urgency", value: index.urgency, unit: "1" },
        Term { name: "critical", value: index.critical, unit: "1" },
        Term { name: "probability", value: item.posterior().value(), unit: "1" },
        Term { name: "expected", value: index.minutes, unit: "min" },
        Term { name: "index", value: index.value, unit: "1/min" },
    ]);
    terms
}

#[expect(clippy::cast_precision_loss, reason = "microseconds of a century are exact in a double")]
fn span(name: &'static str, from: Time, to: Time) -> Term {
    Term { name, value: to.0.saturating_sub(from.0) as f64, unit: "us" }
}

/// What the filters say of `reader` and `item` at `now`.
pub(crate) fn verdict(item: &Item, reader: &ReaderProfile, params: &Params, now: Time) -> Verdict {
    Verdict {
        reader: reader.id.clone(),
        pool: filter::pool(&item.needs, reader).cloned(),
        rejections: filter::rejections(item, reader, now),
        factor: params.factor(item, reader),
        share_done: reader.load.share_done(),
    }
}
