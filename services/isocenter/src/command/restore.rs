//! `isocenter store restore`: the store brought up to date after it was put back from a snapshot.

use std::{path::PathBuf, process::ExitCode};

use anyhow::{Context as _, Result};
use clap::Args;
use isocenter_blobs::Blobs;
use isocenter_runtime::{clock, secret::Secret};
use isocenter_store::{Restored, table::Tables};

use crate::{
    config::{Config, Settings},
    output,
};

/// Which store, and why.
#[derive(Args, Debug)]
pub struct RestoreArgs {
    /// The settings of a process: a YAML file.
    #[arg(long, env = "ISOCENTER_CONFIG")]
    config: Option<PathBuf>,
    /// Why; kept beside the epoch.
    #[arg(long)]
    reason: String,
    #[command(flatten)]
    settings: Settings,
}

/// Begins an epoch, and puts the last journaled value of every record back under it.
pub async fn run(args: RestoreArgs, json: bool) -> Result<ExitCode> {
    let config = Config::load(args.config.as_ref(), &args.settings)?;
    let blobs = Blobs::open(&config.blobs.to_string_lossy())?;
    open(&config).await?.bump_epoch(&args.reason).await?;
    // Opened again: who is of the epoch before writes nothing.
    let tables = open(&config).await?;
    let Restored { put, removed, kept } = isocenter_archive::restore(&tables, &blobs).await?;
    if json {
        output::line(&serde_json::json!({ "put": put, "removed": removed, "kept": kept }).to_string())?;
    } else {
        output::note(&format!("{put} records put back, {removed} taken away, {kept} as they should be"));
    }
    Ok(ExitCode::SUCCESS)
}

async fn open(config: &Config) -> Result<Tables> {
    let kv = isocenter_store::open_with(&config.store, &config.etcd.access())
        .await
        .with_context(|| format!("cannot open the store {}", config.store))?;
    let secret = Secret::load_or_create(&config.secret_file)
        .with_context(|| format!("cannot use the secret {}", config.secret_file.display()))?;
    Ok(Tables::open(kv, clock::system(), config.cell_id()?, &secret).await?)
}
