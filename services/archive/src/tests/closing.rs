//! Close and reopen.

use std::time::Duration;

use isocenter_blobs::path;
use isocenter_domain::{
    Kind, Kinded as _,
    document::Segment,
    key::{AiTaskKey, StudyKey},
    record::{
        ai_task::{AiTask, AiTaskState},
        case::Case,
        delivery::Delivery,
        intake::Intake,
        plan::{Plan, Reading},
        read::Read,
        report::Report,
        study::{Study, StudyState},
    },
    refs::Digest,
};
use isocenter_reconcile::Outcome;
use isocenter_wire::document::Stored as _;

use super::fixture::{
    Fixture, Given, ai_key, case_key, delivery_key, intake_key, node, plan_key, read_key, report_key,
    study_key,
};
use crate::{
    plan::{Grace, Verdict, verdict},
    reconcile::load,
};

const HOUR: Duration = Duration::from_secs(3_600);

async fn delivered(fixture: &Fixture) -> StudyKey {
    let key = fixture.delivered(&Given::default()).await;
    fixture.drain().await;
    fixture.clock.advance(2 * HOUR);
    key
}

#[tokio::test]
async fn a_closed_case_is_out_of_the_store_and_a_late_image_brings_it_back_as_it_was() {
    let fixture = Fixture::new().await;
    let key = delivered(&fixture).await;
    let study = fixture.load::<Study>(&key).await.unwrap();
    let read = fixture.load::<Read>(&read_key(&key)).await.unwrap();
    let report = fixture.load::<Report>(&report_key(&key)).await.unwrap();
    let delivery = fixture.load::<Delivery>(&delivery_key(&key)).await.unwrap();
    let case = fixture.load::<Case>(&case_key(&key)).await.unwrap();
    let task = fixture.load::<AiTask>(&ai_key(&key)).await.unwrap();
    let plan = fixture.load::<Plan>(&plan_key(&key)).await.unwrap();

    assert_eq!(fixture.closer().consider(&key).await.unwrap(), Outcome::Done);
    for kind in ["study/", "intake/", "plan/", "case/", "ai/", "read/", "report/", "delivery/"] {
        assert_eq!(fixture.keys(kind).await, Vec::<String>::new());
    }
    fixture.drain().await;
    assert!(fixture.only_study().await.closed);
    // Without anything received it stays closed.
    fixture.reopener().consider(&key).await.unwrap();
    assert_eq!(fixture.load::<Study>(&key).await, None);

    fixture.create(&intake_key(&key), &Intake { pending: 1, ..Intake::default() }).await;
    let (one, other) = (fixture.reopener(), fixture.reopener());
    let (one, other) = tokio::join!(one.consider(&key), other.consider(&key));
    assert!(one.is_ok() && other.is_ok());
    let again = fixture.load::<Study>(&key).await.unwrap();
    assert_eq!((again.head.seq, &again.head.trace), (study.head.seq + 2, &study.head.trace));
    assert!(matches!(again.record.state, StudyState::Complete { .. }));
    assert_eq!(Study { state: study.record.state.clone(), ..again.record }, study.record);
    assert_eq!(fixture.load::<Read>(&read_key(&key)).await.unwrap().record, read.record);
    assert_eq!(fixture.load::<Report>(&report_key(&key)).await.unwrap().record, report.record);
    assert_eq!(fixture.load::<Delivery>(&delivery_key(&key)).await.unwrap().record, delivery.record);
    assert_eq!(fixture.load::<Case>(&case_key(&key)).await.unwrap().record, case.record);
    assert_eq!(fixture.load::<AiTask>(&ai_key(&key)).await.unwrap().record, task.record);
    let replanned = fixture.load::<Plan>(&plan_key(&key)).await.unwrap();
    assert_eq!((replanned.record, replanned.head.seq), (plan.record, plan.head.seq + 2));

    fixture.drain().await;
    assert!(!fixture.only_study().await.closed);
    let events = fixture.records.events(&key, None, 100).await.unwrap();
    let reopened = events.iter().find(|event| event.event == "reopened").unwrap();
    assert_eq!((reopened.actor.as_str(), reopened.reason.as_str()), ("archive", "late image"));
    assert_eq!(fixture.metrics.forks.get(), 0);
}

