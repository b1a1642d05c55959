//! Everything fails a little while studies flow: nothing is lost, nothing is done twice.

use std::{collections::BTreeSet, time::Duration};

use isocenter_domain::record::{RecordKind, read::Holding};
use isocenter_peers::{
    LOOPBACK,
    reader::{Reader, ReaderConfig},
    receiver::Answer,
    sample::Algorithm,
    study::Study,
    synthetic::StudyKind,
    vendor::{Vendor, VendorConfig},
};
use isocenter_runtime::task::Tasks;
use isocenter_store::{faulty::Faults, table::kind_range};
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{DeliveryState, StudyStage};

use crate::{
    calls::seeds,
    history::{delivered, deliveries, until_legal, until_reconciled},
    world::{PATIENCE, Settings, Sim, part},
};

/// What a bad day is: every call may fail before or after it is done, be overtaken, or lose its watch.
const STORM: Faults = Faults {
    timeout_before: 0.02,
    timeout_after: 0.02,
    conflict: 0.03,
    cut_watch: 0.002,
    silence_watch: 0.0,
    lose_events: 0.0,
    compaction: 0.2,
    lease_loss: 0.05,
    latency: Duration::from_millis(2),
};

const STUDIES: usize = 12;

/// How the record system fails meanwhile; it is whole again in the end.
const ANSWERS: [Answer; 6] = [
    Answer::Accept,
    Answer::DropAckAfterCommit,
    Answer::Accept,
    Answer::CloseBefore,
    Answer::HalfFrame,
    Answer::Accept,
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_study_of_a_bad_day_is_read_once_and_delivered_once() {
    for seed in seeds(&[61, 62]) {
        let vendors = Tasks::new();
        let vendor = Vendor::start(LOOPBACK, VendorConfig::new(Algorithm::Density), &vendors).await.unwrap();
        let mut sim = Sim::start(seed.0, Settings { ai: Some(vendor.url()), ..Settings::default() }).await;
        let readers = readers(&sim, seed.0);
        sim.faults(STORM);
        let studies = send_all(&mut sim).await;
        sim.receiver.set_answer(Answer::Accept);
        sim.replace_replica(STORM).await;

        let done = |stage| matches!(stage, StudyStage::Delivered | StudyStage::NothingToRead);
        let left = std::sync::Mutex::new(Vec::new());
        let flowed = tokio::time::timeout(
            PATIENCE,
            wait_for("the day's end", PATIENCE * 2, || async {
                let mut open = Vec::new();
                for study in &studies {
                    let seen = sim.seen(&study.study_uid).await;
                    let stage = seen.as_ref().map(|s| s.stage()).unwrap_or_default();
                    if !done(stage) {
                        open.push((study.study_uid.clone(), stage));
                    }
                }
                let over = open.is_empty();
                *left.lock().unwrap() = open;
                over
            }),
        );
        assert!(flowed.await.is_ok(), "still open: {:#?}", left.lock().unwrap());
        sim.faults(Faults::default());
        until_reconciled(&sim).await;

        let deliveries = deliveries(&sim).await;
        let signed = deliveries.len();
        // A reader whose answer was lost learns of the signature when it asks again, maybe after the report is delivered.
        let counted =
            || async { readers.iter().map(|reader| reader.counts().signed).sum::<u64>() == signed as u64 };
        wait_for("as many signatures as reports", PATIENCE, counted).await;
        let uids: Vec<_> = studies.iter().map(|study| &study.study_uid).collect();
        until_legal(&sim, &uids, signed).await;
        assert!(deliveries.iter().all(|d| d.state() == DeliveryState::ApplicationAccepted));
        let sent: BTreeSet<_> = deliveries.iter().map(|d| d.message_id.clone()).collect();
        let taken: BTreeSet<_> = delivered(&sim).into_iter().map(|m| m.message_id).collect();
        assert_eq!((sent.len(), &sent), (signed, &taken), "reports and messages are not one to one");
        assert_eq!(delivered(&sim).len(), signed);
        let (hands, _) = sim.tables.list::<Holding>(&kind_range(RecordKind::Holding)).await.unwrap();
        assert!(hands.iter().all(|h| h.record == Holding::default()), "a reader's hands are not empty");
        sim.end().await;
        vendors.drain(Duration::from_secs(5)).await;
    }
}

/// Three readers; one gives nothing back, so that no read is left without a reader.
fn readers(sim: &Sim, seed: u64) -> Vec<Reader> {
    let reader = |(name, return_share): (&str, f64)| {
        let config = ReaderConfig {
            think: Duration::from_millis(10)..Duration::from_millis(100),
            return_share,
            ..ReaderConfig::new(name.parse().unwrap(), sim.server(0).to_owned(), seed)
        };
        Reader::start(config, &sim.peers).unwrap()
    };
    [("anna", 0.2), ("boris", 0.0), ("clara", 0.2)].map(reader).into()
}

/// Sends the day's studies, some in two parts, while the record system fails now in this way, now in that.
async fn send_all(sim: &mut Sim) -> Vec<Study> {
    let mut studies = Vec::new();
    for kind in StudyKind::ALL.into_iter().cycle().take(STUDIES) {
        let study = sim.study(kind);
        let answer = *sim.rng.pick(&ANSWERS).unwrap();
        sim.receiver.set_answer(answer);
        let images = study.instances.len();
        if images > 1 && sim.rng.chance(0.4) {
            // Sometimes within the quiet period, sometimes after it: then it is a late image.
            sim.send(&part(&study, 0..images - 1)).await;
            if sim.rng.chance(0.5) {
                sim.until("revision 1", &study.study_uid, |s| s.revision == 1).await;
            }
            sim.send(&part(&study, images - 1..images)).await;
        } else {
            sim.send(&study).await;
        }
        studies.push(study);
    }
    studies
}
