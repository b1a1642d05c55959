//! Two replicas over one embedded store, and the calls as a workstation makes them.

mod aside;
mod crowd;
mod flow;
mod interleave;
mod kinds;
mod leading;
mod offering;
mod plan;
mod served;
mod sign;
mod watching;
mod worklist;

use std::{sync::Arc, time::Duration};

use isocenter_domain::{
    Time,
    access::{Principal, Role},
    id::{CaseId, ReadId, ReaderId, StudyUid, TenantId},
    key::{AiTaskKey, CaseKey, HoldingKey, PlanKey, ReadKey, ReportKey, StudyKey},
    record::{
        ai_task::{AiAnswer, AiTask, AiTaskState},
        case::{Case, CaseState},
        plan::{Plan, Reading},
        read::{Holding, Read},
        registry::{Entry, Grade, Reader, Sites, Skill},
        report::Report,
        study::{Evidence, Study, StudyState},
    },
    refs::{Digest, Ref},
};
use isocenter_runtime::{
    clock::TestClock, fs, metrics::Metrics, nodes::Nodes, random::Seeded, secret::Secret, task::Tasks,
    telemetry::trace::new_trace,
};
use isocenter_store::{
    Kv, Op, Txn,
    embedded::{Embedded, EmbeddedOptions},
    faulty::{Faults, FaultyStore},
    members::Shares,
    table::{Cause, Mirrors, Stored, Tables},
};
use isocenter_testkit::{NoSyncFs, wait_for};
use isocenter_wire::{
    record::Stored as Storable,
    v1::{self, reader_assignment_server::ReaderAssignment as _},
};
use tonic::{Code, Request, Status};
use tonic_types::StatusExt as _;

use crate::{Config, Deps, Service, desk::Desk, presence, rpc::Rpc};

/// Long beside anything here, short beside a developer's patience.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

pub(super) fn tenant() -> TenantId {
    "net".parse().unwrap()
}

pub(super) fn anna() -> ReaderId {
    "anna".parse().unwrap()
}

pub(super) fn boris() -> ReaderId {
    "boris".parse().unwrap()
}

pub(super) fn uid(n: u32) -> StudyUid {
    format!("1.2.{n}").parse().unwrap()
}

pub(super) fn case_id(n: u32) -> CaseId {
    CaseId::of(&tenant(), &uid(n))
}

pub(super) fn case_key(n: u32) -> CaseKey {
    CaseKey { tenant: tenant(), case: case_id(n) }
}

pub(super) fn read_key(case: u32, n: u32) -> ReadKey {
    ReadKey { tenant: tenant(), read: ReadId { case: case_id(case), n } }
}

pub(super) fn study(revision: u32, state: StudyState) -> Study {
    let mut study = Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), Time(1));
    study.revision = revision;
    study.complete_at = Some(Time(1_000_000));
    study.state = state;
    study
}

pub(super) fn complete(revision: u32) -> Study {
    study(revision, StudyState::Complete { evidence: Evidence::QuietPeriod, doubt: None })
}

pub(super) fn case(members: &[u32]) -> Case {
    Case {
        state: CaseState::Ready,
        members: members.iter().map(|n| uid(*n)).collect(),
        site: "north".parse().unwrap(),
        class: "ROUTINE".parse().unwrap(),
        complete_at: Time(1_000_000),
        deadline: Duration::from_secs(3_600),
        urgency: isocenter_domain::record::case::Urgency {
            weight: 2,
            critical: 40,
            prior_ppm: 15_000,
            next_up: true,
        },
        orphan_after: Duration::from_secs(600),
        pools: vec!["general".parse().unwrap()],
        destinations: vec!["north".parse().unwrap()],
        modalities: vec!["CT".into()],
        body_part: "HEAD".into(),
        patient: None,
        accession: Ref([1; 16]),
        jurisdiction: None,
        paediatric: false,
        reading: isocenter_domain::record::case::Reading::default(),
        linked: None,
    }
}

/// One store and everything around it.
pub(super) struct World {
    pub kv: Arc<dyn Kv>,
    pub clock: TestClock,
    pub tables: Tables,
    /// The trace that every study is in.
    pub trace: String,
    folder: tempfile::TempDir,
}

/// One replica.
pub(super) struct Node {
    pub desk: Arc<Desk>,
    pub rpc: Rpc,
    pub tasks: Tasks,
}

