//! The order, the filters and the explanations, by example.

mod common;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use common::{
    MINUTE, at, item, minutes, needs, picked, pool, ppm, queue, read, reader, routine, stat, urgent,
};
use isocenter_assign::{
    Absurd, Duty, Exclusion, Holding, Item, Lane, Needs, Params, Patience, Ppm, Queue, ReaderProfile,
    Rejection, Sites, Skill, Work, filter,
};
use isocenter_domain::Time;

#[test]
fn what_costs_more_for_each_minute_of_reading_is_first() {
    let quick = Item { work: Work { minutes: minutes(3), points: 200 }, ..item(2, routine(), 60) };
    let flagged = Item { probability: Some(ppm(900_000)), ..item(3, routine(), 90) };
    let mut queue =
        queue([item(1, routine(), 0), quick, flagged, item(4, stat(), 99), item(5, urgent(), 90)]);
    for expected in [4, 3, 5, 2, 1].map(read) {
        assert_eq!(picked(&mut queue, &reader("r"), 100), Some(expected.clone()));
        queue.remove(&expected);
    }
    assert_eq!(picked(&mut queue, &reader("r"), 100), None);
    assert!(queue.is_empty());
}

#[test]
fn equal_reads_go_by_age_and_then_by_read_id() {
    let mut ids = [read(1), read(2)];
    ids.sort();
    let mut queue = queue([item(1, routine(), 0), item(2, routine(), 0), item(3, routine(), 1)]);
    for expected in [ids[0].clone(), ids[1].clone(), read(3)] {
        assert_eq!(picked(&mut queue, &reader("r"), 10), Some(expected.clone()));
        queue.remove(&expected);
    }
}

/// Of two alike reads the younger overtakes the older shortly after a pull has looked at both, while a third from
/// elsewhere stands between them.
#[test]
fn what_a_pull_remembers_of_alike_reads_does_not_hide_that_one_overtakes_the_other() {
    let likely =
        |n, complete_at, parts| Item { probability: Some(ppm(parts)), ..item(n, routine(), complete_at) };
    let elsewhere = Needs::new(["CT"], "HEAD", "south".parse().unwrap(), vec![pool("general")]);
    let old = likely(1, 1_000, 500_000);
    let young =
        Item { complete_at: Time(1_502 * MINUTE + MINUTE / 2 + MINUTE / 3), ..likely(2, 0, 1_000_000) };
    let other = Item { needs: elsewhere, complete_at: Time(999 * MINUTE), ..likely(3, 0, 500_000) };
    let index = |item: &Item, minute| Params::default().index_of(item, None, at(minute)).value;
    assert!(index(&old, 2_000) > index(&young, 2_000) && index(&other, 2_000) > index(&old, 2_000));
    assert!(index(&young, 2_006) > index(&other, 2_006));
    let mut queue = queue([old, young, other]);
    assert_eq!(picked(&mut queue, &reader("r"), 2_000), Some(read(3)));
    assert_eq!(picked(&mut queue, &reader("r"), 2_006), Some(read(2)));
}

/// A read comes back so late that it goes by its deadline, among alike reads that a pull has looked at and of which none
/// stands as high as one from elsewhere.
#[test]
fn what_a_pull_remembers_of_alike_reads_does_not_hide_what_comes_back_late() {
    let elsewhere = Needs::new(["CT"], "HEAD", "south".parse().unwrap(), vec![pool("general")]);
    let likely = |n, complete_at| Item { probability: Some(Ppm::ONE), ..item(n, routine(), complete_at) };
    let mut queue = queue([Item { needs: elsewhere, ..likely(1, 500) }, likely(2, 1_000)]);
    assert_eq!(picked(&mut queue, &reader("r"), 1_200), Some(read(1)));
    assert_eq!(queue.insert(item(3, routine(), 0)), None);
    assert_eq!(picked(&mut queue, &reader("r"), 1_200), Some(read(3)));
}

#[test]
fn immediate_classes_go_first_unless_the_index_alone_decides() {
    let critical = Item { probability: Some(Ppm::ONE), ..item(1, routine(), 0) };
    let long = Item { work: Work { minutes: minutes(40), points: 4_000 }, ..item(2, stat(), 300) };
    let mut by_class = queue([critical.clone(), long.clone()]);
    assert_eq!(picked(&mut by_class, &reader("r"), 300), Some(read(2)));
    let params = Params { immediate_first: false, ..Params::default() };
    let mut by_index = isocenter_assign::Queue::new(params);
    assert_eq!((by_index.insert(critical), by_index.insert(long)), (None, None));
    assert_eq!(picked(&mut by_index, &reader("r"), 300), Some(read(1)));
}

