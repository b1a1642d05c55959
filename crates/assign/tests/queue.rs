//! The order, the filters and the explanations, by example.

use std::{collections::BTreeSet, time::Duration};

use isocenter_assign::{Holding, Item, Lane, Needs, Queue, ReaderProfile, Rejection, Sites, Skill, filter};
use isocenter_domain::{
    Time,
    id::{CaseId, PoolId, ReadId, StudyUid, TenantId},
};

const MINUTE: i64 = 60_000_000;

fn read(n: u32) -> ReadId {
    let case = CaseId::of(&TenantId::new("t").unwrap(), &StudyUid::new(format!("1.{n}")).unwrap());
    ReadId { case, n: 1 }
}

fn needs(modality: &str) -> Needs {
    Needs::new([modality], "HEAD", "north".parse().unwrap(), vec![pool("neuro"), pool("general")])
}

fn pool(name: &str) -> PoolId {
    name.parse().unwrap()
}

/// A read complete at minute `at`, due `deadline` minutes later, moved forward by `credit` minutes.
fn item(n: u32, at: i64, deadline: i64, credit: i64) -> Item {
    Item {
        read: read(n),
        class: "ROUTINE".parse().unwrap(),
        complete_at: Time(at * MINUTE),
        virtual_due: Time((at + deadline - credit) * MINUTE),
        deadline_at: Time((at + deadline) * MINUTE),
        waiting_since: Time(at * MINUTE),
        needs: needs("CT"),
        excluded: BTreeSet::new(),
    }
}

fn reader(name: &str) -> ReaderProfile {
    ReaderProfile {
        id: name.parse().unwrap(),
        skills: BTreeSet::from([Skill::new("*", "*")]),
        sites: Sites::All,
        pools: BTreeSet::from([pool("general")]),
        present: true,
        accepting: true,
        holding: Holding::default(),
    }
}

fn queue(items: impl IntoIterator<Item = Item>) -> Queue {
    let mut queue = Queue::default();
    for item in items {
        assert_eq!(queue.insert(item), None);
    }
    queue
}

fn picked(queue: &mut Queue, minute: i64) -> Option<ReadId> {
    queue.pick(&reader("r"), Time(minute * MINUTE)).map(|item| item.read.clone())
}

#[test]
fn the_earliest_virtual_deadline_is_first_and_the_read_id_settles_ties() {
    let mut ids = [read(1), read(2)];
    ids.sort();
    let mut queue =
        queue([item(1, 0, 1440, 0), item(2, 0, 1440, 0), item(3, 5, 1440, 10), item(4, 6, 60, 0)]);
    for expected in [read(4), read(3), ids[0].clone(), ids[1].clone()] {
        assert_eq!(picked(&mut queue, 10), Some(expected.clone()));
        queue.remove(&expected);
    }
    assert_eq!(picked(&mut queue, 10), None);
    assert!(queue.is_empty());
}

#[test]
fn at_80_percent_of_its_deadline_a_read_joins_the_front_lane_in_order_of_completion() {
    // Front lane at 80 for the first, at 90 for the second; the third is urgent.
    let mut queue = queue([item(1, 0, 100, 0), item(2, 10, 100, 90), item(3, 79, 20, 20)]);
    assert_eq!(picked(&mut queue, 79), Some(read(2)), "before: by virtual deadline");
    assert_eq!(picked(&mut queue, 80), Some(read(1)));
    assert_eq!(queue.position(&read(2), Time(80 * MINUTE)), Some(2));
    assert_eq!(picked(&mut queue, 90), Some(read(1)), "both in the lane: the older first");
    queue.remove(&read(1));
    assert_eq!(picked(&mut queue, 90), Some(read(2)));
    assert_eq!(picked(&mut queue, 20), Some(read(2)), "a clock set back");
}

#[test]
fn a_read_that_is_updated_moves_and_the_reader_who_returned_it_is_passed_over() {
    let mut queue = queue([item(1, 0, 100, 0), item(2, 1, 100, 0)]);
    assert_eq!(picked(&mut queue, 2), Some(read(1)));
    let mut returned = item(1, 0, 100, 0);
    returned.excluded.insert("r".parse().unwrap());
    assert_eq!(queue.insert(returned.clone()), Some(item(1, 0, 100, 0)));
    assert_eq!(picked(&mut queue, 2), Some(read(2)));
    let other = queue.pick(&reader("other"), Time(2 * MINUTE)).map(|item| item.read.clone());
    assert_eq!(other, Some(read(1)));
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.remove(&read(1)), Some(returned));
    assert_eq!(queue.remove(&read(1)), None);
}

#[test]
fn each_filter_refuses_by_its_own_name() {
    let waiting = item(1, 0, 100, 0);
    let holding = |offered, open, suspended| Holding { offered, open, suspended };
    type Change = fn(&mut ReaderProfile);
    let cases: [(Change, Rejection); 8] = [
        (|r| r.present = false, Rejection::NotPresent),
        (|r| r.accepting = false, Rejection::NotAccepting),
        (|r| r.holding.open = 1, Rejection::AlreadyHolds),
        (|r| r.holding.offered = 1, Rejection::AlreadyHolds),
        (|r| r.pools = BTreeSet::from([pool("mammo")]), Rejection::Pool),
        (|r| r.sites = Sites::Only(BTreeSet::from(["south".parse().unwrap()])), Rejection::SiteAuthorization),
        (|r| r.skills = BTreeSet::from([Skill::new("MR", "*")]), Rejection::Skill),
        (|r| r.skills = BTreeSet::from([Skill::new("CT", "CHEST")]), Rejection::Skill),
    ];
    for (change, rejection) in cases {
        let mut refused = reader("r");
        change(&mut refused);
        assert_eq!(filter::eligible(&waiting, &refused), Err(rejection));
        assert_eq!(filter::rejections(&waiting, &refused), [rejection]);
        assert_eq!(filter::qualified(&waiting, &refused).is_ok(), rejection.is_momentary());
        assert!(queue([waiting.clone()]).pick(&refused, Time::ZERO).is_none());
    }
    let mut busy = reader("r");
    busy.holding = holding(0, 0, 3);
    assert_eq!(filter::eligible(&waiting, &busy), Ok(()), "suspended reads leave the hands free");
}

