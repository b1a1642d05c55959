//! The stream on which a receiver fetches its reports.
//!
//! A report is claimed in the store before it is handed out, so that it goes to one stream at a time, whichever process
//! serves it; it is done when the receiver acknowledges it by a call of its own. What a stream leaves unacknowledged comes
//! again at once; what a process leaves behind that is killed, when the claim's time is over.

use std::{
    collections::{BTreeMap, BTreeSet},
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt as _, Stream, StreamExt as _, stream};
use isocenter_domain::{
    Kind, Kinded as _, Time,
    access::Principal,
    id::{DestinationId, TenantId},
    key::{DeliveryKey, LaneKey},
    record::{
        delivery::{Delivery, DeliveryEvent, DeliveryState},
        registry::Via,
    },
};
use isocenter_runtime::{status::status, task::Tasks};
use isocenter_store::table::{Cause, Mirror};
use isocenter_wire::v1;
use parking_lot::Mutex;
use tokio::sync::mpsc::{self, Permit, Sender};
use tonic::Status;

use crate::{
    Error,
    plan::{self, Next},
    reconcile::{
        book::{Book, Claim},
        index::Index,
        send::{Preparer, Ready},
    },
};

/// What a stream carries.
pub(crate) type Reports = Pin<Box<dyn Stream<Item = Result<v1::ReportMessage, Status>> + Send>>;

/// Streams of one process. Each costs a task, what its destination is owed as keys, and two reports.
const WATCHES: usize = 256;
/// Streams of one destination at one process: more share no more work, and would take the places of others.
const WATCHES_OF_ONE: usize = 16;
/// Unacknowledged reports on one stream where the caller does not say.
const WINDOW: usize = 32;
/// And at most.
const LARGEST_WINDOW: usize = 256;
/// Reports made ready ahead of a caller who reads slowly. The window bounds what is claimed, this what is in memory.
const AHEAD: usize = 2;
/// How long a lane waits at which another process was faster.
const LOST: Duration = Duration::from_millis(200);
/// How long nothing is listed again after changes were missed.
const RELIST: Duration = Duration::from_millis(100);
/// Claims given back at a time when a stream ends.
const RELEASES: usize = 8;
/// How long the last word waits for a caller who does not read.
const LAST_WORD: Duration = Duration::from_secs(1);

/// What streams are made of.
#[derive(Clone, Debug)]
pub(crate) struct Watches {
    pub book: Book,
    pub preparer: Arc<Preparer>,
    pub deliveries: Mirror<Delivery>,
    /// How long a report may stay unacknowledged before it is handed out again.
    pub acknowledge_within: Duration,
    pub tasks: Tasks,
    places: Arc<Mutex<Places>>,
}

type To = (TenantId, DestinationId);

/// How many streams each destination has here.
type Places = BTreeMap<To, usize>;

/// A stream's place, which goes with it.
struct Place {
    places: Arc<Mutex<Places>>,
    to: To,
}

impl Place {
    fn take(places: &Arc<Mutex<Places>>, to: To) -> Result<Self, Error> {
        let mut taken = places.lock();
        if taken.values().sum::<usize>() >= WATCHES {
            return Err(Error::TooManyWatches("this process serves as many streams as it may; call another"));
        }
        let own = taken.entry(to.clone()).or_default();
        if *own >= WATCHES_OF_ONE {
            return Err(Error::TooManyWatches("the destination has as many streams here as it may"));
        }
        *own += 1;
        Ok(Self { places: Arc::clone(places), to })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut taken = self.places.lock();
        let own = taken.get_mut(&self.to).map(|own| {
            *own -= 1;
            *own
        });
        if own == Some(0) {
            taken.remove(&self.to);
        }
    }
}

impl Watches {
    pub fn new(
        book: Book,
        preparer: Arc<Preparer>,
        deliveries: Mirror<Delivery>,
        acknowledge_within: Duration,
        tasks: Tasks,
    ) -> Self {
        Self { book, preparer, deliveries, acknowledge_within, tasks, places: Arc::default() }
    }

    /// How many reports a stream may leave unacknowledged that asks for this many; `None` where that is too many.
    pub fn window(asked: u32) -> Option<usize> {
        match usize::try_from(asked) {
            Ok(0) => Some(WINDOW),
            Ok(n) if n <= LARGEST_WINDOW => Some(n),
            Ok(_) | Err(_) => None,
        }
    }

