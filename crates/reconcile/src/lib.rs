//! Level-triggered control: a keyed, de-duplicating queue, the runner that works it off, and the feed that fills it.
//!
//! A reconciler gets a key, never an event; it re-reads everything and is idempotent. A change seen, a timer and the
//! periodic resync take the same path, so that what is missed on one is made good on another.

mod feed;
mod queue;
mod runner;
mod share;

use std::fmt;

use isocenter_domain::{Kind, Kinded, Time};
use isocenter_runtime::task::{BoxError, chain};

pub use crate::{
    feed::{Feed, KeySource},
    queue::{DEFAULT_LIMIT, Queue},
    runner::{Hooks, Options, Runner},
    share::{Everything, Share},
};

/// What keys must be able to do. `Ord` breaks ties between keys due at the same microsecond.
pub trait Key: Clone + Ord + std::hash::Hash + Send + Sync + 'static {}
impl<K: Clone + Ord + std::hash::Hash + Send + Sync + 'static> Key for K {}

/// When to look at a key again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// When it changes.
    Done,
    /// At this time, or when it changes, whichever is first.
    At(Time),
}

/// Brings what one key names from what it is to what it should be.
#[async_trait::async_trait]
pub trait Reconciler: Send + Sync + 'static {
    /// What is reconciled.
    type Key: Key;

    /// Reads everything about `key` and does what is to be done now. Called again, it changes nothing. Never called
    /// for one key twice at a time.
    ///
    /// # Errors
    /// Any: the key is tried again by the retry schedule.
    async fn reconcile(&self, key: &Self::Key) -> Result<Outcome, Failed>;
}

/// Why a run failed. Made by `?` of any [`Kinded`] error.
pub struct Failed {
    kind: Kind,
    source: BoxError,
}

impl Failed {
    /// What the error means.
    #[must_use]
    pub fn kind(&self) -> Kind {
        self.kind
    }
}

impl<E: Kinded + Send + Sync + 'static> From<E> for Failed {
    fn from(error: E) -> Self {
        Self { kind: error.kind(), source: Box::new(error) }
    }
}

impl fmt::Debug for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Failed").field("kind", &self.kind).field("source", &self.source).finish()
    }
}

impl fmt::Display for Failed {
    /// The error and its causes, for the log.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&chain(&*self.source))
    }
}
