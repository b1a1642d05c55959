//! Reader assignment: one ordered, explainable queue over every radiologist, and the one place where a read is in a
//! reader's hands.
//!
//! Only offers need the leader; its queue is in memory and kept from the mirrors on every replica. Opening, returning and
//! signing are compare-and-swap anywhere. A read and its holder's hands are always changed in one transaction, which is
//! why a read is open with one reader at most and a reader has one read open at most.

mod arrive;
mod ask;
mod basis;
mod board;
mod calls;
mod config;
mod desk;
mod error;
mod forward;
mod hold;
mod leader;
mod lease;
mod ledger;
mod list;
mod metrics;
mod offer;
mod outlook;
mod people;
mod plan;
mod presence;
mod reconcile;
mod rpc;
mod session;
mod show;
mod sign;
mod tally;
mod transfer;
mod view;
mod watch;

use std::sync::Arc;

use isocenter_blobs::Blobs;
use isocenter_reconcile::{Feed, Hooks, Options, Queue, Runner};
use isocenter_runtime::{metrics::Metrics, nodes::Nodes, task::Tasks};
use isocenter_store::{
    members::Shares,
    table::{Mirrors, Tables},
};
use isocenter_wire::v1::reader_assignment_server::ReaderAssignmentServer;
use tokio::sync::Semaphore;
use tonic::service::RoutesBuilder;

use crate::{
    board::Board,
    desk::Desk,
    leader::{Campaign, Leadership},
    metrics::Meters,
    offer::{FLIGHTS, Offers},
    presence::Presence,
    reconcile::{Cases, Lead},
    rpc::Rpc,
    tally::Tally,
    view::View,
};
pub use crate::{config::Config, error::Error};

/// The path of the call that streams its request; the server's timeout is not for it.
pub const STREAMING: &str = "/isocenter.v1.ReaderAssignment/SetPresence";

/// What the service works with.
#[derive(Debug)]
pub struct Deps {
    /// The records.
    pub tables: Tables,
    /// Their mirrors.
    pub mirrors: Mirrors,
    /// The shards whose cases this replica looks after. The leader looks after every case besides.
    pub shares: Shares,
    /// Where report bodies go.
    pub blobs: Blobs,
    /// The process's metrics; this role's are under `reader_assignment`.
    pub metrics: Metrics,
    /// Where the service's tasks run.
    pub tasks: Tasks,
    /// Where other replicas reach this one's gRPC: `host:port` or `http://host:port`.
    pub address: String,
    /// The way to the other replicas.
    pub nodes: Nodes,
}

/// The service, built and not yet running. Its calls wait for it to run, and to know what there is.
#[derive(Debug)]
pub struct Service {
    desk: Arc<Desk>,
    nodes: Nodes,
    shares: Shares,
    campaign: Campaign,
    hooks: Hooks,
}

impl Service {
    /// Makes the service and starts its mirrors. Call it within the tokio runtime.
    ///
    /// # Errors
    /// None today; a configuration that cannot be served will be one.
    pub fn build(config: Config, deps: Deps) -> Result<Self, Error> {
        let Deps { tables, mirrors, shares, blobs, metrics, tasks, address, nodes } = deps;
        let metrics = metrics.scoped("reader_assignment");
        let presence = Presence::start(Arc::clone(tables.kv()), &tasks);
        let view = View::new(&mirrors, presence, Arc::clone(tables.clock()));
        let (leadership, campaign) =
            Leadership::new(Arc::clone(tables.kv()), Arc::clone(tables.clock()), &address, config.presence.0);
        let meters = Meters::new(&metrics);
        let (board, tally) = (Arc::new(Board::default()), Tally::new(&metrics));
        let flights = Arc::new(Semaphore::new(FLIGHTS));
        let desk = Desk { config, tables, blobs, view, board, flights, leadership, meters, tally, tasks };
        Ok(Self { desk: Arc::new(desk), nodes, shares, campaign, hooks: Hooks::new(&metrics) })
    }

    /// Adds `isocenter.v1.ReaderAssignment`.
    pub fn routes(&self, routes: &mut RoutesBuilder) {
        routes.add_service(ReaderAssignmentServer::new(Rpc::new(Arc::clone(&self.desk), self.nodes.clone())));
    }

    /// Returns once this replica knows what there is: no sooner can it answer and lead.
    pub fn filled(&self) -> impl Future<Output = ()> + Send + use<> {
        let desk = Arc::clone(&self.desk);
        async move {
            desk.board.filled.wait().await;
        }
    }

    /// Runs until the tasks are cancelled: takes part in the election, keeps the queue, and brings every case's reads to
    /// what they should be.
    ///
    /// # Errors
    /// None: what fails is tried again.
    pub async fn run(self) -> Result<(), Error> {
        let filled = self.filled();
        let Self { desk, shares, campaign, hooks, .. } = self;
        let tasks = desk.tasks.clone();
        // Who leads decides among all that waits, not among what was shown so far.
        campaign.spawn(&tasks, filled);
        let board = Arc::clone(&desk).follow(tasks.token());
        tasks.essential("board", async move {
            board.await;
            Ok::<_, Error>(())
        });
        let offers = Offers::new(Arc::clone(&desk));
        tasks.background("arrivals", Arc::clone(&desk).keep_arrivals(offers, tasks.token()));
        tasks.background("leases", Arc::clone(&desk).keep_leases(tasks.token()));
        tasks.background("outlook", Arc::clone(&desk).keep_outlook(tasks.token()));
        tasks.background("gauges", Meters::observe(Arc::clone(&desk), tasks.token()));
        let queue = Queue::new(Arc::clone(desk.tables.clock()));
        let cases = Arc::new(Cases(Arc::clone(&desk)));
        let feed = Feed::new("cases");
        let share = Arc::new(Lead { shares, desk: Arc::clone(&desk) });
        tasks.background("case feed", feed.run(cases.clone(), share, queue.clone(), tasks.token()));
        let runner = Runner::new(Options::new("cases"), hooks);
        tasks.background("case runner", runner.run(queue, cases, tasks.token()));
        tasks.token().cancelled().await;
        Ok(())
    }
}

#[cfg(test)]
mod tests;
