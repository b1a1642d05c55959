//! What is done to a cluster: the acts that plays are made of.

mod machine;

use std::{process::Stdio, time::Duration};

use anyhow::{Context as _, Result, ensure};
use isocenter_runtime::random::Seeded;
use isocenter_store::Revision;
use isocenter_testkit::{Host, Link};

use crate::{
    cluster::{Cluster, Process, Role, Signal},
    peers::Peers,
    record::{Deed, Op, Outcome},
    witness::Witness,
};

/// What is longer than every lease and claim in the cluster: ownership is leased for ten seconds.
const PAST_LEASE: Duration = Duration::from_secs(13);
/// etcd's quota where it is to be used up.
pub(crate) const QUOTA: u64 = 48 << 20;
/// What fills it.
const JUNK: usize = 1 << 20;

/// What a play is played with.
#[derive(Debug)]
pub struct Stage<'a> {
    /// The cluster.
    pub cluster: &'a mut Cluster,
    /// The network.
    pub peers: &'a Peers,
    /// The store's history.
    pub witness: &'a Witness,
    /// What is drawn.
    pub rng: Seeded,
    /// How long to play, at least one fault.
    pub length: Duration,
    /// When each fault began: what recovery is measured from.
    pub marks: Vec<Mark>,
}

/// A fault began, or, where nothing can go on during it, ended.
#[derive(Clone, Debug)]
pub struct Mark {
    /// What.
    pub what: String,
    /// When, since the run began.
    pub at: Duration,
}

