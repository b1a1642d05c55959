//! A store, blobs and records of a test's own, and studies made in them as the other roles make them.

use std::{sync::Arc, time::Duration};

use isocenter_blobs::{Blobs, path};
use isocenter_domain::{
    Phi, Time,
    access::{Principal, Role},
    document::{Images, Instance, Manifest, Patient, ReportBody, Segment, Series},
    id::{CaseId, ReadId},
    key::{AiTaskKey, CaseKey, DeliveryKey, IntakeKey, PlanKey, ReadKey, ReportKey, StudyKey},
    record::{
        ai_task::{AiAnswer, AiTask, AiTaskState},
        case::{Case, CaseState},
        delivery::{Delivery, DeliveryState},
        intake::Intake,
        plan::{Plan, Reading},
        read::{Read, ReadKind, ReadState},
        report::{Report, ReportKind, StudyRevision},
        study::{Evidence, Study, StudyEvent},
    },
    refs::{Digest, Ref},
};
use isocenter_runtime::{
    clock::{Clock as _, TestClock},
    secret::Secret,
    task::Tasks,
};
use isocenter_store::Range;
use isocenter_store::{
    Kv,
    embedded::{Embedded, EmbeddedOptions},
    kv,
    members::Shares,
    table::{Cause, Mirrors, Stored, Tables},
};
use isocenter_testkit::PostgresServer;
use isocenter_wire::{document::Stored as _, record::Stored as Storable};
use sqlx::{AssertSqlSafe, Row as _};
use tonic::Request;

use crate::{
    Config, Deps, Records,
    compare::Comparer,
    metrics::Metrics,
    plan::Grace,
    reconcile::{close::Closer, drain::Drainer, reopen::Reopener},
    records::{Dialect, query::StudyRow, rebuild::TABLES},
    rpc::Rpc,
};

pub(super) const CLASS: &str = "ROUTINE";

pub(super) struct Fixture {
    /// Where the test runs on PostgreSQL.
    pub postgres: Option<PostgresServer>,
    pub folder: tempfile::TempDir,
    pub clock: TestClock,
    pub tables: Tables,
    pub mirrors: Mirrors,
    pub blobs: Blobs,
    pub records: Records,
    pub metrics: Metrics,
    pub tasks: Tasks,
}

/// Whose images, and when.
#[derive(Clone)]
pub(super) struct Given {
    pub uid: &'static str,
    pub authority: &'static str,
    pub patient: &'static str,
    pub date: &'static str,
}

impl Default for Given {
    fn default() -> Self {
        Self { uid: "1.2.3", authority: "north", patient: "P1", date: "20260101" }
    }
}