#[tokio::test]
async fn a_case_closes_again_after_it_was_reopened_and_the_newest_head_counts() {
    let fixture = Fixture::new().await;
    let key = delivered(&fixture).await;
    fixture.closer().consider(&key).await.unwrap();
    fixture.create(&intake_key(&key), &Intake::default()).await;
    fixture.reopener().consider(&key).await.unwrap();
    fixture.drain().await;
    fixture.clock.advance(2 * HOUR);
    fixture.closer().consider(&key).await.unwrap();
    assert_eq!(fixture.load::<Study>(&key).await, None);
    fixture.create(&intake_key(&key), &Intake::default()).await;
    fixture.reopener().consider(&key).await.unwrap();
    assert_eq!(fixture.load::<Study>(&key).await.unwrap().head.seq, 6);
    fixture.drain().await;
    assert_eq!(fixture.metrics.forks.get(), 0);
}

#[tokio::test]
async fn a_late_image_wins_over_a_close_that_has_begun() {
    let fixture = Fixture::new().await;
    let key = delivered(&fixture).await;
    let closer = fixture.closer();
    let loaded = load::unit(&fixture.tables, &key).await.unwrap().unwrap();
    closer.put_heads(&loaded.unit).await.unwrap();
    let other_node = isocenter_domain::key::IntakeKey { node: "n2".parse().unwrap(), ..intake_key(&key) };
    fixture.create(&other_node, &Intake { pending: 1, ..Intake::default() }).await;
    let lost = closer.commit(&loaded).await.unwrap_err();
    assert_eq!(lost.kind(), Kind::Conflict);
    assert!(fixture.load::<Study>(&key).await.is_some());
    // The head that was written is of no account while the study lives, nor after.
    fixture.update::<Intake>(&other_node, "counted", |intake| Intake { pending: 0, ..intake }).await;
    fixture.drain().await;
    fixture.clock.advance(2 * HOUR);
    closer.consider(&key).await.unwrap();
    assert_eq!(fixture.load::<Study>(&key).await, None);
}

#[tokio::test]
async fn a_close_that_crashed_behind_the_head_is_made_good() {
    let fixture = Fixture::new().await;
    let key = delivered(&fixture).await;
    let closer = fixture.closer();
    let loaded = load::unit(&fixture.tables, &key).await.unwrap().unwrap();
    closer.put_heads(&loaded.unit).await.unwrap();
    fixture.clock.advance(HOUR);
    closer.consider(&key).await.unwrap();
    assert_eq!(fixture.load::<Study>(&key).await, None);
    // The same close, whose first answer was lost, once more.
    assert_eq!(closer.commit(&loaded).await.unwrap_err().kind(), Kind::Conflict);
}

#[tokio::test]
async fn nothing_closes_before_its_events_are_journaled_and_its_grace_is_over() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    let closer = fixture.closer();
    let Outcome::At(due) = closer.consider(&key).await.unwrap() else { panic!("it waits for its grace") };
    fixture.clock.set(due);
    assert!(matches!(closer.consider(&key).await.unwrap(), Outcome::At(_)), "it waits for the journal");
    assert!(fixture.load::<Study>(&key).await.is_some());
    fixture.drain().await;
    assert_eq!(closer.consider(&key).await.unwrap(), Outcome::Done);
    assert_eq!(fixture.load::<Study>(&key).await, None);
}

#[tokio::test]
async fn an_instance_that_no_manifest_has_keeps_a_case_open() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    let images = fixture.images(&key, &Given { uid: "1.2.3.77", ..Given::default() }).await;
    let segment = Segment { study: key.study.clone(), node: node(), images }.encode();
    let digest = Digest::of(&segment);
    let at = path::segment(&key.tenant, &key.study, &node(), &digest);
    fixture.blobs.put_new(&at, segment.into()).await.unwrap();
    fixture
        .update::<Intake>(&intake_key(&key), "counted", |intake| Intake { segment: Some(digest), ..intake })
        .await;
    fixture.drain().await;
    fixture.clock.advance(2 * HOUR);
    assert!(matches!(fixture.closer().consider(&key).await.unwrap(), Outcome::At(_)));
    assert!(fixture.load::<Study>(&key).await.is_some());
}

