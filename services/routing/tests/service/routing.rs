//! Studies as ingestion leaves them, decided over a real store, real blobs and real sockets.

use isocenter_blobs::path;
use isocenter_domain::record::{case::CaseState, plan::Reading};
use isocenter_policy::DEFAULT_TEXT;
use isocenter_runtime::telemetry::testing::TestSpans;
use isocenter_wire::v1;
use tonic::Code;
use tonic_types::StatusExt as _;

use crate::common::{CHEST, Cell, Running, Sample, TRACE, lose, manifest_path, study_key, tenant};

const STAT: &str = r#"
name: stat
schema: 1
classes:
  STAT: {deadline: 60m, orphan_after: 5m}
rules:
  - name: nothing-to-read
    when: image_count == 0
    read: false
  - name: second-series
    when: modalities[1] == 'SR'
    pools: [other]
  - name: stroke
    when: study_description.contains('STROKE') && patient_age_years > 60
    pools: [neuro]
  - name: chest
    when: body_part == 'CHEST'
    ai: [{service: opacity, timeout: 2m}]
default:
  class: STAT
  read: true
  pools: [general]
  destinations: [ris]
"#;

async fn apply(running: &Running, text: &str, request_id: &str) -> Result<v1::Policy, tonic::Status> {
    let request = v1::ApplyPolicyRequest { text: text.into(), request_id: request_id.into() };
    running.routing.clone().apply_policy(request).await.map(tonic::Response::into_inner)
}

async fn get(running: &Running) -> v1::Policy {
    running.routing.clone().get_policy(v1::GetPolicyRequest {}).await.unwrap().into_inner()
}

async fn explain(running: &Running, uid: &str) -> Result<v1::ExplainResponse, tonic::Status> {
    let request = v1::ExplainRequest { study_instance_uid: uid.into() };
    running.routing.clone().explain(request).await.map(tonic::Response::into_inner)
}

fn decision<'a>(explained: &'a v1::ExplainResponse, field: &str) -> (&'a str, &'a str) {
    let found = explained.decisions.iter().find(|d| d.field == field).unwrap();
    (&found.value, &found.rule)
}

#[tokio::test]
async fn a_complete_study_has_a_plan_and_a_ready_case_of_one_transaction() {
    let spans = TestSpans::install();
    let cell = Cell::new().await;
    cell.complete("1.2.3", &CHEST).await;
    let running = cell.serve().await;
    let plan = cell.plan("1.2.3", 1).await;
    let case = cell.case("1.2.3").await.unwrap();
    assert_eq!(plan.mod_revision, case.mod_revision);
    assert_eq!((plan.head.trace.as_str(), case.head.trace.as_str()), (TRACE, TRACE));
    assert_eq!(plan.record.case(), Some(&case.key.case));
    let study = cell.tables.load(&study_key("1.2.3")).await.unwrap().unwrap();
    let study: isocenter_domain::record::study::Study = study.record;
    assert_eq!((case.record.state, case.record.class.as_str()), (CaseState::Ready, "ROUTINE"));
    assert_eq!(Some(case.record.complete_at), study.complete_at);
    assert_eq!(case.record.destinations[0].as_str(), "north");
    let line = "isocenter_routing_decisions_total{field=\"read\",rule=\"default\"}";
    isocenter_testkit::wait_for("the metric", std::time::Duration::from_secs(10), || async {
        running.metric(line).as_deref() == Some("1")
    })
    .await;
    running.stop().await;
    let traced = spans.of(TRACE);
    let route = traced.iter().find(|span| span.name == "route").expect("routing is in the study's trace");
    assert_eq!(route.parent.as_deref(), TRACE.split('-').nth(2));
}

#[tokio::test]
async fn reports_alone_are_not_read() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    cell.complete("1.2.3", &Sample { modality: "SR", instances: (0, 3), ..CHEST }).await;
    let plan = cell.plan("1.2.3", 1).await;
    assert_eq!(plan.record.reading, Reading::None { rule: "nothing-to-read".into() });
    assert_eq!(cell.case("1.2.3").await, None);
    let explained = explain(&running, "1.2.3").await.unwrap();
    assert_eq!(decision(&explained, "read"), ("false", "nothing-to-read"));
    running.stop().await;
}

