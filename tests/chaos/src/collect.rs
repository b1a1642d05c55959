//! Asking the cluster what has become of everything, when the faults are over.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result};
use isocenter_wire::v1::{
    ListStudiesRequest, ListWorklistRequest, StudyStage, ingestion_client::IngestionClient,
    reader_assignment_client::ReaderAssignmentClient,
};
use tokio::process::Command;
use tonic::transport::{Channel, Endpoint};

use crate::{
    cluster::{Cluster, Role},
    evidence::{self, Evidence, Message},
    peers::Peers,
    witness::Witness,
};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(500);
/// How long one call may take.
const CALL: Duration = Duration::from_secs(10);
/// How long the cluster may take to bring everything to its end when the faults are over.
const SETTLE: Duration = Duration::from_secs(150);
/// How long `isocenter reconcile` may find differences that are on their way.
const RECONCILE: Duration = Duration::from_secs(60);
/// How long a process may see less than the store has.
const CATCH_UP: Duration = Duration::from_secs(30);

/// Waits until everything has come to its end, or no more patience is left, and collects what there is.
///
/// # Errors
/// If the harness itself fails.
pub async fn collect(cluster: &Cluster, peers: &Peers, witness: &Witness, binary: &Path) -> Result<Evidence> {
    let studies = peers.studies();
    let stages = settled(cluster, &studies).await;
    let differences = reconciled(cluster, binary).await?;
    let views = views(cluster).await?;
    drained(witness).await;
    // What the peers do from here on is not part of the run.
    peers.end().await;
    let history = witness.history(CATCH_UP).await?;
    let blobs = cluster.path("blobs");
    let lines = evidence::lines(&cluster.database()).await.context("the records cannot be read")?;
    let deaths = cluster.processes.iter().flat_map(|process| process.deaths());
    let deaths = deaths.filter(|death| death.served);
    let deaths =
        deaths.map(|death| format!("{} ended by itself, {}: {}", death.name, death.status, death.log));
    let (instances, quarantined, manifests) = tokio::task::spawn_blocking(move || {
        anyhow::Ok((
            evidence::data_sets(&blobs, "instance")?,
            evidence::data_sets(&blobs, "quarantine")?,
            evidence::manifests(&blobs)?,
        ))
    })
    .await??;
    let received = peers.receiver.received().into_iter();
    Ok(Evidence {
        ops: peers.recorder.ops(),
        history,
        lines,
        received: received.map(|message| Message { id: message.control_id }).collect(),
        instances,
        quarantined,
        manifests,
        stages,
        views,
        differences,
        deaths: deaths.collect(),
    })
}

