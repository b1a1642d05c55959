//! What one reader has in hand.

use super::ReadEffect;
use crate::{
    id::ReadId,
    key::HoldingKey,
    record::{Illegal, Record},
};

/// What one reader has in hand. Every transaction that offers, opens, sets aside, returns, transfers or signs compares and
/// puts it, which is why a reader can never have two open reads.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Holding {
    /// The standing offer; a reader who has a read open may have one besides.
    pub offered: Option<ReadId>,
    /// The open read.
    pub open: Option<ReadId>,
    /// Reads set aside, in the order in which they were, at most [`Holding::MAX_SUSPENDED`].
    pub suspended: Vec<ReadId>,
}

impl Record for Holding {
    type Key = HoldingKey;
}

impl Holding {
    /// How many reads one reader may have set aside.
    pub const MAX_SUSPENDED: usize = 8;

    /// The holding after one effect of a change of `read`.
    pub fn apply(mut self, read: &ReadId, effect: &ReadEffect) -> Result<Self, Illegal> {
        let illegal = |state, event, why| Illegal { record: "holding", state, event, why };
        match effect {
            ReadEffect::HoldOffered(_) => {
                if self.offered.as_ref().is_some_and(|offered| offered != read) {
                    return Err(illegal("occupied", "offered", "the reader has another offer"));
                }
                self.offered = Some(read.clone());
            }
            ReadEffect::HoldOpen(_) => {
                if self.open.as_ref().is_some_and(|open| open != read) {
                    return Err(illegal("occupied", "opened", "the reader has another read open"));
                }
                self.release(read);
                self.open = Some(read.clone());
            }
            ReadEffect::HoldSuspended(_) => {
                if self.suspended.len() >= Self::MAX_SUSPENDED {
                    return Err(illegal("occupied", "suspended", "the reader has set aside 8 reads already"));
                }
                self.release(read);
                self.suspended.push(read.clone());
            }
            ReadEffect::Release(_) => self.release(read),
            ReadEffect::CreateReport
            | ReadEffect::CreateDiscrepancy { .. }
            | ReadEffect::CreateArbitration => {}
        }
        Ok(self)
    }

    fn release(&mut self, read: &ReadId) {
        self.offered = self.offered.take().filter(|offered| offered != read);
        self.open = self.open.take().filter(|open| open != read);
        self.suspended.retain(|suspended| suspended != read);
    }
}
