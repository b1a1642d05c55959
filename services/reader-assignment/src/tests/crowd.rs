//! Two hundred readers at two replicas over a real etcd, while the leader is paused past its lease and the next one loses
//! its own: no read is ever in two hands, and none is lost.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::RangeInclusive,
    sync::Arc,
    time::Duration,
};

use isocenter_blobs::Blobs;
use isocenter_domain::{
    id::ReaderId,
    key::StudyKey,
    record::{
        RecordKind,
        read::{Holding, Read, ReadState},
        registry::{Entry, Reader, Sites, Skill},
        report::Report,
    },
};
use isocenter_runtime::{
    clock, config::Period, metrics::Metrics, nodes::Nodes, random::Seeded, secret::Secret, task::Tasks,
};
use isocenter_store::{
    Key, Kv, Op, Txn,
    members::Shares,
    table::{Cause, Mirrors, Tables, kind_range},
};
use isocenter_testkit::{EtcdServer, Link, Proxy, wait_for};
use isocenter_wire::v1::{self, reader_assignment_server::ReaderAssignment as _};
use parking_lot::Mutex;
use tokio::time::MissedTickBehavior;
use tonic::{Code, Status};

use super::{PATIENCE, by_developer, case, case_key, complete, signature, tenant, uid, unique};
use crate::{Config, Deps, Service, desk::Desk, presence, rpc::Rpc};

const READERS: u32 = 200;
const CASES: u32 = 300;
/// The share of offers that are declined, and of those that are left lying.
const DECLINED: f64 = 0.1;
const IGNORED: f64 = 0.05;

#[derive(Clone)]
struct Replica {
    desk: Arc<Desk>,
    rpc: Rpc,
    link: Proxy,
}

/// What the readers say that happened.
#[derive(Default)]
struct Seen {
    /// Who has which read open, by what they were answered.
    open: BTreeMap<String, ReaderId>,
    signed: BTreeSet<String>,
    /// Reads that were open with two.
    broken: Vec<String>,
}

async fn tables(kv: &Arc<dyn Kv>) -> Tables {
    let secret = Secret::new([1; 32]);
    Tables::open(Arc::clone(kv), clock::system(), "cell".parse().unwrap(), &secret).await.unwrap()
}

async fn replica(etcd: &EtcdServer, blobs: &str, tasks: &Tasks) -> Replica {
    let link = Proxy::start(vec![etcd.endpoint().parse().unwrap()], tasks).await.unwrap();
    let kv = isocenter_store::open(&format!("etcd://{}", link.address())).await.unwrap();
    let tables = tables(&kv).await;
    // What is left lying is to come back within the test.
    let config = Config { offer: Period(Duration::from_secs(2)), presence: Period(Duration::from_secs(2)) };
    let deps = Deps {
        mirrors: Mirrors::new(tables.clone(), tasks),
        tables,
        shares: Shares::all(),
        blobs: Blobs::open(blobs).unwrap(),
        metrics: Metrics::new(),
        tasks: tasks.clone(),
        // Nobody answers there: the readers ask the other replica themselves.
        address: "127.0.0.1:1".to_owned(),
        nodes: Nodes::default(),
    };
    let service = Service::build(config, deps).unwrap();
    let desk = Arc::clone(&service.desk);
    tasks.essential("service", service.run());
    Replica { rpc: Rpc::new(Arc::clone(&desk), Nodes::default()), desk, link }
}

fn reader(n: u32) -> ReaderId {
    format!("r{n}").parse().unwrap()
}

/// Writes cases, many at a time.
async fn fill(kv: &Arc<dyn Kv>, cases: RangeInclusive<u32>) {
    let tables = &tables(kv).await;
    futures::future::join_all(cases.map(|n| async move {
        let mut change = tables.change(Cause::role("test"));
        change.create(&StudyKey { tenant: tenant(), study: uid(n) }, &complete(1), "made", "");
        change.create(&case_key(n), &case(&[n]), "made", "");
        change.commit().await.unwrap();
    }))
    .await;
}

/// Writes the readers, each present.
async fn register(kv: &Arc<dyn Kv>) {
    let tables = &tables(kv).await;
    futures::future::join_all((0..READERS).map(|n| async move {
        let skills = vec![Skill { modality: "CT".into(), body_part: "*".into() }];
        let pools = vec!["general".parse().unwrap()];
        let entry = Entry::Reader(Reader { skills, sites: Sites::All, pools, ..Reader::default() });
        let mut change = tables.change(Cause::role("test"));
        change.create(&crate::view::reader_key(&tenant(), &reader(n)), &entry, "made", "");
        change.commit().await.unwrap();
        let sign = Op::put(&presence::key(&tenant(), &reader(n)), "test 1");
        kv.txn(Txn::always(vec![sign])).await.unwrap();
    }))
    .await;
}

/// Asks both replicas, since either may lead.
async fn next(replicas: &[Replica; 2], who: &ReaderId) -> Option<v1::Read> {
    for replica in replicas {
        let request = v1::NextReadRequest { reader_id: who.to_string(), request_id: unique() };
        let asked = replica.rpc.next_read(by_developer(request));
        if let Ok(Ok(answer)) = tokio::time::timeout(Duration::from_secs(2), asked).await
            && let Some(read) = answer.into_inner().read
        {
            return Some(read);
        }
    }
    None
}

