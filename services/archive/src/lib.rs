//! Archive: journals every event, projects the journal into SQL, closes what is finished and brings it back when images
//! come late, and proves that nothing received is lost on the way to a delivered report.
//!
//! Guarantees, each with a test:
//! - An event leaves the outbox only when it is durably in the journal, and in the records or noted as owed to them. A crash
//!   between any two steps journals it again at worst; the records, which go only upward, do not notice.
//! - Records that do not serve stop nothing but what is asked of them: the journal goes on, and they catch up.
//! - The records follow from the journal alone: [`replay`] on empty tables makes equal ones.
//! - A unit (a case with its studies) is closed in one transaction that rests on everything about it; a late image wins
//!   or reopens it. Reopened records bear the same ids, and their change counters go on.
//! - Two changes under one counter are found and counted as an alarm; both are kept.

mod arrivals;
mod compare;
mod config;
mod error;
mod group;
mod item;
mod metrics;
mod operate;
pub mod plan;
mod reconcile;
mod records;
mod replay;
mod restore;
mod rpc;
#[cfg(test)]
mod tests;

use std::{sync::Arc, time::Duration};

use isocenter_blobs::Blobs;
use isocenter_domain::{id::TenantId, key::StudyKey};
use isocenter_reconcile::{Feed, Options, Queue, Runner};
use isocenter_runtime::{clock::Clock, task::Tasks};
use isocenter_store::{
    members::Shares,
    table::{Mirrors, Tables},
};
use isocenter_wire::v1::archive_server::ArchiveServer;
use tokio_util::sync::CancellationToken;

use crate::{
    compare::Comparer,
    group::Group,
    metrics::Metrics,
    plan::Grace,
    reconcile::{
        close::Closer,
        drain::Drainer,
        outbox::Outbox,
        reopen::Reopener,
        source::{Live, Received},
    },
};
pub use crate::{
    config::Config,
    error::Error,
    records::{Gap, History, Migration, Records, Schema, Serving},
    replay::{Replayed, replay},
    restore::restore,
};

/// How often the gauges of the outbox are made fresh: as often as they are scraped, about.
const OBSERVE: Duration = Duration::from_secs(15);

/// Groups drained at a time: SQL has one writer, so that more would only wait for it.
const DRAINERS: usize = 4;

/// What the archive stands on.
#[derive(Clone, Debug)]
pub struct Deps {
    /// The live records.
    pub tables: Tables,
    /// Their caches.
    pub mirrors: Mirrors,
    /// The shards that this process works on.
    pub shares: Shares,
    /// Journal, heads, manifests, report bodies.
    pub blobs: Blobs,
    /// The records (SQL).
    pub records: Records,
    /// Whose operators may ask for what concerns every tenant: the tenant that runs the cell.
    pub operator: TenantId,
    /// Where its metrics are registered, once in a process.
    pub metrics: isocenter_runtime::metrics::Metrics,
    /// Ends it.
    pub tasks: Tasks,
}

/// The archive, built and not yet running. Any number of them may run over one store.
pub struct Service {
    drainer: Arc<Drainer>,
    closer: Closer,
    reopener: Reopener,
    rpc: rpc::Rpc,
    deps: Deps,
    metrics: Metrics,
    ended: CancellationToken,
}

impl std::fmt::Debug for Service {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Service").field("deps", &self.deps).finish_non_exhaustive()
    }
}

