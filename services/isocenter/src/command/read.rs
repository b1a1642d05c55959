//! `isocenter read`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use isocenter_wire::v1::{
    ExplainReadRequest, ListWorklistRequest, ReassignReadRequest,
    reader_assignment_client::ReaderAssignmentClient,
};

use super::{connect, request_id};
use crate::{cli::Client, output};

/// Reads.
#[derive(Args, Debug)]
pub struct ReadArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// The queue in its order, then reads in hand, then signed ones.
    List {
        /// Only what this reader may read or holds.
        #[arg(long)]
        reader: Option<String>,
    },
    /// Why a read is where it is, and what stands against each reader.
    Why {
        /// `{case}.{number}`.
        id: String,
    },
    /// Take a read back from a holder who is gone.
    Reassign {
        /// `{case}.{number}`.
        id: String,
        /// For the event.
        #[arg(long)]
        reason: String,
    },
}

/// Does what was asked.
pub async fn run(args: ReadArgs) -> Result<ExitCode> {
    let mut client = ReaderAssignmentClient::new(connect(&args.client).await?);
    let json = args.client.json;
    match args.verb {
        Verb::List { reader } => {
            let mut request = ListWorklistRequest {
                reader_id: reader.unwrap_or_default(),
                page_size: 1000,
                ..Default::default()
            };
            let mut reads = Vec::new();
            loop {
                let page = client.list_worklist(request.clone()).await?.into_inner();
                reads.extend(page.reads);
                if page.next_page_token.is_empty() {
                    break;
                }
                request.page_token = page.next_page_token;
            }
            let fields =
                ["readId", "state", "clinicalClass", "dueAt", "modalities", "siteId", "holderReaderId"];
            output::many(&reads, &fields, json)?;
        }
        Verb::Why { id } => {
            let why = client.explain_read(ExplainReadRequest { read_id: id }).await?.into_inner();
            if json {
                output::one(&why, true)?;
            } else {
                output::line(&format!(
                    "position {} by rule {} of policy {}",
                    why.position, why.rule, why.policy_version
                ))?;
                output::many(&why.terms, &["name", "value", "unit"], false)?;
                output::many(&why.readers, &["readerId", "eligible", "rejectedBy"], false)?;
            }
        }
        Verb::Reassign { id, reason } => {
            let request = ReassignReadRequest { read_id: id, reason, request_id: request_id() };
            output::one(&client.reassign_read(request).await?.into_inner(), json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
