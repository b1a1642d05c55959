//! What is to be delivered, and what may be sent next. Pure: no clock, no store, no network.
//!
//! The order of a lane: reports of one case in the order of reads and versions, so that a correction never leaves before
//! what it corrects whatever the clocks of the signing nodes said; reports of different cases by the time of signing.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use isocenter_domain::{
    Time,
    id::DestinationId,
    key::{self, DeliveryKey, LaneKey, ReportKey},
    record::{
        Illegal,
        case::Case,
        delivery::{Delivery, DeliveryEvent, DeliveryState, Lane},
        report::{Report, ReportKind},
    },
};
use isocenter_runtime::retry::Schedule;

/// What to do about a lane now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Nothing, until something changes: the lane is empty, or a dead letter holds it.
    Idle,
    /// Nothing before this time.
    WaitUntil(Time),
    /// Claim this delivery and send it.
    Send(DeliveryKey),
    /// Whoever claimed this delivery said nothing in time.
    Lapse(DeliveryKey),
    /// The final report that follows it takes its place.
    Supersede(DeliveryKey),
    /// Give this delivery up.
    DeadLetter(DeliveryKey, String),
    /// The lane names what is not on its way: free it.
    Free,
}

/// How an attempt ended, as far as the plan is concerned.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ended {
    /// The receiver's application has it.
    Accepted,
    /// Sending it again as it is will not help.
    Refused(String),
    /// It may be accepted later. The text is free of patient identity.
    NotNow(String),
}

/// What a receiver says of itself became of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// It has it durably.
    Accepted {
        /// Who there has seen it, if anybody.
        viewed_by: Option<String>,
    },
    /// It will never take it as it is.
    Refused {
        /// Why, without patient identity.
        reason: String,
    },
}

/// The deliveries that `case` owes for its `reports` and that do not exist, oldest report first.
#[must_use]
pub fn missing<'a>(
    case: &Case,
    reports: impl IntoIterator<Item = &'a ReportKey>,
    existing: &BTreeSet<DeliveryKey>,
) -> Vec<DeliveryKey> {
    let destinations: BTreeSet<&DestinationId> = case.destinations.iter().collect();
    // The order of keys within a case is that of reads and versions.
    let reports: BTreeSet<&ReportKey> = reports.into_iter().collect();
    let owed = reports.into_iter().flat_map(|report| {
        destinations
            .iter()
            .map(|&to| DeliveryKey { report: report.clone(), destination: to.clone() })
            .collect::<Vec<_>>()
    });
    owed.filter(|delivery| !existing.contains(delivery)).collect()
}

/// The delivery of a report to a destination, as it is made.
#[must_use]
pub fn pending(key: &DeliveryKey, report: &Report, case: &Case, now: Time) -> Delivery {
    Delivery {
        state: DeliveryState::Pending,
        message_id: isocenter_hl7::message_id(key::text(&key.report).as_bytes(), &key.destination),
        kind: report.kind,
        accession: case.accession,
        signed_at: report.signed_at,
        attempts: 0,
        since: now,
    }
}

/// The lane of a delivery.
#[must_use]
pub fn lane_of(key: &DeliveryKey, delivery: &Delivery) -> LaneKey {
    LaneKey {
        tenant: key.report.tenant.clone(),
        destination: key.destination.clone(),
        accession: delivery.accession,
    }
}

/// What to do about a lane whose deliveries, settled or not, are `deliveries`.
#[must_use]
pub fn next(
    deliveries: &[(&DeliveryKey, &Delivery)],
    lane: Option<&Lane>,
    schedule: &Schedule,
    now: Time,
) -> Next {
    let in_flight = lane.and_then(|lane| lane.in_flight.as_ref());
    let sent = deliveries.iter().find_map(|(key, delivery)| match delivery.state {
        DeliveryState::Sent { until } => Some((*key, until)),
        _ => None,
    });
    match (in_flight, sent) {
        (_, Some((key, until))) => {
            if now >= until {
                Next::Lapse(key.clone())
            } else {
                Next::WaitUntil(until)
            }
        }
        // Claim and lane change together; only a store put together again from the journal can look like this.
        (Some(_), None) => Next::Free,
        (None, None) => first_unsettled(deliveries).map_or(Next::Idle, |(key, delivery)| {
            if is_followed(deliveries, key, delivery) {
                Next::Supersede(key.clone())
            } else {
                next_of(key, delivery, schedule, now)
            }
        }),
    }
}

/// Whether a preliminary report that has not left need not leave any more: its final one says all that it says.
fn is_followed(deliveries: &[(&DeliveryKey, &Delivery)], key: &DeliveryKey, delivery: &Delivery) -> bool {
    let follows = |later: &DeliveryKey| {
        later.report.read == key.report.read && later.report.version > key.report.version
    };
    delivery.kind == ReportKind::Preliminary && deliveries.iter().any(|(later, _)| follows(later))
}

