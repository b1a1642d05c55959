//! The store's model: etcd's, as one object-safe trait.
//!
//! One total order of revisions: every transaction that changes something is one revision. A key has the revision that
//! created it, the revision that last changed it, and a version that counts its changes since its creation.

mod key;
mod list;
mod txn;

use std::{fmt, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;

pub use key::{Key, MAX_KEY_BYTES, Prefix, Range, Span};
pub(crate) use list::pages;
pub use list::{LIST_PAGE, list_all};
pub(crate) use txn::lease_number;
pub use txn::{Answer, Compare, MAX_TXN_OPS, MAX_VALUE_BYTES, Op, Target, Txn, TxnAnswer};

use crate::Error;

/// A point in the store's one order of changes. An empty store is at 1, its first change is 2; zero is "never".
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The name of a lease, never zero.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// A key with its value and its history's numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Key,
    /// The value.
    pub value: Bytes,
    /// The revision that created the key.
    pub create_revision: Revision,
    /// The revision that last changed it.
    pub mod_revision: Revision,
    /// How many times it was put since its creation, from 1.
    pub version: u64,
    /// The lease that deletes the key when it expires.
    pub lease: Option<LeaseId>,
}

/// Which part of a range to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many keys; zero means all of them.
    pub limit: usize,
    /// Only keys that sort after this one.
    pub after: Option<Key>,
    /// As the store was at this revision; `None` is now.
    pub at: Option<Revision>,
}

/// One page of a range, in key order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    /// The keys and values.
    pub items: Vec<KeyValue>,
    /// The revision that the page shows. Ask for the following pages at this revision.
    pub revision: Revision,
    /// Whether the range has keys after the last of `items`.
    pub more: bool,
}

/// One change to one key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The key has this value now.
    Put(KeyValue),
    /// The key is gone.
    Delete {
        /// The key.
        key: Key,
        /// The revision that deleted it.
        mod_revision: Revision,
    },
}

impl Event {
    /// The key that changed.
    #[must_use]
    pub fn key(&self) -> &Key {
        match self {
            Self::Put(kv) => &kv.key,
            Self::Delete { key, .. } => key,
        }
    }

    /// The revision that changed it.
    #[must_use]
    pub fn revision(&self) -> Revision {
        match self {
            Self::Put(kv) => kv.mod_revision,
            Self::Delete { mod_revision, .. } => *mod_revision,
        }
    }
}

/// What a watch delivers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchItem {
    /// Everything that one revision changed in the range, in key order; each revision once, in order.
    Events {
        /// The revision.
        revision: Revision,
        /// Its changes within the range, never empty.
        events: Vec<Event>,
    },
    /// Nothing up to and including this revision is outstanding.
    Progress(Revision),
}

/// The items of a watch. It ends with its first error and never resumes by itself:
/// [`Error::Compacted`], [`Error::Lost`], [`Error::OtherCluster`] and [`Error::FutureRevision`] all mean "list again".
pub type WatchStream = BoxStream<'static, Result<WatchItem, Error>>;

/// How a store is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// The newest revision.
    pub revision: Revision,
    /// Bytes used by live keys and kept history.
    pub db_bytes: u64,
    /// Bytes at which puts are refused.
    pub quota_bytes: u64,
    /// The identity of this store: another value means another history.
    pub cluster_id: u64,
}

/// How much room a store has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Usage {
    /// Bytes that count against the quota, free ones between live ones included. Of a cluster, those of its fullest member.
    pub used: u64,
    /// Bytes of those that hold something.
    pub live: u64,
    /// Bytes at which changes are refused; zero where that is not known.
    pub quota: u64,
    /// Whether the store refuses changes for want of space, and goes on until somebody has made room and told it so.
    pub no_space: bool,
}

/// A revisioned key-value store.
///
/// Reads are linearizable: they show every change that was acknowledged before they began. A change is durable before
/// it is acknowledged. Every method is cancel-safe in the sense that a dropped call leaves the store consistent; a
/// dropped `txn`, `grant` or `revoke` may still take effect.
#[async_trait]
pub trait Kv: Send + Sync + fmt::Debug + 'static {
    /// The value of one key, now.
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error>;

    /// One page of a range.
    ///
    /// # Errors
    /// [`Error::Compacted`] and [`Error::FutureRevision`] where [`Page::at`] cannot be shown.
    async fn list(&self, range: &Range, page: Page) -> Result<Listing, Error>;

    /// Applies `then` if every compare holds, else `or_else`, as one revision.
    ///
    /// # Errors
    /// [`Error::Ambiguous`] where the change may have been made: read the record, its `op_id` tells. The refusals
    /// [`Error::TooManyOps`], [`Error::DuplicateKey`], [`Error::TooLarge`], [`Error::LeaseExpired`] and
    /// [`Error::NoSpace`] change nothing.
    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error>;

    /// Everything that changes in a range from revision `from` on, including it.
    ///
    /// # Errors
    /// [`Error::FutureRevision`] where `from` is beyond the next revision (etcd itself would be silent for ever).
    /// These errors may come from this call or as the stream's first item.
    async fn watch(&self, range: &Range, from: Revision) -> Result<WatchStream, Error>;

    /// A new lease. Its keys are deleted, in one revision, when it is not kept alive for `ttl` (whole seconds,
    /// rounded up, at least 1; a store may give more).
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error>;

    /// Prolongs a lease to its full time and answers how much that is.
    ///
    /// # Errors
    /// [`Error::LeaseExpired`] where the lease is gone.
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error>;

    /// Ends a lease and deletes its keys in one revision.
    ///
    /// # Errors
    /// [`Error::LeaseExpired`] where the lease is gone already.
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error>;

    /// Forgets what the store looked like before revision `at`.
    ///
    /// # Errors
    /// [`Error::Compacted`] where that has been done; [`Error::FutureRevision`] beyond the newest revision.
    async fn compact(&self, at: Revision) -> Result<(), Error>;

    /// How the store is doing.
    async fn status(&self) -> Result<Status, Error>;

    /// How much room there is left.
    async fn usage(&self) -> Result<Usage, Error> {
        let status = self.status().await?;
        let (used, quota) = (status.db_bytes, status.quota_bytes);
        Ok(Usage { used, live: used, quota, no_space: false })
    }

    /// How often an idle watch of this store delivers [`WatchItem::Progress`].
    fn progress_interval(&self) -> Duration;
}
