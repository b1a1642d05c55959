//! From the start of a process that runs every role to its being ready and its listing the queue, with live studies in the
//! store.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use isocenter_runtime::{clock, task::Tasks};
use isocenter_store::{
    Kv,
    embedded::{Embedded, EmbeddedOptions},
};
use isocenter_wire::v1::{ListWorklistRequest, reader_assignment_client::ReaderAssignmentClient};

use crate::{
    Store,
    network::{Network, connect, send},
    records::{Template, waiting},
    system::{Cell, Server, cpu_seconds, memory_mib, until},
    table::Figures,
};

/// How long after it is ready the process's processor time is looked at: what its first look at everything costs.
const AFTER: Duration = Duration::from_secs(10);

/// Fills a store with `studies` waiting studies and starts a process on it.
pub async fn run(store: Store, studies: u32, tasks: &Tasks, figures: &mut Figures) -> Result<()> {
    let cell = Cell::new(store).await?;
    fill(&cell, studies, tasks).await?;
    let clock = clock::system();
    let began = clock.monotonic();
    let server = cell.spawn("all", &[]).await?;
    let bound = clock.monotonic() - began;
    server.ready().await?;
    let ready = clock.monotonic() - began;
    listed_queue(&server).await?;
    let listed = clock.monotonic() - began;
    tokio::time::sleep(AFTER).await;
    let (cpu, memory) = (cpu_seconds(server.pid()?)?, memory_mib(server.pid()?)?);
    let name = store.name();
    figures.add(
        format!("start-up with {studies} live studies, {name}: ready and queue listed"),
        format!("{:.2} s", listed.as_secs_f64()),
        format!(
            "aim 2 s; ports bound {:.2} s, says ready {:.2} s; {cpu:.1} s of processor used and {memory:.0} MiB held {} s later",
            bound.as_secs_f64(),
            ready.as_secs_f64(),
            AFTER.as_secs(),
        ),
    );
    server.end().await
}

/// Waits until something is on the worklist.
pub async fn listed_queue(server: &Server) -> Result<()> {
    let client = ReaderAssignmentClient::new(connect(&server.url()).await?);
    let look = async || {
        let request = ListWorklistRequest { page_size: 1, ..ListWorklistRequest::default() };
        client.clone().list_worklist(request).await.is_ok_and(|list| !list.into_inner().reads.is_empty())
    };
    until("a read is listed", look).await
}

/// One study comes through the roles and waits; the others are written as it is, while no process runs.
pub async fn fill(cell: &Cell, studies: u32, tasks: &Tasks) -> Result<()> {
    let server = cell.serve("all", &[("study.quiet_period", "200ms")]).await?;
    let peers = tasks.child();
    let network = Network::start(&server.url(), &peers).await?;
    send(server.dicom.context("the process runs ingestion")?).await?;
    listed_queue(&server).await?;
    drop(network);
    peers.drain(Duration::from_secs(1)).await;
    server.end().await?;
    let store = cell.store();
    let Some(folder) = store.strip_prefix("embedded:") else {
        return multiply(&*isocenter_store::open(&store).await?, studies).await;
    };
    let embedded = Embedded::open(EmbeddedOptions::new(folder)).await?;
    let multiplied = multiply(&embedded, studies).await;
    // The next process takes the folder's lock.
    embedded.close().await;
    multiplied
}

async fn multiply(kv: &dyn Kv, studies: u32) -> Result<()> {
    ensure!(waiting(kv).await? == 1, "the process has left other than one study that waits");
    Template::take(kv).await?.multiply(kv, studies.saturating_sub(1)).await
}
