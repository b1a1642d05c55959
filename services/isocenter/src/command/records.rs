//! `isocenter records`: the projections of the journal.

use std::process::ExitCode;

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use isocenter_archive::{Migration, Records};
use isocenter_wire::v1::{CheckHistoryRequest, RebuildRecordsRequest, archive_client::ArchiveClient};

use super::{
    connect,
    replay_log::{self, ReplayLogArgs},
};
use crate::{
    cli::Client,
    output::{self, REFUSED},
};

/// The records.
#[derive(Args, Debug)]
pub struct RecordsArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make them again from the journal, while the old ones serve.
    Rebuild {
        /// Why, for the log.
        #[arg(long)]
        reason: String,
    },
    /// Whether they hold every change of every record once, as the journal has them. Exit 0 they do, 1 they do not.
    Check,
    /// Write first reads as a log that `isocenter simulate day --replay` takes: JSON lines to stdout, to stderr what is not in
    /// them. Nobody is named. Exit 0, 1 nothing was read.
    ReplayLog(ReplayLogArgs),
    /// Bring the database to the tables of this build. The only verb that speaks to the database itself.
    Migrate {
        /// The database, as `serve --records` has it.
        #[arg(long, env = "ISOCENTER_RECORDS")]
        records: String,
        /// Take away what older builds need too, once none of them runs any more.
        #[arg(long)]
        contract: bool,
    },
}

/// Does what was asked.
pub async fn run(args: RecordsArgs) -> Result<ExitCode> {
    match args.verb {
        Verb::Rebuild { reason } => rebuild(&args.client, reason).await,
        Verb::Check => check(&args.client).await,
        Verb::ReplayLog(which) => replay_log::run(&args.client, &which).await,
        Verb::Migrate { records, contract } => {
            let migration = if contract { Migration::Contract } else { Migration::Expand };
            let records = Records::open(&records).await?;
            let schema = records.migrate(migration).await?;
            output::note(&format!("the tables are of version {}", schema.expanded));
            records.close().await;
            Ok(ExitCode::SUCCESS)
        }
    }
}

async fn rebuild(client: &Client, reason: String) -> Result<ExitCode> {
    let mut archive = ArchiveClient::new(connect(client).await?);
    let mut progress = archive.rebuild_records(RebuildRecordsRequest { reason }).await?.into_inner();
    let mut last = None;
    while let Some(now) = progress.message().await? {
        if !client.json && last.as_ref() != Some(&now) {
            output::note(&format!("{} objects of the journal, {} events", now.objects, now.events));
        }
        last = Some(now);
    }
    let last = last.filter(|last| last.done).ok_or_else(|| anyhow!("broken off; the old records serve"))?;
    output::one(&last, client.json)?;
    Ok(if last.forks == 0 { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

async fn check(client: &Client) -> Result<ExitCode> {
    let mut archive = ArchiveClient::new(connect(client).await?);
    let found = archive.check_history(CheckHistoryRequest {}).await?.into_inner();
    if client.json {
        output::one(&found, true)?;
    } else {
        output::note(&format!("{} records, {} events", found.records, found.events));
        output::many(&found.gaps, &["key", "what"], false)?;
    }
    Ok(if found.gaps.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}
