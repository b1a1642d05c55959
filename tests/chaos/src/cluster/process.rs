//! One `isocenter serve` under the harness's hand: what a scheduler of containers does, and what it would never do.

use std::{
    fs::OpenOptions,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context as _, Result};
use isocenter_runtime::task::Tasks;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, Command},
    sync::watch,
};

use super::Role;

/// The pause before a process that ended is started again: a scheduler of containers waits as long at first.
const RESTART: Duration = Duration::from_secs(2);
/// How long a process may take to listen; with the store away it may never.
const START: Duration = Duration::from_secs(120);

/// A signal to a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// Ends it at once.
    Kill,
    /// Asks it to end.
    Term,
    /// Freezes it.
    Stop,
    /// Thaws it.
    Cont,
}

impl Signal {
    const fn name(self) -> &'static str {
        match self {
            Self::Kill => "-KILL",
            Self::Term => "-TERM",
            Self::Stop => "-STOP",
            Self::Cont => "-CONT",
        }
    }
}

/// Signals any process; one that is gone has got what was wanted.
pub async fn signal(pid: u32, signal: Signal) {
    let mut kill = Command::new("kill");
    kill.args([signal.name(), &pid.to_string()]).stderr(Stdio::null());
    drop(kill.status().await);
}

/// Where a process listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Addresses {
    /// DICOM; ingestion alone.
    pub dicom: Option<SocketAddr>,
    /// gRPC and `/metrics`.
    pub listen: SocketAddr,
    /// Probes.
    pub health: SocketAddr,
}

/// What a process is doing.
#[derive(Clone, Debug, Default)]
pub struct Life {
    /// Its id, while there is one.
    pub pid: Option<u32>,
    /// Where it listens, while it does.
    pub addresses: Option<Addresses>,
    /// How often it was started.
    pub starts: u32,
    /// Whether the harness has ended it, so that its end says nothing about it.
    condemned: bool,
}

/// An end that nobody had asked for.
#[derive(Clone, Debug)]
pub struct Death {
    /// The process.
    pub name: String,
    /// Its exit.
    pub status: String,
    /// The end of its log.
    pub log: String,
    /// Whether it had come so far as to listen.
    pub served: bool,
}

/// What to run.
#[derive(Clone, Debug)]
pub struct Program {
    /// The binary.
    pub binary: PathBuf,
    /// What it is told.
    pub arguments: Vec<String>,
    /// The file that sets its clock off, where it has one of its own.
    pub clock: Option<PathBuf>,
}

/// The file that sets the clock of a process off: `+0` where it goes right, `+1h` where it is an hour ahead.
///
/// # Errors
/// If it cannot be written.
pub fn clock(folder: &Path, name: &str) -> Result<PathBuf> {
    let clock = folder.join(format!("{name}.clock"));
    std::fs::write(&clock, "+0")?;
    Ok(clock)
}

/// The library that tells a program another time. It is loaded before the program's own, which asks the system through it.
fn library() -> Result<PathBuf> {
    let folders = std::fs::read_dir("/usr/lib")?;
    let libraries = folders.flatten().map(|folder| folder.path().join("faketime/libfaketimeMT.so.1"));
    libraries.into_iter().find(|library| library.exists()).context("there is no libfaketime: install it")
}

/// A supervised process.
#[derive(Clone, Debug)]
pub struct Process {
    /// Its role.
    pub role: Role,
    /// `{role}-{n}`.
    pub name: String,
    /// Its log, over all its lives.
    pub log: PathBuf,
    /// The file that sets its clock off, where it has one of its own.
    pub clock: Option<PathBuf>,
    life: Arc<watch::Sender<Life>>,
    deaths: Arc<Mutex<Vec<Death>>>,
}

impl Process {
    /// Starts the program, and again whenever it ends, until `tasks` are cancelled.
    #[must_use]
    pub fn start(program: Program, role: Role, name: String, folder: &Path, tasks: &Tasks) -> Self {
        let process = Self {
            role,
            log: folder.join(format!("{name}.log")),
            clock: program.clock.clone(),
            name,
            life: Arc::new(watch::Sender::default()),
            deaths: Arc::default(),
        };
        let (supervised, stop) = (process.clone(), tasks.token());
        tasks.background("process", async move {
            tokio::select! {
                () = stop.cancelled() => {}
                () = supervised.supervise(&program) => {}
            }
        });
        process
    }

