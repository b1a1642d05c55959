//! `meta/…`: what a process checks before it touches anything.

use std::sync::Arc;

use isocenter_domain::id::CellId;
use isocenter_runtime::{clock::Clock, secret::Secret};
use isocenter_wire::record::LEVEL;

use super::{Clocked, Tables};
use crate::{Compare, Error, Key, Kv, Op, Txn};

/// Why a process must not work on this store.
#[derive(Debug, thiserror::Error)]
pub enum MetaError {
    /// The store does not answer.
    #[error("cannot read the store's meta keys")]
    Store(#[from] Error),
    /// The store's records need a newer build.
    #[error("the store is at level {stored}, this build knows level {ours}: start a newer build")]
    Level {
        /// The store's level.
        stored: u32,
        /// Ours.
        ours: u32,
    },
    /// Another network's secret.
    #[error(
        "the secret or the cell is not the one this store was made with: references would match nothing. Use the same on every node"
    )]
    Secret,
    /// A meta key holds what it should not.
    #[error("meta/{key} holds something that is not {what}")]
    Damaged {
        /// The key.
        key: &'static str,
        /// What it should hold.
        what: &'static str,
    },
}

impl Tables {
    /// The records of the cell in `kv`. Makes the meta keys of a new store; on an older one checks that this process may
    /// work on it.
    ///
    /// # Errors
    /// [`MetaError::Level`] and [`MetaError::Secret`] mean: do not start.
    pub async fn open(
        kv: Arc<dyn Kv>,
        clock: Arc<dyn Clock>,
        cell: CellId,
        secret: &Secret,
    ) -> Result<Self, MetaError> {
        let check = secret.reference("key-check", &[cell.as_str()]).to_string();
        for (key, value) in [("epoch", "1"), ("level", "1"), ("key_check", check.as_str())] {
            let key = meta(key);
            let put = Op::put(&key, value.to_owned());
            kv.txn(Txn::when(vec![Compare::absent(&key)], vec![put])).await?;
        }
        if text(&kv, "key_check").await?.0 != check {
            return Err(MetaError::Secret);
        }
        let stored = text(&kv, "level").await?.0;
        let stored = stored.parse().map_err(|_| MetaError::Damaged { key: "level", what: "a number" })?;
        if stored > LEVEL {
            return Err(MetaError::Level { stored, ours: LEVEL });
        }
        let epoch = Compare::unchanged(&meta("epoch"), text(&kv, "epoch").await?.1);
        Ok(Self { kv, clock: Arc::new(Clocked { clock, cell }), epoch })
    }
}

async fn text(kv: &Arc<dyn Kv>, key: &'static str) -> Result<(String, crate::Revision), MetaError> {
    let damaged = MetaError::Damaged { key, what: "text" };
    let Some(found) = kv.get(&meta(key)).await? else { return Err(damaged) };
    let value = String::from_utf8(found.value.to_vec()).map_err(|_| damaged)?;
    Ok((value, found.mod_revision))
}

fn meta(key: &str) -> Key {
    Key::new(format!("meta/{key}")).expect("a literal is a valid key")
}
