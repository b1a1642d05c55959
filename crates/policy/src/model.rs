//! A policy that was accepted.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use isocenter_domain::{
    Time,
    id::{AiServiceId, ClassId, DestinationId, JurisdictionId, PoolId, SiteId},
    record::case::{Reading, Urgency},
};
use sha2::{Digest, Sha256};

use crate::expression::Expression;

/// A clinical class: how soon its studies must be read, and what that weighs beside the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassPolicy {
    /// From complete to signed.
    pub deadline: Duration,
    /// What it weighs in the order of the queue.
    pub urgency: Urgency,
    /// How its studies are read where no rule says otherwise.
    pub reading: Reading,
    /// How long an open read may be silent before it is listed as stuck.
    pub orphan_after: Duration,
}

impl ClassPolicy {
    /// When a study complete at `complete_at` must be signed.
    #[must_use]
    pub fn deadline_at(&self, complete_at: Time) -> Time {
        complete_at.plus(self.deadline)
    }
}

/// What a class weighs where its text does not say: the shorter the deadline, the more a delay costs and the more of its
/// studies are critical. Classes that must be read within the hour are never promised ahead.
pub(crate) const fn urgency(deadline: Duration) -> Urgency {
    const HOUR: u64 = 60 * 60;
    let seconds = deadline.as_secs();
    let (weight, prior_ppm) = if seconds <= HOUR {
        (180, 200_000)
    } else if seconds <= 4 * HOUR {
        (60, 60_000)
    } else if seconds <= 12 * HOUR {
        (4, 15_000)
    } else {
        (2, 15_000)
    };
    Urgency { weight, critical: AI_WEIGHT, prior_ppm, next_up: seconds > HOUR }
}

/// The weight of the AI probability where a class does not say.
const AI_WEIGHT: u32 = 20;

/// One AI service to ask, and how long its answer is awaited.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AiRequest {
    /// The service.
    pub service: AiServiceId,
    /// After this the answer counts as late. Never zero.
    pub timeout: Duration,
}

/// A pool, or the pool of the study's own site.
#[derive(Clone, Debug)]
pub(crate) enum PoolTarget {
    Named(PoolId),
    OwnSite,
}

impl PoolTarget {
    pub(crate) fn of(&self, site: &SiteId) -> PoolId {
        match self {
            Self::Named(pool) => pool.clone(),
            Self::OwnSite => PoolId::new(format!("site:{site}")).expect("site: and a site id is a pool id"),
        }
    }
}

/// A destination, or the one of the study's own site.
#[derive(Clone, Debug)]
pub(crate) enum DestinationTarget {
    Named(DestinationId),
    OwnSite,
}

impl DestinationTarget {
    pub(crate) fn of(&self, site: &SiteId) -> DestinationId {
        match self {
            Self::Named(destination) => destination.clone(),
            Self::OwnSite => {
                DestinationId::new(site.as_str()).expect("site ids and destination ids obey one rule")
            }
        }
    }
}

/// What a matching rule sets; `None` leaves the field to later rules and to the default.
pub(crate) struct Settings {
    pub class: Option<ClassId>,
    pub read: Option<bool>,
    pub ai: Option<Vec<AiRequest>>,
    pub pools: Option<Vec<PoolTarget>>,
    pub destinations: Option<Vec<DestinationTarget>>,
    pub double: Option<bool>,
    pub review_ppm: Option<u32>,
    pub jurisdiction: Option<JurisdictionId>,
}

impl Settings {
    pub(crate) const fn is_empty(&self) -> bool {
        self.class.is_none()
            && self.read.is_none()
            && self.ai.is_none()
            && self.pools.is_none()
            && self.destinations.is_none()
            && self.double.is_none()
            && self.review_ppm.is_none()
            && self.jurisdiction.is_none()
    }
}

pub(crate) struct Rule {
    pub name: Arc<str>,
    pub when: Expression,
    pub settings: Settings,
}

/// What fills the fields no rule set. It always reads.
pub(crate) struct Defaults {
    pub class: ClassId,
    pub ai: Vec<AiRequest>,
    pub pools: Vec<PoolTarget>,
    pub destinations: Vec<DestinationTarget>,
    pub jurisdiction: Option<JurisdictionId>,
}

/// A policy that was accepted: every rule can be evaluated, every class exists, the default routes every study.
///
/// Immutable and shareable between threads.
pub struct Policy {
    pub(crate) name: String,
    pub(crate) hash: String,
    pub(crate) env: Arc<cel::Env>,
    pub(crate) classes: BTreeMap<ClassId, ClassPolicy>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) defaults: Defaults,
    pub(crate) paediatric_under: u32,
    pub(crate) group_by: GroupBy,
}

/// Which studies are read together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupBy {
    /// Each study by itself.
    #[default]
    Study,
    /// Studies of one patient and site that come within [`GroupBy::VISIT`] prefer one reader. No study waits for another.
    Visit,
}

impl GroupBy {
    /// How long after the first study's completion another one counts as of the same visit.
    pub const VISIT: Duration = Duration::from_secs(4 * 60 * 60);
}

impl Policy {
    /// Which studies are read together.
    #[must_use]
    pub const fn group_by(&self) -> GroupBy {
        self.group_by
    }

    /// The policy's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// SHA-256 of the text it was parsed from, 64 lower-case hexadecimal digits: its version.
    #[must_use]
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// The class of that name. Every class a decision of this policy names exists; one from an earlier version of
    /// the policy may not.
    #[must_use]
    pub fn class(&self, id: &ClassId) -> Option<&ClassPolicy> {
        self.classes.get(id)
    }

    /// Every class, by name.
    pub fn classes(&self) -> impl Iterator<Item = (&ClassId, &ClassPolicy)> {
        self.classes.iter()
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("name", &self.name).field("hash", &self.hash).finish_non_exhaustive()
    }
}

/// The version of a policy text.
pub(crate) fn hash(text: &str) -> String {
    data_encoding::HEXLOWER.encode(&Sha256::digest(text.as_bytes()))
}
