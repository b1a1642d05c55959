//! AI that is late, silent or wrong: it adds nothing to a human's timeline.

use std::{sync::Arc, time::Duration};

use isocenter_domain::{
    id::StudyUid,
    key::AiTaskKey,
    record::ai_task::{AiFailure, AiTask, AiTaskState},
};
use isocenter_peers::{
    LOOPBACK,
    sample::Algorithm,
    synthetic::StudyKind,
    vendor::{Misbehaviour, Vendor, VendorConfig},
};
use isocenter_runtime::task::Tasks;
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{
    self,
    ai_inference_server::{AiInference, AiInferenceServer},
};
use tokio::{net::TcpListener, sync::Semaphore};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

use crate::{
    calls::seeds,
    desk::{Desk, explain},
    history::{statuses, until_legal, until_reconciled},
    world::{PATIENCE, Settings, Sim, tenant},
};

/// A vendor whose answer waits until the test lets it go.
#[derive(Clone)]
struct Gated {
    asked: Arc<Semaphore>,
    gate: Arc<Semaphore>,
}

impl Gated {
    /// Starts it; returns its address too.
    async fn start(tasks: &Tasks) -> (Self, String) {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let vendor = Self { asked: Arc::new(Semaphore::new(0)), gate: Arc::new(Semaphore::new(0)) };
        let (service, stop) = (AiInferenceServer::new(vendor.clone()), tasks.token());
        tasks.background("gated vendor", async move {
            let served = tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned());
            served.await.unwrap();
        });
        (vendor, address)
    }
}

#[tonic::async_trait]
impl AiInference for Gated {
    async fn describe(
        &self,
        _: Request<v1::DescribeRequest>,
    ) -> Result<Response<v1::DescribeResponse>, Status> {
        Ok(Response::new(v1::DescribeResponse {
            vendor: "gated".into(),
            model_id: "gated".into(),
            model_version: "1".into(),
            modalities: vec!["MG".into()],
            max_concurrency: 2,
            ..v1::DescribeResponse::default()
        }))
    }

    async fn analyze(
        &self,
        request: Request<v1::AnalyzeRequest>,
    ) -> Result<Response<v1::AnalyzeResponse>, Status> {
        let request = request.into_inner();
        self.asked.add_permits(1);
        self.gate.acquire().await.unwrap().forget();
        let result = v1::AiResult { abnormal_probability: 0.9, ..v1::AiResult::default() };
        Ok(Response::new(v1::AnalyzeResponse {
            request_id: request.request_id,
            study_instance_uid: request.study_instance_uid,
            model_id: "gated".into(),
            model_version: "1".into(),
            outcome: Some(v1::analyze_response::Outcome::Result(result)),
        }))
    }

    async fn cancel(&self, _: Request<v1::CancelRequest>) -> Result<Response<v1::CancelResponse>, Status> {
        Ok(Response::new(v1::CancelResponse {}))
    }
}

async fn task(sim: &Sim, study: &StudyUid) -> Option<AiTask> {
    let key = AiTaskKey {
        tenant: tenant(),
        study: study.clone(),
        service: "density".parse().unwrap(),
        revision: 1,
    };
    sim.tables.load::<AiTask>(&key).await.unwrap().map(|stored| stored.record)
}

async fn until_task(sim: &Sim, study: &StudyUid, what: &str, ready: impl Fn(&AiTask) -> bool) -> AiTask {
    wait_for(what, PATIENCE, || async { task(sim, study).await.as_ref().is_some_and(&ready) }).await;
    task(sim, study).await.unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_after_the_signature_is_late_and_changes_nothing() {
    for seed in seeds(&[41, 42]) {
        let vendors = Tasks::new();
        let (vendor, address) = Gated::start(&vendors).await;
        let mut sim = Sim::start(seed.0, Settings { ai: Some(address), ..Settings::default() }).await;
        let desk = Desk::sit(&sim, "anna", 0);
        let study = sim.study(StudyKind::MgDense);
        let uid = &study.study_uid;
        sim.send(&study).await;
        let open = desk.take().await;
        vendor.asked.acquire().await.unwrap().forget();
        desk.sign(&desk.signature(&open)).await.unwrap();
        sim.until_delivered(uid, 1).await;
        let before = explain(&sim, &open.read_id).await.read.unwrap();

        vendor.gate.add_permits(100);
        let late = until_task(&sim, uid, "the late answer", AiTask::settled).await;
        assert!(matches!(late.state, AiTaskState::Late(_)), "{:?}", late.state);
        until_reconciled(&sim).await;
        let after = explain(&sim, &open.read_id).await.read.unwrap();
        assert_eq!(before, after, "a late answer changed a signed read");
        assert_eq!(statuses(&sim), ["F"]);
        sim.until_delivered(uid, 1).await;
        until_legal(&sim, &[uid], 1).await;
        sim.end().await;
        vendors.drain(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_vendor_that_hangs_or_talks_nonsense_adds_nothing_to_the_human_timeline() {
    for seed in seeds(&[43, 44, 45, 46]) {
        let vendors = Tasks::new();
        let vendor = Vendor::start(LOOPBACK, VendorConfig::new(Algorithm::Density), &vendors).await.unwrap();
        let how = [Misbehaviour::Error, Misbehaviour::Garbage, Misbehaviour::Hang, Misbehaviour::WrongStudy]
            [usize::try_from(seed.0 % 4).unwrap()];
        vendor.misbehave(how);
        let mut sim = Sim::start(seed.0, Settings { ai: Some(vendor.url()), ..Settings::default() }).await;
        let desk = Desk::sit(&sim, "anna", 1);
        let study = sim.study(StudyKind::MgFatty);
        let uid = &study.study_uid;
        sim.send(&study).await;
        let open = desk.take().await;
        // In the queue since the study was complete, whatever the vendor does.
        let seen = sim.seen(uid).await.unwrap();
        assert_eq!(open.waiting_since, seen.complete_at, "the read did not wait from the start");
        if how == Misbehaviour::Hang {
            vendor.until(|counts| counts.begun > 0).await;
            let unanswered = task(&sim, uid).await.unwrap();
            assert!(!unanswered.settled(), "{:?}", unanswered.state);
        } else {
            let failed = until_task(&sim, uid, "the analysis to be given up", AiTask::settled).await;
            let expected =
                if how == Misbehaviour::Error { AiFailure::Error } else { AiFailure::InvalidAnswer };
            assert_eq!(failed.state, AiTaskState::Failed(expected));
        }
        let shown = explain(&sim, &open.read_id).await.read.unwrap();
        assert_eq!(shown.abnormal_probability, None);
        assert_eq!(shown.due_at, open.due_at);
        desk.sign(&desk.signature(&open)).await.unwrap();
        sim.until_delivered(uid, 1).await;
        assert_eq!(statuses(&sim), ["F"]);
        until_reconciled(&sim).await;
        until_legal(&sim, &[uid], 1).await;
        sim.end().await;
        vendors.drain(Duration::from_secs(5)).await;
    }
}
