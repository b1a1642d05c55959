//! Reads leased ahead: an offer that stands while its reader has another read open, until it is opened or recalled.

use std::{sync::Arc, time::Duration};

use isocenter_assign::{
    Item, ReaderProfile,
    next_up::{self, Lease, Recalled},
};
use isocenter_domain::{
    Time,
    id::TenantId,
    key::ReadKey,
    record::read::{Holding, Read, ReadEvent, ReadState},
};
use isocenter_runtime::task::chain;
use isocenter_store::table::{Cause, Stored};
use tokio_util::sync::CancellationToken;

use crate::{desk::Desk, error::Error, reconcile::ACTOR, view::case_key};

/// How long a read leased ahead may stand: its reader's presence or a recall ends it sooner, a whole shift at the latest.
pub(crate) const LASTS: Duration = Duration::from_secs(12 * 60 * 60);

/// How often the leases are looked through.
const EVERY: Duration = Duration::from_secs(2);

/// A read leased ahead, and to whom.
pub(crate) struct Leased {
    read: Arc<Stored<Read>>,
    hands: Arc<Stored<Holding>>,
    lease: Lease,
}

impl Desk {
    /// The leases of those hands that `asked` for, as the mirrors have them.
    fn leases(&self, asked: impl Fn(&Stored<Holding>) -> bool) -> impl Iterator<Item = Leased> {
        // The hands say of most that they have no lease, and every offer asks: the reads are looked up last.
        let hands = self.view.holdings.all().into_iter();
        let some = hands.filter(move |hands| hands.record.offered.is_some() && asked(hands));
        some.filter_map(|hands| self.lease(hands))
    }

    fn lease(&self, hands: Arc<Stored<Holding>>) -> Option<Leased> {
        let read = hands.record.offered.clone()?;
        let read = self.view.reads.get(&ReadKey { tenant: hands.key.tenant.clone(), read })?;
        let ReadState::Offered { reader, until } = &read.record.state else { return None };
        let (since, until) = (read.head.updated_at, *until);
        let ahead = *reader == hands.key.reader && is_ahead(since, until);
        let recalled_at = self.board.recalled_at(&read.key);
        let lease = Lease { reader: reader.clone(), since, recalled_at };
        ahead.then_some(Leased { read, hands, lease })
    }

    fn leased_item(&self, leased: &Leased) -> Option<Item> {
        let case = self.view.cases.get(&case_key(&leased.read.key))?;
        Some(self.view.item(&leased.read.key, &leased.read.record, &case.record))
    }

