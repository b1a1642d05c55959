//! A network of ninety sites and a reference center, by seed: its readers and what waits to be read.

#![allow(dead_code, reason = "each benchmark uses its part")]

use std::{collections::BTreeSet, time::Duration};

use isocenter_assign::{
    Exam, Item, Load, Needs, Ppm, Prior, Queue, ReaderProfile, Sites, Skill, Urgency, Work,
};
use isocenter_domain::{
    Time,
    id::{CaseId, PoolId, ReadId, SiteId, StudyUid, TenantId},
};

const SITES: usize = 90;
/// Exams and their share in a thousand.
const EXAMS: [(&str, &str, u64); 16] = [
    ("DX", "CHEST", 300),
    ("DX", "HAND", 120),
    ("DX", "KNEE", 100),
    ("MG", "BREAST", 140),
    ("CT", "HEAD", 50),
    ("CT", "CHEST", 60),
    ("CT", "ABDOMEN", 50),
    ("CT", "SPINE", 20),
    ("MR", "HEAD", 40),
    ("MR", "SPINE", 25),
    ("MR", "KNEE", 20),
    ("MR", "ABDOMEN", 10),
    ("US", "ABDOMEN", 40),
    ("CT", "HEART", 5),
    ("PT", "WHOLEBODY", 10),
    ("BMD", "SPINE", 10),
];
/// Three of four readers read all of some modalities; the others are specialists.
const SKILLS: [&[(&str, &str)]; 6] = [
    &[("DX", "*"), ("CT", "*"), ("MR", "*"), ("US", "*"), ("BMD", "*")],
    &[("DX", "*"), ("CT", "*"), ("US", "*"), ("BMD", "*")],
    &[("*", "*")],
    &[("MG", "BREAST"), ("DX", "*"), ("US", "*")],
    &[("CT", "HEAD"), ("MR", "HEAD"), ("CT", "SPINE"), ("MR", "SPINE")],
    &[("CT", "HEART"), ("PT", "*"), ("NM", "*")],
];

/// SplitMix64: a generator that follows from its seed and is good enough to draw a workload.
pub struct Draws(pub u64);

impl Draws {
    pub fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    }

    fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("below n")
    }
}

pub struct Network {
    pub draws: Draws,
    pub now: Time,
    pub readers: Vec<ReaderProfile>,
    sites: Vec<SiteId>,
    classes: [Urgency; 3],
    prior: Prior,
    tenant: TenantId,
    arrived: u64,
    /// Made ahead, so that drawing costs a decision nothing.
    ahead: Vec<Item>,
}

impl Network {
    pub fn new(seed: u64, readers: usize) -> Self {
        let mut draws = Draws(seed);
        let sites: Vec<SiteId> =
            (0..SITES).map(|n| format!("site-{n}").parse().expect("a site's id")).collect();
        let readers = (0..readers).map(|n| reader(n, &sites, &mut draws)).collect();
        let class = |minutes: u64, weight, prior, next_up| Urgency {
            target: Duration::from_secs(minutes * 60),
            weight,
            critical: 40,
            prior: Ppm::from_parts(prior).expect("a probability"),
            next_up,
            may_outwait: next_up,
        };
        Self {
            draws,
            now: Time(1_800_000_000_000_000),
            readers,
            sites,
            classes: [
                class(30, 90, 200_000, false),
                class(120, 18, 60_000, true),
                class(1_440, 2, 15_000, true),
            ],
            prior: Prior::default(),
            tenant: "network".parse().expect("a tenant's id"),
            arrived: 0,
            ahead: Vec::new(),
        }
    }

    /// A read that has waited for up to `minutes`; the more urgent classes for less.
    pub fn arrival(&mut self, minutes: u64) -> Item {
        if minutes == 0
            && let Some(item) = self.ahead.pop()
        {
            return Item { complete_at: self.now, waiting_since: self.now, ..item };
        }
        self.draw(minutes)
    }

