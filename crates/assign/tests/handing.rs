//! Handing out, as the live service does it: offers, next-up leases, opening, returning, signing and vanishing, in any
//! order, with every invariant looked at after each step.

mod common;

use std::collections::{BTreeMap, BTreeSet};

use common::{Draft, PLAIN, Person, READERS, at, draft, people};
use isocenter_assign::{
    Exclusion, Idle, Item, Lane, Queue, ReaderProfile, choose_idle, filter,
    next_up::{self, Lease, Recalled},
};
use isocenter_domain::{
    Time,
    id::{ReadId, ReaderId},
};
use proptest::prelude::*;

#[derive(Clone, Debug)]
enum Step {
    /// A study completes: its read goes to who is idle, or waits.
    Arrive(Draft),
    /// A reader asks for work.
    Ask(usize),
    /// A reader opens what was offered.
    Open(usize),
    Sign(usize),
    Return(usize),
    /// The workstation is gone: offers and leases go back, what is open stays.
    Vanish(usize),
    Appear(usize),
    /// Minutes pass.
    Pass(i64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let who = 0..READERS;
    let step = prop_oneof![
        5 => draft().prop_map(Step::Arrive),
        4 => who.clone().prop_map(Step::Ask),
        3 => who.clone().prop_map(Step::Open),
        2 => who.clone().prop_map(Step::Sign),
        1 => who.clone().prop_map(Step::Return),
        1 => who.clone().prop_map(Step::Vanish),
        1 => who.prop_map(Step::Appear),
        3 => (1..30i64).prop_map(Step::Pass),
    ];
    prop::collection::vec(step, 1..80)
}

/// A desk that obeys the engine.
struct Desk {
    queue: Queue,
    readers: Vec<ReaderProfile>,
    offered: BTreeMap<ReaderId, (Item, Lease)>,
    open: BTreeMap<ReaderId, Item>,
    signed: BTreeSet<ReadId>,
    arrived: BTreeMap<ReadId, Time>,
    /// When each read was taken back for a better use.
    recalls: BTreeMap<ReadId, Vec<Time>>,
    asked: BTreeSet<ReaderId>,
    now: Time,
}

impl Desk {
    fn new(people: &[Person]) -> Self {
        let profile = |(n, person): (usize, &Person)| {
            let mut profile = person.profile(n, PLAIN);
            profile.holding.offered = 0;
            profile
        };
        Self {
            queue: Queue::default(),
            readers: people.iter().enumerate().map(profile).collect(),
            offered: BTreeMap::new(),
            open: BTreeMap::new(),
            signed: BTreeSet::new(),
            arrived: BTreeMap::new(),
            recalls: BTreeMap::new(),
            asked: BTreeSet::new(),
            now: at(0),
        }
    }

    /// A reader as of now, with what the desk knows to be in hand.
    fn profile(&self, reader: usize) -> ReaderProfile {
        let mut profile = self.readers[reader].clone();
        profile.holding.offered = u32::from(self.offered.contains_key(&profile.id));
        profile.holding.open = u32::from(self.open.contains_key(&profile.id));
        profile
    }

    fn offer(&mut self, to: &ReaderProfile, item: Item) -> Result<(), TestCaseError> {
        // Invariant 2: what is handed out passes every hard filter at this moment.
        if to.holding.open == 0 {
            prop_assert_eq!(filter::eligible(&item, to, self.now), Ok(()));
        } else {
            prop_assert_eq!(next_up::may_lease(to, self.now), Ok(()));
            prop_assert_eq!(filter::openable(&item, to, self.now), Ok(()));
            prop_assert!(item.urgency.next_up, "an immediate class is never leased ahead");
        }
        let recalled_at = self.recalls.get(&item.read).and_then(|times| times.last()).copied();
        let lease = Lease { reader: to.id.clone(), since: self.now, recalled_at };
        let before = self.offered.insert(to.id.clone(), (item, lease));
        prop_assert!(before.is_none(), "a reader has one offer");
        self.asked.remove(&to.id);
        Ok(())
    }

