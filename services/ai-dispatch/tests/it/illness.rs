//! Services that are ill: left alone, told of, and taken back when they are well.

use std::time::Duration;

use isocenter_ai_dispatch::{Breaker, Config};
use isocenter_domain::{
    access::Role,
    key::StudyKey,
    record::ai_task::{AiFailure, AiTask, AiTaskState, SkipReason},
};
use isocenter_runtime::{
    config::Period,
    tls::{Client, ClientFiles},
};
use isocenter_testkit::{Pki, wait_for};
use isocenter_wire::v1::{
    AiServiceHealth, AiServiceState, GetServiceHealthRequest, GetServiceHealthResponse,
    ai_dispatch_client::AiDispatchClient,
};
use tonic::{Code, Status};

use crate::{
    vendor::{Reply, Vendor},
    world::{Running, World, config, images, task_key, tenant},
};

const LONG: Duration = Duration::from_secs(60);
const PATIENCE: Duration = Duration::from_secs(20);

async fn ask(running: &Running, service: &str) -> Result<GetServiceHealthResponse, Status> {
    let mut client = AiDispatchClient::connect(running.address.clone()).await.unwrap();
    let request = GetServiceHealthRequest { service_id: service.to_owned() };
    Ok(client.get_service_health(request).await?.into_inner())
}

async fn health(running: &Running, service: &str) -> AiServiceHealth {
    ask(running, service).await.unwrap().services.remove(0)
}

/// Waits until the service stands so.
async fn stands(running: &Running, service: &str, state: AiServiceState) -> AiServiceHealth {
    wait_for(state.as_str_name(), PATIENCE, || async { health(running, service).await.state() == state })
        .await;
    health(running, service).await
}

fn breaker(failures: u32, open: Duration) -> Config {
    Config { breaker: Breaker { failures, open: Period(open) }, max_attempts: 99, ..config() }
}

/// Another study with the same images; returns its task's key.
async fn another(world: &World, n: u32, timeout: Duration) -> isocenter_domain::key::AiTaskKey {
    let key = StudyKey { tenant: tenant(), study: format!("1.2.3.4.{n}").parse().unwrap() };
    world.complete(&key, 1, images()).await;
    world.plan(&key, 1, &["a"], timeout).await;
    isocenter_domain::key::AiTaskKey { study: key.study, ..task_key("a", 1) }
}

async fn settled(world: &World, key: &isocenter_domain::key::AiTaskKey) -> AiTask {
    let load = || async { world.tables.load::<AiTask>(key).await.unwrap().map(|task| task.record) };
    wait_for("the task's end", PATIENCE, || async { load().await.is_some_and(|task| task.settled()) }).await;
    load().await.unwrap()
}

#[tokio::test]
async fn a_service_that_keeps_failing_is_left_alone_and_tasks_end_with_the_reason() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.always(Reply::Fail(Code::Internal));
    world.register("a", &address, 2, true).await;
    let running = world.start(breaker(3, Duration::from_secs(3600))).await;
    world.study(&["a"], Duration::from_secs(3)).await;
    let open = stands(&running, "a", AiServiceState::Open).await;
    assert_eq!((open.consecutive_failures, open.in_flight, open.limit), (3, 0, 2));
    assert!(open.open_until.is_some() && open.last_failure_at.is_some() && open.last_success_at.is_none());
    assert_eq!((open.outcomes[0].outcome.as_str(), open.outcomes[0].count), ("error", 3));

    let never_sent = another(&world, 1, Duration::from_secs(1)).await;
    let why = SkipReason::Unavailable;
    assert_eq!(settled(&world, &never_sent).await.state, AiTaskState::Skipped { why });
    let given_up = world.settled("a").await;
    assert_eq!((given_up.state, given_up.attempts, given_up.failures), (AiTaskState::TimedOut, 3, 3));
    assert_eq!(vendor.state().requests.len(), 3, "nothing was sent while it was left alone");
    assert!(
        running.metrics.render().unwrap().contains("isocenter_ai_dispatch_breaker_open{service=\"a\"} 1")
    );
    running.stop().await;
}

