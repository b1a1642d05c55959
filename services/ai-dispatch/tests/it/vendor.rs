//! A vendor's service that does what it is told, and remembers what it was asked.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex},
};

use isocenter_runtime::task::Tasks;
use isocenter_testkit::{Pair, Pki};
use isocenter_wire::v1::{
    AiFinding, AiRefusal, AiRefusalReason, AiResult, AnalyzeRequest, AnalyzeResponse, CancelRequest,
    CancelResponse, DescribeRequest, DescribeResponse,
    ai_inference_server::{AiInference, AiInferenceServer},
    analyze_response::Outcome,
};
use tokio::{net::TcpListener, sync::Semaphore, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Code, Request, Response, Status,
    transport::{Certificate, Identity, ServerTlsConfig},
};
use tonic_health::server::HealthReporter;

#[derive(Clone, Copy, Debug)]
pub enum Reply {
    Answer(f64),
    OtherStudy,
    OtherRequest,
    /// A finding on an instance that the study does not have.
    OtherInstance,
    /// An answer of more than a megabyte.
    Huge,
    /// By a version of the model that it does not describe.
    OtherVersion,
    Refuse,
    Fail(Code),
    /// Never answers.
    Hang,
    /// Answers when the test lets it.
    Hold(f64),
}

#[derive(Clone)]
pub struct Vendor {
    health: HealthReporter,
    state: Arc<watch::Sender<State>>,
    script: Arc<Mutex<VecDeque<Reply>>>,
    always: Arc<Mutex<Option<Reply>>>,
    described: Arc<Mutex<DescribeResponse>>,
    held: Arc<Gate>,
}

struct Gate(Semaphore);
impl Default for Gate {
    fn default() -> Self {
        Self(Semaphore::new(0))
    }
}

#[derive(Clone, Default)]
pub struct State {
    pub requests: Vec<AnalyzeRequest>,
    pub traceparents: Vec<String>,
    pub cancelled: Vec<String>,
    pub running: usize,
    pub most: usize,
    pub described: usize,
}

impl Vendor {
    /// Listens until `tasks` end; answers 0.5 to everything. Returns its address.
    pub async fn start(tasks: &Tasks) -> (Self, String) {
        Self::start_with(tasks, None).await
    }

    /// The same; with a certificate it takes calls of those only whom the authority certified.
    pub async fn start_with(tasks: &Tasks, tls: Option<(&Pki, &Pair)>) -> (Self, String) {
        let (health, health_service) = tonic_health::server::health_reporter();
        let vendor = Self {
            health,
            state: Arc::default(),
            script: Arc::default(),
            always: Arc::default(),
            described: Arc::default(),
            held: Arc::default(),
        };
        vendor.describe(8, &[]);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheme = if tls.is_some() { "https" } else { "http" };
        let address = format!("{scheme}://{}", listener.local_addr().unwrap());
        let (server, ended) = (AiInferenceServer::new(vendor.clone()), tasks.token());
        let mut builder = tonic::transport::Server::builder();
        if let Some((pki, pair)) = tls {
            let read = |path: &Path| std::fs::read(path).unwrap();
            let config = ServerTlsConfig::new()
                .identity(Identity::from_pem(read(&pair.cert), read(&pair.key)))
                .client_ca_root(Certificate::from_pem(pki.ca_pem()));
            builder = builder.tls_config(config).unwrap();
        }
        tasks.background("vendor", async move {
            let incoming = TcpListenerStream::new(listener);
            let server = builder.add_service(server).add_service(health_service);
            tokio::select! {
                served = server.serve_with_incoming(incoming) => served.unwrap(),
                () = ended.cancelled() => {}
            }
        });
        (vendor, address)
    }

    pub fn describe(&self, max_concurrency: u32, modalities: &[&str]) {
        self.described(|described| {
            described.max_concurrency = max_concurrency;
            described.modalities = modalities.iter().map(|m| (*m).to_owned()).collect();
        });
    }

    /// Changes what it says of itself.
    pub fn described(&self, change: impl FnOnce(&mut DescribeResponse)) {
        change(&mut self.described.lock().unwrap());
    }

