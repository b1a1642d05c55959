//! The sample vendor of the peers: it fetches real pixels with the token, checks their digests and decodes them.

use std::time::Duration;

use isocenter_blobs::path;
use isocenter_domain::{
    document::{AiResult, Images, Instance},
    key::StudyKey,
    record::ai_task::{AiTask, AiTaskState},
    refs::Digest,
};
use isocenter_peers::{
    sample::Algorithm,
    synthetic::{StudyKind, Synthetic},
    vendor::{Vendor, VendorConfig},
};
use isocenter_testkit::wait_for;
use isocenter_wire::document::Stored as _;

use crate::world::{World, config, task_key, tenant};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sample_vendor_analyses_a_chest_film() {
    let world = World::new().await;
    let vendor =
        Vendor::start("127.0.0.1:0".parse().unwrap(), VendorConfig::new(Algorithm::Opacity), &world.tasks);
    let vendor = vendor.await.unwrap();
    world.register("opacity", &vendor.url(), 1, true).await;
    let running = world.start(config()).await;

    let made = Synthetic::new(7).study(StudyKind::CrChestOpacity).unwrap().study;
    let key = StudyKey { tenant: tenant(), study: made.study_uid.clone() };
    let mut images = Images::default();
    for instance in &made.instances {
        let bytes = instance.read().await.unwrap();
        let sha256 = Digest::of(&bytes);
        let name = path::instance(&key.tenant, &key.study, &instance.instance_uid, &sha256);
        let size = bytes.len() as u64;
        world.blobs.put_new(&name, bytes).await.unwrap();
        let series = images.series.entry(instance.series_uid.clone()).or_default();
        (series.modality, series.body_part) = ("CR".into(), "CHEST".into());
        let entry = Instance {
            sop_class: instance.sop_class_uid.clone(),
            instance: instance.instance_uid.clone(),
            transfer_syntax: instance.transfer_syntax_uid.clone(),
            size,
            sha256,
            data_set: sha256,
            number: 1,
            frames: 1,
            image: true,
        };
        series.instances.insert(instance.instance_uid.clone(), entry);
    }
    world.complete(&key, 1, images).await;
    world.plan(&key, 1, &["opacity"], Duration::from_secs(60)).await;

    let key = isocenter_domain::key::AiTaskKey { study: key.study.clone(), ..task_key("opacity", 1) };
    let (tables, at) = (&world.tables, &key);
    let load = || async move { tables.load::<AiTask>(at).await.unwrap().map(|task| task.record) };
    wait_for("the analysis", Duration::from_secs(15), || async {
        load().await.is_some_and(|task| task.settled())
    })
    .await;
    let task = load().await.unwrap();
    let AiTaskState::Succeeded(answer) = task.state else { panic!("{task:?}") };
    assert!(answer.probability_ppm > 500_000, "{answer:?}");
    let name = path::ai(&key.tenant, &key.study, &key.service, 1, &answer.result);
    let kept = AiResult::decode(&world.blobs.get(&name).await.unwrap()).unwrap();
    assert!(kept.summary.starts_with("SAMPLE"), "{}", kept.summary);
    assert_eq!(kept.findings[0].instance.as_ref(), Some(&made.instances[0].instance_uid));
    assert_eq!(vendor.counts().instances, made.instances.len() as u64);
    running.stop().await;
}
