//! A cluster as an operator would run it: two processes of each role, etcd, PostgreSQL, shared blobs, and in front of each
//! role a service address that leads to the processes that say they are ready.

mod members;
pub mod process;

use std::{
    collections::BTreeMap,
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result};
use isocenter_runtime::{random, task::Tasks};
use isocenter_store::Kv;
use isocenter_testkit::{Link, Network, PostgresServer, Proxy, http_get};
use tempfile::TempDir;

pub use members::Members;
pub use process::{Death, Process, Signal};

/// How often readiness is probed; a scheduler of containers is ten times slower.
const PROBE: Duration = Duration::from_millis(250);
/// As long as a probe waits for an answer.
const ANSWER: Duration = Duration::from_secs(1);
/// How long a cluster may take to become ready: a dozen processes start on few cores.
const START: Duration = Duration::from_secs(180);

/// A role, as `--role` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// DICOM in.
    Ingestion,
    /// Policy and registry.
    Routing,
    /// Vendors' services.
    AiDispatch,
    /// The queue.
    ReaderAssignment,
    /// Reports out.
    ReportDelivery,
    /// History.
    Archive,
}

impl Role {
    /// Every role.
    pub const ALL: [Self; 6] = [
        Self::Ingestion,
        Self::Routing,
        Self::AiDispatch,
        Self::ReaderAssignment,
        Self::ReportDelivery,
        Self::Archive,
    ];

    /// As `--role` names it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Ingestion => "ingestion",
            Self::Routing => "routing",
            Self::AiDispatch => "ai-dispatch",
            Self::ReaderAssignment => "reader-assignment",
            Self::ReportDelivery => "report-delivery",
            Self::Archive => "archive",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a cluster is made.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The binary.
    pub binary: PathBuf,
    /// Processes of each role.
    pub replicas: usize,
    /// Members of etcd.
    pub members: usize,
    /// Whether each member is a host of its own, so that they can be parted.
    pub hosts: bool,
    /// etcd's quota in bytes.
    pub quota: Option<u64>,
    /// Whether each process has a clock of its own, which can be set.
    pub clocks: bool,
    /// Further flags for every process.
    pub flags: Vec<String>,
}

impl Plan {
    /// Two processes of each role over three members.
    #[must_use]
    pub fn new(binary: &Path) -> Self {
        Self {
            binary: binary.to_owned(),
            replicas: 2,
            members: 3,
            hosts: false,
            quota: None,
            clocks: false,
            flags: Vec::new(),
        }
    }
}

/// A running cluster. Dropping it ends everything and removes its folder.
#[derive(Debug)]
pub struct Cluster {
    /// The processes.
    pub processes: Vec<Process>,
    /// The members of etcd.
    pub members: Members,
    /// The records' database.
    pub postgres: PostgresServer,
    /// Its only way there.
    pub records: Proxy,
    /// Each process's own way to each member, in the members' order.
    pub links: BTreeMap<String, Vec<Proxy>>,
    /// Where peers reach a role's gRPC services.
    pub services: BTreeMap<Role, Proxy>,
    /// Where modalities reach ingestion.
    pub dicom: Proxy,
    /// Everything that is not a process.
    pub tasks: Tasks,
    folder: TempDir,
}

impl Cluster {
    /// Starts everything and waits until all of it says that it is ready.
    ///
    /// # Errors
    /// If some of it does not get there, with the ends of the logs.
    pub async fn start(plan: &Plan) -> Result<Self> {
        let tasks = Tasks::new();
        let folder = TempDir::with_prefix("isocenter-chaos-")?;
        let path = folder.path().to_owned();
        let network =
            if plan.hosts { Some(Network::new(plan.members).map_err(anyhow::Error::msg)?) } else { None };
        let members = Members::start(&path, plan.members, network, plan.quota);
        let postgres = tokio::task::spawn_blocking(|| PostgresServer::start_tcp("127.0.0.1", &[]));
        let (members, postgres) = tokio::join!(members, postgres);
        let (members, postgres) = (members?, postgres?);
        let database = postgres.address().context("it serves on TCP")?.parse()?;
        let records = Proxy::start(vec![database], &tasks).await?;
        // The same on all nodes, so it is there before the first of them.
        let mut secret = [0; 32];
        random::fill(&mut secret);
        std::fs::write(path.join("network.key"), secret)?;
        let mut links = BTreeMap::new();
        let mut processes = Vec::new();
        for role in Role::ALL {
            for n in 0..plan.replicas {
                let name = format!("{role}-{n}");
                let mut own = Vec::new();
                for client in members.clients() {
                    own.push(Proxy::start(vec![client], &tasks).await?);
                }
                let arguments = arguments(plan, &path, role, &name, &own, &records);
                links.insert(name.clone(), own);
                let clock = if plan.clocks { Some(process::clock(&path, &name)?) } else { None };
                let command = process::Program { binary: plan.binary.clone(), arguments, clock };
                processes.push(Process::start(command, role, name, &path, &tasks));
            }
        }
        let mut services = BTreeMap::new();
        for role in Role::ALL {
            services.insert(role, Proxy::start(Vec::new(), &tasks).await?);
        }
        let dicom = Proxy::start(Vec::new(), &tasks).await?;
        let cluster = Self { processes, members, postgres, records, links, services, dicom, tasks, folder };
        cluster.probe();
        cluster.ready().await?;
        Ok(cluster)
    }

    /// Ends everything and waits until it is gone: what went on would find the next cluster at the same ports.
    pub async fn end(self) {
        self.tasks.drain(Duration::from_secs(10)).await;
    }

