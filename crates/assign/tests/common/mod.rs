//! Items and readers by number, for the tests of the order.
#![allow(dead_code, reason = "each test binary uses its part")]

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use isocenter_assign::{
    Duty, Exclusion, Holding, Item, Needs, Ppm, Queue, ReaderProfile, Sites, Skill, Urgency, Work,
};
use isocenter_domain::{
    Time,
    id::{CaseId, PoolId, ReadId, ReaderId, SiteId, StudyUid, TenantId},
};
use proptest::prelude::*;

pub const MINUTE: i64 = 60_000_000;
pub const READERS: usize = 4;
pub const SITES: usize = 3;
const HOURS: fn(u64) -> Duration = |n| Duration::from_secs(n * 3600);

pub fn at(minute: i64) -> Time {
    Time(minute * MINUTE)
}

pub fn minutes(n: u64) -> Duration {
    Duration::from_secs(n * 60)
}

pub fn ppm(parts: u32) -> Ppm {
    Ppm::from_parts(parts).unwrap()
}

pub fn read(n: u32) -> ReadId {
    let case = CaseId::of(&TenantId::new("t").unwrap(), &StudyUid::new(format!("1.{n}")).unwrap());
    ReadId { case, n: 1 }
}

pub fn pool(name: &str) -> PoolId {
    name.parse().unwrap()
}

pub fn stat() -> Urgency {
    Urgency {
        target: minutes(30),
        weight: 90,
        critical: 40,
        prior: ppm(200_000),
        next_up: false,
        may_outwait: false,
    }
}

pub fn urgent() -> Urgency {
    Urgency {
        target: HOURS(2),
        weight: 18,
        critical: 40,
        prior: ppm(60_000),
        next_up: true,
        may_outwait: true,
    }
}

pub fn routine() -> Urgency {
    Urgency {
        target: HOURS(24),
        weight: 2,
        critical: 40,
        prior: ppm(15_000),
        next_up: true,
        may_outwait: true,
    }
}

pub fn needs(modality: &str) -> Needs {
    Needs::new([modality], "HEAD", "north".parse().unwrap(), vec![pool("neuro"), pool("general")])
}

/// A read of `urgency`, complete at minute `complete_at`, of ten minutes' work.
pub fn item(n: u32, urgency: Urgency, complete_at: i64) -> Item {
    Item {
        read: read(n),
        class: "ROUTINE".parse().unwrap(),
        urgency,
        complete_at: at(complete_at),
        waiting_since: at(complete_at),
        probability: None,
        work: Work { minutes: minutes(10), points: 1_000 },
        needs: needs("CT"),
        excluded: BTreeMap::new(),
        prefers: None,
    }
}

/// A reader who may read everything, present and with empty hands.
pub fn reader(name: &str) -> ReaderProfile {
    ReaderProfile {
        skills: BTreeSet::from([Skill::new("*", "*")]),
        sites: Sites::All,
        pools: BTreeSet::from([pool("general")]),
        present: true,
        accepting: true,
        ..ReaderProfile::new(name.parse().unwrap())
    }
}

pub fn queue(items: impl IntoIterator<Item = Item>) -> Queue {
    let mut queue = Queue::default();
    for item in items {
        assert_eq!(queue.insert(item), None);
    }
    queue
}

pub fn picked(queue: &mut Queue, reader: &ReaderProfile, minute: i64) -> Option<ReadId> {
    queue.pick(reader, at(minute)).map(|item| item.read.clone())
}

/// How readers and sites are called; the symmetry test calls them otherwise.
#[derive(Clone, Copy)]
pub struct Names {
    pub reader: fn(usize) -> ReaderId,
    pub site: fn(usize) -> SiteId,
}

pub const PLAIN: Names =
    Names { reader: |n| format!("r{n}").parse().unwrap(), site: |n| format!("s{n}").parse().unwrap() };
pub const TURNED: Names = Names {
    reader: |n| format!("z{}", READERS - n).parse().unwrap(),
    site: |n| format!("a{}", SITES - n).parse().unwrap(),
};

/// An item without names. Times are minutes.
#[derive(Clone, Debug)]
pub struct Draft {
    pub read: u32,
    pub class: usize,
    pub complete_at: i64,
    pub probability: Option<u32>,
    pub seconds: u64,
    pub points: u32,
    pub modality: usize,
    pub site: usize,
    pub licensed: bool,
    pub child: bool,
    pub final_only: bool,
    pub pools: Vec<usize>,
    pub excluded: BTreeSet<usize>,
    pub prefers: Option<usize>,
}

pub const CLASSES: [fn() -> Urgency; 3] = [stat, urgent, routine];

impl Draft {
    pub fn plain(read: u32, class: usize, complete_at: i64) -> Self {
        Self {
            read,
            class,
            complete_at,
            probability: None,
            seconds: 600,
            points: 1_000,
            modality: 0,
            site: 0,
            licensed: false,
            child: false,
            final_only: false,
            pools: vec![0],
            excluded: BTreeSet::new(),
            prefers: None,
        }
    }