    fn arrive(&mut self, draft: Draft) -> Result<(), TestCaseError> {
        let read = u32::try_from(self.arrived.len()).unwrap();
        let item =
            Item { complete_at: self.now, waiting_since: self.now, ..Draft { read, ..draft }.item(PLAIN) };
        self.arrived.insert(item.read.clone(), item.complete_at);
        drop(self.queue.insert(item));
        self.settle()
    }

    /// What waits goes to who asked and got nothing: the choice among them is the engine's.
    fn settle(&mut self) -> Result<(), TestCaseError> {
        loop {
            let idle: Vec<Idle> = (0..READERS)
                .map(|n| self.profile(n))
                .filter(|r| self.asked.contains(&r.id))
                .map(|reader| Idle { reader, since: self.now })
                .collect();
            let chosen = self.queue.items().find_map(|item| {
                Some((item.read.clone(), choose_idle(item, &idle, self.now)?.reader.clone()))
            });
            let Some((read, reader)) = chosen else { return Ok(()) };
            let item = self.queue.remove(&read).unwrap();
            self.offer(&reader, item)?;
        }
    }

    fn ask(&mut self, reader: usize) -> Result<(), TestCaseError> {
        let profile = self.profile(reader);
        if profile.holding.open > 0 {
            let leased = self.queue.next_up(&profile, self.now).map(|item| item.read.clone());
            let item = leased.and_then(|read| self.queue.remove(&read));
            return item.map_or(Ok(()), |item| self.offer(&profile, item));
        }
        if filter_free(&profile, self.now) {
            let picked = self.queue.pick(&profile, self.now).map(|item| item.read.clone());
            let item = match self.recall(&profile, picked.as_ref()) {
                Some(item) => Some(item),
                None => picked.and_then(|read| self.queue.remove(&read)),
            };
            match item {
                Some(item) => self.offer(&profile, item)?,
                None => drop(self.asked.insert(profile.id)),
            }
        }
        Ok(())
    }

    /// A leased read that `free` makes more of.
    fn recall(&mut self, free: &ReaderProfile, picked: Option<&ReadId>) -> Option<Item> {
        let instead = picked.and_then(|read| self.queue.get(read));
        let holders: BTreeMap<_, _> =
            (0..READERS).map(|n| self.profile(n)).map(|r| (r.id.clone(), r)).collect();
        let better = self.offered.iter().find(|(reader, (item, lease))| {
            let holder = &holders[*reader];
            next_up::better_use(self.queue.params(), (item, lease), holder, (free, instead), self.now)
                == Some(Recalled::BetterUse)
        });
        let holder = better.map(|(reader, _)| reader.clone())?;
        let (item, _) = self.offered.remove(&holder)?;
        self.recalls.entry(item.read.clone()).or_default().push(self.now);
        Some(item)
    }

    fn requeue(&mut self, item: Item) {
        let waiting_since = self.now;
        drop(self.queue.insert(Item { waiting_since, ..item }));
    }

