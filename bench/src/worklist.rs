//! From a study's completeness, as its record dates it, to the moment a client sees its read in `ListWorklist`.
//!
//! Both times are of this machine's clock. The client asks again every few milliseconds, which is part of what is measured:
//! the figure is what a workstation beside the server would see, and never less than the truth.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use isocenter_domain::Time;
use isocenter_runtime::{clock, task::Tasks};
use isocenter_wire::v1::{
    ListWorklistRequest, WatchStudiesRequest, ingestion_client::IngestionClient,
    reader_assignment_client::ReaderAssignmentClient,
};
use parking_lot::Mutex;
use tonic::transport::Channel;

use crate::{
    Store,
    network::{Network, connect, send_steadily},
    system::{Cell, until},
    table::{Figures, quantile},
};

/// Between two looks at the list.
const ASK: Duration = Duration::from_millis(3);
/// Readers: enough to keep the list short at 20 studies a second, slow enough that none takes a read off the list between
/// two looks.
const READERS: u32 = 16;
const THINK: std::ops::Range<Duration> = Duration::from_millis(250)..Duration::from_millis(350);

/// By Study Instance UID: in microseconds.
type Times = Arc<Mutex<BTreeMap<String, i64>>>;

/// Measures at `rate` studies a second.
pub async fn run(store: Store, rate: f64, studies: u32, tasks: &Tasks, figures: &mut Figures) -> Result<()> {
    let cell = Cell::new(store).await?;
    let server = cell.serve("all", &[("study.quiet_period", "1s")]).await?;
    let peers = tasks.child();
    let network = Network::start(&server.url(), &peers).await?;
    network.read(&server.url(), &server.url(), READERS, THINK, &peers).await?;
    let channel = connect(&server.url()).await?;
    let (complete, listed) = (Times::default(), Times::default());
    peers.background(
        "completeness",
        completeness(IngestionClient::new(channel.clone()), Arc::clone(&complete)),
    );
    peers.background("list", list(ReaderAssignmentClient::new(channel.clone()), Arc::clone(&listed)));
    let dicom = server.dicom.context("the process runs ingestion")?;
    send_steadily(dicom, rate, studies).await?;
    let wanted = usize::try_from(studies)?;
    until("every study is listed", async || listed.lock().len() >= wanted && complete.lock().len() >= wanted)
        .await?;
    let (complete, listed) = (complete.lock().clone(), listed.lock().clone());
    let mut waits: Vec<f64> =
        complete.iter().filter_map(|(uid, at)| listed.get(uid).map(|seen| micros(seen - at) / 1e3)).collect();
    waits.sort_by(f64::total_cmp);
    let name = store.name();
    let aim = match store {
        Store::Embedded => 50,
        Store::Etcd => 100,
    };
    figures.add(
        format!("completeness to worklist, {name}, {rate}/s: p99"),
        format!("{:.1} ms", quantile(&waits, 0.99)),
        format!(
            "aim {aim} ms; p50 {:.1}, p90 {:.1}, most {:.1} ms; {} studies",
            quantile(&waits, 0.5),
            quantile(&waits, 0.9),
            quantile(&waits, 1.0),
            waits.len(),
        ),
    );
    peers.drain(Duration::from_secs(1)).await;
    server.end().await
}

#[expect(clippy::cast_precision_loss, reason = "a difference of minutes")]
fn micros(n: i64) -> f64 {
    n as f64
}

/// Follows the studies and notes when each was complete. What is complete and gone between two changes is told by its next
/// state, which still says when.
async fn completeness(mut client: IngestionClient<Channel>, times: Times) {
    let Ok(changes) = client.watch_studies(WatchStudiesRequest {}).await else { return };
    let mut changes = changes.into_inner();
    while let Ok(Some(change)) = changes.message().await {
        let Some(study) = change.study else { continue };
        if let Some(at) = study.complete_at {
            let at = at.seconds * 1_000_000 + i64::from(at.nanos) / 1000;
            times.lock().entry(study.study_instance_uid).or_insert(at);
        }
    }
}

/// Looks at the list again and again and notes when each study was first on it.
async fn list(mut client: ReaderAssignmentClient<Channel>, times: Times) {
    let clock = clock::system();
    loop {
        let request = ListWorklistRequest { page_size: 1000, ..ListWorklistRequest::default() };
        if let Ok(answer) = client.list_worklist(request).await {
            let Time(now) = clock.now();
            let mut times = times.lock();
            for study in answer.into_inner().reads.into_iter().flat_map(|read| read.studies) {
                times.entry(study.study_instance_uid).or_insert(now);
            }
        }
        tokio::time::sleep(ASK).await;
    }
}
