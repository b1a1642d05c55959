//! What the policy decided for a study. Owner: routing.

use std::time::Duration;

use super::Record;
use crate::{
    id::{AiServiceId, CaseId, DestinationId},
    key::PlanKey,
    refs::Digest,
};

/// A decision of the policy, with all that is needed to explain it later.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Plan {
    /// The study revision decided on; a newer one is decided again.
    pub revision: u32,
    /// The policy text, by hash.
    pub policy: Digest,
    /// What is to be read, or why nothing is.
    pub reading: Reading,
    /// The services that shall analyse the study, beside the human queue.
    pub ai: Vec<AiRequest>,
    /// Where its reports go.
    pub destinations: Vec<DestinationId>,
    /// Which rule set which field: (field, rule); `default` where no rule did.
    pub rules: Vec<(String, String)>,
}

/// Whether a person reads the study.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reading {
    /// In this case.
    Case(CaseId),
    /// Nobody, because the named rule said so.
    None {
        /// The rule.
        rule: String,
    },
}

/// A service to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AiRequest {
    /// The service.
    pub service: AiServiceId,
    /// How long its answer is awaited, from the moment the plan is made.
    pub timeout: Duration,
}

impl Record for Plan {
    type Key = PlanKey;
}

impl Plan {
    /// The case, where the study is read.
    #[must_use]
    pub const fn case(&self) -> Option<&CaseId> {
        match &self.reading {
            Reading::Case(case) => Some(case),
            Reading::None { .. } => None,
        }
    }
}