#[tokio::test]
async fn a_new_policy_is_for_later_studies_at_once_and_on_every_replica() {
    let cell = Cell::new().await;
    let (here, there) = (cell.serve().await, cell.serve().await);
    cell.complete("1.2.3", &CHEST).await;
    let before = cell.plan("1.2.3", 1).await;
    assert_eq!(get(&here).await.applied_at, None);
    assert_eq!(get(&here).await.text, DEFAULT_TEXT);

    let applied = apply(&here, STAT, "r1").await.unwrap();
    assert_eq!((applied.name.as_str(), applied.applied_by.as_str()), ("stat", "dev"));
    assert_eq!(get(&there).await, applied);
    for n in 0..10 {
        let uid = format!("1.2.4.{n}");
        cell.complete(&uid, &CHEST).await;
        assert_eq!(cell.plan(&uid, 1).await.record.policy.to_string(), applied.version);
        assert_eq!(cell.case(&uid).await.unwrap().record.class.as_str(), "STAT");
    }
    assert_eq!(cell.plan("1.2.3", 1).await, before);

    // The same request again, elsewhere and after the fact, changes nothing; nor does its id with another text.
    assert_eq!(apply(&there, STAT, "r1").await.unwrap(), applied);
    assert_eq!(apply(&there, DEFAULT_TEXT, "r1").await.unwrap(), applied);
    assert_eq!(cell.events("policy/").await.len(), 1);
    here.stop().await;
    there.stop().await;
}

#[tokio::test]
async fn a_wrong_policy_is_refused_with_its_place_and_changes_nothing() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    let active = apply(&running, STAT, "r1").await.unwrap();
    let wrong = STAT.replace("body_part ==", "bodypart ==");
    let refused = apply(&running, &wrong, "r2").await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let fields = refused.get_details_bad_request().unwrap().field_violations;
    assert_eq!(fields[0].field, "text");
    assert!(fields[0].description.starts_with("line 17, column 11: `bodypart`"), "{}", fields[0].description);
    assert_eq!(apply(&running, STAT, "").await.unwrap_err().code(), Code::InvalidArgument);
    assert_eq!(get(&running).await, active);
    running.stop().await;
}

#[tokio::test]
async fn a_late_image_is_decided_again_and_the_case_stays() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    cell.complete("1.2.3", &CHEST).await;
    cell.plan("1.2.3", 1).await;
    let first = cell.case("1.2.3").await.unwrap();
    apply(&running, STAT, "r1").await.unwrap();
    cell.complete("1.2.3", &Sample { description: "STROKE", ..CHEST }).await;
    let plan = cell.plan("1.2.3", 2).await;
    let second = cell.case("1.2.3").await.unwrap();
    assert_eq!((plan.head.seq, second.head.seq), (2, 2));
    assert_eq!((second.record.class.as_str(), second.record.pools[0].as_str()), ("STAT", "neuro"));
    assert_eq!(second.record.complete_at, first.record.complete_at);

    // Nothing but reports now, so that the policy would not have it read: the case is not taken back, nor touched.
    cell.complete("1.2.3", &Sample { instances: (0, 1), ..CHEST }).await;
    let plan = cell.plan("1.2.3", 3).await;
    assert_eq!(plan.record.case(), Some(&second.key.case));
    assert_eq!(cell.case("1.2.3").await.unwrap(), second);
    let explained = explain(&running, "1.2.3").await.unwrap();
    assert_eq!(decision(&explained, "read"), ("true", isocenter_routing::plan::EARLIER));
    let events: Vec<String> = cell.events("case/").await.into_iter().map(|event| event.1).collect();
    assert_eq!(events, ["created", "replanned"]);
    running.stop().await;
}