impl Stage<'_> {
    fn mark(&mut self, what: impl Into<String>) {
        let at = self.peers.recorder.now();
        self.marks.push(Mark { what: what.into(), at });
    }

    pub(crate) async fn pause(&self, time: Duration) {
        tokio::time::sleep(time).await;
    }

    /// Between two faults: long enough for a process to come back, short enough for the next to find it at work.
    async fn breathe(&mut self) {
        let time = self.rng.duration(Duration::from_millis(500)..Duration::from_secs(6));
        self.pause(time).await;
    }

    fn any(&mut self, role: Role) -> Process {
        let of_role: Vec<_> = self.cluster.of(role).cloned().collect();
        self.rng.pick(&of_role).cloned().expect("every role has a process")
    }

    pub(crate) async fn kill(&mut self, role: Role) {
        let process = self.any(role);
        self.mark(format!("kill {}", process.name));
        process.signal(Signal::Kill).await;
        self.breathe().await;
    }

    /// Every other time the next kill waits for the role to be whole again, so that what one costs is seen.
    pub(crate) async fn kill_again(&mut self, role: Role) -> Result<()> {
        self.kill(role).await;
        if self.rng.chance(0.5) {
            self.cluster.ready().await?;
        }
        Ok(())
    }

    pub(crate) async fn kills(&mut self) -> Result<()> {
        let mut roles = Role::ALL;
        self.rng.shuffle(&mut roles);
        let mut members: Vec<_> = (0..self.cluster.members.size()).collect();
        self.rng.shuffle(&mut members);
        for (n, role) in roles.into_iter().enumerate() {
            self.kill(role).await;
            // A member between every second role, so that no two are down at once for long.
            if let Some(member) = members.get(n / 2).filter(|_| n % 2 == 1) {
                self.kill_member(*member).await?;
            }
        }
        self.kill_leader().await
    }

    pub(crate) async fn kill_all(&mut self) -> Result<()> {
        for process in &self.cluster.processes {
            process.signal(Signal::Kill).await;
        }
        for member in 0..self.cluster.members.size() {
            self.cluster.members.kill(member).await;
        }
        for member in 0..self.cluster.members.size() {
            self.cluster.members.run(member)?;
        }
        self.mark("kill everything");
        self.cluster.members.serving().await?;
        self.cluster.ready().await?;
        let time = Duration::from_secs(5);
        self.pause(time).await;
        Ok(())
    }

    /// The process that leads the offers, by the address under the leader's key, once there is one.
    async fn leader(&self) -> Result<Process> {
        let key = isocenter_store::Key::new("leader/reader-assignment")?;
        let looking = async {
            loop {
                let found = self.witness.kv().get(&key).await.ok().flatten();
                let address = found.map(|found| String::from_utf8_lossy(&found.value).into_owned());
                let is = |process: &&Process| {
                    let listen = process.addresses().map(|addresses| addresses.listen.to_string());
                    address.as_ref().zip(listen).is_some_and(|(address, listen)| address.contains(&listen))
                };
                if let Some(leader) = self.cluster.of(Role::ReaderAssignment).find(is) {
                    return leader.clone();
                }
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(60), looking).await.context("nobody leads the offers")
    }

    pub(crate) async fn kill_leader(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        self.mark(format!("kill the leader {}", leader.name));
        leader.signal(Signal::Kill).await;
        self.pause(PAST_LEASE).await;
        Ok(())
    }

    async fn kill_member(&mut self, member: usize) -> Result<()> {
        self.mark(format!("kill member {member}"));
        self.cluster.members.kill(member).await;
        self.breathe().await;
        self.cluster.members.run(member)?;
        self.cluster.members.serving().await
    }

    pub(crate) async fn kill_members(&mut self) -> Result<()> {
        let leader = self.cluster.members.leader().await?;
        let size = self.cluster.members.size() as u64;
        let other = usize::try_from(self.rng.range(0..size))?;
        let member = if self.rng.chance(0.5) { leader } else { other };
        self.kill_member(member).await?;
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn replace_members(&mut self) -> Result<()> {
        let size = self.cluster.members.size() as u64;
        let member = usize::try_from(self.rng.range(0..size))?;
        self.mark(format!("replace member {member}"));
        self.cluster.members.replace(member).await?;
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn defrag(&mut self) -> Result<()> {
        for member in 0..self.cluster.members.size() {
            self.mark(format!("defragment member {member}"));
            self.cluster.members.ctl(Some(member), &["defrag"]).await?;
            self.breathe().await;
        }
        Ok(())
    }

    pub(crate) async fn freeze_leader(&mut self) -> Result<()> {
        let leader = self.leader().await?;
        self.freeze(&leader).await;
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn freeze_workers(&mut self) {
        let roles = [Role::Ingestion, Role::Routing, Role::AiDispatch, Role::ReportDelivery, Role::Archive];
        let role = self.rng.pick(&roles).copied().unwrap_or(Role::ReportDelivery);
        let process = self.any(role);
        self.freeze(&process).await;
        self.breathe().await;
    }

    async fn freeze(&mut self, process: &Process) {
        self.mark(format!("freeze {}", process.name));
        process.signal(Signal::Stop).await;
        let longer = self.rng.duration(Duration::ZERO..Duration::from_secs(5));
        self.pause(PAST_LEASE + longer).await;
        process.signal(Signal::Cont).await;
    }

    pub(crate) async fn freeze_members(&mut self) -> Result<()> {
        let leader = self.cluster.members.leader().await?;
        let size = self.cluster.members.size() as u64;
        let other = usize::try_from(self.rng.range(0..size))?;
        let member = if self.rng.chance(0.5) { leader } else { other };
        self.mark(format!("freeze member {member}"));
        self.cluster.members.signal(member, Signal::Stop).await;
        self.pause(PAST_LEASE).await;
        self.cluster.members.signal(member, Signal::Cont).await;
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn part_member(&mut self, leader: bool) -> Result<()> {
        let leads = self.cluster.members.leader().await?;
        let size = self.cluster.members.size();
        let others: Vec<_> = (0..size).filter(|n| *n != leads).collect();
        let alone =
            if leader { leads } else { *self.rng.pick(&others).context("there are other members")? };
        self.mark(format!("part member {alone}"));
        let network = self.cluster.members.network().context("the members have hosts")?;
        for other in (0..size).filter(|n| *n != alone) {
            network.part(Host::Inside(alone), Host::Inside(other)).map_err(anyhow::Error::msg)?;
        }
        self.pause(PAST_LEASE).await;
        self.cluster.heal().await?;
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn part_one_way(&mut self) -> Result<()> {
        let mut members: Vec<_> = (0..self.cluster.members.size()).collect();
        self.rng.shuffle(&mut members);
        self.mark(format!("lose packets from member {} to member {}", members[0], members[1]));
        let network = self.cluster.members.network().context("the members have hosts")?;
        let (from, to) = (Host::Inside(members[0]), Host::Inside(members[1]));
        network.cut(from, to).map_err(anyhow::Error::msg)?;
        self.pause(PAST_LEASE).await;
        self.cluster.heal().await?;
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn part_clients(&mut self) {
        let role = self.rng.pick(&Role::ALL).copied().unwrap_or(Role::Routing);
        let process = self.any(role);
        let links = self.cluster.links[&process.name].clone();
        let from_all = self.rng.chance(0.5);
        let link = if self.rng.chance(0.5) { Link::Held } else { Link::Cut };
        self.mark(format!(
            "part {} from {} of etcd ({link:?})",
            process.name,
            if from_all { "all" } else { "one member" }
        ));
        let count = if from_all { links.len() } else { 1 };
        links[..count].iter().for_each(|proxy| proxy.set(link));
        self.pause(PAST_LEASE).await;
        links.iter().for_each(|proxy| proxy.set(Link::Open));
        self.breathe().await;
    }

    /// Instances acknowledged so far.
    fn acknowledged(&self) -> usize {
        let is_stored =
            |op: &Op| matches!(op.deed, Deed::Store { .. }) && matches!(op.outcome, Outcome::Ok(_));
        self.peers.recorder.ops().iter().filter(|op| is_stored(op)).count()
    }

    pub(crate) async fn quorum(&mut self) -> Result<()> {
        let mut members: Vec<_> = (0..self.cluster.members.size()).collect();
        self.rng.shuffle(&mut members);
        let gone = members[..members.len() / 2 + 1].to_vec();
        // Until it is back nothing can go on; the fault before is not to blame.
        self.mark("quorum is lost");
        for member in &gone {
            self.cluster.members.kill(*member).await;
        }
        // What was on its way when the quorum was lost does not count.
        self.pause(Duration::from_secs(2)).await;
        let before = self.acknowledged();
        let time = self.length.max(PAST_LEASE);
        self.pause(time).await;
        let meanwhile = self.acknowledged() - before;
        for member in gone {
            self.cluster.members.run(member)?;
        }
        self.cluster.members.serving().await?;
        self.mark("quorum is back");
        ensure!(meanwhile > 0, "ingestion has acknowledged nothing while there was no quorum");
        self.pause(PAST_LEASE).await;
        Ok(())
    }

    pub(crate) async fn compaction(&mut self) -> Result<()> {
        let role = self.rng.pick(&Role::ALL).copied().unwrap_or(Role::Routing);
        let process = self.any(role);
        let links = self.cluster.links[&process.name].clone();
        self.mark(format!("cut {} off and compact", process.name));
        links.iter().for_each(|proxy| proxy.set(Link::Cut));
        let time = self.rng.duration(Duration::from_secs(2)..Duration::from_secs(6));
        self.pause(time).await;
        self.witness.kv().compact(Revision(self.witness.seen())).await?;
        self.pause(Duration::from_secs(1)).await;
        links.iter().for_each(|proxy| proxy.set(Link::Open));
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn no_space(&mut self) -> Result<()> {
        let junk = self.cluster.path("junk");
        std::fs::write(&junk, vec![b'x'; JUNK])?;
        let mut puts = 0;
        // Until it is refused.
        for n in 0..QUOTA / JUNK as u64 + 16 {
            let file = std::fs::File::open(&junk)?;
            let endpoint = self.cluster.members.clients()[0].to_string();
            let mut put = tokio::process::Command::new("etcdctl");
            put.args(["--endpoints", &endpoint, "put", &format!("junk/{n}")]).stdin(Stdio::from(file));
            let ran = put.stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true).status().await?;
            if !ran.success() {
                break;
            }
            puts += 1;
        }
        let before = self.acknowledged();
        let time = self.length.max(Duration::from_secs(5));
        self.pause(time).await;
        let alarm = self.cluster.members.ctl(None, &["alarm", "list"]).await?;
        ensure!(alarm.contains("NOSPACE"), "the quota is not used up after {puts} MiB: {alarm}");
        let meanwhile = self.acknowledged() - before;
        // As the operators' guide has it: free, compact, defragment each, disarm.
        self.cluster.members.ctl(None, &["del", "--prefix", "junk/"]).await?;
        let seen = self.witness.history(Duration::from_secs(30)).await?.revision();
        self.cluster.members.ctl(None, &["compact", &seen.to_string()]).await?;
        for member in 0..self.cluster.members.size() {
            self.cluster.members.ctl(Some(member), &["defrag"]).await?;
        }
        self.cluster.members.ctl(None, &["alarm", "disarm"]).await?;
        self.mark(format!("space is free again, {meanwhile} instances acknowledged meanwhile"));
        self.pause(PAST_LEASE).await;
        Ok(())
    }

    pub(crate) async fn postgres(&mut self) -> Result<()> {
        self.mark("kill PostgreSQL");
        self.cluster.postgres.kill();
        let time = self.length.max(Duration::from_secs(8));
        self.pause(time).await;
        self.cluster.postgres.restart();
        self.breathe().await;
        Ok(())
    }

    pub(crate) async fn postgres_cut(&mut self) {
        let link = if self.rng.chance(0.5) { Link::Held } else { Link::Cut };
        self.mark(format!("part the records from PostgreSQL ({link:?})"));
        self.cluster.records.set(link);
        let time = self.rng.duration(Duration::from_secs(2)..Duration::from_secs(15));
        self.pause(time).await;
        self.cluster.records.set(Link::Open);
        self.breathe().await;
    }

    pub(crate) async fn deaf(&mut self) {
        let processes = self.cluster.processes.clone();
        let Some(process) = self.rng.pick(&processes).cloned() else { return };
        let links = self.cluster.links[&process.name].clone();
        self.mark(format!("lose answers to {}", process.name));
        links.iter().for_each(|proxy| proxy.set(Link::Deaf));
        let time = self.rng.duration(Duration::from_millis(50)..Duration::from_secs(1));
        self.pause(time).await;
        links.iter().for_each(|proxy| proxy.set(Link::Open));
        let time = self.rng.duration(Duration::from_millis(100)..Duration::from_secs(2));
        self.pause(time).await;
    }

    pub(crate) async fn slow(&mut self) {
        let delay = self.rng.duration(Duration::from_millis(20)..Duration::from_millis(200));
        self.mark(format!("slow the store by {delay:?}"));
        let links: Vec<_> = self.cluster.links.values().flatten().cloned().collect();
        links.iter().for_each(|proxy| proxy.set(Link::Slow(delay)));
        self.pause(self.length).await;
        links.iter().for_each(|proxy| proxy.set(Link::Open));
    }

    /// Where the members have no hosts of their own, clients are parted from them instead.
    pub(crate) async fn medley(&mut self) -> Result<()> {
        self.deaf().await;
        self.freeze_leader().await?;
        self.compaction().await?;
        if self.cluster.members.network().is_some() {
            self.part_member(true).await?;
        } else {
            self.part_clients().await;
        }
        self.postgres().await?;
        self.quorum().await
    }

    pub(crate) async fn rolling(&mut self) -> Result<()> {
        for process in self.cluster.processes.clone() {
            self.mark(format!("replace {}", process.name));
            let starts = process.life().starts;
            process.signal(Signal::Term).await;
            let again = async {
                while process.life().starts == starts {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            };
            let ended = tokio::time::timeout(Duration::from_secs(90), again).await;
            ended.with_context(|| format!("{} does not end when it is asked to", process.name))?;
            self.cluster.ready().await?;
        }
        Ok(())
    }
}
