//! The policies that decide: the active one of each tenant, and those that older plans name.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use isocenter_blobs::{Blobs, path};
use isocenter_domain::{id::TenantId, key::PolicyKey, record::policy::ActivePolicy, refs::Digest};
use isocenter_policy::{DEFAULT_TEXT, Policy, PolicyError};
use isocenter_runtime::task::chain;
use isocenter_store::table::{Stored, TableError, Tables};
use parking_lot::Mutex;

use crate::{Error, metrics::Metrics};

/// Parsed policies kept: the active ones of some tens of tenants, and those that are being explained. One costs its text,
/// at most 256 KiB, and some times that for its compiled conditions.
const KEPT: usize = 32;

/// A policy and the text it was made of.
#[derive(Debug)]
pub(crate) struct Version {
    /// SHA-256 of the text: what plans record.
    pub digest: Digest,
    /// The text.
    pub text: String,
    /// What it says.
    pub policy: Policy,
}

impl Version {
    /// Reads a text; blocks while it does.
    pub fn parse(text: String) -> Result<Self, PolicyError> {
        let policy = Policy::parse(&text)?;
        Ok(Self { digest: Digest::of(text.as_bytes()), text, policy })
    }
}

/// Where the active policy of a tenant is named.
pub(crate) fn active_key(tenant: &TenantId) -> PolicyKey {
    PolicyKey { tenant: tenant.clone(), name: "active".to_owned() }
}

/// Policies by their hash. A text never changes under its hash, so that nothing here is ever stale.
pub(crate) struct Policies {
    tables: Tables,
    blobs: Blobs,
    metrics: Metrics,
    shipped: Arc<Version>,
    /// The most recently used last.
    parsed: Mutex<VecDeque<Arc<Version>>>,
    /// One text is read at a time, lest all studies that wait for a new policy parse it each for itself.
    reading: tokio::sync::Mutex<()>,
    /// What last decided for a tenant whose active text could be loaded.
    last_good: Mutex<BTreeMap<TenantId, Arc<Version>>>,
    /// The texts that could not be loaded and have been complained about; at most one for each tenant.
    missed: Mutex<BTreeMap<TenantId, Option<Digest>>>,
}

impl Policies {
    pub fn new(tables: Tables, blobs: Blobs, metrics: Metrics) -> Self {
        let shipped =
            Version::parse(DEFAULT_TEXT.to_owned()).expect("the shipped policy is tested to be one");
        Self {
            tables,
            blobs,
            metrics,
            shipped: Arc::new(shipped),
            parsed: Mutex::default(),
            reading: tokio::sync::Mutex::default(),
            last_good: Mutex::default(),
            missed: Mutex::default(),
        }
    }

    /// The policy that Isocenter ships.
    pub fn shipped(&self) -> &Arc<Version> {
        &self.shipped
    }

    /// The record that names the tenant's active policy; none where the shipped one is active.
    pub async fn record(&self, tenant: &TenantId) -> Result<Option<Stored<ActivePolicy>>, TableError> {
        self.tables.load(&active_key(tenant)).await
    }

    /// What decides for `tenant` now. A study that is complete after [`crate::Service`] answered an `ApplyPolicy`
    /// anywhere is decided by that policy, because the record is read from the store each time.
    ///
    /// A text that cannot be loaded, or a record that this process cannot understand, never makes a study wait: what
    /// decided last decides on, else the shipped policy; it is logged and counted, and the plan names what decided.
    ///
    /// # Errors
    /// Only where the store does not answer.
    pub async fn active(&self, tenant: &TenantId) -> Result<Arc<Version>, TableError> {
        let digest = match self.record(tenant).await {
            Ok(None) => return Ok(Arc::clone(&self.shipped)),
            Ok(Some(stored)) => stored.record.text,
            Err(e @ TableError::Undecodable { .. }) => return Ok(self.instead(tenant, None, &e)),
            Err(e @ (TableError::Store(_) | TableError::Conflict)) => return Err(e),
        };
        match self.version(tenant, &digest).await {
            Ok(version) => {
                self.last_good.lock().insert(tenant.clone(), Arc::clone(&version));
                Ok(version)
            }
            Err(e) => Ok(self.instead(tenant, Some(digest), &e)),
        }
    }

    /// The policy of a text that was applied once.
    ///
    /// # Errors
    /// [`Error::Unread`], [`Error::Text`] and [`Error::NotText`] where it is not to be had.
    pub async fn version(&self, tenant: &TenantId, digest: &Digest) -> Result<Arc<Version>, Error> {
        if *digest == self.shipped.digest {
            return Ok(Arc::clone(&self.shipped));
        }
        if let Some(version) = self.known(digest) {
            return Ok(version);
        }
        let _one_at_a_time = self.reading.lock().await;
        if let Some(version) = self.known(digest) {
            return Ok(version);
        }
        let found = self.blobs.get_checked(&path::policy(tenant, digest), digest).await;
        let bytes = found.map_err(|source| Error::Unread { what: "policy text", source })?;
        let text = String::from_utf8(bytes.to_vec()).map_err(|_| Error::NotText)?;
        let version = Arc::new(parse(text).await?.map_err(Error::Text)?);
        self.keep(&version);
        Ok(version)
    }

    /// Keeps a version that was just applied, so that its first study does not wait for it to be read.
    pub fn keep(&self, version: &Arc<Version>) {
        let mut parsed = self.parsed.lock();
        parsed.retain(|kept| kept.digest != version.digest);
        if parsed.len() >= KEPT {
            parsed.pop_front();
        }
        parsed.push_back(Arc::clone(version));
    }

    fn known(&self, digest: &Digest) -> Option<Arc<Version>> {
        let mut parsed = self.parsed.lock();
        let at = parsed.iter().position(|kept| kept.digest == *digest)?;
        let version = parsed.remove(at)?;
        parsed.push_back(Arc::clone(&version));
        Some(version)
    }

    /// What decides where the active policy cannot. Every time is counted; the log says it once for each text.
    fn instead(
        &self,
        tenant: &TenantId,
        active: Option<Digest>,
        why: &(dyn std::error::Error + 'static),
    ) -> Arc<Version> {
        let (to, version) = match self.last_good.lock().get(tenant) {
            Some(version) => ("last-good", Arc::clone(version)),
            None => ("shipped", Arc::clone(&self.shipped)),
        };
        self.metrics.fallbacks.with_label_values(&[to]).inc();
        if self.missed.lock().insert(tenant.clone(), active) != Some(active) {
            tracing::error!(
                %tenant,
                active = active.map(|digest| digest.to_string()),
                decides = %version.digest,
                instead = to,
                error = %chain(why),
                "the active policy cannot be loaded; another one decides"
            );
        }
        version
    }
}

/// Reads a text beside the runtime: a large one takes a good part of a second.
///
/// # Errors
/// [`Error::BrokenOff`]; within, what is wrong with the text.
pub(crate) async fn parse(text: String) -> Result<Result<Version, PolicyError>, Error> {
    tokio::task::spawn_blocking(|| Version::parse(text)).await.map_err(Error::BrokenOff)
}
