//! What a study costs at 1, 10, 100 and 200 times 25,000 studies a day: processor time of each process, revisions, bytes, and how
//! long after the last image the last report was delivered, which is where it shows that something does not keep up.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use isocenter_runtime::{clock, task::Tasks};
use isocenter_store::Kv;

use crate::{
    Store,
    memory::{apart, flowing, of},
    network::send_steadily,
    records::drained,
    startup::fill,
    system::{Cell, Etcd, ROLES, Server, cpu_seconds, until},
    table::Figures,
};

/// 25,000 studies a day, a second.
const ONE: f64 = 25_000.0 / 86_400.0;
/// How long the processes are looked at before the first study: what they use when nothing happens.
const IDLE: Duration = Duration::from_secs(10);

/// What is used up to one moment, or between two.
#[derive(Clone, Debug)]
struct Used {
    seconds: f64,
    /// Seconds of processor time of each role's process, in their order, and of etcd.
    cpu: Vec<f64>,
    revisions: f64,
    bytes: f64,
}

impl Used {
    async fn now(servers: &[Server], etcd: &Etcd, kv: &dyn Kv, began: Instant) -> Result<Self> {
        let pids = servers.iter().map(Server::pid).chain([etcd.pid()]);
        let cpu = pids.map(|pid| cpu_seconds(pid?)).collect::<Result<_>>()?;
        let status = kv.status().await?;
        #[expect(clippy::cast_precision_loss, reason = "some gigabytes and millions")]
        let (revisions, bytes) = (status.revision.0 as f64, status.db_bytes as f64);
        Ok(Self { seconds: (clock::system().monotonic() - began).as_secs_f64(), cpu, revisions, bytes })
    }

    fn since(&self, earlier: &Self) -> Self {
        Self {
            seconds: self.seconds - earlier.seconds,
            cpu: self.cpu.iter().zip(&earlier.cpu).map(|(now, then)| now - then).collect(),
            revisions: self.revisions - earlier.revisions,
            bytes: self.bytes - earlier.bytes,
        }
    }

    /// Less what would have been used in this time if nothing had happened.
    fn beyond(&self, idle: &Self) -> Self {
        let share = self.seconds / idle.seconds;
        Self {
            cpu: self.cpu.iter().zip(&idle.cpu).map(|(used, idle)| used - idle * share).collect(),
            revisions: self.revisions - idle.revisions * share,
            ..self.clone()
        }
    }

    fn processor(&self) -> f64 {
        self.cpu.iter().sum()
    }

    /// Processor milliseconds by process, for each of `n`.
    fn parts(&self, n: f64) -> String {
        let names = ROLES.iter().copied().chain(["etcd"]);
        let parts: Vec<_> =
            names.zip(&self.cpu).map(|(name, cpu)| format!("{name} {:.1}", cpu / n * 1e3)).collect();
        parts.join(", ")
    }
}

/// Runs each rate for `seconds` over a store of `live` studies that nobody reads.
pub async fn run(seconds: u64, live: u32, tasks: &Tasks, figures: &mut Figures) -> Result<()> {
    let cell = Cell::new(Store::Etcd).await?;
    fill(&cell, live, tasks).await?;
    let servers = apart(&cell, &[]).await?;
    let peers = tasks.child();
    let kv = isocenter_store::open(&cell.store()).await?;
    let network = flowing(&servers, &peers).await?;
    // The one study that the others are copies of is read first.
    let delivered = async |n: u64| network.receiver.counts().accepted >= n;
    until("the first study is read", async || delivered(1).await).await?;
    tokio::time::sleep(IDLE).await;
    let began = clock::system().monotonic();
    let used = async || Used::now(&servers, cell.etcd()?, &*kv, began).await;
    let before = used().await?;
    tokio::time::sleep(IDLE).await;
    let idle = used().await?.since(&before);
    figures.add(
        format!("{live} live studies, nothing happens: processor"),
        format!("{:.1} % of a core", idle.processor() / idle.seconds * 100.0),
        format!(
            "ms a second: {}; {:.1} revisions/s",
            idle.parts(idle.seconds),
            idle.revisions / idle.seconds
        ),
    );
    let dicom = of(&servers, "ingestion")?.dicom.context("the process runs ingestion")?;
    let mut sent = 1;
    for factor in [1.0, 10.0, 100.0, 200.0] {
        let rate = ONE * factor;
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "some thousands")]
        let studies = (rate * Duration::from_secs(seconds).as_secs_f64()).ceil() as u32;
        let before = used().await?;
        send_steadily(dicom, rate, studies).await?;
        let last = clock::system().monotonic();
        sent += u64::from(studies);
        until("every study is read and delivered", async || delivered(sent).await).await?;
        let behind = clock::system().monotonic() - last;
        until("the outbox is drained", async || drained(&*kv).await.unwrap_or(false)).await?;
        let all = used().await?.since(&before);
        let n = f64::from(studies);
        let own = all.beyond(&idle);
        figures.add(
            format!("cost of a study at {factor:.0} × 25,000 a day ({rate:.1}/s)"),
            format!("{:.1} ms of processor", own.processor() / n * 1e3),
            format!(
                "{:.1} with what is used when idle; {:.1} revisions, {:.0} B of database; ms: {}; the last was delivered after {:.1} s; {studies} studies",
                all.processor() / n * 1e3,
                own.revisions / n,
                all.bytes / n,
                own.parts(n),
                behind.as_secs_f64(),
            ),
        );
    }
    peers.drain(Duration::from_secs(1)).await;
    for server in servers {
        server.end().await?;
    }
    Ok(())
}
