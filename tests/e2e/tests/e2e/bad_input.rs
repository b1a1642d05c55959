//! What arrives broken, wrong or unasked: refused by name, and nothing is lost or made up.

use std::{collections::BTreeSet, net::SocketAddr};

use bytes::Bytes;
use isocenter_dimse::{
    Scu, StatusClass, StoreStatus,
    part10::FileMeta,
    scu::{ProposedContext, ScuError, Source},
};
use isocenter_domain::{id::AeTitle, refs::Digest};
use isocenter_peers::{
    modality::Modality,
    study::{Instance, Study},
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::random::Seeded;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::harness::{Bench, PATIENCE, data_sets, metric};

/// Damaged files that are sent.
const DAMAGED: usize = 60;

fn title(text: &str) -> AeTitle {
    AeTitle::new(text).unwrap()
}

async fn associate(bench: &Bench, calling: &str, instance: &Instance) -> Result<Scu, ScuError> {
    let context = ProposedContext {
        sop_class: instance.sop_class_uid.clone(),
        transfer_syntax: instance.transfer_syntax_uid.clone(),
    };
    Scu::connect(bench.server.dicom(), &title(calling), &title("ISOCENTER"), &[context]).await
}

/// What the server answers to a file, whatever is in it.
async fn store(bench: &Bench, instance: &Instance, file: Bytes) -> StoreStatus {
    let mut scu = associate(bench, "NORTH", instance).await.unwrap();
    let status = scu.store(Source::Bytes(file)).await.unwrap();
    scu.release().await.unwrap();
    status
}

fn offset(file: &Bytes) -> usize {
    usize::try_from(FileMeta::read(&mut file.as_ref()).unwrap().data_set_offset).unwrap()
}

fn only(study: Study) -> Instance {
    study.instances.into_iter().next().unwrap()
}

/// Every data set that the server keeps, quarantined or not.
fn kept(bench: &Bench) -> BTreeSet<String> {
    let mut kept = data_sets(&bench.path("blobs"), "instance");
    kept.extend(data_sets(&bench.path("blobs"), "quarantine"));
    kept.into_keys().collect()
}

async fn settled_is(bench: &Bench, expected: &BTreeSet<String>) {
    let same = || async { kept(bench) == *expected };
    isocenter_testkit::wait_for("what was acknowledged, and nothing else, to be kept", PATIENCE, same).await;
    bench.settled(&bench.studies().await.into_keys().collect(), PATIENCE).await;
}

#[tokio::test]
async fn a_damaged_data_set_is_refused_or_kept_as_it_came() {
    let mut seeded = Seeded::fresh();
    let seed = seeded.seed();
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    bench.reader("r1", seed).await;
    let mut synthetic = Synthetic::new(seed);
    let (mut acknowledged, mut refused) = (BTreeSet::new(), 0);
    for n in 0..DAMAGED {
        let kind = [StudyKind::CrChestOpacity, StudyKind::CrChest, StudyKind::SrOnly][n % 3];
        let instance = only(synthetic.study(kind).unwrap().study);
        let mut file = instance.read().await.unwrap().to_vec();
        let start = offset(&file.clone().into());
        // The header is where damage matters; it takes the first kilobyte or two.
        let end = if n % 2 == 0 { file.len() } else { file.len().min(start + 1500) };
        let mut at = || usize::try_from(seeded.range(start as u64..end as u64)).unwrap();
        if n % 4 < 2 {
            file.truncate(at());
        } else {
            for _ in 0..4 {
                file[at()] ^= 1 << (n % 8);
            }
        }
        let data_set = Digest::of(&file[start..]).to_string();
        let status = store(&bench, &instance, file.into()).await;
        if status.is_stored() {
            acknowledged.insert(data_set);
        } else {
            refused += 1;
            let code = status.code();
            assert!(code == 0xA900 || code & 0xF000 == 0xC000, "seed {seed}, file {n}: {status}");
            assert_eq!(status.class(), StatusClass::Failure);
        }
    }
    assert!(refused > 5 && acknowledged.len() > 5, "seed {seed}: {refused} refused, {}", acknowledged.len());
    let intact = only(synthetic.study(StudyKind::DxChest).unwrap().study);
    let file = intact.read().await.unwrap();
    acknowledged.insert(Digest::of(&file[offset(&file)..]).to_string());
    assert_eq!(store(&bench, &intact, file).await, StoreStatus::SUCCESS, "seed {seed}");
    settled_is(&bench, &acknowledged).await;
    bench.reconciled(bench.studies().await.len()).await;
}

#[tokio::test]
async fn a_data_set_that_is_another_instance_than_announced_is_refused() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    let mut synthetic = Synthetic::new(3);
    let mut file = || only(synthetic.study(StudyKind::CrChestOpacity).unwrap().study);
    let (announced, sent) = (file(), file());
    let (head, body) = (announced.read().await.unwrap(), sent.read().await.unwrap());
    let mixed = [&head[..offset(&head)], &body[offset(&body)..]].concat();
    let status = store(&bench, &announced, mixed.into()).await;
    assert_eq!(status.code(), 0xA900);
    assert_eq!((kept(&bench), bench.studies().await.len()), (BTreeSet::new(), 0));
}

