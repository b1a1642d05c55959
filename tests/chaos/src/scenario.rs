//! The faults, each a play of its own: what is done to the cluster, when and to whom is drawn from the seed.

use anyhow::Result;

use crate::{
    cluster::Role,
    stage::{QUOTA, Stage},
};

/// A play.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scenario {
    /// Nothing happens: what the rest is compared with.
    Calm,
    /// `kill -9` of processes of one role, one after another.
    Kill(Role),
    /// `kill -9` of each role and each member in turn.
    Kills,
    /// `kill -9` of every process and every member at once.
    KillAll,
    /// `kill -9` of the leader of the offers.
    KillLeader,
    /// `kill -9` of etcd's members, its leader among them.
    KillMembers,
    /// The leader of the offers freezes past its lease and wakes up.
    FreezeLeader,
    /// Workers freeze past their leases and claims and wake up.
    FreezeWorkers,
    /// Members freeze, and wake up.
    FreezeMembers,
    /// etcd's leader is parted from the other members.
    PartLeader,
    /// A member that follows is parted from the others.
    PartFollower,
    /// Packets from one member to another are lost, those of the other way are not.
    PartOneWay,
    /// Processes are parted from one member, and from all of them.
    PartClients,
    /// Two of three members are gone; ingestion goes on acknowledging.
    Quorum,
    /// History is compacted while a process's watches are cut off.
    Compaction,
    /// Members without data take the place of others.
    ReplaceMembers,
    /// Members are defragmented, one after another, which blocks each.
    Defrag,
    /// etcd's quota is used up, and made free again.
    NoSpace,
    /// PostgreSQL is killed, and stays away.
    Postgres,
    /// The way to PostgreSQL is cut and held up.
    PostgresCut,
    /// Answers of the store are lost after it has done what was asked.
    Deaf,
    /// The store is slow.
    Slow,
    /// Every lease ends at once, those of hundreds of readers among them.
    Leases,
    /// The disk of one member is full, and has room again.
    FullDisk,
    /// The clock of a process jumps by an hour.
    Clock,
    /// Every process is replaced, one after another, as by an upgrade.
    Rolling,
    /// A freeze, a partition, a loss of quorum, a compaction, lost answers and PostgreSQL's death, one after another.
    Medley,
    /// Studies are closed as soon as they are delivered, while processes are killed.
    Closing,
}

impl Scenario {
    /// Every play.
    #[must_use]
    pub fn all() -> Vec<Self> {
        let kills = Role::ALL.map(Self::Kill);
        let rest = [
            Self::Calm,
            Self::Kills,
            Self::KillAll,
            Self::KillLeader,
            Self::KillMembers,
            Self::FreezeLeader,
            Self::FreezeWorkers,
            Self::FreezeMembers,
            Self::PartLeader,
            Self::PartFollower,
            Self::PartOneWay,
            Self::PartClients,
            Self::Quorum,
            Self::Compaction,
            Self::ReplaceMembers,
            Self::Defrag,
            Self::NoSpace,
            Self::Postgres,
            Self::PostgresCut,
            Self::Deaf,
            Self::Slow,
            Self::Leases,
            Self::FullDisk,
            Self::Clock,
            Self::Rolling,
            Self::Medley,
            Self::Closing,
        ];
        rest.into_iter().chain(kills).collect()
    }

