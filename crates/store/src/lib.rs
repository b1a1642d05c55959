//! The store: a small set of live records under revisions, with transactions, watches and leases.
//!
//! [`Kv`] is etcd's model as one object-safe trait. Two stores stand behind it: [`etcd`] in a cluster and
//! [`embedded`] on one machine; one conformance suite judges both. On top of the trait stand the [`reflector`] (a
//! cache of a key range that repairs itself), the [`session`] (a lease that is regained when lost), the [`election`] (a
//! leader whose every write carries a token), the [`members`] (which processes there are and who works on what) and the
//! [`table`]s (typed records).

mod access;
pub mod check;
pub mod election;
pub mod embedded;
pub mod error;
pub mod etcd;
#[cfg(feature = "faulty")]
pub mod faulty;
pub mod kv;
pub mod members;
mod open;
pub mod reflector;
mod restore;
pub mod session;
pub mod space;
pub mod table;

pub use access::{Access, Login, TlsFiles};
pub use error::Error;
pub use kv::{
    Answer, Compare, Event, Key, KeyValue, Kv, LeaseId, Listing, Op, Page, Prefix, Range, Revision, Status,
    Txn, TxnAnswer, Usage, WatchItem, WatchStream, list_all,
};
pub use open::{open, open_with};
pub use restore::{Restored, Restoring};
