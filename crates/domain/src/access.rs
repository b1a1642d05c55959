//! Who may do what. Every call passes [`authorize`] once.

use crate::{
    error::{Kind, Kinded},
    id::{AiServiceId, ReaderId, TenantId},
};

/// Who calls.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Principal {
    /// For events and logs: a certificate's subject, a token's subject, or `dev`.
    pub subject: String,
    /// The tenant the principal belongs to.
    pub tenant: TenantId,
    /// What the principal is.
    pub role: Role,
}

/// What a principal is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// Runs the network.
    Operator,
    /// A radiologist at a workstation.
    Reader(ReaderId),
    /// A vendor's service.
    Vendor(AiServiceId),
    /// A network's own system.
    Network,
    /// Anything, in its tenant; exists on loopback only.
    Developer,
}

/// What is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Seeing studies, cases, plans and deliveries.
    Observe,
    /// Changing the registry or the policy.
    Configure,
    /// Operators' verbs: replay, reassign, reconcile, drain.
    Operate,
    /// Reading as this reader.
    ReadAs(ReaderId),
    /// Seeing the queue and why it is as it is.
    SeeQueue,
    /// Seeing reports and demographics.
    SeePatient,
    /// Fetching the pixels of a task; the task's own token is checked besides.
    FetchPixels,
}

/// A refusal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{subject} may not {what}")]
pub struct Denied {
    subject: String,
    what: &'static str,
}

impl Kinded for Denied {
    fn kind(&self) -> Kind {
        Kind::PermissionDenied
    }
}

/// Whether `principal` may do `action` to something of `tenant`.
pub fn authorize(principal: &Principal, action: &Action, tenant: &TenantId) -> Result<(), Denied> {
    let denied = |what| Err(Denied { subject: principal.subject.clone(), what });
    if principal.tenant != *tenant {
        return denied("act in another tenant");
    }
    let allowed = match (&principal.role, action) {
        (Role::Developer, _) => true,
        (Role::Operator, action) => match action {
            Action::Observe | Action::Configure | Action::Operate | Action::SeeQueue | Action::SeePatient => {
                true
            }
            Action::ReadAs(_) | Action::FetchPixels => false,
        },
        (Role::Reader(reader), action) => match action {
            Action::ReadAs(wanted) => wanted == reader,
            Action::SeeQueue | Action::SeePatient | Action::Observe => true,
            Action::Configure | Action::Operate | Action::FetchPixels => false,
        },
        (Role::Vendor(_), action) => match action {
            Action::FetchPixels => true,
            Action::Observe
            | Action::Configure
            | Action::Operate
            | Action::ReadAs(_)
            | Action::SeeQueue
            | Action::SeePatient => false,
        },
        (Role::Network, action) => match action {
            Action::Observe | Action::SeePatient => true,
            Action::Configure
            | Action::Operate
            | Action::ReadAs(_)
            | Action::SeeQueue
            | Action::FetchPixels => false,
        },
    };
    if allowed { Ok(()) } else { denied(action.name()) }
}

impl Action {
    /// The action in words, for refusals and events.
    #[must_use]
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Observe => "observe studies",
            Self::Configure => "change the registry or the policy",
            Self::Operate => "operate the network",
            Self::ReadAs(_) => "read as this reader",
            Self::SeeQueue => "see the queue",
            Self::SeePatient => "see patients",
            Self::FetchPixels => "fetch pixels",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_acts_only_as_himself_and_nobody_acts_in_another_tenant() {
        let ours: TenantId = "ours".parse().unwrap();
        let theirs: TenantId = "theirs".parse().unwrap();
        let anna: ReaderId = "anna".parse().unwrap();
        let boris: ReaderId = "boris".parse().unwrap();
        let principal =
            Principal { subject: "cn=anna".into(), tenant: ours.clone(), role: Role::Reader(anna.clone()) };
        assert!(authorize(&principal, &Action::ReadAs(anna.clone()), &ours).is_ok());
        assert!(authorize(&principal, &Action::ReadAs(boris), &ours).is_err());
        assert!(authorize(&principal, &Action::Configure, &ours).is_err());
        let developer = Principal { role: Role::Developer, ..principal };
        let refusal = authorize(&developer, &Action::ReadAs(anna), &theirs).unwrap_err();
        assert_eq!(refusal.to_string(), "cn=anna may not act in another tenant");
    }
}
