//! The system in one process: several replicas over one embedded store, each with its own view that fails by the seed, and
//! peers around it that speak only what the world speaks.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use isocenter_blobs::Blobs;
use isocenter_domain::id::{StudyUid, TenantId};
use isocenter_peers::{
    LOOPBACK,
    modality::{Modality, ModalityConfig},
    receiver::Receiver,
    study::Study,
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::{
    clock,
    config::{Period, Size},
    fs,
    metrics::Metrics,
    random::{self, Seeded},
    readiness::Readiness,
    secret::Secret,
    server::{self, Served},
    task::Tasks,
};
use isocenter_store::{
    Kv,
    embedded::{Embedded, EmbeddedOptions},
    faulty::{Faults, FaultyStore},
    members::Shares,
    space::Space,
    table::{Mirrors, Tables},
};
use isocenter_testkit::{NoSyncFs, wait_for};
use isocenter_wire::v1::{self, registry_entry::Entry};
use tempfile::TempDir;
use tonic::{
    service::RoutesBuilder,
    transport::{Channel, Endpoint},
};

use crate::calls::persist;

/// Far beyond anything here on an idle machine, so that a busy one fails nothing.
pub const PATIENCE: Duration = Duration::from_secs(60);

const CALLED: &str = "ISOCENTER";
const CALLING: &str = "NORTH_CT";

/// What a simulation sets otherwise than others.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Processes; the first runs every role, the others all but ingestion and archive.
    pub replicas: usize,
    /// How long an offer stands.
    pub offer: Duration,
    /// How long presence lasts without a sign of life.
    pub presence: Duration,
    /// How long a delivered case is left alone before it is closed.
    pub close_after: Duration,
    /// How long an analysis may take.
    pub ai_timeout: Duration,
    /// The address of the AI service `density`.
    pub ai: Option<String>,
    /// The registered readers.
    pub readers: &'static [&'static str],
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            replicas: 2,
            offer: Duration::from_secs(60),
            presence: Duration::from_secs(20),
            close_after: Duration::from_secs(3600),
            ai_timeout: Duration::from_secs(300),
            ai: None,
            readers: &["anna", "boris", "clara"],
        }
    }
}

/// One process.
struct Process {
    tasks: Tasks,
    store: Arc<FaultyStore>,
    server: String,
}

/// The running system. Ends with [`Sim::end`].
pub struct Sim {
    /// What the test draws from.
    pub rng: Seeded,
    /// The reference: the same store without faults.
    pub tables: Tables,
    /// The record system that takes the reports.
    pub receiver: Receiver,
    /// Where peers run; they end before the system does.
    pub peers: Tasks,
    settings: Settings,
    kv: Arc<dyn Kv>,
    processes: Vec<Process>,
    dicom: SocketAddr,
    channel: Channel,
    synthetic: Synthetic,
    folder: TempDir,
}

/// The only tenant.
pub fn tenant() -> TenantId {
    "default".parse().unwrap()
}

fn secret() -> Secret {
    Secret::new([7; 32])
}

async fn tables(kv: Arc<dyn Kv>) -> Tables {
    Tables::open(kv, clock::system(), "cell".parse().unwrap(), &secret()).await.unwrap()
}

