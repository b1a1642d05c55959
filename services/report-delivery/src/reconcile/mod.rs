//! The two reconcilers: [`cases`] makes the deliveries that signed reports owe, [`lanes`] sends them.

pub(crate) mod book;
pub(crate) mod cases;
pub(crate) mod gate;
pub(crate) mod index;
pub(crate) mod lanes;
pub(crate) mod send;

/// Who acts, in events.
pub(crate) const ACTOR: &str = "report-delivery";
