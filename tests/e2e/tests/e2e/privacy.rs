//! No patient identity outside blobs and records.

use std::{
    collections::BTreeSet,
    convert::Infallible,
    future::{Ready, ready},
    net::SocketAddr,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use bytes::Bytes;
use isocenter_dimse::{
    Scu,
    scu::{ProposedContext, Source},
};
use isocenter_peers::{LOOPBACK, study::Instance, synthetic::Synthetic};
use isocenter_runtime::task::Tasks;
use isocenter_wire::v1::{
    GetStudyRequest, SearchStudiesRequest, archive_client::ArchiveClient, ingestion_client::IngestionClient,
};
use tokio::net::TcpListener;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::{
    Request, Response, Status,
    body::Body,
    codegen::{Service, http},
    server::{Grpc, NamedService, UnaryService},
};

use crate::{
    harness::{Bench, PATIENCE, files_below},
    security::Raw,
};

/// A collector of traces that keeps what it is sent, as it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<u8>>>);

impl Collector {
    async fn start(&self, tasks: &Tasks) -> SocketAddr {
        let listener = TcpListener::bind(LOOPBACK).await.unwrap();
        let address = listener.local_addr().unwrap();
        let (collector, ended) = (self.clone(), tasks.token());
        tasks.background("collector", async move {
            let server = tonic::transport::Server::builder().add_service(collector);
            let connections = TcpListenerStream::new(listener);
            server.serve_with_incoming_shutdown(connections, ended.cancelled()).await.unwrap();
        });
        address
    }

    fn collected(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl NamedService for Collector {
    const NAME: &'static str = "opentelemetry.proto.collector.trace.v1.TraceService";
}

impl UnaryService<Bytes> for Collector {
    type Response = Bytes;
    type Future = Ready<Result<Response<Bytes>, Status>>;
    fn call(&mut self, request: Request<Bytes>) -> Self::Future {
        self.0.lock().unwrap().extend(request.into_inner());
        // An empty answer: everything was taken.
        ready(Ok(Response::new(Bytes::new())))
    }
}

impl Service<http::Request<Body>> for Collector {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Infallible>> + Send>>;
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }
    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let this = self.clone();
        Box::pin(async move { Ok(Grpc::new(Raw).unary(this, request).await) })
    }
}

/// What of a synthetic patient's name is in no other word, in the character sets that names are sent in: as UTF-8, and
/// as ISO 8859-5, which is what (0008,0005) calls ISO_IR 144.
fn names() -> Vec<Vec<u8>> {
    let cyrillic = |text: &str| {
        let byte = |c: char| u8::try_from(u32::from(c) - 0x0360).unwrap();
        text.chars().map(byte).collect::<Vec<_>>()
    };
    ["PATIENT 0", "SYNTHETIC^", "СИНТЕТ", "ПАЦИЕНТ", "患者"]
        .map(|name| name.as_bytes().to_vec())
        .into_iter()
        .chain([cyrillic("СИНТЕТ"), cyrillic("ПАЦИЕНТ")])
        .collect()
}

fn holds(bytes: &[u8], part: &[u8]) -> bool {
    bytes.windows(part.len()).any(|window| window == part)
}

/// Sends what can be read up to the patient, and no further.
async fn send_damaged(bench: &Bench, instance: &Instance) {
    let context = ProposedContext {
        sop_class: instance.sop_class_uid.clone(),
        transfer_syntax: instance.transfer_syntax_uid.clone(),
    };
    let (north, ours) = ("NORTH".parse().unwrap(), "ISOCENTER".parse().unwrap());
    let mut scu = Scu::connect(bench.server.dicom(), &north, &ours, &[context]).await.unwrap();
    let file = instance.read().await.unwrap();
    let status = scu.store(Source::Bytes(file.slice(..file.len() - 7))).await.unwrap();
    assert!(!status.is_stored(), "{status}");
    scu.release().await.unwrap();
}

/// Asks for patients, rightly and wrongly.
async fn search(bench: &Bench, patient: &str, authority: &str, accession: &str) {
    let mut archive = ArchiveClient::new(bench.server.channel());
    let ask = |patient: &str, authority: &str| SearchStudiesRequest {
        patient_id: patient.into(),
        patient_authority: authority.into(),
        ..SearchStudiesRequest::default()
    };
    archive.search_studies(ask(patient, authority)).await.unwrap();
    archive.search_studies(ask(patient, "")).await.unwrap_err();
    let by_accession =
        SearchStudiesRequest { accession_number: accession.into(), ..SearchStudiesRequest::default() };
    archive.search_studies(by_accession).await.unwrap();
    let wrong = GetStudyRequest { study_instance_uid: patient.into() };
    IngestionClient::new(bench.server.channel()).get_study(wrong).await.unwrap_err();
}

/// The fields of the messages' PID segments that say who the patient is: names and birth dates (HL7 v2.5 §3.4.2).
fn identities(messages: &[String]) -> BTreeSet<String> {
    let pids =
        messages.iter().flat_map(|message| message.split('\r')).filter(|line| line.starts_with("PID|"));
    let fields = pids.flat_map(|pid| [5, 7].map(|n| pid.split('|').nth(n).unwrap_or_default().to_owned()));
    fields.filter(|field| field.len() >= 6).collect()
}

#[tokio::test]
async fn patients_are_in_no_log_no_metric_and_no_store() {
    let seed = 4242;
    let (collector, tasks) = (Collector::default(), Tasks::new());
    let otlp = format!("http://{}", collector.start(&tasks).await);
    let mut bench = Bench::start(&["--telemetry.level", "debug", "--telemetry.otlp", &otlp]).await;
    let receiver = bench.site("north").await;
    bench.reader("r1", seed).await;
    let studies = Synthetic::new(seed).mix(11).unwrap();
    let sent: Vec<_> = studies.iter().map(|study| study.study.clone()).collect();
    bench.send("north", &sent).await;
    let uids: BTreeSet<_> = sent.iter().map(|study| study.study_uid.to_string()).collect();
    bench.settled(&uids, PATIENCE).await;
    bench.reconciled(sent.len()).await;
    send_damaged(&bench, &sent[0].instances[0]).await;
    let first = &studies[0];
    search(&bench, first.patient_id.reveal(), first.issuer, first.accession_number.reveal()).await;

    let told: Vec<_> = receiver
        .received()
        .iter()
        .map(|message| String::from_utf8_lossy(message.raw.reveal()).into_owned())
        .collect();
    let identities = identities(&told);
    assert!(identities.len() > studies.len(), "{} identities", identities.len());
    let secrets: Vec<Vec<u8>> = studies
        .iter()
        .flat_map(|study| [study.patient_id.reveal(), study.accession_number.reveal()])
        .map(|text| text.as_bytes().to_vec())
        .chain(names())
        .chain(identities.into_iter().map(String::into_bytes))
        .collect();
    // The search finds what is there: the reports name their patients.
    let reported = receiver.received();
    let found = |part: &[u8]| reported.iter().any(|message| holds(message.raw.reveal(), part));
    assert!(found(studies[0].patient_id.reveal().as_bytes()) && found("СИНТЕТ".as_bytes()));

    let mut places = vec![
        ("the log".to_owned(), bench.server.log().into_bytes()),
        ("/metrics".to_owned(), bench.server.metrics().await.into_bytes()),
    ];
    // Its last spans are sent as the server ends.
    bench.server.terminate().await;
    places[0].1 = bench.server.log().into_bytes();
    let traced = collector.collected();
    assert!(holds(&traced, b"sign read"), "{} bytes", traced.len());
    places.push(("the traces".to_owned(), traced));
    let store = files_below(&bench.path("store"));
    assert!(!store.is_empty());
    places.extend(store.into_iter().map(|file| (file.display().to_string(), std::fs::read(&file).unwrap())));
    for (place, bytes) in &places {
        for secret in &secrets {
            assert!(!holds(bytes, secret), "{:?} is in {place}", String::from_utf8_lossy(secret));
        }
    }
}

#[tokio::test]
async fn study_uids_are_in_no_log() {
    let bench = Bench::start(&[]).await;
    bench.site("north").await;
    bench.reader("r1", 1).await;
    let studies = Synthetic::new(77).mix(5).unwrap();
    let sent: Vec<_> = studies.into_iter().map(|study| study.study).collect();
    bench.send("north", &sent).await;
    let uids: BTreeSet<_> = sent.iter().map(|study| study.study_uid.to_string()).collect();
    bench.settled(&uids, PATIENCE).await;
    let log = bench.server.log();
    assert!(!log.is_empty());
    let told: Vec<_> = log.lines().filter(|line| uids.iter().any(|uid| line.contains(uid))).collect();
    assert!(told.is_empty(), "{told:#?}");
}
