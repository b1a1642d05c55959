//! Typed identifiers. Text from outside becomes one of these at the edge or is refused there, with the reason.

use std::{fmt, marker::PhantomData, str::FromStr, sync::Arc};

/// What one kind of identifier is called and what it may look like.
pub trait IdKind: Send + Sync + 'static {
    /// The name used in errors, e.g. `Study Instance UID`.
    const NAME: &'static str;
    /// Checks the text; the error says what is wrong with it.
    fn check(text: &str) -> Result<(), &'static str>;
}

/// An identifier of kind `K`: cheap to clone, checked when made.
pub struct Id<K>(Arc<str>, PhantomData<fn() -> K>);

/// Text that is not an identifier of the kind asked for. The text itself is not repeated: it may be patient identity.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} {why}")]
pub struct InvalidId {
    /// The kind of identifier.
    pub what: &'static str,
    /// What is wrong with the text.
    pub why: &'static str,
}

impl<K: IdKind> Id<K> {
    /// Checks `text` and makes an identifier of it.
    pub fn new(text: impl AsRef<str>) -> Result<Self, InvalidId> {
        let text = text.as_ref();
        K::check(text).map_err(|why| InvalidId { what: K::NAME, why })?;
        Ok(Self(text.into(), PhantomData))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl<K> Clone for Id<K> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0), PhantomData)
    }
}
impl<K> PartialEq for Id<K> {
    fn eq(&self, other: &Self) -> bool {
        self.0 == other.0
    }
}
impl<K> Eq for Id<K> {}
impl<K> PartialOrd for Id<K> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl<K> Ord for Id<K> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.0.cmp(&other.0)
    }
}
impl<K> std::hash::Hash for Id<K> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.0.hash(state);
    }
}
impl<K> fmt::Display for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl<K> fmt::Debug for Id<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}
impl<K: IdKind> FromStr for Id<K> {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Self::new(s)
    }
}

/// A UID of DICOM PS3.5 §9.1: digits and dots, at most 64 characters. Leading zeros of a component, which the
/// standard forbids and real devices send, are let through: refusing them would lose studies.
fn uid(text: &str) -> Result<(), &'static str> {
    match text.len() {
        0 => return Err("is empty"),
        1..=64 => {}
        _ => return Err("is longer than 64 characters"),
    }
    if text.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        Ok(())
    } else {
        Err("has a character other than 0-9 and '.'")
    }
}

/// A name that operators choose: lower-case letters, digits, '-' and '.', at most 63 characters. It is part of keys
/// and paths, so neither '/' nor a leading '.' can be in it.
fn name(text: &str) -> Result<(), &'static str> {
    match text.len() {
        0 => return Err("is empty"),
        1..=63 => {}
        _ => return Err("is longer than 63 characters"),
    }
    let ok = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'.';
    if !text.bytes().all(ok) {
        return Err("has a character other than a-z, 0-9, '-' and '.'");
    }
    if text.starts_with(['-', '.']) { Err("starts with '-' or '.'") } else { Ok(()) }
}

/// An AE title of DICOM PS3.8 §9.3.2: 1 to 16 printable ASCII characters without backslash, spaces trimmed.
fn ae_title(text: &str) -> Result<(), &'static str> {
    match text.len() {
        0 => return Err("is empty"),
        1..=16 => {}
        _ => return Err("is longer than 16 characters"),
    }
    if text != text.trim() {
        return Err("has leading or trailing spaces");
    }
    if text.bytes().all(|b| (0x20..0x7f).contains(&b) && b != b'\\') {
        Ok(())
    } else {
        Err("has a control character, a backslash or a character outside ASCII")
    }
}

/// The kinds of identifier: one uninhabited type each.
pub mod kind {
    use super::IdKind;

