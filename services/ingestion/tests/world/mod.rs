//! What the tests of whole nodes stand on.

use std::{
    collections::BTreeSet,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use isocenter_blobs::{Blobs, path};
use isocenter_dimse::{
    Scu, StoreStatus,
    part10::FileMeta,
    scu::{ProposedContext, ScuError, Source},
};
use isocenter_domain::{
    access::{Principal, Role},
    document::{Images, Manifest},
    id::{AeTitle, NodeId, TenantId},
    key::{IntakeKey, RegistryItem, RegistryKey, StudyKey},
    record::{
        intake::Intake,
        registry::{Entry, Site},
        study::{Study, StudyState},
    },
    refs::Digest,
};
use isocenter_ingestion::{Assembly, Config, Deps, Dicom, Service};
use isocenter_peers::{
    LOOPBACK,
    study::{Content, Instance},
    synthetic::{StudyKind, Synthetic, SyntheticStudy},
};
use isocenter_runtime::{
    clock,
    config::{Period, Size},
    fs,
    metrics::Metrics,
    random::Seeded,
    secret::Secret,
    task::Tasks,
};
use isocenter_store::{
    Kv,
    embedded::{Embedded, EmbeddedOptions},
    faulty::{Faults, FaultyStore},
    members::Shares,
    space::Space,
    table::{Cause, Mirrors, Tables},
};
use isocenter_testkit::wait_for;
use isocenter_wire::{document::Stored as _, v1::ingestion_client::IngestionClient};
use tempfile::TempDir;
use tonic::service::{Routes, RoutesBuilder, interceptor::InterceptedService};

pub const SOON: Duration = Duration::from_secs(15);

/// What outlives a node: store, blobs and the folders of the spools.
pub struct World {
    pub folder: TempDir,
    pub store: Arc<FaultyStore>,
    pub tables: Tables,
    pub blobs: Blobs,
}

/// A node that runs.
pub struct Node {
    pub id: NodeId,
    pub address: SocketAddr,
    pub tasks: Tasks,
    pub metrics: Metrics,
    pub routes: Routes,
}

pub fn tenant() -> TenantId {
    "net".parse().unwrap()
}

pub fn ae(text: &str) -> AeTitle {
    text.parse().unwrap()
}

impl World {
    #[expect(clippy::print_stdout, reason = "a failed test shows the seed with which it is repeated")]
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = Embedded::open(EmbeddedOptions::new(folder.path().join("store"))).await.unwrap();
        let rng = Seeded::fresh();
        println!("seed of the store's faults: {}", rng.seed());
        Self::over(folder, Arc::new(store), rng).await
    }

    pub async fn over(folder: TempDir, store: Arc<dyn Kv>, rng: Seeded) -> Self {
        let store = Arc::new(FaultyStore::new(store, Faults::default(), rng));
        let secret = Secret::new([1; 32]);
        let cell = "cell".parse().unwrap();
        let tables =
            Tables::open(Arc::<FaultyStore>::clone(&store), clock::system(), cell, &secret).await.unwrap();
        let blobs = Blobs::open(folder.path().join("blobs").to_str().unwrap()).unwrap();
        let world = Self { folder, store, tables, blobs };
        let site =
            Site { ae_titles: vec![ae("CT1"), ae("CR1")], authority: "NORTH-MPI".into(), ..Site::default() };
        let key = RegistryKey { tenant: tenant(), item: RegistryItem::Site("north".parse().unwrap()) };
        let mut change = world.tables.change(Cause::role("test"));
        change.create(&key, &Entry::Site(site), "put", "");
        change.commit().await.unwrap();
        world
    }

    pub fn spool(&self, name: &str) -> PathBuf {
        self.folder.path().join("spools").join(name)
    }

    pub async fn node(&self, spool: &str) -> Node {
        let dicom = Dicom { listen: LOOPBACK, min_free: Size(0), ..Dicom::default() };
        self.node_with(self.spool(spool), fs::os(), dicom, Duration::from_secs(60)).await
    }

    pub async fn node_with(
        &self,
        spool: PathBuf,
        fs: Arc<dyn fs::Fs>,
        dicom: Dicom,
        bound: Duration,
    ) -> Node {
        self.node_over(spool, fs, dicom, bound, Space::unlimited()).await
    }

    pub async fn node_over(
        &self,
        spool: PathBuf,
        fs: Arc<dyn fs::Fs>,
        dicom: Dicom,
        bound: Duration,
        space: Space,
    ) -> Node {
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        let config = Config {
            spool,
            dicom,
            study: Assembly { quiet_period: Period(Duration::from_millis(300)), max_assembly: Period(bound) },
            drain: Period(Duration::from_secs(5)),
        };
        let deps = Deps {
            tables: self.tables.clone(),
            mirrors: Mirrors::new(self.tables.clone(), &tasks),
            shares: Shares::all(),
            space,
            blobs: self.blobs.clone(),
            fs,
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            secret: Secret::new([1; 32]),
        };
        let mut service = Service::build(config, deps).unwrap();
        let mut routes = RoutesBuilder::default();
        service.routes(&mut routes);
        let address = service.bind().await.unwrap();
        let id = service.node().clone();
        tasks.essential("ingestion", service.run());
        Node { id, address, tasks, metrics, routes: routes.routes() }
    }

    pub async fn study(&self, key: &StudyKey) -> Option<Study> {
        self.tables.load::<Study>(key).await.unwrap().map(|stored| stored.record)
    }

    pub async fn intake(&self, key: &StudyKey, node: &NodeId) -> Option<Intake> {
        let key = IntakeKey { tenant: key.tenant.clone(), study: key.study.clone(), node: node.clone() };
        self.tables.load::<Intake>(&key).await.unwrap().map(|stored| stored.record)
    }

    /// Waits for a complete revision and answers it with its manifest.
    pub async fn complete(&self, key: &StudyKey, revision: u32) -> (Study, Manifest) {
        wait_for("a complete revision", SOON, async || {
            self.study(key).await.is_some_and(|study| {
                study.revision >= revision && matches!(study.state, StudyState::Complete { .. })
            })
        })
        .await;
        let study = self.study(key).await.unwrap();
        assert_eq!(study.revision, revision);
        let path = path::manifest(&key.tenant, &key.study, revision);
        let bytes = self.blobs.get_checked(&path, &study.manifest.unwrap()).await.unwrap();
        (study, Manifest::decode(&bytes).unwrap())
    }
}

