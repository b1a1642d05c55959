//! An image that arrives while its study's read is in a reader's hands.

use std::time::Duration;

use isocenter_peers::{study::Study, synthetic::StudyKind};
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{Read, SignReadResponse};
use tonic::{Code, Status};

use crate::{
    calls::{reason, seeds},
    desk::Desk,
    history::{report, revision, statuses, until_legal, until_reconciled},
    world::{PATIENCE, Settings, Sim, part},
};

/// A study of which all but the last image were sent, open with a reader.
async fn opened(sim: &mut Sim, desk: &Desk) -> (Study, Study, Read) {
    let study = sim.study(StudyKind::CtHead);
    let images = study.instances.len();
    let late = part(&study, images - 1..images);
    sim.send(&part(&study, 0..images - 1)).await;
    let open = desk.take().await;
    assert_eq!(open.studies[0].revision, 1);
    (study, late, open)
}

/// Signs what is new until everything that came is signed, and waits for its delivery.
async fn sign_the_rest(
    sim: &Sim,
    desk: &Desk,
    study: &Study,
    first: Result<SignReadResponse, Status>,
    open: &Read,
) {
    let answer = match first {
        // Signed before the image: it gets a read of its own.
        Ok(signed) => {
            assert_eq!(signed.read.unwrap().studies, open.studies, "signed for other images than were seen");
            let open = desk.take().await;
            assert_eq!(open.kind(), isocenter_wire::v1::ReadKind::Discrepancy);
            desk.sign(&desk.signature(&open)).await
        }
        Err(status) => {
            assert_eq!((status.code(), reason(&status).as_str()), (Code::FailedPrecondition, "NEW_IMAGES"));
            sim.until("revision 2", &study.study_uid, |s| s.revision == 2).await;
            let open = desk.open(&open.read_id).await.unwrap();
            desk.sign(&desk.signature(&open)).await
        }
    };
    let last = answer.unwrap().report_id;
    sim.until_delivered(&study.study_uid, 2).await;
    assert_eq!(revision(&report(sim, &last, 0).await.unwrap()), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_is_refused_once_new_images_are_there_and_taken_after_another_look() {
    for seed in seeds(&[1, 2]) {
        let mut sim = Sim::start(seed.0, Settings::default()).await;
        let desk = Desk::sit(&sim, "anna", 1);
        let (study, late, open) = opened(&mut sim, &desk).await;
        sim.send(&late).await;
        // Refused from the first byte on that the study knows of, also while it is being received.
        let arrived = |s: &isocenter_wire::v1::Study| s.instance_count != 11 || s.revision == 2;
        if seed.rng().chance(0.5) {
            sim.until("the image to count", &study.study_uid, arrived).await;
        } else {
            sim.until("revision 2", &study.study_uid, |s| s.revision == 2).await;
        }
        let refused = desk.sign(&desk.signature(&open)).await;
        assert!(refused.is_err(), "signed although the image was there");
        sign_the_rest(&sim, &desk, &study, refused, &open).await;
        assert_eq!(statuses(&sim), ["F"]);
        assert_eq!(report(&sim, &open.read_id, 0).await.unwrap().studies, [revision_of(&study, 2)]);
        until_reconciled(&sim).await;
        until_legal(&sim, &[&study.study_uid], 1).await;
        sim.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_report_signed_as_of_what_was_seen_is_followed_by_its_correction() {
    for seed in seeds(&[3, 4]) {
        let mut sim = Sim::start(seed.0, Settings::default()).await;
        let desk = Desk::sit(&sim, "anna", 0);
        let (study, late, open) = opened(&mut sim, &desk).await;
        sim.send(&late).await;
        sim.until("revision 2", &study.study_uid, |s| s.revision == 2).await;
        let mut signature = desk.signature(&open);
        signature.as_of = true;
        let signed = desk.sign(&signature).await.unwrap();
        let first = signed.report_id.clone();
        sign_the_rest(&sim, &desk, &study, Ok(signed), &open).await;
        assert_eq!(
            revision(&report(&sim, &first, 0).await.unwrap()),
            1,
            "the report names images that were not seen"
        );
        assert_eq!(statuses(&sim), ["F", "C"]);
        until_reconciled(&sim).await;
        until_legal(&sim, &[&study.study_uid], 2).await;
        sim.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whichever_of_image_and_signature_is_first_every_image_is_reported() {
    for seed in seeds(&[5, 6, 7, 8]) {
        let mut sim = Sim::start(seed.0, Settings::default()).await;
        let desk = Desk::sit(&sim, "anna", 1);
        let (study, late, open) = opened(&mut sim, &desk).await;
        // The race itself: the seed says who starts how much later.
        let lead = seed.rng().duration(Duration::ZERO..Duration::from_millis(40));
        let signature = desk.signature(&open);
        let (image_first, sooner) =
            (seed.0 % 2 == 0, tokio::time::timeout(lead, std::future::pending::<()>()));
        let signed = if image_first {
            let send = sim.send(&late);
            let (signed, ()) = tokio::join!(
                async {
                    drop(sooner.await);
                    desk.sign(&signature).await
                },
                send
            );
            signed
        } else {
            let send = async {
                drop(sooner.await);
                sim.send(&late).await;
            };
            tokio::join!(desk.sign(&signature), send).0
        };
        let reads = if signed.is_ok() { 2 } else { 1 };
        if let Ok(signed) = &signed {
            wait_for("the report", PATIENCE, || async { report(&sim, &signed.report_id, 0).await.is_ok() })
                .await;
            assert_eq!(revision(&report(&sim, &signed.report_id, 0).await.unwrap()), 1);
        }
        sign_the_rest(&sim, &desk, &study, signed, &open).await;
        let expected: &[&str] = if reads == 2 { &["F", "C"] } else { &["F"] };
        assert_eq!(statuses(&sim), expected);
        until_reconciled(&sim).await;
        until_legal(&sim, &[&study.study_uid], reads).await;
        sim.end().await;
    }
}

fn revision_of(study: &Study, revision: u32) -> isocenter_wire::v1::ReportedStudy {
    isocenter_wire::v1::ReportedStudy { study_instance_uid: study.study_uid.to_string(), revision }
}
