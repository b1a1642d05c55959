//! Roles → services: parse, build, run, signal, drain.

use std::{net::SocketAddr, process::ExitCode, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use isocenter_blobs::Blobs;
use isocenter_runtime::{
    clock, fs,
    metrics::Metrics,
    readiness::Readiness,
    secret::Secret,
    server::{self, Served},
    shutdown,
    task::{Drained, Tasks},
    telemetry,
};
use isocenter_store::table::{Mirrors, Tables};
use tonic::service::{Routes, RoutesBuilder};

use crate::{
    cli::ServeArgs,
    config::{Config, Role},
    output,
};

/// Calls that stream their request, and so have no time limit.
const STREAMING: &[&str] = &["/isocenter.v1.ReaderAssignment/SetPresence"];

/// Serves until a signal.
pub async fn run(args: ServeArgs) -> Result<ExitCode> {
    let config = Config::load(args.config.as_ref(), &args.settings)?;
    let telemetry = telemetry::init(config.telemetry.options())?;
    let tasks = Tasks::new();
    shutdown::signals(&tasks).context("cannot listen for signals")?;
    let drain = config.shutdown.drain.0;
    let running = start(&config, &tasks).await?;
    if args.print_addresses {
        output::line(&running.addresses())?;
    }
    tasks.token().cancelled().await;
    let drained = tasks.drain(drain).await;
    telemetry.shutdown(Duration::from_secs(5));
    if let Some(failure) = tasks.failure() {
        return Err(anyhow!("{failure}"));
    }
    Ok(match drained {
        Drained::Clean => ExitCode::SUCCESS,
        Drained::Aborted(_) => ExitCode::from(output::REFUSED),
    })
}

/// A process that serves.
#[derive(Debug)]
pub struct Running {
    /// DICOM, where ingestion runs.
    pub dicom: Option<SocketAddr>,
    /// gRPC and `/metrics`.
    pub listen: SocketAddr,
    /// Probes.
    pub health: SocketAddr,
    /// Whether every part has become ready.
    pub readiness: Readiness,
    /// Where everything that is counted is.
    pub metrics: Metrics,
}

impl Running {
    fn addresses(&self) -> String {
        let mut addresses = serde_json::Map::new();
        let dicom = self.dicom.map(|address| ("dicom", address));
        for (name, address) in dicom.into_iter().chain([("listen", self.listen), ("health", self.health)]) {
            addresses.insert(name.into(), address.to_string().into());
        }
        serde_json::Value::Object(addresses).to_string()
    }
}

/// What the roles share.
struct Shared {
    tables: Tables,
    mirrors: Mirrors,
    blobs: Blobs,
    secret: Secret,
    metrics: Metrics,
    tasks: Tasks,
    advertise: String,
}

/// Starts the roles of `config` on `tasks`.
pub async fn start(config: &Config, tasks: &Tasks) -> Result<Running> {
    for folder in [Some(config.blobs.as_path()), config.secret_file.parent()].into_iter().flatten() {
        std::fs::create_dir_all(folder)
            .with_context(|| format!("cannot make the folder {}", folder.display()))?;
    }
    let metrics = Metrics::new();
    let (readiness, starting) = Readiness::new();
    let secret = Secret::load_or_create(&config.secret_file)
        .with_context(|| format!("cannot use the secret {}", config.secret_file.display()))?;
    let bound = server::bind(server::Options {
        listen: config.listen,
        health: config.health,
        streaming: STREAMING,
        ..server::Options::local(config.tenant_id()?)
    })
    .await?;
    let kv = isocenter_store::open(&config.store)
        .await
        .with_context(|| format!("cannot open the store {}", config.store))?;
    let tables = Tables::open(kv, clock::system(), config.cell_id()?, &secret).await?;
    let blobs = Blobs::open(&config.blobs.to_string_lossy())?;
    let advertise =
        if config.advertise.is_empty() { bound.address().to_string() } else { config.advertise.clone() };
    let mirrors = Mirrors::new(tables.clone(), tasks);
    let shared = Shared { tables, mirrors, blobs, secret, metrics, tasks: tasks.clone(), advertise };
    let (routes, dicom) = roles(config, &shared).await?;
    let (listen, health) = (bound.address(), bound.health_address());
    let served = Served { grpc: routes, ..Served::default() };
    bound.serve(tasks, served, &shared.metrics, &readiness);
    drop(starting);
    Ok(Running { dicom, listen, health, readiness, metrics: shared.metrics })
}

/// Builds each role that this process runs, adds its services, and starts it. A role that ends ends the process.
async fn roles(config: &Config, shared: &Shared) -> Result<(Routes, Option<SocketAddr>)> {
    let mut routes = RoutesBuilder::default();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(isocenter_wire::DESCRIPTORS)
        .build_v1()?;
    routes.add_service(reflection);
    let mut dicom = None;
    for role in Role::EACH.into_iter().filter(|role| config.runs(*role)) {
        match role {
            Role::All => {}
            Role::Ingestion => dicom = Some(ingestion(config, shared, &mut routes).await?),
            Role::Routing => routing(shared, &mut routes)?,
            Role::AiDispatch => ai_dispatch(config, shared, &mut routes)?,
            Role::ReaderAssignment => reader_assignment(config, shared, &mut routes)?,
            Role::ReportDelivery => report_delivery(config, shared, &mut routes)?,
            Role::Archive => archive(config, shared, &mut routes).await?,
        }
    }
    Ok((routes.routes(), dicom))
}

async fn ingestion(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<SocketAddr> {
    let settings = isocenter_ingestion::Config {
        spool: config.spool.clone(),
        dicom: config.dicom.clone(),
        study: config.study,
        drain: config.shutdown.drain,
    };
    let deps = isocenter_ingestion::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        blobs: shared.blobs.clone(),
        fs: fs::os(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
        secret: shared.secret.clone(),
    };
    let mut service = isocenter_ingestion::Service::build(settings, deps)?;
    let address = service.bind().await?;
    service.routes(routes);
    shared.tasks.essential("ingestion", service.run());
    Ok(address)
}

fn routing(shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    let deps = isocenter_routing::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        blobs: shared.blobs.clone(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
        secret: shared.secret.clone(),
    };
    let service = isocenter_routing::Service::build(isocenter_routing::Config::default(), deps)?;
    service.routes(routes);
    shared.tasks.essential("routing", service.run());
    Ok(())
}

fn ai_dispatch(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    let deps = isocenter_ai_dispatch::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        blobs: shared.blobs.clone(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
        secret: shared.secret.clone(),
        fetch_address: format!("http://{}", shared.advertise),
    };
    let service = isocenter_ai_dispatch::Service::build(config.ai.clone(), deps)?;
    service.routes(routes);
    shared.tasks.essential("ai-dispatch", service.run());
    Ok(())
}

fn reader_assignment(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    let deps = isocenter_reader_assignment::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        blobs: shared.blobs.clone(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
        address: shared.advertise.clone(),
    };
    let service = isocenter_reader_assignment::Service::build(config.read, deps)?;
    service.routes(routes);
    shared.tasks.essential("reader-assignment", service.run());
    Ok(())
}

fn report_delivery(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    let deps = isocenter_report_delivery::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        blobs: shared.blobs.clone(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
    };
    let service = isocenter_report_delivery::Service::build(config.delivery.clone(), deps)?;
    service.routes(routes);
    shared.tasks.essential("report-delivery", service.run());
    Ok(())
}

async fn archive(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    let records = isocenter_archive::Records::open(&config.records)
        .await
        .with_context(|| format!("cannot open the records {}", config.records))?;
    let deps = isocenter_archive::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        blobs: shared.blobs.clone(),
        records,
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
    };
    let settings = isocenter_archive::Config {
        max_assembly: config.study.max_assembly,
        page_after: config.delivery.page_after,
        ..config.archive.clone()
    };
    let service = isocenter_archive::Service::build(settings, deps)?;
    service.routes(routes);
    shared.tasks.essential("archive", service.run());
    Ok(())
}
