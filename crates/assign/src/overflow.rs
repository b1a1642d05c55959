//! When the work of one pool is opened to another.
//!
//! Overflow is never a gate that has to be passed on the way: it only adds readers. A read keeps the pools it has, so
//! that whoever is free first takes it.

use std::{collections::BTreeMap, time::Duration};

use isocenter_domain::{Time, id::PoolId};

use crate::Urgency;

/// The share of the target, in percent, that age and predicted wait together may reach before a deadline counts as at
/// risk.
const RISK_PERCENT: u32 = 80;

/// When a pool's reads are opened to another. Whichever bound is reached first; also where neither is but the
/// prediction says that the deadline is at risk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    /// The other pool.
    pub to: PoolId,
    /// The share of the target, in percent, that may pass before. 0: at once.
    pub at_percent: u32,
    /// The predicted wait in the pool from which on its reads are opened whatever their age; none: no such bound.
    pub predicted_wait: Option<Duration>,
}

/// Who may have a read now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opened {
    /// The pools it was meant for, in their order, and after them those that it overflows to.
    pub pools: Vec<PoolId>,
    /// When age alone opens the next one; none: all are open. A prediction may open it sooner.
    pub next: Option<Time>,
}

/// The pools whose readers may have a read at `now` that was meant for `named`. `predicted` is the wait that the pool's
/// reads of this class are predicted to have from now, if there is a prediction; [`Duration::MAX`] where nobody will be
/// there. Reads of immediate classes are opened at once; a pool that a read overflowed to may overflow in turn.
#[must_use]
pub fn pools(
    named: &[PoolId],
    rules: &BTreeMap<PoolId, Rule>,
    (urgency, complete_at): (&Urgency, Time),
    predicted: impl Fn(&PoolId) -> Option<Duration>,
    now: Time,
) -> Opened {
    let mut opened = Opened { pools: named.to_vec(), next: None };
    let age = now.since(complete_at);
    let risk = percent(urgency.target, RISK_PERCENT);
    let mut looked_at = 0;
    while let Some(pool) = opened.pools.get(looked_at) {
        looked_at += 1;
        let Some(rule) = rules.get(pool).filter(|rule| !opened.pools.contains(&rule.to)) else { continue };
        let at = complete_at.plus(percent(urgency.target, rule.at_percent));
        let wait = predicted(pool);
        let long = wait.is_some_and(|wait| {
            rule.predicted_wait.is_some_and(|most| wait >= most) || age.saturating_add(wait) >= risk
        });
        if !urgency.next_up || at <= now || long {
            opened.pools.push(rule.to.clone());
        } else {
            opened.next = Some(opened.next.map_or(at, |earlier| earlier.min(at)));
        }
    }
    opened
}

fn percent(of: Duration, percent: u32) -> Duration {
    of.saturating_mul(percent) / 100
}
