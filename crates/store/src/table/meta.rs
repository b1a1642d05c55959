//! `meta/…`: what a process checks before it touches anything, and goes on checking while it runs.
//!
//! The **level** says which records may be in the store: it is raised by command, once every process knows the new one.
//! The **epoch** says which history this is: it changes when the store was restored or rebuilt, and whoever is of another
//! epoch writes nothing and stops. It has a key of its own beside it, its era, so that a snapshot that is put back twice
//! begins two epochs.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering},
};

use isocenter_domain::{Kind, Kinded, id::CellId};
use isocenter_runtime::{clock::Clock, secret::Secret};
use isocenter_wire::{node::Node, record::LEVEL};
use tokio_util::sync::CancellationToken;

use super::{Clocked, Tables, epoch::Epoch, resume::key_check};
use crate::{
    Compare, Error, Key, KeyValue, Kv, Op, Range, Revision, Txn,
    kv::list_all,
    members::NODES,
    reflector::{Reflector, ReflectorOptions, Snapshot},
};

/// How often a change of a meta key is tried again that another process was faster with.
const ATTEMPTS: usize = 5;

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
    /// The store has begun another epoch: it was restored or rebuilt.
    #[error("the store has begun epoch {now} and this process is of another: start it again")]
    Epoch {
        /// The store's epoch: its number, and the name of its era.
        now: String,
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
    /// A level is only ever raised.
    #[error("the store is at level {stored} already and a level never goes back: level {to} is not above it")]
    NotRaised {
        /// The store's level.
        stored: u32,
        /// The level asked for.
        to: u32,
    },
    /// Processes are running that do not know the level.
    #[error("level {to} is not known to every running process: replace {} first", .nodes.join(", "))]
    Behind {
        /// The level asked for.
        to: u32,
        /// The processes, each `role/node`.
        nodes: Vec<String>,
    },
    /// Processes come and go too fast to say that all know the level.
    #[error("processes keep coming and going: try again when they have settled")]
    Unsettled,
}

impl Kinded for MetaError {
    fn kind(&self) -> Kind {
        match self {
            Self::Store(e) => e.kind(),
            Self::Level { .. } | Self::Epoch { .. } | Self::Secret => Kind::FailedPrecondition,
            Self::NotRaised { .. } | Self::Behind { .. } => Kind::FailedPrecondition,
            Self::Damaged { .. } => Kind::DataLoss,
            Self::Unsettled => Kind::Conflict,
        }
    }
}

/// The levels of one process: what its build knows, and what the store is at.
#[derive(Debug)]
pub(super) struct Levels {
    pub ours: u32,
    pub(super) stored: AtomicU32,
}

impl Levels {
    /// The level of what is written now.
    pub fn written(&self) -> u32 {
        self.stored.load(Ordering::Relaxed)
    }

