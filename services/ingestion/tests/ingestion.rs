//! A whole ingestion node against real associations, an embedded store and folders: nothing is simulated but the devices.

mod cluster;
mod world;

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use isocenter_blobs::path;
use isocenter_dimse::{
    Scu, StoreStatus,
    part10::FileMeta,
    scu::{ScuError, Source},
};
use isocenter_domain::{
    document::{Images, Manifest},
    key::IntakeKey,
    record::{
        intake::Intake,
        study::{Evidence, Study, StudyState},
    },
    refs::Digest,
};
use isocenter_ingestion::{Dicom, spool::Spool};
use isocenter_peers::{LOOPBACK, synthetic::StudyKind};
use isocenter_runtime::{config::Size, fs, secret::Secret, telemetry::testing::TestSpans};
use isocenter_store::{faulty::Faults, table::Cause};
use isocenter_testkit::{NoSyncFs, PowerCutFs, wait_for};
use isocenter_wire::{document::Stored as _, v1};

use crate::world::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_sent_is_complete_with_every_byte_in_blobs_and_nothing_in_the_spool() {
    let spans = TestSpans::install();
    let world = World::new().await;
    let node = world.node("a").await;
    let (key, files) = made(1, StudyKind::CtStroke);
    node.sends(&files).await;
    let (study, manifest) = world.complete(&key, 1).await;

    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect());
    for (_, _, instance) in manifest.images.instances() {
        let path = path::instance(&key.tenant, &key.study, &instance.instance, &instance.sha256);
        let bytes = world.blobs.get_checked(&path, &instance.sha256).await.unwrap();
        assert_eq!((bytes.len() as u64, data_set(&bytes)), (instance.size, instance.data_set));
    }
    assert!(matches!(study.state, StudyState::Complete { evidence: Evidence::QuietPeriod, doubt: None }));
    let facts = &study.facts;
    assert_eq!((facts.modalities.as_slice(), facts.series), (["CT".to_owned()].as_slice(), 2));
    assert_eq!((facts.instances as usize, facts.images as usize), (files.len(), files.len()));
    let secret = Secret::new([1; 32]);
    let patient = &manifest.images.patient;
    let expected = secret.reference("patient", &["net", &patient.authority, patient.id.reveal()]);
    assert_eq!((facts.patient, facts.accession.is_some()), (Some(expected), true));

    let intake = world.intake(&key, &node.id).await.unwrap();
    assert!(intake.settled() && intake.stored as usize == files.len() && intake.bytes == facts.bytes);
    let stored = world.tables.load::<Study>(&key).await.unwrap().unwrap();
    let work: BTreeSet<String> = spans.of(&stored.head.trace).into_iter().map(|span| span.name).collect();
    for name in ["move instances", "assemble study", "study"] {
        assert!(work.contains(name), "{name} is not in the study's trace: {work:?}");
    }
    let gauge = "isocenter_studies{stage=\"complete\"} 1";
    wait_for(gauge, SOON, async || node.metrics.render().unwrap().lines().any(|line| line == gauge)).await;
    wait_for("an empty spool", SOON, async || files_below(&world.spool("a").join("ready")) == 0).await;
    assert!(node.metric(&format!("instances_total{{outcome=\"stored\"}} {}", files.len())));
    assert!(node.metric("spool_files 0") && node.metric("spool_bytes 0"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_is_no_news_a_late_image_is_a_revision_and_a_contradiction_is_put_aside() {
    let world = World::new().await;
    let node = world.node("a").await;
    let (key, files) = made(2, StudyKind::CtHead);
    let (late, early) = files.split_last().unwrap();
    node.sends(early).await;
    let (first, _) = world.complete(&key, 1).await;

    node.sends(early).await;
    node.shows(&format!("moved_total{{outcome=\"repeated\"}} {}", early.len())).await;
    wait_for("a settled intake", SOON, async || world.intake(&key, &node.id).await.unwrap().settled()).await;
    assert_eq!(world.study(&key).await.unwrap().revision, 1);

    node.sends(std::slice::from_ref(late)).await;
    let (second, manifest) = world.complete(&key, 2).await;
    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect());
    assert_eq!(second.complete_at, first.complete_at, "deadlines count from revision 1");

    let other = altered(&files[0]);
    node.sends(std::slice::from_ref(&other)).await;
    let (_, manifest) = world.complete(&key, 3).await;
    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect(), "what came first stays");
    let [aside] = manifest.images.quarantined.as_slice() else { panic!("one is put aside") };
    let at = path::quarantine(&key.tenant, &key.study, &aside.instance, &aside.sha256);
    let bytes = world.blobs.get_checked(&at, &aside.sha256).await.unwrap();
    assert_eq!(data_set(&bytes), data_set(&other));
    assert_eq!(world.intake(&key, &node.id).await.unwrap().quarantined, 1);
    // Sent again, it is known.
    node.sends(&[other]).await;
    node.shows(&format!("moved_total{{outcome=\"repeated\"}} {}", early.len() + 1)).await;
    node.stop().await;
    assert_eq!(world.study(&key).await.unwrap().revision, 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn after_a_kill_the_spool_is_found_again_and_the_study_completes() {
    let world = World::new().await;
    let node = world.node("a").await;
    let (key, files) = made(3, StudyKind::CtHead);
    let mut scu = node.associate("CT1", &files).await.unwrap();
    for file in &files {
        assert_eq!(scu.store(Source::Bytes(file.clone())).await.unwrap(), StoreStatus::SUCCESS);
    }
    // The association is open and its instances gather: nothing is in blobs when the process dies.
    let before = world.intake(&key, &node.id).await.unwrap();
    assert!(!before.settled() && before.open_associations == 1, "written before the first answer");
    assert!(matches!(world.study(&key).await.unwrap().state, StudyState::Receiving));
    let id = node.id.clone();
    node.tasks.abort_now();
    wait_for("its end", SOON, async || node.tasks.is_empty()).await;
    assert_eq!(files_below(&world.spool("a").join("ready")), files.len());

    let again = world.node("a").await;
    assert_eq!(again.id, id);
    let (_, manifest) = world.complete(&key, 1).await;
    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect());
    wait_for("an empty spool", SOON, async || files_below(&world.spool("a").join("ready")) == 0).await;
    again.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_the_bound_a_study_is_complete_with_a_doubt_that_names_who_may_have_more() {
    let world = World::new().await;
    let dicom = || Dicom { listen: LOOPBACK, min_free: Size(0), ..Dicom::default() };
    let bound = Duration::from_secs(2);
    let a = world.node_with(world.spool("a"), fs::os(), dicom(), bound).await;
    let b = world.node_with(world.spool("b"), fs::os(), dicom(), bound).await;
    let (key, files) = made(15, StudyKind::CtHead);
    let (left, right) = files.split_at(files.len() / 2);
    let mut open = b.associate("CT1", right).await.unwrap();
    for file in right {
        assert!(open.store(Source::Bytes(file.clone())).await.unwrap().is_stored());
    }
    a.sends(left).await;
    let (study, manifest) = world.complete(&key, 1).await;
    let StudyState::Complete { evidence: Evidence::AssemblyBound, doubt: Some(doubt) } = study.state else {
        panic!("{:?}", study.state)
    };
    assert_eq!(doubt.node, b.id);
    assert_eq!(data_sets(&manifest.images), left.iter().map(data_set).collect());
    open.release().await.unwrap();
    let (study, manifest) = world.complete(&key, 2).await;
    assert!(matches!(study.state, StudyState::Complete { doubt: None, .. }));
    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect());
    a.stop().await;
    b.stop().await;
}

/// Sends a study to a node over `fs`, and says how many of the answered instances `disk` has, whole, after a power cut.
async fn survivors(world: &World, disk: &PowerCutFs, fs: Arc<dyn fs::Fs>, files: &[Bytes]) -> usize {
    let dicom = Dicom { listen: LOOPBACK, min_free: Size(0), ..Dicom::default() };
    let node = world.node_with(PathBuf::from("/spool"), fs, dicom, SOON).await;
    let mut scu = node.associate("CT1", files).await.unwrap();
    for file in files {
        assert_eq!(scu.store(Source::Bytes(file.clone())).await.unwrap(), StoreStatus::SUCCESS);
    }
    let after = disk.cut(3).shared();
    node.tasks.abort_now();
    let Ok(spool) = Spool::open(Arc::clone(&after), Path::new("/spool"), 0) else { return 0 };
    let wanted: BTreeSet<Digest> = files.iter().map(data_set).collect();
    let whole = spool.recover().unwrap().into_iter().filter(|file| {
        let bytes = after.read(&file.path).unwrap();
        Digest::of(&bytes) == file.sha256 && wanted.contains(&file.data_set)
    });
    whole.count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_answered_instance_survives_a_power_cut_and_would_not_without_fsync() {
    let world = World::new().await;
    let (_, files) = made(7, StudyKind::CtHead);
    let disk = PowerCutFs::new();
    assert_eq!(survivors(&world, &disk, disk.shared(), &files).await, files.len());
    let disk = PowerCutFs::new();
    let lying = Arc::new(NoSyncFs(disk.shared()));
    assert!(survivors(&world, &disk, lying, &files).await < files.len(), "the test would not notice a loss");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn instances_are_accepted_while_the_store_is_away_and_accounted_for_when_it_is_back() {
    let world = World::new().await;
    let node = world.node("a").await;
    let (before, first) = made(8, StudyKind::CrChestOpacity);
    node.sends(&first).await;
    world.complete(&before, 1).await;

    world.store.set(Faults { timeout_before: 1.0, ..Faults::default() });
    let (key, files) = made(9, StudyKind::CtHead);
    node.sends(&files).await;
    world.store.set(Faults::default());
    let (_, manifest) = world.complete(&key, 1).await;
    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_study_completes_whole_over_a_store_that_loses_requests_and_answers() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    world.store.set(Faults { timeout_before: 0.1, timeout_after: 0.1, conflict: 0.1, ..Faults::default() });
    let studies: Vec<_> = (30..34).map(|seed| made(seed, StudyKind::CtHead)).collect();
    for (_, files) in &studies {
        let (left, right) = files.split_at(files.len() / 2);
        tokio::join!(a.sends(left), b.sends(right));
    }
    for (key, files) in &studies {
        let wanted: BTreeSet<Digest> = files.iter().map(data_set).collect();
        wait_for("every image in a revision", SOON, async || {
            let Ok(Some(study)) = world.tables.load::<Study>(key).await else { return false };
            let Some(digest) = study.record.manifest else { return false };
            let path = path::manifest(&key.tenant, &key.study, study.record.revision);
            let bytes = world.blobs.get_checked(&path, &digest).await.unwrap();
            data_sets(&Manifest::decode(&bytes).unwrap().images) == wanted
        })
        .await;
    }
    world.store.set(Faults::default());
    a.stop().await;
    b.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_manifest_of_an_attempt_that_was_cut_short_is_its_revision_and_the_rest_makes_the_next() {
    let world = World::new().await;
    let (key, files) = made(14, StudyKind::CtHead);
    let orphan = Manifest {
        study: key.study.clone(),
        revision: 1,
        site: "north".parse().unwrap(),
        complete_at: isocenter_domain::Time(1),
        images: Images::default(),
    };
    let path = path::manifest(&key.tenant, &key.study, 1);
    world.blobs.put_new(&path, orphan.encode().into()).await.unwrap();
    let node = world.node("a").await;
    node.sends(&files).await;
    let (study, manifest) = world.complete(&key, 2).await;
    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect());
    assert_eq!(study.facts.instances as usize, files.len());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_nodes_receive_one_study_and_make_one_revision() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    assert_ne!(a.id, b.id);
    let (key, files) = made(4, StudyKind::CtStroke);
    // Both get the first instance, one of them with other pixels: a fact only the merge can see.
    let (left, right) = files.split_at(files.len() / 2);
    let twice = [right, &[altered(&files[0])]].concat();
    let mut scus = (a.associate("CT1", left).await.unwrap(), b.associate("CT1", &twice).await.unwrap());
    for file in left {
        assert!(scus.0.store(Source::Bytes(file.clone())).await.unwrap().is_stored());
    }
    for file in &twice {
        assert!(scus.1.store(Source::Bytes(file.clone())).await.unwrap().is_stored());
    }
    scus.0.release().await.unwrap();
    scus.1.release().await.unwrap();
    let (study, manifest) = world.complete(&key, 1).await;
    assert_eq!((study.facts.instances as usize, manifest.images.quarantined.len()), (files.len(), 1));
    let aside = &manifest.images.quarantined[0];
    let at = path::quarantine(&key.tenant, &key.study, &aside.instance, &aside.sha256);
    world.blobs.get_checked(&at, &aside.sha256).await.unwrap();
    a.stop().await;
    b.stop().await;
    assert_eq!(world.study(&key).await.unwrap().revision, 1, "the same images are no news");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn strangers_are_rejected_and_what_is_no_object_is_refused() {
    let world = World::new().await;
    let node = world.node("a").await;
    let (key, files) = made(5, StudyKind::CrChestOpacity);
    let file = &files[0];
    let rejected = node.associate("STRANGER", &files).await.unwrap_err();
    assert!(matches!(rejected, ScuError::Rejected { transient: false, .. }), "{rejected}");
    let wrong = Scu::connect(node.address, &ae("CT1"), &ae("OTHER"), &[context(file)]).await.unwrap_err();
    assert!(matches!(wrong, ScuError::Rejected { transient: false, .. }), "{wrong}");
    assert!(node.metric("rejected_total{reason=\"unknown-calling-ae\"} 1"));
    assert!(node.metric("rejected_total{reason=\"unknown-called-ae\"} 1"));

    let cut = file.slice(..file.len() - 1000);
    let meta = FileMeta::read(&mut &file[..]).unwrap();
    let source = ae("CT1");
    let mut other = isocenter_dimse::part10::header(
        &meta.sop_class,
        &"1.2.3".parse().unwrap(),
        &meta.transfer_syntax,
        &source,
    );
    other.extend_from_slice(&file[usize::try_from(meta.data_set_offset).unwrap()..]);
    let codes: Vec<_> =
        node.send(&[cut, other.into(), file.clone()]).await.iter().map(|s| s.code()).collect();
    assert_eq!(codes, [0xC000, 0xA900, 0x0000], "a refusal does not end the association");
    assert!(node.metric("instances_total{outcome=\"undecodable\"} 1"));
    assert!(node.metric("instances_total{outcome=\"mismatch\"} 1"));
    world.complete(&key, 1).await;
    assert_eq!(files_below(&world.spool("a").join("incoming")), 0);
    node.stop().await;

    let full = Dicom { listen: LOOPBACK, min_free: Size(u64::MAX), ..Dicom::default() };
    let node = world.node_with(world.spool("full"), fs::os(), full, SOON).await;
    assert_eq!(node.send(&files).await[0].code(), 0xA700);
    assert!(node.metric("instances_total{outcome=\"spool-full\"} 1"));
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_closed_study_gets_an_intake_and_no_record_until_the_archive_reopens_it() {
    let world = World::new().await;
    let node = world.node("a").await;
    let (key, files) = made(6, StudyKind::CtHead);
    let (late, early) = files.split_last().unwrap();
    node.sends(early).await;
    let (complete, _) = world.complete(&key, 1).await;
    wait_for("a settled node", SOON, async || node.metric("spool_files 0")).await;
    // The archive closes: head, then the records go.
    let head = path::head(&key.tenant, &key.study, 1);
    world.blobs.put_new(&head, Bytes::from_static(b"head")).await.unwrap();
    let study = world.tables.load::<Study>(&key).await.unwrap().unwrap();
    let intake = IntakeKey { tenant: key.tenant.clone(), study: key.study.clone(), node: node.id.clone() };
    let intake = world.tables.load::<Intake>(&intake).await.unwrap().unwrap();
    let mut change = world.tables.change(Cause::role("archive"));
    change.delete(&study, "closed");
    change.delete(&intake, "closed");
    change.commit().await.unwrap();

    node.sends(std::slice::from_ref(late)).await;
    wait_for("an intake", SOON, async || {
        world.intake(&key, &node.id).await.is_some_and(|intake| intake.settled() && intake.stored == 1)
    })
    .await;
    assert_eq!(world.study(&key).await, None);
    // The archive reopens.
    let mut change = world.tables.change(Cause::role("archive"));
    change.create_after(&key, &complete, "reopened", &study.head.trace, study.head.seq + 1);
    change.commit().await.unwrap();
    let (_, manifest) = world.complete(&key, 2).await;
    assert_eq!(data_sets(&manifest.images), files.iter().map(data_set).collect());
    node.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_see_the_studies_of_their_tenant_page_by_page_and_as_they_change() {
    let world = World::new().await;
    let node = world.node("a").await;
    let studies: Vec<_> = (10..13).map(|seed| made(seed, StudyKind::CrChestOpacity)).collect();
    for (_, files) in &studies {
        node.sends(files).await;
    }
    let mut uids: Vec<_> = studies.iter().map(|(key, _)| key.study.to_string()).collect();
    for (key, _) in &studies {
        world.complete(key, 1).await;
    }
    let mut client = node.client(tenant());
    let seen = async |uid: &str| {
        let request = v1::GetStudyRequest { study_instance_uid: uid.to_owned() };
        node.client(tenant()).get_study(request).await.map(tonic::Response::into_inner)
    };
    wait_for("the cache", SOON, async || {
        let mut complete = true;
        for uid in &uids {
            complete &= seen(uid).await.is_ok_and(|study| study.stage() == v1::StudyStage::Complete);
        }
        complete
    })
    .await;
    let study = seen(&uids[0]).await.unwrap();
    assert_eq!(
        (study.site_id.as_str(), study.revision, study.evidence.as_str()),
        ("north", 1, "quiet-period")
    );
    assert_eq!((study.image_count, study.doubt.as_str()), (1, ""));
    assert_eq!(seen("1.2.3").await.unwrap_err().code(), tonic::Code::NotFound);
    assert_eq!(seen("no uid").await.unwrap_err().code(), tonic::Code::InvalidArgument);

    uids.sort_by_key(|uid| uid.parse::<isocenter_domain::id::StudyUid>().unwrap());
    let mut listed = Vec::new();
    let mut page_token = String::new();
    loop {
        let request = v1::ListStudiesRequest { page_size: 2, page_token, ..Default::default() };
        let page = client.list_studies(request).await.unwrap().into_inner();
        listed.extend(page.studies.into_iter().map(|study| study.study_instance_uid));
        page_token = page.next_page_token;
        if page_token.is_empty() {
            break;
        }
    }
    assert_eq!(listed, uids);
    let receiving = v1::ListStudiesRequest { stage: v1::StudyStage::Receiving.into(), ..Default::default() };
    assert!(client.list_studies(receiving).await.unwrap().into_inner().studies.is_empty());
    let mut stranger = node.client("elsewhere".parse().unwrap());
    let all = v1::ListStudiesRequest::default();
    assert!(stranger.list_studies(all).await.unwrap().into_inner().studies.is_empty());

    let mut watch = client.watch_studies(v1::WatchStudiesRequest {}).await.unwrap().into_inner();
    let mut first = Vec::new();
    for _ in &uids {
        first.push(watch.message().await.unwrap().unwrap().study.unwrap().study_instance_uid);
    }
    assert_eq!(first, uids);
    let (key, files) = made(20, StudyKind::CrChestOpacity);
    node.sends(&files).await;
    loop {
        let study = watch.message().await.unwrap().unwrap().study.unwrap();
        if study.study_instance_uid == key.study.as_str() && study.stage() == v1::StudyStage::Complete {
            break;
        }
    }
    let ends = async move {
        while watch.message().await?.is_some() {}
        Ok::<(), tonic::Status>(())
    };
    let (ended, ()) = tokio::join!(ends, node.stop());
    assert_eq!(ended.unwrap_err().code(), tonic::Code::Unavailable);
}