/// The same call with the same request until it is answered, at one replica or the other; none: refused for good.
async fn persist<T, F>(replicas: &[Replica; 2], call: impl Fn(Rpc) -> F) -> Option<T>
where
    F: Future<Output = Result<tonic::Response<T>, Status>>,
{
    let mut tick = tokio::time::interval(Duration::from_millis(20));
    for turn in 0_usize.. {
        let replica = &replicas[turn % 2];
        match tokio::time::timeout(Duration::from_secs(2), call(replica.rpc.clone())).await {
            Ok(Ok(answer)) => return Some(answer.into_inner()),
            Ok(Err(status)) if matches!(status.code(), Code::FailedPrecondition | Code::NotFound) => {
                return None;
            }
            Ok(Err(_)) | Err(_) => tick.tick().await,
        };
    }
    None
}

async fn work(replicas: [Replica; 2], who: ReaderId, seen: Arc<Mutex<Seen>>, mut rng: Seeded) {
    let mut tick = tokio::time::interval(Duration::from_millis(750));
    // A reader who was held up does not hurry afterwards.
    tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while seen.lock().signed.len() < usize::try_from(CASES).unwrap() {
        tick.tick().await;
        let Some(offered) = next(&replicas, &who).await else { continue };
        if rng.chance(IGNORED) {
            continue;
        }
        let (read_id, request_id) = (offered.read_id.clone(), unique());
        if rng.chance(DECLINED) {
            give_back(&replicas, &who, &read_id).await;
            continue;
        }
        let opened = persist(&replicas, |rpc| {
            let request = v1::OpenReadRequest {
                read_id: read_id.clone(),
                reader_id: who.to_string(),
                request_id: request_id.clone(),
                ..v1::OpenReadRequest::default()
            };
            async move { rpc.open_read(by_developer(request)).await }
        });
        let Some(open) = opened.await else { continue };
        {
            let seen = &mut *seen.lock();
            if let Some(other) = seen.open.insert(read_id.clone(), who.clone()) {
                seen.broken.push(format!("{read_id}: {other} and {who}"));
            }
        }
        tick.tick().await;
        seen.lock().open.remove(&read_id);
        let request = signature(&open, &who);
        let signed = persist(&replicas, |rpc| {
            let request = request.clone();
            async move { rpc.sign_read(by_developer(request)).await }
        });
        assert!(signed.await.is_some(), "what was open is signed: {read_id} by {who}");
        assert!(seen.lock().signed.insert(read_id), "once");
    }
}

async fn give_back(replicas: &[Replica; 2], who: &ReaderId, read_id: &str) {
    let request_id = unique();
    let back = persist(replicas, |rpc| {
        let request = v1::ReturnReadRequest {
            read_id: read_id.to_owned(),
            reader_id: who.to_string(),
            reason: v1::ReturnReason::Interrupted.into(),
            request_id: request_id.clone(),
            ..v1::ReturnReadRequest::default()
        };
        async move { rpc.return_read(by_developer(request)).await }
    });
    drop(back.await);
}

fn leading(replicas: &[Replica; 2]) -> Option<usize> {
    let leads = |replica: &Replica| replica.desk.leadership.fence().is_some();
    match replicas.each_ref().map(leads) {
        [true, false] => Some(0),
        [false, true] => Some(1),
        [false, false] | [true, true] => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_readers_never_share_a_read_and_lose_none_as_leaders_fall() {
    let rng = Seeded::fresh();
    let etcd = EtcdServer::start();
    let folder = tempfile::tempdir().unwrap();
    let tasks = Tasks::new();
    let kv = isocenter_store::open(&format!("etcd://{}", etcd.endpoint())).await.unwrap();
    register(&kv).await;
    fill(&kv, 1..=CASES / 2).await;
    let blobs = folder.path().join("blobs");
    let blobs = blobs.to_str().unwrap();
    let replicas = [replica(&etcd, blobs, &tasks).await, replica(&etcd, blobs, &tasks).await];
    wait_for("one leader", PATIENCE, || async { leading(&replicas).is_some() }).await;

    let seen = Arc::new(Mutex::new(Seen::default()));
    for n in 0..READERS {
        let rng = rng.fork(&format!("reader {n}"));
        tasks.background("reader", work(replicas.clone(), reader(n), Arc::clone(&seen), rng));
    }
    let signed = || seen.lock().signed.len();
    wait_for("some signatures", 2 * PATIENCE, || async { signed() > 40 }).await;

    // The leader is paused past its lease, and goes on believing for a while.
    let paused = leading(&replicas).expect("one leads");
    replicas[paused].link.set(Link::Held);
    wait_for("another leader", 2 * PATIENCE, || async {
        replicas[1 - paused].desk.leadership.fence().is_some()
    })
    .await;
    let before = signed();
    fill(&kv, CASES / 2 + 1..=CASES).await;
    wait_for("work under it", 2 * PATIENCE, || async { signed() > before }).await;
    replicas[paused].link.set(Link::Open);

    // The next one loses its lease at once.
    let leader = Key::new("leader/reader-assignment").unwrap();
    kv.txn(Txn::always(vec![Op::delete(&leader)])).await.unwrap();
    wait_for("every read to be signed", 2 * PATIENCE, || async { signed() >= CASES as usize }).await;

    let tables = tables(&kv).await;
    let (reads, _) = tables.list::<Read>(&kind_range(RecordKind::Read)).await.unwrap();
    let done = reads.iter().filter(|read| matches!(read.record.state, ReadState::Signed { .. })).count();
    let (reports, _) = tables.list::<Report>(&kind_range(RecordKind::Report)).await.unwrap();
    assert_eq!((reads.len(), done, reports.len()), (300, 300, 300), "none is lost and none is double");
    assert_eq!(seen.lock().broken, Vec::<String>::new(), "a read was in two hands; seed {rng:?}");
    let (hands, _) = tables.list::<Holding>(&kind_range(RecordKind::Holding)).await.unwrap();
    assert!(hands.iter().all(|hands| hands.record.open.is_none()), "a reader's hands are not empty");
    tasks.abort_now();
}
