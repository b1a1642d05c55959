//! Handing a read to another reader, and ending one that nobody wants any more: compare-and-swap at any replica.

use std::time::Duration;

use isocenter_domain::{
    id::ReaderId,
    key::ReadKey,
    record::{
        case::CaseState,
        read::{Read, ReadEvent, ReadState, ReturnReason},
    },
};
use isocenter_store::table::{Cause, Stored, TableError};
use isocenter_wire::v1;

use crate::{
    desk::{ATTEMPTS, Desk},
    error::Error,
    hold::over,
    plan::item,
};

/// How long a read that was handed over waits to be taken: a colleague has work of his own in hand.
const HANDED: Duration = Duration::from_secs(15 * 60);

/// Who hands a read on.
#[derive(Clone, Debug)]
pub(crate) enum By {
    /// Its holder, with the token.
    Holder(ReaderId, String),
    /// A lead, from its holder or, where nobody holds it, out of the queue.
    Lead(Option<ReaderId>),
}

impl Desk {
    /// Hands a read to the reader `to`, who takes it by opening it.
    pub async fn transfer(
        &self,
        key: &ReadKey,
        by: &By,
        to: &ReaderId,
        cause: &Cause,
    ) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(key).await?;
            if was_transferred(&read.record, by, to) {
                return self.shown(key).await;
            }
            match self.try_transfer(&read, by, to, cause).await {
                Ok(()) => {
                    self.tally.transferred();
                    return self.shown(key).await;
                }
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }

    async fn try_transfer(
        &self,
        read: &Stored<Read>,
        by: &By,
        to: &ReaderId,
        cause: &Cause,
    ) -> Result<(), Error> {
        over(&read.record)?;
        let by = match by {
            By::Lead(from) if read.record.holder() == from.as_ref() => None,
            By::Lead(None) => return Err(Error::HELD),
            By::Lead(Some(_)) => return Err(Error::NOT_HELD),
            By::Holder(holder, _) if read.record.holder() != Some(holder) => return Err(Error::NOT_HELD),
            By::Holder(_, token) if read.record.token() != Some(token) => {
                return Err(Error::Stale { kept: false });
            }
            By::Holder(holder, token) => Some((holder.clone(), token.clone())),
        };
        let tenant = &read.key.tenant;
        let case = self.case(&read.key).await?;
        if case.record.state != CaseState::Ready {
            return Err(Error::CLOSED);
        }
        // Offered to somebody who is away it would come back at once, and nobody would know why.
        if self.view.presence.now(tenant, to).await?.sign.is_none() {
            return Err(Error::NOT_PRESENT);
        }
        let theirs = self.hands(tenant, to).await?;
        if theirs.holding().offered.is_some_and(|offered| offered != read.key.read) {
            return Err(Error::OFFERED_ANOTHER);
        }
        let from = match read.record.holder() {
            Some(holder) if holder != to => Some(self.hands(tenant, holder).await?),
            Some(_) | None => None,
        };
        let mut change = self.tables.change(cause.clone());
        self.still_qualified(to, read, &case, &mut change).await?;
        // Nobody else can have it meanwhile, so that an emergency waits no longer than an offer of it would.
        let may_wait = item::weighs(&read.record, &case.record).next_up;
        let until = change.now().plus(if may_wait { HANDED } else { self.config.offer.0 });
        let hands: Vec<_> = from.iter().chain([&theirs]).collect();
        self.apply(&mut change, read, &hands, ReadEvent::Transferred { by, to: to.clone(), until })?;
        change.unchanged(&case);
        change.commit().await?;
        Ok(())
    }

    /// Ends a second opinion, a consultation or a review.
    pub async fn cancel(&self, key: &ReadKey, cause: &Cause) -> Result<v1::Read, Error> {
        let mut last = TableError::Conflict.into();
        for _ in 0..ATTEMPTS {
            let read = self.read(key).await?;
            if matches!(read.record.state, ReadState::Cancelled { .. }) {
                return self.shown(key).await;
            }
            over(&read.record)?;
            if read.record.kind.is_of_record() {
                return Err(Error::OF_RECORD);
            }
            let hands = match read.record.holder() {
                Some(holder) => Some(self.hands(&key.tenant, holder).await?),
                None => None,
            };
            let mut change = self.tables.change(cause.clone());
            let hands: Vec<_> = hands.iter().collect();
            self.apply(&mut change, &read, &hands, ReadEvent::Cancelled)?;
            match change.commit().await.map_err(Error::from) {
                Ok(_) => return self.shown(key).await,
                Err(e) if e.is_worth_rereading() => last = e,
                Err(e) => return Err(e),
            }
        }
        Err(last)
    }
}

/// Whether this was done before: the reader has it from a lead, or its holder is known to have handed it on, whoever has it
/// by now.
fn was_transferred(read: &Read, by: &By, to: &ReaderId) -> bool {
    match by {
        By::Lead(_) => read.holder() == Some(to),
        By::Holder(from, _) => read.holder() != Some(from) && read.left(from, ReturnReason::Transferred),
    }
}