    /// Study Instance UID (0020,000D).
    pub enum Study {}
    /// Series Instance UID (0020,000E).
    pub enum Series {}
    /// SOP Instance UID (0008,0018).
    pub enum Instance {}
    /// SOP Class UID (0008,0016).
    pub enum SopClass {}
    /// Transfer Syntax UID (0002,0010).
    pub enum TransferSyntax {}
    /// AE title.
    pub enum Ae {}
    /// The data controller: a network or an organisation.
    pub enum Tenant {}
    /// One etcd, one SQL, one bucket.
    pub enum Cell {}
    /// An organisation that sends studies.
    pub enum Site {}
    /// A radiologist's workstation identity.
    pub enum Reader {}
    /// A set of readers that share a queue.
    pub enum Pool {}
    /// A vendor's service.
    pub enum AiService {}
    /// Where reports go.
    pub enum Destination {}
    /// One process of Isocenter: a UUID kept in its spool folder.
    pub enum Node {}
    /// A clinical class of the policy, e.g. `STAT`.
    pub enum Class {}
    /// Where a licence to read holds: a state, a region, a union.
    pub enum Jurisdiction {}
    /// A time zone of the IANA database.
    pub enum TimeZone {}

    impl IdKind for Study {
        const NAME: &'static str = "Study Instance UID";
        fn check(text: &str) -> Result<(), &'static str> {
            super::uid(text)
        }
    }
    impl IdKind for Series {
        const NAME: &'static str = "Series Instance UID";
        fn check(text: &str) -> Result<(), &'static str> {
            super::uid(text)
        }
    }
    impl IdKind for Instance {
        const NAME: &'static str = "SOP Instance UID";
        fn check(text: &str) -> Result<(), &'static str> {
            super::uid(text)
        }
    }
    impl IdKind for SopClass {
        const NAME: &'static str = "SOP Class UID";
        fn check(text: &str) -> Result<(), &'static str> {
            super::uid(text)
        }
    }
    impl IdKind for TransferSyntax {
        const NAME: &'static str = "Transfer Syntax UID";
        fn check(text: &str) -> Result<(), &'static str> {
            super::uid(text)
        }
    }
    impl IdKind for Ae {
        const NAME: &'static str = "AE title";
        fn check(text: &str) -> Result<(), &'static str> {
            super::ae_title(text)
        }
    }
    impl IdKind for Tenant {
        const NAME: &'static str = "tenant id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for Cell {
        const NAME: &'static str = "cell id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for Site {
        const NAME: &'static str = "site id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for Reader {
        const NAME: &'static str = "reader id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for Pool {
        const NAME: &'static str = "pool id";
        /// A pool is a name, or `site:` and the site whose own readers it is.
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text.strip_prefix("site:").unwrap_or(text))
        }
    }
    impl IdKind for AiService {
        const NAME: &'static str = "AI service id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for Destination {
        const NAME: &'static str = "destination id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for Node {
        const NAME: &'static str = "node id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for Class {
        const NAME: &'static str = "clinical class";
        fn check(text: &str) -> Result<(), &'static str> {
            super::class(text)
        }
    }
    impl IdKind for Jurisdiction {
        const NAME: &'static str = "jurisdiction id";
        fn check(text: &str) -> Result<(), &'static str> {
            super::name(text)
        }
    }
    impl IdKind for TimeZone {
        const NAME: &'static str = "time zone";
        fn check(text: &str) -> Result<(), &'static str> {
            super::zone(text)
        }
    }
}

/// The shape of a name of the IANA time zone database, as `Europe/Moscow`; whether there is such a zone the database says.
fn zone(text: &str) -> Result<(), &'static str> {
    let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'/' | b'_' | b'-' | b'+');
    match text.len() {
        0 => Err("is empty"),
        1..=63 if text.bytes().all(ok) => Ok(()),
        1..=63 => Err("has a character that no time zone has"),
        _ => Err("is longer than 63 characters"),
    }
}

/// A clinical class is named as the policy names it: upper-case letters, digits and '_', at most 32 characters.
fn class(text: &str) -> Result<(), &'static str> {
    if text.is_empty() {
        return Err("is empty");
    }
    if text.len() > 32 {
        return Err("is longer than 32 characters");
    }
    if text.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_') {
        Ok(())
    } else {
        Err("has a character other than A-Z, 0-9 and '_'")
    }
}

