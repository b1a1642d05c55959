//! Files of real devices: each is answered as the manifest of the corpus says, kept byte for byte, read and reported.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Stdio,
};

use isocenter_peers::{LOOPBACK, receiver::Receiver};
use isocenter_wire::v1::StudyStage;
use serde_json::Value;
use tokio::net::TcpListener;

use crate::harness::{Bench, PATIENCE, data_sets, files_below, fixture, program, pydicom_folder, python};

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text<'a>(value: &'a Value, field: &str) -> &'a str {
    value[field].as_str().unwrap_or_default()
}

/// What is wrong with the answer to one file.
fn fault(sent: &Value) -> Option<String> {
    let (verdict, status) = (text(sent, "verdict"), text(sent, "status"));
    let fine = match verdict {
        "accept" | "repeat" | "duplicate-content" => status == "0000",
        // A class that is no image's gets no context; whatever else is refused with an error of PS3.4 Table B.2-1.
        "refuse" => {
            matches!(status, "not-sent" | "no-context") || status.starts_with("A9") || status.starts_with('C')
        }
        "not-dicom" => status == "not-sent",
        other => panic!("{other} is no verdict"),
    };
    (!fine).then(|| format!("{} ({verdict}): {status}", text(sent, "file")))
}

/// What the corpus should leave behind: data sets in `instance` and in `quarantine`, and the studies.
fn expected(manifest: &[Value]) -> (BTreeSet<String>, BTreeSet<String>, BTreeSet<String>) {
    let of = |verdict: &'static str, field: &'static str| {
        let entries = manifest.iter().filter(move |entry| text(entry, "verdict") == verdict);
        entries.map(move |entry| text(entry, field).to_owned()).collect()
    };
    (of("accept", "dataset_sha256"), of("duplicate-content", "dataset_sha256"), of("accept", "study_uid"))
}

/// The messages of a receiver as its judge sees them.
async fn judged(receiver: &Receiver, folder: &Path) -> Vec<Value> {
    std::fs::create_dir_all(folder).unwrap();
    let mut files = Vec::new();
    for (n, message) in receiver.received().into_iter().enumerate() {
        let file = folder.join(format!("{n}.hl7"));
        std::fs::write(&file, message.raw.into_revealed()).unwrap();
        files.push(file);
    }
    let ran = python("check_oru.py", &files).await;
    let answers = lines(&ran.stdout);
    assert_eq!((ran.code, answers.len()), (0, files.len()), "{ran:?}");
    answers
}

#[tokio::test]
async fn the_corpus_is_answered_kept_read_and_reported() {
    let bench = Bench::start(&[]).await;
    let receiver = bench.site("north").await;
    let manifest = fixture("pydicom.json");
    let port = bench.server.dicom.port().to_string();
    let path = manifest.display().to_string();
    let ran = python("send.py", ["--port", &port, "--aet", "NORTH", "--manifest", &path]).await;
    let sent = lines(&ran.succeeded());
    let manifest: Vec<Value> = serde_json::from_slice(&std::fs::read(&manifest).unwrap()).unwrap();
    assert_eq!(sent.len(), manifest.len());
    let faults: Vec<_> = sent.iter().filter_map(fault).collect();
    assert!(faults.is_empty(), "{faults:#?}");

    let reader = bench.reader("r1", 1).await;
    let (instances, quarantined, uids) = expected(&manifest);
    let studies = bench.settled(&uids, 2 * PATIENCE).await;
    assert_eq!(studies.keys().cloned().collect::<BTreeSet<_>>(), uids, "a study of a refused file");
    let kept = |folder| data_sets(&bench.path("blobs"), folder).into_keys().collect::<BTreeSet<_>>();
    assert_eq!(kept("instance"), instances, "the first to come is the instance");
    assert_eq!(kept("quarantine"), quarantined, "what contradicts it is put aside");
    assert_eq!(files_below(&bench.path("spool/incoming")), Vec::<PathBuf>::new());
    assert_eq!(files_below(&bench.path("spool/ready")), Vec::<PathBuf>::new());

    let delivered = studies.values().filter(|study| study.stage() == StudyStage::Delivered).count();
    assert!(delivered >= 40, "{delivered} of {} studies are delivered", studies.len());
    let deliveries = bench.deliveries().await;
    let ids: BTreeSet<_> = deliveries.iter().map(|delivery| delivery.message_id.clone()).collect();
    let answers = judged(&receiver, &bench.path("oru")).await;
    let received: BTreeSet<_> = answers.iter().map(|answer| text(answer, "control_id").to_owned()).collect();
    assert_eq!((received.len(), &received), (answers.len(), &ids), "each report once");
    assert_eq!(reader.counts().signed, ids.len() as u64);
    bench.reconciled(studies.len()).await;
}

