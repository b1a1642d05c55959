//! Every report version is accepted, once, under one message id.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_domain::record::{
    RecordKind,
    delivery::{Delivery, DeliveryState},
};
use isocenter_wire::record as wire;

use super::{Findings, Invariant, Violation, lives};
use crate::evidence::Evidence;

/// [`Invariant::OneMessage`].
pub(super) fn one_message(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::OneMessage);
    // The last state of each delivery, also of those that are closed by now.
    let mut deliveries: BTreeMap<&str, Delivery> = BTreeMap::new();
    let mut reports: BTreeSet<&str> = BTreeSet::new();
    for change in &evidence.history.changes {
        let Some(value) = &change.value else { continue };
        match lives::kind(&change.key) {
            Some(RecordKind::Delivery) => {
                let Ok((_, delivery)) = wire::decode::<Delivery>(value) else { continue };
                if let Some(known) = deliveries.get(change.key.as_str()) {
                    findings.check(known.message_id == delivery.message_id, || {
                        format!(
                            "revision {}: {} goes on under another message id",
                            change.revision, change.key
                        )
                    });
                }
                deliveries.insert(&change.key, delivery);
            }
            Some(RecordKind::Report) => drop(reports.insert(&change.key)),
            _ => {}
        }
    }
    let mut owed: BTreeMap<&str, &str> = BTreeMap::new();
    for (key, delivery) in &deliveries {
        if let Some(other) = owed.insert(&delivery.message_id, key) {
            findings.add(format!("{key} and {other} have one message id"));
        }
        findings.check(matches!(delivery.state, DeliveryState::ApplicationAccepted { .. }), || {
            format!("{key} is {} and not accepted", delivery.state.name())
        });
    }
    for report in reports {
        // delivery/{s}/{t}/{case}/{n}/{version}/{destination} of report/{s}/{t}/{case}/{n}/{version}
        let prefix = format!("delivery/{}/", report.strip_prefix("report/").unwrap_or(report));
        findings.check(deliveries.keys().any(|key| key.starts_with(&prefix)), || {
            format!("{report} was never to be delivered")
        });
    }
    let mut received: BTreeMap<&str, u32> = BTreeMap::new();
    for message in &evidence.received {
        *received.entry(&message.id).or_default() += 1;
    }
    for (id, times) in &received {
        findings.check(*times == 1, || format!("message {id} took effect {times} times"));
        findings.check(owed.contains_key(id), || format!("message {id} is of no delivery"));
    }
    for (id, key) in owed.iter().filter(|(id, _)| !received.contains_key(*id)) {
        findings.add(format!("{key} is accepted and message {id} never took effect"));
    }
    findings.found
}
