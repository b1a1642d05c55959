//! Sends what is on a lane, one delivery at a time.
//!
//! A free lane has no record: the record is made by the claim, in one transaction with the delivery's, and removed by the
//! transaction that says how the attempt ended. So lanes do not pile up with the accessions of years.

use std::{future::ready, sync::Arc};

use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_domain::{
    key::{self, DeliveryKey, LaneKey, RegistryItem, RegistryKey},
    record::{
        delivery::{Delivery, DeliveryEvent},
        registry::{Entry, Via},
    },
};
use isocenter_reconcile::{Failed, KeySource, Outcome, Reconciler};
use isocenter_runtime::telemetry::trace;
use isocenter_store::table::{Cause, Mirror, Mirrors, Stored};
use tracing::Instrument as _;

use super::{
    ACTOR,
    book::{Book, Loaded},
    gate::Gate,
    index::Index,
    send::{Preparer, Ready, exchange},
};
use crate::{
    Config, Error,
    plan::{self, Ended, Next},
};

pub(crate) struct Lanes {
    book: Book,
    preparer: Arc<Preparer>,
    index: Arc<Index>,
    gate: Gate,
    config: Config,
}

impl Lanes {
    pub fn new(
        mirrors: &Mirrors,
        book: Book,
        preparer: Arc<Preparer>,
        gate: Gate,
        config: Config,
    ) -> (Self, LaneSource) {
        let index = Arc::new(Index::default());
        let (deliveries, registry) = (mirrors.of(), mirrors.of());
        let source = LaneSource { deliveries, registry, index: Arc::clone(&index), gate: gate.clone() };
        (Self { book, preparer, index, gate, config }, source)
    }

    async fn step(&self, lane: &LaneKey) -> Result<Outcome, Error> {
        let mut loaded = self.book.load(&self.index, lane).await?;
        let (schedule, now) = (&self.book.schedule, self.book.tables.clock().now());
        let to = self.preparer.destination(&lane.tenant, &lane.destination);
        if let Some(to) = &to {
            // What failed before the destination was registered or changed may succeed now. Revisions are compared, and not
            // times: those of two machines differ.
            let before = loaded.deliveries.iter_mut().filter(|d| d.mod_revision < to.changed);
            before.for_each(|d| plan::hasten(&mut d.record, now));
        }
        let mut next = loaded.next(schedule, now);
        if let (Next::Send(key), Some(Via::Grpc)) = (&next, to.as_ref().map(|to| &to.destination.via)) {
            next = plan::unfetched(key, &loaded.find(key)?.record, schedule, now);
        }
        if !matches!(next, Next::Send(_)) {
            self.gate.decline(lane);
        }
        match next {
            Next::Idle => return Ok(Outcome::Done),
            Next::WaitUntil(at) => return Ok(Outcome::At(at)),
            Next::Send(key) => {
                // The pass is held until the connection is closed and its outcome written.
                let Some(_pass) = self.gate.enter(lane) else { return Ok(Outcome::Done) };
                self.send(lane, &loaded, &key).await?;
            }
            Next::Lapse(key) => {
                self.book.end(&loaded, &key, DeliveryEvent::Lapsed).await?;
            }
            Next::Supersede(key) => {
                self.book.end(&loaded, &key, DeliveryEvent::Superseded).await?;
            }
            Next::DeadLetter(key, reason) => {
                self.book.end(&loaded, &key, DeliveryEvent::Refused { reason }).await?;
            }
            Next::Free => self.book.free(&loaded).await?,
        }
        // What follows is decided from what is there then.
        Ok(Outcome::At(self.book.tables.clock().now()))
    }

    async fn send(&self, lane: &LaneKey, loaded: &Loaded, key: &DeliveryKey) -> Result<(), Error> {
        let delivery = loaded.find(key)?;
        let span = trace::joined(
            tracing::info_span!(
                "deliver report",
                destination = %key.destination,
                attempt = delivery.record.attempts + 1,
                outcome = tracing::field::Empty,
            ),
            &delivery.head.trace,
        );
        let outcome = self.attempt(lane, loaded, delivery).instrument(span.clone()).await?;
        span.record("outcome", outcome);
        Ok(())
    }

