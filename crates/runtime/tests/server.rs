//! The server over real sockets.

use std::{sync::Arc, time::Duration};

use axum::{Router, routing::get};
use isocenter_domain::{access::Principal, id::TenantId};
use isocenter_runtime::{
    metrics::Metrics,
    readiness::{Latch, Readiness},
    server::{Options, Served, ServerError, bind},
    task::{Drained, Tasks},
    telemetry::{testing::TestSpans, trace},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    sync::Notify,
};
use tonic::{Code, Request, service::Routes, transport::Endpoint};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tonic_types::StatusExt as _;

struct Running {
    tasks: Tasks,
    readiness: Readiness,
    starting: Option<Latch>,
    main: std::net::SocketAddr,
    health: std::net::SocketAddr,
    entered: Arc<Notify>,
    release: Arc<Notify>,
}

fn tenant() -> TenantId {
    TenantId::new("t").unwrap()
}

async fn panics() -> &'static str {
    panic!("on purpose")
}

async fn start(change: impl FnOnce(&mut Options)) -> Running {
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let (readiness, starting) = Readiness::new();
    let (entered, release) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (e, r) = (Arc::clone(&entered), Arc::clone(&release));
    let held = move || {
        let (e, r) = (Arc::clone(&e), Arc::clone(&r));
        async move {
            e.notify_one();
            r.notified().await;
            "released"
        }
    };
    let who = |axum::Extension(p): axum::Extension<Principal>| async move { p.subject };
    let http =
        Router::new().route("/who/{study}", get(who)).route("/held", get(held)).route("/panics", get(panics));
    let mut options = Options::local(tenant());
    change(&mut options);
    let bound = bind(options).await.unwrap();
    let (main, health) = (bound.address(), bound.health_address());
    let grpc = Routes::new(readiness.health(&tasks));
    bound.serve(&tasks, Served { grpc, http, ..Served::default() }, &metrics, &readiness);
    Running { tasks, readiness, starting: Some(starting), main, health, entered, release }
}

async fn fetch(address: std::net::SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap();
    text
}

async fn check(address: std::net::SocketAddr, service: &str, study: &str) -> Result<i32, tonic::Status> {
    let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
    let mut request = Request::new(HealthCheckRequest { service: service.into() });
    request.metadata_mut().insert(trace::HEADER, study.parse().unwrap());
    HealthClient::new(channel).check(request).await.map(|r| r.into_inner().status)
}

#[tokio::test]
async fn one_port_serves_grpc_http_and_metrics_each_call_with_principal_and_span() {
    let spans = TestSpans::install();
    let mut running = start(|_| {}).await;
    assert!(fetch(running.health, "/healthz").await.starts_with("HTTP/1.1 503"));
    drop(running.starting.take());
    running.readiness.ready().await;
    assert!(fetch(running.health, "/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(fetch(running.main, "/who/1.2.3").await.ends_with("dev"));
    let study = trace::new_trace();
    assert_eq!(check(running.main, "liveness", &study).await.unwrap(), 1);
    assert_eq!(check(running.health, "liveness", &study).await.unwrap(), 1);
    let unknown = check(running.main, "nobody", &study).await.unwrap_err();
    assert_eq!(unknown.code(), Code::NotFound);
    fetch(running.main, "/1.2.3/none").await;

    let seen = spans.of(&study);
    assert_eq!(seen.len(), 2, "{seen:?}");
    assert_eq!(
        (seen[0].name.as_str(), seen[0].attributes["enduser.id"].as_str()),
        ("/grpc.health.v1.Health/Check", "dev")
    );
    let metrics = fetch(running.main, "/metrics").await;
    for line in [
        "isocenter_calls_total{code=\"200\",method=\"/who/{study}\"} 1",
        "isocenter_calls_total{code=\"0\",method=\"/grpc.health.v1.Health/Check\"} 1",
        "isocenter_calls_total{code=\"5\",method=\"/grpc.health.v1.Health/Check\"} 1",
        "isocenter_calls_total{code=\"404\",method=\"unknown\"} 1",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    assert!(!metrics.contains("1.2.3"));
    assert_eq!(running.tasks.drain(Duration::from_secs(10)).await, Drained::Clean);
}

#[tokio::test]
async fn calls_beyond_the_bound_are_refused_and_said_to_be_worth_a_retry() {
    let running = start(|o| o.max_in_flight = 1).await;
    let (main, held) = (running.main, running.entered.clone());
    let first = Tasks::new();
    first.background("client", async move { assert!(fetch(main, "/held").await.ends_with("released")) });
    held.notified().await;
    assert!(fetch(running.main, "/who/1").await.starts_with("HTTP/1.1 503"));
    let refused = check(running.main, "", &trace::new_trace()).await.unwrap_err();
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.get_details_retry_info().is_some());
    running.release.notify_one();
    assert_eq!(first.drain(Duration::from_secs(10)).await, Drained::Clean);
    assert_eq!(first.panics(), 0);
}

#[tokio::test]
async fn a_handler_that_hangs_or_panics_is_answered_for() {
    let running = start(|o| o.timeout = Duration::from_millis(50)).await;
    assert!(fetch(running.main, "/held").await.starts_with("HTTP/1.1 504"));
    assert!(fetch(running.main, "/panics").await.starts_with("HTTP/1.1 500"));
    assert!(fetch(running.main, "/who/1").await.ends_with("dev"));
}

#[tokio::test]
async fn shutdown_is_unready_first_and_lets_calls_finish() {
    let mut running = start(|_| {}).await;
    drop(running.starting.take());
    let main = running.main;
    let client = Tasks::new();
    client.background("client", async move { assert!(fetch(main, "/held").await.ends_with("released")) });
    running.entered.notified().await;
    running.tasks.shut_down();
    let mut text = String::new();
    while !text.contains("waiting for drain") {
        text = fetch(running.health, "/healthz").await;
    }
    running.release.notify_one();
    assert_eq!(running.tasks.drain(Duration::from_secs(10)).await, Drained::Clean);
    assert_eq!(client.drain(Duration::from_secs(10)).await, Drained::Clean);
    assert_eq!((client.panics(), running.tasks.failure().is_none()), (0, true));
}

#[tokio::test]
async fn a_plaintext_listener_that_others_reach_is_refused() {
    let mut options = Options::local(tenant());
    options.listen = "0.0.0.0:0".parse().unwrap();
    assert!(matches!(bind(options).await, Err(ServerError::Exposed(_))));
    let taken = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut options = Options::local(tenant());
    options.listen = taken.local_addr().unwrap();
    assert!(matches!(bind(options).await, Err(ServerError::Bind { .. })));
}
