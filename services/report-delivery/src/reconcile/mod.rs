//! The two reconcilers: [`cases`] makes the deliveries that signed reports owe, [`lanes`] sends them.

pub(crate) mod cases;
pub(crate) mod gate;
mod index;
pub(crate) mod lanes;
mod send;

/// Who acts, in events.
pub(crate) const ACTOR: &str = "report-delivery";
