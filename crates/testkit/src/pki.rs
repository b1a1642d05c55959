//! A certification authority of a test's own.

use std::{
    fs,
    path::{Path, PathBuf},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevocationReason,
    RevokedCertParams, SerialNumber, date_time_ymd,
};
use tempfile::TempDir;

/// From when to when a certificate is valid.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Validity {
    /// From 2020 to 2099.
    Now,
    /// It ended in 2021.
    Ended,
    /// It begins in 2098.
    Later,
}

/// What a certificate may be used for (RFC 5280 §4.2.1.12).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Usage {
    /// Both sides of TLS, as our own processes need.
    Both,
    /// Calling.
    Client,
    /// Being called.
    Server,
}

/// An authority, whose files lie in a folder that goes with it.
#[derive(Debug)]
pub struct Pki {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    certificate: Certificate,
    revocations: u64,
}

/// A certificate and its key, as files.
#[derive(Clone, Debug)]
pub struct Pair {
    /// The certificate, in PEM.
    pub cert: PathBuf,
    /// Its private key, in PEM.
    pub key: PathBuf,
    serial: SerialNumber,
}

impl Default for Pki {
    fn default() -> Self {
        Self::new()
    }
}

impl Pki {
    /// A new authority with a key of its own.
    #[must_use]
    pub fn new() -> Self {
        let folder = tempfile::tempdir().expect("a folder for certificates");
        let mut params = params("CN=test authority", Validity::Now);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let key = KeyPair::generate().expect("a key");
        let certificate = params.self_signed(&key).expect("an authority signs itself");
        fs::write(folder.path().join("ca.pem"), certificate.pem()).expect("a file of the authority");
        Self { folder, issuer: Issuer::new(params, key), certificate, revocations: 0 }
    }

    /// The folder of every file.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The authority's certificate.
    #[must_use]
    pub fn ca(&self) -> PathBuf {
        self.folder.path().join("ca.pem")
    }

    /// The authority's certificate, in PEM.
    #[must_use]
    pub fn ca_pem(&self) -> String {
        self.certificate.pem()
    }

    /// A certificate of `subject`, such as `O=moscow,OU=reader,CN=anna`, for both sides of TLS on loopback. The files are
    /// named after its last part, and overwritten by the next of that name.
    pub fn issue(&self, subject: &str) -> Pair {
        self.issue_as(subject, Validity::Now, Usage::Both)
    }

    /// As [`Pki::issue`], with another validity or use.
    ///
    /// # Panics
    /// If `subject` is none, or the files cannot be written.
    pub fn issue_as(&self, subject: &str, validity: Validity, usage: Usage) -> Pair {
        let (params, key) = (leaf(subject, validity, usage), KeyPair::generate().expect("a key"));
        let certificate = params.signed_by(&key, &self.issuer).expect("the authority signs");
        self.write(subject, params, &certificate, &key)
    }

    /// A certificate that no authority signed.
    ///
    /// # Panics
    /// As [`Pki::issue_as`].
    pub fn self_signed(&self, subject: &str) -> Pair {
        let (params, key) = (leaf(subject, Validity::Now, Usage::Both), KeyPair::generate().expect("a key"));
        let certificate = params.self_signed(&key).expect("a certificate signs itself");
        self.write(subject, params, &certificate, &key)
    }

    /// A list that revokes these, in PEM; the next is a later one.
    ///
    /// # Panics
    /// If the authority cannot sign it.
    pub fn revoke(&mut self, pairs: &[&Pair]) -> String {
        self.revocations += 1;
        let revoked = |pair: &&Pair| RevokedCertParams {
            serial_number: pair.serial.clone(),
            revocation_time: date_time_ymd(2021, 1, 1),
            reason_code: Some(RevocationReason::KeyCompromise),
            invalidity_date: None,
        };
        let list = CertificateRevocationListParams {
            this_update: date_time_ymd(2021, 1, 1),
            next_update: date_time_ymd(2099, 1, 1),
            crl_number: SerialNumber::from(self.revocations),
            issuing_distribution_point: None,
            revoked_certs: pairs.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        list.signed_by(&self.issuer).and_then(|list| list.pem()).expect("the authority signs its list")
    }

    fn write(
        &self,
        subject: &str,
        params: CertificateParams,
        certificate: &Certificate,
        key: &KeyPair,
    ) -> Pair {
        let name = subject.rsplit('=').next().unwrap_or(subject);
        let file = |ending: &str| self.folder.path().join(format!("{name}.{ending}"));
        let (cert, private) = (file("pem"), file("key"));
        fs::write(&cert, certificate.pem()).expect("a certificate's file");
        fs::write(&private, key.serialize_pem()).expect("a key's file");
        Pair { cert, key: private, serial: params.serial_number.expect("each has a serial number") }
    }
}

fn leaf(subject: &str, validity: Validity, usage: Usage) -> CertificateParams {
    let mut params = params(subject, validity);
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = match usage {
        Usage::Both => vec![ExtendedKeyUsagePurpose::ClientAuth, ExtendedKeyUsagePurpose::ServerAuth],
        Usage::Client => vec![ExtendedKeyUsagePurpose::ClientAuth],
        Usage::Server => vec![ExtendedKeyUsagePurpose::ServerAuth],
    };
    params
}

fn params(subject: &str, validity: Validity) -> CertificateParams {
    let names = ["localhost".to_owned(), "127.0.0.1".to_owned()];
    let mut params = CertificateParams::new(names).expect("names for a certificate");
    let mut name = DistinguishedName::new();
    for (n, part) in subject.split(',').enumerate() {
        let (kind, value) = part.split_once('=').unwrap_or_else(|| panic!("{subject} is no subject"));
        let last = match kind {
            "O" => 10,
            "OU" => 11,
            "CN" => 3,
            other => panic!("{other} is not known here"),
        };
        // The library keeps one of each kind. A subject with two of one takes the second under the number of the kind.
        let known = [DnType::OrganizationName, DnType::OrganizationalUnitName, DnType::CommonName];
        let repeated = subject.split(',').take(n).any(|earlier| earlier.starts_with(&format!("{kind}=")));
        let kind = if repeated {
            DnType::CustomDnType(vec![2, 5, 4, last])
        } else {
            known[["O", "OU", "CN"].iter().position(|k| *k == kind).expect("checked above")].clone()
        };
        name.push(kind, value);
    }
    params.distinguished_name = name;
    let years = match validity {
        Validity::Now => (2020, 2099),
        Validity::Ended => (2020, 2021),
        Validity::Later => (2098, 2099),
    };
    params.not_before = date_time_ymd(years.0, 1, 1);
    params.not_after = date_time_ymd(years.1, 1, 1);
    let mut serial = [0; 16];
    isocenter_runtime::random::fill(&mut serial);
    // A positive number (RFC 5280 §4.1.2.2).
    serial[0] = serial[0] & 0x7f | 1;
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params
}
