//! A store that has lost studies whose images are in blobs.

use isocenter_blobs::path;
use isocenter_domain::{
    document::Head,
    key::{IntakeKey, StudyKey, text},
    record::{intake::Intake, study::Study},
};
use isocenter_peers::synthetic::StudyKind;
use isocenter_store::{
    Kv as _, Op, Txn,
    table::{Cause, store_key},
};
use isocenter_testkit::wait_for;
use isocenter_wire::{document::Stored as _, record as wire};

use super::all;
use crate::world::*;

/// Takes the records of a study away, as a store does that is put back to a moment before it.
async fn forget(world: &World, key: &StudyKey, nodes: &[&Node]) {
    let intakes = nodes.iter().map(|node| IntakeKey {
        tenant: key.tenant.clone(),
        study: key.study.clone(),
        node: node.id.clone(),
    });
    let mut ops: Vec<_> = intakes.map(|intake| Op::delete(&store_key(&intake))).collect();
    ops.push(Op::delete(&store_key(key)));
    world.store.txn(Txn::always(ops)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_study_that_the_store_has_lost_is_taken_up_by_every_node_that_has_images_of_it() {
    let world = World::new().await;
    let (a, b) = (world.node("a").await, world.node("b").await);
    let mut studies: Vec<_> = (80..82).map(|seed| made(seed, StudyKind::CtHead)).collect();
    studies.sort();
    for (key, files) in &studies {
        let (left, right) = files.split_at(files.len() / 2);
        tokio::join!(a.sends(left), b.sends(right));
        wait_for("the whole study", SOON, async || world.has(key, &all(files)).await).await;
        wait_for("settled intakes", SOON, async || {
            let (a, b) = tokio::join!(world.intake(key, &a.id), world.intake(key, &b.id));
            a.is_some_and(|intake| intake.settled()) && b.is_some_and(|intake| intake.settled())
        })
        .await;
    }
    let [(closed, _), (lost, files)] = studies.as_slice() else { panic!("two were made") };
    for key in [closed, lost] {
        forget(&world, key, &[&a, &b]).await;
    }
    // The first of the two, in the order in which they are looked at, was closed: that one is the archive's.
    let head = path::head(&closed.tenant, &closed.study, 9);
    world.blobs.put_new(&head, "a head".into()).await.unwrap();
    a.stop().await;
    b.stop().await;
    assert!(world.study(lost).await.is_none() && world.study(closed).await.is_none());

    let (a, b) = (world.node("a").await, world.node("b").await);
    wait_for("the whole study again", SOON, async || world.has(lost, &all(files)).await).await;
    for node in [&a, &b] {
        wait_for("its intake", SOON, async || world.intake(lost, &node.id).await.is_some()).await;
        assert!(world.intake(lost, &node.id).await.unwrap().settled());
        assert!(world.intake(closed, &node.id).await.is_none());
    }
    assert!(world.study(closed).await.is_none());
    let study = world.tables.load::<Study>(lost).await.unwrap().unwrap();
    assert_eq!((study.record.site.as_str(), study.record.calling_ae.as_str()), ("north", "CT1"));

    // Found again, it is known.
    a.stop().await;
    b.stop().await;
    let before = world.tables.load::<Study>(lost).await.unwrap();
    let (a, b) = (world.node("a").await, world.node("b").await);
    let (other, more) = made(83, StudyKind::CtHead);
    tokio::join!(a.sends(&more), b.sends(&more));
    wait_for("another study", SOON, async || world.has(&other, &all(&more)).await).await;
    a.stop().await;
    b.stop().await;
    assert_eq!(world.tables.load::<Study>(lost).await.unwrap(), before);
}

/// As where an association was first with the records, or where the store was put back to when the intake named another
/// segment.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn images_that_an_intake_does_not_name_are_taken_up_too() {
    let world = World::new().await;
    let a = world.node("a").await;
    let (key, files) = made(84, StudyKind::CtHead);
    a.sends(&files).await;
    wait_for("the whole study", SOON, async || world.has(&key, &all(&files)).await).await;
    wait_for("a settled intake", SOON, async || {
        world.intake(&key, &a.id).await.is_some_and(|intake| intake.settled())
    })
    .await;
    let intake = IntakeKey { tenant: key.tenant.clone(), study: key.study.clone(), node: a.id.clone() };
    forget(&world, &key, &[&a]).await;
    a.stop().await;
    let mut change = world.tables.change(Cause::role("test"));
    let study = Study::receiving("north".parse().unwrap(), "CT1".parse().unwrap(), change.now());
    change.create(&key, &study, "received", "");
    change.create(&intake, &Intake::default(), "opened", "");
    change.commit().await.unwrap();

    let a = world.node("a").await;
    wait_for("the whole study again", SOON, async || world.has(&key, &all(&files)).await).await;
    a.stop().await;
}

/// Closes a study, as far as ingestion is concerned: its records into a head, and out of the store.
async fn close(world: &World, key: &StudyKey, node: &Node) {
    let intake = IntakeKey { tenant: key.tenant.clone(), study: key.study.clone(), node: node.id.clone() };
    let mut records = Vec::new();
    for (key, stored) in [(text(key), store_key(key)), (text(&intake), store_key(&intake))] {
        records.push((key, world.store.get(&stored).await.unwrap().unwrap().value.to_vec()));
    }
    let head = Head { study: key.study.clone(), closed_at: world.tables.clock().now(), records };
    world.blobs.put_new(&path::head(&key.tenant, &key.study, 9), head.encode().into()).await.unwrap();
    forget(world, key, &[node]).await;
}

/// The store was put back to a moment before they came, when their study was closed already.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn late_images_of_a_closed_study_of_which_only_a_segment_tells_become_a_revision() {
    let world = World::new().await;
    let a = world.node("a").await;
    let mut studies: Vec<_> = (85..87).map(|seed| made(seed, StudyKind::CtHead)).collect();
    studies.sort();
    let [(closed, whole), (key, files)] = studies.as_slice() else { panic!("two were made") };
    let (early, late) = files.split_at(files.len() / 2);
    let settled = async |key: &StudyKey, count: usize| {
        let counted = |intake: Intake| intake.settled() && intake.stored as usize == count;
        wait_for("a settled intake", SOON, async || world.intake(key, &a.id).await.is_some_and(counted))
            .await;
    };
    for (key, files) in [(closed, whole.as_slice()), (key, early)] {
        a.sends(files).await;
        world.complete(key, 1).await;
        settled(key, files.len()).await;
        close(&world, key, &a).await;
    }
    a.sends(late).await;
    settled(key, late.len()).await;
    let intake = IntakeKey { tenant: key.tenant.clone(), study: key.study.clone(), node: a.id.clone() };
    a.stop().await;
    world.store.txn(Txn::always(vec![Op::delete(&store_key(&intake))])).await.unwrap();

    let a = world.node("a").await;
    wait_for("its intake again", SOON, async || world.intake(key, &a.id).await.is_some()).await;
    assert!(world.study(key).await.is_none(), "the study is the archive's to bring back");
    assert!(world.intake(closed, &a.id).await.is_none(), "nothing of it is late");
    // As the archive does.
    let head = world.blobs.get(&path::head(&key.tenant, &key.study, 9)).await.unwrap();
    let (_, value) = Head::decode(&head).unwrap().records.remove(0);
    let (head, study) = wire::decode::<Study>(&value).unwrap();
    let mut change = world.tables.change(Cause::role("archive"));
    change.create_after(key, &study, "reopened", &head.trace, head.seq + 1);
    change.commit().await.unwrap();
    wait_for("the late images", SOON, async || world.has(key, &all(files)).await).await;
    assert_eq!(world.study(key).await.unwrap().revision, 2);
    a.stop().await;
}