    pub fn item(&self, names: Names) -> Item {
        let jurisdiction = self.licensed.then(|| "here".parse().unwrap());
        let needs = Needs::new(
            [["CT", "MR", ""][self.modality]],
            "HEAD",
            (names.site)(self.site),
            self.pools.iter().map(|pool| pool_id(*pool, names)).collect(),
        );
        Item {
            read: read(self.read),
            class: ["STAT", "URGENT", "ROUTINE"][self.class].parse().unwrap(),
            urgency: CLASSES[self.class](),
            complete_at: at(self.complete_at),
            waiting_since: at(self.complete_at),
            probability: self.probability.map(ppm),
            work: Work { minutes: Duration::from_secs(self.seconds), points: self.points },
            needs: needs.under(jurisdiction).of_a_child(self.child).by_an_attending(self.final_only),
            excluded: self.excluded.iter().map(|r| ((names.reader)(*r), Exclusion::Returned)).collect(),
            prefers: self.prefers.map(names.reader),
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

pub fn draft() -> impl Strategy<Value = Draft> {
    let probability = prop::option::of(prop_oneof![0..=1_000_000u32, 0..50_000u32, Just(1_000_000)]);
    let order = (0..12u32, 0..3usize, 0..2_000i64, probability, 1..3_000u64, 0..6_000u32);
    let pools = prop::collection::vec(0..=SITES, 1..3);
    let excluded = prop::collection::btree_set(0..READERS, 0..2);
    let rarely = prop::bool::weighted(0.1);
    let needs = (0..3usize, 0..SITES, rarely, prop::bool::weighted(0.1), prop::bool::weighted(0.1), pools);
    (order, needs, excluded, prop::option::weighted(0.2, 0..READERS)).prop_map(
        |(order, needs, excluded, prefers)| {
            let (read, class, complete_at, probability, seconds, points) = order;
            let (modality, site, licensed, child, final_only, pools) = needs;
            Draft {
                read,
                class,
                complete_at,
                probability,
                seconds,
                points,
                modality,
                site,
                licensed,
                child,
                final_only,
                pools,
                excluded,
                prefers,
            }
        },
    )
}

/// A reader without names: skill in CT, MR or all; sites; pools; licence; presence, hands and hours.
#[derive(Clone, Debug)]
pub struct Person {
    pub skill: usize,
    pub sites: Option<BTreeSet<usize>>,
    pub pools: BTreeSet<usize>,
    pub home: Option<usize>,
    /// Until which minute the licence holds; none: no licence.
    pub licence: Option<i64>,
    pub paediatric: bool,
    pub attending: bool,
    pub here: bool,
    pub shift: (i64, i64),
    pub hours: u64,
    pub pace: u32,
    pub offered: u32,
}

impl Person {
    pub fn profile(&self, number: usize, names: Names) -> ReaderProfile {
        let (since, until) = self.shift;
        let sites = self.sites.as_ref().map(|sites| sites.iter().map(|s| (names.site)(*s)).collect());
        let mut profile = ReaderProfile {
            skills: BTreeSet::from([Skill::new(["CT", "MR", "*"][self.skill], "*")]),
            sites: sites.map_or(Sites::All, Sites::Only),
            home: self.home.map(names.site),
            licences: self.licence.iter().map(|until| ("here".parse().unwrap(), Some(at(*until)))).collect(),
            pools: self.pools.iter().map(|pool| pool_id(*pool, names)).collect(),
            paediatric: self.paediatric,
            attending: self.attending,
            present: self.here,
            accepting: true,
            duty: Duty::On { since: at(since), until: at(until) },
            pace: self.pace,
            holding: Holding { offered: self.offered, open: 0, suspended: 1 },
            ..ReaderProfile::new((names.reader)(number))
        };
        profile.load.on_shift = HOURS(self.hours);
        profile
    }
}

pub fn people() -> impl Strategy<Value = Vec<Person>> {
    let mostly = || prop::bool::weighted(0.85);
    let sites = prop::option::of(prop::collection::btree_set(0..SITES, 0..SITES));
    let pools = prop::collection::btree_set(0..=SITES, 0..=SITES);
    let where_ = (0..3usize, sites, pools, prop::option::of(0..SITES), prop::option::of(0..3_000i64));
    let shift = (0..300i64, 1_500..3_500i64);
    let what = (mostly(), mostly(), mostly(), shift, 0..11u64, 500..2_000u32, mostly());
    let person = (where_, what).prop_map(|(place, what)| {
        let (skill, sites, pools, home, licence) = place;
        let (paediatric, attending, here, shift, hours, pace, free) = what;
        let offered = u32::from(!free);
        Person {
            skill,
            sites,
            pools,
            home,
            licence,
            paediatric,
            attending,
            here,
            shift,
            hours,
            pace,
            offered,
        }
    });
    prop::collection::vec(person, READERS)
}
