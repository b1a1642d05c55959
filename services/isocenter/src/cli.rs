//! The command line.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use clap::{Args, Parser, Subcommand};

use crate::{bench, command, config::Settings, demo, output, serve};

/// Carries every imaging study from the modality to a signed report that its sender has accepted.
#[derive(Debug, Parser)]
#[command(name = "isocenter", version)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where the server is and how to print.
#[derive(Args, Clone, Debug)]
pub struct Client {
    /// The server to speak to.
    #[arg(long, env = "ISOCENTER_SERVER", default_value = "http://127.0.0.1:8080", global = true)]
    pub server: String,
    /// The authorities of an https server, PEM.
    #[arg(long, env = "ISOCENTER_CLIENT_CA", global = true)]
    pub tls_ca: Option<PathBuf>,
    /// Our certificate, PEM: who we are, O=<tenant>, OU=operator, CN=<name>.
    #[arg(long, env = "ISOCENTER_CLIENT_CERT", global = true)]
    pub tls_cert: Option<PathBuf>,
    /// Its private key, PEM.
    #[arg(long, env = "ISOCENTER_CLIENT_KEY", global = true)]
    pub tls_key: Option<PathBuf>,
    /// Print JSON: lists as one array of the proto's JSON form.
    #[arg(long, global = true)]
    pub json: bool,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run roles until a signal.
    Serve(ServeArgs),
    /// Watch studies flow from modality to acknowledged report, all on loopback.
    Demo(DemoArgs),
    /// Measure this build on this machine.
    Bench(bench::BenchArgs),
    /// Simulate queues and whole networks with the engine's own code; needs no server.
    Simulate(command::simulate::SimulateArgs),
    /// Print the life of every record, as docs/states.md has it.
    States,
    /// Compare what was received, routed, read and delivered. Exit 0 equal, 1 differences, 3 could not tell.
    Reconcile(command::reconcile::ReconcileArgs),
    /// Everything that waits longer than it may, with who owes what. Exit 0 nothing, 1 something.
    Stuck(Client),
    /// Studies.
    Study(command::study::StudyArgs),
    /// Reads.
    Read(command::read::ReadArgs),
    /// Deliveries.
    Delivery(command::delivery::DeliveryArgs),
    /// Sites that send.
    Site(command::registry::SiteArgs),
    /// Readers.
    Reader(command::registry::ReaderArgs),
    /// Pools of readers.
    Pool(command::registry::PoolArgs),
    /// Destinations of reports.
    Destination(command::registry::DestinationArgs),
    /// AI services.
    Ai(command::registry::AiArgs),
    /// The routing policy.
    Policy(command::policy::PolicyArgs),
    /// Running processes.
    Node(command::operations::NodeArgs),
    /// End a process as SIGTERM does, and wait until it is gone.
    Drain(command::operations::DrainArgs),
    /// The level of the store's records.
    Level(command::operations::LevelArgs),
    /// The history in SQL.
    Records(command::records::RecordsArgs),
    /// Check the store, print it, or begin a new epoch.
    Store(command::operations::StoreArgs),
}

/// How to run roles.
#[derive(Args, Debug)]
pub struct ServeArgs {
    /// A YAML file of the same keys as the flags below. Flag before environment before file before default.
    #[arg(long, env = "ISOCENTER_CONFIG")]
    pub config: Option<PathBuf>,
    /// Print one line of JSON with the bound addresses to stdout, when everything is bound.
    #[arg(long)]
    pub print_addresses: bool,
    #[command(flatten)]
    pub settings: Settings,
}

/// How to run the demo.
#[derive(Args, Clone, Debug)]
pub struct DemoArgs {
    /// Send the DICOM files found here instead of synthetic studies.
    #[arg(long)]
    pub dicom_dir: Option<PathBuf>,
    /// End when every accepted study is terminal. Exit 0 if nothing was lost and every signed report is acknowledged.
    #[arg(long)]
    pub once: bool,
    /// Make the last line of stdout a JSON object.
    #[arg(long)]
    pub json: bool,
    /// What the synthetic studies and the scripted readers are drawn from; printed.
    #[arg(long)]
    pub seed: Option<u64>,
    /// How many synthetic studies.
    #[arg(long, default_value_t = 22, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub studies: u32,
    /// Keep everything here; a fresh temporary folder where absent.
    #[arg(long)]
    pub data: Option<PathBuf>,
}

impl Cli {
    /// Does what was asked.
    pub async fn run(self) -> Result<ExitCode> {
        match self.command {
            Command::Serve(args) => serve::run(args).await,
            Command::Demo(args) => demo::run(args).await,
            Command::Bench(args) => bench::run(args).await,
            Command::Simulate(args) => command::simulate::run(args),
            Command::States => {
                output::line(isocenter_domain::states::render().trim_end())?;
                Ok(ExitCode::SUCCESS)
            }
            Command::Reconcile(args) => command::reconcile::run(args).await,
            Command::Stuck(client) => command::reconcile::stuck(&client).await,
            Command::Study(args) => command::study::run(args).await,
            Command::Read(args) => command::read::run(args).await,
            Command::Delivery(args) => command::delivery::run(args).await,
            Command::Site(args) => command::registry::site(args).await,
            Command::Reader(args) => command::registry::reader(args).await,
            Command::Pool(args) => command::registry::pool(args).await,
            Command::Destination(args) => command::registry::destination(args).await,
            Command::Ai(args) => command::registry::ai(args).await,
            Command::Policy(args) => command::policy::run(args).await,
            Command::Node(args) => command::operations::node(args).await,
            Command::Drain(args) => command::operations::drain(args).await,
            Command::Level(args) => command::operations::level(args).await,
            Command::Records(args) => command::records::run(args).await,
            Command::Store(args) => command::operations::store(args).await,
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn no_two_flags_clash() {
        super::Cli::command().debug_assert();
    }
}
