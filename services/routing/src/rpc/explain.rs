//! Why a study was routed as it was.

use isocenter_blobs::path;
use isocenter_domain::{
    Kind, Kinded as _,
    document::Manifest,
    key::StudyKey,
    record::{
        case::Case,
        plan::{AiRequest, Plan},
        study::{Study, StudyState},
    },
};
use isocenter_policy::{Decision, Outcome};
use isocenter_runtime::config::Period;
use isocenter_store::table::Stored;
use isocenter_wire::{document::Stored as _, v1};

use super::routing::RoutingRpc;
use crate::{
    Error, plan,
    reconcile::{case_key, plan_key},
};

impl RoutingRpc {
    /// What was decided is told from the plan and its case; what each rule said is found again by the text that the plan
    /// names, on the revision that it names. A doubt is known of the study's last revision only.
    pub async fn explained(&self, key: &StudyKey) -> Result<v1::ExplainResponse, Error> {
        let plan = self.tables.load::<Plan>(&plan_key(key)).await?.ok_or(Error::NoPlan)?.record;
        let study = self.tables.load::<Study>(key).await?.ok_or(Error::NoPlan)?;
        let case = self.tables.load::<Case>(&case_key(key)).await?;
        let decision = self.decided_again(&study, &plan).await?;
        let rules = decision.trace.iter().map(|rule| v1::RuleOutcome {
            rule: rule.rule.to_string(),
            outcome: match &rule.outcome {
                Outcome::Matched => "matched".to_owned(),
                Outcome::NotMatched => "not matched".to_owned(),
                Outcome::Error(why) => format!("failed: {why}"),
            },
        });
        let case = case.as_ref().map(|case| &case.record);
        let decisions = plan.rules.iter().map(|(field, rule)| v1::Decision {
            field: field.clone(),
            value: value(field, &plan, case, &decision),
            rule: rule.clone(),
        });
        Ok(v1::ExplainResponse {
            policy_version: plan.policy.to_string(),
            revision: plan.revision,
            rules: rules.collect(),
            decisions: decisions.collect(),
        })
    }

    async fn decided_again(&self, study: &Stored<Study>, plan: &Plan) -> Result<Decision, Error> {
        let StudyKey { tenant, study: uid } = &study.key;
        let version = self.policies.version(tenant, &plan.policy).await?;
        let last = study.record.revision == plan.revision;
        let images = match self.blobs.get(&path::manifest(tenant, uid, plan.revision)).await {
            Ok(bytes) => Some(Manifest::decode(&bytes).map_err(Error::Manifest)?.images),
            // It was lost before the study was decided or since; what the record says of the revision is left.
            Err(e) if last && e.kind() == Kind::NotFound => None,
            Err(source) => return Err(Error::Unread { what: "manifest", source }),
        };
        let said =
            images.as_ref().map_or_else(|| study.record.facts.clone(), |images| images.facts(None, None));
        let doubt = last && matches!(&study.record.state, StudyState::Complete { doubt: Some(_), .. });
        let facts = plan::facts(&study.record, &said, images.as_ref(), plan.revision, doubt);
        Ok(version.policy.decide(&facts))
    }
}

/// The value of a decided field, for people.
fn value(field: &str, plan: &Plan, case: Option<&Case>, decision: &Decision) -> String {
    match field {
        "class" => case.map_or(&decision.class, |case| &case.class).to_string(),
        "read" => plan.case().is_some().to_string(),
        "pools" => list(case.map_or(&decision.pools, |case| &case.pools).iter()),
        "ai" => list(
            plan.ai
                .iter()
                .map(|AiRequest { service, timeout }| format!("{service} within {}", Period(*timeout))),
        ),
        "destinations" => list(plan.destinations.iter()),
        // A field that a newer build decided on: its rule is told, its value is not known here.
        _ => String::new(),
    }
}

fn list<T: ToString>(items: impl Iterator<Item = T>) -> String {
    items.map(|item| item.to_string()).collect::<Vec<_>>().join(", ")
}
