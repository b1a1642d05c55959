//! A network's own system that fetches its reports by gRPC: the Python example of `examples/network-python`, as it is.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::OpenOptions,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use isocenter_peers::synthetic::{StudyKind, Synthetic};
use isocenter_runtime::random::Seeded;
use isocenter_testkit::wait_for;
use isocenter_wire::v1::{self, DeliveryState, DestinationProtocol, registry_entry::Entry};
use tokio::process::{Child, Command};

use crate::harness::{Bench, PATIENCE, Relay, Server, python, registry};

/// Studies sent, one after another; the receiver is killed after each, and the server after every third.
const STUDIES: u32 = 6;

fn example(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/network-python").join(name)
}

/// The receiver as a process, which can be killed.
struct Receiver {
    child: Child,
    log: PathBuf,
}

impl Receiver {
    fn start(bench: &Bench, address: &str) -> Self {
        let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
        let log = bench.path("receiver.log");
        let output = || OpenOptions::new().create(true).append(true).open(&log).unwrap();
        let mut command = Command::new(python);
        command
            .arg(example("receive.py"))
            .args(["--address", address, "--destination", "north", "--folder"])
            .arg(bench.path("reports"))
            .env("PYTHONPATH", bench.path("generated"))
            .env("PYTHONDONTWRITEBYTECODE", "1")
            .stdin(Stdio::null())
            .stdout(output())
            .stderr(output());
        Self { child: command.kill_on_drop(true).spawn().unwrap(), log: log.clone() }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

/// The reports that the receiver has: message id, report id and version.
fn kept(bench: &Bench) -> BTreeMap<String, (String, u64)> {
    let Ok(folder) = std::fs::read_dir(bench.path("reports")) else { return BTreeMap::new() };
    let mut found = BTreeMap::new();
    for path in folder.map(|entry| entry.unwrap().path()) {
        // What begins with a dot was being written when the receiver was killed.
        if path.extension().is_some_and(|e| e == "json") {
            let text = std::fs::read_to_string(&path).unwrap();
            let message: serde_json::Value = serde_json::from_str(&text).unwrap();
            let report = &message["report"];
            let id = message["messageId"].as_str().unwrap().to_owned();
            assert_eq!(path.file_stem().unwrap().to_str(), Some(id.as_str()));
            assert_eq!(message["destinationId"], "north");
            assert!(message["patient"]["name"].as_str().is_some_and(|name| !name.is_empty()), "{text}");
            assert!(report["findings"].as_str().is_some_and(|text| !text.is_empty()), "{text}");
            let version = report["version"].as_u64().unwrap();
            found.insert(id, (report["reportId"].as_str().unwrap().to_owned(), version));
        }
    }
    found
}

async fn network(bench: &Bench) {
    let site = v1::Site { site_id: "north".into(), ae_titles: vec!["NORTH".into()], ..v1::Site::default() };
    registry(bench.server.channel(), Entry::Site(site)).await;
    let destination = v1::Destination {
        destination_id: "north".into(),
        protocol: DestinationProtocol::Grpc.into(),
        ..v1::Destination::default()
    };
    registry(bench.server.channel(), Entry::Destination(destination)).await;
    let generated = bench.path("generated").display().to_string();
    let script = example("generate.py").display().to_string();
    python(&script, ["--out", &generated]).await.succeeded();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_in_python_has_every_report_once_whoever_is_killed() {
    let seeded = Seeded::fresh();
    let seed = seeded.seed();
    // A claim that a killed server leaves behind is soon over.
    let flags = ["--delivery.acknowledge_within", "3s"];
    let mut bench = Bench::start(&flags).await;
    network(&bench).await;
    let relay = Relay::start(&bench.tasks).await;
    relay.point(Some(bench.server.listen));
    bench.reader_at(relay.url(), "r1", seed).await;
    let address = relay.url().trim_start_matches("http://").to_owned();
    let mut receiver = Receiver::start(&bench, &address);

    let mut synthetic = Synthetic::new(seed);
    let mut kills = seeded.fork("kills");
    let mut uids = BTreeSet::new();
    for n in 1..=STUDIES {
        let study = synthetic.study(StudyKind::DxChest).unwrap().study;
        uids.insert(study.study_uid.to_string());
        bench.send("north", &[study]).await;
        // From before the report is signed until after it is kept.
        tokio::time::sleep(kills.duration(Duration::ZERO..Duration::from_millis(2_500))).await;
        receiver.child.kill().await.unwrap();
        if n % 3 == 0 {
            relay.point(None);
            bench.server.kill().await;
            bench.server = Server::start(&bench.path(""), &flags).await;
            relay.point(Some(bench.server.listen));
        }
        receiver = Receiver::start(&bench, &address);
    }
    bench.settled(&uids, 2 * PATIENCE).await;
    let deliveries = bench.deliveries().await;
    let open: Vec<_> =
        deliveries.iter().filter(|d| d.state() != DeliveryState::ApplicationAccepted).collect();
    assert!(open.is_empty(), "seed {seed}: {open:?}\n{}", receiver.log());
    let owed: BTreeMap<_, _> = deliveries
        .iter()
        .map(|d| (d.message_id.clone(), (d.report_id.clone(), u64::from(d.version))))
        .collect();
    assert_eq!(owed.len(), uids.len(), "seed {seed}");
    assert_eq!(kept(&bench), owed, "seed {seed}\n{}", receiver.log());
    bench.reconciled(uids.len()).await;
}

#[tokio::test]
async fn a_receiver_that_asks_for_what_is_not_its_own_kind_is_told_so() {
    let bench = Bench::start(&[]).await;
    network(&bench).await;
    bench.server.cli(&["destination", "remove", "north"]).await.succeeded();
    let receiver = Receiver::start(&bench, &bench.server.listen.to_string());
    let told =
        || async { receiver.log().contains("FAILED_PRECONDITION: destination north is not registered") };
    wait_for("the receiver to say why it ended", PATIENCE, told).await;
}
