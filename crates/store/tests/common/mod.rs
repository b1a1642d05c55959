//! What several tests of the store share.
#![allow(dead_code, reason = "each test binary uses its own part")]

pub mod suite;

use std::{sync::Arc, time::Duration};

use futures::StreamExt as _;
use isocenter_store::{
    Event, Key, Kv, Op, Range, Revision, Txn, TxnAnswer, WatchItem, WatchStream,
    embedded::{Embedded, EmbeddedOptions},
    etcd::{Etcd, EtcdOptions},
};
use tempfile::TempDir;

/// Long enough for a busy machine; nothing waits for it when all is well.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub fn key(key: impl AsRef<str>) -> Key {
    Key::new(key).unwrap()
}

pub async fn put(kv: &dyn Kv, k: &str, value: impl Into<bytes::Bytes>) -> Revision {
    always(kv, vec![Op::put(&key(k), value)]).await.revision
}

pub async fn always(kv: &dyn Kv, ops: Vec<Op>) -> TxnAnswer {
    kv.txn(Txn::always(ops)).await.unwrap()
}

pub async fn revision(kv: &dyn Kv) -> Revision {
    kv.status().await.unwrap().revision
}

pub async fn embedded(dir: &TempDir) -> Embedded {
    Embedded::open(EmbeddedOptions::new(dir.path())).await.unwrap()
}

pub async fn etcd(endpoints: &[String]) -> Arc<dyn Kv> {
    let mut options = EtcdOptions::new(endpoints);
    options.progress_interval = Duration::from_secs(1);
    Arc::new(Etcd::connect(options).await.unwrap())
}

/// The next revision's events, whatever progress comes before.
pub async fn next_events(watch: &mut WatchStream) -> (Revision, Vec<Event>) {
    loop {
        match next(watch).await.unwrap() {
            WatchItem::Events { revision, events } => return (revision, events),
            WatchItem::Progress(_) => {}
        }
    }
}

pub async fn next(watch: &mut WatchStream) -> Result<WatchItem, isocenter_store::Error> {
    tokio::time::timeout(PATIENCE, watch.next()).await.expect("an item in time").expect("the stream goes on")
}

/// Every event of a range from one revision to another, both included.
pub async fn history(
    kv: &dyn Kv,
    range: &Range,
    from: Revision,
    to: Revision,
) -> Vec<(Revision, Vec<Event>)> {
    let mut watch = kv.watch(range, from).await.unwrap();
    // A last key inside the range marks the end, so that nobody waits for what does not come.
    let mut seen = Vec::new();
    while seen.last().is_none_or(|(at, _)| *at < to) {
        seen.push(next_events(&mut watch).await);
    }
    seen
}
