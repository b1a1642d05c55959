//! What a reader was told is true: what was done is in the store's history, and what was refused is not.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_domain::{
    key::{self, ReadKey, ReportKey},
    record::{
        RecordKind,
        read::{Read, ReadState},
        report::Report,
    },
};
use isocenter_wire::record as wire;

use super::{Findings, Invariant, Violation, lives};
use crate::{
    evidence::Evidence,
    record::{Deed, Outcome},
    witness::History,
};

/// What the history says of reads.
#[derive(Default)]
struct Known {
    /// Report versions by the request that signed them: `read/version`.
    reports: BTreeMap<String, Vec<String>>,
    /// Read, reader and token of each opening.
    open: BTreeSet<(String, String, String)>,
    /// Read and reader of each offer and opening.
    given: BTreeSet<(String, String)>,
}

impl Known {
    fn of(history: &History) -> Self {
        let mut known = Self::default();
        for change in &history.changes {
            let Some(value) = &change.value else { continue };
            match lives::kind(&change.key) {
                Some(RecordKind::Report) => {
                    let (Some(key), Ok((_, report))) =
                        (key::parse::<ReportKey>(&change.key), wire::decode::<Report>(value))
                    else {
                        continue;
                    };
                    let version = format!("{}/{}", key.read, key.version);
                    known.reports.entry(report.request_id).or_default().push(version);
                }
                Some(RecordKind::Read) => {
                    let (Some(key), Ok((_, read))) =
                        (key::parse::<ReadKey>(&change.key), wire::decode::<Read>(value))
                    else {
                        continue;
                    };
                    let id = key.read.to_string();
                    match read.state {
                        ReadState::Offered { reader, .. } => {
                            known.given.insert((id, reader.to_string()));
                        }
                        ReadState::Open { reader, token, .. }
                        | ReadState::Suspended { reader, token, .. } => {
                            known.given.insert((id.clone(), reader.to_string()));
                            known.open.insert((id, reader.to_string(), token));
                        }
                        ReadState::Waiting
                        | ReadState::AwaitingFinal
                        | ReadState::Signed { .. }
                        | ReadState::NonDiagnostic { .. }
                        | ReadState::Cancelled { .. } => {}
                    }
                }
                _ => {}
            }
        }
        known
    }
}

/// [`Invariant::Answers`].
pub(super) fn answers(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::Answers);
    let known = Known::of(&evidence.history);
    for (request, versions) in &known.reports {
        findings.check(versions.len() == 1, || {
            format!("one request {request} signed {}", versions.join(" and "))
        });
    }
    // A request is refused for good only if no repetition of it was done or may have been.
    let mut open: BTreeSet<&str> = BTreeSet::new();
    for op in &evidence.ops {
        if let (Deed::Sign { request, .. }, Outcome::Ok(_) | Outcome::Unknown(_)) = (&op.deed, &op.outcome) {
            open.insert(request);
        }
    }
    for op in &evidence.ops {
        match (&op.deed, &op.outcome) {
            (Deed::Sign { request, read, .. }, Outcome::Ok(version)) => {
                let done = known.reports.get(request).is_some_and(|versions| versions.contains(version));
                findings.check(done, || {
                    format!("{read} was signed as {version} by request {request}, and no such report is")
                });
            }
            (Deed::Sign { request, read, .. }, Outcome::Failed(why)) if !open.contains(request.as_str()) => {
                findings.check(!known.reports.contains_key(request), || {
                    format!("the signature of {read} was refused ({why}) and took effect: {request}")
                });
            }
            (Deed::Open { read, reader, .. }, Outcome::Ok(token)) => {
                let hand = (read.clone(), reader.clone(), token.clone());
                findings.check(known.open.contains(&hand), || {
                    format!("{reader} was told to have opened {read}, which never was so")
                });
            }
            (Deed::Next { reader, .. }, Outcome::Ok(read)) if !read.is_empty() => {
                findings.check(known.given.contains(&(read.clone(), reader.clone())), || {
                    format!("{reader} was offered {read}, which never was so")
                });
            }
            _ => {}
        }
    }
    findings.found
}
