//! Reconcile: nothing on a clean system, and each kind of difference where it is planted.

use std::time::Duration;

use isocenter_blobs::path;
use isocenter_domain::{
    document::Segment,
    key::{StudyKey, text},
    record::{
        case::Case,
        delivery::{Delivery, DeliveryState},
        intake::Intake,
        plan::Plan,
        read::{Read, ReadState},
        report::Report,
        study::{Study, StudyState},
    },
    refs::Digest,
};
use isocenter_store::{Op, Txn, table::store_key};
use isocenter_wire::{
    document::Stored as _,
    v1::{self, archive_server::Archive as _},
};

use super::fixture::{
    Fixture, Given, asked, case_key, delivery_key, intake_key, node, plan_key, read_key, report_key,
};

/// A fixture with two delivered studies, journaled, one of them closed.
pub(super) async fn clean() -> (Fixture, StudyKey, StudyKey) {
    let fixture = Fixture::new().await;
    let closed = fixture.delivered(&Given { uid: "1.2.4", ..Given::default() }).await;
    fixture.drain().await;
    fixture.clock.advance(Duration::from_secs(7_200));
    fixture.closer().consider(&closed).await.unwrap();
    let live = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    fixture.clock.advance(Duration::from_secs(60));
    (fixture, live, closed)
}

/// What differs, as (kind, key).
async fn differences(fixture: &Fixture) -> Vec<(String, String)> {
    // The mirrors are made anew, so that they have all that was written.
    let tasks = isocenter_runtime::task::Tasks::new();
    let mirrors = isocenter_store::table::Mirrors::new(fixture.tables.clone(), &tasks);
    let comparer = crate::compare::Comparer { mirrors, ..fixture.comparer() };
    let rpc = crate::rpc::Rpc { comparer: std::sync::Arc::new(comparer), ..fixture.rpc() };
    let answer = rpc.reconcile(asked(v1::ReconcileRequest::default())).await.unwrap().into_inner();
    assert_eq!(answer.checked.len(), 10);
    tasks.drain(Duration::from_secs(5)).await;
    let mut found: Vec<_> = answer.differences.into_iter().map(|d| (d.kind, d.key)).collect();
    found.sort();
    found
}

fn one(kind: &str, key: impl Into<String>) -> Vec<(String, String)> {
    vec![(kind.to_owned(), key.into())]
}

#[tokio::test]
async fn a_clean_system_has_no_difference() {
    let (fixture, _, closed) = clean().await;
    assert_eq!(differences(&fixture).await, Vec::new());
    // Nor has one in which something is on its way.
    fixture.complete(&Given { uid: "1.2.5", ..Given::default() }).await;
    assert_eq!(differences(&fixture).await, Vec::new());
    fixture.create(&intake_key(&closed), &Intake::default()).await;
    assert_eq!(differences(&fixture).await, Vec::new());
}

#[tokio::test]
async fn a_missing_instance_or_manifest_is_found() {
    let (fixture, live, closed) = clean().await;
    let images = fixture.images(&closed, &Given { uid: "1.2.4", ..Given::default() }).await;
    let (_, _, instance) = images.instances().next().unwrap();
    let at = path::instance(&closed.tenant, &closed.study, &instance.instance, &instance.sha256);
    fixture.blobs.delete(&at).await.unwrap();
    assert_eq!(differences(&fixture).await, one("instance", at.as_str()));
    fixture.blobs.put_new(&at, "dicm and more".into()).await.unwrap();
    assert_eq!(differences(&fixture).await, one("instance", at.as_str()));
    fixture.blobs.delete(&at).await.unwrap();
    fixture.blobs.put_new(&at, "dicm".into()).await.unwrap();
    let at = path::manifest(&live.tenant, &live.study, 1);
    fixture.blobs.delete(&at).await.unwrap();
    assert_eq!(differences(&fixture).await, one("instance", at.as_str()));
}

#[tokio::test]
async fn a_lost_study_is_found() {
    let (fixture, live, closed) = clean().await;
    let head = fixture.blobs.last(&path::heads_of(&closed.tenant, &closed.study)).await.unwrap().unwrap();
    fixture.blobs.delete(&head.path).await.unwrap();
    assert_eq!(differences(&fixture).await, one("study", text(&closed)));
    // A store that lost a record, without any event.
    fixture.tables.kv().txn(Txn::always(vec![Op::delete(&store_key(&live))])).await.unwrap();
    let found = differences(&fixture).await;
    assert!(found.contains(&("study".into(), text(&live))), "{found:?}");
    assert!(found.contains(&("projection".into(), text(&live))), "{found:?}");
}

#[tokio::test]
async fn images_of_which_no_record_tells_are_found() {
    let (fixture, live, _) = clean().await;
    let lost = StudyKey { study: "1.2.98".parse().unwrap(), ..live };
    // What a store that was put back does not know: received after the snapshot, listed, and never journaled.
    let at = path::segment(&lost.tenant, &lost.study, &node(), &Digest::of(b"a segment"));
    fixture.blobs.put_new(&at, b"a segment".as_slice().into()).await.unwrap();
    assert_eq!(differences(&fixture).await, one("study", text(&lost)));
}

