//! The processes that are measured: etcd and `isocenter serve`. Dropped, they are killed.

use std::{
    net::{SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use isocenter_runtime::{clock, config::Period};
use isocenter_testkit::http_get;
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};

use crate::Store;

/// Longer than this for a start, and something is broken.
const PATIENCE: Duration = Duration::from_secs(120);
/// As long as a probe waits for an answer.
const PROBE: Duration = Duration::from_secs(1);
/// Between looks at what is to become so.
const LOOK: Duration = Duration::from_millis(5);
/// Clock ticks a second in /proc (`getconf CLK_TCK`; 100 on every Linux there is).
const TICKS: f64 = 100.0;

/// Every role, as `--roles` names it.
pub const ROLES: [&str; 6] =
    ["ingestion", "routing", "ai-dispatch", "reader-assignment", "report-delivery", "archive"];

/// An etcd of one member, in a folder of its own, without compaction: what it writes stays to be measured.
#[derive(Debug)]
pub struct Etcd {
    child: Child,
    address: String,
    _data: TempDir,
}

impl Etcd {
    /// Starts it and waits until it serves.
    pub async fn start() -> Result<Self> {
        let data = tempfile::tempdir()?;
        // Both ports are held at once, so that they differ.
        let held = [TcpListener::bind("127.0.0.1:0")?, TcpListener::bind("127.0.0.1:0")?];
        let [client, peer] = held.map(|listener| listener.local_addr());
        let (client, peer) = (client?, format!("http://{}", peer?));
        let url = format!("http://{client}");
        let child = Command::new("etcd")
            .arg("--data-dir")
            .arg(data.path().join("data"))
            .args(["--listen-client-urls", &url, "--advertise-client-urls", &url])
            .args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer])
            .args(["--initial-cluster", &format!("default={peer}"), "--quota-backend-bytes", "8589934592"])
            .args(["--logger", "zap", "--log-level", "error"])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("the program etcd is missing: install the package etcd-server")?;
        until("etcd serves", async || {
            http_get(client, "/health", PROBE).await.is_some_and(|(code, _)| code == 200)
        })
        .await?;
        Ok(Self { child, address: client.to_string(), _data: data })
    }

    /// For `--store`.
    pub fn store(&self) -> String {
        format!("etcd://{}", self.address)
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("etcd has ended")
    }
}

/// The folders and the store that processes share.
#[derive(Debug)]
pub struct Cell {
    folder: TempDir,
    etcd: Option<Etcd>,
}

