//! AI dispatch: has studies analysed by vendors' services, beside everything else.
//!
//! For each service that a study's plan names there is one task for each revision. A task is claimed before the service
//! is called, the call bears the same request id in every attempt, and what comes back is held against the contract
//! before anybody sees it. Whatever a service does (answers nonsense, fails, hangs, is gone), its task ends by its
//! deadline, and nothing else waits: neither a case nor a read is ever touched here.

mod config;
mod error;
mod metrics;
mod plan;
mod reconcile;
mod rpc;
mod token;
mod vendor;

use std::sync::Arc;

use futures::StreamExt as _;
use isocenter_blobs::Blobs;
use isocenter_domain::key::{AiTaskKey, StudyKey, shard_of};
use isocenter_reconcile::{Feed, Hooks, Key, KeySource, Options, Queue, Reconciler, Runner};
use isocenter_runtime::{secret::Secret, task::Tasks};
use isocenter_store::{
    members::Shares,
    table::{Mirrors, Tables},
};
use isocenter_wire::v1::ai_dispatch_server::AiDispatchServer;
use tokio_util::sync::CancellationToken;

use crate::{
    metrics::Metrics,
    reconcile::{
        Core,
        analyses::Analyses,
        calls::Calls,
        gate::Gate,
        sources::{StudySource, TaskSource},
        studies::Studies,
    },
    vendor::Vendors,
};

pub use crate::{
    config::{Breaker, Config},
    error::Error,
};

/// What AI dispatch stands on.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The records.
    pub tables: Tables,
    /// Their caches.
    pub mirrors: Mirrors,
    /// The shards that this process works on.
    pub shares: Shares,
    /// Manifests, pixels and results.
    pub blobs: Blobs,
    /// Where its metrics are registered, once in a process.
    pub metrics: isocenter_runtime::metrics::Metrics,
    /// Ends it; calls under way are given back.
    pub tasks: Tasks,
    /// The network's secret, of which request ids and tokens for pixels are made.
    pub secret: Secret,
    /// Where vendors reach this service's `FetchInstances`: `http://host:port`, or `https`.
    pub fetch_address: String,
    /// With what services are called whose address says `https`; without it they cannot be.
    pub tls: Option<isocenter_runtime::tls::Client>,
}

/// AI dispatch, built and not yet running. Any number of them may run over one store; each holds a service to its limit
/// by itself.
pub struct Service {
    studies: Work<StudyKey>,
    tasks: Work<AiTaskKey>,
    rpc: rpc::Rpc,
    metrics: Metrics,
    gate: Gate,
    ended: CancellationToken,
}

/// One kind of key, what finds its keys and what is done about them.
struct Work<K> {
    name: &'static str,
    queue: Queue<K>,
    reconciler: Arc<dyn Reconciler<Key = K>>,
    source: Arc<dyn KeySource<Key = K>>,
    shares: Shares,
}

impl<K: Key> Work<K> {
    async fn run(self, hooks: Hooks, ended: CancellationToken) {
        let Self { name, queue, reconciler, source, shares } = self;
        let runner = Runner::new(Options::new(name), hooks);
        tokio::join!(
            Feed::new(name).run(source, Arc::new(shares), queue.clone(), ended.clone()),
            runner.run(queue, reconciler, ended),
        );
    }
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service")
            .field("studies", &self.studies.queue)
            .field("tasks", &self.tasks.queue)
            .finish_non_exhaustive()
    }
}

impl Service {
    /// Puts the parts together. Reads and calls nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that make no sense.
    pub fn build(config: Config, deps: Deps) -> Result<Self, Error> {
        config.check()?;
        let Deps { tables, mirrors, shares, blobs, metrics, tasks, secret, fetch_address, tls } = deps;
        let metrics = Metrics::new(&metrics);
        let clock = Arc::clone(tables.clock());
        let queue = Queue::new(Arc::clone(&clock));
        let gate = Gate::new(queue.clone(), config.tolerance());
        let core = Core {
            tables,
            blobs: blobs.clone(),
            secret: secret.clone(),
            vendors: Vendors::new(gate.clone(), tasks.clone(), Arc::clone(&clock), config.describe.0, tls),
            calls: Calls::default(),
            metrics: metrics.clone(),
        };
        let services = rpc::services::Services {
            vendors: core.vendors.clone(),
            gate: gate.clone(),
            registry: mirrors.of(),
            shares: shares.clone(),
            process: fetch_address.split_once("://").map_or(fetch_address.as_str(), |(_, at)| at).to_owned(),
        };
        let studies = Studies::new(core.clone(), &mirrors);
        let ended = tasks.token();
        let analyses = Analyses {
            core,
            config,
            known: mirrors.of(),
            gate: gate.clone(),
            queue: queue.clone(),
            tasks,
            fetch_address: fetch_address.as_str().into(),
            shares: shares.clone(),
        };
        let rpc = rpc::Rpc {
            blobs,
            secret,
            clock: Arc::clone(&clock),
            registry: mirrors.of(),
            tasks: mirrors.of(),
            metrics: metrics.clone(),
            streams: Arc::default(),
            services,
        };
        let studies = Work {
            name: "ai-studies",
            queue: Queue::new(clock),
            reconciler: Arc::new(studies),
            source: Arc::new(StudySource::new(&mirrors)),
            shares: shares.clone(),
        };
        let source = Arc::new(TaskSource::new(&mirrors));
        let tasks = Work { name: "ai-tasks", queue, reconciler: Arc::new(analyses), source, shares };
        Ok(Self { studies, tasks, rpc, metrics, gate, ended })
    }

    /// Adds this role's gRPC service. Fetching needs no principal: the token in it is the credential.
    pub fn routes(&self, routes: &mut tonic::service::RoutesBuilder) {
        routes.add_service(AiDispatchServer::new(self.rpc.clone()));
    }

    /// Works until the tasks' token is cancelled.
    ///
    /// # Errors
    /// None so far: whatever fails is tried again.
    pub async fn run(self) -> Result<(), Error> {
        let Self { studies, tasks, metrics, gate, ended, .. } = self;
        let shares = tasks.shares.clone();
        tokio::join!(
            studies.run(metrics.hooks.clone(), ended.clone()),
            tasks.run(metrics.hooks, ended.clone()),
            review(gate, shares, ended),
        );
        Ok(())
    }
}

/// Has tasks leave the line when their shards go to another process.
async fn review(gate: Gate, shares: Shares, ended: CancellationToken) {
    let mut moved = shares.changes();
    loop {
        tokio::select! {
            () = ended.cancelled() => return,
            moved = moved.next() => match moved {
                Some(()) => gate.review(|task| shares.owns(shard_of(task))),
                // Membership has ended with the process.
                None => return,
            },
        }
    }
}
