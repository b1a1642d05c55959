//! The vendor over gRPC, with a dispatcher that serves its pixels.

use std::{net::SocketAddr, time::Duration};

use bytes::Bytes;
use isocenter_peers::{
    LOOPBACK,
    sample::Algorithm,
    study::Study,
    synthetic::{StudyKind, Synthetic},
    vendor::{Misbehaviour, Vendor, VendorConfig},
};
use isocenter_runtime::task::{Drained, Tasks};
use isocenter_wire::v1::{
    AiRefusalReason, AnalyzeRequest, AnalyzeResponse, CancelRequest, DescribeRequest, FetchInstancesRequest,
    FetchInstancesResponse, GetServiceHealthRequest, GetServiceHealthResponse, InstanceEnd,
    InstanceReference, SeriesReference,
    ai_dispatch_server::{AiDispatch, AiDispatchServer},
    ai_inference_client::AiInferenceClient,
    analyze_response::Outcome,
    fetch_instances_response::Part,
};
use sha2::{Digest as _, Sha256};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Code, Request, Response, Status, transport::Channel};

/// Far more than anything here needs; only a test that fails waits for it.
const WAIT: Duration = Duration::from_secs(20);
const TOKEN: &str = "token-of-the-task";

/// Serves one study, rightly or with wrong digests.
struct Dispatcher {
    study: Study,
    corrupt: bool,
}

#[tonic::async_trait]
impl AiDispatch for Dispatcher {
    type FetchInstancesStream =
        tokio_stream::Iter<std::vec::IntoIter<Result<FetchInstancesResponse, Status>>>;

    async fn fetch_instances(
        &self,
        request: Request<FetchInstancesRequest>,
    ) -> Result<Response<Self::FetchInstancesStream>, Status> {
        let request = request.into_inner();
        if request.fetch_token != TOKEN {
            return Err(Status::unauthenticated("wrong token"));
        }
        let mut parts = Vec::new();
        let wanted = |uid: &str| request.sop_instance_uids.iter().any(|w| w == uid);
        for instance in self.study.instances.iter().filter(|i| wanted(i.instance_uid.as_str())) {
            let file = instance.read().await.unwrap();
            parts.push(Part::Begin(reference(instance, file.len())));
            parts.extend(file.chunks(256 * 1024).map(|c| Part::Chunk(Bytes::copy_from_slice(c))));
            let mut sha256 = Sha256::digest(&file).to_vec();
            if self.corrupt {
                sha256[0] ^= 1;
            }
            parts.push(Part::End(InstanceEnd { sha256 }));
        }
        let parts: Vec<_> = parts.into_iter().map(|p| Ok(FetchInstancesResponse { part: Some(p) })).collect();
        Ok(Response::new(tokio_stream::iter(parts)))
    }

    async fn get_service_health(
        &self,
        _: Request<GetServiceHealthRequest>,
    ) -> Result<Response<GetServiceHealthResponse>, Status> {
        Err(Status::unimplemented("this dispatcher serves pixels only"))
    }
}

fn reference(instance: &isocenter_peers::study::Instance, size: usize) -> InstanceReference {
    InstanceReference {
        sop_class_uid: instance.sop_class_uid.to_string(),
        sop_instance_uid: instance.instance_uid.to_string(),
        transfer_syntax_uid: instance.transfer_syntax_uid.to_string(),
        size_bytes: size as u64,
    }
}

/// A vendor, a dispatcher with one study, and the request for it.
struct Scene {
    tasks: Tasks,
    vendor: Vendor,
    client: AiInferenceClient<Channel>,
    request: AnalyzeRequest,
}

impl Scene {
    async fn new(kind: StudyKind, corrupt: bool) -> Self {
        let tasks = Tasks::new();
        let study = Synthetic::new(5).study(kind).unwrap().study;
        let mut instances = Vec::new();
        for instance in &study.instances {
            instances.push(reference(instance, instance.read().await.unwrap().len()));
        }
        let series = SeriesReference {
            series_instance_uid: study.instances[0].series_uid.to_string(),
            modality: kind.modality().to_owned(),
            body_part: kind.body_part().to_owned(),
            instances,
        };
        let request = AnalyzeRequest {
            request_id: "request-1".to_owned(),
            service_id: "sample-density".to_owned(),
            attempt: 1,
            study_instance_uid: study.study_uid.to_string(),
            study_revision: 1,
            series: vec![series],
            fetch_address: format!("http://{}", dispatcher(&tasks, Dispatcher { study, corrupt }).await),
            fetch_token: TOKEN.to_owned(),
            traceparent: String::new(),
        };
        let config = VendorConfig { max_concurrency: 1, ..VendorConfig::new(Algorithm::Density) };
        let vendor = Vendor::start(LOOPBACK, config, &tasks).await.unwrap();
        let client = AiInferenceClient::connect(vendor.url()).await.unwrap();
        Self { tasks, vendor, client, request }
    }

    async fn analyze(&self) -> Result<AnalyzeResponse, Status> {
        self.client.clone().analyze(self.request.clone()).await.map(Response::into_inner)
    }
}

async fn dispatcher(tasks: &Tasks, dispatcher: Dispatcher) -> SocketAddr {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let address = listener.local_addr().unwrap();
    let stop = tasks.token();
    tasks.background("dispatcher", async move {
        tonic::transport::Server::builder()
            .add_service(AiDispatchServer::new(dispatcher))
            .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned())
            .await
            .unwrap();
    });
    address
}

