//! `isocenter read`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use isocenter_wire::v1::{
    CancelReadRequest, ExplainReadRequest, GetReportRequest, IndexTerm, ListWorklistRequest,
    ReassignReadRequest, RequestConsultationRequest, RequestSecondOpinionRequest, TransferReadRequest,
    archive_client::ArchiveClient, reader_assignment_client::ReaderAssignmentClient,
};
use serde_json::json;
use tonic::transport::Channel;

use super::{connect, pages, request_id};
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
    /// The queue in its order, then reads in hand, then those that are done.
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
    /// The signed report of a read, the newest version.
    Report {
        /// `{case}.{number}`.
        id: String,
    },
    /// Hand a read to another reader, who takes it by opening it.
    Transfer {
        /// `{case}.{number}`.
        id: String,
        /// Who holds it; without this it is handed out of the queue.
        #[arg(long, default_value = "")]
        from: String,
        /// To whom.
        #[arg(long)]
        to: String,
        /// For the event.
        #[arg(long)]
        reason: String,
    },
    /// Ask another reader for an opinion on a read, signed or not.
    SecondOpinion {
        /// `{case}.{number}`.
        id: String,
        /// What is asked; its reader alone sees it.
        #[arg(long)]
        question: String,
    },
    /// Ask a reader a clinician's question about a case.
    Consultation {
        /// The case.
        case: String,
        /// What is asked; its reader alone sees it.
        #[arg(long)]
        question: String,
    },
    /// End a second opinion, a consultation or a review that nobody wants any more.
    Cancel {
        /// `{case}.{number}`.
        id: String,
        /// For the event.
        #[arg(long)]
        reason: String,
    },
    /// Take a read back from a holder who is gone.
    Reassign {
        /// `{case}.{number}`.
        id: String,
        /// Who holds it.
        #[arg(long)]
        from: String,
        /// For the event.
        #[arg(long)]
        reason: String,
    },
}

/// Does what was asked.
pub async fn run(args: ReadArgs) -> Result<ExitCode> {
    let channel = connect(&args.client).await?;
    let mut client = ReaderAssignmentClient::new(channel.clone());
    let json = args.client.json;
    match args.verb {
        Verb::List { reader } => list(&client, &reader.unwrap_or_default(), json).await?,
        Verb::Why { id } => why(client, id, json).await?,
        Verb::Report { id } => {
            let request = GetReportRequest { report_id: id, version: 0 };
            output::one(&ArchiveClient::new(channel).get_report(request).await?.into_inner(), json)?;
        }
        Verb::Transfer { id, from, to, reason } => {
            let request = TransferReadRequest {
                read_id: id,
                reader_id: from,
                to_reader_id: to,
                reason,
                request_id: request_id(),
                ..Default::default()
            };
            output::one(&client.transfer_read(request).await?.into_inner(), json)?;
        }
        Verb::SecondOpinion { id, question } => {
            let request =
                RequestSecondOpinionRequest { read_id: id, question, due_at: None, request_id: request_id() };
            output::one(&client.request_second_opinion(request).await?.into_inner(), json)?;
        }
        Verb::Consultation { case, question } => {
            let request = RequestConsultationRequest {
                case_id: case,
                question,
                due_at: None,
                request_id: request_id(),
            };
            output::one(&client.request_consultation(request).await?.into_inner(), json)?;
        }
        Verb::Cancel { id, reason } => {
            let request = CancelReadRequest { read_id: id, reason, request_id: request_id() };
            output::one(&client.cancel_read(request).await?.into_inner(), json)?;
        }
        Verb::Reassign { id, from, reason } => {
            let request =
                ReassignReadRequest { read_id: id, reader_id: from, reason, request_id: request_id() };
            output::one(&client.reassign_read(request).await?.into_inner(), json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn list(client: &ReaderAssignmentClient<Channel>, reader: &str, json: bool) -> Result<()> {
    let reads = pages(|page_token| {
        let (mut client, reader_id) = (client.clone(), reader.to_owned());
        async move {
            let request =
                ListWorklistRequest { reader_id, page_size: 1000, page_token, ..Default::default() };
            let page = client.list_worklist(request).await?.into_inner();
            Ok((page.reads, page.next_page_token))
        }
    })
    .await?;
    let fields =
        ["readId", "kind", "state", "clinicalClass", "dueAt", "modalities", "siteId", "holderReaderId"];
    output::many(&reads, &fields, json)
}

async fn why(mut client: ReaderAssignmentClient<Channel>, id: String, json: bool) -> Result<()> {
    let why = client.explain_read(ExplainReadRequest { read_id: id }).await?.into_inner();
    if json {
        return output::one(&why, true);
    }
    let class = format!("classed by rule {} of policy {}", why.rule, why.policy_version);
    if why.position == 0 {
        let read = why.read.unwrap_or_default();
        let state = output::constant(read.state().as_str_name()).unwrap_or_default();
        output::line(&format!("not in the queue: {state} {}", read.holder_reader_id))?;
        return output::line(&class);
    }
    output::line(&format!("position {}, {class}", why.position))?;
    let terms = why.terms.iter().map(|t| json!({ "term": t.name, "value": quantity(t) }));
    output::many(&terms.collect::<Vec<_>>(), &["term", "value"], false)?;
    let readers = why.readers.iter().map(|r| {
        let verdict = if r.eligible { "eligible" } else { r.rejected_by.as_str() };
        json!({ "reader": r.reader_id, "verdict": verdict })
    });
    output::many(&readers.collect::<Vec<_>>(), &["reader", "verdict"], false)
}

/// A term's value for people: times in hours, minutes and seconds.
fn quantity(term: &IndexTerm) -> String {
    if term.unit != "us" {
        return format!("{} {}", term.value, term.unit);
    }
    #[expect(clippy::cast_possible_truncation, reason = "microseconds of any stay are far below 2^63")]
    let seconds = (term.value / 1e6).round() as i64;
    let (sign, seconds) = (if seconds < 0 { "-" } else { "" }, seconds.abs());
    match (seconds / 3600, seconds / 60 % 60, seconds % 60) {
        (0, 0, s) => format!("{sign}{s}s"),
        (0, m, s) => format!("{sign}{m}m {s}s"),
        (h, m, s) => format!("{sign}{h}h {m}m {s}s"),
    }
}
