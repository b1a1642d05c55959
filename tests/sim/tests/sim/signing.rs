//! A signature that is repeated, overtaken, and answered by a store that loses its answers.

use isocenter_peers::synthetic::StudyKind;
use isocenter_store::faulty::Faults;
use isocenter_testkit::wait_for;
use tonic::Code;

use crate::{
    calls::{reason, seeds},
    desk::{Desk, explain},
    history::{report, statuses, until_legal, until_reconciled},
    world::{PATIENCE, Settings, Sim, unique},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_repeated_at_every_replica_over_lost_answers_makes_one_report() {
    for seed in seeds(&[21, 22, 23]) {
        let mut sim = Sim::start(seed.0, Settings::default()).await;
        let desk = Desk::sit(&sim, "anna", 0);
        let study = sim.study(StudyKind::CrChest);
        sim.send(&study).await;
        let open = desk.take().await;
        let elsewhere = Desk::sit(&sim, "anna", 1);

        sim.faults(Faults { timeout_after: 0.4, conflict: 0.3, timeout_before: 0.1, ..Faults::default() });
        let signature = desk.signature(&open);
        let answers = futures::future::join_all(
            [&desk, &elsewhere, &desk, &elsewhere].map(|desk| desk.sign(&signature)),
        )
        .await;
        sim.faults(Faults::default());
        let first = answers[0].clone().unwrap();
        assert_eq!((first.report_id.as_str(), first.version), (open.read_id.as_str(), 1));
        for answer in answers {
            assert_eq!(answer.unwrap(), first, "the same request got two answers");
        }

        // The same signature as another request comes too late; the first request has its answer for ever.
        let mut other = signature.clone();
        other.request_id = unique();
        let refused = elsewhere.sign(&other).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::FailedPrecondition, "SIGNED"));
        sim.until_delivered(&study.study_uid, 1).await;
        assert_eq!(elsewhere.sign(&signature).await.unwrap(), first);
        assert_eq!(report(&sim, &open.read_id, 2).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(report(&sim, &open.read_id, 0).await.unwrap().sha256, first.sha256);
        assert_eq!(statuses(&sim), ["F"]);
        until_reconciled(&sim).await;
        until_legal(&sim, &[&study.study_uid], 1).await;
        sim.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signature_with_a_stale_token_is_refused_and_kept_as_a_draft() {
    for seed in seeds(&[24, 25]) {
        let mut sim = Sim::start(seed.0, Settings::default()).await;
        let desk = Desk::sit(&sim, "anna", 0);
        let study = sim.study(StudyKind::CrChest);
        sim.send(&study).await;
        let open = desk.take().await;
        let again = desk.open(&open.read_id).await.unwrap();
        assert_ne!(open.open_token, again.open_token);

        sim.faults(Faults { timeout_after: 0.2, conflict: 0.2, ..Faults::default() });
        // The older token's signature and the newer one's, in the order that the seed says, or both at once.
        let (stale, good) = (desk.signature(&open), desk.signature(&again));
        let (refused, signed) = if seed.0 % 2 == 0 {
            let refused = desk.sign(&stale).await;
            wait_for("the draft", PATIENCE, || async {
                explain(&sim, &open.read_id).await.read.is_some_and(|read| read.drafts.len() == 1)
            })
            .await;
            (refused, desk.sign(&good).await)
        } else {
            tokio::join!(desk.sign(&stale), desk.sign(&good))
        };
        sim.faults(Faults::default());
        let refused = refused.unwrap_err();
        match (refused.code(), reason(&refused).as_str()) {
            (Code::Aborted, "STALE_TOKEN") => {}
            (Code::FailedPrecondition, "SIGNED") if seed.0 % 2 == 1 => {}
            other => panic!("the stale signature was answered {other:?}"),
        }
        let signed = signed.unwrap();
        sim.until_delivered(&study.study_uid, 1).await;
        assert_eq!(report(&sim, &open.read_id, 0).await.unwrap().sha256, signed.sha256);
        assert_eq!(statuses(&sim), ["F"]);
        until_reconciled(&sim).await;
        until_legal(&sim, &[&study.study_uid], 1).await;
        sim.end().await;
    }
}