/// One reader, a routine read that takes an hour, and a quick one that comes each minute and is read before the next: in
/// order of arrival nobody would wait for long, so that after an hour, which nobody is moved forward for sooner, its turn
/// has come. Deadlines alone would let it wait for 19 hours.
#[test]
fn who_has_waited_for_much_longer_than_in_order_of_arrival_joins_the_front_lane() {
    let long = || Item { work: Work { minutes: minutes(60), points: 200 }, ..item(0, routine(), 0) };
    let quick = |n: u32| Item {
        work: Work { minutes: minutes(1), points: 200 },
        ..item(n, routine(), i64::from(n) - 5)
    };
    let read_at = |params: Params| {
        let mut queue = Queue::new(params);
        queue.insert(long());
        (1..=120u32).find(|minute| {
            queue.insert(quick(*minute));
            let first = picked(&mut queue, &reader("r"), i64::from(*minute)).unwrap();
            queue.remove(&first);
            first == read(0)
        })
    };
    assert_eq!(read_at(Params::default()), Some(60));
    assert_eq!(read_at(Params { patience: None, ..Params::default() }), None);
}

/// Where everybody waits for hours, who came first is not moved forward for that alone.
#[test]
fn what_everybody_waits_for_moves_nobody_forward() {
    let mut queue = queue((0..10).map(|n| item(n, routine(), i64::from(n))));
    let flagged = Item { probability: Some(Ppm::ONE), ..item(10, routine(), 300) };
    queue.insert(flagged);
    assert_eq!(picked(&mut queue, &reader("r"), 400), Some(read(10)));
    let explained = queue.explain(&read(0), at(400), &[]).unwrap();
    assert_eq!(explained.lane, Lane::Regular);
    let to_front = explained.terms.iter().find(|term| term.name == "to_front_lane").unwrap();
    // Twice 400 minutes, less the 400 that it has waited.
    assert!((to_front.value / 60e6 - 400.0).abs() < 1e-6, "{to_front:?}");
}

/// A day after the longest wait, less is waited for; what was known of a family before does not hide it.
#[test]
fn a_long_wait_of_the_day_before_lets_nobody_wait_today() {
    let mut queue = queue([item(0, routine(), -120)]);
    assert_eq!(picked(&mut queue, &reader("r"), 600), Some(read(0)), "twelve hours: the longest of the day");
    queue.remove(&read(0));
    // One that was passed over, so that in order of arrival it would be gone, and one that is flagged.
    let passed = Item { work: Work { minutes: minutes(60), points: 200 }, ..item(1, routine(), 1_400) };
    let flagged = Item { probability: Some(Ppm::ONE), ..item(3, routine(), 2_030) };
    for item in [passed, item(2, routine(), 2_030), flagged] {
        queue.insert(item);
    }
    queue.remove(&read(2));
    assert_eq!(picked(&mut queue, &reader("r"), 2_039), Some(read(3)), "25 hours are not over");
    assert_eq!(picked(&mut queue, &reader("r"), 2_040), Some(read(1)), "an hour is");
}

#[test]
fn at_80_percent_of_its_target_a_read_joins_the_front_lane_in_order_of_deadline() {
    // A day is 1440 minutes: front lane at 1152. Urgent: 96 of 120.
    let flagged = |n, complete_at| Item { probability: Some(Ppm::ONE), ..item(n, urgent(), complete_at) };
    let dull = Item { work: Work { minutes: minutes(120), points: 200 }, ..item(1, routine(), 0) };
    let mut queue = queue([dull, flagged(2, 1_100), flagged(3, 1_060)]);
    assert_eq!(picked(&mut queue, &reader("r"), 1_151), Some(read(3)), "before: by index");
    assert_eq!(picked(&mut queue, &reader("r"), 1_152), Some(read(1)));
    assert_eq!(
        picked(&mut queue, &reader("r"), 1_156),
        Some(read(3)),
        "in the lane: the nearer deadline first"
    );
    let explained = queue.explain(&read(1), at(1_156), &[]).unwrap();
    assert_eq!((explained.position, explained.lane), (2, Lane::Front));
    let mut waiting_stat = queue;
    assert_eq!(waiting_stat.insert(item(4, stat(), 1_156)), None);
    assert_eq!(
        picked(&mut waiting_stat, &reader("r"), 1_156),
        Some(read(4)),
        "never ahead of an immediate one"
    );
    assert_eq!(picked(&mut waiting_stat, &reader("r"), 20), Some(read(4)), "a clock set back");
}

