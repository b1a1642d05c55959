//! What the operator's guide promises: a backup that is restored, an upgrade that rolls.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    time::Duration,
};

use isocenter_domain::{
    document::JournalEntry,
    id::{AeTitle, CellId, SiteId, StudyUid, TenantId},
    key::StudyKey,
    record::study::Study as StudyRecord,
};
use isocenter_peers::{
    modality::{Modality, ModalityConfig},
    receiver::{Answer, Receiver},
    study::Study,
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::{clock, random::Seeded, secret::Secret, task::Tasks};
use isocenter_store::{
    Op, Txn,
    members::{Members, NodeOptions},
    open,
    table::{MetaError, Tables, store_key},
};
use isocenter_testkit::{EtcdServer, PostgresServer, wait_for};
use isocenter_wire::{
    document::Stored as _,
    record::{Head, LEVEL, encode},
    v1::DeliveryState,
};

use crate::harness::{
    Bench, PATIENCE, Relay, Server, TENANT, data_sets, exited, files_below, isocenter, program,
};

/// Small studies.
const KINDS: [StudyKind; 4] =
    [StudyKind::CrChest, StudyKind::DxChest, StudyKind::CrChestOpacity, StudyKind::UsAbdomen];

fn address(etcd: &EtcdServer) -> String {
    format!("etcd://{}", etcd.endpoint())
}

fn made(synthetic: &mut Synthetic, count: usize) -> Vec<Study> {
    KINDS.iter().cycle().take(count).map(|kind| synthetic.study(*kind).unwrap().study).collect()
}

fn uids(studies: &[Study]) -> BTreeSet<String> {
    studies.iter().map(|study| study.study_uid.to_string()).collect()
}

/// SHA-256 of every data set of these studies.
async fn contents(studies: &[Study]) -> BTreeSet<String> {
    let mut contents = BTreeSet::new();
    for instance in studies.iter().flat_map(|study| &study.instances) {
        let file = instance.read().await.unwrap();
        let meta = isocenter_dimse::part10::FileMeta::read(&mut file.as_ref()).unwrap();
        let offset = usize::try_from(meta.data_set_offset).unwrap();
        contents.insert(isocenter_domain::refs::Digest::of(&file[offset..]).to_string());
    }
    contents
}

/// Two processes with every role over one etcd, one PostgreSQL and one folder of blobs.
struct Cell {
    bench: Bench,
    second: Server,
    other: tempfile::TempDir,
    records: PostgresServer,
}

impl Cell {
    async fn start(etcd: &EtcdServer) -> Self {
        let records = PostgresServer::start();
        let bench = Bench::start(&flags(etcd, &records)).await;
        let other = tempfile::tempdir().unwrap();
        let second = second(&bench, &other, etcd, &records).await;
        Self { bench, second, other, records }
    }

    /// Ends both without warning.
    async fn kill(&mut self) {
        self.bench.server.kill().await;
        self.second.kill().await;
    }

    /// Starts both anew.
    async fn start_again(&mut self, etcd: &EtcdServer) {
        let flags = flags(etcd, &self.records);
        self.bench.server = Server::start(&self.bench.path(""), &flags).await;
        self.second = second(&self.bench, &self.other, etcd, &self.records).await;
    }

    /// Sends each study to one of the two, in turn.
    async fn send(&self, studies: &[Study]) {
        let title = |text: &str| AeTitle::new(text).unwrap();
        for (n, study) in studies.iter().enumerate() {
            let server = if n % 2 == 0 { &self.bench.server } else { &self.second };
            let config = ModalityConfig::new(title("NORTH"), title("ISOCENTER"), server.dicom());
            let sent = Modality::new(config).send_study(study).await;
            assert!(sent.iter().all(isocenter_peers::modality::Sent::is_stored), "{sent:?}");
        }
    }

    /// Waits until so many deliveries are in `state`.
    async fn delivered(&self, state: DeliveryState, count: usize) {
        let reached =
            || async { self.bench.deliveries().await.iter().filter(|d| d.state() == state).count() == count };
        wait_for(&format!("{count} deliveries to be {state:?}"), 2 * PATIENCE, reached).await;
    }
}

fn flags<'a>(etcd: &EtcdServer, records: &PostgresServer) -> Vec<&'a str> {
    let flags = [("--store", address(etcd)), ("--records", records.url())];
    // As long as the test.
    flags.into_iter().flat_map(|(key, value)| [key, &*Box::leak(value.into_boxed_str())]).collect()
}

async fn second(
    bench: &Bench,
    folder: &tempfile::TempDir,
    etcd: &EtcdServer,
    records: &PostgresServer,
) -> Server {
    let (blobs, key) = (bench.path("blobs").display().to_string(), bench.path("key").display().to_string());
    let shared = ["--blobs", &blobs, "--secret_file", &key];
    Server::start(folder.path(), &[&flags(etcd, records)[..], &shared].concat()).await
}

/// `etcdctl`, as the guide has it.
async fn etcdctl(arguments: &[&str]) -> String {
    program("etcdctl", arguments).await.succeeded()
}

/// A server of the data that a snapshot makes.
async fn restored(snapshot: &Path, data: &Path) -> EtcdServer {
    let (snapshot, data) = (snapshot.display().to_string(), data.display().to_string());
    etcdctl(&["snapshot", "restore", &snapshot, "--data-dir", &data]).await;
    // The last of two equal flags counts.
    EtcdServer::start_with(&["--data-dir", &data])
}

async fn tables(etcd: &EtcdServer, key: &Path, level: u32) -> Result<Tables, MetaError> {
    let secret = Secret::load_or_create(key).unwrap();
    let kv = open(&address(etcd)).await?;
    Tables::open_at(kv, clock::system(), CellId::new("cell").unwrap(), &secret, level).await
}

/// The journal in a folder of blobs, shard by shard.
fn journal(blobs: &Path) -> BTreeMap<PathBuf, Vec<JournalEntry>> {
    let mut shards: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for file in files_below(&blobs.join("journal")) {
        let entries = Vec::<JournalEntry>::decode(&std::fs::read(&file).unwrap()).unwrap();
        shards.entry(file.parent().unwrap().to_owned()).or_default().extend(entries);
    }
    shards
}

/// Whether the journal has all that was read: what waits in the outbox when the store is lost is lost with it.
async fn is_journaled(bench: &Bench) -> bool {
    let entries = journal(&bench.path("blobs")).into_values().flatten();
    let journaled: BTreeSet<_> = entries.map(|entry| (entry.event.key, entry.value_seq)).collect();
    for kind in ["read/", "report/", "holding/"] {
        let dump = bench.server.cli(&["store", "dump", kind]).await.succeeded();
        for line in dump.lines() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            let seq = line["value"]["seq"].as_str().unwrap().parse().unwrap();
            if !journaled.contains(&(line["key"].as_str().unwrap().to_owned(), seq)) {
                return false;
            }
        }
    }
    true
}