impl World {
    pub async fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Durability is the store's own tests' matter; here it would only cost time.
        let mut options = EmbeddedOptions::new(folder.path().join("store"));
        options.fs = Arc::new(NoSyncFs(fs::os()));
        let kv: Arc<dyn Kv> = Arc::new(Embedded::open(options).await.unwrap());
        let clock = TestClock::new(Time(10_000_000));
        let tables = tables(&kv, &clock).await;
        let world = Self { kv, clock, tables, trace: new_trace(), folder };
        for reader in [anna(), boris()] {
            world.register(&reader, "CT").await;
        }
        world
    }

    /// A replica that takes part in the election and keeps its queue. Nothing is reconciled but by [`Node::reconcile`].
    pub async fn node(&self, address: &str) -> Node {
        self.node_over(Arc::clone(&self.kv), address).await
    }

    pub async fn node_over(&self, kv: Arc<dyn Kv>, address: &str) -> Node {
        let tasks = Tasks::new();
        let service = self.service(&tasks, &Metrics::new(), kv, address).await;
        let desk = Arc::clone(&service.desk);
        desk.view.synced().await;
        service.campaign.spawn(&tasks, std::future::ready(()));
        tasks.background("board", Arc::clone(&desk).follow(tasks.token()));
        Node { rpc: Rpc::new(Arc::clone(&desk), Nodes::default()), desk, tasks }
    }

    /// A service that does not run yet.
    pub async fn service(&self, tasks: &Tasks, metrics: &Metrics, kv: Arc<dyn Kv>, address: &str) -> Service {
        let tables = tables(&kv, &self.clock).await;
        let mirrors = Mirrors::new(tables.clone(), tasks);
        let deps = Deps {
            tables,
            mirrors,
            shares: Shares::all(),
            blobs: isocenter_blobs::Blobs::open(self.folder.path().join("blobs").to_str().unwrap()).unwrap(),
            metrics: metrics.clone(),
            tasks: tasks.clone(),
            address: address.to_owned(),
            nodes: Nodes::default(),
        };
        Service::build(Config::default(), deps).unwrap()
    }

    /// A store that fails as told.
    pub fn faulty(&self, seed: u64) -> Arc<FaultyStore> {
        Arc::new(FaultyStore::new(Arc::clone(&self.kv), Faults::default(), Seeded::new(seed)))
    }

    pub async fn put<R: Storable>(&self, key: &R::Key, record: &R) {
        loop {
            let mut change = self.tables.change(Cause::role("test"));
            match self.tables.load::<R>(key).await.unwrap() {
                Some(stored) => change.update(&stored, record, "changed"),
                None => change.create(key, record, "made", &self.trace),
            }
            if change.commit().await.is_ok() {
                return;
            }
        }
    }

    pub async fn get<R: Storable>(&self, key: &R::Key) -> Option<Stored<R>> {
        self.tables.load(key).await.unwrap()
    }

    pub async fn register(&self, reader: &ReaderId, modality: &str) {
        self.register_as(reader, modality, Grade::Attending).await;
    }

    pub async fn register_as(&self, reader: &ReaderId, modality: &str, grade: Grade) {
        let entry = Entry::Reader(Reader {
            skills: vec![Skill { modality: modality.into(), body_part: "*".into() }],
            sites: Sites::All,
            pools: vec!["general".parse().unwrap()],
            grade,
            ..Reader::default()
        });
        self.put(&crate::view::reader_key(&tenant(), reader), &entry).await;
    }

    pub async fn study(&self, n: u32, study: &Study) {
        self.put(&StudyKey { tenant: tenant(), study: uid(n) }, study).await;
    }

    /// A complete study with its plan and its case.
    pub async fn case(&self, n: u32) {
        self.study(n, &complete(1)).await;
        let plan = Plan {
            revision: 1,
            policy: Digest::of(b"policy"),
            reading: Reading::Case(case_id(n)),
            ai: Vec::new(),
            destinations: vec!["north".parse().unwrap()],
            rules: vec![("class".into(), "head-ct".into())],
        };
        self.put(&PlanKey { tenant: tenant(), study: uid(n) }, &plan).await;
        self.put(&case_key(n), &case(&[n])).await;
    }

    /// A case whose read 1 waits.
    pub async fn waiting(&self, n: u32, node: &Node) {
        self.case(n).await;
        node.reconcile(n).await;
        self.queued(n, node).await;
    }

    pub async fn queued(&self, n: u32, node: &Node) {
        let read = read_key(n, 1).read;
        wait_for("the read to be in the queue", PATIENCE, || async {
            node.desk.board.explain(&tenant(), &read, Time(0), &[]).is_some()
        })
        .await;
    }

    /// What a vendor answers.
    pub async fn answer(&self, n: u32, revision: u32, ppm: u32) {
        let key = AiTaskKey { tenant: tenant(), study: uid(n), service: "vendor".parse().unwrap(), revision };
        let answer = AiAnswer {
            probability_ppm: ppm,
            model: "m".into(),
            model_version: "1".into(),
            result: Digest::of(b"result"),
            at: Time(2),
        };
        let mut task = AiTask::requested(Digest::of(b"manifest"), Time(1), Time(i64::MAX));
        task.state = AiTaskState::Succeeded(answer);
        self.put(&key, &task).await;
    }

    /// A sign of life without a stream.
    pub async fn present(&self, reader: &ReaderId) {
        let put = Op::put(&presence::key(&tenant(), reader), "test 1");
        self.kv.txn(Txn::always(vec![put])).await.unwrap();
    }

    pub async fn absent(&self, reader: &ReaderId) {
        let gone = Op::delete(&presence::key(&tenant(), reader));
        self.kv.txn(Txn::always(vec![gone])).await.unwrap();
    }

    pub async fn holding(&self, reader: &ReaderId) -> Holding {
        let key = HoldingKey { tenant: tenant(), reader: reader.clone() };
        self.get(&key).await.map(|h| h.record).unwrap_or_default()
    }

    pub async fn read(&self, case: u32, n: u32) -> Read {
        self.get::<Read>(&read_key(case, n)).await.expect("the read exists").record
    }

    pub async fn report(&self, case: u32, n: u32) -> Option<Report> {
        let key = ReportKey { tenant: tenant(), read: read_key(case, n).read, version: 1 };
        self.get::<Report>(&key).await.map(|r| r.record)
    }
}

