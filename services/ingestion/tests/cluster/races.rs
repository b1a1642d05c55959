//! Seeded races: one study in overlapping parts over associations with three nodes, of which any may die, over a store that loses
//! requests and answers. Whatever happens, what was acknowledged is in the study, and what was put aside is what contradicted.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use bytes::Bytes;
use isocenter_blobs::path;
use isocenter_dimse::{Scu, scu::Source};
use isocenter_domain::{
    document::Manifest,
    key::StudyKey,
    record::study::{Study, StudyState},
    refs::Digest,
};
use isocenter_peers::synthetic::StudyKind;
use isocenter_runtime::random::Seeded;
use isocenter_store::faulty::Faults;
use isocenter_testkit::wait_for;
use isocenter_wire::document::Stored as _;
use parking_lot::Mutex;

use crate::world::*;

/// A busy machine and a store that fails: generous, and reached only where something is lost.
const PATIENCE: Duration = Duration::from_secs(60);

const NODES: [&str; 3] = ["a", "b", "c"];

/// Sends files on one association to whoever has the place now; answers how many were acknowledged before it broke.
async fn send(place: &Mutex<Node>, files: &[Bytes]) -> usize {
    let contexts: Vec<_> = files.iter().map(context).collect();
    let address = place.lock().address;
    let Ok(mut scu) = Scu::connect(address, &ae("CT1"), &ae("ISOCENTER"), &contexts).await else { return 0 };
    for (acknowledged, file) in files.iter().enumerate() {
        match scu.store(Source::Bytes(file.clone())).await {
            Ok(status) if status.is_stored() => {}
            Ok(_) | Err(_) => return acknowledged,
        }
    }
    // The images are acknowledged, whatever becomes of the goodbye.
    drop(scu.release().await);
    files.len()
}

/// Sends a part until all of it is acknowledged, to another node after each failure, as devices do.
async fn send_all(places: &[Mutex<Node>; 3], first: usize, mut files: &[Bytes]) {
    let sending = async {
        for node in (0..3).cycle().skip(first) {
            files = &files[send(&places[node], files).await..];
            if files.is_empty() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, sending).await.expect("some node takes what is sent");
}

/// Kills a node and starts it again with its spool.
async fn kill(world: &World, places: &[Mutex<Node>; 3], node: usize) {
    let tasks = places[node].lock().tasks.clone();
    tasks.abort_now();
    wait_for("its end", SOON, async || tasks.is_empty()).await;
    let again = world.node(NODES[node]).await;
    *places[node].lock() = again;
}

impl World {
    async fn manifest(&self, key: &StudyKey, revision: u32) -> Manifest {
        let path = path::manifest(&key.tenant, &key.study, revision);
        Manifest::decode(&self.blobs.get(&path).await.unwrap()).unwrap()
    }

    /// The study, once it is complete with all of `wanted`.
    async fn whole(&self, key: &StudyKey, wanted: &BTreeSet<Digest>) -> Study {
        let last = Mutex::new(None);
        wait_for("every acknowledged image in a revision", PATIENCE, async || {
            let Ok(Some(study)) = self.tables.load::<Study>(key).await else { return false };
            if !matches!(study.record.state, StudyState::Complete { .. }) {
                return false;
            }
            let manifest = self.manifest(key, study.record.revision).await;
            let mut has = data_sets(&manifest.images);
            for one in &manifest.images.quarantined {
                let at = path::quarantine(&key.tenant, &key.study, &one.instance, &one.sha256);
                // Its copy in quarantine is whole, whoever put it there.
                has.insert(data_set(&self.blobs.get_checked(&at, &one.sha256).await.unwrap()));
            }
            *last.lock() = Some(study.record);
            has == *wanted
        })
        .await;
        last.into_inner().unwrap()
    }
}

async fn race(seed: u64) {
    let mut rng = Seeded::new(seed);
    let world = Arc::new(World::new().await);
    let (key, files) = made(seed, StudyKind::CtHead);
    let mut nodes = Vec::new();
    for name in NODES {
        nodes.push(Mutex::new(world.node(name).await));
    }
    let places: Arc<[Mutex<Node>; 3]> = Arc::new(nodes.try_into().ok().unwrap());
    let faults = Faults { timeout_before: 0.05, timeout_after: 0.05, conflict: 0.05, ..Faults::default() };
    world.store.set(faults);
    // Each part is of random images: most are sent more than once, some in another version.
    let mut sends = Vec::new();
    let mut wanted = BTreeSet::new();
    let mut parts: Vec<Vec<Bytes>> = files.chunks(4).map(<[Bytes]>::to_vec).collect();
    for _ in 0..3 {
        let mut part = files.clone();
        rng.shuffle(&mut part);
        part.truncate(3);
        parts.push(part);
    }
    if rng.chance(0.5) {
        parts.push(vec![altered(&files[0])]);
    }
    for part in parts {
        wanted.extend(part.iter().map(data_set));
        let first = usize::try_from(rng.range(0..3)).unwrap();
        let after = rng.duration(Duration::ZERO..Duration::from_millis(1500));
        let places = Arc::clone(&places);
        sends.push(async move {
            tokio::time::sleep(after).await;
            send_all(&places, first, &part).await;
        });
    }
    let kills = rng.range(0..3);
    let deaths: Vec<_> = (0..kills)
        .map(|_| {
            (
                usize::try_from(rng.range(0..3)).unwrap(),
                rng.duration(Duration::ZERO..Duration::from_millis(900)),
            )
        })
        .collect();
    let dying = async {
        for (node, after) in deaths {
            tokio::time::sleep(after).await;
            kill(&world, &places, node).await;
        }
    };
    tokio::join!(futures::future::join_all(sends), dying);
    let study = world.whole(&key, &wanted).await;
    world.store.set(Faults::default());

    all_kept(&world, &key, &study, files.len()).await;
    for place in &*places {
        let id = place.lock().id.clone();
        wait_for("settled accounts", PATIENCE, async || {
            world.intake(&key, &id).await.is_none_or(|intake| intake.settled())
        })
        .await;
    }
    let places = Arc::into_inner(places).expect("nobody sends any more");
    for place in places {
        place.into_inner().stop().await;
    }
}

/// What a revision has, every later one has; and one instance is under its UID, whoever merged.
async fn all_kept(world: &World, key: &StudyKey, study: &Study, count: usize) {
    let mut before = BTreeSet::new();
    for revision in 1..=study.revision {
        let manifest = world.manifest(key, revision).await;
        let paths = |m: &Manifest| -> BTreeSet<_> {
            m.images.instances().map(|(_, _, i)| (i.instance.clone(), i.sha256)).collect()
        };
        let now = paths(&manifest);
        assert!(now.is_superset(&before), "revision {revision} lost an instance");
        before = now;
    }
    assert_eq!(before.len(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[expect(clippy::print_stdout, reason = "a failed test shows the seed with which it is repeated")]
async fn whoever_dies_and_in_whatever_order_every_acknowledged_image_is_in_the_study() {
    for seed in 60..66 {
        println!("seed {seed}");
        race(seed).await;
    }
}
