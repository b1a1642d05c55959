//! What is predicted of the next hours: how long reads of each class will wait in each pool, and which skill would help.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
    time::Duration,
};

use isocenter_assign::{
    Item, Needs, Parked, Queue, Rejection, Urgency,
    shortage::{self, Demand, Horizon, Supply},
};
use isocenter_domain::{
    Time,
    id::{ClassId, PoolId, TenantId},
    key::ReadKey,
};
use isocenter_wire::{duration, timestamp, v1};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{desk::Desk, view::View};

/// How often it is looked ahead.
const EVERY: Duration = Duration::from_secs(30);
/// How long one step is.
const STEP: Duration = Duration::from_secs(30 * 60);
/// How many steps: eight hours, a shift.
const STEPS: usize = 16;
/// What came lately is what will come.
const LATELY: Duration = Duration::from_secs(60 * 60);
/// Arrivals remembered for each tenant: twice the busiest hour of a network of 25,000 studies a day.
const REMEMBERED: usize = 5_000;

/// Parked reads that are told at a time.
const PARKED: usize = 1_000;

/// The last look ahead, by tenant.
#[derive(Debug, Default)]
pub(crate) struct Outlook(Mutex<BTreeMap<TenantId, Seen>>);

#[derive(Debug, Default)]
struct Seen {
    ahead: Arc<shortage::Outlook>,
    at: Time,
    came: VecDeque<Came>,
}

/// One read that came.
#[derive(Clone, Debug)]
struct Came {
    at: Time,
    class: ClassId,
    urgency: Urgency,
    needs: Needs,
    minutes: Duration,
}

impl Outlook {
    /// Takes note of a read that came into the queue.
    pub fn came(&self, read: &ReadKey, queue: &Queue, now: Time) {
        let Some(item) = queue.get(&read.read) else { return };
        let seen = &mut *self.0.lock();
        let came = &mut seen.entry(read.tenant.clone()).or_default().came;
        // In the order in which they came, so that the old ones are in front.
        while came.front().is_some_and(|came| now.since(came.at) >= LATELY) {
            came.pop_front();
        }
        if came.len() < REMEMBERED && now.since(item.complete_at) < LATELY {
            came.push_back(Came {
                at: now,
                class: item.class.clone(),
                urgency: item.urgency,
                needs: item.needs.clone(),
                minutes: item.work.minutes,
            });
        }
    }

    /// The wait that is predicted for what comes now; [`Duration::MAX`]: longer than the horizon. None: no prediction.
    pub fn wait(&self, tenant: &TenantId, class: &ClassId, pool: &PoolId) -> Option<Duration> {
        let seen = self.0.lock();
        let forecasts = &seen.get(tenant)?.ahead.forecasts;
        let first = forecasts.iter().find(|f| f.class == *class && f.pool == *pool)?;
        Some(first.wait.unwrap_or(Duration::MAX))
    }

    /// The last look ahead, and when it was taken.
    pub fn of(&self, tenant: &TenantId) -> Option<(Arc<shortage::Outlook>, Time)> {
        let seen = self.0.lock();
        seen.get(tenant).map(|seen| (Arc::clone(&seen.ahead), seen.at))
    }

    /// What comes in the next hours, if they are like the last one, added to what waits.
    fn demands(&self, tenant: &TenantId, waiting: &[Item], now: Time) -> Vec<Demand> {
        let mut demands = shortage::waiting(waiting, now);
        let seen = self.0.lock();
        let Some(seen) = seen.get(tenant) else { return demands };
        let mut rates: BTreeMap<(&ClassId, &Urgency, &Needs), Duration> = BTreeMap::new();
        for came in seen.came.iter().filter(|came| now.since(came.at) < LATELY) {
            *rates.entry((&came.class, &came.urgency, &came.needs)).or_default() += came.minutes;
        }
        let steps = u32::try_from(LATELY.as_secs() / STEP.as_secs()).unwrap_or(u32::MAX).max(1);
        for ((class, urgency, needs), lately) in rates {
            let arriving = vec![lately / steps; STEPS];
            let same = |d: &&mut Demand| d.class == *class && d.urgency == *urgency && d.needs == *needs;
            match demands.iter_mut().find(same) {
                Some(demand) => demand.arriving = arriving,
                None => demands.push(Demand {
                    class: class.clone(),
                    urgency: *urgency,
                    needs: needs.clone(),
                    waiting: Duration::ZERO,
                    age: Duration::ZERO,
                    arriving,
                }),
            }
        }
        demands
    }