    /// Draws `n` arrivals ahead.
    pub fn foresee(&mut self, n: usize) {
        let ahead: Vec<Item> = (0..n).map(|_| self.draw(0)).collect();
        self.ahead = ahead;
    }

    fn draw(&mut self, minutes: u64) -> Item {
        self.arrived += 1;
        let draws = &mut self.draws;
        let mut left = draws.below(1_000);
        let exam = EXAMS.iter().find(|(.., share)| {
            let found = left < *share;
            left = left.saturating_sub(*share);
            found
        });
        let (modality, body_part, _) = exam.expect("the shares add up to a thousand");
        let class = [2; 83].into_iter().chain([1; 14]).chain([0; 3]).nth(draws.index(100)).expect("of 100");
        let waited = draws.below(minutes * 60_000_000 / [48, 12, 1][class] + 1);
        // Most probabilities are small; products of two draws are.
        let said = draws.below(1_000) * draws.below(1_000);
        let site = self.sites[draws.index(SITES)].clone();
        let pools = vec![own_pool(&site), "center".parse().expect("a pool's id")];
        let Work { minutes: usual, points } = self.prior.work(&Exam::new(modality, body_part));
        let study = StudyUid::new(format!("1.2.{}", self.arrived)).expect("a UID");
        let complete_at = Time(self.now.0 - i64::try_from(waited).expect("a day"));
        Item {
            read: ReadId { case: CaseId::of(&self.tenant, &study), n: 1 },
            class: ["STAT", "URGENT", "ROUTINE"][class].parse().expect("a class"),
            urgency: self.classes[class],
            complete_at,
            waiting_since: complete_at,
            probability: Ppm::from_parts(u32::try_from(said).expect("below a million")).ok(),
            work: Work { minutes: usual, points },
            needs: Needs::new([modality], body_part, site, pools),
            excluded: Default::default(),
            prefers: None,
        }
    }

    /// A queue of `n` reads that have waited for up to a day.
    pub fn queue(&mut self, n: usize) -> Queue {
        let mut queue = Queue::default();
        for _ in 0..n {
            let item = self.arrival(1_440);
            assert!(queue.insert(item).is_none(), "reads have different ids");
        }
        queue
    }

    /// One decision: the next of the readers is given the first read that they may have. `None` if there is none.
    pub fn decide(&self, queue: &mut Queue, reader: usize) -> Option<Item> {
        let reader = &self.readers[reader % self.readers.len()];
        let read = queue.pick(reader, self.now)?.read.clone();
        queue.hand(&read, reader)
    }
}

fn own_pool(site: &SiteId) -> PoolId {
    format!("site:{site}").parse().expect("a pool's id")
}

/// Seven of ten are the center's and read for every site; the others are a site's own and read for a few.
fn reader(number: usize, sites: &[SiteId], draws: &mut Draws) -> ReaderProfile {
    let skills = SKILLS[draws.index(SKILLS.len())];
    let mut reader = ReaderProfile::new(format!("reader-{number}").parse().expect("a reader's id"));
    reader.skills = skills.iter().map(|(modality, body_part)| Skill::new(modality, body_part)).collect();
    reader.pace = 700 + u32::try_from(draws.below(600)).expect("below 600");
    reader.load = Load { points: 20_000, on_shift: Duration::from_secs(4 * 3600), target_rate: 5_000 };
    (reader.present, reader.accepting) = (true, true);
    if draws.below(10) < 7 {
        (reader.sites, reader.pools) = (Sites::All, ["center".parse().expect("a pool's id")].into());
        return reader;
    }
    let home = draws.index(sites.len());
    let near: BTreeSet<SiteId> = (0..4).map(|n| sites[(home + n) % sites.len()].clone()).collect();
    reader.home = Some(sites[home].clone());
    reader.pools = near.iter().map(own_pool).collect();
    reader.sites = Sites::Only(near);
    reader
}
