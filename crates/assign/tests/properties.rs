//! What holds for every queue, against a model that looks at every read.

mod common;

use std::{collections::BTreeMap, time::Duration};

use common::{CLASSES, Draft, Names, PLAIN, Person, READERS, TURNED, at, draft, people, read};
use isocenter_assign::{Item, Lane, Params, Patience, Ppm, Queue, ReaderProfile, filter, next_up};
use isocenter_domain::{Time, id::ReadId};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    Insert(Draft),
    Remove(u32),
    Pick { reader: usize, now: i64 },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => draft().prop_map(Step::Insert),
        1 => (0..12u32).prop_map(Step::Remove),
        2 => (0..READERS, 0..4_000i64).prop_map(|(reader, now)| Step::Pick { reader, now }),
    ];
    prop::collection::vec(step, 1..40)
}

/// Parameters of every kind: what was tuned, and what tuning may come to.
fn params() -> impl Strategy<Value = Params> {
    let patience = (100..400u32, 0..7_200u64)
        .prop_map(|(percent, least)| Patience { percent, least: Duration::from_secs(least) });
    let lanes = (prop::option::of(1..=100u32), prop::option::of(patience), prop::bool::ANY);
    (0.0..2.0f64, 1.0..20.0f64, 1.0..3.0f64, 1.0..3.0f64, 0.1..1.0f64, lanes, 1..=20u32).prop_map(
        |(knee, steepness, locality, preferred, fatigue, lanes, level_bits)| {
            let (front_percent, patience, immediate_first) = lanes;
            let tuned = Params {
                knee,
                steepness,
                locality,
                preferred,
                fatigue,
                front_percent,
                patience,
                immediate_first,
                level_bits,
                ..Params::default()
            };
            tuned.checked().unwrap()
        },
    )
}

/// The first read in order that `may` be given to the reader: a scan of everything.
fn scanned<'a>(
    model: &'a BTreeMap<ReadId, Item>,
    params: &Params,
    reader: &ReaderProfile,
    now: Time,
    may: impl Fn(&Item) -> bool,
) -> Option<&'a Item> {
    let fit = model.values().filter(|item| may(item));
    fit.min_by_key(|item| params.rank(item, Some(reader), now))
}

fn run(steps: &[Step], people: &[Person], names: Names) -> Vec<Option<ReadId>> {
    let mut queue = Queue::default();
    let mut picks = Vec::new();
    for step in steps {
        match step {
            Step::Insert(draft) => drop(queue.insert(draft.item(names))),
            Step::Remove(n) => drop(queue.remove(&read(*n))),
            Step::Pick { reader, now } => {
                let profile = people[*reader].profile(*reader, names);
                picks.push(queue.pick(&profile, at(*now)).map(|item| item.read.clone()));
            }
        }
    }
    picks
}