    /// Opens a stream of what `to` is owed, for `caller`, who may have it.
    ///
    /// # Errors
    /// [`Error::NotFetched`], [`Error::TooManyWatches`].
    pub async fn open(&self, caller: Principal, to: DestinationId, window: usize) -> Result<Reports, Error> {
        self.preparer.registry.synced().await;
        let registered = self.preparer.destination(&caller.tenant, &to);
        if registered.is_none_or(|r| r.destination.via != Via::Grpc) {
            return Err(Error::NotFetched(to));
        }
        let place = Place::take(&self.places, (caller.tenant.clone(), to.clone()))?;
        let (reports, mut taken) = mpsc::channel(AHEAD);
        let watch = Watch {
            of: self.clone(),
            caller,
            to,
            window,
            index: Index::default(),
            due: BTreeSet::new(),
            later: BTreeMap::new(),
            held: BTreeMap::new(),
            _place: place,
        };
        self.tasks.background("report watch", watch.run(reports));
        Ok(Box::pin(stream::poll_fn(move |cx| taken.poll_recv(cx))))
    }
}

/// One stream.
struct Watch {
    of: Watches,
    caller: Principal,
    to: DestinationId,
    window: usize,
    /// What the destination is owed.
    index: Index,
    /// Lanes to look at now, by the time of their first signature.
    due: BTreeSet<(Time, LaneKey)>,
    /// Lanes to look at again then, unless they change before.
    later: BTreeMap<LaneKey, Time>,
    /// Reports that this stream has handed out and that are not acknowledged: as many as the window at most.
    held: BTreeMap<DeliveryKey, Claim>,
    _place: Place,
}

impl Watch {
    async fn run(mut self, reports: Sender<Result<v1::ReportMessage, Status>>) {
        let watches = self.of.book.metrics.watches.clone();
        watches.inc();
        tracing::info!(destination = %self.to, caller = self.caller.subject, "a receiver fetches its reports");
        let end = self.serve(&reports).await;
        self.release().await;
        watches.dec();
        tracing::info!(destination = %self.to, caller = self.caller.subject, why = end.as_ref().map(tracing::field::display), "a receiver's stream ended");
        if let Some(error) = end
            && reports.send_timeout(Err(status(&error)), LAST_WORD).await.is_err()
        {
            tracing::debug!("the caller is gone, or does not read the last word");
        }
    }

    /// Serves until the caller goes, which is no error, or the stream has to end.
    async fn serve(&mut self, reports: &Sender<Result<v1::ReportMessage, Status>>) -> Option<Error> {
        let ended = self.of.tasks.token();
        loop {
            // First the changes, then the list: what changes between the two is in the changes.
            let mut changes = self.of.deliveries.changes();
            tokio::select! {
                () = ended.cancelled() => return Some(Error::Draining),
                () = reports.closed() => return None,
                () = self.of.deliveries.synced() => self.list(),
            }
            loop {
                match self.hand_out(reports).await {
                    Ok(true) => {}
                    Ok(false) => return if ended.is_cancelled() { Some(Error::Draining) } else { None },
                    Err(error) => return Some(error),
                }
                let clock = self.of.book.tables.clock();
                let next = self.later.values().min().map(|at| at.since(clock.now()));
                tokio::select! {
                    () = ended.cancelled() => return Some(Error::Draining),
                    () = reports.closed() => return None,
                    key = changes.next() => match key {
                        Some(key) => {
                            self.changed(&key);
                            while let Some(Some(key)) = changes.next().now_or_never() {
                                self.changed(&key);
                            }
                        }
                        None => break,
                    },
                    () = tokio::time::sleep(next.unwrap_or_default()), if next.is_some() => self.wake(),
                }
            }
            tokio::time::sleep(RELIST).await;
        }
    }

    fn list(&mut self) {
        self.due.clear();
        self.later.clear();
        let all = self.of.deliveries.all();
        let ours = all.iter().filter(|d| self.is_ours(&d.key));
        for lane in self.index.reset(ours.map(|d| (&d.key, &d.record))) {
            self.look_at(lane);
        }
        let held: Vec<DeliveryKey> = self.held.keys().cloned().collect();
        held.iter().for_each(|key| self.check(key));
    }

    fn is_ours(&self, key: &DeliveryKey) -> bool {
        key.report.tenant == self.caller.tenant && key.destination == self.to
    }

    fn look_at(&mut self, lane: LaneKey) {
        self.later.remove(&lane);
        if let Some(at) = self.index.first_signed(&lane) {
            self.due.insert((at, lane));
        }
    }

    fn changed(&mut self, key: &DeliveryKey) {
        if !self.is_ours(key) {
            return;
        }
        self.check(key);
        let now = self.of.deliveries.get(key);
        if let Some(lane) = self.index.apply(key, now.as_ref().map(|d| &d.record)) {
            match now.map(|d| d.record.state.clone()) {
                // On its way, by this stream or another: nothing on the lane before that is over.
                Some(DeliveryState::Sent { until }) => {
                    self.due.retain(|(_, due)| *due != lane);
                    self.later.insert(lane, until);
                }
                Some(_) | None => self.look_at(lane),
            }
        }
    }

