//! Routing: decides by the network's policy what becomes of each complete study, and keeps the policy and the registry.
//!
//! Guarantees, each with a test:
//! - Every complete revision of a study is decided once: one transaction writes the plan and the case and compares the
//!   study, however many of these services run.
//! - A study that is complete after a policy was applied is decided by that policy; one that was decided before keeps its
//!   plan. A policy that cannot be read never makes a study wait.
//! - A case is readable from its plan on; nothing waits for AI. A late image never takes a case back.
//! - An AE title names one site of the cell.

mod config;
mod error;
mod metrics;
pub mod plan;
mod policies;
mod reconcile;
mod rpc;

use std::sync::Arc;

use isocenter_blobs::Blobs;
use isocenter_domain::key::StudyKey;
use isocenter_reconcile::{Feed, Options, Queue, Runner};
use isocenter_runtime::{secret::Secret, task::Tasks};
use isocenter_store::{
    members::Shares,
    table::{Mirrors, Tables},
};
use isocenter_wire::v1::{registry_server::RegistryServer, routing_server::RoutingServer};
use tokio_util::sync::CancellationToken;

pub use crate::{config::Config, error::Error};
use crate::{
    metrics::Metrics,
    policies::Policies,
    reconcile::{Studies, StudyMirrors, StudySource},
    rpc::{registry::RegistryRpc, routing::RoutingRpc},
};

/// What routing stands on.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The records.
    pub tables: Tables,
    /// Their caches.
    pub mirrors: Mirrors,
    /// The shards that this process works on.
    pub shares: Shares,
    /// Manifests and policy texts.
    pub blobs: Blobs,
    /// Where its metrics are registered, once in a process.
    pub metrics: isocenter_runtime::metrics::Metrics,
    /// Ends it.
    pub tasks: Tasks,
    /// Makes the reference of a study that has no accession.
    pub secret: Secret,
}

/// Routing, built and not yet running. Any number of them may run over one store.
pub struct Service {
    queue: Queue<StudyKey>,
    studies: Arc<Studies>,
    source: Arc<StudySource>,
    shares: Shares,
    routing: RoutingRpc,
    registry: RegistryRpc,
    metrics: Metrics,
    ended: CancellationToken,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("queue", &self.queue).finish_non_exhaustive()
    }
}

impl Service {
    /// Puts the parts together. Reads and sends nothing; the mirrors begin to follow the store.
    ///
    /// # Errors
    /// None so far: there is nothing to set.
    pub fn build(config: Config, deps: Deps) -> Result<Self, Error> {
        let Config {} = config;
        let Deps { tables, mirrors, shares, blobs, metrics, tasks, secret } = deps;
        let metrics = Metrics::new(&metrics);
        let mirrors = StudyMirrors::new(&mirrors);
        let policies = Arc::new(Policies::new(tables.clone(), blobs.clone(), metrics.clone()));
        Ok(Self {
            queue: Queue::new(Arc::clone(tables.clock())),
            source: Arc::new(StudySource(mirrors.clone())),
            shares,
            routing: RoutingRpc::new(tables.clone(), blobs.clone(), Arc::clone(&policies)),
            registry: RegistryRpc::new(tables.clone()),
            studies: Arc::new(Studies { tables, mirrors, blobs, secret, policies, metrics: metrics.clone() }),
            metrics,
            ended: tasks.token(),
        })
    }

    /// Adds this role's gRPC services: `Routing` and `Registry`.
    pub fn routes(&self, routes: &mut tonic::service::RoutesBuilder) {
        routes.add_service(RoutingServer::new(self.routing.clone()));
        routes.add_service(RegistryServer::new(self.registry.clone()));
    }

    /// Works until the tasks' token is cancelled, and then until the decisions that have begun are committed.
    ///
    /// # Errors
    /// None so far: whatever fails is tried again.
    pub async fn run(self) -> Result<(), Error> {
        let Self { queue, studies, source, shares, metrics, ended, .. } = self;
        let runner = Runner::new(Options::new("studies"), metrics.hooks);
        tokio::join!(
            Feed::new("studies").run(source, Arc::new(shares), queue.clone(), ended.clone()),
            runner.run(queue, studies, ended),
        );
        Ok(())
    }
}