async fn tables(kv: &Arc<dyn Kv>, clock: &TestClock) -> Tables {
    let secret = Secret::new([1; 32]);
    Tables::open(Arc::clone(kv), clock.shared(), "cell".parse().unwrap(), &secret).await.unwrap()
}

impl Node {
    pub async fn leads(&self) {
        wait_for("leadership", PATIENCE, || async { self.desk.leadership.fence().is_some() }).await;
    }

    /// Brings the case's reads to what they should be, once the mirrors show what the store has of it.
    pub async fn reconcile(&self, n: u32) {
        self.caught_up(n).await;
        self.desk.reconcile(&case_key(n)).await.unwrap();
    }

    /// Waits until the mirrors show the case, its study and its reads as the store has them.
    pub async fn caught_up(&self, n: u32) {
        let (desk, key) = (&self.desk, case_key(n));
        wait_for("the mirrors", PATIENCE, || async {
            let case = desk.tables.load::<Case>(&key).await.ok().flatten().map(|c| c.mod_revision);
            let study_key = StudyKey { tenant: tenant(), study: uid(n) };
            let study = desk.tables.load::<Study>(&study_key).await.ok().flatten().map(|s| s.mod_revision);
            let mut reads = true;
            for read in 1..4 {
                let key = read_key(n, read);
                let stored = desk.tables.load::<Read>(&key).await.ok().flatten().map(|r| r.mod_revision);
                reads &= desk.view.reads.get(&key).map(|r| r.mod_revision) == stored;
            }
            reads
                && desk.view.cases.get(&key).map(|c| c.mod_revision) == case
                && desk.view.studies.get(&study_key).map(|s| s.mod_revision) == study
        })
        .await;
    }

    pub async fn next(&self, reader: &ReaderId) -> Result<Option<v1::Read>, Status> {
        let request = v1::NextReadRequest { reader_id: reader.to_string(), request_id: unique() };
        Ok(self.rpc.next_read(by_developer(request)).await?.into_inner().read)
    }

    pub async fn open(&self, read: &str, reader: &ReaderId, request_id: &str) -> Result<v1::Read, Status> {
        let request = v1::OpenReadRequest {
            read_id: read.to_owned(),
            reader_id: reader.to_string(),
            request_id: request_id.to_owned(),
            reason: String::new(),
        };
        Ok(self.rpc.open_read(by_developer(request)).await?.into_inner())
    }

