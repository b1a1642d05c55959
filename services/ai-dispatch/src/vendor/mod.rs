//! Vendors' services from outside: one channel each, what they say of themselves, and whether they say that they serve.

pub(crate) mod answer;
pub(crate) mod call;
mod describe;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, Instant},
};

use isocenter_domain::{Time, key::AiTaskKey, record::registry::AiService};
use isocenter_runtime::{
    clock::Clock,
    task::{Tasks, chain},
    tls,
};
use isocenter_wire::v1::{CancelRequest, DescribeResponse, ai_inference_client::AiInferenceClient};
use parking_lot::Mutex;
use tonic::transport::Channel;
use tonic_health::pb::health_client::HealthClient;

use crate::{
    plan::{Description, Model},
    reconcile::gate::{Gate, To},
};

/// The clients of one service; clones share its connection.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    pub inference: AiInferenceClient<Channel>,
    health: HealthClient<Channel>,
}

/// How long describing itself, and taking note of a cancellation, may take.
const SHORT_CALL: Duration = Duration::from_secs(5);
/// How soon a service that did not describe itself, does not serve, or failed a call is asked again, at the most.
const ASK_AGAIN: Duration = Duration::from_secs(10);
/// The longest answer in bytes: 256 findings with long labels are some 100 KiB.
const MAX_ANSWER: usize = 1 << 20;
/// The longest request in bytes: some 80,000 instances.
const MAX_REQUEST: usize = 16 << 20;

/// The services that were looked at: as many as the registry has. Clones share them.
#[derive(Clone)]
pub(crate) struct Vendors(Arc<Shared>);

struct Shared {
    entries: Mutex<BTreeMap<To, Entry>>,
    gate: Gate,
    tasks: Tasks,
    clock: Arc<dyn Clock>,
    refresh: Duration,
    tls: Option<tls::Client>,
}

struct Entry {
    address: String,
    client: Option<Client>,
    said: Option<Said>,
    /// What grpc.health.v1 last said; true where it said nothing.
    serving: bool,
    asked_at: Option<Instant>,
    /// `None` while it was never asked to the end.
    ask_at: Option<Instant>,
    asking: bool,
    /// Tasks that wait for its first description, each one that the queue knows.
    waiting: BTreeSet<AiTaskKey>,
}

/// What a service said of itself.
#[derive(Clone, Debug)]
pub(crate) struct Said {
    /// As it said it.
    pub whole: DescribeResponse,
    /// As far as dispatch minds it.
    pub minded: Description,
}

/// A service as it is known now.
#[derive(Clone, Debug)]
pub(crate) struct Vendor {
    /// `None` where its address cannot be used.
    pub client: Option<Client>,
    /// `None` where it did not describe itself.
    pub description: Option<Description>,
    /// Until when it is not called, because it says that it does not serve; then it is asked again.
    pub closed: Option<Time>,
}

impl Vendors {
    /// Wakes tasks through `gate`; believes a description for `refresh`; calls `https` addresses with `tls`.
    pub fn new(
        gate: Gate,
        tasks: Tasks,
        clock: Arc<dyn Clock>,
        refresh: Duration,
        tls: Option<tls::Client>,
    ) -> Self {
        Self(Arc::new(Shared { entries: Mutex::default(), gate, tasks, clock, refresh, tls }))
    }

    /// The service that is to do `key`; `None` while it is asked for the first time what it takes: the key is woken when
    /// it has answered, or has not. Never waits.
    pub fn look(&self, key: &AiTaskKey, service: &AiService) -> Option<Vendor> {
        let id = (key.tenant.clone(), key.service.clone());
        let now = self.0.clock.monotonic();
        let mut entries = self.0.entries.lock();
        let entry = entries.entry(id.clone()).or_insert_with(|| Entry::new(service, self.0.tls.as_ref()));
        if entry.address != service.address {
            *entry = Entry {
                waiting: std::mem::take(&mut entry.waiting),
                ..Entry::new(service, self.0.tls.as_ref())
            };
        }
        if !entry.asking && entry.ask_at.is_none_or(|at| now >= at) {
            entry.asking = true;
            let (shared, address, client) =
                (Arc::clone(&self.0), entry.address.clone(), entry.client.clone());
            self.0.tasks.background("ai describe", async move { shared.ask(id, address, client).await });
        }
        let Some(ask_at) = entry.ask_at else {
            entry.waiting.insert(key.clone());
            return None;
        };
        // While it is being asked, the first in line is woken by the answer.
        let wait = if entry.asking { SHORT_CALL } else { ask_at.saturating_duration_since(now) };
        let closed = (!entry.serving).then(|| self.0.clock.now().plus(wait));
        let description = entry.said.as_ref().map(|said| said.minded.clone());
        Some(Vendor { client: entry.client.clone(), description, closed })
    }

