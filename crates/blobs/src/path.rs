//! The names of objects: one function for each kind, the only place that spells them.

use std::fmt;

use isocenter_domain::{
    Time,
    id::{AiServiceId, InstanceUid, NodeId, ReadId, StudyUid, TenantId},
    refs::Digest,
};

use crate::Error;

/// The name of one object: components of `[A-Za-z0-9._:-]` joined by `/`, the first of them its kind.
///
/// `Display` and `Debug` hide DICOM UIDs behind a hash, because logs may not carry them; [`BlobPath::as_str`] is the
/// name itself, for records and manifests.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlobPath(String);

/// The common beginning of the names of some objects, in whole components.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Prefix(String);

/// The kinds, and how many of the components after the tenant are DICOM UIDs.
const KINDS: [(&str, usize); 9] = [
    ("instance", 2),
    ("quarantine", 2),
    ("segment", 1),
    ("manifest", 1),
    ("ai", 1),
    ("head", 1),
    ("report", 0),
    ("policy", 0),
    ("journal", 0),
];

/// The longest name: what S3 allows.
const MAX_LEN: usize = 1024;

impl BlobPath {
    /// Reads a name that a record, a manifest or a listing holds.
    ///
    /// # Errors
    /// [`Error::Name`] where it is not the name of an object of a known kind.
    pub fn parse(text: &str) -> Result<Self, Error> {
        check(text)?;
        if text.contains('/') {
            Ok(Self(text.to_owned()))
        } else {
            Err(Error::Name("has one component only"))
        }
    }

    /// The name itself. It may contain a Study Instance UID: not for logs.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The last component.
    #[must_use]
    pub fn file_name(&self) -> &str {
        self.0.rsplit('/').next().unwrap_or_default()
    }
}

impl Prefix {
    /// The name itself, without a `/` at its end.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for BlobPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}
impl fmt::Debug for BlobPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}
impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}
impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&redacted(&self.0))
    }
}

fn check(text: &str) -> Result<(), Error> {
    if text.len() > MAX_LEN {
        return Err(Error::Name("is longer than 1024 characters"));
    }
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b':' | b'-');
    for part in text.split('/') {
        if part.is_empty() || part.starts_with('.') {
            return Err(Error::Name("has a component that is empty or starts with '.'"));
        }
        if !part.bytes().all(ok) {
            return Err(Error::Name("has a character outside a-z, A-Z, 0-9, '.', '_', ':' and '-'"));
        }
    }
    let kind = text.split('/').next().unwrap_or_default();
    if KINDS.iter().any(|(known, _)| *known == kind) {
        Ok(())
    } else {
        Err(Error::Name("is of no known kind"))
    }
}

/// `text` with each DICOM UID replaced by `~` and 8 digits of its SHA-256.
fn redacted(text: &str) -> String {
    let kind = text.split('/').next().unwrap_or_default();
    let uids = KINDS.iter().find(|(known, _)| *known == kind).map_or(0, |(_, uids)| *uids);
    let parts = text.split('/').enumerate().map(|(i, part)| {
        if (2..2 + uids).contains(&i) {
            format!("~{}", &Digest::of(part.as_bytes()).to_string()[..8])
        } else {
            part.to_owned()
        }
    });
    parts.collect::<Vec<_>>().join("/")
}

/// One DICOM instance as received, a PS3.10 file named by its content.
#[must_use]
pub fn instance(tenant: &TenantId, study: &StudyUid, sop: &InstanceUid, content: &Digest) -> BlobPath {
    BlobPath(format!("instance/{tenant}/{study}/{sop}/{content}.dcm"))
}

/// An instance that contradicts the one already held under its SOP Instance UID.
#[must_use]
pub fn quarantine(tenant: &TenantId, study: &StudyUid, sop: &InstanceUid, content: &Digest) -> BlobPath {
    BlobPath(format!("quarantine/{tenant}/{study}/{sop}/{content}.dcm"))
}

/// A list of instances that one node has put into blobs.
#[must_use]
pub fn segment(tenant: &TenantId, study: &StudyUid, node: &NodeId, content: &Digest) -> BlobPath {
    BlobPath(format!("segment/{tenant}/{study}/{node}/{content}"))
}

/// The list of a study's instances at a revision.
#[must_use]
pub fn manifest(tenant: &TenantId, study: &StudyUid, revision: u32) -> BlobPath {
    BlobPath(format!("manifest/{tenant}/{study}/{revision:010}"))
}

/// The body of a report signed, or drafted, for a read.
#[must_use]
pub fn report(tenant: &TenantId, read: &ReadId, content: &Digest) -> BlobPath {
    BlobPath(format!("report/{tenant}/{}/{}/{content}", read.case, read.n))
}

/// What a vendor's service answered about a study at a revision.
#[must_use]
pub fn ai(
    tenant: &TenantId,
    study: &StudyUid,
    service: &AiServiceId,
    revision: u32,
    content: &Digest,
) -> BlobPath {
    BlobPath(format!("ai/{tenant}/{study}/{service}/{revision}/{content}"))
}

/// The text of a policy.
#[must_use]
pub fn policy(tenant: &TenantId, content: &Digest) -> BlobPath {
    BlobPath(format!("policy/{tenant}/{content}"))
}

