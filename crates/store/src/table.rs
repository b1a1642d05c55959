//! Records over the store: typed load, list and change.
//!
//! A change is one transaction: it compares every record it rests on, puts each record with its next change counter, and
//! puts one outbox event for each. All compare `meta/epoch` and its era, so that nothing of an epoch that is
//! over is written.

mod change;
mod epoch;
mod gather;
mod meta;
mod mirror;
mod resume;

use std::sync::Arc;

use isocenter_domain::{
    Kind, Kinded,
    id::{CellId, TenantId},
    key::{self, RecordKey},
    record::{Record, RecordKind},
};
use isocenter_runtime::clock::Clock;
use isocenter_wire::{
    error::Undecodable,
    record::{self as wire, Head, Stored as Storable},
};

use self::{epoch::Epoch, meta::Levels};
use crate::{Error, Key, KeyValue, Kv, Range, Revision, kv};

pub(crate) use epoch::{era_of, is_era};

pub use change::{Cause, Change, parse_outbox_key};
pub use gather::gather;
pub use meta::MetaError;
pub use mirror::{Mirror, Mirrors};

/// A record as the store has it.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored<R: Record> {
    /// What it is about.
    pub key: R::Key,
    /// The record.
    pub record: R,
    /// What every record bears.
    pub head: Head,
    /// The revision that last changed it: what a change compares.
    pub mod_revision: Revision,
}

/// Why a record could not be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum TableError {
    /// The store's own error.
    #[error("{0}")]
    Store(#[source] Error),
    /// Something that the change rested on has changed. Load again and decide again.
    #[error("the record has changed since it was loaded")]
    Conflict,
    /// A stored value cannot be understood. It is told by its kind alone, since the key has a Study Instance UID in it, which no log
    /// may have; `reconcile` lists the key.
    #[error("a record of kind {} cannot be understood", key.split('/').next().unwrap_or_default())]
    Undecodable {
        /// The record's key.
        key: String,
        /// Why.
        #[source]
        source: Undecodable,
    },
}

impl Kinded for TableError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(e) => e.kind(),
            Self::Conflict => Kind::Conflict,
            Self::Undecodable { source, .. } => source.kind(),
        }
    }
}

impl From<Error> for TableError {
    fn from(e: Error) -> Self {
        Self::Store(e)
    }
}

/// The records of a cell.
#[derive(Clone, Debug)]
pub struct Tables {
    kv: Arc<dyn Kv>,
    clock: Arc<Clocked>,
    /// The store's epoch when this process began.
    epoch: Epoch,
    levels: Arc<Levels>,
}

/// What every change needs and never changes.
struct Clocked {
    clock: Arc<dyn Clock>,
    cell: CellId,
}

impl std::fmt::Debug for Clocked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Clocked").field("cell", &self.cell).finish_non_exhaustive()
    }
}

impl Tables {
    /// The store underneath, for presence, leases and watches.
    #[must_use]
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// The clock that dates changes.
    #[must_use]
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock.clock
    }

    /// The cell that this store is.
    #[must_use]
    pub fn cell(&self) -> &CellId {
        &self.clock.cell
    }

    /// The record under `key`, now.
    pub async fn load<R: Storable>(&self, key: &R::Key) -> Result<Option<Stored<R>>, TableError> {
        let found = self.kv.get(&store_key(key)).await?;
        found.map(|kv| decoded(&kv, self.known_level())).transpose()
    }

    /// The records in `range`, all as of one revision, which is answered too. Damaged and future ones are an error: a
    /// decision must not be made without them.
    pub async fn list<R: Storable>(&self, range: &Range) -> Result<(Vec<Stored<R>>, Revision), TableError> {
        let listing = kv::list_all(self.kv.as_ref(), range).await?;
        let records =
            listing.items.iter().map(|kv| decoded(kv, self.known_level())).collect::<Result<_, _>>()?;
        Ok((records, listing.revision))
    }

    /// A change to be filled and committed.
    pub fn change(&self, cause: Cause) -> Change<'_> {
        Change::new(self, cause)
    }
}

/// The key of a record in the store.
///
/// # Panics
/// Never: ids cannot hold what a store key refuses.
#[must_use]
pub fn store_key<K: RecordKey>(key: &K) -> Key {
    Key::new(key::text(key)).expect("typed ids make a valid key")
}

/// Every record of a kind.
#[must_use]
pub fn kind_range(kind: RecordKind) -> Range {
    Range::prefix(format!("{kind}/")).expect("a kind's name is a valid prefix")
}

/// Every record of kind `K` that belongs to one owner, e.g. all intakes of a study: keys whose tail begins with `tail`.
#[must_use]
pub fn owner_range<K: RecordKey>(tenant: &TenantId, owner: &str, tail: &[&str]) -> Range {
    let shard = key::shard(tenant, owner);
    let tail = tail.join("/");
    Range::prefix(format!("{}/{shard:02x}/{tenant}/{tail}/", K::KIND)).expect("typed ids make a valid prefix")
}

/// The record in `kv`, for a process that knows the levels up to `ours`.
pub(crate) fn decoded<R: Storable>(kv: &KeyValue, ours: u32) -> Result<Stored<R>, TableError> {
    let undecodable = |source| TableError::Undecodable { key: kv.key.to_string(), source };
    let key = key::parse::<R::Key>(kv.key.as_str())
        .ok_or_else(|| undecodable(Undecodable::Damaged("its key is not of its kind".into())))?;
    let (head, record) = wire::decode_at::<R>(&kv.value, ours).map_err(undecodable)?;
    Ok(Stored { key, record, head, mod_revision: kv.mod_revision })
}

#[cfg(test)]
mod tests;