/// Study Instance UID (0020,000D).
pub type StudyUid = Id<kind::Study>;
/// Series Instance UID (0020,000E).
pub type SeriesUid = Id<kind::Series>;
/// SOP Instance UID (0008,0018).
pub type InstanceUid = Id<kind::Instance>;
/// SOP Class UID (0008,0016).
pub type SopClassUid = Id<kind::SopClass>;
/// Transfer Syntax UID (0002,0010).
pub type TransferSyntaxUid = Id<kind::TransferSyntax>;
/// AE title.
pub type AeTitle = Id<kind::Ae>;
/// Tenant id.
pub type TenantId = Id<kind::Tenant>;
/// Cell id.
pub type CellId = Id<kind::Cell>;
/// Site id.
pub type SiteId = Id<kind::Site>;
/// Reader id.
pub type ReaderId = Id<kind::Reader>;
/// Pool id: a name, or `site:{site}`.
pub type PoolId = Id<kind::Pool>;
/// AI service id.
pub type AiServiceId = Id<kind::AiService>;
/// Destination id. A site's own destination bears the site's id.
pub type DestinationId = Id<kind::Destination>;
/// Node id.
pub type NodeId = Id<kind::Node>;
/// Clinical class.
pub type ClassId = Id<kind::Class>;
/// Jurisdiction id.
pub type JurisdictionId = Id<kind::Jurisdiction>;
/// A time zone's name in the IANA database, e.g. `Asia/Vladivostok`.
pub type TimeZoneId = Id<kind::TimeZone>;

/// A case: the unit of reading. Derived from tenant and first member study, so that planning twice plans once.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CaseId(Arc<str>);

impl CaseId {
    /// The case that `study` opens: `c` and 25 base32 characters (125 bits) of SHA-256(tenant, study).
    #[must_use]
    pub fn of(tenant: &TenantId, study: &StudyUid) -> Self {
        use sha2::{Digest, Sha256};
        let digest = Sha256::digest(format!("case\0{tenant}\0{study}").as_bytes());
        let text = data_encoding::BASE32_NOPAD.encode(&digest).to_ascii_lowercase();
        Self(format!("c{}", &text[..25]).into())
    }

    /// Reads a case id.
    pub fn new(text: &str) -> Result<Self, InvalidId> {
        let invalid = |why| InvalidId { what: "case id", why };
        if text.len() != 26 || !text.starts_with('c') {
            return Err(invalid("is not 'c' and 25 characters"));
        }
        if !text[1..].bytes().all(|b| b.is_ascii_lowercase() || (b'2'..=b'7').contains(&b)) {
            return Err(invalid("has a character outside a-z and 2-7"));
        }
        Ok(Self(text.into()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for CaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
impl FromStr for CaseId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        Self::new(s)
    }
}

/// A read: the n-th piece of human work on a case, from 1. Text: `{case}.{n}`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadId {
    /// The case read.
    pub case: CaseId,
    /// Which of its reads, from 1.
    pub n: u32,
}

impl fmt::Display for ReadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.case, self.n)
    }
}
impl FromStr for ReadId {
    type Err = InvalidId;
    fn from_str(s: &str) -> Result<Self, InvalidId> {
        let invalid = |why| InvalidId { what: "read id", why };
        let (case, n) = s.split_once('.').ok_or(invalid("is not {case}.{n}"))?;
        let n = n.parse().ok().filter(|n| *n > 0).ok_or(invalid("has no number from 1 after the '.'"))?;
        Ok(Self { case: CaseId::new(case)?, n })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uids_that_are_not_uids_are_refused_without_being_repeated() {
        assert!(StudyUid::new("1.2.840.10008.1").is_ok());
        let e = StudyUid::new("1.2/../../etc").unwrap_err();
        assert_eq!(e.to_string(), "Study Instance UID has a character other than 0-9 and '.'");
        assert!(StudyUid::new("1".repeat(65)).is_err());
        assert!(StudyUid::new("").is_err());
    }

    #[test]
    fn pools_may_be_a_sites_own() {
        assert!(PoolId::new("site:north").is_ok());
        assert!(PoolId::new("general").is_ok());
        assert!(PoolId::new("a/b").is_err());
    }

    #[test]
    fn case_ids_are_derived_and_read_back() {
        let t = TenantId::new("t").unwrap();
        let a = CaseId::of(&t, &StudyUid::new("1.2").unwrap());
        assert_eq!(a, CaseId::of(&t, &StudyUid::new("1.2").unwrap()));
        assert_ne!(a, CaseId::of(&t, &StudyUid::new("1.3").unwrap()));
        assert_eq!(CaseId::new(a.as_str()), Ok(a.clone()));
        let r = ReadId { case: a, n: 3 };
        assert_eq!(r.to_string().parse(), Ok(r));
    }
}
