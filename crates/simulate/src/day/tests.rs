//! Small networks, so that a build without optimisation runs each in less than a second.

use std::collections::BTreeMap;

use isocenter_assign::Params;

use super::{
    Kind, Outcome, Scenario, Workload,
    scenario::{DAY, MINUTE},
    world::{self, History, place},
};

/// A network of a twentieth of the size, over three days.
fn small(changes: &str) -> Scenario {
    let text = format!(
        "schema: 1\nname: small\nabout: A small network\ndays: {{warm_up: 1, measured: 1, drain: 1}}\n\
         readers: {{count: 20}}\n{changes}\n"
    );
    Scenario::parse(&text).unwrap_or_else(|error| panic!("{error}"))
}

fn history(workload: &Workload, kind: Kind, seed: u64) -> History {
    world::run(workload, kind.make(workload, seed, &Params::default()).as_mut())
}

#[test]
fn every_policy_reads_what_its_readers_can_and_nothing_twice() {
    let scenario = small("studies_per_day: 1100");
    for kind in Kind::ALL {
        let workload = Workload::draw(&scenario, 5);
        let history = history(&workload, kind, 5);
        let mut busy: BTreeMap<u32, i64> = BTreeMap::new();
        let mut order: Vec<usize> =
            (0..workload.studies.len()).filter(|s| history.fates[*s].signed.is_some()).collect();
        order.sort_by_key(|study| history.fates[*study].opened);
        for study in order {
            let fate = history.fates[study];
            let (opened, signed) = (fate.opened.expect("signed"), fate.signed.expect("filtered"));
            assert!(opened >= workload.studies[study].arrived, "{kind}: read before it came");
            assert!(workload.reads(place(fate.reader), study), "{kind}: read without the skill");
            let before = busy.insert(fate.reader, signed).unwrap_or(0);
            assert!(before <= opened, "{kind}: two at once");
            let reader = &workload.readers[place(fate.reader)];
            let clock = (opened - reader.start).rem_euclid(DAY);
            assert!(clock < reader.hours, "{kind}: opened off shift");
        }
        let outcome = Outcome::of(&workload, 5, &history);
        // Nobody else reads for a site without readers of the skill, so only that policy leaves much unread.
        assert!(
            outcome.unread * 50 < outcome.studies || kind == Kind::StaticSite,
            "{kind}: {} unread",
            outcome.unread
        );
    }
}

#[test]
fn one_seed_gives_one_history() {
    let scenario = small("studies_per_day: 1200\nflapping: {share: 20, every: 15m, away: 2m}");
    for kind in [Kind::Isocenter, Kind::Stealing, Kind::CherryPick] {
        let figures = || {
            let workload = Workload::draw(&scenario, 9);
            Outcome::of(&workload, 9, &history(&workload, kind, 9)).figures()
        };
        assert_eq!(figures(), figures(), "{kind}");
    }
}

#[test]
fn nobody_who_could_read_is_idle_while_a_study_waits() {
    let workload = Workload::draw(&small("studies_per_day: 1000"), 3);
    let history = history(&workload, Kind::IsocenterNoLease, 3);
    // Whenever a study is opened after waiting, no other reader of the skill had been idle for the time it waited.
    let mut free_since: BTreeMap<usize, i64> = BTreeMap::new();
    // Of one instant, what is signed comes before what is opened next.
    let mut events: Vec<(i64, bool, usize)> = Vec::new();
    for (study, fate) in history.fates.iter().enumerate() {
        events.extend(fate.signed.map(|at| (at, false, study)));
        events.extend(fate.opened.map(|at| (at, true, study)));
    }
    events.sort_unstable();
    for (at, opens, study) in events {
        let reader = place(history.fates[study].reader);
        if !opens {
            free_since.insert(reader, at);
            continue;
        }
        free_since.remove(&reader);
        for (other, since) in &free_since {
            let who = &workload.readers[*other];
            let on_shift = |at: i64| (at - who.start).rem_euclid(DAY) < who.hours;
            let idle_from = (*since).max(workload.studies[study].arrived);
            let able = workload.reads(*other, study)
                && on_shift(idle_from)
                && on_shift(at)
                && at - idle_from < DAY / 3;
            assert!(!able || at - idle_from <= 1, "{study} waited while reader {other} was idle");
        }
    }
}

#[test]
fn readers_who_leave_lose_nothing() {
    let scenario = small("studies_per_day: 900\ndrop_out: {day: 1, at: \"11:00\", share: 30}");
    for kind in [Kind::Isocenter, Kind::PushLeastWork, Kind::PriorityFifo] {
        let workload = Workload::draw(&scenario, 2);
        let history = history(&workload, kind, 2);
        let returned: u32 = history.fates.iter().map(|fate| fate.returned).sum();
        assert!(returned > 0, "{kind}: somebody was reading");
        let outcome = Outcome::of(&workload, 2, &history);
        assert!(outcome.unread * 20 < outcome.studies, "{kind}: {} unread", outcome.unread);
    }
}

#[test]
fn unread_studies_are_breaches_with_the_wait_they_had() {
    // Nobody reads hearts by night, and the last day ends before the morning.
    let workload = Workload::draw(&small("studies_per_day: 5000"), 1);
    let outcome = Outcome::of(&workload, 1, &history(&workload, Kind::Fifo, 1));
    assert!(outcome.unread > 0);
    for class in &outcome.classes {
        assert!(class.breach_percent + 1e-9 >= 100.0 * class.unread as f64 / class.studies.max(1) as f64);
    }
    let longest = outcome.classes.iter().map(|class| class.wait.max).fold(0.0, f64::max);
    assert!(longest > (DAY / MINUTE) as f64);
}

#[test]
fn the_engine_finds_what_is_critical_sooner_than_classes_alone() {
    let scenario = small("studies_per_day: 1500");
    let (mut engine, mut classes) = (0.0, 0.0);
    for seed in 1..=3 {
        let workload = Workload::draw(&scenario, seed);
        engine +=
            Outcome::of(&workload, seed, &history(&workload, Kind::Isocenter, seed)).critical_other.mean;
        classes +=
            Outcome::of(&workload, seed, &history(&workload, Kind::PriorityFifo, seed)).critical_other.mean;
    }
    assert!(engine < 0.6 * classes, "{engine} against {classes} minutes");
}
