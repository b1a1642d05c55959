//! DCMTK on the other end, and our own SCU and SCP on each other, over TCP.

use std::{
    net::SocketAddr,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::{Output, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::TcpListener, process::Command, task::JoinSet};
use tokio_util::sync::CancellationToken;

use super::{BIG, CT, DEFLATED, EXPLICIT, Event, IMPLICIT, JPEG, Recorder, Script, ae, ct_file};
use crate::{
    Closed, Rejection, Scu, StoreStatus,
    part10::{self, dataset_digest},
    scp::{Config, Listener},
    scu::{ProposedContext, ScuError, Source},
};

struct Serving {
    address: SocketAddr,
    drain: CancellationToken,
    running: JoinSet<()>,
}

async fn serve(recorder: &Recorder, drain: Duration) -> Serving {
    let mut config = Config::new("127.0.0.1:0".parse().unwrap());
    config.ae_titles = vec![ae("ARCHIVE")];
    config.drain = drain;
    let listener = Listener::bind(config).await.unwrap();
    let address = listener.local_addr().unwrap();
    let (token, mut running) = (CancellationToken::new(), JoinSet::new());
    running.spawn(listener.run(Arc::new(recorder.clone()), token.clone()));
    Serving { address, drain: token, running }
}

async fn dcmtk(program: &str, address: SocketAddr, arguments: &[&str], files: &[PathBuf]) -> Output {
    Command::new(program)
        .args(["-v", "-aet", "CT-1", "-aec", "ARCHIVE"])
        .args(arguments)
        .args([address.ip().to_string(), address.port().to_string()])
        .args(files)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .unwrap()
}

fn said(output: &Output) -> String {
    [&output.stdout[..], &output.stderr[..]].map(String::from_utf8_lossy).concat()
}

/// Writes a file per instance and transfer syntax.
fn write_files(dir: &Path, files: &[(&str, &str)]) -> Vec<PathBuf> {
    let write = |(instance, syntax): &(&str, &str)| {
        let path = dir.join(format!("{instance}.dcm"));
        std::fs::write(&path, ct_file(instance, syntax)).unwrap();
        path
    };
    files.iter().map(write).collect()
}

const ALL: [(&str, &str); 5] = [
    ("1.2.3.1", IMPLICIT),
    ("1.2.3.2", EXPLICIT),
    ("1.2.3.3", BIG),
    ("1.2.3.4", DEFLATED),
    ("1.2.3.5", JPEG),
];

#[tokio::test]
async fn echoscu_is_answered() {
    let recorder = Recorder::new(Script::default());
    let serving = serve(&recorder, Duration::ZERO).await;
    let output = dcmtk("echoscu", serving.address, &[], &[]).await;
    assert!(output.status.success(), "{}", said(&output));
    recorder.wait_for(Event::Closed(Closed::Released)).await;
}

#[tokio::test]
async fn storescu_and_dcmsend_store_every_encoding() {
    let (sent, received) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = write_files(sent.path(), &ALL);
    let recorder = Recorder::into_dir(&received);
    let serving = serve(&recorder, Duration::ZERO).await;

    let output = dcmtk("dcmsend", serving.address, &[], &files).await;
    assert!(output.status.success(), "{}", said(&output));
    recorder.wait_for(Event::Closed(Closed::Released)).await;
    for (instance, syntax) in ALL {
        let path = received.path().join(instance);
        let header = part10::inspect(&path).unwrap();
        assert_eq!((header.instance.as_str(), header.study.as_str()), (instance, "1.2.3"));
        assert!(header.image, "{syntax}");
        std::fs::remove_file(path).unwrap();
    }

    let output = dcmtk("storescu", serving.address, &["-xe"], &files[..2]).await;
    assert!(output.status.success(), "{}", said(&output));
    for (instance, _) in &ALL[..2] {
        assert_eq!(
            part10::inspect(&received.path().join(instance)).unwrap().transfer_syntax.as_str(),
            EXPLICIT
        );
    }
}

#[tokio::test]
async fn dcmtk_understands_our_rejections_and_refusals() {
    let dir = tempfile::tempdir().unwrap();
    let files = write_files(dir.path(), &ALL[1..2]);
    let rejects = [
        (Rejection::UnknownCallingAe, "Calling AE Title Not Recognized"),
        (Rejection::TemporaryCongestion, "Temporary Congestion"),
    ];
    for (why, words) in rejects {
        let recorder = Recorder::new(Script { reject: Some(why), ..Script::default() });
        let serving = serve(&recorder, Duration::ZERO).await;
        let output = dcmtk("echoscu", serving.address, &[], &[]).await;
        assert!(!output.status.success());
        assert!(said(&output).contains(words), "{}", said(&output));
    }
    let full = StoreStatus::out_of_resources("the spool is full");
    let recorder = Recorder::new(Script { full_at: Some((100, full)), ..Script::default() });
    let serving = serve(&recorder, Duration::ZERO).await;
    let output = dcmtk("storescu", serving.address, &[], &files).await;
    assert!(said(&output).contains("Refused: OutOfResources"), "{}", said(&output));
}

/// Our SCU sends to DCMTK's `storescp`, which is given the accepted connection as a super server would.
#[tokio::test]
async fn storescp_receives_what_we_send_bit_by_bit() {
    let (sent, received) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let files = write_files(sent.path(), &ALL[..3]);
    let socket = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let dir = received.path().to_owned();
    let mut scp = JoinSet::new();
    scp.spawn(async move {
        let stream = socket.accept().await.unwrap().0.into_std().unwrap();
        stream.set_nonblocking(false).unwrap();
        Command::new("storescp")
            .args(["--inetd", "--bit-preserving", "--accept-all", "-od"])
            .arg(dir)
            .stdin(Stdio::from(OwnedFd::from(stream)))
            .kill_on_drop(true)
            .output()
            .await
            .unwrap()
    });
    let mut contexts = vec![ProposedContext::verification()];
    for file in &files {
        contexts.push(ProposedContext::of_file(file).await.unwrap());
    }
    let mut scu = Scu::connect(address, &ae("CT-1"), &ae("ARCHIVE"), &contexts).await.unwrap();
    scu.echo().await.unwrap();
    for file in &files {
        assert_eq!(scu.store(Source::Path(file)).await.unwrap(), StoreStatus::SUCCESS);
    }
    scu.release().await.unwrap();
    let output = scp.join_next().await.unwrap().unwrap();
    let mut copies = 0;
    for entry in std::fs::read_dir(received.path()).unwrap() {
        let copy = dataset_digest(&entry.unwrap().path()).unwrap();
        let original = sent.path().join(format!("{}.dcm", copy.meta.sop_instance));
        assert_eq!(copy.data_set, dataset_digest(&original).unwrap().data_set);
        copies += 1;
    }
    assert_eq!(copies, 3, "{}", said(&output));
}

#[tokio::test]
async fn our_scu_and_scp_preserve_every_byte_in_every_encoding() {
    let received = tempfile::tempdir().unwrap();
    let recorder = Recorder::into_dir(&received);
    let serving = serve(&recorder, Duration::ZERO).await;
    let sent = tempfile::tempdir().unwrap();
    let files = write_files(sent.path(), &ALL);
    let mut contexts = Vec::new();
    for file in &files {
        contexts.push(ProposedContext::of_file(file).await.unwrap());
    }
    let mut scu = Scu::connect(serving.address, &ae("MODALITY"), &ae("ARCHIVE"), &contexts).await.unwrap();
    for (file, (instance, _)) in files.iter().zip(ALL) {
        let bytes = Bytes::from(std::fs::read(file).unwrap());
        assert_eq!(scu.store(Source::Bytes(bytes.clone())).await.unwrap(), StoreStatus::SUCCESS);
        // The same calling title and writer: the same file to the byte.
        assert_eq!(std::fs::read(received.path().join(instance)).unwrap(), bytes);
    }
    let error = scu.echo().await.unwrap_err();
    assert!(matches!(error, ScuError::NoContext { .. }), "{error}");
    scu.release().await.unwrap();
    recorder.wait_for(Event::Closed(Closed::Released)).await;
}

#[tokio::test]
async fn a_scu_that_is_dropped_within_its_association_is_an_abort() {
    let recorder = Recorder::new(Script::default());
    let serving = serve(&recorder, Duration::ZERO).await;
    let verification = [ProposedContext::verification()];
    let (ct, archive) = (ae("CT-1"), ae("ARCHIVE"));
    let connect = || Scu::connect(serving.address, &ct, &archive, &verification);
    drop(connect().await.unwrap());
    recorder.wait_for(Event::Closed(Closed::Aborted)).await;

    let unknown = Scu::connect(serving.address, &ae("CT-1"), &ae("OTHER"), &verification).await.unwrap_err();
    assert!(matches!(&unknown, ScuError::Rejected { transient: false, .. }), "{unknown}");
    assert_eq!(unknown.to_string(), "association rejected: called AE title not recognized");
}

#[tokio::test]
async fn draining_rejects_the_new_and_lets_the_running_finish() {
    let recorder = Recorder::new(Script::default());
    let mut serving = serve(&recorder, Duration::from_secs(600)).await;
    let file = Bytes::from(ct_file("1.2.3.2", EXPLICIT));
    let contexts =
        [ProposedContext { sop_class: CT.parse().unwrap(), transfer_syntax: EXPLICIT.parse().unwrap() }];
    let (ct, archive) = (ae("CT-1"), ae("ARCHIVE"));
    let connect = || Scu::connect(serving.address, &ct, &archive, &contexts);
    let mut running = connect().await.unwrap();
    serving.drain.cancel();
    let refused = connect().await.unwrap_err();
    assert!(matches!(&refused, ScuError::Rejected { transient: true, .. }), "{refused}");
    assert_eq!(running.store(Source::Bytes(file)).await.unwrap(), StoreStatus::SUCCESS);
    running.release().await.unwrap();
    serving.running.join_next().await.unwrap().unwrap();
    assert_eq!(recorder.events().last(), Some(&Event::Closed(Closed::Released)));
}

#[tokio::test]
async fn what_does_not_finish_in_time_is_aborted() {
    let recorder = Recorder::new(Script::default());
    let mut serving = serve(&recorder, Duration::ZERO).await;
    let verification = [ProposedContext::verification()];
    let mut idle = Scu::connect(serving.address, &ae("CT-1"), &ae("ARCHIVE"), &verification).await.unwrap();
    serving.drain.cancel();
    recorder.wait_for(Event::Closed(Closed::Aborted)).await;
    let error = idle.echo().await.unwrap_err();
    assert!(matches!(error, ScuError::Aborted), "{error}");
    drop(idle);
    serving.running.join_next().await.unwrap().unwrap();
}