impl Node {
    pub async fn associate(&self, calling: &str, files: &[Bytes]) -> Result<Scu, ScuError> {
        let contexts: Vec<_> = files.iter().map(context).collect();
        Scu::connect(self.address, &ae(calling), &ae("ISOCENTER"), &contexts).await
    }

    /// Sends files on one association, and releases it.
    pub async fn send(&self, files: &[Bytes]) -> Vec<StoreStatus> {
        let mut scu = self.associate("CT1", files).await.unwrap();
        let mut answers = Vec::new();
        for file in files {
            answers.push(scu.store(Source::Bytes(file.clone())).await.unwrap());
        }
        scu.release().await.unwrap();
        answers
    }

    pub async fn sends(&self, files: &[Bytes]) {
        assert!(self.send(files).await.iter().all(|status| *status == StoreStatus::SUCCESS));
    }

    pub fn metric(&self, line: &str) -> bool {
        self.metrics.render().unwrap().lines().any(|l| l == format!("isocenter_ingestion_{line}"))
    }

    pub async fn shows(&self, line: &str) {
        wait_for(line, SOON, async || self.metric(line)).await;
    }

    /// A client within the process, of a caller that `server` would have identified as a developer of `tenant`.
    pub fn client(
        &self,
        tenant: TenantId,
    ) -> IngestionClient<InterceptedService<Routes, impl tonic::service::Interceptor + use<>>> {
        self.client_of(Principal { subject: "dev".into(), tenant, role: Role::Developer })
    }

    /// The same of any caller.
    pub fn client_of(
        &self,
        principal: Principal,
    ) -> IngestionClient<InterceptedService<Routes, impl tonic::service::Interceptor + use<>>> {
        IngestionClient::with_interceptor(self.routes.clone(), move |mut request: tonic::Request<()>| {
            request.extensions_mut().insert(principal.clone());
            Ok(request)
        })
    }

    pub async fn stop(self) {
        self.tasks.drain(Duration::from_secs(15)).await;
        assert!(self.tasks.failure().is_none());
    }
}

pub fn context(file: &Bytes) -> ProposedContext {
    let meta = FileMeta::read(&mut &file[..]).unwrap();
    ProposedContext { sop_class: meta.sop_class, transfer_syntax: meta.transfer_syntax }
}

pub fn made(seed: u64, kind: StudyKind) -> (StudyKey, Vec<Bytes>) {
    let SyntheticStudy { study, .. } = Synthetic::new(seed).study(kind).unwrap();
    let bytes = |instance: &Instance| match &instance.content {
        Content::Memory(bytes) => bytes.clone(),
        Content::File(_) => unreachable!("made in memory"),
    };
    (StudyKey { tenant: tenant(), study: study.study_uid }, study.instances.iter().map(bytes).collect())
}

pub fn data_set(file: &Bytes) -> Digest {
    let meta = FileMeta::read(&mut &file[..]).unwrap();
    Digest::of(&file[usize::try_from(meta.data_set_offset).unwrap()..])
}

pub fn data_sets(images: &Images) -> BTreeSet<Digest> {
    images.instances().map(|(_, _, instance)| instance.data_set).collect()
}

/// The same object with its last pixel changed.
pub fn altered(file: &Bytes) -> Bytes {
    let mut file = file.to_vec();
    *file.last_mut().unwrap() ^= 0x40;
    file.into()
}

pub fn files_below(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let below = |entry: std::fs::DirEntry| {
        if entry.file_type().unwrap().is_dir() { files_below(&entry.path()) } else { 1 }
    };
    entries.map(|entry| below(entry.unwrap())).sum()
}
