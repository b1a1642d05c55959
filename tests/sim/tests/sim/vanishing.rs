//! A reader who is gone without a word.

use std::time::Duration;

use isocenter_peers::synthetic::StudyKind;
use isocenter_testkit::wait_for;
use isocenter_wire::v1::ReadState;
use tonic::Code;

use crate::{
    calls::{reason, seeds},
    desk::{Desk, explain, reassign},
    history::{report, statuses, until_legal, until_reconciled},
    world::{PATIENCE, Settings, Sim},
};

fn settings() -> Settings {
    Settings { presence: Duration::from_secs(2), ..Settings::default() }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_offer_to_a_reader_who_vanishes_goes_back_to_the_queue_with_its_age() {
    for seed in seeds(&[31, 32]) {
        let mut sim = Sim::start(seed.0, settings()).await;
        let anna = Desk::sit(&sim, "anna", 0);
        // No waiting for the leader's grace to end: a reader who leaves within it is missed when it is over.
        let study = sim.study(StudyKind::CrChest);
        sim.send(&study).await;
        let offered = anna.next().await;
        if seed.0 % 2 == 0 {
            anna.freeze()
        } else {
            drop(anna)
        }

        // Offers stand for a minute here: only the lost presence can bring it back before.
        let boris = Desk::sit(&sim, "boris", 1);
        let again = boris.next().await;
        assert_eq!(again.read_id, offered.read_id);
        assert_eq!(again.waiting_since, offered.waiting_since, "the read lost its age");
        assert_eq!(again.due_at, offered.due_at);
        let open = boris.open(&again.read_id).await.unwrap();
        boris.sign(&boris.signature(&open)).await.unwrap();
        sim.until_delivered(&study.study_uid, 1).await;
        assert_eq!(report(&sim, &open.read_id, 0).await.unwrap().reader_id, "boris");
        until_reconciled(&sim).await;
        until_legal(&sim, &[&study.study_uid], 1).await;
        sim.end().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_read_open_with_a_reader_who_vanishes_stays_open_until_a_lead_gives_it_away() {
    for seed in seeds(&[33, 34]) {
        let mut sim = Sim::start(seed.0, settings()).await;
        let anna = Desk::sit(&sim, "anna", 1);
        let study = sim.study(StudyKind::CrChest);
        sim.send(&study).await;
        let open = anna.take().await;
        anna.freeze();
        wait_for("the reader to be seen as gone", PATIENCE, || async {
            let why = explain(&sim, &open.read_id).await;
            why.readers.iter().any(|r| r.reader_id == "anna" && r.rejected_by == "not-present")
        })
        .await;

        let boris = Desk::sit(&sim, "boris", 0);
        wait_for("boris to be told that there is nothing", PATIENCE, || async {
            matches!(boris.ask().await, Ok(None))
        })
        .await;
        let held = explain(&sim, &open.read_id).await.read.unwrap();
        assert_eq!((held.state(), held.holder_reader_id.as_str()), (ReadState::Open, "anna"));

        reassign(&sim, &open.read_id, "anna").await;
        let taken = boris.take().await;
        assert_eq!(taken.read_id, open.read_id);
        assert_eq!(taken.waiting_since, open.waiting_since, "the read lost its age");
        // The reader is back and signs what is no longer theirs: refused, and kept for the one who has it.
        let back = Desk::sit(&sim, "anna", 1);
        let refused = back.sign(&back.signature(&open)).await.unwrap_err();
        assert_eq!((refused.code(), reason(&refused).as_str()), (Code::Aborted, "STALE_TOKEN"));
        let held = explain(&sim, &open.read_id).await.read.unwrap();
        assert_eq!((held.drafts.len(), held.holder_reader_id.as_str()), (1, "boris"));
        boris.sign(&boris.signature(&taken)).await.unwrap();
        sim.until_delivered(&study.study_uid, 1).await;
        assert_eq!(report(&sim, &open.read_id, 0).await.unwrap().reader_id, "boris");
        assert_eq!(statuses(&sim), ["F"]);
        until_reconciled(&sim).await;
        until_legal(&sim, &[&study.study_uid], 1).await;
        sim.end().await;
    }
}