#[tokio::test]
async fn one_study_shows_that_a_service_is_well_and_the_others_follow() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Fail(Code::Unavailable); 4]);
    vendor.always(Reply::Hold(0.3));
    world.register("a", &address, 2, true).await;
    let running = world.start(breaker(2, Duration::from_millis(100))).await;
    world.study(&["a"], LONG).await;
    let mut keys = vec![task_key("a", 1)];
    for n in 1..=4 {
        keys.push(another(&world, n, LONG).await);
    }
    // Only the probe that is held stays for as long as it takes to look: those before it fail at once.
    vendor.until("the probe", |s| s.requests.len() == 5 && s.running == 1).await;
    let probing = stands(&running, "a", AiServiceState::Probing).await;
    assert!(probing.waiting > 0 && probing.in_flight == 1, "{probing:?}");
    vendor.release(5);
    for key in &keys {
        let task = settled(&world, key).await;
        assert!(matches!(task.state, AiTaskState::Succeeded(_)), "{task:?}");
    }
    let ready = stands(&running, "a", AiServiceState::Ready).await;
    assert_eq!((ready.consecutive_failures, ready.latency_samples, ready.waiting), (0, 5, 0));
    assert!(ready.latency_p50.is_some() && ready.latency_p95.is_some() && ready.last_success_at.is_some());
    running.stop().await;
}

#[tokio::test]
async fn a_service_that_says_that_it_does_not_serve_gets_no_study() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.serves(false).await;
    world.register("a", &address, 2, true).await;
    let short = Config { describe: Period(Duration::from_millis(100)), ..config() };
    let running = world.start(short).await;
    assert_eq!(health(&running, "a").await.state(), AiServiceState::Unspecified);
    world.study(&["a"], LONG).await;
    let closed = stands(&running, "a", AiServiceState::NotServing).await;
    assert_eq!((closed.waiting, closed.in_flight, closed.description.unwrap().max_concurrency), (1, 0, 8));
    let described = vendor.state().described;
    vendor.until("being asked again", |s| s.described > described + 1).await;
    assert_eq!(vendor.state().requests.len(), 0);
    let never_sent = another(&world, 1, Duration::from_millis(500)).await;
    let why = SkipReason::Unavailable;
    assert_eq!(settled(&world, &never_sent).await.state, AiTaskState::Skipped { why });
    vendor.serves(true).await;
    assert!(matches!(world.settled("a").await.state, AiTaskState::Succeeded(_)));
    running.stop().await;
}

#[tokio::test]
async fn a_service_that_is_busy_is_asked_again_for_as_long_as_it_matters() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.next(&[Reply::Fail(Code::ResourceExhausted); 7]);
    world.register("a", &address, 2, true).await;
    let running = world.start(Config { max_attempts: 1, ..config() }).await;
    world.study(&["a"], LONG).await;
    let task = world.settled("a").await;
    assert!(matches!(task.state, AiTaskState::Succeeded(_)), "{task:?}");
    assert_eq!((task.attempts, task.failures), (8, 0));
    assert_eq!(health(&running, "a").await.state(), AiServiceState::Ready, "being busy is no illness");
    running.stop().await;
}

#[tokio::test]
async fn an_answer_of_a_model_that_was_not_announced_is_none() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.described(|d| (d.model_id, d.model_version) = ("scripted".into(), "1".into()));
    vendor.always(Reply::OtherVersion);
    world.register("a", &address, 2, true).await;
    let running = world.start(config()).await;
    world.study(&["a"], LONG).await;
    let task = world.settled("a").await;
    assert_eq!((task.state, task.failures), (AiTaskState::Failed(AiFailure::InvalidAnswer), 3));
    // The description is believed for minutes; an answer that does not fit has the service asked at once.
    vendor.described(|d| d.model_version = "2".into());
    let key = another(&world, 1, LONG).await;
    let AiTaskState::Succeeded(answer) = settled(&world, &key).await.state else { panic!("{key:?}") };
    assert_eq!(answer.model_version, "2");
    running.stop().await;
}

