//! What is learnt from signed reads, and what the next hours are predicted to bring.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{at, item, minutes, pool, reader, routine, stat, urgent};
use isocenter_assign::{
    Estimates, Exam, Item, Needs, Observation, Prior, ReaderProfile, Skill, Urgency, Work,
    shortage::{self, Demand, Forecast, Horizon, Outlook, Supply},
};
use proptest::prelude::*;

fn head() -> Exam {
    Exam::new("CT", "HEAD")
}

/// A read of a head CT that took so many minutes.
fn took(reader: &str, n: u64) -> Observation {
    let (opened_at, suspended) = (at(100), minutes(0));
    let signed_at = opened_at.plus(minutes(n));
    Observation { reader: reader.parse().unwrap(), exam: head(), opened_at, signed_at, suspended }
}

fn prior() -> Prior {
    let work = |n, points| Work { minutes: minutes(n), points };
    let exams = [
        (head(), work(10, 1_000)),
        (Exam::new("CT", ""), work(15, 1_500)),
        (Exam::new("PT", ""), work(20, 2_000)),
    ];
    Prior { exams: exams.into(), otherwise: work(6, 700), observations: 10, practice: minutes(100) }
}

#[test]
fn without_observations_an_estimate_is_the_prior_of_exam_modality_or_network() {
    let estimates = Estimates::new(prior());
    let of = |modalities: &[&str], part: &str| {
        let exam = Exam::of(&Needs::new(modalities, part, "north".parse().unwrap(), vec![]));
        let Work { minutes, points } = estimates.work(&exam);
        (minutes.as_secs() / 60, points)
    };
    assert_eq!(of(&["ct "], "head"), (10, 1_000));
    assert_eq!(of(&["CT"], "KNEE"), (15, 1_500));
    assert_eq!(of(&["CT", "PT", "SR"], "CHEST"), (20, 2_000), "the longest of several");
    assert_eq!(of(&["ECG"], ""), (6, 700));
    assert_eq!(estimates.pace(&"nobody".parse().unwrap()), ReaderProfile::EVEN_PACE);
    let typical = Prior::default();
    assert!(typical.work(&Exam::new("CT", "HEAD")).minutes < typical.work(&Exam::new("CT", "HEART")).minutes);
}

#[test]
fn observations_draw_the_estimate_away_from_the_prior_and_tell_the_fast_from_the_slow() {
    let mut estimates = Estimates::new(prior());
    for _ in 0..10 {
        estimates.observe(&took("slow", 24)).unwrap();
        estimates.observe(&took("fast", 16)).unwrap();
    }
    // Ten observations of the prior, twenty of 20 minutes.
    let work = estimates.work(&head());
    assert_eq!((work.minutes.as_secs(), work.points), (1_000, 1_666));
    let pace = |name: &str| estimates.pace(&name.parse().unwrap());
    assert_eq!(
        (pace("slow"), pace("fast")),
        (1_275, 975),
        "of 100 minutes even practice and ten reads of 16.7"
    );
    assert_eq!(pace("new"), 1_000);
    assert_eq!(reader("r").expected(minutes(10)), minutes(10));
    let slow = ReaderProfile { pace: 1_500, ..reader("slow") };
    assert_eq!(slow.expected(minutes(10)), minutes(15));
}

#[test]
fn absurd_observations_are_refused_and_odd_ones_count_for_less() {
    let mut estimates = Estimates::new(prior());
    let unlearnt = estimates.clone();
    let refused = |estimates: &mut Estimates, observation: &Observation, field| {
        assert_eq!(estimates.observe(observation).unwrap_err().field, field);
    };
    refused(&mut estimates, &Observation { signed_at: at(99), ..took("r", 0) }, "signed_at");
    refused(&mut estimates, &Observation { suspended: minutes(6), ..took("r", 5) }, "suspended");
    refused(&mut estimates, &took("r", 0), "took");
    refused(&mut estimates, &took("r", 9 * 60), "took");
    assert_eq!(estimates, unlearnt);
    estimates.observe(&took("r", 7 * 60)).unwrap();
    let mut eightfold = Estimates::new(prior());
    eightfold.observe(&took("r", 80)).unwrap();
    assert_eq!(estimates, eightfold, "eight times the prior is the most that counts");
    let set_aside = Observation { suspended: minutes(390), ..took("r", 400) };
    let mut learnt = Estimates::new(prior());
    learnt.observe(&set_aside).unwrap();
    assert_eq!(learnt.work(&head()).minutes, minutes(10));
}

proptest! {
    #[test]
    fn an_estimate_lies_between_the_prior_and_what_was_seen_whatever_the_order(
        seen in prop::collection::vec((0..4usize, 1..480u64), 1..60),
    ) {
        let learn = |seen: &[(usize, u64)]| {
            let mut estimates = Estimates::new(prior());
            for (who, n) in seen {
                estimates.observe(&took(&format!("r{who}"), *n)).unwrap();
            }
            estimates
        };
        let estimates = learn(&seen);
        let backwards: Vec<_> = seen.iter().rev().copied().collect();
        prop_assert_eq!(&estimates, &learn(&backwards));
        let low = seen.iter().map(|(_, n)| *n).min().unwrap().min(10);
        let high = seen.iter().map(|(_, n)| *n).max().unwrap().clamp(10, 80);
        let work = estimates.work(&head());
        prop_assert!(work.minutes >= minutes(low).min(Duration::from_secs(75)) && work.minutes <= minutes(high));
        for who in 0..4 {
            let pace = estimates.pace(&format!("r{who}").parse().unwrap());
            prop_assert!((50..20_000).contains(&pace), "{pace}");
        }
    }
}

