//! `isocenter demo`: every role in one process on loopback, and around it a network that sends, reads and receives.

mod account;
mod board;
mod network;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result, anyhow};
use isocenter_blobs::Blobs;
use isocenter_domain::id::TenantId;
use isocenter_peers::{
    directory,
    modality::{Modality, ModalityConfig},
    study::Study,
    synthetic::Synthetic,
};
use isocenter_runtime::{
    clock::{self, Clock},
    config::{Period, Size},
    random::Seeded,
    shutdown,
    task::Tasks,
    telemetry,
};
use isocenter_wire::v1::{self, StudyStage, WatchStudiesRequest, ingestion_client::IngestionClient};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::{
    cli::DemoArgs,
    command::study::stage_name,
    config::{Config, Logs},
    output,
    serve::{self, Running},
};
use account::{Account, Summary, terminal};
use board::Board;
use network::Network;

/// How often the board is drawn and the end is looked for.
const TICK: Duration = Duration::from_millis(200);
/// With `--once`: longer than this without any study changing, and the demo gives up and says what is stuck.
const STALLED: Duration = Duration::from_secs(180);

/// Studies as last seen, by UID.
type Studies = Arc<Mutex<BTreeMap<String, v1::Study>>>;

/// Runs the demo.
pub async fn run(args: DemoArgs) -> Result<ExitCode> {
    let seed = args.seed.unwrap_or_else(|| Seeded::fresh().seed());
    let temporary = tempfile::Builder::new().prefix("isocenter-demo-").tempdir()?;
    let data = args.data.clone().unwrap_or_else(|| temporary.path().to_owned());
    let config = config(&data);
    let telemetry = telemetry::init(config.telemetry.options())?;
    let tasks = Tasks::new();
    shutdown::signals(&tasks).context("cannot listen for signals")?;
    let running = serve::start(&config, &tasks).await?;
    running.readiness.ready().await;
    let (peers, ended) = (tasks.child(), tasks.token());
    let outcome = tokio::select! {
        outcome = flow(&args, seed, &config, &running, &peers) => Some(outcome),
        () = ended.cancelled() => None,
    };
    // The peers first, so that none of them complains of a server that is gone.
    peers.drain(Duration::from_secs(5)).await;
    tasks.drain(config.shutdown.drain.0).await;
    telemetry.shutdown(Duration::from_secs(5));
    if let Some(failure) = tasks.failure() {
        return Err(anyhow!("{failure}"));
    }
    let Some(summary) = outcome.transpose()? else { return Ok(ExitCode::SUCCESS) };
    let good =
        summary.studies_sent > 0 && summary.lost == 0 && summary.reports_acknowledged >= summary.reads_signed;
    Ok(if good { ExitCode::SUCCESS } else { ExitCode::from(output::REFUSED) })
}

/// Loopback, free ports, the embedded store, SQLite and a folder; studies are whole after two quiet seconds.
fn config(data: &Path) -> Config {
    let free = std::net::SocketAddr::from(([127, 0, 0, 1], 0));
    let mut config = Config {
        store: format!("embedded:{}", data.join("store").display()),
        records: format!("sqlite:{}", data.join("records.db").display()),
        blobs: data.join("blobs"),
        spool: data.join("spool"),
        secret_file: data.join("network.key"),
        listen: free,
        health: free,
        ..Config::default()
    };
    config.dicom.listen = free;
    config.dicom.min_free = Size(64 << 20);
    config.study.quiet_period = Period(Duration::from_secs(2));
    config.telemetry.logs = Logs::Text;
    config.telemetry.level = "error,isocenter_peers=warn".into();
    config
}

