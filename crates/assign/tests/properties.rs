//! What holds for every queue, against a model that scans and sorts.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_assign::{
    FRONT_LANE_PERCENT, Holding, Item, Needs, Queue, ReaderProfile, Sites, Skill, filter,
};
use isocenter_domain::{
    Time,
    id::{CaseId, PoolId, ReadId, ReaderId, SiteId, StudyUid, TenantId},
};
use proptest::prelude::*;

const READERS: usize = 4;
const SITES: usize = 3;

/// How readers and sites are called; the symmetry test calls them otherwise.
#[derive(Clone, Copy)]
struct Names {
    reader: fn(usize) -> ReaderId,
    site: fn(usize) -> SiteId,
}

const PLAIN: Names =
    Names { reader: |n| format!("r{n}").parse().unwrap(), site: |n| format!("s{n}").parse().unwrap() };
const TURNED: Names = Names {
    reader: |n| format!("z{}", READERS - n).parse().unwrap(),
    site: |n| format!("a{}", SITES - n).parse().unwrap(),
};

/// An item without names.
#[derive(Clone, Debug)]
struct Draft {
    read: u32,
    complete_at: i64,
    deadline: i64,
    credit: i64,
    modality: usize,
    site: usize,
    pools: Vec<usize>,
    excluded: BTreeSet<usize>,
}

impl Draft {
    fn item(&self, names: Names) -> Item {
        let case =
            CaseId::of(&TenantId::new("t").unwrap(), &StudyUid::new(format!("1.{}", self.read)).unwrap());
        let deadline_at = Time(self.complete_at + self.deadline);
        Item {
            read: ReadId { case, n: 1 },
            class: "ROUTINE".parse().unwrap(),
            complete_at: Time(self.complete_at),
            virtual_due: Time(deadline_at.0 - self.credit.min(self.deadline)),
            deadline_at,
            waiting_since: Time(self.complete_at),
            needs: Needs::new(
                [["CT", "MR", ""][self.modality]],
                "HEAD",
                (names.site)(self.site),
                self.pools.iter().map(|pool| pool_id(*pool, names)).collect(),
            ),
            excluded: self.excluded.iter().map(|reader| (names.reader)(*reader)).collect(),
        }
    }
}

/// Pool 0 is general; the others are the sites' own.
fn pool_id(pool: usize, names: Names) -> PoolId {
    match pool {
        0 => "general".parse().unwrap(),
        own => format!("site:{}", (names.site)(own - 1)).parse().unwrap(),
    }
}

fn draft() -> impl Strategy<Value = Draft> {
    let pools = prop::collection::vec(0..=SITES, 1..3);
    let excluded = prop::collection::btree_set(0..READERS, 0..2);
    (0..12u32, 0..100i64, 1..100i64, 0..60i64, 0..3usize, 0..SITES, pools, excluded).prop_map(
        |(read, complete_at, deadline, credit, modality, site, pools, excluded)| Draft {
            read,
            complete_at,
            deadline,
            credit,
            modality,
            site,
            pools,
            excluded,
        },
    )
}

/// A reader without names: skill in CT, MR or all; sites; pools; presence and hands.
#[derive(Clone, Debug)]
struct Person {
    skill: usize,
    sites: Option<BTreeSet<usize>>,
    pools: BTreeSet<usize>,
    present: bool,
    accepting: bool,
    offered: u32,
}

impl Person {
    fn profile(&self, number: usize, names: Names) -> ReaderProfile {
        ReaderProfile {
            id: (names.reader)(number),
            skills: BTreeSet::from([Skill::new(["CT", "MR", "*"][self.skill], "*")]),
            sites: self
                .sites
                .as_ref()
                .map_or(Sites::All, |sites| Sites::Only(sites.iter().map(|s| (names.site)(*s)).collect())),
            pools: self.pools.iter().map(|pool| pool_id(*pool, names)).collect(),
            present: self.present,
            accepting: self.accepting,
            holding: Holding { offered: self.offered, open: 0, suspended: 1 },
        }
    }
}

fn people() -> impl Strategy<Value = Vec<Person>> {
    let sites = prop::option::of(prop::collection::btree_set(0..SITES, 0..=SITES));
    let pools = prop::collection::btree_set(0..=SITES, 0..=SITES);
    let often = || prop::bool::weighted(0.9);
    let offered = often().prop_map(|free| u32::from(!free));
    let person = (0..3usize, sites, pools, often(), often(), offered).prop_map(
        |(skill, sites, pools, present, accepting, offered)| Person {
            skill,
            sites,
            pools,
            present,
            accepting,
            offered,
        },
    );
    prop::collection::vec(person, READERS)
}

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
        4 => (0..READERS, 0..220i64).prop_map(|(reader, now)| Step::Pick { reader, now }),
    ];
    prop::collection::vec(step, 1..60)
}

/// The order, said again without the queue: front lane by completion, the rest by virtual deadline.
fn sorted(items: impl Iterator<Item = Item>, now: Time) -> Vec<Item> {
    let mut items: Vec<Item> = items.collect();
    items.sort_by_key(|item| {
        let span = item.deadline_at.0 - item.complete_at.0;
        let front = now.0 >= item.complete_at.0 + span * FRONT_LANE_PERCENT / 100;
        let due = if front { i64::MIN } else { item.virtual_due.0 };
        (!front, due, item.complete_at, item.read.clone())
    });
    items
}

/// Runs `steps` under `names` and answers which draft each pick gave.
fn run(steps: &[Step], people: &[Person], names: Names) -> Vec<Option<ReadId>> {
    let mut queue = Queue::default();
    let mut picks = Vec::new();
    for step in steps {
        match step {
            Step::Insert(draft) => drop(queue.insert(draft.item(names))),
            Step::Remove(read) => {
                let read = Draft { read: *read, ..some() }.item(names).read;
                drop(queue.remove(&read));
            }
            Step::Pick { reader, now } => {
                let profile = people[*reader].profile(*reader, names);
                picks.push(queue.pick(&profile, Time(*now)).map(|item| item.read.clone()));
            }
        }
    }
    picks
}