    /// Says by grpc.health.v1 whether it serves; before the first time it says nothing.
    pub async fn serves(&self, serving: bool) {
        if serving {
            self.health.set_serving::<AiInferenceServer<Self>>().await;
        } else {
            self.health.set_not_serving::<AiInferenceServer<Self>>().await;
        }
    }

    /// Answers so, once each, in this order.
    pub fn next(&self, replies: &[Reply]) {
        self.script.lock().unwrap().extend(replies);
    }

    /// Answers so whatever the script does not cover.
    pub fn always(&self, reply: Reply) {
        *self.always.lock().unwrap() = Some(reply);
    }

    /// Lets held answers go.
    pub fn release(&self, n: usize) {
        self.held.0.add_permits(n);
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    /// Waits until `enough` holds.
    pub async fn until(&self, what: &str, enough: impl FnMut(&State) -> bool) -> State {
        let mut seen = self.state.subscribe();
        let waited = tokio::time::timeout(std::time::Duration::from_secs(15), seen.wait_for(enough)).await;
        waited.unwrap_or_else(|_| panic!("waited in vain for {what}")).unwrap().clone()
    }
}

/// One analysis under way.
struct Running(Arc<watch::Sender<State>>);
impl Drop for Running {
    fn drop(&mut self) {
        self.0.send_modify(|s| s.running -= 1);
    }
}

#[tonic::async_trait]
impl AiInference for Vendor {
    async fn describe(&self, _: Request<DescribeRequest>) -> Result<Response<DescribeResponse>, Status> {
        self.state.send_modify(|s| s.described += 1);
        Ok(Response::new(self.described.lock().unwrap().clone()))
    }

    async fn analyze(&self, request: Request<AnalyzeRequest>) -> Result<Response<AnalyzeResponse>, Status> {
        let header = request.metadata().get("traceparent").map(|v| v.to_str().unwrap().to_owned());
        let request = request.into_inner();
        let reply = self.script.lock().unwrap().pop_front();
        let reply = reply.or(*self.always.lock().unwrap()).unwrap_or(Reply::Answer(0.5));
        self.state.send_modify(|s| {
            s.requests.push(request.clone());
            s.traceparents.push(header.unwrap_or_default());
            s.running += 1;
            s.most = s.most.max(s.running);
        });
        let _running = Running(Arc::clone(&self.state));
        let mut response = AnalyzeResponse {
            request_id: request.request_id,
            study_instance_uid: request.study_instance_uid,
            model_id: "scripted".into(),
            model_version: "1".into(),
            outcome: None,
        };
        let probability = match reply {
            Reply::Answer(p) => p,
            Reply::OtherStudy => {
                response.study_instance_uid = "2.25.1".into();
                0.5
            }
            Reply::OtherRequest => {
                response.request_id = "other".into();
                0.5
            }
            Reply::OtherVersion => {
                response.model_version = "2".into();
                0.5
            }
            Reply::OtherInstance | Reply::Huge => 0.5,
            Reply::Refuse => {
                let reason = AiRefusalReason::ImageQuality.into();
                let refusal = AiRefusal { reason, detail: "blurred".into() };
                response.outcome = Some(Outcome::Refusal(refusal));
                return Ok(Response::new(response));
            }
            Reply::Fail(code) => return Err(Status::new(code, "told to fail")),
            Reply::Hang => std::future::pending().await,
            Reply::Hold(p) => {
                self.held.0.acquire().await.unwrap().forget();
                p
            }
        };
        let mut result =
            AiResult { abnormal_probability: probability, summary: "seen".into(), findings: vec![] };
        match reply {
            Reply::OtherInstance => {
                result
                    .findings
                    .push(AiFinding { sop_instance_uid: "1.2.3.9.9".into(), ..AiFinding::default() });
            }
            Reply::Huge => result.summary = "s".repeat(2 << 20),
            _ => {}
        }
        response.outcome = Some(Outcome::Result(result));
        Ok(Response::new(response))
    }

    async fn cancel(&self, request: Request<CancelRequest>) -> Result<Response<CancelResponse>, Status> {
        self.state.send_modify(|s| s.cancelled.push(request.into_inner().request_id));
        Ok(Response::new(CancelResponse {}))
    }
}
