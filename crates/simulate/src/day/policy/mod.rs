//! Ways to assign: the engine, and what it is compared with.

mod engine;
mod index;
mod ordered;
mod push;

use std::fmt;

use serde::Serialize;

use super::{Workload, world::Room};

/// What happened to leases.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Counts {
    /// Reads leased ahead.
    pub leased: u64,
    /// Leases that ended before their read was opened by their holder: reassignments.
    pub recalled: u64,
}

/// A way to assign. It is told what happens and keeps what waits; it never sees how long a study really takes or whether it
/// is really critical.
pub(crate) trait Policy {
    /// A study waits, for the first time or again. Whoever is returned, an idle reader, is given it at once; else it is kept.
    fn add(&mut self, study: u32, now: i64, room: &Room) -> Option<u32>;
    /// AI has answered on a study that is not open.
    fn answer(&mut self, _study: u32, _probability: f64, _flagged: bool, _now: i64, _room: &Room) {}
    /// A reader with free hands asks: the study, and whether it was theirs ahead of time.
    fn pull(&mut self, reader: u32, now: i64, room: &Room) -> Option<(u32, bool)>;
    /// A reader has opened a study.
    fn opened(&mut self, _reader: u32, _study: u32, _now: i64, _room: &Room) {}
    /// A reader has signed a study.
    fn signed(&mut self, _reader: u32, _study: u32, _room: &Room) {}
    /// Studies that wait again since the last call into the policy.
    fn given_back(&mut self) -> Vec<u32> {
        Vec::new()
    }
    /// A reader takes no work any more: the studies that were theirs and wait again.
    fn leave(&mut self, _reader: u32, _now: i64, _room: &Room) -> Vec<u32> {
        Vec::new()
    }
    /// When more readers may have a study that waits.
    fn wake(&self, _study: u32, _room: &Room) -> Option<i64> {
        None
    }
    /// What happened to leases.
    fn counts(&self) -> Counts {
        Counts::default()
    }
}

/// A policy by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Kind {
    /// The engine: index, guards, soft locality, next-up leases.
    Isocenter,
    /// The engine without leases.
    IsocenterNoLease,
    /// In order of arrival.
    Fifo,
    /// In order of class, then of arrival, each site's studies by that site's own readers only.
    StaticSite,
    /// Class, then arrival; other sites' studies only when a quarter of their deadline has passed.
    LocalFirst,
    /// Given on arrival to who has least work, who reads by deadline.
    PushLeastWork,
    /// The same, and who is idle takes from who has most.
    Stealing,
    /// Class, then arrival.
    PriorityFifo,
    /// Earliest deadline first.
    Edf,
    /// Class, then arrival; what AI flags goes before all that is not of an immediate class.
    AiBinary,
    /// Earliest deadline first, AI's probability being a credit of time.
    VirtualDeadline,
    /// The index on exact probabilities, over all that waits; no guards, no leases.
    Gcmu,
    /// Class, then arrival, but half of all pulls take the quickest study instead.
    CherryPick,
}

impl Kind {
    /// Every policy.
    pub const ALL: [Self; 13] = [
        Self::Isocenter,
        Self::IsocenterNoLease,
        Self::Fifo,
        Self::StaticSite,
        Self::LocalFirst,
        Self::PushLeastWork,
        Self::Stealing,
        Self::PriorityFifo,
        Self::Edf,
        Self::AiBinary,
        Self::VirtualDeadline,
        Self::Gcmu,
        Self::CherryPick,
    ];

    /// Its name on the command line.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Isocenter => "isocenter",
            Self::IsocenterNoLease => "isocenter-no-lease",
            Self::Fifo => "fifo",
            Self::StaticSite => "static-site",
            Self::LocalFirst => "local-first",
            Self::PushLeastWork => "push-least-work",
            Self::Stealing => "stealing",
            Self::PriorityFifo => "priority-fifo",
            Self::Edf => "edf",
            Self::AiBinary => "ai-binary",
            Self::VirtualDeadline => "virtual-deadline",
            Self::Gcmu => "gcmu",
            Self::CherryPick => "cherry-pick",
        }
    }

    /// The policy, before `workload`, with the engine's parameters.
    pub(crate) fn make(
        self,
        workload: &Workload,
        seed: u64,
        params: &isocenter_assign::Params,
    ) -> Box<dyn Policy> {
        use ordered::{Order, Ordered, Reach};
        let ordered =
            |order, reach| -> Box<dyn Policy> { Box::new(Ordered::new(workload, order, reach, seed)) };
        match self {
            Self::Isocenter => Box::new(engine::Engine::new(workload, params.clone(), true)),
            Self::IsocenterNoLease => Box::new(engine::Engine::new(workload, params.clone(), false)),
            Self::Fifo => ordered(Order::Arrival, Reach::Everyone),
            Self::StaticSite => ordered(Order::Class, Reach::OwnSite),
            Self::LocalFirst => ordered(Order::Class, Reach::OwnSiteFirst),
            Self::PriorityFifo => ordered(Order::Class, Reach::Everyone),
            Self::Edf => ordered(Order::Deadline, Reach::Everyone),
            Self::AiBinary => ordered(Order::Flag, Reach::Everyone),
            Self::VirtualDeadline => ordered(Order::Credit, Reach::Everyone),
            Self::CherryPick => ordered(Order::CherryPick, Reach::Everyone),
            Self::PushLeastWork => Box::new(push::Push::new(workload, false)),
            Self::Stealing => Box::new(push::Push::new(workload, true)),
            Self::Gcmu => Box::new(index::Index::new(workload)),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// No policy has this name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no policy; give some of {known}", known = Kind::ALL.map(Kind::name).join(", "))]
pub struct UnknownPolicy(pub String);

impl std::str::FromStr for Kind {
    type Err = UnknownPolicy;

    fn from_str(text: &str) -> Result<Self, UnknownPolicy> {
        Self::ALL.into_iter().find(|kind| kind.name() == text).ok_or_else(|| UnknownPolicy(text.to_owned()))
    }
}

/// The idle reader who may have `study` and is given it: the least flexible, then who has been idle longest.
pub(crate) fn choose_idle(study: u32, room: &Room, may: impl Fn(u32) -> bool) -> Option<u32> {
    use super::world::{Hands, place};
    let key = |reader: &u32| {
        let since = match room.desks[place(*reader)].hands {
            Hands::Idle(since) => since,
            Hands::Away | Hands::Reading(_) => i64::MAX,
        };
        (room.workload.readers[place(*reader)].skills.count_ones(), since, *reader)
    };
    room.idle.iter().copied().filter(|reader| room.reads(*reader, study) && may(*reader)).min_by_key(key)
}
