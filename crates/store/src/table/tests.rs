//! Records over the embedded store.

use std::sync::Arc;

use futures::StreamExt as _;
use isocenter_domain::{
    Time,
    key::{HoldingKey, StudyKey},
    record::{
        read::Holding,
        study::{Study, StudyEvent},
    },
};
use isocenter_runtime::{clock::TestClock, secret::Secret, task::Tasks};

use super::*;
use crate::embedded::{Embedded, EmbeddedOptions};
use crate::{Compare, Txn};

struct Fixture {
    tables: Tables,
    kv: Arc<dyn Kv>,
    _folder: tempfile::TempDir,
}

async fn fixture() -> Fixture {
    let folder = tempfile::tempdir().unwrap();
    let kv: Arc<dyn Kv> = Arc::new(Embedded::open(EmbeddedOptions::new(folder.path())).await.unwrap());
    let clock = Arc::new(TestClock::new(Time(1_000)));
    let cell = "cell".parse().unwrap();
    let tables = Tables::open(Arc::clone(&kv), clock, cell, &Secret::new([1; 32])).await.unwrap();
    Fixture { tables, kv, _folder: folder }
}

fn study_key() -> StudyKey {
    StudyKey { tenant: "t".parse().unwrap(), study: "1.2.3".parse().unwrap() }
}

fn study() -> Study {
    Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), Time(5))
}

#[tokio::test]
async fn a_change_is_record_event_and_counter_in_one_revision() {
    let Fixture { tables, kv, _folder } = fixture().await;
    let mut change = tables.change(Cause::request("r1", "tester").because("test"));
    change.create(&study_key(), &study(), "created", "trace");
    let revision = change.commit().await.unwrap();
    let loaded = tables.load::<Study>(&study_key()).await.unwrap().unwrap();
    assert_eq!((loaded.mod_revision, loaded.head.seq, loaded.head.op_id.as_str()), (revision, 1, "r1"));
    let outbox = list_outbox(&kv).await;
    assert_eq!(outbox, [(key::text(&study_key()), 1, "created".to_owned(), revision)]);

    let mut change = tables.change(Cause::request("r2", "tester"));
    let (next, _) = loaded.record.clone().transition(StudyEvent::Received, change.now()).unwrap();
    change.update(&loaded, &next, "received");
    change.commit().await.unwrap();
    let loaded = tables.load::<Study>(&study_key()).await.unwrap().unwrap();
    assert_eq!((loaded.head.seq, loaded.head.trace.as_str()), (2, "trace"));
    let mut change = tables.change(Cause::request("r3", "tester"));
    change.delete(&loaded, "closed");
    change.commit().await.unwrap();
    assert_eq!(tables.load::<Study>(&study_key()).await.unwrap(), None);
    let events: Vec<_> = list_outbox(&kv).await.into_iter().map(|e| (e.1, e.2)).collect();
    assert_eq!(events, [(1, "created".into()), (2, "received".into()), (3, "closed".into())]);
}

async fn list_outbox(kv: &Arc<dyn Kv>) -> Vec<(String, u64, String, Revision)> {
    let listing = kv::list_all(kv.as_ref(), &Range::prefix("outbox/").unwrap()).await.unwrap();
    let entry = |kv: &KeyValue| {
        let (key, seq) = parse_outbox_key(&kv.key).unwrap();
        let event = wire::decode_event(&key, seq, &kv.value).unwrap();
        (key, seq, event.event, kv.mod_revision)
    };
    listing.items.iter().map(entry).collect()
}

#[tokio::test]
async fn a_stale_change_is_a_conflict_and_the_same_request_again_is_not() {
    let Fixture { tables, _folder, .. } = fixture().await;
    let key = HoldingKey { tenant: "t".parse().unwrap(), reader: "anna".parse().unwrap() };
    let create = |op: &str| {
        let mut change = tables.change(Cause::request(op, "tester"));
        change.create(&key, &Holding::default(), "made", "");
        change.commit()
    };
    let first = create("r1").await.unwrap();
    assert_eq!(create("r1").await.unwrap(), first);
    assert!(matches!(create("r2").await, Err(TableError::Conflict)));
    let stale = tables.load::<Holding>(&key).await.unwrap().unwrap();
    for op in ["r3", "r4"] {
        let mut change = tables.change(Cause::request(op, "tester"));
        change.update(&stale, &Holding::default(), "changed");
        assert_eq!(change.commit().await.is_ok(), op == "r3");
    }
}

