//! Leasing a read ahead to a reader who is still busy: the images are there when the reader turns to it.
//!
//! A lease binds early, which costs waiting: hence its depth is one, it never takes an immediate class, and until the
//! read is opened it can be recalled for a better use.

use isocenter_domain::{Time, id::ReaderId};

use crate::{Item, Lane, Params, ReaderProfile, Rejection, filter};

/// A read that was leased ahead and is not open yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lease {
    /// Its holder.
    pub reader: ReaderId,
    /// Since when.
    pub since: Time,
    /// When the same read was last taken back from somebody for a better use.
    pub recalled_at: Option<Time>,
}

/// Why a lease ends before its read is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recalled {
    /// Its holder may not have the read any more.
    Holder(Rejection),
    /// The read has become one of an immediate class.
    Immediate,
    /// The read joined the front lane: it goes to the next who is free.
    Front,
    /// Somebody who is free makes enough more of it than of anything else that waits.
    BetterUse,
    /// Its holder, whose hands are free, has something to read before it.
    Outranked,
}

/// Whether `reader` may be leased a read ahead at `now`: one open read, no offer, at work, not spared.
///
/// # Errors
/// The first filter that refuses.
pub fn may_lease(reader: &ReaderProfile, now: Time) -> Result<(), Rejection> {
    if !reader.present {
        return Err(Rejection::NotPresent);
    }
    if !reader.accepting {
        return Err(Rejection::NotAccepting);
    }
    if reader.holding.offered != 0 || reader.holding.open != 1 {
        return Err(Rejection::AlreadyHolds);
    }
    filter::at_work(reader, now)?;
    if reader.is_spared() { Err(Rejection::Spared) } else { Ok(()) }
}

/// Whether `item` may be leased at `now`: not of an immediate class, and not in the front lane, which is for the next who is
/// free.
#[must_use]
pub fn may_wait(params: &Params, item: &Item, now: Time) -> bool {
    item.urgency.next_up && params.lane(&item.urgency, item.complete_at, now) != Lane::Front
}

/// Whether the lease of `item` ends at `now` whoever else may want it: its holder cannot have it any more, or it may
/// not be leased any more. `holder` is `None` where the registry no longer knows them.
#[must_use]
pub fn lapsed(params: &Params, item: &Item, holder: Option<&ReaderProfile>, now: Time) -> Option<Recalled> {
    let Some(holder) = holder else { return Some(Recalled::Holder(Rejection::NotPresent)) };
    if !holder.present {
        return Some(Recalled::Holder(Rejection::NotPresent));
    }
    if let Err(rejection) = filter::openable(item, holder, now) {
        return Some(Recalled::Holder(rejection));
    }
    if !item.urgency.next_up {
        return Some(Recalled::Immediate);
    }
    match params.lane(&item.urgency, item.complete_at, now) {
        // A holder whose hands are free turns to it now.
        Lane::Front if holder.holding.open > 0 => Some(Recalled::Front),
        Lane::Front | Lane::Regular => None,
    }
}

/// Whether `reader`, whose hands are free, gives `leased` back for `waiting`, the first of the queue that they may have: it
/// is of an immediate class or in the front lane where the leased one is not, or worth enough more. Without this what is
/// urgent would wait behind what was leased before it came.
#[must_use]
pub fn outranked(params: &Params, leased: &Item, waiting: &Item, reader: &ReaderProfile, now: Time) -> bool {
    let before = params.rank(waiting, Some(reader), now) < params.rank(leased, Some(reader), now);
    let immediate = !waiting.urgency.next_up && leased.urgency.next_up;
    let lane = |item: &Item| params.lane(&item.urgency, item.complete_at, now);
    let index = |item| params.index_of(item, Some(reader), now).value;
    let worth = || index(waiting) >= index(leased) * params.recall.gain;
    before && (immediate || lane(waiting) < lane(leased) || worth())
}

/// Whether `free`, who asks for work at `now` and would get `instead` from the queue, is given the leased `item` of
/// `holder`. Never of a holder whose own hands are free. A lease that was made less than [`Recall::rest`] ago stands,
/// and one read is recalled for a better use at most once in [`Recall::window`].
///
/// [`Recall::rest`]: crate::Recall::rest
/// [`Recall::window`]: crate::Recall::window
#[must_use]
pub fn better_use(
    params: &Params,
    (item, lease): (&Item, &Lease),
    holder: &ReaderProfile,
    (free, instead): (&ReaderProfile, Option<&Item>),
    now: Time,
) -> Option<Recalled> {
    let recall = &params.recall;
    let rested = now.since(lease.since) >= recall.rest;
    let due = lease.recalled_at.is_none_or(|at| now.since(at) >= recall.window);
    if holder.holding.open == 0 || !rested || !due || filter::eligible(item, free, now).is_err() {
        return None;
    }
    let own = params.index_of(item, Some(free), now).value;
    let other = instead.map(|instead| {
        let before = params.rank(instead, Some(free), now) < params.rank(item, Some(free), now);
        // What goes first by lane or tier is taken first, whatever the index.
        if before { f64::INFINITY } else { params.index_of(instead, Some(free), now).value }
    });
    other.is_none_or(|other| own >= other * recall.gain).then_some(Recalled::BetterUse)
}