#[test]
fn skills_cover_each_modality_that_is_read_and_stars_cover_what_is_absent() {
    let with = |skills: &[(&str, &str)]| {
        let mut reader = reader("r");
        reader.skills = skills.iter().map(|(modality, part)| Skill::new(modality, part)).collect();
        reader
    };
    let of = |modalities: &[&str], body_part: &str| {
        let mut waiting = item(1, 0, 100, 0);
        waiting.needs = Needs::new(modalities, body_part, "north".parse().unwrap(), vec![pool("general")]);
        waiting
    };
    let may = |item: &Item, skills: &[(&str, &str)]| filter::eligible(item, &with(skills)).is_ok();
    assert!(may(&of(&["PT", "CT"], "CHEST"), &[("CT", "CHEST"), ("PT", "*")]));
    assert!(!may(&of(&["PT", "CT"], "CHEST"), &[("CT", "CHEST")]));
    assert!(may(&of(&["CT", "SR", "PR"], "CHEST"), &[("CT", "CHEST")]), "reports only accompany images");
    assert!(may(&of(&["ct "], "chest"), &[(" CT", "Chest")]));
    assert!(may(&of(&["CT"], ""), &[("CT", "*")]));
    assert!(!may(&of(&["CT"], ""), &[("CT", "HEAD")]));
    assert!(may(&of(&[], ""), &[("*", "*")]));
    assert!(!may(&of(&[], "HEAD"), &[("CT", "HEAD")]));
}

#[test]
fn an_explanation_has_place_numbers_and_a_verdict_for_each_reader() {
    let mut waiting = item(1, 10, 100, 20);
    waiting.waiting_since = Time(30 * MINUTE);
    let queue = queue([waiting, item(2, 0, 60, 0)]);
    let mut away = reader("away");
    away.present = false;
    away.pools = BTreeSet::from([pool("mammo")]);
    let mut neuro = reader("neuro");
    neuro.pools.insert(pool("neuro"));

    let explanation = queue.explain(&read(1), Time(40 * MINUTE), &[away, neuro]).unwrap();
    assert_eq!((explanation.position, explanation.waiting, explanation.lane), (2, 2, Lane::Regular));
    let terms: Vec<_> = explanation.terms.iter().map(|t| (t.name, t.value / MINUTE, t.unit)).collect();
    assert_eq!(
        terms,
        [
            ("age", 30, "us"),
            ("waited", 10, "us"),
            ("to_front_lane", 50, "us"),
            ("to_deadline", 70, "us"),
            ("to_virtual_due", 50, "us"),
            ("ai_credit_used", 20, "us"),
        ]
    );
    let [away, neuro] = &explanation.verdicts[..] else { panic!("one verdict for each reader") };
    assert_eq!(
        (away.pool.as_ref(), &away.rejections[..]),
        (None, &[Rejection::NotPresent, Rejection::Pool][..])
    );
    assert_eq!((neuro.pool.clone(), neuro.rejections.is_empty()), (Some(pool("neuro")), true));
    assert!(queue.explain(&read(9), Time::ZERO, &[]).is_none());
}

#[test]
fn parked_is_what_no_registered_reader_could_ever_have() {
    let mut orphan = item(1, 0, 100, 0);
    orphan.needs = Needs::new(["MG"], "BREAST", "north".parse().unwrap(), vec![pool("mammo")]);
    let mut returned = item(2, 0, 100, 0);
    returned.excluded.extend(["a".parse().unwrap(), "b".parse().unwrap()]);
    let queue = queue([orphan, returned, item(3, 0, 100, 0)]);

    let mut a = reader("a");
    a.present = false;
    a.holding.open = 1;
    let mut b = reader("b");
    b.skills = BTreeSet::from([Skill::new("MR", "*")]);
    let parked = queue.parked(&[a, b]);
    let mut expected = vec![
        (read(1), vec![(Rejection::Pool, 2)]),
        (read(2), vec![(Rejection::Skill, 1), (Rejection::Excluded, 1)]),
    ];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(parked.into_iter().map(|p| (p.read, p.why)).collect::<Vec<_>>(), expected);
    assert_eq!(queue.parked(&[]).len(), 3, "without readers everything is parked");
}

#[test]
fn extreme_times_do_not_overflow() {
    let mut far = item(1, 0, 100, 0);
    far.complete_at = Time(i64::MIN);
    far.deadline_at = Time(i64::MAX);
    far.virtual_due = Time(i64::MAX);
    let mut queue = queue([far]);
    for now in [Time(i64::MIN), Time::ZERO, Time::ZERO.plus(Duration::MAX)] {
        assert!(queue.pick(&reader("r"), now).is_some());
        assert!(queue.explain(&read(1), now, &[]).is_some());
    }
}
