//! A store that has lost studies whose images are in blobs.

use isocenter_blobs::path;
use isocenter_domain::{
    key::{IntakeKey, StudyKey},
    record::{intake::Intake, study::Study},
};
use isocenter_peers::synthetic::StudyKind;
use isocenter_store::{
    Kv as _, Op, Txn,
    table::{Cause, store_key},
};
use isocenter_testkit::wait_for;

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