#[test]
fn locality_preference_and_fatigue_weigh_and_never_forbid() {
    let from = |site: &str, n, complete_at| Item {
        needs: Needs::new(["CT"], "HEAD", site.parse().unwrap(), vec![pool("general")]),
        ..item(n, routine(), complete_at)
    };
    let mut queue = queue([from("north", 1, 0), from("south", 2, 5)]);
    let at_home = ReaderProfile { home: Some("south".parse().unwrap()), ..reader("r") };
    assert_eq!(picked(&mut queue, &reader("r"), 100), Some(read(1)));
    assert_eq!(picked(&mut queue, &at_home, 100), Some(read(2)));
    assert_eq!(picked(&mut queue, &at_home, 40), Some(read(1)), "more than a tenth as old again");

    let heavy = Item { work: Work { minutes: minutes(10), points: 5_000 }, ..from("north", 3, -30) };
    assert_eq!(queue.insert(heavy), None);
    assert_eq!(picked(&mut queue, &reader("r"), 100), Some(read(3)));
    let mut tired = reader("r");
    tired.load.on_shift = Duration::from_secs(8 * 3600);
    assert_eq!(picked(&mut queue, &tired, 100), Some(read(1)));

    let linked = Item { prefers: Some("r".parse().unwrap()), ..from("north", 4, 40) };
    assert_eq!(queue.insert(linked), None);
    assert_eq!(picked(&mut queue, &tired, 240), Some(read(4)));
    assert_eq!(picked(&mut queue, &reader("other"), 240), Some(read(3)));
}

#[test]
fn a_read_that_is_updated_moves_and_the_reader_who_returned_it_is_passed_over() {
    let mut queue = queue([item(1, routine(), 0), item(2, routine(), 1)]);
    assert_eq!(picked(&mut queue, &reader("r"), 2), Some(read(1)));
    let excluded = BTreeMap::from([("r".parse().unwrap(), Exclusion::Returned)]);
    let returned = Item { excluded, waiting_since: at(2), ..item(1, routine(), 0) };
    assert_eq!(queue.insert(returned.clone()), Some(item(1, routine(), 0)));
    assert_eq!(picked(&mut queue, &reader("r"), 2), Some(read(2)));
    assert_eq!(picked(&mut queue, &reader("other"), 2), Some(read(1)), "at its original age");
    assert_eq!(queue.len(), 2);
    assert_eq!(queue.remove(&read(1)), Some(returned));
    assert_eq!(queue.remove(&read(1)), None);
}

