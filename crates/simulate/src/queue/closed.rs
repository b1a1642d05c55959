//! Mean waits in closed form, in units of the mean reading time.

use super::{Class, Discipline, Model, chain};

/// The mean wait of each class, where it is known. `None`: no such study ever arrives, or no closed form exists.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Closed {
    pub waits: [Option<f64>; 3],
    /// What they are called, or why some are missing.
    pub name: &'static str,
}

/// The probability that all of `c` servers are busy in M/M/c at the offered load `a` < c (Erlang C).
pub(crate) fn erlang_c(c: usize, a: f64) -> f64 {
    // Erlang B by its recursion, which neither overflows nor cancels.
    let mut blocked = 1.0;
    let mut servers = 0.0;
    for _ in 0..c {
        servers += 1.0;
        blocked = a * blocked / a.mul_add(blocked, servers);
    }
    servers * blocked / (servers - a * (1.0 - blocked))
}

#[expect(clippy::cast_precision_loss, reason = "at most a thousand servers")]
const fn float(servers: usize) -> f64 {
    servers as f64
}

/// Mean wait in M/M/c with arrivals `rate` and mean service `service`.
fn erlang_wait(c: usize, rate: f64, service: f64) -> f64 {
    let a = rate * service;
    erlang_c(c, a) * service / (float(c) - a)
}

/// The closed forms of `model`.
pub(crate) fn closed(model: &Model) -> Closed {
    let interrupted = model.rates[0] > 0.0;
    let equal = !interrupted || (model.services[0] - 1.0).abs() < 1e-12;
    let mut closed = match (equal, model.servers, model.preempts()) {
        (true, _, true) => Closed { waits: cumulative(model), name: cumulative_name(model) },
        (_, 1, true) => Closed { waits: preemptive_single(model), name: "preemptive resume, one server" },
        (_, 1, false) => Closed { waits: cobham_single(model), name: "Cobham, one server" },
        (true, _, false) => Closed { waits: cobham(model), name: "Cobham" },
        (false, _, true) => two_classes(model),
        (false, _, false) => Closed {
            waits: [None; 3],
            name: "none: several servers, unequal reading times and no preemption have no closed form",
        },
    };
    for class in Class::ALL {
        if model.rates[class.index()] <= 0.0 {
            closed.waits[class.index()] = None;
        }
    }
    closed
}

fn cumulative_name(model: &Model) -> &'static str {
    match model.discipline {
        Discipline::Fifo if model.rates[0] <= 0.0 => "Erlang C",
        Discipline::Fifo | Discipline::NonPreemptive | Discipline::Preemptive => {
            "preemptive resume: Erlang C of cumulative classes"
        }
    }
}

/// The classes of each rank.
fn ranks(model: &Model) -> [Vec<Class>; 3] {
    [0, 1, 2].map(|rank| Class::ALL.into_iter().filter(|class| model.rank(*class) == rank).collect())
}

/// Preemptive resume with equal service: the first k ranks together see M/M/c of their own, so its mean number
/// waiting, differenced, gives each rank's.
fn cumulative(model: &Model) -> [Option<f64>; 3] {
    let mut waits = [None; 3];
    let (mut rate, mut waiting) = (0.0, 0.0);
    for rank in ranks(model) {
        let own: f64 = rank.iter().map(|class| model.rates[class.index()]).sum();
        if own <= 0.0 {
            continue;
        }
        rate += own;
        let together = rate * erlang_wait(model.servers, rate, 1.0);
        for class in rank {
            waits[class.index()] = Some((together - waiting) / own);
        }
        waiting = together;
    }
    waits
}

/// Cobham 1954: non-preemptive, equal service. W_k = W0 / ((1 - s_{k-1}) (1 - s_k)).
fn cobham(model: &Model) -> [Option<f64>; 3] {
    let c = float(model.servers);
    let first = erlang_c(model.servers, model.rates.iter().sum()) / c;
    nonpreemptive(model, first)
}

/// The same for one server and any service times: W0 is the mean work left of what is being read.
fn cobham_single(model: &Model) -> [Option<f64>; 3] {
    // Exponential: half the second moment is the square of the mean.
    let first = model.rates.iter().zip(model.services).map(|(rate, service)| rate * service * service).sum();
    nonpreemptive(model, first)
}

fn nonpreemptive(model: &Model, first: f64) -> [Option<f64>; 3] {
    let mut before = 0.0;
    let mut waits = [None; 3];
    for rank in ranks(model) {
        let own: f64 = rank.iter().map(|c| model.rates[c.index()] * model.services[c.index()]).sum();
        let after = before + own / float(model.servers);
        for class in rank {
            waits[class.index()] = Some(first / ((1.0 - before) * (1.0 - after)));
        }
        before = after;
    }
    waits
}

/// One server, preemptive resume, any exponential service times.
fn preemptive_single(model: &Model) -> [Option<f64>; 3] {
    let (mut before, mut residual) = (0.0, 0.0);
    let mut waits = [None; 3];
    for rank in ranks(model) {
        let after =
            before + rank.iter().map(|c| model.rates[c.index()] * model.services[c.index()]).sum::<f64>();
        residual +=
            rank.iter().map(|c| model.rates[c.index()] * model.services[c.index()].powi(2)).sum::<f64>();
        for class in rank {
            let service = model.services[class.index()];
            // Time in the system less the own reading.
            let own = service / (1.0 - before) - service;
            waits[class.index()] = Some(own + residual / ((1.0 - before) * (1.0 - after)));
        }
        before = after;
    }
    waits
}

/// Several servers, preemption, interrupting studies of another reading time: those see M/M/c of their own, and
/// whatever stands below them, being of one reading time, is one class in a chain of two.
fn two_classes(model: &Model) -> Closed {
    let [r0, r1, r2] = model.rates;
    let waiting = |rate: f64| {
        if rate <= 0.0 {
            return Some(0.0);
        }
        chain::mean_in_system(model.servers, (r0, model.services[0]), rate).map(|number| number - rate)
    };
    let first = Some(erlang_wait(model.servers, r0, model.services[0]));
    let rest = |why: Option<[f64; 2]>| match why {
        Some([positive, negative]) => Closed {
            waits: [first, Some(positive), Some(negative)],
            name: "two-class Markov chain, solved numerically",
        },
        None => Closed {
            waits: [first, None, None],
            name: "Erlang C for interrupting studies; none for the others at so many interrupting studies",
        },
    };
    rest(match model.discipline {
        Discipline::Fifo => waiting(r1 + r2).map(|number| [number / (r1 + r2); 2]),
        Discipline::Preemptive | Discipline::NonPreemptive => {
            waiting(r1).zip(waiting(r1 + r2)).map(|(upper, both)| [upper / r1, (both - upper) / r2])
        }
    })
}
