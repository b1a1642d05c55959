//! Services that break the contract in every way they can.

use std::time::Duration;

use isocenter_domain::record::ai_task::{AiFailure, AiTaskState};
use tonic::Code;

use crate::{
    vendor::{Reply, Vendor},
    world::{World, config},
};

const LONG: Duration = Duration::from_secs(60);

/// The state in which a task ends when its service replies so, and the calls it took.
async fn ends(replies: Reply) -> (AiTaskState, usize) {
    let world = World::new().await;
    let (vendor, address) = Vendor::start(&world.tasks).await;
    vendor.always(replies);
    world.register("a", &address, 1, true).await;
    let running = world.start(config()).await;
    world.study(&["a"], LONG).await;
    let task = world.settled("a").await;
    running.stop().await;
    (task.state, vendor.state().requests.len())
}

#[tokio::test]
async fn answers_that_break_the_contract_fail_at_once() {
    for reply in [
        Reply::Answer(f64::NAN),
        Reply::Answer(1.5),
        Reply::OtherStudy,
        Reply::OtherRequest,
        Reply::OtherInstance,
        Reply::Huge,
    ] {
        let end = ends(reply).await;
        assert_eq!(end, (AiTaskState::Failed(AiFailure::InvalidAnswer), 1), "{reply:?}");
    }
}

#[tokio::test]
async fn a_refusal_is_no_failure() {
    let reason = "image-quality".to_owned();
    assert_eq!(ends(Reply::Refuse).await, (AiTaskState::Rejected { reason }, 1));
}

#[tokio::test]
async fn errors_end_after_the_last_attempt() {
    for (code, failure, calls) in [
        (Code::Internal, AiFailure::Error, 3),
        (Code::Unavailable, AiFailure::Unavailable, 3),
        (Code::Unimplemented, AiFailure::Error, 1),
    ] {
        assert_eq!(ends(Reply::Fail(code)).await, (AiTaskState::Failed(failure), calls), "{code:?}");
    }
}

#[tokio::test]
async fn a_service_that_hangs_times_out_and_holds_up_nobody() {
    let world = World::new().await;
    let (hanging, address) = Vendor::start(&world.tasks).await;
    hanging.always(Reply::Hang);
    let (good, good_address) = Vendor::start(&world.tasks).await;
    world.register("bad", &address, 1, true).await;
    world.register("good", &good_address, 1, true).await;
    let running = world.start(config()).await;
    world.study(&["bad", "good"], Duration::from_secs(1)).await;
    assert!(matches!(world.settled("good").await.state, AiTaskState::Succeeded(_)));
    assert!(good.state().cancelled.is_empty());
    assert_eq!(world.settled("bad").await.state, AiTaskState::TimedOut);
    let seen = hanging.until("the cancellation", |s| !s.cancelled.is_empty()).await;
    assert_eq!(seen.cancelled, [seen.requests[0].request_id.clone()]);
    running.stop().await;
}

#[tokio::test]
async fn a_service_that_is_not_there_fails_the_task() {
    let world = World::new().await;
    // A port that nobody listens on: bound, read, and closed.
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    world.register("a", &format!("http://{free}"), 1, true).await;
    world.register("b", "no address at all", 1, true).await;
    let running = world.start(config()).await;
    world.study(&["a", "b"], LONG).await;
    for service in ["a", "b"] {
        let task = world.settled(service).await;
        assert_eq!(
            (task.state, task.attempts),
            (AiTaskState::Failed(AiFailure::Unavailable), 3),
            "{service}"
        );
    }
    running.stop().await;
}
