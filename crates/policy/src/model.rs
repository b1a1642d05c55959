//! A policy that was accepted.

use std::{collections::BTreeMap, fmt, sync::Arc, time::Duration};

use isocenter_domain::{
    Time,
    id::{AiServiceId, ClassId, DestinationId, PoolId, SiteId},
};
use sha2::{Digest, Sha256};

use crate::expression::Expression;

/// A clinical class: how soon its studies must be read, and how far AI may move one forward.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClassPolicy {
    /// From complete to signed.
    pub deadline: Duration,
    /// How far a probability of 1 moves a study forward; never more than the deadline.
    pub ai_credit: Duration,
    /// How long an open read may be silent before it is listed as stuck.
    pub orphan_after: Duration,
}

impl ClassPolicy {
    /// When a study complete at `complete_at` must be signed.
    #[must_use]
    pub fn deadline_at(&self, complete_at: Time) -> Time {
        complete_at.plus(self.deadline)
    }

    /// What the queue orders a study of this class by: [`virtual_due`] of its deadline and credit.
    #[must_use]
    pub fn virtual_due(&self, complete_at: Time, p: Option<f64>) -> Time {
        virtual_due(complete_at, self.deadline, self.ai_credit, p)
    }
}

/// What the queue orders by: `complete_at + deadline - ai_credit * p`, in whole microseconds, saturating.
///
/// `p` is the calibrated probability that AI gave; absent, not a number or outside 0..=1 it counts as 0, so that AI
/// which is missing or broken never moves a study. A greater `p` never gives a later time.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_precision_loss, clippy::cast_sign_loss)]
pub fn virtual_due(complete_at: Time, deadline: Duration, ai_credit: Duration, p: Option<f64>) -> Time {
    let p = p.filter(|p| (0.0..=1.0).contains(p)).unwrap_or(0.0);
    let credit = ai_credit.as_micros() as f64 * p;
    complete_at.plus(deadline).minus(Duration::from_micros(credit as u64))
}

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
}

impl Settings {
    pub(crate) const fn is_empty(&self) -> bool {
        self.class.is_none()
            && self.read.is_none()
            && self.ai.is_none()
            && self.pools.is_none()
            && self.destinations.is_none()
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
}

impl Policy {
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
