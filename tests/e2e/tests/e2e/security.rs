//! TLS as peers see it, and who may call what: every method of every service, as everybody.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::{Buf as _, BufMut as _, Bytes};
use isocenter_dimse::{
    Scu,
    scu::{ProposedContext, Source},
};
use isocenter_peers::{
    study::Instance,
    synthetic::{StudyKind, Synthetic},
};
use isocenter_runtime::tls::{self, Client, ClientFiles};
use isocenter_testkit::{Pair, Pki, Usage, Validity, wait_for};
use tokio::net::{TcpSocket, TcpStream};
use tonic::{
    Code, Request, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::Channel,
};

use crate::harness::{PATIENCE, Ran, Server, isocenter, program, python};

/// Messages as they are on the wire.
#[derive(Clone, Default)]
pub(crate) struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;
    fn encoder(&mut self) -> Self {
        Self
    }
    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;
    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}

/// The fields of a message that are bytes, text or messages: their numbers and what they hold.
fn fields(mut message: &[u8]) -> Vec<(u64, &[u8])> {
    fn number(message: &mut &[u8]) -> u64 {
        let mut value = 0;
        for shift in (0..).step_by(7) {
            let byte = message.get_u8();
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                break;
            }
        }
        value
    }
    let mut found = Vec::new();
    while !message.is_empty() {
        let tag = number(&mut message);
        match tag & 7 {
            0 => drop(number(&mut message)),
            1 => message.advance(8),
            2 => {
                let length = usize::try_from(number(&mut message)).unwrap();
                found.push((tag >> 3, &message[..length]));
                message.advance(length);
            }
            5 => message.advance(4),
            other => panic!("wire type {other}"),
        }
    }
    found
}

/// Every method of `isocenter.v1`, as `Service/Method`, from the descriptors that reflection serves.
fn methods() -> BTreeSet<String> {
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let named = |message: &[u8]| text(fields(message).iter().find(|(n, _)| *n == 1).unwrap().1);
    let mut methods = BTreeSet::new();
    for (_, file) in fields(isocenter_wire::DESCRIPTORS).into_iter().filter(|(n, _)| *n == 1) {
        let file = fields(file);
        if !file.iter().any(|(n, package)| *n == 2 && *package == b"isocenter.v1") {
            continue;
        }
        for (_, service) in file.iter().filter(|(n, _)| *n == 6) {
            for (_, method) in fields(service).iter().filter(|(n, _)| *n == 2) {
                methods.insert(format!("{}/{}", named(service), named(method)));
            }
        }
    }
    methods
}

/// A message with texts in these fields.
fn message(texts: &[(u8, &str)]) -> Bytes {
    let mut message = Vec::new();
    for (field, text) in texts {
        message.extend([field << 3 | 2, u8::try_from(text.len()).unwrap()]);
        message.extend(text.as_bytes());
    }
    message.into()
}

/// What a caller says is let through: nothing but the refusals of principals matters here.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Trial {
    /// Called as everybody.
    All,
    /// Called only as those who may not: it would change what the test stands on.
    Refused,
}