    /// Is offered the next read and opens it.
    pub async fn take(&self, reader: &ReaderId) -> v1::Read {
        let offered = self.next(reader).await.unwrap().expect("a read waits");
        self.open(&offered.read_id, reader, &unique()).await.unwrap()
    }

    pub async fn give_back(
        &self,
        read: &str,
        reader: &ReaderId,
        token: &str,
        request_id: &str,
    ) -> Result<v1::Read, Status> {
        let request = v1::ReturnReadRequest {
            read_id: read.to_owned(),
            reader_id: reader.to_string(),
            open_token: token.to_owned(),
            reason: v1::ReturnReason::NotCompetent.into(),
            request_id: request_id.to_owned(),
        };
        Ok(self.rpc.return_read(by_developer(request)).await?.into_inner())
    }

    pub async fn open_by_name(
        &self,
        read: &str,
        reader: &ReaderId,
        request_id: &str,
    ) -> Result<v1::Read, Status> {
        let request = v1::OpenReadRequest {
            read_id: read.to_owned(),
            reader_id: reader.to_string(),
            request_id: request_id.to_owned(),
            reason: "the clinic calls".into(),
        };
        Ok(self.rpc.open_read(by_developer(request)).await?.into_inner())
    }

    pub async fn suspend(
        &self,
        open: &v1::Read,
        reader: &ReaderId,
        request_id: &str,
    ) -> Result<v1::Read, Status> {
        let request = v1::SuspendReadRequest {
            read_id: open.read_id.clone(),
            reader_id: reader.to_string(),
            open_token: open.open_token.clone(),
            reason: v1::SuspendReason::AwaitingPriors.into(),
            bound: None,
            request_id: request_id.to_owned(),
        };
        Ok(self.rpc.suspend_read(by_developer(request)).await?.into_inner())
    }

    pub async fn transfer(
        &self,
        open: &v1::Read,
        reader: &ReaderId,
        to: &ReaderId,
        request_id: &str,
    ) -> Result<v1::Read, Status> {
        let request = v1::TransferReadRequest {
            read_id: open.read_id.clone(),
            reader_id: reader.to_string(),
            open_token: open.open_token.clone(),
            to_reader_id: to.to_string(),
            reason: "knows the case".into(),
            request_id: request_id.to_owned(),
        };
        Ok(self.rpc.transfer_read(by_developer(request)).await?.into_inner())
    }

    pub async fn reassign(&self, read: &str, from: &ReaderId) -> Result<v1::Read, Status> {
        let request = v1::ReassignReadRequest {
            read_id: read.to_owned(),
            reader_id: from.to_string(),
            reason: "gone home".into(),
            request_id: unique(),
        };
        Ok(self.rpc.reassign_read(by_developer(request)).await?.into_inner())
    }

    pub async fn sign(&self, request: v1::SignReadRequest) -> Result<v1::SignReadResponse, Status> {
        Ok(self.rpc.sign_read(by_developer(request)).await?.into_inner())
    }
}

/// A signature of what was opened.
pub(super) fn signature(open: &v1::Read, reader: &ReaderId) -> v1::SignReadRequest {
    v1::SignReadRequest {
        read_id: open.read_id.clone(),
        reader_id: reader.to_string(),
        open_token: open.open_token.clone(),
        findings: "SYNTHETIC".into(),
        impression: "nothing".into(),
        request_id: unique(),
        studies: open.studies.clone(),
        as_of: false,
        ..v1::SignReadRequest::default()
    }
}

pub(super) fn unique() -> String {
    isocenter_runtime::random::uuid_v7().to_string()
}

pub(super) fn by_developer<T>(message: T) -> Request<T> {
    by(message, Role::Developer)
}

pub(super) fn by<T>(message: T, role: Role) -> Request<T> {
    let mut request = Request::new(message);
    request.extensions_mut().insert(Principal { subject: "dev".into(), tenant: tenant(), role });
    request
}

/// Code and reason of a refusal.
pub(super) fn refusal<T: std::fmt::Debug>(result: Result<T, Status>) -> (Code, String) {
    let status = result.expect_err("is refused");
    (status.code(), status.get_details_error_info().map(|info| info.reason).unwrap_or_default())
}