impl Sim {
    /// Starts everything, without faults, and registers site, readers, pool, destination and policy.
    pub async fn start(seed: u64, settings: Settings) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // What survives a power cut is the store's own tests' matter; here syncing would only cost time.
        let mut options = EmbeddedOptions::new(folder.path().join("store"));
        options.fs = Arc::new(NoSyncFs(fs::os()));
        let kv: Arc<dyn Kv> = Arc::new(Embedded::open(options).await.unwrap());
        let rng = Seeded::new(seed);
        let peers = Tasks::new();
        let mut processes = Vec::new();
        let mut dicom = None;
        for n in 0..settings.replicas {
            let (process, listens) =
                process(&folder, &kv, n == 0, rng.fork(&format!("process {n}")), &settings).await;
            dicom = dicom.or(listens);
            processes.push(process);
        }
        let channel = connect(&processes[0].server);
        let sim = Self {
            tables: tables(Arc::clone(&kv)).await,
            receiver: Receiver::start(LOOPBACK, clock::system(), &peers).await.unwrap(),
            dicom: dicom.expect("the first process runs ingestion"),
            synthetic: Synthetic::new(seed),
            rng,
            peers,
            settings,
            kv,
            processes,
            channel,
            folder,
        };
        sim.register().await;
        sim
    }

    /// Stops the last replica and starts another in its place, which fails by draws of its own.
    pub async fn replace_replica(&mut self, faults: Faults) {
        let old = self.processes.pop().unwrap();
        stop(old).await;
        let rng = self.rng.fork("replacement");
        let (new, _) = process(&self.folder, &self.kv, false, rng, &self.settings).await;
        new.store.set(faults);
        self.processes.push(new);
    }

    /// From now on every process's store fails like this.
    pub fn faults(&self, faults: Faults) {
        self.processes.iter().for_each(|process| process.store.set(faults));
    }

    /// `http://host:port` of a process; the first is 0.
    pub fn server(&self, process: usize) -> &str {
        &self.processes[process].server
    }

    /// A connection to the first process.
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The next synthetic study.
    pub fn study(&mut self, kind: StudyKind) -> Study {
        self.synthetic.study(kind).unwrap().study
    }

    /// Sends a study until every image is answered with success.
    pub async fn send(&self, study: &Study) {
        let modality = Modality::new(ModalityConfig {
            attempts: 200,
            retry: Duration::from_millis(50),
            ..ModalityConfig::new(CALLING.parse().unwrap(), CALLED.parse().unwrap(), self.dicom.to_string())
        });
        for sent in modality.send_study(study).await {
            assert!(sent.is_stored(), "an image was not taken: {:?}", sent.outcome);
        }
    }

    /// What ingestion says of a study; `None` where there is none, as after it was closed.
    pub async fn seen(&self, study: &StudyUid) -> Option<v1::Study> {
        let client = v1::ingestion_client::IngestionClient::new(self.channel());
        let request = v1::GetStudyRequest { study_instance_uid: study.to_string() };
        let answer = persist("GetStudy", || {
            let (mut client, request) = (client.clone(), request.clone());
            async move { client.get_study(request).await }
        });
        match answer.await {
            Ok(study) => Some(study),
            Err(status) if status.code() == tonic::Code::NotFound => None,
            Err(status) => panic!("GetStudy: {status}"),
        }
    }

    /// Waits until `ready` holds of what ingestion says of a study.
    pub async fn until(&self, what: &str, study: &StudyUid, ready: impl Fn(&v1::Study) -> bool) {
        wait_for(what, PATIENCE, || async { self.seen(study).await.as_ref().is_some_and(&ready) }).await;
    }

    /// Waits until everything that is owed to a study at this revision is done.
    pub async fn until_delivered(&self, study: &StudyUid, revision: u32) {
        let delivered = |s: &v1::Study| s.stage() == v1::StudyStage::Delivered && s.revision == revision;
        self.until("the study to be delivered", study, delivered).await;
    }

    /// Ends peers and system; no task may have panicked or failed.
    pub async fn end(self) {
        self.faults(Faults::default());
        self.peers.drain(Duration::from_secs(20)).await;
        assert_eq!(self.peers.panics(), 0, "a peer panicked");
        for process in self.processes {
            stop(process).await;
        }
    }

    async fn register(&self) {
        let authority = "NORTH-HOSPITAL".to_owned();
        let mut entries = vec![
            Entry::Site(v1::Site {
                site_id: "north".into(),
                ae_titles: vec![CALLING.into()],
                authority,
                ..v1::Site::default()
            }),
            Entry::Destination(v1::Destination {
                destination_id: "north".into(),
                mllp: self.receiver.address().to_string(),
                receiving_application: "RIS".into(),
                receiving_facility: "NORTH".into(),
                ..Default::default()
            }),
            Entry::Pool(v1::Pool {
                pool_id: "center".into(),
                description: "all readers".into(),
                ..v1::Pool::default()
            }),
        ];
        entries.extend(self.settings.ai.iter().map(|address| {
            Entry::AiService(v1::AiService {
                service_id: "density".into(),
                address: address.clone(),
                receives: v1::AiReceives::Original.into(),
                max_concurrency: 2,
            })
        }));
        entries.extend(self.settings.readers.iter().map(|reader| {
            Entry::Reader(v1::Reader {
                reader_id: (*reader).into(),
                skills: vec![v1::Skill { modality: "*".into(), body_part: "*".into() }],
                site_ids: vec!["*".into()],
                pool_ids: vec!["center".into()],
                ..v1::Reader::default()
            })
        }));
        let client = v1::registry_client::RegistryClient::new(self.channel());
        for entry in entries {
            let entry = Some(v1::RegistryEntry { entry: Some(entry) });
            let request = v1::PutRequest { entry, request_id: unique() };
            let put = persist("Put", || {
                let (mut client, request) = (client.clone(), request.clone());
                async move { client.put(request).await }
            });
            put.await.unwrap();
        }
        let text = policy(self.settings.ai_timeout);
        let request = v1::ApplyPolicyRequest { text, request_id: unique() };
        let mut routing = v1::routing_client::RoutingClient::new(self.channel());
        routing.apply_policy(request).await.unwrap();
    }
}

