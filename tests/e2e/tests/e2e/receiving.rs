//! Receiving in a cluster, with DCMTK as the device: a process that is asked to end, a store that is away at the start, and one
//! study sent to two processes.

use std::path::Path;

use isocenter_dimse::part10::FileMeta;
use isocenter_peers::{
    study::Study,
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::task::Tasks;
use isocenter_testkit::{EtcdCluster, Link, Proxy, wait_for};
use isocenter_wire::v1::{self, registry_entry::Entry};

use crate::harness::{PATIENCE, Ran, Server, files_below, get, metric, program, registry};

/// Writes the instances of a study that `wanted` picks into a folder, as files to be sent.
async fn written(study: &Study, folder: &Path, wanted: impl Fn(usize) -> bool) {
    std::fs::create_dir_all(folder).unwrap();
    for (n, instance) in study.instances.iter().enumerate().filter(|(n, _)| wanted(*n)) {
        std::fs::write(folder.join(format!("{n:04}.dcm")), instance.read().await.unwrap()).unwrap();
    }
}

/// What was sent, by SOP Instance UID: stock DCMTK encodes data sets in its own way, so that bytes say nothing here.
fn sent(study: &Study) -> Vec<String> {
    let mut sent: Vec<_> = study.instances.iter().map(|i| i.instance_uid.to_string()).collect();
    sent.sort();
    sent
}

/// The instances in blobs, each as often as there is a file of it.
fn held(folder: &Path) -> Vec<String> {
    let files = files_below(&folder.join("blobs/instance"));
    let uid = |path: &std::path::PathBuf| {
        let file = std::fs::read(path).unwrap();
        FileMeta::read(&mut file.as_slice()).unwrap().sop_instance.to_string()
    };
    let mut held: Vec<_> = files.iter().map(uid).collect();
    held.sort();
    held
}

/// Sends a folder's files with DCMTK, on one association.
async fn storescu(folder: &Path, port: u16) -> Ran {
    let (folder, port) = (folder.display().to_string(), port.to_string());
    let titles = ["-aet", "NORTH", "-aec", "ISOCENTER"];
    let arguments = titles.into_iter().chain(["+sd", "127.0.0.1"]).map(str::to_owned).chain([port, folder]);
    program("storescu", arguments).await
}

async fn north(server: &Server) {
    let site = v1::Site { site_id: "north".into(), ae_titles: vec!["NORTH".into()], ..Default::default() };
    registry(server.channel(), Entry::Site(site)).await;
}

/// Waits until the study is complete somewhere beyond its assembly, with all of its images.
async fn complete(server: &Server, study: &Study) -> v1::Study {
    let found = std::cell::RefCell::new(v1::Study::default());
    wait_for("the complete study", PATIENCE, async || {
        let request = v1::GetStudyRequest { study_instance_uid: study.study_uid.to_string() };
        let mut client = v1::ingestion_client::IngestionClient::new(server.channel());
        let Ok(answer) = client.get_study(request).await else { return false };
        let answer = answer.into_inner();
        let whole = answer.revision > 0 && answer.instance_count as usize == study.instances.len();
        found.replace(answer);
        whole
    })
    .await;
    found.into_inner()
}

async fn stored(server: &Server) -> f64 {
    metric(&server.metrics().await, "isocenter_ingestion_instances_total{outcome=\"stored\"}").unwrap_or(0.0)
}

#[tokio::test]
async fn a_process_asked_to_end_takes_no_new_association_finishes_the_open_one_and_leaves_nothing_behind() {
    let (folder, tasks) = (tempfile::tempdir().unwrap(), Tasks::new());
    let mut server = Server::start(folder.path(), &["--study.quiet_period", "30s"]).await;
    north(&server).await;
    let study = Synthetic::new(91).study(StudyKind::CtStroke).unwrap().study;
    let files = folder.path().join("files");
    written(&study, &files, |_| true).await;
    let proxy = Proxy::start(vec![server.dicom], &tasks).await.unwrap();
    let port = proxy.address().port();
    let sending = async { storescu(&files, port).await };
    let ending = async {
        wait_for("a first image", PATIENCE, async || stored(&server).await > 0.0).await;
        proxy.set(Link::Held);
        server.ask_to_end().await;
        wait_for("a refusal of new associations", PATIENCE, || {
            let port = server.dicom.port().to_string();
            async move {
                let echo = ["-aet", "NORTH", "-aec", "ISOCENTER", "127.0.0.1", &port].map(str::to_owned);
                program("echoscu", echo).await.code != 0
            }
        })
        .await;
        proxy.set(Link::Open);
    };
    let (sent_by_dcmtk, ()) = tokio::join!(sending, ending);
    sent_by_dcmtk.succeeded();
    assert_eq!(server.ended().await, 0);
    assert_eq!(files_below(&folder.path().join("spool/ready")), Vec::<std::path::PathBuf>::new());
    assert_eq!(
        held(folder.path()),
        sent(&study),
        "what was acknowledged is in blobs when the process is gone"
    );
    let again = Server::start(folder.path(), &[]).await;
    assert_eq!(complete(&again, &study).await.revision, 1);
    tasks.drain(PATIENCE).await;
}

#[tokio::test]
async fn a_process_that_starts_while_the_store_is_away_receives_from_the_devices_it_knows() {
    let folder = tempfile::tempdir().unwrap();
    let mut etcd = EtcdCluster::start(1);
    let store = format!("etcd://{}", etcd.endpoints().join(","));
    let flags = ["--store", store.as_str()];
    let mut server = Server::start(folder.path(), &flags).await;
    north(&server).await;
    wait_for("a memory of the sites", PATIENCE, async || {
        std::fs::read_to_string(folder.path().join("spool/sites")).is_ok_and(|sites| sites.contains("north"))
    })
    .await;
    server.kill().await;
    etcd.kill(0);

    let mut server = Server::spawn(folder.path(), &flags).await;
    let study = Synthetic::new(92).study(StudyKind::CtHead).unwrap().study;
    let files = folder.path().join("files");
    written(&study, &files, |_| true).await;
    storescu(&files, server.dicom.port()).await.succeeded();
    let ready = || async { get(server.health, "/healthz").await.is_some_and(|(status, _)| status == 200) };
    wait_for("a process that is as ready as one that has received all along", PATIENCE, ready).await;
    // Asked to end, it waits for no store; once more, it finds in its spool what it acknowledged.
    assert_eq!(server.terminate().await, 0);
    let server = Server::spawn(folder.path(), &flags).await;
    etcd.restart(0);
    let complete = complete(&server, &study).await;
    assert_eq!((complete.revision, complete.doubt.as_str()), (1, ""));
}

#[tokio::test]
async fn a_study_sent_to_two_processes_is_one_study_also_when_one_of_them_is_killed_amid() {
    let folder = tempfile::tempdir().unwrap();
    let etcd = EtcdCluster::start(1);
    let store = format!("etcd://{}", etcd.endpoints().join(","));
    let spool = folder.path().join("spool-b").display().to_string();
    let first = ["--store", store.as_str(), "--study.quiet_period", "3s"];
    let a = Server::start(folder.path(), &first).await;
    north(&a).await;
    let second = [&first[..], &["--role", "ingestion", "--spool", &spool]].concat();
    let mut b = Server::start(folder.path(), &second).await;
    let study = Synthetic::new(93).study(StudyKind::CtStroke).unwrap().study;
    let (even, odd) = (folder.path().join("even"), folder.path().join("odd"));
    written(&study, &even, |n| n % 2 == 0).await;
    written(&study, &odd, |n| n % 2 == 1).await;
    let (left, right) = tokio::join!(storescu(&even, a.dicom.port()), storescu(&odd, b.dicom.port()));
    left.succeeded();
    right.succeeded();
    // What it acknowledged an instant ago is in its spool, and waits there for its return.
    b.kill().await;
    let _b = Server::start(folder.path(), &second).await;
    assert_eq!(complete(&a, &study).await.doubt, "");
    assert_eq!(held(folder.path()), sent(&study));
}
