//! The etcd under the cluster: real members, each frozen, killed, parted, starved and replaced at will.

use std::{
    fs::OpenOptions,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use isocenter_testkit::{Host, Network, http_get};
use tokio::process::{Child, Command};

use super::process::{Signal, signal};

/// How long the cluster may take to elect a leader.
const START: Duration = Duration::from_secs(60);
/// The ports inside a namespace, where no other server is.
const PORTS: (u16, u16) = (2379, 2380);

/// The members.
#[derive(Debug)]
pub struct Members {
    folder: PathBuf,
    members: Vec<Member>,
    network: Option<Network>,
    quota: Option<u64>,
    /// What was mounted.
    disks: Vec<PathBuf>,
}

#[derive(Debug)]
struct Member {
    name: String,
    client: SocketAddr,
    peer: SocketAddr,
    child: Option<Child>,
    /// How often it was replaced by one without data.
    replaced: u32,
}

impl Members {
    /// Starts `size` members below `folder`, each on a host of its own where there is a network; `quota` in bytes. Returns when
    /// there is a leader.
    ///
    /// # Errors
    /// If one does not start.
    pub async fn start(
        folder: &Path,
        size: usize,
        network: Option<Network>,
        quota: Option<u64>,
    ) -> Result<Self> {
        let addresses = match &network {
            Some(network) => (0..size).map(|n| inside(network, n)).collect(),
            None => free(size)?,
        };
        let members = addresses.into_iter().enumerate();
        let members = members
            .map(|(n, (client, peer))| Member {
                name: format!("m{n}"),
                client,
                peer,
                child: None,
                replaced: 0,
            })
            .collect();
        let disks = Vec::new();
        let mut started = Self { folder: folder.to_owned(), members, network, quota, disks };
        for member in 0..size {
            started.run(member)?;
        }
        started.serving().await?;
        Ok(started)
    }

    /// How many there are.
    #[must_use]
    pub fn size(&self) -> usize {
        self.members.len()
    }

    /// Where each serves its clients.
    #[must_use]
    pub fn clients(&self) -> Vec<SocketAddr> {
        self.members.iter().map(|member| member.client).collect()
    }

    /// The network, where the members have one.
    pub fn network(&mut self) -> Option<&mut Network> {
        self.network.as_mut()
    }

    /// Ends a member at once; its data stay.
    pub async fn kill(&mut self, member: usize) {
        if let Some(mut child) = self.members[member].child.take() {
            drop(child.kill().await);
        }
    }

    /// Freezes or thaws a member.
    pub async fn signal(&self, member: usize, which: Signal) {
        if let Some(pid) = self.members[member].child.as_ref().and_then(Child::id) {
            signal(pid, which).await;
        }
    }

    /// Starts a member that was killed, without waiting for it; one that runs is left alone.
    ///
    /// # Errors
    /// If the program does not start.
    pub fn run(&mut self, member: usize) -> Result<()> {
        if self.members[member].child.is_some() {
            return Ok(());
        }
        let child = self.command(member)?.spawn().context("etcd does not start: install etcd-server")?;
        self.members[member].child = Some(child);
        Ok(())
    }

    /// Waits until every member that runs serves, with a leader.
    ///
    /// # Errors
    /// If that takes more than a minute.
    pub async fn serving(&self) -> Result<()> {
        let all = async {
            for member in self.members.iter().filter(|member| member.child.is_some()) {
                while http_get(member.client, "/health", super::ANSWER)
                    .await
                    .is_none_or(|(status, _)| status != 200)
                {
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        };
        tokio::time::timeout(START, all).await.context("etcd has no leader")
    }

    /// The number of the member that leads.
    ///
    /// # Errors
    /// If none does, or none tells.
    pub async fn leader(&self) -> Result<usize> {
        for (n, member) in self.members.iter().enumerate() {
            if member.child.is_none() {
                continue;
            }
            let Ok(told) = self.ctl(Some(n), &["endpoint", "status", "-w", "json"]).await else { continue };
            let told: serde_json::Value = serde_json::from_str(&told)?;
            let status = &told[0]["Status"];
            if status["leader"] == status["header"]["member_id"] {
                return Ok(n);
            }
        }
        bail!("no member says that it leads")
    }

    /// Whether a member has ended by itself.
    ///
    /// # Errors
    /// If the system does not tell.
    pub fn has_ended(&mut self, member: usize) -> Result<bool> {
        let Some(child) = &mut self.members[member].child else { return Ok(true) };
        Ok(child.try_wait()?.is_some())
    }

    /// Gives a member a small disk of its own, in memory, with its data on it; where that is. Needs root.
    ///
    /// # Errors
    /// If it cannot be mounted, or the member does not come back.
    pub async fn move_to_own_disk(&mut self, member: usize, size: &str) -> Result<PathBuf> {
        let data = self.data(member);
        if self.disks.contains(&data) {
            return Ok(data);
        }
        self.kill(member).await;
        let aside = data.with_extension("aside");
        std::fs::rename(&data, &aside)?;
        std::fs::create_dir(&data)?;
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", size, "tmpfs"]).arg(&data);
        run(mount).await?;
        self.disks.push(data.clone());
        let mut copy = Command::new("cp");
        copy.arg("-a").arg(aside.join(".")).arg(&data);
        run(copy).await?;
        self.run(member)?;
        self.serving().await?;
        Ok(data)
    }

    /// Runs `etcdctl` against one member, or all of them.
    ///
    /// # Errors
    /// If it fails, with what it says.
    pub async fn ctl(&self, member: Option<usize>, arguments: &[&str]) -> Result<String> {
        let endpoints = match member {
            Some(member) => self.members[member].client.to_string(),
            None => self.clients().iter().map(ToString::to_string).collect::<Vec<_>>().join(","),
        };
        let mut command = Command::new("etcdctl");
        command.args(["--endpoints", &endpoints, "--command-timeout", "30s"]).args(arguments);
        run(command).await
    }

    /// Puts a member without data in the place of another, as where a disk was lost.
    ///
    /// # Errors
    /// If `etcdctl` refuses, or the new member does not start.
    pub async fn replace(&mut self, member: usize) -> Result<()> {
        let other = (member + 1) % self.members.len();
        self.kill(member).await;
        // Nobody is removed or added while there is no leader.
        self.serving().await?;
        let list = self.ctl(Some(other), &["member", "list", "-w", "json"]).await?;
        let list: serde_json::Value = serde_json::from_str(&list)?;
        let name = self.members[member].name.clone();
        let listed =
            list["members"].as_array().into_iter().flatten().find(|one| one["name"] == name.as_str());
        let id = listed.and_then(|one| one["ID"].as_u64()).context("the member is listed")?;
        self.ctl(Some(other), &["member", "remove", &format!("{id:x}")]).await?;
        self.serving().await?;
        let peer = format!("--peer-urls=http://{}", self.members[member].peer);
        self.ctl(Some(other), &["member", "add", &name, &peer]).await?;
        self.members[member].replaced += 1;
        self.run(member)?;
        self.serving().await
    }

    fn command(&self, n: usize) -> Result<Command> {
        let member = &self.members[n];
        let log = self.folder.join(format!("etcd-{}.log", member.name));
        let log = OpenOptions::new().create(true).append(true).open(log)?;
        let prefix = self.network.as_ref().map(|network| network.enter(n)).unwrap_or_default();
        let mut words = prefix.into_iter().chain(["etcd".to_owned()]);
        let mut command = Command::new(words.next().context("there is a word")?);
        let (client, peer) = (format!("http://{}", member.client), format!("http://{}", member.peer));
        command.args(words).args(["--name", &member.name]).arg("--data-dir").arg(self.data(n));
        command.args(["--listen-client-urls", &client, "--advertise-client-urls", &client]);
        command.args(["--listen-peer-urls", &peer, "--initial-advertise-peer-urls", &peer]);
        command.args(["--initial-cluster", &self.initial(), "--initial-cluster-token", "chaos"]);
        if member.replaced > 0 {
            command.args(["--initial-cluster-state", "existing"]);
        }
        command.args(["--heartbeat-interval", "100", "--election-timeout", "1000", "--logger", "zap"]);
        command.args(["--log-outputs", "stderr", "--log-level", "warn"]);
        if let Some(quota) = self.quota {
            command.args(["--quota-backend-bytes", &quota.to_string()]);
        }
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).kill_on_drop(true);
        Ok(command)
    }

    fn data(&self, member: usize) -> PathBuf {
        let Member { name, replaced, .. } = &self.members[member];
        self.folder.join(format!("etcd-{name}.{replaced}"))
    }

    fn initial(&self) -> String {
        let member = |member: &Member| format!("{}=http://{}", member.name, member.peer);
        self.members.iter().map(member).collect::<Vec<_>>().join(",")
    }
}

impl Drop for Members {
    fn drop(&mut self) {
        for disk in &self.disks {
            // Whatever still runs there keeps it until it ends.
            drop(std::process::Command::new("umount").arg("--lazy").arg(disk).status());
        }
    }
}

async fn run(mut command: Command) -> Result<String> {
    let program = command.as_std().get_program().to_string_lossy().into_owned();
    let ran = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let ran = ran.with_context(|| format!("{program} does not start"))?;
    if !ran.status.success() {
        bail!("{program}: {}", String::from_utf8_lossy(&ran.stderr).trim());
    }
    Ok(String::from_utf8_lossy(&ran.stdout).into_owned())
}

fn inside(network: &Network, host: usize) -> (SocketAddr, SocketAddr) {
    let ip = IpAddr::V4(network.address(Host::Inside(host)));
    (SocketAddr::new(ip, PORTS.0), SocketAddr::new(ip, PORTS.1))
}

/// Free ports, all held at once so that they differ, and freed together before the servers take them.
fn free(size: usize) -> Result<Vec<(SocketAddr, SocketAddr)>> {
    let held = (0..2 * size).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
    let held = held.collect::<Result<Vec<_>, _>>()?;
    let ports = held.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>()?;
    Ok(ports.chunks(2).map(|pair| (pair[0], pair[1])).collect())
}
