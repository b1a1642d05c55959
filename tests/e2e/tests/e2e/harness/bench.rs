//! A server and the network around it.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use isocenter_domain::id::{AeTitle, ReaderId};
use isocenter_peers::{
    LOOPBACK,
    modality::{Modality, ModalityConfig, Sent},
    reader::{Reader, ReaderConfig},
    receiver::Receiver,
    study::Study,
};
use isocenter_runtime::{clock, task::Tasks};
use isocenter_wire::v1::{
    self, Delivery, ListDeliveriesRequest, ListStudiesRequest, PutRequest, ReconcileRequest,
    ReconcileResponse, RegistryEntry, StudyStage, archive_client::ArchiveClient,
    ingestion_client::IngestionClient, registry_client::RegistryClient, registry_entry::Entry,
    report_delivery_client::ReportDeliveryClient,
};
use tempfile::TempDir;
use tonic::transport::Channel;

use super::{PATIENCE, Server};

/// A server in a folder of its own, and the tasks of its peers.
#[derive(Debug)]
pub struct Bench {
    /// The server. It goes before its folder does.
    pub server: Server,
    /// What the peers run on, until the test ends.
    pub tasks: Tasks,
    folder: TempDir,
}

/// Registers something.
pub async fn registry(channel: Channel, entry: Entry) {
    let request_id = isocenter_runtime::random::uuid_v7().to_string();
    let request = PutRequest { entry: Some(RegistryEntry { entry: Some(entry) }), request_id };
    RegistryClient::new(channel).put(request).await.unwrap();
}

impl Bench {
    /// Starts a server; `more` are further flags.
    pub async fn start(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(folder.path(), more).await;
        Self { server, tasks: Tasks::new(), folder }
    }

    /// Ends the server without warning and starts another one on the same folders.
    pub async fn restart(&mut self, more: &[&str]) {
        // The folders are locked by one process at a time: the first has to be gone before the next starts.
        self.server.kill().await;
        self.server = Server::start(self.folder.path(), more).await;
    }

    /// A path within the server's folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Registers a site whose devices call themselves by its id in upper case, and starts its record system.
    pub async fn site(&self, id: &str) -> Receiver {
        let site =
            v1::Site { site_id: id.to_owned(), ae_titles: vec![id.to_uppercase()], ..Default::default() };
        registry(self.server.channel(), Entry::Site(site)).await;
        let receiver = Receiver::start(LOOPBACK, clock::system(), &self.tasks).await.unwrap();
        let destination = v1::Destination {
            destination_id: id.to_owned(),
            mllp: receiver.address().to_string(),
            receiving_application: "RIS".to_owned(),
            receiving_facility: id.to_uppercase(),
            ..Default::default()
        };
        registry(self.server.channel(), Entry::Destination(destination)).await;
        receiver
    }

    /// Registers a reader of everything and seats it at a workstation that speaks to `url`.
    pub async fn reader_at(&self, url: String, id: &str, seed: u64) -> Reader {
        let pool = v1::Pool { pool_id: "general".to_owned(), ..Default::default() };
        registry(self.server.channel(), Entry::Pool(pool)).await;
        let any = v1::Skill { modality: "*".to_owned(), body_part: "*".to_owned() };
        let reader = v1::Reader {
            reader_id: id.to_owned(),
            skills: vec![any],
            site_ids: vec!["*".to_owned()],
            pool_ids: vec!["general".to_owned()],
            ..Default::default()
        };
        registry(self.server.channel(), Entry::Reader(reader)).await;
        let config = ReaderConfig {
            think: Duration::from_millis(1)..Duration::from_millis(20),
            ..ReaderConfig::new(ReaderId::new(id).unwrap(), url, seed)
        };
        Reader::start(config, &self.tasks).unwrap()
    }

    /// As [`Bench::reader_at`], at the server itself.
    pub async fn reader(&self, id: &str, seed: u64) -> Reader {
        self.reader_at(self.server.url(), id, seed).await
    }

    /// A modality that calls the server by `calling`.
    pub fn modality(&self, calling: &str) -> ModalityConfig {
        let title = |text: &str| AeTitle::new(text).unwrap();
        ModalityConfig::new(title(calling), title("ISOCENTER"), self.server.dicom())
    }

