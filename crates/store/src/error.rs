//! What can go wrong in a store, and what is then known.

use std::{io, path::PathBuf};

use isocenter_domain::{Kind, Kinded};

use crate::kv::Revision;

/// Why a store did not do what it was asked.
///
/// Every variant but [`Error::Ambiguous`] means that nothing was changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The store does not answer; nothing was changed.
    #[error("the store does not answer: {why}")]
    Unavailable {
        /// What was observed, without addresses of people or values of records.
        why: String,
    },
    /// The request was sent and its answer was lost: the change may have been made. Read before trying again.
    #[error("the answer of the store was lost, the change may or may not have been made: {why}")]
    Ambiguous {
        /// What was observed.
        why: String,
    },
    /// The revision asked for is older than the history that is kept. List again.
    #[error("history up to revision {} is compacted", .at.0)]
    Compacted {
        /// The oldest revision that can still be read; zero where the store did not say.
        at: Revision,
    },
    /// The revision asked for does not exist yet; a store that was restored from a backup looks like this.
    #[error("revision {} is in the future, the store is at {}", .asked.0, .at.0)]
    FutureRevision {
        /// The revision asked for.
        asked: Revision,
        /// The store's own revision; zero where the store did not say.
        at: Revision,
    },
    /// A watch ended and delivers nothing more. List again, then watch.
    #[error("the watch was lost: {why}")]
    Lost {
        /// What was observed.
        why: String,
    },
    /// The store behind the address is another one than before. List again.
    #[error("the store's cluster id changed from {was:016x} to {is:016x}")]
    OtherCluster {
        /// The id that was seen first.
        was: u64,
        /// The id that answered now.
        is: u64,
    },
    /// The lease is unknown: expired, revoked, or never granted.
    #[error("the lease is expired or unknown")]
    LeaseExpired,
    /// A value is longer than [`crate::kv::MAX_VALUE_BYTES`].
    #[error("a value of {bytes} bytes exceeds the limit of {limit} bytes")]
    TooLarge {
        /// The length of the value in bytes.
        bytes: usize,
        /// The limit in bytes.
        limit: usize,
    },
    /// A transaction has more than [`crate::kv::MAX_TXN_OPS`] compares or operations.
    #[error("a transaction of {ops} operations exceeds the limit of {limit}")]
    TooManyOps {
        /// The number of entries in the longest of the transaction's lists.
        ops: usize,
        /// The limit.
        limit: usize,
    },
    /// A transaction changes the same key twice.
    #[error("a transaction changes the same key twice")]
    DuplicateKey,
    /// The store's space quota is used up: puts and grants are refused, reads and deletes work.
    #[error("the store's space quota is used up; compact and defragment it, then disarm its alarm")]
    NoSpace,
    /// Another process has the store's folder open.
    #[error(
        "the store in {} is in use by another process; stop that process, or give this one a folder of its own",
        .dir.display()
    )]
    Locked {
        /// The store's folder.
        dir: PathBuf,
    },
    /// A file of the embedded store holds what was never written to it. Restore the folder, or rebuild the store.
    #[error("{} is corrupt at byte {offset}: {why}", .file.display())]
    Corrupt {
        /// The file.
        file: PathBuf,
        /// Where in the file, in bytes from its start.
        offset: u64,
        /// What is wrong there.
        why: &'static str,
    },
    /// A file operation of the embedded store failed while opening it.
    #[error("{doing} {} failed", .path.display())]
    Io {
        /// What was being done.
        doing: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's own error.
        source: io::Error,
    },
    /// The embedded store's log failed earlier. Nothing is answered from here on; reopen the store.
    #[error("the store's log failed earlier, nothing is accepted until the store is reopened: {why}")]
    Poisoned {
        /// The failure that came first.
        why: String,
    },
    /// The condition under which a process may register in the store no longer holds.
    #[error("registration is refused: its condition does not hold")]
    Refused,
    /// The key is not one: see [`crate::kv::Key::new`].
    #[error("invalid key: {why}")]
    InvalidKey {
        /// Which rule it breaks.
        why: &'static str,
    },
    /// The store's address cannot be understood.
    #[error("invalid store address \"{address}\": {why}")]
    InvalidAddress {
        /// The address as given.
        address: String,
        /// What is wrong, and what to write instead.
        why: String,
    },
    /// The store refuses this client.
    #[error("the store refuses this client: {why}")]
    Denied {
        /// The store's words.
        why: String,
    },
    /// The store answered something its protocol does not allow, or refused a request this crate must not send.
    #[error("unexpected answer of the store: {why}")]
    Protocol {
        /// What was unexpected.
        why: String,
    },
}

impl Error {
    /// Whether the change that was asked for may have been made all the same.
    #[must_use]
    pub fn is_ambiguous(&self) -> bool {
        matches!(self, Self::Ambiguous { .. })
    }

    pub(crate) fn unavailable(why: impl Into<String>) -> Self {
        Self::Unavailable { why: why.into() }
    }

    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source }
    }
}

impl Kinded for Error {
    fn kind(&self) -> Kind {
        match self {
            Self::Unavailable { .. }
            | Self::Lost { .. }
            | Self::OtherCluster { .. }
            | Self::Poisoned { .. } => Kind::Unavailable,
            Self::Ambiguous { .. } => Kind::Unknown,
            Self::Compacted { .. }
            | Self::FutureRevision { .. }
            | Self::LeaseExpired
            | Self::Locked { .. }
            | Self::Refused => Kind::FailedPrecondition,
            Self::TooLarge { .. }
            | Self::TooManyOps { .. }
            | Self::DuplicateKey
            | Self::InvalidKey { .. }
            | Self::InvalidAddress { .. } => Kind::Invalid,
            Self::NoSpace => Kind::Exhausted,
            Self::Corrupt { .. } => Kind::DataLoss,
            Self::Denied { .. } => Kind::PermissionDenied,
            Self::Io { .. } | Self::Protocol { .. } => Kind::Internal,
        }
    }
}
