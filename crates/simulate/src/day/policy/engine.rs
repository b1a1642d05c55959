//! The engine itself, in the hands of the simulator as it is in the service's.

use std::{collections::BTreeSet, time::Duration};

use isocenter_assign::{
    Capacity, Duty, Idle, Item, Load, Needs, Params, Ppm, Queue, ReaderProfile, Sites, Skill, Urgency, Work,
    choose_idle,
    next_up::{self, Lease},
};
use isocenter_domain::{
    Time,
    id::{CaseId, ClassId, PoolId, ReadId, ReaderId, SiteId},
};

use super::{Counts, Policy};
use crate::day::{
    Workload,
    scenario::Category,
    world::{Desk, Hands, Room, place},
};

pub(super) struct Engine {
    queue: Queue,
    leases: bool,
    readers: Vec<Idle>,
    /// What each reader has leased ahead.
    leased: Vec<Option<(u32, Item, Lease)>>,
    holders: BTreeSet<u32>,
    /// When a read was last taken back for a better use.
    recalled_at: Vec<Option<Time>>,
    said: Vec<Option<Ppm>>,
    /// Who read the first study of a visit.
    opened_by: Vec<Option<u32>>,
    names: Names,
    given_back: Vec<u32>,
    counts: Counts,
}

/// What the engine calls things.
struct Names {
    case: CaseId,
    classes: Vec<(ClassId, Urgency)>,
    /// By site, then category.
    needs: Vec<Vec<Needs>>,
    work: Vec<Work>,
}

fn pool() -> PoolId {
    PoolId::new("everybody").expect("a name")
}

fn micros(time: i64) -> Duration {
    Duration::from_micros(u64::try_from(time).unwrap_or(0))
}

fn skill(category: &Category) -> Skill {
    let body_part = if category.body_part.is_empty() { "*" } else { &category.body_part };
    Skill::new(&category.modality, body_part)
}

impl Names {
    fn of(workload: &Workload) -> Self {
        let scenario = &workload.scenario;
        let class = |class: &crate::day::scenario::Class| {
            let urgency = Urgency {
                target: micros(class.deadline),
                weight: class.weight,
                critical: class.kappa,
                prior: Ppm::of(class.critical).expect("a share"),
                next_up: !class.immediate,
                may_outwait: !class.immediate,
            };
            (ClassId::new(&class.name).expect("checked when the scenario was read"), urgency)
        };
        let needs = |site: &str| {
            let site = SiteId::new(site).expect("checked when the scenario was read");
            let of = |category: &Category| {
                Needs::new([&category.modality], &category.body_part, site.clone(), vec![pool()])
                    .of_a_child(category.paediatric)
            };
            scenario.categories.iter().map(of).collect()
        };
        let work =
            |study: &crate::day::Study| Work::new(micros(study.expected), study.points).expect("checked");
        Self {
            case: CaseId::new("csimulatedsimulatedsimulat").expect("c and 25 letters"),
            classes: scenario.classes.iter().map(class).collect(),
            needs: scenario.sites.iter().map(|site| needs(&site.name)).collect(),
            work: workload.studies.iter().map(work).collect(),
        }
    }
}

fn profile(workload: &Workload, number: usize) -> ReaderProfile {
    let (scenario, reader) = (&workload.scenario, &workload.readers[number]);
    let mut profile = ReaderProfile::new(ReaderId::new(format!("reader-{number:05}")).expect("a name"));
    let read = scenario.categories.iter().enumerate().filter(|(bit, _)| reader.skills >> bit & 1 == 1);
    for (_, category) in read {
        profile.skills.insert(skill(category));
        profile.paediatric |= category.paediatric;
    }
    profile.sites = Sites::All;
    profile.home = SiteId::new(&scenario.sites[usize::from(reader.site)].name).ok();
    profile.pools = [pool()].into();
    // The simulated shift ends by itself; a reader who has only just begun a reading finishes it.
    profile.capacity =
        Capacity { soft_time: micros(i64::MAX), hard_time: micros(i64::MAX), ..Capacity::default() };
    profile
}

