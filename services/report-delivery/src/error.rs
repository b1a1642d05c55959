//! What can go wrong here.

use isocenter_domain::{Kind, Kinded, record::Illegal};
use isocenter_store::table::TableError;

/// Why report delivery could not be built, or could not do its work now. What a receiver says is no error: it is an
/// outcome of a delivery.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that makes no sense.
    #[error("delivery.{field} {why}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A record could not be had or changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// Blobs do not answer. What is missing or damaged there is no such error: it makes a dead letter.
    #[error("a report or manifest could not be read from blobs")]
    Blobs(#[source] isocenter_blobs::Error),
    /// The record's state does not allow what was asked.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// There is no such delivery.
    #[error("there is no such delivery; it may be archived with its case")]
    NoDelivery,
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } => Kind::Invalid,
            Self::Table(e) => e.kind(),
            Self::Blobs(e) => e.kind(),
            Self::Illegal(e) => e.kind(),
            Self::NoDelivery => Kind::NotFound,
        }
    }
}
