//! Sends what is on a lane, one delivery at a time.
//!
//! A free lane has no record: the record is made by the claim, in one transaction with the delivery's, and removed by the
//! transaction that says how the attempt ended. So lanes do not pile up with the accessions of years.

use std::sync::Arc;

use futures::{StreamExt as _, stream::BoxStream};
use isocenter_domain::{
    Time,
    key::{DeliveryKey, LaneKey},
    record::{
        delivery::{Delivery, DeliveryEvent, DeliveryState, Lane},
        registry::Entry,
    },
};
use isocenter_reconcile::{Failed, KeySource, Outcome, Reconciler};
use isocenter_runtime::telemetry::trace;
use isocenter_store::{
    Revision,
    table::{Cause, Change, Mirror, Stored, Tables, owner_range},
};
use tracing::Instrument as _;

use super::{
    ACTOR,
    gate::Gate,
    index::Index,
    send::{Preparer, Ready, exchange},
};
use crate::{
    Config, Error,
    metrics::Metrics,
    plan::{self, Ended, Next},
};

/// How many deliveries of a lane are looked at for the first: one, and some that the index still holds though they are
/// accepted. More than one case on a lane is rare, so this is most often a single read.
const HEADS: usize = 4;

pub(crate) struct Lanes {
    tables: Tables,
    preparer: Preparer,
    index: Arc<Index>,
    gate: Gate,
    config: Config,
    metrics: Metrics,
}

/// A lane as the store has it.
struct Loaded {
    lane: Option<Stored<Lane>>,
    deliveries: Vec<Stored<Delivery>>,
    /// No later than which all of it was read.
    at: Revision,
}

/// A claim that this process holds.
struct Claim {
    key: DeliveryKey,
    /// The claim's own transaction: whatever came after it has ended the claim.
    revision: Revision,
}

impl Lanes {
    pub fn new(deps: &crate::Deps, gate: Gate, config: Config, metrics: Metrics) -> (Self, LaneSource) {
        let registry = deps.mirrors.of();
        let index = Arc::new(Index::default());
        let source = LaneSource {
            deliveries: deps.mirrors.of(),
            registry: deps.mirrors.of(),
            index: Arc::clone(&index),
        };
        let preparer = Preparer { tables: deps.tables.clone(), registry, blobs: deps.blobs.clone() };
        (Self { tables: deps.tables.clone(), preparer, index, gate, config, metrics }, source)
    }

    async fn load(&self, lane: &LaneKey) -> Result<Loaded, Error> {
        let stored = self.tables.load::<Lane>(lane).await?;
        let mut cases = self.index.first_cases(lane, HEADS);
        let in_flight = stored.as_ref().and_then(|lane| lane.record.in_flight.as_ref());
        cases.extend(in_flight.map(|key| key.report.read.case.clone()));
        let (mut deliveries, mut at) = (Vec::new(), Revision(0));
        for case in cases {
            let id = case.as_str();
            // All deliveries of the case, not those that the index knows: none may be overtaken.
            let range = owner_range::<DeliveryKey>(&lane.tenant, id, &[id]);
            let (found, revision) = self.tables.list::<Delivery>(&range).await?;
            deliveries.extend(found.into_iter().filter(|d| plan::lane_of(&d.key, &d.record) == *lane));
            at = at.max(revision);
        }
        Ok(Loaded { lane: stored, deliveries, at })
    }