/// Registers, sends, watches; with `--once` until everything accepted is terminal, else until cancelled.
async fn flow(
    args: &DemoArgs,
    seed: u64,
    config: &Config,
    running: &Running,
    peers: &Tasks,
) -> Result<Summary> {
    let clock = clock::system();
    let server = format!("http://{}", running.listen);
    let channel = Endpoint::from_shared(server.clone())?.connect().await?;
    let network = Network::start(&server, channel.clone(), seed, peers).await?;
    let dicom = running.dicom.context("the demo runs ingestion")?;
    announce(args, seed, running, dicom);
    let studies = load(args, seed).await?;
    let began = clock.monotonic();
    let seen = watch(channel, peers);
    let account = Arc::new(tokio::sync::Mutex::new(Account::default()));
    let sending = send(studies, dicom.to_string(), Arc::clone(&account));
    let mut board = Board::new();
    tokio::pin!(sending);
    loop {
        tokio::select! {
            sent = &mut sending => { sent?; break }
            () = tokio::time::sleep(TICK) => draw(&mut board, &*clock, &seen, &network),
        }
    }
    let account = account.lock().await;
    let accepted = account.accepted();
    let mut progress = (clock.monotonic(), 0);
    let mut reported = false;
    loop {
        draw(&mut board, &*clock, &seen, &network);
        let snapshot = seen.lock().clone();
        let open: Vec<_> = accepted.keys().filter(|uid| !done(&snapshot, uid)).collect();
        if open.is_empty() && !reported {
            let tenant = config.tenant_id()?;
            let summary = settle(&account, config, &tenant, &snapshot, &network, running).await?;
            let seconds = (clock.monotonic() - began).as_secs_f64();
            let summary = Summary { seconds, ..summary };
            report(&summary, args.json)?;
            if args.once {
                return Ok(summary);
            }
            output::note(&format!("all delivered; still serving on {server}, DICOM on {dicom}. Ctrl-C ends"));
            reported = true;
        }
        let changes = snapshot.values().filter_map(|s| s.updated_at.as_ref()).map(|t| t.seconds).sum::<i64>();
        if changes != progress.1 {
            progress = (clock.monotonic(), changes);
        } else if args.once && clock.monotonic() - progress.0 > STALLED {
            for uid in &open {
                let stage = snapshot.get(*uid).map(v1::Study::stage).unwrap_or_default();
                output::note(&format!("stuck: {uid} {}", stage_name(stage)));
            }
            for (id, reader) in &network.readers {
                output::note(&format!("reader {id}: {:?}", reader.counts()));
            }
            let tenant = config.tenant_id()?;
            let summary = settle(&account, config, &tenant, &snapshot, &network, running).await?;
            report(&summary, args.json)?;
            return Ok(summary);
        }
        tokio::time::sleep(TICK).await;
    }
}

fn announce(args: &DemoArgs, seed: u64, running: &Running, dicom: std::net::SocketAddr) {
    output::note(&format!("isocenter demo: seed {seed} (--seed {seed} repeats it)"));
    let titles: Vec<_> =
        network::SITES.iter().map(|(site, title)| format!("{title} (site {site})")).collect();
    output::note(&format!("  DICOM  {dicom}, called {}, calling {}", network::CALLED, titles.join(" or ")));
    output::note(&format!("  gRPC   http://{} (ISOCENTER_SERVER), metrics at /metrics", running.listen));
    output::note(&format!("  health http://{}/healthz", running.health));
    if let Some(folder) = &args.dicom_dir {
        output::note(&format!("  sends the DICOM files under {}", folder.display()));
    }
}

/// The studies to send: the folder's, or synthetic ones.
async fn load(args: &DemoArgs, seed: u64) -> Result<Vec<Study>> {
    let Some(folder) = args.dicom_dir.clone() else {
        let count = usize::try_from(args.studies)?;
        let made = tokio::task::spawn_blocking(move || Synthetic::new(seed).mix(count)).await??;
        return Ok(made.into_iter().map(|made| made.study).collect());
    };
    let scanned = scan(folder).await?;
    let skipped = scanned.skipped;
    output::note(&format!(
        "  {} studies; left out: {} not DICOM, {} unusable, {} repeated",
        scanned.studies.len(),
        skipped.not_dicom,
        skipped.unusable,
        skipped.repeated
    ));
    Ok(scanned.studies)
}

