//! A store that was put back to an earlier moment, and the journal into it.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use isocenter_domain::{
    key::{StudyKey, text},
    record::{RecordKind, intake::Intake, study::Study},
};
use isocenter_runtime::{clock::Clock as _, random::Seeded, secret::Secret};
use isocenter_store::{
    Key, Kv, Op, Range, Restored, Txn,
    embedded::{Embedded, EmbeddedOptions},
    kv,
    table::{Tables, parse_outbox_key},
};

use super::fixture::{Fixture, Given, case_key, intake_key};
use crate::group::Group;

const HOUR: Duration = Duration::from_secs(3_600);

/// What a store holds, but for what goes with a process.
type Snapshot = Vec<(Key, bytes::Bytes)>;

async fn snapshot(tables: &Tables) -> Snapshot {
    let listed = kv::list_all(tables.kv().as_ref(), &Range::all()).await.unwrap();
    listed.items.into_iter().filter(|kv| kv.lease.is_none()).map(|kv| (kv.key, kv.value)).collect()
}

/// The records of a store.
async fn records(tables: &Tables) -> BTreeMap<String, bytes::Bytes> {
    let of_kind = |key: &Key| key.segments().next().and_then(RecordKind::parse).is_some();
    let held = snapshot(tables).await.into_iter().filter(|(key, _)| of_kind(key));
    held.map(|(key, value)| (key.to_string(), value)).collect()
}

/// Another store, of what a snapshot has.
async fn put_back(fixture: &Fixture, folder: &tempfile::TempDir, snapshot: &Snapshot) -> Tables {
    let kv: Arc<dyn Kv> = Arc::new(Embedded::open(EmbeddedOptions::new(folder.path())).await.unwrap());
    for some in snapshot.chunks(100) {
        let puts = some.iter().map(|(key, value)| Op::put(key, value.clone())).collect();
        kv.txn(Txn::always(puts)).await.unwrap();
    }
    Tables::open(kv, fixture.clock.shared(), "cell".parse().unwrap(), &Secret::new([1; 32])).await.unwrap()
}

/// What is in a store after a restore, and what the restore says of it.
async fn restored(fixture: &Fixture, snapshot: &Snapshot) -> (BTreeMap<String, bytes::Bytes>, Restored) {
    let folder = tempfile::tempdir().unwrap();
    let tables = put_back(fixture, &folder, snapshot).await;
    let restored = crate::restore(&tables, &fixture.blobs).await.unwrap();
    let there = records(&tables).await;
    let again = crate::restore(&tables, &fixture.blobs).await.unwrap();
    assert_eq!(
        again,
        Restored { kept: there.len() as u64, ..Restored::default() },
        "the second time nothing is done"
    );
    (there, restored)
}

async fn closes(fixture: &Fixture, key: &StudyKey) {
    fixture.clock.advance(2 * HOUR);
    fixture.closer().consider(key).await.unwrap();
    assert_eq!(fixture.load::<Study>(key).await, None);
}

/// A unit is closed in one transaction, and the journals of its study and of its case are written one after the other.
#[tokio::test]
async fn a_unit_whose_close_is_journaled_in_part_stays_closed() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    let of_study = Group::of(&text(&key));
    let of_case = Group::of(&text(&case_key(&key)));
    assert_ne!(of_study, of_case);
    fixture.drain().await;
    let before = snapshot(&fixture.tables).await;
    for first in [of_study, of_case] {
        // Each time all is closed, one journal is told, and the other one lost with the store.
        let fixture = Fixture::new().await;
        let key = fixture.delivered(&Given::default()).await;
        fixture.drain().await;
        closes(&fixture, &key).await;
        fixture.drainer().drain(first).await.unwrap();
        for snapshot in [&Snapshot::new(), &before] {
            let (there, _) = restored(&fixture, snapshot).await;
            assert_eq!(there.keys().collect::<Vec<_>>(), Vec::<&String>::new());
        }
    }
    // A head alone does not close it.
    let loaded = crate::reconcile::load::unit(&fixture.tables, &key).await.unwrap().unwrap();
    fixture.closer().put_heads(&loaded.unit).await.unwrap();
    let (there, _) = restored(&fixture, &before).await;
    assert_eq!(there, records(&fixture.tables).await);
}

