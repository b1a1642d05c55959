//! A cell of one process: store, blobs, AI dispatch behind a real port; and what other roles would have written.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use isocenter_ai_dispatch::{Config, Deps, Service};
use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Time,
    access::{Principal, Role},
    document::{Images, Instance, Manifest, Series},
    id::{AiServiceId, CaseId, ReadId, TenantId},
    key::{AiTaskKey, PlanKey, ReadKey, RegistryItem, RegistryKey, StudyKey},
    record::{
        ai_task::{AiTask, AiTaskState},
        plan::{AiRequest, Plan, Reading},
        read::{Read, ReadKind, ReadState},
        registry::{AiService, Entry},
        study::{Evidence, Facts, Study, StudyState},
    },
    refs::Digest,
};
use isocenter_runtime::{clock, config::Period, metrics::Metrics, secret::Secret, task::Tasks, tls};
use isocenter_store::{
    Kv,
    embedded::{Embedded, EmbeddedOptions},
    members::Shares,
    table::{Cause, Mirrors, Stored, Tables},
};
use isocenter_testkit::wait_for;
use isocenter_wire::document::Stored as _;
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;

/// The study's trace.
pub const TRACE: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";

pub struct World {
    pub tables: Tables,
    pub blobs: Blobs,
    pub secret: Secret,
    /// Of vendors and clients; the test's own.
    pub tasks: Tasks,
    _folder: tempfile::TempDir,
}

/// A running AI dispatch.
pub struct Running {
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub address: String,
}

impl Running {
    pub async fn stop(self) {
        self.tasks.drain(Duration::from_secs(5)).await;
    }
}

pub fn config() -> Config {
    let ms = |ms| Period(Duration::from_millis(ms));
    Config {
        first_retry: ms(10),
        max_retry: ms(20),
        claim: Period(Duration::from_secs(30)),
        ..Config::default()
    }
}

pub fn tenant() -> TenantId {
    "t".parse().unwrap()
}

pub fn study_key() -> StudyKey {
    StudyKey { tenant: tenant(), study: "1.2.3".parse().unwrap() }
}

pub fn task_key(service: &str, revision: u32) -> AiTaskKey {
    let StudyKey { tenant, study } = study_key();
    AiTaskKey { tenant, study, service: service.parse().unwrap(), revision }
}

/// The content of an instance; the largest is more than one piece of blobs and not a multiple of a chunk.
pub fn content(instance: &str) -> Vec<u8> {
    let len = if instance.ends_with(".1") { (1 << 20) + (300 << 10) + 7 } else { 1000 };
    instance.bytes().cycle().take(len).collect()
}

pub fn instance(uid: &str, number: i64) -> Instance {
    let bytes = content(uid);
    Instance {
        sop_class: "1.2.840.10008.5.1.4.1.1.1".parse().unwrap(),
        instance: uid.parse().unwrap(),
        transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
        size: bytes.len() as u64,
        sha256: Digest::of(&bytes),
        data_set: Digest::of(&bytes),
        number,
        frames: 1,
        image: true,
    }
}

