//! What each record is about, and the text form of its key.
//!
//! `{kind}/{shard}/{tenant}/{tail…}`; the registry and the policy, which are small and read whole, have no shard.

use std::fmt;

use sha2::{Digest, Sha256};

use crate::{
    id::{AiServiceId, CaseId, DestinationId, NodeId, PoolId, ReadId, ReaderId, SiteId, StudyUid, TenantId},
    record::RecordKind,
    refs::Ref,
};

/// What a record is about: the owner id decides the shard, so that everything of one study or case lies together.
pub trait RecordKey: Clone + Eq + Ord + std::hash::Hash + fmt::Debug + Send + Sync + 'static {
    /// The kind of record.
    const KIND: RecordKind;
    /// The data controller.
    fn tenant(&self) -> &TenantId;
    /// The id that decides the shard; `None` for kinds that are not sharded.
    fn shard_by(&self) -> Option<String>;
    /// The components after the tenant.
    fn tail(&self) -> Vec<String>;
    /// Reads the components after the tenant; `None` where they are not such a key.
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self>;
}

/// The text of `key` as the store holds it.
#[must_use]
pub fn text<K: RecordKey>(key: &K) -> String {
    // Made for every look at a cache: one allocation, no formatting.
    let (tenant, tail) = (key.tenant().as_str(), key.tail());
    let shard = key.shard_by().map(|owner| shard(key.tenant(), &owner));
    let kind = K::KIND.as_str();
    let len =
        kind.len() + "/00/".len() + tenant.len() + tail.iter().map(|part| part.len() + 1).sum::<usize>();
    let mut text = String::with_capacity(len);
    text.push_str(kind);
    if let Some(shard) = shard {
        text.push('/');
        let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default();
        text.extend([digit(shard >> 4), digit(shard & 15)]);
    }
    text.push('/');
    text.push_str(tenant);
    for part in &tail {
        text.push('/');
        text.push_str(part);
    }
    text
}

/// The shard of an owner id: the first byte of SHA-256(tenant/owner); 256 shards, for ever.
#[must_use]
pub fn shard(tenant: &TenantId, owner: &str) -> u8 {
    let hasher = Sha256::new().chain_update(tenant.as_str()).chain_update("/").chain_update(owner);
    hasher.finalize()[0]
}

/// The shard of a key; 0 for kinds that are not sharded.
#[must_use]
pub fn shard_of<K: RecordKey>(key: &K) -> u8 {
    key.shard_by().map_or(0, |owner| shard(key.tenant(), &owner))
}

/// Reads a key of the store; `None` where it is not a key of this kind, its shard included.
#[must_use]
pub fn parse<K: RecordKey>(stored: &str) -> Option<K> {
    let parts: Vec<&str> = stored.split('/').collect();
    let (tenant, tail) = match (K::KIND, parts.as_slice()) {
        (RecordKind::Registry | RecordKind::Policy, [_, tenant, tail @ ..]) => (tenant, tail),
        (_, [_, _, tenant, tail @ ..]) => (tenant, tail),
        _ => return None,
    };
    let key = K::parse(tenant.parse().ok()?, tail)?;
    (text(&key) == stored).then_some(key)
}

/// Key of a [`crate::record::study::Study`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StudyKey {
    /// Tenant.
    pub tenant: TenantId,
    /// Study Instance UID.
    pub study: StudyUid,
}

/// Key of an [`crate::record::intake::Intake`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IntakeKey {
    /// Tenant.
    pub tenant: TenantId,
    /// Study Instance UID.
    pub study: StudyUid,
    /// The receiving node, the record's only writer.
    pub node: NodeId,
}

/// Key of a [`crate::record::plan::Plan`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PlanKey {
    /// Tenant.
    pub tenant: TenantId,
    /// Study Instance UID.
    pub study: StudyUid,
}

/// Key of a [`crate::record::case::Case`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseKey {
    /// Tenant.
    pub tenant: TenantId,
    /// The case.
    pub case: CaseId,
}

/// Key of an [`crate::record::ai_task::AiTask`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AiTaskKey {
    /// Tenant.
    pub tenant: TenantId,
    /// The study analysed.
    pub study: StudyUid,
    /// The service that analyses.
    pub service: AiServiceId,
    /// The study revision analysed.
    pub revision: u32,
}

/// Key of a [`crate::record::read::Read`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadKey {
    /// Tenant.
    pub tenant: TenantId,
    /// The read.
    pub read: ReadId,
}

