//! Studies on their whole way through the roles of this process.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use futures::{StreamExt as _, stream};
use isocenter_peers::{LOOPBACK, receiver::Receiver};
use isocenter_runtime::{clock, task::Tasks};
use isocenter_store::{
    Event, Page, Range, WatchItem, WatchStream,
    table::{Tables, parse_outbox_key},
};
use isocenter_wire::{
    record::decode_event,
    v1::{
        Destination, NextReadRequest, OpenReadRequest, Pool, PutRequest, Reader, RegistryEntry,
        SetPresenceRequest, SignReadRequest, Site, Skill, reader_assignment_client::ReaderAssignmentClient,
        registry_client::RegistryClient, registry_entry::Entry,
    },
};
use parking_lot::Mutex;
use tokio::sync::{Semaphore, oneshot};
use tonic::transport::{Channel, Endpoint};

use super::feed::{CALLING, Feed, SITE};
use crate::{command::request_id, config::Config, serve::Running};

/// The pool of the default policy.
const POOL: &str = "general";
/// Signs of life of a reader.
const PRESENCE: Duration = Duration::from_secs(5);
/// Between looks at what is to become so.
const LOOK: Duration = Duration::from_millis(2);
/// Longer than this for one study, or for the outbox to be drained, and something is broken.
const PATIENCE: Duration = Duration::from_secs(120);

/// What the store's events tell.
struct Seen {
    /// Revisions that put an event.
    transitions: AtomicU64,
    /// One permit for each read that was made.
    reads: Semaphore,
    /// Who waits for the delivery of which case.
    delivered: Mutex<BTreeMap<String, oneshot::Sender<()>>>,
}

/// The network around the roles.
pub struct Flow {
    tables: Tables,
    feed: Feed,
    seen: Arc<Seen>,
    readers: ReaderAssignmentClient<Channel>,
    /// Keeps the receiver's address for as long as the flow.
    _receiver: Receiver,
}

/// What one round came to.
#[derive(Clone, Copy, Debug)]
pub struct Went {
    studies: u32,
    transitions: u64,
    took: Duration,
    /// The middle study's time from first image to acknowledgement.
    pub p50: Duration,
}

impl Went {
    /// Studies a second.
    pub fn studies_per_second(&self) -> f64 {
        f64::from(self.studies) / self.took.as_secs_f64()
    }

    /// Transitions a second.
    pub fn transitions_per_second(&self) -> f64 {
        self.transitions_per_study() * self.studies_per_second()
    }

    /// Transitions of a study.
    #[expect(clippy::cast_precision_loss, reason = "a count of some seconds' transitions")]
    pub fn transitions_per_study(&self) -> f64 {
        self.transitions as f64 / f64::from(self.studies)
    }
}

impl Flow {
    /// Registers a site, a destination, a pool and `readers` readers, who become present.
    pub async fn start(config: &Config, running: &Running, readers: u32, tasks: &Tasks) -> Result<Self> {
        let receiver = Receiver::start(LOOPBACK, clock::system(), tasks).await?;
        let channel = Endpoint::from_shared(format!("http://{}", running.listen))?.connect().await?;
        register(channel.clone(), &receiver, readers).await?;
        let blobs = isocenter_blobs::Blobs::open(&config.blobs.to_string_lossy())?;
        let tables = running.tables.clone();
        let seen = Arc::new(Seen {
            transitions: AtomicU64::new(0),
            reads: Semaphore::new(0),
            delivered: Mutex::default(),
        });
        let kv = tables.kv();
        let now = kv.status().await?.revision;
        let watch = kv.watch(&Range::prefix("outbox/")?, now.next()).await?;
        tasks.essential("outbox watch", watched(watch, Arc::clone(&seen)));
        let flow = Self {
            feed: Feed::new(tables.clone(), blobs)?,
            readers: ReaderAssignmentClient::new(channel),
            tables,
            seen,
            _receiver: receiver,
        };
        for n in 0..readers {
            tasks.background("presence", present(flow.readers.clone(), n));
        }
        Ok(flow)
    }

    /// `studies` studies by `clients` at once.
    pub async fn round(&self, clients: u32, studies: u32) -> Result<Went> {
        let left = AtomicU32::new(studies);
        let times = Mutex::new(Vec::new());
        let clock = self.tables.clock();
        let before = self.seen.transitions.load(Ordering::Relaxed);
        let began = clock.monotonic();
        let client = async |n: u32| -> Result<()> {
            let take = |left: u32| left.checked_sub(1);
            while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok() {
                let from = clock.monotonic();
                let gone = tokio::time::timeout(PATIENCE, self.study(n)).await;
                gone.context("a study has not come through in two minutes")??;
                times.lock().push(clock.monotonic() - from);
            }
            Ok(())
        };
        futures::future::try_join_all((0..clients).map(client)).await?;
        let took = clock.monotonic() - began;
        let transitions = self.seen.transitions.load(Ordering::Relaxed) - before;
        let mut times = times.into_inner();
        times.sort();
        let p50 = times.get(times.len() / 2).copied().unwrap_or_default();
        Ok(Went { studies, transitions, took, p50 })
    }