/// Waits until the archive has taken every event out of the store, and SQL every object of the journal; where they do not, the
/// check of the records says which.
async fn drained(witness: &Witness) {
    let draining = async {
        while !(none(witness, "outbox/").await && none(witness, "journaled/").await) {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(RECONCILE, draining).await.ok();
}

/// Whether the store has no key of this kind.
async fn none(witness: &Witness, prefix: &str) -> bool {
    let range = isocenter_store::Range::prefix(prefix).expect("a literal is a valid prefix");
    let page = isocenter_store::Page { limit: 1, ..Default::default() };
    witness.kv().list(&range, page).await.is_ok_and(|listing| listing.items.is_empty())
}

fn channel(url: String) -> Result<Channel> {
    Ok(Endpoint::from_shared(url)?.timeout(CALL).connect_timeout(CALL).connect_lazy())
}

fn stage(stage: StudyStage) -> String {
    stage.as_str_name().trim_start_matches("STUDY_STAGE_").to_lowercase().replace('_', "-")
}

/// Every live study's stage.
async fn stages(url: String) -> Result<BTreeMap<String, String>> {
    let mut client = IngestionClient::new(channel(url)?);
    let mut request = ListStudiesRequest { page_size: 1000, ..Default::default() };
    let mut found = BTreeMap::new();
    loop {
        let page = client.list_studies(request.clone()).await?.into_inner();
        found.extend(page.studies.into_iter().map(|study| {
            let stage = stage(study.stage());
            (study.study_instance_uid, stage)
        }));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// The stage of each of these studies, once none has anything before it.
async fn settled(cluster: &Cluster, studies: &BTreeSet<String>) -> BTreeMap<String, String> {
    let mut last = BTreeMap::new();
    let settling = async {
        loop {
            if let Ok(mut found) = stages(cluster.url(Role::Ingestion)).await {
                closed(cluster, studies, &mut found).await;
                let open = studies.iter().any(|study| {
                    let stage = found.get(study).map(String::as_str);
                    !matches!(stage, Some("delivered" | "nothing-to-read" | "closed"))
                });
                last = found;
                if !open {
                    return;
                }
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    // Where it is too late, the check names the studies.
    tokio::time::timeout(SETTLE, settling).await.ok();
    last
}

/// Studies that are closed are no longer live, and are asked for one by one.
async fn closed(cluster: &Cluster, studies: &BTreeSet<String>, found: &mut BTreeMap<String, String>) {
    let Ok(channel) = channel(cluster.url(Role::Archive)) else { return };
    let mut client = isocenter_wire::v1::archive_client::ArchiveClient::new(channel);
    let mut request = isocenter_wire::v1::SearchStudiesRequest { page_size: 1000, ..Default::default() };
    if studies.iter().all(|study| found.contains_key(study)) {
        return;
    }
    loop {
        let Ok(page) = client.search_studies(request.clone()).await else { return };
        let page = page.into_inner();
        for study in page.studies.into_iter().filter(|study| study.closed) {
            found.entry(study.study_instance_uid).or_insert_with(|| "closed".to_owned());
        }
        if page.next_page_token.is_empty() {
            return;
        }
        request.page_token = page.next_page_token;
    }
}

/// What `isocenter reconcile` prints at the end.
async fn reconciled(cluster: &Cluster, binary: &Path) -> Result<Vec<String>> {
    let mut last = vec!["reconcile has not answered".to_owned()];
    let reconciling = async {
        loop {
            let ran = Command::new(binary)
                .args(["reconcile", "--json", "--server", &cluster.url(Role::Archive)])
                .stdin(Stdio::null())
                .kill_on_drop(true)
                .output()
                .await?;
            let told = String::from_utf8_lossy(&ran.stdout).into_owned();
            if ran.status.success() {
                last.clear();
                return anyhow::Ok(());
            }
            last = match serde_json::from_str::<serde_json::Value>(&told) {
                Ok(told) => told["differences"]
                    .as_array()
                    .map(|all| all.iter().map(ToString::to_string).collect())
                    .unwrap_or_default(),
                Err(_) => vec![format!("reconcile: {}", String::from_utf8_lossy(&ran.stderr).trim())],
            };
            tokio::time::sleep(2 * LOOK).await;
        }
    };
    if let Ok(ended) = tokio::time::timeout(RECONCILE, reconciling).await {
        ended?;
    }
    Ok(last)
}

/// What each process of ingestion and reader-assignment sees, once they agree or no more patience is left.
async fn views(cluster: &Cluster) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut views = BTreeMap::new();
    let looking = async {
        loop {
            views = look(cluster).await?;
            let agree = |kind: &str| {
                let mut of_kind =
                    views.iter().filter(|(name, _)| name.starts_with(kind)).map(|(_, view)| view);
                let first = of_kind.next();
                of_kind.all(|view| Some(view) == first)
            };
            if agree("studies") && agree("reads") {
                return anyhow::Ok(());
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    if let Ok(ended) = tokio::time::timeout(CATCH_UP, looking).await {
        ended?;
    }
    Ok(views)
}

async fn look(cluster: &Cluster) -> Result<BTreeMap<String, BTreeMap<String, String>>> {
    let mut views = BTreeMap::new();
    for process in &cluster.processes {
        let url = process.url().with_context(|| format!("{} does not listen", process.name))?;
        match process.role {
            Role::Ingestion => {
                views.insert(format!("studies of {}", process.name), stages(url).await?);
            }
            Role::ReaderAssignment => {
                views.insert(format!("reads of {}", process.name), reads(url).await?);
            }
            Role::Routing | Role::AiDispatch | Role::ReportDelivery | Role::Archive => {}
        }
    }
    Ok(views)
}

async fn reads(url: String) -> Result<BTreeMap<String, String>> {
    let mut client = ReaderAssignmentClient::new(channel(url)?);
    let mut request = ListWorklistRequest { page_size: 1000, ..Default::default() };
    let mut found = BTreeMap::new();
    loop {
        let page = client.list_worklist(request.clone()).await?.into_inner();
        found.extend(page.reads.into_iter().map(|read| {
            let state = read.state().as_str_name().to_owned();
            (read.read_id, state)
        }));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}