/// A method: what is asked, by whom it may be.
type Rule = (&'static str, Bytes, &'static [&'static str], Trial);

const OPERATOR: &[&str] = &["operator"];
const READER: &[&str] = &["reader"];
const QUEUE: &[&str] = &["operator", "reader"];
const OBSERVERS: &[&str] = &["operator", "reader", "network"];

/// A request about sites: field 1, the kind, is 1.
const SITES: Bytes = Bytes::from_static(b"\x08\x01");

/// A request from 1970 to some millennium after: fields 1 and 2.
const EVER: Bytes = Bytes::from_static(b"\x0a\x00\x12\x06\x08\xff\xff\xff\xff\x7f");

/// Who may call what. A method that is not here fails the test.
fn rules(study: &str) -> Vec<Rule> {
    use Trial::{All, Refused};
    let as_reader = |field| message(&[(field, "anna")]);
    let of_study = || message(&[(1, study)]);
    let nothing = Bytes::new;
    vec![
        // The token decides, and an empty one is nobody's.
        ("AiDispatch/FetchInstances", nothing(), &[], Refused),
        // A vendor is told of its own service.
        ("AiDispatch/GetServiceHealth", nothing(), &["operator", "vendor"], All),
        ("Archive/SearchStudies", nothing(), OBSERVERS, All),
        ("Archive/ListPriors", of_study(), OBSERVERS, All),
        ("Archive/GetReport", nothing(), OBSERVERS, All),
        ("Archive/ListEvents", of_study(), OBSERVERS, All),
        ("Archive/Reconcile", nothing(), OPERATOR, All),
        ("Archive/ListStuck", nothing(), OPERATOR, All),
        ("Archive/CheckHistory", nothing(), OPERATOR, All),
        ("Archive/ListArrivals", EVER, OPERATOR, All),
        ("Archive/RebuildRecords", nothing(), OPERATOR, Refused),
        ("Ingestion/GetStudy", of_study(), OBSERVERS, All),
        ("Ingestion/ListStudies", nothing(), OBSERVERS, All),
        ("Ingestion/WatchStudies", nothing(), OBSERVERS, All),
        ("Ingestion/ReleaseStudy", nothing(), OPERATOR, All),
        ("Ingestion/ReleaseNode", nothing(), OPERATOR, All),
        ("Operations/ListNodes", nothing(), OPERATOR, All),
        ("Operations/Drain", nothing(), OPERATOR, Refused),
        ("Operations/RaiseLevel", nothing(), OPERATOR, Refused),
        ("Operations/StartEpoch", nothing(), OPERATOR, Refused),
        ("Operations/CheckStore", nothing(), OPERATOR, All),
        ("Operations/DumpStore", nothing(), OPERATOR, All),
        ("ReaderAssignment/SetPresence", as_reader(1), READER, All),
        ("ReaderAssignment/NextRead", as_reader(1), READER, All),
        ("ReaderAssignment/OpenRead", as_reader(2), READER, All),
        ("ReaderAssignment/ReturnRead", as_reader(2), READER, All),
        ("ReaderAssignment/SignRead", as_reader(2), READER, All),
        ("ReaderAssignment/SuspendRead", as_reader(2), READER, All),
        // A reader hands on what he holds himself, a lead what anybody holds.
        ("ReaderAssignment/TransferRead", as_reader(2), QUEUE, All),
        ("ReaderAssignment/DeclareNonDiagnostic", as_reader(2), READER, All),
        ("ReaderAssignment/RequestSecondOpinion", nothing(), OBSERVERS, All),
        ("ReaderAssignment/RequestConsultation", nothing(), OBSERVERS, All),
        ("ReaderAssignment/CancelRead", nothing(), OPERATOR, All),
        ("ReaderAssignment/WatchWorklist", nothing(), QUEUE, All),
        ("ReaderAssignment/ReassignRead", nothing(), OPERATOR, All),
        ("ReaderAssignment/GetOutlook", nothing(), OPERATOR, All),
        ("ReaderAssignment/ListWorklist", nothing(), QUEUE, All),
        ("ReaderAssignment/ExplainRead", nothing(), QUEUE, All),
        ("Registry/Put", nothing(), OPERATOR, All),
        ("Registry/Get", Bytes::from_static(b"\x08\x01\x12\x0cnorth-of-net"), OBSERVERS, All),
        ("Registry/List", SITES, OBSERVERS, All),
        ("Registry/Delete", nothing(), OPERATOR, All),
        ("ReportDelivery/ListDeliveries", nothing(), OBSERVERS, All),
        ("ReportDelivery/ReplayDelivery", nothing(), OPERATOR, All),
        ("ReportDelivery/WatchReports", nothing(), OBSERVERS, All),
        ("ReportDelivery/AcknowledgeReport", nothing(), OBSERVERS, All),
        ("Routing/ApplyPolicy", nothing(), OPERATOR, All),
        ("Routing/GetPolicy", nothing(), OBSERVERS, All),
        ("Routing/Explain", of_study(), OBSERVERS, All),
    ]
}

/// A server with TLS everywhere, of the tenant `net`.
struct Secured {
    server: Server,
    pki: Pki,
    folder: tempfile::TempDir,
}

impl Secured {
    async fn start(more: &[&str]) -> Self {
        Self::with(Pki::new(), more).await
    }

    async fn with(pki: Pki, more: &[&str]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let node = pki.issue("O=net,OU=node,CN=n1");
        let (cert, key, ca) = (text(&node.cert), text(&node.key), text(&pki.ca()));
        let own = ["--tls.cert", &cert, "--tls.key", &key, "--tls.client_ca", &ca, "--tenant", "net"];
        let tls = ["--dicom.tls_listen", "127.0.0.1:0"];
        let server = Server::start(folder.path(), &[&own[..], &tls[..], more].concat()).await;
        Self { server, pki, folder }
    }

    fn pair(&self, unit: &str, tenant: &str) -> Pair {
        let name = match unit {
            "reader" => "anna",
            "vendor" => "opacity",
            _ => "someone",
        };
        self.pki.issue(&format!("O={tenant},OU={unit},CN={name}"))
    }

    fn client(&self, pair: &Pair) -> Client {
        let files = ClientFiles { ca: self.pki.ca(), cert: pair.cert.clone(), key: pair.key.clone() };
        Client::load(&files).unwrap()
    }

    fn channel(&self, pair: &Pair) -> Channel {
        tls::channel(&self.url(), Some(&self.client(pair))).unwrap()
    }

    fn url(&self) -> String {
        format!("https://{}", self.server.listen)
    }

    /// A command, with a certificate.
    async fn cli(&self, pair: &Pair, arguments: &[&str]) -> Ran {
        let (ca, cert, key) = (text(&self.pki.ca()), text(&pair.cert), text(&pair.key));
        let url = self.url();
        let own = ["--server", &url, "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
        program(isocenter(), [arguments, &own[..]].concat()).await
    }
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The code and the bytes that a method answers; a stream that says nothing for a moment was let through.
async fn call(channel: &Channel, method: &str, message: Bytes) -> (Code, Vec<u8>) {
    let path = format!("/isocenter.v1.{method}").parse().unwrap();
    let mut grpc = Grpc::new(channel.clone());
    grpc.ready().await.unwrap();
    let request = Request::new(tokio_stream::once(message));
    let answered = async {
        let mut answers = grpc.streaming(request, path, Raw).await?.into_inner();
        let first = tokio::time::timeout(Duration::from_secs(2), answers.message()).await;
        first.unwrap_or(Ok(None))
    };
    match answered.await {
        Ok(answer) => (Code::Ok, answer.unwrap_or_default().to_vec()),
        Err(status) => (status.code(), status.message().as_bytes().to_vec()),
    }
}

fn holds(bytes: &[u8], part: &str) -> bool {
    bytes.windows(part.len()).any(|window| window == part.as_bytes())
}

#[tokio::test]
async fn every_method_knows_its_callers_and_their_tenant() {
    let secured = Secured::start(&[]).await;
    let operator = secured.pair("operator", "net");
    secured.cli(&operator, &["site", "add", "north-of-net", "--ae-title", "NORTH"]).await.succeeded();
    let study = Synthetic::new(5).study(StudyKind::CrChest).unwrap();
    let uid = study.study.study_uid.to_string();
    send(&secured, &study.study.instances[0]).await;
    let seen = || async { secured.cli(&operator, &["study", "list", "--json"]).await.stdout.contains(&uid) };
    wait_for("the study to be there", PATIENCE, seen).await;
    let rules = rules(&uid);
    let known: BTreeSet<_> = rules.iter().map(|(method, ..)| (*method).to_owned()).collect();
    // What vendors implement is not served by us.
    let served: BTreeSet<_> = methods().into_iter().filter(|m| !m.starts_with("AiInference/")).collect();
    assert_eq!(served, known, "a method without a rule, or a rule without a method");

    let mut wrong = Vec::new();
    let nobody = secured.channel(&secured.pki.issue("O=net,OU=chief,CN=someone"));
    let units = ["operator", "reader", "vendor", "network", "node"];
    let callers: Vec<_> =
        units.iter().map(|unit| (*unit, secured.channel(&secured.pair(unit, "net")))).collect();
    let stranger = secured.channel(&secured.pair("operator", "other"));
    for (method, message, allowed, trial) in &rules {
        let (code, _) = call(&nobody, method, message.clone()).await;
        if code != Code::Unauthenticated {
            wrong.push(format!("{method} as nobody: {code:?}"));
        }
        for (unit, channel) in &callers {
            let may = allowed.contains(unit);
            if may && *trial == Trial::Refused {
                continue;
            }
            let (code, _) = call(channel, method, message.clone()).await;
            let refused = matches!(code, Code::PermissionDenied | Code::Unauthenticated);
            if refused == may {
                wrong.push(format!("{method} as {unit}: {code:?}"));
            }
        }
        // Another tenant's operator may ask, and learns nothing of this one's.
        if *trial == Trial::All {
            let (code, answer) = call(&stranger, method, message.clone()).await;
            let concerns_all = method.starts_with("Operations/");
            let told = code == Code::Ok && (holds(&answer, "north-of-net") || holds(&answer, &uid));
            if told || (concerns_all && code != Code::PermissionDenied) {
                wrong.push(format!("{method} as another tenant: {code:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    // The search finds what is there.
    let (_, answer) = call(&callers[0].1, "Registry/List", SITES).await;
    assert!(holds(&answer, "north-of-net"));
    let (_, answer) = call(&callers[0].1, "Ingestion/ListStudies", Bytes::new()).await;
    assert!(holds(&answer, &uid));
}

/// Sends one instance as the device NORTH, in plaintext.
async fn send(secured: &Secured, instance: &Instance) {
    let context = ProposedContext {
        sop_class: instance.sop_class_uid.clone(),
        transfer_syntax: instance.transfer_syntax_uid.clone(),
    };
    let (north, ours) = ("NORTH".parse().unwrap(), "ISOCENTER".parse().unwrap());
    let mut scu = Scu::connect(secured.server.dicom, &north, &ours, &[context]).await.unwrap();
    let status = scu.store(Source::Bytes(instance.read().await.unwrap())).await.unwrap();
    assert!(status.is_stored(), "{status}");
    scu.release().await.unwrap();
}

/// What `openssl s_client` gets for a request, with the certificate of `pair`.
async fn openssl(secured: &Secured, pair: Option<&Pair>, more: &str) -> String {
    let shown = pair.map(|pair| format!("-cert {} -key {}", text(&pair.cert), text(&pair.key)));
    let command = format!(
        "printf 'GET /healthz HTTP/1.0\\r\\n\\r\\n' | timeout 20 openssl s_client -quiet -connect {} -CAfile {} {} {more} 2>&1",
        secured.server.listen,
        text(&secured.pki.ca()),
        shown.unwrap_or_default(),
    );
    program("bash", ["-c", &command]).await.stdout
}

#[tokio::test]
async fn openssl_and_grpcio_are_refused_without_a_certificate_to_believe() {
    let (mut pki, stranger) = (Pki::new(), Pki::new());
    let revoked = pki.issue("O=net,OU=operator,CN=revoked");
    let crl = pki.folder().join("crl.pem");
    std::fs::write(&crl, pki.revoke(&[&revoked])).unwrap();
    let secured = Secured::with(pki, &["--tls.crl", &text(&crl)]).await;
    let (pki, good) = (&secured.pki, secured.pair("operator", "net"));
    let bad: [(&str, Option<Pair>); 7] = [
        ("none", None),
        ("revoked", Some(revoked)),
        ("ended", Some(pki.issue_as("O=net,OU=operator,CN=ended", Validity::Ended, Usage::Both))),
        ("later", Some(pki.issue_as("O=net,OU=operator,CN=later", Validity::Later, Usage::Both))),
        ("a server's", Some(pki.issue_as("O=net,OU=operator,CN=server", Validity::Now, Usage::Server))),
        ("self-signed", Some(pki.self_signed("O=net,OU=operator,CN=self"))),
        ("a stranger's", Some(stranger.issue("O=net,OU=operator,CN=stranger"))),
    ];
    for version in ["-tls1_3", "-tls1_2"] {
        let said = openssl(&secured, Some(&good), version).await;
        assert!(said.contains("200 OK"), "{said}");
        for (what, pair) in &bad {
            let said = openssl(&secured, pair.as_ref(), version).await;
            assert!(!said.contains("HTTP/1"), "{what}: {said}");
        }
    }
    for weak in ["-tls1_1", "-tls1_2 -cipher AES128-SHA", "-tls1_2 -cipher ECDHE-ECDSA-AES128-SHA"] {
        let said = openssl(&secured, Some(&good), weak).await;
        assert!(!said.contains("HTTP/1"), "{weak}: {said}");
    }
    let judge = |pair: &Pair| {
        let arguments =
            [secured.server.listen.to_string(), text(&secured.pki.ca()), text(&pair.cert), text(&pair.key)];
        async move { python("call_tls.py", arguments).await.succeeded().trim().to_owned() }
    };
    assert_eq!(judge(&good).await, "OK");
    for (what, pair) in bad.iter().filter_map(|(what, pair)| Some((what, pair.as_ref()?))) {
        assert_eq!(judge(pair).await, "UNAVAILABLE", "{what}");
    }
}

#[tokio::test]
async fn dcmtk_sends_over_tls_and_the_certificate_says_whose_the_images_are() {
    let secured = Secured::start(&[]).await;
    let operator = secured.pair("operator", "net");
    secured.cli(&operator, &["site", "add", "north", "--ae-title", "NORTH"]).await.succeeded();
    let study = Synthetic::new(9).study(StudyKind::CrChest).unwrap().study;
    let file = secured.folder.path().join("image.dcm");
    let bytes = study.instances[0].read().await.unwrap();
    std::fs::write(&file, &bytes).unwrap();
    let address = secured.server.dicom_tls.expect("a second listener");
    let (host, port) = (address.ip().to_string(), address.port().to_string());
    let send = |pair: &Pair| {
        let (key, cert, ca) = (text(&pair.key), text(&pair.cert), text(&secured.pki.ca()));
        let image = text(&file);
        let arguments =
            ["+tls", &key, &cert, "+cf", &ca, "-aet", "NORTH", "-aec", "ISOCENTER", &host, &port, &image];
        let arguments = arguments.map(str::to_owned);
        async move { program("storescu", arguments).await }
    };
    let mine = secured.pki.issue("O=net,OU=network,CN=ct1");
    send(&mine).await.succeeded();
    let seen = || async {
        secured.cli(&operator, &["study", "list", "--json"]).await.stdout.contains(study.study_uid.as_str())
    };
    wait_for("the study to be there", PATIENCE, seen).await;
    let stranger = Pki::new();
    for (what, pair) in [
        ("another tenant's", secured.pki.issue("O=other,OU=network,CN=ct2")),
        ("a reader's", secured.pair("reader", "net")),
        ("a stranger's", stranger.issue("O=net,OU=network,CN=ct3")),
        ("nobody's", secured.pki.self_signed("O=net,OU=network,CN=ct4")),
    ] {
        assert_ne!(send(&pair).await.code, 0, "{what}");
    }
}

#[tokio::test]
async fn floods_and_slow_callers_leave_a_well_behaved_one_alone() {
    let secured = Secured::start(&["--limits.connections_per_peer", "50", "--limits.handshake", "1s"]).await;
    let operator = secured.pair("operator", "net");
    let mut silent = Vec::new();
    for n in 0..400_u32 {
        // Eight addresses of this machine that nobody else uses, each far above its share.
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind(format!("127.0.0.{}:0", 10 + n % 8).parse().unwrap()).unwrap();
        if let Ok(stream) = socket.connect(secured.server.listen).await {
            silent.push(stream);
        }
        if n % 100 == 0 {
            secured.cli(&operator, &["study", "list"]).await.succeeded();
        }
    }
    secured.cli(&operator, &["study", "list"]).await.succeeded();
    let gone = || async { !silent.iter().any(is_open) };
    wait_for("the silent connections to be closed", PATIENCE, gone).await;
}

/// Whether the peer has not closed the connection.
fn is_open(stream: &TcpStream) -> bool {
    let mut byte = [0];
    matches!(stream.try_read(&mut byte), Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
}

#[tokio::test]
async fn a_plaintext_port_that_others_reach_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let ran = crate::harness::exited(folder.path(), &["--listen", "0.0.0.0:0"]).await;
    assert_ne!(ran.code, 0);
    assert!(ran.stderr.contains("tls.cert"), "{}", ran.stderr);
    let half: PathBuf = folder.path().join("nowhere.pem");
    let ran = crate::harness::exited(folder.path(), &["--tls.cert", &text(&half)]).await;
    assert!(ran.stderr.contains("tls.cert"), "{}", ran.stderr);
}

#[tokio::test]
async fn the_guides_commands_make_certificates_that_work() {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/security.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let commands = guide.split("```sh\n").nth(1).unwrap().split("```").next().unwrap();
    let folder = tempfile::tempdir().unwrap();
    let at = |name: &str| text(&folder.path().join(name));
    let script = format!("set -euo pipefail; cd {}; {commands}", folder.path().display());
    program("bash", ["-c", &script]).await.succeeded();
    let (cert, key, ca) = (at("node.pem"), at("node.key"), at("ca.pem"));
    let tls = ["--tls.cert", &cert, "--tls.key", &key, "--tls.client_ca", &ca, "--listen", "0.0.0.0:0"];
    let server = Server::start(folder.path(), &tls).await;
    let url = format!("https://localhost:{}", server.listen.port());
    let (cert, key) = (at("ivan.pem"), at("ivan.key"));
    let shown = ["--server", &url, "--tls-ca", &ca, "--tls-cert", &cert, "--tls-key", &key];
    program(isocenter(), [&["study", "list"][..], &shown].concat()).await.succeeded();
}