impl Service {
    /// Puts the parts together. Reads and writes nothing.
    ///
    /// # Errors
    /// [`Error::Config`] for settings that make no sense.
    pub fn build(config: Config, deps: Deps) -> Result<Self, Error> {
        config.check()?;
        let metrics = Metrics::new(&deps.metrics);
        let Deps { tables, mirrors, blobs, records, operator, tasks, .. } = deps.clone();
        let grace = Grace { delivered: config.close_after.0, unread: config.close_unread_after.0 };
        let drainer = Drainer::new(
            tables.clone(),
            blobs.clone(),
            records.clone(),
            metrics.clone(),
            config.journal_interval.0,
        );
        let reopener = Reopener { tables: tables.clone(), blobs: blobs.clone(), metrics: metrics.clone() };
        let comparer = Comparer {
            tables: tables.clone(),
            mirrors: mirrors.clone(),
            blobs: blobs.clone(),
            records: records.clone(),
            reopener: reopener.clone(),
            config,
        };
        Ok(Self {
            drainer: Arc::new(drainer),
            closer: Closer {
                tables: tables.clone(),
                mirrors,
                blobs: blobs.clone(),
                metrics: metrics.clone(),
                grace,
            },
            reopener,
            rpc: rpc::Rpc {
                operator,
                tables,
                blobs,
                records,
                comparer: Arc::new(comparer),
                metrics: metrics.clone(),
                tasks: tasks.clone(),
            },
            deps,
            metrics,
            ended: tasks.token(),
        })
    }

    /// Adds this role's gRPC service.
    pub fn routes(&self, routes: &mut tonic::service::RoutesBuilder) {
        routes.add_service(ArchiveServer::new(self.rpc.clone()));
    }

    /// Works until the tasks' token is cancelled, and then until what was begun is over.
    ///
    /// # Errors
    /// None so far: whatever fails is tried again.
    pub async fn run(self) -> Result<(), Error> {
        let Self { drainer, closer, reopener, deps, metrics, ended, .. } = self;
        let clock = deps.tables.clock();
        let groups: Queue<Group> = Queue::new(Arc::clone(clock));
        let live: Queue<StudyKey> = Queue::new(Arc::clone(clock));
        let received: Queue<StudyKey> = Queue::new(Arc::clone(clock));
        let outbox = Arc::new(Outbox(Arc::clone(deps.tables.kv())));
        let hooks = &metrics.hooks;
        let share = || Arc::new(deps.shares.clone());
        let drain = Options { concurrency: DRAINERS, ..Options::new("journal") };
        tokio::join!(
            Feed::new("journal").run(outbox, share(), groups.clone(), ended.clone()),
            Runner::new(drain, hooks.clone()).run(groups, Arc::<Drainer>::clone(&drainer), ended.clone()),
            Feed::new("close").run(
                Arc::new(Live(deps.mirrors.clone())),
                share(),
                live.clone(),
                ended.clone()
            ),
            Runner::new(Options::new("close"), hooks.clone()).run(live, closer.shared(), ended.clone()),
            Feed::new("reopen").run(
                Arc::new(Received(deps.mirrors.clone())),
                share(),
                received.clone(),
                ended.clone()
            ),
            Runner::new(Options::new("reopen"), hooks.clone()).run(
                received,
                Arc::new(reopener),
                ended.clone()
            ),
            observe(&drainer, ended.clone()),
            drainer.follow(&deps.shares, ended.clone()),
            deps.records.keep(ended.clone()),
            told(&deps.records, &metrics, clock.as_ref(), ended.clone()),
        );
        Ok(())
    }
}

/// Keeps the gauge of the records true.
async fn told(records: &Records, metrics: &Metrics, clock: &dyn Clock, ended: CancellationToken) {
    let mut serving = records.watch();
    loop {
        let serves = *serving.borrow_and_update() == Serving::Yes;
        metrics.serving.set(i64::from(serves));
        if serves {
            metrics.down_since.set(0);
        } else if metrics.down_since.get() == 0 {
            metrics.down_since.set(clock.now().0 / 1_000_000);
        }
        tokio::select! {
            () = ended.cancelled() => return,
            // The sender lives as long as the records.
            _ = serving.changed() => {}
        }
    }
}

async fn observe(drainer: &Drainer, ended: CancellationToken) {
    loop {
        if let Err(e) = drainer.observe().await {
            tracing::warn!(error = %isocenter_runtime::task::chain(&e), "the outbox could not be counted");
        }
        tokio::select! {
            () = ended.cancelled() => return,
            () = tokio::time::sleep(OBSERVE) => {}
        }
    }
}
