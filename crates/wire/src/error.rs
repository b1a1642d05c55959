//! What cannot be converted, and where.

use isocenter_domain::{Kind, Kinded, id::InvalidId};

/// A message that does not make a domain value. Names the field, never its content.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field} {why}")]
pub struct Malformed {
    /// The field, as the proto spells it.
    pub field: &'static str,
    /// What is wrong with it.
    pub why: String,
}

impl Malformed {
    /// `field` is wrong in this way.
    #[must_use]
    pub fn new(field: &'static str, why: impl Into<String>) -> Self {
        Self { field, why: why.into() }
    }

    /// Says which field an identifier was in.
    pub fn at(field: &'static str) -> impl Fn(InvalidId) -> Self {
        move |e| Self::new(field, e.to_string())
    }
}

impl Kinded for Malformed {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Stored bytes that this process cannot take for a record or document.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Undecodable {
    /// Written by a newer process: leave it alone, and list it.
    #[error("stored at level {level}, this process knows level {ours}: leave it to a newer one")]
    FromTheFuture {
        /// The record's level.
        level: u32,
        /// Ours.
        ours: u32,
    },
    /// Not what it should be: a defect or damage.
    #[error("stored value is damaged: {0}")]
    Damaged(String),
}

impl From<Malformed> for Undecodable {
    fn from(e: Malformed) -> Self {
        Self::Damaged(e.to_string())
    }
}

impl Kinded for Undecodable {
    fn kind(&self) -> Kind {
        Kind::DataLoss
    }
}
