//! A cell of one machine, with as many routing services as a test wants.

use std::{sync::Arc, time::Duration};

use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Phi,
    document::{Images, Instance, Manifest, Series},
    id::{CaseId, StudyUid, TenantId},
    key::{CaseKey, PlanKey, StudyKey},
    record::{
        case::Case,
        plan::Plan,
        study::{Evidence, Study, StudyEvent},
    },
    refs::{Digest, Ref},
};
use isocenter_routing::{Config, Deps, Service};
use isocenter_runtime::{
    clock,
    metrics::Metrics,
    readiness::Readiness,
    secret::Secret,
    server::{Options, Served, bind},
    task::{Drained, Tasks},
};
use isocenter_store::{
    Kv, Range,
    embedded::{Embedded, EmbeddedOptions},
    kv,
    members::Shares,
    table::{Cause, Mirrors, Stored, Tables, parse_outbox_key},
};
use isocenter_testkit::wait_for;
use isocenter_wire::{
    document::Stored as _,
    record::decode_event,
    v1::{registry_client::RegistryClient, routing_client::RoutingClient},
};
use tonic::{
    service::RoutesBuilder,
    transport::{Channel, Endpoint},
};

const PATIENCE: Duration = Duration::from_secs(20);

/// W3C Trace Context's own example.
pub const TRACE: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// Store and blobs.
pub struct Cell {
    pub tables: Tables,
    pub blobs: Blobs,
    secret: Secret,
    _folder: tempfile::TempDir,
}

/// One service and its server.
pub struct Running {
    pub routing: RoutingClient<Channel>,
    pub registry: RegistryClient<Channel>,
    metrics: Metrics,
    tasks: Tasks,
}

/// What the images of a study say.
#[derive(Clone)]
pub struct Sample {
    pub modality: &'static str,
    pub body_part: &'static str,
    pub description: &'static str,
    /// Instances with and without pixels.
    pub instances: (usize, usize),
}

pub const CHEST: Sample =
    Sample { modality: "CR", body_part: "CHEST", description: "CHEST PA", instances: (2, 0) };

pub fn tenant() -> TenantId {
    "t".parse().unwrap()
}

pub fn study_key(uid: &str) -> StudyKey {
    StudyKey { tenant: tenant(), study: uid.parse().unwrap() }
}

