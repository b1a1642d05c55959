//! Memory of each role's own process while studies go through, are closed, and must leave nothing behind.

use std::{sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use isocenter_runtime::{clock, task::Tasks};

use crate::{
    Store,
    network::{Network, send_all},
    system::{Cell, ROLES, Server, memory_mib},
    table::{Figures, note_progress},
};

/// Associations at once.
const AT_ONCE: usize = 8;
/// Readers.
const READERS: u32 = 16;
/// Between samples.
const SAMPLE: Duration = Duration::from_secs(1);
/// Without an accepted report for this long the flow is broken.
const STALLED: Duration = Duration::from_secs(60);

/// Sends `studies` studies through one process for each role.
pub async fn run(studies: u32, tasks: &Tasks, figures: &mut Figures) -> Result<()> {
    let cell = Cell::new(Store::Etcd).await?;
    let servers = apart(&cell, &[("archive.close_after", "2s"), ("archive.settle", "1s")]).await?;
    let peers = tasks.child();
    let network = flowing(&servers, &peers).await?;
    let dicom = of(&servers, "ingestion")?.dicom.context("the process runs ingestion")?;
    let sending = send_all(dicom, studies, AT_ONCE);
    let samples = sample(&servers, &network, studies);
    let ((), samples) = tokio::try_join!(sending, samples)?;
    for (server, name) in servers.iter().zip(ROLES) {
        let column: Vec<_> =
            samples.iter().filter_map(|s| Some((s.delivered, *s.mib.get(index(name)?)?))).collect();
        // The first half fills caches and pools; a leak goes on in the second.
        let half = column.split_at(column.len() / 2).1;
        let last = memory_mib(server.pid()?)?;
        figures.add(
            format!("memory, {name}: MiB for each 1,000 studies"),
            format!("{:+.2}", slope(half) * 1e3),
            format!(
                "{:.0} MiB at first, {:.0} in the middle, {last:.0} after {studies} studies",
                column.first().map_or(f64::NAN, |(_, mib)| *mib),
                half.first().map_or(f64::NAN, |(_, mib)| *mib),
            ),
        );
    }
    peers.drain(Duration::from_secs(1)).await;
    for server in servers {
        server.end().await?;
    }
    Ok(())
}

/// One process for each role, with `more` flags.
pub async fn apart(cell: &Cell, more: &[(&str, &str)]) -> Result<Vec<Server>> {
    let mut servers = Vec::new();
    let more: Vec<_> = more.iter().copied().chain([("study.quiet_period", "300ms")]).collect();
    for role in ROLES {
        servers.push(cell.serve(role, &more).await?);
    }
    Ok(servers)
}

/// The process of a role.
pub fn of<'a>(servers: &'a [Server], role: &str) -> Result<&'a Server> {
    servers.iter().find(|server| server.roles == role).with_context(|| format!("no process runs {role}"))
}

/// A network whose readers sign at once.
pub async fn flowing(servers: &[Server], peers: &Tasks) -> Result<Arc<Network>> {
    let (registry, desk) = (of(servers, "routing")?.url(), of(servers, "reader-assignment")?.url());
    let network = Network::start(&registry, peers).await?;
    let think = Duration::from_millis(1)..Duration::from_millis(3);
    network.read(&registry, &desk, READERS, think, peers).await?;
    Ok(Arc::new(network))
}

fn index(role: &str) -> Option<usize> {
    ROLES.iter().position(|other| *other == role)
}

/// Reports delivered so far, and memory of each process in the order of [`ROLES`].
struct Sample {
    delivered: f64,
    mib: Vec<f64>,
}

async fn sample(servers: &[Server], network: &Network, studies: u32) -> Result<Vec<Sample>> {
    let clock = clock::system();
    let (mut samples, mut moved) = (Vec::new(), clock.monotonic());
    loop {
        tokio::time::sleep(SAMPLE).await;
        let delivered = u32::try_from(network.receiver.counts().accepted)?;
        let mib = servers.iter().map(|server| memory_mib(server.pid()?)).collect::<Result<_>>()?;
        if samples.last().is_none_or(|last: &Sample| last.delivered < f64::from(delivered)) {
            moved = clock.monotonic();
        }
        anyhow::ensure!(
            clock.monotonic() - moved < STALLED,
            "no report was delivered for a minute, after {delivered} of {studies}, {} signed",
            network.signed()
        );
        samples.push(Sample { delivered: f64::from(delivered), mib });
        if samples.len().is_multiple_of(30) {
            note_progress(&format!("{delivered} of {studies} delivered"));
        }
        if delivered >= studies {
            return Ok(samples);
        }
    }
}

/// Least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n: f64 = points.iter().map(|_| 1.0).sum();
    let mean = |of: fn(&(f64, f64)) -> f64| points.iter().map(of).sum::<f64>() / n;
    let (x, y) = (mean(|p| p.0), mean(|p| p.1));
    let (mut above, mut below) = (0.0, 0.0);
    for point in points {
        above += (point.0 - x) * (point.1 - y);
        below += (point.0 - x) * (point.0 - x);
    }
    above / below
}
