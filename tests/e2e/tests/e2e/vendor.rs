//! The vendor in Python of `examples/vendor-python`, a process that none of our code is in: judged by the checker, and
//! used by servers while it answers, hangs and dies.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::File,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::Stdio,
};

use isocenter_peers::{
    study::Study,
    synthetic::{StudyKind, Synthetic},
    vendor::conformance,
};
use isocenter_runtime::{task::Tasks, tls};
use isocenter_testkit::{EtcdServer, Pki, wait_for};
use isocenter_wire::v1::{
    AiReceives, AiService, AiServiceHealth, DescribeRequest, GetServiceHealthRequest, ListEventsRequest,
    ai_dispatch_client::AiDispatchClient, ai_inference_client::AiInferenceClient,
    archive_client::ArchiveClient, registry_entry::Entry,
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::{Child, ChildStdout, Command},
};
use tonic::transport::{Channel, Endpoint};

use crate::harness::{Bench, PATIENCE, isocenter, metric, program, registry};

fn example() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples/vendor-python")
}

fn interpreter() -> PathBuf {
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.venv/bin/python");
    assert!(python.exists(), "{} is not there; `make setup` makes it", python.display());
    python
}

/// A process that says first where it listens. Dropped, it is killed, also where it is frozen.
struct Process {
    child: Child,
    /// What it said.
    said: serde_json::Value,
    log: PathBuf,
    /// Held open, so that it could still write.
    _stdout: BufReader<ChildStdout>,
}

impl Process {
    async fn start(mut command: Command, log: PathBuf) -> Self {
        let stderr = File::options().create(true).append(true).open(&log).unwrap();
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(stderr).kill_on_drop(true);
        let mut child = command.spawn().unwrap();
        let mut stdout = BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, stdout.read_line(&mut line)).await;
        let said = serde_json::from_str(&line);
        let log_so_far = || std::fs::read_to_string(&log).unwrap_or_default();
        let Ok(said) = said else { panic!("{read:?}, {line:?}:\n{}", log_so_far()) };
        Self { child, said, log, _stdout: stdout }
    }

    fn listen(&self) -> SocketAddr {
        self.said["listen"].as_str().unwrap().parse().unwrap()
    }

    fn channel(&self) -> Channel {
        Endpoint::from_shared(format!("http://{}", self.listen())).unwrap().connect_lazy()
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    async fn signal(&self, name: &str) {
        let id = self.child.id().expect("it runs").to_string();
        program("kill", [name, &id]).await.succeeded();
    }

    /// Ends it as `kill -9` does, and waits until it is gone.
    async fn kill(&mut self) {
        self.child.kill().await.unwrap();
    }
}

/// The vendor and what was generated for it.
struct Vendor {
    process: Process,
    folder: TempDir,
}

impl Vendor {
    async fn start(more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("generated");
        let script = example().join("generate.py");
        let generate = [script.as_os_str(), "--out".as_ref(), out.as_os_str()];
        program(interpreter(), generate).await.succeeded();
        let process = Self::spawn(folder.path(), "127.0.0.1:0", more).await;
        Self { process, folder }
    }

    async fn spawn(folder: &Path, listen: &str, more: &[&str]) -> Process {
        let mut command = Command::new(interpreter());
        command.arg(example().join("vendor.py")).args(["--listen", listen]).args(more);
        command.env("PYTHONPATH", folder.join("generated")).env("PYTHONDONTWRITEBYTECODE", "1");
        Process::start(command, folder.join("vendor.log")).await
    }

    /// Another one at the same address, after the first is gone.
    async fn restart(&mut self, more: &[&str]) {
        let listen = self.process.listen().to_string();
        self.process = Self::spawn(self.folder.path(), &listen, more).await;
    }

    fn url(&self) -> String {
        format!("http://{}", self.process.listen())
    }

    /// The request ids of the analyses that it began, in order; the same one again where it was asked again.
    fn begun(&self) -> Vec<String> {
        let log = self.process.log();
        let begun = log.lines().filter(|line| line.ends_with(": begun"));
        begun.map(|line| line.split(' ').nth(3).unwrap().to_owned()).collect()
    }
}

async fn register(channel: Channel, vendor: &Vendor) {
    let service = AiService {
        service_id: "python".to_owned(),
        address: vendor.url(),
        receives: AiReceives::Original.into(),
        max_concurrency: 2,
    };
    registry(channel, Entry::AiService(service)).await;
}

/// Applies a policy by which `services` analyse every film, each within `timeout`.
async fn policy(bench: &Bench, services: &[&str], timeout: &str) {
    let ai: Vec<_> = services.iter().map(|id| format!("{{service: {id}, timeout: {timeout}}}")).collect();
    let text = format!(
        "name: north\nschema: 1\nclasses:\n  ROUTINE: {{deadline: 24h}}\nrules:\n  - name: film\n    \
         when: \"'CR' in modalities\"\n    ai: [{}]\ndefault: {{class: ROUTINE, read: true, pools: [general], \
         destinations: ['site:{{site}}']}}\n",
        ai.join(", ")
    );
    let file = bench.path("policy.yaml");
    std::fs::write(&file, text).unwrap();
    bench.server.cli(&["policy", "apply", &file.display().to_string()]).await.succeeded();
}

