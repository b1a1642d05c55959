//! The modality against a storage SCP that keeps what it gets.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use isocenter_dimse::{
    Closed, Peer, Rejection, StorageAssociation, StorageService, StoreRequest, StoreSink, StoreStatus,
    scp::{Config, Listener},
};
use isocenter_domain::id::AeTitle;
use isocenter_peers::{
    LOOPBACK,
    modality::{Modality, ModalityConfig},
    study::Study,
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::task::{Drained, Tasks};
use parking_lot::Mutex;

/// What the SCP saw.
#[derive(Default)]
struct Seen {
    associations: usize,
    /// SOP Instance UID and data set.
    stored: Vec<(String, Vec<u8>)>,
    /// Answers to give before success.
    refusals: Vec<StoreStatus>,
}

#[derive(Clone, Default)]
struct Keeper(Arc<Mutex<Seen>>);

#[tonic::async_trait]
impl StorageService for Keeper {
    async fn admit(&self, _: &Peer) -> Result<Box<dyn StorageAssociation>, Rejection> {
        let mut seen = self.0.lock();
        seen.associations += 1;
        Ok(Box::new(self.clone()))
    }
}

#[tonic::async_trait]
impl StorageAssociation for Keeper {
    async fn store(&mut self, request: StoreRequest) -> Result<Box<dyn StoreSink>, StoreStatus> {
        if let Some(refusal) = self.0.lock().refusals.pop() {
            return Err(refusal);
        }
        Ok(Box::new(Sink { keeper: self.clone(), request, data: Vec::new() }))
    }

    async fn closed(self: Box<Self>, _: Closed) {}
}

struct Sink {
    keeper: Keeper,
    request: StoreRequest,
    data: Vec<u8>,
}

#[tonic::async_trait]
impl StoreSink for Sink {
    async fn write(&mut self, data: Bytes) -> Result<(), StoreStatus> {
        self.data.extend_from_slice(&data);
        Ok(())
    }

    async fn finish(self: Box<Self>) -> StoreStatus {
        let uid = self.request.sop_instance.to_string();
        self.keeper.0.lock().stored.push((uid, self.data));
        StoreStatus::SUCCESS
    }

    async fn abandon(self: Box<Self>) {}
}

async fn scp(tasks: &Tasks) -> (Keeper, String) {
    let keeper = Keeper::default();
    let listener = Listener::bind(Config::new(LOOPBACK)).await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (service, stop) = (Arc::new(keeper.clone()), tasks.token());
    tasks.background("scp", async move { listener.run(service, stop).await });
    (keeper, address)
}

fn modality(address: String) -> Modality {
    let ae = |title| AeTitle::new(title).unwrap();
    let config = ModalityConfig::new(ae("SYNTHETIC"), ae("ISOCENTER"), address);
    Modality::new(ModalityConfig { associations: 3, retry: Duration::from_millis(1), ..config })
}

fn studies() -> Vec<Study> {
    let all = Synthetic::new(11).mix(StudyKind::ALL.len()).unwrap();
    all.into_iter().map(|s| s.study).collect()
}

#[tokio::test]
async fn every_kind_of_study_arrives_byte_for_byte() {
    let tasks = Tasks::new();
    let (keeper, address) = scp(&tasks).await;
    let studies = studies();
    let sent = modality(address).send(&studies).await;

    let given: Vec<_> = studies.iter().flat_map(|s| &s.instances).collect();
    assert_eq!(sent.len(), given.len());
    assert_eq!(keeper.0.lock().associations, studies.len());
    let stored = std::mem::take(&mut keeper.0.lock().stored);
    assert_eq!(stored.len(), given.len());
    for (sent, given) in sent.iter().zip(given) {
        assert!(sent.is_stored(), "{:?}", sent.outcome);
        assert_eq!(sent.instance_uid, given.instance_uid);
        let (_, data) = stored.iter().find(|(uid, _)| uid == given.instance_uid.as_str()).unwrap();
        let file = given.read().await.unwrap();
        // Preamble, prefix and group length element, then as many bytes as that says (PS3.10 §7.1).
        let meta = u32::from_le_bytes(file[140..144].try_into().unwrap()) as usize;
        assert!(file[144 + meta..] == data[..], "{}: not the file's data set", given.instance_uid);
        use sha2::Digest as _;
        assert_eq!(sent.sha256, Some(sha2::Sha256::digest(&file).into()));
    }
    assert_eq!(tasks.drain(Duration::from_secs(20)).await, Drained::Clean);
}

#[tokio::test]
async fn what_is_refused_in_passing_is_offered_again_and_what_is_refused_for_good_is_not() {
    let tasks = Tasks::new();
    let (keeper, address) = scp(&tasks).await;
    let study = Synthetic::new(1).study(StudyKind::MgDense).unwrap().study;
    keeper.0.lock().refusals =
        vec![StoreStatus::cannot_understand("no"), StoreStatus::out_of_resources("full")];
    let sent = modality(address).send_study(&study).await;
    // The first object met A700 and was offered again, the second met C000.
    let codes: Vec<_> = sent.iter().map(|s| s.outcome.as_ref().unwrap().code()).collect();
    assert_eq!(codes, [0x0000, 0xC000, 0x0000, 0x0000]);
    assert_eq!(keeper.0.lock().associations, 2);
}

#[tokio::test]
async fn where_nobody_listens_every_object_says_so() {
    // Bound and not listening: nobody else can take the port.
    let silent = tokio::net::TcpSocket::new_v4().unwrap();
    silent.bind(LOOPBACK).unwrap();
    let address = silent.local_addr().unwrap().to_string();
    let study = Synthetic::new(1).study(StudyKind::CrChest).unwrap().study;
    let sent = modality(address).send_study(&study).await;
    let unsent = sent[0].outcome.as_ref().unwrap_err();
    assert!(unsent.retryable && unsent.why.starts_with("cannot connect"), "{unsent}");
}
