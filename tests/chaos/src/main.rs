//! `make chaos`: every play under many seeds, with all that it takes.

use std::{path::PathBuf, process::ExitCode, time::Duration};

use anyhow::{Result, bail};
use clap::Parser;
use isocenter_runtime::random::Seeded;
use isocenter_tests_chaos::{
    run::{Settings, run, tell},
    scenario::Scenario,
};

/// Breaks a cluster in every way there is, and judges what is left.
#[derive(Debug, Parser)]
struct Arguments {
    /// The plays, by name; with none, every one.
    scenarios: Vec<String>,
    /// List the plays and end.
    #[arg(long)]
    list: bool,
    /// Seeds for each play.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// The first seed; drawn where absent.
    #[arg(long, env = "ISOCENTER_CHAOS_SEED")]
    seed: Option<u64>,
    /// How long each play lasts, in seconds.
    #[arg(long, env = "ISOCENTER_CHAOS_SECONDS", default_value_t = 30)]
    seconds: u64,
    /// Studies per second.
    #[arg(long, default_value_t = 20.0)]
    rate: f64,
    /// A folder with studies of real devices to send among the synthetic ones.
    #[arg(long)]
    dicom_dir: Option<PathBuf>,
    /// The binary; without this, the one beside this program.
    #[arg(long, env = "ISOCENTER_BINARY")]
    binary: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<ExitCode> {
    let arguments = Arguments::parse();
    let all = Scenario::all();
    if arguments.list {
        all.iter().for_each(|scenario| tell(&scenario.name()));
        return Ok(ExitCode::SUCCESS);
    }
    let mut chosen = Vec::new();
    for name in &arguments.scenarios {
        match all.iter().find(|scenario| scenario.name() == *name) {
            Some(scenario) => chosen.push(*scenario),
            None => bail!("{name} is no play; --list names them"),
        }
    }
    if chosen.is_empty() {
        chosen = all;
    }
    let binary = match arguments.binary {
        Some(binary) => binary,
        None => std::env::current_exe()?.with_file_name("isocenter"),
    };
    if !binary.exists() {
        bail!(
            "{} is missing: build it first (cargo build -p isocenter), or name another by --binary",
            binary.display()
        );
    }
    let first = arguments.seed.unwrap_or_else(|| Seeded::fresh().seed() >> 32);
    let mut failed = 0;
    for seed in first..first + arguments.seeds {
        for scenario in &chosen {
            let settings = Settings {
                binary: binary.clone(),
                seed,
                length: Duration::from_secs(arguments.seconds),
                rate: arguments.rate,
                real: arguments.dicom_dir.clone(),
            };
            failed += usize::from(!passed(*scenario, &settings).await);
        }
    }
    tell(&format!("chaos: {failed} runs of {} failed", chosen.len() as u64 * arguments.seeds));
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn passed(scenario: Scenario, settings: &Settings) -> bool {
    let outcomes = match run(scenario, settings).await {
        Ok(outcomes) => outcomes,
        Err(error) => {
            tell(&format!("chaos: {} seed {} FAILED: {error:#}", scenario.name(), settings.seed));
            return false;
        }
    };
    tell(&outcomes.line());
    for (what, silence) in &outcomes.silences {
        tell(&format!("  after {what}: {:.1} s", silence.as_secs_f64()));
    }
    for violation in outcomes.violations.iter().take(20) {
        tell(&format!("  {violation}"));
    }
    if let Some(folder) = &outcomes.folder {
        tell(&format!("  see {}", folder.display()));
    }
    outcomes.violations.is_empty()
}