async fn scan(folder: PathBuf) -> Result<directory::Scan> {
    let shown = folder.display().to_string();
    tokio::task::spawn_blocking(move || directory::scan(&folder))
        .await?
        .with_context(|| format!("cannot send the files under {shown}"))
}

/// Sends every study from the modality of its site, each over an association of its own.
async fn send(studies: Vec<Study>, address: String, account: Arc<tokio::sync::Mutex<Account>>) -> Result<()> {
    let called = network::CALLED.parse().context("a literal is an AE title")?;
    for (n, study) in studies.iter().enumerate() {
        let config = ModalityConfig {
            pace: Duration::from_millis(20),
            ..ModalityConfig::new(network::calling(n)?, Clone::clone(&called), address.clone())
        };
        let sent = Modality::new(config).send_study(study).await;
        account.lock().await.enter(study, &sent).await?;
    }
    Ok(())
}

/// Follows every study on a task of its own, until the peers end.
fn watch(channel: Channel, peers: &Tasks) -> Studies {
    let seen = Studies::default();
    let (into, ended) = (Arc::clone(&seen), peers.token());
    peers.background("board", async move {
        tokio::select! {
            () = ended.cancelled() => {}
            followed = follow(IngestionClient::new(channel), &into) => {
                if let Err(e) = followed {
                    output::note(&format!("the board stands still: {}", e.message()));
                }
            }
        }
    });
    seen
}

async fn follow(mut client: IngestionClient<Channel>, into: &Studies) -> Result<(), tonic::Status> {
    let mut changes = client.watch_studies(WatchStudiesRequest {}).await?.into_inner();
    while let Some(change) = changes.message().await? {
        if let Some(study) = change.study {
            into.lock().insert(study.study_instance_uid.clone(), study);
        }
    }
    Ok(())
}

fn draw(board: &mut Board, clock: &dyn Clock, seen: &Studies, network: &Network) {
    board.draw(clock.monotonic(), clock.now().0 / 1_000_000, &seen.lock(), &network.readers);
}

fn done(studies: &BTreeMap<String, v1::Study>, uid: &str) -> bool {
    terminal(studies.get(uid).map_or(StudyStage::Unspecified, v1::Study::stage))
}

async fn settle(
    account: &Account,
    config: &Config,
    tenant: &TenantId,
    studies: &BTreeMap<String, v1::Study>,
    network: &Network,
    running: &Running,
) -> Result<Summary> {
    let blobs = Blobs::open(&config.blobs.to_string_lossy())?;
    let summary = account.settle(&blobs, tenant, studies).await?;
    let (ai_succeeded, ai_failed) = analyses(&running.metrics.render()?);
    Ok(Summary {
        reads_signed: network.signed(),
        reports_acknowledged: network.receiver.counts().accepted,
        ai_succeeded,
        ai_failed,
        ..summary
    })
}

/// Analyses by outcome, as the metrics tell: in time, and otherwise.
fn analyses(metrics: &str) -> (u64, u64) {
    let mut counts = (0, 0);
    for line in metrics.lines() {
        let Some(rest) = line.strip_prefix("isocenter_ai_dispatch_tasks_total{") else { continue };
        let Some(count) = rest.rsplit(' ').next().and_then(|n| n.parse::<f64>().ok()) else { continue };
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a counter of whole numbers"
        )]
        let count = count as u64;
        if rest.contains("outcome=\"succeeded\"") { counts.0 += count } else { counts.1 += count }
    }
    counts
}

fn report(summary: &Summary, json: bool) -> Result<()> {
    if json { output::line(&serde_json::to_string(summary)?) } else { output::one(summary, false) }
}