/// What a DCMTK program makes of files: the data sets that a receiver gets from it which keeps every bit.
async fn as_sent(sender: &str, files: &[PathBuf], folder: &Path) -> BTreeMap<String, usize> {
    let listener = TcpListener::bind(LOOPBACK).await.unwrap();
    let port = listener.local_addr().unwrap().port().to_string();
    std::fs::create_dir_all(folder).unwrap();
    let receiving = async {
        let (stream, _) = listener.accept().await.unwrap();
        // DCMTK reads from the socket that it is given, and blocks there.
        let stream = stream.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        tokio::process::Command::new("storescp")
            .args(["--inetd", "--bit-preserving", "--accept-all", "--unique-filenames", "-od"])
            .arg(folder)
            .stdin(Stdio::from(std::os::fd::OwnedFd::from(stream)))
            .kill_on_drop(true)
            .output()
            .await
            .unwrap()
    };
    let (sent, received) = tokio::join!(dcmtk(sender, &port, files), receiving);
    sent.succeeded();
    assert!(received.status.success(), "{received:?}");
    let mut found = BTreeMap::new();
    for file in files_below(folder) {
        let digest = isocenter_dimse::part10::dataset_digest(&file).unwrap();
        *found.entry(digest.data_set.to_string()).or_default() += 1;
    }
    found
}

async fn dcmtk(sender: &str, port: &str, files: &[PathBuf]) -> crate::harness::Ran {
    // Left to itself dcmsend unpacks what is compressed without loss.
    let own = (sender == "dcmsend").then(|| "--decompress-never".to_owned());
    let to = ["-aet", "NORTH", "-aec", "ISOCENTER", "127.0.0.1", port].map(str::to_owned);
    let files = files.iter().map(|file| file.display().to_string());
    program(sender, own.into_iter().chain(to).chain(files)).await
}

#[tokio::test]
async fn what_dcmtk_sends_is_kept_as_dcmtk_sends_it() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    bench.reader("r1", 1).await;
    let folder = pydicom_folder().await;
    let port = bench.server.dicom.port().to_string();
    let mut expected = BTreeSet::new();
    for (sender, names) in [
        ("storescu", ["CT_small.dcm", "MR_small.dcm", "rtplan.dcm"]),
        ("dcmsend", ["JPEG2000.dcm", "image_dfl.dcm", "ExplVR_BigEnd.dcm"]),
    ] {
        let files: Vec<PathBuf> = names.map(|name| folder.join(name)).to_vec();
        dcmtk(sender, &port, &files).await.succeeded();
        let data_sets = as_sent(sender, &files, &bench.path(sender)).await;
        assert_eq!(data_sets.len(), files.len(), "{sender}");
        expected.extend(data_sets.into_keys());
    }
    let all = || async { bench.studies().await.len() == 6 };
    isocenter_testkit::wait_for("six studies", PATIENCE, all).await;
    bench.settled(&bench.studies().await.into_keys().collect(), PATIENCE).await;
    let kept: BTreeSet<_> = data_sets(&bench.path("blobs"), "instance").into_keys().collect();
    assert_eq!(kept, expected);
    bench.reconciled(6).await;
}