    /// Sends studies as a device of `site`; panics where one object is not stored.
    pub async fn send(&self, site: &str, studies: &[Study]) -> Vec<Sent> {
        let sent = Modality::new(self.modality(&site.to_uppercase())).send(studies).await;
        let refused: Vec<_> = sent.iter().filter(|sent| !sent.is_stored()).collect();
        assert!(refused.is_empty(), "{refused:?}");
        sent
    }

    /// Every live study, by UID.
    pub async fn studies(&self) -> BTreeMap<String, v1::Study> {
        studies(self.server.channel()).await.unwrap()
    }

    /// Waits until each of these studies is delivered, closed, or has nothing to be read.
    pub async fn settled(&self, uids: &BTreeSet<String>, patience: Duration) -> BTreeMap<String, v1::Study> {
        until_settled(self.server.channel(), uids, patience).await
    }

    /// Every live delivery.
    pub async fn deliveries(&self) -> Vec<Delivery> {
        let mut client = ReportDeliveryClient::new(self.server.channel());
        let mut request = ListDeliveriesRequest { page_size: 1000, ..Default::default() };
        let mut found = Vec::new();
        loop {
            let page = client.list_deliveries(request.clone()).await.unwrap().into_inner();
            found.extend(page.deliveries);
            if page.next_page_token.is_empty() {
                return found;
            }
            request.page_token = page.next_page_token;
        }
    }

    /// Waits until a comparison of `studies` studies finds no difference; then `isocenter reconcile` says the same.
    pub async fn reconciled(&self, studies: usize) {
        let mut client = ArchiveClient::new(self.server.channel());
        let mut last = None;
        let agreed = async {
            loop {
                let answer =
                    client.reconcile(ReconcileRequest::default()).await.map(tonic::Response::into_inner);
                let agrees = answer.as_ref().is_ok_and(|answer| agrees(answer, studies));
                last = Some(answer);
                if agrees {
                    return;
                }
                // What is under way is not compared; it settles by itself.
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, agreed).await;
        assert!(waited.is_ok(), "{studies} studies are not reconciled: {last:?}");
        let told = self.server.cli(&["reconcile", "--json"]).await.json();
        assert_eq!(told["differences"], serde_json::json!([]), "{told}");
    }
}

/// Whether nothing differs and `studies` studies were compared.
fn agrees(answer: &ReconcileResponse, studies: usize) -> bool {
    let compared = answer.checked.iter().find(|checked| checked.kind == "study");
    answer.differences.is_empty() && compared.is_some_and(|checked| checked.count >= studies as u64)
}

/// Every live study, by UID.
async fn studies(channel: Channel) -> Result<BTreeMap<String, v1::Study>, tonic::Status> {
    let mut client = IngestionClient::new(channel);
    let mut request = ListStudiesRequest { page_size: 1000, ..Default::default() };
    let mut found = BTreeMap::new();
    loop {
        let page = client.list_studies(request.clone()).await?.into_inner();
        found.extend(page.studies.into_iter().map(|study| (study.study_instance_uid.clone(), study)));
        if page.next_page_token.is_empty() {
            return Ok(found);
        }
        request.page_token = page.next_page_token;
    }
}

/// Waits until each of these studies is delivered, closed, or has nothing to be read.
///
/// # Panics
/// After `patience`, naming the stages of those that are not.
async fn until_settled(
    channel: Channel,
    uids: &BTreeSet<String>,
    patience: Duration,
) -> BTreeMap<String, v1::Study> {
    let mut last = BTreeMap::new();
    let settled = async {
        loop {
            // A study that is not listed was never seen; one more look later.
            if let Ok(found) = studies(channel.clone()).await {
                last = found;
            }
            if uids.iter().all(|uid| last.get(uid).is_some_and(is_settled)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    let waited = tokio::time::timeout(patience, settled).await;
    let open = uids.iter().filter(|uid| !last.get(*uid).is_some_and(is_settled));
    let open: Vec<_> = open.map(|uid| (uid, last.get(uid).map(|s| (s.stage(), s.revision)))).collect();
    assert!(waited.is_ok(), "{} of {} studies are not settled: {open:?}", open.len(), uids.len());
    last
}

fn is_settled(study: &v1::Study) -> bool {
    matches!(study.stage(), StudyStage::Delivered | StudyStage::NothingToRead | StudyStage::Closed)
}
