//! What only the embedded store does: time that is passed in, automatic compaction, a quota in memory.

mod common;

use std::time::Duration;

use common::{key, next_events, put};
use isocenter_domain::Time;
use isocenter_runtime::clock::TestClock;
use isocenter_store::{
    Error, Kv, Op, Range, Revision, Txn, WatchItem,
    embedded::{Embedded, EmbeddedOptions, PROGRESS_INTERVAL},
};
use isocenter_testkit::PowerCutFs;

fn options(disk: &PowerCutFs, clock: &TestClock) -> EmbeddedOptions {
    EmbeddedOptions::new("/store").over(disk.shared()).with_clock(clock.shared())
}

#[tokio::test(start_paused = true)]
async fn a_lease_expires_for_a_waiting_watch_without_anybody_asking() {
    let (disk, clock) = (PowerCutFs::new(), TestClock::paused(Time::ZERO));
    let store = Embedded::open(options(&disk, &clock)).await.unwrap();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let at = common::always(&store, vec![Op::put_leased(&key("a"), "x", lease)]).await.revision;
    let mut watch = store.watch(&Range::all(), at.next()).await.unwrap();
    assert_eq!(next_events(&mut watch).await.0, at.next());
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
}

#[tokio::test(start_paused = true)]
async fn a_lease_kept_alive_outlives_its_time_and_an_idle_watch_makes_progress() {
    let (disk, clock) = (PowerCutFs::new(), TestClock::paused(Time::ZERO));
    let store = Embedded::open(options(&disk, &clock)).await.unwrap();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let at = common::always(&store, vec![Op::put_leased(&key("a"), "x", lease)]).await.revision;
    let mut watch = store.watch(&Range::all(), at.next()).await.unwrap();
    for _ in 0..5 {
        tokio::time::sleep(Duration::from_secs(4)).await;
        assert_eq!(store.keep_alive(lease).await.unwrap(), Duration::from_secs(5));
    }
    assert!(store.get(&key("a")).await.unwrap().is_some());
    drop(watch);
    watch = store.watch(&Range::prefix("other/").unwrap(), at.next()).await.unwrap();
    let begun = tokio::time::timeout(PROGRESS_INTERVAL * 2, common::next(&mut watch)).await;
    assert!(matches!(begun, Ok(Ok(WatchItem::Progress(_)))), "{begun:?}");
}

