//! `reconcile` with `repair`, and what is stuck.

use std::time::Duration;

use isocenter_blobs::path;
use isocenter_domain::{
    key::text,
    record::{
        ai_task::{AiTask, AiTaskState},
        delivery::{Delivery, DeliveryState},
        intake::Intake,
        plan::Plan,
        read::{Read, ReadState},
        study::{Study, StudyState},
    },
};
use isocenter_store::{Key, Op, Txn};
use isocenter_wire::v1::{self, archive_server::Archive as _};

use super::comparing::clean;
use super::fixture::{Fixture, ai_key, asked, delivery_key, intake_key, plan_key, read_key};

/// The calls, with mirrors that have all that was written.
fn fresh(fixture: &Fixture) -> crate::rpc::Rpc {
    let mirrors = isocenter_store::table::Mirrors::new(fixture.tables.clone(), &fixture.tasks);
    let comparer = crate::compare::Comparer { mirrors, ..fixture.comparer() };
    crate::rpc::Rpc { comparer: std::sync::Arc::new(comparer), ..fixture.rpc() }
}

async fn reconcile(fixture: &Fixture, repair: bool) -> Vec<v1::Difference> {
    let reason = if repair { "after the outage".to_owned() } else { String::new() };
    let request = v1::ReconcileRequest { repair, reason, changed_only: false };
    let answer = fresh(fixture).reconcile(asked(request)).await.unwrap().into_inner();
    assert_eq!(answer.difference_count, u64::try_from(answer.differences.len()).unwrap());
    assert!(answer.differences.iter().all(|d| !d.remedy.is_empty()));
    answer.differences
}

async fn lose_outbox(fixture: &Fixture) {
    for key in fixture.keys("outbox/").await {
        let lost = Op::delete(&Key::new(key).unwrap());
        fixture.tables.kv().txn(Txn::always(vec![lost])).await.unwrap();
    }
}

#[tokio::test]
async fn events_that_were_lost_are_journaled_again_in_the_operators_name() {
    let (fixture, live, _) = clean().await;
    for revision in 2..5 {
        fixture.update::<Study>(&live, "touched", |study| Study { revision, ..study }).await;
    }
    lose_outbox(&fixture).await;
    assert_eq!(reconcile(&fixture, false).await.len(), 1);
    let mended = reconcile(&fixture, true).await;
    assert!(mended[0].mended && mended[0].remedy == "journaled again", "{mended:?}");
    // The images of a revision without a manifest are all that is left.
    let left = reconcile(&fixture, false).await;
    assert!(left.iter().all(|d| d.kind == "instance" || d.expected.contains("images")), "{left:?}");
    assert_eq!(fixture.records.history(&fixture.blobs, &live.tenant).await.unwrap().gaps, []);
    let events = fixture.records.events(&live, None, 100).await.unwrap();
    let restored: Vec<_> = events.iter().filter(|event| event.event == "restored").collect();
    assert_eq!(restored.len(), 3);
    assert!(restored.iter().all(|e| e.actor == "cn=tester" && e.reason == "after the outage"));
}

#[tokio::test]
async fn records_that_are_behind_the_journal_are_brought_up_from_it() {
    let (fixture, live, closed) = clean().await;
    for table in ["applied", "events", "images", "study_modalities", "studies", "reads"] {
        let harm = format!("DELETE FROM {table}");
        sqlx::query(sqlx::AssertSqlSafe(harm)).execute(&fixture.records.pool()).await.unwrap();
    }
    let found = reconcile(&fixture, true).await;
    assert!(found.iter().any(|d| d.kind == "study" && d.key == text(&closed)), "{found:?}");
    assert!(found.iter().any(|d| d.kind == "projection" && d.key == text(&live)), "{found:?}");
    assert!(found.iter().all(|d| d.mended), "{found:?}");
    assert_eq!(reconcile(&fixture, true).await, []);
    let fresh = fixture.database("fresh").await;
    crate::replay(&fixture.blobs, &fresh).await.unwrap();
    assert_eq!(Fixture::dump(&fixture.records).await, Fixture::dump(&fresh).await);
}

#[tokio::test]
async fn a_close_that_only_the_head_knows_of_is_told_to_the_records() {
    let (fixture, live, _) = clean().await;
    fixture.clock.advance(Duration::from_secs(7_200));
    fixture.closer().consider(&live).await.unwrap();
    lose_outbox(&fixture).await;
    let found = reconcile(&fixture, true).await;
    assert!(!found.is_empty() && found.iter().all(|d| d.mended), "{found:?}");
    assert_eq!(reconcile(&fixture, false).await, []);
    assert!(fixture.records.studies(&live.tenant, "", 10).await.unwrap().iter().all(|row| row.closed));
    assert_eq!(fixture.metrics.forks.get(), 0);
}

