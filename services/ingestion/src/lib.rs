//! Ingestion: makes every instance durable before it answers, assembles studies, and states when each is complete and on
//! what evidence.
//!
//! An instance's way: [`spool`] (durable, acknowledged) → blobs, by the mover → this node's segment → its intake record.
//! A study is complete when all nodes' intakes say so; then their segments are merged into the next revision's manifest.
//!
//! ```text
//! scp ──► spool ──► ledger ──► mover ──► blobs, intake record
//!                                             │ watch
//!                                             ▼
//!                                     reconcile: manifest, study record
//! ```

mod adopt;
mod config;
mod error;
mod intake;
mod ledger;
mod metrics;
mod mover;
mod plan;
mod reconcile;
mod rpc;
mod scp;
mod sites;
pub mod spool;
mod stages;
mod unlisted;

use std::{collections::HashMap, net::SocketAddr, sync::Arc, time::Duration};

use futures::future::join_all;
use isocenter_blobs::Blobs;
use isocenter_dimse::scp::Listener;
use isocenter_domain::{id::NodeId, key::StudyKey, record::intake::Intake};
use isocenter_reconcile::{Feed, Hooks, Options, Queue, Runner};
use isocenter_runtime::{
    config::Period, fs::Fs, metrics::Metrics, retry::Schedule, secret::Secret, task::Tasks, tls::Tls,
};
use isocenter_store::{
    members::Shares,
    space::Space,
    table::{Mirrors, Tables},
};
use isocenter_wire::v1::ingestion_server::IngestionServer;
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::{
    adopt::Adopter,
    intake::Intakes,
    ledger::Ledger,
    metrics::Meters,
    mover::{Mover, blocking},
    reconcile::{Completer, Source},
    scp::{Receiver, Shared},
    sites::Sites,
    spool::Spool,
};
pub use crate::{
    config::{Ack, Assembly, Config, Dicom},
    error::Error,
};

/// How long a drain waits, after the last association, for what is pending to reach blobs. What does not is in the spool.
const SETTLE: Duration = Duration::from_secs(5);

/// How often a drain looks whether everything is settled.
const LOOK: Duration = Duration::from_millis(50);

/// How often the gauges of stages are made fresh.
const STAGES: Duration = Duration::from_secs(5);

/// What ingestion is given.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The records, and with them the clock.
    pub tables: Tables,
    /// Their caches.
    pub mirrors: Mirrors,
    /// The shards whose studies this node completes. What it receives is its own to keep account of.
    pub shares: Shares,
    /// Whether the store has room for new studies.
    pub space: Space,
    /// Where instances, segments and manifests go.
    pub blobs: Blobs,
    /// The file system of the spool. It must be the machine's own where instances are to reach blobs.
    pub fs: Arc<dyn Fs>,
    /// Where metrics are registered.
    pub metrics: Metrics,
    /// What runs here, and when it ends.
    pub tasks: Tasks,
    /// The network's secret: makes the references to patients and accessions.
    pub secret: Secret,
}

/// One ingestion node.
#[derive(Debug)]
pub struct Service {
    shared: Arc<Shared>,
    mover: Arc<Mover>,
    completer: Arc<Completer>,
    hooks: Hooks,
    listener: isocenter_dimse::scp::Config,
    bound: Option<Listener>,
    secured: Option<Listener>,
    deps: Deps,
}

impl Service {
    /// Makes the node of the spool in `config`. Opens that folder, which blocks for a moment; nothing else is touched.
    ///
    /// # Errors
    /// [`Error::Config`] and [`Error::Spool`].
    pub fn build(config: Config, deps: Deps) -> Result<Self, Error> {
        let meters = Meters::new(&deps.metrics);
        let hooks = Hooks::new(&deps.metrics.scoped(intake::ROLE));
        let called = config.dicom.called()?;
        // What associations bring up to their end has to reach blobs within the same drain.
        let associations = config.drain.0.saturating_sub(SETTLE).max(config.drain.0 / 2);
        let listener = config.dicom.listener(Period(associations))?;
        let spool = Spool::open(Arc::clone(&deps.fs), &config.spool, config.dicom.min_free.0)?;
        let intakes = Intakes {
            tables: deps.tables.clone(),
            blobs: deps.blobs.clone(),
            ledger: Ledger::new(meters.clone()),
            node: spool.node().clone(),
        };
        let sites = Sites::open(deps.mirrors.clone(), &spool)?;
        let adopter = Adopter::new(intakes.clone(), deps.mirrors.clone(), sites.clone());
        let shared = Arc::new(Shared {
            spool: spool.clone(),
            intakes: intakes.clone(),
            sites,
            queue: Queue::new(Arc::clone(deps.tables.clock())),
            meters: meters.clone(),
            called,
            space: deps.space.clone(),
            ack: config.dicom.ack,
            max_pending: config.dicom.max_pending,
        });
        let mover = Arc::new(Mover {
            spool,
            intakes,
            mirrors: deps.mirrors.clone(),
            meters: meters.clone(),
            adopter: Arc::new(adopter),
        });
        let completer = Arc::new(Completer {
            tables: deps.tables.clone(),
            mirrors: deps.mirrors.clone(),
            blobs: deps.blobs.clone(),
            secret: deps.secret.clone(),
            assembly: config.study,
            meters,
            compared: Mutex::new(HashMap::new()),
        });
        Ok(Self { shared, mover, completer, hooks, listener, bound: None, secured: None, deps })
    }