    fn set(&self, tenant: &TenantId, ahead: shortage::Outlook, at: Time) {
        let seen = &mut *self.0.lock();
        let seen = seen.entry(tenant.clone()).or_default();
        (seen.ahead, seen.at) = (Arc::new(ahead), at);
    }
}

fn wait(f: &shortage::Forecast) -> v1::PredictedWait {
    v1::PredictedWait {
        clinical_class: f.class.to_string(),
        pool_id: f.pool.to_string(),
        from: Some(timestamp(f.at)),
        wait: f.wait.map(duration),
    }
}

fn shortage(s: &shortage::Shortage) -> v1::Shortage {
    let relief = s.relief.as_ref();
    let skill = relief.map(|relief| &relief.skill);
    v1::Shortage {
        clinical_class: s.class.to_string(),
        pool_id: s.pool.to_string(),
        from: Some(timestamp(s.from)),
        late: Some(duration(s.late)),
        relief_modality: skill.map(|skill| skill.modality().to_owned()).unwrap_or_default(),
        relief_body_part: skill.map(|skill| skill.body_part().to_owned()).unwrap_or_default(),
        relief_saves: relief.map(|relief| duration(relief.saves)),
    }
}

fn parked_read(parked: &Parked) -> v1::ParkedRead {
    let obstacle = |(why, readers): &(Rejection, usize)| v1::Obstacle {
        rejected_by: why.name().to_owned(),
        readers: u32::try_from(*readers).unwrap_or(u32::MAX),
    };
    v1::ParkedRead { read_id: parked.read.to_string(), obstacles: parked.why.iter().map(obstacle).collect() }
}

/// Who will work in the next hours: by the roster, or, without one, whoever is present.
fn supply(view: &View, tenant: &TenantId, now: Time) -> Vec<Supply> {
    let steps = u32::try_from(STEPS).unwrap_or(u32::MAX);
    let on_duty = |reader: &isocenter_assign::ReaderProfile| {
        (0..steps).map(|step| view.works(tenant, reader, now.plus(STEP * step), STEP)).collect()
    };
    let readers = view.profiles(tenant).into_iter();
    readers.map(|reader| Supply { on_duty: on_duty(&reader), reader }).collect()
}

impl Desk {
    /// Looks ahead for every tenant that has a queue.
    pub(crate) fn look_ahead(&self) {
        let now = self.now();
        for tenant in self.board.tenants() {
            let waiting = self.board.items(&tenant);
            let demands = self.view.outlook.demands(&tenant, &waiting, now);
            let horizon = Horizon { from: now, step: STEP, steps: STEPS };
            let ahead = shortage::outlook(&demands, &supply(&self.view, &tenant, now), &horizon);
            self.meters.ahead(&ahead);
            self.view.outlook.set(&tenant, ahead, now);
        }
    }

    /// The last look ahead, and what waits for nobody, as operators are told.
    pub(crate) fn predicted(&self, tenant: &TenantId) -> v1::GetOutlookResponse {
        let (ahead, at) = self.view.outlook.of(tenant).unwrap_or_default();
        let parked = self.board.parked(&self.view, tenant, self.now());
        v1::GetOutlookResponse {
            predicted_at: (at != Time::ZERO).then(|| timestamp(at)),
            waits: ahead.forecasts.iter().map(wait).collect(),
            shortages: ahead.shortages.iter().map(shortage).collect(),
            parked: parked.iter().take(PARKED).map(parked_read).collect(),
        }
    }

    /// Looks ahead now and then, until `ended`.
    pub(crate) async fn keep_outlook(self: Arc<Self>, ended: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                _ = tick.tick() => {}
            }
            self.look_ahead();
            // What is predicted may open reads to other pools.
            if self.board.tenants().iter().any(|tenant| !self.view.people.overflows(tenant).is_empty()) {
                self.board.refresh_all(&self.view).await;
            }
        }
    }
}
