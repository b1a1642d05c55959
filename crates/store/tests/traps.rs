//! etcd's traps, each as a test against real servers that fail.

mod common;

use std::{sync::Arc, time::Duration};

use common::{PATIENCE, etcd, key, next_events, put};
use futures::{StreamExt as _, future::join_all};
use isocenter_store::{Error, Kv, Op, Page, Range, Revision, Txn, WatchItem, WatchStream, list_all};
use isocenter_testkit::{EtcdCluster, EtcdServer, Signal, wait_for};

async fn try_put(kv: &dyn Kv, k: &str) -> Result<Revision, Error> {
    kv.txn(Txn::always(vec![Op::put(&key(k), "x")])).await.map(|a| a.revision)
}

/// The error that ends a watch.
async fn end(watch: &mut WatchStream) -> Error {
    loop {
        if let Err(e) = common::next(watch).await {
            return e;
        }
    }
}

#[tokio::test]
async fn lists_and_catch_up_watches_go_beyond_four_mib_and_a_catch_up_is_not_taken_for_progress() {
    let server = EtcdServer::start();
    let kv = etcd(&[server.endpoint()]).await;
    let first = put(&*kv, "big/first", "x").await;
    for txn in 0..24 {
        let puts = (0..100).map(|i| Op::put(&key(format!("big/{txn:02}-{i:03}")), vec![7; 1900])).collect();
        common::always(&*kv, puts).await;
    }
    // More than the thousand revisions that one batch of a catch-up covers.
    for chunk in 0..20 {
        join_all((0..64).map(|i| put(&*kv, ["small/a", "small/b"][(chunk + i) % 2], "x"))).await;
    }
    let last = put(&*kv, "big/last", "x").await;
    let one_page = kv.list(&Range::prefix("big/").unwrap(), Page::default()).await.unwrap();
    assert_eq!(one_page.items.len(), 2402);
    assert_eq!(list_all(&*kv, &Range::prefix("big/").unwrap()).await.unwrap().items, one_page.items);

    let mut watch = kv.watch(&Range::all(), first).await.unwrap();
    let mut next = first;
    while next <= last {
        match common::next(&mut watch).await.unwrap() {
            WatchItem::Events { revision, .. } => {
                assert_eq!(revision, next, "every revision, once, in order");
                next = next.next();
            }
            WatchItem::Progress(at) => assert!(at < next, "progress to {at} before {next} was delivered"),
        }
    }
}

#[tokio::test]
async fn an_idle_watch_is_not_ended_by_keep_alives() {
    let server = EtcdServer::start();
    let kv = etcd(&[server.endpoint()]).await;
    let at = put(&*kv, "a", "x").await;
    let mut watch = kv.watch(&Range::prefix("idle/").unwrap(), at.next()).await.unwrap();
    // Eight messages, one a second: beyond the first keep-alive at six.
    for _ in 0..8 {
        assert_eq!(common::next(&mut watch).await.unwrap(), WatchItem::Progress(at));
    }
    let change = put(&*kv, "idle/a", "x").await;
    assert_eq!(next_events(&mut watch).await.0, change);
}

