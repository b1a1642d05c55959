//! Received = routed = read = delivered, or the list of differences.

mod kept;
mod late;
mod live;
mod mend;
mod stuck;

use std::collections::BTreeMap;

use isocenter_blobs::Blobs;
use isocenter_domain::{id::TenantId, key::StudyKey};
use isocenter_store::table::{Mirrors, Tables};

use crate::{Config, Error, reconcile::reopen::Reopener, records::Records};

pub(crate) use self::{live::Live, mend::Order, stuck::Stuck};

/// The most differences listed: more would not be read one by one.
pub(crate) const LIMIT: usize = 10_000;

/// Compares what the store, blobs and the records say.
#[derive(Clone, Debug)]
pub(crate) struct Comparer {
    pub tables: Tables,
    pub mirrors: Mirrors,
    pub blobs: Blobs,
    pub records: Records,
    pub reopener: Reopener,
    pub config: Config,
}

/// What is compared with what; the names are those of the contract.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Subject {
    Instance,
    Study,
    Plan,
    Case,
    Read,
    Report,
    Delivery,
    Projection,
    Overdue,
    Level,
}

impl Subject {
    pub const ALL: [Self; 10] = [
        Self::Instance,
        Self::Study,
        Self::Plan,
        Self::Case,
        Self::Read,
        Self::Report,
        Self::Delivery,
        Self::Projection,
        Self::Overdue,
        Self::Level,
    ];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Instance => "instance",
            Self::Study => "study",
            Self::Plan => "plan",
            Self::Case => "case",
            Self::Read => "read",
            Self::Report => "report",
            Self::Delivery => "delivery",
            Self::Projection => "projection",
            Self::Overdue => "overdue",
            Self::Level => "level",
        }
    }
}

/// How much is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Depth {
    /// Everything, every instance of every study that ever was.
    Everything,
    /// Of closed studies only those whose images were not found whole before.
    Changed,
}

/// What helps against a difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Remedy {
    /// The study was closed, and something of it was received since: reopen it.
    Reopen(StudyKey),
    /// The records lack what the journal has, or what the store has: apply it, or journal it again.
    Project,
    /// The image index lacks a revision's manifest.
    Index(StudyKey, u32),
    /// A role does it when it looks next, which it does by itself; or a person does, as it says.
    Person(&'static str),
}

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub kind: &'static str,
    pub key: String,
    pub expected: String,
    pub found: String,
    pub remedy: Remedy,
    /// What was done about it; `None`: nothing.
    pub mended: Option<&'static str>,
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    /// How many of each kind were looked at.
    pub checked: BTreeMap<&'static str, u64>,
    /// What differs, at most [`LIMIT`].
    pub differences: Vec<Difference>,
    /// How many there are.
    pub total: u64,
}

impl Compared {
    fn new() -> Self {
        let checked = Subject::ALL.map(|subject| (subject.name(), 0)).into();
        Self { checked, differences: Vec::new(), total: 0 }
    }

    /// One more was looked at.
    fn saw(&mut self, subject: Subject) {
        *self.checked.entry(subject.name()).or_default() += 1;
    }

    /// So many more were.
    fn saw_many(&mut self, subject: Subject, count: usize) {
        *self.checked.entry(subject.name()).or_default() += u64::try_from(count).unwrap_or(u64::MAX);
    }

    fn differs(
        &mut self,
        subject: Subject,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
        remedy: Remedy,
    ) {
        self.total += 1;
        if self.differences.len() < LIMIT {
            let (key, expected, found) = (key.into(), expected.into(), found.into());
            let kind = subject.name();
            self.differences.push(Difference { kind, key, expected, found, remedy, mended: None });
        }
    }
}

impl Comparer {
    /// Everything of a tenant that waits longer than it may, the oldest bound first. From the mirrors: cheap.
    pub async fn stuck(&self, tenant: &TenantId) -> Vec<Stuck> {
        let live = Live::gather(&self.mirrors, tenant).await;
        let mut stuck = live.stuck(&self.config, self.tables.clock().now());
        stuck.sort_by(|a, b| (a.bound, &a.key).cmp(&(b.bound, &b.key)));
        stuck
    }

    /// Compares everything of a tenant. In its depth it reads every manifest, and the size of every instance, that the
    /// tenant ever had: minutes for a large archive, at the pace of the disk.
    pub async fn compare(&self, tenant: &TenantId, depth: Depth) -> Result<Compared, Error> {
        let mut compared = Compared::new();
        let live = Live::gather(&self.mirrors, tenant).await;
        let now = self.tables.clock().now();
        live.compare(&self.config, now, &mut compared);
        self.compare_kept(tenant, &live, depth, &mut compared).await?;
        for (key, why) in self.mirrors.undecodable() {
            compared.saw(Subject::Level);
            let parts: Vec<&str> = key.split('/').collect();
            if parts.get(1) == Some(&tenant.as_str()) || parts.get(2) == Some(&tenant.as_str()) {
                let remedy = Remedy::Person(
                    "a process of a newer version reads it; a damaged one is restored by hand",
                );
                compared.differs(Subject::Level, key, "a record this process understands", why, remedy);
            }
        }
        Ok(compared)
    }
}
