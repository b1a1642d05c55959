//! The store of one machine: etcd's semantics in memory, made durable by a write-ahead log in a folder.
//!
//! Reads show what is durable. A batch of changes is synced to disk before any of them is answered. Watches read the
//! kept history, so that a slow one costs nothing and ends with [`Error::Compacted`] rather than with a gap. Leases get
//! their full time again when the store is reopened, as etcd's do when a leader is elected.

mod codec;
mod log;
mod state;
mod watch;
mod writer;

use std::{
    collections::VecDeque,
    fs::{File, TryLockError},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use async_trait::async_trait;
use isocenter_runtime::{
    clock::{self, Clock},
    fs::{self, Fs},
};
use parking_lot::{Mutex, RwLock};
use tokio::sync::{Notify, Semaphore, oneshot};

use self::{
    log::Log,
    state::{Record, State},
    writer::{Ask, Queue, Request},
};
use crate::{
    Error,
    kv::{Key, KeyValue, Kv, LeaseId, Listing, Page, Range, Revision, Status, Txn, TxnAnswer, WatchStream},
};

/// How often an idle watch says that it is alive.
pub const PROGRESS_INTERVAL: Duration = Duration::from_secs(10);

/// How an embedded store is opened.
#[derive(Clone, Debug)]
pub struct EmbeddedOptions {
    /// The store's own folder, made where absent.
    pub dir: PathBuf,
    /// The file layer below the log.
    pub fs: Arc<dyn Fs>,
    /// The clock of the leases: [`Clock::monotonic`] only.
    pub clock: SharedClock,
    /// Whether to hold the folder's lock. Only a file layer that is not the machine's goes without.
    pub lock: bool,
    /// History is kept at least this long, so that a watch that was cut this long ago resumes.
    pub history: Duration,
    /// At most about this many revisions of history are kept, however young.
    pub history_revisions: usize,
    /// A log longer than this, and than twice the snapshot before it, is replaced by a new snapshot.
    pub log_bytes: u64,
    /// Memory for keys, values and history above which puts and grants are refused.
    pub quota_bytes: u64,
}

/// A clock that can be shared and printed.
#[derive(Clone)]
pub struct SharedClock(pub Arc<dyn Clock>);

impl std::fmt::Debug for SharedClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("SharedClock")
    }
}

impl std::ops::Deref for SharedClock {
    type Target = dyn Clock;

    fn deref(&self) -> &Self::Target {
        &*self.0
    }
}

impl EmbeddedOptions {
    /// The options of a process that keeps its store in `dir`.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self {
            dir: dir.into(),
            fs: fs::os(),
            clock: SharedClock(clock::system()),
            lock: true,
            history: Duration::from_secs(15 * 60),
            history_revisions: 100_000,
            log_bytes: 16 << 20,
            quota_bytes: 2 << 30,
        }
    }

    /// The same over another file layer, without the folder's lock.
    #[must_use]
    pub fn over(self, fs: Arc<dyn Fs>) -> Self {
        Self { fs, lock: false, ..self }
    }

    /// The same with another clock.
    #[must_use]
    pub fn with_clock(self, clock: Arc<dyn Clock>) -> Self {
        Self { clock: SharedClock(clock), ..self }
    }
}

/// An open embedded store. Its methods must be called within a tokio runtime.
#[derive(Debug)]
pub struct Embedded {
    shared: Arc<Shared>,
}

/// What the store's callers, its writer and its watches share.
#[derive(Debug)]
struct Shared {
    options: EmbeddedOptions,
    cluster_id: u64,
    state: RwLock<State>,
    /// The newest durable revision: what readers see.
    durable: tokio::sync::watch::Sender<Revision>,
    log: Mutex<Log>,
    queue: Mutex<Queue>,
    places: Arc<Semaphore>,
    /// Told whenever the writer stops.
    idle: Notify,
    failure: Mutex<Option<String>>,
    /// When each recent revision was reached, one mark per fifteenth of [`EmbeddedOptions::history`].
    marks: Mutex<VecDeque<(Instant, Revision)>>,
    lock: Mutex<Option<File>>,
}

