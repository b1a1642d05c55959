//! The engine's own queue in the place of the simulator's line.
//!
//! Strict classes are an order of the engine too: weights so far apart that no age outweighs them, deadlines so long that no
//! guard ever acts. So the queue of the live service is what the closed forms judge.

use std::{collections::BTreeMap, time::Duration};

use isocenter_assign::{Item, Needs, Params, Ppm, Queue, ReaderProfile, Sites, Skill, Urgency, Work};
use isocenter_domain::{
    Time,
    id::{CaseId, ClassId, PoolId, ReadId, ReaderId, SiteId},
};

use super::{
    Model, Question, QueueError,
    model::{Job, Line, Ranks, Replication},
};
use crate::random::Random;

/// Studies that are read with both lines.
const CHECKED: u64 = 5_000;
/// Far beyond what any study of the check waits.
const DEADLINE: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
/// Each rank outweighs the next by more than any two ages of the check differ: from the head start of five minutes to
/// the sum of all reading.
const WEIGHTS: [u32; 3] = [u32::MAX, 60_000, 1];

/// Reads some studies twice, once with each line, and compares every one.
pub(super) fn check(model: &Model, question: &Question) -> Result<u64, QueueError> {
    let studies = CHECKED.min(question.studies);
    let draws = || Random::new(question.seed, "engine");
    let mut own: Vec<(u64, i64)> = Vec::new();
    Replication::new(model, Ranks::default(), draws(), 0)
        .run(studies, |job, wait| own.push((job.number, wait)));
    let mut differs = None;
    let mut place = 0;
    Replication::new(model, EngineLine::new(), draws(), 0).run(studies, |job, wait| {
        if differs.is_none() && own.get(place) != Some(&(job.number, wait)) {
            differs = Some(place);
        }
        place += 1;
    });
    differs.map_or(Ok(studies), |place| Err(QueueError::EngineDiffers(place)))
}

/// A waiting line that is the engine's queue.
struct EngineLine {
    queue: Queue,
    reader: ReaderProfile,
    needs: Needs,
    case: CaseId,
    class: ClassId,
    jobs: BTreeMap<u32, Job>,
}

impl EngineLine {
    fn new() -> Self {
        let params = Params {
            front_percent: None,
            patience: None,
            immediate_first: false,
            knee: 1.0,
            steepness: 1.0,
            ..Params::default()
        };
        let pool = PoolId::new("everybody").expect("a name");
        let site = SiteId::new("everywhere").expect("a name");
        let mut reader = ReaderProfile::new(ReaderId::new("server").expect("a name"));
        reader.skills.insert(Skill::new("*", "*"));
        reader.sites = Sites::All;
        reader.pools = [pool.clone()].into();
        (reader.present, reader.accepting) = (true, true);
        Self {
            queue: Queue::new(params),
            reader,
            needs: Needs::new(["CT"], "", site, vec![pool]),
            case: CaseId::new("csimulatedsimulatedsimulat").expect("c and 25 letters"),
            class: ClassId::new("CLASS").expect("upper-case letters"),
            jobs: BTreeMap::new(),
        }
    }

    fn item(&self, job: &Job) -> Item {
        let urgency = Urgency {
            target: DEADLINE,
            weight: WEIGHTS[job.rank],
            critical: 0,
            prior: Ppm::ZERO,
            next_up: true,
            may_outwait: false,
        };
        Item {
            read: ReadId { case: self.case.clone(), n: number(job) + 1 },
            class: self.class.clone(),
            urgency,
            complete_at: Time(job.arrived),
            waiting_since: Time(job.arrived),
            probability: None,
            work: Work::new(Duration::from_secs(600), 1000).expect("ten minutes"),
            needs: self.needs.clone(),
            excluded: BTreeMap::new(),
            prefers: None,
        }
    }
}

fn number(job: &Job) -> u32 {
    u32::try_from(job.number).expect("a check is short")
}

impl Line for EngineLine {
    fn push(&mut self, job: Job) {
        self.queue.insert(self.item(&job));
        self.jobs.insert(number(&job), job);
    }

    fn pop(&mut self, now: i64) -> Option<Job> {
        let read = self.queue.pick(&self.reader, Time(now))?.read.clone();
        self.queue.remove(&read);
        self.jobs.remove(&(read.n - 1))
    }
}
