//! Roles → services: parse, build, run, signal, drain.

use std::{net::SocketAddr, path::Path, pin::pin, process::ExitCode, sync::Arc, time::Duration};

use anyhow::{Context as _, Result, anyhow};
use futures::{FutureExt as _, future::BoxFuture};
use isocenter_blobs::Blobs;
use isocenter_domain::Kinded;
use isocenter_runtime::{
    clock, fs,
    metrics::Metrics,
    nodes::Nodes,
    random,
    readiness::{self, Readiness},
    retry::Schedule,
    secret::Secret,
    server::{self, Elsewhere, Served},
    shutdown,
    task::{self, Drained, Tasks},
    telemetry,
    tls::Tls,
};
use isocenter_store::{
    members::{FirstLookHeld, Members, NodeOptions},
    space::Space,
    table::{Mirrors, Tables},
};
use isocenter_wire::v1::operations_server::OperationsServer;
use tonic::service::{Routes, RoutesBuilder};

use crate::{
    cli::ServeArgs,
    config::{Config, Role},
    directory::Directory,
    operations::Operations,
    output,
};

/// Calls without a time limit: those that stream their request, and those that read all there is before they answer, which
/// operators ask for.
const STREAMING: &[&str] = &[
    "/isocenter.v1.ReaderAssignment/SetPresence",
    "/isocenter.v1.ReaderAssignment/WatchWorklist",
    "/isocenter.v1.Archive/Reconcile",
    "/isocenter.v1.Archive/CheckHistory",
    "/isocenter.v1.Operations/CheckStore",
];

/// The pauses while the store is away at the start.
const STORE_RETRY: Schedule = Schedule::new(Duration::from_millis(500), Duration::from_secs(10));

/// For at most this long the queue is filled before the roles look at all there is: half a million live studies.
const FIRST_LOOK: Duration = Duration::from_secs(10);

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
    /// DICOM over TLS, where it is asked for.
    pub dicom_tls: Option<SocketAddr>,
    /// gRPC and `/metrics`.
    pub listen: SocketAddr,
    /// Probes.
    pub health: SocketAddr,
    /// Whether every part has become ready.
    pub readiness: Readiness,
    /// Where everything that is counted is.
    pub metrics: Metrics,
    /// The records that the roles work on.
    pub tables: Tables,
}

impl Running {
    fn addresses(&self) -> String {
        let mut addresses = serde_json::Map::new();
        let dicom = self.dicom.map(|address| ("dicom", address));
        let secured = self.dicom_tls.map(|address| ("dicom_tls", address));
        let served = [("listen", self.listen), ("health", self.health)];
        for (name, address) in dicom.into_iter().chain(secured).chain(served) {
            addresses.insert(name.into(), address.to_string().into());
        }
        serde_json::Value::Object(addresses).to_string()
    }
}

/// Where DICOM is received: plaintext, and over TLS.
type Dicom = (Option<SocketAddr>, Option<SocketAddr>);

/// What the roles share.
struct Shared {
    tables: Tables,
    mirrors: Mirrors,
    members: Members,
    nodes: Nodes,
    blobs: Blobs,
    secret: Secret,
    metrics: Metrics,
    tasks: Tasks,
    tls: Option<Tls>,
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
    let tls = config.tls.is_set().then(|| Tls::load(&config.tls)).transpose()?;
    if let Some(tls) = &tls {
        tls.follow(tasks, &metrics);
    }
    let bound = server::bind(server::Options {
        listen: config.listen,
        health: config.health,
        tls: tls.clone(),
        limits: config.limits,
        streaming: STREAMING,
        ..server::Options::local(config.tenant_id()?)
    })
    .await?
    .probes(tasks, &metrics, &readiness);
    let advertise =
        if config.advertise.is_empty() { bound.address().to_string() } else { config.advertise.clone() };
    let (tables, resumed) = open_tables(config, &secret, tasks).await?;
    let node = node_options(config, &advertise)?;
    let shared = Shared {
        mirrors: Mirrors::new(tables.clone(), tasks),
        members: Members::start(&tables, node, tasks),
        nodes: Nodes::new(tls.as_ref()),
        blobs: Blobs::open(&config.blobs.to_string_lossy())?,
        tables,
        secret,
        metrics,
        tasks: tasks.clone(),
        tls,
        advertise,
    };
    let held = config.runs(Role::ReaderAssignment).then(|| shared.members.hold_first_look());
    let (routes, (dicom, dicom_tls), filled) = roles(config, &shared).await?;
    let (listen, health) = (bound.address(), bound.health_address());
    let directory = Arc::new(Directory::new(shared.members.clone()));
    let elsewhere = Elsewhere { directory: Some(directory), nodes: shared.nodes.clone() };
    let served = Served { grpc: routes, elsewhere, ..Served::default() };
    bound.serve(tasks, served, &shared.metrics, &readiness);
    if let Some(filled) = filled {
        let queue = (!resumed).then(|| readiness.latch("queue"));
        before_ready(tasks, &readiness, "filled", look_after(filled, held, queue));
    }
    // One that receives although the store is away is as ready as one that has received all along.
    if !resumed {
        let (members, presence) = (shared.members.clone(), readiness.latch("presence"));
        before_ready(tasks, &readiness, "registered", async move {
            members.registered().await;
            drop(presence);
        });
    }
    drop(starting);
    Ok(Running {
        dicom,
        dicom_tls,
        listen,
        health,
        readiness,
        metrics: shared.metrics,
        tables: shared.tables,
    })
}