/// Key of a [`crate::record::report::Report`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReportKey {
    /// Tenant.
    pub tenant: TenantId,
    /// The read that was signed.
    pub read: ReadId,
    /// From 1.
    pub version: u32,
}

/// Key of a [`crate::record::read::Holding`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HoldingKey {
    /// Tenant.
    pub tenant: TenantId,
    /// The reader.
    pub reader: ReaderId,
}

/// Key of a [`crate::record::delivery::Delivery`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DeliveryKey {
    /// The report version delivered.
    pub report: ReportKey,
    /// Where to.
    pub destination: DestinationId,
}

/// Key of a [`crate::record::delivery::Lane`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LaneKey {
    /// Tenant.
    pub tenant: TenantId,
    /// Where to.
    pub destination: DestinationId,
    /// The accession whose reports go one after another; a study's own reference where it has none.
    pub accession: Ref,
}

/// Key of a [`crate::record::registry::Entry`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RegistryKey {
    /// Tenant.
    pub tenant: TenantId,
    /// What is registered.
    pub item: RegistryItem,
}

/// What a registry entry is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RegistryItem {
    /// An organisation that sends studies.
    Site(SiteId),
    /// A radiologist.
    Reader(ReaderId),
    /// A set of readers.
    Pool(PoolId),
    /// A vendor's service.
    Ai(AiServiceId),
    /// Where reports go.
    Destination(DestinationId),
}

/// Key of a [`crate::record::policy::ActivePolicy`].
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PolicyKey {
    /// Tenant.
    pub tenant: TenantId,
    /// The policy's name.
    pub name: String,
}

impl RecordKey for StudyKey {
    const KIND: RecordKind = RecordKind::Study;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.study.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.study.as_str().to_owned()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [study] = tail else { return None };
        Some(Self { tenant, study: study.parse().ok()? })
    }
}

impl RecordKey for IntakeKey {
    const KIND: RecordKind = RecordKind::Intake;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.study.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.study.as_str().to_owned(), self.node.as_str().to_owned()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [study, node] = tail else { return None };
        Some(Self { tenant, study: study.parse().ok()?, node: node.parse().ok()? })
    }
}

impl RecordKey for PlanKey {
    const KIND: RecordKind = RecordKind::Plan;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.study.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.study.as_str().to_owned()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [study] = tail else { return None };
        Some(Self { tenant, study: study.parse().ok()? })
    }
}

impl RecordKey for CaseKey {
    const KIND: RecordKind = RecordKind::Case;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.case.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.case.as_str().to_owned()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [case] = tail else { return None };
        Some(Self { tenant, case: case.parse().ok()? })
    }
}

impl RecordKey for AiTaskKey {
    const KIND: RecordKind = RecordKind::AiTask;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.study.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.study.as_str().to_owned(), self.service.as_str().to_owned(), self.revision.to_string()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [study, service, revision] = tail else { return None };
        let revision = revision.parse().ok()?;
        Some(Self { tenant, study: study.parse().ok()?, service: service.parse().ok()?, revision })
    }
}

impl RecordKey for ReadKey {
    const KIND: RecordKind = RecordKind::Read;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.read.case.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.read.case.as_str().to_owned(), self.read.n.to_string()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [case, n] = tail else { return None };
        Some(Self { tenant, read: ReadId { case: case.parse().ok()?, n: n.parse().ok()? } })
    }
}

impl RecordKey for ReportKey {
    const KIND: RecordKind = RecordKind::Report;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.read.case.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.read.case.as_str().to_owned(), self.read.n.to_string(), self.version.to_string()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [case, n, version] = tail else { return None };
        let read = ReadId { case: case.parse().ok()?, n: n.parse().ok()? };
        Some(Self { tenant, read, version: version.parse().ok()? })
    }
}

impl RecordKey for HoldingKey {
    const KIND: RecordKind = RecordKind::Holding;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(self.reader.as_str().to_owned())
    }
    fn tail(&self) -> Vec<String> {
        vec![self.reader.as_str().to_owned()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [reader] = tail else { return None };
        Some(Self { tenant, reader: reader.parse().ok()? })
    }
}

impl RecordKey for DeliveryKey {
    const KIND: RecordKind = RecordKind::Delivery;
    fn tenant(&self) -> &TenantId {
        &self.report.tenant
    }
    fn shard_by(&self) -> Option<String> {
        self.report.shard_by()
    }
    fn tail(&self) -> Vec<String> {
        let mut tail = self.report.tail();
        tail.push(self.destination.as_str().to_owned());
        tail
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let (destination, report) = tail.split_last()?;
        Some(Self { report: ReportKey::parse(tenant, report)?, destination: destination.parse().ok()? })
    }
}