impl Engine {
    pub fn new(workload: &Workload, params: Params, leases: bool) -> Self {
        let readers = workload.readers.len();
        let studies = workload.studies.len();
        let idle = |number| Idle { reader: profile(workload, number), since: Time::ZERO };
        Self {
            queue: Queue::new(params),
            leases,
            readers: (0..readers).map(idle).collect(),
            leased: vec![None; readers],
            holders: BTreeSet::new(),
            recalled_at: vec![None; studies],
            said: vec![None; studies],
            opened_by: vec![None; studies],
            names: Names::of(workload),
            given_back: Vec::new(),
            counts: Counts::default(),
        }
    }

    /// All are reads of one case; the number of the study tells them apart.
    fn read_id(&self, study: u32) -> ReadId {
        ReadId { case: self.names.case.clone(), n: study + 1 }
    }

    fn number(item: &Item) -> u32 {
        item.read.n - 1
    }

    fn item(&self, study: u32, now: i64, room: &Room) -> Item {
        let seen = &room.workload.studies[place(study)];
        let (class, urgency) = self.names.classes[usize::from(seen.class)].clone();
        let first = seen.visit.and_then(|first| self.opened_by[place(first)]);
        Item {
            read: self.read_id(study),
            class,
            urgency,
            complete_at: Time(seen.arrived),
            waiting_since: Time(if self.opened_by[place(study)].is_some() { now } else { seen.arrived }),
            probability: self.said[place(study)],
            work: self.names.work[place(study)],
            needs: self.names.needs[usize::from(seen.site)][usize::from(seen.category)].clone(),
            excluded: std::collections::BTreeMap::new(),
            prefers: first.map(|reader| self.readers[place(reader)].reader.id.clone()),
        }
    }

    /// What the service knows of a reader at `now`.
    fn refresh(&mut self, reader: u32, now: i64, room: &Room) {
        let desk: &Desk = &room.desks[place(reader)];
        let idle = &mut self.readers[place(reader)];
        let profile = &mut idle.reader;
        profile.present = desk.works();
        profile.accepting = desk.works();
        profile.duty = desk
            .shift
            .map_or(Duty::Off, |(since, until)| Duty::On { since: Time(since), until: Time(until) });
        let on_shift = desk.shift.map_or(0, |(since, _)| now - since);
        let target_rate = 6_000;
        profile.load = Load { points: desk.points, on_shift: micros(on_shift), target_rate };
        profile.holding.offered = 0;
        profile.holding.open = u32::from(matches!(desk.hands, Hands::Reading(_)));
        if let Hands::Idle(since) = desk.hands {
            idle.since = Time(since);
        }
    }

    fn end_lease(&mut self, holder: u32) -> Option<(u32, Item, Lease)> {
        self.holders.remove(&holder);
        self.leased[place(holder)].take()
    }

    fn give_back(&mut self, holder: u32) {
        if let Some((study, ..)) = self.end_lease(holder) {
            self.counts.recalled += 1;
            self.given_back.push(study);
        }
    }

    /// Puts back the leases that must not stand any longer, whoever may want them.
    fn lapse(&mut self, now: Time) {
        let params = self.queue.params();
        let lapsed = |holder: &u32| {
            let (_, item, _) = self.leased[place(*holder)].as_ref()?;
            let mut profile = self.readers[place(*holder)].reader.clone();
            profile.holding.offered = 1;
            next_up::lapsed(params, item, Some(&profile), now).map(|_| *holder)
        };
        // Only those in the front lane can have changed: a reader who goes gives back what they have at once.
        let front = |holder: &&u32| {
            let lease = self.leased[place(**holder)].as_ref();
            lease.is_some_and(|(_, item, _)| {
                params.front_at(&item.urgency, item.complete_at).is_some_and(|at| at <= now)
            })
        };
        let ended: Vec<u32> = self.holders.iter().filter(front).filter_map(lapsed).collect();
        for holder in ended {
            if let Some((_, item, _)) = self.end_lease(holder) {
                self.counts.recalled += 1;
                self.queue.insert(item);
            }
        }
    }

