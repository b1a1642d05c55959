//! What can go wrong here.

use isocenter_domain::{
    Kind, Kinded,
    id::{AeTitle, SiteId},
    record::Illegal,
};
use isocenter_policy::PolicyError;
use isocenter_store::table::TableError;
use isocenter_wire::error::Undecodable;

/// Why routing could not do its work now, or refuses a request.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A record could not be had or changed.
    #[error(transparent)]
    Table(#[from] TableError),
    /// The record's state does not allow what was asked.
    #[error(transparent)]
    Illegal(#[from] Illegal),
    /// Something could not be put into blobs.
    #[error("the {what} could not be kept in blobs")]
    Unkept {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: isocenter_blobs::Error,
    },
    /// Something that a record names could not be had from blobs.
    #[error("the {what} could not be read from blobs")]
    Unread {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: isocenter_blobs::Error,
    },
    /// A manifest in blobs cannot be understood.
    #[error("the manifest cannot be understood")]
    Manifest(#[source] Undecodable),
    /// A policy text in blobs that this build cannot use.
    #[error("the policy text in blobs cannot be used")]
    Text(#[source] PolicyError),
    /// A policy text in blobs that is no text.
    #[error("the policy text in blobs is not UTF-8")]
    NotText,
    /// Reading a policy text came to nothing: a defect, or the process is ending.
    #[error("reading the policy text was broken off")]
    BrokenOff(#[source] tokio::task::JoinError),
    /// There is no plan to explain.
    #[error(
        "there is no plan for this study: it is unknown, not complete yet, or closed; the archive has closed studies"
    )]
    NoPlan,
    /// There is no such registry entry.
    #[error("there is no such {0} in the registry")]
    NoEntry(&'static str),
    /// The AE title is another site's.
    #[error("the AE title {title} belongs to {}; an AE title names one site of the cell", owner(.site.as_ref()))]
    Taken {
        /// The AE title.
        title: AeTitle,
        /// The site; `None` where it is another tenant's, whose sites are not told.
        site: Option<SiteId>,
    },
}

fn owner(site: Option<&SiteId>) -> String {
    site.map_or_else(|| "a site of another tenant".to_owned(), |site| format!("site {site}"))
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Table(e) => e.kind(),
            Self::Illegal(e) => e.kind(),
            Self::Unkept { source, .. } => source.kind(),
            // What a record names must be there: the caller asked for nothing that may be absent.
            Self::Unread { source, .. } => match source.kind() {
                Kind::NotFound => Kind::DataLoss,
                other => other,
            },
            Self::Manifest(e) => e.kind(),
            Self::Text(_) | Self::NotText => Kind::DataLoss,
            Self::BrokenOff(_) => Kind::Internal,
            Self::NoPlan | Self::NoEntry(_) => Kind::NotFound,
            Self::Taken { .. } => Kind::AlreadyExists,
        }
    }
}
