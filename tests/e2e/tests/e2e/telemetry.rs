//! What operators' tools see: health, reflection, metrics.

use isocenter_peers::synthetic::{StudyKind, Synthetic};
use tokio_stream::StreamExt as _;
use tonic::transport::Endpoint;
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

use crate::harness::{Bench, PATIENCE, get, metric};

#[tokio::test]
async fn health_is_told_by_grpc_and_http() {
    let bench = Bench::start(&[]).await;
    let address = format!("http://{}", bench.server.health);
    let mut health = HealthClient::new(Endpoint::from_shared(address).unwrap().connect_lazy());
    let answer = health.check(HealthCheckRequest { service: String::new() }).await.unwrap().into_inner();
    assert_eq!(answer.status(), ServingStatus::Serving);
    let (status, body) = get(bench.server.health, "/healthz").await.unwrap();
    assert_eq!((status, body.as_str()), (200, "ok\n"));
}

#[tokio::test]
async fn reflection_names_every_service() {
    let bench = Bench::start(&[]).await;
    let mut client = ServerReflectionClient::new(bench.server.channel());
    let ask = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let answers = client.server_reflection_info(tokio_stream::once(ask)).await.unwrap().into_inner();
    let answers: Vec<_> = answers.collect().await;
    let Some(MessageResponse::ListServicesResponse(listed)) = answers[0].clone().unwrap().message_response
    else {
        panic!("{answers:?}");
    };
    let names: Vec<_> = listed.service.into_iter().map(|service| service.name).collect();
    for service in
        ["Ingestion", "Routing", "Registry", "AiDispatch", "ReaderAssignment", "ReportDelivery", "Archive"]
    {
        assert!(names.contains(&format!("isocenter.v1.{service}")), "{service} is not in {names:?}");
    }
}

#[tokio::test]
async fn metrics_count_studies_by_stage() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    let study = Synthetic::new(1).study(StudyKind::CrChest).unwrap().study;
    bench.send("north", &[study]).await;
    // Nobody reads: the study stays where it is.
    let name = "isocenter_studies{stage=\"waiting-for-reader\"}";
    let counted = || async { metric(&bench.server.metrics().await, name) == Some(1.0) };
    isocenter_testkit::wait_for("the study to be counted", PATIENCE, counted).await;
    let text = bench.server.metrics().await;
    for stage in isocenter_domain::stage::Stage::ALL {
        for gauge in ["isocenter_studies", "isocenter_oldest_age_seconds"] {
            let name = format!("{gauge}{{stage=\"{}\"}}", stage.name());
            assert!(metric(&text, &name).is_some(), "no {name} in {text}");
        }
    }
    assert_eq!(metric(&text, "isocenter_ingestion_instances_total{outcome=\"stored\"}"), Some(1.0));
}