fn next_of(key: &DeliveryKey, delivery: &Delivery, schedule: &Schedule, now: Time) -> Next {
    match &delivery.state {
        DeliveryState::Pending => Next::Send(key.clone()),
        DeliveryState::Retrying { error, .. } if schedule.gives_up(delivery.since, now) => {
            Next::DeadLetter(key.clone(), given_up(delivery.attempts, error))
        }
        // No pause is longer than the longest.
        DeliveryState::Retrying { next, .. } if !next.is_over(Duration::ZERO, schedule.max, now) => {
            Next::WaitUntil(*next)
        }
        DeliveryState::Retrying { .. } => Next::Send(key.clone()),
        DeliveryState::DeadLetter { .. }
        | DeliveryState::Sent { .. }
        | DeliveryState::ApplicationAccepted { .. }
        | DeliveryState::Viewed { .. }
        | DeliveryState::Superseded { .. } => Next::Idle,
    }
}

/// What to do about a delivery whose turn it is and which its receiver has to fetch: nothing until it does or its time is
/// over.
#[must_use]
pub fn unfetched(key: &DeliveryKey, delivery: &Delivery, schedule: &Schedule, now: Time) -> Next {
    let why = || match &delivery.state {
        DeliveryState::Retrying { error, .. } => given_up(delivery.attempts, error),
        DeliveryState::Pending
        | DeliveryState::Sent { .. }
        | DeliveryState::ApplicationAccepted { .. }
        | DeliveryState::Viewed { .. }
        | DeliveryState::Superseded { .. }
        | DeliveryState::DeadLetter { .. } => "given up: its receiver never fetched it".to_owned(),
    };
    match schedule.give_up_after {
        Some(_) if schedule.gives_up(delivery.since, now) => Next::DeadLetter(key.clone(), why()),
        Some(after) => Next::WaitUntil(delivery.since.plus(after)),
        None => Next::Idle,
    }
}

/// Ends the wait of a delivery that is to be sent again: what it failed for has changed.
pub fn hasten(delivery: &mut Delivery, now: Time) {
    if let DeliveryState::Retrying { next, .. } = &mut delivery.state {
        *next = now.min(*next);
    }
}

/// What happens to a delivery whose receiver fetched it and went away.
#[must_use]
pub fn released(delivery: &Delivery, schedule: &Schedule, now: Time) -> DeliveryEvent {
    let error = "its receiver went away before it acknowledged".to_owned();
    if schedule.gives_up(delivery.since, now) {
        return DeliveryEvent::Refused { reason: given_up(delivery.attempts, &error) };
    }
    DeliveryEvent::NotAccepted { retry_at: now, error }
}

/// The delivery after what its receiver said, and the event's name; `None` where that is known already.
///
/// # Errors
/// [`Illegal`] where the receiver has said the opposite before.
pub fn told(
    delivery: &Delivery,
    told: &Told,
    now: Time,
) -> Result<Option<(Delivery, &'static str)>, Illegal> {
    let mut events = Vec::new();
    match told {
        Told::Accepted { viewed_by } => {
            if !delivery.settled() {
                events.push(DeliveryEvent::Acknowledged);
            }
            // The first who has seen it stays.
            if let (Some(by), false) = (viewed_by, matches!(delivery.state, DeliveryState::Viewed { .. })) {
                events.push(DeliveryEvent::Viewed { by: by.clone() });
            }
        }
        Told::Refused { reason } => {
            if !matches!(delivery.state, DeliveryState::DeadLetter { .. }) {
                events.push(DeliveryEvent::Refused { reason: reason.clone() });
            }
        }
    }
    let mut after = None;
    for event in events {
        let name = event.name();
        let before = after.take().map_or_else(|| delivery.clone(), |(delivery, _)| delivery);
        after = Some((before.transition(event, now)?.0, name));
    }
    Ok(after)
}

/// The delivery whose turn it is.
fn first_unsettled<'a>(
    deliveries: &[(&'a DeliveryKey, &'a Delivery)],
) -> Option<(&'a DeliveryKey, &'a Delivery)> {
    let by_key: BTreeMap<&DeliveryKey, &Delivery> = deliveries.iter().copied().collect();
    let mut latest = BTreeMap::new();
    // Within a case no report counts as signed before an earlier one of it.
    let placed = by_key.into_iter().map(|(key, delivery)| {
        let at = latest.entry(&key.report.read.case).or_insert(delivery.signed_at);
        *at = delivery.signed_at.max(*at);
        ((*at, key.report.read.n, key.report.version, key), (key, delivery))
    });
    placed.filter(|(_, (_, d))| !d.settled()).min_by(|(a, _), (b, _)| a.cmp(b)).map(|(_, head)| head)
}

/// What happens to a delivery in state Sent whose attempt ended like this.
#[must_use]
pub fn after(delivery: &Delivery, ended: Ended, schedule: &Schedule, now: Time) -> DeliveryEvent {
    match ended {
        Ended::Accepted => DeliveryEvent::Accepted,
        Ended::Refused(reason) => DeliveryEvent::Refused { reason },
        Ended::NotNow(error) if schedule.gives_up(delivery.since, now) => {
            DeliveryEvent::Refused { reason: given_up(delivery.attempts, &error) }
        }
        Ended::NotNow(error) => {
            DeliveryEvent::NotAccepted { retry_at: schedule.next(delivery.attempts, now), error }
        }
    }
}

/// Whether somebody should be told that this delivery is still not accepted.
#[must_use]
pub fn overdue(delivery: &Delivery, page_after: Duration, now: Time) -> bool {
    !delivery.settled() && now.since(delivery.since) >= page_after
}

fn given_up(attempts: u32, error: &str) -> String {
    format!("given up after {attempts} attempts; the last: {error}")
}

#[cfg(test)]
mod tests;