impl Embedded {
    /// Opens the store in a folder, or makes an empty one.
    ///
    /// # Errors
    /// [`Error::Locked`] where another process has it open; [`Error::Corrupt`] where a file holds what was never
    /// written to it (a torn end of the log is cut off: it was never acknowledged); [`Error::Io`].
    pub async fn open(options: EmbeddedOptions) -> Result<Self, Error> {
        let now = options.clock.monotonic();
        let opening = tokio::task::spawn_blocking(move || {
            let lock = if options.lock { Some(lock(&*options.fs, &options.dir)?) } else { None };
            let (log, state) = Log::open(Arc::clone(&options.fs), &options.dir, now)?;
            Ok((options, lock, log, state))
        });
        let (options, lock, log, state) =
            opening.await.map_err(|e| Error::unavailable(format!("opening was interrupted: {e}")))??;
        let shared = Shared {
            options,
            cluster_id: log.cluster_id(),
            durable: tokio::sync::watch::Sender::new(state.revision()),
            state: RwLock::new(state),
            log: Mutex::new(log),
            queue: Mutex::default(),
            places: Arc::new(Semaphore::new(writer::QUEUE)),
            idle: Notify::new(),
            failure: Mutex::default(),
            marks: Mutex::default(),
            lock: Mutex::new(lock),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Ends the store: what is queued is written, then the folder is free for another process.
    pub async fn close(self) {
        loop {
            let idle = self.shared.idle.notified();
            if !self.shared.queue.lock().is_writing() {
                break;
            }
            idle.await;
        }
        self.shared.poison("the store was closed");
        *self.shared.lock.lock() = None;
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Ask) -> Result<T, Error> {
        self.shared.ask(ask).await
    }

    /// Ends due leases, and answers the revision that readers see.
    async fn current(&self) -> Result<Revision, Error> {
        self.shared.expire_due().await?;
        match self.shared.poisoned() {
            Some(why) => Err(Error::Poisoned { why }),
            None => Ok(*self.shared.durable.borrow()),
        }
    }
}

impl Shared {
    async fn ask<T>(
        self: &Arc<Self>,
        ask: impl FnOnce(oneshot::Sender<Result<T, Error>>) -> Ask,
    ) -> Result<T, Error> {
        let places = Arc::clone(&self.places);
        let permit = places.acquire_owned().await.map_err(|e| Error::unavailable(e.to_string()))?;
        let (reply, answer) = oneshot::channel();
        let request = Request { ask: ask(reply), now: self.options.clock.monotonic(), permit };
        writer::enqueue(self, request);
        let lost = |_| Error::Ambiguous { why: "the writer ended before it answered".to_owned() };
        answer.await.unwrap_or_else(|e| Err(lost(e)))
    }

    async fn expire_due(self: &Arc<Self>) -> Result<(), Error> {
        let now = self.options.clock.monotonic();
        if self.state.read().next_deadline().is_none_or(|at| at > now) {
            return Ok(());
        }
        self.ask(Ask::Expire).await
    }

    fn poisoned(&self) -> Option<String> {
        self.failure.lock().clone()
    }

    fn poison(&self, why: &str) {
        let mut failure = self.failure.lock();
        if failure.is_none() {
            *failure = Some(why.to_owned());
        }
        drop(failure);
        // Wakes the watches, which then find the failure.
        self.durable.send_modify(|_| ());
    }

    fn publish(&self, revision: Revision) {
        self.durable.send_if_modified(|durable| std::mem::replace(durable, revision) != revision);
    }

    /// Compaction by age and by number.
    fn compact_old(&self, state: &mut State, now: Instant) -> Option<Record> {
        let mut marks = self.marks.lock();
        if marks.back().is_none_or(|(at, _)| now >= *at + self.options.history / 15) {
            marks.push_back((now, state.revision()));
        }
        let mut target = state.compacted();
        while let Some((_, revision)) = marks.front().filter(|(at, _)| now >= *at + self.options.history) {
            target = target.max(*revision);
            marks.pop_front();
        }
        if state.history_len() > self.options.history_revisions {
            // Half of it at once, so that the walk over all keys is rare.
            let keep = self.options.history_revisions as u64 / 2;
            target = target.max(Revision(state.revision().0 - keep));
        }
        if target > state.compacted() { state.compact(target).ok() } else { None }
    }
}

fn lock(fs: &dyn Fs, dir: &Path) -> Result<File, Error> {
    fs.create_dir_all(dir).map_err(Error::io("creating", dir))?;
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.map_err(Error::io("opening", &path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(e)) => Err(Error::io("locking", path)(e)),
    }
}

#[async_trait]
impl Kv for Embedded {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        let at = self.current().await?;
        Ok(self.shared.state.read().get(key, at))
    }

    async fn list(&self, range: &Range, page: Page) -> Result<Listing, Error> {
        let visible = self.current().await?;
        self.shared.state.read().list(range, &page, visible)
    }

    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error> {
        txn.check()?;
        self.ask(|reply| Ask::Txn(txn, reply)).await
    }

    async fn watch(&self, range: &Range, from: Revision) -> Result<WatchStream, Error> {
        let visible = self.current().await?;
        if from > visible.next() {
            return Err(Error::FutureRevision { asked: from, at: visible });
        }
        // Nothing was ever changed by revisions 0 and 1.
        let from = from.max(Revision(2));
        let compacted = self.shared.state.read().compacted();
        if from < compacted {
            return Err(Error::Compacted { at: compacted });
        }
        Ok(watch::stream(&self.shared, range.clone(), from))
    }

    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        let ttl = whole_seconds(ttl);
        self.ask(|reply| Ask::Grant(ttl, reply)).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.current().await?;
        let now = self.shared.options.clock.monotonic();
        self.shared.state.write().keep_alive(lease, now)
    }

    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.ask(|reply| Ask::Revoke(lease, reply)).await
    }

    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.ask(|reply| Ask::Compact(at, reply)).await
    }

    async fn status(&self) -> Result<Status, Error> {
        let revision = self.current().await?;
        Ok(Status {
            revision,
            db_bytes: self.shared.state.read().bytes(),
            quota_bytes: self.shared.options.quota_bytes,
            cluster_id: self.shared.cluster_id,
        })
    }

    fn progress_interval(&self) -> Duration {
        PROGRESS_INTERVAL
    }
}

/// The longest lease etcd grants, in seconds.
const MAX_TTL_SECONDS: u64 = 9_000_000_000;

/// Leases count in whole seconds, as etcd's do; at least one, at most [`MAX_TTL_SECONDS`].
pub(crate) fn whole_seconds(ttl: Duration) -> Duration {
    let up = u64::from(ttl.subsec_nanos() > 0);
    Duration::from_secs(ttl.as_secs().saturating_add(up).clamp(1, MAX_TTL_SECONDS))
}
