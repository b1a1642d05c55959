//! No patient identity outside blobs and records.

use std::collections::BTreeSet;

use isocenter_peers::synthetic::Synthetic;

use crate::harness::{Bench, PATIENCE, files_below};

/// What of a synthetic patient's name is in no other word, in the character sets that names are sent in: as UTF-8, and
/// as ISO 8859-5, which is what (0008,0005) calls ISO_IR 144.
fn names() -> Vec<Vec<u8>> {
    let cyrillic = |text: &str| {
        let byte = |c: char| u8::try_from(u32::from(c) - 0x0360).unwrap();
        text.chars().map(byte).collect::<Vec<_>>()
    };
    ["PATIENT 0", "SYNTHETIC^", "СИНТЕТ", "ПАЦИЕНТ", "患者"]
        .map(|name| name.as_bytes().to_vec())
        .into_iter()
        .chain([cyrillic("СИНТЕТ"), cyrillic("ПАЦИЕНТ")])
        .collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

#[tokio::test]
async fn patients_are_in_no_log_no_metric_and_no_store() {
    let seed = 4242;
    let bench = Bench::start(&["--telemetry.level", "debug"]).await;
    let receiver = bench.site("north").await;
    bench.reader("r1", seed).await;
    let studies = Synthetic::new(seed).mix(11).unwrap();
    let sent: Vec<_> = studies.iter().map(|study| study.study.clone()).collect();
    bench.send("north", &sent).await;
    let uids: BTreeSet<_> = sent.iter().map(|study| study.study_uid.to_string()).collect();
    bench.settled(&uids, PATIENCE).await;
    bench.reconciled(sent.len()).await;

    let secrets: Vec<Vec<u8>> = studies
        .iter()
        .flat_map(|study| [study.patient_id.reveal(), study.accession_number.reveal()])
        .map(|text| text.as_bytes().to_vec())
        .chain(names())
        .collect();
    // The search finds what is there: the reports name their patients.
    let reported = receiver.received();
    let found = |part: &[u8]| reported.iter().any(|message| holds(message.raw.reveal(), part));
    assert!(found(studies[0].patient_id.reveal().as_bytes()) && found("СИНТЕТ".as_bytes()));

    let mut places = vec![
        ("the log".to_owned(), bench.server.log().into_bytes()),
        ("/metrics".to_owned(), bench.server.metrics().await.into_bytes()),
    ];
    let store = files_below(&bench.path("store"));
    assert!(!store.is_empty());
    places.extend(store.into_iter().map(|file| (file.display().to_string(), std::fs::read(&file).unwrap())));
    for (place, bytes) in &places {
        for secret in &secrets {
            assert!(!holds(bytes, secret), "{:?} is in {place}", String::from_utf8_lossy(secret));
        }
    }
}

#[tokio::test]
async fn study_uids_are_in_no_log() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    bench.reader("r1", 1).await;
    let studies = Synthetic::new(77).mix(5).unwrap();
    let sent: Vec<_> = studies.into_iter().map(|study| study.study).collect();
    bench.send("north", &sent).await;
    let uids: BTreeSet<_> = sent.iter().map(|study| study.study_uid.to_string()).collect();
    bench.settled(&uids, PATIENCE).await;
    let log = bench.server.log();
    assert!(!log.is_empty());
    let told: Vec<_> = log.lines().filter(|line| uids.iter().any(|uid| line.contains(uid))).collect();
    assert!(told.is_empty(), "{told:#?}");
}
