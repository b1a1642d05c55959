//! `isocenter simulate`: the engine before the queues of theory and before whole networks. Needs no server.

use std::{
    collections::BTreeMap,
    fs,
    io::IsTerminal as _,
    ops::RangeInclusive,
    path::{Path, PathBuf},
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context as _, Result};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, ContentArrangement, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use isocenter_domain::record::case::Urgency;
use isocenter_policy::{ClassPolicy, Policy};
use isocenter_simulate::{
    day::{
        self, Comparison, Kind, Plan, PolicyResult, Scenario,
        replay::Log,
        scenario::SHIPPED,
        skeleton::{Promise, skeleton},
    },
    queue::{self, Discipline, Question, QueueResult},
    report,
    stats::Estimate,
};

use crate::output::{self, Usage};

/// The most seeds of one comparison.
const MAX_SEEDS: u64 = 1000;
/// The largest scenario and log that are read.
const MAX_FILE: u64 = 1 << 30;

/// Simulate queues and whole networks.
#[derive(Args, Debug)]
pub struct SimulateArgs {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// One queue before equal servers, with its closed form beside it (the model of the FDA's QuCAD).
    Queue(QueueArgs),
    /// Whole networks over days, several policies under the same seeds.
    Day(DayArgs),
    /// Write a scenario of the network that a log is from: what the log does not say is assumed, and marked.
    Scenario(ScenarioArgs),
}

