//! A read is in one pair of hands.

use std::collections::BTreeMap;

use isocenter_domain::{
    id::ReaderId,
    key::{self, HoldingKey, ReadKey},
    record::{
        RecordKind,
        read::{Holding, Read, ReadState},
    },
};
use isocenter_wire::record as wire;

use super::{Findings, Invariant, Violation, lives};
use crate::witness::History;

/// Who has a read in hand: the reader and the token.
type Hand = (ReaderId, String);

/// [`Invariant::OneReader`].
pub(super) fn one_reader(history: &History) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::OneReader);
    let mut open: BTreeMap<String, Hand> = BTreeMap::new();
    let mut holdings: BTreeMap<ReaderId, Holding> = BTreeMap::new();
    for transaction in lives::transactions(history) {
        let revision = transaction[0].revision;
        for change in transaction {
            match lives::kind(&change.key) {
                Some(RecordKind::Read) => {
                    let Some(read) = key::parse::<ReadKey>(&change.key).map(|key| key.read.to_string())
                    else {
                        continue;
                    };
                    let record = change.value.as_ref().and_then(|value| wire::decode::<Read>(value).ok());
                    hand_over(&mut findings, revision, &mut open, &read, record.map(|(_, read)| read));
                }
                Some(RecordKind::Holding) => {
                    let Some(reader) = key::parse::<HoldingKey>(&change.key).map(|key| key.reader) else {
                        continue;
                    };
                    match change.value.as_ref().and_then(|value| wire::decode::<Holding>(value).ok()) {
                        Some((_, holding)) => drop(holdings.insert(reader, holding)),
                        None => drop(holdings.remove(&reader)),
                    }
                }
                _ => {}
            }
        }
        agree(&mut findings, revision, &open, &holdings);
    }
    findings.found
}

fn hand_over(
    findings: &mut Findings,
    revision: u64,
    open: &mut BTreeMap<String, Hand>,
    read: &str,
    record: Option<Read>,
) {
    let was = open.get(read).cloned();
    let preliminary = record.as_ref().and_then(|read| read.preliminary.clone());
    match record.map(|read| read.state) {
        Some(ReadState::Open { reader, token, .. }) => {
            if let Some((holder, _)) = was.filter(|(holder, _)| *holder != reader) {
                findings
                    .add(format!("revision {revision}: {read} is opened by {reader} in {holder}'s hands"));
            }
            open.insert(read.to_owned(), (reader, token));
        }
        Some(ReadState::AwaitingFinal) if was.is_some() => {
            // Signed as preliminary, or an attending gave it back.
            findings.check(preliminary.is_some(), || {
                format!("revision {revision}: {read} awaits its final report and nobody has signed it")
            });
            open.remove(read);
        }
        Some(ReadState::Signed { reader, .. } | ReadState::NonDiagnostic { reader, .. }) => {
            findings.check(was.as_ref().is_some_and(|(holder, _)| *holder == reader), || {
                let holder = was.map(|(holder, _)| holder.to_string()).unwrap_or_default();
                format!(
                    "revision {revision}: {read} is signed by {reader} and was in the hands of {holder:?}"
                )
            });
            open.remove(read);
        }
        Some(
            ReadState::Waiting
            | ReadState::AwaitingFinal
            | ReadState::Offered { .. }
            | ReadState::Suspended { .. }
            | ReadState::Cancelled { .. },
        )
        | None => drop(open.remove(read)),
    }
}

/// Every open read is what its reader holds, and nobody holds anything else.
fn agree(
    findings: &mut Findings,
    revision: u64,
    open: &BTreeMap<String, Hand>,
    holdings: &BTreeMap<ReaderId, Holding>,
) {
    for (read, (reader, _)) in open {
        let holds = holdings.get(reader).and_then(|holding| holding.open.as_ref()).map(ToString::to_string);
        findings.check(holds.as_ref() == Some(read), || {
            format!("revision {revision}: {read} is open with {reader}, who holds {holds:?}")
        });
    }
    for (reader, holding) in holdings {
        let Some(read) = holding.open.as_ref().map(ToString::to_string) else { continue };
        findings.check(open.get(&read).is_some_and(|(holder, _)| holder == reader), || {
            format!("revision {revision}: {reader} holds {read}, which is not open with that reader")
        });
    }
}