/// Does what makes the process ready, unless it ends before: what is waited for may need a store that is away. Then it is unready for
/// good before the work's latches are dropped, which would say that it can serve.
fn before_ready(
    tasks: &Tasks,
    readiness: &Readiness,
    name: &'static str,
    work: impl Future<Output = ()> + Send + 'static,
) {
    let (ended, readiness) = (tasks.token(), readiness.clone());
    tasks.background(name, async move {
        let mut work = pin!(work);
        tokio::select! {
            () = ended.cancelled() => readiness.drain(),
            () = &mut work => {}
        }
    });
}

/// The queue first: a reader may ask for what waits in it, and the roles' looks at everything would take the processor from it.
async fn look_after(
    mut filled: BoxFuture<'static, ()>,
    held: Option<FirstLookHeld>,
    queue: Option<readiness::Latch>,
) {
    let late = tokio::time::timeout(FIRST_LOOK, &mut filled).await.is_err();
    drop(held);
    if late {
        filled.await;
    }
    drop(queue);
}

/// The records, as soon as the store answers: a process that starts while it is away waits for it, unready, as one does that
/// runs. One that receives and has known the store before does not even wait: it goes on receiving into its spool, which is
/// what the flag says.
async fn open_tables(config: &Config, secret: &Secret, tasks: &Tasks) -> Result<(Tables, bool)> {
    let (clock, ended) = (clock::system(), tasks.token());
    let memory = config.runs(Role::Ingestion).then(|| config.spool.join("store"));
    let mut failures = 0;
    loop {
        let mut reached = None;
        let cell = config.cell_id()?;
        let opened = async {
            let kv = isocenter_store::open_with(&config.store, &config.etcd.access()).await?;
            reached = Some(Arc::clone(&kv));
            Tables::open(kv, Arc::clone(&clock), cell.clone(), secret).await
        };
        let e = match opened.await {
            Ok(tables) => {
                remember(memory.as_deref(), &tables.memory(secret));
                return Ok((tables, false));
            }
            Err(e) => e,
        };
        if !e.is_retryable() {
            return Err(anyhow::Error::new(e).context(format!("cannot use the store {}", config.store)));
        }
        let remembered = memory.as_deref().and_then(|path| std::fs::read_to_string(path).ok());
        if let (Some(kv), Some(text)) = (reached, remembered)
            && let Some(tables) = Tables::resume(kv, Arc::clone(&clock), cell, secret, &text)?
        {
            tracing::warn!(
                error = task::chain(&e),
                "the store is away; receives into the spool until it is back"
            );
            return Ok((tables, true));
        }
        let e = anyhow::Error::new(e).context(format!("cannot use the store {}", config.store));
        failures += 1;
        let now = clock.now();
        let pause = STORE_RETRY.next(failures, now).since(now);
        tracing::warn!(error = format!("{e:#}"), failures, "the store is away; asks again");
        tokio::select! {
            () = ended.cancelled() => return Err(e),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

/// Keeps beside the spool what [`Tables::resume`] needs. Without it a start only waits for the store.
fn remember(path: Option<&Path>, memory: &str) {
    let Some(path) = path else { return };
    let new = path.with_extension("new");
    let folder = path.parent().unwrap_or(path);
    let written = std::fs::create_dir_all(folder)
        .and_then(|()| std::fs::write(&new, memory))
        .and_then(|()| std::fs::rename(&new, path));
    if let Err(error) = written {
        tracing::warn!(%error, "what is known of the store cannot be kept in the spool");
    }
}

/// What this process says of itself. One that receives is known by its spool's id, which its intake records bear.
fn node_options(config: &Config, advertise: &str) -> Result<NodeOptions> {
    let roles: Vec<_> = Role::EACH.into_iter().filter(|role| config.runs(*role)).collect();
    let id = if roles.contains(&Role::Ingestion) {
        let spool = &config.spool;
        std::fs::create_dir_all(spool)
            .with_context(|| format!("cannot make the folder {}", spool.display()))?;
        isocenter_ingestion::spool::node_id(&*fs::os(), spool)?
    } else {
        random::uuid_v7().to_string().parse()?
    };
    Ok(NodeOptions {
        id,
        address: advertise.to_owned(),
        roles: roles.into_iter().map(Role::name).collect(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
    })
}

/// Builds each role that this process runs, adds its services, and starts it. A role that ends ends the process.
async fn roles(config: &Config, shared: &Shared) -> Result<(Routes, Dicom, Option<BoxFuture<'static, ()>>)> {
    let mut routes = RoutesBuilder::default();
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(isocenter_wire::DESCRIPTORS)
        .build_v1()?;
    routes.add_service(reflection);
    routes.add_service(OperationsServer::new(Operations {
        tables: shared.tables.clone(),
        members: shared.members.clone(),
        tasks: shared.tasks.clone(),
        tenant: config.tenant_id()?,
        drain: config.shutdown.drain.0,
    }));
    let (mut dicom, mut filled) = ((None, None), None);
    for role in Role::EACH.into_iter().filter(|role| config.runs(*role)) {
        match role {
            Role::All => {}
            Role::Ingestion => dicom = ingestion(config, shared, &mut routes).await?,
            Role::Routing => routing(shared, &mut routes)?,
            Role::AiDispatch => ai_dispatch(config, shared, &mut routes)?,
            Role::ReaderAssignment => filled = Some(reader_assignment(config, shared, &mut routes)?),
            Role::ReportDelivery => report_delivery(config, shared, &mut routes)?,
            Role::Archive => archive(config, shared, &mut routes).await?,
        }
    }
    Ok((routes.routes(), dicom, filled.map(|filled| filled.boxed())))
}

async fn ingestion(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<Dicom> {
    let settings = isocenter_ingestion::Config {
        spool: config.spool.clone(),
        dicom: config.dicom.clone(),
        study: config.study,
        drain: config.shutdown.drain,
    };
    let deps = isocenter_ingestion::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        shares: shared.members.shares(Role::Ingestion.name()),
        space: Space::start(Arc::clone(shared.tables.kv()), &shared.metrics, &shared.tasks),
        blobs: shared.blobs.clone(),
        fs: fs::os(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
        secret: shared.secret.clone(),
    };
    let mut service = isocenter_ingestion::Service::build(settings, deps)?;
    let plain = service.bind().await?;
    let secured = match (config.dicom.tls_listen, &shared.tls) {
        (None, _) => None,
        (Some(address), Some(tls)) => Some(service.bind_tls(address, tls.clone()).await?),
        (Some(_), None) => {
            let why = "dicom.tls_listen: DICOM over TLS needs tls.cert, tls.key and tls.client_ca";
            return Err(output::Usage(why.into()).into());
        }
    };
    service.routes(routes);
    shared.tasks.essential("ingestion", service.run());
    Ok((Some(plain), secured))
}

fn routing(shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    let deps = isocenter_routing::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        shares: shared.members.shares(Role::Routing.name()),
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
        shares: shared.members.shares(Role::AiDispatch.name()),
        blobs: shared.blobs.clone(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
        secret: shared.secret.clone(),
        fetch_address: format!(
            "{}://{}",
            if shared.tls.is_some() { "https" } else { "http" },
            shared.advertise
        ),
        tls: shared.tls.as_ref().map(Tls::outside),
    };
    let service = isocenter_ai_dispatch::Service::build(config.ai.clone(), deps)?;
    service.routes(routes);
    shared.tasks.essential("ai-dispatch", service.run());
    Ok(())
}

/// Returns what ends once the role knows what there is.
fn reader_assignment(
    config: &Config,
    shared: &Shared,
    routes: &mut RoutesBuilder,
) -> Result<impl Future<Output = ()> + Send + use<>> {
    let deps = isocenter_reader_assignment::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        shares: shared.members.shares(Role::ReaderAssignment.name()),
        blobs: shared.blobs.clone(),
        metrics: shared.metrics.clone(),
        tasks: shared.tasks.clone(),
        address: shared.advertise.clone(),
        nodes: shared.nodes.clone(),
    };
    let service = isocenter_reader_assignment::Service::build(config.read, deps)?;
    service.routes(routes);
    let filled = service.filled();
    shared.tasks.essential("reader-assignment", service.run());
    Ok(filled)
}

fn report_delivery(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    let deps = isocenter_report_delivery::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        shares: shared.members.shares(Role::ReportDelivery.name()),
        blobs: shared.blobs.clone(),
        metrics: shared.metrics.clone(),
        tls: shared.tls.as_ref().map(Tls::outside),
        tasks: shared.tasks.clone(),
    };
    let service = isocenter_report_delivery::Service::build(config.delivery.clone(), deps)?;
    service.routes(routes);
    shared.tasks.essential("report-delivery", service.run());
    Ok(())
}

async fn archive(config: &Config, shared: &Shared, routes: &mut RoutesBuilder) -> Result<()> {
    // The address of a database may hold a password, before the host or among the options.
    let place = config.records.rsplit('@').next().and_then(|place| place.split('?').next());
    let records = isocenter_archive::Records::open(&config.records)
        .await
        .with_context(|| format!("cannot open the records {}", place.unwrap_or_default()))?;
    let deps = isocenter_archive::Deps {
        tables: shared.tables.clone(),
        mirrors: shared.mirrors.clone(),
        shares: shared.members.shares(Role::Archive.name()),
        blobs: shared.blobs.clone(),
        records,
        operator: config.tenant_id()?,
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

#[cfg(test)]
mod tests {
    use isocenter_store::embedded::{Embedded, EmbeddedOptions};
    use isocenter_testkit::PowerCutFs;
    use tokio::sync::oneshot;

    use super::*;

    const ROLE: &str = "reader-assignment";

    async fn members(tasks: &Tasks) -> Members {
        let clock = clock::TestClock::paused(isocenter_domain::Time::ZERO);
        let options = EmbeddedOptions::new("/store").over(PowerCutFs::new().shared());
        let kv = Embedded::open(options.with_clock(clock.shared())).await.unwrap();
        let (cell, secret) = ("cell".parse().unwrap(), Secret::new([1; 32]));
        let tables = Tables::open(Arc::new(kv), clock.shared(), cell, &secret).await.unwrap();
        let me = NodeOptions {
            id: "node".parse().unwrap(),
            address: "node:1".into(),
            roles: vec![ROLE],
            version: "test".into(),
        };
        Members::start(&tables, me, tasks)
    }

    #[tokio::test(start_paused = true)]
    async fn the_roles_look_at_everything_when_the_queue_is_full_or_late_and_it_is_ready_when_it_is_full() {
        let tasks = Tasks::new();
        let members = members(&tasks).await;
        for late in [false, true] {
            let (readiness, starting) = Readiness::new();
            drop(starting);
            let (fill, filled) = oneshot::channel::<()>();
            let filled = filled.map(|filled| filled.expect("the test fills it")).boxed();
            let work = look_after(filled, Some(members.hold_first_look()), Some(readiness.latch("queue")));
            before_ready(&tasks, &readiness, "filled", work);
            let shares = members.shares(ROLE);
            tokio::time::sleep(FIRST_LOOK - Duration::from_millis(1)).await;
            assert!(shares.first_look().now_or_never().is_none(), "the queue first");
            if late {
                tokio::time::sleep(Duration::from_millis(2)).await;
                assert!(shares.first_look().now_or_never().is_some(), "but not for ever");
            }
            assert_eq!(readiness.waiting(), ["queue"]);
            fill.send(()).unwrap();
            readiness.ready().await;
            assert!(shares.first_look().now_or_never().is_some());
        }
        tasks.drain(FIRST_LOOK).await;
    }

    #[tokio::test(start_paused = true)]
    async fn what_ends_before_it_is_ready_waits_for_nothing_and_never_says_that_it_is() {
        let (tasks, (readiness, starting)) = (Tasks::new(), Readiness::new());
        let never = async move {
            std::future::pending::<()>().await;
            drop(starting);
        };
        before_ready(&tasks, &readiness, "never", never);
        assert_eq!(tasks.drain(FIRST_LOOK).await, Drained::Clean);
        assert_eq!(readiness.waiting(), ["drain"]);
    }
}