#[tokio::test]
async fn a_unit_whose_plan_alone_is_known_to_be_closed_stays_closed() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let before = snapshot(&fixture.tables).await;
    closes(&fixture, &key).await;
    // A journal's object has so many events and no more: that of the study was to be in the next one.
    let study = text(&key);
    let of_study = |key: &Key| parse_outbox_key(key).is_some_and(|(of, _)| of == study);
    for (lost, _) in snapshot(&fixture.tables).await.into_iter().filter(|(key, _)| of_study(key)) {
        fixture.tables.kv().txn(Txn::always(vec![Op::delete(&lost)])).await.unwrap();
    }
    fixture.drain().await;
    for snapshot in [&Snapshot::new(), &before] {
        let (there, _) = restored(&fixture, snapshot).await;
        assert_eq!(there.keys().collect::<Vec<_>>(), Vec::<&String>::new());
    }
}

#[tokio::test]
async fn a_late_image_of_a_closed_study_is_put_back_and_so_is_what_it_reopened() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let open = snapshot(&fixture.tables).await;
    closes(&fixture, &key).await;
    fixture.drain().await;
    let closed = snapshot(&fixture.tables).await;
    fixture.clock.advance(HOUR);
    fixture.create(&intake_key(&key), &Intake { pending: 1, ..Intake::default() }).await;
    fixture.drain().await;
    for from in [&Snapshot::new(), &open, &closed] {
        let (there, _) = restored(&fixture, from).await;
        assert_eq!(there.keys().collect::<Vec<_>>(), [&text(&intake_key(&key))]);
    }
    fixture.reopener().consider(&key).await.unwrap();
    fixture.drain().await;
    let now = records(&fixture.tables).await;
    for from in [&Snapshot::new(), &open, &closed] {
        let (there, told) = restored(&fixture, from).await;
        assert_eq!(there, now);
        assert_eq!(told.put + told.kept, now.len() as u64);
    }
}

/// Whatever was done, and whichever archive journaled it when: the store becomes what it was.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "a failed test shows the seed with which it is repeated")]
async fn whatever_happened_the_store_is_as_it_was_when_all_was_journaled() {
    const UIDS: [&str; 4] = ["1.2.3", "1.2.4", "1.2.3.5", "1.2.6"];
    let seed = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    let seed: u64 = seed.unwrap_or_else(|| Seeded::fresh().seed());
    println!("SEED={seed}");
    let mut rng = Seeded::new(seed);
    // What may begin anew goes by the clock: an intake that is made under one that was set back may be taken for an old one.
    let set_back = rng.chance(0.5);
    let fixture = Fixture::new().await;
    let (one, other) = (fixture.drainer(), fixture.drainer());
    let mut made = std::collections::BTreeSet::new();
    let (mut held, mut snapshots) = (Vec::new(), vec![Snapshot::new()]);
    for _ in 0..60 {
        let uid = UIDS[usize::try_from(rng.range(0..4)).unwrap()];
        let given = Given { uid, ..Given::default() };
        let key = super::fixture::study_key(&given);
        fixture.clock.advance(Duration::from_secs(rng.range(1..600)));
        if set_back && rng.chance(0.1) {
            fixture.clock.set(fixture.clock.now().minus(Duration::from_secs(rng.range(1..7_200))));
        }
        match rng.range(0..6) {
            _ if made.insert(uid) => drop(fixture.delivered(&given).await),
            0 | 1 => {
                fixture.drain().await;
                fixture.clock.advance(2 * HOUR);
                fixture.closer().consider(&key).await.unwrap();
            }
            2 if fixture.load::<Intake>(&intake_key(&key)).await.is_none() => {
                fixture.create(&intake_key(&key), &Intake::default()).await;
                fixture.reopener().consider(&key).await.unwrap();
            }
            2 => fixture.update::<Intake>(&intake_key(&key), "counted", |intake| intake).await,
            // One collects, and is late to journal what it has.
            3 => {
                for group in Group::all() {
                    held.push((group, one.collect(group, None).await.unwrap()));
                }
            }
            4 => {
                for (group, batch) in held.drain(..) {
                    one.journal(group, &batch).await.unwrap();
                }
            }
            _ => {
                for group in Group::all() {
                    if rng.chance(0.5) {
                        other.drain(group).await.unwrap();
                    }
                }
            }
        }
        if rng.chance(0.05) {
            snapshots.push(snapshot(&fixture.tables).await);
        }
    }
    fixture.drain().await;
    let compared = |mut records: BTreeMap<String, bytes::Bytes>| {
        records.retain(|key, _| !(set_back && key.starts_with("intake/")));
        records
    };
    let now = compared(records(&fixture.tables).await);
    for snapshot in &snapshots {
        assert_eq!(compared(restored(&fixture, snapshot).await.0), now);
    }
}