    async fn step(&self, lane: &LaneKey) -> Result<Outcome, Error> {
        let loaded = self.load(lane).await?;
        let now = self.tables.clock().now();
        let known: Vec<_> = loaded.deliveries.iter().map(|d| (&d.key, &d.record)).collect();
        let held = loaded.lane.as_ref().map(|lane| &lane.record);
        let next = plan::next(&known, held, &self.config.schedule(), now);
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
                self.end(&loaded, &key, DeliveryEvent::Lapsed).await?;
                self.metrics.outcomes.with_label_values(&["lapsed"]).inc();
            }
            Next::DeadLetter(key, reason) => {
                let outcome = self.end(&loaded, &key, DeliveryEvent::Refused { reason }).await?;
                self.metrics.outcomes.with_label_values(&[outcome]).inc();
            }
            Next::Free => {
                let mut change = self.tables.change(Cause::role(ACTOR));
                free(&mut change, loaded.lane.as_ref(), None);
                change.commit().await?;
            }
        }
        // What follows is decided from what is there then.
        Ok(Outcome::At(self.tables.clock().now()))
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
        self.metrics.outcomes.with_label_values(&[outcome]).inc();
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
        let message = match self.preparer.prepare(key, &delivery.record).await? {
            Ready::Message { text, address } => Ok((text, address)),
            Ready::NotNow(error) => Err(error),
            Ready::Never(reason) => {
                return self.end(loaded, key, DeliveryEvent::Refused { reason }).await;
            }
        };
        let clock = self.tables.clock();
        let began = clock.monotonic();
        let claim = self.claim(lane, loaded, delivery).await?;
        let ended = match message {
            Ok((text, address)) => {
                let spent = clock.monotonic().saturating_duration_since(began);
                let (wait, left) =
                    (self.config.hl7_ack_timeout.0, self.config.attempt().saturating_sub(spent));
                exchange(&text, &address, message_id, wait, left).await
            }
            Err(error) => Ended::NotNow(error),
        };
        let took = clock.monotonic().saturating_duration_since(began);
        let outcome = self.settle(lane, &claim, ended).await?;
        self.metrics.answers.with_label_values(&[outcome]).observe(took.as_secs_f64());
        Ok(outcome)
    }

    /// Takes lane and delivery in one transaction. Only one sender can.
    async fn claim(
        &self,
        key: &LaneKey,
        loaded: &Loaded,
        delivery: &Stored<Delivery>,
    ) -> Result<Claim, Error> {
        let mut change = self.tables.change(Cause::role(ACTOR));
        let now = change.now();
        let until = now.plus(self.config.claim());
        let (sent, _) = delivery.record.clone().transition(DeliveryEvent::Claimed { until }, now)?;
        change.update(delivery, &sent, DeliveryEvent::Claimed { until }.name());
        let taken = Lane { in_flight: Some(delivery.key.clone()) };
        match &loaded.lane {
            Some(lane) => change.update(lane, &taken, "occupied"),
            // A record's change counter is never above the store's revision: counting on from there, a lane that is
            // made again goes on above where it ended.
            None => change.create_after(key, &taken, "occupied", &delivery.head.trace, loaded.at.0),
        }
        let revision = change.commit().await?;
        Ok(Claim { key: delivery.key.clone(), revision })
    }

    /// Writes how a claimed attempt ended, and frees the lane.
    async fn settle(&self, lane: &LaneKey, claim: &Claim, ended: Ended) -> Result<&'static str, Error> {
        let stored = self.tables.load::<Lane>(lane).await?;
        let delivery = self.tables.load::<Delivery>(&claim.key).await?;
        let Some(delivery) = delivery.filter(|d| d.mod_revision == claim.revision) else {
            // The claim lapsed before the answer. Whoever sends it next uses the same message id.
            return Ok("overtaken");
        };
        let mut change = self.tables.change(Cause::role(ACTOR));
        let now = change.now();
        let event = plan::after(&delivery.record, ended, &self.config.schedule(), now);
        let after = put(&mut change, &delivery, event, now)?;
        free(&mut change, stored.as_ref(), Some(&claim.key));
        change.commit().await?;
        Ok(Metrics::outcome(&after))
    }

    /// Writes an event that needs no claim of this process, and frees the lane where the delivery holds it.
    async fn end(
        &self,
        loaded: &Loaded,
        key: &DeliveryKey,
        event: DeliveryEvent,
    ) -> Result<&'static str, Error> {
        let mut change = self.tables.change(Cause::role(ACTOR));
        let now = change.now();
        let after = put(&mut change, loaded.find(key)?, event, now)?;
        free(&mut change, loaded.lane.as_ref(), Some(key));
        change.commit().await?;
        Ok(Metrics::outcome(&after))
    }
}

impl Loaded {
    fn find(&self, key: &DeliveryKey) -> Result<&Stored<Delivery>, Error> {
        self.deliveries.iter().find(|d| d.key == *key).ok_or(Error::NoDelivery)
    }
}

fn put(
    change: &mut Change<'_>,
    delivery: &Stored<Delivery>,
    event: DeliveryEvent,
    now: Time,
) -> Result<DeliveryState, Error> {
    let name = event.name();
    let (after, _) = delivery.record.clone().transition(event, now)?;
    change.update(delivery, &after, name);
    let to = &delivery.key.destination;
    match &after.state {
        DeliveryState::DeadLetter { reason, .. } => {
            tracing::warn!(destination = %to, message_id = after.message_id, attempts = after.attempts, reason, "report is a dead letter");
        }
        DeliveryState::Retrying { error, .. } => {
            tracing::info!(destination = %to, message_id = after.message_id, attempts = after.attempts, error, "report not accepted yet");
        }
        DeliveryState::Pending | DeliveryState::Sent { .. } | DeliveryState::ApplicationAccepted { .. } => {}
    }
    Ok(after.state)
}

/// Frees a lane in the same transaction, where it is held by `key`, or by anything where none is named.
fn free(change: &mut Change<'_>, lane: Option<&Stored<Lane>>, key: Option<&DeliveryKey>) {
    let Some(lane) = lane else { return };
    if key.is_none() || lane.record.in_flight.as_ref() == key {
        change.delete(lane, "freed");
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
}

#[async_trait::async_trait]
impl KeySource for LaneSource {
    type Key = LaneKey;

    async fn list(&self) -> Result<Vec<LaneKey>, Failed> {
        // Without the registry every destination would look unknown.
        tokio::join!(self.deliveries.synced(), self.registry.synced());
        let all = self.deliveries.all();
        Ok(self.index.reset(all.iter().map(|d| (&d.key, &d.record))))
    }

    async fn changes(&self) -> Result<BoxStream<'static, LaneKey>, Failed> {
        let (mirror, index) = (self.deliveries.clone(), Arc::clone(&self.index));
        let lane = move |key: DeliveryKey| {
            let now = mirror.get(&key);
            std::future::ready(index.apply(&key, now.as_ref().map(|d| &d.record)))
        };
        Ok(self.deliveries.changes().filter_map(lane).boxed())
    }
}
