//! Transitions a second against bare compare-and-swap: `isocenter bench flow`, run on an etcd that is started for it.

use anyhow::{Context as _, Result, bail};
use isocenter_runtime::task::Tasks;
use tokio::process::Command;

use crate::{
    system::{Etcd, isocenter},
    table::Figures,
};

/// Runs it and takes over its figures.
pub async fn run(studies: u32, _: &Tasks, figures: &mut Figures) -> Result<()> {
    let etcd = Etcd::start().await?;
    let studies = studies.to_string();
    let ran = Command::new(isocenter()?)
        .args(["bench", "flow", "--json", "--store", &etcd.store(), "--studies", &studies])
        .output()
        .await?;
    if !ran.status.success() {
        bail!("isocenter bench flow: {}", String::from_utf8_lossy(&ran.stderr));
    }
    let told: serde_json::Value = serde_json::from_slice(&ran.stdout)?;
    for row in told["rows"].as_array().context("it prints rows")? {
        let number = |name: &str| row[name].as_f64().unwrap_or(f64::NAN);
        figures.add(
            format!("flow, etcd, {:.0} clients: transitions to swaps", number("clients")),
            format!("{:.2}", number("transitions_to_swaps")),
            format!(
                "aim 0.40; {:.0} transitions/s ({:.1} studies/s, p50 {:.0} ms), {:.0} commits/s, {:.0} swaps/s",
                number("transitions_per_second"),
                number("studies_per_second"),
                number("study_p50_ms"),
                number("commits_per_second"),
                number("swaps_per_second"),
            ),
        );
    }
    Ok(())
}
