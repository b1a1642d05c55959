//! A store that fails on purpose: the decorator for tests and simulations.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt as _, stream};
use isocenter_runtime::random::Seeded;
use parking_lot::Mutex;

use crate::{
    Error,
    kv::{
        Key, KeyValue, Kv, LeaseId, Listing, Op, Page, Range, Revision, Status, Txn, TxnAnswer, Usage,
        WatchItem, WatchStream,
    },
};

/// How often each fault happens, as a probability per call (for watches per item). All zero is no fault.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Faults {
    /// A call fails before it reaches the store: [`Error::Unavailable`].
    pub timeout_before: f64,
    /// A change is made and its answer lost: [`Error::Ambiguous`].
    pub timeout_after: f64,
    /// The first key a transaction would put is put by somebody else just before, with the value it has.
    pub conflict: f64,
    /// A watch is lost.
    pub cut_watch: f64,
    /// A watch stays open and is silent from here on, as one at a frozen member is.
    pub silence_watch: f64,
    /// A revision's events are never delivered: a defect that some releases of etcd had. Only listing again repairs it.
    pub lose_events: f64,
    /// The store is compacted to its newest revision before a watch is opened.
    pub compaction: f64,
    /// A lease is revoked before it is kept alive.
    pub lease_loss: f64,
    /// Every call and every item of a watch takes up to this long.
    pub latency: Duration,
}

/// A store whose calls fail as [`Faults`] and a seed say. Time is tokio's.
pub struct FaultyStore {
    inner: Arc<dyn Kv>,
    chance: Arc<Chance>,
    requests: AtomicU64,
}

struct Chance {
    faults: Mutex<Faults>,
    rng: Mutex<Seeded>,
}

impl Chance {
    fn hits(&self, which: impl Fn(&Faults) -> f64) -> bool {
        let probability = which(&self.faults.lock());
        probability > 0.0 && self.rng.lock().chance(probability)
    }

    async fn delay(&self) {
        let most = self.faults.lock().latency;
        if !most.is_zero() {
            let time = self.rng.lock().duration(Duration::ZERO..most);
            tokio::time::sleep(time).await;
        }
    }
}

impl fmt::Debug for FaultyStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultyStore").field("faults", &*self.chance.faults.lock()).finish_non_exhaustive()
    }
}

impl FaultyStore {
    /// A faulty view of a store; others may use the same store without faults.
    #[must_use]
    pub fn new(inner: Arc<dyn Kv>, faults: Faults, rng: Seeded) -> Self {
        let chance = Arc::new(Chance { faults: Mutex::new(faults), rng: Mutex::new(rng) });
        Self { inner, chance, requests: AtomicU64::new(0) }
    }

    /// How many keys, lists and transactions were asked for up to now, whatever came of it. Watches and leases, which go on by
    /// themselves, are not counted.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests.load(Ordering::Relaxed)
    }

    /// Changes the faults from now on.
    pub fn set(&self, faults: Faults) {
        *self.chance.faults.lock() = faults;
    }

    async fn request(&self) -> Result<(), Error> {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.before().await
    }

    async fn before(&self) -> Result<(), Error> {
        self.chance.delay().await;
        if self.chance.hits(|f| f.timeout_before) {
            return Err(Error::unavailable("injected: the request was lost"));
        }
        Ok(())
    }

    /// A change was made; whether the caller is told.
    fn after<T>(&self, answer: T) -> Result<T, Error> {
        if self.chance.hits(|f| f.timeout_after) {
            return Err(Error::Ambiguous { why: "injected: the answer was lost".to_owned() });
        }
        Ok(answer)
    }

    async fn interfere(&self, txn: &Txn) -> Result<(), Error> {
        let put = txn.then.iter().find_map(|op| match op {
            Op::Put { key, .. } => Some(key),
            Op::Delete { .. } | Op::Get { .. } => None,
        });
        let Some(key) = put else { return Ok(()) };
        if let Some(kv) = self.inner.get(key).await? {
            let again = Op::Put { key: key.clone(), value: kv.value, lease: kv.lease };
            self.inner.txn(Txn::always(vec![again])).await?;
        }
        Ok(())
    }
}

#[async_trait]
impl Kv for FaultyStore {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        self.request().await?;
        self.inner.get(key).await
    }

    async fn list(&self, range: &Range, page: Page) -> Result<Listing, Error> {
        self.request().await?;
        self.inner.list(range, page).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error> {
        self.request().await?;
        if self.chance.hits(|f| f.conflict) {
            self.interfere(&txn).await?;
        }
        let answer = self.inner.txn(txn).await?;
        self.after(answer)
    }

    async fn watch(&self, range: &Range, from: Revision) -> Result<WatchStream, Error> {
        self.before().await?;
        if self.chance.hits(|f| f.compaction) {
            let newest = self.inner.status().await?.revision;
            match self.inner.compact(newest).await {
                Ok(()) | Err(Error::Compacted { .. }) => {}
                Err(e) => return Err(e),
            }
        }
        let watch = self.inner.watch(range, from).await?;
        let chance = Arc::clone(&self.chance);
        Ok(stream::unfold(Some(watch), move |watch| {
            let chance = Arc::clone(&chance);
            async move {
                let mut watch = watch?;
                let mut item = watch.next().await?;
                while matches!(item, Ok(WatchItem::Events { .. })) && chance.hits(|f| f.lose_events) {
                    item = watch.next().await?;
                }
                chance.delay().await;
                if chance.hits(|f| f.cut_watch) {
                    return Some((Err(Error::Lost { why: "injected: the watch was cut".to_owned() }), None));
                }
                if chance.hits(|f| f.silence_watch) {
                    std::future::pending::<()>().await;
                }
                Some((item, Some(watch)))
            }
        })
        .boxed())
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.before().await?;
        let lease = self.inner.grant(ttl).await?;
        self.after(lease)
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.before().await?;
        if self.chance.hits(|f| f.lease_loss) {
            self.inner.revoke(lease).await?;
        }
        self.inner.keep_alive(lease).await
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.before().await?;
        self.inner.revoke(lease).await?;
        self.after(())
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.before().await?;
        self.inner.compact(at).await
    }

    async fn status(&self) -> Result<Status, Error> {
        self.before().await?;
        self.inner.status().await
    }

    async fn usage(&self) -> Result<Usage, Error> {
        self.before().await?;
        self.inner.usage().await
    }

    fn progress_interval(&self) -> Duration {
        self.inner.progress_interval()
    }
}
