//! Next-up leases, the choice among idle readers, and overflow between pools, by example.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{at, item, minutes, picked, pool, ppm, queue, read, reader, routine, stat, urgent};
use isocenter_assign::{
    Duty, Idle, Item, Load, Params, Ppm, ReaderProfile, Rejection, Sites, Skill, choose_idle, next_up,
    next_up::{Lease, Recalled},
    overflow::{self, Opened, Rule},
};

fn busy(name: &str) -> ReaderProfile {
    let mut reader = reader(name);
    reader.holding.open = 1;
    reader
}

#[test]
fn a_busy_reader_is_leased_one_read_ahead_and_never_an_immediate_one() {
    let mut queue = queue([item(1, stat(), 0), item(2, routine(), 0), item(3, urgent(), 0)]);
    assert_eq!(picked(&mut queue, &busy("r"), 10), None);
    let ahead = queue.next_up(&busy("r"), at(10)).map(|item| item.read.clone());
    assert_eq!(ahead, Some(read(3)));

    type Change = fn(&mut ReaderProfile);
    let cases: [(Change, Rejection); 7] = [
        (|r| r.holding.offered = 1, Rejection::AlreadyHolds),
        (|r| r.holding.open = 0, Rejection::AlreadyHolds),
        (|r| r.present = false, Rejection::NotPresent),
        (|r| r.accepting = false, Rejection::NotAccepting),
        (|r| r.duty = Duty::Off, Rejection::OffShift),
        (|r| r.load.on_shift = Duration::from_secs(8 * 3600), Rejection::Spared),
        (|r| r.load.on_shift = Duration::from_secs(10 * 3600), Rejection::HardStop),
    ];
    for (change, rejection) in cases {
        let mut refused = busy("r");
        change(&mut refused);
        assert_eq!(next_up::may_lease(&refused, at(10)), Err(rejection));
        assert!(queue.next_up(&refused, at(10)).is_none());
    }
}

/// What is late is for the next who is free: neither it nor, since it would be given back for it, what stands behind it.
#[test]
fn nothing_is_leased_ahead_while_the_first_that_could_be_is_in_the_front_lane() {
    let mut queue = queue([item(1, stat(), 90), item(2, urgent(), 0), item(3, routine(), 0)]);
    let mut ahead = |minute| queue.next_up(&busy("r"), at(minute)).map(|item| item.read.clone());
    assert_eq!((ahead(95), ahead(96)), (Some(read(2)), None));
}

#[test]
fn a_lease_ends_with_its_holder_with_its_class_and_at_the_front_lane() {
    let params = Params::default();
    let leased = item(1, urgent(), 0);
    let lapsed = |item: &Item, holder: &ReaderProfile, minute| {
        next_up::lapsed(&params, item, Some(holder), at(minute))
    };
    assert_eq!(lapsed(&leased, &busy("r"), 95), None);
    assert_eq!(lapsed(&leased, &busy("r"), 96), Some(Recalled::Front));
    assert_eq!(lapsed(&leased, &reader("r"), 96), None, "a holder with free hands turns to it now");
    let upgraded = Item { urgency: stat(), ..leased.clone() };
    assert_eq!(lapsed(&upgraded, &busy("r"), 1), Some(Recalled::Immediate));
    let away = ReaderProfile { present: false, ..busy("r") };
    assert_eq!(lapsed(&leased, &away, 1), Some(Recalled::Holder(Rejection::NotPresent)));
    let home = ReaderProfile { duty: Duty::On { since: at(0), until: at(50) }, ..busy("r") };
    assert_eq!(lapsed(&leased, &home, 49), None);
    assert_eq!(lapsed(&leased, &home, 50), Some(Recalled::Holder(Rejection::OffShift)));
    let unknown = next_up::lapsed(&params, &leased, None, at(1));
    assert_eq!(unknown, Some(Recalled::Holder(Rejection::NotPresent)));
}

#[test]
fn a_lease_is_recalled_for_a_use_that_is_better_by_a_fifth_once_in_a_quarter_of_an_hour() {
    let params = Params::default();
    let leased = item(1, urgent(), 0);
    let lease = Lease { reader: "holder".parse().unwrap(), since: at(20), recalled_at: None };
    let recalled = |lease: &Lease, holder: &ReaderProfile, instead: Option<&Item>, minute| {
        let free = (&reader("free"), instead);
        next_up::better_use(&params, (&leased, lease), holder, free, at(minute)).is_some()
    };
    let holder = busy("holder");
    assert!(recalled(&lease, &holder, None, 25), "who would be idle");
    assert!(!recalled(&lease, &holder, None, 24), "it stands for five minutes");
    assert!(!recalled(&lease, &reader("holder"), None, 25), "its holder turns to it");
    assert!(recalled(&lease, &holder, Some(&item(2, routine(), 0)), 25));
    assert!(!recalled(&lease, &holder, Some(&item(2, urgent(), 2)), 25), "hardly better");
    assert!(!recalled(&lease, &holder, Some(&item(2, stat(), 24)), 25), "what goes first is taken first");
    let again = |minute| Lease { recalled_at: Some(at(minute)), ..lease.clone() };
    assert!(!recalled(&again(11), &holder, None, 25));
    assert!(recalled(&again(10), &holder, None, 25));
    let unfit = ReaderProfile { skills: [Skill::new("MR", "*")].into(), ..reader("free") };
    assert_eq!(next_up::better_use(&params, (&leased, &lease), &holder, (&unfit, None), at(25)), None);
}

