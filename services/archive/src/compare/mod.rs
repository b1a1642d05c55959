//! Received = routed = read = delivered, or the list of differences.

mod kept;
mod live;

use std::collections::BTreeMap;

use isocenter_blobs::Blobs;
use isocenter_domain::id::TenantId;
use isocenter_store::table::{Mirrors, Tables};

use crate::{Config, Error, records::Records};

pub(crate) use live::Live;

/// The most differences listed: more would not be read one by one.
pub(crate) const LIMIT: usize = 10_000;

/// Compares what the store, blobs and the records say.
#[derive(Clone, Debug)]
pub(crate) struct Comparer {
    pub tables: Tables,
    pub mirrors: Mirrors,
    pub blobs: Blobs,
    pub records: Records,
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

/// Something that is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Difference {
    pub kind: &'static str,
    pub key: String,
    pub expected: String,
    pub found: String,
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub(crate) struct Compared {
    /// How many of each kind were looked at.
    pub checked: BTreeMap<&'static str, u64>,
    /// What differs, at most [`LIMIT`].
    pub differences: Vec<Difference>,
}

impl Compared {
    fn new() -> Self {
        let checked = Subject::ALL.map(|subject| (subject.name(), 0)).into();
        Self { checked, differences: Vec::new() }
    }

    /// One more was looked at.
    fn saw(&mut self, subject: Subject) {
        *self.checked.entry(subject.name()).or_default() += 1;
    }

    fn differs(
        &mut self,
        subject: Subject,
        key: impl Into<String>,
        expected: impl Into<String>,
        found: impl Into<String>,
    ) {
        if self.differences.len() < LIMIT {
            let (key, expected, found) = (key.into(), expected.into(), found.into());
            self.differences.push(Difference { kind: subject.name(), key, expected, found });
        }
    }
}

impl Comparer {
    /// Compares everything of a tenant. Reads every manifest, and the size of every instance, that the tenant ever had:
    /// minutes for a large archive, at the pace of the disk.
    pub async fn compare(&self, tenant: &TenantId) -> Result<Compared, Error> {
        let mut compared = Compared::new();
        let live = Live::gather(&self.mirrors, tenant).await;
        let now = self.tables.clock().now();
        live.compare(&self.config, now, &mut compared);
        self.compare_kept(tenant, &live, &mut compared).await?;
        for (key, why) in self.mirrors.undecodable() {
            compared.saw(Subject::Level);
            let parts: Vec<&str> = key.split('/').collect();
            if parts.get(1) == Some(&tenant.as_str()) || parts.get(2) == Some(&tenant.as_str()) {
                compared.differs(Subject::Level, key, "a record this process understands", why);
            }
        }
        Ok(compared)
    }
}
