//! `AiDispatch`: pixels for the service that analyses them, and how services stand.
//!
//! For pixels the token of the task is the credential, beside the certificate of the service that it was made for: in the
//! hands of anybody else it is worth nothing. A token is made for one service and one study revision, and dies with the claim it was made for; the
//! registry is asked besides, so that a service which may no longer receive originals gets none from that moment.

pub(crate) mod services;

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Kind, Kinded, Time,
    access::{Action, Principal, authorize},
    document::Instance,
    id::{AiServiceId, TenantId},
    key::{AiTaskKey, RegistryItem, RegistryKey},
    record::{ai_task::AiTask, registry::Entry},
    refs::Digest,
};
use isocenter_runtime::{
    clock::Clock, principal::principal, secret::Secret, status::status, telemetry::trace,
};
use isocenter_store::table::Mirror;
use isocenter_wire::v1::{
    FetchInstancesRequest, FetchInstancesResponse, GetServiceHealthRequest, GetServiceHealthResponse,
    InstanceEnd, ai_dispatch_server::AiDispatch, fetch_instances_response::Part,
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tonic::{Request, Response, Status};

use crate::{Error, metrics::Metrics, plan, reconcile, token, vendor::call::reference};

/// The most bytes of a part.
const CHUNK: usize = 256 << 10;

/// Streams to one service at a time, each of which holds a piece of [`isocenter_blobs::CHUNK`] bytes: one that does not
/// read its streams to the end keeps 16 MiB busy, and keeps nobody else waiting.
const STREAMS: usize = 16;

/// Why no pixels are sent.
#[derive(Debug, thiserror::Error)]
enum Refusal {
    #[error("the study revision has no such instance")]
    NoInstance,
    #[error("as many streams as one service may have are open")]
    Busy,
    #[error("an instance is not what its manifest says")]
    Altered,
}

impl Kinded for Refusal {
    fn kind(&self) -> Kind {
        match self {
            Self::NoInstance => Kind::NotFound,
            Self::Busy => Kind::Exhausted,
            Self::Altered => Kind::DataLoss,
        }
    }
}

/// The room for streams of each service; one entry for each that was let in, as many as the registry has.
pub(crate) type Streams = Arc<Mutex<BTreeMap<(TenantId, AiServiceId), Arc<Semaphore>>>>;

/// The gRPC service.
#[derive(Clone)]
pub(crate) struct Rpc {
    pub blobs: Blobs,
    pub secret: Secret,
    pub clock: Arc<dyn Clock>,
    pub registry: Mirror<Entry>,
    pub tasks: Mirror<AiTask>,
    pub metrics: Metrics,
    pub streams: Streams,
    pub services: services::Services,
}

#[tonic::async_trait]
impl AiDispatch for Rpc {
    type FetchInstancesStream = BoxStream<'static, Result<FetchInstancesResponse, Status>>;

    async fn fetch_instances(
        &self,
        request: Request<FetchInstancesRequest>,
    ) -> Result<Response<Self::FetchInstancesStream>, Status> {
        let caller = principal(&request)?;
        let opened = self.open(&caller, request.into_inner()).await;
        if opened.is_err() {
            self.metrics.refused.inc();
        }
        opened.map(Response::new)
    }

    async fn get_service_health(
        &self,
        request: Request<GetServiceHealthRequest>,
    ) -> Result<Response<GetServiceHealthResponse>, Status> {
        self.services.health(&request).await.map(Response::new)
    }
}

impl Rpc {
    async fn open(
        &self,
        caller: &Principal,
        request: FetchInstancesRequest,
    ) -> Result<BoxStream<'static, Result<FetchInstancesResponse, Status>>, Status> {
        let now = self.clock.now();
        let (key, until) = token::verify(&self.secret, &request.fetch_token, &request.request_id, now)
            .map_err(|e| status(&e))?;
        let action = Action::FetchPixels(key.service.clone());
        authorize(caller, &action, &key.tenant).map_err(|denied| status(&denied))?;
        if !self.may_receive(&key).await {
            return Err(status(&token::Refused));
        }
        let permit = self.admit(&key).ok_or_else(|| status(&Refusal::Busy))?;
        let task = self.tasks.get(&key);
        let digest = task.as_ref().map(|task| task.record.manifest);
        let manifest = reconcile::manifest(&self.blobs, &key, digest.as_ref());
        let manifest = manifest.await.map_err(|e| status::<Error>(&e))?;
        let wanted: BTreeSet<&str> = request.sop_instance_uids.iter().map(String::as_str).collect();
        let series = plan::ordered(&manifest.images);
        let instances: Vec<Instance> = series
            .into_iter()
            .flat_map(|(_, _, instances)| instances)
            .filter(|i| wanted.is_empty() || wanted.contains(i.instance.as_str()))
            .cloned()
            .collect();
        if !wanted.is_empty() && instances.len() < wanted.len() {
            return Err(status(&Refusal::NoInstance));
        }
        let span = tracing::info_span!("ai fetch", service = %key.service, instances = instances.len());
        let span = trace::joined(span, task.as_ref().map_or("", |task| task.head.trace.as_str()));
        let sending = Sending {
            blobs: self.blobs.clone(),
            clock: Arc::clone(&self.clock),
            metrics: self.metrics.clone(),
            key,
            until,
            left: instances.into_iter(),
            now: None,
            _permit: permit,
            span,
        };
        Ok(stream::unfold(Some(sending), Sending::step).boxed())
    }

    /// Whether the registry lets the service have originals, now.
    async fn may_receive(&self, key: &AiTaskKey) -> bool {
        self.registry.synced().await;
        let item = RegistryItem::Ai(key.service.clone());
        let entry = self.registry.get(&RegistryKey { tenant: key.tenant.clone(), item });
        entry.is_some_and(|entry| matches!(&entry.record, Entry::Ai(service) if service.receives_original))
    }

    fn admit(&self, key: &AiTaskKey) -> Option<OwnedSemaphorePermit> {
        let mut streams = self.streams.lock();
        let service = streams.entry((key.tenant.clone(), key.service.clone()));
        let streams = service.or_insert_with(|| Arc::new(Semaphore::new(STREAMS)));
        Arc::clone(streams).try_acquire_owned().ok()
    }
}

