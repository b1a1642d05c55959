//! Who calls. Every call has a principal before any handler sees it.

use std::net::SocketAddr;

use http::HeaderMap;
use isocenter_domain::{
    Kind, Kinded, Time,
    access::{Action, Principal, Role, authorize},
    id::TenantId,
};
use tonic::{Request, Status};

use crate::{
    nodes::claimed,
    status::{Answer, status},
    tls::{Certified, Unidentified},
};

/// An address on which callers could not be told apart.
#[derive(Debug, thiserror::Error)]
#[error(
    "listen {0}: a plaintext address that others reach would let anybody act as anybody; set tls.cert, tls.key and tls.client_ca, or listen on a loopback address such as 127.0.0.1:8080"
)]
pub struct Exposed(SocketAddr);

impl Kinded for Exposed {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// Who is at the other end of a connection.
#[derive(Clone, Debug)]
pub(crate) enum Caller {
    /// Anybody on this machine, on a plaintext loopback listener.
    Developer(Principal),
    /// Whom the certificate names.
    Certified(Certified),
    /// A certificate that names nobody.
    Nobody(Unidentified),
}

/// A call without a principal.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Anonymous {
    #[error("the call has no principal")]
    Unserved,
    #[error(transparent)]
    Unidentified(#[from] Unidentified),
    #[error("the certificate has ended since the connection was made")]
    Ended,
    #[error("the header isocenter-on-behalf-of names no principal")]
    Claim,
}

impl Kinded for Anonymous {
    fn kind(&self) -> Kind {
        Kind::Unauthenticated
    }
}

impl Caller {
    /// For a plaintext listener at `bound`: every caller is `dev` of `tenant`, who may do anything there.
    ///
    /// # Errors
    /// [`Exposed`] where `bound` is reached from elsewhere than this machine.
    pub fn developer(bound: SocketAddr, tenant: TenantId) -> Result<Self, Exposed> {
        if !bound.ip().to_canonical().is_loopback() {
            return Err(Exposed(bound));
        }
        let principal = Principal { subject: "dev".to_owned(), tenant, role: Role::Developer };
        Ok(Self::Developer(principal))
    }

    /// The principal of one call with `headers`, at `now`. From a node it is whom the node says, if it says anybody.
    pub fn identify(&self, headers: &HeaderMap, now: Time) -> Result<Principal, Anonymous> {
        let principal = match self {
            // There is nobody to be told apart from, and so nothing to claim.
            Self::Developer(principal) => return Ok(principal.clone()),
            Self::Certified(certified) if certified.until < now => return Err(Anonymous::Ended),
            Self::Certified(certified) => certified.principal.clone(),
            Self::Nobody(why) => return Err(why.clone().into()),
        };
        match claimed(headers).filter(|_| principal.role == Role::Node) {
            None => Ok(principal),
            Some(claim) => claim.map_err(|_| Anonymous::Claim),
        }
    }
}

/// The principal of a call, which the server put there.
///
/// # Errors
/// `UNAUTHENTICATED` where the call did not come through [`crate::server`].
pub fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    request.extensions().get::<Principal>().cloned().ok_or_else(|| Answer::of(&Anonymous::Unserved).status())
}

/// The principal of a call, if it may do `action` to something of `tenant`: the one question every handler asks.
///
/// # Errors
/// `UNAUTHENTICATED`; `PERMISSION_DENIED`, naming principal and action.
pub fn authorized<T>(request: &Request<T>, action: &Action, tenant: &TenantId) -> Result<Principal, Status> {
    let principal = principal(request)?;
    authorize(&principal, action, tenant).map_err(|denied| status(&denied))?;
    Ok(principal)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_loopback_nobody_is_a_developer() {
        let tenant: TenantId = "t".parse().unwrap();
        for fine in ["127.0.0.1:80", "127.8.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(Caller::developer(fine.parse().unwrap(), tenant.clone()).is_ok(), "{fine}");
        }
        for exposed in ["0.0.0.0:80", "10.0.0.1:80", "[::]:80", "[::ffff:10.0.0.1]:80"] {
            let refused = Caller::developer(exposed.parse().unwrap(), tenant.clone()).unwrap_err();
            assert!(refused.to_string().starts_with(&format!("listen {exposed}")), "{refused}");
        }
    }

    #[test]
    fn a_call_without_principal_may_nothing() {
        let tenant: TenantId = "t".parse().unwrap();
        let mut request = Request::new(());
        let nobody = authorized(&request, &Action::Observe, &tenant).unwrap_err();
        assert_eq!(nobody.code(), tonic::Code::Unauthenticated);
        let caller = Caller::developer("127.0.0.1:1".parse().unwrap(), tenant.clone()).unwrap();
        request.extensions_mut().insert(caller.identify(&HeaderMap::new(), Time::ZERO).unwrap());
        assert_eq!(authorized(&request, &Action::Observe, &tenant).unwrap().subject, "dev");
        let elsewhere = authorized(&request, &Action::Observe, &"other".parse().unwrap()).unwrap_err();
        assert_eq!(elsewhere.code(), tonic::Code::PermissionDenied);
    }

    #[test]
    fn only_a_node_speaks_for_others_and_nobody_after_the_certificate_ended() {
        let caller = |subject: &str| {
            let principal = Principal::from_subject(subject).unwrap();
            Caller::Certified(Certified { principal, until: Time(10) })
        };
        let mut headers = HeaderMap::new();
        let anna = data_encoding::BASE64URL_NOPAD.encode(b"CN=anna,OU=reader,O=a");
        headers.insert(crate::nodes::ON_BEHALF_OF, anna.parse().unwrap());
        let who = |caller: &Caller| caller.identify(&headers, Time(10)).unwrap().subject;
        assert_eq!(who(&caller("CN=n1,OU=node,O=b")), "CN=anna,OU=reader,O=a");
        assert_eq!(who(&caller("CN=ivan,OU=operator,O=b")), "CN=ivan,OU=operator,O=b");
        let developer = Caller::developer("127.0.0.1:1".parse().unwrap(), "t".parse().unwrap()).unwrap();
        assert_eq!(who(&developer), "dev");
        let ended = caller("CN=ivan,OU=operator,O=b").identify(&headers, Time(11));
        assert!(matches!(ended, Err(Anonymous::Ended)));
        headers.insert(crate::nodes::ON_BEHALF_OF, "nonsense".parse().unwrap());
        let unclear = caller("CN=n1,OU=node,O=b").identify(&headers, Time(10));
        assert!(matches!(unclear, Err(Anonymous::Claim)));
    }
}