#[tokio::test]
async fn images_that_a_closed_study_lacks_are_found() {
    let (fixture, _, closed) = clean().await;
    let put = async |images: isocenter_domain::document::Images, node: &str| {
        let node: isocenter_domain::id::NodeId = node.parse().unwrap();
        let segment = Segment { study: closed.study.clone(), node: node.clone(), images }.encode();
        let at = path::segment(&closed.tenant, &closed.study, &node, &Digest::of(&segment));
        fixture.blobs.put_new(&at, segment.into()).await.unwrap();
    };
    // What was replaced and not removed lists what the study has.
    let given = Given { uid: "1.2.4", ..Given::default() };
    put(fixture.images(&closed, &given).await, "n0").await;
    assert_eq!(differences(&fixture).await, Vec::new());
    put(fixture.images(&closed, &Given { uid: "1.2.4.77", ..given }).await, "n1").await;
    assert_eq!(differences(&fixture).await, one("study", text(&closed)));
    // Once its intake is told of, it is about to be reopened.
    fixture.create(&intake_key(&closed), &Intake::default()).await;
    fixture.drain().await;
    assert_eq!(differences(&fixture).await, Vec::new());
}

#[tokio::test]
async fn an_intake_without_a_study_is_found() {
    let (fixture, live, _) = clean().await;
    let stray = StudyKey { study: "1.2.99".parse().unwrap(), ..live };
    fixture.create(&intake_key(&stray), &Intake::default()).await;
    fixture.drain().await;
    assert_eq!(differences(&fixture).await, one("study", text(&stray)));
}

#[tokio::test]
async fn what_should_follow_and_does_not_is_found() {
    let (fixture, live, _) = clean().await;
    fixture.erase::<Delivery>(&delivery_key(&live)).await;
    fixture.drain().await;
    let found = differences(&fixture).await;
    assert!(found.contains(&("delivery".into(), text(&delivery_key(&live)))), "{found:?}");
    fixture.erase::<Report>(&report_key(&live)).await;
    let found = differences(&fixture).await;
    assert!(found.contains(&("report".into(), text(&report_key(&live)))), "{found:?}");
    fixture.erase::<Read>(&read_key(&live)).await;
    let found = differences(&fixture).await;
    assert!(found.contains(&("read".into(), text(&case_key(&live)))), "{found:?}");
    fixture.erase::<Case>(&case_key(&live)).await;
    let found = differences(&fixture).await;
    assert!(found.contains(&("case".into(), text(&case_key(&live)))), "{found:?}");
    fixture.update::<Plan>(&plan_key(&live), "broken", |plan| Plan { revision: 7, ..plan }).await;
    fixture.clock.advance(Duration::from_secs(60));
    let found = differences(&fixture).await;
    assert!(found.contains(&("plan".into(), text(&plan_key(&live)))), "{found:?}");
}

#[tokio::test]
async fn a_report_without_its_body_is_found_live_and_closed() {
    let (fixture, live, closed) = clean().await;
    for key in [live, closed] {
        let report = report_key(&key);
        let (row, _) = fixture.records.report(&key.tenant, &report.read, 0).await.unwrap().unwrap();
        let at = path::report(&key.tenant, &report.read, &row.body.parse().unwrap());
        let body = fixture.blobs.get(&at).await.unwrap();
        fixture.blobs.delete(&at).await.unwrap();
        assert_eq!(differences(&fixture).await, one("report", text(&report)));
        fixture.blobs.put_new(&at, body).await.unwrap();
    }
}

#[tokio::test]
async fn records_that_lag_without_a_reason_are_found() {
    let (fixture, live, _) = clean().await;
    fixture.update::<Study>(&live, "touched", |study| study).await;
    assert_eq!(differences(&fixture).await, Vec::new(), "its event is on its way");
    for key in fixture.keys("outbox/").await {
        let lost = Op::delete(&isocenter_store::Key::new(key).unwrap());
        fixture.tables.kv().txn(Txn::always(vec![lost])).await.unwrap();
    }
    assert_eq!(differences(&fixture).await, one("projection", text(&live)));
}

#[tokio::test]
async fn what_is_past_its_bound_is_found() {
    let (fixture, live, _) = clean().await;
    fixture
        .update::<Delivery>(&delivery_key(&live), "broken", |delivery| Delivery {
            state: DeliveryState::DeadLetter { reason: "refused".into(), at: delivery.since },
            ..delivery
        })
        .await;
    assert_eq!(differences(&fixture).await, one("overdue", text(&delivery_key(&live))));
    fixture.clock.advance(Duration::from_secs(3 * 86_400));
    fixture
        .update::<Delivery>(&delivery_key(&live), "broken", |delivery| Delivery {
            state: DeliveryState::ApplicationAccepted { at: delivery.since },
            ..delivery
        })
        .await;
    fixture
        .update::<Read>(&read_key(&live), "broken", |read| Read { state: ReadState::Waiting, ..read })
        .await;
    assert_eq!(differences(&fixture).await, one("overdue", text(&read_key(&live))));
    let (reader, token, studies) = ("anna".parse().unwrap(), String::new(), Vec::new());
    let since = isocenter_domain::Time(1);
    let open = ReadState::Open { reader, token, since, studies };
    fixture.update::<Read>(&read_key(&live), "broken", |read| Read { state: open, ..read }).await;
    assert_eq!(differences(&fixture).await, one("overdue", text(&read_key(&live))));
    let receiving = |study| Study { state: StudyState::Receiving, ..study };
    fixture.update::<Study>(&live, "broken", receiving).await;
    let found = differences(&fixture).await;
    assert!(found.contains(&("overdue".into(), text(&live))), "{found:?}");
}

#[tokio::test]
async fn a_record_that_nobody_understands_is_listed() {
    let (fixture, live, _) = clean().await;
    let stray = StudyKey { study: "1.2.88".parse().unwrap(), ..live };
    let put = Op::put(&store_key(&stray), "not a record");
    fixture.tables.kv().txn(Txn::always(vec![put])).await.unwrap();
    assert_eq!(differences(&fixture).await, one("level", text(&stray)));
}
