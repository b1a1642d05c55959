//! Offers, each answered once it is durable: how many a second, and how long one takes.
//!
//! Readers who are present ask `NextRead` for the first time, so that each answer is an offer that was decided on and committed
//! for it. What is measured is what a workstation sees, the connection over loopback included.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use futures::{StreamExt as _, TryStreamExt as _, stream};
use isocenter_runtime::{clock, task::Tasks};
use isocenter_wire::v1::{
    NextReadRequest, Pool, SetPresenceRequest, reader_assignment_client::ReaderAssignmentClient,
    registry_client::RegistryClient, registry_entry::Entry,
};
use tonic::transport::Channel;

use crate::{
    Store,
    network::{connect, put, reader_id, register},
    records::KEPT,
    startup::{fill, listed_queue},
    system::{Cell, Server},
    table::{Figures, quantile},
};

/// Readers of one connection: each keeps a stream of presence open on it.
const TOGETHER: u32 = 64;
/// Between a reader's signs of life.
const PRESENCE: Duration = Duration::from_secs(10);
/// Requests at once: few, for the time that one takes, and almost as many as a leader commits at a time, for the rate.
const AT_ONCE: [usize; 2] = [4, 60];

/// Offers to `readers` readers out of `waiting` reads.
pub async fn run(
    store: Store,
    waiting: u32,
    readers: u32,
    tasks: &Tasks,
    figures: &mut Figures,
) -> Result<()> {
    ensure!(
        readers < waiting,
        "each reader takes a read and some have to be left: fewer readers, or more reads"
    );
    let cell = Cell::new(store).await?;
    fill(&cell, waiting, tasks).await?;
    let server = cell.serve("all", &[]).await?;
    listed_queue(&server).await?;
    let peers = tasks.child();
    let seats = seats(&server, readers, &peers).await?;
    let name = store.name();
    let half = seats.len() / AT_ONCE.len();
    for (seats, at_once) in seats.chunks(half.max(1)).zip(AT_ONCE) {
        let clock = clock::system();
        let began = clock.monotonic();
        let mut took: Vec<f64> =
            stream::iter(seats.to_vec()).map(ask).buffer_unordered(at_once).try_collect().await?;
        let seconds = (clock.monotonic() - began).as_secs_f64();
        took.sort_by(f64::total_cmp);
        let count = u32::try_from(took.len())?;
        figures.add(
            format!("offers, {name}, {at_once} at once, {waiting} waiting"),
            format!("{:.0}/s", f64::from(count) / seconds),
            format!(
                "aim 500/s on etcd, 2,000/s embedded, p99 20 ms; p50 {:.1}, p99 {:.1} ms; {count} offers",
                quantile(&took, 0.5),
                quantile(&took, 0.99),
            ),
        );
    }
    peers.drain(Duration::from_secs(1)).await;
    server.end().await
}

/// Registers readers and has each of them present.
async fn seats(
    server: &Server,
    readers: u32,
    peers: &Tasks,
) -> Result<Vec<(ReaderAssignmentClient<Channel>, u32)>> {
    let mut seats = Vec::new();
    let mut channel = connect(&server.url()).await?;
    let pool =
        Pool { pool_id: KEPT.into(), description: "who reads what was written".into(), ..Pool::default() };
    put(&mut RegistryClient::new(channel.clone()), Entry::Pool(pool)).await?;
    for n in 0..readers {
        if n % TOGETHER == 0 {
            channel = connect(&server.url()).await?;
        }
        register(channel.clone(), n, KEPT).await?;
        let client = ReaderAssignmentClient::new(channel.clone());
        sit(client.clone(), n, peers).await?;
        seats.push((client, n));
    }
    Ok(seats)
}

/// Sits a reader down; he stays until the peers end.
async fn sit(mut client: ReaderAssignmentClient<Channel>, n: u32, peers: &Tasks) -> Result<()> {
    let signs = stream::unfold(true, move |first| async move {
        if !first {
            tokio::time::sleep(PRESENCE).await;
        }
        Some((SetPresenceRequest { reader_id: reader_id(n), accepting: true }, false))
    });
    let mut answers = client.set_presence(signs).await?.into_inner();
    answers.message().await?.context("the presence stream ended")?;
    peers.background("presence", async move { while let Ok(Some(_)) = answers.message().await {} });
    Ok(())
}

/// One offer, in milliseconds.
async fn ask((mut client, n): (ReaderAssignmentClient<Channel>, u32)) -> Result<f64> {
    let clock = clock::system();
    let began = clock.monotonic();
    let request = NextReadRequest {
        reader_id: reader_id(n),
        request_id: isocenter_runtime::random::uuid_v7().to_string(),
    };
    let answer = client.next_read(request).await?.into_inner();
    ensure!(answer.read.is_some(), "reader {n} was offered nothing, with reads in the queue");
    Ok((clock.monotonic() - began).as_secs_f64() * 1e3)
}