impl Cell {
    /// Empty folders, and an etcd where that is the store.
    pub async fn new(store: Store) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("isocenter-bench-").tempdir()?;
        let etcd = match store {
            Store::Embedded => None,
            Store::Etcd => Some(Etcd::start().await?),
        };
        Ok(Self { folder, etcd })
    }

    /// For `--store`.
    pub fn store(&self) -> String {
        let own = || format!("embedded:{}", self.path("store").display());
        self.etcd.as_ref().map_or_else(own, Etcd::store)
    }

    /// The etcd.
    pub fn etcd(&self) -> Result<&Etcd> {
        self.etcd.as_ref().context("this cell has an embedded store")
    }

    /// A path in the cell's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Starts a process of `roles` with `more` flags, and waits until it is ready.
    pub async fn serve(&self, roles: &str, more: &[(&str, &str)]) -> Result<Server> {
        let server = self.spawn(roles, more).await?;
        server.ready().await?;
        Ok(server)
    }

    /// Starts a process and waits until it has bound its ports.
    pub async fn spawn(&self, roles: &str, more: &[(&str, &str)]) -> Result<Server> {
        let at = |name: &str| self.path(name).display().to_string();
        let spool = at(&format!("spool-{}", roles.replace(',', "-")));
        let (store, records) = (self.store(), format!("sqlite:{}", at("records.db")));
        let (blobs, secret) = (at("blobs"), at("key"));
        let own = [
            ("roles", roles),
            ("store", &store),
            ("records", &records),
            ("blobs", &blobs),
            ("spool", &spool),
            ("secret_file", &secret),
            ("dicom.listen", "127.0.0.1:0"),
            ("listen", "127.0.0.1:0"),
            ("health", "127.0.0.1:0"),
            ("dicom.min_free", "1MiB"),
            ("telemetry.level", "error"),
        ];
        let mut command = Command::new(isocenter()?);
        command.args(["serve", "--print-addresses"]);
        for (name, value) in own.iter().chain(more) {
            if own.contains(&(*name, *value)) && more.iter().any(|(other, _)| other == name) {
                continue;
            }
            command.arg(format!("--{name}={value}"));
        }
        let log = std::fs::OpenOptions::new().create(true).append(true).open(self.path("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(log).kill_on_drop(true);
        let mut child = command.spawn()?;
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut line = String::new();
        tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await??;
        let said = || std::fs::read_to_string(self.path("log")).unwrap_or_default();
        let told: serde_json::Value =
            serde_json::from_str(&line).with_context(|| format!("isocenter did not start:\n{}", said()))?;
        let address = |name: &str| told.get(name).and_then(|a| a.as_str()).and_then(|a| a.parse().ok());
        let bound = (address("listen"), address("health"));
        let (Some(listen), Some(health)) = bound else { bail!("isocenter printed no addresses: {line}") };
        Ok(Server {
            roles: roles.to_owned(),
            child,
            _stdout: stdout,
            dicom: address("dicom"),
            listen,
            health,
        })
    }
}

/// A process of some roles.
#[derive(Debug)]
pub struct Server {
    /// The roles, as they were asked for.
    pub roles: String,
    child: Child,
    /// Held open, so that the process could still write.
    _stdout: BufReader<ChildStdout>,
    /// DICOM.
    pub dicom: Option<SocketAddr>,
    /// gRPC and `/metrics`.
    pub listen: SocketAddr,
    /// Probes.
    pub health: SocketAddr,
}

impl Server {
    /// Waits until it says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let look =
            async || http_get(self.health, "/healthz", PROBE).await.is_some_and(|(code, _)| code == 200);
        until("isocenter is ready", look).await
    }

    /// For gRPC clients.
    pub fn url(&self) -> String {
        format!("http://{}", self.listen)
    }

    /// Its process.
    pub fn pid(&self) -> Result<u32> {
        self.child.id().context("the process has ended")
    }

    /// Ends it and waits until it has gone.
    pub async fn end(mut self) -> Result<()> {
        let pid = self.pid()?.to_string();
        Command::new("kill").args(["-TERM", &pid]).status().await?;
        tokio::time::timeout(PATIENCE, self.child.wait()).await??;
        Ok(())
    }
}

/// The binary beside this one, or the one that `ISOCENTER_BIN` names.
pub fn isocenter() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("ISOCENTER_BIN") {
        return Ok(path.into());
    }
    let path = std::env::current_exe()?.parent().unwrap_or(Path::new(".")).join("isocenter");
    if !path.exists() {
        bail!("{} is missing: build it first (cargo build --release -p isocenter)", path.display());
    }
    Ok(path)
}

/// Waits for `look`.
pub async fn until(what: &str, look: impl AsyncFn() -> bool) -> Result<()> {
    let clock = clock::system();
    let began = clock.monotonic();
    while !look().await {
        if clock.monotonic() - began > PATIENCE {
            bail!("in {}: not yet that {what}", Period(PATIENCE));
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Seconds of processor time that a process has used, in user and in kernel.
pub fn cpu_seconds(pid: u32) -> Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The name in brackets may have spaces; utime and stime are the 14th and 15th fields (proc(5)).
    let rest = stat.rsplit_once(") ").context("not a line of /proc/*/stat")?.1;
    let fields: Vec<f64> = rest.split(' ').skip(11).take(2).filter_map(|field| field.parse().ok()).collect();
    Ok(fields.iter().sum::<f64>() / TICKS)
}

/// MiB that a process has in memory.
pub fn memory_mib(pid: u32) -> Result<f64> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("no VmRSS")?;
    let kib: f64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib / 1024.0)
}
