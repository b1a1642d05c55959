//! What can go wrong with an object.

use std::{error::Error as StdError, io, path::PathBuf};

use isocenter_domain::{Kind, Kinded};

use crate::{BlobPath, Prefix};

/// A failure of blobs. Names in it hide DICOM UIDs.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The location is not one this program can open.
    #[error("blobs: {0}")]
    Location(&'static str),
    /// The folder cannot be used.
    #[error("blobs folder {} cannot be {doing}", folder.display())]
    Folder {
        /// The folder.
        folder: PathBuf,
        /// What was tried, as a participle.
        doing: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Text that is not the name of an object.
    #[error("object name {0}")]
    Name(&'static str),
    /// No such object.
    #[error("{0}: no such object")]
    NotFound(BlobPath),
    /// The object is there, with other content. Nothing was changed.
    #[error("{0}: exists with other content")]
    AlreadyExists(BlobPath),
    /// The disk is full (or the quota used up); nothing was written.
    #[error("the disk under {} is full", folder.display())]
    Full {
        /// The folder on that disk.
        folder: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// More than may be read into memory at once; read it as a stream.
    #[error("{path}: {size} bytes are more than the {limit} that are read at once")]
    TooLarge {
        /// The object.
        path: BlobPath,
        /// Its size in bytes.
        size: u64,
        /// The bound in bytes.
        limit: u64,
    },
    /// The content is not what its name or its record says.
    #[error("{0}: content does not match its digest")]
    Corrupt(BlobPath),
    /// The file system failed.
    #[error("{path}: could not be {doing}")]
    Io {
        /// The object.
        path: BlobPath,
        /// What was tried, as a participle.
        doing: &'static str,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The file system failed while listing.
    #[error("{prefix}: could not be listed")]
    List {
        /// What was listed.
        prefix: Prefix,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Location(_) | Self::Name(_) => Kind::Invalid,
            Self::NotFound(_) => Kind::NotFound,
            Self::AlreadyExists(_) => Kind::AlreadyExists,
            Self::Full { .. } => Kind::Exhausted,
            Self::TooLarge { .. } => Kind::FailedPrecondition,
            Self::Corrupt(_) => Kind::DataLoss,
            Self::Folder { .. } | Self::Io { .. } | Self::List { .. } => Kind::Unavailable,
        }
    }
}

/// Whether the operating system says that no more can be written.
pub(crate) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// The operating system's error behind one of `object_store`, without that one's text: it names whole paths.
pub(crate) fn io_of(error: &object_store::Error) -> io::Error {
    let mut next: Option<&(dyn StdError + 'static)> = Some(error);
    while let Some(e) = next {
        if let Some(e) = e.downcast_ref::<io::Error>() {
            return e.raw_os_error().map_or_else(|| e.kind().into(), io::Error::from_raw_os_error);
        }
        next = e.source();
    }
    io::Error::other("the object store failed without an error of the operating system")
}
