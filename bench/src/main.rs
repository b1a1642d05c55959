//! What Isocenter costs, measured on real processes: `isocenter serve`, etcd, DICOM over sockets, readers over gRPC, reports
//! over MLLP. Prints figures, never judges them; README.md says what is aimed at and how to repeat.

mod bytes;
mod cost;
mod flow;
mod images;
mod memory;
mod network;
mod offers;
mod records;
mod startup;
mod system;
mod table;
mod worklist;

use anyhow::Result;
use clap::{Parser, Subcommand, ValueEnum};
use isocenter_runtime::task::Tasks;
use table::Figures;

/// Benchmarks of this build on this machine.
#[derive(Debug, Parser)]
#[command(name = "isocenter-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

/// Where live records are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Store {
    /// In the one process that runs every role.
    Embedded,
    /// In an etcd of one member, started for this.
    Etcd,
}

impl Store {
    /// Its name in figures.
    const fn name(self) -> &'static str {
        match self {
            Self::Embedded => "embedded",
            Self::Etcd => "etcd",
        }
    }
}

#[derive(Debug, Subcommand)]
enum Command {
    /// The short form of everything, one table: under ten minutes.
    All,
    /// `isocenter bench flow` on an etcd started for it.
    Flow {
        /// Studies per round and number of clients.
        #[arg(long, default_value_t = 200)]
        studies: u32,
    },
    /// From a study's completeness to its read's being listed, at a steady rate.
    Worklist {
        /// Where live records are.
        #[arg(long, value_enum, default_value_t = Store::Embedded)]
        store: Store,
        /// Studies a second.
        #[arg(long, default_value_t = 20.0)]
        rate: f64,
        /// Studies in all.
        #[arg(long, default_value_t = 1200)]
        studies: u32,
    },
    /// Bytes of a waiting study in etcd, by kind of record, and bytes of the database for each transition.
    Bytes {
        /// Studies.
        #[arg(long, default_value_t = 500)]
        studies: u32,
    },
    /// Memory of each role's own process while studies go through and are closed.
    Memory {
        /// Studies.
        #[arg(long, default_value_t = 20_000)]
        studies: u32,
    },
    /// From the start of a process to its being ready, with live studies in the store.
    Startup {
        /// Where live records are.
        #[arg(long, value_enum, default_value_t = Store::Embedded)]
        store: Store,
        /// Live studies.
        #[arg(long, default_value_t = 50_000)]
        studies: u32,
    },
    /// Offers a second, each answered once it is durable.
    Offers {
        /// Where live records are.
        #[arg(long, value_enum, default_value_t = Store::Embedded)]
        store: Store,
        /// Reads in the queue.
        #[arg(long, default_value_t = 10_000)]
        waiting: u32,
        /// Readers, each of whom asks once.
        #[arg(long, default_value_t = 2_000)]
        readers: u32,
    },
    /// What a study costs at 1, 10, 100 and 200 times 25,000 studies a day.
    Cost {
        /// Seconds for each rate.
        #[arg(long, default_value_t = 120)]
        seconds: u64,
        /// Live studies in the store before the first is sent, as many as wait at one time of that load: 4,200 is a
        /// day of 25,000 with a stay of four hours.
        #[arg(long, default_value_t = 4200)]
        live: u32,
    },
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let tasks = Tasks::new();
    let mut figures = Figures::new();
    let done = run(cli.command, &tasks, &mut figures).await;
    tasks.drain(std::time::Duration::from_secs(5)).await;
    figures.print()?;
    done
}

async fn run(command: Command, tasks: &Tasks, figures: &mut Figures) -> Result<()> {
    match command {
        Command::All => {
            flow::run(100, tasks, figures).await?;
            for store in [Store::Embedded, Store::Etcd] {
                worklist::run(store, 20.0, 400, tasks, figures).await?;
            }
            bytes::run(200, tasks, figures).await?;
            for store in [Store::Embedded, Store::Etcd] {
                startup::run(store, 50_000, tasks, figures).await?;
            }
            for store in [Store::Embedded, Store::Etcd] {
                offers::run(store, 10_000, 1_000, tasks, figures).await?;
            }
            memory::run(2_000, tasks, figures).await?;
            cost::run(20, 4_200, tasks, figures).await
        }
        Command::Flow { studies } => flow::run(studies, tasks, figures).await,
        Command::Worklist { store, rate, studies } => {
            worklist::run(store, rate, studies, tasks, figures).await
        }
        Command::Bytes { studies } => bytes::run(studies, tasks, figures).await,
        Command::Memory { studies } => memory::run(studies, tasks, figures).await,
        Command::Startup { store, studies } => startup::run(store, studies, tasks, figures).await,
        Command::Offers { store, waiting, readers } => {
            offers::run(store, waiting, readers, tasks, figures).await
        }
        Command::Cost { seconds, live } => cost::run(seconds, live, tasks, figures).await,
    }
}
