//! One suite over every store.

mod common;

use std::sync::Arc;

use common::{etcd, suite::suite};
use isocenter_domain::Time;
use isocenter_runtime::clock::TestClock;
use isocenter_store::{Kv, Revision, embedded::Embedded, embedded::EmbeddedOptions};
use isocenter_testkit::{EtcdCluster, EtcdServer, PowerCutFs};
use tempfile::TempDir;

#[tokio::test(start_paused = true)]
async fn embedded_store_conforms() {
    let dir = TempDir::new().unwrap();
    let options = EmbeddedOptions::new(dir.path()).with_clock(TestClock::paused(Time::ZERO).shared());
    suite(&Embedded::open(options).await.unwrap()).await;
}

#[tokio::test(start_paused = true)]
async fn embedded_store_conforms_after_a_restart_and_keeps_what_it_had() {
    let disk = PowerCutFs::new();
    let clock = TestClock::paused(Time::ZERO);
    let options = || EmbeddedOptions::new("/store").over(disk.shared()).with_clock(clock.shared());
    let open = || Embedded::open(options());
    let store = open().await.unwrap();
    suite(&store).await;
    let all = isocenter_store::list_all(&store, &isocenter_store::Range::all()).await.unwrap();
    let status = store.status().await.unwrap();
    store.close().await;
    let store = open().await.unwrap();
    assert_eq!(isocenter_store::list_all(&store, &isocenter_store::Range::all()).await.unwrap(), all);
    let again = store.status().await.unwrap();
    assert_eq!((again.revision, again.cluster_id), (status.revision, status.cluster_id));
    assert!(again.revision > Revision(1));
}

#[tokio::test]
async fn one_etcd_conforms() {
    let server = EtcdServer::start();
    let kv: Arc<dyn Kv> = etcd(&[server.endpoint()]).await;
    suite(&*kv).await;
}

#[tokio::test]
async fn three_etcds_conform() {
    let cluster = EtcdCluster::start(3);
    let kv: Arc<dyn Kv> = etcd(&cluster.endpoints()).await;
    suite(&*kv).await;
}
