//! What the simulator replays: from what the records know of a study to first reads, each with how long it took.

use std::{collections::BTreeMap, time::Duration};

use isocenter_domain::{Time, record::read::ReadKind};
use isocenter_wire::{duration, timestamp, v1};

/// What the records know of a study that was complete.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Arrived {
    /// The case, where there is one; else the study.
    pub complete_at: Time,
    pub site: String,
    /// Empty where there is no case.
    pub class: String,
    pub modalities: Vec<String>,
    pub body_part: String,
    /// Whether routing has decided.
    pub planned: bool,
    /// Empty where there is none.
    pub case: String,
    /// Whether another study of the case stands for it.
    pub beside: bool,
    /// What AI answered in time.
    pub answers: Vec<Answer>,
    /// The case's reads by number.
    pub reads: Vec<Reading>,
}

/// An answer of AI.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Answer {
    pub revision: u32,
    pub probability_ppm: u32,
    pub at: Time,
}

/// A read of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Reading {
    /// As [`ReadKind::name`] has it.
    pub kind: String,
    /// In the order in which they happened.
    pub events: Vec<Happened>,
}

/// An event of a read, by its name in docs/states.md.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Happened {
    pub event: String,
    pub at: Time,
}

/// The arrivals of some studies, and how many of what are none.
#[derive(Debug, Default)]
pub(crate) struct Arrivals {
    pub arrivals: Vec<v1::Arrival>,
    left_out: BTreeMap<String, u64>,
}

impl Arrivals {
    pub fn of(studies: impl IntoIterator<Item = Arrived>) -> Self {
        let mut all = Self::default();
        for arrived in studies {
            all.add(arrived);
        }
        all
    }

    pub fn left_out(&self) -> Vec<v1::LeftOut> {
        let told = self.left_out.iter();
        told.map(|(what, count)| v1::LeftOut { what: what.clone(), count: *count }).collect()
    }

    fn leave_out(&mut self, what: &str) {
        *self.left_out.entry(what.to_owned()).or_default() += 1;
    }

    fn add(&mut self, arrived: Arrived) {
        if arrived.case.is_empty() {
            let what = if arrived.planned {
                "studies that nobody reads, by the policy"
            } else {
                "studies that are not routed yet"
            };
            return self.leave_out(what);
        }
        if arrived.beside {
            return self.leave_out("studies that are read with another one of their case");
        }
        let mut first = 0_u32;
        for read in &arrived.reads {
            if is_first(&read.kind) {
                first += 1;
                self.arrivals.push(arrival(&arrived, read));
            } else {
                self.leave_out(&format!("further reads: {}", read.kind));
            }
        }
        if first == 0 {
            self.leave_out("studies whose read is not made yet");
        }
    }
}

fn is_first(kind: &str) -> bool {
    [ReadKind::Primary, ReadKind::Blinded { with: 0 }].iter().any(|first| first.name() == kind)
}

fn arrival(arrived: &Arrived, read: &Reading) -> v1::Arrival {
    let signed = read.events.iter().rev().find(|happened| ends(&happened.event)).map(|signed| signed.at);
    v1::Arrival {
        complete_at: Some(timestamp(arrived.complete_at)),
        site_id: arrived.site.clone(),
        class: arrived.class.clone(),
        modalities: arrived.modalities.clone(),
        body_part: arrived.body_part.clone(),
        abnormal_probability: said(&arrived.answers, signed),
        reading: open(&read.events).map(duration),
    }
}

/// What ordered the read in the end: of the newest revision that AI answered before the signature, the highest that a service
/// gave, as the queue has it.
fn said(answers: &[Answer], signed: Option<Time>) -> Option<f64> {
    let in_time = answers.iter().filter(|answer| signed.is_none_or(|signed| answer.at <= signed));
    let last = in_time.max_by_key(|answer| (answer.revision, answer.probability_ppm))?;
    Some(f64::from(last.probability_ppm) / 1e6)
}

/// Whether the event is the last of a read that was signed, or found to be of no use.
fn ends(event: &str) -> bool {
    ["signed", "non-diagnostic"].contains(&event)
}

