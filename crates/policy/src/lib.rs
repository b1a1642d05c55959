//! The network's policy: which class and deadline a study gets, which AI services see it, who may read it and where
//! its report goes.
//!
//! A policy is one YAML text of rules whose conditions are CEL over the flat names of [`Facts`]. [`Policy::parse`]
//! accepts a text only if every rule can be evaluated; [`Policy::decide`] is then total: whatever the facts, the
//! study is routed. Pure: no I/O, no clock, no randomness; the same text and the same facts decide the same for ever.

mod check;
mod decide;
mod error;
mod expression;
mod facts;
mod locate;
mod model;
mod parse;
pub mod roster;
mod shape;
mod text;

pub use decide::{Decision, Fields, Outcome, RuleOutcome, Source};
pub use error::{PolicyError, Problem};
pub use facts::{FACT_NAMES, FactKind, Facts};
pub use model::{AiRequest, ClassPolicy, GroupBy, Policy};
pub use parse::{MAX_ENTRIES, MAX_EXPRESSION_BYTES, MAX_RULES, MAX_TEXT_BYTES};

/// The policy that is active until a network applies its own.
pub const DEFAULT_TEXT: &str = include_str!("../default.yaml");
