//! The network around the cluster: modalities, readers, a vendor, a record system. Each writes down what it was told.

mod modality;
mod reader;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use anyhow::{Context as _, Result};
use isocenter_peers::{
    LOOPBACK,
    receiver::Receiver,
    sample::Algorithm,
    study::Study,
    vendor::{Vendor, VendorConfig},
};
use isocenter_runtime::{clock, random, task::Tasks};
use isocenter_wire::v1::{
    self, ApplyPolicyRequest, PutRequest, RegistryEntry, registry_client::RegistryClient,
    registry_entry::Entry, routing_client::RoutingClient,
};
use parking_lot::Mutex;
use tokio::sync::watch;
use tonic::transport::Endpoint;

use crate::{
    cluster::{Cluster, Role},
    record::Recorder,
};

/// How long an entry may take to be registered while something is being killed.
const REGISTER: Duration = Duration::from_secs(60);

/// Reads everything that has images; a vendor looks at chest films.
const POLICY: &str = "
name: chaos
schema: 1
classes:
  ROUTINE: {deadline: 24h}
rules:
  - name: nothing-to-read
    when: image_count == 0
    read: false
  - name: chest-film
    when: \"('CR' in modalities || 'DX' in modalities) && body_part == 'CHEST'\"
    ai: [{service: opacity, timeout: 1m}]
default:
  class: ROUTINE
  read: true
  pools: [general]
  destinations: [\"site:{site}\"]
";

/// What the modalities send.
#[derive(Clone, Debug)]
pub struct Load {
    /// What is drawn follows from it.
    pub seed: u64,
    /// Studies per second in all, as a Poisson process per sender.
    pub rate: f64,
    /// Modalities that send at once.
    pub senders: usize,
    /// Readers.
    pub readers: usize,
    /// The share of reads that a reader gives back; the first reader gives none.
    pub returns: f64,
    /// Studies of real devices, sent once each among the synthetic ones.
    pub real: Vec<Study>,
}

/// The running peers.
#[derive(Debug)]
pub struct Peers {
    /// Everything they asked and were told.
    pub recorder: Recorder,
    /// The record system.
    pub receiver: Receiver,
    /// The vendor.
    pub vendor: Vendor,
    stop: watch::Sender<bool>,
    /// Modalities that have not finished yet.
    sending: watch::Receiver<usize>,
    studies: Arc<Mutex<BTreeSet<String>>>,
    tasks: Tasks,
}

impl Peers {
    /// Registers everybody and begins.
    ///
    /// # Errors
    /// If somebody cannot be registered.
    pub async fn start(cluster: &Cluster, load: &Load) -> Result<Self> {
        let tasks = cluster.tasks.child();
        let recorder = Recorder::new();
        let receiver = Receiver::start(LOOPBACK, clock::system(), &tasks).await?;
        let vendor = Vendor::start(LOOPBACK, VendorConfig::new(Algorithm::Opacity), &tasks).await?;
        for entry in entries(load, &receiver, &vendor) {
            register(cluster, entry).await?;
        }
        apply_policy(cluster).await?;
        let stop = watch::Sender::new(false);
        let (finished, sending) = watch::channel(load.senders);
        let studies = Arc::<Mutex<BTreeSet<String>>>::default();
        for n in 0..load.senders {
            let mut modality = modality::Sender::new(
                n,
                load,
                cluster.dicom.address(),
                recorder.clone(),
                Arc::clone(&studies),
            );
            let (stop, finished) = (stop.subscribe(), finished.clone());
            tasks.background("modality", async move {
                modality.run(stop).await;
                finished.send_modify(|left| *left -= 1);
            });
        }
        for n in 0..load.readers {
            let returns = if n == 0 { 0.0 } else { load.returns };
            let desk = reader::Desk::new(
                format!("r{n}"),
                &cluster.url(Role::ReaderAssignment),
                load.seed,
                returns,
                recorder.clone(),
            )?;
            desk.start(&tasks);
        }
        Ok(Self { recorder, receiver, vendor, stop, sending, studies, tasks })
    }

    /// No further studies; waits until each that was begun is acknowledged as a whole.
    ///
    /// # Errors
    /// If that takes longer than `patience`.
    pub async fn finish_sending(&mut self, patience: Duration) -> Result<()> {
        self.stop.send_replace(true);
        let finished = tokio::time::timeout(patience, self.sending.wait_for(|left| *left == 0)).await;
        finished.context("modalities are not answered")?.context("a modality has panicked")?;
        Ok(())
    }

    /// Every study of which anything was acknowledged or may have been.
    #[must_use]
    pub fn studies(&self) -> BTreeSet<String> {
        self.studies.lock().clone()
    }

    /// Ends the peers.
    pub async fn end(&self) {
        self.tasks.drain(Duration::from_secs(5)).await;
    }
}

fn entries(load: &Load, receiver: &Receiver, vendor: &Vendor) -> Vec<Entry> {
    let site =
        v1::Site { site_id: "north".to_owned(), ae_titles: vec!["NORTH".to_owned()], ..Default::default() };
    let destination = v1::Destination {
        destination_id: "north".to_owned(),
        mllp: receiver.address().to_string(),
        receiving_application: "RIS".to_owned(),
        receiving_facility: "NORTH".to_owned(),
        ..Default::default()
    };
    let pool = v1::Pool { pool_id: "general".to_owned(), ..Default::default() };
    let service = v1::AiService {
        service_id: "opacity".to_owned(),
        address: vendor.url(),
        receives: v1::AiReceives::Original.into(),
        max_concurrency: 2,
    };
    let mut entries = vec![
        Entry::Site(site),
        Entry::Destination(destination),
        Entry::Pool(pool),
        Entry::AiService(service),
    ];
    for n in 0..load.readers {
        let any = v1::Skill { modality: "*".to_owned(), body_part: "*".to_owned() };
        entries.push(Entry::Reader(v1::Reader {
            reader_id: format!("r{n}"),
            skills: vec![any],
            site_ids: vec!["*".to_owned()],
            pool_ids: vec!["general".to_owned()],
            ..Default::default()
        }));
    }
    entries
}

async fn register(cluster: &Cluster, entry: Entry) -> Result<()> {
    let request_id = random::uuid_v7().to_string();
    let request = PutRequest { entry: Some(RegistryEntry { entry: Some(entry) }), request_id };
    let channel = Endpoint::from_shared(cluster.url(Role::Routing))?.connect_lazy();
    let put = || {
        let (mut client, request) = (RegistryClient::new(channel.clone()), request.clone());
        async move { client.put(request).await }
    };
    until_answered(put).await
}

async fn apply_policy(cluster: &Cluster) -> Result<()> {
    let request = ApplyPolicyRequest { text: POLICY.to_owned(), request_id: random::uuid_v7().to_string() };
    let channel = Endpoint::from_shared(cluster.url(Role::Routing))?.connect_lazy();
    let apply = || {
        let (mut client, request) = (RoutingClient::new(channel.clone()), request.clone());
        async move { client.apply_policy(request).await }
    };
    until_answered(apply).await
}

/// Calls, with the same request id, until there is an answer.
async fn until_answered<T, F, Fut>(call: F) -> Result<()>
where
    F: Fn() -> Fut,
    Fut: Future<Output = Result<tonic::Response<T>, tonic::Status>>,
{
    let calling = async {
        loop {
            match call().await {
                Ok(_) => return anyhow::Ok(()),
                Err(status) if status.code() == tonic::Code::InvalidArgument => return Err(status.into()),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
    };
    tokio::time::timeout(REGISTER, calling).await.context("routing does not register")?
}
