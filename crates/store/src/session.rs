//! A lease that is regained when lost, and the keys that hang on it.
//!
//! Losing a lease is routine: a pause of the process, a slow cluster. The session then grants a new one and registers its
//! keys again; nobody needs to exit. What must not be done by two is guarded by compare-and-swap, never by a lease.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use isocenter_runtime::clock::Clock;
use parking_lot::Mutex;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;

use crate::{
    Error,
    kv::{Compare, Key, Kv, LeaseId, Op, Txn},
};

/// Keys put per transaction when registering; leaves room for the guard's compares.
const KEYS_PER_TXN: usize = 100;

/// The pause between attempts while the store is away: short beside any lease, long beside a call.
const RETRY: Duration = Duration::from_millis(500);

/// How a session works.
#[derive(Clone)]
pub struct SessionOptions {
    /// The lease's time. Ten seconds for ownership, 30 to 60 for a person's or a vendor's presence.
    pub ttl: Duration,
    /// Must hold whenever keys are registered; where it does not, the session ends with [`Error::Refused`].
    pub guard: Vec<Compare>,
    /// The clock that says how much of the lease is left: its monotonic side only.
    pub clock: Arc<dyn Clock>,
}

impl fmt::Debug for SessionOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionOptions")
            .field("ttl", &self.ttl)
            .field("guard", &self.guard)
            .finish_non_exhaustive()
    }
}

/// A lease counts as lost this long before it ends: answers take time, and clocks differ a little.
const MARGIN: Duration = Duration::from_millis(100);

/// A handle to a session. Cheap to clone.
#[derive(Clone)]
pub struct Session {
    inner: Arc<Inner>,
}

struct Inner {
    kv: Arc<dyn Kv>,
    options: SessionOptions,
    wanted: Mutex<BTreeMap<Key, Bytes>>,
    /// Keys whose registration changed since they were last put or deleted.
    dirty: Mutex<BTreeMap<Key, Option<Bytes>>>,
    changed: Notify,
    lease: watch::Sender<Option<LeaseId>>,
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Session").field("lease", &*self.inner.lease.borrow()).finish_non_exhaustive()
    }
}

/// The task that keeps a [`Session`].
#[derive(Debug)]
pub struct Keeper {
    session: Session,
}

/// How long a lease lasts on this process's clock: counted from before the call that prolonged it was sent.
struct Held {
    lease: LeaseId,
    until: Instant,
}

impl Session {
    /// A session and the task that keeps it.
    #[must_use]
    pub fn new(kv: Arc<dyn Kv>, options: SessionOptions) -> (Self, Keeper) {
        let inner = Inner {
            kv,
            options,
            wanted: Mutex::default(),
            dirty: Mutex::default(),
            changed: Notify::new(),
            lease: watch::Sender::new(None),
        };
        let session = Self { inner: Arc::new(inner) };
        (session.clone(), Keeper { session })
    }

    /// Keeps a key in the store for as long as the session lives, over losses of its lease. The key must be this
    /// process's own: it is put without looking.
    pub fn register(&self, key: Key, value: impl Into<Bytes>) {
        let value = value.into();
        self.inner.wanted.lock().insert(key.clone(), value.clone());
        self.inner.dirty.lock().insert(key, Some(value));
        self.inner.changed.notify_one();
    }

    /// Deletes a registered key.
    pub fn unregister(&self, key: &Key) {
        if self.inner.wanted.lock().remove(key).is_some() {
            self.inner.dirty.lock().insert(key.clone(), None);
            self.inner.changed.notify_one();
        }
    }

    /// The lease, `None` while there is none; says so whenever it is lost or regained. With a lease, every key that was
    /// registered when it was granted is in the store.
    #[must_use]
    pub fn lease(&self) -> watch::Receiver<Option<LeaseId>> {
        self.inner.lease.subscribe()
    }

    /// Waits for a lease. `None` is never answered: a session that ended leaves this waiting.
    pub async fn held(&self) -> LeaseId {
        let mut lease = self.lease();
        loop {
            if let Some(lease) = *lease.borrow_and_update() {
                return lease;
            }
            // The sender lives as long as this handle, so that the wait cannot fail.
            lease.changed().await.ok();
        }
    }
}