#[tokio::test]
async fn pixels_are_fetched_checked_and_measured_once_for_one_request() {
    let scene = Scene::new(StudyKind::MgDense, false).await;
    let described = scene.client.clone().describe(DescribeRequest {}).await.unwrap().into_inner();
    assert_eq!((described.modalities, described.max_concurrency), (vec!["MG".to_owned()], 1));

    let first = scene.analyze().await.unwrap();
    assert_eq!(first.study_instance_uid, scene.request.study_instance_uid);
    assert_eq!(first.request_id, scene.request.request_id);
    let Some(Outcome::Result(result)) = &first.outcome else { panic!("{first:?}") };
    assert!(result.abnormal_probability > 0.7 && result.summary.starts_with("SAMPLE"));
    assert_eq!(result.findings.len(), 4);
    assert!(result.findings.iter().all(|f| f.r#box.len() == 4));

    assert_eq!(scene.analyze().await.unwrap(), first);
    let counts = scene.vendor.counts();
    assert_eq!((counts.begun, counts.deduplicated, counts.instances), (1, 1, 4));
    drop(scene.client);
    assert_eq!(scene.tasks.drain(WAIT).await, Drained::Clean);
}

#[tokio::test]
async fn a_study_of_another_modality_is_refused_before_any_pixel_moves() {
    let scene = Scene::new(StudyKind::CtHead, false).await;
    let Some(Outcome::Refusal(refusal)) = scene.analyze().await.unwrap().outcome else { panic!() };
    assert_eq!(refusal.reason(), AiRefusalReason::Modality);
    assert_eq!(scene.vendor.counts().instances, 0);
}

#[tokio::test]
async fn a_wrong_digest_fails_and_the_same_request_may_be_tried_again() {
    let mut scene = Scene::new(StudyKind::MgFatty, true).await;
    assert_eq!(scene.analyze().await.unwrap_err().code(), Code::DataLoss);
    let study = Synthetic::new(5).study(StudyKind::MgFatty).unwrap().study;
    let sound = dispatcher(&scene.tasks, Dispatcher { study, corrupt: false }).await;
    scene.request.fetch_address = format!("http://{sound}");
    assert!(matches!(scene.analyze().await.unwrap().outcome, Some(Outcome::Result(_))));
    let counts = scene.vendor.counts();
    assert_eq!((counts.begun, counts.failures, counts.results), (2, 1, 1));
}

#[tokio::test]
async fn a_token_that_is_not_the_tasks_gets_nothing() {
    let mut scene = Scene::new(StudyKind::MgFatty, false).await;
    scene.request.fetch_token = "stolen".to_owned();
    assert_eq!(scene.analyze().await.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn cancel_ends_what_hangs_and_what_comes_beyond_the_promise_is_turned_away() {
    let scene = Scene::new(StudyKind::MgFatty, false).await;
    scene.vendor.misbehave(Misbehaviour::Hang);
    let cancel = async {
        scene.vendor.until(|c| c.begun == 1).await;
        let other = AnalyzeRequest { request_id: "request-2".to_owned(), ..scene.request.clone() };
        let busy = scene.client.clone().analyze(other).await.unwrap_err();
        assert_eq!(busy.code(), Code::ResourceExhausted);
        let request = CancelRequest { request_id: "request-1".to_owned() };
        scene.client.clone().cancel(request.clone()).await.unwrap();
        request
    };
    let (hung, request) = tokio::join!(scene.analyze(), cancel);
    assert_eq!(hung.unwrap_err().code(), Code::Cancelled);
    assert_eq!(scene.client.clone().cancel(request).await.unwrap_err().code(), Code::NotFound);
    assert_eq!(scene.vendor.counts().cancelled, 1);
}

#[tokio::test]
async fn each_misbehaviour_is_what_it_is_called() {
    let mut scene = Scene::new(StudyKind::MgFatty, false).await;
    let own_study = scene.request.study_instance_uid.clone();
    for (n, how) in [
        Misbehaviour::Garbage,
        Misbehaviour::WrongStudy,
        Misbehaviour::RefuseAll,
        Misbehaviour::Error,
        Misbehaviour::Slow(Duration::from_millis(1)),
    ]
    .into_iter()
    .enumerate()
    {
        scene.request.request_id = format!("request-{n}");
        scene.vendor.misbehave(how);
        let answer = scene.analyze().await;
        let as_told = match (how, &answer) {
            (Misbehaviour::Error, Err(status)) => status.code() == Code::Internal,
            (Misbehaviour::WrongStudy, Ok(answer)) => answer.study_instance_uid != own_study,
            (Misbehaviour::RefuseAll, Ok(answer)) => matches!(answer.outcome, Some(Outcome::Refusal(_))),
            (Misbehaviour::Garbage, Ok(AnalyzeResponse { outcome: Some(Outcome::Result(r)), .. })) => {
                r.abnormal_probability.is_nan()
            }
            (Misbehaviour::Slow(_), Ok(AnalyzeResponse { outcome: Some(Outcome::Result(r)), .. })) => {
                r.abnormal_probability < 0.5
            }
            _ => false,
        };
        assert!(as_told, "{how:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_vendor_that_hangs_still_stops() {
    let scene = Scene::new(StudyKind::MgFatty, false).await;
    scene.vendor.misbehave(Misbehaviour::Hang);
    let stop = async {
        scene.vendor.until(|c| c.begun == 1).await;
        scene.tasks.drain(WAIT).await
    };
    let (hung, drained) = tokio::join!(scene.analyze(), stop);
    assert!(hung.is_err());
    assert_eq!(drained, Drained::Clean);
}