#[tokio::test]
async fn a_late_image_nobody_took_note_of_reopens_its_study_and_a_lost_index_is_made_again() {
    let (fixture, live, closed) = clean().await;
    fixture.create(&intake_key(&closed), &Intake::default()).await;
    fixture.clock.advance(Duration::from_secs(60));
    sqlx::query("UPDATE studies SET manifest_revision = 0 WHERE study = $1")
        .bind(live.study.to_string())
        .execute(&fixture.records.pool())
        .await
        .unwrap();
    let found = reconcile(&fixture, true).await;
    let mut mended: Vec<(&str, &str)> = found.iter().map(|d| (d.kind.as_str(), d.remedy.as_str())).collect();
    mended.sort_unstable();
    assert_eq!(mended, [("projection", "indexed"), ("study", "reopened")], "{found:?}");
    fixture.drain().await;
    let events = fixture.records.events(&closed, None, 100).await.unwrap();
    let reopened = events.iter().find(|event| event.event == "reopened").unwrap();
    assert_eq!((reopened.actor.as_str(), reopened.reason.as_str()), ("cn=tester", "after the outage"));
    assert_eq!(reconcile(&fixture, false).await, []);
}

#[tokio::test]
async fn what_a_person_must_do_is_said_and_left_and_a_repair_needs_a_reason() {
    let (fixture, live, closed) = clean().await;
    let head = fixture.blobs.last(&path::heads_of(&closed.tenant, &closed.study)).await.unwrap().unwrap();
    fixture.blobs.delete(&head.path).await.unwrap();
    fixture.erase::<Plan>(&plan_key(&live)).await;
    fixture.drain().await;
    let found = reconcile(&fixture, true).await;
    let head = found.iter().find(|d| d.kind == "study").unwrap();
    assert!(!head.mended && head.remedy.contains("backup"), "{head:?}");
    let plan = found.iter().find(|d| d.kind == "plan").unwrap();
    assert!(!plan.mended && plan.remedy.contains("routing"), "{plan:?}");
    let request = v1::ReconcileRequest { repair: true, ..Default::default() };
    let refused = fixture.rpc().reconcile(asked(request)).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::InvalidArgument);
}

#[tokio::test]
async fn images_of_closed_studies_are_looked_at_once_where_only_what_changed_is_asked_for() {
    let (fixture, _, closed) = clean().await;
    let count = async |changed_only| {
        let request = v1::ReconcileRequest { changed_only, ..Default::default() };
        let answer = fresh(&fixture).reconcile(asked(request)).await.unwrap().into_inner();
        assert_eq!(answer.differences, []);
        answer.checked.into_iter().find(|checked| checked.kind == "instance").unwrap().count
    };
    assert_eq!(count(true).await, 2, "never looked at before");
    assert_eq!(count(true).await, 1);
    assert_eq!(count(false).await, 2);
    let at = path::manifest(&closed.tenant, &closed.study, 1);
    fixture.blobs.delete(&at).await.unwrap();
    assert_eq!(count(true).await, 1, "what is thrown away by hand is found only in depth");
    assert_eq!(reconcile(&fixture, false).await.len(), 1);
}

#[tokio::test]
async fn everything_past_its_bound_is_stuck_with_an_owner_and_a_cause_oldest_first() {
    let (fixture, live, _) = clean().await;
    let rpc = fresh(&fixture);
    let all = async |request: v1::ListStuckRequest| {
        let rpc = fresh(&fixture);
        rpc.list_stuck(asked(request)).await.unwrap().into_inner()
    };
    assert_eq!(rpc.list_stuck(asked(v1::ListStuckRequest::default())).await.unwrap().into_inner().stuck, []);
    let due = fixture.clock.shared().now();
    fixture
        .update::<Delivery>(&delivery_key(&live), "broken", |delivery| Delivery {
            state: DeliveryState::Retrying { next: due, error: "AR: unknown patient".into() },
            attempts: 9,
            ..delivery
        })
        .await;
    let waiting = |read| Read { state: ReadState::Waiting, ..read };
    fixture.update::<Read>(&read_key(&live), "broken", waiting).await;
    let pending = AiTaskState::Pending { not_before: due };
    fixture.update::<AiTask>(&ai_key(&live), "broken", |task| AiTask { state: pending, ..task }).await;
    let receiving = |study| Study { state: StudyState::Receiving, ..study };
    fixture.update::<Study>(&live, "broken", receiving).await;
    fixture.update::<Intake>(&intake_key(&live), "broken", |intake| Intake { pending: 3, ..intake }).await;
    fixture.clock.advance(Duration::from_secs(3 * 86_400));
    let answer = all(v1::ListStuckRequest::default()).await;
    let told: Vec<(&str, &str)> = answer.stuck.iter().map(|s| (s.kind.as_str(), s.owner.as_str())).collect();
    let expected = [
        ("ai", "ai-dispatch"),
        ("delivery", "destination"),
        ("study", "ingestion"),
        ("read", "reader-assignment"),
    ];
    assert_eq!(told, expected, "{answer:?}");
    assert!(
        answer
            .stuck
            .iter()
            .all(|s| s.bound.is_some() && s.since.is_some() && !s.cause.is_empty() && !s.key.is_empty())
    );
    assert!(answer.stuck[1].cause.contains("9 attempts; AR: unknown patient"), "{answer:?}");
    assert!(answer.stuck[2].cause.contains("n1: 3 pending"), "{answer:?}");
    let page = all(v1::ListStuckRequest { page_size: 3, ..Default::default() }).await;
    assert_eq!(page.stuck, answer.stuck[..3]);
    let page_token = page.next_page_token;
    let page = all(v1::ListStuckRequest { page_size: 3, page_token }).await;
    assert_eq!((page.stuck.as_slice(), page.next_page_token.as_str()), (&answer.stuck[3..], ""));
}