    /// The lease of a busy colleague that `free` is given instead of what waits.
    fn better_use(&self, free: u32, instead: Option<&Item>, now: Time, room: &Room) -> Option<u32> {
        let params = self.queue.params();
        let reader = &self.readers[place(free)].reader;
        let index = |item: &Item| params.index_of(item, Some(reader), now).value;
        let granted = self.holders.iter().filter_map(|holder| {
            let (study, item, lease) = self.leased[place(*holder)].as_ref()?;
            if now.since(lease.since) < params.recall.rest || !room.reads(free, *study) {
                return None;
            }
            let profile = &self.readers[place(*holder)].reader;
            next_up::better_use(params, (item, lease), profile, (reader, instead), now)?;
            Some((index(item), *holder))
        });
        granted.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, holder)| holder)
    }
}

impl Policy for Engine {
    fn add(&mut self, study: u32, now: i64, room: &Room) -> Option<u32> {
        let item = self.item(study, now, room);
        for reader in &room.idle {
            self.refresh(*reader, now, room);
        }
        let idle = room.idle.iter().map(|reader| &self.readers[place(*reader)]);
        let chosen = choose_idle(&item, idle, Time(now)).map(|idle| &idle.reader.id);
        let number =
            chosen.map(|id| id.as_str().trim_start_matches("reader-").parse().expect("made of a number"));
        if number.is_none() {
            self.queue.insert(item);
        }
        number
    }

    fn answer(&mut self, study: u32, probability: f64, _flagged: bool, _now: i64, _room: &Room) {
        // What is no probability promotes nothing.
        let Ok(probability) = Ppm::of(probability) else { return };
        self.said[place(study)] = Some(probability);
        if let Some(item) = self.queue.get(&self.read_id(study)).cloned() {
            self.queue.insert(Item { probability: Some(probability), ..item });
        }
        let holds = self
            .holders
            .iter()
            .find(|h| self.leased[place(**h)].as_ref().is_some_and(|l| l.0 == study))
            .copied();
        if let Some((_, item, _)) = holds.and_then(|holder| self.leased[place(holder)].as_mut()) {
            item.probability = Some(probability);
        }
    }

    fn pull(&mut self, reader: u32, now: i64, room: &Room) -> Option<(u32, bool)> {
        self.refresh(reader, now, room);
        let now = Time(now);
        if self.leases {
            self.lapse(now);
        }
        let profile = self.readers[place(reader)].reader.clone();
        let pick = self.queue.pick(&profile, now).cloned();
        if let Some((study, leased, _)) = &self.leased[place(reader)] {
            let params = self.queue.params();
            let outranks = |pick| next_up::outranked(params, leased, pick, &profile, now);
            let (study, swap) = (*study, pick.as_ref().is_some_and(outranks));
            if !swap {
                self.end_lease(reader);
                return Some((study, true));
            }
            self.give_back(reader);
        } else if self.leases
            && let Some(holder) = self.better_use(reader, pick.as_ref(), now, room)
            && let Some((study, ..)) = self.end_lease(holder)
        {
            self.counts.recalled += 1;
            self.recalled_at[place(study)] = Some(now);
            return Some((study, false));
        }
        let pick = pick?;
        self.queue.hand(&pick.read, &profile);
        Some((Self::number(&pick), false))
    }

    fn opened(&mut self, reader: u32, study: u32, now: i64, room: &Room) {
        self.opened_by[place(study)] = Some(reader);
        self.refresh(reader, now, room);
        if !self.leases || self.leased[place(reader)].is_some() {
            return;
        }
        let now = Time(now);
        let next = self.queue.next_up(&self.readers[place(reader)].reader, now).map(|item| item.read.clone());
        let holder = &self.readers[place(reader)].reader;
        if let Some(item) = next.and_then(|read| self.queue.hand(&read, holder)) {
            let study = Self::number(&item);
            let lease = Lease {
                reader: self.readers[place(reader)].reader.id.clone(),
                since: now,
                recalled_at: self.recalled_at[place(study)],
            };
            self.leased[place(reader)] = Some((study, item, lease));
            self.holders.insert(reader);
            self.counts.leased += 1;
        }
    }

    fn given_back(&mut self) -> Vec<u32> {
        std::mem::take(&mut self.given_back)
    }

    fn leave(&mut self, reader: u32, now: i64, room: &Room) -> Vec<u32> {
        self.refresh(reader, now, room);
        self.give_back(reader);
        self.given_back()
    }

    fn counts(&self) -> Counts {
        self.counts
    }
}