#[derive(Args, Debug)]
#[command(allow_negative_numbers = true)]
struct QueueArgs {
    /// Readers.
    #[arg(long, default_value_t = 1)]
    servers: u32,
    /// Offered load per reader, above 0 and below 1.
    #[arg(long, default_value_t = 0.8)]
    load: f64,
    /// Share of diseased studies.
    #[arg(long, default_value_t = 0.1)]
    prevalence: f64,
    /// Sensitivity of the AI.
    #[arg(long, default_value_t = 0.9)]
    se: f64,
    /// False-positive fraction of the AI.
    #[arg(long, default_value_t = 0.1)]
    fpf: f64,
    /// Mean reading time, minutes.
    #[arg(long, default_value_t = 10.0)]
    service_min: f64,
    /// fifo, nonpreemptive or preemptive.
    #[arg(long, default_value = "fifo")]
    discipline: String,
    /// Share of studies that interrupt what is being read.
    #[arg(long, default_value_t = 0.0)]
    interrupt_share: f64,
    /// Mean reading time of those, minutes.
    #[arg(long, default_value_t = 5.0)]
    interrupt_min: f64,
    /// Independent replications; the confidence intervals are over them.
    #[arg(long, default_value_t = 10)]
    replications: u32,
    /// Studies in each, at least: more are read where the precision needs them.
    #[arg(long, default_value_t = 10_000)]
    studies: u64,
    /// The relative standard error to reach for every class, percent; 0 reads just --studies.
    #[arg(long, default_value_t = 0.5)]
    precision: f64,
    /// What everything is drawn from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Args, Debug)]
struct DayArgs {
    /// A shipped scenario or a YAML file; docs/simulator.md shows the form.
    #[arg(long, default_value = "base")]
    scenario: String,
    /// Policies, separated by commas; `all` for every one. Compared with priority-fifo where that is among them.
    #[arg(long, default_value = "priority-fifo,isocenter")]
    policy: String,
    /// One seed, or a range as 1..10, both included.
    #[arg(long, default_value = "1..3")]
    seeds: String,
    /// Print JSON: every figure of every seed.
    #[arg(long)]
    json: bool,
    /// Write one self-contained HTML file with charts.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Replay the arrivals of a log (JSON lines) instead of drawing them.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

#[derive(Args, Debug)]
struct ScenarioArgs {
    /// The log, JSON lines.
    #[arg(long, value_name = "FILE")]
    replay: PathBuf,
    /// The policy, YAML, as `isocenter policy show` prints it: what its classes promise and weigh. Assumed where absent.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
}

/// Simulates what was asked.
pub fn run(args: SimulateArgs) -> Result<ExitCode> {
    match args.command {
        Command::Queue(args) => simulate_queue(&args),
        Command::Day(args) => simulate_day(&args),
        Command::Scenario(args) => write_scenario(&args),
    }
}

fn usage(error: impl std::fmt::Display) -> anyhow::Error {
    Usage(error.to_string()).into()
}

fn simulate_queue(args: &QueueArgs) -> Result<ExitCode> {
    let question = Question {
        servers: args.servers,
        load: args.load,
        prevalence: args.prevalence,
        se: args.se,
        fpf: args.fpf,
        service_min: args.service_min,
        discipline: args.discipline.parse::<Discipline>().map_err(usage)?,
        interrupt_share: args.interrupt_share,
        interrupt_min: args.interrupt_min,
        replications: args.replications,
        studies: args.studies,
        precision: args.precision,
        seed: args.seed,
    };
    let result = queue::run(&question).map_err(|error| match error {
        queue::QueueError::Argument(argument) => usage(argument),
        differs @ queue::QueueError::EngineDiffers(_) => differs.into(),
    })?;
    if args.json {
        output::line(&serde_json::to_string(&result)?)?;
    } else {
        print_queue(&result)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::NOTHING)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(header);
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn print_queue(result: &QueueResult) -> Result<()> {
    let QueueResult { discipline, servers, load, replications, studies_per_replication, seed, .. } = result;
    output::line(&format!(
        "{discipline}, {servers} readers at load {load}: {replications} replications of {studies_per_replication} \
         studies, seed {seed}"
    ))?;
    let mut rows = table(&["wait of", "minutes", "95 % interval", "closed form", "difference"]);
    for group in &result.groups {
        let wait = group.wait_min.map(|wait| format!("{:.3}", wait.mean)).unwrap_or_default();
        let interval = group.wait_min.and_then(|wait| wait.half_width).map(|half| format!("± {half:.3}"));
        let closed = group.closed_form_min.map_or_else(|| "none".to_owned(), |closed| format!("{closed:.3}"));
        let difference = group.difference_percent.map(|percent| format!("{percent:+.2} %"));
        rows.add_row([
            group.name.to_owned(),
            wait,
            interval.unwrap_or_default(),
            closed,
            difference.unwrap_or_default(),
        ]);
    }
    output::line(&rows.to_string())?;
    output::line(&format!("closed form: {}", result.closed_form))?;
    output::line(&format!("the engine's queue took {} studies in the same order", result.engine_checked))
}

fn simulate_day(args: &DayArgs) -> Result<ExitCode> {
    let mut scenario = scenario(&args.scenario)?;
    let log = match &args.replay {
        Some(path) => {
            let log = Log::parse(&read(path)?, &mut scenario);
            Some(log.map_err(|error| usage(format!("{}: {error}", path.display())))?)
        }
        None => None,
    };
    let seeds = seeds(&args.seeds)?;
    let plan = Plan {
        scenario,
        log,
        policies: policies(&args.policy)?,
        seeds,
        params: isocenter_simulate::params(),
    };
    let runs = plan.seeds.clone().count() * plan.policies.len();
    let bar = progress(u64::try_from(runs).unwrap_or(u64::MAX));
    let comparison = day::run(&plan, &|| bar.inc(1));
    bar.finish_and_clear();
    if let Some(path) = &args.report {
        fs::write(path, report::html(&plan, &comparison)).with_context(|| {
            format!("cannot write the report to {}; name a file in a folder that exists", path.display())
        })?;
        output::note(&format!("report: {}", path.display()));
    }
    if args.json {
        output::line(&serde_json::to_string(&comparison)?)?;
    } else {
        print_day(&comparison)?;
    }
    Ok(ExitCode::SUCCESS)
}

fn write_scenario(args: &ScenarioArgs) -> Result<ExitCode> {
    let promises = match &args.policy {
        Some(path) => {
            let policy = Policy::parse(&read(path)?);
            let policy = policy.map_err(|error| usage(format!("{}: {error}", path.display())))?;
            policy.classes().map(|(class, promised)| (class.to_string(), promise(promised))).collect()
        }
        None => BTreeMap::new(),
    };
    let text = skeleton(&read(&args.replay)?, &promises);
    output::text(&text.map_err(|error| usage(format!("{}: {error}", args.replay.display())))?)?;
    Ok(ExitCode::SUCCESS)
}

fn promise(promised: &ClassPolicy) -> Promise {
    let Urgency { weight, critical, prior_ppm, next_up } = promised.urgency;
    Promise { deadline: promised.deadline, weight, critical, prior_ppm, next_up }
}

/// A bar on stderr where somebody looks at it; nothing where the output goes to a file or a program.
fn progress(runs: u64) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(Some(runs), ProgressDrawTarget::stderr());
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} runs, {elapsed} of about {duration}");
    bar.set_style(style.expect("the template is constant"));
    bar.enable_steady_tick(Duration::from_millis(200));
    bar
}

fn read(path: &Path) -> Result<String> {
    let size = fs::metadata(path).with_context(|| format!("cannot read {}", path.display()))?.len();
    if size > MAX_FILE {
        return Err(usage(format!("{} has {size} bytes; at most {MAX_FILE} are read", path.display())));
    }
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

fn scenario(name: &str) -> Result<Scenario> {
    if let Some(scenario) = Scenario::shipped(name) {
        return Ok(scenario);
    }
    let path = Path::new(name);
    if !path.exists() {
        let shipped = SHIPPED.map(|(name, _)| name).join(", ");
        return Err(usage(format!("--scenario {name}: neither a file nor one of {shipped}")));
    }
    Scenario::parse(&read(path)?).map_err(|error| usage(format!("{name}: {error}")))
}

fn policies(list: &str) -> Result<Vec<Kind>> {
    if list == "all" {
        return Ok(Kind::ALL.to_vec());
    }
    let mut kinds: Vec<Kind> = Vec::new();
    for name in list.split(',') {
        let kind = name.trim().parse().map_err(|error| usage(format!("--policy: {error}")))?;
        if !kinds.contains(&kind) {
            kinds.push(kind);
        }
    }
    Ok(kinds)
}

fn seeds(text: &str) -> Result<RangeInclusive<u64>> {
    let parse = |text: &str| text.trim_start_matches('=').trim().parse::<u64>().ok();
    let range = match text.split_once("..") {
        Some((first, last)) => parse(first).zip(parse(last)),
        None => parse(text).map(|seed| (seed, seed)),
    };
    match range {
        Some((first, last)) if first <= last && last - first < MAX_SEEDS => Ok(first..=last),
        Some(_) | None => {
            Err(usage(format!("--seeds {text}: give a seed or a range as 1..10, at most {MAX_SEEDS} seeds")))
        }
    }
}

/// What the table shows of each policy: heading, figure, digits.
fn columns(comparison: &Comparison) -> Vec<(String, String, usize)> {
    let mut columns = vec![("weighted".to_owned(), "weighted-wait".to_owned(), 1)];
    for class in comparison
        .policies
        .iter()
        .take(1)
        .flat_map(|policy| policy.runs.iter().take(1))
        .flat_map(|r| &r.classes)
    {
        let name = &class.class;
        columns.push((format!("{name} p95"), format!("{name}.wait.p95"), 1));
        columns.push((format!("{name} breach %"), format!("{name}.breach-percent"), 2));
        columns.push((format!("{name} avoidable %"), format!("{name}.avoidable-breach-percent"), 2));
        columns.push((format!("{name} longest"), format!("{name}.wait.max"), 0));
    }
    let rest = [
        ("critical, not immediate p95", "critical-other.wait.p95", 1),
        ("of those missed by AI p95", "critical-missed.wait.p95", 1),
        ("unread %", "unread-percent", 2),
        ("load Gini", "gini", 3),
        ("local %", "local-percent", 1),
        ("churn %", "churn-percent", 1),
        ("prefetched %", "prefetched-percent", 1),
        ("same reader %", "same-reader-percent", 1),
    ];
    columns.extend(rest.map(|(heading, figure, digits)| (heading.to_owned(), figure.to_owned(), digits)));
    columns
}

fn print_day(comparison: &Comparison) -> Result<()> {
    let Comparison { scenario, about, seeds: [first, last], baseline, .. } = comparison;
    output::line(&format!(
        "{scenario}: {about}. Seeds {first} to {last}; waits in minutes from complete to opened."
    ))?;
    let mut header = vec!["".to_owned()];
    header.extend(comparison.policies.iter().map(|policy| policy.policy.to_owned()));
    let header: Vec<&str> = header.iter().map(String::as_str).collect();
    let mut rows = table(&header);
    for (heading, figure, digits) in columns(comparison) {
        let mut row = vec![heading];
        row.extend(comparison.policies.iter().map(|policy| cell(policy, &figure, digits)));
        rows.add_row(row);
    }
    output::line(&rows.to_string())?;
    output::line(&format!(
        "After each mean ± its 95 % interval; × is the ratio to {baseline}, paired by seed."
    ))?;
    let weights = comparison.weights.iter().map(|(class, w)| {
        format!("{class} {} min, weight {}, kappa {}, cost {}", w.deadline_min, w.weight, w.kappa, w.cost)
    });
    output::line(&format!("Weights: {}.", weights.collect::<Vec<_>>().join("; ")))
}

fn cell(policy: &PolicyResult, figure: &str, digits: usize) -> String {
    let Some(Estimate { mean, half_width }) = policy.figures.get(figure) else { return String::new() };
    let mut text = format!("{mean:.digits$}");
    if let Some(half) = half_width {
        text.push_str(&format!(" ±{half:.digits$}"));
    }
    let ratio =
        policy.difference.as_ref().and_then(|all| all.get(figure)).and_then(|difference| difference.ratio);
    if let Some(ratio) = ratio {
        text.push_str(&format!(" ×{ratio:.2}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seeds_are_one_or_a_range() {
        assert_eq!(seeds("7").ok(), Some(7..=7));
        assert_eq!(seeds("1..10").ok(), Some(1..=10));
        assert_eq!(seeds("1..=10").ok(), Some(1..=10));
        assert!(["", "x", "10..1", "1..5000", "-1"].iter().all(|text| seeds(text).is_err()));
    }

    #[test]
    fn policies_are_named_once_each() {
        assert_eq!(policies("fifo, isocenter,fifo").ok(), Some(vec![Kind::Fifo, Kind::Isocenter]));
        assert_eq!(policies("all").ok().map(|all| all.len()), Some(Kind::ALL.len()));
        assert!(policies("lifo").is_err() && policies("").is_err());
        assert!(scenario("nowhere").is_err() && scenario("tight").is_ok());
    }
}