fn horizon(steps: usize) -> Horizon {
    Horizon { from: at(0), step: minutes(30), steps }
}

fn demand(urgency: Urgency, modality: &str, waiting: u64, arriving: &[u64]) -> Demand {
    Demand {
        class: if urgency.next_up { "ROUTINE" } else { "STAT" }.parse().unwrap(),
        urgency,
        needs: Needs::new([modality], "HEAD", "north".parse().unwrap(), vec![pool("general")]),
        waiting: minutes(waiting),
        age: Duration::ZERO,
        arriving: arriving.iter().map(|n| minutes(*n)).collect(),
    }
}

fn on_duty(reader: ReaderProfile, minutes_a_step: &[u64]) -> Supply {
    Supply { reader, on_duty: minutes_a_step.iter().map(|n| minutes(*n)).collect() }
}

fn only(name: &str, modality: &str) -> ReaderProfile {
    ReaderProfile { skills: [Skill::new(modality, "*")].into(), ..reader(name) }
}

/// Minutes of predicted wait in each step; -1 beyond the horizon.
fn waits(outlook: &Outlook, class: &str) -> Vec<i64> {
    let of_class = |forecast: &&Forecast| forecast.class.as_str() == class;
    let minute =
        |forecast: &Forecast| forecast.wait.map_or(-1, |wait| i64::try_from(wait.as_secs() / 60).unwrap());
    outlook.forecasts.iter().filter(of_class).map(minute).collect()
}

#[test]
fn what_waits_is_taken_up_in_order_of_urgency_as_fast_as_readers_are_on_duty() {
    let demands = [demand(routine(), "CT", 60, &[0, 0, 30]), demand(stat(), "CT", 15, &[15, 15])];
    let one = [on_duty(reader("r"), &[30; 6])];
    let outlook = shortage::outlook(&demands, &one, &horizon(6));
    // The reader has half an hour a step; STAT takes half, a whole one, and a half of it.
    assert_eq!(waits(&outlook, "STAT"), [0, 0, 0, 0, 0, 0]);
    assert_eq!(waits(&outlook, "ROUTINE"), [90, 60, 60, 30, 0, 0]);
    assert!(outlook.shortages.is_empty());

    let slow = [on_duty(ReaderProfile { pace: 2_000, ..reader("r") }, &[30; 6])];
    let outlook = shortage::outlook(&demands, &slow, &horizon(6));
    assert_eq!(waits(&outlook, "STAT"), [30, 30, 30, 0, 0, 0]);
    let night = shortage::outlook(&demands, &[on_duty(reader("r"), &[0, 0, 0, 60])], &horizon(4));
    assert_eq!(waits(&night, "STAT"), [90, 60, 30, 0]);
    assert_eq!(waits(&night, "ROUTINE"), [-1, -1, -1, -1]);
}

#[test]
fn a_shortage_is_told_before_the_deadline_with_the_skill_that_would_relieve_it() {
    let soon = Urgency { target: minutes(60), ..urgent() };
    let demands = [demand(soon, "CT", 20, &[0, 20, 20, 20]), demand(soon, "MR", 60, &[0, 60, 60, 60])];
    let two = [on_duty(only("ct", "CT"), &[30; 8]), on_duty(only("mr", "MR"), &[30; 8])];
    let outlook = shortage::outlook(&demands, &two, &horizon(8));
    let [shortage] = &outlook.shortages[..] else { panic!("one class and pool is short: {outlook:?}") };
    assert_eq!((shortage.class.as_str(), &shortage.pool), ("ROUTINE", &pool("general")));
    assert_eq!((shortage.from, shortage.late), (at(60), minutes(90)), "what comes before is just in time");
    let relief = shortage.relief.as_ref().unwrap();
    assert_eq!((&relief.skill, relief.saves), (&Skill::new("MR", "HEAD"), shortage.late));

    let three = [two.to_vec(), vec![on_duty(only("more", "MR"), &[30; 8])]].concat();
    assert!(shortage::outlook(&demands, &three, &horizon(8)).shortages.is_empty(), "as foretold");
}

#[test]
fn what_is_overdue_is_short_at_once_and_nobody_at_all_is_beyond_the_horizon() {
    let overdue = Demand { age: minutes(31), ..demand(stat(), "CT", 10, &[]) };
    let outlook = shortage::outlook(std::slice::from_ref(&overdue), &[], &horizon(2));
    assert_eq!(waits(&outlook, "STAT"), [-1, -1]);
    let [shortage] = &outlook.shortages[..] else { panic!("{outlook:?}") };
    assert_eq!(
        (shortage.from, shortage.late, &shortage.relief),
        (at(0), minutes(10), &None),
        "too late for that"
    );
    assert_eq!(shortage::outlook(&[], &[], &horizon(2)), Outlook::default());
}

#[test]
fn the_work_that_waits_is_counted_by_class_and_needs_with_its_mean_age() {
    let long = Item { work: Work { minutes: minutes(30), points: 0 }, ..item(2, routine(), 40) };
    let demands = shortage::waiting(&[item(1, routine(), 0), long, item(3, stat(), 60)], at(60));
    let found: BTreeMap<_, _> = demands
        .iter()
        .map(|d| (d.urgency.next_up, (d.waiting.as_secs() / 60, d.age.as_secs() / 60)))
        .collect();
    // Ten minutes an hour old, thirty a third of an hour.
    assert_eq!(found, BTreeMap::from([(true, (40, 30)), (false, (10, 0))]));
}