/// Some images of a study, as a modality sends them that was interrupted.
pub fn part(study: &Study, images: std::ops::Range<usize>) -> Study {
    Study { study_uid: study.study_uid.clone(), instances: study.instances[images].to_vec() }
}

/// A request id.
pub fn unique() -> String {
    random::uuid_v7().to_string()
}

/// A lazy connection.
pub fn connect(server: &str) -> Channel {
    Endpoint::from_shared(server.to_owned()).unwrap().connect_lazy()
}

/// The policy of every simulation.
pub fn policy(ai_timeout: Duration) -> String {
    format!(
        "name: sim
schema: 1
classes:
  STAT:    {{deadline: 60m}}
  ROUTINE: {{deadline: 24h}}
rules:
  - name: nothing-to-read
    when: image_count == 0
    read: false
  - name: ordered-stat
    when: order_priority == 'S' || order_priority == 'STAT'
    class: STAT
  - name: mammography
    when: \"'MG' in modalities\"
    ai: [{{service: density, timeout: {}s}}]
default:
  class: ROUTINE
  read: true
  pools: [center]
  destinations: [\"site:{{site}}\"]
",
        ai_timeout.as_secs()
    )
}

async fn stop(process: Process) {
    process.tasks.drain(Duration::from_secs(20)).await;
    assert_eq!(process.tasks.panics(), 0, "a task panicked");
    if let Some(failure) = process.tasks.failure() {
        panic!("a role ended: {failure}");
    }
}

/// One process, built as the binary builds it.
async fn process(
    folder: &TempDir,
    kv: &Arc<dyn Kv>,
    first: bool,
    rng: Seeded,
    settings: &Settings,
) -> (Process, Option<SocketAddr>) {
    let (tasks, metrics) = (Tasks::new(), Metrics::new());
    let bound = server::bind(server::Options {
        streaming: &[isocenter_reader_assignment::STREAMING],
        ..server::Options::local(tenant())
    })
    .await
    .unwrap();
    let address = bound.address().to_string();
    let store = Arc::new(FaultyStore::new(Arc::clone(kv), Faults::default(), rng));
    let tables = tables(store.clone()).await;
    let mirrors = Mirrors::new(tables.clone(), &tasks);
    let blobs = Blobs::open(folder.path().join("blobs").to_str().unwrap()).unwrap();
    let roles = Roles { tables, mirrors, blobs, metrics: metrics.clone(), tasks: tasks.clone(), address };
    let mut routes = RoutesBuilder::default();
    let mut dicom = None;
    if first {
        dicom = Some(roles.ingestion(folder, &mut routes).await);
        roles.archive(folder, settings, &mut routes).await;
    }
    roles.others(settings, &mut routes);
    let (readiness, starting) = Readiness::new();
    bound.serve(&tasks, Served { grpc: routes.routes(), ..Served::default() }, &metrics, &readiness);
    drop(starting);
    let server = format!("http://{}", roles.address);
    (Process { tasks, store, server }, dicom)
}

/// What the roles of a process share.
struct Roles {
    tables: Tables,
    mirrors: Mirrors,
    blobs: Blobs,
    metrics: Metrics,
    tasks: Tasks,
    address: String,
}

impl Roles {
    async fn ingestion(&self, folder: &TempDir, routes: &mut RoutesBuilder) -> SocketAddr {
        let mut config = isocenter_ingestion::Config {
            spool: folder.path().join("spool"),
            drain: Period(Duration::from_secs(10)),
            ..isocenter_ingestion::Config::default()
        };
        config.dicom.listen = LOOPBACK;
        config.dicom.min_free = Size(0);
        config.study.quiet_period = Period(Duration::from_millis(200));
        let deps = isocenter_ingestion::Deps {
            tables: self.tables.clone(),
            mirrors: self.mirrors.clone(),
            shares: Shares::all(),
            space: Space::unlimited(),
            blobs: self.blobs.clone(),
            fs: fs::os(),
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
            secret: secret(),
        };
        let mut service = isocenter_ingestion::Service::build(config, deps).unwrap();
        let address = service.bind().await.unwrap();
        service.routes(routes);
        self.tasks.essential("ingestion", service.run());
        address
    }

    async fn archive(&self, folder: &TempDir, settings: &Settings, routes: &mut RoutesBuilder) {
        let records = folder.path().join("records.db");
        let records = isocenter_archive::Records::open(&format!("sqlite:{}", records.display())).await;
        let config = isocenter_archive::Config {
            journal_interval: Period(Duration::from_millis(100)),
            close_after: Period(settings.close_after),
            close_unread_after: Period(settings.close_after),
            settle: Period(Duration::ZERO),
            ..isocenter_archive::Config::default()
        };
        let deps = isocenter_archive::Deps {
            tables: self.tables.clone(),
            mirrors: self.mirrors.clone(),
            shares: Shares::all(),
            blobs: self.blobs.clone(),
            records: records.unwrap(),
            operator: tenant(),
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
        };
        let service = isocenter_archive::Service::build(config, deps).unwrap();
        service.routes(routes);
        self.tasks.essential("archive", service.run());
    }

    fn others(&self, settings: &Settings, routes: &mut RoutesBuilder) {
        let service = isocenter_routing::Service::build(
            isocenter_routing::Config::default(),
            isocenter_routing::Deps {
                tables: self.tables.clone(),
                mirrors: self.mirrors.clone(),
                shares: Shares::all(),
                blobs: self.blobs.clone(),
                metrics: self.metrics.clone(),
                tasks: self.tasks.clone(),
                secret: secret(),
            },
        )
        .unwrap();
        service.routes(routes);
        self.tasks.essential("routing", service.run());
        let ai = isocenter_ai_dispatch::Config {
            first_retry: Period(Duration::from_millis(50)),
            max_retry: Period(Duration::from_millis(500)),
            ..isocenter_ai_dispatch::Config::default()
        };
        let service = isocenter_ai_dispatch::Service::build(
            ai,
            isocenter_ai_dispatch::Deps {
                tables: self.tables.clone(),
                mirrors: self.mirrors.clone(),
                shares: Shares::all(),
                blobs: self.blobs.clone(),
                metrics: self.metrics.clone(),
                tasks: self.tasks.clone(),
                secret: secret(),
                fetch_address: format!("http://{}", self.address),
                tls: None,
            },
        )
        .unwrap();
        service.routes(routes);
        self.tasks.essential("ai-dispatch", service.run());
        self.reading(settings, routes);
    }

    fn reading(&self, settings: &Settings, routes: &mut RoutesBuilder) {
        let service = isocenter_reader_assignment::Service::build(
            isocenter_reader_assignment::Config {
                offer: Period(settings.offer),
                presence: Period(settings.presence),
            },
            isocenter_reader_assignment::Deps {
                tables: self.tables.clone(),
                mirrors: self.mirrors.clone(),
                shares: Shares::all(),
                blobs: self.blobs.clone(),
                metrics: self.metrics.clone(),
                tasks: self.tasks.clone(),
                address: self.address.clone(),
                nodes: isocenter_runtime::nodes::Nodes::default(),
            },
        )
        .unwrap();
        service.routes(routes);
        self.tasks.essential("reader-assignment", service.run());
        let delivery = isocenter_report_delivery::Config {
            hl7_ack_timeout: Period(Duration::from_secs(1)),
            first_retry: Period(Duration::from_millis(50)),
            max_retry: Period(Duration::from_millis(500)),
            ..isocenter_report_delivery::Config::default()
        };
        let service = isocenter_report_delivery::Service::build(
            delivery,
            isocenter_report_delivery::Deps {
                tables: self.tables.clone(),
                mirrors: self.mirrors.clone(),
                shares: Shares::all(),
                blobs: self.blobs.clone(),
                metrics: self.metrics.clone(),
                tls: None,
                tasks: self.tasks.clone(),
            },
        )
        .unwrap();
        service.routes(routes);
        self.tasks.essential("report-delivery", service.run());
    }
}
