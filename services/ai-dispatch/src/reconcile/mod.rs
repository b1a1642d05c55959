//! The two reconcilers: studies get their tasks, tasks get their calls. They obey [`crate::plan`].
//!
//! Nothing here touches a case or a read: a person reads a study whether or not anybody analyses it.

pub(crate) mod analyses;
pub(crate) mod calls;
pub(crate) mod gate;
pub(crate) mod sources;
pub(crate) mod studies;

use isocenter_blobs::Blobs;
use isocenter_domain::{
    document::Manifest,
    id::{AiServiceId, TenantId},
    key::{AiTaskKey, RegistryItem, RegistryKey},
    record::{
        ai_task::{AiTask, AiTaskEffect},
        registry::{AiService, Entry},
    },
    refs::Digest,
};
use isocenter_runtime::secret::Secret;
use isocenter_store::table::Tables;
use isocenter_wire::document::Stored as _;

use crate::{Error, metrics::Metrics, token, vendor::Vendors};

/// Who makes the changes here, in events.
pub(crate) const ACTOR: &str = "ai-dispatch";

/// What both reconcilers stand on. Clones share it.
#[derive(Clone)]
pub(crate) struct Core {
    pub tables: Tables,
    pub blobs: Blobs,
    pub secret: Secret,
    pub vendors: Vendors,
    pub calls: calls::Calls,
    pub metrics: Metrics,
}

impl Core {
    /// The registry's entry of a service, now: what is sent to whom is not decided by a cache.
    async fn registered(&self, tenant: &TenantId, service: &AiServiceId) -> Result<Option<AiService>, Error> {
        let key = RegistryKey { tenant: tenant.clone(), item: RegistryItem::Ai(service.clone()) };
        let entry = self.tables.load::<Entry>(&key).await?;
        Ok(entry.and_then(|entry| match entry.record {
            Entry::Ai(service) => Some(service),
            Entry::Site(_) | Entry::Reader(_) | Entry::Pool(_) | Entry::Destination(_) => None,
        }))
    }

    /// What has to follow a change of a task, once it is committed. That the queue's order may change, reader assignment
    /// sees in the record.
    fn follow(&self, key: &AiTaskKey, after: &AiTask, effects: &[AiTaskEffect], service: Option<&AiService>) {
        if after.settled() {
            self.metrics.tasks.with_label_values(&[key.service.as_str(), after.state.name()]).inc();
            self.calls.drop(key);
        }
        if let (true, Some(service)) = (effects.contains(&AiTaskEffect::Cancel), service) {
            self.vendors.cancel(key, service, token::request_id(&self.secret, key));
        }
    }
}

/// The manifest of a study revision, checked to be it.
pub(crate) async fn manifest(
    blobs: &Blobs,
    key: &AiTaskKey,
    digest: Option<&Digest>,
) -> Result<Manifest, Error> {
    let path = isocenter_blobs::path::manifest(&key.tenant, &key.study, key.revision);
    let bytes = match digest {
        Some(digest) => blobs.get_checked(&path, digest).await?,
        None => blobs.get(&path).await?,
    };
    Ok(Manifest::decode(&bytes)?)
}