/// A piece of the event journal of a shard: in a listing, pieces come in the order of their first event's time.
/// `unique` (a UUID's 128 bits) keeps two writers of the same instant apart.
#[must_use]
pub fn journal(shard: u8, first: Time, unique: u128) -> BlobPath {
    BlobPath(format!("journal/{shard:02x}/{:020}-{unique:032x}", first.0.max(0)))
}

/// What is left of a closed study: create-only, the highest number wins.
#[must_use]
pub fn head(tenant: &TenantId, study: &StudyUid, seq: u64) -> BlobPath {
    BlobPath(format!("head/{tenant}/{study}/{seq:020}"))
}

/// Everything received of a study.
#[must_use]
pub fn instances_of(tenant: &TenantId, study: &StudyUid) -> Prefix {
    Prefix(format!("instance/{tenant}/{study}"))
}

/// Every version held of one instance.
#[must_use]
pub fn versions_of(tenant: &TenantId, study: &StudyUid, sop: &InstanceUid) -> Prefix {
    Prefix(format!("instance/{tenant}/{study}/{sop}"))
}

/// What is quarantined of a study.
#[must_use]
pub fn quarantine_of(tenant: &TenantId, study: &StudyUid) -> Prefix {
    Prefix(format!("quarantine/{tenant}/{study}"))
}

/// All segments of a study.
#[must_use]
pub fn segments_of(tenant: &TenantId, study: &StudyUid) -> Prefix {
    Prefix(format!("segment/{tenant}/{study}"))
}

/// All manifests of a study, oldest revision first.
#[must_use]
pub fn manifests_of(tenant: &TenantId, study: &StudyUid) -> Prefix {
    Prefix(format!("manifest/{tenant}/{study}"))
}

/// All bodies written for a read.
#[must_use]
pub fn reports_of(tenant: &TenantId, read: &ReadId) -> Prefix {
    Prefix(format!("report/{tenant}/{}/{}", read.case, read.n))
}

/// All AI results of a study.
#[must_use]
pub fn ai_of(tenant: &TenantId, study: &StudyUid) -> Prefix {
    Prefix(format!("ai/{tenant}/{study}"))
}

/// The texts of a tenant's policies.
#[must_use]
pub fn policies_of(tenant: &TenantId) -> Prefix {
    Prefix(format!("policy/{tenant}"))
}

/// The journal of a shard, in the order of time.
#[must_use]
pub fn journal_of(shard: u8) -> Prefix {
    Prefix(format!("journal/{shard:02x}"))
}

/// All heads of a study, the one that counts last.
#[must_use]
pub fn heads_of(tenant: &TenantId, study: &StudyUid) -> Prefix {
    Prefix(format!("head/{tenant}/{study}"))
}

/// All objects of a kind of a tenant, for a rebuild. `None` for kinds there are none of, and for the journal, which is
/// not a tenant's.
#[must_use]
pub fn all_of(kind: &str, tenant: &TenantId) -> Option<Prefix> {
    let known = kind != "journal" && KINDS.iter().any(|(known, _)| *known == kind);
    known.then(|| Prefix(format!("{kind}/{tenant}")))
}

/// All objects of a kind of all tenants, for a rebuild. `None` for kinds there are none of.
#[must_use]
pub fn all(kind: &str) -> Option<Prefix> {
    KINDS.iter().any(|(known, _)| *known == kind).then(|| Prefix(kind.to_owned()))
}

#[cfg(test)]
mod tests {
    use isocenter_domain::id::CaseId;

    use super::*;

    fn ids() -> (TenantId, StudyUid, InstanceUid, Digest) {
        let tenant = TenantId::new("moscow").unwrap();
        (tenant, StudyUid::new("1.2.3").unwrap(), InstanceUid::new("1.2.3.4").unwrap(), Digest::of(b"x"))
    }

    #[test]
    fn every_path_made_is_a_path_read() {
        let (t, study, sop, d) = ids();
        let read = ReadId { case: CaseId::of(&t, &study), n: 2 };
        let node = NodeId::new("0190-a").unwrap();
        let service = AiServiceId::new("pe").unwrap();
        let made = [
            instance(&t, &study, &sop, &d),
            quarantine(&t, &study, &sop, &d),
            segment(&t, &study, &node, &d),
            manifest(&t, &study, 7),
            report(&t, &read, &d),
            ai(&t, &study, &service, 1, &d),
            policy(&t, &d),
            journal(0xab, Time(5), 9),
            head(&t, &study, 12),
        ];
        for path in made {
            assert_eq!(BlobPath::parse(path.as_str()).unwrap(), path);
        }
        assert_eq!(manifest(&t, &study, 7).as_str(), "manifest/moscow/1.2.3/0000000007");
        assert_eq!(head(&t, &study, 12).as_str(), "head/moscow/1.2.3/00000000000000000012");
    }

    #[test]
    fn paths_print_without_uids() {
        let (t, study, sop, d) = ids();
        let path = instance(&t, &study, &sop, &d);
        let shown = format!("{path} {path:?} {:?}", instances_of(&t, &study));
        assert!(!shown.contains("1.2.3"), "{shown}");
        assert!(shown.contains(&d.to_string()), "{shown}");
    }

    #[test]
    fn names_that_would_leave_the_folder_are_refused() {
        for bad in [
            "instance/../x",
            "instance//x",
            "/instance/x",
            "other/x",
            "instance",
            "instance/.x",
            "instance/a b",
        ] {
            assert!(BlobPath::parse(bad).is_err(), "{bad}");
        }
    }
}
