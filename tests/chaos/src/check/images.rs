//! What was acknowledged is kept, and every study comes to one end.

use std::collections::{BTreeMap, BTreeSet};

use isocenter_domain::{key, key::ReadKey, record::RecordKind};

use super::{Findings, Invariant, Violation};
use crate::{
    evidence::Evidence,
    record::{Deed, Outcome},
};

/// Stages from which nothing follows by itself.
const ENDS: [&str; 3] = ["delivered", "nothing-to-read", "closed"];

/// Study, instance and data set of everything that was acknowledged.
fn acknowledged(evidence: &Evidence) -> impl Iterator<Item = (&str, &str, &str)> {
    evidence.ops.iter().filter_map(|op| match (&op.deed, &op.outcome) {
        (Deed::Store { study, instance, data_set }, Outcome::Ok(_)) => {
            Some((study.as_str(), instance.as_str(), data_set.as_str()))
        }
        _ => None,
    })
}

/// [`Invariant::Kept`].
pub(super) fn kept(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::Kept);
    for (study, instance, data_set) in acknowledged(evidence) {
        let aside = evidence.quarantined.contains_key(data_set);
        findings.check(aside || evidence.instances.contains_key(data_set), || {
            format!("instance {instance} of study {study} was acknowledged and is in no file")
        });
        let named = evidence.manifests.get(study);
        let named = named.is_some_and(|all| all.contains(&(instance.to_owned(), data_set.to_owned())));
        findings.check(aside || named, || {
            format!("instance {instance} was acknowledged and the manifest of study {study} does not name it")
        });
    }
    findings.found
}

/// [`Invariant::OneEnd`].
pub(super) fn one_end(evidence: &Evidence) -> Vec<Violation> {
    let mut findings = Findings::of(Invariant::OneEnd);
    let studies: BTreeSet<_> = acknowledged(evidence).map(|(study, ..)| study).collect();
    for study in studies {
        let stage = evidence.stages.get(study).map(String::as_str);
        findings.check(stage.is_some_and(|stage| ENDS.contains(&stage)), || {
            format!("study {study} was acknowledged and is {}", stage.unwrap_or("not there"))
        });
    }
    // A study is read once: one primary read a case, and each read signed once.
    let mut signed: BTreeMap<&str, u32> = BTreeMap::new();
    for change in &evidence.history.changes {
        let kind = change.key.split('/').next().and_then(RecordKind::parse);
        if kind == Some(RecordKind::Read) && change.value.is_some() {
            findings.check(key::parse::<ReadKey>(&change.key).is_some(), || {
                format!("{} is no key of a read", change.key)
            });
        }
        if kind == Some(RecordKind::Report) && change.value.is_some() {
            *signed.entry(change.key.as_str()).or_default() += 1;
        }
    }
    for (report, times) in signed {
        findings.check(times == 1, || format!("{report} was written {times} times"));
    }
    findings.found
}
