//! What can go wrong here.

use std::sync::Arc;

use isocenter_domain::{Kind, Kinded, record::Illegal};
use isocenter_store::table::TableError;
use isocenter_wire::error::Undecodable;

use crate::records::Schema;

/// Why the archive could not be built, or could not do its work now.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that makes no sense.
    #[error("archive.{field} {why}")]
    Config {
        /// The setting.
        field: &'static str,
        /// What is wrong with it.
        why: &'static str,
    },
    /// A live record could not be had or changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The store refused or does not answer.
    #[error(transparent)]
    Store(#[from] isocenter_store::Error),
    /// An object could not be had or written.
    #[error("blobs failed the archive")]
    Blobs(#[from] isocenter_blobs::Error),
    /// The records (SQL) do not answer or refuse.
    #[error("the records database failed")]
    Records(#[from] sqlx::Error),
    /// The records (SQL) are not reached, and why.
    #[error("the records do not serve now: {0}")]
    Unserved(Arc<str>),
    /// The records' tables are not those that this build works on.
    #[error("{0}")]
    Schema(Schema),
    /// The records are being made again already.
    #[error("the records are being made again already; wait until that is over")]
    Rebuilding,
    /// A document or a record in one cannot be understood.
    #[error("{what} cannot be understood")]
    Undecodable {
        /// What.
        what: &'static str,
        /// Why.
        #[source]
        source: Undecodable,
    },
    /// An object of the journal is damaged.
    #[error("the journal object {object} is damaged: restore it from a backup of blobs")]
    Journal {
        /// Which.
        object: isocenter_blobs::BlobPath,
        /// Why.
        #[source]
        source: Undecodable,
    },
    /// A record's state does not allow what the archive would do.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// Two heads of the same counters differ: the history of a study has forked.
    #[error("the study has a head of the same counters with other records; its history has forked")]
    Fork,
    /// There is no such study.
    #[error("there is no such study")]
    NoStudy,
    /// There is no such report.
    #[error("there is no such report")]
    NoReport,
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } => Kind::Invalid,
            Self::Table(e) => e.kind(),
            Self::Store(e) => e.kind(),
            Self::Blobs(e) => e.kind(),
            Self::Records(e) => match e {
                sqlx::Error::ColumnNotFound(_)
                | sqlx::Error::ColumnDecode { .. }
                | sqlx::Error::Decode(_)
                | sqlx::Error::RowNotFound => Kind::Internal,
                _ => Kind::Unavailable,
            },
            Self::Unserved(_) => Kind::Unavailable,
            Self::Schema(_) | Self::Rebuilding => Kind::FailedPrecondition,
            Self::Undecodable { source, .. } | Self::Journal { source, .. } => source.kind(),
            Self::Illegal(e) => e.kind(),
            Self::Fork => Kind::DataLoss,
            Self::NoStudy | Self::NoReport => Kind::NotFound,
        }
    }
}
