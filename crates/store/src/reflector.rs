//! A cache of a key range that follows the store and repairs itself.
//!
//! List at one revision, watch from the next, apply whole revisions. Whatever ends the watch (compaction, a cut, silence,
//! another cluster, the periodic check) is answered in one way: list again, and tell subscribers what differs. A watch is
//! never resumed, so no rule about where to resume can be wrong.

mod mirror;

use std::{convert::Infallible, fmt, sync::Arc, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _};
use isocenter_runtime::random::Seeded;
use tokio_util::sync::CancellationToken;

pub use mirror::{Cached, Changed, Changes, Mirror, SUBSCRIBER_KEYS, Snapshot};

use crate::{
    Error,
    kv::{self, KeyValue, Kv, Listing, Range, Revision, WatchItem},
};

/// Records that are decoded where the list was read: a millisecond or two.
const AT_ONCE: usize = 1_000;

/// Pages of a list that are decoded at a time, while the next is read.
const DECODED_AT_ONCE: usize = 2;

/// How a reflector works.
#[derive(Debug)]
pub struct ReflectorOptions {
    /// What it caches.
    pub range: Range,
    /// How often it lists again without being told to: repairs what a store's own defect lost. Each time is drawn from
    /// the upper half of this, so that many processes do not list at once.
    pub resync: Duration,
    /// The pause after a first failure; it doubles up to `backoff_max`, each drawn from the single to the double.
    pub backoff: Duration,
    /// The longest pause before it is drawn.
    pub backoff_max: Duration,
    /// A watch that lived this long starts over with the shortest pause.
    pub healthy: Duration,
    /// Where the draws come from.
    pub rng: Seeded,
}

impl ReflectorOptions {
    /// The usual options for a range.
    #[must_use]
    pub fn new(range: Range) -> Self {
        Self {
            range,
            resync: Duration::from_secs(30 * 60),
            backoff: Duration::from_millis(800),
            backoff_max: Duration::from_secs(30),
            healthy: Duration::from_secs(120),
            rng: Seeded::fresh(),
        }
    }
}

type Decode<T> = Arc<dyn Fn(&KeyValue) -> T + Send + Sync>;

/// The task that keeps a [`Mirror`].
pub struct Reflector<T> {
    kv: Arc<dyn Kv>,
    options: ReflectorOptions,
    decode: Decode<T>,
    mirror: Mirror<T>,
}

impl<T> fmt::Debug for Reflector<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reflector").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<T: Send + Sync + 'static> Reflector<T> {
    /// A reflector and its mirror. `decode` is called once per change; let `T` be a `Result` where it can fail. Use one
    /// reflector per range and process.
    pub fn new(
        kv: Arc<dyn Kv>,
        options: ReflectorOptions,
        decode: impl Fn(&KeyValue) -> T + Send + Sync + 'static,
    ) -> (Self, Mirror<T>) {
        let mirror = Mirror::new();
        (Self { kv, options, decode: Arc::new(decode), mirror: mirror.clone() }, mirror)
    }

    /// Follows the store until cancelled. Errors of the store are logged and answered by listing again.
    pub async fn run(mut self, cancel: CancellationToken) {
        tokio::select! {
            () = cancel.cancelled() => {}
            never = self.follow() => match never {},
        }
        self.mirror.close();
    }

    async fn follow(&mut self) -> Infallible {
        let mut pause = self.options.backoff;
        loop {
            let resync = isocenter_runtime::random::spread(self.options.resync, self.options.rng.next_u64());
            let healthy = self.options.healthy.min(resync);
            let ended = {
                let cycle = self.cycle();
                tokio::pin!(cycle);
                match tokio::time::timeout(healthy, &mut cycle).await {
                    Err(_) => {
                        pause = self.options.backoff;
                        tokio::time::timeout(resync - healthy, cycle).await
                    }
                    ended => ended,
                }
            };
            let Ok(Err(error)) = ended else { continue };
            self.mirror.set_live(false);
            tracing::info!(range = ?self.options.range, %error, "lists again");
            let draw = self.options.rng.next_u64();
            tokio::time::sleep(isocenter_runtime::random::spread(2 * pause, draw)).await;
            pause = (2 * pause).min(self.options.backoff_max);
        }
    }

    /// Fills the mirror with all there is, as of the revision that is answered. What is much is decoded where it holds up nobody, and
    /// while more is read: tens of thousands of records take a good part of a second.
    async fn fill(&self) -> Result<Revision, Error> {
        let refill = Arc::new(self.mirror.refill());
        let decoded = |page: Listing| {
            let (refill, decode) = (Arc::clone(&refill), Arc::clone(&self.decode));
            apart(page.items.len(), move || (page.revision, refill.page(page.items, &*decode)))
        };
        let pages = kv::pages(&*self.kv, &self.options.range);
        let mut pages = pages.map_ok(decoded).try_buffered(DECODED_AT_ONCE);
        let (mut revision, mut all) = (Revision(0), Vec::new());
        while let Some((at, page)) = pages.try_next().await? {
            revision = at;
            all.push(page);
        }
        drop(pages);
        let many = all.iter().map(mirror::Decoded::len).sum();
        apart(many, move || refill.take_over(revision, all)).await?;
        Ok(revision)
    }

    /// One list and the watch that follows it. Ends with what ended the watch.
    async fn cycle(&self) -> Result<Infallible, Error> {
        let next = self.fill().await?.next();
        let mut watch = self.kv.watch(&self.options.range, next).await?;
        self.mirror.set_live(true);
        let silence = 2 * self.kv.progress_interval();
        loop {
            let item = tokio::time::timeout(silence, watch.next()).await;
            let item = item.map_err(|_| Error::Lost { why: "it was silent for too long".to_owned() })?;
            match item.unwrap_or_else(|| Err(Error::Lost { why: "its stream ended".to_owned() }))? {
                WatchItem::Events { revision, events } => self.mirror.apply(revision, events, &*self.decode),
                WatchItem::Progress(revision) => self.mirror.reach(revision),
            }
        }
    }
}

/// Does what `many` records are needed for, where it holds up nobody if they are many.
async fn apart<T: Send + 'static>(
    many: usize,
    what: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Error> {
    if many <= AT_ONCE {
        return Ok(what());
    }
    let done = tokio::task::spawn_blocking(what).await;
    done.map_err(|e| Error::unavailable(format!("decoding was interrupted: {e}")))
}
