//! What a policy says of one study.

use std::sync::Arc;

use cel::Context;
use isocenter_domain::{
    id::{ClassId, DestinationId, JurisdictionId, PoolId},
    record::case::Reading,
};

use crate::{
    AiRequest, ClassPolicy, Facts, Policy,
    model::{Rule, Settings},
};

/// Where a study goes and how soon it must be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Its class, which the policy defines.
    pub class: ClassId,
    /// Whether a person reads it. If not, `ai`, `pools` and `destinations` are empty and the study closes.
    pub read: bool,
    /// The rule that said nobody reads it; none where somebody does.
    pub no_read_reason: Option<Arc<str>>,
    /// Whose readers may read it, all at once; the order is preference. Never empty if `read`.
    pub pools: Vec<PoolId>,
    /// The AI services that see it.
    pub ai: Vec<AiRequest>,
    /// Where its report goes. Never empty if `read`.
    pub destinations: Vec<DestinationId>,
    /// How many read it and how often that is reviewed; as the class says where no rule does.
    pub reading: Reading,
    /// Where its readers are to be licensed; none: where the site's entry says.
    pub jurisdiction: Option<JurisdictionId>,
    /// Whether the patient is younger than the policy's `paediatric_under`; not so where the age is not known.
    pub paediatric: bool,
    /// Which rule set each of the fields above.
    pub fields: Fields,
    /// Every rule, in the order of the policy.
    pub trace: Vec<RuleOutcome>,
}

/// Which rule set each field of a [`Decision`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Fields {
    /// Who set the class.
    pub class: Source,
    /// Who said whether it is read.
    pub read: Source,
    /// Who named the AI services; the rule that said `read: false` if there is one.
    pub ai: Source,
    /// Who named the pools; the rule that said `read: false` if there is one.
    pub pools: Source,
    /// Who named the destinations; the rule that said `read: false` if there is one.
    pub destinations: Source,
    /// Who said how many read it; the default is the class.
    pub reads: Source,
    /// Who said how often it is reviewed; the default is the class.
    pub peer_review: Source,
    /// Who named the jurisdiction; the default is the policy's or the site's.
    pub jurisdiction: Source,
}

/// Who set a field.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// The rule of this name.
    Rule(Arc<str>),
    /// No rule did, so the default.
    Default,
}

/// One rule and whether it matched.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RuleOutcome {
    /// The rule's name.
    pub rule: Arc<str>,
    /// What became of its condition.
    pub outcome: Outcome,
}

/// What became of a condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It holds.
    Matched,
    /// It does not.
    NotMatched,
    /// It could not be told, which counts as not matched: an error in a rule never loses a study. The text says why
    /// and holds no value of the study.
    Error(String),
}

impl Policy {
    /// Routes a study. Rules run top to bottom; the first one that matches and sets a field wins for that field,
    /// lists whole; the default fills the rest. Total and deterministic.
    #[must_use]
    pub fn decide(&self, facts: &Facts) -> Decision {
        let mut context = Context::with_env(Arc::clone(&self.env));
        facts.bind(&mut context);
        let mut trace = Vec::with_capacity(self.rules.len());
        let mut matched: Vec<&Rule> = Vec::new();
        for rule in &self.rules {
            let outcome = match rule.when.holds(&context) {
                Ok(true) => {
                    matched.push(rule);
                    Outcome::Matched
                }
                Ok(false) => Outcome::NotMatched,
                Err(why) => Outcome::Error(why),
            };
            trace.push(RuleOutcome { rule: Arc::clone(&rule.name), outcome });
        }

        let (class, class_by) = first(&matched, |s| s.class.as_ref(), &self.defaults.class);
        let (read, read_by) = first(&matched, |s| s.read.as_ref(), &true);
        let (ai, ai_by) = first(&matched, |s| s.ai.as_ref(), &self.defaults.ai);
        let (pools, pools_by) = first(&matched, |s| s.pools.as_ref(), &self.defaults.pools);
        let (destinations, destinations_by) =
            first(&matched, |s| s.destinations.as_ref(), &self.defaults.destinations);

        let usual = self.class(class).expect("parse admits only classes the policy defines").reading;
        let (double, double_by) = first(&matched, |s| s.double.as_ref(), &usual.double);
        let (review, review_by) = first(&matched, |s| s.review_ppm.as_ref(), &usual.review_ppm);
        let (jurisdiction, jurisdiction_by) =
            first(&matched, |s| s.jurisdiction.as_ref().map(Some), self.defaults.jurisdiction.as_ref());
        let fields = Fields {
            class: class_by,
            read: read_by,
            ai: ai_by,
            pools: pools_by,
            destinations: destinations_by,
            reads: double_by,
            peer_review: review_by,
            jurisdiction: jurisdiction_by,
        };
        let decision = Decision {
            class: class.clone(),
            read: true,
            no_read_reason: None,
            pools: distinct(pools.iter().map(|pool| pool.of(&facts.site))),
            ai: ai.clone(),
            destinations: distinct(destinations.iter().map(|destination| destination.of(&facts.site))),
            reading: Reading { double: *double, review_ppm: *review },
            jurisdiction: jurisdiction.cloned(),
            paediatric: facts.patient_age_years.is_some_and(|age| age < self.paediatric_under),
            fields,
            trace,
        };
        if *read { decision } else { decision.unread() }
    }

    /// The class of a decision of this policy.
    #[must_use]
    pub fn class_of(&self, decision: &Decision) -> &ClassPolicy {
        self.class(&decision.class).expect("parse admits only classes the policy defines")
    }
}

impl Decision {
    /// The same study where nobody reads it.
    fn unread(self) -> Self {
        let by = || self.fields.read.clone();
        let fields = Fields { read: by(), ai: by(), pools: by(), destinations: by(), ..self.fields.clone() };
        Self {
            read: false,
            no_read_reason: match &self.fields.read {
                Source::Rule(name) => Some(Arc::clone(name)),
                Source::Default => None,
            },
            pools: Vec::new(),
            ai: Vec::new(),
            destinations: Vec::new(),
            fields,
            ..self
        }
    }
}

/// What the first of the matching rules that sets a field sets it to, else the default.
fn first<'a, T>(matched: &[&'a Rule], field: impl Fn(&'a Settings) -> Option<T>, default: T) -> (T, Source) {
    matched
        .iter()
        .find_map(|rule| Some((field(&rule.settings)?, Source::Rule(Arc::clone(&rule.name)))))
        .unwrap_or((default, Source::Default))
}

/// The ids in order, each once: a template may give what the list names already.
fn distinct<T: PartialEq>(ids: impl Iterator<Item = T>) -> Vec<T> {
    let mut list = Vec::new();
    for id in ids {
        if !list.contains(&id) {
            list.push(id);
        }
    }
    list
}
