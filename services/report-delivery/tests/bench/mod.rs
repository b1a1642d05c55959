//! A store, blobs and what other roles would have written there.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Phi, Time,
    document::{Images, Manifest, Patient, ReportBody, Series},
    id::{CaseId, ReadId, StudyUid, TenantId},
    key::{CaseKey, DeliveryKey, RegistryItem, RegistryKey, ReportKey},
    record::{
        case::{Case, CaseState},
        delivery::{Delivery, DeliveryState, Lane},
        registry::{Destination, Entry, Via},
        report::{Report, ReportKind, StudyRevision},
    },
    refs::Digest,
};
use isocenter_peers::receiver::Receiver;
use isocenter_report_delivery::{Config, Deps, Service};
use isocenter_runtime::{
    clock, config::Period, metrics::Metrics, random::Seeded, secret::Secret, task::Tasks, telemetry::trace,
    tls,
};
use isocenter_store::{
    Kv,
    embedded::{Embedded, EmbeddedOptions},
    faulty::{Faults, FaultyStore},
    members::Shares,
    table::{Cause, Mirrors, Stored, Tables, kind_range},
};
use isocenter_testkit::wait_for;
use isocenter_wire::{document::Stored as _, v1::report_delivery_client::ReportDeliveryClient};
use tonic::service::Routes;

/// Longer than any wait here takes on a machine that is busy with other tests.
pub const LONG: Duration = Duration::from_secs(20);

pub struct Bench {
    pub tables: Tables,
    pub blobs: Blobs,
    /// Everything but the services under test.
    pub tasks: Tasks,
    pub trace: String,
    _folder: tempfile::TempDir,
}

/// A service under test, killed when it is dropped.
pub struct Running {
    pub metrics: Metrics,
    pub client: ReportDeliveryClient<Routes>,
    tasks: Tasks,
}

impl Running {
    /// Waits until the metrics say this.
    pub async fn until_counted(&self, line: &str) {
        wait_for(line, LONG, || async { self.metrics.render().unwrap().contains(line) }).await;
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.tasks.abort_now();
    }
}

pub fn tenant() -> TenantId {
    "t".parse().unwrap()
}

pub fn study(case: u32) -> StudyUid {
    format!("1.2.{case}").parse().unwrap()
}

pub fn report_key(case: u32, n: u32) -> ReportKey {
    let read = ReadId { case: CaseId::of(&tenant(), &study(case)), n };
    ReportKey { tenant: tenant(), read, version: 1 }
}

pub fn delivery_key(case: u32, n: u32, destination: &str) -> DeliveryKey {
    DeliveryKey { report: report_key(case, n), destination: destination.parse().unwrap() }
}

/// A schedule that a test need not wait for.
pub fn config() -> Config {
    let millis = |ms| Period(Duration::from_millis(ms));
    Config {
        hl7_ack_timeout: millis(400),
        first_retry: millis(20),
        max_retry: millis(80),
        ..Config::default()
    }
}