#[tokio::test(start_paused = true)]
async fn a_watch_makes_progress_while_leases_are_kept_alive_and_other_keys_change() {
    let (disk, clock) = (PowerCutFs::new(), TestClock::paused(Time::ZERO));
    let store = Embedded::open(options(&disk, &clock)).await.unwrap();
    let lease = store.grant(Duration::from_secs(5)).await.unwrap();
    let at = put(&store, "k", "x").await;
    let mut watch = store.watch(&Range::prefix("other/").unwrap(), at.next()).await.unwrap();
    let busy = async {
        loop {
            tokio::time::sleep(Duration::from_secs(2)).await;
            store.keep_alive(lease).await.unwrap();
            put(&store, "k", "y").await;
        }
    };
    tokio::select! {
        () = busy => {}
        item = tokio::time::timeout(PROGRESS_INTERVAL * 2, common::next(&mut watch)) => {
            assert!(matches!(item, Ok(Ok(WatchItem::Progress(_)))), "{item:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_gets_its_full_time_again_when_the_store_is_reopened() {
    let (disk, clock) = (PowerCutFs::new(), TestClock::paused(Time::ZERO));
    let store = Embedded::open(options(&disk, &clock)).await.unwrap();
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    common::always(&store, vec![Op::put_leased(&key("a"), "x", lease)]).await;
    for _ in 0..2 {
        // Once from the log, once from a snapshot.
        tokio::time::sleep(Duration::from_secs(9)).await;
    }
    assert_eq!(store.get(&key("a")).await.unwrap(), None, "18 s are over");
    let lease = store.grant(Duration::from_secs(10)).await.unwrap();
    common::always(&store, vec![Op::put_leased(&key("a"), "x", lease)]).await;
    tokio::time::sleep(Duration::from_secs(9)).await;
    store.close().await;
    let store = Embedded::open(options(&disk, &clock)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(store.get(&key("a")).await.unwrap().is_some());
    store.compact(common::revision(&store).await).await.unwrap();
    store.close().await;
    let store = Embedded::open(options(&disk, &clock)).await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    assert!(store.get(&key("a")).await.unwrap().is_some());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(store.get(&key("a")).await.unwrap(), None);
    assert_ne!(store.grant(Duration::from_secs(1)).await.unwrap(), lease, "ids are not used again");
}

#[tokio::test]
async fn history_is_bounded_by_number() {
    let disk = PowerCutFs::new();
    let mut options = EmbeddedOptions::new("/store").over(disk.shared());
    options.history_revisions = 20;
    let store = Embedded::open(options).await.unwrap();
    let mut slow = store.watch(&Range::all(), Revision(2)).await.unwrap();
    for i in 0..50 {
        put(&store, &format!("k/{}", i % 3), "x").await;
    }
    assert!(matches!(common::next(&mut slow).await, Err(Error::Compacted { .. })));
    let at = common::revision(&store).await;
    let mut recent = store.watch(&Range::all(), Revision(at.0 - 9)).await.unwrap();
    assert_eq!(next_events(&mut recent).await.0, Revision(at.0 - 9));
    assert_eq!(store.get(&key("k/1")).await.unwrap().unwrap().version, 17);
}

#[tokio::test(start_paused = true)]
async fn history_is_bounded_by_age() {
    let (disk, clock) = (PowerCutFs::new(), TestClock::paused(Time::ZERO));
    let store = Embedded::open(options(&disk, &clock)).await.unwrap();
    for i in 0..40 {
        put(&store, "k", format!("{i}")).await;
        tokio::time::sleep(Duration::from_secs(60)).await;
    }
    let at = common::revision(&store).await;
    assert!(matches!(store.watch(&Range::all(), Revision(2)).await.err(), Some(Error::Compacted { .. })));
    assert!(store.watch(&Range::all(), Revision(at.0 - 14)).await.is_ok(), "14 minutes are kept");
}

#[tokio::test]
async fn a_full_store_refuses_puts_and_grants_and_goes_on_after_deletion_and_compaction() {
    let disk = PowerCutFs::new();
    let mut options = EmbeddedOptions::new("/store").over(disk.shared());
    options.quota_bytes = 10_000;
    let store = Embedded::open(options).await.unwrap();
    let mut count = 0;
    let full = loop {
        let put = Op::put(&key(format!("k/{count}")), vec![0; 1000]);
        match store.txn(Txn::always(vec![put])).await {
            Ok(_) => count += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, Error::NoSpace) && count > 5, "{full} after {count}");
    assert!(matches!(store.grant(Duration::from_secs(9)).await, Err(Error::NoSpace)));
    assert!(store.get(&key("k/0")).await.unwrap().is_some());
    let at = common::always(&store, vec![Op::Delete { range: Range::all() }]).await.revision;
    store.compact(at).await.unwrap();
    put(&store, "k/0", "x").await;
}

#[test]
fn a_call_after_the_end_of_the_runtime_is_answered() {
    let ended = tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
    let disk = PowerCutFs::new();
    let store = ended.block_on(Embedded::open(EmbeddedOptions::new("/store").over(disk.shared()))).unwrap();
    let handle = ended.handle().clone();
    ended.shutdown_background();
    let (answer, answered) = std::sync::mpsc::sync_channel(1);
    // On a thread of its own, which a call that never returns does not take this test with.
    std::thread::spawn(move || {
        let _ended = handle.enter();
        let call = store.txn(Txn::always(vec![Op::put(&key("a"), "x")]));
        drop(answer.send(futures::executor::block_on(call)));
    });
    let answer = answered.recv_timeout(common::PATIENCE).expect("the call returns");
    assert!(matches!(answer, Err(Error::Ambiguous { .. })), "{answer:?}");
}
