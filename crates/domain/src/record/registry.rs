//! The registry: who sends, who reads, who analyses, who receives. Owner: routing.

use std::time::Duration;

use super::{Record, roster::Roster};
use crate::{
    id::{AeTitle, JurisdictionId, PoolId, SiteId, TimeZoneId},
    key::RegistryKey,
    refs::Ref,
    time::Time,
};

/// A registry entry; its key says which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Entry {
    /// A site.
    Site(Site),
    /// A reader.
    Reader(Reader),
    /// A pool.
    Pool(Pool),
    /// An AI service.
    Ai(AiService),
    /// A destination.
    Destination(Destination),
}

impl Record for Entry {
    type Key = RegistryKey;
}

/// An organisation that sends studies.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Site {
    /// The AE titles its devices call from. An AE title belongs to one site of a cell.
    pub ae_titles: Vec<AeTitle>,
    /// The assigning authority of patient ids that name none (0010,0021); the site's id where empty.
    pub authority: String,
    /// How long no image may have arrived before a study counts as whole; the node's default where none.
    pub quiet_period: Option<Duration>,
    /// The bound on assembly; the node's default where none.
    pub max_assembly: Option<Duration>,
    /// Where its patients are, in law: who reads its studies is licensed for it. None: no licence is asked for.
    pub jurisdiction: Option<JurisdictionId>,
    /// Its local time; UTC where none.
    pub zone: Option<TimeZoneId>,
}

/// A radiologist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reader {
    /// What the reader may read; `*` matches anything.
    pub skills: Vec<Skill>,
    /// The sites whose studies the reader is authorized for; empty: none; `*` is [`Sites::All`].
    pub sites: Sites,
    /// The pools the reader belongs to.
    pub pools: Vec<PoolId>,
    /// Whether the reader's signature is final.
    pub grade: Grade,
    /// Where the reader may read, and until when. Asked for only by a case that has a jurisdiction.
    pub licences: Vec<Licence>,
    /// Whether the reader may read children.
    pub paediatric: bool,
    /// The site whose studies the reader is preferred for.
    pub home: Option<SiteId>,
    /// When the reader works; none: whenever the workstation is connected.
    pub roster: Option<Roster>,
    /// The reader's share of work beside a full-time colleague's, in thousandths, 1 to 2000; none: 1000.
    pub share: Option<u32>,
    /// Points (thousandths of a relative value unit) after which the reader gets no more in one shift; none: no such bound.
    pub capacity: Option<u32>,
    /// Whom the reader must not read for.
    pub conflicts: Conflicts,
}

impl Reader {
    /// A full share of work.
    pub const FULL_SHARE: u32 = 1000;
    /// The most licences, and the most patients or sites of conflict: an entry is small.
    pub const MAX_ENTRIES: usize = 32;
}

/// Whether a reader's signature is final.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// In training: signs preliminary reports, which an attending makes final.
    Resident,
    /// Signs final reports.
    #[default]
    Attending,
}

/// A licence to read for one jurisdiction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Licence {
    /// Where it holds.
    pub jurisdiction: JurisdictionId,
    /// From when on it does not; none: it does not expire.
    pub until: Option<Time>,
}

/// What a reader has declared or was found to have an interest in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Conflicts {
    /// Patients, by reference: the reader's family and friends, and the reader.
    pub patients: Vec<Ref>,
    /// Sites, whatever `sites` says.
    pub sites: Vec<SiteId>,
}

/// One modality and body part a reader is competent in.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Skill {
    /// Modality (0008,0060), or `*`.
    pub modality: String,
    /// Body Part Examined (0018,0015), or `*`.
    pub body_part: String,
}

/// A set of sites.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Sites {
    /// Every site of the tenant.
    All,
    /// These.
    Some(Vec<SiteId>),
}

impl Default for Sites {
    /// None.
    fn default() -> Self {
        Self::Some(Vec::new())
    }
}

/// A set of readers that share a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// For people.
    pub description: String,
    /// Whose readers they are.
    pub kind: PoolKind,
    /// Where its work goes when it cannot be done in time; none: nowhere but to the pools the policy named.
    pub overflow: Option<Overflow>,
}

/// Whose readers a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum PoolKind {
    /// The reference center's.
    Center,
    /// A regional site's own.
    Site,
    /// Those who are called when the others do not suffice.
    OnCall,
}

/// When a pool's work is opened to another pool as well. Whichever bound is reached first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overflow {
    /// The other pool.
    pub to: PoolId,
    /// The share of the deadline, in percent from 0 to 100, that may pass before it is opened. 0: at once.
    pub at_percent: u32,
    /// The predicted wait beyond which it is opened whatever the age; none: the prediction does not matter.
    pub predicted_wait: Option<Duration>,
}

/// A vendor's service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AiService {
    /// Its gRPC address, `http://host:port`.
    pub address: String,
    /// Whether it may be sent original images. Without this it is sent nothing.
    pub receives_original: bool,
    /// Analyses at once, from 1; the smaller of this and what the service itself says holds.
    pub max_concurrency: u32,
}

/// Where reports go.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Destination {
    /// How reports get there.
    pub via: Via,
    /// MSH-5 receiving application.
    pub application: String,
    /// MSH-6 receiving facility.
    pub facility: String,
}

/// How reports get to a destination.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Via {
    /// Sent as HL7 v2 over MLLP to this host and port.
    Mllp(String),
    /// Sent as HL7 v2 over MLLP within TLS to this host and port, where the receiver's certificate bears that host's
    /// name.
    MllpOverTls(String),
    /// Fetched: the destination's own system asks for its reports by gRPC and acknowledges each.
    Grpc,
}

impl Entry {
    /// The name of what is registered.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Site(_) => "site",
            Self::Reader(_) => "reader",
            Self::Pool(_) => "pool",
            Self::Ai(_) => "ai",
            Self::Destination(_) => "destination",
        }
    }
}
