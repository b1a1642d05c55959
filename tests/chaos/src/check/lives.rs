//! Each record's life, along the store's history.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use isocenter_domain::{
    record::{RecordKind, ai_task::AiTask, case::Case, delivery::Delivery, read::Read, study::Study},
    states,
};
use isocenter_store::{Key, table::parse_outbox_key};
use isocenter_wire::record::{self as wire, decode_event, decode_head};

use super::{Findings, Invariant, Violation};
use crate::witness::{Change, History};

/// What follows from an event too, by time or by count: the table shows one outcome of each.
const ELSE: [(RecordKind, &str, &str); 8] = [
    (RecordKind::AiTask, "answered", "late"),
    (RecordKind::AiTask, "call-failed", "failed"),
    (RecordKind::AiTask, "lapsed", "failed"),
    (RecordKind::Delivery, "not-accepted", "dead-letter"),
    (RecordKind::Delivery, "lapsed", "dead-letter"),
    // What a resident has signed goes back to the queue of the attendings.
    (RecordKind::Read, "lapsed", "awaiting-final"),
    (RecordKind::Read, "returned", "awaiting-final"),
    (RecordKind::Read, "reassigned", "awaiting-final"),
];

/// What became of a record in one transaction.
struct Step<'a> {
    revision: u64,
    key: &'a str,
    seq: u64,
    event: String,
    op_id: String,
}

/// The kind of record that a key is of; `None` for presence, leaders, outbox and meta.
pub(super) fn kind(key: &str) -> Option<RecordKind> {
    key.split('/').next().and_then(RecordKind::parse)
}

/// The changes of each revision together.
pub(super) fn transactions(history: &History) -> impl Iterator<Item = &[Change]> {
    history.changes.chunk_by(|one, other| one.revision == other.revision)
}

/// The events that a transaction has put into the outbox, by record.
fn events(transaction: &[Change]) -> BTreeMap<String, (u64, String, String)> {
    let mut found = BTreeMap::new();
    for change in transaction {
        let Some(value) = &change.value else { continue };
        let parsed = Key::new(change.key.clone()).ok().and_then(|key| parse_outbox_key(&key));
        let Some((record, seq)) = parsed else { continue };
        if let Ok(event) = decode_event(&record, seq, value) {
            found.insert(record, (seq, event.event, event.op_id));
        }
    }
    found
}

/// The state of a record that has states; `None` for one that has none, or cannot be understood.
pub(super) fn state(key: &str, value: &Bytes) -> Option<&'static str> {
    match kind(key)? {
        RecordKind::Study => wire::decode::<Study>(value).ok().map(|(_, study)| study.state.name()),
        RecordKind::Case => wire::decode::<Case>(value).ok().map(|(_, case)| case.state.name()),
        RecordKind::AiTask => wire::decode::<AiTask>(value).ok().map(|(_, task)| task.state.name()),
        RecordKind::Read => wire::decode::<Read>(value).ok().map(|(_, read)| read.state.name()),
        RecordKind::Delivery => {
            wire::decode::<Delivery>(value).ok().map(|(_, delivery)| delivery.state.name())
        }
        _ => None,
    }
}

/// [`Invariant::Lives`].
pub(super) fn lives(history: &History) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::Lives);
    let tables = Tables::new();
    let mut seqs: BTreeMap<String, u64> = BTreeMap::new();
    let mut held: BTreeMap<&str, &Bytes> = BTreeMap::new();
    for transaction in transactions(history) {
        let events = events(transaction);
        for (record, (seq, ..)) in &events {
            let last = seqs.insert(record.clone(), *seq).unwrap_or(0);
            // What is deleted and made again keeps counting, from wherever its kind begins.
            let follows = if held.contains_key(record.as_str()) { *seq == last + 1 } else { *seq > last };
            findings.check(follows, || {
                format!("revision {}: {record} has change {seq} after {last}", transaction[0].revision)
            });
        }
        for change in transaction.iter().filter(|change| kind(&change.key).is_some()) {
            let Some((seq, event, op_id)) = events.get(&change.key) else {
                findings
                    .add(format!("revision {}: {} changed without an event", change.revision, change.key));
                continue;
            };
            let step = Step {
                revision: change.revision,
                key: &change.key,
                seq: *seq,
                event: event.clone(),
                op_id: op_id.clone(),
            };
            let was = held.get(change.key.as_str()).copied();
            match &change.value {
                Some(value) => {
                    matches_event(&mut findings, &step, value);
                    tables.follow(&mut findings, &step, was, value);
                    held.insert(&change.key, value);
                }
                None => drop(held.remove(change.key.as_str())),
            }
        }
    }
    findings.found
}

