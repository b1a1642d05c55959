//! What can go wrong in ingestion.

use std::{io, net::SocketAddr};

use isocenter_domain::{Kind, Kinded, id::InvalidId, record::Illegal};
use isocenter_store::table::TableError;
use isocenter_wire::error::Undecodable;

use crate::spool::SpoolError;

/// A failure of ingestion.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A setting that cannot be used.
    #[error("{key} {why}")]
    Config {
        /// The setting.
        key: &'static str,
        /// What is wrong with it, and what to write.
        why: String,
    },
    /// The DICOM listener cannot be bound.
    #[error("cannot listen for DICOM on {address}")]
    Listen {
        /// Where.
        address: SocketAddr,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The spool.
    #[error("the spool failed")]
    Spool(#[from] SpoolError),
    /// The store.
    #[error("a record cannot be read or written")]
    Table(#[from] TableError),
    /// Blobs.
    #[error("an object cannot be read or written")]
    Blobs(#[from] isocenter_blobs::Error),
    /// A document in blobs is damaged or of a newer level.
    #[error("{what} cannot be understood")]
    Document {
        /// Which kind of document.
        what: &'static str,
        /// Why.
        #[source]
        source: Undecodable,
    },
    /// A study's state does not allow what was tried: somebody was faster.
    #[error("the study is in another state")]
    Illegal(#[from] Illegal),
    /// Work off the async threads was cut short, because the process ends.
    #[error("the process ends")]
    Ending,
    /// No live study has this UID.
    #[error("no live study has this Study Instance UID; Archive.SearchStudies finds closed ones")]
    NoSuchStudy,
    /// The registry was not read yet since this process began.
    #[error("the registry cannot be read")]
    Registry,
    /// Nothing of the study is in blobs yet.
    #[error("no image of the study is in blobs yet, so that there is nothing to complete")]
    NothingInBlobs,
    /// A request's field is wrong.
    #[error("{field} is not valid")]
    Request {
        /// The field.
        field: &'static str,
        /// What is wrong with it.
        #[source]
        source: InvalidId,
    },
    /// A request's number is out of its bounds.
    #[error("{field} {why}")]
    Bounds {
        /// The field.
        field: &'static str,
        /// What is allowed.
        why: &'static str,
    },
    /// This server drains; another one answers.
    #[error("this server drains: call again")]
    Draining,
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } | Self::Request { .. } | Self::Bounds { .. } => Kind::Invalid,
            Self::Listen { .. } | Self::Ending | Self::Draining | Self::Registry => Kind::Unavailable,
            Self::Spool(e) => e.kind(),
            Self::Table(e) => e.kind(),
            Self::Blobs(e) => e.kind(),
            Self::Document { .. } => Kind::DataLoss,
            Self::Illegal(_) => Kind::Conflict,
            Self::NoSuchStudy => Kind::NotFound,
            Self::NothingInBlobs => Kind::FailedPrecondition,
        }
    }
}
