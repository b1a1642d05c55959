//! Numbers that cannot be true.

use std::fmt;

/// A number from outside that no item, reader or observation can have. Whoever brought it is told; what is already
/// known stands, and the queue goes on.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error("{field} is {value}: {why}")]
pub struct Absurd {
    /// The field, as the caller names it.
    pub field: &'static str,
    /// The value as it came.
    pub value: String,
    /// What would be right.
    pub why: &'static str,
}

impl Absurd {
    pub(crate) fn new(field: &'static str, value: impl fmt::Display, why: &'static str) -> Self {
        Self { field, value: value.to_string(), why }
    }
}

/// `value` if it is within `low` and `high`; NaN is not.
pub(crate) fn within(
    field: &'static str,
    value: f64,
    low: f64,
    high: f64,
    why: &'static str,
) -> Result<f64, Absurd> {
    if value >= low && value <= high { Ok(value) } else { Err(Absurd::new(field, value, why)) }
}