fn matches_event(findings: &mut Findings, step: &Step<'_>, value: &Bytes) {
    let Step { revision, key, seq, op_id, .. } = step;
    match decode_head(value) {
        Ok(head) => findings.check(head.seq == *seq && head.op_id == *op_id, || {
            format!("revision {revision}: {key} is at change {}, its event at {seq}", head.seq)
        }),
        Err(error) => findings.add(format!("revision {revision}: {key} cannot be understood: {error}")),
    }
}

/// What follows from each state and event, as `docs/states.md` has it.
struct Tables {
    next: BTreeMap<(RecordKind, String, String), String>,
    events: BTreeSet<(RecordKind, String)>,
}

impl Tables {
    fn new() -> Self {
        let mut tables = Self { next: BTreeMap::new(), events: BTreeSet::new() };
        let (mut of, mut header) = (None, Vec::new());
        for line in states::render().lines() {
            if let Some(title) = line.strip_prefix("## ") {
                of = match title {
                    "Study" => Some(RecordKind::Study),
                    "Case" => Some(RecordKind::Case),
                    "AI task" => Some(RecordKind::AiTask),
                    "Read" => Some(RecordKind::Read),
                    "Delivery" => Some(RecordKind::Delivery),
                    _ => None,
                };
                continue;
            }
            let Some(kind) = of else { continue };
            let cells: Vec<_> = line.trim_matches('|').split('|').map(str::trim).collect();
            match cells.first() {
                Some(&"state") => header = cells.into_iter().map(str::to_owned).collect(),
                Some(state) if state.starts_with("**") => {
                    let state = state.trim_matches('*');
                    for (event, next) in header.iter().zip(&cells).skip(1) {
                        tables.events.insert((kind, event.clone()));
                        if *next != "–" {
                            let from = (kind, state.to_owned(), event.clone());
                            tables.next.insert(from, (*next).to_owned());
                        }
                    }
                }
                _ => {}
            }
        }
        tables
    }

    fn follow(&self, findings: &mut Findings, step: &Step<'_>, was: Option<&Bytes>, is: &Bytes) {
        let Step { revision, key, event, .. } = step;
        let (Some(kind), Some(is)) = (kind(key), state(key, is)) else { return };
        let Some(was) = was.and_then(|was| state(key, was)) else { return };
        let expected = self.next.get(&(kind, was.to_owned(), event.clone())).map(String::as_str);
        // An event that the table does not know changes no state.
        let expected = if self.events.contains(&(kind, event.clone())) { expected } else { Some(was) };
        let also = ELSE.contains(&(kind, event.as_str(), is)) && expected.is_some();
        findings.check(also || expected == Some(is), || {
            format!(
                "revision {revision}: {key} went from {was} to {is} by {event}, which leads to {}",
                expected.unwrap_or("nothing")
            )
        });
    }
}

/// [`Invariant::Fenced`].
pub(super) fn fenced(history: &History) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::Fenced);
    let mut leads = false;
    let mut epoch: Option<u64> = None;
    for transaction in transactions(history) {
        for (record, (_, event, _)) in events(transaction) {
            if kind(&record) == Some(RecordKind::Read) && event == "offered" {
                findings.check(leads, || {
                    format!("revision {}: {record} was offered while nobody led", transaction[0].revision)
                });
            }
        }
        for change in transaction {
            if change.key == "leader/reader-assignment" {
                leads = change.value.is_some();
            }
            if change.key == "meta/epoch" {
                let number = change.value.as_ref().and_then(epoch_of);
                findings.check(number.is_some() && number > epoch, || {
                    format!("revision {}: the epoch went from {epoch:?} to {number:?}", change.revision)
                });
                epoch = number;
            }
        }
    }
    findings.found
}

/// The number that an epoch begins with.
fn epoch_of(value: &Bytes) -> Option<u64> {
    let text = std::str::from_utf8(value).ok()?;
    text.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

/// [`Invariant::Closed`].
pub(super) fn closed(history: &History) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::Closed);
    let last = history.last();
    let mut closed = BTreeSet::new();
    for change in &history.changes {
        if kind(&change.key) == Some(RecordKind::Study) {
            let study = change.key.rsplit('/').next().unwrap_or_default();
            if change.value.is_none() {
                closed.insert(study)
            } else {
                closed.remove(study)
            };
        }
    }
    for key in last.keys() {
        let of = key.split('/').find(|segment| closed.contains(*segment));
        if let Some(study) = of {
            findings.add(format!("study {study} is closed and {key} is left"));
        }
    }
    findings.found
}