    /// A path in its folder.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Leaves the folder behind for somebody to look at.
    pub fn keep(&mut self) -> PathBuf {
        self.folder.disable_cleanup(true);
        self.folder.path().to_owned()
    }

    /// The processes of a role.
    pub fn of(&self, role: Role) -> impl Iterator<Item = &Process> {
        self.processes.iter().filter(move |process| process.role == role)
    }

    /// Where peers reach a role's gRPC services.
    #[must_use]
    pub fn url(&self, role: Role) -> String {
        format!("http://{}", self.services[&role].address())
    }

    /// A connection of the harness's own to etcd, past every proxy.
    ///
    /// # Errors
    /// If the address is not one.
    pub async fn store(&self) -> Result<std::sync::Arc<dyn Kv>> {
        let members: Vec<_> = self.members.clients().iter().map(ToString::to_string).collect();
        Ok(isocenter_store::open(&format!("etcd://{}", members.join(","))).await?)
    }

    /// The address of the records, past the proxy.
    #[must_use]
    pub fn database(&self) -> String {
        let sqlite = self.path("records.db");
        if sqlite.exists() { format!("sqlite:{}", sqlite.display()) } else { self.postgres.url() }
    }

    /// Every way is open, everything runs and is thawed.
    ///
    /// # Errors
    /// If a member does not start or there is no leader.
    pub async fn heal(&mut self) -> Result<()> {
        for proxy in self.links.values().flatten().chain([&self.records, &self.dicom]) {
            proxy.set(Link::Open);
        }
        if let Some(network) = self.members.network() {
            network.heal().map_err(anyhow::Error::msg)?;
        }
        for member in 0..self.members.size() {
            self.members.signal(member, Signal::Cont).await;
            self.members.run(member)?;
        }
        for process in &self.processes {
            process.signal(Signal::Cont).await;
        }
        self.members.serving().await
    }

    /// Waits until every process says that it is ready.
    ///
    /// # Errors
    /// If that takes too long: who is not, and the ends of their logs.
    pub async fn ready(&self) -> Result<()> {
        let mut waiting = Vec::new();
        let all = async {
            loop {
                waiting.clear();
                for process in &self.processes {
                    if !is_ready(process).await {
                        waiting.push(process);
                    }
                }
                if waiting.is_empty() {
                    return;
                }
                tokio::time::sleep(PROBE).await;
            }
        };
        if tokio::time::timeout(START, all).await.is_err() {
            let tell = |p: &&Process| format!("{}:\n{}", p.name, process::tail(&p.log));
            let told: Vec<_> = waiting.iter().map(tell).collect();
            anyhow::bail!("not ready: {}", told.join("\n"));
        }
        Ok(())
    }

    /// Points every service address to the processes that are ready, over and over.
    fn probe(&self) {
        let (processes, services, dicom) =
            (self.processes.clone(), self.services.clone(), self.dicom.clone());
        let stop = self.tasks.token();
        let probing = async move {
            loop {
                let probes = processes.iter().map(|process| async move {
                    let ready = is_ready(process).await;
                    process.addresses().filter(|_| ready).map(|addresses| (process.role, addresses))
                });
                let ready: Vec<_> = futures::future::join_all(probes).await.into_iter().flatten().collect();
                for (role, service) in &services {
                    let of_role = ready.iter().filter(|(is, _)| is == role);
                    service.point(of_role.map(|(_, addresses)| addresses.listen).collect());
                }
                dicom.point(ready.iter().filter_map(|(_, addresses)| addresses.dicom).collect());
                tokio::time::sleep(PROBE).await;
            }
        };
        self.tasks.background("probes", async move {
            tokio::select! { () = stop.cancelled() => {}, () = probing => {} }
        });
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // The processes end with the tasks that supervise them.
        self.tasks.shut_down();
    }
}

async fn is_ready(process: &Process) -> bool {
    let Some(addresses) = process.addresses() else { return false };
    http_get(addresses.health, "/healthz", ANSWER).await.is_some_and(|(status, _)| status == 200)
}

fn arguments(
    plan: &Plan,
    folder: &Path,
    role: Role,
    name: &str,
    etcd: &[Proxy],
    records: &Proxy,
) -> Vec<String> {
    let at = |name: &str| folder.join(name).display().to_string();
    let members: Vec<_> = etcd.iter().map(|proxy| proxy.address().to_string()).collect();
    let settings = [
        ("role", role.name().to_owned()),
        ("store", format!("etcd://{}", members.join(","))),
        ("records", format!("postgres://postgres@{}/postgres", records.address())),
        ("blobs", at("blobs")),
        ("spool", at(&format!("spool-{name}"))),
        ("secret_file", at("network.key")),
        ("dicom.listen", "127.0.0.1:0".to_owned()),
        ("listen", "127.0.0.1:0".to_owned()),
        ("health", "127.0.0.1:0".to_owned()),
        ("study.quiet_period", "1s".to_owned()),
        ("dicom.min_free", "1MiB".to_owned()),
        ("archive.settle", "2s".to_owned()),
        ("delivery.first_retry", "200ms".to_owned()),
        ("delivery.max_retry", "1s".to_owned()),
        ("delivery.hl7_ack_timeout", "5s".to_owned()),
        ("ai.claim", "10s".to_owned()),
        ("read.offer", "10s".to_owned()),
    ];
    let settings = settings.into_iter().flat_map(|(key, value)| [format!("--{key}"), value]);
    let first = ["serve", "--print-addresses"].map(str::to_owned);
    first.into_iter().chain(settings).chain(plan.flags.iter().cloned()).collect()
}
