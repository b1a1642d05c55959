//! Lanes and deliveries as the store has them, and the transactions that change both. Whoever sends uses these, be it a
//! lane's own reconciler or the stream on which a receiver fetches its reports.

use std::time::Duration;

use isocenter_domain::{
    Kind, Kinded as _, Time,
    key::{DeliveryKey, LaneKey},
    record::delivery::{Delivery, DeliveryEvent, DeliveryState, Lane},
};
use isocenter_store::{
    Revision,
    table::{Cause, Change, Stored, Tables, owner_range},
};

use super::{ACTOR, index::Index};
use crate::{
    Error,
    metrics::Metrics,
    plan::{self, Next, Told},
};

/// How many deliveries of a lane are looked at for the first: one, and some that the index still holds though they are
/// accepted. More than one case on a lane is rare, so this is most often a single read.
const HEADS: usize = 4;
/// How often what a receiver said is decided again after losing to another change. A delivery has at most a sender and
/// its receiver.
const TRIES: usize = 5;

/// The transactions. Clones are the same.
#[derive(Clone, Debug)]
pub(crate) struct Book {
    pub tables: Tables,
    pub schedule: isocenter_runtime::retry::Schedule,
    pub metrics: Metrics,
}

/// A lane as the store has it.
pub(crate) struct Loaded {
    pub lane: Option<Stored<Lane>>,
    pub deliveries: Vec<Stored<Delivery>>,
    /// No later than which all of it was read.
    at: Revision,
}

/// A claim that this process holds.
#[derive(Clone, Debug)]
pub(crate) struct Claim {
    pub lane: LaneKey,
    pub key: DeliveryKey,
    /// The claim's own transaction: whatever came after it has ended the claim.
    pub revision: Revision,
}

impl Loaded {
    /// The delivery of this key.
    pub fn find(&self, key: &DeliveryKey) -> Result<&Stored<Delivery>, Error> {
        self.deliveries.iter().find(|d| d.key == *key).ok_or(Error::NoDelivery)
    }

    /// What to do about the lane now.
    pub fn next(&self, schedule: &isocenter_runtime::retry::Schedule, now: Time) -> Next {
        let known: Vec<_> = self.deliveries.iter().map(|d| (&d.key, &d.record)).collect();
        plan::next(&known, self.lane.as_ref().map(|lane| &lane.record), schedule, now)
    }
}

impl Book {
    /// Loads a lane. `index` says which cases have something on it.
    pub async fn load(&self, index: &Index, lane: &LaneKey) -> Result<Loaded, Error> {
        let stored = self.tables.load::<Lane>(lane).await?;
        let mut cases = index.first_cases(lane, HEADS);
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

    /// Takes lane and delivery in one transaction for `long`. Only one sender can.
    pub async fn claim(
        &self,
        key: &LaneKey,
        loaded: &Loaded,
        delivery: &Stored<Delivery>,
        long: Duration,
        cause: Cause,
    ) -> Result<(Claim, Time), Error> {
        let mut change = self.tables.change(cause);
        let now = change.now();
        let until = now.plus(long);
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
        Ok((Claim { lane: key.clone(), key: delivery.key.clone(), revision }, until))
    }

    /// Writes how a claimed attempt ended, and frees the lane. Nothing is written where the claim has ended before.
    pub async fn settle(
        &self,
        claim: &Claim,
        ended: impl FnOnce(&Delivery, Time) -> DeliveryEvent,
    ) -> Result<&'static str, Error> {
        let stored = self.tables.load::<Lane>(&claim.lane).await?;
        let delivery = self.tables.load::<Delivery>(&claim.key).await?;
        let Some(delivery) = delivery.filter(|d| d.mod_revision == claim.revision) else {
            // The claim lapsed before the answer, or the receiver said on another way what became of it. Whoever sends it
            // next uses the same message id.
            return Ok("overtaken");
        };
        let mut change = self.tables.change(Cause::role(ACTOR));
        let now = change.now();
        let event = ended(&delivery.record, now);
        let after = put(&mut change, &delivery, event, now)?;
        free(&mut change, stored.as_ref(), Some(&claim.key));
        change.commit().await?;
        Ok(Metrics::outcome(&after))
    }