#[test]
fn each_filter_refuses_by_its_own_name() {
    type Change = fn(&mut ReaderProfile);
    let cases: [(Change, Rejection); 18] = [
        (|r| r.present = false, Rejection::NotPresent),
        (|r| r.accepting = false, Rejection::NotAccepting),
        (|r| r.holding.open = 1, Rejection::AlreadyHolds),
        (|r| r.holding.offered = 1, Rejection::AlreadyHolds),
        (|r| r.duty = Duty::Off, Rejection::OffShift),
        (|r| r.duty = Duty::On { since: at(0), until: at(10) }, Rejection::OffShift),
        (|r| r.duty = Duty::On { since: at(11), until: at(20) }, Rejection::OffShift),
        (|r| r.duty = Duty::Break { until: at(11) }, Rejection::OnBreak),
        (|r| r.load.on_shift = Duration::from_secs(36_000), Rejection::HardStop),
        (|r| r.load.points = r.capacity.hard_points.insert(50).to_owned(), Rejection::HardStop),
        (|r| r.pools = BTreeSet::from([pool("mammo")]), Rejection::Pool),
        (|r| r.sites = Sites::Only(BTreeSet::from(["south".parse().unwrap()])), Rejection::SiteAuthorization),
        (|r| r.conflicts = BTreeSet::from(["north".parse().unwrap()]), Rejection::SiteConflict),
        (|r| r.licences.clear(), Rejection::Licence),
        (|r| r.licences.values_mut().for_each(|until| *until = Some(at(10))), Rejection::LicenceExpired),
        (|r| r.skills = BTreeSet::from([Skill::new("MR", "*")]), Rejection::Skill),
        (|r| r.paediatric = false, Rejection::Paediatric),
        (|r| r.attending = false, Rejection::Grade),
    ];
    let jurisdiction = "ru".parse().ok();
    let needs = needs("CT").under(jurisdiction.clone()).of_a_child(true).by_an_attending(true);
    let waiting = Item { needs, ..item(1, routine(), 0) };
    let mut fit = reader("r");
    fit.paediatric = true;
    fit.licences = BTreeMap::from([(jurisdiction.unwrap(), Some(at(11)))]);
    assert_eq!(filter::eligible(&waiting, &fit, at(10)), Ok(()));
    for (change, rejection) in cases {
        let mut refused = fit.clone();
        change(&mut refused);
        assert_eq!(filter::eligible(&waiting, &refused, at(10)), Err(rejection));
        assert_eq!(filter::rejections(&waiting, &refused, at(10)), [rejection]);
        assert_eq!(filter::qualified(&waiting, &refused, at(10)).is_ok(), rejection.is_momentary());
        assert!(queue([waiting.clone()]).pick(&refused, at(10)).is_none());
        let asked_at_open =
            !matches!(rejection, Rejection::NotPresent | Rejection::NotAccepting | Rejection::AlreadyHolds);
        assert_eq!(filter::openable(&waiting, &refused, at(10)).is_err(), asked_at_open);
    }
    let busy = ReaderProfile { holding: Holding { suspended: 3, ..Holding::default() }, ..fit.clone() };
    assert_eq!(filter::eligible(&waiting, &busy, at(10)), Ok(()), "suspended reads leave the hands free");
    let back = ReaderProfile { duty: Duty::Break { until: at(10) }, ..fit.clone() };
    assert_eq!(filter::eligible(&waiting, &back, at(10)), Ok(()), "the break is over");

    for why in [
        Exclusion::Returned,
        Exclusion::ReadBefore,
        Exclusion::FirstReader,
        Exclusion::Blinded,
        Exclusion::Conflict,
        Exclusion::Recused,
    ] {
        let excluded = BTreeMap::from([(fit.id.clone(), why)]);
        let waiting = Item { excluded, ..waiting.clone() };
        assert_eq!(filter::eligible(&waiting, &fit, at(10)), Err(Rejection::Excluded(why)));
        assert_eq!(Rejection::Excluded(why).name(), why.name());
    }
}

#[test]
fn skills_cover_each_modality_that_is_read_and_stars_cover_what_is_absent() {
    let with = |skills: &[(&str, &str)]| {
        let mut reader = reader("r");
        reader.skills = skills.iter().map(|(modality, part)| Skill::new(modality, part)).collect();
        reader
    };
    let of = |modalities: &[&str], body_part: &str| Item {
        needs: Needs::new(modalities, body_part, "north".parse().unwrap(), vec![pool("general")]),
        ..item(1, routine(), 0)
    };
    let may =
        |item: &Item, skills: &[(&str, &str)]| filter::eligible(item, &with(skills), Time::ZERO).is_ok();
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
    let waiting = Item { waiting_since: at(30), probability: Some(ppm(500_000)), ..item(1, urgent(), 10) };
    let queue = queue([waiting, item(2, stat(), 0)]);
    let mut away = reader("away");
    away.present = false;
    away.pools = BTreeSet::from([pool("mammo")]);
    let mut neuro = reader("neuro");
    neuro.pools.insert(pool("neuro"));
    neuro.home = Some("north".parse().unwrap());

    let explanation = queue.explain(&read(1), at(65), &[away, neuro]).unwrap();
    assert_eq!((explanation.position, explanation.waiting, explanation.lane), (2, 2, Lane::Regular));
    let minute = |name, n: i64| (name, (n * MINUTE) as f64, "us");
    // An hour with the head start: half of the target, and an hour at a probability of a half, whose level is a little
    // less.
    let expected = [
        minute("age", 55),
        minute("waited", 35),
        minute("to_deadline", 65),
        minute("to_front_lane", 41),
        ("urgency", 9.0, "1"),
        ("critical", 40.0 * 0.491_52, "1"),
        ("probability", 0.5, "1"),
    ];
    let terms: Vec<_> = explanation.terms.iter().map(|t| (t.name, t.value, t.unit)).collect();
    for (term, expected) in terms.iter().zip(expected) {
        assert_eq!((term.0, term.2), (expected.0, expected.2));
        assert!((term.1 - expected.1).abs() < 1e-9, "{term:?} is not {expected:?}");
    }
    assert_eq!(terms.iter().map(|t| t.0).skip(7).collect::<Vec<_>>(), ["expected", "index"]);
    let index = (9.0 + 40.0 * 0.491_52) / terms[7].1;
    assert!((terms[8].1 - index).abs() < 1e-9, "{terms:?}");
    let [away, neuro] = &explanation.verdicts[..] else { panic!("one verdict for each reader") };
    assert_eq!(
        (away.pool.as_ref(), &away.rejections[..]),
        (None, &[Rejection::NotPresent, Rejection::Pool][..])
    );
    assert_eq!((neuro.pool.clone(), neuro.rejections.is_empty()), (Some(pool("neuro")), true));
    assert!((neuro.factor - Params::default().locality).abs() < 1e-9);
    assert!(queue.explain(&read(9), Time::ZERO, &[]).is_none());
}

