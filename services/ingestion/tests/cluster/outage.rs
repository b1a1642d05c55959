//! A real etcd of three members that loses its quorum, by death and by standstill, while studies arrive at two nodes.

use std::{sync::Arc, time::Duration};

use isocenter_peers::synthetic::StudyKind;
use isocenter_runtime::random::Seeded;
use isocenter_store::etcd::{Etcd, EtcdOptions};
use isocenter_testkit::{EtcdCluster, Signal, wait_for};

use super::all;
use crate::world::*;

/// Members on a busy machine elect, and calls that hang run into their timeouts.
const PATIENCE: Duration = Duration::from_secs(60);

/// Sends two studies to both nodes while nothing can be written, each node having a part of each.
async fn received_meanwhile(
    a: &Node,
    b: &Node,
    seed: u64,
) -> Vec<(isocenter_domain::key::StudyKey, Vec<bytes::Bytes>)> {
    let studies: Vec<_> = (seed..seed + 2).map(|seed| made(seed, StudyKind::CtHead)).collect();
    for (_, files) in &studies {
        let (left, right) = files.split_at(files.len() / 2);
        tokio::join!(a.sends(left), b.sends(right));
    }
    studies
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_etcd_has_no_quorum_everything_is_acknowledged_and_afterwards_nothing_is_missing() {
    let mut etcd = EtcdCluster::start(3);
    let store = Arc::new(Etcd::connect(EtcdOptions::new(etcd.endpoints())).await.unwrap());
    let world = World::over(tempfile::tempdir().unwrap(), store, Seeded::fresh()).await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (before, files) = made(70, StudyKind::CtHead);
    a.sends(&files).await;
    world.complete(&before, 1).await;
    wait_for("a memory of the sites", SOON, async || world.spool("b").join("sites").exists()).await;

    etcd.kill(0);
    etcd.kill(1);
    let mut studies = received_meanwhile(&a, &b, 71).await;
    etcd.restart_all(&[0, 1]);
    for member in 0..3 {
        etcd.signal(member, Signal::Stop);
    }
    // One of the nodes is even started anew: it knows its devices by its spool.
    let b = {
        let id = b.dies().await;
        let again = world.node("b").await;
        assert_eq!(again.id, id);
        again
    };
    studies.extend(received_meanwhile(&a, &b, 73).await);
    for member in 0..3 {
        etcd.signal(member, Signal::Cont);
    }
    for (key, files) in &studies {
        wait_for("the whole study", PATIENCE, async || world.has(key, &all(files)).await).await;
    }
    for node in [&a, &b] {
        node.shows("spool_files 0").await;
        for (key, _) in &studies {
            assert!(world.intake(key, &node.id).await.unwrap().settled());
        }
    }
    a.stop().await;
    b.stop().await;
}
