//! What becomes of a complete study, by the policy.
//!
//! A study is decided again when a late image makes a newer revision of it. What was promised stays: a case that exists
//! is read, whatever the policy says of the newer revision; its clinical age, its members and the accession that orders
//! its reports never change; a destination that was named once gets every later report too, so that no receiver is left
//! with a report whose correction it never saw.

mod facts;

use isocenter_domain::{
    Time,
    id::{AeTitle, CaseId, JurisdictionId},
    key::{CaseKey, RegistryItem, RegistryKey, StudyKey},
    record::{
        Illegal,
        case::{Case, CaseEvent, CaseState},
        plan::{AiRequest, Plan, Reading},
        registry::Entry,
        study::{Study, StudyState},
    },
    refs::{Digest, Ref},
};
use isocenter_policy::{Decision, Facts, GroupBy, Policy, Source};

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
#[derive(Clone, Debug)]
pub struct Subject<'a> {
    /// The study's key.
    pub key: &'a StudyKey,
    /// The study.
    pub study: &'a Study,
    /// The study's own reference: orders its reports where it has no accession.
    pub own: Ref,
    /// The jurisdiction of the site it came from, as the registry has it.
    pub jurisdiction: Option<&'a JurisdictionId>,
    /// The first case of the same visit, where the policy asks for that and there is one.
    pub visit: Option<CaseId>,
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
        (Some(case), true) => Some(replanned(case, subject, &decision, policy)),
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
    let Subject { key, study, own, visit, .. } = subject;
    let class = policy.class_of(decision);
    Case {
        state: CaseState::Ready,
        members: vec![key.study.clone()],
        site: study.site.clone(),
        class: decision.class.clone(),
        complete_at: study.complete_at.unwrap_or(study.first_received_at),
        deadline: class.deadline,
        urgency: class.urgency,
        orphan_after: class.orphan_after,
        pools: decision.pools.clone(),
        destinations: decision.destinations.clone(),
        modalities: study.facts.modalities.clone(),
        body_part: study.facts.body_part.clone(),
        patient: study.facts.patient,
        accession: study.facts.accession.unwrap_or(*own),
        jurisdiction: jurisdiction(subject, decision),
        paediatric: decision.paediatric,
        reading: decision.reading,
        linked: visit.clone(),
    }
}

/// The earliest ready case of the visit that a study belongs to: of the same patient and site, complete within
/// [`GroupBy::VISIT`] of it, and not its own. A study whose patient is not known belongs to none.
pub fn visit<'a>(
    key: &StudyKey,
    study: &Study,
    cases: impl IntoIterator<Item = (&'a CaseKey, &'a Case)>,
) -> Option<CaseId> {
    let patient = study.facts.patient?;
    let at = study.complete_at?;
    let own = CaseId::of(&key.tenant, &key.study);
    let near = |case: &Case| case.complete_at <= at && at.since(case.complete_at) <= GroupBy::VISIT;
    let of_visit = cases.into_iter().filter(|(case_key, case)| {
        case_key.tenant == key.tenant
            && case_key.case != own
            && case.state == CaseState::Ready
            && case.patient == Some(patient)
            && case.site == study.site
            && near(case)
    });
    of_visit.min_by_key(|(key, case)| (case.complete_at, key.case.clone())).map(|(key, _)| key.case.clone())
}

/// Where the case's readers are to be licensed: as the policy says, else where its site is.
fn jurisdiction(subject: &Subject<'_>, decision: &Decision) -> Option<JurisdictionId> {
    decision.jurisdiction.as_ref().or(subject.jurisdiction).cloned()
}

/// The case after a newer revision of its study.
fn replanned(case: Case, subject: &Subject<'_>, decision: &Decision, policy: &Policy) -> Case {
    let study = subject.study;
    let class = policy.class_of(decision);
    let mut destinations = decision.destinations.clone();
    destinations.extend(case.destinations.iter().filter(|d| !decision.destinations.contains(d)).cloned());
    Case {
        class: decision.class.clone(),
        deadline: class.deadline,
        urgency: class.urgency,
        orphan_after: class.orphan_after,
        pools: decision.pools.clone(),
        destinations,
        modalities: study.facts.modalities.clone(),
        body_part: study.facts.body_part.clone(),
        patient: study.facts.patient.or(case.patient),
        jurisdiction: jurisdiction(subject, decision),
        paediatric: decision.paediatric,
        reading: decision.reading,
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
    let mut rules = vec![
        ("class".to_owned(), or_kept(&fields.class)),
        ("read".to_owned(), or_kept(&fields.read)),
        ("pools".to_owned(), or_kept(&fields.pools)),
        ("ai".to_owned(), of(&fields.ai)),
        ("destinations".to_owned(), or_kept(&fields.destinations)),
    ];
    // What few policies set is told where one does.
    let rare = [
        ("reads", &fields.reads),
        ("peer_review", &fields.peer_review),
        ("jurisdiction", &fields.jurisdiction),
    ];
    let set = rare.into_iter().filter(|(_, source)| matches!(source, Source::Rule(_)) && !kept);
    rules.extend(set.map(|(field, source)| (field.to_owned(), of(source))));
    rules
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
