//! DCMTK as a peer, and several peers at once.

use std::collections::BTreeSet;

use isocenter_peers::{
    modality::Modality,
    synthetic::{StudyKind, Synthetic},
};

use crate::harness::{Bench, PATIENCE, data_sets, program};

#[tokio::test]
async fn echoscu_is_answered() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    let port = bench.server.dicom.port().to_string();
    program("echoscu", ["-aet", "NORTH", "-aec", "ISOCENTER", "127.0.0.1", &port]).await.succeeded();
    let stranger = program("echoscu", ["-aet", "NOBODY", "-aec", "ISOCENTER", "127.0.0.1", &port]).await;
    assert!(
        stranger.code != 0 && stranger.stderr.contains("Calling AE Title Not Recognized"),
        "{stranger:?}"
    );
}

#[tokio::test]
async fn two_associations_go_on_side_by_side() {
    let seed = 7;
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    bench.site("south").await;
    bench.reader("r1", seed).await;
    let mut synthetic = Synthetic::new(seed);
    let mut study = || synthetic.study(StudyKind::CtHead).unwrap().study;
    let (north, south) = ([study(), study()], [study(), study()]);
    let mut config = bench.modality("NORTH");
    config.associations = 2;
    let (at_once, other) = (Modality::new(config), Modality::new(bench.modality("SOUTH")));
    let (a, b) = tokio::join!(at_once.send(&north), other.send(&south));
    assert!(a.iter().chain(&b).all(isocenter_peers::modality::Sent::is_stored), "{a:?} {b:?}");

    let uids: BTreeSet<_> = north.iter().chain(&south).map(|study| study.study_uid.to_string()).collect();
    let studies = bench.settled(&uids, PATIENCE).await;
    for (site, sent) in [("north", &north), ("south", &south)] {
        assert!(sent.iter().all(|study| studies[study.study_uid.as_str()].site_id == site));
    }
    assert_eq!(data_sets(&bench.path("blobs"), "instance").len(), a.len() + b.len());
    bench.reconciled(4).await;
}