/// Which message each report version goes out under.
async fn messages(bench: &Bench) -> BTreeMap<(String, u32), String> {
    let deliveries = bench.deliveries().await.into_iter();
    deliveries.map(|d| ((d.report_id, d.version), d.message_id)).collect()
}

/// The ids of what the receiver has committed; none twice.
fn committed(receiver: &Receiver) -> BTreeSet<String> {
    let received = receiver.received();
    let ids: BTreeSet<_> = received.iter().map(|message| message.control_id.clone()).collect();
    assert_eq!(ids.len(), received.len(), "a message was committed twice");
    ids
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_is_restored_as_the_guide_says() {
    let seed = Seeded::fresh().seed();
    let etcd = EtcdServer::start();
    let mut cell = Cell::start(&etcd).await;
    let receiver = cell.bench.site("north").await;
    let relay = Relay::start(&cell.bench.tasks).await;
    relay.point(Some(cell.bench.server.listen));
    let _reader = cell.bench.reader_at(relay.url(), "r1", seed).await;
    let mut synthetic = Synthetic::new(seed);

    // Before the snapshot: some delivered, some signed and on their way, one half received.
    let first = made(&mut synthetic, 3);
    cell.send(&first).await;
    cell.delivered(DeliveryState::ApplicationAccepted, 3).await;
    receiver.set_answer(Answer::CloseBefore);
    let signed = made(&mut synthetic, 2);
    cell.send(&signed).await;
    wait_for("reports to be on their way", PATIENCE, async || cell.bench.deliveries().await.len() == 5).await;
    let snapshot = cell.bench.path("snapshot.db");
    etcdctl(&["--endpoints", &etcd.endpoint(), "snapshot", "save", &snapshot.display().to_string()]).await;

    // After it: these are delivered, others received, read and delivered, and at last some on their way.
    receiver.set_answer(Answer::Accept);
    cell.delivered(DeliveryState::ApplicationAccepted, 5).await;
    let after = made(&mut synthetic, 4);
    cell.send(&after).await;
    cell.delivered(DeliveryState::ApplicationAccepted, 9).await;
    receiver.set_answer(Answer::CloseBefore);
    let last = made(&mut synthetic, 2);
    cell.send(&last).await;
    wait_for("the last reports", PATIENCE, async || cell.bench.deliveries().await.len() == 11).await;
    let all = [first, signed, after, last].concat();
    cell.bench.reconciled(all.len()).await;
    wait_for("the journal to have it all", PATIENCE, || is_journaled(&cell.bench)).await;
    let (owed, accepted) = (messages(&cell.bench).await, committed(&receiver));
    relay.point(None);
    cell.kill().await;
    drop(etcd);

    // The guide: etcd first, then the journal into it under a new epoch, then the processes, then the comparison.
    let etcd = restored(&snapshot, &cell.bench.path("restored")).await;
    let at = |name: &str| cell.bench.path(name).display().to_string();
    let verb = ["store", "restore", "--reason", "all members lost their disks", "--json"].map(str::to_owned);
    let settings = [("store", address(&etcd)), ("blobs", at("blobs")), ("secret_file", at("key"))];
    let settings = settings.into_iter().flat_map(|(name, value)| [format!("--{name}"), value]);
    let restored = program(isocenter(), verb.into_iter().chain(settings)).await;
    let put = restored.json()["put"].as_u64();
    assert!(put > Some(0), "seed {seed}: nothing was lost");
    cell.start_again(&etcd).await;
    relay.point(Some(cell.bench.server.listen));
    receiver.set_answer(Answer::Accept);
    let repaired = ["reconcile", "--repair", "--reason", "restored from a snapshot"];
    cell.bench.server.cli(&repaired).await.succeeded();

    let late = made(&mut synthetic, 2);
    cell.send(&late).await;
    let all = [all, late].concat();
    let studies = cell.bench.settled(&uids(&all), 2 * PATIENCE).await;
    assert_eq!(studies.len(), all.len(), "seed {seed}");
    let kept: BTreeSet<_> = data_sets(&cell.bench.path("blobs"), "instance").into_keys().collect();
    assert_eq!(kept, contents(&all).await, "seed {seed}");
    cell.delivered(DeliveryState::ApplicationAccepted, all.len()).await;
    let (now, received) = (messages(&cell.bench).await, committed(&receiver));
    assert!(owed.iter().all(|(report, id)| now.get(report) == Some(id)), "seed {seed}: {owed:?} and {now:?}");
    assert!(accepted.is_subset(&received), "seed {seed}");
    assert_eq!(received, now.into_values().collect(), "seed {seed}: a second message id");
    cell.bench.reconciled(all.len()).await;
    cell.bench.server.cli(&["store", "check"]).await.succeeded();
    let checked = cell.bench.server.cli(&["records", "check", "--json"]).await;
    let checked: serde_json::Value = serde_json::from_str(&checked.stdout).unwrap();
    let gaps = checked["gaps"].as_array().into_iter().flatten().map(|gap| gap["key"].as_str().unwrap());
    // Lanes and what is registered begin above the store's revision.
    let gaps: Vec<_> =
        gaps.filter(|key| !key.starts_with("lane/") && !key.starts_with("registry/")).collect();
    assert!(gaps.is_empty(), "seed {seed}: {gaps:?}");
}

/// A process of the next level, as far as the store knows.
fn registered(tables: &Tables, tasks: &Tasks) -> Members {
    let node = NodeOptions {
        id: isocenter_runtime::random::uuid_v7().to_string().parse().unwrap(),
        address: "127.0.0.1:1".to_owned(),
        // It takes no work from the others.
        roles: vec!["upgraded"],
        version: "next".to_owned(),
    };
    Members::start(tables, node, tasks)
}

/// Puts a study that only the next level understands.
async fn from_the_future(tables: &Tables) -> StudyKey {
    let study = StudyUid::new("1.2.3.4.5").unwrap();
    let key = StudyKey { tenant: TENANT.parse::<TenantId>().unwrap(), study };
    let now = tables.clock().now();
    let site = SiteId::new("north").unwrap();
    let record =
        StudyRecord::receiving(site, AeTitle::new("NORTH").unwrap(), now.minus(Duration::from_secs(3600)));
    let head = Head {
        level: LEVEL + 1,
        seq: 1,
        op_id: "of the next level".to_owned(),
        created_at: now,
        updated_at: now,
        cell: "cell".to_owned(),
        ..Head::default()
    };
    let put = Op::put(&store_key(&key), encode(&head, &record));
    tables.kv().txn(Txn::always(vec![put])).await.unwrap();
    key
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upgrade_rolls_through_two_levels() {
    let seed = Seeded::fresh().seed();
    let etcd = EtcdServer::start();
    let store = address(&etcd);
    let flags = ["--store", store.as_str()];
    let mut bench = Bench::start(&flags).await;
    let receiver = bench.site("north").await;
    let _reader = bench.reader("r1", seed).await;
    let mut synthetic = Synthetic::new(seed);
    let mut all = made(&mut synthetic, 2);
    bench.send("north", &all).await;

    // One of the next level comes up beside it; what it writes, the others understand.
    let next = tables(&etcd, &bench.path("key"), LEVEL + 1).await.unwrap();
    let members = registered(&next, &bench.tasks);
    members.registered().await;
    assert_eq!((next.level(), next.known_level()), (LEVEL, LEVEL + 1), "seed {seed}");
    let future = from_the_future(&next).await;
    let as_put = next.kv().get(&store_key(&future)).await.unwrap();
    let more = made(&mut synthetic, 3);
    bench.send("north", &more).await;
    all.extend(more);
    let found = bench.settled(&uids(&all), 2 * PATIENCE).await;
    assert!(!found.contains_key(future.study.as_str()), "seed {seed}: it cannot be understood");

    // The record of the future is listed, and as it was.
    let listed = || async {
        let told = bench.server.cli(&["reconcile", "--json"]).await;
        let told: serde_json::Value = serde_json::from_str(&told.stdout).unwrap();
        let differences = told["differences"].as_array().unwrap();
        differences.len() == 1
            && differences[0]["kind"] == "level"
            && differences[0]["key"] == store_key(&future).as_str()
    };
    wait_for("nothing but the record of the future to differ", PATIENCE, listed).await;
    let checked = bench.server.cli(&["store", "check", "--json"]).await.json();
    assert_eq!(checked["future"], serde_json::json!([store_key(&future).as_str()]), "seed {seed}: {checked}");
    assert_eq!(next.kv().get(&store_key(&future)).await.unwrap(), as_put, "seed {seed}: it was changed");

    // Not before the last process of the old level is gone, whoever asks.
    let refused = next.raise_level(LEVEL + 1).await.unwrap_err();
    assert!(
        matches!(&refused, MetaError::Behind { nodes, .. } if nodes.len() == 6),
        "seed {seed}: {refused}"
    );
    let raise = (LEVEL + 1).to_string();
    let refused = bench.server.cli(&["level", "raise", &raise]).await;
    assert!(refused.code != 0 && refused.stderr.contains("start a newer build"), "seed {seed}: {refused:?}");
    bench.server.cli(&["drain", "--reason", "replaced by the next level"]).await.succeeded();
    assert_eq!(bench.server.ended().await, 0, "seed {seed}");
    next.raise_level(LEVEL + 1).await.unwrap();
    assert_eq!(next.level(), LEVEL + 1, "seed {seed}");
    let read = next.load::<StudyRecord>(&future).await.unwrap();
    assert_eq!(read.map(|read| read.head.level), Some(LEVEL + 1), "seed {seed}");

    // From now on nobody of the old level gets in.
    let ended = exited(&bench.path(""), &flags).await;
    let why =
        format!("the store is at level {}, this build knows level {LEVEL}: start a newer build", LEVEL + 1);
    assert!(ended.code != 0 && ended.stderr.contains(&why), "seed {seed}: {ended:?}");
    assert_eq!(committed(&receiver).len(), all.len(), "seed {seed}");
}
