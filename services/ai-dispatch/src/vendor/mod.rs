//! Vendors' services from outside: one channel each, and what they say of themselves.

pub(crate) mod answer;
pub(crate) mod call;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use isocenter_domain::{
    id::{AiServiceId, TenantId},
    key::AiTaskKey,
    record::registry::AiService,
};
use isocenter_reconcile::Queue;
use isocenter_runtime::{clock::Clock, task::Tasks};
use isocenter_wire::v1::{
    CancelRequest, DescribeRequest, DescribeResponse, ai_inference_client::AiInferenceClient,
};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::plan::Description;

/// A client of one service; clones share its connection.
pub(crate) type Client = AiInferenceClient<Channel>;

/// How long connecting may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// How often a connection is asked whether it lives, and how long it may be silent then. A service that was unplugged in
/// the middle of a call is noticed within half a minute.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(10));
/// How long describing itself, and taking note of a cancellation, may take.
const SHORT_CALL: Duration = Duration::from_secs(5);
/// How soon a service that did not describe itself is asked again, at the most.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The longest answer in bytes: 256 findings with long labels are some 100 KiB.
const MAX_ANSWER: usize = 1 << 20;
/// The longest request in bytes: some 80,000 instances.
const MAX_REQUEST: usize = 16 << 20;
/// The most modalities of a description that are kept; the standard defines some 60.
const MAX_MODALITIES: usize = 256;

type Id = (TenantId, AiServiceId);

/// The services that were looked at: as many as the registry has. Clones share them.
#[derive(Clone)]
pub(crate) struct Vendors(Arc<Shared>);

struct Shared {
    entries: Mutex<BTreeMap<Id, Entry>>,
    queue: Queue<AiTaskKey>,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    refresh: Duration,
}

struct Entry {
    address: String,
    client: Option<Client>,
    description: Option<Description>,
    /// `None` while it was never asked to the end.
    ask_at: Option<Instant>,
    asking: bool,
    /// Tasks that wait for its first description, each one that the queue knows.
    waiting: BTreeSet<AiTaskKey>,
}

/// A service as it is known now.
#[derive(Clone, Debug)]
pub(crate) struct Vendor {
    /// `None` where its address cannot be used.
    pub client: Option<Client>,
    /// `None` where it did not describe itself.
    pub description: Option<Description>,
}

impl Vendors {
    /// Wakes tasks in `queue`; believes a description for `refresh`.
    pub fn new(queue: Queue<AiTaskKey>, tasks: Tasks, clock: Arc<dyn Clock>, refresh: Duration) -> Self {
        Self(Arc::new(Shared { entries: Mutex::default(), queue, tasks, clock, refresh }))
    }

    /// The service that is to do `key`; `None` while it is asked for the first time what it takes: the key is woken when
    /// it has answered, or has not. Never waits.
    pub fn look(&self, key: &AiTaskKey, service: &AiService) -> Option<Vendor> {
        let id = (key.tenant.clone(), key.service.clone());
        let now = self.0.clock.monotonic();
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(id.clone()).or_insert_with(|| Entry::new(service));
        if entry.address != service.address {
            *entry = Entry { waiting: std::mem::take(&mut entry.waiting), ..Entry::new(service) };
        }
        if !entry.asking && entry.ask_at.is_none_or(|at| now >= at) {
            entry.asking = true;
            let (shared, address, client) =
                (Arc::clone(&self.0), entry.address.clone(), entry.client.clone());
            self.0.tasks.background("ai describe", async move { shared.ask(id, address, client).await });
        }
        if entry.ask_at.is_none() {
            entry.waiting.insert(key.clone());
            return None;
        }
        Some(Vendor { client: entry.client.clone(), description: entry.description.clone() })
    }

    /// Tells the service that nobody waits for `request_id` any more, if it can be told. Never waits.
    pub fn cancel(&self, key: &AiTaskKey, service: &AiService, request_id: String) {
        let id = (key.tenant.clone(), key.service.clone());
        let known = {
            let entries = self.0.entries.lock();
            entries.get(&id).filter(|e| e.address == service.address).map(|e| e.client.clone())
        };
        // Where this process has not called the service, another one has.
        let Some(mut client) = known.unwrap_or_else(|| client(&service.address)) else { return };
        self.0.tasks.background("ai cancel", async move {
            let mut request = tonic::Request::new(CancelRequest { request_id });
            request.set_timeout(SHORT_CALL);
            if let Err(status) = client.cancel(request).await {
                tracing::debug!(service = %id.1, code = ?status.code(), "cancellation was not taken note of");
            }
        });
    }
}

impl Entry {
    fn new(service: &AiService) -> Self {
        Self {
            address: service.address.clone(),
            client: client(&service.address),
            description: None,
            ask_at: None,
            asking: false,
            waiting: BTreeSet::new(),
        }
    }
}

impl Shared {
    /// Asks a service what it is. One that does not answer keeps the description it had.
    async fn ask(&self, id: Id, address: String, client: Option<Client>) {
        let described = match client {
            None => None,
            Some(mut client) => {
                let mut request = tonic::Request::new(DescribeRequest {});
                request.set_timeout(SHORT_CALL);
                let ended = self.tasks.token();
                tokio::select! {
                    answer = client.describe(request) => match answer {
                        Ok(answer) => description(answer.into_inner()),
                        Err(status) => {
                            tracing::info!(service = %id.1, code = ?status.code(), "ai service does not describe itself");
                            None
                        }
                    },
                    () = ended.cancelled() => return,
                }
            }
        };
        let now = self.clock.monotonic();
        let again = if described.is_some() { self.refresh } else { self.refresh.min(ASK_AGAIN) };
        let waiting = {
            let mut entries = self.entries.lock();
            // An address that was replaced meanwhile is asked by itself.
            let Some(entry) = entries.get_mut(&id).filter(|entry| entry.address == address) else { return };
            entry.asking = false;
            entry.ask_at = Some(now + again);
            entry.description = described.or(entry.description.take());
            std::mem::take(&mut entry.waiting)
        };
        for key in waiting {
            self.queue.wake(key);
        }
    }
}

/// What dispatch minds of a description; `None` of one that breaks the contract.
fn description(answer: DescribeResponse) -> Option<Description> {
    let max_concurrency = usize::try_from(answer.max_concurrency).unwrap_or(usize::MAX);
    if max_concurrency == 0 || answer.modalities.len() > MAX_MODALITIES {
        tracing::warn!("an ai service describes itself against the contract; the registry alone holds");
        return None;
    }
    Some(Description { modalities: answer.modalities, max_concurrency })
}

/// A client that connects when it is used first; `None` for what is no address.
fn client(address: &str) -> Option<Client> {
    let endpoint = match Endpoint::from_shared(address.to_owned()) {
        Ok(endpoint) => endpoint,
        Err(e) => {
            tracing::warn!(error = %e, "an ai service is registered with an address that cannot be used");
            return None;
        }
    };
    let channel = endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(false)
        .tcp_nodelay(true)
        .connect_lazy();
    Some(
        AiInferenceClient::new(channel)
            .max_decoding_message_size(MAX_ANSWER)
            .max_encoding_message_size(MAX_REQUEST),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_description_that_takes_nothing_at_a_time_is_none() {
        let described = |max_concurrency| {
            description(DescribeResponse {
                max_concurrency,
                modalities: vec!["CR".into()],
                ..DescribeResponse::default()
            })
        };
        assert_eq!(described(0), None);
        assert_eq!(described(3).unwrap().max_concurrency, 3);
    }
}
