//! What can go wrong here.

use isocenter_domain::{Kind, Kinded, record::Illegal};
use isocenter_store::table::TableError;
use isocenter_wire::error::Undecodable;

/// Why AI dispatch could not be built, or could not do its work now. What a vendor's service says, or that it says
/// nothing, is no error: it is the outcome of a task.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that makes no sense.
    #[error("ai.{field} {why}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A record could not be had or changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// A manifest, a result or pixels could not be read or written.
    #[error("an object in blobs could not be used")]
    Blobs(#[from] isocenter_blobs::Error),
    /// A manifest cannot be understood.
    #[error("a manifest cannot be understood")]
    Manifest(#[from] Undecodable),
    /// The record's state does not allow what was asked.
    #[error(transparent)]
    Illegal(#[from] Illegal),
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } => Kind::Invalid,
            Self::Table(e) => e.kind(),
            Self::Blobs(e) => e.kind(),
            Self::Manifest(e) => e.kind(),
            Self::Illegal(e) => e.kind(),
        }
    }
}