    /// One attempt; says how it ended, as metrics and traces name it. Prepares before it claims, so that a claim's time is
    /// the receiver's alone.
    async fn attempt(
        &self,
        lane: &LaneKey,
        loaded: &Loaded,
        delivery: &Stored<Delivery>,
    ) -> Result<&'static str, Error> {
        let (key, message_id) = (&delivery.key, &delivery.record.message_id);
        let message = match self.preparer.message(key, &delivery.record).await? {
            Ready::It(message) => Ok(message),
            Ready::NotNow(error) => Err(error),
            Ready::Never(reason) => {
                return self.book.end(loaded, key, DeliveryEvent::Refused { reason }).await;
            }
        };
        let clock = self.book.tables.clock();
        let began = clock.monotonic();
        let cause = Cause::role(ACTOR);
        let (claim, _) = self.book.claim(lane, loaded, delivery, self.config.claim(), cause).await?;
        let ended = match message {
            Ok(message) => {
                let spent = clock.monotonic().saturating_duration_since(began);
                let (wait, left) =
                    (self.config.hl7_ack_timeout.0, self.config.attempt().saturating_sub(spent));
                exchange(&message, message_id, wait, left).await
            }
            Err(error) => Ended::NotNow(error),
        };
        let took = clock.monotonic().saturating_duration_since(began);
        let schedule = &self.book.schedule;
        let outcome = self.book.settle(&claim, |d, now| plan::after(d, ended, schedule, now)).await?;
        self.book.metrics.outcomes.with_label_values(&[outcome]).inc();
        self.book.metrics.answers.with_label_values(&[outcome]).observe(took.as_secs_f64());
        Ok(outcome)
    }
}

#[async_trait::async_trait]
impl Reconciler for Lanes {
    type Key = LaneKey;

    async fn reconcile(&self, lane: &LaneKey) -> Result<Outcome, Failed> {
        Ok(self.step(lane).await?)
    }
}

/// The lanes on which something is to be delivered.
pub(crate) struct LaneSource {
    deliveries: Mirror<Delivery>,
    registry: Mirror<Entry>,
    index: Arc<Index>,
    gate: Gate,
}

#[async_trait::async_trait]
impl KeySource for LaneSource {
    type Key = LaneKey;

    async fn list(&self) -> Result<Vec<LaneKey>, Failed> {
        // Listed whenever shards move: each lane that is ours is woken after this, and comes in or waits again.
        self.gate.begin_anew();
        let all = self.deliveries.all();
        Ok(self.index.reset(all.iter().map(|d| (&d.key, &d.record))))
    }

    async fn changes(&self) -> Result<BoxStream<'static, LaneKey>, Failed> {
        // Without the registry every destination would look unknown.
        tokio::join!(self.deliveries.synced(), self.registry.synced());
        let (mirror, index) = (self.deliveries.clone(), Arc::clone(&self.index));
        let lane = move |key: DeliveryKey| {
            let now = mirror.get(&key);
            std::future::ready(index.apply(&key, now.as_ref().map(|d| &d.record)))
        };
        let end = || stream::once(async { None });
        let deliveries = self.deliveries.changes().filter_map(lane).map(Some).chain(end());
        let index = Arc::clone(&self.index);
        let lanes_to = move |key: RegistryKey| match key.item {
            RegistryItem::Destination(to) => index.lanes_to(&key.tenant, &to),
            RegistryItem::Site(_) | RegistryItem::Reader(_) | RegistryItem::Pool(_) | RegistryItem::Ai(_) => {
                Vec::new()
            }
        };
        let entries = self.registry.changes().flat_map(move |key| stream::iter(lanes_to(key)));
        // The end of either is the end of both: what one has missed has to be listed.
        let both = stream::select(deliveries, entries.map(Some).chain(end()));
        Ok(both.take_while(|lane| ready(lane.is_some())).filter_map(ready).boxed())
    }

    fn shard(&self, key: &LaneKey) -> u8 {
        key::shard_of(key)
    }
}
