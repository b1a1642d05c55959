//! A watch of the embedded store: a position in the history, moved forward as revisions become durable.

use std::{
    sync::{Arc, Weak},
    time::Duration,
};

use futures::{StreamExt as _, stream};
use tokio::sync::watch;

use super::{PROGRESS_INTERVAL, Shared};
use crate::{
    Error,
    kv::{Event, Range, Revision, WatchItem, WatchStream},
};

struct Watcher {
    /// Weak, so that a forgotten watch does not keep the folder locked.
    shared: Weak<Shared>,
    durable: watch::Receiver<Revision>,
    range: Range,
    next: Revision,
}

/// What there is to do next.
enum Step {
    Deliver(WatchItem),
    /// Nothing up to this revision; look again at the latest after this long, when a lease is due.
    Wait(Revision, Option<Duration>),
}

pub(super) fn stream(shared: &Arc<Shared>, range: Range, from: Revision) -> WatchStream {
    let durable = shared.durable.subscribe();
    let watcher = Watcher { shared: Arc::downgrade(shared), durable, range, next: from };
    stream::unfold(Some(watcher), |watcher| async {
        let mut watcher = watcher?;
        match watcher.item().await {
            Ok(item) => Some((Ok(item), Some(watcher))),
            Err(e) => Some((Err(e), None)),
        }
    })
    .boxed()
}

impl Watcher {
    async fn item(&mut self) -> Result<WatchItem, Error> {
        // One timer for the whole wait: a lease that falls due or a change outside the range is no news of this range.
        let silence = tokio::time::sleep(PROGRESS_INTERVAL);
        tokio::pin!(silence);
        loop {
            let (seen, due) = match self.step().await? {
                Step::Deliver(item) => return Ok(item),
                Step::Wait(seen, due) => (seen, due),
            };
            let expiry = async {
                match due {
                    Some(due) => tokio::time::sleep(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = self.durable.changed() => changed.map_err(|_| closed())?,
                () = expiry => {}
                () = &mut silence => return Ok(WatchItem::Progress(seen)),
            }
        }
    }

    async fn step(&mut self) -> Result<Step, Error> {
        let shared = self.shared.upgrade().ok_or_else(closed)?;
        shared.expire_due().await.map_err(|e| Error::Lost { why: e.to_string() })?;
        let visible = *self.durable.borrow_and_update();
        if let Some(why) = shared.poisoned() {
            return Err(Error::Lost { why });
        }
        let state = shared.state.read();
        while self.next <= visible {
            let revision = self.next;
            let events = state.events(revision).ok_or(Error::Compacted { at: state.compacted() })?;
            self.next = revision.next();
            let events: Vec<Event> =
                events.iter().filter(|e| self.range.contains(e.key())).cloned().collect();
            if !events.is_empty() {
                return Ok(Step::Deliver(WatchItem::Events { revision, events }));
            }
        }
        let now = shared.options.clock.monotonic();
        Ok(Step::Wait(visible, state.next_deadline().map(|at| at.saturating_duration_since(now))))
    }
}

fn closed() -> Error {
    Error::Lost { why: "the store was closed".to_owned() }
}
