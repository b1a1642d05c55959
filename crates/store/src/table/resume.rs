//! Beginning while the store is away, by what an earlier process of the same node knew of it.

use std::sync::{Arc, atomic::AtomicU32};

use isocenter_domain::id::CellId;
use isocenter_runtime::{clock::Clock, secret::Secret};
use isocenter_wire::record::LEVEL;

use super::{Clocked, MetaError, Tables, epoch::Epoch, meta::Levels};
use crate::{Kv, Revision};

/// The first line of what is remembered.
const HEADING: &str = "isocenter store 2";

impl Tables {
    /// What a later process of this node needs to [`Tables::resume`]: short text, without secrets, to be kept in a file.
    #[must_use]
    pub fn memory(&self, secret: &Secret) -> String {
        let (check, level) = (key_check(secret, self.cell()), self.level());
        let (epoch, Revision(since)) = (self.epoch.text(), self.epoch.since());
        format!("{HEADING}\n{check}\n{level}\n{since}\n{epoch}\n")
    }

    /// The records of the cell in a store that does not answer, as `memory` has it; `None` where that is not what
    /// [`Tables::memory`] answers. Nothing is asked: what is wrong is found when the store is back. Each write compares the
    /// remembered epoch, and [`crate::members::Members`] registers only after comparing level and epoch; so a process that
    /// resumed into another epoch writes nothing and ends.
    ///
    /// # Errors
    /// [`MetaError::Secret`] and [`MetaError::Level`], as [`Tables::open`].
    pub fn resume(
        kv: Arc<dyn Kv>,
        clock: Arc<dyn Clock>,
        cell: CellId,
        secret: &Secret,
        memory: &str,
    ) -> Result<Option<Self>, MetaError> {
        let lines: Vec<&str> = memory.lines().collect();
        let [HEADING, check, level, since, epoch] = lines[..] else { return Ok(None) };
        let (Ok(level), Ok(since)) = (level.parse::<u32>(), since.parse()) else { return Ok(None) };
        let Ok(epoch) = Epoch::parse(epoch.to_owned(), Revision(since)) else { return Ok(None) };
        if check != key_check(secret, &cell) {
            return Err(MetaError::Secret);
        }
        if level > LEVEL {
            return Err(MetaError::Level { stored: level, ours: LEVEL });
        }
        let levels = Levels { ours: LEVEL, stored: AtomicU32::new(level) };
        let clock = Arc::new(Clocked { clock, cell });
        Ok(Some(Self { kv, clock, epoch, levels: Arc::new(levels) }))
    }
}

/// Shows whether two processes have the same secret and cell.
pub(super) fn key_check(secret: &Secret, cell: &CellId) -> String {
    secret.reference("key-check", &[cell.as_str()]).to_string()
}

#[cfg(test)]
mod tests {
    use isocenter_domain::{id::ReaderId, key::HoldingKey, record::read::Holding};
    use isocenter_runtime::clock;

    use super::*;
    use crate::{
        embedded::{Embedded, EmbeddedOptions},
        table::{Cause, TableError},
    };

    async fn writes(tables: &Tables, reader: &str) -> Result<(), TableError> {
        let reader: ReaderId = reader.parse().unwrap();
        let key = HoldingKey { tenant: "net".parse().unwrap(), reader };
        let mut change = tables.change(Cause::role("test"));
        change.create(&key, &Holding::default(), "made", "");
        change.commit().await.map(drop)
    }

    #[tokio::test]
    async fn what_is_resumed_writes_in_its_own_epoch_alone() {
        let folder = tempfile::tempdir().unwrap();
        let kv: Arc<dyn Kv> = Arc::new(Embedded::open(EmbeddedOptions::new(folder.path())).await.unwrap());
        let (cell, secret): (CellId, _) = ("cell".parse().unwrap(), Secret::new([1; 32]));
        let opened = Tables::open(Arc::clone(&kv), clock::system(), cell.clone(), &secret).await.unwrap();
        let memory = opened.memory(&secret);
        let resume = |secret: &Secret, memory: &str| {
            Tables::resume(Arc::clone(&kv), clock::system(), cell.clone(), secret, memory)
        };
        let resumed = resume(&secret, &memory).unwrap().unwrap();
        assert_eq!(resumed.level(), opened.level());
        writes(&resumed, "anna").await.unwrap();

        assert!(matches!(resume(&Secret::new([2; 32]), &memory), Err(MetaError::Secret)));
        for damaged in
            ["", "isocenter store 2\n", &memory[..memory.len() - 3], &memory.replace("store 2", "store 1")]
        {
            let found = resume(&secret, damaged);
            assert!(!matches!(found, Ok(Some(tables)) if tables.epoch == opened.epoch), "{damaged:?}");
        }
        opened.bump_epoch("restored").await.unwrap();
        assert!(matches!(writes(&resumed, "boris").await, Err(TableError::Conflict)));
        let again = Tables::open(Arc::clone(&kv), clock::system(), cell.clone(), &secret).await.unwrap();
        writes(&again, "boris").await.unwrap();
    }
}
