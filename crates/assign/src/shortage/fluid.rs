//! Work that flows to readers, step by step.

use std::{cmp::Reverse, collections::BTreeMap, sync::Arc, time::Duration};

use isocenter_domain::id::{ClassId, PoolId};

use super::{Demand, Horizon, Supply};
use crate::{
    ReaderProfile, Skill, Urgency, filter,
    interned::{Answers, Interned},
    item::{Competence, Needs},
};

/// Work that the same readers can do: in microseconds at even pace.
#[derive(Debug)]
struct Stream {
    key: Key,
    /// What comes in each step; what waits comes in the first.
    cohorts: Vec<u64>,
    waiting: u64,
    /// Work times age of what waits.
    aged: u128,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Key {
    class: ClassId,
    urgency: Urgency,
    pools: Arc<Vec<PoolId>>,
    competence: Arc<Competence>,
    /// Which readers can do it.
    readers: Vec<bool>,
}

/// Readers who can do the same: which streams, and how much in each step.
#[derive(Clone, Debug)]
struct Group {
    streams: Vec<bool>,
    capacity: Vec<u64>,
}

#[derive(Debug)]
pub(super) struct Fluid {
    steps: usize,
    step: u64,
    streams: Vec<Stream>,
    groups: Vec<Group>,
}

/// What became of each stream's cohorts.
#[derive(Debug)]
pub(super) struct Served {
    done: Vec<Vec<Option<usize>>>,
    late: Vec<Vec<u64>>,
}

impl Fluid {
    pub fn new(demands: &[Demand], supply: &[Supply], horizon: &Horizon) -> Self {
        let streams = streams(demands, supply, horizon);
        let mut groups: BTreeMap<Vec<bool>, Vec<u64>> = BTreeMap::new();
        for (number, reader) in supply.iter().enumerate() {
            let can: Vec<bool> = streams.iter().map(|stream| stream.key.readers[number]).collect();
            let capacity = groups.entry(can).or_insert_with(|| vec![0; horizon.steps]);
            for (sum, on_duty) in capacity.iter_mut().zip(&reader.on_duty) {
                *sum = sum.saturating_add(at_even_pace(*on_duty, reader.reader.pace));
            }
        }
        let groups = groups.into_iter().map(|(streams, capacity)| Group { streams, capacity }).collect();
        Self { steps: horizon.steps, step: micros(horizon.step).max(1), streams, groups }
    }

    /// Which streams each class has in each first pool.
    pub fn by_class_and_pool(&self) -> BTreeMap<(ClassId, PoolId), Vec<usize>> {
        let mut found: BTreeMap<_, Vec<usize>> = BTreeMap::new();
        for (number, stream) in self.streams.iter().enumerate() {
            if let Some(pool) = stream.key.pools.first() {
                found.entry((stream.key.class.clone(), pool.clone())).or_default().push(number);
            }
        }
        found
    }

    /// The skill that a stream asks for: in all modalities where it has several.
    pub fn skill(&self, stream: usize) -> Skill {
        let competence = &self.streams[stream].key.competence;
        let any = |code: &str| if code.is_empty() { "*".to_owned() } else { code.to_owned() };
        let mut modalities = competence.modalities.iter();
        let modality = match (modalities.next(), modalities.next()) {
            (Some(only), None) => any(only),
            (_, Some(_)) | (None, None) => "*".to_owned(),
        };
        Skill::new(&modality, &any(&competence.body_part))
    }

    /// Lets the readers work, with one more of that skill in that pool if one is named.
    pub fn serve(&self, more: Option<(&Skill, &PoolId)>) -> Served {
        let mut groups = self.groups.clone();
        groups.extend(more.map(|(skill, pool)| self.one_more(skill, pool)));
        // The least flexible first.
        groups.sort_by_key(|group| group.streams.iter().filter(|can| **can).count());
        let order = self.order(&groups);
        let mut left: Vec<Vec<u64>> = self.streams.iter().map(|stream| stream.cohorts.clone()).collect();
        let mut served = Served {
            done: left.iter().map(|cohorts| vec![None; cohorts.len()]).collect(),
            late: left.iter().map(|cohorts| vec![0; cohorts.len()]).collect(),
        };
        self.note_late(&mut served, &left, None);
        for step in 0..self.steps {
            let mut capacity: Vec<u64> = groups.iter().map(|group| group.capacity[step]).collect();
            for stream in &order {
                let able = groups.iter().zip(&mut capacity).filter(|(group, _)| group.streams[*stream]);
                for (_, capacity) in able {
                    drain(&mut left[*stream], &mut served.done[*stream], step, capacity);
                }
            }
            self.note_late(&mut served, &left, Some(step));
        }
        served
    }

    /// The more urgent class first, then what fewer hours can be found for.
    fn order(&self, groups: &[Group]) -> Vec<usize> {
        let hours = |stream: usize| -> u64 {
            let able = groups.iter().filter(|group| group.streams[stream]);
            able.flat_map(|group| &group.capacity).fold(0, |sum, step| sum.saturating_add(*step))
        };
        let mut order: Vec<usize> = (0..self.streams.len()).collect();
        order.sort_by_cached_key(|stream| {
            let urgency = &self.streams[*stream].key.urgency;
            (urgency.next_up, urgency.target, Reverse(urgency.weight), hours(*stream), *stream)
        });
        order
    }

    fn one_more(&self, skill: &Skill, pool: &PoolId) -> Group {
        let can = |stream: &Stream| {
            let Competence { modalities, body_part, .. } = &*stream.key.competence;
            let covers = |modality: &str| skill.covers(modality, body_part);
            let skilled =
                if modalities.is_empty() { covers("") } else { modalities.iter().all(|m| covers(m)) };
            skilled && stream.key.pools.contains(pool)
        };
        Group { streams: self.streams.iter().map(can).collect(), capacity: vec![self.step; self.steps] }
    }