    /// The lease that `free`, who would get `instead` from the queue, makes the most of, if there is one that is to be taken
    /// back for that.
    pub(crate) fn better_used(
        &self,
        tenant: &TenantId,
        free: &ReaderProfile,
        instead: Option<&Item>,
        now: Time,
    ) -> Option<Leased> {
        let params = &self.board.params(tenant, now);
        let rested = |leased: &Leased| now.since(leased.lease.since) >= params.recall.rest;
        let better = |leased: Leased| {
            let item = self.leased_item(&leased)?;
            let holder = self.view.profile(tenant, &leased.lease.reader)?;
            next_up::better_use(params, (&item, &leased.lease), &holder, (free, instead), now)?;
            Some((params.index_of(&item, Some(free), now).value, leased))
        };
        // Nothing is taken from who could turn to it now.
        let busy = |hands: &Stored<Holding>| hands.key.tenant == *tenant && hands.record.open.is_some();
        let better = self.leases(busy).filter(rested).filter_map(better);
        better.max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, leased)| leased)
    }

    /// Takes back what was leased to somebody who makes less of it; says which read that was, unless somebody was first.
    pub(crate) async fn recall(&self, leased: &Leased, now: Time) -> Result<Option<ReadKey>, Error> {
        match self.end_lease(leased, Recalled::BetterUse).await {
            Ok(()) => {}
            // Somebody was first with it; other reads wait.
            Err(e) if e.is_worth_rereading() => return Ok(None),
            Err(e) => return Err(e),
        }
        let key = &leased.read.key;
        self.board.recalled(key, now, self.board.params(&key.tenant, now).recall.window);
        Ok(Some(key.clone()))
    }

    /// Takes back what was leased to a reader, whose hands are free now, where something that waits goes before it.
    ///
    /// # Errors
    /// The store's own.
    pub(crate) async fn outrank(
        &self,
        key: &ReadKey,
        holder: &ReaderProfile,
        now: Time,
    ) -> Result<bool, Error> {
        let Some(waiting) = self.board.peek(&key.tenant, holder, now) else { return Ok(false) };
        let Some(leased) = self.tables.load::<Read>(key).await? else { return Ok(false) };
        let ReadState::Offered { reader, until } = &leased.record.state else { return Ok(false) };
        if *reader != holder.id || !is_ahead(leased.head.updated_at, *until) {
            return Ok(false);
        }
        let case = self.case(key).await?;
        let item = self.view.item(key, &leased.record, &case.record);
        let params = self.board.params(&key.tenant, now);
        let outranked = next_up::outranked(&params, &item, &waiting, holder, now);
        if outranked {
            let cause = Cause::role(ACTOR).because(text(Recalled::Outranked));
            match self.take_back(&leased, ReadEvent::Lapsed, cause).await {
                Ok(()) => self.meters.recalled(name(Recalled::Outranked)),
                // Whatever became of it meanwhile is seen by who looks again.
                Err(e) if e.is_worth_rereading() => {}
                Err(e) => return Err(e),
            }
        }
        Ok(outranked)
    }

    async fn end_lease(&self, leased: &Leased, why: Recalled) -> Result<(), Error> {
        self.take_back(&leased.read, ReadEvent::Lapsed, Cause::role(ACTOR).because(text(why))).await?;
        self.meters.recalled(name(why));
        Ok(())
    }

    /// Ends the leases that cannot stand any more. Only the leader does; a reader's absence is told by the reconciler.
    pub(crate) async fn sweep_leases(&self, now: Time) {
        for leased in self.leases(|_| true) {
            let Some(why) = self.ends(&leased, now) else { continue };
            if let Err(e) = self.end_lease(&leased, why).await
                && !e.is_worth_rereading()
            {
                tracing::info!(error = %chain(&e), "a read leased ahead was not taken back; tries again");
            }
        }
    }

    fn ends(&self, leased: &Leased, now: Time) -> Option<Recalled> {
        let tenant = &leased.read.key.tenant;
        let mut holder = self.view.profile(tenant, &leased.lease.reader);
        // Whether a missing sign of life counts is not for this to decide.
        if let Some(holder) = &mut holder {
            holder.present = true;
        }
        if leased.hands.record.open.is_none() {
            // The hands are free: from then on it is an offer like any other.
            let free_since = leased.lease.since.max(leased.hands.head.updated_at);
            let over = now.since(free_since) >= self.config.offer.0;
            return over.then_some(Recalled::Holder(isocenter_assign::Rejection::NotAccepting));
        }
        let item = self.leased_item(leased)?;
        next_up::lapsed(&self.board.params(tenant, now), &item, holder.as_ref(), now)
    }

    /// Looks through the leases until `ended`.
    pub(crate) async fn keep_leases(self: Arc<Self>, ended: CancellationToken) {
        let mut tick = tokio::time::interval(EVERY);
        loop {
            tokio::select! {
                () = ended.cancelled() => return,
                _ = tick.tick() => {}
            }
            if self.leadership.fence().is_some() {
                self.sweep_leases(self.now()).await;
            }
        }
    }
}

/// Whether what was offered at `since` was leased ahead: offers and what is handed on last minutes.
pub(crate) fn is_ahead(since: Time, until: Time) -> bool {
    until.since(since) > LASTS / 2
}

/// Why, for the event.
const fn text(why: Recalled) -> &'static str {
    match why {
        Recalled::Holder(_) => "its reader did not take it up or may not have it any more",
        Recalled::Immediate => "its class is not leased ahead",
        Recalled::Front => "it joined the front lane: it goes to the next who is free",
        Recalled::BetterUse => "recalled for a better use",
        Recalled::Outranked => "its reader has something to read before it",
    }
}

const fn name(why: Recalled) -> &'static str {
    match why {
        Recalled::Holder(_) => "holder",
        Recalled::Immediate => "immediate",
        Recalled::Front => "front",
        Recalled::BetterUse => "better-use",
        Recalled::Outranked => "outranked",
    }
}