/// A stream under way. It reads as it is read: at most one piece of one instance is held.
struct Sending {
    blobs: Blobs,
    clock: Arc<dyn Clock>,
    metrics: Metrics,
    key: AiTaskKey,
    until: Time,
    left: std::vec::IntoIter<Instance>,
    now: Option<Open>,
    _permit: OwnedSemaphorePermit,
    /// Lives as long as the stream.
    span: tracing::Span,
}

/// The instance that is being sent.
struct Open {
    sha256: Digest,
    pieces: BoxStream<'static, Result<Bytes, isocenter_blobs::Error>>,
    piece: Bytes,
    hash: Sha256,
}

type Item = Result<FetchInstancesResponse, Status>;

impl Sending {
    /// The next part; an error is the last.
    async fn step(this: Option<Self>) -> Option<(Item, Option<Self>)> {
        let mut this = this?;
        match this.part().await {
            Ok(None) => None,
            Ok(Some(part)) => Some((Ok(FetchInstancesResponse { part: Some(part) }), Some(this))),
            Err(status) => {
                this.span
                    .in_scope(|| tracing::info!(code = ?status.code(), "pixels were not sent to the end"));
                Some((Err(status), None))
            }
        }
    }

    async fn part(&mut self) -> Result<Option<Part>, Status> {
        let Some(open) = &mut self.now else { return self.begin() };
        if open.piece.is_empty()
            && let Some(piece) = open.pieces.next().await
        {
            open.piece = piece.map_err(|e| status(&e))?;
            open.hash.update(&open.piece);
        }
        if !open.piece.is_empty() {
            let chunk = open.piece.split_to(open.piece.len().min(CHUNK));
            return Ok(Some(Part::Chunk(chunk)));
        }
        let sent = Digest(std::mem::take(&mut open.hash).finalize().into());
        if sent != open.sha256 {
            return Err(status(&Refusal::Altered));
        }
        self.now = None;
        self.metrics.instances.inc();
        Ok(Some(Part::End(InstanceEnd { sha256: sent.0.to_vec() })))
    }

    /// Begins the next instance, if there is one and the token still lives.
    fn begin(&mut self) -> Result<Option<Part>, Status> {
        let Some(next) = self.left.next() else { return Ok(None) };
        if self.clock.now() >= self.until {
            return Err(status(&token::Refused));
        }
        let name = path::instance(&self.key.tenant, &self.key.study, &next.instance, &next.sha256);
        self.now = Some(Open {
            sha256: next.sha256,
            pieces: self.blobs.stream(&name),
            piece: Bytes::new(),
            hash: Sha256::new(),
        });
        Ok(Some(Part::Begin(reference(&next))))
    }
}