#[test]
fn free_hands_give_a_lease_back_for_what_goes_before_it_and_for_nothing_less() {
    let params = Params::default();
    let leased = item(1, urgent(), 0);
    let outranked =
        |waiting: &Item, minute| next_up::outranked(&params, &leased, waiting, &reader("r"), at(minute));
    assert!(outranked(&item(2, stat(), 20), 20), "an emergency never waits behind a lease");
    assert!(!outranked(&item(2, urgent(), 2), 20), "hardly better");
    assert!(!outranked(&item(2, routine(), 0), 20));
    let older = Item { complete_at: at(-100), ..item(2, urgent(), 0) };
    assert!(outranked(&older, 20), "its deadline is near");
    let likely = Item { probability: Some(ppm(900_000)), ..item(2, urgent(), 0) };
    assert!(outranked(&likely, 20), "worth far more");
}

#[test]
fn an_arrival_goes_to_who_is_near_then_to_who_can_do_least_else_then_to_who_is_behind() {
    let near = ReaderProfile { home: Some("north".parse().unwrap()), ..reader("near") };
    let linked = reader("linked");
    let narrow = ReaderProfile { skills: [Skill::new("CT", "HEAD")].into(), ..reader("narrow") };
    let few = ReaderProfile { sites: Sites::Only(["north".parse().unwrap()].into()), ..reader("few") };
    let behind = |points| Load { points, on_shift: Duration::from_secs(3600), target_rate: 5_000 };
    let lazy = ReaderProfile { load: behind(2_000), ..reader("lazy") };
    let diligent = ReaderProfile { load: behind(4_900), ..reader("diligent") };
    let unfit = ReaderProfile { present: false, home: near.home.clone(), ..reader("absent") };
    let since = |reader: &ReaderProfile, minute| Idle { reader: reader.clone(), since: at(minute) };

    let arrival = Item { prefers: Some("linked".parse().unwrap()), ..item(1, routine(), 30) };
    let mut idle = vec![
        since(&reader("late"), 20),
        since(&reader("early"), 10),
        since(&diligent, 0),
        since(&lazy, 25),
        since(&few, 28),
        since(&narrow, 29),
        since(&near, 29),
        since(&linked, 29),
        since(&unfit, 0),
    ];
    let mut expected = ["linked", "near", "narrow", "few", "lazy", "diligent", "early", "late"].to_vec();
    // Two that are as near: the other keys decide, and last the id.
    while !expected.is_empty() {
        let chosen = choose_idle(&arrival, &idle, at(30)).map(|idle| idle.reader.id.to_string());
        assert_eq!(chosen.as_deref(), Some(expected.remove(0)));
        idle.retain(|other| Some(other.reader.id.to_string()) != chosen);
    }
    assert!(choose_idle(&arrival, &idle, at(30)).is_none(), "who is absent is not idle");
}

#[test]
fn a_sites_reads_overflow_by_age_by_predicted_wait_and_before_their_deadline_is_at_risk() {
    let rule = |to: &str, at_percent, predicted_wait| Rule { to: pool(to), at_percent, predicted_wait };
    let rules = BTreeMap::from([
        (pool("site:north"), rule("center", 25, Some(minutes(45)))),
        (pool("center"), rule("on-call", 50, None)),
        (pool("on-call"), rule("site:north", 0, None)),
    ]);
    let own = [pool("site:north")];
    let opened = |urgency, predicted: Option<u64>, minute| {
        let wait = |pool: &_| (*pool == own[0]).then_some(predicted.map(minutes)).flatten();
        overflow::pools(&own, &rules, (&urgency, at(0)), wait, at(minute))
    };
    let is = |pools: &[&str], next: Option<i64>| Opened {
        pools: pools.iter().map(|name| pool(name)).collect(),
        next: next.map(at),
    };
    assert_eq!(opened(urgent(), None, 0), is(&["site:north"], Some(30)));
    assert_eq!(opened(urgent(), Some(44), 0), is(&["site:north"], Some(30)));
    assert_eq!(opened(urgent(), Some(45), 0), is(&["site:north", "center"], Some(60)));
    assert_eq!(opened(urgent(), Some(67), 29), is(&["site:north", "center"], Some(60)), "80 % of 120");
    assert_eq!(opened(urgent(), None, 30), is(&["site:north", "center"], Some(60)));
    assert_eq!(opened(urgent(), None, 60), is(&["site:north", "center", "on-call"], None), "and on");
    assert_eq!(opened(stat(), None, 0), is(&["site:north", "center", "on-call"], None), "at once");
    assert_eq!(opened(routine(), None, 0), is(&["site:north"], Some(360)));
    let long = |_: &_| Some(Duration::MAX);
    let nobody = overflow::pools(&own, &BTreeMap::new(), (&routine(), at(0)), long, at(1));
    assert_eq!(nobody, is(&["site:north"], None), "without a rule");
}

#[test]
fn ai_alone_decides_between_two_that_are_otherwise_alike() {
    let said = |n, parts| Item { probability: Some(ppm(parts)), ..item(n, routine(), 0) };
    let mut queue = queue([said(1, 100_000), said(2, 800_000), said(3, 10), item(4, routine(), 0)]);
    let mut order = Vec::new();
    while let Some(first) = picked(&mut queue, &reader("r"), 30) {
        queue.remove(&first);
        order.push(first);
    }
    assert_eq!(order[..2], [read(2), read(1)]);
    // Below the prior of the class nothing is said: the id decides.
    let mut rest = [read(3), read(4)];
    rest.sort();
    assert_eq!(order[2..], rest);
    assert_eq!(said(1, 1_000_000).posterior(), Ppm::ONE);
}
