//! Report delivery: takes each signed report to every destination of its case, until each has accepted it.
//!
//! Guarantees, each with a test:
//! - Every signed report has one delivery for each destination of its case ([`plan::missing`]).
//! - A delivery is sent until the receiver's application accepts it, always under the same message id (MSH-10), so that
//!   a receiver that has it already says so instead of taking it twice.
//! - On a lane (one accession, one destination) at most one message is under way, and a correction never leaves before
//!   the report it corrects is accepted. A dead letter holds its lane until a person replays it.
//! - A destination that does not answer holds up its own reports only.
//! - A destination of gRPC fetches its reports: each comes until the receiver acknowledges it, to one stream at a time.

mod config;
mod error;
mod message;
mod metrics;
pub mod plan;
mod reconcile;
mod rpc;

use std::{sync::Arc, time::Duration};

use isocenter_blobs::Blobs;
use isocenter_domain::{
    key::{CaseKey, LaneKey},
    record::delivery::Delivery,
};
use isocenter_reconcile::{Feed, Hooks, Key, KeySource, Options, Queue, Reconciler, Runner};
use isocenter_runtime::task::Tasks;
use isocenter_store::{
    members::Shares,
    table::{Mirror, Mirrors, Tables},
};
use isocenter_wire::v1::report_delivery_server::ReportDeliveryServer;
use tokio_util::sync::CancellationToken;

pub use crate::{config::Config, error::Error};
use crate::{
    metrics::Metrics,
    reconcile::{
        book::Book,
        cases::{CaseMirrors, CaseSource, Cases},
        gate::Gate,
        lanes::Lanes,
        send::Preparer,
    },
    rpc::watch::Watches,
};

/// Lanes that send at a time, over all destinations: with four for each destination, fifteen may be dead and the
/// sixteenth still has room. A sender costs a connection and one message in memory.
const SENDERS: usize = 64;

/// How often the gauges of deliveries are made fresh: as often as they are scraped, about.
const OBSERVE: Duration = Duration::from_secs(15);

/// What report delivery stands on.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The records.
    pub tables: Tables,
    /// Their caches.
    pub mirrors: Mirrors,
    /// The shards that this process works on.
    pub shares: Shares,
    /// Report bodies and manifests.
    pub blobs: Blobs,
    /// Where its metrics are registered, once in a process.
    pub metrics: isocenter_runtime::metrics::Metrics,
    /// Our side of TLS, where destinations are reached by MLLP over it.
    pub tls: Option<isocenter_runtime::tls::Client>,
    /// Ends it.
    pub tasks: Tasks,
}

/// Report delivery, built and not yet running. Any number of them may run over one store.
pub struct Service {
    cases: Control<CaseKey>,
    lanes: Control<LaneKey>,
    rpc: rpc::Rpc,
    gauges: Gauges,
    ended: CancellationToken,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (cases, lanes) = (&self.cases.queue, &self.lanes.queue);
        f.debug_struct("Service").field("cases", cases).field("lanes", lanes).finish_non_exhaustive()
    }
}

/// One kind of key: where its keys come from, where they wait, and what is done about them.
struct Control<K> {
    options: Options,
    queue: Queue<K>,
    reconciler: Arc<dyn Reconciler<Key = K>>,
    source: Arc<dyn KeySource<Key = K>>,
    shares: Shares,
}

impl<K: Key> Control<K> {
    async fn run(self, hooks: &Hooks, ended: &CancellationToken) {
        let feed = Feed::new(self.options.name);
        let feed = feed.run(self.source, Arc::new(self.shares), self.queue.clone(), ended.clone());
        let runner = Runner::new(self.options, hooks.clone()).run(self.queue, self.reconciler, ended.clone());
        tokio::join!(feed, runner);
    }
}

/// What the gauges are made of.
struct Gauges {
    deliveries: Mirror<Delivery>,
    config: Config,
    metrics: Metrics,
    tables: Tables,
}

impl Service {
    /// Puts the parts together. Reads and sends nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that make no sense.
    pub fn build(config: Config, deps: Deps) -> Result<Self, Error> {
        config.check()?;
        let metrics = Metrics::new(&deps.metrics);
        let clock = deps.tables.clock();
        let mirrors = CaseMirrors::new(&deps.mirrors);
        let cases = Control {
            options: Options::new("deliveries"),
            queue: Queue::new(Arc::clone(clock)),
            source: Arc::new(CaseSource(mirrors.clone())),
            shares: deps.shares.clone(),
            reconciler: Arc::new(Cases { tables: deps.tables.clone(), mirrors, metrics: metrics.clone() }),
        };
        let queue = Queue::new(Arc::clone(clock));
        let book =
            Book { tables: deps.tables.clone(), schedule: config.schedule(), metrics: metrics.clone() };
        let preparer = Arc::new(Preparer {
            tables: deps.tables.clone(),
            registry: deps.mirrors.of(),
            blobs: deps.blobs,
            tls: deps.tls,
        });
        let gate = Gate::new(queue.clone());
        let (reconciler, source) =
            Lanes::new(&deps.mirrors, book.clone(), Arc::clone(&preparer), gate, config.clone());
        // A claim, and a minute for store and blobs.
        let deadline = config.claim().saturating_add(Duration::from_secs(60));
        let options = Options { concurrency: SENDERS, deadline, ..Options::new("lanes") };
        let (reconciler, source) = (Arc::new(reconciler), Arc::new(source));
        let lanes = Control { options, queue, reconciler, source, shares: deps.shares };
        let deliveries: Mirror<Delivery> = deps.mirrors.of();
        let ended = deps.tasks.token();
        let within = config.acknowledge_within.0;
        let watches = Watches::new(book, preparer, deliveries.clone(), within, deps.tasks);
        Ok(Self {
            cases,
            lanes,
            rpc: rpc::Rpc::new(watches),
            gauges: Gauges { deliveries, config, metrics, tables: deps.tables },
            ended,
        })
    }

    /// Adds this role's gRPC service.
    pub fn routes(&self, routes: &mut tonic::service::RoutesBuilder) {
        routes.add_service(ReportDeliveryServer::new(self.rpc.clone()));
    }

    /// Works until the tasks' token is cancelled, and then until the attempts that have begun are over.
    ///
    /// # Errors
    /// None so far: whatever fails is tried again.
    pub async fn run(self) -> Result<(), Error> {
        let Self { cases, lanes, gauges, ended, .. } = self;
        let hooks = &gauges.metrics.hooks;
        tokio::join!(cases.run(hooks, &ended), lanes.run(hooks, &ended), gauges.run(&ended));
        Ok(())
    }
}

impl Gauges {
    async fn run(&self, ended: &CancellationToken) {
        loop {
            let all = self.deliveries.all();
            self.metrics.observe(all.iter().map(|d| &d.record), &self.config, self.tables.clock().now());
            tokio::select! {
                () = ended.cancelled() => return,
                () = tokio::time::sleep(OBSERVE) => {}
            }
        }
    }
}