    /// Sends one study, reads one (this or another client's), and waits until the report of the one that was sent is
    /// accepted.
    async fn study(&self, n: u32) -> Result<()> {
        let (tell, told) = oneshot::channel();
        let case = self.feed.receive().await?;
        // Another client may read this study before this line is reached; to deliver its report takes five commits more.
        self.seen.delivered.lock().insert(case.as_str().to_owned(), tell);
        self.seen.reads.acquire().await?.forget();
        self.read(n).await?;
        told.await.context("the watch of the outbox has ended")
    }

    async fn read(&self, n: u32) -> Result<()> {
        let mut client = self.readers.clone();
        let reader_id = reader_id(n);
        let offered = loop {
            let request = NextReadRequest { reader_id: reader_id.clone(), request_id: request_id() };
            match client.next_read(request).await {
                Ok(answer) => match answer.into_inner().read {
                    Some(read) => break read,
                    None => tokio::time::sleep(LOOK).await,
                },
                // The reader's first sign of life, or the election, may be on its way.
                Err(status) if is_early(&status) => tokio::time::sleep(LOOK).await,
                Err(status) => return Err(status).context("NextRead"),
            }
        };
        let request = OpenReadRequest {
            read_id: offered.read_id,
            reader_id: reader_id.clone(),
            request_id: request_id(),
            reason: String::new(),
        };
        let open = client.open_read(request).await.context("OpenRead")?.into_inner();
        let request = SignReadRequest {
            read_id: open.read_id,
            reader_id,
            open_token: open.open_token,
            findings: "SYNTHETIC. No pixels, no finding.".into(),
            impression: "SYNTHETIC. Not a report of a person.".into(),
            request_id: request_id(),
            studies: open.studies,
            as_of: false,
            ..Default::default()
        };
        client.sign_read(request).await.context("SignRead")?;
        Ok(())
    }

    /// Waits until the archive has taken every event: what a round leaves behind must not be paid for in the next.
    pub async fn settled(&self) -> Result<()> {
        let range = Range::prefix("outbox/")?;
        let clock = self.tables.clock();
        let began = clock.monotonic();
        while clock.monotonic() - began < PATIENCE {
            let page = Page { limit: 1, ..Page::default() };
            if self.tables.kv().list(&range, page).await?.items.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(10 * LOOK).await;
        }
        bail!("the outbox was not drained in two minutes")
    }
}

fn reader_id(n: u32) -> String {
    format!("bench-{n}")
}

fn is_early(status: &tonic::Status) -> bool {
    matches!(status.code(), tonic::Code::FailedPrecondition | tonic::Code::Unavailable | tonic::Code::Aborted)
}

/// Counts, and tells who waits. Ends only with an error: without it nothing is measured.
async fn watched(mut watch: WatchStream, seen: Arc<Seen>) -> Result<(), isocenter_store::Error> {
    while let Some(item) = watch.next().await {
        let WatchItem::Events { events, .. } = item? else { continue };
        let mut puts = 0;
        for event in &events {
            let Event::Put(kv) = event else { continue };
            puts += 1;
            let Some((key, seq)) = parse_outbox_key(&kv.key) else { continue };
            if key.starts_with("read/") && seq == 1 {
                seen.reads.add_permits(1);
            }
            let Some(case) = key.strip_prefix("delivery/").and_then(|rest| rest.split('/').nth(2)) else {
                continue;
            };
            if decode_event(&key, seq, &kv.value).is_ok_and(|event| event.event == "accepted")
                && let Some(tell) = seen.delivered.lock().remove(case)
            {
                // A client that has given up needs no news.
                tell.send(()).unwrap_or_default();
            }
        }
        if puts > 0 {
            seen.transitions.fetch_add(1, Ordering::Relaxed);
        }
    }
    Err(isocenter_store::Error::Lost { why: "its stream ended".to_owned() })
}

/// Keeps a reader present until the peers end.
async fn present(mut client: ReaderAssignmentClient<Channel>, n: u32) {
    let signs = stream::unfold(true, move |first| async move {
        if !first {
            tokio::time::sleep(PRESENCE).await;
        }
        Some((SetPresenceRequest { reader_id: reader_id(n), accepting: true }, false))
    });
    if let Ok(answers) = client.set_presence(signs).await {
        let mut answers = answers.into_inner();
        while let Ok(Some(_)) = answers.message().await {}
    }
}

async fn register(channel: Channel, receiver: &Receiver, readers: u32) -> Result<()> {
    let mut registry = RegistryClient::new(channel);
    let mut entries = vec![
        Entry::Site(Site { site_id: SITE.into(), ae_titles: vec![CALLING.into()], ..Site::default() }),
        Entry::Pool(Pool { pool_id: POOL.into(), description: "everybody".into(), ..Pool::default() }),
        Entry::Destination(Destination {
            destination_id: SITE.into(),
            mllp: receiver.address().to_string(),
            receiving_application: "RIS".into(),
            receiving_facility: "BENCH".into(),
            ..Destination::default()
        }),
    ];
    entries.extend((0..readers).map(|n| {
        Entry::Reader(Reader {
            reader_id: reader_id(n),
            skills: vec![Skill { modality: "*".into(), body_part: "*".into() }],
            site_ids: vec!["*".into()],
            pool_ids: vec![POOL.into()],
            ..Reader::default()
        })
    }));
    for entry in entries {
        let entry = Some(RegistryEntry { entry: Some(entry) });
        registry.put(PutRequest { entry, request_id: request_id() }).await?;
    }
    Ok(())
}
