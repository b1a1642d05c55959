//! The feed: wakes keys as they change, and all of them now and then.

use std::{sync::Arc, time::Duration};

use futures::{StreamExt as _, stream::BoxStream};
use isocenter_runtime::retry::Schedule;
use tokio_util::sync::CancellationToken;

use crate::{Failed, Key, Queue, Share};

/// Keys that are taken in one go: a fraction of a millisecond. Then whoever waits for the thread has his turn, since tens of
/// thousands are listed at the start and now and then.
const AT_ONCE: usize = 256;

/// Where keys come from: a table of the store. The feed takes those of the shards that are this process's.
#[async_trait::async_trait]
pub trait KeySource: Send + Sync + 'static {
    /// The keys.
    type Key: Key;

    /// All keys there are now.
    ///
    /// # Errors
    /// Any: it is asked again by the retry schedule.
    async fn list(&self) -> Result<Vec<Self::Key>, Failed>;

    /// The keys that change from now on. Its end means that changes may have been missed: it is asked for again, and
    /// everything is listed. A source that fills a cache at the start waits here until that is done: the list has what is
    /// there already, and each key needs telling once.
    ///
    /// # Errors
    /// As [`KeySource::list`].
    async fn changes(&self) -> Result<BoxStream<'static, Self::Key>, Failed>;

    /// The shard of a key; 0 for keys of a kind that has no shards.
    fn shard(&self, key: &Self::Key) -> u8;
}

/// Fills one queue from one source.
#[derive(Clone, Copy, Debug)]
pub struct Feed {
    /// Its name in logs.
    pub name: &'static str,
    /// How often all keys are woken though nothing is known to have changed.
    pub resync: Duration,
    /// When a source that failed is asked again.
    pub retry: Schedule,
}

impl Feed {
    /// A resync every 5 minutes, retries after half a second to 10 seconds.
    #[must_use]
    pub const fn new(name: &'static str) -> Self {
        Self {
            name,
            resync: Duration::from_secs(300),
            retry: Schedule::new(Duration::from_millis(500), Duration::from_secs(10)),
        }
    }

    /// Feeds `queue` with the keys of `share` until `ended`. A key that is no longer the process's leaves the queue, unless
    /// it runs. Spawn it with [`isocenter_runtime::task::Tasks::background`].
    pub async fn run<K: Key>(
        self,
        source: Arc<dyn KeySource<Key = K>>,
        share: Arc<dyn Share>,
        queue: Queue<K>,
        ended: CancellationToken,
    ) {
        let (of, owned) = (Arc::clone(&source), Arc::clone(&share));
        queue.restrict(Arc::new(move |key| owned.owns(of.shard(key))));
        let mut failures = 0;
        loop {
            let fed = tokio::select! {
                () = ended.cancelled() => return,
                fed = self.follow(&*source, &*share, &queue, &mut failures) => fed,
            };
            // A source of the same process ends with it.
            if ended.is_cancelled() {
                return;
            }
            failures += 1;
            let now = queue.clock().now();
            let pause = self.retry.next(failures, now).since(now);
            match fed {
                Ok(()) => tracing::info!(feed = self.name, failures, "changes ended; listing again"),
                Err(e) => {
                    tracing::warn!(feed = self.name, failures, error = %e, "source failed; asking again")
                }
            }
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Follows the source until its changes end.
    async fn follow<K: Key>(
        &self,
        source: &dyn KeySource<Key = K>,
        share: &dyn Share,
        queue: &Queue<K>,
        failures: &mut u32,
    ) -> Result<(), Failed> {
        // First the changes, then the list: what changes between the two is in the changes.
        let mut moved = share.changes();
        let mut told = Told { changes: source.changes().await?, source, share, queue };
        if told.until(share.first_look()).await == Until::Ended {
            return Ok(());
        }
        loop {
            queue.prune();
            for (n, key) in source.list().await?.into_iter().enumerate() {
                if share.owns(source.shard(&key)) {
                    queue.resync(key);
                }
                if n % AT_ONCE == 0 {
                    tokio::task::yield_now().await;
                }
            }
            *failures = 0;
            let list_again = async {
                tokio::select! {
                    // What became ours has to be listed: its changes were not for us until now.
                    Some(()) = moved.next() => {}
                    () = tokio::time::sleep(self.resync) => {}
                    () = queue.room() => {}
                }
            };
            if told.until(list_again).await == Until::Ended {
                return Ok(());
            }
        }
    }
}

/// The changes of a source on their way to the queue.
struct Told<'a, K: Key> {
    changes: BoxStream<'static, K>,
    source: &'a dyn KeySource<Key = K>,
    share: &'a dyn Share,
    queue: &'a Queue<K>,
}

/// How telling changes came to its end.
#[derive(PartialEq, Eq)]
enum Until {
    /// What it went on until has come.
    Come,
    /// The changes have ended.
    Ended,
}

impl<K: Key> Told<'_, K> {
    /// Wakes the keys that change until `come` returns.
    async fn until(&mut self, come: impl Future<Output = ()>) -> Until {
        tokio::pin!(come);
        for n in 1_usize.. {
            if n % AT_ONCE == 0 {
                tokio::task::yield_now().await;
            }
            tokio::select! {
                changed = self.changes.next() => match changed {
                    Some(key) if self.share.owns(self.source.shard(&key)) => drop(self.queue.wake(key)),
                    Some(_) => {}
                    None => return Until::Ended,
                },
                () = &mut come => return Until::Come,
            }
        }
        Until::Ended
    }
}
