//! The life of a task with a service that keeps the contract.

use std::time::Duration;

use isocenter_ai_dispatch::Config;
use isocenter_blobs::path;
use isocenter_domain::{
    Time,
    document::AiResult,
    key::{AiTaskKey, StudyKey},
    record::{
        ai_task::{AiTask, AiTaskState, SkipReason},
        read::ReadState,
    },
};
use isocenter_runtime::{config::Period, telemetry::testing::TestSpans};
use isocenter_testkit::wait_for;
use isocenter_wire::document::Stored as _;
use tonic::Code;

use crate::{
    vendor::{Reply, Vendor},
    world::{TRACE, World, config, dispatched, images, study_key, task_key, tenant},
};

const LONG: Duration = Duration::from_secs(60);

#[tokio::test]
async fn a_study_is_analysed_and_its_result_is_kept() {
    let spans = TestSpans::install();
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Answer(0.87)]);
    world.register("a", &address, 1, true).await;
    let running = world.start(config()).await;
    world.study(&["a"], LONG).await;

    let task = world.until("a", 1, AiTask::settled).await;
    let AiTaskState::Succeeded(answer) = &task.record.state else { panic!("{:?}", task.record) };
    assert_eq!(
        (answer.probability_ppm, answer.model.as_str(), task.record.attempts),
        (870_000, "scripted", 1)
    );
    assert_eq!(task.head.trace, TRACE);
    let name = path::ai(&tenant(), &study_key().study, &"a".parse().unwrap(), 1, &answer.result);
    let kept = AiResult::decode(&world.blobs.get_checked(&name, &answer.result).await.unwrap()).unwrap();
    assert_eq!((kept.abnormal_probability, kept.summary.as_str()), (0.87, "seen"));

    let seen = vendor.state();
    let [request] = seen.requests.as_slice() else { panic!("{} requests", seen.requests.len()) };
    assert_eq!((request.attempt, request.study_revision, request.service_id.as_str()), (1, 1, "a"));
    assert_eq!(request.fetch_address, running.address);
    // The span and the count follow the record by a moment.
    let find = || spans.of(TRACE).into_iter().find(|span| span.traceparent == request.traceparent);
    wait_for("the span", Duration::from_secs(10), || async { find().is_some() }).await;
    let call = find().unwrap();
    assert_eq!((call.name.as_str(), call.parent.as_deref()), ("ai analyse", Some("b7ad6b7169203331")));
    assert_eq!(seen.traceparents.first(), Some(&request.traceparent));
    let order: Vec<_> =
        request.series.iter().flat_map(|s| s.instances.iter().map(|i| i.sop_instance_uid.as_str())).collect();
    assert_eq!(order, ["1.2.3.2.5", "1.2.3.2.6", "1.2.3.1.2", "1.2.3.1.1"]);
    for line in [
        "isocenter_ai_dispatch_tasks_total{outcome=\"succeeded\",service=\"a\"} 1",
        "isocenter_ai_dispatch_calls_total{outcome=\"answered\",service=\"a\"} 1",
        "isocenter_ai_dispatch_in_flight{service=\"a\"} 0",
    ] {
        wait_for(line, Duration::from_secs(10), || async {
            running.metrics.render().unwrap().contains(line)
        })
        .await;
    }
    running.stop().await;
}

#[tokio::test]
async fn a_failed_call_is_made_again_under_the_same_request_id() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Fail(Code::Internal), Reply::Fail(Code::Unavailable), Reply::Answer(0.1)]);
    world.register("a", &address, 1, true).await;
    let running = world.start(config()).await;
    world.study(&["a"], LONG).await;
    let task = world.settled("a").await;
    assert!(matches!(task.state, AiTaskState::Succeeded(_)), "{task:?}");
    let seen = vendor.state().requests;
    assert_eq!(seen.iter().map(|r| r.attempt).collect::<Vec<_>>(), [1, 2, 3]);
    assert!(seen.iter().all(|r| r.request_id == seen[0].request_id));
    running.stop().await;
}

#[tokio::test]
async fn a_claim_whose_dispatcher_died_lapses_and_the_call_is_made_again() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Hang, Reply::Answer(0.2)]);
    world.register("a", &address, 1, true).await;
    let short = Config { claim: Period(Duration::from_millis(300)), ..config() };
    let first = world.start(short.clone()).await;
    world.study(&["a"], LONG).await;
    vendor.until("the first call", |s| s.requests.len() == 1).await;
    // As kill -9 does: nothing is given back.
    first.tasks.abort_now();
    assert!(dispatched(&world.task("a", 1).await.unwrap().record));

    let second = world.start(short).await;
    let task = world.settled("a").await;
    assert!(matches!(task.state, AiTaskState::Succeeded(_)), "{task:?}");
    let seen = vendor.state().requests;
    assert_eq!((seen.len(), task.attempts), (2, 2));
    assert_eq!(seen[0].request_id, seen[1].request_id);
    assert_ne!(seen[0].fetch_token, seen[1].fetch_token);
    second.stop().await;
}

