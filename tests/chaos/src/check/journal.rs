//! The records tell what the store did.

use std::collections::BTreeMap;

use isocenter_store::{Key, table::parse_outbox_key};
use isocenter_wire::record::decode_event;

use super::{Findings, Invariant, Violation};
use crate::{
    evidence::{Evidence, Line},
    witness::History,
};

/// The events of each record, in the order in which the store took them.
fn told(history: &History) -> BTreeMap<String, Vec<(u64, String, String)>> {
    let mut told: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for change in &history.changes {
        let Some(value) = &change.value else { continue };
        let parsed = Key::new(change.key.clone()).ok().and_then(|key| parse_outbox_key(&key));
        let Some((record, seq)) = parsed else { continue };
        if let Ok(event) = decode_event(&record, seq, value) {
            told.entry(record).or_default().push((seq, event.op_id, event.event));
        }
    }
    told
}

/// [`Invariant::Records`].
pub(super) fn records(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::Records);
    let mut kept: BTreeMap<&str, Vec<&Line>> = BTreeMap::new();
    for line in &evidence.lines {
        kept.entry(&line.key).or_default().push(line);
    }
    let told = told(&evidence.history);
    for (record, events) in &told {
        let lines = kept.get(record.as_str()).map(Vec::as_slice).unwrap_or_default();
        let found: Vec<_> =
            lines.iter().map(|line| (line.seq, line.op_id.clone(), line.event.clone())).collect();
        findings.check(found == *events, || {
            let short = |events: &[(u64, String, String)]| {
                let each = events.iter().map(|(seq, _, event)| format!("{seq} {event}"));
                each.collect::<Vec<_>>().join(", ")
            };
            format!("{record}: the store had [{}], the records have [{}]", short(events), short(&found))
        });
    }
    for record in kept.keys().filter(|record| !told.contains_key(**record)) {
        findings.add(format!("{record} is in the records and never was in the store"));
    }
    findings.found
}
