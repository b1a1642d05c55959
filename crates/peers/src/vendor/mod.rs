//! A vendor of AI services: `AiInference` on a port of its own, with the sample algorithms behind it.
//!
//! It keeps the contract that a real vendor has to keep (`isocenter/v1/ai.proto`): it fetches pixels with the token of
//! the task, checks their SHA-256, answers a repeated request with the first answer, stops on Cancel, and takes no more
//! than it said it would. [`Misbehaviour`] makes it break the contract in the ways that the other side must survive.
//! It speaks plaintext and is for loopback.

pub mod conformance;
mod fetch;
mod jobs;
mod service;

use std::{io, net::SocketAddr, sync::Arc, time::Duration};

use isocenter_runtime::task::Tasks;
use isocenter_wire::v1::ai_inference_server::AiInferenceServer;
use parking_lot::Mutex;
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::sample::Algorithm;
use jobs::Jobs;

/// How the vendor treats what comes next.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Misbehaviour {
    /// As the contract says.
    #[default]
    None,
    /// Answers with a probability that is not a number.
    Garbage,
    /// Never answers; Cancel and the end of the server end it.
    Hang,
    /// Answers for another study.
    WrongStudy,
    /// Refuses everything, for image quality.
    RefuseAll,
    /// Answers rightly, this much later.
    Slow(Duration),
    /// Fails with INTERNAL.
    Error,
}

/// What a vendor offers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VendorConfig {
    /// Which algorithm.
    pub algorithm: Algorithm,
    /// Analyses at once, from 1; what comes beyond is answered RESOURCE_EXHAUSTED.
    pub max_concurrency: u32,
}

impl VendorConfig {
    /// The algorithm, two studies at a time.
    #[must_use]
    pub const fn new(algorithm: Algorithm) -> Self {
        Self { algorithm, max_concurrency: 2 }
    }
}

/// What happened so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct VendorCounts {
    /// Calls of Analyze.
    pub requests: u64,
    /// Of these, answered with the work of an earlier call of the same request id.
    pub deduplicated: u64,
    /// Of these, turned away because the vendor was busy.
    pub turned_away: u64,
    /// Analyses begun.
    pub begun: u64,
    /// Analyses that ended with a result.
    pub results: u64,
    /// Analyses that ended with a refusal.
    pub refusals: u64,
    /// Analyses that failed: pixels could not be fetched, did not have their digest, or [`Misbehaviour::Error`].
    pub failures: u64,
    /// Analyses that Cancel ended.
    pub cancelled: u64,
    /// Instances fetched, digest checked.
    pub instances: u64,
}

/// A running vendor. Dropping the handle stops nothing: the task group does.
#[derive(Clone)]
pub struct Vendor {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// What the calls of one vendor share.
struct Shared {
    config: VendorConfig,
    misbehaviour: Mutex<Misbehaviour>,
    jobs: Mutex<Jobs>,
    counts: watch::Sender<VendorCounts>,
    tasks: Tasks,
    stop: CancellationToken,
}

impl Vendor {
    /// Listens at `bind` (port 0: any free one) until `tasks` are cancelled.
    ///
    /// # Errors
    /// If the address cannot be bound.
    pub async fn start(bind: SocketAddr, config: VendorConfig, tasks: &Tasks) -> io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared {
            config,
            misbehaviour: Mutex::default(),
            jobs: Mutex::default(),
            counts: watch::Sender::default(),
            tasks: tasks.clone(),
            stop: tasks.token(),
        });
        let service = AiInferenceServer::new(service::Inference { shared: Arc::clone(&shared) });
        let (health, health_service) = tonic_health::server::health_reporter();
        health.set_serving::<AiInferenceServer<service::Inference>>().await;
        let stop = tasks.token();
        tasks.background("sample vendor", async move {
            let serving = tonic::transport::Server::builder()
                .add_service(service)
                .add_service(health_service)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), stop.cancelled_owned());
            if let Err(error) = serving.await {
                tracing::error!(error = %isocenter_runtime::task::chain(&error), "sample vendor ended");
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// The address as the registry takes it: `http://host:port`.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Does this with analyses that begin from now on.
    pub fn misbehave(&self, how: Misbehaviour) {
        *self.shared.misbehaviour.lock() = how;
    }

    /// What happened so far.
    #[must_use]
    pub fn counts(&self) -> VendorCounts {
        *self.shared.counts.borrow()
    }

    /// Waits until `enough` holds of the counts, now or later; returns the counts for which it held.
    pub async fn until(&self, enough: impl FnMut(&VendorCounts) -> bool) -> VendorCounts {
        let mut counts = self.shared.counts.subscribe();
        *counts.wait_for(enough).await.expect("the sender lives in the same handle")
    }
}

impl std::fmt::Debug for Vendor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Vendor")
            .field("address", &self.address)
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}
