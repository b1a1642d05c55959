//! The policy: applied, shown, and why it decided so.

use std::sync::Arc;

use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Kinded as _, access::Action, id::TenantId, key::StudyKey, record::policy::ActivePolicy,
};
use isocenter_runtime::status::{Answer, status};
use isocenter_store::table::{Cause, Tables};
use isocenter_wire::{
    timestamp,
    v1::{self, routing_server::Routing},
};
use tonic::{Request, Response, Status};

use super::{TRIES, allowed, id, lost, request_id};
use crate::{
    Error,
    policies::{Policies, Version, active_key, parse},
};

/// The calls of `isocenter.v1.Routing`.
#[derive(Clone)]
pub(crate) struct RoutingRpc {
    pub tables: Tables,
    pub blobs: Blobs,
    pub policies: Arc<Policies>,
}

impl RoutingRpc {
    pub fn new(tables: Tables, blobs: Blobs, policies: Arc<Policies>) -> Self {
        Self { tables, blobs, policies }
    }

    /// Makes `version` the tenant's active one, once: the same request again finds itself in the record.
    async fn apply(
        &self,
        tenant: &TenantId,
        version: &Arc<Version>,
        cause: &Cause,
    ) -> Result<ActivePolicy, Error> {
        let path = path::policy(tenant, &version.digest);
        let put = self.blobs.put_new(&path, version.text.clone().into()).await;
        put.map_err(|source| Error::Unkept { what: "policy text", source })?;
        let mut tries = 0;
        loop {
            tries += 1;
            let stored = self.policies.record(tenant).await?;
            if let Some(stored) = stored.as_ref().filter(|stored| stored.head.op_id == cause.op_id) {
                return Ok(stored.record.clone());
            }
            let mut change = self.tables.change(cause.clone());
            let record = ActivePolicy {
                text: version.digest,
                applied_by: cause.actor.clone(),
                applied_at: change.now(),
            };
            match &stored {
                Some(stored) => change.update(stored, &record, "applied"),
                None => change.create(&active_key(tenant), &record, "applied", ""),
            }
            match change.commit().await {
                Ok(_) => {
                    tracing::info!(%tenant, version = %version.digest, actor = %cause.actor, "policy applied");
                    return Ok(record);
                }
                Err(e) if tries < TRIES && lost(e.kind()) => {}
                Err(e) => return Err(e.into()),
            }
        }
    }

    async fn active(&self, tenant: &TenantId) -> Result<v1::Policy, Error> {
        match self.policies.record(tenant).await? {
            Some(stored) => {
                let version = self.policies.version(tenant, &stored.record.text).await?;
                Ok(shown(&version, Some(&stored.record)))
            }
            None => Ok(shown(self.policies.shipped(), None)),
        }
    }
}

#[tonic::async_trait]
impl Routing for RoutingRpc {
    async fn apply_policy(
        &self,
        request: Request<v1::ApplyPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let caller = allowed(&request, &Action::Configure)?;
        let request = request.into_inner();
        request_id(&request.request_id)?;
        let version = match parse(request.text).await.map_err(|e| status(&e))? {
            Ok(version) => Arc::new(version),
            Err(e) if e.is_retryable() => return Err(status(&e)),
            // The message has line and column.
            Err(e) => return Err(Answer::invalid("text", e.to_string()).reason("POLICY_REFUSED").status()),
        };
        let cause = Cause::request(&request.request_id, &caller.subject);
        let record = self.apply(&caller.tenant, &version, &cause).await.map_err(|e| status(&e))?;
        self.policies.keep(&version);
        if record.text == version.digest {
            return Ok(Response::new(shown(&version, Some(&record))));
        }
        // The request id was used before with another text: the answer is that request's.
        let first = self.policies.version(&caller.tenant, &record.text).await.map_err(|e| status(&e))?;
        Ok(Response::new(shown(&first, Some(&record))))
    }

    async fn get_policy(
        &self,
        request: Request<v1::GetPolicyRequest>,
    ) -> Result<Response<v1::Policy>, Status> {
        let caller = allowed(&request, &Action::Observe)?;
        self.active(&caller.tenant).await.map(Response::new).map_err(|e| status(&e))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let caller = allowed(&request, &Action::Observe)?;
        let study = id(&request.get_ref().study_instance_uid, "study_instance_uid")?;
        let key = StudyKey { tenant: caller.tenant, study };
        self.explained(&key).await.map(Response::new).map_err(|e| status(&e))
    }
}

fn shown(version: &Version, record: Option<&ActivePolicy>) -> v1::Policy {
    v1::Policy {
        name: version.policy.name().to_owned(),
        version: version.digest.to_string(),
        text: version.text.clone(),
        applied_at: record.map(|record| timestamp(record.applied_at)),
        applied_by: record.map(|record| record.applied_by.clone()).unwrap_or_default(),
    }
}