    /// Takes note of the store's level.
    fn note(&self, stored: u32) -> Result<(), MetaError> {
        if stored > self.ours {
            return Err(MetaError::Level { stored, ours: self.ours });
        }
        self.stored.store(stored, Ordering::Relaxed);
        Ok(())
    }
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
        Self::open_at(kv, clock, cell, secret, LEVEL).await
    }

    /// As [`Tables::open`], as a build would that knows the levels up to `ours`. A new store is at that level.
    ///
    /// # Errors
    /// As [`Tables::open`].
    pub async fn open_at(
        kv: Arc<dyn Kv>,
        clock: Arc<dyn Clock>,
        cell: CellId,
        secret: &Secret,
        ours: u32,
    ) -> Result<Self, MetaError> {
        let check = key_check(secret, &cell);
        let level = ours.to_string();
        let one = |key, value: &str| (key, vec![Op::put(&meta(key), value.to_owned())]);
        let first = ("epoch", Epoch::begin(1).to_vec());
        for (key, puts) in [first, one("level", &level), one("key_check", &check)] {
            kv.txn(Txn::when(vec![Compare::absent(&meta(key))], puts)).await?;
        }
        if text(&*kv, "key_check").await?.0 != check {
            return Err(MetaError::Secret);
        }
        let levels = Levels { ours, stored: AtomicU32::new(ours) };
        levels.note(level_of(&text(&*kv, "level").await?.0)?)?;
        let (epoch, since) = text(&*kv, "epoch").await?;
        let epoch = Epoch::parse(epoch, since)?;
        Ok(Self { kv, clock: Arc::new(Clocked { clock, cell }), epoch, levels: Arc::new(levels) })
    }

    /// The level of the records that are written now: the store's. Fields and states of a higher level must not be written
    /// yet, for there may be processes that would lose them.
    #[must_use]
    pub fn level(&self) -> u32 {
        self.levels.written()
    }

    /// The highest level that this process knows; a record above it is left alone and listed.
    #[must_use]
    pub fn known_level(&self) -> u32 {
        self.levels.ours
    }

    /// Hold as long as the store is of the epoch, and of the very history, in which this process began. Every
    /// [`Tables::change`] has them already; a transaction that is made by hand and writes what lasts needs both. Where they
    /// do not hold, nothing is written, and this process is about to end.
    #[must_use]
    pub fn epoch(&self) -> [Compare; 2] {
        self.epoch.holds()
    }

    /// Looks whether this process may still work on the store, and answers the compares by which a transaction rests on it.
    ///
    /// # Errors
    /// [`MetaError::Level`] and [`MetaError::Epoch`] mean: end the process.
    pub(crate) async fn admitted(&self) -> Result<Vec<Compare>, MetaError> {
        let (level, since) = text(&*self.kv, "level").await?;
        self.levels.note(level_of(&level)?)?;
        let (now, began) = text(&*self.kv, "epoch").await?;
        self.same_epoch(now, began)?;
        let [epoch, era] = self.epoch();
        Ok(vec![epoch, era, Compare::unchanged(&meta("level"), since)])
    }

    fn same_epoch(&self, now: String, since: Revision) -> Result<(), MetaError> {
        if (now.as_str(), since) == (self.epoch.text(), self.epoch.since()) {
            Ok(())
        } else {
            Err(MetaError::Epoch { now })
        }
    }

    /// Follows the meta keys until `ended`: takes note of a raised level. It is an essential task: the process must end
    /// with it.
    ///
    /// # Errors
    /// [`MetaError::Level`], [`MetaError::Epoch`] and [`MetaError::Damaged`]: the process must not write any more. (What
    /// another epoch's process writes is refused in any case.)
    pub async fn follow_meta(self, ended: CancellationToken) -> Result<(), MetaError> {
        let options = ReflectorOptions::new(Range::prefix("meta/").expect("a literal is a valid prefix"));
        let (reflector, mirror) = Reflector::new(Arc::clone(&self.kv), options, |_| ());
        let mut changes = mirror.subscribe();
        let looked = async {
            while changes.next().await.is_some() {
                self.look(&mirror.snapshot())?;
            }
            Ok(())
        };
        let ((), looked) = {
            let stop = ended.child_token();
            let guard = stop.clone().drop_guard();
            tokio::join!(reflector.run(stop), async move {
                let looked = looked.await;
                drop(guard);
                looked
            })
        };
        looked
    }

    fn look(&self, meta_keys: &Snapshot<()>) -> Result<(), MetaError> {
        let found = |key: &'static str| {
            let found = meta_keys.items.get(&meta(key)).map(|cached| &cached.kv);
            found.ok_or(MetaError::Damaged { key, what: "there" })
        };
        let epoch = found("epoch")?;
        self.same_epoch(value(epoch, "epoch")?, epoch.mod_revision)?;
        self.levels.note(level_of(&value(found("level")?, "level")?)?)
    }

    /// Raises the store's level, so that what is new in it may be written. Every process that is registered must know it;
    /// one that does not is refused from then on.
    ///
    /// # Errors
    /// [`MetaError::Behind`] names the processes to replace first. [`MetaError::Level`] where this build itself does not
    /// know the level, [`MetaError::NotRaised`], [`MetaError::Unsettled`].
    pub async fn raise_level(&self, to: u32) -> Result<(), MetaError> {
        for _ in 0..ATTEMPTS {
            if to > self.levels.ours {
                return Err(MetaError::Level { stored: to, ours: self.levels.ours });
            }
            let (stored, since) = text(&*self.kv, "level").await?;
            let stored = level_of(&stored)?;
            if stored >= to {
                return Err(MetaError::NotRaised { stored, to });
            }
            let nodes = Range::prefix(NODES).expect("a literal is a valid prefix");
            let listing = list_all(&*self.kv, &nodes).await?;
            let behind: Vec<String> = listing.items.iter().filter(|kv| !knows(kv, to)).map(name).collect();
            if !behind.is_empty() {
                return Err(MetaError::Behind { to, nodes: behind });
            }
            // A process that registers between the list and this is newer than the list; one that registers after it
            // compares the level.
            let [epoch, era] = self.epoch();
            let compare = vec![
                epoch,
                era,
                Compare::unchanged(&meta("level"), since),
                Compare::none_newer(nodes, listing.revision),
            ];
            let put = Op::put(&meta("level"), to.to_string());
            match self.kv.txn(Txn::when(compare, vec![put])).await {
                Ok(answer) if answer.succeeded => return self.levels.note(to),
                Ok(_) => {}
                Err(Error::Ambiguous { .. }) if level_of(&text(&*self.kv, "level").await?.0)? >= to => {
                    return self.levels.note(to);
                }
                Err(e) => return Err(e.into()),
            }
        }
        Err(MetaError::Unsettled)
    }

    /// Begins a new epoch and answers its number: from now on nothing of the old one is written, and its processes end,
    /// this one included. To be done after the store was restored from a snapshot and before it serves anybody; `reason`
    /// is kept beside it.
    ///
    /// # Errors
    /// The store's own; [`MetaError::Unsettled`] where others do the same at the same time.
    pub async fn bump_epoch(&self, reason: &str) -> Result<u64, MetaError> {
        for _ in 0..ATTEMPTS {
            let (old, since) = text(&*self.kv, "epoch").await?;
            let old = Epoch::parse(old, since)?;
            let now = old.number() + 1;
            let mut ops = Epoch::begin(now).to_vec();
            ops.push(Op::put(&meta("epoch_reason"), reason.to_owned()));
            ops.extend(old.end());
            match self.kv.txn(Txn::when(old.holds().to_vec(), ops)).await {
                Ok(answer) if answer.succeeded => {
                    tracing::warn!(epoch = now, reason, "a new epoch of the store has begun");
                    return Ok(now);
                }
                // An answer that was lost is tried again: one epoch more does no harm.
                Ok(_) | Err(Error::Ambiguous { .. }) => {}
                Err(e) => return Err(e.into()),
            }
        }
        Err(MetaError::Unsettled)
    }
}

/// Whether the process says that it knows the level. One whose value cannot be read has not said so.
fn knows(node: &KeyValue, level: u32) -> bool {
    Node::decode(&node.value).is_ok_and(|node| node.level >= level)
}

fn name(node: &KeyValue) -> String {
    node.key.as_str().trim_start_matches(NODES).to_owned()
}

fn level_of(text: &str) -> Result<u32, MetaError> {
    text.parse().map_err(|_| MetaError::Damaged { key: "level", what: "a number" })
}

async fn text(kv: &dyn Kv, key: &'static str) -> Result<(String, Revision), MetaError> {
    let found = kv.get(&meta(key)).await?.ok_or(MetaError::Damaged { key, what: "there" })?;
    Ok((value(&found, key)?, found.mod_revision))
}

fn value(kv: &KeyValue, key: &'static str) -> Result<String, MetaError> {
    String::from_utf8(kv.value.to_vec()).map_err(|_| MetaError::Damaged { key, what: "text" })
}

/// # Panics
/// Where `key` is not of letters, digits, `-`, `_` and `/`.
pub(super) fn meta(key: &str) -> Key {
    Key::new(format!("meta/{key}")).expect("such a name makes a valid key")
}
