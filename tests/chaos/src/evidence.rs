//! What a run leaves behind, as plain data: what the checks judge.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use anyhow::{Context as _, Result};
use isocenter_dimse::part10::dataset_digest;
use isocenter_domain::document::Manifest;
use isocenter_wire::document::Stored as _;
use sqlx::{Row as _, any::AnyPoolOptions};

use crate::{record::Op, witness::History};

/// The tenant of callers on loopback.
pub const TENANT: &str = "default";

/// A line of the records' history.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Line {
    /// The record's key.
    pub key: String,
    /// The record's change counter.
    pub seq: u64,
    /// The request or operation.
    pub op_id: String,
    /// What happened.
    pub event: String,
    /// When, never before the record's earlier events.
    pub ord: i64,
}

/// A message that the record system has committed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Message {
    /// MSH-10.
    pub id: String,
}

/// Everything.
#[derive(Clone, Debug, Default)]
pub struct Evidence {
    /// What the peers asked and were told.
    pub ops: Vec<Op>,
    /// The store's history.
    pub history: History,
    /// The records' history.
    pub lines: Vec<Line>,
    /// What the record system has committed, in order.
    pub received: Vec<Message>,
    /// The data sets kept as instances, and those put aside, with how many files bear each.
    pub instances: BTreeMap<String, usize>,
    /// The same in quarantine.
    pub quarantined: BTreeMap<String, usize>,
    /// The instances that each study's newest manifest names, and their data sets.
    pub manifests: BTreeMap<String, BTreeSet<(String, String)>>,
    /// Each study's stage as its network is told.
    pub stages: BTreeMap<String, String>,
    /// What each process of a role says of its studies or reads: process, then id, then state. All must agree.
    pub views: BTreeMap<String, BTreeMap<String, String>>,
    /// The differences that `isocenter reconcile` prints.
    pub differences: Vec<String>,
    /// Processes that ended although nobody had asked for it.
    pub deaths: Vec<String>,
}

/// The data sets of the files below `blobs/{kind}/{tenant}`, and how many files bear each.
///
/// # Errors
/// If a file is no Part 10 file.
pub fn data_sets(blobs: &Path, kind: &str) -> Result<BTreeMap<String, usize>> {
    let mut found = BTreeMap::new();
    for path in files(&blobs.join(kind).join(TENANT)) {
        if path.extension().is_none_or(|extension| extension != "dcm") {
            continue;
        }
        let digest = dataset_digest(&path).with_context(|| path.display().to_string())?;
        *found.entry(digest.data_set.to_string()).or_default() += 1;
    }
    Ok(found)
}

/// The instances of each study's newest manifest.
///
/// # Errors
/// If a manifest cannot be read.
pub fn manifests(blobs: &Path) -> Result<BTreeMap<String, BTreeSet<(String, String)>>> {
    let mut newest: BTreeMap<String, Manifest> = BTreeMap::new();
    for path in files(&blobs.join("manifest").join(TENANT)) {
        let manifest = Manifest::decode(&std::fs::read(&path)?);
        let manifest = manifest.with_context(|| path.display().to_string())?;
        let study = manifest.study.to_string();
        if newest.get(&study).is_none_or(|known| known.revision < manifest.revision) {
            newest.insert(study, manifest);
        }
    }
    let named = |manifest: &Manifest| {
        let series = manifest.images.series.values();
        let instances = series.flat_map(|series| series.instances.values());
        instances.map(|instance| (instance.instance.to_string(), instance.data_set.to_string())).collect()
    };
    Ok(newest.iter().map(|(study, manifest)| (study.clone(), named(manifest))).collect())
}

/// The events of the records, by record and then in their order.
///
/// # Errors
/// If the database does not answer.
pub async fn lines(url: &str) -> Result<Vec<Line>> {
    sqlx::any::install_default_drivers();
    let pool = AnyPoolOptions::new().max_connections(1).connect(url).await?;
    let rows = "SELECT record_key, seq, op_id, event, ord FROM events ORDER BY record_key, ord, seq";
    let rows = sqlx::query(rows).fetch_all(&pool).await?;
    let line = |row: &sqlx::any::AnyRow| -> Result<Line> {
        Ok(Line {
            key: row.try_get("record_key")?,
            seq: u64::try_from(row.try_get::<i64, _>("seq")?)?,
            op_id: row.try_get("op_id")?,
            event: row.try_get("event")?,
            ord: row.try_get("ord")?,
        })
    };
    let lines = rows.iter().map(line).collect();
    pool.close().await;
    lines
}

fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for path in entries.filter_map(|entry| entry.ok().map(|entry| entry.path())) {
            if path.is_dir() { folders.push(path) } else { found.push(path) }
        }
    }
    found.sort();
    found
}
