//! Whom a certificate names.

use isocenter_domain::{
    Kind, Kinded, Time,
    access::{NotPrincipal, Principal},
};
use rustls::pki_types::CertificateDer;
use x509_parser::{
    certificate::X509Certificate,
    prelude::FromDer as _,
    x509::{AttributeTypeAndValue, X509Name},
};

/// A caller who is who their certificate says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Certified {
    /// Who.
    pub principal: Principal,
    /// When the certificate ends; a call after that has no principal, however old its connection.
    pub until: Time,
}

/// A certificate that is believed, and names nobody.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unidentified {
    /// None was shown.
    #[error("no certificate was shown")]
    Absent,
    /// It cannot be read.
    #[error("the certificate cannot be read")]
    Unreadable,
    /// The attribute is not there, more than once there, or no text.
    #[error("the certificate's subject must have exactly one {0}, as text")]
    Attribute(&'static str),
    /// It names nobody.
    #[error("the certificate names nobody: {0}")]
    Nobody(NotPrincipal),
}

impl Kinded for Unidentified {
    fn kind(&self) -> Kind {
        Kind::Unauthenticated
    }
}

/// Reads the subject `O=<tenant>, OU=<role>, CN=<name>`; other attributes are nothing to us.
pub(super) fn read(certificate: &CertificateDer<'_>) -> Result<Certified, Unidentified> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| Unidentified::Unreadable)?;
    let subject: &X509Name<'_> = certificate.subject();
    let tenant = one("organization (O)", subject.iter_organization())?;
    let unit = one("organizational unit (OU)", subject.iter_organizational_unit())?;
    let name = one("common name (CN)", subject.iter_common_name())?;
    let principal = Principal::certified(tenant, unit, name).map_err(Unidentified::Nobody)?;
    Ok(Certified { principal, until: until(&certificate) })
}

/// When a certificate ends.
pub(super) fn ends(certificate: &CertificateDer<'_>) -> Result<Time, Unidentified> {
    let (_, certificate) = X509Certificate::from_der(certificate).map_err(|_| Unidentified::Unreadable)?;
    Ok(until(&certificate))
}

fn until(certificate: &X509Certificate<'_>) -> Time {
    let seconds = u64::try_from(certificate.validity().not_after.timestamp()).unwrap_or(0);
    Time::ZERO.plus(std::time::Duration::from_secs(seconds))
}

fn one<'a>(
    what: &'static str,
    mut found: impl Iterator<Item = &'a AttributeTypeAndValue<'a>>,
) -> Result<&'a str, Unidentified> {
    match (found.next(), found.next()) {
        (Some(only), None) => only.as_str().map_err(|_| Unidentified::Attribute(what)),
        _ => Err(Unidentified::Attribute(what)),
    }
}
