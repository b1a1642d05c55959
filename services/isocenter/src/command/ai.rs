//! `isocenter ai health` and `isocenter ai check`: how vendors' services stand, and whether one keeps the contract.

use std::{net::SocketAddr, process::ExitCode};

use anyhow::Result;
use clap::{Args, Subcommand};
use isocenter_peers::vendor::conformance::{self, Options};
use isocenter_runtime::{config::Period, task::Tasks};
use isocenter_wire::v1::{GetServiceHealthRequest, ai_dispatch_client::AiDispatchClient};

use super::connect;
use crate::{
    cli::Client,
    output::{self, REFUSED},
};

/// The verbs of `isocenter ai`: those of every registered thing, and two more.
#[derive(Debug, Subcommand)]
pub(super) enum Verb<R: Subcommand> {
    /// Those of the registry.
    #[command(flatten)]
    Registry(R),
    /// How the services stand with the process that answers.
    Health,
    /// Call a service as isocenter would, with synthetic studies, and say which clauses of the contract it keeps. Exit 0 all
    /// of them, 1 not.
    Check(CheckArgs),
}

/// What to check.
#[derive(Args, Debug)]
pub(super) struct CheckArgs {
    /// The service, http://host:port.
    address: String,
    /// Where the checker serves pixels: an address of this machine that the service reaches.
    #[arg(long, default_value = "127.0.0.1:0")]
    listen: SocketAddr,
    /// How the service reaches that, where it is another address than the one that is bound: http://host:port.
    #[arg(long)]
    fetch_address: Option<String>,
    /// How long one analysis of a small study may take.
    #[arg(long, default_value = "60s")]
    patience: Period,
}

/// `isocenter ai health`.
pub(super) async fn health(client: &Client) -> Result<ExitCode> {
    let mut dispatch = AiDispatchClient::new(connect(client).await?);
    let found = dispatch.get_service_health(GetServiceHealthRequest::default()).await?.into_inner();
    if client.json {
        output::one(&found, true)?;
    } else {
        output::note(&format!("as {} sees it", found.process));
        let fields = [
            "serviceId",
            "state",
            "inFlight",
            "limit",
            "waiting",
            "consecutiveFailures",
            "latencyP50",
            "latencyP95",
        ];
        output::many(&found.services, &fields, false)?;
    }
    Ok(ExitCode::SUCCESS)
}

/// `isocenter ai check`.
pub(super) async fn check(args: CheckArgs) -> Result<ExitCode> {
    let options = Options {
        listen: args.listen,
        fetch_address: args.fetch_address,
        patience: args.patience.0,
        ..Options::new(args.address)
    };
    let report = conformance::check(options, &Tasks::new()).await?;
    output::line(&report.to_string())?;
    Ok(if report.conforms() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}