#[test]
fn parked_is_what_no_registered_reader_could_ever_have() {
    let mammography = Needs::new(["MG"], "BREAST", "north".parse().unwrap(), vec![pool("mammo")]);
    let orphan = Item { needs: mammography, ..item(1, routine(), 0) };
    let excluded = ["a", "b"].map(|r| (r.parse().unwrap(), Exclusion::Returned));
    let returned = Item { excluded: excluded.into(), ..item(2, routine(), 0) };
    let queue = queue([orphan, returned, item(3, routine(), 0)]);

    let mut a = reader("a");
    a.present = false;
    a.holding.open = 1;
    a.duty = Duty::Off;
    let mut b = reader("b");
    b.skills = BTreeSet::from([Skill::new("MR", "*")]);
    let parked = queue.parked(&[a, b], Time::ZERO);
    let mut expected = vec![
        (read(1), vec![(Rejection::Pool, 2)]),
        (read(2), vec![(Rejection::Skill, 1), (Rejection::Excluded(Exclusion::Returned), 1)]),
    ];
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(parked.into_iter().map(|p| (p.read, p.why)).collect::<Vec<_>>(), expected);
    assert_eq!(queue.parked(&[], Time::ZERO).len(), 3, "without readers everything is parked");
}

#[test]
fn extreme_times_do_not_overflow() {
    let mut far = item(1, routine(), 0);
    far.complete_at = Time(i64::MIN);
    far.urgency.target = Duration::MAX;
    let mut nothing = item(2, routine(), 0);
    nothing.urgency.target = Duration::ZERO;
    nothing.work.minutes = Duration::ZERO;
    nothing.complete_at = Time(i64::MAX);
    let mut queue = queue([far, nothing]);
    for now in [Time(i64::MIN), Time::ZERO, Time(i64::MAX - 1)] {
        assert!(queue.pick(&reader("r"), now).is_some());
        assert!(queue.explain(&read(1), now, &[]).is_some());
    }
}

#[test]
fn absurd_numbers_are_refused_by_the_name_of_their_field() {
    let refused = |field, value: &str, result: Result<Work, Absurd>| {
        let absurd = result.unwrap_err();
        assert_eq!((absurd.field, absurd.value.as_str()), (field, value));
        assert!(absurd.to_string().starts_with(&format!("{field} is {value}: ")), "{absurd}");
    };
    refused("minutes", "-3", Work::of(-3.0, 1.0));
    refused("minutes", "NaN", Work::of(f64::NAN, 1.0));
    refused("minutes", "100000", Work::of(1e5, 1.0));
    refused("value_units", "inf", Work::of(10.0, f64::INFINITY));
    refused("value_units", "-0.5", Work::of(10.0, -0.5));
    refused("points", "2000000", Work::new(minutes(10), 2_000_000));
    assert_eq!(Work::of(10.0, 1.5), Work::new(minutes(10), 1_500));
    assert_eq!(Ppm::of(f64::NAN).unwrap_err().field, "probability");
    assert!(Ppm::from_parts(1_000_001).is_err());
    for (params, field) in [
        (Params { knee: f64::NAN, ..Params::default() }, "knee"),
        (Params { steepness: 0.5, ..Params::default() }, "steepness"),
        (Params { locality: -1.0, ..Params::default() }, "locality"),
        (Params { front_percent: Some(0), ..Params::default() }, "front_percent"),
        (
            Params { patience: Some(Patience { percent: 99, least: Duration::ZERO }), ..Params::default() },
            "patience.percent",
        ),
        (Params { level_bits: 0, ..Params::default() }, "level_bits"),
    ] {
        assert_eq!(params.checked().unwrap_err().field, field);
    }
    assert_eq!(Params::default().checked(), Ok(Params::default()));
}