/// How long a read was open with those who signed it; `None` where it is not signed. Time in the hands of somebody who gave
/// it back went into no report. What one clock's jump makes negative counts as nothing.
fn open(events: &[Happened]) -> Option<Duration> {
    // Signed by a resident; in present hands before it was set aside; since when it is open.
    let (mut kept, mut held, mut since) = (Duration::ZERO, Duration::ZERO, None::<Time>);
    for Happened { event, at } in events {
        let now = since.map_or(Duration::ZERO, |since| at.since(since));
        match event.as_str() {
            // Opened again, it has a new token and was open all the time.
            "opened" | "opened-by-name" => since = since.or(Some(*at)),
            "suspended" => (held, since) = (held + now, None),
            "returned" | "reassigned" | "transferred" => (held, since) = (Duration::ZERO, None),
            "signed-preliminary" => (kept, held, since) = (kept + held + now, Duration::ZERO, None),
            last if ends(last) => return Some(kept + held + now),
            _ => {}
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    /// How long, in seconds, a read was open to which these happen, one each at its second.
    fn taken(events: &[(&str, i64)]) -> Option<u64> {
        let happened = |(event, second): &(&str, i64)| Happened {
            event: (*event).to_owned(),
            at: Time(second * 1_000_000),
        };
        open(&events.iter().map(happened).collect::<Vec<_>>()).map(|open| open.as_secs())
    }

    #[test]
    fn reading_is_from_opened_to_signed_less_what_was_set_aside_and_what_was_given_back() {
        let created = ("created", 0);
        assert_eq!(taken(&[created, ("offered", 1), ("opened", 10), ("signed", 70)]), Some(60));
        assert_eq!(taken(&[created, ("opened-by-name", 10), ("non-diagnostic", 15)]), Some(5));
        assert_eq!(taken(&[("opened", 10), ("opened", 50), ("draft-kept", 60), ("signed", 70)]), Some(60));
        let aside = [("opened", 10), ("suspended", 20), ("opened", 1000), ("signed", 1030)];
        assert_eq!(taken(&aside), Some(40));
        for back in ["returned", "reassigned", "transferred"] {
            let events = [("opened", 10), ("suspended", 20), (back, 30), ("opened", 100), ("signed", 107)];
            assert_eq!(taken(&events), Some(7), "{back}");
        }
        let resident =
            [("opened", 10), ("signed-preliminary", 40), ("opened", 90), ("returned", 99), ("opened", 200)];
        assert_eq!(taken(&[&resident[..], &[("signed", 203)]].concat()), Some(33));
        assert_eq!(taken(&resident), None, "not final");
        assert_eq!(taken(&[("opened", 10), ("cancelled", 20)]), None);
        assert_eq!(taken(&[("opened", 70), ("signed", 10)]), Some(0), "a clock has jumped");
    }

    #[test]
    fn ai_counts_by_the_newest_revision_that_it_answered_before_the_signature() {
        let answer = |revision, probability_ppm, at| Answer { revision, probability_ppm, at: Time(at) };
        let answers = [answer(1, 900_000, 1), answer(2, 100_000, 5), answer(2, 250_000, 6)];
        assert_eq!(said(&answers, None), Some(0.25));
        assert_eq!(said(&answers, Some(Time(5))), Some(0.1));
        assert_eq!(said(&answers, Some(Time(4))), Some(0.9));
        assert_eq!(said(&answers, Some(Time(0))), None);
    }

    #[test]
    fn what_is_no_first_read_is_counted_by_its_kind() {
        let read = |kind: &str| Reading { kind: kind.to_owned(), events: Vec::new() };
        let case = |reads| Arrived { case: "c".to_owned(), planned: true, reads, ..Arrived::default() };
        let studies = [
            Arrived::default(),
            Arrived { planned: true, ..Arrived::default() },
            case(vec![read("primary"), read("discrepancy"), read("review")]),
            case(vec![read("blinded"), read("blinded"), read("arbitration")]),
            case(Vec::new()),
            Arrived { beside: true, ..case(vec![read("primary")]) },
        ];
        let arrivals = Arrivals::of(studies);
        assert_eq!(arrivals.arrivals.len(), 3);
        let told: Vec<_> = arrivals.left_out().into_iter().map(|left| (left.what, left.count)).collect();
        let expected = [
            "further reads: arbitration",
            "further reads: discrepancy",
            "further reads: review",
            "studies that are not routed yet",
            "studies that are read with another one of their case",
            "studies that nobody reads, by the policy",
            "studies whose read is not made yet",
        ];
        assert_eq!(told, expected.map(|what| (what.to_owned(), 1)));
    }
}
