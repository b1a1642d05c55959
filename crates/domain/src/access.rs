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
    /// One of our own processes. It passes calls on for their callers, and does nothing in its own name but measure.
    Node,
    /// Anything, in its tenant; exists on loopback only.
    Developer,
}

/// A name that is no principal.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotPrincipal {
    /// The tenant is none.
    #[error("its organization (O) names no tenant: it {0}")]
    Tenant(&'static str),
    /// The unit is no role.
    #[error("its organizational unit (OU) is not operator, reader, vendor, network or node")]
    Unit,
    /// The name is none.
    #[error("its common name (CN) {0}")]
    Name(&'static str),
}

impl Kinded for NotPrincipal {
    fn kind(&self) -> Kind {
        Kind::Unauthenticated
    }
}

/// The longest common name (X.520, ub-common-name).
const LONGEST_NAME: usize = 64;

impl Principal {
    /// The principal whom a certificate names: `tenant` is its organization, `unit` its organizational unit, which is the
    /// role, and `name` its common name: a reader's or an AI service's id, or what else identifies them to people.
    ///
    /// # Errors
    /// [`NotPrincipal`].
    pub fn certified(tenant: &str, unit: &str, name: &str) -> Result<Self, NotPrincipal> {
        let named = |e: crate::id::InvalidId| NotPrincipal::Name(e.why);
        let role = match unit {
            "operator" => Role::Operator,
            "reader" => Role::Reader(name.parse().map_err(named)?),
            "vendor" => Role::Vendor(name.parse().map_err(named)?),
            "network" => Role::Network,
            "node" => Role::Node,
            _ => return Err(NotPrincipal::Unit),
        };
        let tenant: TenantId =
            tenant.parse().map_err(|e: crate::id::InvalidId| NotPrincipal::Tenant(e.why))?;
        if name.is_empty() || name.len() > LONGEST_NAME {
            return Err(NotPrincipal::Name("is empty or longer than 64 bytes"));
        }
        // It is written into events and logs; a comma would make one subject look like another.
        if name.chars().any(|c| c.is_control() || ",=+\"\\<>;/".contains(c)) {
            return Err(NotPrincipal::Name("has a control character or one of , = + \" \\ < > ; /"));
        }
        Ok(Self { subject: format!("CN={name},OU={unit},O={tenant}"), tenant, role })
    }

    /// Reads a subject that [`Principal::certified`] wrote.
    ///
    /// # Errors
    /// [`NotPrincipal`], also for a subject such as a developer's, which no certificate has.
    pub fn from_subject(subject: &str) -> Result<Self, NotPrincipal> {
        let mut parts = subject.splitn(3, ',');
        let mut part = |name| parts.next().and_then(|part| part.strip_prefix(name));
        let (name, unit, tenant) = (part("CN="), part("OU="), part("O="));
        let absent = NotPrincipal::Name("is not there");
        Self::certified(
            tenant.ok_or(NotPrincipal::Tenant("is not there"))?,
            unit.ok_or(NotPrincipal::Unit)?,
            name.ok_or(absent)?,
        )
    }
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
    /// Asking for another reader's opinion, or a question about a case.
    Ask,
    /// Seeing the queue and why it is as it is.
    SeeQueue,
    /// Seeing reports and demographics.
    SeePatient,
    /// Fetching the pixels that were sent to this service; the task's own token is checked besides.
    FetchPixels(AiServiceId),
    /// Seeing how this AI service stands.
    SeeService(AiServiceId),
    /// Seeing the figures of a process, which are nobody's in particular.
    Measure,
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
            Action::Observe
            | Action::Configure
            | Action::Operate
            | Action::Ask
            | Action::SeeQueue
            | Action::SeePatient
            | Action::SeeService(_)
            | Action::Measure => true,
            Action::ReadAs(_) | Action::FetchPixels(_) => false,
        },
        (Role::Reader(reader), action) => match action {
            Action::ReadAs(wanted) => wanted == reader,
            Action::Ask | Action::SeeQueue | Action::SeePatient | Action::Observe => true,
            Action::Configure
            | Action::Operate
            | Action::FetchPixels(_)
            | Action::SeeService(_)
            | Action::Measure => false,
        },
        (Role::Vendor(service), action) => match action {
            Action::FetchPixels(wanted) | Action::SeeService(wanted) => wanted == service,
            Action::Observe
            | Action::Configure
            | Action::Operate
            | Action::ReadAs(_)
            | Action::Ask
            | Action::SeeQueue
            | Action::SeePatient
            | Action::Measure => false,
        },
        (Role::Network, action) => match action {
            Action::Observe | Action::SeePatient | Action::Ask => true,
            Action::Configure
            | Action::Operate
            | Action::ReadAs(_)
            | Action::SeeQueue
            | Action::FetchPixels(_)
            | Action::SeeService(_)
            | Action::Measure => false,
        },
        (Role::Node, action) => match action {
            Action::Measure => true,
            Action::Observe
            | Action::Configure
            | Action::Operate
            | Action::ReadAs(_)
            | Action::Ask
            | Action::SeeQueue
            | Action::SeePatient
            | Action::SeeService(_)
            | Action::FetchPixels(_) => false,
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
            Self::Ask => "ask for an opinion",
            Self::SeeQueue => "see the queue",
            Self::SeePatient => "see patients",
            Self::FetchPixels(_) => "fetch the pixels of this service",
            Self::SeeService(_) => "see how this AI service stands",
            Self::Measure => "see the figures of a process",
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

    #[test]
    fn a_subject_is_a_principal_or_says_what_it_lacks() {
        let anna = Principal::certified("moscow", "reader", "anna").unwrap();
        assert_eq!(anna.role, Role::Reader("anna".parse().unwrap()));
        assert_eq!(anna.subject, "CN=anna,OU=reader,O=moscow");
        let chief = Principal::certified("moscow", "operator", "Иван Петров").unwrap();
        for principal in [anna, chief] {
            assert_eq!(Principal::from_subject(&principal.subject), Ok(principal));
        }
        let refused = |tenant, unit, name| Principal::certified(tenant, unit, name).unwrap_err();
        assert!(matches!(refused("Moscow", "reader", "anna"), NotPrincipal::Tenant(_)));
        assert_eq!(refused("moscow", "root", "anna"), NotPrincipal::Unit);
        let long = "x".repeat(65);
        for name in ["", "Anna", "anna,OU=operator"] {
            assert!(matches!(refused("moscow", "reader", name), NotPrincipal::Name(_)), "{name}");
        }
        for name in ["", "a\nb", "a,OU=operator", long.as_str()] {
            assert!(matches!(refused("moscow", "operator", name), NotPrincipal::Name(_)), "{name}");
        }
        for subject in ["dev", "CN=a", "CN=a,OU=operator", "OU=operator,CN=a,O=moscow", ""] {
            assert!(Principal::from_subject(subject).is_err(), "{subject}");
        }
    }

    #[test]
    fn a_node_does_nothing_in_its_own_name() {
        let node = Principal::certified("ours", "node", "n1").unwrap();
        let ours = node.tenant.clone();
        assert!(authorize(&node, &Action::Measure, &ours).is_ok());
        for action in
            [Action::Observe, Action::Configure, Action::Operate, Action::SeeQueue, Action::SeePatient]
        {
            assert!(authorize(&node, &action, &ours).is_err());
        }
        let vendor = Principal::certified("ours", "vendor", "opacity").unwrap();
        assert!(authorize(&vendor, &Action::FetchPixels("opacity".parse().unwrap()), &ours).is_ok());
        assert!(authorize(&vendor, &Action::FetchPixels("other".parse().unwrap()), &ours).is_err());
        assert!(authorize(&vendor, &Action::SeeService("opacity".parse().unwrap()), &ours).is_ok());
        assert!(authorize(&vendor, &Action::SeeService("other".parse().unwrap()), &ours).is_err());
    }
}