#[tokio::test]
async fn a_dispatcher_that_stops_gives_its_claims_back() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Hang]);
    world.register("a", &address, 1, true).await;
    let first = world.start(config()).await;
    world.study(&["a"], LONG).await;
    vendor.until("the call", |s| s.requests.len() == 1).await;
    first.stop().await;
    let task = world.task("a", 1).await.unwrap().record;
    assert!(matches!(task.state, AiTaskState::Pending { .. }), "{task:?}");
    let second = world.start(config()).await;
    assert!(matches!(world.settled("a").await.state, AiTaskState::Succeeded(_)));
    second.stop().await;
}

#[tokio::test]
async fn an_answer_after_the_signature_is_kept_and_orders_nothing() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Hold(0.99)]);
    world.register("a", &address, 1, true).await;
    world.read(ReadState::Waiting).await;
    let running = world.start(config()).await;
    world.study(&["a"], LONG).await;
    vendor.until("the call", |s| s.requests.len() == 1).await;
    let signed =
        ReadState::Signed { reader: "anna".parse().unwrap(), at: Time(5), version: 1, studies: vec![] };
    world.read(signed).await;
    vendor.release(1);
    let task = world.settled("a").await;
    assert!(matches!(task.state, AiTaskState::Late(_)), "{task:?}");
    assert_eq!(task.probability(), None);
    running.stop().await;
}

#[tokio::test]
async fn a_service_gets_no_more_than_it_takes_at_once() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.describe(2, &[]);
    vendor.always(Reply::Hold(0.3));
    let (other, other_address) = Vendor::start(&world.tasks).await;
    let services = ["a", "b"];
    world.register("a", &address, 8, true).await;
    world.register("b", &other_address, 1, true).await;
    let running = world.start(config()).await;
    let keys: Vec<_> =
        (1..=6).map(|n| StudyKey { tenant: tenant(), study: format!("1.2.{n}").parse().unwrap() }).collect();
    for key in &keys {
        world.complete(key, 1, images()).await;
        world.plan(key, 1, &services, LONG).await;
    }
    // The other service is done with all while this one holds its two.
    other.until("all studies at the other service", |s| s.requests.len() == 6).await;
    vendor.until("two calls", |s| s.running == 2).await;
    let mut claimed = 0;
    for key in &keys {
        let task = AiTaskKey { study: key.study.clone(), ..task_key("a", 1) };
        let task = world.tables.load::<AiTask>(&task).await.unwrap();
        claimed += usize::from(task.is_some_and(|task| dispatched(&task.record)));
    }
    assert_eq!(claimed, 2, "what waits for its turn is not claimed");
    vendor.release(6);
    vendor.until("all studies", |s| s.requests.len() == 6 && s.running == 0).await;
    assert_eq!((vendor.state().most, other.state().most), (2, 1));
    running.stop().await;
}

#[tokio::test]
async fn a_newer_revision_supersedes_the_analysis_of_the_older() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Hang, Reply::Answer(0.4)]);
    world.register("a", &address, 1, true).await;
    let running = world.start(config()).await;
    world.study(&["a"], LONG).await;
    let first = vendor.until("the first call", |s| s.requests.len() == 1).await.requests.remove(0);
    world.complete(&study_key(), 2, images()).await;
    world.plan(&study_key(), 2, &["a"], LONG).await;
    // The one permit of the service is free again although the first call never ends by itself.
    let newer = world.until("a", 2, AiTask::settled).await.record;
    assert!(matches!(newer.state, AiTaskState::Succeeded(_)), "{newer:?}");
    assert_eq!(world.settled("a").await.state, AiTaskState::Cancelled);
    let seen = vendor.until("the cancellation", |s| !s.cancelled.is_empty()).await;
    assert_eq!((seen.cancelled.len(), &seen.cancelled[0]), (1, &first.request_id));
    assert_ne!(seen.requests[1].request_id, first.request_id);
    running.stop().await;
}

#[tokio::test]
async fn what_may_not_be_sent_is_not_sent() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.describe(1, &["MG", "CT"]);
    world.register("closed", &address, 1, false).await;
    world.register("mammography", &address, 1, true).await;
    let running = world.start(config()).await;
    world.study(&["absent", "closed", "mammography"], LONG).await;
    for (service, why) in [
        ("absent", SkipReason::NotRegistered),
        ("closed", SkipReason::MayNotReceive),
        ("mammography", SkipReason::NotForModality),
    ] {
        assert_eq!(world.settled(service).await.state, AiTaskState::Skipped { why });
    }
    assert_eq!(vendor.state().requests.len(), 0);
    running.stop().await;
}
