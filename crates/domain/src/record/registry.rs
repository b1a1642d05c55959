//! The registry: who sends, who reads, who analyses, who receives. Owner: routing.

use std::time::Duration;

use super::Record;
use crate::{
    id::{AeTitle, PoolId, SiteId},
    key::RegistryKey,
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
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Site {
    /// The AE titles its devices call from. An AE title belongs to one site of a cell.
    pub ae_titles: Vec<AeTitle>,
    /// The assigning authority of patient ids that name none (0010,0021); the site's id where empty.
    pub authority: String,
    /// How long no image may have arrived before a study counts as whole; the node's default where none.
    pub quiet_period: Option<Duration>,
    /// The bound on assembly; the node's default where none.
    pub max_assembly: Option<Duration>,
}

/// A radiologist.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reader {
    /// What the reader may read; `*` matches anything.
    pub skills: Vec<Skill>,
    /// The sites whose studies the reader is authorized for; empty: none; `*` is [`Sites::All`].
    pub sites: Sites,
    /// The pools the reader belongs to.
    pub pools: Vec<PoolId>,
    /// Whether what the reader signs is final.
    pub grade: Grade,
}

/// A reader's standing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Grade {
    /// In training: signs first reads as preliminary, until an attending makes them final.
    Resident,
    /// Signs alone.
    #[default]
    Attending,
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

/// A set of readers that share a queue.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// For people.
    pub description: String,
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