    /// What is known of a service; `None` of one that was never looked at.
    pub fn known(&self, id: &To) -> Option<(Option<Said>, bool)> {
        self.0.entries.lock().get(id).map(|entry| (entry.said.clone(), entry.serving))
    }

    /// A call of the service failed: it is asked sooner than it would have been how it is.
    pub fn doubt(&self, key: &AiTaskKey) {
        let id = (key.tenant.clone(), key.service.clone());
        if let Some(entry) = self.0.entries.lock().get_mut(&id) {
            let soon = entry.asked_at.map(|at| at + ASK_AGAIN);
            entry.ask_at = entry.ask_at.min(soon).or(entry.ask_at);
        }
    }

    /// Whether `model`, which gave an answer, is what the service says it is, if need be when it is asked again.
    pub async fn announces(&self, key: &AiTaskKey, model: &Model) -> bool {
        let id = (key.tenant.clone(), key.service.clone());
        let known = || {
            let entries = self.0.entries.lock();
            let entry = entries.get(&id)?;
            let announced = entry.said.as_ref().is_none_or(|said| said.minded.announces(model));
            Some((announced, entry.address.clone(), entry.client.clone()))
        };
        let Some((false, address, client)) = known() else { return true };
        self.0.ask(id.clone(), address, client).await;
        known().is_none_or(|(announced, ..)| announced)
    }

    /// Tells the service that nobody waits for `request_id` any more, if it can be told. Never waits.
    pub fn cancel(&self, key: &AiTaskKey, service: &AiService, request_id: String) {
        let id = (key.tenant.clone(), key.service.clone());
        let known = {
            let entries = self.0.entries.lock();
            entries.get(&id).filter(|e| e.address == service.address).map(|e| e.client.clone())
        };
        // Where this process has not called the service, another one has.
        let Some(mut client) = known.unwrap_or_else(|| client(&service.address, self.0.tls.as_ref())) else {
            return;
        };
        self.0.tasks.background("ai cancel", async move {
            let mut request = tonic::Request::new(CancelRequest { request_id });
            request.set_timeout(SHORT_CALL);
            if let Err(status) = client.inference.cancel(request).await {
                tracing::debug!(service = %id.1, code = ?status.code(), "cancellation was not taken note of");
            }
        });
    }
}

impl Entry {
    fn new(service: &AiService, tls: Option<&tls::Client>) -> Self {
        Self {
            address: service.address.clone(),
            client: client(&service.address, tls),
            said: None,
            serving: true,
            asked_at: None,
            ask_at: None,
            asking: false,
            waiting: BTreeSet::new(),
        }
    }
}

impl Shared {
    /// Asks a service what it is and whether it serves. One that does not answer keeps the description it had.
    async fn ask(&self, id: To, address: String, client: Option<Client>) {
        let (said, serving) = match client {
            None => (None, true),
            Some(client) => {
                let ended = self.tasks.token();
                tokio::select! {
                    told = async { tokio::join!(client.described(&id), client.serves()) } => told,
                    () = ended.cancelled() => return,
                }
            }
        };
        let now = self.clock.monotonic();
        let sure = said.is_some() && serving;
        let again = if sure { self.refresh } else { self.refresh.min(ASK_AGAIN) };
        let waiting = {
            let mut entries = self.entries.lock();
            // An address that was replaced meanwhile is asked by itself.
            let Some(entry) = entries.get_mut(&id).filter(|entry| entry.address == address) else { return };
            if entry.serving != serving {
                tracing::info!(service = %id.1, serving, "ai service says whether it serves");
            }
            (entry.asking, entry.serving, entry.asked_at) = (false, serving, Some(now));
            entry.ask_at = Some(now + again);
            entry.said = said.or(entry.said.take());
            std::mem::take(&mut entry.waiting)
        };
        for key in waiting {
            self.gate.wake(Some(key));
        }
        self.gate.look(&id);
    }
}

/// Clients that connect when they are used first, with `tls` where the address says `https`; `None` for what cannot be
/// called.
fn client(address: &str, tls: Option<&tls::Client>) -> Option<Client> {
    let channel = tls::channel(address, tls).inspect_err(|e| {
        tracing::warn!(error = %chain(e), "an ai service is registered with an address that cannot be used");
    });
    let channel = channel.ok()?;
    let inference = AiInferenceClient::new(channel.clone())
        .max_decoding_message_size(MAX_ANSWER)
        .max_encoding_message_size(MAX_REQUEST);
    Some(Client { inference, health: HealthClient::new(channel) })
}