impl Fixture {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let store = EmbeddedOptions::new(folder.path().join("store"));
        let kv: Arc<dyn Kv> = Arc::new(Embedded::open(store).await.unwrap());
        let clock = TestClock::new(Time(1_700_000_000_000_000));
        let cell = "cell".parse().unwrap();
        let tables = Tables::open(kv, clock.shared(), cell, &Secret::new([1; 32])).await.unwrap();
        let tasks = Tasks::new();
        let mirrors = Mirrors::new(tables.clone(), &tasks);
        let blobs = Blobs::open(folder.path().join("blobs").to_str().unwrap()).unwrap();
        let postgres = match super::DATABASE {
            Dialect::Sqlite => None,
            Dialect::Postgres => Some(PostgresServer::start_tcp("127.0.0.1", &[])),
        };
        let records = database(postgres.as_ref(), &folder, "records").await;
        let metrics = Metrics::new(&isocenter_runtime::metrics::Metrics::new());
        Self { postgres, folder, clock, tables, mirrors, blobs, records, metrics, tasks }
    }

    pub fn deps(&self) -> Deps {
        Deps {
            tables: self.tables.clone(),
            mirrors: self.mirrors.clone(),
            shares: Shares::all(),
            blobs: self.blobs.clone(),
            records: self.records.clone(),
            operator: "t".parse().unwrap(),
            metrics: isocenter_runtime::metrics::Metrics::new(),
            tasks: self.tasks.clone(),
        }
    }

    pub fn drainer(&self) -> Drainer {
        let (tables, blobs, records) = (self.tables.clone(), self.blobs.clone(), self.records.clone());
        Drainer::new(tables, blobs, records, self.metrics.clone(), Duration::ZERO)
    }

    pub async fn drain(&self) {
        let drainer = self.drainer();
        for shard in 0..=u8::MAX {
            drainer.drain(shard).await.unwrap();
        }
    }

    pub fn closer(&self) -> Closer {
        let hour = Duration::from_secs(3_600);
        Closer {
            tables: self.tables.clone(),
            mirrors: self.mirrors.clone(),
            blobs: self.blobs.clone(),
            metrics: self.metrics.clone(),
            grace: Grace { delivered: hour, unread: hour },
        }
    }

    pub fn reopener(&self) -> Reopener {
        Reopener { tables: self.tables.clone(), blobs: self.blobs.clone(), metrics: self.metrics.clone() }
    }

    pub fn comparer(&self) -> Comparer {
        Comparer {
            tables: self.tables.clone(),
            mirrors: self.mirrors.clone(),
            blobs: self.blobs.clone(),
            records: self.records.clone(),
            reopener: self.reopener(),
            config: Config::default(),
        }
    }

    pub fn rpc(&self) -> Rpc {
        Rpc {
            operator: "t".parse().unwrap(),
            tables: self.tables.clone(),
            blobs: self.blobs.clone(),
            records: self.records.clone(),
            comparer: Arc::new(self.comparer()),
            metrics: self.metrics.clone(),
            tasks: self.tasks.clone(),
        }
    }

    pub async fn create<R: Storable>(&self, key: &R::Key, record: &R) {
        let mut change = self.tables.change(Cause::role("tester"));
        change.create(key, record, "created", "trace");
        change.commit().await.unwrap();
    }

    pub async fn update<R: Storable>(&self, key: &R::Key, event: &str, next: impl FnOnce(R) -> R) {
        let current = self.load::<R>(key).await.unwrap();
        let mut change = self.tables.change(Cause::role("tester"));
        change.update(&current, &next(current.record.clone()), event);
        change.commit().await.unwrap();
    }

    pub async fn load<R: Storable>(&self, key: &R::Key) -> Option<Stored<R>> {
        self.tables.load(key).await.unwrap()
    }

    pub async fn erase<R: Storable>(&self, key: &R::Key) {
        let current = self.load::<R>(key).await.unwrap();
        let mut change = self.tables.change(Cause::role("tester"));
        change.delete(&current, "erased");
        change.commit().await.unwrap();
    }

    /// Keys below a prefix.
    pub async fn keys(&self, prefix: &str) -> Vec<String> {
        let range = Range::prefix(prefix).unwrap();
        let listed = kv::list_all(self.tables.kv().as_ref(), &range).await.unwrap();
        listed.items.iter().map(|kv| kv.key.to_string()).collect()
    }

    /// A study that has been received whole: one instance, its segment, its manifest, its intake.
    pub async fn complete(&self, given: &Given) -> StudyKey {
        let key = study_key(given);
        let images = self.images(&key, given).await;
        let segment = Segment { study: key.study.clone(), node: node(), images: images.clone() }.encode();
        let digest = Digest::of(&segment);
        let at = path::segment(&key.tenant, &key.study, &node(), &digest);
        self.blobs.put_new(&at, segment.into()).await.unwrap();
        let intake = Intake { stored: 1, bytes: 4, segment: Some(digest), ..Intake::default() };
        self.create(&intake_key(&key), &intake).await;
        let study = Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), self.clock.now());
        self.create(&key, &study).await;
        self.revise(&key, images, 1).await;
        key
    }

    /// The next revision of a study in `Receiving`.
    pub async fn revise(&self, key: &StudyKey, images: Images, revision: u32) {
        let facts = images.facts(None, None);
        let (study, site) = (key.study.clone(), "north".parse().unwrap());
        let manifest = Manifest { study, revision, site, complete_at: self.clock.now(), images }.encode();
        let manifest_digest = Digest::of(&manifest);
        let at = path::manifest(&key.tenant, &key.study, revision);
        self.blobs.put_new(&at, manifest.into()).await.unwrap();
        let now = self.clock.now();
        self.update::<Study>(key, "completed", |study| {
            let (evidence, doubt) = (Evidence::QuietPeriod, None);
            let event = StudyEvent::Completed { evidence, doubt, manifest: manifest_digest, facts };
            study.transition(event, now).unwrap().0
        })
        .await;
    }

    pub async fn images(&self, key: &StudyKey, given: &Given) -> Images {
        let instance: isocenter_domain::id::InstanceUid = format!("{}.9", given.uid).parse().unwrap();
        let sha256 = Digest::of(b"dicm");
        let at = path::instance(&key.tenant, &key.study, &instance, &sha256);
        self.blobs.put_new(&at, "dicm".into()).await.unwrap();
        let held = Instance {
            sop_class: "1.2.840.10008.5.1.4.1.1.2".parse().unwrap(),
            instance: instance.clone(),
            transfer_syntax: "1.2.840.10008.1.2.1".parse().unwrap(),
            size: 4,
            sha256,
            data_set: sha256,
            number: 1,
            frames: 1,
            image: true,
        };
        let series = Series {
            modality: "CT".into(),
            body_part: "HEAD".into(),
            number: 1,
            instances: [(instance, held)].into(),
        };
        Images {
            patient: Patient {
                authority: given.authority.into(),
                id: Phi::new(given.patient.into()),
                ..Patient::default()
            },
            accession: Phi::new(format!("A-{}", given.patient)),
            study_date: given.date.into(),
            series: [(format!("{}.5", given.uid).parse().unwrap(), series)].into(),
            ..Images::default()
        }
    }

    /// A study that was received, planned, analysed, read, reported and delivered.
    pub async fn delivered(&self, given: &Given) -> StudyKey {
        let key = self.complete(given).await;
        let (tenant, case) = (key.tenant.clone(), case_id(&key));
        self.plan(&key, Reading::Case(case.clone())).await;
        self.create(&case_key(&key), &self.case(&key)).await;
        self.create(&ai_key(&key), &self.task()).await;
        let read = read_key(&key);
        self.create(&read, &Read::waiting(ReadKind::Primary, self.clock.now())).await;
        let body = ReportBody { findings: Phi::new("clear".into()), impression: Phi::new("normal".into()) };
        let body = body.encode();
        let digest = Digest::of(&body);
        let at = path::report(&tenant, &read.read, &digest);
        self.blobs.put_new(&at, body.into()).await.unwrap();
        let studies = vec![StudyRevision { study: key.study.clone(), revision: 1 }];
        let report = Report {
            kind: ReportKind::Final,
            body: digest,
            author: "anna".parse().unwrap(),
            signed_at: self.clock.now(),
            studies: studies.clone(),
            replaces: None,
            about: None,
            request_id: "r".into(),
        };
        self.update::<Read>(&read, "signed", |read| Read {
            state: ReadState::Signed {
                reader: "anna".parse().unwrap(),
                at: self.clock.now(),
                version: 1,
                studies,
            },
            ..read
        })
        .await;
        self.create(&report_key(&key), &report).await;
        let delivery = Delivery {
            state: DeliveryState::ApplicationAccepted { at: self.clock.now() },
            message_id: "m".into(),
            kind: ReportKind::Final,
            accession: Ref([2; 16]),
            signed_at: self.clock.now(),
            attempts: 1,
            since: self.clock.now(),
        };
        self.create(&delivery_key(&key), &delivery).await;
        key
    }

    pub async fn plan(&self, key: &StudyKey, reading: Reading) {
        let plan = Plan {
            revision: 1,
            policy: Digest::of(b"policy"),
            reading,
            ai: Vec::new(),
            destinations: vec!["ris".parse().unwrap()],
            rules: Vec::new(),
        };
        self.create(&plan_key(key), &plan).await;
    }

    pub fn case(&self, key: &StudyKey) -> Case {
        Case {
            state: CaseState::Ready,
            members: vec![key.study.clone()],
            site: "north".parse().unwrap(),
            class: CLASS.parse().unwrap(),
            complete_at: self.clock.now(),
            deadline: Duration::from_secs(86_400),
            urgency: isocenter_domain::record::case::Urgency::default(),
            orphan_after: Duration::from_secs(3_600),
            pools: Vec::new(),
            destinations: vec!["ris".parse().unwrap()],
            modalities: vec!["CT".into()],
            body_part: "HEAD".into(),
            patient: None,
            accession: Ref([2; 16]),
            jurisdiction: None,
            paediatric: false,
            linked: None,
            reading: isocenter_domain::record::case::Reading::default(),
        }
    }

    pub fn task(&self) -> AiTask {
        let now = self.clock.now();
        let answer = AiAnswer {
            probability_ppm: 7,
            model: "m".into(),
            model_version: "1".into(),
            result: Digest::of(b"result"),
            at: now,
        };
        let deadline = now.plus(Duration::from_secs(60));
        AiTask { state: AiTaskState::Succeeded(answer), ..AiTask::requested(Digest::of(b"m"), now, deadline) }
    }

    /// Another database of the same kind.
    pub async fn database(&self, name: &str) -> Records {
        database(self.postgres.as_ref(), &self.folder, name).await
    }

    /// Every row of every projected table, as text, for comparing databases.
    pub async fn dump(records: &Records) -> Vec<String> {
        let mut lines = Vec::new();
        for table in TABLES {
            let columns = match super::DATABASE {
                Dialect::Sqlite => format!("SELECT name FROM pragma_table_info('{table}')"),
                Dialect::Postgres => format!(
                    "SELECT CAST(column_name AS TEXT) AS name FROM information_schema.columns
                     WHERE table_schema = current_schema() AND table_name = '{table}' ORDER BY ordinal_position"
                ),
            };
            let columns = sqlx::query(AssertSqlSafe(columns)).fetch_all(&records.pool()).await.unwrap();
            let columns: Vec<String> =
                columns.iter().map(|row| format!("CAST({} AS TEXT)", row.get::<String, _>("name"))).collect();
            let row = format!("SELECT {} AS line FROM {table}", columns.join(" || '|' || "));
            let rows = sqlx::query(AssertSqlSafe(row)).fetch_all(&records.pool()).await.unwrap();
            lines.extend(rows.iter().map(|row| format!("{table}: {}", row.get::<String, _>("line"))));
        }
        lines.sort();
        lines
    }

    /// The one study of the records.
    pub async fn only_study(&self) -> StudyRow {
        let tenant = "t".parse().unwrap();
        self.records.studies(&tenant, "", 10).await.unwrap().remove(0)
    }
}