impl Cell {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedOptions::new(folder.path().join("store"));
        let kv: Arc<dyn Kv> = Arc::new(Embedded::open(store).await.unwrap());
        let secret = Secret::new([1; 32]);
        let tables = Tables::open(kv, clock::system(), "cell".parse().unwrap(), &secret).await.unwrap();
        let blobs = Blobs::open(folder.path().join("blobs").to_str().unwrap()).unwrap();
        Self { tables, blobs, secret, _folder: folder }
    }

    /// Starts one more service over this cell.
    pub async fn serve(&self) -> Running {
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        let deps = Deps {
            tables: self.tables.clone(),
            mirrors: Mirrors::new(self.tables.clone(), &tasks),
            shares: Shares::all(),
            blobs: self.blobs.clone(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            secret: self.secret.clone(),
        };
        let service = Service::build(Config {}, deps).unwrap();
        let mut routes = RoutesBuilder::default();
        service.routes(&mut routes);
        let bound = bind(Options::local(tenant())).await.unwrap();
        let address = bound.address();
        let (readiness, _latch) = Readiness::new();
        bound.serve(&tasks, Served { grpc: routes.routes(), ..Served::default() }, &metrics, &readiness);
        tasks.essential("routing", service.run());
        let channel = Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await.unwrap();
        let (routing, registry) = (RoutingClient::new(channel.clone()), RegistryClient::new(channel));
        Running { routing, registry, metrics, tasks }
    }

    /// Makes the next revision of a study as ingestion does.
    pub async fn complete(&self, uid: &str, sample: &Sample) {
        let key = study_key(uid);
        let stored = self.tables.load::<Study>(&key).await.unwrap();
        let mut change = self.tables.change(Cause::role("ingestion"));
        let now = change.now();
        let study = match &stored {
            Some(stored) => stored.record.clone(),
            None => Study::receiving("north".parse().unwrap(), "CR1".parse().unwrap(), now),
        };
        let study = study.transition(StudyEvent::Received, now).unwrap().0;
        let revision = study.revision + 1;
        let images = images(uid, sample);
        let facts = images.facts(Some(Ref([1; 16])), Some(Ref([2; 16])));
        let manifest = Manifest {
            study: key.study.clone(),
            revision,
            site: study.site.clone(),
            complete_at: now,
            images,
        }
        .encode();
        let digest = Digest::of(&manifest);
        self.blobs
            .put_new(&path::manifest(&key.tenant, &key.study, revision), manifest.into())
            .await
            .unwrap();
        let completed =
            StudyEvent::Completed { evidence: Evidence::QuietPeriod, doubt: None, manifest: digest, facts };
        let study = study.transition(completed, now).unwrap().0;
        match &stored {
            Some(stored) => change.update(stored, &study, "completed"),
            None => change.create(&key, &study, "completed", TRACE),
        }
        change.commit().await.unwrap();
    }

    /// The plan of this revision, once there is one.
    pub async fn plan(&self, uid: &str, revision: u32) -> Stored<Plan> {
        let StudyKey { tenant, study } = study_key(uid);
        let key = PlanKey { tenant, study };
        let what = format!("the plan of {uid}, revision {revision}");
        wait_for(&what, PATIENCE, || async {
            let plan = self.tables.load::<Plan>(&key).await.unwrap();
            plan.is_some_and(|plan| plan.record.revision == revision)
        })
        .await;
        self.tables.load(&key).await.unwrap().unwrap()
    }

    pub async fn case(&self, uid: &str) -> Option<Stored<Case>> {
        let StudyKey { tenant, study } = study_key(uid);
        let case = CaseId::of(&tenant, &study);
        self.tables.load(&CaseKey { tenant, case }).await.unwrap()
    }

    /// The events of records whose keys begin so: key, event, actor, seq.
    pub async fn events(&self, kind: &str) -> Vec<(String, String, String, u64)> {
        let outbox = Range::prefix("outbox/").unwrap();
        let listing = kv::list_all(self.tables.kv().as_ref(), &outbox).await.unwrap();
        let events = listing.items.iter().map(|item| {
            let (key, seq) = parse_outbox_key(&item.key).unwrap();
            let event = decode_event(&key, seq, &item.value).unwrap();
            (key, event.event, event.actor, seq)
        });
        events.filter(|(key, ..)| key.starts_with(kind)).collect()
    }
}

impl Running {
    /// The value of a metric's line that begins so.
    pub fn metric(&self, line: &str) -> Option<String> {
        let text = self.metrics.render().unwrap();
        text.lines().find_map(|found| Some(found.strip_prefix(line)?.trim().to_owned()))
    }

    pub async fn stop(self) {
        drop((self.routing, self.registry));
        self.tasks.shut_down();
        assert_eq!(self.tasks.drain(PATIENCE).await, Drained::Clean);
    }
}

fn images(uid: &str, sample: &Sample) -> Images {
    let mut series = Series {
        modality: sample.modality.to_owned(),
        body_part: sample.body_part.to_owned(),
        ..Series::default()
    };
    let (with, without) = sample.instances;
    for n in 0..with + without {
        let instance = Instance {
            sop_class: "1.2.840.10008.5.1.4.1.1.1".parse().unwrap(),
            instance: format!("{uid}.1.{n}").parse().unwrap(),
            transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
            size: 100,
            sha256: Digest::of(b"file"),
            data_set: Digest::of(b"data set"),
            number: 1,
            frames: u32::from(n < with),
            image: n < with,
        };
        series.instances.insert(instance.instance.clone(), instance);
    }
    let mut images = Images { description: Phi::new(sample.description.to_owned()), ..Images::default() };
    images.patient.birth_date = Phi::new("19500101".to_owned());
    images.series.insert(format!("{uid}.1").parse().unwrap(), series);
    images
}

/// Removes an object as a lost disk does.
pub async fn lose(cell: &Cell, path: &isocenter_blobs::BlobPath) {
    assert!(cell.blobs.delete(path).await.unwrap());
}

pub fn manifest_path(uid: &str, revision: u32) -> isocenter_blobs::BlobPath {
    path::manifest(&tenant(), &StudyUid::new(uid).unwrap(), revision)
}