impl RecordKey for LaneKey {
    const KIND: RecordKind = RecordKind::Lane;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        Some(format!("{}/{}", self.destination, self.accession))
    }
    fn tail(&self) -> Vec<String> {
        vec![self.destination.as_str().to_owned(), self.accession.to_string()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [destination, accession] = tail else { return None };
        Some(Self { tenant, destination: destination.parse().ok()?, accession: accession.parse().ok()? })
    }
}

impl RecordKey for RegistryKey {
    const KIND: RecordKind = RecordKind::Registry;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        None
    }
    fn tail(&self) -> Vec<String> {
        let (kind, id) = match &self.item {
            RegistryItem::Site(id) => ("site", id.to_string()),
            RegistryItem::Reader(id) => ("reader", id.to_string()),
            RegistryItem::Pool(id) => ("pool", id.to_string()),
            RegistryItem::Ai(id) => ("ai", id.to_string()),
            RegistryItem::Destination(id) => ("destination", id.to_string()),
        };
        vec![kind.to_owned(), id]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let item = match tail {
            ["site", id] => RegistryItem::Site(id.parse().ok()?),
            ["reader", id] => RegistryItem::Reader(id.parse().ok()?),
            ["pool", id] => RegistryItem::Pool(id.parse().ok()?),
            ["ai", id] => RegistryItem::Ai(id.parse().ok()?),
            ["destination", id] => RegistryItem::Destination(id.parse().ok()?),
            [] | [_] | [_, _] | [_, _, _, ..] => return None,
        };
        Some(Self { tenant, item })
    }
}

impl RecordKey for PolicyKey {
    const KIND: RecordKind = RecordKind::Policy;
    fn tenant(&self) -> &TenantId {
        &self.tenant
    }
    fn shard_by(&self) -> Option<String> {
        None
    }
    fn tail(&self) -> Vec<String> {
        vec![self.name.clone()]
    }
    fn parse(tenant: TenantId, tail: &[&str]) -> Option<Self> {
        let [name] = tail else { return None };
        Some(Self { tenant, name: (*name).to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round_trip<K: RecordKey>(key: &K) {
        let text = text(key);
        assert_eq!(parse::<K>(&text).as_ref(), Some(key), "{text}");
    }

    #[test]
    fn keys_read_back_and_a_foreign_shard_is_no_key() {
        let tenant = TenantId::new("moscow").unwrap();
        let study = StudyUid::new("1.2.3").unwrap();
        let case = CaseId::of(&tenant, &study);
        let read = ReadId { case: case.clone(), n: 2 };
        let key = StudyKey { tenant: tenant.clone(), study: study.clone() };
        round_trip(&key);
        round_trip(&IntakeKey { tenant: tenant.clone(), study: study.clone(), node: "n-1".parse().unwrap() });
        round_trip(&PlanKey { tenant: tenant.clone(), study: study.clone() });
        round_trip(&CaseKey { tenant: tenant.clone(), case });
        let service = "opacity".parse().unwrap();
        round_trip(&AiTaskKey { tenant: tenant.clone(), study, service, revision: 3 });
        round_trip(&ReadKey { tenant: tenant.clone(), read: read.clone() });
        let report = ReportKey { tenant: tenant.clone(), read, version: 1 };
        round_trip(&report);
        round_trip(&DeliveryKey { report, destination: "ris".parse().unwrap() });
        round_trip(&HoldingKey { tenant: tenant.clone(), reader: "anna".parse().unwrap() });
        let accession = Ref([7; 16]);
        round_trip(&LaneKey { tenant: tenant.clone(), destination: "ris".parse().unwrap(), accession });
        for item in [
            RegistryItem::Site("north".parse().unwrap()),
            RegistryItem::Pool("site:north".parse().unwrap()),
            RegistryItem::Ai("opacity".parse().unwrap()),
        ] {
            round_trip(&RegistryKey { tenant: tenant.clone(), item });
        }
        round_trip(&PolicyKey { tenant, name: "default".into() });
        let stored = text(&key);
        let other =
            format!("study/{:02x}{}", u8::from_str_radix(&stored[6..8], 16).unwrap() ^ 1, &stored[8..]);
        assert_eq!(parse::<StudyKey>(&other), None);
        assert_eq!(parse::<PlanKey>(&stored).map(|k| text(&k)), None);
    }
}