    /// Forgets a claim that something has ended.
    fn check(&mut self, key: &DeliveryKey) {
        let now = self.of.deliveries.get(key);
        // The mirror may be behind the claim, never ahead of it by the claim itself.
        let ended = |claim: &Claim| now.as_ref().is_none_or(|d| d.mod_revision > claim.revision);
        if self.held.get(key).is_some_and(ended) {
            self.held.remove(key);
        }
    }

    fn wake(&mut self) {
        let now = self.of.book.tables.clock().now();
        let due: Vec<LaneKey> =
            self.later.iter().filter(|(_, at)| **at <= now).map(|(l, _)| l.clone()).collect();
        due.into_iter().for_each(|lane| self.look_at(lane));
    }

    /// Hands out what is due while the window has room; false where the caller is gone or the process ends.
    async fn hand_out(&mut self, reports: &Sender<Result<v1::ReportMessage, Status>>) -> Result<bool, Error> {
        let ended = self.of.tasks.token();
        while self.held.len() < self.window
            && let Some((_, lane)) = self.due.pop_first()
        {
            // Nothing is claimed for a caller who does not read.
            let place = tokio::select! {
                () = ended.cancelled() => return Ok(false),
                place = reports.reserve() => place,
                () = tokio::time::sleep(self.of.acknowledge_within) => return Err(Error::Stalled),
            };
            let Ok(place) = place else { return Ok(false) };
            match self.offer(&lane, place).await {
                Ok(()) => {}
                Err(e) if matches!(e.kind(), Kind::Conflict | Kind::Unknown) => {
                    let again = self.of.book.tables.clock().now().plus(LOST);
                    self.later.insert(lane, again);
                }
                Err(e) => return Err(e),
            }
        }
        Ok(true)
    }

    /// Does what is to be done about a lane, and hands out its next report where that is it.
    async fn offer(
        &mut self,
        lane: &LaneKey,
        place: Permit<'_, Result<v1::ReportMessage, Status>>,
    ) -> Result<(), Error> {
        let book = self.of.book.clone();
        let loaded = book.load(&self.index, lane).await?;
        let now = book.tables.clock().now();
        let key = match loaded.next(&book.schedule, now) {
            Next::Idle => return Ok(()),
            Next::WaitUntil(at) => {
                self.later.insert(lane.clone(), at);
                return Ok(());
            }
            Next::Send(key) => key,
            // Each of these changes the record, which wakes the lane again.
            Next::Lapse(key) => return book.end(&loaded, &key, DeliveryEvent::Lapsed).await.map(drop),
            Next::Supersede(key) => {
                return book.end(&loaded, &key, DeliveryEvent::Superseded).await.map(drop);
            }
            Next::DeadLetter(key, reason) => {
                return book.end(&loaded, &key, DeliveryEvent::Refused { reason }).await.map(drop);
            }
            Next::Free => {
                book.free(&loaded).await?;
                self.later.insert(lane.clone(), now);
                return Ok(());
            }
        };
        let delivery = loaded.find(&key)?;
        let parts = match self.of.preparer.prepare(&key, &delivery.record).await? {
            Ready::It(parts) if parts.to.via == Via::Grpc => parts,
            Ready::It(_) | Ready::NotNow(_) => return Err(Error::NotFetched(self.to.clone())),
            Ready::Never(reason) => {
                return book.end(&loaded, &key, DeliveryEvent::Refused { reason }).await.map(drop);
            }
        };
        // The event of the claim says who was shown the patient's report.
        let op_id = isocenter_runtime::random::uuid_v7().to_string();
        let cause = Cause::request(&op_id, &self.caller.subject).because("fetched by its receiver");
        let (claim, until) = book.claim(lane, &loaded, delivery, self.of.acknowledge_within, cause).await?;
        place.send(Ok(parts.fetched(delivery.record.attempts + 1, until)));
        self.held.insert(key, claim);
        self.later.insert(lane.clone(), until);
        Ok(())
    }

    /// Gives back what was not acknowledged, so that another stream has it at once.
    async fn release(&mut self) {
        let (book, schedule) = (&self.of.book, self.of.book.schedule);
        let claims = std::mem::take(&mut self.held).into_values();
        stream::iter(claims)
            .for_each_concurrent(RELEASES, |claim| async move {
                let released = book.settle(&claim, |d, now| plan::released(d, &schedule, now)).await;
                // Whatever is not given back is free when its claim's time is over.
                if let Err(error) = released {
                    tracing::debug!(error = %isocenter_runtime::task::chain(&error), "a claim was not given back");
                }
            })
            .await;
    }
}
