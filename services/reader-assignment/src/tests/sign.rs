//! Signatures that meet something.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use futures::future::BoxFuture;
use isocenter_domain::record::{read::ReadState, study::StudyState};
use isocenter_store::{
    Error, Key, KeyValue, Kv, LeaseId, Listing, Op, Page, Range, Revision, Status, Txn, TxnAnswer,
    WatchStream, faulty::Faults,
};
use isocenter_testkit::wait_for;
use parking_lot::Mutex;
use tonic::Code;

use super::{Node, PATIENCE, World, anna, boris, complete, read_key, refusal, signature, study};

/// A store that lets something happen just before the next transaction that signs, or makes an offer and loses its
/// answer and every read after it.
#[derive(Clone)]
struct Meddler {
    inner: Arc<dyn Kv>,
    before: Arc<Mutex<Option<BoxFuture<'static, ()>>>>,
    lose_offer: Arc<AtomicBool>,
    away: Arc<AtomicBool>,
}

impl fmt::Debug for Meddler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meddler")
    }
}

#[async_trait]
impl Kv for Meddler {
    async fn get(&self, key: &Key) -> Result<Option<KeyValue>, Error> {
        if self.away.load(Ordering::SeqCst) {
            return Err(Error::Unavailable { why: "meddled with".into() });
        }
        self.inner.get(key).await
    }
    async fn list(&self, range: &Range, page: Page) -> Result<Listing, Error> {
        self.inner.list(range, page).await
    }
    async fn txn(&self, txn: Txn) -> Result<TxnAnswer, Error> {
        let puts = |kind: &str| {
            txn.then.iter().any(|op| matches!(op, Op::Put { key, .. } if key.as_str().starts_with(kind)))
        };
        if puts("holding/") && self.lose_offer.swap(false, Ordering::SeqCst) {
            self.away.store(true, Ordering::SeqCst);
            self.inner.txn(txn).await?;
            return Err(Error::Ambiguous { why: "meddled with".into() });
        }
        if puts("report/") {
            let before = self.before.lock().take();
            if let Some(before) = before {
                before.await;
            }
        }
        self.inner.txn(txn).await
    }
    async fn watch(&self, range: &Range, from: Revision) -> Result<WatchStream, Error> {
        self.inner.watch(range, from).await
    }
    async fn grant(&self, ttl: Duration) -> Result<LeaseId, Error> {
        self.inner.grant(ttl).await
    }
    async fn keep_alive(&self, lease: LeaseId) -> Result<Duration, Error> {
        self.inner.keep_alive(lease).await
    }
    async fn revoke(&self, lease: LeaseId) -> Result<(), Error> {
        self.inner.revoke(lease).await
    }
    async fn compact(&self, at: Revision) -> Result<(), Error> {
        self.inner.compact(at).await
    }
    async fn status(&self) -> Result<Status, Error> {
        self.inner.status().await
    }
    fn progress_interval(&self) -> Duration {
        self.inner.progress_interval()
    }
}

/// A world whose one node is meddled with.
async fn meddled() -> (Arc<World>, Node, Meddler) {
    let world = Arc::new(World::new().await);
    let meddler = Meddler {
        inner: Arc::clone(&world.kv),
        before: Arc::default(),
        lose_offer: Arc::default(),
        away: Arc::default(),
    };
    let node = world.node_over(Arc::new(meddler.clone()), "a:1").await;
    node.leads().await;
    world.present(&anna()).await;
    world.present(&boris()).await;
    world.waiting(1, &node).await;
    (world, node, meddler)
}

