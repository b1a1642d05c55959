//! The command line: exit codes, JSON, and what a server refuses to do.

use std::collections::BTreeSet;

use isocenter_peers::synthetic::{StudyKind, Synthetic};
use serde_json::Value;

use crate::harness::{Bench, PATIENCE, Server, exited, isocenter, program};

fn strings(value: &Value, field: &str) -> BTreeSet<String> {
    let items = value.as_array().unwrap_or_else(|| panic!("not an array: {value}"));
    items.iter().map(|item| item[field].as_str().unwrap_or_default().to_owned()).collect()
}

fn set(items: &[&str]) -> BTreeSet<String> {
    items.iter().map(|item| (*item).to_owned()).collect()
}

#[tokio::test]
async fn states_are_those_of_the_documentation() {
    let told = program(isocenter(), ["states"]).await.succeeded();
    let documented =
        std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/states.md")).unwrap();
    assert_eq!(told, documented);
}

#[tokio::test]
async fn wrong_usage_is_exit_code_2_and_an_absent_server_3() {
    let wrong: [&[&str]; 5] = [
        &["serv"],
        &["serve", "--study.quiet_period", "soon"],
        &["study", "list", "--stage", "lost"],
        &["site", "add", "north"],
        &["reader", "add", "r1", "--skill", ":HEAD", "--site", "*", "--pool", "general"],
    ];
    for arguments in wrong {
        let ran = program(isocenter(), arguments).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (2, ""), "{arguments:?}: {ran:?}");
        assert!(!ran.stderr.is_empty());
    }
    // Port 9 is discard's; nobody has listened there for decades.
    for verb in [["study", "list"], ["delivery", "list"], ["site", "list"]] {
        let ran = program(isocenter(), verb.iter().chain(&["--server", "http://127.0.0.1:9"])).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (3, ""), "{verb:?}: {ran:?}");
    }
    let ran = program(isocenter(), ["reconcile", "--server", "http://127.0.0.1:9"]).await;
    assert_eq!(ran.code, 3, "{ran:?}");
}

#[tokio::test]
async fn what_is_registered_is_listed_and_can_be_removed() {
    let bench = Bench::start(&[]).await;
    let server = &bench.server;
    let added: [&[&str]; 5] = [
        &["site", "add", "north", "--ae-title", "NORTH", "--ae-title", "NORTH2", "--quiet-period", "5s"],
        &["pool", "add", "general", "--description", "everybody"],
        &["reader", "add", "r1", "--skill", "CT:HEAD", "--skill", "*", "--site", "*", "--pool", "general"],
        &["destination", "add", "north", "--hl7", "127.0.0.1:2575"],
        &["ai", "add", "sample", "--address", "http://127.0.0.1:9000", "--receives-original"],
    ];
    for arguments in added {
        let ran = server.cli(arguments).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (0, ""), "{arguments:?}: {ran:?}");
        let listed = server.cli(&[arguments[0], "list", "--json"]).await.json();
        let entries = listed.as_array().unwrap();
        assert_eq!(entries.len(), 1, "{listed}");
        assert!(entries[0].to_string().contains(arguments[2]), "{listed}");
        let table = server.cli(&[arguments[0], "list"]).await.succeeded();
        assert!(table.lines().nth(1).is_some_and(|row| row.contains(arguments[2])), "{table}");
    }
    server.cli(&["ai", "remove", "sample"]).await.succeeded();
    assert_eq!(server.cli(&["ai", "list", "--json"]).await.json(), serde_json::json!([]));
    // An address that nothing can be sent to is refused, and the field is named.
    let refused = server.cli(&["destination", "add", "south", "--hl7", "nowhere"]).await;
    assert!(refused.code == 1 && refused.stderr.contains("mllp"), "{refused:?}");
}

