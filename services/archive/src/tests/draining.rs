//! Outbox, journal, records.

use futures::StreamExt as _;
use isocenter_blobs::path;
use isocenter_domain::{
    document::{Event, JournalEntry, Manifest},
    key::{IntakeKey, StudyKey, text},
    record::{intake::Intake, study::Study},
    refs::Digest,
};
use isocenter_reconcile::{Everything, Share};
use isocenter_wire::document::Stored as _;

use super::fixture::{Fixture, Given, intake_key};
use crate::{group::Group, reconcile::drain::Drainer, replay};

fn group(key: &StudyKey) -> Group {
    Group::of(&text(key))
}

/// All journal entries, in the order of their objects.
async fn journal(fixture: &Fixture) -> Vec<JournalEntry> {
    let mut entries = Vec::new();
    for shard in 0..=u8::MAX {
        let mut objects = fixture.blobs.list(&path::journal_of(shard));
        while let Some(object) = objects.next().await {
            let bytes = fixture.blobs.get(&object.unwrap().path).await.unwrap();
            entries.extend(Vec::<JournalEntry>::decode(&bytes).unwrap());
        }
    }
    entries
}

#[tokio::test]
async fn every_event_is_journaled_in_its_records_order_and_leaves_the_outbox() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    assert!(fixture.keys("outbox/").await.len() > 8);
    fixture.drain().await;
    assert_eq!(fixture.keys("outbox/").await, Vec::<String>::new());
    let entries = journal(&fixture).await;
    let of_study: Vec<(u64, u64)> = entries
        .iter()
        .filter(|entry| entry.event.key == text(&key))
        .map(|entry| (entry.event.seq, entry.value_seq))
        .collect();
    assert_eq!(of_study, [(1, 2), (2, 2)], "each with the value as it is, under that value's own seq");
    let events = fixture.records.events(&key, None, 100).await.unwrap();
    assert_eq!(events.len(), entries.len());
    let names: Vec<&str> =
        events.iter().filter(|event| event.key == text(&key)).map(|event| event.event.as_str()).collect();
    assert_eq!(names, ["created", "completed"]);
    assert_eq!(fixture.metrics.forks.get(), 0);
}

#[tokio::test]
async fn a_crash_between_any_two_steps_changes_nothing_in_the_end() {
    let undisturbed = Fixture::new().await;
    undisturbed.complete(&Given::default()).await;
    undisturbed.drain().await;
    let count = undisturbed.records.events(&super::fixture::study_key(&Given::default()), None, 100).await;
    let count = count.unwrap().len();
    for steps in 0..=3 {
        let fixture = Fixture::new().await;
        let key = fixture.complete(&Given::default()).await;
        let crashed: Drainer = fixture.drainer();
        let batch = crashed.collect(group(&key), None).await.unwrap();
        if steps > 0 {
            let object = crashed.journal(group(&key), &batch).await.unwrap();
            if steps > 1 {
                crashed.apply(&object, &batch).await.unwrap();
            }
        }
        // Another replica, which had begun with the same events, is as slow as can be.
        let slow = fixture.drainer();
        let slow_batch = slow.collect(group(&key), None).await.unwrap();
        if steps > 2 {
            crashed.delete(&batch).await.unwrap();
        }
        drop(crashed);
        fixture.drain().await;
        fixture.update::<Study>(&key, "touched", |study| Study { revision: 2, ..study }).await;
        fixture.drain().await;
        let object = slow.journal(group(&key), &slow_batch).await.unwrap();
        slow.apply(&object, &slow_batch).await.unwrap();
        slow.delete(&slow_batch).await.unwrap();
        assert_eq!(fixture.keys("outbox/").await, Vec::<String>::new());
        let events = fixture.records.events(&key, None, 100).await.unwrap();
        assert_eq!(events.len(), count + 1, "after a crash behind step {steps}");
        assert_eq!(fixture.metrics.forks.get(), 0);
        assert_eq!(fixture.records.applied_one(&text(&key)).await.unwrap(), (3, false));
        let row = fixture.only_study().await;
        assert_eq!(row.revision, 2, "records go only upward");
    }
}

#[tokio::test]
async fn the_same_batch_tried_again_is_one_journal_object() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    let drainer = fixture.drainer();
    let first = drainer.collect(group(&key), None).await.unwrap();
    drainer.journal(group(&key), &first).await.unwrap();
    let again = drainer.collect(group(&key), None).await.unwrap();
    drainer.journal(group(&key), &again).await.unwrap();
    assert_eq!(journal(&fixture).await.len(), first.entries.len());
}