    /// This node's id, the same as long as its spool lives.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        self.shared.spool.node()
    }

    /// Binds the DICOM listener and answers its address, with the port the system chose. Connections wait until
    /// [`Service::run`]. Where this is not called, `run` binds.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn bind(&mut self) -> Result<SocketAddr, Error> {
        let address = self.listener.bind;
        let failed = |source| Error::Listen { address, source };
        let bound = match self.bound.take() {
            Some(bound) => bound,
            None => Listener::bind(self.listener.clone()).await.map_err(failed)?,
        };
        let address = bound.local_addr().map_err(failed)?;
        self.bound = Some(bound);
        Ok(address)
    }

    /// Binds a second DICOM listener, which speaks TLS, at `address`, and answers its address. The bounds of the first hold for it,
    /// each for itself.
    ///
    /// # Errors
    /// [`Error::Listen`].
    pub async fn bind_tls(&mut self, address: SocketAddr, tls: Tls) -> Result<SocketAddr, Error> {
        let failed = |source| Error::Listen { address, source };
        let listener =
            isocenter_dimse::scp::Config { bind: address, tls: Some(tls), ..self.listener.clone() };
        let secured = Listener::bind(listener).await.map_err(failed)?;
        let bound = secured.local_addr().map_err(failed)?;
        self.secured = Some(secured);
        Ok(bound)
    }

    /// Adds the service `isocenter.v1.Ingestion`.
    pub fn routes(&self, routes: &mut tonic::service::RoutesBuilder) {
        let Deps { mirrors, tasks, .. } = &self.deps;
        routes.add_service(IngestionServer::new(rpc::Studies::new(
            mirrors.clone(),
            Arc::clone(&self.completer),
            tasks.token(),
        )));
    }

    /// Receives, moves and completes until the tasks' token is cancelled; then lets running associations end, within the
    /// drain's bound, and what they brought reach blobs, as far as that takes seconds.
    ///
    /// # Errors
    /// [`Error::Listen`], and [`Error::Spool`] where what an earlier process left cannot be listed.
    pub async fn run(mut self) -> Result<(), Error> {
        self.bind().await?;
        self.recover().await?;
        let Self { shared, mover, completer, hooks, bound, secured, deps, .. } = self;
        let Deps { tasks, tables, mirrors, shares, .. } = deps;
        let clock = Arc::clone(tables.clock());
        let drain = tasks.token();
        // The mover goes on while the listener drains.
        let moving = CancellationToken::new();
        let options = Options { retry: MOVE_RETRY, ..Options::new("mover") };
        let adopt = Arc::clone(&mover.adopter).watch(shared.queue.clone());
        tasks.background("adoption", until(drain.clone(), adopt));
        let run = Runner::new(options, hooks.clone()).run(shared.queue.clone(), mover, moving.clone());
        tasks.background("mover", run);
        let reset = reset_intakes(Arc::clone(&shared), mirrors.clone());
        tasks.background("intake reset", until(drain.clone(), reset));
        let remember = sites::remember(mirrors.clone(), shared.spool.clone());
        tasks.background("sites", until(drain.clone(), remember));
        let queue = Queue::new(Arc::clone(&clock));
        let source = Arc::new(Source(mirrors.clone()));
        let feed = Feed::new("studies").run(source, Arc::new(shares), queue.clone(), drain.clone());
        tasks.background("studies feed", feed);
        let stages = stages::watch(mirrors, clock, shared.meters.clone(), STAGES);
        tasks.background("stages", until(drain.clone(), stages));
        // What no node lists of a lost node's studies is read whole, gigabytes of it.
        let options = Options { deadline: COMPLETION, ..Options::new("completer") };
        tasks.background("completer", Runner::new(options, hooks).run(queue, completer, drain.clone()));

        let listeners = [bound, secured].into_iter().flatten();
        let receive =
            |listener: Listener| listener.run(Arc::new(Receiver(Arc::clone(&shared))), drain.clone());
        join_all(listeners.map(receive)).await;
        settle(&shared).await;
        moving.cancel();
        Ok(())
    }

    /// Takes account of what an earlier process left in the spool.
    async fn recover(&self) -> Result<(), Error> {
        let spool = self.shared.spool.clone();
        let found = blocking(move || spool.recover()).await??;
        if !found.is_empty() {
            tracing::info!(instances = found.len(), "the spool holds instances of an earlier run");
        }
        let now = self.deps.tables.clock().now();
        for ready in found {
            let study = ready.study.clone();
            self.shared.intakes.ledger.recovered(ready, now);
            self.shared.queue.wake(study);
        }
        Ok(())
    }
}

/// When a study is tried again that could not be moved: the store or blobs may be away for long, and are back at once.
const MOVE_RETRY: Schedule = Schedule::new(Duration::from_millis(250), Duration::from_secs(10));

/// The longest that completing one study may take.
const COMPLETION: Duration = Duration::from_secs(15 * 60);

async fn until(ended: CancellationToken, work: impl Future<Output = ()>) {
    tokio::select! {
        () = ended.cancelled() => {}
        () = work => {}
    }
}

/// Writes anew the intake records of an earlier process of this node, whose associations are gone with it.
async fn reset_intakes(shared: Arc<Shared>, mirrors: Mirrors) {
    let intakes = mirrors.of::<Intake>();
    intakes.synced().await;
    for stored in intakes.all() {
        if stored.key.node == *shared.spool.node() && !stored.record.settled() {
            let study = StudyKey { tenant: stored.key.tenant.clone(), study: stored.key.study.clone() };
            shared.intakes.ledger.touch(&study);
            shared.queue.wake(study);
        }
    }
}

/// After the last association: waits until nothing is pending, within a bound.
async fn settle(shared: &Shared) {
    for study in shared.intakes.ledger.studies() {
        shared.queue.wake(study);
    }
    let settled = async {
        while !shared.intakes.ledger.is_empty() {
            tokio::time::sleep(LOOK).await;
        }
    };
    if tokio::time::timeout(SETTLE, settled).await.is_err() {
        tracing::info!("instances stay in the spool for the next start");
    }
}
