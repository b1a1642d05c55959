//! `isocenter node`, `drain`, `level` and `store`: what operators ask of a process and of the store.

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, anyhow};
use clap::{Args, Subcommand};
use isocenter_wire::v1::{
    CheckStoreRequest, DrainRequest, DumpStoreRequest, ListNodesRequest, RaiseLevelRequest,
    ReleaseNodeRequest, ReleaseNodeResponse, StartEpochRequest, ingestion_client::IngestionClient,
    operations_client::OperationsClient,
};
use serde::Serialize;
use tonic::{Code, transport::Channel};

use super::{connect, request_id};
use crate::{
    cli::Client,
    output::{self, REFUSED},
};

/// How often it is tried whether a draining process still answers.
const POLL: Duration = Duration::from_millis(200);

/// Processes.
#[derive(Args, Debug)]
pub struct NodeArgs {
    #[command(subcommand)]
    verb: NodeVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum NodeVerb {
    /// Live processes, by role.
    List,
    /// Wait no longer for a node whose spool is gone for ever: the studies that do are complete without it.
    Release {
        /// The node, as doubts name it.
        id: String,
        /// Why; kept in the events.
        #[arg(long)]
        reason: String,
    },
}

/// How to drain.
#[derive(Args, Debug)]
pub struct DrainArgs {
    /// Why, for the log.
    #[arg(long, default_value = "asked by an operator")]
    reason: String,
    #[command(flatten)]
    client: Client,
}

/// The store's level.
#[derive(Args, Debug)]
pub struct LevelArgs {
    #[command(subcommand)]
    verb: LevelVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum LevelVerb {
    /// Let records of a new level be written, once every process knows it.
    Raise {
        /// The level; the highest that the asked process knows where absent.
        level: Option<u32>,
    },
}

/// The store.
#[derive(Args, Debug)]
pub struct StoreArgs {
    #[command(subcommand)]
    verb: StoreVerb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum StoreVerb {
    /// Read every key and say what is wrong with it. Exit 0 nothing, 1 something.
    Check,
    /// Print every key with its value, one JSON object a line.
    Dump {
        /// Only keys that begin with this.
        #[arg(default_value = "")]
        prefix: String,
    },
    /// Begin a new epoch: every process of the old one stops.
    Epoch {
        /// Why.
        #[arg(long)]
        reason: String,
    },
    /// Bring a store that was put back from a snapshot up to date from the journal, under a new epoch. No process may run: this
    /// verb speaks to the store and to blobs itself.
    Restore(super::restore::RestoreArgs),
}

/// One line of a dump.
#[derive(Serialize)]
struct Line {
    key: String,
    revision: i64,
    leased: bool,
    value: serde_json::Value,
}

/// `isocenter node`.
pub async fn node(args: NodeArgs) -> Result<ExitCode> {
    let channel = connect(&args.client).await?;
    match args.verb {
        NodeVerb::List => {
            let nodes =
                OperationsClient::new(channel).list_nodes(ListNodesRequest {}).await?.into_inner().nodes;
            output::many(&nodes, &["role", "nodeId", "address", "level", "version"], args.client.json)?;
        }
        NodeVerb::Release { id, reason } => release(channel, &id, &reason, args.client.json).await?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Releases every study that waits for a node.
async fn release(channel: Channel, node_id: &str, reason: &str, json: bool) -> Result<()> {
    let mut client = IngestionClient::new(channel);
    let mut all = ReleaseNodeResponse::default();
    loop {
        let request = ReleaseNodeRequest {
            node_id: node_id.to_owned(),
            reason: reason.to_owned(),
            request_id: request_id(),
        };
        let page = client.release_node(request).await?.into_inner();
        all.study_instance_uids.extend(page.study_instance_uids);
        all.without_images = page.without_images;
        if !page.more {
            return output::one(&all, json);
        }
    }
}

/// `isocenter drain`: returns when the process no longer answers.
pub async fn drain(args: DrainArgs) -> Result<ExitCode> {
    let mut client = OperationsClient::new(connect(&args.client).await?);
    let answer = client.drain(DrainRequest { reason: args.reason }).await?.into_inner();
    drop(client);
    let bound = Duration::from_secs(u64::from(answer.deadline_seconds) + 10);
    let gone = async {
        // Whatever it says to that, it still answers.
        while answers(&args.client).await {
            tokio::time::sleep(POLL).await;
        }
    };
    let late = || anyhow!("the process still answers, {} s after it was told to end", bound.as_secs());
    tokio::time::timeout(bound, gone).await.map_err(|_| late())?;
    output::note("drained");
    Ok(ExitCode::SUCCESS)
}

/// Whether the process can still be asked.
async fn answers(client: &Client) -> bool {
    let Ok(channel) = connect(client).await else { return false };
    let asked = OperationsClient::new(channel).list_nodes(ListNodesRequest {}).await;
    !asked.is_err_and(|status| status.code() == Code::Unavailable)
}

/// `isocenter level`.
pub async fn level(args: LevelArgs) -> Result<ExitCode> {
    let mut client = OperationsClient::new(connect(&args.client).await?);
    match args.verb {
        LevelVerb::Raise { level } => {
            let request = RaiseLevelRequest { level: level.unwrap_or_default() };
            output::one(&client.raise_level(request).await?.into_inner(), args.client.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// `isocenter store`.
pub async fn store(args: StoreArgs) -> Result<ExitCode> {
    let json = args.client.json;
    let client = async || anyhow::Ok(OperationsClient::new(connect(&args.client).await?));
    match args.verb {
        StoreVerb::Restore(restore) => return super::restore::run(restore, json).await,
        StoreVerb::Check => {
            let found = client().await?.check_store(CheckStoreRequest {}).await?.into_inner();
            if json {
                output::one(&found, true)?;
            } else {
                output::many(&found.counts, &["kind", "records"], false)?;
                let (outbox, leased, future) = (found.outbox, found.leased, found.future.len());
                output::note(&format!(
                    "{outbox} events wait, {leased} keys are leased, {future} records are of the future"
                ));
                output::many(&found.faults, &["key", "what"], false)?;
            }
            return Ok(if found.fault_count == 0 { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) });
        }
        StoreVerb::Dump { prefix } => {
            let mut lines = client().await?.dump_store(DumpStoreRequest { prefix }).await?.into_inner();
            while let Some(line) = lines.message().await? {
                let value = serde_json::from_str(&line.json)?;
                let line = Line { key: line.key, revision: line.mod_revision, leased: line.leased, value };
                output::line(&serde_json::to_string(&line)?)?;
            }
        }
        StoreVerb::Epoch { reason } => {
            let request = StartEpochRequest { reason };
            output::one(&client().await?.start_epoch(request).await?.into_inner(), json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