    /// Writes an event that needs no claim of this process, and frees the lane where the delivery holds it.
    pub async fn end(
        &self,
        loaded: &Loaded,
        key: &DeliveryKey,
        event: DeliveryEvent,
    ) -> Result<&'static str, Error> {
        let lapsed = event == DeliveryEvent::Lapsed;
        let mut change = self.tables.change(Cause::role(ACTOR));
        let now = change.now();
        let after = put(&mut change, loaded.find(key)?, event, now)?;
        free(&mut change, loaded.lane.as_ref(), Some(key));
        change.commit().await?;
        let outcome = if lapsed { "lapsed" } else { Metrics::outcome(&after) };
        self.metrics.outcomes.with_label_values(&[outcome]).inc();
        Ok(outcome)
    }

    /// Frees a lane that names what is not on its way.
    pub async fn free(&self, loaded: &Loaded) -> Result<(), Error> {
        let mut change = self.tables.change(Cause::role(ACTOR));
        free(&mut change, loaded.lane.as_ref(), None);
        change.commit().await?;
        Ok(())
    }

    /// Writes what the receiver says became of a delivery, and frees its lane. Said again, it changes nothing.
    ///
    /// # Errors
    /// [`Error::NoDelivery`]; [`Error::OtherMessage`] where the delivery has another message id; [`Error::Illegal`] where
    /// the opposite was said before.
    pub async fn tell(
        &self,
        key: &DeliveryKey,
        message_id: &str,
        told: &Told,
        cause: &Cause,
    ) -> Result<Delivery, Error> {
        let mut tries = 0;
        loop {
            tries += 1;
            let stored = self.tables.load::<Delivery>(key).await?.ok_or(Error::NoDelivery)?;
            if stored.record.message_id != message_id {
                return Err(Error::OtherMessage);
            }
            let lane = self.tables.load::<Lane>(&plan::lane_of(key, &stored.record)).await?;
            let mut change = self.tables.change(cause.clone());
            let now = change.now();
            let Some((after, event)) = plan::told(&stored.record, told, now)? else {
                return Ok(stored.record);
            };
            change.update(&stored, &after, event);
            free(&mut change, lane.as_ref(), Some(key));
            match change.commit().await {
                Ok(_) => {
                    self.observe(&stored, &after, now);
                    return Ok(after);
                }
                Err(e) if tries < TRIES && matches!(e.kind(), Kind::Conflict | Kind::Unknown) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    fn observe(&self, before: &Stored<Delivery>, after: &Delivery, now: Time) {
        if before.record.settled() {
            return;
        }
        let outcome = Metrics::outcome(&after.state);
        self.metrics.outcomes.with_label_values(&[outcome]).inc();
        if let DeliveryState::Sent { .. } = before.record.state {
            let took = now.since(before.head.updated_at);
            self.metrics.answers.with_label_values(&[outcome]).observe(took.as_secs_f64());
        }
        log(before, after);
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
    log(delivery, &after);
    Ok(after.state)
}

fn log(delivery: &Stored<Delivery>, after: &Delivery) {
    let to = &delivery.key.destination;
    match &after.state {
        DeliveryState::DeadLetter { reason, .. } => {
            tracing::warn!(destination = %to, message_id = after.message_id, attempts = after.attempts, reason, "report is a dead letter");
        }
        DeliveryState::Retrying { error, .. } => {
            tracing::info!(destination = %to, message_id = after.message_id, attempts = after.attempts, error, "report not accepted yet");
        }
        DeliveryState::Pending
        | DeliveryState::Sent { .. }
        | DeliveryState::ApplicationAccepted { .. }
        | DeliveryState::Viewed { .. }
        | DeliveryState::Superseded { .. } => {}
    }
}

/// Frees a lane in the same transaction, where it is held by `key`, or by anything where none is named.
fn free(change: &mut Change<'_>, lane: Option<&Stored<Lane>>, key: Option<&DeliveryKey>) {
    let Some(lane) = lane else { return };
    if key.is_none() || lane.record.in_flight.as_ref() == key {
        change.delete(lane, "freed");
    }
}