#[tokio::test]
async fn studies_reads_and_deliveries_are_listed_and_explained() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    let server = &bench.server;
    for verb in [["study", "list", "--json"], ["read", "list", "--json"], ["delivery", "list", "--json"]] {
        assert_eq!(server.cli(&verb).await.json(), serde_json::json!([]), "{verb:?}");
    }
    let mut synthetic = Synthetic::new(5);
    let (film, note) =
        (synthetic.study(StudyKind::CrChest).unwrap(), synthetic.study(StudyKind::SrOnly).unwrap());
    let (film, note) = (film.study, note.study);
    bench.send("north", &[film.clone(), note.clone()]).await;

    let waiting = || async {
        let listed = server.cli(&["study", "list", "--stage", "waiting-for-reader", "--json"]).await.json();
        strings(&listed, "studyInstanceUid") == set(&[film.study_uid.as_str()])
    };
    isocenter_testkit::wait_for("the film to wait", PATIENCE, waiting).await;
    let worklist = server.cli(&["read", "list", "--json"]).await.json();
    assert_eq!(strings(&worklist, "state"), set(&["READ_STATE_WAITING"]), "{worklist}");
    let id = worklist[0]["readId"].as_str().unwrap().to_owned();
    let why = server.cli(&["read", "why", &id, "--json"]).await.json();
    assert_eq!(why["position"].as_u64(), Some(1), "{why}");
    assert!(why["terms"].as_array().is_some_and(|terms| !terms.is_empty()), "{why}");
    let explained = server.cli(&["policy", "explain", note.study_uid.as_str()]).await.succeeded();
    assert!(explained.contains("nothing-to-read"), "{explained}");

    bench.reader("r1", 5).await;
    let uids = [&film, &note].map(|study| study.study_uid.to_string()).into();
    bench.settled(&uids, PATIENCE).await;
    let listed = server.cli(&["study", "list", "--json"]).await.json();
    assert_eq!(strings(&listed, "studyInstanceUid"), uids);
    let stages = set(&["STUDY_STAGE_DELIVERED", "STUDY_STAGE_NOTHING_TO_READ"]);
    assert_eq!(strings(&listed, "stage"), stages, "{listed}");
    let deliveries = server.cli(&["delivery", "list", "--json"]).await.json();
    assert_eq!(strings(&deliveries, "reportId"), set(&[&id]), "{deliveries}");
    let table = server.cli(&["study", "list"]).await.succeeded();
    assert_eq!(table.lines().count(), 3, "{table}");
    let shown = server.cli(&["study", "show", film.study_uid.as_str(), "--json"]).await.json();
    assert_eq!(shown["study"]["stage"].as_str(), Some("STUDY_STAGE_DELIVERED"), "{shown}");
    bench.reconciled(2).await;
    // The records follow the journal, which is written every second.
    let searched = || async {
        let found = server.cli(&["study", "search", "--modality", "CR", "--json"]).await.json();
        strings(&found, "studyInstanceUid") == set(&[film.study_uid.as_str()])
    };
    isocenter_testkit::wait_for("the film to be found", PATIENCE, searched).await;

    let verbs: [&[&str]; 4] = [
        &["study", "show", "1.2.3"],
        &["policy", "explain", "1.2.3"],
        &["read", "why", "00000000000000000000000000.1"],
        &["delivery", "replay", &id, "north"],
    ];
    for verb in verbs {
        let ran = server.cli(verb).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{verb:?}: {ran:?}");
        assert!(ran.stderr.starts_with("isocenter: "), "{ran:?}");
    }
}

#[tokio::test]
async fn an_embedded_store_has_one_process_with_every_role() {
    let bench = Bench::start(&[]).await;
    let ran = exited(&bench.path(""), &[]).await;
    assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{ran:?}");
    let told = ran.stderr.lines().rfind(|line| line.starts_with("isocenter: ")).unwrap_or_default();
    assert!(told.contains("another process") && told.contains("store"), "{ran:?}");
    // The first one is none the worse for it.
    assert_eq!(bench.server.cli(&["study", "list", "--json"]).await.json(), serde_json::json!([]));

    let folder = tempfile::tempdir().unwrap();
    let ran = exited(folder.path(), &["--roles", "routing"]).await;
    assert!(ran.code == 2 && ran.stderr.contains("runs every role"), "{ran:?}");
}

#[tokio::test]
async fn nothing_is_served_in_plain_text_beyond_this_machine() {
    let folder = tempfile::tempdir().unwrap();
    let ran = exited(folder.path(), &["--listen", "0.0.0.0:0"]).await;
    assert_ne!(ran.code, 0, "{ran:?}");
    assert!(ran.stdout.is_empty() && ran.stderr.contains("0.0.0.0"), "{ran:?}");
}

#[tokio::test]
async fn a_server_that_is_asked_to_end_ends_with_exit_code_0() {
    let folder = tempfile::tempdir().unwrap();
    let mut server = Server::start(folder.path(), &[]).await;
    assert_eq!(server.terminate().await, 0, "{}", server.log());

    // With a reader present, an association open and a study half assembled it is the same.
    let mut bench = Bench::start(&["--shutdown.drain", "5s"]).await;
    bench.site("north").await;
    let reader = bench.reader("r1", 1).await;
    reader.until(|counts| counts.sessions > 0).await;
    let study = Synthetic::new(6).study(StudyKind::CrChest).unwrap().study;
    bench.send("north", std::slice::from_ref(&study)).await;
    assert_eq!(bench.server.terminate().await, 0, "{}", bench.server.log());
    bench.server = Server::start(&bench.path(""), &[]).await;
    bench.reader("r2", 2).await;
    // The destination's address is that of the same receiver.
    bench.settled(&[study.study_uid.to_string()].into(), PATIENCE).await;
}
