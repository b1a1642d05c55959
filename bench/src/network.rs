//! A network around the processes: one site, a record system that takes its reports, and readers.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Result, ensure};
use isocenter_peers::{
    LOOPBACK,
    modality::{Modality, ModalityConfig},
    reader::{Reader, ReaderConfig},
    receiver::Receiver,
};
use isocenter_runtime::{clock, task::Tasks};
use isocenter_wire::v1::{
    self, Destination, Pool, PutRequest, RegistryEntry, Site, Skill, registry_client::RegistryClient,
    registry_entry::Entry,
};
use parking_lot::Mutex;
use tonic::transport::{Channel, Endpoint};

use crate::images;

/// The site, and the destination of its reports.
const SITE: &str = "bench";
/// Its modality.
const CALLING: &str = "BENCH";
/// The pool of the default policy.
const POOL: &str = "general";

/// The record system and the readers.
#[derive(Debug)]
pub struct Network {
    /// Takes the reports.
    pub receiver: Receiver,
    readers: Mutex<Vec<Reader>>,
}

/// A connection for clients.
pub async fn connect(url: &str) -> Result<Channel> {
    Ok(Endpoint::from_shared(url.to_owned())?.connect().await?)
}

impl Network {
    /// Registers the site with the server of `registry`.
    pub async fn start(registry: &str, tasks: &Tasks) -> Result<Self> {
        let receiver = Receiver::start(LOOPBACK, clock::system(), tasks).await?;
        let mut client = RegistryClient::new(connect(registry).await?);
        for entry in [
            Entry::Site(Site { site_id: SITE.into(), ae_titles: vec![CALLING.into()], ..Site::default() }),
            Entry::Pool(Pool { pool_id: POOL.into(), description: "everybody".into(), ..Pool::default() }),
            Entry::Destination(Destination {
                destination_id: SITE.into(),
                mllp: receiver.address().to_string(),
                receiving_application: "RIS".into(),
                receiving_facility: "BENCH".into(),
                ..Destination::default()
            }),
        ] {
            put(&mut client, entry).await?;
        }
        Ok(Self { receiver, readers: Mutex::default() })
    }

    /// Registers and starts readers who think for `think`.
    pub async fn read(
        &self,
        registry: &str,
        server: &str,
        count: u32,
        think: std::ops::Range<Duration>,
        tasks: &Tasks,
    ) -> Result<()> {
        let registry = connect(registry).await?;
        for n in 0..count {
            register(registry.clone(), n, POOL).await?;
            let config = ReaderConfig {
                think: think.clone(),
                ..ReaderConfig::new(reader_id(n).parse()?, server.to_owned(), u64::from(n))
            };
            self.readers.lock().push(Reader::start(config, tasks)?);
        }
        Ok(())
    }

    /// Reports signed so far.
    pub fn signed(&self) -> u64 {
        self.readers.lock().iter().map(|reader| reader.counts().signed).sum()
    }
}

/// A reader's name.
pub fn reader_id(n: u32) -> String {
    format!("bench-{n}")
}

/// Registers a reader of a pool who may have anything in it.
pub async fn register(registry: Channel, n: u32, pool: &str) -> Result<()> {
    let reader = v1::Reader {
        reader_id: reader_id(n),
        skills: vec![Skill { modality: "*".into(), body_part: "*".into() }],
        site_ids: vec!["*".into()],
        pool_ids: vec![pool.into()],
        ..v1::Reader::default()
    };
    put(&mut RegistryClient::new(registry), Entry::Reader(reader)).await
}

/// Sends one new study over an association of its own.
pub async fn send(dicom: SocketAddr) -> Result<()> {
    let config = ModalityConfig::new(CALLING.parse()?, "ISOCENTER".parse()?, dicom.to_string());
    let sent = Modality::new(config).send_study(&images::study()?).await;
    ensure!(
        sent.iter().all(isocenter_peers::modality::Sent::is_stored),
        "an instance was not stored: {sent:?}"
    );
    Ok(())
}

/// Sends `studies` studies, `rate` a second, each over an association of its own; none waits for the one before.
pub async fn send_steadily(dicom: SocketAddr, rate: f64, studies: u32) -> Result<()> {
    let mut tick = tokio::time::interval(Duration::from_secs_f64(1.0 / rate));
    let mut sending = tokio::task::JoinSet::new();
    for _ in 0..studies {
        tick.tick().await;
        sending.spawn(send(dicom));
    }
    while let Some(sent) = sending.join_next().await {
        sent??;
    }
    Ok(())
}

/// Sends `studies` studies, `at_once` at a time, as fast as they are taken.
pub async fn send_all(dicom: SocketAddr, studies: u32, at_once: usize) -> Result<()> {
    use futures::{StreamExt as _, TryStreamExt as _, stream};
    stream::iter(0..studies).map(|_| send(dicom)).buffer_unordered(at_once).try_collect::<Vec<()>>().await?;
    Ok(())
}

/// Puts an entry of the registry.
pub async fn put(client: &mut RegistryClient<Channel>, entry: Entry) -> Result<()> {
    let request_id = isocenter_runtime::random::uuid_v7().to_string();
    client.put(PutRequest { entry: Some(RegistryEntry { entry: Some(entry) }), request_id }).await?;
    Ok(())
}