#[tokio::test]
async fn a_stranger_is_rejected_and_counted() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    let instance = only(Synthetic::new(4).study(StudyKind::CrChest).unwrap().study);
    let stranger = associate(&bench, "STRANGER", &instance).await;
    assert!(matches!(stranger, Err(ScuError::Rejected { transient: false, .. })), "{stranger:?}");
    let text = bench.server.metrics().await;
    let name = "isocenter_ingestion_rejected_total{reason=\"unknown-calling-ae\"}";
    assert_eq!(metric(&text, name), Some(1.0), "{text}");
    let wrong = Scu::connect(bench.server.dicom(), &title("NORTH"), &title("OTHER"), &[]).await;
    assert!(matches!(wrong, Err(ScuError::Rejected { transient: false, .. })), "{wrong:?}");
}

/// An item of an A-ASSOCIATE-RQ (PS3.8 §9.3.2): type, a reserved byte, its length, itself.
fn item(kind: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).unwrap().to_be_bytes();
    [&[kind, 0], &length[..], body].concat()
}

fn pdu(kind: u8, length: u32, body: &[u8]) -> Vec<u8> {
    [&[kind, 0], &length.to_be_bytes()[..], body].concat()
}

/// An association request for Verification, written by hand.
fn request() -> Vec<u8> {
    let context = [&[1, 0, 0, 0][..], &item(0x30, b"1.2.840.10008.1.1"), &item(0x40, b"1.2.840.10008.1.2")];
    let user = [item(0x51, &16384_u32.to_be_bytes()), item(0x52, b"2.25.1")].concat();
    let body = [
        &[0, 1, 0, 0][..],
        b"ISOCENTER       NORTH           ",
        &[0; 32],
        &item(0x10, b"1.2.840.10008.3.1.1.1"),
        &item(0x20, &context.concat()),
        &item(0x50, &user),
    ];
    let body = body.concat();
    pdu(1, u32::try_from(body.len()).unwrap(), &body)
}

/// What the server still says before it closes the connection.
async fn last_words(mut stream: TcpStream) -> Vec<u8> {
    let mut said = Vec::new();
    // A reset is an end too: what was sent is not read by a server that gave up on it.
    drop(tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the connection ends"));
    said
}

#[tokio::test]
async fn a_pdu_over_the_limit_ends_its_connection_and_nothing_else() {
    const ASSOCIATE_AC: u8 = 2;
    const DATA: u8 = 4;
    const ABORT: u8 = 7;
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    let address: SocketAddr = bench.server.dicom;

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&pdu(1, u32::MAX, b"what is never going to end")).await.unwrap();
    let said = last_words(stream).await;
    assert!(said.is_empty() || said[0] == ABORT, "{said:?}");

    let mut stream = TcpStream::connect(address).await.unwrap();
    stream.write_all(&request()).await.unwrap();
    let mut head = [0; 6];
    stream.read_exact(&mut head).await.unwrap();
    assert_eq!(head[0], ASSOCIATE_AC, "{head:?}");
    let mut rest = vec![0; u32::from_be_bytes([head[2], head[3], head[4], head[5]]) as usize];
    stream.read_exact(&mut rest).await.unwrap();
    stream.write_all(&pdu(DATA, 1 << 30, &[0; 64])).await.unwrap();
    let said = last_words(stream).await;
    assert!(said.is_empty() || said[0] == ABORT, "{said:?}");

    let study = Synthetic::new(8).study(StudyKind::CrChest).unwrap().study;
    bench.send("north", &[study]).await;
}