    /// Notes what is left of the cohorts whose last step in time is `step`; `None`: is over already.
    fn note_late(&self, served: &mut Served, left: &[Vec<u64>], step: Option<usize>) {
        for ((stream, left), late) in self.streams.iter().zip(left).zip(&mut served.late) {
            for (cohort, (left, late)) in left.iter().zip(late).enumerate() {
                if self.last_in_time(stream, cohort) == step {
                    *late = *left;
                }
            }
        }
    }

    fn last_in_time(&self, stream: &Stream, cohort: usize) -> Option<usize> {
        let target = micros(stream.key.urgency.target);
        let age = if cohort == 0 { stream.mean_age() } else { 0 };
        let steps = target.checked_sub(age).filter(|left| *left > 0)? / self.step;
        Some(cohort.saturating_add(usize::try_from(steps).unwrap_or(usize::MAX)))
    }
}

impl Stream {
    fn mean_age(&self) -> u64 {
        u64::try_from(self.aged / u128::from(self.waiting.max(1))).unwrap_or(u64::MAX)
    }
}

impl Served {
    /// How many steps after its own the last of a cohort is taken up; none: not within the horizon.
    pub fn wait(&self, stream: usize, cohort: usize) -> Option<u32> {
        self.done[stream][cohort].map(|done| u32::try_from(done.saturating_sub(cohort)).unwrap_or(u32::MAX))
    }

    /// The work of a stream that is late.
    pub fn late(&self, stream: usize) -> u64 {
        self.late[stream].iter().fold(0, |sum, late| sum.saturating_add(*late))
    }

    /// The first cohort of a stream of which some is late.
    pub fn first_late(&self, stream: usize) -> Option<usize> {
        self.late[stream].iter().position(|late| *late > 0)
    }
}

/// Takes up the cohorts that have come, the older first.
fn drain(left: &mut [u64], done: &mut [Option<usize>], step: usize, capacity: &mut u64) {
    for (left, done) in left.iter_mut().zip(done).take(step + 1) {
        if *capacity == 0 {
            return;
        }
        let taken = (*left).min(*capacity);
        *left -= taken;
        *capacity -= taken;
        if *left == 0 {
            done.get_or_insert(step);
        }
    }
}

/// The demands, those together that the same readers can do.
fn streams(demands: &[Demand], supply: &[Supply], horizon: &Horizon) -> Vec<Stream> {
    let mut streams: BTreeMap<Key, Stream> = BTreeMap::new();
    let able = Able::new(demands, supply, horizon);
    for (number, demand) in demands.iter().enumerate() {
        let key = Key {
            class: demand.class.clone(),
            urgency: demand.urgency,
            pools: Arc::clone(&demand.needs.pools),
            competence: Arc::clone(&demand.needs.competence),
            readers: able.readers(number),
        };
        let stream = streams.entry(key.clone()).or_insert_with(|| Stream {
            key,
            cohorts: vec![0; horizon.steps],
            waiting: 0,
            aged: 0,
        });
        let waiting = micros(demand.waiting);
        stream.waiting = stream.waiting.saturating_add(waiting);
        stream.aged = stream.aged.saturating_add(u128::from(waiting) * demand.age.as_micros());
        let coming = std::iter::once(waiting).chain(std::iter::repeat(0));
        let arriving = demand.arriving.iter().copied().chain(std::iter::repeat(Duration::ZERO));
        for ((cohort, coming), arriving) in stream.cohorts.iter_mut().zip(coming).zip(arriving) {
            *cohort = cohort.saturating_add(coming).saturating_add(micros(arriving));
        }
    }
    streams.into_values().collect()
}

/// Which readers can do which demands. Each reader is asked once about each different competence, place and list of
/// pools, as in the queue.
struct Able {
    demands: Vec<(u32, u32, u32)>,
    readers: Vec<[Answers; 3]>,
}

impl Able {
    fn new(demands: &[Demand], supply: &[Supply], horizon: &Horizon) -> Self {
        let (mut competences, mut places) = (Interned::default(), Interned::default());
        let mut pools = Interned::default();
        let numbers = |needs: &Needs| {
            let mut needs = needs.clone();
            let competence = competences.take(&mut needs.competence);
            (competence, places.take(&mut needs.place), pools.take(&mut needs.pools))
        };
        let demands = demands.iter().map(|demand| &demand.needs).map(numbers).collect();
        let ask = |reader: &ReaderProfile| {
            let mut answers: [Answers; 3] = Default::default();
            competences.ask(&mut answers[0], |c| filter::competent(c, reader).is_ok());
            places.ask(&mut answers[1], |place| filter::placed(place, reader, horizon.from).is_ok());
            pools.ask(&mut answers[2], |pools| filter::pools(pools, reader).is_ok());
            answers
        };
        Self { demands, readers: supply.iter().map(|supply| ask(&supply.reader)).collect() }
    }

    fn readers(&self, demand: usize) -> Vec<bool> {
        let (competence, place, pools) = self.demands[demand];
        let can = |[c, p, l]: &[Answers; 3]| c.of(competence) && p.of(place) && l.of(pools);
        self.readers.iter().map(can).collect()
    }
}

fn at_even_pace(on_duty: Duration, pace: u32) -> u64 {
    let even = u128::from(ReaderProfile::EVEN_PACE);
    u64::try_from(on_duty.as_micros() * even / u128::from(pace.max(1))).unwrap_or(u64::MAX)
}

fn micros(d: Duration) -> u64 {
    u64::try_from(d.as_micros()).unwrap_or(u64::MAX)
}
