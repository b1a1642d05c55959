//! What becomes of a complete study, by the policy.
//!
//! A study is decided again when a late image makes a newer revision of it. What was promised stays: a case that exists
//! is read, whatever the policy says of the newer revision; its clinical age, its members and the accession that orders
//! its reports never change; a destination that was named once gets every later report too, so that no receiver is left
//! with a report whose correction it never saw.

mod facts;

use isocenter_domain::{
    Time,
    id::{AeTitle, CaseId},
    key::{RegistryItem, RegistryKey, StudyKey},
    record::{
        Illegal,
        case::{Case, CaseEvent, CaseState},
        plan::{AiRequest, Plan, Reading},
        registry::Entry,
        study::{Study, StudyState},
    },
    refs::{Digest, Ref},
};
use isocenter_policy::{Decision, Facts, Policy, Source};

pub use facts::facts;

/// Stands where the name of a rule does for what an earlier revision decided. No rule bears it: names have no brackets.
pub const EARLIER: &str = "(an earlier revision)";

/// Stands where the name of a rule does for what no rule set.
pub const DEFAULT: &str = "default";

/// Whether the study is to be decided on: it is complete, and its plan is absent or of an older revision.
#[must_use]
pub fn due(study: &Study, plan: Option<&Plan>) -> bool {
    let complete = match study.state {
        StudyState::Complete { .. } => true,
        StudyState::Receiving | StudyState::Closed => false,
    };
    complete && plan.is_none_or(|plan| plan.revision < study.revision)
}

/// What is decided on.
#[derive(Clone, Copy, Debug)]
pub struct Subject<'a> {
    /// The study's key.
    pub key: &'a StudyKey,
    /// The study.
    pub study: &'a Study,
    /// The study's own reference: orders its reports where it has no accession.
    pub own: Ref,
    /// Its case, where an earlier revision made one.
    pub case: Option<&'a Case>,
}

/// What was decided.
#[derive(Clone, Debug)]
pub struct Planned {
    /// The study's plan.
    pub plan: Plan,
    /// The case as it is from now on; none where nobody reads the study.
    pub case: Option<Case>,
    /// What the policy said, with the outcome of each rule.
    pub decision: Decision,
}

/// Decides on the study's revision by `policy`, whose text has the hash `text`.
///
/// # Errors
/// [`Illegal`] where the case is closed: the archive reopens it together with its study, and then it is decided.
pub fn plan(
    subject: &Subject<'_>,
    facts: &Facts,
    policy: &Policy,
    text: Digest,
    now: Time,
) -> Result<Planned, Illegal> {
    let existing = match subject.case {
        Some(case) => Some(case.clone().transition(CaseEvent::Replanned, now)?.0),
        None => None,
    };
    let decision = policy.decide(facts);
    let case = match (existing, decision.read) {
        (Some(case), true) => Some(replanned(case, subject.study, &decision, policy)),
        (None, true) => Some(ready(subject, &decision, policy)),
        (Some(case), false) => Some(case),
        (None, false) => None,
    };
    let kept = case.is_some() && !decision.read;
    let reading = match &case {
        Some(_) => Reading::Case(CaseId::of(&subject.key.tenant, &subject.key.study)),
        None => Reading::None { rule: decision.no_read_reason.as_deref().unwrap_or(DEFAULT).to_owned() },
    };
    let ai = decision.ai.iter();
    let plan = Plan {
        revision: subject.study.revision,
        policy: text,
        reading,
        ai: ai.map(|ai| AiRequest { service: ai.service.clone(), timeout: ai.timeout }).collect(),
        destinations: case.as_ref().map(|case| case.destinations.clone()).unwrap_or_default(),
        rules: rules(&decision, kept),
    };
    Ok(Planned { plan, case, decision })
}

/// The case that the study opens. Readable from this moment; deadlines count from when revision 1 was complete.
fn ready(subject: &Subject<'_>, decision: &Decision, policy: &Policy) -> Case {
    let Subject { key, study, own, .. } = subject;
    let class = policy.class_of(decision);
    Case {
        state: CaseState::Ready,
        members: vec![key.study.clone()],
        site: study.site.clone(),
        class: decision.class.clone(),
        complete_at: study.complete_at.unwrap_or(study.first_received_at),
        deadline: class.deadline,
        ai_credit: class.ai_credit,
        orphan_after: class.orphan_after,
        pools: decision.pools.clone(),
        destinations: decision.destinations.clone(),
        modalities: study.facts.modalities.clone(),
        body_part: study.facts.body_part.clone(),
        patient: study.facts.patient,
        accession: study.facts.accession.unwrap_or(*own),
        reading: isocenter_domain::record::case::Reading::default(),
    }
}

/// The case after a newer revision of its study.
fn replanned(case: Case, study: &Study, decision: &Decision, policy: &Policy) -> Case {
    let class = policy.class_of(decision);
    let mut destinations = decision.destinations.clone();
    destinations.extend(case.destinations.iter().filter(|d| !decision.destinations.contains(d)).cloned());
    Case {
        class: decision.class.clone(),
        deadline: class.deadline,
        ai_credit: class.ai_credit,
        orphan_after: class.orphan_after,
        pools: decision.pools.clone(),
        destinations,
        modalities: study.facts.modalities.clone(),
        body_part: study.facts.body_part.clone(),
        patient: study.facts.patient.or(case.patient),
        ..case
    }
}

/// Which rule set which field. `kept`: the policy says nobody reads the study, and a case exists already.
fn rules(decision: &Decision, kept: bool) -> Vec<(String, String)> {
    let fields = &decision.fields;
    let of = |source: &Source| match source {
        Source::Rule(name) => name.to_string(),
        Source::Default => DEFAULT.to_owned(),
    };
    let or_kept = |source: &Source| if kept { EARLIER.to_owned() } else { of(source) };
    vec![
        ("class".to_owned(), or_kept(&fields.class)),
        ("read".to_owned(), or_kept(&fields.read)),
        ("pools".to_owned(), or_kept(&fields.pools)),
        ("ai".to_owned(), of(&fields.ai)),
        ("destinations".to_owned(), or_kept(&fields.destinations)),
    ]
}

/// An AE title of `site`, which is to be registered under `key`, that another site has already, and that site. An AE title
/// names one site of the whole cell: an association says nothing else of where it comes from.
pub fn taken<'a>(
    key: &RegistryKey,
    entry: &Entry,
    registered: impl IntoIterator<Item = (&'a RegistryKey, &'a Entry)>,
) -> Option<(AeTitle, &'a RegistryKey)> {
    let Entry::Site(site) = entry else { return None };
    registered.into_iter().filter(|(other, _)| *other != key).find_map(|(other, entry)| {
        let Entry::Site(theirs) = entry else { return None };
        let shared = site.ae_titles.iter().find(|title| theirs.ae_titles.contains(title))?;
        Some((shared.clone(), other))
    })
}

/// The kind of a registry item, as its key and the operator call it.
#[must_use]
pub const fn kind_name(item: &RegistryItem) -> &'static str {
    match item {
        RegistryItem::Site(_) => "site",
        RegistryItem::Reader(_) => "reader",
        RegistryItem::Pool(_) => "pool",
        RegistryItem::Ai(_) => "ai",
        RegistryItem::Destination(_) => "destination",
    }
}

#[cfg(test)]
mod tests;
