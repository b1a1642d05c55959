//! `kill -9` at random moments: what was acknowledged is there, byte for byte, and ends as one delivered report.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::Write as _,
    sync::Arc,
    time::Duration,
};

use isocenter_domain::id::AeTitle;
use isocenter_peers::{
    modality::{Modality, ModalityConfig},
    receiver::Receiver,
    study::Study,
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::{clock, random::Seeded};
use isocenter_wire::v1::{DeliveryState, StudyStage};
use tokio::sync::watch;

use crate::harness::{Bench, PATIENCE, Relay, Server, data_sets, files_below};

/// How often the server is killed shortly after it was started, while it receives and assembles.
const EARLY: usize = 47;
/// How often it is killed while readers sign and reports go out. A killed leader of the queue holds its place for 10 s, so
/// that nothing is read for as long after each start.
const LATE: usize = 3;
/// How often in all.
const KILLS: usize = EARLY + LATE;
/// Studies under way to the server at a time.
const SENDERS: usize = 2;
/// A sender's pause after each association.
const PAUSE: Duration = Duration::from_millis(300);
/// Small studies, one of them without anything to read.
const KINDS: [StudyKind; 5] = [
    StudyKind::CrChest,
    StudyKind::DxChest,
    StudyKind::CrChestOpacity,
    StudyKind::SrOnly,
    StudyKind::UsAbdomen,
];

/// What the senders know.
#[derive(Default)]
struct Account {
    /// SHA-256 of each data set that was acknowledged.
    acknowledged: BTreeMap<String, String>,
    studies: BTreeSet<String>,
}

/// SHA-256 of an instance's data set.
async fn data_set(study: &Study, n: usize) -> String {
    let file = study.instances[n].read().await.unwrap();
    let meta = isocenter_dimse::part10::FileMeta::read(&mut file.as_ref()).unwrap();
    let offset = usize::try_from(meta.data_set_offset).unwrap();
    isocenter_domain::refs::Digest::of(&file[offset..]).to_string()
}

/// Sends studies until `stop`, each until every object is acknowledged.
async fn stream(
    mut synthetic: Synthetic,
    server: watch::Receiver<Option<String>>,
    stop: watch::Receiver<bool>,
) -> Account {
    let title = |text: &str| AeTitle::new(text).unwrap();
    let mut account = Account::default();
    for kind in KINDS.into_iter().cycle() {
        if *stop.borrow() {
            break;
        }
        let study = synthetic.study(kind).unwrap().study;
        account.studies.insert(study.study_uid.to_string());
        let mut open: Vec<usize> = (0..study.instances.len()).collect();
        while !open.is_empty() {
            let address = server.clone().wait_for(Option::is_some).await.unwrap().clone().unwrap();
            let config = ModalityConfig {
                attempts: 1,
                ..ModalityConfig::new(title("NORTH"), title("ISOCENTER"), address)
            };
            let rest = open.iter().map(|n| study.instances[*n].clone()).collect();
            let rest = Study { study_uid: study.study_uid.clone(), instances: rest };
            let sent = Modality::new(config).send_study(&rest).await;
            let mut still = Vec::new();
            for (n, sent) in open.iter().zip(sent) {
                match sent.outcome {
                    Ok(status) if status.is_stored() => {
                        let uid = sent.instance_uid.to_string();
                        account.acknowledged.insert(uid, data_set(&study, *n).await);
                    }
                    Ok(status) => panic!("{kind:?} is answered {status}"),
                    Err(_) => still.push(*n),
                }
            }
            open = still;
            // As many studies as the readers get through in the time that the test may take.
            tokio::time::sleep(PAUSE).await;
        }
    }
    account
}

/// How long each start took, from the process to its addresses.
fn told(starts: &mut [Duration], account: &Account, seed: u64) {
    starts.sort_unstable();
    let (median, longest) = (starts[starts.len() / 2], starts[starts.len() - 1]);
    let line = format!(
        "durability: seed {seed}, {} restarts, median {median:?}, longest {longest:?}, {} studies, {} instances",
        starts.len(),
        account.studies.len(),
        account.acknowledged.len()
    );
    // A measurement for whoever looks; nothing depends on it.
    drop(writeln!(std::io::stderr(), "{line}"));
}

/// Every report version that there is was accepted, each under one message id, and nothing else arrived.
async fn accepted_once(bench: &Bench, receiver: &Receiver, seed: u64) {
    let deliveries = bench.deliveries().await;
    let open: Vec<_> =
        deliveries.iter().filter(|d| d.state() != DeliveryState::ApplicationAccepted).collect();
    assert!(open.is_empty(), "seed {seed}: {open:?}");
    let owed: BTreeMap<_, _> =
        deliveries.iter().map(|d| (d.message_id.clone(), (d.report_id.clone(), d.version))).collect();
    assert_eq!(owed.len(), deliveries.len(), "seed {seed}: one message id for two reports");
    let received = receiver.received();
    let ids: BTreeSet<_> = received.iter().map(|message| message.control_id.clone()).collect();
    assert_eq!(ids.len(), received.len(), "seed {seed}: a message was committed twice");
    assert_eq!(ids, owed.into_keys().collect(), "seed {seed}");
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_kills_lose_nothing_and_repeat_nothing() {
    let seeded = Seeded::fresh();
    let seed = seeded.seed();
    let mut bench = Bench::start(&[]).await;
    let receiver = bench.site("north").await;
    let relay = Relay::start(&bench.tasks).await;
    relay.point(Some(bench.server.listen));
    for reader in ["r1", "r2"] {
        bench.reader_at(relay.url(), reader, seed).await;
    }

    let server = watch::Sender::new(Some(bench.server.dicom()));
    let stop = watch::Sender::new(false);
    let mut sending = tokio::task::JoinSet::new();
    for sender in 0..SENDERS {
        let synthetic = Synthetic::new(seed.wrapping_add(sender as u64));
        sending.spawn(stream(synthetic, server.subscribe(), stop.subscribe()));
    }

    let mut kills = seeded.fork("kills");
    let mut starts = Vec::new();
    let clock: Arc<dyn clock::Clock> = clock::system();
    for n in 0..KILLS {
        let early = n < EARLY;
        if !early {
            let accepted = receiver.counts().accepted;
            let more = receiver.until(|counts| counts.accepted > accepted + 2);
            let waited = tokio::time::timeout(PATIENCE, more).await;
            assert!(waited.is_ok(), "seed {seed}: no report arrives after kill {n}");
        }
        let (first, last) = if early { (100, 800) } else { (0, 300) };
        tokio::time::sleep(kills.duration(Duration::from_millis(first)..Duration::from_millis(last))).await;
        server.send_replace(None);
        relay.point(None);
        bench.server.kill().await;
        let begun = clock.monotonic();
        bench.server = Server::spawn(&bench.path(""), &[]).await;
        starts.push(clock.monotonic() - begun);
        relay.point(Some(bench.server.listen));
        server.send_replace(Some(bench.server.dicom()));
    }
    stop.send_replace(true);
    let mut account = Account::default();
    while let Some(sent) = sending.join_next().await {
        let mut sent = sent.unwrap();
        account.acknowledged.append(&mut sent.acknowledged);
        account.studies.append(&mut sent.studies);
    }
    told(&mut starts, &account, seed);

    let studies = bench.settled(&account.studies, 2 * PATIENCE).await;
    assert_eq!(studies.len(), account.studies.len(), "seed {seed}");
    assert!(studies.values().any(|s| s.stage() == StudyStage::NothingToRead), "seed {seed}");
    let kept = data_sets(&bench.path("blobs"), "instance");
    let lost: Vec<_> = account.acknowledged.iter().filter(|(_, sha)| !kept.contains_key(*sha)).collect();
    assert!(lost.is_empty(), "seed {seed}: {lost:?}");
    assert!(account.acknowledged.len() >= KILLS, "seed {seed}: only {}", account.acknowledged.len());
    assert_eq!(data_sets(&bench.path("blobs"), "quarantine"), BTreeMap::new(), "seed {seed}");
    assert!(files_below(&bench.path("spool/ready")).is_empty(), "seed {seed}");
    accepted_once(&bench, &receiver, seed).await;
    bench.reconciled(studies.len()).await;
}