fn films(seed: u64, n: usize) -> Vec<Study> {
    let mut synthetic = Synthetic::new(seed);
    (0..n).map(|_| synthetic.study(StudyKind::CrChestOpacity).unwrap().study).collect()
}

fn uids(studies: &[Study]) -> BTreeSet<String> {
    studies.iter().map(|study| study.study_uid.to_string()).collect()
}

/// How many tasks ended so.
fn ended(metrics: &str, outcome: &str) -> Option<f64> {
    metric(metrics, &format!("isocenter_ai_dispatch_tasks_total{{outcome=\"{outcome}\",service=\"python\"}}"))
}

async fn until_ended(bench: &Bench, outcome: &str, n: f64) {
    let reached = || async { ended(&bench.server.metrics().await, outcome) == Some(n) };
    wait_for(&format!("{n} tasks {outcome}"), PATIENCE, reached).await;
}

async fn health(channel: Channel) -> AiServiceHealth {
    let request = GetServiceHealthRequest { service_id: "python".to_owned() };
    AiDispatchClient::new(channel).get_service_health(request).await.unwrap().into_inner().services.remove(0)
}

#[tokio::test]
async fn the_vendor_in_python_keeps_every_clause() {
    let (vendor, tasks) = (Vendor::start(&[]).await, Tasks::new());
    let options = conformance::Options { patience: PATIENCE, ..conformance::Options::new(vendor.url()) };
    let report = conformance::check(options, &tasks).await.unwrap();
    assert!(report.conforms(), "{report}\n{}", vendor.process.log());
    let judged = report.clauses.iter().filter(|clause| clause.verdict == conformance::Verdict::Pass).count();
    assert!(judged > 20, "{report}");
}

#[tokio::test]
async fn the_vendor_in_python_takes_calls_with_a_certificate_only() {
    let pki = Pki::new();
    let own = pki.issue("O=default,OU=vendor,CN=python");
    let node = pki.issue("O=default,OU=node,CN=n1");
    let text = |path: &Path| path.display().to_string();
    let (cert, key, ca) = (text(&own.cert), text(&own.key), text(&pki.ca()));
    let vendor = Vendor::start(&["--tls-cert", &cert, "--tls-key", &key, "--tls-ca", &ca]).await;
    let url = vendor.url().replace("http://", "https://");
    let described = |cert: &Path, key: &Path| {
        let files = tls::ClientFiles { ca: pki.ca(), cert: cert.to_owned(), key: key.to_owned() };
        let channel = tls::channel(&url, Some(&tls::Client::load(&files).unwrap())).unwrap();
        async move { AiInferenceClient::new(channel).describe(DescribeRequest {}).await }
    };
    let answer = described(&node.cert, &node.key).await.unwrap().into_inner();
    assert_eq!(answer.model_id, "sample-mean-density");
    let stranger = pki.self_signed("O=default,OU=node,CN=n2");
    assert!(described(&stranger.cert, &stranger.key).await.is_err());
    assert!(described(Path::new(""), Path::new("")).await.is_err());
}

#[tokio::test]
async fn a_study_goes_to_the_vendor_in_python_and_it_survives_kill_and_stop() {
    let mut vendor = Vendor::start(&["--delay", "3"]).await;
    let bench = Bench::start(&["--ai.first_retry", "200ms", "--ai.max_attempts", "99"]).await;
    bench.site("north").await;
    register(bench.server.channel(), &vendor).await;
    policy(&bench, &["python"], "10m").await;
    bench.send("north", &films(11, 1)).await;
    wait_for("the analysis to begin", PATIENCE, || async { vendor.begun().len() == 1 }).await;
    // It dies with the study in hand; its successor is asked under the same request id.
    vendor.process.kill().await;
    vendor.restart(&[]).await;
    until_ended(&bench, "succeeded", 1.0).await;
    let begun = vendor.begun();
    assert_eq!((begun.len(), begun.iter().collect::<BTreeSet<_>>().len()), (2, 1), "{begun:?}");
    let seen = health(bench.server.channel()).await;
    assert!(seen.latency_p50.is_some() && seen.last_success_at.is_some(), "{seen:?}");
    assert_eq!(seen.description.unwrap().model_id, "sample-mean-density");

    // Asked to end, it finishes what it has begun.
    vendor.process.kill().await;
    vendor.restart(&["--delay", "2"]).await;
    bench.send("north", &films(12, 1)).await;
    wait_for("another analysis to begin", PATIENCE, || async { vendor.begun().len() == 3 }).await;
    vendor.process.signal("-TERM").await;
    until_ended(&bench, "succeeded", 2.0).await;
    let code = tokio::time::timeout(PATIENCE, vendor.process.child.wait()).await.unwrap().unwrap();
    assert!(code.success(), "{code}");
}

