//! Yesterday's log: what went through a network is replayed by the simulator.

use std::collections::BTreeSet;

use isocenter_peers::synthetic::{StudyKind, Synthetic};
use isocenter_testkit::wait_for;
use serde_json::Value;

use crate::harness::{Bench, PATIENCE, Ran, isocenter, program};

/// Three to be read, and a report without images.
const KINDS: [StudyKind; 4] =
    [StudyKind::CrChest, StudyKind::DxChest, StudyKind::UsAbdomen, StudyKind::SrOnly];

fn lines(text: &str) -> Vec<Value> {
    let line = |line| serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    text.lines().map(line).collect()
}

/// The second in which the first of the studies was complete.
async fn first_complete(bench: &Bench) -> String {
    let listed = bench.server.cli(&["study", "list", "--json"]).await.json();
    let studies = listed.as_array().unwrap();
    let seconds = studies.iter().map(|study| &study["completeAt"].as_str().unwrap()[..19]);
    format!("{}Z", seconds.min().unwrap())
}

async fn simulate(arguments: &[&str]) -> Ran {
    program(isocenter(), ["simulate"].iter().chain(arguments)).await
}

#[tokio::test]
async fn what_went_through_is_replayed_by_the_simulator() {
    let bench = Bench::start(&[]).await;
    bench.site("kazan").await;
    let mut synthetic = Synthetic::new(7);
    let made: Vec<_> = KINDS.iter().map(|kind| synthetic.study(*kind).unwrap()).collect();
    let studies: Vec<_> = made.iter().map(|made| made.study.clone()).collect();
    bench.send("kazan", &studies).await;
    let uids: BTreeSet<String> = studies.iter().map(|study| study.study_uid.to_string()).collect();
    bench.reader("anna-of-kazan", 7).await;
    bench.settled(&uids, PATIENCE).await;

    // The records follow the journal, which is written every second.
    let from = first_complete(&bench).await;
    let verb = ["records", "replay-log", "--from", &from];
    let whole = || async {
        let log = lines(&bench.server.cli(&verb).await.stdout);
        log.len() == 3 && log.iter().all(|line| line["reading_min"].is_number())
    };
    wait_for("the records to have every signature", PATIENCE, whole).await;
    let ran = bench.server.cli(&verb).await;
    assert!(ran.stderr.contains("left out: 1 studies that nobody reads"), "{ran:?}");
    let text = ran.succeeded();
    let log = lines(&text);
    let modalities: BTreeSet<_> = log.iter().map(|line| line["modality"].as_str().unwrap()).collect();
    assert_eq!(modalities, ["CR", "DX", "US"].into());
    for line in &log {
        assert_eq!((&line["site"], &line["class"]), (&"kazan".into(), &"ROUTINE".into()), "{line}");
        assert!(line["complete_at"].as_str().unwrap() >= from.as_str(), "{line}");
    }
    for made in &made {
        let identity =
            [made.patient_id.reveal(), made.accession_number.reveal(), made.study.study_uid.as_str()];
        assert!(identity.iter().all(|name| !text.contains(*name)), "{text}");
    }
    assert!(!text.contains("anna"), "{text}");

    // Of another network than the scenario that ships: what it lacks is said, and one that fits is written.
    let (log, fitting) = (bench.path("day.jsonl"), bench.path("network.yaml"));
    std::fs::write(&log, &text).unwrap();
    let (log, scenario) = (log.display().to_string(), fitting.display().to_string());
    let day = ["day", "--replay", &log, "--policy", "fifo,isocenter", "--seeds", "1", "--json"];
    let other = simulate(&day).await;
    assert!(
        other.code == 2 && other.stderr.contains("sites `kazan`; categories of modality `CR`"),
        "{other:?}"
    );
    let policy = bench.path("policy.yaml");
    std::fs::write(&policy, bench.server.cli(&["policy", "show"]).await.succeeded()).unwrap();
    let policy = policy.display().to_string();
    let written = simulate(&["scenario", "--replay", &log, "--policy", &policy]).await.succeeded();
    assert!(written.contains(r#"name: "ROUTINE", deadline: 1440m"#), "{written}");
    std::fs::write(&fitting, written).unwrap();
    let replayed = simulate(&[&day[..], &["--scenario", &scenario]].concat()).await.json();
    let counts: Vec<_> =
        replayed["policies"].as_array().unwrap().iter().map(|p| &p["runs"][0]["studies"]).collect();
    assert_eq!(counts, [3, 3], "{replayed}");
}
