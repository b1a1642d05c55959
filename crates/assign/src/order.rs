//! What comes before what.

use isocenter_domain::{Time, id::ReadId};

use crate::Item;

/// The share of its deadline after which a read joins the front lane.
pub const FRONT_LANE_PERCENT: i64 = 80;

/// Which of the two lanes a read waits in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Lane {
    /// Most of its deadline has passed: first come, first served by `complete_at`, ahead of everything else. This is
    /// what keeps AI and urgent classes from starving the rest.
    Front,
    /// Ordered by virtual deadline.
    Regular,
}

/// The place of a read in the queue: less is sooner. The read id settles ties, so that the order is total.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Key {
    lane: Lane,
    due: Time,
    complete_at: Time,
    pub read: ReadId,
}

impl Key {
    pub(crate) fn of(item: &Item, now: Time) -> Self {
        let lane = lane(item, now);
        // In the front lane the virtual deadline no longer counts: complete_at alone is the order.
        let due = match lane {
            Lane::Front => Time::ZERO,
            Lane::Regular => item.virtual_due,
        };
        Self { lane, due, complete_at: item.complete_at, read: item.read.clone() }
    }
}

/// When `item` joins the front lane: once [`FRONT_LANE_PERCENT`] of the time from `complete_at` to `deadline_at` has
/// passed.
pub(crate) fn front_at(item: &Item) -> Time {
    let span = i128::from(item.deadline_at.0) - i128::from(item.complete_at.0);
    let part = span * i128::from(FRONT_LANE_PERCENT) / 100;
    let at = i128::from(item.complete_at.0) + part;
    Time(i64::try_from(at).expect("a point between two instants is an instant"))
}

/// The lane of `item` at `now`.
pub(crate) fn lane(item: &Item, now: Time) -> Lane {
    if front_at(item) <= now { Lane::Front } else { Lane::Regular }
}