#[tokio::test]
async fn a_case_too_large_for_a_transaction_of_single_records_closes_whole_and_comes_back_whole() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    for revision in 2..160 {
        fixture.create(&AiTaskKey { revision, ..ai_key(&key) }, &fixture.task()).await;
    }
    fixture.drain().await;
    fixture.clock.advance(2 * HOUR);
    assert_eq!(fixture.closer().consider(&key).await.unwrap(), Outcome::Done);
    for kind in ["study/", "intake/", "plan/", "case/", "ai/", "read/", "report/", "delivery/"] {
        assert_eq!(fixture.keys(kind).await, Vec::<String>::new());
    }
    fixture.drain().await;
    // Each of them has its last event, though the outbox had one for all.
    let history = fixture.records.history(&fixture.blobs, &key.tenant).await.unwrap();
    assert_eq!((history.gaps.as_slice(), history.records), ([].as_slice(), 166));
    let closed = fixture.records.applied(&key.tenant, "", 1_000).await.unwrap();
    assert!(closed.iter().all(|(_, _, gone)| *gone), "{closed:?}");

    fixture.create(&intake_key(&key), &Intake::default()).await;
    fixture.reopener().consider(&key).await.unwrap();
    assert_eq!(fixture.keys("ai/").await.len(), 159);
    let task = fixture.load::<AiTask>(&AiTaskKey { revision: 150, ..ai_key(&key) }).await.unwrap();
    assert_eq!(task.head.seq, 3, "created, closed, reopened");
    fixture.drain().await;
    assert_eq!(fixture.metrics.forks.get(), 0);
    let history = fixture.records.history(&fixture.blobs, &key.tenant).await.unwrap();
    assert_eq!(history.gaps, []);
}

#[tokio::test]
async fn a_late_image_wins_over_the_close_of_a_large_case() {
    let fixture = Fixture::new().await;
    let key = fixture.delivered(&Given::default()).await;
    for revision in 2..160 {
        fixture.create(&AiTaskKey { revision, ..ai_key(&key) }, &fixture.task()).await;
    }
    fixture.drain().await;
    fixture.clock.advance(2 * HOUR);
    let closer = fixture.closer();
    let loaded = load::unit(&fixture.tables, &key).await.unwrap().unwrap();
    closer.put_heads(&loaded.unit).await.unwrap();
    fixture.update::<AiTask>(&AiTaskKey { revision: 90, ..ai_key(&key) }, "touched", |task| task).await;
    assert_eq!(closer.commit(&loaded).await.unwrap_err().kind(), Kind::Conflict);
    assert_eq!(fixture.keys("ai/").await.len(), 159);
}

#[tokio::test]
async fn a_study_that_nobody_reads_closes_alone() {
    let fixture = Fixture::new().await;
    let key = fixture.complete(&Given::default()).await;
    fixture.plan(&key, Reading::None { rule: "localizer".into() }).await;
    fixture.drain().await;
    fixture.clock.advance(2 * HOUR);
    fixture.closer().consider(&key).await.unwrap();
    assert_eq!(fixture.load::<Study>(&key).await, None);
    fixture.create(&intake_key(&key), &Intake::default()).await;
    fixture.reopener().consider(&key).await.unwrap();
    assert_eq!(fixture.load::<Study>(&study_key(&Given::default())).await.unwrap().head.seq, 4);
}

#[tokio::test]
async fn what_is_owed_keeps_a_case_open() {
    let fixture = Fixture::new().await;
    let key = delivered(&fixture).await;
    let grace = Grace { delivered: HOUR, unread: HOUR };
    let whole = load::unit(&fixture.tables, &key).await.unwrap().unwrap().unit;
    let now = whole.last_update().plus(HOUR);
    assert_eq!(verdict(&whole, grace, now), Verdict::Close);
    assert_eq!(verdict(&whole, grace, whole.last_update()), Verdict::NotBefore(now));
    let waits = |change: &dyn Fn(&mut crate::plan::Unit)| {
        let mut unit = whole.clone();
        change(&mut unit);
        assert!(matches!(verdict(&unit, grace, now), Verdict::Wait(_)), "{unit:?}");
    };
    waits(&|unit| unit.studies[0].study.record.state = StudyState::Receiving);
    waits(&|unit| unit.studies[0].intakes[0].record.open_associations = 1);
    waits(&|unit| unit.studies[0].ai[0].record.state = AiTaskState::Pending { not_before: now });
    waits(&|unit| unit.deliveries.clear());
    waits(&|unit| unit.reports.clear());
    waits(&|unit| unit.reads[0].record.state = isocenter_domain::record::read::ReadState::Waiting);
    // A revision that no report names: its discrepancy read may not exist yet.
    waits(&|unit| {
        unit.studies[0].study.record.revision = 2;
        unit.studies[0].plan.record.revision = 2;
    });
}
