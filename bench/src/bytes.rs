//! What a waiting study has in etcd: keys and values of its live records, and what the database grows by for each
//! transition.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context as _, Result};
use isocenter_runtime::task::Tasks;
use isocenter_store::{Kv, Range, list_all};

use crate::{
    Store,
    network::{Network, send_all},
    records::{drained, waiting},
    system::{Cell, until},
    table::Figures,
};

/// Associations at once.
const AT_ONCE: usize = 8;

/// Sends `studies` studies that nobody reads, and weighs them.
pub async fn run(studies: u32, tasks: &Tasks, figures: &mut Figures) -> Result<()> {
    let cell = Cell::new(Store::Etcd).await?;
    let server = cell.serve("all", &[("study.quiet_period", "200ms")]).await?;
    let peers = tasks.child();
    let _network = Network::start(&server.url(), &peers).await?;
    let kv = isocenter_store::open(&cell.store()).await?;
    let before = kv.status().await?;
    send_all(server.dicom.context("the process runs ingestion")?, studies, AT_ONCE).await?;
    let wanted = usize::try_from(studies)?;
    until("every study waits for a reader", async || waiting(&*kv).await.is_ok_and(|n| n >= wanted)).await?;
    let after = kv.status().await?;
    until("the outbox is drained", async || drained(&*kv).await.unwrap_or(false)).await?;
    weigh(&*kv, studies, figures).await?;
    #[expect(clippy::cast_precision_loss, reason = "some megabytes and thousands")]
    let (grown, revisions) =
        ((after.db_bytes - before.db_bytes) as f64, (after.revision.0 - before.revision.0) as f64);
    figures.add(
        "etcd database, bytes for each revision",
        format!("{:.0} B", grown / revisions),
        format!(
            "{:.1} revisions and {:.0} B for a study up to its waiting, history and indexes included",
            revisions / f64::from(studies),
            grown / f64::from(studies)
        ),
    );
    peers.drain(Duration::from_secs(1)).await;
    server.end().await
}

async fn weigh(kv: &dyn Kv, studies: u32, figures: &mut Figures) -> Result<()> {
    let listing = list_all(kv, &Range::all()).await?;
    let mut kinds: BTreeMap<String, (usize, usize)> = BTreeMap::new();
    for item in &listing.items {
        let kind = item.key.segments().next().unwrap_or_default();
        // What there is once, whatever the number of studies.
        if ["meta", "registry", "policy", "presence", "leader", "lane", "holding"].contains(&kind) {
            continue;
        }
        let (count, bytes) = kinds.entry(kind.to_owned()).or_default();
        *count += 1;
        *bytes += item.key.as_str().len() + item.value.len();
    }
    let per_study = |n: usize| n / usize::try_from(studies).unwrap_or(1).max(1);
    let all = kinds.values().map(|(_, bytes)| bytes).sum();
    let parts: Vec<_> =
        kinds.iter().map(|(kind, (_, bytes))| format!("{kind} {}", per_study(*bytes))).collect();
    figures.add(
        "etcd, live bytes of a waiting study",
        format!("{} B", per_study(all)),
        format!("aim 12 KB, keys and values; {}", parts.join(", ")),
    );
    Ok(())
}
