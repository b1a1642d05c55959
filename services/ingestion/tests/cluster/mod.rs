//! Several nodes over one store and one folder of blobs: what they receive of one study becomes one study, whichever of them
//! dies meanwhile.

mod lost;
mod outage;
mod races;

use std::{collections::BTreeSet, path::PathBuf, sync::Arc, time::Duration};

use bytes::Bytes;
use isocenter_blobs::path;
use isocenter_dimse::{Scu, StoreStatus, part10::FileMeta, scu::Source};
use isocenter_domain::{
    access::{Principal, Role},
    document::Manifest,
    id::NodeId,
    key::{StudyKey, text},
    record::study::{Doubt, Evidence, Study, StudyState},
    refs::Digest,
};
use isocenter_ingestion::{Ack, Dicom};
use isocenter_peers::{LOOPBACK, synthetic::StudyKind};
use isocenter_runtime::{config::Size, fs, metrics::Metrics, task::Tasks};
use isocenter_store::{
    Key, Kv as _, Op, Txn,
    embedded::{Embedded, EmbeddedOptions},
    kv,
    space::{Pressure, Space},
    table::parse_outbox_key,
};
use isocenter_testkit::wait_for;
use isocenter_wire::{document::Stored as _, record as wire, v1};

use crate::world::*;

const BOUND: Duration = Duration::from_secs(2);

fn dicom(ack: Ack) -> Dicom {
    Dicom { listen: LOOPBACK, min_free: Size(0), ack, ..Dicom::default() }
}

impl World {
    /// A node whose studies wait at most [`BOUND`].
    async fn hasty(&self, spool: &str, ack: Ack) -> Node {
        self.node_with(self.spool(spool), fs::os(), dicom(ack), BOUND).await
    }
}

/// Keeps images out of blobs, so that whoever has them has them pending however slow the machine is: a file lies where the folder
/// of each belongs.
fn keep_out(world: &World, key: &StudyKey, files: &[Bytes]) -> Vec<PathBuf> {
    let mut places = Vec::new();
    for file in files {
        let uid = FileMeta::read(&mut &file[..]).unwrap().sop_instance;
        let study = format!("blobs/instance/{}/{}", key.tenant, key.study);
        std::fs::create_dir_all(world.folder.path().join(&study)).unwrap();
        places.push(world.folder.path().join(study).join(uid.as_str()));
        std::fs::write(places.last().unwrap(), b"").unwrap();
    }
    places
}

fn let_in(places: &[PathBuf]) {
    for place in places {
        std::fs::remove_file(place).unwrap();
    }
}

impl Node {
    /// Sends files on an association that stays open.
    async fn keeps_open(&self, files: &[Bytes]) -> Scu {
        let mut scu = self.associate("CT1", files).await.unwrap();
        for file in files {
            assert_eq!(scu.store(Source::Bytes(file.clone())).await.unwrap(), StoreStatus::SUCCESS);
        }
        scu
    }

    /// Ends it as a kill does: nothing that it would still have done is done.
    async fn dies(self) -> NodeId {
        self.tasks.abort_now();
        wait_for("its end", SOON, async || self.tasks.is_empty()).await;
        self.id
    }
}

fn doubt(state: &StudyState) -> (Evidence, Doubt) {
    let StudyState::Complete { evidence, doubt: Some(doubt) } = state else { panic!("no doubt: {state:?}") };
    (*evidence, doubt.clone())
}

fn all(files: &[Bytes]) -> BTreeSet<Digest> {
    files.iter().map(data_set).collect()
}