#[tokio::test]
async fn a_wrong_policy_is_refused_with_line_and_column_and_changes_nothing() {
    let bench = Bench::start(&[]).await;
    let before = bench.server.cli(&["policy", "show", "--json"]).await.json();
    let default = "default: {class: ROUTINE, read: true, pools: [general], destinations: ['site:{site}']}";
    let head = "name: north\nschema: 1\nclasses:\n  ROUTINE: {deadline: 24h}\n";
    let wrong = [
        (format!("{head}rules: [\n{default}\n"), "line "),
        (format!("{head}rools: []\n{default}\n"), "line 5, column 1"),
        (
            format!(
                "{head}rules:\n  - name: a\n    when: modalitys == 'CT'\n    class: ROUTINE\n{default}\n"
            ),
            "line 7, column 11",
        ),
        (
            format!("{head}rules:\n  - name: a\n    when: \"true\"\n    class: STATT\n{default}\n"),
            "line 8, column 12",
        ),
    ];
    let file = bench.path("policy.yaml");
    for (text, place) in wrong {
        std::fs::write(&file, &text).unwrap();
        let ran = bench.server.cli(&["policy", "apply", &file.display().to_string()]).await;
        assert_eq!((ran.code, ran.stdout.as_str()), (1, ""), "{text}\n{ran:?}");
        assert!(ran.stderr.contains(place) && ran.stderr.contains("column "), "{text}\n{ran:?}");
    }
    assert_eq!(bench.server.cli(&["policy", "show", "--json"]).await.json(), before);
    std::fs::write(&file, format!("{head}{default}\n")).unwrap();
    bench.server.cli(&["policy", "apply", &file.display().to_string()]).await.succeeded();
    let after = bench.server.cli(&["policy", "show", "--json"]).await.json();
    assert_eq!(after["name"].as_str(), Some("north"), "{after}");
}

#[tokio::test]
async fn a_full_disk_refuses_for_now_and_loses_nothing() {
    let mut bench = Bench::start(&[]).await;
    bench.site("north").await;
    bench.reader("r1", 9).await;
    let mut synthetic = Synthetic::new(9);
    let mut study = || synthetic.study(StudyKind::DxChest).unwrap().study;
    let (before, during) = (study(), study());
    bench.send("north", std::slice::from_ref(&before)).await;

    // More than any disk has free: the same to the server as a full one.
    bench.restart(&["--dicom.min_free", "100000TiB"]).await;
    let mut config = bench.modality("NORTH");
    config.attempts = 1;
    let sent = Modality::new(config).send(std::slice::from_ref(&during)).await;
    assert_eq!(sent[0].outcome.as_ref().map(|status| status.code()), Ok(0xA700), "{sent:?}");
    assert_eq!(sent[0].outcome.as_ref().map(|status| status.class()), Ok(StatusClass::Refused));

    bench.restart(&[]).await;
    assert!(!bench.studies().await.contains_key(during.study_uid.as_str()));
    bench.send("north", std::slice::from_ref(&during)).await;
    bench.reader("r2", 9).await;
    let uids = [before, during].map(|study| study.study_uid.to_string()).into();
    bench.settled(&uids, PATIENCE).await;
    assert_eq!(kept(&bench).len(), 2);
    bench.reconciled(2).await;
}
