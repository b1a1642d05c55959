//! `AiDispatch.GetServiceHealth`: how services stand, as this process sees them.

use isocenter_domain::{
    Kind, Kinded,
    access::{Action, Role},
    id::{AiServiceId, TenantId},
    key::{RegistryItem, RegistryKey},
    record::registry::{AiService, Entry},
};
use isocenter_runtime::{
    principal::{authorized, principal},
    status::status,
};
use isocenter_store::{members::Shares, table::Mirror};
use isocenter_wire::{
    duration, timestamp,
    v1::{
        AiOutcomeCount, AiServiceHealth, AiServiceState, GetServiceHealthRequest, GetServiceHealthResponse,
    },
};
use tonic::{Request, Status};

use crate::{
    plan::{self, breaker::Standing},
    reconcile::gate::{Gate, View},
    vendor::Vendors,
};

/// What is told of services.
#[derive(Clone)]
pub(crate) struct Services {
    pub vendors: Vendors,
    pub gate: Gate,
    pub registry: Mirror<Entry>,
    pub shares: Shares,
    /// The process that answers: host:port.
    pub process: String,
}

/// Why nothing is told.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("service_id is no id")]
    NoId,
    #[error("no such service is registered")]
    Unknown,
}

impl Kinded for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Self::NoId => Kind::Invalid,
            Self::Unknown => Kind::NotFound,
        }
    }
}

impl Services {
    pub async fn health(
        &self,
        request: &Request<GetServiceHealthRequest>,
    ) -> Result<GetServiceHealthResponse, Status> {
        let principal = principal(request)?;
        let tenant = &principal.tenant;
        let wanted = match request.get_ref().service_id.as_str() {
            "" => None,
            id => match id.parse::<AiServiceId>() {
                Ok(id) => Some(id),
                Err(_) => {
                    // What is wrong with a name is told to those only who may ask for every one.
                    authorized(request, &Action::Operate, tenant)?;
                    return Err(status(&Refusal::NoId));
                }
            },
        };
        let wanted = match (&principal.role, wanted) {
            // A vendor sees its own without naming it.
            (Role::Vendor(own), None) => Some(own.clone()),
            (_, wanted) => wanted,
        };
        let action = wanted.clone().map_or(Action::Operate, Action::SeeService);
        authorized(request, &action, tenant)?;
        self.registry.synced().await;
        let entries = match &wanted {
            Some(id) => vec![self.registered(tenant, id).ok_or_else(|| status(&Refusal::Unknown))?],
            None => self.all(tenant),
        };
        let services = entries.iter().map(|(id, service)| self.one(tenant, id, service)).collect();
        Ok(GetServiceHealthResponse { process: self.process.clone(), services })
    }

    fn registered(&self, tenant: &TenantId, id: &AiServiceId) -> Option<(AiServiceId, AiService)> {
        let key = RegistryKey { tenant: tenant.clone(), item: RegistryItem::Ai(id.clone()) };
        match &self.registry.get(&key)?.record {
            Entry::Ai(service) => Some((id.clone(), service.clone())),
            Entry::Site(_) | Entry::Reader(_) | Entry::Pool(_) | Entry::Destination(_) => None,
        }
    }

    /// The services of the tenant, by id; as many as operators registered.
    fn all(&self, tenant: &TenantId) -> Vec<(AiServiceId, AiService)> {
        let all = self.registry.all();
        let mut services: Vec<_> = all
            .iter()
            .filter(|entry| entry.key.tenant == *tenant)
            .filter_map(|entry| match (&entry.key.item, &entry.record) {
                (RegistryItem::Ai(id), Entry::Ai(service)) => Some((id.clone(), service.clone())),
                _ => None,
            })
            .collect();
        services.sort_by(|(a, _), (b, _)| a.cmp(b));
        services
    }

    fn one(&self, tenant: &TenantId, id: &AiServiceId, service: &AiService) -> AiServiceHealth {
        let to = (tenant.clone(), id.clone());
        let (said, serving) = self.vendors.known(&to).unwrap_or((None, true));
        let minded = said.as_ref().map(|said| &said.minded);
        let health = AiServiceHealth {
            service_id: id.to_string(),
            limit: count(plan::limit(service, minded, self.shares.replicas())),
            description: said.as_ref().map(|said| said.whole.clone()),
            ..AiServiceHealth::default()
        };
        self.gate.view(&to).map_or(health.clone(), |view| with(health, serving, &view))
    }
}

/// The same, with what this process has seen.
fn with(health: AiServiceHealth, serving: bool, view: &View) -> AiServiceHealth {
    let state = match view.standing {
        Standing::Open { .. } => AiServiceState::Open,
        Standing::Probing => AiServiceState::Probing,
        Standing::Ready if !serving => AiServiceState::NotServing,
        Standing::Ready => AiServiceState::Ready,
    };
    let until = match view.standing {
        Standing::Open { until } => Some(until),
        Standing::Ready | Standing::Probing => None,
    };
    let outcomes = view.book.outcomes.iter();
    let outcome =
        |(name, count): (&&str, &u64)| AiOutcomeCount { outcome: (*name).to_owned(), count: *count };
    AiServiceHealth {
        state: state.into(),
        consecutive_failures: view.failures,
        open_until: until.map(timestamp),
        in_flight: count(view.inside),
        waiting: count(view.waiting),
        last_success_at: view.book.last_success.map(timestamp),
        last_failure_at: view.book.last_failure.map(timestamp),
        outcomes: outcomes.map(outcome).collect(),
        latency_p50: view.book.latency(50).map(duration),
        latency_p95: view.book.latency(95).map(duration),
        latency_samples: count(view.book.latencies.len()),
        ..health
    }
}

fn count(n: usize) -> u32 {
    u32::try_from(n).unwrap_or(u32::MAX)
}
