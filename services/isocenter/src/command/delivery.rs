//! `isocenter delivery`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Args, Subcommand};
use isocenter_wire::v1::{
    ListDeliveriesRequest, ReplayDeliveryRequest, report_delivery_client::ReportDeliveryClient,
};

use super::{connect, pages, request_id};
use crate::{cli::Client, output};

/// Deliveries.
#[derive(Args, Debug)]
pub struct DeliveryArgs {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    client: Client,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Live deliveries.
    List,
    /// Send a dead letter again, under the same message id.
    Replay {
        /// `{case}.{number}`.
        report: String,
        /// The destination.
        destination: String,
        /// The report's version.
        #[arg(long = "report-version", default_value_t = 1)]
        report_version: u32,
    },
}

/// Does what was asked.
pub async fn run(args: DeliveryArgs) -> Result<ExitCode> {
    let mut client = ReportDeliveryClient::new(connect(&args.client).await?);
    match args.verb {
        Verb::List => {
            let deliveries = pages(|page_token| {
                let mut client = client.clone();
                async move {
                    let request = ListDeliveriesRequest { page_size: 1000, page_token, ..Default::default() };
                    let page = client.list_deliveries(request).await?.into_inner();
                    Ok((page.deliveries, page.next_page_token))
                }
            })
            .await?;
            let fields =
                ["reportId", "version", "destinationId", "state", "attempts", "messageId", "lastError"];
            output::many(&deliveries, &fields, args.client.json)?;
        }
        Verb::Replay { report, destination, report_version } => {
            let request = ReplayDeliveryRequest {
                report_id: report,
                version: report_version,
                destination_id: destination,
                request_id: request_id(),
            };
            output::one(&client.replay_delivery(request).await?.into_inner(), args.client.json)?;
        }
    }
    Ok(ExitCode::SUCCESS)
}
