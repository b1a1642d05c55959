//! `isocenter reconcile` and `isocenter stuck`.

use std::{collections::BTreeMap, process::ExitCode};

use anyhow::Result;
use clap::Args;
use isocenter_wire::v1::{ListStuckRequest, ReconcileRequest, archive_client::ArchiveClient};

use super::{connect, pages};
use crate::{
    cli::Client,
    output::{self, REFUSED, UNREACHABLE, Usage},
};

/// What to compare and what to do about it.
#[derive(Args, Debug)]
pub struct ReconcileArgs {
    /// Mend what can be mended without a decision; needs --reason. What was mended is no difference any more.
    #[arg(long)]
    repair: bool,
    /// Why it is mended; kept in the events.
    #[arg(long, default_value = "")]
    reason: String,
    /// Leave out the images of closed studies that an earlier comparison found whole.
    #[arg(long)]
    changed_only: bool,
    #[command(flatten)]
    client: Client,
}

/// Compares, and says by its exit code whether everything is equal.
pub async fn run(args: ReconcileArgs) -> Result<ExitCode> {
    let ReconcileArgs { repair, reason, changed_only, client } = args;
    if repair && reason.is_empty() {
        return Err(Usage("--repair needs --reason: what is mended is an event with a reason".into()).into());
    }
    let channel = connect(&client).await?;
    let request = ReconcileRequest { repair, reason, changed_only };
    let answer = match ArchiveClient::new(channel).reconcile(request).await {
        Ok(answer) => answer.into_inner(),
        Err(status) => {
            output::note(&format!("isocenter: could not compare: {}", status.message()));
            return Ok(ExitCode::from(UNREACHABLE));
        }
    };
    let mended = answer.differences.iter().filter(|d| d.mended).count() as u64;
    let equal = answer.difference_count == mended;
    if client.json {
        let checked: BTreeMap<&str, u64> =
            answer.checked.iter().map(|c| (c.kind.as_str(), c.count)).collect();
        let found = serde_json::json!({
            "checked": checked,
            "differences": answer.differences,
            "differenceCount": answer.difference_count,
        });
        output::line(&found.to_string())?;
    } else {
        // Not the proto's JSON form, which leaves out a count of zero.
        let checked = answer.checked.iter().map(|c| serde_json::json!({ "kind": c.kind, "count": c.count }));
        output::many(&checked.collect::<Vec<_>>(), &["kind", "count"], false)?;
        if answer.difference_count == 0 {
            output::note("no differences");
        } else {
            let fields = ["kind", "key", "expected", "found", "mended", "remedy"];
            output::many(&answer.differences, &fields, false)?;
            output::note(&format!("{} differences, {mended} of them mended", answer.difference_count));
        }
    }
    Ok(if equal { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}

/// `isocenter stuck`: exit 0 if nothing waits longer than it may, 1 otherwise.
pub async fn stuck(client: &Client) -> Result<ExitCode> {
    let archive = ArchiveClient::new(connect(client).await?);
    let stuck = pages(|page_token| {
        let mut archive = archive.clone();
        async move {
            let page =
                archive.list_stuck(ListStuckRequest { page_size: 1000, page_token }).await?.into_inner();
            Ok((page.stuck, page.next_page_token))
        }
    })
    .await?;
    if stuck.is_empty() && !client.json {
        output::note("nothing waits longer than it may");
        return Ok(ExitCode::SUCCESS);
    }
    output::many(&stuck, &["kind", "key", "state", "since", "bound", "owner", "cause"], client.json)?;
    Ok(if stuck.is_empty() { ExitCode::SUCCESS } else { ExitCode::from(REFUSED) })
}