    /// Its name on the command line.
    #[must_use]
    pub fn name(self) -> String {
        match self {
            Self::Calm => "calm".to_owned(),
            Self::Kill(role) => format!("kill-{role}"),
            Self::Kills => "kills".to_owned(),
            Self::KillAll => "kill-all".to_owned(),
            Self::KillLeader => "kill-leader".to_owned(),
            Self::KillMembers => "kill-members".to_owned(),
            Self::FreezeLeader => "freeze-leader".to_owned(),
            Self::FreezeWorkers => "freeze-workers".to_owned(),
            Self::FreezeMembers => "freeze-members".to_owned(),
            Self::PartLeader => "part-leader".to_owned(),
            Self::PartFollower => "part-follower".to_owned(),
            Self::PartOneWay => "part-one-way".to_owned(),
            Self::PartClients => "part-clients".to_owned(),
            Self::Quorum => "quorum".to_owned(),
            Self::Compaction => "compaction".to_owned(),
            Self::ReplaceMembers => "replace-members".to_owned(),
            Self::Defrag => "defrag".to_owned(),
            Self::NoSpace => "no-space".to_owned(),
            Self::Postgres => "postgres".to_owned(),
            Self::PostgresCut => "postgres-cut".to_owned(),
            Self::Deaf => "deaf".to_owned(),
            Self::Slow => "slow".to_owned(),
            Self::Leases => "leases".to_owned(),
            Self::FullDisk => "full-disk".to_owned(),
            Self::Clock => "clock".to_owned(),
            Self::Rolling => "rolling".to_owned(),
            Self::Medley => "medley".to_owned(),
            Self::Closing => "closing".to_owned(),
        }
    }

    /// Whether each member has to be a host of its own, which needs root.
    #[must_use]
    pub fn needs_hosts(self) -> bool {
        matches!(self, Self::PartLeader | Self::PartFollower | Self::PartOneWay)
    }

    /// Whether members are hosts of their own where this machine lets them be.
    #[must_use]
    pub fn wants_hosts(self) -> bool {
        self.needs_hosts() || (self == Self::Medley && isocenter_testkit::is_allowed())
    }

    /// etcd's quota.
    #[must_use]
    pub fn quota(self) -> Option<u64> {
        (self == Self::NoSpace).then_some(QUOTA)
    }

    /// Whether processes have clocks of their own, which can be set.
    #[must_use]
    pub fn wants_clocks(self) -> bool {
        self == Self::Clock
    }

    /// Further flags for every process.
    #[must_use]
    pub fn flags(self) -> Vec<String> {
        let flags = match self {
            Self::Closing => ["--archive.close_after", "2s", "--archive.close_unread_after", "2s"].as_slice(),
            _ => [].as_slice(),
        };
        flags.iter().map(|flag| (*flag).to_owned()).collect()
    }

    /// Plays it. What is broken afterwards is healed by whoever called.
    ///
    /// # Errors
    /// If the harness itself fails, or what must go on during the fault does not.
    pub async fn play(self, stage: &mut Stage<'_>) -> Result<()> {
        let end = stage.peers.recorder.now() + stage.length;
        loop {
            match self {
                Self::Calm => stage.pause(stage.length).await,
                Self::Kill(role) => stage.kill_again(role).await?,
                Self::Kills | Self::Closing => stage.kills().await?,
                Self::KillAll => stage.kill_all().await?,
                Self::KillLeader => stage.kill_leader().await?,
                Self::KillMembers => stage.kill_members().await?,
                Self::FreezeLeader => stage.freeze_leader().await?,
                Self::FreezeWorkers => stage.freeze_workers().await,
                Self::FreezeMembers => stage.freeze_members().await?,
                Self::PartLeader => stage.part_member(true).await?,
                Self::PartFollower => stage.part_member(false).await?,
                Self::PartOneWay => stage.part_one_way().await?,
                Self::PartClients => stage.part_clients().await,
                Self::Quorum => stage.quorum().await?,
                Self::Compaction => stage.compaction().await?,
                Self::ReplaceMembers => stage.replace_members().await?,
                Self::Defrag => stage.defrag().await?,
                Self::NoSpace => stage.no_space().await?,
                Self::Postgres => stage.postgres().await?,
                Self::PostgresCut => stage.postgres_cut().await,
                Self::Deaf => stage.deaf().await,
                Self::Slow => stage.slow().await,
                Self::Leases => stage.end_leases().await?,
                Self::FullDisk => stage.fill_disk().await?,
                Self::Clock => stage.jump_clock().await?,
                Self::Rolling => stage.rolling().await?,
                Self::Medley => stage.medley().await?,
            }
            if stage.peers.recorder.now() >= end {
                return Ok(());
            }
        }
    }
}
