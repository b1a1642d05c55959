//! `isocenter pool forecast`: how long reads will wait in the next hours, and which skill would help.

use std::process::ExitCode;

use anyhow::Result;
use clap::Subcommand;
use isocenter_wire::v1::{GetOutlookRequest, reader_assignment_client::ReaderAssignmentClient};

use super::connect;
use crate::{cli::Client, output};

/// The verbs of `isocenter pool`: those of every registered thing, and one more.
#[derive(Debug, Subcommand)]
pub(super) enum Verb<R: Subcommand> {
    /// Those of the registry.
    #[command(flatten)]
    Registry(R),
    /// What is predicted of the next eight hours: where reads will be late, and which skill would help. Reads that no
    /// registered reader could have are listed too. --json tells each half hour.
    Forecast,
}

/// `isocenter pool forecast`.
pub(super) async fn forecast(client: &Client) -> Result<ExitCode> {
    let mut assignment = ReaderAssignmentClient::new(connect(client).await?);
    let found = assignment.get_outlook(GetOutlookRequest {}).await?.into_inner();
    if client.json {
        output::one(&found, true)?;
        return Ok(ExitCode::SUCCESS);
    }
    if found.predicted_at.is_none() {
        output::note("nothing is predicted yet: nothing has come to the queue since this process started");
    }
    let fields =
        ["clinicalClass", "poolId", "from", "late", "reliefModality", "reliefBodyPart", "reliefSaves"];
    output::many(&found.shortages, &fields, false)?;
    for parked in &found.parked {
        let why = parked.obstacles.iter().map(|o| format!("{} ({})", o.rejected_by, o.readers));
        let why = why.collect::<Vec<_>>().join(", ");
        output::note(&format!("{} waits for nobody: {why}", parked.read_id));
    }
    Ok(ExitCode::SUCCESS)
}
