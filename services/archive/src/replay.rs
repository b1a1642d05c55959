//! The records made again from the journal: the proof that nothing but the journal is needed for them.

use futures::StreamExt as _;
use isocenter_blobs::{Blobs, path};

use crate::{Error, records::Records};

/// What was replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Replayed {
    /// Journal objects read.
    pub objects: u64,
    /// Events that the records lacked.
    pub events: u64,
    /// Counters under which two different changes were found.
    pub forks: u64,
}

/// Applies the whole journal, shard by shard, in the order of its objects. On empty tables this makes the records that
/// were there before; on others it adds what they lack. May be broken off and begun again at any time.
///
/// # Errors
/// [`Error::Undecodable`] where a journal object is damaged: what comes after it is not applied, since a gap in the
/// history must be somebody's decision.
pub async fn replay(blobs: &Blobs, records: &Records) -> Result<Replayed, Error> {
    let mut replayed = Replayed::default();
    for shard in 0..=u8::MAX {
        let mut objects = blobs.list(&path::journal_of(shard));
        while let Some(object) = objects.next().await {
            records.replay_one(blobs, &object?.path, &mut replayed).await?;
        }
    }
    Ok(replayed)
}
