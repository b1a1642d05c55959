//! `isocenter bench flow`: how much of what the store can do becomes steps in the life of studies.
//!
//! Three rates, one after another on the same store, round by round, so that a neighbour who loads the machine loads all
//! of them:
//!
//! - *swaps*: bare compare-and-swap. Each client owns one key and puts the next value where its own last revision is
//!   still there.
//! - *commits*: the same with all that a change of ours does besides: it compares the epoch and a leader's token, puts the
//!   record with its head, and the event.
//! - *transitions*: what the six roles commit while studies go their whole way: received, complete, planned, offered,
//!   opened, signed, delivered, accepted. Counted are the revisions of the store that put an event, each once, whatever
//!   they put besides. The loads, watches, calls, files, SQL and HL7 on the way are paid for and not counted.
//!
//! A client of the last is one study at a time from its first image to the acknowledgement of its report, with a reader
//! and a lane of its own. Images have no pixels: their manifest is all that is written, by the bench, as a receiving node
//! would write it.

mod feed;
mod flow;
mod raw;

use std::{process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use isocenter_runtime::{task::Tasks, telemetry};
use isocenter_store::{Page, Range};
use serde::Serialize;

use crate::{
    config::{Config, Logs},
    output::{self, Usage},
    serve,
};
use flow::Flow;

/// How long swaps, and commits, are counted in each round.
const SPAN: Duration = Duration::from_millis(1500);

/// What to measure.
#[derive(Args, Debug)]
pub struct BenchArgs {
    #[command(subcommand)]
    command: BenchCommand,
}

#[derive(Debug, Subcommand)]
enum BenchCommand {
    /// Studies through every role, against bare compare-and-swap on the same store.
    Flow(FlowArgs),
}

/// How to measure the flow.
#[derive(Args, Debug)]
struct FlowArgs {
    /// Studies per round and number of clients.
    #[arg(long, default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    studies: u32,
    /// Rounds; medians are printed.
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,
    /// Clients at once.
    #[arg(long, default_value = "1,16,64", value_delimiter = ',', value_parser = clap::value_parser!(u32).range(1..=1000))]
    clients: Vec<u32>,
    /// An etcd without a key, which is so again afterwards: etcd://host:port,…; an embedded store in a fresh folder where absent.
    #[arg(long)]
    store: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// What was measured at one number of clients: medians over the rounds.
#[derive(Debug, Serialize)]
struct Row {
    clients: u32,
    swaps_per_second: f64,
    commits_per_second: f64,
    transitions_per_second: f64,
    studies_per_second: f64,
    /// From the first image to the acknowledgement.
    study_p50_ms: f64,
    transitions_per_study: f64,
    /// The ratio of each round, and of those the median.
    commits_to_swaps: f64,
    transitions_to_swaps: f64,
}

/// What is printed.
#[derive(Debug, Serialize)]
struct Report {
    machine: String,
    build: &'static str,
    store: String,
    studies: u32,
    rounds: u32,
    rows: Vec<Row>,
}

/// Runs what was asked.
pub async fn run(args: BenchArgs) -> Result<ExitCode> {
    match args.command {
        BenchCommand::Flow(args) => flow(args).await,
    }
}

async fn flow(args: FlowArgs) -> Result<ExitCode> {
    let temporary = tempfile::Builder::new().prefix("isocenter-bench-").tempdir()?;
    let data = temporary.path();
    let own = format!("embedded:{}", data.join("store").display());
    let config = config(data, args.store.clone().unwrap_or(own));
    if args.store.is_some() {
        empty(&config.store).await?;
    }
    let telemetry = telemetry::init(config.telemetry.options())?;
    let tasks = Tasks::new();
    let running = serve::start(&config, &tasks).await?;
    running.readiness.ready().await;
    let peers = tasks.child();
    let rows = measure(&args, &config, &running, &peers).await;
    peers.drain(Duration::from_secs(5)).await;
    tasks.drain(config.shutdown.drain.0).await;
    telemetry.shutdown(Duration::from_secs(5));
    drop(running);
    let rows = rows?;
    if args.store.is_some() {
        clear(&config.store).await?;
    }
    report(
        &Report {
            machine: machine(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            store: if args.store.is_some() { config.store } else { "embedded".into() },
            studies: args.studies,
            rounds: args.rounds,
            rows,
        },
        args.json,
    )?;
    Ok(ExitCode::SUCCESS)
}

/// Loopback, free ports, everything but the store in a folder that goes with the process; studies are complete at once.
fn config(data: &std::path::Path, store: String) -> Config {
    let free = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config {
        store,
        records: format!("sqlite:{}", data.join("records.db").display()),
        blobs: data.join("blobs"),
        spool: data.join("spool"),
        secret_file: data.join("network.key"),
        listen: free,
        health: free,
        ..Config::default()
    };
    config.dicom.listen = free;
    config.telemetry.logs = Logs::Text;
    config.telemetry.level = "error".into();
    config
}

/// Refuses a store that somebody uses: the bench writes to it, and clears it when it has ended.
async fn empty(store: &str) -> Result<()> {
    if !store.starts_with("etcd://") {
        return Err(Usage(format!(
            "--store {store}: only etcd:// is named; leave it out for an embedded store"
        ))
        .into());
    }
    let kv = isocenter_store::open(store).await.with_context(|| format!("cannot open the store {store}"))?;
    let found = kv.list(&Range::all(), Page { limit: 1, ..Page::default() }).await?;
    if let Some(first) = found.items.first() {
        let why =
            format!("--store {store} is not empty (it has {}): measure on a store of its own", first.key);
        return Err(Usage(why).into());
    }
    Ok(())
}

async fn clear(store: &str) -> Result<()> {
    let kv = isocenter_store::open(store).await?;
    kv.txn(isocenter_store::Txn::always(vec![isocenter_store::Op::Delete { range: Range::all() }])).await?;
    Ok(())
}

async fn measure(
    args: &FlowArgs,
    config: &Config,
    running: &serve::Running,
    peers: &Tasks,
) -> Result<Vec<Row>> {
    let most = args.clients.iter().copied().max().unwrap_or(1);
    let flow = Flow::start(config, running, most, peers).await?;
    // The first study of a process opens files and connections that no later one opens.
    flow.round(1, most.min(args.studies)).await?;
    let mut rounds: Vec<Vec<Round>> = args.clients.iter().map(|_| Vec::new()).collect();
    for n in 1..=args.rounds {
        for (clients, rounds) in args.clients.iter().zip(&mut rounds) {
            output::note(&format!("round {n} of {}, {clients} clients", args.rounds));
            let swaps = raw::swaps(&running.tables, *clients, SPAN).await?;
            let commits = raw::commits(&running.tables, *clients, SPAN).await?;
            flow.settled().await?;
            let went = flow.round(*clients, args.studies).await?;
            flow.settled().await?;
            rounds.push(Round { swaps, commits, went });
        }
    }
    Ok(args.clients.iter().zip(&rounds).map(|(clients, rounds)| row(*clients, rounds)).collect())
}

/// One round at one number of clients.
struct Round {
    swaps: f64,
    commits: f64,
    went: flow::Went,
}

fn row(clients: u32, rounds: &[Round]) -> Row {
    let of = |what: &dyn Fn(&Round) -> f64| median(rounds.iter().map(what).collect());
    Row {
        clients,
        swaps_per_second: of(&|r| r.swaps),
        commits_per_second: of(&|r| r.commits),
        transitions_per_second: of(&|r| r.went.transitions_per_second()),
        studies_per_second: of(&|r| r.went.studies_per_second()),
        study_p50_ms: of(&|r| r.went.p50.as_secs_f64() * 1e3),
        transitions_per_study: of(&|r| r.went.transitions_per_study()),
        commits_to_swaps: of(&|r| r.commits / r.swaps),
        transitions_to_swaps: of(&|r| r.went.transitions_per_second() / r.swaps),
    }
}

/// The middle one, the lower where two are.
fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len().saturating_sub(1) / 2).copied().unwrap_or(f64::NAN)
}

/// The processor and how many of it.
fn machine() -> String {
    let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or("unknown processor");
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    format!("{cores} × {}", model.trim_start_matches([' ', '\t', ':']))
}

fn report(report: &Report, json: bool) -> Result<()> {
    if json {
        return output::line(&serde_json::to_string(report)?);
    }
    ensure!(!report.rows.is_empty(), "nothing was measured");
    output::line(&format!("{}, {} build, store {}", report.machine, report.build, report.store))?;
    output::line(&format!(
        "medians of {} rounds; {} studies a round; a transition is a revision of the store that puts an event",
        report.rounds, report.studies
    ))?;
    let mut table = comfy_table::Table::new();
    table.load_style(comfy_table::presets::NOTHING).set_header([
        "clients",
        "swaps/s",
        "commits/s",
        "transitions/s",
        "studies/s",
        "p50 ms",
        "per study",
        "commits:swaps",
        "transitions:swaps",
    ]);
    for row in &report.rows {
        table.add_row([
            row.clients.to_string(),
            format!("{:.0}", row.swaps_per_second),
            format!("{:.0}", row.commits_per_second),
            format!("{:.0}", row.transitions_per_second),
            format!("{:.1}", row.studies_per_second),
            format!("{:.1}", row.study_p50_ms),
            format!("{:.1}", row.transitions_per_study),
            format!("{:.2}", row.commits_to_swaps),
            format!("{:.2}", row.transitions_to_swaps),
        ]);
    }
    output::line(&table.to_string())
}
