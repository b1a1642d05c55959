//! `isocenter reconcile`.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use isocenter_wire::v1::{ReconcileRequest, archive_client::ArchiveClient};

use super::connect;
use crate::{
    cli::Client,
    output::{self, REFUSED, UNREACHABLE},
};

/// Compares, and says by its exit code whether everything is equal.
pub async fn run(client: &Client) -> Result<ExitCode> {
    let channel = connect(client).await?;
    let answer = match ArchiveClient::new(channel).reconcile(ReconcileRequest {}).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            output::note(&format!("isocenter: could not compare: {}", status.message()));
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    if client.json {
        let checked: BTreeMap<&str, u64> =
            answer.checked.iter().map(|c| (c.kind.as_str(), c.count)).collect();
        let found = serde_json::json!({ "checked": checked, "differences": answer.differences });
        output::line(&found.to_string())?;
    } else {
        // Not the proto's JSON form, which leaves out a count of zero.
        let checked = answer.checked.iter().map(|c| serde_json::json!({ "kind": c.kind, "count": c.count }));
        output::many(&checked.collect::<Vec<_>>(), &["kind", "count"], false)?;
        if answer.differences.is_empty() {
            output::note("no differences");
        } else {
            output::many(&answer.differences, &["kind", "key", "expected", "found"], false)?;
        }
    }
    Ok(if answer.differences.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}
