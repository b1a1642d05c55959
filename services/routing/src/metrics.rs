//! What is counted, under `isocenter_routing_…`.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use isocenter_domain::record::plan::{Plan, Reading};
use isocenter_policy::{Decision, Outcome};
use isocenter_reconcile::Hooks;
use isocenter_runtime::metrics::{HistogramVec, IntCounter, IntCounterVec, Metrics as Registry};
use parking_lot::Mutex;

/// Rules that have a label of their own: as many as one policy may have. Policies come and go while a process runs, and
/// each label lives as long as the process; the rules beyond share [`OTHER`].
const RULES: usize = isocenter_policy::MAX_RULES;

/// The label of the rules beyond [`RULES`]. No rule bears it: names have no brackets.
const OTHER: &str = "(other)";

/// The metrics of this role.
#[derive(Clone, Debug)]
pub(crate) struct Metrics {
    /// Complete to planned.
    planned: HistogramVec,
    decisions: IntCounterVec,
    rule_errors: IntCounterVec,
    /// Decisions that a text other than the active one had to make.
    pub fallbacks: IntCounterVec,
    /// Decisions made without a manifest.
    pub lost_manifests: IntCounter,
    /// Those of the runner.
    pub hooks: Hooks,
    named: Arc<Mutex<BTreeSet<String>>>,
}

impl Metrics {
    pub fn new(registry: &Registry) -> Self {
        let scope = registry.scoped("routing");
        Self {
            planned: scope.histogram_vec(
                "planned_seconds",
                "From a study's complete revision to its plan, by what was decided: read or none.",
                &["reading"],
            ),
            decisions: scope.counter_vec(
                "decisions_total",
                "Decided fields by field and by the rule that set them.",
                &["field", "rule"],
            ),
            rule_errors: scope.counter_vec(
                "rule_errors_total",
                "Conditions that could not be evaluated for a study and so did not match.",
                &["rule"],
            ),
            fallbacks: scope.counter_vec(
                "policy_fallbacks_total",
                "Decisions made by another policy because the active text cannot be loaded: last-good or shipped. Somebody has to look.",
                &["to"],
            ),
            lost_manifests: scope.counter(
                "lost_manifests_total",
                "Decisions made without the manifest because it is lost or damaged. Somebody has to look.",
            ),
            hooks: Hooks::new(&scope),
            named: Arc::default(),
        }
    }

    /// Counts a plan that was committed `waited` after its revision was complete.
    pub fn planned(&self, plan: &Plan, decision: &Decision, waited: Duration) {
        let reading = match plan.reading {
            Reading::Case(_) => "read",
            Reading::None { .. } => "none",
        };
        self.planned.with_label_values(&[reading]).observe(waited.as_secs_f64());
        for (field, rule) in &plan.rules {
            self.decisions.with_label_values(&[field.as_str(), self.label(rule)]).inc();
        }
        for outcome in &decision.trace {
            if matches!(outcome.outcome, Outcome::Error(_)) {
                self.rule_errors.with_label_values(&[self.label(&outcome.rule)]).inc();
            }
        }
    }

    /// The label of a rule: its name, as long as there is room for names.
    fn label<'a>(&self, rule: &'a str) -> &'a str {
        let mut named = self.named.lock();
        if named.contains(rule) {
            return rule;
        }
        if named.len() < RULES {
            named.insert(rule.to_owned());
            return rule;
        }
        OTHER
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_bounded_however_many_rules_come_and_go() {
        let metrics = Metrics::new(&Registry::new());
        let rules: Vec<String> = (0..RULES + 2).map(|n| format!("rule-{n}")).collect();
        let labels: Vec<&str> = rules.iter().map(|rule| metrics.label(rule)).collect();
        assert_eq!(labels[RULES - 1..], [rules[RULES - 1].as_str(), OTHER, OTHER]);
        assert_eq!(metrics.label(&rules[0]), rules[0]);
    }
}
