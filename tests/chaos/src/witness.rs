//! The store's own history, seen by a watch of everything from the first revision on: the order of revisions is the order in
//! which things happened, and every check is a walk along it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Result, bail};
use bytes::Bytes;
use futures::StreamExt as _;
use isocenter_runtime::task::Tasks;
use isocenter_store::{Error, Event, Kv, Page, Range, Revision, WatchItem};
use parking_lot::Mutex;

use crate::record::Recorder;

/// The pause before a watch that was lost is opened again.
const AGAIN: Duration = Duration::from_millis(200);

/// One key changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that changed it.
    pub revision: u64,
    /// The key.
    pub key: String,
    /// What it holds from then on; `None`: it is gone.
    pub value: Option<Bytes>,
    /// When the harness saw it, since the run began.
    pub seen: Duration,
}

/// A store's history, without a gap from its first revision on.
#[derive(Clone, Debug, Default)]
pub struct History {
    /// The changes, by revision.
    pub changes: Vec<Change>,
    /// What the watch itself did wrong: a revision twice, out of order, or left out.
    pub faults: Vec<String>,
}

impl History {
    /// The revision up to which it reaches.
    #[must_use]
    pub fn revision(&self) -> u64 {
        self.changes.last().map_or(1, |change| change.revision)
    }

    /// What each key holds at the end.
    #[must_use]
    pub fn last(&self) -> BTreeMap<&str, &Bytes> {
        let mut last = BTreeMap::new();
        for change in &self.changes {
            match &change.value {
                Some(value) => drop(last.insert(change.key.as_str(), value)),
                None => drop(last.remove(change.key.as_str())),
            }
        }
        last
    }
}

/// A watch that keeps everything it sees.
#[derive(Clone, Debug)]
pub struct Witness {
    kv: Arc<dyn Kv>,
    history: Arc<Mutex<History>>,
}

impl Witness {
    /// Begins to watch; a watch that is lost is opened again where it stopped.
    #[must_use]
    pub fn start(kv: Arc<dyn Kv>, recorder: Recorder, tasks: &Tasks) -> Self {
        let witness = Self { kv, history: Arc::default() };
        let (watching, stop) = (witness.clone(), tasks.token());
        tasks.background("witness", async move {
            tokio::select! { () = stop.cancelled() => {}, () = watching.run(&recorder) => {} }
        });
        witness
    }

    /// The store, past every proxy.
    #[must_use]
    pub fn kv(&self) -> &Arc<dyn Kv> {
        &self.kv
    }

    /// The revision up to which it has seen everything.
    #[must_use]
    pub fn seen(&self) -> u64 {
        self.history.lock().revision()
    }

    /// The history up to now, or a little later.
    ///
    /// # Errors
    /// If the store does not answer, or the watch does not get there.
    pub async fn history(&self, patience: Duration) -> Result<History> {
        let range = Range::all();
        let now = self.kv.list(&range, Page { limit: 1, ..Page::default() }).await?.revision;
        let reached = async {
            while self.seen() < now.0 {
                tokio::time::sleep(AGAIN / 4).await;
            }
        };
        if tokio::time::timeout(patience, reached).await.is_err() {
            bail!("the watch has seen revision {} of {now}", self.seen());
        }
        Ok(self.history.lock().clone())
    }

    async fn run(&self, recorder: &Recorder) {
        loop {
            let from = Revision(self.seen()).next();
            let lost = match self.kv.watch(&Range::all(), from).await {
                Ok(mut watch) => loop {
                    match watch.next().await {
                        Some(Ok(WatchItem::Events { revision, events })) => {
                            self.keep(revision, events, recorder.now());
                        }
                        Some(Ok(WatchItem::Progress(_))) => {}
                        Some(Err(error)) => break Some(error),
                        None => break None,
                    }
                },
                Err(error) => Some(error),
            };
            if let Some(Error::Compacted { at }) = lost {
                // The harness compacts only what was seen; anything else would make the history worthless.
                self.history.lock().faults.push(format!("compacted up to {at} before it was seen"));
                return;
            }
            tokio::time::sleep(AGAIN).await;
        }
    }

    fn keep(&self, revision: Revision, events: Vec<Event>, seen: Duration) {
        let mut history = self.history.lock();
        let last = history.revision();
        // Each change is one revision, and everything is watched: none may be missing.
        if revision.0 != last + 1 {
            history.faults.push(format!("revision {revision} follows {last}"));
        }
        for event in events {
            let key = event.key().to_string();
            let value = match event {
                Event::Put(kv) => Some(kv.value),
                Event::Delete { .. } => None,
            };
            history.changes.push(Change { revision: revision.0, key, value, seen });
        }
    }
}