#[tokio::test(flavor = "multi_thread")]
async fn images_that_arrive_while_a_read_is_open_stop_the_signature_until_they_are_seen() {
    let (world, node, _) = meddled().await;
    let open = node.take(&anna()).await;
    world.study(1, &study(1, StudyState::Receiving)).await;
    assert_eq!(
        refusal(node.sign(signature(&open, &anna())).await),
        (Code::FailedPrecondition, "NEW_IMAGES".into())
    );
    world.study(1, &complete(2)).await;
    assert_eq!(refusal(node.sign(signature(&open, &anna())).await).1, "NEW_IMAGES");
    let again = node.open(&open.read_id, &anna(), "again").await.unwrap();
    assert_eq!(again.studies[0].revision, 2);
    node.sign(signature(&again, &anna())).await.unwrap();
    assert_eq!(world.report(1, 1).await.unwrap().studies[0].revision, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_image_between_the_look_and_the_commit_stops_the_signature_too() {
    let (world, node, meddler) = meddled().await;
    let open = node.take(&anna()).await;
    let later = Arc::clone(&world);
    *meddler.before.lock() = Some(Box::pin(async move { later.study(1, &complete(2)).await }));
    assert_eq!(refusal(node.sign(signature(&open, &anna())).await).1, "NEW_IMAGES");
    assert!(world.report(1, 1).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_study_that_moved_at_the_same_revision_is_signed_all_the_same() {
    let (world, node, meddler) = meddled().await;
    let open = node.take(&anna()).await;
    let later = Arc::clone(&world);
    *meddler.before.lock() = Some(Box::pin(async move {
        later.study(1, &study(1, StudyState::Receiving)).await;
        later.study(1, &complete(1)).await;
    }));
    node.sign(signature(&open, &anna())).await.unwrap();
    assert!(world.report(1, 1).await.is_some());
}

#[tokio::test(flavor = "multi_thread")]
async fn signing_as_of_what_was_seen_creates_the_discrepancy_read_with_it() {
    let (world, node, meddler) = meddled().await;
    let open = node.take(&anna()).await;
    let later = Arc::clone(&world);
    *meddler.before.lock() = Some(Box::pin(async move { later.study(1, &complete(2)).await }));
    let mut request = signature(&open, &anna());
    request.as_of = true;
    node.sign(request).await.unwrap();
    let (first, second) = (read_key(1, 1), read_key(1, 2));
    let signed = world.get::<isocenter_domain::record::read::Read>(&first).await.unwrap();
    let next = world.get::<isocenter_domain::record::read::Read>(&second).await.unwrap();
    assert_eq!(signed.mod_revision, next.mod_revision, "one transaction");
    assert_eq!(next.record.state, ReadState::Waiting);
    node.reconcile(1).await;
    assert!(world.get::<isocenter_domain::record::read::Read>(&read_key(1, 3)).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_read_taken_back_before_the_commit_is_not_signed_and_its_text_is_kept() {
    let (world, node, meddler) = meddled().await;
    let open = node.take(&anna()).await;
    let second = world.node("b:1").await;
    let id = open.read_id.clone();
    *meddler.before.lock() = Some(Box::pin(async move {
        second.reassign(&id, &anna()).await.unwrap();
    }));
    assert_eq!(refusal(node.sign(signature(&open, &anna())).await), (Code::Aborted, "STALE_TOKEN".into()));
    let read = world.read(1, 1).await;
    assert_eq!((read.state, read.drafts.len()), (ReadState::Waiting, 1));
    assert!(world.report(1, 1).await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_signature_at_two_replicas_is_one_report() {
    let (world, node, _) = meddled().await;
    let second = world.node("b:1").await;
    let open = node.take(&anna()).await;
    let request = signature(&open, &anna());
    let (a, b) = tokio::join!(node.sign(request.clone()), second.sign(request.clone()));
    let (a, b) = (a.unwrap(), b.unwrap());
    assert_eq!((a.sha256, a.version), (b.sha256, b.version));
    let key =
        isocenter_domain::key::ReportKey { tenant: super::tenant(), read: read_key(1, 1).read, version: 1 };
    let report = world.get::<isocenter_domain::record::report::Report>(&key).await.unwrap();
    assert_eq!(report.head.seq, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stranger_cannot_push_a_draft_onto_a_read() {
    let (world, node, _) = meddled().await;
    let open = node.take(&anna()).await;
    assert_eq!(refusal(node.sign(signature(&open, &boris())).await), (Code::Aborted, "STALE_TOKEN".into()));
    assert!(world.read(1, 1).await.drafts.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signature_names_exactly_the_studies_and_says_something() {
    let (_world, node, _) = meddled().await;
    let open = node.take(&anna()).await;
    let wrong = |change: fn(&mut isocenter_wire::v1::SignReadRequest)| {
        let mut request = signature(&open, &anna());
        change(&mut request);
        node.sign(request)
    };
    assert_eq!(refusal(wrong(|r| r.studies.clear()).await).0, Code::InvalidArgument);
    assert_eq!(refusal(wrong(|r| r.studies.push(r.studies[0].clone())).await).0, Code::InvalidArgument);
    assert_eq!(refusal(wrong(|r| r.studies[0].revision = 7).await).0, Code::InvalidArgument);
    assert_eq!(refusal(wrong(|r| r.impression = " \n".into()).await).0, Code::InvalidArgument);
    assert_eq!(refusal(wrong(|r| r.findings = "x".repeat(256 * 1024)).await).0, Code::InvalidArgument);
    assert_eq!(refusal(wrong(|r| r.request_id.clear()).await).0, Code::InvalidArgument);
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_answers_the_store_loses_a_signature_is_one_report() {
    for seed in 0..8 {
        let world = World::new().await;
        let faulty = world.faulty(seed);
        let node = world.node_over(Arc::clone(&faulty) as Arc<dyn Kv>, "a:1").await;
        node.leads().await;
        world.present(&anna()).await;
        world.waiting(1, &node).await;
        let open = node.take(&anna()).await;
        faulty.set(Faults { timeout_before: 0.2, timeout_after: 0.5, conflict: 0.3, ..Faults::default() });
        let request = signature(&open, &anna());
        let mut tries = 0;
        let signed = loop {
            match node.sign(request.clone()).await {
                Ok(signed) => break signed,
                Err(status) => {
                    assert!(
                        matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Aborted),
                        "seed {seed}: {status:?}"
                    );
                    tries += 1;
                    assert!(tries < 200, "seed {seed}: {status:?}");
                }
            }
        };
        faulty.set(Faults::default());
        assert_eq!(node.sign(request.clone()).await.unwrap(), signed);
        assert_eq!(world.report(1, 1).await.unwrap().request_id, request.request_id);
        node.tasks.drain(Duration::from_secs(5)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offer_whose_answer_is_lost_freezes_read_and_reader_until_it_is_read_back() {
    let (world, node, meddler) = meddled().await;
    meddler.lose_offer.store(true, Ordering::SeqCst);
    assert_eq!(refusal(node.next(&anna()).await).0, Code::Unknown);
    assert_eq!(refusal(node.next(&anna()).await), (Code::Aborted, "CONFLICT".into()), "the reader is frozen");
    let read = read_key(1, 1).read;
    let waits = || node.desk.board.explain(&super::tenant(), &read, node.desk.now(), &[]).is_some();
    assert!(!waits(), "the read is frozen");
    meddler.away.store(false, Ordering::SeqCst);
    assert_eq!(node.next(&boris()).await.unwrap(), None);
    wait_for("the offer to be read back", PATIENCE, || async {
        node.next(&anna()).await.is_ok_and(|offered| offered.is_some())
    })
    .await;
    assert!(!waits());
    assert_eq!(world.holding(&anna()).await.offered, Some(read));
}

#[tokio::test(flavor = "multi_thread")]
async fn hands_bound_to_a_read_that_is_gone_are_freed() {
    let (world, node, _) = meddled().await;
    let key = isocenter_domain::key::HoldingKey { tenant: super::tenant(), reader: anna() };
    let gone = Some(read_key(9, 1).read);
    let bound =
        isocenter_domain::record::read::Holding { offered: gone.clone(), open: gone, suspended: Vec::new() };
    world.put(&key, &bound).await;
    assert!(node.next(&anna()).await.unwrap().is_some());
}