proptest! {
    /// Invariants 2 and 13: bucketed pull equals a full scan, whatever was inserted and removed before.
    #[test]
    fn a_pull_answers_what_a_scan_of_every_read_would(
        steps in steps(), people in people(), params in params(),
    ) {
        let mut queue = Queue::new(params);
        let mut model: BTreeMap<ReadId, Item> = BTreeMap::new();
        let registered: Vec<_> = people.iter().enumerate().map(|(n, p)| p.profile(n, PLAIN)).collect();
        for step in steps {
            match step {
                Step::Insert(draft) => {
                    let item = draft.item(PLAIN);
                    prop_assert_eq!(queue.insert(item.clone()), model.insert(item.read.clone(), item));
                }
                Step::Remove(n) => prop_assert_eq!(queue.remove(&read(n)), model.remove(&read(n))),
                Step::Pick { reader, now } => {
                    let (reader, now) = (&registered[reader], at(now));
                    let eligible = |item: &Item| filter::eligible(item, reader, now).is_ok();
                    let picked = queue.pick(reader, now).cloned();
                    let wanted = scanned(&model, queue.params(), reader, now, eligible);
                    prop_assert_eq!(picked.as_ref(), wanted);

                    let mut busy = reader.clone();
                    (busy.holding.offered, busy.holding.open) = (0, 1);
                    let leasable = |item: &Item| {
                        item.urgency.next_up
                            && next_up::may_lease(&busy, now).is_ok()
                            && filter::qualified(item, &busy, now).is_ok()
                    };
                    let leased = queue.next_up(&busy, now).cloned();
                    let first = scanned(&model, queue.params(), &busy, now, leasable);
                    let first = first.filter(|item| next_up::may_wait(queue.params(), item, now));
                    prop_assert_eq!(leased.as_ref(), first);
                }
            }
            prop_assert_eq!(queue.len(), model.len());
        }
        prop_assert!(queue.items().eq(model.values()));
    }

    /// The same for many reads of few families, where a bound rules most of a queue out, while reads arrive, and time
    /// passes and at times goes back.
    #[test]
    fn a_pull_from_many_alike_answers_what_a_scan_would(
        drafts in prop::collection::vec(draft(), 40..80), params in params(),
        pulls in prop::collection::vec((0..3usize, prop_oneof![3 => 0..40i64, 1 => -100..3_000i64]), 10..30),
    ) {
        let mut queue = Queue::new(params);
        let mut model: BTreeMap<ReadId, Item> = BTreeMap::new();
        let mut arrivals = (0..).zip(drafts).map(|(n, draft)| {
            // Alike but for class, age, probability and one of two sites.
            let site = draft.site.min(1);
            Draft { read: n, class: draft.class, complete_at: draft.complete_at, site,
                probability: draft.probability, excluded: draft.excluded, seconds: [300, 600][n as usize % 2],
                ..Draft::plain(n, 0, 0) }.item(PLAIN)
        });
        let mut now = at(1_000);
        for (pull, (who, seconds)) in pulls.into_iter().enumerate() {
            for item in arrivals.by_ref().take(if pull == 0 { 30 } else { 2 }) {
                model.insert(item.read.clone(), item.clone());
                prop_assert_eq!(queue.insert(item), None);
            }
            now = Time(now.0 + seconds * 1_000_000);
            let mut reader = common::reader(&format!("r{who}"));
            reader.home = (who < 2).then(|| (PLAIN.site)(who));
            let picked = queue.pick(&reader, now).map(|item| item.read.clone());
            let fit = |item: &Item| filter::eligible(item, &reader, now).is_ok();
            let wanted = scanned(&model, queue.params(), &reader, now, fit);
            prop_assert_eq!(picked.as_ref(), wanted.map(|item| &item.read));
            // Each other pull only looks: what was learnt of a family is then still known at the next.
            if let Some(read) = picked.filter(|_| seconds % 2 == 0) {
                prop_assert_eq!(queue.remove(&read), model.remove(&read));
            }
        }
    }

    /// Each explanation agrees with the filters, each place with the order, and parked is who nobody could have
    /// (invariant 9): with a reason, and no longer once one reader can.
    #[test]
    fn explanations_and_places_agree_with_filters_and_order(
        drafts in prop::collection::vec(draft(), 1..12), people in people(), now in 0..4_000i64,
    ) {
        let (params, now) = (Params::default(), at(now));
        let mut queue = Queue::default();
        drafts.iter().for_each(|draft| drop(queue.insert(draft.item(PLAIN))));
        let registered: Vec<_> = people.iter().enumerate().map(|(n, p)| p.profile(n, PLAIN)).collect();
        let mut order: Vec<_> = queue.items().collect();
        order.sort_by_cached_key(|item| params.rank(item, None, now));
        for (before, item) in order.iter().enumerate() {
            prop_assert_eq!(queue.position(&item.read, now), Some(before + 1));
            let explained = queue.explain(&item.read, now, &registered).unwrap();
            for (verdict, reader) in explained.verdicts.iter().zip(&registered) {
                let first = verdict.rejections.first().map_or(Ok(()), |r| Err(*r));
                prop_assert_eq!(filter::eligible(item, reader, now), first);
            }
        }
        let wanted = queue.items().filter(|item| {
            registered.iter().all(|reader| filter::qualified(item, reader, now).is_err())
        });
        let wanted: Vec<_> = wanted.map(|item| item.read.clone()).collect();
        let parked = queue.parked(&registered, now);
        for parked in &parked {
            prop_assert_eq!(parked.why.iter().map(|(_, n)| n).sum::<usize>(), registered.len());
        }
        prop_assert_eq!(parked.into_iter().map(|p| p.read).collect::<Vec<_>>(), wanted);
        let mut anybody = common::reader("anybody");
        anybody.pools = queue.items().flat_map(|item| item.needs.pools().to_vec()).collect();
        anybody.licences = BTreeMap::from([("here".parse().unwrap(), None)]);
        anybody.paediatric = true;
        prop_assert!(queue.parked(&[anybody], now).is_empty());
    }

    /// Invariants 10 and 11.
    #[test]
    fn the_same_steps_give_the_same_picks_and_names_do_not_matter(steps in steps(), people in people()) {
        let picks = run(&steps, &people, PLAIN);
        prop_assert_eq!(&picks, &run(&steps, &people, PLAIN));
        prop_assert_eq!(&picks, &run(&steps, &people, TURNED));
    }

    #[test]
    fn the_order_of_insertion_does_not_matter(
        drafts in prop::collection::vec(draft(), 1..12), people in people(), now in 0..4_000i64,
    ) {
        let by_read: BTreeMap<u32, Draft> = drafts.into_iter().map(|draft| (draft.read, draft)).collect();
        let mut forward = Queue::default();
        let mut backward = Queue::default();
        by_read.values().for_each(|draft| drop(forward.insert(draft.item(PLAIN))));
        by_read.values().rev().for_each(|draft| drop(backward.insert(draft.item(PLAIN))));
        for (number, person) in people.iter().enumerate() {
            let reader = person.profile(number, PLAIN);
            prop_assert_eq!(forward.pick(&reader, at(now)), backward.pick(&reader, at(now)));
        }
    }

    /// Invariant 7: more probability, a more urgent class, more age, and being looked at later, never rank a read
    /// later; AI that fails or says little leaves it where its class puts it.
    #[test]
    fn more_urgency_and_more_age_never_rank_a_read_later(
        others in prop::collection::vec(draft(), 0..10), own in draft(), said in 0..=1_000_000u32,
        more in 0..=1_000_000u32, older in 0..1_500i64, now in 0..4_000i64, params in params(),
    ) {
        let own = Draft { read: 99, probability: Some(said), ..own };
        let now = at(now);
        let rank = |own: &Draft| {
            let own = own.item(PLAIN);
            let mine = params.rank(&own, None, now);
            others.iter().filter(|other| params.rank(&other.item(PLAIN), None, now) < mine).count()
        };
        let raised = Draft { probability: Some(said.saturating_add(more).min(1_000_000)), ..own.clone() };
        prop_assert!(rank(&raised) <= rank(&own));
        let aged = Draft { complete_at: own.complete_at - older, ..own.clone() };
        prop_assert!(rank(&aged) <= rank(&own));
        let promoted = Draft { class: own.class.saturating_sub(1), ..own.clone() };
        prop_assert!(rank(&promoted) <= rank(&own));
        let failed = Draft { probability: None, ..own.clone() };
        prop_assert!(rank(&own) <= rank(&failed));
        let nothing = Draft { probability: Some(0), ..own };
        prop_assert_eq!(rank(&nothing), rank(&failed));
    }

    /// Invariant 6: what completes after the deadline of a read that waits cannot go before it, whatever AI says of it
    /// and whose it is; only immediate classes can.
    #[test]
    fn nothing_that_completes_after_a_reads_deadline_overtakes_it(
        older in draft(), newer in draft(), later in 1..1_000i64, waits in 0..10_000i64, person in people(),
    ) {
        let params = Params::default();
        let older = Draft { read: 1, ..older }.item(PLAIN);
        let newer = Draft { read: 2, class: newer.class.max(1), ..newer }.item(PLAIN);
        let newer = Item { complete_at: Time(older.deadline_at().0 + later), ..newer };
        let now = Time(newer.complete_at.0 + waits * common::MINUTE);
        for reader in person.iter().map(|person| person.profile(0, PLAIN)) {
            prop_assert_eq!(params.lane(&older.urgency, older.complete_at, now), Lane::Front);
            prop_assert!(params.rank(&older, Some(&reader), now) < params.rank(&newer, Some(&reader), now));
        }
    }

    /// Invariant 13, the other half: counting at levels costs at most the width of a level.
    #[test]
    fn an_index_differs_from_the_exact_one_by_the_width_of_its_levels_at_most(
        own in draft(), waited in 0..2_000i64, bits in 1..=10u32,
    ) {
        let item = own.item(PLAIN);
        let now = Time(item.complete_at.0 + waited * common::MINUTE);
        let index = |level_bits| Params { level_bits, ..Params::default() }.index_of(&item, None, now).value;
        let width = 1.0 / f64::from(1u32 << (bits - 1));
        // Twenty digits hold every probability; of the minutes a millionth is lost.
        let exact = index(20);
        prop_assert!(index(bits) >= exact * (1.0 - width) * 0.999_999);
        prop_assert!(index(bits) <= exact * (1.0 + width) * 1.000_001);
    }

    /// Every read is read in the end where readers are faster than arrivals; the longest wait is bounded by work.
    #[test]
    fn whatever_waits_is_handed_out_in_as_many_pulls(drafts in prop::collection::vec(draft(), 1..12)) {
        let mut queue = Queue::default();
        for draft in &drafts {
            drop(queue.insert(Draft { pools: vec![0], excluded: [].into(), ..draft.clone() }.item(PLAIN)));
        }
        let mut reader = common::reader("all");
        reader.licences = BTreeMap::from([("here".parse().unwrap(), None)]);
        reader.paediatric = true;
        for left in (0..queue.len()).rev() {
            let read = queue.pick(&reader, at(3_000)).map(|item| item.read.clone()).unwrap();
            prop_assert!(queue.remove(&read).is_some());
            prop_assert_eq!(queue.len(), left);
        }
    }

    #[test]
    fn a_probability_is_a_number_from_0_to_1(p in prop::num::f64::ANY) {
        match Ppm::of(p) {
            Ok(ppm) => {
                prop_assert!((0.0..=1.0).contains(&p));
                prop_assert!((ppm.value() - p).abs() <= 1e-6);
            }
            Err(absurd) => {
                prop_assert!(!(0.0..=1.0).contains(&p));
                prop_assert!(absurd.to_string().starts_with("probability is "));
            }
        }
    }
}

#[test]
fn the_classes_of_the_tests_are_ordered_by_urgency() {
    let classes = CLASSES.map(|class| class());
    for (more, less) in classes.iter().zip(&classes[1..]) {
        assert!(more.weight >= less.weight && more.target <= less.target && more.prior >= less.prior);
    }
}
