//! What can go wrong here.

use isocenter_domain::{Kind, Kinded, id::DestinationId, record::Illegal};
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
    /// The message id is another delivery's.
    #[error("message_id is not that of this report to this destination")]
    OtherMessage,
    /// The destination is not one whose receiver fetches its reports.
    #[error("destination {0} is not registered with protocol GRPC")]
    NotFetched(DestinationId),
    /// The destination is somebody else's.
    #[error(
        "only destination {0} itself, a network whose certificate has this common name, takes its reports"
    )]
    NotYours(DestinationId),
    /// More streams than this process serves.
    #[error("{0}")]
    TooManyWatches(&'static str),
    /// The caller does not read what it is sent.
    #[error("the stream was not read in time; what was not acknowledged on it comes again")]
    Stalled,
    /// The process ends.
    #[error("this process is shutting down; call another")]
    Draining,
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Config { .. } => Kind::Invalid,
            Self::Table(e) => e.kind(),
            Self::Blobs(e) => e.kind(),
            Self::Illegal(e) => e.kind(),
            Self::NoDelivery => Kind::NotFound,
            Self::OtherMessage => Kind::Invalid,
            Self::NotFetched(_) => Kind::FailedPrecondition,
            Self::NotYours(_) => Kind::PermissionDenied,
            Self::TooManyWatches(_) | Self::Stalled => Kind::Exhausted,
            Self::Draining => Kind::Unavailable,
        }
    }
}