#[tokio::test]
async fn explain_tells_each_rule_as_it_was_when_the_plan_was_made() {
    let cell = Cell::new().await;
    let running = cell.serve().await;
    let policy = apply(&running, STAT, "r1").await.unwrap();
    cell.complete("1.2.3", &Sample { description: "STROKE", ..CHEST }).await;
    cell.plan("1.2.3", 1).await;
    apply(&running, DEFAULT_TEXT, "r2").await.unwrap();
    let explained = explain(&running, "1.2.3").await.unwrap();
    assert_eq!((explained.policy_version.as_str(), explained.revision), (policy.version.as_str(), 1));
    let rules: Vec<(&str, &str)> =
        explained.rules.iter().map(|rule| (rule.rule.as_str(), rule.outcome.as_str())).collect();
    assert_eq!(rules[0], ("nothing-to-read", "not matched"));
    assert_eq!(rules[1], ("second-series", "failed: there is nothing at that place of the list"));
    assert_eq!(rules[2..], [("stroke", "matched"), ("chest", "matched")]);
    assert_eq!(decision(&explained, "class"), ("STAT", "default"));
    assert_eq!(decision(&explained, "pools"), ("neuro", "stroke"));
    assert_eq!(decision(&explained, "ai"), ("opacity within 2m", "chest"));
    assert_eq!(decision(&explained, "destinations"), ("ris", "default"));
    let line = "isocenter_routing_rule_errors_total{rule=\"second-series\"}";
    isocenter_testkit::wait_for("the metric", std::time::Duration::from_secs(10), || async {
        running.metric(line).as_deref() == Some("1")
    })
    .await;
    assert_eq!(explain(&running, "9.9").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(explain(&running, "x").await.unwrap_err().code(), Code::InvalidArgument);
    running.stop().await;
}

#[tokio::test]
async fn a_lost_policy_text_holds_up_no_study_and_is_counted() {
    let cell = Cell::new().await;
    let first = cell.serve().await;
    let stat = apply(&first, STAT, "r1").await.unwrap();
    cell.complete("1.1", &CHEST).await;
    assert_eq!(cell.plan("1.1", 1).await.record.policy.to_string(), stat.version);
    first.stop().await;

    // A process that has never seen the text decides by the shipped one.
    lose(&cell, &path::policy(&tenant(), &stat.version.parse().unwrap())).await;
    let second = cell.serve().await;
    let shipped = isocenter_domain::refs::Digest::of(DEFAULT_TEXT.as_bytes());
    cell.complete("1.2", &CHEST).await;
    assert_eq!(cell.plan("1.2", 1).await.record.policy, shipped);
    assert_eq!(
        second.metric("isocenter_routing_policy_fallbacks_total{to=\"shipped\"}").as_deref(),
        Some("1")
    );
    let code = second.routing.clone().get_policy(v1::GetPolicyRequest {}).await.unwrap_err().code();
    assert_eq!(code, Code::DataLoss);

    // Applied again, the text is back.
    apply(&second, STAT, "r2").await.unwrap();
    cell.complete("1.3", &CHEST).await;
    assert_eq!(cell.plan("1.3", 1).await.record.policy.to_string(), stat.version);
    second.stop().await;
}

#[tokio::test]
async fn where_the_newest_text_is_lost_the_last_good_one_decides() {
    let cell = Cell::new().await;
    let here = cell.serve().await;
    let stat = apply(&here, STAT, "r1").await.unwrap();
    cell.complete("1.1", &CHEST).await;
    cell.plan("1.1", 1).await;

    let other = cell.serve().await;
    let newer = apply(&other, &STAT.replace("name: stat", "name: newer"), "r2").await.unwrap();
    other.stop().await;
    lose(&cell, &path::policy(&tenant(), &newer.version.parse().unwrap())).await;
    for uid in ["1.2", "1.3"] {
        cell.complete(uid, &CHEST).await;
        assert_eq!(cell.plan(uid, 1).await.record.policy.to_string(), stat.version);
    }
    let fallbacks = here.metric("isocenter_routing_policy_fallbacks_total{to=\"last-good\"}");
    assert_eq!(fallbacks.as_deref(), Some("2"));
    here.stop().await;
}

#[tokio::test]
async fn a_lost_manifest_holds_up_no_study_and_is_counted() {
    let cell = Cell::new().await;
    cell.complete("1.2.3", &CHEST).await;
    lose(&cell, &manifest_path("1.2.3", 1)).await;
    let running = cell.serve().await;
    assert!(cell.plan("1.2.3", 1).await.record.case().is_some());
    assert_eq!(running.metric("isocenter_routing_lost_manifests_total").as_deref(), Some("1"));
    let explained = explain(&running, "1.2.3").await.unwrap();
    assert_eq!(explained.rules[0].outcome, "not matched", "it has images, by its record");
    running.stop().await;
}

#[tokio::test]
async fn two_services_over_one_store_decide_each_study_once() {
    const STUDIES: usize = 40;
    let cell = Cell::new().await;
    let (a, b) = (cell.serve().await, cell.serve().await);
    let uid = |n: usize| format!("1.2.{n}");
    for n in 0..STUDIES {
        cell.complete(&uid(n), &CHEST).await;
    }
    for n in 0..STUDIES {
        cell.plan(&uid(n), 1).await;
    }
    // What a loser of a race would still do, it does before it ends.
    a.stop().await;
    b.stop().await;
    for kind in ["plan/", "case/"] {
        let events = cell.events(kind).await;
        assert_eq!(events.len(), STUDIES, "{kind}: {events:?}");
        assert!(events.iter().all(|(_, _, actor, seq)| actor == "routing" && *seq == 1));
    }
}