async fn database(postgres: Option<&PostgresServer>, folder: &tempfile::TempDir, name: &str) -> Records {
    let url = match postgres {
        Some(server) => server.database(name),
        None => format!("sqlite:{}", folder.path().join(format!("{name}.db")).display()),
    };
    let records = Records::open(&url).await.unwrap();
    records.prepare().await.unwrap();
    records
}

pub(super) fn asked<T>(message: T) -> Request<T> {
    asked_as(message, Role::Operator)
}

pub(super) fn asked_as<T>(message: T, role: Role) -> Request<T> {
    let mut request = Request::new(message);
    let tenant = "t".parse().unwrap();
    request.extensions_mut().insert(Principal { subject: "cn=tester".into(), tenant, role });
    request
}

pub(super) fn study_key(given: &Given) -> StudyKey {
    StudyKey { tenant: "t".parse().unwrap(), study: given.uid.parse().unwrap() }
}

pub(super) fn node() -> isocenter_domain::id::NodeId {
    "n1".parse().unwrap()
}

pub(super) fn intake_key(key: &StudyKey) -> IntakeKey {
    IntakeKey { tenant: key.tenant.clone(), study: key.study.clone(), node: node() }
}

pub(super) fn plan_key(key: &StudyKey) -> PlanKey {
    PlanKey { tenant: key.tenant.clone(), study: key.study.clone() }
}

pub(super) fn case_id(key: &StudyKey) -> CaseId {
    CaseId::of(&key.tenant, &key.study)
}

pub(super) fn case_key(key: &StudyKey) -> CaseKey {
    CaseKey { tenant: key.tenant.clone(), case: case_id(key) }
}

pub(super) fn ai_key(key: &StudyKey) -> AiTaskKey {
    let service = "opacity".parse().unwrap();
    AiTaskKey { tenant: key.tenant.clone(), study: key.study.clone(), service, revision: 1 }
}

pub(super) fn read_key(key: &StudyKey) -> ReadKey {
    ReadKey { tenant: key.tenant.clone(), read: ReadId { case: case_id(key), n: 1 } }
}

pub(super) fn report_key(key: &StudyKey) -> ReportKey {
    ReportKey { tenant: key.tenant.clone(), read: read_key(key).read, version: 1 }
}

pub(super) fn delivery_key(key: &StudyKey) -> DeliveryKey {
    DeliveryKey { report: report_key(key), destination: "ris".parse().unwrap() }
}