#[tokio::test]
async fn more_events_than_a_batch_are_all_drained() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    for _ in 0..300 {
        fixture
            .update::<Intake>(&intake_key(&key), "counted", |mut intake| {
                intake.stored += 1;
                intake
            })
            .await;
    }
    assert_eq!(fixture.drainer().drain(group(&key)).await.unwrap(), 303);
    assert_eq!(fixture.keys("outbox/").await, Vec::<String>::new());
    let events = fixture.records.events(&key, None, 1_000).await.unwrap();
    let seqs: Vec<u64> =
        events.iter().filter(|e| e.key == text::<IntakeKey>(&intake_key(&key))).map(|e| e.seq).collect();
    assert_eq!(seqs, (1..=301).collect::<Vec<_>>());
}

#[tokio::test]
async fn the_journal_alone_makes_equal_records() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    fixture.delivered(&Given { uid: "1.2.4", ..Given::default() }).await;
    fixture.clock.advance(std::time::Duration::from_secs(7_200));
    fixture.drain().await;
    fixture.closer().consider(&key).await.unwrap();
    fixture.drain().await;
    let before = Fixture::dump(&fixture.records).await;
    assert!(before.len() > 40, "{before:#?}");

    let fresh = fixture.database("fresh").await;
    let replayed = replay(&fixture.blobs, &fresh).await.unwrap();
    assert_eq!((replayed.forks, replayed.events > 20), (0, true));
    assert_eq!(Fixture::dump(&fresh).await, before);
    let again = replay(&fixture.blobs, &fresh).await.unwrap();
    assert_eq!((again.events, again.objects), (0, replayed.objects));
    assert_eq!(Fixture::dump(&fresh).await, before);
}

#[tokio::test]
async fn two_changes_under_one_counter_are_an_alarm_and_both_are_kept() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    let batch = fixture.drainer().collect(group(&key), None).await.unwrap();
    fixture.drain().await;
    let study = batch.entries.iter().find(|entry| entry.event.key == text(&key)).unwrap();
    let object = path::journal(group(&key).shard(), study.event.at, 1);
    let other = Event { op_id: "another history".into(), ..study.event.clone() };
    let forked = JournalEntry { event: other, value: study.value.clone(), value_seq: study.value_seq };
    let applied =
        fixture.records.apply(&fixture.blobs, &object, std::slice::from_ref(&forked)).await.unwrap();
    assert_eq!((applied.forks, applied.events), (1, 1));
    // Told once: a journal replayed is no new fork.
    assert_eq!(fixture.records.apply(&fixture.blobs, &object, &[forked]).await.unwrap().forks, 0);
    let same = fixture.records.events(&key, None, 100).await.unwrap();
    assert_eq!(
        same.iter().filter(|event| event.key == text(&key) && event.seq == study.event.seq).count(),
        2
    );

    // And a value under a counter that had another one.
    let stored = fixture.load::<Study>(&key).await.unwrap();
    let mut record = stored.record.clone();
    record.revision = 9;
    let value = isocenter_wire::record::encode(&stored.head, &record);
    let forked = JournalEntry { event: study.event.clone(), value, value_seq: stored.head.seq };
    assert_eq!(fixture.records.apply(&fixture.blobs, &object, &[forked]).await.unwrap().forks, 1);
    assert_eq!(fixture.only_study().await.revision, 1, "the value that was first stays");
}

#[tokio::test]
async fn a_record_of_a_newer_level_waits_for_a_newer_process() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    let stored = fixture.load::<Study>(&key).await.unwrap();
    let mut head = stored.head.clone();
    head.level += 1;
    let value = isocenter_wire::record::encode(&head, &stored.record);
    let at = isocenter_store::table::store_key(&key);
    let put = isocenter_store::Op::put(&at, value);
    fixture.tables.kv().txn(isocenter_store::Txn::always(vec![put])).await.unwrap();
    fixture.drain().await;
    let left = fixture.keys("outbox/").await;
    assert_eq!(left.len(), 2, "both events of the study, and nothing else: {left:?}");
    assert!(left.iter().all(|k| k.contains(&text(&key))));
}

#[tokio::test]
async fn an_event_stays_in_the_outbox_until_the_journal_has_it() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    let waiting = fixture.keys("outbox/").await;
    // A file where the journal's folder should be: the journal cannot be written.
    let folder = fixture.folder.path().join("blobs").join("journal");
    std::fs::write(&folder, b"").unwrap();
    assert!(fixture.drainer().drain(group(&key)).await.is_err());
    assert_eq!(fixture.keys("outbox/").await, waiting);
    assert_eq!(fixture.records.events(&key, None, 100).await.unwrap(), Vec::new(), "the journal is first");
    std::fs::remove_file(&folder).unwrap();
    fixture.drain().await;
    assert_eq!(fixture.keys("outbox/").await, Vec::<String>::new());
    assert_eq!(fixture.records.events(&key, None, 100).await.unwrap().len(), waiting.len());
}