/// Two series, whose numbers do not follow their UIDs.
pub fn images() -> Images {
    let series = |number, modality: &str, instances: [Instance; 2]| Series {
        modality: modality.into(),
        body_part: "CHEST".into(),
        number,
        instances: instances.into_iter().map(|i| (i.instance.clone(), i)).collect::<BTreeMap<_, _>>(),
    };
    let first = series(2, "CR", [instance("1.2.3.1.1", 9), instance("1.2.3.1.2", 1)]);
    let second = series(1, "DX", [instance("1.2.3.2.5", 1), instance("1.2.3.2.6", 2)]);
    let series = [("1.2.3.1".parse().unwrap(), first), ("1.2.3.2".parse().unwrap(), second)].into();
    Images { series, ..Images::default() }
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kv = Embedded::open(EmbeddedOptions::new(folder.path().join("store"))).await.unwrap();
        let (kv, secret): (Arc<dyn Kv>, _) = (Arc::new(kv), Secret::new([1; 32]));
        let tables = Tables::open(kv, clock::system(), "cell".parse().unwrap(), &secret).await.unwrap();
        let blobs = Blobs::open(folder.path().join("blobs").to_str().unwrap()).unwrap();
        Self { tables, blobs, secret, tasks: Tasks::new(), _folder: folder }
    }

    /// Starts AI dispatch on a port of its own, where every caller may do anything.
    pub async fn start(&self, config: Config) -> Running {
        self.start_as(config, Role::Developer).await
    }

    /// The same, where every caller has this role.
    pub async fn start_as(&self, config: Config, role: Role) -> Running {
        self.start_full(config, role, None).await
    }

    /// The same, with certificates for services that want them.
    pub async fn start_full(&self, config: Config, role: Role, tls: Option<tls::Client>) -> Running {
        let tasks = Tasks::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let metrics = Metrics::new();
        let deps = Deps {
            tables: self.tables.clone(),
            mirrors: Mirrors::new(self.tables.clone(), &tasks),
            shares: Shares::all(),
            blobs: self.blobs.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            secret: self.secret.clone(),
            fetch_address: address.clone(),
            tls,
        };
        let service = Service::build(config, deps).unwrap();
        let mut routes = tonic::service::RoutesBuilder::default();
        service.routes(&mut routes);
        let identity = Principal { subject: "dev".into(), tenant: tenant(), role };
        let principal = tonic::service::InterceptorLayer::new(move |mut request: tonic::Request<()>| {
            request.extensions_mut().insert(identity.clone());
            Ok(request)
        });
        let server = tonic::transport::Server::builder().layer(principal).add_routes(routes.routes());
        let ended = tasks.token();
        tasks.background("server", async move {
            tokio::select! {
                served = server.serve_with_incoming(TcpListenerStream::new(listener)) => served.unwrap(),
                () = ended.cancelled() => {}
            }
        });
        tasks.essential("ai-dispatch", service.run());
        Running { tasks, metrics, address }
    }

    /// As routing registers a service.
    pub async fn register(
        &self,
        service: &str,
        address: &str,
        max_concurrency: u32,
        receives_original: bool,
    ) {
        let key = RegistryKey { tenant: tenant(), item: RegistryItem::Ai(service.parse().unwrap()) };
        let entry = Entry::Ai(AiService { address: address.to_owned(), receives_original, max_concurrency });
        let mut change = self.tables.change(Cause::role("test"));
        match self.tables.load::<Entry>(&key).await.unwrap() {
            Some(current) => change.update(&current, &entry, "put"),
            None => change.create(&key, &entry, "put", ""),
        }
        change.commit().await.unwrap();
    }

    /// As ingestion completes revision `revision` of `key`.
    pub async fn complete(&self, key: &StudyKey, revision: u32, images: Images) {
        let manifest = Manifest {
            study: key.study.clone(),
            revision,
            site: "north".parse().unwrap(),
            complete_at: Time(1),
            images,
        };
        let bytes = manifest.encode();
        let name = path::manifest(&key.tenant, &key.study, revision);
        self.blobs.put_new(&name, bytes.clone().into()).await.unwrap();
        let mut study = Study::receiving("north".parse().unwrap(), "CR1".parse().unwrap(), Time(1));
        study.revision = revision;
        study.manifest = Some(Digest::of(&bytes));
        study.state = StudyState::Complete { evidence: Evidence::QuietPeriod, doubt: None };
        study.facts = Facts::default();
        let mut change = self.tables.change(Cause::role("test"));
        match self.tables.load::<Study>(key).await.unwrap() {
            Some(current) => change.update(&current, &study, "completed"),
            None => change.create(key, &study, "completed", TRACE),
        }
        change.commit().await.unwrap();
    }

    /// As routing plans revision `revision` of `key`.
    pub async fn plan(&self, key: &StudyKey, revision: u32, services: &[&str], timeout: Duration) {
        let request = |s: &&str| AiRequest { service: s.parse::<AiServiceId>().unwrap(), timeout };
        let plan = Plan {
            revision,
            policy: Digest::of(b"policy"),
            reading: Reading::Case(CaseId::of(&key.tenant, &key.study)),
            ai: services.iter().map(request).collect(),
            destinations: vec![],
            rules: vec![],
        };
        let plan_key = PlanKey { tenant: key.tenant.clone(), study: key.study.clone() };
        let mut change = self.tables.change(Cause::role("test"));
        match self.tables.load::<Plan>(&plan_key).await.unwrap() {
            Some(current) => change.update(&current, &plan, "planned"),
            None => change.create(&plan_key, &plan, "planned", TRACE),
        }
        change.commit().await.unwrap();
    }

    /// The usual study, revision 1, with its pixels, to be analysed by `services`.
    pub async fn study(&self, services: &[&str], timeout: Duration) {
        let images = images();
        for (_, _, i) in images.instances() {
            let name = path::instance(&tenant(), &study_key().study, &i.instance, &i.sha256);
            self.blobs.put_new(&name, content(i.instance.as_str()).into()).await.unwrap();
        }
        self.complete(&study_key(), 1, images).await;
        self.plan(&study_key(), 1, services, timeout).await;
    }

    /// As reader assignment has a read of the case.
    pub async fn read(&self, state: ReadState) {
        let case = CaseId::of(&tenant(), &study_key().study);
        let key = ReadKey { tenant: tenant(), read: ReadId { case, n: 1 } };
        let read = Read { state, ..Read::waiting(ReadKind::Primary, Time(1)) };
        let mut change = self.tables.change(Cause::role("test"));
        match self.tables.load::<Read>(&key).await.unwrap() {
            Some(current) => change.update(&current, &read, "changed"),
            None => change.create(&key, &read, "created", TRACE),
        }
        change.commit().await.unwrap();
    }

    pub async fn task(&self, service: &str, revision: u32) -> Option<Stored<AiTask>> {
        self.tables.load(&task_key(service, revision)).await.unwrap()
    }

    /// Waits until `enough` holds of the task.
    pub async fn until(
        &self,
        service: &str,
        revision: u32,
        enough: impl Fn(&AiTask) -> bool,
    ) -> Stored<AiTask> {
        let what = format!("the task of {service} for revision {revision}");
        let enough = &enough;
        wait_for(&what, Duration::from_secs(15), || async move {
            self.task(service, revision).await.is_some_and(|task| enough(&task.record))
        })
        .await;
        self.task(service, revision).await.unwrap()
    }

    /// Waits until the task is over.
    pub async fn settled(&self, service: &str) -> AiTask {
        self.until(service, 1, AiTask::settled).await.record
    }
}

pub fn dispatched(task: &AiTask) -> bool {
    matches!(task.state, AiTaskState::Dispatched { .. })
}
