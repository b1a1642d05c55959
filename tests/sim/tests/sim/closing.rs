//! An image that arrives after everything about its study was closed.

use std::time::Duration;

use isocenter_peers::synthetic::StudyKind;
use isocenter_testkit::wait_for;
use isocenter_wire::v1;

use crate::{
    calls::seeds,
    desk::Desk,
    history::{archived, delivered, report, revision, until_legal, until_reconciled},
    world::{PATIENCE, Settings, Sim, part},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_late_image_reopens_a_closed_study_and_its_report_is_corrected() {
    for seed in seeds(&[11, 12]) {
        let settings = Settings { close_after: Duration::from_millis(50), ..Settings::default() };
        let mut sim = Sim::start(seed.0, settings).await;
        let desk = Desk::sit(&sim, "anna", 1);
        let study = sim.study(StudyKind::CtHead);
        let images = study.instances.len();
        let uid = &study.study_uid;

        sim.send(&part(&study, 0..images - 1)).await;
        let open = desk.take().await;
        let case = open.case_id.clone();
        desk.sign(&desk.signature(&open)).await.unwrap();
        closed(&sim, uid, 1).await;
        let first = delivered(&sim);
        assert_eq!(first.iter().map(|m| m.status.as_str()).collect::<Vec<_>>(), ["F"]);

        sim.send(&part(&study, images - 1..images)).await;
        let again = desk.take().await;
        assert_eq!(again.case_id, case, "reopened under another case");
        assert_eq!(again.kind(), v1::ReadKind::Discrepancy);
        assert_eq!(again.studies[0].revision, 2);
        let signed = desk.sign(&desk.signature(&again)).await.unwrap();
        assert_ne!(signed.report_id, open.read_id);
        closed(&sim, uid, 2).await;

        let messages = delivered(&sim);
        assert_eq!(messages.len(), 2);
        assert_eq!((&messages[0], messages[1].status.as_str()), (&first[0], "C"));
        assert_eq!(sim.receiver.counts().duplicates, 0, "a report was sent again");
        assert_eq!(revision(&report(&sim, &open.read_id, 0).await.unwrap()), 1);
        assert_eq!(revision(&report(&sim, &signed.report_id, 0).await.unwrap()), 2);
        until_reconciled(&sim).await;
        until_legal(&sim, &[uid], 2).await;
        sim.end().await;
    }
}

/// Waits until the study is closed at this revision: gone from the live records, known to the archive.
async fn closed(sim: &Sim, study: &isocenter_domain::id::StudyUid, revision: u32) {
    wait_for("the study to be closed", PATIENCE, || async {
        let known = archived(sim, study).await;
        known.is_some_and(|known| known.closed && known.revision == revision)
            && sim.seen(study).await.is_none()
    })
    .await;
}