    /// What it is doing.
    #[must_use]
    pub fn life(&self) -> Life {
        self.life.borrow().clone()
    }

    /// Where it listens, while it does.
    #[must_use]
    pub fn addresses(&self) -> Option<Addresses> {
        self.life.borrow().addresses
    }

    /// The address of its gRPC services, while it listens.
    #[must_use]
    pub fn url(&self) -> Option<String> {
        self.addresses().map(|addresses| format!("http://{}", addresses.listen))
    }

    /// Ends that nobody had asked for.
    #[must_use]
    pub fn deaths(&self) -> Vec<Death> {
        self.deaths.lock().clone()
    }

    /// Signals it; nothing where it is not running.
    pub async fn signal(&self, which: Signal) {
        let ends = matches!(which, Signal::Kill | Signal::Term);
        let mut pid = None;
        self.life.send_modify(|life| {
            pid = life.pid;
            life.condemned |= ends && pid.is_some();
        });
        if let Some(pid) = pid {
            signal(pid, which).await;
        }
    }

    async fn supervise(&self, program: &Program) {
        loop {
            if let Err(error) = self.live(program).await {
                let death = Death {
                    name: self.name.clone(),
                    status: format!("{error:#}"),
                    log: tail(&self.log),
                    served: false,
                };
                self.deaths.lock().push(death);
            }
            tokio::time::sleep(RESTART).await;
        }
    }

    async fn live(&self, program: &Program) -> Result<()> {
        let stderr = OpenOptions::new().create(true).append(true).open(&self.log)?;
        let mut command = Command::new(&program.binary);
        command.args(&program.arguments).stdin(Stdio::null()).stdout(Stdio::piped());
        command.stderr(stderr).kill_on_drop(true);
        if let Some(clock) = &program.clock {
            // Leases and timeouts go by the monotonic clock, which never jumps.
            command.env("LD_PRELOAD", library()?).env("FAKETIME_TIMESTAMP_FILE", clock);
            command.env("FAKETIME_DONT_FAKE_MONOTONIC", "1").env("FAKETIME_NO_CACHE", "1");
        }
        let mut child: Child =
            command.spawn().with_context(|| format!("cannot start {}", program.binary.display()))?;
        let pid = child.id();
        self.life.send_modify(|life| {
            *life = Life { pid, addresses: None, starts: life.starts + 1, condemned: false };
        });
        let mut stdout = BufReader::new(child.stdout.take().context("stdout is piped")?);
        let mut line = String::new();
        let listens = tokio::time::timeout(START, stdout.read_line(&mut line)).await;
        if let (Ok(Ok(_)), Some(addresses)) = (listens, parse(&line)) {
            self.life.send_modify(|life| life.addresses = Some(addresses));
        } else if child.try_wait()?.is_none() && line.is_empty() {
            // It neither listens nor ends; another life may do better.
            child.start_kill()?;
        }
        let status = child.wait().await?;
        let mut was = Life::default();
        self.life.send_modify(|life| {
            was = life.clone();
            life.pid = None;
            life.addresses = None;
        });
        if !was.condemned {
            let (name, log) = (self.name.clone(), tail(&self.log));
            let death = Death { name, status: status.to_string(), log, served: was.addresses.is_some() };
            self.deaths.lock().push(death);
        }
        Ok(())
    }
}

fn parse(line: &str) -> Option<Addresses> {
    let line: serde_json::Value = serde_json::from_str(line).ok()?;
    let address = |name: &str| line[name].as_str()?.parse().ok();
    Some(Addresses { dicom: address("dicom"), listen: address("listen")?, health: address("health")? })
}

/// The last lines of a log.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = std::fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<_> = text.lines().collect();
    lines[lines.len().saturating_sub(30)..].join("\n")
}
