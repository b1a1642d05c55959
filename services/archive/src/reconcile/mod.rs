//! The reconcilers: [`drain`] journals what happened, [`close`] takes away what is finished, [`reopen`] brings it back.

pub(crate) mod close;
pub(crate) mod drain;
pub(crate) mod load;
pub(crate) mod outbox;
pub(crate) mod reopen;
pub(crate) mod source;

/// Who acts, in events.
pub(crate) const ACTOR: &str = "archive";