/// One request id for two deeds: the second must not be taken for done because the first has left the id in the record.
#[tokio::test]
async fn a_request_id_used_for_another_deed_proves_nothing() {
    let Fixture { tables, _folder, .. } = fixture().await;
    let key = |reader: &str| HoldingKey { tenant: "t".parse().unwrap(), reader: reader.parse().unwrap() };
    let mut change = tables.change(Cause::request("r1", "tester"));
    change.create(&key("anna"), &Holding::default(), "made", "");
    change.commit().await.unwrap();
    let anna = tables.load::<Holding>(&key("anna")).await.unwrap().unwrap();
    let mut change = tables.change(Cause::request("r1", "tester"));
    change.update(&anna, &Holding::default(), "changed");
    change.require(Compare::created(&store_key(&key("boris")), Revision(9)));
    assert!(matches!(change.commit().await, Err(TableError::Conflict)));
}

#[tokio::test]
async fn another_epoch_stops_every_change_and_another_secret_refuses_to_open() {
    let Fixture { tables, kv, _folder } = fixture().await;
    let epoch = Key::new("meta/epoch").unwrap();
    kv.txn(Txn::always(vec![crate::Op::put(&epoch, "2")])).await.unwrap();
    let mut change = tables.change(Cause::request("r1", "tester"));
    change.create(&study_key(), &study(), "created", "");
    assert!(matches!(change.commit().await, Err(TableError::Conflict)));
    let clock = Arc::new(TestClock::new(Time(1)));
    let other =
        Tables::open(Arc::clone(&kv), clock.clone(), "cell".parse().unwrap(), &Secret::new([2; 32])).await;
    assert!(matches!(other, Err(MetaError::Secret)));
    let level = Key::new("meta/level").unwrap();
    kv.txn(Txn::always(vec![crate::Op::put(&level, "2")])).await.unwrap();
    let old = Tables::open(kv, clock, "cell".parse().unwrap(), &Secret::new([1; 32])).await;
    assert!(matches!(old, Err(MetaError::Level { stored: 2, ours: 1 })));
}

#[tokio::test]
async fn a_mirror_follows_and_leaves_a_record_from_the_future_alone() {
    let Fixture { tables, kv, _folder } = fixture().await;
    let tasks = Tasks::new();
    let mirrors = Mirrors::new(tables.clone(), &tasks);
    let mirror = mirrors.of::<Study>();
    mirror.synced().await;
    let mut changes = mirror.changes();
    let mut change = tables.change(Cause::role("tester"));
    change.create(&study_key(), &study(), "created", "");
    change.commit().await.unwrap();
    assert_eq!(changes.next().await, Some(study_key()));
    assert_eq!(mirror.get(&study_key()).unwrap().record, study());
    let range = owner_range::<StudyKey>(&study_key().tenant, "1.2.3", &[]);
    assert_eq!(mirror.of(&range).len(), 0, "a study's own key has nothing below it");
    assert_eq!(mirror.all().len(), 1);

    let future = StudyKey { study: "1.2.4".parse().unwrap(), ..study_key() };
    let head = Head { level: wire::LEVEL + 1, seq: 1, ..Head::default() };
    let value = wire::encode(&head, &study());
    kv.txn(Txn::always(vec![crate::Op::put(&store_key(&future), value)])).await.unwrap();
    assert_eq!(changes.next().await, Some(future.clone()));
    assert_eq!(mirror.get(&future), None);
    let listed = mirrors.undecodable();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].1.contains("level 2"), "{listed:?}");
    assert!(matches!(tables.load::<Study>(&future).await, Err(TableError::Undecodable { .. })));
    tasks.drain(std::time::Duration::from_secs(5)).await;
}