fn some() -> Draft {
    Draft {
        read: 0,
        complete_at: 0,
        deadline: 1,
        credit: 0,
        modality: 0,
        site: 0,
        pools: vec![0],
        excluded: BTreeSet::new(),
    }
}

proptest! {
    #[test]
    fn the_queue_answers_what_a_full_scan_would(steps in steps(), people in people()) {
        let mut queue = Queue::default();
        let mut model: BTreeMap<ReadId, Item> = BTreeMap::new();
        let registered: Vec<_> = people.iter().enumerate().map(|(n, p)| p.profile(n, PLAIN)).collect();
        for step in steps {
            match step {
                Step::Insert(draft) => {
                    let item = draft.item(PLAIN);
                    prop_assert_eq!(queue.insert(item.clone()), model.insert(item.read.clone(), item));
                }
                Step::Remove(read) => {
                    let read = Draft { read, ..some() }.item(PLAIN).read;
                    prop_assert_eq!(queue.remove(&read), model.remove(&read));
                }
                Step::Pick { reader, now } => {
                    let (reader, now) = (&registered[reader], Time(now));
                    let order = sorted(model.values().cloned(), now);
                    let wanted = order.iter().find(|item| filter::eligible(item, reader).is_ok());
                    prop_assert_eq!(queue.pick(reader, now), wanted);
                    for (place, item) in order.iter().enumerate() {
                        prop_assert_eq!(queue.position(&item.read, now), Some(place + 1));
                        let explained = queue.explain(&item.read, now, &registered).unwrap();
                        for (verdict, reader) in explained.verdicts.iter().zip(&registered) {
                            let first = verdict.rejections.first().map_or(Ok(()), |r| Err(*r));
                            prop_assert_eq!(filter::eligible(item, reader), first);
                        }
                    }
                }
            }
            let parked: Vec<_> = queue.parked(&registered).into_iter().map(|p| p.read).collect();
            let wanted: Vec<_> = model
                .values()
                .filter(|item| registered.iter().all(|reader| filter::qualified(item, reader).is_err()))
                .map(|item| item.read.clone())
                .collect();
            prop_assert_eq!(parked, wanted);
            prop_assert_eq!(queue.len(), model.len());
        }
    }

    #[test]
    fn the_same_steps_give_the_same_picks_and_names_do_not_matter(steps in steps(), people in people()) {
        let picks = run(&steps, &people, PLAIN);
        prop_assert_eq!(&picks, &run(&steps, &people, PLAIN));
        prop_assert_eq!(&picks, &run(&steps, &people, TURNED));
    }

    #[test]
    fn the_order_of_insertion_does_not_matter(
        drafts in prop::collection::vec(draft(), 1..12), people in people(), now in 0..220i64,
    ) {
        let by_read: BTreeMap<u32, Draft> = drafts.into_iter().map(|draft| (draft.read, draft)).collect();
        let mut forward = Queue::default();
        let mut backward = Queue::default();
        by_read.values().for_each(|draft| drop(forward.insert(draft.item(PLAIN))));
        by_read.values().rev().for_each(|draft| drop(backward.insert(draft.item(PLAIN))));
        for (number, person) in people.iter().enumerate() {
            let reader = person.profile(number, PLAIN);
            prop_assert_eq!(forward.pick(&reader, Time(now)), backward.pick(&reader, Time(now)));
        }
    }

    /// In a class, AI lets a case overtake only those completed at most `ai_credit` before it.
    #[test]
    fn ai_overtakes_at_most_its_credit(
        first in 0..1_000i64, second in 0..1_000i64, deadline in 1..1_000i64, credit in 0..1_000i64,
        p in 0..=100i64, q in 0..=100i64, now in 0..3_000i64,
    ) {
        let credit = credit.min(deadline);
        let (older, newer) = (first.min(second), first.max(second));
        let draft = |read, complete_at, p| Draft { read, complete_at, deadline, credit: credit * p / 100, ..some() };
        let (a, b) = (draft(1, older, p).item(PLAIN), draft(2, newer, q).item(PLAIN));
        let mut queue = Queue::default();
        drop(queue.insert(a.clone()));
        drop(queue.insert(b.clone()));
        let overtaken = queue.position(&b.read, Time(now)) < queue.position(&a.read, Time(now));
        prop_assert!(!overtaken || newer - older <= credit);
        let aged = now >= older + deadline * FRONT_LANE_PERCENT / 100;
        prop_assert!(!(overtaken && aged && newer > older), "the front lane is never overtaken");
    }

    /// More AI, or an earlier completion with the deadline that follows from it, never ranks a read later.
    #[test]
    fn more_credit_or_more_age_never_ranks_later(
        others in prop::collection::vec(draft(), 0..10), own in draft(), more in 0..60i64, older in 0..100i64,
        now in 0..220i64,
    ) {
        let own = Draft { read: 99, ..own };
        let place = |own: &Draft| {
            let mut queue = Queue::default();
            others.iter().for_each(|draft| drop(queue.insert(draft.item(PLAIN))));
            let item = own.item(PLAIN);
            drop(queue.insert(item.clone()));
            queue.position(&item.read, Time(now))
        };
        let promoted = Draft { credit: own.credit + more, ..own.clone() };
        prop_assert!(place(&promoted) <= place(&own));
        let aged = Draft { complete_at: own.complete_at - older, ..own.clone() };
        prop_assert!(place(&aged) <= place(&own));
    }
}