impl Bench {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let kv = Embedded::open(EmbeddedOptions::new(folder.path().join("store"))).await.unwrap();
        let (cell, secret) = ("cell".parse().unwrap(), Secret::new([1; 32]));
        let tables = Tables::open(Arc::new(kv), clock::system(), cell, &secret).await.unwrap();
        let blobs = Blobs::open(folder.path().join("blobs").to_str().unwrap()).unwrap();
        Self { tables, blobs, tasks: Tasks::new(), trace: trace::new_trace(), _folder: folder }
    }

    /// A receiver registered as `name`.
    pub async fn receiver(&self, name: &str) -> Receiver {
        let receiver = self.receiver_at("127.0.0.1:0".parse().unwrap()).await;
        self.register(name, receiver.address()).await;
        receiver
    }

    pub async fn receiver_at(&self, address: SocketAddr) -> Receiver {
        Receiver::start(address, clock::system(), &self.tasks).await.unwrap()
    }

    pub async fn register(&self, name: &str, address: SocketAddr) {
        self.register_via(name, Via::Mllp(address.to_string())).await;
    }

    /// The destination is elsewhere from now on.
    pub async fn move_to(&self, name: &str, via: Via) {
        let item = RegistryItem::Destination(name.parse().unwrap());
        let stored =
            self.tables.load::<Entry>(&RegistryKey { tenant: tenant(), item }).await.unwrap().unwrap();
        let entry =
            Entry::Destination(Destination { via, application: "RIS".into(), facility: name.to_uppercase() });
        let mut change = self.tables.change(Cause::role("routing"));
        change.update(&stored, &entry, "replaced");
        change.commit().await.unwrap();
    }

    pub async fn register_via(&self, name: &str, via: Via) {
        let entry =
            Entry::Destination(Destination { via, application: "RIS".into(), facility: name.to_uppercase() });
        let item = RegistryItem::Destination(name.parse().unwrap());
        let mut change = self.tables.change(Cause::role("routing"));
        change.create(&RegistryKey { tenant: tenant(), item }, &entry, "created", "");
        change.commit().await.unwrap();
    }

    /// A service that shows and believes these certificates.
    pub fn serve_tls(&self, config: Config, tls: tls::Client) -> Running {
        self.serve_with(self.tables.clone(), config, Some(tls))
    }

    /// A service over this store, with caches of its own as another process has them.
    pub fn serve(&self, config: Config) -> Running {
        self.serve_over(self.tables.clone(), config)
    }

    /// A service that sees this store through a network that fails.
    pub async fn serve_faulty(
        &self,
        config: Config,
        faults: Faults,
        rng: Seeded,
    ) -> (Running, Arc<FaultyStore>) {
        let faulty = Arc::new(FaultyStore::new(Arc::clone(self.tables.kv()), Faults::default(), rng));
        let (cell, secret) = ("cell".parse().unwrap(), Secret::new([1; 32]));
        let kv: Arc<dyn Kv> = faulty.clone();
        let tables = Tables::open(kv, clock::system(), cell, &secret).await.unwrap();
        faulty.set(faults);
        (self.serve_over(tables, config), faulty)
    }

    fn serve_over(&self, tables: Tables, config: Config) -> Running {
        self.serve_with(tables, config, None)
    }

    fn serve_with(&self, tables: Tables, config: Config, tls: Option<tls::Client>) -> Running {
        let (tasks, metrics) = (Tasks::new(), Metrics::new());
        let deps = Deps {
            tables: tables.clone(),
            mirrors: Mirrors::new(tables, &tasks),
            shares: Shares::all(),
            blobs: self.blobs.clone(),
            metrics: metrics.clone(),
            tls,
            tasks: tasks.clone(),
        };
        let service = Service::build(config, deps).unwrap();
        let mut routes = Routes::builder();
        service.routes(&mut routes);
        tasks.essential("report-delivery", service.run());
        Running { metrics, client: ReportDeliveryClient::new(routes.routes()), tasks }
    }

    /// The calls alone: a service that is built and never run.
    pub fn calls_only(&self) -> ReportDeliveryClient<Routes> {
        let deps = Deps {
            tables: self.tables.clone(),
            mirrors: Mirrors::new(self.tables.clone(), &self.tasks),
            shares: Shares::all(),
            blobs: self.blobs.clone(),
            metrics: Metrics::new(),
            tls: None,
            tasks: self.tasks.clone(),
        };
        let mut routes = Routes::builder();
        Service::build(config(), deps).unwrap().routes(&mut routes);
        ReportDeliveryClient::new(routes.routes())
    }

    /// Routing decides again, with one destination more.
    pub async fn add_destination(&self, case: u32, destination: &str) {
        let key = CaseKey { tenant: tenant(), case: report_key(case, 1).read.case };
        let stored = self.tables.load::<Case>(&key).await.unwrap().unwrap();
        let mut changed = stored.record.clone();
        changed.destinations.push(destination.parse().unwrap());
        let mut change = self.tables.change(Cause::role("routing"));
        change.update(&stored, &changed, "replanned");
        change.commit().await.unwrap();
    }

    /// A case whose reports go to `destinations`, and the manifest of its study.
    pub async fn case(&self, case: u32, destinations: &[&str]) {
        let study = study(case);
        let series = Series { modality: "CT".into(), ..Series::default() };
        let images = Images {
            patient: Patient {
                authority: "NORTH".into(),
                id: Phi::new(format!("P{case}")),
                name: Phi::new("IVANOVA^ANNA".into()),
                birth_date: Phi::new("19700101".into()),
                sex: Phi::new("F".into()),
            },
            accession: Phi::new(format!("A{case}")),
            description: Phi::new("CT thorax".into()),
            series: [("1.2.9".parse().unwrap(), series)].into(),
            ..Images::default()
        };
        let manifest = Manifest {
            study: study.clone(),
            revision: 1,
            site: "north".parse().unwrap(),
            complete_at: Time(1),
            images,
        };
        let manifest_path = path::manifest(&tenant(), &study, 1);
        self.blobs.put_new(&manifest_path, manifest.encode().into()).await.unwrap();
        let accession = Secret::new([1; 32]).reference("accession", &[&case.to_string()]);
        let record = Case {
            state: CaseState::Ready,
            members: vec![study],
            site: "north".parse().unwrap(),
            class: "ROUTINE".parse().unwrap(),
            complete_at: Time(1),
            deadline: Duration::from_secs(60),
            urgency: isocenter_domain::record::case::Urgency::default(),
            orphan_after: Duration::from_secs(60),
            pools: Vec::new(),
            destinations: destinations.iter().map(|d| d.parse().unwrap()).collect(),
            modalities: vec!["CT".into()],
            body_part: "CHEST".into(),
            patient: None,
            accession,
            jurisdiction: None,
            paediatric: false,
            reading: isocenter_domain::record::case::Reading::default(),
            linked: None,
        };
        let key = CaseKey { tenant: tenant(), case: report_key(case, 1).read.case };
        let mut change = self.tables.change(Cause::role("routing"));
        change.create(&key, &record, "created", &self.trace);
        change.commit().await.unwrap();
    }

    /// The `n`-th report of a case: the first is final, the others correct it.
    pub async fn sign(&self, case: u32, n: u32) {
        let text = format!("Report {n}.\nNothing acute.");
        let body = ReportBody { findings: Phi::new(text), impression: Phi::new("Normal.".into()) }.encode();
        let digest = Digest::of(&body);
        let key = report_key(case, n);
        self.blobs.put_new(&path::report(&tenant(), &key.read, &digest), body.into()).await.unwrap();
        self.sign_hash(case, n, digest).await;
    }

    /// As [`Bench::sign`], with whatever is or is not in blobs under this hash.
    pub async fn sign_hash(&self, case: u32, n: u32, body: Digest) {
        let kind = if n == 1 { ReportKind::Final } else { ReportKind::Correction };
        self.sign_as(&report_key(case, n), case, (kind, None), body).await;
    }

    /// A version of a report of some kind, which may stand beside the report of another read.
    pub async fn sign_version(
        &self,
        case: u32,
        n: u32,
        version: u32,
        kind: ReportKind,
        about: Option<u32>,
    ) -> ReportKey {
        let text = format!("Version {version} of {n}.");
        let body = ReportBody { findings: Phi::default(), impression: Phi::new(text) }.encode();
        let digest = Digest::of(&body);
        let key = ReportKey { version, ..report_key(case, n) };
        self.blobs.put_new(&path::report(&tenant(), &key.read, &digest), body.into()).await.unwrap();
        self.sign_as(&key, case, (kind, about), digest).await;
        key
    }

    async fn sign_as(&self, key: &ReportKey, case: u32, what: (ReportKind, Option<u32>), body: Digest) {
        let (kind, about) = what;
        let mut change = self.tables.change(Cause::role("reader-assignment"));
        let report = Report {
            kind,
            body,
            author: "anna".parse().unwrap(),
            signed_at: change.now(),
            studies: vec![StudyRevision { study: study(case), revision: 1 }],
            replaces: (kind == ReportKind::Correction).then(|| key.read.n - 1),
            about,
            request_id: format!("sign-{case}-{}-{}", key.read.n, key.version),
        };
        change.create(key, &report, "signed", &self.trace);
        change.commit().await.unwrap();
    }

    pub async fn deliveries(&self) -> Vec<Stored<Delivery>> {
        let range = kind_range(isocenter_domain::record::RecordKind::Delivery);
        self.tables.list::<Delivery>(&range).await.unwrap().0
    }

    pub async fn delivery(&self, key: &DeliveryKey) -> Option<Delivery> {
        self.tables.load::<Delivery>(key).await.unwrap().map(|d| d.record)
    }

    /// Waits until the delivery is so.
    pub async fn until(&self, key: &DeliveryKey, what: &str, is: fn(&DeliveryState) -> bool) -> Delivery {
        wait_for(what, LONG, || async { self.delivery(key).await.is_some_and(|d| is(&d.state)) }).await;
        self.delivery(key).await.unwrap()
    }

    pub async fn until_accepted(&self, key: &DeliveryKey) -> Delivery {
        self.until(key, "acceptance", |state| matches!(state, DeliveryState::ApplicationAccepted { .. }))
            .await
    }

    pub async fn until_dead(&self, key: &DeliveryKey) -> String {
        let is_dead = |state: &DeliveryState| matches!(state, DeliveryState::DeadLetter { .. });
        match self.until(key, "a dead letter", is_dead).await.state {
            DeliveryState::DeadLetter { reason, .. } => reason,
            other => panic!("a dead letter became {other:?} by itself"),
        }
    }

    /// Waits for an attempt that failed; the delivery may be on its way again by now.
    pub async fn until_retrying(&self, key: &DeliveryKey) -> String {
        let error = parking_lot::Mutex::new(None);
        wait_for("a failed attempt", LONG, || async {
            if let Some(Delivery { state: DeliveryState::Retrying { error: e, .. }, .. }) =
                self.delivery(key).await
            {
                *error.lock() = Some(e);
            }
            error.lock().is_some()
        })
        .await;
        error.into_inner().unwrap()
    }

    pub async fn lanes(&self) -> Vec<Stored<Lane>> {
        let range = kind_range(isocenter_domain::record::RecordKind::Lane);
        self.tables.list::<Lane>(&range).await.unwrap().0
    }
}