#[tokio::test]
async fn what_the_records_miss_is_noted_and_applied_in_whatever_order() {
    let mut fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    let (waiting, whole) = (fixture.keys("outbox/").await.len(), fixture.records.clone());
    let lost = fixture.database("lost").await;
    lost.close().await;
    fixture.records = lost;
    fixture.drain().await;
    assert_eq!(fixture.keys("outbox/").await, Vec::<String>::new(), "the store does not fill");
    assert_eq!(fixture.keys("journaled/").await.len(), 1);
    assert_eq!(journal(&fixture).await.len(), waiting);
    assert!(fixture.drainer().catch_up(&Everything).await.is_err());
    assert_eq!(fixture.keys("journaled/").await.len(), 1, "what cannot be applied stays noted");

    // The newer change, of a clock that was set back, is applied before the older ones, and bears the same time: which of the
    // two objects is the first in a replay is left to chance.
    fixture.records = whole;
    fixture.clock.set(isocenter_domain::Time(1));
    let images = fixture.images(&key, &Given::default()).await;
    let (study, site) = (key.study.clone(), "north".parse().unwrap());
    let manifest =
        Manifest { study, revision: 2, site, complete_at: isocenter_domain::Time(1), images }.encode();
    let digest = Some(Digest::of(&manifest));
    let at = path::manifest(&key.tenant, &key.study, 2);
    fixture.blobs.put_new(&at, manifest.into()).await.unwrap();
    let revised = |study| Study { revision: 2, manifest: digest, ..study };
    fixture.update::<Study>(&key, "touched", revised).await;
    fixture.drain().await;
    assert_eq!(fixture.drainer().catch_up(&Everything).await.unwrap(), 1);
    assert_eq!(fixture.keys("journaled/").await, Vec::<String>::new());
    assert_eq!(fixture.metrics.unapplied.get(), 0);
    assert_eq!(fixture.only_study().await.revision, 2, "records go only upward");
    let events = fixture.records.events(&key, None, 100).await.unwrap();
    let of_study: Vec<u64> = events.iter().filter(|e| e.key == text(&key)).map(|e| e.seq).collect();
    assert_eq!(of_study, [1, 2, 3], "a record's events are in their order");
    let before = Fixture::dump(&fixture.records).await;
    let fresh = fixture.database("fresh").await;
    replay(&fixture.blobs, &fresh).await.unwrap();
    assert_eq!(Fixture::dump(&fresh).await, before, "the order of the objects leaves no trace");
}

#[tokio::test]
async fn nothing_of_another_epoch_is_deleted() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    let drainer = fixture.drainer();
    let batch = drainer.collect(group(&key), None).await.unwrap();
    let object = drainer.journal(group(&key), &batch).await.unwrap();
    drainer.note(group(&key), &object).await.unwrap();
    let left = async || (fixture.keys("outbox/").await, fixture.keys("journaled/").await);
    let before = left().await;
    fixture.tables.bump_epoch("put back from a snapshot").await.unwrap();
    let refused = drainer.delete(&batch).await.unwrap_err();
    assert_eq!(isocenter_domain::Kinded::kind(&refused), isocenter_domain::Kind::Conflict);
    assert_eq!(drainer.catch_up(&Everything).await.unwrap(), 0);
    assert_eq!(left().await, before);
}

#[derive(Debug)]
struct Nothing;

impl Share for Nothing {
    fn owns(&self, _: u8) -> bool {
        false
    }

    fn changes(&self) -> futures::stream::BoxStream<'static, ()> {
        futures::stream::pending().boxed()
    }
}

#[tokio::test]
async fn what_is_noted_is_applied_by_whose_shards_it_is_of() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    let drainer = fixture.drainer();
    let batch = drainer.collect(group(&key), None).await.unwrap();
    let object = drainer.journal(group(&key), &batch).await.unwrap();
    drainer.note(group(&key), &object).await.unwrap();
    assert_eq!(drainer.catch_up(&Nothing).await.unwrap(), 0);
    assert_eq!(fixture.keys("journaled/").await.len(), 1);
    assert_eq!(drainer.catch_up(&Everything).await.unwrap(), 1);
    assert_eq!(fixture.keys("journaled/").await, Vec::<String>::new());
    assert_eq!(fixture.only_study().await.revision, 1);
}

#[tokio::test]
async fn a_gap_in_the_history_is_found() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    let history = fixture.records.history(&fixture.blobs, &key.tenant).await.unwrap();
    assert_eq!((history.gaps.len(), history.events, history.journaled), (0, 10, 10));
    let lost = sqlx::query("DELETE FROM events WHERE record_key = $1 AND seq = 1").bind(text(&key));
    lost.execute(&fixture.records.pool()).await.unwrap();
    let gaps = fixture.records.history(&fixture.blobs, &key.tenant).await.unwrap().gaps;
    assert_eq!(gaps.len(), 2, "by its counters, and by the journal: {gaps:?}");
    assert!(gaps.iter().all(|gap| gap.key == text(&key)));
}