impl Keeper {
    /// Keeps the session until cancelled, then revokes its lease, so that others need not wait for it to expire.
    ///
    /// # Errors
    /// [`Error::Refused`] where the guard does not hold, [`Error::Denied`] and the like where trying again cannot help.
    pub async fn run(self, cancel: CancellationToken) -> Result<(), Error> {
        let inner = &self.session.inner;
        let ended = tokio::select! {
            () = cancel.cancelled() => Ok(()),
            ended = self.keep() => ended,
        };
        let last = inner.lease.send_replace(None);
        if let Some(lease) = last {
            match inner.kv.revoke(lease).await {
                Ok(()) | Err(Error::LeaseExpired) => {}
                Err(error) => {
                    tracing::warn!(%error, "did not revoke the session's lease; it expires by itself")
                }
            }
        }
        ended
    }

    async fn keep(&self) -> Result<(), Error> {
        loop {
            let held = self.begin().await?;
            self.session.inner.lease.send_replace(Some(held.lease));
            let lease = held.lease;
            self.hold(held).await?;
            self.session.inner.lease.send_replace(None);
            tracing::info!(lease = lease.0, "the session's lease was lost; registers again");
        }
    }

    /// A new lease with every key on it.
    async fn begin(&self) -> Result<Held, Error> {
        let inner = &self.session.inner;
        loop {
            let sent = inner.options.clock.monotonic();
            let begun = async {
                let lease = inner.kv.grant(inner.options.ttl).await?;
                inner.dirty.lock().clear();
                let wanted: Vec<_> =
                    inner.wanted.lock().iter().map(|(k, v)| (k.clone(), Some(v.clone()))).collect();
                self.put(lease, &wanted).await?;
                Ok(lease)
            };
            match begun.await {
                Ok(lease) => return Ok(Held { lease, until: sent + inner.options.ttl }),
                Err(e) if passes(&e) => {
                    tracing::debug!(error = %e, "could not begin the session; tries again");
                    tokio::time::sleep(RETRY).await;
                }
                Err(e) => return Err(e),
            }
        }
    }

    /// Puts or deletes keys. A second put of the same key with the same lease changes nothing that matters, so that an
    /// ambiguous answer is repeated.
    async fn put(&self, lease: LeaseId, keys: &[(Key, Option<Bytes>)]) -> Result<(), Error> {
        let inner = &self.session.inner;
        // Without a key the guard is still asked: a process that may not register must not hold a lease.
        for chunk in keys.chunks(KEYS_PER_TXN).chain(keys.is_empty().then_some(keys)) {
            let ops = chunk.iter().map(|(key, value)| match value {
                Some(value) => Op::put_leased(key, value.clone(), lease),
                None => Op::delete(key),
            });
            let answer = inner.kv.txn(Txn::when(inner.options.guard.clone(), ops.collect())).await?;
            if !answer.succeeded {
                return Err(Error::Refused);
            }
        }
        Ok(())
    }

    /// Keeps what could not be put for the next attempt, unless something newer was asked for meanwhile.
    fn again(&self, keys: Vec<(Key, Option<Bytes>)>) {
        let mut dirty = self.session.inner.dirty.lock();
        for (key, value) in keys {
            dirty.entry(key).or_insert(value);
        }
    }

    /// Prolongs the lease at half of what is left, until it is lost.
    async fn hold(&self, mut held: Held) -> Result<(), Error> {
        let inner = &self.session.inner;
        loop {
            let left = held.until.saturating_duration_since(inner.options.clock.monotonic());
            if left <= MARGIN {
                return Ok(());
            }
            tokio::select! {
                () = inner.changed.notified() => {
                    let dirty: Vec<_> = std::mem::take(&mut *inner.dirty.lock()).into_iter().collect();
                    match self.put(held.lease, &dirty).await {
                        Ok(()) => continue,
                        Err(Error::LeaseExpired) => return Ok(()),
                        Err(e) if passes(&e) => {
                            self.again(dirty);
                            tokio::time::sleep(RETRY.min(left / 4)).await;
                            inner.changed.notify_one();
                        }
                        Err(e) => return Err(e),
                    }
                }
                () = tokio::time::sleep(left / 2) => {
                    let sent = inner.options.clock.monotonic();
                    match tokio::time::timeout(left / 2, inner.kv.keep_alive(held.lease)).await {
                        Ok(Ok(ttl)) => held.until = sent + ttl,
                        Ok(Err(Error::LeaseExpired)) => return Ok(()),
                        Ok(Err(e)) if !passes(&e) => return Err(e),
                        Ok(Err(e)) => {
                            tracing::debug!(error = %e, "could not prolong the lease; tries again");
                            tokio::time::sleep(RETRY.min(left / 8)).await;
                        }
                        Err(_) => {}
                    }
                }
            }
        }
    }
}

/// Whether the error passes by itself.
fn passes(e: &Error) -> bool {
    use isocenter_domain::Kinded as _;
    e.is_retryable() || matches!(e, Error::LeaseExpired)
}