#[tokio::test]
async fn a_frozen_server_makes_changes_ambiguous_and_reads_unavailable() {
    let server = EtcdServer::start();
    let kv = etcd(&[server.endpoint()]).await;
    put(&*kv, "a", "x").await;
    server.signal(Signal::Stop);
    let (change, read) = {
        let a = key("a");
        tokio::join!(try_put(&*kv, "a"), kv.get(&a))
    };
    assert!(change.unwrap_err().is_ambiguous());
    assert!(matches!(read, Err(Error::Unavailable { .. })), "{read:?}");
    server.signal(Signal::Cont);
    wait_for("the server to answer again", PATIENCE, || async { kv.get(&key("a")).await.is_ok() }).await;
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_certainly_not_changed() {
    let mut cluster = EtcdCluster::start(1);
    let kv = etcd(&cluster.endpoints()).await;
    cluster.kill(0);
    let refused = try_put(&*kv, "a").await;
    assert!(matches!(refused, Err(Error::Unavailable { .. })), "{refused:?}");
    cluster.restart(0);
    wait_for("the server", PATIENCE, || async { try_put(&*kv, "a").await.is_ok() }).await;
}

/// Writes until it worked; answers how often it did not.
async fn errors_until_success(kv: &dyn Kv) -> u32 {
    for errors in 0..20 {
        if try_put(kv, "a").await.is_ok() {
            return errors;
        }
    }
    panic!("20 writes failed");
}

#[tokio::test]
async fn a_frozen_member_costs_each_client_one_error_and_ends_its_watches() {
    let cluster = EtcdCluster::start(3);
    let kv = etcd(&cluster.endpoints()).await;
    let at = put(&*kv, "a", "x").await;
    let mut watch = kv.watch(&Range::all(), at.next()).await.unwrap();
    let lease = kv.grant(Duration::from_secs(60)).await.unwrap();
    // The pool begins with the first endpoint and stays there.
    cluster.signal(0, Signal::Stop);
    assert_eq!(
        kv.keep_alive(lease).await.unwrap(),
        Duration::from_secs(60),
        "another member keeps the lease"
    );
    assert!(errors_until_success(&*kv).await <= 2);
    let lost = end(&mut watch).await;
    assert!(matches!(lost, Error::Lost { .. }), "{lost:?}");
    let at = common::revision(&*kv).await;
    let mut watch = kv.watch(&Range::all(), at.next()).await.unwrap();
    let change = put(&*kv, "a", "x").await;
    assert_eq!(next_events(&mut watch).await.0, change, "watches go on at another member");
    cluster.signal(0, Signal::Cont);
}

#[tokio::test]
async fn a_killed_member_and_a_lost_quorum_heal_without_help() {
    let mut cluster = EtcdCluster::start(3);
    let kv = etcd(&cluster.endpoints()).await;
    let at = put(&*kv, "a", "x").await;
    cluster.kill(0);
    wait_for("writes without one member", PATIENCE, || async { try_put(&*kv, "a").await.is_ok() }).await;
    assert!(kv.get(&key("a")).await.unwrap().is_some_and(|kv| kv.mod_revision > at));
    let at = common::revision(&*kv).await;
    let mut watch = kv.watch(&Range::all(), at.next()).await.unwrap();
    cluster.kill(1);
    // With the quorum gone a watch would stay silent; asking for a leader ends it.
    let lost = end(&mut watch).await;
    assert!(matches!(lost, Error::Lost { .. }), "{lost:?}");
    assert!(try_put(&*kv, "a").await.is_err());
    cluster.restart_all(&[0, 1]);
    wait_for("writes with the quorum back", PATIENCE, || async { try_put(&*kv, "a").await.is_ok() }).await;
}

#[tokio::test]
async fn a_full_store_refuses_puts_and_grants_and_goes_on_deleting() {
    let server = EtcdServer::start_with(&["--quota-backend-bytes", "4194304"]);
    let kv = etcd(&[server.endpoint()]).await;
    let fill = |n: usize| (0..128).map(move |i| Op::put(&key(format!("fill/{n}/{i}")), vec![7; 4096]));
    let mut n = 0;
    let full = loop {
        match kv.txn(Txn::always(fill(n).collect())).await {
            Ok(_) => n += 1,
            Err(e) => break e,
        }
    };
    assert!(matches!(full, Error::NoSpace), "{full:?}");
    assert!(matches!(kv.grant(Duration::from_secs(10)).await, Err(Error::NoSpace)));
    assert!(kv.get(&key("fill/0/0")).await.unwrap().is_some());
    common::always(&*kv, vec![Op::Delete { range: Range::prefix("fill/").unwrap() }]).await;
}

#[tokio::test]
async fn another_cluster_at_the_same_address_is_noticed() {
    let mut cluster = EtcdCluster::start(1);
    let kv: Arc<dyn Kv> = etcd(&cluster.endpoints()).await;
    for _ in 0..5 {
        put(&*kv, "a", "x").await;
    }
    let was = kv.status().await.unwrap();
    let mut watch = kv.watch(&Range::all(), was.revision.next()).await.unwrap();
    cluster.replace();
    assert!(matches!(end(&mut watch).await, Error::Lost { .. } | Error::OtherCluster { .. }));
    let noticed = || async { matches!(kv.get(&key("a")).await, Err(Error::OtherCluster { .. })) };
    wait_for("the other cluster to be noticed", PATIENCE, noticed).await;
    assert_eq!(kv.get(&key("a")).await.unwrap(), None, "said once");
    assert_ne!(kv.status().await.unwrap().cluster_id, was.cluster_id);
    // A watch from before the change would be silent for ever.
    let future = kv.watch(&Range::all(), was.revision.next()).await.err();
    assert!(matches!(future, Some(Error::FutureRevision { .. })), "{future:?}");
    let mut fresh = kv.watch(&Range::all(), Revision(1)).await.unwrap();
    put(&*kv, "a", "x").await;
    assert!(fresh.next().await.unwrap().is_ok());
}
