//! Who calls. Every call has a principal before any handler sees it.

use std::net::SocketAddr;

use isocenter_domain::{
    Kind, Kinded,
    access::{Action, Principal, Role, authorize},
    id::TenantId,
};
use tonic::{Request, Status};

use crate::status::{Answer, status};

/// An address on which callers could not be told apart.
#[derive(Debug, thiserror::Error)]
#[error(
    "listen {0}: a plaintext address that others reach would let anybody act as anybody; listen on a loopback address such as 127.0.0.1:8080"
)]
pub struct Exposed(SocketAddr);

impl Kinded for Exposed {
    fn kind(&self) -> Kind {
        Kind::Invalid
    }
}

/// How callers of one listener are identified.
#[derive(Clone, Debug)]
pub struct Identity {
    principal: Principal,
}

impl Identity {
    /// For a plaintext listener at `bound`: every caller is `dev` of `tenant`, who may do anything there.
    ///
    /// # Errors
    /// [`Exposed`] where `bound` is reached from elsewhere than this machine.
    pub fn developer(bound: SocketAddr, tenant: TenantId) -> Result<Self, Exposed> {
        if !bound.ip().to_canonical().is_loopback() {
            return Err(Exposed(bound));
        }
        Ok(Self { principal: Principal { subject: "dev".to_owned(), tenant, role: Role::Developer } })
    }

    /// The principal of one call.
    pub(crate) fn identify(&self) -> Principal {
        self.principal.clone()
    }
}

/// The principal of a call, which the server put there.
///
/// # Errors
/// `UNAUTHENTICATED` where the call did not come through [`crate::server`].
pub fn principal<T>(request: &Request<T>) -> Result<Principal, Status> {
    request.extensions().get::<Principal>().cloned().ok_or_else(|| Answer::of(&Nobody).status())
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

#[derive(Debug, thiserror::Error)]
#[error("the call has no principal")]
struct Nobody;

impl Kinded for Nobody {
    fn kind(&self) -> Kind {
        Kind::Unauthenticated
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_loopback_nobody_is_a_developer() {
        let tenant: TenantId = "t".parse().unwrap();
        for fine in ["127.0.0.1:80", "127.8.0.1:80", "[::1]:80", "[::ffff:127.0.0.1]:80"] {
            assert!(Identity::developer(fine.parse().unwrap(), tenant.clone()).is_ok(), "{fine}");
        }
        for exposed in ["0.0.0.0:80", "10.0.0.1:80", "[::]:80", "[::ffff:10.0.0.1]:80"] {
            let refused = Identity::developer(exposed.parse().unwrap(), tenant.clone()).unwrap_err();
            assert!(refused.to_string().starts_with(&format!("listen {exposed}")), "{refused}");
        }
    }

    #[test]
    fn a_call_without_principal_may_nothing() {
        let tenant: TenantId = "t".parse().unwrap();
        let mut request = Request::new(());
        let nobody = authorized(&request, &Action::Observe, &tenant).unwrap_err();
        assert_eq!(nobody.code(), tonic::Code::Unauthenticated);
        let identity = Identity::developer("127.0.0.1:1".parse().unwrap(), tenant.clone()).unwrap();
        request.extensions_mut().insert(identity.identify());
        assert_eq!(authorized(&request, &Action::Observe, &tenant).unwrap().subject, "dev");
        let elsewhere = authorized(&request, &Action::Observe, &"other".parse().unwrap()).unwrap_err();
        assert_eq!(elsewhere.code(), tonic::Code::PermissionDenied);
    }
}