#[tokio::test]
async fn what_a_service_says_that_it_does_not_take_is_not_sent() {
    let world = World::new().await;
    let running = world.start(config()).await;
    let mut vendors = Vec::new();
    for (id, part, syntax) in [("part", "HAND", ""), ("syntax", "CHEST", "1.2.840.10008.1.2.4.90")] {
        let (vendor, address) = Vendor::start(&world.tasks).await;
        vendor.described(|d| {
            d.body_parts = vec![part.to_lowercase()];
            d.accepted_transfer_syntaxes =
                [syntax].into_iter().filter(|s| !s.is_empty()).map(str::to_owned).collect();
        });
        world.register(id, &address, 1, true).await;
        vendors.push(vendor);
    }
    world.study(&["part", "syntax"], LONG).await;
    let skipped = |why| AiTaskState::Skipped { why };
    assert_eq!(world.settled("part").await.state, skipped(SkipReason::NotForBodyPart));
    assert_eq!(world.settled("syntax").await.state, skipped(SkipReason::NotForTransferSyntax));
    assert!(vendors.iter().all(|vendor| vendor.state().requests.is_empty()));
    running.stop().await;
}

#[tokio::test]
async fn a_vendor_sees_its_own_service_and_a_reader_none() {
    let world = World::new().await;
    for id in ["a", "b"] {
        world.register(id, "http://127.0.0.1:1", 3, true).await;
    }
    let operator = world.start_as(config(), Role::Operator).await;
    let all = ask(&operator, "").await.unwrap();
    assert_eq!(all.process, operator.address.trim_start_matches("http://"));
    assert_eq!(
        all.services.iter().map(|s| (s.service_id.as_str(), s.limit)).collect::<Vec<_>>(),
        [("a", 3), ("b", 3)]
    );
    assert_eq!(ask(&operator, "c").await.unwrap_err().code(), Code::NotFound);
    assert_eq!(ask(&operator, "C!").await.unwrap_err().code(), Code::InvalidArgument);

    let vendor = world.start_as(config(), Role::Vendor("a".parse().unwrap())).await;
    let own = ask(&vendor, "").await.unwrap();
    assert_eq!(own.services.iter().map(|s| s.service_id.as_str()).collect::<Vec<_>>(), ["a"]);
    assert_eq!(ask(&vendor, "b").await.unwrap_err().code(), Code::PermissionDenied);

    let reader = world.start_as(config(), Role::Reader("r".parse().unwrap())).await;
    for service in ["", "a"] {
        assert_eq!(ask(&reader, service).await.unwrap_err().code(), Code::PermissionDenied);
    }
    for running in [operator, vendor, reader] {
        running.stop().await;
    }
}

#[tokio::test]
async fn two_dispatchers_make_one_call_for_each_attempt() {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    world.register("a", &address, 8, true).await;
    // Both work on every shard, as they do for a moment while one comes or goes: only the claim keeps them apart.
    let both = [world.start(config()).await, world.start(config()).await];
    world.study(&["a"], LONG).await;
    let mut keys = vec![task_key("a", 1)];
    for n in 1..=20 {
        keys.push(another(&world, n, LONG).await);
    }
    for key in &keys {
        let task = settled(&world, key).await;
        assert!(matches!(task.state, AiTaskState::Succeeded(_)), "{task:?}");
        assert_eq!(task.attempts, 1);
    }
    let seen = vendor.state();
    let ids: std::collections::BTreeSet<_> = seen.requests.iter().map(|r| r.request_id.clone()).collect();
    assert_eq!((seen.requests.len(), ids.len()), (21, 21));
    for running in both {
        running.stop().await;
    }
}

#[tokio::test]
async fn a_service_behind_tls_is_called_with_our_certificate() {
    let world = World::new().await;
    let pki = Pki::new();
    let (theirs, ours) = (pki.issue("O=t,OU=vendor,CN=a"), pki.issue("O=t,OU=node,CN=n1"));
    let (vendor, address) = Vendor::start_with(&world.tasks, Some((&pki, &theirs))).await;
    world.register("a", &address, 1, true).await;
    let files = ClientFiles { ca: pki.ca(), cert: ours.cert, key: ours.key };
    let without = world.start(Config { max_attempts: 1, ..config() }).await;
    world.study(&["a"], LONG).await;
    assert_eq!(world.settled("a").await.state, AiTaskState::Failed(AiFailure::Unavailable));
    without.stop().await;
    assert_eq!(vendor.state().requests.len(), 0);

    let with = world.start_full(config(), Role::Developer, Some(Client::load(&files).unwrap())).await;
    let key = another(&world, 1, LONG).await;
    let task = settled(&world, &key).await;
    assert!(matches!(task.state, AiTaskState::Succeeded(_)), "{task:?}");
    with.stop().await;
}
