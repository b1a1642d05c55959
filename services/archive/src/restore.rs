//! The store brought up to date from the journal, after it was put back from a snapshot.

use futures::StreamExt as _;
use isocenter_blobs::{Blobs, path};
use isocenter_domain::document::JournalEntry;
use isocenter_store::{Restored, table::Tables};
use isocenter_wire::document::Stored as _;

use crate::{Error, reconcile::reopen::last_head};

/// Brings every record to its last journaled value, or takes it away where it was closed or removed since. Each journal
/// object is read once. Memory: what lives, one object, and the names of one journal's objects.
///
/// For a store under its new epoch, before any role works on it. Broken off and begun again it changes nothing more.
///
/// # Errors
/// [`Error::Journal`] where an object of the journal is damaged, and whatever else fails to be read: nothing was written
/// then. The store's own.
pub async fn restore(tables: &Tables, blobs: &Blobs) -> Result<Restored, Error> {
    let mut restoring = tables.restoring().await?;
    for shard in 0..=u8::MAX {
        let mut objects = blobs.list(&path::journal_of(shard));
        while let Some(object) = objects.next().await {
            let object = object?.path;
            let bytes = blobs.get(&object).await?;
            let entries = Vec::<JournalEntry>::decode(&bytes);
            restoring.object(entries.map_err(|source| Error::Journal { object, source })?)?;
        }
        restoring.end_of_journal();
    }
    // A case may be in another journal than its studies, and what both lost differs.
    for study in restoring.half_closed() {
        if let Some(head) = last_head(blobs, &study).await? {
            restoring.closed(&head);
        }
    }
    Ok(restoring.finish().await?)
}