fn release(study: &StudyKey, request_id: &str) -> v1::ReleaseStudyRequest {
    v1::ReleaseStudyRequest {
        study_instance_uid: study.study.to_string(),
        reason: "the disk of node b is lost".into(),
        request_id: request_id.into(),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_dies_holds_its_study_up_to_the_bound_and_what_it_had_is_a_revision_when_it_returns() {
    let world = World::new().await;
    let (a, b) = (world.hasty("a", Ack::Spool).await, world.hasty("b", Ack::Spool).await);
    let (key, files) = made(50, StudyKind::CtHead);
    let (left, right) = files.split_at(files.len() / 2);
    let kept_out = keep_out(&world, &key, right);
    let _open = b.keeps_open(right).await;
    let b = b.dies().await;
    a.sends(left).await;
    wait_for("what a received", SOON, async || {
        world.intake(&key, &a.id).await.is_some_and(|intake| intake.settled())
    })
    .await;
    assert!(
        !world.intake(&key, &b).await.unwrap().settled(),
        "nobody but the node itself settles its account"
    );
    let (study, manifest) = world.complete(&key, 1).await;
    let (evidence, doubt) = doubt(&study.state);
    assert_eq!((evidence, &doubt.node), (Evidence::AssemblyBound, &b));
    assert_eq!(doubt.pending as usize, world.intake(&key, &b).await.unwrap().pending as usize);
    assert_eq!(data_sets(&manifest.images), all(left));

    let_in(&kept_out);
    let back = world.hasty("b", Ack::Spool).await;
    assert_eq!(back.id, b, "the spool is the node");
    let (study, manifest) = world.complete(&key, 2).await;
    assert!(matches!(study.state, StudyState::Complete { doubt: None, .. }));
    assert_eq!(data_sets(&manifest.images), all(&files));
    wait_for("its account", SOON, async || world.intake(&key, &b).await.unwrap().settled()).await;
    a.stop().await;
    back.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_operator_ends_the_waiting_for_a_node_and_says_why() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (key, files) = made(51, StudyKind::CtHead);
    let (left, right) = files.split_at(files.len() / 2);
    let kept_out = keep_out(&world, &key, right);
    let _open = b.keeps_open(right).await;
    let b = b.dies().await;
    let mut operator = a.client(tenant());
    let nothing = operator.release_study(release(&key, "0")).await.unwrap_err();
    assert_eq!(nothing.code(), tonic::Code::FailedPrecondition, "nothing is in blobs: {nothing}");
    a.sends(left).await;
    wait_for("what a received", SOON, async || {
        world.intake(&key, &a.id).await.is_some_and(|intake| intake.settled())
    })
    .await;

    let reader = Role::Reader("anna".parse().unwrap());
    let principal = Principal { subject: "anna".into(), tenant: tenant(), role: reader };
    let refused = a.client_of(principal).release_study(release(&key, "1")).await.unwrap_err();
    assert_eq!(refused.code(), tonic::Code::PermissionDenied);
    let elsewhere =
        a.client("elsewhere".parse().unwrap()).release_study(release(&key, "1")).await.unwrap_err();
    assert_eq!(elsewhere.code(), tonic::Code::NotFound);
    let silent = v1::ReleaseStudyRequest { reason: " ".into(), ..release(&key, "1") };
    assert_eq!(operator.release_study(silent).await.unwrap_err().code(), tonic::Code::InvalidArgument);

    for _ in 0..2 {
        let shown = operator.release_study(release(&key, "1")).await.unwrap().into_inner().study.unwrap();
        assert_eq!((shown.revision, shown.evidence.as_str()), (1, "released"));
        assert!(
            shown.doubt.contains(b.as_str()) && shown.doubt.ends_with("when it was released"),
            "{}",
            shown.doubt
        );
    }
    let (study, manifest) = world.complete(&key, 1).await;
    assert_eq!(doubt(&study.state).1.node, b);
    assert_eq!(data_sets(&manifest.images), all(left));
    assert!(world.intake(&key, &b).await.unwrap().settled(), "it can be closed");
    let event = world.event_of(&text(&key), "completed").await;
    assert_eq!((event.actor.as_str(), event.reason.as_str()), ("dev", "the disk of node b is lost"));

    // The disk turns up.
    let_in(&kept_out);
    let back = world.node("b").await;
    let (_, manifest) = world.complete(&key, 2).await;
    assert_eq!(data_sets(&manifest.images), all(&files));
    a.stop().await;
    back.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_waits_for_a_node_that_was_given_up() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let studies: Vec<_> = (52..55).map(|seed| made(seed, StudyKind::CtHead)).collect();
    let (alone, only_b) = made(55, StudyKind::CrChestOpacity);
    keep_out(&world, &alone, &only_b);
    let mut open = vec![b.keeps_open(&only_b).await];
    for (key, files) in &studies {
        keep_out(&world, key, &files[..3]);
        open.push(b.keeps_open(&files[..3]).await);
    }
    let b = b.dies().await;
    for (_, files) in &studies {
        a.sends(&files[3..]).await;
    }
    for (key, _) in &studies {
        wait_for("what a received", SOON, async || {
            world.intake(key, &a.id).await.is_some_and(|intake| intake.settled())
        })
        .await;
    }
    let request = v1::ReleaseNodeRequest {
        node_id: b.to_string(),
        reason: "its machine burnt".into(),
        request_id: "1".into(),
    };
    let mut operator = a.client(tenant());
    let answer = operator.release_node(request.clone()).await.unwrap().into_inner();
    let released: BTreeSet<_> = answer.study_instance_uids.iter().cloned().collect();
    assert_eq!(released, studies.iter().map(|(key, _)| key.study.to_string()).collect());
    assert_eq!((answer.without_images, answer.more), (vec![alone.study.to_string()], false));
    for (key, files) in &studies {
        let (study, manifest) = world.complete(key, 1).await;
        assert_eq!(doubt(&study.state).1.node, b);
        assert_eq!(data_sets(&manifest.images), all(&files[3..]));
    }
    let again = operator.release_node(request).await.unwrap().into_inner();
    assert!(again.study_instance_uids.is_empty());
    a.stop().await;
}

/// Sends all to `b`, which is then lost with its spool, and answers what `a` can make of the study.
async fn left_of(ack: Ack) -> usize {
    let world = World::new().await;
    let (a, b) = (world.hasty("a", ack).await, world.hasty("b", ack).await);
    let (key, files) = made(56, StudyKind::CtHead);
    if ack == Ack::Spool {
        keep_out(&world, &key, &files[1..]);
    }
    let _open = b.keeps_open(&files[1..]).await;
    let b = b.dies().await;
    std::fs::remove_dir_all(world.spool("b")).unwrap();
    a.sends(&files[..1]).await;
    let (study, manifest) = world.complete(&key, 1).await;
    assert_eq!(doubt(&study.state).1.node, b);
    a.stop().await;
    data_sets(&manifest.images).intersection(&all(&files[1..])).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_acknowledged_for_blobs_outlives_the_node_and_its_disk() {
    let (_, files) = made(56, StudyKind::CtHead);
    let (blobs, spool) = tokio::join!(left_of(Ack::Blobs), left_of(Ack::Spool));
    assert_eq!(blobs, files.len() - 1);
    assert_eq!(spool, 0, "the test would not notice a loss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_blobs_cannot_be_written_nothing_is_acknowledged_for_them_and_nothing_is_lost() {
    let world = World::new().await;
    let node = world.node_with(world.spool("a"), fs::os(), dicom(Ack::Blobs), SOON).await;
    let (key, files) = made(57, StudyKind::CtHead);
    // A file where the folder of all instances belongs.
    let instances = world.folder.path().join("blobs/instance");
    std::fs::write(&instances, b"").unwrap();
    let answers = node.send(&files).await;
    assert!(answers.iter().all(|status| status.code() == 0xA700), "{answers:?}");
    node.shows(&format!("instances_total{{outcome=\"blobs-failed\"}} {}", files.len())).await;
    std::fs::remove_file(&instances).unwrap();
    node.sends(&files).await;
    let (_, manifest) = world.complete(&key, 1).await;
    assert_eq!(data_sets(&manifest.images), all(&files));
    node.shows("spool_files 0").await;
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_nearly_full_refuses_instances_and_takes_them_when_it_has_room() {
    let world = World::new().await;
    let tasks = Tasks::new();
    let options =
        EmbeddedOptions { quota_bytes: 64 << 10, ..EmbeddedOptions::new(world.folder.path().join("small")) };
    let small = Arc::new(Embedded::open(options).await.unwrap());
    let fillers: Vec<_> = (0..13).map(|n| Key::new(format!("k{n}")).unwrap()).collect();
    let fill = fillers.iter().map(|key| Op::put(key, "x".repeat(4000))).collect();
    small.txn(Txn::always(fill)).await.unwrap();
    let space = Space::start(Arc::<Embedded>::clone(&small), &Metrics::new(), &tasks);
    let node = world.node_over(world.spool("a"), fs::os(), dicom(Ack::Spool), SOON, space.clone()).await;
    wait_for("a look at the store", SOON, async || space.usage().is_some()).await;
    let (key, files) = made(58, StudyKind::CtHead);
    assert!(node.send(&files).await.iter().all(|status| status.code() == 0xA700));
    node.shows(&format!("instances_total{{outcome=\"store-full\"}} {}", files.len())).await;
    let emptied = small.txn(Txn::always(fillers.iter().map(Op::delete).collect())).await.unwrap();
    small.compact(emptied.revision).await.unwrap();
    wait_for("room", SOON * 2, async || space.pressure() != Pressure::Full).await;
    node.sends(&files).await;
    world.complete(&key, 1).await;
    node.stop().await;
    tasks.drain(SOON).await;
}

impl World {
    /// Whether the study is complete with exactly these images.
    async fn has(&self, key: &StudyKey, wanted: &BTreeSet<Digest>) -> bool {
        let Ok(Some(study)) = self.tables.load::<Study>(key).await else { return false };
        if !matches!(study.record.state, StudyState::Complete { .. }) {
            return false;
        }
        let path = path::manifest(&key.tenant, &key.study, study.record.revision);
        let bytes = self.blobs.get_checked(&path, &study.record.manifest.unwrap()).await.unwrap();
        data_sets(&Manifest::decode(&bytes).unwrap().images) == *wanted
    }

    /// The event of that name in the outbox of a record.
    async fn event_of(&self, record: &str, name: &str) -> isocenter_domain::document::Event {
        let range = isocenter_store::Range::prefix("outbox/").unwrap();
        let listing = kv::list_all(self.tables.kv().as_ref(), &range).await.unwrap();
        let mut events = listing.items.iter().filter_map(|item| {
            let (key, seq) = parse_outbox_key(&Key::new(item.key.as_str()).unwrap())?;
            let event = wire::decode_event(&key, seq, &item.value).unwrap();
            (key == record && event.event == name).then_some(event)
        });
        events.next().unwrap()
    }
}
