//! `AiDispatch` as a checker needs it: it serves one study for each request, well or badly, and counts.

use std::{collections::HashMap, io, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream, stream::BoxStream};
use isocenter_runtime::task::Tasks;
use isocenter_wire::v1::{
    FetchInstancesRequest, FetchInstancesResponse, GetServiceHealthRequest, GetServiceHealthResponse,
    InstanceEnd, InstanceReference,
    ai_dispatch_server::{AiDispatch, AiDispatchServer},
    fetch_instances_response::Part,
};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use tokio::{net::TcpListener, sync::watch};
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{Request, Response, Status};

/// The most bytes of a part, as Isocenter sends them.
const CHUNK: usize = 256 << 10;
/// The pause of a slow stream before each instance.
const PAUSE: Duration = Duration::from_secs(1);

/// How the pixels of a request are served.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Manner {
    /// As the contract says.
    Sound,
    /// With a pause before each instance.
    Slow,
    /// The first instance begins and nothing more comes.
    Stalled,
    /// With digests that do not fit.
    WrongDigest,
    /// Broken off in the middle of the first instance.
    Cut,
    /// The token is refused.
    Refused,
}

/// One instance to serve.
#[derive(Clone)]
pub(super) struct Served {
    pub reference: InstanceReference,
    pub file: Bytes,
}

/// What is served for one request id, and what was asked of it.
struct Task {
    token: String,
    manner: Manner,
    instances: Vec<Served>,
    seen: Seen,
}

/// What a vendor did about one request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// Streams that were begun.
    pub begun: u64,
    /// Streams that were refused, for a wrong token or an instance that the study does not have.
    pub refused: u64,
}

/// The server. Clones are the same.
#[derive(Clone)]
pub(super) struct Dispatcher {
    tasks: Arc<Mutex<HashMap<String, Task>>>,
    /// Counts the streams that were ever begun.
    begun: Arc<watch::Sender<u64>>,
}

impl Dispatcher {
    /// Listens at `bind` until `tasks` are cancelled; returns where.
    pub async fn start(bind: SocketAddr, tasks: &Tasks) -> io::Result<(Self, SocketAddr)> {
        let listener = TcpListener::bind(bind).await?;
        let address = listener.local_addr()?;
        let dispatcher = Self { tasks: Arc::default(), begun: Arc::new(watch::Sender::new(0)) };
        let (service, stop) = (AiDispatchServer::new(dispatcher.clone()), tasks.token());
        tasks.background("conformance dispatcher", async move {
            let server = tonic::transport::Server::builder().add_service(service);
            let serving = server.serve_with_incoming(TcpListenerStream::new(listener));
            // Stalled streams never end: they are dropped with the server.
            tokio::select! {
                ended = serving => if let Err(error) = ended {
                    tracing::error!(error = %isocenter_runtime::task::chain(&error), "conformance dispatcher ended");
                },
                () = stop.cancelled_owned() => {}
            }
        });
        Ok((dispatcher, address))
    }

    /// Serves `instances` for a request from now on.
    pub fn serve(&self, request_id: &str, token: &str, manner: Manner, instances: Vec<Served>) {
        let mut tasks = self.tasks.lock();
        let seen = tasks.get(request_id).map(|task| task.seen).unwrap_or_default();
        let task = Task { token: token.to_owned(), manner, instances, seen };
        tasks.insert(request_id.to_owned(), task);
    }

    /// What was asked for a request so far.
    pub fn seen(&self, request_id: &str) -> Seen {
        self.tasks.lock().get(request_id).map(|task| task.seen).unwrap_or_default()
    }

    /// How many streams were begun, now and in future.
    pub fn begun(&self) -> watch::Receiver<u64> {
        self.begun.subscribe()
    }

    fn open(&self, request: &FetchInstancesRequest) -> Result<(Manner, Vec<Served>), Status> {
        let mut tasks = self.tasks.lock();
        let wrong = || {
            Status::unauthenticated("the fetch_token is wrong, is not this request's, or its time is over")
        };
        let task = tasks.get_mut(&request.request_id).ok_or_else(wrong)?;
        let wanted = |served: &&Served| {
            let uids = &request.sop_instance_uids;
            uids.is_empty() || uids.contains(&served.reference.sop_instance_uid)
        };
        let chosen: Vec<Served> = task.instances.iter().filter(wanted).cloned().collect();
        if task.token != request.fetch_token || task.manner == Manner::Refused {
            task.seen.refused += 1;
            return Err(wrong());
        }
        if chosen.len() < request.sop_instance_uids.len() {
            task.seen.refused += 1;
            return Err(Status::not_found("the study revision has no such instance"));
        }
        task.seen.begun += 1;
        Ok((task.manner, chosen))
    }
}

type Item = Result<FetchInstancesResponse, Status>;

fn part(part: Part) -> Item {
    Ok(FetchInstancesResponse { part: Some(part) })
}

/// The parts of one instance.
fn parts(manner: Manner, served: &Served) -> Vec<Item> {
    let mut parts = vec![part(Part::Begin(served.reference.clone()))];
    if manner == Manner::Stalled {
        return parts;
    }
    let mut chunks = served.file.chunks(CHUNK).map(|chunk| part(Part::Chunk(served.file.slice_ref(chunk))));
    if manner == Manner::Cut {
        parts.extend(chunks.next());
        parts.push(Err(Status::unavailable("told to break off")));
        return parts;
    }
    parts.extend(chunks);
    let mut sha256 = Sha256::digest(&served.file).to_vec();
    if manner == Manner::WrongDigest {
        sha256[0] ^= 1;
    }
    parts.push(part(Part::End(InstanceEnd { sha256 })));
    parts
}

#[tonic::async_trait]
impl AiDispatch for Dispatcher {
    type FetchInstancesStream = BoxStream<'static, Item>;

    async fn fetch_instances(
        &self,
        request: Request<FetchInstancesRequest>,
    ) -> Result<Response<Self::FetchInstancesStream>, Status> {
        let (manner, chosen) = self.open(request.get_ref())?;
        self.begun.send_modify(|begun| *begun += 1);
        let sent = stream::iter(chosen).then(move |served| async move {
            if manner == Manner::Slow {
                tokio::time::sleep(PAUSE).await;
            }
            stream::iter(parts(manner, &served))
        });
        let sent = sent.flatten();
        Ok(Response::new(match manner {
            Manner::Stalled => sent.take(1).chain(stream::pending()).boxed(),
            Manner::Sound | Manner::Slow | Manner::WrongDigest | Manner::Cut | Manner::Refused => {
                sent.boxed()
            }
        }))
    }

    async fn get_service_health(
        &self,
        _: Request<GetServiceHealthRequest>,
    ) -> Result<Response<GetServiceHealthResponse>, Status> {
        Err(Status::unimplemented("a checker tells nothing of services"))
    }
}
