//! What machines do by themselves: leases that run out together, disks that fill, clocks that jump.

use std::{path::Path, process::Stdio, time::Duration};

use anyhow::{Context as _, Result, bail, ensure};
use isocenter_store::{Key, LeaseId, Op, Txn};
use tokio::process::Command;

use super::{JUNK, PAST_LEASE, Stage};

/// Readers who lose their presence in one moment: those of a center whose line is cut.
const LEASES: usize = 500;
/// How large the disk is that fills: etcd sets 64 MiB aside for its log, and as much again for the next one.
const DISK: &str = "size=256m";
/// How long a member may take to meet the end of its disk.
const FULL: Duration = Duration::from_secs(60);

impl Stage<'_> {
    /// Five hundred readers become present, and then every lease in the store is revoked at once: theirs, the leader's, and
    /// that of every process.
    pub(crate) async fn end_leases(&mut self) -> Result<()> {
        let kv = self.witness.kv();
        for n in 0..LEASES {
            let lease = kv.grant(Duration::from_secs(60)).await?;
            let key = Key::new(format!("presence/reader/chaos/absent-{n}"))?;
            kv.txn(Txn::always(vec![Op::put_leased(&key, "absent 1", lease)])).await?;
        }
        self.mark("end every lease");
        let all = self.cluster.members.ctl(None, &["lease", "list"]).await?;
        let leases: Vec<_> = all.lines().skip(1).map(str::trim).filter(|id| !id.is_empty()).collect();
        ensure!(leases.len() > LEASES, "there are only {} leases", leases.len());
        for lease in leases {
            let id = i64::from_str_radix(lease, 16).context("etcdctl lists leases as hexadecimal")?;
            // One that ended meanwhile has got what was wanted.
            drop(kv.revoke(LeaseId(id)).await);
        }
        self.pause(PAST_LEASE).await;
        Ok(())
    }

    /// The disk of one member is full: etcd ends, and comes back once there is room.
    pub(crate) async fn fill_disk(&mut self) -> Result<()> {
        let size = self.cluster.members.size() as u64;
        let member = usize::try_from(self.rng.range(0..size))?;
        let data = self.cluster.members.move_to_own_disk(member, DISK).await?;
        self.breathe().await;
        let (ballast, junk) = (data.join("ballast"), self.cluster.path("junk"));
        std::fs::write(&junk, vec![b'x'; JUNK])?;
        fill(&ballast).await?;
        self.mark(format!("fill the disk of member {member}"));
        let ended = async {
            // What etcd has set aside has to be used up first.
            for n in 0.. {
                if self.cluster.members.has_ended(member)? {
                    return anyhow::Ok(());
                }
                let file = std::fs::File::open(&junk)?;
                let mut put = Command::new("etcdctl");
                let endpoint = self.cluster.members.clients()[(member + 1) % 3].to_string();
                put.args(["--endpoints", &endpoint, "put", &format!("junk/{}", n % 8)]);
                put.stdin(Stdio::from(file)).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
                put.status().await?;
            }
            bail!("there are numbers without end")
        };
        tokio::time::timeout(FULL, ended).await.context("the member goes on although its disk is full")??;
        self.breathe().await;
        std::fs::remove_file(&ballast)?;
        self.cluster.members.kill(member).await;
        self.cluster.members.run(member)?;
        self.cluster.members.serving().await?;
        self.cluster.members.ctl(None, &["del", "--prefix", "junk/"]).await?;
        self.mark(format!("member {member} has room again"));
        self.breathe().await;
        Ok(())
    }

    /// The clock of one process jumps an hour ahead or back, and is set right a while later.
    pub(crate) async fn jump_clock(&mut self) -> Result<()> {
        let processes = self.cluster.processes.clone();
        let process = self.rng.pick(&processes).context("there are processes")?;
        let clock = process.clock.as_ref().context("the processes have clocks of their own")?;
        let jump = if self.rng.chance(0.5) { "+1h" } else { "-1h" };
        self.mark(format!("set the clock of {} {jump}", process.name));
        std::fs::write(clock, jump)?;
        self.pause(PAST_LEASE).await;
        std::fs::write(clock, "+0")?;
        self.breathe().await;
        Ok(())
    }
}

/// Writes until there is no room.
async fn fill(ballast: &Path) -> Result<()> {
    let mut cat = Command::new("cp");
    cat.arg("/dev/zero").arg(ballast).stderr(Stdio::null()).kill_on_drop(true);
    let filled = cat.status().await?;
    ensure!(!filled.success(), "the disk has no end");
    Ok(())
}