/// What happened to the human side of each study: the events of every record but analyses and intakes, by kind.
type Timeline = BTreeMap<String, BTreeMap<String, Vec<String>>>;

async fn timeline(bench: &Bench, uids: &BTreeSet<String>) -> Timeline {
    let mut archive = ArchiveClient::new(bench.server.channel());
    let mut all = Timeline::new();
    for uid in uids {
        let request =
            ListEventsRequest { study_instance_uid: uid.clone(), page_size: 1000, ..Default::default() };
        let events = archive.list_events(request).await.unwrap().into_inner().events;
        let study = all.entry(uid.clone()).or_default();
        for event in events {
            let kind = event.key.split('/').next().unwrap().to_owned();
            // How often a node says what it holds depends on time, and lanes pass on as they become free.
            if !["ai", "intake", "lane"].contains(&kind.as_str()) {
                study.entry(kind).or_default().push(format!("{} {}", event.event, event.reason));
            }
        }
    }
    all
}

/// Sends the same studies to a server whose policy asks `services`; the human timeline, once all are delivered.
async fn humans(services: &[&str], vendor: &Vendor) -> (Timeline, String) {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    register(bench.server.channel(), vendor).await;
    policy(&bench, services, "10m").await;
    let studies = films(13, 6);
    let uids = uids(&studies);
    bench.reader("r1", 1).await;
    bench.send("north", &studies).await;
    bench.settled(&uids, PATIENCE).await;
    let delivered = |study: &BTreeMap<String, Vec<String>>| {
        study.get("delivery").is_some_and(|events| events.iter().any(|event| event.starts_with("accepted")))
    };
    let told = || async { timeline(&bench, &uids).await.values().all(delivered) };
    wait_for("the journal of every delivery", PATIENCE, told).await;
    (timeline(&bench, &uids).await, bench.server.metrics().await)
}

#[tokio::test]
async fn a_frozen_vendor_is_not_seen_in_any_human_timeline() {
    let vendor = Vendor::start(&[]).await;
    vendor.process.signal("-STOP").await;
    let ((frozen, metrics), (absent, _)) = tokio::join!(humans(&["python"], &vendor), humans(&[], &vendor));
    assert_eq!(frozen, absent);
    // Everything was read and delivered while no analysis had come to any end.
    assert!(!metrics.contains("isocenter_ai_dispatch_tasks_total{"), "{metrics}");
    vendor.process.signal("-CONT").await;
}

fn store(etcd: &EtcdServer) -> String {
    format!("etcd://{}", etcd.endpoint())
}

/// A process of the cluster that runs one role.
async fn dispatcher(bench: &Bench, etcd: &EtcdServer, name: &str) -> Process {
    let at = |name: &str| bench.path(name).display().to_string();
    let mut command = Command::new(isocenter());
    command.args(["serve", "--print-addresses", "--role", "ai-dispatch", "--listen", "127.0.0.1:0"]);
    command.args(["--health", "127.0.0.1:0", "--ai.claim", "4s", "--store", &store(etcd)]);
    command.args(["--blobs", &at("blobs"), "--secret_file", &at("key")]);
    command.args(["--spool", &at(&format!("spool-{name}"))]);
    Process::start(command, bench.path(&format!("{name}.log"))).await
}

#[tokio::test]
async fn a_dispatcher_killed_between_claim_and_answer_is_replaced_under_the_same_request() {
    let etcd = EtcdServer::start();
    let vendor = Vendor::start(&["--delay", "3"]).await;
    let roles = "ingestion,routing,reader-assignment,report-delivery,archive";
    let bench = Bench::start(&["--store", &store(&etcd), "--role", roles]).await;
    bench.site("north").await;
    register(bench.server.channel(), &vendor).await;
    policy(&bench, &["python"], "10m").await;
    let mut two = [dispatcher(&bench, &etcd, "one").await, dispatcher(&bench, &etcd, "two").await];
    bench.send("north", &films(14, 1)).await;
    wait_for("the analysis to begin", PATIENCE, || async { vendor.begun().len() == 1 }).await;
    let in_flight = [health(two[0].channel()).await.in_flight, health(two[1].channel()).await.in_flight];
    let (caller, other) = if in_flight[0] == 1 { (0, 1) } else { (1, 0) };
    assert_eq!((in_flight[caller], in_flight[other]), (1, 0), "one call for one attempt");
    two[caller].kill().await;

    let other = two[other].channel();
    let answered = || async {
        let outcomes = health(other.clone()).await.outcomes;
        outcomes.iter().any(|outcome| outcome.outcome == "answered" && outcome.count == 1)
    };
    wait_for("the other one to have the answer", PATIENCE, answered).await;
    let begun = vendor.begun();
    assert_eq!(begun.iter().collect::<BTreeSet<_>>().len(), 1, "one request id in every attempt: {begun:?}");
}