    /// Leases whose holder cannot have them any more, or which may not be leased any more, go back.
    fn lapse(&mut self) {
        let holders: Vec<_> = (0..READERS).map(|n| self.profile(n)).collect();
        for holder in &holders {
            let Some((item, _)) = self.offered.get(&holder.id) else { continue };
            if next_up::lapsed(self.queue.params(), item, Some(holder), self.now).is_some() {
                let (item, _) = self.offered.remove(&holder.id).unwrap();
                self.requeue(item);
            }
        }
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Arrive(draft) => self.arrive(draft)?,
            Step::Ask(reader) => self.ask(reader)?,
            Step::Open(reader) => {
                let reader = self.profile(reader);
                let fit = |item: &Item| filter::openable(item, &reader, self.now).is_ok();
                let opens = self.offered.get(&reader.id).is_some_and(|(item, _)| fit(item));
                if opens && reader.holding.open == 0 {
                    let (item, _) = self.offered.remove(&reader.id).unwrap();
                    prop_assert!(self.open.insert(reader.id, item).is_none());
                }
            }
            Step::Sign(reader) => {
                let signed = self.open.remove(&self.readers[reader].id);
                self.signed.extend(signed.map(|item| item.read));
            }
            Step::Return(reader) => {
                let id = self.readers[reader].id.clone();
                if let Some(mut item) = self.open.remove(&id) {
                    item.excluded.insert(id, Exclusion::Returned);
                    self.requeue(item);
                }
            }
            Step::Vanish(reader) => {
                self.readers[reader].present = false;
                self.asked.remove(&self.readers[reader].id);
            }
            Step::Appear(reader) => self.readers[reader].present = true,
            Step::Pass(minutes) => self.now = Time(self.now.0 + minutes * common::MINUTE),
        }
        self.lapse();
        self.settle()
    }

    fn check(&mut self, before: &BTreeMap<ReaderId, Item>, step: &Step) -> Result<(), TestCaseError> {
        // Invariants 1 and 3: every read in one place, one reader for each.
        let mut places: Vec<&ReadId> = self.queue.items().map(|item| &item.read).collect();
        places.extend(self.offered.values().map(|(item, _)| &item.read));
        places.extend(self.open.values().map(|item| &item.read));
        places.extend(&self.signed);
        places.sort();
        prop_assert!(places.into_iter().eq(self.arrived.keys()));
        // Invariant 8: original age, whoever held it.
        for item in self.queue.items().chain(self.offered.values().map(|(item, _)| item)) {
            prop_assert_eq!(item.complete_at, self.arrived[&item.read]);
        }
        // Invariant 5: what is open goes only as its reader signs or returns it.
        for (reader, item) in before {
            let ended = match step {
                Step::Sign(n) | Step::Return(n) => self.readers[*n].id == *reader,
                Step::Arrive(_)
                | Step::Ask(_)
                | Step::Open(_)
                | Step::Vanish(_)
                | Step::Appear(_)
                | Step::Pass(_) => false,
            };
            prop_assert_eq!(self.open.get(reader).map(|open| &open.read) == Some(&item.read), !ended);
        }
        // Invariant 4: nobody who asked is idle while something waits that they may have.
        for n in 0..READERS {
            let reader = self.profile(n);
            if self.asked.contains(&reader.id) {
                prop_assert!(self.queue.pick(&reader, self.now).is_none(), "{} is idle", reader.id);
            }
        }
        // Invariant 12: taken back for a better use at most once in a window.
        for times in self.recalls.values() {
            let window = self.queue.params().recall.window;
            prop_assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) >= window));
        }
        // Leases: one beside one open read, never of an immediate class, never kept in the front lane.
        for (reader, (item, _)) in &self.offered {
            if self.open.contains_key(reader) {
                prop_assert!(item.urgency.next_up);
                let lane = self.queue.params().lane(&item.urgency, item.complete_at, self.now);
                prop_assert_eq!(lane, Lane::Regular);
            }
        }
        Ok(())
    }
}

/// Whether the reader may have anything at all.
fn filter_free(reader: &ReaderProfile, now: Time) -> bool {
    let all = Draft { pools: vec![], ..Draft::plain(0, 2, 0) }.item(PLAIN);
    let momentary = filter::rejections(&all, reader, now).into_iter().any(|r| r.is_momentary());
    !momentary
}

proptest! {
    #[test]
    fn whatever_happens_each_read_is_in_one_place_with_one_reader_who_may_have_it(
        people in people(), steps in steps(),
    ) {
        let mut desk = Desk::new(&people);
        for step in steps {
            let open = desk.open.clone();
            desk.step(step.clone())?;
            desk.check(&open, &step)?;
        }
    }
}
